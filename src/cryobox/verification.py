"""Check a finished run: recompute images in float64 from the micrographs, and compare tables, stacks and ledger."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryobox import formats, reference
from cryobox.centering import truncate
from cryobox.engine.ledger import ledger_path, read_ledger
from cryobox.engine.task import TaskResult
from cryobox.errors import CryoboxError, InputError
from cryobox.formats.images import PixelReader
from cryobox.formats.mrc import read_stack_header
from cryobox.formats.references import ImageReferences, image_references
from cryobox.inputs import Given, Inputs, prepare
from cryobox.options import Recipe
from cryobox.particles import Particles
from cryobox.plan import STACK_FOLDERS, Task
from cryobox.tables import TABLE_NAMES, Outcome, stack_text

__all__ = ["TOLERANCE", "Verification", "verify"]

DEFAULT_SAMPLE = 100
MOST_PROBLEMS = 50  # of one kind; a stale folder would have one for every row

# How far a stored float32 pixel may be from float64, as a part of the image's largest value (the oracle tests hold
# the core to the same). A float16 pixel may be off by half a step besides.
TOLERANCE = 2e-6
HALF_STEP = 2.0**-11  # of the value
SMALLEST_HALF = 2.0**-25  # half the smallest float16 above zero


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What was checked and what is wrong.

    Parameters
    ----------
    rows : int
        Table rows checked, over all sizes.
    images : int
        Stored images recomputed and compared, over all sizes.
    worst : float
        The largest difference found, as a part of what is allowed (1.0 is the limit).
    problems : tuple of str
        Each names the file and what differs; empty if all is well.
    """

    rows: int
    images: int
    worst: float
    problems: tuple[str, ...]


def verify(
    folder: str | os.PathLike[str], *, sample: int = DEFAULT_SAMPLE, everything: bool = False, seed: int = 0
) -> Verification:
    """Check the output folder of a finished run.

    The plan is made again from the recorded inputs; every table row, stack header and ledger line is compared with
    it; a random sample of the images is recomputed in float64 by `cryobox.reference` from the original micrographs.

    Parameters
    ----------
    folder : path
    sample : int
        Images to recompute, for each stored size.
    everything : bool
        Recompute all.
    seed : int
        Of the sample.

    Returns
    -------
    Verification

    Raises
    ------
    InputError
        If the folder holds no finished run, or its inputs cannot be read any more.

    Notes
    -----
    Relative paths are read as they were when the run was made, from the recorded working directory; the working
    directory of this process is changed while it lasts.
    """
    out = Path(folder).resolve()
    record = _job_record(out)
    given = Given.from_dict(record.get("inputs", {}))
    recipe = Recipe.from_dict(record.get("recipe"), str(out / "job.json"))
    if not Path(given.directory).is_dir():
        raise InputError(f"{out / 'job.json'}: was run in {given.directory}, which is not there any more")
    with contextlib.chdir(given.directory):
        root = None if given.root is None else Path(given.root)
        inputs = prepare(given.picks, micrographs=given.micrographs, recipe=recipe, root=root)
        check = _Check(out, inputs, record, root)
        check.ledger_and_stacks()
        check.tables(sample=sample, everything=everything, seed=seed)
        check.strangers()
        return check.result()


