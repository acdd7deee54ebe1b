#!/usr/bin/env bash
# Train on several hosts that have no SLURM, by plain mpirun of MPICH or Open MPI:
#
#   bash launch/hosts.sh hosts.txt runs/first --preset alexnet-owt --data /shared/imagenet
#
# A line of hosts.txt names a host and how many ranks it runs, one a GPU: "gpu01:4", "gpu01 slots=4", or "gpu01" for
# one. The second argument is the run's folder; the others are options of `python -m owt_mpi.train`. The same command
# goes on from the run's newest checkpoint. The repository, the environment, the run's folder and the data lie at the
# same place on all hosts. Exit codes are those of the training: 0 trained, 85 stopped on request, to be gone on with.
# docs/hosts.md tells the rest.
#
#   OWT_MPI_VENV          the virtual environment (default: .venv in the repository)
#   OWT_MPI_AGENT         what runs a command on a host (default: ssh, without asking for passwords)
#   OWT_MPI_INTERFACE     the network interface between the hosts, such as eth0 or ib0 (default: MPI chooses)
#   OWT_MPI_CORES         how many cores each rank is bound to (default: the ranks of a host share its cores)
#   OWT_MPI_HOST_SECONDS  a host that has not answered for so long ends the job (default: 60)
#   OWT_MPI_RESTARTS      how often to start again, on the hosts that answer, after one is lost (default: 0)

# Stop at the first command that fails, and at variables that are not set.
set -euo pipefail

