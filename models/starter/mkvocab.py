# SPDX-License-Identifier: Apache-2.0
"""Chooses the tokenizer's pieces from the generator and, where present, the training part of the public sets.

    mkvocab.py OUT.json
"""
import collections
import json
import random
import sys

from common import Catalogue, NOT_FOR_ME, WORD
from data import own_row, public_rows
from generate import Generator

WORDS_MAX = 5200
PIECES_MAX = 900


def main():
    cat = Catalogue()
    gen = Generator(cat)
    rng = random.Random(7)
    count, capital = collections.Counter(), collections.Counter()
    chars = collections.Counter()

    def see(text, weight):
        for w in WORD.findall(text):
            if w[0].isalpha():
                low = w[0].lower() + w[1:]
                if low == low.lower():
                    count[low] += weight
                    if low != w:
                        capital[low] += weight
                else:
                    count[low.lower()] += 0
            elif w.isdigit():
                if len(w) <= 2:
                    count[w] += weight
            for c in w:
                if not c.isascii() or not c.isalnum():
                    chars[c] += weight

    calls = list(gen.rules)
    for _ in range(130):
        for call in calls:
            see(own_row(gen, call, rng).text, 1)
    for _ in range(6000):
        see(own_row(gen, NOT_FOR_ME, rng).text, 1)
    for name in ("clinc_oos", "snips", "slurp"):
        for r in public_rows(cat, name, "train"):
            see(r.text, 3)
    words = [w for w, n in count.most_common() if n >= 5 and len(w) > 1][:WORDS_MAX]
    kept = set(words)
    # pieces for the words left out: frequent letter groups
    groups = collections.Counter()
    for w, n in count.items():
        if w.isalpha() and w.isascii():
            for k in (2, 3, 4):
                for i in range(len(w) - k + 1):
                    groups[w[i:i + k]] += (1 if w in kept else 3) * (k - 1)
    pieces = [g for g, _ in groups.most_common(PIECES_MAX * 2) if g not in kept][:PIECES_MAX]
    numbers = [str(i) for i in range(10, 100) if str(i) not in kept]
    letters = list("abcdefghijklmnopqrstuvwxyz")
    alpha = [w for w in words if w[0].isalpha()]
    caps = letters + [w for w in alpha if capital[w] or count[w] >= 40] + [g for g in pieces if len(g) <= 3]
    accents = [c for c, n in chars.items() if not c.isascii() and c.isalpha() and n >= 4 and c == c.lower()]
    punct = list(".,?!'\"-:;()&%$#@/+*=_<>[]{}~^|") + list("0123456789") + ["€", "£", "°", "’"]
    spec = {"words": letters + words + pieces + numbers, "caps": caps, "chars": punct + sorted(accents)}
    json.dump(spec, open(sys.argv[1], "w", encoding="utf-8"), ensure_ascii=False)
    print("words", len(words), "pieces", len(pieces), "caps", len(caps), "accents", len(accents))


if __name__ == "__main__":
    main()
