"""Columns of a STAR file that a `.cs` keeps, and whether they are still true on the way back.

They are fields `cryobox/star/TAG` and `cryobox/optics/TAG`. A `.cs` keeps numbers as they are: what RELION's own table
said is true where converting it again gives what the `.cs` holds now. Beside the fields of a `.cs` stands for each row
a checksum of what they said when the columns were put there.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryobox.convert.filaments import TUBE, same_filaments, tubes_of
from cryobox.convert.texts import CARRIED, DIGEST, GROUP, GROUP_NAME, UID, Mask, Star, Texts, exact, group_count
from cryobox.convert.to_cs import ORIGINS_30, Fields
from cryobox.convert.to_star import ANGLES, DEFAULTS, EXPOSURE_GROUPS, ORIGINS, kinds_of_rows, leading
from cryobox.formats.columns import (
    CTF_FIELDS,
    IMAGE_FLAGS,
    OPTICS_NEUTRAL,
    QUANTITIES,
    UNRELATED_FIELDS,
    Topic,
    is_ctf_tag,
    topic_of_tag,
)
from cryobox.formats.cs_table import Table, as_bytes
from cryobox.formats.star_optics import unique_groups
from cryobox.formats.star_text import number
from cryobox.formats.text import is_number

__all__ = [
    "OF_BOTH",
    "OF_RELION",
    "STATE",
    "is_kept",
    "kept_columns",
    "restored",
    "state",
    "tags_to_keep",
]

KEPT = "cryobox/star/"  # then the tag of a column of the rows
KEPT_OPTICS = "cryobox/optics/"
OPTICS_ROW = "cryobox/optics_row"
# Of each row what its own fields said when columns of a STAR file were put beside them; first, whose table that was.
STATE = "cryobox/state"
OF_RELION, OF_BOTH = "r", "c"
UNUSED = "cryobox/optics_unused"  # some of the groups without particles, as JSON


def is_kept(field: str) -> bool:
    """Whether a field of a `.cs` is none of its own, but a column of a STAR file or what is said of these."""
    return field.startswith((KEPT, KEPT_OPTICS)) or field in (OPTICS_ROW, UNUSED, STATE)


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
        empty = sorted(set(range(group_count(star.optics))) - set(rows))
        unused = {g: {tag: texts[g] for tag, texts in star.optics.items()} for g in empty}
        if unused and rows:
            # Some in each row: all of 200 in 20,000 rows were 1.2 GB. A turn begins one later: every third row has all.
            turns = min(len(rows), len(empty))
            told = [json.dumps({g: unused[g] for g in empty[turn::turns]}) for turn in range(turns)]
            kept[UNUSED] = as_bytes([told[(row + row // len(told)) % len(told)] for row in range(len(rows))])
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
    marks = exact(table[STATE]) if STATE in names else [""] * len(table)
    whole = "_rlnImageName" in kept and all(text.startswith(OF_RELION) for text in marks)
    of_rows, here = [_signature_of(text) for text in marks], _signature(names)
    if any(of_row != here for of_row in of_rows):
        whole = False
        kept, optics = _without_gaps(kept, optics, native, of_rows, here)
    old = _old_star(native, kept, optics, table, whole=whole)
    again = _with_group_numbers(again_of(old), optics)
    changed = _changed_topics(table, again, whole=whole)
    lead = leading(names) or leading(list(again))  # an alignment that was removed is a change, too
    columns: dict[str, Texts] = {}
    for tag, texts in kept.items():
        if tag == GROUP:
            columns[GROUP] = native.columns[GROUP]
            continue
        different = _rows_to_renew(tag, direct_fields(tag, lead), changed, table, again, native)
        renewed = _with_new(tag, texts, _native_texts(native, tag), different)
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
        columns |= {tag: native.columns[tag] for tag in ORIGINS if tag in native.columns and tag not in columns}
    if TUBE in columns and TUBE in native.columns:
        mixed = ~same_filaments(tubes_of(columns, columns[TUBE]), tubes_of(columns, native.columns[TUBE]))
        columns[TUBE] = _mixed(columns[TUBE], native.columns[TUBE], _in_whole_micrographs(columns, mixed))
    star = replace(native, columns=columns)
    if optics:
        star = _with_optics(star, native, old, changed, table)
    return star, changed, whole


def _with_group_numbers(again: Fields, optics: Mapping[str, Texts]) -> Fields:
    """The fields with the groups' numbers that each table had: groups of joined tables got new ones."""
    if GROUP not in optics:
        return again
    numbers = np.array([number(text) for text in optics[GROUP]], np.float64)
    return again | {field: numbers for field in EXPOSURE_GROUPS if field in again}


