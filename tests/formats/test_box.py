"""EMAN and crYOLO boxes, and the names of coordinate files."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryobox.errors import InputError
from cryobox.formats.box import read_box, read_cbox, strip_shared_suffix
from cryobox.formats.csv import read_coordinates

CBOX = """data_global

_cbox_format_version 1.0

data_cryolo

loop_
_CoordinateX #1
_CoordinateY #2
_CoordinateZ #3
_Width #4
_Height #5
_Depth #6
_EstWidth #7
_EstHeight #8
_Confidence #9
_NumBoxes #10
_Angle #11
100.5 200.25 <NA> 64 32 1 60 61 0.75 1 <NA>
-10 20 <NA> 64 32 1 60 61 <NA> 1 <NA>

data_cryolo_include

loop_
_slice_index #1
"""


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_center_is_the_corner_and_the_whole_half_of_the_size(tmp_path: Path) -> None:
    y, x, score = read_box(write(tmp_path / "a.box", "10 20 100 60\n-5\t7.5\t8\t11\r\n\n"))
    assert y.tolist() == [50.0, 12.5]
    assert x.tolist() == [60.0, -1.0]
    assert score is None


def test_the_fifth_column_is_a_score_unless_it_is_a_mark_of_eman(tmp_path: Path) -> None:
    assert read_box(write(tmp_path / "eman.box", "1 2 4 4 -3\n5 6 4 4 -3\n"))[2] is None
    score = read_box(write(tmp_path / "cryolo.box", "1 2 4 4 0.5\n5 6 4 4 -3\n"))[2]
    assert score is not None
    assert score.tolist() == [0.5, -3.0]


def test_an_empty_box_file_means_no_picks(tmp_path: Path) -> None:
    y, x, score = read_box(write(tmp_path / "none.box", ""))
    assert (len(y), len(x), score) == (0, 0, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 2 3\n", r"line 1: 3 values, expected 4 or 5"),
        ("1 2 4 4\n\n1 2 4 4 5\n", r"line 3: 5 values, expected 4 as above"),
        ("1 2 4 4\n1 two 4 4\n", r"line 2: expected numbers, got '1 two 4 4'"),
        (b"\xff\xfe1 2 3 4", r"not a \.box file: it holds bytes that are not UTF-8 text"),
    ],
)
def test_a_bad_box_file_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path / "bad.box", text)
    with pytest.raises(InputError, match=rf"^{path}: {message}"):
        read_box(path)


@pytest.mark.parametrize(
    ("marks", "line"),
    [(("-1", "-2"), 1), (("-3", "-1", "-2"), 2), (("-1.0", "-2.0", "-1.0"), 1), (("-2", "-1"), 1), (("-3", "-2"), 2),
     (("0.5", "-1", "-2", "0.7"), 2)],
)  # fmt: skip
def test_ends_of_helices_are_never_particles(tmp_path: Path, marks: tuple[str, ...], line: int) -> None:
    path = write(tmp_path / "a.box", "".join(f"70\t80\t64\t64\t{mark}\n" for mark in marks))
    with pytest.raises(InputError, match=rf"a\.box: line {line}: a fifth value of -[12] marks an end of a helix"):
        read_box(path)


def test_scores_that_happen_to_be_marks_are_scores(tmp_path: Path) -> None:
    score = read_box(write(tmp_path / "a.box", "1 2 4 4 3.25\n1 2 4 4 -1\n1 2 4 4 0.5\n1 2 4 4 -2\n"))[2]
    assert score is not None
    assert score.tolist() == [3.25, -1, 0.5, -2]


@pytest.mark.parametrize(
    "line", ["#helix: (100.0, 120.0),(160.0, 130.0),64", "#helix: [10, 12],[16, 13],6", "# Helix:"]
)
def test_a_file_of_helical_segments_is_named_in_its_refusal(tmp_path: Path, line: str) -> None:
    text = f"#micrograph: a.mrc\n#segment length: 64\n{line}\n100.0 120.0\n120.0 123.0\n"
    for name, read in (("a.box", read_box), ("a.txt", read_coordinates)):
        with pytest.raises(InputError, match=rf"{name}: line 3: '{re.escape(line)}' heads the segments of a helix"):
            read(write(tmp_path / name, text))
    assert len(read_coordinates(write(tmp_path / "centers.txt", text.replace(line, "# removed")))[0]) == 2


@given(st.lists(st.tuples(*[st.floats(-1e4, 1e4)] * 4), max_size=20))
def test_any_boxes_give_their_centers(tmp_path_factory: pytest.TempPathFactory, boxes: list[tuple[float, ...]]) -> None:
    text = "".join(" ".join(map(repr, box)) + "\n" for box in boxes)
    y, x, _ = read_box(write(tmp_path_factory.getbasetemp() / "any.box", text))
    np.testing.assert_array_equal(x, [left + width // 2 for left, _, width, _ in boxes])
    np.testing.assert_array_equal(y, [top + height // 2 for _, top, _, height in boxes])


def test_cbox_coordinates_are_corners_and_confidence_is_the_score(tmp_path: Path) -> None:
    y, x, score, filament = read_cbox(write(tmp_path / "a.cbox", CBOX))
    assert y.tolist() == [216.25, 36.0]
    assert x.tolist() == [132.5, 22.0]
    np.testing.assert_array_equal(score, [0.75, np.nan])
    assert filament is None


FILAMENTS = CBOX.replace("_Angle #11\n", "_Angle #11\n_filamentid #12\n").replace("<NA>\n", "<NA> {}\n")


def test_the_filaments_of_a_cbox_are_counted_from_one(tmp_path: Path) -> None:
    found = [
        read_cbox(write(tmp_path / "a.cbox", FILAMENTS.replace("{}", one, 1).replace("{}", two)))[3]
        for one, two in (("0.0", "1.0"), ("7", "<NA>"), ("<NA>", "<NA>"))
    ]
    assert [None if column is None else column.tolist() for column in found] == [[1, 2], [8, 0], None]


@pytest.mark.parametrize("value", ["-1", "0.5", "inf"])
def test_a_filament_that_is_no_number_from_zero_is_an_error(tmp_path: Path, value: str) -> None:
    path = write(tmp_path / "a.cbox", FILAMENTS.replace("{}", value))
    with pytest.raises(
        InputError, match=rf"data_cryolo, row 1: _filamentid is {value}, expected a whole number from 0"
    ):
        read_cbox(path)


@pytest.mark.parametrize(
    "text",
    ["", "\n \n", "data_global\n\n_cbox_format_version 1.0\n", "data_cryolo\n", CBOX[: CBOX.index("100.5")],
     "# nothing\n"],
)  # fmt: skip
def test_an_empty_cbox_means_no_picks(tmp_path: Path, text: str) -> None:
    y, x, *_ = read_cbox(write(tmp_path / "none.cbox", text))
    assert (len(y), len(x)) == (0, 0)


def test_a_cbox_of_a_tomogram_is_refused(tmp_path: Path) -> None:
    flat = CBOX.replace("<NA> 64", "5 64")
    assert len(read_cbox(write(tmp_path / "flat.cbox", flat))[0]) == 2
    with pytest.raises(InputError, match=r"deep\.cbox: _CoordinateZ goes from 5 to 9: these are picks in tomograms"):
        read_cbox(write(tmp_path / "deep.cbox", flat.replace("5 64", "9 64", 1)))


def test_a_cbox_without_its_block_or_columns_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.cbox: no block data_cryolo; blocks present: data_global, data_other"):
        read_cbox(write(tmp_path / "a.cbox", CBOX.replace("data_cryolo\n", "data_other\n")))
    with pytest.raises(InputError, match=r"no column _Width; columns present: _CoordinateX"):
        read_cbox(write(tmp_path / "a.cbox", CBOX.replace("_Width", "_Breadth")))


def test_a_suffix_that_all_files_share_is_taken_off() -> None:
    found = strip_shared_suffix(["a_autopick", "b_autopick", "c_autopick"], ["a", "b", "b_1"], None)
    assert found == (["a", "b", "c"], "_autopick")


def test_names_that_are_known_stay_as_they_are() -> None:
    assert strip_shared_suffix(["a", "b_x"], ["a", "b"], None) == (["a", "b_x"], "")
    assert strip_shared_suffix(["a_x"], ["a", "a_x"], None) == (["a_x"], "")


def test_a_longer_number_is_not_a_suffix() -> None:
    assert strip_shared_suffix(["mic_10"], ["mic_1"], None) == (["mic_10"], "")


def test_files_that_share_no_suffix_stay_as_they_are() -> None:
    assert strip_shared_suffix(["a_x", "b_y"], ["a", "b"], None) == (["a_x", "b_y"], "")


def test_the_suffix_that_the_user_gives_is_taken_off() -> None:
    assert strip_shared_suffix(["a_DW_x", "b"], [], "_DW_x") == (["a", "b"], "_DW_x")
    with pytest.raises(
        InputError, match=r"picks: no coordinate file has a name that ends with '_y'; got for example 'a_x'"
    ):
        strip_shared_suffix(["a_x"], ["a"], "_y", source="picks")


def test_two_suffixes_that_fit_are_an_error() -> None:
    with pytest.raises(
        InputError, match=r"in two ways, with '_1_pick' or '_pick' taken off; say which with --coord-suffix"
    ):
        strip_shared_suffix(["m_1_pick"], ["m", "m_1"], None)


@pytest.mark.real
def test_real_cryolo_boxes_have_scores(real_data: Path) -> None:
    y, x, score = read_box(real_data / "picks/cryolo_Falcon_2012_06_12-14_33_35_0.box")
    assert score is not None
    assert (x[0], y[0], score[0]) == (2889 + 90, 3885 + 90, 0.6598718762397766)
    assert len(y) == 719
    assert ((score > 0) & (score < 1)).all()
