#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What SmolLM2 says after every haystack of `launch/smollm`, against transformers in fp32: each cell's prompt
is put together anew from the texts, with the `tokenizers` package, at the place that the run wrote; the next
16 ids of `banyan generate` on 1, 2 and 4 ranks must be those of transformers, and where needle ran with an fp32
cache its probability of the answer must be theirs. Exit code 77: no torch, or no such run.
usage: smollm_reference.py BANYAN MPIRUN FOLDER OF launch/smollm [MODEL FOLDER]"""
import array
import json
import os
import subprocess
import sys
import tempfile
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


ROOT = os.path.dirname(os.path.abspath(__file__)) + "/../.."
NEEDLE = "The secret number of the banyan tree is 48213."
QUESTION = "What is the secret number of the banyan tree?"
BEGIN, ANSWER = "The secret number of the banyan tree is", "48213"


class Texts:
    """The parts of launch/smollm's prompts as ids."""

    def __init__(self, words):
        ids = lambda text: words.encode(text, add_special_tokens=False)
        self.prefix, self.needle = ids("<|im_start|>user\n"), ids(f"\n{NEEDLE}\n")
        self.haystack = ids(open(ROOT + "/LICENSE", encoding="utf-8").read())
        self.question = ids(f"\n\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n{BEGIN}")
        self.answer = ids(f"{BEGIN} {ANSWER}")[len(ids(BEGIN)):]

    def prompt(self, length, first):
        before = length - len(self.question)  # the question ends the prompt
        hay = [self.haystack[i % len(self.haystack)] for i in range(before)]
        cut = first - len(self.prefix)
        out = self.prefix + hay[:cut] + self.needle + hay[cut:]
        return out[:before] + self.question


def ours(p, ranks):
    run = subprocess.run([mpirun, str(ranks), banyan, "generate", "--model", model, "--ids", "-", "--count", str(COUNT),
                          "--ignore-eos", "--cache", "FP32"], input=array.array("I", p).tobytes(), capture_output=True)
    if run.returncode:
        sys.exit(f"{ranks} ranks: exit code {run.returncode}: {run.stderr.decode()}")
    return [int(x) for x in run.stdout.split()]


def logprob(net, p, answer):
    """ln of the probability that the answer follows."""
    with torch.no_grad():
        logits = net(torch.tensor([p + answer])).logits[0].double()
    rows = logits[len(p) - 1:len(p) - 1 + len(answer)].log_softmax(-1)
    return float(sum(rows[i, a] for i, a in enumerate(answer)))


def measured(lengths):
    """Cells of a needle run with an fp32 cache."""
    with tempfile.TemporaryDirectory() as here:
        subprocess.run([mpirun, "2", banyan, "needle", "--model", model, "--lengths", lengths, "--depths", "5", "--task", "single",
                        "--chat", "--haystack", ROOT + "/LICENSE", "--needle", NEEDLE, "--question", QUESTION, "--answer", ANSWER,
                        "--answer-prefix", BEGIN, "--set", "cache.dtype=FP32", "--results", here + "/r"],
                       check=True, capture_output=True)
        return [json.loads(line) for line in open(here + "/r") if '"cell"' in line]


def main():
    torch.set_num_threads(2)
    net = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    words = AutoTokenizer.from_pretrained(model)
    texts = Texts(words)
    cells = [json.loads(line) for line in open(folder + "/dense.jsonl")]
    cells = [c for c in cells if c.get("task") == "single"]
    wrong = 0
    for c in cells:
        p = texts.prompt(c["length"], c["needle"][0])
        assert len(p) == c["length"] and c["expected"] == texts.answer
        start = time.monotonic()
        with torch.no_grad():
            out = net.generate(torch.tensor([p]), max_new_tokens=COUNT, min_new_tokens=COUNT, do_sample=False,
                               attention_mask=torch.ones(1, len(p), dtype=torch.long), eos_token_id=None)
        want = out[0, len(p):].tolist()
        theirs = time.monotonic() - start
        found = {ranks: ours(p, ranks) for ranks in (1, 2, 4)}
        same = all(f == want for f in found.values())
        wrong += not same
        print(f"{c['length']} tokens, needle at {c['needle'][0]}: {'same 16 ids on 1, 2, 4 ranks' if same else found} "
              f"{words.decode(want)!r} ({theirs:.0f} s)", flush=True)
    worst = 0
    for c in measured("1k"):
        p = texts.prompt(c["length"], c["needle"][0])
        worst = max(worst, abs(c["answer_logprob"] - logprob(net, p, texts.answer)))
    print(f"{len(cells) - wrong} of {len(cells)} cells equal; ln of the answer's probability within {worst:.1e}")
    sys.exit(wrong > 0 or not cells or worst > 1e-3)


main()
