"""What is done to a window in Fourier space, literally."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryobox.reference.geometry import Floats

__all__ = ["moved"]


def moved(image: NDArray[Any], shift: NDArray[np.float64], size: int) -> Floats:
    """A square image moved by (y, x) pixels of its own, and Fourier-cropped to (size, size) after that.

    Each axis alone, as a real operator: a point of the result is the image's trigonometric polynomial, without what
    lies beyond size / 2, at i n / size - shift. At size / 2 it has the mean of both signs.
    """
    y, x = (_moving_crop(image.shape[0], size, float(by)) for by in shift)
    return y @ image.astype(np.float64) @ x.T


def _moving_crop(n: int, m: int, shift: float) -> Floats:
    """The matrix of one axis: (1/n) sum over |k| <= m/2 of cos(2 pi k (i/m - (j + shift)/n)), the last ones halved."""
    k = np.arange(m // 2 + 1)
    weight = np.where((k == 0) | (2 * k == m), 1.0, 2.0) / n
    there = 2 * np.pi * np.arange(m)[:, None] * k / m
    here = 2 * np.pi * k[:, None] * (np.arange(n) + shift) / n
    cosines: Floats = (weight * np.cos(there)) @ np.cos(here) + (weight * np.sin(there)) @ np.sin(here)
    return cosines