class _Check:
    """The problems found so far, and what they are judged by."""

    def __init__(self, out: Path, inputs: Inputs, record: Mapping[str, Any], root: Path | None) -> None:
        self._out, self._inputs, self._plan, self._record, self._root = out, inputs, inputs.plan, record, root
        self._problems: list[str] = []
        self._rows = self._images = 0
        self._worst = 0.0
        self._results = self._read_results()

    def result(self) -> Verification:
        return Verification(rows=self._rows, images=self._images, worst=self._worst, problems=tuple(self._problems))

    def ledger_and_stacks(self) -> None:
        """Every task has a record, and its stacks are what the record and the plan say."""
        for task in self._plan.tasks:
            found = self._results.get(task.id)
            if found is None:
                self._problems.append(
                    f"{task.path}: the ledger has no record of this micrograph with these picks and this recipe; "
                    f"the micrograph or the picks changed since, or it was never extracted"
                )
                self._results[task.id] = TaskResult(id=task.id, error="not in the ledger")
                continue
            if not found.error:
                self._stacks_of(task, found)

    def _stacks_of(self, task: Task, found: TaskResult) -> None:
        expected = len(task.corners) - len(found.refused)
        if found.kept != expected:
            self._problems.append(
                f"{task.micrograph}: the ledger counts {found.kept} images, but {len(task.corners)} windows minus "
                f"{len(found.refused)} refused are {expected}"
            )
        for output, stack in zip(task.outputs, found.stacks, strict=False):
            path = self._out / output.path
            try:
                shape, dtype, _, pixel_size = read_stack_header(str(path))
            except CryoboxError as error:
                self._problems.append(str(error))
                continue
            size = path.stat().st_size
            facts = (
                ("bytes", size, stack.bytes),
                ("shape", shape, (found.kept, output.size, output.size)),
                ("type", dtype.name, task.recipe.dtype),
            )
            for what, got, wanted in facts:
                if got != wanted:
                    self._problems.append(f"{path}: {what} is {got}, the ledger and the plan say {wanted}")
            if not np.isclose(pixel_size, output.pixel_size, rtol=1e-6):
                self._problems.append(f"{path}: header says {pixel_size:g} Å per pixel, the plan {output.pixel_size:g}")

    def tables(self, *, sample: int, everything: bool, seed: int) -> None:
        """Every row of every table is the one that the plan and the ledger make."""
        outcome = Outcome(self._plan, self._results)
        picks = len(self._plan.reason)
        if len(outcome.rows) + len(outcome.rejected) != picks:
            self._problems.append(f"{len(outcome.rows)} extracted + {len(outcome.rejected)} rejected are not {picks}")
        for key, value in (("picks", picks), ("extracted", len(outcome.rows)), ("rejected", outcome.counts())):
            if self._record.get(key) != value:
                self._problems.append(f"{self._out / 'job.json'}: {key} is {self._record.get(key)}, expected {value}")
        self._count_rejected(len(outcome.rejected))
        suffix = ".star" if self._plan.style == "relion" else ".cs"
        for index, size in enumerate(self._plan.recipe.sizes):
            path = self._out / f"{TABLE_NAMES[index]}{suffix}"
            if len(outcome.rows) == 0:
                continue
            try:
                table = formats.read_particles(path, recipe=self._plan.recipe, root=self._root)
                references = image_references(table)
            except CryoboxError as error:
                self._problems.append(str(error))
                continue
            if len(table) != len(outcome.rows):
                self._problems.append(f"{path}: has {len(table)} rows, expected {len(outcome.rows)}")
                continue
            self._rows += len(table)
            good = self._compare_rows(path, table, references, outcome, index, suffix)
            rows = np.flatnonzero(good)
            if not everything and len(rows) > sample:
                rows = np.sort(np.random.default_rng(seed).choice(rows, sample, replace=False))
            self._compare_images(path, table, references, outcome, rows, index, size)

    def _count_rejected(self, expected: int) -> None:
        suffix = ".star" if self._plan.style == "relion" else ".cs"
        path = self._out / f"rejected{suffix}"
        if not path.exists():
            if expected:
                self._problems.append(f"{path}: is not there, but {expected} picks are rejected")
            return
        try:
            rows = len(formats.read_particles(path, recipe=self._plan.recipe, root=self._root))
        except CryoboxError as error:
            self._problems.append(str(error))
            return
        if rows != expected:
            self._problems.append(f"{path}: has {rows} rows, expected {expected}")

    def _compare_rows(
        self, path: Path, table: Particles, references: ImageReferences, outcome: Outcome, index: int, suffix: str
    ) -> NDArray[np.bool_]:
        """Which rows say what they should; the others become problems."""
        plan, micrographs = self._plan, self._inputs.micrographs
        task_of = {int(row): task for row, task in zip(plan.task_micrograph, plan.tasks, strict=True)}
        text = {
            row: stack_text(self._out, task.outputs[index].path, suffix, self._root) for row, task in task_of.items()
        }
        owner = plan.micrograph[outcome.rows].tolist()
        center = truncate(np.stack([table.y, table.x], axis=1), guard=table.from_fractions)
        wrong_center = (center != plan.center[outcome.rows]).any(axis=1)
        wrong_slot = references.slot != outcome.slot
        pixel_size = np.array([task_of[row].outputs[index].pixel_size for row in owner])
        wrong_pixel_size = ~np.isclose(references.pixel_size, pixel_size, rtol=1e-5)
        wrong_size = references.size != plan.recipe.sizes[index]
        names = [table.micrograph_names[m] for m in table.micrograph.tolist()]
        wrong_uid = np.zeros(len(table), dtype=np.bool_)
        if references.uid is not None and self._inputs.particles.family == "cs":
            wrong_uid = references.uid != self._inputs.particles.table["uid"][outcome.rows]
        good = np.ones(len(table), dtype=np.bool_)
        for row, at in enumerate(owner):
            faults = []
            if references.stack[row] != text[at]:
                faults.append(f"stack is {references.stack[row]}, expected {text[at]}")
            if names[row] not in (micrographs.names[at], micrographs.paths[at]):
                faults.append(f"micrograph is {names[row]}, expected {micrographs.names[at]}")
            if wrong_slot[row]:
                faults.append(f"image is number {references.slot[row] + 1}, expected {outcome.slot[row] + 1}")
            if wrong_center[row]:
                y, x = plan.center[outcome.rows[row]]
                faults.append(f"box center is x {center[row, 1]:g}, y {center[row, 0]:g}, expected x {x}, y {y}")
            if wrong_pixel_size[row]:
                faults.append(f"pixel size is {references.pixel_size[row]:g}, expected {pixel_size[row]:g}")
            if wrong_size[row]:
                faults.append(f"image size is {references.size[row]}, expected {plan.recipe.sizes[index]}")
            if wrong_uid[row]:
                faults.append("uid is another than the pick's")
            if faults:
                good[row] = False
                if (~good).sum() <= MOST_PROBLEMS:
                    self._problems.append(f"{path}: row {row + 1}: {'; '.join(faults)}")
        if (~good).sum() > MOST_PROBLEMS:
            self._problems.append(f"{path}: {(~good).sum()} rows are wrong in all")
        return good

    def _compare_images(
        self,
        path: Path,
        table: Particles,
        references: ImageReferences,
        outcome: Outcome,
        rows: NDArray[np.intp],
        index: int,
        size: int,
    ) -> None:
        """Recompute the images of `rows` from their micrographs."""
        plan = self._plan
        task_of = {int(row): task for row, task in zip(plan.task_micrograph, plan.tasks, strict=True)}
        center = truncate(np.stack([table.y, table.x], axis=1), guard=table.from_fractions).astype(np.int64)
        reader = PixelReader()
        owner = plan.micrograph[outcome.rows[rows]]
        bad = 0
        for at in np.unique(owner).tolist():
            task = task_of[at]
            try:
                image = reader.read(task.path, task.header, tiff_flip=task.recipe.tiff_flip)
            except CryoboxError as error:
                self._problems.append(str(error))
                continue
            for row in rows[owner == at].tolist():
                stack = self._out / task.outputs[index].path
                expected = _recompute(image, center[row] - plan.recipe.box // 2, task, index)
                try:
                    stored = _stored_image(stack, int(references.slot[row]), size)
                except (CryoboxError, OSError) as error:
                    self._problems.append(f"{stack}: image {references.slot[row] + 1}: {error}")
                    continue
                self._images += 1
                excess = _excess(stored, expected)
                self._worst = max(self._worst, excess) if np.isfinite(excess) else np.inf
                if not excess <= 1.0:
                    bad += 1
                    if bad <= MOST_PROBLEMS:
                        self._problems.append(
                            f"{stack}: image {references.slot[row] + 1} ({path.name} row {row + 1}) is not the "
                            f"particle at x {center[row, 1]}, y {center[row, 0]} of {task.micrograph}: differs by "
                            f"{excess:.3g} times what is allowed"
                        )

    def strangers(self) -> None:
        """Stacks that no table points at."""
        known = {output.path for task in self._plan.tasks for output in task.outputs}
        for folder in STACK_FOLDERS:
            for path in sorted((self._out / folder).glob("*")):
                if f"{folder}/{path.name}" not in known:
                    self._problems.append(f"{path}: belongs to no micrograph of this run; left by another one?")

    def _read_results(self) -> dict[str, TaskResult]:
        results = dict(read_ledger(ledger_path(self._out, ""))[1])
        for path in sorted(self._out.glob("ledger.*-of-*.jsonl")):
            results |= read_ledger(path)[1]
        return results


def _job_record(out: Path) -> dict[str, Any]:
    path = out / "job.json"
    try:
        record = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path}: is not there; is the run finished, and this its output folder?") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    if not isinstance(record, dict) or not record.get("complete"):
        raise InputError(f"{path}: does not say that the run is complete; run the same command again")
    return record


