"""Which table the CTF of each particle comes from, and what a user must know of it. The rule, for every format:

All CTF quantities of a particle come from one place, together. Picks that have a defocus keep all of theirs, optics
included; others take all of their micrograph's, and so do all where the CTF is to be refreshed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cryobox.errors import InputError, OptionError
from cryobox.formats.columns import CTF_NEUTRAL, MICROSCOPE, QUANTITIES, UNRELATED_FIELDS, UNRELATED_TAGS
from cryobox.formats.star_optics import OpticsGroups, StarTable, distinct, rows_of_picks
from cryobox.formats.star_table import Codes, Floats, Table
from cryobox.formats.star_text import number
from cryobox.micrograph import PIXEL_SIZE_ERROR, PIXEL_SIZE_WARNING, Micrographs
from cryobox.particles import Particles

__all__ = [
    "DEFOCUS",
    "NEUTRAL_DEFOCUS",
    "CtfQuestion",
    "aberrations",
    "check_ctf",
    "check_groups",
    "check_has_defocus",
    "own_ctf",
    "vector",
]

Mask = NDArray[np.bool_]

DEFOCUS = "_rlnDefocusU"
DEFOCUS_FIELD = "ctf/df1_A"
NEUTRAL_DEFOCUS = "defocus_u_angstrom"
SAME = 1e-3  # relative: a voltage or Cs that differs by less is the same, written with other digits
_QUALITY = ("_rlnCtfFigureOfMerit", "_rlnCtfMaxResolution")
_NEEDED_ROWS = ("_rlnDefocusU", "_rlnDefocusV", "_rlnDefocusAngle")
_FIELD_OF = {quantity.tag: quantity.field for quantity in QUANTITIES}
_OPTICS_FIELDS = {tag: _FIELD_OF[tag] for tag in MICROSCOPE}
_NEEDED_FIELDS = tuple(_FIELD_OF[tag] for tag in (*MICROSCOPE, *_NEEDED_ROWS))


@dataclass(frozen=True, slots=True, kw_only=True)
class CtfQuestion:
    """What the answer depends on.

    Parameters
    ----------
    rows, micrograph : ndarray, shape (n,), intp
        The particles that will be written, and the micrograph of each.
    pixel_size : ndarray, shape (micrographs,)
        Å per pixel, as used.
    refresh, average : bool
        `Recipe.refresh_ctf`, `Recipe.ctf_average`.
    coordinate_scale : ndarray, shape (micrographs,)
        Pixels of the micrograph per pixel of the picks, as the user gave it.
    style : str
        Of the tables.
    """

    rows: Codes
    micrograph: Codes
    pixel_size: Floats
    refresh: bool
    average: bool
    coordinate_scale: Floats
    style: str


def own_ctf(particles: Particles, micrographs: Micrographs, *, refresh: bool) -> Mask:
    """Which rows of the picks' table keep their own CTF, shape (rows,).

    A table of micrographs that has no defocus has nothing to refresh from: the picks then keep theirs.
    """
    own = np.zeros(particles.table_length, np.bool_)
    if refresh and NEUTRAL_DEFOCUS in micrographs.ctf:
        return own
    table = particles.table
    if isinstance(table, StarTable):
        if DEFOCUS in table.table:
            own[:] = True
            if table.lacks_defocus is not None:
                own &= ~table.lacks_defocus
    elif particles.family == "cs":
        own[:] = DEFOCUS_FIELD in (table.dtype.names or ())
        if particles.lacks_ctf is not None:
            own &= ~particles.lacks_ctf
    return own


def check_has_defocus(particles: Particles, micrographs: Micrographs) -> None:
    """Refuse to adjust a defocus that nobody has.

    Raises
    ------
    OptionError
    """
    if NEUTRAL_DEFOCUS not in micrographs.ctf and not own_ctf(particles, micrographs, refresh=False).any():
        raise OptionError(
            f"{particles.source}: has no defocus, and {micrographs.source} has none either, so --adjust-defocus has "
            f"nothing to adjust; leave it out, or give micrographs after CTF estimation"
        )


def check_ctf(particles: Particles, micrographs: Micrographs, question: CtfQuestion) -> tuple[str, ...]:
    """Refuse tables that contradict each other, and say once what is missing, replaced or no number.

    Raises
    ------
    InputError
        If picks and micrographs differ in the voltage (without `refresh`), or by a factor of 1.4 in the pixel size.
    OptionError
        If local defocus values would be replaced by averages of whole micrographs.
    """
    own = own_ctf(particles, micrographs, refresh=question.refresh)
    if particles.lacks_ctf is not None and NEUTRAL_DEFOCUS not in micrographs.ctf:
        raise InputError(
            f"{particles.source}: some of these tables have a CTF ({DEFOCUS_FIELD}), others have none, and "
            f"{micrographs.source} has none for them either; give exposures after CTF estimation, or extract them apart"
        )
    told = [
        *_average_instead_of_spline(particles, micrographs, question, own),
        *_contradictions(particles, micrographs, question),
        *_pixel_sizes(particles, question),
        *_absent(particles, micrographs, question, own),
        *_not_finite(particles, micrographs, question, own),
        *_not_convertible(particles, micrographs, question, own),
    ]
    return tuple(told)


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


# Patch CTF -----------------------------------------------------------------------------------------------------------


def _average_instead_of_spline(
    particles: Particles, micrographs: Micrographs, question: CtfQuestion, own: Mask
) -> list[str]:
    """A spline over the micrograph is not read: what a table has besides is its average."""
    if NEUTRAL_DEFOCUS not in micrographs.ctf or micrographs.ctf_type is None or not len(question.rows):
        return []
    local = np.array([kind == "spline" for kind in micrographs.ctf_type], np.bool_)
    taken = ~own[question.rows] & local[question.micrograph]
    splines = len(np.unique(question.micrograph[taken]))
    if not splines:
        return []
    had = own_ctf(particles, micrographs, refresh=False)[question.rows]
    replaced = int((taken & had).sum())
    if replaced and not question.average:
        raise OptionError(
            f"{micrographs.source}: the defocus of {_count(splines, 'micrograph')} comes from Patch CTF, of which "
            f"--refresh-ctf would give {_count(replaced, 'particle')} the micrograph's average in place of a local "
            f"value; run CryoSPARC's Patch CTF Extraction on the result instead, or accept the average with "
            f"--ctf-average"
        )
    told = (
        f"{micrographs.source}: the defocus of {_count(splines, 'micrograph')} comes from Patch CTF; "
        f"{_count(int(taken.sum()), 'particle')} get their micrograph's average. CryoSPARC's Patch CTF Extraction "
        f"gives local values: run it (job type patch_ctf_extract) on the result"
    )
    return [told]


# Contradictions ------------------------------------------------------------------------------------------------------


def _contradictions(particles: Particles, micrographs: Micrographs, question: CtfQuestion) -> list[str]:
    """Two tables that differ in the voltage are of two microscopes; another Cs may have been fitted."""
    found = []
    star = particles.table if isinstance(particles.table, StarTable) else None
    in_rows = None if star is None else rows_of_picks(star)
    for tag, what, unit in (("_rlnVoltage", "voltage", "kV"), ("_rlnSphericalAberration", "Cs", "mm")):
        names, of_picks, of_files, rows = _pairs(micrographs, question, tag, *_said_by_picks(particles, tag, in_rows))
        with np.errstate(invalid="ignore"):
            differs = np.abs(of_picks - of_files) > SAME * np.maximum(np.abs(of_picks), np.abs(of_files))
        if not differs.any():
            continue
        k = int(np.argmax(differs))
        who, count = names[k], int(rows[differs].sum())
        values = f"{who} {of_picks[k]:g} {unit}, but {micrographs.source} says {of_files[k]:g} {unit}"
        if tag == "_rlnVoltage" and not question.refresh:
            raise InputError(
                f"{particles.source}: {values} for the same micrographs ({_count(count, 'particle')}); correct the "
                f"table that is wrong, or take all CTF values from the micrographs with --refresh-ctf"
            )
        refreshed = question.refresh and NEUTRAL_DEFOCUS in micrographs.ctf
        winner = "the micrographs' is used" if refreshed else "the one that comes with the defocus is used"
        found.append(f"another {what}: {values}; {winner} ({_count(count, 'particle')})")
    return [f"{particles.source}: {'; '.join(found)}"] if found else []


def _pairs(
    micrographs: Micrographs, question: CtfQuestion, tag: str, names: list[str], codes: Codes, values: Floats
) -> tuple[list[str], Floats, Floats, NDArray[np.int64]]:
    """Each pair of values that picks and their micrographs say of one thing: whose, both values, how many rows."""
    index = micrographs.optics_index[question.micrograph]
    of_group = np.array([*(_optics_number(micrographs, i, tag) for i in range(len(micrographs.optics))), np.nan])
    key = codes[question.rows] * len(of_group) + np.where(index < 0, len(of_group) - 1, index)
    found, _, counts = distinct(key.astype(np.int64))
    first, second = np.divmod(found, len(of_group))
    whose = [names[i] for i in first.tolist()]
    return whose, _known(values[first]), _known(of_group[second]), counts


def _known(values: Floats) -> Floats:
    """Zero and negative numbers stand for "not known" in a voltage; a Cs of zero is a corrected microscope's."""
    return np.where(values >= 0, values, np.nan)


