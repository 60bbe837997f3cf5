"""Fast box sizes: the list that CryoSPARC's guide recommends, and neighbors on it.

The list holds even sizes without a prime factor above 7 (CONVENTIONS: "Box sizes"); any even size works.
"""

from __future__ import annotations

from bisect import bisect_left

from cryobox.errors import OptionError

__all__ = ["FAST_BOXES", "check_even", "fast_box", "is_fast", "neighbors"]

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
    if n < 1 or n > FAST_BOXES[-1]:
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


def check_even(name: str, n: int) -> None:
    """Raise `OptionError` unless `n` is an even number of pixels, at least 2."""
    if isinstance(n, bool) or not isinstance(n, int) or n < 2 or n % 2:
        near = ""
        if isinstance(n, int) and n > 2:
            near = f" (nearest fast sizes: {', '.join(map(str, neighbors(n)))})"
        raise OptionError(f"{name} must be an even number of pixels, at least 2; got {n!r}{near}")
