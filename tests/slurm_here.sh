#!/usr/bin/env bash
# A Slurm of one node on this machine, for tests/test_batch_soak.py: munged, slurmctld, slurmd. Needs root.
#   tests/slurm_here.sh FOLDER start|stop
# Debian: apt-get install slurm-wlm munge
set -eu
folder=$1 host=$(hostname -s)
if [ "$2" = stop ]; then
  for name in slurmd slurmctld; do [ -f "$folder/$name.pid" ] && kill "$(cat "$folder/$name.pid")" || true; done
  [ -f "$folder/munged.pid" ] && kill "$(cat "$folder/munged.pid")" || true
  exit 0
fi
mkdir -p "$folder/state" "$folder/spool"
[ -f "$folder/munge.key" ] || { head -c 1024 /dev/urandom > "$folder/munge.key"; chmod 600 "$folder/munge.key"; }
munged --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" --pid-file="$folder/munged.pid" \
  --log-file="$folder/munged.log" --seed-file="$folder/munge.seed"
cat > "$folder/slurm.conf" <<CONF
ClusterName=here
SlurmctldHost=$host
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
CryptoType=crypto/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
SlurmctldPort=16817
SlurmdPort=16818
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MpiDefault=none
NodeName=$host CPUs=$(nproc --all) RealMemory=2000 State=UNKNOWN
PartitionName=main Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
export SLURM_CONF="$folder/slurm.conf"
slurmctld -f "$SLURM_CONF"
slurmd -f "$SLURM_CONF" -N "$host"
for _ in $(seq 60); do sinfo -h -o %T 2>/dev/null | grep -q idle && exit 0; sleep 0.5; done
sinfo; tail -5 "$folder/slurmctld.log" "$folder/slurmd.log"; exit 1
