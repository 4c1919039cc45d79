# SPDX-License-Identifier: Apache-2.0
"""readme_test.py SOURCE BUILD PYTHON MODEL: runs the commands of README.md, CONTRIBUTING.md and every folder's
README.md as they stand, in a folder where `build`, `launch`, `configs` and `tests` are where a newcomer has
them. A command is an indented line that begins with a program; in CONTRIBUTING.md and in tables, words in
backquotes that do and are no folder. Lines that go somewhere or set a variable hold for the rest of their text,
as in the shell of who reads it, and lines further in behind a shell are typed into it, one every two seconds.
DIR is MODEL (launch/smollm makes one), text files the licence, `python` PYTHON, which has torch.

Left out, and said so: what other tests run (in a new Debian: README's first two; tests/install), what needs a
GPU, what takes hours, and, where there is no MODEL, what needs one. A line with `..` stands for many, and is
none itself."""
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

PROGRAM = re.compile(r"([A-Z_]+=\S+ )*(build/[\w/.-]+|banyan|launch/[\w-]+|(\.\./)?tests/[\w/.-]+|cmake|mpirun|pip|ctest|"
                     r"apt-get|\$c) ")
SETTING = re.compile(r"cd \S+$|(export )?\w+=\S+$")
ELSEWHERE = {
    r"launch/quickstart": "tests/bare",
    r"tests/run|tests/python/run": "tests/bare, .ci/run",
    r"tests/(bare|transports)": "their own tests, label full",
    r"launch/smollm|tests/golden/compare.sh --record": "by hand",
    r"pip": "tests/python",
    r"cmake|apt-get": "a build",
    r"tests/gpu/run|.* --device cuda": "a GPU",
    r"ctest .*-L (full|fuzz)": "half an hour and more, label full",
    r"tests/fuzz/run": "20 minutes",
    r"tests/emu/mutate$": "two hours, label full",
    r"ctest .*-R \^readme\$": "this test",
}


def paragraphs(text):
    """Runs of indented lines, continued lines joined, comments gone."""
    lines = []
    for line in text.replace("\\\n", " ").splitlines() + [""]:
        if line.startswith("    "):
            lines.append(re.split(r"\s+#\s", line[4:].rstrip())[0])
        elif lines:
            yield lines
            lines = []


def commands(source, path):
    """(what is typed, what a shell that it starts is told)."""
    text = path.read_text(encoding="utf-8")
    if path.name == "CONTRIBUTING.md":
        quoted = re.findall(r"`([^`]+)`", text.replace("\n", " "))
    else:
        rows = "".join(line for line in text.splitlines() if line.startswith("|"))
        quoted = re.findall(r"`([^`]+)`", rows.replace(r"\|", "|"))
    for word in dict.fromkeys(quoted):
        is_file = re.search(r"^\S+\.\w+$", word) or (source / word).is_dir()
        if PROGRAM.match(word + " ") and word != "banyan" and "NAME" not in word and not is_file:
            yield word, ""
    if path.name == "CONTRIBUTING.md":
        return
    before = ""
    for lines in paragraphs(text):
        for i, line in enumerate(lines):
            if SETTING.match(line):
                before += line + " && "
            elif PROGRAM.match(line + " "):
                inside = []
                for further in lines[i + 1:]:
                    if not further.startswith("  "):
                        break
                    inside.append(further.strip() + "\n")
                yield before + line, "".join(inside)


def run(command, inside, folder, env):
    start = time.monotonic()
    lines = [line if line.endswith("&") else f"{line} < /dev/null" for line in inside.splitlines()]
    told = "set -ex\n" + "".join(f"{line}\nsleep 2\n" for line in lines) if lines else ""
    done = subprocess.run(["timeout", "-k", "5", "900", "sh", "-c", command], cwd=folder, env=env, check=False,
                          input=told, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    told_all = done.stdout.count("+ sleep 2") == len(lines)
    good = done.returncode == 0 and told_all and "No tests were found" not in done.stdout
    if not good:
        print(done.stdout[-3000:])
    print(f"exit code {done.returncode}, {time.monotonic() - start:.0f} s: {command}"
          + "".join(f"\n    told: {line}" for line in inside.splitlines()), flush=True)
    return good


def main():
    source, build, python, model = (pathlib.Path(a) for a in sys.argv[1:5])
    only = re.compile(sys.argv[5] if len(sys.argv) > 5 else "")
    ran = failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for name in ("launch", "configs", "tests", "CMakePresets.json"):
            os.symlink(source / name, f"{folder}/{name}")
        os.symlink(build, f"{folder}/build")
        for name in ("text", "essays.txt", "book.txt"):
            os.symlink(source / "LICENSE", f"{folder}/{name}")
        env = {**os.environ, "PATH": f"{python.parent}:{os.environ['PATH']}", "PYTHONPATH": str(build / "python"),
               "OMPI_MCA_rmaps_base_oversubscribe": "1", "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
               "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
        texts = [source / "README.md", source / "CONTRIBUTING.md", source / "launch/python/README.md",
                 *sorted(source.glob("tests/*/README.md"))]
        for path in texts:
            for command, inside in commands(source, path):
                plain = command.split(" && ")[-1]
                other = [where for what, where in ELSEWHERE.items() if re.match(rf"({what})(?!\w)", plain)]
                if re.search(r"(^|\s)\.\.(\s|$)", command) or other:
                    print(f"left out ({', '.join(other) or 'not one command'}): {command}")
                elif "DIR" in command and not model.exists():
                    print(f"left out (no model {model}): {command}")
                elif only.search(f"{path}: {command}"):
                    ran += 1
                    failed += not run(re.sub(r"\bDIR\b", str(model), command), inside, folder, env)
    print(f"{ran} commands, {failed} failed")
    assert (ran >= 5 or only.pattern) and not failed


main()
