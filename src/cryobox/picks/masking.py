"""Which boxes lie on what is no good: defects of the detector, and what masks call junk."""

from __future__ import annotations

import contextvars
import itertools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from cryobox.errors import InputError
from cryobox.formats.masks import FoundMasks, Mask, read_mask
from cryobox.formats.star_text import listed
from cryobox.groups import DEFAULT_JUNK_THRESHOLD, Rectangle
from cryobox.micrograph import Micrographs

__all__ = ["Junk", "bad_part", "judge_of_noise", "on_junk", "on_labels", "over_rectangles", "with_masks"]

MOSTLY_BAD = 0.8  # MicrographCleaner: a map of which more is bad has failed
ASPECT_TOLERANCE = 0.01  # two binnings of one field of view: sides in the same ratio within this, and half a pixel
READERS = 4  # a mask and its sums are some 200 MB each

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Junk:
    """Which picks are on junk.

    Parameters
    ----------
    picks : ndarray of bool, shape (picks,)
    warnings : tuple of str
    """

    picks: Bools
    warnings: tuple[str, ...] = ()


def over_rectangles(corner: Ints, box: int | Ints, rectangles: Sequence[Rectangle]) -> Bools:
    """Which boxes have a pixel of one of the rectangles. `corner`: (y, x) of the first pixel of each, shape (n, 2)."""
    found = np.zeros(len(corner), np.bool_)
    for x0, y0, x1, y1 in rectangles:
        first, last = np.array([y0, x0]), np.array([y1, x1])
        found |= ((corner <= last) & (corner + box > first)).all(axis=1)
    return found


def on_junk(
    corner: Ints,
    alive: Bools,
    *,
    box: Ints,
    micrograph: NDArray[np.intp],
    shape: Ints,
    micrographs: Micrographs,
    masks: FoundMasks,
    threshold: float | None,
) -> Junk:
    """Which of the boxes that are `alive` their micrograph's mask calls junk.

    Each mask is read once, while no pixel of a micrograph is.

    Parameters
    ----------
    corner : ndarray, shape (n, 2)
        (y, x) of the first pixel of each box, in its micrograph.
    alive : ndarray of bool, shape (n,)
    box : ndarray, shape (micrographs,)
    micrograph : ndarray, shape (n,)
        Row in `micrographs`.
    shape : ndarray, shape (micrographs, 2)
        (ny, nx) of the files.
    micrographs : Micrographs
    masks : FoundMasks
    threshold : float, optional
        Of the mean of an MRC mask over a box.

    Raises
    ------
    InputError
        If a mask cannot be read, or does not fit its micrograph.
    """
    rows = np.flatnonzero(alive)
    rows = rows[np.argsort(micrograph[rows], kind="stable")]
    used, first = np.unique(micrograph[rows], return_index=True)
    some = dict(zip(used.tolist(), np.split(rows, first[1:]), strict=True))
    limit = DEFAULT_JUNK_THRESHOLD if threshold is None else threshold

    def judge(row: int) -> tuple[Bools, float]:
        mask = read_mask(masks.paths[row])
        size = (int(shape[row, 0]), int(shape[row, 1]))
        _check_aspect(mask, size, micrographs.paths[row])
        at = corner[some[row]]
        if mask.labels:
            return on_labels(mask.bad, at + box[row] // 2, size), 0.0
        whole = float(mask.bad.mean(dtype=np.float64))
        if whole > MOSTLY_BAD:
            return np.zeros(len(at), np.bool_), whole
        return bad_part(mask.bad, at, int(box[row]), size) >= limit, whole

    have = [row for row in some if row in masks.paths]
    found, failed = np.zeros(len(corner), np.bool_), []
    for row, (bad, whole) in zip(have, with_masks(judge, have), strict=True):
        found[some[row]] = bad
        if whole > MOSTLY_BAD:
            failed.append(f"{masks.paths[row]} ({100 * whole:.0f} %)")
    warnings = list(masks.warnings)
    if failed:
        warnings.append(
            f"{masks.source}: {len(failed)} masks call more than {100 * MOSTLY_BAD:.0f} % of their micrograph bad and "
            f"are ignored: {listed(failed, 5)}"
        )
    lacking = [micrographs.names[row] for row in some if row not in masks.paths]
    if lacking:
        warnings.append(
            f"{masks.source}: no mask of {len(lacking)} of {len(some)} micrographs, whose picks stay: "
            f"{listed(lacking, 5)}"
        )
    return Junk(picks=found, warnings=tuple(warnings))


def judge_of_noise(
    path: str, *, shape: tuple[int, int], box: int, micrograph: str, threshold: float | None
) -> Callable[[Ints], Bools] | None:
    """What tells of boxes of noise, by their first pixels, whether they lie on what a mask calls junk.

    As of picks, but that no pixel of such a box may have a label: a label map speaks of a pick by its center, which is
    where a particle is. None where the mask is ignored, as it calls nearly everything bad.

    Raises
    ------
    InputError
        If the mask cannot be read, or does not fit its micrograph.
    """
    mask = read_mask(path)
    _check_aspect(mask, shape, micrograph)
    limit = DEFAULT_JUNK_THRESHOLD if threshold is None else threshold
    if not mask.labels and float(mask.bad.mean(dtype=np.float64)) > MOSTLY_BAD:
        return None
    sums = _sums(mask.bad)

    def judge(corner: Ints) -> Bools:
        if not mask.labels:
            return _part(sums, corner, box, shape) >= limit
        first = corner * mask.bad.shape // shape
        last = -(-(corner + box) * mask.bad.shape // shape)  # up, so that pixels that the box has a part of count
        (y0, x0), (y1, x1) = first.T, last.T
        labeled: Bools = sums[y1, x1] - sums[y0, x1] - sums[y1, x0] + sums[y0, x0] > 0
        return labeled

    return judge


def with_masks(judge: Callable[[int], T], rows: Sequence[int]) -> list[T]:
    """What is found of each row, on some threads; the files that they read are noted by the caller's."""
    if not rows:
        return []
    with ThreadPoolExecutor(min(READERS, os.cpu_count() or 1)) as pool:
        # A copy for each: one context cannot be entered by two threads.
        contexts = [contextvars.copy_context() for _ in rows]
        return list(pool.map(lambda context, row: context.run(judge, row), contexts, rows))


def _check_aspect(mask: Mask, shape: tuple[int, int], micrograph: str) -> None:
    my, mx = mask.bad.shape
    ny, nx = shape
    slack = ASPECT_TOLERANCE + 0.5 / my + 0.5 / mx
    if abs((my / ny) / (mx / nx) - 1) > slack:
        raise InputError(
            f"{mask.path}: is {my} x {mx} pixels (ny x nx), but {micrograph} is {ny} x {nx}, which is no binning of "
            f"it; the mask of another micrograph, or turned?"
        )


def bad_part(mask: NDArray[np.float32], corner: Ints, box: int, shape: tuple[int, int]) -> Floats:
    """The mean of a mask over each box, or over the part of it that lies in the micrograph; shape (n,).

    A mask of another size covers the same field: each of its pixels is an area of the micrograph.
    """
    return _part(_sums(mask), corner, box, shape)


def _sums(mask: NDArray[Any]) -> Floats:
    """The sum of what stands above and left of each corner of a pixel."""
    sums = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1))
    np.cumsum(mask, axis=1, dtype=np.float64, out=sums[1:, 1:])
    for above, row in itertools.pairwise(sums):  # 20 ms for 4096 x 4096, where cumsum along columns needs 270
        row += above
    return sums


