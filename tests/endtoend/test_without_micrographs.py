"""Picks that name their micrographs need no other table of them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import gemmi
import mrcfile
import numpy as np
import pytest

import cryobox
from cryobox import cli
from cryobox.errors import InputError
from cryobox.formats.cs_table import read_table, write_table
from cryobox.job import watch
from cryobox.simulate import Dataset, make_dataset
from cryobox.verification import verify

FAST = cryobox.RunOptions(fsync=False)


@pytest.fixture(params=["relion", "cryosparc"])
def data(tmp_path: Path, request: pytest.FixtureRequest) -> Dataset:
    return make_dataset(
        tmp_path / "p", micrographs=3, shape=(400, 500), picks=20, style=request.param, shifts=True, pixel_size=1.4
    )


def extract(data: Dataset, out: Path, *, micrographs: Any = None, picks: Any = None, **recipe: Any) -> Any:
    asked = cryobox.Recipe(box=64, sizes=(32,), **recipe)
    return cryobox.run(
        picks or data.picks, micrographs=micrographs, out=out, recipe=asked, options=FAST, root=data.folder
    )


def pixels(out: Path) -> list[bytes]:
    return [path.read_bytes()[1024:] for path in sorted((out / "stacks").iterdir())]


def pixel_size(out: Path) -> float:
    with mrcfile.open(next((out / "stacks").iterdir()), header_only=True) as file:
        return float(file.voxel_size.x)


def test_the_same_images_come_of_the_files_that_the_picks_name(data: Dataset, tmp_path: Path) -> None:
    extract(data, tmp_path / "a", micrographs=data.micrographs)
    result = extract(data, tmp_path / "b")
    assert result.exit_code == 0
    assert pixels(tmp_path / "b") == pixels(tmp_path / "a")
    assert pixel_size(tmp_path / "b") == pixel_size(tmp_path / "a") == pytest.approx(2.8)
    assert verify(tmp_path / "b", everything=True).problems == ()
    again = extract(data, tmp_path / "b")
    assert again.resumed == 3
    # The particles of this run say where they lie, too: with their shifts, the boxes stay where they are.
    table = next(path for path in result.tables if path.suffix in (".star", ".cs"))
    extract(data, tmp_path / "c", picks=table)
    assert pixels(tmp_path / "c") == pixels(tmp_path / "b")


def test_the_command_and_its_repetition_do_without_too(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data.folder)
    for more in (["extract", data.picks.name], ["extract", "--from", "out/job.json"]):
        out = "out" if "--from" not in more else "again"
        with pytest.raises(SystemExit) as ended:
            cli.main([*more, "--out", out, "--target-resolution", "6", "--diameter", "50", "--quiet", "--no-report"])
        assert not ended.value.code
    assert pixels(Path("again")) == pixels(Path("out"))


def test_the_pixel_size_is_that_of_the_file_never_that_of_a_movie_or_an_image(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "p", micrographs=1, shape=(400, 500), picks=20, style="relion", pixel_size=1.4)
    document = gemmi.cif.read(str(data.picks))
    (block,) = [block for block in document if block.name == "particles"]
    (name,) = set(block.find_values("_rlnMicrographName"))
    rows = list(zip(block.find_values("_rlnCoordinateX"), block.find_values("_rlnCoordinateY"), strict=True))
    text = "data_optics\n\nloop_\n_rlnOpticsGroup\n_rlnOpticsGroupName\n_rlnMicrographOriginalPixelSize\n"
    text += "_rlnImagePixelSize\n_rlnImageSize\n_rlnVoltage\n_rlnSphericalAberration\n_rlnAmplitudeContrast\n"
    text += "1 a 0.700000 2.800000 32 300 2.7 0.1\n\ndata_particles\n\nloop_\n_rlnMicrographName\n_rlnCoordinateX\n"
    text += "_rlnCoordinateY\n_rlnOpticsGroup\n" + "".join(f"{name} {x} {y} 1\n" for x, y in rows)
    data.picks.write_text(text)
    extract(data, tmp_path / "out")
    assert pixel_size(tmp_path / "out") == pytest.approx(2.8)
    (image,) = data.images
    with mrcfile.open(image, "r+") as file:
        file.voxel_size = 0
    with pytest.raises(InputError, match="--pixel-size"):
        extract(data, tmp_path / "none")
    extract(data, tmp_path / "told", pixel_size=1.3)
    assert pixel_size(tmp_path / "told") == pytest.approx(2.6)


def test_a_table_of_cryosparc_says_the_pixel_size_itself(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "p", micrographs=2, shape=(400, 500), picks=20, style="cryosparc", pixel_size=1.4)
    for image in data.images:
        with mrcfile.open(image, "r+") as file:
            file.voxel_size = 0
    extract(data, tmp_path / "out")
    assert pixel_size(tmp_path / "out") == pytest.approx(2.8)


def test_a_file_that_is_not_there_costs_its_picks(data: Dataset, tmp_path: Path) -> None:
    Path(sorted(data.images)[1]).unlink()
    result = extract(data, tmp_path / "out")
    assert (result.exit_code, len(result.incomplete)) == (1, 1)


def test_picks_that_name_no_file_are_refused_with_the_remedy(data: Dataset, tmp_path: Path) -> None:
    box = tmp_path / "sim_001.box"
    box.write_text("10 20 64 64\n")
    with pytest.raises(InputError, match="does not say where the files of its micrographs are; name them with --mic"):
        extract(data, tmp_path / "out", picks=box)
    if data.picks.suffix in (".cs", ".csg"):
        table = read_table(data.picks.with_suffix(".cs"))
        keep = [name for name in table.dtype.names or () if name != "location/micrograph_path"]
        bare = tmp_path / "bare.cs"
        write_table(bare, table[keep].astype(np.dtype([(name, table.dtype[name]) for name in keep])))
        with pytest.raises(InputError, match="does not say where the files"):
            extract(data, tmp_path / "out", picks=bare)
    assert not (tmp_path / "out").exists()


def test_a_live_session_follows_the_picks_alone(data: Dataset, tmp_path: Path) -> None:
    picks = data.picks.with_name(f"late{data.picks.suffix}")
    shutil.copy(data.picks, picks)
    result = watch(
        picks,
        micrographs=None,
        out=tmp_path / "out",
        recipe=cryobox.Recipe(box=64),
        root=data.folder,
        every=0.05,
        settle=0,
        idle_timeout=0.3,
        options=FAST,
    )
    assert result.extracted > 0
