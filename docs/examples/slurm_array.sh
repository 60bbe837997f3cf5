#!/bin/bash
# One task of a Slurm array: its share of the micrographs. Submitted, with the merge behind it, by slurm_submit.sh.
#SBATCH --job-name=cryobox
#SBATCH --array=1-16
#SBATCH --cpus-per-task=8
#SBATCH --mem=8G
#SBATCH --time=02:00:00
#SBATCH --requeue
# A minute before the time limit: what is in flight is finished, the rest is done when the same task is sent again.
#SBATCH --signal=B:TERM@60
#SBATCH --output=cryobox-%A_%a.log
set -u

# --break-lock: a task that was killed and sent again may come to another node, where its old lock cannot be seen to be
# dead. Slurm never runs the same task twice at a time.
# exec: signals reach cryobox itself.
exec cryobox extract "${PICKS:-picks.star}" --micrographs "${MICROGRAPHS:-micrographs.star}" --out "${OUT:-Extract/job010}" \
    --box "${BOX:-400}" ${CRYOBOX_ARGS:---fcrop 128} --workers "${SLURM_CPUS_PER_TASK:-1}" --shard auto --break-lock --quiet
