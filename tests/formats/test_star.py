"""STAR tables: every form that RELION writes is read, what is not ours comes back untouched, and others can open it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cryobox.errors import InputError, OptionError
from cryobox.formats import star, star_output
from cryobox.formats.columns import MICROSCOPE
from cryobox.formats.star_table import read_blocks
from cryobox.formats.star_text import encode, unwritable
from cryobox.micrograph import Micrographs, Optics
from cryobox.particles import Alignment, Particles
from star_tables import PICKS, checked, columns, extraction, write

OPTICS = """
# version 30001

data_optics

loop_
_rlnOpticsGroupName #1
_rlnOpticsGroup #2
_rlnVoltage #3
_rlnSphericalAberration #4
_rlnAmplitudeContrast #5
_rlnMicrographPixelSize #6
_rlnMicrographOriginalPixelSize #7
"""
ONE_GROUP = OPTICS + "opticsGroup1 1 300.000000 2.700000 0.100000 1.250000 0.625000\n\n"
MICROGRAPHS = (
    ONE_GROUP
    + """
# version 30001

data_micrographs

loop_
_rlnMicrographName #1
_rlnOpticsGroup #2
_rlnCtfImage #3
_rlnDefocusU #4
_rlnDefocusV #5
_rlnDefocusAngle #6
_rlnCtfMaxResolution #7
Motion/a.mrc 1 Ctf/a.ctf:mrc 15000.123400 14800.0 30.5 3.45
Motion/b.mrc 1 Ctf/b.ctf:mrc 16000.5 15800.0 -12.25 4.5

"""
)


@pytest.fixture
def micrographs(tmp_path: Path) -> Micrographs:
    return star.read_micrographs(write(tmp_path / "micrographs.star", MICROGRAPHS))


@pytest.fixture
def picks(tmp_path: Path) -> Particles:
    return star.read_particles(write(tmp_path / "picks.star", PICKS))


# ------------------------------------------------------------------------------------------------------------ reading


def test_picks_are_read_in_the_order_of_the_file(picks: Particles) -> None:
    assert picks.y.tolist() == [20.25, 40.5, 60.0]
    assert picks.x.tolist() == [10.5, 30.0, 50.0]
    assert picks.micrograph_names == ("Motion/b.mrc", "Motion/a.mrc")
    assert picks.micrograph.tolist() == [0, 1, 0]
    assert picks.family == "star"
    assert picks.score is None
    assert picks.alignments == ()


def test_micrographs_come_with_optics_pixel_size_and_ctf(micrographs: Micrographs) -> None:
    assert micrographs.names == ("Motion/a.mrc", "Motion/b.mrc")
    assert micrographs.pixel_size.tolist() == [1.25, 1.25]
    assert micrographs.optics[0].name == "opticsGroup1"
    assert micrographs.optics[0].voltage_kv == 300.0
    assert micrographs.optics[0].cs_mm == 2.7
    assert micrographs.ctf["defocus_u_angstrom"].tolist() == [15000.1234, 16000.5]
    assert "phase_shift_degrees" not in micrographs.ctf


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("\n", "\r"),
        lambda text: "\ufeff" + text,
        lambda text: text.rstrip("\n"),
        lambda text: text.replace("data_particles", "data_"),
        lambda text: text.replace("data_particles", "data_images"),
        lambda text: text.replace("data_particles", "data_something_else"),
        lambda text: "# RELION; version 3.0\n" + text + "\n# the end\n\n",
        lambda text: text.replace("loop_", "loop_ # a comment"),
        lambda text: text.replace("Motion/a.mrc  30", '"Motion/a.mrc"   30'),
        lambda text: text.replace("60 'z w'", "60 'z w' # a remark"),
        lambda text: text.replace("\nMotion/a", "\n# between the rows\nMotion/a"),
        lambda text: text + "\ndata_other\n\n_some.thing 1\n\ndata_more\n\nloop_\n_a #1\n1\n2\n",
        lambda text: "data_general\n\n_rlnThing 5\n" + text,
    ],
)
def test_every_way_to_write_a_table_gives_the_same_picks(tmp_path: Path, change: Any) -> None:
    found = star.read_particles(write(tmp_path / "changed.star", change(PICKS)))
    assert found.y.tolist() == [20.25, 40.5, 60.0]
    assert found.micrograph_names == ("Motion/b.mrc", "Motion/a.mrc")
    assert found.table.table.texts("_rlnFunny") == ["x", "y", "z w"]


@pytest.mark.parametrize(
    "name", ["Möwe/µ.mrc", "data_001.mrc", "_x.mrc", "loop_a.mrc", "it's.mrc", "a#b.mrc", "$a[1].mrc"]
)
def test_names_that_strict_parsers_refuse_are_read(tmp_path: Path, name: str) -> None:
    found = star.read_particles(write(tmp_path / "odd.star", PICKS.replace("Motion/b.mrc", name)))
    assert found.micrograph_names == (name, "Motion/a.mrc")


def test_a_name_that_is_not_utf8_survives_as_a_file_name_does(tmp_path: Path) -> None:
    found = star.read_particles(write(tmp_path / "latin.star", PICKS.encode().replace(b"Motion/b", b"M\xf6we/b")))
    assert found.micrograph_names[0].encode("utf-8", "surrogateescape") == b"M\xf6we/b.mrc"


def test_a_block_of_pairs_is_a_table_of_one_row(tmp_path: Path) -> None:
    text = "data_optics\n\n_rlnOpticsGroup 1\n_rlnVoltage 200\n_rlnMicrographPixelSize 2.5\n\n"
    text += "data_micrographs\n_rlnMicrographName 'a b.mrc' # remark\n_rlnOpticsGroup 1\n"
    found = star.read_micrographs(write(tmp_path / "pairs.star", text))
    assert found.names == ("a b.mrc",)
    assert found.pixel_size.tolist() == [2.5]
    assert found.optics[0].voltage_kv == 200.0


def test_a_table_without_rows_holds_no_picks(tmp_path: Path) -> None:
    text = PICKS[: PICKS.index("Motion/b")]
    assert len(star.read_particles(write(tmp_path / "none.star", text))) == 0


def test_angstrom_origins_are_shifts_in_angstrom(tmp_path: Path) -> None:
    text = PICKS.replace("_rlnFunny #4", "_rlnOriginXAngst #4\n_rlnOriginYAngst #5").replace("'z w'", "5 6")
    text = text.replace(" x\n", " 1 2\n").replace(" y\n", " 3 4\n")
    (found,) = star.read_particles(write(tmp_path / "origins.star", text)).alignments
    assert found.kind == "3d"
    assert found.shift.tolist() == [[2, 1], [4, 3], [6, 5]]
    assert found.pixel_size.tolist() == [1, 1, 1]


STYLE_30 = """
data_images

