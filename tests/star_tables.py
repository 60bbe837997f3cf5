"""STAR tables for tests: written, read back column by column, and what is said of them before any work."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cryobox.formats import check_tables
from cryobox.micrograph import Micrographs
from cryobox.options import Recipe
from cryobox.particles import Extracted, Particles

PICKS = """
data_particles

loop_
_rlnMicrographName #1
_rlnCoordinateX #2
_rlnCoordinateY #3
_rlnFunny #4
Motion/b.mrc 10.5 20.25 x
Motion/a.mrc  30.000000\t40.5 y
Motion/b.mrc 50 60 'z w'
"""


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def extraction(particles: Particles, micrographs: Micrographs, **changes: Any) -> Extracted:
    """Every pick extracted, where it is; micrographs matched by name."""
    n = len(particles)
    place = {name: i for i, name in enumerate(micrographs.names)}
    of_name = np.array([place.get(name, 0) for name in particles.micrograph_names], dtype=np.intp)
    whole = Extracted(
        picks=np.arange(n),
        rows=np.arange(n),
        micrograph=of_name[particles.micrograph],
        stack=tuple(f"Out/stacks/{i}.mrcs" for i in range(len(micrographs))),
        slot=np.arange(n),
        size=64,
        box=128,
        center=np.trunc(np.column_stack([particles.y, particles.x])).astype(np.int64),
        shape=np.full((len(micrographs), 2), 512),
        pixel_size=np.where(np.isnan(micrographs.pixel_size), 1.25, micrographs.pixel_size),
        moved=np.zeros(n, dtype=np.bool_),
        alignments=particles.alignments,
        steps=Recipe(box=128).steps(),
    )
    if "rows" in changes:
        changes.setdefault("picks", changes["rows"])
    return replace(whole, **changes)


def columns(path: Path, block: str = "particles") -> dict[str, list[str]]:
    """A table as gemmi, which shares nothing with our reader, sees it."""
    from gemmi import cif

    found = cif.read(str(path)).find_block(block or " ")
    item: Any = next(iter(found))
    if item.loop is None:
        pairs: list[Any] = [other.pair for other in found]
        return {tag: [cif.as_string(value)] for tag, value in pairs}
    return {tag: [cif.as_string(value) for value in found.find_loop(tag)] for tag in item.loop.tags}


def checked(picks: Particles, micrographs: Micrographs, style: Any = "relion", **recipe: Any) -> tuple[str, ...]:
    """What is said of two tables before any work; every pick is on the micrograph of its number."""
    rows = np.arange(len(picks))
    return check_tables(
        picks,
        micrographs,
        Recipe(box=64, style=style, **recipe),
        native="star" if style == "relion" else "cs",
        families=("star" if style == "relion" else "cs",),
        rows=rows,
        micrograph=np.minimum(picks.micrograph, len(micrographs) - 1),
        pixel_size=np.where(np.isnan(micrographs.pixel_size), 1.0, micrographs.pixel_size),
    )
