"""Geometry of tubes: points at equal distances along polylines, and the directions of segments. Columns only.

Positions are (y, x) in pixels of the micrograph; a direction is rlnAnglePsiPrior, -atan2(dy, dx) in degrees.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Segments", "axis_of", "cut_along", "directions", "distances_along", "middles", "psi_of", "too_many"]

FIRST = 0.01  # of a step: where RELION cuts the first segment, so that none lies on the very end
ANGLE_DIGITS = 6
END_TOLERANCE = 1e-9  # of a step: a segment on the very end is on the tube, whatever rounding says
MOST_SEGMENTS = 2**28

Floats = NDArray[np.float64]
Integers = NDArray[np.intp]


@dataclass(frozen=True, slots=True, kw_only=True)
class Segments:
    """Points on tubes, tube by tube.

    Parameters
    ----------
    tube : ndarray, shape (n,), intp
        Which tube each lies on.
    number : ndarray, shape (n,), int64
        Its number on the tube, from 0.
    center : ndarray, shape (n, 2), float64
    psi : ndarray, shape (n,), float64
    length : ndarray, shape (tubes,), float64
        Pixels along each tube.
    """

    tube: Integers
    number: NDArray[np.int64]
    center: Floats
    psi: Floats
    length: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pieces:
    """Straight pieces of polylines: those without a length are left out."""

    tube: Integers
    begin: Floats  # (pieces, 2)
    unit: Floats  # (pieces, 2)
    psi: Floats
    before: Floats  # length of the tube up to there
    length: Floats  # of each tube


def psi_of(step: Floats) -> Floats:
    """Direction of vectors (dy, dx), shape (n, 2), in degrees: to the last digit that a STAR file has."""
    angle: Floats = -np.degrees(np.arctan2(step[:, 0], step[:, 1]))
    found: Floats = np.round(angle, ANGLE_DIGITS) + 0.0  # + 0.0: no -0
    return found


def axis_of(psi: Floats) -> Floats:
    """Unit vector (y, x) along a tube of direction `psi`, shape (n, 2)."""
    angle = np.radians(psi)
    return np.stack([-np.sin(angle), np.cos(angle)], axis=1)


def cut_along(points: Floats, tube: Integers, step: Floats) -> Segments:
    """Segments every `step` pixels along polylines, the first one 0.01 step behind the beginning, as RELION cuts them.

    Parameters
    ----------
    points : ndarray, shape (m, 2), float64
        The vertices, tube by tube.
    tube : ndarray, shape (m,), intp
        Of each vertex, ascending from 0.
    step : ndarray, shape (tubes,), float64
    """
    pieces = _pieces(points, tube, len(step))
    count = _counts(pieces.length, step)
    of = np.repeat(np.arange(len(step), dtype=np.intp), count)
    number = np.arange(len(of), dtype=np.int64) - np.repeat(np.cumsum(count) - count, count)
    return _at(pieces, of, number, (number + FIRST) * step[of])


def too_many(points: Floats, tube: Integers, step: Floats) -> bool:
    """Whether `cut_along` would make more segments than any run has."""
    return float(_counts(_pieces(points, tube, len(step)).length, step).sum(dtype=np.float64)) > MOST_SEGMENTS


def middles(points: Floats, tube: Integers, tubes: int) -> Segments:
    """One segment in the middle of each tube, measured along it; none where it has no length."""
    pieces = _pieces(points, tube, tubes)
    of = np.flatnonzero(pieces.length > 0)
    return _at(pieces, of, np.zeros(len(of), np.int64), pieces.length[of] / 2)


def _counts(length: Floats, step: Floats) -> NDArray[np.int64]:
    with np.errstate(over="ignore"):
        whole = np.floor(length / step - FIRST + END_TOLERANCE) + 1
    found: NDArray[np.int64] = np.clip(whole, 0, 2.0**40).astype(np.int64)
    return found


def _pieces(points: Floats, tube: Integers, tubes: int) -> _Pieces:
    difference = np.diff(points, axis=0)
    long = np.hypot(difference[:, 0], difference[:, 1])
    at = np.flatnonzero((tube[1:] == tube[:-1]) & (long > 0))
    of, length = tube[at], long[at]
    before = np.cumsum(length) - length
    first = np.searchsorted(of, of)
    return _Pieces(
        tube=of,
        begin=points[at],
        unit=difference[at] / length[:, None],
        psi=psi_of(difference[at]),
        before=before - before[first] if len(of) else before,
        length=np.bincount(of, length, minlength=tubes).astype(np.float64),
    )


def _at(pieces: _Pieces, of: Integers, number: NDArray[np.int64], along: Floats) -> Segments:
    """Points `along` tubes `of`, in pixels from their beginnings."""
    base = np.cumsum(pieces.length) - pieces.length  # all tubes behind each other, so that one search finds the pieces
    piece = np.searchsorted(base[pieces.tube] + pieces.before, base[of] + along, side="right") - 1
    piece = np.clip(piece, np.searchsorted(pieces.tube, of), np.searchsorted(pieces.tube, of, side="right") - 1)
    center = pieces.begin[piece] + pieces.unit[piece] * (along - pieces.before[piece])[:, None]
    return Segments(tube=of, number=number, center=center, psi=pieces.psi[piece], length=pieces.length)


def directions(position: Floats, tube: Integers, order: Floats) -> Floats:
    """The direction from the neighbor before each segment to the one behind it; nan where there is none.

    Parameters
    ----------
    position : ndarray, shape (n, 2), float64
    tube : ndarray, shape (n,), intp
    order : ndarray, shape (n,), float64
        Segments of a tube stand in this order; equal ones in that of the rows.
    """
    n = len(tube)
    rows = np.lexsort((np.arange(n), order, tube))
    same = tube[rows][1:] == tube[rows][:-1]
    before, behind = rows.copy(), rows.copy()
    before[1:][same] = rows[:-1][same]
    behind[:-1][same] = rows[1:][same]
    step = position[behind] - position[before]
    found = np.full(n, np.nan)
    found[rows] = np.where(step.any(axis=1), psi_of(step), np.nan)
    return found


def distances_along(position: Floats, tube: Integers) -> Floats:
    """Pixels from the first segment of each tube to each of its segments, from one to the next in the rows' order."""
    rows = np.argsort(tube, kind="stable")
    step = np.zeros(len(tube))
    difference = np.diff(position[rows], axis=0)
    same = tube[rows][1:] == tube[rows][:-1]
    step[1:][same] = np.hypot(difference[:, 0], difference[:, 1])[same]
    total = np.cumsum(step)
    found = np.empty(len(tube))
    found[rows] = total - total[np.searchsorted(tube[rows], tube[rows])]
    return found
