"""A STAR table of particles as text: read, checked number by number, written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryobox.errors import InputError
from cryobox.formats.columns import UID
from cryobox.formats.cs_table import as_text
from cryobox.formats.star_optics import GROUP, GROUP_NAME, group_of_rows
from cryobox.formats.star_table import read_blocks, write_loop
from cryobox.formats.star_text import encode

__all__ = [
    "CARRIED",
    "DIGEST",
    "GROUP",
    "GROUP_NAME",
    "UID",
    "Mask",
    "Star",
    "Texts",
    "exact",
    "group_count",
    "lead_of",
    "number_text",
    "read_star",
    "write_star",
]

Floats = NDArray[np.float64]
Texts = list[str]
Mask = NDArray[np.bool_]

CARRIED = "_cryosparc."  # then a field, with a dot for the slash, and the index of a component
DIGEST = "_cryosparcDigest"  # what each row said when the table was made of a `.cs`; first, of which alignment
DIGITS = 10  # a float32 in another unit comes back as it was: half a step of it is 3e-8 of its size
_FIELD_TAGS = ("_cryosparcField", "_cryosparcType", "_cryosparcShape")


@dataclass(frozen=True, slots=True, kw_only=True)
class Star:
    """Particles and their optics, as text.

    Parameters
    ----------
    source : str
        For messages.
    columns, optics : dict of str to list of str
        By tag, with the underscore.
    group : ndarray, shape (particles,), intp
        Row of `optics` of each particle.
    fields : tuple of (name, type, shape)
        Describes the `.cs` that the table came from, if it came from one.
    """

    source: str
    columns: dict[str, Texts]
    optics: dict[str, Texts]
    group: NDArray[np.intp]
    fields: tuple[tuple[str, str, str], ...] = ()

    def __len__(self) -> int:
        return len(self.group)

    def has(self, *tags: str) -> bool:
        """Whether the rows have all these columns."""
        return all(tag in self.columns for tag in tags)

    def numbers(self, tag: str) -> Floats:
        """A column of the rows as numbers; what is none is an error that names row and value."""
        return self._numbers(tag, self.columns[tag], "data_particles")

    def of_group(self, tag: str) -> Floats:
        """A column of data_optics (or, where that has none, of the rows), for each particle."""
        if tag in self.optics:
            return self._numbers(tag, self.optics[tag], "data_optics")[self.group]
        return self.numbers(tag)

    def positive(self, tag: str) -> Floats:
        """A column of data_optics that must hold positive numbers, for each particle."""
        values = self._numbers(tag, self.optics[tag], "data_optics")
        used = np.zeros(len(values), np.bool_)
        used[self.group] = True
        bad = np.flatnonzero(used & ~(np.isfinite(values) & (values > 0)))
        if len(bad):
            row = int(bad[0])
            raise self.error("data_optics", row, tag, self.optics[tag][row], "a positive number")
        return values[self.group]

    def whole(self, tag: str, texts: Texts, block: str, least: int, most: int) -> NDArray[np.int64]:
        """Texts as whole numbers in a range."""
        values = self._numbers(tag, texts, block)
        with np.errstate(invalid="ignore"):
            good = np.isfinite(values) & (values == np.trunc(values)) & (values >= least) & (values <= most)
        if not good.all():
            row = int(np.argmin(good))
            raise self.error(block, row, tag, texts[row], f"a whole number from {least} to {most}")
        return values.astype(np.int64)

    def error(self, block: str, row: int, tag: str, text: str, expected: str) -> InputError:
        """The error for one value."""
        return InputError(f"{self.source}: {block}, row {row + 1}: {tag} is {text[:60]!r}, expected {expected}")

    def _numbers(self, tag: str, texts: Texts, block: str) -> Floats:
        try:
            return np.array(texts, np.float64)
        except ValueError:
            for row, text in enumerate(texts):
                try:
                    float(text)
                except ValueError:
                    raise self.error(block, row, tag, text, "a number") from None
            raise


def group_count(optics: Mapping[str, Texts]) -> int:
    """How many groups data_optics has."""
    return len(next(iter(optics.values()), []))


def lead_of(star: Star) -> str:
    """Which alignment the columns were when the table was made of a `.cs`; "" if it was not, or of none."""
    marks = {text[:1] for text in star.columns.get(DIGEST, []) if "-" in text}  # rows that others added have none
    return {"3": "alignments3D", "2": "alignments2D"}.get(marks.pop() if len(marks) == 1 else "", "")


def read_star(path: Path) -> Star:
    """Read a table of particles of RELION 3.1 or later.

    Raises
    ------
    InputError
        If it is no such table.
    """
    blocks = read_blocks(path)
    if "optics" not in blocks or "particles" not in blocks:
        raise InputError(
            f"{path}: has no data_optics and data_particles; tables of RELION 3.0 and of picks are first made into "
            f"such by relion_convert_star, or by extracting"
        )
    optics, table = blocks["optics"].table(), blocks["particles"].table()
    optics.require(GROUP, "_rlnImagePixelSize", "_rlnImageSize")
    table.require("_rlnImageName", GROUP)
    rows = tuple(optics.row(i) for i in range(len(optics)))
    star = Star(
        source=str(path),
        columns={tag: table.texts(tag) for tag in table.tags},
        optics={tag: [row[tag] for row in rows] for tag in optics.tags},
        group=np.zeros(len(table), np.intp),
    )
    star.whole(GROUP, star.optics[GROUP], "data_optics", 0, 2**31 - 1)
    star.whole(GROUP, star.columns[GROUP], "data_particles", 0, 2**31 - 1)
    fields: list[tuple[str, str, str]] = []
    if "cryosparc" in blocks:
        described = blocks["cryosparc"].table()
        described.require(*_FIELD_TAGS)
        fields = list(zip(*(described.texts(tag) for tag in _FIELD_TAGS), strict=True))
    return replace(star, group=group_of_rows(table, rows), fields=tuple(fields))


def write_star(path: Path, star: Star) -> None:
    """Write the table; `path` is a file that nobody looks at yet."""
    described = dict(zip(_FIELD_TAGS, map(list, zip(*star.fields, strict=True)), strict=True)) if star.fields else {}
    blocks: Sequence[tuple[str, dict[str, Texts]]] = (
        ("optics", star.optics), ("particles", star.columns), ("cryosparc", described)
    )  # fmt: skip
    with open(path, "wb") as file:
        for name, columns in blocks:
            if columns:
                file.write(b"\n# version 50001\n")
                n = len(next(iter(columns.values())))
                write_loop(file, name, list(columns), [_piece(texts) for texts in columns.values()], n)


def _piece(texts: Texts) -> Callable[[slice], list[bytes]]:
    return lambda part: [encode(text) for text in texts[part]]


def number_text(values: Any) -> Texts:
    """Numbers that come back as the float32 they were, in few digits."""
    return [f"{value:.{DIGITS}g}" for value in np.asarray(values, np.float64).tolist()]


def exact(values: NDArray[Any]) -> Texts:
    """Values of a column of a `.cs`, as few digits as give them back."""
    if values.dtype.kind in "SU":
        return [as_text(raw) for raw in values.tolist()]
    if values.dtype.kind == "b":
        values = values.astype(np.uint8)
    found: Texts = values.astype("U32").tolist()
    return found
