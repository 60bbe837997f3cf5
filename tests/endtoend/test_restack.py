"""Images of stacks that exist already in new ones: rows, order, pixels, columns, through interruptions."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gemmi
import mrcfile
import numpy as np
import pytest
from numpy.typing import NDArray

import cryobox
from cryobox import cli, reference
from cryobox.errors import InputError, OptionError, OutputError
from cryobox.formats.cs_table import read_table, write_table
from cryobox.restacking import Asked, restack_particles
from cryobox.simulate import Dataset, make_dataset
from synth import TOLERANCE, write_mrc, write_star

FAST = cryobox.RunOptions(fsync=False)
SIDE = 32


@pytest.fixture(params=["relion", "cryosparc"])
def run(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A finished run: its main table, with shifts and CTF."""
    data: Dataset = make_dataset(
        tmp_path / "p", micrographs=4, shape=(500, 600), picks=30, style=request.param, shifts=True
    )
    result = cryobox.run(
        data.picks,
        micrographs=data.micrographs,
        out=data.folder / "Extract",
        recipe=cryobox.Recipe(box=96, sizes=(64,)),
        options=FAST,
        root=data.folder,
    )
    return next(path for path in result.tables if path.stem == "particles" and path.suffix in (".star", ".cs"))


def restack(
    table: Path,
    out: Path,
    *,
    options: Any = FAST,
    stop: Any = None,
    on_progress: Any = None,
    asked: Any = None,
    **more: Any,
) -> Any:
    return restack_particles(
        table,
        out,
        asked=asked or Asked(**more),
        root=table.parents[1],
        options=options,
        stop=stop,
        on_progress=on_progress,
    )


def columns(table: Path) -> dict[str, list[Any]]:
    """All columns of a table, those of optics groups too."""
    if table.suffix == ".cs":
        found = read_table(table)
        return {name: found[name].tolist() for name in found.dtype.names or ()}
    values: dict[str, list[Any]] = {}
    for block in gemmi.cif.read(str(table)):
        for item in block:
            if item.loop is not None:
                width = len(item.loop.tags)
                cells = [gemmi.cif.as_string(value) for value in item.loop.values]
                for i, tag in enumerate(item.loop.tags):
                    values[f"optics.{tag}" if block.name == "optics" else tag] = cells[i::width]
    return values


def images(table: Path) -> NDArray[Any]:
    """The images of a table's rows, as another program finds them."""
    found, opened = [], dict[str, NDArray[Any]]()
    cells = columns(table)
    if table.suffix == ".cs":
        names = [raw.decode() for raw in cells["blob/path"]]
        places = list(zip(names, cells["blob/idx"], strict=True))
    else:
        places = [(text.partition("@")[2], int(text.partition("@")[0]) - 1) for text in cells["_rlnImageName"]]
    for name, slot in places:
        path = table.parent / name[1:] if name.startswith(">") else table.parents[1] / name
        if name not in opened:
            opened[name] = np.array(mrcfile.read(path), ndmin=3)
        found.append(opened[name][slot])
    return np.array(found)


def selection(table: Path, rows: Sequence[int]) -> Path:
    """A table of some rows, in their order, beside the other."""
    target = table.with_name(f"selected{table.suffix}")
    if table.suffix == ".cs":
        write_table(target, read_table(table)[list(rows)])
        return target
    document = gemmi.cif.read(str(table))
    loop = document.find_block("particles").find_values("_rlnImageName").get_loop()
    width = len(loop.tags)
    cells = list(loop.values)
    lists = [[cells[row * width + i] for row in rows] for i in range(width)]
    loop.set_all_values(lists)
    document.write_file(str(target))
    return target


