"""A run in a process of its own, with the engine that is named; it kills itself after so many micrographs if asked,
or, if that number is negative, waits to be killed.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import cryobox
from cryobox.engine.clusters import dask_executor, mpi_executor
from cryobox.engine.progress import Progress
from scale.project import extract


def main() -> None:
    kind, project, kill_after = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    begin: list[int] = []

    def progress(now: Progress) -> None:
        begin.append(now.micrographs)
        if kill_after and now.micrographs >= begin[0] + abs(kill_after):
            os.kill(os.getpid(), signal.SIGKILL) if kill_after > 0 else time.sleep(600)

    shard: tuple[int, int] | None = None
    engine: Any = nullcontext(None)
    if kind == "processes":
        spawn = multiprocessing.get_context("spawn")
        engine = nullcontext(partial(ProcessPoolExecutor, 2, mp_context=spawn))
    elif kind == "mpi":
        engine = mpi_executor()
    elif kind.startswith(("tcp:", "local:")):
        engine = dask_executor(kind)
    elif "/" in kind:
        index, count = kind.split("/")
        shard = int(index), int(count)
    with engine as executor:
        options = cryobox.RunOptions(workers=2, fsync=False, shard=shard)
        result = extract(project, executor=executor, options=options, on_progress=progress)
    print(json.dumps({"exit_code": result.exit_code, "resumed": result.resumed}))


if __name__ == "__main__":
    main()
