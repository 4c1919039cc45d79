#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""save_kill PROGRAM MPIRUN [N [SEED]]: N times (20) a save over an older snapshot dies by SIGKILL, at a
moment that SEED chooses (1): all ranks, or one. After each, the older snapshot or the new one opens, and is
what it was: PROGRAM (save_steps.c) on another number of ranks says which. Exit code 1: neither, or a mixture;
77: no mpirun."""
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time


def start(mpirun, ranks, program, *words):
    launcher = [mpirun, str(ranks)] if ranks > 1 else []
    return subprocess.Popen([*launcher, program, *map(str, words)], stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True)


def check(mpirun, ranks, program, folder):
    """Which save the snapshot is of; None: it does not open, or holds something else."""
    job = start(mpirun, ranks, program, "check", folder)
    words = job.communicate()[0]
    said = [line for line in words.split("\n") if line.startswith("is save ")]
    return (int(said[0].split()[2]), words) if job.returncode == 0 and said else (None, words)


def one(mpirun, program, folder, ranks, number, chance, usual):
    """Save `number` over the one before; True: it was through before it was killed."""
    job = start(mpirun, ranks, program, "save", folder, number)
    pids = []
    for line in job.stdout:  # "rank R is process P", and when they begin to save: "saves"
        if line.startswith("rank "):
            pids.append(int(line.split()[4]))
        if line.startswith("saves"):
            break
    time.sleep(chance.random() * usual * 1.5)
    whole = chance.random() < .5
    victims = pids if whole else [chance.choice(pids)]
    for pid in victims:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    job.stdout.read()
    return job.wait() == 0


def main():
    program, mpirun = sys.argv[1:3]
    count = int(sys.argv[3]) if len(sys.argv) > 3 else 20
    chance = random.Random(int(sys.argv[4]) if len(sys.argv) > 4 else 1)
    if not shutil.which("mpirun"):
        print("no mpirun")
        return 77
    folder = tempfile.mkdtemp()
    snapshot = os.path.join(folder, "s")
    seen, old, bad = [0, 0], 1, 0
    job = start(mpirun, 3, program, "save", snapshot, 1)
    words = job.communicate()[0]
    usual = [float(line.split()[1]) for line in words.split("\n") if line.startswith("took ")]
    if job.returncode or not usual:
        sys.exit("the first save: " + words)
    for i in range(count):
        through = one(mpirun, program, snapshot, chance.choice((2, 3)), old + 1, chance, usual[0])
        found, words = check(mpirun, 2 if i % 5 == 0 else 1, program, snapshot)
        if found not in (old, old + 1) or (through and found != old + 1):
            bad += 1
            print("WRONG %d: after save %d over %d: %s: %s" % (i, old + 1, old, found, words), flush=True)
            break
        seen[found - old] += 1
        old = found
    # One that is let alone removes what they left.
    anew = old + 1 + (3 - old % 3) % 3  # which names no blocks of others
    job = start(mpirun, 2, program, "save", snapshot, anew)
    words = job.communicate()[0]
    left = [n for n in os.listdir(snapshot) if n not in ("manifest", "lock")]
    if job.returncode or len(left) != 5:
        bad += 1
        print("WRONG: left in the end: %s %s" % (sorted(left), words))
    if len(sys.argv) > 3:
        print("%d saves: %d times the old snapshot, %d times the new one" % (count, *seen))
    if count >= 20 and not all(seen):
        bad += 1
        print("WRONG: %d times the old one, %d times the new one: no chance at one of them" % tuple(seen))
    shutil.rmtree(folder)
    return 1 if bad else 0


sys.exit(main())
