"""What a table says of its images against the stacks: files, numbers, sizes, and images that several rows name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from cryobox.errors import InputError
from cryobox.formats.mrc import read_sections
from cryobox.formats.opening import too_short
from cryobox.formats.references import ImageReferences
from cryobox.formats.star_text import listed
from cryobox.paths import find_file
from cryobox.soundness.findings import Fault, Findings, numbered

__all__ = ["ImagesOfTable"]

_PIXEL_SIZE_LIMIT = 1e-3  # relative
_SHOWN_FILES = 3


@dataclass(slots=True, kw_only=True, eq=False)
class ImagesOfTable:
    """The images that the rows of a table name, and the headers of their stacks.

    Parameters
    ----------
    references : ImageReferences
        What the rows say.
    stacks : list of str
        The distinct stacks, where they were found or looked for.
    stack : ndarray, shape (n,), intp
        Index into `stacks` of each row.
    shape : ndarray, shape (stacks, 3), int64
        (n, ny, nx) as the headers say; 0 where there is none.
    pixel_size : ndarray, shape (stacks,), float64
        Å; nan where the header does not say it.
    errors : dict of int to InputError
        What is wrong with the header, or the length, of a stack that is there.
    missing : dict of int to str
        The stacks that are not there, as the table names them.
    """

    references: ImageReferences
    stacks: list[str]
    stack: NDArray[np.intp]
    shape: NDArray[np.int64]
    pixel_size: NDArray[np.float64]
    errors: dict[int, InputError]
    missing: dict[int, str]

    @classmethod
    def of(cls, references: ImageReferences, places: Sequence[Path], exported: Sequence[Path] | None = None) -> Self:
        """Look for the stacks, names that begin with `>` in `exported`, and read their headers."""
        name_of: dict[str, int] = {}
        stack = np.array([name_of.setdefault(name, len(name_of)) for name in references.stack], np.intp)
        files: dict[str, int] = {}
        of_name: list[int] = []
        names: list[str] = []
        paths: list[str] = []
        for name in name_of:
            inside = exported is not None and name.startswith(">")
            # RELION takes `.mrc` for a stack where the name says so.
            plain = (name.removeprefix(">") if inside else name).removesuffix(":mrcs")
            path = find_file(plain, tuple(exported if inside and exported else places))
            of_name.append(files.setdefault(os.path.realpath(path), len(files)))  # links may lead to one file
            if of_name[-1] == len(names):
                names.append(name)
                paths.append(path)
        shape = np.zeros((len(paths), 3), np.int64)
        pixel_size = np.full(len(paths), np.nan)
        errors: dict[int, InputError] = {}
        missing: dict[int, str] = {}
        for at, path in enumerate(paths):
            if not os.path.exists(path):
                missing[at] = names[at]
                continue
            try:
                header = read_sections(path, any_length=True)
            except InputError as error:
                errors[at] = error
                continue
            shape[at], pixel_size[at] = header.shape, header.pixel_size
            if header.surplus < 0:
                image = header.shape[1] * header.shape[2] * header.dtype.itemsize
                held = header.shape[0] * image + header.surplus
                shape[at, 0] = max(0, held) // image
                errors[at] = too_short(path, header.shape, header.dtype, held)
        return cls(
            references=references,
            stacks=paths,
            stack=np.array(of_name, np.intp)[stack],
            shape=shape,
            pixel_size=pixel_size,
            errors=errors,
            missing=missing,
        )

    @property
    def there(self) -> tuple[str, ...]:
        """The stacks that exist."""
        return tuple(path for at, path in enumerate(self.stacks) if at not in self.missing)

    def check_files(self, found: Findings) -> None:
        """Every stack is there and has a header."""
        if self.missing:
            some = listed(list(self.missing.values()), _SHOWN_FILES)
            lost = (np.flatnonzero(np.isin(self.stack, list(self.missing))) + 1).tolist()
            found.add(
                Fault.MISSING,
                f"{len(self.missing)} of {len(self.stacks)} stacks that it names are not there "
                f"({some}), images of {len(lost)} rows; say with --root where the names start",
                lost,
            )
        for error in self.errors.values():
            found.add_error(error)

    def check_slots(self, found: Findings) -> None:
        """Every image lies within its stack."""
        held = self.shape[self.stack, 0]
        slot = self.references.slot
        beyond = ((slot >= held) | (slot < 0)) & (self.shape[self.stack, 1] > 0)
        rows = (np.flatnonzero(beyond) + 1).tolist()
        if rows:
            first = rows[0] - 1
            found.add(
                Fault.NO_IMAGE,
                f"{len(rows)} of {len(slot)} rows name images beyond the end of their stack (row {rows[0]}: image "
                f"{slot[first] + 1} of {self.stacks[self.stack[first]]}, which holds {held[first]}); another stack "
                f"under that name? rows {numbered(rows)}",
                rows,
            )

    def check_pixel_sizes(self, found: Findings) -> None:
        """The pixel size is that of the headers, where both say one."""
        header, table = self.pixel_size[self.stack], self.references.pixel_size
        with np.errstate(invalid="ignore", divide="ignore"):
            differs = np.abs(header / table - 1) > _PIXEL_SIZE_LIMIT
        rows = (np.flatnonzero(differs & (table > 0)) + 1).tolist()
        if rows:
            first = rows[0] - 1
            found.add(
                Fault.PIXEL_SIZE,
                f"pixel size of {len(rows)} of {len(table)} rows is not that of their stack (row {rows[0]}: "
                f"{table[first]:.6g} Å, the header of {self.stacks[self.stack[first]]} says {header[first]:.6g}); "
                "correct the one that is wrong",
                rows,
            )

    def check_sizes(self, found: Findings) -> None:
        """The images are square and as large as the table says."""
        header, table = self.shape[self.stack, 1:], self.references.size
        differs = (header != table[:, None]).any(axis=1) & (table > 0) & (header > 0).all(axis=1)
        rows = (np.flatnonzero(differs) + 1).tolist()
        if rows:
            first = rows[0] - 1
            found.add(
                Fault.IMAGE_SIZE,
                f"image size of {len(rows)} of {len(table)} rows is not that of their stack (row {rows[0]}: "
                f"{table[first]} pixels, {self.stacks[self.stack[first]]} holds images of {header[first, 0]} x "
                f"{header[first, 1]}); another stack under that name?",
                rows,
            )

    def check_shared(self, found: Findings, known: NDArray[np.bool_]) -> None:
        """No image is that of two rows, unless they are `known` to be copies of one particle (symmetry expansion)."""
        order = np.lexsort((self.references.slot, self.stack))
        stack, slot = self.stack[order], self.references.slot[order]
        same = np.zeros(len(order), np.bool_)
        same[1:] = (stack[1:] == stack[:-1]) & (slot[1:] == slot[:-1])
        again = np.zeros(len(order), np.bool_)
        again[order[same]] = True
        found.counts["images"] = int((~again).sum())
        if (again & known).any():
            found.notes.append(f"{int((again & known).sum())} rows are copies of particles by symmetry expansion")
        rows = (np.flatnonzero(again & ~known) + 1).tolist()
        if rows:
            first = rows[0] - 1
            found.add(
                Fault.SHARED,
                f"{len(rows)} of {len(order)} rows name an image that a row before names (row {rows[0]}: image "
                f"{self.references.slot[first] + 1} of {self.stacks[self.stack[first]]}), and nothing says that the "
                f"particles were expanded by symmetry; joined twice? rows {numbered(rows)}",
                rows,
            )
