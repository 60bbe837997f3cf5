"""Picks of Xmipp, in files as its programs write them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cryobox import formats
from cryobox.errors import InputError
from cryobox.formats.xmipp import read_xmipp
from cryobox.options import Recipe

HEADER = "# XMIPP_STAR_1 *\n#\ndata_header\nloop_\n _pickingMicrographState\n{state}\n"
COLUMNS = "loop_\n _itemId\n _enabled\n _xcoor\n _ycoor\n _cost\n _micrographId\n"
MANUAL = HEADER.format(state="Manual") + "data_particles\n" + COLUMNS
MANUAL_ROWS = (
    " 000001   1   120  340  1   000007 \n 000002  -1   500  600  1   000007 \n 000003   1   7  8  1   000007 \n"
)
NAMED = "data_particles\nloop_\n _micrograph\n _xcoor\n _ycoor\na 1 2\n"
AUTO = "data_particles_auto\n" + COLUMNS
AUTO_ROWS = " 000004   1   20  30  0.25   000007 \n 000005   0   21  31  0.75   000007 \n"


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_row_that_is_not_enabled_is_no_pick(tmp_path: Path) -> None:
    y, x, score, names = read_xmipp(write(tmp_path / "mic.pos", MANUAL + MANUAL_ROWS))
    assert (x.tolist(), y.tolist()) == ([120, 7], [340, 8])
    assert score is not None
    assert score.tolist() == [1, 1]
    assert names is None


def test_picks_by_hand_and_by_the_program_are_one_set(tmp_path: Path) -> None:
    y, x, score, _ = read_xmipp(write(tmp_path / "mic.pos", MANUAL + MANUAL_ROWS + AUTO + AUTO_ROWS))
    assert (x.tolist(), y.tolist()) == ([120, 7, 20], [340, 8, 30])
    assert score is not None
    assert score.tolist() == [1, 1, 0.25]


def test_a_file_of_scipion_has_only_coordinates(tmp_path: Path) -> None:
    text = HEADER.format(state="Auto") + "data_particles\nloop_\n _xcoor\n _ycoor\n 10 20\n 30 40\n"
    y, x, score, names = read_xmipp(write(tmp_path / "mic.pos", text))
    assert (x.tolist(), y.tolist(), score, names) == ([10, 30], [20, 40], None, None)


def test_columns_of_older_versions_begin_with_a_capital(tmp_path: Path) -> None:
    text = "# XMIPP_STAR_1 * \ndata_particles\nloop_\n _Xcoor\n _Ycoor\n 10 20\n"
    y, x, _, _ = read_xmipp(write(tmp_path / "mic.pos", text))
    assert (x.tolist(), y.tolist()) == ([10], [20])


def test_pos_files_of_xmipp_2_4_are_plain_rows(tmp_path: Path) -> None:
    y, x, score, names = read_xmipp(write(tmp_path / "mic.pos", "# <X position> <Y position>\n120 340\n7 8\n"))
    assert (x.tolist(), y.tolist(), score, names) == ([120, 7], [340, 8], None, None)


def test_a_table_that_names_micrographs_has_picks_of_each(tmp_path: Path) -> None:
    text = (
        "# XMIPP_STAR_1 *\n#\ndata_noname\nloop_\n _itemId\n _enabled\n _image\n _micrograph\n _xcoor\n _ycoor\n"
        " 1 1 000001@a.stk mics/a.mrc 10 20\n 2 -1 000002@a.stk mics/a.mrc 11 21\n 3 1 000001@b.stk mics/b.mrc 30 40\n"
    )
    path = write(tmp_path / "images.xmd", text)
    found = formats.read_particles(path, recipe=Recipe(box=64))
    assert (found.x.tolist(), found.y.tolist()) == ([10, 30], [20, 40])
    assert (found.micrograph_names, found.micrograph.tolist()) == (("mics/a.mrc", "mics/b.mrc"), [0, 1])
    with pytest.raises(InputError, match=r"images\.xmd: has picks of 2 images \(mics/a\.mrc, \.\.\.\)"):
        formats.read_coordinate_file(path)


@pytest.mark.parametrize(
    "text",
    ["", "\n", HEADER.format(state="Available") + "data_particles\n", MANUAL, MANUAL + AUTO,
     MANUAL + " 1 -1 5 6 1 7\n", "# <X position> <Y position>\n"],
)  # fmt: skip
def test_a_pos_file_without_picks_is_no_error(tmp_path: Path, text: str) -> None:
    y, x, score, _ = read_xmipp(write(tmp_path / "mic.pos", text))
    assert (len(y), len(x), score) == (0, 0, None)


def test_a_folder_of_xmipp_holds_other_tables_too(tmp_path: Path) -> None:
    write(tmp_path / "extra/a.pos", MANUAL + MANUAL_ROWS)
    write(tmp_path / "extra/b.pos", MANUAL)
    write(
        tmp_path / "extra/config.xmd",
        "# XMIPP_STAR_1 *\n#\ndata_properties\n _particleSize 100\n _pickingState Manual\n",
    )
    found = formats.read_particles(tmp_path / "extra", recipe=Recipe(box=64))
    assert (found.micrograph_names, found.micrograph.tolist()) == (("a", "b"), [0, 0])


def test_a_folder_of_xmd_files_is_one_set_of_picks(tmp_path: Path) -> None:
    for name in "ab":
        write(tmp_path / f"p/{name}.xmd", MANUAL + MANUAL_ROWS)
    found = formats.read_particles(tmp_path / "p", recipe=Recipe(box=64))
    assert (found.micrograph_names, found.micrograph.tolist()) == (("a", "b"), [0, 0, 1, 1])
    np.testing.assert_array_equal(found.x, [120, 7, 120, 7])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# XMIPP_STAR_1 *\ndata_micrographs\nloop_\n _micrograph\n a.mrc\n",
         r"no block has columns _xcoor and _ycoor; blocks present: data_micrographs"),
        ("data_particles\nloop_\n _xcoor\n 1\n", r"data_particles has no column _ycoor; columns present: _xcoor"),
        ("data_particles\nloop_\n _image\n 1@a.stk\n", r"data_particles has no column _xcoor, _ycoor"),
        ("data_a\nloop_\n _xcoor\n _ycoor\n1 2\ndata_b\nloop_\n _xcoor\n _ycoor\n1 2\n",
         r"2 blocks hold picks: data_a, data_b; expected data_particles"),
        ("data_noname\nloop_\n _xcoor\n _ycoor\n _zcoor\n1 2 3\n4 5 6\n",
         r"_zcoor goes from 3 to 6: these are picks in tomograms"),
        ("data_particles\nloop_\n _enabled\n _xcoor\n _ycoor\nyes 1 2\n",
         r"row 1: _enabled is 'yes', expected a number"),
        ("data_particles\nloop_\n _xcoor\n _ycoor\n 1 2 3\n", r"line 5: 3 values, expected 2"),
        (NAMED + "data_particles_auto\nloop_\n _xcoor\n _ycoor\n1 2\n",
         r"only one of its blocks of picks names their micrographs"),
        (b"\xff\xfe", r"it holds bytes that are not UTF-8 text"),
    ],
)  # fmt: skip
def test_what_is_not_a_table_of_picks_is_refused(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(InputError, match=r"mic\.xmd: .*" + message):
        read_xmipp(write(tmp_path / "mic.xmd", text))


def test_a_file_that_says_only_how_far_the_user_is_has_no_picks(tmp_path: Path) -> None:
    y, x, *_ = read_xmipp(write(tmp_path / "mic.pos", HEADER.format(state="Available")))
    assert (len(y), len(x)) == (0, 0)
