"""Boxes with a corner and a size: EMAN's `.box` and crYOLO's `.cbox`; and the names of per-micrograph files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryobox.errors import InputError
from cryobox.formats.star_table import read_blocks

__all__ = ["read_box", "read_cbox", "strip_shared_suffix"]

Floats = NDArray[np.float64]

_EMAN_MARKS = {-1.0, -2.0, -3.0}  # fifth column of EMAN: -3 a particle, -1 and -2 the ends of a helix
_NOT_KNOWN = (b"<NA>", b"None", b"nan")


def read_box(path: str | Path) -> tuple[Floats, Floats, Floats | None]:
    """Read an EMAN1 `.box`: x and y of the corner, width, height, and a score or EMAN's mark.

    Returns
    -------
    tuple of ndarray, float64
        y and x of the centers in pixels, and the scores, or None where there are none. The center is the corner plus
        the whole half of the size, which is the middle pixel of an odd box; RELION reads it so, too.
    """
    name = str(path)
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{name}: not a .box file: it holds bytes that are not text") from None
    except OSError as error:
        raise InputError(f"{name}: cannot be read: {error.strerror or error}") from error
    rows: list[list[float]] = []
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
    columns = np.array(rows, np.float64).reshape(len(rows), -1).T if rows else np.empty((4, 0))
    score = columns[4] if len(columns) == 5 and not _EMAN_MARKS.issuperset(columns[4].tolist()) else None
    with np.errstate(invalid="ignore"):  # a size that is no number gives a center that is none
        return columns[1] + columns[3] // 2, columns[0] + columns[2] // 2, score


def read_cbox(path: str | Path) -> tuple[Floats, Floats, Floats | None]:
    """Read crYOLO's `.cbox`, a STAR table whose coordinates are corners; the confidence is the score."""
    blocks = read_blocks(path)
    if "cryolo" not in blocks:
        raise InputError(
            f"{path}: no block data_cryolo; blocks present: {', '.join(f'data_{name}' for name in blocks)}"
        )
    table = blocks["cryolo"].table()
    table.require("_CoordinateX", "_CoordinateY", "_Width", "_Height")
    x, y, width, height = (
        table.floats(tag, missing=_NOT_KNOWN) for tag in ("_CoordinateX", "_CoordinateY", "_Width", "_Height")
    )
    score = table.floats("_Confidence", missing=_NOT_KNOWN) if "_Confidence" in table else None
    if score is not None and np.isnan(score).all():
        score = None
    with np.errstate(invalid="ignore"):
        return y + height / 2, x + width / 2, score


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
