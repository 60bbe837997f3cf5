"""What a recipe leaves open, decided once: style, contrast, and the alignment that moves the boxes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from cryobox.boxes import is_fast, neighbors
from cryobox.errors import OptionError
from cryobox.groups import Style, Writing
from cryobox.micrograph import Micrographs
from cryobox.options import Recipe, Steps
from cryobox.particles import Alignment, Particles

__all__ = ["Decided", "Family", "decide"]

Family = Literal["star", "cs"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """A recipe of which nothing is open any more.

    Parameters
    ----------
    recipe : Recipe
        As asked for, with `style` and `invert` filled in: what a run records.
    style : {"relion", "cryosparc"}
    families : tuple of {"star", "cs"}
        Of the tables that are written, the main one first.
    native : {"star", "cs"}
        The family in which the picks' own columns are written; the other one is converted from it.
    steps : Steps
        What is done to the pixels.
    leading : Alignment, optional
        The alignment whose shifts move the boxes; None where nothing is recentered.
    """

    recipe: Recipe
    style: Style
    families: tuple[Family, ...]
    native: Family
    steps: Steps
    leading: Alignment | None

    @property
    def stack_suffix(self) -> str:
        """What the stacks' names end with: RELION takes a `.mrc` for a volume, CryoSPARC reads both."""
        return ".mrcs" if "star" in self.families else ".mrc"


def decide(recipe: Recipe, particles: Particles, micrographs: Micrographs) -> Decided:
    """Decide what `recipe` leaves open.

    Raises
    ------
    OptionError
        If it asks for what these picks cannot give.
    """
    style = _style(recipe, particles, micrographs)
    families = _families(recipe, style)
    if recipe.ctf is not None and "cs" in families and not recipe.ctf_unmarked:
        raise OptionError(
            "--ctf: CryoSPARC's tables have no field that says that a CTF was applied, so it would be applied again; "
            "write RELION's (--tables relion), or say that you know with --ctf-unmarked"
        )
    # RELION takes particles for white; CryoSPARC is told. Who names a style means its contrast.
    white = style == "relion" if recipe.style is not None else "star" in families
    invert = recipe.invert if recipe.invert is not None else white
    full = replace(recipe, style=style, invert=invert)
    return Decided(
        recipe=full,
        style=style,
        families=families,
        native=families[0] if particles.family == "plain" else particles.family,
        steps=full.steps(),
        leading=_leading_alignment(particles, recipe),
    )


def doubts(decided: Decided) -> list[str]:
    """What is allowed but seldom meant."""
    recipe, found = decided.recipe, []
    if decided.steps.ctf == "flip":
        found.append(
            "phases are flipped, which RELION's programs do not read from rlnCtfDataArePhaseFlipped: tell them with "
            "--ctf_phase_flipped"
        )
    if decided.steps.filtered:
        found.append(
            "filtered images (--lowpass, --highpass) are for looking and training: a refinement needs all resolutions, "
            "and weighs them itself"
        )
    if recipe.subpixel and "star" in decided.families:
        found.append(
            "the tables have the exact centers of particles (--subpixel), which cryobox reads again as they are; "
            "RELION truncates them when it extracts again, and is then off by the fraction of a pixel"
        )
    for what, size in (
        ("box", recipe.box),
        *(("stored size", one.size) for one in recipe.outputs if one.size != recipe.box),
    ):
        if not is_fast(size):
            near = " or ".join(map(str, neighbors(size)))
            found.append(f"{what} {size} is not a fast size for Fourier transforms; {near} would be")
    if recipe.helix is not None and recipe.normalize and not recipe.tube:
        found.append(
            "segments are normalized by what lies outside a circle, and their helix runs through that; "
            "--helical-outer-diameter Å takes what lies outside the tube"
        )
    if any(one.dtype == "float16" for one in recipe.outputs) and not recipe.normalize:
        found.append(
            "float16 without normalization keeps about 3 digits of raw gray levels (a mean of 6800 leaves steps of 4); "
            "normalize, or store float32"
        )
    return found


def _style(recipe: Recipe, particles: Particles, micrographs: Micrographs) -> Style:
    family = particles.family if particles.family != "plain" else micrographs.family
    if recipe.style is not None:
        return recipe.style
    if recipe.tables is not None and recipe.tables != "both":
        return recipe.tables
    return "cryosparc" if family == "cs" else "relion"


def _families(recipe: Writing, style: Style) -> tuple[Family, ...]:
    """The families of the tables, the style's first."""
    of_style: Family = "star" if style == "relion" else "cs"
    other: Family = "cs" if of_style == "star" else "star"
    if recipe.tables == "both":
        return of_style, other
    if recipe.tables is None:
        return (of_style,)
    return ("star",) if recipe.tables == "relion" else ("cs",)


def _leading_alignment(particles: Particles, recipe: Recipe) -> Alignment | None:
    """The alignment that moves the boxes, None where nothing is to be recentered."""
    candidates = {kind: [a for a in particles.alignments if a.kind == kind] for kind in ("3d", "2d")}
    if (
        not recipe.recenter
        or recipe.helical_recenter == "none"
        or recipe.drop_alignments
        or recipe.reset_offsets
        or (recipe.recenter_from == "auto" and not any(candidates.values()))
    ):
        return None
    if recipe.recenter_from == "auto":
        chosen = candidates["3d"] or candidates["2d"]
    else:
        chosen = candidates[recipe.recenter_from]
        if not chosen:
            raise OptionError(f"{particles.source}: has no {recipe.recenter_from} alignment to recenter from")
    if recipe.flip_x or recipe.flip_y:
        if not chosen[0].shift.any() and recipe.recenter_3d is None:
            return None
        raise OptionError(
            f"{particles.source}: picks made on a mirrored copy cannot be recentered, since their shifts are those of "
            f"particles of the other hand; leave them out with --drop-alignments, or leave out --flip-x/--flip-y"
        )
    return chosen[0]
