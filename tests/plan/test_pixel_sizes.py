"""Pixel sizes that a user names: of the coordinates, and of what is stored."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest
from numpy.typing import NDArray

import cryobox
from cryobox.boxes import nearest_crop
from cryobox.errors import InputError, OptionError
from cryobox.formats.cs_table import Table, read_table, write_table
from cryobox.given import Given
from cryobox.inputs import prepare
from cryobox.plan import Plan
from cryobox.verification import verify
from star_tables import columns
from synth import micrograph, write_mrc, write_star

SIDE, N = 400, 24
SIZES = {"a.mrc": 1.5, "b.mrc": 1.2}
RNG = np.random.default_rng(8)
COARSE = RNG.uniform(12, 70, (N, 2)).round(3)  # (x, y) in pixels of 6 Å


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, (name, size) in enumerate(SIZES.items()):
        write_mrc(tmp_path / name, micrograph((SIDE, SIDE), seed=number), pixel_size=size)
    star(tmp_path)
    return tmp_path


def star(folder: Path, *, said: float | None = None) -> Path:
    optics: dict[str, list[Any]] = {
        "rlnOpticsGroup": [1], "rlnOpticsGroupName": ["a"], "rlnVoltage": [300],
        "rlnSphericalAberration": [2.7], "rlnAmplitudeContrast": [0.1],
    }  # fmt: skip
    if said is not None:
        optics["rlnMicrographPixelSize"] = [said]
    rows: dict[str, list[Any]] = {
        "rlnMicrographName": [list(SIZES)[i % 2] for i in range(N)], "rlnOpticsGroup": [1] * N,
        "rlnCoordinateX": COARSE[:, 0].tolist(), "rlnCoordinateY": COARSE[:, 1].tolist(),
    }  # fmt: skip
    return write_star(folder / "p.star", {"optics": optics, "particles": rows})


def planned(folder: Path, **recipe: Any) -> Plan:
    given = Given.of("p.star", None, directory=folder)
    plain: dict[str, Any] = {"box": 32, "edges": "pad"}
    return prepare(given, recipe=cryobox.Recipe(**plain | recipe)).plan


def test_coordinates_have_a_pixel_size_of_their_own(folder: Path) -> None:
    size = np.array([list(SIZES.values())[i % 2] for i in range(N)])
    expected = np.trunc(COARSE[:, ::-1] * (6.0 / size)[:, None])
    np.testing.assert_array_equal(planned(folder, coordinate_pixel_size=6.0).places.center, expected)
    cryobox.run(
        "p.star", out=folder / "out", directory=folder, options=cryobox.RunOptions(fsync=False),
        recipe=cryobox.Recipe(box=32, edges="pad", coordinate_pixel_size=6.0),
    )  # fmt: skip
    found = columns(folder / "out" / "particles.star")
    for axis, name in enumerate("YX"):
        np.testing.assert_array_equal([float(text) for text in found[f"_rlnCoordinate{name}"]], expected[:, axis])
    assert verify(folder / "out", everything=True).problems == ()


def test_a_pixel_size_says_the_same_as_the_scale_of_one_binning(folder: Path) -> None:
    (folder / "b.mrc").unlink()
    write_mrc(folder / "b.mrc", micrograph((SIDE, SIDE)), pixel_size=1.5)
    one, other = planned(folder, coordinate_pixel_size=6.0), planned(folder, coordinate_scale=4.0)
    np.testing.assert_array_equal(one.places.center, other.places.center)
    assert [task.id for task in one.tasks] == [task.id for task in other.tasks]
    same = planned(folder, coordinate_pixel_size=1.5)
    assert not same.places.moved.any()
    flipped = planned(folder, coordinate_pixel_size=6.0, flip_x=True)
    np.testing.assert_array_equal(
        flipped.places.center, planned(folder, coordinate_scale=4.0, flip_x=True).places.center
    )


def test_a_pixel_size_of_the_table_is_compared_with_the_one_that_is_given(folder: Path) -> None:
    star(folder, said=6.0)
    assert not any("rlnMicrographPixelSize" in text for text in planned(folder, coordinate_pixel_size=6.0).warnings)
    with pytest.raises(InputError, match=r"rlnMicrographPixelSize 6, but .* Give --coord-scale"):
        planned(folder)
    with pytest.raises(InputError, match="rlnMicrographPixelSize 6, but"):
        planned(folder, coordinate_pixel_size=3.0)


def test_two_scales_of_coordinates_are_refused() -> None:
    with pytest.raises(OptionError, match="give --coord-scale or --angpix-coords, not both"):
        cryobox.Recipe(box=32, coordinate_scale=2, coordinate_pixel_size=3)


@pytest.mark.parametrize(
    ("box", "pixel_size", "wanted", "size"),
    [(256, 1.0, 2.0, 128), (256, 1.0, 2.1, 122), (256, 0.83, 1.0, 212), (256, 1.5, 1.5, 256), (64, 1.0, 0.99, 64),
     (64, 1.0, 999.0, 2), (250, 1.0, 2.0, 126)],
)  # fmt: skip
def test_the_even_size_nearest_to_a_pixel_size_is_stored(box: int, pixel_size: float, wanted: float, size: int) -> None:
    assert nearest_crop(box, pixel_size, wanted) == size
    assert abs(size - box * pixel_size / wanted) <= 1 or size == 2


def extract(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cryobox", "extract", "p.star", *arguments, "--no-report", "--edges", "pad"],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_exact_pixel_size_of_the_output_is_written(folder: Path) -> None:
    asked = ("--box", "96", "--angpix-out", "3.7", "--angpix-coords", "6", "--pixel-size", "1.5", "--limit", "1")
    done = extract(folder, "-o", "out", *asked)
    assert done.returncode == 0, done.stderr
    assert "stored at 38: 3.78947 Å per pixel (3.7 was asked for)" in done.stderr
    text = (folder / "out" / "particles.star").read_text()
    assert f"{1.5 * 96 / 38:.6f}" in text
    with mrcfile.open(next((folder / "out" / "stacks").iterdir()), permissive=True) as stack:
        shape: NDArray[Any] = stack.data
        assert shape.shape[1:] == (38, 38)
        assert float(stack.voxel_size.x) == pytest.approx(1.5 * 96 / 38)
    for more, message in (
        (("--angpix-out", "1.2"), "have 1.5 Å per pixel, and nothing makes finer ones; ask for 1.5 or more"),
        (("--angpix-out", "3", "--fcrop", "64"), "give --angpix-out, or --fcrop"),
        (("--angpix-out", "3", "--target-pixel-size", "3"), "give --angpix-out, or --fcrop"),
        (("--angpix-out", "0"), "the output's pixel size must be"),
    ):
        done = extract(folder, "-o", "no", "--box", "96", *more)
        assert done.returncode == 2
        assert message in done.stderr


FIELD = 144.0  # Å: 96 pixels of 1.5 Å, 120 of 1.2 Å


def stack(out: Path, name: str) -> NDArray[np.float32]:
    found: NDArray[np.float32] = mrcfile.read(out / "stacks" / f"{name}_particles.mrcs")
    return found


@pytest.mark.parametrize("tables", ["relion", "both"])
def test_micrographs_of_two_pixel_sizes_are_cut_at_one_side_in_angstrom(folder: Path, tables: str) -> None:
    asked = ("--box-angstrom", f"{FIELD}", "--angpix-coords", "6", "--tables", tables)
    done = extract(folder, "-o", "out", *asked)
    assert done.returncode == 0, done.stderr
    told = "micrographs of 2 pixel sizes: 120 pixels of 1.2 Å stored as 96 of 1.5 Å, 96 pixels of 1.5 Å stored as 96 of"
    assert told in done.stderr
    for name, box, limit in (("a", 96, 1), ("b", 120, None)):
        alone = cryobox.Recipe(
            box=box, sizes=(96,), edges="pad", coordinate_pixel_size=6.0, style="relion", limit=limit
        )
        cryobox.run(
            "p.star", out=folder / name, directory=folder, recipe=alone, options=cryobox.RunOptions(fsync=False)
        )
        np.testing.assert_array_equal(stack(folder / "out", name), stack(folder / name, name))
    found = columns(folder / "out" / "particles.star")
    assert len(found["_rlnImageName"]) == N
    assert verify(folder / "out", everything=True).problems == ()


def test_the_exact_pixel_size_of_each_group_is_written(folder: Path) -> None:
    done = extract(folder, "-o", "out", "--box-angstrom", "141", "--angpix-coords", "6", "--fcrop", "64")
    assert done.returncode == 0, done.stderr
    text = (folder / "out" / "particles.star").read_text()
    boxes = {1.5: 94, 1.2: 118}  # 141 Å and 141.6 Å
    for size, box in boxes.items():
        assert f"{size * box / 64:.6f}" in text
    assert "differ by 0.43 %" in done.stderr
    for name, size in (("a", 1.5), ("b", 1.2)):
        with mrcfile.open(folder / "out" / "stacks" / f"{name}_particles.mrcs", permissive=True) as file:
            assert float(file.voxel_size.x) == pytest.approx(size * boxes[size] / 64, rel=1e-6)
    assert verify(folder / "out", everything=True).problems == ()
    record = folder / "out" / "job.json"
    again = extract(folder, "--from", str(record), "-o", "again")
    assert again.returncode == 0, again.stderr
    for name in ("a", "b"):
        np.testing.assert_array_equal(stack(folder / "again", name), stack(folder / "out", name))


def test_picks_of_cryosparc_are_cut_and_described_alike(folder: Path) -> None:
    fields: list[Any] = [
        ("uid", "<u8"), ("location/micrograph_path", "S8"), ("location/micrograph_uid", "<u8"),
        ("location/center_x_frac", "<f4"), ("location/center_y_frac", "<f4"),
        ("location/micrograph_shape", "<u4", (2,)), ("location/micrograph_psize_A", "<f4"),
    ]  # fmt: skip
    table: Table = np.zeros(N, np.dtype(fields))
    of = np.arange(N) % 2
    sizes = np.array(list(SIZES.values()), np.float32)[of]
    table["uid"], table["location/micrograph_uid"] = np.arange(N) + 1, of + 5
    table["location/micrograph_path"] = [name.encode() for name in np.array(list(SIZES))[of]]
    table["location/center_x_frac"], table["location/center_y_frac"] = (COARSE.T * 6 / sizes + 0.25) / SIDE
    table["location/micrograph_shape"], table["location/micrograph_psize_A"] = SIDE, sizes
    write_table(folder / "p.cs", table)
    cryobox.run(
        "p.cs", out=folder / "out", directory=folder, options=cryobox.RunOptions(fsync=False),
        recipe=cryobox.Recipe(box=94, box_angstrom=141.0, sizes=(64,), edges="pad"),
    )  # fmt: skip
    found = read_table(folder / "out" / "particles.cs")
    np.testing.assert_allclose(found["blob/psize_A"], np.where(of, 1.2 * 118, 1.5 * 94) / 64, rtol=1e-6)
    assert verify(folder / "out", everything=True).problems == ()


def test_merged_stacks_hold_images_of_one_pixel_size(folder: Path) -> None:
    recipe: dict[str, Any] = {"box": 96, "box_angstrom": FIELD, "coordinate_pixel_size": 6.0}
    plan = planned(folder, particles_per_stack=100, **recipe)
    assert len({task.stack for task in plan.tasks}) == 2
    assert [task.windows.box for task in plan.tasks] == [96, 120]
    assert {task.outputs[0].pixel_size for task in plan.tasks} == {1.5}


def test_pixels_finer_than_the_coarsest_are_refused(folder: Path) -> None:
    with pytest.raises(OptionError, match="a.mrc: a box of 144 Å has 96 pixels of 1.5 Å, fewer than the 120 that are"):
        planned(folder, box=120, box_angstrom=FIELD)
    for more, message in (
        (("--angpix-out", "1.2"), "nothing makes finer ones; ask for 1.5 or more"),
        (("--target-pixel-size", "1.2"), "the coarsest micrographs have 1.5 Å per pixel"),
        (("--box", "96"), "give --box-angstrom (Å), --box (pixels) or --diameter (Å), not several"),
        (("--fcrop", "120"), "cannot exceed the box"),
    ):
        done = extract(folder, "-o", "no", "--box-angstrom", "144", *more)
        assert done.returncode == 2
        assert message in done.stderr
