"""What positions alone say: whether all picks lie in a part of the field, or beside it. No pixel is read."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cryobox.particles import Reason
from cryobox.plan import ACCEPTED, REASONS, Plan

__all__ = ["part_of_the_field", "placed"]

LEAST_PICKS, LEAST_MICROGRAPHS = 30, 3  # fewer may lie anywhere
LARGEST_PART = 0.65  # of either side that all picks lie in; uniform ones would not once in a million runs
OUTSIDE = 0.3  # of all picks: more are no slips of a picker at the edge

_PLACED = (ACCEPTED, *(REASONS.index(why) for why in (Reason.EDGE, Reason.OUTSIDE, Reason.MARGIN, Reason.SEPARATION)))


def placed(plan: Plan) -> NDArray[np.intp]:
    """Picks that have a place in a micrograph, or beside it."""
    return np.flatnonzero(np.isin(plan.places.reason, _PLACED))


def part_of_the_field(plan: Plan, source: str) -> str:
    """A warning where the picks of several micrographs leave most of the field empty, or miss it; else ""."""
    rows = placed(plan)
    micrograph = plan.micrograph[rows]
    if len(rows) < LEAST_PICKS or len(np.unique(micrograph)) < LEAST_MICROGRAPHS:
        return ""
    place = plan.places.center[rows] / plan.grounds.shape[micrograph]
    outside = int(((place < 0) | (place >= 1)).any(axis=1).sum())
    if outside > OUTSIDE * len(rows):
        return (
            f"{source}: {outside} of {len(rows)} picks lie outside their micrographs, up to {place.max():.1f} times "
            f"their sides; were they made at another binning? "
            f"{_remedy(plan, 1 / max(2, np.ceil(np.quantile(place.max(axis=1), 0.98) - 0.1)))}"
        )
    low, high = place.min(axis=0), place.max(axis=0)
    if (high - low >= LARGEST_PART).any():
        return ""
    where = " and ".join(
        f"{100 * a:.0f} to {100 * b:.0f} % of {side}" for side, a, b in zip("yx", low, high, strict=True)
    )
    scale = float(np.floor(1 / high.max() + 0.1))
    question = f"were they made at another binning? {_remedy(plan, scale)}" if 2 <= scale <= 16 else "is that meant?"
    return f"{source}: all {len(rows)} picks lie in one part of their micrographs, {where}; {question}"


def _remedy(plan: Plan, scale: float) -> str:
    if plan.recipe.coordinate_pixel_size is not None:
        return f"try --angpix-coords {plan.recipe.coordinate_pixel_size * scale:.4g}"
    total = plan.recipe.coordinate_scale * scale
    return f"try --coord-scale {total:.4g}" if total != 1 else "leave out --coord-scale"
