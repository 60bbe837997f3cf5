"""Which format a path is in, and what a user may name as picks and as micrographs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cryobox import formats
from cryobox.errors import InputError, OptionError
from cryobox.formats import cs, star_output
from cryobox.micrograph import Micrographs
from cryobox.options import Recipe
from cryobox.paths import Start

RECIPE = Recipe(box=64)
STAR = "data_\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n"


def named(*names: str) -> Micrographs:
    n = len(names)
    return Micrographs(
        family="plain",
        source="mics",
        names=names,
        paths=names,
        pixel_size=np.full(n, np.nan),
        shape=np.zeros((n, 2), np.int64),
        optics_index=np.full(n, -1, np.intp),
        ctf={},
    )


def fill(folder: Path, **files: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


@pytest.mark.real
def test_three_forms_of_the_same_picks_give_the_same_centers(real_data: Path) -> None:
    mics = formats.read_micrographs(real_data / "picks/fei-extended_micrographs.star")
    names = ("fei-extended.star", "fei-extended.box", "fei-extended_topaz.txt")
    one, *others = (
        formats.read_particles(real_data / "picks" / name, micrographs=mics, recipe=RECIPE) for name in names
    )
    assert len(one) == 176
    for other in others:
        np.testing.assert_array_equal(other.y, one.y)
        np.testing.assert_array_equal(other.x, one.x)
        assert other.micrograph_names == ("fei-extended",)


@pytest.mark.real
def test_real_autopicks_find_their_micrograph_by_the_suffix(real_data: Path) -> None:
    mics = formats.read_micrographs(real_data / "micrographs")
    assert "Ucsf_stack_1142_DW.mrc" in {Path(name).name for name in mics.names}
    picks = formats.read_particles(
        real_data / "picks/Ucsf_stack_1142_DW_autopick.star", micrographs=mics, recipe=RECIPE
    )
    assert picks.micrograph_names == ("Ucsf_stack_1142_DW",)
    assert picks.warnings == ()  # RELION's own suffix


def test_a_folder_of_star_files_is_one_set_of_picks(tmp_path: Path) -> None:
    folder = fill(tmp_path / "picks", b_pick__star=STAR + "5 6\n", a_pick__star=STAR + "1 2\n3 4\n", c_pick__star=STAR)
    found = formats.read_particles(folder, micrographs=named("M/a.mrc", "M/b.mrc"), recipe=RECIPE)
    assert found.micrograph_names == ("a", "b", "c")
    assert found.micrograph.tolist() == [0, 0, 1]
    assert (found.x.tolist(), found.y.tolist()) == ([1, 3, 5], [2, 4, 6])
    assert found.family == "star"
    assert found.warnings == (
        f"{folder}: '_pick' taken off the names of the coordinate files to find their micrographs",
    )


def test_cryosparc_uid_prefixes_are_no_part_of_the_suffix(tmp_path: Path) -> None:
    folder = fill(tmp_path / "picks", mic_1_pick__box="0 0 4 4\n")
    found = formats.read_particles(folder, micrographs=named("J2/000369849852442012922_mic_1.mrc"), recipe=RECIPE)
    assert found.micrograph_names == ("mic_1",)


@pytest.mark.parametrize(
    ("kind", "text"),
    [("box", "0 0 4 4\n"), ("csv", "x,y\n2,2\n"), ("txt", "2 2\n"), ("tsv", "image_name\tx\ty\nmic\t2\t2\n")],
)
def test_folders_may_hold_any_coordinate_type(tmp_path: Path, kind: str, text: str) -> None:
    folder = fill(tmp_path / "picks")
    (folder / f"a.{kind}").write_text(text)
    (folder / f"b.{kind}").write_text(text)
    (folder / "notes.md").write_text("not picks")
    found = formats.read_particles(folder, micrographs=named("a.mrc", "b.mrc"), recipe=RECIPE)
    assert (found.family, found.micrograph_names) == ("plain", ("a", "b"))
    assert found.y.tolist() == [2.0, 2.0]


def test_the_users_suffix_is_taken_off(tmp_path: Path) -> None:
    folder = fill(tmp_path / "picks", a_x_y__box="0 0 4 4\n")
    recipe = Recipe(box=64, coordinate_suffix="_x_y")
    found = formats.read_particles(folder, micrographs=named("a.mrc", "a_x.mrc"), recipe=recipe)
    assert found.micrograph_names == ("a",)
    assert found.warnings == ()


def test_folders_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"empty: holds no coordinate files; expected \.star, \.box"):
        formats.read_particles(fill(tmp_path / "empty"), recipe=RECIPE)
    mixed = fill(tmp_path / "mixed", a__box="", b__txt="")
    with pytest.raises(InputError, match=r"mixed: holds several kinds of picks: 1 \*\.box, 1 \*\.txt; say which with"):
        formats.read_particles(mixed, recipe=RECIPE)
    both = fill(tmp_path / "both", a__star=STAR, a__STAR=STAR)
    with pytest.raises(InputError, match=r"both: a\.STAR and a\.star both belong to a; expected one of them"):
        formats.read_particles(both, recipe=RECIPE)


def test_a_wrong_name_is_an_error_with_the_nearest_one(tmp_path: Path) -> None:
    fill(tmp_path, picks__star=STAR)
    with pytest.raises(InputError, match=r"pick\.star: no such file of picks; did you mean .*picks\.star\?"):
        formats.read_particles(tmp_path / "pick.star", recipe=RECIPE)
    with pytest.raises(InputError, match=r"nowhere: no such file or folder of micrographs"):
        formats.read_micrographs(tmp_path / "nowhere")
    (tmp_path / "picks.xml").write_text("")
    with pytest.raises(InputError, match=r"picks\.xml: not a known type of picks; expected \.star, \.cs, \.csg, \.box"):
        formats.read_particles(tmp_path / "picks.xml", recipe=RECIPE)


def test_a_folder_of_micrographs_is_sorted_and_without_stacks(tmp_path: Path) -> None:
    folder = fill(tmp_path / "mics", b__mrc="", a__tiff="", c__mrcs="", d__mrc__gz="", e__txt="", f__MAP="")
    found = formats.read_micrographs(folder)
    assert [Path(path).name for path in found.paths] == ["a.tiff", "b.mrc", "d.mrc.gz", "f.MAP"]
    assert found.names == found.paths
    assert found.family == "plain"
    assert np.isnan(found.pixel_size).all()


def test_a_glob_goes_into_folders(tmp_path: Path) -> None:
    fill(tmp_path / "one", a__mrc="", x__txt="")
    fill(tmp_path / "one" / "two", b__mrc="")
    found = formats.read_micrographs(str(tmp_path / "**" / "*.mrc"), start=Start.here(tmp_path))
    assert found.names == ("one/a.mrc", "one/two/b.mrc")
    assert found.paths == (str(tmp_path / "one/a.mrc"), str(tmp_path / "one/two/b.mrc"))
    with pytest.raises(InputError, match=r"holds no micrographs; expected files that end with \.mrc"):
        formats.read_micrographs(str(tmp_path / "*.mrc"))


def test_one_image_may_be_the_micrographs(tmp_path: Path) -> None:
    fill(tmp_path, a__mrcs="", b__txt="")
    assert formats.read_micrographs(tmp_path / "a.mrcs").names == (str(tmp_path / "a.mrcs"),)
    with pytest.raises(InputError, match=r"b\.txt: not a table or image; expected \.star"):
        formats.read_micrographs(tmp_path / "b.txt")


@pytest.mark.real
def test_cs_and_csg_go_to_their_module(real_data: Path) -> None:
    project = real_data / "cryosparc_project"
    mics = formats.read_micrographs(project / "J3/J3_exposures.csg", start=Start.here(project))
    picks = formats.read_particles(
        project / "J4/J4_particles.csg", micrographs=mics, recipe=RECIPE, start=Start.here(project)
    )
    assert (mics.family, picks.family) == ("cs", "cs")


def test_each_family_has_its_writer() -> None:
    assert formats.table_writer("star") is star_output
    assert formats.table_writer("cs") is cs
    with pytest.raises(OptionError, match="tables are written as star or cs; got 'xml'"):
        formats.table_writer("xml")
