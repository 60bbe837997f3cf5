"""MRC: headers and pixels of micrographs (plain, gzip, bzip2), and headers of stacks (docs/conventions.md).

Layout and meaning of the header are those of MRC2014 (https://www.ccpem.ac.uk/mrc_format/mrc2014.php); the record is
the one of `mrcfile`. Whether bytes are signed follows IMOD (https://bio3d.colorado.edu/imod/doc/mrc_format.txt).
"""

from __future__ import annotations

import bz2
import gzip
import math
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cryobox.errors import InputError, MicrographError
from cryobox.formats.opening import check_shape, check_unchanged, open_regular, too_short
from cryobox.micrograph import ImageHeader

__all__ = [
    "HEADER_BYTES",
    "Sections",
    "compression_of",
    "header_dtype",
    "inflating",
    "read_header",
    "read_images",
    "read_pixels_into",
    "read_sections",
    "read_stack_header",
]

HEADER_BYTES = 1024
_MODES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
_REFUSED_MODES = {
    3: "complex int16, a transform",
    4: "complex float32, a transform",
    16: "RGB bytes",
    101: "4-bit integers, packed two to a byte",
}
_STANDARD_STAMPS: dict[bytes, Literal["<", ">"]] = {b"\x44\x44": "<", b"\x44\x41": "<", b"\x11\x11": ">"}
_ORDER_NAMES = {"<": "little-endian", ">": "big-endian"}
_IMOD_STAMP = 1146047817
_IMOD_SIGNED = 1
_IMOD_PACKED = 16
_LIKELY_SIDE = 2**17  # pixels; only for guessing the byte order
MRC2014 = 20141
_CHUNK = 1 << 20  # bytes inflated at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class _Header:
    """What the 1024 bytes say, whether it makes sense for a micrograph or not."""

    shape: tuple[int, int, int]  # (nz, ny, nx)
    dtype: np.dtype[Any]
    offset: int
    pixel_size: float  # as it stands; nan where it is 0 or no number
    warnings: tuple[str, ...]
    space_group: int
    volume_sections: int  # mz
    statistics: tuple[float, float, float, float]  # dmin, dmax, dmean, rms

    @property
    def pixel_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


@cache
def header_dtype(order: Literal["<", ">"]) -> np.dtype[np.void]:
    from mrcfile.dtypes import HEADER_DTYPE

    header: np.dtype[np.void] = HEADER_DTYPE
    return header.newbyteorder(order)


# ---------------------------------------------------------------------------------------------------------- headers


def read_header(path: str) -> ImageHeader:
    """Read the header of one micrograph: one open, one read, one fstat.

    Parameters
    ----------
    path : str
        A name that ends in .gz or .bz2 (in any case) is inflated, as far as the header reaches.

    Returns
    -------
    ImageHeader
        `offset` is -1 for compressed files.

    Raises
    ------
    MicrographError
        If the file cannot be read, is not MRC, holds more than one section or pixels of an unknown kind, or is
        shorter than its header says.
    """
    header, status = _read(path)
    _check_one_section(path, header)
    warnings = header.warnings
    if not compression_of(path):
        warnings += _check_length(path, header, status.st_size)
    return ImageHeader(
        shape=header.shape[1:],
        dtype=header.dtype,
        offset=-1 if compression_of(path) else header.offset,
        # Programs that know no pixel size write 1.0.
        pixel_size=math.nan if header.pixel_size == 1.0 else header.pixel_size,
        file_size=status.st_size,
        mtime_ns=status.st_mtime_ns,
        warnings=warnings,
    )


def _read(path: str) -> tuple[_Header, os.stat_result]:
    with open_regular(path) as (descriptor, status):
        if compression_of(path):
            with inflating(path, descriptor) as stream:
                raw = stream.read(HEADER_BYTES)
        else:
            raw = _first_bytes(descriptor)
    return _parse(path, raw), status


def _first_bytes(descriptor: int) -> bytes:
    """The header, or what the file has of it; a system may give fewer bytes than asked for."""
    raw = b""
    while len(raw) < HEADER_BYTES and (more := os.pread(descriptor, HEADER_BYTES - len(raw), len(raw))):
        raw += more
    return raw


