"""Runs with filters: resolutions in Å, whatever the pixel size, and what they are refused for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cryobox
from cryobox import reference
from cryobox.errors import OptionError
from cryobox.simulate import Dataset, make_dataset
from cryobox.verification import verify

FAST = cryobox.RunOptions(fsync=False)


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    return make_dataset(tmp_path / "data", micrographs=1, shape=(300, 400), picks=6)


def extract(data: Dataset, out: Path, options: cryobox.RunOptions = FAST, **asked: Any) -> cryobox.RunResult:
    recipe = cryobox.Recipe(**{"box": 64, "sizes": (64, 32), **asked})
    return cryobox.run(
        data.picks, micrographs=data.micrographs, out=out, recipe=recipe, options=options, root=data.folder
    )


def images(out: Path) -> np.ndarray:
    return np.fromfile(next((out / "stacks").iterdir()), np.float32, offset=1024).reshape(-1, 64, 64)


def test_a_run_filters_at_resolutions_in_angstrom_and_verifies(data: Dataset, tmp_path: Path) -> None:
    result = extract(data, tmp_path / "out", lowpass=12.0, highpass=60.0, normalize=False)
    extract(data, tmp_path / "plain", normalize=False)
    assert any("a refinement needs all resolutions" in text for text in result.warnings)
    assert not verify(tmp_path / "out", everything=True).problems
    pixel = np.fromfile(next((tmp_path / "out" / "stacks").iterdir()), "<f4", 1, offset=40)[0] / 64
    for one, plain in zip(images(tmp_path / "out"), images(tmp_path / "plain"), strict=True):
        expected = reference.filtered(plain, float(pixel), 12.0, 60.0)
        np.testing.assert_allclose(one, expected, atol=1e-5 * np.abs(plain).max())


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"lowpass": 20.0, "highpass": 20.0}, "highpass must be coarser than lowpass"),
        ({"filter_width": 3.0}, "filter_width is that of lowpass and highpass"),
        ({"lowpass": 1.0}, "--lowpass must be at least 2 pixels"),
    ],
)
def test_filters_that_mean_nothing_are_refused(
    data: Dataset, tmp_path: Path, asked: dict[str, Any], message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        extract(data, tmp_path / "out", **asked)


def test_gpus_are_refused_by_name(data: Dataset, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="--lowpass: the core for GPUs has no such step"):
        extract(data, tmp_path / "out", options=cryobox.RunOptions(gpus=("cuda:0",)), lowpass=12.0)
