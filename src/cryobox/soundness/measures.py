"""Numbers of every image of a file in one pass over its pixels: extremes, mean, deviation, what float16 cannot hold.

The work is done on some hundred kB at a time, which stay in the processor's cache, in float32: sums of at most 1,024
squares, about the mean of the piece, so that neither a large mean nor many pixels cost digits. Those few sums are added
in float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import DTypeLike, NDArray

__all__ = ["LARGEST_HALF", "Measures", "joined", "measure", "parts_of_image", "whole_images"]

LARGEST_HALF = 65504.0  # the largest finite float16
BLOCK = 4 << 20  # bytes that are read at a time
_PIECE = 1 << 17  # pixels that are measured at a time
_SMALL_SQUARES = 1e-30  # of a pixel; float32 loses digits from 1e-38 on
_ROW = 1024  # pixels, or squares, that are added in float32


@dataclass(frozen=True, slots=True, kw_only=True)
class Measures:
    """Of images one after another, columns of equal length.

    Parameters
    ----------
    pixels : ndarray, int64
    minimum, maximum, mean : ndarray, float64
        nan where a pixel is not finite.
    squares : ndarray, float64
        The sum of squares about the mean.
    total : ndarray, uint64
        The sum of the image's bytes as integers: equal for images of equal bytes, nearly never for others.
    not_finite, saturated : ndarray, int64
        Pixels that are nan or infinite; float16 pixels that are its largest number.
    """

    pixels: NDArray[np.int64]
    minimum: NDArray[np.float64]
    maximum: NDArray[np.float64]
    mean: NDArray[np.float64]
    squares: NDArray[np.float64]
    total: NDArray[np.uint64]
    not_finite: NDArray[np.int64]
    saturated: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def sd(self) -> NDArray[np.float64]:
        """Standard deviations."""
        sd: NDArray[np.float64] = np.sqrt(self.squares / self.pixels)
        return sd

    def over_all(self) -> tuple[float, float, float, float]:
        """Minimum, maximum, mean and standard deviation of all pixels."""
        mean = float(np.average(self.mean, weights=self.pixels))
        between = float(self.pixels @ (self.mean - mean) ** 2)
        return (
            float(self.minimum.min()),
            float(self.maximum.max()),
            mean,
            math.sqrt((float(self.squares.sum()) + between) / int(self.pixels.sum())),
        )


def whole_images(image_bytes: int) -> int:
    """How many images a block holds; 0 where one is larger than that, and is read in parts."""
    return BLOCK // image_bytes


def parts_of_image(image_bytes: int) -> Iterator[int]:
    """The sizes of the parts of an image, in bytes."""
    for begin in range(0, image_bytes, BLOCK):
        yield min(BLOCK, image_bytes - begin)


def measure(stored: NDArray[np.uint8], dtype: np.dtype[np.generic], image_bytes: int) -> Measures:
    """Measure the images, or parts of one image, in a block.

    Parameters
    ----------
    stored : ndarray, shape (n * k,)
        The bytes of k images (or parts) of n bytes each.
    dtype : numpy.dtype
        Of the pixels, with their byte order.
    image_bytes : int
        n.
    """
    images = stored.reshape(-1, image_bytes)
    pixels = image_bytes // dtype.itemsize
    each = max(1, _PIECE // pixels)
    with np.errstate(all="ignore"):
        return joined([_measure(images[first : first + each], dtype) for first in range(0, len(images), each)])


def _measure(images: NDArray[np.uint8], dtype: np.dtype[np.generic]) -> Measures:
    raw = images.view(dtype)
    count, pixels = raw.shape
    if pixels > _PIECE:
        parts = [_measure(images[:, part], dtype) for part in _slices(images.shape[1], _PIECE * dtype.itemsize)]
        return merged(parts)
    values = raw if raw.dtype == np.float32 else raw.astype(np.float32)
    low, high = values.min(axis=1).astype(np.float64), values.max(axis=1).astype(np.float64)
    odd = ~(np.isfinite(low) & np.isfinite(high))
    mean = _sums("ijk->ij", values) / pixels
    off = mean.astype(np.float32)
    squares = _sums("ijk,ijk->ij", values - off[:, None])
    squares = np.maximum(squares - pixels * (mean - off) ** 2, 0.0)  # about the mean, not what float32 makes of it
    lost = ~np.isfinite(squares) & ~odd | (low < high) & (squares < _SMALL_SQUARES * pixels)
    for image in np.flatnonzero(lost).tolist():  # gray levels whose squares leave float32
        wide = values[image].astype(np.float64)
        mean[image] = wide.mean()
        squares[image] = ((wide - mean[image]) ** 2).sum()
    not_finite, saturated = np.zeros(count, np.int64), np.zeros(count, np.int64)
    not_finite[odd] = (~np.isfinite(values[odd])).sum(axis=1)
    if dtype.kind == "f" and dtype.itemsize == 2:
        full = odd | (low <= -LARGEST_HALF) | (high >= LARGEST_HALF)
        saturated[full] = (np.abs(values[full]) == LARGEST_HALF).sum(axis=1)
    for column in (low, high, mean, squares):
        column[odd] = np.nan
    return Measures(
        pixels=np.full(count, pixels, np.int64),
        minimum=low,
        maximum=high,
        mean=mean,
        squares=squares,
        total=images.view(_words(images.shape[1])).sum(axis=1, dtype=np.uint64),
        not_finite=not_finite,
        saturated=saturated,
    )


def _sums(formula: str, values: NDArray[np.float32]) -> NDArray[np.float64]:
    """The sum of the pixels, or of their squares, of each image."""
    whole = values.shape[1] // _ROW * _ROW
    rows, rest = values[:, :whole].reshape(len(values), -1, _ROW), values[:, None, whole:]
    sums = np.zeros(len(values))
    for part in (rows, rest):
        sums += np.einsum(formula, *[part] * formula.count("k")).sum(axis=1, dtype=np.float64)
    return sums


def _words(size: int) -> DTypeLike:
    """The widest integers that so many bytes are a number of."""
    return next(kind for kind in (np.uint64, np.uint32, np.uint16, np.uint8) if size % np.dtype(kind).itemsize == 0)


def _slices(length: int, step: int) -> Iterator[slice]:
    for begin in range(0, length, step):
        yield slice(begin, min(begin + step, length))


def joined(some: Sequence[Measures]) -> Measures:
    """Those of several blocks, one after another."""
    return Measures(**{name: np.concatenate([getattr(one, name) for one in some]) for name in _names()})


def merged(parts: Iterable[Measures]) -> Measures:
    """Of the parts of images the measures of the images (the sums of squares after Chan, Golub and LeVeque, 1983)."""
    first, *others = parts
    for part in others:
        pixels = first.pixels + part.pixels
        step = part.mean - first.mean
        first = Measures(
            pixels=pixels,
            minimum=np.minimum(first.minimum, part.minimum),
            maximum=np.maximum(first.maximum, part.maximum),
            mean=first.mean + step * part.pixels / pixels,
            squares=first.squares + part.squares + step**2 * first.pixels * part.pixels / pixels,
            total=first.total + part.total,
            not_finite=first.not_finite + part.not_finite,
            saturated=first.saturated + part.saturated,
        )
    return first


def _names() -> tuple[str, ...]:
    return tuple(one.name for one in fields(Measures))
