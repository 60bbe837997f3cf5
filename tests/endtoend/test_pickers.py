"""Picks of every picker, in files as it writes them, give the particles that the same centers give otherwise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import synth
from cryobox import OptionError, Recipe, RunOptions, run
from cryobox.formats.mrc import read_stack_header

CENTERS = ((40, 60), (100, 50))  # (x, y)
AUTOMATCH = (
    "\ndata_\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n_rlnAnglePsi #3\n_rlnClassNumber #4\n"
    "_rlnAutopickFigureOfMerit #5\n  40.000000  60.000000  125.00  3  0.35\n  100.000000  50.000000  5.00  1  0.45\n"
)
XMIPP = (
    "# XMIPP_STAR_1 *\n#\ndata_header\nloop_\n _pickingMicrographState\nManual\ndata_particles\nloop_\n _itemId\n"
    " _enabled\n _xcoor\n _ycoor\n _cost\n _micrographId\n 000001   1   40  60  1   000007 \n"
    " 000002   -1   60  60  1   000007 \n 000003   1   100  50  1   000007 \n"
)
FILES = {
    "m.csv": "x,y\n40,60\n100,50\n",
    "m_automatch.star": AUTOMATCH,
    "m_info.json": '{\n"boxes":[[40.0,60.0,"manual"],[100,50,"auto_convnet",0.75]],\n"quality":5\n}\n',
    "m.pos": XMIPP,
    "m.xmd": XMIPP,
    "m.coords": "        x         y      density\n        40        60       127\n       100        50       -31\n",
    "m.coord": "40 60\n100 50\n",
}


def images(folder: Path, picks: Path, **options: object) -> np.ndarray:
    run(picks, micrographs=folder / "m.mrc", out=folder / picks.suffix[1:], recipe=Recipe(box=32, **options),  # type: ignore[arg-type]
        options=RunOptions(fsync=False))  # fmt: skip
    stack = folder / picks.suffix[1:] / "stacks" / "m_particles.mrcs"
    shape, dtype, offset, _ = read_stack_header(str(stack))
    return np.fromfile(stack, dtype, offset=offset).reshape(shape)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    synth.write_mrc(tmp_path / "m.mrc", synth.micrograph((120, 160), "float32"), pixel_size=1.5)
    (tmp_path / "plain.csv").write_text(FILES["m.csv"].replace("x,y", "micrograph_name,x,y").replace("\n", "\nm,", 2))
    return tmp_path


@pytest.mark.parametrize("name", FILES)
def test_every_picker_gives_the_same_images(folder: Path, name: str) -> None:
    expected = images(folder, folder / "plain.csv")
    assert len(expected) == len(CENTERS)
    (folder / "picks").mkdir()
    (folder / "picks" / name).write_text(FILES[name])
    if name.endswith(".csv"):
        (folder / "csv").rename(folder / "before")
    np.testing.assert_array_equal(images(folder, folder / "picks" / name), expected)


def test_the_scores_of_gautomatch_and_eman2_choose(folder: Path) -> None:
    for name, least in (("m_automatch.star", 0.4), ("m_info.json", 0.5)):
        (folder / name).write_text(FILES[name])
        assert len(images(folder, folder / name, min_score=least)) == 1


def test_positions_alone_have_no_score_to_choose_by(folder: Path) -> None:
    (folder / "m.coords").write_text(FILES["m.coords"])
    with pytest.raises(OptionError, match=r"m\.coords: has no scores, so --min-score cannot be used"):
        images(folder, folder / "m.coords", min_score=0.5)


def test_a_list_may_name_files_of_any_picker(folder: Path) -> None:
    (folder / "m_info.json").write_text(FILES["m_info.json"])
    (folder / "list.star").write_text(
        "data_coordinate_files\nloop_\n_rlnMicrographName #1\n_rlnMicrographCoordinates #2\nm.mrc m_info.json\n"
    )
    assert len(images(folder, folder / "list.star")) == len(CENTERS)
