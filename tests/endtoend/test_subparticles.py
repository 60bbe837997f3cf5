"""Sub-particles of a simulated virus of known units: where they are cut, what their average shows, what tables say."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gemmi
import numpy as np
import pytest
from numpy.typing import NDArray

import cryobox
from cryobox import reference
from cryobox.convert import convert_particles
from cryobox.formats.cs_table import read_table
from cryobox.given import Given
from cryobox.inputs import prepare
from cryobox.job import merge
from cryobox.rotations import matrix_from_euler, matrix_from_pose, pose_from_euler
from cryobox.verification import verify
from synth import write_cs, write_mrc, write_star

Floats = NDArray[np.float64]

FAST = cryobox.RunOptions(fsync=False)
SIDE, PIXEL, BOX = 512, 2.0, 48
MICROGRAPHS, OF_EACH = 2, 3
RADIUS_OF_BLOBS = 5.0  # Å, sd of each
UNIT = (60.0, 35.0, 95.0)  # Å from the center of the virus
# What a unit looks like: blobs at these places (Å) about its own center, and how heavy each is.
BLOBS = np.array([[0.0, 0, 0], [16, 0, 0], [0, 22, 4], [-6, -8, 20]])
WEIGHTS = np.array([1.0, 0.8, 0.9, 0.7])


@dataclass(frozen=True, slots=True, kw_only=True)
class Virus:
    """Simulated micrographs, with what is known of their particles."""

    folder: Path
    picks: Path
    symmetry: str
    center: Floats  # (x, y) in pixels, shape (n, 2)
    views: Floats
    group: Floats

    def truth(self, particle: int) -> Floats:
        """(x, y) in pixels of the centers of the units of a particle."""
        units = self.views[particle] @ (self.group @ np.array(UNIT)).T
        found: Floats = self.center[particle] + units[:2].T / PIXEL
        return found


def draw(shape: tuple[int, int], places: Floats, weights: Floats) -> Floats:
    """Gaussian blobs at (x, y) in pixels."""
    image = np.zeros(shape)
    sd, reach = RADIUS_OF_BLOBS / PIXEL, 14
    for (x, y), weight in zip(places, weights, strict=True):
        x0, y0 = math.floor(x) - reach, math.floor(y) - reach
        rows = slice(max(y0, 0), max(0, min(y0 + 2 * reach, shape[0])))
        columns = slice(max(x0, 0), max(0, min(x0 + 2 * reach, shape[1])))
        along_y = np.exp(-0.5 * ((np.arange(rows.start, rows.stop) - y) / sd) ** 2)
        along_x = np.exp(-0.5 * ((np.arange(columns.start, columns.stop) - x) / sd) ** 2)
        image[rows, columns] += weight * np.outer(along_y, along_x)
    return image


def make_virus(folder: Path, family: str, symmetry: str, *, halves: bool = False) -> Virus:
    rng = np.random.default_rng(8)
    n = MICROGRAPHS * OF_EACH
    angles = np.round(rng.uniform([-180, 10, -180], [180, 170, 180], (n, 3)), 6)
    pick = np.array([(150, 150), (360, 190), (230, 370)] * MICROGRAPHS)
    shift = np.round(rng.uniform(-7, 7, (n, 2)), 6)  # Å, (x, y)
    views = matrix_from_euler(angles)
    center = pick - shift / PIXEL
    group = np.array(reference.symmetry_group(symmetry, "cryosparc" if family == "cs" else "relion"))
    names = [f"m{i}.mrc" for i in range(MICROGRAPHS)]
    of = np.repeat(np.arange(MICROGRAPHS), OF_EACH)
    for m, name in enumerate(names):
        image = rng.normal(100, 0.05, (SIDE, SIDE))
        for i in np.flatnonzero(of == m):
            blobs = np.concatenate([(turn @ (BLOBS + np.array(UNIT)).T).T for turn in group])
            seen = (views[i] @ blobs.T)[:2].T / PIXEL + center[i]
            image -= draw((SIDE, SIDE), seen, np.tile(WEIGHTS, len(group)))  # dark on light
        write_mrc(folder / name, image.astype(np.float32), pixel_size=PIXEL)
    if family == "star":
        columns: dict[str, list[Any]] = {
            "rlnMicrographName": [names[m] for m in of], "rlnCoordinateX": pick[:, 0].tolist(),
            "rlnCoordinateY": pick[:, 1].tolist(), "rlnImageName": [f"{i + 1:06d}@v.mrcs" for i in range(n)],
            "rlnOriginXAngst": shift[:, 0].tolist(), "rlnOriginYAngst": shift[:, 1].tolist(),
            "rlnOpticsGroup": [1] * n, "rlnDefocusU": [10000.0] * n, "rlnDefocusV": [10000.0] * n,
            "rlnDefocusAngle": [0.0] * n,
            **{f"rlnAngle{axis}": angles[:, i].tolist() for i, axis in enumerate(("Rot", "Tilt", "Psi"))},
        }  # fmt: skip
        optics: dict[str, list[Any]] = {
            "rlnOpticsGroup": [1], "rlnOpticsGroupName": ["a"], "rlnImagePixelSize": [PIXEL], "rlnImageSize": [128],
            "rlnVoltage": [300], "rlnSphericalAberration": [2.7], "rlnAmplitudeContrast": [0.1],
        }  # fmt: skip
        if halves:
            columns["rlnRandomSubset"] = [1, 2, 2, 1, 1, 2]
        picks = write_star(folder / "p.star", {"optics": optics, "particles": columns})
    else:
        picks = write_cs(folder / "p.cs", {
            "uid": np.arange(n, dtype=np.uint64) + 10,
            "location/micrograph_path": np.array([names[m] for m in of], "S"),
            "location/micrograph_uid": (of + 1).astype(np.uint64),
            "location/center_x_frac": (pick[:, 0] / SIDE).astype(np.float32),
            "location/center_y_frac": (pick[:, 1] / SIDE).astype(np.float32),
            "location/micrograph_shape": np.full((n, 2), SIDE, np.uint32),
            "location/micrograph_psize_A": np.full(n, PIXEL, np.float32),
            "blob/path": np.array([b">v.mrc"] * n), "blob/idx": np.arange(n, dtype=np.uint32),
            "blob/psize_A": np.full(n, PIXEL, np.float32), "blob/shape": np.full((n, 2), 128, np.uint32),
            "ctf/df1_A": np.full(n, 1e4, np.float32), "ctf/df2_A": np.full(n, 1e4, np.float32),
            "ctf/df_angle_rad": np.zeros(n, np.float32), "ctf/accel_kv": np.full(n, 300, np.float32),
            "ctf/cs_mm": np.full(n, 2.7, np.float32), "ctf/amp_contrast": np.full(n, 0.1, np.float32),
            "alignments3D/shift": (shift / PIXEL).astype(np.float32),
            "alignments3D/psize_A": np.full(n, PIXEL, np.float32),
            "alignments3D/pose": pose_from_euler(angles).astype(np.float32),
            **({"alignments3D/split": np.array([0, 1, 1, 0, 0, 1], np.uint32)} if halves else {}),
        })  # fmt: skip
    return Virus(folder=folder, picks=picks, symmetry=symmetry, center=center, views=views, group=group)


def extracted(virus: Virus, out: str = "out", options: cryobox.RunOptions = FAST, **recipe: Any) -> Path:
    point = ",".join(map(str, UNIT))
    plain: dict[str, Any] = {"box": BOX, "subparticles": point, "symmetry": virus.symmetry, "normalize": False}
    asked = cryobox.Recipe(**plain | recipe)
    cryobox.run(virus.picks, out=virus.folder / out, recipe=asked, options=options, root=virus.folder)
    return virus.folder / out


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows as a program behind reads them: box center and shift (x, y) in pixels, views, images."""

    center: Floats
    shift: Floats
    views: Floats
    images: Floats


