# SPDX-License-Identifier: Apache-2.0
# expect CODE WORDS COMMAND..: the exit code, and, where WORDS is not empty, a line of stdout or stderr
# with them. expect_once: exactly one such line. Sourced; `faults` counts.
faults=0
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT INT TERM

# sh "$limited" COMMAND..: with 8 GB of address space, for what must not even ask for more. (With
# AddressSanitizer a program cannot live in that.)
limited=$folder/limited
(ulimit -v 8000000; "$banyan" --version) > /dev/null 2>&1 && echo 'ulimit -v 8000000' > "$limited"
echo 'exec "$@"' >> "$limited"

# What a rank may ask a shell for: its number, from Open MPI or MPICH.
rank='${OMPI_COMM_WORLD_RANK:-$PMI_RANK}'

fault() {
  faults=$((faults + 1))
  echo "failed: $1"
  sed 's/^/    /' "$folder/output" | head -20
}

expect() {
  code=$1 words=$2
  shift 2
  timeout 120 "$@" > "$folder/output" 2>&1
  got=$?
  [ "$got" = "$code" ] || fault "exit code $got instead of $code: $*"
  [ -z "$words" ] || grep -qF -e "$words" "$folder/output" || fault "no \"$words\" from: $*"
}

expect_once() {
  expect "$@"
  [ "$(grep -cF -e "$2" "$folder/output")" = 1 ] || fault "\"$2\" not exactly once"
}

# Nothing but regular output files, and none of them, after a failure.
expect_no_file() {
  ls "$1"* > /dev/null 2>&1 && { fault "left behind: $(ls "$1"*)"; rm -f "$1"*; }
  return 0
}
