"""What travels along because the other form has no place for it, and whether it is still true on the way back.

In a STAR file the fields of a `.cs` are columns `_cryosparc.GROUP.FIELD`, in a `.cs` the columns of a STAR file are
fields `cryobox/star/TAG` and `cryobox/optics/TAG`. Only what converting does not give back bit for bit goes along.
A `.cs` keeps numbers as they are: what a STAR file said is true where converting it again gives what the `.cs` holds
now. RELION writes numbers anew, in fewer digits: a STAR file has a digest of what it said of each row when it was made.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from typing import Any
from urllib.parse import quote, unquote

import numpy as np
from numpy.typing import NDArray

from cryobox.convert.filaments import FILAMENT_UID, TUBE, same_filaments, tubes_of
from cryobox.convert.texts import DIGEST, GROUP, UID, Star, Texts, exact, lead_of
from cryobox.convert.to_cs import ORIGINS_30, Fields
from cryobox.convert.to_star import ANGLES, COORDINATES, DEFAULTS, LEADS, ORIGINS, leading
from cryobox.errors import InputError
from cryobox.formats.columns import (
    IMAGE_FLAGS,
    MICROSCOPE,
    OPTICS_NEUTRAL,
    QUANTITIES,
    UNRELATED_FIELDS,
    UNRELATED_TAGS,
    Topic,
    topic_of_tag,
)
from cryobox.formats.cs_table import Table, as_bytes
from cryobox.formats.star_optics import unique_groups

__all__ = [
    "CARRIED",
    "OF_BOTH",
    "OF_RELION",
    "STATE",
    "Part",
    "carried_fields",
    "fields_to_carry",
    "kept_columns",
    "merged_fields",
    "restored",
    "state",
    "tags_to_keep",
    "unchanged_parts",
    "with_carried",
]

CARRIED = "_cryosparc."  # then the field, with a dot for the slash, and the index of a component
KEPT = "cryobox/star/"  # then the tag of a column of the rows
KEPT_OPTICS = "cryobox/optics/"
OPTICS_ROW = "cryobox/optics_row"
# Of each row what its own fields said when columns of a STAR file were put beside them; first, whose table that was.
STATE = "cryobox/state"
OF_RELION, OF_BOTH = "r", "c"
UNUSED = "cryobox/optics_unused"  # groups without particles, as JSON
Mask = NDArray[np.bool_]

_NUMBERED = ("idx", "template_idx", "shape", "class", "split", "exp_group_id", "micrograph_shape")
_LONG = ("uid", "micrograph_uid", "filament_uid", "import_sig", "src_uid")
_STRINGS = ("path", "type", "micrograph_path")


class Part(StrEnum):
    """What a digest speaks of; each has a place of its own in it."""

    IMAGE = "image"
    MICROGRAPH = "micrograph"
    LOCATION = "location"
    CTF = "ctf"
    ALIGNMENT = "alignment"
    FILAMENT = "filament"


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
}

# Digests -------------------------------------------------------------------------------------------------------------


def digests(star: Star, lead: str) -> Texts:
    """For each row what it says now, so that a later reader finds out in which parts it says something else.

    The first letter tells which alignment the columns are: 3, 2, or 0 for none.
    """
    columns = [_both(star, part) for part in Part]
    mark = lead.removeprefix("alignments")[:1] or "0"
    return ["-".join((mark, *row)) for row in zip(*columns, strict=True)]


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
    columns = [list(map(settle, star.columns[tag])) if star.has(tag) else [""] * len(star) for tag in row_tags]
    count = len(next(iter(star.optics.values()), []))
    group = [
        "|".join(as_relion_writes(star.optics[tag][g]) if tag in star.optics else "" for tag in optics_tags)
        for g in range(count)
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
    nothing = dict.fromkeys(Part, np.zeros(len(star), np.bool_))
    if not star.has(DIGEST):
        return nothing
    now, then = digests(star, ""), star.columns[DIGEST]
    rows = [(a.split("-")[1:], b.split("-")[1:]) for a, b in zip(now, then, strict=True)]
    if any(len(b) != len(Part) for _, b in rows):
        return nothing
    return {
        part: np.array([_same_digest(a[i], b[i]) for a, b in rows], np.bool_).reshape(len(star))
        for i, part in enumerate(Part)
    }


def _same_digest(now: str, then: str) -> bool:
    """Whether the numbers are those of before, in the digits of one or the other program."""
    return any(a == b for a, b in zip(now.split("."), then.split("."), strict=False))


# Fields of a .cs in a STAR file --------------------------------------------------------------------------------------


def fields_to_carry(table: Table, again: Mapping[str, NDArray[Any]], always: Iterable[str]) -> list[str]:
    """Fields that a STAR table's own columns, converted again, do not give back bit for bit."""
    always = set(always)
    found = []
    for field in table.dtype.names or ():
        if field.startswith((KEPT, KEPT_OPTICS)) or field in (OPTICS_ROW, UNUSED, STATE):
            continue
        if field in always or not _same_bits(table[field], again.get(field)):
            found.append(field)
    units = {f"{field.removesuffix('/shift')}/psize_A" for field in found if field.endswith("/shift")}
    return [*found, *(field for field in table.dtype.names or () if field in units and field not in found)]


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
        if not field.startswith((KEPT, KEPT_OPTICS)) and field not in (OPTICS_ROW, UNUSED, STATE, *left)
    ]
    columns[DIGEST] = digests(replace(star, columns=columns), leading(table.dtype.names or ()))
    return replace(star, columns=columns, fields=tuple(told)), left


