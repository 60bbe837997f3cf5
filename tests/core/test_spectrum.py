"""What is done to images while they are in Fourier space, against the float64 oracle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cryobox import core, reference
from cryobox.core import Status
from cryobox.errors import OptionError
from cryobox.options import Recipe
from cryobox.windows import Stored, Windows
from synth import TOLERANCE, corners_inside, micrograph

AWKWARD = [(2, (2,)), (4, (4, 2)), (34, (34, 22)), (62, (62, 60)), (96, (64, 4)), (254, (126,)), (400, (128, 64))]


def cut(
    image: NDArray[Any], windows: Windows, sizes: Sequence[int], *, threads: int = 1, **asked: Any
) -> tuple[list[NDArray[np.float32]], NDArray[np.uint8]]:
    steps = Recipe(box=32, **asked).steps()
    outputs = [Stored(size=size, dtype="float32", background_radius=max(1.0, int(0.375 * size))) for size in sizes]
    stacks = [np.full((len(windows), size, size), 123.0, np.float32) for size in sizes]
    status, _ = core.cut(image, windows, outputs, steps, into=stacks, threads=threads)
    return stacks, status


def moves(count: int, seed: int) -> NDArray[np.float64]:
    found = np.random.default_rng(seed).uniform(-0.5, 0.5, (count, 2))
    found[:3] = [(0, 0), (0.5, -0.5), (0, 0.3)]
    return found


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize(("box", "sizes"), AWKWARD)
def test_images_moved_by_fractions_agree(box: int, sizes: tuple[int, ...], normalize: bool) -> None:
    normalize = normalize and min(sizes) > 4
    image = micrograph((box + 13, box + 30), "float32", seed=box)
    corners = np.concatenate([corners_inside(image.shape, box, 3), [(-1, 2), (14, 31)]])
    windows = Windows(box=box, pad=True, corner=corners, residual=moves(5, box))
    stacks, status = cut(image, windows, sizes, normalize=normalize)
    expected, words = reference.extract(
        image, corners, box=box, sizes=sizes, radii=[max(1, int(0.375 * size)) for size in sizes], edges="pad",
        normalize=normalize, residual=windows.residual,
    )  # fmt: skip
    assert set(words) == {reference.OK}
    assert set(status.tolist()) == {Status.OK}
    for stack, oracle in zip(stacks, expected, strict=True):
        error = np.abs(stack - oracle).max(axis=(1, 2))
        assert (error <= TOLERANCE["float32"] * np.abs(oracle).max(axis=(1, 2))).all()


def test_a_move_by_whole_pixels_is_the_window_turned_around() -> None:
    image = micrograph((40, 40), "float32", seed=2)
    windows = Windows(box=32, pad=False, corner=np.array([(3, 5)]), residual=np.array([(2.0, -3.0)]))
    (stack,), _ = cut(image, windows, (32,), normalize=False)
    np.testing.assert_allclose(stack[0], np.roll(image[3:35, 5:37], (2, -3), axis=(0, 1)), rtol=0, atol=2e-4)


def test_moved_images_have_the_same_bits_for_any_threads_and_beside_any_others() -> None:
    image = micrograph((200, 210), "uint16", seed=3)
    corners, residual = corners_inside(image.shape, 100, 30), moves(30, 4)
    windows = Windows(box=100, pad=False, corner=corners, residual=residual)
    both, _ = cut(image, windows, (100, 64, 30))
    for threads in (2, 5):
        for one, many in zip(both, cut(image, windows, (100, 64, 30), threads=threads)[0], strict=True):
            np.testing.assert_array_equal(one, many)
    some = [7, 2, 21]
    for size, stack in zip((100, 64, 30), both, strict=True):
        np.testing.assert_array_equal(cut(image, windows.take(some), (size,))[0][0], stack[some])


@pytest.mark.parametrize(
    ("residual", "message"),
    [
        (np.zeros((2, 2)), "one residual"),
        (np.zeros((3, 1)), "shape"),
        (np.zeros((3, 2), np.float32), "float64"),
        (np.full((3, 2), np.nan), "finite"),
    ],
)
def test_residuals_that_do_not_fit_are_refused(residual: NDArray[Any], message: str) -> None:
    windows = Windows(box=32, pad=False, corner=np.zeros((3, 2), np.int64), residual=residual)
    with pytest.raises(OptionError, match=message):
        cut(micrograph((40, 40), "float32", seed=1), windows, (32,))


def test_gray_levels_near_the_end_of_float32_are_moved_too() -> None:
    small = micrograph((40, 40), "float32", seed=5)
    windows = Windows(
        box=32, pad=False, corner=np.array([(1, 2), (6, 3)]), residual=np.array([(0.3, 0.1), (-0.2, 0.4)])
    )
    (expected,), _ = cut(small, windows, (16,))
    (stack,), status = cut(np.ldexp(small, 118), windows, (16,))
    assert status.tolist() == [Status.OK, Status.OK]
    np.testing.assert_allclose(stack, expected, atol=1e-5)


# Filters -------------------------------------------------------------------------------------------------------------

FILTERS: list[dict[str, Any]] = [
    {"lowpass": 9.0},
    {"highpass": 40.0},
    {"lowpass": 7.5, "highpass": 30.0, "filter_width": 5.0},
    {"lowpass": 4.0, "filter_width": 0.5},  # Nyquist
    {"highpass": 1e6},  # the mean alone
]


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("asked", FILTERS)
@pytest.mark.parametrize(("box", "sizes"), [(34, (34, 22)), (62, (62, 60)), (128, (64, 30))])
def test_filtered_images_agree(box: int, sizes: tuple[int, ...], asked: dict[str, Any], normalize: bool) -> None:
    image = micrograph((box + 13, box + 30), "float32", seed=box)
    corners = np.concatenate([corners_inside(image.shape, box, 3), [(-1, 2), (14, 31)]])
    for residual in (None, moves(5, box)):
        windows = Windows(box=box, pad=True, corner=corners, residual=residual, pixel_size=2.0)
        stacks, status = cut(image, windows, sizes, normalize=normalize, **asked)
        expected, words = reference.extract(
            image, corners, box=box, sizes=sizes, radii=[int(0.375 * size) for size in sizes], edges="pad",
            normalize=normalize, residual=residual, pixel_size=2.0, **asked,
        )  # fmt: skip
        assert set(words) == {reference.OK}
        assert set(status.tolist()) == {Status.OK}
        for stack, oracle in zip(stacks, expected, strict=True):
            # Where little is left of an image, rounding is that of what it was made of.
            scale = np.abs(oracle).max(axis=(1, 2)) if normalize else np.abs(image - image.mean()).max()
            assert (np.abs(stack - oracle).max(axis=(1, 2)) <= 4 * TOLERANCE["float32"] * scale).all()


def test_the_filter_is_the_one_that_restacking_has() -> None:
    image = micrograph((64, 64), "float32", seed=6).astype(np.float64)
    both = reference.filtered(image, 1.7, 12.0, None), reference.lowpass(image, 1.7, 12.0)
    np.testing.assert_allclose(*both, rtol=0, atol=1e-9)


def test_low_and_high_pass_of_one_resolution_share_the_image() -> None:
    image = micrograph((40, 40), "float32", seed=7)
    windows = Windows(box=32, pad=False, corner=np.array([(2, 3)]), pixel_size=2.0)
    (low,), _ = cut(image, windows, (32,), normalize=False, lowpass=12.0)
    (high,), _ = cut(image, windows, (32,), normalize=False, highpass=12.0)
    np.testing.assert_allclose(low[0] + high[0], image[2:34, 3:35], rtol=0, atol=1e-3)


# CTF -----------------------------------------------------------------------------------------------------------------


def ctfs(count: int, seed: int, terms: int = 0) -> NDArray[np.float64]:
    """Numbers of CTFs of a microscope, each another one."""
    rng = np.random.default_rng(seed)
    low = [80, 0, -0.2, 3000, 3000, -180, -90, -20, 0.5, 0.95, -0.03, -0.03, 0.95]
    high = [300, 2.7, 0.9, 25000, 25000, 180, 170, 60, 1.5, 1.05, 0.03, 0.03, 1.05]
    numbers = rng.uniform(low, high, (count, len(low)))
    numbers[::3, 9:] = (1, 0, 0, 1)
    return np.concatenate([numbers, rng.uniform(-3, 3, (count, terms))], axis=1)


CTF_CASES: list[tuple[int, tuple[int, ...], dict[str, Any]]] = [
    (34, (34, 22), {"ctf": "premultiply"}),
    (34, (34, 22), {"ctf": "flip", "ctf_box": 50}),
    (62, (60,), {"ctf": "premultiply", "ctf_box": 96, "ctf_intact_first_peak": True}),
    (64, (64,), {"ctf": "flip", "ctf_intact_first_peak": True}),
    (64, (32, 16), {"ctf": "premultiply", "lowpass": 8.0, "highpass": 60.0}),
    (64, (64, 32), {"ctf": "flip", "ctf_box": 96, "lowpass": 8.0}),
]


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize(("box", "sizes", "asked"), CTF_CASES)
def test_images_with_their_ctf_agree(
    box: int, sizes: tuple[int, ...], asked: dict[str, Any], moved: bool, normalize: bool
) -> None:
    image = micrograph((box + 40, box + 51), "float32", seed=box)
    corners = np.concatenate([corners_inside(image.shape, box, 4), [(-5, 7), (30, 41), (39, -20)]])
    numbers = ctfs(7, box, terms=9 if box == 34 else 0)
    numbers[3] = numbers[2]
    windows = Windows(
        box=box, pad=True, corner=corners, residual=moves(7, box) if moved else None, pixel_size=1.7, ctf=numbers
    )
    stacks, status = cut(image, windows, sizes, normalize=normalize, **asked)
    expected, words = reference.extract(
        image, corners, box=box, sizes=sizes, radii=[int(0.375 * size) for size in sizes], edges="pad",
        normalize=normalize, residual=windows.residual, pixel_size=1.7, ctfs=numbers, **asked,
    )  # fmt: skip
    assert set(words) == {reference.OK}
    assert set(status.tolist()) == {Status.OK}
    for stack, oracle in zip(stacks, expected, strict=True):
        scale = np.abs(oracle).max(axis=(1, 2)) if normalize else np.abs(image - image.mean()).max()
        assert (np.abs(stack - oracle).max(axis=(1, 2)) <= 4 * TOLERANCE["float32"] * scale).all()


def test_treated_images_have_the_same_bits_for_any_threads_and_beside_any_others() -> None:
    image = micrograph((140, 150), "uint16", seed=3)
    corners = np.concatenate([corners_inside(image.shape, 64, 20), [(-5, 7), (90, 100)]])
    windows = Windows(box=64, pad=True, corner=corners, pixel_size=1.7, ctf=np.repeat(ctfs(11, 5), 2, axis=0))
    for asked in ({"ctf": "flip"}, {"ctf": "premultiply", "ctf_box": 80}):
        both, _ = cut(image, windows, (64, 30), **asked)
        for one, many in zip(both, cut(image, windows, (64, 30), threads=3, **asked)[0], strict=True):
            np.testing.assert_array_equal(one, many)
        some = [20, 2, 13, 21]
        part = core.filled(image, windows, Recipe(box=32, **asked).steps()).take(some)
        for size, stack in zip((64, 30), both, strict=True):
            np.testing.assert_array_equal(cut(image, part, (size,), **asked)[0][0], stack[some])


def test_pixels_that_are_not_finite_reject_what_reaches_them() -> None:
    image = micrograph((120, 120), "float32", seed=6)
    image[0, 0] = np.nan
    # The first holds it, the second has it in the window of its CTF, the third needs the mean of all: of finite ones.
    windows = Windows(
        box=32, pad=True, corner=np.array([(-2, 0), (8, 8), (100, 100), (40, 40)]), pixel_size=2.0, ctf=ctfs(4, 1)
    )
    stacks, status = cut(image, windows, (32,), ctf="flip", ctf_box=64)
    assert status.tolist() == [Status.NOT_FINITE, Status.NOT_FINITE, Status.OK, Status.OK]
    assert not stacks[0][:2].any()
    assert stacks[0][2:].std(axis=(1, 2)).all()


def test_gray_levels_at_the_end_of_float32_get_their_ctf() -> None:
    image = micrograph((90, 100), "float32", seed=4)
    corners = np.array([(20, 30), (-6, 40), (50, 60)])
    windows = Windows(box=32, pad=True, corner=corners, pixel_size=2.0, ctf=ctfs(3, 1))
    for exponent in (118, -140):
        far = np.ldexp(image.astype(np.float64), exponent).astype(np.float32)
        (stack,), status = cut(far, windows, (16,), ctf="premultiply", ctf_box=48)
        (expected,), _ = cut(image, windows, (16,), ctf="premultiply", ctf_box=48)
        assert set(status.tolist()) == {Status.OK}
        np.testing.assert_allclose(stack, expected, atol=1e-5 if exponent > 0 else 2e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ctf": None}, "a CTF is needed"),
        ({"ctf": np.zeros((1, 12))}, "a CTF is needed"),
        ({"pixel_size": float("nan")}, "pixel size"),
    ],
)
def test_ctfs_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"ctf": ctfs(1, 1), "pixel_size": 2.0} | changes
    windows = Windows(box=32, pad=False, corner=np.zeros((1, 2), np.int64), **given)
    with pytest.raises(OptionError, match=message):
        cut(micrograph((40, 40), "float32", seed=1), windows, (32,), ctf="flip")