fail() {
    echo "error: $1" >&2
    exit "${2:-2}"
}
if [ $# -lt 2 ] || [ "${2#-}" != "$2" ]; then
    fail "usage: bash launch/hosts.sh HOSTFILE RUN_DIR [options of owt_mpi.train]"
fi
hostfile=$1 run=$2
[ -r "$hostfile" ] || fail "$hostfile, the file of hosts, cannot be read"
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${OWT_MPI_VENV:-$root/.venv}
[ -x "$venv/bin/python" ] || fail "$venv/bin/python is missing; OWT_MPI_VENV names the virtual environment"
# Ranks are started in this folder; on the other hosts it is looked for at the same place.
here=$(pwd)

# Ranks that wait for a host that is gone end by themselves, on that host too: it may be cut off from all who could end
# them. Ten minutes are more than any step, validation or checkpoint should take; an option of yours comes later, and
# counts. --resume auto: the same command goes on.
arguments=(--run-dir "$run" --stall-abort-seconds 600 "${@:3}" --resume auto)

# The hosts, and the ranks of each. What follows # in a line is a comment.
hosts=()
declare -A ranks
while read -r host count rest; do
    [ -n "$host" ] || continue
    count=${count#slots=}
    [[ $host =~ ^[A-Za-z0-9._-]+$ ]] || fail "$hostfile: $host is no name of a host"
    [[ ${count:=1} =~ ^[1-9][0-9]*$ && -z $rest ]] || fail "$hostfile: $host $count $rest: write $host:4 for 4 ranks"
    [ -z "${ranks[$host]:-}" ] || fail "$hostfile names $host twice; give it one line, with all its ranks"
    hosts+=("$host")
    ranks[$host]=$count
done < <(sed -e 's/#.*//' -e 's/:/ /' "$hostfile")
[ ${#hosts[@]} -gt 0 ] || fail "$hostfile names no host"

# The environment of the ranks. mpirun is its own, or that of a module.
source "$venv/bin/activate"
mpirun=$(command -v mpirun) || fail "no mpirun: pip install '.[mpich]', or load your MPI's module"
# The threads of a rank use all cores that it is bound to. With one of these set, OpenMP would bind a rank's main thread
# to a single core, and all threads that it starts for images and communication with it.
unset OMP_PLACES OMP_PROC_BIND GOMP_CPU_AFFINITY
# GPUs are numbered as nvidia-smi numbers them, the same way on each host.
export CUDA_DEVICE_ORDER=PCI_BUS_ID
# Which network is used: a wrong guess hangs at the start, such as that for a bridge of containers on each host.
if [ -n "${OWT_MPI_INTERFACE:-}" ]; then
    export UCX_NET_DEVICES=$OWT_MPI_INTERFACE FI_TCP_IFACE=$OWT_MPI_INTERFACE NCCL_SOCKET_IFNAME=$OWT_MPI_INTERFACE
    export OMPI_MCA_btl_tcp_if_include=$OWT_MPI_INTERFACE PRTE_MCA_prte_if_include=$OWT_MPI_INTERFACE
fi

# mpirun wants one program that runs a command on a host: this file. Small files of ours lie in the run's folder.
mkdir -p "$run/launch"
work=$(cd "$run/launch" && pwd)
agent=$work/agent
ssh_agent="ssh -o BatchMode=yes -o ConnectTimeout=10 -o ServerAliveInterval=10 -o ServerAliveCountMax=3"
printf '#!/bin/sh\nexec %s "$@"\n' "${OWT_MPI_AGENT:-$ssh_agent}" >"$agent"
chmod +x "$agent"
on() { # on HOST COMMAND: run a command on a host, for 20 seconds at most
    if [ "$1" = "$(uname -n)" ]; then
        timeout 20 sh -c "$2"
    else
        timeout 20 "$agent" "$1" "$2"
    fi </dev/null
}

# A host will do if it answers, sees the run's folder, and has the same programs as this one.
versions="import sys, numpy, mpi4py, owt_mpi as own; print('Python', *sys.version_info[:3], 'NumPy', numpy.__version__, 'mpi4py', mpi4py.__version__, 'owt_mpi', own.__version__)"
question="cat $(printf %q "$work/token") && cd $(printf %q "$here") && $(printf '%q ' "$venv/bin/python" -c "$versions") &&
$(printf %q "$mpirun") --version | head -n 1"
find_hosts() { # set `there` to the hosts that will do; say what is wrong with the others
    local host pids=()
    echo "$RANDOM$RANDOM" >"$work/token"
    sh -c "$question" >"$work/answer" || fail "owt_mpi does not start here; see the message above" 1
    for host in "${hosts[@]}"; do
        on "$host" "$question" >"$work/answer-$host" 2>&1 &
        pids+=($!)
    done
    there=()
    for host in "${hosts[@]}"; do
        if ! wait "${pids[0]}"; then
            echo "$host does not answer, or lacks something: $(tail -n 1 "$work/answer-$host")" >&2
        elif ! cmp -s "$work/answer" "$work/answer-$host"; then
            echo "$host is not as this host:" >&2
            diff "$work/answer" "$work/answer-$host" >&2 || true
        else
            there+=("$host")
        fi
        pids=("${pids[@]:1}")
    done
}

# The launcher's end is waited for; a signal, passed on to it, is passed on by it to the ranks, which agree on a step,
# write a checkpoint and end with code 85. A second signal ends them at once.
early=
asked=
pass_on() {
    local signal=USR1
    if [ -n "$asked" ]; then signal=TERM; fi
    asked=yes
    kill "-$signal" "$launcher" 2>/dev/null || true # it has ended already
}
trap "early=yes" USR1 TERM INT # until there is a launcher

start() { # start the ranks on the hosts `there`, in the background
    local host num_ranks=0 name options=()
    : >"$work/hosts"
    for host in "${there[@]}"; do num_ranks=$((num_ranks + ranks[$host])); done
    if "$mpirun" --version | grep -q "Open MPI"; then
        for host in "${there[@]}"; do echo "$host slots=${ranks[$host]}" >>"$work/hosts"; done
        # plm_*_agent: how hosts are reached, by this host alone; the two names are those of Open MPI 5 and 4.
        export PRTE_MCA_plm_ssh_agent=$agent PRTE_MCA_plm_ssh_no_tree_spawn=1 OMPI_MCA_plm_rsh_agent=$agent
        # --bind-to: Open MPI binds a rank to one core where it is not told otherwise.
        options=(--hostfile "$work/hosts" --bind-to none)
        if [ -n "${OWT_MPI_CORES:-}" ]; then
            options=(--hostfile "$work/hosts" --map-by "slot:PE=$OWT_MPI_CORES" --bind-to core)
        fi
        # -x: Open MPI hands on only those variables that it is told.
        for name in $(compgen -e | grep -E '^(OWT_MPI|OMP|OPENBLAS|MKL|UCX|FI|NCCL|CUDA|LD_LIBRARY_PATH|PYTHON)'); do
            options+=(-x "$name")
        done
    else
        for host in "${there[@]}"; do echo "$host:${ranks[$host]}" >>"$work/hosts"; done
        # -launcher rsh: the program is called with the host and the command alone.
        options=(-f "$work/hosts" -launcher rsh -launcher-exec "$agent")
        if [ -n "${OWT_MPI_INTERFACE:-}" ]; then options+=(-iface "$OWT_MPI_INTERFACE"); fi
        if [ -n "${OWT_MPI_CORES:-}" ]; then options+=(-bind-to "core:$OWT_MPI_CORES"); fi
    fi
    # setsid: Ctrl-C reaches this script alone, which makes of it the wish to stop.
    setsid "$mpirun" "${options[@]}" -n "$num_ranks" "$venv/bin/python" -m owt_mpi.train "${arguments[@]}" &
    launcher=$!
    trap pass_on USR1 TERM INT
    if [ -n "$early" ]; then pass_on; fi
}

# A network that fails says nothing: mpirun and MPI wait for answers for as long as the kernel does, a quarter of an
# hour. So the hosts are asked whether they are there, and the job ends when one is not.
limit=${OWT_MPI_HOST_SECONDS:-60}
watch_hosts() {
    local host
    declare -A heard
    for host in "${there[@]}"; do heard[$host]=$SECONDS; done
    while sleep $((limit < 50 ? 1 + limit / 5 : 10)) >/dev/null 2>&1 && kill -0 "$launcher"; do
        for host in "${there[@]}"; do
            if on "$host" true 2>/dev/null; then
                heard[$host]=$SECONDS
            elif ((SECONDS - heard[$host] >= limit)); then
                echo "$host has not answered for $limit seconds: the job ends" >&2
                # Ranks here and on hosts that answer end with the launcher, which may wait for the lost host.
                kill -TERM "$launcher" && sleep 5 && kill -KILL "$launcher"
                return
            fi
        done
    done
}

# The trained weights as they are: which file, and of when. mpirun may end with code 0 where it has lost a host (Open
# MPI's does): trained is what has written weights.
weights() { stat --format="%i %y" "$run/weights.h5" 2>/dev/null || true; }
before=$(weights)

restarts=${OWT_MPI_RESTARTS:-0}
while true; do
    find_hosts
    if [ ${#there[@]} -lt ${#hosts[@]} ] && [ "$restarts" = "${OWT_MPI_RESTARTS:-0}" ]; then
        fail "not all hosts of $hostfile will do; mend them, or take them out" 1
    fi
    [ ${#there[@]} -gt 0 ] || fail "no host is left" 1
    start
    watch_hosts &
    watch=$!
    # `wait` returns at a signal too, with a code that is none of the launcher's; so the script naps, which Ctrl-C cuts
    # short, until the launcher is gone. Of a process that has ended the shell remembers the code.
    while kill -0 "$launcher" 2>/dev/null; do sleep 0.5 || true; done
    code=0
    wait "$launcher" 2>/dev/null || code=$?
    trap "early=yes" USR1 TERM INT
    kill "$watch" 2>/dev/null || true
    if [ "$code" -eq 0 ] && [ "$(weights)" = "$before" ] && [[ " ${arguments[*]} " != *" --dry-run "* ]]; then code=1; fi
    # Trained; wrong options or data, which would be wrong again; stopped on request.
    case $code in 0 | 2 | 3) exit "$code" ;; esac
    if [ "$code" -eq 85 ] || [ -n "$asked$early" ]; then
        echo "stopped; the same command goes on from the newest checkpoint"
        exit "$code"
    fi
    [ "$restarts" -gt 0 ] || fail "the job has ended with code $code; the same command goes on from the newest checkpoint" "$code"
    restarts=$((restarts - 1))
    echo "the job has ended with code $code; it goes on from the newest checkpoint on the hosts that answer"
done
