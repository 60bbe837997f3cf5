"""Orientations: RELION's Euler angles and CryoSPARC's rotation vectors.

CryoSPARC's pose is a rotation vector v (axis times angle), RELION's are Euler angles. Two public programs that read
both agree that RELION's matrix (Rz(psi) Ry(tilt) Rz(rot), rotating the frame) is the transpose of exp([v]x): pyem
(geom.expmap, geom.rot2euler) and cryoDRGN (parse_pose_csparc, R_from_relion).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "euler_from_matrix",
    "euler_from_pose",
    "matrix_from_euler",
    "matrix_from_pose",
    "pose_from_euler",
    "products",
    "seen",
]

Floats = NDArray[np.float64]


def matrix_from_euler(angles: Floats) -> Floats:
    """RELION's matrices, shape (n, 3, 3), of rot, tilt and psi, shape (n, 3) in degrees."""
    (ca, cb, cg), (sa, sb, sg) = np.cos(np.radians(angles)).T, np.sin(np.radians(angles)).T
    rows = [
        [cg * cb * ca - sg * sa, cg * cb * sa + sg * ca, -cg * sb],
        [-sg * cb * ca - cg * sa, -sg * cb * sa + cg * ca, sg * sb],
        [sb * ca, sb * sa, cb],
    ]
    matrix: Floats = np.moveaxis(np.array(rows), -1, 0)
    return matrix


def matrix_from_pose(pose: Floats) -> Floats:
    """RELION's matrices, shape (n, 3, 3), of CryoSPARC's rotation vectors, shape (n, 3) in radians."""
    w, x, y, z = _quaternion_from_pose(np.asarray(pose, np.float64)).T
    rows = [  # of exp([v]x)^T
        [1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)],
        [2 * (x * y - w * z), 1 - 2 * (x * x + z * z), 2 * (y * z + w * x)],
        [2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)],
    ]
    matrix: Floats = np.moveaxis(np.array(rows), -1, 0)
    return matrix


def _quaternion_from_pose(pose: Floats) -> Floats:
    angle = np.linalg.norm(pose, axis=1, keepdims=True)
    half = np.where(angle > 1e-12, np.sin(angle / 2) / np.where(angle > 1e-12, angle, 1.0), 0.5)
    quaternion: Floats = np.hstack([np.cos(angle / 2), half * pose])
    return quaternion


def euler_from_pose(pose: Floats) -> Floats:
    """RELION's rot, tilt and psi in degrees, of CryoSPARC's rotation vectors, shape (n, 3) in radians.

    Tilt lies between 0 and 180; where it is 0 or 180, rot is 0 and psi has the whole turn.
    """
    return euler_from_matrix(matrix_from_pose(pose))


def euler_from_matrix(matrix: Floats) -> Floats:
    """RELION's rot, tilt and psi in degrees, shape (n, 3), of its matrices, shape (n, 3, 3).

    Tilt lies between 0 and 180; where it is 0 or 180, rot is 0 and psi has the whole turn.
    """
    # The third column and row give the angles.
    r02, r12 = matrix[:, 0, 2], matrix[:, 1, 2]
    r20, r21, r22 = matrix[:, 2, 0], matrix[:, 2, 1], matrix[:, 2, 2]
    r00, r10 = matrix[:, 0, 0], matrix[:, 1, 0]
    sine = np.hypot(r02, r12)
    general = sine > 1e-12
    rot = np.where(general, np.arctan2(r21, r20), 0.0)
    tilt = np.arctan2(sine, r22)
    up = r22 > 0
    psi = np.where(general, np.arctan2(r12, -r02), np.where(up, np.arctan2(-r10, r00), np.arctan2(r10, -r00)))
    angles: Floats = np.column_stack([rot, np.where(general, tilt, np.where(up, 0.0, np.pi)), psi])
    return np.degrees(angles)


def pose_from_euler(angles: Floats) -> Floats:
    """CryoSPARC's rotation vectors in radians, at most π long, of RELION's rot, tilt, psi, shape (n, 3) in degrees."""
    matrix = np.swapaxes(matrix_from_euler(np.asarray(angles, np.float64)), 1, 2)
    # The quaternion's largest component is found first: no difference of nearly equal numbers is divided by (Shepperd).
    trace = np.trace(matrix, axis1=1, axis2=2)
    diagonal = np.diagonal(matrix, axis1=1, axis2=2)
    squares = np.column_stack([1 + trace, 1 - trace[:, None] + 2 * diagonal])  # four times each component's square
    skew = np.column_stack(
        [
            matrix[:, 2, 1] - matrix[:, 1, 2],
            matrix[:, 0, 2] - matrix[:, 2, 0],
            matrix[:, 1, 0] - matrix[:, 0, 1],
        ]
    )
    products = np.zeros((len(matrix), 4, 4))  # four times the product of any two components
    products[:, 0, 1:] = products[:, 1:, 0] = skew
    products[:, 1:, 1:] = matrix + np.swapaxes(matrix, 1, 2)
    products[:, range(4), range(4)] = squares
    largest = np.argmax(squares, axis=1)
    row = products[np.arange(len(matrix)), largest]
    quaternion = row / np.linalg.norm(row, axis=1, keepdims=True)
    quaternion *= np.where(quaternion[:, :1] < 0, -1.0, 1.0)
    sine = np.linalg.norm(quaternion[:, 1:], axis=1)
    angle = 2 * np.arctan2(sine, quaternion[:, 0])
    factor = np.where(sine > 1e-12, angle / np.where(sine > 1e-12, sine, 1.0), 2.0)
    found: Floats = quaternion[:, 1:] * factor[:, None]
    return found


def products(first: Floats, second: Floats) -> Floats:
    """Each matrix of `first`, shape (n, 3, 3), times each of `second`, shape (m, 3, 3): shape (n, m, 3, 3).

    Written out: a library's product may round a row by where it stands, and plans must not depend on how many picks
    there are.
    """
    found = np.empty((len(first), len(second), 3, 3))
    for i in range(3):
        for j in range(3):
            terms = [first[:, i, k, None] * second[None, :, k, j] for k in range(3)]
            found[:, :, i, j] = terms[0] + terms[1] + terms[2]
    return found


def seen(views: Floats, vectors: Floats) -> Floats:
    """x, y and depth z, shape (..., 3), at which views, shape (..., 3, 3), show vectors, shape (..., 3)."""
    parts = [sum(views[..., i, k] * vectors[..., k] for k in range(3)) for i in range(3)]
    shown: Floats = np.stack(parts, axis=-1)
    return shown
