"""Micrographs that lie on the device, and images that stay there; memory and copies of the pipeline."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import standin
from cryobox import core, gpu
from cryobox.errors import BackendError, OptionError
from cutting import AS_A_BACKEND_IS_TOLD, cut
from standin import StandIn
from synth import PIXEL_TYPES, corners_inside, micrograph, stored


@pytest.fixture(params=["stand-in", pytest.param("gpu", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "gpu":
        yield "cuda:0"
        return
    with standin.load().in_place_of_cuda():
        yield "cuda:0"


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    with standin.load().in_place_of_cuda() as device:
        yield device


CENTERS = [(30.0, 30.0), (2.0, 50.0), (50.0, 61.0), (70.5, 40.2)]


def test_images_of_a_micrograph_on_the_device_stay_there(device: str) -> None:
    image = micrograph((100, 110), "uint16", seed=1)
    expected, kept = core.extract(image, CENTERS, box=32, sizes=(32, 16), device=device)
    there = gpu.resident(image, device, (0, 100))
    found, found_kept = core.extract(there, CENTERS, box=32, sizes=(32, 16), device=device)
    assert kept.tolist() == found_kept.tolist() == [True, False, True, True]
    for a, b in zip(found, expected, strict=True):
        assert a.device == device
        assert a.shape == b.shape
        np.testing.assert_array_equal(a.to_host(), b)


def test_images_on_the_device_offer_the_interfaces_of_other_libraries(device: str) -> None:
    image = gpu.resident(micrograph((60, 60), "float32"), device, (0, 60))
    stack, _ = core.extract(image, [(30.0, 30.0)], box=32, sizes=16, dtype="float16", device=device)
    described = stack.__cuda_array_interface__
    assert (described["shape"], described["typestr"], described["version"]) == ((1, 16, 16), "<f2", 3)
    assert stack.nbytes == 512
    assert len(stack) == 1
    assert stack.__dlpack_device__()[1] == 0


@pytest.mark.parametrize("dtype", PIXEL_TYPES)
def test_an_array_of_another_library_is_read_where_it_lies(stand_in: StandIn, dtype: str) -> None:
    image = stored(micrograph((60, 70), dtype, seed=2), byte_order=">", padding=3)

    class Foreign:
        __cuda_array_interface__ = image.__array_interface__ | {"strides": image.strides, "stream": None}

    expected, _ = core.extract(image, [(30.0, 33.0)], box=32, sizes=16, device="cuda:0")
    stand_in.set()
    found, _ = core.extract(Foreign(), [(30.0, 33.0)], box=32, sizes=16, device="cuda:0")
    np.testing.assert_array_equal(found.to_host(), expected)
    assert stand_in.count("uploaded") < 100  # the corner and its status


class Exported:
    """NumPy's own DLPack, as if the memory were a device's."""

    def __init__(self, image: NDArray[Any]) -> None:
        self._image = image

    def __dlpack__(self) -> object:
        return self._image.__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._image.__dlpack_device__()


@pytest.mark.parametrize("dtype", PIXEL_TYPES)
def test_an_array_is_taken_over_dlpack(stand_in: StandIn, dtype: str) -> None:
    image = micrograph((60, 70), dtype, seed=3)
    corners, stack = np.array([(5, 6)]), np.empty((1, 16, 16), np.float32)
    options: dict[str, Any] = {"box": 32, "radii": [6.0], "pad": False, "threads": 1, "device": 0, "memory": 0}
    options |= AS_A_BACKEND_IS_TOLD
    expected, _ = core.extract(image, corners + 16.0, box=32, sizes=16, device="cuda:0")
    stand_in.module.extract(Exported(image), corners, [stack], **options)
    np.testing.assert_array_equal(stack, expected)
    stand_in.module.extract(Exported(image[:, 2:]), corners - (0, 2), [stack], **options)
    np.testing.assert_array_equal(stack, expected)


def test_a_stack_is_handed_over_dlpack_and_outlives_its_owner(stand_in: StandIn) -> None:
    image = gpu.resident(micrograph((60, 60), "float32"), "cuda:0", (0, 60))
    stack, _ = core.extract(image, [(30.0, 30.0)], box=32, device="cuda:0")
    before = stack.to_host()
    view = np.from_dlpack(stack)
    del stack, image
    np.testing.assert_array_equal(view, before)
    del view
    stand_in.set()
    assert stand_in.count("used") == 0


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((8, 8, 8), np.float32), "2 dimensions; got 3"),
        (np.zeros((40, 40), np.float64), "got float64"),
        (np.zeros((40, 40), np.float32)[:, ::2], "must be adjacent"),
        (np.zeros((40, 40), np.float32)[::-1], "must follow each other downward"),
        (np.zeros(40 * 40 * 4 + 1, np.uint8)[1:].view(np.float32).reshape(40, 40), "must be aligned"),
    ],
)
def test_a_device_image_that_cannot_be_read_in_place_is_refused(
    stand_in: StandIn, image: NDArray[Any], message: str
) -> None:
    class Foreign:
        __cuda_array_interface__ = image.__array_interface__ | {"strides": image.strides}

    with pytest.raises(OptionError, match=message):
        core.extract(Foreign(), [(16.0, 16.0)], box=16, device="cuda:0")


def test_an_array_of_another_device_is_refused(stand_in: StandIn) -> None:
    stand_in.set(devices=2)
    image = gpu.resident(micrograph((60, 60), "float32"), "cuda:1", (0, 60))
    with pytest.raises(OptionError, match="lies on cuda:1"):
        core.extract(image, [(30.0, 30.0)], box=16, device="cuda:0")


def test_an_array_of_another_device_is_refused_whoever_describes_it(stand_in: StandIn) -> None:
    stand_in.set(devices=2)
    image = micrograph((60, 60), "float32")
    there = gpu.resident(image, "cuda:1", (0, 60))

    class Foreign:
        __cuda_array_interface__ = there.__cuda_array_interface__

    with pytest.raises(OptionError, match="the image does not lie on cuda:0"):
        core.extract(Foreign(), [(30.0, 30.0)], box=16, device="cuda:0")
    stack = gpu.backend("cuda:1").empty((1, 16, 16), "float32")

    class Stack:
        __cuda_array_interface__ = stack.__cuda_array_interface__

    for corner in ((22, 22), (-50, 0)):  # one that is cut, and one that is not
        with pytest.raises(OptionError, match="an output does not lie on cuda:0"):
            cut(image, np.array([corner]), [Stack()], **WINDOWS)


WINDOWS: dict[str, Any] = {
    "box": 16,
    "radii": [6.0],
    "pad": False,
    "threads": 1,
    "device": "cuda:0",
}


@pytest.mark.parametrize(
    ("version", "stream", "waits"), [(2, {}, 1), (3, {}, 0), (3, {"stream": None}, 0), (3, {"stream": 7}, 1)]
)
def test_what_others_still_do_with_an_array_is_waited_for(
    stand_in: StandIn, version: int, stream: dict[str, Any], waits: int
) -> None:
    image = micrograph((60, 60), "float32")
    stack = np.empty((1, 16, 16), np.float32)
    expected, _ = core.extract(image, [(30.0, 30.0)], box=16, device="cuda:0")

    class Foreign:
        def __init__(self, array: NDArray[Any]) -> None:
            self.__cuda_array_interface__ = array.__array_interface__ | {"version": version} | stream

    corners = np.array([(22, 22)])
    for image_given, output in ((Foreign(image), stack), (image, Foreign(stack)), (Foreign(image), Foreign(stack))):
        stand_in.set()
        stack[...] = 0
        cut(image_given, corners, [output], **WINDOWS)
        assert stand_in.count("waits") == waits  # once for each stream, not for each array
        np.testing.assert_array_equal(stack, expected)


class Modern(Exported):
    """One that knows DLPack 1.0, and says whether it may be written to."""

    def __dlpack__(self, **asked: Any) -> object:
        return self._image.__dlpack__(**asked)


def test_an_output_over_dlpack_is_written_to_where_it_says_that_it_may_be(stand_in: StandIn) -> None:
    image, corners = micrograph((60, 60), "float32"), np.array([(22, 22)])
    expected, _ = core.extract(image, [(30.0, 30.0)], box=16, device="cuda:0")
    stack = np.zeros((1, 16, 16), np.float32)
    cut(image, corners, [Modern(stack)], **WINDOWS)
    np.testing.assert_array_equal(stack, expected)
    stack[...] = 0
    with pytest.raises(OptionError, match=r"writable, and say so: over DLPack 1\.0"):
        cut(image, corners, [Exported(stack)], **WINDOWS)
    stack.flags.writeable = False
    with pytest.raises(OptionError, match="every output must be writable"):
        cut(image, corners, [Modern(stack)], **WINDOWS)
    assert not stack.any()
    image.flags.writeable = False  # which nobody minds of an image
    writable = np.zeros((1, 16, 16), np.float32)
    cut(Modern(image), corners, [Modern(writable)], **WINDOWS)
    np.testing.assert_array_equal(writable, expected)


def test_a_copy_is_not_written_to(stand_in: StandIn) -> None:
    class Copying(Exported):
        def __dlpack__(self, *, max_version: tuple[int, int] | None = None, **_: Any) -> object:
            return self._image.__dlpack__(max_version=max_version, copy=True)

    with pytest.raises(OptionError, match="every output must be writable"):
        cut(micrograph((60, 60), "float32"), np.array([(22, 22)]), [Copying(np.zeros((1, 16, 16), "f4"))], **WINDOWS)


def test_an_array_that_its_library_does_not_hand_over_is_refused_with_its_reason(stand_in: StandIn) -> None:
    class Tracked:
        """As PyTorch's, where a gradient is wanted."""

        @property
        def __cuda_array_interface__(self) -> dict[str, Any]:
            raise RuntimeError("use detach()")

        def __dlpack__(self, **_: Any) -> object:
            raise BufferError("use detach()")

        def __init__(self, kind: int) -> None:
            self._kind = kind

        def __dlpack_device__(self) -> tuple[int, int]:
            return self._kind, 0

    assert gpu.is_device_array(Tracked(2))
    with pytest.raises(OptionError, match=r"use detach\(\)"):
        cut(Tracked(1), np.array([(22, 22)]), [np.zeros((1, 16, 16), np.float32)], **WINDOWS)


