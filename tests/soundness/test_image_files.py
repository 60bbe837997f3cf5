"""Faults of stacks and micrographs, planted one at a time; and none where there is none."""

from __future__ import annotations

import bz2
import gzip
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import synth
from soundness.planted import change, check, faults, images, only_problem, stack

PACK: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress}


# ------------------------------------------------------------------------------------------------------------ sound


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", synth.MRC_MODES)
@pytest.mark.parametrize("kind", [".mrc", ".mrcs", ".map"])
@pytest.mark.parametrize("packing", PACK)
def test_a_sound_file_of_every_kind_has_no_problem(
    tmp_path: Path, kind: str, packing: str, dtype: str, order: synth.ByteOrder
) -> None:
    several = np.stack([synth.micrograph((33, 47), dtype, seed=seed) for seed in range(5)])
    for content in (several, several[:1]):
        plain = synth.write_mrc(
            tmp_path / "plain", content, pixel_size=1.5, byte_order=order, extended_header=b"FEI1" * 7, stack=True
        )
        path = tmp_path / f"x{kind}{packing}"
        path.write_bytes(PACK[packing](plain.read_bytes()))
        (found,) = check(path)
        assert found.problems == ()
        assert found.counts["checked"] == len(content)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "float16", "float32"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_sound_tiff_has_no_problem(tmp_path: Path, dtype: str, compression: str | None) -> None:
    tifffile = pytest.importorskip("tifffile")
    for name in ("a.tif", "a.tiff"):
        tifffile.imwrite(tmp_path / name, synth.micrograph((40, 50), dtype), compression=compression)
        (found,) = check(tmp_path / name)
        assert (found.problems, found.kind) == ((), "micrograph")


def test_ranges_of_means_and_sds_of_a_stack_are_told(tmp_path: Path) -> None:
    content = images() + np.linspace(-0.2, 0.2, 12, dtype=np.float32)[:, None, None]
    (found,) = check(stack(tmp_path / "a.mrcs", content))
    flat = content.reshape(12, -1).astype(np.float64)
    assert found.counts["mean_min"] == pytest.approx(flat.mean(1).min(), abs=1e-6)
    assert found.counts["mean_max"] == pytest.approx(flat.mean(1).max(), abs=1e-6)
    assert found.counts["sd_min"] == pytest.approx(flat.std(1).min(), rel=1e-6)
    assert found.counts["sd_max"] == pytest.approx(flat.std(1).max(), rel=1e-6)
    assert f"means {flat.mean(1).min():.4g} to {flat.mean(1).max():.4g}, sds " in found.about


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint16"])
def test_images_that_are_read_in_parts_are_measured_as_one(tmp_path: Path, dtype: str) -> None:
    content = synth.micrograph((1501, 2003), dtype, mean=900.0, sd=30.0)
    (found,) = check(synth.write_mrc(tmp_path / "a.mrc", content))
    assert found.problems == ()
    assert found.counts["mean_min"] == pytest.approx(content.mean(dtype=np.float64), rel=1e-6)
    assert found.counts["sd_min"] == pytest.approx(content.std(dtype=np.float64), rel=1e-5)


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    peaks = []
    for n in (200, 1200):  # 13 and 79 MB
        path = stack(tmp_path / "a.mrcs", images(n, 128))
        tracemalloc.start()
        assert faults(path) == []
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 2e6
    assert peaks[1] < 25e6


def test_gray_levels_whose_squares_leave_float32_are_measured(tmp_path: Path) -> None:
    content = (images() * 1e37 + 2e38).astype(np.float32)
    (found,) = check(stack(tmp_path / "a.mrcs", content))
    assert found.problems == ()
    assert found.counts["sd_min"] == pytest.approx(content.reshape(12, -1).astype(float).std(1).min(), rel=1e-5)


# ----------------------------------------------------------------------------------------------------------- length


def test_a_short_stack_is_told_with_the_images_that_are_not_there(tmp_path: Path) -> None:
    path = stack(tmp_path / "a.mrcs")
    path.write_bytes(path.read_bytes()[: 1024 + 9 * 4096 + 100])
    fault, text, numbers = only_problem(path)
    assert (fault, numbers) == ("length", ())
    assert text == (
        f"{path}: header promises 12 x 32 x 32 float32 (49152 bytes), file holds 36964; copied incompletely?; "
        "images 10 to 12 are not there"
    )


def test_images_before_the_cut_are_checked_all_the_same(tmp_path: Path) -> None:
    content = images()
    content[3] = 0
    path = stack(tmp_path / "a.mrcs", content)
    path.write_bytes(path.read_bytes()[:-1])
    assert faults(path) == ["length", "constant"]


