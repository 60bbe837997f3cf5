"""How often the check of picks is wrong: sets of right picks of many kinds, and the same picks moved on purpose.

python -m bench.right_picks                  # 1,000 sets, a few minutes; the result goes to bench/results
python -m bench.right_picks --sets 60        # a quick look
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
from numpy.typing import NDArray

from bench.machine import save
from cryobox.fit import Fit, check_fit
from cryobox.given import Given
from cryobox.inputs import prepare
from cryobox.options import Recipe

KINDS = (
    "plain", "noisy", "very noisy", "sparse", "crowded", "lattice", "denoised", "inverted", "helices", "carbon", "dirt",
    "noisy dirt",
)  # fmt: skip
PIXEL_SIZE = 4.0  # Å, of micrographs as the check bins them
MOVES = ("x flipped", "y flipped", "x and y flipped", "times 2", "times 4", "random")

Floats = NDArray[np.float64]


def simulated(kind: str, rng: np.random.Generator) -> tuple[list[NDArray[np.float32]], list[Floats], int]:
    """Micrographs, the centers (y, x) of the particles picked on each, and a box."""
    diameter = rng.uniform(18, 42)
    box = 2 * round(diameter * rng.uniform(1.25, 2.4) / 2)
    shape = (int(rng.integers(500, 800)), int(rng.integers(500, 900)))
    strength = {"noisy": 0.35, "very noisy": 0.08, "noisy dirt": 0.08}.get(kind, 1.0) * rng.uniform(0.5, 1.5)
    images, picks = [], []
    for _ in range(int(rng.integers(2, 5))):
        carbon = _region(shape, rng) if kind == "carbon" else np.zeros(shape)
        center = _centers(kind, shape, diameter, rng)
        center = center[carbon[tuple(center.astype(int).T)] < 0.5]
        density = _density(center, shape, diameter, rng) * strength + rng.normal(0, 0.25, shape) + 0.8 * carbon
        if "dirt" in kind:
            crystals = rng.uniform(0, 1, (int(rng.integers(3, 12)), 2)) * shape
            density += 6 * _density(crystals, shape, diameter * rng.uniform(0.6, 2), rng)
        image = _through_the_microscope(density, rng) + rng.normal(0, 1, shape) * (1 + 0.5 * carbon)
        if kind == "denoised":
            image = _smoothed(image, rng.uniform(2, 5))
        y, x = (np.linspace(-1, 1, side) for side in shape)
        image += rng.uniform(-1, 1) * y[:, None] + rng.uniform(-1, 1) * x[None, :]
        images.append((image * (-1 if kind == "inverted" else 1) * 3 + 20).astype(np.float32))
        picks.append(center + rng.normal(0, 0.06 * diameter, center.shape))
    return images, picks, box


def _centers(kind: str, shape: tuple[int, int], diameter: float, rng: np.random.Generator) -> Floats:
    if kind == "helices":
        found = []
        for _ in range(int(rng.integers(1, 7))):
            angle, start = rng.uniform(0, np.pi), rng.uniform(0.2, 0.8, 2) * shape
            steps = np.arange(-400, 400, diameter * rng.uniform(0.15, 0.6))
            found.append(start + steps[:, None] * (np.sin(angle), np.cos(angle)))
        points = np.concatenate(found)
    elif kind == "lattice":
        turn, step = rng.uniform(0, np.pi), diameter * rng.uniform(1.0, 1.3)
        grid = np.stack(np.meshgrid(np.arange(-40, 40), np.arange(-40, 40)), -1).reshape(-1, 2).astype(np.float64)
        grid[:, 0] += 0.5 * grid[:, 1]
        grid[:, 1] *= np.sqrt(0.75)
        c, s = np.cos(turn), np.sin(turn)
        points = grid @ np.array([[c, s], [-s, c]]) * step + np.array(shape) * rng.uniform(0.4, 0.6, 2)
    else:
        spacing = {"crowded": 0.95, "sparse": 2.0}.get(kind, rng.uniform(1.1, 2.0)) * diameter
        most = {"crowded": 500, "sparse": int(rng.integers(3, 11))}.get(kind, int(rng.integers(30, 120)))
        kept: list[Floats] = []
        for dart in rng.uniform(0, 1, (1500, 2)) * shape:
            if len(kept) < most and (not kept or np.hypot(*(np.array(kept) - dart).T).min() > spacing):
                kept.append(dart)
        points = np.array(kept)
    return points[((points >= 0) & (points < shape)).all(axis=1)]


def _density(center: Floats, shape: tuple[int, int], diameter: float, rng: np.random.Generator) -> Floats:
    """Particles of three soft balls each, turned anyhow."""
    density = np.zeros(shape)
    for ball in rng.uniform(-0.25, 0.25, (3, 2)) * diameter:
        turn = rng.uniform(0, 2 * np.pi, len(center))
        c, s = np.cos(turn), np.sin(turn)
        at = np.rint(center + np.stack([c * ball[0] - s * ball[1], s * ball[0] + c * ball[1]], 1)).astype(int)
        at = at[((at >= 0) & (at < shape)).all(axis=1)]
        np.add.at(density, tuple(at.T), 1.0)
    width = 0.2 * diameter
    return _smoothed(density, width) * (2 * np.pi * width**2)


def _smoothed(image: Floats, width: float) -> Floats:
    fy, fx = np.fft.fftfreq(image.shape[0])[:, None], np.fft.rfftfreq(image.shape[1])[None, :]
    kept = np.exp(-2 * (np.pi * width) ** 2 * (fy**2 + fx**2))
    found: Floats = np.fft.irfft2(np.fft.rfft2(image) * kept, s=image.shape)
    return found


def _through_the_microscope(density: Floats, rng: np.random.Generator) -> Floats:
    defocus, wavelength = rng.uniform(8000, 28000), 0.0197
    fy, fx = np.fft.fftfreq(density.shape[0], PIXEL_SIZE)[:, None], np.fft.rfftfreq(density.shape[1], PIXEL_SIZE)
    s2 = fy**2 + fx[None, :] ** 2
    ctf = np.sin(-np.pi * wavelength * defocus * s2 - 0.1) * np.exp(-80 * s2 / 4) * 3
    found: Floats = np.fft.irfft2(np.fft.rfft2(density) * ctf, s=density.shape)
    return found


def _region(shape: tuple[int, int], rng: np.random.Generator) -> Floats:
    """Carbon beyond a straight edge."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    angle = rng.uniform(0, 2 * np.pi)
    distance = (y - shape[0] / 2) * np.sin(angle) + (x - shape[1] / 2) * np.cos(angle)
    region: Floats = (distance > rng.uniform(0, 0.25) * min(shape)).astype(np.float64)
    return region


