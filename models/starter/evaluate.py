# SPDX-License-Identifier: Apache-2.0
"""Drives a GGUF through libllama and scores it on rows of the public sets; used while training, and for the table.

    evaluate.py --gguf FILE --lib DIR [--part heldout|dev|train] [--limit N] [--sets clinc_oos,snips,slurp] [--jsonl FILE...]

Only greedy decoding, one request at a time, the same prompt as the chat
template renders. `tandem eval` measures the whole path; this one needs no daemon.
"""
import argparse
import ctypes as C
import json
import math
import random
import time

import numpy as np

from common import Catalogue, MAX_TOKENS_BEYOND_PROMPT, NOT_FOR_ME, SAY_NOT_FOR_ME, Tokenizer, labels
from data import own_row, public_rows
from generate import Generator


class Llama:
    """libllama by ctypes: load, tokenize, greedy decoding with probabilities."""

    class Batch(C.Structure):
        _fields_ = [("n_tokens", C.c_int32), ("token", C.POINTER(C.c_int32)), ("embd", C.POINTER(C.c_float)),
                    ("pos", C.POINTER(C.c_int32)), ("n_seq_id", C.POINTER(C.c_int32)),
                    ("seq_id", C.POINTER(C.POINTER(C.c_int32))), ("logits", C.POINTER(C.c_int8))]

    def __init__(self, lib_dir, shim, gguf, threads=1):
        self.s = s = C.CDLL(shim, mode=C.RTLD_GLOBAL)
        s.shim_load.restype = C.c_int
        s.shim_load.argtypes = [C.c_char_p, C.c_char_p, C.c_int]
        if s.shim_load(lib_dir.encode(), gguf.encode(), threads):
            raise OSError("cannot load " + gguf)
        s.shim_n_vocab.restype = C.c_int
        self.n_vocab = s.shim_n_vocab()
        s.shim_run.restype = C.c_int
        s.shim_run.argtypes = [C.POINTER(C.c_int32), C.c_int, C.c_int, C.POINTER(C.c_int32), C.POINTER(C.c_float),
                               C.c_int, C.c_int]
        s.shim_tokenize.restype = C.c_int
        s.shim_tokenize.argtypes = [C.c_char_p, C.c_int, C.POINTER(C.c_int32), C.c_int]

    def tokenize(self, text):
        b = text.encode()
        buf = (C.c_int32 * (len(b) + 8))()
        n = self.s.shim_tokenize(b, len(b), buf, len(b) + 8)
        return list(buf[:n])

    def run(self, prompt, stop, max_new):
        p = (C.c_int32 * len(prompt))(*prompt)
        out = (C.c_int32 * max_new)()
        prob = (C.c_float * (max_new * 2))()
        n = self.s.shim_run(p, len(prompt), max_new, out, prob, stop, self.n_vocab)
        return list(out[:n]), [prob[i] for i in range(n)]


def call_of(text):
    """(call, arguments) of an answer, or (None, {}) when it is neither a call nor a decline."""
    if text == SAY_NOT_FOR_ME:
        return NOT_FOR_ME, {}
    if text.startswith("<tool_call>") and text.endswith("</tool_call>"):
        try:
            d = json.loads(text[11:-12])
            args = d["arguments"]
            action = args.pop("action", None)
            return d["name"] + ("." + action if action else ""), args
        except (ValueError, KeyError):
            pass
    return None, {}


def auroc(pos, neg):
    x = np.concatenate((pos, neg))
    order = x.argsort(kind="mergesort")
    rank = np.empty(len(x))
    xs = x[order]
    i = 0
    while i < len(x):
        j = i
        while j + 1 < len(x) and xs[j + 1] == xs[i]:
            j += 1
        rank[order[i:j + 1]] = (i + j) / 2 + 1
        i = j + 1
    return (rank[:len(pos)].sum() - len(pos) * (len(pos) + 1) / 2) / (len(pos) * len(neg))


def ece(conf, right, bins=15):
    conf, right = np.array(conf), np.array(right, dtype=float)
    e = 0.0
    for b in range(bins):
        m = (conf > b / bins) & (conf <= (b + 1) / bins)
        if m.any():
            e += m.mean() * abs(conf[m].mean() - right[m].mean())
    return e


def confidences(prob, declined):
    """How sure the model is that the utterance is in scope, by the ways of reckoning that the router offers."""
    prob = prob or [0.0]  # an empty answer
    c = {"first": prob[0], "min": min(prob), "mean": math.exp(sum(math.log(max(p, 1e-9)) for p in prob) / len(prob)),
         "two": prob[0] * (prob[1] if len(prob) > 1 and not declined else 1)}
    return {k: 1 - v if declined else v for k, v in c.items()}


def slots_of(name, lab, call, args):
    tool = call.partition(".")[0]
    out = []
    for a, v in args.items():
        slot = lab["slots"].get(tool + "." + a)
        if slot:
            out.append((slot, v))
    return out


