"""MRC: the writing of particle stacks, the header last (docs/conventions.md)."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from cryobox import __version__
from cryobox.errors import OutputError
from cryobox.formats.mrc import HEADER_BYTES, MRC2014, header_dtype

__all__ = ["StackWriter"]

_STACK_MODES = {"float32": 2, "float16": 12}
_WORTH_RESERVING = 1 << 20  # bytes
_KEEP_SIZE = 1  # FALLOC_FL_KEEP_SIZE, linux/falloc.h


class StackWriter:
    """Writes one particle stack: pixels first, straight from the caller's memory, the header last.

    A file without its header is not MRC, so an interrupted stack cannot be taken for a whole one. Used as a context
    manager, a writer that was not finished removes its file.

    Parameters
    ----------
    path : str
        Created, or emptied if it exists.
    size : int
        Side of the images, in pixels.
    dtype : {"float32", "float16"} or numpy.dtype
    pixel_size : float
        Å per pixel; not finite or not positive: unknown, stored as 0.
    label : str
        A second label of the header, beside the program's.
    expected : int
        Images that will probably be written; the disk is asked for their room at once, which makes writing faster.

    Raises
    ------
    OutputError
        If the file cannot be created; every method raises it where the disk is full or writing fails otherwise.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        size: int,
        dtype: str | np.dtype[Any],
        pixel_size: float,
        expected: int = 0,
        label: str = "",
    ) -> None:
        self.path = os.fspath(path)
        self.size = size
        self.dtype = np.dtype(dtype).newbyteorder("<")
        self.pixel_size = pixel_size
        self.label = label
        self.count = 0
        if self.dtype.name not in _STACK_MODES:
            raise ValueError(f"a stack holds {' or '.join(_STACK_MODES)}; got {self.dtype.name}")
        self._finished = False
        self._descriptor = -1
        with self._failing("created"):
            self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        wanted = self._bytes(expected)
        self._reserved = wanted if wanted >= _WORTH_RESERVING and _reserve(self._descriptor, wanted) else 0

    def write(self, images: NDArray[Any]) -> None:
        """Append `images`, shape (n, size, size), C-contiguous, of the writer's dtype."""
        if images.ndim != 3 or images.shape[1:] != (self.size, self.size) or images.dtype != self.dtype:
            raise ValueError(
                f"{self.path}: images must be (n, {self.size}, {self.size}) {self.dtype.name}; "
                f"got {images.shape} {images.dtype.name}"
            )
        if not images.flags.c_contiguous:
            raise ValueError(f"{self.path}: images must be C-contiguous")
        if len(images) == 0:
            return
        self._write_at(self._bytes(self.count), images.reshape(-1).view(np.uint8).data)
        self.count += len(images)

    def finish(self, minimum: float, maximum: float, mean: float, rms: float, *, fsync: bool = True) -> int:
        """Write the header and close the file.

        Parameters
        ----------
        minimum, maximum, mean, rms : float
            Of all pixels written; `rms` is the standard deviation.
        fsync : bool
            Return only when the disk has the data.

        Returns
        -------
        int
            Bytes of the file.
        """
        if self.count == 0:
            raise ValueError(f"{self.path}: a stack needs at least one image")
        statistics = (minimum, maximum, mean, rms)
        header = _stack_header(self.count, self.size, self.dtype, self.pixel_size, statistics, self.label)
        self._write_at(0, memoryview(header))
        if self._reserved > self._bytes(self.count):
            with self._failing("cut to its length"):
                os.ftruncate(self._descriptor, self._bytes(self.count))
        if fsync:
            with self._failing("synced"):
                os.fsync(self._descriptor)
        self.close()
        self._finished = True
        return self._bytes(self.count)

    def close(self) -> None:
        """Close the file as it is; without `finish` it has no header. Harmless when repeated."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            with self._failing("closed"):  # some network file systems report a full disk only here
                os.close(descriptor)

    def abort(self) -> None:
        """Close and remove the file, even a finished one. Never raises: there is an earlier error to report."""
        with suppress(OSError):
            self.close()
        with suppress(OSError):
            os.unlink(self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._finished:
            self.abort()

    def _bytes(self, count: int) -> int:
        """Of a stack of so many images."""
        return HEADER_BYTES + count * self.size * self.size * self.dtype.itemsize

    def _write_at(self, offset: int, data: memoryview) -> None:
        with self._failing("written"):
            while data:
                count = os.pwrite(self._descriptor, data, offset)
                offset += count
                data = data[count:]

    @contextmanager
    def _failing(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            failure = OutputError(f"{self.path}: cannot be {what}: {error.strerror}")
            failure.errno = error.errno
            raise failure from error


def _reserve(descriptor: int, count: int) -> bool:
    """Ask the file system for `count` bytes beyond the end of an empty file, whose size stays 0; False if it has none.

    On ext4 writing a stack of 79 MB into the page cache then takes 12 instead of 18 ms. It is a wish: where the system
    or the file system knows no such call, or there is too little room, the file grows as it is written.
    `os.posix_fallocate` would write zeros where the file system does not know it.
    """
    function = _fallocate()
    if function is None:
        return False
    if function(descriptor, _KEEP_SIZE, 0, count) == 0:
        return True
    with suppress(OSError):
        os.ftruncate(descriptor, 0)  # a full disk may have given a part
    return False


@cache
def _fallocate() -> Any:
    """Linux's call, or None."""
    try:
        import ctypes

        function = ctypes.CDLL(None).fallocate
    except (ImportError, OSError, AttributeError):
        return None
    function.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    return function


def _stack_header(
    count: int,
    size: int,
    dtype: np.dtype[Any],
    pixel_size: float,
    statistics: tuple[float, float, float, float],
    label: str = "",
) -> bytes:
    """The 1024 bytes of a stack of images (space group 0), not of a volume: mz is 1."""
    if not (math.isfinite(pixel_size) and pixel_size > 0):
        pixel_size = 0.0

    record = np.zeros((), header_dtype("<"))
    record["nx"] = record["ny"] = record["mx"] = record["my"] = size
    record["nz"] = count
    record["mz"] = 1
    record["mode"] = _STACK_MODES[dtype.name]
    record["cella"] = (size * pixel_size, size * pixel_size, pixel_size)
    record["cellb"] = (90.0, 90.0, 90.0)
    record["mapc"], record["mapr"], record["maps"] = 1, 2, 3
    record["dmin"], record["dmax"], record["dmean"], record["rms"] = statistics
    if dtype.name == "float16":
        record["rms"] = -1  # undetermined: mrcfile.validate sums in float16, overflows, and calls a true value wrong
    record["map"] = b"MAP "
    record["machst"] = (0x44, 0x44, 0, 0)
    record["nversion"] = MRC2014
    labels = [f"cryobox {__version__}", *([label] if label else [])]
    record["nlabl"] = len(labels)
    for place, text in enumerate(labels):
        record["label"][place] = text.replace("Å", "A").encode("ascii", "replace")[:80]
    return record.tobytes()
