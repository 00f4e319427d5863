#!/bin/bash
# A SLURM cluster of one node in a folder, for tests: `slurm_cluster.sh up DIR` and `slurm_cluster.sh down DIR`.
# Needs root. Debian's packages are installed if they are missing, and `down` removes what `up` installed. No cgroups, no accounting.
set -eu
what=$1 folder=$2 host=$(hostname -s)
packages="slurm-wlm munge"
export SLURM_CONF=$folder/slurm.conf

up() {
    mkdir -p "$folder"/{state,spool,log,run}
    if ! command -v slurmctld > /dev/null; then
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages > /dev/null
        touch "$folder/installed"
    fi
    cat > "$SLURM_CONF" << END
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# a job that is requeued waits for as long as its credential
AuthInfo=cred_expire=5
MpiDefault=none
ProctrackType=proctrack/linuxproc
SlurmdParameters=config_overrides
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
ReturnToService=2
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/run/slurmctld.pid
SlurmdPidFile=$folder/run/slurmd.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/slurmd.log
JobRequeue=1
KillWait=20
MinJobAge=600
NodeName=$host NodeAddr=127.0.0.1 CPUs=4 RealMemory=2000 State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
END
    mkdir -p /run/munge
    chown munge:munge /run/munge
    chmod 755 /run/munge
    munge -n 2> /dev/null | unmunge > /dev/null 2>&1 || su -s /bin/sh munge -c /usr/sbin/munged
    slurmctld -f "$SLURM_CONF"
    slurmd -f "$SLURM_CONF" -N "$host"
    for _ in $(seq 60); do
        sinfo --noheader --format=%T 2> /dev/null | grep -q idle && return
        sleep 0.5
    done
    sinfo
    exit 1
}

down() {
    for daemon in slurmd slurmctld; do
        [ -f "$folder/run/$daemon.pid" ] && kill "$(cat "$folder/run/$daemon.pid")" 2> /dev/null || true
    done
    if [ -f "$folder/installed" ]; then
        [ -f /run/munge/munged.pid ] && kill "$(cat /run/munge/munged.pid)" 2> /dev/null || true
        DEBIAN_FRONTEND=noninteractive apt-get purge -y -qq $packages slurmctld slurmd slurm-client > /dev/null
        DEBIAN_FRONTEND=noninteractive apt-get autoremove -y -qq > /dev/null
    fi
}

"$what"
