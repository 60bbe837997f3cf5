"""RELION's tables, 3.0 to 5: picks and micrographs in, extracted particles out, foreign columns untouched."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from cryobox.errors import InputError, OptionError
from cryobox.formats.columns import (
    CTF_FILES,
    CTF_NEUTRAL,
    CTF_RESET,
    DETECTOR,
    IMAGE_FLAGS,
    MICROSCOPE,
    OPTICS_NEUTRAL,
    TILT_CLASS,
    UNRELATED_TAGS,
    is_ctf_tag,
)
from cryobox.formats.ctf import DEFOCUS, own_ctf
from cryobox.formats.mirroring import is_orientation, mirrored_optics, mirrored_rows
from cryobox.formats.star_optics import (
    GROUP,
    MICROGRAPH_PIXEL,
    OpticsGroups,
    StarTable,
    arrange_optics,
    group_of_rows,
    image_optics,
    micrograph_optics,
    row_pixel_size,
    rows_of_picks,
    unique_groups,
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
from cryobox.formats.star_table import (
    Block,
    Chosen,
    Codes,
    Floats,
    Lookup,
    Numbers,
    Piece,
    Run,
    Table,
    encode,
    encode_message,
    fixed,
    listed,
    number,
    read_blocks,
    write_loop,
)
from cryobox.micrograph import Micrographs
from cryobox.particles import Alignment, Extracted, Particles
from cryobox.paths import find_file, search_places

__all__ = [
    "StarTable",
    "join_coordinates",
    "join_tables",
    "names_in",
    "read_coordinates",
    "read_micrographs",
    "read_particles",
    "stack_suffix",
    "suffix",
    "warn_of_blank",
    "write_incomplete",
    "write_particles",
    "write_rejected",
]

# y, x, score (or None) of one micrograph's picks; and their STAR table, or the filament of each (0: of none), or None
PicksOfOne = tuple[Floats, Floats, Floats | None, StarTable | NDArray[np.int64] | None]

suffix = ".star"
stack_suffix = ".mrcs"  # RELION refuses stacks of any other name

_VERSION = b"\n# version 50001\n"
_NAME = "_rlnMicrographName"
_IMAGE = "_rlnImageName"
_SCORE = "_rlnAutopickFigureOfMerit"
_NO_SCORE = -999.0  # RELION's for a pick that has none
_TUBE = "_rlnHelicalTubeID"
_DEPTH = "_rlnCoordinateZ"
_ENDS_FOLDER = "STAR_START_END"  # nothing in such files says that their points are not particles
_REJECTED = "_cryoboxRejectReason"
_ORIGINS = ("_rlnOriginYAngst", "_rlnOriginXAngst")
_ORIGINS_30 = ("_rlnOriginY", "_rlnOriginX")

# What describes the images or the microscope of the input row by row: data_optics says it for the new images.
_DROPPED = frozenset(
    (
        *_ORIGINS_30,
        *MICROSCOPE,
        "_rlnMagnification",
        "_rlnDetectorPixelSize",
        "_rlnPixelSize",
        "_rlnImagePixelSize",
        "_rlnImageSize",
        "_rlnImageDimensionality",
        MICROGRAPH_PIXEL,
        *DETECTOR,
        *IMAGE_FLAGS,
        _REJECTED,
    )
)
# Since 3.1 data_optics says these of a particle, whatever 3.0-style rows say.
_DROPPED_30 = frozenset((*UNRELATED_TAGS, TILT_CLASS))
# What the output never takes over from rows, so that no 0 is written where a table lacks it.
_MADE_ANEW = (_DROPPED - {*_ORIGINS_30}) | {_IMAGE, _NAME, GROUP, _SCORE}
# Where a table lacks a column in which 0 would say something: begin and length of what stands there, in `filler`.
_FILLED = {"_rlnCtfScalefactor": (3, 1), _SCORE: (5, 4)}


def _open(path: str | Path, preferred: tuple[str, ...], wanted: tuple[str, ...]) -> StarTable:
    """Read the block that holds one of the columns `wanted`, looking at `preferred` names first."""
    blocks = read_blocks(path)
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


def _open_picks(path: str | Path) -> StarTable:
    """Read the block that holds picks or lists coordinate files; a table without columns where there is no pick."""
    if Path(path).absolute().parent.name == _ENDS_FOLDER:
        raise InputError(
            f"{path}: lies in a folder {_ENDS_FOLDER}, in which crYOLO puts the two ends of each filament, and these "
            "are no particles; give crYOLO's .cbox instead"
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


def read_particles(path: str | Path, *, root: Path | None = None) -> Particles:
    """Read particles or coordinates; a list of coordinate files is followed into its files.

    Parameters
    ----------
    path : path
        A table with rlnCoordinateX/Y, or one with rlnMicrographName and rlnMicrographCoordinates. A table without
        rlnMicrographName belongs to one micrograph, called as the file is. A file without anything is one without
        picks.
    root : Path, optional
        Where relative coordinate files are looked for.

    Raises
    ------
    InputError
        If the table cannot be used; the message says what is missing, or what the file is instead.
    """
    star = _open_picks(path)
    table = star.table
    if COORDINATE_FILE in table and not any(tag in table for tag in COORDINATES):
        return _follow_list(path, star, root)
    y, x, score = _columns_of_picks(table)
    if _NAME in table:
        micrograph, names = table.codes(_NAME)
    else:
        micrograph, names = np.zeros(len(table), np.intp), [Path(path).stem]
    return Particles(
        family="star",
        source=str(path),
        y=y,
        x=x,
        micrograph=micrograph,
        micrograph_names=tuple(names),
        score=score,
        alignments=_alignments(star),
        copy_of=_copies(table) if _IMAGE in table else None,
        table=star,
    )


def _columns_of_picks(table: Table) -> tuple[Floats, Floats, Floats | None]:
    """y, x and score (or None) of a table of picks, which may be without anything."""
    if not table.tags:
        return np.empty(0), np.empty(0), None
    table.require(*COORDINATES)
    for pair in (_ORIGINS, _ORIGINS_30):
        check_pair(table, pair)
    if _DEPTH in table:
        check_flat(table.path, _DEPTH, table.floats(_DEPTH, missing=NOT_KNOWN))
    y, x = (table.floats(tag) for tag in COORDINATES)
    if _SCORE not in table:
        return y, x, None
    score = table.floats(_SCORE)
    return y, x, np.where(score == _NO_SCORE, np.nan, score)


def _alignments(star: StarTable) -> tuple[Alignment, ...]:
    """The origins of a table: in Å since 3.1, in pixels of the particle images before."""
    table = star.table
    if all(tag in table for tag in _ORIGINS):
        tags, pixel_size = _ORIGINS, np.ones(len(table))
    elif all(tag in table for tag in _ORIGINS_30):
        tags, pixel_size = _ORIGINS_30, _image_pixel_size(star)
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


def _image_pixel_size(star: StarTable) -> Floats:
    """Å per pixel of the images of each row; nan where the file does not say."""
    table = star.table
    size = row_pixel_size(table)
    for tag in ("_rlnImagePixelSize", "_rlnPixelSize"):
        if tag in table:
            size = np.where(np.isnan(size), table.floats(tag), size)
    if star.group is not None:
        of_group = np.array([number(row.get("_rlnImagePixelSize")) for row in star.optics])
        size = np.where(np.isnan(size), of_group[star.group], size)
    return size


def _copies(table: Table) -> NDArray[np.int64] | None:
    """Equal codes for rows of one image; None where no image occurs twice."""
    # Hashes first: a million names would cost 150 MB to compare, and hardly any table has copies.
    hashes = np.fromiter(map(hash, table.raw(_IMAGE)), np.int64, len(table))
    _, inverse, counts = np.unique(hashes, return_inverse=True, return_counts=True)
    rows = np.flatnonzero(counts[inverse] > 1)
    if not len(rows):
        return None
    column = table.tags.index(_IMAGE)
    places: dict[bytes, list[int]] = {}
    for row, where in zip(rows.tolist(), table.slices(column, column, rows), strict=True):
        places.setdefault(table.data[where], []).append(row)
    copy_of = np.full(len(table), -1, np.int64)
    for code, same in enumerate(same for same in places.values() if len(same) > 1):
        copy_of[same] = code
    return copy_of if (copy_of >= 0).any() else None


def read_coordinates(path: str | Path) -> tuple[Floats, Floats, Floats | None, StarTable]:
    """Read the coordinates of one micrograph: y, x, score (or None) and the table."""
    star = _open_picks(path)
    table = star.table
    if COORDINATE_FILE in table and not any(tag in table for tag in COORDINATES):
        raise InputError(
            f"{path}: is a list of coordinate files, expected coordinates of one micrograph; name this file itself as "
            "the picks"
        )
    return *_columns_of_picks(table), star


def names_in(star: StarTable) -> list[str]:
    """The distinct micrographs that the rows of a table name; none where they do not."""
    return star.table.codes(_NAME)[1] if _NAME in star.table else []


def _follow_list(path: str | Path, star: StarTable, root: Path | None) -> Particles:
    from cryobox.formats import plain_stems, read_coordinate_file

    star.table.require(_NAME, COORDINATE_FILE)
    names = star.table.texts(_NAME)
    _check_distinct(star.table, names, "one coordinate file per micrograph")
    places = search_places(Path(path), root)
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
        none if i in missing else read_coordinate_file(file, owner=name, known=known)
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
    if tables and len(tables) == len(filled):
        star, note = join_tables(source, tables)
        warnings = (*warnings, *note)
        deep = [one.table.floats(_DEPTH, missing=NOT_KNOWN) for one in tables if _DEPTH in one.table]
        check_flat(source, _DEPTH, np.concatenate([np.empty(0), *deep]))
    tube = _join_tubes(parts)
    if tube is not None and (alone := int((tube == 0).sum())):
        warnings = (*warnings, f"{source}: {alone} of {len(tube)} picks belong to no filament: their {_TUBE[1:]} is 0")
    return Particles(
        family="star" if star is not None else "plain",
        source=source,
        y=np.concatenate([np.empty(0), *(part[0] for part in parts)]),
        x=np.concatenate([np.empty(0), *(part[1] for part in parts)]),
        micrograph=np.repeat(np.arange(len(parts), dtype=np.intp), [len(part[0]) for part in parts]),
        micrograph_names=tuple(names),
        score=np.concatenate([np.empty(0), *scores]) if scored else None,
        tube=tube,
        alignments=_alignments(star) if star is not None else (),
        table=star,
        warnings=warnings,
    )


def _join_tubes(parts: Sequence[PicksOfOne]) -> NDArray[np.int64] | None:
    """The filament of each pick, 0 where a file does not say; None where no file does."""
    if not any(isinstance(more, np.ndarray) for *_, more in parts):
        return None
    return np.concatenate(
        [more if isinstance(more, np.ndarray) else np.zeros(len(y), np.int64) for y, _, _, more in parts]
    )


def join_tables(source: str, stars: Sequence[StarTable]) -> tuple[StarTable, tuple[str, ...]]:
    """Put the rows of several files under each other; a column that a file lacks is 0 there, as RELION has it.

    (What means nothing is 1 for the scale factor of a CTF, and -999 for a score.)
    """
    tags = tuple(dict.fromkeys(tag for star in stars for tag in star.table.tags))
    filler = b" 0 1 %d " % _NO_SCORE
    data = filler + b"\n".join(star.table.data for star in stars)
    starts, lengths = [], []
    lacking: set[str] = set()
    anew = _MADE_ANEW if all(star.optics for star in stars) else _MADE_ANEW | _DROPPED_30
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
                place[:, i], length[:, i] = _FILLED.get(tag, (1, 1))
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


def read_micrographs(path: str | Path, *, root: Path | None = None) -> Micrographs:
    """Read a table of micrographs, with its optics groups and CTF values.

    The pixel size is rlnMicrographPixelSize of the optics group (or of the row), in 3.0-style files
    rlnDetectorPixelSize * 1e4 / rlnMagnification; nan where neither is there.
    """
    star = _open(path, ("micrographs", "", "images"), (_NAME,))
    table = star.table
    names = table.texts(_NAME)
    _check_distinct(table, names, "each micrograph once (is this a table of particles?)")
    optics, optics_index = micrograph_optics(star)
    pixel_size = np.full(len(table), np.nan)
    if len(optics):
        pixel_size = np.append([group.pixel_size for group in optics], np.nan)[optics_index]
    if MICROGRAPH_PIXEL in table:
        pixel_size = table.floats(MICROGRAPH_PIXEL)
    places = search_places(Path(path), root)
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


class _Images:
    """`00000001@stack`: the number from 1, and the stack of the micrograph."""

    def __init__(self, slot: NDArray[np.int64], micrograph: Codes, stacks: tuple[str, ...]) -> None:
        self._slot, self._micrograph, self._stacks = slot, micrograph, stacks
        self._texts = [encode("@" + stack) for stack in stacks]
        self._plain = all(text[:1] == b"@" for text in self._texts)

    def __call__(self, part: slice) -> list[bytes]:
        pairs = zip((self._slot[part] + 1).tolist(), self._micrograph[part].tolist(), strict=True)
        if not self._plain:  # a name with a blank: the quote comes before the number
            return [encode(f"{number:08d}@{self._stacks[m]}") for number, m in pairs]
        texts = self._texts
        return [b"%08d%b" % (number, texts[m]) for number, m in pairs]


def _columns(
    star: StarTable | None, rows: Codes, made: dict[str, Piece], dropped: frozenset[str] = frozenset()
) -> tuple[list[str], list[Piece]]:
    """The input's columns, those in `made` replaced where they stand, the others appended."""
    tags: list[str] = []
    pieces: list[Piece] = []
    left = dict(made)
    if star is not None:
        for i, tag in enumerate(star.table.tags):
            if tag in dropped and tag not in left:
                continue
            tags.append(tag)
            if tag in left:
                pieces.append(left.pop(tag))
                continue
            last = pieces[-1] if pieces else None
            if star.table.adjacent and isinstance(last, Run) and last.last == i - 1:
                pieces[-1] = Run(star.table, rows, last.first, i)
            else:
                pieces.append(Run(star.table, rows, i, i))
    for tag, piece in left.items():
        last = pieces[-1] if pieces else None
        tags.append(tag)
        if isinstance(piece, Lookup) and isinstance(last, Lookup) and last.codes is piece.codes:
            pieces[-1] = Lookup(piece.codes, [b"%b %b" % both for both in zip(last.texts, piece.texts, strict=True)])
        else:
            pieces.append(piece)
    return tags, pieces


