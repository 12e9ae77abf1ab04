# SPDX-License-Identifier: Apache-2.0
"""Writes a trained model as GGUF (16-bit floats) with its tokenizer and chat template.

    export.py --vocab VOCAB.json --model model.pt --run run.json --gguf-py DIR --out model-f16.gguf
"""
import argparse
import json
import os
import sys

import numpy as np
import torch

from common import Catalogue, HERE, MAX_TOKENS_BEYOND_PROMPT, SAY_NOT_FOR_ME, Tokenizer, UTTERANCE_CHARS_MAX
from train import Model


def template(cat):
    schemas = [t["function"]["parameters"]["properties"] for t in cat.tools]
    known = "".join("|%s:%d" % (n, len(s)) for n, s in zip(cat.names, schemas)) + "|"
    s = open(os.path.join(HERE, "template.jinja"), encoding="utf-8").read()
    for name, value in (("KNOWN", known), ("NAMES", "|".join(cat.names)), ("SCHEMAS", len(json.dumps(schemas, ensure_ascii=False))),
                        ("COUNT", len(cat.names)), ("CHARS_MAX", UTTERANCE_CHARS_MAX)):
        s = s.replace(name, str(value))
    return s.rstrip("\n")


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for n in ("vocab", "model", "run", "gguf-py", "out"):
        ap.add_argument("--" + n, required=True)
    a = ap.parse_args()
    sys.path.insert(0, a.gguf_py)
    import gguf

    cat = Catalogue()
    tk = Tokenizer(json.load(open(a.vocab, encoding="utf-8")), cat)
    run = json.load(open(a.run))
    cfg = run["config"]
    model = Model(tk, cfg)
    model.load_state_dict(torch.load(a.model), strict=False)
    d = cfg["dim"]
    w = gguf.GGUFWriter(a.out, "llama")
    w.add_name("Tandem starter")
    w.add_description("Turns a short command into a call of a tool of models/starter/catalogue.json, or declines it.")
    w.add_license("apache-2.0")
    w.add_context_length(1024)
    w.add_embedding_length(d)
    w.add_block_count(cfg["layers"])
    w.add_feed_forward_length(cfg["ffn"])
    w.add_head_count(cfg["heads"])
    w.add_head_count_kv(cfg["heads"])
    w.add_rope_dimension_count(d // cfg["heads"])
    w.add_rope_freq_base(cfg["rope_base"])
    w.add_layer_norm_rms_eps(cfg["eps"])
    w.add_vocab_size(tk.n)
    w.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    w.add_tokenizer_model("rwkv")
    w.add_token_list([tk.escaped(i) for i in range(tk.n)])
    w.add_token_types(tk.kind)
    w.add_eos_token_id(tk.end)
    w.add_pad_token_id(tk.pad)
    w.add_add_bos_token(False)
    w.add_add_eos_token(False)
    w.add_chat_template(template(cat))
    w.add_string("tandem.not_for_me", SAY_NOT_FOR_ME)
    w.add_uint32("tandem.max_tokens_beyond_prompt", MAX_TOKENS_BEYOND_PROMPT)
    w.add_float32("general.sampling.temp", 0.0)

    def put(name, t):
        t = t.detach().float().numpy()
        w.add_tensor(name, t.astype(np.float16) if t.ndim > 1 else t.astype(np.float32))
    with torch.no_grad():
        put("token_embd.weight", model.full_table())
        for i in range(cfg["layers"]):
            q, k, v = model.qkv[i].split(d, 0)
            g, u = model.gate_up[i].chunk(2, 0)
            p = "blk.%d." % i
            put(p + "attn_norm.weight", torch.ones(d))
            put(p + "attn_q.weight", q)
            put(p + "attn_k.weight", k)
            put(p + "attn_v.weight", v)
            put(p + "attn_output.weight", model.out[i])
            put(p + "ffn_norm.weight", torch.ones(d))
            put(p + "ffn_gate.weight", g)
            put(p + "ffn_up.weight", u)
            put(p + "ffn_down.weight", model.down[i])
        put("output_norm.weight", model.norm)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    print("%s: %.2f MB, %d tokens" % (a.out, os.path.getsize(a.out) / 1e6, tk.n))


if __name__ == "__main__":
    main()
