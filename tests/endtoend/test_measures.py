"""Measures of particles in whole runs: in every table, filtered by, carried on, the same however they are made."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import cryobox
from cryobox import cli
from cryobox.errors import OptionError
from cryobox.filtering import MEASURES
from cryobox.folder.records import sealed
from cryobox.formats.cs_table import read_table
from cryobox.job import merge
from cryobox.measuring import as_text
from cryobox.options import Recipe
from cryobox.reporting import write_report
from cryobox.restacking import Asked, restack_particles
from cryobox.simulate import Dataset, make_dataset
from cryobox.subset import select_like
from cryobox.verification import verify
from star_tables import columns

FAST = cryobox.RunOptions(fsync=False)
BOX, SIZES = 96, (64, 32)
REASON = "left out by the filter"
TEXT = "background_sd_relative < 1.02 and contrast > 0.1"


def dataset(folder: Path, style: Any = "relion", **more: Any) -> Dataset:
    return make_dataset(folder, micrographs=3, shape=(400, 500), picks=24, style=style, shifts=True, **more)


def run(data: Dataset, out: Path, recipe: Recipe, options: cryobox.RunOptions = FAST) -> Any:
    return cryobox.run(
        data.picks, micrographs=data.micrographs, out=out, recipe=recipe, options=options, root=data.folder
    )


def tag(name: str) -> str:
    return "_cryobox" + "".join(word.capitalize() for word in name.split("_"))


def numbers(table: Path, name: str) -> NDArray[np.float64]:
    """A measure of every row of a table of either family."""
    if table.suffix == ".cs":
        return read_table(table)[f"cryobox/{name}"].astype(np.float64)
    return np.array([float(text) for text in columns(table)[tag(name)]])


def images(out: Path, table: Path, size: int, dtype: Any = np.float32) -> NDArray[np.float64]:
    """The stored images of the rows of a STAR table."""
    found = []
    for text in columns(table)["_rlnImageName"]:
        number, _, stack = text.partition("@")
        offset = 1024 + (int(number) - 1) * size * size * np.dtype(dtype).itemsize
        path = out / "stacks" / Path(stack).name
        found.append(np.fromfile(path, dtype, count=size * size, offset=offset).reshape(size, size))
    return np.array(found).astype(np.float64)


@pytest.mark.parametrize(("style", "dtype"), [("relion", "float16"), ("cryosparc", "float32")])
def test_measures_in_both_families_tables_are_those_of_the_stored_images(
    tmp_path: Path, style: Any, dtype: Any
) -> None:
    data, out = dataset(tmp_path / "data", style), tmp_path / "out"
    recipe = Recipe(box=BOX, sizes=SIZES, measures=True, tables="both", dtype=dtype, white_dust=3.0)
    result = run(data, out, recipe)
    assert verify(out, everything=True).problems == ()
    star, cs = out / "particles.star", out / "particles.cs"
    for name in MEASURES:
        np.testing.assert_allclose(numbers(star, name), numbers(cs, name), rtol=1e-6, err_msg=name)
        for table in (star, cs):  # those of the first size, whatever size a table is of
            np.testing.assert_array_equal(numbers(table, name), numbers(table.with_stem("particles_small"), name))
    stored = images(out, star, SIZES[0], dtype)
    near = 2e-3 if dtype == "float16" else 1e-5
    for name, values in {
        "image_mean": stored.mean(axis=(1, 2)),
        "image_sd": stored.std(axis=(1, 2)),
        "image_minimum": stored.min(axis=(1, 2)),
        "image_maximum": stored.max(axis=(1, 2)),
    }.items():
        np.testing.assert_allclose(numbers(star, name), values, rtol=near, atol=near, err_msg=name)
    along = np.arange(SIZES[0]) - SIZES[0] // 2
    away, radius = along[:, None] ** 2 + along**2, int(0.375 * SIZES[0])
    middle = stored[:, away <= (radius / 2) ** 2].mean(axis=1)  # the background's mean is 0 and its sd 1
    np.testing.assert_allclose(numbers(star, "contrast"), middle, atol=near)
    inside = stored[:, away <= radius**2].var(axis=1)
    np.testing.assert_allclose(numbers(star, "signal_to_noise"), inside - 1, atol=5 * near)
    assert np.median(middle) > 0.1  # RELION's tables are among those that are written: particles are white
    sd, names = numbers(star, "background_sd"), np.array(columns(star)["_rlnMicrographName"])
    for name in set(names.tolist()):
        mine = names == name
        told = numbers(star, "background_sd_relative")[mine]
        np.testing.assert_allclose(told, sd[mine] / np.median(sd[mine]), rtol=1e-5)
    assert numbers(star, "dust").sum() == result.counts["dust"] > 0
    assert run(data, out, recipe).resumed == 3


@pytest.mark.parametrize("text", [TEXT, "contrast > 0.1 and not (image_maximum > 4 or dust > 40)"])
def test_a_filter_keeps_what_the_measures_say_and_the_others_are_rejected_with_the_reason(
    tmp_path: Path, text: str
) -> None:
    data, every, some = dataset(tmp_path / "data"), tmp_path / "all", tmp_path / "some"
    recipe = Recipe(box=BOX, sizes=SIZES, measures=True, white_dust=2.5, tables="both")
    run(data, every, recipe)
    result = run(data, some, replace(recipe, filter=text))
    assert verify(some, everything=True).problems == ()
    table = every / "particles.star"
    values = {name: numbers(table, name).astype(np.float32) for name in MEASURES}
    wanted = (
        (values["background_sd_relative"] < 1.02) & (values["contrast"] > 0.1)
        if text == TEXT
        else (values["contrast"] > 0.1) & ~((values["image_maximum"] > 4) | (values["dust"] > 40))
    )
    assert 3 < wanted.sum() < len(wanted) - 3
    assert (result.extracted, result.rejected[REASON]) == (wanted.sum(), (~wanted).sum())
    np.testing.assert_array_equal(
        images(some, some / "particles.star", SIZES[0]), images(every, table, SIZES[0])[wanted]
    )
    for name in MEASURES:  # the median is that of all that could be cut, and rejected ones say what they had
        np.testing.assert_array_equal(numbers(some / "particles.star", name), numbers(table, name)[wanted])
        told = numbers(some / "rejected.star", name)
        left_out = np.array(columns(some / "rejected.star")["_cryoboxRejectReason"]) == REASON
        np.testing.assert_array_equal(told[left_out], numbers(table, name)[~wanted])
        assert np.isnan(told[~left_out]).all()
    quiet = run(data, tmp_path / "quiet", replace(recipe, filter=text, measures=False))
    assert quiet.extracted == result.extracted
    assert not [tag for tag in columns(tmp_path / "quiet" / "particles.star") if "Contrast" in tag]
    assert verify(tmp_path / "quiet", everything=True).problems == ()


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.blake2b(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.parent.name.startswith("stacks")
    }


@pytest.mark.parametrize(("text", "together"), [(TEXT, None), ("contrast > 0.1", None), (TEXT, 30)])
def test_filtered_runs_are_the_same_however_they_are_run(tmp_path: Path, text: str, together: int | None) -> None:
    data = dataset(tmp_path / "data", dtype="float16")
    recipe = Recipe(box=BOX, sizes=SIZES, measures=True, filter=text, dtype="float16", particles_per_stack=together)
    result = run(data, tmp_path / "out", recipe)
    assert 3 < result.extracted < result.picks - 3
    run(data, tmp_path / "again", recipe, cryobox.RunOptions(fsync=False, workers=1, threads=2))
    assert digests(tmp_path / "again") == digests(tmp_path / "out")
    if together is None:
        for shard in ((1, 2), (2, 2)):
            run(data, tmp_path / "parts", recipe, cryobox.RunOptions(fsync=False, shard=shard))
        merged = merge(tmp_path / "parts", options=FAST)
        assert (merged.extracted, merged.rejected) == (result.extracted, result.rejected)
        assert digests(tmp_path / "parts") == digests(tmp_path / "out")
    first = replace(recipe, limit=1)
    run(data, tmp_path / "more", first)
    run(data, tmp_path / "more", recipe)
    assert verify(tmp_path / "more", everything=True).problems == ()
    for name in MEASURES:
        np.testing.assert_array_equal(
            numbers(tmp_path / "more" / "particles.star", name), numbers(tmp_path / "out" / "particles.star", name)
        )


@pytest.mark.parametrize("style", ["relion", "cryosparc"])
def test_restack_convert_and_select_carry_measures_and_extraction_never_does(tmp_path: Path, style: Any) -> None:
    data, out = dataset(tmp_path / "data", style), tmp_path / "data" / "out"
    run(data, out, Recipe(box=BOX, sizes=SIZES, measures=True))
    suffix = ".star" if style == "relion" else ".cs"
    table = out / f"particles{suffix}"
    restack_particles(table, tmp_path / "data" / "re", asked=Asked(), root=data.folder, options=FAST)
    select_like(table, out / f"particles_small{suffix}", tmp_path / f"chosen{suffix}")
    there = tmp_path / f"there{'.cs' if suffix == '.star' else '.star'}"
    back = tmp_path / f"back{suffix}"
    for source, target in ((table, there), (there, back)):
        with pytest.raises(SystemExit, match="0"):
            cli.main(["convert", str(source), str(target), "--root", str(data.folder)])
    carried = (tmp_path / "data" / "re" / f"particles{suffix}", tmp_path / f"chosen{suffix}", there, back)
    for name in MEASURES:
        for other in carried:
            np.testing.assert_allclose(numbers(other, name), numbers(table, name), rtol=1e-6, err_msg=str(other))
    again = cryobox.run(
        table, micrographs=data.micrographs, out=data.folder / "anew", recipe=Recipe(box=64), root=data.folder,
        options=FAST,
    )  # fmt: skip
    assert again.extracted > 0
    new = data.folder / "anew" / f"particles{suffix}"
    tags = columns(new) if suffix == ".star" else read_table(new).dtype.names
    assert not {name for name in tags if "Contrast" in name or "contrast" in name} - {
        "_rlnAmplitudeContrast", "ctf/amp_contrast"
    }  # fmt: skip


@pytest.mark.skipif(shutil.which("relion_star_handler") is None, reason="relion_star_handler is not on the PATH")
def test_relion_carries_measures(tmp_path: Path) -> None:
    data = dataset(tmp_path / "data")
    run(data, data.folder / "out", Recipe(box=BOX, sizes=SIZES, measures=True))
    command = [
        "relion_star_handler", "--i", "out/particles.star", "--o", "sorted.star", "--select", "rlnCoordinateX",
        "--minval", "0",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=data.folder, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    for name in MEASURES:
        told = numbers(data.folder / "sorted.star", name)
        np.testing.assert_array_equal(told, numbers(data.folder / "out" / "particles.star", name))


def test_cryosparc_tools_carry_measures(tmp_path: Path) -> None:
    dataset_module = pytest.importorskip("cryosparc.dataset", reason="cryosparc-tools is not installed")
    data = dataset(tmp_path / "data", "cryosparc")
    run(data, tmp_path / "out", Recipe(box=BOX, sizes=SIZES, measures=True))
    table = tmp_path / "out" / "particles.cs"
    found = dataset_module.Dataset.load(table)
    kept = found.query({"uid": found["uid"][3:9].tolist()})
    kept.save(tmp_path / "some.cs")
    for name in MEASURES:
        np.testing.assert_array_equal(numbers(tmp_path / "some.cs", name), numbers(table, name)[3:9])


@pytest.mark.parametrize(
    "asked",
    [
        {"subpixel": True, "lowpass": 12.0, "highpass": 400.0},
        {"ctf": "premultiply", "edges": "pad", "filter": "background_sd_relative < 1"},
        {"background": "exclude-neighbors", "edges": "pad", "black_dust": 3.0, "ramp": False},
        {"scale_const": 20.0, "hot_pixels": 6.0, "box": 64, "filter": "background_sd_relative < 1"},
    ],
)
def test_measures_beside_other_options_are_those_of_the_reference(tmp_path: Path, asked: dict[str, Any]) -> None:
    data = dataset(tmp_path / "data")
    options: dict[str, Any] = {"box": BOX, "sizes": (64, 32), "measures": True, "filter": "contrast > 0.1"}
    recipe = Recipe(**(options | asked))
    result = run(data, tmp_path / "out", recipe)
    assert 3 < result.extracted < result.picks - 3
    assert verify(tmp_path / "out", everything=True).problems == ()


def test_boxes_of_noise_are_measured_and_never_filtered(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data", micrographs=2, shape=(700, 800), picks=6)
    recipe = Recipe(box=64, sizes=(64, 32), measures=True, filter="contrast > 0.2", noise_particles=8)
    run(data, tmp_path / "out", recipe)
    assert verify(tmp_path / "out", everything=True).problems == ()
    noise = numbers(tmp_path / "out" / "noise.star", "contrast")
    assert len(noise) == 16
    assert (noise < 0.2).any()
    assert numbers(tmp_path / "out" / "particles.star", "contrast").min() > 0.2


def test_saturated_pixels_are_counted_in_the_window(tmp_path: Path) -> None:
    data = dataset(tmp_path / "data", dtype="uint16")
    for path in (tmp_path / "data").rglob("*.mrc"):
        pixels = np.memmap(path, np.uint16, "r+", offset=1024, shape=(400, 500))
        pixels[:, :60] = 65535
        pixels.flush()
    recipe = Recipe(box=BOX, sizes=SIZES, measures=True, edges="pad", filter="saturated == 0")
    result = run(data, tmp_path / "out", recipe)
    assert verify(tmp_path / "out", everything=True).problems == ()
    x = np.array([float(text) for text in columns(tmp_path / "out" / "particles.star")["_rlnCoordinateX"]])
    assert (x - BOX // 2 >= 60).all()
    assert result.rejected[REASON] > 0
    told = numbers(tmp_path / "out" / "rejected.star", "saturated")
    x = np.array([float(text) for text in columns(tmp_path / "out" / "rejected.star")["_rlnCoordinateX"]])
    assert (told > 0).all()
    assert (told <= 1).all()
    assert told[np.argmin(x)] == told.max()


def test_the_report_shows_distributions_and_what_the_filter_kept(tmp_path: Path) -> None:
    data = dataset(tmp_path / "data")
    run(data, tmp_path / "out", Recipe(box=BOX, sizes=SIZES, measures=True, filter=TEXT))
    page = write_report(tmp_path / "out").read_text()
    section = page[page.index('id="measures"') :]
    section = section[: section.index("<h2")]
    assert section.count("<img") == len(MEASURES) - 2
    assert "background_sd_relative &lt; 1.02" in section
    assert "The same for all: saturated 0, dust 0." in section


def rewritten(path: Path, change: Any) -> None:
    """The lines of tasks in a ledger, changed and sealed anew, as if they had been so from the beginning."""
    lines = []
    for line in path.read_text().splitlines():
        record = json.loads(line)
        if "measures" in record:
            record.pop("digest")
            record = sealed(change(record))
        lines.append(json.dumps(record))
    path.write_text("".join(f"{line}\n" for line in lines))


def test_verify_finds_measures_that_are_not_those_of_the_particles(tmp_path: Path) -> None:
    data, out = dataset(tmp_path / "data"), tmp_path / "out"
    run(data, out, Recipe(box=BOX, sizes=SIZES, filter=TEXT))
    ledger = out / "ledger.jsonl"
    before = ledger.read_text()

    def said(change: Any) -> str:
        def with_values(record: dict[str, Any]) -> dict[str, Any]:
            values = np.frombuffer(base64.b64decode(record["measures"]), "<f4").reshape(-1, len(MEASURES)).copy()
            return record | {"measures": as_text(change(values))}

        rewritten(ledger, with_values)
        found = "\n".join(verify(out, everything=True).problems)
        ledger.write_text(before)
        return found

    def scaled(name: str, factor: float) -> Any:
        def change(values: NDArray[np.float32]) -> NDArray[np.float32]:
            values[:, MEASURES.index(name)] *= np.float32(factor)
            return values

        return change

    for name in ("contrast", "signal_to_noise", "local_variance", "background_mean", "image_sd"):
        assert f"{name} is recorded as" in said(scaled(name, 1.001)), name
    assert "background_sd_relative does not fit" in said(scaled("background_sd_relative", 1.001))
    assert "by its measures" in said(scaled("contrast", -1))
    assert "measures are not those of the windows that could be cut" in said(lambda values: values[1:])


def test_measures_are_refused_where_there_are_none(tmp_path: Path) -> None:
    data = dataset(tmp_path / "data")
    for asked, named in (({"measures": True}, "--measures"), ({"filter": "contrast > 0"}, "--filter")):
        with pytest.raises(OptionError, match=f"{named}.*leave out --gpus"):
            run(data, tmp_path / "gpu", Recipe(box=BOX, **asked), cryobox.RunOptions(gpus=("cuda:0",)))
        with pytest.raises(OptionError, match="without normalize"):
            Recipe(box=BOX, normalize=False, **asked)
        with pytest.raises(OptionError, match="ParticleSource has neither"):
            cryobox.ParticleSource(
                data.picks, micrographs=data.micrographs, recipe=Recipe(box=BOX, **asked), root=data.folder
            )
