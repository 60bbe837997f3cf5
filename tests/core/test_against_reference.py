"""The compiled core against the float64 oracle: every pixel type, layout, box, crop and option."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import cutting
from cryobox import core, reference
from cryobox.core import STATISTICS, Status
from synth import PIXEL_TYPES, TOLERANCE, ByteOrder, corners_inside, micrograph, stored

pytestmark = pytest.mark.usefixtures("device")  # each test runs on all of them

Edges = Literal["reject", "pad"]

STATUS_OF_WORD = {
    reference.OK: Status.OK,
    reference.EDGE: Status.OUTSIDE,
    reference.OUTSIDE: Status.OUTSIDE,
    reference.NOT_FINITE: Status.NOT_FINITE,
    reference.NO_CONTRAST: Status.NO_CONTRAST,
}


def cut(
    image: NDArray[Any],
    corners: NDArray[np.int64],
    *,
    box: int,
    sizes: Sequence[int],
    radii: Sequence[float] | None = None,
    edges: Edges = "reject",
    dtype: str = "float32",
    threads: int = 1,
    **steps: Any,
) -> tuple[list[NDArray[Any]], NDArray[np.uint8], NDArray[np.float64]]:
    """The core's images, status and statistics, by fields of `Steps`; the images' memory is full of other numbers."""
    stacks = [np.full((len(corners), size, size), 123.0, dtype) for size in sizes]
    status, statistics = cutting.cut(
        image,
        corners,
        stacks,
        box=box,
        radii=[int(0.375 * size) for size in sizes] if radii is None else radii,
        pad=edges == "pad",
        threads=threads,
        **steps,
    )
    return stacks, status, statistics


def assert_agrees(image: NDArray[Any], corners: NDArray[np.int64], *, sizes: Sequence[int], **options: Any) -> None:
    """The core's float32 images and status are the oracle's."""
    radii = options.pop("radii", [int(0.375 * size) for size in sizes])
    stacks, status, _ = cut(image, corners, sizes=sizes, radii=radii, **options)
    expected, words = reference.extract(image, corners, sizes=sizes, radii=radii, **options)
    assert status.tolist() == [STATUS_OF_WORD[word] for word in words]
    for stack, oracle in zip(stacks, expected, strict=True):
        error = np.abs(stack - oracle).max(axis=(1, 2), initial=0)
        allowed = TOLERANCE["float32"] * np.abs(oracle).max(axis=(1, 2), initial=0)
        assert (error <= allowed).all(), f"{(error / np.maximum(allowed, 1e-300)).max():.2f} times the tolerance"


@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("dtype", PIXEL_TYPES)
def test_every_pixel_type_layout_and_byte_order_agrees(dtype: str, byte_order: ByteOrder, padding: int) -> None:
    image = stored(micrograph((90, 101), dtype, seed=1), byte_order=byte_order, padding=padding)
    assert_agrees(image, corners_inside((90, 101), 48, 7), box=48, sizes=(48, 20))


BOXES_AND_SIZES = [
    (4, (4,)),
    (6, (4,)),
    (34, (34, 22)),  # 2 * 17 and 2 * 11
    (62, (62, 60)),  # 2 * 31, M = N - 2
    (64, (64, 32)),
    (64, (62,)),
    (96, (64, 4)),
    (128, (128, 64)),
    (118, (106,)),  # 2 * 59 to 2 * 53
    (254, (254, 126)),
    (254, (252, 34)),
    (256, (64,)),
    (256, (256, 128)),
    (334, (166,)),  # 2 * 167 to 2 * 83
    (400, (128, 64)),
]


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize(("box", "sizes"), BOXES_AND_SIZES)
def test_fast_and_awkward_boxes_and_crops_agree(box: int, sizes: tuple[int, ...], normalize: bool) -> None:
    shape = (box + 13, box + 30)
    image = micrograph(shape, "float32", seed=box)
    assert_agrees(image, corners_inside(shape, box, 4), box=box, sizes=sizes, normalize=normalize)


@pytest.mark.parametrize("box", [2, 4, 50])
def test_a_crop_to_two_pixels_agrees(box: int) -> None:
    image = micrograph((60, 61), "float32", seed=box)
    assert_agrees(image, corners_inside((60, 61), box, 5), box=box, sizes=(2,), normalize=False, radii=[1.0])


@pytest.mark.parametrize("size", [128, 126, 48])
@pytest.mark.parametrize(
    ("dtype", "mean", "sd"), [("float32", 6800.0, 6.8), ("float32", -1e6, 1e3), ("uint16", 4e4, 40)]
)
def test_a_mean_a_thousand_times_the_sd_costs_no_accuracy(dtype: str, mean: float, sd: float, size: int) -> None:
    image = micrograph((200, 210), dtype, seed=3, mean=mean, sd=sd)
    assert_agrees(image, corners_inside((200, 210), 128, 6), box=128, sizes=(size,))


@pytest.mark.parametrize("edges", ["reject", "pad"])
@pytest.mark.parametrize("ramp", [True, False])
@pytest.mark.parametrize("invert", [True, False])
@pytest.mark.parametrize("scale_const", [None, 3.7])
def test_every_combination_of_options_agrees(ramp: bool, invert: bool, scale_const: float | None, edges: Edges) -> None:
    image = micrograph((70, 80), "int16", seed=4)
    corners = np.array([(0, 0), (38, 48), (-5, 10), (39, 10), (20, 49), (-30, -30), (-32, 0), (70, 0), (10, 80)])
    assert_agrees(
        image,
        corners,
        box=32,
        sizes=(32, 16),
        radii=[12.5, 6.25],
        ramp=ramp,
        invert=invert,
        scale_const=scale_const,
        edges=edges,
    )


@pytest.mark.parametrize("edges", ["reject", "pad"])
@pytest.mark.parametrize("invert", [True, False])
def test_gray_levels_that_stay_agree(invert: bool, edges: Edges) -> None:
    image = micrograph((50, 40), "uint16", seed=5)
    corners = np.array([(0, 0), (-10, 15), (26, 20), (40, 30)])
    assert_agrees(image, corners, box=24, sizes=(24, 12), normalize=False, invert=invert, edges=edges)


def test_a_box_larger_than_the_micrograph_is_outside_or_padded_on_all_sides() -> None:
    image = micrograph((20, 30), "float32", seed=6)
    corners = np.array([(-10, -5), (0, 0), (-20, -20)])
    assert_agrees(image, corners, box=40, sizes=(40, 20), edges="reject")
    assert_agrees(image, corners, box=40, sizes=(40, 20), edges="pad")


@st.composite
def cases(draw: st.DrawFn) -> tuple[NDArray[Any], NDArray[np.int64], dict[str, Any]]:
    box = 2 * draw(st.integers(2, 24))
    size = 2 * draw(st.integers(2, box // 2))
    second = 2 * draw(st.integers(2, size // 2))
    shape = (draw(st.integers(1, 70)), draw(st.integers(1, 70)))
    image = stored(
        micrograph(shape, draw(st.sampled_from(PIXEL_TYPES)), seed=draw(st.integers(0, 99))),
        byte_order=draw(st.sampled_from(["<", ">"])),
        padding=draw(st.integers(0, 2)),
    )
    position = st.tuples(st.integers(-box - 1, shape[0] + 1), st.integers(-box - 1, shape[1] + 1))
    corners = np.array(draw(st.lists(position, min_size=1, max_size=4)), np.int64)
    options = {
        "box": box,
        "sizes": (size,) if second == size or draw(st.booleans()) else (size, second),
        "normalize": draw(st.booleans()),
        "ramp": draw(st.booleans()),
        "invert": draw(st.booleans()),
        "edges": draw(st.sampled_from(["reject", "pad"])),
    }
    return image, corners, options


@settings(max_examples=150, deadline=None)
@given(cases())
def test_any_shape_and_position_agrees(case: tuple[NDArray[Any], NDArray[np.int64], dict[str, Any]]) -> None:
    image, corners, options = case
    if options["normalize"]:
        # Where padding leaves a background that is flat, or an exact plane, float32 has only rounding to normalize.
        for corner in corners:
            assume(well_conditioned(image, corner, options))
    assert_agrees(image, corners, **options)


def well_conditioned(image: NDArray[Any], corner: NDArray[np.int64], options: dict[str, Any]) -> bool:
    """Whether what normalization leaves of the background is at least a twentieth of what it was given."""
    edges, box = options["edges"], options["box"]
    where = (int(corner[0]), int(corner[1]))
    if reference.edge_status((image.shape[0], image.shape[1]), where, box, edges) != reference.OK:
        return True
    pixels = reference.window(image, where, box, edges)
    for size in options["sizes"]:
        radius = int(0.375 * size)
        cropped = reference.fourier_crop(pixels - pixels.mean(), size)
        flat = reference.normalize(cropped, radius, ramp=options["ramp"], scale_const=1.0)
        if flat is None or flat[reference.background_mask(size, radius)].std() < 0.05 * np.abs(pixels).std():
            return False
    return True


# float16 -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "uint16"])
def test_float16_is_the_float32_image_rounded_to_nearest_even(dtype: str, normalize: bool) -> None:
    image = micrograph((150, 160), dtype, seed=7)
    corners = corners_inside((150, 160), 96, 9)
    options: dict[str, Any] = {"box": 96, "sizes": (96, 40), "normalize": normalize}
    wide, status, statistics = cut(image, corners, **options)
    narrow, narrow_status, narrow_statistics = cut(image, corners, dtype="float16", **options)
    for float32, float16 in zip(wide, narrow, strict=True):
        np.testing.assert_array_equal(float16.view(np.uint16), float32.astype(np.float16).view(np.uint16))
    np.testing.assert_array_equal(status, narrow_status)
    np.testing.assert_array_equal(statistics, narrow_statistics)


def test_tiny_values_become_subnormal_float16() -> None:
    image = micrograph((40, 40), "float32", seed=8, mean=0.0, sd=1e-6)
    corners = np.array([(3, 4)])
    (wide,), *_ = cut(image, corners, box=32, sizes=(32,), normalize=False)
    (narrow,), *_ = cut(image, corners, box=32, sizes=(32,), normalize=False, dtype="float16")
    np.testing.assert_array_equal(narrow.view(np.uint16), wide.astype(np.float16).view(np.uint16))
    assert 0 < np.abs(narrow[narrow != 0]).min() < 6e-5


def test_values_beyond_float16_are_clamped_and_counted() -> None:
    image = np.full((20, 20), 100.0, np.float32)
    image[4, 4:7] = 70000.0, -1e9, 65504.0
    (stack,), _, statistics = cut(
        image, np.array([(0, 0), (5, 0)]), box=14, sizes=(14,), normalize=False, dtype="float16"
    )
    np.testing.assert_array_equal(stack[0, 4, 4:6], [65504.0, -65504.0])
    assert np.isfinite(stack).all()
    assert statistics[0, :, STATISTICS.index("clamped")].tolist() == [2, 0]


# Statistics ----------------------------------------------------------------------------------------------------------


def test_the_statistics_are_those_of_the_images() -> None:
    image = micrograph((90, 90), "float32", seed=9)
    stacks, _, statistics = cut(image, corners_inside((90, 90), 60, 5), box=60, sizes=(60, 30), invert=True)
    columns = {name: statistics[:, :, index] for index, name in enumerate(STATISTICS)}
    for i, stack in enumerate(stacks):
        wide = stack.astype(np.float64)
        np.testing.assert_array_equal(columns["minimum"][i], wide.min(axis=(1, 2)))
        np.testing.assert_array_equal(columns["maximum"][i], wide.max(axis=(1, 2)))
        np.testing.assert_allclose(columns["mean"][i], wide.mean(axis=(1, 2)), atol=1e-9)
        np.testing.assert_allclose(columns["sd"][i], wide.std(axis=(1, 2)), rtol=1e-9)


@pytest.mark.parametrize("ramp", [True, False])
def test_the_background_is_reported_in_gray_levels(ramp: bool) -> None:
    image = micrograph((90, 90), "uint16", seed=10)
    corners = corners_inside((90, 90), 60, 5)
    _, _, statistics = cut(image, corners, box=60, sizes=(60, 30), ramp=ramp)
    for i, (size, radius) in enumerate([(60, 22), (30, 11)]):
        mask = reference.background_mask(size, radius)
        for j, (y, x) in enumerate(corners):
            pixels = reference.fourier_crop(image[y : y + 60, x : x + 60], size)
            scaled = reference.normalize(pixels, radius, ramp=ramp, scale_const=1.0)
            assert scaled is not None
            sd = scaled[mask].std()
            assert statistics[i, j, STATISTICS.index("background_mean")] == pytest.approx(pixels[mask].mean(), rel=1e-6)
            assert statistics[i, j, STATISTICS.index("background_sd")] == pytest.approx(sd, rel=1e-5)


# Rejected ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_windows_that_are_not_finite_are_rejected_as_zeros(dtype: str, normalize: bool, value: float) -> None:
    image = micrograph((60, 60), dtype, seed=11)
    image[0, 0] = image[59, 59] = value
    corners = np.array([(0, 0), (1, 1), (28, 28), (27, 27), (-3, 5)])
    for edges, last in (("reject", Status.OUTSIDE), ("pad", Status.OK)):
        stacks, status, _ = cut(
            image, corners, box=32, sizes=(32, 16), normalize=normalize, edges="pad" if edges == "pad" else "reject"
        )
        assert status.tolist() == [Status.NOT_FINITE, Status.OK, Status.NOT_FINITE, Status.OK, last]
        for stack in stacks:
            assert not stack[status != Status.OK].any()
            assert all(particle.any() for particle in stack[status == Status.OK])


def test_a_rejected_particle_leaves_no_trace_in_the_next() -> None:
    image = micrograph((40, 120), "float32", seed=12)
    clean = image.copy()
    image[:, 40:80] = np.nan
    corners = np.array([(2, 2), (2, 44), (2, 84)])
    for threads in (1, 2):
        (stack,), *_ = cut(image, corners, box=32, sizes=(16,), threads=threads)
        (expected,), *_ = cut(clean, corners, box=32, sizes=(16,))
        np.testing.assert_array_equal(stack[[0, 2]], expected[[0, 2]])


@pytest.mark.parametrize("level", [0.0, 0.1, 6800.3, -3e4])
@pytest.mark.parametrize("ramp", [True, False])
@pytest.mark.parametrize("sizes", [(32,), (16,), (32, 16)])
def test_constant_windows_have_no_contrast(level: float, ramp: bool, sizes: tuple[int, ...]) -> None:
    image = micrograph((40, 80), "float32", seed=13)
    image[:, 40:] = level
    corners = np.array([(2, 2), (2, 44)])
    stacks, status, _ = cut(image, corners, box=32, sizes=sizes, ramp=ramp)
    assert status.tolist() == [Status.OK, Status.NO_CONTRAST]
    for stack in stacks:
        assert not stack[1].any()
    assert_agrees(image, corners, box=32, sizes=sizes, ramp=ramp)


def test_constant_windows_have_no_contrast_whatever_divides() -> None:
    image = np.full((40, 40), 6800.3, np.float32)
    assert_agrees(image, np.array([(2, 2)]), box=32, sizes=(32, 16), scale_const=2.0)


@pytest.mark.parametrize(("box", "size"), [(32, 16), (96, 32), (400, 200), (400, 100)])
def test_a_flat_background_around_a_hot_pixel_has_no_contrast_when_cropped(box: int, size: int) -> None:
    image = np.full((box + 8, box + 8), 5.0, np.float32)
    image[box // 2, box // 2] = 1e6  # stays a point when cropped: the rest is flat but for rounding
    _, status, _ = cut(image, np.array([(0, 0)]), box=box, sizes=(size,))
    assert status.tolist() == [Status.NO_CONTRAST]
    assert_agrees(image, np.array([(0, 0)]), box=box, sizes=(size,))


def test_a_background_of_a_ten_thousandth_of_the_image_is_contrast_enough() -> None:
    image = micrograph((40, 40), "float32", seed=23, mean=0.0, sd=1.0)
    image[16, 16] = 3e4
    _, status, _ = cut(image, np.array([(0, 0)]), box=32, sizes=(16,))
    assert status.tolist() == [Status.OK]


def test_a_constant_window_keeps_its_gray_level_without_normalization() -> None:
    image = np.full((40, 40), 6800.3, np.float32)
    stacks, status, _ = cut(image, np.array([(2, 2)]), box=32, sizes=(32, 16), normalize=False)
    assert status.tolist() == [Status.OK]
    for stack in stacks:
        assert (stack == np.float32(6800.3)).all()


def test_an_uncropped_unnormalized_image_has_the_stored_pixels() -> None:
    for dtype in ("int8", "uint8", "int16", "uint16"):
        image = micrograph((40, 40), dtype, seed=14)
        (stack,), *_ = cut(image, np.array([(3, 4)]), box=32, sizes=(32,), normalize=False)
        np.testing.assert_allclose(stack[0], image[3:35, 4:36], rtol=0, atol=2e-6 * 65536)


def test_corners_at_the_ends_of_int64_are_outside() -> None:
    image = micrograph((40, 40), "float32", seed=15)
    ends = [np.iinfo(np.int64).min, np.iinfo(np.int64).max, -(2**62), 2**62, 2**32, -(2**32), 2**31 - 16]
    corners = np.array([(a, b) for a in ends for b in (0, *ends)] + [(0, a) for a in ends], np.int64)
    for edges in ("reject", "pad"):
        (stack,), status, _ = cut(image, corners, box=32, sizes=(16,), edges="pad" if edges == "pad" else "reject")
        assert (status == Status.OUTSIDE).all()
        assert not stack.any()


def test_no_picks_give_empty_stacks() -> None:
    image = micrograph((40, 40), "float32", seed=16)
    stacks, status, statistics = cut(image, np.zeros((0, 2), np.int64), box=32, sizes=(32, 16))
    assert [stack.shape for stack in stacks] == [(0, 32, 32), (0, 16, 16)]
    assert status.shape == (0,)
    assert statistics.shape == (2, 0, len(STATISTICS))


# Same bits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_any_number_of_threads_gives_the_same_bits(dtype: str) -> None:
    image = micrograph((300, 320), "uint16", seed=17)
    corners = np.concatenate([corners_inside((300, 320), 100, 40), [(-5, 3), (250, 300)]])
    options: dict[str, Any] = {"box": 100, "sizes": (64, 30), "dtype": dtype, "edges": "pad"}
    one = cut(image, corners, threads=1, **options)
    for threads in (2, 3, 8):
        many = cut(image, corners, threads=threads, **options)
        for a, b in zip(one[0], many[0], strict=True):
            np.testing.assert_array_equal(a.view(np.uint8), b.view(np.uint8))
        np.testing.assert_array_equal(one[1], many[1])
        np.testing.assert_array_equal(one[2], many[2])


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(9)), st.integers(1, 9))
def test_any_choice_and_order_of_picks_gives_the_same_bits_for_each(order: list[int], count: int) -> None:
    image = micrograph((100, 100), "float32", seed=18)
    corners = corners_inside((100, 100), 60, 9)
    (whole,), _, statistics = cut(image, corners, box=60, sizes=(32,))
    chosen = order[:count]
    (some,), _, some_statistics = cut(image, corners[chosen], box=60, sizes=(32,))
    np.testing.assert_array_equal(some, whole[chosen])
    np.testing.assert_array_equal(some_statistics, statistics[:, chosen])


def test_two_sizes_at_once_have_the_bits_of_each_alone() -> None:
    image = micrograph((300, 300), "float32", seed=19)
    corners = corners_inside((300, 300), 200, 5)
    both, *_ = cut(image, corners, box=200, sizes=(96, 48))
    for size, stack in zip((96, 48), both, strict=True):
        (alone,), *_ = cut(image, corners, box=200, sizes=(size,))
        np.testing.assert_array_equal(stack, alone)


def test_layout_and_byte_order_do_not_change_a_bit() -> None:
    image = micrograph((80, 90), "float32", seed=20)
    corners = corners_inside((80, 90), 48, 6)
    (expected,), *_ = cut(image, corners, box=48, sizes=(24,))
    for byte_order in ("<", ">"):
        for padding in (0, 1, 7):
            same = stored(image, byte_order="<" if byte_order == "<" else ">", padding=padding)
            (stack,), *_ = cut(same, corners, box=48, sizes=(24,))
            np.testing.assert_array_equal(stack, expected)


def test_callers_in_many_threads_get_the_bits_of_one() -> None:
    image = micrograph((220, 220), "float32", seed=22)
    corners = corners_inside((220, 220), 120, 10)
    jobs = [(120, 64), (120, 20), (100, 50), (66,), (64, 30, 22)]
    expected = [cut(image, corners, box=120, sizes=sizes)[0] for sizes in jobs]

    def work(index: int) -> bool:
        sizes = jobs[index % len(jobs)]
        stacks, *_ = cut(image, corners, box=120, sizes=sizes, threads=1 + index % 3)
        return all(np.array_equal(a, b) for a, b in zip(stacks, expected[index % len(jobs)], strict=True))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(80)))


# The public faces ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "m"), [(4, 2), (34, 22), (64, 64), (100, 98), (256, 64), (254, 126)])
def test_fourier_crop_agrees(n: int, m: int) -> None:
    images = np.stack([micrograph((n, n), "float32", seed=seed, mean=6800.0, sd=6.8) for seed in range(3)])
    cropped = core.fourier_crop(images, m)
    assert cropped.dtype == np.float32
    assert cropped.shape == (3, m, m)
    for image, result in zip(images, cropped, strict=True):
        oracle = reference.fourier_crop(image, m)
        level = oracle.mean()  # gray levels alone would hide an error in what varies
        assert np.abs(result - oracle).max() <= 6.8 * TOLERANCE["float32"] * 10 + np.spacing(np.float32(level))


def test_extract_cuts_at_truncated_centers_and_says_which_it_kept() -> None:
    image = micrograph((100, 120), "float32", seed=21)
    centers = np.array([(50.9, 60.2), (16.0, 16.99), (15.9, 60.0), (84.0, 104.0), (85.0, 50.0)])
    images, kept = core.extract(image, centers, box=32, sizes=16)
    assert kept.tolist() == [True, True, False, True, False]
    (expected,), words = reference.extract(
        image, np.trunc(centers).astype(np.int64) - 16, box=32, sizes=(16,), radii=(6,)
    )
    oracle = expected[np.array(words) == reference.OK]
    assert images.shape == oracle.shape
    assert np.abs(images - oracle).max() <= TOLERANCE["float32"] * np.abs(oracle).max()
