"""Images made for the eye: without their noise, and micrographs without their slope."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["flattened", "lowpassed"]

Floats = NDArray[np.float32]

EDGE = 0.2  # of the limit: width of the raised cosine, half on each side
BROAD = 12  # what is broader than this part of the longer side is background
OUTLIERS = 6.0  # robust sd; hot pixels would ring


def lowpassed(image: Floats, pixel_size: float, angstrom: float) -> Floats:
    """An image without detail finer than so many Å; as it is where it has none, or its pixel size is not known."""
    limit = pixel_size / angstrom  # cycles per pixel
    if not limit < 0.5:
        return image
    border = min(round(angstrom / pixel_size), *image.shape)  # what the filter reaches over the edge is a mirror image
    ny, nx = image.shape
    wide = np.pad(image, border, mode="symmetric")
    begin, end = limit * (1 - EDGE / 2), limit * (1 + EDGE / 2)
    frequency = np.hypot(np.fft.fftfreq(wide.shape[0])[:, None], np.fft.rfftfreq(wide.shape[1])[None])
    kept = 0.5 + 0.5 * np.cos(np.pi * np.clip((frequency - begin) / (end - begin), 0, 1))
    smooth = np.fft.irfft2(np.fft.rfft2(wide) * kept, wide.shape)
    return smooth[border : border + ny, border : border + nx].astype(np.float32)


def flattened(image: Floats) -> Floats:
    """A micrograph without outliers, and without what is broader than a twelfth of it: ice, and the beam's edge."""
    finite = np.isfinite(image)
    middle = float(np.median(image[finite])) if finite.any() else 0.0
    values = np.where(finite, image, middle)
    spread = 1.4826 * float(np.median(np.abs(values - middle))) or float(values.std())
    values = np.clip(values, middle - OUTLIERS * spread, middle + OUTLIERS * spread)
    sigma = max(image.shape) / BROAD / 2
    border = min(round(2 * sigma), *image.shape)
    wide = np.pad(values, border, mode="symmetric")
    y, x = np.fft.fftfreq(wide.shape[0])[:, None], np.fft.rfftfreq(wide.shape[1])[None]
    broad = np.fft.irfft2(np.fft.rfft2(wide) * np.exp(-2 * (np.pi * sigma) ** 2 * (y**2 + x**2)), wide.shape)
    ny, nx = image.shape
    return (values - broad[border : border + ny, border : border + nx]).astype(np.float32)
