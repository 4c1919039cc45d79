# SPDX-License-Identifier: Apache-2.0
"""readme_test.py SOURCE BUILD PYTHON MODEL: runs the commands of the README files as they stand, each indented
line that begins with a program, in a folder where `build`, `launch`, `configs` and `tests` are where a
newcomer has them. DIR is MODEL (launch/smollm makes one), text files the licence, `python` PYTHON, which has torch.

Left out, and said so: what other tests run (in a new Debian: README's first two; tests/install), what needs a
GPU, and, where there is no MODEL, what needs one. A line with `..` stands for many, and is none itself."""
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

PROGRAMS = ("build/banyan ", "banyan ", "launch/", "tests/", "cmake ", "mpirun ", "pip ", "ctest ")
ELSEWHERE = {"launch/quickstart": "tests/bare", "tests/run": "tests/bare", "launch/smollm": "by hand",
             "pip": "tests/python", "cmake": "a build", "tests/gpu/run": "a GPU"}


def commands(readme):
    text = readme.read_text(encoding="utf-8").replace("\\\n", " ")
    for line in text.splitlines():
        command = re.split(r"\s+#\s", line.strip())[0]
        if line.startswith("    ") and command.startswith(PROGRAMS):
            yield command


def run(command, folder, env):
    start = time.monotonic()
    done = subprocess.run(["timeout", "-k", "5", "900", "sh", "-c", command], cwd=folder, env=env, check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        print(done.stdout[-3000:])
    print(f"exit code {done.returncode}, {time.monotonic() - start:.0f} s: {command}", flush=True)
    return done.returncode == 0


def main():
    source, build, python, model = (pathlib.Path(a) for a in sys.argv[1:5])
    ran = failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for name in ("launch", "configs", "tests"):
            os.symlink(source / name, f"{folder}/{name}")
        os.symlink(build, f"{folder}/build")
        for name in ("text", "essays.txt", "book.txt"):
            os.symlink(source / "LICENSE", f"{folder}/{name}")
        env = {**os.environ, "PATH": f"{python.parent}:{os.environ['PATH']}", "PYTHONPATH": str(build / "python"),
               "OMPI_MCA_rmaps_base_oversubscribe": "1", "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
               "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
        for readme in (source / "README.md", source / "launch/python/README.md"):
            for command in commands(readme):
                other = [where for what, where in ELSEWHERE.items() if re.match(f"{what}\\b", command)]
                if ".." in command or other:
                    print(f"left out ({', '.join(other) or 'not one command'}): {command}")
                elif "DIR" in command and not model.exists():
                    print(f"left out (no model {model}): {command}")
                else:
                    ran += 1
                    failed += not run(re.sub(r"\bDIR\b", str(model), command), folder, env)
    print(f"{ran} commands, {failed} failed")
    assert ran >= 5 and not failed


main()
