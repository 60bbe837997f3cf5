"""Centering to fractions of a pixel: where particles end up, what tables say of it, and reading these again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import cryobox
import synth
from cryobox.errors import OptionError
from cryobox.formats import read_particles
from cryobox.verification import verify
from star_tables import columns

SHAPE = (520, 640)
PIXEL_SIZE = 1.5
COUNT = 20
RECIPE: dict[str, Any] = {"box": 64, "sizes": (64, 40), "normalize": False, "invert": False}
FAST = cryobox.RunOptions(fsync=False)


def truth() -> NDArray[np.float64]:
    """Centers (y, x) of particles that do not touch each other."""
    rows, cells = np.divmod(np.arange(COUNT), 5)
    return np.column_stack([90 + 110 * rows, 90 + 110 * cells]) + np.random.default_rng(3).uniform(-5, 5, (COUNT, 2))


def micrograph(path: Path, center: NDArray[np.float64]) -> Path:
    """Round particles on a level ground: their centroid is their center."""
    y, x = np.arange(SHAPE[0])[:, None], np.arange(SHAPE[1])[None, :]
    image = np.full(SHAPE, 40.0)
    for at in center:
        image += 30 * np.exp(-((y - at[0]) ** 2 + (x - at[1]) ** 2) / (2 * 5.0**2))
    return synth.write_mrc(path, image.astype(np.float32), pixel_size=PIXEL_SIZE)


def star(folder: Path, pick: NDArray[np.float64], shift: NDArray[np.float64] | None = None) -> tuple[Path, Path]:
    optics: dict[str, Any] = {
        "rlnOpticsGroupName": ["g"], "rlnOpticsGroup": [1], "rlnVoltage": [300.0], "rlnSphericalAberration": [2.7],
        "rlnAmplitudeContrast": [0.1], "rlnMicrographPixelSize": [PIXEL_SIZE],
    }  # fmt: skip
    rows: dict[str, Any] = {
        "rlnMicrographName": ["m.mrc"] * len(pick), "rlnOpticsGroup": [1] * len(pick),
        "rlnCoordinateX": pick[:, 1].tolist(), "rlnCoordinateY": pick[:, 0].tolist(),
    }  # fmt: skip
    if shift is not None:
        rows |= {f"rlnOrigin{axis}Angst": (shift[:, i] * PIXEL_SIZE).tolist() for i, axis in enumerate("YX")}
    picks = synth.write_star(folder / "picks.star", {"optics": optics, "particles": rows})
    table: dict[str, Any] = {"rlnMicrographName": ["m.mrc"], "rlnOpticsGroup": [1]}
    return picks, synth.write_star(folder / "mics.star", {"optics": optics, "micrographs": table})


def cs(
    folder: Path, pick: NDArray[np.float64], shift: NDArray[np.float64] | None = None, **more: NDArray[Any]
) -> tuple[Path, Path]:
    n = len(pick)
    rows = {
        "uid": np.arange(1, n + 1, dtype="<u8"),
        "location/micrograph_uid": np.full(n, 7, "<u8"),
        "location/micrograph_path": np.full(n, b"m.mrc"),
        "location/micrograph_shape": np.tile(np.array(SHAPE, "<u4"), (n, 1)),
        "location/micrograph_psize_A": np.full(n, PIXEL_SIZE, "<f4"),
        "location/center_x_frac": (pick[:, 1] / SHAPE[1]).astype("<f4"),
        "location/center_y_frac": (pick[:, 0] / SHAPE[0]).astype("<f4"),
        **more,
    }
    if shift is not None:
        rows["alignments3D/shift"] = (shift[:, ::-1] * PIXEL_SIZE / 3.0).astype("<f4")
        rows["alignments3D/psize_A"] = np.full(n, 3.0, "<f4")
    exposures = {
        "uid": np.array([7], "<u8"),
        "micrograph_blob/path": np.array([b"m.mrc"]),
        "micrograph_blob/idx": np.zeros(1, "<u4"),
        "micrograph_blob/shape": np.array([SHAPE], "<u4"),
        "micrograph_blob/psize_A": np.full(1, PIXEL_SIZE, "<f4"),
    }
    return synth.write_cs(folder / "picks.cs", rows), synth.write_cs(folder / "exposures.cs", exposures)


def extract(folder: Path, given: tuple[Path, Path], out: str = "out", **asked: Any) -> Path:
    recipe = cryobox.Recipe(**{**RECIPE, **asked})
    cryobox.run(given[0], micrographs=given[1], out=folder / out, recipe=recipe, options=FAST, root=folder)
    return folder / out


def images(out: Path, size: int = 64) -> NDArray[np.float64]:
    name = "stacks" if size == 64 else "stacks_small"
    stack = np.fromfile(next((out / name).iterdir()), np.float32, offset=1024)
    return stack.reshape(-1, size, size).astype(np.float64)


def off_center(stack: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far each particle is from the middle, (y, x) in pixels of the image."""
    size = stack.shape[-1]
    place = np.arange(size) - size // 2
    light = stack - 40
    light[:, np.hypot(place[:, None], place[None, :]) > size * 0.4] = 0
    total = light.sum(axis=(1, 2))
    return np.stack([(light.sum(axis=2) @ place) / total, (light.sum(axis=1) @ place) / total], axis=1)


