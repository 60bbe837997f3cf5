"""What is made of the pixels of a box, literally."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cryobox.reference.backgrounds import tube_mask, without_neighbors
from cryobox.reference.dust import replace_dust
from cryobox.reference.geometry import (
    NO_CONTRAST,
    NOT_FINITE,
    OK,
    Floats,
    edge_status,
    window,
)
from cryobox.reference.spectrum import ctf_factors, filter_factors, moved, times, with_ctf

__all__ = [
    "background_mask",
    "crop_matrix",
    "extract",
    "fourier_crop",
    "lowpass",
    "normalize",
    "pad_with_mean",
]


@lru_cache(maxsize=64)
def _crop_matrix(n: int, m: int) -> Floats:
    # The sum in closed form, sin(theta m/2) / tan(theta/2) with theta = 2 pi (i/m - j/n): the literal sum of m/2 terms
    # takes minutes where m is a thousand. theta is a whole multiple of 2 pi / (m n), taken modulo its periods in
    # integers, so that a sine never sees a large argument.
    multiple = np.arange(m, dtype=np.int64)[:, None] * n - np.arange(n, dtype=np.int64)[None, :] * m
    half_theta = np.pi * (multiple % (m * n)) / (m * n)
    zero = half_theta == 0
    total = np.sin(np.pi * (multiple % (2 * n)) / n) / np.tan(np.where(zero, 1.0, half_theta))
    matrix: Floats = np.where(zero, m, total) / n
    matrix.setflags(write=False)
    return matrix


def crop_matrix(n: int, m: int) -> Floats:
    """Return the (m, n) matrix A of the Fourier crop from n to m points: a cropped image is A @ image @ A.T.

    A[i, j] = (1/n) * (1 + 2 * sum over k = 1 ... m/2 - 1 of cos(2 pi k (i/m - j/n)) + cos(pi m (i/m - j/n))):
    the frequencies below m/2 are kept, and at m/2 the average of +m/2 and -m/2. It is the identity for m == n.

    Raises
    ------
    ValueError
        Unless both are even and 2 <= m <= n.
    """
    if n % 2 or m % 2 or not 2 <= m <= n:
        raise ValueError(f"a crop goes from an even number of points to an even number, at least 2; got {n} to {m}")
    return _crop_matrix(n, m)


def fourier_crop(image: NDArray[Any], size: int) -> Floats:
    """Crop a square image to (size, size) in Fourier space, keeping its gray levels."""
    matrix = crop_matrix(image.shape[0], size)
    out: Floats = matrix @ image.astype(np.float64) @ matrix.T
    return out


def background_mask(size: int, radius: float) -> NDArray[np.bool_]:
    """Return where i*i + j*j > radius*radius, with indices counted from the image's center, size/2."""
    i = np.arange(size) - size // 2
    mask: NDArray[np.bool_] = i[:, None] ** 2 + i[None, :] ** 2 > radius * radius
    return mask


def normalize(
    image: NDArray[Any],
    radius: float,
    *,
    ramp: bool = True,
    scale_const: float | None = None,
    cropped: bool = False,
    mask: NDArray[np.bool_] | None = None,
) -> Floats | None:
    """Make the background's plane and mean zero and its standard deviation one.

    The least-squares plane over the background is subtracted everywhere (`ramp`); then (v - mean) / sd, of the
    background, with the population's sd (divided by n, not n - 1). With `scale_const` that number divides instead of
    the sd. None where the sd is not finite, or zero but for rounding (1e-12 of the background's root mean square; of a
    `cropped` image also 1e-6 of the whole image's about its mean, which is what a float32 transform leaves): such a
    particle is rejected. `mask` is the background, where it is not what lies beyond `radius`.
    """
    size = image.shape[0]
    mask = background_mask(size, radius) if mask is None else mask
    out: Floats = image.astype(np.float64)
    if not np.isfinite(out).all():
        return None
    rms = math.sqrt(float((out[mask] ** 2).mean()))
    y, x = np.mgrid[:size, :size].astype(np.float64) - size // 2
    if ramp:
        design = np.stack([np.ones(int(mask.sum())), y[mask], x[mask]], axis=1)
        varies = np.array([True, *(np.ptp(design[:, 1:], axis=0) > 0)])  # one row or column has no slope across it
        solved = np.zeros(3)
        solved[varies] = np.linalg.lstsq(design[:, varies], out[mask], rcond=None)[0]
        constant, slope_y, slope_x = solved
        out = out - (constant + slope_y * y + slope_x * x)
    mean = float(out[mask].mean())
    sd = math.sqrt(float(((out[mask] - mean) ** 2).mean()))
    if sd <= 1e-12 * rms or not math.isfinite(sd):
        return None
    if cropped and sd <= 1e-6 * float(image.astype(np.float64).std()):
        return None
    scaled: Floats = (out - mean) / (sd if scale_const is None else scale_const)
    return scaled