def read(folder: Path, family: str) -> Table:
    if family == "star":
        block = gemmi.cif.read(str(folder / "particles.star"))["particles"]

        def numbers(*tags: str) -> Floats:
            return np.array([[float(v) for v in block.find_values(f"_rln{tag}")] for tag in tags]).T

        names = [gemmi.cif.as_string(text) for text in block.find_values("_rlnImageName")]
        where = [(int(name.split("@")[0]) - 1, name.split("@")[1]) for name in names]
        center, shift = numbers("CoordinateX", "CoordinateY"), numbers("OriginXAngst", "OriginYAngst") / PIXEL
        views = matrix_from_euler(numbers("AngleRot", "AngleTilt", "AnglePsi"))
    else:
        table = read_table(folder / "particles.cs")
        center = np.stack([table["location/center_x_frac"], table["location/center_y_frac"]], axis=1).astype(float)
        center = np.trunc(center * SIDE + 1e-3)
        shift = table["alignments3D/shift"].astype(np.float64)
        views = matrix_from_pose(table["alignments3D/pose"].astype(np.float64))
        names = [raw.decode().removeprefix(">") for raw in table["blob/path"]]
        where = list(zip(table["blob/idx"].tolist(), names, strict=True))
    stacks = {name: stack_of(folder, name) for name in {name for _, name in where}}
    return Table(center=center, shift=shift, views=views, images=np.array([stacks[name][i] for i, name in where]))


