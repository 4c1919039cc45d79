#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What SmolLM2 says after every haystack of `launch/smollm`, against transformers in fp32: each cell's prompt
is put together anew from the ids and the places that the run wrote, and the next 16 ids of `banyan
generate` on 1, 2 and 4 ranks must be those of transformers. Exit code 77: no torch, or no such run.
usage: smollm_reference.py BANYAN MPIRUN FOLDER OF launch/smollm [MODEL FOLDER]"""
import array
import json
import os
import subprocess
import sys
import time

banyan, mpirun, folder = sys.argv[1:4]
model = sys.argv[4] if len(sys.argv) > 4 else os.path.join(
    os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache")), "banyan/smollm2/model")
try:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
except ImportError:
    print("no torch and transformers here")
    sys.exit(77)
if not os.path.exists(folder + "/dense.jsonl") or not os.path.exists(model):
    print(f"no {folder}/dense.jsonl or no {model}: run launch/smollm first")
    sys.exit(77)
COUNT = 16


def ids(name):
    return array.array("I", open(f"{folder}/{name}", "rb").read()).tolist()


def prompt(length, first):
    prefix, haystack, needle, question = (ids(n) for n in ("prefix", "haystack", "needle", "question"))
    before = length - len(question)  # the question ends the prompt
    out, hay = prefix + needle, 0
    while len(out) < before:
        out.append(haystack[hay % len(haystack)])
        hay += 1
    straw = out[len(prefix) + len(needle):]
    cut = first - len(prefix)
    return prefix + straw[:cut] + needle + straw[cut:] + question


def ours(p, ranks):
    run = subprocess.run([mpirun, str(ranks), banyan, "generate", "--model", model, "--ids", "-", "--count", str(COUNT),
                          "--ignore-eos", "--cache", "FP32"], input=array.array("I", p).tobytes(), capture_output=True)
    if run.returncode:
        sys.exit(f"{ranks} ranks: exit code {run.returncode}: {run.stderr.decode()}")
    return [int(x) for x in run.stdout.split()]


def main():
    torch.set_num_threads(2)
    net = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    words = AutoTokenizer.from_pretrained(model)
    cells = [json.loads(line) for line in open(folder + "/dense.jsonl")]
    cells = [c for c in cells if c.get("task") == "single"]
    wrong = 0
    for c in cells:
        p = prompt(c["length"], c["needle"][0])
        assert len(p) == c["length"]
        start = time.monotonic()
        with torch.no_grad():
            out = net.generate(torch.tensor([p]), max_new_tokens=COUNT, min_new_tokens=COUNT, do_sample=False,
                               attention_mask=torch.ones(1, len(p), dtype=torch.long), eos_token_id=None)
        want = out[0, len(p):].tolist()
        theirs = time.monotonic() - start
        found = {ranks: ours(p, ranks) for ranks in (1, 2, 4)}
        same = all(f == want for f in found.values())
        wrong += not same
        print(f"{c['length']} tokens, needle at {c['first']}: {'same 16 ids on 1, 2, 4 ranks' if same else found} "
              f"{words.decode(want)!r} ({theirs:.0f} s)", flush=True)
    print(f"{len(cells) - wrong} of {len(cells)} cells equal")
    sys.exit(wrong > 0 or not cells)


main()
