"""Where a box is cut: truncation, recentering, corners, the edge rule, separation. The one place for these conventions.

Everything here is geometry on columns, positions as (y, x) in pixels of the micrograph; no tables, no pixels.
The rules were taken from what RELION and CryoSPARC do (docs/conventions.md has them side by side).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cryobox.groups import Rounding

__all__ = [
    "INTEGER_GUARD",
    "Centered",
    "box_corners",
    "center_of",
    "corner_of",
    "inside",
    "mirror",
    "nearest",
    "overlaps",
    "place",
    "round_half_away",
    "too_close",
    "truncate",
    "with_fraction",
]

INTEGER_GUARD = 1e-3  # float32 fractions of a micrograph's side are exact to about 5e-4 pixels
SHIFT_TOLERANCE = 1e-4  # a shift of exactly half a pixel may come back from a float32 column as slightly more
FINEST_CELL = 2.0**-10  # pixels; below it, picks are looked up as if the distance were this
FARTHEST_CELL = 2**30
FAR = float(2**40)  # beyond any micrograph, well inside int64: coordinates are clipped here before the integer cast

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Mask = NDArray[np.bool_]


def truncate(center: Floats, *, guard: bool = False) -> Floats:
    """Whole pixels of a fractional position: toward zero, as RELION (and, inferred, CryoSPARC) reads coordinates.

    With `guard`, a position within 1e-3 of an integer is that integer: fractions of a side stored as float32 come
    back slightly off.
    """
    whole = np.trunc(center)
    if not guard:
        return whole
    nearest = np.rint(center)
    return np.where(np.abs(center - nearest) < INTEGER_GUARD, nearest, whole)


def round_half_away(value: Floats) -> Floats:
    """Round to the nearest integer, halves away from zero."""
    return np.copysign(np.floor(np.abs(value) + 0.5), value)


def with_fraction(center: Floats, *, guard: bool = False) -> Floats:
    """Positions that are meant as they are; with `guard`, those within 1e-3 of an integer are that integer."""
    whole = np.rint(center)
    return np.where(np.abs(center - whole) < INTEGER_GUARD, whole, center) if guard else center


def nearest(center: Floats) -> Floats:
    """The pixel that a fractional position lies in the middle of, halves toward zero: where `place` cuts its box."""
    whole = np.trunc(center)
    left = center - whole
    return whole + np.where(np.abs(left) <= 0.5 + SHIFT_TOLERANCE, 0.0, np.copysign(1.0, left))


def mirror(coordinate: Floats, extent: Floats | float) -> Floats:
    """Position on the stored image of a pick made on a mirrored copy: extent - 1 - coordinate."""
    return extent - 1.0 - coordinate


@dataclass(frozen=True, slots=True, kw_only=True)
class Centered:
    """Where boxes are cut.

    Parameters
    ----------
    center : ndarray, shape (n, 2), int64
        (y, x) of the box center, index box // 2 of the window.
    move : ndarray, shape (n, 2), float64
        How far the center moved against the shift's direction: `center = base - move`. Every alignment of the
        row becomes `shift - move` (in its own unit), so that it still points at the particle.
    """

    center: Integers
    move: Floats


def place(base: Floats, shift: Floats | None, axis: Floats | None = None) -> Centered:
    """Choose the pixel at which a box is cut.

    Parameters
    ----------
    base : ndarray, shape (n, 2), float64
        Truncated picks, (y, x), in pixels of the micrograph that is read; a fraction is there only where the picks
        were made on another binning, and joins the shift.
    shift : ndarray, shape (n, 2), float64, optional
        How far the image must move to be centered, in pixels of the micrograph; None leaves boxes where they are.
    axis : ndarray, shape (n, 2), float64, optional
        Unit vectors along which nothing moves: what a shift has in this direction is left over, however long it is.

    Notes
    -----
    With s the shift: r = 0 if |s| <= 0.5 (+ 1e-4), else s rounded, halves away from zero; center = base - r. What is
    left, s - r, is at most half a pixel, so that recentering twice changes nothing. With an axis s is the part of the
    shift across it; whole pixels across are not whole pixels in x and y, so that what r leaves is looked at once more.
    """
    whole = np.trunc(base)
    fraction = base - whole
    wanted = -fraction if shift is None else shift - fraction
    step = _whole_steps(wanted)
    if axis is not None:
        step = _whole_steps(_across(wanted, axis))
        step = step + _whole_steps(_across(wanted - step, axis))
    center = _integers(whole - step)
    return Centered(center=center, move=base - center)


def _whole_steps(wanted: Floats) -> Floats:
    found: Floats = np.where(np.abs(wanted) <= 0.5 + SHIFT_TOLERANCE, 0.0, round_half_away(wanted))
    return found


def _across(shift: Floats, axis: Floats) -> Floats:
    """The part of a shift across a direction."""
    found: Floats = shift - (shift * axis).sum(axis=1)[:, None] * axis
    return found


def corner_of(center: Integers, box: int | Integers) -> Integers:
    """First pixel of the box whose center, index box / 2, is at `center`. Boxes of several sizes: shape (n, 1)."""
    return center - box // 2


def center_of(corner: Integers, box: int | Integers) -> Integers:
    """The center of a box, index box / 2, from its first pixel. Boxes of several sizes: shape (n, 1)."""
    return corner + box // 2


def box_corners(center: Floats | Integers, box: int, *, rounding: Rounding = "truncate") -> Integers:
    """First pixel (y, x) of the window of even side `box` around each center: center - box / 2, shape (n, 2).

    Centers that are not finite must be filtered out before.
    """
    center = np.asarray(center, dtype=np.float64)
    whole = round_half_away(center) if rounding == "nearest" else np.trunc(center)
    return _integers(whole) - box // 2


def inside(corner: Integers, box: int | Integers, shape: Integers | tuple[int, int]) -> Mask:
    """Whether the whole box lies in an image of `shape` (ny, nx); an exact fit is inside."""
    limit = np.asarray(shape, dtype=np.int64) - box
    held: Mask = np.all((corner >= 0) & (corner <= limit), axis=-1)
    return held


def overlaps(corner: Integers, box: int | Integers, shape: Integers | tuple[int, int]) -> Mask:
    """Whether at least one pixel of the box lies in an image of `shape` (ny, nx)."""
    touched: Mask = np.all((corner > -box) & (corner < np.asarray(shape, dtype=np.int64)), axis=-1)
    return touched


def too_close(
    position: Floats,
    micrograph: NDArray[np.intp],
    distance: Floats,
    score: Floats | None,
    copy_of: Integers | None = None,
) -> Mask:
    """Which picks lie closer than `distance` to a better one of the same micrograph.

    Best score first (ties and picks without score: earlier row first); a pick is dropped when a kept one is nearer
    than `distance`. Copies of one particle never drop each other.

    Parameters
    ----------
    position : ndarray, shape (n, 2), float64
    micrograph : ndarray, shape (n,)
    distance : ndarray, shape (n,), float64
        In pixels, one value per micrograph (repeated for its picks).
    score : ndarray, shape (n,), float64, optional
    copy_of : ndarray, shape (n,), int64, optional
        Equal values from 0 up mark copies.

    Returns
    -------
    ndarray of bool, shape (n,)
        True where the pick is to be rejected.
    """
    n = len(position)
    best_first = np.arange(n) if score is None else np.argsort(-np.nan_to_num(score, nan=-np.inf), kind="stable")
    order = best_first[np.argsort(micrograph[best_first], kind="stable")]
    particle = -1 - np.arange(n)
    if copy_of is not None:
        particle = np.where(copy_of >= 0, copy_of, particle)
    dropped = np.zeros(n, dtype=np.bool_)
    for rows in np.split(order, np.flatnonzero(np.diff(micrograph[order])) + 1):
        if len(rows):
            dropped[rows] = _near_a_kept_one(position[rows], float(distance[rows[0]]), particle[rows])
    return dropped


def _near_a_kept_one(position: Floats, distance: float, particle: Integers) -> list[bool]:
    """Go through the picks of one micrograph, best first: which are nearer than `distance` to a kept one?

    The kept ones stand in cells as wide as the distance, where different particles are too far apart for more than four
    to share a cell. So no pick is compared with more than a few others, however many lie in one place.
    """
    side = max(distance * (1 + 1e-9), FINEST_CELL)  # wider by more than rounding
    cells = np.clip(np.floor(position / side), -FARTHEST_CELL, FARTHEST_CELL).astype(np.int64)
    stride = 2 * FARTHEST_CELL + 3  # a margin, so that neighbors never wrap around
    around = [dy * stride + dx for dy in (0, -1, 1) for dx in (0, -1, 1)]
    # As a complex number a position is no array, and the absolute value of a difference is the C library's hypot.
    places = np.ascontiguousarray(position).view(np.complex128)[:, 0].tolist()
    kept: dict[int, dict[int, set[complex]]] = {}
    dropped = []
    for at, mine, cell in zip(places, particle.tolist(), (cells @ (stride, 1)).tolist(), strict=True):
        near = any(
            abs(at - other) < distance
            for step in around
            for one, others in kept.get(cell + step, {}).items()
            if one != mine
            for other in others
        )
        dropped.append(near)
        if not near:
            kept.setdefault(cell, {}).setdefault(mine, set()).add(at)
    return dropped


def _integers(whole: Floats) -> Integers:
    return np.clip(whole, -FAR, FAR).astype(np.int64)
