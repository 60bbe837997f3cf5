"""Centering on a point of the reference: through RELION's angles and CryoSPARC's rotation vectors, in any unit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import cryobox
from cryobox import reference
from cryobox.errors import OptionError
from cryobox.formats.cs_table import write_table
from cryobox.given import Given
from cryobox.inputs import prepare
from cryobox.plan import Plan
from cryobox.rotations import matrix_from_euler, matrix_from_pose, pose_from_euler
from synth import micrograph, write_mrc, write_star

SIDE, PIXEL, IMAGE_PIXEL, IMAGE_SIDE = 600, 1.5, 3.0, 64
RNG = np.random.default_rng(11)
N = 30
CENTER = RNG.integers(150, 450, (N, 2))  # (x, y)
ORIGIN = RNG.uniform(-12, 12, (N, 2))  # Å, (x, y)
ANGLES = RNG.uniform([0, 0, -180], [360, 180, 180], (N, 3))
POINT = np.array([31.0, -42.0, 17.0])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_mrc(tmp_path / "m.mrc", micrograph((SIDE, SIDE)), pixel_size=PIXEL)
    return tmp_path


def star(folder: Path, *, drop: tuple[str, ...] = (), **more: list[Any]) -> Path:
    columns: dict[str, list[Any]] = {
        "rlnMicrographName": ["m.mrc"] * N,
        "rlnCoordinateX": CENTER[:, 0].tolist(),
        "rlnCoordinateY": CENTER[:, 1].tolist(),
        "rlnOpticsGroup": [1] * N,
        "rlnOriginXAngst": [f"{x:.9f}" for x in ORIGIN[:, 0]],
        "rlnOriginYAngst": [f"{y:.9f}" for y in ORIGIN[:, 1]],
    }
    columns |= {f"rlnAngle{name}": [f"{a:.9f}" for a in ANGLES[:, i]] for i, name in enumerate(("Rot", "Tilt", "Psi"))}
    optics: dict[str, list[Any]] = {
        "rlnOpticsGroup": [1], "rlnOpticsGroupName": ["a"], "rlnImagePixelSize": [IMAGE_PIXEL],
        "rlnImageSize": [IMAGE_SIDE],
        "rlnVoltage": [300], "rlnSphericalAberration": [2.7], "rlnAmplitudeContrast": [0.1],
    }  # fmt: skip
    kept = {tag: values for tag, values in (columns | more).items() if tag not in drop}
    of_groups = {tag: values for tag, values in optics.items() if tag not in drop}
    return write_star(folder / "p.star", {"optics": of_groups, "particles": kept})


def cs(folder: Path) -> Path:
    fields: list[Any] = [
        ("uid", "<u8"), ("location/micrograph_path", "S8"), ("location/micrograph_uid", "<u8"),
        ("location/center_x_frac", "<f4"), ("location/center_y_frac", "<f4"),
        ("location/micrograph_shape", "<u4", (2,)), ("location/micrograph_psize_A", "<f4"), ("blob/psize_A", "<f4"),
        ("blob/shape", "<u4", (2,)), ("alignments3D/shift", "<f4", (2,)), ("alignments3D/pose", "<f4", (3,)),
        ("alignments3D/psize_A", "<f4"),
    ]  # fmt: skip
    table = np.zeros(N, np.dtype(fields))
    table["uid"], table["location/micrograph_path"], table["location/micrograph_uid"] = np.arange(N) + 1, b"m.mrc", 5
    table["location/center_x_frac"], table["location/center_y_frac"] = ((CENTER + 0.25) / SIDE).T
    table["location/micrograph_shape"], table["location/micrograph_psize_A"] = SIDE, PIXEL
    table["blob/psize_A"], table["blob/shape"], table["alignments3D/psize_A"] = IMAGE_PIXEL, IMAGE_SIDE, IMAGE_PIXEL
    table["alignments3D/shift"], table["alignments3D/pose"] = ORIGIN / IMAGE_PIXEL, pose_from_euler(ANGLES)
    write_table(folder / "p.cs", table)
    return folder / "p.cs"


def planned(picks: Path, **recipe: Any) -> Plan:
    return prepare(Given.of(picks, None, picks.parent), recipe=cryobox.Recipe(box=32, edges="pad", **recipe)).plan


def expected(point: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Boxes (y, x) and what is left of the shift, Å (y, x): written out particle by particle."""
    boxes, left = [], []
    for center, origin, (rot, tilt, psi) in zip(CENTER, ORIGIN, np.radians(ANGLES), strict=True):

        def about_z(angle: float) -> NDArray[np.float64]:
            return np.array([[np.cos(angle), np.sin(angle), 0], [-np.sin(angle), np.cos(angle), 0], [0, 0, 1]])

        about_y = np.array([[np.cos(tilt), 0, -np.sin(tilt)], [0, 1, 0], [np.sin(tilt), 0, np.cos(tilt)]])
        shown = about_z(psi) @ about_y @ about_z(rot) @ point
        shift = (origin - shown[:2]) / PIXEL
        whole = np.floor(np.abs(shift) + 0.5) * np.sign(shift)
        boxes.append((center - whole)[::-1])
        left.append(((shift - whole) * PIXEL)[::-1])
    return np.array(boxes).astype(np.int64), np.array(left)


