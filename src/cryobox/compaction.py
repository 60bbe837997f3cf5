"""Stacks as a cache: `compact` removes those of a finished run, `restore` cuts them again, byte for byte."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from cryobox import formats
from cryobox.beginning import head_of
from cryobox.engine.dispatch import Incidents, carry_out
from cryobox.engine.local import available_cores
from cryobox.engine.progress import ProgressCallback, Tally
from cryobox.engine.shards import fingerprint
from cryobox.engine.task import Setting
from cryobox.errors import AbortedError, CryoboxError, InputError, OutputError
from cryobox.folder.layout import RECORD
from cryobox.folder.ledger import Ledger, check_same
from cryobox.folder.lock import hold
from cryobox.folder.log import RunLog
from cryobox.folder.publish import remove_temporary, sync_folder
from cryobox.folder.records import BEGINNINGS
from cryobox.folder.run import Run, read_run
from cryobox.formats.references import image_references
from cryobox.inputs import Inputs, again
from cryobox.options import Recipe, RunOptions
from cryobox.paths import Start, find_file
from cryobox.plan import Task, groups_of
from cryobox.results import Removed, StackInfo, TaskResult
from cryobox.verification.findings import Problems
from cryobox.verification.stacks import check_pixels

__all__ = ["Compacted", "compact", "restore"]

LABEL = slice(224, 304)  # of an MRC header: the version that wrote it; another one may make the same bits
BLOCK_BYTES = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Compacted:
    """What was done with the stacks of a run.

    Parameters
    ----------
    stacks : int
        Removed, or cut again.
    bytes : int
        Of these.
    kept : int
        Stacks that were left: in place by `compact`, missing by a `restore` that was interrupted.
    """

    stacks: int
    bytes: int
    kept: int


def compact(
    folder: str | os.PathLike[str], *, keep: str | os.PathLike[str] | None = None, break_lock: bool = False
) -> Compacted:
    """Remove the stacks of a finished run; tables, ledger and records stay. `restore` makes the stacks again.

    Parameters
    ----------
    folder : path
    keep : path, optional
        A table of particles (.star, .cs, .csg): stacks that hold one of its images stay.
    break_lock : bool
        Take over from a process on another host that is known to be gone.

    Raises
    ------
    InputError, OutputError
        Before anything is removed: if the run is not complete, an input is not there as it was, a stack is not as it
        was recorded, or this build would make other bits.
    """
    out = _run_folder(folder)
    with hold(out, "", break_lock=break_lock):
        run = _complete(out)
        inputs = _unchanged(run)
        stacks = _recorded_stacks(_results(run, inputs))
        there = [path for path in stacks if path not in run.removed or (out / path).exists()]
        kept = _stacks_of(Path(keep), out, stacks) if keep is not None else set()
        going = [path for path in there if path not in kept]
        for path in there:
            _check_size(out / path, stacks[path].bytes)
        with ThreadPoolExecutor(available_cores()) as pool:
            removed = dict(zip(going, pool.map(lambda path: _sound(out / path, stacks[path]), going), strict=True))
        gone = {path: how for path, how in run.removed.items() if path not in there}
        _record(run, gone | removed)  # before they go: whoever finds one missing knows why
        _unlink(out, going)
        with RunLog(out, "", anew=False) as log:
            log.tell(f"compact removes {len(going)} stacks")
    return Compacted(stacks=len(going), bytes=sum(stacks[path].bytes for path in going), kept=len(there) - len(going))


def restore(
    folder: str | os.PathLike[str],
    *,
    options: RunOptions | None = None,
    on_progress: ProgressCallback | None = None,
    stop: threading.Event | None = None,
) -> Compacted:
    """Cut the stacks again that `compact` removed, byte for byte.

    Parameters
    ----------
    folder : path
    options : RunOptions, optional
        `workers`, `threads`, `fsync` and `break_lock` count.
    on_progress : callable, optional
        As for `cryobox.run`.
    stop : threading.Event, optional
        When it is set, what is in flight is finished and the rest is left; the same call goes on.

    Raises
    ------
    InputError, OutputError
        Before any work, if an input is not there as it was, or this build would make other bits.
    AbortedError
        If a stack came out otherwise than it was removed, or could not be made.
    """
    options, stop = options or RunOptions(), stop or threading.Event()
    out = _run_folder(folder)
    with hold(out, "", break_lock=options.break_lock):
        run = _complete(out)
        inputs = _unchanged(run)
        results = _results(run, inputs)
        # One that is there may be of a restore that was killed before it was compared.
        gone = {path: how for path, how in run.removed.items() if not _is_restored(out / path, how)}
        remove_temporary(out, "")
        _make_folders(out, gone)
        todo = [
            task
            for group in groups_of(inputs.plan.tasks)
            if any(stack.path in gone for task in group for stack in results[task.id].every_stack)
            for task in group
        ]
        waiting = {task.id for task in todo}
        tally = Tally(
            inputs.plan.tasks, {task: found for task, found in results.items() if task not in waiting}, 0, on_progress
        )
        _cut_again(out, todo, results, gone, options, tally, stop)
        left = [path for path in gone if not (out / path).exists()]
        _record(run, {path: gone[path] for path in left})
        with RunLog(out, "", anew=False) as log:
            log.tell(f"restore makes {len(gone) - len(left)} stacks again; {len(left)} are left")
    sizes = _recorded_stacks(results)
    return Compacted(
        stacks=len(gone) - len(left), bytes=sum(sizes[path].bytes for path in gone if path not in left), kept=len(left)
    )


def _record(run: Run, removed: Mapping[str, Removed]) -> None:
    """Which stacks are removed, in the ledger, whose head stays that of the version that made them."""
    head = {key: run.last.head[key] for key in BEGINNINGS}
    with Ledger(run.folder, part="", head=head) as ledger:
        ledger.remove(removed)


def _recorded_stacks(results: Mapping[str, TaskResult]) -> dict[str, StackInfo]:
    """What is recorded of each stack, by its path in the folder."""
    return {stack.path: stack for result in results.values() for stack in result.every_stack}


def _sound(path: Path, stack: StackInfo) -> Removed:
    """What must be known of a stack that is as it was recorded, as far as the statistics of its pixels tell."""
    problems = Problems()
    check_pixels(path, stack, problems=problems)
    for fault in problems.texts():
        raise OutputError(f"{fault}; nothing was removed: the stack is damaged, make it again first")
    return _looked_at(path)


def _check_size(path: Path, size: int) -> None:
    found = path.stat().st_size if path.exists() else None
    if found != size:
        what = "is not there" if found is None else f"has {found} bytes"
        raise OutputError(f"{path}: {what}, expected {size} bytes; the extract command again makes it whole")


def _make_folders(out: Path, stacks: Iterable[str]) -> None:
    try:
        for name in {os.path.dirname(path) for path in stacks}:
            (out / name).mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(f"{out}: cannot be written: {error.strerror}") from error


def _run_folder(folder: str | os.PathLike[str]) -> Path:
    out = Path(folder).resolve()
    if not out.is_dir():
        raise InputError(f"{folder}: is no folder; expected the --out of a finished run")
    return out


def _complete(out: Path) -> Run:
    run = read_run(out)
    if not run.complete:
        raise InputError(f"{out / RECORD}: does not say that the run is complete; run the same command again")
    return run


def _unchanged(run: Run) -> Inputs:
    """The plan made again, if it is the recorded one and this build makes the same bits of it."""
    inputs = again(run, same=True)
    check_same(run.folder, run.last.head, head_of(inputs.plan), may_grow=False)
    if run.last.run.get("plan") != fingerprint(inputs.plan):
        raise InputError(f"{run.folder}: its inputs give another plan now than when it was made; bring them back")
    return inputs


def _results(run: Run, inputs: Inputs) -> dict[str, TaskResult]:
    recorded = run.results
    missing = [task.path for task in inputs.plan.tasks if task.id not in recorded]
    if missing:
        raise OutputError(f"{run.folder}: the ledger has no record of {missing[0]}; run the same command again")
    return {task.id: recorded[task.id] for task in inputs.plan.tasks}


def _stacks_of(table: Path, out: Path, stacks: Iterable[str]) -> set[str]:
    """The recorded stacks that a table of particles names, from wherever its paths start and through links."""
    particles = formats.read_particles(table, recipe=Recipe(box=256))
    places = (table.resolve().parent, *Start.here().places(table))
    known = {os.path.realpath(out / path): path for path in stacks}
    named = {os.path.realpath(find_file(name.removeprefix(">"), places)) for name in image_references(particles).stack}
    found = {known[path] for path in named & known.keys()}
    if not found:
        raise InputError(f"{table}: names no stack in {out}; is it a table of this run's particles?")
    return found


def _looked_at(path: Path) -> Removed:
    """What must be known of a stack to tell that it is made again byte for byte."""
    digest = hashlib.blake2b(digest_size=16)
    try:
        with open(path, "rb") as file:
            head = bytearray(file.read(1024))
            label = bytes(head[LABEL])
            head[LABEL] = bytes(LABEL.stop - LABEL.start)
            digest.update(head)
            while block := file.read(BLOCK_BYTES):
                digest.update(block)
    except OSError as error:
        raise OutputError(f"{path}: cannot be read: {error.strerror}") from error
    return Removed(digest=digest.hexdigest(), label=label.rstrip(b"\0").decode("ascii", "replace"))


def _unlink(out: Path, paths: Iterable[str]) -> None:
    folders = set()
    for path in paths:
        try:
            (out / path).unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"{out / path}: cannot be removed: {error.strerror}") from error
        folders.add((out / path).parent)
    for folder in folders:
        sync_folder(folder)


def _cut_again(
    out: Path,
    todo: list[Task],
    results: Mapping[str, TaskResult],
    removed: Mapping[str, Removed],
    options: RunOptions,
    tally: Tally,
    stop: threading.Event,
) -> None:
    setting = Setting(folder=str(out), threads=options.threads, fsync=options.fsync)
    failure: CryoboxError | None = None
    for group, made in carry_out(todo, setting, engine=None, options=options, stop=stop, incidents=Incidents()):
        if isinstance(made, CryoboxError) or any(one.error for one in made):
            unread = "" if isinstance(made, CryoboxError) else next(one.error for one in made if one.error)
            failure = failure or (made if isinstance(made, CryoboxError) else InputError(unread))
            stop.set()
            continue
        now = _recorded_stacks({one.id: one for one in made})
        for path, stack in _recorded_stacks({task.id: results[task.id] for task in group}).items():
            try:
                if path in removed:
                    _check_restored(out / path, removed[path], as_recorded=stack == now.get(path))
            except CryoboxError as error:
                failure = failure or error
                stop.set()
        tally.add(group, made)
    if failure is not None:
        raise AbortedError(f"{failure}; what is restored stays, the same command goes on") from failure


def _is_restored(path: Path, removed: Removed) -> bool:
    """Whether a stack is there again, with the label that it had."""
    if not path.exists() or (found := _looked_at(path)).digest != removed.digest:
        return False
    _give_label(path, found, removed)
    return True


def _check_restored(path: Path, removed: Removed, *, as_recorded: bool = False) -> None:
    """Give a stack the label that it had; refuse, and remove, one that is not the one that was removed.

    Where it is the one that the run recorded (`as_recorded`), the one that was removed was not: then it stays.
    """
    made = _looked_at(path)
    if made.digest != removed.digest and not as_recorded:
        path.unlink(missing_ok=True)
        raise OutputError(
            f"{path}: came out otherwise than it was removed; another kind of processor, or a changed micrograph?"
        )
    _give_label(path, made, removed)


def _give_label(path: Path, made: Removed, removed: Removed) -> None:
    if made.label != removed.label:
        with open(path, "r+b") as file:
            file.seek(LABEL.start)
            file.write(removed.label.encode("ascii").ljust(LABEL.stop - LABEL.start, b"\0"))
