#!/usr/bin/env bash
# Train on the GPUs of one machine, or of several: start it on each of them.
#
#   bash tools/dist_train.sh CONFIG GPUS [flags of train.py]
#   NNODES=2 NODE_RANK=0 MASTER_ADDR=node0 bash tools/dist_train.sh CONFIG 8 [flags]     # on node0
#   NNODES=2 NODE_RANK=1 MASTER_ADDR=node0 bash tools/dist_train.sh CONFIG 8 [flags]     # on the other
#   NNODES=1:4 MASTER_ADDR=node0 bash tools/dist_train.sh CONFIG 8 --resume [flags]      # elastic
#
# Environment: NNODES (1), NODE_RANK (0), MASTER_ADDR (127.0.0.1), PORT (29500), MAX_RESTARTS (3 if elastic,
# else 0), PYTHON (that of .venv, or python).
set -euo pipefail

if [ $# -lt 2 ]; then
    sed -n '2,10s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
CONFIG=$1
GPUS=$2
shift 2
if ! [[ $GPUS =~ ^[1-9][0-9]*$ ]]; then
    echo "dist_train.sh: GPUS must be a number of processes, got '$GPUS'" >&2
    exit 2
fi

ROOT=$(cd "$(dirname "$0")/.." && pwd)
PYTHON=${PYTHON:-$([ -x "$ROOT/.venv/bin/python" ] && echo "$ROOT/.venv/bin/python" || echo python)}
NNODES=${NNODES:-1}
NODE_RANK=${NODE_RANK:-0}
PORT=${PORT:-29500}
MASTER_ADDR=${MASTER_ADDR:-127.0.0.1}
# several threads in each of many processes slow each other down
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

if [[ $NNODES == *:* ]]; then
    # torch 2.14 loses a machine that joins when it shares one store over all rounds
    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
    PLACE=(--rdzv_backend=c10d "--rdzv_endpoint=$MASTER_ADDR:$PORT" "--rdzv_id=${RUN_ID:-thinktwice}"
        "--max_restarts=${MAX_RESTARTS:-3}")
else
    PLACE=("--node_rank=$NODE_RANK" "--master_addr=$MASTER_ADDR" "--master_port=$PORT"
        "--max_restarts=${MAX_RESTARTS:-0}")
fi
exec "$PYTHON" -m torch.distributed.run "--nnodes=$NNODES" "--nproc_per_node=$GPUS" "${PLACE[@]}" \
    "$ROOT/train.py" "$CONFIG" --launcher pytorch "$@"
