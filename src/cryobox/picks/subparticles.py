"""Sub-particles: a pick for each place of a symmetric particle where the symmetry brings one of some points."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryobox.errors import OptionError
from cryobox.formats.columns import DEFOCUS_OFFSET, MADE
from cryobox.formats.labels import labels_of
from cryobox.formats.links import links_of
from cryobox.formats.poses import views_of
from cryobox.groups import Axes, SubParticles, points_from
from cryobox.particles import Alignment, Particles
from cryobox.picks.points import in_angstrom
from cryobox.picks.selecting import hashes_of
from cryobox.rotations import euler_from_matrix, products, seen
from cryobox.symmetry import rotations_of
from cryobox.windows import mixed

__all__ = ["subparticles_of", "with_origins"]

Floats = NDArray[np.float64]

SAME_PLACE = 1.0  # Å; sub-particles that are closer show the same part of the particle
ANGLE_TOLERANCE = 1e-6  # degrees: an angle of exactly --unique-angle is none that is less
DIGITS = 9  # of a position in Å
GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # of splitmix64: steps that spread over 64 bits


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kinds:
    """The sub-particles of every particle.

    Parameters
    ----------
    points : ndarray, shape (particles, points, 3)
        Å from the reference's center.
    turns : ndarray, shape (order, 3, 3)
        The group.
    point, turn : ndarray, shape (kinds,)
        Which of the points, turned by which rotation, each kind is.
    """

    points: Floats
    turns: Floats
    point: NDArray[np.intp]
    turn: NDArray[np.intp]


def with_origins(particles: Particles) -> Particles:
    """A STAR table that has orientations and no origins means origins of 0: they will be written."""
    if particles.family != "star" or particles.alignments or not len(particles) or views_of(particles) is None:
        return particles
    n = len(particles)
    return replace(
        particles, alignments=(Alignment(name="origin", kind="3d", shift=np.zeros((n, 2)), pixel_size=np.ones(n)),)
    )


def subparticles_of(
    particles: Particles,
    leading: Alignment | None,
    options: SubParticles,
    ref_pixel_size: float | None,
    defocus_sign: int = 0,
) -> tuple[Particles, tuple[str, ...]]:
    """A pick for each sub-particle, those of one particle one after the other; and what is worth telling.

    With A the particle's matrix and R a rotation of the group, the sub-particle at point c is seen as by A R, and is
    centered at the x and y of A R c.

    Parameters
    ----------
    particles : Particles
    leading : Alignment, optional
        The one of its alignments that moves the boxes.
    options : SubParticles
    ref_pixel_size : float, optional
        Å per pixel of the reference, where points are in pixels or voxels.
    defocus_sign : {-1, 0, 1}
        The defocus of a sub-particle differs from its particle's by so many times its depth.

    Raises
    ------
    OptionError
        If the table has no orientations, or does not say what a pixel is.
    """
    if leading is None:
        raise OptionError(
            "--subparticles needs particles that have an alignment, and moves their boxes; leave out --no-recenter, "
            "--reset-offsets and --drop-alignments"
        )
    views = views_of(particles)
    if views is not None and leading.kind != "3d":
        raise OptionError(
            "--subparticles are seen by the 3D alignment, and --recenter-from 2d leads by another; leave one out"
        )
    if views is None:
        raise OptionError(f"{particles.source}: has no 3D orientations, so it is not known where sub-particles are")
    kinds, warnings = _kinds(particles, options, ref_pixel_size)
    of_each = len(kinds.turn)
    turned = products(views, kinds.turns[kinds.turn])
    shown = seen(turned, kinds.points[:, kinds.point])
    parent = np.repeat(np.arange(len(particles)), of_each)
    made = particles.take(parent)
    # (y, x); without the last digits, in which copies on an axis of symmetry differ that are in one place.
    step = np.round(shown[:, :, 1::-1].reshape(-1, 2), DIGITS)
    alignments = tuple(
        replace(one, shift=one.shift - step / one.pixel_size[:, None]) if before is leading else one
        for before, one in zip(particles.alignments, made.alignments, strict=True)
    )
    angles = euler_from_matrix(turned.reshape(-1, 3, 3))
    columns: dict[str, NDArray[Any]] = {
        name: angles[:, i] for i, name in enumerate(("rot_degrees", "tilt_degrees", "psi_degrees"))
    }
    if defocus_sign:
        columns[DEFOCUS_OFFSET] = defocus_sign * np.round(shown[:, :, 2].ravel(), DIGITS)
    columns |= _priors(particles, angles)
    halves, told = _halves(particles)
    if halves is not None:
        columns["half_set"] = halves[parent]
    number = np.tile(np.arange(of_each, dtype=np.uint64), len(particles))
    columns |= _names(particles, parent, number, of_each)
    made = replace(
        made,
        alignments=alignments,
        copy_of=_families(particles)[parent],
        columns=dict(made.columns) | columns,
        warnings=(*made.warnings, *warnings, *told),
    )
    note = f"{len(particles)} particles make {len(made)} sub-particles, {of_each} each ({options.symmetry or 'C1'})"
    return made, (note,)


def _kinds(particles: Particles, options: SubParticles, ref_pixel_size: float | None) -> tuple[_Kinds, list[str]]:
    family: Axes = options.symmetry_axes or ("cryosparc" if particles.family == "cs" else "relion")
    if options.symmetry == "I" and family == "cryosparc":
        raise OptionError(
            "--symmetry I: which axes CryoSPARC's I has is not documented; say I1 or I2, or whose they are with "
            "--symmetry-axes"
        )
    places = points_from(options.subparticles or "")
    points = np.stack([in_angstrom(*place, particles, ref_pixel_size) for place in places], axis=1)
    turns = rotations_of(options.symmetry or "C1", family)
    point, turn = (one.ravel() for one in np.mgrid[: len(places), : len(turns)])
    first = points[0] if len(points) else np.zeros((len(places), 3))
    if options.unique_angle is not None:
        if not np.allclose(points, first, rtol=1e-6, atol=1e-6) and any(unit == "voxel" for _, unit in places):
            raise OptionError(
                f"{particles.source}: images have several sizes, so voxels from the corner are no one point, and "
                f"--unique-angle knows no directions; give the points in Å"
            )
        alone = _apart(seen(turns[turn], first[point]), options.unique_angle)
        point, turn = point[alone], turn[alone]
    return _Kinds(points=points, turns=turns, point=point, turn=turn), _doubts(first, turns, point, turn, options)


def _apart(vectors: Floats, degrees: float) -> NDArray[np.intp]:
    """Those of some vectors whose direction is no less than an angle away from that of every earlier one that stays."""
    kept: list[int] = []
    for i, vector in enumerate(vectors):
        others = vectors[kept]
        angles = np.degrees(np.arctan2(np.linalg.norm(np.cross(others, vector), axis=1), others @ vector))
        if (angles >= degrees - ANGLE_TOLERANCE).all():
            kept.append(i)
    return np.array(kept, np.intp)


def _doubts(
    points: Floats, turns: Floats, point: NDArray[np.intp], turn: NDArray[np.intp], options: SubParticles
) -> list[str]:
    """What is seldom meant: places that are used several times, and points that --unique-angle leaves out."""
    found = []
    for number, place in enumerate(points):
        mine = seen(turns[turn[point == number]], place)
        text = ",".join(f"{length:g}" for length in place.tolist())
        if not len(mine):
            found.append(f"--unique-angle leaves out the point {text} Å, which lies in the direction of an earlier one")
            continue
        same = int((np.linalg.norm(mine - mine[0], axis=1) < SAME_PLACE).sum())
        if same > 1:
            found.append(
                f"the point {text} Å lies on an axis of {options.symmetry}: {same} sub-particles of a particle are in "
                f"one place, turned about it; --unique-angle keeps one of them"
            )
    return found


def _priors(particles: Particles, angles: Floats) -> dict[str, NDArray[Any]]:
    """What a later search takes for likely, where the table has such columns: the new view and the new center."""
    centered = np.zeros(len(angles))
    likely = {
        "rot_prior_degrees": angles[:, 0], "tilt_prior_degrees": angles[:, 1], "psi_prior_degrees": angles[:, 2],
        "x_prior_angstrom": centered, "y_prior_angstrom": centered,
    }  # fmt: skip
    table = particles.table.table if particles.family == "star" else ()
    return {name: values for name, values in likely.items() if MADE[name].tag in table}


def _halves(particles: Particles) -> tuple[NDArray[np.int64] | None, list[str]]:
    """The half-set, 1 or 2, of each particle; None where the table has one of every particle."""
    said = labels_of(particles, "half-set")
    old = np.zeros(len(particles), np.int64) if said is None else np.maximum(said, 0)
    if particles.family == "cs" and old.any():  # counted from 0; all in the first half means that nothing was split
        old = old + 1
    if (old > 0).all():
        return None, []
    key = hashes_of(particles, "half-set")
    if particles.copy_of is not None:  # copies of one particle are in one half-set
        of_copies = np.full(int(particles.copy_of.max(initial=0)) + 1, np.iinfo(np.uint64).max, np.uint64)
        among = particles.copy_of >= 0
        np.minimum.at(of_copies, particles.copy_of[among], key[among])
        key[among] = of_copies[particles.copy_of[among]]
    made = (key & np.uint64(1)).astype(np.int64) + 1
    lacking = int((old == 0).sum())
    told = (
        f"{particles.source}: {lacking} of {len(old)} particles are in no half-set; each is put into one by a hash, "
        f"with all its sub-particles"
    )
    return np.where(old > 0, old, made), [told]


def _names(
    particles: Particles, parent: NDArray[np.intp], number: NDArray[np.uint64], of_each: int
) -> dict[str, NDArray[Any]]:
    """What the sub-particles and their particles are called."""
    links = links_of(particles)
    found: dict[str, NDArray[Any]] = {}
    if links.name is not None:
        found["original_particle"] = links.name[parent]
    if links.uid is not None:
        found["uid"] = _mixed(_mixed(links.uid[parent]) + (number + np.uint64(1)) * GOLDEN)
        if links.source is not None and links.number is not None:
            found["source_uid"] = links.source[parent]
            found["copy_number"] = (links.number[parent] * np.uint64(of_each) + number).astype(np.int64)
    return found


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Other numbers of 64 bits, that look like random ones."""
    found = mixed(values)
    return np.where(found == 0, np.uint64(1), found)  # 0 means "no uid"


def _families(particles: Particles) -> NDArray[np.int64]:
    """A code for each particle, the same for copies of one: its sub-particles share images where windows are equal."""
    own = np.arange(len(particles), dtype=np.int64)
    if particles.copy_of is None:
        return own
    alone = particles.copy_of.max(initial=0) + 1 + own
    return np.where(particles.copy_of >= 0, particles.copy_of, alone)
