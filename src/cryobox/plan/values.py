"""What is decided before a pixel is read, as values: tasks, places of boxes, the plan."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryobox.decided import Decided
from cryobox.folder.layout import noise_name
from cryobox.grounds import Grounds
from cryobox.groups import StoredSize
from cryobox.micrograph import ImageHeader
from cryobox.options import Recipe, Steps
from cryobox.particles import Alignment, Particles, Reason
from cryobox.windows import Stored, Windows

__all__ = [
    "ACCEPTED",
    "REASONS",
    "Group",
    "Noise",
    "Output",
    "Places",
    "Plan",
    "Task",
    "Work",
    "bytes_of",
    "groups_of",
]

REASONS: tuple[Reason, ...] = tuple(Reason)
ACCEPTED = -1  # in `Plan.reason`; other values are indices into REASONS


@dataclass(frozen=True, slots=True, kw_only=True)
class Output(Stored):
    """One stack that a task writes.

    Parameters
    ----------
    name : str
        Of the size, as in `StoredSize`.
    path : str
        Relative to the output folder.
    pixel_size : float
        Å.
    size, dtype, background_radius
        As in `Stored`.
    """

    name: str
    path: str
    pixel_size: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One micrograph to be cut: everything that a worker needs, as data.

    Parameters
    ----------
    id : str
        Hash of what decides the pixels: the micrograph's identity (path, size, change time), the windows, the outputs
        and the steps.
    micrograph : str
        Name, as the table writes it.
    path : str
    header : ImageHeader
    tiff_flip : bool
        Whether its rows are reversed where it is a TIFF file.
    windows : Windows
    outputs : tuple of Output
        Largest first.
    steps : Steps
    hot_pixels : float, optional
        As in `Recipe`: a repair of the micrograph before it is cut.
    filter : str, optional
        As in `Recipe`: which particles are kept, by their measures.
    noise : Task, optional
        Boxes of noise of the same micrograph, which are cut while it is there, into stacks of their own.
    """

    id: str
    micrograph: str
    path: str
    header: ImageHeader
    tiff_flip: bool
    windows: Windows
    outputs: tuple[Output, ...]
    steps: Steps
    hot_pixels: float | None = None
    filter: str | None = None
    noise: Task | None = None

    @property
    def parts(self) -> tuple[Task, ...]:
        """Itself, and its noise."""
        return (self,) if self.noise is None else (self, self.noise)

    @property
    def every_output(self) -> tuple[Output, ...]:
        """All stacks that are written of the micrograph."""
        return tuple(output for part in self.parts for output in part.outputs)

    @property
    def rows_to_read(self) -> tuple[int, int] | None:
        """Rows of the micrograph that are needed, first and one past the last; None: all, as it is repaired."""
        if self.hot_pixels is not None:
            return None
        first, last = zip(*(part.windows.rows_needed(self.header.shape[0]) for part in self.parts), strict=True)
        return min(first), max(last)

    @property
    def stack(self) -> str:
        """What is written of it first, and of the others that share its stacks."""
        return self.outputs[0].path

    @property
    def bytes_to_read(self) -> int:
        """Bytes of the micrograph's file."""
        return self.header.file_size


Group = tuple[Task, ...]
"""Tasks that share their stacks, in the order of the images there: one task, unless stacks are merged."""


def groups_of(tasks: Iterable[Task]) -> list[Group]:
    """Tasks of a plan, in its order, by their stacks."""
    return [tuple(some) for _, some in itertools.groupby(tasks, key=lambda task: task.stack)]


def bytes_of(group: Group, index: int) -> int:
    """Bytes of the stack of output number `index` if no particle is refused for its pixels."""
    return 1024 + sum(len(task.windows) for task in group) * group[0].outputs[index].bytes_per_image


