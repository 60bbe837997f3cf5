"""Gray levels at the ends of float32 (subnormal numbers, 1e38), which sums and transforms cannot hold.

Such particles are cut again from their own window, scaled by a power of two, which changes no digit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryobox.windows import Status, Windows

__all__ = ["crop_again", "cut_again"]

ORDINARY = 2.0**90  # beyond this, and below its inverse, sums of so many pixels as a box has may leave float32
LARGEST = float(np.finfo(np.float32).max)


def cut_again(
    extract: Callable[..., Any],
    image: NDArray[np.float32],
    windows: Windows,
    outputs: Sequence[NDArray[Any]],
    ask: Callable[[Windows], dict[str, Any]],
    status: NDArray[np.uint8],
    statistics: NDArray[np.float64],
    *,
    normalize: bool,
) -> None:
    """Make the particles anew whose gray levels float32 did not hold on the way; all is written in place.

    Parameters
    ----------
    extract : callable
        A backend's, with its arguments: `image`, corners, `outputs` and options by name.
    ask : callable
        The options for some windows, as the backend names them.
    status, statistics : ndarray
        What it returned.
    """
    for row in _doubtful(status, statistics, normalize=normalize).tolist():
        options = ask(windows.take(slice(row, row + 1)))
        # What the window is made of becomes an image of its own.
        if windows.ctf is None:
            origin, window = windows.corner[row], _window(image, windows.corner[row], windows.box)
        else:
            origin, window = _reached(image, windows.corner[row], windows.box, options["ctf_window"])
        if _leaves_float32(window):
            particle = [output[row : row + 1] for output in outputs]
            if windows.neighbors is not None:
                options["neighbors"] = windows.neighbors - origin
            corner = (windows.corner[row] - origin)[None]
            status[row], statistics[:, row] = _cut_scaled(extract, window, corner, particle, options)


def crop_again(crop: Callable[..., Any], images: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    """The same for images that were Fourier-cropped into `out`; what no float32 holds becomes nan."""
    peak = np.maximum(out.max(axis=(1, 2)), -out.min(axis=(1, 2)))
    for row in np.flatnonzero(~((peak >= 1 / ORDINARY) & (peak < math.inf))).tolist():
        window = images[row].astype(np.float64)
        if _leaves_float32(window):
            scaled, exponent = _scaled(window)
            crop(scaled[None], out[row : row + 1], threads=1)
            gray = np.ldexp(out[row].astype(np.float64), exponent)
            out[row] = np.where(np.abs(gray) > LARGEST, math.nan, gray)


def _doubtful(status: NDArray[np.uint8], statistics: NDArray[np.float64], *, normalize: bool) -> NDArray[np.intp]:
    """Particles whose gray levels may be too large or too small for sums of float32 numbers, as their transform is."""
    level = statistics[:, :, 5] if normalize else np.abs(statistics[:, :, :2]).max(axis=2)
    small = (status == Status.OK) & (level < 1 / ORDINARY).any(axis=0)
    return np.flatnonzero(small | (status == Status.NOT_FINITE) | (status == Status.NO_CONTRAST))


def _window(image: NDArray[np.float32], corner: NDArray[np.int64], box: int) -> NDArray[np.float64]:
    y, x = (np.clip(first + np.arange(box), 0, side - 1) for first, side in zip(corner, image.shape, strict=True))
    window: NDArray[np.float64] = image[y[:, None], x].astype(np.float64)
    return window


def _reached(
    image: NDArray[np.float32], corner: NDArray[np.int64], box: int, side: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """What lies of the micrograph in a window of `side` about the same center: its first pixel, and the pixels."""
    first = corner - (side - box) // 2
    low, high = np.maximum(first, 0), np.minimum(first + side, image.shape)
    return low, image[low[0] : high[0], low[1] : high[1]].astype(np.float64)


def _leaves_float32(window: NDArray[np.float64]) -> bool:
    largest = float(np.abs(window).max())  # nan where a pixel is nan: then there is nothing to be saved
    return 0 < largest < 1 / ORDINARY or ORDINARY < largest < math.inf


def _scaled(window: NDArray[np.float64]) -> tuple[NDArray[np.float32], int]:
    """Gray levels of about 1, and the power of two that makes them those of the window: no digit is changed."""
    exponent = math.frexp(float(np.abs(window).max()))[1]
    return np.ldexp(window, -exponent).astype(np.float32), exponent


def _cut_scaled(
    extract: Callable[..., Any],
    window: NDArray[np.float64],
    corner: NDArray[np.int64],
    outputs: list[NDArray[Any]],
    options: Mapping[str, Any],
) -> tuple[int, NDArray[np.float64]]:
    """Cut one particle again, from its window in a range that float32 holds; its status and statistics."""
    normalize, divisor = options["normalize"], options["scale_const"]
    scaled, exponent = _scaled(window)
    made = [np.empty_like(output, dtype=output.dtype if normalize else np.float32) for output in outputs]
    changed = {
        "scale_const": None if divisor is None else math.ldexp(divisor, -exponent),
        "fill": math.ldexp(options["fill"], -exponent),
        "threads": 1,
    }
    (status,), statistics = extract(scaled, corner, made, **{**options, **changed})
    found: NDArray[np.float64] = statistics[:, 0]
    own = slice(4, 6) if normalize else slice(0, 6)
    found[:, own] = np.ldexp(found[:, own], exponent)
    if not normalize and np.abs(found[:, :2]).max() > LARGEST:
        status = Status.NOT_FINITE
    for output, image, numbers in zip(outputs, made, found, strict=True):
        if status != Status.OK:
            output[:] = 0
        elif normalize:
            output[:] = image
        else:
            gray, most = np.ldexp(image.astype(np.float64), exponent), float(np.finfo(output.dtype).max)
            output[:] = np.clip(gray, -most, most)
            if output.dtype == np.float16:
                numbers[6] = np.count_nonzero(np.abs(gray) > most)
            else:  # what is stored, since a subnormal float32 has fewer digits than a scaled one
                stored = output.astype(np.float64)
                numbers[:4] = stored.min(), stored.max(), stored.mean(), stored.std()
    return status, found
