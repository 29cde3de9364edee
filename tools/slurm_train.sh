#!/usr/bin/env bash
# Train under Slurm; a job that is preempted or reaches its time limit is requeued and resumes.
#
#   [GPUS=16] [GPUS_PER_NODE=8] bash tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [flags of train.py]
#
# Environment: GPUS (8), GPUS_PER_NODE (8), CPUS_PER_TASK (9: eight loader workers and the rank),
# SRUN_ARGS (more arguments of sbatch, e.g. "--time=24:00:00 --mem=0", or "--gres=none" where Slurm does not
# manage GPUs), PYTHON, SBATCH, SRUN, SCONTROL and SQUEUE (programs).
#
# Requeueing: Slurm sends SIGUSR1 two minutes before the end (and SIGTERM when it preempts), train.py
# saves and exits with code 75, and this script asks Slurm to requeue the job, which starts with --resume-from auto.
# A job that was cancelled or has failed is not requeued.
set -euo pipefail

ROOT=${THINKTWICE_ROOT:-$(cd "$(dirname "$0")/.." && pwd)}
PREEMPTED=75

if [ "${1:-}" = --inside-job ]; then
    shift
    set +e
    # a rank that exits with 75 must not have the others killed while they still write
    "${SRUN:-srun}" --kill-on-bad-exit=0 --wait=60 "$@" &
    STEP=$!
    # the signals reach this shell too, which must outlive the step to requeue the job
    ASKED=0
    trap 'ASKED=1; kill -USR1 "$STEP" 2>/dev/null' USR1 TERM
    wait "$STEP"
    CODE=$?
    while kill -0 "$STEP" 2>/dev/null; do # a trapped signal ends the wait early
        wait "$STEP"
        CODE=$?
    done
    # a rank that was still starting Python is killed by the signal and has another exit code
    if [ "$CODE" -eq "$PREEMPTED" ] || { [ "$ASKED" -eq 1 ] && [ "$CODE" -ne 0 ]; }; then
        # a job that was cancelled, or that Slurm has requeued, is COMPLETING; neither must be requeued here.
        # At the time limit (in a long evaluation, which the first signal does not end) the reason is TimeLimit.
        STATE=$("${SQUEUE:-squeue}" -h -j "$SLURM_JOB_ID" -t all -o '%T %r') || STATE=RUNNING
        if [[ $STATE != RUNNING* && $STATE != *TimeLimit ]]; then
            echo "slurm_train.sh: stopped, job $SLURM_JOB_ID is $STATE and not requeued from here"
            exit "$CODE"
        fi
        echo "slurm_train.sh: preempted, job $SLURM_JOB_ID is requeued"
        "${SCONTROL:-scontrol}" requeue "$SLURM_JOB_ID" || exit "$CODE"
        exit 0
    fi
    exit "$CODE"
fi

if [ $# -lt 4 ]; then
    sed -n '2,12s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
PARTITION=$1
JOB_NAME=$2
CONFIG=$3
WORK_DIR=$4
shift 4
GPUS=${GPUS:-8}
GPUS_PER_NODE=${GPUS_PER_NODE:-8}
[ "$GPUS" -lt "$GPUS_PER_NODE" ] && GPUS_PER_NODE=$GPUS
if [ $((GPUS % GPUS_PER_NODE)) -ne 0 ]; then
    echo "slurm_train.sh: GPUS=$GPUS is not a multiple of GPUS_PER_NODE=$GPUS_PER_NODE" >&2
    exit 2
fi
PYTHON=${PYTHON:-$([ -x "$ROOT/.venv/bin/python" ] && echo "$ROOT/.venv/bin/python" || echo python)}
mkdir -p "$WORK_DIR"
export THINKTWICE_ROOT=$ROOT OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

# shellcheck disable=SC2086  # SRUN_ARGS holds several words
exec "${SBATCH:-sbatch}" --partition="$PARTITION" --job-name="$JOB_NAME" --gres="gpu:$GPUS_PER_NODE" \
    --nodes=$((GPUS / GPUS_PER_NODE)) --ntasks="$GPUS" --ntasks-per-node="$GPUS_PER_NODE" \
    --cpus-per-task="${CPUS_PER_TASK:-9}" --requeue --open-mode=append --signal=B:USR1@120 \
    --output="$WORK_DIR/slurm-%j.out" ${SRUN_ARGS:-} \
    "$0" --inside-job "$PYTHON" -u "$ROOT/train.py" "$CONFIG" --work-dir="$WORK_DIR" --launcher=slurm \
    --resume-from auto "$@"
