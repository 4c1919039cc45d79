#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# run.sh BUILD SOURCE: install into an empty prefix, then build and run the example against it, once
# through pkg-config and once through CMake.
set -eu
build=$1 source=$2
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
cmake --install "$build" --prefix "$work/prefix" > /dev/null
export PKG_CONFIG_PATH="$(dirname "$(find "$work/prefix" -name banyan.pc)")"
# shellcheck disable=SC2046
${CC:-cc} -std=c11 "$source/example.c" -o "$work/a" $(pkg-config --cflags --static --libs banyan)
"$work/a" | grep -q "^banyan $(pkg-config --modversion banyan): lse of the last row [0-9]"
cmake -S "$source" -B "$work/b" -DCMAKE_PREFIX_PATH="$work/prefix" > /dev/null
cmake --build "$work/b" > /dev/null
[ "$("$work/a")" = "$("$work/b/example")" ]
lines=$(wc -l < "$source/example.c"); [ "$lines" -le 25 ] || { echo "the example has $lines lines"; exit 1; }