def _optics_number(micrographs: Micrographs, i: int, tag: str) -> float:
    group = micrographs.optics[i]
    value = group.voltage_kv if tag == "_rlnVoltage" else group.cs_mm
    return value if value > 0 or tag != "_rlnVoltage" else float("nan")


def _said_by_picks(
    particles: Particles, tag: str, in_rows: tuple[list[dict[str, str]], Codes] | None
) -> tuple[list[str], Codes, Floats]:
    """Who says it (for messages), the speaker of each pick, and each speaker's value; nan where nothing is said."""
    star = particles.table
    if isinstance(star, StarTable) and in_rows is not None:
        values, of_row = in_rows
        who = [
            f"optics group {row.get('_rlnOpticsGroupName', row['_rlnOpticsGroup'])!r} has {tag}" for row in star.optics
        ]
        said = [*(number(row.get(tag)) for row in star.optics), np.nan]  # the last: rows without a group
        in_row = [number(row.get(tag)) for row in values] or [np.nan]
        group = np.full(particles.table_length, len(star.optics), np.intp)
        if star.group is not None:
            group = np.where(star.group < 0, len(star.optics), star.group)
        each = np.array([[_of_voltage(tag, v if np.isfinite(v) else w) for w in in_row] for v in said], np.float64)
        names = [[who[g] if np.isfinite(v) else f"{tag} is" for _ in in_row] for g, v in enumerate(said)]
        codes = group * len(in_row) + (of_row if len(of_row) else 0)
        return [name for row in names for name in row], codes, each.ravel()
    elif particles.family == "cs" and _OPTICS_FIELDS[tag] in (particles.table.dtype.names or ()):
        column = particles.table[_OPTICS_FIELDS[tag]]
        if column.dtype.kind == "f" and column.ndim == 1:
            distinct, codes = np.unique(column.astype(np.float64), return_inverse=True)
            each = np.array([_of_voltage(tag, value) for value in distinct.tolist()], np.float64)
            return [f"{_OPTICS_FIELDS[tag]} is"] * len(distinct), codes.astype(np.intp), each
    return ["the table"], np.zeros(particles.table_length, np.intp), np.array([np.nan])


