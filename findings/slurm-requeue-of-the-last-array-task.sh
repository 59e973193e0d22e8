#!/usr/bin/env bash
# Slurm 22.05.8 (Debian 12): a task of a job array that requeues itself by its own job id, the variable that every job has.
#
# Expected: `scontrol requeue $SLURM_JOB_ID` in a task requeues this task, as `scontrol requeue` of a plain job's id does: each
# task of an array has a SLURM_JOB_ID of its own.
# Behaviour: the last task's id is the id of the whole array, and so are all of its tasks requeued, those too that have finished.
# ${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID} requeues the task alone.
#
# Run as root on Debian 12; needs its package mirror. Slurm and munge are unpacked into a temporary folder and run from there.
# Exit code 0: as described. 1: it is no longer so. 77: cannot be tried here.
set -eu
version=22.05.8-4+deb12u3
[ "$(id -u)" = 0 ] || { echo "skipped: it takes root"; exit 77; }
work=$(mktemp -d)
chmod 755 "$work"
stop() {
    for daemon in slurmd slurmctld munged; do
        [ -f "$work/$daemon.pid" ] && kill "$(cat "$work/$daemon.pid")" 2>/dev/null
    done
    sleep 1
    rm -rf "$work"
}
trap stop EXIT
mkdir "$work/packages" "$work/root"
(
    cd "$work/packages"
    apt-get -qq update || true
    apt-get -qq download slurmctld="$version" slurmd="$version" slurm-client="$version" slurm-wlm-basic-plugins="$version" \
        munge=0.5.15-2+deb12u1 libmunge2=0.5.15-2+deb12u1 libhwloc15=2.9.0-1 libjson-c5=0.16-2 \
        libhttp-parser2.9=2.9.4-5 libyaml-0-2=0.2.5-1 libfreeipmi17=1.6.10-1+b1 libreadline8=8.2-1.3 >/dev/null 2>&1 || true
    ls *.deb >/dev/null 2>&1 || exit 0
    for package in *.deb; do dpkg -x "$package" "$work/root"; done
)
# Debian names them so, to be chosen by update-alternatives.
for daemon in slurmctld slurmd; do
    [ -e "$work/root/usr/sbin/$daemon-wlm" ] && ln -sf "$daemon-wlm" "$work/root/usr/sbin/$daemon"
done
lib=$work/root/usr/lib/x86_64-linux-gnu
export LD_LIBRARY_PATH=$lib:$lib/slurm-wlm PATH=$work/root/usr/sbin:$work/root/usr/bin:$PATH
command -v slurmctld | grep -q "^$work" || { echo "skipped: no packages of Slurm $version"; exit 77; }

mkdir -m 700 "$work/munge"
head -c 1024 /dev/urandom > "$work/munge/key"
chmod 400 "$work/munge/key"
munged --force --key-file="$work/munge/key" --socket="$work/munge.socket" --pid-file="$work/munged.pid" \
    --log-file="$work/munge/log" --seed-file="$work/munge/seed"
mkdir "$work/spool" "$work/state"
host=$(hostname -s)
cat > "$work/slurm.conf" <<CONF
ClusterName=one
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$work/munge.socket
CredType=cred/munge
PluginDir=$lib/slurm-wlm
SlurmctldPort=16827
SlurmdPort=16828
SlurmctldPidFile=$work/slurmctld.pid
SlurmdPidFile=$work/slurmd.pid
SlurmctldLogFile=$work/slurmctld.log
SlurmdLogFile=$work/slurmd.log
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
MinJobAge=3600
NodeName=$host NodeAddr=127.0.0.1 CPUs=1 State=UNKNOWN
PartitionName=all Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
export SLURM_CONF=$work/slurm.conf
slurmctld
slurmd
for _ in $(seq 30); do
    sinfo -h -o %t 2>/dev/null | grep -q idle && break
    sleep 1
done
sinfo -h -o %t | grep -q idle || { cat "$work"/slurm*.log; echo "skipped: the node does not come up"; exit 77; }

cat > "$work/own" <<'JOB'
#!/bin/bash
echo "task $SLURM_ARRAY_TASK_ID of $SLURM_ARRAY_JOB_ID has SLURM_JOB_ID $SLURM_JOB_ID, restarts ${SLURM_RESTART_COUNT:-0}"
if [ "$SLURM_ARRAY_TASK_ID" = "$WHO" ] && [ "${SLURM_RESTART_COUNT:-0}" = 0 ]; then
    sleep 4
    echo "task $SLURM_ARRAY_TASK_ID: scontrol requeue $SLURM_JOB_ID"
    scontrol requeue "$SLURM_JOB_ID"
    sleep 60
fi
JOB
# Restarts of tasks 0, 1 and 2 after task `$1` has requeued itself by its own id.
restarts() {
    job=$(WHO=$1 sbatch --parsable --array=0-2 --open-mode=append --output="$work/log-$1" "$work/own")
    for _ in $(seq 40); do
        grep -q "scontrol requeue" "$work/log-$1" 2>/dev/null && break
        sleep 1
    done
    sleep 5
    cat "$work/log-$1" >&2
    for task in 0 1 2; do
        scontrol show job -o "${job}_$task" | tr ' ' '\n' | sed -n 's/^Restarts=//p'
    done | tr '\n' ' '
    scancel "$job"
}
scontrol --version
first=$(restarts 0)
last=$(restarts 2)
echo "the first task requeues its own id:  restarts of tasks 0, 1, 2: $first"
echo "the last task requeues its own id:   restarts of tasks 0, 1, 2: $last"
if [ "$first" = "1 0 0 " ] && [ "$last" = "1 1 1 " ]; then
    exit 0
fi
exit 1
