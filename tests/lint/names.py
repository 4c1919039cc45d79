#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""names.py ROOT: one meaning a name. A type, or a function that is static to its file, has a name that no
other source file gives to one of its own, so that a breakpoint and a search find one thing. Tests may do as
they like. Prints each name that stands in several files, and each exception below that is needed no more;
exit code 1 if there are any.
"""
import collections
import pathlib
import re
import sys

FOLDERS = ("attention", "comm", "dist", "launch")
ENDINGS = (".c", ".h", ".cu", ".cc")

# (files, names, why): names that several files may have, at most 20 such lines.
ALLOWED = [
    (r"attention/vec_\w+\.h", r"(vec|pairs)(_\w+)?",
     "one contract, with an implementation for each kind of processor"),
]

ATTRIBUTE = re.compile(r"__\w+__\s*(?=\()")


def plain(text):
    """The text without comments, strings and preprocessor lines."""
    text = re.sub(r"//[^\n]*|/\*.*?\*/|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'", " ", text, flags=re.S)
    return re.sub(r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", "", text, flags=re.M)


def statements(text):
    """Each declaration at the outermost level (or in extern "C"), its outermost braces as "{}"."""
    depth, start, head = 0, 0, ""
    for at, c in enumerate(text):
        if c == "{" and depth == 0 and re.search(r"\b(extern|namespace)\s+(\w+\s*)?$", text[start:at]):
            start = at + 1
        elif c == "}" and depth == 0:
            start = at + 1
        elif c == "{":
            if depth == 0:
                head += text[start:at] + "{}"
            depth += 1
        elif c == "}":
            depth -= 1
            start = at + 1
            if depth == 0 and re.search(r"\)[^;=]*\{\}$", head) and "typedef" not in head:
                yield head  # a function's body ends its declaration
                head = ""
        elif c == ";" and depth == 0:
            yield head + text[start:at]
            head, start = "", at + 1


def without_attributes(text):
    """Without __attribute__((..)), __launch_bounds__(..) .., whose parentheses are no function's."""
    while found := ATTRIBUTE.search(text):
        end, depth = found.end(), 0
        while end == found.end() or depth:
            depth += {"(": 1, ")": -1}.get(text[end], 0)
            end += 1
        text = text[: found.start()] + " " + text[end:]
    return text


def static_function(statement, static):
    """The name of the function that the statement declares or defines as static, or None."""
    if "typedef" in statement or not static.search(statement):
        return None
    statement = without_attributes(statement)
    found = re.search(r"(\w+)\s*\(", statement)
    return None if not found or "=" in statement[: found.start()] else found.group(1)


def types(text):
    """Names of the types that a file defines: tags with a body, and typedefs other than of a tag alone."""
    text = without_attributes(text)
    names = set(re.findall(r"\b(?:struct|union|enum)\s+(\w+)\s*\{", text))
    for statement in statements(text):
        typedef = re.search(r"\btypedef\b(.*)", statement, flags=re.S)
        if not typedef:
            continue
        same = re.fullmatch(r"\s*(?:struct|union|enum)\s+(\w+)\s+(\w+)\s*", typedef.group(1))
        if same and same.group(1) == same.group(2):
            continue  # a forward declaration: the body counts, where it stands
        pointer = re.search(r"\(\s*\*\s*(\w+)\s*\)", typedef.group(1))
        words = re.findall(r"\w+", re.sub(r"\[[^]]*\]|\([^)]*\)", "", typedef.group(1)))
        names.add(pointer.group(1) if pointer else words[-1])
    return names


def main():
    root = pathlib.Path(sys.argv[1])
    paths = [*root.glob("*"), *(path for folder in FOLDERS for path in (root / folder).rglob("*"))]
    sources = {str(path.relative_to(root)): path.read_text()
               for path in sorted(paths) if path.suffix in ENDINGS and path.is_file()}
    if len(sources) < 100:
        sys.exit(f"names: {len(sources)} files in {root}; expected the sources of the project")
    # Some headers have a word of their own that means static.
    words = {word for text in sources.values() for word in re.findall(r"#define (\w+) static\b", text)}
    static = re.compile(r"\b(static|" + "|".join(sorted(words)) + r")\b")
    of = {"type": collections.defaultdict(set), "static function": collections.defaultdict(set)}
    for name, text in sources.items():
        text = plain(text)
        for found in types(text):
            of["type"][found].add(name)
        for statement in statements(text):
            if found := static_function(statement, static):
                of["static function"][found].add(name)
    faults, needed = [], set()
    for kind, names in of.items():
        for name, files in sorted(names.items()):
            excused = {i for i, (where, what, _) in enumerate(ALLOWED)
                       if re.fullmatch(what, name) and all(re.fullmatch(where, file) for file in files)}
            if len(files) > 1 and not excused:
                faults.append(f"{kind} {name}: in {len(files)} files: {' '.join(sorted(files))}")
            elif len(files) > 1:
                needed |= excused
    faults += [f"exception needed no more: {what} in {where}"
               for i, (where, what, _) in enumerate(ALLOWED) if i not in needed]
    if len(ALLOWED) > 20:
        faults.append(f"{len(ALLOWED)} exceptions; at most 20")
    print("\n".join(faults) or f"{len(sources)} files, {sum(map(len, of.values()))} names, one meaning each")
    sys.exit(bool(faults))


main()
