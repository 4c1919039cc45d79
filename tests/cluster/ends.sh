#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# ends.sh CLUSTER: hosts come up, nothing of them touches the machine, and they are gone whatever ends
# them: the command, INT, TERM, or KILL, which nothing can catch.
cluster=$1
. "$(dirname "$0")/../launch/expect.sh"

"$cluster" with 1 true 2> "$folder/why"
[ $? != 77 ] || { cat "$folder/why"; exit 77; }
links=$(ip -o link | cut -d: -f2 | sort)

expect 5 "h2" "$cluster" with 3 sh -c 'for h in $("$0" hosts); do "$0" exec $h hostname; done; exit 5' "$cluster"
[ "$(tr '\n' ' ' < "$folder/output")" = "h0 h1 h2 " ] || fault "hostnames"
expect 0 "a  b|c" "$cluster" with 1 printf '%s|%s\n' "a  b" c
expect 143 "" "$cluster" with 1 sh -c 'kill -TERM $$'
expect 0 "" "$cluster" with 2 sh -c 'ip route | grep -v "^10\.77\." || exit 0; exit 1' # no way out
echo typed > "$folder/input"
timeout 20 "$cluster" with 1 cat < "$folder/input" > "$folder/output"
grep -q typed "$folder/output" || fault "no standard input"
expect 1 'with 0: expected 1..64 hosts' "$cluster" with 0 true
expect 1 'with a: expected a number of hosts' "$cluster" with a true
expect 1 'not in a cluster' "$cluster" hosts
expect 1 'no host "h2"; there are: h0 h1 head' "$cluster" with 2 "$cluster" exec h2 true
expect 1 'started without -d' "$cluster" with 2 "$cluster" delay all 5
expect 1 'started without -d' "$cluster" with 2 "$cluster" delay h0 5

# Where a tool is missing, or root may not make namespaces, a reason and 77.
mkdir "$folder/bin"
for tool in sh dirname basename id; do ln -s "$(command -v $tool)" "$folder/bin"; done
expect 77 'skipped: no "ip" here' env -u BANYAN_TEST_COMPLETE PATH="$folder/bin" "$cluster" with 1 true
expect 1 'no "ip" here' env BANYAN_TEST_COMPLETE=1 PATH="$folder/bin" "$cluster" with 1 true
[ "$(id -u)" != 0 ] || expect 77 'not permitted here: unshare: unshare failed: Operation not permitted' \
  setpriv --bounding-set -sys_admin "$cluster" with 1 true
expect 77 'skipped: no switch at /nowhere' env CLUSTER_SWITCH=/nowhere "$cluster" -d 5 with 1 true

# still_there FILE: processes in the network namespaces that FILE lists.
still_there() {
  ls -l /proc/[0-9]*/ns/net 2> /dev/null | grep -F -f "$1" | sed 's|.*/proc/\([0-9]*\)/.*|\1|' | paste -sd' '
}

# start NAME: a cluster that stays, and two jobs on it; `runner` is its process. (A shell's background
# jobs ignore INT unless told otherwise.)
start() {
  env --default-signal=INT "$cluster" with 2 sh -c 'for h in h0 h1; do "$0" exec $h sleep 1000 & done
    sleep 0.2; readlink /proc/[0-9]*/ns/net | sort -u > "$1.part"; mv "$1.part" "$1"; sleep 1000' "$cluster" "$folder/$1" &
  runner=$!
  tries=0
  until [ -s "$folder/$1" ]; do
    tries=$((tries + 1))
    [ $tries -lt 200 ] || { fault "no cluster \"$1\""; return; }
    sleep 0.1
  done
  [ "$(wc -l < "$folder/$1")" = 3 ] || fault "$1: $(wc -l < "$folder/$1") networks instead of 3"
  [ -n "$(still_there "$folder/$1")" ] || fault "$1: its processes cannot be seen"
}

# gone NAME SIGNAL: the runner gets a signal, and within 5 s all of its cluster is gone.
gone() {
  kill -"$2" "$runner"
  wait "$runner" 2> /dev/null
  tries=0
  while [ -n "$(still_there "$folder/$1")" ]; do
    tries=$((tries + 1))
    [ $tries -lt 50 ] || { fault "$2 leaves processes: $(still_there "$folder/$1")"; return; }
    sleep 0.1
  done
}

: > "$folder/output"
start other
other=$runner
for signal in INT TERM KILL; do
  start $signal
  gone $signal $signal
done
[ -n "$(still_there "$folder/other")" ] || fault "another cluster ended, too"
runner=$other
gone other TERM
[ "$links" = "$(ip -o link | cut -d: -f2 | sort)" ] || fault "the machine's own interfaces changed"
[ $faults = 0 ]
