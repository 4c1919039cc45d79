#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""abi.py BANYAN_H OUT: writes the ctypes tables of banyan.h: its enums, structs and functions.

Reads the subset of C that banyan.h is written in (tests/python/abi.sh compares sizes and offsets of
the result with a compiled C program). What it does not understand is an error, never left out.
"""
import re
import sys

NUMBERS = {
    "void": "None", "int": "C.c_int", "char": "C.c_char", "float": "C.c_float",
    "double": "C.c_double", "size_t": "C.c_size_t", "int32_t": "C.c_int32",
    "uint32_t": "C.c_uint32", "int64_t": "C.c_int64", "uint64_t": "C.c_uint64",
}


def fail(text):
    sys.exit(f"abi.py: cannot read: {' '.join(text.split())[:200]}")


def python_name(name):
    """banyan_layer_shape -> LayerShape; the functions keep their C names."""
    return "".join(word.capitalize() for word in name.removeprefix("banyan_").split("_"))


class Header:
    """What is declared, in the order of the file."""

    def __init__(self, text):
        text = re.sub(r"/\*.*?\*/", " ", text, flags=re.S)
        text = re.sub(r"\\\n", " ", text)
        text = re.sub(r"^\s*#.*$", "", text, flags=re.M)
        text = text.replace('extern "C" {', " ")
        text = re.sub(r"static inline [^{;]*\{[^{}]*\}", " ", text)
        self.enums, self.structs, self.opaque, self.callbacks = {}, {}, set(), {}
        self.functions, self.constants = {}, {}
        for statement in self.statements(text):
            self.declare(statement)

    @staticmethod
    def statements(text):
        """Up to each ; that is outside of braces."""
        depth, start = 0, 0
        for i, c in enumerate(text):
            if c == "{":
                depth += 1
            elif c == "}":
                depth -= 1
                if depth < 0:  # closes extern "C"
                    depth, start = 0, i + 1
            elif c == ";" and depth == 0:
                statement = text[start:i].strip()
                start = i + 1
                if statement:
                    yield statement
        if text[start:].strip():
            fail(text[start:])

    def declare(self, s):
        if m := re.fullmatch(r"(?:typedef\s+)?enum\s+(\w*)\s*\{(.*)\}\s*(\w*)", s, re.S):
            self.enum(m[1] or m[3], m[2])
        elif m := re.fullmatch(r"typedef\s+struct\s+(\w+)\s*\{(.*)\}\s*(\w+)", s, re.S):
            self.structs[m[1]] = [f for line in m[2].split(";") if line.strip()
                                  for f in self.fields(line)]
        elif m := re.fullmatch(r"typedef\s+struct\s+(\w+)\s+(\w+)", s):
            self.opaque.add(m[1])
        elif m := re.fullmatch(r"typedef\s+(.+?)\(\s*\*\s*(\w+)\s*\)\s*\((.*)\)", s, re.S):
            self.callbacks[m[2]] = (self.type(m[1]), self.arguments(m[3]))
        elif m := re.fullmatch(r"BANYAN_API\s+(.+?)(\w+)\s*\((.*)\)", s, re.S):
            self.functions[m[2]] = (self.type(m[1], result=True), self.arguments(m[3]))
        else:
            fail(s)

    def enum(self, name, body):
        values, value = [], -1
        for member in body.split(","):
            if not member.strip():
                continue
            m = re.fullmatch(r"\s*(\w+)\s*(?:=\s*(-?\w+))?\s*", member) or fail(member)
            value = int(m[2], 0) if m[2] else value + 1
            values.append((m[1], value))
        if name:
            self.enums[name] = values
        else:
            self.constants.update(values)

    def fields(self, line):
        """`const float *a, b[4]` -> (name, type) of each."""
        m = re.fullmatch(r"\s*((?:const\s+)?(?:struct\s+)?\w+)\s*(.*)", line, re.S) or fail(line)
        for declarator in m[2].split(","):
            d = re.fullmatch(r"\s*((?:\*\s*(?:const\s*)?)*)(\w+)\s*(?:\[(\w+)\])?\s*",
                             declarator) or fail(line)
            kind = self.type(m[1] + d[1])
            if d[3]:
                kind = f"{kind} * {self.constants.get(d[3], d[3])}"
            yield d[2], kind

    def arguments(self, text):
        if text.strip() == "void":
            return []
        return [self.type(re.sub(r"\w+\s*$", "", a) if re.search(r"[\w*]\s*\w+\s*$", a) and
                          not re.fullmatch(r"\s*\w+\s*", a) else a) for a in text.split(",")]

    def type(self, text, result=False):
        stars = text.count("*")
        base = re.sub(r"\*|\bconst\b|\bstruct\b", " ", text).strip()
        if stars == 1 and base == "char":
            return "C.c_char_p"
        if stars == 1 and result and base in self.structs:
            return f"C.POINTER({python_name(base)})"
        if stars:
            return "C.c_void_p"  # takes an address, byref(), and an array
        if base in NUMBERS:
            return NUMBERS[base]
        if base in self.enums:
            return "C.c_int"
        if base in self.structs or base in self.callbacks:
            return python_name(base)
        fail(text)

    def write(self, out):
        out.write('"""Made from banyan.h by abi.py; not to be edited."""\n')
        out.write("import ctypes as C\nimport enum\n")
        for name, values in self.enums.items():
            out.write(f"\n\nclass {python_name(name)}(enum.IntEnum):\n")
            for member, value in values:
                out.write(f"    {member.removeprefix('BANYAN_')} = {value}\n")
        for name, (result, arguments) in self.callbacks.items():
            out.write(f"\n\n{python_name(name)} = C.CFUNCTYPE({', '.join([result] + arguments)})\n")
        for name, fields in self.structs.items():
            out.write(f"\n\nclass {python_name(name)}(C.Structure):\n    _fields_ = [\n")
            for field, kind in fields:
                out.write(f'        ("{field}", {kind}),\n')
            out.write("    ]\n")
        out.write(f"\n\nSTRUCTS = {{{', '.join(f'{n!r}: {python_name(n)}' for n in self.structs)}}}\n")
        out.write("\nFUNCTIONS = {\n")
        for name, (result, arguments) in self.functions.items():
            out.write(f'    "{name}": ({result}, [{", ".join(arguments)}]),\n')
        out.write("}\n")


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    with open(sys.argv[1], encoding="utf-8") as f:
        header = Header(f.read())
    with open(sys.argv[2], "w", encoding="utf-8") as f:
        header.write(f)


if __name__ == "__main__":
    main()
