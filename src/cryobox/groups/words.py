"""Words that options may be, and the check for them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal, get_args

from cryobox.bounds import (
    check_choice,
)

__all__ = [
    "Axes",
    "BackgroundKind",
    "ClassesFrom",
    "CtfUse",
    "Edges",
    "HelicalRecenter",
    "Helix",
    "RecenterFrom",
    "Rounding",
    "StoredDtype",
    "Style",
    "Tables",
    "one_of",
]

BackgroundKind = Literal["plain", "exclude-neighbors"]
Edges = Literal["reject", "pad"]
Rounding = Literal["truncate", "nearest"]
RecenterFrom = Literal["auto", "3d", "2d"]
Style = Literal["relion", "cryosparc"]
Tables = Literal["relion", "cryosparc", "both"]
StoredDtype = Literal["float32", "float16"]
ClassesFrom = Literal["2d", "3d"]
CtfUse = Literal["flip", "premultiply"]
Axes = Literal["relion", "cryosparc"]
Helix = Literal["ends", "segments", "whole"]
HelicalRecenter = Literal["across", "free", "none"]


def one_of(kind: object) -> Callable[[str, object], object]:
    """A check that a value is one of those of a `Literal`."""
    return partial(check_choice, allowed=get_args(kind))