def _write_optics(file: BinaryIO, rows: Sequence[dict[str, str]]) -> None:
    tags = list(dict.fromkeys(tag for row in rows for tag in row))
    everyone = np.arange(len(rows), dtype=np.intp)
    # A column that only some groups have: the others get what its absence means.
    texts = [Lookup(everyone, [encode(row.get(tag, OPTICS_NEUTRAL.get(tag, "0"))) for row in rows]) for tag in tags]
    write_loop(file, "optics", tags, texts, len(rows))


def _star_of(particles: Particles) -> StarTable | None:
    if particles.family == "cs":
        raise OptionError(
            f"{particles.source}: picks of a .cs table cannot be written as STAR; use --style cryosparc here and "
            "cryobox convert afterwards"
        )
    return particles.table if isinstance(particles.table, StarTable) else None


def write_particles(path: str | Path, particles: Particles, micrographs: Micrographs, extracted: Extracted) -> None:
    """Write the table of the extracted particles, in the form of RELION 3.1 and later (docs/conventions.md).

    The input's columns come first and stay as they are, except for image and micrograph names, the optics group,
    and the coordinates and origins of rows that moved. 3.0-style columns become data_optics and origins in Å.

    Raises
    ------
    OptionError
        If the picks come from a `.cs` table.
    InputError
        If the optics groups of picks and micrographs contradict each other.
    """
    star = _star_of(particles)
    groups = particle_optics(particles, micrographs, extracted)
    rows, micrograph = extracted.rows, extracted.micrograph
    made: dict[str, Piece] = _coordinate_columns(star, particles, extracted)
    made[_IMAGE] = _Images(extracted.slot, micrograph, extracted.stack)
    made[_NAME] = Lookup(micrograph, [encode(name) for name in micrographs.names])
    ctf, dropped = _ctf_columns(star, particles, micrographs, extracted)
    made |= ctf
    made[GROUP] = Lookup(groups.index, [row[GROUP].encode() for row in groups.rows])
    made |= _origin_columns(star, particles, extracted)
    if extracted.drop_alignments and star is not None:
        dropped |= {tag for tag in star.table.tags if is_orientation(tag)}
    tags, pieces = _columns(star, rows, made, _DROPPED | dropped)
    with open(path, "wb") as file:
        file.write(_VERSION)
        _write_optics(file, image_optics(groups, box=extracted.box, size=extracted.size))
        file.writelines(b"\n" + raw.strip() + b"\n\n" for raw in (star.others if star is not None else ()))
        file.write(_VERSION)
        write_loop(file, "particles", tags, pieces, len(rows))


