"""`.coord` and `.coords` of RELION's older pickers, in files as these write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from cryobox import formats
from cryobox.errors import InputError
from cryobox.formats.coords import read_coords
from cryobox.options import Recipe

XIMDISP = "         x         y      density\n      1021       933       127\n       200        96       -31\n"


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    "text",
    [
        XIMDISP,
        "x y psi\n1021 933 12.5\n200 96 12.5\n",
        "X Y\n1021 933\n200 96\n",
        "# <X position> <Y position>\n1021 933\n200 96\n",
        "1021 933\n200 96\n",
        "1021.0\t933.0\r\n\r\n200.0\t96.0",
        "1021 933 127\n200 96 -31\n",
        "\n# picked by hand\n1021 933\n# one more\n200 96\n",
        "x y z\n1021 933 0\n200 96 0\n",
    ],
)
def test_the_first_two_words_of_a_line_are_the_center(tmp_path: Path, text: str) -> None:
    y, x = read_coords(write(tmp_path / "mic.coords", text))
    assert (x.tolist(), y.tolist()) == ([1021, 200], [933, 96])


@pytest.mark.parametrize("text", ["", "\n\n", "x y density\n", "# <X position> <Y position>\n"])
def test_a_file_without_rows_has_no_picks(tmp_path: Path, text: str) -> None:
    y, x = read_coords(write(tmp_path / "mic.coords", text))
    assert (len(y), len(x)) == (0, 0)


@pytest.mark.parametrize("kind", ["coord", "coords", "COORDS"])
def test_a_folder_may_hold_them(tmp_path: Path, kind: str) -> None:
    write(tmp_path / f"p/a.{kind}", XIMDISP)
    write(tmp_path / f"p/b.{kind}", "")
    found = formats.read_particles(tmp_path / "p", recipe=Recipe(box=64))
    assert (found.family, found.micrograph_names, found.micrograph.tolist()) == ("plain", ("a", "b"), [0, 0])
    assert found.score is None, "a density is no score"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("EMAN boxes\n1 2\n", r"begins with 'eman boxes', expected a header 'x y \.\.\.' or two numbers"),
        ("1 2\n3\n", r"line 2: 1 values, expected at least 2"),
        ("1 2\n3 four\n", r"line 2: expected numbers, got '3 four'"),
        ("1 two\n", r"line 1: expected numbers, got '1 two'"),
        ("10 20 64 64\n", r"line 1: 4 values and no header, expected x y, .*corners and sizes belong in a \.box file"),
        ("x y z\n1 2 3\n4 5 6\n", r"z goes from 3 to 6: these are picks in tomograms"),
        ("#helix: (1, 2),(3, 4),64\n1 2\n3 4\n", r"line 1: '#helix: .*' heads the segments of a helix"),
        (b"1 2\n\xff", r"it holds bytes that are not UTF-8 text"),
        (b"1 2\n\0", r"it holds zero bytes, expected text"),
    ],
)
def test_other_lines_are_refused_with_their_number(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(InputError, match=r"mic\.coords: .*" + message):
        read_coords(write(tmp_path / "mic.coords", text))
