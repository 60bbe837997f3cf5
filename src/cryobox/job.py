"""A whole run: read tables, plan, cut, write tables. The story from top to bottom."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path

from cryobox import __version__
from cryobox.beginning import as_begun, begin, check_inputs_stay, head_of, make_folders
from cryobox.bounds import check_seconds
from cryobox.engine.devices import check_on_gpus, memory_of_a_worker, ready_devices, warm_up
from cryobox.engine.dispatch import Engine, Incidents, carry_out, check_engine
from cryobox.engine.local import available_cores
from cryobox.engine.progress import ProgressCallback, Tally
from cryobox.engine.shards import check_whole, different_processors, fingerprint, run_record, share
from cryobox.engine.task import Setting
from cryobox.engine.watch import Arrivals, Patience
from cryobox.errors import AbortedError, CryoboxError, InputError, OptionError, OutputError
from cryobox.fit import looked_at
from cryobox.folder.layout import RECORD, TABLE_FOLDER
from cryobox.folder.ledger import Ledger, read_ledger
from cryobox.folder.lock import hold, starting
from cryobox.folder.log import RunLog
from cryobox.folder.parts import ledger_path, part_name
from cryobox.folder.publish import publish_file, remove_temporary
from cryobox.folder.records import job_record, sealed
from cryobox.folder.run import check_shards_there, read_shards
from cryobox.foresight import why_it_stopped, with_little_room
from cryobox.formats.images import read_header
from cryobox.formats.names import check_writable
from cryobox.given import Given, Picks
from cryobox.inputs import Inputs, Recorded, again, prepare
from cryobox.options import Recipe, RunOptions
from cryobox.outcome import Outcome, outcome_of, picks_of_shard
from cryobox.paths import Start
from cryobox.plan import ACCEPTED, Plan, Task
from cryobox.results import counts_of
from cryobox.tables import check_other_family, stack_text, tables_present, withdraw_tables, write_tables

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
    fit : str
        Whether the picks fit the micrographs, in words; "" where nobody looked.
    warnings : tuple of str
    bytes_read, bytes_written : int
    planning_seconds, cutting_seconds, seconds : float
    counts : dict of str to int
        What steps found: pixels replaced as "dust", particles too "crowded" for a background without neighbors,
        "hot_pixels" of micrographs.
    noise : int, optional
        Boxes of noise that were cut beside the picks; None where none were asked for.
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
    fit: str = ""
    warnings: tuple[str, ...] = ()
    bytes_read: int = 0
    bytes_written: int = 0
    planning_seconds: float = 0.0
    cutting_seconds: float = 0.0
    seconds: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)
    noise: int | None = None
    resumed: int = 0
    retried: int = 0
    shard: str = ""
    interrupted: bool = False
    exit_code: int = 0


def run(
    picks: Picks,
    *,
    micrographs: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str],
    recipe: Recipe,
    options: RunOptions | None = None,
    root: str | os.PathLike[str] | None = None,
    directory: str | os.PathLike[str] | None = None,
    recorded: Recorded | None = None,
    warnings: Sequence[str] = (),
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
    micrographs : path, optional
        `.star`, `.cs`, `.csg`, a folder, a glob or one image. Default: the files that tables of particles name, with
        the pixel size that a `.cs` says of them, else their headers, else the recipe.
    out : path
        The output folder; made if it is not there.
    recipe : Recipe
        What is made.
    options : RunOptions, optional
        How the work is run.
    root : path, optional
        Where relative paths in tables start; default: see `cryobox.paths.Start.places`.
    directory : path, optional
        Where `picks`, `micrographs` and `root` start, if they are relative. Default: the working directory.
    recorded : Recorded, optional
        What an earlier run had read, where its files are meant: others are refused.
    warnings : sequence of str
        What the caller has to say; told and recorded with the run's own.
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
    recipe = as_begun(recipe, Path(out), options)
    check_on_gpus(options, recipe)
    if executor is None:
        warm_up(options, recipe)
    given = Given.of(picks, micrographs, root, directory)
    inputs = prepare(given, recipe=recipe, recorded=recorded, warnings=warnings)
    check_inputs_stay(Path(out), inputs, shard=options.shard)
    inputs = looked_at(inputs, options, workers=(options.workers or available_cores()) if executor is None else inf)
    inputs = with_little_room(inputs, Path(out), options)
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
    told: Collection[str] = (),
) -> RunResult:
    """Do what is left of a plan, or of one shard of it, and write the tables."""
    plan, part = inputs.plan, part_name(options.shard)
    if "star" in plan.decided.families:
        text = stack_text(folder, "stacks", ".star", inputs.given.start)
        check_writable([text], f"{folder}: the name of the output folder")
    check_other_family(inputs.particles, inputs.micrographs, plan, folder, inputs.given.start)
    devices, lost = ready_devices(options, engine)
    make_folders(folder, plan.output_names, overwrite=options.overwrite)
    planned = time.perf_counter()
    tasks = share(plan.tasks, options.shard)
    with hold(folder, part, break_lock=options.break_lock), contextlib.ExitStack() as held:
        with starting(folder) if part else contextlib.nullcontext():
            ledger, todo = begin(inputs, folder, tasks, options, held)
        log = held.enter_context(RunLog(folder, part, anew=options.overwrite))
        _tell_begin(log, plan, len(todo), lost, told)
        shard = None if options.shard is None else {task.id for task in tasks}
        first = options.shard is None or options.shard[0] == 1
        mine = picks_of_shard(plan, shard, first=first)
        tally = Tally(tasks, ledger.finished, int((plan.places.reason[mine] != ACCEPTED).sum()), on_progress)
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
        _cut(todo, setting, options, engine, ledger, tally, incidents, stop, log, inputs.given.start)
        cut = time.perf_counter()
        outcome = outcome_of(plan, ledger.finished, shard=shard, first=first)
        results = [ledger.finished[task.id] for task in tasks if task.id in ledger.finished]
        for text in incidents.notes():
            log.caution(text)
        result = RunResult(
            out=folder,
            picks=int(mine.sum()),
            extracted=len(outcome.rows),
            noise=outcome.noise_boxes,
            rejected=outcome.counts(),
            micrographs=len(tasks) + (len(plan.grounds.incomplete) if first else 0),
            incomplete=outcome.named(inputs.micrographs.names),
            fit=inputs.fit,
            warnings=_distinct(plan.warnings, lost, *(found.warnings for found in results), incidents.notes()),
            bytes_read=tally.bytes_read,
            bytes_written=tally.bytes_written,
            planning_seconds=planned - began,
            cutting_seconds=cut - planned,
            seconds=cut - began,
            counts=counts_of(results),
            resumed=len(tasks) - len(todo),
            retried=incidents.retried,
            shard=part,
            interrupted=len(results) < len(tasks),
            exit_code=130 if len(results) < len(tasks) else 0,
        )
        if not result.interrupted:
            result = _finish(inputs, outcome, result, options, began)
        _tell_end(log, result)
        return result


def merge(folder: str | os.PathLike[str], *, options: RunOptions | None = None) -> RunResult:
    """Write the tables of a run whose shards are all done: the same tables, byte for byte, as one run writes.

    The plan is made again from the inputs that the shards recorded; relative paths start where they did then.

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
    check_shards_there(folder)
    with contextlib.ExitStack() as held:
        held.enter_context(hold(folder, "", break_lock=options.break_lock))
        if read_ledger(ledger_path(folder, ""))[0].get("removed"):
            raise OutputError(
                f"{folder}: its stacks were removed by cryobox compact; `cryobox restore` cuts them again"
            )
        shards = read_shards(folder)
        inputs = again(shards, warnings=_distinct(*(part.run.get("warnings") or () for part in shards.parts)))
        check_inputs_stay(folder, inputs)
        results = check_whole(shards, inputs)
        planned = time.perf_counter()
        ledger = held.enter_context(Ledger(folder, part="", head=head_of(inputs.plan), fsync=options.fsync))
        log = held.enter_context(RunLog(folder, "", anew=False))
        remove_temporary(folder, "")
        ledger.begin(run_record(inputs, list(inputs.plan.tasks)) | {"merged": True})
        ledger.append(*results.values())
        processors = different_processors(shards)
        _tell_begin(log, inputs.plan, 0, processors)
        outcome = outcome_of(inputs.plan, results)
        result = RunResult(
            out=folder,
            picks=len(inputs.particles),
            extracted=len(outcome.rows),
            noise=outcome.noise_boxes,
            rejected=outcome.counts(),
            micrographs=len(inputs.plan.tasks) + len(inputs.plan.grounds.incomplete),
            incomplete=outcome.named(inputs.micrographs.names),
            warnings=_distinct(inputs.plan.warnings, *(found.warnings for found in results.values()), processors),
            planning_seconds=planned - began,
            counts=counts_of(results.values()),
            resumed=len(results),
        )
        result = _finish(inputs, outcome, result, options, began)
        _tell_end(log, result)
        return result


