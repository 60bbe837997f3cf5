"""Picks of helices: ends of tubes become segments, and segments get what their tables do not say of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cryobox import tubes
from cryobox.errors import InputError, OptionError
from cryobox.formats.segments import Said, check_are_ends, said_of_segments, tubes_said
from cryobox.formats.star_text import listed
from cryobox.groups import Helix
from cryobox.particles import Particles
from cryobox.tubes import Segments

__all__ = ["Field", "angles_of", "crowded", "segmented"]

TILT_PRIOR = 90.0
DIGITS = 6  # of a coordinate in a STAR file: what is cut is what such a file says
FARTHEST = 1e7  # pixels, beyond any micrograph
POSE_DISAGREES = 10.0  # degrees between filament_pose and the direction of neighbors, modulo 180

Floats = NDArray[np.float64]
Integers = NDArray[np.intp]


class Asked(Protocol):
    """What a recipe says of helices."""

    @property
    def helix(self) -> Helix | None: ...
    @property
    def helical_bimodal(self) -> bool | None: ...
    @property
    def segment_step_angstrom(self) -> float | None: ...
    @property
    def flip_x(self) -> bool: ...
    @property
    def flip_y(self) -> bool: ...
    @property
    def drop_alignments(self) -> bool: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """The micrographs on which picks lie: one entry for each of `Particles.micrograph_names`.

    Parameters
    ----------
    micrograph : ndarray, intp
        Row of the micrographs' table; -1: none.
    scale : ndarray, shape (names, 2), float64
        Pixels of the file per pixel of the picks' grid, (y, x).
    pixel_size : ndarray, float64
        Å per pixel of the file; nan where it cannot be used.
    """

    micrograph: Integers
    scale: Floats
    pixel_size: Floats


def segmented(particles: Particles, asked: Asked, field: Field) -> Particles:
    """Segments of helices: cut from ends of tubes, one in the middle of each, or those that the picks are.

    All have a tube, numbered from 1 in each micrograph, a direction and a distance along the tube (`tube`, `psi`,
    `track`), and what tables have to say anew (`columns`). Ends on micrographs that cannot be used stay as they are.

    Raises
    ------
    InputError, OptionError
        If the picks are not what is asked for.
    """
    if asked.helix == "segments":
        return _of_segments(particles, asked, field)
    check_are_ends(particles)
    return _of_ends(particles, asked, field)


# Ends ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tubes:
    """Ends, tube by tube: `rows` are picks, `of` numbers the tubes from 0, `number` is what each tube is called."""

    rows: Integers
    of: Integers
    first: Integers  # place in `rows` of each tube's beginning
    number: NDArray[np.int64]
    unread: dict[int, str]


def _of_ends(particles: Particles, asked: Asked, field: Field) -> Particles:
    found = _tubes(particles)
    name = particles.micrograph[found.rows]
    position = np.stack([particles.y, particles.x], axis=1)[found.rows] * field.scale[name]
    with np.errstate(invalid="ignore"):
        near = (np.abs(position) < FARTHEST).all(axis=1)  # else nothing can be cut there, whatever its step
    whole = near & np.isfinite(field.pixel_size[name]) & (field.micrograph[name] >= 0)
    cut = np.ones(len(found.number), np.bool_)
    cut[found.of[~whole]] = False
    made, step = _cut(position, found, cut, field.pixel_size[name[found.first]], asked)
    begin = found.rows[found.first]
    left = found.rows[~cut[found.of]]
    taken = np.concatenate([begin[made.tube], left])
    order = np.argsort(particles.micrograph[taken], kind="stable")
    picks = particles.take(taken[order])
    place = made.center / field.scale[particles.micrograph[begin[made.tube]]]
    old = np.stack([particles.y, particles.x], axis=1)[left]
    center = np.concatenate([np.round(place, DIGITS), old])[order]
    blank = np.full(len(left), np.nan)
    of_tube, again = _numbered(particles.micrograph[begin], found.number, field)
    of_left = found.of[~cut[found.of]]
    alone = np.isin(of_left, found.of[~near])  # an end whose other one is nowhere is of no tube
    number = np.concatenate([of_tube[made.tube], np.where(alone, 0, of_tube[of_left])])
    psi = np.concatenate([_mirrored(made.psi, asked), blank])[order]
    track = np.concatenate([made.number * step, blank])[order]
    columns: dict[str, NDArray[Any]] = {"track_length_angstrom": track}
    columns |= _priors(psi, np.full(len(psi), np.nan), asked)
    if particles.family == "star" and (again or tubes_said(particles) is None):
        columns["tube_id"] = number[order]
    if particles.family == "plain":
        columns |= _lengths(made, begin, field.pixel_size[particles.micrograph], step, len(left), order)
    if not len(taken):
        raise InputError(
            f"{particles.source}: none of its {len(found.number)} helices is long enough for a segment; are the "
            f"distance of segments in Å, and the coordinates in pixels of these micrographs?"
        )
    lost = np.flatnonzero(cut & (np.bincount(made.tube, minlength=len(cut)) == 0))
    return replace(
        picks,
        y=center[:, 0].copy(),
        x=center[:, 1].copy(),
        tube=number[order],
        psi=np.nan_to_num(psi, nan=0.0),
        track=np.nan_to_num(track, nan=0.0),
        placed_anew=True,
        columns=columns,
        unread=particles.unread | found.unread,
        warnings=(*particles.warnings, *_said_of_ends(particles, found, lost, again)),
    )


def _cut(
    position: Floats, found: _Tubes, cut: NDArray[np.bool_], pixel_size: Floats, asked: Asked
) -> tuple[Segments, float]:
    """The segments of the tubes that can be cut, and their distance in Å."""
    kept = cut[found.of]
    code = (np.cumsum(cut) - 1)[found.of[kept]]
    which = np.flatnonzero(cut)
    if asked.helix == "whole":
        made, step = tubes.middles(position[kept], code, len(which)), 0.0
    else:
        step = asked.segment_step_angstrom or 0.0
        pixels = step / pixel_size[which]
        if tubes.too_many(position[kept], code, pixels):
            raise OptionError(
                f"segments every {step:g} Å would be more than {tubes.MOST_SEGMENTS}; is the distance in Å?"
            )
        made = tubes.cut_along(position[kept], code, pixels)
    length = np.zeros(len(cut))
    length[which] = made.length
    return replace(made, tube=which[made.tube], length=length), step


def _tubes(particles: Particles) -> _Tubes:
    """Which ends belong together.

    Raises
    ------
    InputError
        If no micrograph has ends in pairs.
    """
    said = tubes_said(particles)
    by_number = particles.family == "plain" and said is not None
    n, name = len(particles), particles.micrograph
    if by_number:
        assert said is not None
        order = np.lexsort((np.arange(n), said, name))
        label = said[order]
        new = np.ones(n, np.bool_)
        new[1:] = (label[1:] != label[:-1]) | (np.diff(name[order]) != 0)
    else:
        order = np.argsort(name, kind="stable")
        place = np.arange(n) - np.searchsorted(name[order], name[order])
        new = place % 2 == 0
        label = place // 2 + 1 if said is None else said[order]
    of = np.cumsum(new) - 1
    first = np.flatnonzero(new)
    size = np.diff(np.append(first, n))
    apart = label != label[first][of]  # the ends of a pair say two tubes
    bad = np.unique(name[order][(size[of] < 2) | apart])
    unread = {number: _odd(particles, number, int((name == number).sum())) for number in bad.tolist()}
    kept = ~np.isin(name[order], bad)
    if n and not kept.any():
        raise InputError(f"{next(iter(unread.values()))}; no micrograph is left")
    whole = kept[first]
    begin = np.flatnonzero(new[kept])
    number = _distinct(name[order][first][whole], label[first][whole].astype(np.int64))
    return _Tubes(rows=order[kept], of=np.cumsum(new[kept]) - 1, first=begin, number=number, unread=unread)


def _distinct(name: Integers, number: NDArray[np.int64]) -> NDArray[np.int64]:
    """Numbers of tubes; below 0, to be counted anew, on micrographs that have one twice."""
    order = np.lexsort((number, name))
    twice = (np.diff(name[order]) == 0) & (np.diff(number[order]) == 0)
    again = np.isin(name, name[order][1:][twice])
    return np.where(again, -1 - np.arange(len(number)), number)


def _odd(particles: Particles, name: int, count: int) -> str:
    of = particles.micrograph_names[name]
    told = f"{count} ends of helices" + (", an odd number" if count % 2 else " that are not in pairs of one helix")
    return f"{particles.source}: {of} has {told}; each helix needs its start and, behind it, its end"


def _said_of_ends(particles: Particles, found: _Tubes, lost: Integers, again: bool) -> list[str]:
    told = [f"{why}; it costs the micrograph" for why in found.unread.values()]
    if len(lost):
        rows = found.rows[found.first[lost]]
        some = listed([particles.micrograph_names[m] for m in dict.fromkeys(particles.micrograph[rows].tolist())], 3)
        told.append(f"{particles.source}: {len(lost)} helices are too short for a segment, and give none ({some})")
    if again:
        told.append(_renumbered(particles))
    return told


def _lengths(
    made: Segments, begin: Integers, pixel_size: Floats, step: float, left: int, order: Integers
) -> dict[str, NDArray[Any]]:
    """What CryoSPARC's tables say of filaments beside."""
    arc = (made.length * pixel_size[begin])[made.tube]
    blank = np.zeros(left)
    return {
        "arc_length_angstrom": np.concatenate([arc, blank])[order],
        "inter_box_distance_angstrom": np.concatenate([np.full(len(arc), step), blank])[order],
    }


