"""A particle's history: where it was picked, moved, cut and stored, or why it was left out, over several runs."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryobox.convert.texts import UID
from cryobox.errors import CryoboxError, InputError, OptionError
from cryobox.folder.run import Run, read_run
from cryobox.formats.cs_output import pick_uids
from cryobox.formats.cs_table import read_table
from cryobox.formats.references import image_references
from cryobox.inputs import Inputs, again
from cryobox.matching import stem
from cryobox.outcome import PENDING, Outcome, outcome_of
from cryobox.paths import find_file
from cryobox.plan import ACCEPTED, REASONS, Task
from cryobox.results import TaskResult

__all__ = ["Step", "as_dict", "history", "told"]

_FATES = {ACCEPTED: "extracted", PENDING: "not cut yet"}
CHANGED = " (from a micrograph that changed since)"
NEAR = 1.0  # pixels: what is written of a position may be rounded, or be the box's center


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one run made of the particle.

    Parameters
    ----------
    folder : str
    row : int
        Of the table of picks, from 1.
    uid : int, optional
    micrograph : str
    x, y : float
        The pick, in pixels of its own grid.
    alignment : str
        Whose shift moved the box; "" where none did.
    moved : (float, float), optional
        By how much (x, y), in pixels of the micrograph, before the box came to lie on whole ones.
    center : (int, int), optional
        Of the box (x, y), in pixels of the micrograph.
    box : int
    images : tuple of str
        `slot@stack` of each stored size, the slot from 1; empty where there is none.
    fate : str
        "extracted", "not cut yet", or why it was left out.
    """

    folder: str
    row: int
    uid: int | None
    micrograph: str
    x: float
    y: float
    alignment: str
    moved: tuple[float, float] | None
    center: tuple[int, int] | None
    box: int
    images: tuple[str, ...]
    fate: str


@dataclass(slots=True)
class _Known:
    """By what the particle is known so far."""

    uids: set[int] = field(default_factory=set)
    images: set[tuple[str, int]] = field(default_factory=set)
    place: tuple[str, float, float] | None = None


def history(key: str, folders: Sequence[str | os.PathLike[str]]) -> tuple[Step, ...]:
    """Find a particle in runs, in the order in which the folders are given.

    Parameters
    ----------
    key : str
        A uid, `slot@stack` as a STAR file has it (the stack's path, or its last parts), or `micrograph:x,y` in pixels
        of the pick or of the box's center.
    folders : sequence of path
        Output folders of runs. A run whose picks are another one's particles knows them by uid, or by their images.

    Raises
    ------
    OptionError
        If the key is none of these.
    InputError
        If a folder holds no run, or its inputs cannot be read any more.
    """
    known, pattern = _known_by(key)
    runs = [_Recorded(Path(folder)) for folder in folders]
    found: list[tuple[_Recorded, int]] = []
    while True:  # a later run may tell what an earlier one calls the particle
        before = (set(known.uids), set(known.images))
        found = [(run, pick) for run in runs for pick in run.picks(known, pattern)]
        for run, pick in found:
            run.learn(pick, known)
        if (known.uids, known.images) == before:
            break
    return tuple(run.step(pick) for run, pick in found)


def _known_by(key: str) -> tuple[_Known, tuple[int, str] | None]:
    if re.fullmatch(r"\d{1,20}", key):
        return _Known(uids={int(key)}), None
    if match := re.fullmatch(r"(\d{1,12})@(.+)", key):
        return _Known(), (int(match[1]) - 1, match[2].lstrip(">"))
    if match := re.fullmatch(r"(.+):([-+.\deE]+),([-+.\deE]+)", key):
        try:
            return _Known(place=(match[1], float(match[2]), float(match[3]))), None
        except ValueError:
            pass
    raise OptionError(f"{key}: expected a uid, SLOT@STACK (from 1) or MICROGRAPH:X,Y")


