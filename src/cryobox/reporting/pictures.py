"""Pictures of images: gray levels, montages, PNG. NumPy only; the report adds what needs more."""

from __future__ import annotations

import math
import struct
import zlib

import numpy as np
from numpy.typing import NDArray

from cryobox.formats.images import PixelReader, read_header

__all__ = ["encode_png", "gray", "montage", "read_thumbnail", "sheet_of", "spread"]

Floats = NDArray[np.float32]
Gray = NDArray[np.uint8]

CONTRAST_SD = 3.0  # gray levels span the mean ± so many standard deviations of the pixels in between
GAP = 2  # pixels between the images of a montage


def read_thumbnail(path: str, side: int, *, tiff_flip: bool = True) -> tuple[Floats, int]:
    """Read a micrograph binned to at most `side` pixels; returns it and the number of pixels that became one."""
    header = read_header(path)
    image = PixelReader().read(path, header, tiff_flip=tiff_flip)
    factor = max(1, math.ceil(max(image.shape) / side))
    ny, nx = (extent // factor * factor for extent in image.shape)
    blocks = image[:ny, :nx].reshape(ny // factor, factor, nx // factor, factor)
    return blocks.mean(axis=(1, 3), dtype=np.float32), factor


def gray(image: Floats) -> Gray:
    """Map an image to gray levels: mean ± 3 sd of its pixels without the outermost 1 %, lest hot pixels decide."""
    values = image[np.isfinite(image)]
    if not len(values):
        return np.zeros(image.shape, np.uint8)
    low, high = np.percentile(values, (0.5, 99.5))
    middle = values[(values >= low) & (values <= high)]
    mean, sd = float(middle.mean(dtype=np.float64)), float(middle.std(dtype=np.float64))
    scaled = (np.nan_to_num(image, nan=mean) - mean) / (sd or 1.0) / (2 * CONTRAST_SD) + 0.5
    levels: Gray = (np.clip(scaled, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)
    return levels


def montage(images: Floats, columns: int, *, each: bool = True) -> Gray:
    """Put images side by side, `columns` in a row; `each` with its own gray levels."""
    return sheet_of(np.stack([gray(image) for image in images]) if each else gray(images), columns)


def sheet_of(levels: Gray, columns: int) -> Gray:
    """Pictures of one size side by side, `columns` in a row."""
    rows = math.ceil(len(levels) / columns)
    side_y, side_x = levels.shape[1] + GAP, levels.shape[2] + GAP
    sheet = np.full((rows * side_y - GAP, columns * side_x - GAP), 255, np.uint8)
    for number, level in enumerate(levels):
        y, x = number // columns * side_y, number % columns * side_x
        sheet[y : y + level.shape[0], x : x + level.shape[1]] = level
    return sheet


def spread(total: int, wanted: int) -> NDArray[np.intp]:
    """Up to `wanted` indices of `total`, evenly spread and ascending."""
    return (
        np.unique(np.linspace(0, total - 1, min(wanted, total)).round().astype(np.intp))
        if total
        else np.zeros(0, np.intp)
    )


def encode_png(sheet: Gray) -> bytes:
    """An 8-bit PNG, gray or of three colors (ISO/IEC 15948: signature, IHDR, IDAT with filter 0, IEND)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = sheet.shape[:2]
    rows = np.zeros((height, sheet[0].size + 1), np.uint8)
    rows[:, 1:] = sheet.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, 0 if sheet.ndim == 2 else 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows.tobytes(), 6)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body
