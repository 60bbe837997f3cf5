"""The CTF of each particle as the core takes it: the numbers that its table will say, from where these come."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from cryobox.errors import InputError, OptionError
from cryobox.formats.columns import CTF_NEUTRAL, MICROSCOPE, QUANTITIES
from cryobox.formats.ctf import NEUTRAL_DEFOCUS, own_ctf, vector
from cryobox.formats.mirroring import mirrored_optics
from cryobox.formats.star_optics import StarTable, arrange_optics
from cryobox.formats.star_table import Codes, Floats
from cryobox.formats.star_text import number
from cryobox.micrograph import Micrographs, Optics
from cryobox.particles import Particles
from cryobox.windows import CTF

__all__ = ["numbers_of_ctf"]

_ROWS = ("defocus_u_angstrom", "defocus_v_angstrom", "defocus_angle_degrees", "phase_shift_degrees", "ctf_bfactor",
         "ctf_scale")  # fmt: skip
_ABSENT = {"phase_shift_degrees": 0.0, "ctf_bfactor": 0.0, "ctf_scale": 1.0}
_MATRIX = {"_rlnMagMat00": 1.0, "_rlnMagMat01": 0.0, "_rlnMagMat10": 0.0, "_rlnMagMat11": 1.0}
_EVEN = "_rlnEvenZernike"
_UNKNOWN = ("ctf/anisomag", "ctf/tetra_A")  # even aberrations of which no public rule says what they are
_FIELDS = {quantity.tag: quantity.field for quantity in QUANTITIES if quantity.tag in MICROSCOPE}

HIGHEST_VOLTAGE = 5_000  # kV, above any microscope: 300000 are volts


def numbers_of_ctf(
    particles: Particles,
    micrographs: Micrographs,
    *,
    rows: Codes,
    micrograph: Codes,
    pixel_size: Floats,
    refresh: bool,
    mirrored: tuple[bool, bool],
    native: str,
) -> Floats:
    """Numbers as `windows.CTF` names them, then coefficients of even Zernike polynomials.

    Parameters
    ----------
    rows, micrograph : ndarray, shape (n,), intp
        Rows of the picks' table, and the micrograph of each.
    pixel_size : ndarray, shape (micrographs,)
        Å per pixel, as used.
    refresh : bool
        `Recipe.refresh_ctf`.
    mirrored : (bool, bool)
        In (y, x): the picks' own values are those of a mirrored copy.
    native : {"star", "cs"}
        The family in which the picks' columns are written.

    Returns
    -------
    ndarray, shape (n, len(CTF) + terms)
        Not finite where the tables' values are not.

    Raises
    ------
    InputError
        If a table has no CTF, or lacks a column without which there is none.
    OptionError
        If aberrations were refined of which no public rule says what they are.
    """
    own = own_ctf(particles, micrographs, refresh=refresh)[rows]
    _check_present(particles, micrographs, own)
    if native == "star":
        optics = _star_optics(particles, micrographs, rows, micrograph, pixel_size, own, mirrored)
    else:
        optics = _cs_optics(particles, micrographs, rows, micrograph, own)
    of_rows = [_of_rows(name, particles, micrographs, rows, micrograph, own) for name in _ROWS]
    if mirrored[0] != mirrored[1]:
        of_rows[2] = np.where(own, -of_rows[2], of_rows[2])
    found = np.concatenate([optics[:, :3], np.stack(of_rows, axis=1), optics[:, 3:]], axis=1)
    assert found.shape[1] >= len(CTF)
    _check_microscope(particles, micrographs, found)
    return found


def _check_present(particles: Particles, micrographs: Micrographs, own: NDArray[np.bool_]) -> None:
    if not own.all() and NEUTRAL_DEFOCUS not in micrographs.ctf:
        raise InputError(
            f"{micrographs.source}: no CTF values (rlnDefocusU, ctf/df1_A), and {particles.source} has none either, so "
            f"--ctf has nothing to apply; give the table that CTF estimation wrote"
        )
    for table, some in (("picks", own.any()), ("micrographs", not own.all())):
        for name in ("defocus_v_angstrom", "defocus_angle_degrees") if some else ():
            there = _has(particles, name) if table == "picks" else name in micrographs.ctf
            if not there:
                quantity = CTF_NEUTRAL[name]
                source = particles.source if table == "picks" else micrographs.source
                raise InputError(
                    f"{source}: has a defocus, but no {quantity.tag.removeprefix('_')} ({quantity.field}), which a CTF "
                    f"needs"
                )


def _has(particles: Particles, name: str) -> bool:
    quantity, table = CTF_NEUTRAL[name], particles.table
    if isinstance(table, StarTable):
        return quantity.tag in table.table
    return particles.family == "cs" and quantity.field in (table.dtype.names or ())


def _of_rows(
    name: str, particles: Particles, micrographs: Micrographs, rows: Codes, micrograph: Codes, own: NDArray[np.bool_]
) -> Floats:
    """A quantity that stands in rows, of each particle, in the unit of the STAR tag."""
    quantity, absent = CTF_NEUTRAL[name], _ABSENT.get(name, np.nan)
    of_files = micrographs.ctf[name][micrograph] if name in micrographs.ctf else np.full(len(rows), absent)
    if not own.any():
        return of_files
    if not _has(particles, name):
        of_picks = np.full(len(rows), absent)
    elif isinstance(particles.table, StarTable):
        of_picks = particles.table.table.floats(quantity.tag)[rows]
    else:
        of_picks = _degrees_or_as_it_is(name, particles.table[quantity.field][rows].astype(np.float64))
    return np.where(own, of_picks, of_files)


def _degrees_or_as_it_is(name: str, values: Floats) -> Floats:
    return np.degrees(values) if name.endswith("_degrees") else values


def _in_one_width(lists: list[list[float]]) -> Floats:
    """Lists of numbers as rows, zeros behind the shorter ones."""
    width = max(map(len, lists), default=0)
    return np.array([row + [0.0] * (width - len(row)) for row in lists]).reshape(len(lists), width)


def _numbers(row: dict[str, str]) -> list[float]:
    """What a row of data_optics says: the microscope, the magnification matrix, Zernike coefficients."""
    matrix = [number(row[tag]) if tag in row else neutral for tag, neutral in _MATRIX.items()]
    terms = vector(row.get(_EVEN, ""))
    while terms and terms[-1] == 0:
        terms.pop()
    return [*(number(row.get(tag)) for tag in MICROSCOPE), *matrix, *terms]


def _star_optics(
    particles: Particles,
    micrographs: Micrographs,
    rows: Codes,
    micrograph: Codes,
    pixel_size: Floats,
    own: NDArray[np.bool_],
    mirrored: tuple[bool, bool],
) -> Floats:
    """Of the optics groups that will be written: what the images have is what their table says."""
    groups = arrange_optics(
        particles, micrographs, rows=rows, micrograph=micrograph, pixel_size=pixel_size, own=own,
        mirror=partial(mirrored_optics, mirrored=mirrored) if any(mirrored) else None,
    )  # fmt: skip
    return _in_one_width([_numbers(row) for row in groups.rows])[groups.index]


def _cs_optics(
    particles: Particles, micrographs: Micrographs, rows: Codes, micrograph: Codes, own: NDArray[np.bool_]
) -> Floats:
    _refuse_unknown(particles.source, particles.table if particles.family == "cs" else None, rows[own])
    _refuse_unknown(micrographs.source, micrographs.table if micrographs.family == "cs" else None, micrograph[~own])
    nobody = [np.nan] * len(MICROSCOPE) + list(_MATRIX.values())
    index = micrographs.optics_index[micrograph]
    found = _in_one_width([*map(_of_group, micrographs.optics), nobody])[np.where(index < 0, -1, index)]
    found[own, len(nobody) :] = 0
    found[own, len(MICROSCOPE) : len(nobody)] = list(_MATRIX.values())
    for place, tag in enumerate(MICROSCOPE):
        if particles.family == "cs" and _FIELDS[tag] in (particles.table.dtype.names or ()):
            found[own, place] = particles.table[_FIELDS[tag]][rows[own]]
    return found


def _of_group(group: Optics) -> list[float]:
    if group.columns is not None:
        return _numbers(group.columns)
    return [group.voltage_kv, group.cs_mm, group.amplitude_contrast, *_MATRIX.values()]


def _refuse_unknown(source: str, table: NDArray[np.void] | None, rows: Codes) -> None:
    names = () if table is None else table.dtype.names or ()
    found = [field for field in _UNKNOWN if table is not None and field in names and np.any(table[field][rows])]
    if found:
        raise OptionError(
            f"{source}: {', '.join(found)} are not zero, and no public rule says how they change a CTF, so --ctf "
            f"cannot apply it; set them to zero, or leave out --ctf"
        )


def _check_microscope(particles: Particles, micrographs: Micrographs, found: Floats) -> None:
    bad = ~np.isfinite(found[:, :3]) | (found[:, :3] < [0, -np.inf, -1]) | (found[:, :3] > [HIGHEST_VOLTAGE, np.inf, 1])
    bad[:, 0] |= found[:, 0] == 0
    if bad.any():
        row, place = (int(k) for k in np.argwhere(bad)[0])
        tag, value = MICROSCOPE[place], found[row, place]
        raise InputError(
            f"{particles.source} or {micrographs.source}: {tag.removeprefix('_')} ({_FIELDS[tag]}) is {value:g} where "
            f"the CTF comes from ({int(bad[:, place].sum())} particles), and --ctf needs a number that a microscope has"
        )
