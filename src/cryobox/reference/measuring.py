"""Numbers of one particle, literally: what stands in tables as its measures."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryobox.reference.backgrounds import tube_mask
from cryobox.reference.images import background_mask

__all__ = ["background_levels", "measures", "saturated_part"]

SQUARE = 8
LARGEST_HALF = 65504


def measures(
    image: NDArray[Any], radius: float, mask: NDArray[np.bool_], *, angle: float | None = None
) -> dict[str, float]:
    """Contrast, signal-to-noise and local variance of a normalized image (background mean 0).

    Parameters
    ----------
    image : ndarray, shape (size, size)
    radius : float
        Of the background, in pixels; of a tube from its axis, where `angle` (psi in degrees) is given.
    mask : ndarray
        The background by which it was normalized.

    Returns
    -------
    dict
        "contrast": mean within half the radius, in sd of the background; "signal_to_noise": variance within the radius
        over that of the background, minus 1; "local_variance": mean of the variances of all whole squares of 8 x 8
        pixels, over that of the background; 0 where there is no whole one.
    """
    values = image.astype(np.float64)
    size = len(values)

    def inside(reach: float) -> NDArray[np.float64]:
        found: NDArray[np.float64] = values[
            ~(background_mask(size, reach) if angle is None else tube_mask(size, angle, reach))
        ]
        return found

    sd = float(values[mask].std())
    whole = size // SQUARE * SQUARE
    squares = values[:whole, :whole].reshape(whole // SQUARE, SQUARE, whole // SQUARE, SQUARE)
    return {
        "contrast": float(inside(radius / 2).mean()) / sd,
        "signal_to_noise": float(inside(radius).var()) / sd**2 - 1,
        "local_variance": float(squares.var(axis=(1, 3)).mean()) / sd**2 if whole else 0.0,
    }


def background_levels(gray: NDArray[Any], mask: NDArray[np.bool_], *, ramp: bool = True) -> tuple[float, float]:
    """Mean and sd of the background of an image in gray levels: the sd is that of what its plane leaves (`ramp`)."""
    values = gray.astype(np.float64)[mask]
    left = values - values.mean()
    if ramp:
        y, x = np.nonzero(mask)
        design = np.stack([np.ones(len(left)), y - y.mean(), x - x.mean()], axis=1)
        left = left - design @ np.linalg.lstsq(design, left, rcond=None)[0]
    return float(values.mean()), float(left.std())


def saturated_part(window: NDArray[Any], dtype: np.dtype[Any]) -> float:
    """The part of a window's pixels that are the largest number of their type; 0 for float32, where none is known."""
    if dtype.kind in "iu":
        return float((window == np.iinfo(dtype).max).mean())
    return float((window == LARGEST_HALF).mean()) if dtype.itemsize == 2 else 0.0
