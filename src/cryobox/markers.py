"""Markers of Chimera and ChimeraX (`.cmm`): points that a user set on a map, in Å."""

from __future__ import annotations

import math
from typing import NoReturn
from xml.parsers import expat

from cryobox.errors import OptionError

__all__ = ["read_markers"]

LARGEST_FILE = 2**24  # bytes; a marker takes about a hundred
Point = tuple[float, float, float]


def read_markers(path: str) -> list[Point]:
    """x, y and z of the markers of a file, in their order.

    A file that declares a document type is refused: no marker file has one, and entities come from there.

    Raises
    ------
    OptionError
        If it cannot be read, or is no file of markers.
    """
    try:
        with open(path, "rb") as file:
            text = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise OptionError(f"{path}: cannot be read: {error.strerror}") from error
    if len(text) > LARGEST_FILE:
        raise OptionError(f"{path}: holds more than {LARGEST_FILE} bytes; expected markers of ChimeraX")
    found: list[Point] = []
    seen: list[str] = []
    parser = expat.ParserCreate()

    def start(tag: str, attributes: dict[str, str]) -> None:
        seen.append(tag)
        if tag == "marker":
            found.append(_place(path, parser.CurrentLineNumber, attributes))

    def refuse(*_: object) -> NoReturn:
        raise OptionError(
            f"{path}: line {parser.CurrentLineNumber}: declares a document type, which no marker file has; expected "
            f"markers as ChimeraX saves them"
        )

    parser.StartElementHandler = start
    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    try:
        parser.Parse(text, True)
    except (expat.ExpatError, ValueError, LookupError) as error:
        if isinstance(error, OptionError):
            raise
        raise OptionError(f"{path}: is no XML, as markers of ChimeraX are: {error}") from error
    if not found:
        held = f"its elements are {', '.join(dict.fromkeys(seen[:5]))}"
        raise OptionError(f"{path}: holds no markers, {held}; expected a .cmm as ChimeraX saves markers")
    return found


def _place(path: str, line: int, attributes: dict[str, str]) -> Point:
    values = []
    for axis in "xyz":
        text = attributes.get(axis, "")
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            what = f"is {text!r}" if axis in attributes else "is missing"
            raise OptionError(f"{path}: line {line}: {axis} of a marker {what}, expected a number of Å")
        values.append(value)
    return values[0], values[1], values[2]
