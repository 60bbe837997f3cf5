"""Whole runs whose tables went wrong without a word: mixed CTF values, names that become one, uids half known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest

import cryobox
from cryobox.cli import main
from cryobox.errors import InputError, OptionError
from star_tables import columns

FAST = cryobox.RunOptions(fsync=False)
OPTICS = "data_optics\n\nloop_\n_rlnOpticsGroupName\n_rlnOpticsGroup\n_rlnVoltage\n_rlnSphericalAberration\n"
MICROGRAPHS = (
    OPTICS + "_rlnAmplitudeContrast\n_rlnMicrographPixelSize\nog1 1 300 2.7 0.10 1.5\n\n"
    "data_micrographs\n\nloop_\n_rlnMicrographName\n_rlnOpticsGroup\n_rlnDefocusU\n_rlnDefocusV\n_rlnDefocusAngle\n"
    "_rlnCtfAstigmatism\n_rlnCtfFigureOfMerit\n_rlnCtfMaxResolution\n"
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "M").mkdir()
    for seed, name in enumerate(("a", "b")):
        micrograph(tmp_path / "M" / f"{name}.mrc", seed)
    return tmp_path


def micrograph(path: Path, seed: int) -> None:
    with mrcfile.new(path) as file:
        file.set_data(np.random.default_rng(seed).normal(0, 1, (160, 200)).astype(np.float32))
        file.voxel_size = 1.5


def extract(picks: str, micrographs: str = "mics.star", **recipe: Any) -> cryobox.RunResult:
    return cryobox.run(picks, micrographs=micrographs, out="out", recipe=cryobox.Recipe(box=32, **recipe), options=FAST)


def star_files(folder: Path, picks: str, micrographs: str = MICROGRAPHS) -> None:
    rows = "M/a.mrc 1 10000 9900 10 100 0.2 5.5\nM/b.mrc 1 20000 19900 20 100 0.1 6.5\n"
    (folder / "mics.star").write_text(micrographs + (rows if micrographs is MICROGRAPHS else ""))
    (folder / "p.star").write_text(picks)


def fitted_picks(optics: str, columns: str, *rows: str) -> str:
    return (
        f"data_optics\n\nloop_\n_rlnOpticsGroupName\n_rlnOpticsGroup\n{optics}\n\ndata_particles\n\nloop_\n"
        f"_rlnMicrographName\n_rlnCoordinateX\n_rlnCoordinateY\n_rlnOpticsGroup\n{columns}" + "\n".join(rows) + "\n"
    )


OWN = fitted_picks(
    "_rlnVoltage\n_rlnSphericalAberration\n_rlnAmplitudeContrast\n_rlnBeamTiltX\nog1 1 300 2.7 0.07 0.33",
    "_rlnDefocusU\n_rlnDefocusV\n_rlnDefocusAngle\n_rlnCtfBfactor\n_rlnCtfScalefactor\n_rlnPhaseShift\n",
    "M/a.mrc 100 80 1 77777 77770 5 12.5 0.5 30",
)


def test_picks_with_a_defocus_take_nothing_of_the_micrographs_fit(folder: Path) -> None:
    star_files(folder, OWN)
    extract("p.star")
    rows, optics = columns(folder / "out/particles.star"), columns(folder / "out/particles.star", "optics")
    assert not {"_rlnCtfAstigmatism", "_rlnCtfFigureOfMerit", "_rlnCtfMaxResolution"} & set(rows)
    assert (rows["_rlnDefocusU"], rows["_rlnPhaseShift"]) == (["77777"], ["30"])
    assert (optics["_rlnAmplitudeContrast"], optics["_rlnBeamTiltX"]) == (["0.07"], ["0.33"])


def test_refreshing_takes_everything_of_the_micrographs_and_resets_what_they_do_not_have(folder: Path) -> None:
    star_files(folder, OWN)
    extract("p.star", refresh_ctf=True)
    rows, optics = columns(folder / "out/particles.star"), columns(folder / "out/particles.star", "optics")
    assert [float(rows[tag][0]) for tag in ("_rlnPhaseShift", "_rlnCtfBfactor", "_rlnCtfScalefactor")] == [0, 0, 1]
    assert (rows["_rlnDefocusU"], rows["_rlnCtfMaxResolution"]) == (["10000"], ["5.5"])
    assert optics["_rlnAmplitudeContrast"] == ["0.10"]
    assert "_rlnBeamTiltX" not in optics


def test_picks_without_a_defocus_take_the_micrographs_optics_too(folder: Path) -> None:
    picks = fitted_picks("_rlnVoltage\n_rlnAmplitudeContrast\n_rlnBeamTiltX\nx 7 300 0.07 0.3", "", "M/b.mrc 100 80 7")
    star_files(folder, picks)
    extract("p.star")
    optics = columns(folder / "out/particles.star", "optics")
    assert (optics["_rlnOpticsGroupName"], optics["_rlnAmplitudeContrast"]) == (["og1"], ["0.10"])
    assert "_rlnBeamTiltX" not in optics
    assert columns(folder / "out/particles.star")["_rlnDefocusU"] == ["20000"]


def test_beam_shift_groups_beside_one_group_of_micrographs_stay_apart(folder: Path) -> None:
    optics = "_rlnVoltage\n_rlnSphericalAberration\n_rlnAmplitudeContrast\n_rlnBeamTiltX\n" + "\n".join(
        f"shift{i} {i} 300 2.7 0.1 0.{i}" for i in (1, 2, 3)
    )
    star_files(folder, fitted_picks(optics, "_rlnDefocusU\n", *(f"M/a.mrc {60 + i} 80 0{i} 7000" for i in (1, 2, 3))))
    extract("p.star")
    found = columns(folder / "out/particles.star", "optics")
    assert found["_rlnOpticsGroupName"] == ["shift1", "shift2", "shift3"]
    assert found["_rlnBeamTiltX"] == ["0.1", "0.2", "0.3"]


def test_the_amplitude_contrast_of_30_picks_and_their_beam_tilts_are_theirs(folder: Path) -> None:
    picks = (
        "data_\n\nloop_\n_rlnMicrographName\n_rlnCoordinateX\n_rlnCoordinateY\n_rlnVoltage\n_rlnSphericalAberration\n"
        "_rlnAmplitudeContrast\n_rlnDefocusU\n_rlnBeamTiltX\n"
        "M/a.mrc 60 80 300 2.7 0.07 7000 0.1\nM/a.mrc 70 80 300 2.7 0.07 7000 0.2\n"
        "M/b.mrc 80 80 300 2.7 0.070 7000 .1\n"
    )
    star_files(folder, picks)
    extract("p.star")
    rows, optics = columns(folder / "out/particles.star"), columns(folder / "out/particles.star", "optics")
    assert optics["_rlnOpticsGroupName"][0] == "og1"
    assert optics["_rlnAmplitudeContrast"] == ["0.07", "0.07"]
    tilt = dict(zip(optics["_rlnOpticsGroup"], map(float, optics["_rlnBeamTiltX"]), strict=True))
    assert [tilt[group] for group in rows["_rlnOpticsGroup"]] == [0.1, 0.2, 0.1]
    assert not {"_rlnVoltage", "_rlnBeamTiltX"} & set(rows)


def test_more_beam_tilts_than_groups_can_be_are_refused(folder: Path) -> None:
    head = "data_\n\nloop_\n_rlnMicrographName\n_rlnCoordinateX\n_rlnCoordinateY\n_rlnDefocusU\n_rlnBeamTiltX\n"
    star_files(folder, head + "".join(f"M/a.mrc 80 80 7000 {i / 1e4}\n" for i in range(1001)))
    with pytest.raises(InputError, match=r"_rlnBeamTiltX have 1001 different values.*1000 are the most"):
        extract("p.star")


def test_another_voltage_is_refused_and_with_refreshing_warned_of(folder: Path) -> None:
    star_files(folder, OWN.replace("og1 1 300", "og2 2 200").replace(" 80 1 ", " 80 2 "))
    with pytest.raises(InputError, match="optics group 'og2' has _rlnVoltage 200 kV, but mics.star says 300 kV"):
        extract("p.star")
    warnings = extract("p.star", refresh_ctf=True).warnings
    assert len([text for text in warnings if "another voltage" in text]) == 1
    assert columns(folder / "out/particles.star", "optics")["_rlnOpticsGroupName"] == ["og1"]


def test_a_pixel_size_of_the_picks_is_compared(folder: Path) -> None:
    picks = OWN.replace("_rlnBeamTiltX\nog1 1 300 2.7 0.07 0.33", "_rlnMicrographPixelSize\nog1 1 300 2.7 0.07 3.0")
    star_files(folder, picks)
    with pytest.raises(InputError, match=r"_rlnMicrographPixelSize 3, but.*1\.5 Å.*--coord-scale 2"):
        extract("p.star")
    star_files(folder, picks.replace(" 3.0", " 1.53"))
    assert any("1.53" in text for text in extract("p.star").warnings)


def test_failed_fits_are_told_with_a_count_and_a_name(folder: Path) -> None:
    bad = MICROGRAPHS + "M/a.mrc 1 10000 9900 10 100 0.2 inf\nM/b.mrc 1 nan nan nan 100 0.1 6.5\n"
    star_files(folder, "data_\n\nloop_\n_rlnMicrographName\n_rlnCoordinateX\n_rlnCoordinateY\nM/a.mrc 80 80\n"
               "M/b.mrc 80 80\nM/b.mrc 90 80\n", bad)  # fmt: skip
    told = [text for text in extract("p.star").warnings if "finite" in text]
    assert len(told) == 2
    assert "_rlnDefocusU, _rlnDefocusV, _rlnDefocusAngle" in told[0]
    assert "1 of 2 micrographs, the first is M/b.mrc; 2 particles" in told[0]


def test_a_table_of_motion_correction_is_told_of(folder: Path) -> None:
    without = MICROGRAPHS.split("_rlnDefocusU")[0] + "M/a.mrc 1\nM/b.mrc 1\n"
    star_files(folder, "data_\n\nloop_\n_rlnMicrographName\n_rlnCoordinateX\n_rlnCoordinateY\nM/a.mrc 80 80\n", without)
    assert any("no CTF values" in text and "1 particle" in text for text in extract("p.star").warnings)


def test_warnings_stand_in_the_record_of_the_run(folder: Path) -> None:
    import json

    test_a_table_of_motion_correction_is_told_of(folder)
    assert any("no CTF values" in text for text in json.loads((folder / "out/job.json").read_text())["warnings"])


def test_the_ctf_flags_of_old_images_are_not_those_of_the_new(folder: Path) -> None:
    picks = OWN.replace("_rlnBeamTiltX\nog1 1 300 2.7 0.07 0.33", "_rlnCtfDataAreCtfPremultiplied\n"
                        "_rlnCtfDataArePhaseFlipped\nog1 1 300 2.7 0.07 1 1")  # fmt: skip
    star_files(folder, picks)
    extract("p.star")
    optics = columns(folder / "out/particles.star", "optics")
    assert optics["_rlnCtfDataAreCtfPremultiplied"] == ["0"]
    assert optics.get("_rlnCtfDataArePhaseFlipped", ["0"]) == ["0"]


@pytest.mark.parametrize("name", ["a\nb.mrc", "a' b\" c.mrc", "a\tb.mrc", "a  b.mrc", 'a "b.mrc'])
def test_a_name_that_star_cannot_hold_is_refused_before_any_work(
    folder: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    micrograph(folder / "M" / name, 3)
    (folder / "c").mkdir()
    (folder / "c" / name.replace(".mrc", ".txt")).write_text("80 80\n")
    with pytest.raises(SystemExit) as left:
        main(["extract", "c", "-m", "M", "-o", "out", "--box", "32", "-q", "--no-report"])
    assert left.value.code == 2
    assert ascii(name)[1:-5] in capsys.readouterr().err
    assert not (folder / "out").exists()


def test_an_output_folder_that_star_cannot_name_is_refused(folder: Path) -> None:
    star_files(folder, OWN)
    with pytest.raises(InputError, match="the name of the output folder"):
        cryobox.run("p.star", micrographs="mics.star", out="o' u\" t", recipe=cryobox.Recipe(box=32), options=FAST)


def cs_table(path: Path, n: int, **fields: Any) -> None:
    names = {name.replace("__", "/"): value for name, value in fields.items()}
    table = np.zeros(n, [("uid", "<u8"), *((k, *(t if isinstance(t, tuple) else (t,))) for k, (t, _) in names.items())])
    table["uid"] = np.arange(11, 11 + n)
    for name, (_, value) in names.items():
        table[name] = value
    with path.open("wb") as file:
        np.save(file, table)


def exposures(path: Path, kind: bytes = b"spline") -> None:
    cs_table(
        path, 2, micrograph_blob__path=("S7", [b"M/a.mrc", b"M/b.mrc"]), micrograph_blob__psize_A=("<f4", 1.5),
        micrograph_blob__shape=(("<u4", (2,)), (160, 200)), ctf__type=("S8", kind), ctf__accel_kv=("<f4", 300),
        ctf__cs_mm=("<f4", 2.7), ctf__amp_contrast=("<f4", 0.1), ctf__df1_A=("<f4", [9000, 8000]),
        ctf__df2_A=("<f4", [8900, 7900]), ctf__df_angle_rad=("<f4", 0.5), ctf__phase_shift_rad=("<f4", 0.25),
    )  # fmt: skip


def cs_picks(path: Path, uids: list[int], **more: Any) -> None:
    cs_table(
        path, 2, location__micrograph_uid=("<u8", uids), location__micrograph_path=("S7", [b"M/a.mrc", b"M/b.mrc"]),
        location__micrograph_shape=(("<u4", (2,)), (160, 200)), location__center_x_frac=("<f4", 0.5),
        location__center_y_frac=("<f4", 0.5), **more,
    )  # fmt: skip


@pytest.mark.parametrize("uids", [[11, 0], [11, 99], [0, 0], [98, 99]])
def test_a_micrograph_whose_uid_is_unknown_is_found_by_its_path_whatever_the_others_have(
    folder: Path, uids: list[int]
) -> None:
    exposures(folder / "e.cs", b"imported")
    cs_picks(folder / "p.cs", uids)
    assert extract("p.cs", "e.cs").extracted == 2


def test_local_defocus_is_not_replaced_by_an_average(folder: Path) -> None:
    exposures(folder / "e.cs")
    cs_picks(folder / "own.cs", [11, 12], ctf__df1_A=("<f4", 5000), ctf__accel_kv=("<f4", 300),
             ctf__old_fit=("<f4", 3), ctf__tilt_A=(("<f4", (2,)), 2))  # fmt: skip
    with pytest.raises(OptionError, match="--ctf-average"):
        extract("own.cs", "e.cs", refresh_ctf=True)
    told = extract("own.cs", "e.cs", refresh_ctf=True, ctf_average=True).warnings
    assert any("Patch CTF Extraction" in text for text in told)
    table = np.load(folder / "out/particles.cs")
    assert table["ctf/df1_A"].tolist() == [9000, 8000]
    assert not table["ctf/tilt_A"].any()
    assert "ctf/old_fit" not in table.dtype.names


def test_another_voltage_in_a_cs_is_refused(folder: Path) -> None:
    exposures(folder / "e.cs", b"imported")
    cs_picks(folder / "p.cs", [11, 12], ctf__df1_A=("<f4", 5000), ctf__accel_kv=("<f4", 200))
    with pytest.raises(InputError, match="ctf/accel_kv is 200 kV, but e.cs says 300 kV"):
        extract("p.cs", "e.cs")


def test_failed_fits_are_told_in_a_cs_as_in_star(folder: Path) -> None:
    exposures(folder / "e.cs", b"imported")
    cs_picks(folder / "own.cs", [11, 12], ctf__df1_A=("<f4", [5000, np.nan]), ctf__accel_kv=("<f4", 300))
    told = extract("own.cs", "e.cs").warnings
    assert any("ctf/df1_A is not a finite number for 1 of 2 particles, the first is row 2" in text for text in told)
    assert any("no ctf/df2_A, ctf/df_angle_rad" in text for text in told)
    table = np.load(folder / "e.cs")
    table["ctf/df1_A"][1] = np.inf
    with (folder / "bad.cs").open("wb") as file:
        np.save(file, table)
    cs_picks(folder / "p.cs", [11, 12])
    cryobox.run("p.cs", micrographs="bad.cs", out="out2", recipe=cryobox.Recipe(box=32), options=FAST)
    told = cryobox.run("p.cs", micrographs="bad.cs", out="out2", recipe=cryobox.Recipe(box=32), options=FAST).warnings
    assert any("ctf/df1_A is not a finite number for 1 of 2 micrographs, the first is M/b.mrc" in text for text in told)


def test_a_cs_without_voltage_beside_its_defocus_gets_the_exposures(folder: Path) -> None:
    exposures(folder / "e.cs", b"imported")
    cs_picks(
        folder / "p.cs", [11, 12], ctf__df1_A=("<f4", 5000), ctf__df2_A=("<f4", 5000), ctf__df_angle_rad=("<f4", 0)
    )
    told = extract("p.cs", "e.cs").warnings
    assert any("ctf/accel_kv, ctf/cs_mm, ctf/amp_contrast missing where the CTF comes from" in text for text in told)
    table = np.load(folder / "out/particles.cs")
    assert table["ctf/accel_kv"].tolist() == [300, 300]
    assert table["ctf/df1_A"].tolist() == [5000, 5000]


def test_mirrored_picks_of_a_cs_have_mirrored_ctf_values(folder: Path) -> None:
    exposures(folder / "e.cs", b"imported")
    cs_picks(folder / "p.cs", [11, 12], ctf__df1_A=("<f4", 5000), ctf__df2_A=("<f4", 4000),
             ctf__df_angle_rad=("<f4", 0.5), ctf__tilt_A=(("<f4", (2,)), (1, 2)))  # fmt: skip
    extract("p.cs", "e.cs", flip_x=True)
    table = np.load(folder / "out/particles.cs")
    assert table["ctf/df_angle_rad"].tolist() == [-0.5, -0.5]
    assert table["ctf/tilt_A"].tolist() == [[-1, 2]] * 2
