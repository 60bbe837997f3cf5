"""Which block of a STAR file holds picks: by what it is, never because it has coordinates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cryobox import formats
from cryobox.errors import InputError
from cryobox.formats import star
from cryobox.formats.csv import read_coordinates
from cryobox.options import Recipe
from cryobox.paths import Start
from star_tables import write

XY = "loop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n"
PICKS = XY + "10 20\n30 40\n"
GENERAL = "data_general\n\n_rlnImageSizeX 3710\n_rlnMicrographMovieName Movies/a.tiff\n_rlnMicrographBinning 1.0\n\n"
GLOBAL = "data_global_shift\n\nloop_\n_rlnMicrographFrameNumber\n_rlnMicrographShiftX\n_rlnMicrographShiftY\n1 0 0\n\n"
MODEL = "data_local_motion_model\n\nloop_\n_rlnMotionModelCoeffsIdx\n_rlnMotionModelCoeff\n0 0.5\n\n"
HOT = f"data_hot_pixels\n\n{PICKS}\n"
LOCAL = (
    "data_local_shift\n\nloop_\n_rlnMicrographFrameNumber\n_rlnCoordinateX\n_rlnCoordinateY\n_rlnMicrographShiftX\n"
    "_rlnMicrographShiftY\n1 370 382 0.6 0.1\n2 370 382 1.9 0.4\n\n"
)
MOTION = "motion-correction metadata"
MICROGRAPHS = "a table of micrographs: give it with --micrographs"

OTHER_FILES = {
    "motion correction": (GENERAL + GLOBAL + HOT + LOCAL, MOTION),
    "without hot pixels": (GENERAL + GLOBAL + LOCAL, MOTION),
    "with a model": (GENERAL + GLOBAL + MODEL + HOT, MOTION),
    "in another order": (HOT + LOCAL + MODEL + GLOBAL + GENERAL, MOTION),
    "only hot pixels": (HOT, MOTION),
    "no hot pixels found": (GENERAL + GLOBAL + "data_hot_pixels\n\n" + XY, MOTION),
    "an empty block first": ("data_\n\n" + GENERAL + GLOBAL + HOT, MOTION),
    "patches in a block without a name": (LOCAL.replace("data_local_shift", "data_"), MOTION),
    "hot pixels beside something unknown": (f"data_detector\n\n_rlnThing 5\n\ndata_bad\n\n{PICKS}", "data_bad"),
    "micrographs": (
        "data_optics\n\nloop_\n_rlnOpticsGroup\n1\n\ndata_micrographs\n\nloop_\n_rlnMicrographName\nM/a.mrc\n",
        MICROGRAPHS,
    ),
    "micrographs of 3.0": ("data_\n\nloop_\n_rlnMicrographName\n_rlnDefocusU\nM/a.mrc 10000\n", MICROGRAPHS),
    "movies": ("data_movies\n\nloop_\n_rlnMicrographMovieName\nM/a.tiff\n", MICROGRAPHS),
    "job.star": (
        "data_job\n\n_rlnJobTypeLabel relion.autopick\n\ndata_joboptions_values\n\nloop_\n_a\n_b\n1 2\n",
        "settings",
    ),
    "pipeline": ("data_pipeline_general\n\n_rlnPipeLineJobCounter 5\n", "list of the jobs"),
    "output nodes": ("data_output_nodes\n\nloop_\n_rlnPipeLineNodeName\na.star\n", "what a job has made"),
    "model.star": (
        "data_model_general\n\n_rlnPixelSize 2\n\ndata_model_classes\n\nloop_\n_rlnReferenceImage\n1@a.mrcs\n",
        "_data.star",
    ),
    "optimiser.star": ("data_optimiser_general\n\n_rlnOutputRootName Class2D/job005/run\n", "_data.star"),
    "post-processing": (
        "data_general\n\n_rlnFinalResolution 3\n\ndata_fsc\n\nloop_\n_rlnResolution\n0.1\n",
        "post-proc",
    ),
    "class averages": ("data_\n\nloop_\n_rlnReferenceImage\n_rlnClassDistribution\n1@c.mrcs 0.5\n", "class averages"),
    "particles without coordinates": ("data_particles\n\nloop_\n_rlnImageName\n1@a.mrcs\n", "without coordinates"),
    "particles of RELION 5's tomograms": (
        "data_particles\n\nloop_\n_rlnTomoName\n_rlnCenteredCoordinateXAngst\nTS_1 5\n",
        "tomograms",
    ),
    "CBOX": (
        "data_global\n\n_cbox_format_version 1.0\n\ndata_cryolo\n\nloop_\n_CoordinateX\n_CoordinateY\n1 2\n",
        r"\.cbox",
    ),
    "cisTEM": ("data_\n\nloop_\n_cisTEMPositionInStack\n1\n", "cisTEM"),
    "optics alone": ("data_optics\n\nloop_\n_rlnOpticsGroup\n1\n", r"data_optics \(_rlnOpticsGroup\)"),
    "header of another table": ("data_other\n\nloop_\n_rlnThing\n", r"data_other \(_rlnThing\)"),
}


@pytest.mark.parametrize("kind", OTHER_FILES)
def test_other_star_files_of_a_project_are_no_picks_and_the_message_says_what_they_are(
    tmp_path: Path, kind: str
) -> None:
    text, message = OTHER_FILES[kind]
    path = write(tmp_path / "mic.star", text)
    for read in (star.read_particles, star.read_coordinates, formats.read_coordinate_file):
        with pytest.raises(InputError, match=rf"mic\.star: no block of picks \(.*; blocks found: .*{message}"):
            read(path)
    (tmp_path / "list.star").write_text(
        "data_coordinate_files\n\nloop_\n_rlnMicrographName\n_rlnMicrographCoordinates\nM/mic.mrc mic.star\n"
    )
    with pytest.raises(InputError, match=rf"mic\.star: no block of picks .*{message}"):
        star.read_particles(tmp_path / "list.star", start=Start.here(tmp_path))
    (tmp_path / "list.star").unlink()
    with pytest.raises(InputError, match=rf"mic\.star: no block of picks .*{message}"):
        formats.read_particles(tmp_path, recipe=Recipe(box=64))


@pytest.mark.parametrize(
    "text",
    [
        f"data_\n\n{PICKS}",
        f"data_images\n\n{PICKS}",
        f"data_coordinates\n\n{PICKS}",
        f"data_particles\n\n{PICKS}",
        f"data_picked_by_hand\n\n{PICKS}",
        f"data_optics\n\nloop_\n_rlnOpticsGroup\n1\n\ndata_picked_by_hand\n\n{PICKS}",
        f"data_global\n\n_version 1.0\n\ndata_\n\n{PICKS}",
        f"{GENERAL}data_particles\n\n{PICKS}",
        f"{GLOBAL}{HOT}{LOCAL}data_particles\n\n{PICKS}",
        f"data_particles\n\n{PICKS}\n{HOT}",
        f"data_micrographs\n\nloop_\n_rlnMicrographName\nM/a.mrc\n\ndata_particles\n\n{PICKS}",
        f"data_particles\n\ndata_coordinates\n\n{PICKS}",
        f"data_particles\n\n{XY}\ndata_\n\n{PICKS}",
        f"data_optics\n\ndata_\n\n{PICKS}",
        f"data_strange\n\nthis is no table\n\ndata_particles\n\n{PICKS}",
    ],
)
def test_the_block_of_picks_is_found_by_what_it_is(tmp_path: Path, text: str) -> None:
    path = write(tmp_path / "mic.star", text)
    assert star.read_particles(path).x.tolist() == [10, 30]
    assert star.read_coordinates(path)[0].tolist() == [20, 40]


@pytest.mark.parametrize("names", [("particles", "coordinates"), ("", "images"), ("a", "b"), ("particles", "mine")])
def test_several_blocks_of_picks_are_refused_by_name(tmp_path: Path, names: tuple[str, str]) -> None:
    path = write(tmp_path / "mic.star", "\n".join(f"data_{name}\n\n{PICKS}" for name in names))
    with pytest.raises(
        InputError, match=rf"2 blocks hold picks: data_{names[0]} \(2 rows\), data_{names[1]} \(2 rows\); expected one"
    ):
        star.read_particles(path)


def test_an_empty_block_of_particles_is_not_carried_beside_the_full_one(tmp_path: Path) -> None:
    found = star.read_particles(write(tmp_path / "p.star", f"data_particles\n\ndata_more\n\n_a 1\n\ndata_\n\n{PICKS}"))
    assert found.table.others == (b"data_more\n\n_a 1\n",)


@pytest.mark.parametrize(
    "text",
    ["", " \n\n\t\r\n", "# version 30001\n\n", "data_\n", "data_\n\nloop_\n", f"data_\n\n{XY}", "data_particles\n\n",
     f"data_optics\n\nloop_\n_rlnOpticsGroup\n1\n\ndata_particles\n\n{XY}", "data_optics\n\ndata_particles\n",
     f"data_optics\n\ndata_particles\n\n{XY}_rlnOpticsGroup\n", f"data_mine\n\n{XY}", "\ufeff", "\r",
     "data_coordinate_files\n\nloop_\n_rlnMicrographName\n_rlnMicrographCoordinates\n"],
)  # fmt: skip
def test_a_star_file_without_picks_is_read_as_none(tmp_path: Path, text: str) -> None:
    path = write(tmp_path / "none.star", text)
    assert len(star.read_particles(path)) == 0
    if "coordinate_files" not in text:
        assert len(star.read_coordinates(path)[0]) == 0


def test_files_without_picks_change_nothing_of_the_others(tmp_path: Path) -> None:
    for name, text in {
        "a": f"data_\n\n{XY}_rlnClassNumber\n1 2 3\n", "b": "", "c": "data_\n", "d": f"data_\n\n{XY}_rlnExtra\n",
    }.items():  # fmt: skip
        write(tmp_path / f"{name}.star", text)
    write(tmp_path / "e.box", "")
    rows = "".join(f"M/{path.stem}.mrc {path.name}\n" for path in sorted(tmp_path.iterdir()))
    head = "data_coordinate_files\n\nloop_\n_rlnMicrographName\n_rlnMicrographCoordinates\n"
    found = star.read_particles(write(tmp_path / "list.star", head + rows), start=Start.here(tmp_path))
    assert (found.family, found.x.tolist(), len(found.micrograph_names)) == ("star", [1], 5)
    assert found.table.table.tags == ("_rlnCoordinateX", "_rlnCoordinateY", "_rlnClassNumber")
    (warning,) = found.warnings
    assert "2 of 5 coordinate files hold 0 bytes" in warning
    assert "b.star" in warning
    assert "e.box" in warning


@pytest.mark.parametrize(
    ("depths", "refused"),
    [
        (("1", "2"), True),
        (("0", "0"), False),
        (("7.5", "7.5"), False),
        (("<NA>", "nan"), False),
        (("<NA>", "3"), False),
    ],
)
def test_picks_at_several_depths_are_those_of_tomograms(tmp_path: Path, depths: tuple[str, str], refused: bool) -> None:
    one, two = depths
    path = write(tmp_path / "p.star", f"data_particles\n\n{XY}_rlnCoordinateZ\n1 2 {one}\n3 4 {two}\n")
    if not refused:
        assert len(star.read_particles(path)) == 2
        return
    for read in (star.read_particles, star.read_coordinates):
        with pytest.raises(
            InputError, match=r"p\.star: _rlnCoordinateZ goes from 1 to 2: these are picks in tomograms"
        ):
            read(path)


def test_depths_that_differ_between_files_are_those_of_tomograms_too(tmp_path: Path) -> None:
    for name, depth in (("a", 5), ("b", 6)):
        write(tmp_path / f"{name}.star", f"data_\n\n{XY}_rlnCoordinateZ\n1 2 {depth}\n")
    with pytest.raises(InputError, match="_rlnCoordinateZ goes from 5 to 6: these are picks in tomograms"):
        formats.read_particles(tmp_path, recipe=Recipe(box=64))


def test_a_text_table_with_depths_is_refused_alike(tmp_path: Path) -> None:
    assert len(read_coordinates(write(tmp_path / "flat.csv", "x,y,z\n1,2,0\n3,4,0\n"))[0]) == 2
    with pytest.raises(InputError, match=r"deep\.csv: z goes from 0 to 9: these are picks in tomograms"):
        read_coordinates(write(tmp_path / "deep.csv", "x,y,z\n1,2,0\n3,4,9\n"))


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        (["_rlnOriginXAngst"], "has _rlnOriginXAngst without _rlnOriginYAngst; expected both or none"),
        (["_rlnOriginYAngst"], "has _rlnOriginYAngst without _rlnOriginXAngst"),
        (["_rlnOriginX"], "has _rlnOriginX without _rlnOriginY"),
        (["_rlnOriginXAngst", "_rlnOriginX", "_rlnOriginY"], "has _rlnOriginXAngst without _rlnOriginYAngst"),
    ],
)
def test_half_an_origin_is_an_error(tmp_path: Path, tags: list[str], message: str) -> None:
    text = f"data_particles\n\n{XY}" + "".join(f"{tag}\n" for tag in tags) + "1 2" + " 3.5" * len(tags) + "\n"
    path = write(tmp_path / "p.star", text)
    for read in (star.read_particles, star.read_coordinates):
        with pytest.raises(InputError, match=message):
            read(path)


@pytest.mark.parametrize("axis", "XY")
def test_half_a_coordinate_is_an_error(tmp_path: Path, axis: str) -> None:
    other = "Y" if axis == "X" else "X"
    path = write(tmp_path / "p.star", f"data_\n\nloop_\n_rlnCoordinate{axis}\n5\n")
    with pytest.raises(InputError, match=f"has no column _rlnCoordinate{other}; columns present: _rlnCoordinate{axis}"):
        star.read_particles(path)


def test_relions_mark_for_no_score_is_no_score_and_stays_in_the_table(tmp_path: Path) -> None:
    path = write(tmp_path / "p.star", f"data_\n\n{XY}_rlnAutopickFigureOfMerit\n1 2 0.5\n3 4 -999.000000\n5 6 -99\n")
    found = star.read_particles(path)
    assert found.score is not None
    np.testing.assert_array_equal(found.score, [0.5, np.nan, -99])
    assert found.table.table.texts("_rlnAutopickFigureOfMerit")[1] == "-999.000000"


def test_a_table_of_many_micrographs_is_not_the_coordinate_file_of_one(tmp_path: Path) -> None:
    path = write(tmp_path / "a.star", f"data_particles\n\n{XY}_rlnMicrographName\n1 2 M/a.mrc\n3 4 M/b.mrc\n")
    with pytest.raises(InputError, match=r"a\.star: has picks of 2 images \(M/a\.mrc, \.\.\.\), expected those of one"):
        formats.read_coordinate_file(path)


def test_ends_of_filaments_are_known_by_cryolos_folder(tmp_path: Path) -> None:
    (tmp_path / "STAR_START_END").mkdir()
    path = write(tmp_path / "STAR_START_END" / "mic.star", f"data_\n\n{PICKS}")
    with pytest.raises(InputError, match="STAR_START_END, in which crYOLO puts the two ends of each filament"):
        star.read_particles(path)