def bytes_of_stacks(tasks: Iterable[Task]) -> int:
    """Bytes of all stacks of some tasks, those of noise included."""
    tasks = list(tasks)
    groups = [*groups_of(tasks), *groups_of([task.noise for task in tasks if task.noise is not None])]
    return sum(bytes_of(group, index) for group in groups for index in range(len(group[0].outputs)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where every pick's box lies: columns, one entry a pick; those without a place hold zeros.

    Parameters
    ----------
    reason : ndarray, shape (picks,), int8
        -1: accepted, else an index into `REASONS`.
    center, corner : ndarray, shape (picks, 2), int64
        (y, x) of the box's center, and of its first pixel.
    moved, alignments
        As in `Extracted`, for all picks.
    exact : ndarray, shape (picks, 2), float64, optional
        The particle's own center, fraction included, where images are moved by what the box's center leaves.
    columns : mapping of str to ndarray, shape (picks, ...), float64
        What a window of each pick needs beside its place, by the names of `Windows`; empty where nothing is needed.
    warnings : tuple of str
    centers : ndarray, shape (picks, 2), float64, optional
        (y, x) in the micrograph of every pick, whatever becomes of it; nan where it has no place. For backgrounds.
    """

    reason: NDArray[np.int8]
    center: NDArray[np.int64]
    corner: NDArray[np.int64]
    moved: NDArray[np.bool_]
    alignments: tuple[Alignment, ...]
    exact: NDArray[np.float64] | None = None
    columns: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    centers: NDArray[np.float64] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """The accepted picks as tasks.

    Parameters
    ----------
    rows : ndarray, intp
        The accepted picks, grouped by task, in the order of the input within each.
    window : ndarray, int64
        For each of `rows` the window of its task that holds it (copies of one particle may share one).
    first_row : ndarray, shape (tasks + 1,), intp
        `rows[first_row[t]:first_row[t + 1]]` belong to task t.
    task_micrograph : ndarray, shape (tasks,), intp
    tasks : tuple of Task
    """

    rows: NDArray[np.intp]
    window: NDArray[np.int64]
    first_row: NDArray[np.intp]
    task_micrograph: NDArray[np.intp]
    tasks: tuple[Task, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What will be done with every pick.

    Parameters
    ----------
    decided : Decided
    grounds : Grounds
    micrograph : ndarray, shape (picks,), intp
        Index into the micrographs' table; -1: none.
    places : Places
    columns : mapping of str to ndarray
        `Particles.columns` of the picks as they were planned: what stands there of them, and what the plan adds.
    work : Work
    warnings, notes : tuple of str
        Notes are decisions worth telling only to those who ask (`-v`).
    noise : Noise, optional
        Boxes of noise that are cut with the picks, where the recipe asks for them.
    of_noise : bool
        Whether this is the plan of such boxes.
    """

    decided: Decided
    grounds: Grounds
    micrograph: NDArray[np.intp]
    places: Places
    columns: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    work: Work
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    noise: Noise | None = None
    of_noise: bool = False

    @property
    def outputs(self) -> tuple[StoredSize, ...]:
        """The stored sizes, with the names that their stacks and tables have."""
        asked = self.recipe.outputs
        return tuple(replace(one, name=noise_name(one.name)) for one in asked) if self.of_noise else asked

    @property
    def output_names(self) -> list[str]:
        """The names of all outputs, those of noise boxes included."""
        return [one.name for one in self.outputs] + ([] if self.noise is None else self.noise.plan.output_names)

    @property
    def recipe(self) -> Recipe:
        """The recipe, with style and contrast decided."""
        return self.decided.recipe

    @property
    def tasks(self) -> tuple[Task, ...]:
        """One for each micrograph that has windows to cut."""
        return self.work.tasks

    def counts(self) -> dict[str, int]:
        """How many picks are rejected before a pixel is read, by reason."""
        refused = self.places.reason[self.places.reason >= 0]
        numbers = np.bincount(refused, minlength=len(REASONS))
        return {str(reason): int(n) for reason, n in zip(REASONS, numbers, strict=True) if n}


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """Boxes of noise, as picks of their own: what is written of them is written as of picks.

    Parameters
    ----------
    particles : Particles
    plan : Plan
        Its tasks are the `noise` of those of the picks' plan.
    centers : tuple of ndarray, shape (n, 2), int64
        Of each task of the picks' plan: (y, x) of all picks of its micrograph, from which its boxes keep away.
    masks : mapping of int to str
        The junk masks of micrographs, by their rows.
    without_ctf : frozenset of int
        Rows of micrographs that have none, since a CTF was to be applied and theirs is no number.
    """

    particles: Particles
    plan: Plan
    centers: tuple[NDArray[np.int64], ...]
    masks: Mapping[int, str] = field(default_factory=dict)
    without_ctf: frozenset[int] = frozenset()
