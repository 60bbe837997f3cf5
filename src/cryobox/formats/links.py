"""What tables call particles, so that what is made of one can name it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryobox.formats.columns import UID
from cryobox.formats.cs_output import pick_uids
from cryobox.formats.star_optics import StarTable
from cryobox.formats.star_tags import IMAGE
from cryobox.particles import Particles

__all__ = ["Links", "links_of"]

_SOURCE, _NUMBER = "sym_expand/src_uid", "sym_expand/idx"


@dataclass(frozen=True, slots=True, kw_only=True)
class Links:
    """What each particle is called.

    Parameters
    ----------
    name : ndarray of str, shape (n,), optional
        Its image, or its number in its micrograph; of STAR tables.
    uid : ndarray, shape (n,), uint64, optional
        CryoSPARC's, where the table has it.
    source, number : ndarray, shape (n,), uint64, optional
        The uid of the particle that each is a copy of (by a symmetry expansion, else itself), and the number of the
        copy; of `.cs` tables.
    """

    name: NDArray[np.object_] | None = None
    uid: NDArray[np.uint64] | None = None
    source: NDArray[np.uint64] | None = None
    number: NDArray[np.uint64] | None = None


def links_of(particles: Particles) -> Links:
    """What the tables of particles call each of them."""
    picks = np.arange(len(particles))
    rows = particles.rows_of(picks)
    if particles.family == "cs":
        fields = particles.table.dtype.names or ()
        uid = particles.table["uid"][rows].astype(np.uint64) if "uid" in fields else pick_uids(particles, picks)
        source, number = uid, np.zeros(len(uid), np.uint64)
        if _SOURCE in fields and _NUMBER in fields:
            old = particles.table[_SOURCE][rows].astype(np.uint64)
            source = np.where(old > 0, old, uid)
            number = np.where(old > 0, particles.table[_NUMBER][rows].astype(np.uint64), number)
        return Links(uid=uid, source=source, number=number)
    star: StarTable | None = particles.table if isinstance(particles.table, StarTable) else None
    return Links(name=_names(particles, star, rows), uid=_uids(star, rows))


def _names(particles: Particles, star: StarTable | None, rows: NDArray[np.intp]) -> NDArray[np.object_]:
    if star is not None and IMAGE in star.table:
        return np.array(star.table.texts(IMAGE), object)[rows]
    seen: dict[int, int] = {}
    texts = []
    for at in particles.micrograph.tolist():
        number = seen[at] = seen.get(at, 0) + 1
        texts.append(f"{number:06d}@{particles.micrograph_names[at]}")
    return np.array(texts, object)


def _uids(star: StarTable | None, rows: NDArray[np.intp]) -> NDArray[np.uint64] | None:
    """Those that a table made of a `.cs` still has; None where it has none, or where one is no number of 64 bits."""
    if star is None or UID not in star.table:
        return None
    texts: list[Any] = star.table.texts(UID)
    if not all(text.isascii() and text.isdigit() and len(text) <= 20 and int(text) < 2**64 for text in texts):
        return None
    return np.array([int(text) for text in texts], np.uint64)[rows]
