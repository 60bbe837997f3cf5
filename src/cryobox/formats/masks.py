"""Masks of what is junk on a micrograph: MRC maps of MicrographCleaner, label maps of CryoSPARC's junk detector."""

from __future__ import annotations

import glob
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cryobox.errors import InputError, MicrographError
from cryobox.formats import mrc
from cryobox.formats.files_read import note
from cryobox.formats.folders import files_below, names_of_files
from cryobox.formats.opening import MAX_PIXELS, open_regular
from cryobox.formats.star_text import listed
from cryobox.matching import NO_STRIP, Strip, match_names
from cryobox.micrograph import Micrographs
from cryobox.paths import Start

__all__ = ["MASK_SUFFIXES", "FoundMasks", "Mask", "find_masks", "read_mask"]

_LABELS = ".npy"
MASK_SUFFIXES = (_LABELS, *(kind + packing for kind in (".mrc", ".mrcs", ".map") for packing in ("", ".gz", ".bz2")))
ROUNDING = 1e-3  # of a mask in float16, or smoothed: values a little below 0 and above 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Mask:
    """What one mask says of its micrograph, over the same field of view in pixels of its own.

    Parameters
    ----------
    path : str
    bad : ndarray, shape (ny, nx)
        float32: how bad each pixel is, from 0 to 1. bool, of a label map: whether it has another label than 0.
    """

    path: str
    bad: NDArray[Any]

    @property
    def labels(self) -> bool:
        """Whether it is a label map."""
        return self.bad.dtype == np.bool_


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundMasks:
    """The masks of micrographs.

    Parameters
    ----------
    source : str
        As it was given, for messages.
    paths : mapping of int to str
        The mask of each row of the micrographs' table that has one.
    warnings : tuple of str
    """

    source: str
    paths: Mapping[int, str]
    warnings: tuple[str, ...] = ()


def find_masks(
    named: str,
    micrographs: Micrographs,
    *,
    start: Start,
    strip: Strip = NO_STRIP,
    ready: Callable[[str], bool] | None = None,
) -> FoundMasks:
    """Find the mask of each micrograph by its name, as coordinate files are found.

    Parameters
    ----------
    named : str
        A folder, whose files and those of the folders below it count; a pattern; or one file.
    micrographs : Micrographs
    start : Start
        Where relative ones start.
    strip : Strip
        Text that is not compared.
    ready : callable, optional
        Which files may be read now.

    Raises
    ------
    InputError
        If there are none, if none belongs to a micrograph, or two belong to one.
    """
    whole = Path(start.whole(named))
    folder = whole if whole.is_dir() else None
    if folder is not None:
        paths = [path for path in files_below(folder) if _is_mask(path)]
    elif whole.exists():
        paths = [whole]
    elif glob.has_magic(named):
        found = glob.glob(named, root_dir=start.directory, recursive=True)
        paths = [path for path in map(Path, map(start.whole, sorted(found))) if _is_mask(path) and path.is_file()]
    else:
        raise InputError(f"{whole}: no such file or folder of masks (--junk-masks)")
    if ready is not None:
        paths = [path for path in paths if ready(str(path))]
    if not paths or not all(map(_is_mask, paths)):
        raise InputError(f"{whole}: no masks there (--junk-masks); expected files that end with {listed_types()}")
    names, told = names_of_files(
        str(whole), paths, folder=folder, types=MASK_SUFFIXES, micrographs=micrographs, suffix=None, strip=strip,
        what="masks",
    )  # fmt: skip
    match, _ = match_names(
        names, micrographs.names, picks_source=str(whole), micrographs_source=micrographs.source, strip=strip,
        whose="masks",
    )  # fmt: skip
    of_row: dict[int, str] = {}
    for row, path in zip(match.tolist(), map(str, paths), strict=True):
        if row >= 0 and of_row.setdefault(row, path) != path:
            raise InputError(f"{path}: is a mask of {micrographs.names[row]}, and so is {of_row[row]}; expected one")
    return FoundMasks(source=str(whole), paths=of_row, warnings=told)


def listed_types() -> str:
    """What masks may end with, in a sentence."""
    return listed(list(MASK_SUFFIXES), len(MASK_SUFFIXES))


def _is_mask(path: Path) -> bool:
    return path.name.lower().endswith(MASK_SUFFIXES)


def read_mask(path: str) -> Mask:
    """Read one mask.

    Raises
    ------
    InputError
        If it cannot be read, or its values are not those of a mask.
    """
    note(path)
    return Mask(path=path, bad=_read_labels(path) if path.lower().endswith(_LABELS) else _read_map(path))


def _read_map(path: str) -> NDArray[np.float32]:
    try:
        header = mrc.read_header(path)
        values = np.empty(header.shape, header.dtype)
        mrc.read_pixels_into(values, path, header)
    except MicrographError as error:
        raise InputError(f"{error}; it was read as a mask of --junk-masks") from error
    found: NDArray[np.float32] = values.astype(np.float32, copy=False)
    lowest, highest = float(found.min()), float(found.max())
    if not (lowest >= -ROUNDING and highest <= 1 + ROUNDING):  # a nan is in no order
        said = "values that are no numbers" if math.isnan(lowest + highest) else f"{lowest:g} to {highest:g}"
        raise InputError(
            f"{path}: not a mask of a micrograph: holds {said}, expected 0 (good) to 1 (bad); does --junk-masks name "
            f"the masks?"
        )
    return found.clip(0, 1) if lowest < 0 or highest > 1 else found


def _read_labels(path: str) -> NDArray[np.bool_]:
    try:
        with open_regular(path) as (descriptor, status), open(descriptor, "rb", closefd=False) as file:
            shape, order, kind = _shape_of(path, file, status.st_size)
            raw = file.read(math.prod(shape) * kind.itemsize)
    except MicrographError as error:
        raise InputError(f"{error}; it was read as a label map of --junk-masks") from error
    labels = np.frombuffer(raw, kind).reshape(shape, order=order)
    if kind.kind == "f" and not (np.isfinite(labels).all() and (labels == np.trunc(labels)).all()):
        raise InputError(f"{path}: holds numbers that are not whole; expected labels, 0 for what is clean")
    if kind.kind != "b" and labels.min() < 0:
        raise InputError(f"{path}: holds the label {labels.min():g}; expected 0 for what is clean, others more")
    found: NDArray[np.bool_] = labels > 0
    return found


def _shape_of(path: str, file: Any, size: int) -> tuple[tuple[int, int], Literal["C", "F"], np.dtype[Any]]:
    """Shape, order and type of a map of labels, from the file's header: its pixels come next."""
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, by_columns, kind = read(file)
    except ValueError as error:
        raise InputError(f"{path}: not a NumPy file: {error}") from error
    sides = [side for side in shape if side != 1] if len(shape) > 2 else list(shape)
    if len(sides) != 2 or 0 in sides or math.prod(sides) > MAX_PIXELS:
        raise InputError(f"{path}: its shape is {shape}; expected a map of labels, (ny, nx)")
    if kind.kind not in "buif":
        raise InputError(f"{path}: holds {kind}; expected labels, whole numbers")
    held = size - file.tell()
    if held < math.prod(sides) * kind.itemsize:
        raise InputError(
            f"{path}: its header says {shape} {kind.name} ({math.prod(sides) * kind.itemsize} bytes), file holds "
            f"{held}; copied incompletely?"
        )
    return (sides[0], sides[1]), "F" if by_columns else "C", kind
