"""Micrographs whose gray levels leave the range in which sums of float32 numbers are right: subnormal, or near 1e38."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import cutting
from cryobox import core, reference
from cryobox.core import STATISTICS, Status
from synth import TOLERANCE, corners_inside, micrograph

pytestmark = pytest.mark.usefixtures("device")  # each test runs on all of them

SCALES = (1e-44, 1e-42, 1e-40, 1e-38, 1e-36, 1e-28, 1e-27, 1e27, 1e28, 1e36, 1e37)
SPACING = 2.0**-149  # between subnormal numbers; an image that is stored so cannot be nearer than half of it
SIZES = (64, 32)
RADII = [24.0, 12.0]


def scaled(scale: float, mean: float) -> NDArray[np.float32]:
    return (micrograph((96, 100), "float32", seed=4, mean=mean, sd=1.0).astype(np.float64) * scale).astype(np.float32)


def cut(
    image: NDArray[Any], corners: NDArray[np.int64], dtype: str = "float32", **options: Any
) -> tuple[list[NDArray[Any]], NDArray[np.uint8], NDArray[np.float64]]:
    stacks = [np.full((len(corners), size, size), 7.0, dtype) for size in SIZES]
    given = {"pad": True} | options
    status, statistics = cutting.cut(image, corners, stacks, box=64, radii=RADII, threads=1, **given)
    return stacks, status, statistics


CORNERS = np.concatenate([corners_inside((96, 100), 64, 3, seed=1), [(-9, 70)]])


@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("mean", [0.0, 5.0])
@pytest.mark.parametrize("scale", SCALES)
def test_images_agree_with_the_oracle_at_any_gray_level(
    scale: float, mean: float, normalize: bool, byte_order: str
) -> None:
    image = scaled(scale, mean).astype(f"{byte_order}f4")
    stacks, status, statistics = cut(image, CORNERS, normalize=normalize)
    expected, _ = reference.extract(image, CORNERS, box=64, sizes=SIZES, radii=RADII, edges="pad", normalize=normalize)
    assert (status == Status.OK).all()
    for stack, oracle, numbers in zip(stacks, expected, statistics, strict=True):
        allowed = TOLERANCE["float32"] * np.abs(oracle).max(axis=(1, 2)) + SPACING
        assert (np.abs(stack - oracle).max(axis=(1, 2)) <= allowed).all()
        found = dict(zip(STATISTICS, numbers.T, strict=True))
        np.testing.assert_allclose(found["minimum"], oracle.min(axis=(1, 2)), rtol=1e-4, atol=SPACING)
        np.testing.assert_allclose(found["sd"], oracle.std(axis=(1, 2)), rtol=1e-4, atol=SPACING)
        if normalize:
            outer = reference.background_mask(stack.shape[1], RADII[SIZES.index(stack.shape[1])])
            windows = [reference.window(image, (int(y), int(x)), 64, "pad") for y, x in CORNERS]
            background = [reference.fourier_crop(window, stack.shape[1])[outer].mean() for window in windows]
            np.testing.assert_allclose(found["background_mean"], background, rtol=1e-4, atol=1e-4 * scale)


def test_a_power_of_two_more_changes_no_bit_of_a_normalized_image() -> None:
    plain, _, _ = cut(micrograph((96, 100), "float32", seed=4), CORNERS)
    image = micrograph((96, 100), "float32", seed=4)
    for exponent in (-120, -100, 100, 120):
        found, status, _ = cut(np.ldexp(image, exponent), CORNERS)
        assert (status == Status.OK).all()
        for stack, expected in zip(found, plain, strict=True):
            np.testing.assert_allclose(stack, expected, atol=TOLERANCE["float32"] * np.abs(expected).max())


def test_a_constant_divisor_divides_at_any_gray_level() -> None:
    image = scaled(1e37, 0.0)
    stacks, status, _ = cut(image, CORNERS, scale_const=1e30)
    expected, _ = reference.extract(image, CORNERS, box=64, sizes=SIZES, radii=RADII, edges="pad", scale_const=1e30)
    assert (status == Status.OK).all()
    for stack, oracle in zip(stacks, expected, strict=True):
        assert np.abs(stack - oracle).max() <= 2 * TOLERANCE["float32"] * np.abs(oracle).max()


def test_float16_clamps_and_counts_gray_levels_that_it_cannot_hold() -> None:
    image = scaled(1e36, 0.0)
    stacks, status, statistics = cut(image, CORNERS, "float16", normalize=False)
    assert (status == Status.OK).all()
    for stack, numbers in zip(stacks, statistics, strict=True):
        assert np.isfinite(stack).all()
        assert numbers[:, STATISTICS.index("clamped")].tolist() == [math.prod(stack.shape[1:])] * len(stack)
        assert set(np.abs(stack).ravel()) == {65504.0}


def test_an_image_that_no_float32_can_hold_is_refused_and_zeros() -> None:
    image = np.where(np.add.outer(np.arange(96), np.arange(100)) % 13 < 6, 3.4e38, -3.4e38).astype(np.float32)
    stacks, status, _ = cut(image, CORNERS, normalize=False)
    assert (status == Status.NOT_FINITE).all(), "the crop rings beyond the largest float32"
    assert not any(stack.any() for stack in stacks)


def test_only_the_particles_that_need_it_are_cut_otherwise() -> None:
    image = micrograph((200, 100), "float32", seed=8)
    image[:70] *= np.float32(1e-40)
    corners = np.array([(2, 10), (100, 20)])
    stacks, status, _ = cut(image, corners)
    alone, _, _ = cut(image, corners[1:])
    assert (status == Status.OK).all()
    for stack, expected in zip(stacks, alone, strict=True):
        np.testing.assert_array_equal(stack[1:], expected)


def test_what_is_not_finite_or_has_no_contrast_stays_refused() -> None:
    image = np.full((200, 100), 1e37, np.float32)
    image[150, 50] = np.nan
    _, status, _ = cut(image, np.array([(2, 10), (100, 20)]))
    assert status.tolist() == [Status.NO_CONTRAST, Status.NOT_FINITE]


@pytest.mark.parametrize("scale", SCALES)
def test_a_crop_of_images_agrees_with_the_oracle_at_any_gray_level(scale: float) -> None:
    images = np.stack([scaled(scale, 0.0)[:64, :64], micrograph((64, 64), "float32", seed=2)])
    found = core.fourier_crop(images, 32)
    for image, cropped in zip(images, found, strict=True):
        oracle = reference.fourier_crop(image, 32)
        assert np.abs(cropped - oracle).max() <= TOLERANCE["float32"] * np.abs(oracle).max() + SPACING
