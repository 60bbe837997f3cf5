"""What a report tells, as numbers: from the records of a run, the plan made again, and some images of its stacks."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryobox.engine.ledger import read_ledger
from cryobox.engine.task import TaskResult
from cryobox.errors import CryoboxError, InputError
from cryobox.inputs import Given, Inputs, prepare
from cryobox.options import Recipe
from cryobox.particles import Particles, Reason
from cryobox.plan import ACCEPTED, REASONS, Plan
from cryobox.reporting.pictures import read_images
from cryobox.tables import Outcome

__all__ = ["Facts", "MicrographRow", "Sample", "gather", "power_spectra", "reason_codes", "sample_images"]

AVERAGED = 1000  # images that are read for averages and contrasts: enough for smooth curves, a few seconds to read
SHOWN = 40  # images of a montage
SEED = 0  # the same report from the same run

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class MicrographRow:
    """One row of the table of micrographs."""

    name: str
    picks: int
    kept: int
    rejected: int
    mean: float
    sd: float
    seconds: float
    problem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Some images as stored, of one size.

    Parameters
    ----------
    rows : ndarray, shape (n,)
        Rows of the picks.
    images : ndarray, shape (n, size, size), float32
    pixel_size : float
        Å per pixel; nan where micrographs differ.
    """

    rows: NDArray[np.intp]
    images: NDArray[np.float32]
    pixel_size: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """A run, read back.

    Parameters
    ----------
    folder : Path
    record : mapping
        `job.json`; empty while the run goes on, or when it was interrupted.
    given : Given
    inputs : Inputs
    results : dict of str to TaskResult
        Of the plan's tasks, as far as they are done.
    code : ndarray, shape (picks,), int16
        What became of every pick: -1 extracted, an index into `REASONS`, or `PENDING`.
    rows : list of MicrographRow
    problems : list of str
        What could not be found out, for the reader.
    """

    folder: Path
    record: Mapping[str, Any]
    head: Mapping[str, Any]
    given: Given
    inputs: Inputs
    results: dict[str, TaskResult]
    code: NDArray[np.int16]
    rows: list[MicrographRow]
    problems: list[str] = field(default_factory=list)

    @property
    def plan(self) -> Plan:
        """The plan."""
        return self.inputs.plan

    @property
    def particles(self) -> Particles:
        """The picks."""
        return self.inputs.particles

    @property
    def complete(self) -> bool:
        """Whether the run has come to its end."""
        return bool(self.record.get("complete"))

    def counts(self) -> dict[str, int]:
        """Picks by what became of them, most first; extracted ones left out."""
        texts = [*map(str, REASONS), "not cut yet"]
        numbers = np.bincount(self.code[self.code >= 0], minlength=len(texts))
        found = {text: int(n) for text, n in zip(texts, numbers, strict=True) if n}
        return dict(sorted(found.items(), key=lambda item: -item[1]))


PENDING = len(REASONS)


def gather(folder: Path) -> Facts:
    """Read the records of a run and make its plan again, from the working directory that it had.

    Raises
    ------
    InputError
        If the folder holds no run, or its inputs are no longer there.
    """
    record = _job_record(folder)
    head, finished = _ledgers(folder)
    if not record and not head:
        raise InputError(f"{folder}: holds neither a job.json nor a ledger; give the --out of a run")
    inputs_record = record.get("inputs") or (head.get("run") or {}).get("inputs")
    if not isinstance(inputs_record, Mapping):
        raise InputError(f"{folder}: its records do not name the inputs; was it made by another version?")
    given = Given.from_dict(inputs_record)
    recipe = Recipe.from_dict(record.get("recipe") or head.get("recipe"), str(folder))
    if not Path(given.directory).is_dir():
        raise InputError(f"{folder}: was made in {given.directory}, which is not there any more")
    with contextlib.chdir(given.directory):
        inputs = prepare(
            given.picks,
            micrographs=given.micrographs,
            recipe=recipe,
            root=None if given.root is None else Path(given.root),
        )
    results = {task.id: finished[task.id] for task in inputs.plan.tasks if task.id in finished}
    problems = []
    if record.get("complete") and len(results) < len(inputs.plan.tasks):
        missing = len(inputs.plan.tasks) - len(results)
        problems.append(
            f"The inputs have changed since the run: of {missing} of {len(inputs.plan.tasks)} micrographs nothing is "
            f"recorded as they are now. Numbers and pictures below leave them out."
        )
    code = reason_codes(inputs.plan, results)
    return Facts(
        folder=folder,
        record=record,
        head=head,
        given=given,
        inputs=inputs,
        results=results,
        code=code,
        rows=_micrograph_rows(inputs, results, code),
        problems=problems,
    )


