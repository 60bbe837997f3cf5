"""Picks of Xmipp: `.pos` and `.xmd`, STAR tables that begin with `# XMIPP_STAR_1 *`; and `.pos` of Xmipp 2.4.

`_xcoor` and `_ycoor` are centers in pixels, y from the first row. Picks made by hand stand in `data_particles`, those
of the automatic picker in `data_particles_auto`; Xmipp takes both. A row whose `_enabled` is not positive (-1) was
discarded by the user, and is no pick. `_cost` is what Xmipp's threshold is compared with: the higher, the better.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryobox.errors import InputError
from cryobox.formats.coords import parse_coords
from cryobox.formats.star_picks import check_flat
from cryobox.formats.star_table import Block, Table, read_blocks
from cryobox.formats.star_text import listed
from cryobox.formats.text import read_text

__all__ = ["holds_picks", "read_xmipp"]

Floats = NDArray[np.float64]

_BLOCKS = ("particles", "particles_auto")
_STATE = "header"  # how far a micrograph is picked; alone where it has no picks
_X, _Y, _Z = "_xcoor", "_ycoor", "_zcoor"
_STAR_BLOCK = re.compile(r"^\s*data_", re.MULTILINE)


def read_xmipp(path: str | Path) -> tuple[Floats, Floats, Floats | None, list[str] | None]:
    """Read y, x, score (or None) and, where there is a column `_micrograph`, the micrograph of each pick.

    Raises
    ------
    InputError
        If there is no block with coordinates, or several that Xmipp does not join, or the picks are of a tomogram.
    """
    text = read_text(path, "a table of Xmipp")
    if not text.strip():
        return np.empty(0), np.empty(0), None, None
    if Path(path).suffix.lower() == ".pos" and not _STAR_BLOCK.search(text):
        return *parse_coords(path, text), None, None
    parts = [_read_block(table) for table in _tables(path)]
    if not parts:
        return np.empty(0), np.empty(0), None, None
    names = [name for _, _, _, some in parts for name in some or ()]
    y, x, score = (np.concatenate([part[i] for part in parts]) for i in range(3))
    if names and len(names) != len(y):
        raise InputError(f"{path}: only one of its blocks of picks names their micrographs; expected both or none")
    return y, x, None if np.isnan(score).all() else score, names or None


def holds_picks(path: str | Path) -> bool:
    """Whether a file looks like a table of picks: Xmipp leaves others of the same type beside them."""
    try:
        return _X.encode() in Path(path).read_bytes().lower()
    except OSError:
        return True  # reading it says why


def _tables(path: str | Path) -> list[Table]:
    """The blocks that hold picks."""
    blocks = read_blocks(path)
    found = [block.table() for name, block in blocks.items() if name in _BLOCKS]
    if not found:
        others = {name: block.table() for name, block in blocks.items() if _mentions(block, _X)}
        with_picks = {name: table for name, table in others.items() if _X in _tags(table)}
        if len(with_picks) > 1:
            raise InputError(
                f"{path}: {len(with_picks)} blocks hold picks: {_named(with_picks)}; expected data_particles, "
                "data_particles_auto, or one block"
            )
        found = list(with_picks.values())
    if not found and set(blocks) != {_STATE}:
        raise InputError(f"{path}: no block has columns {_X} and {_Y}; blocks present: {_named(blocks)}")
    return [table for table in found if table.tags]  # a bare data_particles has no picks, and no columns either


def _mentions(block: Block, tag: str) -> bool:
    return tag.encode() in block.raw.lower()


def _named(blocks: dict[str, Block] | dict[str, Table]) -> str:
    return listed([f"data_{name}" for name in blocks])


def _tags(table: Table) -> dict[str, str]:
    """The columns by lower-case name: older versions write _Xcoor."""
    return {tag.lower(): tag for tag in table.tags}


def _read_block(table: Table) -> tuple[Floats, Floats, Floats, list[str] | None]:
    """y, x, score (nan where there is none) and micrographs of the picks that are enabled."""
    tags = _tags(table)
    table.require(*(tag for tag in (_X, _Y) if tag not in tags))
    y, x = table.floats(tags[_Y]), table.floats(tags[_X])
    kept = np.ones(len(table), np.bool_)
    if "_enabled" in tags:
        kept = table.floats(tags["_enabled"]) > 0
    if _Z in tags:
        check_flat(table.path, tags[_Z], table.floats(tags[_Z])[kept])
    score = table.floats(tags["_cost"]) if "_cost" in tags else np.full(len(table), np.nan)
    names = None
    if "_micrograph" in tags:
        names = [name for name, here in zip(table.texts(tags["_micrograph"]), kept, strict=True) if here]
    return y[kept], x[kept], score[kept], names
