#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# one_hash.sh BANYAN MPIRUN SET RANKS..: with reproducible results, prefill and decode have one hash of all
# output bits, whatever the numbers of ranks, the placement, the merge and the threads. SET: `all`
# combinations for each number of ranks, or `some`, in which each value of each of them meets. MPIRUN is
# tests/mpirun or, in a cluster, tests/cluster/cluster, which takes RANKS for each host.
banyan=$1 mpirun=$2 set=$3
shift 3
case $mpirun in */cluster) verb=mpirun ;; *) verb= ;; esac
. "$(dirname "$0")/expect.sh"
shape="--heads 8 --kv-heads 2 --key-dim 32 --samples 8 --tokens 700 --rows 130 --decode 3"

# hash_of COMMAND..: the hash; each run is compared with the oracle as well.
hash_of() {
  expect 0 "8 rows checked" "$@"
  hash=$(sed -n 's/^output bits *\([0-9a-f]\{16\}\).*/\1/p' "$folder/output")
  [ -n "$hash" ] || fault "no output bits from: $*"
}

hash_of "$banyan" run $shape --threads 1 --reproducible
one=$hash runs=1

# same RANKS PLACEMENT MERGE THREADS
same() {
  hash_of "$mpirun" $verb "$1" "$banyan" run $shape --reproducible --placement "$2" --merge "$3" --threads "$4"
  runs=$((runs + 1))
  [ "$hash" = "$one" ] || fault "$1 ranks, $2, $3, $4 threads: $hash instead of $one"
}

for ranks in "$@"; do
  if [ "$set" = some ]; then
    same "$ranks" line tree 2
    same "$ranks" spread direct 1
    same "$ranks" spread butterfly 2
    continue
  fi
  for placement in line spread; do
    for merge in direct tree butterfly; do
      for threads in 1 2; do same "$ranks" $placement $merge $threads; done
    done
  done
done
echo "$one: $runs runs"

# What does not promise it has other bits: the hash sees the last of them.
hash_of "$mpirun" $verb 3 "$banyan" run $shape --placement spread --threads 1
spread=$hash
hash_of "$banyan" run $shape --threads 1
[ "$hash" != "$spread" ] || fault "the hash is blind: partials rounded on 1 rank and 3 give the same"
[ $faults = 0 ]
