"""Sub-particles: where they lie, how they are seen, what they are called and to which half they belong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import cryobox
from cryobox import reference
from cryobox.errors import OptionError
from cryobox.formats.columns import DEFOCUS_OFFSET
from cryobox.given import Given
from cryobox.inputs import Inputs, prepare
from cryobox.particles import Reason
from cryobox.plan import REASONS
from cryobox.rotations import euler_from_matrix, matrix_from_euler, pose_from_euler
from synth import micrograph, write_cs, write_mrc, write_star

Floats = NDArray[np.float64]

SIDE, PIXEL, IMAGE_PIXEL, IMAGE_SIDE = 700, 1.5, 3.0, 64
N = 12
RNG = np.random.default_rng(21)
CENTER = RNG.integers(200, 500, (N, 2))  # (x, y)
ORIGIN = RNG.uniform(-12, 12, (N, 2))  # Å, (x, y)
ANGLES = RNG.uniform([0, 0, -180], [360, 180, 180], (N, 3))
POINTS = "31,-42,67; 10,80,-20"
VECTORS = [(31.0, -42.0, 67.0), (10.0, 80.0, -20.0)]
CMM = """<marker_set name="units">
<marker id="1" x="100.5" y="-20" z="7" r="1" g="1" b="0" radius="2"/>
<marker id="2" x="131.5" y="-62" z="74" r="1" g="1" b="0" radius="2" note="a &lt; b"/>
<marker id="3" x="110.5" y="60" z="-13" r="1" g="1" b="0" radius="2"/>
<link id1="1" id2="2" r="1" g="1" b="0" radius="1"/>
</marker_set>
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_mrc(tmp_path / "m.mrc", micrograph((SIDE, SIDE)), pixel_size=PIXEL)
    return tmp_path


def star(folder: Path, *, angles: Floats = ANGLES, drop: tuple[str, ...] = (), **more: list[Any]) -> Path:
    columns: dict[str, list[Any]] = {
        "rlnMicrographName": ["m.mrc"] * N,
        "rlnCoordinateX": CENTER[:, 0].tolist(),
        "rlnCoordinateY": CENTER[:, 1].tolist(),
        "rlnImageName": [f"{i + 1:06d}@old stack.mrcs".replace(" ", "_") for i in range(N)],
        "rlnOpticsGroup": [1] * N,
        "rlnOriginXAngst": [f"{x:.9f}" for x in ORIGIN[:, 0]],
        "rlnOriginYAngst": [f"{y:.9f}" for y in ORIGIN[:, 1]],
    }
    columns |= {f"rlnAngle{name}": [f"{a:.9f}" for a in angles[:, i]] for i, name in enumerate(("Rot", "Tilt", "Psi"))}
    optics: dict[str, list[Any]] = {
        "rlnOpticsGroup": [1], "rlnOpticsGroupName": ["a"], "rlnImagePixelSize": [IMAGE_PIXEL],
        "rlnImageSize": [IMAGE_SIDE],
        "rlnVoltage": [300], "rlnSphericalAberration": [2.7], "rlnAmplitudeContrast": [0.1],
    }  # fmt: skip
    kept = {tag: values for tag, values in (columns | more).items() if tag not in drop}
    return write_star(folder / "p.star", {"optics": optics, "particles": kept})