def _job_record(folder: Path) -> dict[str, Any]:
    try:
        record = json.loads((folder / "job.json").read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InputError(f"{folder / 'job.json'}: cannot be read: {error}") from error
    return record if isinstance(record, dict) else {}


def _ledgers(folder: Path) -> tuple[dict[str, Any], dict[str, TaskResult]]:
    """The head of the ledger, or of the first shard's, and what all of them say is finished."""
    head: dict[str, Any] = {}
    finished: dict[str, TaskResult] = {}
    for path in sorted(folder.glob("ledger*.jsonl")):
        one, results = read_ledger(path)
        head = head or one
        finished |= results
    return head, finished


def reason_codes(plan: Plan, results: Mapping[str, TaskResult]) -> NDArray[np.int16]:
    """What became of every pick; those of tasks without a result are pending."""
    whole = dict(results)
    pending = [task for task in plan.tasks if task.id not in whole]
    whole |= {task.id: TaskResult(id=task.id) for task in pending}
    outcome = Outcome(plan, whole)
    code = np.full(len(plan.reason), ACCEPTED, np.int16)
    index = {str(reason): number for number, reason in enumerate(REASONS)}
    code[outcome.rejected] = [index[text] for text in outcome.reasons]
    waiting = {task.id for task in pending}
    for number, task in enumerate(plan.tasks):
        if task.id in waiting:
            code[plan.rows[plan.first_row[number] : plan.first_row[number + 1]]] = PENDING
    return code


def _micrograph_rows(inputs: Inputs, results: Mapping[str, TaskResult], code: NDArray[np.int16]) -> list[MicrographRow]:
    plan, names = inputs.plan, inputs.micrographs.names
    total = len(names)
    known = plan.micrograph >= 0
    picks = np.bincount(plan.micrograph[known], minlength=total)
    kept = np.bincount(plan.micrograph[known & (code == ACCEPTED)], minlength=total)
    refused = np.bincount(plan.micrograph[known & (code >= 0) & (code != PENDING)], minlength=total)
    by_row = {int(m): results.get(task.id) for m, task in zip(plan.task_micrograph, plan.tasks, strict=True)}
    found = []
    for row in sorted({*np.flatnonzero(picks).tolist(), *plan.incomplete}):
        result = by_row.get(row)
        problem = plan.incomplete.get(row, "")
        if row in by_row:
            problem = problem or ("not cut yet" if result is None else result.error)
        seconds = result.read_seconds + result.extract_seconds + result.write_seconds if result else float("nan")
        found.append(
            MicrographRow(
                name=names[row],
                picks=int(picks[row]),
                kept=int(kept[row]),
                rejected=int(refused[row]),
                mean=result.background_mean if result else float("nan"),
                sd=result.background_sd if result else float("nan"),
                seconds=seconds,
                problem=problem,
            )
        )
    return found


def sample_images(facts: Facts, rows: NDArray[np.intp], size_index: int) -> Sample:
    """Read the stored images of some extracted picks; stacks that cannot be read leave theirs out."""
    plan = facts.plan
    slot = _slots(facts)
    task_of = np.full(len(facts.inputs.micrographs), -1, np.intp)
    task_of[plan.task_micrograph] = np.arange(len(plan.tasks))
    wanted = np.sort(rows)
    tasks = task_of[plan.micrograph[wanted]]
    found_rows, images, sizes = [], [], set()
    for number in np.unique(tasks).tolist():
        output = plan.tasks[number].outputs[size_index]
        mine = wanted[tasks == number]
        order = np.argsort(slot[mine], kind="stable")
        try:
            images.append(read_images(facts.folder / output.path, slot[mine[order]].astype(np.intp)))
        except (CryoboxError, OSError) as error:
            facts.problems.append(f"{output.path}: {error}")
            continue
        found_rows.append(mine[order])
        sizes.add(round(output.pixel_size, 6))
    side = plan.recipe.sizes[size_index]
    if not images:
        return Sample(rows=np.zeros(0, np.intp), images=np.zeros((0, side, side), np.float32), pixel_size=float("nan"))
    return Sample(
        rows=np.concatenate(found_rows),
        images=np.concatenate(images),
        pixel_size=sizes.pop() if len(sizes) == 1 else float("nan"),
    )


def _slots(facts: Facts) -> NDArray[np.int64]:
    """Index in its stack of every extracted pick."""
    done = {task.id: facts.results.get(task.id, TaskResult(id=task.id)) for task in facts.plan.tasks}
    outcome = Outcome(facts.plan, done)
    slot = np.full(len(facts.code), -1, np.int64)
    slot[outcome.rows] = outcome.slot
    return slot


def power_spectra(images: NDArray[np.float32]) -> tuple[Floats, Floats]:
    """Radial means of the images' power spectra, and of that of their average; index k is k/size cycles per pixel."""
    size = images.shape[-1]
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :]) * size
    ring = np.rint(frequency).astype(np.intp)
    rings = size // 2 + 1
    inside = ring < rings
    count = np.bincount(ring[inside], minlength=rings)

    def radial(power: Floats) -> Floats:
        found: Floats = np.bincount(ring[inside], weights=power[inside], minlength=rings) / count
        return found

    mean = np.zeros(frequency.shape)
    for start in range(0, len(images), 64):
        mean += (np.abs(np.fft.rfft2(images[start : start + 64].astype(np.float64))) ** 2).sum(axis=0)
    average = np.abs(np.fft.rfft2(images.mean(axis=0, dtype=np.float64))) ** 2
    return radial(mean / len(images)) / size**2, radial(average) / size**2


EDGE_REASONS = tuple(REASONS.index(reason) for reason in (Reason.EDGE, Reason.OUTSIDE))
