"""What the compiled core refuses and what it leaves alone: types, layouts, sizes, memory of the caller."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cryobox import _core
from cryobox.core import STATISTICS
from cutting import AS_A_BACKEND_IS_TOLD


def call(**changes: Any) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """A call that works, but for `changes`."""
    arguments: dict[str, Any] = {
        "image": np.random.default_rng(0).normal(100, 5, (50, 60)).astype(np.float32),
        "corners": np.array([[0, 0], [10, 20]], np.int64),
        "outputs": [np.full((2, 16, 16), 7, np.float32)],
        "box": 32,
        "radii": [6.0],
        "pad": False,
        **AS_A_BACKEND_IS_TOLD,
        "threads": 1,
    } | changes
    return _core.extract(arguments.pop("image"), arguments.pop("corners"), arguments.pop("outputs"), **arguments)


def test_status_and_statistics_have_a_row_per_particle() -> None:
    status, statistics = call()
    assert status.tolist() == [0, 0]
    assert statistics.shape == (1, 2, len(STATISTICS))


@pytest.mark.parametrize("dtype", ["float64", "int32", "uint32", "int64", "bool", "complex64", "S4", "O"])
def test_pixels_of_another_type_are_refused_not_cast(dtype: str) -> None:
    with pytest.raises(ValueError, match="image must be int8, uint8, int16, uint16, float16 or float32; got"):
        call(image=np.zeros((50, 60), dtype))


@pytest.mark.parametrize("image", [[[1.0, 2.0], [3.0, 4.0]], None, 3])
def test_what_is_no_array_is_refused(image: object) -> None:
    with pytest.raises(TypeError, match="incompatible function arguments"):
        call(image=image)


@pytest.mark.parametrize("shape", [(60,), (1, 50, 60), ()])
def test_an_image_has_two_dimensions(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="image must have 2 dimensions"):
        call(image=np.zeros(shape, np.float32))


@pytest.mark.parametrize(
    ("image", "why"),
    [
        (np.zeros((50, 120), np.float32)[:, ::2], "must be adjacent"),
        (np.zeros((60, 50), np.float32).T, "must be adjacent"),
        (np.zeros((50, 60), np.float32)[:, ::-1], "must be adjacent"),
        (np.zeros((50, 60), np.float32)[::-1], "must not overlap"),
        (np.broadcast_to(np.zeros((1, 60), np.float32), (50, 60)), "must not overlap"),
        (np.lib.stride_tricks.as_strided(np.zeros(200, np.float32), (50, 60), (4, 4)), "must not overlap"),
    ],
)
def test_layouts_that_would_need_a_copy_are_refused(image: NDArray[Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        call(image=image)


@pytest.mark.parametrize("shape", [(0, 0), (0, 60), (50, 0), (1, 1), (1, 60), (50, 1)])
@pytest.mark.parametrize("pad", [True, False])
def test_images_smaller_than_the_box_have_no_window_unless_padded(shape: tuple[int, int], pad: bool) -> None:
    outputs = [np.full((2, 16, 16), 7, np.float32)]
    corners = np.array([[0, 0], [-1, 0]], np.int64)
    status, _ = call(image=np.ones(shape, np.float32), pad=pad, outputs=outputs, corners=corners, normalize=False)
    assert status.tolist() == ([0, 0] if pad and 0 not in shape else [1, 1])
    assert (outputs[0] == (1 if pad and 0 not in shape else 0)).all()


@pytest.mark.parametrize(
    "corners",
    [
        np.zeros((2, 2), np.int32),
        np.zeros((2, 2), np.float64),
        np.zeros((2, 2), np.uint64),
        np.zeros((2, 3), np.int64),
        np.zeros(4, np.int64),
    ],
)
def test_corners_are_int64_pairs(corners: NDArray[Any]) -> None:
    with pytest.raises(ValueError, match=r"corners must be int64 with the shape \(n, 2\)"):
        call(corners=corners)


@pytest.mark.parametrize("corners", [np.zeros((2, 2), ">i8"), np.zeros((2, 2), np.int64, order="F")])
def test_corners_lie_plainly_in_memory(corners: NDArray[Any]) -> None:
    with pytest.raises(ValueError, match="corners must be C-contiguous, aligned and in native byte order"):
        call(corners=corners)


def read_only(stack: NDArray[Any]) -> NDArray[Any]:
    stack.setflags(write=False)
    return stack


@pytest.mark.parametrize(
    ("outputs", "why"),
    [
        ([], "at least one output"),
        ([np.zeros((3, 16, 16), np.float32)], "must have the shape"),
        ([np.zeros((2, 16, 14), np.float32)], "must have the shape"),
        ([np.zeros((2, 16), np.float32)], "must have the shape"),
        ([np.zeros((2, 15, 15), np.float32)], "even size"),
        ([np.zeros((2, 34, 34), np.float32)], "even size"),
        ([np.zeros((2, 0, 0), np.float32)], "even size"),
        ([np.zeros((2, 16, 16))], "must be float32 or float16"),
        ([np.zeros((2, 16, 16), np.int32)], "must be float32 or float16"),
        ([np.zeros((2, 16, 16), ">f4")], "native byte order"),
        ([np.zeros((2, 16, 16), np.float32, order="F")], "C-contiguous"),
        ([np.zeros((4, 16, 16), np.float32)[::2]], "C-contiguous"),
        (
            [np.frombuffer(bytearray(2 * 16 * 16 * 4 + 1), np.float32, offset=1, count=512).reshape(2, 16, 16)],
            "aligned",
        ),
        ([read_only(np.zeros((2, 16, 16), np.float32))], "writable"),
        ([np.zeros((2, 16, 16), np.float32)] * 2, "largest first, all different"),
    ],
)
def test_outputs_that_cannot_be_written_into_are_refused(outputs: list[NDArray[Any]], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        call(outputs=outputs, radii=[6.0] * len(outputs))


@pytest.mark.parametrize("box", [0, -2, 31, 2**31 - 2, 2**62, -(2**62)])
def test_a_box_is_an_even_number_in_bounds(box: int) -> None:
    with pytest.raises(ValueError, match="box must be an even number of pixels, at least 2 and at most 32768"):
        call(box=box)


@pytest.mark.parametrize("radius", [0.5, 8.0, -3.0, float("nan"), float("inf")])
def test_a_radius_leaves_particle_and_background(radius: float) -> None:
    with pytest.raises(ValueError, match="every radius must be at least 1 and less than half the size"):
        call(radii=[radius])


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"radii": []}, "one radius is needed for every output"),
        ({"threads": 0}, "threads must be at least 1"),
        ({"threads": -4}, "threads must be at least 1"),
        ({"scale_const": -1.0}, "scale_const must be"),
        ({"scale_const": float("nan")}, "scale_const must be"),
        ({"scale_const": float("inf")}, "scale_const must be"),
    ],
)
def test_numbers_out_of_range_are_refused(change: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        call(**change)


def test_a_refused_call_writes_nothing() -> None:
    outputs = [np.full((2, 16, 16), 7, np.float32)]
    with pytest.raises(ValueError, match="threads"):
        call(outputs=outputs, threads=0)
    assert (outputs[0] == 7).all()


def test_memory_beside_the_outputs_is_left_alone() -> None:
    memory = np.full((4, 16, 16), 7, np.float32)
    status, _ = call(outputs=[memory[1:3]], corners=np.array([[-5, -5], [18, 28]], np.int64), pad=True, threads=2)
    assert status.tolist() == [0, 0]
    assert (memory[[0, 3]] == 7).all()
    assert (memory[1:3] != 7).all()


def test_a_divisor_too_small_for_float32_rejects_the_particle() -> None:
    outputs = [np.full((2, 16, 16), 7, np.float32)]
    status, _ = call(outputs=outputs, scale_const=1e-300)
    assert status.tolist() == [3, 3]
    assert not outputs[0].any()


@pytest.mark.parametrize(
    ("images", "output", "why"),
    [
        (np.zeros((1, 8, 8)), np.zeros((1, 4, 4), np.float32), "images must be float32"),
        (np.zeros((1, 8, 6), np.float32), np.zeros((1, 4, 4), np.float32), "images must be float32"),
        (np.zeros((1, 8, 8), ">f4"), np.zeros((1, 4, 4), np.float32), "native byte order"),
        (np.zeros((1, 7, 7), np.float32), np.zeros((1, 4, 4), np.float32), "even side"),
        (np.zeros((1, 8, 8), np.float32), np.zeros((2, 4, 4), np.float32), "must have the shape"),
        (np.zeros((1, 8, 8), np.float32), np.zeros((1, 10, 10), np.float32), "size must be"),
        (np.zeros((1, 8, 8), np.float32), np.zeros((1, 4, 4), np.float16), "output must be float32"),
    ],
)
def test_fourier_crop_refuses_what_it_cannot_crop(images: NDArray[Any], output: NDArray[Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        _core.fourier_crop(images, output, threads=1)


def test_the_core_says_how_it_was_built() -> None:
    assert _core.fftw_version().startswith("fftw-3.")
    assert isinstance(_core.openmp, bool)
    assert _core.simd in {"baseline", "avx2", "avx512"}
    assert _core.max_threads >= 1
