"""The whole job on real files: the same stack from every form of the picks, and recentering against known centers."""

from __future__ import annotations

from pathlib import Path

import mrcfile
import numpy as np
import pytest

import cryobox
from cryobox.formats import read_particles
from cryobox.particles import Reason

pytestmark = pytest.mark.real

FAST = cryobox.RunOptions(fsync=False)


def stacks(folder: Path) -> dict[str, bytes]:
    return {path.name.split(".")[0]: path.read_bytes() for path in sorted((folder / "stacks").iterdir())}


def test_one_exposure_gives_the_same_stack_from_star_box_and_topaz_picks(real_data: Path, tmp_path: Path) -> None:
    found = {}
    for form in ("fei-extended.star", "fei-extended.box", "fei-extended_topaz.txt"):
        result = cryobox.run(
            real_data / "picks" / form,
            micrographs=real_data / "picks" / "fei-extended_micrographs.star",
            out=tmp_path / form,
            recipe=cryobox.Recipe(box=256, sizes=(128,)),
            options=FAST,
        )
        assert result.extracted + sum(result.rejected.values()) == 176
        found[form] = stacks(tmp_path / form)
    one, *others = found.values()
    assert list(one) == ["fei-extended_particles"]
    assert all(other == one for other in others)


def test_the_recentered_old_autopicks_report_their_edge_picks(real_data: Path, tmp_path: Path) -> None:
    result = cryobox.run(
        real_data / "picks" / "Ucsf_stack_1142_DW_autopick.star",
        micrographs=real_data / "micrographs" / "Ucsf_stack_1142_DW.mrc",
        out=tmp_path / "out",
        recipe=cryobox.Recipe(box=100, pixel_size=3.54),
        options=FAST,
    )
    table = (real_data / "picks" / "Ucsf_stack_1142_DW_autopick.star").read_text().splitlines()
    centers = np.array(
        [[float(v) for v in line.split()[:2]] for line in table if line[:4] == "    " or line[:2] == "  "]
    )
    corner = np.trunc(centers) - 50
    inside = ((corner >= 0) & (corner + 100 <= [959, 927])).all(axis=1)
    assert len(centers) == 45
    assert result.extracted == inside.sum()
    assert result.rejected == {str(Reason.EDGE): int((~inside).sum())}


def project(real_data: Path, table: str, out: Path, **recipe: object) -> cryobox.RunResult:
    return cryobox.run(
        real_data / "cryosparc_project" / table,
        micrographs=real_data / "cryosparc_project" / "J3" / "J3_exposures.csg",
        out=out,
        recipe=cryobox.Recipe(box=64, **recipe),  # type: ignore[arg-type]
        options=FAST,
        root=real_data / "cryosparc_project",
    )


