"""Whole runs on files without picks, on lists that name what is not there, and on picks that are no single ones."""

from __future__ import annotations

import json
from pathlib import Path

import mrcfile
import numpy as np
import pytest

import cryobox
from cryobox.cli import main
from cryobox.errors import InputError
from cryobox.job import merge
from star_tables import columns

FAST = cryobox.RunOptions(fsync=False)
XY = "data_\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n"
CBOX = "data_global\n\n_cbox_format_version 1.0\n\ndata_cryolo\n\nloop_\n_CoordinateX\n_CoordinateY\n_Width\n_Height\n"
LIST = "data_coordinate_files\n\nloop_\n_rlnMicrographName\n_rlnMicrographCoordinates\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("M", "P"):
        (tmp_path / name).mkdir()
    for seed, name in enumerate("abc"):
        with mrcfile.new(tmp_path / f"M/{name}.mrc") as file:
            file.set_data(np.random.default_rng(seed).normal(0, 1, (160, 200)).astype(np.float32))
            file.voxel_size = 1.5
    return tmp_path


def extract(picks: str, micrographs: str = "M", **recipe: object) -> cryobox.RunResult:
    return cryobox.run(
        picks, micrographs=micrographs, out="out", recipe=cryobox.Recipe(box=32, **recipe), options=FAST  # type: ignore[arg-type]
    )  # fmt: skip