@pytest.mark.parametrize("make", [star, cs])
@pytest.mark.parametrize(
    ("text", "pixel", "point"),
    [
        ("31,-42,17", None, POINT),
        ("31, -42, 17 A", None, POINT),
        ("31,-42,17px", 0.9, POINT * 0.9),
        ("3.1,-4.2,1.7px", None, np.array([3.1, -4.2, 1.7]) * IMAGE_PIXEL),
        ("40,20,35.5voxel", 0.9, (np.array([40, 20, 35.5]) - IMAGE_SIDE * IMAGE_PIXEL / 0.9 / 2) * 0.9),
        ("40,20,35.5voxel", None, (np.array([40, 20, 35.5]) - IMAGE_SIDE / 2) * IMAGE_PIXEL),
    ],
)
def test_the_box_goes_where_the_point_is_seen(
    folder: Path, make: Any, text: str, pixel: float | None, point: Any
) -> None:
    plan = planned(make(folder), recenter_3d=text, ref_angpix=pixel)
    boxes, left = expected(point)
    exact = np.abs(np.abs(left / PIXEL) - 0.5).min(axis=1) > 1e-4
    np.testing.assert_array_equal(plan.places.center[exact], boxes[exact])
    (alignment,) = plan.places.alignments
    np.testing.assert_allclose((alignment.shift * alignment.pixel_size[:, None])[exact], left[exact], atol=2e-5)
    assert np.abs(left).max() <= PIXEL / 2 + 1e-9


def test_both_programs_orientations_are_one_matrix() -> None:
    poses = pose_from_euler(ANGLES)
    np.testing.assert_allclose(matrix_from_pose(poses), matrix_from_euler(ANGLES), atol=1e-12)


def test_the_reference_itself_is_where_it_was(folder: Path) -> None:
    for make in (star, cs):
        np.testing.assert_array_equal(
            planned(make(folder), recenter_3d="0,0,0").places.center, planned(make(folder)).places.center
        )


def test_angles_without_origins_are_enough(folder: Path) -> None:
    zero: dict[str, Any] = {"rlnOriginXAngst": [0.0] * len(ANGLES), "rlnOriginYAngst": [0.0] * len(ANGLES)}
    with_zeros = planned(star(folder, **zero), recenter_3d="31,-42,17").places
    without = planned(star(folder, drop=("rlnOriginXAngst", "rlnOriginYAngst")), recenter_3d="31,-42,17").places
    np.testing.assert_array_equal(without.center, with_zeros.center)
    np.testing.assert_array_equal(without.alignments[0].shift, with_zeros.alignments[0].shift)


def test_what_cannot_be_centered_is_refused(folder: Path) -> None:
    for drop, recipe, message in (
        (("rlnAngleTilt",), {"recenter_3d": "1,2,3"}, "has no 3D orientations"),
        ((), {"recenter_3d": "1,2,3", "recenter": False}, "leave out --no-recenter"),
        ((), {"ref_angpix": 1.0}, "give both, or neither"),
        (("rlnImagePixelSize",), {"recenter_3d": "1,2,3px"}, "give the point in Å, or --ref-angpix"),
        (("rlnImageSize",), {"recenter_3d": "1,2,3voxel", "ref_angpix": 1.0}, "give the point in Å"),
        ((), {"recenter_3d": "1,2,3", "flip_x": True}, "mirrored copy cannot be recentered"),
    ):
        with pytest.raises(OptionError, match=message):
            planned(star(folder, drop=drop), **recipe)
    for text in ("", "1,2", "a,b,c", "1,2,3nm", "1;2;3"):
        with pytest.raises(OptionError, match="must be X,Y,Z"):
            cryobox.Recipe(box=32, recenter_3d=text)


def test_a_point_appears_where_the_literal_twin_puts_it() -> None:
    seen = (matrix_from_euler(ANGLES) @ POINT)[:, [1, 0]]
    x, y, z = POINT
    twin = [reference.point_in_image(rot, tilt, psi, (x, y, z)) for rot, tilt, psi in ANGLES.tolist()]
    np.testing.assert_allclose(seen, twin, atol=1e-9)
