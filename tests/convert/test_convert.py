"""Particles from RELION to CryoSPARC and back: orientations against two independent formulas, tables bit for bit."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryobox import InputError, OptionError, OutputError, Recipe, RunOptions, run
from cryobox.convert import convert_particles
from cryobox.formats.cs_table import read_table
from cryobox.formats.csg import read_group
from cryobox.formats.star_table import read_blocks
from cryobox.rotations import euler_from_pose, pose_from_euler
from cryobox.simulate import make_dataset


def rodrigues(vector: np.ndarray) -> np.ndarray:
    angle = np.linalg.norm(vector)
    if angle < 1e-16:
        return np.eye(3)
    x, y, z = vector / angle
    k = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    matrix: np.ndarray = np.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * k @ k
    return matrix


def frame_rotation(rot: float, tilt: float, psi: float) -> np.ndarray:
    """RELION's convention as the literature has it: the frame is turned about Z, the new Y and the new Z."""

    def about_z(degrees: float) -> np.ndarray:
        c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        return np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])

    c, s = np.cos(np.radians(tilt)), np.sin(np.radians(tilt))
    about_y = np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]])
    matrix: np.ndarray = about_z(psi) @ about_y @ about_z(rot)
    return matrix


def some_poses() -> np.ndarray:
    rng = np.random.default_rng(1)
    poses = rng.standard_normal((300, 3))
    poses *= (rng.uniform(0, np.pi, 300) / np.linalg.norm(poses, axis=1))[:, None]
    special = [(0, 0, 0), (0, 0, 1), (0, 0, -2.5), (np.pi, 0, 0), (0, np.pi, 0), (0, 0, np.pi), (1e-9, 0, 0)]
    return np.vstack([np.array(special), poses])


def test_a_pose_and_its_euler_angles_are_transposed_rotations() -> None:
    poses = some_poses()
    for pose, angles in zip(poses, euler_from_pose(poses), strict=True):
        np.testing.assert_allclose(frame_rotation(*angles), rodrigues(pose).T, atol=1e-12)


def test_euler_angles_lead_back_to_the_pose() -> None:
    poses = some_poses()
    back = pose_from_euler(euler_from_pose(poses))
    for pose, again in zip(poses, back, strict=True):
        np.testing.assert_allclose(rodrigues(again), rodrigues(pose), atol=1e-12)
    assert (np.linalg.norm(back, axis=1) <= np.pi + 1e-12).all()


@given(st.tuples(st.floats(-180, 180), st.floats(0, 180), st.floats(-180, 180)))
def test_any_euler_angles_survive_the_way_to_a_pose_and_back(angles: tuple[float, float, float]) -> None:
    again = euler_from_pose(pose_from_euler(np.array([angles])))[0]
    np.testing.assert_allclose(frame_rotation(*again), frame_rotation(*angles), atol=1e-8)


