"""What a recipe consists of: five groups of options, each field declared once, with its flag and what it may be.

What they mean is said in `cryobox.options.Recipe`, which is all of them. A function that needs one
group says so in its type. The groups are parts of a recipe, never made alone: only a recipe is compared and printed.
"""

from __future__ import annotations

from cryobox.groups.images import (
    DEFAULT_BACKGROUND_FRACTION,
    Images,
    StoredSize,
    check_background_radius,
    default_background_radius,
)
from cryobox.groups.positions import Positions, point_from
from cryobox.groups.reading import Reading
from cryobox.groups.selection import DEFAULT_JUNK_THRESHOLD, Rectangle, Selection, numbers_listed
from cryobox.groups.words import ClassesFrom, Edges, RecenterFrom, Rounding, StoredDtype, Style, Tables
from cryobox.groups.writing import Writing

__all__ = [
    "ClassesFrom",
    "DEFAULT_BACKGROUND_FRACTION",
    "DEFAULT_JUNK_THRESHOLD",
    "Edges",
    "Images",
    "Positions",
    "Reading",
    "RecenterFrom",
    "Rectangle",
    "Rounding",
    "Selection",
    "StoredDtype",
    "StoredSize",
    "Style",
    "Tables",
    "Writing",
    "check_background_radius",
    "default_background_radius",
    "numbers_listed",
    "point_from",
]
