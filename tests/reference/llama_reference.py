#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compares `banyan generate` with the Llama of Hugging Face transformers on random checkpoints.

    llama_reference.py BANYAN MPIRUN      (MPIRUN: tests/mpirun, called as MPIRUN RANKS PROGRAM ..)

Each checkpoint is written by transformers and read by banyan. Compared are the logits of the prompt's
last token, and the ids of greedy decoding:

    fp32 cache   |logits - reference| / |reference| <= 1e-5, the reference computing in fp32 with the
                 same (possibly bf16 or fp16) weights; the same 12 greedy ids on 1, 3 and 4 ranks
    bf16 cache   <= 2e-2 with bf16 weights, against the reference in fp32 and in bf16

Exit code 77 (skipped) where torch or transformers is missing."""
import os
import shutil
import struct
import subprocess
import sys
import tempfile

try:
    import torch
    import transformers
    from transformers import LlamaConfig, LlamaForCausalLM
except Exception as missing:  # also a torch that cannot find its libraries
    print(f"skipped: torch and transformers are needed: {missing}")
    sys.exit(77)

STEPS = 12
# heads, kv_heads, head_dim, hidden, intermediate, vocab, layers, tied, dtype, shard size, tokens
CASES = [
    (8, 8, 16, 128, 352, 1000, 2, True, torch.float32, None, 65),
    (8, 2, 32, 96, 200, 1003, 3, False, torch.bfloat16, "100KB", 512),
    (8, 1, 24, 192, 256, 517, 2, False, torch.float16, None, 300),
    (4, 1, 40, 64, 100, 257, 4, True, torch.bfloat16, None, 129),
    (16, 4, 8, 160, 96, 2048, 2, False, torch.float32, "200KB", 400),
    (6, 3, 64, 192, 300, 700, 2, True, torch.float16, "150KB", 1),
    (8, 2, 128, 512, 640, 4096, 2, False, torch.bfloat16, "2MB", 200),
]


def make_model(case):
    heads, kv_heads, head_dim, hidden, intermediate, vocab, layers, tied, dtype, _, _ = case
    config = LlamaConfig(
        hidden_size=hidden, num_attention_heads=heads, num_key_value_heads=kv_heads,
        head_dim=head_dim, intermediate_size=intermediate, vocab_size=vocab,
        num_hidden_layers=layers, tie_word_embeddings=tied, initializer_range=0.05,
        rms_norm_eps=1e-5, max_position_embeddings=1024, rope_theta=500000.0)
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.add_(0.1 * torch.randn_like(weight))
    return model.to(dtype)


def greedy(model, ids):
    """The logits of the last token, and STEPS ids, each step computed from scratch."""
    ids, first, found = list(ids), None, []
    with torch.no_grad():
        for _ in range(STEPS):
            logits = model(torch.tensor([ids])).logits[0, -1].float()
            first = logits if first is None else first
            found.append(int(logits.argmax()))
            ids.append(found[-1])
    return first, found


def generate(banyan, mpirun, directory, ids, ranks, cache):
    prompt, logits = os.path.join(directory, "ids.u32"), os.path.join(directory, "logits.f32")
    with open(prompt, "wb") as f:
        f.write(struct.pack(f"<{len(ids)}I", *ids))
    run = subprocess.run(
        [mpirun, str(ranks), banyan, "generate", "--model", directory, "--ids", prompt,
         "--count", str(STEPS), "--logits", logits, "--cache", cache,
         "--set", "cache.max_rows=128"],
        capture_output=True, text=True)
    if run.returncode != 0:
        raise SystemExit(f"banyan generate failed ({run.returncode}): {run.stderr}")
    with open(logits, "rb") as f:
        data = f.read()
    values = torch.tensor(struct.unpack(f"<{len(data) // 4}f", data))
    return values, [int(line) for line in run.stdout.split()]


def error(got, expected):
    return float((got - expected).norm() / expected.norm())


def run_case(banyan, mpirun, index, case):
    torch.manual_seed(index + 1)
    model, shard, tokens = make_model(case), case[9], case[10]
    ids = torch.randint(0, case[5], (tokens,)).tolist()
    directory, faults = tempfile.mkdtemp(prefix="banyan-reference-"), []
    model.save_pretrained(directory, **({"max_shard_size": shard} if shard else {}))
    sharded = os.path.exists(os.path.join(directory, "model.safetensors.index.json"))
    if shard and not sharded:
        faults.append("the reference wrote one file; a sharded checkpoint was wanted")
    exact, expected = greedy(LlamaForCausalLM.from_pretrained(directory, dtype=torch.float32), ids)
    figures = []
    for ranks in (1, 3, 4):
        logits, found = generate(banyan, mpirun, directory, ids, ranks, "FP32")
        figures.append(f"P={ranks} {error(logits, exact):.1e}")
        if not error(logits, exact) <= 1e-5:
            faults.append(f"{ranks} ranks: relative error {error(logits, exact):.2e} > 1e-5")
        if found != expected:
            faults.append(f"{ranks} ranks: greedy ids {found}, expected {expected}")
    if case[8] == torch.bfloat16:
        logits, _ = generate(banyan, mpirun, directory, ids, 3, "BF16")
        rough, _ = greedy(LlamaForCausalLM.from_pretrained(directory, dtype=torch.bfloat16), ids)
        for name, reference in (("fp32", exact), ("bf16", rough)):
            figures.append(f"bf16 cache to {name} {error(logits, reference):.1e}")
            if not error(logits, reference) <= 2e-2:
                faults.append(f"bf16 cache, reference in {name}: "
                              f"relative error {error(logits, reference):.2e} > 2e-2")
    shutil.rmtree(directory)
    print(f"heads {case[0]}/{case[1]} dim {case[2]} hidden {case[3]} tokens {tokens} "
          f"{'tied' if case[7] else 'untied'} {str(case[8])[6:]} "
          f"{'sharded' if sharded else 'one file'}: {', '.join(figures)}", flush=True)
    return faults


def main():
    banyan, mpirun = sys.argv[1:3]
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    faults = []
    for index, case in enumerate(CASES):
        faults += [f"case {index}: {fault}" for fault in run_case(banyan, mpirun, index, case)]
    for fault in faults:
        print(fault, file=sys.stderr)
    return min(len(faults), 70)


if __name__ == "__main__":
    sys.exit(main())
