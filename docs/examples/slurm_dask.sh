#!/bin/bash
# One job of several tasks: a dask scheduler, cryobox as its client, and workers on all other tasks.
#SBATCH --job-name=cryobox-dask
#SBATCH --ntasks=4
#SBATCH --cpus-per-task=1
#SBATCH --time=02:00:00
#SBATCH --output=cryobox-dask-%j.log
set -eu

file=$PWD/scheduler-$SLURM_JOB_ID.json
python -m distributed.cli.dask_scheduler --scheduler-file "$file" --port 0 --no-dashboard &
scheduler=$!
trap 'kill $scheduler 2>/dev/null; rm -f "$file"' EXIT
until [ -s "$file" ]; do kill -0 $scheduler; sleep 0.2; done
# --overlap: the workers share the nodes with the scheduler and the driver, which need little.
srun --overlap --ntasks=$((SLURM_NTASKS - 1)) \
    python -m distributed.cli.dask_worker --scheduler-file "$file" --nthreads "${SLURM_CPUS_PER_TASK:-1}" \
    --no-dashboard --death-timeout 60 &
address=$(python -c 'import json, sys; print(json.load(open(sys.argv[1]))["address"])' "$file")
# Not exec: the trap ends the scheduler, and with it the workers.
cryobox extract "${PICKS:-picks.star}" --micrographs "${MICROGRAPHS:-micrographs.star}" --out "${OUT:-Extract/job010}" \
    --box "${BOX:-400}" ${CRYOBOX_ARGS:---fcrop 128} --dask "$address" --quiet
