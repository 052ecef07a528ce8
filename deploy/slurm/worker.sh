#!/bin/bash
# Workers of a Prefect work pool as an array of Slurm jobs, one GPU each. Submit it in the root of a clone that all nodes
# see, or whose path exists on each node:
#
#   sbatch --array=0-7 deploy/slurm/worker.sh gpu
#
# Slurm sends SIGTERM 120 seconds before the time limit, and when it preempts a job. The worker hands over the checkpoint
# of its prompt, and another worker goes on from it. Each job keeps its clone on the node's own disk.
#SBATCH --job-name=prolific
#SBATCH --gpus=1
#SBATCH --cpus-per-task=4
#SBATCH --mem=24G
#SBATCH --time=08:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --output=%x-%A_%a.log
set -eu

# PREFECT_API_URL, PREFECT_API_AUTH_STRING, MLFLOW_TRACKING_URI and the object store's keys; only you can read the file.
. "${PROLIFIC_ENV:-$HOME/.config/prolific.env}"
export PREFECT_API_URL PREFECT_API_AUTH_STRING MLFLOW_TRACKING_URI AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY
export PROLIFIC_WORKSPACES="${SLURM_TMPDIR:-${TMPDIR:-/tmp}}/prolific-$SLURM_JOB_ID"

# `srun` forwards the signal to the worker, which the batch script itself would not.
exec srun .venv/bin/prolific worker --pool "${1:-gpu}"