def test_dlpack_goes_before_an_interface_without_streams(stand_in: StandIn) -> None:
    image = micrograph((60, 60), "float32")
    stack = np.empty((1, 16, 16), np.float32)

    class Both(Exported):
        __cuda_array_interface__ = image.__array_interface__ | {"version": 2}

    cut(Both(image), np.array([(22, 22)]), [stack], **WINDOWS)
    assert stand_in.count("waits") == 0  # the stand-in's memory is the host's, which needs no stream over DLPack


def test_an_output_that_is_not_aligned_is_refused(stand_in: StandIn) -> None:
    stack = np.zeros(16 * 16 * 4 + 1, np.uint8)[1:].view(np.float32).reshape(1, 16, 16)

    class Foreign:
        __cuda_array_interface__ = stack.__array_interface__

    with pytest.raises(OptionError, match="aligned"):
        cut(micrograph((60, 60), "float32"), np.array([(22, 22)]), [Foreign()], **WINDOWS)


def test_a_pinned_image_of_one_row_may_have_any_stride(stand_in: StandIn) -> None:
    row = gpu.pinned(4 * 50, "cuda:0").view(np.float32).reshape(1, 50)
    row[...] = np.arange(50)
    odd = np.lib.stride_tricks.as_strided(row, strides=(-4, 4))
    found, kept = core.extract(odd, [(0.0, 25.0)], box=4, edges="pad", normalize=False, device="cuda:0")
    assert kept.all()
    np.testing.assert_array_equal(found[0], np.tile(np.arange(23, 27, dtype=np.float32), (4, 1)))


