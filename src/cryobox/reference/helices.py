"""Segments of helices and where their boxes go, literally."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

__all__ = ["Segment", "across_steps", "middle_of", "prior_of", "segments_of"]

Point = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A segment: (y, x) in pixels, the direction of the tube there in degrees, and its number on the tube."""

    y: float
    x: float
    psi: float
    number: int


def prior_of(start: Point, end: Point) -> float:
    """RlnAnglePsiPrior of a tube from `start` to `end`, both (y, x): -atan2(dy, dx) in degrees."""
    return -math.degrees(math.atan2(end[0] - start[0], end[1] - start[1]))


def _walk(vertices: Sequence[Point], along: float) -> tuple[float, float, float] | None:
    """The point so many pixels from the first vertex, and the direction there; None beyond the last vertex."""
    left, last = along, None
    for (y1, x1), (y2, x2) in pairwise(vertices):
        length = math.hypot(y2 - y1, x2 - x1)
        if length == 0:
            continue
        last = y1, x1, y2, x2, length, left
        if left < length:
            break
        left -= length
    if last is None:
        return None
    y1, x1, y2, x2, length, inside = last
    if inside > length + 1e-6:
        return None
    part = inside / length
    return y1 + part * (y2 - y1), x1 + part * (x2 - x1), prior_of((y1, x1), (y2, x2))


def segments_of(vertices: Sequence[Point], step: float) -> list[Segment]:
    """Segments at 0.01, 1.01, 2.01, ... steps behind the first vertex of a polyline, as long as they lie on it.

    A billionth of a step beyond the end still counts as on it.
    """
    length = sum(math.hypot(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(vertices))
    found: list[Segment] = []
    while (len(found) + 0.01) * step <= length + 1e-9 * step:
        place = _walk(vertices, (len(found) + 0.01) * step)
        if place is None:
            break
        found.append(Segment(y=place[0], x=place[1], psi=place[2], number=len(found)))
    return found


def middle_of(vertices: Sequence[Point]) -> Segment | None:
    """The one segment of a tube that is not cut: half way along it. None where the tube has no length."""
    length = sum(math.hypot(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(vertices))
    place = _walk(vertices, length / 2)
    return None if place is None else Segment(y=place[0], x=place[1], psi=place[2], number=0)


def across_steps(shift: Point, psi: float) -> tuple[int, int]:
    """How many whole pixels (y, x) of a shift move the box of a segment: only what the shift has across the tube.

    The part across is rounded in y and x as any shift is. As its whole pixels are not across the tube alone, what they
    leave across is rounded once more; then nothing more moves, however often it is done.
    """
    along_y, along_x = -math.sin(math.radians(psi)), math.cos(math.radians(psi))
    moved_y = moved_x = 0
    for _ in range(2):
        left_y, left_x = shift[0] - moved_y, shift[1] - moved_x
        along = left_y * along_y + left_x * along_x
        across_y, across_x = left_y - along * along_y, left_x - along * along_x
        moved_y += _steps(across_y)
        moved_x += _steps(across_x)
    return moved_y, moved_x


def _steps(value: float) -> int:
    return 0 if abs(value) <= 0.5 + 1e-4 else int(math.copysign(math.floor(abs(value) + 0.5), value))
