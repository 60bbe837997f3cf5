"""The optics groups of STAR tables: read from data_optics or from 3.0-style rows, matched by name, written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cryobox.errors import InputError
from cryobox.formats.star_table import Codes, Floats, Table, number
from cryobox.micrograph import Micrographs, Optics
from cryobox.particles import Extracted, Particles

__all__ = [
    "OpticsGroups",
    "StarTable",
    "group_of_rows",
    "micrograph_optics",
    "output_optics",
    "reconcile_optics",
    "row_pixel_size",
]

GROUP = "_rlnOpticsGroup"
GROUP_NAME = "_rlnOpticsGroupName"
VOLTAGE = "_rlnVoltage"
CS = "_rlnSphericalAberration"
AMPLITUDE = "_rlnAmplitudeContrast"
MICROGRAPH_PIXEL = "_rlnMicrographPixelSize"
ORIGINAL_PIXEL = "_rlnMicrographOriginalPixelSize"
MICROSCOPE = (VOLTAGE, CS, AMPLITUDE)  # columns of the rows in 3.0, of data_optics since 3.1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StarTable:
    """What a STAR file gave: the table of the rows, data_optics, and the blocks that are carried through.

    Parameters
    ----------
    table : Table
    optics : tuple of dict
        The rows of data_optics as text, tags with the underscore; empty for 3.0-style files.
    group : ndarray, shape (n,), intp, optional
        Index into `optics` of each row.
    others : tuple of bytes
        Every other block, as it stands in the file.
    optics_raw : bytes
        data_optics as it stands in the file.
    """

    table: Table
    optics: tuple[dict[str, str], ...] = ()
    group: Codes | None = None
    others: tuple[bytes, ...] = ()
    optics_raw: bytes = b""


def group_of_rows(table: Table, optics: tuple[dict[str, str], ...]) -> Codes:
    """Index into `optics` of each row, by group number."""
    codes, texts = table.codes(GROUP)
    numbers = [number(row[GROUP]) for row in optics]
    place = np.full(len(texts), -1, np.intp)
    for i, text in enumerate(texts):
        found = [k for k, own in enumerate(numbers) if own == number(text)]
        if len(found) != 1:
            row = int(np.flatnonzero(codes == i)[0]) + 1
            raise InputError(
                f"{table.path}: data_{table.block}, row {row}: {GROUP} {text} stands {len(found)} times in "
                f"data_optics, expected once; groups there: {', '.join(row[GROUP] for row in optics) or 'none'}"
            )
        place[i] = found[0]
    return place[codes]


def row_pixel_size(table: Table) -> Floats:
    """Å per pixel of each row in 3.0 style: detector pixel in µm, and magnification."""
    if "_rlnDetectorPixelSize" not in table or "_rlnMagnification" not in table:
        return np.full(len(table), np.nan)
    magnification = table.floats("_rlnMagnification")
    size = table.floats("_rlnDetectorPixelSize") * 1e4 / np.where(magnification > 0, magnification, np.nan)
    return np.where(size > 0, size, np.nan)


def micrograph_optics(star: StarTable) -> tuple[tuple[Optics, ...], Codes]:
    """The optics groups of a table of micrographs, and the group of each row."""
    table = star.table
    if star.optics:
        groups = [_optics(row, number(row.get(MICROGRAPH_PIXEL))) for row in star.optics]
        if star.group is None:
            raise InputError(
                f"{table.path}: data_optics has {len(groups)} groups, and data_{table.block} has no column {GROUP} "
                "that says which one each micrograph belongs to"
            )
        return tuple(groups), star.group
    rows, index, pixel_size = _optics_of_rows(table)
    return tuple(_optics(row, size) for row, size in zip(rows, pixel_size, strict=True)), index


def _group_number(row: dict[str, str]) -> int:
    """The number of an optics group; 0 where there is none that a 32-bit integer holds."""
    value = number(row[GROUP])
    return int(value) if abs(value) < 2**31 else 0


def _optics(row: dict[str, str], pixel_size: float) -> Optics:
    return Optics(
        name=row.get(GROUP_NAME, f"opticsGroup{row[GROUP]}"),
        voltage_kv=number(row.get(VOLTAGE)),
        cs_mm=number(row.get(CS)),
        amplitude_contrast=number(row.get(AMPLITUDE)),
        pixel_size=pixel_size,
        group_id=_group_number(row),
        columns=row,
    )


def _optics_of_rows(table: Table) -> tuple[list[dict[str, str]], Codes, list[float]]:
    """Optics groups of a 3.0-style table: one for each combination of microscope values and pixel size."""
    tags = [tag for tag in (*MICROSCOPE, "_rlnDetectorPixelSize", "_rlnMagnification") if tag in table]
    if not tags or not len(table):
        return [], np.full(len(table), -1, np.intp), []
    pixel_size = row_pixel_size(table)
    key = np.zeros(len(table), np.intp)
    for tag in tags:
        codes, texts = table.codes(tag)
        _, key = np.unique(key * len(texts) + codes, return_inverse=True)
    _, first, index = np.unique(key, return_index=True, return_inverse=True)
    rows = []
    for i, row in enumerate(first.tolist(), 1):
        values = table.row(row)
        rows.append(
            {GROUP_NAME: f"opticsGroup{i}", GROUP: str(i)} | {tag: values[tag] for tag in MICROSCOPE if tag in values}
        )
    return rows, index, pixel_size[first].tolist()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OpticsGroups:
    """The optics groups of micrographs and picks together, matched by name.

    Parameters
    ----------
    rows : tuple of dict
        The groups as text, tags with the underscore, group numbers unique.
    of_micrograph : ndarray, shape (number of micrographs,), intp
        Index into `rows`.
    of_particle : ndarray, shape (n,), intp, optional
        The same for each pick; None where the picks take their micrograph's.
    warnings : tuple of str
    """

    rows: tuple[dict[str, str], ...]
    of_micrograph: Codes
    of_particle: Codes | None
    warnings: tuple[str, ...] = ()


def reconcile_optics(particles: Particles, micrographs: Micrographs) -> OpticsGroups:
    """Match the optics groups of picks and micrographs by name, without looking at a pixel.

    A group of both tables keeps the picks' refined values and takes from the micrographs what they lack. Picks
    without groups take their micrograph's.

    Raises
    ------
    InputError
        If the two tables contradict each other in the voltage or the spherical aberration of a group.
    """
    rows = [_neutral_row(group) for group in micrographs.optics]
    of_micrograph = micrographs.optics_index.astype(np.intp)
    of_particle: Codes | None = None
    warnings: list[str] = []
    star = particles.table if isinstance(particles.table, StarTable) else None
    if star is not None and star.group is not None:
        place = np.empty(len(star.optics), np.intp)
        known = {row[GROUP_NAME]: i for i, row in reversed(list(enumerate(rows)))}
        for i, own in enumerate(star.optics):
            name = own.get(GROUP_NAME, f"opticsGroup{own[GROUP]}")
            if name in known:
                place[i] = known[name]
                _check_microscope(f"optics group {name!r}", own, rows[place[i]], particles, micrographs)
                rows[place[i]] = rows[place[i]] | own | {GROUP: rows[place[i]][GROUP]}
            else:
                place[i] = len(rows)
                rows.append(own | {GROUP_NAME: name})
        of_particle = place[star.group]
    elif star is not None:
        own_rows, index, _ = _optics_of_rows(star.table)
        own_rows = [row for row in own_rows if any(tag in row for tag in MICROSCOPE)]
        if rows:
            for own in own_rows:
                candidates = [row for row in rows if _contradiction(own, row) is None]
                if not candidates:
                    _check_microscope("the microscope of the picks", own, rows[0], particles, micrographs)
        elif own_rows:
            rows, of_particle = own_rows, index
    if (of_micrograph < 0).any() and (of_particle is None or not rows):
        of_micrograph = np.where(of_micrograph < 0, len(rows), of_micrograph)
        rows.append({GROUP_NAME: f"opticsGroup{len(rows) + 1}", GROUP: "0"})
    for row in rows:
        lacking = [tag for tag in MICROSCOPE if tag not in row]
        if lacking:
            warnings.append(
                f"{micrographs.source}: optics group {row[GROUP_NAME]!r} has no {', '.join(lacking)}, which RELION "
                "needs for CTF correction"
            )
    return OpticsGroups(
        rows=tuple(_renumber(rows)), of_micrograph=of_micrograph, of_particle=of_particle, warnings=tuple(warnings)
    )


def _neutral_row(group: Optics) -> dict[str, str]:
    """The row of an optics group; made of the plain numbers where the micrographs are no STAR table."""
    row = {GROUP_NAME: group.name, GROUP: str(group.group_id)}
    numbers = zip(MICROSCOPE, (group.voltage_kv, group.cs_mm, group.amplitude_contrast), strict=True)
    row |= {tag: f"{value:.6f}" for tag, value in numbers if np.isfinite(value)}
    return row | (group.columns or {}) | {GROUP_NAME: group.name}


def _contradiction(own: dict[str, str], other: dict[str, str]) -> str | None:
    for tag in (VOLTAGE, CS):
        a, b = number(own.get(tag)), number(other.get(tag))
        if abs(a - b) > 1e-3 * max(abs(a), abs(b)):  # False where one is nan
            return tag
    return None


def _check_microscope(
    what: str, own: dict[str, str], other: dict[str, str], particles: Particles, micrographs: Micrographs
) -> None:
    tag = _contradiction(own, other)
    if tag is not None:
        raise InputError(
            f"{particles.source}: {what} has {tag} {own[tag]}, but {micrographs.source} says {other[tag]}; "
            "correct the table that is wrong, or name the optics groups differently if both are right"
        )


def _renumber(rows: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Give every group a number of its own, at least 1; the first that has a number keeps it."""
    wanted = [max(_group_number(row), 0) for row in rows]
    taken: set[int] = set()
    numbers = []
    for own in wanted:
        chosen = own if own >= 1 and own not in taken else max([*taken, *wanted, 0]) + 1
        taken.add(chosen)
        numbers.append(chosen)
    return [row | {GROUP: str(chosen)} for row, chosen in zip(rows, numbers, strict=True)]


