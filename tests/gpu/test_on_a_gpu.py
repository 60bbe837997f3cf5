"""What only a real device shows: cuFFT's accuracy, bits, callers beside each other, arrays of other libraries.

What the stand-in can show as well is tested with both, in tests/core and the other files here.
"""

from __future__ import annotations

import importlib.util
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray

import cryobox
from cryobox import core, gpu, reference
from cryobox.errors import BackendError, OptionError
from cutting import cut
from synth import PIXEL_TYPES, TOLERANCE, corners_inside, micrograph, stored

pytestmark = pytest.mark.gpu

DEVICE = "cuda:0"
BOX, SIZE, RADIUS = 400, 128, 48


def library(name: str) -> Any:
    """Another library that works on this device; skips where it does not."""
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    before = dict(os.environ)
    module = pytest.importorskip(name, exc_type=ImportError)
    for variable in set(os.environ) - set(before):  # JAX's, which no other test is to see
        del os.environ[variable]
    if name == "torch" and not module.cuda.is_available():
        pytest.skip("PyTorch finds no GPU")
    if name == "jax" and module.default_backend() != "gpu":
        pytest.skip("JAX finds no GPU")
    return module


@pytest.fixture(scope="module")
def image() -> NDArray[np.float32]:
    return micrograph((1500, 1700), "float32", seed=1, mean=10.0, sd=1.0)


