#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""classes.py CLASSES.inc CANON.inc: the character tables of the tokenizer, made once and checked in.

They are asked of the `tokenizers` package itself, code point by code point, since what counts is which
version of Unicode its regular expressions and its NFC know: ids must be equal, not up to date.

classes.inc   RANGE(first, count, class), ascending; what is in no range is OTHER. In a range of PAIRS
              UPPER and LOWER take turns. LATE: a number for Digits alone, whose Unicode is younger.
canon.inc     CLASS(first, count, combining class), then MAP(code point, a, b, composes): the canonical
              decomposition in one step (b 0: into one character), and whether NFC puts it together again.
"""
import sys
import unicodedata
from tokenizers import Regex, normalizers, pre_tokenizers
import tokenizers

ALL = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]


def members(pattern):
    split = pre_tokenizers.Split(Regex(pattern), behavior="removed", invert=True)
    out = set()
    for first in range(0, len(ALL), 4096):
        text = "".join(map(chr, ALL[first : first + 4096]))
        for piece, _ in split.pre_tokenize_str(text):
            out.update(map(ord, piece))
    return out


def ranges(kind):
    """[first, count, class] of a map from code points to classes."""
    out = []
    for c in sorted(kind):
        if out and out[-1][0] + out[-1][1] == c and out[-1][2] == kind[c]:
            out[-1][1] += 1
        else:
            out.append([c, 1, kind[c]])
    return out


def pairs(found):
    """Runs of one UPPER, one LOWER, one UPPER, .. as one range each."""
    out = []
    for first, count, kind in found:
        last = out[-1] if out else None
        turn = ("UPPER", "LOWER")[last[1] % 2] if last and last[2] == "PAIRS" else "LOWER"
        if last and last[0] + last[1] == first and count == 1 and kind == turn and (
            last[2] == "PAIRS" or (last[2] == "UPPER" and last[1] == 1)
        ):
            last[1] += 1
            last[2] = "PAIRS"
        else:
            out.append([first, count, kind])
    return out


def write(path, rows, what):
    with open(path, "w") as f:
        f.write("/* SPDX-License-Identifier: Apache-2.0 */\n")
        f.write(f"/* {what}, as tokenizers {tokenizers.__version__} has them; made by classes.py */\n")
        line = ""
        for row in rows:
            if len(line) + len(row) > 95:
                f.write(line.rstrip() + "\n")
                line = ""
            line += row + " "
        f.write(line.rstrip() + "\n")


def classes():
    kind = {}
    for name, pattern in (
        ("UPPER", r"[\p{Lu}\p{Lt}]"), ("LOWER", r"\p{Ll}"), ("LETTER", r"[\p{Lm}\p{Lo}]"), ("MARK", r"\p{M}"),
        ("NUMBER", r"\p{N}"), ("SPACE", r"\s"), ("PUNCTUATION", r"\p{P}"), ("SYMBOL", r"\p{S}"),
    ):
        for c in members(pattern):
            assert c not in kind, f"U+{c:04X} is {kind[c]} and {name}"
            kind[c] = name
    digits = pre_tokenizers.Digits(individual_digits=True)  # another engine, with another Unicode
    late = [c for c in ALL if len(digits.pre_tokenize_str("a" + chr(c) + "b")) > 1 and kind.get(c) != "NUMBER"]
    assert not any(c in kind for c in late)
    kind.update(dict.fromkeys(late, "LATE"))
    assert members(r"\p{L}") == {c for c in kind if kind[c] in ("UPPER", "LOWER", "LETTER")}
    return kind


def canon():
    nfd, nfc = normalizers.NFD().normalize_str, normalizers.NFC().normalize_str
    ccc = {}
    for c in ALL:
        # a mark of class k goes before one of a higher class and behind one of a lower: known to the package?
        k = unicodedata.combining(chr(c))
        if k and (nfd("\u0345" + chr(c))[0] != "\u0345" or nfd(chr(c) + "\u0334")[-1] != "\u0334" or k in (1, 240)):
            ccc[c] = k
    maps = []
    for c in ALL:
        full = nfd(chr(c))
        if full == chr(c) or 0xAC00 <= c < 0xD7A4:  # Hangul is arithmetic
            continue
        if nfc(chr(c)) == chr(c):
            a, b = nfc(full[:-1]), full[-1]
            assert len(a) == 1, hex(c)
            maps.append((c, ord(a), ord(b), 1))
            continue
        step = [int(x, 16) for x in unicodedata.decomposition(chr(c)).split()]
        assert len(step) in (1, 2) and "".join(nfd(chr(x)) for x in step) == full, hex(c)
        maps.append((c, step[0], step[1] if len(step) > 1 else 0, 0))
    return ccc, maps


def main():
    found = pairs(ranges(classes()))
    write(sys.argv[1], [f"RANGE({a:#x},{n},{k})" for a, n, k in found], "Classes of characters")
    ccc, maps = canon()
    rows = [f"CLASS({a:#x},{n},{k})" for a, n, k in ranges(ccc)]
    rows += [f"MAP({c:#x},{a:#x},{b:#x},{y})" for c, a, b, y in maps]
    write(sys.argv[2], rows, "Canonical decompositions")


if __name__ == "__main__":
    main()
