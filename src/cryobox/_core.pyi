"""What the compiled core on the CPU offers; `cryobox.core` is its face."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

openmp: bool
simd: str
max_threads: int

def extract(
    image: NDArray[Any],
    corners: NDArray[np.int64],
    outputs: list[NDArray[Any]],
    *,
    box: int,
    radii: list[float],
    pad: bool,
    threads: int,
    **steps: float | None,  # the fields of `options.Steps`
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]: ...
def fourier_crop(images: NDArray[np.float32], output: NDArray[np.float32], *, threads: int) -> None: ...
def mean(image: NDArray[Any]) -> float: ...
def repair_hot_pixels(image: NDArray[Any], *, threshold: float, seed: int) -> int: ...
def fftw_version() -> str: ...
