#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# sizes.sh ROOT: files of at most 500 lines (banyan.h, all of the API: 700), functions of at most 80, a licence line in every source.
# A function is what clang-format leaves between "{" and "}" in the first column.
cd "$1" || exit 2
faults=$(find attention comm dist launch tests banyan.h -name '*.[ch]' -o -name '*.cc' -o -name '*.cu' | sort |
  while read -r f; do
    awk -v f="$f" '
      NR == 1 && !/SPDX-License-Identifier: Apache-2.0/ { print f ": the first line is not the licence line" }
      /^{/ { start = NR }
      /^}/ { if (start && NR - start - 1 > 80) print f ":" start ": a function of " NR - start - 1 " lines (80 at most)"; start = 0 }
      length($0) > 96 { print f ":" NR ": a line of " length($0) " characters" }
      END { most = f == "banyan.h" ? 700 : 500; if (NR > most) print f ": " NR " lines (" most " at most)" }' "$f"
  done)
[ -z "$faults" ] || { echo "$faults"; exit 1; }
