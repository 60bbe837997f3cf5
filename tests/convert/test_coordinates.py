"""Picks as coordinate files of other programs: what is written is read again as the same picks."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cryobox
from cryobox import formats
from cryobox.cli import main
from cryobox.convert import convert_picks
from cryobox.errors import InputError, OptionError, OutputError
from cryobox.simulate import Dataset, make_dataset

RECIPE = cryobox.Recipe(box=64)
FAST = cryobox.RunOptions(fsync=False)
FORMATS = ("box", "cbox", "star", "csv")


@pytest.fixture(params=["relion", "cryosparc"])
def data(tmp_path: Path, request: pytest.FixtureRequest) -> Dataset:
    return make_dataset(tmp_path / "data", micrographs=3, shape=(300, 400), picks=12, style=request.param)


def written(data: Dataset, to: Any, folder: Path, **more: Any) -> Path:
    """Where the picks lie now."""
    target = folder / "picks.csv" if to == "csv" else folder / to
    box = 64 if to in ("box", "cbox") else None
    convert_picks([data.picks], target, to, micrographs=str(data.micrographs), box=box, root=data.folder, **more)
    return target / "coordinate_files.star" if to == "star" else target


@pytest.mark.parametrize("to", FORMATS)
def test_the_same_picks_come_back(data: Dataset, tmp_path: Path, to: Any) -> None:
    micrographs = formats.read_micrographs(str(data.micrographs))
    one = formats.read_particles(data.picks, micrographs=micrographs, recipe=RECIPE)
    other = formats.read_particles(written(data, to, tmp_path), micrographs=micrographs, recipe=RECIPE)
    assert len(one) == len(other) == data.count
    for particles in (one, other):
        assert particles.score is not None
    order = {Path(name).stem: number for number, name in enumerate(one.micrograph_names)}

    def rows(particles: Any) -> Any:
        place = [order[Path(particles.micrograph_names[m]).stem] for m in particles.micrograph.tolist()]
        found = np.column_stack([place, particles.y, particles.x, particles.score])
        return found[np.lexsort(found.T)]

    np.testing.assert_allclose(rows(other), rows(one), atol=1e-3, rtol=0)


@pytest.mark.parametrize("to", FORMATS)
def test_a_run_cuts_the_same_particles(data: Dataset, tmp_path: Path, to: Any) -> None:
    stacks = []
    for name, picks in (("own", data.picks), ("other", written(data, to, tmp_path))):
        cryobox.run(
            picks, micrographs=data.micrographs, out=tmp_path / name, root=data.folder, options=FAST,
            recipe=cryobox.Recipe(box=64, sizes=(32,), style="relion", recenter=False),
        )  # fmt: skip
        stacks.append({path.stem: path.read_bytes()[1024:] for path in (tmp_path / name / "stacks").iterdir()})
    assert stacks[0] == stacks[1]


def test_a_corner_or_a_center_as_each_format_wants_it(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("micrograph_name,x,y,score\nm.mrc,100,50.25,0.5\nm.mrc,80,70,nan\n")
    convert_picks([tmp_path / "m.csv"], tmp_path / "box", "box", box=64)
    assert (tmp_path / "box" / "m.box").read_text() == "68\t18.25\t64\t64\n48\t38\t64\t64\n"
    convert_picks([tmp_path / "m.csv"], tmp_path / "cbox", "cbox", box=64)
    assert "68 18.25 <NA> 64 64 <NA> 64 64 0.5 1 <NA>" in (tmp_path / "cbox" / "m.cbox").read_text()
    convert_picks([tmp_path / "m.csv"], tmp_path / "star", "star")
    assert "100 50.25 0.5\n80 70 -999.0" in (tmp_path / "star" / "m_picks.star").read_text()
    convert_picks([tmp_path / "m.csv"], tmp_path / "out.csv", "csv")
    with open(tmp_path / "out.csv", newline="") as file:
        assert list(csv.reader(file))[1:] == [["m.mrc", "100", "50.25", "0.5"], ["m.mrc", "80", "70", "nan"]]


def test_whole_pixels_of_a_cs_stay_whole(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data", micrographs=1, shape=(300, 400), picks=30, style="cryosparc")
    micrographs = formats.read_micrographs(str(data.micrographs))
    exact = formats.read_particles(data.picks, micrographs=micrographs, recipe=RECIPE)
    convert_picks([data.picks], tmp_path / "out.csv", "csv")
    with open(tmp_path / "out.csv", newline="") as file:
        found = np.array([[float(row["x"]), float(row["y"])] for row in csv.DictReader(file)])
    nearest = np.rint(np.column_stack([exact.x, exact.y]))
    whole = np.abs(np.column_stack([exact.x, exact.y]) - nearest) < 1e-3
    assert whole.any()
    assert (found[whole] == nearest[whole]).all()


def test_files_that_are_there_are_not_replaced_unasked(data: Dataset, tmp_path: Path) -> None:
    written(data, "box", tmp_path)
    before = {path: path.read_bytes() for path in (tmp_path / "box").iterdir()}
    assert len(before) == 3
    with pytest.raises(OutputError, match=r"sim_001.box and 2 more: already there"):
        written(data, "box", tmp_path)
    written(data, "box", tmp_path, overwrite=True)
    assert {path: path.read_bytes() for path in (tmp_path / "box").iterdir()} == before


def test_a_box_is_asked_for_where_it_is_needed_and_nowhere_else(data: Dataset, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="give --box"):
        convert_picks([data.picks], tmp_path / "a", "box")
    with pytest.raises(OptionError, match="cannot apply; leave it out"):
        convert_picks([data.picks], tmp_path / "a", "star", box=64)
    with pytest.raises(OptionError, match="even"):
        convert_picks([data.picks], tmp_path / "a", "cbox", box=63)
    (tmp_path / "empty.csv").write_text("micrograph_name,x,y\n")
    with pytest.raises(InputError, match="holds no picks"):
        convert_picks([tmp_path / "empty.csv"], tmp_path / "a", "star")
    assert not (tmp_path / "a").exists()


def test_the_command(data: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["convert", str(data.picks), str(tmp_path / "boxes"), "--to", "box", "--box", "64"])
    assert left.value.code == 0
    assert f"3 files in {tmp_path / 'boxes'}: {data.count} picks on 3 micrographs" in capsys.readouterr().out


@pytest.mark.parametrize("to", ["csv", "box"])
def test_an_input_is_never_replaced(tmp_path: Path, to: Any) -> None:
    (tmp_path / "m.box").write_text("10 20 64 64\n")
    (tmp_path / "link").symlink_to(tmp_path)
    before = (tmp_path / "m.box").read_bytes()
    for target in (tmp_path, tmp_path / "link") if to == "box" else (tmp_path / "m.box", tmp_path / "link" / "m.box"):
        with pytest.raises(OutputError, match="is an input, and would be replaced"):
            convert_picks([tmp_path / "m.box"], target, to, box=64 if to == "box" else None, overwrite=True)
    assert (tmp_path / "m.box").read_bytes() == before


def test_the_list_names_files_from_the_root(data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    convert_picks([data.picks], data.folder / "made", "star", root=data.folder)
    assert " made/sim_001_picks.star" in (data.folder / "made" / "coordinate_files.star").read_text()
    for bad in ('t" d', "a  b"):
        with pytest.raises(InputError, match="a STAR file cannot hold"):
            convert_picks([data.picks], data.folder / bad, "star", root=data.folder)
    with pytest.raises(OutputError, match="cannot be written: File name too long"):
        convert_picks([data.picks], tmp_path / ("a" * 300), "csv")
