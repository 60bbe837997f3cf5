"""Boxes of EMAN2, in files as e2boxer writes them, and in files that nobody should write."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryobox import formats
from cryobox.errors import InputError
from cryobox.formats.eman2 import read_info
from cryobox.micrograph import Micrographs
from cryobox.options import Recipe

# A box per line, other facts beside them: EMAN2's own layout.
INFO = """{
"boxes":[[1021.0,933.5,"manual"],[ 200,96,"auto_convnet",0.875],[64.25,2000.0,"auto_local",0.5]],
"ctf":[{"__class__":"EMAN2Ctf","defocus":1.5},[256,256],[],[],-1],
"quality":5,
"sets":{"bad_particles":[3]}
}
"""


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def named(*names: str) -> Micrographs:
    n = len(names)
    return Micrographs(
        family="plain", source="mics", names=names, paths=names, pixel_size=np.full(n, np.nan),
        shape=np.zeros((n, 2), np.int64), optics_index=np.full(n, -1, np.intp), ctf={},
    )  # fmt: skip


def test_boxes_of_eman2_are_centers_with_a_score_where_the_picker_gave_one(tmp_path: Path) -> None:
    y, x, score = read_info(write(tmp_path / "mic01_info.json", INFO))
    assert x.tolist() == [1021.0, 200.0, 64.25]
    assert y.tolist() == [933.5, 96.0, 2000.0]
    assert score is not None
    np.testing.assert_array_equal(score, [np.nan, 0.875, 0.5])


def test_boxes_made_by_hand_have_no_score(tmp_path: Path) -> None:
    y, x, score = read_info(write(tmp_path / "a_info.json", '{"boxes":[[10,20,"manual"],[30,40]]}'))
    assert (y.tolist(), x.tolist(), score) == ([20, 40], [10, 30], None)


@pytest.mark.parametrize("text", ['{"quality":5,"ctf":[1]}', '{"boxes":[]}', "{}", "", "\n"])
def test_an_info_file_without_boxes_has_no_picks(tmp_path: Path, text: str) -> None:
    y, x, score = read_info(write(tmp_path / "a_info.json", text))
    assert (len(y), len(x), score) == (0, 0, None)


def test_one_info_file_belongs_to_the_micrograph_before_its_suffix(tmp_path: Path) -> None:
    path = write(tmp_path / "info/mic01_info.json", INFO)
    for micrographs in (None, named("micrographs/mic01.mrc", "micrographs/mic02.mrc")):
        found = formats.read_particles(path, micrographs=micrographs, recipe=Recipe(box=64))
        assert (found.family, found.micrograph_names, found.warnings) == ("plain", ("mic01",), ())


def test_the_info_folder_of_a_project_is_read_without_its_other_files(tmp_path: Path) -> None:
    write(tmp_path / "info/mic02_info.json", '{"boxes":[[10,20,"manual"]]}')
    write(tmp_path / "info/mic01_info.json", INFO)
    write(tmp_path / "info/mic03_info.json", '{"quality":3}')
    write(tmp_path / "info/project.json", '{"global.apix":1.2,"global.boxsize":128}')
    write(tmp_path / "info/boxrefs.hdf", b"\x89HDF")
    found = formats.read_particles(tmp_path / "info", recipe=Recipe(box=64))
    assert found.micrograph_names == ("mic01", "mic02", "mic03")
    assert found.micrograph.tolist() == [0, 0, 0, 1]
    assert found.x.tolist() == [1021, 200, 64.25, 10]
    assert found.warnings == ()


def test_the_users_suffix_wins_over_that_of_eman2(tmp_path: Path) -> None:
    write(tmp_path / "p/a_boxes.json", '{"boxes":[[10,20,"manual"]]}')
    write(tmp_path / "p/a_info.json", INFO)
    found = formats.read_particles(tmp_path / "p", recipe=Recipe(box=64, coordinate_suffix="_boxes"))
    assert (found.micrograph_names, found.x.tolist()) == (("a",), [10.0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"boxes":[[1,2,"manual"],', r"not JSON: .*copied incompletely\?"),
        ("[[1,2]]", r"holds \[\[1, 2\]\], expected EMAN2's names and values in braces"),
        ('{"boxes":{"x":1}}', r"'boxes' is \{'x': 1\}, expected a list"),
        ('{"boxes":null}', r"'boxes' is None, expected a list"),
        ('{"boxes":[[1,2,"a"],[3]]}', r"box 2 is \[3\], expected \[x, y, kind\] or \[x, y, kind, score\]"),
        ('{"boxes":[[1,2,"a",4,5]]}', r"box 1 is \[1, 2, 'a', 4, 5\], expected"),
        ('{"boxes":[5]}', r"box 1 is 5, expected"),
        ('{"boxes":["ab"]}', r"box 1 is 'ab', expected"),
        ('{"boxes":[["1",2,"a"]]}', r"box 1: x is '1', expected a finite number"),
        ('{"boxes":[[1,true,"a"]]}', r"box 1: y is True, expected a finite number"),
        ('{"boxes":[[1,[2],"a"]]}', r"box 1: y is \[2\], expected a finite number"),
        ('{"boxes":[[NaN,2,"a"]]}', r"box 1: x is nan, expected a finite number"),
        ('{"boxes":[[1,-Infinity,"a"]]}', r"box 1: y is -inf, expected a finite number"),
        ('{"boxes":[[1e999,2,"a"]]}', r"box 1: x is inf, expected a finite number"),
        ('{"boxes":[[1' + "0" * 400 + ',2,"a"]]}', r"box 1: x is 10+ \.\.\., expected a finite number"),
        ('{"boxes":[[1' + "0" * 9000 + ',2,"a"]]}', r"not JSON: .*digits"),
        ('{"boxes":[[1,2,3]]}', r"box 1: the third value is 3, expected the kind of pick as text, such as 'manual'"),
        ('{"boxes":[[1,2,"a","high"]]}', r"box 1: score is 'high', expected a finite number"),
        ('{"boxes":[[1,2,"a"]],"boxes":[]}', r"names 'boxes' twice; expected each name once"),
        ('{"boxes":' + "[" * 100_000, r"not JSON: "),
        ('{"boxes_3d":[[1,2,3,"manual",1.0,0]]}', r"has no boxes but 'boxes_3d': boxes in a tomogram"),
        ('{"boxes_rct":[[1,2,"tilted"]]}', r"has no boxes but 'boxes_rct': pairs of tilted and untilted boxes"),
        (b"\xff\xfe", r"not EMAN2's file about a micrograph: it holds bytes that are not UTF-8 text"),
    ],
)
def test_what_eman2_does_not_write_is_refused_with_the_place(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(InputError, match=r"a_info\.json: " + message) as caught:
        read_info(write(tmp_path / "a_info.json", text))
    assert len(str(caught.value)) < 500 + len(str(tmp_path)), "a message is read by people"


def test_json_of_another_kind_is_not_taken_for_a_micrograph_without_picks(tmp_path: Path) -> None:
    path = write(tmp_path / "settings.json", '{"recipe":{"box":64},"picks":3}')
    with pytest.raises(InputError, match=r"settings\.json: not EMAN2's file .* no 'boxes'; found 'recipe, picks'"):
        read_info(path)


def test_a_file_too_large_to_be_one_is_not_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a_info.json", "")
    with path.open("r+b") as file:
        file.truncate(2**40)  # sparse
    with pytest.raises(InputError, match=r"1099511627776 bytes are too many"):
        read_info(path)


@given(boxes=st.lists(st.tuples(st.floats(-1e6, 1e6), st.integers(-9999, 9999), st.text(max_size=8)), max_size=20))
def test_whatever_json_says_of_boxes_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, boxes: list[tuple[float, int, str]]
) -> None:
    path = write(tmp_path_factory.mktemp("eman2") / "a_info.json", json.dumps({"boxes": boxes}))
    y, x, score = read_info(path)
    assert x.tolist() == [box[0] for box in boxes]
    assert y.tolist() == [box[1] for box in boxes]
    assert score is None
