#!/bin/bash
# Workers of a Prefect work pool as an array of Slurm jobs, one GPU each. Submit it in the root of a clone that all nodes
# see, or whose path exists on each node:
#
#   sbatch --array=0-7 deploy/slurm/worker.sh gpu
#
# Slurm sends SIGTERM to this script 120 seconds before the time limit (and before a preemption, if the cluster has
# PreemptParameters=send_user_signal). The worker then hands over the checkpoint of its prompt, and another worker goes
# on from it. Each job keeps its clone on the node's own disk.
#SBATCH --job-name=prolific
#SBATCH --gpus=1
#SBATCH --cpus-per-task=4
#SBATCH --mem=24G
#SBATCH --time=08:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --output=%x-%A_%a.log
set -eu

# PREFECT_API_URL, PREFECT_API_AUTH_STRING, MLFLOW_TRACKING_URI and the object store's keys; only you can read the file.
. "${PROLIFIC_ENV:-$HOME/.config/prolific.env}"
export PREFECT_API_URL PREFECT_API_AUTH_STRING MLFLOW_TRACKING_URI AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY
export PROLIFIC_WORKSPACES="${SLURM_TMPDIR:-${TMPDIR:-/tmp}}/prolific-$SLURM_JOB_ID"

# The script alone receives the signal, and passes it on to `prolific worker`, which stops its run before Prefect's worker.
.venv/bin/prolific worker --pool "${1:-gpu}" &
trap 'kill -TERM $!' TERM
wait $! || wait $!
