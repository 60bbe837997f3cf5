"""Where the files of a table lie: stacks that are named must be there, micrographs say how large they are."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryobox import formats
from cryobox.convert.texts import Floats, Star
from cryobox.errors import InputError, MicrographError
from cryobox.formats.images import read_header
from cryobox.formats.star_text import listed
from cryobox.matching import match_names
from cryobox.paths import Start, find_file

__all__ = ["Grounds", "Places", "by_distinct", "look_at_micrographs"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """The folders that names start from, and which stacks were not found.

    Parameters
    ----------
    cs_folder : Path
        Of the `.cs`, from which names that begin with `>` start.
    base : Path
        From which names in the STAR file start: the root, or the working directory.
    search : tuple of Path
        Where relative names are looked for, as extraction does.
    """

    cs_folder: Path
    base: Path
    search: tuple[Path, ...]
    missing: dict[str, None] = field(default_factory=dict)

    @classmethod
    def around(cls, source: Path, target: Path, start: Start) -> Places:
        """The places for converting `source` to `target`."""
        in_cs = source if source.suffix.lower() != ".star" else target
        return cls(
            cs_folder=in_cs.resolve().parent,
            base=start.base.resolve(),
            search=start.places(source),
        )

    def in_star(self, raw: str, *, stack: bool = False) -> str:
        """A name of a `.cs` as a STAR file has it: one that is found where it stands stays as it is."""
        name = raw.removeprefix(">")
        places = (self.cs_folder, *self.search) if raw.startswith(">") else self.search
        found = find_file(name, places)
        there = os.path.exists(found)
        if stack and not there:
            self.missing.setdefault(raw)
        if not raw.startswith(">") and (not there or os.path.isabs(name) or os.path.exists(self.base / name)):
            return raw
        return self._from(self.base, found)

    def in_cs(self, name: str, *, stack: bool = False) -> str:
        """A name of a STAR file as a `.cs` has it: from its own folder where the file lies inside, else whole."""
        found = find_file(name, self.search)
        if stack and not os.path.exists(found):
            self.missing.setdefault(name)
        inside = self._from(self.cs_folder, found)
        return inside if os.path.isabs(inside) else f">{inside}"

    @staticmethod
    def _from(folder: Path, found: str) -> str:
        whole = Path(os.path.normpath(found))
        return whole.relative_to(folder).as_posix() if whole.is_relative_to(folder) else whole.as_posix()

    def check_stacks(self, source: Path) -> None:
        """Refuse to name stacks that are not there.

        Raises
        ------
        InputError
        """
        if self.missing:
            names = list(self.missing)
            raise InputError(
                f"{source}: {len(names)} of its stacks {'is' if len(names) == 1 else 'are'} not there "
                f"({listed(names, 3)}); looked for in {listed([str(place) for place in self.search], 3)}. Say with "
                f"--root where the names start, or write the table all the same with --allow-missing"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Grounds:
    """What a STAR file does not say of the micrographs of its particles, row by row.

    Parameters
    ----------
    shape : ndarray, shape (n, 2), int64
        (ny, nx); 0 where it is not known.
    pixel_size : ndarray, shape (n,), float64
        Å per pixel; nan where it is not known.
    uid : ndarray, shape (n,), uint64, optional
    unknown : tuple of str
        Micrographs whose shape is not known.
    why : str
        The reason for the first of them.
    in_table : bool
        A `.cs` has locations, also where none of its rows has one.
    """

    shape: NDArray[np.int64]
    pixel_size: Floats
    uid: NDArray[np.uint64] | None = None
    unknown: tuple[str, ...] = ()
    why: str = ""
    in_table: bool = False

    @classmethod
    def none(cls, n: int) -> Grounds:
        """Nothing is known."""
        return cls(shape=np.zeros((n, 2), np.int64), pixel_size=np.full(n, np.nan))


def look_at_micrographs(star: Star, micrographs: str | None, places: Places, start: Start) -> Grounds:
    """Read the headers (or the table) of the micrographs that the particles lie on."""
    n = len(star)
    if not star.has("_rlnMicrographName", "_rlnCoordinateX", "_rlnCoordinateY"):
        return Grounds.none(n)
    names = list(dict.fromkeys(star.columns["_rlnMicrographName"]))
    place = {name: i for i, name in enumerate(names)}
    row = np.array([place[name] for name in star.columns["_rlnMicrographName"]], np.intp)
    shape = np.zeros((len(names), 2), np.int64)
    pixel = np.full(len(names), np.nan)
    uid: NDArray[np.uint64] | None = None
    why = [""] * len(names)
    if micrographs is None:
        paths = [find_file(name, places.search) for name in names]
    else:
        table = formats.read_micrographs(micrographs, start=start)
        match, _ = match_names(tuple(names), table.names, picks_source=star.source, micrographs_source=table.source)
        found = match >= 0
        paths = [table.paths[m] if m >= 0 else "" for m in match.tolist()]
        why = ["" if there else f"is not in {table.source}" for there in found.tolist()]
        if len(table):
            pixel = np.where(found, table.pixel_size[match], np.nan)
            shape = np.where(found[:, None], table.shape[match], 0)
            uid = None if table.uids is None else np.where(found, table.uids[match], np.uint64(0))
    for i, path in enumerate(paths):
        if not path:
            continue
        try:
            header = read_header(path)
        except MicrographError as error:
            why[i] = str(error)
            continue
        shape[i] = header.shape
        pixel[i] = header.pixel_size if np.isnan(pixel[i]) else pixel[i]
    unknown = [i for i in range(len(names)) if not shape[i].all()]
    return Grounds(
        shape=shape[row],
        pixel_size=pixel[row],
        uid=None if uid is None else uid[row],
        unknown=tuple(names[i] for i in unknown),
        why=why[unknown[0]] if unknown else "",
    )


def by_distinct(texts: Sequence[str], function: Callable[[str], str]) -> list[str]:
    """A function of texts of which few are different."""
    known = {text: function(text) for text in dict.fromkeys(texts)}
    return [known[text] for text in texts]
