"""Fields of a `.cs` that travel along in a STAR file, and whether they are still true on the way back.

They are columns `_cryosparc.GROUP.FIELD`; only what converting does not give back bit for bit goes along. RELION writes
numbers anew, in fewer digits: the STAR file has a digest of what it said of each row when it was made.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from itertools import chain, combinations, count
from typing import Any
from urllib.parse import quote, unquote

import numpy as np
from numpy.typing import NDArray

from cryobox.convert.filaments import FILAMENT_UID, TUBE, same_filaments, tubes_of
from cryobox.convert.kept import is_kept
from cryobox.convert.texts import (
    CARRIED,
    DIGEST,
    GROUP,
    GROUP_NAME,
    UID,
    Mask,
    Star,
    Texts,
    exact,
    group_count,
    lead_of,
)
from cryobox.convert.to_cs import ORIGINS_30, Fields
from cryobox.convert.to_star import ANGLES, COORDINATES, LEADS, ORIGINS, leading
from cryobox.errors import InputError
from cryobox.formats.columns import (
    CTF_RESET,
    DIVISOR_FIELD,
    MICROSCOPE,
    OPTICS_NEUTRAL,
    QUANTITIES,
    UNRELATED_TAGS,
    Topic,
)
from cryobox.formats.cs_table import Table, as_bytes

__all__ = ["Part", "carried_fields", "fields_to_carry", "merged_fields", "unchanged_parts", "with_carried"]

_NUMBERED = ("idx", "template_idx", "shape", "class", "split", "exp_group_id", "micrograph_shape")
_LONG = ("uid", "micrograph_uid", "filament_uid", "import_sig", "src_uid")
_STRINGS = ("path", "type", "micrograph_path")
MOST_DOUBTFUL = 12  # fields: 4,096 combinations are tried


class Part(StrEnum):
    """What a digest speaks of; each has a place of its own in it."""

    IMAGE = "image"
    MICROGRAPH = "micrograph"
    LOCATION = "location"
    CTF = "ctf"
    ALIGNMENT = "alignment"
    FILAMENT = "filament"
    GROUP = "group"


_ROW_CTF = tuple(q.tag for q in QUANTITIES if q.topic is Topic.CTF and not q.in_optics)
_CLASS = ("_rlnClassNumber", "_rlnRandomSubset")
# Columns of the rows and of data_optics, and whether they hold numbers.
_SPEAKS_OF: dict[Part, tuple[tuple[str, ...], tuple[str, ...], bool]] = {
    Part.IMAGE: (("_rlnImageName",), ("_rlnImagePixelSize", "_rlnImageSize"), False),
    Part.MICROGRAPH: (("_rlnMicrographName",), (), False),
    Part.LOCATION: (COORDINATES, (), True),
    Part.CTF: (_ROW_CTF, (*MICROSCOPE, *UNRELATED_TAGS), True),
    Part.ALIGNMENT: ((*ORIGINS, *ORIGINS_30, *ANGLES, *_CLASS), (), True),
    Part.FILAMENT: ((TUBE, "_rlnHelicalTrackLengthAngst"), (), True),
    Part.GROUP: ((), (GROUP_NAME,), False),
}
# What the absence of a column means.
_NEUTRAL = {
    **dict.fromkeys((*UNRELATED_TAGS, *ORIGINS, *ORIGINS_30, *ANGLES), "0"),
    **{tag: text.decode() for tag, text in CTF_RESET.items()},
    **OPTICS_NEUTRAL,
}


def digests(star: Star, lead: str) -> Texts:
    """For each row what it says now, so that a later reader finds out in which parts it says something else.

    The first letter tells which alignment the columns are: 3, 2, or 0 for none. At the end stand which fields travel
    along, so that in joined tables a field of one is not taken from the rows of another, and which table it was.
    """
    columns = [_both(star, part) for part in Part]
    mark = lead.removeprefix("alignments")[:1] or "0"
    end = _signature(star.columns)
    rows = ["-".join((mark, *row, end)) for row in zip(*columns, strict=True)]
    table = f"{zlib.crc32(chr(0).join(rows).encode()):08x}"
    return [f"{row}-{table}" for row in rows]


def _ends(star: Star) -> list[tuple[str, ...]]:
    """For each row which fields travelled along with it, and with which table; empty for rows that others added."""
    texts = star.columns.get(DIGEST, [""] * len(star))
    return [tuple(text.split("-")[-2:]) if "-" in text else ("", "") for text in texts]


def _signature(tags: Iterable[str]) -> str:
    """A checksum of which fields travel along."""
    carried = sorted(tag for tag in tags if tag.startswith(CARRIED))
    return f"{zlib.crc32(chr(0).join(carried).encode('utf-8', 'surrogateescape')):08x}"


def _both(star: Star, part: Part) -> Iterable[str]:
    row_tags, optics_tags, numeric = _SPEAKS_OF[part]
    by_relion = _checksums(star, row_tags, optics_tags, as_relion_writes if numeric else str)
    if not numeric:
        return by_relion
    by_others = _checksums(star, row_tags, optics_tags, _six_decimals)
    return (f"{one}.{other}" for one, other in zip(by_relion, by_others, strict=True))


def _checksums(
    star: Star, row_tags: Sequence[str], optics_tags: Sequence[str], settle: Callable[[str], str]
) -> Iterable[str]:
    columns = [
        list(map(settle, star.columns[tag])) if star.has(tag) else [settle(_NEUTRAL.get(tag, ""))] * len(star)
        for tag in row_tags
    ]
    group = [
        "|".join(
            as_relion_writes(star.optics[tag][g] if tag in star.optics else _NEUTRAL.get(tag, ""))
            for tag in optics_tags
        )
        for g in range(group_count(star.optics))
    ]
    if optics_tags:
        columns.append([group[g] for g in star.group.tolist()])
    return (
        f"{zlib.crc32(chr(0).join(row).encode('utf-8', 'surrogateescape')):08x}" for row in zip(*columns, strict=True)
    )


def as_relion_writes(text: str) -> str:
    """A number in RELION's digits, as 3.1.3 was seen to write them.

    Six behind the point, five where it is negative; with an exponent where it is small or large.
    """
    try:
        value = float(text)
    except ValueError:
        return text
    digits = 5 if value < 0 else 6
    if value != 0 and not 1e-3 <= abs(value) <= 1e5:
        return f"{value:.{digits}e}"
    return f"{value + 0.0:.{digits}f}"


def _six_decimals(text: str) -> str:
    """A number as most other programs write it."""
    try:
        return f"{float(text):.6f}".replace("-0.000000", "0.000000")
    except ValueError:
        return text


def unchanged_parts(star: Star) -> dict[Part, Mask]:
    """In which rows each part still says what it said when the table was made of a `.cs`."""
    if not star.has(DIGEST):
        return dict.fromkeys(Part, np.zeros(len(star), np.bool_))
    now, then = digests(star, ""), star.columns[DIGEST]
    rows = [(a.split("-")[1:], b.split("-")[1:]) for a, b in zip(now, then, strict=True)]
    return {
        part: np.array([len(a) == len(b) and _same_digest(a[i], b[i]) for a, b in rows], np.bool_).reshape(len(star))
        for i, part in enumerate(Part)
    }


def _same_digest(now: str, then: str) -> bool:
    """Whether the numbers are those of before, in the digits of one or the other program."""
    return any(a == b for a, b in zip(now.split("."), then.split("."), strict=False))


def fields_to_carry(table: Table, again: Mapping[str, NDArray[Any]], always: Iterable[str]) -> list[str]:
    """Fields that a STAR table's own columns, converted again, do not give back bit for bit."""
    always = set(always)
    own = [field for field in table.dtype.names or () if not is_kept(field)]
    found = [field for field in own if field in always or not _same_bits(table[field], again.get(field))]
    units = {f"{field.removesuffix('/shift')}/psize_A" for field in found if field.endswith("/shift")}
    return [*found, *(field for field in own if field in units and field not in found)]


