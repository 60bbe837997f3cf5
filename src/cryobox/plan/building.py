"""The plan of a run: settle the micrographs, select picks, place boxes, schedule the work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from cryobox.decided import Decided, decide, doubts
from cryobox.errors import MicrographError, OptionError
from cryobox.formats.ctf import check_has_defocus
from cryobox.formats.masks import FoundMasks
from cryobox.grounds import Grounds, settle
from cryobox.matching import micrographs_with_picks
from cryobox.micrograph import ImageHeader, Micrographs
from cryobox.options import Recipe
from cryobox.particles import Particles
from cryobox.picks.helices import crowded
from cryobox.picks.masking import on_junk
from cryobox.picks.points import centered_on
from cryobox.plan.contrast import with_ctf
from cryobox.plan.noise import plan_noise, with_noise
from cryobox.plan.placing import every_center, place
from cryobox.plan.scheduling import schedule
from cryobox.plan.selecting import select
from cryobox.plan.values import ACCEPTED, Plan

__all__ = [
    "build_plan",
]


def build_plan(
    particles: Particles,
    micrographs: Micrographs,
    recipe: Recipe,
    *,
    match: NDArray[np.intp],
    headers: Mapping[int, ImageHeader | MicrographError],
    masks: FoundMasks | None = None,
    picked: Particles | None = None,
) -> Plan:
    """Decide what becomes of every pick: settle the micrographs, select picks, place boxes, schedule the work.

    Parameters
    ----------
    particles, micrographs, recipe
    match : ndarray
        From `match_micrographs`.
    headers : mapping of int to ImageHeader or MicrographError
        For every row of `micrographs` that `micrographs_with_picks` gives.
    masks : FoundMasks, optional
        Of micrographs, where the recipe has junk masks: read here, and once more where boxes of noise are drawn.
    picked : Particles, optional
        The picks that `particles` were made of, where they are not the same: noise is not taken from there, either.

    Raises
    ------
    OptionError, InputError
        If the recipe cannot be honored on this input.
    """
    decided = decide(recipe, particles, micrographs)
    given = [(particles, decided)] if picked is None else [(picked, decide(recipe, picked, micrographs))]
    particles = _on_another_point(particles, micrographs, decided)
    if recipe.recenter_3d is not None:
        decided = decide(recipe, particles, micrographs)
    grounds = settle(particles, micrographs, recipe, match=match, headers=headers)
    micrograph = match[particles.micrograph] if len(particles) else np.empty(0, dtype=np.intp)
    reason = select(particles, micrograph, decided, grounds)
    junk = None
    if masks is not None:
        junk = partial(
            on_junk, micrograph=micrograph, shape=grounds.shape, box=grounds.box, micrographs=micrographs, masks=masks,
            threshold=recipe.junk_threshold,
        )  # fmt: skip
    places = place(particles, micrograph, reason, decided, grounds, junk)
    places = with_ctf(particles, micrographs, micrograph, places, decided, grounds)
    named = micrographs_with_picks(particles, match, None)
    work = schedule(micrographs, micrograph, places, decided, grounds, named, particles.copy_of)
    noise = None
    if recipe.noise_particles is not None:
        everyone = [*given, *([] if given[0][0] is particles else [(particles, decided)])]
        away = [_places_of(some, match, how, grounds) for some, how in everyone]
        noise = plan_noise(away, work, micrographs, decided, grounds, masks)
        work = with_noise(work, noise)
    left = len(micrographs) - len(grounds.looked_at)
    notes = [f"{len(work.tasks)} micrographs have picks to cut; {left} have none or are left out"]
    if decided.leading is not None:
        notes.append(f"boxes are recentered by the shifts of {decided.leading.name}")
    near = (
        []
        if decided.leading is None
        else crowded(
            particles, places.center, micrograph, np.flatnonzero(places.reason == ACCEPTED), grounds.pixel_size
        )
    )
    return Plan(
        decided=decided,
        grounds=grounds,
        micrograph=micrograph,
        places=places,
        columns=particles.columns,
        work=work,
        warnings=(
            *particles.warnings,
            *micrographs.warnings,
            *doubts(decided),
            *grounds.warnings,
            *places.warnings,
            *near,
            *(() if noise is None else noise.plan.warnings),
        ),
        notes=tuple(notes),
        noise=noise,
    )


def _places_of(
    particles: Particles, match: NDArray[np.intp], decided: Decided, grounds: Grounds
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """The micrograph of every pick and its place there; where its shift is no number, as if it had none."""
    micrograph = match[particles.micrograph]
    center = every_center(particles, micrograph, decided, grounds)
    if decided.leading is not None:
        bare = every_center(particles, micrograph, replace(decided, leading=None), grounds)
        center = np.where(np.isfinite(center), center, bare)
    return micrograph, center


def _on_another_point(particles: Particles, micrographs: Micrographs, decided: Decided) -> Particles:
    """The picks with the point of the reference in the center that the recipe names.

    Raises
    ------
    OptionError
        If they have no orientations, or no defocus that could be adjusted.
    """
    recipe = decided.recipe
    if recipe.recenter_3d is None:
        if recipe.ref_angpix is not None and recipe.subparticles is None:
            raise OptionError(
                "--ref-angpix says what pixels of --recenter-3d or --subparticles are; give both, or neither"
            )
        return particles
    if decided.leading is None:
        raise OptionError(
            "--recenter-3d moves the boxes of particles that have an alignment; leave out --no-recenter and "
            "--drop-alignments"
        )
    if recipe.adjust_defocus:
        check_has_defocus(particles, micrographs)
    sign = recipe.defocus_sign if recipe.adjust_defocus else 0
    return centered_on(particles, decided.leading, recipe.recenter_3d, recipe.ref_angpix, sign)
