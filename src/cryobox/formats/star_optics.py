"""The optics groups of STAR tables: read from data_optics or from 3.0-style rows, and made for the particles' table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cryobox.errors import InputError
from cryobox.formats.columns import CTF_OPTICS, DETECTOR, IMAGE_FLAGS, MICROSCOPE, TILT_CLASS, UNRELATED_TAGS
from cryobox.formats.star_table import Codes, Floats, Table
from cryobox.formats.star_text import number
from cryobox.micrograph import Micrographs, Optics
from cryobox.particles import Particles

__all__ = [
    "OpticsGroups",
    "StarTable",
    "arrange_optics",
    "distinct",
    "group_of_rows",
    "image_flags",
    "image_optics",
    "image_pixel_size",
    "micrograph_optics",
    "rows_of_picks",
    "unique_groups",
]

GROUP = "_rlnOpticsGroup"
GROUP_NAME = "_rlnOpticsGroupName"
MICROGRAPH_PIXEL = "_rlnMicrographPixelSize"
ORIGINAL_PIXEL = "_rlnMicrographOriginalPixelSize"
MOST_GROUPS = 1000  # made of the values of single rows; more are no groups
# What describes the images of a table, and is made anew.
_OF_IMAGES = frozenset(
    (*IMAGE_FLAGS, MICROGRAPH_PIXEL, "_rlnImagePixelSize", "_rlnImageSize", "_rlnImageDimensionality")
)
# Columns that stand in the rows of 3.0-style tables, and in data_optics since 3.1.
_ROWS_30 = (*MICROSCOPE, *UNRELATED_TAGS, TILT_CLASS, *DETECTOR)
_ROWS_31 = (*MICROSCOPE, *DETECTOR)  # since 3.1 a beam tilt in the rows is one that RELION does not read


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StarTable:
    """What a STAR file gave: the table of the rows, data_optics, and the blocks that are carried through.

    Parameters
    ----------
    table : Table
    optics : tuple of dict
        The rows of data_optics as text, tags with the underscore; empty for 3.0-style files.
    group : ndarray, shape (n,), intp, optional
        Index into `optics` of each row; -1 for rows of joined files that have none.
    others : tuple of bytes
        Every other block, as it stands in the file.
    optics_raw : bytes
        data_optics as it stands in the file.
    lacks_defocus : ndarray, shape (n,), bool, optional
        Rows of joined files that have no defocus, where others have one.
    in_rows : (list of dict, ndarray), optional
        Of joined files: what `rows_of_picks` says of each, put together.
    """

    table: Table
    optics: tuple[dict[str, str], ...] = ()
    group: Codes | None = None
    others: tuple[bytes, ...] = ()
    optics_raw: bytes = b""
    lacks_defocus: NDArray[np.bool_] | None = None
    in_rows: tuple[list[dict[str, str]], Codes] | None = None


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


def image_pixel_size(star: StarTable) -> Floats:
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
    tags = [tag for tag in (*_ROWS_30, "_rlnDetectorPixelSize", "_rlnMagnification") if tag in table]
    rows, index, first = _values_of_rows(table, tags)
    if not tags or not len(table):
        return (), np.full(len(table), -1, np.intp)
    pixel_size = row_pixel_size(table)[first].tolist()
    named = [
        {GROUP_NAME: f"opticsGroup{i}", GROUP: str(i)}
        | {tag: text for tag, text in row.items() if tag in CTF_OPTICS or tag in DETECTOR}
        for i, row in enumerate(rows, 1)
    ]
    return tuple(_optics(row, size) for row, size in zip(named, pixel_size, strict=True)), index


def _group_number(row: dict[str, str]) -> int:
    """The number of an optics group; 0 where there is none that a 32-bit integer holds."""
    value = number(row.get(GROUP))
    return int(value) if abs(value) < 2**31 else 0


def _optics(row: dict[str, str], pixel_size: float) -> Optics:
    voltage, cs, contrast = (number(row.get(tag)) for tag in MICROSCOPE)
    return Optics(
        name=_group_name(row),
        voltage_kv=voltage,
        cs_mm=cs,
        amplitude_contrast=contrast,
        pixel_size=pixel_size,
        group_id=_group_number(row),
        columns=row,
    )


def _group_name(row: dict[str, str]) -> str:
    return row.get(GROUP_NAME, f"opticsGroup{row[GROUP]}")


def _values_of_rows(table: Table, tags: Sequence[str]) -> tuple[list[dict[str, str]], Codes, Codes]:
    """The distinct combinations of values in these columns, which one each row has, and the first row of each.

    Numbers are told apart by their value: 300 and 300.000000 are one.
    """
    key = np.zeros(len(table), np.intp)
    for tag in tags:
        codes, texts = table.codes(tag)
        place: dict[str | float, int] = {}
        same = np.array([place.setdefault(_comparable(text), len(place)) for text in texts], np.intp)
        _, key = np.unique(key * max(len(place), 1) + same[codes], return_inverse=True)
    _, first, index = np.unique(key, return_index=True, return_inverse=True)
    if len(first) > MOST_GROUPS:
        raise InputError(
            f"{table.path}: {', '.join(tags)} have {len(first)} different values in its rows; since RELION 3.1 each is "
            f"an optics group, of which {MOST_GROUPS} are the most: round the values, or remove the columns"
        )
    rows = []
    for row in first.tolist():
        values = table.row(row)
        rows.append({tag: values[tag] for tag in tags})
    return rows, index.astype(np.intp), first


def _comparable(text: str) -> str | float:
    value = number(text)
    return value if np.isfinite(value) else text


def rows_of_picks(star: StarTable) -> tuple[list[dict[str, str]], Codes]:
    """What the rows of picks say of their optics themselves, and which of these values each row has.

    3.0-style rows say all of it; since 3.1 only what their data_optics does not say is read from the rows.
    """
    if star.in_rows is not None:
        return star.in_rows
    told = {tag for row in star.optics for tag in row}
    tags = _ROWS_31 if star.optics else _ROWS_30
    rows, index, _ = _values_of_rows(star.table, [tag for tag in tags if tag in star.table and tag not in told])
    return rows, index


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OpticsGroups:
    """The optics groups of some particles.

    Parameters
    ----------
    rows : tuple of dict
        The groups as text, tags with the underscore, names and numbers unique; what describes images is not there.
    pixel_size : tuple of float
        Å per pixel of the micrographs of each group.
    index : ndarray, shape (n,), intp
        Index into `rows` of each particle.
    filled : dict of str to int
        Columns without which there is no CTF, taken from the other table since the one that the CTF comes from has
        none: how many particles.
    """

    rows: tuple[dict[str, str], ...]
    pixel_size: tuple[float, ...]
    index: Codes
    filled: dict[str, int]


@dataclass(frozen=True, slots=True)
class _Kind:
    """What particles of one optics group have in common."""

    own: bool  # the CTF is that of the picks
    group: int  # of the picks, -1: none
    values: int  # of the picks' rows
    micrographs: int  # group of the micrographs, -1: none
    size: int


def arrange_optics(
    particles: Particles,
    micrographs: Micrographs,
    *,
    rows: Codes,
    micrograph: Codes,
    pixel_size: Floats,
    own: NDArray[np.bool_],
    mirror: Callable[[dict[str, str]], dict[str, str]] | None = None,
) -> OpticsGroups:
    """Make the optics groups of the particles `rows`: each row's values from the table that its CTF comes from.

    A group of one table becomes several where its particles differ in anything that the table says of a group: the
    first keeps the name and the number. Groups of different names stay apart, equal ones are not multiplied.

    Parameters
    ----------
    rows, micrograph : ndarray, shape (n,), intp
        Rows of `particles`, and the row of `micrographs` of each.
    pixel_size : ndarray, shape (micrographs,)
        Å per pixel, as used.
    own : ndarray, shape (n,), bool
        Whether the CTF is the picks' own, else the micrograph's.
    mirror : callable, optional
        What becomes of the picks' values where their CTF is used: those of a mirrored copy.
    """
    star = particles.table if isinstance(particles.table, StarTable) else None
    groups: tuple[dict[str, str], ...] = () if star is None else star.optics
    values, of_row = ([{}], None) if star is None else rows_of_picks(star)
    sizes, size_of = np.unique(np.round(pixel_size, 6), return_inverse=True)
    n_groups, n_values, n_optics = len(groups) + 1, max(len(values), 1), len(micrographs.optics) + 1
    key = own.astype(np.int64) * n_groups
    if star is not None and star.group is not None:
        key += star.group[rows] + 1
    key *= n_values
    if of_row is not None:
        key += of_row[rows]
    of_micrograph = (micrographs.optics_index + 1) * max(len(sizes), 1) + size_of
    key = key * (n_optics * max(len(sizes), 1)) + of_micrograph[micrograph]
    found, index, counts = distinct(key)
    if not len(found):  # a table without particles has the groups that they would have
        found, counts = np.unique(of_micrograph), np.zeros(len(of_micrograph), np.intp)
    made: list[dict[str, str]] = []
    kinds: list[_Kind] = []
    filled: dict[str, int] = {}
    for code, count in zip(found.tolist(), counts.tolist(), strict=False):
        code, size = divmod(code, max(len(sizes), 1))
        code, optics = divmod(code, n_optics)
        code, value = divmod(code, n_values)
        is_own, group = divmod(code, n_groups)
        kind = _Kind(bool(is_own), group - 1, value, optics - 1, size)
        picked = (groups[kind.group] if kind.group >= 0 else {}) | (values[value] if values else {})
        if mirror is not None and kind.own:
            picked = mirror(picked)
        of_files = _neutral_row(micrographs.optics[kind.micrographs]) if kind.micrographs >= 0 else {}
        row, lacking = _one_source(picked, of_files, own=kind.own, size=float(sizes[size]))
        for tag in lacking:
            filled[tag] = filled.get(tag, 0) + count
        made.append(row)
        kinds.append(kind)
    place, order = _distinct_groups(made, kinds)
    final = _renumber(_rename([made[k] for k in order], [float(sizes[kinds[k].size]) for k in order]))
    return OpticsGroups(
        rows=tuple(final),
        pixel_size=tuple(float(sizes[kinds[k].size]) for k in order),
        index=np.array(place, np.intp)[index],
        filled=filled,
    )


def distinct(key: NDArray[np.int64]) -> tuple[NDArray[np.int64], Codes, NDArray[np.int64]]:
    """Distinct values of codes from 0 up, which one each has, and how often each is there.

    Codes of groups are few: counting them takes 10 ms for a million rows, sorting them 150.
    """
    if not len(key) or key.max() >= _COUNTED:
        found, index, counts = np.unique(key, return_inverse=True, return_counts=True)
        return found, index.astype(np.intp), counts
    counts = np.bincount(key)
    found = np.flatnonzero(counts)
    place = np.zeros(len(counts), np.intp)
    place[found] = np.arange(len(found))
    return found, place[key], counts[found]


_COUNTED = 1 << 22


def _one_source(
    picked: dict[str, str], of_files: dict[str, str], *, own: bool, size: float
) -> tuple[dict[str, str], list[str]]:
    """The optics of a particle: the CTF's from one table; also what had to be taken from the other one."""
    source, other = (picked, of_files) if own else (of_files, picked)
    ctf = {tag: source[tag] for tag in CTF_OPTICS if tag in source}
    lacking = [tag for tag in MICROSCOPE if tag not in source and tag in other]
    ctf |= {tag: other[tag] for tag in lacking}
    detector = {tag: row[tag] for row in (picked, of_files) for tag in DETECTOR if tag in row}
    apart = {*CTF_OPTICS, *DETECTOR, *_OF_IMAGES, TILT_CLASS, GROUP, GROUP_NAME}
    rest = {tag: text for row in (other, source) for tag, text in row.items() if tag not in apart}
    named = source if GROUP in source else other
    name = _group_name(named) if GROUP in named else ""
    row = {GROUP_NAME: name, GROUP: named.get(GROUP, "0"), **detector, **ctf, **rest}
    row.setdefault(ORIGINAL_PIXEL, f"{size:.6f}")
    if TILT_CLASS in source:  # told apart here, not written: it is what the group's name stands for
        row[TILT_CLASS] = source[TILT_CLASS]
    order = dict.fromkeys(tag for tag in (GROUP_NAME, GROUP, *source, *row) if tag in row)
    return {tag: row[tag] for tag in order}, lacking


