"""The STAR columns of a `.cs` table, from its own fields alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryobox.centering import INTEGER_GUARD, truncate
from cryobox.convert.filaments import filament_columns
from cryobox.convert.places import Places, by_distinct
from cryobox.convert.texts import GROUP, GROUP_NAME, Star, Texts, exact, number_text
from cryobox.errors import InputError
from cryobox.formats.columns import CTF_FIELDS, QUANTITIES, UNRELATED_FIELDS, Quantity, Topic, to_tag
from cryobox.formats.cs_table import Table, as_text
from cryobox.rotations import euler_from_pose

__all__ = [
    "ANGLES",
    "COORDINATES",
    "EXPOSURE_GROUPS",
    "LEADS",
    "ORIGINS",
    "kinds_of_rows",
    "leading",
    "said_of_cs",
    "star_of_cs",
]

ANGLES = ("_rlnAngleRot", "_rlnAngleTilt", "_rlnAnglePsi")
ORIGINS = ("_rlnOriginXAngst", "_rlnOriginYAngst")
COORDINATES = ("_rlnCoordinateX", "_rlnCoordinateY")
EXPOSURE_GROUPS = ("ctf/exp_group_id", "location/exp_group_id")

_NEEDED = {"uid": ("iu", ()), "blob/path": ("SU", ()), "blob/idx": ("iu", ()), "blob/shape": ("iu", (2,)),
           "blob/psize_A": ("f", ())}  # fmt: skip
_EXPECTED = _NEEDED | {
    "location/micrograph_path": ("SU", ()),
    "location/micrograph_shape": ("iu", (2,)),
    "location/center_x_frac": ("f", ()),
    "location/center_y_frac": ("f", ()),
    "filament/filament_uid": ("iu", ()),
    **{quantity.field: ("fiu", ()) for quantity in QUANTITIES if "*" not in quantity.field},
}
_POSES: dict[str, tuple[int, ...]] = {"alignments3D": (3,), "alignments2D": ()}
LEADS = tuple(_POSES)


def leading(names: Sequence[str]) -> str:
    """The alignment that becomes RELION's origins and angles: 3D before 2D; "" where there is none."""
    return next((a for a in LEADS if {f"{a}/shift", f"{a}/psize_A"} <= set(names)), "")


def star_of_cs(source: str, table: Table, places: Places) -> Star:
    """The STAR columns that the fields of a table give; nothing travels along yet.

    Raises
    ------
    InputError
        If fields are missing, have other types or shapes than CryoSPARC gives them, or hold what means nothing.
    """
    names = table.dtype.names or ()
    lead = leading(names)
    _check(source, table, lead)
    columns: dict[str, Texts] = {}
    if "location/center_x_frac" in names and "location/micrograph_shape" in names:
        for axis, tag in enumerate(COORDINATES):
            columns[tag] = _coordinates(
                table[f"location/center_{'xy'[axis]}_frac"], table["location/micrograph_shape"][:, 1 - axis]
            )
    stacks = by_distinct(
        [as_text(raw) for raw in table["blob/path"].tolist()], lambda raw: _stack(places.in_star(raw, stack=True))
    )
    images = zip((table["blob/idx"].astype(np.int64) + 1).tolist(), stacks, strict=True)
    columns["_rlnImageName"] = [f"{number:08d}@{stack}" for number, stack in images]
    if "location/micrograph_path" in names:
        paths = [as_text(raw) for raw in table["location/micrograph_path"].tolist()]
        columns["_rlnMicrographName"] = by_distinct(paths, places.in_star)
    for quantity in QUANTITIES:
        if not quantity.in_optics and "*" not in quantity.field and quantity.topic is not Topic.FILAMENT:
            columns |= _column(table, quantity, quantity.field)
    columns |= _alignment_columns(table, lead)
    columns |= filament_columns(table, columns)
    optics, group = _optics(table, names)
    columns[GROUP] = [optics[GROUP][g] for g in group.tolist()]
    return Star(source=source, columns=columns, optics=optics, group=group)


