"""One side of a comparison: a table of particles, where its images lie, and what a run of ours left out."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryobox import formats
from cryobox.errors import CryoboxError, InputError
from cryobox.folder.layout import RECORD, is_table, table_name
from cryobox.folder.run import read_record
from cryobox.formats.cs_output import REASON
from cryobox.formats.cs_table import as_text
from cryobox.formats.references import ImageReferences, image_references
from cryobox.formats.star_tags import IMAGE, REJECTED
from cryobox.given import Given
from cryobox.options import Recipe
from cryobox.particles import Particles
from cryobox.paths import Start, find_file

__all__ = ["LeftOut", "Side", "read_side"]

SUFFIXES = (".star", ".cs", ".csg")
_OF_STYLE = {"relion": ".star", "cryosparc": ".cs"}
# Of the recipe only how names of coordinate files are read would matter, and these are tables.
_ANY_RECIPE = Recipe(box=64)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """The picks that a run of ours rejected.

    Parameters
    ----------
    particles : Particles, optional
        None where none was rejected.
    reasons : tuple of str
        One per pick.
    """

    particles: Particles | None = None
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """A set of particles.

    Parameters
    ----------
    source : str
        As the user named it.
    table : str
        The file that was read.
    particles : Particles
    references : ImageReferences, optional
        None where the table has no images.
    stacks : tuple of str
        Paths of the distinct stacks, links followed: equal paths are one file.
    stack : ndarray, shape (n,), intp
        Index into `stacks` of each row; -1 where there are no images.
    left_out : LeftOut, optional
        None where the table is not of a run of ours.
    notes : tuple of str
        What a reader must know of the table.
    box : int, optional
        Pixels of a window in the micrograph, where the table is of a run of ours.
    places : tuple of Path
        Where micrographs are looked for.
    """

    source: str
    table: str
    particles: Particles
    references: ImageReferences | None
    stacks: tuple[str, ...]
    stack: NDArray[np.intp]
    left_out: LeftOut | None
    notes: tuple[str, ...] = ()
    box: int | None = None
    places: tuple[Path, ...] = ()

    def __len__(self) -> int:
        return len(self.particles)

    @property
    def slot(self) -> NDArray[np.int64]:
        """0-based number of each image in its stack; -1 where there are no images."""
        return np.full(len(self), -1, np.int64) if self.references is None else self.references.slot

    @property
    def position(self) -> NDArray[np.float64]:
        """(y, x) of each row in pixels, shape (n, 2)."""
        return np.stack([self.particles.y, self.particles.x], axis=1)


def read_side(source: str | Path, start: Start) -> Side:
    """Read a table of particles, or that of an output folder of ours.

    Raises
    ------
    InputError
        If there is no such table, or it cannot be used.
    """
    path = Path(start.whole(source))
    home, run = _run_of(path)
    if path.is_dir():
        path = _table_of_run(path, run)
    elif path.suffix.lower() not in SUFFIXES:
        raise InputError(
            f"{path}: not a table of particles; expected a name in {', '.join(SUFFIXES)}, or the --out of a run"
        )
    own = start if run is None or start.root is not None else _start_of_run(run, start)
    particles = formats.read_particles(path, recipe=_ANY_RECIPE, start=own)
    if particles.family == "plain":
        raise InputError(f"{path}: has coordinates alone; expected a table of particles, with their values and images")
    references = image_references(particles) if _has_images(particles) else None
    stacks, stack = _stacks(path, particles, references, own)
    notes = list(particles.warnings)
    if run is not None and run.get("complete") is not True:
        notes.append(f"{home}: its job.json says that the run is not complete; rows may be missing for that")
    left_out, told = (None, ()) if run is None else _left_out(home, path.suffix.lower(), own)
    return Side(
        source=os.fspath(source),
        table=str(path),
        particles=particles,
        references=references,
        stacks=stacks,
        stack=stack,
        left_out=left_out,
        notes=(*notes, *told),
        box=None if run is None else _box_of(run),
        places=tuple(own.places(path)),
    )


def _run_of(path: Path) -> tuple[Path, dict[str, object] | None]:
    """The folder of the run of ours that a table, or a folder, is of, and its record; CryoSPARC has a job.json, too."""
    folder = path if path.is_dir() else path.parent
    if folder != path and not (path.exists() and is_table(path.name, _sizes(path.name))):
        return folder, None
    try:
        record = read_record(folder / RECORD)
    except InputError:
        if folder == path:
            raise
        return folder, None
    ours = isinstance(record.get("recipe"), dict) and "inputs" in record and "bits" in record
    return folder, record if ours else None


def _sizes(name: str) -> tuple[str, ...]:
    size = name.partition(".")[0].removeprefix(f"{table_name('')}_")
    return (size,) if size.isdigit() else ()


def _table_of_run(folder: Path, run: dict[str, object] | None) -> Path:
    if run is None:
        raise InputError(
            f"{folder}: is a folder without the job.json of a finished run of cryobox; expected a table of particles "
            f"({', '.join(SUFFIXES)}) or the --out of such a run"
        )
    recipe = run["recipe"]
    style = recipe.get("style") if isinstance(recipe, dict) else None
    path = folder / f"{table_name('')}{_OF_STYLE.get(str(style), '.star')}"
    if not path.exists():
        raise InputError(f"{path}: is not there: this run extracted no particle, or its tables were moved")
    return path


def _box_of(run: dict[str, object]) -> int | None:
    recipe = run["recipe"]
    box = recipe.get("box") if isinstance(recipe, dict) else None
    return box if isinstance(box, int) else None


def _start_of_run(run: dict[str, object], start: Start) -> Start:
    """Where names in the tables of a run start: where they did when it was made, if that is still there."""
    inputs = run["inputs"]
    try:
        own = Given.from_dict(inputs if isinstance(inputs, dict) else {}).start
    except InputError:
        return start
    return own if own.base.is_dir() else start


def _has_images(particles: Particles) -> bool:
    if particles.family == "star":
        return IMAGE in particles.table.table
    return particles.family == "cs" and "blob/path" in (particles.table.dtype.names or ())


def _stacks(
    path: Path, particles: Particles, references: ImageReferences | None, start: Start
) -> tuple[tuple[str, ...], NDArray[np.intp]]:
    if references is None:
        return (), np.full(len(particles), -1, np.intp)
    places = start.beside(path)
    known: dict[str, int] = {}
    of_name: dict[str, int] = {}
    for name in dict.fromkeys(references.stack):
        # RELION takes `.mrc` for a stack where the name says so; CryoSPARC marks names relative to the table.
        plain = name.removesuffix(":mrcs").removeprefix(">")
        own = (path.resolve().parent, *places) if name.startswith(">") else places
        found = os.path.realpath(find_file(plain, own))
        of_name[name] = known.setdefault(found, len(known))
    index = np.fromiter(map(of_name.__getitem__, references.stack), np.intp, len(references.stack))
    return tuple(known), index


def _left_out(home: Path, suffix: str, start: Start) -> tuple[LeftOut, tuple[str, ...]]:
    """The rejected picks of a run, and why they are not known, if they are not."""
    path = home / f"rejected{'.star' if suffix == '.star' else '.cs'}"
    if not path.exists():
        return LeftOut(), ()
    try:
        particles = formats.read_particles(path, recipe=_ANY_RECIPE, start=start)
    except CryoboxError as error:
        return LeftOut(), (f"{error}; reasons of rejected picks are not told",)
    if particles.family == "star":
        reasons = particles.table.table.texts(REJECTED) if REJECTED in particles.table.table else []
    else:
        names = particles.table.dtype.names or ()
        reasons = [as_text(raw) for raw in particles.table[REASON].tolist()] if REASON in names else []
    if len(reasons) != len(particles):
        return LeftOut(), (f"{path}: has no reasons; reasons of rejected picks are not told",)
    return LeftOut(particles=particles, reasons=tuple(reasons)), ()
