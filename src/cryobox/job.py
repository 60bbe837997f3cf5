"""A whole run: read tables, plan, cut, write tables. The story from top to bottom."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from cryobox.beginning import begin, check_inputs_stay, head_of, make_folders
from cryobox.bounds import check_seconds
from cryobox.engine.devices import memory_of_a_worker, ready_devices
from cryobox.engine.dispatch import Engine, Incidents, carry_out, check_engine
from cryobox.engine.ledger import Ledger
from cryobox.engine.progress import ProgressCallback, Tally
from cryobox.engine.shards import (
    check_whole,
    fingerprint,
    part_name,
    parts_present,
    picks_of_share,
    read_parts,
    run_record,
    share,
)
from cryobox.engine.task import Setting, remove_temporary
from cryobox.engine.watch import Arrivals, Patience
from cryobox.errors import AbortedError, CryoboxError, InputError, OptionError, OutputError
from cryobox.folder.layout import TABLE_FOLDER
from cryobox.folder.lock import hold, starting
from cryobox.folder.publish import publish_file
from cryobox.formats.images import read_header
from cryobox.formats.names import check_writable
from cryobox.inputs import Inputs, Picks, Recorded, picks_paths, prepare
from cryobox.options import Recipe, RunOptions
from cryobox.plan import Plan, Task
from cryobox.records import job_record, sealed
from cryobox.tables import Outcome, stack_text, tables_present, withdraw_tables, write_tables

__all__ = ["RunResult", "merge", "run", "watch"]


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
    retried : int
        Micrographs that were done again, since a worker died or did not answer; `warnings` says more.
    shard : str
        "3-of-16", "" for a whole run. Then the counts are those of this shard.
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
    retried: int = 0
    shard: str = ""
    interrupted: bool = False
    exit_code: int = 0


def run(
    picks: Picks,
    *,
    micrographs: str | os.PathLike[str],
    out: str | os.PathLike[str],
    recipe: Recipe,
    options: RunOptions | None = None,
    root: str | os.PathLike[str] | None = None,
    recorded: Recorded | None = None,
    executor: Engine | None = None,
    on_plan: Callable[[Plan], None] | None = None,
    on_progress: ProgressCallback | None = None,
    stop: threading.Event | None = None,
) -> RunResult:
    """Extract picks from micrographs into stacks and tables. Running the same call again resumes.

    Parameters
    ----------
    picks : path, or sequence of paths
        `.star`, `.cs`, `.csg`, `.box`, `.cbox`, `.txt`, `.csv`, `.json` (EMAN2), `.pos`, `.xmd` (Xmipp), `.coord`,
        `.coords`, or a folder of per-micrograph files. Several of one family are appended.
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
    recorded : Recorded, optional
        What an earlier run had read, where its files are meant: others are refused.
    executor : concurrent.futures.Executor or callable, optional
        Runs the tasks; default: threads on this host. A function that makes an executor lets a pool of processes be
        replaced when one of them dies. Workers of other processes need the same version and the same files.
    on_plan, on_progress : callable, optional
        Called with the plan before work starts, and after each micrograph.
    stop : threading.Event, optional
        When it is set, what is in flight is finished and the run ends early, resumable.

    Raises
    ------
    OptionError, InputError, OutputError, BackendError
        Before any work, if the run cannot be done as asked.
    AbortedError
        If it began and could not go on.
    """
    options = options or RunOptions()
    began = time.perf_counter()
    check_engine(executor, options)
    inputs = prepare(
        picks, micrographs=micrographs, recipe=recipe, root=None if root is None else Path(root), recorded=recorded
    )
    check_inputs_stay(Path(out), inputs)
    if on_plan is not None:
        on_plan(inputs.plan)
    return carry_out_plan(
        inputs,
        Path(out),
        options,
        engine=executor,
        on_progress=on_progress,
        stop=stop or threading.Event(),
        began=began,
    )


def carry_out_plan(
    inputs: Inputs,
    folder: Path,
    options: RunOptions,
    *,
    engine: Engine | None,
    on_progress: ProgressCallback | None,
    stop: threading.Event,
    began: float,
) -> RunResult:
    """Do what is left of a plan, or of one shard of it, and write the tables."""
    plan, part = inputs.plan, part_name(options.shard)
    if plan.decided.style == "relion":
        root = None if inputs.given.root is None else Path(inputs.given.root)
        check_writable([stack_text(folder, "stacks", ".star", root)], f"{folder}: the name of the output folder")
    devices, lost = ready_devices(options, engine)
    make_folders(folder, plan.recipe, overwrite=options.overwrite)
    planned = time.perf_counter()
    tasks = share(plan.tasks, options.shard)
    with hold(folder, part, break_lock=options.break_lock), contextlib.ExitStack() as held:
        with starting(folder) if part else contextlib.nullcontext():
            ledger, todo = begin(inputs, folder, tasks, options, held)
        mine = picks_of_share(plan, tasks, options.shard)
        tally = Tally(tasks, ledger.finished, int((plan.places.reason[mine] >= 0).sum()), on_progress)
        setting = Setting(
            folder=str(folder.resolve()),
            threads=options.threads,
            fsync=options.fsync,
            part=part,
            devices=devices,
            device_memory=memory_of_a_worker(options, devices),
            device_fallback=options.gpu_fallback,
        )
        incidents = Incidents()
        _cut(todo, setting, options, engine, ledger, tally, incidents, stop)
        cut = time.perf_counter()
        results = {task.id: ledger.finished[task.id] for task in tasks if task.id in ledger.finished}
        first = options.shard is None or options.shard[0] == 1
        result = RunResult(
            out=folder,
            picks=int(mine.sum()),
            extracted=sum(found.kept for found in results.values()),
            rejected=plan.counts(),
            micrographs=len(tasks) + (len(plan.grounds.incomplete) if first else 0),
            warnings=(
                *plan.warnings,
                *lost,
                *_distinct(found.warnings for found in results.values()),
                *incidents.notes(),
            ),
            bytes_read=tally.bytes_read,
            bytes_written=tally.bytes_written,
            planning_seconds=planned - began,
            cutting_seconds=cut - planned,
            seconds=cut - began,
            resumed=len(tasks) - len(todo),
            retried=incidents.retried,
            shard=part,
            interrupted=True,
            exit_code=130,
        )
        if len(results) < len(tasks):
            return result
        return _finish(inputs, Outcome(plan, results, mine, without_picks=first), result, options, began)


def merge(folder: str | os.PathLike[str], *, options: RunOptions | None = None) -> RunResult:
    """Write the tables of a run whose shards are all done: the same tables, byte for byte, as one run writes.

    The plan is made again from the inputs that the shards recorded, in the working directory that they had; that of
    this process is changed while it lasts.

    Raises
    ------
    OutputError
        If a shard is missing, not finished or still at work, if shards are of different runs, or if an input has
        changed since.
    InputError
        If an input cannot be read any more.
    """
    options = options or RunOptions()
    began = time.perf_counter()
    folder = Path(folder).resolve()
    if not parts_present(folder):
        raise OutputError(f"{folder}: holds no shards (ledger.1-of-N.jsonl); is it the --out of the shards?")
    with contextlib.ExitStack() as held:
        held.enter_context(hold(folder, "", break_lock=options.break_lock))
        parts = read_parts(folder)
        if not os.path.isdir(parts.given.directory):
            raise OutputError(
                f"{folder}: its shards were run in {parts.given.directory}, which is not there any more; bring it "
                f"back, or run all shards again with --overwrite, then merge"
            )
        held.enter_context(contextlib.chdir(parts.given.directory))
        root = None if parts.given.root is None else Path(parts.given.root)
        inputs = prepare(parts.given.picks, micrographs=parts.given.micrographs, recipe=parts.recipe, root=root)
        check_inputs_stay(folder, inputs)
        results = check_whole(folder, parts, inputs)
        planned = time.perf_counter()
        ledger = held.enter_context(Ledger(folder, part="", head=head_of(inputs.plan), fsync=options.fsync))
        remove_temporary(folder, "")
        ledger.begin(run_record(inputs, list(inputs.plan.tasks)) | {"merged": True})
        ledger.append(*results.values())
        result = RunResult(
            out=folder,
            picks=len(inputs.particles),
            extracted=0,
            rejected={},
            micrographs=len(inputs.plan.tasks) + len(inputs.plan.grounds.incomplete),
            warnings=(*inputs.plan.warnings, *_distinct(found.warnings for found in results.values()), *parts.notes),
            planning_seconds=planned - began,
            resumed=len(results),
        )
        return _finish(inputs, Outcome(inputs.plan, results), result, options, began)


def watch(
    picks: Picks,
    *,
    micrographs: str | os.PathLike[str],
    out: str | os.PathLike[str],
    recipe: Recipe,
    every: float = 30.0,
    idle_timeout: float | None = None,
    settle: float = 5.0,
    options: RunOptions | None = None,
    root: str | os.PathLike[str] | None = None,
    executor: Engine | None = None,
    on_round: Callable[[RunResult], None] | None = None,
    on_wait: Callable[[str], None] | None = None,
    on_progress: ProgressCallback | None = None,
    stop: threading.Event | None = None,
) -> RunResult:
    """Extract as micrographs and picks appear, until a file `stop` is in the output folder or nothing new has come.

    Each round is a run that resumes the one before: what a run would make of the files that are there now is what the
    last round leaves. Tables are replaced one by one and at once, so readers find the old or the new one.

    Parameters
    ----------
    picks, micrographs, out, recipe, options, root, executor, on_progress
        As for `run`.
    every : float
        Seconds between rounds.
    idle_timeout : float, optional
        Seconds without a new or growing file after which the watching ends.
    settle : float
        A file is taken for whole when it has not changed for so many seconds.
    on_round, on_wait : callable, optional
        Called after each round that found something new, and with the reason where there is nothing to begin with.
    stop : threading.Event, optional
        When it is set, what is in flight is finished and the watching ends; the tables of the last whole round stay.

    Raises
    ------
    OptionError, OutputError, BackendError, AbortedError
        As `run`.
    InputError
        If at the end there are still no inputs that can be used.
    """
    options, stop = options or RunOptions(), stop or threading.Event()
    every, settle = check_seconds("every", every), check_seconds("settle", settle, zero=True)
    if idle_timeout is not None:
        idle_timeout = check_seconds("idle_timeout", idle_timeout, zero=True)
    check_engine(executor, options)
    if options.shard is not None:
        raise OptionError("--watch cannot be a --shard: what comes later would change which micrographs are whose")
    arrivals, patience = Arrivals(settle), Patience(Path(out), every=every, idle_timeout=idle_timeout, stop=stop)
    result = RunResult(out=Path(out), picks=0, extracted=0, rejected={}, micrographs=0, interrupted=True, exit_code=130)
    seen = ""
    while not stop.is_set():
        last, began = patience.over(), time.perf_counter()
        arrivals.pending.clear()
        named = (*picks_paths(picks), os.fspath(micrographs))
        waits = [] if last else [name for name in named if os.path.isfile(name)]
        try:
            if not all(arrivals.ready(name) for name in waits):
                raise InputError(f"{' or '.join(waits)}: is still being written")
            inputs = prepare(
                picks,
                micrographs=micrographs,
                recipe=recipe,
                root=None if root is None else Path(root),
                ready=None if last else arrivals.ready,
                look=read_header if last else arrivals.look,
            )
            check_inputs_stay(Path(out), inputs)
        except InputError as error:
            if last:
                raise
            if on_wait is not None:
                on_wait(str(error))
        else:
            now = fingerprint(inputs.plan) + inputs.content
            if last or seen != now:
                patience.news()
                result = carry_out_plan(
                    inputs, Path(out), options, engine=executor, on_progress=on_progress, stop=stop, began=began
                )
                options, seen = replace(options, overwrite=False, break_lock=False), now
                if on_round is not None and not result.interrupted:
                    on_round(result)
        if arrivals.pending:
            patience.news()
        if last:
            patience.obeyed()
            break
        patience.wait()
    return result


def _cut(
    todo: list[Task],
    setting: Setting,
    options: RunOptions,
    engine: Engine | None,
    ledger: Ledger,
    tally: Tally,
    incidents: Incidents,
    stop: threading.Event,
) -> None:
    """Do the tasks and record each as it ends."""
    failure: CryoboxError | None = None
    try:
        for task, result in carry_out(todo, setting, engine=engine, options=options, stop=stop, incidents=incidents):
            try:
                if isinstance(result, CryoboxError):
                    raise result
                ledger.append(result)
            except CryoboxError as error:
                failure = failure or error
                stop.set()
                continue
            tally.add(task, result)
            if result.error and options.on_error == "stop":
                failure = failure or InputError(result.error)
                stop.set()
    except AbortedError as error:
        failure = failure or error
    if failure is not None:
        raise AbortedError(
            f"{failure}; {len(ledger.finished)} micrographs are done, the same command resumes"
        ) from failure


def _finish(inputs: Inputs, found: Outcome, so_far: RunResult, options: RunOptions, began: float) -> RunResult:
    """Write the tables over those of an earlier run, take away what is left of these, and write `job.json` last."""
    plan, given = inputs.plan, inputs.given
    place = so_far.out / TABLE_FOLDER / so_far.shard if so_far.shard else so_far.out
    try:
        place.mkdir(parents=True, exist_ok=True)
        withdraw_tables(place, keep=tables_present(place), fsync=options.fsync)  # that is, job.json
        tables = write_tables(
            so_far.out, inputs.particles, inputs.micrographs, plan, found,
            root=None if given.root is None else Path(given.root), fsync=options.fsync, place=place,
        )  # fmt: skip
        withdraw_tables(place, keep=[path.name for path in tables], fsync=options.fsync)
    except OSError as error:
        raise AbortedError(f"{error}; all stacks are written, the same command writes the tables") from error
    incomplete = {inputs.micrographs.names[row]: why for row, why in sorted(found.incomplete.items())}
    nothing = len(found.rows) == 0 and not so_far.shard  # one shard may have only blank micrographs; merge judges all
    result = replace(
        so_far,
        extracted=len(found.rows),
        rejected=found.counts(),
        incomplete=incomplete,
        tables=tuple(tables),
        seconds=time.perf_counter() - began,
        interrupted=False,
        exit_code=1 if nothing or (incomplete and not options.allow_incomplete) else 0,
    )
    try:
        publish_file(place / "job.json", _job_json(inputs, result), fsync=options.fsync)
    except OutputError as error:
        raise AbortedError(f"{error}; all tables are written, the same command writes it") from error
    return result


def _job_json(inputs: Inputs, result: RunResult) -> bytes:
    record = job_record(
        head=head_of(inputs.plan),
        inputs=inputs.given.as_dict(),
        picks=result.picks,
        extracted=result.extracted,
        rejected=result.rejected,
        micrographs=result.micrographs,
        incomplete=result.incomplete,
        tables=[path.name for path in result.tables],
        files=inputs.files,
        warnings=result.warnings,
        seconds={
            "planning": round(result.planning_seconds, 3),
            "cutting": round(result.cutting_seconds, 3),
            "all": round(result.seconds, 3),
        },
    )
    # Names of files may hold bytes that are no text.
    return json.dumps(sealed(record), indent=1, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


def _distinct(groups: Iterable[tuple[str, ...]]) -> list[str]:
    return list(dict.fromkeys(text for group in groups for text in group))