def cs(folder: Path, *, angles: Floats = ANGLES, **more: NDArray[Any]) -> Path:
    full = np.full((N, 2), SIDE, np.uint32)
    columns: dict[str, NDArray[Any]] = {
        "uid": np.arange(N, dtype=np.uint64) * 7 + 3,
        "location/micrograph_path": np.array([b"m.mrc"] * N),
        "location/micrograph_uid": np.full(N, 5, np.uint64),
        "location/center_x_frac": ((CENTER[:, 0] + 0.25) / SIDE).astype(np.float32),
        "location/center_y_frac": ((CENTER[:, 1] + 0.25) / SIDE).astype(np.float32),
        "location/micrograph_shape": full,
        "location/micrograph_psize_A": np.full(N, PIXEL, np.float32),
        "blob/psize_A": np.full(N, IMAGE_PIXEL, np.float32),
        "blob/shape": np.full((N, 2), IMAGE_SIDE, np.uint32),
        "alignments3D/shift": (ORIGIN / IMAGE_PIXEL).astype(np.float32),
        "alignments3D/pose": pose_from_euler(angles).astype(np.float32),
        "alignments3D/psize_A": np.full(N, IMAGE_PIXEL, np.float32),
        "alignments2D/shift": np.ones((N, 2), np.float32),
        "alignments2D/psize_A": np.full(N, IMAGE_PIXEL, np.float32),
    }
    return write_cs(folder / "p.cs", columns | more)


def planned(picks: Path, **recipe: Any) -> Inputs:
    options: dict[str, Any] = {"box": 32, "edges": "pad", "subparticles": POINTS} | recipe
    return prepare(Given.of(picks, None, picks.parent), recipe=cryobox.Recipe(**options))


def views_of(inputs: Inputs) -> Floats:
    columns = inputs.particles.columns
    return matrix_from_euler(np.stack([columns[f"{name}_degrees"] for name in ("rot", "tilt", "psi")], axis=1))


def centers_of(inputs: Inputs) -> Floats:
    """(x, y) in pixels of the micrograph at which each is said to be: the box's center less the residual."""
    places, alignment = inputs.plan.places, inputs.plan.places.alignments[0]
    found: Floats = places.center - alignment.shift * alignment.pixel_size[:, None] / PIXEL
    return found[:, ::-1]


@pytest.mark.parametrize("make", [star, cs])
@pytest.mark.parametrize("symmetry", ["C1", "C7", "D2", "T", "O", "I1", "I2", "I3", "I4"])
def test_every_sub_particle_is_where_the_literal_twin_puts_it(folder: Path, make: Any, symmetry: str) -> None:
    inputs = planned(make(folder), symmetry=symmetry)
    group = reference.symmetry_group(symmetry)
    of_each = len(group) * len(VECTORS)
    assert len(inputs.particles) == N * of_each
    views, centers = views_of(inputs), centers_of(inputs)
    for i, angles in enumerate(ANGLES.tolist()):
        twins = reference.subparticles(tuple(angles), VECTORS, group)
        mine = slice(i * of_each, (i + 1) * of_each)
        expected = CENTER[i] + (np.array([twin.shown[::-1] for twin in twins]) - ORIGIN[i]) / PIXEL
        # In whatever order the group is: each place and view once.
        for twin, place in zip(twins, expected, strict=True):
            alike = (np.abs(views[mine] - twin.view).max(axis=(1, 2)) < 1e-6) & (
                np.abs(centers[mine] - place).max(axis=1) < 1e-3
            )
            assert alike.sum() == 1
    left = inputs.plan.places.alignments[0]
    assert np.abs(left.shift * left.pixel_size[:, None]).max() <= PIXEL / 2 + 2e-4


def test_the_first_of_each_point_is_the_particles_own_view_and_rows_of_a_particle_follow_each_other(
    folder: Path,
) -> None:
    inputs = planned(star(folder), symmetry="C7")
    assert inputs.particles.rows_of(np.arange(len(inputs.particles))).tolist() == np.repeat(np.arange(N), 14).tolist()
    np.testing.assert_allclose(views_of(inputs)[::7], matrix_from_euler(np.repeat(ANGLES, 2, axis=0)), atol=1e-7)


