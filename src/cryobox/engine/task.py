"""Micrographs: read, cut the windows, write the stacks. The only place where files and pixels meet in a run."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from cryobox.core import STATISTICS, Status, cut, filled, repair_hot_pixels
from cryobox.engine.devices import CPU, on_a_device
from cryobox.errors import BackendError, MicrographError, OutputError
from cryobox.filtering import MEASURES, RELATIVE, Filter
from cryobox.folder.publish import sync_folder, temporary_name
from cryobox.formats.images import PixelReader, room
from cryobox.formats.mrc_stack import StackWriter
from cryobox.gpu import pinned, resident
from cryobox.measuring import as_text, kept_by, measured
from cryobox.particles import Reason
from cryobox.plan import Group, Task
from cryobox.results import StackInfo, TaskResult
from cryobox.windows import Stored

__all__ = ["REASON_OF", "Setting", "do_group", "finish_stack", "read_token"]

BLOCK_BYTES = 8 << 20  # stacks are written in blocks of about this size: fast, and small beside a micrograph
GPU_BLOCK_BYTES = 128 << 20  # enough for the particles of most micrographs, so that each crosses the bus once
LARGEST_HALF = 65504.0
PATIENCE_SECONDS = 5.0  # a network file system may show a new file late

REASON_OF = {
    Status.OUTSIDE: Reason.EDGE,
    Status.NOT_FINITE: Reason.NOT_FINITE,
    Status.NO_CONTRAST: Reason.NO_CONTRAST,
    Status.FILTERED: Reason.FILTER,
}
COUNTED = ("dust", "crowded")  # what a task's result sums of its kept particles, of the first size
_COLUMN = {name: index for index, name in enumerate(STATISTICS)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What all tasks of a run share: where they write, and how hard they try.

    Parameters
    ----------
    folder : str
        The output folder.
    threads : int
        OpenMP threads of one task.
    fsync : bool
        Force stacks to the disk before they get their name.
    part : str
        Which part of a sharded run this is ("1-of-4"), "" for a whole one; temporary names bear it, so that only
        this part's are ever removed.
    devices : tuple of str
        What workers cut on, in turn: "cpu" or "cuda:N".
    device_memory : int
        Bytes of a GPU for each worker; 0: as needed, at most half of what is free.
    device_fallback : bool
        Whether the CPU takes over from GPUs that fail.
    token, secret : str
        For workers in other processes: a file and its text, which the next run in the folder removes. A worker that
        outlives its run finds it gone, and gives no stack its name any more.
    """

    folder: str
    threads: int = 1
    fsync: bool = True
    part: str = ""
    devices: tuple[str, ...] = (CPU,)
    device_memory: int = 0
    device_fallback: bool = False
    token: str = ""
    secret: str = ""


def read_token(path: str) -> str:
    """The text of the file by which a worker knows a run and its folder; "" if it is not there."""
    until = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return Path(path).read_text()
        except OSError:
            if time.monotonic() > until:
                return ""
            time.sleep(0.2)


def do_group(group: Group, setting: Setting) -> tuple[TaskResult, ...]:
    """Carry out tasks that share their stacks, one after the other, on this worker.

    A micrograph that cannot be read gives a result with `error`, and has no images in the stacks; a folder that cannot
    be written raises `OutputError`, since the next micrograph would fare no better.
    """
    results, notes = on_a_device(
        setting.devices,
        fallback=setting.device_fallback,
        work=lambda device: _do_on(device, group, setting),
    )
    if notes:
        results = (replace(results[0], warnings=(*results[0].warnings, *notes)), *results[1:])
    return results


@dataclass(slots=True, kw_only=True)
class _Cut:
    """What became of one task, before its stacks are whole."""

    result: TaskResult
    statistics: NDArray[np.float64]  # of the kept images: (outputs, kept, columns)
    clock: _Clock
    noise: NDArray[np.float64] | None = None  # the same of its noise


