"""What a run starts from: the paths a user gave, the tables behind them, and the plan made of these."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cryobox import formats
from cryobox.errors import InputError, MicrographError
from cryobox.formats.images import read_header
from cryobox.micrograph import ImageHeader, Micrographs
from cryobox.options import Recipe
from cryobox.particles import Particles
from cryobox.plan import Plan, build_plan, match_micrographs, micrographs_with_picks

__all__ = ["Given", "Inputs", "prepare", "read_pixel_size"]

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
            found = {field.name: record[field.name] for field in dataclasses.fields(cls)}
        except (KeyError, TypeError) as error:
            raise InputError(f"the record of the inputs has no {error}; was it written by another version?") from error
        for name, path in found.items():
            if not (isinstance(path, str) or (name == "root" and path is None)) or "\0" in (path or ""):
                raise InputError(f"the record of the inputs holds no path for {name}; got {path!r}; was it edited?")
        return cls(**found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """The tables that were read, and the plan made of them."""

    given: Given
    particles: Particles
    micrographs: Micrographs
    plan: Plan


def prepare(
    picks: str | os.PathLike[str],
    *,
    micrographs: str | os.PathLike[str],
    recipe: Recipe,
    root: Path | None = None,
    ready: Callable[[str], bool] | None = None,
    look: Callable[[str], ImageHeader] = read_header,
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
    table = formats.read_micrographs(given.micrographs, root=root)
    particles = formats.read_particles(given.picks, micrographs=table, recipe=recipe, root=root, ready=ready)
    if len(particles) == 0:
        raise InputError(f"{particles.source}: holds no picks")
    match, step = match_micrographs(particles, table)
    rows = micrographs_with_picks(particles, match, recipe.limit)
    with ThreadPoolExecutor(HEADER_THREADS) as pool:
        found = pool.map(lambda row: _header(table.paths[row], look), rows.tolist())
        headers = dict(zip(rows.tolist(), found, strict=True))
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
    return Inputs(given=given, particles=particles, micrographs=table, plan=plan)


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
