"""TIFF: headers and pixels of micrographs, through the optional `tifffile`. Rows are reversed, as RELION does."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cryobox.errors import MicrographError, MissingExtraError
from cryobox.formats.opening import check_shape, check_unchanged, open_regular, too_short
from cryobox.micrograph import ImageHeader

if TYPE_CHECKING:
    from tifffile import TiffPage

__all__ = ["read_header", "read_pixels_into"]

# tifffile has one class for bad structure (a ValueError); codecs and tags of a wrong type raise the others.
_TROUBLE = (ValueError, TypeError, LookupError, ArithmeticError, RuntimeError, struct.error, zlib.error)
_UNCOMPRESSED = 1
_WHOLE = (8, 16, 32, 64, 128)  # bits of a sample that is not packed
_DTYPES = ("uint8", "int8", "uint16", "int16", "float16", "float32")


def read_header(path: str) -> ImageHeader:
    """Read what a TIFF file says of its one image.

    Returns
    -------
    ImageHeader
        `dtype` is native: samples are converted while they are decoded. `offset` is -1. `pixel_size` is nan: the
        resolution tags hold what a printer wants more often than what a microscope saw.

    Raises
    ------
    MicrographError
        If the file cannot be read, is cut short, or holds anything but one gray image of a known kind.
    MissingExtraError
        If tifffile is not installed, or lacks the codec.
    """
    with open_regular(path) as (descriptor, status):
        if status.st_size == 0:
            raise MicrographError(f"{path}: file is empty; copied incompletely?")
        with _first_page(path, descriptor) as page:
            _check_page(path, page, status.st_size)
            shape, dtype = (int(page.imagelength), int(page.imagewidth)), np.dtype(page.dtype)
    return ImageHeader(
        shape=shape,
        dtype=dtype.newbyteorder("="),
        offset=-1,
        pixel_size=math.nan,
        file_size=status.st_size,
        mtime_ns=status.st_mtime_ns,
    )


def read_pixels_into(image: NDArray[Any], path: str, header: ImageHeader, *, flip: bool) -> int:
    """Decode the pixels into `image`, the last row of the file first if `flip`; return the bytes of the file.

    Raises
    ------
    MicrographError
        If the file has changed since its header was read, or cannot be decoded.
    """
    with open_regular(path) as (descriptor, status):
        check_unchanged(path, header, status)
        with _first_page(path, descriptor) as page:
            pixels = page.asarray()
    if pixels.shape != header.shape:
        raise MicrographError(f"{path}: decodes to shape {pixels.shape}; its tags say {header.shape}")
    np.copyto(image, pixels[::-1] if flip else pixels, casting="equiv")
    return status.st_size


@contextmanager
def _first_page(path: str, descriptor: int) -> Iterator[TiffPage]:
    """The only page of an open TIFF file; what tifffile makes of a bad file becomes a `MicrographError`."""
    try:
        import tifffile
    except ImportError as error:
        raise MissingExtraError(f"{path}: TIFF micrographs need tifffile: pip install cryobox[tiff]") from error
    try:
        with open(descriptor, "rb", closefd=False) as file, tifffile.TiffFile(file, name=path) as tiff:
            pages = len(tiff.pages)
            if pages != 1:
                raise MicrographError(f"{path}: holds {pages} images; a micrograph has 1 (align the movie first)")
            page = tiff.pages.first
            if page.compression not in tifffile.TIFF.DECOMPRESSORS:
                codec = getattr(page.compression, "name", page.compression)
                raise MissingExtraError(f"{path}: {codec} compression needs imagecodecs: pip install cryobox[tiff]")
            yield page
    except (MicrographError, MissingExtraError):
        raise
    except OSError as error:
        if error.errno is not None:
            raise
        raise MicrographError(f"{path}: is not a TIFF file that can be read: {error}") from error
    except _TROUBLE as error:
        raise MicrographError(f"{path}: is not a TIFF file that can be read: {error}; copied incompletely?") from error


def _check_page(path: str, page: TiffPage, file_size: int) -> None:
    kind = "unknown" if page.dtype is None else np.dtype(page.dtype).name
    if page.samplesperpixel != 1 or page.imagedepth != 1:
        raise MicrographError(f"{path}: has {page.samplesperpixel} samples per pixel; a micrograph is gray (1)")
    if page.bitspersample not in _WHOLE:  # packed: tifffile calls 12 bits uint16, and 4 bits uint8
        raise MicrographError(
            f"{path}: has samples of {page.bitspersample} bits; expected 8, 16 or 32: convert it to one of these"
        )
    if kind not in _DTYPES:
        raise MicrographError(f"{path}: has pixels of type {kind}; expected one of {', '.join(_DTYPES)}")
    check_shape(path, int(page.imagelength), int(page.imagewidth))
    segments = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    expected = math.prod(page.chunked)
    present = sum(start > 0 and count > 0 for start, count in segments)
    if present != expected:  # tifffile would fill the gaps with zeros
        raise MicrographError(f"{path}: holds {present} of {expected} strips or tiles; copied incompletely?")
    end = max(start + count for start, count in segments)
    if end > file_size:
        raise MicrographError(
            f"{path}: tags promise pixels up to byte {end}, file holds {file_size}; copied incompletely?"
        )
    held = sum(count for _, count in segments)
    if page.compression == _UNCOMPRESSED and held < page.nbytes:
        raise too_short(path, (int(page.imagelength), int(page.imagewidth)), np.dtype(page.dtype), held)
