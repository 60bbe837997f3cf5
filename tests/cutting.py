"""`core.cut` with everything as keywords: for tests that change one of them at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryobox import core
from cryobox.options import Recipe, Steps
from cryobox.windows import Stored, Windows

AS_A_RECIPE_HAS_THEM = Recipe(box=32).steps()
_AS_THEY_ARE = ("normalize", "ramp", "invert", "scale_const", "white_dust", "black_dust", "measures")
AS_A_BACKEND_IS_TOLD = {name: getattr(AS_A_RECIPE_HAS_THEM, name) for name in _AS_THEY_ARE} | {
    "axes": None, "neighbors": None, "noise": None, "residual": None, "filter": None,
    "ctf": None, "ctf_use": 0, "ctf_window": 0, "intact_first_peak": False, "pixel_size": 0.0, "fill": 0.0,
}  # fmt: skip


def cut(
    image: Any,
    corners: NDArray[np.int64],
    outputs: Sequence[Any],
    *,
    box: int,
    radii: Sequence[float],
    pad: bool = False,
    **options: Any,
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Status and statistics; `options` are fields of `Steps`, and what else `core.cut` takes."""
    given = {field.name: options.pop(field.name) for field in fields(Steps) if field.name in options}
    steps = replace(AS_A_RECIPE_HAS_THEM, **given)
    stored = [Stored(size=0, dtype="float32", background_radius=radius) for radius in radii]  # the arrays say the rest
    return core.cut(image, Windows(box=box, pad=pad, corner=corners), stored, steps, into=outputs, **options)
