#!/bin/bash
# Submit an array and the merge that follows it. Edit slurm_array.sh, or set PICKS, MICROGRAPHS, OUT, BOX, CRYOBOX_ARGS.
set -eu
here=$(cd "$(dirname "$0")" && pwd)

array=$(sbatch --parsable "$@" "$here/slurm_array.sh")
# afterany, not afterok: a task that ends with 1 has only left out micrographs that cannot be read, and the merge
# itself refuses shards that are not whole. Send those again (sbatch --array=7 would say "1 of 1": give --shard 7/16).
merge=$(sbatch --parsable --dependency="afterany:$array" "$here/slurm_merge.sh")
echo "$array $merge"