@dataclass(frozen=True, slots=True, kw_only=True)
class Sections:
    """What an MRC file of any number of sections says of itself.

    Parameters
    ----------
    shape : tuple of int
        (nz, ny, nx).
    dtype : numpy.dtype
        With its byte order.
    pixel_size : float
        Å per pixel; nan where the header has none or only a placeholder (0 or exactly 1.0).
    space_group : int
        ispg: 0 for a stack of images, 1 and more for a volume, 401 and more for several.
    volume_sections : int
        mz: of one volume, where there are several.
    offset : int
        Bytes before the first pixel, in the inflated file.
    statistics : tuple of float
        dmin, dmax, dmean, rms as they stand.
    surplus : int
        Bytes of the file beyond what the header says; negative: bytes that are missing. 0 where it is compressed.
    warnings : tuple of str
        Oddities that were tolerated; each begins with the path.
    """

    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    pixel_size: float
    space_group: int
    volume_sections: int
    offset: int
    statistics: tuple[float, float, float, float]
    surplus: int
    warnings: tuple[str, ...]


def read_sections(path: str, *, any_length: bool = False) -> Sections:
    """Read the header of a stack, a movie or a volume, compressed or not.

    Parameters
    ----------
    path : str
    any_length : bool
        Say in `surplus` alone that the file is longer or shorter than its header says.

    Raises
    ------
    InputError
        If the file cannot be read, is not MRC, or is shorter than its header says.
    """
    header, status = _read(path)
    if header.shape[0] < 1:
        raise InputError(f"{path}: header says nz = {header.shape[0]} sections; expected at least 1")
    warnings, packed = header.warnings, bool(compression_of(path))
    if not packed and not any_length:
        warnings += _check_length(path, header, status.st_size)
    return Sections(
        shape=header.shape,
        dtype=header.dtype,
        pixel_size=math.nan if header.pixel_size == 1.0 else header.pixel_size,
        space_group=header.space_group,
        volume_sections=header.volume_sections,
        offset=header.offset,
        statistics=header.statistics,
        surplus=0 if packed else status.st_size - header.offset - header.pixel_bytes,
        warnings=warnings,
    )


def read_stack_header(path: str) -> tuple[tuple[int, int, int], np.dtype[Any], int, float]:
    """Read the header of a particle stack.

    Returns
    -------
    shape : tuple of int
        (n, ny, nx).
    dtype : numpy.dtype
        With its byte order.
    offset : int
        Bytes before the first pixel.
    pixel_size : float
        Å per pixel as the header says it; nan where it is 0.

    Raises
    ------
    InputError
        If the file cannot be read, is not MRC, or is shorter than its header says.
    """
    with open_regular(path) as (descriptor, status):
        raw = _first_bytes(descriptor)
    header = _parse(path, raw)
    if header.shape[0] < 1:
        raise InputError(f"{path}: header says nz = {header.shape[0]} images; a stack has at least 1")
    _check_length(path, header, status.st_size)
    return header.shape, header.dtype, header.offset, header.pixel_size


def read_images(path: str | Path, indices: NDArray[np.intp]) -> NDArray[np.float32]:
    """Read some images of a stack, in the order of `indices`, as float32.

    Raises
    ------
    InputError
        If the file is no stack, or does not hold these images.
    """
    (count, ny, nx), dtype, offset, _ = read_stack_header(str(path))
    found = np.empty((len(indices), ny, nx), np.float32)
    size = ny * nx * dtype.itemsize
    try:
        with open(path, "rb") as file:
            for place, index in enumerate(indices.tolist()):
                if not 0 <= index < count:
                    raise InputError(f"{path}: holds {count} images; there is no number {index + 1}")
                file.seek(offset + index * size)
                raw = file.read(size)
                if len(raw) != size:
                    raise InputError(f"{path}: ends within image {index + 1}")
                found[place] = np.frombuffer(raw, dtype).reshape(ny, nx)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    return found


