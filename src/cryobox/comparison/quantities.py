"""What two tables say of the same particles: positions, shifts, CTF, pixel and image sizes, optics groups.

Values go by their neutral names (`formats.columns`), so that a STAR file and a `.cs` are compared in one unit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cryobox.centering import truncate
from cryobox.comparison.sides import Side
from cryobox.formats.columns import CTF_RESET, QUANTITIES, Quantity, Topic, to_tag
from cryobox.formats.cs import floats
from cryobox.formats.ctf import NEUTRAL_DEFOCUS
from cryobox.formats.star_optics import StarTable, image_pixel_size, rows_of_picks
from cryobox.formats.star_text import number
from cryobox.particles import Alignment, Particles

__all__ = ["Limit", "Result", "compare_values", "cut_at_the_same_pixel"]

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """How far two values may differ: the larger of a length and a part of the larger value."""

    absolute: float = 0.0
    relative: float = 0.0

    def of(self, a: Floats, b: Floats) -> Floats:
        """What is allowed for each pair."""
        return np.maximum(self.absolute, self.relative * np.fmax(np.abs(a), np.abs(b)))


# A float32 fraction of a micrograph's side is exact to 5e-4 pixels; a different pixel is 1.
POSITION = Limit(absolute=0.01)
# RELION writes six decimals, float32 of 100 pixels is exact to 1e-5 Å.
SHIFT = Limit(absolute=0.01)
# A defocus is fitted to some 10 Å at best; 1 Å turns the phase of the CTF by about 1 degree at 2 Å resolution.
DEFOCUS = Limit(absolute=1.0, relative=1e-5)
ANGLE = Limit(absolute=0.01)
# Six decimals of a STAR file and float32 agree to 1e-6; another calibration differs by 1e-3.
CONSTANT = Limit(absolute=1e-6, relative=1e-5)
EXACT = Limit()


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One quantity, compared over the matched rows.

    Parameters
    ----------
    name : str
        Neutral name, with its unit.
    label, unit : str
        For readers.
    rows : int
        Pairs that were compared.
    differing : int
        Those beyond the limit.
    largest : float
        Largest difference; inf where only one of two values is a number; nan where differences have no size.
    limit : Limit
    only : {"", "A", "B"}
        Which table alone has the quantity at all.
    worst : int
        Place among the pairs of the largest difference; -1 where nothing differs.
    """

    name: str
    label: str
    unit: str = ""
    rows: int = 0
    differing: int = 0
    largest: float = 0.0
    limit: Limit = EXACT
    only: str = ""
    worst: int = -1

    @property
    def agrees(self) -> bool:
        """Whether both tables have it, and nothing is beyond the limit."""
        return not self.only and not self.differing


def compare_values(a: Side, b: Side, rows_a: Rows, rows_b: Rows) -> list[Result]:
    """Compare what two tables say of matched rows.

    A shift that a table does not have is 0, and so are phase shift and B-factor where it has a defocus (the scale
    factor 1), as RELION assumes it. What neither has is not told.
    """
    found = [_positions(a, b, rows_a, rows_b), *_shifts(a.particles, b.particles, rows_a, rows_b)]
    quantities = [q for q in QUANTITIES if q.topic in (Topic.CTF, Topic.IMAGE)]
    values = {
        q.name: tuple(
            None if column is None else column[rows]
            for column, rows in ((_column(a.particles, q), rows_a), (_column(b.particles, q), rows_b))
        )
        for q in quantities
    }
    values = {name: _with_defaults(name, pair, values) for name, pair in values.items()}
    for quantity in quantities:
        one, two = values[quantity.name]
        if one is None and two is None:
            continue
        ignored = _round(values) if quantity.name == "defocus_angle_degrees" else None
        found.append(_numbers(quantity, one, two, ignored))
    found += [*_image_sizes(a, b, rows_a, rows_b), _optics(a.particles, b.particles, rows_a, rows_b)]
    return found


def _positions(a: Side, b: Side, rows_a: Rows, rows_b: Rows) -> Result:
    apart = _distance(a.position[rows_a], b.position[rows_b])
    return _measured("position_pixels", "position", "px", apart, np.full(len(apart), POSITION.absolute), POSITION)


