"""What is asked for of stored images, checked, and what comes of images of one size."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from cryobox.bounds import MOST_IN_A_STACK, check_integer, check_positive
from cryobox.boxes import check_even
from cryobox.errors import OptionError
from cryobox.groups import StoredDtype, default_background_radius
from cryobox.options import Recipe, Steps
from cryobox.windows import Stored

__all__ = ["DEFAULT_IN_A_STACK", "Asked", "Making"]

DEFAULT_IN_A_STACK = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Making:
    """How images of one size become the stored ones.

    Parameters
    ----------
    side : int
        Of the images as they are, in pixels.
    box : int
        Of the central part that is used.
    outputs : tuple of Stored
        What is made of it by Fourier cropping, largest first.
    """

    side: int
    box: int
    outputs: tuple[Stored, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is made of the images. As it is, they are copied.

    Parameters
    ----------
    box : int, optional
        Only the central part, of so many pixels: the image's center, pixel N/2, stays the center. Even.
    sizes : tuple of int
        Sides after a Fourier crop, largest first; empty: as they are. Stacks and tables of the second are called
        "small".
    also : tuple of (int, {"float32", "float16"})
        Further sizes, each with a type of its own.
    float16 : bool
        Store half precision. Else float32, or float16 where all images are.
    normalize : bool
        Subtract the background's plane and mean again, and divide by its standard deviation, as extraction does.
    lowpass : float, optional
        Resolution in Å beyond which nothing is left (RELION's raised cosine of two Fourier pixels).
    pad : int, optional
        Side of the stored image, around which each is surrounded by its own mean. Even.
    particles_per_stack : int
    """

    box: int | None = None
    sizes: tuple[int, ...] = ()
    also: tuple[tuple[int, Any], ...] = ()
    float16: bool = False
    normalize: bool = False
    lowpass: float | None = None
    pad: int | None = None
    particles_per_stack: int = DEFAULT_IN_A_STACK

    def __post_init__(self) -> None:
        check_integer("particles_per_stack", self.particles_per_stack, 1, MOST_IN_A_STACK)
        for name in ("box", "pad"):
            if (value := getattr(self, name)) is not None:
                check_even(name, value)
        for size in (*self.sizes, *(size for size, _ in self.also)):
            check_even("every stored size", size)
        if self.lowpass is not None:
            check_positive("lowpass", self.lowpass, unit=" of Å")
        if self.pad is not None and (len(self.sizes) > 1 or self.also):
            raise OptionError("--pad says how large the one stored image is; leave out further sizes")

    @property
    def label(self) -> str:
        """What must be said of images that are not for a refinement; "" of others."""
        parts = []
        if self.lowpass is not None:
            parts.append(f"low-passed to {self.lowpass:g} Å")
        if self.pad is not None:
            parts.append(f"padded to {self.pad} pixels")
        return f"{' and '.join(parts)}: not for refinement" if parts else ""

    @property
    def copies(self) -> bool:
        """Whether pixels stay as they are, but for their type."""
        return not (self.box or self.sizes or self.also or self.normalize or self.lowpass or self.pad)

    def steps(self) -> Steps:
        """What the core is told."""
        return Steps(normalize=self.normalize, ramp=True, invert=False, scale_const=None)

    def names(self) -> tuple[str, ...]:
        """Of the outputs, as in `StoredSize`."""
        return tuple(output.name for output in self._recipe(LARGEST).outputs)

    def making(self, side: int, dtype: StoredDtype) -> Making:
        """What becomes of images of `side` pixels, stored as `dtype`.

        Raises
        ------
        OptionError
            If it cannot be made of them.
        """
        box = side if self.box is None else self.box
        if side % 2 and not self.copies:
            raise OptionError(f"images of {side} pixels, an odd number, are copied as they are, or not at all")
        if box > side:
            raise OptionError(f"box must be at most {side} pixels, the side of the images; got {box}")
        if side % 2:
            return Making(side=side, box=side, outputs=(Stored(size=side, dtype=dtype, background_radius=0.0),))
        recipe = self._recipe(box)
        if self.pad is not None and self.pad < recipe.sizes[0]:
            raise OptionError(f"pad must be at least {recipe.sizes[0]} pixels, the side of the images; got {self.pad}")
        outputs = tuple(
            Stored(
                size=one.size,
                dtype=dtype if one.name in ("", "small") else one.dtype,
                background_radius=default_background_radius(one.size),
            )
            for one in recipe.outputs
        )
        return Making(side=side, box=box, outputs=outputs)

    def _recipe(self, box: int) -> Recipe:
        return Recipe(box=box, sizes=self.sizes, also=self.also, normalize=self.normalize)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        values = dataclasses.asdict(self)
        return values | {"sizes": list(self.sizes), "also": [list(one) for one in self.also]}


LARGEST = 32768