# Segments ------------------------------------------------------------------------------------------------------------


def _of_segments(particles: Particles, asked: Asked, field: Field) -> Particles:
    said = said_of_segments(particles)
    name = particles.micrograph
    if particles.family == "cs":
        number, again = _ranked(name, said.tube, field), False
    elif particles.family == "plain":
        number, again = _numbered(name, said.tube.astype(np.int64), field, none=0)
    else:
        number, again = _numbered(name, said.tube.astype(np.int64), field)
    position = np.stack([particles.y, particles.x], axis=1) * field.scale[name]
    _, code = np.unique(number, return_inverse=True)
    most = int(code.max(initial=0)) + 1
    # Each pick of no tube is one of its own, so that it has no neighbors.
    code = np.where(number > 0, code, most + np.arange(len(number)))
    tube = np.unique(_rows(name, field) * (most + len(number)) + code, return_inverse=True)[1].astype(np.intp)
    track, made_track = _tracks(said, position, tube, field.pixel_size[name])
    order = np.arange(len(tube), dtype=np.float64) if made_track else track
    psi, lone = _directions(said, position, tube, order, number > 0, asked)
    own = None if particles.family == "plain" else said
    columns: dict[str, NDArray[Any]] = {}
    if again and particles.family == "star":
        columns["tube_id"] = number
    if made_track:
        columns["track_length_angstrom"] = track
    if particles.family != "cs":
        columns |= _priors(psi, np.full(len(psi), np.nan) if said.tilt is None else said.tilt, asked, own)
    return replace(
        particles,
        tube=number,
        psi=psi,
        track=track,
        columns={**particles.columns, **columns},
        warnings=(*particles.warnings, *_said_of(particles, said, psi, lone, number > 0, again, asked)),
    )


