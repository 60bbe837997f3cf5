"""Stacks of a run: every field of their headers against plan and ledger, and the statistics against the pixels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryobox.errors import CryoboxError
from cryobox.formats.mrc import read_stack_header
from cryobox.plan import Output
from cryobox.results import StackInfo
from cryobox.verification.findings import Problems

__all__ = ["HEADER_BYTES", "LARGEST_HALF", "check_header", "check_pixels", "header_fields"]

HEADER_BYTES = 1024
_LABEL = 224  # where the first label begins
LARGEST_HALF = 65504.0  # the largest finite float16: what lies beyond is stored as it
CHUNK = 16 << 20  # bytes of pixels in memory at a time

# How far a statistic may be from that of the stored pixels, as a part of their standard deviation (or of their
# largest value, where they hardly vary): sums of float32 pixels, in another order.
STATISTIC_TOLERANCE = 1e-6
HALF_STEP = 2.0**-11  # statistics are those of the images before they are rounded to float16
SMALLEST_HALF = 2.0**-25


def check_header(
    path: Path, output: Output, count: int, stack: StackInfo, *, dtype: str, versions: Sequence[str], problems: Problems
) -> None:
    """Compare all 1024 bytes of a header with what a stack of `count` images has there, and the file's length.

    `versions` are those of cryobox that have worked on the run, the last one at the end.
    """
    wanted = HEADER_BYTES + count * output.size**2 * np.dtype(dtype).itemsize
    try:
        with path.open("rb") as file:
            raw = file.read(HEADER_BYTES)
        size = path.stat().st_size
    except OSError as error:
        problems.add(f"{path}: cannot be read: {error.strerror}")
        return
    if len(raw) == HEADER_BYTES:
        label = raw[_LABEL : _LABEL + 80].rstrip(b"\0")
        version = next((one for one in versions if label == _label(one)), versions[-1])
        expected = _expected(output, count, stack, dtype, version)
        for name, found, right in _differing_fields(raw, expected.tobytes()):
            problems.add(f"{path}: header says {name} = {found}, expected {right}")
    try:
        read_stack_header(str(path))
    except CryoboxError as error:
        problems.add(str(error))
    if size > wanted:
        problems.add(f"{path}: bytes is {size}, the ledger and the plan say {wanted}")


def _expected(output: Output, count: int, stack: StackInfo, dtype: str, version: str) -> NDArray[np.void]:
    """The header as docs/conventions.md describes it, written down here again: this finds a fault of the writer."""
    known = math.isfinite(output.pixel_size) and output.pixel_size > 0
    pixel_size = output.pixel_size if known else 0.0
    header = np.zeros((), _little_endian())
    for side in ("nx", "ny", "mx", "my"):
        header[side] = output.size
    header["nz"], header["mz"] = count, 1  # mz = 1 and ispg = 0: a stack, not a volume
    header["mode"] = {"float32": 2, "float16": 12}[dtype]
    header["cella"] = (output.size * pixel_size, output.size * pixel_size, pixel_size)
    header["cellb"] = (90, 90, 90)
    header["mapc"], header["mapr"], header["maps"] = 1, 2, 3
    header["dmin"], header["dmax"], header["dmean"] = stack.minimum, stack.maximum, stack.mean
    header["rms"] = -1 if dtype == "float16" else stack.rms  # -1: not determined
    header["map"], header["machst"], header["nversion"] = b"MAP ", (0x44, 0x44, 0, 0), 20141
    header["nlabl"], header["label"][0] = 1, _label(version)
    return header


def _label(version: str) -> bytes:
    return f"cryobox {version}".encode()


@cache
def _little_endian() -> np.dtype[np.void]:
    from mrcfile.dtypes import HEADER_DTYPE

    header: np.dtype[np.void] = HEADER_DTYPE
    return header.newbyteorder("<")


@cache
def header_fields() -> tuple[tuple[str, int, np.dtype[Any]], ...]:
    """Name, offset and type of every field; together they are all bytes of a header."""
    return tuple(_fields(_little_endian(), "", 0))


def _fields(dtype: np.dtype[Any], name: str, offset: int) -> Iterator[tuple[str, int, np.dtype[Any]]]:
    if dtype.names:
        for inner, (kind, place, *_) in (dtype.fields or {}).items():
            yield from _fields(kind, f"{name}.{inner}" if name else inner, offset + place)
    elif dtype.shape and dtype.base.kind == "S":
        for number in range(dtype.shape[0]):
            yield f"{name}[{number + 1}]", offset + number * dtype.base.itemsize, dtype.base
    else:
        yield name, offset, dtype


def _differing_fields(found: bytes, wanted: bytes) -> Iterator[tuple[str, str, str]]:
    for name, offset, dtype in header_fields():
        place = slice(offset, offset + dtype.itemsize)
        if found[place] != wanted[place]:
            yield name, _field(found[place], dtype), _field(wanted[place], dtype)


def _field(raw: bytes, dtype: np.dtype[Any]) -> str:
    if dtype.kind == "V":
        return f"{sum(map(bool, raw))} bytes that are not zero" if any(raw) else f"{len(raw)} zero bytes"
    if dtype.kind == "S":
        return repr(raw.rstrip(b"\0").decode("ascii", "backslashreplace"))
    values = np.frombuffer(raw, dtype.base)
    return str(values[0]) if len(values) == 1 else str(values.tolist())


def check_pixels(path: Path, stack: StackInfo, *, problems: Problems) -> None:
    """Compare the statistics that the ledger has of a stack (its header has the same) with the stored pixels.

    The whole stack is read, once.
    """
    try:
        (_, side, _), dtype, offset, _ = read_stack_header(str(path))
        found = _Statistics(path, dtype, offset, side)
    except (CryoboxError, OSError):
        return  # told of with the header
    half = dtype.itemsize == 2
    spread = max(found.deviation, 1e-6 * max(abs(found.minimum), abs(found.maximum)))
    step = HALF_STEP * max(abs(found.minimum), abs(found.maximum)) + SMALLEST_HALF if half else 0.0
    within = (-LARGEST_HALF, LARGEST_HALF) if half else (-math.inf, math.inf)
    facts = [
        ("minimum", float(np.clip(stack.minimum, *within)), found.minimum, step),
        ("maximum", float(np.clip(stack.maximum, *within)), found.maximum, step),
    ]
    if not stack.clamped:  # else mean and rms are those of the images before
        limit = STATISTIC_TOLERANCE * spread + step
        facts += [("mean", stack.mean, found.mean, limit), ("rms", stack.rms, found.deviation, limit)]
    for name, said, pixels, limit in facts:
        if not abs(said - pixels) <= limit:
            problems.add(f"{path}: the ledger says {name} = {said:.9g}, the pixels have {pixels:.9g}")
    if stack.clamped > found.clamped:
        problems.add(
            f"{path}: the ledger says that {stack.clamped} pixels were clamped, {found.clamped} are the largest number"
        )


class _Statistics:
    """Of all pixels of a stack, in float64; `clamped` counts float16 pixels that are the largest number."""

    def __init__(self, path: Path, dtype: np.dtype[Any], offset: int, side: int) -> None:
        self.minimum, self.maximum, self.clamped = np.inf, -np.inf, 0
        count, origin, total, square = 0, 0.0, 0.0, 0.0
        with path.open("rb") as file:
            file.seek(offset)
            while len(pixels := np.fromfile(file, dtype, max(1, CHUNK // dtype.itemsize))):
                with np.errstate(invalid="ignore"):  # a NaN that signals
                    wide = pixels.astype(np.float64)
                # About the mean of what came first, so that squares do not drown in a large mean.
                origin = origin if count else float(wide.mean())
                self.minimum = float(np.minimum(self.minimum, wide.min()))  # NaN stays, unlike with Python's own
                self.maximum = float(np.maximum(self.maximum, wide.max()))
                if dtype.itemsize == 2:
                    self.clamped += int((np.abs(wide) >= LARGEST_HALF).sum())
                wide -= origin
                count, total, square = count + len(wide), total + float(wide.sum()), square + float(wide @ wide)
        self.mean = origin + total / count
        self.deviation = math.sqrt(max(square / count - (total / count) ** 2, 0.0))
