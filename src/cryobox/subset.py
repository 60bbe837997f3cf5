"""The rows of one table that another one has: a selection made on small images, brought to the large ones."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryobox.comparison.pairing import BY_UID, pair_rows
from cryobox.comparison.sides import Side, read_side
from cryobox.errors import InputError, OptionError, OutputError
from cryobox.folder.publish import publish_files
from cryobox.formats.cs_table import write_table
from cryobox.formats.csg import write_group
from cryobox.formats.poses import angles_said
from cryobox.formats.star_output import write_rows
from cryobox.matching import NO_STRIP, Strip
from cryobox.particles import Particles
from cryobox.paths import Start

__all__ = ["Subset", "select_like"]

Rows = NDArray[np.intp]

_EXPANDED = ("sym_expand/src_uid", "sym_expand/idx")


@dataclass(frozen=True, slots=True, kw_only=True)
class Subset:
    """What was chosen.

    Parameters
    ----------
    rows : int
        That were written.
    full, like : int
        Rows of the two tables.
    missing : int
        Rows of the smaller table that the larger one does not have.
    rules : dict of str to int
        By what rows were found to be the same.
    tables : tuple of Path
    notes : tuple of str
    """

    rows: int
    full: int
    like: int
    missing: int
    rules: dict[str, int]
    tables: tuple[Path, ...]
    notes: tuple[str, ...]


def select_like(
    full: str | os.PathLike[str],
    like: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    within: float = 1.0,
    root: str | os.PathLike[str] | None = None,
    strip: Strip = NO_STRIP,
    overwrite: bool = False,
) -> Subset:
    """Write the rows of `full` that `like` has, too, with all their columns and in the order of `full`.

    Rows are the same particle by uid, by particle and number of a symmetry expansion (sym_expand/src_uid and idx), by
    image, or by micrograph and position; one row of `like` stands for one of `full`.

    Parameters
    ----------
    full, like : path
        `.star`, `.cs`, `.csg`, or the output folder of a run; one may be RELION's and the other CryoSPARC's.
    out : path
        A table of the family of `full`; beside a `.cs` a `.csg` is written.
    within : float
        Pixels: how far apart two positions may be.
    root : path, optional
        Where relative paths in tables start.
    strip : Strip
        Text that is not compared in names of micrographs.
    overwrite : bool

    Raises
    ------
    InputError
        If no row is the same, or a table cannot be read.
    OptionError, OutputError
        If `out` is of the other family, or there already.
    """
    target, start = Path(out), Start.here(root)
    one, two = (read_side(os.fspath(path), start) for path in (full, like))
    suffix = ".star" if one.particles.family == "star" else ".cs"
    if target.suffix.lower() != suffix:
        raise OptionError(f"{target}: must end in {suffix}, as {one.table} is of that kind")
    for path in (target, target.with_suffix(".csg")) if suffix == ".cs" else (target,):
        if path.exists() and not overwrite:
            raise OutputError(f"{path}: is already there; replace it with --overwrite")
    if target.exists() and any(os.path.samefile(target, side.table) for side in (one, two)):
        raise OutputError(f"{target}: is one of the two tables; choose another --out")
    rows, rules, notes = _same(one, two, within, strip)
    if not len(rows):
        raise InputError(
            f"{full}: has none of the {len(two)} rows of {like}: no uid, image, or position within {within:g} pixels "
            f"is the same"
        )
    tables = publish_files(
        target.parent, target.name, lambda path: _write(path, one.particles, np.sort(rows)), fsync=True
    )
    return Subset(
        rows=len(rows),
        full=len(one),
        like=len(two),
        missing=len(two) - len(rows),
        rules=rules,
        tables=tuple(tables),
        notes=(*one.notes, *two.notes, *notes),
    )


def _same(one: Side, two: Side, within: float, strip: Strip) -> tuple[Rows, dict[str, int], tuple[str, ...]]:
    """Rows of the first that the second has."""
    expanded = [_expansion(side.particles) for side in (one, two)]
    if expanded[0] is not None and expanded[1] is not None:
        common, i, _ = np.intersect1d(expanded[0], expanded[1], return_indices=True)
        if len(common):
            return i.astype(np.intp), {"symmetry expansion": len(common)}, ()
    pairs = pair_rows(one, two, within=within, strip=strip)
    by_uid = set(pairs.rules) == {BY_UID}
    return pairs.a, pairs.rules, pairs.notes if by_uid else (*pairs.notes, *_doubts(one, pairs.a))


def _doubts(one: Side, rows: Rows) -> tuple[str, ...]:
    """What is said of rows that were chosen where another one, at the same place and in the same view, was not."""
    angles = angles_said(one.particles)
    told = [one.particles.micrograph[:, None], np.nan_to_num(one.position), *([] if angles is None else [angles])]
    _, group = np.unique(np.concatenate(told, axis=1), axis=0, return_inverse=True)
    chosen = np.isin(np.arange(len(one)), rows)
    group = group.reshape(-1)
    unsure = chosen & np.isin(group, group[~chosen])
    count = int(unsure.sum())
    said = f"{count} of the rows stand where others that were not taken do, in the same view: "
    return (said + "nothing tells which of them is meant",) if count else ()


def _expansion(particles: Particles) -> NDArray[np.void] | None:
    """Which copy of which particle each row is; None where it is not one of a symmetry expansion."""
    names = particles.table.dtype.names or () if particles.family == "cs" else ()
    if any(name not in names for name in _EXPANDED):
        return None
    rows = particles.rows_of(np.arange(len(particles)))
    source, index = (particles.table[name][rows].astype("<u8") for name in _EXPANDED)
    if not source.all():
        return None
    found: NDArray[np.void] = np.ascontiguousarray(np.stack([source, index], axis=1)).view("<u8,<u8").ravel()
    return found


def _write(path: Path, particles: Particles, picks: Rows) -> None:
    rows = particles.rows_of(picks)
    if particles.family == "star":
        write_rows(path, particles.table, rows)
        return
    write_table(path, particles.table[rows])
    write_group(path.with_suffix(".csg"), path.name, particles.table[rows], title="Selected particles")
