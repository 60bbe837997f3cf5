"""Hot pixels of a micrograph: found and repaired as the literal twin does it, in every type; a real one beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cryobox import core, reference
from cryobox.errors import OptionError
from cryobox.formats.images import PixelReader, read_header
from synth import PIXEL_TYPES, ByteOrder, micrograph, stored


def with_hot_pixels(shape: tuple[int, int], dtype: str, seed: int) -> NDArray[Any]:
    """A micrograph with single hot pixels, pairs, a bright patch that is none, and some at the edges."""
    image, rng = micrograph(shape, dtype, seed=seed), np.random.default_rng(seed)
    top = 127 if dtype == "int8" else 255 if dtype == "uint8" else 60000 if dtype == "uint16" else 30000
    for _ in range(12):
        y, x = int(rng.integers(0, shape[0])), int(rng.integers(0, shape[1]))
        image[y, x : x + rng.integers(1, 3)] = top
    image[0, 0] = image[-1, -1] = top
    y, x = shape[0] // 2, shape[1] // 2
    image[y : y + 9, x : x + 9] = top
    return image


@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("dtype", PIXEL_TYPES)
@pytest.mark.parametrize("threshold", [2.0, 3.5])
def test_every_pixel_type_and_byte_order_is_repaired_alike(dtype: str, byte_order: ByteOrder, threshold: float) -> None:
    image = stored(with_hot_pixels((150, 170), dtype, 1), byte_order=byte_order, padding=3)  # more than the sample
    expected, count = reference.repair_hot_pixels(image, threshold, 2**63 + 9)
    assert count > 5
    assert core.repair_hot_pixels(image, threshold, seed=2**63 + 9) == count
    np.testing.assert_array_equal(image, expected)
    patch = image[75:84, 85:94].astype(float)
    assert (patch[2:7, 2:7] == patch.max()).all()  # what is wide is no hot pixel


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.floats(0.1, 9), st.integers(0, 2**64 - 1))
def test_any_shape_agrees_and_numbers_that_are_not_finite_stay(ny: int, nx: int, threshold: float, seed: int) -> None:
    rng = np.random.default_rng(seed % 1000)
    image = rng.normal(5, 1, (ny, nx)).astype(np.float32)
    image.flat[rng.integers(0, image.size)] = rng.choice([50.0, np.nan, np.inf, -np.inf])
    image.flat[rng.integers(0, image.size)] = 40.0
    expected, count = reference.repair_hot_pixels(image, threshold, seed)
    assert core.repair_hot_pixels(image, threshold, seed=seed) == count
    np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize("image", [np.full((40, 50), 7, np.int16), np.zeros((0, 5), np.float32)])
def test_where_nothing_varies_nothing_is_hot(image: NDArray[Any]) -> None:
    assert core.repair_hot_pixels(image, 5.0) == 0


def test_counts_most_of_which_are_zero_still_have_a_spread() -> None:
    image = (np.random.default_rng(2).random((200, 200)) < 0.2).astype(np.uint8)
    image[20, 30] = 200
    assert core.repair_hot_pixels(image, 8.0) == 1
    assert image[20, 30] <= 1


@pytest.mark.parametrize("threshold", [0.0, -1.0, np.nan, np.inf])
def test_a_threshold_that_is_none_is_refused(threshold: float) -> None:
    with pytest.raises(OptionError, match="threshold of hot pixels must be a positive number"):
        core.repair_hot_pixels(np.zeros((4, 4), np.float32), threshold)


@pytest.mark.real
def test_the_hot_pixels_of_a_real_detector_are_gone(real_data: Path) -> None:
    path = str(real_data / "micrographs" / "fei-extended.mrc")
    image = PixelReader().read(path, read_header(path)).copy()
    assert image.max() == 45804
    expected, count = reference.repair_hot_pixels(image, 8.0, 4)
    before = image.copy()
    assert core.repair_hot_pixels(image, 8.0, seed=4) == count
    assert 20 < count < 500
    np.testing.assert_array_equal(image, expected)
    assert image.max() < 12000
    changed = before != image
    assert changed.sum() == count
    assert abs(float(image.mean()) - float(before.mean())) < 1
