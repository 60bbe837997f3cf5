"""`cryobox compare` on what RELION extracts and what we extract, of the same picks."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import cryobox
from cryobox.comparison import Comparison, compare_particles
from cryobox.comparison.pixels import Measure
from cryobox.groups import Edges
from golden.make_golden import CASES, PICKS, Case, run_relion, write_inputs

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
