"""What a file is, in a few lines: for `cryobox info`."""

from __future__ import annotations

import os
from pathlib import Path

from cryobox.errors import InputError

__all__ = ["describe_file"]

SHOWN_COLUMNS = 200


def describe_file(path: Path) -> list[str]:
    """Return lines that say what `path` is.

    Raises
    ------
    InputError
        If it is none of the kinds that cryobox reads, or damaged.
    """
    name = path.name.lower()
    if os.path.isdir(path):
        raise InputError(f"{path}: is a folder, expected a micrograph, a stack or a table")
    if not os.path.exists(path):
        raise InputError(f"{path}: no such file")
    if name.endswith((".cs", ".csg")):
        return _describe_cs(path)
    if name.endswith(".star"):
        return _describe_star(path)
    if name.endswith((".box", ".cbox", ".txt", ".csv", ".tsv")):
        return _describe_picks(path)
    return _describe_image(path)


def _describe_image(path: Path) -> list[str]:
    from cryobox.formats.images import read_header
    from cryobox.formats.mrc import read_stack_header

    try:
        header = read_header(str(path))
    except InputError as error:
        try:
            (count, side, _), dtype, _, pixel_size = read_stack_header(str(path))
        except InputError:
            raise error from None
        return [f"{path}: stack of {count} images of {side} x {side}, {dtype.name}, {_angstrom(pixel_size)}"]
    ny, nx = header.shape
    order = " (big-endian)" if header.dtype.byteorder == ">" else ""
    what = f"{path}: micrograph of {ny} x {nx} pixels (ny x nx), {header.dtype.name}{order}"
    first = f"{what}, {_angstrom(header.pixel_size)}, {header.file_size} bytes"
    return [first, *(f"  warning: {warning}" for warning in header.warnings)]


def _angstrom(pixel_size: float) -> str:
    return f"{pixel_size:.5g} Å per pixel" if pixel_size > 0 else "no pixel size"


def _describe_cs(path: Path) -> list[str]:
    from cryobox.formats.cs_table import read_table
    from cryobox.formats.csg import read_group

    table = read_group(path)[0] if path.suffix.lower() == ".csg" else read_table(path)
    fields = table.dtype.names or ()
    kind = "group" if path.suffix.lower() == ".csg" else "table"
    lines = [f"{path}: CryoSPARC {kind} of {len(table)} rows, {len(fields)} fields"]
    for name in fields[:SHOWN_COLUMNS]:
        dtype = table.dtype[name]
        lines.append(f"  {name}: {dtype.base.str}{list(dtype.shape) or ''}")
    return lines


def _describe_star(path: Path) -> list[str]:
    from cryobox.formats.star_table import read_blocks

    blocks = read_blocks(path)
    lines = [f"{path}: STAR file of {len(blocks)} blocks"]
    for name, block in blocks.items():
        table = block.table()
        lines.append(f"  data_{name}: {len(table)} rows, {len(table.tags)} columns")
        lines += [f"    {tag}" for tag in table.tags[:SHOWN_COLUMNS]]
    return lines


def _describe_picks(path: Path) -> list[str]:
    from cryobox.formats import read_coordinate_file

    y, x, score, _ = read_coordinate_file(path)
    line = f"{path}: {len(y)} picks"
    if len(y):
        line += f", x from {x.min():g} to {x.max():g}, y from {y.min():g} to {y.max():g}"
    if score is not None and len(y):
        line += f", scores from {score.min():g} to {score.max():g}"
    return [line]
