"""RELION's own programs and cryobox write the same CTF: re-extraction with and without new CTFs, and 3.0-style tables.

The tables are small and random, each micrograph has one optics group: where RELION has a rule, ours is RELION's.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from pathlib import Path

import mrcfile
import numpy as np
import pytest

import cryobox
from formats import ctf_model as model

pytestmark = pytest.mark.relion

Numbers = list[float]

BOX = 32
SHAPE = (96, 128)
PIXEL_SIZE = "1.25"
MICROGRAPHS = tuple(f"Micrographs/{letter}.mrc" for letter in "abc")
OPTICS = (*model.NEEDED, *model.BEAM_TILT)
FIT = ("_rlnDefocusU", "_rlnDefocusV", "_rlnDefocusAngle")
NEUTRAL = model.ROW_NEUTRAL | model.OPTICS_NEUTRAL


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project with micrographs of noise."""
    rng = np.random.default_rng(7)
    (tmp_path / "Micrographs").mkdir()
    for name in MICROGRAPHS:
        with mrcfile.new(tmp_path / name) as file:
            file.set_data(rng.normal(size=SHAPE).astype(np.float32))
            file.voxel_size = float(PIXEL_SIZE)
    return tmp_path


def run_program(root: Path, *command: str) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)} exited {done.returncode}:\n{done.stdout}\n{done.stderr}"


def extracted_again_by_relion(root: Path, *options: str) -> Path:
    (root / "Extract/relion").mkdir(parents=True)
    tables = "--i micrographs.star --reextract_data_star picks.star --part_star Extract/relion/particles.star"
    making = f"--part_dir Extract/relion/ --extract --extract_size {BOX}"
    run_program(root, "relion_preprocess", *tables.split(), *making.split(), *options)
    return root / "Extract/relion/particles.star"


def extracted_by_cryobox(root: Path, *, refresh: bool) -> Path:
    with contextlib.chdir(root):
        recipe = cryobox.Recipe(box=BOX, refresh_ctf=refresh)
        cryobox.run("picks.star", micrographs="micrographs.star", out="Extract/cryobox", recipe=recipe)
    return root / "Extract/cryobox/particles.star"


def numbers(table: Path, tags: tuple[str, ...]) -> dict[tuple[str, float], Numbers]:
    """The effective values of rows and their optics, by micrograph and x."""
    blocks = model.parse(table.read_text())
    star = model.Star(rows=blocks["particles"], optics=blocks["optics"])
    found = {}
    for row in star.rows:
        whole = NEUTRAL | model.optics_of(star, row) | row
        found[row[model.NAME], float(row["_rlnCoordinateX"])] = [float(whole[tag]) for tag in tags]
    return found


def names(table: Path) -> dict[tuple[str, float], str]:
    """The name of the optics group of each row."""
    blocks = model.parse(table.read_text())
    star = model.Star(rows=blocks["particles"], optics=blocks["optics"])
    return {
        (row[model.NAME], float(row["_rlnCoordinateX"])): model.optics_of(star, row)[model.GROUP_NAME]
        for row in star.rows
    }


def same_numbers(ours: Path, theirs: Path, tags: tuple[str, ...]) -> None:
    found, expected = numbers(ours, tags), numbers(theirs, tags)
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        assert dict(zip(tags, found[key], strict=True)) == pytest.approx(dict(zip(tags, values, strict=True)), abs=1e-5)


# Extracted again -----------------------------------------------------------------------------------------------------


def random_fit(rng: np.random.Generator, extra: list[str]) -> model.Row:
    values = {"_rlnPhaseShift": 90, "_rlnCtfBfactor": 200, "_rlnCtfScalefactor": 1}
    u, v, angle = rng.uniform(5000, 30000), rng.uniform(5000, 30000), rng.uniform(0, 180)
    fit = dict(zip(FIT, (f"{u:.4f}", f"{v:.4f}", f"{angle:.4f}"), strict=True))
    return fit | {tag: f"{rng.uniform(0.1, 1) * values[tag]:.4f}" for tag in extra}


def random_groups(rng: np.random.Generator, group_names: list[str], *, tilted: bool) -> list[model.Row]:
    """Optics groups of one voltage."""
    groups = []
    for i, name in enumerate(group_names, 1):
        values = ("300", f"{rng.uniform(0.1, 2.7):.3f}", f"{rng.uniform(0.05, 0.15):.3f}")
        group = {model.GROUP_NAME: name, model.GROUP: str(i)} | dict(zip(model.NEEDED, values, strict=True))
        tilt = {tag: f"{rng.uniform(-1, 1):.4f}" for tag in model.BEAM_TILT} if tilted else {}
        groups.append(group | tilt)
    return groups


