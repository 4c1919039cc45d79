#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# clang_format.sh ROOT WHAT: clang-format 14, the version whose style the sources have.
#   find      prints its path; 1 where it is not
#   packages  the Debian packages that are missing for it, if any: itself, or Python for `install`
#   install   from PyPI, where Debian has it no more; says so where it cannot be had
root=$1 what=$2 own=$1/build-tools/clang-format-14

find_it() {
  for program in clang-format-14 clang-format "$own/bin/clang-format"; do
    "$program" --version 2> /dev/null | grep -q 'version 14\.' && command -v "$program" && return
  done
  return 1
}

case $what in
find) find_it ;;
packages)
  find_it > /dev/null ||
    if apt-cache show clang-format-14 > /dev/null 2>&1; then echo clang-format-14; else echo python3-venv ca-certificates; fi ;;
install)
  find_it > /dev/null || mkdir -p "$root/build-tools"
  find_it > /dev/null || {
    python3 -m venv "$own" &&
      "$own/bin/pip" --quiet --disable-pip-version-check install clang-format==14.0.6
  } > "$own.log" 2>&1 || echo "clang-format 14 cannot be had: $(tail -1 "$own.log"); the format is not checked" ;;
esac
