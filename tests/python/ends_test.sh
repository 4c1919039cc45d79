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

# Ctrl-C at the terminal: the launcher gets it, and all ranks end.
cat > "$work/wait.py" << 'P'
import os, time
import banyan
comm = banyan.Comm()
comm.agree()
with open(os.environ["READY"], "a") as f:
    f.write(f"{os.getpid()}\n")
time.sleep(100)
P
: > "$work/ready"
READY=$work/ready env --default-signal=INT "$mpirun" 3 "$python" -m banyan "$work/wait.py" > "$work/out" 2> "$work/err" &
job=$!
begin=$(date +%s)
until [ "$(wc -l < "$work/ready")" = 3 ]; do
  [ $(($(date +%s) - begin)) -le 30 ] || { kill "$job"; fail "not all ranks came up"; }
  sleep .1
done
kill -INT "$job"
begin=$(date +%s)
while kill -0 "$job" 2> /dev/null; do
  [ $(($(date +%s) - begin)) -le 20 ] || { kill -9 "$job"; fail "Ctrl-C did not end the job"; }
  sleep .1
done
wait "$job" && fail "exit code 0 after Ctrl-C"
sleep 1
for rank in $(cat "$work/ready"); do
  ! grep -qz "$work/wait.py" "/proc/$rank/cmdline" 2> /dev/null || fail "process $rank is left"
done

# Two MPI libraries: a stand-in for mpi4py that was built with another one.
mkdir -p "$work/other/mpi4py"
: > "$work/other/mpi4py/__init__.py"
cat > "$work/other/mpi4py/MPI.py" << 'P'
class Comm:
    pass
COMM_WORLD = Comm()
def Get_library_version():
    return "MPICH Version: 4.9.9"
def _sizeof(comm):
    return 4
P
cat > "$work/two.py" << 'P'
import mpi4py.MPI
import banyan
try:
    banyan.Comm("mpi", mpi4py.MPI.COMM_WORLD)
except ValueError as error:
    print(error)
P
PYTHONPATH="$work/other:$PYTHONPATH" timeout -k 5 60 "$python" "$work/two.py" > "$work/out" 2> "$work/err" ||
  fail "two MPI libraries: not an exception of the standard kind"
grep -q "two MPI libraries in one process: libbanyan uses .*mpi4py 'MPICH Version: 4.9.9'" "$work/out" ||
  fail "two MPI libraries: not both are named"
