"""What is settled about every micrograph before its picks: shape, pixel size, grid of the picks, usable or not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cryobox.bounds import LARGEST_BOX
from cryobox.boxes import nearest_even
from cryobox.errors import InputError, MicrographError, OptionError
from cryobox.micrograph import PIXEL_SIZE_ERROR, PIXEL_SIZE_WARNING, ImageHeader, Micrographs
from cryobox.options import Recipe
from cryobox.particles import Particles

__all__ = ["Grounds", "settle"]

ASPECT_TOLERANCE = 0.01  # two binnings of one field of view: sides in the same ratio within this


@dataclass(frozen=True, slots=True, kw_only=True)
class Grounds:
    """The micrographs as windows meet them: in columns, one entry a row of the micrographs' table.

    Parameters
    ----------
    shape : ndarray, shape (micrographs, 2), int64
        Of the files, (ny, nx); 0 where nobody looked, or it could not be read.
    pixel_size : ndarray, shape (micrographs,), float64
        Å per pixel of the file.
    scale : ndarray, shape (names, 2), float64
        Pixels of the file per pixel of the grid that the picks are on, (y, x), for each of `micrograph_names` of the
        picks; 1 where unknown.
    box : ndarray, shape (micrographs,), int64
        Side of the window in pixels.
    coordinate_scale : ndarray, shape (names,), float64
        The part of `scale` that the user gave, as a factor or as a pixel size.
    headers : dict of int to ImageHeader
        Of those that can be read.
    incomplete : dict of int to str
        Those that cannot be used, with the reason.
    looked_at : ndarray, intp
        Rows that were looked at at all.
    warnings : tuple of str
    """

    shape: NDArray[np.int64]
    pixel_size: NDArray[np.float64]
    scale: NDArray[np.float64]
    box: NDArray[np.int64]
    coordinate_scale: NDArray[np.float64]
    headers: dict[int, ImageHeader]
    incomplete: dict[int, str]
    looked_at: NDArray[np.intp]
    warnings: tuple[str, ...]


def settle(
    particles: Particles,
    micrographs: Micrographs,
    recipe: Recipe,
    *,
    match: NDArray[np.intp],
    headers: Mapping[int, ImageHeader | MicrographError],
) -> Grounds:
    """Compare what tables, headers and options say of the micrographs.

    Raises
    ------
    OptionError, InputError
        Where they contradict each other, or nothing says how large a pixel is.
    """
    usable = {row: found for row, found in headers.items() if isinstance(found, ImageHeader)}
    shape = np.zeros((len(micrographs), 2), dtype=np.int64)
    warnings: list[str] = []
    for row, header in usable.items():
        shape[row] = header.shape
        warnings += header.warnings
    scale = _grid_scale(particles, match, shape, recipe)
    pixel_size = _pixel_sizes(particles, micrographs, match, usable, scale, recipe, warnings)
    given = np.full(len(scale), recipe.coordinate_scale)
    if recipe.coordinate_pixel_size is not None:
        known = match >= 0
        known[known] = np.isfinite(pixel_size[match[known]])
        given[known] = recipe.coordinate_pixel_size / pixel_size[match[known]]
        scale *= given[:, None]
    incomplete = {row: str(found) for row, found in headers.items() if isinstance(found, MicrographError)}
    incomplete |= _contradicting_shapes(particles, micrographs, match, shape, scale)
    full = recipe.limit is not None and len(headers) == recipe.limit
    for name, why in particles.unread.items():
        if match[name] >= 0 and not (full and match[name] > max(headers)):
            incomplete.setdefault(int(match[name]), why)
    return Grounds(
        shape=shape,
        pixel_size=pixel_size,
        scale=scale,
        box=_boxes(micrographs, pixel_size, usable, recipe, warnings),
        coordinate_scale=given,
        headers=usable,
        incomplete=incomplete,
        looked_at=np.fromiter(headers, dtype=np.intp, count=len(headers)),
        warnings=tuple(warnings),
    )


def _boxes(
    micrographs: Micrographs,
    pixel_size: NDArray[np.float64],
    usable: Mapping[int, ImageHeader],
    recipe: Recipe,
    warnings: list[str],
) -> NDArray[np.int64]:
    """The side of the window in each micrograph: of one length in Å, where that is asked for."""
    box = np.full(len(micrographs), recipe.box, np.int64)
    if recipe.box_angstrom is None:
        return box
    rows = np.fromiter(usable, dtype=np.intp, count=len(usable))
    sizes, of_row = np.unique(np.round(pixel_size[rows], 6), return_inverse=True)  # as tables say them
    boxes = np.array([nearest_even(min(recipe.box_angstrom / size, 2.0 * LARGEST_BOX)) for size in sizes.tolist()])
    for k in np.flatnonzero((boxes < recipe.sizes[0]) | (boxes > LARGEST_BOX)).tolist():
        name, length = micrographs.paths[rows[np.argmax(of_row == k)]], f"{recipe.box_angstrom:g} Å"
        if boxes[k] > LARGEST_BOX:
            raise OptionError(f"{name}: a box of {length} has more than {LARGEST_BOX} pixels of {sizes[k]:g} Å")
        raise OptionError(
            f"{name}: a box of {length} has {boxes[k]} pixels of {sizes[k]:g} Å, fewer than the {recipe.sizes[0]} that "
            f"are stored: nothing makes finer pixels than the coarsest micrograph's; store {boxes[k]} or less"
        )
    box[rows] = boxes[of_row]
    if len(sizes) > 1:
        stored = sizes * boxes / recipe.sizes[0]
        kinds = ", ".join(
            f"{n} pixels of {size:g} Å stored as {recipe.sizes[0]} of {out:.6g} Å"
            for n, size, out in zip(boxes.tolist(), sizes.tolist(), stored.tolist(), strict=True)
        )
        warnings.append(
            f"{micrographs.source}: micrographs of {len(sizes)} pixel sizes: {kinds}; stored pixel sizes differ by "
            f"{100 * (stored.max() / stored.min() - 1):.2g} %, and stand in the optics groups as they are"
        )
    return box


def _grid_scale(
    particles: Particles, match: NDArray[np.intp], shape: NDArray[np.int64], recipe: Recipe
) -> NDArray[np.float64]:
    """Pixels of the file per pixel of the pick's grid, (y, x), one row per pick micrograph; 1 where unknown."""
    scale = np.full((len(particles.micrograph_names), 2), recipe.coordinate_scale)
    if particles.grid_shape is None:
        return scale
    known = (match >= 0) & (particles.grid_shape > 0).all(axis=1)
    known &= (shape[match] > 0).all(axis=1)
    scale[known] *= shape[match[known]] / particles.grid_shape[known]
    return scale


