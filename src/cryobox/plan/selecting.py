"""Which picks are refused before anything is placed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cryobox.decided import Decided
from cryobox.grounds import Grounds
from cryobox.particles import Particles, Reason
from cryobox.picks.selecting import left_out, sampled
from cryobox.plan.values import ACCEPTED, REASONS

__all__ = [
    "rejected",
    "select",
]


def select(particles: Particles, micrograph: NDArray[np.intp], decided: Decided, grounds: Grounds) -> NDArray[np.int8]:
    """What refuses picks before anything is placed: -1 or an index into `REASONS` for each.

    Raises
    ------
    OptionError
        If picks are to be selected by what they do not have.
    """
    recipe, leading = decided.recipe, decided.leading
    finite = np.isfinite(particles.y) & np.isfinite(particles.x)
    if leading is not None:
        with np.errstate(over="ignore", invalid="ignore"):
            finite &= np.isfinite(leading.shift * leading.pixel_size[:, None]).all(axis=1)
    unusable = np.fromiter(grounds.incomplete, dtype=np.intp, count=len(grounds.incomplete))
    refused = [
        (micrograph < 0, Reason.NO_MICROGRAPH),
        (~np.isin(micrograph, grounds.looked_at), Reason.LIMIT),
        (np.isin(micrograph, unusable), Reason.MICROGRAPH),
        (~finite, Reason.COORDINATE),
    ]
    if recipe.helix is not None and particles.tube is not None:
        refused.append((particles.tube == 0, Reason.NO_FILAMENT))
    reason = rejected(np.full(len(particles), ACCEPTED, dtype=np.int8), *refused, *left_out(particles, recipe))
    return rejected(reason, (~sampled(particles, reason == ACCEPTED, recipe), Reason.SAMPLE))


def rejected(reason: NDArray[np.int8], *refused: tuple[NDArray[np.bool_], Reason]) -> NDArray[np.int8]:
    """`reason`, with what is refused for the first time now."""
    found = reason.copy()
    for mask, why in refused:
        found[mask & (found == ACCEPTED)] = REASONS.index(why)
    return found
