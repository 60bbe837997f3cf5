"""A whole run: read tables, plan, cut, write tables. The story from top to bottom."""

from __future__ import annotations

import itertools
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

from cryobox import __version__
from cryobox.core import fftw_version
from cryobox.engine.futures import map_unordered
from cryobox.engine.ledger import Ledger, ledger_path
from cryobox.engine.local import available_cores, local_executor
from cryobox.engine.progress import Progress, ProgressCallback
from cryobox.engine.task import Setting, TaskResult, do_task, remove_temporary
from cryobox.errors import AbortedError, CryoboxError, InputError, OutputError
from cryobox.inputs import Inputs, prepare
from cryobox.options import Recipe, RunOptions
from cryobox.plan import STACK_FOLDERS, Plan, Task
from cryobox.tables import Outcome, publish_file, tables_present, withdraw_tables, write_tables

__all__ = ["RunResult", "run"]

@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """What a run made.

    Parameters
    ----------
    out : Path
    picks, extracted : int
    rejected : dict of str to int
        Picks that were not extracted, by reason.
    micrographs : int
        Micrographs with picks.
    incomplete : dict of str to str
        Micrographs that could not be used, with the reason.
    tables : tuple of Path
        `particles` first; empty for a run that was interrupted.
    warnings : tuple of str
    bytes_read, bytes_written : int
    planning_seconds, cutting_seconds, seconds : float
    resumed : int
        Micrographs that an earlier run had finished.
    interrupted : bool
    exit_code : int
        0 complete, 1 finished with incomplete micrographs or nothing extracted, 130 interrupted.
    """

    out: Path
    picks: int
    extracted: int
    rejected: dict[str, int]
    micrographs: int
    incomplete: dict[str, str] = field(default_factory=dict)
    tables: tuple[Path, ...] = ()
    warnings: tuple[str, ...] = ()
    bytes_read: int = 0
    bytes_written: int = 0
    planning_seconds: float = 0.0
    cutting_seconds: float = 0.0
    seconds: float = 0.0
    resumed: int = 0
    interrupted: bool = False
    exit_code: int = 0


def run(
    picks: str | os.PathLike[str],
    *,
    micrographs: str | os.PathLike[str],
    out: str | os.PathLike[str],
    recipe: Recipe,
    options: RunOptions | None = None,
    root: str | os.PathLike[str] | None = None,
    executor: Executor | None = None,
    on_plan: Callable[[Plan], None] | None = None,
    on_progress: ProgressCallback | None = None,
    stop: threading.Event | None = None,
) -> RunResult:
    """Extract picks from micrographs into stacks and tables. Running the same call again resumes.

    Parameters
    ----------
    picks : path
        `.star`, `.cs`, `.csg`, `.box`, `.cbox`, `.txt`, `.csv`, or a folder of per-micrograph files.
    micrographs : path
        `.star`, `.cs`, `.csg`, a folder, a glob or one image.
    out : path
        The output folder; made if it is not there.
    recipe : Recipe
        What is made.
    options : RunOptions, optional
        How the work is run.
    root : path, optional
        Where relative paths in tables start; default: see `cryobox.paths.search_places`.
    executor : concurrent.futures.Executor, optional
        Runs the tasks; default: threads on this host.
    on_plan, on_progress : callable, optional
        Called with the plan before work starts, and after each micrograph.
    stop : threading.Event, optional
        When it is set, what is in flight is finished and the run ends early, resumable.

    Raises
    ------
    OptionError, InputError, OutputError
        Before any work, if the run cannot be done as asked.
    AbortedError
        If it began and could not go on.
    """
    options = options or RunOptions()
    stop = stop or threading.Event()
    began = time.perf_counter()
    folder, root_path = Path(out), None if root is None else Path(root)
    inputs = prepare(picks, micrographs=micrographs, recipe=recipe, root=root_path)
    plan = inputs.plan
    check_stack_paths(folder, [picks, micrographs])
    if on_plan is not None:
        on_plan(plan)
    _make_folders(folder, recipe, overwrite=options.overwrite)
    planned = time.perf_counter()
    head = {"cryobox": __version__, "fftw": fftw_version(), "recipe": plan.recipe.as_dict(), "picks": str(picks)}
    with Ledger(
        folder, part="", head=head, overwrite=options.overwrite, break_lock=options.break_lock, fsync=options.fsync
    ) as ledger:
        remove_temporary(folder, "")
        todo = [task for task in plan.tasks if not _is_done(folder, task, ledger)]
        resumed = len(plan.tasks) - len(todo)
        if todo or options.overwrite:
            withdraw_tables(folder)
        if options.overwrite:
            _remove_stacks(folder, ledger)
        tally = _Tally(plan, ledger, on_progress)
        setting = Setting(folder=str(folder.resolve()), threads=options.threads, fsync=options.fsync)
        _cut(todo, setting, options, executor, ledger, tally, stop)
        cut = time.perf_counter()
        results = {task.id: ledger.finished[task.id] for task in plan.tasks if task.id in ledger.finished}
        result = RunResult(
            out=folder,
            picks=len(inputs.particles),
            extracted=sum(found.kept for found in results.values()),
            rejected=plan.counts(),
            micrographs=len(plan.tasks) + len(plan.incomplete),
            warnings=(*plan.warnings, *_distinct(found.warnings for found in results.values())),
            bytes_read=tally.bytes_read,
            bytes_written=tally.bytes_written,
            planning_seconds=planned - began,
            cutting_seconds=cut - planned,
            seconds=cut - began,
            resumed=resumed,
            interrupted=True,
            exit_code=130,
        )
        if len(results) < len(plan.tasks):
            return result
        return _finish(inputs, results, result, root_path, options, began)


