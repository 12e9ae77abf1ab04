# SPDX-License-Identifier: Apache-2.0
"""What the training, export and evaluation scripts of the starter model share.

The catalogue (tools and arguments), the calls it allows, the development data
with its split, and the tokenizer. A *call* is named TOOL, or TOOL.ACTION where
the tool has an `action` argument; a *row* is one utterance with what is known
of the right answer.
"""
import hashlib
import json
import os
import re

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
NOT_FOR_ME = "none"
# What the model says; each sentence is true whatever happened before.
SAY_NOT_FOR_ME = "Not for me."
SAY_NO_TOOLS = "No tools were offered, so nothing was done."
SAY_HELLO = "Hello. I turn short commands into calls of the tools I am offered."
SAY_AFTER_RESULT = "The tool has answered; I have nothing to add."
UTTERANCE_CHARS_MAX = 240  # a longer text is no command; the template cuts it and says so
# What an answer says is copied from the utterance: one so much longer than its prompt is a loop (host/PROTOCOL.md).
MAX_TOKENS_BEYOND_PROMPT = 12
HELDOUT_PERCENT = 15
DEV_PERCENT = 5  # of the rest: for the learning curve and the threshold; not trained on either


def read_json(path):
    with open(path, encoding="utf-8") as f:
        return json.load(f)


def read_lines(path):
    with open(path, encoding="utf-8") as f:
        return [line.strip("\n") for line in f]


class Catalogue:
    def __init__(self, path=os.path.join(HERE, "catalogue.json")):
        self.tools = read_json(path)
        self.args = {}  # tool -> argument names in the order they are emitted, without `action`
        self.calls = []
        for t in self.tools:
            f = t["function"]
            props = f["parameters"]["properties"]
            action = props.get("action")
            names = [p for p in props if p != "action"]
            req = f["parameters"]["required"]
            # llama.cpp's grammar wants required arguments first
            self.args[f["name"]] = [n for n in names if n in req] + [n for n in names if n not in req]
            if action:
                self.calls += [f["name"] + "." + a for a in action["enum"]]
            else:
                self.calls.append(f["name"])
        self.names = list(self.args)

    def head_text(self, call):
        tool, _, action = call.partition(".")
        s = '{"name":"%s","arguments":{' % tool
        return s + '"action":"%s' % action if action else s

    def render(self, call, args):
        """The text of a tool call; args is {name: surface text}."""
        if call == NOT_FOR_ME:
            return SAY_NOT_FOR_ME
        tool, _, action = call.partition(".")
        d = {"action": action} if action else {}
        d.update({a: args[a] for a in self.args[tool] if a in args})
        body = json.dumps({"name": tool, "arguments": d}, ensure_ascii=False, separators=(",", ":"))
        return "<tool_call>" + body + "</tool_call>"


def normalise(text):
    return " ".join(text.lower().split())


def split(text):
    """The part of a row: SHA-256 of the lower-cased text with single spaces, first and second 8 bytes, modulo 100."""
    h = hashlib.sha256(("starter:" + normalise(text)).encode()).digest()
    if int.from_bytes(h[:8], "big") % 100 < HELDOUT_PERCENT:
        return "heldout"
    return "dev" if int.from_bytes(h[8:16], "big") % 100 < DEV_PERCENT else "train"


def routing_dir():
    return os.environ.get("ROUTING_DATA", os.path.join(ROOT, "..", "shared", "data", "routing"))


def labels():
    return read_json(os.path.join(HERE, "labels.json"))["sets"]


def public_intent(name, row):
    """A row's label; SLURP has some without their scenario (`set`, `hue_lightup`)."""
    if name == "snips":
        return row["group"]
    intent = row["intent"]
    if name == "slurp" and ("_" not in intent or intent.startswith("hue_")):
        intent = row["group"] + "_" + intent
    return {"cooking_query": "cooking_recipe"}.get(intent, intent)


def load_public(name):
    path = os.path.join(routing_dir(), name, "dev.jsonl")
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8") as f:
        rows = [json.loads(line) for line in f]
    for r in rows:
        r["label"] = public_intent(name, r)
        r["part"] = split(r["text"])
    return rows


# ---------------------------------------------------------------- tokenizer
# libllama's "rwkv" vocabulary: at each byte the longest token wins. Every word
# piece exists with and without a leading space, so the words of an utterance
# and the same words inside a JSON string are cut alike, and copying an unknown
# name is copying its pieces one by one. Base pieces carry the meaning; the
# capital and the leading space are flags (see train.py).
WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?|\d+|[^\w\s]|_", re.UNICODE)


