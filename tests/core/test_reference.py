"""The float64 oracle, on cases that can be computed by hand or by a discrete Fourier transform written out here."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cryobox import reference
from cryobox.particles import Reason

CROPS = [(2, 2), (4, 2), (6, 4), (8, 8), (10, 2), (12, 10), (14, 6), (34, 22)]


def dft_matrix(n: int) -> NDArray[Any]:
    k = np.arange(n)
    matrix: NDArray[Any] = np.exp(-2j * np.pi * np.outer(k, k) / n)
    return matrix


def crop_by_spectrum(image: NDArray[Any], size: int) -> NDArray[Any]:
    """The crop as a walk over the full two-dimensional spectrum, each frequency by its signed number."""
    n = len(image)
    spectrum = dft_matrix(n) @ image @ dft_matrix(n).T
    small = np.zeros((size, size), complex)
    half = size // 2
    ends = {half: (half, -half)}  # the frequency at the new Nyquist line stands for both signs, each by half
    for ky in range(-half + 1, half + 1):
        for kx in range(-half + 1, half + 1):
            values = [spectrum[a % n, b % n] for a in ends.get(ky, (ky,)) for b in ends.get(kx, (kx,))]
            small[ky % size, kx % size] = np.mean(values)
    inverse = np.conj(dft_matrix(size)) / size
    out: NDArray[Any] = inverse @ small @ inverse.T * (size / n) ** 2
    assert np.abs(out.imag).max() < 1e-12 * max(1.0, np.abs(image).max())
    return np.asarray(out.real)


def wave(n: int, k: int, phase: float = 0.0) -> NDArray[Any]:
    """cos(2 pi k x / n + phase) along x, constant along y."""
    return np.tile(np.cos(2 * np.pi * k * np.arange(n) / n + phase), (n, 1))


@pytest.mark.parametrize(("n", "m"), CROPS)
def test_the_crop_is_what_a_full_discrete_fourier_transform_gives(n: int, m: int) -> None:
    image = np.random.default_rng(n * 100 + m).normal(size=(n, n))
    np.testing.assert_allclose(reference.fourier_crop(image, m), crop_by_spectrum(image, m), atol=1e-12)


@pytest.mark.parametrize(("n", "m"), [*CROPS, (62, 34), (100, 98), (256, 64), (400, 128)])
def test_the_crops_matrix_is_the_sum_of_cosines_that_defines_it(n: int, m: int) -> None:
    i, j = np.mgrid[:m, :n]
    terms = [np.ones((m, n))]
    terms += [2 * np.cos(2 * np.pi * k * (i / m - j / n)) for k in range(1, m // 2)]
    terms += [np.cos(np.pi * m * (i / m - j / n))]
    np.testing.assert_allclose(reference.crop_matrix(n, m), np.sum(terms, axis=0) / n, atol=1e-13)


@pytest.mark.parametrize("n", [2, 4, 34, 256])
def test_a_crop_to_the_same_size_is_the_identity(n: int) -> None:
    np.testing.assert_allclose(reference.crop_matrix(n, n), np.eye(n), atol=1e-12)


def test_the_crop_from_four_to_two_is_the_matrix_worked_out_by_hand() -> None:
    # (1/4) * (1 + cos(2 pi (i/2 - j/4)))
    np.testing.assert_allclose(reference.crop_matrix(4, 2), [[0.5, 0.25, 0, 0.25], [0, 0.25, 0.5, 0.25]], atol=1e-15)


@pytest.mark.parametrize(("n", "m"), [(3, 2), (4, 3), (4, 6), (4, 0)])
def test_odd_or_growing_crops_are_refused(n: int, m: int) -> None:
    with pytest.raises(ValueError, match="even number of points"):
        reference.crop_matrix(n, m)


@pytest.mark.parametrize(("n", "m"), CROPS)
def test_a_constant_keeps_its_gray_level(n: int, m: int) -> None:
    np.testing.assert_allclose(reference.fourier_crop(np.full((n, n), 7.25), m), 7.25, rtol=1e-13)


def test_a_wave_below_nyquist_keeps_its_height_and_position() -> None:
    np.testing.assert_allclose(reference.fourier_crop(wave(24, 3, 0.7), 8), wave(8, 3, 0.7), atol=1e-13)


@pytest.mark.parametrize("phase", [0.0, 0.7])
def test_a_wave_at_nyquist_keeps_half_of_each_sign(phase: float) -> None:
    # cos(2 pi 4 x/24 + phase) has exp(+i phase)/2 at +4 and its conjugate at -4; their mean is cos(phase)/2
    expected = np.cos(phase) / 2 * wave(8, 4)
    np.testing.assert_allclose(reference.fourier_crop(wave(24, 4, phase), 8), expected, atol=1e-13)


def test_a_wave_above_nyquist_vanishes() -> None:
    np.testing.assert_allclose(reference.fourier_crop(wave(24, 5, 0.3), 8), 0, atol=1e-13)


def test_a_point_at_the_center_stays_at_the_center_with_its_sum() -> None:
    image = np.zeros((16, 16))
    image[8, 8] = 64.0
    cropped = reference.fourier_crop(image, 4)
    assert cropped.argmax() == 2 * 4 + 2
    assert cropped.mean() == pytest.approx(image.mean())
    np.testing.assert_allclose(cropped[1, 1:], cropped[3, 1:], atol=1e-13)  # symmetric about the center
    # One axis at the center: (1/16) * (1 + 2 * 1 + 1) = 1/4
    assert cropped[2, 2] == pytest.approx(64.0 / 16)


def test_the_background_lies_strictly_outside_the_circle() -> None:
    mask = reference.background_mask(8, 3)
    assert not mask[4, 1]  # distance 3 exactly
    assert mask[4, 0]  # distance 4
    assert not mask[2, 2]
    assert mask[1, 2]
    assert mask.sum() == 64 - 29  # 29 lattice points in a circle of radius 3


def test_normalizing_takes_mean_and_sd_of_the_background_only() -> None:
    image = np.full((8, 8), 3.0)
    image[::2] = 5.0  # rows of 3 and 5
    image[4, 4] = 1000.0  # inside the circle
    mask = reference.background_mask(8, 3)
    out = reference.normalize(image, 3, ramp=False)
    assert out is not None
    assert out[mask].mean() == pytest.approx(0, abs=1e-14)
    assert np.sqrt((out[mask] ** 2).mean()) == pytest.approx(1)
    mean, sd = image[mask].mean(), image[mask].std()
    assert out[4, 4] == pytest.approx((1000 - mean) / sd)


def test_a_given_scale_divides_instead_of_the_sd() -> None:
    image = np.random.default_rng(1).normal(5, 2, (8, 8))
    own = reference.normalize(image, 3, ramp=False)
    given = reference.normalize(image, 3, ramp=False, scale_const=4.0)
    assert own is not None
    assert given is not None
    mask = reference.background_mask(8, 3)
    np.testing.assert_allclose(given * 4.0, own * image[mask].std())


def test_a_ramp_under_a_pattern_is_taken_off_exactly() -> None:
    y, x = np.mgrid[:16, :16]
    pattern = np.random.default_rng(2).normal(size=(16, 16))
    flat = reference.normalize(pattern, 6)
    sloped = reference.normalize(pattern + 4.0 + 0.5 * y - 0.25 * x, 6)
    assert flat is not None
    assert sloped is not None
    np.testing.assert_allclose(sloped, flat, atol=1e-12)
    level = reference.normalize(pattern + 4.0 + 0.5 * y - 0.25 * x, 6, ramp=False)
    assert level is not None
    assert np.abs(level - flat).max() > 0.1


def test_an_even_background_has_no_contrast() -> None:
    assert reference.normalize(np.full((8, 8), 0.0), 3, ramp=False) is None
    assert reference.normalize(np.full((8, 8), 0.1), 3, ramp=True) is None  # whatever the fit's rounding leaves
    assert reference.normalize(np.full((8, 8), np.inf), 3, ramp=False) is None


IMAGE = np.arange(20.0).reshape(4, 5)


@pytest.mark.parametrize(
    ("corner", "reject", "pad"),
    [
        ((0, 0), reference.OK, reference.OK),
        ((2, 3), reference.OK, reference.OK),  # an exact fit at the far corner
        ((3, 3), reference.EDGE, reference.OK),
        ((0, -1), reference.EDGE, reference.OK),
        ((-2, 0), reference.OUTSIDE, reference.OUTSIDE),
        ((0, 5), reference.OUTSIDE, reference.OUTSIDE),
        ((2**62, -(2**62)), reference.OUTSIDE, reference.OUTSIDE),
    ],
)
def test_a_box_of_two_is_inside_over_the_edge_or_outside(corner: tuple[int, int], reject: str, pad: str) -> None:
    assert reference.edge_status((4, 5), corner, 2, "reject") == reject
    assert reference.edge_status((4, 5), corner, 2, "pad") == pad


def test_a_window_is_the_slice_at_its_corner() -> None:
    np.testing.assert_array_equal(reference.window(IMAGE, (1, 2), 2), [[7, 8], [12, 13]])


def test_padding_repeats_the_nearest_pixel() -> None:
    np.testing.assert_array_equal(reference.window(IMAGE, (-1, 4), 2, "pad"), [[4, 4], [4, 4]])
    np.testing.assert_array_equal(reference.window(IMAGE, (3, -1), 2, "pad"), [[15, 15], [15, 15]])
    with pytest.raises(ValueError, match="box over the edge"):
        reference.window(IMAGE, (3, -1), 2, "reject")


def test_extract_gives_zeros_and_the_reason_for_what_it_rejects() -> None:
    image = np.random.default_rng(3).normal(100, 1, (20, 20))
    image[0, 19] = np.nan
    image[12:, :8] = 5.0
    corners = [(0, 0), (0, 12), (12, 0), (13, 0), (20, 0)]
    (large, small), status = reference.extract(image, corners, box=8, sizes=(8, 4), radii=(3, 1), edges="reject")
    assert status == (
        reference.OK,
        reference.NOT_FINITE,
        reference.NO_CONTRAST,
        reference.EDGE,
        reference.OUTSIDE,
    )
    assert large.shape == (5, 8, 8)
    assert small.shape == (5, 4, 4)
    assert large[0].any()
    assert small[0].any()
    assert not large[1:].any()
    assert not small[1:].any()


def test_extract_without_normalization_keeps_gray_levels_or_their_negative() -> None:
    image = np.random.default_rng(4).integers(0, 255, (10, 10)).astype(np.uint8)
    kwargs: dict[str, Any] = {"box": 6, "sizes": (6,), "radii": (2,), "normalize": False}
    (plain,), _ = reference.extract(image, [(2, 3)], **kwargs)
    (negative,), _ = reference.extract(image, [(2, 3)], invert=True, **kwargs)
    np.testing.assert_allclose(plain[0], image[2:8, 3:9], atol=1e-11)
    np.testing.assert_array_equal(negative, -plain)


def test_the_words_for_rejections_are_those_of_the_tables() -> None:
    words = {reference.EDGE, reference.OUTSIDE, reference.NOT_FINITE, reference.NO_CONTRAST}
    assert words <= {str(reason) for reason in Reason}


@pytest.mark.parametrize(
    ("position", "shift", "center", "residual"),
    [
        (100.9, 0.0, 100, 0.0),  # truncated, not rounded
        (-3.7, 0.0, -3, 0.0),  # toward zero
        (100.0, 2.3, 98, 0.3),  # the image must move by +2.3, so the box moves the other way
        (100.0, -2.7, 103, 0.3),
        (100.0, 0.5, 100, 0.5),  # exact halves stay
        (100.0, 0.50005, 100, 0.50005),  # ... also where float32 made them slightly more
        (100.0, 0.51, 99, -0.49),
        (100.0, 1.5, 98, -0.5),  # half away from zero
        (100.0, -1.5, 102, 0.5),
    ],
)
def test_recentering_moves_the_box_against_the_shift(
    position: float, shift: float, center: int, residual: float
) -> None:
    moved = reference.recenter((position, 7.0), shift=(shift, 0.0))
    assert moved.center == (center, 7)
    assert moved.residual == pytest.approx((residual, 0.0))


def test_a_shift_in_another_pixel_size_is_scaled() -> None:
    moved = reference.recenter((50.0, 60.0), shift=(2.0, -1.0), shift_pixel_size=4.0, pixel_size=2.0)
    assert moved.r == (4, -2)
    assert moved.center == (46, 62)


def test_fractions_are_guarded_against_falling_below_their_integer() -> None:
    assert reference.recenter((99.9995, 4.0), from_fractions=True).base == (100, 4)
    assert reference.recenter((99.9995, 4.0)).base == (99, 4)
    assert reference.recenter((99.5, 4.0), rounding="nearest").base == (100, 4)


def test_another_binning_truncates_in_the_picks_own_grid_and_scales() -> None:
    # 10.9 -> 10 in the grid; 10 * 300/100 = 30 in the file
    moved = reference.recenter((10.9, 10.9), grid_shape=(100, 100), read_shape=(300, 300))
    assert moved.center == (30, 30)
    # 11 * 100/200 = 5.5: base 5, and half a pixel joins a shift of 0.4 pixels: 0.4 - 0.5 = -0.1, the box stays
    moved = reference.recenter((11.0, 11.0), shift=(0.4, -0.4), grid_shape=(200, 200), read_shape=(100, 100))
    assert moved.base == (5, 5)
    assert moved.center == (5, 6)
    assert moved.residual == pytest.approx((-0.1, 0.1))