def _same_bits(one: NDArray[Any], other: NDArray[Any] | None) -> bool:
    if other is None or one.shape != other.shape or one.dtype.kind != other.dtype.kind:
        return False
    if one.dtype.kind in "SU":
        return bool((one == other).all())
    return one.dtype == other.dtype and np.ascontiguousarray(one).tobytes() == np.ascontiguousarray(other).tobytes()


def with_carried(star: Star, table: Table, fields: Sequence[str], *, described: bool) -> tuple[Star, list[str]]:
    """The STAR table with these fields in columns of their own; and the fields that no text can hold."""
    columns = dict(star.columns)
    left = []
    for field in fields:
        if field == "uid":
            columns[UID] = exact(table["uid"])
        elif table.dtype[field].base.kind in "biufSU" and table.dtype[field].itemsize:
            columns |= _carried_columns(field, table[field])
        else:
            left.append(field)
    if not fields and not described:
        return replace(star, columns=columns), left
    told = [
        (field, table.dtype[field].base.str, "x".join(map(str, table.dtype[field].shape)) or "-")
        for field in table.dtype.names or ()
        if not is_kept(field) and field not in left
    ]
    columns[DIGEST] = digests(replace(star, columns=columns), leading(table.dtype.names or ()))
    return replace(star, columns=columns, fields=tuple(told)), left


