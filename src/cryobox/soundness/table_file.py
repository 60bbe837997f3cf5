"""One table: of particles with images, of micrographs, or of picks alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryobox.errors import InputError, MicrographError, OptionError
from cryobox.formats import read_micrographs
from cryobox.formats.cs_table import Table, read_table
from cryobox.formats.csg import read_group
from cryobox.formats.images import read_header
from cryobox.formats.references import references_of_cs, references_of_star
from cryobox.formats.star import table_with
from cryobox.formats.star_optics import StarTable
from cryobox.formats.star_table import read_blocks
from cryobox.formats.star_tags import IMAGE, NAME
from cryobox.formats.star_text import listed
from cryobox.micrograph import PIXEL_SIZE_WARNING, Micrographs
from cryobox.paths import Start
from cryobox.soundness.findings import Fault, Findings, Soundness, numbered
from cryobox.soundness.images_of_table import ImagesOfTable

__all__ = ["check_table"]

# Numbers without which a particle means nothing; other columns may be empty.
_NUMBERS_STAR = (
    "_rlnCoordinateX", "_rlnCoordinateY", "_rlnOriginXAngst", "_rlnOriginYAngst", "_rlnOriginX", "_rlnOriginY",
    "_rlnAngleRot", "_rlnAngleTilt", "_rlnAnglePsi", "_rlnDefocusU", "_rlnDefocusV", "_rlnDefocusAngle",
    "_rlnPhaseShift", "_rlnVoltage", "_rlnSphericalAberration", "_rlnAmplitudeContrast",
)  # fmt: skip
_NUMBERS_CS = (
    "location/center_x_frac", "location/center_y_frac", "ctf/df1_A", "ctf/df2_A", "ctf/df_angle_rad",
    "ctf/phase_shift_rad", "ctf/accel_kv", "ctf/cs_mm", "ctf/amp_contrast", "blob/psize_A",
)  # fmt: skip
_NUMBERS_OF_ALIGNMENTS = ("/shift", "/pose", "/psize_A")
_ORIGINAL = "_rlnOriginalParticleName"
_EXPANDED = "sym_expand/src_uid"


def check_table(path: str, *, start: Start) -> tuple[Soundness, tuple[str, ...]]:
    """Check a table, and with the headers of its images what it says of them.

    Returns
    -------
    Soundness
    tuple of str
        The image files that it names and that are there.

    Raises
    ------
    OptionError
        If a STAR file is of another kind.
    MissingExtraError
        If a `.cs` is in CryoSPARC's compressed form and cryosparc-tools is not there.
    """
    found = Findings(path)
    files: tuple[str, ...] = ()
    try:
        files = (_check_star if path.lower().endswith(".star") else _check_cs)(found, start)
    except InputError as error:
        found.add_error(error)
    return found.found(), files


def _check_star(found: Findings, start: Start) -> tuple[str, ...]:
    blocks = read_blocks(found.path)
    tags = {tag for name, block in blocks.items() if name != "optics" for tag in block.tags()}
    if IMAGE in tags:
        star = table_with(found.path, blocks, ("particles", "images", ""), (IMAGE,))
        _name(found, "particles", len(star.table))
        _check_numbers_star(found, star)
        references = references_of_star(found.path, star)
        known = np.full(len(star.table), _ORIGINAL in star.table)
        return _check_images(found, ImagesOfTable.of(references, start.beside(Path(found.path))), known)
    if NAME in tags and "_rlnCoordinateX" not in tags:
        _check_micrographs_star(found, table_with(found.path, blocks, ("micrographs", "", "images"), (NAME,)))
        return _check_micrographs(found, read_micrographs(found.path, start=start))
    if "_rlnCoordinateX" not in tags:
        raise OptionError(
            f"{found.path}: is no table of particles, micrographs or picks; its blocks are "
            f"{listed([f'data_{name}' for name in blocks], 5)}"
        )
    star = table_with(found.path, blocks, ("particles", "", "images"), ("_rlnCoordinateX",))
    _name(found, "picks", len(star.table))
    found.notes.append("names no images")
    _check_numbers_star(found, star)
    return ()


def _check_cs(found: Findings, start: Start) -> tuple[str, ...]:
    path = Path(found.path)
    table, notes = read_group(path) if path.suffix.lower() == ".csg" else (read_table(path), ())
    found.notes += [note.removeprefix(f"{found.path}: ") for note in notes]
    names = table.dtype.names or ()
    if any(name.startswith("micrograph_blob") for name in names):
        _name(found, "micrographs", len(table))
        _check_numbers_cs(found, table)
        return _check_micrographs(found, read_micrographs(found.path, start=start)) if len(table) else ()
    alone = "blob/path" not in names
    of_picks = "picks" if "location/center_x_frac" in names else "parts of particles"
    _name(found, of_picks if alone else "particles", len(table))
    _check_numbers_cs(found, table)
    _check_uids(found, table)
    if alone:
        found.notes.append("names no images")
        return ()
    places = start.beside(path)
    exported = (path.resolve().parent, *places)
    known = np.zeros(len(table), np.bool_)
    if _EXPANDED in names and table.dtype[_EXPANDED].kind in "iu":
        known = table[_EXPANDED] != 0
    return _check_images(found, ImagesOfTable.of(references_of_cs(found.path, table), places, exported), known)


def _name(found: Findings, kind: str, rows: int) -> None:
    found.kind, found.about = kind, f"table of {kind}, {rows:,} row{'' if rows == 1 else 's'}"
    found.counts["rows"] = rows


# ---------------------------------------------------------------------------------------------------------- numbers


def _check_numbers_star(found: Findings, star: StarTable) -> None:
    table = star.table
    rows = np.arange(len(table))
    for tag in _NUMBERS_STAR:
        if tag in table:
            _tell_rows(found, Fault.NUMBER, table.not_numbers(tag, rows), f"{tag[1:]} is not a finite number")


def _check_numbers_cs(found: Findings, table: Table) -> None:
    for name in table.dtype.names or ():
        aligned = name.startswith("alignments") and name.endswith(_NUMBERS_OF_ALIGNMENTS)
        if (name in _NUMBERS_CS or aligned) and table.dtype[name].base.kind == "f":
            column = table[name]
            odd = ~np.isfinite(column).all(axis=tuple(range(1, column.ndim)))
            _tell_rows(found, Fault.NUMBER, odd, f"{name} is not a finite number")


def _tell_rows(found: Findings, fault: Fault, which: NDArray[np.bool_], what: str) -> None:
    rows = (np.flatnonzero(which) + 1).tolist()
    if rows:
        found.add(fault, f"{what} in {len(rows)} of {len(which)} rows: {numbered(rows)}", rows)


def _check_uids(found: Findings, table: Table) -> None:
    if "uid" not in (table.dtype.names or ()) or table.dtype["uid"].kind not in "iu":
        return
    _, first = np.unique(table["uid"], return_index=True)
    again = table["uid"] != 0  # which is none
    again[first] = False
    if again.any():
        rows = (np.flatnonzero(again) + 1).tolist()
        uid = int(table["uid"][rows[0] - 1])
        found.add(
            Fault.UID,
            f"uid of {len(rows)} of {len(table)} rows stands in a row before, {uid} for example; joined twice? rows "
            f"{numbered(rows)}",
            rows,
        )


# ----------------------------------------------------------------------------------------------------------- images


def _check_images(found: Findings, images: ImagesOfTable, known: NDArray[np.bool_]) -> tuple[str, ...]:
    found.counts["stacks"] = len(images.stacks)
    found.about += f", {len(images.stacks):,} stack{'' if len(images.stacks) == 1 else 's'}"
    images.check_files(found)
    images.check_slots(found)
    images.check_pixel_sizes(found)
    images.check_sizes(found)
    images.check_shared(found, known)
    return images.there


# ------------------------------------------------------------------------------------------------------ micrographs


def _check_micrographs_star(found: Findings, star: StarTable) -> None:
    _name(found, "micrographs", len(star.table))
    _check_numbers_star(found, star)


def _check_micrographs(found: Findings, table: Micrographs) -> tuple[str, ...]:
    """Each file is there, and its header says what the table says."""
    there, missing, rows, unequal = [], [], [], []
    for row, path in enumerate(table.paths):
        if not Path(path).exists():
            missing.append(table.names[row])
            rows.append(row + 1)
            continue
        there.append(path)
        try:
            header = read_header(path)
        except MicrographError as error:
            found.add_error(error)
            continue
        shape, pixel_size = tuple(table.shape[row].tolist()), float(table.pixel_size[row])
        if all(shape) and shape != header.shape:
            unequal.append(f"{path} is {header.shape[0]} x {header.shape[1]}, the table says {shape[0]} x {shape[1]}")
        factor = header.pixel_size / pixel_size
        if not np.isnan(factor) and not 1 / PIXEL_SIZE_WARNING <= factor <= PIXEL_SIZE_WARNING:
            found.add(
                Fault.PIXEL_SIZE,
                f"row {row + 1}: {path} says {header.pixel_size:.5g} Å per pixel, the table {pixel_size:.5g}",
                (row + 1,),
            )
    for text in unequal:
        found.add(Fault.IMAGE_SIZE, f"{text} (ny x nx)")
    if missing:
        found.add(
            Fault.MISSING,
            f"{len(missing)} of {len(table)} micrographs that it names are not there ({listed(missing, 3)}); say with "
            "--root where the names start",
            rows,
        )
    return tuple(there)