def _tracks(said: Said, position: Floats, tube: Integers, pixel_size: Floats) -> tuple[Floats, bool]:
    """Å along each tube, and whether they were found here, from the first segment on."""
    if said.track is None:
        along = tubes.distances_along(position, tube) * pixel_size
        return np.nan_to_num(along, nan=0.0), True
    return np.nan_to_num(said.track, nan=0.0), False


def _directions(
    said: Said, position: Floats, tube: Integers, order: Floats, of_tube: NDArray[np.bool_], asked: Asked
) -> tuple[Floats, int]:
    """The prior of each segment: the table's, else the direction of its neighbors; and how many have neither."""
    psi = np.full(len(tube), np.nan) if said.psi is None else said.psi
    if not np.isfinite(psi).all():
        psi = np.where(np.isfinite(psi), psi, tubes.directions(position, tube, order))
    psi = _mirrored(psi, asked)  # a table with priors is refused where picks are mirrored
    return np.nan_to_num(psi, nan=0.0), int((np.isnan(psi) & of_tube).sum())


def _said_of(
    particles: Particles,
    said: Said,
    psi: Floats,
    lone: int,
    of_tube: NDArray[np.bool_],
    again: bool,
    asked: Asked,
) -> list[str]:
    told = []
    if lone:
        told.append(
            f"{particles.source}: {lone} segments have no neighbor in their helix, and no prior: their psi is 0"
        )
    if again:
        told.append(_renumbered(particles))
    if said.pose is not None and not (asked.flip_x or asked.flip_y):
        apart = np.abs((said.pose + psi + 90) % 180 - 90)
        if (worse := int((apart[of_tube] > POSE_DISAGREES).sum())) > int(of_tube.sum()) // 2:
            told.append(
                f"{particles.source}: filament/filament_pose differs by more than {POSE_DISAGREES:g} degrees from the "
                f"direction of neighboring segments for {worse} of {len(psi)}, modulo half a turn; that direction "
                f"is used"
            )
    return told


