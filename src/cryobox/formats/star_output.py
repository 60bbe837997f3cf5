"""RELION's tables written: extracted particles, rejected picks, micrographs that could not be used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from cryobox.errors import OptionError
from cryobox.formats.columns import (
    CTF_FILES,
    CTF_NEUTRAL,
    CTF_RESET,
    DEFOCUS,
    DEFOCUS_OFFSET,
    IMAGE_FLAGS,
    MADE,
    MEASURED,
    MICROSCOPE,
    OPTICS_NEUTRAL,
    TILT_CLASS,
    UNRELATED_TAGS,
    is_ctf_tag,
)
from cryobox.formats.ctf import own_ctf
from cryobox.formats.mirroring import is_orientation, mirrored_optics, mirrored_rows
from cryobox.formats.star_optics import (
    GROUP,
    OpticsGroups,
    StarTable,
    arrange_optics,
    image_flags,
    image_optics,
    unique_groups,
)
from cryobox.formats.star_picks import (
    COORDINATES,
)
from cryobox.formats.star_table import Chosen, Codes, Lookup, Measured, Numbers, Piece, Run, write_loop
from cryobox.formats.star_tags import (
    DROPPED,
    DROPPED_30,
    IMAGE,
    NAME,
    NO_SCORE,
    ORIGINS,
    REJECTED,
    SCORE,
    TUBE,
    VERSION,
)
from cryobox.formats.star_text import encode, encode_message, fixed
from cryobox.micrograph import Micrographs
from cryobox.particles import Extracted, Particles

__all__ = [
    "columns_of",
    "images_column",
    "stack_suffix",
    "suffix",
    "write_incomplete",
    "write_optics",
    "write_particles",
    "write_rejected",
    "write_rows",
]

suffix = ".star"
stack_suffix = ".mrcs"  # RELION refuses stacks of any other name


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


def images_column(slot: NDArray[np.int64], stack: Codes, stacks: tuple[str, ...]) -> Piece:
    """The column of image names: each row's number in its stack, and which of `stacks` that is."""
    return _Images(slot, stack, stacks)


