"""What engines other than local threads cost, and what planning and merging cost for a facility's data set.

    python -m bench.clusters engines --data FOLDER      # each engine beside local threads on the same cores
    python -m bench.clusters large --data FOLDER        # 20,000 micrographs (headers only), 5 M picks: plan and merge

The figures stand in docs/scaling.md, and bench/scaling.py reckons with them.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import pickle
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np

import cryobox
from bench.machine import own_peak_mb, save, spread
from cryobox.beginning import head_of
from cryobox.engine.clusters import mpi_executor
from cryobox.engine.shards import run_record, share
from cryobox.folder.ledger import Ledger
from cryobox.folder.parts import part_name
from cryobox.given import Given
from cryobox.inputs import prepare
from cryobox.job import merge
from cryobox.results import StackInfo, TaskResult

RECIPE = cryobox.Recipe(box=400, sizes=(128,))
SIDE = 4096
_OPTICS = (
    "# version 50001\n\ndata_optics\n\nloop_\n_rlnOpticsGroupName #1\n_rlnOpticsGroup #2\n"
    "{pixel} #3\n_rlnVoltage #4\n_rlnSphericalAberration #5\n_rlnAmplitudeContrast #6\n"
    "opticsGroup1 1 1.0 300.0 2.7 0.1\n\n"
)


def make(folder: Path, micrographs: int, picks: int, *, pixels: bool) -> None:
    """Micrographs of one noise image, or of headers and holes, with picks inside them."""
    if (folder / "whole").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "micrographs").mkdir(parents=True)
    header = np.zeros(256, "<i4")
    header[[0, 1, 2, 3]] = SIDE, SIDE, 1, 2
    header[[7, 8, 9]] = SIDE, SIDE, 1
    header[10:13].view("<f4")[:] = SIDE * 1.1, SIDE * 1.1, 1.1
    header[13:16].view("<f4")[:] = 90.0
    header[16:19] = 1, 2, 3
    header[52] = int.from_bytes(b"MAP ", "little")
    header[53] = 0x00004444
    rng = np.random.default_rng(0)
    image = rng.normal(10, 2, (SIDE, SIDE)).astype("<f4") if pixels else None
    names = [f"micrographs/mic_{number:06d}.mrc" for number in range(micrographs)]
    for number, name in enumerate(names):
        with open(folder / name, "wb") as file:
            file.write(header.tobytes())
            if image is None:
                file.truncate(1024 + SIDE * SIDE * 4)
            else:
                file.write(np.roll(image, 37 * number, axis=1).tobytes())
    rows = [f"{name} 1 12000.0 11800.0 35.0" for name in names]
    columns = ["MicrographName", "OpticsGroup", "DefocusU", "DefocusV", "DefocusAngle"]
    _star(folder / "micrographs.star", "micrographs", "_rlnMicrographPixelSize", columns, rows)
    y, x = rng.integers(300, SIDE - 300, (2, micrographs * picks))
    columns = ["CoordinateX", "CoordinateY", "MicrographName", "OpticsGroup", "AutopickFigureOfMerit", "ClassNumber"]
    rows = [
        f"{a}.000000 {b}.000000 {names[i // picks]} 1 0.500000 1"
        for i, (a, b) in enumerate(zip(x.tolist(), y.tolist(), strict=True))
    ]
    _star(folder / "picks.star", "particles", "_rlnMicrographOriginalPixelSize", columns, rows)
    (folder / "whole").touch()


def _star(path: Path, block: str, pixel: str, columns: list[str], rows: list[str]) -> None:
    text = [_OPTICS.format(pixel=pixel), f"# version 50001\n\ndata_{block}\n\nloop_\n"]
    text += [f"_rln{column} #{number}\n" for number, column in enumerate(columns, start=1)]
    path.write_text("".join(text) + "\n".join(rows) + "\n\n")


def extract(folder: Path, out: Path, executor: object = None, **options: object) -> cryobox.RunResult:
    """One run of case B into a new folder."""
    shutil.rmtree(out, ignore_errors=True)
    return cryobox.run(
        folder / "picks.star", micrographs=folder / "micrographs.star", out=out, root=folder, recipe=RECIPE,
        executor=executor, options=cryobox.RunOptions(workers=2, fsync=False, **options),  # type: ignore[arg-type]
    )  # fmt: skip


def engines(folder: Path, micrographs: int, rounds: int) -> None:
    """Seconds of cutting with each engine; pools stand before the clock starts, as they do on a cluster."""
    from distributed import Client, LocalCluster

    make(folder, micrographs, 300, pixels=True)
    seconds: dict[str, list[float]] = {}
    driver: dict[str, list[float]] = {}  # part of all processor time that is not the workers'
    with ExitStack() as stack:
        spawn = multiprocessing.get_context("spawn")
        pool = stack.enter_context(ProcessPoolExecutor(2, mp_context=spawn))
        cluster = stack.enter_context(LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None))
        client = stack.enter_context(Client(cluster))
        arms: dict[str, Callable[[Path], float]] = {
            "local": lambda out: extract(folder, out).cutting_seconds,
            "processes": lambda out: extract(folder, out, pool).cutting_seconds,
            "dask": lambda out: extract(folder, out, client.get_executor(pure=False)).cutting_seconds,
            "mpi": lambda out: _mpi(folder, out),
        }
        for number in range(rounds):
            for name in list(arms)[:: 1 if number % 2 == 0 else -1]:
                own, workers = time.process_time(), _children_seconds()
                seconds.setdefault(name, []).append(arms[name](folder / f"out_{name}"))
                own, workers = time.process_time() - own, _children_seconds() - workers
                driver.setdefault(name, []).append(own / (own + workers))
                print(f"  round {number + 1} {name}: {seconds[name][-1]:.2f} s", flush=True)
    print(
        f"{micrographs} micrographs of {SIDE} x {SIDE} float32, 300 picks each, 400 -> 128, 2 workers, {rounds} rounds"
    )
    record: dict[str, object] = {}
    for name, values in seconds.items():
        ratio = spread([a / b for a, b in zip(values, seconds["local"], strict=True)])
        print(f"{name:10} {spread(values).text(2)} s   {ratio.text(3)} of local")
        record[name] = {"seconds": values, "ratio": [ratio.median, ratio.low, ratio.high], "driver": driver[name]}
        if name in ("processes", "dask"):  # planning, checks, scheduling, ledger and tables
            print(f"{'':10} driver's part of the processor time: {spread(driver[name]).text(3)}")
    print(save("clusters-engines", {"engines": record}))


def _children_seconds() -> float:
    """Processor seconds of the processes that this one has started, and of theirs."""
    import psutil

    times = [child.cpu_times() for child in psutil.Process().children(recursive=True)]
    return sum(time.user + time.system for time in times)


def _mpi(folder: Path, out: Path) -> float:
    command = ["mpirun", "--allow-run-as-root", "--oversubscribe", "-n", "3", sys.executable, "-m", "mpi4py.futures"]
    command += ["-m", "bench.clusters", "mpi-run", "--data", str(folder), "--out", str(out)]
    # An idle rank must not spin on the cores that the others work on.
    environment = os.environ | {"OMPI_MCA_mpi_yield_when_idle": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return float(done.stdout.splitlines()[-1])


def _mpi_run(folder: Path, out: Path) -> None:
    with mpi_executor() as executor:
        print(extract(folder, out, _as_executor(executor)).cutting_seconds)


def _as_executor(executor: Executor) -> Executor:
    list(executor.map(abs, range(64)))  # the ranks are up before the clock starts
    return executor


def large(folder: Path, micrographs: int, picks: int, shards: int) -> None:
    """Time and memory of planning, sharing and merging, with stacks that have a size but no content."""
    make(folder, micrographs, picks, pixels=False)
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    (out / "stacks").mkdir(parents=True)
    record: dict[str, float] = {}

    def timed(name: str, work: Callable[[], object]) -> object:
        began, cpu = time.perf_counter(), time.process_time()
        found = work()
        record[name], record[f"{name}, processor"] = time.perf_counter() - began, time.process_time() - cpu
        print(
            f"{name:28} {record[name]:8.2f} s wall {record[f'{name}, processor']:8.2f} s processor   "
            f"peak {own_peak_mb():7.0f} MB",
            flush=True,
        )
        return found

    given = Given.of(folder / "picks.star", folder / "micrographs.star", folder)
    inputs = timed("plan", lambda: prepare(given, recipe=RECIPE))
    record["plan_peak_mb"] = own_peak_mb()
    tasks = inputs.plan.tasks  # type: ignore[attr-defined]
    timed("share", lambda: share(tasks, (1, shards)))
    record["task_bytes"] = statistics.mean(len(pickle.dumps(task)) for task in tasks[:200])
    print(f"a task is {record['task_bytes']:.0f} bytes")
    head = head_of(inputs.plan)  # type: ignore[attr-defined]
    run = run_record(inputs, tasks)  # type: ignore[arg-type]
    for task in tasks:
        (out / task.outputs[0].path).touch()
        os.truncate(out / task.outputs[0].path, task.bytes_of(0))
    for index in range(1, shards + 1):
        with Ledger(out, part=part_name((index, shards)), head=head, fsync=False) as ledger:
            ledger.begin(run)
            ledger.append(*(_result(task) for task in share(tasks, (index, shards))))
    with Ledger(folder, part="", head=head, overwrite=True) as ledger:
        timed("1000 ledger lines, fsynced", lambda: [ledger.append(_result(task)) for task in tasks[:1000]])
    timed("merge", lambda: merge(out, options=cryobox.RunOptions(fsync=False)))
    record["merge_peak_mb"] = own_peak_mb()
    record["table_bytes"] = (out / "particles.star").stat().st_size
    print(f"particles.star has {record['table_bytes'] / 1e6:.0f} MB")
    print(save("clusters-large", {"micrographs": micrographs, "picks": picks, "large": record}))


def _result(task: object) -> TaskResult:
    path, size = task.outputs[0].path, task.bytes_of(0)  # type: ignore[attr-defined]
    stack = StackInfo(path=path, bytes=size, minimum=-5.0, maximum=5.0, mean=0.0, rms=1.0, clamped=0)
    return TaskResult(id=task.id, kept=len(task.windows), stacks=(stack,))  # type: ignore[attr-defined]


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(description="Engines, planning and merging, measured.")
    parser.add_argument("what", choices=["engines", "large", "mpi-run"])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--micrographs", type=int, help="default: 24 for engines, 20,000 for large")
    parser.add_argument("--picks", type=int, default=250)
    parser.add_argument("--shards", type=int, default=64)
    given = parser.parse_args()
    if given.what == "engines":
        engines(given.data.resolve(), given.micrographs or 24, given.rounds)
    elif given.what == "large":
        large(given.data.resolve(), given.micrographs or 20_000, given.picks, given.shards)
    else:
        _mpi_run(given.data, given.out)


if __name__ == "__main__":
    main()