def particle_optics(particles: Particles, micrographs: Micrographs, extracted: Extracted) -> OpticsGroups:
    """The optics groups of the particles that are written, each row's from the table that its CTF comes from."""
    own = own_ctf(particles, micrographs, refresh=extracted.refresh_ctf)[extracted.rows]
    mirror = partial(mirrored_optics, mirrored=extracted.mirrored) if any(extracted.mirrored) else None
    return arrange_optics(
        particles,
        micrographs,
        rows=extracted.rows,
        micrograph=extracted.micrograph,
        pixel_size=extracted.pixel_size,
        own=own,
        mirror=mirror,
    )


def _coordinate_columns(star: StarTable | None, particles: Particles, extracted: Extracted) -> dict[str, Piece]:
    made: dict[str, Piece] = {}
    if star is not None:
        if extracted.moved.any():
            for axis, tag in reversed(list(enumerate(COORDINATES))):
                column = star.table.tags.index(tag)
                kept = Run(star.table, extracted.rows, column, column)
                made[tag] = Numbers(extracted.center[:, axis], extracted.moved, kept)
        return made
    picked = np.column_stack([particles.y, particles.x])[extracted.rows]
    values = np.where(extracted.moved[:, None], extracted.center, picked)
    for axis, tag in reversed(list(enumerate(COORDINATES))):
        made[tag] = Numbers(values[:, axis])
    return made | _plain_columns(particles, extracted.rows)