def _native_texts(native: Star, tag: str) -> Texts | None:
    """What the fields give for a column of the rows, also where it is one of data_optics."""
    if tag in native.columns or tag not in native.optics:
        return native.columns.get(tag)
    return [native.optics[tag][g] for g in native.group.tolist()]


def _rows_to_renew(
    tag: str, fields: Sequence[str], changed: Mapping[Topic, Mask], table: Table, again: Fields, native: Star
) -> Mask:
    """Rows in which a column that was kept is no longer true."""
    topic = Topic.FILAMENT if fields and fields[0].startswith("filament/") else topic_of_tag(tag)
    different = changed[topic]
    if tag in ORIGINS_30:  # in pixels of the images
        different = (different | changed[Topic.IMAGE]) & _different(table, again, fields)
    elif fields and topic is not Topic.PARTICLE and not _left_out(fields, table.dtype.names or ()):
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
    return _mixed(texts, [_empty(texts)] * len(texts), different)


def _mixed(texts: Texts, new: Texts, rows: Mask) -> Texts:
    return [n if there else t for t, n, there in zip(texts, new, rows.tolist(), strict=True)]


def _signature(names: Iterable[str]) -> str:
    """A checksum of which columns a `.cs` keeps: rows of joined tables, and what a join left out, are told by it."""
    kept = sorted(name for name in names if name.startswith((KEPT, KEPT_OPTICS)))
    return f"{zlib.crc32(chr(0).join(kept).encode('utf-8', 'surrogateescape')):08x}"


def _signature_of(state: str) -> str:
    return state[1:9]


def _without_gaps(
    kept: Mapping[str, Texts], optics: Mapping[str, Texts], native: Star, signatures: Texts, here: str
) -> tuple[dict[str, Texts], dict[str, Texts]]:
    """What joined tables kept, with what the fields give where only the other one had a column, or none has it now."""
    rows_of = {text: np.array([own == text for own in signatures], np.bool_) for text in dict.fromkeys(signatures)}

    def filled(texts: Texts, new: Texts | None, neutral: str | None) -> Texts:
        empty = np.array([not text for text in texts], np.bool_)
        missing = np.zeros(len(texts), np.bool_)
        for text, rows in rows_of.items():
            if text != here and empty[rows].all():
                missing |= rows
        if new is None:
            own = [text for text, absent in zip(texts, missing.tolist(), strict=True) if not absent]
            new = [_empty(own) if neutral is None else neutral] * len(texts)
        return _mixed(texts, new, missing)

    if not set(ANGLES) & set(native.columns) <= set(kept):  # other angles may say the same together
        kept = {tag: texts for tag, texts in kept.items() if tag not in ANGLES}
    of_rows = {tag: filled(texts, _native_texts(native, tag), None) for tag, texts in kept.items()}
    of_groups = {tag: [texts[g] for g in native.group.tolist()] for tag, texts in native.optics.items()}
    found = {tag: filled(t, of_groups.get(tag), OPTICS_NEUTRAL.get(tag, "0")) for tag, t in optics.items()}
    return of_rows, found | {tag: texts for tag, texts in of_groups.items() if optics and tag not in found}


def _empty(texts: Texts) -> str:
    """What stands in a column of such texts where nothing is known."""
    return "0" if all(is_number(text) for text in texts) else "None"


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
    old, group = _old_optics(optics, table[OPTICS_ROW] if OPTICS_ROW in (table.dtype.names or ()) else native.group)
    return replace(native, columns=columns, optics=old, group=group, fields=())


