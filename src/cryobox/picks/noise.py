"""Where boxes of nothing but noise lie: away from every pick and each other, drawn from all places that are left."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from cryobox.centering import corner_of
from cryobox.groups import Rectangle
from cryobox.windows import noise_keys

__all__ = ["JUNK_TRIES", "noise_corners"]

JUNK_TRIES = 100  # places on junk, drawn one after the other, after which a micrograph counts as full
DRAWN = 64  # numbers at a time
FEW = 2**15 - 1  # what counts in int16, which halves the time of the sums

Ints = NDArray[np.int64]


def noise_corners(
    count: int,
    *,
    stream: tuple[int, int],
    shape: tuple[int, int],
    box: int,
    margin: int,
    centers: Ints,
    excluded: Sequence[Rectangle] = (),
    on_junk: Callable[[Ints], NDArray[np.bool_]] | None = None,
) -> Ints:
    """First pixels (y, x) of at most `count` boxes in one micrograph; fewer where no place is left.

    A place is free where the box lies wholly in the micrograph, `margin` pixels from its edges, touches no excluded
    rectangle, and where along y or x its center is at least a box from that of every pick, and of every box drawn
    before. Of the free places, row by row, the one of the next number of the stream modulo their count is taken; one
    on junk is passed over.

    Parameters
    ----------
    count : int
    stream : tuple of int
        A number of the micrograph, and the seed: what is drawn depends on these and on what is free.
    shape : tuple of int
        (ny, nx)
    box, margin : int
    centers : ndarray, shape (n, 2), int64
        (y, x) of the boxes of all picks.
    excluded : sequence of (x0, y0, x1, y1)
    on_junk : callable, optional
        Which of some boxes, by their first pixels, lie on junk.

    Returns
    -------
    ndarray, shape (n, 2), int64
        In the order in which they were drawn.
    """
    first, last = np.array([margin, margin]), np.array(shape) - box - margin  # of the first pixel, both included
    if count < 1 or (last < first).any():
        return np.empty((0, 2), np.int64)
    near = corner_of(centers, box)
    blocked = [np.hstack([near - box + 1, near + box])]
    blocked += [np.array([[y0 - box + 1, x0 - box + 1, y1 + 1, x1 + 1]]) for x0, y0, x1, y1 in excluded]
    free = _free(np.concatenate(blocked).astype(np.int64), (*first.tolist(), *(last + 1).tolist()))
    found: list[list[int]] = []
    numbers, passed = _numbers(*stream), 0
    while len(found) < count and len(free) and passed < JUNK_TRIES:
        corner = _place(free, next(numbers))
        if on_junk is not None and on_junk(np.array([corner]))[0]:
            passed += 1
            continue
        passed = 0
        found.append(corner)
        y, x = corner
        free = _without(free, (y - box + 1, x - box + 1, y + box, x + box))
    return np.array(found, np.int64).reshape(-1, 2)


def _numbers(micrograph: int, seed: int) -> Iterator[int]:
    begin = 0
    while True:
        pairs = np.column_stack([np.full(DRAWN, seed), np.arange(begin, begin + DRAWN)])
        yield from noise_keys(micrograph, pairs).tolist()
        begin += DRAWN


def _free(blocked: Ints, whole: tuple[int, int, int, int]) -> Ints:
    """What is left of an area, as rectangles that do not overlap; all are (y0, x0, y1, x1), the last ones not included.

    Between the edges of what is blocked every line is alike, so that counting what covers each field of that grid, by
    sums of its changes, tells of every place.
    """
    low, high = np.array(whole[:2]), np.array(whole[2:])
    begin, end = np.maximum(blocked[:, :2], low), np.minimum(blocked[:, 2:], high)
    begin, end = (part[(begin < end).all(axis=1)] for part in (begin, end))
    edges, at = [], []
    for axis in (0, 1):
        every, index = np.unique(
            np.concatenate([begin[:, axis], end[:, axis], [low[axis], high[axis]]]), return_inverse=True
        )
        edges.append(every)
        at.append((index[: len(begin)], index[len(begin) : -2]))
    (y0, y1), (x0, x1) = at
    count = np.zeros((len(edges[0]), len(edges[1])), np.int16 if len(blocked) < FEW else np.int32)
    for i, j, change in ((y0, x0, 1), (y0, x1, -1), (y1, x0, -1), (y1, x1, 1)):
        np.add.at(count, (i, j), np.array(change, count.dtype))
    for above, line in itertools.pairwise(count):  # a third of the time of cumsum along columns
        line += above
    np.cumsum(count, axis=1, out=count)
    # The last row and column are beyond the area: each run of free fields ends there at the latest.
    free = count == 0
    free[-1] = free[:, -1] = False
    flat = free.ravel()
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    if flat[0]:
        changes = np.concatenate([[0], changes])
    row, left = np.divmod(changes[::2], free.shape[1])
    right = changes[1::2] % free.shape[1]
    return np.column_stack([edges[0][row], edges[1][left], edges[0][row + 1], edges[1][right]])


def _place(free: Ints, number: int) -> list[int]:
    """The place (y, x) of a number, modulo their count, among all that are free, row by row."""
    width = free[:, 3] - free[:, 1]
    top = int(free[:, 0].min())
    # How many are free in each row, from its changes; then how many up to its end.
    change = np.zeros(int(free[:, 2].max()) - top + 1, np.int64)
    np.add.at(change, free[:, 0] - top, width)
    np.add.at(change, free[:, 2] - top, -width)
    until = np.cumsum(np.cumsum(change))
    at = number % int(until[-1])
    row = int(np.searchsorted(until, at, side="right"))
    at -= int(until[row - 1]) if row else 0
    y = top + row
    here = free[(free[:, 0] <= y) & (y < free[:, 2])]
    here = here[np.argsort(here[:, 1])]
    past = np.cumsum(here[:, 3] - here[:, 1])
    run = int(np.searchsorted(past, at, side="right"))
    return [y, int(here[run, 3]) - (int(past[run]) - at)]


def _without(free: Ints, square: tuple[int, int, int, int]) -> Ints:
    """What is left of rectangles: each that meets the square becomes what lies above, below, left and right of it."""
    y0, x0, y1, x1 = square
    meets = (free[:, 0] < y1) & (free[:, 2] > y0) & (free[:, 1] < x1) & (free[:, 3] > x0)
    cut = free[meets]
    top, bottom = np.maximum(cut[:, 0], y0), np.minimum(cut[:, 2], y1)
    pieces = [
        np.column_stack([cut[:, 0], cut[:, 1], top, cut[:, 3]]),
        np.column_stack([bottom, cut[:, 1], cut[:, 2], cut[:, 3]]),
        np.column_stack([top, cut[:, 1], bottom, np.minimum(cut[:, 3], x0)]),
        np.column_stack([top, np.maximum(cut[:, 1], x1), bottom, cut[:, 3]]),
    ]
    some = np.concatenate(pieces)
    some = some[(some[:, 2] > some[:, 0]) & (some[:, 3] > some[:, 1])]
    return np.concatenate([free[~meets], some])
