"""The CTF that each window is treated with, and the picks that have none that could be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cryobox.decided import Decided
from cryobox.formats.columns import DEFOCUS, DEFOCUS_OFFSET
from cryobox.formats.ctf_numbers import numbers_of_ctf
from cryobox.grounds import Grounds
from cryobox.micrograph import Micrographs
from cryobox.particles import Particles, Reason
from cryobox.plan.values import ACCEPTED, REASONS, Places
from cryobox.windows import CTF

__all__ = ["with_ctf"]

_U, _V = (CTF.index(name) for name in DEFOCUS)

LARGEST = 1e9  # beyond any defocus in Å, any B-factor, any coefficient: its square is far inside what a double holds


def with_ctf(
    particles: Particles,
    micrographs: Micrographs,
    micrograph: NDArray[np.intp],
    places: Places,
    decided: Decided,
    grounds: Grounds,
) -> Places:
    """Places with the numbers of each accepted pick's CTF; a pick whose numbers are not finite is rejected.

    Raises
    ------
    InputError, OptionError
    """
    if decided.steps.ctf is None:
        return places
    rows, recipe = np.flatnonzero(places.reason == ACCEPTED), decided.recipe
    found = numbers_of_ctf(
        particles,
        micrographs,
        rows=particles.rows_of(rows),
        micrograph=micrograph[rows],
        pixel_size=grounds.pixel_size,
        refresh=recipe.refresh_ctf,
        mirrored=(recipe.flip_y, recipe.flip_x),
        native=decided.native,
    )
    found[:, _U : _V + 1] += _by_depth(particles, rows)[:, None]
    good = (np.abs(found) < LARGEST).all(axis=1)  # not nan either
    reason = places.reason.copy()
    reason[rows[~good]] = REASONS.index(Reason.CTF)
    ctf = np.zeros((len(particles), found.shape[1]))
    ctf[rows[good]] = found[good] + 0.0  # no -0: equal ones share a window
    return replace(places, reason=reason, columns={**places.columns, "ctf": ctf})


def _by_depth(particles: Particles, rows: NDArray[np.intp]) -> NDArray[np.float64]:
    """What the defocus of picks is changed by in the tables, in Å; nothing where that is no number."""
    if DEFOCUS_OFFSET not in particles.columns:
        return np.zeros(len(rows))
    offset = particles.columns[DEFOCUS_OFFSET][rows].astype(np.float64)
    return np.where(np.isfinite(offset), offset, 0.0)
