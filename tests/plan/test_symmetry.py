"""Point groups: against what maps a solid onto itself, against the literal twin, and against RELION's expansion."""

from __future__ import annotations

import itertools
import math
import subprocess
from pathlib import Path
from typing import Literal

import gemmi
import numpy as np
import pytest
from numpy.typing import NDArray

from cryobox import reference
from cryobox.rotations import euler_from_matrix, matrix_from_euler, products
from cryobox.symmetry import rotations_of
from synth import write_star

Floats = NDArray[np.float64]
Family = Literal["relion", "cryosparc"]

GOLDEN = (1 + math.sqrt(5)) / 2
GROUPS = ("C1", "C2", "C7", "D2", "D3", "D7", "T", "O", "I", "I1", "I2", "I3", "I4")


def turned_about(axis: Literal["y", "z"], degrees: float, vectors: Floats) -> Floats:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turn = [[c, -s, 0], [s, c, 0], [0, 0, 1]] if axis == "z" else [[c, 0, s], [0, 1, 0], [-s, 0, c]]
    return np.asarray(vectors @ np.array(turn).T)


def solid(name: str, family: Family) -> Floats:
    """Corners of a solid whose rotations are the group, as the programs place it; of C the corners have a color."""
    if name[0] in "CD":
        n = int(name[1:])
        first = 0.0 if family == "relion" else math.pi / 2
        around = first + 2 * math.pi * np.arange(n) / n
        # Corners on the rim of a lens; a twofold axis goes through one of them.
        rim = np.stack([np.cos(around), np.sin(around), np.zeros(n)], axis=1)
        return np.concatenate([rim, [[0, 0, 2], [0, 0, -2]]])
    if name == "O":
        return np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]], np.float64)
    if name == "T":
        base = [[2 * math.sqrt(2) / 3 * math.sin(a), 2 * math.sqrt(2) / 3 * math.cos(a), -1 / 3]
                for a in (0, 2 * math.pi / 3, 4 * math.pi / 3)]  # fmt: skip
        return np.array([[0, 0, 1], *base])
    signs = list(itertools.product((1, -1), (1, -1)))
    corners = np.array([
        *[(a, 0, b * GOLDEN) for a, b in signs], *[(a * GOLDEN, b, 0) for a, b in signs],
        *[(0, a * GOLDEN, b) for a, b in signs],
    ])  # fmt: skip
    tilt = math.degrees(math.atan2(1, GOLDEN))
    return {
        "I": corners, "I2": corners, "I1": turned_about("z", 90, corners), "I3": turned_about("y", -tilt, corners),
        "I4": turned_about("y", tilt, corners),
    }[name]  # fmt: skip


def rotations_onto_itself(corners: Floats, *, colored: bool) -> list[Floats]:
    """Every rotation that maps a set of points onto itself: two points may go to any two that lie alike."""
    one, other = corners[0], next(c for c in corners if np.linalg.norm(np.cross(corners[0], c)) > 0.1)
    frame = np.stack([one, other, np.cross(one, other)], axis=1)
    found = []
    for a, b in itertools.permutations(corners, 2):
        turn = np.stack([a, b, np.cross(a, b)], axis=1) @ np.linalg.inv(frame)
        if np.abs(turn @ turn.T - np.eye(3)).max() > 1e-6 or np.linalg.det(turn) < 0:
            continue
        moved = corners @ turn.T
        onto = (np.linalg.norm(moved[:, None] - corners[None], axis=2) < 1e-6).any(axis=1).all()
        if onto and not (colored and turn[2, 2] < 0.99):
            found.append(turn)
    return found


def same_sets(some: Floats, others: Floats, tolerance: float = 1e-9) -> bool:
    away = np.abs(some[:, None] - others[None]).max(axis=(2, 3))
    return len(some) == len(others) and bool(
        (away.min(axis=1) < tolerance).all() and (away.min(axis=0) < tolerance).all()
    )


@pytest.mark.parametrize("family", ["relion", "cryosparc"])
@pytest.mark.parametrize("name", [name for name in GROUPS if name not in ("C1", "C2", "D2")])
def test_a_group_is_what_maps_its_solid_onto_itself(name: str, family: Family) -> None:
    onto = rotations_onto_itself(solid(name, family), colored=name[0] == "C")
    assert same_sets(rotations_of(name, family), np.array(onto))


