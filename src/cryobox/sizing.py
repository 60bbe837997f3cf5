"""Box and stored sizes in pixels from what a user asks for: in pixels, in Å, or as an earlier run had them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cryobox.bounds import LARGEST_BOX, check_positive
from cryobox.boxes import crop_for, nearest_crop, nearest_even, propose
from cryobox.declared import IMAGES, option
from cryobox.errors import OptionError

__all__ = ["Chosen", "Sizing", "choose_sizes", "further_size"]


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Sizing:
    """Sizes as the command line asks for them; at most one of each kind.

    Parameters
    ----------
    box, fcrop, small : int, optional
        Pixels: of the window, of the first and of the second stored image.
    box_angstrom : float, optional
        Side of the window in Å, of micrographs of several pixel sizes.
    diameter, target_pixel_size, target_resolution : float, optional
        Å: of the particle, which chooses the box; of a stored pixel, or twice that, which choose `fcrop`.
    angpix_out : float, optional
        Å of a stored pixel: `fcrop` is the even size nearest to it, and the exact size of its pixels is written.
    also : sequence of str, optional
        Further sizes, "64" or "64:float16".
    """

    box: int | None = option("--box", default=None, help="Side of the window, pixels of the micrograph", panel=IMAGES)
    box_angstrom: float | None = option(
        "--box-angstrom", default=None, help="Side in Å: an even box of its own for each pixel size", panel=IMAGES
    )
    diameter: float | None = option(
        "--diameter", default=None, help="Longest diameter of the particle in Å: chooses the box", panel=IMAGES
    )
    target_pixel_size: float | None = option(
        "--target-pixel-size", default=None, help="Å per stored pixel, at most: chooses --fcrop", panel=IMAGES
    )
    target_resolution: float | None = option(
        "--target-resolution", default=None, help="The same by resolution: Å, twice the pixel", panel=IMAGES
    )
    angpix_out: float | None = option(
        "--angpix-out", default=None, help="Å per stored pixel, as near as an even size allows", panel=IMAGES
    )
    fcrop: int | None = option("--fcrop", default=None, help="Fourier-crop to this side", panel=IMAGES)
    small: int | None = option("--small", default=None, help="A second, smaller crop in the same pass", panel=IMAGES)
    also: Sequence[str] | None = option(
        "--also", default=None, help="A further size, as 64 or 64:float16; may be repeated", metavar="SIZE[:TYPE]",
        panel=IMAGES,
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """Sizes as `Recipe` takes them, and why they are what they are."""

    box: int
    box_angstrom: float | None
    sizes: tuple[int, ...]
    also: tuple[tuple[int, Any], ...]
    why: tuple[str, ...]


def choose_sizes(
    asked: Sizing,
    recorded: Mapping[str, Any],
    *,
    dtype: str,
    pixel_size: Callable[[], float],
    coarsest: Callable[[], float] | None = None,
) -> Chosen:
    """Choose box and stored sizes.

    Parameters
    ----------
    asked : Sizing
    recorded : mapping
        The recipe of an earlier run, for what is not asked for; or nothing.
    dtype : str
        Type of further sizes that say none.
    pixel_size : callable
        Å per pixel of the micrographs; called only where something is asked for in Å.
    coarsest : callable, optional
        The same of the coarsest of them, where they have several.

    Raises
    ------
    OptionError
        If two options contradict each other, or nothing says how large the box is.
    """
    target = asked.target_pixel_size
    if asked.target_resolution is not None:
        if target is not None:
            raise OptionError("give --target-pixel-size or --target-resolution, not both")
        target = asked.target_resolution / 2
    if asked.box_angstrom is not None and (asked.box is not None or asked.diameter is not None):
        raise OptionError("give --box-angstrom (Å), --box (pixels) or --diameter (Å), not several")
    if asked.box is not None and asked.diameter is not None:
        raise OptionError("give --box (pixels) or --diameter (Å), not both")
    if asked.fcrop is not None and target is not None:
        raise OptionError("give --fcrop (pixels), or --target-pixel-size or --target-resolution (Å), not both")
    if asked.angpix_out is not None and (asked.fcrop is not None or target is not None):
        raise OptionError("give --angpix-out, or --fcrop, --target-pixel-size or --target-resolution, not both")
    why: list[str] = []
    box, fcrop, small, others = asked.box, asked.fcrop, asked.small, ()
    in_angstrom = (asked.diameter, target, asked.angpix_out)
    angstrom = 0.0
    boxes = asked.box_angstrom
    if boxes is None and asked.box is None and asked.diameter is None:
        boxes = recorded.get("box_angstrom")
    if asked.box_angstrom is not None or any(one is not None for one in in_angstrom):
        angstrom = pixel_size() if boxes is None or coarsest is None else coarsest()
    if asked.box_angstrom is not None:
        box = nearest_even(
            min(check_positive("box_angstrom", asked.box_angstrom, " of Å") / angstrom, 2.0 * LARGEST_BOX)
        )
        boxes = box * angstrom
        why.append(
            f"box of {box} pixels of {angstrom:g} Å, {boxes:g} Å; of other pixel sizes the even box nearest to that"
        )
    if boxes is not None and target is not None and target < angstrom * (1 - 1e-6):
        raise OptionError(
            f"the coarsest micrographs have {angstrom:g} Å per pixel, and nothing makes finer ones; got a target of "
            f"{target:g}"
        )
    if asked.diameter is not None:
        proposal = propose(asked.diameter, angstrom)
        box = proposal.box
        why.append(proposal.reasons[0])
        if fcrop is None and target is None and asked.angpix_out is None:
            why.append(f"stored as cut; --fcrop {proposal.reasons[1]}; --small {proposal.reasons[2]}")
    if box is None:
        if "box" not in recorded:
            raise OptionError("give --box (pixels), --diameter (Å), or --from with the job.json of an earlier run")
        box = int(recorded["box"])
    if "sizes" in recorded:
        first, *second = recorded["sizes"]
        if fcrop is None and target is None and asked.angpix_out is None and first != recorded["box"]:
            fcrop = first
        if second:
            recorded_small, *others = second
            small = recorded_small if small is None else small
    if target is not None:
        fcrop = crop_for(box, angstrom, target)
        reached = angstrom * box / fcrop
        why.append(f"stored at {fcrop}: {reached:.4g} Å per pixel, {2 * reached:.3g} Å at best")
    if asked.angpix_out is not None:
        fcrop = nearest_crop(box, angstrom, asked.angpix_out)
        reached = angstrom * box / fcrop
        why.append(f"stored at {fcrop}: {reached:.6g} Å per pixel ({asked.angpix_out:g} was asked for)")
    sizes = [box if fcrop is None else fcrop, *([] if small is None else [small]), *others]
    also = [further_size(text, dtype) for text in asked.also] if asked.also else recorded.get("also", ())
    return Chosen(box=box, box_angstrom=boxes, sizes=tuple(sizes), also=tuple(map(tuple, also)), why=tuple(why))


def further_size(text: str, dtype: str) -> tuple[int, str]:
    """A size and its type from what --also says."""
    size, _, kind = text.partition(":")
    if not re.fullmatch(r"[0-9]{1,6}", size):
        raise OptionError(f"--also wants a size in pixels, as 64 or 64:float16; got {text!r}")
    return int(size), kind or dtype