def _plain_columns(particles: Particles, rows: Codes) -> dict[str, Piece]:
    """What picks that come without a table say beside their coordinates."""
    made: dict[str, Piece] = {}
    if particles.score is not None:
        score = particles.score[rows]
        made[_SCORE] = Numbers(np.where(np.isnan(score), _NO_SCORE, score))
    if particles.tube is not None:
        tubes, code = np.unique(particles.tube[rows], return_inverse=True)
        made[_TUBE] = Lookup(code.astype(np.intp), [b"%d" % tube for tube in tubes.tolist()])
    return made


def _origin_columns(star: StarTable | None, particles: Particles, extracted: Extracted) -> dict[str, Piece]:
    if star is None or not particles.alignments or extracted.drop_alignments:
        return {}
    before = particles.alignments[0]
    in_angstrom = all(tag in star.table for tag in _ORIGINS)
    if extracted.alignments:
        after = extracted.alignments[0]
        angstrom = after.shift * after.pixel_size[:, None]
    else:
        angstrom = (before.shift * before.pixel_size[:, None])[extracted.rows]
    if in_angstrom and not extracted.moved.any():
        return {}
    made: dict[str, Piece] = {}
    for axis, tag in reversed(list(enumerate(_ORIGINS))):
        kept = None
        if in_angstrom:
            column = star.table.tags.index(tag)
            kept = Run(star.table, extracted.rows, column, column)
        made[tag] = Numbers(np.round(angstrom[:, axis], 6) + 0.0, extracted.moved, kept)  # + 0.0: no "-0.000000"
    return made


