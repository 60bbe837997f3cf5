"""What a recipe consists of: five groups of options, each field declared once, with its flag and what it may be.

What they mean is said in `cryobox.options.Recipe`, which is all of them. A function that needs one
group says so in its type.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Literal, get_args

from cryobox.bounds import (
    DIVISORS,
    LARGEST_BOX,
    LARGEST_NUMBER,
    MOST_IN_A_STACK,
    MOST_MICROGRAPHS,
    PIXEL_SIZES,
    SCALES,
    check_choice,
    check_integer,
    check_number,
    check_part_of_a_name,
    check_positive,
)
from cryobox.boxes import check_even
from cryobox.declared import IMAGES, POSITIONS, RUNNING, TABLES, checked, option
from cryobox.errors import OptionError

__all__ = [
    "DEFAULT_BACKGROUND_FRACTION",
    "ClassesFrom",
    "Edges",
    "Images",
    "Positions",
    "Reading",
    "RecenterFrom",
    "Rounding",
    "Selection",
    "StoredDtype",
    "StoredSize",
    "Style",
    "Tables",
    "Writing",
    "check_background_radius",
    "default_background_radius",
    "numbers_listed",
]

Edges = Literal["reject", "pad"]
Rounding = Literal["truncate", "nearest"]
RecenterFrom = Literal["auto", "3d", "2d"]
Style = Literal["relion", "cryosparc"]
Tables = Literal["relion", "cryosparc", "both"]
StoredDtype = Literal["float32", "float16"]
ClassesFrom = Literal["2d", "3d"]

DEFAULT_BACKGROUND_FRACTION = 0.375  # of the image's side; RELION's default (docs/conventions.md)


def default_background_radius(size: int) -> int:
    """Radius in pixels beyond which a pixel of an image of side `size` is background: int(0.375 * size)."""
    return int(DEFAULT_BACKGROUND_FRACTION * size)


def check_background_radius(radius: float, size: int) -> None:
    """Raise `OptionError` unless 1 <= `radius` < `size` / 2, so that an image has particle and background."""
    if not 1 <= radius < size / 2:
        raise OptionError(
            f"the background radius must be at least 1 and less than half the image; "
            f"got {radius:g} pixels for images of {size} pixels"
        )


def _one_of(kind: object) -> Callable[[str, object], object]:
    return partial(check_choice, allowed=get_args(kind))


def _several(sizes: object) -> Iterable[object]:
    """One size, or a list, tuple or array of them, as something to go through."""
    if isinstance(sizes, (str, bytes)):
        return (sizes,)
    try:
        return iter(sizes)  # type: ignore[call-overload, no-any-return]
    except TypeError:
        return (sizes,)


def _check_sizes(_: str, value: object) -> tuple[int, ...]:
    return tuple(check_even("every stored size", size) for size in _several(value))


def _check_further(_: str, value: object) -> tuple[tuple[int, object], ...]:
    check = partial(check_choice, "the type of a further size", allowed=get_args(StoredDtype))
    return tuple((check_even("every stored size", size), check(dtype)) for size, dtype in value)  # type: ignore[attr-defined]


def _check_limits(name: str, value: object) -> tuple[int, ...]:
    check = partial(check_integer, name, lowest=1, highest=MOST_MICROGRAPHS)
    limits = tuple(map(check, value))  # type: ignore[call-overload]
    if list(limits) != sorted(set(limits)):
        raise OptionError(f"{name} must rise; got {limits}")
    return limits


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


def _check_box(name: str, value: object) -> int:
    box = check_even(name, value)
    if box > LARGEST_BOX:
        raise OptionError(f"box must be at most {LARGEST_BOX} pixels; got {box}")
    return box


# The groups are parts of a recipe, never made alone: only a recipe is compared and printed.


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Reading:
    """How tables and micrographs are read."""

    pixel_size: float | None = option(
        "--pixel-size", default=None, help="Å per pixel, where nothing else says it", panel=TABLES,
        check=partial(check_positive, unit=" of Å per pixel", lowest=PIXEL_SIZES[0], highest=PIXEL_SIZES[1]),
    )  # fmt: skip
    coordinate_scale: float = option(
        "--coord-scale", default=1.0, help="Multiply coordinates (picks of a binned copy)", panel=POSITIONS,
        check=partial(check_positive, unit="", lowest=SCALES[0], highest=SCALES[1]),
    )  # fmt: skip
    coordinate_suffix: str | None = option(
        "--coord-suffix", default=None, help="Coordinate files: text after the micrograph's stem", panel=TABLES,
        check=partial(check_part_of_a_name, option="--coord-suffix"),
    )  # fmt: skip
    strip_suffix: str | None = option(
        "--strip-suffix", default=None, help="Text at the end of names that is not compared, as _DW", panel=TABLES,
        check=partial(check_part_of_a_name, option="--strip-suffix"),
    )  # fmt: skip
    strip_prefix: str | None = option(
        "--strip-prefix", default=None, help="The same at the beginning, as denoised_", panel=TABLES,
        check=partial(check_part_of_a_name, option="--strip-prefix"),
    )  # fmt: skip
    flip_x: bool = option("--flip-x", default=False, help="Picks were made on a copy mirrored in x", panel=POSITIONS)
    flip_y: bool = option("--flip-y", default=False, help="Picks were made on a copy mirrored in y", panel=POSITIONS)
    tiff_flip: bool = option(
        "--tiff-no-flip", default=True, values=(False, True), help="Keep the row order of TIFF files", panel=TABLES
    )


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
        check=_one_of(ClassesFrom),
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
    edge_margin: int | None = option(
        "--edge-margin", default=None, help="Pixels between a box and the edge of its micrograph", panel=POSITIONS,
        check=partial(check_integer, lowest=1, highest=LARGEST_NUMBER, unit=" pixel"),
    )  # fmt: skip
    min_separation_angstrom: float | None = option(
        "--min-separation", default=None, help="Å between picks; the better one stays", panel=POSITIONS,
        check=partial(check_positive, unit=" of Å"),
    )  # fmt: skip
    limit: int | None = option(
        "--limit", default=None, help="Only the first N micrographs with picks", panel=RUNNING,
        check=partial(check_integer, lowest=1, highest=MOST_MICROGRAPHS, unit=" micrograph"),
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Positions:
    """Where boxes lie."""

    box: int = checked(_check_box)
    edges: Edges = option(
        "--edges", default="reject", help="Boxes over the edge", panel=POSITIONS, check=_one_of(Edges)
    )
    recenter: bool = option(
        "--recenter/--no-recenter", default=True, help="Move boxes by aligned shifts", panel=POSITIONS
    )
    recenter_from: RecenterFrom = option(
        "--recenter-from", default="auto", help="By which alignment; auto: 3D before 2D", panel=POSITIONS,
        check=_one_of(RecenterFrom),
    )  # fmt: skip
    rounding: Rounding = option(
        "--rounding", default="truncate", help="Fractional picks", panel=POSITIONS, check=_one_of(Rounding)
    )
    drop_alignments: bool = option(
        "--drop-alignments", default=False, help="Leave out orientations and shifts", panel=POSITIONS
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSize:
    """One of the sizes that a recipe stores.

    Parameters
    ----------
    name : str
        What tells its stacks and table apart: "" for the first, "small" for the second, else its side.
    size : int
        Side in pixels.
    dtype : {"float32", "float16"}
    """

    name: str
    size: int
    dtype: StoredDtype


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Images:
    """What is made of the pixels, and at which sizes it is stored."""

    sizes: tuple[int, ...] = checked(_check_sizes, default=())
    dtype: StoredDtype = option(
        "--float16/--float32", default="float32", values=("float16", "float32"), help="Type of the stored pixels",
        panel=IMAGES, check=_one_of(StoredDtype),
    )  # fmt: skip
    also: tuple[tuple[int, StoredDtype], ...] = checked(_check_further, default=())
    normalize: bool = option(
        "--normalize/--no-normalize", default=True, help="Background to mean 0, sd 1", panel=IMAGES
    )
    ramp: bool = option(
        "--no-ramp", default=True, values=(False, True), help="Do not subtract the background's plane", panel=IMAGES
    )
    invert: bool | None = option(
        "--invert/--no-invert", default=None, help="Multiply by -1", shown="as --style", panel=IMAGES
    )
    background_radius: float | None = option(
        "--bg-radius", default=None, help="Background starts here, pixels of the first stored size",
        shown="0.375 of it", panel=IMAGES, check=partial(check_positive, unit=" of pixels"),
    )  # fmt: skip
    background_diameter_angstrom: float | None = option(
        "--bg-diameter", default=None, help="The same as a diameter in Å", panel=IMAGES,
        check=partial(check_positive, unit=" of Å"),
    )  # fmt: skip
    scale_const: float | None = option(
        "--scale-const", default=None, help="Divide by this, not by each background's sd", panel=IMAGES,
        check=partial(check_positive, unit="", lowest=DIVISORS[0], highest=DIVISORS[1]),
    )  # fmt: skip

    @cached_property
    def outputs(self) -> tuple[StoredSize, ...]:
        """Everything that is stored of each particle, largest first."""
        names = ["", "small", *map(str, self.sizes[2:])][: len(self.sizes)]
        listed = [
            StoredSize(name=name, size=size, dtype=self.dtype) for name, size in zip(names, self.sizes, strict=True)
        ]
        listed += [StoredSize(name=str(size), size=size, dtype=dtype) for size, dtype in self.also]
        return tuple(sorted(listed, key=lambda output: -output.size))

    def check_with(self, box: int) -> None:
        """Compare the fields with each other and with the box.

        Raises
        ------
        OptionError
        """
        sizes, every = self.sizes, [*self.sizes, *(size for size, _ in self.also)]
        for size in every:
            if size > box:
                raise OptionError(f"a stored size cannot exceed the box: got size {size} for box {box}")
        if any(later >= earlier for earlier, later in itertools.pairwise(sizes)):
            raise OptionError(f"sizes must be given largest first, all different; got {sizes}")
        if len(set(every)) < len(every) or max(every) > sizes[0]:
            raise OptionError(
                f"further sizes must be smaller than the first one, {sizes[0]}, and all different; got {every[1:]}"
            )
        if self.background_radius is not None and self.background_diameter_angstrom is not None:
            raise OptionError("give background_radius (pixels) or background_diameter_angstrom (Å), not both")
        if self.scale_const is not None and not self.normalize:
            raise OptionError("scale_const divides normalized images; it cannot be used without normalize")
        if self.background_diameter_angstrom is None and self.normalize:
            for size in every:
                check_background_radius(self.radius_in_pixels(size, box, math.nan), size)

    def radius_in_pixels(self, size: int, box: int, pixel_size: float) -> float:
        """Background radius for an image of side `size`, of a box cut where a pixel has `pixel_size` Å."""
        if self.background_diameter_angstrom is not None:
            return self.background_diameter_angstrom / 2 / (pixel_size * box / size)
        if self.background_radius is not None:
            return self.background_radius * size / self.sizes[0]
        return float(default_background_radius(size))


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Writing:
    """What tables say."""

    style: Style | None = option(
        "--style", default=None, help="Tables, contrast, names", shown="as the picks", panel=TABLES,
        check=_one_of(Style),
    )  # fmt: skip
    tables: Tables | None = option(
        "--tables", default=None, help="Whose tables are written over the same stacks", shown="as --style",
        panel=TABLES, check=_one_of(Tables),
    )  # fmt: skip
    particles_per_stack: int | None = option(
        "--particles-per-stack", default=None, help="Stacks of several micrographs, up to N particles", panel=TABLES,
        shown="a stack for each micrograph", check=partial(check_integer, lowest=1, highest=MOST_IN_A_STACK),
    )  # fmt: skip
    earlier_limits: tuple[int, ...] = checked(_check_limits, default=())
    refresh_ctf: bool = option(
        "--refresh-ctf", default=False, help="Take CTF values from the micrographs", panel=TABLES
    )
    ctf_average: bool = option(
        "--ctf-average", default=False, help="With --refresh-ctf: accept averages of Patch CTF", panel=TABLES
    )

    def check_together(self) -> None:
        """Compare the fields with each other.

        Raises
        ------
        OptionError
        """
        if self.ctf_average and not self.refresh_ctf:
            raise OptionError("--ctf-average says how --refresh-ctf may work; give both, or neither")
