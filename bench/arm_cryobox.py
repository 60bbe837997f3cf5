"""One run of cryobox in a process of its own: prints what importing and running took, as one JSON line."""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

from bench.cases import Case, case
from bench.machine import laps, let_go, own_peak_mb

__all__ = ["main"]


def main() -> None:
    """Parse the arguments, run, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--case", required=True)
    parser.add_argument("--picks")
    parser.add_argument("--micrographs")
    parser.add_argument("--array", help="a micrograph, for cases in memory")
    parser.add_argument("--out")
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--fsync", action="store_true")
    parser.add_argument("--gpu", help="the one to cut on, like cuda:0")
    arguments = parser.parse_args()
    start = time.perf_counter()
    import cryobox

    _ = cryobox.Recipe, cryobox.run, cryobox.extract  # names are loaded when first asked for
    imported = time.perf_counter() - start
    what = case(arguments.case)
    waited = let_go()
    seconds, more = _in_memory(what, arguments) if what.kind == "memory" else _files(what, arguments)
    print(
        json.dumps(
            {"import_seconds": imported, "seconds": seconds, "peak_rss_mb": own_peak_mb(), "waited": waited} | more
        )
    )


def _files(what: Case, arguments: argparse.Namespace) -> tuple[float, dict[str, Any]]:
    import cryobox

    recipe = cryobox.Recipe(box=what.box, sizes=what.sizes, dtype=what.dtype, invert=what.invert)
    options = cryobox.RunOptions(workers=arguments.workers, fsync=arguments.fsync)
    more: dict[str, Any] = {}
    if arguments.gpu:
        from cryobox.gpu import survey

        options = dataclasses.replace(options, gpus=(arguments.gpu,))
        start = time.perf_counter()
        survey([arguments.gpu])  # makes the context, which a process pays for once: start-up, too
        more = {"device_seconds": time.perf_counter() - start}
    start = time.perf_counter()
    cryobox.run(arguments.picks, micrographs=arguments.micrographs, out=arguments.out, recipe=recipe, options=options)
    seconds = time.perf_counter() - start
    job = json.loads((Path(arguments.out) / "job.json").read_text())
    planning = job["seconds"]["planning"]  # reading tables and headers: start-up, which is reported apart
    return seconds, {"planning_seconds": planning, "work_seconds": seconds - planning} | more


def _in_memory(what: Case, arguments: argparse.Namespace) -> tuple[float, dict[str, Any]]:
    import cryobox
    from bench.arm_numpy import read_micrograph, read_positions

    image = read_micrograph(Path(arguments.array), what.data)
    (centers,) = read_positions(what.data)
    first, median = laps(
        lambda: cryobox.extract(image, centers, box=what.box, sizes=what.sizes, threads=arguments.workers)
    )
    return median, {"first_seconds": first, "planning_seconds": 0.0, "work_seconds": median}


if __name__ == "__main__":
    main()