def _old_optics(optics: Mapping[str, Texts], rows: NDArray[Any]) -> tuple[dict[str, Texts], NDArray[np.intp]]:
    """data_optics as it was, and the group of each row; of tables that were joined, the groups of both."""
    place: dict[tuple[Any, ...], int] = {}
    of_row = [place.setdefault(key, len(place)) for key in zip(rows.tolist(), *optics.values(), strict=True)]
    order = sorted(place, key=lambda key: int(key[0]))
    at = {place[key]: i for i, key in enumerate(order)}
    group = np.array([at[k] for k in of_row], np.intp)
    old = {tag: [key[i] for key in order] for i, tag in enumerate(optics, 1)}
    if len(set(old.get(GROUP, []))) == len(order):
        return old, group
    told, place_of = unique_groups([{tag: texts[i] for tag, texts in old.items()} for i in range(len(order))])
    return {tag: [row[tag] for row in told] for tag in old}, np.array(place_of, np.intp)[group]


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


_OF_ALIGNMENT = ("shift", "pose", "psize_A")
_OPTIONAL = ("/class", "/split")  # of an alignment
_TOPIC_FIELDS: dict[Topic, tuple[str, ...]] = {
    Topic.IMAGE: ("blob/path", "blob/idx", "blob/shape", "blob/psize_A"),
    Topic.LOCATION: (
        "location/micrograph_path",
        "location/center_x_frac",
        "location/center_y_frac",
        "location/micrograph_shape",
    ),
    Topic.CTF: (*(q.field for q in QUANTITIES if q.topic is Topic.CTF), *UNRELATED_FIELDS),
    Topic.FILAMENT: ("filament/filament_uid", "filament/position_A"),
    Topic.PARTICLE: (),
}


def _fields_of(topic: Topic, lead: str, names: Iterable[str]) -> tuple[str, ...]:
    """What a topic's columns are made of."""
    if topic is Topic.ALIGNMENT:
        return (*(f"{lead}/{part}" for part in _OF_ALIGNMENT), *(lead + part for part in _OPTIONAL)) if lead else ()
    return _exposure_group(names) if topic is Topic.GROUP else _TOPIC_FIELDS[topic]


def _checked(lead: str, names: Iterable[str]) -> list[tuple[Topic, tuple[str, ...]]]:
    """What has a checksum of its own in a row's state: topics, and apart from theirs what an alignment may lack."""
    optional = tuple(lead + part for part in _OPTIONAL)
    topics = [(topic, tuple(f for f in _fields_of(topic, lead, names) if f not in optional)) for topic in Topic]
    return [*topics, *((Topic.ALIGNMENT, (field,)) for field in optional)]


def _exposure_group(names: Iterable[str]) -> tuple[str, ...]:
    """The field that tells which optics group a row is in; one that is removed says nothing of the groups."""
    return tuple(name for name in EXPOSURE_GROUPS if name in names)[:1]


def state(fields: Mapping[str, NDArray[Any]], n: int, mark: str, kept: Iterable[str]) -> NDArray[np.bytes_]:
    """Checksums of each row's fields.

    Before these stand the letter that says whose table was kept, and a checksum of which columns were.
    """
    lead = leading(list(fields))
    columns: list[list[str]] = [[mark + _signature(kept)] * n]
    absent = _absent(lead)
    for _, of_topic in _checked(lead, fields):
        names = [name for name in of_topic if name in fields or name in absent]
        rows = [_row_bytes(fields[name], n) if name in fields else [absent[name]] * n for name in names]
        columns.append([f"{zlib.crc32(b'|'.join(parts)):08x}" for parts in zip(*rows, strict=True)] or ["-" * 8] * n)
    return as_bytes(["".join(row) for row in zip(*columns, strict=True)])


def _absent(lead: str) -> dict[str, bytes]:
    """What fields say that are not there."""
    found = {
        f"ctf/{name}": np.full(width or 1, value, np.float32).tobytes() for name, (width, value) in CTF_FIELDS.items()
    }
    return found | dict.fromkeys((f"{lead}/class", f"{lead}/split"), np.uint32(0).tobytes() if lead else b"")


