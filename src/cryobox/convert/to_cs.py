"""The fields of a `.cs` that a STAR table gives, from its own columns alone."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryobox.convert.filaments import TUBE, filament_fields
from cryobox.convert.places import Grounds, Places, by_distinct
from cryobox.convert.texts import GROUP, UID, Floats, Star, Texts
from cryobox.convert.to_star import ANGLES, COORDINATES, ORIGINS
from cryobox.formats.columns import (
    CTF_FIELDS,
    EXACT_CENTER,
    IMAGE_FLAGS,
    MICROSCOPE,
    QUANTITIES,
    UNRELATED_TAGS,
    Topic,
    to_field,
)
from cryobox.formats.cs_output import fraction_at
from cryobox.formats.cs_table import as_bytes
from cryobox.formats.ctf import aberrations
from cryobox.rotations import pose_from_euler

__all__ = ["ORIGINS_30", "Fields", "fields_of_star", "said_of_star"]

ORIGINS_30 = ("_rlnOriginX", "_rlnOriginY")
ORIGINAL = "_rlnOriginalParticleName"
_NO_ANGLE = -999.0  # what pickers write
LARGEST = 2**32 - 1
Fields = dict[str, NDArray[Any]]


def fields_of_star(
    star: Star, grounds: Grounds, places: Places, unit: Floats | None = None, *, still_3d: bool = False
) -> Fields:
    """The fields that the columns give; nothing travels along yet.

    Parameters
    ----------
    grounds : Grounds
        Shapes of the micrographs.
    unit : ndarray, shape (n,), float64, optional
        Å per unit of the shifts (psize_A of the alignment); default: the images' pixel size.
    still_3d : bool
        The angles are those of a 3D alignment, also where no particle is tilted.

    Raises
    ------
    InputError
        If a column holds what it must not; the message names row and value.
    """
    slot, names = _images(star)
    pixel = star.positive("_rlnImagePixelSize").astype(np.float32)
    side = star.whole("_rlnImageSize", star.optics["_rlnImageSize"], "data_optics", 1, LARGEST)[star.group]
    made: Fields = {
        "uid": uids(star),
        "blob/path": as_bytes(by_distinct(names, lambda name: places.in_cs(name.removesuffix(":mrcs"), stack=True))),
        "blob/idx": slot.astype(np.uint32),
        "blob/shape": np.column_stack([side, side]).astype(np.uint32),
        "blob/psize_A": pixel,
        "blob/sign": np.full(len(star), 1.0, np.float32),  # RELION's particles are white
        "blob/import_sig": np.zeros(len(star), np.uint64),
    }
    made |= _locations(star, grounds, places)
    made |= _ctf_fields(star)
    for quantity in QUANTITIES:
        if quantity.topic is Topic.PARTICLE and star.has(quantity.tag):
            made[quantity.field] = star.numbers(quantity.tag).astype(np.float32)
    lead = "alignments3D" if still_3d and star.has(*ANGLES) else _leading_tags(star)
    if lead:
        made |= _alignment_fields(star, lead, pixel.astype(np.float64) if unit is None else unit)
    return made | filament_fields(star) | _expansion(star)


def _images(star: Star) -> tuple[NDArray[np.int64], Texts]:
    slots, names = [], []
    for row, text in enumerate(star.columns["_rlnImageName"]):
        number, _, name = text.partition("@")
        good = number.isascii() and number.isdigit() and len(number) <= 20 and 1 <= int(number) <= LARGEST + 1
        if not (good and name.removesuffix(":mrcs")):
            raise star.error(
                "data_particles", row, "_rlnImageName", text,
                f"an image of a stack (000001@stack.mrcs), from 1 to {LARGEST + 1}",
            )  # fmt: skip
        slots.append(int(number) - 1)
        names.append(name)
    return np.array(slots, np.int64), names


def uids(star: Star) -> NDArray[np.uint64]:
    """The uids that the table has, else hashes of the images' names; copies of one row get hashes of their own."""
    names = star.columns["_rlnImageName"]
    own = None if UID not in star.columns else _own_uids(star)
    taken = set() if own is None else set(own)
    seen: dict[str | int, int] = {}
    found = []
    for row, name in enumerate(names):
        key: str | int = name if own is None else own[row]
        seen[key] = seen.get(key, 0) + 1
        if own is not None and seen[key] == 1:
            found.append(own[row])
            continue
        uid = _hash(f"{key} {seen[key]}")
        while uid in taken:
            uid = _hash(f"{key} {uid}")
        taken.add(uid)
        found.append(uid)
    return np.array(found, np.uint64)


