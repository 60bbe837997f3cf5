"""Hot pixels of a micrograph, literally."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryobox.reference.dust import ALL, GOLDEN, mixed

__all__ = ["hot_pixel_levels", "repair_hot_pixels"]

SAMPLED = 16384
OF_A_GAUSSIAN = 1.4826


def _median(values: NDArray[Any]) -> float:
    """The lower median: one of the values."""
    return float(np.sort(values, axis=None)[(values.size - 1) // 2])


def hot_pixel_levels(image: NDArray[Any], seed: int) -> tuple[float, float]:
    """Median and robust sd of a micrograph, from a seeded sample of 16,384 of its pixels (all, of a smaller one)."""
    values = image.astype(np.float64).ravel()
    if values.size > SAMPLED:
        values = values[[mixed((seed + GOLDEN * (i + 1)) & ALL) % values.size for i in range(SAMPLED)]]
    values = values[np.isfinite(values)]
    if not values.size:
        return 0.0, 0.0
    middle = _median(values)
    far = np.abs(values - middle)
    spread = OF_A_GAUSSIAN * _median(far)
    return middle, spread if spread > 0 else math.sqrt(float((far**2).mean()))


def repair_hot_pixels(image: NDArray[Any], threshold: float, seed: int) -> tuple[NDArray[Any], int]:
    """Replace hot pixels by the median of the good ones around them.

    Hot is what lies more than `threshold` robust sd above the micrograph's median, and also above the median of the
    5 x 5 pixels around it (fewer at the edge; those that are not finite left out); good ones are those not above the
    first limit. All is decided on the pixels as given.

    Returns
    -------
    image : ndarray
        A copy.
    count : int
        Pixels that were replaced.
    """
    middle, sd = hot_pixel_levels(image, seed)
    out, count = image.copy(), 0
    if not sd > 0:
        return out, 0
    wide = image.astype(np.float64)
    for y, x in np.argwhere(np.isfinite(wide) & (wide > middle + threshold * sd)).tolist():
        near = wide[max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3]
        near = near[np.isfinite(near)]
        good = near[near <= middle + threshold * sd]
        if good.size and wide[y, x] - _median(near) > threshold * sd:
            out[y, x] = _median(good)
            count += 1
    return out, count
