"""Do the picks sit on particles, or would they if they were flipped, swapped or at another binning? A look at a few.

Programs disagree about which corner of a micrograph is the first pixel, and about the binning of what they picked on:
every box is cut then, and every box is empty.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from cryobox.centering import mirror
from cryobox.errors import MicrographError
from cryobox.fit.contrast import SIDE, Seen, binned, look, shown_by
from cryobox.fit.field import part_of_the_field, placed
from cryobox.formats.images import PixelReader
from cryobox.formats.mirroring import what_a_mirror_does
from cryobox.inputs import Inputs
from cryobox.options import RunOptions
from cryobox.plan import Plan
from cryobox.slips import small_box

__all__ = ["CANNOT_TELL", "FITS", "NOTHING", "Change", "Fit", "check_fit", "judge", "looked_at", "worth_trying"]

FITS, NOTHING, CANNOT_TELL = "picks fit", "nothing is at these picks", "cannot tell"

SCALES = (1.0, 1 / 4, 1 / 3, 1 / 2, 2 / 3, 3 / 2, 2.0, 3.0, 4.0)
LEAST_PICKS = 20  # fewer say nothing
ENOUGH_PICKS = 300  # more change no answer
SOME_PICKS = 50_000  # of a million, tell as well which changes are worth trying
LEAST_FOR_NOTHING = 50  # picks: it is a claim about all of them
CLEAR = 7.0  # standard errors; of 1,000 right sets none came near it where nothing was
SOME = 5.0  # standard errors that the picks as given need, where nothing else is clear
HARDLY_ANY = 3.0
BETTER = 3.0  # standard errors that another change must win by, besides being twice as good
SKEWED = 0.3  # of the contrast over the field: there are objects of the size of the box
OBJECTS = 0.5  # of the number of picks, of objects that stand out
LEAST_INSIDE = 0.7  # of the picks, for a change to be worth trying
LEAST_EXTENT = 0.55  # of one of the sides, likewise: what makes picks fit spreads them over the field

SECONDS = 0.1  # of a processor, after which nothing more is looked at, in any run
PIXELS = 24e6  # likewise: they take less, so that it is the pixels that end it, and the answer is always the same
SHARE = 0.025  # of the pixels that one worker will cut, where that is more: each costs more here than there
PIXELS_OF_ONE = 8e6  # of one micrograph: a band
INFLATING = 15  # times as long as reading plainly; compressed files and TIFF come whole
BINNED_PIXELS = 200_000  # of one micrograph: a narrower band, where boxes are small
BINNED_PRICE = 20  # of a binned pixel, beside one that is only read and binned

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What could have been done to the picks as their table has them: the axes swapped, then a scale, then flips."""

    scale: float = 1.0
    flip_y: bool = False
    flip_x: bool = False
    swap: bool = False

    def __str__(self) -> str:
        scale = "" if self.scale == 1 else f"times {self.scale:g}" if self.scale >= 1 else f"times {self.scale:.3g}"
        flips = " and ".join(axis for axis, flipped in (("x", self.flip_x), ("y", self.flip_y)) if flipped)
        words = [scale, f"{flips} flipped" if flips else "", "x and y swapped" if self.swap else ""]
        return ", ".join(word for word in words if word) or "unchanged"

    def of(self, center: Floats, shape: tuple[int, int]) -> Floats:
        """Where the picks would be, (y, x), in a micrograph of this shape."""
        moved = (center[:, ::-1] if self.swap else center) * self.scale
        for axis, flipped in enumerate((self.flip_y, self.flip_x)):
            if flipped:
                moved[:, axis] = mirror(moved[:, axis], float(shape[axis]))
        return moved


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """What a look at a few micrographs says of the picks.

    Parameters
    ----------
    verdict : str
        "picks fit", "use --flip-y" (or another remedy), "nothing is at these picks", "cannot tell".
    warning : str
        What to tell the user; "" where they fit, and where it cannot be told.
    scores : dict of Change to float
        What each change that is worth trying shows beside chance, in standard errors; nan: too few boxes inside.
    given : Change
        What is done to them as things are: the recipe's flips.
    picks, micrographs : int
        What was looked at.
    """

    verdict: str = CANNOT_TELL
    warning: str = ""
    scores: dict[Change, float] = field(default_factory=dict)
    given: Change = field(default_factory=Change)
    picks: int = 0
    micrographs: int = 0

    @property
    def told(self) -> str:
        """The verdict and what it rests on, in a line."""
        if not self.micrographs:
            return f"{self.verdict}: no micrograph was looked at"
        best = max((score for score in self.scores.values() if np.isfinite(score)), default=None)
        if best is None:
            return f"{self.verdict}: {self.picks} picks of {_micrographs(self.micrographs)} are too few"
        given = self.scores[self.given]
        score = best if self.verdict not in (FITS, NOTHING, CANNOT_TELL) or np.isnan(given) else given
        good = "clear" if score >= CLEAR else "enough" if score >= SOME else f"not clear, which begins at {CLEAR:g}"
        return (
            f"{self.verdict}: contrast of {score:.1f} standard errors ({good}) at {self.picks} picks of "
            f"{_micrographs(self.micrographs)}"
        )