def _carried_columns(field: str, values: NDArray[Any]) -> dict[str, Texts]:
    tag = CARRIED + ".".join(quote(part, safe="").replace(".", "%2E") for part in field.split("/", 1))
    if values.ndim == 1:
        return {tag: exact(values)}
    flat = values.reshape(len(values), int(np.prod(values.shape[1:])))
    return {f"{tag}.{i}": exact(flat[:, i]) for i in range(flat.shape[1])}


def carried_fields(star: Star) -> Fields:
    """Fields that travelled along, with the types they had, or those that CryoSPARC gives them."""
    described = {name: (kind, shape) for name, kind, shape in star.fields}
    parts: dict[str, dict[int, Texts]] = {}
    for tag, texts in star.columns.items():
        if tag.startswith(CARRIED):
            pieces = [unquote(piece) for piece in tag[len(CARRIED) :].split(".")]
            of_array = len(pieces) > 2 or (
                len(pieces) == 2 and "/".join(pieces) not in described and pieces[0] in described
            )
            component = int(pieces.pop()) if of_array and pieces[-1].isdigit() else -1
            parts.setdefault("/".join(pieces), {})[component] = texts
    found: Fields = {}
    for field, components in parts.items():
        everything = (text for texts in components.values() for text in texts)
        kind, shape = described[field] if field in described else (_usual_type(field, everything), "")
        columns = [_typed(star, field, components[i], kind) for i in sorted(components)]
        if -1 in components:
            found[field] = columns[0]
            continue
        extent = _extent(star, field, shape, len(columns))
        found[field] = np.stack(columns, axis=1).reshape(len(star), *extent)
    return found


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
    star: Star, made: Fields, carried: Fields, unchanged: Mapping[Part, Mask]
) -> tuple[Fields, list[str]]:
    """The fields of the `.cs`: those made of the columns, with those that travelled along where these are still true.

    Returns
    -------
    tuple
        The fields, in the order of the `.cs` that the table came from; and the fields that were dropped.
    """
    leads = (lead_of(star), leading(list(made)))
    found, dropped = dict(made), []
    for field, values in carried.items():
        true = np.ones(len(star), np.bool_)
        for part in _depends(field, *leads):
            true &= unchanged[part]
        if field == FILAMENT_UID and field in made:
            true &= (
                same_filaments(tubes_of(star.columns, star.columns[TUBE]), values) | unchanged[Part.MICROGRAPH].all()
            )
        elif field.endswith("/psize_A") and field not in made:
            true[:] = True  # the unit of shifts that are 0
        if true.all():
            found[field] = values
        elif true.any() or field in made:
            found[field] = _where(true, values, made.get(field))
        else:
            dropped.append(field)
    known = [name for name, _, _ in star.fields if name in found]
    if not known:
        return found, dropped
    # What the `.cs` did not have is only there where the columns say something new.
    new = [
        name
        for name in found
        if name not in known and (name in carried or not all(unchanged[p].all() for p in _depends(name)))
    ]
    return {name: found[name] for name in (*known, *new)}, dropped


