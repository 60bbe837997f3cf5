"""Options of where boxes lie."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import partial
from typing import Literal

from cryobox.bounds import (
    LARGEST_BOX,
    PIXEL_SIZES,
    check_integer,
    check_positive,
)
from cryobox.boxes import check_even
from cryobox.declared import POSITIONS, checked, option
from cryobox.errors import OptionError
from cryobox.groups.words import Edges, RecenterFrom, Rounding, one_of

__all__ = [
    "Positions",
    "Unit",
    "point_from",
]

Unit = Literal["A", "px", "voxel"]

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_POINT = re.compile(rf"({_NUMBER}),({_NUMBER}),({_NUMBER})(A|Å|px|voxel)?")


def point_from(text: str) -> tuple[tuple[float, float, float], Unit]:
    """x, y, z and their unit, from what a user wrote: "10,20,5", "10,20,5px", "120,96,88voxel".

    Raises
    ------
    OptionError
    """
    found = _POINT.fullmatch(text.replace(" ", ""))
    if found is None:
        raise OptionError(f"recenter_3d must be X,Y,Z, with A (the default), px or voxel behind; got {text!r}")
    unit: Unit = "px" if found[4] == "px" else "voxel" if found[4] == "voxel" else "A"
    return (float(found[1]), float(found[2]), float(found[3])), unit


def _check_point(_: str, value: object) -> str:
    text = str(value).replace(" ", "")
    place, _unit = point_from(text)
    if not all(map(math.isfinite, place)):
        raise OptionError(f"recenter_3d must be three numbers; got {text!r}")
    return text


def _check_sign(name: str, value: object) -> int:
    sign = check_integer(name, value, -1, 1)
    if sign == 0:
        raise OptionError(f"{name} must be -1 or 1; got 0")
    return sign


def _check_box(name: str, value: object) -> int:
    box = check_even(name, value)
    if box > LARGEST_BOX:
        raise OptionError(f"box must be at most {LARGEST_BOX} pixels; got {box}")
    return box


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Positions:
    """Where boxes lie."""

    box: int = checked(_check_box)
    box_angstrom: float | None = checked(partial(check_positive, unit=" of Å"), default=None)
    edges: Edges = option("--edges", default="reject", help="Boxes over the edge", panel=POSITIONS, check=one_of(Edges))
    recenter: bool = option(
        "--recenter/--no-recenter", default=True, help="Move boxes by aligned shifts", panel=POSITIONS
    )
    recenter_from: RecenterFrom = option(
        "--recenter-from", default="auto", help="By which alignment; auto: 3D before 2D", panel=POSITIONS,
        check=one_of(RecenterFrom),
    )  # fmt: skip
    recenter_3d: str | None = option(
        "--recenter-3d", default=None, help="Center this point of the reference: Å from its center", panel=POSITIONS,
        metavar="X,Y,Z[A|px|voxel]", check=_check_point,
    )  # fmt: skip
    ref_angpix: float | None = option(
        "--ref-angpix", default=None, help="Å per pixel of the reference, for px and voxel", panel=POSITIONS,
        shown="of the images",
        check=partial(check_positive, unit=" of Å per pixel", lowest=PIXEL_SIZES[0], highest=PIXEL_SIZES[1]),
    )  # fmt: skip
    adjust_defocus: bool = option(
        "--adjust-defocus", default=False, help="Defocus changed by the depth of the new center", panel=POSITIONS
    )
    defocus_sign: int = option(
        "--defocus-sign", default=-1, help="Of the depth in the defocus: -1 or 1 (disputed)", panel=POSITIONS,
        metavar="-1|1", check=_check_sign,
    )  # fmt: skip
    reset_offsets: bool = option(
        "--reset-offsets", default=False, help="Shifts become 0 and move nothing; orientations stay", panel=POSITIONS
    )
    subpixel: bool = option("--subpixel", default=False, help="Center to fractions of a pixel", panel=POSITIONS)
    rounding: Rounding = option(
        "--rounding", default="truncate", help="Fractional picks", panel=POSITIONS, check=one_of(Rounding)
    )
    drop_alignments: bool = option(
        "--drop-alignments", default=False, help="Leave out orientations and shifts", panel=POSITIONS
    )

    def check_depth(self, *, subparticles: bool) -> None:
        """Refuse a depth of nothing; `subparticles`: whether there are any, whose depths they are.

        Raises
        ------
        OptionError
        """
        if self.adjust_defocus and self.recenter_3d is None and not subparticles:
            raise OptionError(
                "--adjust-defocus takes the depth of a point of the reference: give --recenter-3d or --subparticles"
            )
        if self.defocus_sign != -1 and not self.adjust_defocus:
            raise OptionError("--defocus-sign is of --adjust-defocus; give both, or neither")

    def check_offsets(self, **others: bool) -> None:
        """Refuse shifts that are to be forgotten and used; `others`: which fields of other groups use them.

        Raises
        ------
        OptionError
        """
        if not self.reset_offsets:
            return
        used = [
            flag
            for flag, asked in (
                ("--recenter-3d", self.recenter_3d is not None),
                *((f"--{name.replace('_', '-')}", asked) for name, asked in others.items()),
                ("--recenter-from", self.recenter_from != "auto"),
                ("--drop-alignments", self.drop_alignments),
            )
            if asked
        ]
        if used:
            raise OptionError(f"--reset-offsets makes the shifts 0 and recenters nothing; leave it out, or {used[0]}")
