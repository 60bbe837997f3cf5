"""Which row of one table is the same particle as which row of the other: by uid, by image, by position; one to one.

Every rule gives the same pairs when the tables change places, or their rows another order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cryobox.comparison.sides import Side
from cryobox.errors import InputError
from cryobox.formats.links import links_of
from cryobox.formats.poses import angles_said
from cryobox.matching import NO_STRIP, Strip, match_micrographs
from cryobox.micrograph import Micrographs
from cryobox.particles import Particles

__all__ = ["BY_UID", "Pairs", "image_keys", "near_some", "nearest", "pair_rows", "same_micrographs", "uids_of"]

BY_UID = "uid"
BY_IMAGE = "image name"
BY_POSITION = "micrograph and position"

LARGEST_COORDINATE = 1e7  # pixels, beyond any micrograph: coordinates are clipped here before they become cells

Rows = NDArray[np.intp]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Rows that belong together.

    Parameters
    ----------
    a, b : ndarray, shape (pairs,), intp
        Rows of the two tables; ascending in `a`.
    rules : dict of str to int
        How many pairs each rule gave.
    names : str
        By which rule names of micrographs were found to be the same; "" where it was not asked.
    micrograph : (ndarray, ndarray), optional
        For each table the number of the micrograph of each row, the same for both; -1 where the other has no such. None
        where names do not tell.
    notes : tuple of str
    """

    a: Rows
    b: Rows
    rules: dict[str, int]
    names: str
    micrograph: tuple[Rows, Rows] | None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.a)


def pair_rows(a: Side, b: Side, *, within: float, strip: Strip = NO_STRIP) -> Pairs:
    """Match the rows of two tables, each rule for what the rules before it left.

    Parameters
    ----------
    a, b : Side
    within : float
        Pixels: how far apart two positions may be.
    strip : Strip
        Text that is not compared in names of micrographs.

    Raises
    ------
    InputError
        If no rule matches any row, and names of micrographs are the reason.
    """
    left_a, left_b = np.arange(len(a)), np.arange(len(b))
    found: list[tuple[str, Rows, Rows]] = []

    def keep(rule: str, i: Rows, j: Rows) -> None:
        nonlocal left_a, left_b
        if len(i):
            found.append((rule, left_a[i], left_b[j]))
            left_a, left_b = np.delete(left_a, i), np.delete(left_b, j)

    keep(BY_UID, *_by_uid(a, b))
    views = views_alike(a.particles, b.particles)
    keep(BY_IMAGE, *_by_image(a, b, left_a, left_b, views))
    keep(BY_IMAGE, *_by_image(a, b, left_a, left_b))
    notes: tuple[str, ...] = ()
    micrograph: tuple[Rows, Rows] | None = None
    names, count = "", 0
    try:
        one, two, names = same_micrographs(a.particles, b.particles, strip)
    except InputError as error:
        if not found:
            raise
        notes = (str(error),)
    else:
        micrograph = one, two
        for seen in (views, None):  # those of one view first: several rows may stand at one place
            of_a, of_b = _of_one_view(micrograph, seen)
            i, j = nearest(
                (of_a[left_a], a.position[left_a], a.slot[left_a]),
                (of_b[left_b], b.position[left_b], b.slot[left_b]),
                within,
            )
            count += len(i)
            keep(BY_POSITION, i, j)
    i = np.concatenate([np.empty(0, np.intp), *(rows for _, rows, _ in found)])
    j = np.concatenate([np.empty(0, np.intp), *(rows for _, _, rows in found)])
    order = np.argsort(i)
    return Pairs(
        a=i[order],
        b=j[order],
        rules={name: sum(len(rows) for rule, rows, _ in found if rule == name) for name, _, _ in found},
        names=names if count else "",
        micrograph=micrograph,
        notes=notes,
    )


def _by_uid(a: Side, b: Side) -> tuple[Rows, Rows]:
    uids = [uids_of(side.particles) for side in (a, b)]
    if uids[0] is None or uids[1] is None:
        return np.empty(0, np.intp), np.empty(0, np.intp)
    common, i, j = np.intersect1d(uids[0], uids[1], return_indices=True)
    told = common != 0  # of rows that have none
    return i[told], j[told]


def uids_of(particles: Particles) -> NDArray[np.uint64] | None:
    if particles.family == "star":  # of a table that was made of a `.cs`
        found = links_of(particles).uid
        return None if found is None or len(np.unique(found)) < len(found) else found
    if particles.family != "cs" or "uid" not in (particles.table.dtype.names or ()):
        return None
    uids: NDArray[np.uint64] = particles.table["uid"].astype(np.uint64)  # of int64 and uint64 NumPy makes float64
    return uids


