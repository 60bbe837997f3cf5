"""The whole comparison, from top to bottom: read both, match rows, compare what they say, compare images."""

from __future__ import annotations

import math
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from cryobox.bounds import check_choice, check_integer, check_number, check_positive
from cryobox.comparison.missing import why_missing
from cryobox.comparison.pairing import Pairs, image_keys, pair_rows
from cryobox.comparison.pixels import TOLERANCE, Measure, PixelResult, compare_pixels
from cryobox.comparison.quantities import Result, compare_values, cut_at_the_same_pixel
from cryobox.comparison.sides import Side, read_side
from cryobox.errors import OptionError
from cryobox.matching import NO_STRIP, Strip, check_strip
from cryobox.paths import Start

__all__ = ["SAMPLE", "WITHIN", "Alone", "Comparison", "compare_particles"]

SAMPLE = 200  # pairs of images: a second to read, and whatever concerns 2 % of all is among them in 98 of 100 samples
WITHIN = 1.0  # pixels: a box that is cut elsewhere begins here
WIDEST = (0.01, 1e4)  # pixels


@dataclass(frozen=True, slots=True, kw_only=True)
class Alone:
    """Rows that only one table has.

    Parameters
    ----------
    rows : ndarray, intp
        0-based.
    reasons : tuple of str
        Why each has no partner.
    """

    rows: NDArray[np.intp]
    reasons: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def counts(self) -> dict[str, int]:
        """Rows by reason, most first."""
        return dict(sorted(Counter(self.reasons).items(), key=lambda item: (-item[1], item[0])))


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What two tables have in common, and what not.

    Parameters
    ----------
    a, b : Side
    pairs : Pairs
        Rows that belong together.
    within : float
        How far apart positions of these could be, in pixels.
    values : tuple of Result
        Quantity by quantity.
    pixels : PixelResult, optional
        None where no image was looked at; then `no_pixels` says why.
    no_pixels : str
    only_a, only_b : Alone
        Rows without a partner.
    notes : tuple of str
        What a reader must know.
    """

    a: Side
    b: Side
    pairs: Pairs
    within: float
    values: tuple[Result, ...]
    pixels: PixelResult | None
    no_pixels: str
    only_a: Alone
    only_b: Alone
    notes: tuple[str, ...] = ()

    @property
    def differences(self) -> tuple[str, ...]:
        """What does not agree, in words; empty where all does."""
        found = [result.label for result in self.values if not result.agrees]
        if self.pixels is not None and self.pixels.other_size:
            found.append("image sizes")
        if self.pixels is not None and self.pixels.differing:
            found.append("pixels")
        alone = {"A": self.only_a, "B": self.only_b}
        found += [f"rows that only {name} has" for name, rows in alone.items() if len(rows)]
        if not len(self.pairs):
            found.append("no rows were matched")
        return tuple(dict.fromkeys(found))

    @property
    def agrees(self) -> bool:
        """Whether everything that was compared is within its limit, and neither table has rows of its own."""
        return not self.differences


def compare_particles(
    a: str | Path,
    b: str | Path,
    *,
    within: float = WITHIN,
    sample: int | None = SAMPLE,
    seed: int = 0,
    tolerance: float = TOLERANCE,
    pixels: Measure = "stored",
    root: Path | None = None,
    strip: Strip = NO_STRIP,
) -> Comparison:
    """Compare two sets of particles; neither is changed.

    Parameters
    ----------
    a, b : path
        `.star`, `.cs` or `.csg` of particles, or an output folder of ours: then its table of particles, and its table
        of rejected picks says why a row is missing.
    within : float
        Pixels: positions that are farther apart are different particles.
    sample : int, optional
        Pairs of images to compare; 0: none, None: all.
    seed : int
        Of the sample.
    tolerance : float
        How far two pixels may differ, as a part of the largest value.
    pixels : {"stored", "fitted", "below-nyquist"}
        Which difference that is for: as stored; after fitting scale and offset; without the highest frequency, which
        programs crop differently, after fitting scale and plane.
    root : Path, optional
        Where names in both tables start; default: next to each table, then the working directory.
    strip : Strip
        Text that is not compared in names of micrographs.

    Returns
    -------
    Comparison

    Raises
    ------
    OptionError
        If an option is out of its bounds.
    InputError
        If a table or stack cannot be used, or no micrograph is in both tables.

    Notes
    -----
    Rows are matched one to one: by uid where both are `.cs`; then by image (the same file, the same number); then by
    micrograph, whose names are matched as those of picks (`cryobox.matching`), and position, nearest first.
    """
    within = check_positive("within", within, " of pixels", *WIDEST)
    sample = None if sample is None else check_integer("sample", sample, 0, sys.maxsize, " pairs")
    seed = check_integer("seed", seed, 0, sys.maxsize)
    tolerance = check_number("tolerance", tolerance)
    if not 0 <= tolerance < math.inf:
        raise OptionError(f"tolerance must be at least 0, a part of the largest value; got {tolerance:g}")
    check_choice("pixels", pixels, get_args(Measure))
    start = Start.here(root)
    with start.telling():
        sides = read_side(a, start), read_side(b, start)
        check_strip(sides[0].particles.micrograph_names, sides[1].particles.micrograph_names, strip)
        pairs = pair_rows(*sides, within=within, strip=strip)
        values = tuple(compare_values(*sides, pairs.a, pairs.b)) if len(pairs) else ()
        why_not, found = _why_no_pixels(sides, pairs, sample), None
        if not why_not:
            found = compare_pixels(*sides, pairs, sample=sample, seed=seed, tolerance=tolerance, measure=pixels)
        only_a, only_b = (_alone(sides, which, pairs, within, strip) for which in (0, 1))
    told = *(note for side in sides for note in side.notes), *pairs.notes
    return Comparison(
        a=sides[0],
        b=sides[1],
        pairs=pairs,
        within=within,
        values=values,
        pixels=found,
        no_pixels=why_not,
        only_a=only_a,
        only_b=only_b,
        notes=(
            *map(start.told, told),
            *_said_of_positions(sides, pairs, values),
            *_said_of_files(sides, pairs, found),
            *_said_of_pixels(found),
        ),
    )


def _why_no_pixels(sides: tuple[Side, Side], pairs: Pairs, sample: int | None) -> str:
    without = [name for name, side in zip("AB", sides, strict=True) if side.references is None]
    if without:
        return f"{' and '.join(without)} name{'s' if len(without) == 1 else ''} no images"
    if sample == 0:
        return "none asked for"
    return "" if len(pairs) else "no rows were matched"


def _alone(sides: tuple[Side, Side], which: int, pairs: Pairs, within: float, strip: Strip) -> Alone:
    matched = pairs.a if which == 0 else pairs.b
    rows = np.setdiff1d(np.arange(len(sides[which])), matched)
    return Alone(rows=rows, reasons=tuple(why_missing(sides, which, rows, pairs, within=within, strip=strip)))


def _said_of_positions(sides: tuple[Side, Side], pairs: Pairs, values: tuple[Result, ...]) -> tuple[str, ...]:
    if not values or not values[0].differing:
        return ()
    same, apart = cut_at_the_same_pixel(*sides, pairs.a, pairs.b), values[0].differing
    told = f"{same:,} of the {apart:,} positions that differ mean the same whole pixel, at which a box is cut"
    return (f"{told}: one table has the fraction of a pick, the other the pixel",) if same else ()


def _said_of_files(sides: tuple[Side, Side], pairs: Pairs, found: PixelResult | None) -> tuple[str, ...]:
    """How many images were compared with themselves."""
    if found is None:
        return ()
    keys = image_keys(*sides)
    if keys is None:
        return ()
    same = int((keys[0][pairs.a[found.pairs]] == keys[1][pairs.b[found.pairs]]).sum())
    told = f"in {same:,} of {len(found.pairs):,} pairs both tables name one image of one file, which agrees with itself"
    return (f"{told}: if there should be two, say with --root where names start",) if same else ()


def _said_of_pixels(found: PixelResult | None) -> tuple[str, ...]:
    """Which other measure the images agree by, where they do not as stored."""
    if found is None or found.measure != "stored" or not found.differing or found.other_size:
        return ()
    if (found.fitted <= found.allowed).all():
        return ("the images are the same but for scale and offset: --pixels fitted compares them so",)
    if (found.below_nyquist <= found.allowed).all():
        told = "the images are the same but for the highest frequency, a scale and a plane, as where programs crop"
        return (f"{told} differently: --pixels below-nyquist compares them so",)
    return ()
