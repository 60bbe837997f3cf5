"""What the core refuses before it writes a pixel: layouts, types, shapes and numbers that it cannot honor."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import cutting
from cryobox.errors import OptionError
from synth import micrograph

pytestmark = pytest.mark.usefixtures("device")  # each test runs on all of them

IMAGE = micrograph((80, 90), "float32", seed=1)
CORNERS = np.array([(0, 0), (10, 20)])


def stack(count: int = 2, size: int = 32, dtype: str = "float32") -> NDArray[Any]:
    return np.full((count, size, size), 9.0, dtype)


def read_only() -> NDArray[Any]:
    out = stack()
    out.flags.writeable = False
    return out


def unaligned() -> NDArray[Any]:
    return np.zeros(2 * 32 * 32 * 4 + 1, np.uint8)[1:].view(np.float32).reshape(2, 32, 32)


def cut(**changes: Any) -> Any:
    arguments: dict[str, Any] = {
        "image": IMAGE,
        "corners": CORNERS,
        "outputs": [stack()],
        "box": 32,
        "radii": [12.0],
        "pad": False,
        "threads": 1,
    } | changes
    return cutting.cut(**arguments)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (IMAGE.T, "pixels of the image's rows must be adjacent"),
        (IMAGE[:, ::2], "pixels of the image's rows must be adjacent"),
        (IMAGE[:, ::-1], "pixels of the image's rows must be adjacent"),
        (IMAGE[::-1], "rows of the image must not overlap"),
        (np.broadcast_to(IMAGE[0], (80, 90)), "rows of the image must not overlap"),
        (IMAGE[None], "2 dimensions; got 3"),
        (IMAGE.astype(np.float64), "got float64"),
        (IMAGE.astype(np.int32), "got int32"),
        (IMAGE > 0, "got bool"),
        (IMAGE.astype(np.complex64), "got complex64"),
        (np.zeros((80, 90), [("a", "f4")]), "image must be int8"),
    ],
)
def test_an_image_that_cannot_be_read_in_place_is_refused(image: NDArray[Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        cut(image=image)


@pytest.mark.parametrize(
    "corners",
    [CORNERS.astype(np.int32), CORNERS.astype(np.float64), CORNERS.astype(">i8"), CORNERS.T.copy().T, CORNERS[:, :1]],
)
def test_corners_that_are_not_plain_int64_pairs_are_refused(corners: NDArray[Any]) -> None:
    with pytest.raises(OptionError, match="corners must be"):
        cut(corners=corners)


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ([], "at least one output"),
        ([read_only()], "must be writable"),
        ([unaligned()], "C-contiguous, aligned"),
        ([stack(4)[::2]], "C-contiguous, aligned"),
        ([stack(dtype=">f4")], "native byte order"),
        ([stack(dtype="float64")], "float32 or float16"),
        ([stack(3)], "the shape"),
        ([np.zeros((2, 32, 30), np.float32)], "the shape"),
        ([stack(size=31)], "even size"),
        ([stack(size=34)], "at most the box"),
        ([stack(size=16), stack(size=32)], "largest first"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused(outputs: list[NDArray[Any]], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        cut(outputs=outputs, radii=[6.0] * len(outputs))


@pytest.mark.parametrize("box", [0, -2, 31, 2**31, 2**62])
def test_an_impossible_box_is_refused(box: int) -> None:
    with pytest.raises(OptionError, match="box must be an even number of pixels"):
        cut(box=box)


@pytest.mark.parametrize("radius", [0.0, 0.9, 16.0, -1.0, np.nan, np.inf])
def test_a_radius_without_particle_or_background_is_refused(radius: float) -> None:
    with pytest.raises(OptionError, match="radius must be at least 1 and less than half"):
        cut(radii=[radius])


@pytest.mark.parametrize("scale_const", [-1.0, np.nan, np.inf])
def test_a_divisor_that_is_not_a_positive_number_is_refused(scale_const: float) -> None:
    with pytest.raises(OptionError, match="scale_const must be a positive number"):
        cut(scale_const=scale_const)


def test_a_refused_call_writes_nothing() -> None:
    good, small = stack(), stack(size=16)
    small.flags.writeable = False
    with pytest.raises(OptionError, match="writable"):
        cut(outputs=[good, small], radii=[12.0, 6.0])
    assert (good == 9).all()
