"""What boxes have of masks and of excluded rectangles, literally."""

from __future__ import annotations

import math
from typing import Any

from numpy.typing import NDArray

__all__ = ["bad_part", "has_label", "label_at", "touches"]


def bad_part(mask: NDArray[Any], corner: tuple[int, int], box: int, shape: tuple[int, int]) -> float:
    """The mean of a mask over the part of a box that lies in the micrograph.

    The mask covers the same field as the micrograph of `shape`, in (ny, nx) pixels of its own: each is an area of the
    micrograph, and counts by how much of it the box covers.
    """
    height, width = shape[0] / mask.shape[0], shape[1] / mask.shape[1]  # of a pixel of the mask, in the micrograph's
    top, bottom = max(corner[0], 0), min(corner[0] + box, shape[0])
    left, right = max(corner[1], 0), min(corner[1] + box, shape[1])
    total = 0.0
    for i in range(mask.shape[0]):
        rows = min(bottom, (i + 1) * height) - max(top, i * height)
        if rows <= 0:
            continue
        for j in range(mask.shape[1]):
            columns = min(right, (j + 1) * width) - max(left, j * width)
            if columns > 0:
                total += float(mask[i, j]) * rows * columns
    return total / ((bottom - top) * (right - left))


def label_at(labels: NDArray[Any], center: tuple[int, int], shape: tuple[int, int]) -> int:
    """The label at a pixel of the micrograph of `shape`; for one outside, at the nearest that is inside."""
    place = []
    for axis in (0, 1):
        middle = min(max(center[axis], 0), shape[axis] - 1) + 0.5
        place.append(math.floor(middle * labels.shape[axis] / shape[axis]))
    return int(labels[place[0], place[1]])


def has_label(labels: NDArray[Any], corner: tuple[int, int], box: int, shape: tuple[int, int]) -> bool:
    """Whether any pixel of a label map that a box in the micrograph of `shape` has a part of bears a label."""
    rows, columns = (
        [i for i in range(n) if (i + 1) * side > first * n and i * side < (first + box) * n]
        for n, side, first in zip(labels.shape, shape, corner, strict=True)
    )
    return any(labels[i, j] > 0 for i in rows for j in columns)


def touches(corner: tuple[int, int], box: int, rectangle: tuple[int, int, int, int]) -> bool:
    """Whether a box has a pixel of a rectangle (x0, y0, x1, y1), whose corners are both included."""
    x0, y0, x1, y1 = rectangle
    rows = set(range(corner[0], corner[0] + box)) & set(range(y0, y1 + 1))
    columns = set(range(corner[1], corner[1] + box)) & set(range(x0, x1 + 1))
    return bool(rows) and bool(columns)