# Both ----------------------------------------------------------------------------------------------------------------


def _priors(psi: Floats, tilt: Floats, asked: Asked, said: Said | None = None) -> dict[str, NDArray[Any]]:
    """What tables say of each segment's orientation; nothing where the table's own columns stay."""
    made: dict[str, NDArray[Any]] = {}
    every = asked.drop_alignments or said is None
    if every or said is None or said.tilt is None or np.isnan(tilt).any():
        filled = np.where(np.isnan(tilt), TILT_PRIOR, tilt)
        made["tilt_prior_degrees"] = np.where(np.isnan(psi), np.nan, filled)
    if every or said is None or said.psi is None or np.isnan(said.psi).any():
        made["psi_prior_degrees"] = psi
    if every or said is None or not said.has_flip_ratio or asked.helical_bimodal is not None:
        ratio = 0.0 if asked.helical_bimodal is False else 0.5
        made["psi_flip_ratio"] = np.where(np.isnan(psi), np.nan, ratio)
    return made


def _mirrored(psi: Floats, asked: Asked) -> Floats:
    """Directions on the stored file of picks that were made on a mirrored copy of it."""
    if asked.flip_x == asked.flip_y:
        return psi if not asked.flip_x else _turned(psi + 180.0)
    return _turned(180.0 - psi) if asked.flip_x else -psi + 0.0


def _turned(psi: Floats) -> Floats:
    """The same angles from -180 to 180."""
    found: Floats = (psi + 180.0) % 360.0 - 180.0
    return found


