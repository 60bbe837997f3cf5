"""How cost grows with picks, box, micrographs and workers: `python -m bench.growth --data FOLDER`.

Runs of the command line that differ in one number; the seconds are those that the run itself gives for cutting, so
that start-up and planning are left out.
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.cases import K2, Case
from bench.dataset import ensure
from bench.endtoend import cli_command
from bench.machine import cores, execute, fresh, save, spread, warm_files

__all__ = ["main"]

MARGIN = 330  # so that a box of 640 fits around every pick
BASE = Case(name="growth", title="", data=replace(K2, micrographs=6, margin=MARGIN), box=256, sizes=(64,))
SERIES: dict[str, tuple[int, ...]] = {
    "picks": (0, 75, 150, 300, 600),
    "box": (128, 256, 384, 512, 640),
    "micrographs": (6, 12, 24, 48),
    "workers": tuple(sorted({1, 2, cores()})),
}


def main() -> None:
    """Parse the arguments, measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    points = [(what, number) for what, numbers in SERIES.items() for number in numbers if number]
    seconds: dict[tuple[str, int], list[float]] = {point: [] for point in points}
    for number in range(arguments.rounds):
        for point in points if number % 2 == 0 else points[::-1]:
            seconds[point].append(_once(arguments.data, *point))
    rows: list[dict[str, Any]] = []
    for what, number in points:
        took = spread(seconds[what, number])
        case, workers = _case(what, number)
        each = took.median * workers / (case.data.micrographs * case.data.picks) * 1e3
        print(f"{what:12s}{number:6d}  {took.text()} s  {each:.3f} ms per particle and worker")
        row = {"series": what, "at": number, "seconds": [took.median, took.low, took.high]}
        rows.append(row | {"ms_per_particle_and_worker": round(each, 4)})
    base = {"box": BASE.box, "size": BASE.sizes[0], "micrographs": BASE.data.micrographs, "picks": BASE.data.picks}
    print(f"written to {save('growth', {'base': base | {'workers': 1}, 'points': rows})}")


def _case(what: str, number: int) -> tuple[Case, int]:
    data = replace(BASE.data, name=f"growth-{BASE.data.picks}")
    if what == "picks":
        return replace(BASE, data=replace(data, name=f"growth-{number}", picks=number)), 1
    if what == "box":
        return replace(BASE, data=data, box=number), 1
    if what == "micrographs":
        return replace(BASE, data=replace(data, micrographs=number)), 1
    return replace(BASE, data=replace(data, micrographs=12)), number


def _once(root: Path, what: str, number: int) -> float:
    case, workers = _case(what, number)
    data = ensure(root, case.data)
    warm_files(data.paths)
    out = data.root / "out" / "growth"
    fresh(out, case.data.micrographs * sum(case.stack_bytes)).release()
    command = [part.replace("{out}", str(out)) for part in cli_command(case, data, workers, fsync=False)]
    execute(command, cwd=data.root)
    job = json.loads((out / "job" / "job.json").read_text())
    shutil.rmtree(out)
    return float(job["seconds"]["cutting"])


if __name__ == "__main__":
    main()
