"""Stored images read in any order, and what is made of them: through the core's door, as windows of a micrograph."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryobox.core import STATISTICS, Status, cut
from cryobox.errors import InputError
from cryobox.filters import edge
from cryobox.formats.images import room
from cryobox.groups import FILTER_WIDTH
from cryobox.options import Steps
from cryobox.restacking.asked import Making
from cryobox.windows import Windows

__all__ = ["Chunk", "Made", "Source", "make"]

_OPEN_FILES = 16  # that a worker keeps open: rows of a shuffled table go back and forth
_LARGEST_HALF = 65504.0
_COLUMN = {name: index for index, name in enumerate(STATISTICS)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A stack that is read, as it was when its header was looked at."""

    path: str
    offset: int
    bytes: int
    mtime_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Some images of one size and type, in the order in which they will be stored.

    Parameters
    ----------
    sources : tuple of Source
        One for each image.
    slots : tuple of int
    dtype : numpy.dtype
        Of the stored pixels, with their byte order.
    making : Making
    steps : Steps
    pixel_size : float
        Å per pixel of the images as they are; nan where nobody says it.
    lowpass : float, optional
    pad : int, optional
    """

    sources: tuple[Source, ...]
    slots: tuple[int, ...]
    dtype: np.dtype[Any]
    making: Making
    steps: Steps
    pixel_size: float
    lowpass: float | None
    pad: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """Images of each output, with status and statistics as the core gives them."""

    images: tuple[NDArray[Any], ...]
    status: NDArray[np.uint8]
    statistics: NDArray[np.float64]


def make(chunk: Chunk) -> Made:
    """Read and make.

    Raises
    ------
    InputError
        If a stack cannot be read, or changed since its header was.
    """
    side, count = chunk.making.side, len(chunk.slots)
    pixels = _worker.read(chunk)
    if side % 2:
        return _copied(pixels.reshape(count, side, side), chunk)
    later = chunk.lowpass is not None or chunk.pad is not None
    outputs = [replace(one, dtype="float32") if later else one for one in chunk.making.outputs]
    images = [np.empty((count, one.size, one.size), one.dtype) for one in outputs]
    corners = np.zeros((count, 2), np.int64)
    corners[:, 0] = np.arange(count) * side
    corners += side // 2 - chunk.making.box // 2
    windows = Windows(box=chunk.making.box, pad=False, corner=corners)
    status, statistics = cut(pixels.reshape(count * side, side), windows, outputs, chunk.steps, into=images)
    if not later:
        return Made(images=tuple(images), status=status, statistics=statistics)
    for number, output in enumerate(chunk.making.outputs):
        some = images[number]
        if chunk.lowpass is not None:
            some = lowpassed(some, chunk.pixel_size * chunk.making.box / output.size, chunk.lowpass)
        if chunk.pad is not None:
            some = padded(some, chunk.pad)
        images[number] = _stored(some, output.dtype, statistics[number])
    return Made(images=tuple(images), status=status, statistics=statistics)


def lowpassed(images: NDArray[np.float32], pixel_size: float, resolution: float) -> NDArray[np.float32]:
    """Images without what is finer than a resolution in Å; the twin is `reference.lowpass`."""
    size = images.shape[-1]
    weight = _edge(size, pixel_size, resolution).astype(np.float32)
    spectrum = np.fft.rfft2(images)
    spectrum *= weight
    found: NDArray[np.float32] = np.fft.irfft2(spectrum, s=(size, size)).astype(np.float32)
    return found


def _edge(size: int, pixel_size: float, resolution: float) -> NDArray[np.float64]:
    """The weight of each coefficient of a real transform: 1, then half a cosine over two Fourier pixels, then 0."""
    y = np.fft.fftfreq(size, 1 / size)[:, None]
    x = np.arange(size // 2 + 1)[None, :]
    distance = np.sqrt(y**2 + x**2)
    low, high = edge(size, pixel_size, resolution, FILTER_WIDTH)
    with np.errstate(divide="ignore", invalid="ignore"):
        falling = 0.5 + 0.5 * np.cos(np.pi * (distance - low) / (high - low))
    return np.where(distance < low, 1.0, np.where(distance > high, 0.0, falling))


def padded(images: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Each image in the middle of a larger one that is its mean elsewhere; the twin is `reference.pad_with_mean`."""
    count, inner = images.shape[:2]
    found = np.empty((count, size, size), np.float32)
    found[...] = images.mean(axis=(1, 2), dtype=np.float64)[:, None, None]
    begin = size // 2 - inner // 2
    found[:, begin : begin + inner, begin : begin + inner] = images
    return found


