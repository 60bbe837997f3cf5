"""Which micrograph a pick belongs to: names match exactly, or by a looser rule that is unique for every name."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np
from numpy.typing import NDArray

from cryobox.errors import InputError
from cryobox.micrograph import Micrographs
from cryobox.particles import Particles

__all__ = [
    "NO_STRIP",
    "Strip",
    "check_strip",
    "has_folders",
    "match_micrographs",
    "match_names",
    "match_uids",
    "micrographs_with_picks",
    "shared_folders",
    "stem",
]

_IMAGE_SUFFIXES = (".mrcs", ".mrc", ".map", ".tiff", ".tif", ".eer", ".gz", ".bz2")
_UID_PREFIX = re.compile(r"^\d{21}_")  # CryoSPARC puts the micrograph's uid, 21 digits, before the name
_MOST_COMPARED = 10_000  # names looked at for a hint


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


def has_folders(name: str) -> bool:
    """Whether a name says which folder its file lies in."""
    return basename(name) != name


@dataclass(frozen=True, slots=True, kw_only=True)
class Strip:
    """Text that is not compared: at the beginning or the end of the stem, on both sides, where it is there.

    A prefix may stand behind CryoSPARC's uid. Image suffixes at the end of `suffix` do not count: `_DW.mrc` is `_DW`.
    """

    prefix: str = ""
    suffix: str = ""

    def __bool__(self) -> bool:
        return bool(self.prefix or self.suffix)

    def __call__(self, name: str) -> str:
        """The name without that text; a stem is never made empty."""
        last, inner = basename(name), stem(name)
        found = _UID_PREFIX.match(inner)
        uid = found[0] if found else ""
        core = inner[len(uid) :]
        suffix = stem(self.suffix)
        if suffix and core.endswith(suffix) and core != suffix:
            core = core[: -len(suffix)]
        if self.prefix and core.startswith(self.prefix) and core != self.prefix:
            core = core[len(self.prefix) :]
        return name[: len(name) - len(last)] + uid + core + last[len(inner) :]


NO_STRIP = Strip()

_Candidates = Callable[[str], Sequence[int]]


def _equal(reduce: Callable[[str], str]) -> Callable[[Sequence[str]], _Candidates]:
    """A step in which two names are the same where `reduce` makes the same text of them."""

    def look_in(micrographs: Sequence[str]) -> _Candidates:
        index: dict[str, list[int]] = {}
        for number, name in enumerate(micrographs):
            index.setdefault(reduce(name), []).append(number)
        return lambda name: index.get(reduce(name), ())

    return look_in


def _same_folders(micrographs: Sequence[str]) -> _Candidates:
    """A step for names with folders: of equal stems the one with most folders in common, counted from the end.

    RELION names coordinate files as the micrographs, below the folder of its job: Dataset1/001 is
    MotionCorr/job002/Dataset1/001.mrc.
    """
    of_stem = _equal(stem)(micrographs)

    def candidates(name: str) -> Sequence[int]:
        if not has_folders(name):
            return ()
        shared = {number: shared_folders(name, micrographs[number]) for number in of_stem(name)}
        most = max(shared.values(), default=0)
        best = [number for number, count in shared.items() if count == most]
        return best if most > 0 and len(best) == 1 else ()

    return candidates


def shared_folders(one: str, other: str) -> int:
    """How many folders before the file's name are the same in two paths."""
    count = 0
    for ours, theirs in zip(_folders(one), _folders(other), strict=False):
        if ours != theirs:
            break
        count += 1
    return count


def _folders(name: str) -> list[str]:
    """The folders of a path from the last one up."""
    return [part for part in name.replace("\\", "/").split("/")[-2::-1] if part not in ("", ".")]


_STEPS: tuple[tuple[str, Callable[[Sequence[str]], _Candidates]], ...] = (
    ("exact name", _equal(lambda name: name)),
    ("folders and file stem", _same_folders),
    ("file name", _equal(basename)),
    ("file stem", _equal(stem)),
    ("file stem without CryoSPARC's uid prefix", _equal(without_uid)),
)


def match_names(
    picks: Sequence[str],
    micrographs: Sequence[str],
    *,
    picks_source: str,
    micrographs_source: str,
    strip: Strip = NO_STRIP,
    whose: str = "picks",
) -> tuple[NDArray[np.intp], str]:
    """Find for each name in `picks` its index in `micrographs`; -1 where there is none.

    Tries exact names, then folders and stem, then basenames, then stems, then stems without CryoSPARC's uid prefix,
    never substrings. Each step looks at the names that the steps before it left, and must be unique for every one of
    them on both sides. A name in another folder than the micrograph that a stricter step has given away has none.
    `whose` names are compared, for messages.

    Returns
    -------
    tuple
        The indices, shape (len(picks),), and the words for the steps that were used.

    Raises
    ------
    InputError
        If nothing matches (naming what was seen on both sides and the nearest name), if a step that matches is
        ambiguous (naming both candidates), or if `strip` makes two names the same.
    """
    found, words = _find(picks, micrographs, picks_source, micrographs_source, strip)
    if len(picks) and not (found >= 0).any():
        raise InputError(_no_match(picks, micrographs, picks_source, micrographs_source, strip, whose))
    return found, words


