"""Coordinates as text: Topaz, CryoPPP and other tables with a header, and bare numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryobox.errors import InputError
from cryobox.formats.csv import read_coordinates, read_particles

TOPAZ = "image_name\tx_coord\ty_coord\tscore\nb\t10\t20\t6.5\na\t30\t40\t-1\nb\t5\t6\t0\n"


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_topaz_picks_are_centers_with_scores_and_names(tmp_path: Path) -> None:
    found = read_particles(write(tmp_path / "picks.txt", TOPAZ))
    assert found.family == "plain"
    assert (found.x.tolist(), found.y.tolist()) == ([10, 30, 5], [20, 40, 6])
    assert found.score is not None
    assert found.score.tolist() == [6.5, -1, 0]
    assert found.micrograph_names == ("b", "a")
    assert found.micrograph.tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    "text",
    [
        TOPAZ.replace("\t", ","),
        TOPAZ.replace("\t", ";"),
        TOPAZ.replace("\t", "  "),
        TOPAZ.replace("\n", "\r\n"),
        "\ufeff" + TOPAZ,
        "# a remark\n\n" + TOPAZ.rstrip(),
        TOPAZ.replace("\t", ",").replace("b,10", '"b",10'),
        TOPAZ.replace("x_coord", "X-Coordinate").replace("y_coord", "Y-Coordinate").replace("score", "Confidence"),
        TOPAZ.replace("x_coord", "CENTER X").replace("y_coord", "center_y"),
    ],
)
def test_separators_and_header_names_may_vary(tmp_path: Path, text: str) -> None:
    found = read_particles(write(tmp_path / "picks.txt", text))
    assert (found.x.tolist(), found.y.tolist()) == ([10, 30, 5], [20, 40, 6])
    assert found.micrograph_names == ("b", "a")
    assert found.score is not None


def test_cryoppp_files_belong_to_the_micrograph_of_their_name(tmp_path: Path) -> None:
    text = "X-Coordinate,Y-Coordinate,Diameter\n1534,222,224\n3196.5,2046,224\n"
    found = read_particles(write(tmp_path / "FoilHole_1.csv", text))
    assert (found.x.tolist(), found.y.tolist()) == ([1534, 3196.5], [222, 2046])
    assert found.micrograph_names == ("FoilHole_1",)
    assert found.score is None


def test_numbers_without_a_header_are_x_y_and_perhaps_a_score(tmp_path: Path) -> None:
    y, x, score, names = read_coordinates(write(tmp_path / "a.txt", "1 2\n3\t4\n"))
    assert (x.tolist(), y.tolist(), score, names) == ([1, 3], [2, 4], None, None)
    score = read_coordinates(write(tmp_path / "a.csv", "1,2,0.5\n3,4,\n"))[2]
    assert score is not None
    assert str(score.tolist()) == "[0.5, nan]"


@pytest.mark.parametrize(
    "text", ["", " \n\n", "# a remark\n", "x,y\n", "image_name\tx_coord\ty_coord\tscore\n", "\ufeff"]
)
def test_a_text_file_without_rows_means_no_picks(tmp_path: Path, text: str) -> None:
    assert len(read_particles(write(tmp_path / "none.txt", text))) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"\x80\x81", r"not a table of coordinates: it holds bytes that are not UTF-8 text"),
        ("a\0b", r"not a table of coordinates: it holds zero bytes"),
        ("name,score\na,1\n", r"line 1: no column of x and y coordinates; .*got name, score"),
        ("x,z\n1,2\n", r"line 1: no column of y coordinates"),
        ("x,y\n1,2\n\n3\n", r"line 4: 1 values, expected 2 as in line 1"),
        ("x,y\n1,2\n3,four\n", r"line 3: expected numbers, got '3 four'"),
        ("1 2 3 4\n", r"line 1: 4 numbers and no header, expected x y or x y score"),
        ('name,x,y\n"a\nb",1,2\n', r"a quoted value goes over the end of a line|quotes that do not match"),
    ],
)
def test_text_that_cannot_be_used_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path / "bad.csv", text)
    with pytest.raises(InputError, match=rf"^{path}: ({message})"):
        read_particles(path)


@given(st.text(max_size=200))
def test_any_text_gives_picks_or_a_clear_error(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = write(tmp_path_factory.getbasetemp() / "any.txt", text.encode("utf-8", "replace"))
    try:
        y, x, *_ = read_coordinates(path)
        assert len(y) == len(x)
    except InputError as error:
        message = str(error)
        assert message.startswith(str(path))