@pytest.mark.parametrize("make", [star, cs])
def test_aligned_particles_are_centered_to_a_hundredth_of_a_pixel(tmp_path: Path, make: Any) -> None:
    center = truth()
    micrograph(tmp_path / "m.mrc", center)
    pick = np.round(center) + np.random.default_rng(4).integers(-6, 7, center.shape)
    tables = make(tmp_path, pick, pick - center)
    for size in (64, 40):
        whole = np.abs(off_center(images(extract(tmp_path, tables, "whole"), size))) * 64 / size
        exact = np.abs(off_center(images(extract(tmp_path, tables, "exact", subpixel=True), size))) * 64 / size
        assert 0.2 < whole.mean() < 0.3
        assert exact.mean() < 0.01
        assert exact.max() < 0.03
    assert not verify(tmp_path / "exact", everything=True).problems


@pytest.mark.parametrize("make", [star, cs])
def test_the_fraction_of_a_pick_without_an_alignment_counts(tmp_path: Path, make: Any) -> None:
    center = truth()
    micrograph(tmp_path / "m.mrc", center)
    out = extract(tmp_path, make(tmp_path, center), subpixel=True)
    assert np.abs(off_center(images(out))).mean() < 0.01
    assert not verify(out, everything=True).problems


def test_the_fraction_of_an_aligned_pick_does_not_count_since_its_image_was_cut_at_whole_pixels(tmp_path: Path) -> None:
    center = truth()
    micrograph(tmp_path / "m.mrc", center)
    whole = np.round(center) + 3
    one = extract(tmp_path, star(tmp_path, whole, whole - center), "one", subpixel=True)
    two = extract(tmp_path, star(tmp_path, whole + 0.7, whole - center), "two", subpixel=True)
    np.testing.assert_array_equal(images(one), images(two))


@pytest.mark.parametrize("make", [star, cs])
def test_tables_have_the_exact_center_a_flag_and_no_shift(tmp_path: Path, make: Any) -> None:
    center = truth()
    micrograph(tmp_path / "m.mrc", center)
    pick = np.round(center) + 4
    out = extract(tmp_path, make(tmp_path, pick, pick - center), subpixel=True)
    suffix = "star" if make is star else "cs"
    table = read_particles(out / f"particles.{suffix}", recipe=cryobox.Recipe(box=64))
    np.testing.assert_allclose(np.column_stack([table.y, table.x]), center, atol=1e-6 if make is star else 1e-4)
    assert table.exact is not None
    assert table.exact.all()
    assert not table.alignments[0].shift.any()


@pytest.mark.parametrize("make", [star, cs])
def test_extracting_again_moves_nothing_whether_by_fractions_or_not(tmp_path: Path, make: Any) -> None:
    center = truth()
    micrograph(tmp_path / "m.mrc", center)
    pick = np.round(center) + 4
    tables = make(tmp_path, pick, pick - center)
    first = extract(tmp_path, tables, "first", subpixel=True)
    name = f"particles.{'star' if make is star else 'cs'}"
    second = extract(tmp_path, (first / name, tables[1]), "second", subpixel=True)
    third = extract(tmp_path, (second / name, tables[1]), "third", subpixel=True)
    np.testing.assert_allclose(images(first), images(second), atol=2e-2 if make is cs else 2e-4)
    np.testing.assert_array_equal(images(second), images(third))
    if make is star:
        assert columns(first / name) == {
            tag: [text.replace("second", "first") for text in texts] for tag, texts in columns(second / name).items()
        }
    # Whole pixels again: the nearest one, and what is left stands in the alignment.
    whole = extract(tmp_path, (first / name, tables[1]), "whole")
    np.testing.assert_array_equal(images(whole), images(extract(tmp_path, tables, "plain")))
    table = read_particles(whole / name, recipe=cryobox.Recipe(box=64))
    left = table.alignments[0].shift * table.alignments[0].pixel_size[:, None] / PIXEL_SIZE
    np.testing.assert_allclose(np.column_stack([table.y, table.x]) - left, center, atol=1e-3)
    assert not verify(whole, everything=True).problems