@dataclass(slots=True)
class Evidence:
    """What was seen so far, of each change; and of the micrographs themselves."""

    seen: dict[Change, list[Seen]]
    skewness: list[float] = field(default_factory=list)
    independent: float = 0.0
    standing_out: int = 0

    def add(self, image: NDArray[np.generic], top: int, center: Floats, shape: tuple[int, int], box: int) -> None:
        """Look at rows `top` and further of a micrograph of this shape."""
        small, factor = binned(image, box)
        shown = shown_by(small)
        rng = np.random.default_rng(len(self.skewness))
        patterns = [(change.of(center, shape) - (top, 0)) / factor for change in self.seen]
        for found, seen in zip(self.seen.values(), look(shown, patterns, rng), strict=True):
            found.append(seen)
        self.skewness.append(shown.skewness)
        self.independent += shown.independent
        self.standing_out += shown.objects

    @property
    def picks(self) -> int:
        """Most picks that any change has inside."""
        return max(sum(seen.picks for seen in found) for found in self.seen.values())

    def score(self, change: Change) -> float:
        """How far what the picks see then is from chance, in standard errors of both contrasts together."""
        found = self.seen[change]
        if sum(seen.picks for seen in found) < LEAST_PICKS:
            return float("nan")
        excess, chance = (np.sum([getattr(seen, what) for seen in found], axis=0) for what in ("excess", "chance"))
        scale = np.sqrt(np.diag(chance))
        if not (scale > 0).all():
            return float("nan")
        even = chance / np.outer(scale, scale) + 0.01 * np.eye(len(scale))
        return float(np.sqrt((excess / scale) @ np.linalg.solve(even, excess / scale)))

    def objects(self, picks: int) -> bool:
        """Whether the micrographs show objects of about the size of a box, and as many as there are picks.

        Noise has no sign; a few crystals of ice have, and hide nothing that particles could be missed for.
        """
        if not self.skewness or self.independent <= 0 or self.standing_out < OBJECTS * picks:
            return False
        mean = abs(float(np.mean(self.skewness)))
        return mean > max(SKEWED, 4 * math.sqrt(6 / self.independent))


