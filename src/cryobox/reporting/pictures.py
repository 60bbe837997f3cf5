"""Pictures of images: montages of stacks, as PNG or in a terminal. NumPy only; the report adds what needs more."""

from __future__ import annotations

import math
import shutil
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryobox.errors import InputError, OutputError
from cryobox.formats.images import PixelReader, read_header
from cryobox.formats.mrc import read_images, read_stack_header

__all__ = ["gray", "montage", "read_thumbnail", "spread", "terminal_montage", "write_montage"]

Floats = NDArray[np.float32]
Gray = NDArray[np.uint8]

CONTRAST_SD = 3.0  # gray levels span the mean ± so many standard deviations of the pixels in between
MICROGRAPH_SIDE = 1000  # pixels of a micrograph that is shown whole
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
    levels = np.stack([gray(image) for image in images]) if each else gray(images)
    rows = math.ceil(len(images) / columns)
    side_y, side_x = images.shape[1] + GAP, images.shape[2] + GAP
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


def write_montage(path: Path, out: Path, count: int) -> tuple[int, tuple[int, int]]:
    """Write images of a stack (or a micrograph) as a PNG; returns how many, and the picture's shape."""
    images = _some_images(path, count, MICROGRAPH_SIDE)
    sheet = montage(images, _columns(len(images))) if len(images) > 1 else gray(images[0])
    try:
        out.write_bytes(encode_png(sheet))
    except OSError as error:
        raise OutputError(f"{out}: cannot be written: {error.strerror}") from error
    return len(images), (sheet.shape[0], sheet.shape[1])


def _columns(count: int) -> int:
    return min(count, max(1, math.ceil(math.sqrt(count * 1.6))))


def _some_images(path: Path, count: int, side: int) -> Floats:
    if path.is_dir() or not path.exists():
        raise InputError(f"{path}: {'is a folder, expected a stack' if path.is_dir() else 'no such file'}")
    if count < 1:
        raise InputError(f"{path}: at least 1 image can be shown; got {count}")
    try:
        total, *shape = read_stack_header(str(path))[0]
    except InputError:
        total, shape = 0, [MICROGRAPH_SIDE + 1]
    if total <= 1 and max(shape) > MICROGRAPH_SIDE:
        return read_thumbnail(str(path), side)[0][None]
    return read_images(path, spread(total, count))


def encode_png(sheet: Gray) -> bytes:
    """An 8-bit gray PNG (ISO/IEC 15948: signature, IHDR, IDAT with filter 0, IEND)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = sheet.shape
    rows = np.zeros((height, width + 1), np.uint8)
    rows[:, 1:] = sheet
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows.tobytes(), 6)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def terminal_montage(path: Path, count: int, *, color: bool) -> Iterator[str]:
    """Lines that show images in a terminal: two pixels a character, in 24 grays, or as plain characters."""
    columns, _ = shutil.get_terminal_size((80, 24))
    images = _some_images(path, min(count, 12), columns)
    across = min(len(images), 4 if columns >= 100 else 3)
    side = max(8, columns // across - 1)
    small = np.stack([_shrink(image, side) for image in images])
    sheet = montage(small, across) if len(small) > 1 else gray(small[0])
    if len(sheet) % 2:
        sheet = np.vstack([sheet, sheet[-1:]])
    if not color:
        ramp = " .:-=+*#%@"
        for row in sheet[::2]:
            yield "".join(ramp[level * len(ramp) // 256] for level in row.tolist())
        return
    shade = 232 + sheet.astype(np.intp) * 24 // 256
    for top, bottom in zip(shade[::2].tolist(), shade[1::2].tolist(), strict=True):
        cells = (f"\x1b[38;5;{a};48;5;{b}m▀" for a, b in zip(top, bottom, strict=True))
        yield "".join(cells) + "\x1b[0m"


def _shrink(image: Floats, side: int) -> Floats:
    """Bin an image so that its longer side has at most `side` pixels."""
    factor = max(1, math.ceil(max(image.shape) / side))
    ny, nx = (extent // factor * factor for extent in image.shape)
    blocks = image[:ny, :nx].reshape(ny // factor, factor, nx // factor, factor)
    binned: Floats = blocks.mean(axis=(1, 3), dtype=np.float32)
    return binned
