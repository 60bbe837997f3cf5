"""Where the boxes of the selected picks lie."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cryobox import centering
from cryobox.centering import (
    corner_of,
    inside,
    mirror,
    overlaps,
    round_half_away,
    too_close,
    truncate,
    with_fraction,
)
from cryobox.decided import Decided
from cryobox.errors import OptionError
from cryobox.grounds import Grounds
from cryobox.particles import Alignment, Particles, Reason
from cryobox.picks.helices import angles_of
from cryobox.picks.masking import Junk, over_rectangles
from cryobox.plan.selecting import rejected
from cryobox.plan.values import ACCEPTED, REASONS, Places
from cryobox.tubes import axis_of

__all__ = [
    "every_center",
    "place",
]


def place(
    particles: Particles,
    micrograph: NDArray[np.intp],
    reason: NDArray[np.int8],
    decided: Decided,
    grounds: Grounds,
    junk: Callable[[NDArray[np.int64], NDArray[np.bool_]], Junk] | None = None,
) -> Places:
    """Where the boxes of the selected picks lie, and which of them cannot be cut there.

    `junk` tells of the first pixels of all boxes, and of which it is asked, which of them lie on junk.
    """
    recipe, leading = decided.recipe, decided.leading
    center = np.zeros((len(particles), 2), dtype=np.int64)
    move = np.zeros((len(particles), 2), dtype=np.float64)
    alive = reason == ACCEPTED
    base, shift = _bases(particles, micrograph, alive, decided, grounds)
    across = recipe.helix == "segments" and recipe.helical_recenter in (None, "across")
    along = axis_of(particles.psi[alive]) if across and particles.psi is not None else None
    placed = centering.place(base, shift, along)
    center[alive], move[alive] = placed.center, placed.move
    box = recipe.box if recipe.box_angstrom is None else grounds.box[micrograph, None]
    exact, columns = None, dict(angles_of(particles) if recipe.tube and recipe.normalize else {})
    if recipe.subpixel:
        _check_subpixel(particles, decided)
        wanted = np.zeros_like(base) if shift is None else shift
        exact, columns["residual"] = np.zeros_like(move), np.zeros_like(move)
        exact[alive], move[alive] = base - wanted, wanted
        columns["residual"][alive] = wanted - placed.move + 0.0  # no -0: equal ones share a window
    corner = corner_of(center, box)
    shape = grounds.shape[micrograph]
    reason = rejected(reason, (alive & ~overlaps(corner, box, shape), Reason.OUTSIDE))
    if recipe.edges == "reject":
        reason = rejected(reason, (alive & ~inside(corner, box, shape), Reason.EDGE))
    if recipe.edge_margin is not None:
        far = inside(corner - recipe.edge_margin, box + 2 * recipe.edge_margin, shape)
        reason = rejected(reason, (alive & ~far, Reason.MARGIN))
    if recipe.exclude:
        reason = rejected(reason, (alive & over_rectangles(corner, box, recipe.exclude), Reason.EXCLUDED))
    found = Junk(picks=~alive) if junk is None else junk(corner, reason == ACCEPTED)
    reason = rejected(reason, (alive & found.picks, Reason.JUNK))
    if recipe.min_separation_angstrom is not None:
        rows = np.flatnonzero(reason == ACCEPTED)
        with np.errstate(over="ignore"):  # farther than any number is far enough
            distance = recipe.min_separation_angstrom / grounds.pixel_size[micrograph[rows]]
        near = too_close(
            (base if shift is None else base - shift)[np.searchsorted(np.flatnonzero(alive), rows)],
            micrograph[rows],
            distance,
            None if particles.score is None else particles.score[rows],
            None if particles.copy_of is None else particles.copy_of[rows],
        )
        reason[rows[near]] = REASONS.index(Reason.SEPARATION)
    alignments = () if recipe.drop_alignments else particles.alignments
    if recipe.reset_offsets:
        if not alignments:
            raise OptionError(
                f"{particles.source}: has no shifts, so there is nothing for --reset-offsets; leave it out"
            )
        alignments = tuple(replace(one, shift=np.zeros_like(one.shift)) for one in alignments)
    if leading is not None:
        alignments = _moved_alignments(particles, move, grounds.pixel_size[micrograph])
        if exact is not None:
            alignments = tuple(_without_shift(one, alive) if one.name == leading.name else one for one in alignments)
    return Places(
        reason=reason,
        center=center,
        corner=corner,
        moved=_moved(particles, alive, center, decided, grounds),
        alignments=alignments,
        exact=exact,
        columns=columns,
        warnings=found.warnings,
        centers=None if recipe.background == "plain" else every_center(particles, micrograph, decided, grounds),
    )


def every_center(
    particles: Particles, micrograph: NDArray[np.intp], decided: Decided, grounds: Grounds
) -> NDArray[np.float64]:
    """Where every pick lies that has a place in a micrograph that is cut, selected or not; nan for the others."""
    unusable = np.fromiter(grounds.incomplete, dtype=np.intp, count=len(grounds.incomplete))
    there = np.isin(micrograph, grounds.looked_at) & ~np.isin(micrograph, unusable)
    there &= np.isfinite(particles.y) & np.isfinite(particles.x)
    if decided.leading is not None:
        with np.errstate(over="ignore", invalid="ignore"):
            there &= np.isfinite(decided.leading.shift * decided.leading.pixel_size[:, None]).all(axis=1)
    center = np.full((len(particles), 2), np.nan)
    center[there] = centering.place(*_bases(particles, micrograph, there, decided, grounds)).center
    return center


def _without_shift(alignment: Alignment, where: NDArray[np.bool_]) -> Alignment:
    """An alignment that leaves nothing, exactly, whatever is left by rounding."""
    return replace(alignment, shift=np.where(where[:, None], 0.0, alignment.shift))


def _check_subpixel(particles: Particles, decided: Decided) -> None:
    """Refuse alignments that stay behind: they would point beside particles that were moved by fractions."""
    recipe = decided.recipe
    if recipe.helix == "segments" and recipe.helical_recenter != "free" and particles.alignments:
        raise OptionError(
            "--subpixel moves images along tubes, too, where boxes of segments move across them alone; give "
            "--helical-recenter free, or leave one of the two out"
        )
    if decided.leading is None and particles.alignments and not (recipe.drop_alignments or recipe.reset_offsets):
        raise OptionError(
            f"{particles.source}: --subpixel centers images by their shifts, and --no-recenter leaves these as they "
            f"are; leave out one of the two, or the shifts with --drop-alignments"
        )


def _bases(
    particles: Particles,
    micrograph: NDArray[np.intp],
    alive: NDArray[np.bool_],
    decided: Decided,
    grounds: Grounds,
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """Truncated picks in pixels of the file, and their shifts likewise, for the rows in `alive`."""
    recipe, leading = decided.recipe, decided.leading
    position = np.stack([particles.y[alive], particles.x[alive]], axis=1)
    factor = grounds.scale[particles.micrograph[alive]]
    extent = grounds.shape[micrograph[alive]] / factor
    for axis, flipped in ((0, recipe.flip_y), (1, recipe.flip_x)):
        if flipped:
            position[:, axis] = mirror(position[:, axis], extent[:, axis])
    if not particles.from_fractions:
        # A scale that the user gives says that the numbers themselves are at another binning; only the result is
        # a position to be read as a pixel.
        given = grounds.coordinate_scale[particles.micrograph[alive], None]
        position, factor = position * given, factor / given
    if leading is None and recipe.rounding == "nearest":
        base = round_half_away(position)
    else:
        base = truncate(position, guard=particles.from_fractions)
    if leading is None and recipe.subpixel:
        base = with_fraction(position, guard=particles.from_fractions)
    elif particles.exact is not None:
        whole = with_fraction(position, guard=particles.from_fractions)
        base = np.where(particles.exact[alive][:, None], whole, base)
    base = base * factor
    if leading is None:
        return base, None
    # First times, then over, as RELION does: 1.2 Å at 0.8 Å per pixel is then just below a pixel and a half for both.
    shift = leading.shift[alive] * leading.pixel_size[alive][:, None]
    return base, shift / grounds.pixel_size[micrograph[alive]][:, None]


def _moved_alignments(
    particles: Particles, move: NDArray[np.float64], pixel_size: NDArray[np.float64]
) -> tuple[Alignment, ...]:
    """Every alignment after the boxes moved, each in its own unit."""
    found = []
    for alignment in particles.alignments:
        with np.errstate(divide="ignore", invalid="ignore"):  # an alignment without a pixel size stays as it is
            step = move * (pixel_size / alignment.pixel_size)[:, None]
        step = np.where(np.isfinite(step), step, 0.0)
        shift = alignment.shift - (step if alignment.shift.ndim == 2 else step[:, None, :])
        found.append(replace(alignment, shift=shift))
    return tuple(found)


def _moved(
    particles: Particles,
    alive: NDArray[np.bool_],
    center: NDArray[np.int64],
    decided: Decided,
    grounds: Grounds,
) -> NDArray[np.bool_]:
    """Rows whose coordinates must be written anew, since a later reader would not find the box in the old ones."""
    recipe = decided.recipe
    if decided.leading is not None:
        return alive.copy()
    if recipe.flip_x or recipe.flip_y:
        return alive.copy()
    if recipe.subpixel:
        return alive.copy()
    position = np.stack([particles.y, particles.x], axis=1)
    old = truncate(position, guard=particles.from_fractions)
    if particles.exact is not None:
        # An image that was cut at whole pixels is not centered on a fraction, whatever the one before it was.
        old = np.where(particles.exact[:, None], with_fraction(position, guard=particles.from_fractions), old)
    same_grid = (grounds.scale == 1.0).all(axis=1)[particles.micrograph] if len(particles) else alive
    with np.errstate(invalid="ignore"):
        stays = (old == center).all(axis=1) & same_grid
    found: NDArray[np.bool_] = alive & ~stays
    return found