def test_a_stack_without_images_has_no_address(stand_in: StandIn) -> None:
    there = gpu.resident(micrograph((60, 60), "float32"), "cuda:0", (0, 60))
    stack, kept = core.extract(there, [(0.0, 0.0)], box=16, device="cuda:0")
    assert not kept.any()
    assert stack.__cuda_array_interface__["data"] == (0, False)
    assert stack.to_host().shape == np.from_dlpack(stack).shape == (0, 16, 16)


def test_a_copy_is_not_promised_over_dlpack(stand_in: StandIn) -> None:
    stack = gpu.backend("cuda:0").empty((1, 4, 4), "float32")
    with pytest.raises(BufferError, match="to_host"):
        stack.__dlpack__(copy=True)
    assert stack.__dlpack__(stream=None, max_version=(1, 0), dl_device=None, copy=None) is not None


def test_the_thread_speaks_to_the_device_it_spoke_to_before(stand_in: StandIn) -> None:
    stand_in.set(devices=2)
    image = micrograph((60, 60), "float32")
    before = stand_in.count("current")
    there = gpu.resident(image, "cuda:1", (0, 60))
    images, _ = core.extract(there, [(30.0, 30.0), (0.0, 0.0)], box=16, device="cuda:1")
    images.to_host()
    with pytest.raises(BackendError):
        core.extract(image, [(30.0, 30.0)], box=16, device="cuda:7")
    assert stand_in.count("current") == before