def _carried_columns(field: str, values: NDArray[Any]) -> dict[str, Texts]:
    tag = CARRIED + ".".join(quote(part, safe="").replace(".", "%2E") for part in field.split("/", 1))
    if values.ndim == 1:
        return {tag: exact(values)}
    flat = values.reshape(len(values), int(np.prod(values.shape[1:])))
    return {f"{tag}.{i}": exact(flat[:, i]) for i in range(flat.shape[1])}


def carried_fields(star: Star) -> tuple[Fields, dict[str, Mask]]:
    """Fields that travelled along, with the types they had, or those that CryoSPARC gives them; and in which rows."""
    described = {name: (kind, shape) for name, kind, shape in star.fields}
    parts: dict[str, dict[int, Texts]] = {}
    tags: dict[str, list[str]] = {}
    for tag, texts in star.columns.items():
        if tag.startswith(CARRIED):
            pieces = [unquote(piece) for piece in tag[len(CARRIED) :].split(".")]
            of_array = len(pieces) > 2 or (
                len(pieces) == 2 and "/".join(pieces) not in described and pieces[0] in described
            )
            component = int(pieces.pop()) if of_array and pieces[-1].isdigit() else -1
            parts.setdefault("/".join(pieces), {})[component] = texts
            tags.setdefault("/".join(pieces), []).append(tag)
    found: Fields = {}
    there: dict[str, Mask] = {}
    tables = _joined(star, tags)
    for field, components in parts.items():
        there[field] = ~np.any([rows for rows, lacks in tables if field in lacks] or [np.zeros(len(star), np.bool_)], 0)
        if not there[field].all():  # what a join fills in may be no number
            components = {i: _with_zeros(texts, there[field]) for i, texts in components.items()}
        everything = (text for texts in components.values() for text in texts)
        kind, shape = described[field] if field in described else (_usual_type(field, everything), "")
        columns = [_typed(star, field, components[i], kind) for i in sorted(components)]
        if -1 in components:
            found[field] = columns[0]
            continue
        extent = _extent(star, field, shape, len(columns))
        found[field] = np.stack(columns, axis=1).reshape(len(star), *extent)
    return found, there


def _joined(star: Star, fields: Mapping[str, Sequence[str]]) -> list[tuple[Mask, Collection[str]]]:
    """Rows of each of the tables that were joined, and which of `fields`, here with their columns, it did not have."""
    ends = [signature for signature, _ in _ends(star)]
    distinct = dict.fromkeys(ends)
    if len(distinct) < 2:
        return []
    of_tables = []
    for end in distinct:
        rows = np.array([own == end for own in ends], np.bool_)
        places = np.flatnonzero(rows).tolist()
        filled = [
            field
            for field, tags in fields.items()
            if all(_is_filler(star.columns[tag][i]) for tag in tags for i in places)
        ]
        of_tables.append((rows, _lacking(fields, filled, end)))
    return of_tables


