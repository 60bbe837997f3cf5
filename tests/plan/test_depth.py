"""The defocus of a point of the reference: by its depth in each view, for either program, whoever has the CTF."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import cryobox
from cryobox import reference
from cryobox.errors import OptionError
from cryobox.formats.cs_table import read_table, write_table
from cryobox.rotations import pose_from_euler
from cryobox.verification import verify
from star_tables import columns
from synth import micrograph, write_mrc, write_star

SIDE, PIXEL = 600, 1.5
RNG = np.random.default_rng(12)
N = 20
CENTER = RNG.integers(150, 450, (N, 2))
ANGLES = RNG.uniform([-180, 0, -180], [180, 180, 180], (N, 3))
ANGLES[:4] = [(0, 0, 0), (0, 180, 0), (90, 90, 10), (0, 90, 0)]
POINT = (31.0, -42.0, 17.0)
U, V = RNG.uniform(8000, 20000, (2, N))
OF_FILE = (12000.0, 11000.0)


def depths(point: tuple[float, float, float] = POINT) -> NDArray[np.float64]:
    """The third coordinate of a point in each view: three turns of the frame, one after the other."""
    found = []
    for rot, tilt, psi in np.radians(ANGLES):

        def turn(axis: int, angle: float) -> NDArray[np.float64]:
            """The frame turned about an axis by a right-handed angle: a vector's coordinates turn back."""
            i, j = (axis + 1) % 3, (axis + 2) % 3
            matrix = np.eye(3)
            matrix[i, i] = matrix[j, j] = np.cos(angle)
            matrix[i, j], matrix[j, i] = np.sin(angle), -np.sin(angle)
            return matrix

        found.append((turn(2, psi) @ turn(1, tilt) @ turn(2, rot) @ point)[2])
    return np.array(found)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_mrc(tmp_path / "m.mrc", micrograph((SIDE, SIDE)), pixel_size=PIXEL)
    write_star(
        tmp_path / "mics.star",
        {
            "optics": {
                "rlnOpticsGroup": [1], "rlnOpticsGroupName": ["a"], "rlnMicrographPixelSize": [PIXEL],
                "rlnVoltage": [300], "rlnSphericalAberration": [2.7], "rlnAmplitudeContrast": [0.1],
            },
            "micrographs": {
                "rlnMicrographName": ["m.mrc"], "rlnOpticsGroup": [1], "rlnDefocusU": [OF_FILE[0]],
                "rlnDefocusV": [OF_FILE[1]], "rlnDefocusAngle": [30],
            },
        },
    )  # fmt: skip
    return tmp_path


def star(folder: Path, *, ctf: bool) -> Path:
    rows: dict[str, list[Any]] = {
        "rlnMicrographName": ["m.mrc"] * N, "rlnOpticsGroup": [1] * N,
        "rlnCoordinateX": CENTER[:, 0].tolist(), "rlnCoordinateY": CENTER[:, 1].tolist(),
        "rlnOriginXAngst": [0.0] * N, "rlnOriginYAngst": [0.0] * N,
    }  # fmt: skip
    rows |= {f"rlnAngle{name}": [f"{a:.9f}" for a in ANGLES[:, i]] for i, name in enumerate(("Rot", "Tilt", "Psi"))}
    if ctf:
        rows |= {"rlnDefocusU": U.tolist(), "rlnDefocusV": V.tolist(), "rlnDefocusAngle": [20.0] * N}
    optics: dict[str, list[Any]] = {
        "rlnOpticsGroup": [1], "rlnOpticsGroupName": ["a"], "rlnImagePixelSize": [3.0], "rlnImageSize": [64],
        "rlnVoltage": [300], "rlnSphericalAberration": [2.7], "rlnAmplitudeContrast": [0.1],
    }  # fmt: skip
    return write_star(folder / "p.star", {"optics": optics, "particles": rows})


def cs(folder: Path, *, ctf: bool) -> Path:
    fields: list[Any] = [
        ("uid", "<u8"), ("location/micrograph_path", "S8"), ("location/micrograph_uid", "<u8"),
        ("location/center_x_frac", "<f4"), ("location/center_y_frac", "<f4"),
        ("location/micrograph_shape", "<u4", (2,)), ("location/micrograph_psize_A", "<f4"),
        ("alignments3D/shift", "<f4", (2,)), ("alignments3D/pose", "<f4", (3,)), ("alignments3D/psize_A", "<f4"),
    ]  # fmt: skip
    if ctf:
        names = ("df1_A", "df2_A", "df_angle_rad", "accel_kv", "cs_mm", "amp_contrast", "phase_shift_rad")
        fields += [(f"ctf/{name}", "<f4") for name in names]
    table = np.zeros(N, np.dtype(fields))
    table["uid"], table["location/micrograph_path"], table["location/micrograph_uid"] = np.arange(N) + 1, b"m.mrc", 5
    table["location/center_x_frac"], table["location/center_y_frac"] = ((CENTER + 0.25) / SIDE).T
    table["location/micrograph_shape"], table["location/micrograph_psize_A"] = SIDE, PIXEL
    table["alignments3D/pose"], table["alignments3D/psize_A"] = pose_from_euler(ANGLES), 3.0
    if ctf:
        table["ctf/df1_A"], table["ctf/df2_A"], table["ctf/accel_kv"], table["ctf/cs_mm"] = U, V, 300, 2.7
        table["ctf/amp_contrast"] = 0.1
    write_table(folder / "p.cs", table)
    return folder / "p.cs"


