"""RELION's External job without RELION: labels, the background's diameter, exit files, aborting and going on."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import gemmi
import pytest

from cryobox.cli.relion import job_labels
from cryobox.errors import OptionError
from cryobox.peers.relion import ABORT_NOW, read_arguments
from cryobox.simulate import make_dataset

FILES = ("--o", "External/job012/", "--in_mics", "micrographs.star", "--in_coords", "picks.star")
GIVEN = ["picks.star", "--micrographs", "micrographs.star", "--out", "External/job012/"]
EXITS = {f"RELION_JOB_EXIT_{how}" for how in ("SUCCESS", "FAILURE", "ABORTED")}


def words(text: str) -> list[str]:
    """What an External job with these labels says to `cryobox extract` beside its files."""
    found = read_arguments([*FILES, *text.split()], job_labels())
    assert found[:5] == GIVEN
    return found[5:]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("--box 256 --j 8", "--workers 8 --box 256"),
        ("--workers 3 --j 8", "--workers 3"),
        ("--ramp no", "--no-ramp"),
        ("--ramp Yes", ""),
        ("--no_ramp yes", "--no-ramp"),
        ("--no-ramp  --j 1", "--workers 1 --no-ramp"),
        ("--float16 yes", "--float16"),
        ("--float16 no", "--float32"),
        ("--dtype float16", "--float16"),
        ("--normalize 0", "--no-normalize"),
        ("--recenter no", "--no-recenter"),
        ("--tiff_flip no", "--tiff-no-flip"),
        ("--flip_y yes", "--flip-y"),
        ("--flip_y no", ""),
        ("--overwrite yes", "--overwrite"),
        ("--min_score -0.5", "--min-score -0.5"),
        ("--Min_Separation 120", "--min-separation 120"),
        ("--coordinate_scale 4", "--coord-scale 4"),
        ("--recenter_3d 10,-20,5", "--recenter-3d 10,-20,5"),
        ("--j 2 --box=64 --float16 --also 32:float16", "--workers 2 --box 64 --float16 --also 32:float16"),
        ("--pipeline_control External/job012/ --box 64", "--box 64"),
        ("--bg_diameter_angstrom 150", "--bg-diameter 150"),
        ("--report no", "--no-report"),
        ("--premultiply_ctf yes --ctf_box 320", "--premultiply-ctf --ctf-box 320"),
        ("--helix ends --helical_bimodal no --white_dust 5", "--helix ends --no-helical-bimodal --white-dust 5"),
    ],
)
def test_labels_are_the_options_of_extract(given: str, expected: str) -> None:
    assert words(given) == expected.split()


# Diameter, box and rescaled size of extraction jobs of RELION 3.1.3, and the --bg_radius in their commands.
@pytest.mark.parametrize(
    ("diameter", "box", "scaled", "radius"),
    [(31, 64, 36, 8), (25.5, 64, 36, 7), (55, 66, 36, 15), (49, 98, 64, 16), (75, 100, 100, 37)],
)
def test_the_diameter_of_the_background_is_in_pixels_of_the_micrograph_and_truncated_as_by_relion(
    diameter: float, box: int, scaled: int, radius: int
) -> None:
    found = words(f"--bg_diameter {diameter} --box {box} --fcrop {scaled}")
    assert found == ["--box", str(box), "--fcrop", str(scaled), "--bg-radius", str(radius)]
    if box == scaled:
        assert words(f"--box {box} --bg_diameter {diameter}")[-2:] == ["--bg-radius", str(radius)]


def test_a_negative_diameter_is_the_default() -> None:
    assert words("--box 64 --bg_diameter -1") == ["--box", "64"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("--boks 64", r"'boks' is no label of this job \(did you mean box\?\); labels are the options of cryobox ext"),
        ("--ramp maybe", "ramp: expected yes or no; got 'maybe'"),
        ("--dtype float64", "dtype: expected float16 or float32"),
        ("--box --j 1", "box: its value is missing"),
        ("--box 64 pixels", "'pixels' stands where a label is expected"),
        ("--in_movies m.star", "an extraction has no use for it; leave the field 'Input movies' empty"),
        ("--in_parts p.star", "of the fields .* one must be filled in; both are"),
        ("--bg_diameter 100", "bg_diameter is in pixels of the micrograph.* and needs box"),
        ("--bg_diameter 100 --diameter 180", "give bg_diameter_angstrom where these are chosen in Å"),
        ("--bg_diameter 100 --box 256 --target_pixel_size 3", "give bg_diameter_angstrom where these are chosen in Å"),
        ("--bg_diameter 100 --box 256 --angpix_out 3", "give bg_diameter_angstrom where these are chosen in Å"),
        ("--bg_diameter 100 --box 256 --from old/job.json", "and needs box .and fcrop. in pixels, too"),
        ("--bg_diameter wide --box 64", "bg_diameter must be a number of pixels; got 'wide'"),
        ("--bg_diameter 30 --box 64 --bg_radius 12", "give bg_diameter .* or bg_radius, not both"),
        ("--shard 1/2", "'shard' is no label of this job"),
        ("--tables cryosparc", "RELION needs tables of its own: give tables both"),
        ("--style cryosparc", "RELION needs tables of its own: give tables both"),
    ],
)
def test_what_a_job_cannot_mean_is_refused(given: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        words(given)


def test_particles_are_extracted_again_and_coordinates_or_particles_are_needed() -> None:
    found = read_arguments(["--o", "External/job012/", "--in_parts", "run_data.star"], job_labels())
    assert found == ["run_data.star", "--out", "External/job012/"]
    with pytest.raises(OptionError, match="'Input coordinates' and 'Input particles' one must be filled in; none is"):
        read_arguments(["--o", "External/job012/", "--in_mics", "m.star"], job_labels())


def test_picks_in_a_table_of_cryosparc_become_one_of_relion() -> None:
    given = ["--o", "External/job012/", "--in_coords", "J8/particles.csg", "--box", "64"]
    found = read_arguments(given, job_labels())
    assert found == ["J8/particles.csg", "--out", "External/job012/", "--box", "64", "--tables", "relion"]
    assert read_arguments([*given, "--tables", "both"], job_labels())[-2:] == ["--tables", "both"]


def test_no_two_options_have_a_label_in_common() -> None:
    """A field's name is a label, too: it must not be the flag of another option."""
    from cryobox.cli.extract import Devices
    from cryobox.declared import flags
    from cryobox.options import Recipe, RunOptions
    from cryobox.sizing import Sizing

    labels = job_labels()
    for group in (Sizing, Recipe, RunOptions, Devices):
        for name, flag in flags(group).items():
            option = next(text for text in flag.names if text.startswith("--")).partition("/")[0]
            meaning = labels[option[2:].replace("-", "_")]
            assert meaning.name == option or (option,) in meaning.words.values(), name