def _of_voltage(tag: str, value: float) -> float:
    return value if tag != "_rlnVoltage" or value > 0 else float("nan")


def _pixel_sizes(particles: Particles, question: CtfQuestion) -> list[str]:
    """A pixel size of micrographs that a table of picks has in its optics: only to be compared."""
    star = particles.table
    tag = "_rlnMicrographPixelSize"
    if not isinstance(star, StarTable) or star.group is None or not any(tag in row for row in star.optics):
        return []
    said = np.array([number(row.get(tag)) for row in star.optics])
    grouped = star.group[question.rows] >= 0
    key = (star.group[question.rows] * max(len(question.pixel_size), 1) + question.micrograph)[grouped]
    pairs, _, counts = distinct(key.astype(np.int64))
    group, micrograph = np.divmod(pairs, max(len(question.pixel_size), 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = said[group] / question.coordinate_scale[micrograph] / question.pixel_size[micrograph]
        ratio = np.nan_to_num(np.maximum(ratio, 1 / ratio), nan=1.0, posinf=1.0)
    if not len(ratio) or ratio.max() <= PIXEL_SIZE_WARNING:
        return []
    k = int(np.argmax(ratio))
    name = star.optics[group[k]].get("_rlnOpticsGroupName", str(group[k] + 1))
    values = (
        f"{particles.source}: optics group {name!r} has {tag} {said[group[k]]:g}, but the "
        f"micrographs have {question.pixel_size[micrograph[k]]:g} Å per pixel"
    )
    if ratio[k] > PIXEL_SIZE_ERROR:
        raise InputError(
            f"{values}; were the picks made on another binning? Give --coord-scale "
            f"{said[group[k]] / question.pixel_size[micrograph[k]]:g}, or correct the table"
        )
    return [f"{values}; the micrographs' is used ({_count(int(counts[ratio > PIXEL_SIZE_WARNING].sum()), 'particle')})"]


# What is missing or no number ----------------------------------------------------------------------------------------


def _absent(particles: Particles, micrographs: Micrographs, question: CtfQuestion, own: Mask) -> list[str]:
    """CTF values that nobody has."""
    in_files = NEUTRAL_DEFOCUS in micrographs.ctf
    without = int((~own[question.rows]).sum())
    found = []
    name = "rlnDefocusU" if question.style == "relion" else "ctf/df1_A"
    if question.refresh and not in_files and not without and len(question.rows):
        found.append(
            f"{micrographs.source}: no CTF values ({name}); --refresh-ctf has no effect, the picks keep theirs"
        )
    elif without and not in_files:
        found.append(
            f"{micrographs.source}: no CTF values ({name}), and {particles.source} has none either: "
            f"{_count(without, 'particle')} are written without CTF (is this the table of motion correction? Give the "
            f"one that CTF estimation wrote)"
        )
    return found


def _not_finite(particles: Particles, micrographs: Micrographs, question: CtfQuestion, own: Mask) -> list[str]:
    """Failed fits: nan and infinity poison a refinement; and columns that are there in part only."""
    from_picks = own[question.rows]
    found = []
    if not from_picks.all():
        found += _bad_fits_of_micrographs(micrographs, question, from_picks)
    if from_picks.any():
        rows = question.rows[from_picks]
        star = particles.table
        if isinstance(star, StarTable):
            found += _bad_text(particles.source, star.table, rows)
            found += _lacking(particles.source, [tag for tag in _NEEDED_ROWS if tag not in star.table], len(rows))
        else:
            found += _bad_fields(particles, rows)
            filled = [field for field in _NEEDED_FIELDS[:3] if field not in (particles.table.dtype.names or ())]
            if filled:
                found.append(
                    f"{particles.source} or {micrographs.source}: {', '.join(filled)} missing where the CTF comes "
                    f"from, and taken from the other table ({_count(len(rows), 'particle')})"
                )
    return found


def _bad_fits_of_micrographs(micrographs: Micrographs, question: CtfQuestion, from_picks: Mask) -> list[str]:
    if NEUTRAL_DEFOCUS not in micrographs.ctf:
        return []
    used = np.unique(question.micrograph[~from_picks])
    star = micrographs.table
    bad: dict[str, Mask] = {}
    lacking: list[str] = []
    if isinstance(star, StarTable):
        bad = {tag: star.table.not_numbers(tag, used) for tag in _fit_tags(star.table)}
        lacking = _lacking(micrographs.source, [tag for tag in _NEEDED_ROWS if tag not in star.table], len(used))
    else:
        bad = {CTF_NEUTRAL[name].field: ~np.isfinite(values[used]) for name, values in micrographs.ctf.items()}
    particles = np.bincount(question.micrograph[~from_picks], minlength=len(micrographs))[used]
    return (
        _bad_values(micrographs.source, bad, "micrograph", lambda i: micrographs.names[int(used[i])], particles)
        + lacking
    )


def _bad_text(source: str, table: Table, rows: Codes) -> list[str]:
    """Columns of a STAR table in which nan or infinity stands, or what is no number at all."""
    bad = {tag: table.not_numbers(tag, rows) for tag in _fit_tags(table)}
    return _bad_values(source, bad, "particle", lambda i: f"row {rows[i] + 1}")


def _fit_tags(table: Table) -> list[str]:
    return [tag for tag in (*(q.tag for q in CTF_NEUTRAL.values()), *_QUALITY) if tag in table]


def _bad_values(
    source: str,
    bad: dict[str, Mask],
    noun: str,
    name_of: Callable[[int], str],
    particles: NDArray[np.int64] | None = None,
) -> list[str]:
    """One warning for what a refinement uses, one for what only says how good a fit was."""
    found = []
    for columns, meaning in (
        ([c for c in bad if c not in _QUALITY], "a refinement cannot use such a CTF: fit it again, or leave them out"),
        ([c for c in bad if c in _QUALITY], "written as it stands"),
    ):
        named = [column for column in columns if bad[column].any()]
        if not named:
            continue
        rows = np.logical_or.reduce([bad[column] for column in named])
        who = "" if particles is None else f"; {_count(int(particles[rows].sum()), 'particle')} concerned"
        verb = "is not a finite number" if len(named) == 1 else "are not finite numbers"
        found.append(
            f"{source}: {', '.join(named)} {verb} for {int(rows.sum())} of {_count(len(rows), noun)}, the first is "
            f"{name_of(int(np.argmax(rows)))}{who}; {meaning}"
        )
    return found


def _bad_fields(particles: Particles, rows: Codes) -> list[str]:
    table = particles.table
    names = table.dtype.names or ()
    fields = dict.fromkeys((*_NEEDED_FIELDS, *(q.field for q in CTF_NEUTRAL.values())))
    bad = {
        field: ~np.isfinite(table[field][rows])
        for field in fields
        if field in names and table[field].dtype.kind == "f" and table[field].ndim == 1
    }
    lacking = _lacking(particles.source, [field for field in _NEEDED_FIELDS[3:] if field not in names], len(rows))
    return _bad_values(particles.source, bad, "particle", lambda i: f"row {rows[i] + 1}") + lacking


def _lacking(source: str, columns: Sequence[str], count: int) -> list[str]:
    if not columns or not count:
        return []
    return [f"{source}: has a defocus, but no {', '.join(columns)}, which a CTF needs ({count} rows)"]


def check_groups(particles: Particles, micrographs: Micrographs, groups: OpticsGroups, count: int) -> tuple[str, ...]:
    """What a user must know of the optics groups that are written."""
    told = [
        f"{particles.source} or {micrographs.source}: {tag} is missing where the CTF comes from, and taken from the "
        f"other table ({_count(n, 'particle')})"
        for tag, n in groups.filled.items()
    ]
    has_ctf = count and (NEUTRAL_DEFOCUS in micrographs.ctf or own_ctf(particles, micrographs, refresh=False).any())
    for tag in MICROSCOPE if has_ctf else ():
        lacking = [row["_rlnOpticsGroupName"] for row in groups.rows if not np.isfinite(number(row.get(tag)))]
        if lacking:
            told.append(
                f"{micrographs.source}: optics group {lacking[0]!r} has no {tag}, which RELION needs for CTF "
                f"correction ({_count(len(lacking), 'group')})"
            )
    return tuple(told)


# What the other family has no public rule for ------------------------------------------------------------------------


def _not_convertible(particles: Particles, micrographs: Micrographs, question: CtfQuestion, own: Mask) -> list[str]:
    """Aberrations of exposures that are written into a table of the other family."""
    if own[question.rows].all():
        return []
    used = np.unique(question.micrograph[~own[question.rows]])
    if question.style == "relion" and micrographs.family == "cs":
        table = micrographs.table
        names = [f for f in UNRELATED_FIELDS if f in (table.dtype.names or ()) and np.any(table[f][used])]
    elif question.style == "cryosparc" and isinstance(micrographs.table, StarTable):
        groups = {int(i) for i in np.unique(micrographs.optics_index[used]) if i >= 0}
        names = aberrations([micrographs.optics[i].columns or {} for i in groups])
    else:
        names = []
    if not names:
        return []
    told = (
        f"{micrographs.source}: {', '.join(names)} are left out, since no public rule says what they are in the other "
        f"program's table; refine them again there"
    )
    return [told]


def aberrations(optics: Sequence[dict[str, str]]) -> list[str]:
    """Columns of data_optics that hold an aberration which is not zero (a magnification matrix: not one)."""
    neutral = {"_rlnMagMat00": 1.0, "_rlnMagMat11": 1.0}
    return [
        tag
        for tag in UNRELATED_TAGS
        if any(tag in row and set(vector(row[tag])) - {neutral.get(tag, 0.0)} for row in optics)
    ]


def vector(text: str) -> list[float]:
    """The numbers of a value such as 0.1 or [0,1,2]; nan for what is none."""
    return [number(part) for part in text.strip("[]").split(",") if part.strip()]
