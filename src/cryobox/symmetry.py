"""Point groups as rotation matrices: all that leave a symmetric particle as it is, on either program's axes.

A group is what turns about its axes make: the identity, and for each axis of order n the n - 1 others. RELION's axes
are those that its program has (docs/conventions.md); CryoSPARC's are the same but for D_n, whose twofold axis is on y.
"""

from __future__ import annotations

import math
import re
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["rotations_of"]

Floats = NDArray[np.float64]
Axis = tuple[float, float, float]
Axes = list[tuple[Axis, int]]  # directions, and the order of each

_GOLDEN = (1 + math.sqrt(5)) / 2
_TILT = math.degrees(math.atan(1 / _GOLDEN))  # from the twofold axis on z to a fivefold one


def rotations_of(symmetry: str, family: Literal["relion", "cryosparc"]) -> Floats:
    """The rotations of a group, shape (order, 3, 3), the identity first.

    Parameters
    ----------
    symmetry : str
        "C1", "C7", "D2", "T", "O", "I", "I1" to "I4".
    family : {"relion", "cryosparc"}
        Whose axes.
    """
    matrices = [np.eye(3)]
    for axis, order in _axes(symmetry, family):
        matrices += [_about(axis, 360 * k / order) for k in range(1, order)]
    found: Floats = np.round(np.array(matrices, np.float64), 15) + np.float64(0.0)  # zeros and halves exactly so
    return found


def _axes(symmetry: str, family: Literal["relion", "cryosparc"]) -> Axes:
    found = re.fullmatch(r"([CD])(\d+)", symmetry)
    if found is not None:
        order = int(found[2])
        first = 0.0 if family == "relion" else 90.0
        twofold = [first + 180 * k / order for k in range(order)] if found[1] == "D" else []
        flat: list[Axis] = [(math.cos(math.radians(angle)), math.sin(math.radians(angle)), 0.0) for angle in twofold]
        return [((0.0, 0.0, 1.0), order), *((axis, 2) for axis in flat)]
    if symmetry == "T":
        third = [(0.0, math.sqrt(2 / 3), 1 / math.sqrt(3))]
        third += [_turned(third[0], (0, 0, 1), angle) for angle in (120, 240)]
        a, b, c = third
        diagonals: list[Axis] = [_sum(a, b, c, signs) for signs in ((1, 1, 1), (-1, 1, 1), (1, -1, 1), (1, 1, -1))]
        return [*((axis, 3) for axis in diagonals), *((axis, 2) for axis in third)]
    if symmetry == "O":
        faces: list[Axis] = [(1, 0, 0), (0, 1, 0), (0, 0, 1)]
        corners: list[Axis] = [(1, 1, 1), (-1, 1, 1), (1, -1, 1), (1, 1, -1)]
        edges: list[Axis] = [(0, 1, 1), (0, 1, -1), (1, 0, 1), (1, 0, -1), (1, 1, 0), (1, -1, 0)]
        return [*((axis, 4) for axis in faces), *((axis, 3) for axis in corners), *((axis, 2) for axis in edges)]
    turn: dict[str, tuple[Axis, float]] = {
        "I1": ((0, 0, 1), 90), "I3": ((0, 1, 0), -_TILT), "I4": ((0, 1, 0), _TILT)
    }  # fmt: skip
    about, angle = turn.get(symmetry, ((0, 0, 1), 0))
    return [(_turned(axis, about, angle), order) for axis, order in _icosahedral()]


def _icosahedral() -> Axes:
    """The axes of I2, RELION's I: twofold ones on x, y and z, a fivefold one in the plane of x and z."""
    g = _GOLDEN
    fivefold: list[Axis] = [(1, 0, g), (-1, 0, g), (g, 1, 0), (g, -1, 0), (0, g, 1), (0, g, -1)]
    threefold: list[Axis] = [(1, 1, 1), (-1, 1, 1), (1, -1, 1), (1, 1, -1)]
    threefold += [(0, 1 / g, g), (0, -1 / g, g), (g, 0, 1 / g), (g, 0, -1 / g), (1 / g, g, 0), (-1 / g, g, 0)]
    twofold: list[Axis] = [(1, 0, 0), (0, 1, 0), (0, 0, 1)]
    for a in (1.0, -1.0):
        for b in (1.0, -1.0):
            twofold += [(a, b * g, 1 + g), (1 + g, a, b * g), (b * g, 1 + g, a)]
    return [*((axis, 5) for axis in fivefold), *((axis, 3) for axis in threefold), *((axis, 2) for axis in twofold)]


def _about(axis: Axis, degrees: float) -> Floats:
    """The turn about an axis (Rodrigues' formula)."""
    x, y, z = np.array(axis) / math.hypot(*axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = math.radians(degrees)
    turn: Floats = np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * (cross @ cross)
    return turn


def _turned(axis: Axis, about: Axis, degrees: float) -> Axis:
    x, y, z = (_about(about, degrees) @ np.array(axis)).tolist()
    return x, y, z


def _sum(a: Axis, b: Axis, c: Axis, signs: tuple[int, int, int]) -> Axis:
    x, y, z = (signs[0] * p + signs[1] * q + signs[2] * r for p, q, r in zip(a, b, c, strict=True))
    return x, y, z
