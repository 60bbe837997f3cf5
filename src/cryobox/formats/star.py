"""RELION's tables, 3.0 to 5, read: picks, coordinate files and micrographs, foreign columns untouched."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryobox.errors import InputError
from cryobox.formats.columns import (
    CTF_NEUTRAL,
    EXACT_CENTER,
    is_ctf_tag,
)
from cryobox.formats.ctf import DEFOCUS
from cryobox.formats.star_optics import (
    GROUP,
    MICROGRAPH_PIXEL,
    StarTable,
    group_of_rows,
    image_pixel_size,
    micrograph_optics,
    rows_of_picks,
)
from cryobox.formats.star_picks import (
    COORDINATE_FILE,
    COORDINATES,
    NOT_KNOWN,
    check_flat,
    check_pair,
    find_picks,
    is_blank,
)
from cryobox.formats.star_table import Block, Codes, Floats, Table, read_blocks
from cryobox.formats.star_tags import (
    DEPTH,
    DROPPED_30,
    ENDS_FOLDER,
    FILLED,
    IMAGE,
    MADE_ANEW,
    NAME,
    NO_SCORE,
    ORIGINS,
    ORIGINS_30,
    SCORE,
    TUBE,
)
from cryobox.formats.star_text import listed
from cryobox.formats.traced import Traced, traces_of
from cryobox.groups import Helix
from cryobox.micrograph import Micrographs
from cryobox.particles import Alignment, Particles
from cryobox.paths import Start, find_file

__all__ = [
    "StarTable",
    "join_coordinates",
    "join_tables",
    "names_in",
    "read_coordinates",
    "read_micrographs",
    "read_particles",
    "table_with",
    "warn_of_blank",
]

_EXACT = EXACT_CENTER.tag

# y, x, score (or None) of one micrograph's picks; and their STAR table, or what a file of filaments says, or None
PicksOfOne = tuple[Floats, Floats, Floats | None, StarTable | Traced | None]


def table_with(
    path: str | Path, blocks: Mapping[str, Block], preferred: tuple[str, ...], wanted: tuple[str, ...]
) -> StarTable:
    """The block that holds one of the columns `wanted`, looking at `preferred` names first.

    Raises
    ------
    InputError
        If there is none.
    """
    names = [name for name in preferred if name in blocks]
    names += [name for name in blocks if name not in names and name not in ("optics", "general")]
    seen: list[str] = []
    for name in names:
        table = blocks[name].table()
        if any(tag in table for tag in wanted):
            break
        seen.append(f"data_{name}: {listed(table.tags)}")
    else:
        raise InputError(
            f"{path}: no block has a column {' or '.join(wanted)}; columns present: "
            f"{listed(seen, 5) if seen else 'none, for there is no block of rows'}"
        )
    return _with_optics(table, blocks)


def _open_picks(path: str | Path, helix: Helix | None = None) -> StarTable:
    """Read the block that holds picks or lists coordinate files; a table without columns where there is no pick."""
    if Path(path).absolute().parent.name == ENDS_FOLDER and helix not in ("ends", "whole"):
        raise InputError(
            f"{path}: lies in a folder {ENDS_FOLDER}, in which crYOLO puts the two ends of each filament, and these "
            "are no particles; give --helix ends, or crYOLO's .cbox"
        )
    blocks = read_blocks(path, may_be_empty=True)
    table = find_picks(str(path), blocks)
    if table is None:
        nothing = np.zeros((0, 0), np.int64)
        return StarTable(table=Table(path=str(path), block="", data=b"", tags=(), starts=nothing, lengths=nothing))
    return _with_optics(table, blocks)


def _with_optics(table: Table, blocks: Mapping[str, Block]) -> StarTable:
    # Without an empty data_particles, which would stand in the output beside the full one.
    others = tuple(
        block.raw
        for block in blocks.values()
        if block.name not in ("optics", table.block) and not (block.name == "particles" and is_blank(block))
    )
    if "optics" not in blocks or not (blocks["optics"].tags() or (len(table) and GROUP in table)):
        return StarTable(table=table, others=others)
    groups = blocks["optics"].table()
    groups.require(GROUP)
    optics = tuple(groups.row(i) for i in range(len(groups)))
    group = np.zeros(len(table), np.intp) if len(optics) == 1 else None
    if GROUP in table:
        group = group_of_rows(table, optics)
    return StarTable(table=table, optics=optics, group=group, others=others, optics_raw=blocks["optics"].raw)


def read_particles(path: str | Path, *, start: Start | None = None, helix: Helix | None = None) -> Particles:
    """Read particles or coordinates; a list of coordinate files is followed into its files.

    Parameters
    ----------
    path : path
        A table with rlnCoordinateX/Y, or one with rlnMicrographName and rlnMicrographCoordinates. A table without
        rlnMicrographName belongs to one micrograph, called as the file is. A file without anything is one without
        picks.
    start : Start, optional
        Where relative coordinate files are looked for.
    helix : {"ends", "segments", "whole"}, optional
        What is wanted of files of filaments.

    Raises
    ------
    InputError
        If the table cannot be used; the message says what is missing, or what the file is instead.
    """
    star = _open_picks(path, helix)
    table = star.table
    if COORDINATE_FILE in table and not any(tag in table for tag in COORDINATES):
        return _follow_list(path, star, start or Start.here(), helix)
    y, x, score = _columns_of_picks(table)
    if NAME in table:
        micrograph, names = table.codes(NAME)
    else:
        micrograph, names = np.zeros(len(table), np.intp), [Path(path).stem]
    return Particles(
        family="star",
        source=str(path),
        y=y,
        x=x,
        micrograph=micrograph,
        micrograph_names=tuple(names),
        exact=_exact(star),
        score=score,
        alignments=_alignments(star),
        copy_of=_copies(table) if IMAGE in table else None,
        table=star,
    )


def _exact(star: StarTable) -> NDArray[np.bool_] | None:
    """Rows whose position an earlier run wrote with its fraction."""
    return star.table.floats(_EXACT) > 0 if _EXACT in star.table else None


def _columns_of_picks(table: Table) -> tuple[Floats, Floats, Floats | None]:
    """y, x and score (or None) of a table of picks, which may be without anything."""
    if not table.tags:
        return np.empty(0), np.empty(0), None
    table.require(*COORDINATES)
    for pair in (ORIGINS, ORIGINS_30):
        check_pair(table, pair)
    if DEPTH in table:
        check_flat(table.path, DEPTH, table.floats(DEPTH, missing=NOT_KNOWN))
    y, x = (table.floats(tag) for tag in COORDINATES)
    if SCORE not in table:
        return y, x, None
    score = table.floats(SCORE)
    return y, x, np.where(score == NO_SCORE, np.nan, score)


def _alignments(star: StarTable) -> tuple[Alignment, ...]:
    """The origins of a table: in Å since 3.1, in pixels of the particle images before."""
    table = star.table
    if all(tag in table for tag in ORIGINS):
        tags, pixel_size = ORIGINS, np.ones(len(table))
    elif all(tag in table for tag in ORIGINS_30):
        tags, pixel_size = ORIGINS_30, image_pixel_size(star)
    else:
        return ()
    shift = np.column_stack([table.floats(tag) for tag in tags])
    unknown = np.isnan(pixel_size)
    lost = unknown & (shift != 0).any(axis=1)
    if lost.any():
        raise InputError(
            f"{table.path}: data_{table.block}, row {int(np.flatnonzero(lost)[0]) + 1}: {tags[1]} is in pixels, and "
            "neither _rlnDetectorPixelSize and _rlnMagnification nor _rlnImagePixelSize say how large they are; "
            "add them, or remove the origins"
        )
    return (Alignment(name="origin", kind="3d", shift=shift, pixel_size=np.where(unknown, 1.0, pixel_size)),)


def _copies(table: Table) -> NDArray[np.int64] | None:
    """Equal codes for rows of one image; None where no image occurs twice."""
    # Hashes first: a million names would cost 150 MB to compare, and hardly any table has copies.
    hashes = np.fromiter(map(hash, table.raw(IMAGE)), np.int64, len(table))
    _, inverse, counts = np.unique(hashes, return_inverse=True, return_counts=True)
    rows = np.flatnonzero(counts[inverse] > 1)
    if not len(rows):
        return None
    column = table.tags.index(IMAGE)
    places: dict[bytes, list[int]] = {}
    for row, where in zip(rows.tolist(), table.slices(column, column, rows), strict=True):
        places.setdefault(table.data[where], []).append(row)
    copy_of = np.full(len(table), -1, np.int64)
    for code, same in enumerate(same for same in places.values() if len(same) > 1):
        copy_of[same] = code
    return copy_of if (copy_of >= 0).any() else None


def read_coordinates(
    path: str | Path, *, helix: Helix | None = None
) -> tuple[Floats, Floats, Floats | None, StarTable]:
    """Read the coordinates of one micrograph: y, x, score (or None) and the table."""
    star = _open_picks(path, helix)
    table = star.table
    if COORDINATE_FILE in table and not any(tag in table for tag in COORDINATES):
        raise InputError(
            f"{path}: is a list of coordinate files, expected coordinates of one micrograph; name this file itself as "
            "the picks"
        )
    return *_columns_of_picks(table), star


def names_in(star: StarTable) -> list[str]:
    """The distinct micrographs that the rows of a table name; none where they do not."""
    return star.table.codes(NAME)[1] if NAME in star.table else []


def _follow_list(path: str | Path, star: StarTable, start: Start, helix: Helix | None) -> Particles:
    from cryobox.formats import plain_stems, read_coordinate_file

    star.table.require(NAME, COORDINATE_FILE)
    names = star.table.texts(NAME)
    _check_distinct(star.table, names, "one coordinate file per micrograph")
    places = start.places(Path(path))
    files = [find_file(name, places) for name in star.table.texts(COORDINATE_FILE)]
    missing = {i: f"{file}: no such file of coordinates" for i, file in enumerate(files) if not os.path.isfile(file)}
    if missing and len(missing) == len(files):
        raise InputError(
            f"{path}: none of its {len(files)} coordinate files exists, for example {files[0]}; relative names start "
            "from the working directory or --root"
        )
    none: PicksOfOne = (np.empty(0), np.empty(0), None, None)
    known = frozenset(plain_stems(names))
    parts = [
        none if i in missing else read_coordinate_file(file, owner=name, known=known, helix=helix)
        for i, (file, name) in enumerate(zip(files, names, strict=True))
    ]
    found = replace(join_coordinates(str(path), names, parts, warn_of_blank(str(path), files)), unread=missing)
    if missing:
        some = listed([files[i] for i in missing], 5)
        note = (
            f"{path}: {len(missing)} of {len(files)} coordinate files do not exist, and cost their micrographs: {some}"
        )
        found = replace(found, warnings=(note, *found.warnings))
    return found


def warn_of_blank(source: str, files: Sequence[str | Path]) -> tuple[str, ...]:
    """A warning that names the files of 0 bytes: pickers write such where they found nothing, and so do full disks."""
    blank = [str(file) for file in files if os.path.isfile(file) and os.path.getsize(file) == 0]
    if not blank:
        return ()
    return (
        f"{source}: {len(blank)} of {len(files)} coordinate files hold 0 bytes, that is no picks: {listed(blank, 5)}",
    )


def join_coordinates(
    source: str,
    names: Sequence[str],
    parts: Sequence[PicksOfOne],
    warnings: tuple[str, ...] = (),
) -> Particles:
    """Make one set of particles of per-micrograph coordinates; `parts[i]` are the picks of micrograph `names[i]`."""
    scored = any(score is not None for _, _, score, _ in parts)
    scores = [np.full(len(y), np.nan) if score is None else score for y, _, score, _ in parts]
    # A file without picks has nothing to say of the others' columns.
    filled = [more for y, _, _, more in parts if len(y)] or [more for *_, more in parts]
    tables = [more for more in filled if isinstance(more, StarTable)]
    star = None
    if tables and len(tables) < len(filled):
        raise InputError(
            f"{source}: lists STAR files, {tables[0].table.path} for example, and coordinate files of other kinds, "
            "which have no columns for what STAR files say of a pick; extract them apart"
        )
    if tables:
        star, note = join_tables(source, tables)
        warnings = (*warnings, *note)
    tube, psi = _join_tubes(parts)
    if tube is not None and (alone := int((tube == 0).sum())):
        warnings = (*warnings, f"{source}: {alone} of {len(tube)} picks belong to no filament: their {TUBE[1:]} is 0")
    return Particles(
        family="star" if star is not None else "plain",
        source=source,
        y=np.concatenate([np.empty(0), *(part[0] for part in parts)]),
        x=np.concatenate([np.empty(0), *(part[1] for part in parts)]),
        micrograph=np.repeat(np.arange(len(parts), dtype=np.intp), [len(part[0]) for part in parts]),
        micrograph_names=tuple(names),
        exact=None if star is None else _exact(star),
        score=np.concatenate([np.empty(0), *scores]) if scored else None,
        tube=tube,
        psi=psi,
        alignments=_alignments(star) if star is not None else (),
        table=star,
        warnings=warnings,
    )


def _check_origin_units(stars: Sequence[StarTable]) -> None:
    units: dict[str, str | Path] = {}
    for table in (star.table for star in stars):
        for tags in (ORIGINS, ORIGINS_30):
            if all(tag in table for tag in tags):
                units.setdefault(tags[1], table.path)
                break
    if len(units) > 1:
        said = " and ".join(f"{path} has {tag.removeprefix('_')}" for tag, path in units.items())
        raise InputError(f"{said}: origins in Å and in pixels cannot stand in one table; extract them apart")


def _join_tubes(parts: Sequence[PicksOfOne]) -> tuple[NDArray[np.int64] | None, Floats | None]:
    """The filament of each pick, 0 where a file does not say, and its direction; None where no file says it."""
    traced = [more if isinstance(more, Traced) else None for *_, more in parts]
    if all(one is None for one in traced):
        return None, None
    return traces_of(traced, [len(y) for y, *_ in parts])


def join_tables(source: str, stars: Sequence[StarTable]) -> tuple[StarTable, tuple[str, ...]]:
    """Put the rows of several files under each other; a column that a file lacks is 0 there, as RELION has it.

    (What means nothing is 1 for the scale factor of a CTF, and -999 for a score.)

    Raises
    ------
    InputError
        If origins are in Å in some and in pixels in others, or picks lie at several depths.
    """
    _check_origin_units(stars)
    deep = [star.table.floats(DEPTH, missing=NOT_KNOWN) for star in stars if DEPTH in star.table]
    check_flat(source, DEPTH, np.concatenate([np.empty(0), *deep]))
    tags = tuple(dict.fromkeys(tag for star in stars for tag in star.table.tags))
    filler = b" 0 1 %d " % NO_SCORE
    data = filler + b"\n".join(star.table.data for star in stars)
    starts, lengths = [], []
    lacking: set[str] = set()
    anew = MADE_ANEW if all(star.optics for star in stars) else MADE_ANEW | DROPPED_30
    begin = len(filler)
    for star in stars:
        table = star.table
        place = np.ones((len(table), len(tags)), np.int64)  # byte 1 of `data` is the 0
        length = np.ones((len(table), len(tags)), np.uint32)
        for i, tag in enumerate(tags):
            if tag in table:
                column = table.tags.index(tag)
                place[:, i] = table.starts[:, column].astype(np.int64) + begin
                length[:, i] = table.lengths[:, column]
            elif len(table):
                place[:, i], length[:, i] = FILLED.get(tag, (1, 1))
                if tag not in anew and (DEFOCUS in table or not is_ctf_tag(tag)):
                    lacking.add(tag)  # others are written anew, or come from the micrograph
        starts.append(place)
        lengths.append(length)
        begin += len(table.data) + 1
    adjacent = all(star.table.adjacent and star.table.tags == tags for star in stars)
    table = Table(
        path=source,
        block="",
        data=data,
        tags=tags,
        starts=np.concatenate(starts),
        lengths=np.concatenate(lengths),
        adjacent=adjacent,
    )
    without = np.concatenate(
        [
            np.full(len(star.table), DEFOCUS not in star.table) if star.lacks_defocus is None else star.lacks_defocus
            for star in stars
        ]
    )
    optics, group = _join_optics(stars)
    joined = StarTable(
        table=table,
        optics=optics,
        group=group,
        lacks_defocus=without if 0 < without.sum() < len(without) else None,
        in_rows=_join_values(stars),
    )
    note = f"{source}: not every file has {', '.join(sorted(lacking))}; written as 0 where it is missing"
    return joined, (note,) if lacking else ()


def _join_optics(stars: Sequence[StarTable]) -> tuple[tuple[dict[str, str], ...], Codes | None]:
    """The optics groups of several files, equal ones once."""
    known: dict[tuple[tuple[str, str], ...], int] = {}
    optics: list[dict[str, str]] = []
    groups = []
    for star in stars:
        place = np.zeros(len(star.optics), np.intp)
        for i, row in enumerate(star.optics):
            place[i] = known.setdefault(tuple(sorted(row.items())), len(known))
            if place[i] == len(optics):
                optics.append(row)
        groups.append(np.full(len(star.table), -1, np.intp) if star.group is None else place[star.group])
    return tuple(optics), np.concatenate(groups) if optics else None


def _join_values(stars: Sequence[StarTable]) -> tuple[list[dict[str, str]], Codes]:
    """What the rows of each file say of their optics themselves; a column that a file lacks is not said there."""
    known: dict[tuple[tuple[str, str], ...], int] = {}
    values: list[dict[str, str]] = []
    index = [np.empty(0, np.intp)]
    for star in stars:
        own, of_row = rows_of_picks(star)
        place = np.zeros(len(own), np.intp)
        for i, row in enumerate(own):
            place[i] = known.setdefault(tuple(sorted(row.items())), len(known))
            if place[i] == len(values):
                values.append(row)
        index.append(place[of_row])
    return values, np.concatenate(index)


def read_micrographs(path: str | Path, *, start: Start | None = None) -> Micrographs:
    """Read a table of micrographs, with its optics groups and CTF values.

    The pixel size is rlnMicrographPixelSize of the optics group (or of the row), in 3.0-style files
    rlnDetectorPixelSize * 1e4 / rlnMagnification; nan where neither is there.
    """
    star = table_with(path, read_blocks(path), ("micrographs", "", "images"), (NAME,))
    table = star.table
    names = table.texts(NAME)
    _check_distinct(table, names, "each micrograph once (is this a table of particles?)")
    optics, optics_index = micrograph_optics(star)
    pixel_size = np.full(len(table), np.nan)
    if len(optics):
        pixel_size = np.append([group.pixel_size for group in optics], np.nan)[optics_index]
    if MICROGRAPH_PIXEL in table:
        pixel_size = table.floats(MICROGRAPH_PIXEL)
    places = (start or Start.here()).places(Path(path))
    return Micrographs(
        family="star",
        source=str(path),
        names=tuple(names),
        paths=tuple(find_file(name, places) for name in names),
        pixel_size=np.where(pixel_size > 0, pixel_size, np.nan),
        shape=np.zeros((len(table), 2), np.int64),
        optics=optics,
        optics_index=optics_index,
        ctf={name: table.floats(quantity.tag) for name, quantity in CTF_NEUTRAL.items() if quantity.tag in table},
        table=star,
    )


def _check_distinct(table: Table, names: Sequence[str], expected: str) -> None:
    first: dict[str, int] = {}
    for row, name in enumerate(names):
        if first.setdefault(name, row) != row:
            raise InputError(
                f"{table.path}: data_{table.block} lists {name} in rows {first[name] + 1} and {row + 1}; "
                f"expected {expected}"
            )