def _column(table: Table, quantity: Quantity, field: str) -> dict[str, Texts]:
    if field not in (table.dtype.names or ()):
        return {}
    values = table[field]
    if quantity.kind == "<u4":
        return {quantity.tag: exact(values.astype(np.int64) + quantity.offset)}
    return {quantity.tag: number_text(to_tag(quantity, values.astype(np.float64)))}


def _coordinates(fraction: NDArray[Any], extent: NDArray[Any]) -> Texts:
    """Pixels; what means a whole one is written as such, since readers of STAR files truncate."""
    position = fraction.astype(np.float64) * extent
    with np.errstate(invalid="ignore"):
        guarded = truncate(position, guard=True)
        whole = np.abs(position - guarded) < INTEGER_GUARD
    return number_text(np.where(whole, guarded, position) + 0.0)


def _stack(name: str) -> str:
    """RELION takes `.mrc` for a volume unless the name says otherwise."""
    return name if name.endswith(".mrcs") else f"{name}:mrcs"


def _alignment_columns(table: Table, lead: str) -> dict[str, Texts]:
    names = table.dtype.names or ()
    if not lead:
        return {}
    shift = table[f"{lead}/shift"].astype(np.float64) * table[f"{lead}/psize_A"].astype(np.float64)[:, None]
    made = {tag: number_text(shift[:, axis]) for axis, tag in enumerate(ORIGINS)}
    if f"{lead}/pose" in names:
        pose = table[f"{lead}/pose"].astype(np.float64)
        if lead == "alignments3D":
            made |= {tag: number_text(column) for tag, column in zip(ANGLES, euler_from_pose(pose).T, strict=True)}
        else:
            made["_rlnAnglePsi"] = number_text(np.degrees(pose))
    for quantity in QUANTITIES:
        if quantity.name == "class":
            made |= _column(table, quantity, f"{lead}/class")
        # RELION stops where one half set has no particles; 2D classification has no half sets at all.
        halves = quantity.name == "half_set" and lead == "alignments3D" and f"{lead}/split" in names
        if halves and set(np.unique(table[f"{lead}/split"]).tolist()) == {0, 1}:
            made |= _column(table, quantity, f"{lead}/split")
    return made


def _optics(table: Table, names: Sequence[str]) -> tuple[dict[str, Texts], NDArray[np.intp]]:
    """data_optics: one group for each set of values that differ, in the order of exp_group_id; and each row's group."""
    group_id = next((f for f in EXPOSURE_GROUPS if f in names), None)
    fields = {q.tag: q.field for q in QUANTITIES if q.in_optics and q.field in names}
    ids = table[group_id].astype(np.int64) if group_id else np.zeros(len(table), np.int64)
    kinds = kinds_of_rows([ids, *(table[field] for field in fields.values()), table["blob/shape"][:, 0]])
    _, first, group = np.unique(kinds, return_index=True, return_inverse=True)
    number = ids[first].tolist()
    optics: dict[str, Texts] = {
        GROUP_NAME: [f"exp_group_{g}" if number.count(g) == 1 else f"exp_group_{g}_{i}"
                     for i, g in enumerate(number, 1)],
        GROUP: [str(i + 1) for i in range(len(first))],
    }  # fmt: skip
    for tag, field in fields.items():
        if np.isfinite(table[field]).any() or not len(table):
            optics[tag] = exact(table[field][first])
    optics["_rlnImageSize"] = [str(int(side)) for side in table["blob/shape"][first, 0]]
    optics["_rlnImageDimensionality"] = ["2"] * len(first)
    optics["_rlnCtfDataAreCtfPremultiplied"] = ["0"] * len(first)
    return optics, group.astype(np.intp)


def kinds_of_rows(columns: Sequence[NDArray[Any]]) -> NDArray[np.int64]:
    """A number for each combination of values, in their order, the first column first."""
    key = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        values = np.nan_to_num(column.astype(np.float64), nan=-1e300)  # what is no number is one value, too
        _, codes = np.unique(values, return_inverse=True)
        _, key = np.unique(key * (codes.max(initial=0) + 1) + codes, return_inverse=True)
    return key.astype(np.int64)


