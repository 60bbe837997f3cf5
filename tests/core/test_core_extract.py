"""The public face of the core: arrays in, arrays out, and what it says when it can't."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import cryobox
from cryobox import BackendError, OptionError, core
from synth import micrograph

pytestmark = pytest.mark.usefixtures("device")  # each test runs on all of them

CENTERS = np.array([(40.0, 50.0), (30.7, 44.2), (60.0, 70.0)])


def image_of(dtype: str = "float32") -> NDArray[Any]:
    return micrograph((100, 120), dtype, seed=3)


def test_one_size_gives_an_array_and_two_give_a_tuple() -> None:
    images, kept = core.extract(image_of(), CENTERS, box=32)
    assert images.shape == (3, 32, 32)
    assert images.dtype == np.float32
    assert kept.dtype == np.bool_
    (large, small), _ = core.extract(image_of(), CENTERS, box=32, sizes=(24, 16), dtype="float16")
    assert (large.shape, small.shape) == ((3, 24, 24), (3, 16, 16))
    assert (large.dtype, small.dtype) == (np.float16, np.float16)
    alone, _ = core.extract(image_of(), CENTERS, box=32, sizes=(16,))
    assert alone.shape == (3, 16, 16)


def test_images_are_normalized_and_not_inverted_unless_asked() -> None:
    image = image_of()
    plain, _ = core.extract(image, CENTERS, box=32)
    inverted, _ = core.extract(image, CENTERS, box=32, invert=True)
    raw, _ = core.extract(image, CENTERS, box=32, normalize=False)
    np.testing.assert_array_equal(plain, -inverted)
    np.testing.assert_array_equal(raw[0], image[24:56, 34:66])
    assert np.corrcoef(plain[0].ravel(), raw[0].ravel())[0, 1] > 0.5
    y, x = np.mgrid[:32, :32] - 16
    background = plain[0][y**2 + x**2 > 12**2].astype(np.float64)
    assert background.mean() == pytest.approx(0, abs=1e-6)
    assert background.std() == pytest.approx(1, abs=1e-6)


def test_centers_are_y_x_and_truncated_unless_the_nearest_pixel_is_asked_for() -> None:
    image = image_of()
    truncated, _ = core.extract(image, [(30.7, 44.2)], box=32, normalize=False)
    nearest, _ = core.extract(image, [(30.7, 44.2)], box=32, normalize=False, rounding="nearest")
    np.testing.assert_array_equal(truncated[0], image[14:46, 28:60])
    np.testing.assert_array_equal(nearest[0], image[15:47, 28:60])


def test_what_cannot_be_cut_is_left_out_and_the_mask_says_so() -> None:
    image = image_of()
    image[99, 119] = np.nan
    centers = [(50, 50), (np.nan, 50), (15, 50), (84, 104), (50, np.inf), (50, 60), (1e300, -1e300)]
    images, kept = core.extract(image, centers, box=32)
    assert kept.tolist() == [True, False, False, False, False, True, False]
    assert len(images) == 2
    padded, kept = core.extract(image, centers, box=32, edges="pad")
    assert kept.tolist() == [True, False, True, False, False, True, False]
    np.testing.assert_array_equal(padded[[0, 2]], images)


def test_no_centers_give_no_images() -> None:
    for centers in ([], np.zeros((0, 2)), [(np.nan, 1.0)]):
        images, kept = core.extract(image_of(), centers, box=32, sizes=16)
        assert images.shape == (0, 16, 16)
        assert not kept.any()


@pytest.mark.parametrize("dtype", core.PIXEL_TYPES)
def test_layout_and_byte_order_do_not_matter(dtype: str) -> None:
    image = image_of(dtype)
    expected, _ = core.extract(image, CENTERS, box=32, sizes=16)
    wide = np.zeros((100, 300), dtype)
    wide[:, 5:245:2] = image
    for same in (image.astype(image.dtype.newbyteorder(">")), np.asfortranarray(image), wide[:, 5:245:2]):
        images, _ = core.extract(same, CENTERS, box=32, sizes=16)
        np.testing.assert_array_equal(images, expected)


def test_the_image_is_not_copied_where_it_can_be_read_as_it_lies() -> None:
    image = image_of()
    part = image[3:, 5:]
    assert core._readable(part) is part
    assert core._readable(part.T).flags.c_contiguous


@pytest.mark.parametrize("dtype", ["float64", "int32", "uint32", "int64", "bool", "complex64"])
def test_other_pixel_types_are_refused_with_what_to_do(dtype: str) -> None:
    with pytest.raises(OptionError, match=rf"one of int8, .*, float32; got {dtype}: use image.astype\('float32'\)"):
        core.extract(np.zeros((100, 120), dtype), CENTERS, box=32)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"box": 31}, "box must be an even number of pixels, at least 2; got 31"),
        ({"sizes": 64}, "a stored size cannot exceed the box"),
        ({"sizes": (16, 24)}, "largest first"),
        ({"background_radius": 16.0}, "background radius must be at least 1 and less than half"),
        ({"edges": "wrap"}, "edges must be one of reject, pad"),
        ({"rounding": "floor"}, "rounding must be one of"),
        ({"dtype": "float64"}, "dtype must be one of float32, float16"),
        ({"scale_const": 0.0}, "scale_const must be a positive number"),
        ({"threads": 0}, "threads must be at least 1; got 0"),
        ({"centers": [(1.0, 2.0, 3.0)]}, r"centers must have the shape \(n, 2\), as \(y, x\); got \(1, 3\)"),
        ({"centers": "here"}, "centers must be numbers"),
        ({"image": [[1.0]]}, "image must be a NumPy array; got list"),
        ({"image": np.zeros((2, 100, 120), np.float32)}, "image must have 2 dimensions"),
    ],
)
def test_wrong_arguments_are_named(change: dict[str, Any], why: str) -> None:
    arguments: dict[str, Any] = {"image": image_of(), "centers": CENTERS, "box": 32} | change
    with pytest.raises(OptionError, match=why):
        core.extract(arguments.pop("image"), arguments.pop("centers"), **arguments)


def test_a_device_that_this_build_lacks_is_an_error_of_the_backend() -> None:
    with pytest.raises(BackendError, match="'tpu:0'"):
        core.extract(image_of(), CENTERS, box=32, device="tpu:0")


def test_the_background_radius_is_scaled_to_the_second_size() -> None:
    image = image_of()
    (_, small), _ = core.extract(image, CENTERS, box=32, sizes=(32, 16), background_radius=10)
    alone, _ = core.extract(image, CENTERS, box=32, sizes=16, background_radius=5)
    np.testing.assert_array_equal(small, alone)


def test_many_python_threads_at_once_get_the_bits_of_one() -> None:
    image = image_of("uint16")
    results: dict[int, NDArray[Any]] = {}

    def work(i: int) -> None:
        results[i], _ = core.extract(image, CENTERS, box=32 + 2 * (i % 3), sizes=16, threads=1 + i % 2)

    callers = [threading.Thread(target=work, args=(i,)) for i in range(12)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    for i in range(12):
        expected, _ = core.extract(image, CENTERS, box=32 + 2 * (i % 3), sizes=16)
        np.testing.assert_array_equal(results[i], expected)


def test_fourier_crop_keeps_rank_and_gray_levels() -> None:
    images = np.stack([micrograph((48, 48), "float32", seed=seed) for seed in range(3)])
    cropped = core.fourier_crop(images, 20)
    assert cropped.shape == (3, 20, 20)
    np.testing.assert_array_equal(core.fourier_crop(images[1], 20), cropped[1])
    np.testing.assert_allclose(cropped.mean(axis=(1, 2)), images.mean(axis=(1, 2)), rtol=1e-5)
    same = core.fourier_crop(images, 48)
    np.testing.assert_array_equal(same, images)
    assert not np.shares_memory(same, images)
    np.testing.assert_array_equal(core.fourier_crop(images.astype(">f4"), 20, threads=2), cropped)
    assert core.fourier_crop(images[:0], 20).shape == (0, 20, 20)


def test_an_image_that_is_not_finite_becomes_nan_and_its_neighbors_stay() -> None:
    images = np.stack([micrograph((48, 48), "float32", seed=seed) for seed in range(3)])
    expected = core.fourier_crop(images, 20)
    images[1, 5, 5] = np.inf
    cropped = core.fourier_crop(images, 20)
    assert np.isnan(cropped[1]).all()
    np.testing.assert_array_equal(cropped[[0, 2]], expected[[0, 2]])


@pytest.mark.parametrize(
    ("images", "size", "why"),
    [
        (np.zeros((8, 8)), 4, r"images must be a float32 array; got an array of float64: use images.astype"),
        (np.zeros((8, 6), np.float32), 4, r"shape \(n, side, side\) or \(side, side\); got \(8, 6\)"),
        (np.zeros(8, np.float32), 4, "shape"),
        (np.zeros((7, 7), np.float32), 4, "the side of the images must be an even number"),
        (np.zeros((8, 8), np.float32), 3, "size must be an even number of pixels"),
        (np.zeros((8, 8), np.float32), 10, "got size 10 for images of 8 pixels"),
    ],
)
def test_fourier_crop_names_what_is_wrong(images: NDArray[Any], size: int, why: str) -> None:
    with pytest.raises(OptionError, match=why):
        core.fourier_crop(images, size)


def test_the_package_offers_the_same_functions() -> None:
    assert cryobox.extract is core.extract
    assert cryobox.fourier_crop is core.fourier_crop
