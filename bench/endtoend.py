"""Whole runs beside their floors and their peers, interleaved: `python -m bench.endtoend --data FOLDER --cases A,B`.

Every arm of every case runs once per round, in alternating order, an even number of rounds. Before each arm, outside
the clock, old outputs are deleted and synced and memory is warmed (`machine.fresh`).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from bench.cases import Case, case
from bench.dataset import DataSet, ensure
from bench.machine import Spread, cores, execute, floors_program, fresh, save, spread

__all__ = ["Arm", "cli_command", "main", "measure", "prepare", "ratios", "startup", "table"]

DEFAULT_CASES = "A,B,B16,B64,small,memory"
LEAN_ARMS = {"cryobox", "copy floor", "fft floor"}
DEFAULT_ARMS = "cryobox,copy floor,fft floor,numpy,numpy pruned,relion,relion mpi"


@dataclass(slots=True)
class Arm:
    """One way of doing (or bounding) one case.

    Parameters
    ----------
    case : Case
    name : str
        "cryobox", "cli", "copy floor", "fft floor", "relion", "relion mpi", "numpy", "numpy pruned".
    workers : int
    command : list of str
    cwd : Path
        Names in tables are relative to it.
    out : Path
        Where it writes; emptied before each round.
    reports : bool
        Whether it prints its own seconds as JSON (start-up apart); else the wall time of the process counts.
    rounds : list of dict
        What was measured.
    """

    case: Case
    name: str
    workers: int
    command: list[str]
    cwd: Path
    out: Path
    reports: bool
    rounds: list[dict[str, Any]] = field(default_factory=list)

    @property
    def label(self) -> str:
        """Name and number of workers."""
        return f"{self.name} w{self.workers}"

    def seconds(self, key: str = "seconds") -> Spread:
        """Spread over the rounds."""
        return spread([one[key] for one in self.rounds])

    def run(self) -> None:
        """One round."""
        writes = self.case.kind == "run" and self.name != "fft floor"
        expected = self.case.data.micrographs * sum(self.case.stack_bytes) if writes else 0
        warm = fresh(self.out, expected, sorted({Path(line) for line in _inputs(self)}) if writes else ())
        if not self.reports:
            warm.release()
        done = execute(self.command, cwd=self.cwd, warm=warm if self.reports else None)
        warm.release()
        lines = done.stdout.splitlines()
        said: dict[str, Any] = json.loads(lines[-1]) if self.reports else {}
        measured = {"seconds": done.seconds, "peak_rss_mb": done.peak_rss_mb} | said
        process = done.seconds - said.get("waited", 0.0)
        self.rounds.append(measured | {"process_seconds": process, "cpu_seconds": done.cpu_seconds})


def prepare(
    what: Case,
    data: DataSet,
    *,
    workers: Sequence[int],
    want: set[str],
    fsync: bool = False,
    python: str = sys.executable,
) -> list[Arm]:
    """The arms of one case. `want` names kinds of arms; those that the machine or the case lacks are left out."""
    outputs = data.root / "out"
    listing = data.micrographs.with_suffix(".txt")
    listing.write_text("".join(f"{path}\n" for path in data.paths))
    floors = str(floors_program(data.root))
    most = max(workers)
    sync = ["--fsync"] if fsync else []
    arms: list[Arm] = []

    def add(name: str, count: int, command: Sequence[str], *, reports: bool) -> None:
        if name in want:
            out = outputs / what.name / f"{name.replace(' ', '_')}_w{count}"
            filled = [part.replace("{out}", str(out)) for part in command]
            arms.append(Arm(what, name, count, filled, data.root, out, reports))

    for count in workers:
        add("cryobox", count, _cryobox_command(what, data, count, fsync, python), reports=True)
        if what.kind == "run":
            stacks = ",".join(map(str, what.stack_bytes))
            copy = ["copy", "--list", str(listing), "--out", "{out}", "--stacks", stacks, "--workers", str(count)]
            add("copy floor", count, [floors, *copy, *sync], reports=True)
        if what.crops:
            sizes = ",".join(map(str, what.sizes))
            particles = str(what.data.micrographs * what.data.picks)
            transforms = ["fft", "--box", str(what.box), "--sizes", sizes, "--particles", particles]
            add("fft floor", count, [floors, *transforms, "--workers", str(count)], reports=True)
    if what.kind == "run":
        add("cli", most, cli_command(what, data, most, fsync=fsync), reports=False)
    numpy = ["--case", what.name, "--list", str(listing), "--out", "{out}", "--workers", str(most)]
    if not what.data.shifts and find_spec("scipy"):
        add("numpy", most, [python, "-m", "bench.arm_numpy", *numpy], reports=True)
        if what.crops:
            add("numpy pruned", most, [python, "-m", "bench.arm_numpy", *numpy, "--pruned"], reports=True)
    if _relion_can(what):
        relion = _relion_arguments(what, data)
        add("relion", 1, ["relion_preprocess", *relion], reports=False)
        if most > 1 and shutil.which("mpirun"):
            root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
            mpi = ["mpirun", *root, "--oversubscribe", "-np", str(most), "relion_preprocess_mpi"]
            add("relion mpi", most, [*mpi, *relion], reports=False)
    return arms


def _cryobox_command(what: Case, data: DataSet, workers: int, fsync: bool, python: str) -> list[str]:
    names = ["--picks", str(data.picks), "--micrographs", str(data.micrographs)]
    where = ["--array", str(data.paths[0])] if what.kind == "memory" else [*names, "--out", "{out}/job"]
    sync = ["--fsync"] if fsync else []
    return [python, "-m", "bench.arm_cryobox", "--case", what.name, "--workers", str(workers), *where, *sync]


def cli_command(what: Case, data: DataSet, workers: int, *, fsync: bool) -> list[str]:
    """`cryobox extract` with the options of a case; `{out}` stands for the folder."""
    command = ["cryobox", "extract", str(data.picks), "--micrographs", str(data.micrographs), "--out", "{out}/job"]
    command += ["--box", str(what.box), "--workers", str(workers), "--quiet", "--no-report"]
    if what.crops:
        command += ["--fcrop", str(what.sizes[0])]
    if len(what.sizes) > 1:
        command += ["--small", str(what.sizes[1])]
    if what.dtype == "float16":
        command.append("--float16")
    command.append("--invert" if what.invert else "--no-invert")
    return command if fsync else [*command, "--no-fsync"]


def _relion_can(what: Case) -> bool:
    """RELION 3.1 reads no float16 and stores one size as float32; other cases would not be the same work."""
    same = what.kind == "run" and what.dtype == "float32" and len(what.sizes) == 1 and not what.data.shifts
    return same and what.data.dtype == "float32" and shutil.which("relion_preprocess") is not None


def _relion_arguments(what: Case, data: DataSet) -> list[str]:
    folder = data.micrographs.parent.relative_to(data.root)
    arguments = ["--i", str(folder / "micrographs.star"), "--coord_dir", f"{folder}/picks/"]
    arguments += ["--coord_suffix", "_pick.star", "--part_star", "{out}/particles.star", "--part_dir", "{out}/"]
    arguments += ["--extract", "--extract_size", str(what.box), "--norm"]
    arguments += ["--bg_radius", str(int(0.375 * what.sizes[0]))]
    if what.crops:
        arguments += ["--scale", str(what.sizes[0])]
    return [*arguments, "--invert_contrast"] if what.invert else arguments


def measure(arms: Sequence[Arm], rounds: int, say: Callable[[str], None] = lambda _: None) -> None:
    """Run every arm once per round, forward and backward in turn."""
    if rounds < 2 or rounds % 2:
        raise SystemExit(f"--rounds must be even and at least 2, so that both orders are seen; got {rounds}")
    for number in range(rounds):
        for arm in arms if number % 2 == 0 else reversed(arms):
            arm.run()
            say(f"round {number + 1}/{rounds} {arm.case.name:7s} {arm.label:16s} {arm.rounds[-1]['seconds']:.3f} s")


def _inputs(arm: Arm) -> list[str]:
    listing = arm.cwd / f"{arm.case.data.name}-{arm.case.data.micrographs}" / "micrographs.txt"
    return listing.read_text().splitlines()


def startup(rounds: int) -> dict[str, Spread]:
    """Seconds of a process that only starts: bare Python, NumPy, cryobox, and the command line's help."""
    commands = {
        "python": [sys.executable, "-c", "pass"],
        "import numpy": [sys.executable, "-c", "import numpy"],
        "import cryobox": [sys.executable, "-c", "import cryobox"],
        "import cryobox and its names": [sys.executable, "-c", "import cryobox; cryobox.run, cryobox.extract"],
    }
    if shutil.which("cryobox"):
        commands["cryobox --help"] = ["cryobox", "--help"]
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(rounds + 1):
        for name, command in commands.items():
            took = execute(command, cwd=Path.cwd()).seconds
            if number:  # the first round fills the page cache
                seconds[name].append(took)
    return {name: spread(values) for name, values in seconds.items()}


