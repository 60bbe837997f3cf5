#!/bin/bash
# The merge behind a Slurm array: checks that every shard is there and whole, then writes the tables.
#SBATCH --job-name=cryobox-merge
#SBATCH --cpus-per-task=1
#SBATCH --mem=16G
#SBATCH --time=00:30:00
#SBATCH --output=cryobox-merge-%j.log
set -u

exec cryobox merge "${OUT:-Extract/job010}" --break-lock
