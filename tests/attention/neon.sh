#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# neon.sh SOURCE BUILD GENERATOR: the library for AArch64, with nothing but a C compiler, and the
# tests of its arithmetic under qemu. Exits with 77, and says why, where a tool is missing.
source=$1 build=$2 generator=$3
for tool in aarch64-linux-gnu-gcc qemu-aarch64; do
  command -v $tool > /dev/null && continue
  echo "skipped: no $tool (Debian: gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user)"
  exit 77
done
set -e
tests="dtype_test exp2_test exact_test fixed_test sums_test kernels_test"
log=$(mktemp)
trap 'rm -f "$log"' EXIT INT TERM
{
  cmake -S "$source" -B "$build" -G "$generator" --toolchain "$source/tests/attention/aarch64.cmake" \
    -DCMAKE_C_FLAGS=-Werror -DBANYAN_MPI=OFF -DBANYAN_PROGRAMS=OFF \
    -DCMAKE_DISABLE_FIND_PACKAGE_OpenMP=ON &&
    cmake --build "$build" --target $tests
} > "$log" 2>&1 || { tail -30 "$log"; exit 1; }
for test in $tests; do
  arguments=
  [ $test != kernels_test ] || arguments=neon
  qemu-aarch64 -L /usr/aarch64-linux-gnu "$build/tests/$test" $arguments
done