def _contradicting_shapes(
    particles: Particles,
    micrographs: Micrographs,
    match: NDArray[np.intp],
    shape: NDArray[np.int64],
    scale: NDArray[np.float64],
) -> dict[int, str]:
    """Micrographs whose file has another aspect than a table says: not another binning of the same field."""
    found: dict[int, str] = {}
    for name, row in enumerate(match.tolist()):
        if row >= 0 and shape[row].all() and abs(scale[name, 0] / scale[name, 1] - 1) > ASPECT_TOLERANCE:
            assert particles.grid_shape is not None
            found[row] = _shape_message(
                micrographs.paths[row], shape[row], particles.grid_shape[name], particles.source
            )
    for row in np.flatnonzero(shape.all(axis=1) & micrographs.shape.all(axis=1)).tolist():
        ratio = shape[row] / micrographs.shape[row]
        if abs(ratio[0] / ratio[1] - 1) > ASPECT_TOLERANCE:
            found.setdefault(
                row, _shape_message(micrographs.paths[row], shape[row], micrographs.shape[row], micrographs.source)
            )
    return found


def _shape_message(path: str, shape: NDArray[np.int64], table: NDArray[np.int64], source: str) -> str:
    return (
        f"{path}: is {shape[0]} x {shape[1]} pixels (ny x nx), but {source} says {table[0]} x {table[1]}, "
        f"which is no binning of it; another file under the same name?"
    )