def moved(picks: Sequence[Floats], shape: tuple[int, int], move: str, rng: np.random.Generator) -> list[Floats]:
    """The picks as another program might have written them; "times 2" is what would make them right."""
    extent = np.array(shape) - 1.0
    if move == "random":
        return [rng.uniform(0, 1, some.shape) * extent for some in picks]
    if move.startswith("times"):
        return [some / float(move.split()[1]) for some in picks]
    axes = np.array(["y" in move.split(), "x" in move.split()])
    return [np.where(axes, extent - some, some) for some in picks]


def checked(folder: Path, images: Sequence[NDArray[np.float32]], picks: Sequence[Floats], box: int) -> Fit:
    """What the check says of files as a run reads them."""
    lines = ["data_particles", "", "loop_", "_rlnMicrographName #1", "_rlnCoordinateX #2", "_rlnCoordinateY #3"]
    for number, (image, some) in enumerate(zip(images, picks, strict=True)):
        path = folder / f"m{number}.mrc"
        if not path.exists():
            with mrcfile.new(path) as file:
                file.set_data(image)
                file.voxel_size = PIXEL_SIZE
        lines += [f"m{number}.mrc {x:.3f} {y:.3f}" for y, x in some]
    (folder / "picks.star").write_text("\n".join([*lines, ""]))
    given = Given.of(folder / "picks.star", f"{folder}/m*.mrc", folder)
    return check_fit(prepare(given, recipe=Recipe(box=box)))


def try_sets(sets: int, *, seed: int = 0, kinds: Sequence[str] = KINDS, moves: int = 0) -> dict[str, Any]:
    """Verdicts on right sets, by kind; on the same sets with picks moved, by move; and every false alarm."""
    right: dict[str, Counter[str]] = {kind: Counter() for kind in kinds}
    wrong: dict[str, Counter[str]] = {move: Counter() for move in MOVES}
    alarms: list[str] = []
    for number in range(sets):
        kind = kinds[number % len(kinds)]
        rng = np.random.default_rng([seed, number])
        images, picks, box = simulated(kind, rng)
        with tempfile.TemporaryDirectory() as name:
            found = checked(Path(name), images, picks, box)
            right[kind][found.verdict] += 1
            if found.warning:
                alarms.append(f"set {number}, {kind}: {found.warning.replace(name, '')}")
            if number < moves:
                move = MOVES[(number // len(kinds)) % len(MOVES)]
                found = checked(Path(name), images, moved(picks, images[0].shape, move, rng), box)
                wrong[move][found.verdict] += 1
                if not found.warning:
                    wrong[move]["silent"] += 1
        if number % 100 == 99:
            print(f"{number + 1} of {sets} sets, {len(alarms)} false alarms", file=sys.stderr)
    return {
        "sets": sets, "seed": seed, "false_alarms": len(alarms), "alarms": alarms,
        "right": {kind: dict(found) for kind, found in right.items()},
        "moved": {move: dict(found) for move, found in wrong.items()},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--moved", type=int, default=300, help="Of so many sets the picks are moved, too")
    asked = parser.parse_args()
    began = time.perf_counter()
    found = try_sets(asked.sets, seed=asked.seed, moves=asked.moved)
    print(json.dumps(found, indent=1))
    if asked.sets >= 1000:
        print(save("right_picks", {"seconds": round(time.perf_counter() - began), **found}))


if __name__ == "__main__":
    main()