def _find(
    picks: Sequence[str], micrographs: Sequence[str], picks_source: str, micrographs_source: str, strip: Strip
) -> tuple[NDArray[np.intp], str]:
    ours, theirs = list(picks), list(micrographs)
    if strip:
        ours = _stripped(picks, strip, picks_source)
        theirs = _stripped(micrographs, strip, micrographs_source)
    found = np.full(len(picks), -1, dtype=np.intp)
    owner: dict[int, int] = {}  # micrograph: the pick's name that has it
    used: list[tuple[str, int]] = []
    for words, look_in in _STEPS:
        left = np.flatnonzero(found < 0).tolist()
        if not left:
            break
        candidates = look_in(theirs)
        new: dict[int, int] = {}
        for i in left:
            fits = candidates(ours[i])
            if not fits or (has_folders(ours[i]) and any(number in owner for number in fits)):
                continue
            if len(fits) > 1:
                one, two = (micrographs[number] for number in fits[:2])
                raise InputError(
                    f"{micrographs_source}: pick name {picks[i]!r} fits two micrographs by {words}: {one!r} "
                    f"and {two!r}; write the full names in {picks_source}"
                )
            number = fits[0]
            other = owner.get(number, new.setdefault(number, i))
            if picks[other] != picks[i]:
                raise InputError(
                    f"{picks_source}: names {picks[other]!r} and {picks[i]!r} both fit micrograph "
                    f"{micrographs[number]!r} by {words}; write the full names"
                )
            found[i] = number
        owner |= new
        if new:
            used.append((words, len(new)))
    if not used:
        return found, _STEPS[0][0]
    return found, ", ".join(words if k == 0 else f"{n} of {len(picks)} by {words}" for k, (words, n) in enumerate(used))


def _stripped(names: Sequence[str], strip: Strip, source: str) -> list[str]:
    """The names without what is not compared.

    Raises
    ------
    InputError
        If two become the same.
    """
    short = [strip(name) for name in names]
    first: dict[str, int] = {}
    for i, text in enumerate(short):
        key = text[: len(text) - len(basename(text))] + stem(text)
        other = first.setdefault(key, i)
        if short[i] != names[i] or short[other] != names[other]:
            if stem(names[other]) == stem(names[i]):
                continue  # they were the same before, and the steps tell them apart or say so
            raise InputError(
                f"{source}: {names[other]!r} and {names[i]!r} are both {text!r} without {_listed(strip)}; two names "
                f"never become one: leave one of them out (of a folder, a pattern in quotes chooses), or rename it"
            )
    return short


def _listed(strip: Strip) -> str:
    return " and ".join(f"the {what} {text!r}" for what, text in _parts(strip))


def _parts(strip: Strip) -> list[tuple[str, str]]:
    return [(what, text) for what, text in (("prefix", strip.prefix), ("suffix", strip.suffix)) if text]


def check_strip(picks: Sequence[str], micrographs: Sequence[str], strip: Strip) -> None:
    """Refuse a prefix or suffix that no name has.

    Raises
    ------
    InputError
    """
    for what, text in _parts(strip):
        alone = Strip(**{what: text})
        if not any(alone(name) != name for name in (*micrographs, *picks)):
            samples = " and ".join(
                f"{whose} are called {names[0][:300]!r}"
                for whose, names in (("micrographs", micrographs), ("the picks' micrographs", picks))
                if names
            )
            raise InputError(
                f"--strip-{what} {text}: no name {'begins' if what == 'prefix' else 'ends'} so; for example {samples}; "
                f"correct the option or leave it out"
            )


def match_uids(picks: NDArray[np.uint64], micrographs: NDArray[np.uint64]) -> NDArray[np.intp]:
    """Index into `micrographs` of each uid in `picks`; -1 where it is 0 or not there."""
    if len(micrographs) == 0:
        return np.full(len(picks), -1, dtype=np.intp)
    order = np.argsort(micrographs, kind="stable")
    place = np.minimum(np.searchsorted(micrographs, picks, sorter=order), len(micrographs) - 1)
    found = order[place]
    return np.where((micrographs[found] == picks) & (picks != 0), found, -1)