def test_an_odd_dihedral_group_given_from_either_program_gives_the_same_positions(folder: Path) -> None:
    """CryoSPARC's map is RELION's turned by 90 degrees about z, so that its twofold axis comes to y."""
    turn = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])

    turned = euler_from_matrix(matrix_from_euler(ANGLES) @ turn.T)
    points = "; ".join(",".join(map(str, (turn @ np.array(vector)).tolist())) for vector in VECTORS)
    relion = centers_of(planned(star(folder), symmetry="D7"))
    cryosparc = centers_of(planned(cs(folder, angles=turned), symmetry="D7", subparticles=points))
    unlike = centers_of(planned(star(folder, angles=turned), symmetry="D7", subparticles=points))
    asked = centers_of(
        planned(star(folder, angles=turned), symmetry="D7", subparticles=points, symmetry_axes="cryosparc")
    )

    def as_sets(centers: Floats) -> list[Floats]:
        return list(centers.reshape(N, -1, 2))

    def away(some: Floats, others: Floats) -> float:
        gaps = [
            np.linalg.norm(one[:, None] - two[None], axis=2)
            for one, two in zip(as_sets(some), as_sets(others), strict=True)
        ]
        return max(float(gap.min(axis=axis).max()) for gap in gaps for axis in (0, 1))

    assert len(relion) == N * 2 * 14
    assert away(relion, cryosparc) < 1e-3
    assert away(relion, asked) < 1e-3
    assert away(relion, unlike) > 5


def test_markers_are_points_from_the_first_one_and_the_recipe_keeps_the_points(folder: Path) -> None:
    (folder / "units.CMM").write_text(CMM)
    by_file = planned(star(folder), subparticles=str(folder / "units.CMM"), symmetry="C7")
    by_text = planned(star(folder), symmetry="C7")
    np.testing.assert_allclose(centers_of(by_file), centers_of(by_text), atol=1e-9)
    (folder / "units.CMM").unlink()
    again = cryobox.Recipe.from_dict(by_file.plan.recipe.as_dict(), "job.json")
    assert again.subparticles == "31.0,-42.0,67.0;10.0,80.0,-20.0"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "is no XML"),
        (b"<marker_set>", "is no XML"),
        (b"\xff\xfe\x00", "is no XML"),
        (b"<a><b/></a>", "holds no markers, its elements are a, b"),
        (b'<m><marker x="1" y="2" z="3"/></m>', "holds 1 marker"),
        (b'<m><marker x="1" y="2"/></m>', "z of a marker is missing"),
        (b'<m><marker x="1" y="2" z="nan"/></m>', "z of a marker is 'nan'"),
        (b'<m>\n<marker x="1" y="b" z="1"/></m>', "line 2: y of a marker is 'b'"),
        (b'<!DOCTYPE m [<!ENTITY a "aaaa">]><m><marker x="&a;" y="1" z="1"/></m>', "declares a document type"),
        (b'<!DOCTYPE m SYSTEM "file:///etc/passwd"><m/>', "declares a document type"),
        (b'<m><marker x="&a;" y="1" z="1"/></m>', "is no XML"),
    ],
)
def test_a_file_that_holds_no_markers_is_refused(tmp_path: Path, text: bytes, message: str) -> None:
    path = tmp_path / "a.cmm"
    path.write_bytes(text)
    with pytest.raises(OptionError, match=message):
        cryobox.Recipe(box=32, subparticles=str(path))
    with pytest.raises(OptionError, match="cannot be read"):
        cryobox.Recipe(box=32, subparticles=str(tmp_path / "none.cmm"))


@pytest.mark.parametrize("make", [star, cs])
def test_points_may_be_in_pixels_or_voxels(folder: Path, make: Any) -> None:
    expected = centers_of(planned(make(folder), symmetry="D2"))
    for unit, size, corner in (("px", 0.9, 0.0), ("px", None, 0.0), ("voxel", None, IMAGE_SIDE / 2)):
        words = [
            ",".join(repr(length / (size or IMAGE_PIXEL) + corner) for length in vector) + unit for vector in VECTORS
        ]
        found = centers_of(planned(make(folder), symmetry="D2", subparticles=";".join(words), ref_angpix=size))
        np.testing.assert_allclose(found, expected, atol=2e-3)