def watch(
    picks: Picks,
    *,
    micrographs: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str],
    recipe: Recipe,
    every: float = 30.0,
    idle_timeout: float | None = None,
    settle: float = 5.0,
    options: RunOptions | None = None,
    root: str | os.PathLike[str] | None = None,
    directory: str | os.PathLike[str] | None = None,
    warnings: Sequence[str] = (),
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
    picks, micrographs, out, recipe, options, root, directory, warnings, executor, on_progress
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
    if recipe.particles_per_stack is not None:
        raise OptionError("--watch makes a stack for each micrograph as it comes; leave out --particles-per-stack")
    arrivals, patience = Arrivals(settle), Patience(Path(out), every=every, idle_timeout=idle_timeout, stop=stop)
    given = Given.of(picks, micrographs, root, directory)
    named = tuple(map(given.start.whole, given.paths))
    result: RunResult | None = None
    seen, told = "", set[str]()
    while not stop.is_set():
        last, began = patience.over(), time.perf_counter()
        arrivals.pending.clear()
        waits = [] if last else [name for name in named if os.path.isfile(name)]
        try:
            if not all(arrivals.ready(name) for name in waits):
                raise InputError(f"{' or '.join(map(given.start.told, waits))}: is still being written")
            inputs = prepare(
                given, recipe=recipe, warnings=warnings,
                ready=None if last else arrivals.ready,
                look=read_header if last else arrivals.look,
                files_there=result is None,
            )  # fmt: skip
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
                inputs = looked_at(inputs, options, workers=inf)
                result = carry_out_plan(
                    inputs, Path(out), options, engine=executor, on_progress=on_progress, stop=stop, began=began,
                    told=told,
                )  # fmt: skip
                told |= {*result.warnings, *result.incomplete.values()}
                options, seen = replace(options, overwrite=False, break_lock=False), now
                if on_round is not None and not result.interrupted:
                    on_round(result)
        if arrivals.pending:
            patience.news()
        if last:
            patience.obeyed()
            break
        patience.wait()
    if result is None:  # stopped before there was anything
        return RunResult(
            out=Path(out), picks=0, extracted=0, rejected={}, micrographs=0, interrupted=True, exit_code=130
        )
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
    log: RunLog,
    start: Start,
) -> None:
    """Do the tasks and record each as it ends."""
    failure: CryoboxError | None = None
    try:
        for group, found in carry_out(todo, setting, engine=engine, options=options, stop=stop, incidents=incidents):
            try:
                if isinstance(found, CryoboxError):
                    with start.telling():
                        raise found
                results = [
                    replace(one, error=start.told(one.error), warnings=tuple(map(start.told, one.warnings)))
                    for one in found
                ]
                ledger.append(*results)
            except CryoboxError as error:
                failure = failure or error
                stop.set()
                continue
            tally.add(group, results)
            for result in results:
                for text in result.warnings:
                    log.caution(text)
                if result.error:
                    log.caution(f"micrograph left out: {result.error}")
                if result.error and options.on_error == "stop":
                    failure = failure or InputError(result.error)
                    stop.set()
    except AbortedError as error:
        failure = failure or error
    if failure is not None:
        why = why_it_stopped(failure, todo, ledger.finished, ledger.folder)
        raise AbortedError(f"{why}; {len(ledger.finished)} micrographs are done, the same command resumes") from failure


