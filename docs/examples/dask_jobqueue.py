"""Extract on workers that dask-jobqueue gets from Slurm (or PBS, SGE, LSF: the class of that name)."""

from __future__ import annotations

from dask_jobqueue import SLURMCluster
from distributed import Client

import cryobox

cluster = SLURMCluster(cores=8, processes=1, memory="16GB", walltime="02:00:00", queue="cpu")
cluster.adapt(minimum_jobs=1, maximum_jobs=16)

with Client(cluster) as client:
    result = cryobox.run(
        "picks.star",
        micrographs="micrographs.star",
        out="Extract/job010",
        recipe=cryobox.Recipe(box=400, sizes=(128,)),
        options=cryobox.RunOptions(task_timeout=600),
        # pure=False: a micrograph that is tried again is cut again, not answered from dask's memory.
        executor=client.get_executor(pure=False),
    )
print(f"{result.extracted} particles, {result.retried} micrographs tried again, exit code {result.exit_code}")
