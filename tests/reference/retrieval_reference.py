#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Does `banyan heads` find the heads that answers come through? On SmolLM2-135M (`launch/smollm` fetches it) KV
heads are scored with three needles; then three others are asked at ten depths each, 30 in all, while 30 % of the
KV heads are dense and the rest see 4 first tokens and 64 last ones: the 30 % of the best scores, five seeded
random choices, and those of the worst scores. Printed with 95 % intervals (Wilson, J. Am. Stat. Assoc. 22, 1927).
Exit code 1: the best find fewer than the worst; 77: no model.
usage: retrieval_reference.py BANYAN MPIRUN [--model DIR] [--tokens N] [--depths N] [--ranks N] [--seed N]"""
import argparse
import json
import math
import os
import random
import re
import subprocess
import sys
import tempfile

parser = argparse.ArgumentParser(add_help=True, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("banyan")
parser.add_argument("mpirun")
parser.add_argument("--model", default=os.path.join(os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache")),
                                                    "banyan/smollm2/model"))
parser.add_argument("--tokens", default="2k")
parser.add_argument("--depths", type=int, default=10)
parser.add_argument("--ranks", default="2")
parser.add_argument("--seed", type=int, default=1)
args = parser.parse_args()
if not os.path.exists(args.model + "/tokenizer.json"):
    print(f"no {args.model}: run launch/smollm first")
    sys.exit(77)
ROOT = os.path.dirname(os.path.abspath(__file__)) + "/../.."
DENSE = 0.3
SCORED = [("The secret number of the banyan tree is", "48213"), ("The code of the green door is", "70519"),
          ("The telephone number of the lighthouse is", "36284")]
ASKED = [("The number of the night train is", "91647"), ("The combination of the old safe is", "25830"),
         ("The weight of the bronze bell in pounds is", "60372")]


def needles(path, items):
    with open(path, "w", encoding="utf-8") as out:
        json.dump([{"needle": f"{begin} {number}.", "question": f"What is {begin[0].lower()}{begin[1:-3]}?", "answer": number}
                   for begin, number in items], out)
    return path


def run(*words):
    done = subprocess.run([args.mpirun, args.ranks, args.banyan, *words, "--model", args.model, "--tokens", args.tokens,
                           "--depths", str(args.depths), "--chat", "--haystack", ROOT + "/LICENSE", "--answer-prefix",
                           "The number is"], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{words[0]}: exit code {done.returncode}: {done.stderr}")
    return done.stdout


def wilson(found, of):
    z, p = 1.959964, found / of
    middle, half = p + z * z / (2 * of), z * math.sqrt(p * (1 - p) / of + z * z / (4 * of * of))
    return (middle - half) / (1 + z * z / of), (middle + half) / (1 + z * z / of)


def choices(scores):
    """Files of scores whose best 30 % are the heads that are to be dense."""
    cells = [(layer, head) for layer in range(len(scores)) for head in range(len(scores[0]))]
    count = round(DENSE * len(cells))
    order = sorted(cells, key=lambda c: -scores[c[0]][c[1]])
    named = {"best": order[:count]}
    for i in range(5):
        named[f"random {i + 1}"] = random.Random(args.seed * 100 + i).sample(cells, count)
    named["worst"] = order[-count:]
    return {name: [[1.0 if (layer, head) in set(chosen) else 0.0 for head in range(len(scores[0]))]
                   for layer in range(len(scores))] for name, chosen in named.items()}


with tempfile.TemporaryDirectory() as here:
    run("heads", "--needles", needles(here + "/scored.json", SCORED), "--duo", here + "/heads.tsv", "--repeat", "0")
    scores = [[float(x) for x in line.split()] for line in open(here + "/heads.tsv")]
    print(f"{len(scores)} layers of {len(scores[0])} KV heads; scores {min(map(min, scores)):.3f} to {max(map(max, scores)):.3f}")
    asked, flags, names = needles(here + "/asked.json", ASKED), [], []
    for name, table in choices(scores).items():
        path = f"{here}/{name.replace(' ', '_')}.tsv"
        with open(path, "w", encoding="utf-8") as out:
            out.writelines("\t".join(str(x) for x in row) + "\n" for row in table)
        flags += ["--pattern", path]
        names.append(name)
    run("compare", "--needles", asked, *flags, "--sparsity", str(1 - DENSE), "--rest",
        "sink_window sink=4t window=64t", "--json", here + "/compare.jsonl")
    rows = [json.loads(line) for line in open(here + "/compare.jsonl")]
found = {}
for name, row in zip(["dense, all"] + names, (r for r in rows if "pattern" in r)):
    found[name], of = row["single"]
    low, high = wilson(found[name], of)
    print(f"{name:12} keeps {row['share']:.2f}, finds {found[name]:2} of {of} ({low:.2f} to {high:.2f})")
sys.exit(found["best"] < found["worst"])
