"""Pictures as pixels: gray levels by percentiles, larger pixels, numbers below images, rings around picks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["LETTERS", "colored", "enlarged", "levels", "with_label", "with_rings"]

Floats = NDArray[np.float32]
Gray = NDArray[np.uint8]

MARK = (64, 255, 64)  # of a ring: seen on light and on dark
LETTERS: dict[str, tuple[int, ...]] = {
    "0": (7, 5, 5, 5, 7), "1": (2, 6, 2, 2, 7), "2": (7, 1, 7, 4, 7), "3": (7, 1, 3, 1, 7), "4": (5, 5, 7, 1, 1),
    "5": (7, 4, 7, 1, 7), "6": (7, 4, 7, 5, 7), "7": (7, 1, 2, 2, 2), "8": (7, 5, 7, 5, 7), "9": (7, 5, 7, 1, 7),
    "-": (0, 0, 7, 0, 0), "+": (0, 2, 7, 2, 0), ".": (0, 0, 0, 0, 2), "e": (0, 7, 5, 6, 7), " ": (0, 0, 0, 0, 0),
}  # fmt: skip
"""Rows of three dots each, as bits, of what numbers are made of."""
LABEL = 14  # pixels of a line of text: five dots of two pixels, and a margin
DOT = 2


def levels(image: Floats, percent: float) -> Gray:
    """Gray levels from the pixel below which `percent` of all lie to that above which as many do."""
    values = image[np.isfinite(image)]
    if not len(values):
        return np.zeros(image.shape, np.uint8)
    low, high = (float(end) for end in np.percentile(values, (percent, 100 - percent)))
    scaled = (np.nan_to_num(image, nan=low, posinf=high, neginf=low) - low) / ((high - low) or 1.0)
    found: Gray = (np.clip(scaled, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)
    return found


def enlarged(picture: Gray, factor: int) -> Gray:
    """Each pixel as a square of `factor` pixels."""
    return picture if factor == 1 else picture.repeat(factor, axis=0).repeat(factor, axis=1)


def with_label(picture: Gray, text: str) -> Gray:
    """A picture with a line of numbers below, as much of it as there is room for."""
    line = np.full((LABEL, picture.shape[1]), 255, np.uint8)
    for number, letter in enumerate(text):
        left = 2 + number * 4 * DOT
        if left + 3 * DOT > line.shape[1]:
            break
        rows = np.array(LETTERS.get(letter, LETTERS[" "]))
        dots = (rows[:, None] >> np.array([2, 1, 0])) & 1
        line[2 : 2 + 5 * DOT, left : left + 3 * DOT][enlarged(dots.astype(np.uint8), DOT) > 0] = 0
    return np.vstack([picture, line])


def colored(picture: Gray) -> Gray:
    """Gray as red, green and blue, shape (ny, nx, 3)."""
    return np.repeat(picture[:, :, None], 3, axis=2)


def with_rings(picture: Gray, centers: Sequence[tuple[float, float]], radius: float, width: float = 1.5) -> Gray:
    """A picture in color with a ring around each center (y, x)."""
    found = colored(picture)
    reach = math.ceil(radius + width)
    for y, x in centers:
        top, left = max(0, math.floor(y) - reach), max(0, math.floor(x) - reach)
        part = found[top : math.floor(y) + reach + 2, left : math.floor(x) + reach + 2]
        if part.size:
            rows, columns = np.arange(part.shape[0])[:, None] + top, np.arange(part.shape[1])[None] + left
            part[np.abs(np.hypot(rows - y, columns - x) - radius) <= width / 2] = MARK
    return found
