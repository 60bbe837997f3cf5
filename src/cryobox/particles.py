"""Particles as columns: what every format gives, what the plan needs, and what the tables are written from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cryobox.options import Steps

__all__ = ["Alignment", "Extracted", "Particles", "Reason"]


class Reason(StrEnum):
    """Why a pick was not extracted. The values stand in the `rejected` tables."""

    EDGE = "box over the edge"
    OUTSIDE = "box outside the micrograph"
    COORDINATE = "coordinate is not a finite number"
    NO_SCORE = "no score"
    SCORE = "score below the minimum"
    SEPARATION = "too close to a better pick"
    NO_MICROGRAPH = "no such micrograph"
    LIMIT = "beyond the micrograph limit"
    NOT_FINITE = "pixels that are not finite"
    NO_CONTRAST = "no contrast"
    CTF = "no CTF: values that are not finite numbers"
    MICROGRAPH = "micrograph could not be read"
    CLASS = "of another class"
    GROUP = "of another optics group"
    SELECTION = "of another selection type"
    SAMPLE = "not in the sample"
    MARGIN = "box within the edge margin"
    EXCLUDED = "box over an excluded rectangle"
    JUNK = "junk in the mask"
    NO_FILAMENT = "of no filament"
    FILTER = "left out by the filter"


@dataclass(frozen=True, slots=True, kw_only=True)
class Alignment:
    """The shifts of one earlier alignment: where each image must move to be centered.

    Parameters
    ----------
    name : str
        As the table calls it: "alignments3D", "alignments2D", "alignments3D_multi", ...; "origin" in STAR files.
    kind : {"3d", "2d", "other"}
        What `recenter_from` may choose; "other" alignments are moved along but never lead. A STAR file does not
        say which alignment its origins come from, so they are "3d".
    shift : ndarray, shape (n, 2) or (n, k, 2), float64
        (y, x), in units of `pixel_size`.
    pixel_size : ndarray, shape (n,), float64
        Å per unit of `shift`: the alignment's pixel size in `.cs`, 1.0 for rlnOriginX/YAngst, the particle's
        pixel size for rlnOriginX/Y.
    """

    name: str
    kind: Literal["3d", "2d", "other"]
    shift: NDArray[np.float64]
    pixel_size: NDArray[np.float64]

    def take(self, picks: NDArray[Any]) -> Alignment:
        """That of some picks."""
        return replace(self, shift=self.shift[picks], pixel_size=self.pixel_size[picks])


@dataclass(frozen=True, slots=True, kw_only=True)
class Particles:
    """Picks as columns of equal length n.

    Parameters
    ----------
    family : {"star", "cs", "plain"}
        Which tables the picks came from; "plain" has coordinates only (box, Topaz, csv, ...).
    source : str
        The path, for messages.
    y, x : ndarray, shape (n,), float64
        Center in pixels of the pick's own grid: `grid_shape` where it is known, else the micrograph's.
    micrograph : ndarray, shape (n,), intp
        Index into `micrograph_names`.
    micrograph_names : tuple of str
        The distinct micrographs, as the table writes them (a leading `>` of exported `.cs` files taken off).
    micrograph_uids : ndarray, uint64, optional
        One per entry of `micrograph_names` (location/micrograph_uid).
    from_fractions : bool
        The coordinates are float32 fractions times a shape, so integers are guarded (docs/conventions.md).
    grid_shape : ndarray, shape (len(micrograph_names), 2), int64, optional
        (ny, nx) that the picks were made on (location/micrograph_shape).
    grid_pixel_size : ndarray, shape (len(micrograph_names),), float64, optional
        Å per pixel of that grid; nan where unknown.
    exact : ndarray, shape (n,), bool, optional
        Positions that are the very center of a particle, fraction included (`--subpixel`): they are never truncated.
    score : ndarray, shape (n,), float64, optional
        nan: this pick has none.
    tube : ndarray, shape (n,), int64, optional
        Of "plain" picks of filaments the number of each within its micrograph, from 1; 0: of no filament. Of segments
        of helices of any family.
    psi, track : ndarray, shape (n,), float64, optional
        Of segments: the direction of the tube as rlnAnglePsiPrior, in degrees, and the distance along it in Å.
    placed_anew : bool
        y and x are not those of the table's rows, and are written in their place.
    alignments : tuple of Alignment
    copy_of : ndarray, shape (n,), optional
        Rows with equal values are copies of one particle (symmetry expansion); int64 codes, -1: a particle of its own.
    lacks_ctf : ndarray, shape (rows of the table,), bool, optional
        Rows of joined `.cs` tables that have no CTF, where others have one.
    columns : mapping of str to ndarray, shape (n, ...)
        Columns that are written of each pick in place of its table's, or beside them, by their names in
        `formats.columns.MADE`: numbers in the unit of the STAR tag, or texts. A nan leaves the row as its table has it.
    table : object
        What the format keeps for writing every other column back; only the format's module looks inside.
    row : ndarray, shape (n,), intp, optional
        Row of each pick in the table; several picks may be of one row. Default: pick i is row i.
    rows_in_table : int, optional
        How many rows the table has, where `row` is given.
    unread : dict of int to str
        Entries of `micrograph_names` whose picks are not to be had, with the reason.
    warnings : tuple of str
    """

    family: Literal["star", "cs", "plain"]
    source: str
    y: NDArray[np.float64]
    x: NDArray[np.float64]
    micrograph: NDArray[np.intp]
    micrograph_names: tuple[str, ...]
    micrograph_uids: NDArray[np.uint64] | None = None
    from_fractions: bool = False
    grid_shape: NDArray[np.int64] | None = None
    grid_pixel_size: NDArray[np.float64] | None = None
    exact: NDArray[np.bool_] | None = None
    score: NDArray[np.float64] | None = None
    tube: NDArray[np.int64] | None = None
    psi: NDArray[np.float64] | None = None
    track: NDArray[np.float64] | None = None
    placed_anew: bool = False
    alignments: tuple[Alignment, ...] = ()
    copy_of: NDArray[np.int64] | None = None
    lacks_ctf: NDArray[np.bool_] | None = None
    columns: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    table: Any = None
    row: NDArray[np.intp] | None = None
    rows_in_table: int | None = None
    unread: dict[int, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.y)

    @property
    def table_length(self) -> int:
        """How many rows the table has that the picks came from."""
        return len(self) if self.rows_in_table is None else self.rows_in_table

    def rows_of(self, picks: NDArray[np.intp]) -> NDArray[np.intp]:
        """The rows of some picks in the table that they came from."""
        return picks if self.row is None else self.row[picks]

    def take(self, picks: NDArray[np.intp]) -> Particles:
        """Some of the picks, in another order or several times; all know their rows in the table."""
        return replace(
            self,
            y=self.y[picks],
            x=self.x[picks],
            micrograph=self.micrograph[picks],
            exact=None if self.exact is None else self.exact[picks],
            score=None if self.score is None else self.score[picks],
            tube=None if self.tube is None else self.tube[picks],
            psi=None if self.psi is None else self.psi[picks],
            track=None if self.track is None else self.track[picks],
            copy_of=None if self.copy_of is None else self.copy_of[picks],
            columns={name: values[picks] for name, values in self.columns.items()},
            alignments=tuple(alignment.take(picks) for alignment in self.alignments),
            row=self.rows_of(picks),
            rows_in_table=self.table_length,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Extracted:
    """Rows of one output table, in the order they are written: made by the plan and the results, read by the formats.

    Parameters
    ----------
    picks : ndarray, shape (n,), intp
        Index of each in the input `Particles`.
    rows : ndarray, shape (n,), intp
        Row of each in the table that they came from: `Particles.rows_of(picks)`.
    micrograph : ndarray, shape (n,), intp
        Index into the `Micrographs`; -1 where the pick's micrograph is not among them (rejected rows only).
    stack : tuple of str
        One per micrograph: path of its stack as the table must say it; "" where it has none.
    slot : ndarray, shape (n,), int64
        0-based index in that stack; -1 for rejected rows.
    size, box : int
        Stored side and window side, in pixels.
    boxes : ndarray, shape (number of micrographs,), int64, optional
        The window's side in each micrograph, where it is not the same in all.
    center : ndarray, shape (n, 2), int64 or float64
        (y, x) of the box center in the micrograph that was read; with fractions where images were moved by these.
    shape : ndarray, shape (number of micrographs, 2), int64
        (ny, nx) of the files that were read; 0 where none was.
    pixel_size : ndarray, shape (number of micrographs,), float64
        Å per pixel of the micrographs, as used; nan where unknown.
    moved : ndarray, shape (n,), bool
        Coordinates must be rewritten from `center` (recentering, flips, another binning, rounding, padding of plain
        corners) and alignments from `alignments`. Where False the table's own columns stay as they are.
    columns : mapping of str to ndarray, shape (n, ...)
        As in `Particles`, for these rows.
    alignments : tuple of Alignment
        The alignments after the move, for these rows, in the order and the units of `Particles.alignments`.
    steps : Steps
        What was done to the images: their contrast, and what they were divided by, stand in tables of CryoSPARC.
    refresh_ctf : bool
    mirrored : (bool, bool)
        The picks, and the CTF values that come with them, are those of a copy mirrored in (y, x).
    drop_alignments : bool
        Orientations, shifts and priors of the picks are left out.
    reset_offsets : bool
        Shifts are rewritten from `alignments` in all rows, whether they moved or not.
    reasons : tuple of str, optional
        One per row, for the table of rejected picks; such a table has no image columns.
    """

    picks: NDArray[np.intp]
    rows: NDArray[np.intp]
    micrograph: NDArray[np.intp]
    stack: tuple[str, ...]
    slot: NDArray[np.int64]
    size: int
    box: int
    center: NDArray[np.int64] | NDArray[np.float64]
    shape: NDArray[np.int64]
    pixel_size: NDArray[np.float64]
    moved: NDArray[np.bool_]
    steps: Steps
    columns: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    boxes: NDArray[np.int64] | None = None
    alignments: tuple[Alignment, ...] = ()
    refresh_ctf: bool = False
    mirrored: tuple[bool, bool] = (False, False)
    drop_alignments: bool = False
    reset_offsets: bool = False
    reasons: tuple[str, ...] | None = field(default=None)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def realigned(self) -> NDArray[np.bool_]:
        """Rows whose shifts must be written anew."""
        return np.ones_like(self.moved) if self.reset_offsets else self.moved