@pytest.mark.parametrize("held", [0, 500, 1023])
def test_a_file_without_a_whole_header_is_damaged(tmp_path: Path, held: int) -> None:
    path = stack(tmp_path / "a.mrcs")
    path.write_bytes(path.read_bytes()[:held])
    assert faults(path) == ["damaged"]


def test_a_long_file_is_told(tmp_path: Path) -> None:
    path = stack(tmp_path / "a.mrcs")
    path.write_bytes(path.read_bytes() + b"12345")
    fault, text, _ = only_problem(path)
    assert fault == "length"
    assert "file is 5 bytes longer than its header says" in text


@pytest.mark.parametrize("packing", [".gz", ".bz2"])
@pytest.mark.parametrize(("cut", "fault"), [(-4096, "length"), (3, "length")])
def test_an_inflated_file_of_another_length_is_told(tmp_path: Path, packing: str, cut: int, fault: str) -> None:
    data = stack(tmp_path / "a.mrcs").read_bytes()
    path = tmp_path / f"b.mrcs{packing}"
    path.write_bytes(PACK[packing](data[:cut] if cut < 0 else data + b"x" * cut))
    assert faults(path) == [fault]


@pytest.mark.parametrize("packing", [".gz", ".bz2"])
def test_damaged_compressed_bytes_are_told(tmp_path: Path, packing: str) -> None:
    packed = PACK[packing](stack(tmp_path / "a.mrcs").read_bytes())
    path = tmp_path / f"b.mrcs{packing}"
    path.write_bytes(packed[:-9])
    assert faults(path) == ["damaged"]
    wrong = bytearray(packed)
    wrong[len(wrong) // 2] ^= 255
    path.write_bytes(wrong)
    assert faults(path)[0] == "damaged"  # and the pixel, where it is no number that others are near


def test_a_mode_that_nobody_knows_is_told(tmp_path: Path) -> None:
    fault, text, _ = only_problem(change(stack(tmp_path / "a.mrcs"), mode=9))
    assert fault == "damaged"
    assert text.startswith(f"{tmp_path}/a.mrcs: header says mode 9; expected one of 0, 1, 2, 6, 12")


def test_a_cut_tiff_is_told(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, synth.micrograph((40, 50)), metadata=None)
    path.write_bytes(path.read_bytes()[:-50])
    assert faults(path) == ["damaged"]


# ----------------------------------------------------------------------------------------------------------- pixels


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_pixel_that_is_not_finite_is_told_with_its_image(tmp_path: Path, value: float, dtype: str) -> None:
    content = images(dtype=dtype)
    content[4, 31, 31] = value
    path = stack(tmp_path / "a.mrcs", content)
    assert only_problem(path) == (
        "not finite",
        f"{path}: 1 of 12 images is not finite (nan or infinite pixels); 1 pixel in all: 5",
        (5,),
    )


def test_the_last_pixel_of_a_large_micrograph_is_looked_at(tmp_path: Path) -> None:
    content = synth.micrograph((1501, 2003))
    content[-1, -1] = np.nan
    path = synth.write_mrc(tmp_path / "a.mrc", content)
    _, text, _ = only_problem(path)
    assert text == f"{path}: is not finite (nan or infinite pixels); 1 pixel in all"


@pytest.mark.parametrize("dtype", ["float32", "float16", "int16", "int8"])
def test_constant_images_are_named(tmp_path: Path, dtype: str) -> None:
    content = (images() * 10).astype(dtype)
    content[[2, 3, 4, 8]] = 7
    path = stack(tmp_path / "a.mrcs", content)
    text = f"{path}: 4 of 12 images are constant (all pixels 7): 3-5, 9"
    assert only_problem(path) == ("constant", text, (3, 4, 5, 9))


def test_a_constant_micrograph_is_told(tmp_path: Path) -> None:
    path = synth.write_mrc(tmp_path / "a.mrc", np.zeros((50, 60), np.int16))
    assert only_problem(path)[:2] == ("constant", f"{path}: is constant (all pixels 0)")


def test_empty_sections_of_a_volume_are_no_fault(tmp_path: Path) -> None:
    content = images()
    content[[0, 1, 11]] = 0
    path = synth.write_mrc(tmp_path / "a.map", content)
    data = bytearray(path.read_bytes())
    data[88] = 1  # ispg
    path.write_bytes(data)
    (found,) = check(path)
    assert (found.kind, found.problems) == ("volume", ())


@pytest.mark.parametrize("value", [65504, -65504])
def test_the_largest_float16_is_saturated(tmp_path: Path, value: float) -> None:
    content = images(dtype="float16") * np.float16(1000)
    content[6, 1, 2:4] = value
    path = stack(tmp_path / "a.mrcs", content)
    text = f"{path}: 1 of 12 images is saturated: pixels are ±65504, the largest float16; 2 pixels in all: 7"
    assert only_problem(path) == ("saturated", text, (7,))


@pytest.mark.parametrize(("dtype", "scale"), [("float16", 1e-6), ("float32", 1e-40)])
def test_images_of_subnormal_numbers_are_told(tmp_path: Path, dtype: str, scale: float) -> None:
    content = images() * np.float64(scale)
    content[5] *= 1e4
    fault, _, numbers = only_problem(stack(tmp_path / "a.mrcs", content.astype(dtype)))
    assert (fault, numbers) == ("subnormal", (1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12))


@pytest.mark.parametrize("packing", PACK)
def test_copies_are_told_with_what_they_are_copies_of(tmp_path: Path, packing: str) -> None:
    content = images()
    content[7], content[10] = content[2], content[2]
    path = tmp_path / f"a.mrcs{packing}"
    path.write_bytes(PACK[packing](stack(tmp_path / "plain", content).read_bytes()))
    text = f"{path}: 2 of 12 images are copies of another, byte by byte: 8 = 3, 11 = 3; written twice?"
    assert only_problem(path) == ("duplicate", text, (8, 11))


def test_images_with_equal_sums_of_bytes_are_no_copies(tmp_path: Path) -> None:
    content = images()
    content[7] = content[2, ::-1]
    assert faults(stack(tmp_path / "a.mrcs", content)) == []


# ------------------------------------------------------------------------------------------------------------ scale


@pytest.mark.parametrize(("scale", "offset"), [(10, 0), (0.1, 0), (1, 5), (9, 6800)])
def test_images_on_another_scale_than_the_others_are_told(tmp_path: Path, scale: float, offset: float) -> None:
    content = images()
    content[[1, 9]] = content[[1, 9]] * scale + offset
    fault, text, numbers = only_problem(stack(tmp_path / "a.mrcs", content))
    assert (fault, numbers) == ("scale", (2, 10))
    assert "2 of 12 images are on another scale than the others (mean about" in text


def test_a_hot_pixel_is_no_other_scale(tmp_path: Path) -> None:
    content = images()
    content[3, 5, 5] = 1000
    assert faults(stack(tmp_path / "a.mrcs", content)) == []


def test_stacks_that_are_not_normalized_may_have_any_scale(tmp_path: Path) -> None:
    content = images() * np.geomspace(5, 500, 12, dtype=np.float32)[:, None, None]
    assert faults(stack(tmp_path / "a.mrcs", content)) == []


# ------------------------------------------------------------------------------------------------ header statistics


@pytest.mark.parametrize(("name", "value"), [("dmin", -9.0), ("dmax", 9.0), ("dmean", 0.5), ("rms", 1.2)])
def test_a_statistic_that_does_not_fit_the_pixels_is_told(tmp_path: Path, name: str, value: float) -> None:
    fault, text, _ = only_problem(change(stack(tmp_path / "a.mrcs"), **{name: value}))
    assert fault == "header statistics"
    assert f"header says {name} = {value:g}, the pixels have" in text


@pytest.mark.parametrize(
    "fields",
    [
        {"dmin": 0.0, "dmax": -1.0, "dmean": -2.0, "rms": -1.0},
        {"dmin": 0.0, "dmax": 0.0, "dmean": 0.0, "rms": 0.0},
        {"rms": 0.0},
        {"dmean": -100.0},
    ],
)
def test_statistics_that_are_not_determined_are_no_fault(tmp_path: Path, fields: dict[str, float]) -> None:
    content = images() + np.float32(3)
    assert faults(change(stack(tmp_path / "a.mrcs", content), **fields)) == []


def test_the_rms_of_a_stack_may_be_the_average_of_its_images(tmp_path: Path) -> None:
    content = images() * 20 + np.linspace(0, 300, 12, dtype=np.float32)[:, None, None]
    path = stack(tmp_path / "a.mrcs", content)
    of_images = float(content.reshape(12, -1).std(1).mean())
    assert faults(change(path, rms=of_images)) == []
    assert faults(change(path, rms=of_images * 0.9)) == ["header statistics"]


def test_pixels_are_left_alone_where_they_are_not_asked_for(tmp_path: Path) -> None:
    content = images()
    content[3] = 0
    assert faults(stack(tmp_path / "a.mrcs", content), images=False) == []