def _no_match(
    picks: Sequence[str],
    micrographs: Sequence[str],
    picks_source: str,
    micrographs_source: str,
    strip: Strip,
    whose: str,
) -> str:
    if not micrographs:
        return f"{micrographs_source}: holds no micrographs"
    sample = picks[0][:300]
    near = get_close_matches(stem(sample), [stem(name) for name in micrographs[:_MOST_COMPARED]], n=1, cutoff=0.5)
    nearest = f"; nearest: {near[0]!r}" if near else ""
    return (
        f"{picks_source}: none of its {len(picks)} micrograph names matches one of the {len(micrographs)} in "
        f"{micrographs_source}; {whose} say for example {sample!r}, micrographs {micrographs[0]!r}{nearest}"
        f"{'' if strip else _remedy(picks, micrographs)}"
    )


def _remedy(picks: Sequence[str], micrographs: Sequence[str]) -> str:
    """The text that one side has more, where the other option would find micrographs with it taken off."""
    ours, theirs = ({without_uid(name) for name in names[:_MOST_COMPARED]} for names in (picks, micrographs))
    suffixes = Counter(text for pair in ((ours, theirs), (theirs, ours)) for text in _more(*pair, at_end=True))
    prefixes = Counter(text for pair in ((ours, theirs), (theirs, ours)) for text in _more(*pair, at_end=False))
    for what, text in _most_common({"suffix": suffixes, "prefix": prefixes}):
        try:
            found, _ = _find(picks, micrographs, "", "", Strip(**{what: text}))
        except InputError:
            continue
        if count := int((found >= 0).sum()):
            value = shlex.quote(text)
            option = f"--strip-{what}{'=' if text.startswith('-') else ' '}{value}"
            return f"; without {text!r} {count} of {len(picks)} would match: give {option}"
    return ""


def _most_common(found: Mapping[str, Counter[str]]) -> list[tuple[str, str]]:
    every = [(count, what, text) for what, counter in found.items() for text, count in counter.most_common(3)]
    return [(what, text) for _, what, text in sorted(every, key=lambda item: (-item[0], len(item[2]), item[2]))]


def _more(short: set[str], long: set[str], *, at_end: bool) -> Iterable[str]:
    """What stands behind (or before) a text of `short` in one of `long`; `mic_10` is not `mic_1` with a 0."""
    for text in long:
        for i in range(1, len(text)):
            if at_end and not text[i].isalnum() and text[:i] in short:
                yield text[i:]
            elif not at_end and not text[i - 1].isalnum() and text[i:] in short:
                yield text[:i]


def match_micrographs(
    particles: Particles, micrographs: Micrographs, strip: Strip = NO_STRIP
) -> tuple[NDArray[np.intp], str]:
    """Find for each of `particles.micrograph_names` its row in `micrographs`; -1: none.

    By uid, and those whose uid is not there by name, each micrograph for itself; `strip` is left out of names.

    Raises
    ------
    InputError
        Where nothing matches, or a name is ambiguous.
    """
    found, step = np.full(len(particles.micrograph_names), -1, dtype=np.intp), ""
    if particles.micrograph_uids is not None and micrographs.uids is not None:
        found = match_uids(particles.micrograph_uids, micrographs.uids)
        step = "uid" if (found >= 0).any() else ""
    left = np.flatnonzero(found < 0)
    if step and not len(left):
        return found, step
    try:
        by_name, words = match_names(
            [particles.micrograph_names[i] for i in left.tolist()],
            micrographs.names,
            picks_source=particles.source,
            micrographs_source=micrographs.source,
            strip=strip,
        )
    except InputError:
        if step and not _some_name_fits(particles, left, micrographs, strip):
            return found, step  # the others are of micrographs that the table does not have
        raise
    found[left] = by_name
    if step and (by_name >= 0).any():
        words = f"{step}, {int((by_name >= 0).sum())} of {len(found)} by {words}"
    return found, words if not step or (by_name >= 0).any() else step


def _some_name_fits(particles: Particles, rows: NDArray[np.intp], micrographs: Micrographs, strip: Strip) -> bool:
    """Whether names are not just absent from the micrographs' table, but fit there without being unique."""
    stems = {stem(strip(name)) for name in micrographs.names}
    return any(stem(strip(particles.micrograph_names[i])) in stems for i in rows.tolist())


def micrographs_with_picks(particles: Particles, match: NDArray[np.intp], limit: int | None) -> NDArray[np.intp]:
    """Rows of the micrographs' table that have picks, ascending, at most `limit` of them."""
    used = np.unique(match[particles.micrograph]) if len(particles) else np.empty(0, dtype=np.intp)
    return used[used >= 0][:limit]