def _numbered(
    name: Integers, number: NDArray[np.int64], field: Field, none: int | None = None
) -> tuple[NDArray[np.int64], bool]:
    """Numbers of tubes from 1, apart in each micrograph, and whether any is new.

    Numbers stay where all are above 0 and one table or file has them; else the micrograph's are counted anew, in the
    order of their first picks. `none` stands for no tube and stays 0.
    """
    if not len(name):
        return number, False
    _, value = np.unique(number, return_inverse=True)
    _, first, inverse = np.unique(
        name.astype(np.int64) * (int(value.max()) + 1) + value.reshape(-1), return_index=True, return_inverse=True
    )
    inverse = inverse.reshape(-1)
    of_name, called = name[first], number[first]
    is_tube = np.ones(len(first), np.bool_) if none is None else called != none
    of_row = _rows(of_name, field)
    bad = np.unique(of_row[is_tube & (called < 1)])
    files = np.unique(of_name[is_tube])
    shared, times = np.unique(_rows(files, field), return_counts=True)
    anew = is_tube & np.isin(of_row, np.concatenate([bad, shared[times > 1]]))
    found = np.where(is_tube, called, 0)
    order = np.flatnonzero(anew)[np.lexsort((first[anew], of_row[anew]))]
    found[order] = np.arange(len(order)) - np.searchsorted(of_row[order], of_row[order]) + 1
    return found[inverse], bool((found != np.where(is_tube, called, 0)).any())


def _ranked(name: Integers, uid: NDArray[Any], field: Field) -> NDArray[np.int64]:
    """1, 2, ... for the filaments of each micrograph in the order of their uids; 0 for uid 0."""
    found = np.zeros(len(uid), np.int64)
    has = uid != 0
    _, code = np.unique(uid[has], return_inverse=True)
    row = _rows(name, field)[has]
    count = int(code.max(initial=0)) + 1
    pairs, place = np.unique(row * count + code, return_inverse=True)
    row = pairs // count
    found[has] = (np.arange(len(pairs)) - np.searchsorted(row, row) + 1)[place]
    return found


def _rows(name: Integers, field: Field) -> NDArray[np.int64]:
    """A number for the micrograph of each pick, whatever tables call it."""
    known = field.micrograph
    row = np.where(known >= 0, known, len(known) + known.max(initial=0) + np.arange(len(known)))
    found: NDArray[np.int64] = row[name].astype(np.int64)
    return found


def _renumbered(particles: Particles) -> str:
    return (
        f"{particles.source}: helices are numbered anew from 1 in some micrographs, where numbers were below 1, twice, "
        f"or of several files"
    )


def crowded(
    particles: Particles, center: NDArray[np.int64], micrograph: Integers, kept: Integers, pixel_size: Floats
) -> list[str]:
    """A warning of segments that recentering brought closer than half a step to their neighbors.

    Parameters
    ----------
    particles : Particles
        With tubes and distances along them.
    center : ndarray, shape (picks, 2)
        Of the boxes.
    micrograph, kept : ndarray
        Of each pick; and the picks that are cut.
    pixel_size : ndarray
        Of each micrograph.
    """
    if particles.tube is None or particles.track is None or len(kept) < 2:
        return []
    rows = kept[np.lexsort((particles.track[kept], particles.tube[kept], micrograph[kept]))]
    tube, track = particles.tube[rows], particles.track[rows]
    same = (tube[1:] == tube[:-1]) & (micrograph[rows][1:] == micrograph[rows][:-1])
    apart = np.hypot(*np.diff(center[rows], axis=0).T) * pixel_size[micrograph[rows][1:]]
    step = np.diff(track)
    if particles.copy_of is not None:  # copies of one segment lie in one place
        copy = particles.copy_of[rows]
        same &= (copy[1:] != copy[:-1]) | (copy[1:] < 0)
    close = same & (apart < step / 2)
    if not close.any():
        return []
    names = dict.fromkeys(particles.micrograph_names[m] for m in particles.micrograph[rows[1:][close]].tolist())
    told = (
        f"{particles.source}: after recentering {int(close.sum())} segments lie closer than half a step to their "
        f"neighbor ({listed(list(names), 3)}): the same asymmetric units twice; --helical-recenter across or none "
        f"leaves them apart"
    )
    return [told]


def angles_of(particles: Particles) -> Mapping[str, Floats]:
    """What the windows of segments need beside their places: the direction of the tube."""
    return {} if particles.psi is None or particles.track is None else {"angle": particles.psi}
