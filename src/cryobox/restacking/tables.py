"""Tables whose images move to other stacks: every column is carried, what describes the image is said anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cryobox.errors import InputError
from cryobox.formats.cs_output import REASON
from cryobox.formats.cs_table import Table, as_bytes, read_table, write_table
from cryobox.formats.csg import read_group, write_group
from cryobox.formats.files_read import noting
from cryobox.formats.references import ImageReferences, references_of_cs, references_of_star
from cryobox.formats.star import table_with
from cryobox.formats.star_optics import GROUP, StarTable
from cryobox.formats.star_output import columns_of, images_column, write_optics
from cryobox.formats.star_table import Lookup, Numbers, Piece, Run, read_blocks, write_loop
from cryobox.formats.star_tags import IMAGE, REJECTED
from cryobox.formats.star_text import encode_message, number

__all__ = ["NewImages", "TableOfImages", "read_table_of_images"]

Rows = NDArray[np.intp]

# Of tables in the style of RELION 3.0: in pixels of the image.
_IN_PIXELS = ("_rlnOriginX", "_rlnOriginY", "_rlnOriginXPrior", "_rlnOriginYPrior")
_PIXEL_SIZES = ("_rlnImagePixelSize", "_rlnPixelSize")
_OTHER_IMAGES = ("_rlnReconstructImageName", "_rlnImageOriginalName")


@dataclass(frozen=True, slots=True, kw_only=True)
class NewImages:
    """Where the images of some rows of a table are now, in columns.

    Parameters
    ----------
    rows : ndarray, shape (n,), intp
        Of the table.
    stacks : tuple of str
        As the table is to name them.
    stack : ndarray, shape (n,), intp
        Index into `stacks`.
    slot : ndarray, shape (n,), int64
    factor : ndarray, shape (n,), float64
        How many old pixels a new one is wide.
    size : ndarray, shape (n,), int64
        Side in pixels.
    label : str
        What must be said of the images; "" for nothing.
    """

    rows: Rows
    stacks: tuple[str, ...]
    stack: Rows
    slot: NDArray[np.int64]
    factor: NDArray[np.float64]
    size: NDArray[np.int64]
    label: str = ""


class TableOfImages(Protocol):
    """A table of particles that have images."""

    suffix: str
    files: tuple[str, ...]  # that were read
    notes: tuple[str, ...]

    def references(self) -> ImageReferences:
        """Which image each row has."""

    def check(self, factor: NDArray[np.float64], size: NDArray[np.int64]) -> None:
        """Refuse what could not be said of the images of all rows; columns as in `NewImages`."""

    def write(self, path: Path, images: NewImages) -> None:
        """Write the rows with their new images."""

    def write_rejected(self, path: Path, rows: Rows, reasons: Sequence[str]) -> None:
        """Write rows as they were, and why they were left out."""


def read_table_of_images(path: str) -> TableOfImages:
    """Read `.star`, `.cs` or `.csg`.

    Raises
    ------
    InputError
        If it is no table of particles with images.
    """
    if path.lower().endswith(".star"):
        return _Star(path)
    if path.lower().endswith((".cs", ".csg")):
        return _Cs(path)
    raise InputError(f"{path}: not a table of particles; expected a name in .star, .cs, .csg")


class _Star:
    suffix = ".star"

    def __init__(self, path: str) -> None:
        self._path = path
        self.files: tuple[str, ...] = (path,)
        self._star: StarTable = table_with(path, read_blocks(path), ("particles", "images", ""), (IMAGE,))
        tags = [tag for tag in _OTHER_IMAGES if tag in self._star.table]
        self.notes = tuple(f"{path}: {tag[1:]} names images that stay as they are" for tag in tags)

    def references(self) -> ImageReferences:
        return references_of_star(self._path, self._star)

    def check(self, factor: NDArray[np.float64], size: NDArray[np.int64]) -> None:
        star = self._star
        optics = [dict(row) for row in star.optics]
        if star.group is not None and optics:
            self._describe(optics, star.group, factor, size)

    def write(self, path: Path, images: NewImages) -> None:
        star, rows = self._star, images.rows
        made: dict[str, Piece] = {IMAGE: images_column(images.slot, images.stack, images.stacks)}
        changed = images.factor != 1
        for tag in _PIXEL_SIZES:
            if tag in star.table and changed.any():
                made[tag] = self._scaled(tag, rows, images.factor, changed)
        optics: list[dict[str, str]] = [dict(row) for row in star.optics]
        if star.group is not None and optics:
            self._describe(optics, star.group[rows], images.factor, images.size)
        elif changed.any():
            for tag in _IN_PIXELS:
                if tag in star.table:
                    made[tag] = self._scaled(tag, rows, 1 / images.factor, changed)
            if "_rlnDetectorPixelSize" in star.table:
                made["_rlnDetectorPixelSize"] = self._scaled("_rlnDetectorPixelSize", rows, images.factor, changed)
        tags, pieces = columns_of(star, rows, made)
        with open(path, "wb") as file:
            if images.label:
                file.write(b"\n# " + encode_message(images.label).strip(b"\"'") + b"\n")
            if optics:
                file.write(b"\n# version 30001\n")
                write_optics(file, optics)
            file.writelines(b"\n" + raw.strip() + b"\n\n" for raw in star.others)
            if optics:
                file.write(b"\n# version 30001\n")
            write_loop(file, star.table.block, tags, pieces, len(rows))

    def write_rejected(self, path: Path, rows: Rows, reasons: Sequence[str]) -> None:
        star = self._star
        index: dict[str, int] = {}
        codes = np.fromiter((index.setdefault(reason, len(index)) for reason in reasons), np.intp, len(reasons))
        tags, pieces = columns_of(star, rows, {REJECTED: Lookup(codes, [encode_message(reason) for reason in index])})
        with open(path, "wb") as file:
            for raw in (star.optics_raw, *star.others):
                if raw:
                    file.write(b"\n" + raw.strip() + b"\n\n")
            write_loop(file, star.table.block, tags, pieces, len(rows))

    def _scaled(self, tag: str, rows: Rows, factor: NDArray[np.float64], changed: NDArray[np.bool_]) -> Piece:
        column = self._star.table.tags.index(tag)
        values = self._star.table.floats(tag)[rows] * factor
        return Numbers(values, changed, Run(self._star.table, rows, column, column))

    def _describe(
        self, optics: list[dict[str, str]], group: Rows, factors: NDArray[np.float64], sizes: NDArray[np.int64]
    ) -> None:
        """Say of each optics group how large its images and their pixels are now."""
        for place, row in enumerate(optics):
            mine = group == place
            if not mine.any():
                continue
            name = row.get("_rlnOpticsGroupName", row.get(GROUP, str(place + 1)))
            if len(np.unique(np.stack([factors[mine], sizes[mine]], axis=1), axis=0)) > 1:
                raise InputError(f"{self._path}: optics group {name} has images of several sizes; give each its own")
            factor, size = float(factors[mine][0]), int(sizes[mine][0])
            row["_rlnImageSize"] = str(size)
            if "_rlnImagePixelSize" in row and factor != 1:
                before = number(row["_rlnImagePixelSize"])
                if not before > 0:
                    raise InputError(
                        f"{self._path}: optics group {name}: _rlnImagePixelSize is {row['_rlnImagePixelSize'][:60]!r}, "
                        f"expected the Å that a pixel has"
                    )
                row["_rlnImagePixelSize"] = f"{before * factor:.6f}"


class _Cs:
    suffix = ".cs"

    def __init__(self, path: str) -> None:
        self._path = path
        self._table: Table
        self.notes: tuple[str, ...] = ()
        with noting() as members:
            if path.lower().endswith(".csg"):
                self._table, self.notes = read_group(Path(path))
            else:
                self._table = read_table(Path(path))
        self.files = (path, *members)

    def references(self) -> ImageReferences:
        return references_of_cs(self._path, self._table)

    def check(self, factor: NDArray[np.float64], size: NDArray[np.int64]) -> None:
        """Anything can be said, row by row."""

    def write(self, path: Path, images: NewImages) -> None:
        names = [images.stacks[code] for code in images.stack.tolist()]
        table = _with_text(self._table[images.rows], "blob/path", names)
        table = _with_column(table, "blob/idx", images.slot.astype("<u4"))
        table["blob/shape"] = images.size[:, None]
        table["blob/psize_A"] = self._table["blob/psize_A"][images.rows].astype(np.float64) * images.factor
        if "blob/import_sig" in (table.dtype.names or ()):
            table["blob/import_sig"] = 0
        write_table(path, table)
        title = f"Restacked particles ({images.label})" if images.label else "Restacked particles"
        write_group(path.with_suffix(".csg"), path.name, table, title=title)

    def write_rejected(self, path: Path, rows: Rows, reasons: Sequence[str]) -> None:
        write_table(path, _with_text(self._table[rows], REASON, list(reasons)))


def _with_text(table: Table, name: str, texts: list[str]) -> Table:
    """The table with a column of other strings, where it was or at the end."""
    return _with_column(table, name, as_bytes(texts))


def _with_column(table: Table, name: str, column: NDArray[Any]) -> Table:
    """The table with a column of other values and their type, where it was or at the end."""
    fields = [(field, column.dtype if field == name else table.dtype[field]) for field in table.dtype.names or ()]
    if name not in (table.dtype.names or ()):
        fields.append((name, column.dtype))
    found = np.zeros(len(table), np.dtype(fields))
    for field, _ in fields:
        found[field] = column if field == name else table[field]
    return found
