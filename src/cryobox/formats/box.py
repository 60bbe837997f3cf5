"""Boxes with a corner and a size: EMAN's `.box` and crYOLO's `.cbox`; and the names of per-micrograph files."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryobox.errors import InputError
from cryobox.formats.star_picks import NOT_KNOWN, check_flat
from cryobox.formats.star_table import Table, read_blocks
from cryobox.formats.text import read_text
from cryobox.formats.traced import Traced

__all__ = [
    "HELIX_LINE",
    "check_no_helices",
    "filaments_of",
    "marked_ends",
    "read_box",
    "read_cbox",
    "read_traced_cbox",
    "strip_shared_suffix",
]

Floats = NDArray[np.float64]

_HELIX_START, _HELIX_END, _PARTICLE = -1.0, -2.0, -3.0  # EMAN's marks in the fifth column
_EMAN_MARKS = {_HELIX_START, _HELIX_END, _PARTICLE}
HELIX_LINE = re.compile(r"\s*#\s*helix\s*:", re.IGNORECASE)
_FILAMENT = "_filamentid"


def read_box(path: str | Path) -> tuple[Floats, Floats, Floats | None]:
    """Read an EMAN1 `.box`: x and y of the corner, width, height, and a score or EMAN's mark.

    Returns
    -------
    tuple of ndarray, float64
        y and x of the centers in pixels, and the scores, or None where there are none. The center is the corner plus
        the whole half of the size, which is the middle pixel of an odd box; RELION reads it so, too.

    Raises
    ------
    InputError
        If a line cannot be read, or the file holds helices: their ends are no particles.
    """
    name = str(path)
    text = read_text(path, "a .box file")
    check_no_helices(name, text)
    rows, lines = _rows_of(name, text)
    if rows and len(rows[0]) == 5:
        _check_no_ends(name, [row[4] for row in rows], lines)
    columns = np.array(rows, np.float64).reshape(len(rows), -1).T if rows else np.empty((4, 0))
    score = columns[4] if len(columns) == 5 and not _EMAN_MARKS.issuperset(columns[4].tolist()) else None
    with np.errstate(invalid="ignore"):  # a size that is no number gives a center that is none
        return columns[1] + columns[3] // 2, columns[0] + columns[2] // 2, score


def _rows_of(name: str, text: str) -> tuple[list[list[float]], list[int]]:
    """The values of each row, and its line."""
    rows: list[list[float]] = []
    lines: list[int] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split("#", 1)[0].replace(",", " ").split()
        if not words:
            continue
        if len(words) not in (4, 5):
            raise InputError(
                f"{name}: line {number}: {len(words)} values, expected 4 or 5: x and y of the corner, width, height "
                "and perhaps a score"
            )
        try:
            rows.append([float(word) for word in words])
        except ValueError:
            raise InputError(f"{name}: line {number}: expected numbers, got {line.strip()[:60]!r}") from None
        if len(rows[-1]) != len(rows[0]):
            raise InputError(f"{name}: line {number}: {len(rows[-1])} values, expected {len(rows[0])} as above")
        lines.append(number)
    return rows, lines


def marked_ends(name: str, text: str) -> tuple[Floats, NDArray[np.int64]] | None:
    """The boxes that mark ends of helices, as x, y, width, height, and the helix of each from 1; None if none does.

    A start (-1) and the end (-2) behind it are of one helix; what stands alone is one of its own.
    """
    rows, _ = _rows_of(name, text)
    if not rows or len(rows[0]) != 5 or _first_end([row[4] for row in rows]) is None:
        return None
    ends = [row for row in rows if row[4] in (_HELIX_START, _HELIX_END)]
    starts = [True, *(now != _HELIX_END or before != _HELIX_START for (*_, before), (*_, now) in pairwise(ends))]
    return np.array(ends, np.float64)[:, :4], np.cumsum(starts)


def check_no_helices(name: str, text: str) -> None:
    """Raise `InputError` if a file lists segments of helices, each headed by a line `#helix: (x, y),(x, y),width`."""
    for number, line in enumerate(text.splitlines(), 1):
        if HELIX_LINE.match(line):
            raise InputError(
                f"{name}: line {number}: {line.strip()[:60]!r} heads the segments of a helix (crYOLO's "
                "EMAN_HELIX_SEGMENTED, EMAN2's e2helixboxer); give --helix segments, or, to cut the helices anew, "
                "--helix ends (as particles of their own: the centers without # lines as .txt)"
            )


def _check_no_ends(name: str, marks: Sequence[float], lines: Sequence[int]) -> None:
    """Refuse pairs of lines that are the two ends of a helix; a column with other values holds scores."""
    first = _first_end(marks)
    if first is not None:
        raise InputError(
            f"{name}: line {lines[first]}: a fifth value of {marks[first]:g} marks an end of a helix (-1 its start, -2 "
            "its end), which is no particle; cut the helices into segments with --helix ends"
        )


def _first_end(marks: Sequence[float]) -> int | None:
    """The first row that is an end of a helix, of the first pair where there is one."""
    ends = [i for i, mark in enumerate(marks) if mark in (_HELIX_START, _HELIX_END)]
    pairs = [i for i in ends if list(marks[i : i + 2]) == [_HELIX_START, _HELIX_END]]
    if ends and (pairs or _EMAN_MARKS.issuperset(marks)):
        return pairs[0] if pairs else ends[0]
    return None


def read_cbox(path: str | Path) -> tuple[Floats, Floats, Floats | None, NDArray[np.int64] | None]:
    """Read crYOLO's `.cbox`, a STAR table whose coordinates are corners; the confidence is the score.

    Returns
    -------
    tuple of ndarray
        y and x of the centers in pixels and the scores, float64; and the filament of each, int64: `_filamentid`, which
        counts from 0, plus 1, and 0 where it is not known. None for scores or filaments where there are none.
    """
    blocks = read_blocks(path, may_be_empty=True)
    if not set(blocks) - {"global"}:
        return np.empty(0), np.empty(0), None, None
    if "cryolo" not in blocks:
        raise InputError(
            f"{path}: no block data_cryolo; blocks present: {', '.join(f'data_{name}' for name in blocks)}"
        )
    table = blocks["cryolo"].table()
    if not table.tags:
        return np.empty(0), np.empty(0), None, None
    table.require("_CoordinateX", "_CoordinateY", "_Width", "_Height")
    x, y, width, height = (
        table.floats(tag, missing=NOT_KNOWN) for tag in ("_CoordinateX", "_CoordinateY", "_Width", "_Height")
    )
    if "_CoordinateZ" in table:
        check_flat(str(path), "_CoordinateZ", table.floats("_CoordinateZ", missing=NOT_KNOWN))
    score = table.floats("_Confidence", missing=NOT_KNOWN) if "_Confidence" in table else None
    if score is not None and np.isnan(score).all():
        score = None
    with np.errstate(invalid="ignore"):
        return y + height / 2, x + width / 2, score, filaments_of(table)


def read_traced_cbox(path: str | Path) -> tuple[Floats, Floats, Floats | None, Traced | None]:
    """The same with the filaments as a value."""
    y, x, score, tube = read_cbox(path)
    return y, x, score, None if tube is None else Traced(tube=tube)


def filaments_of(table: Table) -> NDArray[np.int64] | None:
    """The filament of each row of a `.cbox` from 1, 0 where it is not known; None where no row is of one."""
    if _FILAMENT not in table:
        return None
    number = table.floats(_FILAMENT, missing=NOT_KNOWN)
    known = ~np.isnan(number)
    wrong = np.flatnonzero(known & ((number < 0) | (number > 2**31) | (number != np.trunc(number))))
    if len(wrong):
        raise InputError(
            f"{table.path}: data_{table.block}, row {int(wrong[0]) + 1}: {_FILAMENT} is {number[wrong[0]]:g}, expected "
            "a whole number from 0, or <NA>"
        )
    return np.where(known, number + 1, 0).astype(np.int64) if known.any() else None


def strip_shared_suffix(
    stems: Sequence[str], known_stems: Sequence[str], suffix: str | None, *, source: str = "coordinate files"
) -> tuple[list[str], str]:
    """Take off what coordinate files have between the micrograph's stem and the file type (`_autopick`, ...).

    Parameters
    ----------
    stems : sequence of str
        Of the coordinate files.
    known_stems : sequence of str
        Of the micrographs; empty where they are not known.
    suffix : str, optional
        What the user says it is. Otherwise the one text that all files end with and that leaves the stem of a known
        micrograph. It begins with a character that is no letter or digit: `mic_10` is not `mic_1` with a suffix.
    source : str
        For messages.

    Returns
    -------
    tuple
        The shorter stems, and the suffix that was taken off ("" for none).

    Raises
    ------
    InputError
        If no file ends with `suffix`, or if two suffixes fit equally well.
    """
    if suffix:
        if stems and not any(stem.endswith(suffix) for stem in stems):
            raise InputError(
                f"{source}: no coordinate file has a name that ends with {suffix!r}; got for example {stems[0]!r}"
            )
        return [stem.removesuffix(suffix) for stem in stems], suffix
    known = set(known_stems)
    if known.intersection(stems):
        return list(stems), ""
    found: Counter[str] = Counter()
    for stem in stems:
        found.update(stem[i:] for i in range(1, len(stem)) if not stem[i].isalnum() and stem[:i] in known)
    shared = [(count, end) for end, count in found.items() if all(stem.endswith(end) for stem in stems)]
    if not shared:
        return list(stems), ""
    most = max(count for count, _ in shared)
    best = sorted(end for count, end in shared if count == most)
    if len(best) > 1:
        raise InputError(
            f"{source}: the names of the coordinate files fit micrographs in two ways, with {best[0]!r} or {best[1]!r} "
            "taken off; say which with --coord-suffix"
        )
    return [stem.removesuffix(best[0]) for stem in stems], best[0]