def _do_on(device: str, group: Group, setting: Setting) -> tuple[TaskResult, ...]:
    """Cut and write on one device; a failure leaves no file."""
    of_noise = tuple(task.noise for task in group if task.noise is not None)
    with _Stacks(group, setting) as stacks, _Stacks(of_noise, setting) as noise_stacks:
        cuts = [_append(device, task, setting, stacks, noise_stacks) for task in group]
        with cuts[-1].clock.time("write"):
            infos = _published(stacks, [cut.statistics for cut in cuts])
            noise_infos = _published(noise_stacks, [cut.noise for cut in cuts if cut.noise is not None])
    ended = time.time()
    return tuple(
        replace(
            cut.result,
            stacks=infos if cut.result.kept else (),
            noise=_with_stacks(cut.result.noise, noise_infos),
            read_seconds=cut.clock.seconds["read"],
            extract_seconds=cut.clock.seconds["extract"],
            write_seconds=cut.clock.seconds["write"],
            ended=ended,
        )
        for cut in cuts
    )


def _published(stacks: _Stacks, statistics: Sequence[NDArray[np.float64]]) -> tuple[StackInfo, ...]:
    """Give stacks their names, where they have images."""
    every = np.concatenate(statistics, axis=1) if statistics else np.empty((0, 0, 0))
    return stacks.publish(every) if every.shape[1] else ()


def _with_stacks(result: TaskResult | None, stacks: tuple[StackInfo, ...]) -> TaskResult | None:
    return result if result is None or not result.kept else replace(result, stacks=stacks)


def _append(device: str, task: Task, setting: Setting, stacks: _Stacks, noise_stacks: _Stacks) -> _Cut:
    """Cut one task's windows, and those of its noise, and write their images behind those that are there."""
    clock, reader = _Clock(), _worker.reader(setting.devices)
    try:
        with clock.time("read"):
            image = reader.read(task.path, task.header, rows=task.rows_to_read, tiff_flip=task.tiff_flip)
    except MicrographError as error:
        nothing = np.empty((len(task.outputs), 0, len(STATISTICS)))
        return _Cut(result=TaskResult(id=task.id, error=str(error)), statistics=nothing, clock=clock)
    with clock.time("extract"):
        hot = 0 if task.hot_pixels is None else repair_hot_pixels(image, task.hot_pixels, seed=task.windows.seed)
    result, statistics = _images_of(device, task, setting, image, stacks, clock)
    result = replace(
        result,
        bytes_read=reader.bytes_read,
        counts=_counts(statistics[0], hot),
        warnings=(*reader.warnings, *result.warnings),
    )
    if task.noise is None:
        return _Cut(result=result, statistics=statistics, clock=clock)
    noise, of_noise = _images_of(device, task.noise, setting, image, noise_stacks, clock)
    noise = replace(noise, counts=_counts(of_noise[0], 0))
    return _Cut(result=replace(result, noise=noise), statistics=statistics, clock=clock, noise=of_noise)


def _images_of(
    device: str, task: Task, setting: Setting, image: NDArray[Any], stacks: _Stacks, clock: _Clock
) -> tuple[TaskResult, NDArray[np.float64]]:
    """Write the images of a task's windows. Returns what became of them, and the statistics of those that were kept."""
    stacks.open()
    try:
        status, statistics = _cut(device, task, setting, image, stacks, clock)
    except MemoryError as error:
        raise BackendError(f"{task.path}: its particles need more memory than this process can get") from error
    kept = status == Status.OK
    background = statistics[0, kept]
    known = bool(kept.any()) and task.steps.normalize
    result = TaskResult(
        id=task.id,
        kept=int(kept.sum()),
        refused=tuple((int(i), str(REASON_OF[Status(int(status[i]))])) for i in np.flatnonzero(~kept)),
        background_mean=float(background[:, _COLUMN["background_mean"]].mean()) if known else float("nan"),
        background_sd=float(background[:, _COLUMN["background_sd"]].mean()) if known else float("nan"),
        measures=as_text(measured(statistics[0, _measurable(status)])) if task.steps.measures else "",
        warnings=_clamp_warning(task, statistics[:, kept]),
    )
    return result, statistics[:, kept]


def _counts(statistics: NDArray[np.float64], hot: int) -> dict[str, int]:
    """What steps found, where it is not 0: in the kept particles (`statistics`), and in the micrograph."""
    found = {name: int(statistics[:, _COLUMN[name]].sum()) for name in COUNTED} | {"hot_pixels": hot}
    return {name: count for name, count in found.items() if count}


