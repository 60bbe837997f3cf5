"""`.coord` and `.coords`, and `.pos` of Xmipp 2.4: centers as the first two words of each line, as RELION reads them.

XIMDISP writes a first line `x y density`, Xmipp 2.4 `# <X position> <Y position>`; other pickers write no header. What
stands behind x and y (a density, the angle of a filament) is not a score, and is left out.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryobox.errors import InputError
from cryobox.formats.box import check_no_helices
from cryobox.formats.star_picks import check_flat
from cryobox.formats.text import is_number, read_text

__all__ = ["parse_coords", "read_coords"]

Floats = NDArray[np.float64]

_MOST_WORDS = 3  # of a line that no header explains: x y and a density; more would be EMAN's corners and sizes


def read_coords(path: str | Path) -> tuple[Floats, Floats]:
    """Read y and x of the centers in pixels; a file without any line has no picks.

    Raises
    ------
    InputError
        If a line does not begin with two numbers or has a z that differs from line to line, or the file lists segments
        of helices.
    """
    return parse_coords(path, read_text(path, "a list of coordinates"))


def parse_coords(path: str | Path, text: str) -> tuple[Floats, Floats]:
    """The same from the text of the file; `path` is for messages."""
    check_no_helices(str(path), text)
    header: list[str] | None = None
    rows: list[list[float]] = []
    lines = [(number, line.split()) for number, line in enumerate(text.splitlines(), 1)]
    lines = [(number, words) for number, words in lines if words and not words[0].startswith("#")]
    if lines and not is_number(lines[0][1][0]):
        header = [word.lower() for word in lines.pop(0)[1]]
        if header[:2] != ["x", "y"]:
            raise InputError(
                f"{path}: begins with {' '.join(header)[:60]!r}, expected a header 'x y ...' or two numbers, x and y"
            )
    deep = header is not None and header[2:3] == ["z"]
    for number, words in lines:
        if header is None and len(words) > _MOST_WORDS:
            raise InputError(
                f"{path}: line {number}: {len(words)} values and no header, expected x y, and perhaps a density "
                "(corners and sizes belong in a .box file)"
            )
        wanted = 3 if deep else 2
        if len(words) < wanted:
            raise InputError(f"{path}: line {number}: {len(words)} values, expected at least {wanted}")
        try:
            rows.append([float(word) for word in words[:wanted]])
        except ValueError:
            raise InputError(f"{path}: line {number}: expected numbers, got {' '.join(words)[:60]!r}") from None
    check_flat(str(path), "z", np.array([row[2] for row in rows if deep], np.float64))
    columns = np.array([row[:2] for row in rows], np.float64).reshape(-1, 2)
    return columns[:, 1].copy(), columns[:, 0].copy()
