#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# ends_test.sh PYTHON MPIRUN: how Python jobs end. All ranks end soon, with the code that is meant and the
# traceback of the rank that failed; what nobody closed does not fail the job.
set -u
python=$1 mpirun=$2
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
fail() { echo "ends_test: $1"; cat "$work/out" "$work/err"; exit 1; }
job() { # job SECONDS CODE ARGS..: 3 ranks of python
  limit=$1 code=$2; shift 2
  begin=$(date +%s)
  timeout -k 5 60 "$mpirun" 3 "$python" "$@" > "$work/out" 2> "$work/err"
  rc=$?
  [ "$rc" = "$code" ] || fail "exit code $rc instead of $code: $*"
  [ $(($(date +%s) - begin)) -le "$limit" ] || fail "took longer than $limit s: $*"
}

cat > "$work/open.py" << 'P'
import banyan
comm = banyan.Comm()
plan = banyan.Plan(comm, layers=1, heads=2, key_dim=16, max_tokens=64)
cache = plan.cache()
sequence = cache.sequence()
print("rank", comm.rank, "leaves all open")
P
job 20 0 "$work/open.py"
[ "$(grep -c 'leaves all open' "$work/out")" = 3 ] || fail "not all ranks ran"
[ ! -s "$work/err" ] || fail "words on stderr"

cat > "$work/raise.py" << 'P'
import banyan
comm = banyan.Comm()
if comm.rank == 1:
    raise KeyError("lost in the middle")
comm.agree()
P
job 20 1 -m banyan "$work/raise.py"
grep -q "^\[rank 1\] KeyError: 'lost in the middle'" "$work/err" || fail "no traceback of rank 1"
grep -q '^\[rank 1\] Traceback' "$work/err" || fail "no traceback of rank 1"
! grep -q 'MPI_ABORT' "$work/err" || fail "mpirun speaks of an abort"

cat > "$work/exit.py" << 'P'
import sys
import banyan
comm = banyan.Comm()
sys.exit(7 if comm.rank == 2 else comm.agree())
P
job 20 7 -m banyan "$work/exit.py"

cat > "$work/interrupt.py" << 'P'
import os, signal
import banyan
comm = banyan.Comm()
if comm.rank == 0:
    os.kill(os.getpid(), signal.SIGINT)
comm.agree()
P
job 20 130 -m banyan "$work/interrupt.py"
grep -q '^\[rank 0\] KeyboardInterrupt' "$work/err" || fail "no word of the interrupt"
