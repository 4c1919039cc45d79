#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# gates.sh NVCC ROOT ARCH FILE..: compile kernels for one architecture (80, 90a) as the library does,
# and fail on what a GPU is not needed to see: a register that spills, a warpgroup product that the
# assembler had to serialise (C75xx), a warning; for 90a also on a file of the Hopper row that lost
# its warpgroup products or bulk copies on the way to PTX.
set -u
nvcc=$1 root=$2 arch=$3
shift 3
command -v "$nvcc" > /dev/null || { echo "no nvcc here"; exit 77; }
work=$(mktemp -d) || exit 2
trap 'rm -rf "$work"' EXIT
faults=0

fault() { echo "$1: $2"; faults=1; }

needs() { # needs FILE INSTRUCTION
  grep -q "$2" "$work"/keep/*.ptx || fault "$1" "no $2 in its PTX"
}

for file in "$@"; do
  rm -rf "$work/keep"; mkdir "$work/keep"
  "$nvcc" -std=c++17 -O3 -I "$root" "-gencode=arch=compute_$arch,code=sm_$arch" -Xptxas=-v --keep \
    --keep-dir "$work/keep" -c "$root/$file" -o "$work/object.o" > "$work/log" 2>&1 ||
    { fault "$file" "does not compile for sm_$arch"; cat "$work/log"; continue; }
  grep -E '[1-9][0-9]* bytes spill (stores|loads)' "$work/log" > "$work/spills" &&
    { fault "$file" "registers spill"; grep -B1 -A2 -E '[1-9][0-9]* bytes spill' "$work/log"; }
  grep -E 'C75[0-9][0-9]|warning' "$work/log" > "$work/warnings" &&
    { fault "$file" "serialised products, or warnings"; cat "$work/warnings"; }
  case $arch:$file in
    90a:*prefill_hopper*) needs "$file" wgmma.mma_async; needs "$file" cp.async.bulk ;;
    90a:*decode_hopper*) needs "$file" cp.async.bulk; needs "$file" mma.sync ;;
    *:*prefill_portable*|*:*decode_portable*) needs "$file" mma.sync; needs "$file" cp.async.c ;;
  esac
done
exit $faults