@pytest.mark.parametrize("family", ["relion", "cryosparc"])
@pytest.mark.parametrize("name", GROUPS)
def test_a_group_is_that_of_the_literal_twin(name: str, family: Family) -> None:
    group = rotations_of(name, family)
    assert same_sets(group, np.array(reference.symmetry_group(name, family)))
    np.testing.assert_array_equal(group[0], np.eye(3))
    np.testing.assert_allclose(np.linalg.det(group), 1, atol=1e-12)


@pytest.mark.parametrize(("name", "same"), [("D2", True), ("D4", True), ("D3", False), ("D7", False), ("I1", True)])
def test_only_odd_dihedral_groups_differ_between_the_programs(name: str, same: bool) -> None:
    assert same_sets(rotations_of(name, "relion"), rotations_of(name, "cryosparc")) == same


def test_angles_of_a_matrix_are_its_angles_also_where_it_is_not_tilted() -> None:
    rng = np.random.default_rng(4)
    angles = rng.uniform([-180, 0, -180], [180, 180, 180], (50, 3))
    angles[:10, 1], angles[10:20, 1] = 0, 180
    matrices = matrix_from_euler(angles)
    found = euler_from_matrix(matrices)
    np.testing.assert_allclose(matrix_from_euler(found), matrices, atol=1e-12)
    np.testing.assert_allclose(found[20:], angles[20:], atol=1e-9)
    np.testing.assert_array_equal(found[:20, 0], 0)


def test_products_of_matrices_do_not_depend_on_how_many_there_are() -> None:
    rng = np.random.default_rng(5)
    first = matrix_from_euler(rng.uniform(0, 180, (37, 3)))
    second = rotations_of("I1", "relion")
    whole = products(first, second)
    np.testing.assert_allclose(whole, first[:, None] @ second[None], atol=1e-14)
    for i in (0, 5, 36):
        np.testing.assert_array_equal(products(first[i : i + 1], second)[0], whole[i])


@pytest.mark.relion
@pytest.mark.parametrize("name", ["C7", "D2", "D7", "T", "O", "I", "I1", "I2", "I3", "I4"])
def test_views_are_those_of_relions_symmetry_expansion(tmp_path: Path, name: str) -> None:
    angles = np.random.default_rng(6).uniform([-180, 5, -180], [180, 175, 180], (5, 3))
    columns = {f"rlnAngle{axis}": [f"{a:.6f}" for a in angles[:, i]] for i, axis in enumerate(("Rot", "Tilt", "Psi"))}
    n = len(angles)
    write_star(tmp_path / "in.star", {
        "optics": {"rlnOpticsGroup": [1], "rlnOpticsGroupName": ["a"], "rlnImagePixelSize": [1.0], "rlnImageSize": [64],
                   "rlnImageDimensionality": [2], "rlnVoltage": [300], "rlnSphericalAberration": [2.7],
                   "rlnAmplitudeContrast": [0.1]},
        "particles": {"rlnImageName": [f"{i + 1:06d}@a.mrcs" for i in range(n)], "rlnMicrographName": ["m.mrc"] * n,
                      "rlnOpticsGroup": [1] * n, "rlnOriginXAngst": [0.0] * n, "rlnOriginYAngst": [0.0] * n, **columns},
    })  # fmt: skip
    done = subprocess.run(
        ["relion_particle_symmetry_expand", "--i", "in.star", "--o", "out.star", "--sym", name],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    block = gemmi.cif.read(str(tmp_path / "out.star"))["particles"]
    theirs = np.array([[float(v) for v in block.find_values(f"_rlnAngle{axis}")] for axis in ("Rot", "Tilt", "Psi")]).T
    images = list(block.find_values("_rlnImageName"))
    ours = products(matrix_from_euler(np.round(angles, 6)), rotations_of(name, "relion"))
    for i in range(n):
        mine = np.array([image.startswith(f"{i + 1:06d}@") for image in images])
        assert same_sets(matrix_from_euler(theirs[mine]), ours[i], 2e-5)
