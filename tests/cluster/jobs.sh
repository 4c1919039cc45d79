#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# jobs.sh CLUSTER BANYAN RANKS JOB..: small jobs with RANKS ranks on each host of the cluster that this is
# started in. JOB is run or needle.
cluster=$1 banyan=$2 ranks=$3
shift 3
. "$(dirname "$0")/../launch/expect.sh"
hosts=$("$cluster" hosts | wc -l)
cd /dev/shm || exit 99 # the cluster's own: gone with it

# check_run FLAGS..: rows equal the oracle, on the right number of nodes.
check_run() {
  expect 0 "16 rows checked" "$cluster" mpirun "$ranks" "$banyan" run --heads 8 --kv-heads 2 \
    --key-dim 64 --threads 1 --samples 16 --decode 5 --tokens 900 "$@"
  grep -q "^$((hosts * ranks)) ranks on $hosts nodes;" "$folder/output" || fault "not $hosts nodes: $*"
}

check_needle() {
  expect 0 "single         2K   1.000      1.000       4 of 4" "$cluster" mpirun "$ranks" "$banyan" needle \
    --lengths 2k --depths 4 --task single,absent,graded --set execution.threads=1 --results n.jsonl "$@"
}

for job in "$@"; do
  case $job in
  run)
    check_run --merge tree
    check_run --merge direct --placement spread --out all
    check_run --merge tree --use "s2 stride=4 local=2"
    ;;
  needle) check_needle --retrieval "0: dense; 1-: s2 stride=4 local=2" ;;
  *) fault "no job \"$job\"" ;;
  esac
done
[ $faults = 0 ]
