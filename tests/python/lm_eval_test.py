# SPDX-License-Identifier: Apache-2.0
"""lm_eval_test.py MODEL RANKS [LIMIT]: lm-evaluation-harness on a trained model (launch/smollm writes one), its
own model `hf` alone and `banyan` over RANKS ranks: niah_single_1 and ruler_vt at 4,096 tokens, the first
LIMIT samples (10) of each, the same prompts and the same answers, sample by sample. Without a network."""
import json
import os
import pathlib
import subprocess
import sys
import tempfile

TASKS = ("niah_single_1", "ruler_vt")
MPIRUN = pathlib.Path(__file__).resolve().parent.parent / "mpirun"


def samples(command, name, model, limit, folder):
    """{(task, number): (prompt, answer, score)} of one run of the harness."""
    command = command + [
        "run", "--model", name, "--model_args", f"pretrained={model},dtype=float32,max_length=8192", "--device", "cpu",
        "--tasks", *TASKS, "--metadata", '{"max_seq_lengths":[4096]}', "--limit", str(limit),
        "--log_samples", "--output_path", str(folder)]
    done = subprocess.run(command, env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1",
                                               "BANYAN_TEST_TIMEOUT": "3600"},
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, f"{command}: exit code {done.returncode}\n{done.stdout[-4000:]}"
    found = {}
    for task in TASKS:
        files = list(folder.rglob(f"samples_{task}_*.jsonl"))
        assert len(files) == 1, f"{task}: {len(files)} files of samples: one rank writes"
        for line in files[0].read_text().splitlines():
            s = json.loads(line)
            found[task, s["doc_id"]] = (s["arguments"]["gen_args_0"]["arg_0"], s["resps"], s.get("4096"))
    return found


def main():
    model, ranks, limit = sys.argv[1], sys.argv[2], int((sys.argv + [10])[3])
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        expected = samples([sys.executable, "-m", "lm_eval"], "hf", model, limit, folder / "hf")
        found = samples([str(MPIRUN), ranks, sys.executable, "-m", "banyan.lm_eval"],
                        "banyan", model, limit, folder / "banyan")
    assert len(expected) == limit * len(TASKS) and found.keys() == expected.keys()
    for key, (prompt, answer, score) in expected.items():
        assert len(prompt) > 8000 and found[key][0] == prompt, f"{key}: another prompt"
        assert found[key][1] == answer, f"{key}: {found[key][1]} instead of {answer}"
        assert found[key][2] == score, f"{key}: scored {found[key][2]} instead of {score}"
    for task in TASKS:
        scores = [s for (name, _), (_, _, s) in expected.items() if name == task]
        print(f"{task}: {limit} of {limit} answers equal on {ranks} ranks; mean score {sum(scores) / limit:.2f}")


main()