class _Recorded:
    """A run with its plan, made again, and what became of each pick."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._run: Run = read_run(folder.resolve())
        if not self._run.job and not self._run.parts:
            raise InputError(f"{folder}: holds neither a job.json nor a ledger; give the --out of a run")
        self._inputs: Inputs = again(self._run)
        plan = self._inputs.plan
        results, self._changed = _results(self._run, plan.tasks)
        self._outcome: Outcome = outcome_of(plan, results)
        self._task = np.full(len(self._outcome.fate), -1)
        self._task[plan.work.rows] = np.repeat(np.arange(len(plan.tasks)), np.diff(plan.work.first_row))
        self._uids = _uids_of(self._inputs, self._outcome, self._run.folder)
        self._before = _Before.of(self._inputs)

    def picks(self, known: _Known, pattern: tuple[int, str] | None) -> list[int]:
        """The picks that are the particle, ascending."""
        mask = np.zeros(len(self._outcome.fate), np.bool_)
        if known.uids and self._uids is not None:
            wanted = np.array(sorted(uid for uid in known.uids if 0 < uid < 2**64), np.uint64)
            mask |= np.isin(self._uids, wanted)
            if (source := self._inputs.particles.columns.get("source_uid")) is not None:
                mask |= np.isin(source, wanted)  # sub-particles of it
        if pattern is not None or known.images:
            self._mark_stored(mask, known, pattern)
            mask |= self._before.are(known, pattern)
        if known.place is not None:
            mask |= self._at(*known.place)
        return np.flatnonzero(mask).tolist()

    def learn(self, pick: int, known: _Known) -> None:
        """What this run calls the particle."""
        if self._uids is not None and self._uids[pick]:
            known.uids.add(int(self._uids[pick]))
        known.images.update(self._images(pick))
        known.images.update(self._before.image(pick))

    def step(self, pick: int) -> Step:
        """The run's part of the history."""
        plan, particles = self._inputs.plan, self._inputs.particles
        row, fate = int(plan.micrograph[pick]), int(self._outcome.fate[pick])
        leading, placed = plan.decided.leading, bool(plan.places.center[pick].any())
        moved = None
        if leading is not None and placed:
            y, x = (leading.shift[pick] * leading.pixel_size[pick] / plan.grounds.pixel_size[row]).tolist()
            moved = (-x, -y)
        center = plan.places.center[pick].tolist()
        return Step(
            folder=str(self.folder),
            row=int(particles.rows_of(np.array([pick]))[0]) + 1,
            uid=None if self._uids is None or not self._uids[pick] else int(self._uids[pick]),
            micrograph=self._inputs.micrographs.names[row]
            if row >= 0
            else particles.micrograph_names[particles.micrograph[pick]],
            x=float(particles.x[pick]),
            y=float(particles.y[pick]),
            alignment="" if leading is None else leading.name,
            moved=moved,
            center=(center[1], center[0]) if placed else None,
            box=int(plan.grounds.box[row]) if row >= 0 else plan.recipe.box,
            images=tuple(f"{slot + 1}@{path}" for path, slot in self._images(pick)),
            fate=f"{_FATES.get(fate) or REASONS[fate]}{CHANGED if self._task[pick] in self._changed else ''}",
        )

    def _images(self, pick: int) -> list[tuple[str, int]]:
        """Stack and slot of each stored size."""
        slot = int(self._outcome.slot[pick])
        if slot < 0 or self._task[pick] < 0:
            return []
        task = self._inputs.plan.tasks[int(self._task[pick])]
        return [(str(self._run.folder / output.path), slot) for output in task.outputs]

    def _mark_stored(self, mask: NDArray[np.bool_], known: _Known, pattern: tuple[int, str] | None) -> None:
        """The picks whose stored images are wanted."""
        work = self._inputs.plan.work
        for t, task in enumerate(work.tasks):
            rows = work.rows[work.first_row[t] : work.first_row[t + 1]]
            for output in task.outputs:
                slots = _slots(str(self._run.folder / output.path), known, pattern)
                if slots:
                    mask[rows[np.isin(self._outcome.slot[rows], slots)]] = True

    def _at(self, micrograph: str, x: float, y: float) -> NDArray[np.bool_]:
        plan, particles = self._inputs.plan, self._inputs.particles
        names = [micrograph in (name, stem(name)) for name in particles.micrograph_names]
        on_it = np.array(names, np.bool_)[particles.micrograph]
        picked = np.hypot(particles.x - x, particles.y - y) <= NEAR
        centered = np.hypot(plan.places.center[:, 1] - x, plan.places.center[:, 0] - y) <= NEAR
        found: NDArray[np.bool_] = on_it & (picked | centered)
        return found