def stack_of(folder: Path, name: str) -> Floats:
    path = folder / name if (folder / name).exists() else folder.parent / name
    raw = path.read_bytes()
    n = int(np.frombuffer(raw, "<i4", 4)[2])
    return np.frombuffer(raw, "<f4", offset=1024).reshape(n, BOX, BOX).astype(np.float64)


def average_at(table: Table, places: Floats) -> Floats:
    """What the sub-particles show on average at places (Å) of their common frame, read off where each lies."""
    total = np.zeros(len(places))
    for image, shift, view in zip(table.images, table.shift, table.views, strict=True):
        x, y = (view @ places.T)[:2] / PIXEL + (BOX // 2 - shift)[:, None]
        column, row = np.floor(x).astype(int), np.floor(y).astype(int)
        a, b = x - column, y - row
        total += (
            (1 - b) * (1 - a) * image[row, column] + (1 - b) * a * image[row, column + 1]
            + b * (1 - a) * image[row + 1, column] + b * a * image[row + 1, column + 1]
        )  # fmt: skip
    return total / len(table.images)


CASES = [("star", "I1"), ("cs", "I2"), ("star", "D7"), ("cs", "D7"), ("star", "O")]


@pytest.mark.parametrize(("family", "symmetry"), CASES)
def test_boxes_and_residuals_are_the_projected_truth(tmp_path: Path, family: str, symmetry: str) -> None:
    virus = make_virus(tmp_path, family, symmetry)
    table = read(extracted(virus, edges="pad"), family)
    order = len(virus.group)
    assert len(table.center) == len(virus.views) * order
    worst = 0.0
    for i in range(len(virus.views)):
        mine = slice(i * order, (i + 1) * order)
        truth = virus.truth(i)
        found = (table.center - table.shift)[mine]
        gaps = np.linalg.norm(found[:, None] - truth[None], axis=2)
        # The unit at a place is seen as by A R: its center, turned so, is at that place.
        seen = (table.views[mine] @ np.array(UNIT))[:, :2] / PIXEL + virus.center[i]
        np.testing.assert_allclose(seen, found, atol=0.02)
        worst = max(worst, float(gaps.min(axis=0).max()), float(gaps.min(axis=1).max()))
    assert worst < 0.02
    assert np.abs(table.shift).max() <= 0.5 + 1e-3


@pytest.mark.parametrize(("family", "symmetry"), CASES[:4])
def test_the_average_of_the_sub_particles_shows_the_unit(tmp_path: Path, family: str, symmetry: str) -> None:
    virus = make_virus(tmp_path, family, symmetry)
    table = read(extracted(virus, edges="pad", style="relion" if family == "star" else "cryosparc"), family)
    sign = 1 if family == "star" else -1  # white particles, or dark ones
    rng = np.random.default_rng(3)
    places = rng.uniform(-25, 25, (600, 3))
    away = np.linalg.norm(places[:, None] - BLOBS[None], axis=2)
    density = np.exp(-0.5 * (away / RADIUS_OF_BLOBS) ** 2) @ WEIGHTS
    shown = sign * average_at(table, places)
    # Projections overlap, so that a plain average stands on a haze; the unit stands out of it.
    assert np.corrcoef(shown, density)[0, 1] > 0.6
    assert (sign * average_at(table, BLOBS)).min() > np.percentile(shown[away.min(axis=1) > 14], 98)
    # Seen as their particles are, not turned by the symmetry, the units do not add up.
    views = np.repeat(virus.views, len(virus.group), axis=0)
    unturned = Table(center=table.center, shift=table.shift, views=views, images=table.images)
    assert np.corrcoef(sign * average_at(unturned, places), density)[0, 1] < 0.4


@pytest.mark.parametrize("family", ["star", "cs"])
def test_a_run_is_verified_resumed_and_the_same_in_shards(tmp_path: Path, family: str) -> None:
    virus = make_virus(tmp_path, family, "C7", halves=True)
    (tmp_path / "units.cmm").write_text(
        f'<s><marker x="1" y="1" z="1"/><marker x="{UNIT[0] + 1}" y="{UNIT[1] + 1}" z="{UNIT[2] + 1}"/></s>'
    )
    whole = extracted(virus, subparticles=str(tmp_path / "units.cmm"))
    (tmp_path / "units.cmm").unlink()  # its points are recorded
    assert verify(whole).problems == ()
    again = cryobox.run(
        virus.picks, out=whole, recipe=cryobox.Recipe(box=BOX, subparticles="60.0,35.0,95.0", symmetry="C7",
        normalize=False), options=FAST, root=tmp_path,
    )  # fmt: skip
    assert again.extracted > 0
    for part in (1, 2):
        extracted(virus, "two", cryobox.RunOptions(fsync=False, shard=(part, 2)), subparticles="60.0,35.0,95.0")
    merge(tmp_path / "two", options=FAST)
    name = f"particles.{family}"
    one, other = (path.read_bytes() for path in (whole / name, tmp_path / "two" / name))
    assert one.replace(b"out/", b"two/") == other
    assert verify(tmp_path / "two").problems == ()


@pytest.mark.parametrize("family", ["star", "cs"])
def test_tables_of_both_programs_say_the_same_and_go_through_the_other_and_back(tmp_path: Path, family: str) -> None:
    virus = make_virus(tmp_path, family, "D7", halves=True)
    out = extracted(virus, tables="both", edges="pad")
    assert verify(out).problems == ()
    one, other = read(out, "star"), read(out, "cs")
    np.testing.assert_allclose(one.views, other.views, atol=2e-6)
    np.testing.assert_allclose(one.center - one.shift, other.center - other.shift, atol=1e-3)
    np.testing.assert_array_equal(one.images, other.images)
    native, there = ("star", "cs") if family == "star" else ("cs", "star")
    # Written anew from the other program's table, and back: the same views, places and halves.
    back = out / f"back.{native}"
    convert_particles(out / f"particles.{there}", back, root=tmp_path)
    (out / f"particles.{native}").unlink()
    back.rename(out / f"particles.{native}")
    found = read(out, native)
    np.testing.assert_allclose(found.views, one.views, atol=2e-6)
    np.testing.assert_allclose(found.center - found.shift, one.center - one.shift, atol=1e-3)


@pytest.mark.parametrize("family", ["star", "cs"])
def test_tables_name_the_particle_and_keep_its_half_set(tmp_path: Path, family: str) -> None:
    virus = make_virus(tmp_path, family, "C7", halves=True)
    out = extracted(virus, edges="pad")
    halves = np.repeat([1, 2, 2, 1, 1, 2], 7)
    if family == "star":
        block = gemmi.cif.read(str(out / "particles.star"))["particles"]
        particle = list(block.find_values("_rlnOriginalParticleName"))
        assert particle == [f"{i // 7 + 1:06d}@v.mrcs" for i in range(42)]
        assert [int(v) for v in block.find_values("_rlnRandomSubset")] == halves.tolist()
        return
    table = read_table(out / "particles.cs")
    assert table["sym_expand/src_uid"].tolist() == np.repeat(np.arange(6) + 10, 7).tolist()
    assert table["sym_expand/idx"].tolist() == list(range(7)) * 6
    assert (table["alignments3D/split"] + 1).tolist() == halves.tolist()
    assert len(np.unique(table["uid"])) == 42


def test_a_table_converted_to_cryosparc_names_the_particle_too(tmp_path: Path) -> None:
    virus = make_virus(tmp_path, "star", "C7", halves=True)
    table = read_table(extracted(virus, edges="pad", tables="both") / "particles.cs")
    assert table["sym_expand/idx"].tolist() == list(range(7)) * 6
    source = table["sym_expand/src_uid"].reshape(6, 7)
    assert (source == source[:, :1]).all()
    assert len(np.unique(table["uid"])) == 42
    # The uids are those that the particles' own table gets.
    convert_particles(virus.picks, tmp_path / "p.cs", root=tmp_path, allow_missing=True)
    assert source[:, 0].tolist() == read_table(tmp_path / "p.cs")["uid"].tolist()


def test_where_no_half_set_is_told_both_tables_get_one(tmp_path: Path) -> None:
    virus = make_virus(tmp_path, "cs", "C7")
    out = extracted(virus, edges="pad", tables="both")
    split = read_table(out / "particles.cs")["alignments3D/split"]
    subset = gemmi.cif.read(str(out / "particles.star"))["particles"].find_values("_rlnRandomSubset")
    assert [int(text) for text in subset] == (split + 1).tolist()
    assert (split.reshape(6, 7) == split.reshape(6, 7)[:, :1]).all()
    assert set(split.tolist()) == {0, 1}


def test_sub_particles_on_demand_are_the_stored_ones(tmp_path: Path) -> None:
    virus = make_virus(tmp_path, "star", "C7")
    out = extracted(virus)
    recipe = cryobox.Recipe(box=BOX, subparticles="60.0,35.0,95.0", symmetry="C7", normalize=False)
    source = cryobox.ParticleSource(
        virus.picks, micrographs=str(virus.folder / "m*.mrc"), recipe=recipe, root=virus.folder
    )
    table = read(out, "star")
    np.testing.assert_array_equal(np.array([source[i] for i in range(len(source))]), table.images)
    inputs = prepare(Given.of(virus.picks, None, virus.folder), recipe=recipe)
    kept = np.flatnonzero(inputs.plan.places.reason < 0)
    assert source.rows.tolist() == (kept // 7).tolist()


def test_the_report_joins_sub_particles_with_their_particle(tmp_path: Path) -> None:
    from cryobox.reporting.facts import gather
    from cryobox.reporting.page import _lines
    from cryobox.reporting.plots import boxes_on_micrograph

    virus = make_virus(tmp_path, "star", "C7")
    out = extracted(virus)
    facts = gather(out)
    mine = np.flatnonzero(facts.plan.micrograph == 1)
    lines = _lines(facts, mine, 2)
    assert lines is not None
    assert len(lines) == 21
    truth = np.concatenate([virus.truth(i) for i in (3, 4, 5)])[:, ::-1] / 2
    gaps = np.linalg.norm(lines[:, 1][:, None] - truth[None], axis=2)
    assert gaps.min(axis=1).max() < 0.5
    np.testing.assert_array_equal(lines[:7, 0], np.tile([75.0, 75.0], (7, 1)))
    scaled = _lines(gather(extracted(virus, "scaled", coordinate_scale=1.25, edges="pad")), mine, 2)
    assert scaled is not None
    np.testing.assert_array_equal(scaled[:7, 0], np.tile([93.75, 93.75], (7, 1)))
    levels, corners, kept = np.zeros((256, 256), np.uint8), lines[:, 1] - 12, np.ones(21, np.bool_)
    with_lines, without = (boxes_on_micrograph(levels, corners, 24, kept, 256, lines=some) for some in (lines, None))
    assert with_lines != without
    assert cryobox.write_report(out).stat().st_size > 10_000


@pytest.mark.parametrize("tag", ["_rlnAngleRot", "_rlnOriginXAngst"])
def test_verify_finds_a_sub_particle_that_is_not_where_the_twin_puts_it(tmp_path: Path, tag: str) -> None:
    virus = make_virus(tmp_path, "star", "C7", halves=True)
    out = extracted(virus, edges="pad")
    document = gemmi.cif.read(str(out / "particles.star"))
    column = document["particles"].find_loop(tag)
    column[9] = f"{float(column[9]) + 0.9:.6f}"
    document.write_file(str(out / "particles.star"))
    told = verify(out).problems
    what = "is not seen as any sub-particle" if tag == "_rlnAngleRot" else "does not lie where its view says"
    assert any(f"row 10: {what}" in text for text in told)
    assert sum("sub-particle" in text or "its view says" in text for text in told) == 1


def test_the_command_line_takes_the_points_and_the_short_name(tmp_path: Path) -> None:
    virus = make_virus(tmp_path, "star", "C7", halves=True)
    command = [sys.executable, "-m", "cryobox", "extract", str(virus.picks), "--out", str(tmp_path / "cli"),
               "--root", str(tmp_path),
               "--box", str(BOX), "--no-normalize", "--no-report", "--subparticles", "60, 35, 95", "--sym", "c7",
               "--no-fsync"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    whole = extracted(virus, "api")
    one, other = ((folder / "particles.star").read_bytes() for folder in (tmp_path / "cli", whole))
    assert one.replace(b"cli/", b"api/") == other
