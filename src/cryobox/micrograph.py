"""Micrographs: what header and table say of them, no pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["PIXEL_SIZE_ERROR", "PIXEL_SIZE_WARNING", "ImageHeader", "Micrographs", "Optics"]

# Two pixel sizes of one micrograph may differ: recalibrated data.
PIXEL_SIZE_WARNING = 1.01  # factor from which it is said
PIXEL_SIZE_ERROR = 1.4  # from which one of them is wrong, or of another binning


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageHeader:
    """What the file of one micrograph says of itself.

    Parameters
    ----------
    shape : tuple of int
        (ny, nx).
    dtype : numpy.dtype
        Of the stored pixels, with their byte order.
    offset : int
        Bytes before the first pixel; -1 where the pixels do not lie plainly in the file (compressed, TIFF).
    pixel_size : float
        Å per pixel; nan where the header has none or only a placeholder (0 or exactly 1.0).
    file_size : int
        Bytes of the file on disk.
    mtime_ns : int
        When it was changed last.
    warnings : tuple of str
        Oddities that were tolerated; each begins with the path.
    """

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    offset: int
    pixel_size: float
    file_size: int
    mtime_ns: int
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Optics:
    """One optics group. `columns` keeps every column of its row in a STAR file, as text, tags with the underscore."""

    name: str
    voltage_kv: float = float("nan")
    cs_mm: float = float("nan")
    amplitude_contrast: float = float("nan")
    pixel_size: float = float("nan")
    group_id: int = 0  # rlnOpticsGroup or exp_group_id as the table numbers it
    columns: dict[str, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Micrographs:
    """The micrographs that a user named, as columns of equal length.

    Parameters
    ----------
    family : {"star", "cs", "plain"}
        "plain": a folder, a glob or a list of files.
    source : str
        What the user gave, for messages.
    names : tuple of str
        As the table writes them (a leading `>` taken off).
    paths : tuple of str
        Where each file was found; for a missing file the path where it was looked for first.
    uids : ndarray, uint64, optional
    pixel_size : ndarray, float64
        Å per pixel as the table says; nan where it does not.
    shape : ndarray, shape (n, 2), int64
        (ny, nx) as the table says; 0 where it does not.
    optics : tuple of Optics
    optics_index : ndarray, intp
        Index into `optics`; -1 where there is none.
    ctf : dict of str to ndarray, float64
        Å, degrees; nan where unknown. Keys: some of `formats.columns.CTF_NEUTRAL`; a missing key means that the table
        has no such column.
    ctf_type : tuple of str, optional
        One per micrograph: ctf/type ("spline", "imported", ...), where the table is a `.cs`.
    table : object
        The table itself, for its format's module.
    warnings : tuple of str
    """

    family: Literal["star", "cs", "plain"]
    source: str
    names: tuple[str, ...]
    paths: tuple[str, ...]
    uids: NDArray[np.uint64] | None = None
    pixel_size: NDArray[np.float64]
    shape: NDArray[np.int64]
    optics: tuple[Optics, ...] = ()
    optics_index: NDArray[np.intp]
    ctf: dict[str, NDArray[np.float64]]
    ctf_type: tuple[str, ...] | None = None
    table: Any = None
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)
