"""CTF values of picks that were made on a mirrored copy, as the stored file has them; and what cannot be mirrored.

With x -> -x an angle a becomes 180 degrees - a, which is -a for an astigmatism; with y -> -y it becomes -a, and both
together are a turn by 180 degrees. An aberration that goes as cos(m a) or sin(m a) changes its sign where that does:
cosine terms of odd m with x, sine terms of even m with x, every sine term with y. A magnification matrix M becomes
S M S, S = diag(-1, 1) or diag(1, -1). Beam tilt, trefoil and the shift of the phases are pairs of a cosine and a sine
term with odd m. The hand of an orientation cannot be mirrored in a table.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import isqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryobox.errors import InputError
from cryobox.formats.ctf import own_ctf, vector
from cryobox.formats.star_optics import StarTable
from cryobox.formats.star_table import Codes, Piece, Run, Table
from cryobox.micrograph import Micrographs
from cryobox.options import Recipe
from cryobox.particles import Particles

__all__ = [
    "check_ctf_terms",
    "check_orientations",
    "is_orientation",
    "is_orientation_field",
    "mirrored_fields",
    "mirrored_optics",
    "mirrored_rows",
    "what_a_mirror_does",
]

Mirrored = tuple[bool, bool]  # (y, x), as positions are

_ANGLE = "_rlnDefocusAngle"
_NO_ORIENTATION = (0.0, -999.0)  # what pickers write that found none


def is_orientation(tag: str) -> bool:
    """Whether a STAR column says how a particle is turned or shifted, or what was thought of that before."""
    return tag.startswith(("_rlnAngle", "_rlnOriginX", "_rlnOriginY", "_rlnOriginZ"))


def is_orientation_field(field: str) -> bool:
    """The same for a field of a `.cs`."""
    return field.startswith("alignments") or field == "filament/filament_pose"


def check_orientations(particles: Particles, mirrored: Mirrored) -> None:
    """Refuse orientations, shifts and priors that come with picks of a mirrored copy.

    Raises
    ------
    InputError
    """
    if any(mirrored) and (found := list(_orientations(particles))):
        raise InputError(
            f"{particles.source}: picks made on a mirrored copy have orientations, shifts or priors "
            f"({', '.join(found[:4])}{', ...' if len(found) > 4 else ''}), which were found for particles of the other "
            f"hand; leave them out with --drop-alignments, or leave out --flip-x/--flip-y"
        )


def check_ctf_terms(particles: Particles, mirrored: Mirrored, *, own: bool) -> None:
    """Refuse a term of the picks' own CTF whose mirror image is not documented.

    Raises
    ------
    InputError
    """
    names = (particles.table.dtype.names or ()) if particles.family == "cs" else ()
    # A turn by 180 degrees, which both mirrors are together, leaves every even term as it is.
    if own and mirrored[0] != mirrored[1] and "ctf/tetra_A" in names and np.any(particles.table["ctf/tetra_A"]):
        raise InputError(
            f"{particles.source}: ctf/tetra_A is not zero, and how it changes in a mirror is not documented; take the "
            f"CTF from the micrographs with --refresh-ctf, or set it to zero"
        )


def what_a_mirror_does(particles: Particles, micrographs: Micrographs, recipe: Recipe) -> str:
    """What --flip-x or --flip-y would do to CTF values and alignments that come with the picks; "" where none come."""
    found = ""
    if own_ctf(particles, micrographs, refresh=recipe.refresh_ctf).any():
        found += (
            "; the picks bring CTF values of their own: these are mirrored with them (the angle of the astigmatism)"
        )
    if not recipe.drop_alignments and (turned := list(_orientations(particles))):
        found += (
            f"; the picks bring orientations or shifts ({turned[0]}, ...), which are of the other hand then: leave "
            f"them out with --drop-alignments"
        )
    return found


def _orientations(particles: Particles) -> Iterator[str]:
    table = particles.table
    if isinstance(table, StarTable):
        for tag in table.table.tags:
            if is_orientation(tag) and not np.isin(table.table.floats(tag), _NO_ORIENTATION).all():
                yield tag
    elif particles.family == "cs":
        for field in table.dtype.names or ():
            turned = field.endswith(("/pose", "/shift", "/filament_pose")) and is_orientation_field(field)
            if turned and table[field].dtype.kind in "fiu" and np.any(table[field]):
                yield field


# STAR ----------------------------------------------------------------------------------------------------------------


def mirrored_rows(table: Table, rows: Codes, mirrored: Mirrored) -> dict[str, Piece]:
    """The columns of the rows that change in a mirror."""
    if mirrored[0] == mirrored[1] or _ANGLE not in table:
        return {}
    column = table.tags.index(_ANGLE)
    plain = Run(table, rows, column, column)
    return {_ANGLE: lambda part: [_negative(text) for text in plain(part)]}


def _negative(text: bytes) -> bytes:
    """The same number with the other sign, in the digits that it has."""
    if not text.strip(b"+-0."):
        return text.lstrip(b"+-")
    return text[1:] if text[:1] == b"-" else b"-" + text.lstrip(b"+")


def mirrored_optics(row: dict[str, str], mirrored: Mirrored) -> dict[str, str]:
    """A row of data_optics as it is in the mirror."""
    return {tag: _mirrored_value(tag, text, mirrored) for tag, text in row.items()}


def _mirrored_value(tag: str, text: str, mirrored: Mirrored) -> str:
    in_y, in_x = mirrored
    flips = {
        "_rlnBeamTiltX": in_x,
        "_rlnBeamTiltY": in_y,
        "_rlnMagMat01": in_x != in_y,
        "_rlnMagMat10": in_x != in_y,
    }
    if tag in ("_rlnOddZernike", "_rlnEvenZernike"):
        terms = [
            -value if _zernike_changes(i, odd=tag == "_rlnOddZernike", mirrored=mirrored) else value
            for i, value in enumerate(vector(text))
        ]
        return f"[{','.join(f'{value + 0.0:g}' if value == 0 else repr(value) for value in terms)}]"
    if flips.get(tag):
        return _negative(text.encode()).decode()
    return text


def _zernike_changes(i: int, *, odd: bool, mirrored: Mirrored) -> bool:
    """Whether the term number `i` of RELION's lists changes its sign: Z(m, n), cosine for m >= 0, else sine."""
    k = (isqrt(1 + 4 * i) - 1) // 2 if odd else isqrt(i)
    m = 2 * (i - k * k - k) - (2 * k + 1 if odd else 0)
    in_y, in_x = mirrored
    sine = m < 0
    changes = in_y and sine
    if in_x and (sine if m % 2 == 0 else not sine):
        changes = not changes
    return changes


# CryoSPARC -----------------------------------------------------------------------------------------------------------


def mirrored_fields(table: NDArray[np.void], rows: Codes, mirrored: Mirrored) -> dict[str, NDArray[Any]]:
    """The fields of `ctf/` that change in a mirror, as they are in it."""
    in_y, in_x = mirrored
    pair = np.array((-1 if in_x else 1, -1 if in_y else 1))
    signs: dict[str, Any] = dict.fromkeys(("ctf/tilt_A", "ctf/shift_A", "ctf/trefoil_A"), pair)
    if in_x != in_y:
        signs |= {"ctf/df_angle_rad": np.array(-1), "ctf/anisomag": np.array((1, -1, -1, 1))}
    names = table.dtype.names or ()
    found = {}
    for field, sign in signs.items():
        if field in names:
            values = table[field][rows]
            found[field] = (values * sign.astype(values.dtype)) + values.dtype.type(0)  # + 0: no -0
    return found