def columns_of(
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


def write_optics(file: BinaryIO, rows: Sequence[dict[str, str]]) -> None:
    """Write data_optics: a row for each group."""
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
    made[IMAGE] = _Images(extracted.slot, micrograph, extracted.stack)
    made[NAME] = Lookup(micrograph, [encode(name) for name in micrographs.names])
    ctf, dropped = _ctf_columns(star, particles, micrographs, extracted)
    made |= ctf
    made |= _adjusted_defocus(star, particles, micrographs, extracted, ctf)
    made[GROUP] = Lookup(groups.index, [row[GROUP].encode() for row in groups.rows])
    made |= _origin_columns(star, particles, extracted)
    made |= _made_columns(star, extracted)
    if extracted.drop_alignments and star is not None:
        dropped |= {tag for tag in star.table.tags if is_orientation(tag)}
    tags, pieces = columns_of(star, rows, made, DROPPED | dropped)
    with open(path, "wb") as file:
        file.write(VERSION)
        flags = _image_flags(star, micrographs, extracted.steps.ctf)
        write_optics(file, image_optics(groups, boxes=_boxes(groups, extracted), size=extracted.size, flags=flags))
        file.writelines(b"\n" + raw.strip() + b"\n\n" for raw in (star.others if star is not None else ()))
        file.write(VERSION)
        write_loop(file, "particles", tags, pieces, len(rows))


def _image_flags(star: StarTable | None, micrographs: Micrographs, ctf: str | None) -> dict[str, str]:
    """What was done with the CTF of the images; what the input said was of others, and is contradicted."""
    before = [*(star.optics if star is not None else ()), *(group.columns or {} for group in micrographs.optics)]
    flags = image_flags(ctf)
    said = ctf is not None or any(IMAGE_FLAGS[1] in row for row in before)
    return flags if said else {IMAGE_FLAGS[0]: flags[IMAGE_FLAGS[0]]}


def _boxes(groups: OpticsGroups, extracted: Extracted) -> list[int]:
    """The window's side in the micrographs of each group, which all have one pixel size."""
    if extracted.boxes is None:
        return [extracted.box] * len(groups.rows)
    nearest = [int(np.nanargmin(np.abs(extracted.pixel_size - size))) for size in groups.pixel_size]
    return [int(extracted.boxes[row]) for row in nearest]


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
    if star is not None and not particles.placed_anew:
        if extracted.moved.any():
            for axis, tag in reversed(list(enumerate(COORDINATES))):
                column = star.table.tags.index(tag)
                kept = Run(star.table, extracted.rows, column, column)
                made[tag] = Numbers(extracted.center[:, axis], extracted.moved, kept)
        return made
    picked = np.column_stack([particles.y, particles.x])[extracted.picks]
    values = np.where(extracted.moved[:, None], extracted.center, picked)
    for axis, tag in reversed(list(enumerate(COORDINATES))):
        made[tag] = Numbers(values[:, axis])
    return made if star is not None else made | _plain_columns(particles, extracted.picks)


def _plain_columns(particles: Particles, picks: Codes) -> dict[str, Piece]:
    """What picks that come without a table say beside their coordinates."""
    made: dict[str, Piece] = {}
    if particles.score is not None:
        score = particles.score[picks]
        made[SCORE] = Numbers(np.where(np.isnan(score), NO_SCORE, score))
    if particles.tube is not None:
        tubes, code = np.unique(particles.tube[picks], return_inverse=True)
        made[TUBE] = Lookup(code.astype(np.intp), [b"%d" % tube for tube in tubes.tolist()])
    return made


def _made_columns(star: StarTable | None, extracted: Extracted) -> dict[str, Piece]:
    """What the plan says of the rows, under the tags of `MADE`."""
    made: dict[str, Piece] = {}
    for name, values in extracted.columns.items():
        quantity = MADE[name]
        if not quantity.tag:
            continue
        if quantity in MEASURED:
            made[quantity.tag] = Measured(values)
        elif values.dtype.kind == "f":
            known, kept = np.isfinite(values), None
            if not known.all():
                kept = _kept(star, quantity.tag, extracted.rows)
            made[quantity.tag] = Numbers(np.where(known, np.round(values, 6) + 0.0, 0.0), known, kept)
        else:
            index: dict[int | str, int] = {}  # sorting a million texts would take seconds
            codes = np.fromiter((index.setdefault(word, len(index)) for word in values.tolist()), np.intp, len(values))
            texts = [b"%d" % word if isinstance(word, int) else encode(str(word)) for word in index]
            made[quantity.tag] = Lookup(codes, texts)
    return made


def _kept(star: StarTable | None, tag: str, rows: Codes) -> Piece:
    """The column of the table as it is; 0 where it has none."""
    if star is None or tag not in star.table:
        return Lookup(np.zeros(len(rows), np.intp), [b"0.000000"])
    column = star.table.tags.index(tag)
    return Run(star.table, rows, column, column)


def _origin_columns(star: StarTable | None, particles: Particles, extracted: Extracted) -> dict[str, Piece]:
    if star is None or not particles.alignments or extracted.drop_alignments:
        return {}
    before = particles.alignments[0]
    in_angstrom = all(tag in star.table for tag in ORIGINS)
    if extracted.alignments:
        after = extracted.alignments[0]
        angstrom = after.shift * after.pixel_size[:, None]
    else:
        angstrom = (before.shift * before.pixel_size[:, None])[extracted.picks]
    if in_angstrom and not extracted.realigned.any():
        return {}
    made: dict[str, Piece] = {}
    for axis, tag in reversed(list(enumerate(ORIGINS))):
        kept = None
        if in_angstrom:
            column = star.table.tags.index(tag)
            kept = Run(star.table, extracted.rows, column, column)
        made[tag] = Numbers(np.round(angstrom[:, axis], 6) + 0.0, extracted.realigned, kept)  # + 0.0: no "-0.000000"
    return made


def _ctf_columns(
    star: StarTable | None, particles: Particles, micrographs: Micrographs, extracted: Extracted
) -> tuple[dict[str, Piece], set[str]]:
    """The CTF columns of the rows, all of one table for each row; and the picks' columns that must go."""
    own = own_ctf(particles, micrographs, refresh=extracted.refresh_ctf)[extracted.rows]
    in_rows = star is not None and (not star.optics or star.group is None or bool((star.group < 0).any()))
    gone = {tag for tag in star.table.tags if tag in DROPPED_30} if star is not None and in_rows else set()
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


def _adjusted_defocus(
    star: StarTable | None,
    particles: Particles,
    micrographs: Micrographs,
    extracted: Extracted,
    written: Mapping[str, Piece],
) -> dict[str, Piece]:
    """The defocus of the rows, whichever table it comes from, with what the plan adds to it; `written`: without it."""
    if DEFOCUS_OFFSET not in extracted.columns:
        return {}
    offset, rows = extracted.columns[DEFOCUS_OFFSET], extracted.rows
    own = own_ctf(particles, micrographs, refresh=extracted.refresh_ctf)[rows]
    made: dict[str, Piece] = {}
    for name in DEFOCUS:
        tag = CTF_NEUTRAL[name].tag
        base = np.full(len(rows), np.nan)
        if own.any() and star is not None and tag in star.table:
            base[own] = star.table.floats(tag)[rows][own]
        if name in micrographs.ctf:
            base[~own] = micrographs.ctf[name][extracted.micrograph[~own]]
        known = np.isfinite(base + offset)
        if not known.any():
            continue
        values = np.where(known, base + offset, 0.0)
        made[tag] = Numbers(values, known, written.get(tag) or _kept(star, tag, rows))
    return made


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
    if star is None or particles.placed_anew:
        made["_rlnCoordinateX"] = Numbers(particles.x[extracted.picks])
        made["_rlnCoordinateY"] = Numbers(particles.y[extracted.picks])
    if star is None:
        made |= _plain_columns(particles, extracted.picks)
    if star is None or NAME not in star.table:
        # The micrograph table's name where there is one, so that the rows can be used again on their own.
        names = [encode(name) for name in (*micrographs.names, *particles.micrograph_names)]
        own = len(micrographs) + particles.micrograph[extracted.picks]
        made[NAME] = Lookup(np.where(extracted.micrograph < 0, own, extracted.micrograph), names)
    if star is not None and star.group is not None and star.in_rows is not None:
        star, numbers = _numbered_anew(star)
        made[GROUP] = Lookup(numbers[extracted.rows], [str(k).encode() for k in range(len(star.optics) + 1)])
    made |= _made_columns(star, extracted)
    made[REJECTED] = _reasons(extracted.reasons or ("",) * len(extracted))
    _write_rows_of(path, star, "particles", extracted.rows, made)


def write_rows(path: str | Path, star: StarTable, rows: Codes) -> None:
    """Write some rows of a table as they are, with its optics groups and other blocks."""
    _write_rows_of(path, star, "particles", rows, {})


def _numbered_anew(star: StarTable) -> tuple[StarTable, Codes]:
    """A table of joined files with one data_optics, and the number of the group of each row; 0 where it has none."""
    assert star.group is not None
    rows, place = unique_groups(star.optics)
    rows = [row | {GROUP: str(k)} for k, row in enumerate(rows, 1)]
    text = BytesIO()
    write_optics(text, rows)
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
        made[NAME] = Lookup(rows, [encode(name) for name in micrographs.names])
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
    tags, pieces = columns_of(star, rows, made)
    with open(path, "wb") as file:
        for raw in (star.optics_raw, *star.others) if star is not None else ():
            if raw:
                file.write(b"\n" + raw.strip() + b"\n\n")
        write_loop(file, block if star is None else star.table.block, tags, pieces, len(rows))
