"""Picks of EMAN2: the boxes in `info/NAME_info.json`, among whatever else EMAN2 knows of a micrograph.

A box is [x, y, kind] or [x, y, kind, score], x and y those of its center, in pixels of the micrograph
(https://blake.bcm.edu/emanwiki/Eman2InfoMetadata). y counts from the first row of an MRC file; EMAN2 reverses TIFF, and
so do we.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryobox.errors import InputError
from cryobox.formats.text import read_text

__all__ = ["INFO", "read_info"]

Floats = NDArray[np.float64]

INFO = "_info"  # between the micrograph's stem and .json
MAX_INFO_SIZE = 2**26  # bytes; a box takes 30, and Python's objects twenty times the text

# What other boxers of EMAN2 keep in the same file.
_REFUSED = {
    "boxes_3d": "boxes in a tomogram, which have a z and no micrograph",
    "boxes_rct": "pairs of tilted and untilted boxes; export the wanted ones as .box",
}


def read_info(path: str | Path) -> tuple[Floats, Floats, Floats | None]:
    """Read y, x and score (None where no box has one) of the boxes of one micrograph.

    An info file without boxes has no picks: EMAN2 makes one for each micrograph whose CTF it knows.

    Raises
    ------
    InputError
        If it is not what EMAN2 writes; the message names the box.
    """
    name = str(path)
    info = _load(name)
    boxes = info.get("boxes")
    if "boxes" not in info:
        for key, why in _REFUSED.items():
            if info.get(key):
                raise InputError(f"{name}: has no boxes but {key!r}: {why}")
        if info and not Path(path).stem.endswith(INFO):
            raise InputError(
                f"{name}: not EMAN2's file about a micrograph: it has no 'boxes'; found {_shown(', '.join(info))}; "
                "give info/NAME_info.json, or the folder of these"
            )
        boxes = []
    if not isinstance(boxes, list):
        raise InputError(f"{name}: 'boxes' is {_shown(boxes)}, expected a list of [x, y, kind]")
    rows = [_box(name, number, box) for number, box in enumerate(boxes, 1)]
    y, x, score = np.array(rows, np.float64).reshape(-1, 3).T
    return y, x, None if np.isnan(score).all() else score


def _load(name: str) -> dict[str, Any]:
    try:
        size = os.stat(name).st_size
    except (OSError, ValueError):
        size = 0  # the reading says why
    if size > MAX_INFO_SIZE:
        raise InputError(f"{name}: {size} bytes are too many for what EMAN2 knows of a micrograph")
    text = read_text(name, "EMAN2's file about a micrograph")
    if not text.strip():
        return {}
    try:
        info = json.loads(text, object_pairs_hook=lambda pairs: _distinct(name, pairs))
    except InputError:
        raise
    except (ValueError, RecursionError) as error:  # ValueError also for integers of thousands of digits
        raise InputError(f"{name}: not JSON: {_shown(' '.join(str(error).split()))}; copied incompletely?") from error
    if not isinstance(info, dict):
        raise InputError(f"{name}: holds {_shown(info)}, expected EMAN2's names and values in braces, with 'boxes'")
    return info


def _distinct(name: str, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise InputError(f"{name}: names {_shown(key)} twice; expected each name once")
        found[key] = value
    return found


def _box(name: str, number: int, box: object) -> tuple[float, float, float]:
    """y, x and score of one box; nan where it has no score."""
    if not isinstance(box, list) or not 2 <= len(box) <= 4:
        raise InputError(f"{name}: box {number} is {_shown(box)}, expected [x, y, kind] or [x, y, kind, score]")
    x, y = (_number(name, number, axis, value) for axis, value in zip("xy", box, strict=False))
    if len(box) > 2 and not isinstance(box[2], str):
        raise InputError(
            f"{name}: box {number}: the third value is {_shown(box[2])}, expected the kind of pick as text, "
            "such as 'manual' (x, y and z are those of a tomogram)"
        )
    return y, x, _number(name, number, "score", box[3]) if len(box) > 3 else math.nan


def _number(name: str, number: int, what: str, value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            if math.isfinite(value):
                return float(value)
        except OverflowError:  # an integer beyond 1e308
            pass
    raise InputError(f"{name}: box {number}: {what} is {_shown(value)}, expected a finite number")


def _shown(value: object) -> str:
    """A value for a message, shortened; numbers of thousands of digits have no text of their own."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        text = f"a {type(value).__name__} too long to show"
    return text if len(text) <= 100 else f"{text[:96]} ..."
