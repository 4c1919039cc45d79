#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""circles.py BUILD: no circle of source files at link time, and no call between folders that may not know
each other. Read from the objects of the library and of the program: a file depends on another when it has
an undefined symbol that the other one defines. Prints the edges of each circle; exit code 1 if there are any.
"""
import collections
import os
import subprocess
import sys

TARGETS = ("banyan", "banyan_launch", "banyan_program")
# Upwards, and sideways: attention and comm know banyan.h alone.
FORBIDDEN = {("attention", "comm"), ("comm", "attention"), ("attention", "dist"), ("comm", "dist")} | {
    (below, "launch") for below in ("attention", "comm", "dist", "banyan.c", "banyan_memory.c")
} | {(below, folder) for below in ("banyan.c", "banyan_memory.c") for folder in ("attention", "comm", "dist")}


def objects(build):
    """{source file: its object}, of all targets."""
    found = {}
    for target in TARGETS:
        top = os.path.join(build, "CMakeFiles", target + ".dir")
        for folder, _, files in os.walk(top):
            for name in files:
                if name.endswith(".o"):
                    path = os.path.join(folder, name)
                    found[os.path.relpath(path, top)[:-2]] = path
    return found


def symbols(path):
    """(defined, undefined) names of an object that other objects can see."""
    defined, undefined = set(), set()
    for line in subprocess.check_output(["nm", "-g", path], text=True).splitlines():
        *_, kind, name = line.split()
        (undefined if kind in "Uwv" else defined).add(name)
    return defined, undefined


def edges(found):
    """{file: {file: names that it uses of it}}"""
    of = {name: symbols(path) for name, path in found.items()}
    owner = {symbol: name for name, (defined, _) in of.items() for symbol in defined}
    uses = {name: collections.defaultdict(set) for name in of}
    for name, (_, undefined) in of.items():
        for symbol in undefined:
            if owner.get(symbol, name) != name:
                uses[name][owner[symbol]].add(symbol)
    return uses


def circles(uses):
    """Files left after those that use nothing, or are used by nobody, have been taken away again and again."""
    left = set(uses)
    while True:
        used = {to for name in left for to in uses[name] if to in left}
        stays = {name for name in used if any(to in left for to in uses[name])}
        if stays == left:
            return left
        left = stays


def main():
    found = objects(sys.argv[1])
    if len(found) < 50:
        sys.exit(f"circles: {len(found)} objects in {sys.argv[1]}; expected those of the library and the program")
    uses = edges(found)
    faults = []
    round_ = circles(uses)
    for name in sorted(round_):
        for to in sorted(set(uses[name]) & round_):
            faults.append(f"in a circle, or between two: {name} -> {to}: {', '.join(sorted(uses[name][to])[:4])}")
    for name in sorted(uses):
        for to in sorted(uses[name]):
            if (name.split("/")[0], to.split("/")[0]) in FORBIDDEN:
                faults.append(f"{name} must not use {to}: {', '.join(sorted(uses[name][to])[:4])}")
    print("\n".join(faults) or f"{len(found)} files, no circle")
    sys.exit(bool(faults))


main()
