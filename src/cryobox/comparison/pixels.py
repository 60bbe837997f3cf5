"""Images of matched rows beside each other: correlation, least-squares fit, largest differences; on a sample."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from cryobox.comparison.pairing import Pairs
from cryobox.comparison.sides import Side
from cryobox.errors import CryoboxError, InputError
from cryobox.formats.mrc import read_images, read_stack_header

__all__ = ["HALF_STEP", "TOLERANCE", "Measure", "PixelResult", "compare_pixels"]

Measure = Literal["stored", "fitted", "below-nyquist"]

# Of the image's largest value: what `verify` allows a float32 image, too.
TOLERANCE = 2e-6
HALF_STEP = 2.0**-11  # what a float16 may be off besides, as a part of its value
BATCH = 1 << 21  # pixels of one side that are looked at together

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelResult:
    """What was found of the sampled pairs; arrays have one value for each pair that was compared.

    Parameters
    ----------
    matched : int
        Pairs of which the sample was drawn.
    pairs : ndarray, intp
        Places among the matched pairs.
    shapes : tuple of ((int, int), (int, int))
        (ny, nx) of the images of A and of B: the distinct ones that were met.
    other_size : int
        Sampled pairs whose images have other sizes: of these no pixel is compared.
    correlation, scale, offset : ndarray, float64
        Of the fit B = scale * A + offset; nan where an image has no contrast.
    stored : ndarray, float64
        Largest difference as stored, as a part of the largest absolute value of both images.
    fitted : ndarray, float64
        The same after the fit: the larger of B fitted to A and A fitted to B, each as a part of its largest value
        without its mean. A scale below 0 is fitted, too, and counted as `inverted`.
    below_nyquist : ndarray, float64
        The same without row and column at Nyquist, which programs crop differently, after fitting scale and plane.
    allowed : ndarray, float64
        The limit for each pair: more where a stack is of float16.
    measure : {"stored", "fitted", "below-nyquist"}
        Which of the three must be within it.
    """

    matched: int
    pairs: Rows
    shapes: tuple[tuple[tuple[int, int], tuple[int, int]], ...]
    other_size: int
    correlation: Floats
    scale: Floats
    offset: Floats
    stored: Floats
    fitted: Floats
    below_nyquist: Floats
    allowed: Floats
    measure: Measure

    @property
    def judged(self) -> Floats:
        """The differences that the limit is for."""
        return {"stored": self.stored, "fitted": self.fitted, "below-nyquist": self.below_nyquist}[self.measure]

    @property
    def differing(self) -> int:
        """Pairs beyond the limit."""
        return int((~(self.judged <= self.allowed)).sum())

    @property
    def inverted(self) -> int:
        """Pairs of which one image has the other's contrast inverted."""
        return int((self.scale < 0).sum())

    @property
    def agrees(self) -> bool:
        """Whether all sampled pairs could be compared and are within the limit."""
        return not self.other_size and not self.differing


@dataclass(frozen=True, slots=True)
class _Header:
    count: int
    shape: tuple[int, int]
    half: bool


