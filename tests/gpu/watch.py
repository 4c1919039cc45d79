#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Rows of a benchmark, each within its time, and what is known on disk at once.

watch.py --out DIR [--table NAME] [--seconds S] COMMAND ..

COMMAND measures rows one after the other. On standard output it says "@ NAME SECONDS" when it begins one
that may take so long, and prints a line of JSON for each result. A row that takes longer (a kernel that
hangs) is ended with its process, is an error line, and COMMAND is started again with "--after NAME": the
rows behind it. So is a row that ends the process. S seconds are for everything. Every line is
appended to DIR/results.jsonl and shown in DIR/NAME (table.txt) as soon as it is known.

Exit code: 0, or 1 where a row failed or was ended.
"""
import argparse
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time

START_SECONDS = 60  # until the first row begins: python, torch, a context on the device


def table(lines):
    text = ["| row | seen | ratio | bar |", "|---|---|---|---|"]
    for line in lines:
        seen = ", ".join(f"{k} {line[k]:.4g}" for k in
                         ("us", "ms", "s", "TFLOPps", "GBps", "spread") if k in line)
        ratio = line.get("ratio", line.get("over", ""))
        if isinstance(ratio, dict):
            ratio = ", ".join(f"{n} {x:.2f}" for n, x in ratio.items())
        elif ratio != "":
            ratio = f"{ratio:.3f}"
        text.append(f"| {line['row']} | {line.get('error', line.get('skipped', seen))} | {ratio} "
                    f"| {line.get('bar', '')} |")
    return "\n".join(text) + "\n"


class Log:
    def __init__(self, out, table_name):
        self.path, self.lines = os.path.join(out, table_name), []
        self.file = open(os.path.join(out, "results.jsonl"), "a")

    def add(self, line):
        self.lines.append(line)
        text = json.dumps(line)
        self.file.write(text + "\n")
        self.file.flush()
        print(text, flush=True)
        with open(self.path + ".new", "w") as f:
            f.write(table(self.lines))
        os.replace(self.path + ".new", self.path)


def read_lines(stream, to):
    for line in stream:
        to.put(line)
    to.put(None)


def run_once(command, after, log, end):
    """One process. Returns the row at which it was ended or ended itself, or None: all rows are done."""
    child = subprocess.Popen(command + (["--after", after] if after else []), text=True,
                             stdout=subprocess.PIPE, start_new_session=True)
    lines = queue.Queue()
    threading.Thread(target=read_lines, args=(child.stdout, lines), daemon=True).start()
    row, seconds, limit = None, START_SECONDS, time.monotonic() + START_SECONDS
    stopped = False
    while True:
        left = min(limit, end) - time.monotonic()
        try:
            line = lines.get(timeout=max(left, 0))
        except queue.Empty:
            stopped = True
            break
        if line is None:
            break
        if line.startswith("@ "):
            row, seconds = line[2:].rsplit(" ", 1)
            limit = time.monotonic() + float(seconds)
        elif line.startswith("{"):
            log.add(json.loads(line))
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    code = child.wait()
    if not stopped and code in (0, 1):  # it has said itself what failed
        return None
    name = row or "start"
    if stopped:
        log.add({"row": name, "error": f"stopped: not done after {float(seconds):g} s"
                 if time.monotonic() < end else "stopped: no time left"})
    else:
        log.add({"row": name, "error": f"the process ended with code {code}"})
    return name


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default=".")
    parser.add_argument("--table", default="table.txt")
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    if not args.command:
        parser.error("expected a command")
    log, after, end = Log(args.out, args.table), None, time.monotonic() + args.seconds
    while True:
        stuck = run_once(args.command, after, log, end)
        if stuck is None or stuck == "start" or stuck == after or time.monotonic() >= end:
            break
        after = stuck
    return 1 if any("error" in line for line in log.lines) else 0


if __name__ == "__main__":
    sys.exit(main())