def _where(true: Mask, values: NDArray[Any], otherwise: NDArray[Any] | None) -> NDArray[Any]:
    if otherwise is None or otherwise.shape != values.shape:
        otherwise = np.zeros_like(values)
    wide = true.reshape(-1, *(1,) * (values.ndim - 1))
    return np.where(wide, values, otherwise.astype(values.dtype) if values.dtype.kind not in "SU" else otherwise)


def _depends(field: str, then: str = "", now: str = "") -> tuple[Part, ...]:
    """What must not have changed for a field to be true; the leading alignments of before and of now."""
    group = field.split("/", 1)[0]
    if group == "blob" or field == "ctf/scale_const":
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


# Columns of a STAR file in a .cs -------------------------------------------------------------------------------------


def tags_to_keep(star: Star, again: Star | None) -> tuple[list[str], bool]:
    """Columns that a `.cs` must hold for the way back, and whether data_optics is among them.

    Parameters
    ----------
    again : Star, optional
        What the fields give; None where the table is RELION's own, all of which is kept.
    """
    tags = [tag for tag in star.columns if not tag.startswith(CARRIED) and tag not in (UID, DIGEST)]
    if again is None:
        return tags, True
    optics = _optics_differ(star, again)
    found = [tag for tag in tags if tag != GROUP and star.columns[tag] != again.columns.get(tag)]
    return [*found, GROUP] if optics else found, optics


def _optics_differ(star: Star, again: Star) -> bool:
    if set(star.optics) != set(again.optics):
        return True
    pairs = set(zip(star.group.tolist(), again.group.tolist(), strict=True))
    if len(pairs) != len({a for a, _ in pairs}) or len(pairs) != len({b for _, b in pairs}):
        return True
    return any(tag != GROUP and star.optics[tag][a] != again.optics[tag][b] for tag in star.optics for a, b in pairs)


def kept_columns(star: Star, tags: Sequence[str], optics: bool) -> Fields:
    """The fields that hold these columns, and data_optics."""
    kept: Fields = {f"{KEPT}{tag}": as_bytes(star.columns[tag]) for tag in tags}
    if optics:
        rows = star.group.tolist()
        kept |= {f"{KEPT_OPTICS}{tag}": as_bytes([texts[g] for g in rows]) for tag, texts in star.optics.items()}
        kept[OPTICS_ROW] = star.group.astype(np.uint32)
        count = len(next(iter(star.optics.values()), []))
        unused = {
            g: {tag: texts[g] for tag, texts in star.optics.items()} for g in sorted(set(range(count)) - set(rows))
        }
        if unused and rows:
            kept[UNUSED] = as_bytes([json.dumps(unused)] * len(rows))
    return kept


def restored(native: Star, table: Table, again_of: Any) -> tuple[Star, dict[Topic, Mask], bool]:
    """The STAR table with the columns that a `.cs` kept, where converting these gives what the `.cs` holds now.

    Parameters
    ----------
    native : Star
        What the fields give.
    again_of : callable
        Star -> fields.

    Returns
    -------
    tuple
        The table; by topic, in which rows something changed (empty where the `.cs` kept nothing); and whether the table
        was RELION's own.
    """
    names = table.dtype.names or ()
    kept = {field[len(KEPT) :]: exact(table[field]) for field in names if field.startswith(KEPT)}
    optics = {field[len(KEPT_OPTICS) :]: exact(table[field]) for field in names if field.startswith(KEPT_OPTICS)}
    if not kept:
        return native, {}, False
    marks = exact(table[STATE]) if STATE in names else ["-"]
    whole = "_rlnImageName" in kept and all(text.startswith(OF_RELION) for text in marks)
    old = _old_star(native, kept, optics, table, whole=whole)
    again = again_of(old)
    changed = _changed_topics(table, again)
    lead = leading(names) or leading(list(again))  # an alignment that was removed is a change, too
    columns: dict[str, Texts] = {}
    for tag, texts in kept.items():
        if tag == GROUP:
            columns[GROUP] = native.columns[GROUP]
            continue
        different = _rows_to_renew(tag, direct_fields(tag, lead), changed, table, again, native)
        renewed = _with_new(tag, texts, native.columns.get(tag), different)
        columns |= {tag: renewed} if renewed is not None else {}
    for tag, texts in native.columns.items():
        if tag in columns:
            continue
        fields = direct_fields(tag, lead)
        in_pixels = tag in ORIGINS and set(ORIGINS_30) & set(kept)
        if not (whole or in_pixels) or tag == GROUP or _different(table, again, fields).any():
            columns[tag] = texts
    if any(tag in kept and columns.get(tag) != kept[tag] for tag in ORIGINS_30):
        columns = {tag: texts for tag, texts in columns.items() if tag not in ORIGINS_30}
        columns |= {tag: native.columns[tag] for tag in ORIGINS if tag in native.columns}
    if TUBE in columns and TUBE in native.columns:
        mixed = ~same_filaments(tubes_of(columns, columns[TUBE]), tubes_of(columns, native.columns[TUBE]))
        columns[TUBE] = _mixed(columns[TUBE], native.columns[TUBE], _in_whole_micrographs(columns, mixed))
    star = replace(native, columns=columns)
    if optics:
        star = _with_optics(star, native, old, changed, table)
    return star, changed, whole