def output_optics(groups: OpticsGroups, extracted: Extracted) -> tuple[list[dict[str, str]], Codes]:
    """The rows of data_optics for these images, and the row of each particle.

    A group whose micrographs differ in pixel size becomes one group for each of them.
    """
    group = groups.of_micrograph[extracted.micrograph]
    if groups.of_particle is not None:
        group = groups.of_particle[extracted.rows]
    sizes, size_of_micrograph = np.unique(np.round(extracted.pixel_size, 6), return_inverse=True)
    if not len(extracted):
        size = next(iter(sizes[np.isfinite(sizes)].tolist()), float("nan"))
        return [_image_row(row, size, extracted) for row in groups.rows], group
    pairs, index = np.unique(group * len(sizes) + size_of_micrograph[extracted.micrograph], return_inverse=True)
    rows: list[dict[str, str]] = []
    seen: set[int] = set()
    for pair in pairs.tolist():
        which, size = pair // len(sizes), float(sizes[pair % len(sizes)])
        row = groups.rows[which]
        if which in seen:
            row = row | {GROUP_NAME: f"{row[GROUP_NAME]}_{size:g}"}
        seen.add(which)
        rows.append(_image_row(row, size, extracted))
    return _renumber(rows), index


def _image_row(row: dict[str, str], pixel_size: float, extracted: Extracted) -> dict[str, str]:
    made = {
        ORIGINAL_PIXEL: row.get(ORIGINAL_PIXEL, f"{pixel_size:.6f}"),
        "_rlnImagePixelSize": f"{pixel_size * extracted.box / extracted.size:.6f}",
        "_rlnImageSize": str(extracted.size),
        "_rlnImageDimensionality": "2",
        "_rlnCtfDataAreCtfPremultiplied": "0",
    }
    return {tag: text for tag, text in row.items() if tag != MICROGRAPH_PIXEL} | made
