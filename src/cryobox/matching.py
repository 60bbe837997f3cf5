"""Which micrograph a pick belongs to: names match exactly, or by a looser rule that is unique for every name."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from difflib import get_close_matches

import numpy as np
from numpy.typing import NDArray

from cryobox.errors import InputError

__all__ = ["match_names", "match_uids", "stem"]

_IMAGE_SUFFIXES = (".mrcs", ".mrc", ".map", ".tiff", ".tif", ".eer", ".gz", ".bz2")
_UID_PREFIX = re.compile(r"^\d{21}_")  # CryoSPARC puts the micrograph's uid, 21 digits, before the name


def basename(name: str) -> str:
    """The last part of a path, written with slashes or backslashes."""
    return name.replace("\\", "/").rsplit("/", 1)[-1]


def stem(name: str) -> str:
    """Basename without the suffixes of image files."""
    text = basename(name)
    shorter = True
    while shorter:
        shorter = False
        for suffix in _IMAGE_SUFFIXES:
            if text.lower().endswith(suffix) and len(text) > len(suffix):
                text, shorter = text[: -len(suffix)], True
    return text


def without_uid(name: str) -> str:
    """Stem without CryoSPARC's 21-digit prefix."""
    return _UID_PREFIX.sub("", stem(name))


_STEPS: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("exact name", lambda name: name),
    ("file name", basename),
    ("file stem", stem),
    ("file stem without CryoSPARC's uid prefix", without_uid),
)


def match_names(
    picks: Sequence[str], micrographs: Sequence[str], *, picks_source: str, micrographs_source: str
) -> tuple[NDArray[np.intp], str]:
    """Find for each name in `picks` its index in `micrographs`; -1 where there is none.

    Tries exact names, then basenames, then stems, then stems without CryoSPARC's uid prefix, never substrings. The
    first step that finds most names is used for all of them, and must be unique for every name on both sides.

    Returns
    -------
    tuple
        The indices, shape (len(picks),), and the words for the step that was used.

    Raises
    ------
    InputError
        If nothing matches (naming what was seen on both sides and the nearest name), or if the step that matches is
        ambiguous (naming both candidates).
    """
    best = np.full(len(picks), -1, dtype=np.intp)
    best_step, best_found = _STEPS[0][0], 0
    for words, reduce in _STEPS:
        index: dict[str, int] = {}
        clashes: dict[str, tuple[int, int]] = {}
        for number, name in enumerate(micrographs):
            other = index.setdefault(reduce(name), number)
            if other != number:
                clashes[reduce(name)] = (other, number)
        found = np.array([index.get(reduce(name), -1) for name in picks], dtype=np.intp)
        count = int((found >= 0).sum())
        if count <= best_found:
            continue
        for name in picks:
            if reduce(name) in clashes:
                one, two = clashes[reduce(name)]
                raise InputError(
                    f"{micrographs_source}: pick name {name!r} fits two micrographs by {words}: {micrographs[one]!r} "
                    f"and {micrographs[two]!r}; write the full names in {picks_source}"
                )
        _check_one_name_per_micrograph(picks, found, micrographs, words, picks_source)
        best, best_step, best_found = found, words, count
        if count == len(picks):
            break
    if best_found == 0 and len(picks):
        raise InputError(_no_match(picks, micrographs, picks_source, micrographs_source))
    return best, best_step


def match_uids(picks: NDArray[np.uint64], micrographs: NDArray[np.uint64]) -> NDArray[np.intp]:
    """Index into `micrographs` of each uid in `picks`; -1 where it is 0 or not there."""
    if len(micrographs) == 0:
        return np.full(len(picks), -1, dtype=np.intp)
    order = np.argsort(micrographs, kind="stable")
    place = np.minimum(np.searchsorted(micrographs, picks, sorter=order), len(micrographs) - 1)
    found = order[place]
    return np.where((micrographs[found] == picks) & (picks != 0), found, -1)


def _check_one_name_per_micrograph(
    picks: Sequence[str], found: NDArray[np.intp], micrographs: Sequence[str], words: str, picks_source: str
) -> None:
    seen: dict[int, str] = {}
    for name, number in zip(picks, found.tolist(), strict=True):
        if number < 0:
            continue
        other = seen.setdefault(number, name)
        if other != name:
            raise InputError(
                f"{picks_source}: names {other!r} and {name!r} both fit micrograph {micrographs[number]!r} by {words}; "
                f"write the full names"
            )


def _no_match(picks: Sequence[str], micrographs: Sequence[str], picks_source: str, micrographs_source: str) -> str:
    if not micrographs:
        return f"{micrographs_source}: holds no micrographs"
    sample = picks[0][:300]
    near = get_close_matches(stem(sample), [stem(name) for name in micrographs[:10_000]], n=1, cutoff=0.5)
    nearest = f"; nearest: {near[0]!r}" if near else ""
    return (
        f"{picks_source}: none of its {len(picks)} micrograph names matches one of the {len(micrographs)} in "
        f"{micrographs_source}; picks say for example {sample!r}, micrographs {micrographs[0]!r}{nearest}"
    )
