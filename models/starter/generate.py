# SPDX-License-Identifier: Apache-2.0
"""Makes commands and open questions from grammar.txt and slots.txt.

    generate.py [--seed N] [--count N]     prints JSON lines {"text","intent","slots"}

A pattern is text with `[a|b|]` for a choice, `{arg:list}` for a value of a slot
list that becomes the call's argument, and `{:list}` for a value that does not.
Lists may use patterns themselves. `@call` opens the patterns of one call,
`@none` those of what the model must decline.
"""
import argparse
import json
import os
import random
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from common import Catalogue, HERE, NOT_FOR_ME, read_lines


def parse_pattern(s):
    """A list of items: str, ("alt", [pattern...]) or ("slot", arg, list)."""
    def seq(i, stop):
        items, buf = [], ""
        while i < len(s):
            c = s[i]
            if c in stop:
                break
            if c == "[":
                alts = []
                i += 1
                while True:
                    sub, i = seq(i, "|]")
                    alts.append(sub)
                    if s[i] == "]":
                        break
                    i += 1
                if buf:
                    items.append(buf)
                    buf = ""
                items.append(("alt", alts))
            elif c == "{":
                j = s.index("}", i)
                arg, name = s[i + 1:j].split(":")
                if buf:
                    items.append(buf)
                    buf = ""
                items.append(("slot", arg, name))
                i = j
            else:
                buf += c
            i += 1
        if buf:
            items.append(buf)
        return items, i
    items, end = seq(0, "")
    if end != len(s):
        raise ValueError("unbalanced pattern: " + s)
    return items


def variants(items):
    n = 1
    for it in items:
        if it[0] == "alt" and not isinstance(it, str):
            n *= sum(variants(a) for a in it[1])
        elif not isinstance(it, str):
            n *= 4
        if n > 400:
            return 400
    return n


class Generator:
    def __init__(self, cat, grammar="grammar.txt", slots="slots.txt"):
        self.cat = cat
        self.lists = {}
        self.rules = {}  # call -> list of (weight, pattern)
        name = None
        for line in read_lines(os.path.join(HERE, slots)):
            if not line or line.startswith("#"):
                continue
            if line.startswith("@"):
                name = line[1:].strip()
                self.lists[name] = []
            else:
                self.lists[name] += [parse_pattern(v) for v in line.split(" / ") if v]
        for line in read_lines(os.path.join(HERE, grammar)):
            if not line or line.startswith("#"):
                continue
            if line.startswith("@"):
                name = line[1:]
                if name != NOT_FOR_ME and name not in cat.calls:
                    raise ValueError("no such call: " + name)
                self.rules.setdefault(name, [])
            else:
                p = parse_pattern(line)
                self._check(name, p, line)
                self.rules[name].append((variants(p) ** 0.3, p))
        self.cum = {}
        for k, v in self.rules.items():
            self.cum[k] = ([w for w, _ in v], [p for _, p in v])
        missing = [c for c in cat.calls if c not in self.rules]
        if missing:
            raise ValueError("calls without a pattern: " + ", ".join(missing))

    def _check(self, call, items, line):
        for it in items:
            if isinstance(it, str):
                continue
            if it[0] == "alt":
                for a in it[1]:
                    self._check(call, a, line)
            else:
                if it[2] not in self.lists:
                    raise ValueError("no slot list %s in: %s" % (it[2], line))
                if it[1] and it[1] not in self.cat.args[call.partition(".")[0]]:
                    raise ValueError("no argument %s in: %s" % (it[1], line))

    def _expand(self, items, rng):
        out = []
        for it in items:
            if isinstance(it, str):
                out.append((it, None))
            elif it[0] == "alt":
                out += self._expand(rng.choice(it[1]), rng)
            else:
                v = "".join(t for t, _ in self._expand(rng.choice(self.lists[it[2]]), rng))
                out.append((v, it[1] or None))
        return out

    def sample(self, call, rng):
        """(text, {arg: (start, end)}) of one utterance; the first value wins where an argument repeats."""
        weights, pats = self.cum[call]
        parts = self._expand(rng.choices(pats, weights)[0], rng)
        text, spans = "", {}
        for t, arg in parts:
            if text.endswith(" ") or not text:
                t = t.lstrip(" ")
            if t.startswith(" ") and not t.strip():
                t = " "
            if arg and arg not in spans:
                spans[arg] = (len(text), len(text) + len(t))
            text += t
        end = len(text.rstrip())
        return text[:end], spans


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--count", type=int, default=100)
    ap.add_argument("--call", default=None)
    a = ap.parse_args()
    cat = Catalogue()
    gen = Generator(cat)
    rng = random.Random(a.seed)
    calls = [a.call] if a.call else list(gen.rules)
    for i in range(a.count):
        call = calls[i % len(calls)]
        text, spans = gen.sample(call, rng)
        print(json.dumps({"text": text, "intent": call, "slots": {k: text[s:e] for k, (s, e) in spans.items()}},
                         ensure_ascii=False))


if __name__ == "__main__":
    main()
