"""Particles on demand, without a stack on the disk: for training loops, viewers and one-off looks."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from cryobox.boxes import as_integer
from cryobox.centering import center_of
from cryobox.core import Status, cut, filled, repair_hot_pixels
from cryobox.errors import InputError, OptionError
from cryobox.formats.images import PixelReader
from cryobox.given import Given, Picks
from cryobox.inputs import prepare
from cryobox.options import Recipe
from cryobox.plan import Task
from cryobox.windows import Windows

__all__ = ["ParticleSource"]

Images = NDArray[Any] | tuple[NDArray[Any], ...]


class ParticleSource:
    """A sequence of particle images, each cut from its micrograph when it is asked for.

    The same picks, windows and arithmetic as `cryobox.run` with the same recipe: `source[i]` is, bit for bit, the
    image that the run would store for row `source.rows[i]` of the picks. Picks that the plan refuses (edges, scores,
    ...) are not in the sequence.

    Parameters
    ----------
    picks, micrographs : path
        As for `cryobox.run`.
    recipe : Recipe
    root : path, optional
        Where relative paths in tables start.

    Attributes
    ----------
    rows : ndarray, shape (len(self),), intp
        Row in the table of picks of each particle, ascending.
    recipe : Recipe
        With style and contrast decided.

    Raises
    ------
    OptionError, InputError
        If the inputs cannot be used as asked.

    Notes
    -----
    Each thread keeps the last micrograph that it read, so asking for particles micrograph by micrograph (the order of
    most tables) reads every file once. Safe to use from many threads, and picklable: a copy in another process plans
    nothing anew.
    """

    def __init__(
        self,
        picks: Picks,
        *,
        micrographs: str | os.PathLike[str],
        recipe: Recipe,
        root: str | os.PathLike[str] | None = None,
    ) -> None:
        if recipe.measures or recipe.filter is not None:
            raise OptionError(
                "measures stand in tables, and a filter goes by them when all particles are cut: ParticleSource has "
                "neither; run with them, and give it the table of what is kept"
            )
        if recipe.noise_particles is not None:
            raise OptionError(
                "noise_particles makes stacks and tables of its own, and a ParticleSource has none; leave it out"
            )
        given = Given.of(picks, micrographs, root)
        inputs = prepare(given, recipe=recipe)
        plan = inputs.plan
        self._start = given.start
        order = np.argsort(plan.work.rows, kind="stable")
        task = np.repeat(np.arange(len(plan.tasks)), np.diff(plan.work.first_row))
        self.recipe = plan.recipe
        self.rows: NDArray[np.intp] = inputs.particles.rows_of(plan.work.rows[order])
        self._tasks = plan.tasks
        self._task: NDArray[np.intp] = task[order]
        self._window: NDArray[np.int64] = plan.work.window[order]
        self._cache = _LastMicrograph()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: SupportsIndex | slice | Sequence[SupportsIndex] | NDArray[Any]) -> Images:
        """Image number `index`, shape (size, size), or a tuple of them where the recipe stores several sizes.

        A slice, a list of indices or a mask gives what `batch` gives.

        Raises
        ------
        IndexError
        MicrographError
            If the micrograph cannot be read.
        InputError
            If the particle has pixels that are not finite, or no contrast to normalize.
        """
        one = as_integer(index)
        if one is None:
            return self.batch(index)  # type: ignore[arg-type]  # what else it may be is found out there
        if not -len(self) <= one < len(self):
            raise IndexError(f"particle {index} of {len(self)}")
        images = self.batch([one])
        return tuple(stack[0] for stack in images) if isinstance(images, tuple) else images[0]

    def __iter__(self) -> Iterator[Images]:
        return (self[index] for index in range(len(self)))

    def batch(self, indices: slice | Sequence[SupportsIndex] | NDArray[Any]) -> Images:
        """Images of `indices`, in that order: shape (n, size, size), or a tuple where the recipe stores several sizes.

        A slice and a mask, shape (len(self),), choose as they do in an array. Each micrograph is read once per batch.
        Raises what `source[index]` raises.
        """
        chosen = self._chosen(indices)
        stacks = tuple(np.empty((len(chosen), one.size, one.size), one.dtype) for one in self.recipe.outputs)
        owner = self._task[chosen]
        with self._start.telling():
            self._fill(stacks, chosen, owner)
        return stacks if len(stacks) > 1 else stacks[0]

    def _fill(self, stacks: tuple[NDArray[Any], ...], chosen: NDArray[np.intp], owner: NDArray[np.intp]) -> None:
        for t in np.unique(owner).tolist():
            places = np.flatnonzero(owner == t)
            for stack, part in zip(stacks, self._cut(self._tasks[t], self._window[chosen[places]]), strict=True):
                stack[places] = part

    def _chosen(self, indices: object) -> NDArray[np.intp]:
        if isinstance(indices, slice):
            return np.arange(len(self))[indices]
        try:
            found = np.asarray(indices)
        except ValueError:  # lists of different lengths
            found = np.empty((0, 0))
        if found.ndim == 1 and found.dtype.kind == "b":
            if len(found) != len(self):
                raise IndexError(f"a mask needs a value for each of the {len(self)} particles; got {len(found)}")
            return np.flatnonzero(found)
        mixed = not isinstance(indices, np.ndarray) and found.ndim == 1 and any(as_integer(i) is None for i in indices)  # type: ignore[attr-defined]
        if found.ndim != 1 or mixed or (found.size and found.dtype.kind not in "iu"):
            raise IndexError(f"particles are chosen by whole numbers, slices or masks; got {indices!r}")
        if found.size and (found.min() < -len(self) or found.max() >= len(self)):
            raise IndexError(f"batch takes a list of indices from 0 to {len(self) - 1}")
        return found.astype(np.intp)

    def _cut(self, task: Task, windows: NDArray[np.int64]) -> list[NDArray[Any]]:
        image, every = self._cache.read(task)
        some = every.take(windows)
        parts = [np.empty((len(some), output.size, output.size), output.dtype) for output in task.outputs]
        status, _ = cut(image, some, task.outputs, task.steps, into=parts)
        for window, found in zip(windows.tolist(), status.tolist(), strict=True):
            if found != Status.OK:
                y, x = center_of(task.windows.corner[window], task.windows.box)
                why = "pixels that are not finite" if found == Status.NOT_FINITE else "no contrast"
                raise InputError(f"{task.path}: the particle at x {x}, y {y} has {why}")
        return parts


class _LastMicrograph(threading.local):
    """The micrograph that this thread read last."""

    def __init__(self) -> None:
        self._reader = PixelReader()
        self._id = ""
        self._image: NDArray[Any] = np.empty((0, 0))
        self._windows = Windows(box=2, pad=False, corner=np.empty((0, 2), np.int64))

    def read(self, task: Task) -> tuple[NDArray[Any], Windows]:
        """The micrograph, and the windows of the task with what is known of it as a whole."""
        if self._id != task.id:
            self._id = ""
            self._image = self._reader.read(task.path, task.header, tiff_flip=task.tiff_flip)
            if task.hot_pixels is not None:
                repair_hot_pixels(self._image, task.hot_pixels, seed=task.windows.seed)
            self._windows = filled(self._image, task.windows, task.steps)
            self._id = task.id
        return self._image, self._windows

    def __reduce__(self) -> tuple[type[_LastMicrograph], tuple[()]]:
        return _LastMicrograph, ()