def score(name, rows, answers, verbose=0):
    """answers: (call, args, confidences in scope, ms, tokens)"""
    lab = labels()[name]
    good = n = tp = fp = fn = exact = oos_ok = n_oos = 0
    conf_in, conf_out, conf, right, wrong = [], [], [], [], []
    for r, (call, args, c, _, _) in zip(rows, answers):
        inscope = r.label != "oos"
        (conf_in if inscope else conf_out).append(c)
        want = lab.get("same_as", {}).get(r.label, r.label)
        got = lab["not_for_me"] if call == NOT_FOR_ME else lab["calls"].get(call or "", "?")
        ok = got == want
        if not inscope:
            n_oos += 1
            oos_ok += call == NOT_FOR_ME
            continue
        n += 1
        good += ok
        conf.append(c["two"] if call != NOT_FOR_ME else 1 - c["two"])
        right.append(ok)
        if not ok:
            wrong.append((r.label, got, r.text, round(c["two"], 3)))
        if name == "snips":
            want_s = sorted({(s["slot"], s["text"]) for s in r.slots})
            got_s = sorted(set(slots_of(name, lab, call or "", args)))
            hit = len(set(want_s) & set(got_s))
            tp += hit
            fp += len(got_s) - hit
            fn += len(want_s) - hit
            exact += ok and want_s == got_s
    res = {"rows": n, "intent": good / max(n, 1), "ece": ece(conf, right)}
    if name == "snips":
        res.update({"slot_f1": 2 * tp / max(1, 2 * tp + fp + fn), "exact": exact / n})
    if conf_out:
        for k in conf_in[0]:
            res["auroc_" + k] = float(auroc(np.array([c[k] for c in conf_in]), np.array([c[k] for c in conf_out])))
        res.update({"oos_declined": oos_ok / n_oos,
                    "in_scope_declined": sum(1 for r, a in zip(rows, answers)
                                             if r.label != "oos" and a[0] == NOT_FOR_ME) / n})
    if name == "slurp":
        open_ = {"qa_factoid", "general_quirky"}
        keep = [i for i, r in enumerate(rows) if r.label not in open_]
        ok = sum(lab["calls"].get(answers[i][0] or "", "?") == rows[i].label for i in keep)
        res["intent_without_open"] = ok / len(keep)
    if verbose:
        for w in wrong[:verbose]:
            print("   ", w)
    return res


def offers(cat, tk, ll, n):
    """With some tools offered: is a wanted tool called when it is among them, and declined when it is not?"""
    gen, rng = Generator(cat), random.Random(4)
    for size in (1, 3, 8, 20, 40, len(cat.names) - 1):
        called = declined = 0
        for _ in range(n):
            call = rng.choice(cat.calls)
            tool = call.partition(".")[0]
            text = own_row(gen, call, rng).text
            rest = [t for t in cat.names if t != tool]
            out, _ = ll.run(tk.prompt(text, set(rng.sample(rest, size - 1)) | {tool}), tk.end, 3)
            called += tk.tool_call(out) == tool
            out, _ = ll.run(tk.prompt(text, set(rng.sample(rest, size))), tk.end, 3)
            declined += tk.tool_call(out) is None
        print("%2d tools offered: wanted and offered, called %.1f %%; wanted, not offered, declined %.1f %%" % (
            size, 100 * called / n, 100 * declined / n))


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--gguf", required=True)
    ap.add_argument("--vocab", required=True)
    ap.add_argument("--lib", required=True)
    ap.add_argument("--shim", required=True)
    ap.add_argument("--part", default="heldout")
    ap.add_argument("--limit", type=int, default=0)
    ap.add_argument("--sets", default="clinc_oos,snips,slurp")
    ap.add_argument("--verbose", type=int, default=0)
    ap.add_argument("--offers", type=int, default=0, help="commands to try with parts of the catalogue offered")
    ap.add_argument("--say", nargs="*", default=[])
    a = ap.parse_args()
    cat = Catalogue()
    tk = Tokenizer(json.load(open(a.vocab, encoding="utf-8")), cat)
    t = time.time()
    ll = Llama(a.lib, a.shim, a.gguf)
    print("loaded in %.0f ms, %d tokens" % ((time.time() - t) * 1e3, ll.n_vocab))

    def answer(text, offer="all"):
        t = time.perf_counter()
        prompt = tk.prompt(text, offer)
        out, prob = ll.run(prompt, tk.end, len(prompt) + MAX_TOKENS_BEYOND_PROMPT)
        ms = (time.perf_counter() - t) * 1e3
        call, args = call_of(tk.decode(out))
        return call, args, confidences(prob, call == NOT_FOR_ME), ms, len(out)
    if a.offers:
        offers(cat, tk, ll, a.offers)
    for s in a.say:
        call, args, c, ms, n = answer(s)
        print("%-50s %s %s  %.3f  %.1f ms %d tokens" % (s, call, json.dumps(args, ensure_ascii=False), c["two"], ms, n))
    ms_all, tok = [], []
    for name in a.sets.split(","):
        if not name:
            continue
        rows = public_rows(cat, name, a.part)
        random.Random(5).shuffle(rows)
        if a.limit:
            rows = rows[:a.limit]
        if not rows:
            continue
        answers = [answer(r.text) for r in rows]
        ms_all += [x[3] for x in answers]
        tok += [x[4] for x in answers]
        res = score(name, rows, answers, a.verbose)
        print(name, json.dumps({k: round(v, 4) for k, v in res.items()}), "without an end", sum(x[0] is None for x in answers))
    if ms_all:
        ms_all.sort()
        print("ms p50 %.1f p99 %.1f, tokens per answer mean %.1f p99 %d" % (
            ms_all[len(ms_all) // 2], ms_all[int(len(ms_all) * .99)], sum(tok) / len(tok), sorted(tok)[int(len(tok) * .99)]))


if __name__ == "__main__":
    main()