def _parse(path: str, raw: bytes) -> _Header:
    if len(raw) < HEADER_BYTES:
        held = f"holds {len(raw)} bytes" if raw else "is empty"
        raise MicrographError(f"{path}: file {held}; an MRC header alone has {HEADER_BYTES}; copied incompletely?")
    warnings = []
    order, stamp_warning = _byte_order(raw)
    record = np.frombuffer(raw, header_dtype(order))[0]
    has_map = record["map"][:3] == b"MAP"
    mode = int(record["mode"])
    if mode not in _MODES:
        raise _bad_mode(path, raw, mode, has_map=has_map)
    nz, ny, nx = (int(record[side]) for side in ("nz", "ny", "nx"))
    check_shape(path, ny, nx)
    extended = int(record["nsymbt"])
    if extended < 0:
        raise MicrographError(f"{path}: header says nsymbt = {extended} bytes of extended header; expected at least 0")
    if stamp_warning:
        warnings.append(f"{path}: {stamp_warning}")
    if not has_map:
        warnings.append(f"{path}: header lacks the word MAP; read as MRC all the same")
    axes = tuple(int(record[axis]) for axis in ("mapc", "mapr", "maps"))
    if axes not in ((1, 2, 3), (0, 0, 0)):
        warnings.append(f"{path}: header says map axes {axes}; ignored, rows are read in the order of the file")
    kind = _MODES[mode]
    if mode == 0:
        kind, sign_warning = _byte_kind(path, raw, record, order)
        warnings += sign_warning
    return _Header(
        shape=(nz, ny, nx),
        dtype=np.dtype(order + kind),
        offset=HEADER_BYTES + extended,
        pixel_size=_pixel_size(record),
        warnings=tuple(warnings),
        space_group=int(record["ispg"]),
        volume_sections=int(record["mz"]),
        statistics=tuple(float(record[name]) for name in ("dmin", "dmax", "dmean", "rms")),  # type: ignore[arg-type]
    )


def _byte_order(raw: bytes) -> tuple[Literal["<", ">"], str]:
    """The byte order, and what is odd about it: the machine stamp decides, unless only the other order makes sense."""
    stamp = raw[212:216]
    order = _STANDARD_STAMPS.get(stamp[:2], "<")
    other: Literal["<", ">"] = ">" if order == "<" else "<"
    stamped = order
    if _plausibility(raw, other) > _plausibility(raw, order):
        order = other
    if stamp[:2] in _STANDARD_STAMPS and order == stamped:
        return order, ""
    return order, f"odd machine stamp {stamp.hex(' ')}; read as {_ORDER_NAMES[order]}, which fits the other fields"


def _plausibility(raw: bytes, order: Literal["<", ">"]) -> int:
    record = np.frombuffer(raw, header_dtype(order))[0]
    return (
        (int(record["mode"]) in _MODES or int(record["mode"]) in _REFUSED_MODES)
        + (1 <= int(record["mapc"]) <= 3)
        + (1 <= int(record["nx"]) <= _LIKELY_SIDE and 1 <= int(record["ny"]) <= _LIKELY_SIDE)
    )


def _bad_mode(path: str, raw: bytes, mode: int, *, has_map: bool) -> MicrographError:
    if mode in _REFUSED_MODES:
        problem = f"mode {mode} ({_REFUSED_MODES[mode]}) is not an image that particles can be cut from"
    elif raw[:2] == b"\x1f\x8b":
        problem = "compressed with gzip, though its name does not end in .gz; rename it"
    elif raw[:3] == b"BZh":
        problem = "compressed with bzip2, though its name does not end in .bz2; rename it"
    elif not has_map:
        problem = f"not an MRC file: no word MAP in its header, and mode {mode}"
    else:
        problem = f"header says mode {mode}; expected one of {', '.join(map(str, _MODES))}"
    return MicrographError(f"{path}: {problem}")


def _byte_kind(path: str, raw: bytes, record: np.void, order: Literal["<", ">"]) -> tuple[str, list[str]]:
    """Signed or unsigned: IMOD's flag where IMOD's stamp is, else signed, as the standard has it."""
    stamp, flags = np.frombuffer(raw, order + "i4", count=2, offset=152).tolist()
    if stamp == _IMOD_STAMP:
        if flags & _IMOD_PACKED:
            raise MicrographError(f"{path}: mode 0 with IMOD's flag for {_REFUSED_MODES[101]}; unpack it first")
        return ("i1" if flags & _IMOD_SIGNED else "u1"), []
    if float(record["dmin"]) >= 0 and float(record["dmax"]) > np.iinfo(np.int8).max:
        statistics = f"{float(record['dmin']):g} to {float(record['dmax']):g}"
        return "i1", [f"{path}: mode 0 is read as signed bytes, but its statistics ({statistics}) suit unsigned ones"]
    return "i1", []


def _pixel_size(record: np.void) -> float:
    length, intervals = float(record["cella"]["x"]), int(record["mx"])
    if intervals < 1 or not (math.isfinite(length) and length > 0):
        return math.nan
    return length / intervals


def _check_one_section(path: str, header: _Header) -> None:
    sections = header.shape[0]
    if sections < 1:
        raise MicrographError(f"{path}: header says nz = {sections} sections; a micrograph has 1")
    if sections > 1:
        raise MicrographError(
            f"{path}: holds {sections} sections (nz = {sections}): a movie, stack or volume; "
            "a micrograph has 1 (align the movie first)"
        )


