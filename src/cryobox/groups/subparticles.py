"""Options of sub-particles: parts of a symmetric particle that become particles of their own."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import partial

from cryobox.bounds import check_positive
from cryobox.declared import POSITIONS, option
from cryobox.errors import OptionError
from cryobox.groups.positions import Unit, point_from
from cryobox.groups.words import Axes, one_of

__all__ = [
    "SubParticles",
    "points_from",
]

MARKERS = ".cmm"
HIGHEST_ORDER = 99  # of C and D, as RELION reads them
_SYMMETRY = re.compile(r"([CD])0*([1-9]\d*)|[TO]|I[1-4]?")


def points_from(text: str) -> list[tuple[tuple[float, float, float], Unit]]:
    """The points of a list as "10,20,5; -10,20,5px", each with its unit.

    Raises
    ------
    OptionError
    """
    words = text.replace(" ", "").removesuffix(";").split(";")
    try:
        return [point_from(word) for word in words]
    except OptionError:
        raise OptionError(
            f"subparticles must be points X,Y,Z with ; between them, and A (the default), px or voxel behind each, or "
            f"a {MARKERS} file of ChimeraX's markers; got {text!r}"
        ) from None


def _check_points(_: str, value: object) -> str:
    text = str(value).strip()
    if text.lower().endswith(MARKERS):
        from cryobox.markers import read_markers

        first, *others = read_markers(text)
        if not others:
            raise OptionError(
                f"{text}: holds 1 marker; expected the center of the particle, and then a marker for each sub-particle"
            )
        # The points themselves are recorded: the file may change, and no later run needs it.
        away = [tuple(a - b for a, b in zip(other, first, strict=True)) for other in others]
        return ";".join(",".join(map(repr, point)) for point in away)
    points = points_from(text)
    if not all(math.isfinite(length) for place, _ in points for length in place):
        raise OptionError(f"subparticles must be finite numbers; got {text!r}")
    bare = [re.search(r"[A-ZÅa-z]+$", word) is None for word in text.replace(" ", "").removesuffix(";").split(";")]
    if any(bare) and not all(bare):
        raise OptionError(f"subparticles: give the unit behind every point, or behind none (Å); got {text!r}")
    return text.replace(" ", "").removesuffix(";")


def _check_symmetry(_: str, value: object) -> str:
    text = str(value).strip().upper()
    found = _SYMMETRY.fullmatch(text)
    if found is None or (found[2] is not None and int(found[2]) > HIGHEST_ORDER):
        raise OptionError(
            f"symmetry must be one of C1 to C{HIGHEST_ORDER}, D1 to D{HIGHEST_ORDER}, T, O, I, I1, I2, I3 and I4; got "
            f"{value!r}"
        )
    return text if found[1] is None else f"{found[1]}{found[2]}"


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class SubParticles:
    """Parts of a symmetric particle that become particles of their own."""

    subparticles: str | None = option(
        "--subparticles", default=None, help="A particle for each point of the reference: Å from its center",
        panel=POSITIONS, metavar="X,Y,Z;...|FILE.cmm", check=_check_points,
    )  # fmt: skip
    symmetry: str | None = option(
        "--symmetry", "--sym", default=None, help="Of the reference: where else --subparticles are", panel=POSITIONS,
        metavar="C7|D2|T|O|I1", shown="C1", check=_check_symmetry,
    )  # fmt: skip
    symmetry_axes: Axes | None = option(
        "--symmetry-axes", default=None, help="Whose axes the reference has", shown="as the picks", panel=POSITIONS,
        check=one_of(Axes),
    )  # fmt: skip
    unique_angle: float | None = option(
        "--unique-angle", default=None, help="Degrees between sub-particles of a particle; the first stays",
        panel=POSITIONS, check=partial(check_positive, unit=" of degrees", highest=180.0),
    )  # fmt: skip

    def check_points(self, *, recentered: bool, helical: bool) -> None:
        """Compare the fields with each other, with --recenter-3d and with --helix.

        Raises
        ------
        OptionError
        """
        if self.subparticles is None:
            asked = {
                "--symmetry": self.symmetry, "--symmetry-axes": self.symmetry_axes, "--unique-angle": self.unique_angle
            }  # fmt: skip
            for flag, value in asked.items():
                if value is not None:
                    raise OptionError(f"{flag} says how --subparticles are made; give both, or neither")
        elif recentered:
            raise OptionError(
                "--subparticles centers a box on each of its points, and --recenter-3d on one; give one of them"
            )
        elif helical:
            raise OptionError(
                "--subparticles are parts of single particles, and --helix makes segments; extract segments first, and "
                "sub-particles of what a refinement makes of them without --helix"
            )
        if self.symmetry_axes is not None and self.symmetry is None:
            raise OptionError("--symmetry-axes says whose axes --symmetry has; give both, or neither")