_normalize = normalize  # `extract` has a parameter of that name


def extract(
    image: NDArray[Any],
    corners: Sequence[tuple[int, int]] | NDArray[np.integer[Any]],
    *,
    box: int,
    sizes: Sequence[int],
    radii: Sequence[float],
    edges: Literal["reject", "pad"] = "reject",
    normalize: bool = True,
    ramp: bool = True,
    invert: bool = False,
    scale_const: float | None = None,
    tube: bool = False,
    angles: Sequence[float] | None = None,
    neighbors: Sequence[tuple[float, float]] = (),
    white_dust: float | None = None,
    black_dust: float | None = None,
    keys: Sequence[int] | None = None,
    measures: bool = False,
    residual: NDArray[np.float64] | None = None,
    pixel_size: float = math.nan,
    lowpass: float | None = None,
    highpass: float | None = None,
    filter_width: float = 2.0,
    ctf: Literal["flip", "premultiply"] | None = None,
    ctf_box: int | None = None,
    ctf_intact_first_peak: bool = False,
    ctfs: NDArray[np.float64] | None = None,
) -> tuple[tuple[Floats, ...], tuple[str, ...]]:
    """Cut, crop and normalize particles.

    For each: window; minus the window's mean; times its CTF; filtered; moved by its `residual`; Fourier crop to every
    size, each from the whole window; dust; normalize (or add what is left of the mean back); times -1 if `invert`. A
    window with a value that is not finite is `NOT_FINITE`; one that any of the sizes cannot be normalized for is
    `NO_CONTRAST`. Rejected particles are zeros.

    Parameters
    ----------
    image : ndarray, shape (ny, nx)
    corners : sequence of (y, x)
        First row and column of each window.
    box : int
        Side of the window.
    sizes, radii : sequence
        Sides of the images to make, and the background radius of each in its own pixels.
    tube, angles
        Whether that is a tube's radius, and psi of each window's tube in degrees: see `tube_mask`.
    neighbors : sequence of (y, x)
        Centers of all particles of the micrograph: see `without_neighbors`.
    white_dust, black_dust, keys
        See `replace_dust`; what the noise of each window begins with.
    residual : ndarray, shape (n, 2), optional
        How far each image is moved, (y, x) in pixels of the micrograph.
    pixel_size, lowpass, highpass, filter_width : float
        Å, and Fourier pixels of the box: see `filtered`.
    ctf, ctf_box, ctf_intact_first_peak, ctfs
        What is done with the CTF, the side of the window in which it is, and the numbers of each: see `ctf_factors`.

    Returns
    -------
    images : tuple of ndarray, shape (n, size, size), float64
    status : tuple of str
    """
    factors = None
    if lowpass is not None or highpass is not None:
        factors = filter_factors(box, pixel_size, lowpass, highpass, filter_width)
    images = tuple(np.zeros((len(corners), size, size), np.float64) for size in sizes)
    statuses = []
    for i, (y, x) in enumerate(corners):
        corner = (int(y), int(x))

        def finish(cropped: Floats, radius: float, i: int = i, corner: tuple[int, int] = corner) -> Floats | None:
            size = len(cropped)
            mask = background_mask(size, radius)
            if tube and angles is not None:
                mask = tube_mask(size, angles[i], radius)
            mask, _ = without_neighbors(mask, corner, box, neighbors, radius)
            if keys is not None and (white_dust is not None or black_dust is not None):
                cropped = replace_dust(cropped, mask, white_dust, black_dust, keys[i])
            transformed = size < box or residual is not None or factors is not None or ctf is not None
            return _normalize(cropped, radius, ramp=ramp, scale_const=scale_const, cropped=transformed, mask=mask)

        made, status = _extract_one(
            image, corner, box, sizes, radii, edges, finish if normalize else None, invert,
            None if residual is None else residual[i], factors,
            None if ctf is None or ctfs is None else (
                ctf_factors(ctf_box or box, pixel_size, ctfs[i], ctf, ctf_intact_first_peak)
            ),
        )  # fmt: skip
        for stack, particle in zip(images, made, strict=False):
            stack[i] = particle
        statuses.append(status)
    return images, tuple(statuses)


