"""CTF values of picks from a mirrored copy: the phase at a mirrored frequency is the one that the new values give."""

from __future__ import annotations

from math import factorial
from pathlib import Path

import numpy as np
import pytest

from cryobox.errors import InputError
from cryobox.formats import star, star_output
from cryobox.micrograph import Micrographs
from star_tables import PICKS, checked, columns, extraction, write

OPTICS = (
    "data_optics\n\nloop_\n_rlnOpticsGroupName #1\n_rlnOpticsGroup #2\n_rlnVoltage #3\n_rlnSphericalAberration #4\n"
    "_rlnAmplitudeContrast #5\n_rlnBeamTiltX #6\n_rlnBeamTiltY #7\n_rlnOddZernike #8\n_rlnEvenZernike #9\n"
    "_rlnMagMat00 #10\n_rlnMagMat01 #11\n_rlnMagMat10 #12\n_rlnMagMat11 #13\n"
    "g 1 300 2.7 0.1 0.3 -0.4 [0.1,0.2,0.3,0.4,0.5,0.6] [1,2,3,4,5,6,7,8,9] 1.01 0.02 0.03 0.98\n\n"
)
FLIPS = [(False, True), (True, False), (True, True)]  # (y, x)


def zernike(m: int, n: int, x: float, y: float) -> float:
    """The usual polynomial R_n^|m| times the cosine of m phi, or for negative m the sine of |m| phi."""
    rho, phi, k = np.hypot(x, y), np.arctan2(y, x), abs(m)
    radial = sum(
        (-1) ** s * factorial(n - s) / (factorial(s) * factorial((n + k) // 2 - s) * factorial((n - k) // 2 - s))
        * rho ** (n - 2 * s)
        for s in range((n - k) // 2 + 1)
    )  # fmt: skip
    return float(radial * (np.cos(k * phi) if m >= 0 else np.sin(k * phi)))


# RELION's order, odd and even: (m, n) of each coefficient (seen in the phases that RELION 3.1.3 takes out).
ODD = [(-1, 1), (1, 1), (-3, 3), (-1, 3), (1, 3), (3, 3)]
EVEN = [(0, 0), (-2, 2), (0, 2), (2, 2), (-4, 4), (-2, 4), (0, 4), (2, 4), (4, 4)]


def phase(text: str, terms: list[tuple[int, int]], x: float, y: float) -> float:
    values = [float(part) for part in text.strip("[]").split(",")]
    return sum(value * zernike(m, n, x, y) for value, (m, n) in zip(values, terms, strict=True))


@pytest.fixture
def micrographs(tmp_path: Path) -> Micrographs:
    table = "data_micrographs\n\nloop_\n_rlnMicrographName #1\nMotion/a.mrc\nMotion/b.mrc\n"
    return star.read_micrographs(write(tmp_path / "m.star", table))


def fitted(path: Path, optics: str = OPTICS, more: str = "") -> str:
    rows = "".join(
        f"Motion/{name}.mrc {x} {y} 1 {u} {u - 500} {angle}{' 12.5' * len(more.split())}\n"
        for name, x, y, u, angle in (("a", 10, 20, 9000, "30.5"), ("b", 15, 25, 8000, "-12.25"), ("b", 5, 6, 7000, "0"))
    )
    tags = ["MicrographName", "CoordinateX", "CoordinateY", "OpticsGroup", "DefocusU", "DefocusV", "DefocusAngle"]
    head = "".join(f"_rln{tag} #{i}\n" for i, tag in enumerate([*tags, *more.split()], 1))
    return str(write(path, f"{optics}data_particles\n\nloop_\n{head}{rows}"))


@pytest.mark.parametrize("mirrored", FLIPS)
def test_values_that_come_with_the_picks_are_those_of_the_mirror_image(
    tmp_path: Path, micrographs: Micrographs, mirrored: tuple[bool, bool]
) -> None:
    picks = star.read_particles(fitted(tmp_path / "p.star"))
    change = extraction(picks, micrographs, mirrored=mirrored, pixel_size=np.array([1.0, 1.0]))
    star_output.write_particles(tmp_path / "out.star", picks, micrographs, change)
    before, after = columns(tmp_path / "p.star", "optics"), columns(tmp_path / "out.star", "optics")
    sy, sx = (-1 if flip else 1 for flip in mirrored)
    for x, y in ((0.1, 0.2), (-0.3, 0.15), (0.05, -0.4)):
        for tag, terms in (("_rlnOddZernike", ODD), ("_rlnEvenZernike", EVEN)):
            assert phase(after[tag][0], terms, sx * x, sy * y) == pytest.approx(phase(before[tag][0], terms, x, y))
    tilt = [float(after[f"_rlnBeamTilt{axis}"][0]) for axis in "XY"]
    assert tilt == [sx * 0.3, sy * -0.4]
    old, new = ([[float(t[f"_rlnMagMat{i}{j}"][0]) for j in "01"] for i in "01"] for t in (before, after))
    mirror = np.diag([sx, sy])
    np.testing.assert_allclose(new, mirror @ np.array(old) @ mirror)
    angles = columns(tmp_path / "out.star")["_rlnDefocusAngle"]
    assert angles == (["30.5", "-12.25", "0"] if sx == sy else ["-30.5", "12.25", "0"])


def test_values_of_the_micrographs_stay_as_they_are(tmp_path: Path) -> None:
    table = (
        OPTICS + "data_micrographs\n\nloop_\n_rlnMicrographName #1\n_rlnOpticsGroup #2\n_rlnDefocusU #3\n"
        "_rlnDefocusAngle #4\nMotion/a.mrc 1 9000 30.5\nMotion/b.mrc 1 8000 -12.25\n"
    )
    micrographs = star.read_micrographs(write(tmp_path / "m.star", table))
    picks = star.read_particles(write(tmp_path / "p.star", PICKS))
    change = extraction(picks, micrographs, mirrored=(False, True), pixel_size=np.array([1.0, 1.0]))
    star_output.write_particles(tmp_path / "out.star", picks, micrographs, change)
    assert columns(tmp_path / "out.star")["_rlnDefocusAngle"] == ["-12.25", "30.5", "-12.25"]
    assert columns(tmp_path / "out.star", "optics")["_rlnBeamTiltX"] == ["0.3"]


@pytest.mark.parametrize("tag", ["AnglePsi", "OriginXAngst", "AnglePsiPrior", "AngleRot"])
def test_orientations_of_a_mirrored_copy_are_refused_unless_left_out(
    tmp_path: Path, micrographs: Micrographs, tag: str
) -> None:
    both = f"{tag} {tag.replace('X', 'Y')}" if "X" in tag else tag
    picks = star.read_particles(fitted(tmp_path / "p.star", more=both))
    with pytest.raises(InputError, match=f"_rln{tag}.*--drop-alignments"):
        checked(picks, micrographs, flip_x=True)
    checked(picks, micrographs, flip_x=True, drop_alignments=True)
    change = extraction(picks, micrographs, drop_alignments=True, pixel_size=np.array([1.0, 1.0]))
    star_output.write_particles(tmp_path / "out.star", picks, micrographs, change)
    assert f"_rln{tag}" not in columns(tmp_path / "out.star")


def test_angles_that_a_picker_did_not_find_are_no_orientations(tmp_path: Path, micrographs: Micrographs) -> None:
    path = Path(fitted(tmp_path / "p.star", more="AnglePsi"))
    path.write_text(path.read_text().replace(" 12.5\n", " -999.000\n"))
    checked(star.read_particles(path), micrographs, flip_y=True)


def test_fields_of_a_cs_are_mirrored_alike_and_unknown_terms_are_refused() -> None:
    from cryobox.formats.mirroring import check_ctf_terms, mirrored_fields
    from cryobox.particles import Particles

    table = np.zeros(2, [("ctf/df_angle_rad", "<f4"), ("ctf/tilt_A", "<f4", (2,)), ("ctf/trefoil_A", "<f4", (2,)),
                         ("ctf/tetra_A", "<f4", (4,)), ("ctf/anisomag", "<f4", (4,))])  # fmt: skip
    table["ctf/df_angle_rad"], table["ctf/tilt_A"], table["ctf/trefoil_A"] = 0.5, (1, 2), (3, 4)
    table["ctf/anisomag"] = (0.01, 0.02, 0.03, 0.04)
    found = mirrored_fields(table, np.array([1]), (False, True))
    assert found["ctf/df_angle_rad"].tolist() == [-0.5]
    assert found["ctf/tilt_A"].tolist() == [[-1, 2]]
    assert found["ctf/trefoil_A"].tolist() == [[-3, 4]]
    np.testing.assert_allclose(found["ctf/anisomag"], [[0.01, -0.02, -0.03, 0.04]])
    turned = mirrored_fields(table, np.array([0]), (True, True))
    assert sorted(turned) == ["ctf/tilt_A", "ctf/trefoil_A"]
    picks = Particles(family="cs", source="p.cs", y=np.zeros(2), x=np.zeros(2), micrograph=np.zeros(2, np.intp),
                      micrograph_names=("a",), table=table)  # fmt: skip
    check_ctf_terms(picks, (False, True), own=True)
    table["ctf/tetra_A"] = 1
    check_ctf_terms(picks, (True, True), own=True)
    with pytest.raises(InputError, match="ctf/tetra_A is not zero"):
        check_ctf_terms(picks, (False, True), own=True)


def test_a_group_that_picks_and_micrographs_share_is_mirrored_for_the_picks_alone(tmp_path: Path) -> None:
    table = OPTICS + "data_micrographs\n\nloop_\n_rlnMicrographName #1\n_rlnOpticsGroup #2\n_rlnDefocusU #3\n"
    micrographs = star.read_micrographs(
        write(tmp_path / "m.star", table + "Motion/a.mrc 1 9000\nMotion/b.mrc 1 8000\n")
    )
    fitted(tmp_path / "a.star")
    write(tmp_path / "b.star", "data_\n\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n50 60\n")
    parts = [star.read_coordinates(tmp_path / f"{name}.star") for name in "ab"]
    picks = star.join_coordinates("picks", ["Motion/a.mrc", "Motion/b.mrc"], parts)
    change = extraction(picks, micrographs, mirrored=(False, True), pixel_size=np.array([1.0, 1.0]))
    star_output.write_particles(tmp_path / "out.star", picks, micrographs, change)
    rows, optics = columns(tmp_path / "out.star"), columns(tmp_path / "out.star", "optics")
    tilt = dict(zip(optics["_rlnOpticsGroup"], optics["_rlnBeamTiltX"], strict=True))
    assert [float(tilt[group]) for group in rows["_rlnOpticsGroup"]] == [-0.3, -0.3, -0.3, 0.3]