@dataclass(frozen=True, slots=True)
class _Before:
    """The image that each pick had before, where its table names one: its stack's number, and its slot."""

    stacks: tuple[str, ...]
    code: NDArray[np.intp]
    slot: NDArray[np.int64]

    @classmethod
    def of(cls, inputs: Inputs) -> _Before:
        particles = inputs.particles
        try:
            references = image_references(particles)
        except CryoboxError:  # picks have none
            return cls((), np.empty(0, np.intp), np.empty(0, np.int64))
        number = {name: n for n, name in enumerate(dict.fromkeys(references.stack))}
        places = inputs.given.start.places(Path(inputs.given.picks_paths[0]))
        stacks = tuple(os.path.realpath(find_file(name.removeprefix(">"), places)) for name in number)
        rows = particles.rows_of(np.arange(len(particles)))
        return cls(stacks, np.array([number[name] for name in references.stack])[rows], references.slot[rows])

    def are(self, known: _Known, pattern: tuple[int, str] | None) -> NDArray[np.bool_] | bool:
        """Which of the picks had an image that is wanted."""
        if not len(self.code):
            return False
        mask = np.zeros(len(self.code), np.bool_)
        for number, path in enumerate(self.stacks):
            if slots := _slots(path, known, pattern):
                mask |= (self.code == number) & np.isin(self.slot, slots)
        return mask

    def image(self, pick: int) -> list[tuple[str, int]]:
        """That of one pick."""
        return [(self.stacks[int(self.code[pick])], int(self.slot[pick]))] if len(self.code) else []


def _slots(path: str, known: _Known, pattern: tuple[int, str] | None) -> list[int]:
    """The slots of a stack that are wanted."""
    found = [slot for stack, slot in known.images if stack == path]
    if pattern is not None and f"/{path}".endswith(f"/{pattern[1].lstrip('/')}"):
        found.append(pattern[0])
    return found


def _results(run: Run, tasks: Sequence[Task]) -> tuple[dict[str, TaskResult], set[int]]:
    """The result of each task; of one whose micrograph changed since, that of its stack. And which those are."""
    results, changed = dict(run.results), set()
    of_stack = {stack.path: result for result in run.results.values() for stack in result.stacks}
    for number, task in enumerate(tasks):
        found = of_stack.get(task.outputs[0].path)
        if task.id not in results and found is not None and found.kept + len(found.refused) == len(task.windows):
            results[task.id] = replace(found, id=task.id)
            changed.add(number)
    return results, changed


def _uids_of(inputs: Inputs, outcome: Outcome, folder: Path) -> NDArray[np.uint64] | None:
    """What CryoSPARC's tables call each pick, 0 where they do not; None where there is no such name."""
    particles, picks = inputs.particles, np.arange(len(inputs.particles))
    made: NDArray[np.uint64] | None = particles.columns.get("uid")
    if made is not None:
        return made
    if particles.family == "cs" and "uid" in (particles.table.dtype.names or ()):
        found: NDArray[np.uint64] = particles.table["uid"][particles.rows_of(picks)].astype(np.uint64)
        return found
    if particles.family == "plain" and inputs.plan.decided.native == "cs":
        return pick_uids(particles, picks)
    if particles.family == "star" and UID in particles.table.table:
        texts = particles.table.table.texts(UID)
        return np.array([_uid(text) for text in texts], np.uint64)[particles.rows_of(picks)]
    if "cs" in inputs.plan.decided.families and (folder / "particles.cs").exists():  # named when it was converted
        table, rows = read_table(folder / "particles.cs"), outcome.rows
        uids = np.zeros(len(picks), np.uint64)
        if len(table) == len(rows):
            uids[rows] = table["uid"]
        return uids
    return None


def _uid(text: str) -> int:
    number = int(text) if text.isdecimal() and len(text) <= 20 else 0
    return number if number < 2**64 else 0


def told(steps: Sequence[Step]) -> Iterator[str]:
    """The history in lines."""
    for step in steps:
        yield f"{step.folder}: {step.fate}"
        uid = f", uid {step.uid}" if step.uid is not None else ""
        yield f"  pick      row {step.row}{uid}: x {step.x:g}, y {step.y:g} on {step.micrograph}"
        if step.moved is not None:
            yield f"  moved by  x {step.moved[0]:.3f}, y {step.moved[1]:.3f} pixels ({step.alignment})"
        if step.center is not None:
            yield f"  box       {step.box} pixels about x {step.center[0]}, y {step.center[1]}"
        for image in step.images:
            yield f"  image     {image}"


def as_dict(step: Step) -> dict[str, Any]:
    """Plain JSON-ready values."""
    return asdict(step)
