"""Measures of particles: made of the core's statistics, as a task's result holds them, and which the filter keeps."""

from __future__ import annotations

import base64

import numpy as np
from numpy.typing import NDArray

from cryobox.filtering import MEASURES, RELATIVE, Filter
from cryobox.particles import Reason
from cryobox.results import TaskResult
from cryobox.windows import STATISTICS

__all__ = ["as_text", "kept_by", "measured", "measures_of", "of_windows"]

_STATISTIC = {
    "image_mean": "mean", "image_sd": "sd", "image_minimum": "minimum", "image_maximum": "maximum",
    RELATIVE: "background_sd",
}  # fmt: skip
_COLUMNS = [STATISTICS.index(_STATISTIC.get(name, name)) for name in MEASURES]
_RELATIVE = MEASURES.index(RELATIVE)


def measured(statistics: NDArray[np.float64]) -> NDArray[np.float32]:
    """The measures of all particles of a micrograph that could be cut, from their statistics at the first size.

    Shape (n, len(MEASURES)). They are rounded once, here, so that a filter sees what `.cs` tables say.
    """
    found = statistics[:, _COLUMNS]
    if len(found):
        found[:, _RELATIVE] /= np.median(found[:, _RELATIVE])
    return found.astype(np.float32)


def kept_by(text: str, measures: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which particles a filter keeps, by their measures."""
    return Filter(text, MEASURES).keeps(dict(zip(MEASURES, measures.T, strict=True)))


def as_text(measures: NDArray[np.float32]) -> str:
    """Measures as a line of JSON can hold them: a million particles' numbers would be ten times as long."""
    return base64.b64encode(measures.astype("<f4").tobytes()).decode()


def measures_of(result: TaskResult) -> NDArray[np.float32] | None:
    """The measures that a result holds, one row for each window that could be cut; None where it is not readable."""
    try:
        values = np.frombuffer(base64.b64decode(result.measures, validate=True), "<f4")
    except ValueError:
        return None
    count = result.kept + sum(why == Reason.FILTER for _, why in result.refused)
    return values.reshape(count, len(MEASURES)) if values.size == count * len(MEASURES) else None


def of_windows(result: TaskResult, count: int) -> NDArray[np.float32]:
    """The measures of all windows of a task, nan for those that could not be cut, or where none are recorded."""
    found = np.full((count, len(MEASURES)), np.nan, np.float32)
    cut = np.ones(count, np.bool_)
    cut[[index for index, why in result.refused if why != Reason.FILTER]] = False
    values = measures_of(result)
    if values is not None and not result.error and len(values) == cut.sum():
        found[cut] = values
    return found
