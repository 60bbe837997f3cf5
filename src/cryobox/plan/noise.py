"""Boxes of noise beside the picks: where they lie, and how they join the tasks of their micrographs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cryobox.centering import center_of
from cryobox.decided import Decided
from cryobox.formats.masks import FoundMasks
from cryobox.grounds import Grounds
from cryobox.micrograph import Micrographs
from cryobox.options import Recipe
from cryobox.particles import Particles
from cryobox.picks.masking import judge_of_noise, with_masks
from cryobox.picks.noise import noise_corners
from cryobox.plan.contrast import with_ctf
from cryobox.plan.scheduling import hash_of, number_of, task_of
from cryobox.plan.values import ACCEPTED, Noise, Places, Plan, Task, Work, groups_of
from cryobox.windows import Windows

__all__ = [
    "plan_noise",
    "with_noise",
]

Ints = NDArray[np.int64]
Placed = Sequence[tuple[NDArray[np.intp], NDArray[np.float64]]]
"""Picks as the micrograph of each and its place (y, x), which is nan where it has none."""


def plan_noise(
    picks: Placed,
    work: Work,
    micrographs: Micrographs,
    decided: Decided,
    grounds: Grounds,
    masks: FoundMasks | None,
) -> Noise:
    """Draw boxes of noise in the micrographs that are cut, and plan them as picks.

    Every pick counts that has a place in its micrograph, whatever becomes of it.
    """
    recipe, rows = decided.recipe, work.task_micrograph
    near = _by_micrograph(picks, rows)

    def draw(at: int) -> Ints:
        row, box = int(rows[at]), int(grounds.box[rows[at]])
        shape = (int(grounds.shape[row, 0]), int(grounds.shape[row, 1]))
        judge = None
        if masks is not None and row in masks.paths:
            judge = judge_of_noise(
                masks.paths[row], shape=shape, box=box, micrograph=micrographs.paths[row],
                threshold=recipe.junk_threshold,
            )  # fmt: skip
        return noise_corners(
            recipe.noise_particles or 0,
            stream=(number_of(micrographs.names[row]), recipe.seed),
            shape=shape,
            box=box,
            margin=recipe.edge_margin or 0,
            centers=near[at],
            excluded=recipe.exclude,
            on_junk=judge,
        )

    every = range(len(rows))
    found = list(map(draw, every)) if masks is None else with_masks(draw, every)
    particles, plan = _planned(found, work, micrographs, decided, grounds)
    drawn = rows[[len(corner) > 0 for corner in found]] if len(rows) else rows
    return Noise(
        particles=particles,
        plan=plan,
        centers=tuple(near),
        masks={} if masks is None else masks.paths,
        without_ctf=frozenset(np.setdiff1d(drawn, plan.work.task_micrograph).tolist()),
    )


def _by_micrograph(picks: Placed, rows: NDArray[np.intp]) -> list[Ints]:
    """The places of all picks of each micrograph among `rows`, which ascend, as whole pixels; each place once."""
    micrograph = np.concatenate([of for of, _ in picks])
    place = np.concatenate([where for _, where in picks])
    known = np.flatnonzero(np.isfinite(place).all(axis=1))
    order = known[np.argsort(micrograph[known], kind="stable")]
    micrograph, whole = micrograph[order], place[order].astype(np.int64)
    begins, ends = (np.searchsorted(micrograph, rows, side) for side in ("left", "right"))
    return [whole[begin:end] for begin, end in zip(begins.tolist(), ends.tolist(), strict=True)]


def _planned(
    found: Sequence[Ints], work: Work, micrographs: Micrographs, decided: Decided, grounds: Grounds
) -> tuple[Particles, Plan]:
    """The boxes as picks that come with nothing but their places, all of them accepted."""
    recipe, counts = decided.recipe, np.array([len(corner) for corner in found], np.int64)
    of = np.repeat(work.task_micrograph, counts)
    corner = np.concatenate([np.empty((0, 2), np.int64), *found])
    center = center_of(corner, grounds.box[of, None])
    particles = Particles(
        family="plain",
        source="a box of noise",
        y=center[:, 0].astype(np.float64),
        x=center[:, 1].astype(np.float64),
        micrograph=of,
        micrograph_names=micrographs.names,
        micrograph_uids=micrographs.uids,
    )
    # What a recipe says of the tables of picks is of nothing that these have.
    bare: Recipe = replace(recipe, flip_x=False, flip_y=False, drop_alignments=False, reset_offsets=False, filter=None)
    of_noise = replace(decided, recipe=bare, native=decided.families[0], leading=None)
    places = Places(
        reason=np.full(len(of), ACCEPTED, np.int8),
        center=center,
        corner=corner,
        moved=np.zeros(len(of), np.bool_),
        alignments=(),
        columns={"angle": np.zeros(len(of))} if recipe.tube and recipe.normalize else {},
    )
    places = with_ctf(particles, micrographs, of, places, of_noise, grounds)
    good = places.reason == ACCEPTED
    if not good.all():  # the same in all boxes of a micrograph
        left = [corner[(of == row) & good] for row in work.task_micrograph.tolist()]
        particles, plan = _planned(left, work, micrographs, decided, grounds)
        lost = len(np.unique(of[~good]))
        text = f"--noise-particles: {lost} micrographs have a CTF that is no number, and --ctf no noise of them"
        return particles, replace(plan, warnings=(*_lacking(recipe, counts), text))
    some = np.flatnonzero(counts)
    empty = Work(
        rows=np.arange(len(of)),
        window=np.concatenate([np.empty(0, np.int64), *map(np.arange, counts[some].tolist())]),
        first_row=np.concatenate([[0], np.cumsum(counts[some])]).astype(np.intp),
        task_micrograph=work.task_micrograph[some],
        tasks=(),
    )
    plan = Plan(
        decided=of_noise, grounds=grounds, micrograph=of, places=places, work=empty, of_noise=True,
        warnings=_lacking(recipe, counts),
    )  # fmt: skip
    columns = places.columns
    every = Windows(
        box=recipe.box, pad=False, corner=corner, angle=columns.get("angle"), ctf=columns.get("ctf")
    )  # fmt: skip
    tasks = []
    for number, t in enumerate(some.tolist()):
        rows = slice(int(empty.first_row[number]), int(empty.first_row[number + 1]))
        row = int(work.task_micrograph[t])
        name = _name(work.tasks[t])
        tasks.append(task_of(of_noise, micrographs, grounds, row, every.take(rows), name, plan.outputs))
    return particles, replace(plan, work=replace(empty, tasks=tuple(tasks)))


def _name(task: Task) -> str:
    """What stacks of noise are called beside those of a task: one for each of these, merged or not."""
    stem = os.path.splitext(os.path.basename(task.stack))[0]
    own = stem.removesuffix("_particles")
    return f"{own}_noise" if own != stem else stem.replace("particles_", "noise_", 1)


def _lacking(recipe: Recipe, counts: Ints) -> tuple[str, ...]:
    """A warning where there is not room for all."""
    wanted = recipe.noise_particles or 0
    few = int(np.count_nonzero(counts < wanted))
    if not few:
        return ()
    none = int(np.count_nonzero(counts == 0))
    text = (
        f"--noise-particles {wanted}: {few} of {len(counts)} micrographs have no room for so many boxes away from "
        f"their picks ({none} have none at all); {int(counts.sum())} of {wanted * len(counts)} are cut"
    )
    return (text,)


def with_noise(work: Work, noise: Noise) -> Work:
    """The tasks of picks with those of noise: what a task is then depends on the noise in its stacks, too."""
    of = dict(zip(noise.plan.work.task_micrograph.tolist(), noise.plan.tasks, strict=True))
    rows = iter(work.task_micrograph.tolist())
    tasks: list[Task] = []
    for group in groups_of(work.tasks):
        beside = [of.get(next(rows)) for _ in group]
        ids = [other.id for other in beside if other is not None]
        tasks += (
            replace(task, id=hash_of("".join([task.id, *ids]).encode()), noise=other) if ids else task
            for task, other in zip(group, beside, strict=True)
        )
    return replace(work, tasks=tuple(tasks))
