"""Sub-particles, literally: groups closed from generators, and one particle at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from cryobox.reference.geometry import Floats

__all__ = ["SubParticle", "subparticles", "symmetry_group", "view_of"]

Point = tuple[float, float, float]
Degrees = tuple[float, float, float]

# Axis and order of rotations that make each group, in RELION's axes.
_GENERATORS: dict[str, tuple[tuple[Point, int], ...]] = {
    "T": (((0, 0, 1), 3), ((0, 0.816496580927726, 0.5773502691896258), 2)),
    "O": (((0, 0, 1), 4), ((1, 1, 1), 3)),
    "I1": (((1, 0, 0), 2), ((0.85065080835204, 0, -0.5257311121191336), 5)),
    "I2": (((0, 0, 1), 2), ((0.5257311121191336, 0, 0.85065080835204), 5)),
    "I3": (((-0.5257311121191336, 0, 0.85065080835204), 2), ((0, 0, 1), 5)),
    "I4": (((0.5257311121191336, 0, 0.85065080835204), 2), ((0.8944271909999159, 0, 0.4472135954999579), 5)),
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class SubParticle:
    """One of a particle.

    Parameters
    ----------
    view : ndarray, shape (3, 3)
        RELION's matrix of it.
    angles : (float, float, float)
        Its rot, tilt and psi in degrees.
    shown : (float, float)
        (y, x) of its center from that of the particle, in the unit of the point.
    depth : float
        The same along the beam.
    """

    view: Floats
    angles: Degrees
    shown: tuple[float, float]
    depth: float


def view_of(rot: float, tilt: float, psi: float) -> Floats:
    """RELION's matrix of angles in degrees: Rz(psi) Ry(tilt) Rz(rot), turning the frame."""

    def about_z(degrees: float) -> Floats:
        c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        return np.array([[c, s, 0.0], [-s, c, 0.0], [0.0, 0.0, 1.0]])

    c, s = math.cos(math.radians(tilt)), math.sin(math.radians(tilt))
    about_y = np.array([[c, 0.0, -s], [0.0, 1.0, 0.0], [s, 0.0, c]])
    matrix: Floats = about_z(psi) @ about_y @ about_z(rot)
    return matrix


def _angles_of(view: Floats) -> Degrees:
    tilt = math.atan2(math.hypot(view[0, 2], view[1, 2]), view[2, 2])
    if math.sin(tilt) < 1e-9:  # rot and psi are one turn
        flat = math.atan2(-view[1, 0], view[0, 0]) if view[2, 2] > 0 else math.atan2(view[1, 0], -view[0, 0])
        return 0.0, 0.0 if view[2, 2] > 0 else 180.0, math.degrees(flat)
    rot, psi = math.atan2(view[2, 1], view[2, 0]), math.atan2(view[1, 2], -view[0, 2])
    return math.degrees(rot), math.degrees(tilt), math.degrees(psi)


def _turn(axis: Point, order: int) -> Floats:
    """A turn by 360 / order degrees: along the axis, across it, and across both."""
    along = np.array(axis) / math.sqrt(sum(length**2 for length in axis))
    c, s = math.cos(2 * math.pi / order), math.sin(2 * math.pi / order)
    columns = []
    for unit in np.eye(3):
        on_it = float(along @ unit) * along
        columns.append(on_it + c * (unit - on_it) + s * np.cross(along, unit))
    return np.stack(columns, axis=1)


def symmetry_group(symmetry: str, family: Literal["relion", "cryosparc"] = "relion") -> list[Floats]:
    """Every rotation of a group ("C7", "D2", "T", "O", "I", "I1" ...), the identity first.

    What products of the generators give, until nothing new comes. CryoSPARC's D has a twofold axis on y, where
    RELION's has it on x.
    """
    if symmetry[0] in "CD":
        generators: list[tuple[Point, int]] = [((0, 0, 1), int(symmetry[1:]))]
        if symmetry[0] == "D":
            generators.append(((1, 0, 0) if family == "relion" else (0, 1, 0), 2))
    else:
        generators = list(_GENERATORS["I2" if symmetry == "I" else symmetry])
    turns = [_turn(axis, order) for axis, order in generators]
    found = [np.eye(3)]
    for one in found:  # grows
        for turn in turns:
            new = one @ turn
            if all(np.abs(new - other).max() > 1e-6 for other in found):
                found.append(new)
    return found


def subparticles(
    angles: Degrees, points: Sequence[Point], group: Sequence[Floats], unique_angle: float | None = None
) -> list[SubParticle]:
    """The sub-particles of one particle: each point, by each rotation of the group.

    With A the particle's matrix, R a rotation and c a point, the view is A R, and the center is at the x and y of
    A R c. Of those whose directions from the particle's center are less than `unique_angle` degrees apart the first
    stays.
    """
    matrix = view_of(*angles)
    found: list[SubParticle] = []
    directions: list[Floats] = []
    for point in points:
        for turn in group:
            view = matrix @ turn
            x, y, z = (view @ np.array(point)).tolist()
            direction = np.array([x, y, z])
            if unique_angle is not None and any(_angle(direction, other) < unique_angle - 1e-6 for other in directions):
                continue
            directions.append(direction)
            found.append(SubParticle(view=view, angles=_angles_of(view), shown=(y, x), depth=z))
    return found


def _angle(one: Floats, other: Floats) -> float:
    return math.degrees(math.atan2(float(np.linalg.norm(np.cross(one, other))), float(one @ other)))
