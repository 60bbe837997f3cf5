"""RELION 5's own images and tables beside ours, case by case: `python -m bench.relion5_cases --golden FOLDER`.

Each case is a whole run from the command line on the inputs that RELION had; the table it prints is that of
docs/comparison.md. Pixels are compared where they are the same by intention, and what is not is said in words.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryobox.formats.star_table import read_blocks

__all__ = ["main"]

Floats = NDArray[np.float64]

PIXEL = 2.0  # Å, of the micrograph
NEAR = 1e-5  # sd: more apart than this are random numbers
RAW = "--no-normalize"
TUBES = "--helix ends --helical-outer-diameter 30 --helical-rise 4.75"
TWO_GROUPS = "without the table of micrographs, whose voltage is another: with it we ask which one is right"
RANDOM = "the same pixels are replaced; the numbers that replace them are others"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A case: side of the box, table of picks, our options, and what differs by intention."""

    box: int
    picks: str
    options: str
    micrographs: str | None = "micrographs_ctf.star"
    note: str = ""
    pixels: bool = True  # whether images are to be the same


def dust(box: int, options: str, picks: str = "list_picks.star") -> Case:
    """A case of replaced pixels."""
    return Case(box=box, picks=picks, options=options, note=RANDOM)


CASES = {
    "base_norm": Case(box=64, picks="list_picks.star", options="--bg-radius 24"),
    "white_dust": dust(64, "--bg-radius 24 --white-dust 3.5"),
    "black_dust": dust(48, "--bg-radius 18 --black-dust 3.5"),
    "dust_noramp": dust(32, "--bg-radius 12 --white-dust 3.5 --black-dust 3.5 --no-ramp"),
    "dust_without_norm": Case(
        box=32, picks="list_picks.star", options=RAW, note="dust without normalization is refused, which RELION ignores"
    ),
    "premult": Case(box=64, picks="list_picks.star", options=f"{RAW} --ctf premultiply"),
    "premult_big": Case(box=64, picks="list_picks.star", options=f"{RAW} --ctf premultiply --ctf-box 96"),
    "premult_intact": Case(box=32, picks="list_picks.star", options=f"{RAW} --ctf premultiply --ctf-intact-first-peak"),
    "flip": Case(
        box=32, picks="list_picks.star", options=f"{RAW} --ctf flip", note="our table says rlnCtfDataArePhaseFlipped 1"
    ),
    "flip_big": Case(box=32, picks="list_picks.star", options=f"{RAW} --ctf flip --ctf-box 96"),
    "flip_and_premult": Case(
        box=32, picks="list_picks.star", options=f"{RAW} --ctf flip",
        note="both together are refused; RELION flips and says that it multiplied",
    ),
    "premult_dust": dust(
        32, "--ctf premultiply --ctf-box 64 --bg-radius 12 --white-dust 3 --black-dust 3"
    ),
    "premult_phaseshift": Case(
        box=32, picks="list_picks.star", options=f"{RAW} --ctf premultiply", micrographs="micrographs_ctf_phase.star"
    ),
    "flip_perparticle": Case(
        box=32, picks="ctf_per_particle.star", options=f"{RAW} --no-recenter --ctf flip", micrographs=None,
        note=TWO_GROUPS,
    ),
    "premult_magmat": Case(
        box=32, picks="ctf_magmat.star", options=f"{RAW} --no-recenter --ctf premultiply", micrographs=None,
        note=TWO_GROUPS,
    ),
    "premult_keepmicctf": Case(
        box=32, picks="ctf_per_particle.star", options=f"{RAW} --no-recenter --ctf premultiply --refresh-ctf",
        micrographs="micrographs_2og.star", note="the voltage is that of the micrographs, too",
    ),
    "premult_recenter": Case(
        box=32, picks="refined_4A.star", options=f"{RAW} --ctf premultiply --ctf-box 48",
        note="exact halves stay where they are",
    ),
    "recenter_2d": Case(
        box=32, picks="refined_4A.star", options=RAW, note="exact halves of two rows stay where they are"
    ),
    "recenter_3d": Case(
        box=32, picks="refined_4A.star", options=f"{RAW} --recenter-3d 10,20,5px --ref-angpix 1"
    ),
    "recenter_3d_noref": Case(box=32, picks="refined_4A.star", options=f"{RAW} --recenter-3d 3,-4,5px"),
    "recenter_3d_2A": Case(
        box=32, picks="refined_2A.star", options=f"{RAW} --recenter-3d=-7.5,6,11px --ref-angpix 1.3"
    ),
    "norecenter": Case(box=32, picks="refined_4A.star", options=f"{RAW} --no-recenter"),
    "reset_offsets": Case(box=32, picks="refined_4A.star", options=f"{RAW} --reset-offsets"),
    "center_without_recenter": Case(
        box=32, picks="refined_4A.star", options=f"{RAW} --no-recenter",
        note="a point without recentering is refused, which RELION ignores",
    ),
    "helix_cut": Case(
        box=24, picks="list_tubes.star", options=f"{TUBES} --helical-nr-asu 8 --helical-bimodal"
    ),
    "helix_cut_unimodal": Case(
        box=32, picks="list_tubes.star", options=f"{RAW} --helix ends --helical-rise 4.75 --helical-nr-asu 24 "
        "--no-helical-bimodal",
    ),
    "helix_uncut": Case(
        box=32, picks="list_tubes.star", options="--helix whole --helical-outer-diameter 30 --helical-bimodal"
    ),
    "helix_scale": Case(
        box=64, picks="list_tubes.star", pixels=False,
        options=f"{TUBES} --helical-nr-asu 24 --no-helical-bimodal --fcrop 32 --invert",
        note="the same segments; RELION's radius becomes 0 where it crops, ours stays",
    ),
    "helix_segments": Case(
        box=64, picks="list_segments.star", options="--helix segments --helical-outer-diameter 30 --helical-bimodal"
    ),
    "helix_dust": dust(
        32, "--helix segments --helical-outer-diameter 30 --no-helical-bimodal --white-dust 3", "list_segments.star"
    ),
    "helix_reextract": Case(
        box=16, picks="../helix_cut_unimodal/particles.star",
        options="--helix segments --helical-outer-diameter 20 --no-helical-bimodal",
    ),
}  # fmt: skip