# Whole jobs ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    make_dataset(folder, micrographs=3, shape=(500, 600), picks=15)
    return folder


def relion_job(project: Path, number: int, *more: str) -> tuple[int, Path, str, str]:
    """Exit code, folder, run.out and run.err of a job as RELION calls it."""
    program = Path(sys.executable).with_name("cryobox-relion")
    name = f"External/job{number:03d}/"
    command: list[str | Path] = [program, "--o", name, "--in_mics", "micrographs.star", "--in_coords", "picks.star"]
    command += [*more, "--j", "1"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, project / name, done.stdout, done.stderr


def exits(folder: Path) -> set[str]:
    return {name for name in os.listdir(folder) if name in EXITS}


def test_a_job_leaves_its_end_and_its_outputs(project: Path) -> None:
    code, folder, out, err = relion_job(project, 1, "--box", "128", "--fcrop", "64", "--small", "32", "--report", "no")
    assert (code, err) == (0, "")  # progress is no error: RELION shows run.err in red
    assert exits(folder) == {"RELION_JOB_EXIT_SUCCESS"}
    assert (folder / "RELION_JOB_EXIT_SUCCESS").read_bytes() == b""
    block = gemmi.cif.read(str(folder / "RELION_OUTPUT_NODES.star")).find_block("output_nodes")
    tags = [f"_rlnPipeLineNode{tag}" for tag in ("Name", "Type", "TypeLabel", "TypeDepth")]
    assert [list(row) for row in block.find(tags)] == [
        ["External/job001/particles.star", "3", "ParticleGroupMetadata.star.relion", "1"],
        ["External/job001/particles_small.star", "3", "ParticleGroupMetadata.star.relion", "1"],
    ]
    assert "can be chosen as input of the next job" in out
    assert re.search(r"^\d\d:\d\d:\d\d 45 picks", out, re.MULTILINE)
    assert "@External/job001/stacks/sim_001_particles.mrcs" in (folder / "particles.star").read_text()


def test_the_bytes_are_those_of_extract(project: Path) -> None:
    _, folder, _, _ = relion_job(project, 2, "--box", "128", "--fcrop", "64", "--ramp", "no", "--bg_diameter", "90")
    asked = "picks.star -m micrographs.star -o again --box 128 --fcrop 64 --no-ramp --bg-radius 22 --no-report -q"
    subprocess.run([Path(sys.executable).with_name("cryobox"), "extract", *asked.split()], cwd=project, check=True)
    for stack in sorted((project / "again" / "stacks").iterdir()):
        assert (folder / "stacks" / stack.name).read_bytes() == stack.read_bytes()


def test_segments_are_told_from_particles(project: Path) -> None:
    picks = (project / "picks.star").read_text().splitlines()
    last = max(i for i, line in enumerate(picks) if line.startswith("_rln"))
    rows = [f"{line} 1" if line.strip() else line for line in picks[last + 1 :]]
    (project / "tubes.star").write_text("\n".join([*picks[: last + 1], "_rlnHelicalTubeID #6", *rows, ""]))
    _, folder, _, _ = relion_job(project, 3, "--box", "64", "--report", "no", "--in_coords", "tubes.star")
    assert "3 ParticleGroupMetadata.star.relion.helicalsegments 1" in (folder / "RELION_OUTPUT_NODES.star").read_text()


@pytest.mark.parametrize("wrong", [("--box", "63"), ("--box", "large"), ("--boks", "64"), ("--in_mics", "none.star")])
def test_a_job_that_is_refused_says_so_to_relion_and_to_the_user(project: Path, wrong: tuple[str, str]) -> None:
    code, folder, _, err = relion_job(project, 4, "--box", "64", *wrong)
    assert code == 2
    assert exits(folder) == {"RELION_JOB_EXIT_FAILURE"}
    assert wrong[1] in err or wrong[0][2:] in err
    assert not (folder / "RELION_OUTPUT_NODES.star").exists()


def test_an_aborted_job_stops_between_micrographs_and_goes_on_when_continued(project: Path) -> None:
    folder = project / "External" / "job005"
    folder.mkdir(parents=True)
    (folder / ABORT_NOW).touch()
    code, _, _, _ = relion_job(project, 5, "--box", "64", "--report", "no")
    assert code == 130
    assert exits(folder) == {"RELION_JOB_EXIT_ABORTED"}
    assert not (folder / "particles.star").exists()
    assert len(list((folder / "stacks").glob("*.mrcs"))) < 3
    (folder / ABORT_NOW).unlink()  # as RELION does when it continues a job
    code, _, _, _ = relion_job(project, 5, "--box", "64", "--report", "no")
    assert code == 0
    assert exits(folder) == {"RELION_JOB_EXIT_SUCCESS"}


def test_a_job_that_is_terminated_tells_relion(project: Path) -> None:
    """Whether it has begun to cut or not: RELION waits for one of three files."""
    program, folder = Path(sys.executable).with_name("cryobox-relion"), project / "External" / "job008"
    command: list[str | Path]
    command = [program, "--o", "External/job008/", "--in_mics", "micrographs.star", "--in_coords", "picks.star",
               "--box", "64", "--report", "no", "--j", "1"]  # fmt: skip
    process = subprocess.Popen(command, cwd=project, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not folder.is_dir():
        time.sleep(0.005)
    process.terminate()
    assert process.wait(60) == 130
    assert exits(folder) == {"RELION_JOB_EXIT_ABORTED"}


def test_a_finished_job_that_is_continued_has_nothing_left_to_do(project: Path) -> None:
    relion_job(project, 6, "--box", "64", "--report", "no")
    code, folder, out, _ = relion_job(project, 6, "--box", "64", "--report", "no")
    assert code == 0
    assert "resumed    3 micrographs were done before" in out
    assert exits(folder) == {"RELION_JOB_EXIT_SUCCESS"}
    code, folder, _, err = relion_job(project, 6, "--box", "128", "--report", "no")
    assert (code, exits(folder)) == (2, {"RELION_JOB_EXIT_FAILURE"})
    assert "box" in err


def test_particles_are_a_success_whatever_was_left_out(project: Path, tmp_path: Path) -> None:
    make_dataset(tmp_path, micrographs=2, shape=(400, 500), picks=8)
    image = tmp_path / "micrographs" / "sim_002.mrc"
    image.write_bytes(image.read_bytes()[:-1000])
    code, folder, out, err = relion_job(tmp_path, 1, "--box", "64", "--report", "no")
    assert code == 1
    assert exits(folder) == {"RELION_JOB_EXIT_SUCCESS"}
    assert "cryobox: warning: 1 micrograph was left out (micrographs/sim_002.mrc: header promises" in err
    assert "repair what micrographs_incomplete.star lists, then continue this job" in out


def test_nothing_extracted_is_a_failure(project: Path) -> None:
    code, folder, _, _ = relion_job(project, 7, "--box", "64", "--report", "no", "--edge_margin", "10000")
    assert code == 1
    assert exits(folder) == {"RELION_JOB_EXIT_FAILURE"}


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "External").write_text("a file")
    code, folder, _, err = relion_job(tmp_path, 1, "--box", "64")
    assert code == 2
    assert f"{os.path.relpath(folder, tmp_path)}: cannot be written: Not a directory" in err


def test_outside_of_relion_it_says_what_it_is(tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("cryobox-relion")
    shown = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    assert "RELION's job type External" in shown
    done = subprocess.run([program, "--box", "64"], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert "outside of RELION use cryobox extract" in done.stderr
    assert os.listdir(tmp_path) == []