def _recompute(image: NDArray[Any], corner: NDArray[np.int64], task: Task, index: int) -> NDArray[np.float64] | None:
    """The image in float64, None if the reference refuses it."""
    output, recipe = task.outputs[index], task.recipe
    stacks, words = reference.extract(
        image,
        corner[None, :],
        box=recipe.box,
        sizes=[output.size],
        radii=[output.background_radius],
        edges=recipe.edges,
        normalize=recipe.normalize,
        ramp=recipe.ramp,
        invert=bool(recipe.invert),
        scale_const=recipe.scale_const,
    )
    return stacks[0][0] if words[0] == reference.OK else None


def _stored_image(stack: Path, slot: int, size: int) -> NDArray[Any]:
    (count, side, _), dtype, offset, _ = read_stack_header(str(stack))
    if side != size or not 0 <= slot < count:
        raise InputError(f"the stack holds {count} images of {side} pixels")
    pixels = size * size
    image = np.fromfile(stack, dtype=dtype, count=pixels, offset=offset + slot * pixels * dtype.itemsize)
    return image.reshape(size, size)


def _excess(stored: NDArray[Any], expected: NDArray[np.float64] | None) -> float:
    """The largest difference, as a part of what is allowed."""
    if expected is None or not np.isfinite(stored).all():
        return np.inf
    allowed = TOLERANCE * float(np.abs(expected).max())
    wanted = expected
    limit = np.full(expected.shape, allowed)
    if stored.dtype.itemsize == 2:
        wanted = np.clip(expected, -65504.0, 65504.0)
        limit = limit + np.abs(wanted) * HALF_STEP + SMALLEST_HALF
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = np.abs(stored.astype(np.float64) - wanted) / limit
    return float(np.nan_to_num(parts, nan=0.0, posinf=np.inf).max())