def _extract_one(
    image: NDArray[Any],
    corner: tuple[int, int],
    box: int,
    sizes: Sequence[int],
    radii: Sequence[float],
    edges: Literal["reject", "pad"],
    finish: Callable[[Floats, float], Floats | None] | None,
    invert: bool,
    residual: NDArray[np.float64] | None,
    factors: Floats | None,
    of_ctf: Floats | None,
) -> tuple[list[Floats], str]:
    """Return the particle in every size and `OK`, or nothing and why."""
    status = edge_status((image.shape[0], image.shape[1]), corner, box, edges)
    if status != OK:
        return [], status
    pixels = window(image, corner, box, edges)
    if not np.isfinite(pixels).all():
        return [], NOT_FINITE
    mean = math.fsum(pixels.ravel()) / pixels.size
    level, pixels = mean, pixels - mean
    if of_ctf is not None:
        treated = with_ctf(image, corner, box, of_ctf)
        if treated is None:
            return [], NOT_FINITE
        level, pixels = treated
    if factors is not None:
        level, pixels = level * float(factors[0, 0]), times(pixels, factors)
    made = []
    for size, radius in zip(sizes, radii, strict=True):
        cropped = fourier_crop(pixels, size) if residual is None else moved(pixels, residual, size)
        particle: Floats | None = cropped + level
        if finish is not None:
            particle = finish(cropped, radius)
        if particle is None:
            return [], NO_CONTRAST
        made.append(-particle if invert else particle)
    return made, OK


def lowpass(image: NDArray[Any], pixel_size: float, resolution: float) -> Floats:
    """An image without what is finer than a resolution: literally, coefficient by coefficient.

    The radius is that of `resolution`, rounded to a Fourier pixel; from one pixel below it to one above (at most
    Nyquist) the weight falls from 1 to 0 as half a cosine, as RELION's low-pass filter does, whose edge is two wide.

    Parameters
    ----------
    image : ndarray, shape (n, n)
    pixel_size, resolution : float
        Å.
    """
    size = image.shape[0]
    radius = math.floor(size * pixel_size / resolution + 0.5)
    low, high = max(0, radius - 1), min(size / 2, radius + 1)
    spectrum = np.fft.fft2(image.astype(np.float64))
    for row in range(size):
        for column in range(size):
            y = row - size if row > size // 2 else row
            x = column - size if column > size // 2 else column
            distance = math.hypot(y, x)
            if distance > high:
                weight = 0.0
            elif distance < low:
                weight = 1.0
            else:
                weight = 0.5 + 0.5 * math.cos(math.pi * (distance - low) / (high - low))
            spectrum[row, column] *= weight
    return np.fft.ifft2(spectrum).real


def pad_with_mean(image: NDArray[Any], size: int) -> Floats:
    """An image in the middle of a larger one, center on center (pixel n / 2), that is its mean elsewhere."""
    wide = image.astype(np.float64)
    found = np.full((size, size), wide.mean())
    begin = size // 2 - len(wide) // 2
    found[begin : begin + len(wide), begin : begin + len(wide)] = wide
    return found
