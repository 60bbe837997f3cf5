"""Rows of sub-particles against `cryobox.reference`: how each is seen, and how far from another of its particle."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cryobox import reference
from cryobox.errors import CryoboxError
from cryobox.formats.poses import views_of
from cryobox.groups import points_from
from cryobox.inputs import Inputs
from cryobox.outcome import Outcome
from cryobox.particles import Particles
from cryobox.picks.points import in_angstrom
from cryobox.verification.findings import Problems
from cryobox.verification.images import Sample
from cryobox.verification.tables import Rows

__all__ = ["check_subparticles"]

Floats = NDArray[np.float64]

VIEW = 1e-5  # of an entry of a matrix: STAR files hold six decimals of a degree, `.cs` files float32
PLACE = 0.02  # Å


def check_subparticles(rows: Rows, inputs: Inputs, outcome: Outcome, sample: Sample, problems: Problems) -> None:
    """Look at some rows of a table: each must be one of its particle's sub-particles, where the twin puts it."""
    recipe, particles = inputs.plan.recipe, inputs.particles
    if recipe.subparticles is None:
        return
    kind = f"{rows.path}: sub-particles of rows"
    try:
        views = views_of(rows.table)
    except CryoboxError as error:
        problems.add(str(error))
        return
    if views is None or not rows.table.alignments:
        problems.add(f"{rows.path}: has no orientations or shifts of sub-particles")
        return
    parent = particles.rows_of(outcome.rows)
    family = recipe.symmetry_axes or ("cryosparc" if particles.family == "cs" else "relion")
    group = reference.symmetry_group(recipe.symmetry or "C1", family)
    lies = _positions(rows.table, inputs.plan.grounds.pixel_size[inputs.plan.micrograph[outcome.rows]])
    chosen = sample.of(np.flatnonzero(rows.good))
    picks = particles.take(outcome.rows[chosen])
    before = views_of(picks)
    assert before is not None
    places = points_from(recipe.subparticles)
    points = np.stack([in_angstrom(*place, picks, recipe.ref_angpix) for place in places], axis=1)
    partners = np.searchsorted(parent, parent[chosen])
    for number, (row, partner) in enumerate(zip(chosen.tolist(), partners.tolist(), strict=True)):
        mine, other = (_shown(views[i], before[number], group, points[number]) for i in (row, partner))
        away = lies[row] - lies[partner]
        if not mine:
            problems.add(f"{rows.path}: row {row + 1}: is not seen as any sub-particle of its particle", kind)
        elif other and not any(np.abs(away - (a - b)).max() < PLACE for a in mine for b in other):
            problems.add(f"{rows.path}: row {row + 1}: does not lie where its view says", kind)


def _positions(table: Particles, pixel_size: Floats) -> Floats:
    """(y, x) of each in Å from the corner of its micrograph: the box's center less the shift that is left."""
    alignment = table.alignments[0]
    for one in table.alignments:
        if one.kind == "3d":
            alignment = one
    whole = np.stack([table.y, table.x], axis=1) * pixel_size[:, None]
    found: Floats = whole - alignment.shift * alignment.pixel_size[:, None]
    return found


def _shown(view: Floats, of_particle: Floats, group: list[Floats], points: Floats) -> list[Floats]:
    """(y, x) in Å from the particle's center, of every point that this view may be of."""
    if not any(np.abs(of_particle @ turn - view).max() < VIEW for turn in group):
        return []
    return [np.array([float(view[1] @ point), float(view[0] @ point)]) for point in points]