loop_
_rlnMicrographName #1
_rlnCoordinateX #2
_rlnCoordinateY #3
_rlnOriginX #4
_rlnOriginY #5
_rlnMagnification #6
_rlnDetectorPixelSize #7
_rlnVoltage #8
_rlnSphericalAberration #9
_rlnAmplitudeContrast #10
_rlnImageName #11
Motion/a.mrc 100 110 1.5 -2.0 20000 5.0 300 2.7 0.1 1@old.mrcs
Motion/b.mrc 200 210 0 0.25 40000 5.0 200 2.7 0.1 2@old.mrcs
"""


def test_pixel_origins_of_30_are_in_units_of_the_particle_pixel(tmp_path: Path) -> None:
    (found,) = star.read_particles(write(tmp_path / "old.star", STYLE_30)).alignments
    assert found.shift.tolist() == [[-2.0, 1.5], [0.25, 0.0]]
    assert found.pixel_size.tolist() == [2.5, 1.25]


def test_pixel_origins_without_a_pixel_size_are_refused(tmp_path: Path) -> None:
    text = STYLE_30.replace("_rlnMagnification", "_rlnOther")
    with pytest.raises(InputError, match=r"old\.star: data_images, row 1: _rlnOriginX is in pixels.*_rlnMagnification"):
        star.read_particles(write(tmp_path / "old.star", text))


def test_micrographs_of_30_get_optics_groups_and_pixel_sizes(tmp_path: Path) -> None:
    found = star.read_micrographs(write(tmp_path / "old.star", STYLE_30))
    assert found.pixel_size.tolist() == [2.5, 1.25]
    assert sorted(group.voltage_kv for group in found.optics) == [200.0, 300.0]
    assert [found.optics[i].voltage_kv for i in found.optics_index] == [300.0, 200.0]


def test_rows_of_one_image_are_copies(tmp_path: Path) -> None:
    text = PICKS.replace("_rlnFunny", "_rlnImageName").replace("'z w'", "x")
    found = star.read_particles(write(tmp_path / "copies.star", text)).copy_of
    assert found is not None
    assert found.tolist() == [0, -1, 0]
    assert star.read_particles(write(tmp_path / "old.star", STYLE_30)).copy_of is None


def test_a_list_is_followed_into_its_coordinate_files(tmp_path: Path) -> None:
    write(
        tmp_path / "a.star",
        "data_\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n_rlnAutopickFigureOfMerit\n1 2 0.5\n3 4 0.6\n",
    )
    write(tmp_path / "b.star", "data_\nloop_\n_rlnCoordinateY\n_rlnCoordinateX\n_rlnClassNumber\n6 5 7\n")
    text = (
        "data_coordinate_files\nloop_\n_rlnMicrographName\n_rlnMicrographCoordinates\nM/a.mrc a.star\nM/b.mrc b.star\n"
    )
    found = star.read_particles(write(tmp_path / "list.star", text))
    assert found.micrograph_names == ("M/a.mrc", "M/b.mrc")
    assert found.y.tolist() == [2, 4, 6]
    assert found.x.tolist() == [1, 3, 5]
    assert found.score is not None
    np.testing.assert_array_equal(found.score, [0.5, 0.6, np.nan])
    assert found.table.table.texts("_rlnClassNumber") == ["0", "0", "7"]
    assert any("_rlnClassNumber" in text for text in found.warnings)


def test_a_list_may_name_boxes(tmp_path: Path) -> None:
    write(tmp_path / "a.box", "10 20 8 8\n")
    text = "data_coordinate_files\nloop_\n_rlnMicrographName\n_rlnMicrographCoordinates\nM/a.mrc a.box\n"
    found = star.read_particles(write(tmp_path / "list.star", text))
    assert (found.y.tolist(), found.x.tolist(), found.family) == ([24.0], [14.0], "plain")


ORIGINS = {
    "Å": "_rlnOriginXAngst\n_rlnOriginYAngst\n3 20 3 4\n",
    "pixels": "_rlnOriginX\n_rlnOriginY\n_rlnDetectorPixelSize\n_rlnMagnification\n3 20 3 4 5 50000\n",
    "none": "3 20\n",
}


@pytest.mark.parametrize("units", [("Å", "pixels"), ("pixels", "none", "Å"), ("Å", "none"), ("pixels", "none")])
def test_coordinate_files_with_origins_in_two_units_are_refused(tmp_path: Path, units: tuple[str, ...]) -> None:
    text = "data_coordinate_files\nloop_\n_rlnMicrographName\n_rlnMicrographCoordinates\n"
    for i, unit in enumerate(units):
        write(tmp_path / f"{i}.star", f"data_\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n{ORIGINS[unit]}")
        text += f"M/{i}.mrc {i}.star\n"
    path = write(tmp_path / "list.star", text)
    if {"Å", "pixels"} <= set(units):
        with pytest.raises(
            InputError, match="origins in Å and in pixels cannot stand in one table; extract them apart"
        ):
            star.read_particles(path)
    else:
        (alignment,) = star.read_particles(path).alignments
        assert alignment.shift.tolist() == [[0, 0] if unit == "none" else [4, 3] for unit in units]


@pytest.mark.parametrize("other", ["b.box", "b.csv"])
def test_a_list_of_star_files_and_others_is_refused(tmp_path: Path, other: str) -> None:
    write(tmp_path / "a.star", f"data_\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n{ORIGINS['Å']}")
    write(tmp_path / other, "10 20 8 8\n" if other.endswith("box") else "x,y\n10,20\n")
    text = "data_coordinate_files\nloop_\n_rlnMicrographName\n_rlnMicrographCoordinates\n"
    text += f"M/a.mrc a.star\nM/b.mrc {other}\n"
    with pytest.raises(
        InputError, match=r"lists STAR files, .*a\.star for example, and coordinate files of other kinds"
    ):
        star.read_particles(write(tmp_path / "list.star", text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"\x00\x01\x02", r"not a STAR file: it holds zero bytes"),
        ("hello world\n", r"not a STAR file: no line begins with data_"),
        (PICKS + PICKS, r"two blocks are called data_particles"),
        (PICKS.replace("_rlnCoordinateY", "_rlnY"), r"no column _rlnCoordinateY; columns present: _rlnMicrographName"),
        (PICKS.replace("Coordinate", "Co"), r"no block of picks .*found: data_particles \(_rlnMicrographName, _rlnCo"),
        (PICKS.replace("50 60", "50"), r"line 11: 3 values, expected 4"),
        (PICKS.replace("50 60", "50 60 70"), r"line 11: 5 values, expected 4"),
        (PICKS.replace("40.5", "forty"), r"data_particles, row 2: _rlnCoordinateY is 'forty', expected a number"),
        (PICKS.replace("_rlnFunny", "_rlnCoordinateX"), r"has the column _rlnCoordinateX twice"),
        (PICKS + "loop_\n_rlnMore\n1\n", r"data_particles holds 2 loops, expected one"),
        (PICKS.replace("loop_", "nothing here"), r"line 4: expected loop_ or a name and its value, got 'nothing here'"),
        (ONE_GROUP + PICKS.replace("_rlnFunny", "_rlnOpticsGroup"), r"row 1: _rlnOpticsGroup x stands 0 times"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_with_path_and_place(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path / "bad.star", text)
    with pytest.raises(InputError, match=rf"^{path}: .*{message}"):
        star.read_particles(path)


def test_coordinates_that_are_nan_are_left_to_the_plan(tmp_path: Path) -> None:
    assert np.isnan(star.read_particles(write(tmp_path / "nan.star", PICKS.replace("40.5", "nan"))).y[1])


def test_a_micrograph_listed_twice_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "twice.star", PICKS)
    with pytest.raises(InputError, match=r"lists Motion/b\.mrc in rows 1 and 3; expected each micrograph once"):
        star.read_micrographs(path)


def test_a_missing_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.star: cannot be read"):
        star.read_particles(tmp_path / "nowhere.star")


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300).map(lambda tail: PICKS.encode()[:-20] + tail))
def test_any_bytes_give_picks_or_a_clear_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = write(tmp_path_factory.getbasetemp() / "fuzz.star", data)
    try:
        assert len(star.read_particles(path)) >= 2  # the rows before the noise
    except InputError as error:
        message = str(error)
        assert message.startswith(str(path))


@settings(max_examples=150, deadline=None)
@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30))
def test_any_text_written_as_a_value_is_read_back(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    if unwritable(text):
        with pytest.raises(InputError, match="a STAR file cannot hold"):
            encode(text)
        return
    body = b"data_\nloop_\n_rlnA #1\n_rlnB #2\n1 " + encode(text) + b"\n"
    path = write(tmp_path_factory.getbasetemp() / "value.star", body)
    assert read_blocks(path)[""].table().texts("_rlnB") == [text]


@pytest.mark.parametrize(
    ("text", "writable"),
    [("a b", True), ("it's", True), ('say "x" y', True), ("a'b\"c", True), ("a' b\" c", False), ("a\nb", False),
     ("a\tb", False), ("'a\"", False), ("", True), ("#a", True), ("ä ö", True)],
)  # fmt: skip
def test_only_names_that_no_reader_can_split_are_writable(text: str, writable: bool) -> None:
    assert (unwritable(text) == "") is writable


# ------------------------------------------------------------------------------------------------------------ writing


def test_particles_say_image_micrograph_group_and_ctf(
    tmp_path: Path, picks: Particles, micrographs: Micrographs
) -> None:
    star_output.write_particles(
        tmp_path / "out.star", picks, micrographs, extraction(picks, micrographs, slot=np.array([0, 0, 1]))
    )
    found = columns(tmp_path / "out.star")
    assert found == {
        "_rlnMicrographName": ["Motion/b.mrc", "Motion/a.mrc", "Motion/b.mrc"],
        "_rlnCoordinateX": ["10.5", "30.000000", "50"],
        "_rlnCoordinateY": ["20.25", "40.5", "60"],
        "_rlnFunny": ["x", "y", "z w"],
        "_rlnImageName": ["00000001@Out/stacks/1.mrcs", "00000001@Out/stacks/0.mrcs", "00000002@Out/stacks/1.mrcs"],
        "_rlnDefocusU": ["16000.5", "15000.123400", "16000.5"],
        "_rlnDefocusV": ["15800.0", "14800.0", "15800.0"],
        "_rlnDefocusAngle": ["-12.25", "30.5", "-12.25"],
        "_rlnCtfMaxResolution": ["4.5", "3.45", "4.5"],
        "_rlnOpticsGroup": ["1", "1", "1"],
    }
    optics = columns(tmp_path / "out.star", "optics")
    assert optics["_rlnImagePixelSize"] == ["2.500000"]
    assert optics["_rlnImageSize"] == ["64"]
    assert optics["_rlnImageDimensionality"] == ["2"]
    assert optics["_rlnMicrographOriginalPixelSize"] == ["0.625000"]
    assert optics["_rlnCtfDataAreCtfPremultiplied"] == ["0"]
    assert "_rlnMicrographPixelSize" not in optics
    assert (tmp_path / "out.star").read_text().startswith("\n# version 50001\n")


def test_rows_are_written_in_the_order_that_the_plan_gives(
    tmp_path: Path, picks: Particles, micrographs: Micrographs
) -> None:
    whole = extraction(picks, micrographs)
    some = replace(
        whole,
        picks=np.array([2, 1]),
        rows=np.array([2, 1]),
        micrograph=whole.micrograph[[2, 1]],
        slot=np.array([0, 0]),
        center=whole.center[[2, 1]],
        moved=np.array([True, False]),
    )
    star_output.write_particles(tmp_path / "out.star", picks, micrographs, some)
    found = columns(tmp_path / "out.star")
    assert found["_rlnFunny"] == ["z w", "y"]
    assert found["_rlnCoordinateX"] == ["50.000000", "30.000000"]
    assert found["_rlnCoordinateY"] == ["60.000000", "40.5"]


def test_picks_keep_their_own_ctf_unless_it_is_to_be_refreshed(tmp_path: Path, micrographs: Micrographs) -> None:
    text = (
        PICKS.replace("_rlnFunny", "_rlnDefocusU").replace(" x\n", " 1\n").replace(" y\n", " 2\n").replace("'z w'", "3")
    )
    picks = star.read_particles(write(tmp_path / "picks.star", text))
    star_output.write_particles(tmp_path / "own.star", picks, micrographs, extraction(picks, micrographs))
    own = columns(tmp_path / "own.star")
    assert own["_rlnDefocusU"] == ["1", "2", "3"]
    assert "_rlnDefocusV" not in own
    star_output.write_particles(
        tmp_path / "new.star", picks, micrographs, extraction(picks, micrographs, refresh_ctf=True)
    )
    new = columns(tmp_path / "new.star")
    assert new["_rlnDefocusU"] == ["16000.5", "15000.123400", "16000.5"]
    assert new["_rlnDefocusV"] == ["15800.0", "14800.0", "15800.0"]


def test_a_30_table_becomes_a_31_table(tmp_path: Path) -> None:
    path = write(tmp_path / "old.star", STYLE_30)
    picks, mics = star.read_particles(path), star.read_micrographs(path)
    star_output.write_particles(tmp_path / "out.star", picks, mics, extraction(picks, mics))
    found, optics = columns(tmp_path / "out.star"), columns(tmp_path / "out.star", "optics")
    gone = {"_rlnOriginX", "_rlnOriginY", "_rlnMagnification", "_rlnDetectorPixelSize", "_rlnVoltage"}
    assert not gone & set(found)
    assert found["_rlnOriginXAngst"] == ["3.750000", "0.000000"]
    assert found["_rlnOriginYAngst"] == ["-5.000000", "0.312500"]
    voltage = dict(zip(optics["_rlnOpticsGroup"], optics["_rlnVoltage"], strict=True))
    assert [voltage[group] for group in found["_rlnOpticsGroup"]] == ["300", "200"]
    pixel = dict(zip(optics["_rlnOpticsGroup"], optics["_rlnImagePixelSize"], strict=True))
    assert [pixel[group] for group in found["_rlnOpticsGroup"]] == ["5.000000", "2.500000"]


def test_moved_origins_are_written_and_others_stay_as_they_stand(tmp_path: Path, micrographs: Micrographs) -> None:
    text = PICKS.replace("_rlnFunny #4", "_rlnOriginXAngst #4\n_rlnOriginYAngst #5").replace("'z w'", "5 6e-1")
    text = text.replace(" x\n", " 1 2\n").replace(" y\n", " 3 4\n")
    picks = star.read_particles(write(tmp_path / "picks.star", text))
    after = replace(picks.alignments[0], shift=np.array([[0.25, -0.5], [-1e-9, 0.125], [9, 9]], dtype=np.float64))
    moved = np.array([True, True, False])
    change = extraction(picks, micrographs, alignments=(after,), moved=moved)
    star_output.write_particles(tmp_path / "out.star", picks, micrographs, change)
    found = columns(tmp_path / "out.star")
    assert found["_rlnOriginXAngst"] == ["-0.500000", "0.125000", "5"]
    assert found["_rlnOriginYAngst"] == ["0.250000", "0.000000", "6e-1"]
    assert found["_rlnCoordinateX"] == ["10.000000", "30.000000", "50"]


def two_groups(tmp_path: Path, rows: str, micrograph_rows: str) -> tuple[Particles, Micrographs]:
    picks = (
        PICKS.replace("_rlnFunny", "_rlnOpticsGroup")
        .replace(" x\n", " 1\n")
        .replace(" y\n", " 2\n")
        .replace("'z w'", "1")
    )
    particles = star.read_particles(write(tmp_path / "p.star", OPTICS + rows + "\n" + picks))
    table = MICROGRAPHS.replace(ONE_GROUP, OPTICS + micrograph_rows + "\n")
    return particles, star.read_micrographs(write(tmp_path / "m.star", table))


def test_picks_without_a_defocus_take_their_micrographs_group_whatever_theirs_is_called(tmp_path: Path) -> None:
    particles, mics = two_groups(
        tmp_path,
        "late 1 300 2.7 0.07 1.25 0.7\nearly 2 300 2.7 0.07 1.25 0.7\n",
        "early 1 300 2.7 0.1 1.25 0.6\nlate 2 300 2.7 0.1 1.25 0.6\n",
    )
    star_output.write_particles(tmp_path / "out.star", particles, mics, extraction(particles, mics))
    optics = columns(tmp_path / "out.star", "optics")
    assert optics["_rlnOpticsGroupName"] == ["early"]
    assert optics["_rlnAmplitudeContrast"] == ["0.1"]
    assert optics["_rlnMicrographOriginalPixelSize"] == ["0.6"]
    assert columns(tmp_path / "out.star")["_rlnOpticsGroup"] == ["1", "1", "1"]


def with_defocus(particles: Particles, tmp_path: Path) -> Particles:
    text = Path(particles.source).read_text()
    text = text.replace("_rlnOpticsGroup #4", "_rlnOpticsGroup #4\n_rlnDefocusU #5")
    text = re.sub(r"(?m)^((?:Motion/|').*)$", r"\1 7000", text)
    return star.read_particles(write(tmp_path / "fitted.star", text))


def test_picks_with_a_defocus_keep_their_groups_with_names_numbers_and_values(tmp_path: Path) -> None:
    particles, mics = two_groups(
        tmp_path,
        "beam_shift 1 300 2.7 0.07 1.25 0.7\nopticsGroup1 2 300 2.7 0.08 1.25 0.7\n",
        "opticsGroup1 1 300 2.7 0.1 1.25 0.6\n",
    )
    particles = with_defocus(particles, tmp_path)
    star_output.write_particles(tmp_path / "out.star", particles, mics, extraction(particles, mics))
    optics = columns(tmp_path / "out.star", "optics")
    assert optics["_rlnOpticsGroupName"] == ["beam_shift", "opticsGroup1"]
    assert optics["_rlnOpticsGroup"] == ["1", "2"]
    assert optics["_rlnAmplitudeContrast"] == ["0.07", "0.08"]
    assert optics["_rlnMicrographOriginalPixelSize"] == ["0.6", "0.6"]
    assert columns(tmp_path / "out.star")["_rlnOpticsGroup"] == ["1", "2", "1"]


def test_another_voltage_is_refused_before_any_work_whatever_the_groups_are_called(tmp_path: Path) -> None:
    particles, mics = two_groups(
        tmp_path, "a 1 300 2.7 0.1 1.25 0.7\nb 2 300 2.7 0.1 1.25 0.7\n", "c 1 200 2.7 0.1 1.25 0.6\n"
    )
    with pytest.raises(
        InputError, match=r"p\.star: optics group 'a' has _rlnVoltage 300 kV, but .*m\.star says 200 kV"
    ):
        checked(particles, mics)
    (warning,) = checked(particles, mics, refresh_ctf=True)
    assert "another voltage" in warning
    assert "the micrographs' is used" in warning


def test_a_group_with_two_pixel_sizes_is_split(tmp_path: Path, picks: Particles, micrographs: Micrographs) -> None:
    change = extraction(picks, micrographs, pixel_size=np.array([1.25, 1.0]))
    star_output.write_particles(tmp_path / "out.star", picks, micrographs, change)
    optics = columns(tmp_path / "out.star", "optics")
    pixel = dict(zip(optics["_rlnOpticsGroup"], optics["_rlnImagePixelSize"], strict=True))
    assert [pixel[group] for group in columns(tmp_path / "out.star")["_rlnOpticsGroup"]] == [
        "2.000000",
        "2.500000",
        "2.000000",
    ]
    assert len(set(optics["_rlnOpticsGroupName"])) == 2


def test_micrographs_without_a_star_table_give_their_plain_numbers(tmp_path: Path, picks: Particles) -> None:
    mics = Micrographs(
        family="cs",
        source="exposures.cs",
        names=("J2/a.mrc", "J2/my b.mrc"),
        paths=("J2/a.mrc", "J2/my b.mrc"),
        pixel_size=np.array([1.25, 1.25]),
        shape=np.zeros((2, 2), np.int64),
        optics=(Optics(name="exposure group 7", voltage_kv=300.0, cs_mm=2.7, amplitude_contrast=0.1, group_id=7),),
        optics_index=np.zeros(2, np.intp),
        ctf={"defocus_u_angstrom": np.array([15000.0, 16000.0]), "phase_shift_degrees": np.full(2, np.nan)},
    )
    matched = extraction(picks, mics, micrograph=np.array([1, 0, 1]), stack=("Out/a.mrcs", "Out/my b.mrcs"))
    star_output.write_particles(tmp_path / "out.star", picks, mics, matched)
    found = columns(tmp_path / "out.star")
    assert found["_rlnMicrographName"] == ["J2/my b.mrc", "J2/a.mrc", "J2/my b.mrc"]
    assert found["_rlnImageName"][0] == "00000001@Out/my b.mrcs"
    assert found["_rlnDefocusU"] == ["16000.000000", "15000.000000", "16000.000000"]
    assert "_rlnPhaseShift" not in found
    optics = columns(tmp_path / "out.star", "optics")
    assert optics["_rlnOpticsGroupName"] == ["exposure group 7"]
    assert optics["_rlnOpticsGroup"] == ["7"]
    assert optics["_rlnVoltage"] == ["300.000000"]


def plain_picks() -> Particles:
    return Particles(
        family="plain",
        source="a.box",
        y=np.array([20.5, 30.0]),
        x=np.array([10.0, 40.25]),
        micrograph=np.zeros(2, np.intp),
        micrograph_names=("a",),
        score=np.array([0.5, 0.25]),
    )


def test_plain_picks_become_coordinates_with_scores(tmp_path: Path, micrographs: Micrographs) -> None:
    picks = plain_picks()
    change = extraction(picks, micrographs, moved=np.array([True, False]))
    star_output.write_particles(tmp_path / "out.star", picks, micrographs, change)
    found = columns(tmp_path / "out.star")
    assert found["_rlnCoordinateX"] == ["10.000000", "40.250000"]
    assert found["_rlnCoordinateY"] == ["20.000000", "30.000000"]
    assert found["_rlnAutopickFigureOfMerit"] == ["0.500000", "0.250000"]
    assert found["_rlnMicrographName"] == ["Motion/a.mrc"] * 2


def test_missing_microscope_values_are_a_warning(tmp_path: Path, micrographs: Micrographs) -> None:
    bare = replace(micrographs, family="plain", optics=(), optics_index=np.full(2, -1), ctf={}, table=None)
    (warning,) = checked(plain_picks(), bare)
    assert "no CTF values (rlnDefocusU), and a.box has none either: 2 particles are written without CTF" in warning
    fitted = replace(bare, ctf={"defocus_u_angstrom": np.array([1e4, 1e4])})
    assert [re.search("has no (_rln.*?),", text)[1] for text in checked(plain_picks(), fitted)] == list(MICROSCOPE)
    star_output.write_particles(tmp_path / "out.star", plain_picks(), bare, extraction(plain_picks(), bare))
    assert columns(tmp_path / "out.star", "optics")["_rlnOpticsGroupName"] == ["opticsGroup1"]


def test_picks_of_a_cs_table_are_not_written_as_star(tmp_path: Path, micrographs: Micrographs) -> None:
    picks = replace(plain_picks(), family="cs", source="picks.cs")
    with pytest.raises(OptionError, match=r"picks\.cs: .*cannot be written as STAR.*cryobox convert"):
        star_output.write_particles(tmp_path / "out.star", picks, micrographs, extraction(picks, micrographs))


def test_unknown_blocks_are_carried_through(tmp_path: Path, micrographs: Micrographs) -> None:
    other = "data_mine\n\nloop_\n_what #1\n  1.50\n  two\n"
    picks = star.read_particles(write(tmp_path / "picks.star", PICKS + "\n# a note\n" + other))
    star_output.write_particles(tmp_path / "out.star", picks, micrographs, extraction(picks, micrographs))
    assert other in (tmp_path / "out.star").read_text()
    assert columns(tmp_path / "out.star", "mine") == {"_what": ["1.50", "two"]}


def test_rejected_rows_are_the_input_with_a_reason(tmp_path: Path, micrographs: Micrographs) -> None:
    picks = star.read_particles(write(tmp_path / "picks.star", PICKS))
    whole = extraction(picks, micrographs)
    left_out = replace(
        whole,
        picks=np.array([2, 0]),
        rows=np.array([2, 0]),
        micrograph=np.array([-1, 1]),
        reasons=("no such micrograph", "edge"),
    )
    star_output.write_rejected(tmp_path / "rejected.star", picks, micrographs, left_out)
    found = columns(tmp_path / "rejected.star")
    assert found["_rlnFunny"] == ["z w", "x"]
    assert found["_rlnMicrographName"] == ["Motion/b.mrc", "Motion/b.mrc"]
    assert found["_cryoboxRejectReason"] == ["no such micrograph", "edge"]
    assert "_rlnImageName" not in found


def test_rejected_rows_can_be_picks_again(tmp_path: Path, micrographs: Micrographs) -> None:
    picks = plain_picks()
    left_out = extraction(picks, micrographs, micrograph=np.array([-1, 0]), reasons=("a", "b"))
    star_output.write_rejected(tmp_path / "rejected.star", picks, micrographs, left_out)
    again = star.read_particles(tmp_path / "rejected.star")
    assert (again.y.tolist(), again.x.tolist()) == (picks.y.tolist(), picks.x.tolist())
    assert again.micrograph_names == ("a", "Motion/a.mrc")
    star_output.write_particles(tmp_path / "out.star", again, micrographs, extraction(again, micrographs))
    assert "_cryoboxRejectReason" not in columns(tmp_path / "out.star")


def test_incomplete_micrographs_are_rows_of_their_table_with_a_reason(tmp_path: Path, micrographs: Micrographs) -> None:
    star_output.write_incomplete(tmp_path / "left.star", micrographs, [1], ["file is truncated"])
    found = columns(tmp_path / "left.star", "micrographs")
    assert found["_rlnMicrographName"] == ["Motion/b.mrc"]
    assert found["_rlnDefocusU"] == ["16000.5"]
    assert found["_cryoboxReason"] == ["file is truncated"]
    assert star.read_micrographs(tmp_path / "left.star").pixel_size.tolist() == [1.25]


def test_a_table_without_rows_is_written_and_read(tmp_path: Path, picks: Particles, micrographs: Micrographs) -> None:
    whole = extraction(picks, micrographs)
    none = replace(
        whole,
        picks=whole.rows[:0],
        rows=whole.rows[:0],
        micrograph=whole.micrograph[:0],
        slot=whole.slot[:0],
        center=whole.center[:0],
        moved=whole.moved[:0],
    )
    star_output.write_particles(tmp_path / "out.star", picks, micrographs, none)
    assert len(star.read_particles(tmp_path / "out.star")) == 0


def test_many_rows_are_the_same_as_few(tmp_path: Path, micrographs: Micrographs) -> None:
    n = 120_001  # more than two blocks of rows
    rows = "".join(f"Motion/{'ab'[i % 2]}.mrc {i} {i + 0.5} {i}\n" for i in range(n))
    picks = star.read_particles(write(tmp_path / "many.star", PICKS[: PICKS.index("Motion/b")] + rows))
    star_output.write_particles(tmp_path / "out.star", picks, micrographs, extraction(picks, micrographs))
    again = star.read_particles(tmp_path / "out.star")
    np.testing.assert_array_equal(again.x, np.arange(n))
    np.testing.assert_array_equal(again.y, np.arange(n) + 0.5)
    assert again.table.table.texts("_rlnFunny") == [str(i) for i in range(n)]


# ---------------------------------------------------------------------------------------------------------- real data

TABLES = (
    "tables/relion30_after_refinement.star",
    "tables/relion31_after_refinement.star",
    "tables/relion4_extract_output.star",
    "tables/relion5.star",
    "picks/fei-extended.star",
    "picks/Ucsf_stack_1142_DW_autopick.star",
)


def block_of(path: Path) -> str:
    return (
        "particles" if "data_particles" in path.read_text() else "images" if "data_images" in path.read_text() else ""
    )


@pytest.mark.real
@pytest.mark.parametrize("name", TABLES)
def test_real_tables_come_back_equal_in_content(
    real_data: Path, tmp_path: Path, micrographs: Micrographs, name: str
) -> None:
    picks = star.read_particles(real_data / name)
    left_out = extraction(picks, micrographs, reasons=("none",) * len(picks))
    star_output.write_rejected(tmp_path / "again.star", picks, micrographs, left_out)
    before = columns(real_data / name, block_of(real_data / name))
    after = columns(tmp_path / "again.star", block_of(real_data / name))
    assert {tag: after[tag] for tag in before} == before
    assert set(after) - set(before) <= {"_cryoboxRejectReason", "_rlnMicrographName"}
    if "data_optics" in (real_data / name).read_text():
        assert columns(tmp_path / "again.star", "optics") == columns(real_data / name, "optics")


@pytest.mark.real
@pytest.mark.parametrize("name", TABLES)
def test_columns_of_real_tables_survive_extraction(
    real_data: Path, tmp_path: Path, micrographs: Micrographs, name: str
) -> None:
    import starfile

    picks = star.read_particles(real_data / name)
    bare = replace(micrographs, family="plain", optics=(), optics_index=np.full(2, -1), ctf={}, table=None)
    star_output.write_particles(tmp_path / "out.star", picks, bare, extraction(picks, bare))
    before = columns(real_data / name, block_of(real_data / name))
    after = columns(tmp_path / "out.star")
    ours = {"_rlnImageName", "_rlnMicrographName", "_rlnOpticsGroup"}
    gone = {
        "_rlnOriginX",
        "_rlnOriginY",
        "_rlnMagnification",
        "_rlnDetectorPixelSize",
        "_rlnVoltage",
        "_rlnSphericalAberration",
    }
    for tag in set(before) - ours - gone:
        assert after[tag] == before[tag]
    assert not gone & set(after)
    opened = starfile.read(tmp_path / "out.star")
    assert len(opened["particles"]) == len(picks)
    np.testing.assert_allclose(opened["particles"]["rlnCoordinateX"], picks.x, rtol=0, atol=0)
    assert opened["optics"]["rlnImageSize"].tolist() == [64] * len(opened["optics"])


@pytest.mark.real
def test_the_31_table_beside_micrographs_of_another_cs_is_warned_of(real_data: Path) -> None:
    picks = star.read_particles(real_data / "tables/relion31_after_refinement.star")
    mics = star.read_micrographs(real_data / "picks/fei-extended_micrographs.star")
    told = [text for text in checked(picks, mics) if "_rlnSphericalAberration" in text]
    assert len(told) == 1
    assert "optics group 'opticsGroup1' has _rlnSphericalAberration 0.01 mm" in told[0]
    assert "the one that comes with the defocus is used" in told[0]


def test_shifts_come_in_the_order_y_x(tmp_path: Path) -> None:
    (found,) = star.read_particles(write(tmp_path / "old.star", STYLE_30)).alignments
    assert isinstance(found, Alignment)
    assert found.shift[0].tolist() == [-2.0, 1.5]  # rlnOriginY, rlnOriginX
