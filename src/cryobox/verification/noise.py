"""Boxes of noise against `cryobox.reference`, which looks at every place of their micrographs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cryobox import reference
from cryobox.errors import CryoboxError
from cryobox.formats.masks import read_mask
from cryobox.groups import DEFAULT_JUNK_THRESHOLD
from cryobox.inputs import Inputs
from cryobox.plan import Noise
from cryobox.plan.scheduling import number_of
from cryobox.verification.findings import Problems
from cryobox.verification.images import Sample

__all__ = ["check_noise"]

MOSTLY_BAD = 0.8  # a map of which more is bad is ignored
MOST_MICROGRAPHS = 100  # a tenth of a second each, whatever the sample


def check_noise(inputs: Inputs, sample: Sample, problems: Problems) -> None:
    """Draw the boxes of some micrographs anew: those of the plan, which the tables are compared with, are the same."""
    plan, recipe = inputs.plan, inputs.plan.recipe
    noise = plan.noise
    assert noise is not None
    every = sample.of(np.arange(len(plan.tasks)))
    for t in every[:MOST_MICROGRAPHS].tolist() if not sample.everything else every.tolist():
        row = int(plan.work.task_micrograph[t])
        shape = (int(plan.grounds.shape[row, 0]), int(plan.grounds.shape[row, 1]))
        if row in noise.without_ctf:
            continue
        name, box = inputs.micrographs.names[row], int(plan.grounds.box[row])
        try:
            judge = _judge(noise, row, box, shape, recipe.junk_threshold)
        except CryoboxError as error:
            problems.add(str(error))
            continue
        wanted = reference.noise_boxes(
            recipe.noise_particles or 0,
            stream=(number_of(name), recipe.seed),
            shape=shape,
            box=box,
            margin=recipe.edge_margin or 0,
            centers=noise.centers[t].tolist(),
            excluded=recipe.exclude,
            on_junk=judge,
        )
        found = noise.plan.places.corner[noise.plan.micrograph == row]
        if found.tolist() != list(map(list, wanted)):
            problems.add(
                f"{name}: its {len(found)} boxes of noise do not lie where the reference draws {len(wanted)}",
                "boxes of noise",
            )


def _judge(
    noise: Noise, row: int, box: int, shape: tuple[int, int], threshold: float | None
) -> Callable[[tuple[int, int]], bool] | None:
    """What the mask of a micrograph says of boxes, by their first pixels; None where it has none that counts."""
    if row not in noise.masks:
        return None
    mask = read_mask(noise.masks[row])
    if mask.labels:
        return lambda corner: reference.has_label(mask.bad, corner, box, shape)
    if float(mask.bad.mean(dtype=np.float64)) > MOSTLY_BAD:
        return None
    limit = DEFAULT_JUNK_THRESHOLD if threshold is None else threshold
    return lambda corner: reference.bad_part(mask.bad, corner, box, shape) >= limit
