"""Measures of particles: what the records say of each, against the reference; and what the filter made of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryobox import reference
from cryobox.filtering import MEASURES, RELATIVE
from cryobox.measuring import kept_by, measures_of
from cryobox.particles import Reason
from cryobox.plan import Task
from cryobox.results import TaskResult
from cryobox.verification.findings import Problems
from cryobox.windows import Windows

__all__ = ["check_measures", "measure_faults"]

# How far a measure may be from float64: a part of its scale. Images are right to 2e-6 of their largest value, which may
# be a hundred sd of the background.
TOLERANCE = 1e-4
ROUNDED = 1e-6  # of a number that was rounded to float32, and of what is made of two such


def check_measures(tasks: tuple[Task, ...], results: Mapping[str, TaskResult], path: str, problems: Problems) -> None:
    """Every record holds the measures of the windows that could be cut, and the filter kept what they say."""
    for task in tasks:
        result = results[task.id]
        for fault in _faults(task, result):
            problems.add(f"{path}: {task.micrograph}: {fault}", f"{path}: measures")


def _faults(task: Task, result: TaskResult) -> Iterator[str]:
    if not task.steps.measures or result.error:
        if result.measures:
            yield "measures are recorded, expected none"
        return
    values = measures_of(result)
    if values is None or not np.isfinite(values).all():
        yield "measures are not those of the windows that could be cut"
        return
    sd = values[:, MEASURES.index("background_sd")].astype(np.float64)
    if len(sd) and not np.allclose(values[:, MEASURES.index(RELATIVE)] * np.median(sd), sd, rtol=ROUNDED, atol=0):
        yield f"{RELATIVE} does not fit background_sd and its median"
    if task.filter is None:
        return
    left_out = {index for index, why in result.refused if why == Reason.FILTER}
    cut = np.ones(len(task.windows), np.bool_)
    cut[[index for index, why in result.refused if why != Reason.FILTER]] = False
    for index, kept in zip(np.flatnonzero(cut).tolist(), kept_by(task.filter, values).tolist(), strict=True):
        if kept == (index in left_out):
            yield f"window {index} was {'left out' if kept else 'kept'}; by its measures {task.filter!r} says otherwise"


def measure_faults(
    told: NDArray[np.float32],
    expected: NDArray[np.float64],
    gray: NDArray[np.float64],
    image: NDArray[Any],
    window: Windows,
    task: Task,
) -> Iterator[str]:
    """What is wrong with the measures of one window.

    Parameters
    ----------
    told : ndarray, shape (len(MEASURES),)
    expected, gray : ndarray, shape (size, size)
        Its image as the reference makes it; and before dust is replaced and it is normalized, in gray levels.
    image : ndarray
        The micrograph.
    """
    named = dict(zip(MEASURES, told.tolist(), strict=True))
    for name, (value, scale) in _measures(expected, gray, image, window, task).items():
        if not abs(named[name] - value) <= TOLERANCE * max(scale, abs(value)):
            yield f"{name} is recorded as {named[name]:.7g}, expected {value:.7g}"


def _measures(
    expected: NDArray[np.float64], gray: NDArray[np.float64], image: NDArray[Any], window: Windows, task: Task
) -> dict[str, tuple[float, float]]:
    """What the reference measures of one particle, and on what scale: all but what goes by the other particles."""
    radius, size, steps = task.outputs[0].background_radius, len(expected), task.steps
    (corner,) = window.corner.tolist()
    angle = float(window.angle[0]) if steps.tube and window.angle is not None else None
    mask = reference.background_mask(size, radius) if angle is None else reference.tube_mask(size, angle, radius)
    near = [] if window.neighbors is None else window.neighbors.tolist()
    mask, _ = reference.without_neighbors(mask, corner, window.box, near, radius)
    dust = np.zeros_like(mask)
    if steps.white_dust is not None or steps.black_dust is not None:
        dust = reference.dust_mask(gray, mask, steps.white_dust, steps.black_dust)
        key = reference.noise_key(window.seed, (corner[0], corner[1]))
        gray = reference.replace_dust(gray, mask, steps.white_dust, steps.black_dust, key)
    mean, sd = reference.background_levels(gray, mask, ramp=steps.ramp)
    pixels = reference.window(image, corner, window.box, "pad" if window.pad else "reject")
    most = float(np.abs(expected).max())
    return {
        "image_mean": (float(expected.mean()), most),
        "image_sd": (float(expected.std()), most),
        "image_minimum": (float(expected.min()), most),
        "image_maximum": (float(expected.max()), most),
        "background_mean": (mean, abs(mean) + sd),
        "background_sd": (sd, sd),
        **{name: (value, 1.0) for name, value in reference.measures(expected, radius, mask, angle=angle).items()},
        "saturated": (reference.saturated_part(pixels, image.dtype), 1e-3),
        "dust": (float(dust.sum()), 1.0),
    }
