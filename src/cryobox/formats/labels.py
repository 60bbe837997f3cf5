"""Whole numbers by which tables sort particles: class, optics group, half-set. As the table writes them."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cryobox.errors import InputError
from cryobox.formats.star_optics import GROUP, StarTable
from cryobox.particles import Particles

__all__ = ["Label", "labels_of", "uids_of"]

Label = Literal["2d class", "3d class", "optics group", "selection type", "half-set"]

_TAGS: dict[Label, str] = {
    "2d class": "_rlnClassNumber",
    "3d class": "_rlnClassNumber",
    "optics group": GROUP,
    "selection type": "_rlnParticleSelectionType",
    "half-set": "_rlnRandomSubset",
}
_FIELDS: dict[Label, str] = {
    "2d class": "alignments2D/class",
    "3d class": "alignments3D/class",
    "optics group": "ctf/exp_group_id",
    "half-set": "alignments3D/split",
}


def labels_of(particles: Particles, label: Label) -> NDArray[np.int64] | None:
    """The number of each pick; None where the table has no such column.

    Raises
    ------
    InputError
        If the column holds what is no whole number.
    """
    if particles.family == "plain":
        return None
    rows = particles.rows_of(np.arange(len(particles)))
    name = (_FIELDS if particles.family == "cs" else _TAGS).get(label, "")
    if particles.family == "cs":
        table = particles.table
        if name not in (table.dtype.names or ()) or table.dtype[name].shape:
            return None
        values = table[name][rows].astype(np.float64)
    else:
        star: StarTable = particles.table
        if name not in star.table:
            return None
        values = star.table.floats(name)[rows]
    bad = np.flatnonzero(~(np.isfinite(values) & (values == np.trunc(values))))
    if len(bad):
        row = int(rows[bad[0]]) + 1
        raise InputError(f"{particles.source}: row {row}: {name} is {values[bad[0]]:g}, expected a whole number")
    found: NDArray[np.int64] = values.astype(np.int64)
    return found


def uids_of(particles: Particles) -> NDArray[np.uint64] | None:
    """CryoSPARC's name of each pick; None where the table has none."""
    if particles.family != "cs" or "uid" not in (particles.table.dtype.names or ()):
        return None
    rows = particles.rows_of(np.arange(len(particles)))
    found: NDArray[np.uint64] = particles.table["uid"][rows].astype(np.uint64)
    return found
