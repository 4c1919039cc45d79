#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# peer.sh BANYAN: bench --peer with a python3 that is made up: what it answers is what the table says, one
# that has no torch or ends is told of, and the row is measured all the same.
set -u
banyan=$1
dir=$(mktemp -d) || exit 2
trap 'rm -rf "$dir"' EXIT
bad=0
fault() { echo "$1"; cat "$dir/said"; bad=1; }
bench() { # bench CODE PYTHON FLAGS..
  expected=$1
  printf '#!/bin/sh\n%s\n' "$2" > "$dir/python3"
  chmod +x "$dir/python3"
  shift 2
  PATH="$dir:$PATH" OMP_NUM_THREADS=1 "$banyan" bench --quick --threads 1 "$@" > "$dir/said" 2>&1
  code=$?
  [ $code = "$expected" ] || fault "bench $*: exit code $code, expected $expected"
}
said() { grep -q -- "$1" "$dir/said" || fault "not said: $1"; }

row='^decode dense fp32$'
bench 0 'echo ok 9.9; while read -r word rest; do if [ "$word" = row ]; then echo "$rest" >&2; echo ok; else echo 0.25; fi; done' \
  --peer torch --only "$row"
said 'torch 9.9: 250.000 ms'
said '^32 8 128 128 2048 1 1 float32$'
bench 0 'echo ok 9.9; read -r line; echo no memory for it; cat > /dev/null' --peer torch --only "$row"
said 'decode dense fp32: memory for it'
said '^decode dense fp32 '
bench 0 'echo ok 9.9; read -r line; echo ok; read -r line' --peer torch --only "$row"
said 'torch: it ended'
bench 2 'echo no No module named torch' --peer torch --only "$row"
said 'no torch here: No module'
bench 2 'exit 1' --peer torch --only "$row"
said 'it did not start'
bench 2 'exit 1' --peer jax --only "$row"
said '"jax": expected torch'
exit $bad
