#!/usr/bin/env bash
# A Slurm of one node on this machine, for tests: Debian's slurm-wlm and munge, everything of theirs in one directory.
#
#   tests/start_slurm.sh start DIRECTORY    then: export SLURM_CONF=DIRECTORY/slurm.conf
#   tests/start_slurm.sh stop DIRECTORY
#
# It needs root, as slurmd does, and touches no Slurm that is configured here. Exit code 2: what it needs is missing.
set -euo pipefail

missing() {
  echo "$1" >&2
  exit 2
}

free_port() {
  python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

start() {
  for program in munged slurmctld slurmd sbatch srun scontrol; do
    PATH="$PATH:/usr/sbin" command -v "$program" >/dev/null || missing "$program is not installed: apt-get install slurm-wlm munge"
  done
  [ "$(id -u)" = 0 ] || missing "slurmd needs root"
  export PATH="$PATH:/usr/sbin"
  mkdir -p "$1"/{state,spool,log}
  local directory name cores
  directory=$(realpath "$1")
  name=$(hostname -s)
  cores=$(nproc)
  dd if=/dev/urandom of="$directory/munge.key" bs=128 count=1 status=none
  chmod 400 "$directory/munge.key"
  cat >"$directory/slurm.conf" <<CONFIGURATION
ClusterName=loopback
SlurmctldHost=$name(127.0.0.1)
SlurmctldPort=$(free_port)
SlurmdPort=$(free_port)
SlurmUser=root
SlurmdUser=root
AuthInfo=socket=$directory/munge.socket
CredType=cred/munge
StateSaveLocation=$directory/state
SlurmdSpoolDir=$directory/spool
SlurmctldPidFile=$directory/slurmctld.pid
SlurmdPidFile=$directory/slurmd.pid
SlurmctldLogFile=$directory/log/slurmctld.log
SlurmdLogFile=$directory/log/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
JobRequeue=1
SchedulerParameters=batch_sched_delay=0,sched_interval=2,sched_min_interval=0
KillWait=60
NodeName=$name NodeAddr=127.0.0.1 CPUs=$cores State=UNKNOWN
PartitionName=main Nodes=$name Default=YES MaxTime=INFINITE State=UP
CONFIGURATION
  export SLURM_CONF="$directory/slurm.conf"
  munged --force --socket="$directory/munge.socket" --key-file="$directory/munge.key" \
    --pid-file="$directory/munged.pid" --log-file="$directory/log/munged.log" --seed-file="$directory/munged.seed"
  slurmctld -c
  slurmd
  for _ in $(seq 120); do
    if sinfo --noheader --format=%T 2>/dev/null | grep -q idle; then
      return
    fi
    sleep 0.5
  done
  tail -n 5 "$directory"/log/*.log >&2
  stop "$directory"
  missing "the node did not come up"
}

stop() {
  export SLURM_CONF="$1/slurm.conf"
  scancel --user="$(id -u)" || true
  # The steps of a job report their end to the controller: without it they would wait for ever.
  for _ in $(seq 60); do
    [ -z "$(squeue --noheader 2>/dev/null)" ] && break
    sleep 0.5
  done
  for daemon in slurmd slurmctld munged; do
    [ -f "$1/$daemon.pid" ] && kill "$(cat "$1/$daemon.pid")" 2>/dev/null || true
  done
}

"$@"
