"""Tables at scale: rows read, recentered, planned and written, without cutting: `python -m bench.tables --data FOLDER`.

100 k, 300 k and 1 M rows on 1,000 to 10,000 micrographs, as STAR (25 columns) and `.cs`; each in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

from bench.cases import TABLE
from bench.dataset import ensure
from bench.machine import execute, own_peak_mb, save

__all__ = ["main"]

GOALS = {"star": (20.0, 2500.0), "cs": (8.0, None)}  # seconds and MB for 1 M rows


def main() -> None:
    """Parse the arguments; measure in children, print, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", default="100000,300000,1000000")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--child", choices=("star", "cs"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    counts = [int(count) for count in arguments.rows.split(",")]
    if arguments.child:
        print(json.dumps(_once(arguments.data, counts[0], arguments.child)))
        return
    results = []
    print(
        f"{'table':6s}{'rows':>9s}{'read':>8s}{'headers':>9s}{'plan':>8s}{'write':>8s}{'all':>8s}{'peak MB':>9s}  goal"
    )
    for family in ("star", "cs"):
        for count in counts:
            ensure(arguments.data, replace(TABLE, micrographs=count // TABLE.picks))
            command = [sys.executable, "-m", "bench.tables", "--data", str(arguments.data.resolve())]
            command += ["--rows", str(count), "--child", family]
            rounds = [
                json.loads(execute(command, cwd=arguments.data).stdout.splitlines()[-1])
                for _ in range(arguments.rounds)
            ]
            best = min(rounds, key=lambda one: float(one["all"]))
            seconds, limit = GOALS[family]
            goal = ""
            if count == 1_000_000:
                met = best["all"] <= seconds and (limit is None or best["peak_mb"] <= limit)
                goal = f"{seconds:g} s{f', {limit:g} MB' if limit else ''}: {'reached' if met else 'MISSED'}"
            print(
                f"{family:6s}{count:9d}{best['read']:8.2f}{best['headers']:9.2f}{best['plan']:8.2f}{best['write']:8.2f}"
                f"{best['all']:8.2f}{best['peak_mb']:9.0f}  {goal}",
                flush=True,
            )
            results.append({"table": family, "rows": count, "rounds": rounds})
    print(f"written to {save('tables', {'tables': results})}")


def _once(root: Path, rows: int, family: str) -> dict[str, float]:
    start = time.perf_counter()
    from cryobox import Recipe, formats
    from cryobox.formats.images import read_header
    from cryobox.matching import match_micrographs, micrographs_with_picks
    from cryobox.outcome import outcome_of
    from cryobox.paths import Start
    from cryobox.plan import build_plan
    from cryobox.results import TaskResult
    from cryobox.tables import write_tables

    seconds = {"import": time.perf_counter() - start}
    data = ensure(root, replace(TABLE, micrographs=rows // TABLE.picks))
    picks, mics = (data.picks, data.micrographs) if family == "star" else (data.picks_cs, data.micrographs_cs)
    recipe = Recipe(box=16, sizes=(16, 8))  # two tables of particles
    out = data.root / "out" / "tables"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)

    start = begun = time.perf_counter()
    micrographs = formats.read_micrographs(str(mics), start=Start.here(data.root))
    particles = formats.read_particles(str(picks), micrographs=micrographs, recipe=recipe, start=Start.here(data.root))
    seconds["read"] = time.perf_counter() - start
    start = time.perf_counter()
    match, _ = match_micrographs(particles, micrographs)
    used = micrographs_with_picks(particles, match, None).tolist()
    seconds["plan"] = time.perf_counter() - start
    start = time.perf_counter()
    headers = {row: read_header(micrographs.paths[row]) for row in used}
    seconds["headers"] = time.perf_counter() - start
    start = time.perf_counter()
    plan = build_plan(particles, micrographs, recipe, match=match, headers=headers)
    formats.check_tables(
        particles,
        micrographs,
        plan.recipe,
        native=plan.decided.native,
        families=plan.decided.families,
        rows=plan.work.rows,
        micrograph=plan.micrograph[plan.work.rows],
        pixel_size=plan.grounds.pixel_size,
    )
    seconds["plan"] += time.perf_counter() - start
    results = {task.id: TaskResult(id=task.id, kept=len(task.windows)) for task in plan.tasks}
    start = time.perf_counter()
    write_tables(out, particles, micrographs, plan, outcome_of(plan, results), start=Start.here(data.root), fsync=False)
    seconds["write"] = time.perf_counter() - start
    seconds["all"] = time.perf_counter() - begun
    shutil.rmtree(out)
    return {name: round(value, 3) for name, value in seconds.items()} | {"peak_mb": own_peak_mb() * 1.048576}


if __name__ == "__main__":
    main()