def _ctf_columns(
    star: StarTable | None, particles: Particles, micrographs: Micrographs, extracted: Extracted
) -> tuple[dict[str, Piece], set[str]]:
    """The CTF columns of the rows, all of one table for each row; and the picks' columns that must go."""
    own = own_ctf(particles, micrographs, refresh=extracted.refresh_ctf)[extracted.rows]
    in_rows = star is not None and (not star.optics or star.group is None or bool((star.group < 0).any()))
    gone = {tag for tag in star.table.tags if tag in _DROPPED_30} if star is not None and in_rows else set()
    made: dict[str, Piece] = {}
    if own.all():
        if star is not None and any(extracted.mirrored):
            made |= mirrored_rows(star.table, extracted.rows, extracted.mirrored)
        return made, gone
    of_files = _ctf_of_micrographs(micrographs)
    apart = (*MICROSCOPE, *gone)
    picked = [tag for tag in (star.table.tags if star is not None else ()) if is_ctf_tag(tag) and tag not in apart]
    kept = [tag for tag in picked if tag in CTF_RESET or tag in of_files or own.any()]
    mirrored = mirrored_rows(star.table, extracted.rows, extracted.mirrored) if star is not None else {}
    for tag in dict.fromkeys((*kept, *of_files)):
        # A row whose table does not have the column gets what RELION takes that for.
        nothing = CTF_RESET.get(tag, b"0")
        new = Lookup(extracted.micrograph, of_files[tag] if tag in of_files else [nothing] * len(micrographs))
        if not own.any():
            made[tag] = new
            continue
        old: Piece = Lookup(np.zeros(len(own), np.intp), [nothing])
        if star is not None and tag in picked:
            column = star.table.tags.index(tag)
            old = mirrored.get(tag) or Run(star.table, extracted.rows, column, column)
        made[tag] = Chosen(own, old, new)
    return made, gone | {tag for tag in picked if tag not in made}


