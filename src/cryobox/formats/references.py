"""Which stored image each row of a particles table points at: for checking a table against its stacks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cryobox.errors import InputError
from cryobox.particles import Particles

if TYPE_CHECKING:
    from cryobox.formats.cs_table import Table
    from cryobox.formats.star_optics import StarTable

__all__ = ["ImageReferences", "image_references", "references_of_cs", "references_of_star"]

_MOST_DIGITS = 18  # of a number that an int64 holds
_MOST_PIXELS = 2**31
_KINDS = {"iu": "integers", "f": "numbers", "SU": "strings"}
_FIELDS: dict[str, tuple[str, tuple[int, ...]]] = {
    "uid": ("iu", ()),
    "blob/path": ("SU", ()),
    "blob/idx": ("iu", ()),
    "blob/shape": ("iu", (2,)),
    "blob/psize_A": ("f", ()),
}


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
        Side of the stored image in pixels, of two that differ the longer one; 0 where the table does not say it.
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
        return references_of_star(particles.source, particles.table)
    if particles.family == "cs":
        return references_of_cs(particles.source, particles.table)
    raise InputError(f"{particles.source}: has no images, only coordinates")


def references_of_star(source: str, star: StarTable) -> ImageReferences:
    """The same of the table of a STAR file, with or without coordinates."""
    from cryobox.formats.star_optics import image_pixel_size
    from cryobox.formats.star_text import number

    names = star.table.texts("_rlnImageName")
    slots = np.empty(len(names), dtype=np.int64)
    stacks = []
    for row, name in enumerate(names):
        index, at, stack = name.partition("@")
        if not at or not (index.isascii() and index.isdigit() and len(index) <= _MOST_DIGITS) or int(index) < 1:
            raise InputError(f"{source}: row {row + 1}: rlnImageName {name!r}, expected number@stack")
        slots[row] = int(index) - 1
        stacks.append(stack)
    pixel_size = image_pixel_size(star)
    size = np.zeros(len(names), dtype=np.int64)
    if star.group is not None and len(star.optics):
        of_group = np.array([number(row.get("_rlnImagePixelSize")) for row in star.optics])[star.group]
        pixel_size = np.where(np.isnan(of_group), pixel_size, of_group)
        sides = np.nan_to_num([number(row.get("_rlnImageSize")) for row in star.optics])
        size = np.clip(sides, 0, _MOST_PIXELS).astype(np.int64)[star.group]
    return ImageReferences(stack=tuple(stacks), slot=slots, pixel_size=pixel_size, size=size)


def references_of_cs(source: str, table: Table) -> ImageReferences:
    """The same of a `.cs`, with or without locations."""
    from cryobox.formats.cs_table import as_text

    missing = [name for name in _FIELDS if name not in (table.dtype.names or ())]
    if missing:
        raise InputError(f"{source}: has no {', '.join(missing)}")
    for name, (kinds, shape) in _FIELDS.items():
        if table.dtype[name].shape != shape:
            raise InputError(f"{source}: {name} is {table.dtype[name]}, expected values of shape {shape}")
        if table.dtype[name].base.kind not in kinds:
            raise InputError(f"{source}: {name} is {table.dtype[name]}, expected {_KINDS[kinds]}")
    return ImageReferences(
        stack=tuple(as_text(path) for path in table["blob/path"].tolist()),
        slot=table["blob/idx"].astype(np.int64),
        pixel_size=table["blob/psize_A"].astype(np.float64),
        size=table["blob/shape"].max(axis=1, initial=0).astype(np.int64),
        uid=table["uid"].astype(np.uint64),
    )
