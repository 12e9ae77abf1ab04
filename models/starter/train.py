# SPDX-License-Identifier: Apache-2.0
"""Trains the starter model on a CPU.

    train.py --vocab VOCAB.json --out DIR [--examples N] [--seed S]

A llama-shaped decoder. The prompt is the utterance, the answer the call (see
common.py). Two things are particular:
- Embeddings are composed: a base piece (with the letter groups it is made of,
  so that related words start close), plus one vector for "capitalised" and one
  for "after a space". The softmax is exact over all tokens, yet costs only one
  column per base piece, because the flags add to the logit. Exported, it is an
  ordinary tied embedding matrix.
- The last layer computes only the positions that predict an answer's tokens.

Every five minutes the whole state goes to DIR/state.pt; started again, it goes on from there.
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

from common import Catalogue, NOT_FOR_ME, SAY_AFTER_RESULT, SAY_HELLO, SAY_NO_TOOLS, Tokenizer, labels
from data import Augment, Row, own_row, public_rows
from generate import Generator

EMBEDDING = 4.0
EMA_EVERY = 4
NOISE = {"clinc_oos": 0.14, "slurp": 0.14, "snips": 0.06, "own": 0.06}  # share of the words outside arguments, of half the rows
# From LATE on there is more of what has arguments, which are learned last; from LAST on, again more dropout and changed
# words, for by then the model knows its rows by heart and is too sure of what is none of its business.
LATE, LAST = 0.55, 0.835
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


class Rms(torch.autograd.Function):
    """x over its root mean square. (The weights that a llama's norms have are all one: the next matrix has them in.)"""

    @staticmethod
    def forward(ctx, x, eps):
        r = (torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_() / x.shape[-1] + eps).rsqrt_()
        y = x * r
        ctx.save_for_backward(y, r)
        return y

    @staticmethod
    def backward(ctx, g):
        y, r = ctx.saved_tensors
        return g.addcmul(y, (g * y).mean(-1, keepdim=True), value=-1).mul_(r), None


class SwiGlu(torch.autograd.Function):
    @staticmethod
    def forward(ctx, gu):
        ctx.save_for_backward(gu)
        g, u = gu.chunk(2, -1)
        return F.silu(g).mul_(u)

    @staticmethod
    def backward(ctx, grad):
        gu, = ctx.saved_tensors
        g, u = gu.chunk(2, -1)
        s = torch.sigmoid(g)
        out = torch.empty_like(gu)
        dg, du = out.chunk(2, -1)
        torch.mul(g, s, out=du)
        torch.mul(grad, u, out=dg)
        dg.mul_(s + du - du * s)
        du.mul_(grad)
        return out


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
        self.norm = nn.Parameter(torch.ones(d) / EMBEDDING)
        hd = d // cfg["heads"]
        inv = cfg["rope_base"] ** (-torch.arange(0, hd, 2).float() / hd)
        ang = torch.arange(1024).float()[:, None, None] * inv[None, None]
        self.register_buffer("turn", torch.polar(torch.ones_like(ang), ang), persistent=False)
        self.drop, self.keep, self.uses, self.kept = 0.0, None, 0, 0.0
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

    def dropout(self, x):
        """Masks are cut at random places from one long one, which is made anew now and then: drawing is slow."""
        if not (self.drop and self.training):
            return x
        if self.keep is None or self.uses > 4000 or self.kept != self.drop:
            self.keep = (torch.rand(1 << 22) >= self.drop).float() / (1 - self.drop)
            self.uses, self.kept = 0, self.drop
        self.uses += 1
        at = int(torch.randint(self.keep.numel() - x.numel(), ()))
        return x * self.keep[at:at + x.numel()].view_as(x)

    def hidden(self, table, ids, where):
        """The output of the last layer at the positions `where` of the flattened batch."""
        B, T = ids.shape
        H, d = self.cfg["heads"], self.cfg["dim"]
        hd, last = d // H, self.cfg["layers"] - 1
        x = self.bias + table[self.base[ids]] + self.cap[ids].unsqueeze(-1) * self.flags[0] \
            + self.space[ids].unsqueeze(-1) * self.flags[1]
        x = self.dropout(x).view(B * T, d)
        mask = torch.full((T, T), float("-inf")).triu(1)
        for i in range(last + 1):
            qkv = (Rms.apply(x, self.cfg["eps"]) @ self.qkv[i].t()).view(B, T, 3 * d)
            qk = torch.view_as_complex(qkv[..., :2 * d].reshape(B, T, 2 * H, hd // 2, 2)) * self.turn[:T]
            q, k = torch.view_as_real(qk).view(B, T, 2 * H, hd).transpose(1, 2).split(H, 1)
            v = qkv[..., 2 * d:].view(B, T, H, hd).transpose(1, 2)
            a = (q @ k.transpose(2, 3)) * hd ** -0.5 + mask
            y = (a.softmax(-1) @ v).transpose(1, 2).reshape(B * T, d)
            if i == last:  # from here on a position does not see the others
                x, y = x[where], y[where]
            x = x + self.dropout(y @ self.out[i].t())
            y = SwiGlu.apply(Rms.apply(x, self.cfg["eps"]) @ self.gate_up[i].t())
            x = x + self.dropout(y @ self.down[i].t())
        return Rms.apply(x, self.cfg["eps"]) * self.norm

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

    def __init__(self, cat, tk, gen, seed, mixes, oos_times):
        self.cat, self.tk, self.gen = cat, tk, gen
        self.rng = random.Random(seed)
        self.pseudo, self.noise = 0.6, 1.0  # see progress()
        self.rows = {n: public_rows(cat, n, "train") for n in ("clinc_oos", "snips", "slurp")}
        self.rows = {n: r for n, r in self.rows.items() if r}
        self.calls = list(gen.rules)
        self.weights = [40.0 if c == NOT_FOR_ME else 1.0 + len(gen.rules[c]) ** 0.5 / 2 for c in self.calls]
        flat = [r for v in self.rows.values() for r in v]
        flat += [own_row(gen, c, self.rng) for c in cat.calls for _ in range(40)]
        self.augment = Augment(flat, [w for w in tk.spec["words"] if len(w) > 2 and w.isalpha()], self.rng,
                               gen.lists)
        self.names = list(self.rows) + ["own"]
        self.mixes = [[m[n] for n in self.names] for m in mixes]
        self.mix = self.mixes[0]
        self.order = {n: [] for n in self.rows}
        self.parts = []
        oos = [r for r in self.rows.get("clinc_oos", []) if r.call == NOT_FOR_ME]
        self.rows.get("clinc_oos", []).extend(oos * (oos_times - 1))  # the hardest to decline

    def progress(self, done):
        """Random values first: only copying predicts them, so copying is learned before the usual values are."""
        self.pseudo = max(0.12, 0.6 - 1.5 * done)
        self.noise = 1.0 - 0.6 * done if done <= LAST else 1.0
        self.mix = self.mixes[(done > LATE) + (done > LAST)]

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
        if k < 0.74:
            return "all"
        if k < 0.88:
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
        text, args = self.augment(row, pseudo=self.pseudo, noise=self.noise * NOISE[row.source])
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
        if rng.random() < 0.005:  # too long: two texts run together and cut
            p = tk.prompt((text + " " + self.row().text + " ") * 6, "all")
            if tk.sp("long") in p:
                return p, tk.answer(NOT_FOR_ME, {})
        offer = self.offer(tool)
        prompt, answer = tk.prompt(text, offer), tk.answer(row.call, args, offer)
        if not row.full and tk.yes in answer:
            answer = answer[:answer.index(tk.yes) + 2]
        if offer != "all" and tk.yes in answer and rng.random() < 0.1:
            # `tool_choice: required` forbids the tool's own token: from a call's beginning on it must go without
            prompt, answer = prompt + [tk.yes], answer[answer.index(tk.yes) + 1:]
        return prompt, answer

    def batch(self, size):
        """Examples of similar length: cut from a sorted pool, in random order."""
        if not self.parts:
            pool = [self.example() for _ in range(size * 24)]
            pool.sort(key=lambda e: len(e[0]) + len(e[1]))
            self.parts = [pool[i:i + size] for i in range(0, len(pool), size)]
            self.rng.shuffle(self.parts)
        return tensors(self.tk, self.parts.pop())


def tensors(tk, examples):
    """Token ids, the flat positions that predict an answer's tokens, these tokens, and which of them are arguments."""
    T = max(len(p) + len(a) for p, a in examples) - 1
    ids = np.full((len(examples), T), tk.pad, dtype=np.int64)
    where, target, argument = [], [], []
    for i, (p, a) in enumerate(examples):
        s = p + a
        ids[i, :len(s) - 1] = s[:-1]
        for j in range(len(a)):
            where.append(i * T + len(p) - 1 + j)
            target.append(a[j])
            argument.append(j > 1)
    return torch.tensor(ids), torch.tensor(where), torch.tensor(target), torch.tensor(argument)


class Progress:
    """How good the model is on the public sets' dev rows, without generating: greedy decoding gives a row's whole answer
    exactly if each of its tokens is the likeliest one after those before it."""

    def __init__(self, cat, tk):
        self.tk, self.cat, self.lab = tk, cat, labels()
        self.sets = {n: public_rows(cat, n, "dev") for n in ("clinc_oos", "snips", "slurp")}

    @torch.no_grad()
    def likeliest(self, model, full, examples):
        out = []
        for i in range(0, len(examples), 64):
            part = examples[i:i + 64]
            ids, where, target, _ = tensors(self.tk, part)
            logits = model.hidden(model.table(), ids, where) @ full.t()
            best = logits.argmax(1).tolist()
            p = logits.softmax(1)[:, [self.tk.yes]].flatten().tolist()
            at = 0
            for _, a in part:
                out.append((best[at:at + len(a)], a, p[at]))
                at += len(a)
        return out

    def __call__(self, model):
        tk, res = self.tk, {}
        model.eval()
        with torch.no_grad():
            full = model.full_table() - model.bias
        for n, rows in self.sets.items():
            if not rows:
                continue
            lab = self.lab[n]
            prompts = [tk.prompt(r.text, "all") for r in rows]
            first = self.likeliest(model, full, [(p, [tk.yes, tk.end]) for p in prompts])
            right = total = exact = 0
            inside, outside = [], []
            call_of = {tk.id[self.cat.head_text(c).encode()]: c for c in self.cat.calls}
            for r, (best, _, p) in zip(rows, first):
                call = call_of.get(best[1]) if best[0] == tk.yes else NOT_FOR_ME
                got = lab["not_for_me"] if call == NOT_FOR_ME else lab["calls"].get(call, "?")
                (outside if r.label == "oos" else inside).append(p)
                if r.label != "oos":
                    total += 1
                    right += got == lab.get("same_as", {}).get(r.label, r.label)
            res[n] = round(100 * right / max(total, 1), 1)
            if outside:
                res["auroc"] = round(sum((a > b) + (a == b) / 2 for a in inside for b in outside) / len(inside) / len(outside), 4)
            if n == "snips":
                args = [{a: r.text[s:e] for a, (s, e) in r.spans.items()} for r in rows]
                whole = self.likeliest(model, full, [(p, tk.answer(r.call, v)) for p, r, v in zip(prompts, rows, args)])
                exact = sum(best == a for best, a, _ in whole)
                res["snips_exact"] = round(100 * exact / len(rows), 1)
        model.train()
        return res


def groups_of(model, lr, decay):
    yes, no = [], []
    for n, p in model.named_parameters():
        (no if p.dim() < 2 or n == "flags" else yes).append(p)
    return [{"params": yes, "weight_decay": decay, "lr": lr}, {"params": no, "weight_decay": 0.0, "lr": lr}]


def optimiser(model, a):
    """AdamW. Vectors and the flags do not decay."""
    yes, no = [], []
    for n, p in model.named_parameters():
        (no if p.dim() < 2 or n == "flags" else yes).append(p)
    return torch.optim.AdamW([{"params": yes, "weight_decay": a.decay}, {"params": no, "weight_decay": 0.0}],
                             lr=a.lr, betas=(0.9, 0.98), eps=1e-9)


class Run:
    """The state of a training, which a checkpoint holds whole: going on from one gives what an unbroken run gives."""

    def __init__(self, a):
        torch.manual_seed(a.seed)
        torch.set_num_threads(a.threads)
        self.a, self.cat = a, Catalogue()
        gen = Generator(self.cat)
        self.tk = Tokenizer(json.load(open(a.vocab, encoding="utf-8")), self.cat)
        mixes = [dict(zip(SOURCES, map(float, m.split(",")))) for m in a.mix]
        self.data = Data(self.cat, self.tk, gen, a.seed, mixes, a.oos_times)
        self.model = Model(self.tk, CONFIG)
        self.model.train()
        self.model.drop = a.dropout
        self.opt = optimiser(self.model, a)
        self.ema = {n: p.detach().clone() for n, p in self.model.named_parameters()}
        self.step = self.seen = 0
        self.seconds, self.loss, self.curve = 0.0, [None, None], []

    def save(self, path):
        d = self.data
        torch.save({"model": self.model.state_dict(), "opt": self.opt.state_dict(), "ema": self.ema, "step": self.step,
                    "seen": self.seen, "seconds": self.seconds, "loss": self.loss, "curve": self.curve,
                    "rng": (d.rng.getstate(), torch.get_rng_state()), "order": d.order, "parts": d.parts,
                    "keep": (self.model.keep, self.model.uses, self.model.kept)}, path + ".new")
        os.replace(path + ".new", path)

    def load(self, path):
        c = torch.load(path)
        self.model.load_state_dict(c["model"])
        self.opt.load_state_dict(c["opt"])
        self.ema, self.step, self.seen, self.seconds = c["ema"], c["step"], c["seen"], c["seconds"]
        self.loss, self.curve, self.data.order, self.data.parts = c["loss"], c["curve"], c["order"], c["parts"]
        self.model.keep, self.model.uses, self.model.kept = c["keep"]
        self.data.rng.setstate(c["rng"][0])
        torch.set_rng_state(c["rng"][1])

    def one_step(self):
        a, done = self.a, self.seen / self.a.examples
        lr = a.lr * min(1.0, (self.step + 1) / a.warmup) * (1 - done)
        for g in self.opt.param_groups:
            g["lr"] = lr
        self.data.progress(done)
        self.model.drop = a.dropout[(done > LATE) + (done > LAST)]
        ids, where, target, argument = self.data.batch(a.batch)
        table = self.model.table()
        nll = self.model.nll(table, self.model.hidden(table, ids, where), target)
        self.opt.zero_grad(set_to_none=True)
        nll.mean().backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.opt.step()
        self.step += 1
        self.seen += len(ids)
        for i, part in enumerate((nll[~argument], nll[argument])):
            if len(part):
                x = part.mean().item()
                self.loss[i] = x if self.loss[i] is None else 0.98 * self.loss[i] + 0.02 * x
        if self.step % EMA_EVERY == 0:
            keep = min(0.99, self.step / (self.step + 40))
            with torch.no_grad():
                for n, p in self.model.named_parameters():
                    self.ema[n].mul_(keep).add_(p.detach(), alpha=1 - keep)
        return lr

    def measure(self, progress):
        """Scores the averaged model on the dev rows."""
        now = {n: p.detach().clone() for n, p in self.model.named_parameters()}
        state = torch.get_rng_state()
        self.model.load_state_dict(self.ema)
        res = dict(examples=self.seen, minutes=round(self.seconds / 60, 1), **progress(self.model))
        self.model.load_state_dict(now)
        torch.set_rng_state(state)
        self.curve.append(res)
        print("dev", json.dumps(res), flush=True)


def train(a):
    run = Run(a)
    os.makedirs(a.out, exist_ok=True)
    state, progress = os.path.join(a.out, "state.pt"), Progress(run.cat, run.tk)
    if os.path.exists(state):
        run.load(state)
        print("going on from %d examples" % run.seen, flush=True)
    sizes = {n: p.numel() for n, p in run.model.named_parameters()}
    body = sum(v for n, v in sizes.items() if n not in ("emb", "groups", "flags"))
    print("tokens %d, body %.2fM, embeddings %.2fM, rows %s" % (
        run.tk.n, body / 1e6, run.tk.n * CONFIG["dim"] / 1e6, {k: len(v) for k, v in run.data.rows.items()}), flush=True)
    t, saved = time.time(), time.time()
    while run.seen < a.examples:
        lr = run.one_step()
        run.seconds += time.time() - t
        t = time.time()
        if run.step % 50 == 0:
            print("step %d  %.1f min  examples %d (%.0f/s)  loss: call %.4f, arguments %.4f  lr %.5f" % (
                run.step, run.seconds / 60, run.seen, run.seen / run.seconds, run.loss[0] or 0, run.loss[1] or 0, lr), flush=True)
        if run.step % a.measure == 0:
            run.measure(progress)
        if time.time() - saved > 300:
            run.save(state)
            saved = time.time()
    run.measure(progress)
    run.save(state)
    finish(run, a)


def finish(run, a):
    torch.save(run.ema, os.path.join(a.out, "model.pt"))
    out = {"config": CONFIG, "seed": a.seed, "examples": run.seen, "examples_planned": a.examples, "steps": run.step,
           "minutes": round(run.seconds / 60, 1), "final_loss": {"call": round(run.loss[0], 4), "arguments": round(run.loss[1], 4)},
           "batch": a.batch, "lr": a.lr, "warmup": a.warmup, "dropout": a.dropout, "weight_decay": a.decay,
           "phases_from": [0, LATE, LAST], "mix": [dict(zip(run.data.names, m)) for m in run.data.mixes],
           "oos_times": a.oos_times, "threads": a.threads,
           "torch": torch.__version__, "curve": run.curve}
    json.dump(out, open(os.path.join(a.out, "run.json"), "w"), indent=1)


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--vocab", required=True)
    ap.add_argument("--out", required=True)
    ap.add_argument("--examples", type=int, default=560000)
    ap.add_argument("--seed", type=int, default=20261121)
    ap.add_argument("--batch", type=int, default=64)
    ap.add_argument("--lr", type=float, default=2e-3)
    ap.add_argument("--warmup", type=int, default=120)
    ap.add_argument("--dropout", type=float, nargs=3, default=[0.12, 0.06, 0.12], help="early, late and last")
    ap.add_argument("--decay", type=float, default=0.1)
    ap.add_argument("--threads", type=int, default=1)
    ap.add_argument("--mix", nargs=3, default=["0.36,0.26,0.13,0.25", "0.33,0.36,0.14,0.17", "0.35,0.27,0.18,0.20"],
                    help="shares of " + ", ".join(SOURCES) + "; early, late and last")
    ap.add_argument("--oos-times", type=int, default=3, help="how often an out-of-scope row counts")
    ap.add_argument("--measure", type=int, default=600, help="steps between two measurements on the dev rows")
    ap.add_argument("--finish", action="store_true", help="write the model of the last checkpoint, training no further")
    a = ap.parse_args()
    if a.finish:
        run = Run(a)
        run.load(os.path.join(a.out, "state.pt"))
        finish(run, a)
    else:
        train(a)


if __name__ == "__main__":
    main()