def _part(sums: Floats, corner: Ints, box: int, shape: tuple[int, int]) -> Floats:
    # The sum over an area is the difference of four corners; within a pixel it grows linearly along each axis.
    edges = []
    for axis in (0, 1):
        ends = np.clip(np.stack([corner[:, axis], corner[:, axis] + box]), 0, shape[axis])
        edges.append(ends * (sums.shape[axis] - 1) / shape[axis])
    (y0, y1), (x0, x1) = edges
    total = _at(sums, y1, x1) - _at(sums, y0, x1) - _at(sums, y1, x0) + _at(sums, y0, x0)
    area = (y1 - y0) * (x1 - x0)
    found: Floats = np.divide(total, area, out=np.zeros(len(corner)), where=area > 0)
    return found


def _at(sums: Floats, y: Floats, x: Floats) -> Floats:
    """The sum of the mask over the area before (y, x): its pixels are even, so that it is bilinear in each."""
    i = np.minimum(y.astype(np.intp), sums.shape[0] - 2)
    j = np.minimum(x.astype(np.intp), sums.shape[1] - 2)
    v, u = y - i, x - j
    upper = sums[i, j] * (1 - u) + sums[i, j + 1] * u
    lower = sums[i + 1, j] * (1 - u) + sums[i + 1, j + 1] * u
    found: Floats = upper * (1 - v) + lower * v
    return found


def on_labels(labels: Bools, center: Ints, shape: tuple[int, int]) -> Bools:
    """Whether there is a label at the pixel of each center: (y, x) in the micrograph, shape (n, 2).

    Labels are names and are never averaged: the map's pixel that the middle of the micrograph's lies in is asked.
    """
    place = []
    for axis in (0, 1):
        inside = np.clip(center[:, axis], 0, shape[axis] - 1)
        place.append((2 * inside + 1) * labels.shape[axis] // (2 * shape[axis]))
    found: Bools = labels[place[0], place[1]]
    return found
