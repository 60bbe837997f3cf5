"""What the measures of images say is wrong: the rules, and how far a number may be off."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from cryobox.formats.mrc import Sections
from cryobox.soundness.findings import Fault, Findings, numbered
from cryobox.soundness.measures import LARGEST_HALF, Measures

__all__ = ["judge_images", "judge_normalization", "judge_statistics"]

# A stack is taken for normalized if so many of its images have a mean within, and an sd of, these. RELION's and our
# mean 0 and sd 1 are those of the background: the particle moves both.
_LEAST_IMAGES = 5
_MOST_OF_THEM = 0.75
_USUAL_MEAN = 0.5
_USUAL_SD = (0.5, 2.0)
# How far an image of such a stack may be from the median of all.
_MEAN_LIMIT = 2.0  # medians of the sd
_SD_LIMIT = 3.0  # a factor

# How far the header's statistics may be from those of the pixels: programs sum in their own order and type, and some
# before they round to float16.
_EXTREME_LIMIT = 1e-3  # of the range of the pixels
_MEAN_OFF = 1e-2  # of their standard deviation
_RMS_OFF = 2e-2
_ROUNDING = {2: 2.0**-11, 4: 1e-6}  # of the largest value, by bytes of a float


def judge_images(found: Findings, measures: Measures, dtype: np.dtype[np.generic]) -> None:
    """Images that are no images: not finite, constant, at the ends of their type."""
    odd = measures.not_finite > 0
    _tell(found, Fault.NOT_FINITE, odd, "not finite (nan or infinite pixels)", _pixels(measures.not_finite))
    constant = measures.minimum == measures.maximum
    values = np.unique(measures.minimum[constant])
    what = f"constant (all pixels {values[0]:g})" if len(values) == 1 else "constant"
    _tell(found, Fault.CONSTANT, constant, what)
    if dtype.kind != "f":
        return
    full = measures.saturated > 0
    what = f"saturated: pixels are \u00b1{LARGEST_HALF:g}, the largest float16"
    _tell(found, Fault.SATURATED, full, what, _pixels(measures.saturated))
    smallest = float(np.finfo(np.float16 if dtype.itemsize == 2 else np.float32).smallest_normal)
    largest = np.maximum(np.abs(measures.minimum), np.abs(measures.maximum))
    what = f"of subnormal numbers alone (below {smallest:.3g}), which keep few digits; scale them up"
    _tell(found, Fault.SUBNORMAL, (largest < smallest) & ~constant, what)


def _pixels(counts: NDArray[np.int64]) -> str:
    total = int(counts.sum())
    return f"; {total} pixel{'s' if total > 1 else ''} in all"


def _tell(found: Findings, fault: Fault, which: NDArray[np.bool_], what: str, more: str = "") -> None:
    """One line for all images that have a fault."""
    numbers = (np.flatnonzero(which) + 1).tolist()
    if not numbers:
        return
    if len(which) == 1 and found.kind != "stack":
        found.add(fault, f"is {what}{more}", numbers)
        return
    unit = "sections" if found.kind == "volume" else "images"
    if found.kind == "volume" and fault is Fault.CONSTANT and len(numbers) < len(which):
        return  # a mask leaves empty sections
    verb = "is" if len(numbers) == 1 else "are"
    found.add(fault, f"{len(numbers)} of {len(which)} {unit} {verb} {what}{more}: {numbered(numbers)}", numbers)


def judge_normalization(found: Findings, measures: Measures) -> None:
    """Images that are far from mean 0 and sd 1 in a stack of which most are near."""
    good = np.isfinite(measures.mean) & (measures.minimum < measures.maximum)
    if good.sum() < _LEAST_IMAGES:
        return
    mean, sd = measures.mean[good], measures.sd[good]
    usual = (np.abs(mean) <= _USUAL_MEAN) & (sd >= _USUAL_SD[0]) & (sd <= _USUAL_SD[1])
    if usual.mean() < _MOST_OF_THEM:
        return
    middle, spread = float(np.median(mean)), float(np.median(sd))
    far = np.abs(measures.mean - middle) > _MEAN_LIMIT * spread
    far |= measures.sd < spread / _SD_LIMIT
    far |= _sd_without_extremes(measures) > spread * _SD_LIMIT
    numbers = (np.flatnonzero(far & good) + 1).tolist()
    if not numbers:
        return
    worst = numbers[0] - 1
    verb = "is" if len(numbers) == 1 else "are"
    found.add(
        Fault.SCALE,
        f"{len(numbers)} of {len(measures)} images {verb} on another scale than the others (mean about {middle:.3g}, "
        f"sd about {spread:.3g}; image {numbers[0]}: mean {measures.mean[worst]:.4g}, sd {measures.sd[worst]:.4g}); "
        f"normalized otherwise? {numbered(numbers)}",
        numbers,
    )


def _sd_without_extremes(measures: Measures) -> NDArray[np.float64]:
    """Of each image but its lowest and its highest pixel: one hot pixel is no other scale."""
    low, high = measures.minimum - measures.mean, measures.maximum - measures.mean
    return np.sqrt(np.maximum(measures.squares - low**2 - high**2, 0.0) / measures.pixels)


def judge_statistics(found: Findings, measures: Measures, sections: Sections) -> None:
    """The statistics of the header against the pixels, where they are set.

    MRC2014: dmax below dmin, a dmean below both, an rms below 0 are not determined. Programs that do not know them
    also write 0 into all. The rms of a stack by RELION is the average of its images' deviations (seen in stacks of
    3.1 and 5), which is less than that of all pixels: what lies between the two fits.
    """
    low, high, mean, rms = sections.statistics
    if sections.dtype == np.int8 and low >= 0 and high > np.iinfo(np.int8).max:
        return  # signed or not: the reader has a note on it
    if measures.saturated.any():  # mean and rms may be those of the values before
        mean, rms = -math.inf, -1.0
    if sections.dtype.kind == "f" and sections.dtype.itemsize == 2:
        low, high = (max(-LARGEST_HALF, min(LARGEST_HALF, value)) for value in (low, high))
    least, most, average, sd = measures.over_all()
    of_images = float(measures.sd.mean())
    rounding = _ROUNDING.get(sections.dtype.itemsize, 1e-6) if sections.dtype.kind == "f" else 1e-6
    slack = rounding * max(abs(least), abs(most))
    known = not (high < low or low == high == 0)
    facts = [
        ("dmin", low, least, known, _EXTREME_LIMIT * (most - least)),
        ("dmax", high, most, known, _EXTREME_LIMIT * (most - least)),
        ("dmean", mean, average, not (mean < min(low, high) or low == high == mean == 0), _MEAN_OFF * sd),
        ("rms", rms, min(max(rms, of_images), sd), not rms <= 0, _RMS_OFF * sd),
    ]
    wrong = [
        f"{name} = {said:.6g}, the pixels have {has:.6g}"
        for name, said, has, is_set, limit in facts
        if is_set and not abs(said - has) <= limit + slack
    ]
    if wrong:
        found.add(Fault.STATISTICS, f"header says {'; '.join(wrong)}; changed without its header?")
