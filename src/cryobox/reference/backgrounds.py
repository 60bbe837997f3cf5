"""Which pixels of an image are background where that is not a circle's outside, literally."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["SMALLEST_PART_LEFT", "tube_mask", "without_neighbors"]

SMALLEST_PART_LEFT = 0.2  # of a background, without its neighbors; where less is left, it counts whole

Mask = NDArray[np.bool_]


def tube_mask(size: int, angle: float, radius: float) -> Mask:
    """Return where |i cos(angle) + j sin(angle)| > radius, i and j rows and columns counted from size/2.

    That is the distance to an axis through the center in the direction -angle (degrees, rlnAnglePsiPrior), as RELION
    5 measures it.
    """
    i = np.arange(size) - size // 2
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    mask: Mask = np.abs(i[:, None] * cosine + i[None, :] * sine) > radius
    return mask


def without_neighbors(
    mask: Mask, corner: tuple[int, int], box: int, neighbors: Sequence[tuple[float, float]], radius: float
) -> tuple[Mask, bool]:
    """Take the pixels within `radius` of any other particle out of a background.

    Parameters
    ----------
    mask : ndarray, shape (size, size)
        The background.
    corner : (int, int)
        First pixel (y, x) of the box in the micrograph.
    box : int
    neighbors : sequence of (float, float)
        Centers (y, x) in the micrograph of all particles there; that of the box itself is no neighbor.
    radius : float
        Pixels of the image.

    Returns
    -------
    mask : ndarray
    crowded : bool
        True where less than a fifth would be left: the mask is the given one then.
    """
    size = len(mask)
    i = np.arange(size) - size // 2
    left = mask.copy()
    for y, x in neighbors:
        dy, dx = y - (corner[0] + box // 2), x - (corner[1] + box // 2)
        if (dy, dx) != (0, 0):
            left &= (i[:, None] - dy * size / box) ** 2 + (i[None, :] - dx * size / box) ** 2 > radius * radius
    crowded = bool(left.sum() < SMALLEST_PART_LEFT * mask.sum())
    return (mask if crowded else left), crowded