def test_unaligned_centers_that_are_exact_become_the_pixel_that_is_cut(tmp_path: Path) -> None:
    center = truth()
    micrograph(tmp_path / "m.mrc", center)
    tables = star(tmp_path, center)
    first = extract(tmp_path, tables, "first", subpixel=True)
    whole = extract(tmp_path, (first / "particles.star", tables[1]), "whole")
    assert np.abs(off_center(images(whole))).max() < 0.51
    after = columns(whole / "particles.star")
    found = np.array([after["_rlnCoordinateY"], after["_rlnCoordinateX"]], np.float64).T
    np.testing.assert_array_equal(found, np.rint(center))
    assert not verify(whole, everything=True).problems
    again = extract(tmp_path, (whole / "particles.star", tables[1]), "again", subpixel=True)
    np.testing.assert_allclose(images(again), images(whole), rtol=1e-6)  # the same pixels, once through Fourier space


def test_every_other_alignment_still_points_at_the_particle(tmp_path: Path) -> None:
    center = truth()
    micrograph(tmp_path / "m.mrc", center)
    pick = np.round(center) + 4
    shift = pick - center
    more = {
        "alignments2D/shift": (shift[:, ::-1] * PIXEL_SIZE / 2.0 + 0.25).astype("<f4"),
        "alignments2D/psize_A": np.full(COUNT, 2.0, "<f4"),
    }
    out = extract(tmp_path, cs(tmp_path, pick, shift, **more), subpixel=True)
    table = {a.name: a.shift for a in read_particles(out / "particles.cs", recipe=cryobox.Recipe(box=64)).alignments}
    assert not table["alignments3D"].any()
    np.testing.assert_allclose(table["alignments2D"], 0.25, atol=2e-6)


def test_copies_share_an_image_only_where_their_shifts_leave_the_same(tmp_path: Path) -> None:
    center = truth()[[0, 0, 0, 5]]
    micrograph(tmp_path / "m.mrc", truth())
    pick = np.round(center)
    shift = pick - center
    shift[2] += (0.1, 0.0)  # still the same whole pixel
    copies = np.array([9, 9, 9, 0], "<u8")
    tables = cs(tmp_path, pick, shift, **{"sym_expand/src_uid": copies, "sym_expand/idx": np.arange(4, dtype="<u4")})
    assert len(images(extract(tmp_path, tables, "whole"))) == 2
    out = extract(tmp_path, tables, "exact", subpixel=True)
    assert len(images(out)) == 3
    assert not verify(out, everything=True).problems


def test_both_families_tables_say_the_exact_center(tmp_path: Path) -> None:
    center = np.concatenate([truth(), [[-3.0, 60.3], [50.0, 70.9995]]])  # beside the image; a pixel's edge, too
    micrograph(tmp_path / "m.mrc", truth())
    out = extract(tmp_path, star(tmp_path, center), subpixel=True, tables="both", edges="pad")
    for name in ("particles.star", "particles.cs"):
        table = read_particles(out / name, recipe=cryobox.Recipe(box=64))
        np.testing.assert_allclose(np.column_stack([table.y, table.x]), center, atol=1e-4)
        assert table.exact is not None
        assert table.exact.all()
    assert not verify(out, everything=True).problems


def test_the_run_says_that_relion_truncates_what_it_writes(tmp_path: Path) -> None:
    micrograph(tmp_path / "m.mrc", truth())
    picks, micrographs = star(tmp_path, truth())
    result = cryobox.run(
        picks, micrographs=micrographs, out=tmp_path / "out", options=FAST, root=tmp_path,
        recipe=cryobox.Recipe(**RECIPE, subpixel=True),
    )  # fmt: skip
    assert any("RELION" in text and "truncates" in text for text in result.warnings)


@pytest.mark.parametrize(
    ("asked", "message"),
    [({"recenter": False}, "--no-recenter"), ({"rounding": "nearest"}, "rounding")],
)
def test_what_contradicts_it_is_refused(tmp_path: Path, asked: dict[str, Any], message: str) -> None:
    micrograph(tmp_path / "m.mrc", truth())
    tables = star(tmp_path, truth(), np.zeros((COUNT, 2)))
    with pytest.raises(OptionError, match=message):
        extract(tmp_path, tables, subpixel=True, **asked)


def test_gpus_are_refused_by_name(tmp_path: Path) -> None:
    micrograph(tmp_path / "m.mrc", truth())
    picks, micrographs = star(tmp_path, truth())
    with pytest.raises(OptionError, match="--subpixel: the core for GPUs has no such step"):
        cryobox.run(
            picks, micrographs=micrographs, out=tmp_path / "out", root=tmp_path,
            recipe=cryobox.Recipe(**RECIPE, subpixel=True), options=cryobox.RunOptions(gpus=("cuda:0",)),
        )  # fmt: skip
