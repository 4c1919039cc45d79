#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What `banyan generate` takes on this machine, beside transformers and the machine's ceilings, in one run.

speed   a random Llama of 125 million parameters (fp32 and bf16 files), a prompt of 4,096 ids and 32 more: seconds of
        prefill and decode on all cores, in turns with transformers (fp32, SDPA); the same matrix products by
        sgemm alone (torch's), and decode's bytes (weights, kept keys and values) at the rate of reading memory.
memory  a bf16 checkpoint of 1 GiB on 2 ranks: the most that all ranks' pages are together (PSS, each shared page
        once), beside the files, the cache and the workspace that generate says it has.

usage: speed_reference.py BANYAN MPIRUN [speed | memory]; exit code 1 where a bar is not met, 77 without torch."""
import array
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

banyan, mpirun = sys.argv[1:3]
what = sys.argv[3] if len(sys.argv) > 3 else "speed memory"
try:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
except ImportError:
    print("no torch and transformers here")
    sys.exit(77)
CORES = len(os.sched_getaffinity(0))
PROMPT, COUNT, TURNS = 4096, 33, 3
os.environ.pop("OPENBLAS_CORETYPE", None)  # the program chooses kernels itself, where nobody has
missed = []


def bar(words, value, least=None, most=None):
    good = (least is None or value >= least) and (most is None or value <= most)
    limit = f">= {least}" if least is not None else f"<= {most}"
    print(f"{words:58} {value:6.2f}  ({limit}) {'' if good else 'MISSED'}", flush=True)
    if not good:
        missed.append(words)


def make(folder, dtype, **shape):
    torch.manual_seed(1)
    config = LlamaConfig(vocab_size=32000, tie_word_embeddings=False, max_position_embeddings=8192, **shape)
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model = model.to_empty(device="cpu").to(dtype)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.fill_(1.0) if "norm" in name else p.normal_(0, 0.02)
    model.save_pretrained(folder)
    return sum(os.path.getsize(os.path.join(folder, n)) for n in os.listdir(folder) if n.endswith(".safetensors"))


def write_ids(path, count):
    with open(path, "wb") as f:
        f.write(array.array("i", [3 + 7919 * i % 31000 for i in range(count)]).tobytes())


def generate(model, ids, count, *more):
    """The record of what it took."""
    with tempfile.TemporaryDirectory() as out:
        subprocess.run([banyan, "generate", "--model", model, "--ids", ids, "--count", str(count), "--ignore-eos",
                        "--json", out + "/json", *more], check=True, stdout=subprocess.DEVNULL)
        with open(out + "/json", encoding="utf-8") as f:
            return json.loads(f.readlines()[-1])


class Peer:
    """transformers, greedy, with its own cache."""

    def __init__(self, folder):
        self.model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa").eval()

    @torch.inference_mode()
    def times(self, ids):
        start = time.perf_counter()
        out = self.model(torch.tensor([ids]), use_cache=True, logits_to_keep=1)
        prefill = time.perf_counter() - start
        start = time.perf_counter()
        for _ in range(COUNT - 1):
            out = self.model(out.logits[:, -1].argmax(-1, keepdim=True), past_key_values=out.past_key_values)
        return prefill, (time.perf_counter() - start) / (COUNT - 1)


def products(shape):
    """Seconds of the prompt's matrix products by sgemm alone."""
    h, f, kv = shape["hidden_size"], shape["intermediate_size"], shape["num_key_value_heads"] * 64
    x, y = torch.randn(PROMPT, h), torch.randn(PROMPT, f)
    total = 0.0
    for a, rows, times in ((x, h, 2), (x, kv, 2), (x, f, 2), (y, h, 1)):
        w = torch.randn(rows, a.shape[1])
        a @ w.T
        start = time.perf_counter()
        for _ in range(times):
            a @ w.T
        total += (time.perf_counter() - start) * shape["num_hidden_layers"]
    return total


