"""How much a pattern of picks sees in a micrograph: contrast of the boxes' middle, beside the same pattern elsewhere.

A particle's middle is darker (or lighter) than what is around it. Boxes anywhere in a micrograph show some contrast,
too, more where there is carbon or ice, and boxes that overlap show the same one. What chance gives is therefore taken
from the same pattern, shifted as a whole to random places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["SIDE", "Seen", "Shown", "binned", "look", "shown_by"]

Floats = NDArray[np.float64]

SIDE = 32  # pixels of a box after binning: coarse is enough, and fast
RINGS = ((14, 22, 30), (6, 12, 16))  # sides of squares: the middle, and what is around it; for wide boxes, smaller ones
SHIFTS = 32  # of a pattern, for each micrograph
CLIP_SD = 4.0  # hot pixels and carbon edges must not decide
STANDS_OUT = 3.5  # robust standard deviations of the contrast
MOST_PICKS = 200  # of a micrograph: enough, and overlapping boxes tell little more


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What a micrograph shows at every place: the contrasts, 0 where a box would hang over the edge.

    Parameters
    ----------
    values : ndarray, shape (contrasts + 1, ny * nx), float32
        The last says whether there is room for a box.
    shape : (int, int)
        Of the binned micrograph.
    skewness : float
        Of the first contrast over the field: 0 for noise, which has no sign; particles have one.
    independent : float
        About how many places there are that do not see the same.
    objects : int
        Peaks that stand out on the side of the skewness, less those on the other side: noise has as many on both.
    """

    values: NDArray[np.float32]
    shape: tuple[int, int]
    skewness: float
    independent: float
    objects: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What one pattern sees in one micrograph.

    Parameters
    ----------
    excess : ndarray, shape (contrasts,)
        Sum over its picks, less what chance gives as many.
    chance : ndarray, shape (contrasts, contrasts)
        Covariance of that sum where the pattern lies anywhere.
    picks : int
        Whose boxes lie inside.
    """

    excess: Floats
    chance: Floats
    picks: int


def binned(image: NDArray[Any], box: int) -> tuple[NDArray[np.float32], int]:
    """The micrograph at a binning where a box has about `SIDE` pixels, outliers clipped, mean 0, sd 1; the binning."""
    factor = max(1, round(box / SIDE))
    ny, nx = (side // factor for side in image.shape)
    rows = image[: ny * factor, : nx * factor].reshape(ny, factor, nx * factor).sum(axis=1, dtype=np.float32)
    small = rows.reshape(ny, nx, factor).sum(axis=2)
    sound = np.isfinite(small)
    some = small[::4, ::4]
    some = some[np.isfinite(some)]
    if not len(some):
        return np.zeros((ny, nx), np.float32), factor
    middle = np.median(some)
    spread = np.median(np.abs(some - middle)) * 1.4826 or 1.0
    small = np.where(sound, small, middle)
    small -= middle
    small /= spread
    return np.clip(small, -CLIP_SD, CLIP_SD, out=small), factor


def shown_by(small: NDArray[np.float32]) -> Shown:
    """The contrasts at every place of a binned micrograph."""
    ny, nx = small.shape
    half = SIDE // 2
    values = np.zeros((len(RINGS) + 1, ny, nx), np.float32)
    if min(ny, nx) <= SIDE:
        return Shown(values=values.reshape(len(values), -1), shape=(ny, nx), skewness=0.0, independent=0.0, objects=0)
    sums = np.zeros((ny + 1, nx + 1))
    np.cumsum(small, axis=0, dtype=np.float64, out=sums[1:, 1:])
    np.cumsum(sums[1:, 1:], axis=1, out=sums[1:, 1:])
    inner = slice(half, ny - half + 1), slice(half, nx - half + 1)

    def square(side: int) -> Floats:
        """The sum over a square around every place where a box has room."""
        low, high = half - side // 2, half + side // 2
        y0, y1 = slice(low, ny - 2 * half + 1 + low), slice(high, ny - 2 * half + 1 + high)
        x0, x1 = slice(low, nx - 2 * half + 1 + low), slice(high, nx - 2 * half + 1 + high)
        found: Floats = sums[y1, x1] - sums[y0, x1] - sums[y1, x0] + sums[y0, x0]
        return found

    for index, (middle, near, far) in enumerate(RINGS):
        around = (square(far) - square(near)) / (far**2 - near**2)
        values[index][inner] = square(middle) / middle**2 - around
    values[-1][inner] = 1.0
    every = values[0][inner][::3, ::3].astype(np.float64)
    every -= every.mean()
    spread = every.std()
    skewness = float((every**3).mean() / spread**3) if spread > 0 else 0.0
    return Shown(
        values=values.reshape(len(values), -1), shape=(ny, nx), skewness=skewness,
        independent=(ny - SIDE) * (nx - SIDE) / RINGS[0][1] ** 2,
        objects=(-1 if skewness < 0 else 1) * _more_peaks(values[0][inner]),
    )  # fmt: skip


def _more_peaks(contrast: NDArray[np.float32]) -> int:
    """Peaks of the contrast that stand out above, less those that do below."""
    some = contrast[::5, ::5]
    usual = float(np.median(some))
    spread = float(np.median(np.abs(some - usual))) * 1.4826
    if not spread > 0:
        return 0
    side = RINGS[0][0] // 2  # peaks of one particle are in one square, or in two that touch
    rows, columns = (np.arange(0, length, side) for length in contrast.shape)
    more = 0
    for sign, furthest in ((1, np.maximum), (-1, np.minimum)):
        every = sign * (furthest.reduceat(furthest.reduceat(contrast, rows, axis=0), columns, axis=1) - usual)
        around = np.pad(every, 1, constant_values=-np.inf)
        highest = np.lib.stride_tricks.sliding_window_view(around, (3, 3)).max(axis=(2, 3))
        more += sign * int(((every > STANDS_OUT * spread) & (every == highest)).sum())
    return more


def look(shown: Shown, patterns: Sequence[Floats], rng: np.random.Generator) -> list[Seen]:
    """What each of the patterns sees: centers (y, x) in binned pixels, shape (n, 2), anywhere."""
    extent = np.array(shown.shape)
    shifts = rng.uniform(0.1, 0.9, (SHIFTS, 1, 2)) * extent  # never the pattern at its own place
    return [_seen(shown, np.floor(pattern).astype(np.int64), shifts.astype(np.int64), extent) for pattern in patterns]


def _seen(shown: Shown, place: NDArray[np.int64], shifts: NDArray[np.int64], extent: NDArray[np.int64]) -> Seen:
    place = place[((place >= 0) & (place < extent)).all(axis=1)]
    if len(place) > MOST_PICKS:
        place = place[np.linspace(0, len(place) - 1, MOST_PICKS).astype(np.intp)]
    here = shown.values[:, place[:, 0] * extent[1] + place[:, 1]].sum(axis=1, dtype=np.float64)
    there = (place + shifts) % extent
    elsewhere = shown.values[:, there[..., 0] * extent[1] + there[..., 1]].sum(axis=2, dtype=np.float64)
    counts, picks = np.maximum(elsewhere[-1], 1.0), here[-1]
    mean = elsewhere[:-1].sum(axis=1) / counts.sum()
    spread = (elsewhere[:-1] - mean[:, None] * counts) * np.sqrt(picks / counts)
    return Seen(excess=here[:-1] - mean * picks, chance=spread @ spread.T / (SHIFTS - 1), picks=int(picks))
