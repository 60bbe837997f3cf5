"""Files for the tests of checks: sound ones, and changes to their bytes. Written without the package."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import synth
from cryobox.soundness import Soundness, check_files

FIELDS = {"nx": 0, "nz": 8, "mode": 12, "dmin": 76, "dmax": 80, "dmean": 84, "nsymbt": 92, "rms": 216}


def check(*paths: Path, images: bool | None = None) -> list[Soundness]:
    return list(check_files(paths, images=images))


def faults(path: Path, *, images: bool | None = None) -> list[str]:
    """The faults of one file, and of what it names."""
    return [problem.fault.value for found in check(path, images=images) for problem in found.problems]


def only_problem(path: Path) -> tuple[str, str, tuple[int, ...]]:
    """Fault, text and numbers of the one problem that a file has."""
    (found,) = check(path)
    (problem,) = found.problems
    return problem.fault.value, problem.text, problem.numbers


def images(n: int = 12, side: int = 32, dtype: str = "float32", *, seed: int = 0) -> NDArray[Any]:
    """Noise with mean 0 and sd 1, as normalized particles have it."""
    return np.random.default_rng(seed).standard_normal((n, side, side)).astype(dtype)


def stack(path: Path, content: NDArray[Any] | None = None, **options: Any) -> Path:
    content = images() if content is None else content
    with np.errstate(invalid="ignore"):  # the standard deviation of what holds an infinity
        return synth.write_mrc(path, content, stack=True, **{"pixel_size": 1.5} | options)


def change(path: Path, **fields: float) -> Path:
    """Other values in a header."""
    data = bytearray(path.read_bytes())
    for name, value in fields.items():
        struct.pack_into("<f" if isinstance(value, float) else "<i", data, FIELDS[name], value)
    path.write_bytes(data)
    return path
