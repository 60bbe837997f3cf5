"""RELION's programs take our particles: stacks, statistics, a 2D classification and a re-extraction.

All of it runs in the project's root, as RELION's users do, and not in the output folder.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import gemmi
import mrcfile
import numpy as np
import pytest
from numpy.typing import NDArray

import cryobox
from cryobox import reference
from cryobox.restacking import Asked, restack_particles
from cryobox.simulate import PARTICLE_BOX, make_dataset
from golden.make_golden import relion_version

pytestmark = pytest.mark.relion

Floats = NDArray[np.float64]

SIZE = 32
PIXEL_SIZE = 1.4  # Å, of the simulated micrographs
TABLE = "Extract/job010/particles.star"


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """A project's root with simulated micrographs, extracted by cryobox into Extract/job010."""

    root: Path
    result: cryobox.RunResult
    stack: NDArray[np.float32]  # all particles, in the order of the table

    def run(self, *command: str) -> str:
        done = subprocess.run(command, cwd=self.root, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{' '.join(command)} exited {done.returncode}:\n{done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.fixture(scope="module", params=[None, 90], ids=["a stack for each micrograph", "merged stacks"])
def project(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Project:
    root = tmp_path_factory.mktemp("relion_client") / "project"
    make_dataset(root, micrographs=5, shape=(1024, 1024), picks=60, pixel_size=PIXEL_SIZE, shifts=True)
    with contextlib.chdir(root):
        result = cryobox.run(
            "picks.star",
            micrographs="micrographs.star",
            out="Extract/job010",
            recipe=cryobox.Recipe(box=PARTICLE_BOX, sizes=(SIZE,), particles_per_stack=request.param),
        )
    stacks = sorted((root / "Extract/job010/stacks").glob("*.mrcs"))
    return Project(root=root, result=result, stack=np.concatenate([mrcfile.read(path) for path in stacks]))


def test_relion_stack_create_joins_our_stacks_without_changing_a_pixel(project: Project) -> None:
    project.run("relion_stack_create", "--i", TABLE, "--o", "joined")
    joined = mrcfile.read(project.root / "joined.mrcs")
    assert len(joined) == project.result.extracted == len(project.stack)
    assert np.array_equal(joined, project.stack)


def test_relion_image_handler_reads_our_images_with_their_size_and_pixel_size(project: Project) -> None:
    printed = project.run("relion_image_handler", "--i", TABLE, "--stats", "--o", "unused")
    found = re.findall(r"= (\d+) x (\d+) x 1 x 1 ; avg= (\S+) stddev= (\S+) .*; angpix = (\S+)", printed)
    assert len(found) == project.result.extracted
    numbers = np.array(found, np.float64)
    assert np.unique(numbers[:, :2]).tolist() == [SIZE]
    assert numbers[:, 2] == pytest.approx(project.stack.mean(axis=(1, 2)), abs=1e-4)
    assert numbers[:, 3] == pytest.approx(project.stack.std(axis=(1, 2)), rel=1e-2)
    assert numbers[:, 4] == pytest.approx(PIXEL_SIZE * PARTICLE_BOX / SIZE)


def test_relion_extracts_again_from_our_table_and_moves_nothing(project: Project) -> None:
    folder = project.root / "Extract/again"
    folder.mkdir()
    options = (
        f"--i micrographs.star --reextract_data_star {TABLE} --recenter --part_star Extract/again/particles.star "
        f"--part_dir Extract/again/ --extract --extract_size {PARTICLE_BOX} --scale {SIZE} --norm --bg_radius 12 "
        "--invert_contrast"
    )
    project.run("relion_preprocess", *options.split())
    ours, theirs = (positions(path) for path in (project.root / TABLE, folder / "particles.star"))
    assert len(theirs) == project.result.extracted
    assert theirs == pytest.approx(ours, abs=1e-5)
    again = np.concatenate([mrcfile.read(path) for path in sorted(folder.glob("micrographs/*.mrcs"))])
    # Not equal: the row at Nyquist differs, and with it the standard deviation.
    likeness = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(again, project.stack, strict=True)]
    assert min(likeness) > 0.95


def positions(table: Path) -> NDArray[np.float64]:
    """Coordinates and origins of a table, in its order, shape (n, 4)."""
    for block in gemmi.cif.read(str(table)):
        if block.name == "particles":
            tags = ("_rlnCoordinateX", "_rlnCoordinateY", "_rlnOriginXAngst", "_rlnOriginYAngst")
            return np.array([[float(text) for text in block.find_values(tag)] for tag in tags]).T
    raise AssertionError(f"{table}: no data_particles")


def test_relion_3_1_says_that_it_does_not_read_half_precision(tmp_path: Path) -> None:
    version = relion_version()
    if version is None or not version.startswith("3.1"):
        pytest.skip(f"this RELION reads half precision: {version}")
    make_dataset(tmp_path, micrographs=1, shape=(512, 640), picks=8)
    with contextlib.chdir(tmp_path):
        recipe = cryobox.Recipe(box=PARTICLE_BOX, sizes=(SIZE,), dtype="float16")
        cryobox.run("picks.star", micrographs="micrographs.star", out="Extract/job010", recipe=recipe)
    command = ("relion_stack_create", "--i", TABLE, "--o", "joined")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "half-precision" in done.stdout + done.stderr


@pytest.mark.slow
def test_restacked_images_are_the_same_to_relion_and_go_through_a_classification(project: Project) -> None:
    restacked = restack_particles(
        project.root / TABLE, project.root / "Restack/job011", asked=Asked(particles_per_stack=70), root=project.root
    )
    assert restacked.exit_code == 0
    table = "Restack/job011/particles.star"
    project.run("relion_stack_create", "--i", table, "--o", "restacked")
    np.testing.assert_array_equal(mrcfile.read(project.root / "restacked.mrcs"), project.stack)
    (project.root / "Class2D_restacked").mkdir()
    options = (
        f"--o Class2D_restacked/run --i {table} --ctf --K 1 --iter 3 --tau2_fudge 2 --particle_diameter 150 "
        "--flatten_solvent --zero_mask --oversampling 1 --psi_step 12 --offset_range 5 --offset_step 2 --norm --scale "
        "--pool 10 --dont_combine_weights_via_disc --j 2 --random_seed 1"
    )
    project.run("relion_refine", *options.split())
    found = mrcfile.read(project.root / "Class2D_restacked/run_it003_classes.mrcs").reshape(SIZE, SIZE)
    assert best_correlation(true_average(project.root), np.asarray(found, np.float64)) > 0.6


@pytest.mark.slow
def test_a_two_dimensional_classification_shows_the_particle_with_its_hand(project: Project) -> None:
    (project.root / "Class2D").mkdir()
    options = (
        f"--o Class2D/run --i {TABLE} --ctf --K 1 --iter 8 --tau2_fudge 2 --particle_diameter 150 --flatten_solvent "
        "--zero_mask --oversampling 1 --psi_step 12 --offset_range 5 --offset_step 2 --norm --scale --pool 10 "
        "--dont_combine_weights_via_disc --j 2 --random_seed 1"
    )
    project.run("relion_refine", *options.split())
    average = np.asarray(mrcfile.read(project.root / "Class2D/run_it008_classes.mrcs"), np.float64).reshape(SIZE, SIZE)
    truth = true_average(project.root)
    likeness = best_correlation(truth, average)
    mirrored = best_correlation(truth[:, ::-1], average)
    assert likeness > 0.75
    assert mirrored < likeness - 0.15


# The average that RELION must find ---------------------------------------------------------------------------------


def turned(image: Floats, angle: float, shift: tuple[float, float] = (0.0, 0.0)) -> Floats:
    """The image turned by `angle` about its center, nearest pixel; zero outside."""
    n = image.shape[0]
    y, x = np.mgrid[:n, :n] - n / 2
    c, s = np.cos(angle), np.sin(angle)
    source_y = np.rint(c * y - s * x + shift[0] + n / 2).astype(int)
    source_x = np.rint(s * y + c * x + shift[1] + n / 2).astype(int)
    inside = (source_y >= 0) & (source_y < n) & (source_x >= 0) & (source_x < n)
    out = np.zeros_like(image)
    out[inside] = image[source_y[inside], source_x[inside]]
    return out


def true_average(root: Path) -> Floats:
    """Mean of the particles, white, cut at their true centers from the micrographs and turned back by their angles."""
    truth = np.load(root / "truth.npz")
    total = np.zeros((PARTICLE_BOX, PARTICLE_BOX))
    for name in np.unique(truth["micrograph"]):
        pixels = mrcfile.read(root / str(name))
        for row in np.flatnonzero(truth["micrograph"] == name):
            corner = (int(truth["y"][row]) - PARTICLE_BOX // 2, int(truth["x"][row]) - PARTICLE_BOX // 2)
            if reference.edge_status(pixels.shape, corner, PARTICLE_BOX, "reject") == reference.OK:
                window = reference.window(pixels, corner, PARTICLE_BOX)
                total -= turned(window - window.mean(), float(truth["angle"][row]))
    return total


def flattened(image: Floats) -> NDArray[np.complex128]:
    """The image's spectrum within a circle, every ring up to half of Nyquist given the same power.

    So that it does not matter how much of the contrast transfer function either image still has.
    """
    y, x = np.mgrid[:SIZE, :SIZE] - SIZE / 2
    disk = y * y + x * x < (SIZE * 0.4) ** 2
    spectrum = np.fft.fft2(np.where(disk, image - image[disk].mean(), 0))
    k = np.fft.fftfreq(SIZE, 1 / SIZE)
    ring = np.rint(np.hypot(k[:, None], k[None, :])).astype(int)
    power = np.bincount(ring.ravel(), np.abs(spectrum.ravel()) ** 2) / np.bincount(ring.ravel())
    kept = (ring > 0) & (ring <= SIZE // 4)
    flat: NDArray[np.complex128] = np.divide(spectrum, np.sqrt(power[ring]), out=np.zeros_like(spectrum), where=kept)
    return flat


def best_correlation(template: Floats, average: Floats) -> float:
    """The highest correlation of the two over rotations and small shifts."""
    spectrum = flattened(average)
    best = -1.0
    for angle in np.deg2rad(np.arange(0, 360, 4)):
        other = flattened(reference.fourier_crop(turned(template, float(angle)), SIZE))
        correlation = np.fft.ifft2(spectrum * np.conj(other)).real
        near = np.roll(correlation, (4, 4), axis=(0, 1))[:9, :9]
        best = max(best, float(near.max() / np.sqrt((np.abs(spectrum) ** 2).mean() * (np.abs(other) ** 2).mean()) * 1))
    return best
