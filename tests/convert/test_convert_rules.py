"""What `convert` refuses, warns of and keeps: single rules, one test each."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from convert.random_tables import blocks, save
from convert.small_tables import convert, cs, micrograph, star
from cryobox.convert import convert_particles
from cryobox.errors import InputError, OutputError
from cryobox.formats.cs_table import read_table


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_whole_pixels_stay_themselves_in_both_directions(folder: Path) -> None:
    ny, nx, n = 411, 577, 550
    x, y = np.arange(n) + 20, (np.arange(n) % 380) + 15
    where = (("location/micrograph_path", "S9", b"m/a.mrc"), ("location/micrograph_shape", ("<u4", (2,)), (ny, nx)),
             ("location/center_x_frac", "<f4", x / nx), ("location/center_y_frac", "<f4", y / ny))  # fmt: skip
    cs(folder, n, *where)
    convert("a.cs", "b.star")
    rows = blocks(folder / "b.star")["particles"][1]
    assert [int(float(row["_rlnCoordinateX"])) for row in rows] == x.tolist()
    assert [int(float(row["_rlnCoordinateY"])) for row in rows] == y.tolist()
    micrograph(folder / "m" / "a.mrc", (ny, nx), 1.06)
    star(folder, [{"_rlnMicrographName": "m/a.mrc", "_rlnCoordinateX": str(a), "_rlnCoordinateY": str(b)}
                  for a, b in zip(x.tolist(), y.tolist(), strict=True)])  # fmt: skip
    convert("a.star", "c.cs")
    table = read_table(folder / "c.cs")
    assert np.trunc(table["location/center_x_frac"].astype(float) * nx).tolist() == x.tolist()
    assert np.trunc(table["location/center_y_frac"].astype(float) * ny).tolist() == y.tolist()


@pytest.mark.parametrize("text", ["236.9995", "237.0004", "0.9999", "-2.9995", "-3.0005", "576.99999", "12.5"])
def test_a_fraction_of_a_pixel_means_the_same_pixel_to_readers_of_either_form(folder: Path, text: str) -> None:
    micrograph(folder / "m" / "a.mrc", (411, 577), 1.06)
    star(folder, [{"_rlnMicrographName": "m/a.mrc", "_rlnCoordinateX": text, "_rlnCoordinateY": "5"}])
    convert("a.star", "a.cs")
    position = float(read_table(folder / "a.cs")["location/center_x_frac"][0]) * 577
    nearest = np.rint(position)
    guarded = nearest if abs(position - nearest) < 1e-3 else np.trunc(position)
    assert guarded == np.trunc(float(text))


@pytest.mark.parametrize(
    ("row", "optics", "message"),
    [
        ({"_rlnImageName": "5000000000@s.mrcs"}, {}, "row 1: _rlnImageName is '5000000000@s.mrcs'"),
        ({"_rlnImageName": "1@"}, {}, "row 1: _rlnImageName"),
        ({"_rlnImageName": "²@s.mrcs"}, {}, "row 1: _rlnImageName"),
        ({"_rlnImageName": "0@s.mrcs"}, {}, "row 1: _rlnImageName"),
        ({}, {"rlnImageSize": "32.5"}, "data_optics, row 1: _rlnImageSize is '32.5', expected a whole number"),
        ({}, {"rlnImageSize": "1e400"}, "_rlnImageSize is '1e400'"),
        ({}, {"rlnImagePixelSize": "nan"}, "_rlnImagePixelSize is 'nan', expected a positive number"),
        ({}, {"rlnImagePixelSize": "-1"}, "_rlnImagePixelSize is '-1'"),
        ({}, {"rlnOpticsGroup": "one"}, "_rlnOpticsGroup is 'one'"),
        ({"_rlnOpticsGroup": "1.5"}, {}, "row 1: _rlnOpticsGroup is '1.5'"),
        ({"_rlnClassNumber": "nan", "_rlnAnglePsi": "5"}, {}, "row 1: _rlnClassNumber is 'nan'"),
        ({"_rlnClassNumber": "1e20", "_rlnAnglePsi": "5"}, {}, "row 1: _rlnClassNumber is '1e20'"),
        ({"_rlnDefocusU": "abc"}, {}, "row 1: _rlnDefocusU is 'abc', expected a number"),
    ],
)
def test_a_number_that_is_none_is_named_with_row_and_value(
    folder: Path, row: dict[str, str], optics: dict[str, str], message: str
) -> None:
    star(folder, [row], **optics)
    with pytest.raises(InputError) as error:
        convert("a.star", "b.cs")
    assert message in str(error.value)
    assert not (folder / "b.cs").exists()


@pytest.mark.parametrize(
    ("field", "kind", "value", "message"),
    [
        ("blob/psize_A", "<f4", np.nan, "row 1: blob/psize_A"),
        ("blob/shape", ("<u4", (2,)), (32, 33), "row 1: blob/shape"),
        ("blob/path", "S9", b">", "row 1: blob/path"),
    ],
)
def test_a_field_that_means_nothing_is_named_with_row_and_value(
    folder: Path, field: str, kind: object, value: object, message: str
) -> None:
    table = cs(folder, 1)
    table[field] = value
    save(folder / "a.cs", table)
    with pytest.raises(InputError, match=message):
        convert("a.cs", "b.star")


def test_a_class_of_minus_999_is_no_class_and_groups_called_01_are_group_1(folder: Path) -> None:
    star(folder, [{"_rlnOpticsGroup": "01", "_rlnAnglePsi": "-999.0", "_rlnClassNumber": "-999",
                   "_rlnOriginXAngst": "0", "_rlnOriginYAngst": "0"}])  # fmt: skip
    convert("a.star", "a.cs")
    table = read_table(folder / "a.cs")
    assert table["alignments2D/class"].tolist() == [0]
    assert table["alignments2D/pose"].tolist() == [0]


def test_a_stack_that_is_not_there_is_refused_and_nothing_written(folder: Path) -> None:
    star(folder, [{}])
    with pytest.raises(InputError, match=r"1 of its stacks is not there \(s\.mrcs\).*--allow-missing"):
        convert_particles("a.star", "b.cs")
    assert sorted(path.name for path in folder.iterdir()) == ["a.star"]
    cs(folder, 1)
    with pytest.raises(InputError, match="not there"):
        convert_particles("a.cs", "b.star")


def test_a_stack_is_found_where_extraction_looks(folder: Path) -> None:
    (folder / "project" / "J1").mkdir(parents=True)
    (folder / "project" / "J1" / "s.mrc").write_bytes(b"")
    table = cs(folder, 1)
    table["blob/path"] = b"J1/s.mrc"
    save(folder / "project" / "J1" / "a.cs", table)
    convert_particles("project/J1/a.cs", "b.star")
    name = blocks(folder / "b.star")["particles"][1][0]["_rlnImageName"]
    assert name == "00000001@project/J1/s.mrc:mrcs"


def test_an_existing_group_is_not_replaced_unasked(folder: Path) -> None:
    star(folder, [{}])
    (folder / "b.csg").write_text("precious")
    with pytest.raises(OutputError, match="b.csg: is already there"):
        convert_particles("a.star", "b.cs", allow_missing=True)
    assert (folder / "b.csg").read_text() == "precious"


@pytest.mark.parametrize("target", ["b.cs", "b.star"])
def test_a_disk_that_fills_up_leaves_the_old_table(folder: Path, target: str) -> None:
    star(folder, [{} for _ in range(400)])
    convert("a.star", "a.cs")
    source = "a.star" if target == "b.cs" else "a.cs"
    (folder / target).write_text("old")

    def small() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    done = subprocess.run(
        [sys.executable, "-m", "cryobox", "convert", source, target, "--overwrite", "--allow-missing"],
        capture_output=True, text=True, preexec_fn=small, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert f"{target}: cannot be written" in done.stderr
    assert "None" not in done.stderr
    assert (folder / target).read_text() == "old"
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_particles_of_a_missing_micrograph_have_no_location_and_the_others_keep_theirs(folder: Path) -> None:
    micrograph(folder / "m" / "a.mrc", (100, 200), 1.5)
    star(folder, [{"_rlnMicrographName": f"m/{name}.mrc", "_rlnCoordinateX": "50", "_rlnCoordinateY": "25"}
                  for name in "ab"])  # fmt: skip
    told = convert("a.star", "b.cs", micrographs="m").warnings
    assert "m/b.mrc" in told[0]
    assert "1 of 2 particles" in told[0]
    table = read_table(folder / "b.cs")
    assert table["location/center_x_frac"][0] == np.float32(0.25)
    assert np.isnan(table["location/center_x_frac"][1])
    assert table["location/micrograph_shape"].tolist() == [[100, 200], [0, 0]]


def test_half_sets_are_written_only_where_both_are_there(folder: Path) -> None:
    shift = (("alignments3D/shift", ("<f4", (2,)), 0), ("alignments3D/psize_A", "<f4", 1))
    for split, there in (([0, 0], False), ([0, 1], True), ([1, 1], False)):
        cs(folder, 2, *shift, ("alignments3D/split", "<u4", split))
        convert("a.cs", "b.star")
        assert ("_rlnRandomSubset" in blocks(folder / "b.star")["particles"][0]) is there
    cs(folder, 2, ("alignments2D/shift", ("<f4", (2,)), 0), ("alignments2D/psize_A", "<f4", 1),
       ("alignments2D/split", "<u4", [0, 1]))  # fmt: skip
    convert("a.cs", "b.star")
    assert "_rlnRandomSubset" not in blocks(folder / "b.star")["particles"][0]


def test_filaments_become_tubes_with_track_lengths_and_directions(folder: Path) -> None:
    big = 2**63 + 5
    cs(folder, 5, ("location/micrograph_path", "S9", [b"a.mrc"] * 3 + [b"b.mrc"] * 2),
       ("location/micrograph_shape", ("<u4", (2,)), (1000, 1000)),
       ("location/center_x_frac", "<f4", [0.1, 0.2, 0.3, 0.5, 0.5]),
       ("location/center_y_frac", "<f4", [0.1, 0.2, 0.3, 0.4, 0.2]),
       ("filament/filament_uid", "<u8", [big, big, 17, 9000, 9000]),
       ("filament/position_A", "<f4", [60, 30, 0, 100, 140]))  # fmt: skip
    convert("a.cs", "b.star")
    rows = blocks(folder / "b.star")["particles"][1]
    assert [row["_rlnHelicalTubeID"] for row in rows] == ["2", "2", "1", "1", "1"]
    assert [float(row["_rlnHelicalTrackLengthAngst"]) for row in rows] == [30, 0, 0, 0, 40]
    assert [float(row["_rlnAngleTiltPrior"]) for row in rows] == [90] * 5
    psi = [float(row["_rlnAnglePsiPrior"]) for row in rows]
    np.testing.assert_allclose(psi, [135, 135, 0, 90, 90], atol=1e-4)


def test_tubes_become_filaments_and_the_missing_pose_is_told(folder: Path) -> None:
    star(folder, [{"_rlnMicrographName": "a.mrc", "_rlnHelicalTubeID": tube, "_rlnHelicalTrackLengthAngst": track}
                  for tube, track in (("1", "0"), ("1", "30"), ("2", "0"))])  # fmt: skip
    told = convert("a.star", "b.cs").warnings
    table = read_table(folder / "b.cs")
    uid = table["filament/filament_uid"].tolist()
    assert uid[0] == uid[1] != uid[2]
    assert table["filament/position_A"].tolist() == [0, 30, 0]
    assert any("filament/filament_pose" in text for text in told)


def test_what_has_no_public_rule_is_named_once_in_both_directions(folder: Path) -> None:
    star(folder, [{"_rlnDefocusU": "1"}], rlnVoltage="300", rlnSphericalAberration="2.7", rlnAmplitudeContrast="0.1",
         rlnBeamTiltX="0.3", rlnBeamTiltY="0", rlnOddZernike="[0,1]", rlnMagMat00="1", rlnMagMat01="0",
         rlnCtfDataAreCtfPremultiplied="1")  # fmt: skip
    told = convert("a.star", "b.cs").warnings
    (named,) = [text for text in told if "_rlnBeamTiltX" in text]
    assert "_rlnOddZernike" in named
    assert "_rlnBeamTiltY" not in named
    assert "_rlnMagMat" not in named
    assert any("_rlnCtfDataAreCtfPremultiplied" in text for text in told)
    assert not read_table(folder / "b.cs")["ctf/tilt_A"].any()
    cs(
        folder,
        1,
        ("ctf/tilt_A", ("<f4", (2,)), 1),
        ("ctf/trefoil_A", ("<f4", (2,)), 0),
        ("ctf/anisomag", ("<f4", (4,)), 0),
    )
    (named,) = [text for text in convert("a.cs", "b.star").warnings if "ctf/" in text]
    assert "ctf/tilt_A are not converted" in named
    assert not [tag for tag in blocks(folder / "b.star")["optics"][0] if "MagMat" in tag]


def test_origins_in_pixels_become_shifts(folder: Path) -> None:
    star(folder, [{"_rlnOriginX": "2.0", "_rlnOriginY": "-3.0"}])
    told = convert("a.star", "b.cs").warnings
    table = read_table(folder / "b.cs")
    angstrom = table["alignments2D/shift"] * table["alignments2D/psize_A"][:, None]
    np.testing.assert_allclose(angstrom, [[2.12, -3.18]], rtol=1e-6)
    assert any("_rlnOriginX" in text for text in told)


def test_values_that_are_no_numbers_are_counted(folder: Path) -> None:
    star(folder, [{"_rlnDefocusU": "nan"}, {"_rlnDefocusU": "5"}], rlnVoltage="300")
    assert any("_rlnDefocusU (1) of 2" in text for text in convert("a.star", "b.cs").warnings)
    cs(folder, 500, ("ctf/amp_contrast", "<f4", np.nan))
    told = convert("a.cs", "b.star").warnings
    assert any("ctf/amp_contrast (500)" in text for text in told)
    assert len(blocks(folder / "b.star")["optics"][1]) == 1


def test_copies_of_a_particle_get_uids_of_their_own(folder: Path) -> None:
    star(folder, [{"_cryosparcUid": "77"}, {"_cryosparcUid": "77"}, {"_cryosparcUid": "78"}])
    convert("a.star", "b.cs")
    uid = read_table(folder / "b.cs")["uid"].tolist()
    assert uid[0] == 77
    assert uid[2] == 78
    assert len(set(uid)) == 3


def test_a_path_that_star_cannot_hold_is_refused(folder: Path) -> None:
    table = cs(folder, 1, ("location/micrograph_path", "S9", b"a\nb.mrc"))
    save(folder / "a.cs", table)
    with pytest.raises(InputError, match="a STAR file cannot hold"):
        convert("a.cs", "b.star")
    assert not (folder / "b.star").exists()


def test_extracting_between_the_two_ways_leaves_nothing_of_the_old_images_and_grids(folder: Path) -> None:
    import cryobox

    rng = np.random.default_rng(1)
    image = rng.normal(0, 1, (240, 280)).astype(np.float32)
    for name, data, size in (("mics", image, 1.06), ("bin", image.reshape(120, 2, 140, 2).mean((1, 3)), 2.12)):
        (folder / name).mkdir()
        with mrcfile.new(folder / name / "a.mrc") as file:
            file.set_data(data.astype(np.float32))
            file.voxel_size = size
    cs(folder, 3, ("blob/sign", "<f4", -1), ("blob/import_sig", "<u8", 777),
       ("location/micrograph_path", "S20", b"mics/a.mrc"), ("location/micrograph_shape", ("<u4", (2,)), (240, 280)),
       ("location/micrograph_psize_A", "<f4", 1.06), ("location/center_x_frac", "<f4", 0.5),
       ("location/center_y_frac", "<f4", 0.5), ("ctf/scale_const", "<f4", 5), ("ctf/df1_A", "<f4", 9000),
       ("ctf/df2_A", "<f4", 9000), ("ctf/df_angle_rad", "<f4", 0), ("ctf/accel_kv", "<f4", 300),
       ("ctf/cs_mm", "<f4", 2.7), ("ctf/amp_contrast", "<f4", 0.1))  # fmt: skip
    convert("a.cs", "a.star")
    for out, mics, scale in (("out", "mics/a.mrc", 1.0), ("out2", "bin/a.mrc", 0.5)):
        cryobox.run("a.star", micrographs=mics, out=out, options=cryobox.RunOptions(fsync=False),
                    recipe=cryobox.Recipe(box=16, coordinate_scale=scale))  # fmt: skip
        convert_particles(f"{out}/particles.star", f"{out}/b.cs")
        table = read_table(folder / out / "b.cs")
        assert table["blob/sign"].tolist() == [1] * 3
        assert not table["blob/import_sig"].any()
        assert table["ctf/scale_const"].tolist() == [1] * 3
        assert table["location/micrograph_shape"].tolist() == [[240 * scale, 280 * scale]] * 3
        np.testing.assert_allclose(table["location/center_x_frac"], 0.5, atol=1e-6)
        np.testing.assert_allclose(table["location/micrograph_psize_A"], 1.06 / scale, rtol=1e-6)


def test_fields_that_nothing_describes_any_more_keep_their_values(folder: Path) -> None:
    table = cs(folder, 2, ("own/text", "S9", [b"a b", b"c"]), ("own/count", "<u8", [2**60, 1]),
               ("own/step", "<i4", [-5, 7]),
       ("own/wide", "<f8", [1 / 3, 1e300]), ("own/pair", ("<f4", (2,)), 0.1))  # fmt: skip
    convert("a.cs", "a.star")
    data = (folder / "a.star").read_bytes()
    (folder / "b.star").write_bytes(data[: data.index(b"data_cryosparc")])  # RELION drops blocks that it does not know
    convert("b.star", "b.cs")
    after = read_table(folder / "b.cs")
    for name in table.dtype.names:
        np.testing.assert_array_equal(after[name], table[name], err_msg=name)


def test_an_alignment_that_was_removed_takes_its_columns_along(folder: Path) -> None:
    star(folder, [{"_rlnOriginXAngst": "1", "_rlnOriginYAngst": "2", "_rlnClassNumber": "3", "_rlnNote": "x"}])
    convert("a.star", "a.cs")
    table = read_table(folder / "a.cs")
    left = [name for name in table.dtype.names if not name.startswith("alignments")]
    save(folder / "b.cs", np.array(table[left].tolist(), [(name, table.dtype[name]) for name in left]))
    convert("b.cs", "b.star")
    tags = blocks(folder / "b.star")["particles"][0]
    assert not {"_rlnOriginXAngst", "_rlnOriginYAngst", "_rlnClassNumber"} & set(tags)
    assert "_rlnNote" in tags


def test_the_mark_of_treated_images_goes_with_the_images(folder: Path) -> None:
    star(folder, [{}, {}], rlnCtfDataAreCtfPremultiplied="1")
    convert("a.star", "a.cs")
    table = read_table(folder / "a.cs")
    table["blob/path"][1] = b">t.mrc"
    save(folder / "b.cs", table)
    convert("b.cs", "b.star")
    found = blocks(folder / "b.star")
    mark = {g["_rlnOpticsGroup"]: g["_rlnCtfDataAreCtfPremultiplied"] for g in found["optics"][1]}
    assert [mark[row["_rlnOpticsGroup"]] for row in found["particles"][1]] == ["1", "0"]


def test_a_copy_never_gets_the_uid_of_another_row_and_digits_do_not_make_two_uids(folder: Path) -> None:
    star(folder, [{"_cryosparcUid": "5"}, {"_cryosparcUid": "05"}])
    convert("a.star", "a.cs")
    made = read_table(folder / "a.cs")["uid"].tolist()
    assert made[0] == 5 != made[1]
    star(folder, [{"_cryosparcUid": "5"}, {"_cryosparcUid": "5"}, {"_cryosparcUid": str(made[1])}])
    convert("a.star", "b.cs")
    assert len(set(read_table(folder / "b.cs")["uid"].tolist())) == 3


def test_a_group_that_cannot_be_replaced_leaves_the_table(folder: Path) -> None:
    star(folder, [{}])
    (folder / "b.cs").write_text("old")
    (folder / "b.csg").mkdir()
    with pytest.raises(OutputError, match=r"b\.csg: cannot be written: it is a folder"):
        convert("a.star", "b.cs")
    assert (folder / "b.cs").read_text() == "old"


def test_rows_of_missing_micrographs_alone_keep_the_coordinates_of_the_star_file(folder: Path) -> None:
    micrograph(folder / "m" / "a.mrc", (100, 200), 1.5)
    star(folder, [{"_rlnMicrographName": f"m/{name}.mrc", "_rlnCoordinateX": "50.25", "_rlnCoordinateY": "25"}
                  for name in "ab"])  # fmt: skip
    convert("a.star", "a.cs", micrographs="m")
    save(folder / "b.cs", read_table(folder / "a.cs")[1:])
    convert("b.cs", "b.star")
    (row,) = blocks(folder / "b.star")["particles"][1]
    assert (row["_rlnCoordinateX"], row["_rlnCoordinateY"]) == ("50.25", "25")
