"""Backgrounds outside tubes, and dust, beside RELION 5's own images: the same pixels, the same set of replaced ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import cryobox
from cryobox import core, reference
from cryobox.core import STATISTICS
from cryobox.formats.images import PixelReader, read_header
from cryobox.options import Recipe
from cryobox.windows import Stored, Windows
from star_tables import columns

ANGSTROM = 2.0  # of a pixel
NEAR = 1e-5  # sd


def pixels(golden: Path) -> NDArray[Any]:
    path = str(golden / "inputs" / "gold.mrc")
    return PixelReader().read(path, read_header(path)).copy()


def of_relion(golden: Path, case: str, side: int) -> NDArray[np.float32]:
    return np.fromfile(golden / case / "inputs" / "gold.mrcs", np.float32, offset=1024).reshape(-1, side, side)


def windows_of(golden: Path, case: str, box: int) -> Windows:
    table = columns(golden / case / "particles.star")
    x, y = (np.trunc([float(value) for value in table[f"_rlnCoordinate{axis}"]]).astype(np.int64) for axis in "XY")
    angle = table.get("_rlnAnglePsiPrior")
    return Windows(
        box=box,
        pad=True,
        corner=np.stack([y, x], axis=1) - box // 2,
        angle=None if angle is None else np.array([float(value) for value in angle]),
    )


def made(
    image: NDArray[Any], windows: Windows, size: int, radius: float, **steps: Any
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    stack = np.empty((len(windows), size, size), np.float32)
    stored = Stored(size=size, dtype="float32", background_radius=radius)
    asked = replace(Recipe(box=windows.box).steps(), **steps)
    _, statistics = core.cut(image, windows, [stored], asked, into=[stack])
    return stack, statistics[0]


HELICES = {"helix_cut": (24, 30), "helix_uncut": (32, 30), "helix_segments": (64, 30), "helix_reextract": (16, 20)}


@pytest.mark.real
@pytest.mark.parametrize("case", HELICES)
def test_the_background_outside_a_tube_is_that_of_relion_5(real_data: Path, case: str) -> None:
    golden = real_data / "relion5"
    box, diameter = HELICES[case]
    windows = windows_of(golden, case, box)
    ours, _ = made(pixels(golden), windows, box, diameter / 2 / ANGSTROM, tube=True)
    theirs = of_relion(golden, case, box)
    assert len(ours) == len(theirs)
    np.testing.assert_allclose(ours, theirs, atol=NEAR)
    round_one, _ = made(pixels(golden), windows, box, int(0.375 * box))
    assert np.abs(round_one - theirs).max() > 1e-3


@pytest.mark.real
def test_a_cropped_tube_keeps_its_radius_where_relion_5_makes_it_nothing(real_data: Path) -> None:
    golden = real_data / "relion5"
    windows = windows_of(golden, "helix_scale", 64)
    theirs = of_relion(golden, "helix_scale", 32)
    radius = 30 / 2 / (2 * ANGSTROM)
    for i, (one, angle) in enumerate(zip(theirs, windows.angle.tolist(), strict=True)):  # type: ignore[union-attr]
        wide, axis = reference.tube_mask(32, angle, radius), reference.tube_mask(32, angle, 0)
        assert abs(one[axis].mean()) < 1e-5, i  # their background is all that is not the axis
        assert abs(one[axis].std() - 1) < 1e-5, i
        ours, _ = made(pixels(golden), windows.take([i]), 32, radius, tube=True, invert=True)
        assert abs(ours[0][wide].mean()) < 1e-5, i
        assert abs(ours[0][wide].std() - 1) < 1e-5, i


DUST: dict[str, tuple[int, dict[str, Any], float]] = {
    "white_dust": (64, {"white_dust": 3.5}, 24),
    "black_dust": (48, {"black_dust": 3.5}, 18),
    "dust_noramp": (32, {"white_dust": 3.5, "black_dust": 3.5, "ramp": False}, 12),
    "helix_dust": (32, {"white_dust": 3.0, "tube": True}, 30 / 2 / ANGSTROM),
}


@pytest.mark.real
@pytest.mark.parametrize("case", DUST)
def test_the_pixels_that_are_dust_are_those_of_relion_5(real_data: Path, case: str) -> None:
    golden = real_data / "relion5"
    box, steps, radius = DUST[case]
    windows = windows_of(golden, case, box)
    if not steps.get("tube"):
        windows = replace(windows, angle=None)
    image, theirs = pixels(golden), of_relion(golden, case, box)
    ours, statistics = made(image, windows, box, radius, **steps)
    i, j = np.mgrid[:box, :box] - box // 2
    counts = []
    for n, (y, x) in enumerate(windows.corner.tolist()):
        raw = reference.window(image, (y, x), box, "pad").astype(np.float64)
        replaced = {}
        for whose, one in (("theirs", theirs[n]), ("ours", ours[n])):
            # What is not replaced is the window less a plane, scaled: found from the middle half of all residuals.
            kept = np.ones(raw.shape, bool)
            for _ in range(6):
                design = np.stack([np.ones(kept.sum()), i[kept], j[kept], one[kept]], axis=1)
                solved, *_ = np.linalg.lstsq(design, raw[kept], rcond=None)
                left = np.abs(raw - (solved[0] + solved[1] * i + solved[2] * j + solved[3] * one))
                kept = left <= max(np.median(left) * 8, 1e-2)
            replaced[whose] = ~kept
        np.testing.assert_array_equal(replaced["ours"], replaced["theirs"])
        counts.append(int(replaced["theirs"].sum()))
        # The rest differs by what a few random pixels do to plane and sd.
        far = np.abs(ours[n] - theirs[n]) / (1 + np.abs(theirs[n]))
        assert far[~replaced["ours"]].max() < 0.01
    assert statistics[:, STATISTICS.index("dust")].tolist() == counts
    assert sum(counts) > 5


@pytest.mark.real
def test_dust_without_normalization_is_refused_where_relion_5_does_nothing_silently(real_data: Path) -> None:
    golden = real_data / "relion5"
    windows = replace(windows_of(golden, "dust_without_norm", 32), angle=None)
    raw, _ = made(pixels(golden), windows, 32, 12, normalize=False)
    np.testing.assert_array_equal(raw, of_relion(golden, "dust_without_norm", 32))
    with pytest.raises(cryobox.OptionError, match="cannot be used without normalize"):
        Recipe(box=32, normalize=False, white_dust=3.0)