def test_on_an_axis_of_symmetry_a_unique_angle_keeps_one_of_each_place(folder: Path) -> None:
    fivefold = "0,0,80"
    inputs = planned(star(folder), subparticles=fivefold, symmetry="I3")
    assert any("5 sub-particles of a particle are in one place" in text for text in inputs.plan.warnings)
    # Copies in one place share their image.
    assert len(inputs.particles) == 60 * N
    assert len(inputs.plan.tasks[0].windows) == 12 * N
    unique = planned(star(folder), subparticles=fivefold, symmetry="I3", unique_angle=10)
    assert len(unique.particles) == 12 * N
    assert not any("in one place" in text for text in unique.plan.warnings)
    for i, angles in enumerate(ANGLES.tolist()):
        twins = reference.subparticles(tuple(angles), [(0.0, 0.0, 80.0)], reference.symmetry_group("I3"), 10)
        places = CENTER[i] + (np.array([twin.shown[::-1] for twin in twins]) - ORIGIN[i]) / PIXEL
        mine = centers_of(unique)[12 * i : 12 * (i + 1)]
        gaps = np.linalg.norm(mine[:, None] - places[None], axis=2)
        assert max(gaps.min(axis=0).max(), gaps.min(axis=1).max()) < 1e-3
    # Neighboring fivefold axes are 63.43 degrees apart: an angle of no more than that keeps them.
    for degrees, left in ((63.434948, 12), (63.4350, 3), (180, 2)):
        some = planned(star(folder), subparticles=fivefold, symmetry="I3", unique_angle=degrees)
        assert len(some.particles) == left * N


def test_a_point_that_a_unique_angle_leaves_out_is_named(folder: Path) -> None:
    inputs = planned(star(folder), subparticles="0,0,80; 0,0,120; 50,0,0", unique_angle=5)
    assert len(inputs.particles) == 2 * N
    (told,) = [text for text in inputs.plan.warnings if "leaves out" in text]
    assert "leaves out the point 0,0,120 Å" in told


def test_only_sub_particles_of_different_particles_are_ever_too_close(folder: Path) -> None:
    inputs = planned(star(folder), symmetry="O", min_separation_angstrom=20)
    close = inputs.plan.places.reason == REASONS.index(Reason.SEPARATION)
    kept, parent = np.flatnonzero(~close), np.repeat(np.arange(N), 48)
    centers = centers_of(inputs) * PIXEL
    gaps = np.linalg.norm(centers[kept][:, None] - centers[kept][None], axis=2)
    other = parent[kept][:, None] != parent[kept][None]
    assert close.any()
    assert gaps[other].min() >= 20
    assert gaps[~other & ~np.eye(len(kept), dtype=bool)].min() < 20


def test_those_outside_are_rejected_with_the_reason(folder: Path) -> None:
    inputs = planned(star(folder), symmetry="C7", subparticles="480,0,0", edges="reject")
    box = np.rint(centers_of(inputs) - 1e-6)
    outside = ((box - 16 < 0) | (box + 16 > SIDE)).any(axis=1)
    edge = np.isin(inputs.plan.places.reason, [REASONS.index(Reason.EDGE), REASONS.index(Reason.OUTSIDE)])
    assert 0 < outside.sum() < outside.size
    assert np.abs(edge.astype(int) - outside.astype(int)).sum() <= 2  # but for halves of a pixel


@pytest.mark.parametrize("make", [star, cs])
def test_all_of_a_particle_are_in_the_half_set_that_it_has(folder: Path, make: Any) -> None:
    of_particles = np.array([1, 2, 2, 1, 1, 2, 1, 2, 2, 2, 1, 1])
    more: dict[str, Any] = {"rlnRandomSubset": of_particles.tolist()}
    if make is cs:
        more = {"alignments3D/split": (of_particles - 1).astype(np.uint32)}
    inputs = planned(make(folder, **more), symmetry="D2")
    assert "half_set" not in inputs.particles.columns  # the column passes through
    assert not any("half-set" in text for text in inputs.plan.warnings)
    some = np.where(np.arange(N) < 5, of_particles, 0)
    if make is star:
        inputs = planned(star(folder, rlnRandomSubset=some.tolist()), symmetry="D2")
        found = inputs.particles.columns["half_set"].reshape(N, -1)
        assert (found == found[:, :1]).all()
        assert found[:5, 0].tolist() == of_particles[:5].tolist()
        assert set(found[5:, 0].tolist()) == {1, 2}
        assert any("7 of 12 particles are in no half-set" in text for text in inputs.plan.warnings)


