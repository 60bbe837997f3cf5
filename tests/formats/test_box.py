"""EMAN and crYOLO boxes, and the names of coordinate files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryobox.errors import InputError
from cryobox.formats.box import read_box, read_cbox, strip_shared_suffix

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
        (b"\xff\xfe1 2 3 4", r"not a \.box file: it holds bytes that are not text"),
    ],
)
def test_a_bad_box_file_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path / "bad.box", text)
    with pytest.raises(InputError, match=rf"^{path}: {message}"):
        read_box(path)


@given(st.lists(st.tuples(*[st.floats(-1e4, 1e4)] * 4), max_size=20))
def test_any_boxes_give_their_centers(tmp_path_factory: pytest.TempPathFactory, boxes: list[tuple[float, ...]]) -> None:
    text = "".join(" ".join(map(repr, box)) + "\n" for box in boxes)
    y, x, _ = read_box(write(tmp_path_factory.getbasetemp() / "any.box", text))
    np.testing.assert_array_equal(x, [left + width // 2 for left, _, width, _ in boxes])
    np.testing.assert_array_equal(y, [top + height // 2 for _, top, _, height in boxes])


def test_cbox_coordinates_are_corners_and_confidence_is_the_score(tmp_path: Path) -> None:
    y, x, score = read_cbox(write(tmp_path / "a.cbox", CBOX))
    assert y.tolist() == [216.25, 36.0]
    assert x.tolist() == [132.5, 22.0]
    np.testing.assert_array_equal(score, [0.75, np.nan])


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
