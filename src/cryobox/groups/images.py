"""Options of what is made of the pixels, and at which sizes it is stored."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import get_args

from cryobox.bounds import (
    DIVISORS,
    check_choice,
    check_positive,
)
from cryobox.boxes import check_even
from cryobox.declared import IMAGES, checked, option
from cryobox.errors import OptionError
from cryobox.filtering import MEASURES, Filter
from cryobox.groups.words import BackgroundKind, StoredDtype, one_of

__all__ = [
    "DEFAULT_BACKGROUND_FRACTION",
    "Images",
    "StoredSize",
    "check_background_radius",
    "default_background_radius",
]

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


def check_tube_radius(radius: float, size: int) -> None:
    """Raise `OptionError` unless a tube leaves a background: 2 (`radius` + 1) <= `size`, RELION's rule."""
    if not (radius > 0 and 2 * (radius + 1) <= size):
        raise OptionError(
            f"a tube must leave a background: its radius is {radius:g} pixels of images of {size} pixels, and may be "
            f"at most {size // 2 - 1}; make the box larger"
        )


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


def _check_filter(_: str, value: object) -> str:
    if not isinstance(value, str):
        raise OptionError(f"filter must be a text; got {value!r}")
    Filter(value, MEASURES)
    return value


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
        panel=IMAGES, check=one_of(StoredDtype),
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

    background: BackgroundKind = option(
        "--background", default="plain", help="exclude-neighbors: without the pixels of neighboring picks",
        panel=IMAGES, check=one_of(BackgroundKind),
    )  # fmt: skip
    helical_outer_diameter_angstrom: float | None = option(
        "--helical-outer-diameter", default=None, help="Tube of a helix in Å: background lies outside", panel=IMAGES,
        check=partial(check_positive, unit=" of Å"),
    )  # fmt: skip
    white_dust: float | None = option(
        "--white-dust", default=None, help="Replace pixels so many sd above the background", panel=IMAGES,
        check=partial(check_positive, unit=" of sd"),
    )  # fmt: skip
    black_dust: float | None = option(
        "--black-dust", default=None, help="Replace pixels so many sd below it", panel=IMAGES,
        check=partial(check_positive, unit=" of sd"),
    )  # fmt: skip

    measures: bool = option(
        "--measures", default=False, help="Numbers of each particle as columns of the tables", panel=IMAGES
    )
    filter: str | None = option(
        "--filter", default=None, help='Keep particles by their measures: "contrast > 0.02"', panel=IMAGES,
        metavar="EXPRESSION", check=_check_filter,
    )  # fmt: skip
    hot_pixels: float | None = option(
        "--hot-pixels", default=None, help="Repair pixels so many robust sd above those around", panel=IMAGES,
        check=partial(check_positive, unit=" of sd"),
    )  # fmt: skip

    @property
    def tube(self) -> bool:
        """Whether the background lies outside a tube."""
        return self.helical_outer_diameter_angstrom is not None

    @property
    def not_on_gpus(self) -> tuple[str, ...]:
        """Options that are used here, and that only the CPU's core has."""
        given = {
            "--helical-outer-diameter": self.helical_outer_diameter_angstrom,
            "--white-dust": self.white_dust,
            "--black-dust": self.black_dust,
            "--filter": self.filter,
        }
        named = [flag for flag, value in given.items() if value is not None]
        named += ["--background exclude-neighbors"] * (self.background != "plain") + ["--measures"] * self.measures
        return tuple(named)

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
        if self.tube and (self.background_radius or self.background_diameter_angstrom) is not None:
            raise OptionError(
                "the background of a helix lies outside its tube: give helical_outer_diameter_angstrom, or a "
                "background radius or diameter, not both"
            )
        if (self.measures or self.filter is not None) and not self.normalize:
            raise OptionError("measures and filter go by the background; they cannot be used without normalize")
        if self.background != "plain" and not self.normalize:
            raise OptionError(f"background = {self.background} says what is normalized by; it needs normalize")
        if (self.white_dust or self.black_dust) is not None and not self.normalize:
            raise OptionError(
                "white_dust and black_dust are told in sd of the background, and replaced where images are normalized; "
                "they cannot be used without normalize"
            )
        if self.background_radius is not None and self.background_diameter_angstrom is not None:
            raise OptionError("give background_radius (pixels) or background_diameter_angstrom (Å), not both")
        if self.scale_const is not None and not self.normalize:
            raise OptionError("scale_const divides normalized images; it cannot be used without normalize")
        if self.background_diameter_angstrom is None and self.normalize and not self.tube:
            for size in every:
                self.check_background(self.radius_in_pixels(size, box, math.nan), size)

    def check_background(self, radius: float, size: int) -> None:
        """Raise `OptionError` unless `radius`, of `radius_in_pixels`, leaves images of side `size` a background."""
        if self.tube:
            check_tube_radius(radius, size)
        else:
            check_background_radius(radius, size)

    def radius_in_pixels(self, size: int, box: int, pixel_size: float) -> float:
        """Background radius for an image of side `size`, of a box cut where a pixel has `pixel_size` Å."""
        diameter = self.helical_outer_diameter_angstrom or self.background_diameter_angstrom
        if diameter is not None:
            return diameter / 2 / (pixel_size * box / size)
        if self.background_radius is not None:
            return self.background_radius * size / self.sizes[0]
        return float(default_background_radius(size))