def _row_bytes(values: NDArray[Any], n: int) -> list[bytes]:
    if values.dtype.kind in "SU":
        return [str(value).encode("utf-8", "surrogateescape") for value in exact(values)]
    plain = np.ascontiguousarray(values).reshape(n, int(np.prod(values.shape[1:])))
    return [row.tobytes() for row in plain]


def _changed_topics(table: Table, again: Fields, *, whole: bool) -> dict[Topic, Mask]:
    """In which rows a topic says something else than what was kept, and than what the fields said beside it then."""
    found = _compared_topics(table, again)
    names = table.dtype.names or ()
    if STATE not in names or not len(table):
        return found
    now = exact(state({name: table[name] for name in names}, len(table), OF_RELION, ()))
    then = exact(table[STATE])
    # What was kept beside the fields of a `.cs` says nothing of these: only the state tells that they changed.
    beside = np.array([not (whole and text.startswith(OF_RELION)) for text in then], np.bool_)
    changed = {topic: np.zeros(len(table), np.bool_) for topic in Topic}
    for i, (topic, fields) in enumerate(_checked(leading(names), names)):
        if not _left_out(fields, names):
            part = slice(9 + 8 * i, 17 + 8 * i)
            changed[topic] |= np.array([a[part] != b[part] for a, b in zip(now, then, strict=True)], np.bool_)
    return {topic: changed[topic] & (found[topic] | beside) for topic in Topic}


def _left_out(fields: Sequence[str], names: Sequence[str]) -> bool:
    """Whether this is a class or half set that is not there, though the alignment is: it says nothing of that."""
    return any(
        field.endswith(_OPTIONAL) and field not in names and f"{field.split('/')[0]}/shift" in names for field in fields
    )


def _compared_topics(table: Table, again: Fields) -> dict[Topic, Mask]:
    lead = leading(table.dtype.names or ()) or leading(list(again))
    both = set(table.dtype.names or ()) & set(again)
    return {topic: _different(table, again, _fields_of(topic, lead, both)) for topic in Topic}


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
            if field.endswith(_OPTIONAL) and f"{field.rsplit('/', 1)[0]}/shift" in {*names} & {*again}:
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


def _with_optics(star: Star, native: Star, old: Star, changed: Mapping[Topic, Mask], table: Table) -> Star:
    """data_optics as it was, with the values of the images and the CTF that are new."""
    ctf = changed[Topic.CTF]
    image = changed[Topic.IMAGE] if set(IMAGE_FLAGS) & set(old.optics) else np.zeros(len(native), np.bool_)
    size = _different_size(native, old)
    moved = changed[Topic.GROUP]
    if not (ctf.any() or size.any() or image.any() or moved.any()):
        return _with_optics_as_it_was(star, old, table)
    named, new_name = _moved_groups(old, moved, table)
    kinds = kinds_of_rows([old.group, native.group, named, new_name, size, ctf, image])
    _, first, index = np.unique(kinds, return_index=True, return_inverse=True)
    rows = []
    for i in first.tolist():
        now = {tag: texts[native.group[i]] for tag, texts in native.optics.items()}
        row = {tag: texts[old.group[i] if is_ctf_tag(tag) else named[i]] for tag, texts in old.optics.items()}
        if new_name[i] >= 0:
            row |= {GROUP_NAME: f"exp_group_{new_name[i]}", GROUP: "0"}
        for tag in (*now, *old.optics):
            if tag in IMAGE_FLAGS and tag in old.optics:
                row[tag] = now.get(tag, "0") if image[i] else row[tag]
            elif is_ctf_tag(tag) and ctf[i]:
                was = row.pop(tag, None)
                if tag in now and (was is not None or tag not in star.columns):
                    row[tag] = was if was is not None and _same_number(was, now[tag]) else now[tag]
            elif topic_of_tag(tag) is Topic.IMAGE and tag in old.optics:
                row[tag] = now.get(tag, row[tag]) if size[i] else old.optics[tag][old.group[i]]
        rows.append(row)
    said = {tag for row in rows for tag in row}
    rows += [{tag: text for tag, text in row.items() if tag in said} for row in _unused(table).values()]
    groups, place_of = unique_groups(rows)
    tags = list(dict.fromkeys(tag for row in groups for tag in row))
    optics = {tag: [_told(row, tag) for row in groups] for tag in tags}
    group = np.array(place_of, np.intp)[index]
    return replace(star, optics=optics, group=group, columns=_grouped(star, optics, group))


