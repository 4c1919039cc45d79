#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# gates.sh NVCC ROOT FILE.. -- FLAG..: compile kernels with the flags with which the library compiles
# them, and fail on what a GPU is not needed to see: a register that spills, a warpgroup product that
# the assembler had to serialise (C75xx), a warning; and, of each file, on code that a GPU of compute
# capability 9.0 would have to compile by itself, on instructions that got lost on the way to its PTX,
# and on an instruction of another kernel's in it.
set -u
nvcc=$1 root=$2
shift 2
files=
while [ $# -gt 0 ] && [ "$1" != -- ]; do files="$files $1"; shift; done
[ $# -eq 0 ] || shift
command -v "$nvcc" > /dev/null || { echo "no nvcc here"; exit 77; }
work=$(mktemp -d) || exit 2
trap 'rm -rf "$work"' EXIT
faults=0

fault() { echo "$1: $2"; faults=1; }

# Every kernel of the PTX for 9.0 has it.
needs() { # needs FILE INSTRUCTION
  for ptx in $late; do
    awk -v what="$2" 'function done_with() { if (name != "" && !seen) { print name; bad = 1 } }
      /^\.[a-z. ]*entry / { done_with(); name = $0; seen = 0 }
      index($0, what) { seen = 1 }
      END { done_with(); exit bad }' "$ptx" > "$work/lacking" ||
      fault "$1" "no $2 in $(cut -c1-100 "$work/lacking" | head -2) of $(basename "$ptx")"
  done
}

for file in $files; do
  rm -rf "$work/keep"; mkdir "$work/keep"
  "$nvcc" -std=c++17 -I "$root" "$@" -Xptxas=-v --keep --keep-dir "$work/keep" -c "$root/$file" \
    -o "$work/object.o" > "$work/log" 2>&1 ||
    { fault "$file" "does not compile"; cat "$work/log"; continue; }
  grep -E '[1-9][0-9]* bytes spill (stores|loads)' "$work/log" > "$work/spills" &&
    { fault "$file" "registers spill"; grep -B1 -A2 -E '[1-9][0-9]* bytes spill' "$work/log"; }
  grep -E 'C75[0-9][0-9]|warning' "$work/log" > "$work/warnings" &&
    { fault "$file" "serialised products, or warnings"; cat "$work/warnings"; }
  # Code for 9.0 itself: what is there as PTX alone takes a minute at the first launch.
  case $(ls "$work/keep") in
    *sm_90*.cubin*) ;;
    *) grep -q '^\.target sm_90' "$work"/keep/*.ptx && ls "$work"/keep/*.cubin > /dev/null 2>&1 ||
         fault "$file" "no code for compute capability 9.0 ($(ls "$work/keep" | tr '\n' ' '))" ;;
  esac
  late=$(grep -l '^\.target sm_90' "$work"/keep/*.ptx) || fault "$file" "no PTX for compute capability 9.0"
  if command -v cuobjdump > /dev/null; then
    cuobjdump -lelf "$work/object.o" 2> /dev/null | grep -q 'sm_90' || fault "$file" "no SASS for 9.0 in its object"
  fi
  grep -q '__global__' "$root/$file" || continue
  case $file in
    *cuda/combine.cu | *cuda/message.cu) needs "$file" griddepcontrol.wait ;;
    *prefill_hopper*) needs "$file" wgmma.mma_async; needs "$file" cp.async.bulk ;;
    *decode_hopper*) needs "$file" cp.async.bulk; needs "$file" mma.sync; needs "$file" griddepcontrol.launch_dependents ;;
    *decode_portable* | *attend_wide*) needs "$file" mma.sync; needs "$file" cp.async.c; needs "$file" griddepcontrol.launch_dependents ;;
    *prefill_portable* | *attend_exact*) needs "$file" mma.sync; needs "$file" cp.async.c ;;
  esac
done
exit $faults
