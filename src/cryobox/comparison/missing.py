"""Rows that only one of two tables has, and why, as far as the other table or its run tells."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cryobox.comparison.pairing import Pairs, Placed, image_keys, near_some, nearest, same_micrographs, uids_of
from cryobox.comparison.sides import LeftOut, Side
from cryobox.errors import CryoboxError, InputError
from cryobox.formats.images import read_header
from cryobox.formats.star_tags import TUBE
from cryobox.matching import Strip
from cryobox.paths import find_file

__all__ = ["DOUBLED", "FRACTION", "NOT_AMONG", "NOT_TOLD", "NO_MICROGRAPH", "why_missing"]

DOUBLED = "doubled: its partner is matched to another row"
NO_MICROGRAPH = "the other table has nothing on its micrograph"
NOT_AMONG = "the other run neither extracted nor rejected it"
NOT_TOLD = "reason not known"
FRACTION = "at the edge by a fraction of a pixel, for which RELION leaves out segments of helices"

Rows = NDArray[np.intp]


def why_missing(
    sides: tuple[Side, Side], which: int, rows: Rows, pairs: Pairs, *, within: float, strip: Strip
) -> list[str]:
    """Why each of some rows of one side has no partner in the other.

    Parameters
    ----------
    sides : (Side, Side)
    which : int
        Whose rows they are, 0 or 1.
    rows : ndarray, intp
    pairs : Pairs
    within : float
        Pixels.
    strip : Strip

    Returns
    -------
    list of str
        A reason for each: that of the table of rejected picks where the other side is of a run of ours.
    """
    own, other = sides[which], sides[1 - which]
    reasons = np.full(len(rows), NOT_TOLD if other.left_out is None else NOT_AMONG, dtype=object)
    if pairs.micrograph is not None and other.left_out is None:
        reasons[pairs.micrograph[which][rows] < 0] = NO_MICROGRAPH
    reasons[_doubled(sides, which, rows, pairs, within)] = DOUBLED
    if other.left_out is None:
        reasons[_at_the_edge_by_a_fraction(own, rows) & (reasons == NOT_TOLD)] = FRACTION
    if other.left_out is not None and other.left_out.particles is not None:
        for at, reason in _rejected(own, rows, other.left_out, within, strip).items():
            reasons[at] = reason
    return [str(reason) for reason in reasons]


def _at_the_edge_by_a_fraction(own: Side, rows: Rows) -> NDArray[np.bool_]:
    """Segments of helices of a run of ours whose box fits by whole pixels, and not by the fraction of its center."""
    found = np.zeros(len(rows), np.bool_)
    table = own.particles.table if own.particles.family == "star" else None
    if own.box is None or table is None or TUBE not in table.table:
        return found
    position = own.position[rows]
    partly = (position != np.trunc(position)).any(axis=1)
    for name in np.unique(own.particles.micrograph[rows[partly]]).tolist():
        try:
            shape = read_header(find_file(own.particles.micrograph_names[name], own.places)).shape
        except CryoboxError:
            continue
        last = np.array(shape) - own.box // 2
        here = own.particles.micrograph[rows] == name
        found |= here & ((position > last) & (np.trunc(position) <= last)).any(axis=1)
    return found


def _doubled(sides: tuple[Side, Side], which: int, rows: Rows, pairs: Pairs, within: float) -> NDArray[np.bool_]:
    found = np.zeros(len(rows), np.bool_)
    keys = image_keys(*sides)
    if keys is not None:
        found |= np.isin(keys[which][rows], keys[1 - which])
    if pairs.micrograph is not None:
        placed = [_placed(side, of_row) for side, of_row in zip(sides, pairs.micrograph, strict=True)]
        micrograph, position, slot = placed[which]
        found |= near_some((micrograph[rows], position[rows], slot[rows]), placed[1 - which], within)
    return found


def _placed(side: Side, micrograph: Rows) -> Placed:
    return micrograph, side.position, side.slot


def _rejected(own: Side, rows: Rows, left_out: LeftOut, within: float, strip: Strip) -> dict[int, str]:
    """Reasons by place in `rows`: by uid where both have one, else by micrograph and position."""
    particles = left_out.particles
    assert particles is not None
    found: dict[int, str] = {}
    uids = uids_of(own.particles), uids_of(particles)
    if uids[0] is not None and uids[1] is not None:
        of_uid = dict(zip(uids[1].tolist(), left_out.reasons, strict=True))
        mine = uids[0][rows].tolist()
        found = {at: of_uid[uid] for at, uid in enumerate(mine) if uid and uid in of_uid}
    try:
        one, two, _ = same_micrographs(own.particles.take(rows), particles, strip)
    except InputError:  # nothing was rejected on the micrographs of these rows
        return found
    theirs = np.stack([particles.y, particles.x], axis=1)
    i, j = nearest((one, own.position[rows], own.slot[rows]), (two, theirs, np.zeros(len(particles), np.int64)), within)
    return dict(zip(i.tolist(), (left_out.reasons[k] for k in j.tolist()), strict=True)) | found