def _distinct_groups(made: Sequence[dict[str, str]], kinds: Sequence[_Kind]) -> tuple[list[int], list[int]]:
    """Which group each kind of particle belongs to, and which kinds the groups are made of, in the tables' order."""

    def key(k: int) -> tuple[object, ...]:
        row = made[k]
        return (kinds[k].size, *sorted((tag, _comparable(text)) for tag, text in row.items() if tag != GROUP))

    def place(k: int) -> tuple[int, ...]:
        kind = kinds[k]
        first, second = (kind.group, kind.micrographs) if kind.own else (kind.micrographs, kind.group)
        return (not kind.own, first, kind.values, second, kind.size)

    group: dict[tuple[object, ...], int] = {}
    order: list[int] = []
    of_kind = [0] * len(made)
    for k in sorted(range(len(made)), key=place):
        number_of = group.setdefault(tuple(map(str, key(k))), len(group))
        if number_of == len(order):
            order.append(k)
        of_kind[k] = number_of
    return of_kind, order


def unique_groups(rows: Sequence[dict[str, str]]) -> tuple[list[dict[str, str]], list[int]]:
    """Rows of data_optics, equal ones once, with names and numbers of their own; and which one each row became."""
    place: dict[tuple[tuple[str, str], ...], int] = {}
    of_row = []
    kept: list[dict[str, str]] = []
    for row in rows:
        at = place.setdefault(tuple(sorted((tag, text) for tag, text in row.items() if tag != GROUP)), len(place))
        if at == len(kept):
            kept.append({GROUP_NAME: "", GROUP: "0"} | row)
        of_row.append(at)
    return _renumber(_rename(kept, [0.0] * len(kept))), of_row


