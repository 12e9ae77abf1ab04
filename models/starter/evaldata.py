# SPDX-License-Identifier: Apache-2.0
"""Writes the held-out part of the public sets as files for `tandem eval`; they stay out of the repository.

    evaldata.py [--out build/eval] [--part heldout|dev|train] [--own N]

One line per utterance: {"id","text","intent","slots"}; intent and slots (name -> text, or a list where a name repeats)
are the set's own, to be compared through labels.json. --own N writes N utterances of the generator instead, in the
catalogue's names.
"""
import argparse
import json
import os
import random

from common import Catalogue, ROOT, load_public
from data import Augment, own_row
from generate import Generator


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--out", default=os.path.join(ROOT, "build", "eval"))
    ap.add_argument("--part", choices=("heldout", "dev", "train"), default="heldout")
    ap.add_argument("--own", type=int, default=0)
    ap.add_argument("--seed", type=int, default=99)
    a = ap.parse_args()
    os.makedirs(a.out, exist_ok=True)
    if a.own:
        cat = Catalogue()
        gen = Generator(cat)
        rng = random.Random(a.seed)
        change = Augment([], ["word"], rng)
        calls = list(gen.rules)
        rng.shuffle(calls)
        with open(os.path.join(a.out, "own.jsonl"), "w", encoding="utf-8") as f:
            for i in range(a.own):
                row = own_row(gen, calls[i % len(calls)], rng)
                text, args = change(row, swap=0, pseudo=0, noise=0)
                f.write(json.dumps({"id": "own-%d" % i, "text": text, "intent": row.call, "slots": args},
                                   ensure_ascii=False) + "\n")
        return
    for name in ("clinc_oos", "snips", "slurp"):
        rows = [r for r in load_public(name) if r["part"] == a.part]
        if not rows:
            continue
        path = os.path.join(a.out, name + ".jsonl")
        with open(path, "w", encoding="utf-8") as f:
            for r in rows:
                slots = {}
                for s in r.get("slots", []):
                    if s["slot"] in slots:
                        old = slots[s["slot"]]
                        slots[s["slot"]] = (old if isinstance(old, list) else [old]) + [s["text"]]
                    else:
                        slots[s["slot"]] = s["text"]
                f.write(json.dumps({"id": r["id"], "text": r["text"], "intent": r["label"], "slots": slots},
                                   ensure_ascii=False) + "\n")
        print("%s: %d rows" % (path, len(rows)))


if __name__ == "__main__":
    main()