def _copied(images: NDArray[Any], chunk: Chunk) -> Made:
    """Images of an odd number of pixels, which nothing is done to."""
    statistics = np.zeros((1, len(images), len(STATISTICS)))
    wide = images.astype(np.float32)
    finite = np.isfinite(wide).all(axis=(1, 2))
    wide[~finite] = 0
    status = np.where(finite, np.uint8(Status.OK), np.uint8(Status.NOT_FINITE))
    stored = _stored(wide, chunk.making.outputs[0].dtype, statistics[0])
    return Made(images=(stored,), status=status, statistics=statistics)


def _stored(images: NDArray[np.float32], dtype: str, statistics: NDArray[np.float64]) -> NDArray[Any]:
    """Images in the type that is stored, clamped where it does not hold more; says in `statistics` what they are."""
    wide = images.astype(np.float64)
    statistics[:, _COLUMN["minimum"]] = wide.min(axis=(1, 2))
    statistics[:, _COLUMN["maximum"]] = wide.max(axis=(1, 2))
    statistics[:, _COLUMN["mean"]] = wide.mean(axis=(1, 2))
    statistics[:, _COLUMN["sd"]] = wide.std(axis=(1, 2))
    if dtype == "float32":
        return images
    statistics[:, _COLUMN["clamped"]] = (np.abs(wide) > _LARGEST_HALF).sum(axis=(1, 2))
    return np.clip(images, -_LARGEST_HALF, _LARGEST_HALF).astype(np.float16)


class _Worker(threading.local):
    """What a worker keeps: memory, and some open files."""

    def __init__(self) -> None:
        self._memory: NDArray[np.uint8] = np.empty(0, np.uint8)
        self._files: OrderedDict[Source, int] = OrderedDict()

    def read(self, chunk: Chunk) -> NDArray[Any]:
        """The pixels of all images, one behind the other; valid until the next call."""
        each = chunk.making.side**2 * chunk.dtype.itemsize
        needed = each * len(chunk.slots)
        if self._memory.nbytes < needed:
            self._memory = np.empty(0, np.uint8)
            self._memory = room(needed)
        view = self._memory.data[:needed]
        first = 0
        for last in range(1, len(chunk.slots) + 1):
            together = (
                last < len(chunk.slots)
                and chunk.sources[last] is chunk.sources[first]
                and chunk.slots[last] == chunk.slots[last - 1] + 1
            )
            if not together:
                self._fill(view[first * each : last * each], chunk.sources[first], chunk.slots[first] * each)
                first = last
        return self._memory[:needed].view(chunk.dtype)

    def _fill(self, view: memoryview, source: Source, begin: int) -> None:
        descriptor, at = self._opened(source), source.offset + begin
        try:
            while view:
                count = os.preadv(descriptor, [view], at)
                if count == 0:
                    raise InputError(f"{source.path}: ends before its header says; was it cut while it was read?")
                view, at = view[count:], at + count
        except OSError as error:
            raise InputError(f"{source.path}: cannot be read: {error.strerror}") from error

    def _opened(self, source: Source) -> int:
        if source in self._files:
            self._files.move_to_end(source)
            return self._files[source]
        try:
            descriptor = os.open(source.path, os.O_RDONLY)
            status = os.fstat(descriptor)
        except OSError as error:
            raise InputError(f"{source.path}: cannot be read: {error.strerror}") from error
        if (status.st_size, status.st_mtime_ns) != (source.bytes, source.mtime_ns):
            os.close(descriptor)
            raise InputError(f"{source.path}: changed since its header was read; run the same command again")
        self._files[source] = descriptor
        if len(self._files) > _OPEN_FILES:
            os.close(self._files.popitem(last=False)[1])
        return descriptor

    def __del__(self) -> None:
        for descriptor in self._files.values():
            os.close(descriptor)


_worker = _Worker()
