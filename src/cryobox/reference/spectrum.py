"""What is done to a window in Fourier space, literally."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cryobox.reference.geometry import Floats

__all__ = ["ctf_factors", "filter_factors", "filtered", "moved", "times", "with_ctf"]


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


def _zernike(i: int, x: Floats, y: Floats) -> Floats:
    """Number `i` of RELION's even Zernike polynomials."""
    k = math.isqrt(i)
    m, n = 2 * (i - k * k - k), 2 * k
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    radial = np.zeros_like(x)
    for j in range((n - abs(m)) // 2 + 1):
        below = math.factorial(j) * math.factorial((n + m) // 2 - j) * math.factorial((n - m) // 2 - j)
        radial += (-1) ** j * math.factorial(n - j) / below * radius ** (n - 2 * j)
    around: Floats = np.cos(m * angle) if m >= 0 else np.sin(-m * angle)
    return radial * around


def ctf_factors(
    n: int, pixel_size: float, numbers: NDArray[np.float64], use: Literal["flip", "premultiply"], intact: bool
) -> Floats:
    """What the coefficients of a window of n pixels are multiplied by, (ky, kx); docs/conventions.md has the formula.

    Parameters
    ----------
    n : int
    pixel_size : float
        Å.
    numbers : ndarray
        Voltage (kV), Cs (mm), amplitude contrast, defocus U and V (Å), its angle and the phase shift (degrees),
        B-factor (Å²), scale, magnification matrix by rows; then coefficients of even Zernike polynomials.
    use : {"flip", "premultiply"}
        With the sign of the CTF, or with the CTF.
    intact : bool
        1 below the first peak.
    """
    kv, cs, contrast, u, v, angle, phase, bfactor, scale, m00, m01, m10, m11 = (float(one) for one in numbers[:13])
    k = _frequencies(n)
    ky, kx = np.meshgrid(k, k, indexing="ij")
    # A real image's coefficients come in pairs: that of negative kx is the one opposite; the row n / 2 is its own.
    ky, kx = np.where((kx < 0) & (2 * ky != n), -ky, ky), np.abs(kx)
    x0, y0 = kx / (n * pixel_size), ky / (n * pixel_size)
    x, y = m00 * x0 + m01 * y0, m10 * x0 + m11 * y0
    square = x**2 + y**2
    wavelength = 12.2643247 / math.sqrt(kv * 1e3 * (1 + kv * 1e3 * 0.978466e-6))
    a = math.radians(angle)
    axx = -(u * math.cos(a) ** 2 + v * math.sin(a) ** 2)
    ayy = -(u * math.sin(a) ** 2 + v * math.cos(a) ** 2)
    axy = -(u - v) * math.sin(a) * math.cos(a)
    gamma = math.pi * wavelength * (axx * x**2 + 2 * axy * x * y + ayy * y**2)
    gamma += math.pi / 2 * cs * 1e7 * wavelength**3 * square**2 - math.radians(phase) - math.asin(contrast)
    for i, coefficient in enumerate(numbers[13:].tolist()):
        gamma += coefficient * _zernike(i, x, y)
    factor = np.where(intact & (np.abs(gamma) < math.pi / 2), 1.0, -np.sin(gamma)) * np.exp(-bfactor * square / 4)
    if use == "flip":
        factor = np.where(factor < 0, -1.0, 1.0)
    factor = factor * scale
    found: Floats = np.where(np.abs(factor) < 1e-8, np.where(factor < 0, -1e-8, 1e-8), factor)
    return found


def with_ctf(image: NDArray[Any], corner: tuple[int, int], box: int, factors: Floats) -> tuple[float, Floats] | None:
    """A box whose coefficients are multiplied in a larger window about it, without its mean; and what is left of that.

    Outside the image the window has the mean of the image's finite pixels. In the box that is cut out of its middle
    afterwards, pixels outside become the nearest ones inside. None where a value is not finite.
    """
    side, (height, width) = len(factors), image.shape
    around = (side - box) // 2
    rows = corner[0] - around + np.arange(side)
    columns = corner[1] - around + np.arange(side)
    inside = ((rows >= 0) & (rows < height))[:, None] & ((columns >= 0) & (columns < width))[None, :]
    wide = image.astype(np.float64)
    pixels = wide[np.clip(rows, 0, height - 1)[:, None], np.clip(columns, 0, width - 1)[None, :]]
    if not inside.all():
        finite = wide[np.isfinite(wide)]
        pixels = np.where(inside, pixels, math.fsum(finite) / max(finite.size, 1))
    if not np.isfinite(pixels).all():
        return None
    mean = math.fsum(pixels.ravel()) / pixels.size
    treated = times(pixels - mean, factors)[around : around + box, around : around + box]
    y = np.clip(np.arange(box), max(0, -corner[0]), min(box, height - corner[0]) - 1)
    x = np.clip(np.arange(box), max(0, -corner[1]), min(box, width - corner[1]) - 1)
    return mean * float(factors[0, 0]), treated[y[:, None], x[None, :]]
