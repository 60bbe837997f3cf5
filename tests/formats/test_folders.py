"""Folders of picks as RELION, crYOLO and Gautomatch leave them: which files count, and which micrograph each is of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cryobox import formats
from cryobox.errors import InputError, OptionError
from cryobox.matching import match_names
from cryobox.micrograph import Micrographs
from cryobox.options import Recipe
from cryobox.particles import Particles
from cryobox.paths import Start

HEAD = "\n# version 50001\n\ndata_\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n"
BOX = "0 0 4 4\n"
MOVIES = ("MotionCorr/job002/Movies/a.mrc", "MotionCorr/job002/Movies/b.mrc")
DATASETS = ("MotionCorr/job002/Dataset1/001.mrc", "MotionCorr/job002/Dataset2/001.mrc")


def star(x: float) -> str:
    return f"{HEAD}{x} 20\n"


def micrographs(*names: str) -> Micrographs:
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


def fill(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def read(path: Path, *names: str, suffix: str | None = None, **options: Any) -> Particles:
    recipe = Recipe(box=64, coordinate_suffix=suffix, **options)
    return formats.read_particles(path, micrographs=micrographs(*names), recipe=recipe)


def by_micrograph(particles: Particles, *names: str) -> dict[str, list[float]]:
    """x of the picks of each micrograph that has some; "" for picks without one."""
    match, _ = match_names(particles.micrograph_names, names, picks_source="picks", micrographs_source="mics")
    found: dict[str, list[float]] = {}
    for x, m in zip(particles.x.tolist(), match[particles.micrograph].tolist(), strict=True):
        found.setdefault(names[m] if m >= 0 else "", []).append(x)
    return found


JOB = {
    "job.star": "data_job\n\n_rlnJobTypeLabel relion.autopick.log\n",
    "job_pipeline.star": "data_pipeline_general\n\n_rlnPipeLineJobCounter 5\n",
    "default_pipeline.star": "data_pipeline_general\n\n_rlnPipeLineJobCounter 5\n",
    "RELION_OUTPUT_NODES.star": "data_output_nodes\nloop_\n_rlnPipeLineNodeName #1\n_rlnPipeLineNodeType #2\na 1\n",
    "summary.star": "data_summary\nloop_\n_rlnMicrographName #1\n_rlnGroupNrParticles #2\nx 4\n",
    "micrographs_selected.star": "data_micrographs\nloop_\n_rlnMicrographName #1\nx.mrc\n",
    "note.txt": " ++++ Executing new job on Fri Nov 27\n",
    "run.out": "done",
    ".hidden_autopick.star": "rubbish",
}
PER_MICROGRAPH = {"Movies/a_autopick.star": star(1), "Movies/b_autopick.star": star(2)}
WANTED = {MOVIES[0]: [1], MOVIES[1]: [2]}


@pytest.mark.parametrize("suffix", [None, "_autopick", "_autopick.star"])
@pytest.mark.parametrize("more", [{}, JOB], ids=["alone", "with the job's other files"])
def test_a_relion_job_without_a_list_is_read_from_its_subfolders(
    tmp_path: Path, suffix: str | None, more: dict[str, str]
) -> None:
    job = fill(tmp_path / "AutoPick/job004", PER_MICROGRAPH | more)
    found = read(job, *MOVIES, suffix=suffix)
    assert by_micrograph(found, *MOVIES) == WANTED
    assert found.warnings == ()


@pytest.mark.parametrize("name", ["autopick", "manualpick", "anything"])
def test_the_list_of_a_relion_job_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    rows = "".join(f"{mic} AutoPick/job004/Movies/{Path(mic).stem}_autopick.star\n" for mic in MOVIES)
    head = "data_coordinate_files\nloop_\n_rlnMicrographName #1\n_rlnMicrographCoordinates #2\n"
    others = {"Movies/a_manualpick.star": star(9)}  # the list says which
    job = fill(tmp_path / "AutoPick/job004", PER_MICROGRAPH | JOB | others | {f"{name}.star": head + rows})
    found = read(job, *MOVIES)
    assert found.micrograph_names == MOVIES
    assert by_micrograph(found, *MOVIES) == WANTED
    with_root = formats.read_particles(
        job, micrographs=micrographs(*MOVIES), recipe=Recipe(box=64), start=Start.here(tmp_path)
    )
    assert with_root.micrograph_names == MOVIES
    moved = tmp_path / "elsewhere/deep/down/copy"
    fill(moved, PER_MICROGRAPH | {f"{name}.star": head + rows.replace("job004", "job999")})
    monkeypatch.chdir(moved)
    assert by_micrograph(read(moved, *MOVIES), *MOVIES) == WANTED  # its files are gone, those beside it are there


def test_relion_31_says_the_suffix_in_a_file_of_that_name(tmp_path: Path) -> None:
    files = PER_MICROGRAPH | JOB | {"coords_suffix_autopick.star": "CtfFind/job003/micrographs_ctf.star\n"}
    job = fill(tmp_path / "AutoPick/job004", files)
    for path in (job, job / "coords_suffix_autopick.star"):
        assert by_micrograph(read(path, *MOVIES), *MOVIES) == WANTED
    fill(job, {"Movies/a_manualpick.star": star(7), "coords_suffix_manualpick.star": "x.star"})
    assert by_micrograph(read(job / "coords_suffix_manualpick.star", *MOVIES), *MOVIES) == {MOVIES[0]: [7]}
    with pytest.raises(OptionError, match=r"says the suffix _manualpick\.star itself; leave out --coord-suffix _x"):
        read(job / "coords_suffix_manualpick.star", *MOVIES, suffix="_x")


def test_equal_names_in_two_subfolders_stay_apart(tmp_path: Path) -> None:
    job = fill(tmp_path / "j", {"Dataset1/001_autopick.star": star(1), "Dataset2/001_autopick.star": star(2)})
    assert by_micrograph(read(job, *DATASETS), *DATASETS) == {DATASETS[0]: [1], DATASETS[1]: [2]}
    # With one of the two micrographs, the picks of the other belong to none.
    assert by_micrograph(read(job, DATASETS[1]), DATASETS[1]) == {"": [1], DATASETS[1]: [2]}
    # One of the subfolders, and one file in it.
    for path in (job / "Dataset2", job / "Dataset2" / "001_autopick.star"):
        assert by_micrograph(read(path, *DATASETS), *DATASETS) == {DATASETS[1]: [2]}
    # The folder above the job.
    assert by_micrograph(read(tmp_path, *DATASETS), *DATASETS) == {DATASETS[0]: [1], DATASETS[1]: [2]}


def test_picks_of_micrographs_that_the_table_lacks_are_no_other_kind(tmp_path: Path) -> None:
    job = fill(tmp_path / "j", PER_MICROGRAPH | {"Movies/c_autopick.star": star(3)})
    assert by_micrograph(read(job, *MOVIES), *MOVIES) == {**WANTED, "": [3]}


def test_picks_of_unknown_micrographs_with_another_suffix_are_another_kind(tmp_path: Path) -> None:
    job = fill(tmp_path / "j", PER_MICROGRAPH | {"Movies/c_manualpick.star": star(3)})
    with pytest.raises(
        InputError, match=r"2 Movies/\*_autopick\.star, 1 Movies/\*\.star; say which with --coord-suffix _a"
    ):
        read(job, *MOVIES)
    assert by_micrograph(read(job, *MOVIES, suffix="_autopick"), *MOVIES) == WANTED


def test_a_suffix_of_relion_is_no_part_of_what_the_names_differ_by(tmp_path: Path) -> None:
    job = fill(tmp_path / "j", PER_MICROGRAPH)
    weighted = tuple(name.replace(".mrc", "_DW.mrc") for name in MOVIES)
    with pytest.raises(InputError, match=r"without '_DW' 2 of 2 would match: give --strip-suffix _DW"):
        by_micrograph(read(job, *weighted), *weighted)
    found = read(job, *weighted, strip_suffix="_DW")
    assert found.micrograph_names == ("Movies/a", "Movies/b")


GAUTOMATCH = {
    "a_automatch.star": star(1), "a_nonunique.star": star(2), "a_rejected.star": star(3),
    "b_automatch.star": star(4), "b_nonunique.star": star(5), "b_rejected.star": star(6),
}  # fmt: skip


def test_several_suffixes_are_refused_with_the_list_and_one_is_chosen(tmp_path: Path) -> None:
    folder = fill(tmp_path / "g", GAUTOMATCH)
    with pytest.raises(
        InputError,
        match=r"g: holds several kinds of picks: 2 \*_automatch\.star, 2 \*_nonunique\.star, 2 \*_rejected\.star; "
        r"say which with --coord-suffix _automatch\.star",
    ):
        read(folder, "a.mrc", "b.mrc")
    for suffix in ("_automatch", "_automatch.star"):
        found = read(folder, "a.mrc", "b.mrc", suffix=suffix)
        assert by_micrograph(found, "a.mrc", "b.mrc") == {"a.mrc": [1], "b.mrc": [4]}
        assert found.warnings == ()


def test_a_micrograph_that_has_only_another_kind_is_named(tmp_path: Path) -> None:
    folder = fill(tmp_path / "g", {name: text for name, text in GAUTOMATCH.items() if name != "b_automatch.star"})
    (warning,) = read(folder, "a.mrc", "b.mrc", suffix="_automatch").warnings
    assert "2 coordinate files of micrographs that have none ending with '_automatch' are left out" in warning


def test_two_formats_of_one_micrograph_are_refused_and_one_is_chosen(tmp_path: Path) -> None:
    folder = fill(tmp_path / "g", {"a.star": star(1), "a.box": BOX, "b.star": star(2), "b.box": BOX})
    with pytest.raises(InputError, match=r"2 \*\.box, 2 \*\.star; say which with --coord-suffix \.box"):
        read(folder, "a.mrc", "b.mrc")
    assert by_micrograph(read(folder, "a.mrc", "b.mrc", suffix=".star"), "a.mrc", "b.mrc") == {
        "a.mrc": [1],
        "b.mrc": [2],
    }


def test_picks_with_and_without_a_suffix_are_two_kinds(tmp_path: Path) -> None:
    folder = fill(tmp_path / "g", {"a.star": star(1), "a_old_pick.star": star(2), "a_pick.star": star(3)})
    with pytest.raises(InputError, match=r"1 \*\.star, 1 \*_old_pick\.star, 1 \*_pick\.star"):
        read(folder, "a.mrc")
    for suffix, x in ((".star", 1), ("_old_pick.star", 2), ("_pick.star", 3), ("_pick", 3)):
        assert by_micrograph(read(folder, "a.mrc", suffix=suffix), "a.mrc") == {"a.mrc": [x]}


def test_the_folders_of_cryolo_are_refused_with_the_one_to_give(tmp_path: Path) -> None:
    kinds = {"CBOX/a.cbox": "data_cryolo\n", "EMAN/a.box": BOX, "EMAN_START_END/a.box": BOX, "STAR/a.star": star(1)}
    folder = fill(tmp_path / "out", kinds)
    with pytest.raises(InputError, match=r"1 CBOX/\*\.cbox, 2 \*\.box, 1 STAR/\*\.star; "):
        read(folder, "a.mrc")
    folder = fill(tmp_path / "two", {"CBOX/a.cbox": "data_cryolo\n", "STAR/a.star": star(1)})
    with pytest.raises(
        InputError, match=r"1 CBOX/\*\.cbox, 1 STAR/\*\.star; give one of these folders, as .*two/CBOX$"
    ):
        read(folder, "a.mrc")
    assert by_micrograph(read(folder / "STAR", "a.mrc"), "a.mrc") == {"a.mrc": [1]}
    folder = fill(tmp_path / "boxes", {"EMAN/a.box": BOX, "EMAN/b.box": BOX, "EMAN_START_END/a.box": BOX})
    with pytest.raises(InputError, match=r"2 EMAN/\*\.box, 1 EMAN_START_END/\*\.box; give one of these folders, as "):
        read(folder, "M/a.mrc", "M/b.mrc")


def test_a_table_of_all_picks_beside_their_coordinate_files_is_refused(tmp_path: Path) -> None:
    table = "data_particles\nloop_\n_rlnMicrographName #1\n_rlnCoordinateX #2\n_rlnCoordinateY #3\n"
    rows = "".join(f"{name} 5 6\n" for name in MOVIES)
    job = fill(tmp_path / "Extract/job005", {"particles.star": table + rows, "Movies/a_extract.star": star(1)})
    with pytest.raises(
        InputError,
        match=r"1 particles\.star, 1 Movies/\*_extract\.star; give one of the files, as .*job005/particles\.star",
    ):
        read(job, *MOVIES)
    (job / "Movies" / "a_extract.star").unlink()
    assert by_micrograph(read(job, *MOVIES), *MOVIES) == {MOVIES[0]: [5], MOVIES[1]: [5]}


def test_two_lists_are_refused(tmp_path: Path) -> None:
    head = "data_coordinate_files\nloop_\n_rlnMicrographName #1\n_rlnMicrographCoordinates #2\n"
    job = fill(tmp_path / "job", {"autopick.star": head + "a b\n", "manualpick.star": head + "a b\n"})
    with pytest.raises(InputError, match=r"1 autopick\.star, 1 manualpick\.star; give one of the files"):
        read(job, *MOVIES)


def test_a_suffix_that_no_file_has_is_an_error(tmp_path: Path) -> None:
    job = fill(tmp_path / "job", PER_MICROGRAPH)
    for suffix in ("_manualpick", "_autopick.box"):
        with pytest.raises(
            InputError, match=rf"no coordinate file has a name that ends with '{suffix}'; got for example"
        ):
            read(job, *MOVIES, suffix=suffix)


def test_texts_that_hold_no_coordinates_are_named(tmp_path: Path) -> None:
    folder = fill(tmp_path / "p", {"a.txt": "1 2\n", "parameters.txt": "threshold = 0.3\n", "note.txt": "hello\n"})
    found = read(folder, "a.mrc")
    assert by_micrograph(found, "a.mrc") == {"a.mrc": [1]}
    assert found.warnings == (f"{folder}: no coordinates in parameters.txt; left out",)


def test_links_that_lead_back_do_no_harm(tmp_path: Path) -> None:
    job = fill(tmp_path / "job", PER_MICROGRAPH)
    (job / "Movies" / "again").symlink_to(job)
    assert by_micrograph(read(job, *MOVIES), *MOVIES) == WANTED


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.star", "data_particles\nloop_\n_rlnMicrographName #1\n_rlnCoordinateX #2\n_rlnCoordinateY #3\na.mrc 1 2\n"),
        ("p.csv", "image_name,x,y\na,1,2\nb,1,2\n"),
    ],
)
def test_a_suffix_for_a_table_is_refused(tmp_path: Path, name: str, text: str) -> None:
    path = fill(tmp_path, {name: text}) / name
    with pytest.raises(
        OptionError, match=rf"{name}: says itself .* so --coord-suffix _bogus cannot apply; leave it out"
    ):
        read(path, "a.mrc", "b.mrc", suffix="_bogus")


def test_coordinate_files_may_be_named_one_by_one(tmp_path: Path) -> None:
    job = fill(tmp_path / "j", {"Dataset1/001_autopick.star": star(1), "Dataset2/001_autopick.star": star(2)})
    paths = [job / "Dataset1/001_autopick.star", job / "Dataset2/001_autopick.star"]
    (found,) = formats.read_several(paths, micrographs=micrographs(*DATASETS), recipe=Recipe(box=64))
    assert by_micrograph(found, *DATASETS) == {DATASETS[0]: [1], DATASETS[1]: [2]}


def test_kinds_that_a_pattern_of_the_shell_mixes_are_refused(tmp_path: Path) -> None:
    folder = fill(tmp_path / "g", {"a.star": star(1), "a_old.star": star(2)})
    with pytest.raises(
        InputError, match=r"are several kinds of picks: 1 \*\.star, 1 \*_old\.star; name the files of one"
    ):
        formats.read_several(sorted(folder.iterdir()), micrographs=micrographs("a.mrc"), recipe=Recipe(box=64))
    with pytest.raises(InputError, match=r"a\.star does not end with '_old'; name the files of one kind"):
        formats.read_several(
            sorted(folder.iterdir()), micrographs=micrographs("a.mrc"), recipe=Recipe(box=64, coordinate_suffix="_old")
        )


def named(*rows: str) -> str:
    """A STAR table of picks whose rows name their micrographs."""
    return f"{HEAD}_rlnMicrographName #3\n" + "".join(f"5 20 {row}\n" for row in rows)


@pytest.mark.parametrize(
    ("name", "text"), [("a_autopick.star", named("M/b.mrc")), ("a.txt", "image_name\tx_coord\ty_coord\nb\t5\t20\n")]
)
def test_a_file_whose_rows_name_another_micrograph_than_its_name_is_refused(
    tmp_path: Path, name: str, text: str
) -> None:
    folder = fill(tmp_path / "p", {name: text})
    with pytest.raises(InputError, match=rf"{name}: its rows name the micrograph .*b.*, but .* it belongs to a;"):
        read(folder, "M/a.mrc", "M/b.mrc")
    listed = fill(
        tmp_path,
        {
            "other.star": star(1),
            "list.star": "data_\nloop_\n_rlnMicrographName\n_rlnMicrographCoordinates\n"
            f"M/a.mrc {folder / name}\nM/b.mrc {tmp_path / 'other.star'}\n",
        },
    )
    with pytest.raises(InputError, match=rf"{name}: its rows name .* it belongs to M/a\.mrc"):
        read(listed / "list.star", "M/a.mrc", "M/b.mrc")


def test_rows_may_name_their_micrograph_in_another_spelling(tmp_path: Path) -> None:
    uid = f"{7:021d}_"
    folder = fill(tmp_path, {"a.star": named("Warp/a.tif"), "b.star": named(f"J1/{uid}b.mrc")})
    assert len(read(folder, "M/a.mrc", "M/b.mrc")) == 2
    folder = fill(tmp_path / "d", {"denoised_a.star": named("M/a.mrc"), "denoised_b.star": named("M/b.mrc")})
    assert len(read(folder, "M/a.mrc", "M/b.mrc", strip_prefix="denoised_")) == 2


@pytest.mark.parametrize(
    ("name", "text"),
    [("particles.star", named("M/a.mrc", "M/a.mrc")), ("all.txt", "image_name\tx_coord\ty_coord\na\t5\t20\na\t6\t7\n")],
)
def test_a_table_of_one_micrograph_is_a_table_in_a_folder_too(tmp_path: Path, name: str, text: str) -> None:
    found = read(fill(tmp_path, {name: text}), *MOVIES)
    assert {name: len(x) for name, x in by_micrograph(found, *MOVIES).items()} == {MOVIES[0]: 2}


def test_a_link_to_nowhere_is_told_as_that(tmp_path: Path) -> None:
    fill(tmp_path, {"a_autopick.star": star(1)})
    (tmp_path / "b_autopick.star").symlink_to("gone.star")
    with pytest.raises(InputError, match=r"b_autopick\.star: is a link to gone\.star, which does not exist"):
        read(tmp_path, *MOVIES)