def _finish(inputs: Inputs, found: Outcome, so_far: RunResult, options: RunOptions, began: float) -> RunResult:
    """Write the tables over those of an earlier run, take away what is left of these, and write `job.json` last."""
    place = so_far.out / TABLE_FOLDER / so_far.shard if so_far.shard else so_far.out
    try:
        place.mkdir(parents=True, exist_ok=True)
        withdraw_tables(place, keep=tables_present(place), fsync=options.fsync)  # that is, job.json
        tables, said = write_tables(
            so_far.out, inputs.particles, inputs.micrographs, inputs.plan, found,
            start=inputs.given.start, fsync=options.fsync, place=place,
        )  # fmt: skip
        withdraw_tables(place, keep=[path.name for path in tables], fsync=options.fsync)
    except OSError as error:
        why = why_it_stopped(error, (), (), so_far.out)
        raise AbortedError(f"{why}; all stacks are written, the same command writes the tables") from error
    nothing = so_far.extracted == 0 and not so_far.shard  # a shard may have only blank micrographs; merge judges all
    result = replace(
        so_far,
        tables=tuple(tables),
        warnings=_distinct(so_far.warnings, said),
        seconds=time.perf_counter() - began,
        exit_code=1 if nothing or (so_far.incomplete and not options.allow_incomplete) else 0,
    )
    try:
        publish_file(place / RECORD, _job_json(inputs, result), fsync=options.fsync)
    except OutputError as error:
        why = why_it_stopped(error, (), (), so_far.out)
        raise AbortedError(f"{why}; all tables are written, the same command writes job.json") from error
    return result


def _tell_begin(log: RunLog, plan: Plan, todo: int, warnings: Iterable[str] = (), told: Collection[str] = ()) -> None:
    """What is known before the work; without what an earlier round of a live session has `told`."""
    log.tell(f"cryobox {__version__} begins: {todo} of {len(plan.tasks)} micrographs to cut")
    for text in (*plan.warnings, *warnings):
        if text not in told:
            log.caution(text)
    for why in plan.grounds.incomplete.values():
        if why not in told:
            log.caution(f"micrograph left out: {why}")


def _tell_end(log: RunLog, result: RunResult) -> None:
    how = "interrupted; the same command resumes" if result.interrupted else f"ends with exit code {result.exit_code}"
    rejected = sum(result.rejected.values())
    seen = f"; check: {result.fit}" if result.fit else ""
    log.tell(f"{result.extracted} of {result.picks} picks extracted, {rejected} rejected; {how}{seen}")


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
        noise=result.noise,
        seconds={
            "planning": round(result.planning_seconds, 3),
            "cutting": round(result.cutting_seconds, 3),
            "all": round(result.seconds, 3),
        },
    )
    # Names of files may hold bytes that are no text.
    return json.dumps(sealed(record), indent=1, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


def _distinct(*groups: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text for group in groups for text in group))
