"""Micrograph files of any kind: the suffix decides between MRC and TIFF."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryobox.errors import MicrographError
from cryobox.formats import mrc
from cryobox.micrograph import ImageHeader

__all__ = ["IMAGE_SUFFIXES", "PixelReader", "is_tiff", "read_header", "room"]

_TIFF_SUFFIXES = (".tif", ".tiff")
_MRC_SUFFIXES = tuple(kind + packing for kind in (".mrc", ".mrcs", ".map") for packing in ("", ".gz", ".bz2"))
IMAGE_SUFFIXES = _MRC_SUFFIXES + _TIFF_SUFFIXES

_PAGE = 4096  # bytes
_LINE = 64


def read_header(path: str) -> ImageHeader:
    """Read what the file of one micrograph says of itself; cheap, and safe to call from many threads.

    Raises
    ------
    MicrographError
        If the file cannot be used; the message begins with its path.
    """
    if is_tiff(path):
        from cryobox.formats import tiff

        return tiff.read_header(path)
    return mrc.read_header(path)


def _plain(count: int) -> NDArray[np.uint8]:
    return np.empty(count, np.uint8)


def room(count: int, allocate: Callable[[int], NDArray[np.uint8]] = _plain) -> NDArray[np.uint8]:
    """Memory for so many bytes that the kernel copies fast into and out of: it begins a cache line beyond a page.

    NumPy's large arrays begin 16 bytes beyond one, where the string copy of AMD's Zen 4 is slow: 64 MB out of the page
    cache, whose pixels begin at byte 1024, take 9.7 instead of 7.1 ms there, 64 MB into it 9.1 instead of 6.6.

    Raises
    ------
    MemoryError
    """
    memory = allocate(count + _PAGE)
    skipped = (_LINE - memory.ctypes.data) % _PAGE
    return memory[skipped : skipped + count]


class PixelReader:
    """Reads one micrograph after another into the same memory. One per worker; not to be shared between threads.

    Parameters
    ----------
    allocate : callable, optional
        Makes the memory, so many bytes as uint8: where a GPU is to take pixels from, `gpu.pinned`.

    Attributes
    ----------
    bytes_read : int
        What the last `read` took from the disk.
    warnings : tuple of str
        What the last `read` found odd beyond the warnings of the header; each begins with the path.
    """

    def __init__(self, allocate: Callable[[int], NDArray[np.uint8]] = _plain) -> None:
        self._allocate = allocate
        self.bytes_read = 0
        self.warnings: tuple[str, ...] = ()
        self._buffer: NDArray[np.uint8] = np.empty(0, np.uint8)

    def read(
        self, path: str, header: ImageHeader, *, rows: tuple[int, int] | None = None, tiff_flip: bool = True
    ) -> NDArray[Any]:
        """Read the pixels of one micrograph.

        Parameters
        ----------
        path : str
        header : ImageHeader
            What `read_header` said of `path`.
        rows : (first, stop), optional
            Read only these rows; the others are undefined. Compressed files and TIFF are read whole.
        tiff_flip : bool
            Reverse the rows of TIFF files.

        Returns
        -------
        ndarray, shape (ny, nx)
            In the file's dtype and byte order (native for TIFF); valid until the next `read`.

        Raises
        ------
        MicrographError
            If the file has changed since its header was read, is cut short, damaged or not readable.
        """
        if rows is not None and not 0 <= rows[0] <= rows[1] <= header.shape[0]:
            raise ValueError(f"{path}: rows must lie in 0 to {header.shape[0]}, first <= stop; got {rows}")
        self.bytes_read, self.warnings = 0, ()
        image = self._image(path, header)
        if is_tiff(path):
            from cryobox.formats import tiff

            self.bytes_read = tiff.read_pixels_into(image, path, header, flip=tiff_flip)
        else:
            self.bytes_read, self.warnings = mrc.read_pixels_into(image, path, header, rows=rows)
        return image

    def _image(self, path: str, header: ImageHeader) -> NDArray[Any]:
        """A view of the buffer, which grows to the largest micrograph and stays."""
        needed = header.shape[0] * header.shape[1] * header.dtype.itemsize
        if self._buffer.nbytes < needed:
            self._buffer = np.empty(0, np.uint8)  # give the old one back first: both at once may not fit
            try:
                self._buffer = room(needed, self._allocate)
            except MemoryError as error:
                raise MicrographError(
                    f"{path}: needs {needed} bytes of memory; this process cannot get them"
                ) from error
        return self._buffer[:needed].view(header.dtype).reshape(header.shape)


def is_tiff(path: str) -> bool:
    """Whether a file is TIFF (else MRC), by its name; `MicrographError` where that says neither."""
    name = path.lower()
    if name.endswith(_TIFF_SUFFIXES):
        return True
    if name.endswith(_MRC_SUFFIXES):
        return False
    raise MicrographError(f"{path}: not a kind of micrograph file; expected a name in {', '.join(IMAGE_SUFFIXES)}")
