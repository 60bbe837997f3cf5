"""Picks as coordinate files of other programs: EMAN's `.box`, crYOLO's `.cbox`, RELION's `.star`, and `.csv`."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from cryobox import formats
from cryobox.bounds import check_choice
from cryobox.boxes import check_even
from cryobox.centering import INTEGER_GUARD
from cryobox.errors import InputError, OptionError, OutputError
from cryobox.folder.layout import stack_names
from cryobox.folder.publish import publish_files
from cryobox.formats.files_read import noting
from cryobox.formats.joining import join_particles
from cryobox.formats.names import check_writable
from cryobox.formats.star_tags import NO_SCORE
from cryobox.formats.star_text import encode, listed
from cryobox.matching import match_micrographs
from cryobox.options import Recipe
from cryobox.particles import Particles
from cryobox.paths import Start

__all__ = ["CoordinateFormat", "ConvertedPicks", "convert_picks"]

CoordinateFormat = Literal["box", "cbox", "star", "csv"]

LIST = "coordinate_files.star"  # of RELION 4 and later: which file holds whose coordinates
SUFFIX = {"box": ".box", "cbox": ".cbox", "star": "_picks.star"}
_CBOX_COLUMNS = ("_CoordinateX", "_CoordinateY", "_CoordinateZ", "_Width", "_Height", "_Depth", "_EstWidth",
                 "_EstHeight", "_Confidence", "_NumBoxes", "_Angle")  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertedPicks:
    """What was written.

    Parameters
    ----------
    picks, micrographs : int
    files : tuple of Path
    warnings : tuple of str
    """

    picks: int
    micrographs: int
    files: tuple[Path, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _OfOne:
    """The picks of one micrograph."""

    name: str
    stem: str
    y: NDArray[np.float64]
    x: NDArray[np.float64]
    score: NDArray[np.float64] | None


def convert_picks(
    sources: Sequence[str | Path],
    target: str | Path,
    to: CoordinateFormat,
    *,
    micrographs: str | None = None,
    box: int | None = None,
    root: Path | None = None,
    overwrite: bool = False,
) -> ConvertedPicks:
    """Write picks as coordinate files of another program: centers, or corners where that is the format's rule.

    Parameters
    ----------
    sources : sequence of path
        Picks, as for `cryobox.run`.
    target : path
        A folder, with one file for each micrograph, called as it is; for "csv" the file.
    to : {"box", "cbox", "star", "csv"}
        "star" also writes `coordinate_files.star`, the list that RELION 4 and later takes.
    micrographs : str, optional
        Table, folder or glob: the files are called as these micrographs. By default as the picks call them.
    box : int, optional
        Side in pixels of the boxes in "box" and "cbox", whose coordinates are those of a corner.
    root : Path, optional
        Where relative names start.
    overwrite : bool
        Replace files that are there.

    Raises
    ------
    InputError, OptionError, OutputError
        Nothing is then written.
    """
    target, start = Path(target), Start.here(root)
    check_choice("--to", to, get_args(CoordinateFormat))
    side = _side(to, box)
    with noting() as noted:
        table = None if micrographs is None else formats.read_micrographs(micrographs, start=start)
        read = formats.read_several(list(sources), micrographs=table, recipe=Recipe(box=256), start=start)
    particles = join_particles([part for part in read if len(part)] or read[:1])
    names = list(particles.micrograph_names)
    if table is not None:
        match = np.concatenate([match_micrographs(part, table)[0] for part in read if len(part.micrograph_names)])
        names = [table.names[row] if row >= 0 else names[n] for n, row in enumerate(match.tolist())]
        unknown = [name for name, row in zip(names, match.tolist(), strict=True) if row < 0]
    of_all, warnings = _by_micrograph(particles, names)
    if table is not None and unknown:
        warnings.append(f"{table.source}: {len(unknown)} micrographs of the picks are not there ({listed(unknown, 3)})")
    if not of_all:
        raise InputError(f"{particles.source}: holds no picks")
    if to == "csv":
        _check_free([target], noted, overwrite=overwrite)
        files = publish_files(target.parent, target.name, lambda path: _csv(path, of_all), fsync=True)
    else:
        files = _one_each(target, of_all, to, side, start, noted, overwrite=overwrite)
    count = sum(len(one.x) for one in of_all)
    return ConvertedPicks(
        picks=count, micrographs=len(of_all), files=tuple(files), warnings=(*particles.warnings, *warnings)
    )


def _side(to: str, box: int | None) -> int:
    if to in ("box", "cbox"):
        if box is None:
            raise OptionError(f"--to {to}: its coordinates are those of a corner; give --box, the side in pixels")
        return check_even("box", box)
    if box is not None:
        raise OptionError(f"--to {to}: its coordinates are centers, so --box {box} cannot apply; leave it out")
    return 0


def _by_micrograph(particles: Particles, names: Sequence[str]) -> tuple[list[_OfOne], list[str]]:
    """The picks of each micrograph in the order of the table; whole pixels stay whole."""
    finite = np.isfinite(particles.y) & np.isfinite(particles.x)
    warnings = []
    if not finite.all():
        warnings.append(f"{particles.source}: {int((~finite).sum())} picks have no finite position, and are left out")
    if particles.tube is not None and particles.tube.any():
        warnings.append(f"{particles.source}: coordinate files do not say which filament a pick is of")
    y, x = ((_whole(v) if particles.from_fractions else v) for v in (particles.y, particles.x))
    found = []
    for number, stem in enumerate(stack_names(names)):
        rows = np.flatnonzero(finite & (particles.micrograph == number))
        if len(rows):
            score = None if particles.score is None else particles.score[rows]
            found.append(_OfOne(names[number], stem, y[rows], x[rows], score))
    return found, warnings


def _whole(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """A float32 part of a side may lie just below a whole pixel, which a program that truncates would lose."""
    with np.errstate(invalid="ignore"):
        nearest = np.rint(values)
        return np.where(np.abs(values - nearest) < INTEGER_GUARD, nearest, values)


def _check_free(files: Sequence[Path], inputs: Iterable[str], *, overwrite: bool) -> None:
    """Refuse files that are there, unless they may be replaced; what was read is never replaced."""
    there = []
    read = {(status.st_dev, status.st_ino): path for path in inputs if (status := _status(Path(path))) is not None}
    for path in files:
        status = _status(path)
        if status is not None and (status.st_dev, status.st_ino) in read:
            raise OutputError(
                f"{path}: is {read[status.st_dev, status.st_ino]}, which is an input, and would be replaced; name "
                f"another target"
            )
        there += [path] if status is not None else []
    if there and not overwrite:
        more = f" and {len(there) - 1} more" if there[1:] else ""
        raise OutputError(f"{there[0]}{more}: already there; replace with --overwrite, or name another folder")


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise OutputError(f"{path}: cannot be written: {getattr(error, 'strerror', None) or error}") from error


def _one_each(
    folder: Path,
    of_all: Sequence[_OfOne],
    to: str,
    side: int,
    start: Start,
    inputs: Iterable[str],
    *,
    overwrite: bool,
) -> list[Path]:
    writers: dict[str, Callable[[Path, _OfOne, int], None]] = {"box": _box, "cbox": _cbox, "star": _star}
    names = [f"{one.stem}{SUFFIX[to]}" for one in of_all]
    lists = [LIST] if to == "star" else []
    texts = [_from_base(folder / name, start) for name in names] if lists else []
    if lists:
        check_writable([*(one.name for one in of_all), *texts], f"{folder}: {LIST}")
    _check_free([folder / name for name in (*names, *lists)], inputs, overwrite=overwrite)

    def write(path: Path) -> None:
        for name, one in zip(names, of_all, strict=True):
            writers[to](path.with_name(name), one, side)
        if lists:
            _list(path.with_name(LIST), texts, of_all)

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made: {error.strerror}") from error
    return publish_files(folder, names[0], write, fsync=True)


def _from_base(path: Path, start: Start) -> str:
    """How the list names a file: from where names in tables start, if it lies there; else whole."""
    whole, base = path.resolve(), start.base.resolve()
    return (whole.relative_to(base) if whole.is_relative_to(base) else whole).as_posix()


def _numbers(values: NDArray[np.float64]) -> list[str]:
    """The shortest text that is the same number."""
    return [f"{value:.0f}" if value == np.trunc(value) else repr(value) for value in values.tolist()]


def _csv(path: Path, of_all: Sequence[_OfOne]) -> None:
    scored = any(one.score is not None for one in of_all)
    with open(path, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(["micrograph_name", "x", "y", *(["score"] if scored else [])])
        for one in of_all:
            columns = [_numbers(one.x), _numbers(one.y)]
            if scored:
                columns.append(_scores(one, "nan"))
            writer.writerows([one.name, *row] for row in zip(*columns, strict=True))


def _scores(one: _OfOne, missing: str) -> list[str]:
    score = np.full(len(one.x), np.nan) if one.score is None else one.score
    return [missing if np.isnan(value) else repr(value) for value in score.tolist()]


def _box(path: Path, one: _OfOne, side: int) -> None:
    sides = [str(side)] * len(one.x)
    columns = [_numbers(one.x - side // 2), _numbers(one.y - side // 2), sides, sides]
    if one.score is not None and np.isfinite(one.score).all():
        columns.append(_scores(one, ""))
    _write(path, ["\t".join(row) for row in zip(*columns, strict=True)])


def _cbox(path: Path, one: _OfOne, side: int) -> None:
    n, fixed = len(one.x), str(side)
    columns = [
        _numbers(one.x - side / 2), _numbers(one.y - side / 2), ["<NA>"] * n, [fixed] * n, [fixed] * n, ["<NA>"] * n,
        [fixed] * n, [fixed] * n, _scores(one, "<NA>"), ["1"] * n, ["<NA>"] * n,
    ]  # fmt: skip
    head = ["", "data_global", "", "_cbox_format_version 1.0", "", "data_cryolo", "", "loop_"]
    head += [f"{name} #{number}" for number, name in enumerate(_CBOX_COLUMNS, start=1)]
    _write(path, [*head, *(" ".join(row) for row in zip(*columns, strict=True)), ""])


def _star(path: Path, one: _OfOne, _: int) -> None:
    columns = {"_rlnCoordinateX": _numbers(one.x), "_rlnCoordinateY": _numbers(one.y)}
    if one.score is not None:
        columns["_rlnAutopickFigureOfMerit"] = _scores(one, repr(NO_SCORE))
    head = ["", "data_", "", "loop_", *(f"{tag} #{number}" for number, tag in enumerate(columns, start=1))]
    _write(path, [*head, *(" ".join(row) for row in zip(*columns.values(), strict=True)), ""])


def _list(path: Path, files: Sequence[str], of_all: Sequence[_OfOne]) -> None:
    rows = [encode(one.name) + b" " + encode(file) for one, file in zip(of_all, files, strict=True)]
    head = ["", "data_coordinate_files", "", "loop_", "_rlnMicrographName #1", "_rlnMicrographCoordinates #2"]
    path.write_bytes("\n".join(head).encode() + b"\n" + b"\n".join(rows) + b"\n\n")


def _write(path: Path, lines: Sequence[str]) -> None:
    with open(path, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write("\n".join(lines) + "\n")
