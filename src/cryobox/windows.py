"""What is cut, what is stored of it and what came of it: the values that go into the core and come out of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryobox.groups import StoredDtype

__all__ = ["CTF", "STATISTICS", "Status", "Stored", "Windows", "mixed", "noise_keys"]

STATISTICS = (
    "minimum", "maximum", "mean", "sd", "background_mean", "background_sd", "clamped", "dust", "crowded",
    "contrast", "signal_to_noise", "local_variance", "saturated",
)  # fmt: skip
"""Columns of the statistics. The first four are those of the stored image before a cast to float16; the background's
are in gray levels of the micrograph, the mean before and the sd after the ramp is subtracted (0 without `normalize`);
`clamped` counts pixels beyond ±65504 in float16, `dust` pixels that were replaced; `crowded` is 1 where neighbors would
have left too little of the background. The last four are 0 unless `Steps.measures` asks for them: see
`reference.measures`."""


CTF = (
    "voltage_kv", "cs_mm", "amplitude_contrast", "defocus_u_angstrom", "defocus_v_angstrom", "defocus_angle_degrees",
    "phase_shift_degrees", "ctf_bfactor", "ctf_scale", "magnification_00", "magnification_01", "magnification_10",
    "magnification_11",
)  # fmt: skip
"""Numbers of a window's CTF, as cpp/include/cryobox/ctf.hpp has them; even Zernike coefficients follow."""


class Status(IntEnum):
    """What became of one particle; the values are the core's."""

    OK = 0
    OUTSIDE = 1
    NOT_FINITE = 2
    NO_CONTRAST = 3
    FILTERED = 4  # by the engine, for its measures: the core has no such value


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """Squares of a micrograph, in columns: one entry a window.

    Parameters
    ----------
    box : int
        Side in pixels.
    pad : bool
        Repeat the nearest pixel of the edge where a window hangs over, instead of refusing it.
    corner : ndarray, shape (n, 2), int64
        First pixel (y, x) of each; may lie outside the micrograph.
    fill : float, optional
        What stands outside the micrograph while a CTF is applied: its mean; None where it was not needed yet.
    pixel_size : float
        Å, where something is done that depends on it.
    residual : ndarray, shape (n, 2), float64, optional
        (y, x) in pixels by which each image is moved to be centered, beyond whole pixels.
    angle : ndarray, shape (n,), float64, optional
        Psi of the tube through each, degrees, as rlnAnglePsiPrior.
    neighbors : ndarray, shape (m, 2), float64, optional
        Centers (y, x) of all particles of the micrograph, from the top down: what lies within the background radius of
        one is no background.
    seed : int
        A number for the micrograph, which noise and samples begin with.
    ctf : ndarray, shape (n, len(CTF) + terms), float64, optional
        The CTF of each, where it is applied.
    """

    box: int
    pad: bool
    corner: NDArray[np.int64]
    fill: float | None = None
    pixel_size: float = math.nan
    residual: NDArray[np.float64] | None = None
    angle: NDArray[np.float64] | None = None
    neighbors: NDArray[np.float64] | None = None
    seed: int = 0
    ctf: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.corner)

    def take(self, rows: Any) -> Windows:
        """Some of them: `rows` is a slice, a mask or an array of indices."""
        columns = {name: values[rows] for name, values in self.columns().items()}
        return replace(self, corner=self.corner[rows], **columns)

    def columns(self) -> dict[str, NDArray[np.float64]]:
        """What this run knows of each window beside its place."""
        every = {"residual": self.residual, "angle": self.angle, "ctf": self.ctf}
        return {name: values for name, values in every.items() if values is not None}

    def noise_keys(self) -> NDArray[np.uint64]:
        """What the noise of each begins with: equal for equal windows of one micrograph, whoever cuts them."""
        return noise_keys(self.seed, self.corner)

    def axes(self) -> NDArray[np.float64]:
        """Cosine and sine of each `angle`: by the C library, one by one, as NumPy's own differ between processors."""
        angles = map(math.radians, [] if self.angle is None else self.angle.tolist())
        return np.array([(math.cos(one), math.sin(one)) for one in angles]).reshape(-1, 2)

    def hang_over(self, side: int, shape: tuple[int, int]) -> bool:
        """Whether windows of `side` about the same centers have pixels outside a micrograph of `shape`."""
        first = self.corner - (side - self.box) // 2
        return bool((first < 0).any() or (first + side > np.asarray(shape)).any())

    def rows_needed(self, ny: int) -> tuple[int, int]:
        """First row that any window touches of a micrograph of `ny` rows, and one past the last."""
        if self.ctf is not None:  # its mean stands outside
            return 0, ny
        top = int(self.corner[:, 0].min())
        bottom = int(self.corner[:, 0].max()) + self.box
        # A padded window repeats the edge row, so at least that one is needed.
        return min(max(top, 0), ny - 1), max(min(bottom, ny), 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One of the sizes that images are stored at.

    Parameters
    ----------
    size : int
        Side in pixels, even, at most the box.
    dtype : {"float32", "float16"}
        Type of the pixels.
    background_radius : float
        Pixels from the center beyond which a pixel is background, 1 <= radius < size / 2; of a tube from its axis,
        above 0 and at most size / 2 - 1. Used only to normalize.
    """

    size: int
    dtype: StoredDtype
    background_radius: float

    @property
    def bytes_per_image(self) -> int:
        """Bytes of one image."""
        return self.size**2 * np.dtype(self.dtype).itemsize


def noise_keys(seed: int, pairs: NDArray[np.int64]) -> NDArray[np.uint64]:
    """A number for each pair of numbers, shape (n, 2), and a seed: what noise begins with, or is drawn by."""
    first, second = pairs.astype(np.uint64).T
    return mixed(mixed(mixed(np.full(len(pairs), seed, np.uint64)) + first) + second)


def mixed(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finalizer of SplitMix64, as cpp/include/cryobox/noise.hpp has it."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
