"""What is allowed but mostly a slip: picks without micrographs, files nowhere, two roots, a box too small."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryobox.boxes import FAST_BOXES, fast_box
from cryobox.errors import InputError, MicrographError
from cryobox.formats.defocus import usual_defocus, usual_voltage
from cryobox.micrograph import ImageHeader, Micrographs
from cryobox.particles import Particles
from cryobox.paths import Start
from cryobox.plan import Plan
from cryobox.units import wavelength

__all__ = ["box_for_signal", "check_some_file_is_there", "other_root", "picks_without_micrograph", "small_box"]

MISSED = 0.05  # of the picks: a table of fewer micrographs on purpose is warned of, too
MOST_ENTRIES = 500  # of a folder that is looked through for another root


def check_some_file_is_there(
    table: Micrographs, headers: Mapping[int, ImageHeader | MicrographError], start: Start
) -> None:
    """Refuse a run none of whose micrographs is there: names start somewhere else.

    Raises
    ------
    InputError
    """
    if not headers or any(isinstance(found, ImageHeader) for found in headers.values()):
        return
    paths = [table.paths[row] for row in headers]
    if any(map(os.path.lexists, paths)):
        return  # what is wrong with it will be said
    name = table.names[next(iter(headers))]
    remedy = "give --root, the folder in which that name starts"
    if (place := _found_from(name, table.source, start)) is not None:
        remedy = f"it is there from {place} on: give --root {place}"
    count = f"none of its {len(paths)} micrographs is" if len(paths) > 1 else "its micrograph is not"
    raise InputError(f"{table.source}: {count} there, for example {paths[0]} (named {name}); {remedy}")


def _found_from(name: str, source: str, start: Start) -> str | None:
    """A folder in the neighborhood from which a relative name leads to a file."""
    if os.path.isabs(name):
        return None
    return next((str(place) for place in _neighborhood(source, start) if os.path.exists(place / name)), None)


def _neighborhood(source: str, start: Start) -> Iterator[Path]:
    """Folders above the working directory and above the table, and those in the nearest ones."""
    table = Path(start.whole(source)).resolve().parent
    for place in dict.fromkeys((Path(start.directory), *Path(start.directory).parents, table, *table.parents)):
        yield place
    for place in dict.fromkeys((Path(start.directory), Path(start.directory).parent, table)):
        try:
            inside = sorted(os.scandir(place), key=lambda entry: entry.name)[:MOST_ENTRIES]
        except OSError:
            continue
        yield from (Path(entry.path) for entry in inside if entry.is_dir())


def other_root(table: Micrographs, used: NDArray[np.intp], plan: Plan, start: Start) -> tuple[str, ...]:
    """A warning where names in tables start somewhere else than those that are written will."""
    if start.root is not None or "star" not in plan.decided.families:
        return ()
    places: dict[str, list[int]] = {}
    for row in used.tolist():
        name, path = table.names[row], table.paths[row]
        if not os.path.isabs(name) and path.endswith(f"/{name}"):
            places.setdefault(path[: -len(name) - 1], []).append(row)
    places = {
        place: rows
        for place, rows in places.items()
        if os.path.realpath(place) != os.path.realpath(start.directory)
        and any(os.path.exists(table.paths[row]) for row in rows)
    }
    if not places:
        return ()
    place = max(places, key=lambda one: len(places[one]))
    told = (
        f"{table.source}: the names of {len(places[place])} micrographs start in {place}, those of the stacks in the "
        f"tables that are written start in the working directory, {start.directory}: RELION would not find both; run "
        f"in {place}, or give --root {place}"
    )
    return (told,)


def picks_without_micrograph(
    particles: Particles, table: Micrographs, micrograph: NDArray[np.intp], match: NDArray[np.intp]
) -> tuple[str, ...]:
    """A warning where many picks are of micrographs that the table does not have."""
    missed = int((micrograph < 0).sum())
    if missed <= MISSED * len(micrograph):
        return ()
    names = [name for name, row in zip(particles.micrograph_names, match.tolist(), strict=True) if row < 0]
    told = (
        f"{particles.source}: {missed} of {len(micrograph)} picks are of micrographs that {table.source} does not have "
        f"({len(names)} of {len(match)}, for example {names[0][:200]!r}); give a table of all micrographs, if these "
        f"picks are wanted"
    )
    return (told,)


def box_for_signal(diameter: float, defocus: float, voltage_kv: float, resolution: float) -> float:
    """Å that hold a particle and what the defocus delocalizes of its signal: diameter + 2 wavelength defocus / d."""
    return diameter + 2 * wavelength(voltage_kv * 1e3) * defocus / resolution


def small_box(particles: Particles, table: Micrographs, plan: Plan, diameter: float | None) -> tuple[str, ...]:
    """A warning where the box does not hold the signal that the stored pixels could show.

    Parameters
    ----------
    diameter : float, optional
        Of the particle, in Å; where it is not known, that of the background's circle.
    """
    size = diameter or plan.recipe.background_diameter_angstrom
    if size is None or not plan.tasks:
        return ()
    rows, refresh = plan.work.rows, plan.recipe.refresh_ctf
    defocus = usual_defocus(particles, table, particles.rows_of(rows), plan.micrograph[rows], refresh=refresh)
    voltage = usual_voltage(particles, table)
    if not (defocus > 0 and voltage > 0):
        return ()
    box, first = plan.tasks[0].windows.box, plan.tasks[0].outputs[0]
    pixel_size = first.pixel_size * first.size / box
    needed = box_for_signal(size, defocus, voltage, 2 * first.pixel_size)
    if box * pixel_size >= needed:
        return ()
    wanted = math.ceil(needed / pixel_size)
    fits = fast_box(wanted) if wanted <= FAST_BOXES[-1] else wanted + wanted % 2
    remedy = f"--box {fits}" if plan.recipe.box_angstrom is None else f"--box-angstrom {math.ceil(needed)}"
    told = (
        f"box {box} ({box * pixel_size:.0f} Å) does not hold all signal down to "
        f"{2 * first.pixel_size:.3g} Å, which the stored pixels reach: {size:.0f} Å of particle and twice "
        f"{(needed - size) / 2:.0f} Å that a defocus of {defocus / 1e4:.2g} µm delocalizes need {needed:.0f} Å; "
        f"{remedy} does"
    )
    return (told,)
