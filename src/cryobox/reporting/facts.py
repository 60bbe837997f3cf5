"""What a report tells, as numbers: from the records of a run, the plan made again, and some images of its stacks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryobox.errors import CryoboxError, InputError
from cryobox.folder.run import Run, read_run
from cryobox.formats.mrc import read_images
from cryobox.inputs import Inputs, again
from cryobox.outcome import PENDING, Outcome, outcome_of
from cryobox.particles import Particles, Reason
from cryobox.plan import ACCEPTED, REASONS, Plan
from cryobox.results import TaskResult

__all__ = ["Facts", "MicrographRow", "Sample", "gather", "power_spectra", "sample_images"]

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
    hot: int
    dust: int
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
    run : Run
    inputs : Inputs
    results : dict of str to TaskResult
        Of the plan's tasks, as far as they are done.
    outcome : Outcome
    rows : list of MicrographRow
    problems : list of str
        What could not be found out, for the reader.
    """

    run: Run
    inputs: Inputs
    results: dict[str, TaskResult]
    outcome: Outcome
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

    def counts(self) -> dict[str, int]:
        """Picks by what became of them, most first; extracted ones left out."""
        texts = [*map(str, REASONS), "not cut yet"]
        numbers = np.bincount(self.outcome.fate[self.outcome.fate >= 0], minlength=len(texts))
        found = {text: int(n) for text, n in zip(texts, numbers, strict=True) if n}
        return dict(sorted(found.items(), key=lambda item: -item[1]))


def gather(folder: Path) -> Facts:
    """Read the records of a run and make its plan again.

    Raises
    ------
    InputError
        If the folder holds no run, or its inputs are no longer there.
    """
    run = read_run(folder)
    if not run.job and not run.parts:
        raise InputError(f"{folder}: holds neither a job.json nor a ledger; give the --out of a run")
    inputs, recorded = again(run), run.results
    results = {task.id: recorded[task.id] for task in inputs.plan.tasks if task.id in recorded}
    problems = []
    if run.complete and len(results) < len(inputs.plan.tasks):
        missing = len(inputs.plan.tasks) - len(results)
        problems.append(
            f"The inputs have changed since the run: of {missing} of {len(inputs.plan.tasks)} micrographs nothing is "
            f"recorded as they are now. Numbers and pictures below leave them out."
        )
    if removed := [path for path in run.removed if not (folder / path).exists()]:
        problems.append(f"{len(removed)} stacks were removed by cryobox compact; cryobox restore cuts them again.")
    outcome = outcome_of(inputs.plan, results)
    rows = _micrograph_rows(inputs, results, outcome)
    return Facts(run=run, inputs=inputs, results=results, outcome=outcome, rows=rows, problems=problems)


def _micrograph_rows(inputs: Inputs, results: Mapping[str, TaskResult], outcome: Outcome) -> list[MicrographRow]:
    plan, names, fate = inputs.plan, inputs.micrographs.names, outcome.fate
    total = len(names)
    known = plan.micrograph >= 0
    picks = np.bincount(plan.micrograph[known], minlength=total)
    kept = np.bincount(plan.micrograph[known & (fate == ACCEPTED)], minlength=total)
    refused = np.bincount(plan.micrograph[known & (fate >= 0) & (fate != PENDING)], minlength=total)
    by_row = {int(m): results.get(task.id) for m, task in zip(plan.work.task_micrograph, plan.tasks, strict=True)}
    found = []
    for row in sorted({*np.flatnonzero(picks).tolist(), *plan.grounds.incomplete}):
        result = by_row.get(row)
        problem = plan.grounds.incomplete.get(row, "")
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
                hot=result.counts.get("hot_pixels", 0) if result else 0,
                dust=result.counts.get("dust", 0) if result else 0,
                seconds=seconds,
                problem=problem,
            )
        )
    return found


def sample_images(facts: Facts, rows: NDArray[np.intp], size_index: int) -> Sample:
    """Read the stored images of some extracted picks; stacks that cannot be read leave theirs out."""
    plan = facts.plan
    slot = facts.outcome.slot
    task_of = np.full(len(facts.inputs.micrographs), -1, np.intp)
    task_of[plan.work.task_micrograph] = np.arange(len(plan.tasks))
    wanted = np.sort(rows)
    tasks = task_of[plan.micrograph[wanted]]
    found_rows, images, sizes, removed = [], [], set(), facts.run.removed
    for number in np.unique(tasks).tolist():
        output = plan.tasks[number].outputs[size_index]
        if output.path in removed and not (facts.run.folder / output.path).exists():
            continue
        mine = wanted[tasks == number]
        order = np.argsort(slot[mine], kind="stable")
        try:
            images.append(read_images(facts.run.folder / output.path, slot[mine[order]].astype(np.intp)))
        except (CryoboxError, OSError) as error:
            facts.problems.append(f"{output.path}: {error}")
            continue
        found_rows.append(mine[order])
        sizes.add(round(output.pixel_size, 6))
    side = plan.recipe.outputs[size_index].size
    if not images:
        return Sample(rows=np.zeros(0, np.intp), images=np.zeros((0, side, side), np.float32), pixel_size=float("nan"))
    return Sample(
        rows=np.concatenate(found_rows),
        images=np.concatenate(images),
        pixel_size=sizes.pop() if len(sizes) == 1 else float("nan"),
    )


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