def _rows_to_renew(
    tag: str, fields: Sequence[str], changed: Mapping[Topic, Mask], table: Table, again: Fields, native: Star
) -> Mask:
    """Rows in which a column that was kept is no longer true."""
    topic = Topic.FILAMENT if fields and fields[0].startswith("filament/") else topic_of_tag(tag)
    different = changed[topic]
    if tag in ORIGINS_30:  # in pixels of the images
        different = (different | changed[Topic.IMAGE]) & _different(table, again, fields)
    elif fields and topic is not Topic.PARTICLE:
        different = different & _different(table, again, fields)
    elif fields:
        different = _different(table, again, fields)
    # Tubes are numbered within their micrograph: all its rows, or none.
    return _in_whole_micrographs(native.columns, different) if topic is Topic.FILAMENT else different


def _with_new(tag: str, texts: Texts, new: Texts | None, different: Mask) -> Texts | None:
    """A column that was kept, with what the fields give in these rows; None where nothing of it is left."""
    if not different.any():
        return texts
    if new is not None:
        return _mixed(texts, new, different)
    if different.all() or tag == "_rlnRandomSubset":  # a half set of 0 is none
        return None
    empty = "0" if all(_is_number(text) for text in texts) else "None"
    return _mixed(texts, [empty] * len(texts), different)


def _mixed(texts: Texts, new: Texts, rows: Mask) -> Texts:
    return [n if there else t for t, n, there in zip(texts, new, rows.tolist(), strict=True)]


def _in_whole_micrographs(columns: Mapping[str, Texts], rows: Mask) -> Mask:
    """All rows of the micrographs on which one of these is."""
    names = columns.get("_rlnMicrographName", [""] * len(rows))
    touched = {name for name, there in zip(names, rows.tolist(), strict=True) if there}
    return np.array([name in touched for name in names], np.bool_)


def _old_star(
    native: Star, kept: Mapping[str, Texts], optics: Mapping[str, Texts], table: Table, *, whole: bool
) -> Star:
    """The STAR table as it was: what was kept, over what the fields give where not all of it was."""
    columns = dict(kept) if whole else {**native.columns, **kept}
    if not whole and set(ORIGINS_30) & set(kept):
        columns = {tag: texts for tag, texts in columns.items() if tag not in ORIGINS or tag in kept}
    if not optics:
        return replace(native, columns=columns, fields=())
    rows = table[OPTICS_ROW].astype(np.int64) if OPTICS_ROW in (table.dtype.names or ()) else native.group
    _, first, group = np.unique(rows, return_index=True, return_inverse=True)
    old = {tag: [texts[i] for i in first.tolist()] for tag, texts in optics.items()}
    return replace(native, columns=columns, optics=old, group=group.astype(np.intp), fields=())


