"""`cryobox compare` on what RELION extracts and what we extract, of the same picks."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cryobox
from cryobox.comparison import Comparison, compare_particles
from cryobox.comparison.pixels import Measure
from cryobox.formats.star_table import read_blocks
from cryobox.groups import Edges
from golden.make_golden import CASES, PICKS, Case, run_relion, write_inputs
from synth import write_star

pytestmark = pytest.mark.relion

BY_NAME = {case.name: case for case in CASES}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("beside") / "project"
    write_inputs(root)
    return root


def beside(
    case: Case, root: Path, *, pixels: Measure = "stored", edges: Edges = "pad", within: float = 1
) -> Comparison:
    """RELION's output and ours, compared as a user would, who has a RELION job and a folder of ours."""
    theirs = root / "Extract" / case.name
    if not theirs.exists():
        run_relion(case, root)
    picks, out = root / "aligned.star", root / "ours" / f"{case.name}_{edges}"
    if case.suffix:
        picks = root / "picks" / case.name
        picks.mkdir(parents=True, exist_ok=True)
        for stem in PICKS[case.suffix]:
            shutil.copy(root / "Micrographs" / f"{stem}{case.suffix}", picks)
    recipe = cryobox.Recipe(
        box=case.box, sizes=(case.size,), normalize=case.normalize, ramp=case.ramp, invert=case.invert,
        background_radius=case.background_radius, edges=edges, recenter=case.name == "recentered",
    )  # fmt: skip
    table = next(word for word in case.command if word.startswith("micrographs"))
    cryobox.run(picks, micrographs=root / table, out=out, recipe=recipe, root=root)
    return compare_particles(theirs / "particles.star", out, sample=None, pixels=pixels, within=within)


@pytest.mark.parametrize("name", ["normalized", "no_ramp", "radius", "large", "edges_raw"])
def test_uncropped_images_and_their_tables_agree(name: str, project: Path) -> None:
    found = beside(BY_NAME[name], project)
    assert found.differences == ()
    assert found.pixels.stored.max() < 2e-7  # a tenth of what is allowed


@pytest.mark.parametrize("name", ["cropped", "cropped_raw", "large_cropped", "edges_cropped", "not_recentered"])
def test_cropped_images_agree_below_nyquist_and_only_there(name: str, project: Path) -> None:
    found = beside(BY_NAME[name], project, pixels="below-nyquist")
    assert found.differences == ()
    assert found.pixels.below_nyquist.max() < 1e-6
    assert found.pixels.fitted.min() > 1e-3


def test_boxes_over_the_edge_are_named_as_the_reason_for_missing_rows(project: Path) -> None:
    found = beside(BY_NAME["edges_raw"], project, edges="reject")
    assert found.only_a.counts == {"box over the edge": 7}
    assert found.differences == ("rows that only A has",)


def test_after_recentering_relion_keeps_the_fraction_and_cuts_the_same_box(project: Path) -> None:
    found = beside(BY_NAME["recentered"], project, within=2)
    # The row with shifts of exactly half a pixel, which RELION moves, is the only one of another box.
    assert found.values[0].name == "position_pixels"
    assert found.differences == ("position", "shift", "pixels")
    assert found.values[1].differing == 1
    assert np.flatnonzero(found.pixels.stored > found.pixels.allowed).tolist() == [9]
    assert "7 of the 8 positions that differ mean the same whole pixel" in found.notes[-1]


@pytest.mark.real
@pytest.mark.parametrize(("size", "pixels"), [(128, "stored"), (64, "below-nyquist")])
def test_real_micrographs_give_the_same_particles(size: int, pixels: Measure, real_data: Path, tmp_path: Path) -> None:
    """A K2 exposure in uint16, and float32 whose mean is 760 times its standard deviation."""
    picks = {"fei-extended": "fei-extended.star", "Ucsf_stack_1142_DW": "Ucsf_stack_1142_DW_autopick.star"}
    for stem, name in picks.items():
        (tmp_path / "M").mkdir(exist_ok=True)
        (tmp_path / f"M/{stem}.mrc").symlink_to(real_data / "micrographs" / f"{stem}.mrc")
        table = list(read_blocks(real_data / "picks" / name).values())[-1].table()
        columns = {f"rlnCoordinate{axis}": table.texts(f"_rlnCoordinate{axis}") for axis in "XY"}
        write_star(tmp_path / f"M/{stem}_pick.star", {"": columns})
    optics: dict[str, list[Any]] = {
        "rlnOpticsGroupName": ["one"], "rlnOpticsGroup": [1], "rlnMicrographPixelSize": [0.85378],
        "rlnMicrographOriginalPixelSize": [0.85378], "rlnVoltage": [300.0], "rlnSphericalAberration": [2.7],
        "rlnAmplitudeContrast": [0.1],
    }  # fmt: skip
    names: dict[str, list[Any]] = {"rlnMicrographName": [f"M/{stem}.mrc" for stem in picks], "rlnOpticsGroup": [1, 1]}
    defocus: dict[str, list[Any]] = {
        "rlnDefocusU": [15000.0, 12000.0],
        "rlnDefocusV": [14000.0, 11000.0],
        "rlnDefocusAngle": [30.0, 40.0],
    }
    write_star(tmp_path / "mics.star", {"optics": optics, "micrographs": names | defocus})
    command = (
        f"relion_preprocess --i mics.star --coord_dir ./ --coord_suffix _pick.star --part_star R/particles.star "
        f"--part_dir R/ --extract --extract_size 128 --scale {size} --norm --bg_radius {size * 3 // 8} "
        "--invert_contrast"
    )
    (tmp_path / "R").mkdir()
    subprocess.run(command.split(), cwd=tmp_path, capture_output=True, check=True)
    recipe = cryobox.Recipe(box=128, sizes=(size,), edges="pad", coordinate_suffix="_pick")
    cryobox.run(tmp_path / "M", micrographs=tmp_path / "mics.star", out=tmp_path / "ours", recipe=recipe, root=tmp_path)
    found = compare_particles(tmp_path / "R/particles.star", tmp_path / "ours", sample=None, pixels=pixels)
    assert found.differences == ()
    assert len(found.pairs) == 221
    assert found.pixels.judged.max() < 1e-6
