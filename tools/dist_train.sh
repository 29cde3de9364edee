#!/usr/bin/env bash
# Train on the GPUs of one machine, or of several: start it on each of them.
#
#   bash tools/dist_train.sh CONFIG GPUS [flags of train.py]
#   NNODES=2 NODE_RANK=0 MASTER_ADDR=node0 bash tools/dist_train.sh CONFIG 8 [flags]     # on node0
#   NNODES=2 NODE_RANK=1 MASTER_ADDR=node0 bash tools/dist_train.sh CONFIG 8 [flags]     # on the other
#   NNODES=1:4 MASTER_ADDR=node0 bash tools/dist_train.sh CONFIG 8 --resume [flags]      # elastic
#
# Environment: NNODES (1), NODE_RANK and MASTER_ADDR (for several machines), PORT (29500), MAX_RESTARTS (3 if
# elastic, else 0), RUN_ID (elastic: by config and work dir), PYTHON (that of .venv, or python).
set -euo pipefail

refuse() {
    echo "dist_train.sh: $1" >&2
    exit 2
}

if [ $# -lt 2 ]; then
    sed -n '2,10s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
CONFIG=$1
GPUS=$2
shift 2
[[ $GPUS =~ ^[1-9][0-9]*$ ]] || refuse "GPUS must be a number of ranks, got '$GPUS'"

ROOT=$(cd "$(dirname "$0")/.." && pwd)
PYTHON=${PYTHON:-$([ -x "$ROOT/.venv/bin/python" ] && echo "$ROOT/.venv/bin/python" || echo python)}
NNODES=${NNODES:-1}
PORT=${PORT:-29500}
# several threads in each of many ranks slow each other down
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

[[ $NNODES =~ ^[1-9][0-9]*(:[1-9][0-9]*)?$ ]] ||
    refuse "NNODES must be a number of machines, or MIN:MAX, got '$NNODES'"
[[ $PORT =~ ^[1-9][0-9]{0,4}$ ]] && [ "$PORT" -lt 65536 ] || refuse "PORT must be 1 ... 65535, got '$PORT'"
if [ "$NNODES" != 1 ]; then # by default each machine would wait for itself, or train alone
    [ -n "${MASTER_ADDR:-}" ] ||
        refuse "NNODES=$NNODES needs MASTER_ADDR, the host name of the first machine, the same on all"
    if [[ $NNODES != *:* ]] && ! [[ ${NODE_RANK:-} =~ ^[0-9]+$ && ${NODE_RANK:-} -lt $NNODES ]]; then
        refuse "NNODES=$NNODES needs NODE_RANK, 0 ... $((NNODES - 1)), its own on each machine, got '${NODE_RANK:-}'"
    fi
fi
NODE_RANK=${NODE_RANK:-0}
MASTER_ADDR=${MASTER_ADDR:-127.0.0.1}
TAKEN="is in use, perhaps by another run: choose another with PORT, the same on all machines"

answers() { # whether something listens at this host
    timeout 3 bash -c 'exec 3<>"/dev/tcp/$0/$1"' "$1" "$PORT" 2>/dev/null
}

if [[ $NNODES == *:* ]]; then
    # torch 2.14 loses a machine that joins when it shares one store over all rounds
    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
    WORK_DIR=work_dirs # what two runs do not share; not the path from /, which may differ between machines
    for FLAG in "$@"; do
        case ${PREVIOUS:-} in --work-dir) WORK_DIR=$FLAG ;; esac
        case $FLAG in --work-dir=* | work_dir=*) WORK_DIR=${FLAG#*=} ;; esac
        PREVIOUS=$FLAG
    done
    NAME=$(basename "$CONFIG" .py)
    RUN_ID=${RUN_ID:-$NAME-$(echo "$NAME ${WORK_DIR%/}" | cksum | cut -d' ' -f1)}
    if answers "$MASTER_ADDR"; then # a launcher of this run that was started before, or another run or service
        timeout 60 "$PYTHON" -c 'import sys; from datetime import timedelta; from torch.distributed import TCPStore
address, port, run = sys.argv[1:]
TCPStore(address, int(port), is_master=False, timeout=timedelta(seconds=5)).wait([f"torch.rendezvous.{run}"])
' "$MASTER_ADDR" "$PORT" "$RUN_ID" >/dev/null 2>&1 || refuse "port $PORT of $MASTER_ADDR $TAKEN"
    fi
    PLACE=(--rdzv_backend=c10d "--rdzv_endpoint=$MASTER_ADDR:$PORT" "--rdzv_id=$RUN_ID"
        "--max_restarts=${MAX_RESTARTS:-3}")
else
    if [ "$NODE_RANK" -eq 0 ] && { answers 127.0.0.1 || answers "$MASTER_ADDR"; }; then
        refuse "port $PORT of this machine $TAKEN"
    fi
    PLACE=("--node_rank=$NODE_RANK" "--master_addr=$MASTER_ADDR" "--master_port=$PORT"
        "--max_restarts=${MAX_RESTARTS:-0}")
fi
exec "$PYTHON" -m torch.distributed.run "--nnodes=$NNODES" "--nproc_per_node=$GPUS" "${PLACE[@]}" \
    "$ROOT/train.py" "$CONFIG" --launcher pytorch "$@"
