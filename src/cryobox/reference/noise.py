"""Boxes of nothing but noise, literally: every place of a micrograph is looked at."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from cryobox.reference.dust import noise_key

__all__ = ["free_places", "noise_boxes"]

TRIES = 100


def free_places(
    shape: tuple[int, int],
    box: int,
    margin: int,
    centers: Sequence[tuple[int, int]],
    excluded: Sequence[tuple[int, int, int, int]],
) -> NDArray[np.bool_]:
    """Whether a box whose first pixel is (y, x) may lie there."""
    rows, columns = np.arange(shape[0]), np.arange(shape[1])
    free: NDArray[np.bool_] = np.logical_and.outer(
        (rows >= margin) & (rows + box + margin <= shape[0]), (columns >= margin) & (columns + box + margin <= shape[1])
    )
    for y, x in centers:
        free[np.ix_(abs(rows + box // 2 - y) < box, abs(columns + box // 2 - x) < box)] = False
    for x0, y0, x1, y1 in excluded:
        free[np.ix_((rows <= y1) & (rows + box > y0), (columns <= x1) & (columns + box > x0))] = False
    return free


def noise_boxes(
    count: int,
    *,
    stream: tuple[int, int],
    shape: tuple[int, int],
    box: int,
    margin: int,
    centers: Sequence[tuple[int, int]],
    excluded: Sequence[tuple[int, int, int, int]] = (),
    on_junk: Callable[[tuple[int, int]], bool] | None = None,
) -> list[tuple[int, int]]:
    """First pixels of the boxes: of the free places, row by row, the one of the next number modulo their count."""
    free, found = free_places(shape, box, margin, centers, excluded), list[tuple[int, int]]()
    number = passed = 0
    while len(found) < count and free.any() and passed < TRIES:
        in_row = free.sum(axis=1)
        at = noise_key(stream[0], (stream[1], number)) % int(in_row.sum())
        number += 1
        y = 0
        while at >= in_row[y]:
            at, y = at - int(in_row[y]), y + 1
        x = int(np.flatnonzero(free[y])[at])
        if on_junk is not None and on_junk((y, x)):
            passed += 1
            continue
        passed = 0
        found.append((y, x))
        free[max(y - box + 1, 0) : y + box, max(x - box + 1, 0) : x + box] = False
    return found
