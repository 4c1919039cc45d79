#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Long texts against a forward pass in float64, written here with NumPy from the papers: rotary embeddings of
every kind beyond the length that they were trained for, and dual chunk attention.

    long_reference.py BANYAN MPIRUN|none RANKS [WORD]

A model of one layer, whose last row sees all tokens: sampled rows are prompts of several lengths. Its queries
and keys are large, so that attention is graded, and its output outweighs the token's own embedding. Two layers
where all rows matter. |logits - reference| / |reference| <= 1e-5. Exit code 77: no NumPy."""
import json
import math
import os
import struct
import subprocess
import sys
import tempfile

try:
    import numpy as np
except ImportError:
    print("skipped: NumPy is needed")
    sys.exit(77)

HIDDEN, HEADS, KV, DIM, INNER, VOCAB, THETA, EPS = 64, 4, 2, 64, 96, 997, 1e6, 1e-6


def weights(layers, seed):
    r = np.random.default_rng(seed)
    def matrix(rows, columns, scale):
        return (r.standard_normal((rows, columns)) * scale / math.sqrt(columns)).astype(np.float32)
    out = {"model.embed_tokens.weight": matrix(VOCAB, HIDDEN, 1.0), "lm_head.weight": matrix(VOCAB, HIDDEN, 1.0),
           "model.norm.weight": np.ones(HIDDEN, np.float32)}
    for l in range(layers):
        p = f"model.layers.{l}."
        out[p + "self_attn.q_proj.weight"] = matrix(HEADS * DIM, HIDDEN, 1.6)
        out[p + "self_attn.k_proj.weight"] = matrix(KV * DIM, HIDDEN, 1.6)
        out[p + "self_attn.v_proj.weight"] = matrix(KV * DIM, HIDDEN, 1.0)
        out[p + "self_attn.o_proj.weight"] = matrix(HIDDEN, HEADS * DIM, 8.0)
        out[p + "mlp.gate_proj.weight"], out[p + "mlp.up_proj.weight"] = matrix(INNER, HIDDEN, 1.0), matrix(INNER, HIDDEN, 1.0)
        out[p + "mlp.down_proj.weight"] = matrix(HIDDEN, INNER, 1.0)
        out[p + "input_layernorm.weight"] = out[p + "post_attention_layernorm.weight"] = np.ones(HIDDEN, np.float32)
    return out


def save(folder, tensors, config):
    header, at = {}, 0
    for name, t in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(t.shape), "data_offsets": [at, at + t.nbytes]}
        at += t.nbytes
    text = json.dumps(header).encode()
    with open(folder + "/model.safetensors", "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + b"".join(t.tobytes() for t in tensors.values()))
    with open(folder + "/config.json", "w", encoding="utf-8") as f:
        json.dump(config, f)


# ---- rotary embeddings: (frequencies, factor on cos and sin) at a length of n tokens ---------------

def base(theta=THETA):
    return theta ** (-np.arange(0, DIM, 2) / DIM)


def linear(n, s):
    return base() / s["factor"], 1.0


def dynamic(n, s):
    trained = s["trained"]
    n = max(n, trained)
    return base(THETA * (s["factor"] * n / trained - (s["factor"] - 1)) ** (DIM / (DIM - 2))), 1.0


def llama3(n, s):
    w, original = base(), s["original_max_position_embeddings"]
    length = 2 * np.pi / w
    smooth = (original / length - s["low_freq_factor"]) / (s["high_freq_factor"] - s["low_freq_factor"])
    mixed = (1 - smooth) * w / s["factor"] + smooth * w
    mixed = np.where(length > original / s["low_freq_factor"], w / s["factor"], mixed)
    return np.where(length < original / s["high_freq_factor"], w, mixed), 1.0


def yarn(n, s):
    place = lambda turns: DIM * np.log(s["original_max_position_embeddings"] / (turns * 2 * np.pi)) / (2 * np.log(THETA))
    low, high = max(math.floor(place(32)), 0), min(math.ceil(place(1)), DIM - 1)
    ramp = np.clip((np.arange(DIM // 2) - low) / (high - low), 0, 1)
    return base() / s["factor"] * ramp + base() * (1 - ramp), 0.1 * math.log(s["factor"]) + 1


def longrope(n, s):
    original = s["original_max_position_embeddings"]
    each = np.array(s["long_factor"] if n > original else s["short_factor"])
    return base() / each, math.sqrt(1 + math.log(s["trained"] / original) / math.log(original))


# ---- the model -------------------------------------------------------------------------------------

def rms(x):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + EPS)


def turned(x, places, rope):
    """x [n][heads][DIM] to where its rows are; pairs (i, i + DIM/2)."""
    angle = np.asarray(places, np.float64)[:, None] * rope[0]
    cos, sin = rope[1] * np.cos(angle)[:, None], rope[1] * np.sin(angle)[:, None]
    a, b = x[..., :DIM // 2], x[..., DIM // 2:]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def attend(q, k, v, rope, dual, p, n):
    """The row at p: q [HEADS][DIM], k, v [p + 1][KV][DIM], not turned yet."""
    j = np.arange(p + 1)
    scale = 1 / math.sqrt(DIM)
    if dual:
        chunk, local, original = dual
        reach = chunk - local
        scale *= max(1, 0.1 * math.log(n / original) + 1) ** 2
        k = turned(k, j % reach, rope)
        queries = [turned(q[None], [place], rope)[0]
                   for place in (p % reach, min(p % reach + reach, chunk), min(2 * reach - 1, chunk))]
        which = np.minimum(2, p // reach - j // reach)
    else:
        k, queries, which = turned(k, j, rope), [turned(q[None], [p], rope)[0]], np.zeros(p + 1, int)
    out = []
    for h in range(HEADS):
        s = np.empty(p + 1)
        for version, query in enumerate(queries):
            s[which == version] = scale * (k[which == version, h // (HEADS // KV)] @ query[h])
        e = np.exp(s - s.max())
        out.append(e @ v[:, h // (HEADS // KV)] / e.sum())
    return np.concatenate(out)


def forward(tensors, layers, ids, rope, dual):
    t = {name: x.astype(np.float64) for name, x in tensors.items()}
    n, x = len(ids), t["model.embed_tokens.weight"][ids]
    for l in range(layers):
        w = lambda name: t[f"model.layers.{l}.{name}.weight"].T
        a = rms(x)
        k, v = ((a @ w(f"self_attn.{y}_proj")).reshape(n, KV, DIM) for y in "kv")
        wanted = range(n) if l < layers - 1 else [n - 1]
        q = (a[list(wanted)] @ w("self_attn.q_proj")).reshape(-1, HEADS, DIM)
        o = np.stack([attend(q[i], k[:p + 1], v[:p + 1], rope, dual, p, n) for i, p in enumerate(wanted)])
        x = x[list(wanted)] + o @ w("self_attn.o_proj")
        b = rms(x)
        gate = b @ w("mlp.gate_proj")
        x = x + (gate / (1 + np.exp(-gate)) * (b @ w("mlp.up_proj"))) @ w("mlp.down_proj")
    return rms(x[-1]) @ t["lm_head.weight"].T


# name, layers, lengths, rope (its function, what config.json says of it), trained length, dual chunks
LONG = {"original_max_position_embeddings": 4096}
CASES = [
    ("plain", 1, [65536], None, {}, 4096, None),
    ("linear", 1, [65536], linear, {"rope_type": "linear", "factor": 8.0}, 4096, None),
    ("dynamic", 1, [4000, 65536], dynamic, {"rope_type": "dynamic", "factor": 4.0}, 4096, None),
    ("llama3", 1, [65536], llama3, {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                                    "original_max_position_embeddings": 4096}, 32768, None),
    ("yarn", 1, [65536], yarn, {"rope_type": "yarn", "factor": 8.0, **LONG}, 32768, None),
    ("longrope", 1, [4000, 65536], longrope, {"rope_type": "longrope", **LONG, "short_factor": [1 + i / 64 for i in range(32)],
                                              "long_factor": [1 + i for i in range(32)]}, 65536, None),
    ("dual chunks of 256", 2, [150, 2000], None, {}, 4096, (256, 64, 256)),
    ("dual chunks of 256, sharpened late", 1, [190, 193, 384, 385, 2000], None, {}, 4096, (256, 64, 1000)),
    ("dual chunks of 262144", 1, [250000, 300000, 510000, 600000], None, {}, 1010000, (262144, 8192, 262144)),
]


def run(banyan, start, folder, ids):
    prompt, logits = folder + "/ids", folder + "/logits"
    np.array(ids, "<u4").tofile(prompt)
    done = subprocess.run(start + [banyan, "generate", "--model", folder, "--ids", prompt, "--count", "1", "--logits", logits,
                                   "--ignore-eos", "--cache", "FP32"], capture_output=True, text=True)
    if done.returncode:
        return None, done.stderr.strip()
    return np.fromfile(logits, "<f4"), None


def check(banyan, start, case):
    name, layers, lengths, rope, says, trained, dual = case
    tensors, faults = weights(layers, 7), []
    config = {"model_type": "llama", "hidden_size": HIDDEN, "num_attention_heads": HEADS,
              "num_key_value_heads": KV, "head_dim": DIM, "intermediate_size": INNER, "vocab_size": VOCAB,
              "num_hidden_layers": layers, "rms_norm_eps": EPS, "rope_theta": THETA, "max_position_embeddings": trained,
              "rope_scaling": says or None, "tie_word_embeddings": False}
    if dual:
        config["dual_chunk_attention_config"] = dict(zip(("chunk_size", "local_size", "original_max_position_embeddings"), dual))
    ids = np.random.default_rng(3).integers(0, VOCAB, max(lengths))
    with tempfile.TemporaryDirectory(prefix="banyan-long-") as folder:
        save(folder, tensors, config)
        for n in lengths:
            kind = rope(n, {**says, "trained": trained}) if rope else (base(), 1.0)
            wanted = forward(tensors, layers, ids[:n], kind, dual)
            got, why = run(banyan, start, folder, ids[:n])
            error = np.inf if got is None else np.linalg.norm(got - wanted) / np.linalg.norm(wanted)
            print(f"{name}, {n} tokens: {error:.1e}", flush=True)
            if not error <= 1e-5:
                faults.append(f"{name}, {n} tokens: {why or f'relative error {error:.2e} > 1e-5'}")
    return faults


def main():
    banyan, mpirun, ranks = sys.argv[1:4]
    only = sys.argv[4] if len(sys.argv) > 4 else ""
    start = [] if mpirun == "none" else [mpirun, ranks]
    faults = [f for case in CASES if only in case[0] for f in check(banyan, start, case)]
    for fault in faults:
        print(fault, file=sys.stderr)
    return min(len(faults), 70)


if __name__ == "__main__":
    sys.exit(main())