def _lacking(fields: Mapping[str, Sequence[str]], filled: Sequence[str], end: str) -> Collection[str]:
    """Which of the fields, all of whose values are what programs fill in at a join, a table did not have.

    Zeros may be its own: the checksum of its columns' names tells, unless some of these were taken away since.
    """
    if len(filled) <= MOST_DOUBTFUL:
        for lacks in chain.from_iterable(combinations(filled, n) for n in range(len(filled) + 1)):
            if _signature(tag for field, tags in fields.items() if field not in lacks for tag in tags) == end:
                return lacks
    return filled


def _is_filler(text: str) -> bool:
    try:
        return not abs(float(text)) > 0  # 0 or nan
    except ValueError:
        return text.lower() in ("", "none", "null", "na", "<na>")


def _with_zeros(texts: Texts, there: Mask) -> Texts:
    return [text if own else "0" for text, own in zip(texts, there.tolist(), strict=True)]


def _extent(star: Star, field: str, shape: str, components: int) -> tuple[int, ...]:
    try:
        extent = tuple(map(int, shape.split("x"))) if shape not in ("", "-") else (components,)
    except ValueError:
        extent = (-1,)
    if int(np.prod(extent)) != components or min(extent) < 1:
        raise InputError(f"{star.source}: {components} columns carry {field}, which is said to be {shape!r}")
    return extent


def _usual_type(field: str, texts: Iterable[str]) -> str:
    """The type of a field that nothing describes any more: CryoSPARC's for its own, else one that holds the texts.

    Numbers with a point were floats: whole numbers were written without.
    """
    last = field.rsplit("/", 1)[-1]
    known = "S" if last in _STRINGS else "<u8" if last in _LONG else "<u4" if last in _NUMBERED else ""
    if known:
        return known
    distinct = set(texts)
    if not distinct:
        return "<f4"
    if all(re.fullmatch(r"-?\d{1,19}|\d{20}", text) for text in distinct):
        values = [int(text) for text in distinct]
        if min(values) < 0:
            return "<i4" if -(2**31) <= min(values) and max(values) < 2**31 else "<i8"
        return "<u4" if max(values) < 2**32 else "<u8"
    try:
        with np.errstate(over="ignore"):
            return "<f4" if all(text in (str(np.float32(text)), "nan") for text in distinct) else _double(distinct)
    except ValueError:
        return "S"


def _double(texts: Iterable[str]) -> str:
    for text in texts:
        float(text)
    return "<f8"


def _typed(star: Star, field: str, texts: Texts, kind: str) -> NDArray[Any]:
    if kind.lstrip("<>|=")[:1] == "U":
        return np.array(texts, "U")
    if kind.lstrip("<>|=")[:1] == "S":
        return as_bytes(texts)
    try:
        dtype = np.dtype(kind)
        if dtype.hasobject or dtype.kind not in "biuf":
            raise TypeError(kind)
        return np.array([int(text) for text in texts] if dtype.kind in "biu" else texts, dtype)
    except (ValueError, TypeError, OverflowError, SyntaxError) as error:
        raise InputError(f"{star.source}: the column that carries {field} is damaged: {error}") from error


def merged_fields(
    star: Star, made: Fields, carried: Fields, there: Mapping[str, Mask], unchanged: Mapping[Part, Mask]
) -> tuple[Fields, list[str]]:
    """The fields of the `.cs`: those made of the columns, with those that travelled along where these are still true.

    Parameters
    ----------
    there : dict of str to ndarray
        In which rows a field travelled along.

    Returns
    -------
    tuple
        The fields, in the order of the `.cs` that the table came from; and the fields that were dropped.
    """
    leads = (lead_of(star), leading(list(made)))
    found, dropped = dict(made), []
    same_tubes = np.full(len(star), unchanged[Part.MICROGRAPH].all())
    if FILAMENT_UID in carried and FILAMENT_UID in made:
        same_tubes |= same_filaments(tubes_of(star.columns, star.columns[TUBE]), carried[FILAMENT_UID])
    for field, values in carried.items():
        true = there[field].copy()
        for part in _depends(field, *leads):
            true &= unchanged[part]
        if field.startswith("sym_expand/") and field in made:  # unless sub-particles were made of its rows since
            true &= _apart(carried)
        if field.startswith("filament/") and field in made:  # else the tube is another filament
            true &= same_tubes
        if field.endswith("/exp_group_id") and (true.any() or field in made or not len(star)):
            found[field] = _exposure_groups(star, values, unchanged[Part.GROUP] & there[field])
        elif true.all():
            found[field] = values
        elif true.any() or field in made:
            unit = made["blob/psize_A"] if field.endswith("/psize_A") else None  # also of shifts that are 0
            found[field] = _where(true, values, made.get(field, unit))
        else:
            dropped.append(field)
    known = [name for name, _, _ in star.fields if name in found]
    if not known:
        return found, dropped
    # What the `.cs` did not have is only there where the columns say something new; a place is all of it, or none.
    place = not any(name.startswith("location/") for name in known) and not unchanged[Part.LOCATION].all()
    new = [
        name
        for name in found
        if name not in known
        and (
            name in carried
            or (place and name.startswith("location/"))
            or not all(unchanged[p].all() for p in _depends(name))
        )
    ]
    return {name: found[name] for name in (*known, *new)}, dropped


