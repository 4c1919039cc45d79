#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# faults.sh CLUSTER BANYAN FAULT: rank 2 of 4 goes while all decode. The job ends with a code that is not
# 0, within the time limit and 5 s more, and somebody names the rank; where it is not just dead, a
# survivor says at which step. Started in a cluster of 4 hosts.
#
#   killed      rank 2 dies
#   stopped     it stands still (SIGSTOP)
#   cut         frames between h1 and h2 are lost, silently; mpirun reaches both
#   unplugged   h2 is cut off from everyone, mpirun's host too. mpirun then needs some seconds to give up
#               its connection (tcp_retries2, see `cluster`): 5 s more
cluster=$1 banyan=$2 fault=$3
. "$(dirname "$0")/../launch/expect.sh"
limit=3 more=5
export BANYAN_TEST_TIMEOUT=60
[ "$fault" != unplugged ] || more=10

sent() { "$cluster" bytes | awk '$1 == "h2" { print $5 }'; }
milliseconds() { echo $(($(date +%s%N) / 1000000)); }

# Nothing is attended to before the decode steps, so traffic means that those are under way: some 100
# of them make 100 KB, setting up takes 20.
"$cluster" mpirun 1 "$banyan" run --heads 8 --kv-heads 2 --key-dim 32 --threads 1 --placement spread \
  --tokens 512 --at 512 --decode 500000 --samples 0 --set execution.timeout=$limit > "$folder/output" 2>&1 &
job=$!
tries=0
until [ "$(sent)" -gt 150000 ]; do
  tries=$((tries + 1))
  kill -0 $job 2> /dev/null && [ $tries -lt 600 ] || { fault "the job did not begin to decode"; exit 1; }
  sleep 0.1
done
rank=$("$cluster" pids h2 banyan)
[ -n "$rank" ] || { fault "no rank on h2"; exit 1; }
kill -0 $job || fault "the job ended by itself"

case $fault in
killed) kill -KILL "$rank" ;;
stopped) kill -STOP "$rank" ;;
cut) "$cluster" cut h1 h2 ;;
unplugged) "$cluster" cut h2 all ;;
esac
begin=$(milliseconds)
wait $job
code=$?
took=$(($(milliseconds) - begin))
echo "$fault: exit code $code after $took ms"
grep -E 'did not arrive|on signal' "$folder/output" | sed 's/^/    /'
[ $code != 0 ] || fault "exit code 0"
[ $took -le $((1000 * (limit + more))) ] || fault "ended after $took ms: $limit s and $more more were allowed"

step='decode step [0-9]+ of 500000: .*'
case $fault in
killed) words='process rank 2 [^.]* on node h2 exited on signal 9' ;;
stopped | unplugged) words="rank [013]: ${step}rank [013] waited 3 s: ranks? ([0-9], )*2.* did not arrive" ;;
cut) words="rank (1: ${step}rank 1 waited 3 s: ranks? ([0-9], )*2|2: ${step}rank 2 waited 3 s: ranks? ([0-9], )*1).* did not arrive" ;;
esac
# mpirun may break its sentences over lines
{ cat "$folder/output"; tr -s '\n ' '  ' < "$folder/output"; } | grep -qE "$words" || fault "nobody names the rank: no \"$words\""
[ $faults = 0 ]