def write_tables(root: Path, seed: int) -> None:
    """Micrographs of one group each, and particles that were refined since, in groups of the same names."""
    rng = np.random.default_rng(seed)
    group_names = ["left", "middle", "right"][: 1 + seed % 3]
    of_micrograph = [int(rng.integers(len(group_names))) for _ in MICROGRAPHS]
    extra = [[tag for tag in model.ROW_NEUTRAL if rng.random() < 0.5] for _ in range(2)]
    optics = random_groups(rng, group_names, tilted=bool(seed & 1))
    rows = [
        {model.NAME: name, model.GROUP: optics[g][model.GROUP]} | random_fit(rng, extra[0])
        for name, g in zip(MICROGRAPHS, of_micrograph, strict=True)
    ]
    optics = [row | {model.MICROGRAPH_PIXEL: PIXEL_SIZE} for row in optics]
    (root / "micrographs.star").write_text(model.text_of(model.Star(rows=rows, optics=optics), "micrographs"))
    optics = random_groups(rng, group_names, tilted=bool(seed & 2))
    images = {"_rlnImagePixelSize": PIXEL_SIZE, "_rlnImageSize": str(BOX), "_rlnImageDimensionality": "2"}
    picks = [
        {model.NAME: name, model.GROUP: optics[g][model.GROUP], "_rlnImageName": f"{i + 1:06d}@old.mrcs"}
        | {"_rlnCoordinateX": str(40 + 10 * i), "_rlnCoordinateY": "48"}
        | random_fit(rng, extra[1])
        for name, g in zip(MICROGRAPHS, of_micrograph, strict=True)
        for i in range(3)
    ]
    star = model.Star(rows=picks, optics=[row | images for row in optics])
    (root / "picks.star").write_text(model.text_of(star, "particles"))


@pytest.mark.parametrize("refresh", [True, False], ids=["ctfs-of-micrographs", "own-ctfs"])
@pytest.mark.parametrize("seed", range(8))
def test_particles_extracted_again_have_the_ctf_that_relion_gives_them(root: Path, seed: int, refresh: bool) -> None:
    write_tables(root, seed)
    theirs = extracted_again_by_relion(root, *(["--keep_ctfs_micrographs"] if refresh else []))
    ours = extracted_by_cryobox(root, refresh=refresh)
    same_numbers(ours, theirs, (*OPTICS, *FIT, *model.ROW_NEUTRAL))
    assert names(ours) == names(theirs)


# 3.0-style tables ----------------------------------------------------------------------------------------------------


def write_tables_30(root: Path, seed: int) -> None:
    """3.0-style particles, of which Cs, amplitude contrast and beam tilt differ within a micrograph."""
    rng = np.random.default_rng(seed)
    voltages = [str(rng.choice(["200", "300"])) for _ in MICROGRAPHS]
    scale = {"_rlnMagnification": "10000", "_rlnDetectorPixelSize": PIXEL_SIZE}
    extra = [tag for tag in model.ROW_NEUTRAL if rng.random() < 0.6]
    files = [
        {model.NAME: name, "_rlnVoltage": voltage} | scale | random_fit(rng, [])
        for name, voltage in zip(MICROGRAPHS, voltages, strict=True)
    ]
    tilts = {tag: ["0.1", "-0.2"] for tag in model.BEAM_TILT} if seed & 1 else {}
    drawn = {"_rlnSphericalAberration": ["2.7", "2.6"], "_rlnAmplitudeContrast": ["0.1", "0.07"]} | tilts
    picks = [
        {model.NAME: name, "_rlnImageName": f"{i + 1:06d}@old.mrcs", "_rlnVoltage": voltage}
        | {"_rlnCoordinateX": str(40 + 5 * i), "_rlnCoordinateY": "48"}
        | {tag: str(rng.choice(texts)) for tag, texts in drawn.items()}
        | scale
        | random_fit(rng, extra)
        for name, voltage in zip(MICROGRAPHS, voltages, strict=True)
        for i in range(6)
    ]
    (root / "micrographs.star").write_text(model.text_of(model.Star(rows=files), "micrographs"))
    (root / "picks.star").write_text("\n" + model.text_of(model.Star(rows=picks), "particles"))
    with mrcfile.new(root / "old.mrcs") as file:  # whose size becomes rlnImageSize
        file.set_data(np.zeros((6, BOX, BOX), np.float32))
        file.set_image_stack()


@pytest.mark.parametrize("seed", range(6))
def test_a_table_of_relion_3_0_gets_the_optics_that_relions_converter_gives_it(root: Path, seed: int) -> None:
    write_tables_30(root, seed)
    run_program(root, "relion_convert_star", "--i", "picks.star", "--o", "converted.star")
    ours = extracted_by_cryobox(root, refresh=False)
    same_numbers(ours, root / "converted.star", (*OPTICS, *FIT, *model.ROW_NEUTRAL))


@pytest.mark.parametrize("seed", range(6))
def test_rows_of_relion_3_0_are_put_together_as_by_relions_converter(root: Path, seed: int) -> None:
    write_tables_30(root, seed)
    run_program(root, "relion_convert_star", "--i", "picks.star", "--o", "converted.star")
    ours, theirs = names(extracted_by_cryobox(root, refresh=False)), names(root / "converted.star")
    pairs = {(ours[key], theirs[key]) for key in theirs}
    assert len(pairs) == len(set(ours.values())) == len(set(theirs.values()))
