#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Judges the bodies and frames that test programs made by OpenAI's own schemas, where they lie beside the checkout.

usage: check_schema.py SCHEMA_DIR TEST_PROGRAM…     exit status 77: the schemas are not there
Knows the keywords those files use, no more, and says so if it meets another.
"""
import json, os, subprocess, sys, tempfile

schema_dir, *programs = sys.argv[1:]
schemas = {}
for name in ("openai-chat.json", "openai-requests.json"):
    path = os.path.join(schema_dir, name)
    if not os.path.exists(path):
        print("no", path, "- skipped")
        sys.exit(77)
    schemas.update(json.load(open(path))["$defs"])
KNOWN = {"$ref", "type", "properties", "required", "enum", "anyOf", "oneOf", "allOf", "items", "format", "minimum",
         "maximum", "minItems", "maxItems", "additionalProperties", "maxLength", "description"}
TYPES = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}


def has_type(v, t):
    if t in ("number", "integer"):
        return not isinstance(v, bool) and (isinstance(v, int) or (t == "number" and isinstance(v, float)))
    return isinstance(v, TYPES[t])


def faults(v, s, at):
    unknown = set(s) - KNOWN
    if unknown:
        raise SystemExit(f"keyword not understood: {unknown}")
    if "$ref" in s:
        return faults(v, schemas[s["$ref"].rsplit("/", 1)[1]], at)
    found = []
    types = s.get("type")
    if types and not any(has_type(v, t) for t in (types if isinstance(types, list) else [types])):
        return [f"{at}: {v!r} is no {types}"]
    if "enum" in s and v not in s["enum"]:
        found.append(f"{at}: {v!r} is none of {s['enum']}")
    for kind, enough in (("anyOf", lambda n: n >= 1), ("oneOf", lambda n: n == 1)):
        if kind in s:
            tries = [faults(v, sub, at) for sub in s[kind]]
            if not enough(sum(not t for t in tries)):
                found.append(f"{at}: {kind} fails: {tries}")
    for sub in s.get("allOf", []):
        found += faults(v, sub, at)
    if isinstance(v, dict):
        found += [f"{at}: {k} is missing" for k in s.get("required", []) if k not in v]
        extra = s.get("additionalProperties", True)
        for k, item in v.items():
            if k in s.get("properties", {}):
                found += faults(item, s["properties"][k], f"{at}.{k}")
            elif extra is False:
                found.append(f"{at}: {k} is not allowed")
            elif isinstance(extra, dict):
                found += faults(item, extra, f"{at}.{k}")
    if isinstance(v, list):
        if "items" in s:
            for i, item in enumerate(v):
                found += faults(item, s["items"], f"{at}[{i}]")
        if not s.get("minItems", 0) <= len(v) <= s.get("maxItems", len(v)):
            found.append(f"{at}: {len(v)} items")
    if has_type(v, "number") and not s.get("minimum", v) <= v <= s.get("maximum", v):
        found.append(f"{at}: {v} is out of range")
    return found


with tempfile.TemporaryDirectory() as d:
    path = os.path.join(d, "dump")
    for program in programs:
        subprocess.run([program], env=dict(os.environ, TANDEM_WIRE_DUMP=path), check=True, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)
    bad = total = 0
    for line in open(path, encoding="utf-8"):
        root, text = line.rstrip("\n").split("\t", 1)
        total += 1
        for fault in faults(json.loads(text), schemas[root], root):
            bad += 1
            print(fault, "\n   ", text)
    print(f"{total} documents, {bad} faults")
    sys.exit(1 if bad or total < 50 else 0)