def direct_fields(tag: str, lead: str) -> tuple[str, ...]:
    """The fields that a STAR column is made of; none for one that a `.cs` has no place for."""
    fixed: dict[str, tuple[str, ...]] = {
        "_rlnImageName": ("blob/path", "blob/idx"),
        "_rlnMicrographName": ("location/micrograph_path",),
        "_rlnCoordinateX": ("location/center_x_frac",),
        "_rlnCoordinateY": ("location/center_y_frac",),
        TUBE: ("filament/filament_uid",),
        "_rlnAngleTiltPrior": ("filament/filament_uid",),
        "_rlnAnglePsiPrior": ("filament/filament_uid", "filament/position_A"),
        "_rlnAnglePsiFlipRatio": ("filament/filament_uid",),
        **dict.fromkeys(ORIGINS_30, (f"{lead or '*'}/shift", "blob/psize_A")),
        **dict.fromkeys(ANGLES, (f"{lead or '*'}/pose",)),
    }
    for quantity in QUANTITIES:
        if not quantity.in_optics:
            fixed.setdefault(quantity.tag, (quantity.field.replace("*", lead or "*"),))
    return fixed.get(tag, ())


_OF_ALIGNMENT = ("shift", "pose", "class", "split")
_TOPIC_FIELDS: dict[Topic, tuple[str, ...]] = {
    Topic.IMAGE: ("blob/path", "blob/idx", "blob/shape", "blob/psize_A"),
    Topic.LOCATION: ("location/micrograph_path", "location/center_x_frac", "location/center_y_frac"),
    Topic.CTF: (*(q.field for q in QUANTITIES if q.topic is Topic.CTF), *UNRELATED_FIELDS),
    Topic.FILAMENT: ("filament/filament_uid", "filament/position_A"),
    Topic.PARTICLE: (),
}


def state(fields: Mapping[str, NDArray[Any]], n: int, mark: str) -> NDArray[np.bytes_]:
    """A checksum of each row's fields for each topic, behind the letter that says whose table was kept."""
    lead = leading(list(fields))
    columns: list[list[str]] = [[mark] * n]
    for topic in Topic:
        names = _TOPIC_FIELDS.get(topic, tuple(f"{lead}/{part}" for part in _OF_ALIGNMENT))
        rows = [_row_bytes(fields[name], n) for name in names if name in fields]
        columns.append([f"{zlib.crc32(b'|'.join(parts)):08x}" for parts in zip(*rows, strict=True)] or ["-" * 8] * n)
    return as_bytes(["".join(row) for row in zip(*columns, strict=True)])


def _row_bytes(values: NDArray[Any], n: int) -> list[bytes]:
    if values.dtype.kind in "SU":
        return [str(value).encode("utf-8", "surrogateescape") for value in exact(values)]
    plain = np.ascontiguousarray(values).reshape(n, int(np.prod(values.shape[1:])))
    return [row.tobytes() for row in plain]


def _changed_topics(table: Table, again: Fields) -> dict[Topic, Mask]:
    """In which rows a topic says something else than what was kept, and than what the fields said beside it then."""
    found = _compared_topics(table, again)
    names = table.dtype.names or ()
    if STATE not in names or not len(table):
        return found
    now = exact(state({name: table[name] for name in names}, len(table), OF_RELION))
    then = exact(table[STATE])
    pairs = list(zip(now, then, strict=True))
    # What was kept beside the fields of a `.cs` says nothing of these: only the state tells that they changed.
    beside = np.array([not text.startswith(OF_RELION) for text in then], np.bool_)
    return {
        topic: (found[topic] | beside)
        & np.array([a[1 + 8 * i : 9 + 8 * i] != b[1 + 8 * i : 9 + 8 * i] for a, b in pairs], np.bool_)
        for i, topic in enumerate(Topic)
    }


def _compared_topics(table: Table, again: Fields) -> dict[Topic, Mask]:
    lead = leading(table.dtype.names or ()) or leading(list(again))
    fields = _TOPIC_FIELDS | {Topic.ALIGNMENT: tuple(f"{lead}/{part}" for part in _OF_ALIGNMENT) if lead else ()}
    return {topic: _different(table, again, fields[topic]) for topic in Topic}