def _shifts(a: Particles, b: Particles, rows_a: Rows, rows_b: Rows) -> Iterator[Result]:
    first, second = _leading(a, b), _leading(b, a)
    if first is None and second is None:
        return
    one, two = (
        np.zeros((len(rows), 2)) if lead is None else lead.shift[rows] * lead.pixel_size[rows, None]
        for lead, rows in ((first, rows_a), (second, rows_b))
    )
    names = dict.fromkeys(lead.name for lead in (first, second) if lead is not None and lead.name != "origin")
    label = f"shift ({', '.join(names)})" if names else "shift"
    apart = _distance(one, two)
    yield _measured("shift_angstrom", label, "Å", apart, np.full(len(apart), SHIFT.absolute), SHIFT)


def _leading(own: Particles, other: Particles) -> Alignment | None:
    """The alignment whose shifts are compared: one that both have, 3D before 2D."""
    names = {alignment.name for alignment in other.alignments}
    order = sorted(
        (alignment for alignment in own.alignments if alignment.kind != "other"),
        key=lambda alignment: (alignment.name not in names, alignment.kind != "3d"),
    )
    return order[0] if order else None


def _distance(a: Floats, b: Floats) -> Floats:
    with np.errstate(invalid="ignore"):
        return np.hypot(a[:, 0] - b[:, 0], a[:, 1] - b[:, 1])


def _measured(
    name: str, label: str, unit: str, apart: Floats, allowed: Floats, limit: Limit, same: Mask | None = None
) -> Result:
    """A result from differences; nan counts as one, unless `same` says otherwise."""
    apart = np.where(np.isnan(apart), np.inf, apart)
    if same is not None:
        apart = np.where(same, 0.0, apart)
    wrong = apart > allowed
    worst = int(np.argmax(np.where(wrong, apart, -1.0))) if wrong.any() else -1
    return Result(
        name=name, label=label, unit=unit, rows=len(apart), differing=int(wrong.sum()),
        largest=float(apart.max(initial=0.0)), limit=limit, worst=worst,
    )  # fmt: skip


def _column(particles: Particles, quantity: Quantity) -> Floats | None:
    """One quantity of every row, in the unit of its name; None where the table has no number of it."""
    if particles.family == "star":
        values = _of_star(particles.table, quantity)
    else:
        names = particles.table.dtype.names or ()
        values = None
        if quantity.field in names:
            values = to_tag(quantity, floats(particles.source, particles.table, quantity.field))
    return values if values is not None and (np.isfinite(values).any() or not len(values)) else None


def _of_star(star: StarTable, quantity: Quantity) -> Floats | None:
    if quantity.topic is Topic.IMAGE:
        return image_pixel_size(star)
    if quantity.in_optics and star.group is not None and any(quantity.tag in row for row in star.optics):
        of_group = np.array([*(number(row.get(quantity.tag)) for row in star.optics), np.nan])
        return of_group[star.group]
    return star.table.floats(quantity.tag) if quantity.tag in star.table else None


Pair = tuple[Floats | None, ...]


def _with_defaults(name: str, pair: Pair, values: dict[str, Pair]) -> Pair:
    """What a column that a table may leave out means where it does."""
    quantity = next(q for q in QUANTITIES if q.name == name)
    if quantity.tag not in CTF_RESET or all(column is None for column in pair):
        return pair
    value = float(CTF_RESET[quantity.tag])
    return tuple(
        np.full(len(defocus), value) if column is None and defocus is not None else column
        for column, defocus in zip(pair, values[NEUTRAL_DEFOCUS], strict=True)
    )


def _round(values: dict[str, Pair]) -> Mask | None:
    """Pairs without astigmatism in either table: there the angle means nothing."""
    (u_a, u_b), (v_a, v_b) = values[NEUTRAL_DEFOCUS], values["defocus_v_angstrom"]
    if u_a is None or u_b is None or v_a is None or v_b is None:
        return None
    return (np.abs(u_a - v_a) <= DEFOCUS.absolute) & (np.abs(u_b - v_b) <= DEFOCUS.absolute)


