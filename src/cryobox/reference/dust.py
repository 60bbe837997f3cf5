"""Pixels that are replaced by noise, literally: which they are, and the noise."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ALL", "GOLDEN", "dust_mask", "gaussian", "mixed", "noise_key", "replace_dust"]

ALL = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15
PAIRS = 32  # of draws for each pixel


def mixed(z: int) -> int:
    """The finalizer of SplitMix64."""
    z &= ALL
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & ALL
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & ALL
    return z ^ (z >> 31)


def noise_key(seed: int, corner: tuple[int, int]) -> int:
    """What a window's noise begins with: its micrograph's number and its first pixel (y, x)."""
    return mixed(mixed(mixed(seed) + corner[0]) + corner[1])


def gaussian(key: int, size: int, pixel: int) -> float:
    """The noise of one pixel of an image of side `size`: Marsaglia's polar method, every pixel with its own draws."""
    stream = mixed(key + size)
    for pair in range(PAIRS):
        x, y = (
            2 * ((mixed(stream + GOLDEN * (2 * (PAIRS * pixel + pair) + second + 1)) >> 11) + 0.5) * 2.0**-53 - 1
            for second in (0, 1)
        )
        square = x * x + y * y
        if 0 < square < 1:
            return x * math.sqrt(-2 * math.log(square) / square)
    return 0.0


def dust_mask(
    image: NDArray[Any], background: NDArray[np.bool_], white: float | None, black: float | None
) -> NDArray[np.bool_]:
    """Return the pixels that lie more than `white` sd above the background's mean, or `black` sd below it.

    Mean and sd (the population's) are those of the background, before its plane is subtracted: RELION's rule.
    """
    values = image.astype(np.float64)
    mean = float(values[background].mean())
    sd = math.sqrt(float(((values[background] - mean) ** 2).mean()))
    found = np.zeros(values.shape, np.bool_)
    if white is not None:
        found |= values - mean > white * sd
    if black is not None:
        found |= values - mean < -black * sd
    return found


def replace_dust(
    image: NDArray[Any], background: NDArray[np.bool_], white: float | None, black: float | None, key: int
) -> NDArray[np.float64]:
    """Put Gaussian noise of the background's mean and sd in place of the pixels that are dust."""
    values: NDArray[np.float64] = image.astype(np.float64)
    mean = float(values[background].mean())
    sd = math.sqrt(float(((values[background] - mean) ** 2).mean()))
    found = values.copy()
    for y, x in np.argwhere(dust_mask(values, background, white, black)).tolist():
        found[y, x] = mean + sd * gaussian(key, len(values), y * len(values) + x)
    return found