def _ctf_of_micrographs(micrographs: Micrographs) -> dict[str, list[bytes]]:
    """What the micrographs' fit says in the rows of a table, as text; nothing where there was no fit."""
    if isinstance(micrographs.table, StarTable):
        table = micrographs.table.table
        apart = {*CTF_FILES, *MICROSCOPE, *UNRELATED_TAGS, TILT_CLASS}
        return {tag: list(table.raw(tag)) for tag in table.tags if is_ctf_tag(tag) and tag not in apart}
    found = {}
    for name, quantity in CTF_NEUTRAL.items():
        values = micrographs.ctf.get(name)
        if values is not None and np.isfinite(values).any():
            found[quantity.tag] = fixed(values.tolist())
    return found


def write_rejected(path: str | Path, particles: Particles, micrographs: Micrographs, extracted: Extracted) -> None:
    """Write picks that were left out: the input's rows and blocks as they are, and `_cryoboxRejectReason`."""
    star = _star_of(particles)
    made: dict[str, Piece] = {}
    if star is None:
        made["_rlnCoordinateX"] = Numbers(particles.x[extracted.rows])
        made["_rlnCoordinateY"] = Numbers(particles.y[extracted.rows])
        made |= _plain_columns(particles, extracted.rows)
    if star is None or _NAME not in star.table:
        # The micrograph table's name where there is one, so that the rows can be used again on their own.
        names = [encode(name) for name in (*micrographs.names, *particles.micrograph_names)]
        own = len(micrographs) + particles.micrograph[extracted.rows]
        made[_NAME] = Lookup(np.where(extracted.micrograph < 0, own, extracted.micrograph), names)
    if star is not None and star.group is not None and star.in_rows is not None:
        star, numbers = _numbered_anew(star)
        made[GROUP] = Lookup(numbers[extracted.rows], [str(k).encode() for k in range(len(star.optics) + 1)])
    made[_REJECTED] = _reasons(extracted.reasons or ("",) * len(extracted))
    _write_rows_of(path, star, "particles", extracted.rows, made)


def _numbered_anew(star: StarTable) -> tuple[StarTable, Codes]:
    """A table of joined files with one data_optics, and the number of the group of each row; 0 where it has none."""
    assert star.group is not None
    rows, place = unique_groups(star.optics)
    rows = [row | {GROUP: str(k)} for k, row in enumerate(rows, 1)]
    text = BytesIO()
    _write_optics(text, rows)
    number_of = np.array([*(k + 1 for k in place), 0], np.intp)  # the last: rows without a group, -1
    return replace(star, optics=tuple(rows), optics_raw=text.getvalue()), number_of[star.group]


def write_incomplete(
    path: str | Path, micrographs: Micrographs, indices: Sequence[int] | Codes, reasons: Sequence[str]
) -> None:
    """Write the micrographs that could not be done: their rows of the table, and `_cryoboxReason`."""
    star = micrographs.table if isinstance(micrographs.table, StarTable) else None
    rows = np.asarray(indices, np.intp)
    made: dict[str, Piece] = {}
    if star is None:
        made[_NAME] = Lookup(rows, [encode(name) for name in micrographs.names])
    made["_cryoboxReason"] = _reasons(reasons)
    _write_rows_of(path, star, "micrographs", rows, made)


def _reasons(reasons: Sequence[str]) -> Lookup:
    index: dict[str, int] = {}
    codes = np.fromiter((index.setdefault(reason, len(index)) for reason in reasons), np.intp, len(reasons))
    return Lookup(codes, [encode_message(reason) for reason in index])


def _write_rows_of(
    path: str | Path,
    star: StarTable | None,
    block: Literal["particles", "micrographs"],
    rows: Codes,
    made: dict[str, Piece],
) -> None:
    """Write rows of the input with its other blocks; no version line, since the columns are those of its version."""
    tags, pieces = _columns(star, rows, made)
    with open(path, "wb") as file:
        for raw in (star.optics_raw, *star.others) if star is not None else ():
            if raw:
                file.write(b"\n" + raw.strip() + b"\n\n")
        write_loop(file, block if star is None else star.table.block, tags, pieces, len(rows))
