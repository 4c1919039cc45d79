#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# format.sh ROOT: every source is as clang-format writes it.
cd "$1" || exit 2
command -v clang-format > /dev/null || { echo "no clang-format here"; exit 77; }
find attention comm dist launch tests banyan.h -name '*.[ch]' -o -name '*.cc' -o -name '*.cu' |
  xargs clang-format --dry-run -Werror 2>&1 | grep -E "error:|warning:" | sed 's/ error:.*//' | sort -u > "${TMPDIR:-/tmp}/format.$$"
n=$(wc -l < "${TMPDIR:-/tmp}/format.$$")
head -20 "${TMPDIR:-/tmp}/format.$$"; rm -f "${TMPDIR:-/tmp}/format.$$"
[ "$n" = 0 ] || { echo "$n places: run clang-format -i on these files"; exit 1; }
