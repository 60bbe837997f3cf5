"""Images of a run against `cryobox.reference`: those that were stored, and windows that were refused, cut again."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryobox import reference
from cryobox.centering import center_of, corner_of
from cryobox.errors import CryoboxError, InputError
from cryobox.formats.images import PixelReader
from cryobox.formats.mrc import read_stack_header
from cryobox.measuring import of_windows
from cryobox.outcome import Outcome
from cryobox.particles import Reason
from cryobox.plan import Output, Plan, Task
from cryobox.results import TaskResult
from cryobox.verification.findings import Problems
from cryobox.verification.measures import measure_faults
from cryobox.verification.stacks import LARGEST_HALF
from cryobox.verification.tables import Rows
from cryobox.windows import Windows

__all__ = ["TOLERANCE", "Images", "Sample"]

# How far a stored float32 pixel may be from float64, as a part of the image's largest value (the oracle tests hold
# the core to the same). A float16 pixel may be off by half a step besides.
TOLERANCE = 2e-6
HALF_STEP = 2.0**-11  # of the value
SMALLEST_HALF = 2.0**-25  # half the smallest float16 above zero


class Sample:
    """Draws what is looked at: `size` of many, always the same for one `seed`; all where `everything` is asked for."""

    def __init__(self, size: int, seed: int, *, everything: bool) -> None:
        self._size, self._seed, self.everything = size, seed, everything

    def of(self, many: NDArray[np.intp]) -> NDArray[np.intp]:
        """The chosen ones, in their order."""
        if self.everything or len(many) <= self._size:
            return many
        return np.sort(np.random.default_rng(self._seed).choice(many, self._size, replace=False))


class Images:
    """Cuts windows again and compares.

    Attributes
    ----------
    compared, refused : int
        Images compared; refused windows cut again.
    worst : float
        The largest difference, as a part of what is allowed.
    stacks : set of (str, int)
        Id of the task and number of the size of each stack that an image was compared of.
    """

    def __init__(
        self,
        out: Path,
        plan: Plan,
        outcome: Outcome,
        sample: Sample,
        removed: Collection[str],
        problems: Problems,
    ) -> None:
        self._out, self._plan, self._outcome, self._removed = out, plan, outcome, removed
        self._sample, self._problems = sample, problems
        self._reader = PixelReader()
        self.compared = self.refused = 0
        self.worst = 0.0
        self.stacks: set[tuple[str, int]] = set()

    def compare(self, rows: Rows) -> None:
        """Recompute the images of some rows of a table."""
        task_of = {int(row): task for row, task in zip(self._plan.work.task_micrograph, self._plan.tasks, strict=True)}
        gone = [row for row, task in task_of.items() if task.outputs[rows.index].path in self._removed]
        there = ~np.isin(self._plan.micrograph[self._outcome.rows], gone)
        chosen = self._sample.of(np.flatnonzero(rows.good & there))
        owner = self._plan.micrograph[self._outcome.rows[chosen]]
        center = rows.center
        for at in np.unique(owner).tolist():
            task = task_of[at]
            image = self._pixels(task)
            if image is None:
                continue
            self.stacks.add((task.id, rows.index))
            for row in chosen[owner == at].tolist():
                self._compare_one(rows, row, center[row], image, task)

    def _compare_one(self, rows: Rows, row: int, center: NDArray[np.int64], image: NDArray[Any], task: Task) -> None:
        output, slot = task.outputs[rows.index], int(rows.slot[row])
        stack = self._out / output.path
        what = f"{stack}: image {slot + 1} ({rows.path.name} row {row + 1})"
        try:
            stored = _stored_image(stack, slot, output.size)
        except (CryoboxError, OSError) as error:
            self._problems.add(f"{what}: {error}", f"{rows.path}: images")
            return
        window = self._window_of(row, center, task)
        expected, word = _cut(image, window, task, [output])
        self.compared += 1
        kind = f"{rows.path}: images"
        if word != reference.OK:
            self.worst = np.inf
            self._problems.add(f"{what} should have been refused: {word}", kind)
            return
        excess = _excess(stored, expected[0])
        self.worst = max(self.worst, excess) if np.isfinite(excess) else np.inf
        if not excess <= 1.0:
            self._problems.add(
                f"{what} is not the particle at x {center[1]}, y {center[0]} of {task.micrograph}: differs by "
                f"{excess:.3g} times what is allowed",
                kind,
            )
        if rows.index == 0 and self._outcome.measures is not None:
            told, gray = self._outcome.measures[self._outcome.rows[row]], _gray(image, window, task)
            for fault in measure_faults(told, expected[0], gray, image, window, task):
                self._problems.add(f"{what}: {fault}", f"{rows.path}: measures")

    def _window_of(self, row: int, center: NDArray[np.int64], task: Task) -> Windows:
        """The window of a row: where its table says, with what the plan says of it beside its place."""
        pick = self._outcome.rows[row]
        columns = {name: values[pick][None] for name, values in self._plan.places.columns.items()}
        corner = corner_of(center, task.windows.box)[None]
        if self._plan.places.exact is not None:  # halves of a pixel may go either way
            corner = self._plan.places.corner[pick][None]
        return replace(task.windows, corner=corner, **columns)

    def check_refused(self, results: Mapping[str, TaskResult]) -> None:
        """Cut windows again that were refused for their pixels: the reference must refuse them for the same reason."""
        windows = [
            (task, index, why) for task in self._plan.tasks for index, why in results[task.id].refused
        ]  # fmt: skip
        chosen = [windows[i] for i in self._sample.of(np.arange(len(windows)))]
        for task, some in _by_task(chosen):
            image, told = self._pixels(task), of_windows(results[task.id], len(task.windows))
            if image is None:
                continue
            for index, why in some:
                y, x = center_of(task.windows.corner[index], task.windows.box)
                window = task.windows.take([index])
                made, word = _cut(image, window, task, task.outputs)
                self.refused += 1
                if word == reference.OK and why == Reason.FILTER:  # its measures decided
                    for fault in measure_faults(told[index], made[0], _gray(image, window, task), image, window, task):
                        self._problems.add(
                            f"{task.path}: of the window about x {x}, y {y}, which the filter left out: {fault}",
                            f"{self._out}: measures of what is left out",
                        )
                elif word != why:
                    found = "would have been cut" if word == reference.OK else f"is refused for: {word}"
                    self._problems.add(
                        f"{task.path}: the window about x {x}, y {y} was refused for: {why}; cut again it {found}",
                        f"{self._out}: refused windows",
                    )

    def _pixels(self, task: Task) -> NDArray[Any] | None:
        try:
            image = self._reader.read(task.path, task.header, tiff_flip=task.tiff_flip)
        except CryoboxError as error:
            self._problems.add(str(error))
            return None
        if task.hot_pixels is None:
            return image
        return reference.repair_hot_pixels(image, task.hot_pixels, task.windows.seed)[0]


def _by_task(windows: Iterable[tuple[Task, int, str]]) -> Iterator[tuple[Task, list[tuple[int, str]]]]:
    groups: dict[str, tuple[Task, list[tuple[int, str]]]] = {}
    for task, index, why in windows:
        groups.setdefault(task.id, (task, []))[1].append((index, why))
    yield from groups.values()


def _cut(
    image: NDArray[Any] | None, window: Windows, task: Task, outputs: Iterable[Output]
) -> tuple[list[NDArray[np.float64]], str]:
    """One window in float64 at the sizes of `outputs`, and what the reference says of it."""
    outputs = list(outputs)
    assert image is not None
    stacks, words = reference.extract(
        image,
        window.corner,
        box=window.box,
        sizes=[output.size for output in outputs],
        radii=[output.background_radius for output in outputs],
        edges="pad" if window.pad else "reject",
        angles=None if window.angle is None else window.angle.tolist(),
        neighbors=[] if window.neighbors is None else window.neighbors.tolist(),
        keys=[reference.noise_key(window.seed, (y, x)) for y, x in window.corner.tolist()],
        residual=window.residual,
        pixel_size=window.pixel_size,
        ctfs=window.ctf,
        **asdict(task.steps),
    )
    return [stack[0] for stack in stacks], words[0]


def _gray(image: NDArray[Any], window: Windows, task: Task) -> NDArray[np.float64]:
    """One window at the first size in gray levels, before anything is replaced or normalized."""
    steps = replace(task.steps, normalize=False, invert=False, white_dust=None, black_dust=None)
    return _cut(image, window, replace(task, steps=steps), task.outputs[:1])[0][0]


def _stored_image(stack: Path, slot: int, size: int) -> NDArray[Any]:
    (count, side, _), dtype, offset, _ = read_stack_header(str(stack))
    if side != size or not 0 <= slot < count:
        raise InputError(f"the stack holds {count} images of {side} pixels")
    pixels = size * size
    image = np.fromfile(stack, dtype=dtype, count=pixels, offset=offset + slot * pixels * dtype.itemsize)
    return image.reshape(size, size)


def _excess(stored: NDArray[Any], expected: NDArray[np.float64]) -> float:
    """The largest difference, as a part of what is allowed."""
    if not np.isfinite(stored).all():
        return np.inf
    allowed = TOLERANCE * float(np.abs(expected).max()) + float(np.finfo(np.float32).smallest_subnormal)
    wanted = expected
    limit = np.full(expected.shape, allowed)
    if stored.dtype.itemsize == 2:
        wanted = np.clip(expected, -LARGEST_HALF, LARGEST_HALF)
        limit = limit + np.abs(wanted) * HALF_STEP + SMALLEST_HALF
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = np.abs(stored.astype(np.float64) - wanted) / limit
    return float(np.nan_to_num(parts, nan=0.0, posinf=np.inf).max())
