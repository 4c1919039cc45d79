#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# format.sh ROOT: every source is as clang-format 14 writes it. Other versions write other things: it is
# looked for under its own name, as clang-format, and where `clang_format.sh ROOT` puts it.
cd "$1" || exit 2
format=$("$(dirname "$0")/clang_format.sh" "$PWD" find) || { echo "no clang-format 14 here"; exit 77; }
faults=$(mktemp)
trap 'rm -f "$faults"' EXIT
find attention comm dist launch tests banyan.h -name '*.[ch]' -o -name '*.cc' -o -name '*.cu' |
  xargs "$format" --dry-run -Werror 2>&1 | grep -E "error:|warning:" | sed 's/ error:.*//' | sort -u > "$faults"
n=$(wc -l < "$faults")
head -20 "$faults"
[ "$n" = 0 ] || { echo "$n places: run clang-format -i on these files"; exit 1; }
