"""Several tables of picks as one: rows appended, columns united, half-sets dropped where only some have them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryobox.errors import InputError
from cryobox.formats.columns import CTF_FIELDS
from cryobox.formats.cs_table import Table as CsTable
from cryobox.formats.ctf import DEFOCUS_FIELD
from cryobox.formats.star import join_tables
from cryobox.formats.star_optics import StarTable
from cryobox.formats.star_table import Table as StarRows
from cryobox.formats.star_text import listed
from cryobox.particles import Alignment, Particles

__all__ = ["join_particles", "unite_rows"]

_NAME = "_rlnMicrographName"
_IMAGE = "_rlnImageName"
_HALF_SETS = "_rlnRandomSubset"
_GROUP_ID = "ctf/exp_group_id"
# What makes an exposure group of a `.cs`.
_OPTICS = (
    "ctf/accel_kv", "ctf/cs_mm", "ctf/amp_contrast",
    *(f"ctf/{name}" for name, (width, _) in CTF_FIELDS.items() if width),
)  # fmt: skip


def join_particles(parts: Sequence[Particles]) -> Particles:
    """Append tables of picks, in the order given.

    A micrograph that several of them name stands several times in `micrograph_names`, once for each: their names, uids
    and grids may differ.

    Raises
    ------
    InputError
        If they are of different families, a particle is in two of them, or their columns cannot be united.
    """
    if len(parts) == 1:
        return parts[0]
    families: dict[str, str] = {}
    for part in parts:
        families.setdefault(part.family, part.source)
    if len(families) > 1:
        kinds = ", ".join(f"{source} {_FAMILIES[family]}" for family, source in families.items())
        raise InputError(
            f"picks of different kinds cannot be joined: {kinds}; extract them apart, or bring all into one form with "
            f"cryobox convert"
        )
    source = listed([part.source for part in parts], 3)
    warnings = tuple(text for part in parts for text in part.warnings)
    table: Any = None
    if any(part.row is not None for part in parts):
        raise ValueError("tables are joined before picks are taken of them")
    lacks_ctf: NDArray[np.bool_] | None = None
    if parts[0].family == "star":
        table, alignments, notes = _join_star(source, parts)
    elif parts[0].family == "cs":
        table, lacks_ctf, alignments, notes = _join_cs(source, parts)
    else:
        alignments, notes = (), ()
    offsets = np.cumsum([0, *(len(part.micrograph_names) for part in parts)])
    names = tuple(name for part in parts for name in part.micrograph_names)
    return Particles(
        family=parts[0].family,
        source=source,
        y=np.concatenate([part.y for part in parts]),
        x=np.concatenate([part.x for part in parts]),
        micrograph=np.concatenate([part.micrograph + at for part, at in zip(parts, offsets.tolist(), strict=False)]),
        micrograph_names=names,
        micrograph_uids=_filled([p.micrograph_uids for p in parts], _names(parts), np.uint64(0)),
        from_fractions=parts[0].from_fractions,
        grid_shape=_filled([p.grid_shape for p in parts], [(n, 2) for n in _names(parts)], np.int64(0)),
        grid_pixel_size=_filled([p.grid_pixel_size for p in parts], _names(parts), np.nan),
        exact=_filled([p.exact for p in parts], [len(p) for p in parts], np.False_),
        score=_filled([p.score for p in parts], [len(p) for p in parts], np.nan),
        alignments=alignments,
        copy_of=_join_copies(parts),
        lacks_ctf=lacks_ctf,
        tube=_filled([p.tube for p in parts], [len(p) for p in parts], np.int64(0)),
        psi=_filled([p.psi for p in parts], [len(p) for p in parts], np.nan),
        unread={
            name + at: why for p, at in zip(parts, offsets.tolist(), strict=False) for name, why in p.unread.items()
        },
        table=table,
        warnings=(*warnings, *notes),
    )


_FAMILIES = {"star": "is a STAR table", "cs": "is a CryoSPARC table", "plain": "has plain coordinates"}


def _names(parts: Sequence[Particles]) -> list[int]:
    return [len(part.micrograph_names) for part in parts]


def _filled(columns: Sequence[NDArray[Any] | None], shapes: Sequence[Any], value: Any) -> NDArray[Any] | None:
    """Columns under each other, `value` where one is missing; None where all are."""
    if all(column is None for column in columns):
        return None
    return np.concatenate(
        [np.full(shape, value) if column is None else column for column, shape in zip(columns, shapes, strict=True)]
    )


def _join_copies(parts: Sequence[Particles]) -> NDArray[np.int64] | None:
    """Codes of copies, those of each table apart."""
    if all(part.copy_of is None for part in parts):
        return None
    found, used = [], 0
    for part in parts:
        codes = np.full(len(part), -1, np.int64) if part.copy_of is None else part.copy_of
        found.append(np.where(codes < 0, -1, codes + used))
        used = max(used, int(found[-1].max(initial=-1)) + 1)
    return np.concatenate(found)


# STAR ----------------------------------------------------------------------------------------------------------------


def _join_star(source: str, parts: Sequence[Particles]) -> tuple[StarTable, tuple[Alignment, ...], tuple[str, ...]]:
    stars: list[StarTable] = [part.table for part in parts]
    _check_images(parts)
    notes: list[str] = []
    lacking = [part.source for part, star in zip(parts, stars, strict=True) if _HALF_SETS not in star.table]
    if 0 < len(lacking) < len(parts):
        stars = [_without(star, _HALF_SETS) for star in stars]
        notes.append(f"{source}: {_HALF_SETS.removeprefix('_')} (half-sets) is left out, since {lacking[0]} has none")
    if 0 < sum(_NAME in star.table for star in stars) < len(stars):
        stars = [_without(star, _NAME) for star in stars]  # the names are known without it
    joined, said = join_tables(source, stars)
    blocks: dict[bytes, bytes] = {}
    for raw in (raw for star in stars for raw in star.others):
        title = raw.split(maxsplit=1)[0]
        if blocks.setdefault(title, raw) != raw:
            notes += [f"{source}: {title.decode('utf-8', 'replace')} is not the same in all of them; the first is kept"]
    return replace(joined, others=tuple(blocks.values())), _join_origins(parts), (*notes, *said)


def _check_images(parts: Sequence[Particles]) -> None:
    """A particle of two tables would be extracted twice."""
    owner: dict[bytes, Particles] = {}
    for part in parts:
        rows: StarRows = part.table.table
        for image in dict.fromkeys(rows.raw(_IMAGE)) if _IMAGE in rows else ():
            if owner.setdefault(image, part) is not part:
                name = image.decode("utf-8", "replace")
                raise InputError(
                    f"{part.source}: {name} is in {owner[image].source}, too; a particle must be in one of the tables"
                )


def _join_origins(parts: Sequence[Particles]) -> tuple[Alignment, ...]:
    """The origins of all rows, 0 where a table has none."""
    found = [part.alignments[0] if part.alignments else None for part in parts]
    if all(alignment is None for alignment in found):
        return ()
    n = [len(part) for part in parts]
    shift = _filled([None if a is None else a.shift for a in found], [(k, 2) for k in n], 0.0)
    pixel_size = _filled([None if a is None else a.pixel_size for a in found], n, 1.0)
    assert shift is not None
    assert pixel_size is not None
    return (Alignment(name="origin", kind="3d", shift=shift, pixel_size=pixel_size),)


def _without(star: StarTable, tag: str) -> StarTable:
    """The table without a column."""
    table = star.table
    if tag not in table:
        return star
    column = table.tags.index(tag)
    return replace(
        star,
        table=replace(
            table,
            tags=tuple(other for other in table.tags if other != tag),
            starts=np.delete(table.starts, column, axis=1),
            lengths=np.delete(table.lengths, column, axis=1),
            adjacent=False,
        ),
    )


# CryoSPARC -----------------------------------------------------------------------------------------------------------


def _join_cs(
    source: str, parts: Sequence[Particles]
) -> tuple[CsTable, NDArray[np.bool_] | None, tuple[Alignment, ...], tuple[str, ...]]:
    from cryobox.formats.cs import alignments_of

    tables: list[CsTable] = [part.table for part in parts]
    sources = [part.source for part in parts]
    _check_uids(sources, tables)
    fields = list(dict.fromkeys(field for table in tables for field in table.dtype.names or ()))
    has = {field: [field in (table.dtype.names or ()) for table in tables] for field in fields}
    some = [field for field in fields if not all(has[field])]
    notes: list[str] = []
    if halves := [field for field in some if field.endswith("/split")]:
        without = sources[has[halves[0]].index(False)]
        notes.append(f"{source}: {', '.join(halves)} (half-sets) left out, since {without} has none")
        fields = [field for field in fields if field not in halves]
        some = [field for field in some if field not in halves]
    anew = ("blob/", "ctf/") if DEFOCUS_FIELD in some else ("blob/",)  # rows without a CTF get their micrograph's
    if apart := [field for field in some if not field.startswith(anew)]:
        notes.append(f"{source}: not every table has {listed(apart, 10)}; written as 0 where it is missing")
    joined = _unite(fields, sources, tables)
    lacks = None
    if DEFOCUS_FIELD in some:
        lacks = np.repeat(np.logical_not(has[DEFOCUS_FIELD]), [len(table) for table in tables])
        joined[DEFOCUS_FIELD][lacks] = np.nan  # where a row is left out, this is all that says so
    notes += _part_groups(source, sources, joined, [len(table) for table in tables])
    return joined, lacks, alignments_of(source, joined), tuple(notes)


def unite_rows(first_where: NDArray[np.bool_], first: CsTable, second: CsTable) -> CsTable:
    """Rows of two tables in one: those of `first` where the mask says so, those of `second` elsewhere.

    Columns that only one has are 0 in the other. Exposure groups of one number stay apart where their optics differ.
    """
    tables, sources = (first, second), ("the picks", "the micrographs")
    fields = list(dict.fromkeys(field for table in tables for field in table.dtype.names or ()))
    joined = _unite(fields, sources, tables)
    _part_groups("", sources, joined, [len(first), len(second)])
    order = np.argsort(np.concatenate([np.flatnonzero(first_where), np.flatnonzero(~first_where)]))
    rows: CsTable = joined[order]
    return rows


def _unite(fields: Sequence[str], sources: Sequence[str], tables: Sequence[CsTable]) -> CsTable:
    """The tables under each other."""
    joined = np.zeros(sum(map(len, tables)), dtype=[(field, _common(field, sources, tables)) for field in fields])
    at = 0
    for table in tables:
        for field in fields:
            if field in (table.dtype.names or ()):
                joined[field][at : at + len(table)] = _as_kind(table[field], joined.dtype[field])
        at += len(table)
    return joined


def _check_uids(sources: Sequence[str], tables: Sequence[CsTable]) -> None:
    owners: list[NDArray[np.intp]] = []
    for source, table in zip(sources, tables, strict=True):
        if "uid" not in (table.dtype.names or ()) or table.dtype["uid"].kind not in "iu" or table.dtype["uid"].shape:
            raise InputError(f"{source}: has no column uid, without which rows of several tables cannot be told apart")
        owners.append(np.full(len(table), len(owners), np.intp))
    uids = np.concatenate([table["uid"].astype(np.uint64) for table in tables])
    owner = np.concatenate(owners)
    order = np.argsort(uids, kind="stable")
    same = np.flatnonzero((uids[order][1:] == uids[order][:-1]) & (uids[order][1:] != 0))
    if len(same):
        one, two = order[same[0]], order[same[0] + 1]
        first, second = sources[owner[one]], sources[owner[two]]
        where = f"twice in {first}" if first == second else f"in {first}, too"
        raise InputError(
            f"{second}: uid {uids[two]} is {where} ({len(same)} such uids); a particle must be in one of the tables, "
            f"once"
        )


def _common(field: str, sources: Sequence[str], tables: Sequence[CsTable]) -> np.dtype[Any]:
    """A type that holds the column of every table."""
    of = [
        (source, table.dtype[field])
        for source, table in zip(sources, tables, strict=True)
        if field in (table.dtype.names or ())
    ]
    first_source, first = of[0]
    kind = first.base
    for source, dtype in of[1:]:
        both = {kind.kind, dtype.base.kind}
        if both <= {"S", "U"}:  # four bytes are enough for any letter
            found = np.dtype(f"S{max(kind.itemsize, dtype.base.itemsize)}")
        else:
            found = np.promote_types(kind, dtype.base)
        # Integers that only a float would hold both of would lose digits.
        if (
            dtype.shape != first.shape
            or found.kind not in both | {"S"}
            or (found.kind == "S" and not both <= {"S", "U"})
        ):
            raise InputError(f"{source}: column {field!r} holds {dtype}, in {first_source} {first}; extract them apart")
        kind = found
    return np.dtype((kind, first.shape))


def _part_groups(source: str, sources: Sequence[str], joined: CsTable, lengths: Sequence[int]) -> list[str]:
    """Exposure groups of one number in several tables stay apart where anything that makes a group differs."""
    names = joined.dtype.names or ()
    if _GROUP_ID not in names or joined.dtype[_GROUP_ID].kind not in "iu" or joined.dtype[_GROUP_ID].shape:
        return []
    fields = [field for field in _OPTICS if field in names]
    known: dict[int, tuple[bytes, str]] = {}
    notes: list[str] = []
    free = int(joined[_GROUP_ID].max(initial=0)) + 1
    at = 0
    for name, length in zip(sources, lengths, strict=True):
        rows = joined[at : at + length]
        ids = rows[_GROUP_ID].astype(np.int64)
        new = ids.copy()
        for number in np.unique(ids).tolist():
            optics = _distinct_rows(rows[ids == number], fields)
            other, first = known.setdefault(number, (optics, name))
            if other != optics:
                notes.append(
                    f"{source}: exposure group {number} of {name} has other optics than that of {first}; it is group "
                    f"{free} here"
                )
                new[ids == number] = free
                known[free] = optics, name
                free += 1
        rows[_GROUP_ID] = new
        at += length
    return notes


def _distinct_rows(rows: CsTable, fields: Sequence[str]) -> bytes:
    """The distinct combinations of values in some columns, as bytes that are equal where these are."""
    if not fields:
        return b""
    packed = np.empty(len(rows), dtype=[(field, rows.dtype[field]) for field in fields])
    for field in fields:
        packed[field] = rows[field]
    return np.unique(packed.view(f"V{packed.dtype.itemsize}")).tobytes()


def _as_kind(column: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """A column of text as bytes where the joined one is that."""
    if column.dtype.kind == "U" and dtype.base.kind == "S":
        return np.char.encode(column, "utf-8", "surrogateescape")
    return column