def command(*arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        main([*arguments])
    assert isinstance(left.value.code, int)
    return left.value.code


KINDS = {
    "star": (XY + "60 50\n", (XY, "data_\n", "# version 30001\n")),
    "cbox": (CBOX + "44 34 32 32\n", (CBOX, "data_cryolo\n")),
    "box": ("44 34 32 32\n", ("\n", "# nothing\n")),
    "csv": ("x,y\n60,50\n", ("x,y\n",)),
    "txt": ("image_name\tx_coord\ty_coord\na\t60\t50\n", ("image_name\tx_coord\ty_coord\tscore\n",)),
    "tsv": ("x\ty\n60\t50\n", ("x\ty\n",)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_without_picks_costs_nothing_in_a_folder_or_a_list(folder: Path, kind: str) -> None:
    picks, empty = KINDS[kind]
    for text in ("", " \n\n", *empty):
        (folder / f"P/a.{kind}").write_text(picks)
        (folder / f"P/b.{kind}").write_text(text)
        (folder / "list.star").write_text(LIST + f"M/a.mrc P/a.{kind}\nM/b.mrc P/b.{kind}\n")
        for given in ("P", "list.star"):
            result = cryobox.run(
                given, micrographs="M", out=f"{given}.out", recipe=cryobox.Recipe(box=32),
                options=cryobox.RunOptions(fsync=False, overwrite=True),
            )  # fmt: skip
            assert (result.extracted, result.exit_code, result.incomplete) == (1, 0, {})
            assert any(f"b.{kind}" in warning for warning in result.warnings) is (text == "")


@pytest.mark.parametrize("kind", KINDS)
def test_picks_without_a_single_pick_are_refused_for_every_format_alike(folder: Path, kind: str) -> None:
    for text in ("", "\n", *KINDS[kind][1]):
        (folder / f"P/a.{kind}").write_text(text)
        for given in (f"P/a.{kind}", "P"):
            with pytest.raises(InputError, match=f"^{given}: holds no picks(: the file is empty)?$"):
                extract(given)


def test_a_missing_coordinate_file_costs_its_micrograph_and_not_the_run(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "P/a.star").write_text(XY + "60 50\n80 70\n")
    (folder / "P/c.star").write_text(XY)
    (folder / "list.star").write_text(LIST + "M/a.mrc P/a.star\nM/b.mrc P/b.star\nM/c.mrc P/c.star\n")
    assert command("extract", "list.star", "-m", "M", "-o", "out", "--box", "32", "--no-report") == 1
    told = capsys.readouterr().err
    assert "list.star: 1 of 3 coordinate files do not exist, and cost their micrographs: " in told
    assert "P/b.star" in told
    record = json.loads((folder / "out/job.json").read_text())
    assert any("P/b.star" in warning for warning in record["warnings"])
    lost = columns(folder / "out/micrographs_incomplete.star", "micrographs")
    assert lost["_rlnMicrographName"] == ["M/b.mrc"]
    assert lost["_cryoboxReason"][0].endswith("P/b.star: no such file of coordinates")
    assert len(columns(folder / "out/particles.star")["_rlnImageName"]) == 2
    assert command("verify", "out") == 0
    (folder / "P/b.star").write_text(XY + "60 50\n")
    assert command("extract", "list.star", "-m", "M", "-o", "out", "--box", "32", "--no-report") == 0
    assert not (folder / "out/micrographs_incomplete.star").exists()


def test_shards_and_their_merge_tell_of_a_missing_coordinate_file(folder: Path) -> None:
    for name in "ac":
        (folder / f"P/{name}.star").write_text(XY + "60 50\n")
    (folder / "list.star").write_text(LIST + "".join(f"M/{name}.mrc P/{name}.star\n" for name in "abc"))
    codes = []
    for number in (1, 2):
        options = cryobox.RunOptions(fsync=False, shard=(number, 2))
        result = cryobox.run("list.star", micrographs="M", out="out", recipe=cryobox.Recipe(box=32), options=options)
        codes.append(result.exit_code)
    assert codes == [1, 0]
    result = merge("out")
    assert (result.extracted, result.exit_code) == (2, 1)
    assert list(result.incomplete) == ["M/b.mrc"]


def test_a_list_of_which_nothing_is_there_is_refused_with_where_it_looked(folder: Path) -> None:
    (folder / "list.star").write_text(LIST + "M/a.mrc elsewhere/a.star\n")
    with pytest.raises(
        InputError, match=r"list\.star: none of its 1 coordinate files exists, .*elsewhere/a\.star.*--root"
    ):
        extract("list.star")


def test_picks_without_a_score_are_counted_so(folder: Path) -> None:
    rows = "60 50 0.5\n80 70 -999.0\n100 90 0.1\n"
    (folder / "P/a.star").write_text(XY + "_rlnAutopickFigureOfMerit #3\n" + rows)
    result = extract("P", min_score=0.5)
    assert (result.extracted, result.rejected) == (1, {"no score": 1, "score below the minimum": 1})
    rejected = columns(folder / "out/rejected.star", "")
    assert rejected["_rlnAutopickFigureOfMerit"] == ["-999.0", "0.1"]
    assert rejected["_cryoboxRejectReason"] == ["no score", "score below the minimum"]


def test_picks_without_a_score_beside_scored_ones_get_relions_mark(folder: Path) -> None:
    (folder / "P/a.box").write_text("44 34 32 32 0.5\n")
    (folder / "P/b.box").write_text("44 34 32 32\n")
    extract("P")
    assert columns(folder / "out/particles.star")["_rlnAutopickFigureOfMerit"] == ["0.500000", "-999.000000"]


def test_filaments_of_a_cbox_are_tubes_of_their_micrograph(folder: Path) -> None:
    head = CBOX + "_filamentid\n"
    (folder / "P/a.cbox").write_text(head + "44 34 32 32 0.0\n60 40 32 32 1.0\n5000 0 32 32 1.0\n")
    (folder / "P/b.cbox").write_text(head + "44 34 32 32 0.0\n60 40 32 32 <NA>\n")
    (folder / "P/c.cbox").write_text(CBOX + "44 34 32 32\n")
    result = extract("P")
    assert columns(folder / "out/particles.star")["_rlnHelicalTubeID"] == ["1", "2", "1", "0", "0"]
    assert columns(folder / "out/rejected.star")["_rlnHelicalTubeID"] == ["2"]
    assert "P: 2 of 6 picks belong to no filament: their rlnHelicalTubeID is 0" in result.warnings


def test_filaments_of_a_cbox_have_uids_in_a_cs(folder: Path) -> None:
    (folder / "P/a.cbox").write_text(
        CBOX + "_filamentid\n44 34 32 32 0\n60 40 32 32 0\n44 60 32 32 1\n50 60 32 32 <NA>\n"
    )
    (folder / "P/b.cbox").write_text(CBOX + "_filamentid\n44 34 32 32 0\n")
    extract("P", style="cryosparc")
    uid = np.load("out/particles.cs")["filament/filament_uid"]
    assert uid.dtype == np.uint64
    assert uid[0] == uid[1]
    assert uid[3] == 0
    assert len(set(uid.tolist())) == 4
