"""Do the picks sit on particles, or would they if they were mirrored or transposed? A check against a common mishap.

Programs disagree about which corner of a micrograph is the first pixel. Picks of another program may therefore be
flipped or transposed: every box is cut, and every box is empty. Particles are darker (or lighter) in the middle of
their boxes than around it, random positions are not; that is all the evidence that is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryobox.centering import mirror
from cryobox.errors import MicrographError
from cryobox.formats.images import PixelReader
from cryobox.inputs import Inputs
from cryobox.particles import Reason
from cryobox.plan import REASONS, Plan

__all__ = ["ORIENTATIONS", "OrientationCheck", "check_orientation", "contrast"]

ORIENTATIONS = ("as given", "x flipped", "y flipped", "x and y flipped", "x and y swapped")

MICROGRAPHS = 5  # enough picks for a clear answer, little to read
LEAST_PICKS = 20  # fewer say nothing
RANDOM_POSITIONS = 2000
SIDE = 32  # pixels of a box after binning: coarse is enough, and fast
MIDDLE, AROUND = 0.22, (0.36, 0.48)  # radii as parts of the box: particles fill about two thirds of it
CLIP_SD = 4.0  # hot pixels and carbon edges must not decide
CLEAR = 6.0  # standard errors; random positions exceed it about once in a hundred million
BETTER = 3.0  # standard errors that another orientation must win by, besides being twice as good

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class OrientationCheck:
    """How well the picks fit in each orientation.

    Parameters
    ----------
    scores : dict of str to float
        For each of `ORIENTATIONS`: contrast of the boxes' middle against their surroundings, less that of boxes at
        random positions, in standard errors; nan where too few boxes lie inside.
    picks : int
        Picks that were looked at.
    warning : str
        What to tell the user; "" unless another orientation fits clearly better.
    """

    scores: dict[str, float]
    picks: int
    warning: str = ""


def check_orientation(inputs: Inputs, *, micrographs: int = MICROGRAPHS, seed: int = 0) -> OrientationCheck:
    """Compare the picks as given with their mirror images and their transpose on a few micrographs.

    Parameters
    ----------
    inputs : Inputs
    micrographs : int
        How many to read, those with most picks.
    seed : int
        Of the random positions.
    """
    plan = inputs.plan
    box = plan.recipe.box
    usable = (plan.places.reason < 0) | (plan.places.reason == REASONS.index(Reason.EDGE))
    reader, rng = PixelReader(), np.random.default_rng(seed)
    found: dict[str, list[Floats]] = {name: [] for name in ORIENTATIONS}
    random: list[Floats] = []
    picks = 0
    for t in _most_picked(plan)[:micrographs]:
        task = plan.tasks[t]
        try:
            image = reader.read(task.path, task.header, tiff_flip=task.tiff_flip)
        except MicrographError:
            continue  # the run itself will say so
        center = plan.places.center[usable & (plan.micrograph == plan.work.task_micrograph[t])].astype(np.float64)
        picks += len(center)
        binned, factor = _binned(image, box)
        for name, moved in _orientations(center, image.shape).items():
            found[name].append(contrast(binned, moved / factor))
        random.append(contrast(binned, rng.uniform(0, 1, (RANDOM_POSITIONS, 2)) * binned.shape))
    scores = {name: _score(parts, random) for name, parts in found.items()}
    return OrientationCheck(scores=scores, picks=picks, warning=_warning(scores, inputs))


def contrast(image: Floats, center: Floats) -> Floats:
    """Mean of the middle less the mean around it, for each box of `SIDE` pixels that lies inside `image`."""
    corner = np.floor(center).astype(np.int64) - SIDE // 2
    fits = np.all((corner >= 0) & (corner + SIDE <= np.array(image.shape)), axis=1)
    offset = np.arange(SIDE) - (SIDE - 1) / 2
    radius = np.hypot(offset[:, None], offset[None, :]) / SIDE
    middle, around = radius < MIDDLE, (radius > AROUND[0]) & (radius < AROUND[1])
    weights = middle / middle.sum() - around / around.sum()
    windows = np.lib.stride_tricks.sliding_window_view(image, (SIDE, SIDE))[corner[fits, 0], corner[fits, 1]]
    values: Floats = np.einsum("nij,ij->n", windows, weights)
    return values


def _most_picked(plan: Plan) -> list[int]:
    return sorted(range(len(plan.tasks)), key=lambda t: -len(plan.tasks[t].windows))


def _orientations(center: Floats, shape: tuple[int, ...]) -> dict[str, Floats]:
    y, x = center.T
    flipped_y, flipped_x = mirror(y, float(shape[0])), mirror(x, float(shape[1]))
    pairs = ((y, x), (y, flipped_x), (flipped_y, x), (flipped_y, flipped_x), (x, y))
    return {name: np.stack(pair, axis=1) for name, pair in zip(ORIENTATIONS, pairs, strict=True)}


def _binned(image: NDArray[Any], box: int) -> tuple[Floats, float]:
    """The micrograph at a binning where a box has about `SIDE` pixels, outliers clipped, mean 0 and sd 1."""
    factor = max(1, round(box / SIDE))
    ny, nx = (side // factor * factor for side in image.shape)
    small = image[:ny, :nx].astype(np.float64).reshape(ny // factor, factor, nx // factor, factor).mean(axis=(1, 3))
    small = np.nan_to_num(small, nan=0.0, posinf=0.0, neginf=0.0)
    middle = np.median(small)
    spread = np.median(np.abs(small - middle)) * 1.4826 or 1.0
    return np.clip((small - middle) / spread, -CLIP_SD, CLIP_SD), float(factor)


def _score(parts: list[Floats], random: list[Floats]) -> float:
    values = np.concatenate(parts) if parts else np.empty(0)
    chance = np.concatenate(random) if random else np.empty(0)
    if len(values) < LEAST_PICKS or len(chance) < LEAST_PICKS or chance.std() == 0:
        return float("nan")
    return float((values.mean() - chance.mean()) / (chance.std() / np.sqrt(len(values))))


def _warning(scores: dict[str, float], inputs: Inputs) -> str:
    given = abs(scores[ORIENTATIONS[0]])
    others = {name: abs(score) for name, score in scores.items() if name != ORIENTATIONS[0] and np.isfinite(score)}
    if not others or not np.isfinite(given):
        return ""
    best = max(others, key=lambda name: others[name])
    if others[best] < CLEAR or others[best] < 2 * given + BETTER:
        return ""
    remedy = {
        "x flipped": "use --flip-x",
        "y flipped": "use --flip-y",
        "x and y flipped": "use --flip-x --flip-y",
        "x and y swapped": "swap the coordinate columns",
    }[best]
    return (
        f"{inputs.particles.source}: the picks fit much better with {best} (contrast {others[best]:.1f} standard "
        f"errors against {given:.1f} as given): {remedy}"
    )
