"""Small seeded makers of what tests read: micrographs of any type and layout, MRC files, STAR and `.cs` tables.

Written apart from the package on purpose: its formats and simulations are not tested with themselves.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

# How far an image may lie from the float64 oracle, as a part of the oracle's largest absolute value. float16 rounds to
# 11 bits: half a unit in the last place is at most 2^-11 of a value.
TOLERANCE = {"float32": 2e-6, "float16": 2.0**-11 + 2e-6}

ByteOrder = Literal["<", ">"]

PIXEL_TYPES = ("int8", "uint8", "int16", "uint16", "float16", "float32")

_MEAN_AND_SD = {
    "int8": (10.0, 25.0),
    "uint8": (120.0, 30.0),
    "int16": (-300.0, 400.0),
    "uint16": (6000.0, 900.0),
    "float16": (12.0, 2.0),
    "float32": (12.0, 2.0),
}


def micrograph(
    shape: tuple[int, int], dtype: str = "float32", *, seed: int = 0, mean: float | None = None, sd: float | None = None
) -> NDArray[Any]:
    """Noise on a slope, with a wave in each direction so that rows, columns and signs cannot be confused."""
    usual_mean, usual_sd = _MEAN_AND_SD[dtype]
    mean = usual_mean if mean is None else mean
    sd = usual_sd if sd is None else sd
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float64)
    image = rng.normal(0, 0.7, shape) + 0.4 * np.sin(0.13 * y + 0.4) + 0.6 * np.sin(0.31 * x)
    image += 0.5 * y / shape[0] - 0.8 * x / shape[1]
    image = mean + sd * image
    if np.dtype(dtype).kind in "iu":
        limits = np.iinfo(dtype)
        image = np.clip(np.rint(image), limits.min, limits.max)
    return np.asarray(image.astype(dtype))


def stored(image: NDArray[Any], *, byte_order: ByteOrder = "<", padding: int = 0) -> NDArray[Any]:
    """The same values in the byte order "<" or ">", with `padding` foreign pixels behind every row."""
    dtype = image.dtype.newbyteorder(byte_order)
    room = np.full((image.shape[0], image.shape[1] + padding), 77, dtype)
    room[:, : image.shape[1]] = image
    return room[:, : image.shape[1]]


def corners_inside(shape: tuple[int, int], box: int, count: int, *, seed: int = 0) -> NDArray[np.int64]:
    """Corners of boxes that lie inside, the four extreme ones first."""
    high = np.array(shape) - box
    extremes = np.array([(0, 0), (high[0], high[1]), (0, high[1]), (high[0], 0)])
    rng = np.random.default_rng(seed)
    return np.concatenate([extremes, rng.integers(0, high + 1, (count, 2))])[:count].astype(np.int64)


MRC_MODES = {"int8": 0, "int16": 1, "float32": 2, "uint16": 6, "float16": 12}


def write_mrc(
    path: Path,
    image: NDArray[Any],
    *,
    pixel_size: float = 1.0,
    byte_order: ByteOrder = "<",
    extended_header: bytes = b"",
    stack: bool = False,
) -> Path:
    """Write an array (ny, nx) or (n, ny, nx) as an MRC file, field by field from the format's description."""
    sections = image if image.ndim == 3 else image[None]
    nz, ny, nx = sections.shape
    wide = sections.astype(np.float64)
    header = struct.pack(
        f"{byte_order}10i6f3i3f2i",
        *(nx, ny, nz, MRC_MODES[image.dtype.name]),  # size and mode
        *(0, 0, 0, nx, ny, 1 if stack else nz),  # start and grid
        *(nx * pixel_size, ny * pixel_size, nz * pixel_size, 90.0, 90.0, 90.0),
        *(1, 2, 3),
        *(wide.min(), wide.max(), wide.mean()),
        *(0, len(extended_header)),
    )
    header += b"\0" * 8 + (b"FEI1" if extended_header else b"\0\0\0\0") + struct.pack(f"{byte_order}i", 20140)
    header = header.ljust(208, b"\0") + b"MAP " + (b"\x44\x44\0\0" if byte_order == "<" else b"\x11\x11\0\0")
    header += struct.pack(f"{byte_order}fi", wide.std(), 0)
    pixels = sections.astype(image.dtype.newbyteorder(byte_order)).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header.ljust(1024, b"\0") + extended_header + pixels)
    return path


def star_text(blocks: Mapping[str, Mapping[str, Sequence[object]]]) -> str:
    """STAR text: one loop per block, tags without the underscore."""
    parts = []
    for name, columns in blocks.items():
        tags = [f"_{tag} #{i}" for i, tag in enumerate(columns, 1)]
        rows = [" ".join(map(str, row)) for row in zip(*columns.values(), strict=True)]
        parts.append("\n".join(["", "# version 50001", "", f"data_{name}", "", "loop_", *tags, *rows, ""]))
    return "\n".join(parts)


def write_star(path: Path, blocks: Mapping[str, Mapping[str, Sequence[object]]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(star_text(blocks))
    return path


def write_cs(path: Path, columns: Mapping[str, NDArray[Any]]) -> Path:
    """Write columns as the packed records of a `.cs` file."""
    dtype = np.dtype([(name, column.dtype, column.shape[1:]) for name, column in columns.items()])
    records = np.zeros(len(next(iter(columns.values()))), dtype)
    for name, column in columns.items():
        records[name] = column
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:  # np.save would append .npy to a name
        np.save(file, records, allow_pickle=False)
    return path
