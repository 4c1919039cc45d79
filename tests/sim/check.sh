#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# check.sh PROGRAM CASE: what simulations must show. CASE: same, model, scale. 77: no SimGrid here.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
program=$1 case=$2
command -v smpirun > /dev/null || { echo "no smpirun here (Debian: libsimgrid-dev)"; exit 77; }
[ -f "$program" ] || { echo "banyan-sim is not in this build (BANYAN_SIM)"; exit 77; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
bad=0

# sim NAME RANKS [ARGS..]: the text in NAME.txt, the lines in NAME.json.
sim() {
    name=$1 ranks=$2
    shift 2
    "$here/simulate" "$program" "$ranks" --json "$dir/$name.json" "$@" > "$dir/$name.txt"
    if grep -v '"simulated":true' "$dir/$name.json"; then fault "a line does not say that it is simulated"; fi
}
fault() { echo "$1"; bad=1; }
# value NAME RANKS METHOD KEY
value() {
    sed -n "s/.*\"ranks\":$2,.*\"method\":\"$3\".*\"$4\":\([^,}]*\).*/\1/p" "$dir/$1.json"
}
# holds WHAT EXPRESSION: of awk.
holds() {
    awk "BEGIN { exit !($2) }" || fault "$1: not $2"
}

case $case in
same) # Nothing is measured, so nothing differs: text and figures to the last digit.
    sim a 7,24,64
    sim b 7,24,64
    for kind in txt json; do
        cmp "$dir/a.$kind" "$dir/b.$kind" || fault "two runs differ in $kind"
    done
    [ "$(wc -l < "$dir/a.json")" = 21 ] || fault "$(wc -l < "$dir/a.json") lines; expected 3 x 7"
    ;;
model) # What can be worked out by hand. 5 ns for the simulator's rounding in at most 30 rounds.
    sim m 8,64 --methods tree-attention,mpi-allreduce,ring,line
    # Three all-reduces by recursive doubling, of 128, 16384 and 128 bytes: 3 rounds inside nodes,
    # and of 8 nodes 3 between them.
    inside="(3*3*2.5e-6 + 3*16640/450e9)" between="(3*3*1.5e-6 + 3*16640/50e9)"
    for method in tree-attention mpi-allreduce; do
        holds "$method, 8 ranks" "($(value m 8 $method comm_seconds) - $inside)^2 < 5e-9^2"
        holds "$method, 64 ranks" "($(value m 64 $method comm_seconds) - $inside - $between)^2 < 5e-9^2"
    done
    # A rank reads 2 dense heads and 6 that keep a sixteenth and a window of 16 blocks, spread
    # evenly: 32 KiB a block of 64 tokens, in whole blocks of each head.
    read="(2 + 6/16) * 4096 * 32768"
    holds "bytes read" "$(value m 64 tree-attention compute_mean_seconds) > $read/4.3e12"
    holds "bytes read" "$(value m 64 tree-attention compute_seconds) < ($read + 8*2*32768)/4.3e12"
    # The ring: every block over the network once, 63 hops.
    holds "ring" "$(value m 64 ring comm_seconds) > 63*$read*(1/50e9 - 1/4.3e12)"
    # Every rank sends the other seven their four heads, of 130 floats, behind a header of 64 bytes.
    sim d 8 --methods dcp
    holds "dcp, 8 ranks" "$(value d 8 dcp messages_most) == 7"
    holds "dcp, 8 ranks" "$(value d 8 dcp bytes_most) == 7*(4*130*4 + 64)"
    # A message of the line takes at least a link's latency.
    holds "line, 8 ranks" "$(value m 8 line comm_seconds) > 2.5e-6"
    ;;
scale) # The line beside Tree Attention on 1,024 ranks.
    sim s 8,1024 --methods line,line-all,tree-attention,mpi-allreduce
    for method in line line-all; do
        holds "communication of $method" "$(value s 1024 $method comm_speedup) >= 2.5"
        holds "token of $method" "$(value s 1024 $method token_speedup) >= 1.3"
    done
    holds "balance" "$(value s 1024 line compute_seconds) <= 1.01*$(value s 1024 line compute_mean_seconds)"
    ;;
*) fault "unknown case $case" ;;
esac
[ $bad = 0 ] || cat "$dir"/*.txt
exit $bad
