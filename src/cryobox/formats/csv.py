"""Coordinates as plain text: Topaz `.txt`, csv and tsv with a header (CryoPPP and others), bare `x y [score]` rows."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryobox.errors import InputError
from cryobox.formats.box import check_no_helices
from cryobox.formats.star_picks import check_flat
from cryobox.formats.text import is_number, read_text
from cryobox.particles import Particles

__all__ = ["plain_particles", "read_coordinates", "read_particles"]

# Header names without case and punctuation. All of these programs mean the center.
_X = ("xcoord", "xcoordinate", "coordinatex", "rlncoordinatex", "centerx", "xcenter", "x")
_Y = ("ycoord", "ycoordinate", "coordinatey", "rlncoordinatey", "centery", "ycenter", "y")
_Z = ("zcoord", "zcoordinate", "coordinatez", "rlncoordinatez", "centerz", "zcenter", "z")
_SCORE = ("score", "confidence", "probability", "fom", "figureofmerit", "rlnautopickfigureofmerit")
_NAME = ("imagename", "micrographname", "rlnmicrographname", "micrograph", "image", "filename")


def read_particles(path: str | Path) -> Particles:
    """Read centers in pixels; without a column of image names they belong to one micrograph, named as the file.

    Raises
    ------
    InputError
        If columns are missing, rows are ragged, or a value is not a number; the message names the line.
    """
    return plain_particles(path, *read_coordinates(path))


def plain_particles(
    path: str | Path,
    y: NDArray[np.float64],
    x: NDArray[np.float64],
    score: NDArray[np.float64] | None,
    names: list[str] | None,
) -> Particles:
    """Picks without a table of their own; `names` has the image of each, or is None: one, named as the file."""
    index: dict[str, int] = {}
    if names is None:
        micrograph, index = np.zeros(len(y), np.intp), {Path(path).stem: 0}
    else:
        micrograph = np.fromiter((index.setdefault(name, len(index)) for name in names), np.intp, len(y))
    return Particles(
        family="plain",
        source=str(path),
        y=y,
        x=x,
        micrograph=micrograph,
        micrograph_names=tuple(index),
        score=score,
    )


def read_coordinates(
    path: str | Path,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64] | None, list[str] | None]:
    """Read y, x, score (or None) and the image name of each row (or None); a file without rows holds no picks."""
    name = str(path)
    text = read_text(path, "a table of coordinates")
    check_no_helices(name, text)
    lines = ((number, line) for number, line in enumerate(text.splitlines(), 1))
    rows = _rows(name, [(number, line) for number, line in lines if line.strip() and not line.lstrip().startswith("#")])
    first = next(rows, None)
    if first is None:
        return np.empty(0), np.empty(0), None, None
    columns, headed = _columns(name, *first)
    wide = len(first[1])
    x, y, depth, score, names = [], [], [], [], []
    for number, words in rows if headed else chain([first], rows):
        if len(words) != wide:
            raise InputError(f"{name}: line {number}: {len(words)} values, expected {wide} as in line {first[0]}")
        try:
            x.append(float(words[columns["x"]]))
            y.append(float(words[columns["y"]]))
            if "score" in columns:
                score.append(float(words[columns["score"]] or "nan"))
            if "z" in columns:
                depth.append(float(words[columns["z"]] or "nan"))
        except ValueError:
            raise InputError(f"{name}: line {number}: expected numbers, got {' '.join(words)[:60]!r}") from None
        if "name" in columns:
            names.append(words[columns["name"]])
    check_flat(name, first[1][columns["z"]] if "z" in columns else "", np.array(depth, np.float64))
    return (
        np.array(y, np.float64),
        np.array(x, np.float64),
        np.array(score, np.float64) if "score" in columns else None,
        names if "name" in columns else None,
    )


def _rows(name: str, lines: list[tuple[int, str]]) -> Iterator[tuple[int, list[str]]]:
    """Split lines at the separator that the first one uses: tab, comma, semicolon, else blanks."""
    if not lines:
        return iter(())
    separator = next((mark for mark in "\t,;" if mark in lines[0][1]), None)
    if separator is None:
        return iter([(number, line.split()) for number, line in lines])
    if any('"' in line for _, line in lines):
        try:
            split = list(csv.reader((line for _, line in lines), delimiter=separator, strict=True))
        except csv.Error as error:
            raise InputError(f"{name}: quotes that do not match ({error})") from error
        if len(split) != len(lines):
            raise InputError(f"{name}: a quoted value goes over the end of a line, expected one row per line")
    else:
        split = [line.split(separator) for _, line in lines]
    return iter([(lines[i][0], [word.strip() for word in words]) for i, words in enumerate(split)])


def _columns(name: str, number: int, words: list[str]) -> tuple[dict[str, int], bool]:
    """Which column is what, and whether the first line is a header."""
    if all(is_number(word) for word in words):
        if len(words) not in (2, 3):
            raise InputError(
                f"{name}: line {number}: {len(words)} numbers and no header, expected x y or x y score "
                "(corners and sizes belong in a .box file)"
            )
        return dict(zip(("x", "y", "score"), range(len(words)), strict=False)), False
    plain = [re.sub(r"[^a-z0-9]", "", word.lower()) for word in words]
    found = {}
    for key, candidates in (("x", _X), ("y", _Y), ("z", _Z), ("score", _SCORE), ("name", _NAME)):
        place = next((plain.index(candidate) for candidate in candidates if candidate in plain), None)
        if place is not None:
            found[key] = place
    missing = [key for key in ("x", "y") if key not in found]
    if missing:
        raise InputError(
            f"{name}: line {number}: no column of {' and '.join(missing)} coordinates; expected a header such as "
            f"x_coord, y_coord; got {', '.join(words)[:200]}"
        )
    return found, True
