"""Files of filaments: marked ends, `#helix:` lines, a `.cbox` with filaments and their vertices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cryobox import Recipe, formats
from cryobox.errors import InputError
from cryobox.formats.helix_files import read_traced
from cryobox.particles import Particles

ENDS = "70\t80\t40\t40\t-1\n270\t80\t40\t40\t-2\n100\t50\t41\t41\t-1\n100\t250\t41\t41\t-2\n"
LINES = """#micrograph: a.mrc
#segment length: 40
#segment width: 40
#helix: {}100.0, 120.0{},{}200.0, 170.0{},40
100\t120
120\t130
141\t139
200\t170
#helix: {}300, 300{},{}200, 300{},40
290\t300
240\t330
210\t300
"""
CBOX = """data_cryolo

loop_
_CoordinateX
_CoordinateY
_Width
_Height
_filamentid
80 30 40 40 0.0
100 30 40 40 0.0
10 10 40 40 <NA>
30 80 40 40 1.0
30 100 40 40 1.0
"""
VERTICES = """
data_filament_vertices

loop_
_CoordinateX
_CoordinateY
_filamentid
100 50 0.0
150 50 0.0
150 90 0.0
50 100 1.0
50 120 1.0
"""


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def read(path: Path, **asked: Any) -> Particles:
    return formats.read_particles(path, recipe=Recipe(box=32, **asked))


def ends(path: Path) -> Particles:
    return read(path, helix="ends", inter_box_distance=10.0)


def test_marked_ends_are_drawn_in_by_half_the_width_of_their_box(tmp_path: Path) -> None:
    found = ends(write(tmp_path / "a.box", ENDS))
    assert found.x.tolist() == [110, 270, 120.5, 120.5]
    assert found.y.tolist() == [100, 100, 91, 250]
    assert found.tube is not None
    assert found.tube.tolist() == [1, 1, 2, 2]
    whole = read(write(tmp_path / "a.box", ENDS), helix="whole")
    assert whole.x.tolist() == [90, 290, 120.5, 120.5]


def test_a_helix_no_longer_than_its_box_keeps_no_length(tmp_path: Path) -> None:
    found = ends(write(tmp_path / "a.box", "70\t80\t40\t40\t-1\n100\t80\t40\t40\t-2\n"))
    assert found.x.tolist() == [105, 105]
    assert found.y.tolist() == [100, 100]


def test_an_end_without_its_partner_is_a_helix_of_one_end(tmp_path: Path) -> None:
    lines = ENDS.splitlines(keepends=True)
    for chosen, wanted in (([0, 1, 2], [1, 1, 2]), ([1, 2, 3], [1, 2, 2]), ([0, 2, 3], [1, 2, 2])):
        found = ends(write(tmp_path / "a.box", "".join(lines[i] for i in chosen)))
        assert found.tube is not None
        assert found.tube.tolist() == wanted


def test_boxes_that_mark_no_ends_have_none(tmp_path: Path) -> None:
    path = write(tmp_path / "a.box", "70 80 40 40\n")
    with pytest.raises(InputError, match=r"a\.box: marks no ends of helices"):
        ends(path)
    with pytest.raises(InputError, match=r"a\.box: holds the ends of helices .*, no segments: --helix ends"):
        read(write(tmp_path / "a.box", ENDS), helix="segments")
    assert len(ends(write(tmp_path / "a.box", ""))) == 0


@pytest.mark.parametrize("brackets", ["()", "[]"])
@pytest.mark.parametrize("suffix", [".box", ".txt", ".coords", ".pos"])
def test_segments_below_helix_lines_have_the_direction_of_a_straight_helix(
    tmp_path: Path, brackets: str, suffix: str
) -> None:
    path = write(tmp_path / f"a{suffix}", LINES.format(*(brackets * 4)))
    found = read(path, helix="segments")
    assert found.x.tolist() == [100, 120, 141, 200, 290, 240, 210]
    assert found.y.tolist() == [120, 130, 139, 170, 300, 330, 300]
    assert found.tube is not None
    assert found.tube.tolist() == [1, 1, 1, 1, 2, 2, 2]
    # The second is bent: its directions are those of the neighbors.
    np.testing.assert_array_equal(found.psi, [-26.565051] * 4 + [np.nan] * 3)
    anew = ends(path)
    assert anew.x.tolist() == [100, 200, 300, 200]
    assert anew.y.tolist() == [120, 170, 300, 300]


def test_a_helix_line_without_two_points_is_refused_with_its_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.box", "#helix: (1, 2)\n3 4\n")
    with pytest.raises(InputError, match=r"a\.box: line 1: expected #helix: \(x1, y1\),\(x2, y2\),width"):
        read_traced(path, "segments")
    path = write(tmp_path / "a.box", "#helix: (1, 2),(3, 4),5\nx 4\n")
    with pytest.raises(InputError, match=r"a\.box: line 2: expected x and y, got 'x 4'"):
        read_traced(path, "segments")


def test_the_filaments_of_a_cbox_are_segments_or_polylines(tmp_path: Path) -> None:
    segments = read(write(tmp_path / "a.cbox", CBOX), helix="segments")
    assert segments.tube is not None
    assert segments.tube.tolist() == [1, 1, 0, 2, 2]
    through = ends(tmp_path / "a.cbox")
    assert through.x.tolist() == [100, 120, 50, 50]
    vertices = ends(write(tmp_path / "b.cbox", CBOX + VERTICES))
    assert vertices.x.tolist() == [100, 150, 150, 50, 50]
    assert vertices.tube is not None
    assert vertices.tube.tolist() == [1, 1, 1, 2, 2]
    none = write(tmp_path / "c.cbox", CBOX.replace("_filamentid", "_other"))
    with pytest.raises(InputError, match=r"c\.cbox: has no _filamentid"):
        ends(none)


def test_the_ends_that_cryolo_writes_as_star_are_read_as_such(tmp_path: Path) -> None:
    (tmp_path / "STAR_START_END").mkdir()
    text = "data_\n\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n10 20\n100 20\n"
    path = write(tmp_path / "STAR_START_END/a.star", text)
    assert ends(path).x.tolist() == [10, 100]
    with pytest.raises(InputError, match=r"the two ends of each filament.*give --helix ends"):
        read(path, helix="segments")


def test_info_says_what_a_file_of_helices_is_for(tmp_path: Path) -> None:
    path = write(tmp_path / "a.box", ENDS)
    assert formats.describe(path) == [f"{path}: 4 ends of 2 helices: --helix ends"]
    path = write(tmp_path / "b.box", LINES.format(*"()()()()"))
    assert formats.describe(path) == [
        f"{path}: 7 segments of 2 helices: --helix segments",
        f"{path}: 4 ends of 2 helices: --helix ends",
    ]
