"""Which picks are left out for what their tables say of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from cryobox.errors import OptionError
from cryobox.formats.labels import Label, labels_of, uids_of
from cryobox.groups import ClassesFrom, Selection, numbers_listed
from cryobox.particles import Particles, Reason

__all__ = ["hashes_of", "left_out", "sampled"]

Refused = tuple[NDArray[np.bool_], Reason]


def left_out(particles: Particles, selection: Selection) -> Iterator[Refused]:
    """The picks that each part of the selection leaves out, and why: what is named first counts.

    Raises
    ------
    OptionError
        If picks are to be selected by what they do not have.
    """
    if selection.classes is not None:
        yield _not_among(_classes(particles, selection.classes_from), selection.classes), Reason.CLASS
    elif selection.classes_from is not None:
        raise OptionError("--classes-from says of which alignment --classes are; give both, or neither")
    others: tuple[tuple[Label, str, str | int | None, Reason], ...] = (
        ("optics group", "--optics-groups", selection.optics_groups, Reason.GROUP),
        ("selection type", "--selection-type", selection.selection_type, Reason.SELECTION),
    )
    for label, option, wanted, why in others:
        if wanted is not None:
            numbers = labels_of(particles, label)
            if numbers is None:
                raise OptionError(f"{particles.source}: has no column of the {label}, so {option} cannot be used")
            yield _not_among(numbers, str(wanted)), why
    if selection.min_score is not None:
        yield from _by_score(particles, selection.min_score)


def sampled(particles: Particles, alive: NDArray[np.bool_], selection: Selection) -> NDArray[np.bool_]:
    """Which of the picks that are `alive` are in the sample.

    Raises
    ------
    OptionError
        If none would be.
    """
    found: NDArray[np.bool_] = alive.copy()
    if selection.sample is None or not alive.any():
        return found
    key = hashes_of(particles, str(selection.seed))
    rows = np.flatnonzero(alive)
    order = rows[np.argsort(key[rows], kind="stable")]
    part = selection.sample.endswith("%")
    number = float(selection.sample.removesuffix("%"))
    count = round(number / 100 * len(rows)) if part else int(number)
    found[order[count:]] = False
    return found


def hashes_of(particles: Particles, purpose: str) -> NDArray[np.uint64]:
    """A number for each pick that depends on what it is, and not on where it stands: equal picks by their ordinal.

    Another `purpose` gives other numbers.
    """
    uids = uids_of(particles)
    if uids is not None:
        names = [str(uid) for uid in uids.tolist()]
    else:
        of = particles.micrograph_names
        places = zip(particles.micrograph.tolist(), particles.y.tolist(), particles.x.tolist(), strict=True)
        names = [f"{of[m]}\0{y!r}\0{x!r}" for m, y, x in places]
    seen: dict[str, int] = {}
    found = np.empty(len(names), np.uint64)
    for at, name in enumerate(names):
        ordinal = seen[name] = seen.get(name, 0) + 1
        data = f"{purpose}\0{name}\0{ordinal}".encode("utf-8", "surrogateescape")
        found[at] = int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
    return found


def _classes(particles: Particles, chosen: ClassesFrom | None) -> NDArray[np.int64]:
    of_2d, of_3d = labels_of(particles, "2d class"), labels_of(particles, "3d class")
    if particles.family == "cs" and of_2d is not None and of_3d is not None and chosen is None:
        raise OptionError(f"{particles.source}: has classes of 2D and of 3D; say which with --classes-from 2d or 3d")
    found = of_3d if chosen == "3d" or (chosen is None and of_2d is None) else of_2d
    if found is None:
        which = f" of {chosen.upper()}" if chosen else ""
        raise OptionError(f"{particles.source}: has no classes{which}, so --classes cannot be used")
    return found


def _not_among(numbers: NDArray[np.int64], wanted: str) -> NDArray[np.bool_]:
    found = np.ones(len(numbers), np.bool_)
    for first, last in numbers_listed(wanted):
        found &= (numbers < first) | (numbers > last)
    return found


def _by_score(particles: Particles, lowest: float) -> Iterator[Refused]:
    if particles.score is None:
        raise OptionError(f"{particles.source}: has no scores, so --min-score cannot be used")
    yield np.isnan(particles.score), Reason.NO_SCORE
    yield particles.score < lowest, Reason.SCORE