class Tokenizer:
    CONTROL, USER, NORMAL = 3, 4, 1

    def __init__(self, spec, cat):
        """spec: {"words": [lower-case pieces], "caps": [those with a capitalised twin], "chars": [...]}"""
        self.spec, self.cat = spec, cat
        self.text, self.kind, self.base, self.cap, self.space, self.btype = [], [], [], [], [], []
        self.base_text = []
        self.specials = ["<|end|>", "<|pad|>", "<|user|>", "<|assistant|>", "<|all|>", "<|only|>", "<|but|>",
                         "<|none|>", "<|long|>", "<|result|>"] + ["<|%s|>" % t for t in cat.names]
        for s in self.specials:
            self._add(s, self.CONTROL, self._base(s, 0), 0, 0)
        for s in ["<tool_call>", "</tool_call>"]:
            self._add(s, self.USER, self._base(s, 0), 0, 0)
        json_bits = [SAY_NOT_FOR_ME, '"}}</tool_call>', '}}</tool_call>']
        json_bits += [cat.head_text(c) for c in cat.calls]
        keys = sorted({a for v in cat.args.values() for a in v})
        json_bits += ['"%s":"' % k for k in keys] + ['","%s":"' % k for k in keys]
        for s in json_bits:
            self._add(s, self.NORMAL, self._base(s, 0), 0, 0)
        for b in range(256):
            s = bytes([b])
            if chr(b) in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ" or (chr(b) in spec["chars"] and b < 128):
                continue
            self._add(s, self.NORMAL, self._base("byte%02x" % b, 0), 0, 0)
        caps = set(spec["caps"])
        for c in spec["chars"]:
            b = self._base(c, 1)
            self._add(c, self.NORMAL, b, 0, 0)
            self._add(" " + c, self.NORMAL, b, 0, 1)
        for w in spec["words"]:
            both = w in caps
            b = self._base(w, 2 if both else 1)
            for cap in ([0, 1] if both else [0]):
                s = w[0].upper() + w[1:] if cap else w
                self._add(s, self.NORMAL, b, cap, 0)
                self._add(" " + s, self.NORMAL, b, cap, 1)
        self.id = {}
        for i, t in enumerate(self.text):
            if t in self.id:
                raise ValueError("token twice: %r" % t)
            self.id[t] = i
        self.match = {t: i for t, i in self.id.items() if self.kind[i] == self.NORMAL or self.kind[i] == self.USER}
        self.longest = max(len(t) for t in self.match)
        self.end = self.id[b"<|end|>"]
        self.yes, self.no = self.id[b"<tool_call>"], self.id[SAY_NOT_FOR_ME.encode()]
        self.pad = self.id[b"<|pad|>"]
        self.n = len(self.text)

    def _base(self, text, btype):
        self.base_text.append(text)
        self.btype.append(btype)
        return len(self.base_text) - 1

    def _add(self, s, kind, base, cap, space):
        self.text.append(s if isinstance(s, bytes) else s.encode())
        self.kind.append(kind)
        self.base.append(base)
        self.cap.append(cap)
        self.space.append(space)

    def tool_call(self, ids):
        """The tool of an answer's first tokens, None where it declines."""
        if ids and self.kind[ids[0]] == self.CONTROL:
            ids = ids[1:]
        return self.text[ids[1]].split(b'"')[3].decode() if len(ids) > 1 and ids[0] == self.yes else None

    def sp(self, name):
        return self.id[("<|%s|>" % name).encode()]

    def encode(self, text):
        """Plain text, longest match first."""
        data = text.encode() if isinstance(text, str) else text
        out, i, n = [], 0, len(data)
        while i < n:
            for j in range(min(n, i + self.longest), i, -1):
                t = self.match.get(data[i:j])
                if t is not None:
                    out.append(t)
                    i = j
                    break
        return out

    def encode_word_cached(self, text, cache={}):
        out = []
        for part in re.findall(r" ?[^ ]+| +", text):
            t = cache.get(part)
            if t is None:
                t = cache[part] = self.encode(part)
            out += t
        return out

    def decode(self, ids):
        return b"".join(self.text[i] for i in ids if self.kind[i] != self.CONTROL).decode("utf-8", "replace")

    def escaped(self, i):
        """The token as an rwkv vocabulary writes it."""
        out = ""
        data = self.text[i]
        try:
            s = data.decode()
            if all(ord(c) >= 32 and ord(c) != 127 for c in s):
                return s.replace("\\", "\\\\")
        except UnicodeDecodeError:
            pass
        for b in data:
            out += "\\x%02x" % b if b < 32 or b >= 127 or b == 92 else chr(b)
        return out

    def prompt(self, text, offer):
        """As the chat template renders it. offer: "all", None (no tools) or a set of tool names."""
        names = self.cat.names
        if offer == "all" or (offer is not None and len(offer) == len(names)):
            p = [self.sp("all")]
        elif offer is None:
            p = [self.sp("none")]
        elif len(offer) * 2 > len(names):
            # Each listed tool is followed by what to say when it is wanted: the model names the tool to itself (see
            # answer) and then only has to copy.
            p = [self.sp("but")] + [t for n in names if n not in offer for t in (self.sp(n), self.no)]
        else:
            p = [self.sp("only")] + [t for n in names if n in offer for t in (self.sp(n), self.yes)]
        p.append(self.sp("user"))
        text = text.strip()
        if len(text) > UTTERANCE_CHARS_MAX:
            p.append(self.sp("long"))
            text = text[:UTTERANCE_CHARS_MAX]
        p += self.encode_word_cached(" " + text)
        p.append(self.sp("assistant"))
        return p

    def answer(self, call, args, offer="all"):
        """Where only a part is offered, a call begins with the tool's own token, which no text shows."""
        if offer != "all" and call != NOT_FOR_ME:
            tool = call.partition(".")[0]
            return [self.sp(tool)] + self.answer(call if tool in offer else NOT_FOR_ME, args)
        if call == NOT_FOR_ME:
            return [self.id[SAY_NOT_FOR_ME.encode()], self.end]
        tool, _, action = call.partition(".")
        out = [self.id[b"<tool_call>"], self.id[self.cat.head_text(call).encode()]]
        open_string = bool(action)
        for a in self.cat.args[tool]:
            if a not in args:
                continue
            key = ('","%s":"' if open_string else '"%s":"') % a
            out.append(self.id[key.encode()])
            out += self.encode_word_cached(json.dumps(args[a], ensure_ascii=False)[1:-1])
            open_string = True
        out.append(self.id[b'"}}</tool_call>' if open_string else b"}}</tool_call>"])
        out.append(self.end)
        return out
