"""Several tables of picks in one run: appended, never mixed, and found again by all that starts from a run's record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest

import cryobox
from cryobox.cli import main
from cryobox.convert import convert_particles
from cryobox.errors import InputError
from cryobox.job import merge
from cryobox.simulate import Dataset, make_dataset
from cryobox.verification import verify
from star_tables import columns

FAST = cryobox.RunOptions(fsync=False)
OPTICS = "data_optics\n\nloop_\n_rlnOpticsGroupName\n_rlnOpticsGroup\n_rlnVoltage\n_rlnSphericalAberration\n"
OPTICS += "_rlnAmplitudeContrast\n"
MICROGRAPHS = (
    OPTICS + "_rlnMicrographPixelSize\nog1 1 300 2.7 0.10 1.5\n\n"
    "data_micrographs\n\nloop_\n_rlnMicrographName\n_rlnOpticsGroup\n_rlnDefocusU\n_rlnDefocusV\n_rlnDefocusAngle\n"
    "M/a.mrc 1 10000 9900 10\nM/b.mrc 1 20000 19900 20\n"
)
BARE = "data_particles\n\nloop_\n_rlnMicrographName\n_rlnCoordinateX\n_rlnCoordinateY\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "M").mkdir()
    for seed, name in enumerate(("a", "b")):
        with mrcfile.new(tmp_path / "M" / f"{name}.mrc") as file:
            file.set_data(np.random.default_rng(seed).normal(0, 1, (160, 200)).astype(np.float32))
            file.voxel_size = 1.5
    (tmp_path / "mics.star").write_text(MICROGRAPHS)
    return tmp_path


def extract(*picks: str, micrographs: str = "mics.star", out: str = "out", **recipe: Any) -> cryobox.RunResult:
    return cryobox.run(picks, micrographs=micrographs, out=out, recipe=cryobox.Recipe(box=32, **recipe), options=FAST)


def fitted(name: str, number: int, *rows: str, more: str = "") -> str:
    """Picks with a CTF of their own, in one optics group."""
    return (
        f"{OPTICS}{name} {number} 300 2.7 0.07\n\ndata_particles\n\nloop_\n_rlnMicrographName\n_rlnCoordinateX\n"
        f"_rlnCoordinateY\n_rlnOpticsGroup\n_rlnDefocusU\n_rlnDefocusV\n_rlnDefocusAngle\n{more}"
        + "\n".join(rows)
        + "\n"
    )


def test_rows_are_appended_and_columns_united(folder: Path) -> None:
    (folder / "one.star").write_text(BARE + "_rlnClassNumber\nM/a.mrc 100 80 3\nM/b.mrc 90 70 4\n")
    (folder / "two.star").write_text(BARE + "_rlnFunny\nb.mrc 60 50 x\n")  # another spelling of the same name
    result = extract("one.star", "two.star")
    rows = columns(folder / "out/particles.star")
    assert rows["_rlnCoordinateX"] == ["100", "90", "60"]
    assert rows["_rlnMicrographName"] == ["M/a.mrc", "M/b.mrc", "M/b.mrc"]
    assert rows["_rlnClassNumber"] == ["3", "4", "0"]
    assert rows["_rlnFunny"] == ["0", "0", "x"]
    assert any("not every file has _rlnClassNumber, _rlnFunny; written as 0" in text for text in result.warnings)
    assert [name[:9] for name in rows["_rlnImageName"]] == ["00000001@", "00000001@", "00000002@"]


def test_what_is_not_written_as_zero_is_not_told_so(folder: Path) -> None:
    (folder / "one.star").write_text(
        BARE + "_rlnDefocusU\n_rlnDefocusV\n_rlnDefocusAngle\n_rlnVoltage\n_rlnSphericalAberration\n"
        "_rlnAmplitudeContrast\n_rlnBeamTiltX\n_rlnBeamTiltY\n_rlnAutopickFigureOfMerit\n"
        "M/a.mrc 100 80 77777 77770 5 300 2.7 0.07 0.1 0.2 0.9\n"
    )
    (folder / "two.star").write_text(fitted("og1", 1, "M/b.mrc 60 80 1 55555 55550 6"))
    result = extract("one.star", "two.star")
    rows, optics = columns(folder / "out/particles.star"), columns(folder / "out/particles.star", "optics")
    assert set(optics["_rlnVoltage"]) == {"300"}
    assert [float(score) for score in rows["_rlnAutopickFigureOfMerit"]] == [0.9, -999]
    assert not [text for text in result.warnings if "written as 0" in text]


def test_each_row_keeps_the_ctf_and_optics_of_its_own_table(folder: Path) -> None:
    (folder / "one.star").write_text(fitted("og1", 1, "M/a.mrc 100 80 1 77777 77770 5"))
    (folder / "two.star").write_text(fitted("other", 1, "M/a.mrc 60 80 1 55555 55550 6"))
    (folder / "bare.star").write_text(BARE + "M/b.mrc 90 70\n")
    extract("one.star", "two.star", "bare.star")
    rows, optics = columns(folder / "out/particles.star"), columns(folder / "out/particles.star", "optics")
    assert rows["_rlnDefocusU"] == ["77777", "55555", "20000"]
    of = dict(zip(optics["_rlnOpticsGroup"], zip(optics["_rlnOpticsGroupName"], optics["_rlnAmplitudeContrast"],
                                                 strict=True), strict=True))  # fmt: skip
    names, contrast = zip(*(of[number] for number in rows["_rlnOpticsGroup"]), strict=True)
    assert len(set(names)) == 3
    assert names[1] == "other"
    assert contrast == ("0.07", "0.07", "0.10")


def test_rejected_rows_of_several_tables_can_be_used_again(folder: Path) -> None:
    (folder / "one.star").write_text(fitted("og1", 1, "M/a.mrc 1 80 1 77777 77770 5", "M/a.mrc 100 80 1 77777 77770 5"))
    (folder / "two.star").write_text(fitted("other", 1, "M/b.mrc 1 80 1 55555 55550 6"))
    extract("one.star", "two.star")
    rows, optics = columns(folder / "out/rejected.star", ""), columns(folder / "out/rejected.star", "optics")
    name = dict(zip(optics["_rlnOpticsGroup"], optics["_rlnOpticsGroupName"], strict=True))
    assert [name[number] for number in rows["_rlnOpticsGroup"]] == ["og1", "other"]
    again = cryobox.run("out/rejected.star", micrographs="mics.star", out="again",
                        recipe=cryobox.Recipe(box=32, edges="pad"), options=FAST)  # fmt: skip
    assert again.extracted == 2
    assert columns(folder / "again/particles.star")["_rlnDefocusU"] == ["77777", "55555"]


def test_half_sets_that_only_some_tables_have_are_dropped_with_a_warning(folder: Path) -> None:
    (folder / "one.star").write_text(BARE + "_rlnRandomSubset\nM/a.mrc 100 80 1\n")
    (folder / "two.star").write_text(BARE + "M/b.mrc 90 70\n")
    result = extract("one.star", "two.star")
    assert "_rlnRandomSubset" not in columns(folder / "out/particles.star")
    assert any("rlnRandomSubset (half-sets) is left out, since two.star has none" in text for text in result.warnings)
    (folder / "two.star").write_text(BARE + "_rlnRandomSubset\nM/b.mrc 90 70 2\n")
    extract("one.star", "two.star", out="both")
    assert columns(folder / "both/particles.star")["_rlnRandomSubset"] == ["1", "2"]


def test_an_empty_table_takes_nothing_away(folder: Path) -> None:
    (folder / "one.star").write_text(BARE + "_rlnRandomSubset\nM/a.mrc 100 80 1\n")
    (folder / "two.star").write_text(BARE)
    result = extract("two.star", "one.star")
    assert columns(folder / "out/particles.star")["_rlnRandomSubset"] == ["1"]
    assert "two.star: holds no picks" in result.warnings


def test_files_named_one_by_one_are_joined_as_those_of_a_folder_are(folder: Path) -> None:
    head = "data_\n\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n"
    (folder / "p").mkdir()
    (folder / "p/a.star").write_text(head + "_rlnRandomSubset\n100 80 2\n")
    (folder / "p/b.star").write_text("")
    named = extract("p/a.star", "p/b.star", out="named")
    of_folder = extract("p", out="of_folder")
    for out in ("named", "of_folder"):
        assert columns(folder / out / "particles.star")["_rlnRandomSubset"] == ["2"]
    blank = "1 of 2 coordinate files hold 0 bytes, that is no picks: p/b.star"
    for result in (named, of_folder):
        assert sum(blank in text for text in result.warnings) == 1
    for name, z in (("a", 3), ("b", 4)):
        (folder / f"p/{name}.star").write_text(head + f"_rlnCoordinateZ\n100 80 {z}\n")
    for picks in (("p/a.star", "p/b.star"), ("p",)):
        with pytest.raises(InputError, match="_rlnCoordinateZ goes from 3 to 4: these are picks in tomograms"):
            extract(*picks, out="deep")


@pytest.mark.parametrize(("name", "text"), [
    ("a.coords", "x y z\n100 80 nan\n90 70 0\n"),
    ("a.csv", "x,y,z\n100,80,nan\n90,70,0\n"),
    ("a.pos", "data_particles\nloop_\n _xcoor\n _ycoor\n _zcoor\n100 80 nan\n90 70 0\n"),
    ("a.star", "data_\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n_rlnCoordinateZ\n100 80 nan\n90 70 0\n"),
])  # fmt: skip
def test_a_depth_that_is_not_known_says_nothing_in_any_format(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    assert extract(name).extracted == 2


def test_shifts_are_those_of_the_row(folder: Path) -> None:
    (folder / "one.star").write_text(BARE + "_rlnOriginXAngst\n_rlnOriginYAngst\nM/a.mrc 100 80 6.0 -3.0\n")
    (folder / "two.star").write_text(BARE + "M/b.mrc 90 70\n")
    extract("one.star", "two.star")
    rows = columns(folder / "out/particles.star")
    assert [float(x) for x in rows["_rlnCoordinateX"]] == [96, 90]
    assert [float(y) for y in rows["_rlnCoordinateY"]] == [82, 70]
    pixels = BARE + "_rlnOriginX\n_rlnOriginY\n_rlnMagnification\n_rlnDetectorPixelSize\nM/b.mrc 90 70 2 1 10000 1.5\n"
    (folder / "old.star").write_text(pixels)
    with pytest.raises(InputError, match="origins in Å and in pixels cannot stand in one table; extract them apart"):
        extract("one.star", "old.star", out="mixed")


def test_one_particle_in_two_tables_is_refused(folder: Path) -> None:
    for name in ("one", "two"):
        (folder / f"{name}.star").write_text(BARE + "_rlnImageName\nM/a.mrc 100 80 000001@x.mrcs\n")
    with pytest.raises(InputError, match=r"two\.star: 000001@x\.mrcs is in one\.star, too"):
        extract("one.star", "two.star")
    with pytest.raises(InputError, match=r"one\.star: is given twice as picks"):
        extract("one.star", "./one.star")


def test_families_are_not_mixed(folder: Path) -> None:
    (folder / "one.star").write_text(BARE + "M/a.mrc 100 80\n")
    (folder / "a.box").write_text("50 50 32 32\n")
    with pytest.raises(
        InputError, match=r"picks of different kinds cannot be joined: one\.star is a STAR table, a\.box"
    ):
        extract("one.star", "a.box")


def test_plain_picks_are_appended(folder: Path) -> None:
    (folder / "a.box").write_text("50 50 32 32\n")
    (folder / "b.box").write_text("60 60 32 32\n70 70 32 32\n")
    (folder / "topaz.txt").write_text("image_name\tx_coord\ty_coord\tscore\na\t100\t80\t0.5\n")
    result = extract("a.box", "b.box", "topaz.txt")
    assert result.extracted == 4
    assert columns(folder / "out/particles.star")["_rlnMicrographName"] == ["M/a.mrc", "M/b.mrc", "M/b.mrc", "M/a.mrc"]


def test_the_record_the_resumed_run_shards_and_verify_know_all_tables(folder: Path) -> None:
    (folder / "one.star").write_text(BARE + "M/a.mrc 100 80\n")
    (folder / "two.star").write_text(BARE + "M/b.mrc 90 70\n")
    extract("one.star", "two.star")
    assert json.loads((folder / "out/job.json").read_text())["inputs"]["picks"] == ["one.star", "two.star"]
    assert extract("one.star", "two.star").resumed == 2
    assert verify(folder / "out").problems == ()
    arguments = ["--box", "32", "--no-fsync", "--no-report", "-q"]
    for part in ("1/2", "2/2"):
        assert (
            run_main("extract", "one.star", "two.star", "-m", "mics.star", "-o", "parts", *arguments, "--shard", part)
            == 0
        )
    assert merge("parts", options=FAST).extracted == 2
    assert (folder / "parts/particles.star").read_text().replace("parts/", "out/") == (
        folder / "out/particles.star"
    ).read_text()
    (folder / "elsewhere").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder / "elsewhere")
        assert (
            run_main("extract", "--from", "../out/job.json", "-o", "../again", "--root", str(folder), *arguments) == 0
        )
    assert (folder / "again/particles.star").read_text().replace("again/", "out/") == (
        folder / "out/particles.star"
    ).read_text()
    extract("one.star", out="single")
    assert json.loads((folder / "single/job.json").read_text())["inputs"]["picks"] == "one.star"


def run_main(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    return int(caught.value.code or 0)


def test_a_source_takes_several_tables(folder: Path) -> None:
    (folder / "one.star").write_text(BARE + "M/a.mrc 100 80\n")
    (folder / "two.star").write_text(BARE + "M/b.mrc 90 70\n")
    source = cryobox.ParticleSource(["one.star", "two.star"], micrographs="mics.star", recipe=cryobox.Recipe(box=32))
    assert len(source) == 2


def test_a_pattern_that_the_shell_expanded_gets_a_hint(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "one.star").write_text(BARE + "M/a.mrc 100 80\n")
    assert run_main("extract", "one.star", "-m", "M/a.mrc", "M/b.mrc", "-o", "out", "--box", "32") == 2
    assert "-m M/a.mrc M/b.mrc ...: takes one word" in (said := capsys.readouterr().err)
    assert "put it in quotes, or the shell makes many words of it: -m 'M/*.mrc'" in said
    assert run_main("extract", "M/a.mrc", "M/b.mrc", "-m", "mics.star", "-o", "out", "--box", "32") == 2
    assert "M/a.mrc and 1 more: micrographs where PICKS are expected" in capsys.readouterr().err
    for command in (["info", "one.star"], ["convert", "one.star", "one.cs"]):
        assert run_main(*command, "--micrographs", "M/a.mrc", "M/b.mrc") == 2
        assert "-m 'M/*.mrc'" in capsys.readouterr().err


def test_options_for_reading_that_cannot_apply_are_refused(folder: Path) -> None:
    (folder / "one.star").write_text(BARE + "M/a.mrc 100 80\n")
    with pytest.raises(InputError, match=r"mics\.star: holds no TIFF files, so --tiff-no-flip cannot apply"):
        extract("one.star", tiff_flip=False)
    with pytest.raises(InputError, match=r"--strip-suffix _DW: no name ends so"):
        extract("one.star", strip_suffix="_DW")
    with pytest.raises(
        cryobox.OptionError, match="--ctf-average says how --refresh-ctf may work; give both, or neither"
    ):
        extract("one.star", ctf_average=True)
    with pytest.raises(cryobox.OptionError, match="--strip-prefix must be a part of a file's name, without folders"):
        extract("one.star", strip_prefix="M/")


def test_fractions_are_not_scaled(groups: Dataset, tmp_path: Path) -> None:
    with pytest.raises(
        cryobox.OptionError, match=r"picks\.csg: positions are parts .* so --coord-scale 2 cannot apply"
    ):
        cs_run(groups, tmp_path, groups.picks, coordinate_scale=2.0)


# CryoSPARC ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def groups(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make_dataset(tmp_path_factory.mktemp("cs"), micrographs=2, shape=(400, 500), picks=8, style="cryosparc")


def halves(dataset: Dataset, folder: Path, **changes: Any) -> tuple[Path, Path]:
    """The picks in two tables: even and odd rows; `changes` add columns to the second, None removes one."""
    table = np.load(dataset.picks.with_suffix(".cs"))
    fields = {name: table[name][1::2] for name in table.dtype.names or ()} | changes
    return even_rows(dataset, folder / "first.cs"), saved(folder / "second.cs", fields)


def saved(path: Path, fields: dict[str, Any]) -> Path:
    there = {name: values for name, values in fields.items() if values is not None}
    table = np.zeros(len(there["uid"]), [(name, v.dtype, v.shape[1:]) for name, v in there.items()])
    for name, values in there.items():
        table[name] = values
    with path.open("wb") as file:
        np.save(file, table)
    return path


def cs_run(dataset: Dataset, folder: Path, *picks: Path, **recipe: Any) -> tuple[cryobox.RunResult, Any]:
    result = cryobox.run(picks, micrographs=dataset.micrographs, out=folder / "out", root=dataset.folder,
                         recipe=cryobox.Recipe(box=64, **recipe), options=FAST)  # fmt: skip
    return result, np.load(folder / "out/particles.cs")


def test_cs_tables_are_appended(groups: Dataset, tmp_path: Path) -> None:
    whole = np.load(groups.picks.with_suffix(".cs"))
    long = np.full(len(whole) // 2, b"a longer text")
    first, second = halves(groups, tmp_path, **{"pick_stats/power": None, "pick_stats/note": long})
    result, table = cs_run(groups, tmp_path, first, second)
    wanted = [*whole["uid"][::2].tolist(), *whole["uid"][1::2].tolist()]
    assert [uid for uid in wanted if uid in set(table["uid"].tolist())] == table["uid"].tolist()
    new = np.isin(table["uid"], whole["uid"][1::2])
    assert set(table["pick_stats/note"][new].tolist()) == {b"a longer text"}
    assert set(table["pick_stats/note"][~new].tolist()) == {b""}
    assert table["pick_stats/power"][new].tolist() == [0] * int(new.sum())
    assert any("not every table has pick_stats/power, pick_stats/note" in text for text in result.warnings)
    assert verify(tmp_path / "out").problems == ()


def test_the_same_uid_twice_is_an_error(groups: Dataset, tmp_path: Path) -> None:
    first, _ = halves(groups, tmp_path)
    with pytest.raises(InputError, match=r"picks\.csg: uid \d+ is in .*first\.cs, too \(\d+ such uids\)"):
        cs_run(groups, tmp_path, first, groups.picks)


def test_half_sets_of_alignments_that_only_some_have_are_dropped(groups: Dataset, tmp_path: Path) -> None:
    n = groups.count // 2
    split = {"alignments3D/split": np.ones(n, np.uint32), "alignments3D/class": np.ones(n, np.uint32)}
    result, table = cs_run(groups, tmp_path, *halves(groups, tmp_path, **split))
    assert "alignments3D/split" not in (table.dtype.names or ())
    assert "alignments3D/class" in (table.dtype.names or ())
    assert any("alignments3D/split (half-sets) left out, since" in text for text in result.warnings)


def ctf(n: int, **changes: float) -> dict[str, Any]:
    values = {"accel_kv": 300.0, "cs_mm": 2.7, "amp_contrast": 0.1, "df1_A": 12345.0, "df2_A": 12000.0,
              "df_angle_rad": 0.1} | changes  # fmt: skip
    return {f"ctf/{name}": np.full(n, value, np.float32) for name, value in values.items()}


def test_exposure_groups_of_one_number_stay_apart_where_their_optics_differ(groups: Dataset, tmp_path: Path) -> None:
    n = groups.count // 2
    number = {"ctf/exp_group_id": np.ones(n, np.uint32)}
    first = halves(groups, tmp_path, **ctf(n), **number)[1].rename(tmp_path / "odd.cs")
    second = even_rows(groups, tmp_path / "even.cs", **ctf(n, cs_mm=2.6), **number)
    result, table = cs_run(groups, tmp_path, first, second)
    of = {cs: set(table["ctf/exp_group_id"][table["ctf/cs_mm"] == np.float32(cs)].tolist()) for cs in (2.7, 2.6)}
    assert of == {2.7: {1}, 2.6: {2}}
    assert any("exposure group 1 of" in text and "it is group 2 here" in text for text in result.warnings)


def test_picks_without_a_ctf_beside_others_with_one_get_their_exposures(groups: Dataset, tmp_path: Path) -> None:
    n = groups.count // 2
    fitted = ctf(n, cs_mm=2.6) | {"ctf/exp_group_id": np.ones(n, np.uint32), "ctf/note": np.full(n, b"kept")}
    first, second = halves(groups, tmp_path, **fitted)
    _, table = cs_run(groups, tmp_path, first, second)
    assert verify(tmp_path / "out").problems == ()
    exposures = np.load(groups.micrographs.with_suffix(".cs"))
    defocus = dict(zip(exposures["uid"].tolist(), exposures["ctf/df1_A"].tolist(), strict=True))
    own = np.isin(table["uid"], np.load(second)["uid"])
    assert 0 < own.sum() < len(own)
    assert set(table["ctf/df1_A"][own].tolist()) == {12345}
    of_files = [defocus[uid] for uid in table["location/micrograph_uid"][~own].tolist()]
    assert table["ctf/df1_A"][~own].tolist() == of_files
    assert set(table["ctf/note"].tolist()) == {b"kept", b""}
    assert [set(table["ctf/exp_group_id"][rows].tolist()) for rows in (own, ~own)] == [{1}, {2}]


def test_picks_without_a_ctf_need_exposures_that_have_one(groups: Dataset, tmp_path: Path) -> None:
    first, second = halves(groups, tmp_path, **ctf(groups.count // 2))
    with pytest.raises(
        InputError, match=r"some of these tables have a CTF \(ctf/df1_A\), others have none, and .* none"
    ):
        cryobox.run([first, second], micrographs=str(groups.folder / "motioncorrected"), out=tmp_path / "out",
                    root=groups.folder, recipe=cryobox.Recipe(box=64), options=FAST)  # fmt: skip


def even_rows(dataset: Dataset, path: Path, **changes: Any) -> Path:
    """The even rows with more columns."""
    table = np.load(dataset.picks.with_suffix(".cs"))[::2]
    return saved(path, {field: table[field] for field in table.dtype.names or ()} | changes)


def test_relion_and_plain_picks_get_the_uids_of_cryosparc_exposures(groups: Dataset, tmp_path: Path) -> None:
    exposures = np.load(groups.micrographs.with_suffix(".cs"))
    uid = {
        Path(path.decode()).stem: int(u)
        for path, u in zip(exposures["micrograph_blob/path"], exposures["uid"], strict=True)
    }
    boxes = tmp_path / "boxes"
    boxes.mkdir()
    for name in uid:
        (boxes / f"{name}.box").write_text("100 100 64 64\n")
    _, table = cs_run(groups, tmp_path, boxes)
    assert table["location/micrograph_uid"].tolist() == list(uid.values())
    rows = "".join(f"elsewhere/{name}.mrc 150 160\n" for name in uid)
    (tmp_path / "picks.star").write_text(BARE + rows)
    done = cryobox.run(
        tmp_path / "picks.star",
        micrographs=groups.micrographs,
        out=tmp_path / "star",
        root=groups.folder,
        recipe=cryobox.Recipe(box=64),
        options=FAST,
    )
    convert_particles(
        done.tables[0], tmp_path / "star/particles.cs", micrographs=str(groups.micrographs), root=groups.folder
    )
    assert np.load(tmp_path / "star/particles.cs")["location/micrograph_uid"].tolist() == list(uid.values())