def _rename(rows: Sequence[dict[str, str]], sizes: Sequence[float]) -> list[dict[str, str]]:
    """Give each group a name of its own: the first of each name keeps it, the others say what is different."""
    names = [row[GROUP_NAME] or f"opticsGroup{i}" for i, row in enumerate(rows, 1)]
    taken = set(names)
    first: dict[str, int] = {}
    found = []
    for i, (row, name) in enumerate(zip(rows, names, strict=True)):
        chosen = name
        before = first.setdefault(name, i)
        if before != i:
            candidates = _more_names(name, row, sizes[i] if sizes[i] != sizes[before] else None)
            chosen = next(text for text in candidates if text not in taken)
            taken.add(chosen)
        found.append({tag: text for tag, text in row.items() if tag != TILT_CLASS} | {GROUP_NAME: chosen})
    return found


def _more_names(name: str, row: dict[str, str], size: float | None) -> Iterable[str]:
    if size is not None:
        yield f"{name}_{size:g}"
    if TILT_CLASS in row and not any(byte <= " " for byte in row[TILT_CLASS]):
        yield f"{name}_{row[TILT_CLASS]}"
    for k in range(2, 2**31):
        yield f"{name}_{k}"


def _neutral_row(group: Optics) -> dict[str, str]:
    """The row of an optics group; made of the plain numbers where the micrographs are no STAR table."""
    row = {GROUP_NAME: group.name, GROUP: str(group.group_id)}
    numbers = zip(MICROSCOPE, (group.voltage_kv, group.cs_mm, group.amplitude_contrast), strict=True)
    if group.columns is None:
        row |= {tag: f"{value:.6f}" for tag, value in numbers if np.isfinite(value)}
    return row | (group.columns or {}) | {GROUP_NAME: group.name}


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


def image_flags(ctf: str | None) -> dict[str, str]:
    """What data_optics says of images to which `ctf` was done: "flip", "premultiply" or nothing."""
    return dict(zip(IMAGE_FLAGS, ("1" if ctf == done else "0" for done in ("premultiply", "flip")), strict=True))


def image_optics(
    groups: OpticsGroups, *, boxes: Sequence[int], size: int, flags: Mapping[str, str]
) -> list[dict[str, str]]:
    """The rows of data_optics for images of `size` pixels, made of windows of `boxes`, one a group.

    `flags` say what was done to all of them.
    """
    return [
        {
            **row,
            "_rlnImagePixelSize": f"{pixel_size * box / size:.6f}",
            "_rlnImageSize": str(size),
            "_rlnImageDimensionality": "2",
            **flags,
        }
        for row, pixel_size, box in zip(groups.rows, groups.pixel_size, boxes, strict=True)
    ]