def _find(arms: Sequence[Arm], name: str, of: str, workers: int | None = None) -> Arm | None:
    for arm in arms:
        if arm.case.name == name and arm.name == of and workers in (None, arm.workers) and arm.rounds:
            return arm
    return None


def ratios(arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """Ours over every other arm of the same case, round by round, beside the goal where there is one.

    Start-up is apart: imports and planning are left out of ours, except against RELION, whose start-up is in its time.
    """
    rows: list[dict[str, Any]] = []

    def add(ours: Arm, against: str, others: Sequence[Arm], goal: float | None, key: str = "work_seconds") -> None:
        each = [
            one[key] / sum(other.rounds[number].get(key, other.rounds[number]["seconds"]) for other in others)
            for number, one in enumerate(ours.rounds)
        ]
        got = spread(each)
        reached = None if goal is None else got.median <= goal
        row = {"case": ours.case.name, "ours": ours.label, "against": against, "ratio": got.median}
        rows.append(row | {"low": got.low, "high": got.high, "goal": goal, "reached": reached})

    for ours in [arm for arm in arms if arm.name == "cryobox" and arm.rounds]:
        name, goals = ours.case.name, ours.case.goals
        most = ours.workers == max(arm.workers for arm in arms)
        copy = _find(arms, name, "copy floor", ours.workers)
        transforms = _find(arms, name, "fft floor", ours.workers)
        if copy:
            add(ours, "copy floor", [copy], goals.get("copy floor") if most else None)
        if copy and transforms:
            add(ours, "copy + fft floor", [copy, transforms], goals.get("floors") if most else None)
        for other in ("relion", "relion mpi", "numpy", "numpy pruned"):
            arm = _find(arms, name, other)
            if arm:
                goal = goals.get(other) if most else goals.get(f"one worker / {other}")
                # RELION's start-up cannot be told from its work, so ours counts as well.
                add(ours, arm.label, [arm], goal, "process_seconds" if other.startswith("relion") else "work_seconds")
        plain = _find(arms, "B", "cryobox", ours.workers)
        if "case B" in goals and plain:
            add(ours, "case B", [plain], goals["case B"])
    return rows


def memory(arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """Peak memory of our runs beside the limit: 150 MB + workers x (micrograph + 32 MB)."""
    rows = []
    for arm in arms:
        if arm.name == "cryobox" and arm.case.kind == "run" and arm.rounds:
            limit = 150 + arm.workers * (arm.case.data.micrograph_bytes / 1e6 + 32)
            got = arm.seconds("peak_rss_mb").high * 1.048576
            rows.append({"case": arm.case.name, "ours": arm.label, "peak_mb": got, "limit_mb": limit})
    return rows


def _pixels(folder: Path, size: int, dtype: str) -> np.ndarray[Any, Any] | None:
    stacks = sorted(folder.rglob("*.mrcs"))
    if not stacks:
        return None
    return np.fromfile(stacks[0], dtype=dtype, offset=1024).reshape(-1, size, size).astype(np.float32)


def agreement(arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """Largest difference between our first stack and NumPy's, in units of the background's sd: is it the same work?"""
    rows = []
    for name in dict.fromkeys(arm.case.name for arm in arms):
        ours, other = _find(arms, name, "cryobox"), _find(arms, name, "numpy")
        if ours and other and ours.case.kind == "run" and len(ours.case.sizes) == 1:
            size, dtype = ours.case.sizes[0], ours.case.dtype
            first, second = _pixels(ours.out, size, dtype), _pixels(other.out, size, dtype)
            if first is not None and second is not None and first.shape == second.shape:
                rows.append({"case": name, "largest_difference": float(np.abs(first - second).max())})
            else:
                rows.append({"case": name, "largest_difference": float("nan")})
    return rows


def table(arms: Sequence[Arm]) -> str:
    """Seconds, particles per second and memory of every arm, then ratios and goals."""
    head = f"{'case':8s}{'arm':17s}{'seconds [band]':26s}{'planning':>9s}{'process':>9s}"
    lines = [head + f"{'particles/s':>13s}{'peak MB':>9s}"]
    for arm in arms:
        if arm.rounds:
            seconds = arm.seconds()
            particles = arm.case.data.micrographs * arm.case.data.picks
            planned = "planning_seconds" in arm.rounds[0]
            planning = f"{arm.seconds('planning_seconds').median:.3f}" if planned else ""
            process = arm.seconds("process_seconds").median
            lines.append(
                f"{arm.case.name:8s}{arm.label:17s}{seconds.text():26s}{planning:>9s}{process:9.3f}"
                f"{particles / seconds.median:13.0f}{arm.seconds('peak_rss_mb').high:9.0f}"
            )
    lines += ["", f"{'case':8s}{'ours':17s}{'against':20s}{'ratio [band]':24s}{'goal':>8s}"]
    for row in ratios(arms):
        band = f"{row['ratio']:.3f} [{row['low']:.3f}-{row['high']:.3f}]"
        goal = "" if row["goal"] is None else f"{row['goal']:8.3f} {'reached' if row['reached'] else 'MISSED'}"
        lines.append(f"{row['case']:8s}{row['ours']:17s}{row['against']:20s}{band:24s}{goal}")
    for row in memory(arms):
        verdict = "reached" if row["peak_mb"] <= row["limit_mb"] else "MISSED"
        lines.append(
            f"{row['case']:8s}{row['ours']:17s}{'peak memory':20s}{row['peak_mb']:.0f} MB, "
            f"limit {row['limit_mb']:.0f} MB {verdict}"
        )
    return "\n".join(lines)


def main() -> None:
    """Parse the arguments, measure, print the table, save the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder for data sets and outputs; reused")
    parser.add_argument("--cases", default=DEFAULT_CASES)
    parser.add_argument("--micrographs", type=int, help="instead of the case's own number")
    parser.add_argument("--workers", default=f"1,{cores()}" if cores() > 1 else "1")
    parser.add_argument("--arms", default=DEFAULT_ARMS)
    parser.add_argument("--lean", default="", help="cases that get only our arms and the floors")
    parser.add_argument("--label", default="endtoend", help="name of the results' file")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--fsync", action="store_true", help="in our runs and in the copy floor alike")
    parser.add_argument("--verbose", action="store_true")
    arguments = parser.parse_args()
    workers = [int(count) for count in arguments.workers.split(",")]
    want = set(arguments.arms.split(","))
    lean = set(arguments.lean.split(","))
    arms: list[Arm] = []
    for name in arguments.cases.split(","):
        what = case(name)
        if what.kind == "run":
            what = what.with_micrographs(arguments.micrographs)
        data = ensure(arguments.data, what.data)
        wanted = want & LEAN_ARMS if name in lean else want
        arms += prepare(what, data, workers=workers, want=wanted, fsync=arguments.fsync)

    def say(line: str) -> None:
        if arguments.verbose:
            print(line, file=sys.stderr, flush=True)

    starting = startup(arguments.rounds) if "cryobox" in want else {}
    measure(arms, arguments.rounds, say)
    same = agreement(arms)
    for arm in arms:
        shutil.rmtree(arm.out, ignore_errors=True)
    print(table(arms))
    for row in same:
        print(f"{row['case']:8s}largest difference from NumPy's images: {row['largest_difference']:.2e} sd")
    for command, seconds in starting.items():
        print(f"start-up  {command:30s}{seconds.text()} s")
    content = {
        "rounds": arguments.rounds,
        "fsync": arguments.fsync,
        "startup": {name: [one.median, one.low, one.high] for name, one in starting.items()},
        "arms": [
            {"case": arm.case.name, "micrographs": arm.case.data.micrographs, "arm": arm.name, "workers": arm.workers}
            | {"rounds": [_rounded(one) for one in arm.rounds]}
            for arm in arms
        ],
        "ratios": [_rounded(row) for row in ratios(arms)],
        "agreement": same,
        "memory": [_rounded(row) for row in memory(arms)],
    }
    print(f"written to {save(arguments.label, content)}")


def _rounded(values: dict[str, Any]) -> dict[str, Any]:
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in values.items()}


if __name__ == "__main__":
    main()
