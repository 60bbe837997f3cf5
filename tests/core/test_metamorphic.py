"""What must not change, or change in a known way, when the micrograph or its picks do: checks that need no oracle."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import cutting
from cryobox import core
from cryobox.core import Status
from synth import corners_inside, micrograph

pytestmark = pytest.mark.usefixtures("device")  # each test runs on all of them

SHAPE = (110, 120)
BOX = 64
CORNERS = corners_inside(SHAPE, BOX, 8)
SIZES = ((64,), (30,), (64, 16))


def cut(image: NDArray[Any], corners: NDArray[np.int64] = CORNERS, **options: Any) -> list[NDArray[np.float32]]:
    """Stacks of windows that are all accepted."""
    arguments: dict[str, Any] = {
        "box": BOX,
        "sizes": (BOX,),
        "pad": False,
        "threads": 1,
    } | options
    sizes = arguments.pop("sizes")
    stacks = [np.empty((len(corners), size, size), np.float32) for size in sizes]
    status, _ = cutting.cut(image, corners, stacks, radii=[int(0.375 * size) for size in sizes], **arguments)
    assert (status == Status.OK).all()
    return stacks


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 60), st.integers(0, 60), st.sampled_from(SIZES), st.booleans())
def test_shifting_the_micrograph_and_its_picks_changes_no_bit(
    down: int, right: int, sizes: tuple[int, ...], normalize: bool
) -> None:
    image = micrograph(SHAPE, "uint16", seed=1)
    frame = micrograph((SHAPE[0] + 60, SHAPE[1] + 60), "uint16", seed=2)
    frame[down : down + SHAPE[0], right : right + SHAPE[1]] = image
    here = cut(image, sizes=sizes, normalize=normalize)
    there = cut(frame, CORNERS + np.array((down, right)), sizes=sizes, normalize=normalize)
    for a, b in zip(here, there, strict=True):
        np.testing.assert_array_equal(a, b)


@settings(max_examples=20, deadline=None)
@given(st.booleans(), st.booleans(), st.integers(0, 99))
def test_mirroring_the_micrograph_and_its_centers_mirrors_the_particles_about_the_center(
    flip_y: bool, flip_x: bool, seed: int
) -> None:
    image = micrograph(SHAPE, "float32", seed=seed)
    centers = CORNERS[4:] + BOX // 2
    mirrored, mirrored_centers = image, centers.copy()
    if flip_y:
        mirrored = mirrored[::-1]
        mirrored_centers[:, 0] = SHAPE[0] - 1 - centers[:, 0]
    if flip_x:
        mirrored = mirrored[:, ::-1]
        mirrored_centers[:, 1] = SHAPE[1] - 1 - centers[:, 1]
    # A mirrored even box may reach one pixel further; padding lets it.
    (plain,) = cut(image, centers - BOX // 2, normalize=False, pad=True)
    (other,) = cut(np.ascontiguousarray(mirrored), mirrored_centers - BOX // 2, normalize=False, pad=True)
    # Row and column 0 have no partner about index BOX/2.
    plain, other = plain[:, 1:, 1:], other[:, 1:, 1:]
    back = other[:, :: -1 if flip_y else 1, :: -1 if flip_x else 1]
    np.testing.assert_allclose(back, plain, rtol=0, atol=1e-6 * np.abs(plain).max())


@pytest.mark.parametrize("sizes", SIZES)
def test_transposing_the_micrograph_and_its_picks_transposes_the_particles(sizes: tuple[int, ...]) -> None:
    image = micrograph(SHAPE, "float32", seed=3)
    here = cut(image, sizes=sizes)
    there = cut(np.ascontiguousarray(image.T), np.ascontiguousarray(CORNERS[:, ::-1]), sizes=sizes)
    for a, b in zip(here, there, strict=True):
        np.testing.assert_allclose(b.transpose(0, 2, 1), a, rtol=0, atol=3e-6 * np.abs(a).max())


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 60), st.data())
def test_cropping_in_two_steps_equals_cropping_in_one(half: int, data: st.DataObject) -> None:
    n = 2 * half
    middle = 2 * data.draw(st.integers(1, half))
    last = 2 * data.draw(st.integers(1, middle // 2))
    image = micrograph((n, n), "float32", seed=n, mean=0.0, sd=1.0)[None]
    once = core.fourier_crop(image, last)
    twice = core.fourier_crop(core.fourier_crop(image, middle), last)
    np.testing.assert_allclose(twice, once, rtol=0, atol=3e-6 * np.abs(image).max())


@settings(max_examples=30, deadline=None)
@given(st.floats(-2, 2), st.floats(-2, 2), st.floats(-500, 500))
def test_a_plane_on_the_micrograph_changes_no_normalized_uncropped_image(
    slope_y: float, slope_x: float, level: float
) -> None:
    image = micrograph(SHAPE, "float32", seed=4, mean=0.0, sd=10.0)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    sloped = (image + slope_y * y + slope_x * x + level).astype(np.float32)
    (plain,), (other,) = cut(image), cut(sloped)
    # The sum was rounded to float32 when the sloped micrograph was made: half a unit in the last place of about 1000.
    np.testing.assert_allclose(other, plain, rtol=0, atol=np.spacing(np.float32(1000)) / 5)


@settings(max_examples=30, deadline=None)
@given(st.floats(1e-3, 1e3), st.sampled_from(SIZES), st.booleans())
def test_scaling_gray_values_changes_no_normalized_image(factor: float, sizes: tuple[int, ...], ramp: bool) -> None:
    image = micrograph(SHAPE, "float32", seed=5)
    scaled = (image.astype(np.float64) * factor).astype(np.float32)
    for a, b in zip(cut(image, sizes=sizes, ramp=ramp), cut(scaled, sizes=sizes, ramp=ramp), strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=5e-6 * np.abs(a).max())


@pytest.mark.parametrize("factor", [2.0**-100, 0.25, 2.0**20, 2.0**90])
def test_scaling_by_a_power_of_two_changes_hardly_a_bit(factor: float) -> None:
    image = micrograph(SHAPE, "float32", seed=6)
    scaled = image * np.float32(factor)
    for a, b in zip(cut(image, sizes=(64, 30)), cut(scaled, sizes=(64, 30)), strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=3e-7 * np.abs(a).max())


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(len(CORNERS))))
def test_the_order_of_picks_changes_only_the_order_of_images(order: list[int]) -> None:
    image = micrograph(SHAPE, "float32", seed=7)
    for a, b in zip(cut(image, sizes=(64, 30)), cut(image, CORNERS[order], sizes=(64, 30)), strict=True):
        np.testing.assert_array_equal(b, a[order])


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("sizes", SIZES)
def test_inverting_changes_nothing_but_the_sign(sizes: tuple[int, ...], normalize: bool) -> None:
    image = micrograph(SHAPE, "float32", seed=8)
    plain = cut(image, sizes=sizes, normalize=normalize)
    inverted = cut(image, sizes=sizes, normalize=normalize, invert=True)
    for a, b in zip(plain, inverted, strict=True):
        np.testing.assert_array_equal(b, -a)


@pytest.mark.parametrize("normalize", [True, False])
def test_padding_changes_no_bit_of_a_box_that_lies_inside(normalize: bool) -> None:
    image = micrograph(SHAPE, "int16", seed=9)
    for a, b in zip(
        cut(image, sizes=(64, 30), normalize=normalize),
        cut(image, sizes=(64, 30), normalize=normalize, pad=True),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


@settings(max_examples=40, deadline=None)
@given(st.integers(-60, 105), st.integers(-60, 115), st.sampled_from(["uint8", "int16", "float16", "float32"]))
def test_padding_is_extraction_from_a_micrograph_that_was_padded_before(y: int, x: int, dtype: str) -> None:
    image = micrograph(SHAPE, dtype, seed=10)
    corner = np.array([(y, x)])
    (padded,) = cut(image, corner, sizes=(30,), pad=True, normalize=False)
    (before,) = cut(np.pad(image, BOX, mode="edge"), corner + BOX, sizes=(30,), normalize=False)
    np.testing.assert_array_equal(padded, before)


@pytest.mark.parametrize("size", [62, 30, 4])
def test_a_crop_keeps_the_mean(size: int) -> None:
    image = micrograph(SHAPE, "float32", seed=11, mean=6800.0, sd=6.8)
    (whole,), (cropped,) = cut(image, normalize=False), cut(image, sizes=(size,), normalize=False)
    np.testing.assert_allclose(
        cropped.astype(np.float64).mean(axis=(1, 2)), whole.astype(np.float64).mean(axis=(1, 2)), rtol=2e-7
    )


@pytest.mark.parametrize("size", [2, 8, 16, 32])
def test_a_centered_point_stays_at_the_center_of_every_size(size: int) -> None:
    image = np.zeros((1, 64, 64), np.float32)
    image[0, 32, 32] = 1.0
    cropped = core.fourier_crop(image, size)[0]
    assert cropped.argmax() == size // 2 * size + size // 2
    mirrored = cropped[1:, 1:]
    np.testing.assert_allclose(mirrored, mirrored[::-1, ::-1], rtol=0, atol=1e-9)