def check_fit(inputs: Inputs, *, workers: float = 1) -> Fit:
    """Look whether the picks fit the micrographs, at little cost and with the same answer every time.

    Parameters
    ----------
    inputs : Inputs
    workers : float
        Micrographs that the run will work on at a time: what it may cost is a part of its time. Infinite: a part of
        nothing is more than what any run may cost.
    """
    plan, source = inputs.plan, inputs.particles.source
    of_the_field = part_of_the_field(plan, source)
    rows = placed(plan)
    micrograph = plan.micrograph[rows]
    recipe = plan.recipe
    given = Change(flip_y=recipe.flip_y, flip_x=recipe.flip_x)
    shape = plan.grounds.shape[micrograph].astype(np.float64)
    center = plan.places.center[rows].astype(np.float64)
    for axis, flipped in enumerate((given.flip_y, given.flip_x)):
        center[:, axis] = mirror(center[:, axis], shape[:, axis]) if flipped else center[:, axis]
    numbers = np.bincount(micrograph, minlength=len(plan.grounds.shape)) if len(rows) else np.empty(0, np.intp)
    chosen = [int(m) for m in np.argsort(-numbers, kind="stable")[: len(np.flatnonzero(numbers))]]
    some = slice(None, None, max(1, len(rows) // SOME_PICKS))
    changes = worth_trying(center[some] / shape[some], scales=not inputs.particles.from_fractions)
    evidence = Evidence({change: [] for change in changes})
    looked_at = 0
    for m, image, top in _bands(inputs, chosen, workers):
        evidence.add(image, top, center[micrograph == m], plan.grounds.headers[m].shape, int(plan.grounds.box[m]))
        looked_at += 1
        if evidence.picks >= ENOUGH_PICKS:
            break
    scores = {change: evidence.score(change) for change in changes}
    verdict, best = judge(scores, evidence, given)
    return Fit(
        verdict=verdict if best is None else _remedy(best, plan),
        warning=_warning(verdict, best, scores, evidence, given, inputs) or (of_the_field if verdict != FITS else ""),
        scores=scores,
        given=given,
        picks=evidence.picks,
        micrographs=looked_at,
    )


def looked_at(inputs: Inputs, options: RunOptions, *, workers: float) -> Inputs:
    """What a run starts from, with what a look at picks, images and box has to say among its warnings.

    Of shards the first one looks, for all. It changes nothing but warnings and `fit`, and raises nothing.

    Parameters
    ----------
    workers : float
        As for `check_fit`, of this shard.
    """
    shard, of = options.shard or (1, 1)
    if shard != 1:
        return inputs
    try:
        with np.errstate(all="ignore"):
            fit, texts = _looked(inputs, options, math.inf if options.gpus else workers * of)
    except Exception as error:  # noqa: BLE001 -- it only warns: nothing that is wrong with it may end a run
        fit, texts = f"{CANNOT_TELL}: the check itself failed ({type(error).__name__}: {error})", ()
    return replace(inputs, fit=fit).with_warnings(texts)


def _looked(inputs: Inputs, options: RunOptions, workers: float) -> tuple[str, tuple[str, ...]]:
    """The verdict in words, "" where nobody asks for it, and warnings."""
    plan = inputs.plan
    texts = small_box(inputs.particles, inputs.micrographs, plan, options.diameter_angstrom)
    # Points of particles that an alignment found, and their copies, are picks of nobody, and sit where no middle is.
    if not options.check_picks or inputs.particles.copy_of is not None or plan.recipe.recenter_3d is not None:
        return "", texts
    found = check_fit(inputs, workers=workers)
    return found.told, (*((found.warning,) if found.warning else ()), *texts)


def worth_trying(place: Floats, *, scales: bool = True) -> tuple[Change, ...]:
    """The picks as given, and changes that would leave them inside the micrographs and spread over them.

    Parameters
    ----------
    place : ndarray, shape (n, 2)
        Of each pick, (y, x) as parts of the sides of its micrograph.
    """
    found = []
    for scale in SCALES if scales and len(place) else (1.0,):
        moved = place * scale
        inside = ((moved >= 0) & (moved < 1)).all(axis=1)
        if scale != 1 and (
            inside.mean() < LEAST_INSIDE or np.quantile(moved[inside], 0.98, axis=0).max() < LEAST_EXTENT
        ):
            continue
        found += [Change(scale=scale, flip_y=y, flip_x=x) for y in (False, True) for x in (False, True)]
        found.append(Change(scale=scale, swap=True))
    return tuple(found)


def judge(scores: dict[Change, float], evidence: Evidence, given: Change) -> tuple[str, Change | None]:
    """The verdict, and the change that fits clearly better, if there is one."""
    known = 0.0 if np.isnan(scores[given]) else scores[given]
    others = {change: score for change, score in scores.items() if change != given and np.isfinite(score)}
    best = max(others, key=lambda change: others[change], default=None)
    if best is not None and others[best] >= CLEAR and others[best] >= 2 * known + BETTER:
        return "", best
    if known >= SOME:
        return FITS, None
    picks = sum(seen.picks for seen in evidence.seen[given])
    if picks >= LEAST_FOR_NOTHING and known < HARDLY_ANY and evidence.objects(picks):
        return NOTHING, None
    return CANNOT_TELL, None


def _bands(inputs: Inputs, chosen: list[int], workers: float) -> Iterator[tuple[int, NDArray[np.generic], int]]:
    """Of some micrographs a band of rows in the middle, and its first row, until enough was read."""
    plan, reader, began = inputs.plan, PixelReader(), time.thread_time()
    headers = plan.grounds.headers
    prices = {m: 1 if headers[m].offset >= 0 else INFLATING for m in chosen}
    part = SHARE * sum(prices[m] * math.prod(headers[m].shape) for m in chosen) / workers
    used = 0.0
    for m in chosen:
        box, (ny, nx) = int(plan.grounds.box[m]), headers[m].shape
        factor = max(1, round(box / SIDE))
        height = min(ny, max(3 * box, int(min(PIXELS_OF_ONE, BINNED_PIXELS * factor**2) / nx)))
        top = (ny - height) // 2
        used += prices[m] * nx * (height if prices[m] == 1 else ny) + BINNED_PRICE * height * nx / factor**2
        if used > max(PIXELS, part) or (used > part and time.thread_time() - began > SECONDS):
            return
        path = inputs.micrographs.paths[m]
        try:
            image = reader.read(path, headers[m], rows=(top, top + height), tiff_flip=plan.recipe.tiff_flip)
        except MicrographError:
            continue  # the run itself will say so
        yield m, image[top : top + height], top


def _remedy(change: Change, plan: Plan) -> str:
    """What to do, in words."""
    recipe = plan.recipe
    words: list[str] = []
    leave: list[str] = []
    for flag, was, flipped in (("--flip-x", recipe.flip_x, change.flip_x), ("--flip-y", recipe.flip_y, change.flip_y)):
        if flipped != was:
            (leave if was else words).append(flag)
    scale = recipe.coordinate_scale * change.scale
    tries = "" if change.scale == 1 else f"try --coord-scale {scale:.4g}"
    if tries and recipe.coordinate_pixel_size is not None:
        tries = f"try --angpix-coords {recipe.coordinate_pixel_size * change.scale:.4g}"
    elif tries and abs(scale - 1) < 1e-6:
        tries, leave = "", [*leave, "--coord-scale"]
    parts = [tries, f"use {' '.join(words)}" if words else "", f"leave out {' '.join(leave)}" if leave else ""]
    parts.append("swap the coordinate columns" if change.swap else "")
    return ", ".join(part for part in parts if part)


def _warning(
    verdict: str,
    best: Change | None,
    scores: dict[Change, float],
    evidence: Evidence,
    given: Change,
    inputs: Inputs,
) -> str:
    source, score = inputs.particles.source, scores[given]
    shown = _micrographs(len(evidence.skewness))
    if best is not None:
        mirrored = best.flip_x or best.flip_y
        does = what_a_mirror_does(inputs.particles, inputs.micrographs, inputs.plan.recipe) if mirrored else ""
        against = "none of them inside" if np.isnan(score) else f"{score:.1f}"
        return (
            f"{source}: the picks fit much better {_with(best)} (contrast {scores[best]:.1f} standard errors against "
            f"{against} as given, in {shown}): {_remedy(best, inputs.plan)}{does}"
        )
    if verdict == NOTHING:
        return (
            f"{source}: nothing is at these picks: their boxes show what boxes anywhere show (contrast {score:.1f} "
            f"standard errors), though there are objects of that size in the {shown} looked at; are they picks of "
            f"these micrographs, at this binning?"
        )
    return ""


def _micrographs(count: int) -> str:
    return f"{count} micrograph" if count == 1 else f"{count} micrographs"


def _with(change: Change) -> str:
    return str(change) if change.scale != 1 or change == Change() else f"with {change}"