def there_and_back_from_cs(source: Path, tmp_path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Convert a table to STAR and back in the same folder."""
    before = read_group(source)[0] if source.suffix == ".csg" else read_table(source)
    star = tmp_path / "there.star"
    convert_particles(source, star, overwrite=True, allow_missing=True)
    back = source.parent / "back.cs"
    convert_particles(star, back, overwrite=True, allow_missing=True)
    return before, read_table(back)


def assert_same_table(before: np.ndarray, after: np.ndarray) -> None:
    assert after.dtype == before.dtype
    for field in before.dtype.names:
        np.testing.assert_array_equal(after[field], before[field], err_msg=field)


@pytest.mark.real
@pytest.mark.parametrize("name", ["alignments2D.cs", "location_alignments3D.cs"])
def test_a_real_cryosparc_table_comes_back_as_it_was(real_data: Path, tmp_path: Path, name: str) -> None:
    copy = tmp_path / name
    copy.write_bytes((real_data / "tables" / name).read_bytes())
    assert_same_table(*there_and_back_from_cs(copy, tmp_path))


@pytest.mark.real
@pytest.mark.parametrize("name", ["relion31_after_refinement.star", "relion5.star", "relion4_extract_output.star"])
def test_a_real_relion_table_comes_back_as_it_was(real_data: Path, tmp_path: Path, name: str) -> None:
    source = real_data / "tables" / name
    convert_particles(source, tmp_path / "there.cs", allow_missing=True)
    convert_particles(tmp_path / "there.cs", tmp_path / "back.star", allow_missing=True)
    for block in ("optics", "particles"):
        before, after = (read_blocks(path)[block].table() for path in (source, tmp_path / "back.star"))
        assert list(after.tags) == list(before.tags)
        for tag in before.tags:
            assert after.texts(tag) == before.texts(tag), tag


@pytest.fixture(scope="module")
def extracted_cs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cs")
    data = make_dataset(folder, micrographs=2, picks=20, style="cryosparc", shifts=True)
    recipe = Recipe(box=128, sizes=(64,))
    run(data.picks, micrographs=data.micrographs, out=folder / "J9", recipe=recipe, root=folder,
        options=RunOptions(fsync=False))  # fmt: skip
    return folder / "J9" / "particles.csg"


@pytest.fixture(scope="module")
def extracted_star(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("star")
    data = make_dataset(folder, micrographs=2, picks=20, shifts=True)
    recipe = Recipe(box=128, sizes=(64,))
    run(data.picks, micrographs=data.micrographs, out=folder / "job010", recipe=recipe, root=folder,
        options=RunOptions(fsync=False))  # fmt: skip
    return folder / "job010" / "particles.star"


def test_our_own_cryosparc_output_comes_back_as_it_was(
    extracted_cs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(extracted_cs.parents[1])
    assert_same_table(*there_and_back_from_cs(extracted_cs, tmp_path))


def test_coordinates_shifts_and_defocus_mean_the_same_in_both(
    extracted_cs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(extracted_cs.parents[1])
    table = read_group(extracted_cs)[0]
    convert_particles(extracted_cs, tmp_path / "p.star")
    star = read_blocks(tmp_path / "p.star")["particles"].table()
    shape = table["location/micrograph_shape"]
    np.testing.assert_allclose(star.floats("_rlnCoordinateX"), table["location/center_x_frac"] * shape[:, 1], atol=1e-3)
    np.testing.assert_allclose(star.floats("_rlnCoordinateY"), table["location/center_y_frac"] * shape[:, 0], atol=1e-3)
    shift = table["alignments2D/shift"] * table["alignments2D/psize_A"][:, None]
    np.testing.assert_allclose(star.floats("_rlnOriginXAngst"), shift[:, 0], atol=1e-6)
    np.testing.assert_allclose(star.floats("_rlnDefocusU"), table["ctf/df1_A"], rtol=1e-7)
    np.testing.assert_allclose(star.floats("_rlnDefocusAngle"), np.degrees(table["ctf/df_angle_rad"]), atol=1e-4)
    assert star.texts("_cryosparcUid") == [str(uid) for uid in table["uid"]]


def test_a_picture_that_relion_reads_is_the_picture_of_the_cs(
    extracted_cs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(extracted_cs.parents[1])
    convert_particles(extracted_cs, tmp_path / "p.star")
    names = read_blocks(tmp_path / "p.star")["particles"].table().texts("_rlnImageName")
    number, stack = names[3].split("@")
    assert stack.endswith(".mrc:mrcs")
    assert Path(stack.removesuffix(":mrcs")).is_file()
    assert int(number) == int(read_group(extracted_cs)[0]["blob/idx"][3]) + 1


@pytest.mark.relion
def test_relion_reads_the_stacks_and_keeps_the_uids(
    extracted_cs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mrcfile

    monkeypatch.chdir(extracted_cs.parents[1])
    convert_particles(extracted_cs, tmp_path / "p.star")
    command = ["relion_stack_create", "--i", str(tmp_path / "p.star"), "--o", str(tmp_path / "all")]
    subprocess.run(command, check=True, capture_output=True)
    table = read_group(extracted_cs)[0]
    after = read_blocks(tmp_path / "all.star")["particles"].table()
    assert after.texts("_cryosparcUid") == [str(uid) for uid in table["uid"]]
    with mrcfile.open(tmp_path / "all.mrcs", permissive=True) as stack:
        first = extracted_cs.parents[1] / table["blob/path"][0].decode()
        with mrcfile.open(first, permissive=True) as own:
            np.testing.assert_array_equal(stack.data[0], own.data[table["blob/idx"][0]])


def test_our_own_relion_output_comes_back_with_locations(extracted_star: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = extracted_star.parents[1]
    monkeypatch.chdir(root)
    there = extracted_star.with_name("there.cs")
    done = convert_particles(extracted_star, there, micrographs="micrographs.star", overwrite=True)
    assert done.warnings == ()
    table = read_table(there)
    assert {"location/center_x_frac", "location/micrograph_psize_A", "blob/path"} <= set(table.dtype.names)
    assert all(path.startswith(b">stacks/") for path in table["blob/path"])
    convert_particles(there, root / "back.star", overwrite=True)
    before, after = (read_blocks(path)["particles"].table() for path in (extracted_star, root / "back.star"))
    for tag in before.tags:
        assert after.texts(tag) == before.texts(tag), tag


def test_what_another_program_changed_is_kept(
    extracted_cs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(extracted_cs.parents[1])
    star = tmp_path / "p.star"
    convert_particles(extracted_cs, star)
    lines = star.read_text().splitlines()
    first = next(i for i, line in enumerate(lines) if "@" in line)
    offset = read_blocks(star)["particles"].table().tags.index("_rlnDefocusU")
    values = lines[first].split()
    values[offset] = "12345.5"
    lines[first] = " ".join(values)
    star.write_text("\n".join(lines) + "\n")
    convert_particles(star, tmp_path / "changed.cs")
    before, after = read_group(extracted_cs)[0], read_table(tmp_path / "changed.cs")
    assert after["ctf/df1_A"][0] == np.float32(12345.5)
    np.testing.assert_array_equal(after["ctf/df1_A"][1:], before["ctf/df1_A"][1:])
    np.testing.assert_array_equal(after["uid"], before["uid"])


@pytest.mark.real
def test_new_orientations_win_over_those_that_travelled_along(real_data: Path, tmp_path: Path) -> None:
    star = tmp_path / "p.star"
    convert_particles(real_data / "tables" / "location_alignments3D.cs", star, allow_missing=True)
    text = star.read_text()
    table = read_blocks(star)["particles"].table()
    old = " ".join(table.texts(tag)[7] for tag in ("_rlnAngleRot", "_rlnAngleTilt", "_rlnAnglePsi"))
    assert text.count(old) == 1
    star.write_text(text.replace(old, "10.000000 20.000000 30.000000"))
    convert_particles(star, tmp_path / "p.cs", allow_missing=True)
    before, after = read_table(real_data / "tables" / "location_alignments3D.cs"), read_table(tmp_path / "p.cs")
    np.testing.assert_allclose(rodrigues(after["alignments3D/pose"][7]).T, frame_rotation(10, 20, 30), atol=1e-6)
    others = np.arange(len(before)) != 7
    np.testing.assert_array_equal(after["alignments3D/pose"][others], before["alignments3D/pose"][others])


def test_dark_particles_are_warned_about(extracted_cs: Path, tmp_path: Path) -> None:
    done = convert_particles(extracted_cs, tmp_path / "p.star")
    assert any("RELION expects white particles" in text for text in done.warnings)


def test_without_the_micrographs_the_missing_locations_are_told(extracted_star: Path, tmp_path: Path) -> None:
    done = convert_particles(extracted_star, tmp_path / "p.cs", root=tmp_path, allow_missing=True)
    assert "give --micrographs" in done.warnings[0]
    assert "location/center_x_frac" not in read_table(tmp_path / "p.cs").dtype.names


def test_a_target_of_the_same_kind_is_refused(extracted_star: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="one of them must be a .star, the other a .cs"):
        convert_particles(extracted_star, tmp_path / "p.star")


def test_a_target_that_exists_is_not_replaced_unasked(extracted_star: Path, tmp_path: Path) -> None:
    (tmp_path / "p.cs").write_bytes(b"")
    with pytest.raises(OutputError, match="already there; replace it with --overwrite"):
        convert_particles(extracted_star, tmp_path / "p.cs")


@pytest.mark.real
def test_a_table_of_relion_30_is_refused_with_the_way_out(real_data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="relion_convert_star"):
        convert_particles(real_data / "tables" / "relion30_after_refinement.star", tmp_path / "p.cs")


def test_a_root_through_a_link_gives_the_same_tables(extracted_cs: Path, extracted_star: Path, tmp_path: Path) -> None:
    for number, (source, suffix) in enumerate(((extracted_cs, ".star"), (extracted_star, ".cs"))):
        root = source.parent.parent
        link = tmp_path / f"link{number}"
        link.symlink_to(root)
        made = []
        for name in (root, link):
            target = root / "made" / f"p{suffix}"
            target.parent.mkdir(exist_ok=True)
            convert_particles(source, target, root=name, overwrite=True)
            made.append(target.read_bytes())
        assert made[0] == made[1]