def _numbers(quantity: Quantity, a: Floats | None, b: Floats | None, ignored: Mask | None) -> Result:
    label, unit, limit, period = _about(quantity)
    if a is None or b is None:
        rows = len(b if b is not None else a if a is not None else ())
        only = "B" if a is None else "A"
        return Result(name=quantity.name, label=label, unit=unit, rows=rows, limit=limit, only=only)
    with np.errstate(invalid="ignore"):
        apart = np.abs(a - b)
        if period:
            apart = np.mod(apart, period)
            apart = np.minimum(apart, period - apart)
    same = (np.isnan(a) & np.isnan(b)) | (a == b)
    if ignored is not None:
        same |= ignored
    return _measured(quantity.name, label, unit, apart, limit.of(a, b), limit, same)


_WORDS = {"bfactor": "B-factor", "cs": "Cs", "ctf": "CTF", "u": "U", "v": "V"}
_UNITS = {"angstrom": "Å", "degrees": "°", "kv": "kV", "mm": "mm"}


def _about(quantity: Quantity) -> tuple[str, str, Limit, float]:
    """Label, unit, limit and period, from the neutral name and its unit."""
    *words, last = quantity.name.split("_")
    unit = _UNITS.get(last, "")
    label = " ".join(_WORDS.get(word, word) for word in (words if unit else [*words, last]))
    if quantity.topic is Topic.IMAGE or unit not in ("Å", "°"):
        return label, unit, CONSTANT, 0.0
    if unit == "Å":
        return label, unit, DEFOCUS, 0.0
    return label, unit, ANGLE, 180.0 if label == "defocus angle" else 360.0


def _image_sizes(a: Side, b: Side, rows_a: Rows, rows_b: Rows) -> Iterator[Result]:
    """Sides of the stored images; a table of RELION 3.0 does not say them, and is not blamed for that."""
    if a.references is None or b.references is None:
        return
    one, two = a.references.size[rows_a].astype(np.float64), b.references.size[rows_b].astype(np.float64)
    said = (one > 0) & (two > 0)
    if said.any():
        found = _measured("image_size_pixels", "image size", "px", np.abs(one - two), np.zeros(len(one)), EXACT, ~said)
        yield found


def _groups(particles: Particles) -> NDArray[np.int64]:
    """A number for the optics group of each row; a table without groups has one."""
    if particles.family == "star":
        star: StarTable = particles.table
        return (rows_of_picks(star)[1] if star.group is None else star.group).astype(np.int64)
    names = particles.table.dtype.names or ()
    field = next((name for name in ("ctf/exp_group_id", "location/exp_group_id") if name in names), None)
    return np.zeros(len(particles), np.int64) if field is None else particles.table[field].astype(np.int64)


def _optics(a: Particles, b: Particles, rows_a: Rows, rows_b: Rows) -> Result:
    """Whether rows that share a group in one table share one in the other, whatever groups are called.

    A row differs where its group is not the one that most rows of its group in the other table have.
    """
    one, two = (np.unique(_groups(p)[rows], return_inverse=True)[1] for p, rows in ((a, rows_a), (b, rows_b)))
    wrong = _stray(one, two) | _stray(two, one)
    worst = int(np.argmax(wrong)) if wrong.any() else -1
    return Result(
        name="optics_groups", label="optics groups", rows=len(wrong), differing=int(wrong.sum()), largest=np.nan,
        worst=worst,
    )  # fmt: skip


def _stray(group: NDArray[np.intp], other: NDArray[np.intp]) -> Mask:
    """Rows whose `other` is not the commonest one of their group; of equally common ones neither is."""
    if not len(group):
        return np.zeros(0, np.bool_)
    stride = int(other.max()) + 1
    pairs, inverse, counts = np.unique(group * stride + other, return_inverse=True, return_counts=True)
    most = np.zeros(int(group.max()) + 1, np.int64)
    np.maximum.at(most, pairs // stride, counts)
    tops = np.bincount((pairs // stride)[counts == most[pairs // stride]], minlength=len(most))
    common = (counts == most[pairs // stride]) & (tops[pairs // stride] == 1)
    found: Mask = ~common[inverse]
    return found


def cut_at_the_same_pixel(a: Side, b: Side, rows_a: Rows, rows_b: Rows) -> int:
    """Of positions that differ, how many mean the same whole pixel, at which a box is cut."""
    apart = _distance(a.position[rows_a], b.position[rows_b]) > POSITION.absolute
    one, two = (
        truncate(side.position[rows[apart]], guard=side.particles.from_fractions)
        for side, rows in ((a, rows_a), (b, rows_b))
    )
    return int((one == two).all(axis=1).sum())
