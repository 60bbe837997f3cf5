"""What each window has of its own: a tube's background, neighbors left out, noise for dust; beside the twins."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cryobox import core, reference
from cryobox.core import STATISTICS, Status
from cryobox.errors import OptionError
from cryobox.options import Recipe
from cryobox.windows import Stored, Windows
from synth import TOLERANCE, corners_inside, micrograph

COLUMN = {name: index for index, name in enumerate(STATISTICS)}


def cut(
    image: NDArray[Any],
    windows: Windows,
    sizes: tuple[int, ...],
    radii: tuple[float, ...],
    threads: int = 1,
    **steps: Any,
) -> tuple[list[NDArray[Any]], NDArray[np.uint8], NDArray[np.float64]]:
    stacks = [np.full((len(windows), size, size), 9, np.float32) for size in sizes]
    stored = [Stored(size=s, dtype="float32", background_radius=r) for s, r in zip(sizes, radii, strict=True)]
    asked = replace(Recipe(box=32).steps(), **steps)
    return stacks, *core.cut(image, windows, stored, asked, into=stacks, threads=threads)


def twin(
    image: NDArray[Any], windows: Windows, sizes: tuple[int, ...], radii: tuple[float, ...], **steps: Any
) -> tuple[tuple[NDArray[np.float64], ...], tuple[str, ...]]:
    return reference.extract(
        image,
        windows.corner,
        box=windows.box,
        sizes=sizes,
        radii=radii,
        edges="pad" if windows.pad else "reject",
        angles=None if windows.angle is None else windows.angle.tolist(),
        neighbors=[] if windows.neighbors is None else windows.neighbors.tolist(),
        keys=[reference.noise_key(windows.seed, (y, x)) for y, x in windows.corner.tolist()],
        **steps,
    )


def assert_agrees(image: NDArray[Any], windows: Windows, sizes: tuple[int, ...], **options: Any) -> None:
    stacks, status, _ = cut(image, windows, sizes, **options)
    expected, words = twin(image, windows, sizes, **options)
    assert [one == Status.OK for one in status] == [word == reference.OK for word in words]
    assert (status == Status.OK).any()
    for stack, oracle in zip(stacks, expected, strict=True):
        error = np.abs(stack - oracle).max(axis=(1, 2))
        assert (error <= TOLERANCE["float32"] * np.abs(oracle).max(axis=(1, 2))).all(), error.max()


def windows_of(shape: tuple[int, int], box: int, count: int, **columns: Any) -> Windows:
    return Windows(box=box, pad=False, corner=corners_inside(shape, box, count), **columns)


ANGLES = np.array([0.0, 90, -90, 180, 45, -45, 30, 60, 89.999999, 17.3, -120, 1e-9, 270, 361])


@pytest.mark.parametrize("ramp", [True, False])
@pytest.mark.parametrize(
    ("sizes", "radii"), [((48,), (9.5,)), ((48, 20), (16.0, 20 / 3)), ((20,), (9.0,)), ((8,), (0.3,))]
)
def test_the_background_of_a_helix_lies_outside_its_tube(
    sizes: tuple[int, ...], radii: tuple[float, ...], ramp: bool
) -> None:
    image = micrograph((120, 130), "int16", seed=11)
    windows = windows_of((120, 130), 48, len(ANGLES), angle=ANGLES)
    assert_agrees(image, windows, sizes, radii=radii, tube=True, ramp=ramp)


def test_a_direction_that_nothing_asks_for_changes_nothing() -> None:
    image = micrograph((90, 90), "float32", seed=12)
    plain = windows_of((90, 90), 32, 5)
    turned = replace(plain, angle=np.linspace(-90, 90, 5))
    for one, other in zip(cut(image, plain, (32,), (12.0,)), cut(image, turned, (32,), (12.0,)), strict=True):
        np.testing.assert_array_equal(one, other)


@settings(max_examples=60, deadline=None)
@given(
    st.floats(-720, 720), st.integers(2, 30), st.floats(0.01, 0.99), st.integers(0, 5), st.integers(0, 2**32)
)  # fmt: skip
def test_any_tube_and_any_neighbors_agree(angle: float, half: int, part: float, count: int, seed: int) -> None:
    size, rng = 2 * half, np.random.default_rng(seed)
    radius = part * (half - 1)
    image = micrograph((70, 80), "float32", seed=seed % 97)
    near = rng.uniform(-10, 90, (count, 2)).round(rng.integers(0, 2))
    windows = Windows(
        box=size,
        pad=False,
        corner=np.array([(3, 7), (10, 5)]),
        angle=np.array([angle, -angle]),
        neighbors=near[np.argsort(near[:, 0])] if count else None,
    )
    assert_agrees(image, windows, (size,), radii=(radius,), tube=True, ramp=half > 6)
    if radius >= 1:
        assert_agrees(image, windows, (size,), radii=(radius,), ramp=half > 6)


@pytest.mark.parametrize(("sizes", "radii"), [((64,), (20.0,)), ((64, 26), (20.0, 8.125))])
def test_what_lies_in_a_neighbor_is_no_background(sizes: tuple[int, ...], radii: tuple[float, ...]) -> None:
    image = micrograph((300, 310), "float32", seed=13)
    windows = windows_of((300, 310), 64, 90)
    centers = (windows.corner + 32).astype(float)
    windows = replace(windows, neighbors=centers[np.argsort(centers[:, 0], kind="stable")])
    assert_agrees(image, windows, sizes, radii=radii)
    alone, _, _ = cut(image, replace(windows, neighbors=None), sizes, radii)
    _, _, statistics = cut(image, windows, sizes, radii)
    assert 0 < statistics[0, :, COLUMN["crowded"]].sum() < 90
    assert not np.array_equal(alone[0], cut(image, windows, sizes, radii)[0][0])


def test_any_number_of_threads_and_any_block_gives_the_same_bits() -> None:
    image = micrograph((300, 310), "int16", seed=14)
    windows = windows_of((300, 310), 48, 30, angle=np.linspace(-180, 180, 30), seed=77)
    centers = (windows.corner + 24).astype(float)
    windows = replace(windows, neighbors=centers[np.argsort(centers[:, 0], kind="stable")])
    steps: dict[str, Any] = {"radii": (14.0, 7.0), "white_dust": 2.5, "black_dust": 2.0, "tube": True}
    whole = cut(image, windows, (48, 24), **steps)
    for some in (slice(0, 1), slice(7, 22)):
        part = cut(image, windows.take(some), (48, 24), threads=3, **steps)
        for one, other in zip(part[0], whole[0], strict=True):
            np.testing.assert_array_equal(one, other[some])
        np.testing.assert_array_equal(part[2], whole[2][:, some])
    alone = cut(image, windows, (24,), **{**steps, "radii": (7.0,)})  # a size stored alone has the same noise
    np.testing.assert_array_equal(alone[0][0], whole[0][1])


@pytest.mark.parametrize(("white", "black"), [(3.0, None), (None, 2.7), (2.5, 2.5), (1.0, 1.0), (0.01, 4.0)])
@pytest.mark.parametrize(("sizes", "radii"), [((48,), (18.0,)), ((48, 26), (18.0, 9.75))])
def test_dust_becomes_noise_of_the_background(
    white: float | None, black: float | None, sizes: tuple[int, ...], radii: tuple[float, ...]
) -> None:
    image = micrograph((200, 210), "float32", seed=15)
    windows = windows_of((200, 210), 48, 12, seed=2**64 - 5)
    assert_agrees(image, windows, sizes, radii=radii, white_dust=white, black_dust=black)
    _, _, statistics = cut(image, windows, sizes, radii, white_dust=white, black_dust=black)
    for k, (size, radius) in enumerate(zip(sizes, radii, strict=True)):
        for i, (y, x) in enumerate(windows.corner.tolist()):
            pixels = reference.fourier_crop(image[y : y + 48, x : x + 48].astype(np.float64), size)
            mask = reference.dust_mask(pixels, reference.background_mask(size, radius), white, black)
            assert statistics[k, i, COLUMN["dust"]] == mask.sum()


def test_gray_levels_that_float32_does_not_sum_have_the_same_dust() -> None:
    image = micrograph((80, 80), "float32", seed=16, mean=0.0, sd=1.0)
    windows = windows_of((80, 80), 32, 6, seed=3)
    centers = (windows.corner + 16).astype(np.float64)
    windows = replace(windows, neighbors=centers[np.argsort(windows.corner[:, 0], kind="stable")])
    steps: dict[str, Any] = {"white_dust": 2.0, "black_dust": 2.5}
    plain = cut(image, windows, (32,), (9.0,), **steps)
    for factor in (2.0**-125, 2.0**110):
        scaled = cut((image * np.float32(factor)).astype(np.float32), windows, (32,), (9.0,), **steps)
        np.testing.assert_allclose(scaled[0][0], plain[0][0], atol=2e-5)
        assert scaled[2][0, :, COLUMN["dust"]].tolist() == plain[2][0, :, COLUMN["dust"]].tolist()


def test_the_noise_is_gaussian_and_another_one_for_every_key_size_and_pixel() -> None:
    noise = np.array([reference.gaussian(reference.noise_key(5, (3, -7)), 64, i) for i in range(20000)])
    assert abs(noise.mean()) < 0.03
    assert abs(noise.std() - 1) < 0.02
    assert abs((noise**4).mean() - 3) < 0.25
    assert np.abs(np.corrcoef(noise[:-1], noise[1:])[0, 1]) < 0.03
    keys = {reference.noise_key(seed, (y, x)) for seed in (0, 1) for y in range(-3, 3) for x in range(-3, 3)}
    assert len(keys) == 72
    assert len({reference.gaussian(key, size, 0) for key in list(keys)[:5] for size in (32, 64)}) == 10


@pytest.mark.parametrize(
    ("asked", "why"),
    [({"normalize": False, "white_dust": 3.0}, "cannot be used without normalize"),
     ({"helical_outer_diameter_angstrom": 50.0, "background_radius": 10.0}, "not both"),
     ({"white_dust": 0.0}, "white_dust must be"), ({"black_dust": float("nan")}, "black_dust must be")],
)  # fmt: skip
def test_options_that_contradict_each_other_are_refused(asked: dict[str, Any], why: str) -> None:
    with pytest.raises(OptionError, match=why):
        Recipe(box=64, **asked)


@pytest.mark.parametrize("radius", [0.0, 15.01, -1.0, np.nan])
def test_a_tube_that_leaves_no_background_is_refused(radius: float) -> None:
    image = micrograph((80, 80), "float32", seed=17)
    with pytest.raises(OptionError, match="at most half the size of its images - 1"):
        cut(image, windows_of((80, 80), 32, 1, angle=np.zeros(1)), (32,), (radius,), tube=True)
    with pytest.raises(OptionError, match="a tube must leave a background"):
        Recipe(box=32, helical_outer_diameter_angstrom=50.0).check_background(radius, 32)


@pytest.mark.parametrize("angle", [None, 33.0])
@pytest.mark.parametrize(("sizes", "radii"), [((48,), (15.0,)), ((48, 26), (15.0, 8.125))])
@pytest.mark.parametrize("invert", [False, True])
def test_measures_are_those_of_the_twin(
    sizes: tuple[int, ...], radii: tuple[float, ...], invert: bool, angle: float | None
) -> None:
    image = micrograph((200, 210), "uint16", seed=21)
    image[40:60, 50:70] = 65535
    tube = angle is not None
    windows = windows_of((200, 210), 48, 10, angle=np.full(10, angle) if tube else None)
    steps: dict[str, Any] = {"radii": radii, "invert": invert, "tube": tube, "scale_const": 3.0}
    _, status, statistics = cut(image, windows, sizes, measures=True, **steps)
    assert (status == Status.OK).all()
    expected, _ = twin(image, windows, sizes, measures=True, **steps)
    for k, (size, radius) in enumerate(zip(sizes, radii, strict=True)):
        mask = (
            reference.tube_mask(size, angle, radius) if angle is not None else reference.background_mask(size, radius)
        )
        for i, (y, x) in enumerate(windows.corner.tolist()):  # of the first size
            found = reference.measures(expected[k][i], radius, mask, angle=angle)
            found["saturated"] = reference.saturated_part(image[y : y + 48, x : x + 48], image.dtype)
            for name, value in found.items():
                said = statistics[k, i, COLUMN[name]]
                assert said == (pytest.approx(value, rel=1e-4, abs=1e-6) if k == 0 else 0), name
    assert statistics[0, :, COLUMN["saturated"]].max() > 0
    plain = cut(image, windows, sizes, **steps)[2]
    np.testing.assert_array_equal(plain[:, :, : COLUMN["contrast"]], statistics[:, :, : COLUMN["contrast"]])
    assert not plain[:, :, COLUMN["contrast"] :].any()