def _apart(carried: Fields) -> bool:
    """Whether the numbers of an expansion that travelled along tell all copies of a particle from each other."""
    source, number = carried.get("sym_expand/src_uid"), carried.get("sym_expand/idx")
    if source is None or number is None or source.shape != number.shape:
        return False
    pairs = np.stack([source.astype(np.uint64), number.astype(np.uint64)], axis=1)[source != 0]
    return len(np.unique(pairs, axis=0)) == len(pairs)


def _exposure_groups(star: Star, ids: NDArray[Any], same: Mask) -> NDArray[Any]:
    """The ids of before; where the optics group is another one, the id of the rows that were in it, or a new one.

    In joined tables the same id is another group, unless optics groups of one name have it in both.
    """
    found = ids.copy()
    taken = set(ids[same].tolist())
    tables = np.array([table for _, table in _ends(star)])
    names = np.array(star.optics.get(GROUP_NAME, star.optics[GROUP]))[star.group]
    joined = len(set(tables[same].tolist())) > 1
    for number in np.unique(ids[same]).tolist() if joined else []:
        rows = same & (ids == number)
        known: list[tuple[set[str], int]] = []
        for table in dict.fromkeys(tables[rows].tolist()):
            theirs = rows & (tables == table)
            own = set(names[theirs].tolist())
            chosen = next((before for others, before in known if not own.isdisjoint(others)), None)
            if chosen is None:
                chosen = next(k for k in count(number) if k not in taken) if known else number
            known.append((own, chosen))
            taken.add(chosen)
            found[theirs] = chosen
    for group in np.unique(star.group[~same]).tolist():
        rows = star.group == group
        before = found[rows & same]
        number = int(float(star.optics[GROUP][group]))
        chosen = before[0] if len(before) else next(k for k in count(number) if k not in taken)
        taken.add(int(chosen))
        found[rows & ~same] = chosen
    return found


def _where(true: Mask, values: NDArray[Any], otherwise: NDArray[Any] | None) -> NDArray[Any]:
    if otherwise is None or otherwise.shape != values.shape:
        otherwise = np.zeros_like(values)
    wide = true.reshape(-1, *(1,) * (values.ndim - 1))
    return np.where(wide, values, otherwise.astype(values.dtype) if values.dtype.kind not in "SU" else otherwise)


def _depends(field: str, then: str = "", now: str = "") -> tuple[Part, ...]:
    """What must not have changed for a field to be true; the leading alignments of before and of now."""
    group = field.split("/", 1)[0]
    if group == "blob" or field == DIVISOR_FIELD:
        return (Part.IMAGE,)
    if field.startswith("location/center"):
        return (Part.LOCATION, Part.MICROGRAPH)
    if group == "location":
        return (Part.MICROGRAPH,)
    if group in ("ctf", "mscope_params"):
        return (Part.CTF,)
    if group.startswith("alignments"):
        of_columns = group in (then, now) or (not then and group in LEADS)
        return (Part.ALIGNMENT,) if of_columns else (Part.LOCATION, Part.MICROGRAPH)
    return (Part.FILAMENT,) if group == "filament" else ()
