"""What a recipe consists of: six groups of options, each field declared once, with its flag and what it may be.

What they mean is said in `cryobox.options.Recipe`, which is all of them. A function that needs one
group says so in its type. The groups are parts of a recipe, never made alone: only a recipe is compared and printed.
"""

from __future__ import annotations

from cryobox.groups.helices import Helices
from cryobox.groups.images import (
    DEFAULT_BACKGROUND_FRACTION,
    Images,
    StoredSize,
    check_background_radius,
    default_background_radius,
)
from cryobox.groups.positions import Positions, Unit, point_from
from cryobox.groups.reading import Reading
from cryobox.groups.selection import DEFAULT_JUNK_THRESHOLD, Rectangle, Selection, numbers_listed
from cryobox.groups.spectrum import FILTER_WIDTH, Spectrum
from cryobox.groups.subparticles import SubParticles, points_from
from cryobox.groups.words import (
    Axes,
    ClassesFrom,
    CtfUse,
    Edges,
    HelicalRecenter,
    Helix,
    RecenterFrom,
    Rounding,
    StoredDtype,
    Style,
    Tables,
)
from cryobox.groups.writing import Writing

__all__ = [
    "Axes",
    "ClassesFrom",
    "CtfUse",
    "DEFAULT_BACKGROUND_FRACTION",
    "DEFAULT_JUNK_THRESHOLD",
    "Edges",
    "FILTER_WIDTH",
    "HelicalRecenter",
    "Helices",
    "Helix",
    "Images",
    "Positions",
    "Reading",
    "RecenterFrom",
    "Rectangle",
    "Rounding",
    "Selection",
    "Spectrum",
    "StoredDtype",
    "StoredSize",
    "Style",
    "SubParticles",
    "Tables",
    "Unit",
    "Writing",
    "check_background_radius",
    "default_background_radius",
    "numbers_listed",
    "point_from",
    "points_from",
]
