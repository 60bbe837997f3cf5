"""Fast box sizes: the list that CryoSPARC's guide recommends, and neighbors on it.

The list holds even sizes without a prime factor above 7 (docs/conventions.md); any even size works.
"""

from __future__ import annotations

import math
import numbers
from bisect import bisect_left
from dataclasses import dataclass

from cryobox.errors import OptionError

__all__ = [
    "FAST_BOXES",
    "Proposal",
    "as_integer",
    "check_even",
    "crop_for",
    "fast_box",
    "is_fast",
    "neighbors",
    "nearby",
    "nearest_crop",
    "nearest_even",
    "propose",
]

BOX_PER_DIAMETER = 1.5  # room for the delocalized signal, and for background around the particle
CLASSES_2D_ANGSTROM = 6.0  # resolution at which 2D classes show secondary structure; a first crop need not reach more
SMALLEST_ANGSTROM, LARGEST_ANGSTROM = 1e-3, 1e6  # of what is asked for; beyond, a number is a slip of the hand
SORTING_ANGSTROM = 15.0  # enough to tell particles from junk

# fmt: off
FAST_BOXES: tuple[int, ...] = (
    32, 36, 40, 42, 48, 56, 60, 64, 70, 72, 80, 84, 90, 96, 100, 108, 112, 120, 128, 144, 160, 180, 192, 200, 216,
    224, 240, 256, 270, 288, 300, 320, 324, 336, 384, 400, 432, 448, 450, 512, 576, 640, 648, 672, 720, 768, 784,
    810, 864, 882, 1024, 1152, 1280, 1296, 1344, 1440, 1568, 1620, 1728, 1792, 2000, 2048, 2160, 2592, 2744, 3456,
    4096,
)
# fmt: on


def fast_box(n: int) -> int:
    """Return the smallest recommended box of at least `n` pixels.

    Raises
    ------
    OptionError
        If `n` is not positive or larger than the largest size on the list.
    """
    if not 1 <= n <= FAST_BOXES[-1]:  # true for nan
        raise OptionError(f"fast_box knows sizes from 1 to {FAST_BOXES[-1]} pixels; got {n}")
    return FAST_BOXES[bisect_left(FAST_BOXES, n)]


def is_fast(n: int) -> bool:
    """Whether `n` is on the recommended list."""
    return n in FAST_BOXES


def neighbors(n: int) -> tuple[int, ...]:
    """Return the recommended sizes just below and above `n` (fewer at the ends of the list; `n` itself left out)."""
    below = [size for size in FAST_BOXES if size < n][-1:]
    above = [size for size in FAST_BOXES if size > n][:1]
    return (*below, *above)


def nearby(n: int, count: int = 2) -> tuple[int, ...]:
    """Return `n` and up to `count` recommended sizes on either side of it, ascending."""
    below = [size for size in FAST_BOXES if size < n][-count:]
    above = [size for size in FAST_BOXES if size > n][:count]
    return (*below, n, *above)


def crop_for(box: int, pixel_size: float, target_pixel_size: float) -> int:
    """Return the smallest recommended size at which a box of side `box` has pixels of at most `target_pixel_size` Å.

    Never more than `box`, which is what comes back where its own pixels are not finer than the target.
    """
    _check_positive("the target pixel size", target_pixel_size)
    _check_positive("the pixel size", pixel_size)
    return min(box, fast_box(min(max(1, math.ceil(box * pixel_size / target_pixel_size - 1e-9)), FAST_BOXES[-1])))


def nearest_even(length: float) -> int:
    """Return the even number of pixels nearest to a length in pixels; at least 2."""
    return 2 * max(1, math.floor(length / 2 + 0.5))


def nearest_crop(box: int, pixel_size: float, wanted: float) -> int:
    """Return the even size nearest to the one at which a box of side `box` would have pixels of `wanted` Å; at least 2.

    Raises
    ------
    OptionError
        If that is larger than the box.
    """
    _check_positive("the output's pixel size", wanted)
    _check_positive("the pixel size", pixel_size)
    exact = box * pixel_size / wanted
    size = nearest_even(min(exact, 2 * box))
    if size > box:
        raise OptionError(
            f"--angpix-out {wanted:g}: the micrographs have {pixel_size:g} Å per pixel, and nothing makes finer ones; "
            f"ask for {pixel_size:g} or more"
        )
    return size


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """Sizes for a particle, in pixels, and why.

    Parameters
    ----------
    box : int
        Side of the window in the micrograph.
    crop : int
        Side to store for 2D classification and a first map.
    small : int
        Side to store for sorting particles from junk; smaller than `crop`.
    reasons : tuple of str
        A sentence for each of the three.
    """

    box: int
    crop: int
    small: int
    reasons: tuple[str, str, str]


def propose(diameter_angstrom: float, pixel_size: float) -> Proposal:
    """Propose sizes for a particle of this longest diameter in micrographs of this pixel size, both in Å.

    Raises
    ------
    OptionError
        If a number is not positive, or the box would be larger than the largest recommended one.
    """
    _check_positive("the diameter", diameter_angstrom)
    _check_positive("the pixel size", pixel_size)
    wanted = math.ceil(BOX_PER_DIAMETER * diameter_angstrom / pixel_size - 1e-9)
    if wanted > FAST_BOXES[-1]:
        raise OptionError(
            f"a particle of {diameter_angstrom:g} Å needs a box of {wanted} pixels at {pixel_size:g} Å per pixel, more "
            f"than {FAST_BOXES[-1]}; is the diameter in Å, and the pixel size right?"
        )
    box = fast_box(wanted)
    crop = crop_for(box, pixel_size, CLASSES_2D_ANGSTROM / 2)
    small = min(crop_for(box, pixel_size, SORTING_ANGSTROM / 2), max(size for size in (16, *FAST_BOXES) if size < crop))
    return Proposal(
        box=box,
        crop=crop,
        small=small,
        reasons=(
            f"box {box}: {BOX_PER_DIAMETER} x {diameter_angstrom:g} Å need {wanted} pixels; {box * pixel_size:.0f} Å",
            _stored("2D classes and a first map", crop, box, pixel_size),
            _stored("sorting particles from junk", small, box, pixel_size),
        ),
    )


def _stored(purpose: str, size: int, box: int, pixel_size: float) -> str:
    stored = pixel_size * box / size
    return f"{size} for {purpose}: {stored:.3g} Å per pixel, {2 * stored:.3g} Å at best"


def _check_positive(what: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise OptionError(f"{what} must be a positive number of Å; got {value!r}")
    if not SMALLEST_ANGSTROM <= value <= LARGEST_ANGSTROM:
        raise OptionError(f"{what} must be from {SMALLEST_ANGSTROM:g} to {LARGEST_ANGSTROM:g} Å; got {value:g}")


def check_even(name: str, n: object) -> int:
    """Return `n` as an int. Raise `OptionError` unless it is an even number of pixels, at least 2."""
    whole = as_integer(n)
    if whole is None or whole < 2 or whole % 2:
        near = ""
        if whole is not None and whole > 2:
            near = f" (nearest fast sizes: {', '.join(map(str, neighbors(whole)))})"
        raise OptionError(f"{name} must be an even number of pixels, at least 2; got {n!r}{near}")
    return whole


def as_integer(value: object) -> int | None:
    """Return an int or one of NumPy's as an int; None for anything else, truth values and whole floats among it."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        return None
    return int(value)
