#!/bin/bash
# A SLURM cluster of one node in a folder, for tests: `slurm_cluster.sh up DIR` and `slurm_cluster.sh down DIR`.
# Nothing is installed: Debian's packages are unpacked into the folder and run from there, on free ports, with a munge of their own, so that
# only who has DIR/bin on the PATH sees the cluster. It goes down, and DIR with it, when the process ends that brought it up. No cgroups, no
# accounting.
# `up` ends with 77 if the packages cannot be had: no root, no apt, or no answer of the registry within PATIENCE seconds.
set -eu
what=$1 folder=$2 parent=$PPID host=$(hostname -s)
PATIENCE=90
export SLURM_CONF=$folder/slurm.conf PATH=$folder/bin:$PATH

unable() {
    echo "$*" >&2
    exit 77
}

unpack() {
    [ "$(id -u)" = 0 ] || unable "a node of SLURM takes root"
    command -v apt-get dpkg > /dev/null || unable "there is no apt here, from which SLURM's packages come"
    mkdir -p "$folder"/{archives,lists}/partial "$folder"/{unpacked,bin}
    local options="-qq -o Debug::NoLocking=1 -o Acquire::Retries=0 -o Acquire::http::Timeout=20 -o Acquire::https::Timeout=20"
    local fetch="apt-get install $options -o Dir::Cache::archives=$folder/archives"
    fetch+=" --yes --download-only --reinstall --no-install-recommends"
    local packages="slurmctld slurmd slurm-client slurm-wlm-basic-plugins munge libmunge2"
    local lists="-o Dir::State::lists=$folder/lists"
    timeout "$PATIENCE" bash -c "$fetch $packages || { apt-get update $options $lists && $fetch $lists $packages; }" \
        > "$folder/apt.log" 2>&1 < /dev/null \
        || unable "within $PATIENCE s SLURM's packages did not come: $(grep -m 1 "Failed to fetch" "$folder/apt.log" || tail -n 1 "$folder/apt.log")"
    for package in "$folder"/archives/*.deb; do
        dpkg -x "$package" "$folder/unpacked"
    done
    # The loader is named, because LD_LIBRARY_PATH would come into the jobs.
    local plugins loader program name
    loader=$(ldd /bin/sh | grep -o '/[^ ]*/ld-linux[^ ]*')
    plugins=$(dirname "$(find "$folder/unpacked" -name auth_munge.so)")
    for program in "$folder"/unpacked/usr/{bin,sbin}/*; do
        name=$(basename "$program" -wlm)
        printf '#!/bin/sh\nexec %s --library-path %s %s "$@"\n' \
            "$loader" "$plugins:$(dirname "$plugins")" "$program" > "$folder/bin/$name"
        chmod +x "$folder/bin/$name"
    done
    ln -s "$plugins" "$folder/plugins"
}

free_port() {
    local port=$((20000 + RANDOM % 12000))
    while (: < "/dev/tcp/127.0.0.1/$port") 2> /dev/null; do port=$((20000 + RANDOM % 12000)); done
    echo $port
}

up() {
    mkdir -p "$folder"
    [ -z "$(ls -A "$folder")" ] || { echo "$folder must be empty" >&2; exit 1; }
    unpack
    mkdir -p "$folder"/{state,spool,log,run}
    local port
    port=$(free_port)
    cat > "$SLURM_CONF" << END
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmdPort=$(free_port)
# jobs of two clusters on one machine have other numbers, and so other ports
FirstJobId=$port
SlurmUser=root
SlurmdUser=root
PluginDir=$folder/plugins
AuthType=auth/munge
# a job that is requeued waits for as long as its credential
AuthInfo=socket=$folder/run/munge.socket,cred_expire=5
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
# on a loaded machine an answer takes longer than the ten seconds that SLURM waits by itself
MessageTimeout=90
MinJobAge=600
NodeName=$host NodeAddr=127.0.0.1 CPUs=4 RealMemory=2000 State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
END
    head -c 128 /dev/urandom > "$folder/run/munge.key"
    chmod 400 "$folder/run/munge.key"
    munged --force --key-file="$folder/run/munge.key" --socket="$folder/run/munge.socket" --pid-file="$folder/run/munged.pid" \
        --log-file="$folder/log/munged.log" --seed-file="$folder/run/munge.seed"
    slurmctld
    slurmd -N "$host" -d "$folder/bin/slurmstepd"
    setsid bash -c "while [ -e /proc/$parent ] && [ -d '$folder/run' ]; do sleep 1; done; exec '$0' down '$folder'" \
        > /dev/null 2>&1 < /dev/null &
    for _ in $(seq 240); do
        sinfo --noheader --format=%T 2> /dev/null | grep -q idle && return
        sleep 0.25
    done
    tail -n 20 "$folder"/log/* >&2
    exit 1
}

down() {
    local daemon pid
    timeout 20 scancel --full --signal=KILL --user=root 2> /dev/null || true
    timeout 20 scancel --user=root 2> /dev/null || true
    for _ in $(seq 80); do
        [ -n "$(timeout 20 squeue --noheader 2> /dev/null)" ] || break
        sleep 0.25
    done
    for daemon in slurmd slurmctld munged; do
        pid=$(cat "$folder/run/$daemon.pid" 2> /dev/null) || continue
        kill "$pid" 2> /dev/null || true
        timeout 20 tail --pid="$pid" -f /dev/null || kill -KILL "$pid" || true
    done
    rm -rf "$folder"
}

"$what"
