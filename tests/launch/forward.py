#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Every family of models, small, against a forward pass in float64 that is written here from the papers and the
published code, in plain Python, and shares nothing with the program's.

    forward.py BANYAN MPIRUN|none RANKS,.. [WORD] [--cuda]

For each case a checkpoint of random weights is written, in the family's own names, and `banyan generate` gives
the logits of the prompt's last token: |logits - reference| / |reference| <= 1e-5, and the reference's id.
A case's name begins with its family's, and a family without a case is a fault. WORD: only cases whose name has
it.

--cuda: with `--device cuda`, whose heads are 64 wide and whose cache is bf16: <= 2e-2, and, of fp32 weights, the ids
of the CPU, which has the same cache. What the device rounds to bf16 is rounded here as well: q, k and v of attention, and
where weights are bf16 (or mxfp4) every input of a product. Its softmax weights are rounded, too, and here they are
not: that is what the bound is for."""
import array
import json
import math
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile

CUDA = "--cuda" in sys.argv
HIDDEN, HEADS, KV, DIM, INNER, VOCAB = 32, 4, 2, 64 if CUDA else 8, 20, 61
GROUP = HEADS // KV
EIGHTH = DIM // 8
TOKENS, COUNT = (24, 3) if CUDA else (40, 1)


# ---- arithmetic --------------------------------------------------------------------------------

def dot(a, b):
    return sum(map(lambda x, y: x * y, a, b))


def bf16_of(x):
    """Each rounded to the nearest bf16, ties to even."""
    out = []
    for a in x:
        bits = struct.unpack("<I", struct.pack("<f", a))[0]
        bits = bits + 0x7fff + (bits >> 16 & 1) & 0xffff0000
        out.append(struct.unpack("<f", struct.pack("<I", bits))[0])
    return out


def times(weight, x, bias=None):
    out = [dot(row, x) for row in weight]
    return out if bias is None else [a + b for a, b in zip(out, bias)]


def rms(x, weight, eps, plus=0.0):
    scale = 1 / math.sqrt(dot(x, x) / len(x) + eps)
    return [a * scale * (w + plus) for a, w in zip(x, weight)]


def layer_norm(x, weight, bias, eps):
    mean = sum(x) / len(x)
    x = [a - mean for a in x]
    scale = 1 / math.sqrt(dot(x, x) / len(x) + eps)
    return [a * scale * w + b for a, w, b in zip(x, weight, bias)]


def softmax(x):
    most = max(x)
    e = [math.exp(a - most) for a in x]
    total = sum(e)
    return [a / total for a in e]


def silu(x):
    return x / (1 + math.exp(-x))


def gelu_tanh(x):
    return 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3)))


def gegelu(gate, up, cap=20):
    gate, up = min(gate, cap), max(-cap, min(cap, up))
    return gate / (1 + math.exp(-1.702 * gate)) * (up + 1)


def turn(x, position, frequency, factor, interleaved):
    """One head; pairs (i, i + R/2), or (2i, 2i + 1)."""
    out, half = list(x), len(frequency)
    for i, w in enumerate(frequency):
        a, b = (2 * i, 2 * i + 1) if interleaved else (i, i + half)
        c, s = factor * math.cos(position * w), factor * math.sin(position * w)
        out[a], out[b] = x[a] * c - x[b] * s, x[b] * c + x[a] * s
    return out


def plain_frequency(theta, dims):
    return [theta ** (-2 * i / dims) for i in range(dims // 2)]


def yarn_frequency(theta, dims, factor, original):
    """As gpt-oss has it: the ends of the ramp are not rounded; fast 32, slow 1."""
    place = lambda turns: dims * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))
    low, high = max(place(32), 0), min(place(1), dims - 1)
    out = []
    for i, w in enumerate(plain_frequency(theta, dims)):
        ramp = max(0, min(1, (i - low) / (high - low)))
        out.append(w / factor * ramp + w * (1 - ramp))
    return out


class Mxfp4(list):
    """Rows of random 4-bit numbers, 32 of which share a power of two; codes and scales are kept."""
    VALUES = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
    VALUES += [-x for x in VALUES]

    def __init__(self, rows, columns, chance):
        super().__init__()
        self.codes = [[chance.randrange(16) for _ in range(columns)] for _ in range(rows)]
        self.scales = [[chance.randrange(121, 126) for _ in range(columns // 32)] for _ in range(rows)]
        for codes, scales in zip(self.codes, self.scales):
            self.append([self.VALUES[c] * 2.0 ** (scales[i // 32] - 127) for i, c in enumerate(codes)])


# ---- the model ---------------------------------------------------------------------------------

class Model:
    """Weights by role, and what the case says; the common ground is Llama."""

    def __init__(self, case, seed):
        self.case, self.random = case, random.Random(seed)
        self.layers = case.get("layers", 2)
        self.dims = case.get("dims", DIM)
        self.bf16 = case.get("bf16", False)
        self.embedding = self.matrix(VOCAB, HIDDEN, 1.0)
        self.head = self.embedding if case.get("tied") else self.matrix(VOCAB, HIDDEN)
        self.norm = self.norm_of(HIDDEN)
        self.layer = [self.make_layer(l) for l in range(self.layers)]

    def value(self, scale):
        x = struct.pack("<f", self.random.gauss(0, scale))
        if self.bf16:
            x = b"\0\0" + x[2:]
        return struct.unpack("<f", x)[0]

    def vector(self, n, scale=0.3):
        return [self.value(scale) for _ in range(n)]

    def matrix(self, rows, columns, scale=None):
        scale = scale or 1.5 / math.sqrt(columns)
        return [self.vector(columns, scale) for _ in range(rows)]

    def norm_of(self, n):
        plus = 0.0 if self.case.get("one_plus") else 1.0
        weight = [struct.unpack("<f", struct.pack("<f", plus + x))[0] for x in self.vector(n, 0.2)]
        if self.bf16:
            weight = [struct.unpack("<f", b"\0\0" + struct.pack("<f", x)[2:])[0] for x in weight]
        return (weight, self.vector(n) if self.case.get("layer_norm") else None)

    def bias(self, word, n):
        return self.vector(n) if word in self.case.get("bias", "") else None

    def make_layer(self, index):
        case = self.case
        l = {"input": self.norm_of(HIDDEN), "post": self.norm_of(HIDDEN)}
        l["q"], l["qb"] = self.matrix(HEADS * DIM, HIDDEN), self.bias("qkv", HEADS * DIM)
        l["k"], l["kb"] = self.matrix(KV * DIM, HIDDEN), self.bias("qkv", KV * DIM)
        l["v"], l["vb"] = self.matrix(KV * DIM, HIDDEN), self.bias("qkv", KV * DIM)
        l["o"], l["ob"] = self.matrix(HIDDEN, HEADS * DIM), self.bias("out", HIDDEN)
        if case.get("sandwich"):
            l["after_attention"], l["after_mlp"] = self.norm_of(HIDDEN), self.norm_of(HIDDEN)
        if case.get("qk_norm"):
            l["q_norm"], l["k_norm"] = self.norm_of(DIM), self.norm_of(DIM)
        if index in case.get("expert_layers", []):
            l["router"], l["rb"] = self.matrix(case["experts"], HIDDEN), self.bias("router", case["experts"])
            l["experts"] = [self.make_mlp(case["expert_inner"]) for _ in range(case["experts"])]
        else:
            l["mlp"] = self.make_mlp(INNER)
        if case.get("sinks"):
            l["sinks"] = self.vector(HEADS, 1.0)
        return l

    def expert_matrix(self, rows, columns):
        if self.case.get("mxfp4"):
            return Mxfp4(rows, columns, self.random)
        return self.matrix(rows, columns)

    def make_mlp(self, inner):
        return {"gate": self.expert_matrix(inner, HIDDEN), "gb": self.bias("mlp", inner),
                "up": self.expert_matrix(inner, HIDDEN), "ub": self.bias("mlp", inner),
                "down": self.expert_matrix(HIDDEN, inner), "db": self.bias("mlp", HIDDEN)}

    # -- forward

    def times(self, weight, x, bias=None):
        return times(weight, bf16_of(x) if CUDA and self.bf16 else x, bias)

    def normed(self, x, norm):
        eps = self.case.get("eps", 1e-5)
        if self.case.get("layer_norm"):
            return layer_norm(x, norm[0], norm[1], eps)
        return rms(x, norm[0], eps, 1.0 if self.case.get("one_plus") else 0.0)

    def act(self, gate, up):
        kind = self.case.get("act", "silu")
        if kind == "gegelu":
            return [gegelu(g, u, self.case.get("cap", 20)) for g, u in zip(gate, up)]
        f = silu if kind == "silu" else gelu_tanh
        return [f(g) * u for g, u in zip(gate, up)]

    def mlp(self, m, x):
        inner = self.act(self.times(m["gate"], x, m["gb"]), self.times(m["up"], x, m["ub"]))
        return self.times(m["down"], inner, m["db"])

    def experts(self, l, x):
        share = softmax(self.times(l["router"], x, l["rb"]))
        best = sorted(range(len(share)), key=lambda e: (-share[e], e))[:self.case["top"]]
        total = sum(share[e] for e in best) if self.case.get("normed", True) else 1
        out = [0.0] * HIDDEN
        for e in best:
            out = [a + share[e] / total * b for a, b in zip(out, self.mlp(l["experts"][e], x))]
        return out

    def rope_of(self, index):
        rope = self.case.get("rope", lambda l: (plain_frequency(10000.0, self.dims), 1.0))
        return rope(index)

    def sees(self, index, head, p, j):
        rule = self.case.get("sees")
        return rule is None or rule(index, head, p, j)

    def head_of(self, index, l, x, which, heads, p, place=None):
        """place: where rotation has the row, if not at p."""
        place = p if place is None else place
        rows = self.times(l[which], x, l[which + "b"])
        out = []
        rope = self.rope_of(index)
        for h in range(heads):
            row = rows[h * DIM:(h + 1) * DIM]
            if which != "v" and which + "_norm" in l:
                row = self.normed(row, l[which + "_norm"])
            if which != "v" and rope:
                row = turn(row, place, rope[0], rope[1], self.case.get("interleaved", False))
            out.append(bf16_of(row) if CUDA else row)
        return out

    def dual_scores(self, index, l, xs):
        """Scores of dual chunk attention by its definition: every pair's own two rotations, no parts joined.
        [p][h][j]; keys at j mod L; the query of p at the distance that its chunk and the key's have."""
        chunk, local, original = self.case["dual"]
        reach, scale = chunk - local, 1 / math.sqrt(DIM)
        scale *= max(1, 0.1 * math.log(len(xs) / original) + 1) ** 2
        places = lambda p: [p % reach, min(p % reach + reach, chunk), min(2 * reach - 1, chunk)]
        k = [self.head_of(index, l, x, "k", KV, j, j % reach) for j, x in enumerate(xs)]
        out = []
        for p, x in enumerate(xs):
            q = [self.head_of(index, l, x, "q", HEADS, p, place) for place in places(p)]
            which = [min(2, p // reach - j // reach) for j in range(p + 1)]
            out.append([[scale * dot(q[which[j]][h], k[j][h // GROUP]) for j in range(p + 1)] for h in range(HEADS)])
        return out

    def attention(self, index, l, xs):
        if "dual" in self.case:
            scores = self.dual_scores(index, l, xs)
        else:
            scores = self.plain_scores(index, l, xs)
        v = [self.head_of(index, l, x, "v", KV, p) for p, x in enumerate(xs)]
        out = []
        for p in range(len(xs)):
            row = []
            for h in range(HEADS):
                seen = [j for j in range(p + 1) if self.sees(index, h, p, j)]
                sink = [l["sinks"][h]] if "sinks" in l else []  # without a value
                mass = softmax([scores[p][h][j] for j in seen] + sink)
                row += [sum(m * v[j][h // GROUP][i] for m, j in zip(mass, seen)) for i in range(DIM)]
            out.append(self.times(l["o"], row, l["ob"]))
        return out

    def plain_scores(self, index, l, xs):
        scale = self.case.get("scale", 1 / math.sqrt(DIM))
        q = [self.head_of(index, l, x, "q", HEADS, p) for p, x in enumerate(xs)]
        k = [self.head_of(index, l, x, "k", KV, p) for p, x in enumerate(xs)]
        return [[[scale * dot(q[p][h], k[j][h // GROUP]) for j in range(p + 1)] for h in range(HEADS)]
                for p in range(len(xs))]

    def forward(self, ids):
        case = self.case
        residual = case.get("residual", 1.0)
        xs = [[a * case.get("embed", 1.0) for a in self.embedding[i]] for i in ids]
        for index, l in enumerate(self.layer):
            out = self.attention(index, l, [self.normed(x, l["input"]) for x in xs])
            for p, o in enumerate(out):
                if "after_attention" in l:
                    o = self.normed(o, l["after_attention"])
                x = [a + residual * b for a, b in zip(xs[p], o)]
                b = self.normed(x, l["post"])
                b = self.experts(l, b) if "experts" in l else self.mlp(l["mlp"], b)
                if "after_mlp" in l:
                    b = self.normed(b, l["after_mlp"])
                xs[p] = [a + residual * c for a, c in zip(x, b)]
        logits = self.times(self.head, self.normed(xs[-1], self.norm))
        logits = [a / case.get("divisor", 1.0) for a in logits]
        for i in case.get("silent", []):
            logits[i] = -math.inf
        return logits


# ---- how families name and join their tensors --------------------------------------------------

def put(out, name, weight, bias=None):
    out[name + ".weight"] = weight
    if bias is not None:
        out[name + ".bias"] = bias


def put_norm(out, name, norm):
    put(out, name, norm[0], norm[1])


def joined(*parts):
    return None if parts[0] is None else [row for part in parts for row in part]


def by_kv_head(q, k, v):
    """For each KV head its query heads, then its k, then its v."""
    if q is None:
        return None
    out = []
    for g in range(KV):
        out += q[g * GROUP * DIM:(g + 1) * GROUP * DIM]
        out += k[g * DIM:(g + 1) * DIM] + v[g * DIM:(g + 1) * DIM]
    return out


def mixed(gate, up):
    return None if gate is None else [row for pair in zip(gate, up) for row in pair]


LLAMA = {"embedding": "model.embed_tokens", "norm": "model.norm", "head": "lm_head",
         "layer": "model.layers.%d.", "input": "input_layernorm",
         "post": "post_attention_layernorm", "q": "self_attn.q_proj", "k": "self_attn.k_proj",
         "v": "self_attn.v_proj", "o": "self_attn.o_proj", "gate": "mlp.gate_proj",
         "up": "mlp.up_proj", "down": "mlp.down_proj", "q_norm": "self_attn.q_norm",
         "k_norm": "self_attn.k_norm"}


def put_mlp(out, names, prefix, m, how):
    if how == "joined":
        put(out, prefix + names["gate"], m["gate"] + m["up"], joined(m["gb"], m["ub"]))
    elif how == "mixed":
        put(out, prefix + names["gate"], mixed(m["gate"], m["up"]), mixed(m["gb"], m["ub"]))
    else:
        put(out, prefix + names["gate"], m["gate"], m["gb"])
        put(out, prefix + names["up"], m["up"], m["ub"])
    put(out, prefix + names["down"], m["down"], m["db"])


def put_qkv(out, name, l, how):
    if how is None:
        for part in "qkv":
            put(out, name(part), l[part], l[part + "b"])
        return
    join = joined if how == "joined" else by_kv_head
    put(out, name("q"), join(l["q"], l["k"], l["v"]), join(l["qb"], l["kb"], l["vb"]))


def put_together(out, name, weights, biases, mxfp4):
    """All experts in one tensor: input first, or blocks and scales."""
    count, rows, columns = len(weights), len(weights[0]), len(weights[0][0])
    out[name + "_bias"] = biases
    if not mxfp4:
        flat = [w[r][i] for w in weights for i in range(columns) for r in range(rows)]
        out[name] = ("", [count, columns, rows], flat)
        return
    codes = [c for w in weights for row in w.codes for c in row]
    pairs = bytes(a | b << 4 for a, b in zip(codes[::2], codes[1::2]))
    out[name + "_blocks"] = ("U8", [count, rows, columns // 32, 16], pairs)
    scales = bytes(s for w in weights for row in w.scales for s in row)
    out[name + "_scales"] = ("U8", [count, rows, columns // 32], scales)


def mixed_codes(gate, up):
    """Rows of gate and up in turn, with their codes."""
    both = Mxfp4(0, 0, None)
    both.extend(mixed(gate, up))
    both.codes, both.scales = mixed(gate.codes, up.codes), mixed(gate.scales, up.scales)
    return both


def put_experts(out, prefix, experts, mxfp4):
    join = mixed_codes if mxfp4 else mixed
    put_together(out, prefix + "mlp.experts.gate_up_proj", [join(m["gate"], m["up"]) for m in experts],
                 [mixed(m["gb"], m["ub"]) for m in experts], mxfp4)
    put_together(out, prefix + "mlp.experts.down_proj", [m["down"] for m in experts],
                 [m["db"] for m in experts], mxfp4)


def tensors(model):
    case, out = model.case, {}
    names = {**LLAMA, **case.get("names", {})}
    put(out, names["embedding"], model.embedding)
    put_norm(out, names["norm"], model.norm)
    if not case.get("tied"):
        put(out, names["head"], model.head)
    for index, l in enumerate(model.layer):
        prefix = names["layer"] % index
        for part in ("input", "post", "q_norm", "k_norm", "after_attention", "after_mlp"):
            if part in l:
                put_norm(out, prefix + names[part], l[part])
        put_qkv(out, lambda part: prefix + names[part], l, case.get("qkv"))
        put(out, prefix + names["o"], l["o"], l["ob"])
        if "sinks" in l:
            out[prefix + "self_attn.sinks"] = l["sinks"]
        if "mlp" in l:
            put_mlp(out, names, prefix, l["mlp"], case.get("gate_up"))
            continue
        put(out, prefix + names["router"], l["router"], l["rb"])
        if case.get("together"):
            put_experts(out, prefix, l["experts"], case.get("mxfp4"))
            continue
        for e, m in enumerate(l["experts"]):
            put_mlp(out, {x: names["expert_" + x] % e for x in ("gate", "up", "down")}, prefix, m, None)
    return out


def flat(x):
    return [a for row in x for a in row] if isinstance(x[0], list) else x


def save(path, parts, bf16):
    header, data, at = {}, [], 0
    for name, x in parts.items():
        dtype, shape = "BF16" if bf16 else "F32", [len(x), len(x[0])] if isinstance(x[0], list) else [len(x)]
        if isinstance(x, tuple):
            dtype, shape, x = x[0] or dtype, x[1], x[2]
        raw = x if isinstance(x, bytes) else array.array("f", flat(x)).tobytes()
        if dtype == "BF16":
            raw = b"".join(raw[i + 2:i + 4] for i in range(0, len(raw), 4))
        header[name] = {"dtype": dtype, "shape": shape,
                        "data_offsets": [at, at + len(raw)]}
        at += len(raw)
        data.append(raw)
    text = json.dumps(header).encode()
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + b"".join(data))


# ---- the cases ---------------------------------------------------------------------------------

BASE = {"hidden_size": HIDDEN, "num_attention_heads": HEADS, "num_key_value_heads": KV,
        "head_dim": DIM, "intermediate_size": INNER, "vocab_size": VOCAB, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "max_position_embeddings": 512}
SANDWICH = {"after_attention": "post_attention_layernorm", "post": "pre_feedforward_layernorm",
            "after_mlp": "post_feedforward_layernorm"}
EXPERTS = {"router": "mlp.gate", "expert_gate": "mlp.experts.%d.gate_proj",
           "expert_up": "mlp.experts.%d.up_proj", "expert_down": "mlp.experts.%d.down_proj"}
MIXTRAL = {"router": "block_sparse_moe.gate", "expert_gate": "block_sparse_moe.experts.%d.w1",
           "expert_up": "block_sparse_moe.experts.%d.w3",
           "expert_down": "block_sparse_moe.experts.%d.w2"}
JOINED = {"q": "self_attn.qkv_proj", "gate": "mlp.gate_up_proj"}
CHATGLM = {"embedding": "transformer.embedding.word_embeddings",
           "norm": "transformer.encoder.final_layernorm", "head": "transformer.output_layer",
           "layer": "transformer.encoder.layers.%d.", "q": "self_attention.query_key_value",
           "o": "self_attention.dense", "gate": "mlp.dense_h_to_4h", "down": "mlp.dense_4h_to_h"}
INTERNLM2 = {"embedding": "model.tok_embeddings", "head": "output", "input": "attention_norm",
             "post": "ffn_norm", "q": "attention.wqkv", "o": "attention.wo",
             "gate": "feed_forward.w1", "up": "feed_forward.w3", "down": "feed_forward.w2"}
PHI3SMALL = {"norm": "model.final_layernorm", "q": "self_attn.query_key_value",
             "o": "self_attn.dense", "gate": "mlp.up_proj"}


def window(tokens, slides=lambda l: True):
    return lambda l, h, p, j: not slides(l) or p - j < tokens


def same_rope(frequency, factor=1.0):
    return lambda l: (frequency, factor)


def long_rope(tokens):
    pairs = range(3 * EIGHTH)
    each = [2.0 + i for i in pairs] if tokens > 32 else [1.0 + 0.5 * i for i in pairs]
    factor = math.sqrt(1 + math.log(512 / 32) / math.log(32))
    return same_rope([w / e for w, e in zip(plain_frequency(10000.0, 6 * EIGHTH), each)], factor)


def phi3small_sees(l, h, p, j):
    """Blocks of 64; local 2, stride 3, head h shifted by h and 1; odd layers are dense."""
    mine, theirs = p // 64, j // 64
    return l % 2 == 1 or mine - theirs < 2 or (theirs + h + 1) % 3 == 0


LONGROPE = {"type": "su", "short_factor": [1.0 + 0.5 * i for i in range(3 * EIGHTH)],
            "long_factor": [2.0 + i for i in range(3 * EIGHTH)]}
NTK = 10000.0 * (2.5 * (TOKENS + COUNT - 1) / 16 - 1.5) ** (DIM / (DIM - 2))

GPT_OSS = {"layers": 3, "bias": "qkv out mlp router", "experts": 5, "top": 2, "expert_layers": [0, 1, 2],
           "expert_inner": 32, "together": True, "sinks": True, "act": "gegelu", "cap": 1.5, "names": {"router": "mlp.router"},
           "sees": window(9, lambda l: l % 2 == 0),
           "rope": same_rope(yarn_frequency(150000.0, DIM, 32.0, 64), 0.1 * math.log(32.0) + 1)}
GPT_OSS_CONFIG = {"architectures": ["GptOssForCausalLM"], "model_type": "gpt_oss", "intermediate_size": 32, "num_local_experts": 5,
                  "num_experts_per_tok": 2, "swiglu_limit": 1.5, "sliding_window": 9, "rope_theta": 150000.0,
                  "rope_scaling": {"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
                                   "original_max_position_embeddings": 64}}

# name, what the reference does, what config.json says besides BASE (None: not there)
CASES = [
    ("llama", {}, {"architectures": ["LlamaForCausalLM"]}),
    ("llama bf16", {"bf16": True, "tied": True}, {"model_type": "llama", "tie_word_embeddings": True}),
    ("llama biased", {"bias": "qkv out mlp"},
     {"model_type": "llama", "attention_bias": True, "mlp_bias": True}),
    ("mistral", {"sees": window(9)}, {"model_type": "mistral", "sliding_window": 9}),
    ("mixtral", {"experts": 5, "top": 2, "expert_layers": [0, 1], "expert_inner": INNER,
                 "names": MIXTRAL},
     {"model_type": "mixtral", "num_local_experts": 5, "num_experts_per_tok": 2}),
    ("qwen2", {"bias": "qkv", "layers": 3, "sees": window(11, lambda l: l >= 1)},
     {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 11,
      "max_window_layers": 1}),
    ("qwen3", {"qk_norm": True}, {"model_type": "qwen3"}),
    ("qwen3 dual chunks", {"qk_norm": True, "layers": 3, "dual": (40, 8, 64), "tokens": 150},
     {"model_type": "qwen3", "dual_chunk_attention_config": {"chunk_size": 40, "local_size": 8,
                                                             "original_max_position_embeddings": 64}}),
    ("qwen2 dual chunks", {"bias": "qkv", "dual": (75, 5, 100), "tokens": 143},
     {"model_type": "qwen2", "dual_chunk_attention_config": {"chunk_size": 75, "local_size": 5,
                                                             "original_max_position_embeddings": 100}}),
    ("qwen3_moe", {"qk_norm": True, "layers": 4, "experts": 6, "top": 3, "expert_layers": [1],
                   "expert_inner": 12, "normed": False, "names": EXPERTS, "bf16": True},
     {"model_type": "qwen3_moe", "num_experts": 6, "num_experts_per_tok": 3,
      "moe_intermediate_size": 12, "decoder_sparse_step": 2, "mlp_only_layers": [3]}),
    ("gpt_oss", GPT_OSS, GPT_OSS_CONFIG),
    ("gpt_oss bf16", {**GPT_OSS, "bf16": True, "tokens": 41}, GPT_OSS_CONFIG),
    ("gpt_oss mxfp4", {**GPT_OSS, "bf16": True, "mxfp4": True},
     {**GPT_OSS_CONFIG, "quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}}),
    ("phi3", {"qkv": "joined", "gate_up": "joined", "names": JOINED, "dims": 6 * EIGHTH,
              "rope": long_rope(41), "tokens": 40},
     {"model_type": "phi3", "partial_rotary_factor": 0.75, "rope_scaling": LONGROPE,
      "original_max_position_embeddings": 32}),
    ("gemma3", {"one_plus": True, "sandwich": True, "qk_norm": True, "layers": 6, "tied": True,
                "act": "gelu", "embed": math.sqrt(HIDDEN), "scale": 1 / math.sqrt(12),
                "names": SANDWICH, "sees": window(7, lambda l: l != 5), "bf16": True,
                "rope": lambda l: ([w / 8 for w in plain_frequency(1e6, DIM)], 1.0) if l == 5
                else (plain_frequency(10000.0, DIM), 1.0)},
     {"model_type": "gemma3_text", "rope_theta": 1e6, "rope_local_base_freq": 10000.0,
      "rope_scaling": {"rope_type": "linear", "factor": 8.0}, "sliding_window": 7,
      "query_pre_attn_scalar": 12, "hidden_activation": "gelu_pytorch_tanh"}),
    ("glm", {"bias": "qkv", "gate_up": "joined", "names": {"gate": "mlp.gate_up_proj"},
             "dims": 4 * EIGHTH, "interleaved": True},
     {"model_type": "glm", "attention_bias": True}),
    ("glm4", {"gate_up": "joined", "dims": 4 * EIGHTH, "interleaved": True, "sandwich": True,
              "names": {"gate": "mlp.gate_up_proj", "after_attention": "post_self_attn_layernorm",
                        "after_mlp": "post_mlp_layernorm"}},
     {"model_type": "glm4", "attention_bias": False}),
    ("chatglm", {"bias": "qkv", "qkv": "joined", "gate_up": "joined", "dims": 4 * EIGHTH,
                 "interleaved": True, "names": CHATGLM,
                 "rope": same_rope(plain_frequency(10000.0 * 50, 4 * EIGHTH))},
     {"architectures": ["ChatGLMModel"], "model_type": "chatglm", "num_layers": 2,
      "multi_query_group_num": KV, "kv_channels": DIM, "ffn_hidden_size": INNER,
      "padded_vocab_size": VOCAB, "layernorm_epsilon": 1e-5, "seq_length": 512,
      "add_qkv_bias": True, "rope_ratio": 50, "rope_theta": None, "num_hidden_layers": None,
      "rms_norm_eps": None, "head_dim": None}),
    ("internlm2", {"qkv": "grouped", "names": INTERNLM2,
                   "rope": same_rope(plain_frequency(NTK, DIM))},
     {"model_type": "internlm2", "bias": False, "max_position_embeddings": 16,
      "rope_scaling": {"type": "dynamic", "factor": 2.5}}),
    ("internlm3", {"bias": "qkv out mlp"}, {"model_type": "internlm3", "qkv_bias": True, "bias": True}),
    ("smollm3", {"layers": 4, "tied": True,
                 "rope": lambda l: None if l == 3 else (plain_frequency(10000.0, DIM), 1.0)},
     {"model_type": "smollm3"}),
    ("granite", {"scale": 0.2, "embed": 6.0, "residual": 0.3, "divisor": 4.0},
     {"model_type": "granite", "attention_multiplier": 0.2, "embedding_multiplier": 6.0,
      "residual_multiplier": 0.3, "logits_scaling": 4.0}),
    ("phi3small", {"layer_norm": True, "bias": "qkv out mlp", "qkv": "grouped", "gate_up": "mixed",
                   "tied": True, "act": "gegelu", "embed": 3.0, "divisor": 2.0, "scale": 1 / DIM,
                   "names": PHI3SMALL, "silent": [3, 60], "sees": phi3small_sees, "tokens": 200 if CUDA else 400,
                   "rope": same_rope(plain_frequency(1e6, DIM))},
     {"model_type": "phi3small", "ff_intermediate_size": INNER, "layer_norm_epsilon": 1e-5,
      "rope_embedding_base": 1e6, "rope_theta": None, "mup_embedding_multiplier": 3.0,
      "mup_width_multiplier": 2.0, "mup_attn_multiplier": 1.0, "mup_use_scaling": True,
      "hidden_act": "gegelu", "dummy_token_indices": [3, 60], "blocksparse_vert_stride": 3,
      "blocksparse_num_local_blocks": 2, "blocksparse_block_size": 64,
      "blocksparse_homo_head_pattern": False, "dense_attention_every_n_layers": 2}),
]


def config_of(case, more):
    out = {**BASE, "num_hidden_layers": case.get("layers", 2), **more}
    return {key: value for key, value in out.items() if value is not None}


def run_case(banyan, mpirun, ranks, index, entry):
    name, case, more = entry
    model, picks = Model(case, index + 1), random.Random(index + 100)
    ids = [picks.randrange(VOCAB) for _ in range(case.get("tokens", TOKENS))]
    wanted = model.forward(ids)
    folder, faults = tempfile.mkdtemp(prefix="banyan-forward-"), []
    save(os.path.join(folder, "model.safetensors"), tensors(model), model.bf16)
    with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as f:
        json.dump(config_of(case, more), f)
    prompt, logits = os.path.join(folder, "ids"), os.path.join(folder, "logits")
    with open(prompt, "wb") as f:
        f.write(struct.pack(f"<{len(ids)}I", *ids))
    for n in ranks:
        start = [] if mpirun == "none" else [mpirun, n]
        command = start + [banyan, "generate", "--model", folder, "--ids", prompt, "--set", "cache.max_rows=64",
                           "--cache", "BF16" if CUDA else "FP32", "--count", str(COUNT)]
        device = ["--device", "cuda", "--set", "execution.transport=" + ("self" if n == "1" else "mpi")]
        run = subprocess.run(command + ["--logits", logits] + (device if CUDA else []), capture_output=True, text=True)
        if run.returncode:
            faults.append(f"{name}, {n} ranks: {run.stderr.strip()}")
            continue
        with open(logits, "rb") as f:
            got = struct.unpack(f"<{VOCAB}f", f.read())
        pairs = [(a, b) for a, b in zip(got, wanted) if a != b]
        error = math.sqrt(sum((a - b) ** 2 for a, b in pairs) /
                          sum(b * b for b in wanted if b > -math.inf))
        bound = 2e-2 if CUDA else 1e-5
        if os.environ.get("FORWARD_SAY"):
            print(f"{name}, {n} ranks: {error:.2e}")
        if not error <= bound:
            faults.append(f"{name}, {n} ranks: relative error {error:.2e} > {bound:g}")
        if int(run.stdout.split()[0]) != wanted.index(max(wanted)):
            faults.append(f"{name}, {n} ranks: id {run.stdout.strip()}, not {wanted.index(max(wanted))}")
        if CUDA and not model.bf16 and run.stdout != subprocess.run(command, capture_output=True, text=True).stdout:
            faults.append(f"{name}, {n} ranks: other ids than on the CPU")
    shutil.rmtree(folder)
    return faults


def families_without_a_case(banyan):
    """Rows of families.def that no case's first word names: nothing else would run them."""
    with tempfile.TemporaryDirectory(prefix="banyan-forward-") as folder:
        path = os.path.join(folder, "list.json")
        subprocess.run([banyan, "list", "--json", path], check=True, stdout=subprocess.DEVNULL)
        with open(path, encoding="utf-8") as f:
            rows = [json.loads(line) for line in f]
    families = [row["name"] for row in rows if row["table"] == "model families"]
    assert families, "banyan list names no model families"
    tried = {name.split()[0] for name, _, _ in CASES}
    return [f"{family}: no case here has its name" for family in families if family not in tried]


def main():
    banyan, mpirun, ranks = sys.argv[1:4]
    words = [word for word in sys.argv[4:] if word != "--cuda"]
    only = words[0] if words else ""
    faults = [] if only else families_without_a_case(banyan)
    for index, entry in enumerate(CASES):
        if CUDA and "dual" in entry[1]:
            continue  # a device has none
        if only in entry[0]:
            faults += run_case(banyan, mpirun, ranks.split(","), index, entry)
    for fault in faults:
        print(fault, file=sys.stderr)
    return min(len(faults), 70)


if __name__ == "__main__":
    sys.exit(main())
