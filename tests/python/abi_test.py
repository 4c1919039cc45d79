# SPDX-License-Identifier: Apache-2.0
"""abi_test.py INCLUDE_DIR CC: every struct of the Python tables has the size and the offsets that a C
compiler gives it, every enum its values, every function of banyan.h its place in the library."""
import ctypes
import enum
import os
import re
import subprocess
import sys
import tempfile

from banyan import _abi
from banyan._library import raw


def c_program():
    """Prints what this file compares, a line each."""
    lines = ['#include "banyan.h"', "#include <stdio.h>", "int main(void) {"]
    for name, struct in _abi.STRUCTS.items():
        lines.append(f'printf("{name} %zu\\n", sizeof({name}));')
        for field in struct._fields_:
            lines.append(f'printf("{name}.{field[0]} %zu %zu\\n", offsetof({name}, {field[0]}), '
                         f"sizeof((({name} *)0)->{field[0]}));")
    for members in enums():
        for m in members:
            lines.append(f'printf("BANYAN_{m.name} %d\\n", (int)BANYAN_{m.name});')
    return "\n".join(lines + ["return 0;", "}"])


def enums():
    return [e for e in vars(_abi).values()
            if isinstance(e, type) and issubclass(e, enum.IntEnum) and e is not enum.IntEnum]


def python_lines():
    for name, struct in _abi.STRUCTS.items():
        yield f"{name} {ctypes.sizeof(struct)}"
        for field in struct._fields_:
            place = getattr(struct, field[0])
            yield f"{name}.{field[0]} {place.offset} {place.size}"
    for members in enums():
        for m in members:
            yield f"BANYAN_{m.name} {int(m)}"


def main(include, cc):
    with tempfile.TemporaryDirectory() as folder:
        source, program = os.path.join(folder, "abi.c"), os.path.join(folder, "abi")
        with open(source, "w", encoding="utf-8") as f:
            f.write(c_program())
        subprocess.run([cc, "-I", include, source, "-o", program], check=True)
        told = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    assert told.split("\n")[:-1] == list(python_lines()), "C and Python differ"
    with open(os.path.join(include, "banyan.h"), encoding="utf-8") as f:
        header = f.read()
    declared = set(re.findall(r"BANYAN_API[^;(]*?(banyan_\w+)\s*\(", header))
    assert not raw, "the library was loaded before anything was asked of it"
    raw["banyan_version"]()
    assert declared == set(raw), f"functions that differ: {declared ^ set(raw)}"
    structs = set(re.findall(r"\}\s*(banyan_\w+);", header)) - set(re.findall(
        r"typedef enum (\w+)", header))
    assert structs == set(_abi.STRUCTS), f"structs that differ: {structs ^ set(_abi.STRUCTS)}"


main(*sys.argv[1:])
