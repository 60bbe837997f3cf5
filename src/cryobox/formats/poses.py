"""Orientations of particles, and what their reference is measured in, as tables say it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cryobox.errors import InputError
from cryobox.formats.star_optics import StarTable, image_pixel_size
from cryobox.formats.star_text import number
from cryobox.particles import Particles
from cryobox.rotations import matrix_from_euler, matrix_from_pose

__all__ = ["angles_said", "image_extents", "image_sizes", "views_of"]

Floats = NDArray[np.float64]

ANGLES = ("_rlnAngleRot", "_rlnAngleTilt", "_rlnAnglePsi")
POSE = "alignments3D/pose"


def views_of(particles: Particles) -> Floats | None:
    """RELION's matrix of each pick, shape (n, 3, 3), from the reference's frame to the image's; None without angles.

    Raises
    ------
    InputError
        If angles are no numbers.
    """
    rows = particles.rows_of(np.arange(len(particles)))
    if particles.family == "cs":
        if POSE not in (particles.table.dtype.names or ()) or particles.table.dtype[POSE].shape != (3,):
            return None
        angles = particles.table[POSE][rows].astype(np.float64)
        found = matrix_from_pose(angles)
    else:
        star: StarTable | None = particles.table if particles.family == "star" else None
        if star is None or any(tag not in star.table for tag in ANGLES):
            return None
        angles = np.stack([star.table.floats(tag)[rows] for tag in ANGLES], axis=1)
        found = matrix_from_euler(angles)
    if not np.isfinite(angles).all():
        row = int(rows[np.argmin(np.isfinite(angles).all(axis=1))]) + 1
        raise InputError(
            f"{particles.source}: row {row}: its orientation is not a number, so no point can be turned by it"
        )
    return found


def angles_said(particles: Particles) -> Floats | None:
    """The numbers by which a table says the orientation of each pick, shape (n, 3), to 1e-4; None where it has none."""
    rows = particles.rows_of(np.arange(len(particles)))
    if particles.family == "cs":
        fields = particles.table.dtype
        if POSE not in (fields.names or ()) or fields[POSE].shape != (3,):
            return None
        found = particles.table[POSE][rows].astype(np.float64)
    else:
        star: StarTable | None = particles.table if particles.family == "star" else None
        if star is None or any(tag not in star.table for tag in ANGLES):
            return None
        found = np.stack([star.table.floats(tag)[rows] for tag in ANGLES], axis=1)
    return np.asarray(np.round(np.nan_to_num(found), 4) + 0.0)


def image_sizes(particles: Particles) -> Floats:
    """Å per pixel of the image of each pick; nan where the table does not say it."""
    rows = particles.rows_of(np.arange(len(particles)))
    if particles.family == "cs":
        for name in ("alignments3D/psize_A", "blob/psize_A"):
            if name in (particles.table.dtype.names or ()):
                size = particles.table[name][rows].astype(np.float64)
                return np.where(size > 0, size, np.nan)
        return np.full(len(particles), np.nan)
    size = image_pixel_size(particles.table)[rows] if particles.family == "star" else np.full(len(particles), np.nan)
    return np.where(size > 0, size, np.nan)


def image_extents(particles: Particles) -> Floats:
    """How many Å a side of the image of each pick has; nan where the table does not say it.

    A `.cs` may count its shifts in pixels of another binning than that of the images (alignments3D/psize_A).
    """
    rows = particles.rows_of(np.arange(len(particles)))
    found, size = np.full(len(particles), np.nan), image_sizes(particles)
    if particles.family == "cs":
        fields = particles.table.dtype.names or ()
        if "blob/shape" in fields:
            found = particles.table["blob/shape"][rows].max(axis=1).astype(np.float64)
        if "blob/psize_A" in fields:
            size = particles.table["blob/psize_A"][rows].astype(np.float64)
    elif particles.family == "star":
        star: StarTable = particles.table
        if star.group is not None:
            sides = np.array([*(number(row.get("_rlnImageSize")) for row in star.optics), np.nan])
            found = sides[star.group[rows]]
    return np.where((found > 0) & (size > 0), found * size, np.nan)