def test_a_micrograph_crosses_the_bus_once_in_its_stored_type_and_only_the_rows_needed(stand_in: StandIn) -> None:
    image = micrograph((200, 100), "uint8", seed=4)
    corners = np.array([(50, 3), (70, 20)])
    core.extract(image, corners + 16.0, box=32, sizes=(32, 16), device="cuda:0")
    results = 2 * (16 + 1)  # corners and status
    assert stand_in.count("uploaded") == (70 + 32 - 50) * 100 + results
    assert stand_in.count("synchronizations") == 1


@pytest.mark.parametrize("order", [1, 2])
def test_the_order_of_threads_changes_no_bit(stand_in: StandIn, order: int) -> None:
    image = micrograph((150, 160), "int16", seed=5)
    corners = corners_inside((150, 160), 100, 9) + 50.0
    expected, _ = core.extract(image, corners, box=100, sizes=(100, 62), device="cuda:0")
    stand_in.set(order=order)
    found, _ = core.extract(image, corners, box=100, sizes=(100, 62), device="cuda:0")
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_too_little_memory_says_what_is_needed_and_what_is_free(stand_in: StandIn) -> None:
    image = micrograph((150, 160), "float32")
    stand_in.set(memory=200_000)
    with pytest.raises(
        BackendError, match=r"cuda:0: out of memory: one window of 100 pixels needs about 1 MB, 1 MB are"
    ):
        core.extract(image, [(75.0, 75.0)], box=100, sizes=64, device="cuda:0")


def test_pinned_memory_is_written_directly(stand_in: StandIn) -> None:
    stack = gpu.pinned(16 * 16 * 4, "cuda:0").view(np.float32).reshape(1, 16, 16)
    image = micrograph((60, 60), "float32")
    expected, _ = core.extract(image, [(30.0, 30.0)], box=16, device="cuda:0")
    stand_in.set()
    cut(image, np.array([(22, 22)]), [stack], box=16, radii=[6.0], threads=1, device="cuda:0")
    np.testing.assert_array_equal(stack, expected)


def test_stages_are_timed_on_demand(stand_in: StandIn) -> None:
    stages: dict[str, float] = {}
    gpu.backend("cuda:0").extract(
        *(micrograph((60, 60), "float32"), np.array([(2, 2)]), [np.empty((1, 16, 16), np.float32)]),
        box=32,
        radii=[6.0],
        pad=False,
        **AS_A_BACKEND_IS_TOLD,
        threads=1,
        stages=stages,
    )
    assert set(stages) == {"upload", "gather", "rows", "columns", "inverse", "finish", "download"}
    assert min(stages.values()) > 0