def defocus(folder: Path, picks: Path, **recipe: Any) -> NDArray[np.float64]:
    """U and V of every row that is written, shape (n, 2)."""
    asked: dict[str, Any] = {
        "box": 32,
        "edges": "pad",
        "recenter_3d": "{},{},{}".format(*POINT),
        "adjust_defocus": True,
    }
    cryobox.run(
        picks.name, micrographs="mics.star", out=folder / "out", directory=folder,
        recipe=cryobox.Recipe(**asked | recipe), options=cryobox.RunOptions(fsync=False, overwrite=True),
    )  # fmt: skip
    assert verify(folder / "out", everything=True).problems == ()
    if (folder / "out" / "particles.cs").exists() and recipe.get("tables") != "relion":
        table = read_table(folder / "out" / "particles.cs")
        return np.stack([table["ctf/df1_A"], table["ctf/df2_A"]], axis=1).astype(np.float64)
    found = columns(folder / "out" / "particles.star")
    return np.array([list(map(float, found[f"_rlnDefocus{axis}"])) for axis in "UV"]).T


@pytest.mark.parametrize("make", [star, cs])
@pytest.mark.parametrize("ctf", [True, False], ids=["own", "of micrographs"])
@pytest.mark.parametrize("sign", [-1, 1])
def test_the_defocus_changes_by_the_depth_of_the_new_center(folder: Path, make: Any, ctf: bool, sign: int) -> None:
    before = np.stack([U, V], axis=1) if ctf else np.tile(OF_FILE, (N, 1))
    expected = before + sign * depths()[:, None]
    found = defocus(folder, make(folder, ctf=ctf), defocus_sign=sign)
    np.testing.assert_allclose(found, expected, atol=1e-5 if make is star else 2e-3)  # float32 near 20,000 Å
    assert np.abs(depths()).max() > 40


def test_values_of_the_micrographs_are_adjusted_where_they_replace_the_particles_own(folder: Path) -> None:
    found = defocus(folder, star(folder, ctf=True), refresh_ctf=True)
    np.testing.assert_allclose(found, np.tile(OF_FILE, (N, 1)) - depths()[:, None], atol=1e-5)


def test_both_programs_tables_of_the_same_orientations_agree(folder: Path) -> None:
    one = defocus(folder, star(folder, ctf=True))
    other = defocus(folder, cs(folder, ctf=True))
    np.testing.assert_allclose(one, other, atol=2e-3)
    converted = defocus(folder, star(folder, ctf=True), tables="both")  # of particles.cs
    np.testing.assert_allclose(one, converted, atol=2e-3)


def test_the_depth_is_that_of_the_literal_twin() -> None:
    twin = [reference.depth_of_point(rot, tilt, POINT) for rot, tilt, _ in ANGLES.tolist()]
    np.testing.assert_allclose(twin, depths(), atol=1e-9)
    assert reference.adjusted_defocus(10000.0, 30.0) == 9970.0


@pytest.mark.parametrize("make", [star, cs])
def test_each_sub_particle_has_a_depth_of_its_own(folder: Path, make: Any) -> None:
    x, y, z = POINT
    asked: dict[str, Any] = {"recenter_3d": None, "subparticles": "{},{},{}".format(*POINT), "symmetry": "C2"}
    found = defocus(folder, make(folder, ctf=True), defocus_sign=1, **asked)
    expected = np.stack([U + depths(), U + depths((-x, -y, z))], axis=1).ravel()
    np.testing.assert_allclose(found[:, 0], expected, atol=1e-5 if make is star else 2e-3)


def test_without_it_the_defocus_stays(folder: Path) -> None:
    np.testing.assert_allclose(defocus(folder, star(folder, ctf=True), adjust_defocus=False).T, [U, V], atol=1e-5)


def test_a_defocus_that_is_no_number_stays_as_it_is(folder: Path) -> None:
    broken = star(folder, ctf=True)
    broken.write_text(broken.read_text().replace(f"{U[2]}", "nan"))
    found = defocus(folder, broken)
    assert np.isnan(found[2, 0])
    np.testing.assert_allclose(np.delete(found[:, 0], 2), np.delete(U - depths(), 2), atol=1e-5)


def test_a_depth_of_nothing_is_refused(folder: Path) -> None:
    for asked, message in (
        ({"adjust_defocus": True}, "give --recenter-3d or --subparticles"),
        ({"recenter_3d": "1,2,3", "defocus_sign": 1}, "--defocus-sign is of --adjust-defocus"),
        ({"recenter_3d": "1,2,3", "adjust_defocus": True, "defocus_sign": 0}, "must be -1 or 1"),
        ({"recenter_3d": "1,2,3", "adjust_defocus": True, "defocus_sign": 2}, "at most 1"),
    ):
        with pytest.raises(OptionError, match=message):
            cryobox.Recipe(box=32, **asked)
    table = folder / "mics.star"
    text = table.read_text().replace("_rlnDefocusU", "_rlnDepthU")
    table.write_text(text)
    with pytest.raises(OptionError, match="has no defocus, and .* has none either, so --adjust-defocus"):
        defocus(folder, star(folder, ctf=False))