@pytest.mark.parametrize("make", [star, cs])
def test_a_half_set_is_made_by_particle_whatever_the_order_of_the_table(folder: Path, make: Any) -> None:
    first = planned(make(folder), symmetry="C7").particles
    halves = first.columns["half_set"].reshape(N, -1)
    assert (halves == halves[:, :1]).all()
    assert set(halves[:, 0].tolist()) == {1, 2}
    if make is cs:
        whole = np.load(folder / "p.cs")
        write_cs(folder / "p.cs", {name: whole[name][::-1] for name in whole.dtype.names})
    else:
        text = (folder / "p.star").read_text().splitlines()
        rows = [i for i, line in enumerate(text) if line.startswith("m.mrc ")]
        reordered = [text[i] for i in reversed(rows)]
        for i, line in zip(rows, reordered, strict=True):
            text[i] = line
        (folder / "p.star").write_text("\n".join(text) + "\n")
    again = planned(folder / f"p.{'cs' if make is cs else 'star'}", symmetry="C7").particles
    assert again.columns["half_set"].reshape(N, -1)[::-1, 0].tolist() == halves[:, 0].tolist()


def test_copies_of_one_particle_get_one_half_set(folder: Path) -> None:
    source = np.array([11, 11, 11, 12, 12, 12, 13, 13, 13, 14, 14, 14], np.uint64)
    number = np.tile(np.arange(3, dtype=np.uint32), 4)
    more: dict[str, Any] = {"sym_expand/src_uid": source, "sym_expand/idx": number}
    path = cs(folder, **more)
    inputs = planned(path, subparticles=POINTS)
    columns = inputs.particles.columns
    halves = columns["half_set"].reshape(4, 6)
    assert (halves == halves[:, :1]).all()
    assert columns["source_uid"].tolist() == np.repeat(source, 2).tolist()
    pairs = set(zip(columns["source_uid"].tolist(), columns["copy_number"].tolist(), strict=True))
    assert len(pairs) == len(inputs.particles) == 24
    assert max(number for _, number in pairs) == 5


def test_sub_particles_name_their_particle_and_have_uids_of_their_own(folder: Path) -> None:
    of_cs = planned(cs(folder), symmetry="O").particles.columns
    uid = np.arange(N, dtype=np.uint64) * 7 + 3
    assert of_cs["source_uid"].tolist() == np.repeat(uid, 48).tolist()
    assert of_cs["copy_number"].tolist() == list(range(48)) * N
    assert len(set(of_cs["uid"].tolist()) | set(uid.tolist())) == 49 * N
    assert of_cs["uid"].tolist() == planned(cs(folder), symmetry="O").particles.columns["uid"].tolist()
    of_star = planned(star(folder), symmetry="O").particles.columns
    assert of_star["original_particle"][[0, 47, 48]].tolist() == [
        "000001@old_stack.mrcs", "000001@old_stack.mrcs", "000002@old_stack.mrcs"
    ]  # fmt: skip
    assert "uid" not in of_star
    without = planned(star(folder, drop=("rlnImageName",)), symmetry="O").particles.columns
    assert without["original_particle"][48] == "000002@m.mrc"
    travelled = planned(star(folder, cryosparcUid=uid.tolist()), symmetry="O").particles.columns
    assert travelled["uid"].tolist() == of_cs["uid"].tolist()


