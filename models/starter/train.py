# SPDX-License-Identifier: Apache-2.0
"""Trains the starter model on a CPU.

    train.py --vocab VOCAB.json --out DIR [--minutes M | --examples N] [--seed S]

A llama-shaped decoder. The prompt is the utterance, the answer the call (see
common.py). Two things are particular:
- Embeddings are composed: a base piece (with the letter groups it is made of,
  so that related words start close), plus one vector for "capitalised" and one
  for "after a space". The softmax is exact over all tokens, yet costs only one
  column per base piece, because the flags add to the logit. Exported, it is an
  ordinary tied embedding matrix.
- The learning rate falls to zero over the time that was given, not over a
  fixed number of steps, so the same recipe fits a slow machine.
"""
import argparse
import collections
import json
import math
import os
import random
import sys
import time

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

from common import Catalogue, NOT_FOR_ME, SAY_AFTER_RESULT, SAY_HELLO, SAY_NO_TOOLS, Tokenizer
from data import Augment, Row, own_row, public_rows
from generate import Generator

EMBEDDING = 4.0
SOURCES = ("clinc_oos", "snips", "slurp", "own")
CONFIG = {"dim": 256, "layers": 4, "heads": 4, "ffn": 640, "rope_base": 10000.0, "eps": 1e-5}


def letter_groups(tk):
    """For each base piece the ids of its letter groups (3 to 5 letters of "<word>"), only groups seen twice."""
    seen = collections.Counter()
    per = []
    for text in tk.base_text:
        g = []
        if text.isalpha() and text.isascii() and len(text) > 2:
            w = "<" + text + ">"
            g = [w[i:i + k] for k in (3, 4, 5) for i in range(len(w) - k + 1)]
        per.append(g)
        seen.update(set(g))
    ids = {g: i for i, g in enumerate(sorted(g for g, n in seen.items() if n > 1))}
    flat, offsets = [], []
    for g in per:
        offsets.append(len(flat))
        flat += [ids[x] for x in g if x in ids]
    return torch.tensor(flat), torch.tensor(offsets), len(ids)


