"""Options of which picks are extracted."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from cryobox.bounds import (
    LARGEST_NUMBER,
    MOST_MICROGRAPHS,
    check_integer,
    check_number,
    check_positive,
)
from cryobox.declared import POSITIONS, RUNNING, option
from cryobox.errors import OptionError
from cryobox.groups.words import ClassesFrom, one_of

__all__ = [
    "DEFAULT_JUNK_THRESHOLD",
    "Rectangle",
    "Selection",
    "numbers_listed",
]

MOST_NOISE = 10_000  # boxes a micrograph: more than there is room for
DEFAULT_JUNK_THRESHOLD = 0.2  # MicrographCleaner's own
Rectangle = tuple[int, int, int, int]
"""x0, y0, x1, y1: the pixels of two corners, both included."""


def numbers_listed(text: str) -> tuple[tuple[int, int], ...]:
    """Ranges, both ends included, from a text such as 1,3-5."""
    ranges = []
    for word in text.split(","):
        first, _, last = word.partition("-")
        ranges.append((int(first), int(last or first)))
    return tuple(ranges)


def _check_list(name: str, value: object) -> str:
    text = str(value).replace(" ", "")
    if not re.fullmatch(r"\d{1,9}(-\d{1,9})?(,\d{1,9}(-\d{1,9})?)*", text):
        raise OptionError(f"{name} must be whole numbers and ranges of them, as 1,3-5; got {value!r}")
    for first, last in numbers_listed(text):
        if first > last:
            raise OptionError(f"{name}: {first}-{last} holds nothing; the smaller number comes first")
    return text


def _check_sample(name: str, value: object) -> str:
    text = str(value).replace(" ", "")
    number = text.removesuffix("%")
    if not re.fullmatch(r"\d{1,9}(\.\d{1,9})?" if text.endswith("%") else r"\d{1,9}", number) or float(number) == 0:
        raise OptionError(f"{name} must be a number of picks, as 5000, or a part of them, as 10%; got {value!r}")
    if text.endswith("%") and float(number) > 100:
        raise OptionError(f"{name} must be at most 100%; got {value}")
    return text


def _check_masks(name: str, value: object) -> str:
    text = str(value)
    if not text or "\0" in text:
        raise OptionError(f"{name} must be a folder of masks, or a pattern of their names; got {value!r}")
    return text


def _check_part(name: str, value: object) -> float:
    part = check_positive(name, value, "")
    if part > 1:
        raise OptionError(f"{name} must be a part of the box, more than 0 and at most 1; got {part:g}")
    return part


def _check_rectangles(name: str, value: object) -> tuple[Rectangle, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise OptionError(f"{name} must be a list of rectangles, each x0,y0,x1,y1; got {value!r}")
    return tuple(_rectangle(name, one) for one in value)


def _rectangle(name: str, value: object) -> Rectangle:
    words = value.replace(" ", "").split(",") if isinstance(value, str) else value
    if isinstance(words, Sequence) and len(words) == 4:
        sides = [int(w) if isinstance(w, str) and re.fullmatch(r"\d{1,9}", w) else w for w in words]
        whole = [check_integer(f"{name}: each of x0,y0,x1,y1", side, 0, LARGEST_NUMBER, " pixel") for side in sides]
        x0, y0, x1, y1 = whole
        if x0 > x1 or y0 > y1:
            raise OptionError(f"{name}: {x0},{y0},{x1},{y1} holds no pixel; the smaller x and y come first")
        return x0, y0, x1, y1
    raise OptionError(f"{name} must be x0,y0,x1,y1, pixels of the micrograph from 0; got {value!r}")


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Selection:
    """Which picks are extracted."""

    min_score: float | None = option(
        "--min-score", default=None, help="Leave out picks that score lower", panel=POSITIONS, check=check_number
    )
    classes: str | None = option(
        "--classes", default=None, help="Only these, as 1,3-5, in the numbers of the table", panel=POSITIONS,
        metavar="LIST", check=_check_list,
    )  # fmt: skip
    classes_from: ClassesFrom | None = option(
        "--classes-from", default=None, help="Of which alignment, where there are both", panel=POSITIONS,
        check=one_of(ClassesFrom),
    )  # fmt: skip
    optics_groups: str | None = option(
        "--optics-groups", default=None, help="Only these, in the numbers of the table", panel=POSITIONS,
        metavar="LIST", check=_check_list,
    )  # fmt: skip
    selection_type: int | None = option(
        "--selection-type", default=None, help="Only rows with this rlnParticleSelectionType", panel=POSITIONS,
        check=partial(check_integer, lowest=0, highest=LARGEST_NUMBER),
    )  # fmt: skip
    sample: str | None = option(
        "--sample", default=None, help="So many of them, or a part: 5000, 10%", panel=POSITIONS, metavar="N|PART%",
        check=_check_sample,
    )  # fmt: skip
    seed: int = option(
        "--seed", default=0, help="Of the sample; another one takes others", panel=POSITIONS,
        check=partial(check_integer, lowest=0, highest=LARGEST_NUMBER),
    )  # fmt: skip
    noise_particles: int | None = option(
        "--noise-particles", default=None, help="So many boxes of noise a micrograph, away from picks", panel=POSITIONS,
        metavar="N", check=partial(check_integer, lowest=1, highest=MOST_NOISE),
    )  # fmt: skip
    edge_margin: int | None = option(
        "--edge-margin", default=None, help="Pixels between a box and the edge of its micrograph", panel=POSITIONS,
        check=partial(check_integer, lowest=1, highest=LARGEST_NUMBER, unit=" pixel"),
    )  # fmt: skip
    exclude: tuple[Rectangle, ...] = option(
        "--exclude", default=(), help="Defects of the detector: no box over these pixels; may be repeated",
        panel=POSITIONS, metavar="X0,Y0,X1,Y1", check=_check_rectangles,
    )  # fmt: skip
    junk_masks: str | None = option(
        "--junk-masks", default=None, help="Masks of MicrographCleaner, or CryoSPARC's junk labels (.npy)",
        panel=POSITIONS, metavar="DIR|GLOB", check=_check_masks,
    )  # fmt: skip
    junk_threshold: float | None = option(
        "--junk-threshold", default=None, help="Part of a box that a mask of MRC may call bad",
        panel=POSITIONS, shown=f"below {DEFAULT_JUNK_THRESHOLD}", check=_check_part,
    )  # fmt: skip
    min_separation_angstrom: float | None = option(
        "--min-separation", default=None, help="Å between picks; the better one stays", panel=POSITIONS,
        check=partial(check_positive, unit=" of Å"),
    )  # fmt: skip
    limit: int | None = option(
        "--limit", default=None, help="Only the first N micrographs with picks", panel=RUNNING,
        check=partial(check_integer, lowest=1, highest=MOST_MICROGRAPHS, unit=" micrograph"),
    )  # fmt: skip

    def check_masks(self) -> None:
        """Refuse a threshold without masks.

        Raises
        ------
        OptionError
        """
        if self.junk_threshold is not None and self.junk_masks is None:
            raise OptionError("--junk-threshold is of --junk-masks; give both, or neither")