def _check_length(path: str, header: _Header, file_size: int) -> tuple[str, ...]:
    """Raise if a file is shorter than its header says; return a warning if it is longer."""
    if file_size < header.offset:
        raise MicrographError(
            f"{path}: header promises an extended header of {header.offset - HEADER_BYTES} bytes, "
            f"file holds {file_size - HEADER_BYTES} after the header; copied incompletely?"
        )
    surplus = file_size - header.offset - header.pixel_bytes
    if surplus < 0:
        shape = header.shape if header.shape[0] > 1 else header.shape[1:]
        raise too_short(path, shape, header.dtype, file_size - header.offset)
    return (f"{path}: file is {surplus} bytes longer than its header says; ignored",) if surplus else ()


# ----------------------------------------------------------------------------------------------------------- pixels


def read_pixels_into(
    image: NDArray[Any], path: str, header: ImageHeader, *, rows: tuple[int, int] | None = None
) -> tuple[int, tuple[str, ...]]:
    """Read the pixels of one micrograph.

    Parameters
    ----------
    image : ndarray, shape and dtype of `header`, C-contiguous
        Filled.
    path : str
    header : ImageHeader
        What `read_header` said of `path`.
    rows : (first, stop), optional
        Read only these rows, into their place. Compressed files are read whole.

    Returns
    -------
    bytes_read : int
        From the disk.
    warnings : tuple of str
        What was odd, seen only now.

    Raises
    ------
    MicrographError
        If the file has changed since its header was read, cannot be read, or ends too early.
    """
    target = image.reshape(-1).view(np.uint8).data
    with open_regular(path) as (descriptor, status):
        check_unchanged(path, header, status)
        if compression_of(path):
            with inflating(path, descriptor) as stream:
                warnings = _inflate_into(target, path, header, stream)
            return os.lseek(descriptor, 0, os.SEEK_CUR), warnings
        row_bytes = header.shape[1] * header.dtype.itemsize
        first, stop = rows if rows is not None else (0, header.shape[0])
        done, end = first * row_bytes, stop * row_bytes
        while done < end:
            count = os.preadv(descriptor, [target[done:end]], header.offset + done)
            if count == 0:  # shortened between fstat and read
                raise too_short(path, header.shape, header.dtype, done)
            done += count
    return end - first * row_bytes, ()


def compression_of(path: str) -> str:
    """The suffix of a packed file's name, in lower case; "" for others."""
    suffix = os.path.splitext(path)[1].lower()
    return suffix if suffix in (".gz", ".bz2") else ""


@contextmanager
def inflating(path: str, descriptor: int) -> Iterator[gzip.GzipFile | bz2.BZ2File]:
    """The inflated bytes of an open file; damage becomes a `MicrographError`."""
    with open(descriptor, "rb", closefd=False) as raw:
        stream = gzip.GzipFile(fileobj=raw) if compression_of(path) == ".gz" else bz2.BZ2File(raw)
        try:
            with stream:
                yield stream
        except EOFError as error:
            raise MicrographError(f"{path}: compressed data end in the middle; copied incompletely?") from error
        except (gzip.BadGzipFile, zlib.error) as error:
            raise MicrographError(f"{path}: compressed data are damaged: {error}") from error
        except OSError as error:
            if error.errno is not None:
                raise
            raise MicrographError(f"{path}: compressed data are damaged: {error}") from error  # bz2 has no own class


def _inflate_into(
    target: memoryview, path: str, header: ImageHeader, stream: gzip.GzipFile | bz2.BZ2File
) -> tuple[str, ...]:
    """Fill `target`; never inflate more than one byte beyond what the header declares."""
    to_skip = _parse(path, stream.read(HEADER_BYTES)).offset - HEADER_BYTES
    while to_skip:
        skipped = len(stream.read(min(_CHUNK, to_skip)))
        if not skipped:
            raise too_short(path, header.shape, header.dtype, 0)
        to_skip -= skipped
    done = 0
    while done < len(target):
        chunk = stream.read(min(_CHUNK, len(target) - done))
        if not chunk:
            raise too_short(path, header.shape, header.dtype, done)
        target[done : done + len(chunk)] = chunk
        done += len(chunk)
    # Reading on also has the checksum verified where the file ends here.
    return (f"{path}: inflated file is longer than its header says; ignored",) if stream.read(1) else ()


# ----------------------------------------------------------------------------------------------------------- stacks
