#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# slurm.sh CLUSTER BANYAN SBATCH: launch/banyan.sbatch under a real Slurm, one slurmd on each host of the
# cluster that this is started in, without systemd: the head runs slurmctld and munged. Nothing is
# installed, and all of Slurm's files are the cluster's own.
cluster=$1 banyan=$2 sbatch=$3
. "$(dirname "$0")/../launch/expect.sh"
PATH=$PATH:/usr/sbin
for tool in slurmctld slurmd sbatch sinfo scontrol munged; do
  command -v $tool > /dev/null ||
    { echo "slurm: skipped: no \"$tool\" here (packages slurmctld slurmd slurm-client munge)"; exit 77; }
done
awk '$2 == 0 { exit 1 }' /proc/self/uid_map && { echo "slurm: skipped: not root"; exit 77; }
dir=/dev/shm/slurm # in the cluster's own mount namespace
hosts=$("$cluster" hosts)
count=$(echo "$hosts" | wc -l)

# As root, without cgroups, trusting us on how many processors a host has. Hosts share /tmp: a folder
# each, or PMIx's files collide.
configure() {
  mkdir -p "$dir/state" "$dir/tmp"
  chmod 755 "$dir"
  head -c 128 /dev/urandom > "$dir/munge.key"
  chmod 400 "$dir/munge.key"
  cat > "$dir/slurm.conf" <<E
ClusterName=test
SlurmctldHost=head(10.77.0.254)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$dir/munge.sock
CredType=cred/munge
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool.%n
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.%n.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_interval=1
MpiDefault=none
TmpFS=$dir/tmp.%n
ReturnToService=2
SlurmdTimeout=10
KillWait=2
SlurmdParameters=config_overrides
NodeName=DEFAULT CPUs=4 RealMemory=1000 State=UNKNOWN
$(for h in $hosts; do echo "NodeName=$h NodeAddr=10.77.0.$((${h#h} + 1))"; done)
PartitionName=main Nodes=h[0-$((count - 1))] Default=YES MaxTime=10 State=UP
E
}

start() {
  munged --force --key-file="$dir/munge.key" --socket="$dir/munge.sock" --pid-file="$dir/munged.pid" \
    --log-file="$dir/munged.log" --seed-file="$dir/munge.seed" 2>> "$dir/munged.log"
  export SLURM_CONF="$dir/slurm.conf"
  slurmctld -c -i
  for h in $hosts; do
    mkdir -p "$dir/spool.$h" "$dir/tmp.$h"
    "$cluster" exec "$h" slurmd -c -N "$h"
  done
  tries=0
  until [ "$(sinfo -h -t idle -o %D 2> /dev/null)" = "$count" ]; do
    tries=$((tries + 1))
    [ $tries -lt 100 ] && sleep 0.2 && continue
    tail -n 20 "$dir"/*.log > "$folder/output"
    fault "nodes did not come up: $(sinfo -h 2>&1)"
    exit 1
  done
}

# submit LAUNCHER CODE WORDS FLAGS..: the script's job, two ranks of two threads on each host.
submit() {
  launcher=$1 code=$2 words=$3
  shift 3
  BANYAN_LAUNCHER=$launcher timeout 100 sbatch --wait --nodes "$count" --ntasks-per-node 2 --cpus-per-task 2 \
    --chdir "$dir" --output "$dir/job.out" "$sbatch" "$@" > "$folder/sbatch" 2>&1
  got=$?
  cat "$folder/sbatch" "$dir/job.out" > "$folder/output" 2>&1
  [ $got = "$code" ] || fault "$launcher: exit code $got instead of $code"
  grep -qF -e "$words" "$folder/output" || fault "$launcher: no \"$words\""
}

configure
start
export BANYAN="$banyan" BANYAN_NETWORK=10.77.0.0/24
# What any job of root's on these few cores needs (see launch/mpirun-here).
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_mpi_yield_when_idle=1
export OMPI_MCA_btl_vader_single_copy_mechanism=none OMP_WAIT_POLICY=passive
flags="--heads 8 --kv-heads 2 --key-dim 32 --tokens 600 --decode 3 --samples 8 --merge tree"
launchers=mpirun
! srun --mpi=list 2>&1 | grep -q pmix || launchers="mpirun srun"
for launcher in $launchers; do
  # shellcheck disable=SC2086
  submit $launcher 0 "8 rows checked" run $flags
  grep -q "^$((2 * count)) ranks on $count nodes; .* 2 threads each" "$folder/output" ||
    fault "$launcher: not $((2 * count)) ranks on $count nodes"
  submit $launcher 2 'did you mean "dense"' run --heads 4 --key-dim 16 --tokens 64 --use dence
done
echo "slurm $(slurmctld -V | cut -d' ' -f2): $launchers on $count hosts"
[ $faults = 0 ]