def _check(source: str, table: Table, lead: str) -> None:
    names = table.dtype.names or ()
    if missing := [field for field in _NEEDED if field not in names]:
        raise InputError(
            f"{source}: has no {', '.join(missing)}; images are needed: the .cs or .csg of extracted particles"
        )
    expected = dict(_EXPECTED)
    if lead:
        expected |= {f"{lead}/shift": ("f", (2,)), f"{lead}/psize_A": ("f", ()), f"{lead}/pose": ("f", _POSES[lead])}
        expected |= {f"{lead}/class": ("iu", ()), f"{lead}/split": ("iu", ())}
    for field, (kinds, shape) in expected.items():
        if field in names and (table[field].dtype.kind not in kinds or table[field].shape[1:] != shape):
            noun = {"f": "numbers", "iu": "integers", "fiu": "numbers", "SU": "strings"}[kinds]
            size = f"arrays of {shape[0]} {noun}" if shape else noun
            raise InputError(f"{source}: column {field!r} holds {table.dtype[field]}, expected {size}")
    _check_rows(source, table)


def _check_rows(source: str, table: Table) -> None:
    side, pixel = table["blob/shape"], table["blob/psize_A"]
    empty = np.array([as_text(raw) in ("", ">") for raw in table["blob/path"].tolist()], np.bool_)
    for field, bad, expected in (
        ("blob/shape", (side[:, 0] != side[:, 1]) | (side[:, 0] < 1), "a square image, as RELION's are"),
        ("blob/psize_A", ~(np.isfinite(pixel) & (pixel > 0)), "a positive number of Å"),
        ("blob/idx", table["blob/idx"].astype(np.float64) < 0, "the number of an image, from 0"),
        ("blob/path", empty, "the name of a stack"),
    ):
        if bad.any():
            row = int(np.argmax(bad))
            value = table[field][row]
            shown = as_text(value) if table[field].dtype.kind in "SU" else np.array2string(np.asarray(value))
            raise InputError(f"{source}: row {row + 1}: {field} is {shown!r}, expected {expected}")


def said_of_cs(table: Table, lead: str) -> tuple[list[str], list[str]]:
    """What a user must know of a table that becomes STAR: warnings, and notes."""
    names = table.dtype.names or ()
    warnings, notes = [], []
    if "blob/sign" in names and (table["blob/sign"] < 0).any():
        warnings.append(
            "the images are dark on light (blob/sign -1), and RELION expects white particles: invert them "
            "(relion_image_handler --multiply_constant -1), or extract again with --invert"
        )
    left = [field for field in UNRELATED_FIELDS if field in names and np.any(table[field])]
    if left:
        warnings.append(
            f"{', '.join(left)} are not converted, since no public rule says what they are in RELION's tables; they "
            f"travel along for the way back: refine them again in RELION"
        )
    if "location/center_x_frac" not in names:
        warnings.append("the table has no locations: give the job's .csg, which joins its passthrough table")
    warnings += _no_numbers(table)
    if lead == "alignments3D":
        notes.append("shifts and orientations are those of alignments3D")
    elif lead:
        notes.append("shifts and in-plane angles are those of alignments2D")
    return warnings, notes


def _no_numbers(table: Table) -> list[str]:
    names = table.dtype.names or ()
    bad = {
        q.field: int((~np.isfinite(table[q.field])).sum())
        for q in QUANTITIES
        if q.topic is Topic.CTF and q.field in names and not np.isfinite(table[q.field]).all()
    }
    if not bad:
        return []
    listed = ", ".join(f"{field} ({n})" for field, n in bad.items())
    return [f"CTF values are not finite numbers: {listed} of {len(table)} particles; a refinement cannot use these"]


# Fields whose absence means the same as these values.
DEFAULTS = {f"ctf/{name}": value for name, (_, value) in CTF_FIELDS.items()}