def read_rate():
    """GB/s of reading memory on all cores, as bench measures it beside a row."""
    with tempfile.TemporaryDirectory() as out:
        subprocess.run([banyan, "bench", "--only", "decode dense fp32", "--json", out + "/json"], check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with open(out + "/json", encoding="utf-8") as f:
            return max(r["read_ceiling_gb_s"] for r in map(json.loads, f) if "read_ceiling_gb_s" in r)


def speed(work):
    shape = dict(hidden_size=768, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=12,
                 num_key_value_heads=4)
    write_ids(work + "/ids", PROMPT)
    with open(work + "/ids", "rb") as f:
        ids = array.array("i", f.read()).tolist()
    size = make(work + "/fp32", torch.float32, **shape)
    make(work + "/bf16", torch.bfloat16, **shape)
    torch.set_num_threads(CORES)
    peer, ours, short, theirs, sgemm, rate = Peer(work + "/fp32"), [], [], [], [], []
    for _ in range(TURNS):
        theirs.append(peer.times(ids))
        ours.append(generate(work + "/fp32", work + "/ids", COUNT, "--cache", "FP32"))
        short.append(generate(work + "/bf16", work + "/ids", COUNT))
        sgemm.append(products(shape))
        rate.append(read_rate())
    median = statistics.median

    def of(runs, field, over=None):
        return median(r[field] / (r[over] if over else 1) for r in runs)

    def spread(values):
        return f"{median(values):.3f} ({min(values):.3f} to {max(values):.3f})"
    print(f"{CORES} cores, {size / 1e6:.0f} MB of fp32 weights, {PROMPT} ids and {COUNT - 1} steps; "
          f"medians of {TURNS} turns (least to most)")
    for name, runs in (("banyan fp32", ours), ("banyan bf16", short)):
        print(f"{name}: prefill {spread([r['prefill_seconds'] for r in runs])} s, of it attention "
              f"{of(runs, 'prefill_attention_seconds'):.3f}; a step "
              f"{spread([1e3 * r['decode_seconds'] / r['decode_tokens'] for r in runs])} ms")
    print(f"transformers fp32: prefill {spread([t[0] for t in theirs])} s; a step "
          f"{spread([1e3 * t[1] for t in theirs])} ms")
    print(f"sgemm alone {spread(sgemm)} s; reading memory {spread(rate)} GB/s")
    step = of(ours, "decode_seconds", "decode_tokens")
    embedding = 32000 * 768 * 4  # of which a step reads one row
    kept = (PROMPT + COUNT / 2) * 12 * 4 * 64 * 2 * 4
    matrices = median(r["prefill_seconds"] - r["prefill_attention_seconds"] for r in ours)
    bar("decode: bytes a second over the rate of reading", (size - embedding + kept) / step / 1e9 / median(rate), 0.7)
    bar("decode: transformers' time over ours", median(t[1] for t in theirs) / step, 1.3)
    bar("prefill: sgemm's time over all but attention", median(sgemm) / matrices, 0.8)
    bar("prefill: transformers' time over ours", median(t[0] for t in theirs) / of(ours, "prefill_seconds"), 1.0)


def pss(of):
    """KiB of all processes whose program is `of`."""
    total = 0
    for p in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.readlink(f"/proc/{p}/exe") != of:
                continue
            with open(f"/proc/{p}/smaps_rollup", encoding="ascii") as f:
                total += sum(int(line.split()[1]) for line in f if line.startswith("Pss:"))
        except OSError:
            pass
    return total


def memory(work):
    shape = dict(hidden_size=2048, intermediate_size=5504, num_hidden_layers=10, num_attention_heads=32,
                 num_key_value_heads=8)
    size = make(work + "/big", torch.bfloat16, **shape)
    write_ids(work + "/ids", 2048)
    job = subprocess.Popen([mpirun, "2", banyan, "generate", "--model", work + "/big", "--ids", work + "/ids",
                            "--count", "8", "--json", work + "/json"], stdout=subprocess.DEVNULL)
    most = 0
    while job.poll() is None:
        most = max(most, pss(os.path.realpath(banyan)))
        time.sleep(.05)
    if job.returncode:
        sys.exit(f"generate: exit code {job.returncode}")
    with open(work + "/json", encoding="utf-8") as f:
        took = json.loads(f.readlines()[-1])  # of rank 0, and rank 1 is as large
    planned = 2 * (took["cache_bytes"] + took["workspace_bytes"])
    print(f"files {size / 2**20:.0f} MiB, cache and workspace as planned {planned / 2**20:.0f} MiB, "
          f"all ranks at most {most / 1024:.0f} MiB")
    bar("memory: of all ranks over 1.1 x files and what is planned", most * 1024 / (1.1 * size + planned), most=1.0)


with tempfile.TemporaryDirectory() as scratch:
    if "speed" in what:
        speed(scratch)
    if "memory" in what:
        memory(scratch)
sys.exit(1 if missed else 0)