def centers_by_uid(table: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Uid, integer center (x, y), and center minus the residual shift, in micrograph pixels."""
    rows = np.load(table, allow_pickle=False)
    shape = rows["location/micrograph_shape"][:, ::-1]
    fraction = np.stack([rows["location/center_x_frac"], rows["location/center_y_frac"]], axis=1).astype(float)
    whole = np.trunc(fraction * shape + 1e-3)
    group = "alignments3D" if "alignments3D/shift" in rows.dtype.names else "alignments2D"
    shift = rows[f"{group}/shift"].astype(float) * rows[f"{group}/psize_A"][:, None] / 1.25
    return rows["uid"], whole, whole - shift


def test_picks_on_the_coarse_grid_get_the_exposures_ctf_with_a_warning(real_data: Path, tmp_path: Path) -> None:
    result = project(real_data, "J4/J4_particles.csg", tmp_path / "out", recenter=True)
    truth = np.load(real_data / "cryosparc_project" / "truth.npz")
    rows = np.load(tmp_path / "out" / "particles.cs", allow_pickle=False)
    assert set(rows["uid"].tolist()) <= set(truth["uid"].tolist())
    assert result.extracted + sum(result.rejected.values()) == 24
    assert any("Patch CTF" in warning for warning in result.warnings)
    exposures = np.load(real_data / "cryosparc_project" / "J3" / "exposures_ctf_estimated.cs", allow_pickle=False)
    by_uid = dict(zip(exposures["uid"].tolist(), exposures["ctf/df1_A"].tolist(), strict=True))
    assert rows["ctf/df1_A"].tolist() == [by_uid[uid] for uid in rows["location/micrograph_uid"].tolist()]
    assert "ctf/path" not in rows.dtype.names


@pytest.mark.parametrize("table", ["J6/J6_particles.csg", "J8/J8_particles_exported.csg", "J8/J8_particles_exported.cs",
                                   "J8/J8_particles_exported_csdat.cs"])  # fmt: skip
def test_recentered_boxes_sit_on_the_true_centers(real_data: Path, tmp_path: Path, table: str) -> None:
    result = project(real_data, table, tmp_path / "out")
    truth = np.load(real_data / "cryosparc_project" / "truth.npz")
    true = {int(uid): (x, y) for uid, x, y in zip(truth["uid"], truth["x"], truth["y"], strict=True)}
    uid, whole, exact = centers_by_uid(tmp_path / "out" / "particles.cs")
    assert len(uid) == result.extracted > 0
    wanted = np.array([true[int(u)] for u in uid])
    assert np.abs(whole - wanted).max() <= 0.5 + 1e-3
    assert np.abs(exact - wanted).max() < 2e-3


def test_stale_2d_shifts_beside_3d_stay_as_stale_as_they_were(real_data: Path, tmp_path: Path) -> None:
    project(real_data, "J8/J8_particles_exported.cs", tmp_path / "out")
    before = np.load(real_data / "cryosparc_project/J8/J8_particles_exported.cs", allow_pickle=False)
    after = np.load(tmp_path / "out" / "particles.cs", allow_pickle=False)
    rows = {int(uid): row for row, uid in enumerate(before["uid"])}
    before = before[[rows[int(uid)] for uid in after["uid"]]]
    moved_3d = (before["alignments3D/shift"] - after["alignments3D/shift"]) * before["alignments3D/psize_A"][:, None]
    moved_2d = (before["alignments2D/shift"] - after["alignments2D/shift"]) * before["alignments2D/psize_A"][:, None]
    assert np.abs(moved_3d).max() > 1
    assert np.allclose(moved_3d, moved_2d, atol=1e-4)


@pytest.mark.parametrize("table", ["J6/J6_particles.csg", "J8/J8_particles_exported.cs"])
def test_extracting_again_from_our_own_output_changes_no_pixel_and_no_center(
    real_data: Path, tmp_path: Path, table: str
) -> None:
    project(real_data, table, tmp_path / "first")
    cryobox.run(
        tmp_path / "first" / "particles.cs",
        micrographs=real_data / "cryosparc_project" / "J3" / "J3_exposures.csg",
        out=tmp_path / "second",
        recipe=cryobox.Recipe(box=64),
        options=FAST,
        root=real_data / "cryosparc_project",
    )
    assert stacks(tmp_path / "first") == stacks(tmp_path / "second")
    first = read_particles(tmp_path / "first" / "particles.cs", recipe=cryobox.Recipe(box=64))
    second = read_particles(tmp_path / "second" / "particles.cs", recipe=cryobox.Recipe(box=64))
    assert np.array_equal(first.x, second.x)
    assert np.array_equal(first.y, second.y)
    for one, two in zip(first.alignments, second.alignments, strict=True):
        assert np.array_equal(one.shift, two.shift)


def test_float16_micrographs_and_stacks_open_elsewhere(real_data: Path, tmp_path: Path) -> None:
    project(real_data, "J4/J4_particles.csg", tmp_path / "out", sizes=(32,), dtype="float16")
    for path in (tmp_path / "out" / "stacks").iterdir():
        with mrcfile.open(path) as stack:
            assert stack.data.dtype == np.float16
            assert stack.data.shape[1:] == (32, 32)
            assert stack.voxel_size.x == pytest.approx(2.5)
