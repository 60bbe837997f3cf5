"""Extracting again from our own output changes no pixel and no center, exact half-pixel shifts included."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import cryobox
import synth
from cryobox.formats import read_particles

SHAPE = (300, 360)
PIXEL_SIZE = 1.5
SHIFTS = (0.0, 0.5, -0.5, 1.5, -1.5, 2.5, 0.4999, 0.5001, -7.3, 12.5, -12.5, 3.0)  # in pixels of the micrograph
RECIPE = cryobox.Recipe(box=64, sizes=(48,))
FAST = cryobox.RunOptions(fsync=False)


def star(folder: Path, x: list[float], y: list[float], dx: np.ndarray, dy: np.ndarray) -> tuple[Path, Path]:
    n = len(x)
    optics: dict[str, Sequence[object]] = {
        "rlnOpticsGroupName": ["g"], "rlnOpticsGroup": [1], "rlnVoltage": [300.0], "rlnSphericalAberration": [2.7],
        "rlnAmplitudeContrast": [0.1], "rlnMicrographPixelSize": [PIXEL_SIZE],
    }  # fmt: skip
    picks = synth.write_star(
        folder / "picks.star",
        {
            "optics": optics,
            "particles": {
                "rlnMicrographName": ["m.mrc"] * n, "rlnCoordinateX": x, "rlnCoordinateY": y, "rlnOpticsGroup": [1] * n,
                "rlnOriginXAngst": [f"{v:.6f}" for v in dx * PIXEL_SIZE],
                "rlnOriginYAngst": [f"{v:.6f}" for v in dy * PIXEL_SIZE],
            },
        },
    )  # fmt: skip
    table: dict[str, Sequence[object]] = {"rlnMicrographName": ["m.mrc"], "rlnOpticsGroup": [1]}
    return picks, synth.write_star(folder / "mics.star", {"optics": optics, "micrographs": table})


def cs(folder: Path, x: list[float], y: list[float], dx: np.ndarray, dy: np.ndarray) -> tuple[Path, Path]:
    n = len(x)
    shift = np.stack([dx, dy], axis=1) * (PIXEL_SIZE / 3.0)
    picks = synth.write_cs(
        folder / "picks.cs",
        {
            "uid": np.arange(1, n + 1, dtype="<u8"),
            "location/micrograph_uid": np.full(n, 7, "<u8"),
            "location/micrograph_path": np.full(n, b"m.mrc"),
            "location/micrograph_shape": np.tile(np.array(SHAPE, "<u4"), (n, 1)),
            "location/micrograph_psize_A": np.full(n, PIXEL_SIZE, "<f4"),
            "location/center_x_frac": (np.array(x) / SHAPE[1]).astype("<f4"),
            "location/center_y_frac": (np.array(y) / SHAPE[0]).astype("<f4"),
            "alignments3D/shift": shift.astype("<f4"),
            "alignments3D/psize_A": np.full(n, 3.0, "<f4"),
        },
    )
    exposures = synth.write_cs(
        folder / "exposures.cs",
        {
            "uid": np.array([7], "<u8"),
            "micrograph_blob/path": np.array([b"m.mrc"]),
            "micrograph_blob/idx": np.zeros(1, "<u4"),
            "micrograph_blob/shape": np.array([SHAPE], "<u4"),
            "micrograph_blob/psize_A": np.full(1, PIXEL_SIZE, "<f4"),
        },
    )
    return picks, exposures


@pytest.mark.parametrize("make", [star, cs], ids=["star", "cs"])
def test_a_second_extraction_gives_the_same_bytes_and_the_same_table(tmp_path: Path, make) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(4)
    synth.write_mrc(tmp_path / "m.mrc", synth.micrograph(SHAPE, seed=1).astype(np.float32), pixel_size=PIXEL_SIZE)
    x, y = rng.integers(60, 290, len(SHIFTS)).tolist(), rng.integers(60, 230, len(SHIFTS)).tolist()
    dx, dy = np.array(SHIFTS), np.array(SHIFTS[::-1])
    table, micrographs = make(tmp_path, x, y, dx, dy)
    outs = []
    for name in ("first", "second", "third"):
        outs.append(tmp_path / name)
        result = cryobox.run(table, micrographs=micrographs, out=outs[-1], recipe=RECIPE, options=FAST, root=tmp_path)
        assert result.extracted == len(SHIFTS)
        table = result.tables[0]
    stacks = [[path.read_bytes() for path in sorted((out / "stacks").iterdir())] for out in outs]
    assert stacks[0] == stacks[1] == stacks[2]
    first, second, third = (read_particles(out / f"particles{table.suffix}", recipe=RECIPE) for out in outs)
    for again in (second, third):
        assert np.array_equal(first.x, again.x)
        assert np.array_equal(first.y, again.y)
        assert np.array_equal(first.alignments[0].shift, again.alignments[0].shift)
    left = first.alignments[0].shift * (first.alignments[0].pixel_size / PIXEL_SIZE)[:, None]
    assert np.abs(left).max() <= 0.5 + 1e-3
    whole = np.rint(np.stack([first.y, first.x], axis=1))
    assert np.allclose(whole - left, np.stack([y - dy, x - dx], axis=1), atol=1e-4)
