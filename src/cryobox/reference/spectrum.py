"""What is done to a window in Fourier space, literally."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryobox.reference.geometry import Floats

__all__ = ["filter_factors", "filtered", "moved", "times"]


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


def _transform(n: int) -> NDArray[np.complex128]:
    """The matrix of the discrete Fourier transform of n points."""
    k = np.arange(n)
    matrix: NDArray[np.complex128] = np.exp(-2j * np.pi * (k[:, None] * k[None, :] % n) / n)
    return matrix


def times(image: NDArray[Any], factors: Floats) -> Floats:
    """A square image whose coefficients are multiplied; the real part of what that gives."""
    to = _transform(image.shape[0])
    back = to.conj() / image.shape[0]
    found: Floats = (back @ ((to @ image.astype(np.float64) @ to.T) * factors) @ back.T).real
    return found


def _frequencies(n: int) -> NDArray[np.int64]:
    """Of each coefficient; n / 2 is positive."""
    k = np.arange(n)
    return np.where(k > n // 2, k - n, k)


def _falling(n: int, pixel_size: float, resolution: float, width: float) -> Floats:
    """Factors that fall from 1 to 0 at a resolution: half a cosine about its radius, which is a whole number."""
    radius = math.floor(n * pixel_size / resolution + 0.5)
    low, high = max(0.0, radius - width / 2), min(n / 2, radius + width / 2)
    k = _frequencies(n)
    distance = np.hypot(k[:, None], k[None, :])
    return np.where(
        distance < low, 1.0,
        np.where(distance > high, 0.0, 0.5 + 0.5 * np.cos(np.pi * (distance - low) / (high - low))),
    )  # fmt: skip


def filter_factors(n: int, pixel_size: float, lowpass: float | None, highpass: float | None, width: float) -> Floats:
    """What the coefficients of a square image of n pixels are multiplied by; the first is the mean's."""
    factors = np.ones((n, n))
    if lowpass is not None:
        factors = factors * _falling(n, pixel_size, lowpass, width)
    if highpass is not None:
        factors = factors * (1 - _falling(n, pixel_size, highpass, width))
    return factors


def filtered(
    image: NDArray[Any], pixel_size: float, lowpass: float | None, highpass: float | None, width: float = 2.0
) -> Floats:
    """An image without what is finer than `lowpass` and coarser than `highpass`, in Å."""
    return times(image, filter_factors(image.shape[0], pixel_size, lowpass, highpass, width))
