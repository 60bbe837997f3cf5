"""Files of filaments: EMAN's marked ends, `#helix:` lines of EMAN2 and crYOLO, filaments of a `.cbox`."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryobox.errors import InputError
from cryobox.formats.box import HELIX_LINE, filaments_of, marked_ends, read_cbox
from cryobox.formats.star_picks import NOT_KNOWN
from cryobox.formats.star_table import read_blocks
from cryobox.formats.text import read_text
from cryobox.formats.traced import Traced
from cryobox.groups import Helix
from cryobox.tubes import psi_of

__all__ = ["TRACED_SUFFIXES", "has_helix_lines", "read_traced"]

TRACED_SUFFIXES = (".box", ".cbox", ".txt", ".csv", ".tsv", ".pos", ".coord", ".coords")
STRAIGHT = 2.0  # pixels: whole-number centers of a straight tube lie so close to the line between its ends
_VERTICES = "filament_vertices"
_FILAMENT = "_filamentid"
_NUMBER = r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)"
_POINT = rf"[(\[]\s*{_NUMBER}\s*,\s*{_NUMBER}\s*[)\]]"
_HEAD = re.compile(rf"\s*#\s*helix\s*:\s*{_POINT}\s*,\s*{_POINT}(?:\s*,.*)?$", re.IGNORECASE)

Floats = NDArray[np.float64]


PicksOfTubes = tuple[Floats, Floats, Floats | None, Traced]


def has_helix_lines(path: str | Path) -> bool:
    """Whether a text file has lines `#helix:`."""
    return any(HELIX_LINE.match(line) for line in read_text(path, "a file of filaments").splitlines())


def read_traced(path: str | Path, helix: Helix) -> PicksOfTubes | None:
    """Read a file of filaments: the vertices of each, or its segments; None where it says nothing of filaments.

    Parameters
    ----------
    path : path
        One of `TRACED_SUFFIXES`.
    helix : {"ends", "segments", "whole"}

    Returns
    -------
    tuple
        y, x, score (or None) of the vertices ("ends", "whole") or of the segments, and `Traced`.

    Raises
    ------
    InputError
        If the file holds the one where the other is asked for, or cannot be read.
    """
    kind, name = Path(path).suffix.lower(), str(path)
    if kind == ".cbox":
        return _of_cbox(path, helix)
    text = read_text(path, "a file of filaments")
    if any(HELIX_LINE.match(line) for line in text.splitlines()):
        return _of_lines(name, text, helix)
    if kind != ".box" or not text.strip():
        return None
    boxes = marked_ends(name, text)
    if helix == "segments":
        if boxes is not None:
            raise InputError(f"{name}: holds the ends of helices (a fifth value of -1, -2), no segments: --helix ends")
        return None
    if boxes is None:
        raise InputError(
            f"{name}: marks no ends of helices (a fifth value of -1 for the start, -2 for the end), so --helix {helix} "
            f"cannot be used"
        )
    return _ends_of(*boxes, pulled=helix == "ends")


def _ends_of(boxes: Floats, tube: NDArray[np.int64], *, pulled: bool) -> PicksOfTubes:
    """Ends as EMAN writes them; `pulled` in by half the width of the box at each end, as RELION reads them.

    `boxes`: x, y of the corner, width and height. A tube that is not longer than its width keeps no length; an end that
    stands alone stays where it is.
    """
    ends = (boxes[:, :2] + boxes[:, 2:4] / 2)[:, ::-1].copy()  # (y, x)
    if not pulled:
        return ends[:, 0].copy(), ends[:, 1].copy(), None, Traced(tube=tube)
    start = np.flatnonzero(tube[1:] == tube[:-1])
    step, width = ends[start + 1] - ends[start], boxes[start, 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        part = np.clip(width / 2 / np.hypot(step[:, 0], step[:, 1]), 0.0, 0.5)
        inset = np.where(np.isnan(part), 0.0, part)[:, None] * step
    ends[start] += inset
    ends[start + 1] = np.where((part >= 0.5)[:, None], ends[start], ends[start + 1] - inset)
    return ends[:, 0].copy(), ends[:, 1].copy(), None, Traced(tube=tube)


def _of_lines(name: str, text: str, helix: Helix) -> PicksOfTubes:
    """Segments below `#helix: (x1, y1),(x2, y2),width` lines, or the ends that these lines say."""
    heads: list[list[float]] = []
    rows: list[tuple[float, float]] = []
    tube: list[int] = []
    for number, line in enumerate(text.splitlines(), 1):
        if HELIX_LINE.match(line):
            found = _HEAD.match(line)
            if found is None:
                raise InputError(
                    f"{name}: line {number}: expected #helix: (x1, y1),(x2, y2),width with round or square brackets; "
                    f"got {line.strip()[:60]!r}"
                )
            heads.append([float(word) for word in found.groups()])
            continue
        words = line.split("#", 1)[0].replace(",", " ").split()
        if not words:
            continue
        try:
            x, y = (float(word) for word in words[:2])
        except ValueError:
            raise InputError(f"{name}: line {number}: expected x and y, got {line.strip()[:60]!r}") from None
        rows.append((y, x))
        tube.append(len(heads))
    ends = np.array(heads, np.float64).reshape(-1, 2)[:, ::-1]  # (y, x), two for each tube
    if helix != "segments":
        numbers = np.repeat(np.arange(1, len(heads) + 1), 2)
        return ends[:, 0].copy(), ends[:, 1].copy(), None, Traced(tube=numbers)
    points, of = np.array(rows, np.float64).reshape(-1, 2), np.array(tube, np.int64)
    return points[:, 0].copy(), points[:, 1].copy(), None, Traced(tube=of, psi=_along_heads(points, of, ends))


def _along_heads(points: Floats, tube: NDArray[np.int64], ends: Floats) -> Floats:
    """The direction between the ends of each straight tube, for its segments; nan for others.

    Centers are whole numbers: from neighbor to neighbor their directions jump by degrees.
    """
    found = np.full(len(points), np.nan)
    start, step = ends[::2], ends[1::2] - ends[::2]
    length = np.hypot(step[:, 0], step[:, 1])
    known = (tube > 0) & (length[tube - 1] > 0 if len(length) else False)
    of = tube[known] - 1
    away = points[known] - start[of]
    off = np.abs(away[:, 0] * step[of, 1] - away[:, 1] * step[of, 0]) / length[of]
    farthest = np.zeros(len(length))
    np.maximum.at(farthest, of, off)
    found[known] = np.where(farthest[of] <= STRAIGHT, psi_of(step)[of], np.nan)
    return found


def _of_cbox(path: str | Path, helix: Helix) -> PicksOfTubes | None:
    """Boxes of filaments; for their ends the vertices where crYOLO wrote them, else the boxes, as a polyline."""
    if helix != "segments":
        blocks = read_blocks(path, may_be_empty=True)
        table = blocks[_VERTICES].table() if _VERTICES in blocks else None
        if table is not None and len(table):
            table.require("_CoordinateX", "_CoordinateY", _FILAMENT)
            x, y = (table.floats(tag, missing=NOT_KNOWN) for tag in ("_CoordinateX", "_CoordinateY"))
            return _known_only(y, x, None, filaments_of(table))
    y, x, score, tube = read_cbox(path)
    if tube is None:
        if not len(y):
            return None
        raise InputError(f"{path}: has no {_FILAMENT}, so its boxes are of no filament: --helix cannot be used")
    if helix == "segments":
        return y, x, score, Traced(tube=tube)
    return _known_only(y, x, score, tube)


def _known_only(y: Floats, x: Floats, score: Floats | None, tube: NDArray[np.int64] | None) -> PicksOfTubes:
    """Points of filaments; those of none are no ends of anything."""
    numbers = np.zeros(len(y), np.int64) if tube is None else tube
    kept = numbers > 0
    return y[kept], x[kept], None if score is None else score[kept], Traced(tube=numbers[kept])