def _expansion(star: Star) -> Fields:
    """Which rows are sub-particles or copies of one particle, and their numbers: by the name of that particle.

    Its uid is the one that a table of the particle itself gets, where it has no other.
    """
    if not star.has(ORIGINAL):
        return {}
    names = star.columns[ORIGINAL]
    source = {name: _hash(f"{name} 1") if name.lower() not in ("", "0", "none") else 0 for name in dict.fromkeys(names)}
    seen: dict[str, int] = {}
    numbers = []
    for name in names:
        numbers.append(seen.get(name, 0) if source[name] else 0)
        seen[name] = numbers[-1] + 1
    return {
        "sym_expand/src_uid": np.array([source[name] for name in names], np.uint64),
        "sym_expand/idx": np.array(numbers, np.uint32),
    }


def _own_uids(star: Star) -> list[int]:
    for row, text in enumerate(star.columns[UID]):
        if not (text.isascii() and text.isdigit() and len(text) <= 40 and int(text) < 2**64):
            raise star.error("data_particles", row, UID, text, "a number of 64 bits")
    return [int(text) for text in star.columns[UID]]


def _hash(text: str) -> int:
    digest = hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _locations(star: Star, grounds: Grounds, places: Places) -> Fields:
    known = grounds.shape.all(axis=1)
    if not star.has("_rlnMicrographName") or (len(star) and not known.any() and not grounds.in_table):
        return {}
    made: Fields = {"location/micrograph_path": as_bytes(by_distinct(star.columns["_rlnMicrographName"], places.in_cs))}
    if not star.has(*COORDINATES):
        return made if grounds.in_table else {}
    made["location/micrograph_shape"] = grounds.shape.astype(np.uint32)
    if np.isfinite(grounds.pixel_size).any():
        made["location/micrograph_psize_A"] = grounds.pixel_size.astype(np.float32)
    if grounds.uid is not None:
        made["location/micrograph_uid"] = grounds.uid
    for axis, tag in enumerate(COORDINATES):
        position, extent = star.numbers(tag), grounds.shape[:, 1 - axis]
        fraction = fraction_at(position, extent)
        if star.has(EXACT_CENTER.tag):  # never truncated, so nothing is to be kept from being
            exact = (star.numbers(EXACT_CENTER.tag) > 0) & (extent > 0)
            fraction[exact] = position[exact] / extent[exact]
        made[f"location/center_{'xy'[axis]}_frac"] = fraction
    made["location/exp_group_id"] = _group_numbers(star)
    return made


def _group_numbers(star: Star) -> NDArray[np.uint32]:
    numbers = star.whole(GROUP, star.optics[GROUP], "data_optics", 0, LARGEST)
    return numbers[star.group].astype(np.uint32)


def _ctf_fields(star: Star) -> Fields:
    made: Fields = {}
    for quantity in QUANTITIES:
        if quantity.topic is not Topic.CTF:
            continue
        if quantity.tag in star.optics or star.has(quantity.tag):
            values = star.of_group(quantity.tag) if quantity.in_optics else star.numbers(quantity.tag)
            made[quantity.field] = to_field(quantity, values).astype(np.float32)
    if star.has("_rlnDefocusU"):
        made["ctf/type"] = as_bytes(["imported"] * len(star))
        made["ctf/exp_group_id"] = _group_numbers(star)
        for name, (width, value) in CTF_FIELDS.items():
            shape = (len(star), width) if width else len(star)
            made.setdefault(f"ctf/{name}", np.full(shape, value, np.float32))
    return made