def test_priors_follow_the_view_where_the_table_has_them(folder: Path) -> None:
    inputs = planned(
        star(folder, rlnAngleTiltPrior=[90] * N, rlnAngleRotPrior=[5] * N, rlnOriginXPriorAngst=[7] * N), symmetry="D2"
    )
    columns = inputs.particles.columns
    for name in ("rot", "tilt"):
        np.testing.assert_array_equal(columns[f"{name}_prior_degrees"], columns[f"{name}_degrees"])
    assert not columns["x_prior_angstrom"].any()
    assert "psi_prior_degrees" not in columns
    assert "tilt_prior_degrees" not in planned(star(folder), symmetry="D2").particles.columns


def test_orientations_without_origins_are_centered_ones(folder: Path) -> None:
    inputs = planned(star(folder, drop=("rlnOriginXAngst", "rlnOriginYAngst")), symmetry="D2")
    with_zeros = star(folder, rlnOriginXAngst=[0] * N, rlnOriginYAngst=[0] * N)
    np.testing.assert_array_equal(centers_of(inputs), centers_of(planned(with_zeros, symmetry="D2")))


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"recenter": False}, "leave out --no-recenter"),
        ({"drop_alignments": True}, "leave out --no-recenter, --reset-offsets and --drop-alignments"),
        ({"reset_offsets": True}, "leave it out, or --subparticles"),
        ({"helix": "segments"}, "--helix makes segments"),
        ({"recenter_3d": "1,2,3"}, "give one of them"),
        ({"subparticles": None, "symmetry": "C7"}, "--symmetry says how --subparticles are made"),
        ({"subparticles": None, "unique_angle": 3.0}, "--unique-angle says how"),
        ({"symmetry_axes": "relion"}, "--symmetry-axes says whose axes"),
        ({"symmetry": "I5"}, "symmetry must be one of"),
        ({"symmetry": "C0"}, "symmetry must be one of"),
        ({"symmetry": "C100"}, "symmetry must be one of"),
        ({"symmetry": "D"}, "symmetry must be one of"),
        ({"unique_angle": 181.0}, "unique_angle must be from"),
        ({"subparticles": "1,2"}, "must be points X,Y,Z"),
        ({"subparticles": "1,2,3;;4,5,6"}, "must be points X,Y,Z"),
        ({"subparticles": ""}, "must be points X,Y,Z"),
        ({"subparticles": "1,2,3;4,5,6px"}, "behind every point, or behind none"),
        ({"subparticles": "1e999,2,3"}, "finite"),
        ({"flip_x": True}, "mirrored copy cannot be recentered"),
    ],
)
def test_what_cannot_be_made_is_refused(folder: Path, recipe: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        planned(star(folder), **recipe)


def test_picks_without_orientations_have_no_sub_particles(folder: Path) -> None:
    with pytest.raises(OptionError, match="has no 3D orientations"):
        planned(star(folder, drop=("rlnAngleTilt",)))
    with pytest.raises(OptionError, match="not documented; say I1 or I2"):
        planned(cs(folder), symmetry="I")
    with pytest.raises(OptionError, match="recenter-from 2d leads by another"):
        planned(cs(folder), recenter_from="2d")
    assert len(planned(cs(folder), symmetry="I", symmetry_axes="relion").particles) == 120 * N


@pytest.mark.parametrize("sign", [-1, 1])
def test_the_defocus_follows_the_depth_that_the_twin_gives(folder: Path, sign: int) -> None:
    path = star(folder, rlnDefocusU=[12000] * N, rlnDefocusV=[11000] * N, rlnDefocusAngle=[0] * N)
    inputs = planned(path, symmetry="C7", adjust_defocus=True, defocus_sign=sign)
    offset = inputs.particles.columns[DEFOCUS_OFFSET].reshape(N, -1)
    group = reference.symmetry_group("C7")
    for i, angles in enumerate(ANGLES.tolist()):
        depths = [twin.depth for twin in reference.subparticles(tuple(angles), VECTORS, group)]
        np.testing.assert_allclose(np.sort(offset[i]), np.sort(sign * np.array(depths)), atol=1e-6)
