"""What a run starts from: the paths a user gave, the tables behind them, and the plan made of these."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cryobox import formats
from cryobox.errors import InputError, MicrographError
from cryobox.formats.files_read import noting
from cryobox.formats.images import read_header
from cryobox.micrograph import ImageHeader, Micrographs
from cryobox.options import Recipe
from cryobox.particles import Particles
from cryobox.plan import Plan, build_plan, match_micrographs, micrographs_with_picks

__all__ = ["Given", "Inputs", "Recorded", "prepare", "read_pixel_size"]

TABLES = ("picks", "micrographs")  # what was read for which, in `Inputs.files`
HEADER_THREADS = 16  # reading headers waits for the file system, not for the processor


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """The paths that a user gave, so that they can be recorded and found again.

    Parameters
    ----------
    picks, micrographs : str
        As given.
    root : str, optional
    directory : str
        Where relative ones start.
    """

    picks: str
    micrographs: str
    root: str | None
    directory: str

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON-ready values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Given:
        """The paths from what `as_dict` gave.

        Raises
        ------
        InputError
            If the record is of another kind.
        """
        try:
            return cls(**{field.name: record[field.name] for field in dataclasses.fields(cls)})
        except (KeyError, TypeError) as error:
            raise InputError(f"the record of the inputs has no {error}; was it written by another version?") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """The tables that were read, and the plan made of them.

    Parameters
    ----------
    given : Given
    particles : Particles
    micrographs : Micrographs
    plan : Plan
    files : dict
        Every file that was read: for "picks" and "micrographs" the digest of the content by path (tables, members of a
        `.csg`, coordinate files), for "images" the bytes and the time of change (ns) of each micrograph with picks.
    """

    given: Given
    particles: Particles
    micrographs: Micrographs
    plan: Plan
    files: dict[str, dict[str, str]]

    @property
    def content(self) -> str:
        """A hash of the content of all tables, wherever they lie now; the plan tells of the micrographs."""
        found = hashlib.blake2b(digest_size=16)
        for what in TABLES:
            for path, digest in self.files[what].items():
                name = os.path.basename(path)
                found.update(f"{what}\0{name}\0{digest}\0".encode("utf-8", "surrogateescape"))
        return found.hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """What `job.json` says that a run had read, to be found again.

    Parameters
    ----------
    source : str
        The `job.json`, for messages.
    files : mapping
        As in `Inputs`.
    picks, micrographs : bool
        Whether these are the recorded ones; the others were given anew.
    """

    source: str
    files: Mapping[str, Mapping[str, str]]
    picks: bool
    micrographs: bool

    def check(self, files: Mapping[str, Mapping[str, str]], images: Sequence[str]) -> None:
        """Refuse files that are not those of the recorded run. `images` are the micrographs that are used now.

        A run with other options may use fewer or more micrographs; those that both use must be the same.

        Raises
        ------
        InputError
        """
        for what, wanted in zip(TABLES, (self.picks, self.micrographs), strict=True):
            if not wanted:
                continue
            old, new = self.files.get(what, {}), files[what]
            for path in sorted(old.keys() | new.keys()):
                if path not in new:
                    raise self._differs(path, "was read by that run, and is not found now")
                if path not in old:
                    raise self._differs(path, "was not there for that run, or was not read by it")
                if old[path] != new[path]:
                    raise self._differs(path, "has another content than that run read")
        for path in images if self.micrographs else ():
            was, now = self.files.get("images", {}).get(path), files["images"].get(path)
            if was is not None and was != now:
                found = "cannot be read any more" if now is None else f"has {_size_and_time(now)}"
                raise self._differs(path, f"{found}, expected {_size_and_time(was)}")

    def _differs(self, path: str, why: str) -> InputError:
        return InputError(
            f"{path}: {why} ({self.source}); --from repeats a run on its own files: bring that file back, or name the "
            f"picks and micrographs that are meant now"
        )


def _size_and_time(text: str) -> str:
    size, _, time_ns = text.partition(" ")
    return f"{size} bytes of {time_ns} ns since 1970"


def prepare(
    picks: str | os.PathLike[str],
    *,
    micrographs: str | os.PathLike[str],
    recipe: Recipe,
    root: Path | None = None,
    ready: Callable[[str], bool] | None = None,
    look: Callable[[str], ImageHeader] = read_header,
    recorded: Recorded | None = None,
) -> Inputs:
    """Read the tables and the headers of the micrographs, and decide everything. Writes nothing.

    Parameters
    ----------
    picks, micrographs, recipe, root
        As for `cryobox.run`.
    ready : callable, optional
        Which coordinate files of a folder may be read now; the others are as if they were not there yet.
    look : callable
        Reads the header of a micrograph.
    recorded : Recorded, optional
        What an earlier run read, where its files are meant.

    Raises
    ------
    OptionError, InputError
    """
    given = Given(
        picks=os.fspath(picks),
        micrographs=os.fspath(micrographs),
        root=None if root is None else os.fspath(root),
        directory=os.getcwd(),
    )
    with noting() as of_micrographs:
        table = formats.read_micrographs(given.micrographs, root=root)
    with noting() as of_picks:
        particles = formats.read_particles(given.picks, micrographs=table, recipe=recipe, root=root, ready=ready)
    if len(particles) == 0:
        empty = os.path.isfile(given.picks) and not Path(given.picks).read_bytes().strip()
        raise InputError(f"{particles.source}: holds no picks" + (": the file is empty" if empty else ""))
    match, step = match_micrographs(particles, table)
    rows = micrographs_with_picks(particles, match, recipe.limit)
    with ThreadPoolExecutor(HEADER_THREADS) as pool:
        found = pool.map(lambda row: _header(table.paths[row], look), rows.tolist())
        headers = dict(zip(rows.tolist(), found, strict=True))
    images = {
        table.paths[row]: f"{header.file_size} {header.mtime_ns}"
        for row, header in headers.items()
        if isinstance(header, ImageHeader)
    }
    files = {"picks": of_picks, "micrographs": of_micrographs, "images": images}
    if recorded is not None:
        recorded.check(files, [table.paths[row] for row in headers])
    plan = build_plan(particles, table, recipe, match=match, headers=headers)
    checks = formats.check_tables(
        particles,
        table,
        plan.recipe,
        rows=plan.rows,
        micrograph=plan.micrograph[plan.rows],
        pixel_size=plan.pixel_size,
    )
    notes = (f"micrographs are matched to picks by {step}", *plan.notes)
    plan = replace(plan, warnings=(*plan.warnings, *checks), notes=notes)
    return Inputs(given=given, particles=particles, micrographs=table, plan=plan, files=files)


def read_pixel_size(micrographs: str | os.PathLike[str], *, root: Path | None = None) -> float:
    """Å per pixel of the first micrograph that says it, by its table or else its header; nan where none does."""
    table = formats.read_micrographs(os.fspath(micrographs), root=root)
    for size, path in zip(table.pixel_size.tolist(), table.paths, strict=True):
        if size > 0:
            return float(size)
        header = _header(path)
        if isinstance(header, ImageHeader):
            return header.pixel_size
    return float("nan")


def _header(path: str, look: Callable[[str], ImageHeader] = read_header) -> ImageHeader | MicrographError:
    try:
        return look(path)
    except MicrographError as error:
        return error