@pytest.fixture(scope="module")
def centers() -> NDArray[np.float64]:
    return np.random.default_rng(2).integers(BOX // 2, 1500 - BOX // 2, (150, 2)).astype(np.float64)


@pytest.fixture(scope="module")
def expected(image: NDArray[np.float32], centers: NDArray[np.float64]) -> NDArray[np.float32]:
    """The images that the device makes of host memory."""
    return np.asarray(extract(image, centers))


def extract(image: Any, centers: NDArray[np.float64]) -> Any:
    return cryobox.extract(image, centers, box=BOX, sizes=SIZE, device=DEVICE)[0]


# Accuracy ------------------------------------------------------------------------------------------------------------

AWKWARD = [
    (2, 2),
    (4, 2),
    (6, 4),
    (94, 94),
    (94, 46),  # 2 * 47 to 2 * 23
    (128, 126),
    (254, 252),
    (262, 134),  # 2 * 131 to 2 * 67
    (450, 450),
    (450, 150),
    (512, 508),
    (882, 294),
    (882, 878),
    (1024, 1024),
    (1024, 256),
    (1186, 592),  # 2 * 593
    (2744, 686),
]


@pytest.mark.parametrize(("box", "size"), AWKWARD)
def test_awkward_sizes_agree_with_the_oracle(box: int, size: int) -> None:
    shape = (box + 9, box + 14)
    # Other numbers each time; the seed is said where it fails.
    seed = int(np.random.default_rng().integers(2**31))
    pixels = micrograph(shape, "float32", seed=seed)
    corners = corners_inside(shape, box, 3, seed=seed)
    normalize = size >= 6
    radius = float(int(0.375 * size)) if normalize else 0.0
    stack = np.full((len(corners), size, size), np.nan, np.float32)
    status, _ = cut(pixels, corners, [stack], box=box, radii=[radius], normalize=normalize, device=DEVICE)
    (oracle,), _ = reference.extract(pixels, corners, box=box, sizes=(size,), radii=[radius], normalize=normalize)
    assert (status == core.Status.OK).all()
    worst = (np.abs(stack - oracle).max(axis=(1, 2)) / np.abs(oracle).max(axis=(1, 2))).max()
    assert worst <= TOLERANCE["float32"], f"{worst:.2e} of the largest value, seed {seed}"


@pytest.mark.parametrize("edges", ["reject", "pad"])
def test_random_pictures_agree_with_the_oracle(edges: Literal["reject", "pad"]) -> None:
    rng = np.random.default_rng()
    seed = int(rng.integers(2**31))
    rng = np.random.default_rng(seed)
    for _ in range(12):
        box = 2 * int(rng.integers(8, 120))
        small = 2 * int(rng.integers(4, box // 2))
        sizes = (box, small) if rng.random() < 0.5 else (small,)
        shape = (box + int(rng.integers(2, 90)), box + int(rng.integers(2, 90)))
        dtype = str(rng.choice(PIXEL_TYPES))
        pixels = stored(micrograph(shape, dtype, seed=int(rng.integers(2**31))), byte_order=rng.choice(["<", ">"]))
        corners = np.column_stack([rng.integers(-box // 3, limit - 2 * box // 3, 9) for limit in shape])
        radii = [float(int(0.375 * size)) for size in sizes]
        options: dict[str, Any] = {"ramp": bool(rng.random() < 0.5), "invert": bool(rng.random() < 0.5)}
        stacks = [np.full((len(corners), size, size), np.nan, np.float32) for size in sizes]
        status, _ = cut(pixels, corners, stacks, box=box, radii=radii, pad=edges == "pad", device=DEVICE, **options)
        oracle, words = reference.extract(pixels, corners, box=box, sizes=sizes, radii=radii, edges=edges, **options)
        assert [word == reference.OK for word in words] == (status == core.Status.OK).tolist(), f"seed {seed}"
        for stack, images in zip(stacks, oracle, strict=True):
            error = np.abs(stack - images).max(axis=(1, 2))
            assert (error <= TOLERANCE["float32"] * np.abs(images).max(axis=(1, 2))).all(), f"seed {seed}"


# Bits ----------------------------------------------------------------------------------------------------------------


def test_bits_do_not_depend_on_what_else_is_cut(
    image: NDArray[np.float32], centers: NDArray[np.float64], expected: NDArray[np.float32]
) -> None:
    order = np.random.default_rng(3).permutation(len(centers))
    np.testing.assert_array_equal(extract(image, centers[order]), expected[order])
    np.testing.assert_array_equal(extract(image, centers[:37]), expected[:37])
    np.testing.assert_array_equal(extract(image, centers[:1]), expected[:1])


def test_bits_do_not_depend_on_how_many_call(
    image: NDArray[np.float32], centers: NDArray[np.float64], expected: NDArray[np.float32]
) -> None:
    with ThreadPoolExecutor(12) as pool:
        for found in pool.map(lambda _: extract(image, centers), range(60)):
            np.testing.assert_array_equal(found, expected)


def test_callers_with_different_work_do_not_disturb_each_other(image: NDArray[np.float32]) -> None:
    jobs = [(box, size, count) for box, size in ((64, 32), (400, 128), (256, 256), (334, 166)) for count in (1, 40)]
    corners = np.random.default_rng(4).integers(0, 1000, (40, 2))

    def one(job: tuple[int, int, int]) -> NDArray[np.float32]:
        box, size, count = job
        stack = np.full((count, size, size), np.nan, np.float32)
        cut(image, corners[:count], [stack], box=box, radii=[float(int(0.375 * size))], device=DEVICE)
        return stack

    alone = [one(job) for job in jobs]
    with ThreadPoolExecutor(8) as pool:
        for number, found in enumerate(pool.map(one, jobs * 8)):
            np.testing.assert_array_equal(found, alone[number % len(jobs)])


@pytest.mark.parametrize("megabytes", [500, 120, 60, 30])
def test_little_memory_costs_time_and_no_accuracy(
    image: NDArray[np.float32], centers: NDArray[np.float64], expected: NDArray[np.float32], megabytes: int
) -> None:
    stack = np.full((len(centers), SIZE, SIZE), np.nan, np.float32)
    corners = (centers - BOX // 2).astype(np.int64)
    cut(image, corners, [stack], box=BOX, radii=[RADIUS], device=DEVICE, device_memory=megabytes << 20)
    error = np.abs(stack - expected).max() / np.abs(expected).max()
    assert error <= 2 * TOLERANCE["float32"]  # smaller batches: other plans, other last bits


def test_too_much_is_refused_and_the_device_goes_on(
    image: NDArray[np.float32], centers: NDArray[np.float64], expected: NDArray[np.float32]
) -> None:
    with pytest.raises(BackendError, match="memory"):
        gpu.backend(DEVICE).empty((1 << 22, 1 << 10, 1 << 10), "float32")
    np.testing.assert_array_equal(extract(image, centers), expected)


# Other libraries -----------------------------------------------------------------------------------------------------


def test_torch_in_and_out(image: NDArray[np.float32], centers: NDArray[np.float64], expected: NDArray[Any]) -> None:
    torch = library("torch")
    there = extract(torch.from_numpy(image).cuda(), centers)
    np.testing.assert_array_equal(there.to_host(), expected)
    tensor = torch.from_dlpack(there)
    del there  # the tensor keeps what it shows
    np.testing.assert_array_equal(tensor.cpu().numpy(), expected)
    again = torch.as_tensor(extract(torch.from_numpy(image).cuda(), centers), device="cuda")
    np.testing.assert_array_equal(again.cpu().numpy(), expected)
    padded = torch.from_numpy(np.pad(image, ((0, 0), (0, 12)))).cuda()[:, : image.shape[1]]
    np.testing.assert_array_equal(extract(padded, centers).to_host(), expected)
    pinned = torch.from_numpy(image).pin_memory().numpy()
    np.testing.assert_array_equal(extract(pinned, centers), expected)


def test_what_torch_still_does_on_another_stream_is_waited_for(
    image: NDArray[np.float32], centers: NDArray[np.float64], expected: NDArray[Any]
) -> None:
    torch = library("torch")
    source = torch.from_numpy(image).cuda()
    for _ in range(5):
        late = torch.zeros(image.shape, device="cuda")
        torch.cuda.synchronize()
        with torch.cuda.stream(torch.cuda.Stream()):
            torch.cuda._sleep(20_000_000)
            late.copy_(source)
            np.testing.assert_array_equal(extract(late, centers).to_host(), expected)


def test_memory_of_torch_is_written_in_place(
    image: NDArray[np.float32], centers: NDArray[np.float64], expected: NDArray[Any]
) -> None:
    torch = library("torch")
    stack = torch.full((len(centers), SIZE, SIZE), float("nan"), device="cuda")
    corners = (centers - BOX // 2).astype(np.int64)
    cut(image, corners, [stack], box=BOX, radii=[RADIUS], device=DEVICE)
    np.testing.assert_array_equal(stack.cpu().numpy(), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensor: tensor.requires_grad_(), "detach"),
        (lambda tensor: tensor.bfloat16(), "must be integers or floats|float"),
        (lambda tensor: tensor.cpu(), "must be a NumPy array"),
    ],
)
def test_tensors_that_cannot_be_read_are_refused_with_the_reason(
    image: NDArray[np.float32], centers: NDArray[np.float64], change: Any, message: str
) -> None:
    torch = library("torch")
    with pytest.raises(OptionError, match=message):
        extract(change(torch.from_numpy(image).cuda()), centers)


def test_cupy_in_and_out(image: NDArray[np.float32], centers: NDArray[np.float64], expected: NDArray[Any]) -> None:
    cupy = library("cupy")
    there = extract(cupy.asarray(image), centers)
    np.testing.assert_array_equal(cupy.from_dlpack(there).get(), expected)
    np.testing.assert_array_equal(cupy.asarray(there).get(), expected)
    stack = cupy.full((len(centers), SIZE, SIZE), np.nan, np.float32)
    corners = (centers - BOX // 2).astype(np.int64)
    cut(cupy.asarray(image), corners, [stack], box=BOX, radii=[RADIUS], device=DEVICE)
    np.testing.assert_array_equal(stack.get(), expected)


def test_jax_in_and_out(image: NDArray[np.float32], centers: NDArray[np.float64], expected: NDArray[Any]) -> None:
    jax = library("jax")
    there = extract(jax.numpy.asarray(image), centers)
    np.testing.assert_array_equal(np.asarray(jax.dlpack.from_dlpack(there)), expected)


def test_immutable_arrays_are_not_written_to(image: NDArray[np.float32], centers: NDArray[np.float64]) -> None:
    jax = library("jax")
    stack = jax.numpy.zeros((len(centers), SIZE, SIZE), "float32")
    corners = (centers - BOX // 2).astype(np.int64)
    with pytest.raises(OptionError, match="writable"):
        cut(image, corners, [stack], box=BOX, radii=[RADIUS], device=DEVICE)
    assert not np.asarray(stack).any()
