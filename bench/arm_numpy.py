"""Careful NumPy and scipy.fft: what a good programmer writes in an afternoon, with as many workers as ours.

Windows are gathered in stacks that stay in cache, planes are fitted to all images of a stack by one matrix product,
everything is float32, buffers for files are reused. With `--pruned` the columns that a crop throws away are not
transformed, which is this project's own idea in NumPy's words.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from bench.cases import Case, DataSpec, case
from bench.dataset import positions
from bench.machine import laps, let_go, own_peak_mb

__all__ = ["Normalizer", "extract", "main", "read_micrograph", "read_positions"]

CHUNK = 16  # windows at once: 10 MB for box 400; 8 to 32 were equally fast


@dataclass(frozen=True, slots=True)
class Normalizer:
    """Plane fit and background of images of one size, as matrices."""

    background: NDArray[np.intp]
    design: NDArray[np.float32]
    solve: NDArray[np.float32]

    @classmethod
    def of(cls, size: int) -> Normalizer:
        """Matrices for images of `size`, background beyond int(0.375 * size)."""
        index = np.arange(size) - size // 2
        y, x = np.meshgrid(index, index, indexing="ij")
        background = np.flatnonzero((y * y + x * x > int(0.375 * size) ** 2).ravel())
        design = np.stack([np.ones(size * size), y.ravel() / size, x.ravel() / size])
        solve = np.linalg.pinv(design[:, background])
        return cls(background, design.astype(np.float32), solve.astype(np.float32))

    def apply(self, images: NDArray[np.float32], sign: int) -> None:
        """Normalize `images` (n, size, size) in place."""
        flat = images.reshape(len(images), -1)
        flat -= (flat[:, self.background] @ self.solve) @ self.design
        outside = flat[:, self.background]
        flat *= (sign / outside.std(axis=1))[:, None]


def extract(
    image: NDArray[Any],
    centers: NDArray[np.int64],
    what: Case,
    normalizers: tuple[Normalizer, ...],
    *,
    pruned: bool = False,
) -> tuple[NDArray[np.float32], ...]:
    """One stack of images for each of the case's sizes."""
    from scipy import fft

    box = what.box
    corners = centers - box // 2
    windows = sliding_window_view(image, (box, box))[corners[:, 0], corners[:, 1]].astype(np.float32, copy=False)
    results = []
    if what.crops:
        windows -= windows.mean(axis=(1, 2), dtype=np.float64, keepdims=True).astype(np.float32)
        half = what.sizes[0] // 2
        if pruned:
            rows = fft.rfft(windows, axis=2, overwrite_x=True)
            kept = fft.fft(rows[:, :, : half + 1], axis=1)
        else:
            kept = fft.rfft2(windows, overwrite_x=True)
    for size, normalizer in zip(what.sizes, normalizers, strict=True):
        if size == box:
            images = windows
        else:
            half = size // 2
            small = np.empty((len(windows), size, half + 1), dtype=np.complex64)
            small[:, :half] = kept[:, :half, : half + 1]
            small[:, half + 1 :] = kept[:, box - half + 1 :, : half + 1]
            small[:, half] = (kept[:, half, : half + 1] + kept[:, box - half, : half + 1]) * np.float32(0.5)
            images = fft.irfft2(small, s=(size, size), overwrite_x=True)
        normalizer.apply(images, -1 if what.invert else 1)
        results.append(images)
    return tuple(results)


def read_positions(spec: DataSpec) -> list[NDArray[np.int64]]:
    """Centers (y, x) of the picks, one array per micrograph."""
    y, x = positions(spec)
    return list(np.stack([y, x], axis=1).reshape(spec.micrographs, spec.picks, 2))


def read_micrograph(path: Path, spec: DataSpec, into: NDArray[Any] | None = None) -> NDArray[Any]:
    """The pixels of a generated micrograph, into a buffer if one is given."""
    pixels = np.empty(spec.shape, dtype=spec.dtype) if into is None else into
    with path.open("rb", buffering=0) as file:
        file.seek(1024)
        file.readinto(pixels.data.cast("B"))
    return pixels


def _one_micrograph(
    path: Path,
    centers: NDArray[np.int64],
    what: Case,
    normalizers: tuple[Normalizer, ...],
    out: Path,
    state: Any,
    pruned: bool,
) -> None:
    if not hasattr(state, "pixels"):
        state.pixels = np.empty(what.data.shape, dtype=what.data.dtype)
    image = read_micrograph(path, what.data, state.pixels)
    files = [(out / f"{path.stem}_{size}.mrcs").open("wb", buffering=0) for size in what.sizes]
    for file in files:
        file.write(bytes(1024))
    for at in range(0, len(centers), CHUNK):
        stacks = extract(image, centers[at : at + CHUNK], what, normalizers, pruned=pruned)
        for file, images in zip(files, stacks, strict=True):
            file.write(np.ascontiguousarray(images.astype(what.dtype, copy=False)).data.cast("B"))
    for file in files:
        file.close()


def main() -> None:
    """Parse the arguments, run, print one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--case", required=True)
    parser.add_argument("--list", type=Path, required=True, help="file with one micrograph's path per line")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--pruned", action="store_true")
    arguments = parser.parse_args()
    start = time.perf_counter()
    from scipy import fft  # noqa: F401, loaded here so that its time is apart

    imported = time.perf_counter() - start
    paths = [Path(line) for line in arguments.list.read_text().splitlines()]
    what = case(arguments.case).with_micrographs(len(paths))
    normalizers = tuple(Normalizer.of(size) for size in what.sizes)
    centers = read_positions(what.data)
    waited = let_go()
    with ThreadPoolExecutor(arguments.workers) as pool:
        if what.kind == "memory":
            image = read_micrograph(paths[0], what.data)
            parts = [centers[0][at : at + CHUNK] for at in range(0, len(centers[0]), CHUNK)]
            _, seconds = laps(
                lambda: list(
                    pool.map(lambda part: extract(image, part, what, normalizers, pruned=arguments.pruned), parts)
                )
            )
        else:
            state = threading.local()
            start = time.perf_counter()
            jobs = [
                pool.submit(_one_micrograph, path, rows, what, normalizers, arguments.out, state, arguments.pruned)
                for path, rows in zip(paths, centers, strict=True)
            ]
            for job in jobs:
                job.result()
            seconds = time.perf_counter() - start
    said = {"import_seconds": imported, "seconds": seconds, "peak_rss_mb": own_peak_mb(), "waited": waited}
    print(json.dumps(said))


if __name__ == "__main__":
    main()