def _with_optics_as_it_was(star: Star, old: Star, table: Table) -> Star:
    """data_optics as it was, the groups without particles in their places; of joined tables only where all have one."""
    unused = _unused(table)
    rows = table[OPTICS_ROW].tolist() if OPTICS_ROW in (table.dtype.names or ()) else []
    order = sorted({*unused, *rows})
    of_unused = {tag: {_told(group, tag) for group in unused.values()} for tag in (GROUP, GROUP_NAME)}
    numbers = {number(text) for text in of_unused[GROUP]}
    taken = not numbers.isdisjoint(map(number, old.optics.get(GROUP, ())))
    taken |= not of_unused[GROUP_NAME].isdisjoint(old.optics.get(GROUP_NAME, ()))
    if not unused or taken or len(order) != group_count(old.optics) + len(unused):
        return replace(star, optics=old.optics, group=old.group, columns=_as_written(star, old))
    place = {row: i for i, row in enumerate(sorted(set(rows)))}
    optics = {
        tag: [_told(unused[row], tag) if row in unused else texts[place[row]] for row in order]
        for tag, texts in old.optics.items()
    }
    at = {row: i for i, row in enumerate(order)}
    group = np.array([at[row] for row in rows], np.intp)
    return replace(star, optics=optics, group=group, columns=_as_written(star, old))


def _told(group: Mapping[str, str], tag: str) -> str:
    """What a row of data_optics says, also where it does not have the column."""
    return group.get(tag, OPTICS_NEUTRAL.get(tag, "0"))


def _same_number(one: str, other: str) -> bool:
    return is_number(one) and is_number(other) and np.float32(one) == np.float32(other)


def _moved_groups(old: Star, moved: Mask, table: Table) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
    """The old group that names each row's group, and the number for a new name; -1 where it needs none.

    A row whose exposure group is another one joins the optics group of the rows that had this one before.
    """
    named, new_name = old.group.copy(), np.full(len(table), -1, np.int64)
    field = _exposure_group(table.dtype.names or ())
    if not field:
        return named, new_name
    ids = table[field[0]].astype(np.int64)
    for own in np.unique(ids[moved]).tolist():
        rows = moved & (ids == own)
        before = old.group[~moved & (ids == own)]
        if len(before):
            named[rows] = before[0]
        else:
            new_name[rows] = own
    return named, new_name


def _different_size(native: Star, old: Star) -> Mask:
    differs = np.zeros(len(native), np.bool_)
    for tag in ("_rlnImagePixelSize", "_rlnImageSize"):
        differs |= native.of_group(tag).astype(np.float32) != old.of_group(tag).astype(np.float32)
    return differs


def _grouped(star: Star, optics: Mapping[str, Texts], group: NDArray[np.intp]) -> dict[str, Texts]:
    return star.columns | {GROUP: [optics[GROUP][g] for g in group.tolist()]}


def _as_written(star: Star, old: Star) -> dict[str, Texts]:
    """The columns, with the group of each row in the digits that it had."""
    numbers = [old.optics[GROUP][g] for g in old.group.tolist()]
    written = old.columns.get(GROUP, numbers)
    return star.columns | {GROUP: [w if float(w) == float(n) else n for w, n in zip(written, numbers, strict=True)]}


def _unused(table: Table) -> dict[int, dict[str, str]]:
    told = dict.fromkeys(exact(table[UNUSED]) if UNUSED in (table.dtype.names or ()) else [])
    found: dict[int, dict[str, str]] = {}
    try:
        for groups in (json.loads(text) for text in told if text):
            for row, values in groups.items():
                found.setdefault(int(row), {str(tag): str(text) for tag, text in values.items()})
    except (ValueError, AttributeError, TypeError):
        return {}
    return dict(sorted(found.items()))
