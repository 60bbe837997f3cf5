"""Which device a worker cuts on: GPUs in turn, and what happens when one fails in mid-run."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from cryobox.core import cut
from cryobox.engine.local import available_cores
from cryobox.errors import BackendError, CryoboxError, OptionError
from cryobox.gpu import most_callers, survey
from cryobox.options import Recipe, RunOptions
from cryobox.windows import Stored, Windows

__all__ = ["CPU", "check_on_gpus", "memory_of_a_worker", "on_a_device", "ready_devices", "warm_up"]

CPU = "cpu"

Result = TypeVar("Result")


class _Turns:
    """Numbers for workers, which decide their devices. They begin anew with each run."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        self._numbers = itertools.count()
        self._mine = threading.local()

    @property
    def mine(self) -> int:
        if not hasattr(self._mine, "number"):
            self._mine.number = next(self._numbers)
        number: int = self._mine.number
        return number


_turns = _Turns()
_failed: dict[str, str] = {}  # devices that this process does not use any more, with the reason
_starting: list[threading.Thread] = []
_lock = threading.Lock()


def ready_devices(options: RunOptions, engine: object) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Before a run: the devices that its workers cut on, and warnings about GPUs that were asked for in vain.

    Raises
    ------
    OptionError
        If the workers are other processes: which GPUs those see, only their hosts know.
    BackendError
        If a GPU cannot be used and there is to be no fallback; the message says why and what there is.
    """
    wanted = options.gpus
    if not wanted:
        return (CPU,), ()
    if engine is not None and not isinstance(engine, ThreadPoolExecutor):
        raise OptionError("--gpus is for workers that are threads of this process; it does not go with other executors")
    with _lock:
        starting = _starting[:]
        _starting.clear()
    for thread in starting:
        thread.join()
    devices, about = survey(wanted)  # the others are not touched: they may be somebody else's
    usable = [device.name for device in devices if not device.problem]
    problems = {device.name: device.problem for device in devices if device.problem}
    with _lock:
        for name in wanted:  # what failed in an earlier run may work again
            _failed.pop(name, None)
    _turns.begin()
    left = tuple(name for name in wanted if name in usable)
    missing = [name for name in wanted if name not in usable]
    if not missing:
        return left, ()
    why = problems.get(missing[0]) or (f"this host has {', '.join(usable)}" if usable else about)
    said = f"{missing[0]} cannot be used: {why}"
    if not options.gpu_fallback:
        raise BackendError(f"{said} (cryobox info --devices says more; --gpu-fallback goes on without it)")
    return left or (CPU,), (f"{said}; {', '.join(left) or 'the CPU'} did its work",)


def check_on_gpus(options: RunOptions, recipe: Recipe) -> None:
    """Raise `OptionError` where GPUs are asked for, and a step that their core lacks."""
    if options.gpus and recipe.not_on_gpus:
        raise OptionError(f"{', '.join(recipe.not_on_gpus)}: the core for GPUs has no such step; leave out --gpus")


def warm_up(options: RunOptions, recipe: Recipe) -> None:
    """Let the GPUs that were asked for start while a run is planned: contexts and transforms take them 0.8 s.

    `ready_devices` waits for them, and says where one cannot be used.
    """
    for device in options.gpus:
        thread = threading.Thread(target=_cut_once, args=(device, options, recipe), name=f"start of {device}")
        thread.start()
        with _lock:
            _starting.append(thread)


def _cut_once(device: str, options: RunOptions, recipe: Recipe) -> None:
    """Cut one window with everything that the run's windows need."""
    image = np.zeros((recipe.box, recipe.box), np.uint8)
    outputs = [Stored(size=size, dtype=recipe.dtype, background_radius=0.0) for size in recipe.sizes]
    steps = dataclasses.replace(recipe.steps(), normalize=False)
    with contextlib.suppress(CryoboxError):
        cut(
            image,
            Windows(box=recipe.box, pad=False, corner=np.zeros((1, 2), np.int64)),
            outputs,
            steps,
            into=[np.empty((1, output.size, output.size), output.dtype) for output in outputs],
            device=device,
            device_memory=memory_of_a_worker(options, options.gpus),
        )


def memory_of_a_worker(options: RunOptions, devices: Sequence[str]) -> int:
    """Bytes of its GPU for each worker that is at work there, where the user set a limit for all; else 0."""
    if options.gpu_memory is None or CPU in devices:
        return 0
    workers = options.workers or available_cores()
    return max(1, options.gpu_memory // min(math.ceil(workers / len(devices)), most_callers()))


def on_a_device(
    devices: Sequence[str], *, fallback: bool, work: Callable[[str], Result]
) -> tuple[Result, tuple[str, ...]]:
    """Call `work(device)` with this worker's device; where that fails, with another, at last with the CPU.

    `work` must leave nothing behind when it raises `BackendError`. Returns its result, and warnings for the summary.

    Parameters
    ----------
    devices : sequence of str
        Handed to the workers in turn.
    fallback : bool
        Whether the CPU takes over when all of them have failed.

    Raises
    ------
    BackendError
        If none is left.
    """
    while True:
        with _lock:
            left = [name for name in devices if name not in _failed]
            lost = {name: _failed[name] for name in devices if name in _failed}
        reasons = tuple(f"{name} failed and was not used any more: {why}" for name, why in lost.items())
        if not left and not fallback:
            raise BackendError(f"{'; '.join(reasons)} (--gpu-fallback lets the CPU go on)")
        device = left[_turns.mine % len(left)] if left else CPU
        try:
            result = work(device)
        except BackendError as error:
            if device == CPU:
                raise
            with _lock:
                _failed.setdefault(device, str(error))
            continue
        return result, reasons if left else (*reasons, "all GPUs failed: the CPU did what was left")
