"""Which stored image each row of a particles table points at: for checking a table against its stacks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cryobox.errors import InputError
from cryobox.particles import Particles

__all__ = ["ImageReferences", "image_references"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageReferences:
    """Columns of equal length, one row per particle.

    Parameters
    ----------
    stack : tuple of str
        Path of the stack, as the table says it.
    slot : ndarray, int64
        0-based.
    pixel_size : ndarray, float64
        Å per pixel of the stored image; nan where the table does not say it.
    size : ndarray, int64
        Side of the stored image in pixels; 0 where the table does not say it.
    uid : ndarray, uint64, optional
    """

    stack: tuple[str, ...]
    slot: NDArray[np.int64]
    pixel_size: NDArray[np.float64]
    size: NDArray[np.int64]
    uid: NDArray[np.uint64] | None = None


def image_references(particles: Particles) -> ImageReferences:
    """Read the image columns of a particles table.

    Raises
    ------
    InputError
        If it has none.
    """
    if particles.family == "star":
        return _of_star(particles)
    if particles.family == "cs":
        return _of_cs(particles)
    raise InputError(f"{particles.source}: has no images, only coordinates")


def _of_star(particles: Particles) -> ImageReferences:
    from cryobox.formats.star_text import number

    star = particles.table
    names = star.table.texts("_rlnImageName")
    slots = np.empty(len(names), dtype=np.int64)
    stacks = []
    for row, name in enumerate(names):
        index, at, stack = name.partition("@")
        if not at or not index.isdigit() or int(index) < 1:
            raise InputError(f"{particles.source}: row {row + 1}: rlnImageName {name!r}, expected number@stack")
        slots[row] = int(index) - 1
        stacks.append(stack)
    pixel_size = np.full(len(names), np.nan)
    size = np.zeros(len(names), dtype=np.int64)
    if star.group is not None and len(star.optics):
        pixel_size = np.array([number(row.get("_rlnImagePixelSize")) for row in star.optics])[star.group]
        sides = [number(row.get("_rlnImageSize")) for row in star.optics]
        size = np.nan_to_num(np.array(sides)).astype(np.int64)[star.group]
    return ImageReferences(stack=tuple(stacks), slot=slots, pixel_size=pixel_size, size=size)


def _of_cs(particles: Particles) -> ImageReferences:
    from cryobox.formats.cs_table import as_text

    table = particles.table
    wanted = {"uid": (), "blob/path": (), "blob/idx": (), "blob/shape": (2,), "blob/psize_A": ()}
    missing = [name for name in wanted if name not in table.dtype.names]
    if missing:
        raise InputError(f"{particles.source}: has no {', '.join(missing)}")
    for name, shape in wanted.items():
        if table.dtype[name].shape != shape:
            raise InputError(f"{particles.source}: {name} is {table.dtype[name]}, expected values of shape {shape}")
    return ImageReferences(
        stack=tuple(as_text(path) for path in table["blob/path"].tolist()),
        slot=table["blob/idx"].astype(np.int64),
        pixel_size=table["blob/psize_A"].astype(np.float64),
        size=table["blob/shape"][:, 0].astype(np.int64),
        uid=table["uid"],
    )
