"""Boxes centered on a point of the reference, beside RELION 5's own: the same pixels, the same origins left over."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import cryobox
from star_tables import columns

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "recenter_2d": ("refined_4A.star", {}),
    "recenter_3d": ("refined_4A.star", {"recenter_3d": "10,20,5px", "ref_angpix": 1.0}),
    "recenter_3d_noref": ("refined_4A.star", {"recenter_3d": "3,-4,5px"}),
    "recenter_3d_2A": ("refined_2A.star", {"recenter_3d": "-7.5,6,11px", "ref_angpix": 1.3}),
    "norecenter": ("refined_4A.star", {"recenter": False}),
    "reset_offsets": ("refined_4A.star", {"reset_offsets": True}),
    "center_without_recenter": ("refined_4A.star", {"recenter": False}),
}


def numbers(table: Path, *tags: str) -> NDArray[np.float64]:
    found = columns(table)
    return np.array([list(map(float, found[f"_rln{tag}"])) for tag in tags]).T


@pytest.mark.real
@pytest.mark.parametrize("case", CASES)
def test_boxes_and_origins_are_those_of_relion_5(
    real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    golden = real_data / "relion5"
    shutil.copytree(golden / "inputs", tmp_path / "inputs")
    monkeypatch.chdir(tmp_path)
    picks, asked = CASES[case]
    cryobox.run(
        f"inputs/{picks}",
        micrographs="inputs/micrographs_ctf.star",
        out="out",
        recipe=cryobox.Recipe(box=32, edges="pad", normalize=False, invert=False, **asked),
        options=cryobox.RunOptions(fsync=False),
    )
    ours, theirs = Path("out/particles.star"), golden / case / "particles.star"
    one, two = (numbers(path, "CoordinateX", "CoordinateY", "OriginXAngst", "OriginYAngst") for path in (ours, theirs))
    if case == "reset_offsets":
        assert not one[:, 2:].any()
        np.testing.assert_array_equal(one[:, :2], two[:, :2])
    # RELION keeps the fraction of a coordinate, we write the whole pixel that was cut: the box is the same.
    differ = ~(np.trunc(one[:, :2]) == np.trunc(two[:, :2])).all(axis=1)
    # An exact half: RELION moves the box, and would move it back the next time; we leave it (docs/conventions.md).
    half = np.abs(np.abs(one[:, 2:] / 2.0) - 0.5).min(axis=1) < 1e-5
    assert not (differ & ~half).any()
    assert np.count_nonzero(differ) <= (2 if case == "recenter_2d" else 0)
    np.testing.assert_allclose(one[~differ, 2:], two[~differ, 2:], atol=2e-5)
    stack = np.fromfile(golden / case / "inputs" / "gold.mrcs", np.float32, offset=1024).reshape(-1, 32, 32)
    found = np.fromfile(next(Path("out/stacks").iterdir()), np.float32, offset=1024).reshape(-1, 32, 32)
    if len(found) == len(stack):
        np.testing.assert_array_equal(found[~differ], stack[~differ])
