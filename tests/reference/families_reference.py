#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compares `banyan generate` with Hugging Face transformers on random checkpoints of every family that it has.

    families_reference.py BANYAN MPIRUN [WORD]      (MPIRUN: tests/mpirun, called as MPIRUN RANKS PROGRAM ..)

Each checkpoint is written by transformers and read by banyan. Compared are the logits of the prompt's
last token, and the ids of greedy decoding:

    fp32 cache   |logits - reference| / |reference| <= 1e-5, the reference computing in fp32 with the
                 same (possibly bf16 or fp16) weights; the same 16 greedy ids on 1, 3 and 4 ranks
    bf16 cache   <= 2e-2 with bf16 weights, against the reference in fp32

WORD: only cases whose name has it. Exit code 77 (skipped) where torch or transformers is missing."""
import os
import shutil
import struct
import subprocess
import sys
import tempfile

try:
    import torch
    import transformers
except Exception as missing:  # also a torch that cannot find its libraries
    print(f"skipped: torch and transformers are needed: {missing}")
    sys.exit(77)

STEPS = 16
TOKENS = 700
SMALL = dict(hidden_size=128, num_attention_heads=8, num_key_value_heads=2, intermediate_size=200,
             vocab_size=1000, num_hidden_layers=3, max_position_embeddings=1024)


def rope(kind, **more):
    return {"rope_type": kind, "rope_theta": 500000.0, **more}


LLAMA3 = rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=64)
YARN = rope("yarn", factor=4.0, original_max_position_embeddings=256)


def longrope(pairs, original):
    return rope("longrope", short_factor=[1 + 0.1 * i for i in range(pairs)],
                long_factor=[2 + 0.5 * i for i in range(pairs)],
                original_max_position_embeddings=original)


# name, class without "Config"/"ForCausalLM", what the config has besides SMALL, format of the files, and
# what the run has besides (tokens, shard size)
CASES = [
    ("llama", "Llama", dict(head_dim=16, num_key_value_heads=8, tie_word_embeddings=True), "fp32", {}),
    ("llama sharded", "Llama", dict(head_dim=32, hidden_size=96, vocab_size=1003), "bf16",
     dict(shard="100KB")),
    ("llama fp16, one KV head", "Llama", dict(head_dim=24, num_key_value_heads=1), "fp16", {}),
    ("llama wide heads", "Llama", dict(head_dim=128, hidden_size=512, vocab_size=4096), "bf16",
     dict(tokens=200)),
    ("llama one token", "Llama", dict(hidden_size=192, num_attention_heads=6, num_key_value_heads=3), "fp16",
     dict(tokens=1)),
    ("llama biased", "Llama", dict(attention_bias=True, mlp_bias=True, rope_parameters=LLAMA3), "fp32", {}),
    ("llama 3.1", "Llama", dict(rope_parameters=LLAMA3, num_hidden_layers=6), "bf16", {}),
    ("llama linear", "Llama", dict(rope_parameters=rope("linear", factor=4.0)), "fp32", {}),
    ("llama dynamic", "Llama", dict(rope_parameters=rope("dynamic", factor=4.0),
                                    max_position_embeddings=300), "fp32", dict(steps=1)),
    ("llama yarn", "Llama", dict(rope_parameters=YARN), "fp32", {}),
    ("mistral", "Mistral", dict(sliding_window=None, head_dim=32), "bf16", {}),
    ("mistral slides", "Mistral", dict(sliding_window=100), "fp32", {}),
    ("internlm3", "InternLM3", dict(head_dim=16, attention_bias=True, mlp_bias=True), "bf16", {}),
    ("qwen2", "Qwen2", dict(tie_word_embeddings=True), "bf16", {}),
    ("qwen2 yarn, slides", "Qwen2", dict(rope_parameters=YARN, use_sliding_window=True, sliding_window=90,
                                         max_window_layers=1), "fp32", {}),
    ("qwen3", "Qwen3", dict(head_dim=32, rope_parameters=YARN), "bf16", {}),
    ("phi3", "Phi3", dict(pad_token_id=0, sliding_window=200), "fp32", {}),
    ("phi3 longrope", "Phi3", dict(pad_token_id=0, rope_parameters=longrope(8, 256),
                                   original_max_position_embeddings=256), "bf16", {}),
    ("phi4 mini", "Phi3", dict(pad_token_id=0, rope_parameters={**longrope(6, 1024),
                                                                "partial_rotary_factor": 0.75},
                               original_max_position_embeddings=1024), "bf16", {}),
    ("gemma3", "Gemma3Text", dict(head_dim=32, query_pre_attn_scalar=24, sliding_window=64,
                              num_hidden_layers=6, hidden_activation="gelu_pytorch_tanh",
                              layer_types=["sliding_attention"] * 5 + ["full_attention"]), "bf16", {}),
    ("glm", "Glm", dict(head_dim=32, pad_token_id=0), "bf16", {}),
    ("glm4", "Glm4", dict(head_dim=32, pad_token_id=0, attention_bias=True), "fp32", {}),
    ("smollm3", "SmolLM3", dict(num_hidden_layers=4, pad_token_id=0), "bf16", {}),
    ("granite", "Granite", dict(attention_multiplier=0.2, embedding_multiplier=6.0,
                                residual_multiplier=0.3, logits_scaling=4.0), "bf16", {}),
    ("mixtral", "Mixtral", dict(num_local_experts=5, num_experts_per_tok=2), "bf16", {}),
    ("gpt oss", "GptOss", dict(head_dim=32, num_local_experts=6, num_experts_per_tok=2, sliding_window=70,
                               num_hidden_layers=4, layer_types=["sliding_attention", "full_attention"] * 2,
                               rope_parameters=rope("yarn", factor=8.0, truncate=False,
                                                    original_max_position_embeddings=128)), "fp32", {}),
    ("gpt oss bf16", "GptOss", dict(head_dim=32, num_local_experts=6, num_experts_per_tok=2, sliding_window=70,
                                    layer_types=["sliding_attention", "full_attention", "sliding_attention"]), "bf16", {}),
    ("qwen3 moe", "Qwen3Moe", dict(head_dim=32, num_experts=8, num_experts_per_tok=3,
                                   moe_intermediate_size=72, norm_topk_prob=True,
                                   mlp_only_layers=[1]), "fp32", {}),
]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def make_model(name, more):
    config = getattr(transformers, name + "Config")(
        **{**SMALL, "initializer_range": 0.05, "bos_token_id": 1, "eos_token_id": 2, **more})
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for part, weight in model.named_parameters():
            if "norm" in part or part.endswith(("bias", "sinks")):
                weight.add_(0.1 * torch.randn_like(weight))
    return model


def greedy(model, ids, steps):
    """The logits of the last token, and `steps` ids, each step computed from scratch."""
    ids, first, found = list(ids), None, []
    with torch.no_grad():
        for _ in range(steps):
            logits = model(torch.tensor([ids]), use_cache=False).logits[0, -1].float()
            first = logits if first is None else first
            found.append(int(logits.argmax()))
            ids.append(found[-1])
    return first, found


def generate(banyan, mpirun, directory, ids, ranks, cache, steps):
    prompt, logits = os.path.join(directory, "ids.u32"), os.path.join(directory, "logits.f32")
    with open(prompt, "wb") as f:
        f.write(struct.pack(f"<{len(ids)}I", *ids))
    run = subprocess.run(
        [mpirun, str(ranks), banyan, "generate", "--model", directory, "--ids", prompt,
         "--count", str(steps), "--logits", logits, "--cache", cache,
         "--set", "cache.max_rows=128"],
        capture_output=True, text=True)
    if run.returncode != 0:
        return None, f"banyan generate failed ({run.returncode}): {run.stderr}"
    with open(logits, "rb") as f:
        data = f.read()
    values = torch.tensor(struct.unpack(f"<{len(data) // 4}f", data))
    return values, [int(line) for line in run.stdout.split()]


def error(got, expected):
    return float((got - expected).norm() / expected.norm())


def compare(banyan, mpirun, directory, ids, steps, dtype):
    model = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager").eval()
    exact, expected = greedy(model, ids, steps)
    figures, faults = [], []
    for ranks in (1, 3, 4):
        logits, found = generate(banyan, mpirun, directory, ids, ranks, "FP32", steps)
        if logits is None:
            return figures, [found]
        figures.append(f"P={ranks} {error(logits, exact):.1e}")
        if not error(logits, exact) <= 1e-5:
            faults.append(f"{ranks} ranks: relative error {error(logits, exact):.2e} > 1e-5")
        if found != expected:
            faults.append(f"{ranks} ranks: greedy ids {found}, expected {expected}")
    if dtype == "bf16":
        logits, _ = generate(banyan, mpirun, directory, ids, 3, "BF16", steps)
        figures.append(f"bf16 cache {error(logits, exact):.1e}")
        if not error(logits, exact) <= 2e-2:
            faults.append(f"bf16 cache: relative error {error(logits, exact):.2e} > 2e-2")
    return figures, faults


def run_case(banyan, mpirun, index, case):
    name, kind, more, dtype, run = case
    torch.manual_seed(index + 1)
    model = make_model(kind, more).to(DTYPES[dtype])
    ids = torch.randint(3, model.config.vocab_size, (run.get("tokens", TOKENS),)).tolist()
    directory = tempfile.mkdtemp(prefix="banyan-reference-")
    shard = run.get("shard")
    model.save_pretrained(directory, **({"max_shard_size": shard} if shard else {}))
    figures, faults = compare(banyan, mpirun, directory, ids, run.get("steps", STEPS), dtype)
    if shard and not os.path.exists(os.path.join(directory, "model.safetensors.index.json")):
        faults.append("the reference wrote one file; a sharded checkpoint was wanted")
    shutil.rmtree(directory)
    print(f"{name} ({dtype}, {len(ids)} tokens): {', '.join(figures)}", flush=True)
    return faults


def main():
    banyan, mpirun = sys.argv[1:3]
    only = sys.argv[3] if len(sys.argv) > 3 else ""
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    faults = []
    for index, case in enumerate(CASES):
        if only in case[0]:
            faults += [f"{case[0]}: {fault}" for fault in run_case(banyan, mpirun, index, case)]
    for fault in faults:
        print(fault, file=sys.stderr)
    return min(len(faults), 70)


if __name__ == "__main__":
    sys.exit(main())