Views = tuple[NDArray[np.int64], NDArray[np.int64]]


def views_alike(a: Particles, b: Particles) -> Views | None:
    """A number for the angles of each row, the same in both tables; None where they do not say them alike.

    Copies of a particle by its symmetry have one image and one place: their views alone tell them apart.
    """
    angles_a, angles_b = angles_said(a), angles_said(b)
    if a.family != b.family or angles_a is None or angles_b is None:
        return None
    _, code = np.unique(np.concatenate([angles_a, angles_b]), axis=0, return_inverse=True)
    one, two = np.split(code.reshape(-1).astype(np.int64), [len(a)])
    return one, two


def _of_one_view(micrographs: tuple[Rows, Rows], views: Views | None) -> tuple[Rows, Rows]:
    """A number for the micrograph and the view of each row, the same in both tables; -1 stays."""
    if views is None:
        return micrographs
    both, seen = np.concatenate(micrographs), np.concatenate(views)
    _, code = np.unique(both * (1 + int(seen.max(initial=0))) + seen, return_inverse=True)
    one, two = np.split(np.where(both < 0, -1, code.reshape(-1)).astype(np.intp), [len(micrographs[0])])
    return one, two


def _by_image(a: Side, b: Side, left_a: Rows, left_b: Rows, views: Views | None = None) -> tuple[Rows, Rows]:
    """Rows of one image: the same file, the same number. Of several rows of one image the k-th belong together."""
    keys = image_keys(a, b)
    if keys is None:
        return np.empty(0, np.intp), np.empty(0, np.intp)
    if views is not None:
        of_each = 1 + max(int(view.max(initial=0)) for view in views)
        keys = keys[0] * of_each + views[0], keys[1] * of_each + views[1]
    of_a, of_b = keys[0][left_a], keys[1][left_b]
    turns = _turn(of_a, a.position[left_a]), _turn(of_b, b.position[left_b])
    count = 1 + max(int(turn.max(initial=0)) for turn in turns)
    _, i, j = np.intersect1d(of_a * count + turns[0], of_b * count + turns[1], return_indices=True)
    return i, j


def image_keys(a: Side, b: Side) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """A number for the image of each row, the same in both tables; None where they have no stack in common."""
    if not set(a.stacks) & set(b.stacks):
        return None
    number = {path: k for k, path in enumerate(dict.fromkeys((*a.stacks, *b.stacks)))}
    # Places among the numbers that are there: a product with a number itself may leave int64.
    slots, place = np.unique(np.concatenate([a.slot, b.slot]), return_inverse=True)
    places = np.split(place, [len(a)])
    one, two = (np.array([number[path] for path in side.stacks], np.int64)[side.stack] * len(slots) + own
                for side, own in zip((a, b), places, strict=True))  # fmt: skip
    return one, two


def _turn(key: NDArray[np.int64], position: Floats) -> NDArray[np.int64]:
    """0 for the first row of each key, 1 for the second, in the order of their positions."""
    order = np.lexsort((position[:, 1], position[:, 0], key))
    ordered = key[order]
    first = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])) if len(key) else np.empty(0, np.intp)
    lengths = np.diff(np.append(first, len(key)))
    turn = np.empty(len(key), np.int64)
    turn[order] = np.arange(len(key)) - np.repeat(first, lengths)
    return turn


def same_micrographs(a: Particles, b: Particles, strip: Strip = NO_STRIP) -> tuple[Rows, Rows, str]:
    """A number for the micrograph of each row, the same in both; -1 where only one has it. And the rule for names.

    Raises
    ------
    InputError
        If no name matches, or one is ambiguous.
    """
    if not len(a) or not len(b):
        return np.full(len(a), -1, np.intp), np.full(len(b), -1, np.intp), ""
    # Looked up from one side into the other; which is which must not depend on who was named first.
    turned = sorted(b.micrograph_names) < sorted(a.micrograph_names)
    first, second = (b, a) if turned else (a, b)
    match, words = match_micrographs(first, _as_micrographs(second), strip)
    one = match[first.micrograph]
    there = np.zeros(len(second.micrograph_names), np.bool_)
    there[match[match >= 0]] = True
    two = np.where(there[second.micrograph], second.micrograph, -1)
    return (two, one, words) if turned else (one, two, words)