def compare_pixels(
    a: Side, b: Side, pairs: Pairs, *, sample: int | None, seed: int, tolerance: float, measure: Measure
) -> PixelResult:
    """Compare the images of some matched rows.

    Parameters
    ----------
    a, b : Side
        With images.
    pairs : Pairs
    sample : int, optional
        How many pairs are drawn; None: all.
    seed : int
        Of the sample: the same pairs for one seed, whatever the order of rows and tables.
    tolerance : float
        Part of the largest value.
    measure : {"stored", "fitted", "below-nyquist"}

    Raises
    ------
    InputError
        If a stack is missing, damaged, or has no image of that number.
    """
    assert measure in get_args(Measure)
    chosen = _sample(a, b, pairs, sample, seed)
    headers: dict[str, _Header] = {}
    numbers: list[tuple[Rows, NDArray[np.float64]]] = [(np.empty(0, np.intp), np.empty((6, 0)))]
    halves: list[NDArray[np.bool_]] = [np.zeros(0, np.bool_)]
    shapes: dict[tuple[tuple[int, int], tuple[int, int]], None] = {}
    other_size = 0
    for one, two, places in _by_stacks(a, b, pairs, chosen):
        slots = a.slot[pairs.a[places]], b.slot[pairs.b[places]]
        first, second = (
            _header(headers, path, side, rows) for path, side, rows in ((one, a, slots[0]), (two, b, slots[1]))
        )
        shapes.setdefault((first.shape, second.shape))
        if first.shape != second.shape:
            other_size += len(places)
            continue
        step = max(1, BATCH // (first.shape[0] * first.shape[1]))
        for begin in range(0, len(places), step):
            part = slice(begin, begin + step)
            images = read_images(one, slots[0][part]), read_images(two, slots[1][part])
            numbers.append((places[part], _measure(*(image.astype(np.float64) for image in images))))
        halves.append(np.full(len(places), first.half or second.half))
    places = np.concatenate([rows for rows, _ in numbers])
    correlation, scale, offset, stored, fitted, below = np.concatenate([values for _, values in numbers], axis=1)
    return PixelResult(
        matched=len(pairs),
        pairs=places,
        shapes=tuple(shapes),
        other_size=other_size,
        correlation=correlation,
        scale=scale,
        offset=offset,
        stored=stored,
        fitted=fitted,
        below_nyquist=below,
        allowed=tolerance + np.where(np.concatenate(halves), HALF_STEP, 0.0),
        measure=measure,
    )


def _sample(a: Side, b: Side, pairs: Pairs, sample: int | None, seed: int) -> Rows:
    """Places of the pairs that are looked at, from an order that rows and tables do not decide."""
    if sample is None or sample >= len(pairs):
        return np.arange(len(pairs))
    name = _names(a, b, pairs)
    place = a.position[pairs.a] + b.position[pairs.b]
    order = np.lexsort((a.slot[pairs.a] + b.slot[pairs.b], place[:, 1], place[:, 0], name))
    drawn = np.random.default_rng(seed).choice(len(pairs), sample, replace=False)
    return np.sort(order[drawn])


def _names(a: Side, b: Side, pairs: Pairs) -> Rows:
    """The micrograph of each pair as a number: the place among the sorted names, of two names the earlier one."""
    one, two = a.particles.micrograph[pairs.a], b.particles.micrograph[pairs.b]
    stride = len(b.particles.micrograph_names)
    both, inverse = np.unique(one * stride + two, return_inverse=True)
    texts = [
        min(a.particles.micrograph_names[key // stride], b.particles.micrograph_names[key % stride])
        for key in both.tolist()
    ]
    place = {text: k for k, text in enumerate(sorted(set(texts)))}
    return np.array([place[text] for text in texts], np.intp)[inverse]


def _by_stacks(a: Side, b: Side, pairs: Pairs, chosen: Rows) -> Iterator[tuple[str, str, Rows]]:
    """The chosen pairs by the two stacks in which their images lie, in the order of the first one's images."""
    one, two = a.stack[pairs.a[chosen]], b.stack[pairs.b[chosen]]
    order = np.lexsort((a.slot[pairs.a[chosen]], two, one))
    starts = np.flatnonzero(np.append(True, (np.diff(one[order]) != 0) | (np.diff(two[order]) != 0)))
    for rows in np.split(order, starts[1:]) if len(order) else ():
        yield a.stacks[one[rows[0]]], b.stacks[two[rows[0]]], chosen[rows]


def _header(known: dict[str, _Header], path: str, side: Side, slots: NDArray[np.int64]) -> _Header:
    if path not in known:
        try:
            (count, ny, nx), dtype, _, _ = read_stack_header(path)
        except CryoboxError as error:
            raise InputError(
                f"{error}. It is a stack of {side.table}; say with --root where names in tables start, or compare the "
                f"tables alone with --sample 0"
            ) from error
        known[path] = _Header(count, (ny, nx), dtype.itemsize == 2 and dtype.kind == "f")
    header = known[path]
    beyond = slots[(slots < 0) | (slots >= header.count)]
    if len(beyond):
        raise InputError(
            f"{path}: holds {header.count} images, and {side.table} names number {int(beyond[0]) + 1}; was the stack "
            f"written again?"
        )
    return header


def _measure(a: Floats, b: Floats) -> Floats:
    """Six numbers for each pair of images, shape (6, n): correlation, scale, offset, three largest differences."""
    n = len(a)
    flat_a, flat_b = a.reshape(n, -1), b.reshape(n, -1)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        stored = _ratio(np.abs(flat_a - flat_b).max(axis=1), np.fmax(_top(flat_a), _top(flat_b)))
        mean_a, mean_b = flat_a.mean(axis=1), flat_b.mean(axis=1)
        off_a, off_b = flat_a - mean_a[:, None], flat_b - mean_b[:, None]
        aa, bb, ab = ((x * y).sum(axis=1) for x, y in ((off_a, off_a), (off_b, off_b), (off_a, off_b)))
        scale = ab / aa
        fitted = _after_fit(off_a, off_b)
        plain_a, plain_b = _below_nyquist(a), _below_nyquist(b)
        below = _after_fit(plain_a, plain_b)
        found = ab / np.sqrt(aa * bb), scale, mean_b - scale * mean_a, stored, fitted, below
    return np.stack(found)


def _top(images: Floats) -> Floats:
    largest: Floats = np.abs(images).max(axis=1)
    return largest


def _ratio(part: Floats, whole: Floats) -> Floats:
    """0 of 0 is 0: two empty images are the same."""
    return np.where(part == 0, 0.0, part / whole)


def _after_fit(a: Floats, b: Floats) -> Floats:
    """Largest difference of images without mean after fitting one to the other, whichever way it is larger."""
    worst = np.zeros(len(a))
    for x, y in ((a, b), (b, a)):
        square = (x * x).sum(axis=1)
        scale = np.where(square > 0, (x * y).sum(axis=1) / square, 0.0)
        worst = np.maximum(worst, _ratio(np.abs(y - scale[:, None] * x).max(axis=1), _top(y)))
    return worst


def _without_nyquist(images: Floats) -> Floats:
    """Images without the highest frequency of either axis; sides that are odd have none."""
    ny, nx = images.shape[1:]
    spectrum = np.fft.rfft2(images)
    if ny % 2 == 0:
        spectrum[:, ny // 2, :] = 0
    if nx % 2 == 0:
        spectrum[:, :, nx // 2] = 0
    return np.fft.irfft2(spectrum, s=(ny, nx))


@lru_cache(maxsize=2)  # of both sides, batch after batch
def _planes(ny: int, nx: int) -> Floats:
    """An orthonormal basis of the planes without the highest frequency, shape (ny * nx, 3)."""
    y, x = np.mgrid[:ny, :nx].astype(np.float64)
    planes = _without_nyquist(np.stack([np.ones((ny, nx)), y, x])).reshape(3, -1)
    basis: Floats = np.linalg.qr(planes.T)[0]
    return basis


def _below_nyquist(images: Floats) -> Floats:
    """Images, as rows, without the highest frequency and their least-squares plane.

    The plane is taken without that frequency, too: a slope is a saw tooth for the transform, and has some of it.
    """
    basis = _planes(*images.shape[1:])
    flat = _without_nyquist(images).reshape(len(images), -1)
    left: Floats = flat - (flat @ basis) @ basis.T
    return left
