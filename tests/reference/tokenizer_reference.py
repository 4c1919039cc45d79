#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`banyan tokenize` against `tokenizers`: vocabularies of every kind, trained here, and the real ones in the
folders given; a million ids and more of text, sources, random Unicode, added tokens and long runs. Ids and
the text that they give back must be equal. Exit code 77: no `tokenizers` here.
usage: tokenizer_reference.py BANYAN [FOLDER WITH tokenizer.json ..]"""
import array
import os
import random
import subprocess
import sys
import tempfile
import time

try:
    from tokenizers import Tokenizer
except ImportError:
    print("no tokenizers here")
    sys.exit(77)
import vocabularies

banyan, folders = sys.argv[1], sys.argv[2:]
root = os.path.dirname(os.path.abspath(__file__)) + "/../.."


def run(folder, data, *flags):
    p = subprocess.run([banyan, "tokenize", "--model", folder, *flags], input=data, capture_output=True)
    if p.returncode:
        sys.exit(f"{folder}: exit code {p.returncode}: {p.stderr.decode()}")
    return p.stdout


def differ(a, b):
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


def compare(kind, folder, texts):
    t = Tokenizer.from_file(folder + "/tokenizer.json")
    ids = 0
    for name, text in texts.items():
        for ends in (False, True):
            want = t.encode(text, add_special_tokens=ends).ids
            got = array.array("I", run(folder, text.encode(), "--u32", *(["--ends"] if ends else []))).tolist()
            ids += len(want)
            if got != want:
                i = differ(got, want)
                sys.exit(f"{kind}: {name}: ids differ at {i} of {len(want)}: "
                         f"{[t.decode([k]) for k in got[i - 2 : i + 4]]}, expected {[t.decode([k]) for k in want[i - 2 : i + 4]]}")
        if not want:
            continue
        back = run(folder, array.array("I", want).tobytes(), "--decode")
        right = t.decode(want, skip_special_tokens=False).encode()
        if back != right:
            i = differ(back, right)
            sys.exit(f"{kind}: {name}: the text differs at byte {i}: {back[i - 20 : i + 20]}, expected {right[i - 20 : i + 20]}")
    return ids


def main():
    english, sources = "".join(vocabularies.english()), "".join(vocabularies.sources(root))
    training = [english[:400000], sources[:800000]] + ["漢字 école über naïve"] * 50
    with tempfile.TemporaryDirectory() as work:
        found = {f: f for f in folders}
        for kind in vocabularies.KINDS:
            found[kind] = f"{work}/{kind}"
            os.mkdir(found[kind])
            vocabularies.make(kind, training, 8000).save(found[kind] + "/tokenizer.json")
        for kind, folder in found.items():
            names = vocabularies.added(Tokenizer.from_file(folder + "/tokenizer.json"))[:40]
            r = random.Random(kind)
            runs = "".join(c * 20000 for c in ("a", " ", "\n", "<", "é", "\u0301", "漢", "A", "1", "'s"))
            start = time.monotonic()
            ids = compare(kind, folder, {
                "English": english, "sources": sources, "disorder": vocabularies.disorder(r, 150000, names),
                "Unicode": "".join(chr(c) for c in (r.randint(0x20, 0x2FFFF) for _ in range(100000))
                                   if not 0xD800 <= c < 0xE000),
                "runs": runs, "nothing": ""})
            print(f"{kind}: {ids} ids equal, and their text ({time.monotonic() - start:.0f} s)", flush=True)
            assert ids > 1000000, "too little text"


main()
