"""Segments of helices beside RELION's own: the golden cases of 5.0.1, files of other kinds with the installed one."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest
from numpy.typing import NDArray

import cryobox
from cryobox.comparison import compare_particles
from cryobox.comparison.missing import FRACTION
from star_tables import columns

TAGS = ("CoordinateX", "CoordinateY", "HelicalTubeID", "HelicalTrackLengthAngst", "AngleTiltPrior", "AnglePsiPrior",
        "AnglePsiFlipRatio")  # fmt: skip
# RELION writes six digits of a number and, in numbers below -10 and their like, five behind the point: psi differs by
# the last of them (measured: 5e-6 degrees); all else is equal as written.
ALLOWED = np.array([1e-6, 1e-6, 0, 1e-6, 0, 6e-6, 0])

ENDS: dict[str, Any] = {"helix": "ends", "helical_rise": 4.75}
CASES: dict[str, tuple[str, int, dict[str, Any]]] = {
    "helix_cut": ("list_tubes.star", 24, ENDS | {"helical_nr_asu": 8, "helical_bimodal": True}),
    "helix_cut_unimodal": ("list_tubes.star", 32, ENDS | {"helical_nr_asu": 24, "helical_bimodal": False}),
    "helix_scale": ("list_tubes.star", 64, ENDS | {"helical_nr_asu": 24, "helical_bimodal": False}),
    "helix_uncut": ("list_tubes.star", 32, {"helix": "whole"}),
    "helix_segments": ("list_segments.star", 64, {"helix": "segments"}),
    "helix_dust": ("list_segments.star", 32, {"helix": "segments", "helical_bimodal": False}),
    "helix_reextract": ("../helix_cut_unimodal/particles.star", 16, {"helix": "segments"}),
}


def said(table: Path) -> NDArray[np.float64]:
    found = columns(table)
    rows = np.array([list(map(float, found[f"_rln{tag}"])) for tag in TAGS]).T
    return rows[np.lexsort((rows[:, 3], rows[:, 2]))]


def extract(picks: str, box: int, asked: dict[str, Any]) -> Path:
    cryobox.run(
        picks,
        micrographs="inputs/micrographs_ctf.star",
        out="out",
        recipe=cryobox.Recipe(box=box, **{"normalize": False, "invert": False} | asked),
        options=cryobox.RunOptions(fsync=False),
    )
    return Path("out/particles.star")


def angle_apart(one: NDArray[np.float64], two: NDArray[np.float64]) -> NDArray[np.float64]:
    """Differences of columns as in `TAGS`; 180 and -180 degrees are one."""
    difference = np.abs(one - two)
    difference[:, 5] = np.minimum(difference[:, 5], 360 - difference[:, 5])
    return difference


@pytest.fixture
def place(real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(real_data / "relion5/inputs", tmp_path / "inputs")
    (tmp_path / "helix_cut_unimodal").mkdir()
    shutil.copy(real_data / "relion5/helix_cut_unimodal/particles.star", tmp_path / "helix_cut_unimodal")
    (tmp_path / "inputs").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.real
@pytest.mark.parametrize("case", CASES)
def test_segments_are_those_of_relion_5(real_data: Path, place: Path, case: str) -> None:
    picks, box, asked = CASES[case]
    ours, theirs = said(extract(f"inputs/{picks}", box, asked)), said(real_data / f"relion5/{case}/particles.star")
    assert len(ours) == len(theirs)
    assert (angle_apart(ours, theirs).max(axis=0) <= ALLOWED).all()


@pytest.mark.real
def test_images_of_segments_are_those_of_relion_5(real_data: Path, place: Path) -> None:
    """The case without normalization: the boxes are cut at the same pixels, whatever stands behind the point."""
    picks, box, asked = CASES["helix_cut_unimodal"]
    extract(f"inputs/{picks}", box, asked)
    theirs = np.fromfile(real_data / "relion5/helix_cut_unimodal/inputs/gold.mrcs", np.float32, offset=1024)
    ours = np.fromfile(next(Path("out/stacks").iterdir()), np.float32, offset=1024)
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.real
@pytest.mark.parametrize(
    ("case", "diameter"),
    [("helix_cut", 30.0), ("helix_uncut", 30.0), ("helix_segments", 30.0), ("helix_reextract", 20.0)],
)
def test_normalized_segments_are_those_of_relion_5(real_data: Path, place: Path, case: str, diameter: float) -> None:
    """The whole way: segments, their directions, and the background that lies outside the tube along these."""
    picks, box, asked = CASES[case]
    pad = {"edges": "pad"} if case == "helix_uncut" else {}
    extract(f"inputs/{picks}", box, asked | pad | {"normalize": True, "helical_outer_diameter_angstrom": diameter})
    theirs = np.fromfile(real_data / f"relion5/{case}/inputs/gold.mrcs", np.float32, offset=1024).reshape(-1, box, box)
    ours = np.fromfile(next(Path("out/stacks").iterdir()), np.float32, offset=1024).reshape(-1, box, box)
    assert np.abs(ours - theirs).max() <= 1e-5  # of the background's sd


def relion(picks: Path, box: int, *options: str) -> Path:
    """Extract with the installed RELION, which looks for coordinates by the micrograph's name."""
    Path("T/inputs").mkdir(parents=True, exist_ok=True)
    suffix = "_pick" + "".join(picks.suffixes)
    shutil.copy(picks, f"T/inputs/gold{suffix}")
    command = [
        "relion_preprocess", "--i", "inputs/micrographs_ctf.star", "--coord_dir", "T/", "--coord_suffix", suffix,
        "--extract", "--extract_size", str(box), "--part_dir", "R/", "--part_star", "R/particles.star", "--helix",
        "--helical_outer_diameter", "30", *options,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return Path("R/particles.star")


CUT: Sequence[str] = (
    "--helical_tubes", "--helical_nr_asu", "8", "--helical_rise", "4.75", "--helical_cut_into_segments",
)  # fmt: skip
SHORT = """
data_

loop_
_rlnCoordinateX #1
_rlnCoordinateY #2
100 100
200 150
200 200
200.05 200
200 200
200 200
50 50
107.19 50
50 107.19
50 50
300 100
300 100.19
"""
SEGMENTS = """#micrograph: gold.mrc
#segment length: 40
#segment width: 40
#helix: (100.0, 120.0),(200.0, 170.0),40
100\t120
120\t130
141\t139
200\t170
#helix: (300, 300),(200, 300),40
290\t300
240\t301
210\t300
"""
ODD_BOX = (
    "80\t100\t41\t41\t-1\n280\t210\t41\t41\t-2\n200\t200\t40\t40\t-1\n300\t205\t40\t40\t-2\n"
    "200\t200\t40\t40\t-1\n240\t200\t40\t40\t-2\n200\t250\t40\t40\t-1\n241\t250\t40\t40\t-2\n"
)


@pytest.mark.real
@pytest.mark.relion
@pytest.mark.parametrize(
    ("name", "text", "options", "asked"),
    [
        ("tubes.box", None, CUT, ENDS | {"helical_nr_asu": 8}),
        ("tubes_ids.star", None, CUT, ENDS | {"helical_nr_asu": 8}),
        ("short.star", SHORT, CUT, ENDS | {"helical_nr_asu": 8}),
        ("odd.box", ODD_BOX, CUT, ENDS | {"helical_nr_asu": 8}),
        ("odd.box", ODD_BOX, CUT[:-1], {"helix": "whole"}),
        ("lines.box", SEGMENTS, (), {"helix": "segments"}),
    ],
)
def test_files_of_other_kinds_give_the_segments_of_the_installed_relion(
    place: Path, name: str, text: str | None, options: Sequence[str], asked: dict[str, Any]
) -> None:
    picks = Path("inputs", name)
    if text is not None:
        picks.write_text(text)
    theirs = said(relion(picks, 32, *options))
    Path("P").mkdir()
    shutil.copy(picks, Path("P", "gold").with_suffix(picks.suffix))
    ours = said(extract("P", 32, asked | {"helical_bimodal": False}))
    assert len(ours) == len(theirs) > 3
    assert (angle_apart(ours, theirs).max(axis=0) <= ALLOWED).all()
    if name == "tubes_ids.star":
        for tag in ("_rlnHelicalTubePitch", "_rlnHelicalTubeID"):
            assert list(map(float, columns(Path("out/particles.star"))[tag])) == list(
                map(float, columns(Path("R/particles.star"))[tag])
            )


@pytest.mark.real
@pytest.mark.relion
def test_a_helical_refinement_starts_on_our_segments_and_its_table_is_extracted_again(place: Path) -> None:
    cryobox.run(
        "inputs/list_tubes.star",
        micrographs="inputs/micrographs_ctf.star",
        out="Extract/job010",
        recipe=cryobox.Recipe(box=32, **ENDS, helical_nr_asu=4),
        options=cryobox.RunOptions(fsync=False),
    )
    _, y, x = np.mgrid[:32, :32, :32] - 16
    with mrcfile.new("tube.mrc") as reference:
        reference.set_data((x**2 + y**2 < 16).astype(np.float32))
        reference.voxel_size = 2.0
    Path("Class3D").mkdir()
    options = (
        "--i Extract/job010/particles.star --o Class3D/run --ref tube.mrc --ini_high 20 --ctf --iter 1 --K 1 "
        "--tau2_fudge 2 --particle_diameter 60 --flatten_solvent --zero_mask --oversampling 1 --healpix_order 1 "
        "--offset_range 2 --offset_step 2 --sym C1 --norm --scale --pad 1 --firstiter_cc --j 1 --random_seed 1 --helix "
        "--helical_outer_diameter 30 --helical_nr_asu 4 --helical_twist_initial -1.2 --helical_rise_initial 4.75 "
        "--helical_z_percentage 0.3 --sigma_tilt 5 --sigma_psi 3"
    )
    done = subprocess.run(["relion_refine", *options.split()], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    refined = columns(Path("Class3D/run_it001_data.star"))
    ours = columns(Path("Extract/job010/particles.star"))
    assert sorted(refined["_rlnHelicalTubeID"]) == sorted(ours["_rlnHelicalTubeID"])
    result = cryobox.run(
        "Class3D/run_it001_data.star",
        micrographs="inputs/micrographs_ctf.star",
        out="Extract/job011",
        recipe=cryobox.Recipe(box=32, helix="segments"),
        options=cryobox.RunOptions(fsync=False),
    )
    again = columns(Path("Extract/job011/particles.star"))
    assert result.extracted >= 0.95 * len(refined["_rlnImageName"])
    assert set(again["_rlnAnglePsiPrior"]) <= set(refined["_rlnAnglePsiPrior"])
    psi = np.radians(np.array(again["_rlnAnglePsiPrior"], np.float64))
    left = np.array([again["_rlnOriginXAngst"], again["_rlnOriginYAngst"]], np.float64) / 2.0
    assert np.abs(left[0] * np.sin(psi) + left[1] * np.cos(psi)).max() <= 0.5 * 2**0.5 + 1e-3  # across the tube


@pytest.mark.real
@pytest.mark.relion
def test_segments_that_relion_leaves_out_for_a_fraction_are_named_in_the_comparison(place: Path) -> None:
    """gold.mrc is 448 x 384: a box of 32 about x = 432.4 ends with the last column."""
    picks = Path("inputs/edge.star")
    rows = ["400.0 100.2 1 90 0 0", "432.4 100.2 1 90 0 60", "200.3 368.9 2 90 0 0", "433.0 300 2 90 0 90"]
    tags = ["CoordinateX", "CoordinateY", "HelicalTubeID", "AngleTiltPrior", "AnglePsiPrior", "HelicalTrackLengthAngst"]
    picks.write_text("data_\n\nloop_\n" + "".join(f"_rln{tag}\n" for tag in tags) + "\n".join(rows) + "\n")
    theirs = relion(picks, 32)
    Path("P").mkdir()
    shutil.copy(picks, "P/gold.star")
    extract("P", 32, {"helix": "segments", "helical_bimodal": False})
    found = compare_particles("out", theirs, sample=0)
    assert len(found.pairs) == 1
    assert found.only_a.reasons == (FRACTION, FRACTION)
    assert columns(Path("out/rejected.star"), "")["_rlnCoordinateX"] == ["433.0"]