def _different(table: Table, again: Fields, fields: Iterable[str]) -> Mask:
    """Rows in which any of these fields is another than it was; one that is missing holds what its absence means."""
    names = table.dtype.names or ()
    found = np.zeros(len(table), np.bool_)
    for field in fields:
        now, then = (table[field] if field in names else None), again.get(field)
        if now is None and then is None:
            continue
        if now is None or then is None:
            there = now if then is None else then
            assert there is not None
            default = DEFAULTS.get(field)
            if field.endswith(("/class", "/split")) and f"{field.rsplit('/', 1)[0]}/shift" in {*names} & {*again}:
                default = 0  # of an alignment that was there before
            differs = np.ones(there.shape, np.bool_) if default is None else there != default
            if there.dtype.kind == "f":
                differs &= ~np.isnan(there)  # not known, as it was
        elif now.shape != then.shape:
            differs = np.ones(now.shape, np.bool_)
        else:
            differs = now != then
            if now.dtype.kind == "f" and then.dtype.kind == "f":
                differs &= ~(np.isnan(now) & np.isnan(then))
        found |= differs.reshape(len(table), int(np.prod(differs.shape[1:]))).any(axis=1)
    return found


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _with_optics(star: Star, native: Star, old: Star, changed: Mapping[Topic, Mask], table: Table) -> Star:
    """data_optics as it was, with the values of the images and the CTF that are new."""
    ctf = changed[Topic.CTF]
    image = changed[Topic.IMAGE] if set(IMAGE_FLAGS) & set(old.optics) else np.zeros(len(native), np.bool_)
    size = _different_size(native, old)
    if not (ctf.any() or size.any() or image.any()):
        unused = _unused(table)
        count = len(next(iter(old.optics.values()), [])) + len(unused)
        order = sorted({*unused, *table[OPTICS_ROW].tolist()}) if OPTICS_ROW in (table.dtype.names or ()) else []
        if not unused or len(order) != count:
            return replace(star, optics=old.optics, group=old.group, columns=_as_written(star, old))
        place = {row: i for i, row in enumerate(sorted(set(table[OPTICS_ROW].tolist())))}
        optics = {
            tag: [unused[row][tag] if row in unused else texts[place[row]] for row in order]
            for tag, texts in old.optics.items()
        }
        at = {row: i for i, row in enumerate(order)}
        group = np.array([at[row] for row in table[OPTICS_ROW].tolist()], np.intp)
        return replace(star, optics=optics, group=group, columns=_as_written(star, old))
    key = (((old.group * (native.group.max(initial=0) + 1) + native.group) * 2 + size) * 2 + ctf) * 2 + image
    _, first, index = np.unique(key, return_index=True, return_inverse=True)
    rows = []
    for i in first.tolist():
        was = {tag: texts[old.group[i]] for tag, texts in old.optics.items()}
        now = {tag: texts[native.group[i]] for tag, texts in native.optics.items()}
        row = dict(was)
        for tag in (*now, *was):
            if tag in IMAGE_FLAGS:
                row[tag] = now.get(tag, "0") if image[i] else was.get(tag, "0")
            elif topic_of_tag(tag) is Topic.CTF and ctf[i]:
                row.pop(tag, None)
                row |= {tag: now[tag]} if tag in now else {}
            elif topic_of_tag(tag) is Topic.IMAGE and size[i] and tag in now:
                row[tag] = now[tag]
        rows.append(row)
    groups, place_of = unique_groups(rows)
    tags = list(dict.fromkeys(tag for row in groups for tag in row))
    optics = {tag: [row.get(tag, OPTICS_NEUTRAL.get(tag, "0")) for row in groups] for tag in tags}
    group = np.array(place_of, np.intp)[index]
    return replace(star, optics=optics, group=group, columns=_grouped(star, optics, group))


def _different_size(native: Star, old: Star) -> Mask:
    differs = np.zeros(len(native), np.bool_)
    for tag in ("_rlnImagePixelSize", "_rlnImageSize"):
        differs |= native.of_group(tag).astype(np.float32) != old.of_group(tag).astype(np.float32)
    return differs


def _grouped(star: Star, optics: Mapping[str, Texts], group: NDArray[np.intp]) -> dict[str, Texts]:
    return star.columns | {GROUP: [optics[GROUP][g] for g in group.tolist()]}


def _as_written(star: Star, old: Star) -> dict[str, Texts]:
    """The columns, with the group of each row in the digits that it had."""
    texts = old.columns.get(GROUP)
    return star.columns | {GROUP: texts} if texts is not None else _grouped(star, old.optics, old.group)


def _unused(table: Table) -> dict[int, dict[str, str]]:
    if UNUSED not in (table.dtype.names or ()) or not len(table):
        return {}
    try:
        found = json.loads(exact(table[UNUSED][:1])[0])
        return {int(row): {str(tag): str(text) for tag, text in values.items()} for row, values in found.items()}
    except (ValueError, AttributeError, TypeError):
        return {}