def _pixel_sizes(
    particles: Particles,
    micrographs: Micrographs,
    match: NDArray[np.intp],
    usable: Mapping[int, ImageHeader],
    scale: NDArray[np.float64],
    recipe: Recipe,
    warnings: list[str],
) -> NDArray[np.float64]:
    """Å per pixel of each file: micrographs' table, else the picks' location, else the header, else the recipe."""
    rows = np.fromiter(usable, dtype=np.intp, count=len(usable))
    header = np.full(len(micrographs), np.nan)
    header[rows] = [found.pixel_size for found in usable.values()]
    table = micrographs.pixel_size.copy()
    for row, found in usable.items():
        if micrographs.shape[row].all():  # the table may describe another binning of the same field
            table[row] *= micrographs.shape[row, 1] / found.shape[1]
    if particles.grid_pixel_size is not None:
        location = np.full(len(micrographs), np.nan)
        known = match >= 0
        location[match[known]] = (particles.grid_pixel_size / (scale[:, 1] / recipe.coordinate_scale))[known]
        table = np.where(np.isnan(table), location, table)
    with np.errstate(invalid="ignore"):
        ratio = np.maximum(header / table, table / header)
    for row in rows[np.nan_to_num(ratio[rows], nan=1.0) > PIXEL_SIZE_ERROR][:1].tolist():
        raise InputError(
            f"{micrographs.paths[row]}: its header says {header[row]:.4g} Å per pixel, {micrographs.source} says "
            f"{table[row]:.4g}; one of them is wrong (another binning?): correct the table or the header"
        )
    differing = rows[np.nan_to_num(ratio[rows], nan=1.0) > PIXEL_SIZE_WARNING]
    if len(differing):
        row = int(differing[0])
        warnings.append(
            f"{micrographs.paths[row]}: its header says {header[row]:.5g} Å per pixel, the table {table[row]:.5g}; "
            f"the table is used ({len(differing)} micrographs)"
        )
    known_sizes = np.where(np.isnan(table), header if recipe.pixel_size is None else recipe.pixel_size, table)
    if recipe.pixel_size is not None:
        _compare_given(recipe.pixel_size, micrographs, rows, table, header, warnings)
    for row in rows[~(known_sizes[rows] > 0)][:1].tolist():
        raise InputError(
            f"{micrographs.paths[row]}: neither {micrographs.source} nor its header says how many Å a pixel has; "
            f"give --pixel-size"
        )
    return known_sizes


def _compare_given(
    given: float,
    micrographs: Micrographs,
    rows: NDArray[np.intp],
    table: NDArray[np.float64],
    header: NDArray[np.float64],
    warnings: list[str],
) -> None:
    """What the user says of pixels beats headers, which may hold anything, with a warning; never a table.

    Raises
    ------
    OptionError
    """
    with np.errstate(invalid="ignore"):
        of_table, of_header = (np.maximum(said / given, given / said)[rows] for said in (table, header))
    for row in rows[np.nan_to_num(of_table, nan=1.0) > PIXEL_SIZE_WARNING][:1].tolist():
        raise OptionError(
            f"--pixel-size {given:g} contradicts {micrographs.paths[row]}, which has {table[row]:.5g} Å per pixel by "
            f"its table; leave the option out, or correct the table"
        )
    differing = rows[np.isnan(table[rows]) & (np.nan_to_num(of_header, nan=1.0) > PIXEL_SIZE_WARNING)]
    if len(differing):
        row = int(differing[0])
        warnings.append(
            f"{micrographs.paths[row]}: its header says {header[row]:.5g} Å per pixel, --pixel-size {given:g}; the "
            f"option is used ({len(differing)} micrographs)"
        )