def _leading_tags(star: Star) -> str:
    """Which alignment the columns are: 3D where a particle is tilted, else 2D; "" where there is none."""
    if star.has(*ANGLES) and any((star.numbers(tag) != 0).any() for tag in ANGLES[:2]):
        return "alignments3D"
    turned = star.has("_rlnAnglePsi") and (not len(star) or bool((star.numbers("_rlnAnglePsi") != _NO_ANGLE).any()))
    return "alignments2D" if turned or star.has(*ORIGINS) or star.has(*ORIGINS_30) else ""


def _alignment_fields(star: Star, lead: str, unit: Floats) -> Fields:
    pixel = star.of_group("_rlnImagePixelSize")
    zero = np.zeros(len(star))
    shift = []
    for tag, old in zip(ORIGINS, ORIGINS_30, strict=True):
        in_pixels = star.numbers(old) * pixel if star.has(old) else zero
        moved = star.numbers(tag) if star.has(tag) else in_pixels
        shift.append(np.divide(moved, unit, out=np.zeros(len(star)), where=unit != 0))  # 0: a join filled it in
    made: Fields = {
        f"{lead}/shift": np.column_stack(shift).astype(np.float32),
        f"{lead}/psize_A": unit.astype(np.float32),
    }
    if lead == "alignments3D":
        made[f"{lead}/pose"] = pose_from_euler(np.column_stack([star.numbers(t) for t in ANGLES])).astype(np.float32)
    else:
        psi = star.numbers("_rlnAnglePsi") if star.has("_rlnAnglePsi") else zero
        made[f"{lead}/pose"] = np.radians(np.where(psi == _NO_ANGLE, 0.0, psi)).astype(np.float32)
    for part, tag in (("class", "_rlnClassNumber"), ("split", "_rlnRandomSubset")):
        if star.has(tag):
            texts = ["0" if number_is(text, _NO_ANGLE) else text for text in star.columns[tag]]
            number = star.whole(tag, texts, "data_particles", 0, LARGEST)
            made[f"{lead}/{part}"] = np.maximum(number - 1, 0).astype(np.uint32)
    return made


def number_is(text: str, value: float) -> bool:
    """Whether a text is this number, in whatever digits."""
    try:
        return float(text) == value
    except ValueError:
        return False


def said_of_star(star: Star) -> list[str]:
    """What a user must know of a table that becomes a `.cs`."""
    told = []
    used = set(star.group.tolist())
    rows = [{tag: texts[g] for tag, texts in star.optics.items()} for g in sorted(used)]
    left = aberrations(rows)
    left += [tag for tag in UNRELATED_TAGS if tag not in star.optics and star.has(tag) and star.numbers(tag).any()]
    if left:
        told.append(
            f"{', '.join(left)} are not converted, since no public rule says what they are in CryoSPARC's tables; they "
            f"travel along for the way back: refine them again in CryoSPARC"
        )
    treated = [tag for tag in IMAGE_FLAGS if any(number_is(row.get(tag, "0"), 1) for row in rows)]
    if treated:
        told.append(
            f"{', '.join(treated)} is 1: the images were treated with their CTF, and a .cs has no documented column "
            f"for that; CryoSPARC would apply the CTF again"
        )
    if star.has(*ORIGINS_30) and not star.has(*ORIGINS):
        told.append(
            "_rlnOriginX and _rlnOriginY are taken as pixels of the images, as RELION 3.0 has them; since 3.1 RELION "
            "writes them in Å"
        )
    missing = [tag for tag in MICROSCOPE if tag not in star.optics and not star.has(tag)]
    if star.has("_rlnDefocusU") and missing:
        told.append(f"has a defocus, but no {', '.join(missing)}, which CryoSPARC needs ({len(star)} particles)")
    told += _no_numbers(star)
    if star.has(TUBE):
        told.append("filament/filament_pose is left out, since what it counts from is not documented")
    return told


def _no_numbers(star: Star) -> list[str]:
    bad = []
    for quantity in QUANTITIES:
        if quantity.topic is Topic.CTF and (quantity.tag in star.optics or star.has(quantity.tag)):
            count = int((~np.isfinite(star.of_group(quantity.tag))).sum())
            bad += [f"{quantity.tag} ({count})"] if count else []
    if not bad:
        return []
    return [
        f"CTF values are not finite numbers: {', '.join(bad)} of {len(star)} particles; a refinement cannot use these"
    ]
