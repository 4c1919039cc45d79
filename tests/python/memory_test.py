# SPDX-License-Identifier: Apache-2.0
"""memory_test.py [TOKENS]: what two layers of an 8B model's cache (32 query, 8 KV heads of 128, bf16) take after
TOKENS (131,072) random tokens, in transformers' DynamicCache and in banyan's with S2, by the resident
memory of a process of its own each; and what the plan said. Rows come 512 at a time: blocks that nobody will
read are given back at the end of a call, so that a call's own rows are set aside as well."""
import os
import subprocess
import sys

import torch

LAYERS, KV_HEADS, DIM, CHUNK = 2, 8, 128, 512


def resident():
    with open("/proc/self/statm", encoding="ascii") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def chunks(tokens):
    generator = torch.Generator().manual_seed(1)
    k, v = (torch.randn(CHUNK, KV_HEADS, DIM, generator=generator).to(torch.bfloat16) for _ in "kv")
    return [(at, min(CHUNK, tokens - at), k, v) for at in range(0, tokens, CHUNK)]


def dynamic(tokens):
    """Appending copies a layer's whole past, in memory that goes back to the system afterwards."""
    from transformers import DynamicCache
    cache = DynamicCache()
    steps = chunks(tokens)
    before = resident()
    for _, rows, k, v in steps:
        for layer in range(LAYERS):
            cache.update(k[:rows].transpose(0, 1)[None], v[:rows].transpose(0, 1)[None], layer)
    assert cache.get_seq_length() == tokens
    return resident() - before, LAYERS * 2 * tokens * KV_HEADS * DIM * 2


def ours(tokens):
    import banyan
    with banyan.Comm("self") as comm:
        plan = banyan.Plan(comm, layers=LAYERS, heads=32, kv_heads=KV_HEADS, key_dim=DIM, value_dim=DIM,
                           max_tokens=tokens + CHUNK, max_rows=CHUNK, in_dtype="bf16", out_dtype="bf16",
                           cache_dtype="bf16", rules=["s2 stride=16 local=16 per=kv"])
        steps = chunks(tokens)
        before = resident()
        cache = plan.cache()
        sequence = cache.sequence()
        for at, rows, k, v in steps:
            for layer in range(LAYERS):
                cache.attend(layer, banyan.Part(sequence, at, rows), k=k[:rows], v=v[:rows])
        assert len(sequence) == tokens
        return resident() - before, plan.share(0, tokens).capacity_bytes


def main():
    tokens = int((sys.argv + [131072])[1])
    if len(sys.argv) > 2: # one of the two, in this process
        print(*(dynamic if sys.argv[2] == "dynamic" else ours)(tokens))
        return
    found = {}
    for name in ("dynamic", "banyan"):
        done = subprocess.run([sys.executable, __file__, str(tokens), name], check=True, stdout=subprocess.PIPE)
        seen, stated = found[name] = [int(x) for x in done.stdout.split()]
        print(f"{name}: {seen / 2**20:.1f} MiB resident, {stated / 2**20:.1f} MiB stated")
        assert abs(seen - stated) <= 0.05 * stated + 2**23
    ratio = found["dynamic"][0] / found["banyan"][0]
    print(f"{tokens} tokens: {ratio:.1f} times less")
    assert tokens < 131072 or ratio >= 13


main()
