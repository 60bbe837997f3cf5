"""Helical segments: CryoSPARC's `filament/*` and RELION's tubes, track lengths and priors.

RELION wants a tube's number within its micrograph, the distance along the tube, and a prior of the tilt (90 degrees)
and of the in-plane angle. What `filament/filament_pose` counts from is not documented, and readers of it disagree: the
prior is the direction from segment to segment instead, as RELION finds it from the ends of a tube (-atan2(dy, dx)).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryobox.convert.texts import Floats, Star, Texts, number_text
from cryobox.formats.cs_table import Table
from cryobox.tubes import directions

__all__ = [
    "FILAMENT_UID",
    "TUBE",
    "filament_columns",
    "filament_fields",
    "said_of_filaments",
    "same_filaments",
    "tubes_of",
]

TUBE = "_rlnHelicalTubeID"
_TRACK = "_rlnHelicalTrackLengthAngst"
FILAMENT_UID, _POSITION = "filament/filament_uid", "filament/position_A"
_DISAGREES = 10.0  # degrees between filament_pose and the segments' direction, modulo 180


def filament_columns(table: Table, columns: dict[str, Texts]) -> dict[str, Texts]:
    """Tubes, track lengths and priors of the segments; nothing where the table has no filaments."""
    names = table.dtype.names or ()
    if FILAMENT_UID not in names or not len(table):
        return {}
    uid = table[FILAMENT_UID].astype(np.uint64)
    micrograph = _codes(columns.get("_rlnMicrographName", [""] * len(table)))
    made = {TUBE: [str(number) for number in _numbers_within(micrograph, uid).tolist()]}
    order = np.arange(len(table), dtype=np.float64)
    if _POSITION in names:
        position = table[_POSITION].astype(np.float64)
        order = position
        filament = _filaments(micrograph, uid)
        first = np.full(filament.max(initial=-1) + 1, np.inf)
        np.minimum.at(first, filament, np.where(np.isfinite(position), position, np.inf))
        made[_TRACK] = number_text(position - first[filament])
    made["_rlnAngleTiltPrior"] = ["90"] * len(table)
    psi = _directions(micrograph, uid, order, columns)
    made["_rlnAnglePsiPrior"] = number_text(np.nan_to_num(psi, nan=0.0))
    made["_rlnAnglePsiFlipRatio"] = ["0.5"] * len(table)
    return made


def said_of_filaments(table: Table, columns: dict[str, Texts]) -> list[str]:
    """What a user must know of the priors."""
    names = table.dtype.names or ()
    if FILAMENT_UID not in names or not len(table):
        return []
    uid = table[FILAMENT_UID].astype(np.uint64)
    micrograph = _codes(columns.get("_rlnMicrographName", [""] * len(table)))
    order = table[_POSITION].astype(np.float64) if _POSITION in names else np.arange(len(table), dtype=np.float64)
    psi = _directions(micrograph, uid, order, columns)
    told = []
    if alone := int(np.isnan(psi).sum()):
        told.append(f"{alone} segments have no neighbor in their filament: their rlnAnglePsiPrior is 0")
    if "filament/filament_pose" in names:
        pose = np.degrees(table["filament/filament_pose"].astype(np.float64))
        apart = np.abs((pose + psi + 90) % 180 - 90)
        if (worse := int((apart > _DISAGREES).sum())) > len(table) // 2:
            told.append(
                f"filament/filament_pose differs by more than {_DISAGREES:g} degrees from the direction of neighboring "
                f"segments for {worse} of {len(table)}; rlnAnglePsiPrior is that direction"
            )
    return told


def _codes(texts: Texts) -> NDArray[np.intp]:
    place: dict[str, int] = {}
    return np.array([place.setdefault(text, len(place)) for text in texts], np.intp)


def tubes_of(columns: Mapping[str, Texts], tubes: Texts) -> NDArray[np.intp]:
    """A number for each tube of each micrograph."""
    names = columns.get("_rlnMicrographName", [""] * len(tubes))
    return _codes([f"{name}\0{float_text(tube)}" for name, tube in zip(names, tubes, strict=True)])


def same_filaments(tubes: NDArray[np.intp], filaments: NDArray[Any]) -> NDArray[np.bool_]:
    """Rows whose tube is one filament alone, and whose filament is this tube alone."""
    _, codes = np.unique(filaments, return_inverse=True)
    pairs = np.unique(np.column_stack([tubes, codes]), axis=0)
    of_tube, of_filament = (np.bincount(pairs[:, side]) == 1 for side in (0, 1))
    return np.asarray(of_tube[tubes] & of_filament[codes])


def _filaments(micrograph: NDArray[np.intp], uid: NDArray[np.uint64]) -> NDArray[np.intp]:
    """A number for each filament of each micrograph, in the order of micrograph and uid."""
    _, codes = np.unique(uid, return_inverse=True)
    _, found = np.unique(micrograph * (codes.max(initial=0) + 1) + codes, return_inverse=True)
    return found.astype(np.intp)


def _numbers_within(micrograph: NDArray[np.intp], uid: NDArray[np.uint64]) -> NDArray[np.intp]:
    """1, 2, ... within each micrograph, in the order of the uids."""
    filament = _filaments(micrograph, uid)
    owner = np.zeros(filament.max(initial=-1) + 1, np.intp)
    owner[filament] = micrograph
    first = np.searchsorted(owner, owner)
    return filament - first[filament] + 1


def _directions(
    micrograph: NDArray[np.intp], uid: NDArray[np.uint64], order: Floats, columns: dict[str, Texts]
) -> Floats:
    """-atan2(dy, dx) in degrees from the neighbor before to the one behind; nan for segments that have none."""
    n = len(uid)
    if "_rlnCoordinateX" not in columns or not n:
        return np.full(n, np.nan)
    position = np.stack([np.array(columns[f"_rlnCoordinate{axis}"], np.float64) for axis in "YX"], axis=1)
    return directions(position, _filaments(micrograph, uid), order)


def filament_fields(star: Star) -> dict[str, NDArray[Any]]:
    """`filament/*` of a table with tubes; the pose is left out, since what it counts from is not documented."""
    if not star.has(TUBE) or not len(star):
        return {}
    tubes = star.columns[TUBE]
    names = star.columns.get("_rlnMicrographName", [""] * len(star))
    known: dict[tuple[str, str], int] = {}
    for pair in zip(names, tubes, strict=True):
        if pair not in known:
            text = f"{pair[0]}\0{float_text(pair[1])}".encode("utf-8", "surrogateescape")
            known[pair] = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") | 2**32
    made: dict[str, NDArray[Any]] = {
        FILAMENT_UID: np.array([known[p] for p in zip(names, tubes, strict=True)], np.uint64)
    }
    if star.has(_TRACK):
        track = star.numbers(_TRACK)
        _, filament = np.unique(made[FILAMENT_UID], return_inverse=True)
        longest = np.full(filament.max(initial=-1) + 1, -np.inf)
        np.maximum.at(longest, filament, track)
        made[_POSITION] = track.astype(np.float32)
        made["filament/arc_length_A"] = longest[filament].astype(np.float32)
        made["filament/inter_box_dist_A"] = _spacing(filament, track)[filament].astype(np.float32)
    return made


def float_text(text: str) -> str:
    """A tube's number without the digits behind the point that some programs write."""
    try:
        return f"{float(text):g}"
    except ValueError:
        return text


def _spacing(filament: NDArray[np.intp], track: Floats) -> Floats:
    """The median distance of neighbors along each filament; 0 where there is one segment."""
    found = np.zeros(filament.max(initial=-1) + 1)
    order = np.lexsort((track, filament))
    step = np.diff(track[order])
    same = np.diff(filament[order]) == 0
    owner = filament[order][1:][same]
    for number in np.unique(owner).tolist():
        found[number] = float(np.median(step[same][owner == number]))
    return found
