# SPDX-License-Identifier: Apache-2.0
"""rules_from_pattern: a file of another project becomes the rules of a plan. Argument: the program."""
import os
import sys
import tempfile

import banyan

program = sys.argv[1]


def refused(words, error, **given):
    try:
        banyan.rules_from_pattern(**given)
    except error as e:
        assert words in str(e), str(e)
    else:
        raise AssertionError(f"accepted: {given}")


with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, "full_attention_heads.tsv")
    with open(path, "w", encoding="utf-8") as f:
        f.write("0.9\t0.1\n0.2\t1.0\n")
    rules = banyan.rules_from_pattern(path, heads=8, sparsity=0.5, program=program)
    window = "sink_window sink=64t window=256t"
    assert rules == [banyan.Rule("dense", 0, 0, 0, 3), banyan.Rule(window, 0, 0, 4, 7),
                     banyan.Rule(window, 1, 1, 0, 3), banyan.Rule("dense", 1, 1, 4, 7)], rules
    with banyan.Comm() as comm:
        plan = banyan.Plan(comm, layers=2, heads=8, kv_heads=2, key_dim=16, max_tokens=1024,
                           rules=rules)
        assert plan.reads(0, 3, 1000, 500) and not plan.reads(0, 4, 1000, 500)
        assert plan.reads(1, 7, 1000, 500) and plan.reads(0, 4, 1000, 63)
    quoted = banyan.rules_from_pattern(folder, heads=2, rest='s2 "a\\b"', program=program)
    assert quoted[1].use == 's2 "a\\b"', quoted
    os.environ["BANYAN_PROGRAM"] = program
    refused("lists 2 KV heads a layer", banyan.ConfigError, file=path)
    refused("--sparsity and --threshold", banyan.ConfigError, file=path, heads=2, sparsity=1,
            threshold=1)
    refused("No such file", banyan.ConfigError, file=folder + "/none")
    del os.environ["BANYAN_PROGRAM"]
    os.environ["PATH"] = folder
    refused("BANYAN_PROGRAM", FileNotFoundError, file=path)
