#!/usr/bin/env bash
# One process per node, under SLURM: sbatch --nodes 4 --gpus-per-node 8 experiments/launch/slurm.sh \
#   experiments.train small --out /shared/train
# Nodes share the folder of --out. SLURM tells JAX who is who; a job that is put back into the queue,
# or started again with the same line, goes on from its last checkpoint.
#SBATCH --job-name=jaxavatar
#SBATCH --ntasks-per-node=1
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@120

set -euo pipefail

if (($# < 1)); then
    echo "name a training command, such as: experiments.train small --out /shared/train" >&2
    exit 2
fi
cd "${SLURM_SUBMIT_DIR:-.}"
# SIGTERM, two minutes before the end, goes to the processes, which save their state.
exec srun --kill-on-bad-exit=1 "${PYTHON:-.venv/bin/python}" -m "$@" --distributed