def main() -> None:
    """Run every case, print the table of docs/comparison.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--golden", type=Path, required=True, help="folder of RELION 5's cases")
    parser.add_argument("--case", action="append", help="only this one (repeatable)")
    arguments = parser.parse_args()
    golden = arguments.golden.resolve()
    print("| case | options of `cryobox extract` | images | pixels | coordinates and origins, px | |")
    print("|---|---|---|---|---|---|")
    for name in arguments.case or CASES:
        with tempfile.TemporaryDirectory() as folder:
            print(row(golden, name, Path(folder)), flush=True)


def row(golden: Path, name: str, folder: Path) -> str:
    """Run one case in an empty folder; the row of the table."""
    case = CASES[name]
    shutil.copytree(golden / "inputs", folder / "inputs")
    shutil.copytree(golden / "helix_cut_unimodal", folder / "helix_cut_unimodal")
    edges = "" if "--helix ends" in case.options or "--helix segments" in case.options else " --edges pad"
    contrast = "" if "--invert" in case.options else " --no-invert"
    micrographs = f"-m inputs/{case.micrographs} " if case.micrographs else ""
    command = f"extract inputs/{case.picks} {micrographs}-o out --box {case.box} {case.options}"
    done = subprocess.run(
        [sys.executable, "-m", "cryobox", *f"{command}{edges}{contrast} --no-fsync".split()],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{name}: {done.stdout}{done.stderr}")
    ours, theirs = folder / "out" / "particles.star", golden / name / "particles.star"
    one, two = order(places(ours)), order(places(theirs))
    far = ""
    if len(one) != len(two):
        return f"| {name} | `{case.options}` | {len(one)} and {len(two)} | | | {case.note} |"
    found, wanted = places(ours)[one], places(theirs)[two]
    same = (np.trunc(found[:, :2]) == np.trunc(wanted[:, :2])).all(axis=1)
    images = f"{len(same)}" if same.all() else f"{same.sum()} of {len(same)}"
    moved = f"{np.abs(found - wanted)[same][:, 2:4].max():.0e}"
    if case.pixels:
        far = apart(stack(folder / "out/stacks")[one][same], stack(golden / name / "inputs")[two][same], case)
    return f"| {name} | `{case.options}` | {images} | {far} | {moved} | {case.note} |"


def apart(ours: Floats, theirs: Floats, case: Case) -> str:
    """The largest difference of a pixel, in sd of the background, or of the largest value where nothing is scaled."""
    difference = np.abs(ours - theirs)
    if case.note == RANDOM:
        left = np.array([beside_noise(one, two) for one, two in zip(ours, theirs, strict=True)])
        replaced = left > NEAR
        return f"{left[~replaced].max():.1e} sd but for {np.count_nonzero(replaced)} replaced"
    if RAW not in case.options:
        return f"{difference.max():.1e} sd" if difference.any() else "equal"
    return "equal" if not difference.any() else f"{difference.max() / np.abs(theirs).max():.1e} of the largest"


def beside_noise(ours: Floats, theirs: Floats) -> Floats:
    """What is left of an image beside another when plane and scale, which a few random pixels moved, are fitted."""
    side = len(ours)
    i, j = np.mgrid[:side, :side] - side // 2
    terms = np.stack([np.ones(ours.shape), i, j, ours], axis=-1)
    kept = np.ones(ours.shape, bool)
    for _ in range(8):
        solved, *_ = np.linalg.lstsq(terms[kept], theirs[kept], rcond=None)
        left = np.abs(theirs - terms @ solved)
        kept = left <= max(8 * np.median(left), NEAR)
    return left


def places(table: Path) -> Floats:
    """x, y of a center in pixels, x, y of its origin in pixels, tube and track length, one row each."""
    particles = read_blocks(table)["particles"].table()
    tags = ("CoordinateX", "CoordinateY", "OriginXAngst", "OriginYAngst", "HelicalTubeID", "HelicalTrackLengthAngst")
    rows = [
        particles.floats(tag) if tag in particles else np.zeros(len(particles)) for tag in (f"_rln{t}" for t in tags)
    ]
    found = np.array(rows, np.float64).T
    found[:, 2:4] /= PIXEL
    return found


def order(rows: Floats) -> NDArray[np.intp]:
    """Rows by tube and length, else as they stand."""
    return np.lexsort((rows[:, 5], rows[:, 4]))


def stack(folder: Path) -> Floats:
    """All images of the one stack in a folder."""
    (path,) = folder.glob("*.mrcs")
    data = path.read_bytes()
    side = int(np.frombuffer(data, "<i4", 1)[0])
    return np.frombuffer(data, "<f4", offset=1024).reshape(-1, side, side).astype(np.float64)


if __name__ == "__main__":
    main()