def _cut(
    todo: list[Task],
    setting: Setting,
    options: RunOptions,
    executor: Executor | None,
    ledger: Ledger,
    tally: _Tally,
    stop: threading.Event,
) -> None:
    """Do the tasks and record each as it ends."""
    workers = options.workers or available_cores()
    still_wanted: Iterator[Task] = itertools.takewhile(lambda _: not stop.is_set(), todo)
    failure: BaseException | None = None
    with local_executor(workers) if executor is None else nullcontext(executor) as pool:
        for task, future in map_unordered(pool, do_task, still_wanted, setting, in_flight=workers + 1):
            try:
                result = future.result()
                ledger.append(result)
            except CryoboxError as error:
                failure = failure or error
                stop.set()
                continue
            tally.add(task, result)
            if result.error and options.on_error == "stop":
                failure = failure or InputError(result.error)
                stop.set()
    if failure is not None:
        raise AbortedError(
            f"{failure}; {len(ledger.finished)} micrographs are done, the same command resumes"
        ) from failure


def _finish(
    inputs: Inputs,
    results: dict[str, TaskResult],
    so_far: RunResult,
    root: Path | None,
    options: RunOptions,
    began: float,
) -> RunResult:
    """Write the tables, and `job.json` last."""
    plan, folder = inputs.plan, so_far.out
    found = Outcome(plan, results)
    withdraw_tables(folder)
    try:
        tables = write_tables(folder, inputs.particles, inputs.micrographs, plan, found, root=root, fsync=options.fsync)
    except OutputError as error:
        raise AbortedError(f"{error}; all stacks are written, the same command writes the tables") from error
    incomplete = {inputs.micrographs.names[row]: why for row, why in sorted(found.incomplete.items())}
    whole = len(found.rows) > 0 and (not incomplete or options.allow_incomplete)
    result = replace(
        so_far,
        extracted=len(found.rows),
        rejected=found.counts(),
        incomplete=incomplete,
        tables=tuple(tables),
        seconds=time.perf_counter() - began,
        interrupted=False,
        exit_code=0 if whole else 1,
    )
    publish_file(folder / "job.json", _job_json(inputs, result), fsync=options.fsync)
    return result


