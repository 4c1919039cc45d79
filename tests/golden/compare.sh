#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# compare.sh PROGRAM: every plan that PROGRAM knows against its recorded text in this folder. After
# a change that is meant, record anew and look at the difference:
#
#     tests/golden/compare.sh --record build/tests/golden_plans && git diff tests/golden
here=$(cd "$(dirname "$0")" && pwd)
record=0
[ "$1" = --record ] && { record=1; shift; }
program=$1
names=$("$program") || exit 1
[ -n "$names" ] || exit 1
bad=0
for name in $names; do
  if [ $record = 1 ]; then
    "$program" "$name" > "$here/$name.txt" || bad=1
  else
    "$program" "$name" | diff -u "$here/$name.txt" - || bad=1
  fi
done
for file in "$here"/*.txt; do
  name=$(basename "$file" .txt)
  echo "$names" | grep -qx "$name" || { echo "$file: no plan of that name"; bad=1; }
done
[ $bad = 0 ] || echo "if this is meant: tests/golden/compare.sh --record $program"
exit $bad