def _as_micrographs(particles: Particles) -> Micrographs:
    """The micrographs that a table of particles names."""
    n = len(particles.micrograph_names)
    return Micrographs(
        family=particles.family,
        source=particles.source,
        names=particles.micrograph_names,
        paths=particles.micrograph_names,
        uids=particles.micrograph_uids,
        pixel_size=np.full(n, np.nan),
        shape=np.zeros((n, 2), np.int64),
        optics_index=np.full(n, -1, np.intp),
        ctf={},
    )


# Micrograph, (y, x) and number in the stack, of each row. The last tells rows at one place apart.
Placed = tuple[Rows, Floats, NDArray[np.int64]]


def nearest(a: Placed, b: Placed, within: float) -> tuple[Rows, Rows]:
    """Match positions one to one: of all pairs at most `within` apart the nearest first.

    Where pairs are equally near, rows earlier in their stacks come first, then smaller coordinates.
    """
    i, j, square = _neighbors(a, b, within)
    alike = [a[2][i] + b[2][j], *(a[1][i, axis] + b[1][j, axis] for axis in (0, 1))]
    order = np.lexsort((*alike[::-1], np.abs(a[2][i] - b[2][j]), square))
    i, j = i[order], j[order]
    taken: list[tuple[Rows, Rows]] = [(np.empty(0, np.intp), np.empty(0, np.intp))]
    while len(i):
        # What is the first choice of both is taken; then nobody else can have either.
        first_i, first_j = (np.zeros(len(i), np.bool_) for _ in range(2))
        first_i[np.unique(i, return_index=True)[1]] = True
        first_j[np.unique(j, return_index=True)[1]] = True
        both = first_i & first_j
        taken.append((i[both], j[both]))
        free = ~(np.isin(i, i[both]) | np.isin(j, j[both]))
        i, j = i[free], j[free]
    return np.concatenate([rows for rows, _ in taken]), np.concatenate([rows for _, rows in taken])


def _neighbors(a: Placed, b: Placed, within: float) -> tuple[Rows, Rows, Floats]:
    """All pairs at most `within` apart on one micrograph, and the squares of their distances.

    Rows stand in cells as wide as the distance, so that partners are in the same cell or one of the eight around it.
    """
    usable = [np.flatnonzero((placed[0] >= 0) & np.isfinite(placed[1]).all(axis=1)) for placed in (a, b)]
    cells = [
        np.floor(np.clip(placed[1][rows], -LARGEST_COORDINATE, LARGEST_COORDINATE) / within).astype(np.int64)
        for placed, rows in zip((a, b), usable, strict=True)
    ]
    lowest = min((int(cell.min(initial=0)) for cell in cells), default=0)
    cells = [cell - lowest + 1 for cell in cells]
    stride = 2 + max(int(cell.max(initial=0)) for cell in cells)
    lines = [placed[0][rows] * stride + cell[:, 0] for placed, rows, cell in zip((a, b), usable, cells, strict=True)]
    known, line_b = np.unique(lines[1], return_inverse=True)
    key_b = line_b * stride + cells[1][:, 1]
    order_b = np.argsort(key_b, kind="stable")
    key_b = key_b[order_b]
    found: list[tuple[Rows, Rows]] = [(np.empty(0, np.intp), np.empty(0, np.intp))]
    for dy in (-1, 0, 1):
        place = np.searchsorted(known, lines[0] + dy)
        there = np.flatnonzero(known[np.minimum(place, len(known) - 1)] == lines[0] + dy) if len(known) else place[:0]
        for dx in (-1, 0, 1):
            key = place[there] * stride + cells[0][there, 1] + dx
            begin, end = (np.searchsorted(key_b, key, side=side) for side in ("left", "right"))
            found.append(_ranges(there, begin, end, order_b))
    i = usable[0][np.concatenate([rows for rows, _ in found])]
    j = usable[1][np.concatenate([rows for _, rows in found])]
    square = ((a[1][i] - b[1][j]) ** 2).sum(axis=1)
    near = square <= within**2
    return i[near], j[near], square[near]


def _ranges(rows: Rows, begin: Rows, end: Rows, order: Rows) -> tuple[Rows, Rows]:
    """Each row beside every entry of `order` from its `begin` to its `end`."""
    counts = end - begin
    some = counts > 0
    rows, begin, counts = rows[some], begin[some], counts[some]
    inner = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(rows, counts), order[np.repeat(begin, counts) + inner]


def near_some(a: Placed, b: Placed, within: float) -> NDArray[np.bool_]:
    """Which positions of `a` have one of `b` at most `within` away, whoever else has it, too."""
    i, _, _ = _neighbors(a, b, within)
    found = np.zeros(len(a[0]), np.bool_)
    found[i] = True
    return found
