"""The story of a restacking: read the table, look at its stacks, make new ones in its order, write it anew."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryobox import __version__
from cryobox.beginning import head_with
from cryobox.engine.local import available_cores
from cryobox.engine.task import REASON_OF, finish_stack
from cryobox.errors import AbortedError, CryoboxError, OutputError
from cryobox.folder.layout import stack_folder, table_name
from cryobox.folder.ledger import Ledger, read_forgiving, remove_recorded
from cryobox.folder.lock import hold
from cryobox.folder.parts import ledger_path
from cryobox.folder.publish import publish_file, publish_files, remove_temporary, sync_folder, temporary_name
from cryobox.formats.mrc_stack import StackWriter
from cryobox.formats.names import check_writable
from cryobox.options import RunOptions
from cryobox.paths import Start
from cryobox.restacking.asked import Asked
from cryobox.restacking.pixels import Chunk, Made, make
from cryobox.restacking.planning import Look, Unit, plan
from cryobox.restacking.tables import NewImages, TableOfImages, read_table_of_images
from cryobox.results import StackInfo, TaskResult
from cryobox.tables import stack_text, tables_present, withdraw_tables
from cryobox.windows import STATISTICS, Status

__all__ = ["RESTACKED", "Restacked", "restack_particles"]

RESTACKED = "restack.json"  # of a finished one: what was asked for, and what came of it
CHUNK_BYTES = 16 << 20  # of stored images, that a worker reads at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Restacked:
    """What a restacking did.

    Parameters
    ----------
    rows : int
        Of the table.
    stored : int
        Images in each size's stacks.
    stacks : int
        Of all sizes.
    bytes_written : int
        In this call.
    seconds : float
        Of this call.
    tables : tuple of Path
    rejected : dict of str to int
        Rows whose image could not be used, by reason; they stand in a table of their own.
    resumed : int
        Images that an earlier call had stored.
    warnings, notes : tuple of str
    interrupted : bool
    exit_code : int
        0; 1: some rows are left out; 130: interrupted.
    """

    rows: int
    stored: int
    stacks: int
    bytes_written: int
    seconds: float
    tables: tuple[Path, ...]
    rejected: dict[str, int]
    resumed: int
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    interrupted: bool
    exit_code: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """What all steps share: the images as they are, what is asked, and where and how hard it is worked."""

    look: Look
    asked: Asked
    folder: Path
    fsync: bool
    workers: int


def restack_particles(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    asked: Asked | None = None,
    options: RunOptions | None = None,
    root: str | os.PathLike[str] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    stop: threading.Event | None = None,
) -> Restacked:
    """Make new stacks of the images that a table names, in its order, and the table anew. The same call resumes.

    Every column is carried; image names, pixel size and image size (and in the style of RELION 3.0 origins in pixels)
    say what is there now.

    Parameters
    ----------
    source : path
        `.star`, `.cs` or `.csg`, of any program.
    out : path
        The output folder; made if it is not there.
    asked : Asked, optional
        What is done to the images; default: nothing.
    options : RunOptions, optional
        `workers`, `fsync`, `overwrite` and `break_lock` count.
    root : path, optional
        Where relative paths in the table start; default: see `cryobox.paths.Start.places`.
    on_progress : callable, optional
        Called with the images stored so far, and all.
    stop : threading.Event, optional
        When it is set, the stack in work is given up and the call ends early, resumable.

    Raises
    ------
    InputError, OptionError, OutputError
        Before any work, if it cannot be done as asked.
    AbortedError
        If it began and could not go on.
    """
    began = time.perf_counter()
    asked, options, stop = asked or Asked(), options or RunOptions(), stop or threading.Event()
    start, folder = Start.here(root), Path(out)
    table = read_table_of_images(os.fspath(source))
    look = Look(os.fspath(source), table, start)
    job = _Job(look=look, asked=asked, folder=folder, fsync=options.fsync, workers=options.workers or available_cores())
    units = plan(look, asked)
    size = np.concatenate([np.full(unit.stop - unit.first, unit.making.outputs[0].size) for unit in units])
    box = np.concatenate([np.full(unit.stop - unit.first, unit.making.box) for unit in units])
    table.check(box / size, size)
    if table.suffix == ".star":
        text = stack_text(folder, "stacks", table.suffix, start)
        check_writable([text], f"{folder}: the name of the output folder")
    _check_inputs_stay(folder, table.files, look, units)
    _make_folders(folder, asked, overwrite=options.overwrite)
    head = head_with({"restack": os.path.abspath(source), **asked.as_dict()})
    with hold(folder, "", break_lock=options.break_lock):
        with Ledger(folder, part="", head=head, overwrite=options.overwrite, fsync=options.fsync) as ledger:
            remove_temporary(folder, "")
            todo = [unit for unit in units if not ledger.drop_unless_done(unit.id)]
            if todo:
                _withdraw(folder, (), fsync=options.fsync)
            if options.overwrite:
                ledger.remove_stacks()
            ledger.make_room({unit.id for unit in todo}, {path for unit in todo for path in unit.paths})
            ledger.begin({"restack": os.path.abspath(source)})
            done = sum(ledger.finished[unit.id].kept for unit in units if unit.id in ledger.finished)
            written = _carry_out(todo, job, ledger, stop, _Counter(done, look.count, on_progress))
            results = [ledger.finished.get(unit.id) for unit in units]
            if all(results):  # stacks of a table that has changed since
                used = {path for unit in units for path in unit.paths}
                remove_recorded(folder, [one for one in ledger.previous.values() if one not in results], keep=used)
        result = _finish(table, job, start, units, results, resumed=done, written=written)
        return dataclasses.replace(result, seconds=time.perf_counter() - began)


def _check_inputs_stay(folder: Path, tables: Sequence[str], look: Look, units: Sequence[Unit]) -> None:
    """Refuse an output folder in which a file that is read would be replaced or removed, whatever it is called.

    Raises
    ------
    OutputError
    """
    read = {}
    for path in (*tables, *(one.path for one in look.sources)):
        status = os.stat(path)
        read[status.st_dev, status.st_ino] = path
    head, recorded = read_forgiving(ledger_path(folder, ""))
    if head and "restack" not in (head.get("recipe") or {}):
        raise OutputError(f"{folder}: holds a run of cryobox extract; choose another --out")
    names = {path for unit in units for path in unit.paths}
    names |= {stack.path for result in recorded.values() for stack in result.stacks}
    names |= set(tables_present(folder, [str(output.size) for unit in units for output in unit.making.outputs]))
    for name in sorted(names):
        try:
            status = os.stat(folder / name)
        except OSError:
            continue
        if (status.st_dev, status.st_ino) in read:
            path = read[status.st_dev, status.st_ino]
            raise OutputError(
                f"{path}: is an input and would be replaced, since it is the same file as {folder / name}; choose "
                f"another --out"
            )


def _make_folders(folder: Path, asked: Asked, *, overwrite: bool) -> None:
    if not overwrite and not ledger_path(folder, "").exists() and (found := tables_present(folder, asked.names())):
        raise OutputError(
            f"{folder}: holds {', '.join(found)}, but no record of what wrote it; choose another "
            f"folder, or start anew with --overwrite"
        )
    try:
        for name in asked.names():
            (folder / stack_folder(name)).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made: {error.strerror}") from error


def _withdraw(folder: Path, keep: Collection[str], *, fsync: bool) -> None:
    """Before a stack is replaced: no table describes it, and nothing says that all is there."""
    if not keep:
        try:
            (folder / RESTACKED).unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"{folder / RESTACKED}: cannot be removed: {error.strerror}") from error
    withdraw_tables(folder, keep=keep, fsync=fsync)


class _Counter:
    """Tells how many images are stored."""

    def __init__(self, done: int, total: int, callback: Callable[[int, int], None] | None) -> None:
        self._done, self._total, self._callback = done, total, callback
        self.add(0)

    def add(self, count: int) -> None:
        self._done += count
        if self._callback is not None:
            self._callback(self._done, self._total)


def _carry_out(todo: Sequence[Unit], job: _Job, ledger: Ledger, stop: threading.Event, counter: _Counter) -> int:
    """Make the stacks one after the other, each by all workers; returns the bytes that were written."""
    written = 0
    try:
        with ThreadPoolExecutor(job.workers, thread_name_prefix="cryobox") as pool:
            for unit in todo:
                result = _make_stack(unit, job, pool, stop, counter)
                if result is None:
                    break
                ledger.append(result)
                written += sum(stack.bytes for stack in result.stacks)
    except CryoboxError as error:
        raise AbortedError(f"{error}; stacks that are whole stay, the same command resumes") from error
    return written


def _make_stack(
    unit: Unit, job: _Job, pool: ThreadPoolExecutor, stop: threading.Event, counter: _Counter
) -> TaskResult | None:
    """One stack of each size: images in the order of the rows, those that cannot be used left out; None: stopped."""
    final = [job.folder / path for path in unit.paths]
    temporary = [path.with_name(temporary_name(path.name, "")) for path in final]
    refused: list[tuple[int, str]] = []
    statistics: list[NDArray[np.float64]] = []
    with contextlib.ExitStack() as held:
        writers = [
            held.enter_context(
                StackWriter(
                    path,
                    size=job.asked.pad or output.size,
                    dtype=np.dtype(output.dtype),
                    pixel_size=unit.pixel_size * unit.making.box / output.size,
                    expected=unit.stop - unit.first,
                    label=job.asked.label,
                )
            )
            for path, output in zip(temporary, unit.making.outputs, strict=True)
        ]
        first = unit.first
        for made in _in_order(pool, _chunks(unit, job), 2 * job.workers, stop):
            if made is None:
                return None
            good = made.status == Status.OK
            for writer, images in zip(writers, made.images, strict=True):
                writer.write(images if good.all() else images[good])
            bad = np.flatnonzero(~good)
            refused += [(first - unit.first + i, str(REASON_OF[Status(int(made.status[i]))])) for i in bad.tolist()]
            statistics.append(made.statistics[:, good])
            first += len(good)
            counter.add(int(good.sum()))
        of_kept = np.concatenate(statistics, axis=1)
        kept = of_kept.shape[1]
        infos: list[StackInfo] = []
        if kept:
            for writer, path, of_size in zip(writers, unit.paths, of_kept, strict=True):
                infos.append(finish_stack(writer, path, of_size, fsync=job.fsync))
            try:
                for name, place in zip(temporary, final, strict=True):
                    os.replace(name, place)
            except OSError as error:
                raise OutputError(f"{final[0]}: cannot be given its name: {error.strerror}") from error
    if job.fsync:
        for parent in dict.fromkeys(path.parent for path in final):
            sync_folder(parent)
    clamped = int(of_kept[:, :, STATISTICS.index("clamped")].sum())
    text = f"{final[0]}: {clamped} pixels beyond ±65504 were clamped, the largest number that float16 holds"
    return TaskResult(
        id=unit.id, kept=kept, refused=tuple(refused), stacks=tuple(infos), warnings=(text,) if clamped else ()
    )


def _chunks(unit: Unit, job: _Job) -> Iterator[Chunk]:
    """The rows of a stack in pieces of one type of pixels."""
    look, asked = job.look, job.asked
    first = unit.first
    while first < unit.stop:
        dtype = look.sections[int(look.stack[first])].dtype
        most = max(1, CHUNK_BYTES // (unit.making.side**2 * dtype.itemsize))
        stop = first + 1
        while stop < min(first + most, unit.stop) and look.sections[int(look.stack[stop])].dtype == dtype:
            stop += 1
        yield Chunk(
            sources=tuple(look.sources[number] for number in look.stack[first:stop].tolist()),
            slots=tuple(look.references.slot[first:stop].tolist()),
            dtype=dtype,
            making=unit.making,
            steps=asked.steps(),
            pixel_size=unit.pixel_size,
            lowpass=asked.lowpass,
            pad=asked.pad,
        )
        first = stop


def _in_order(
    pool: ThreadPoolExecutor, chunks: Iterator[Chunk], ahead: int, stop: threading.Event
) -> Iterator[Made | None]:
    """What workers make of the chunks, in their order; at most `ahead` are under way. None: stopped."""
    waiting: deque[Future[Made]] = deque()
    try:
        for chunk in chunks:
            waiting.append(pool.submit(make, chunk))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
            if stop.is_set():
                yield None
                return
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _finish(
    table: TableOfImages,
    job: _Job,
    start: Start,
    units: Sequence[Unit],
    results: Sequence[TaskResult | None],
    *,
    resumed: int,
    written: int,
) -> Restacked:
    """The tables, where all stacks are there; and what is told."""
    look, asked, folder = job.look, job.asked, job.folder
    finished = [result for result in results if result is not None]
    notes = (*table.notes, *([f"the images are {asked.label}"] if asked.label else []))
    stored = sum(result.kept for result in finished)
    told: dict[str, Any] = {
        "rows": look.count,
        "stored": stored,
        "stacks": sum(len(result.stacks) for result in finished),
        "bytes_written": written,
        "seconds": 0.0,
        "resumed": resumed,
        "warnings": tuple(text for result in finished for text in result.warnings),
        "notes": notes,
    }
    if len(finished) < len(units):
        return Restacked(**told, tables=(), rejected={}, interrupted=True, exit_code=130)
    unit_of = np.repeat(np.arange(len(units)), [unit.stop - unit.first for unit in units])
    reason = np.full(look.count, "", object)
    for unit, result in zip(units, finished, strict=True):
        for index, why in result.refused:
            reason[unit.first + index] = why
    kept = reason == ""
    before = np.concatenate([[0], np.cumsum(kept)])
    slot = before[:-1] - before[[unit.first for unit in units]][unit_of]
    rows = np.flatnonzero(kept)
    tables: list[Path] = []
    factor = np.ones(look.count)
    size = np.zeros(look.count, np.int64)
    if len(rows):
        for number, name in reversed(list(enumerate(asked.names()))):
            for unit in units:
                output = unit.making.outputs[number]
                factor[unit.first : unit.stop] = unit.making.box / output.size
                size[unit.first : unit.stop] = asked.pad or output.size
            stacks = tuple(stack_text(folder, unit.paths[number], table.suffix, start) for unit in units)
            images = NewImages(
                rows=rows,
                stacks=stacks,
                stack=unit_of[rows].astype(np.intp),
                slot=slot[rows],
                factor=factor[rows],
                size=size[rows],
                label=asked.label,
            )
            write = partial(table.write, images=images)
            tables = [*publish_files(folder, f"{table_name(name)}{table.suffix}", write, fsync=job.fsync), *tables]
    counts: dict[str, int] = {}
    if not kept.all():
        left = np.flatnonzero(~kept)
        reasons = [str(text) for text in reason[left].tolist()]
        counts = {text: reasons.count(text) for text in dict.fromkeys(reasons)}
        write_rejected = partial(table.write_rejected, rows=left, reasons=reasons)
        tables += publish_files(folder, f"rejected{table.suffix}", write_rejected, fsync=job.fsync)
    _withdraw(folder, [path.name for path in tables], fsync=job.fsync)  # what is left of an earlier one
    found = Restacked(
        **told, tables=tuple(tables), rejected=counts, interrupted=False, exit_code=0 if kept.all() else 1
    )
    said = {key: value for key, value in told.items() if key not in ("bytes_written", "seconds", "resumed")}
    record = {"cryobox": __version__, "asked": asked.as_dict(), "complete": True} | said | {"rejected": counts}
    publish_file(folder / RESTACKED, (json.dumps(record, indent=1) + "\n").encode(), fsync=job.fsync)
    return found
