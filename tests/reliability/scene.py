"""A run on small files, started as a user starts it, and what its output folder holds: for tests of interruptions."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import synth

TABLES = ("particles.star", "particles_small.star", "rejected.star", "micrographs_incomplete.star")
OPTIONS = ("--box", "40", "--fcrop", "36", "--small", "32", "--workers", "1", "--quiet")


@dataclass(frozen=True, slots=True)
class Scene:
    """A data set: `folder` is the working directory of every run on it."""

    folder: Path
    names: tuple[str, ...]

    def command(self, out: Path | str, *more: str, options: Sequence[str] = OPTIONS) -> list[str]:
        """Arguments of `cryobox`."""
        return ["extract", "picks.star", "-m", "micrographs.star", "-o", str(out), *options, *more]

    def run(self, out: Path | str, *more: str, **settings: object) -> subprocess.CompletedProcess[str]:
        """Run `cryobox extract` in a process of its own."""
        return cryobox(self.command(out, *more), self.folder, **settings)

    def picks(self, seed: int = 0, count: int = 5) -> None:
        """Write picks; the first of every micrograph is too near the edge."""
        rng = np.random.default_rng(seed)
        centers = rng.integers(16, 80, (len(self.names), count, 2))
        centers[:, 0] = 3
        synth.write_star(
            self.folder / "picks.star",
            {
                "particles": {
                    "rlnMicrographName": [name for name in self.names for _ in range(count)],
                    "rlnCoordinateX": [f"{x:.6f}" for x in centers[..., 1].ravel()],
                    "rlnCoordinateY": [f"{y:.6f}" for y in centers[..., 0].ravel()],
                }
            },
        )


def make_scene(folder: Path, micrographs: int = 3, picks: int = 5, *, shape: tuple[int, int] = (96, 96)) -> Scene:
    """Write micrographs, one of which has dead pixels under a pick, and their tables."""
    names = tuple(f"mics/m{number:04d}.mrc" for number in range(micrographs))
    scene = Scene(folder, names)
    for number, name in enumerate(names):
        image = synth.micrograph(shape, seed=number)
        if number == 1:
            image[40:44, 40:44] = np.nan
        synth.write_mrc(folder / name, image, pixel_size=1.5)
    write_micrographs(scene)
    scene.picks(count=picks)
    return scene


def write_micrographs(scene: Scene) -> None:
    """Write the table of micrographs."""
    synth.write_star(
        scene.folder / "micrographs.star",
        {
            "optics": {
                "rlnOpticsGroupName": ["opticsGroup1"],
                "rlnOpticsGroup": [1],
                "rlnMicrographPixelSize": [1.5],
                "rlnVoltage": [300],
                "rlnSphericalAberration": [2.7],
                "rlnAmplitudeContrast": [0.1],
            },
            "micrographs": {"rlnMicrographName": scene.names, "rlnOpticsGroup": [1] * len(scene.names)},
        },
    )


def cryobox(arguments: Sequence[str], folder: Path, **settings: object) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    return subprocess.run(  # type: ignore[call-overload,no-any-return]
        [sys.executable, "-m", "cryobox", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=120,
        **settings,
    )


def contents(out: Path) -> dict[str, str]:
    """A hash of every file that a user would look at; job.json without its times."""
    found = {}
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        if path.is_dir() or name.startswith((".lock", "ledger", "report", "run.")):
            continue
        data = path.read_bytes()
        if path.name == "job.json":
            record = json.loads(data)
            del record["seconds"], record["digest"]
            data = json.dumps(record).encode()
        found[name] = hashlib.sha256(data).hexdigest()
    return found


def identities(out: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of change of every finished stack: a stack that is made again has others."""
    return {
        path.relative_to(out).as_posix(): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in sorted(out.glob("stacks*/[!.]*"))
    }


def recorded_stacks(out: Path) -> set[str]:
    """Stacks that the ledger holds as finished, and that are there."""
    ledger = out / "ledger.jsonl"
    lines = ledger.read_bytes().split(b"\n")[:-1] if ledger.exists() else []
    found: set[str] = set()
    for line in map(json.loads, lines):
        found |= {stack["path"] for stack in line.get("stacks", ())}
    return {path for path in found if (out / path).exists()}


def leftovers(out: Path) -> list[str]:
    """Files that were not finished."""
    return [path.relative_to(out).as_posix() for path in out.rglob(".*") if path.name.endswith(".tmp")]


def no_traceback(process: subprocess.CompletedProcess[str]) -> bool:
    """Whether a process ended as one that knows what it does."""
    return "Traceback" not in process.stderr + process.stdout and process.returncode in (0, 1, 2, 3, 130)


def environment(**more: str) -> dict[str, str]:
    """The environment of this process, and more."""
    return os.environ | more