def _cut(
    device: str, task: Task, setting: Setting, image: NDArray[Any], stacks: _Stacks, clock: _Clock
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Cut all windows, block by block, and write the images of the survivors in order."""
    # What comes out of another process's message may lie anywhere in it: dask hands over unaligned arrays.
    columns: dict[str, Any] = {
        name: np.require(values, np.float64, ["C", "A"]) for name, values in task.windows.columns().items()
    }
    windows = replace(task.windows, corner=np.require(task.windows.corner, np.int64, ["C", "A"]), **columns)
    with clock.time("extract"):
        windows = filled(image, windows, task.steps)
    total = len(windows)
    status = np.empty(total, dtype=np.uint8)
    statistics = np.empty((len(task.outputs), total, len(STATISTICS)))
    per_particle = sum(output.bytes_per_image for output in task.outputs)
    step = max(1, (BLOCK_BYTES if device == CPU else GPU_BLOCK_BYTES) // per_particle)
    source: Any = image
    if device != CPU and total > step:
        with clock.time("extract"):
            source = resident(image, device, windows.rows_needed(task.header.shape[0]))
    late = task.filter is not None and RELATIVE in Filter(task.filter, MEASURES).used

    def cut_some(some: NDArray[np.intp]) -> list[NDArray[Any]]:
        with clock.time("extract"):
            blocks = _worker.blocks(task.outputs, len(some), device)
            status[some], statistics[:, some] = cut(
                source,
                windows.take(some),
                task.outputs,
                task.steps,
                into=blocks,
                threads=setting.threads,
                device=device,
                device_memory=setting.device_memory,
            )
        return blocks

    def write_some(some: NDArray[np.intp], blocks: list[NDArray[Any]]) -> None:
        good = status[some] == Status.OK
        with clock.time("write"):
            for writer, block in zip(stacks.writers, blocks, strict=True):
                writer.write(block if good.all() else block[good])

    every = np.arange(total)
    for some in (every[start : start + step] for start in range(0, total, step)):
        blocks = cut_some(some)
        if not late:
            _leave_out(task, status, statistics, some)
            write_some(some, blocks)
    if late:  # what is kept depends on the others: it is cut again, rather than all images held in memory
        _leave_out(task, status, statistics, every)
        kept = np.flatnonzero(status == Status.OK)
        for some in (kept[start : start + step] for start in range(0, len(kept), step)):
            write_some(some, cut_some(some))
    return status, statistics


def _measurable(status: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """The windows that could be cut, those included that the filter leaves out."""
    return np.isin(status, (Status.OK, Status.FILTERED))


def _leave_out(task: Task, status: NDArray[np.uint8], statistics: NDArray[np.float64], some: NDArray[np.intp]) -> None:
    """Note, in `status`, which of some particles the filter leaves out."""
    if task.filter is not None:
        good = some[status[some] == Status.OK]
        status[good[~kept_by(task.filter, measured(statistics[0, good]))]] = Status.FILTERED


def _clamp_warning(task: Task, statistics: NDArray[np.float64]) -> tuple[str, ...]:
    clamped = int(statistics[:, :, _COLUMN["clamped"]].sum())
    if not clamped:
        return ()
    return (f"{task.micrograph}: {clamped} pixels beyond ±65504 were clamped, the largest number that float16 holds",)


class _Stacks:
    """The stacks of a group while they are made: temporary files that get their names together, or vanish."""

    def __init__(self, group: Group, setting: Setting) -> None:
        self._setting = setting
        self._outputs = group[0].outputs if group else ()
        self._expected = sum(len(task.windows) for task in group)
        self._final = [Path(setting.folder) / output.path for output in self._outputs]
        self._temporary = [path.with_name(temporary_name(path.name, setting.part)) for path in self._final]
        self.writers: list[StackWriter] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._abort()

    def open(self) -> None:
        """Begin the files, where that was not done."""
        for output, path in zip(self._outputs[len(self.writers) :], self._temporary[len(self.writers) :], strict=True):
            self.writers.append(
                StackWriter(
                    path,
                    size=output.size,
                    dtype=np.dtype(output.dtype),
                    pixel_size=output.pixel_size,
                    expected=self._expected,
                )
            )

    def publish(self, statistics: NDArray[np.float64]) -> tuple[StackInfo, ...]:
        """Finish the stacks and give them their names. `statistics` are those of the kept particles."""
        infos = []
        for writer, output, of_size in zip(self.writers, self._outputs, statistics, strict=True):
            infos.append(finish_stack(writer, output.path, of_size, fsync=self._setting.fsync))
        if self._setting.token and read_token(self._setting.token) != self._setting.secret:
            raise OutputError(
                f"{self._final[0]}: not written, since the run that asked for it is over; another may be at work here"
            )
        for temporary, final in zip(self._temporary, self._final, strict=True):
            try:
                os.replace(temporary, final)
            except OSError as error:
                raise OutputError(f"{final}: cannot be given its name: {error.strerror}") from error
        self.writers = []
        if self._setting.fsync:
            for folder in dict.fromkeys(path.parent for path in self._final):
                sync_folder(folder)
        return tuple(infos)

    def _abort(self) -> None:
        for writer in self.writers:
            writer.abort()
        self.writers = []


def finish_stack(writer: StackWriter, path: str, statistics: NDArray[np.float64], *, fsync: bool) -> StackInfo:
    """Write a stack's header, and say what was written.

    Parameters
    ----------
    writer : StackWriter
    path : str
        What the stack will be called in the output folder.
    statistics : ndarray, shape (n, 7)
        Of its images, columns as `STATISTICS`.
    fsync : bool
    """
    mean = statistics[:, _COLUMN["mean"]]
    sd = statistics[:, _COLUMN["sd"]]
    stack_mean = float(mean.mean())
    info = {
        "minimum": float(statistics[:, _COLUMN["minimum"]].min()),
        "maximum": float(statistics[:, _COLUMN["maximum"]].max()),
        "mean": stack_mean,
        "rms": float(np.sqrt(np.mean(sd**2 + (mean - stack_mean) ** 2))),
    }
    if writer.dtype.name == "float16":  # of what is stored; rounding keeps the order
        for end in ("minimum", "maximum"):
            info[end] = float(np.float16(min(max(info[end], -LARGEST_HALF), LARGEST_HALF)))
    size = writer.finish(**info, fsync=fsync)
    return StackInfo(path=path, bytes=size, clamped=int(statistics[:, _COLUMN["clamped"]].sum()), **info)


class _Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds = {"read": 0.0, "extract": 0.0, "write": 0.0}

    def time(self, stage: str) -> _Stage:
        return _Stage(self.seconds, stage)


class _Stage:
    def __init__(self, seconds: dict[str, float], stage: str) -> None:
        self._seconds, self._stage = seconds, stage

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._seconds[self._stage] += time.perf_counter() - self._start


class _Worker(threading.local):
    """What a worker keeps from one micrograph to the next, so that no page is faulted in twice."""

    def __init__(self) -> None:
        self._readers: dict[str, PixelReader] = {}
        self._memory: dict[tuple[int, str], NDArray[np.uint8]] = {}

    def reader(self, devices: Sequence[str]) -> PixelReader:
        """The one that reads into what the devices take pixels from: any GPU takes them from memory pinned for one."""
        device = devices[0]
        if device not in self._readers:
            self._readers[device] = PixelReader() if device == CPU else PixelReader(partial(_pinned_or_not, device))
        return self._readers[device]

    def blocks(self, outputs: Sequence[Stored], count: int, device: str) -> list[NDArray[Any]]:
        """Room for `count` images of each output, in memory that is reused; a GPU writes into it directly."""
        found = []
        for index, output in enumerate(outputs):
            needed = count * output.bytes_per_image
            memory = self._memory.get((index, device))
            if memory is None or memory.nbytes < needed:
                self._memory.pop((index, device), None)
                memory = room(needed) if device == CPU else pinned(needed, device)
                self._memory[index, device] = memory
            found.append(memory[:needed].view(output.dtype).reshape(count, output.size, output.size))
        return found


def _pinned_or_not(device: str, count: int) -> NDArray[np.uint8]:
    try:
        return pinned(count, device)
    except BackendError:  # the device has failed, or pages cannot be locked: its own copy will do, or the CPU
        return np.empty(count, np.uint8)


_worker = _Worker()
