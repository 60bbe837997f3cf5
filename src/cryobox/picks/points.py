"""Picks whose box is to be centered on another point of the particle than its reference's center."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cryobox.errors import OptionError
from cryobox.formats.columns import DEFOCUS_OFFSET
from cryobox.formats.poses import image_extents, image_sizes, views_of
from cryobox.groups import Unit, point_from
from cryobox.particles import Alignment, Particles

__all__ = ["centered_on", "in_angstrom"]

Floats = NDArray[np.float64]


def centered_on(
    particles: Particles,
    leading: Alignment,
    text: str,
    ref_pixel_size: float | None,
    defocus_sign: int = 0,
) -> Particles:
    """Picks whose alignment `leading` brings a point of the reference to the center of the box.

    As RELION does: the point, turned by rot, tilt and psi, appears at its x and y in the image; the shift that centers
    the particle becomes less by that much. CryoSPARC's rotation vector is turned into the same matrix.

    Parameters
    ----------
    particles : Particles
    leading : Alignment
        One of its alignments.
    text : str
        As `groups.point_from`: in Å or pixels from the reference's center, or in voxels from its corner.
    ref_pixel_size : float, optional
        Å per pixel of the reference, where `text` counts in pixels or voxels; default: that of the particles' images.
    defocus_sign : {-1, 0, 1}
        The defocus changes by so many times the depth of the point: its z in the view of each particle.

    Raises
    ------
    OptionError
        If the table has no orientations, or does not say what a pixel is.
    """
    views = views_of(particles)
    if views is not None and leading.kind != "3d":
        raise OptionError(
            "--recenter-3d turns a point by the 3D alignment, and --recenter-from 2d leads by another; leave one out"
        )
    if views is None:
        raise OptionError(f"{particles.source}: has no 3D orientations, so no point of a reference can be centered")
    angstrom = views @ in_angstrom(*point_from(text), particles, ref_pixel_size)[:, :, None]
    shown = angstrom[:, [1, 0], 0]  # (y, x)
    moved = replace(leading, shift=leading.shift - shown / leading.pixel_size[:, None])
    columns = {**particles.columns}
    if defocus_sign:
        columns[DEFOCUS_OFFSET] = columns.get(DEFOCUS_OFFSET, 0.0) + defocus_sign * angstrom[:, 2, 0]
    return replace(
        particles,
        alignments=tuple(moved if one is leading else one for one in particles.alignments),
        columns=columns,
    )


def in_angstrom(
    place: tuple[float, float, float], unit: Unit, particles: Particles, ref_pixel_size: float | None
) -> Floats:
    """A point from the reference's center, in Å, for each pick: shape (n, 3).

    Raises
    ------
    OptionError
        If it is given in pixels or voxels, and the table does not say what these are.
    """
    vector = np.tile(np.array(place), (len(particles), 1))
    if unit == "A":
        return vector
    size = image_sizes(particles) if ref_pixel_size is None else np.full(len(particles), ref_pixel_size)
    if unit == "voxel":
        # The reference is as wide as the images, whatever its own pixel.
        vector = vector - (image_extents(particles) / size)[:, None] / 2
    found: Floats = vector * size[:, None]
    if np.isnan(found).any():
        lacking = "how many Å a pixel of its images has" + (", or how many pixels they have" if unit == "voxel" else "")
        remedy = "" if unit == "voxel" else ", or --ref-angpix"
        raise OptionError(f"{particles.source}: does not say {lacking}; give the point in Å{remedy}")
    return found