def test_rows_of_a_table_are_copied_in_its_order(run: Path, tmp_path: Path) -> None:
    before = images(run)
    rows = np.random.default_rng(1).permutation(len(before))[: len(before) // 2]
    table = selection(run, rows.tolist())
    out = run.parents[1] / "Restack"
    result = restack(table, out)
    target = out / f"particles{run.suffix}"
    assert (result.exit_code, result.stored, result.rows) == (0, len(rows), len(rows))
    (stack,) = (out / "stacks").iterdir()
    with mrcfile.open(stack) as file:
        np.testing.assert_array_equal(file.data, before[rows])
        assert file.voxel_size.x == pytest.approx(mrcfile.open(next((run.parent / "stacks").iterdir())).voxel_size.x)
        assert mrcfile.validate(stack)
    np.testing.assert_array_equal(images(target), before[rows])
    old, new = columns(table), columns(target)
    image = {"_rlnImageName", "blob/path", "blob/idx", "blob/import_sig"}
    assert list(old) == list(new)
    assert {name for name in old if old[name] != new[name]} <= image


def test_a_fourier_crop_changes_images_and_what_is_said_of_them(run: Path) -> None:
    out = run.parents[1] / "Restack"
    restack(run, out, sizes=(SIDE, 16), also=((8, "float16"),))
    before = images(run)
    for name, size in (("particles", SIDE), ("particles_small", 16), ("particles_8", 8)):
        table = out / f"{name}{run.suffix}"
        found = images(table)
        expected = np.array([reference.fourier_crop(one, size) for one in before])
        worst = np.abs(found - expected).max(axis=(1, 2)) / np.abs(expected).max(axis=(1, 2))
        assert worst.max() < (TOLERANCE["float16"] if size == 8 else TOLERANCE["float32"])
        old, new = columns(run), columns(table)
        factor = 64 / size
        if run.suffix == ".cs":
            assert new["blob/shape"] == [[size, size]] * len(before)
            np.testing.assert_allclose(new["blob/psize_A"], np.array(old["blob/psize_A"]) * factor, rtol=1e-6)
            changed = {"blob/path", "blob/idx", "blob/import_sig", "blob/shape", "blob/psize_A"}
        else:
            assert set(new["optics._rlnImageSize"]) == {str(size)}
            pixel = [float(text) * factor for text in old["optics._rlnImagePixelSize"]]
            assert [float(text) for text in new["optics._rlnImagePixelSize"]] == pytest.approx(pixel, abs=1e-6)
            changed = {"_rlnImageName", "optics._rlnImageSize", "optics._rlnImagePixelSize"}
        assert {key for key in old if old[key] != new[key]} <= changed  # shifts are in Å, or bring their own unit
        for stack in (out / f"stacks{name.removeprefix('particles')}").iterdir():
            assert mrcfile.validate(stack) or size == 8


def test_the_central_part_is_cut_out_exactly(run: Path) -> None:
    out = run.parents[1] / "Restack"
    restack(run, out, box=40)
    np.testing.assert_array_equal(images(out / f"particles{run.suffix}"), images(run)[:, 12:52, 12:52])
    cells, before = columns(out / f"particles{run.suffix}"), columns(run)
    if run.suffix == ".star":
        assert set(cells["optics._rlnImageSize"]) == {"40"}
        assert cells["optics._rlnImagePixelSize"] == before["optics._rlnImagePixelSize"]
    else:
        assert cells["blob/psize_A"] == before["blob/psize_A"]


def test_images_are_normalized_again_as_extraction_does(run: Path) -> None:
    out = run.parents[1] / "Restack"
    restack(run, out, sizes=(SIDE,), normalize=True)
    for found, one in zip(images(out / f"particles{run.suffix}"), images(run), strict=True):
        expected = reference.normalize(
            reference.fourier_crop(one, SIDE), int(0.375 * SIDE), ramp=True, scale_const=None
        )
        assert expected is not None
        assert np.abs(found - expected).max() < 4e-6 * np.abs(expected).max()


def test_filtered_and_padded_images_are_those_of_the_twins_and_are_labeled(run: Path) -> None:
    out = run.parents[1] / "Restack"
    pixel = float(mrcfile.open(next((run.parent / "stacks").iterdir()), header_only=True).voxel_size.x)
    resolution = 6 * pixel
    result = restack(run, out, lowpass=resolution, pad=80)
    label = f"low-passed to {resolution:g} Å and padded to 80 pixels: not for refinement"
    assert result.notes == (f"the images are {label}",)
    for found, one in zip(images(out / f"particles{run.suffix}"), images(run), strict=True):
        expected = reference.pad_with_mean(reference.lowpass(one, pixel, resolution), 80)
        assert np.abs(found - expected).max() < 2e-6 * np.abs(expected).max()
    (stack,) = (out / "stacks").iterdir()
    with mrcfile.open(stack, header_only=True) as file:
        assert "not for refinement" in file.get_labels()[1]
    if run.suffix == ".star":
        assert "not for refinement" in (out / "particles.star").read_text().splitlines()[1]
    else:
        assert "not for refinement" in (out / "particles.csg").read_text()


def test_any_workers_and_any_interruption_give_the_same_bytes(run: Path) -> None:
    def contents(out: Path) -> dict[str, bytes]:
        found = [*out.glob("particles*.star"), *out.glob("*.cs")]
        tables = {path.name: path.read_bytes().replace(f"{out.name}/stacks".encode(), b"stacks") for path in found}
        return tables | {path.relative_to(out).as_posix(): path.read_bytes() for path in out.glob("stacks*/*")}

    root = run.parents[1]
    asked = Asked(sizes=(SIDE,), particles_per_stack=17)
    restack(run, root / "A", asked=asked, options=cryobox.RunOptions(fsync=False, workers=1))
    expected = contents(root / "A")
    assert len(list((root / "A" / "stacks").iterdir())) > 3
    stop, told = threading.Event(), []

    def tell(done: int, total: int) -> None:
        told.append(done)
        if done > 20:
            stop.set()

    first = restack(run, root / "B", asked=asked, stop=stop, on_progress=tell)
    assert (first.interrupted, first.exit_code, first.tables) == (True, 130, ())
    assert not list((root / "B").glob("particles*"))
    assert list((root / "B").rglob("*.tmp")) == []
    second = restack(run, root / "B", asked=asked, options=cryobox.RunOptions(fsync=False, workers=3))
    assert second.resumed >= 17
    assert contents(root / "B") == expected
    third = restack(run, root / "B", asked=asked)
    assert third.bytes_written == 0
    assert contents(root / "B") == expected
    with pytest.raises(OutputError, match=r"holds a run with sizes = \[32\], now it is \[16\]"):
        restack(run, root / "B", sizes=(16,), particles_per_stack=17)
    anew = cryobox.RunOptions(fsync=False, overwrite=True)
    restack(run, root / "B", options=anew)
    assert len(list((root / "B" / "stacks").iterdir())) == 1


def small_project(folder: Path, stack: NDArray[Any], names: Sequence[str], **written: Any) -> Path:
    """A STAR table of RELION 3.1 over one stack."""
    write_mrc(folder / "s.mrcs", stack, pixel_size=1.5, stack=True, **written)
    return write_star(
        folder / "t" / "p.star",
        {
            "optics": {"rlnOpticsGroup": [1], "rlnOpticsGroupName": ["a"], "rlnImagePixelSize": ["1.500000"],
                       "rlnImageSize": [stack.shape[1]], "rlnVoltage": [300]},
            "particles": {"rlnImageName": list(names), "rlnOpticsGroup": [1] * len(names), "rlnFree": names},
        },
    )  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float16", "int16", "int8", "uint16"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_stacks_of_any_type_and_byte_order_keep_their_values(tmp_path: Path, dtype: str, order: Any) -> None:
    stack = np.random.default_rng(2).normal(40, 20, (5, 10, 10)).astype(dtype)
    table = small_project(tmp_path, stack, ["3@s.mrcs", "1@s.mrcs", "5@s.mrcs"], byte_order=order,
                          extended_header=bytes(160))  # fmt: skip
    restack(table, tmp_path / "out")
    found = mrcfile.read(tmp_path / "out/stacks/particles_000001.mrcs")
    assert found.dtype == ("float16" if dtype == "float16" else "float32")
    np.testing.assert_array_equal(found, stack[[2, 0, 4]].astype(found.dtype))


def test_an_odd_number_of_pixels_is_copied_and_nothing_else(tmp_path: Path) -> None:
    stack = np.random.default_rng(3).normal(0, 1, (3, 9, 9)).astype(np.float32)
    table = small_project(tmp_path, stack, ["2@s.mrcs", "1@s.mrcs"])
    restack(table, tmp_path / "out", float16=True)
    found = mrcfile.read(tmp_path / "out/stacks/particles_000001.mrcs")
    np.testing.assert_array_equal(found, stack[[1, 0]].astype(np.float16))
    with pytest.raises(OptionError, match="images of 9 pixels, an odd number, are copied as they are"):
        restack(table, tmp_path / "other", sizes=(4,))


def test_images_that_are_no_numbers_are_left_out_and_listed(run: Path) -> None:
    (first, *_) = sorted((run.parent / "stacks").iterdir())
    before = images(run)
    with mrcfile.open(first, "r+") as file:
        file.data[2, 5, 5] = np.nan
        file.data[4] = np.inf
    out = run.parents[1] / "Restack"
    result = restack(run, out, sizes=(SIDE,))
    assert (result.exit_code, result.rejected) == (1, {"pixels that are not finite": 2})
    kept = np.isfinite(images(run)).all(axis=(1, 2))
    assert result.stored == kept.sum() == len(before) - 2
    found = images(out / f"particles{run.suffix}")
    expected = np.array([reference.fourier_crop(one, SIDE) for one in before[kept]])
    assert np.abs(found - expected).max() < 2e-6 * np.abs(expected).max()
    left = columns(out / f"rejected{run.suffix}")
    reasons = left.get("_cryoboxRejectReason") or [raw.decode() for raw in left["cryobox/reject_reason"]]
    assert reasons == ["pixels that are not finite"] * 2


def test_tables_in_the_style_of_3_0_have_shifts_and_pixels_of_the_new_size(tmp_path: Path) -> None:
    stack = np.random.default_rng(4).normal(0, 1, (4, 16, 16)).astype(np.float32)
    write_mrc(tmp_path / "s.mrcs", stack, pixel_size=1.5, stack=True)
    table = write_star(
        tmp_path / "t" / "p.star",
        {"": {"rlnImageName": ["1@s.mrcs", "4@s.mrcs"], "rlnOriginX": ["2.000000", "-1.500000"],
              "rlnOriginY": ["0.250000", "4.000000"], "rlnDetectorPixelSize": ["5.000000"] * 2,
              "rlnMagnification": ["33333.333333"] * 2, "rlnAngleRot": ["12.5", "1e1"]}},
    )  # fmt: skip
    restack(table, tmp_path / "out", sizes=(8,))
    cells = columns(tmp_path / "out/particles.star")
    assert [float(text) for text in cells["_rlnOriginX"]] == [1.0, -0.75]
    assert [float(text) for text in cells["_rlnOriginY"]] == [0.125, 2.0]
    assert [float(text) for text in cells["_rlnDetectorPixelSize"]] == [10.0, 10.0]
    assert (cells["_rlnAngleRot"], cells["_rlnMagnification"]) == (["12.5", "1e1"], ["33333.333333"] * 2)


def test_optics_groups_with_images_of_other_sizes_get_stacks_of_their_own(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    for name, side in (("a", 16), ("b", 24)):
        write_mrc(tmp_path / f"{name}.mrcs", rng.normal(0, 1, (3, side, side)).astype("f4"), pixel_size=1.0, stack=True)
    table = write_star(
        tmp_path / "t" / "p.star",
        {
            "optics": {"rlnOpticsGroup": [1, 2], "rlnOpticsGroupName": ["a", "b"],
                       "rlnImagePixelSize": ["1.5", "1.0"], "rlnImageSize": [16, 24]},
            "particles": {"rlnImageName": ["1@a.mrcs", "3@a.mrcs", "2@b.mrcs"], "rlnOpticsGroup": [1, 1, 2]},
        },
    )  # fmt: skip
    restack(table, tmp_path / "out", sizes=(8,))
    cells = columns(tmp_path / "out/particles.star")
    assert [text.rpartition("/")[2] for text in cells["_rlnImageName"]] == [
        "particles_000001.mrcs", "particles_000001.mrcs", "particles_000002.mrcs"
    ]  # fmt: skip
    assert [float(text) for text in cells["optics._rlnImagePixelSize"]] == [3.0, 3.0]
    with mrcfile.open(tmp_path / "out/stacks/particles_000002.mrcs") as file:
        assert float(file.voxel_size.x) == pytest.approx(3.0)
    broken = table.read_text().replace("3@a.mrcs 1", "3@b.mrcs 1")
    table.write_text(broken)
    with pytest.raises(InputError, match="optics group a has images of several sizes"):
        restack(table, tmp_path / "other", sizes=(8,))
    assert not (tmp_path / "other").exists()


def test_what_cannot_be_done_is_refused_before_any_work(tmp_path: Path) -> None:
    stack = np.random.default_rng(6).normal(0, 1, (3, 16, 16)).astype(np.float32)
    table = small_project(tmp_path, stack, ["1@s.mrcs", "3@s.mrcs"])
    out = tmp_path / "out"
    for change, message in (
        ("3@s.mrcs", r"4@s.mrcs"),
        ("3@s.mrcs", r"3@missing.mrcs"),
    ):
        table.write_text(table.read_text().replace(change, message, 1))
        with pytest.raises(InputError, match="p.star"):
            restack(table, out)
        table.write_text(table.read_text().replace(message, change, 1))
    for asked, text in (
        ({"box": 20}, "box must be at most 16"),
        ({"sizes": (32,)}, "32"),
        ({"pad": 8}, "pad must be at least 16"),
        ({"lowpass": 2.0}, "lowpass must be at least 2 pixels"),
    ):
        with pytest.raises((OptionError, InputError), match=text):
            restack(table, out, **asked)
    assert not out.exists()
    with pytest.raises(OptionError, match="leave out further sizes"):
        Asked(sizes=(16, 8), pad=32)
    (tmp_path / "s.mrcs").rename(tmp_path / "t" / "stacks")
    here = tmp_path / "t" / "o"
    (here / "stacks").mkdir(parents=True)
    (tmp_path / "t" / "stacks").rename(here / "stacks" / "particles_000001.mrcs")
    table.write_text(table.read_text().replace("s.mrcs", "t/o/stacks/particles_000001.mrcs"))
    with pytest.raises(OutputError, match="is an input and would be replaced"):
        restack(table, here)


def test_nothing_that_is_read_is_removed_or_replaced(run: Path, tmp_path: Path) -> None:
    anew = cryobox.RunOptions(fsync=False, overwrite=True)
    before = {path: path.read_bytes() for path in run.parent.rglob("*") if path.is_file()}
    with pytest.raises(OutputError, match="holds a run of cryobox extract; choose another --out"):
        restack(run, run.parent, options=anew)
    assert {path: path.read_bytes() for path in run.parent.rglob("*") if path.is_file()} == before
    # Its own folder: a table of some rows names stacks that are to be removed.
    out = run.parents[1] / "B"
    restack(run, out, particles_per_stack=20)
    some = selection(out / f"particles{run.suffix}", list(range(45, 55)))
    kept = {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and not path.name.startswith(".")}
    with pytest.raises(OutputError, match="is an input and would be replaced"):
        restack(some, out, options=anew)
    assert {path: path.read_bytes() for path in kept} == kept
    # A table that is called as one of the results.
    table = selection(run, [1, 2, 3])
    (run.parents[1] / "C").mkdir()
    named = table.rename(run.parents[1] / "C" / f"particles_16{run.suffix}")
    with pytest.raises(OutputError, match="is an input and would be replaced"):
        restack(named, named.parent, options=anew, also=((16, "float32"),))


def test_members_of_a_group_are_read_too(run: Path) -> None:
    if run.suffix != ".cs":
        pytest.skip("a table of RELION")
    folder = run.parents[1] / "G"
    folder.mkdir()
    write_table(folder / "particles.cs", read_table(run))
    (folder / "all.csg").write_text((run.with_suffix(".csg")).read_text())
    with pytest.raises(OutputError, match=r"particles\.cs: is an input and would be replaced"):
        restack(folder / "all.csg", folder, options=cryobox.RunOptions(fsync=False, overwrite=True))


def test_what_another_restacking_left_does_not_stay(run: Path) -> None:
    out = run.parents[1] / "Restack"
    restack(run, out, sizes=(SIDE, 16), also=((8, "float16"),), particles_per_stack=20)
    restack(run, out, options=cryobox.RunOptions(fsync=False, overwrite=True))
    assert sorted(path.stem for path in out.glob(f"particles*{run.suffix}")) == ["particles"]
    assert [path for folder in ("stacks_small", "stacks_8") for path in (out / folder).iterdir()] == []
    # A table that is written anew under the same name, with other rows.
    table = selection(run, list(range(50)))
    other = run.parents[1] / "Other"
    (first, *_) = sorted((run.parent / "stacks").iterdir())
    good = first.read_bytes()
    with mrcfile.open(first, "r+") as file:
        file.data[2, 5, 5] = np.nan
    assert restack(table, other, particles_per_stack=20).exit_code == 1
    assert (other / f"rejected{run.suffix}").exists()
    first.write_bytes(good)
    selection(run, list(range(30)))
    assert restack(table, other, particles_per_stack=20).exit_code == 0
    assert not (other / f"rejected{run.suffix}").exists()
    assert len(list((other / "stacks").iterdir())) == 2


def test_a_pixel_size_that_is_none_is_not_taken_for_one(tmp_path: Path) -> None:
    stack = np.random.default_rng(8).normal(0, 1, (3, 16, 16)).astype(np.float32)
    table = small_project(tmp_path, stack, ["1@s.mrcs", "3@s.mrcs"])
    good = table.read_text()
    for wrong in ("0.000000", "-1.500000", "abc"):
        table.write_text(good.replace("1.500000", wrong, 1))
        restack(table, tmp_path / f"low{wrong}", lowpass=6.0)  # the header says it
        found = mrcfile.read(tmp_path / f"low{wrong}" / "stacks/particles_000001.mrcs")
        expected = np.array([reference.lowpass(stack[slot], 1.5, 6.0) for slot in (0, 2)])
        assert np.abs(found - expected).max() < 2e-6 * np.abs(expected).max()
        with pytest.raises(InputError, match=f"optics group a: _rlnImagePixelSize is '{wrong}', expected the Å"):
            restack(table, tmp_path / "crop", sizes=(8,))
        assert not (tmp_path / "crop").exists()


def test_float16_headers_are_those_of_the_stored_pixels(tmp_path: Path) -> None:
    stack = np.random.default_rng(9).normal(0, 1, (3, 16, 16)).astype(np.float32)
    table = small_project(tmp_path, stack, ["1@s.mrcs", "3@s.mrcs"])
    restack(table, tmp_path / "out", float16=True)
    assert mrcfile.validate(tmp_path / "out/stacks/particles_000001.mrcs")
    stack[0, 3, 3] = -70000.0
    write_mrc(tmp_path / "s.mrcs", stack, pixel_size=1.5, stack=True)
    result = restack(table, tmp_path / "clamped", float16=True)
    assert "1 pixels beyond ±65504 were clamped" in result.warnings[0]
    with mrcfile.open(tmp_path / "clamped/stacks/particles_000001.mrcs") as file:
        assert float(file.header.dmin) == file.data.min() == -65504.0


def test_a_narrow_column_of_numbers_is_made_wider(tmp_path: Path) -> None:
    stack = np.random.default_rng(10).normal(0, 1, (300, 8, 8)).astype(np.float32)
    write_mrc(tmp_path / "s.mrcs", stack, pixel_size=1.5, stack=True)
    fields = [
        ("uid", "<u8"),
        ("blob/path", "S8"),
        ("blob/idx", "u1"),
        ("blob/shape", "<u4", (2,)),
        ("blob/psize_A", "<f4"),
    ]
    table = np.zeros(300, np.dtype(fields))  # type: ignore[arg-type]
    table["uid"], table["blob/path"], table["blob/idx"] = np.arange(300) + 1, b"s.mrcs", np.arange(300) % 250
    table["blob/shape"], table["blob/psize_A"] = 8, 1.5
    write_table(tmp_path / "t.cs", table)
    restack_particles(tmp_path / "t.cs", tmp_path / "out", root=tmp_path, options=FAST)
    assert read_table(tmp_path / "out/particles.cs")["blob/idx"].tolist() == list(range(300))


def test_a_stack_that_changes_meanwhile_ends_the_work(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cryobox.restacking import planning

    original = planning.plan

    def plan(look: Any, asked: Any) -> Any:
        (first, *_) = sorted((run.parent / "stacks").iterdir())
        first.write_bytes(first.read_bytes() + b"x")
        return original(look, asked)

    monkeypatch.setattr("cryobox.restacking.making.plan", plan)
    with pytest.raises(cryobox.CryoboxError, match="changed since its header was read"):
        restack(run, run.parents[1] / "Restack")


def test_the_command_says_what_it_did(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = run.parents[1]
    out = root / "Restack"

    def command(*more: str) -> int:
        with pytest.raises(SystemExit) as ended:
            cli.main(["restack", str(run), "--out", str(out), "--root", str(root), "--no-fsync", *more])
        return int(ended.value.code or 0)

    assert command("--fcrop", "32", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["exit_code"], told["stored"]) == (0, told["rows"])
    assert told["tables"][0] == str(out / f"particles{run.suffix}")
    assert command("--fcrop", "32") == 0
    assert f"{told['rows']} of {told['rows']} images in 1 stacks" in capsys.readouterr().out
    record = json.loads((out / "restack.json").read_text())
    assert record["complete"] is True
    assert command("--fcrop", "30") == 2
    assert "holds a run with sizes" in capsys.readouterr().err


def test_cryosparc_tools_reads_what_is_written(run: Path) -> None:
    if run.suffix != ".cs":
        pytest.skip("a table of RELION")
    dataset = pytest.importorskip("cryosparc.dataset")
    out = run.parents[1] / "Restack"
    restack(run, out, sizes=(SIDE,))
    loaded = dataset.Dataset.load(str(out / "particles.cs"))
    assert len(loaded) == len(images(run))
    assert set(map(tuple, loaded["blob/shape"].tolist())) == {(SIDE, SIDE)}
