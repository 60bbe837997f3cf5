"""Whether a refinement makes the same map of our particles as of RELION's: `python -m bench.proof --data FOLDER`.

Micrographs of a known asymmetric density (a sum of Gaussians: its projections are exact at any place and in any view)
with CTF, noise, picks that are off and orientations that are off; extracted by RELION and by cryobox; refined by
`relion_refine` from the same start with the same seeds; then extracted again at the refined places, by both and with
`--subpixel`, and refined again. The figure of each: Fourier shell correlation with the density itself.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
from numpy.typing import NDArray

from bench.machine import save
from cryobox.rotations import matrix_from_euler

__all__ = ["main"]

Floats = NDArray[np.float64]

PIXEL = 3.0  # Å
BOX = 64
SIDE, SPACING = 1024, 78  # of a micrograph, and between particles; pixels
BLOBS, RADIUS, SIGMA = 90, 54.0, 3.6  # how many Gaussians, within how many Å, how wide
VOLTAGE, CS, CONTRAST = 300.0, 2.7, 0.1
SIGNAL, NOISE = 1.0, 2.0  # sd of the micrograph without noise, and of the noise
ANGLE_ERROR, PICK_ERROR = 4.0, 1.5  # sd of the degrees and of the pixels by which the first alignment is off
START = 20.0  # Å: resolution of the map from which refinements start
ITERATIONS = 8

OPTICS = (
    "OpticsGroup",
    "OpticsGroupName",
    "Voltage",
    "SphericalAberration",
    "AmplitudeContrast",
    "MicrographPixelSize",
)
PICKS = (
    "MicrographName", "CoordinateX", "CoordinateY", "AngleRot", "AngleTilt", "AnglePsi", "OriginXAngst", "OriginYAngst",
    "OpticsGroup",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """What is true of each particle, in the order of the table of picks: (y, x) in pixels, angles in degrees."""

    center: Floats
    angles: Floats


def main() -> None:
    """Parse the arguments, simulate, extract, refine, print, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder for everything; emptied first")
    parser.add_argument("--micrographs", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    data = arguments.data.resolve()
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir(parents=True)
    real = simulate(data, micrographs=arguments.micrographs, seed=1)
    write_map(data / "truth.mrc", density())
    write_map(data / "start.mrc", low_passed(density(), START))
    figures: dict[str, list[dict[str, Any]]] = {}
    firsts = {
        "RELION": relion_extract(data, "picks.star", "first_relion"),
        "cryobox": extract(data, "picks.star", "first"),
    }
    for seed in range(1, arguments.seeds + 1):
        for name, table in firsts.items():
            figures.setdefault(f"{name}, first", []).append(refined(data, table, seed, arguments.threads))
    refinement = f"Refine/first_1/run_it{ITERATIONS:03d}_data.star"
    again = {
        "RELION": relion_extract(data, refinement, "again_relion", "--recenter"),
        "cryobox": extract(data, refinement, "again"),
        "cryobox --subpixel": extract(data, refinement, "again_subpixel", "--subpixel"),
    }
    for seed in range(1, arguments.seeds + 1):
        for name, table in again.items():
            figures.setdefault(f"{name}, again", []).append(refined(data, table, seed, arguments.threads))
    report(figures)
    path = save("proof", {"particles": len(real.center), "figures": figures})
    print(path)


# The density and its micrographs -------------------------------------------------------------------------------------


def blobs() -> tuple[Floats, Floats]:
    """Centers (x, y, z) in Å from the map's center, and weights; without any symmetry."""
    chosen = np.random.default_rng(20261127)
    places: list[Floats] = []
    while len(places) < BLOBS:
        place = chosen.uniform(-RADIUS, RADIUS, 3)
        within = np.linalg.norm(place / (1.0, 0.72, 0.55)) <= RADIUS
        if within and all(np.linalg.norm(place - other) > 7.5 for other in places):
            places.append(place)
    found = np.array(places)
    return found - found.mean(axis=0), chosen.uniform(0.6, 1.4, BLOBS)


def density() -> Floats:
    """The map, axes (z, y, x), its center at BOX // 2, as RELION has it."""
    axis = (np.arange(BOX) - BOX // 2) * PIXEL
    found = np.zeros((BOX,) * 3)
    for place, weight in zip(*blobs(), strict=True):
        x, y, z = (np.exp(-((axis - value) ** 2) / (2 * SIGMA**2)) for value in place)
        found += weight * z[:, None, None] * y[None, :, None] * x[None, None, :]
    return found


def simulate(data: Path, *, micrographs: int, seed: int) -> Truth:
    """Write micrographs and their tables; equal arguments make equal bytes."""
    chosen = np.random.default_rng(seed)
    (data / "Micrographs").mkdir()
    centers, views, picks, listed = [], [], [], []
    for number in range(micrographs):
        name = f"Micrographs/m{number:03d}.mrc"
        grid = np.arange(SPACING, SIDE - SPACING, SPACING, dtype=np.float64)
        center = np.stack(np.meshgrid(grid, grid, indexing="ij"), axis=-1).reshape(-1, 2)
        center = center + chosen.uniform(-4, 4, center.shape)
        tilt = np.degrees(np.arccos(chosen.uniform(-1, 1, len(center))))
        rot, psi = chosen.uniform(-180, 180, (2, len(center)))
        angles, defocus = np.stack([rot, tilt, psi], axis=1), float(chosen.uniform(9_000, 22_000))
        clean = through_the_microscope(projected(center, angles), defocus)
        image = 20 - SIGNAL * clean / clean.std() + chosen.normal(0, NOISE, clean.shape)  # protein is dark
        with mrcfile.new(data / name) as file:
            file.set_data(image.astype(np.float32))
            file.voxel_size = PIXEL
        near, guessed = center + chosen.normal(0, PICK_ERROR, center.shape), angles.copy()
        guessed += chosen.normal(0, ANGLE_ERROR, angles.shape)
        picks += [
            f"{name} {x:.3f} {y:.3f} {' '.join(f'{angle:.3f}' for angle in one)} 0.0 0.0 1"
            for (y, x), one in zip(near, guessed, strict=True)
        ]
        listed.append(f"{name} 1 {defocus:.2f} {defocus:.2f} 0.0")
        centers.append(center)
        views.append(angles)
    optics = f"1 opticsGroup1 {VOLTAGE} {CS} {CONTRAST} {PIXEL}"
    (data / "micrographs_ctf.star").write_text(
        star("optics", OPTICS, [optics])
        + star("micrographs", ("MicrographName", "OpticsGroup", "DefocusU", "DefocusV", "DefocusAngle"), listed)
    )
    of_images = ("ImagePixelSize", "ImageSize", "ImageDimensionality")
    (data / "picks.star").write_text(
        star("optics", (*OPTICS, *of_images), [f"{optics} {PIXEL} {BOX} 2"]) + star("particles", PICKS, picks)
    )
    return Truth(center=np.concatenate(centers), angles=np.concatenate(views))


def projected(centers: Floats, angles: Floats) -> Floats:
    """A micrograph of the density's projections, exactly at their centers (y, x)."""
    image = np.zeros((SIDE, SIDE))
    places, weights = blobs()
    reach, sigma = 6, SIGMA / PIXEL
    offsets = np.arange(-reach, reach + 1)
    for (y, x), view in zip(centers, matrix_from_euler(angles), strict=True):
        seen = places @ view.T / PIXEL
        for dx, dy, weight in zip(seen[:, 0], seen[:, 1], weights, strict=True):
            row, column = round(y + dy), round(x + dx)
            down = np.exp(-((row + offsets - (y + dy)) ** 2) / (2 * sigma**2))
            across = np.exp(-((column + offsets - (x + dx)) ** 2) / (2 * sigma**2))
            patch = slice(row - reach, row + reach + 1), slice(column - reach, column + reach + 1)
            image[patch] += weight * down[:, None] * across[None, :]
    return image


def through_the_microscope(image: Floats, defocus: float) -> Floats:
    """The image times the CTF, as RELION's refinement has it: positive near the origin."""
    s2 = (np.fft.fftfreq(SIDE, PIXEL)[:, None] ** 2 + np.fft.rfftfreq(SIDE, PIXEL)[None, :] ** 2).astype(np.float64)
    volts = VOLTAGE * 1e3
    wavelength = 12.2643247 / np.sqrt(volts * (1 + volts * 0.978466e-6))
    gamma = np.pi * wavelength * defocus * -s2 + np.pi / 2 * CS * 1e7 * wavelength**3 * s2**2
    ctf = -np.sin(gamma - np.arctan(CONTRAST / np.sqrt(1 - CONTRAST**2)))
    found: Floats = np.fft.irfft2(np.fft.rfft2(image) * ctf, s=image.shape)
    return found


def star(block: str, tags: Sequence[str], rows: Iterable[str]) -> str:
    """A loop of a STAR file."""
    head = "\n".join(f"_rln{tag} #{number}" for number, tag in enumerate(tags, 1))
    return f"\n# version 30001\n\ndata_{block}\n\nloop_\n{head}\n" + "\n".join(rows) + "\n\n"


def write_map(path: Path, values: Floats) -> None:
    """Write a map with its pixel size."""
    with mrcfile.new(path) as file:
        file.set_data(values.astype(np.float32))
        file.voxel_size = PIXEL


# What is done with them ----------------------------------------------------------------------------------------------


def run(data: Path, command: Sequence[str]) -> None:
    """Run a program in the folder; what it said is shown where it fails."""
    done = subprocess.run(command, cwd=data, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")


def relion_extract(data: Path, picks: str, name: str, *more: str) -> str:
    """RELION's extraction of a table of particles; where its table is."""
    table = f"Extract/{name}/particles.star"
    (data / table).parent.mkdir(parents=True)
    words = f"--i micrographs_ctf.star --reextract_data_star {picks} --part_star {table} --part_dir Extract/{name}/"
    words += f" --extract --extract_size {BOX} --norm --bg_radius {int(0.375 * BOX)} --invert_contrast"
    run(data, ["relion_preprocess", *words.split(), *more])
    return table


def extract(data: Path, picks: str, name: str, *more: str) -> str:
    """Our extraction of the same; where its table is."""
    words = f"extract {picks} --micrographs micrographs_ctf.star --out Extract/{name} --box {BOX} --no-fsync"
    run(data, [sys.executable, "-m", "cryobox", *words.split(), *more])
    return f"Extract/{name}/particles.star"


def refined(data: Path, table: str, seed: int, threads: int) -> dict[str, Any]:
    """Refine a table's particles around their orientations, and compare the map with the density."""
    place = f"Refine/{Path(table).parent.name}_{seed}"
    (data / place).mkdir(parents=True)
    words = (
        f"--o {place}/run --i {table} --ref start.mrc --ctf --ctf_corrected_ref --iter {ITERATIONS} --K 1 "
        f"--tau2_fudge 1 --particle_diameter {2.6 * RADIUS:.0f} --flatten_solvent --zero_mask --oversampling 1 "
        "--healpix_order 4 --sigma_ang 2 --offset_range 4 --offset_step 1 --sym C1 --norm --scale --pool 20 "
        f"--j {threads} --dont_combine_weights_via_disc --firstiter_cc --ini_high {START:.0f} --random_seed {seed}"
    )
    run(data, ["relion_refine", *words.split()])
    curve = shell_correlation(mrcfile.read(data / place / f"run_it{ITERATIONS:03d}_class001.mrc"), density())
    print(f"{place}: {resolution(curve):.2f} Å", flush=True)
    return {"seed": seed, "resolution_angstrom": resolution(curve), "correlation": curve.tolist()}


# What came of it -----------------------------------------------------------------------------------------------------


def spheres() -> NDArray[np.int64]:
    """The shell of each coefficient of a map's transform."""
    axis = np.fft.fftfreq(BOX, 1 / BOX)
    radius = np.sqrt(axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis[None, None, :] ** 2)
    return np.round(radius).astype(np.int64)


def shell_correlation(found: NDArray[np.float32], wanted: Floats) -> Floats:
    """Fourier shell correlation of two maps within a soft sphere, shells 0 ... BOX / 2."""
    axis = np.arange(BOX) - BOX // 2
    radius = np.sqrt(axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis[None, None, :] ** 2) * PIXEL
    edge = np.clip((radius - 1.25 * RADIUS) / (5 * PIXEL), 0, 1)
    mask = 0.5 + 0.5 * np.cos(np.pi * edge)
    one, other = (np.fft.fftn(values.astype(np.float64) * mask) for values in (found, wanted))
    shells, last = spheres().ravel(), BOX // 2

    def summed(values: Floats) -> Floats:
        return np.bincount(shells, values.ravel())[: last + 1]

    return summed((one * other.conj()).real) / np.sqrt(summed(np.abs(one) ** 2) * summed(np.abs(other) ** 2))


def resolution(curve: Floats) -> float:
    """Å at which a correlation falls below one half, between shells linearly; Nyquist where it does not."""
    for shell, (before, after) in enumerate(itertools.pairwise(curve.tolist())):
        if after < 0.5 <= before:
            return BOX * PIXEL / (shell + (before - 0.5) / (before - after))
    return 2 * PIXEL


def low_passed(values: Floats, angstrom: float) -> Floats:
    """A map without what is finer than a resolution: a Gaussian's width in Fourier space."""
    weight = np.exp(-((spheres() * angstrom / (BOX * PIXEL)) ** 2))
    return np.fft.ifftn(np.fft.fftn(values) * weight).real


def report(figures: dict[str, list[dict[str, Any]]]) -> None:
    """Print the table of docs/proof.md: correlations of the shells that every map shows, seed by seed."""
    curves = {name: np.array([one["correlation"] for one in seeds]) for name, seeds in figures.items()}
    shown = min(int(np.argmax(curve < 0.5)) for every in curves.values() for curve in every)
    finest = BOX * PIXEL / (shown - 1)
    print(f"| | resolution, Å | mean correlation to {finest:.1f} Å | at {finest:.1f} Å |\n|---|---|---|---|")
    for name, seeds in figures.items():
        texts = [f"{one['resolution_angstrom']:.2f}" for one in seeds]
        means = [f"{curve[1:shown].mean():.5f}" for curve in curves[name]]
        last = [f"{curve[shown - 1]:.3f}" for curve in curves[name]]
        print(f"| {name} | {' '.join(texts)} | {' '.join(means)} | {' '.join(last)} |")


if __name__ == "__main__":
    main()
