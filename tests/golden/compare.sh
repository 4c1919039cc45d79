#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# compare.sh PROGRAM: every plan that PROGRAM knows against its recorded text in this folder. After
# a change that is meant, record anew and look at the difference:
#
#     tests/golden/compare.sh --record build/tests/golden_plans && git diff tests/golden
here=$(cd "$(dirname "$0")" && pwd)
# What the merges that were not taken would have cost is left out: a new row of that table would
# change every file.
show() { "$program" "$1" | sed 's/; \(the cheapest\|asked for\) (.*)$/; \1/'; }
record=0
[ "$1" = --record ] && { record=1; shift; }
program=$1
names=$("$program") || exit 1
[ -n "$names" ] || exit 1
bad=0
for name in $names; do
  if [ $record = 1 ]; then
    show "$name" > "$here/$name.txt" || bad=1
  else
    show "$name" | diff -u "$here/$name.txt" - || bad=1
  fi
done
for file in "$here"/*.txt; do
  name=$(basename "$file" .txt)
  echo "$names" | grep -qx "$name" || { echo "$file: no plan of that name"; bad=1; }
done
[ $bad = 0 ] || echo "if this is meant: tests/golden/compare.sh --record $program"
exit $bad
