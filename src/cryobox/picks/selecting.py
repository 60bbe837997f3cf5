"""Which picks are left out for what their tables say of them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from cryobox.errors import OptionError
from cryobox.groups import Selection
from cryobox.particles import Particles, Reason

__all__ = ["left_out"]

Refused = tuple[NDArray[np.bool_], Reason]


def left_out(particles: Particles, selection: Selection) -> Iterator[Refused]:
    """The picks that each part of the selection leaves out, and why: what is named first counts.

    Raises
    ------
    OptionError
        If picks are to be selected by what they do not have.
    """
    if selection.min_score is not None:
        yield from _by_score(particles, selection.min_score)


def _by_score(particles: Particles, lowest: float) -> Iterator[Refused]:
    if particles.score is None:
        raise OptionError(f"{particles.source}: has no scores, so --min-score cannot be used")
    yield np.isnan(particles.score), Reason.NO_SCORE
    yield particles.score < lowest, Reason.SCORE