class Model(nn.Module):
    def __init__(self, tk, cfg):
        super().__init__()
        self.cfg, d = cfg, cfg["dim"]
        nb = len(tk.base_text)
        self.register_buffer("base", torch.tensor(tk.base), persistent=False)
        self.register_buffer("cap", torch.tensor(tk.cap, dtype=torch.float32), persistent=False)
        self.register_buffer("space", torch.tensor(tk.space, dtype=torch.float32), persistent=False)
        self.register_buffer("btype", torch.tensor(tk.btype), persistent=False)
        flat, off, ng = letter_groups(tk)
        self.register_buffer("g_flat", flat, persistent=False)
        self.register_buffer("g_off", off, persistent=False)
        # Large embeddings, a small output norm: what a token is must outweigh what the first steps do to all tokens
        e = EMBEDDING * d ** -0.5
        self.emb = nn.Parameter(torch.randn(nb, d) * e)
        self.groups = nn.Parameter(torch.randn(ng, d) * e)
        self.flags = nn.Parameter(torch.randn(2, d) * e)
        self.bias = nn.Parameter(torch.zeros(d))  # in every row: the softmax does not see it, the layers do
        L, f = cfg["layers"], cfg["ffn"]

        def w(o, i, scale=1.0):
            return nn.Parameter(torch.randn(o, i) * (scale * i ** -0.5))
        out_scale = 0.1 * (2 * L) ** -0.5
        self.qkv = nn.ParameterList([w(3 * d, d) for _ in range(L)])
        self.out = nn.ParameterList([w(d, d, out_scale) for _ in range(L)])
        self.gate_up = nn.ParameterList([w(2 * f, d) for _ in range(L)])
        self.down = nn.ParameterList([w(d, f, out_scale) for _ in range(L)])
        self.norm1 = nn.ParameterList([nn.Parameter(torch.ones(d)) for _ in range(L)])
        self.norm2 = nn.ParameterList([nn.Parameter(torch.ones(d)) for _ in range(L)])
        self.norm = nn.Parameter(torch.ones(d) / EMBEDDING)
        hd = d // cfg["heads"]
        inv = cfg["rope_base"] ** (-torch.arange(0, hd, 2).float() / hd)
        ang = torch.arange(1024).float()[:, None] * inv[None]
        self.register_buffer("cos", ang.cos(), persistent=False)
        self.register_buffer("sin", ang.sin(), persistent=False)
        self.drop = 0.0
        self.start_copying()

    @torch.no_grad()
    def start_copying(self):
        """Starts the first two layers as a copier, which training from noise takes thousands of steps to find.

        Layer 0, head 0 looks at the token before (rotary phases peak there) and notes it in a subspace; layer 1,
        heads 0 and 1 look where that note equals the current token, and carry what stands there to the output.
        Everything is trained on from here.
        """
        cfg, d = self.cfg, self.cfg["dim"]
        hd = d // cfg["heads"]
        theta = cfg["rope_base"] ** (-torch.arange(0, hd, 2).float() / hd)
        self.bias[0] = EMBEDDING
        q, k, v = self.qkv[0][:hd], self.qkv[0][d:d + hd], self.qkv[0][2 * d:2 * d + hd]
        q.zero_()
        k.zero_()
        for i in range(6):
            q[2 * i, 0], q[2 * i + 1, 0] = math.cos(theta[i]), -math.sin(theta[i])
            k[2 * i, 0] = 1.0
        q[hd - 2, 0], k[hd - 2, 0] = -2.3, 2.3  # takes away what all distances share
        basis = torch.linalg.qr(torch.randn(d, d))[0]
        basis[:, 0] = 0  # the constant is no content
        read, note = basis[:hd], basis[hd:2 * hd]
        v.copy_(read)
        self.out[0][:, :hd] = 0.25 * EMBEDDING * note.t()
        slow = [r for i in range(hd // 2) if theta[i] < 0.04 for r in (2 * i, 2 * i + 1)]
        for h in (0, 1):
            rows = slice(h * hd, (h + 1) * hd)
            q, k = self.qkv[1][:d][rows], self.qkv[1][d:2 * d][rows]
            q.zero_()
            k.zero_()
            q[slow], k[slow] = 1.6 * read[slow], 1.6 * note[slow]
            carry = basis[(2 + h) * hd:(3 + h) * hd]
            self.qkv[1][2 * d:][rows] = carry
            self.out[1][:, rows] = 0.5 * EMBEDDING * carry.t()

    def table(self):
        """One row per base piece."""
        t = self.emb + 0.7 * F.embedding_bag(self.g_flat, self.groups, self.g_off, mode="mean")
        return t - t.mean(0)  # the softmax does not see a common part

    def full_table(self):
        """One row per token, as exported."""
        return self.bias + self.table()[self.base] + self.cap[:, None] * self.flags[0] + self.space[:, None] * self.flags[1]

    def rms(self, x, w):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.cfg["eps"]) * w

    def dropout(self, x):
        return F.dropout(x, self.drop, True) if self.drop and self.training else x

    def hidden(self, table, ids):
        B, T = ids.shape
        H, d = self.cfg["heads"], self.cfg["dim"]
        hd = d // H
        x = self.bias + table[self.base[ids]] + self.cap[ids].unsqueeze(-1) * self.flags[0] \
            + self.space[ids].unsqueeze(-1) * self.flags[1]
        x = self.dropout(x)
        cos, sin = self.cos[:T].view(1, T, 1, hd // 2), self.sin[:T].view(1, T, 1, hd // 2)
        mask = torch.full((T, T), float("-inf")).triu(1)

        def rope(v):
            v = v.reshape(B, T, H, hd // 2, 2)
            a, b = v[..., 0], v[..., 1]
            return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).reshape(B, T, H, hd)
        for i in range(self.cfg["layers"]):
            q, k, v = (self.rms(x, self.norm1[i]) @ self.qkv[i].t()).split(d, -1)
            q, k = rope(q).transpose(1, 2), rope(k).transpose(1, 2)
            v = v.view(B, T, H, hd).transpose(1, 2)
            a = (q @ k.transpose(2, 3)) * hd ** -0.5 + mask
            y = (a.softmax(-1) @ v).transpose(1, 2).reshape(B, T, d)
            x = x + self.dropout(y @ self.out[i].t())
            g, u = (self.rms(x, self.norm2[i]) @ self.gate_up[i].t()).chunk(2, -1)
            x = x + self.dropout((F.silu(g) * u) @ self.down[i].t())
        return self.rms(x, self.norm)

    def nll(self, table, h, target):
        """Exact negative log likelihood over the whole vocabulary of each row of h."""
        f = h @ self.flags.t()
        c, s = f[:, 0], f[:, 1]
        zero = torch.zeros_like(c)
        two = F.softplus(s)                 # pieces with and without a space
        four = two + F.softplus(c)          # and with and without a capital
        extra = torch.stack((zero, two, four), 1)
        base = h @ table.t()
        z = torch.logsumexp(base + extra[:, self.btype], 1)
        b = self.base[target]
        return z - base.gather(1, b[:, None])[:, 0] - self.cap[target] * c - self.space[target] * s


class Data:
    """An endless stream of (prompt ids, answer ids)."""

    def __init__(self, cat, tk, gen, seed, mix, oos_times):
        self.cat, self.tk, self.gen = cat, tk, gen
        self.rng = random.Random(seed)
        self.pseudo = 0.6  # share of rows whose values become random words; train() lowers it
        self.rows = {n: public_rows(cat, n, heldout=False) for n in ("clinc_oos", "snips", "slurp")}
        self.rows = {n: r for n, r in self.rows.items() if r}
        self.calls = list(gen.rules)
        self.weights = [40.0 if c == NOT_FOR_ME else 1.0 + len(gen.rules[c]) ** 0.5 / 2 for c in self.calls]
        flat = [r for v in self.rows.values() for r in v]
        flat += [own_row(gen, c, self.rng) for c in cat.calls for _ in range(40)]
        self.augment = Augment(flat, [w for w in tk.spec["words"] if len(w) > 2 and w.isalpha()], self.rng)
        self.names = list(self.rows) + ["own"]
        self.mix = [mix[n] for n in self.names]
        self.order = {n: [] for n in self.rows}
        oos = [r for r in self.rows.get("clinc_oos", []) if r.call == NOT_FOR_ME]
        self.rows.get("clinc_oos", []).extend(oos * (oos_times - 1))  # the hardest to decline

    def row(self):
        rng = self.rng
        n = rng.choices(self.names, self.mix)[0]
        if n == "own":
            return own_row(self.gen, rng.choices(self.calls, self.weights)[0], rng)
        if not self.order[n]:
            self.order[n] = list(range(len(self.rows[n])))
            rng.shuffle(self.order[n])
        return self.rows[n][self.order[n].pop()]

    def offer(self, tool):
        """Which tools the request offers: usually all; else some, with and without the one that is wanted."""
        rng, names = self.rng, self.cat.names
        k = rng.random()
        if k < 0.68:
            return "all"
        if k < 0.86:
            some = set(rng.sample(names, rng.choice((1, 1, 1, 2, 2, 3, 3, 4, 5, 6, 8, 12, 18, 24))))
        else:
            some = set(names) - set(rng.sample(names, rng.choice((1, 1, 2, 3, 4, 6, 10, 16, 24))))
        if tool in self.cat.args:
            (some.add if rng.random() < 0.5 else some.discard)(tool)
        if rng.random() < 0.03:
            some = set()
        return some

    def say(self, text):
        return self.tk.encode(text) + [self.tk.end]

    def example(self):
        row = self.row()
        text, args = self.augment(row, pseudo=self.pseudo)
        tk, rng = self.tk, self.rng
        tool = row.call.partition(".")[0]
        if rng.random() < 0.02:  # no tools
            if row.call == NOT_FOR_ME:
                answer = tk.answer(NOT_FOR_ME, {})
            elif row.call in ("small_talk.hello", "small_talk.goodbye", "small_talk.thanks"):
                answer = self.say(SAY_HELLO)
            else:
                answer = self.say(SAY_NO_TOOLS)
            return tk.prompt(text, None), answer
        if rng.random() < 0.003:
            p = tk.prompt(text, self.offer(tool))
            return p[:-1] + [tk.sp("result")] + p[-1:], self.say(SAY_AFTER_RESULT)
        if rng.random() < 0.008:  # too long: two texts run together and cut
            p = tk.prompt((text + " " + self.row().text + " ") * 6, "all")
            if tk.sp("long") in p:
                return p, tk.answer(NOT_FOR_ME, {})
        offer = self.offer(tool)
        answer = tk.answer(row.call, args, offer)
        if not row.full and tk.yes in answer:
            answer = answer[:answer.index(tk.yes) + 2]
        return tk.prompt(text, offer), answer

    def batch(self, size, chunk=[]):
        """Examples of similar length: cut from a sorted pool, in random order."""
        if not chunk:
            pool = [self.example() for _ in range(size * 24)]
            pool.sort(key=lambda e: len(e[0]) + len(e[1]))
            parts = [pool[i:i + size] for i in range(0, len(pool), size)]
            self.rng.shuffle(parts)
            chunk.extend(parts)
        part = chunk.pop()
        T = max(len(p) + len(a) for p, a in part) - 1
        ids = np.full((len(part), T), self.tk.pad, dtype=np.int64)
        where, target, weight, copied = [], [], [], []
        lm_where, lm_target = [], []
        user = self.tk.sp("user")
        for i, (p, a) in enumerate(part):
            s = p + a
            ids[i, :len(s) - 1] = s[:-1]
            for j in range(len(a)):
                where.append(i * T + len(p) - 1 + j)
                target.append(a[j])
                weight.append(1.0)
                copied.append(j > 1)
            u = p.index(user)
            for j in range(u, len(p) - 2):
                if self.rng.random() < 0.3:
                    lm_where.append(i * T + j)
                    lm_target.append(p[j + 1])
        t = torch.tensor
        return t(ids), t(where), t(target), t(weight), t(copied), t(lm_where, dtype=torch.long), t(lm_target, dtype=torch.long)


def groups_of(model, lr, decay):
    yes, no = [], []
    for n, p in model.named_parameters():
        (no if p.dim() < 2 or n == "flags" else yes).append(p)
    return [{"params": yes, "weight_decay": decay, "lr": lr}, {"params": no, "weight_decay": 0.0, "lr": lr}]


def train(a):
    torch.manual_seed(a.seed)
    torch.set_num_threads(a.threads)
    cat = Catalogue()
    gen = Generator(cat)
    tk = Tokenizer(json.load(open(a.vocab, encoding="utf-8")), cat)
    data = Data(cat, tk, gen, a.seed, dict(zip(SOURCES, [float(x) for x in a.mix.split(",")])), a.oos_times)
    model = Model(tk, CONFIG)
    before = None
    if a.resume:
        model.load_state_dict(torch.load(os.path.join(a.resume, "model.pt")), strict=False)
        before = json.load(open(os.path.join(a.resume, "run.json")))
    model.train()
    model.drop = a.dropout
    opt = torch.optim.AdamW(groups_of(model, a.lr, a.decay), betas=(0.9, 0.98), eps=1e-9)
    ema = {n: p.detach().clone() for n, p in model.named_parameters()}
    n_body = sum(p.numel() for n, p in model.named_parameters() if n not in ("emb", "groups", "flags"))
    print("tokens %d, body %.2fM, embeddings %.2fM, rows %s" % (
        tk.n, n_body / 1e6, tk.n * CONFIG["dim"] / 1e6, {k: len(v) for k, v in data.rows.items()}), flush=True)
    os.makedirs(a.out, exist_ok=True)
    log = open(os.path.join(a.out, "loss.tsv"), "w")
    parts = [None, None]
    t0, step, seen, run, run_lm, saved = time.time(), 0, 0, None, None, time.time()
    while True:
        done = seen / a.examples if a.examples else (time.time() - t0) / (a.minutes * 60)
        if done >= 1:
            break
        lr = a.lr * min(1.0, (step + 1) / a.warmup) * (1 - done) ** 1.0
        for g in opt.param_groups:
            g["lr"] = lr
        # random values first: only copying predicts them, so copying is learned before the usual values are
        data.pseudo = 0.05 if before else max(0.15, 0.6 - 1.5 * done)
        ids, where, target, weight, copied, lmw, lmt = data.batch(a.batch)
        table = model.table()
        h = model.hidden(table, ids).reshape(-1, CONFIG["dim"])
        lm_share = a.lm * (1 - done)
        both = torch.cat((where, lmw)) if lm_share > 0.01 else where
        tgt = torch.cat((target, lmt)) if lm_share > 0.01 else target
        nll = model.nll(table, h[both], tgt)
        own = nll[:len(where)]
        loss = (own * weight).sum() / weight.sum()
        for i, part in enumerate((own[~copied], own[copied])):
            if len(part):
                parts[i] = part.mean().item() if parts[i] is None else 0.98 * parts[i] + 0.02 * part.mean().item()
        total = loss
        if lm_share > 0.01 and len(lmw):
            lm = nll[len(where):].mean()
            total = loss + lm_share * lm
            run_lm = lm.item() if run_lm is None else 0.98 * run_lm + 0.02 * lm.item()
        opt.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        step += 1
        seen += len(ids)
        k = min(0.998, (step + 1) / (step + 10))
        with torch.no_grad():
            for n, p in model.named_parameters():
                ema[n].mul_(k).add_(p.detach(), alpha=1 - k)
        run = loss.item() if run is None else 0.98 * run + 0.02 * loss.item()
        if step % 50 == 0:
            s = time.time() - t0
            print("step %d  %.1f min  examples %d (%.0f/s)  loss %.4f = call %.4f, arguments %.4f  lm %.3f  lr %.5f" % (
                step, s / 60, seen, seen / s, run, parts[0] or 0, parts[1] or 0, run_lm or 0, lr), flush=True)
            log.write("%d\t%.0f\t%d\t%.4f\t%.4f\n" % (step, s, seen, parts[0] or 0, parts[1] or 0))
            log.flush()
        if time.time() - saved > 300:
            save(a.out, ema, "checkpoint.pt")
            saved = time.time()
    save(a.out, ema, "model.pt")
    json.dump({"config": CONFIG, "seed": a.seed, "steps": step, "examples": seen, "minutes": round((time.time() - t0) / 60, 1),
               "final_loss": round(run, 4), "batch": a.batch, "lr": a.lr, "dropout": a.dropout, "weight_decay": a.decay,
               "lm_share": a.lm, "mix": dict(zip(data.names, data.mix)), "threads": a.threads,
               "torch": torch.__version__, "before": before}, open(os.path.join(a.out, "run.json"), "w"), indent=1)


def save(out, ema, name):
    torch.save(ema, os.path.join(out, name))


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--vocab", required=True)
    ap.add_argument("--out", required=True)
    ap.add_argument("--minutes", type=float, default=62)
    ap.add_argument("--examples", type=int, default=0)
    ap.add_argument("--seed", type=int, default=20261121)
    ap.add_argument("--batch", type=int, default=32)
    ap.add_argument("--lr", type=float, default=1.5e-3)
    ap.add_argument("--warmup", type=int, default=150)
    ap.add_argument("--dropout", type=float, default=0.1)
    ap.add_argument("--decay", type=float, default=0.1)
    ap.add_argument("--lm", type=float, default=0.0)
    ap.add_argument("--threads", type=int, default=1)
    ap.add_argument("--mix", default="0.35,0.20,0.11,0.34", help="share of " + ", ".join(SOURCES))
    ap.add_argument("--oos-times", type=int, default=2, help="how often an out-of-scope row counts")
    ap.add_argument("--resume", help="folder of a finished run to go on from")
    train(ap.parse_args())


if __name__ == "__main__":
    main()