def _job_json(inputs: Inputs, result: RunResult) -> bytes:
    plan = inputs.plan
    record = {
        "complete": True,
        "cryobox": __version__,
        "fftw": fftw_version(),
        "recipe": plan.recipe.as_dict(),
        "inputs": inputs.given.as_dict(),
        "picks": result.picks,
        "extracted": result.extracted,
        "rejected": result.rejected,
        "micrographs": result.micrographs,
        "incomplete": result.incomplete,
        "tables": [path.name for path in result.tables],
        "seconds": {
            "planning": round(result.planning_seconds, 3),
            "cutting": round(result.cutting_seconds, 3),
            "all": round(result.seconds, 3),
        },
    }
    return json.dumps(record, indent=1, ensure_ascii=False).encode() + b"\n"


class _Tally:
    """Counts what is done and tells the callback."""

    def __init__(self, plan: Plan, ledger: Ledger, callback: ProgressCallback | None) -> None:
        self._callback = callback
        self._began = time.perf_counter()
        self._micrographs_total = len(plan.tasks)
        self._particles_total = sum(len(task.corners) for task in plan.tasks)
        self._rejected = int((plan.reason >= 0).sum())
        self._micrographs = self._particles = self.bytes_read = self.bytes_written = 0
        for task in plan.tasks:
            if task.id in ledger.finished:
                self._count(task, ledger.finished[task.id])
        self._tell("", "")

    def add(self, task: Task, result: TaskResult) -> None:
        self._count(task, result)
        self.bytes_read += result.bytes_read
        self.bytes_written += sum(stack.bytes for stack in result.stacks)
        self._tell(task.micrograph, result.error)

    def _count(self, task: Task, result: TaskResult) -> None:
        self._micrographs += 1
        self._particles += result.kept
        self._rejected += len(task.corners) if result.error else len(result.refused)

    def _tell(self, micrograph: str, error: str) -> None:
        if self._callback is not None:
            self._callback(
                Progress(
                    micrographs=self._micrographs,
                    micrographs_total=self._micrographs_total,
                    particles=self._particles,
                    particles_total=self._particles_total,
                    rejected=self._rejected,
                    bytes_read=self.bytes_read,
                    bytes_written=self.bytes_written,
                    seconds=time.perf_counter() - self._began,
                    micrograph=micrograph,
                    error=error,
                )
            )


def _is_done(folder: Path, task: Task, ledger: Ledger) -> bool:
    """Whether the ledger has the task, without error, and each stack has the size that the ledger says."""
    result = ledger.finished.get(task.id)
    if result is None:
        return False
    whole = not result.error and all(_size(folder / stack.path) == stack.bytes for stack in result.stacks)
    if not whole:
        del ledger.finished[task.id]
    return whole


def _remove_stacks(folder: Path, ledger: Ledger) -> None:
    """Remove the stacks that the run before this one recorded; no other file is touched."""
    for result in ledger.previous.values():
        for stack in result.stacks:
            if stack.path.split("/")[0] in STACK_FOLDERS and ".." not in stack.path.split("/"):
                (folder / stack.path).unlink(missing_ok=True)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def check_stack_paths(folder: Path, inputs: Iterable[str | os.PathLike[str]]) -> None:
    """Refuse an output folder in which a table would replace an input."""
    for given in map(Path, inputs):
        if given.is_file() and given.resolve().parent == folder.resolve() and given.name in tables_present(folder):
            raise OutputError(
                f"{given}: is an input and would be replaced by a table of this name; choose another --out"
            )


def _make_folders(folder: Path, recipe: Recipe, *, overwrite: bool) -> None:
    if not ledger_path(folder, "").exists() and not overwrite and (found := tables_present(folder)):
        raise OutputError(
            f"{folder}: holds {', '.join(found)}, but no record of the run that wrote it; "
            f"choose another folder, or start anew with --overwrite"
        )
    try:
        for name in STACK_FOLDERS[: len(recipe.sizes)]:
            (folder / name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made: {error.strerror}") from error


def _distinct(groups: Iterable[tuple[str, ...]]) -> list[str]:
    return list(dict.fromkeys(text for group in groups for text in group))
