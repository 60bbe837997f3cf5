"""Decide everything before a pixel is read: windows, files, slots, and which pick is refused and why."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cryobox.boxes import is_fast, neighbors
from cryobox.centering import inside, mirror, overlaps, place, round_half_away, too_close, truncate
from cryobox.errors import InputError, MicrographError, OptionError
from cryobox.matching import NO_STRIP, Strip, match_names, match_uids, stem
from cryobox.micrograph import PIXEL_SIZE_ERROR, PIXEL_SIZE_WARNING, ImageHeader, Micrographs
from cryobox.options import Recipe, Style, check_background_radius
from cryobox.particles import Alignment, Particles, Reason
from cryobox.records import BITS

__all__ = ["REASONS", "Output", "Plan", "Task", "build_plan", "match_micrographs", "micrographs_with_picks"]

REASONS: tuple[Reason, ...] = tuple(Reason)
ACCEPTED = -1  # in `Plan.reason`; other values are indices into REASONS

ASPECT_TOLERANCE = 0.01  # two binnings of one field of view: sides in the same ratio within this
STACK_FOLDERS = ("stacks", "stacks_small")
TABLE_FOLDER = "shards"  # in the output folder: the tables of each shard
MAX_NAME_BYTES = 255
_NAME_OVERHEAD = 96  # bytes left for "_particles", the suffix and what a temporary name adds


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """One stack that a task writes: path relative to the output folder, side, and what depends on the micrograph."""

    path: str
    size: int
    pixel_size: float
    background_radius: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One micrograph to be cut: everything that a worker needs, as data.

    Parameters
    ----------
    id : str
        Hash of the micrograph's identity (path, size, change time), the windows, the recipe and the outputs.
    micrograph : str
        Name, as the table writes it.
    path : str
    header : ImageHeader
    corners : ndarray, shape (n, 2), int64
        First pixel (y, x) of each window.
    outputs : tuple of Output
        Largest first.
    recipe : Recipe
        With `invert` and `style` decided.
    """

    id: str
    micrograph: str
    path: str
    header: ImageHeader
    corners: NDArray[np.int64]
    outputs: tuple[Output, ...]
    recipe: Recipe

    @property
    def bytes_to_read(self) -> int:
        """Bytes of the micrograph's file."""
        return self.header.file_size

    def bytes_of(self, index: int) -> int:
        """Bytes of stack number `index` if no particle is refused for its pixels."""
        pixel = np.dtype(self.recipe.dtype).itemsize
        return 1024 + len(self.corners) * self.outputs[index].size ** 2 * pixel


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What will be done with every pick.

    Parameters
    ----------
    recipe : Recipe
        With `invert` and `style` decided.
    micrograph : ndarray, shape (picks,), intp
        Index into the micrographs' table; -1: none.
    center, alignments, moved
        As in `Extracted`, for all picks; rows without a place hold zeros.
    reason : ndarray, shape (picks,), int8
        -1: accepted, else an index into `REASONS`.
    rows : ndarray, intp
        The accepted picks, grouped by task, in the order of the input within each.
    window : ndarray, int64
        For each of `rows` the window of its task that holds it (copies of one particle may share one).
    first_row : ndarray, shape (tasks + 1,), intp
        `rows[first_row[t]:first_row[t + 1]]` belong to task t.
    task_micrograph : ndarray, shape (tasks,), intp
    tasks : tuple of Task
    shape : ndarray, shape (micrographs, 2), int64
        Of the files; 0 where a micrograph has no picks or could not be read.
    pixel_size : ndarray, shape (micrographs,), float64
    incomplete : dict of int to str
        Micrographs that cannot be used, with the reason.
    warnings, notes : tuple of str
        Notes are decisions worth telling only to those who ask (`-v`).
    """

    recipe: Recipe
    micrograph: NDArray[np.intp]
    center: NDArray[np.int64]
    alignments: tuple[Alignment, ...]
    moved: NDArray[np.bool_]
    reason: NDArray[np.int8]
    rows: NDArray[np.intp]
    window: NDArray[np.int64]
    first_row: NDArray[np.intp]
    task_micrograph: NDArray[np.intp]
    tasks: tuple[Task, ...]
    shape: NDArray[np.int64]
    pixel_size: NDArray[np.float64]
    incomplete: dict[int, str]
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def style(self) -> Style:
        """The style of the output."""
        assert self.recipe.style is not None
        return self.recipe.style

    def counts(self) -> dict[str, int]:
        """How many picks are rejected before a pixel is read, by reason."""
        numbers = np.bincount(self.reason[self.reason >= 0], minlength=len(REASONS))
        return {str(reason): int(n) for reason, n in zip(REASONS, numbers, strict=True) if n}


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


def build_plan(
    particles: Particles,
    micrographs: Micrographs,
    recipe: Recipe,
    *,
    match: NDArray[np.intp],
    headers: Mapping[int, ImageHeader | MicrographError],
) -> Plan:
    """Decide what becomes of every pick.

    Parameters
    ----------
    particles, micrographs, recipe
    match : ndarray
        From `match_micrographs`.
    headers : mapping of int to ImageHeader or MicrographError
        For every row of `micrographs` that `micrographs_with_picks` gives.

    Raises
    ------
    OptionError, InputError
        If the recipe cannot be honored on this input.
    """
    recipe = _decide_style(recipe, particles, micrographs)
    warnings = list(_recipe_warnings(recipe))
    incomplete = {row: str(found) for row, found in headers.items() if isinstance(found, MicrographError)}
    usable = {row: found for row, found in headers.items() if isinstance(found, ImageHeader)}
    shape = np.zeros((len(micrographs), 2), dtype=np.int64)
    for row, header in usable.items():
        shape[row] = header.shape
        warnings += header.warnings
    scale = _grid_scale(particles, match, shape, recipe)
    pixel_size = _pixel_sizes(particles, micrographs, match, usable, scale, recipe, warnings)
    incomplete |= _contradicting_shapes(particles, micrographs, match, shape, scale)
    full = recipe.limit is not None and len(headers) == recipe.limit
    for name, why in particles.unread.items():
        if match[name] >= 0 and not (full and match[name] > max(headers)):
            incomplete.setdefault(int(match[name]), why)

    micrograph = match[particles.micrograph] if len(particles) else np.empty(0, dtype=np.intp)
    reason = np.full(len(particles), ACCEPTED, dtype=np.int8)

    def reject(mask: NDArray[np.bool_], why: Reason) -> None:
        reason[mask & (reason == ACCEPTED)] = REASONS.index(why)

    leading = _leading_alignment(particles, recipe)
    reject(micrograph < 0, Reason.NO_MICROGRAPH)
    reject(~np.isin(micrograph, np.fromiter(headers, dtype=np.intp, count=len(headers))), Reason.LIMIT)
    reject(np.isin(micrograph, np.fromiter(incomplete, dtype=np.intp, count=len(incomplete))), Reason.MICROGRAPH)
    finite = np.isfinite(particles.y) & np.isfinite(particles.x)
    if leading is not None:
        with np.errstate(over="ignore", invalid="ignore"):
            finite &= np.isfinite(leading.shift * leading.pixel_size[:, None]).all(axis=1)
    reject(~finite, Reason.COORDINATE)
    if recipe.min_score is not None:
        if particles.score is None:
            raise OptionError(f"{particles.source}: has no scores, so --min-score cannot be used")
        reject(np.isnan(particles.score), Reason.NO_SCORE)
        reject(particles.score < recipe.min_score, Reason.SCORE)

    center = np.zeros((len(particles), 2), dtype=np.int64)
    move = np.zeros((len(particles), 2), dtype=np.float64)
    alive = reason == ACCEPTED
    base, shift = _bases(particles, recipe, alive, micrograph, shape, scale, pixel_size, leading)
    placed = place(base, shift)
    center[alive], move[alive] = placed.center, placed.move
    corner = center - recipe.box // 2
    if recipe.edges == "reject":
        reject(alive & ~inside(corner, recipe.box, shape[micrograph]), Reason.EDGE)
    else:
        reject(alive & ~overlaps(corner, recipe.box, shape[micrograph]), Reason.OUTSIDE)
    if recipe.min_separation_angstrom is not None:
        rows = np.flatnonzero(reason == ACCEPTED)
        position = (base if shift is None else base - shift)[np.searchsorted(np.flatnonzero(alive), rows)]
        with np.errstate(over="ignore"):  # farther than any number is far enough
            distance = recipe.min_separation_angstrom / pixel_size[micrograph[rows]]
        near = too_close(
            position,
            micrograph[rows],
            distance,
            None if particles.score is None else particles.score[rows],
            None if particles.copy_of is None else particles.copy_of[rows],
        )
        reason[rows[near]] = REASONS.index(Reason.SEPARATION)

    alignments = () if recipe.drop_alignments else particles.alignments
    if leading is not None:
        alignments = _moved_alignments(particles, move, pixel_size[micrograph])
    moved = _moved(particles, recipe, alive, scale, center, leading)
    rows, window, first_row, task_micrograph, corners = _group(reason, micrograph, corner, particles.copy_of)
    # Named among all that have picks, so that a larger limit leaves names as they are.
    named = np.union1d(task_micrograph, micrographs_with_picks(particles, match, None)).tolist()
    stacks = dict(zip(named, stack_names([micrographs.names[m] for m in named]), strict=True))
    fingerprint = recipe.fingerprint()
    tasks = tuple(
        _task(
            recipe, fingerprint, micrographs, int(m), usable[int(m)], float(pixel_size[m]), corners[t], stacks[int(m)]
        )
        for t, m in enumerate(task_micrograph)
    )
    notes = [f"{len(tasks)} micrographs have picks to cut; {len(micrographs) - len(headers)} have none or are left out"]
    if leading is not None:
        notes.append(f"boxes are recentered by the shifts of {leading.name}")
    return Plan(
        recipe=recipe,
        micrograph=micrograph,
        center=center,
        alignments=alignments,
        moved=moved,
        reason=reason,
        rows=rows,
        window=window,
        first_row=first_row,
        task_micrograph=task_micrograph,
        tasks=tasks,
        shape=shape,
        pixel_size=pixel_size,
        incomplete=incomplete,
        warnings=(*particles.warnings, *micrographs.warnings, *warnings),
        notes=tuple(notes),
    )


def stack_names(names: Sequence[str]) -> list[str]:
    """A file stem for the stack of each micrograph: safe to create, and no two alike even where case does not count.

    A name that several micrographs would share gets a hash of the micrograph's full name, for all of them: the names
    do not depend on which other micrographs are there later.
    """
    repeated: Counter[str] = Counter()
    full = []
    for name in names:  # the rows of a .cs table may differ in their uid only
        full.append(name if not repeated[name] else f"{name}\0{repeated[name]}")
        repeated[name] += 1
    found = [_safe_stem(name) for name in names]
    for digits in (10, 32):  # the second time for names that look as if they had got their hash already
        folded = Counter(text.casefold() for text in found)
        found = [
            f"{_safe_stem(name)}_{_hash(name.encode('utf-8', 'surrogateescape'))[:digits]}"
            if folded[text.casefold()] > 1
            else text
            for text, name in zip(found, full, strict=True)
        ]
    return found


def _safe_stem(name: str) -> str:
    # RELION reads `000001@path`, splits columns at blanks and numbers names in "...#"; none of these may be in a name.
    text = re.sub(r"[\s@#'\"\\/:*?<>|\x00-\x1f\x7f]", "_", stem(name)).lstrip(".") or "micrograph"
    encoded = text.encode("utf-8", "replace").replace(b"?", b"_")
    if len(encoded) > MAX_NAME_BYTES - _NAME_OVERHEAD:
        kept = encoded[: MAX_NAME_BYTES - _NAME_OVERHEAD - 11].decode("utf-8", "ignore")
        return f"{kept}_{_hash(name.encode('utf-8', 'surrogateescape'))[:10]}"
    return encoded.decode("utf-8")


def _hash(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _decide_style(recipe: Recipe, particles: Particles, micrographs: Micrographs) -> Recipe:
    family = particles.family if particles.family != "plain" else micrographs.family
    style: Style = recipe.style or ("cryosparc" if family == "cs" else "relion")
    if particles.family == "star" and style == "cryosparc":
        raise OptionError(
            f"{particles.source}: picks from a STAR file are written with --style relion; "
            f"for CryoSPARC tables run `cryobox convert` on the result"
        )
    if particles.family == "cs" and style == "relion":
        raise OptionError(
            f"{particles.source}: picks from a .cs file are written with --style cryosparc; "
            f"for RELION tables run `cryobox convert` on the result"
        )
    invert = recipe.invert if recipe.invert is not None else style == "relion"
    return replace(recipe, style=style, invert=invert)


def _recipe_warnings(recipe: Recipe) -> list[str]:
    found = []
    for what, size in (("box", recipe.box), *(("stored size", size) for size in recipe.sizes if size != recipe.box)):
        if not is_fast(size):
            near = " or ".join(map(str, neighbors(size)))
            found.append(f"{what} {size} is not a fast size for Fourier transforms; {near} would be")
    if recipe.dtype == "float16" and not recipe.normalize:
        found.append(
            "float16 without normalization keeps about 3 digits of raw gray levels (a mean of 6800 leaves steps of 4); "
            "normalize, or store float32"
        )
    return found


def _leading_alignment(particles: Particles, recipe: Recipe) -> Alignment | None:
    """The alignment that moves the boxes, None where nothing is to be recentered."""
    candidates = {kind: [a for a in particles.alignments if a.kind == kind] for kind in ("3d", "2d")}
    if (
        not recipe.recenter
        or recipe.drop_alignments
        or (recipe.recenter_from == "auto" and not any(candidates.values()))
    ):
        return None
    if recipe.recenter_from == "auto":
        chosen = candidates["3d"] or candidates["2d"]
    else:
        chosen = candidates[recipe.recenter_from]
        if not chosen:
            raise OptionError(f"{particles.source}: has no {recipe.recenter_from} alignment to recenter from")
    if recipe.flip_x or recipe.flip_y:
        if not chosen[0].shift.any():
            return None
        raise OptionError(
            f"{particles.source}: picks made on a mirrored copy cannot be recentered, since their shifts are those of "
            f"particles of the other hand; leave them out with --drop-alignments, or leave out --flip-x/--flip-y"
        )
    return chosen[0]


def _grid_scale(
    particles: Particles, match: NDArray[np.intp], shape: NDArray[np.int64], recipe: Recipe
) -> NDArray[np.float64]:
    """Pixels of the file per pixel of the pick's grid, (y, x), one row per pick micrograph; 1 where unknown."""
    scale = np.full((len(particles.micrograph_names), 2), recipe.coordinate_scale)
    if particles.grid_shape is None:
        return scale
    known = (match >= 0) & (particles.grid_shape > 0).all(axis=1)
    known &= (shape[match] > 0).all(axis=1)
    scale[known] *= shape[match[known]] / particles.grid_shape[known]
    return scale


def _contradicting_shapes(
    particles: Particles,
    micrographs: Micrographs,
    match: NDArray[np.intp],
    shape: NDArray[np.int64],
    scale: NDArray[np.float64],
) -> dict[int, str]:
    """Micrographs whose file has another aspect than a table says: not another binning of the same field."""
    found: dict[int, str] = {}
    for name, row in enumerate(match.tolist()):
        if row >= 0 and shape[row].all() and abs(scale[name, 0] / scale[name, 1] - 1) > ASPECT_TOLERANCE:
            assert particles.grid_shape is not None
            found[row] = _shape_message(
                micrographs.paths[row], shape[row], particles.grid_shape[name], particles.source
            )
    for row in np.flatnonzero(shape.all(axis=1) & micrographs.shape.all(axis=1)).tolist():
        ratio = shape[row] / micrographs.shape[row]
        if abs(ratio[0] / ratio[1] - 1) > ASPECT_TOLERANCE:
            found.setdefault(
                row, _shape_message(micrographs.paths[row], shape[row], micrographs.shape[row], micrographs.source)
            )
    return found


def _shape_message(path: str, shape: NDArray[np.int64], table: NDArray[np.int64], source: str) -> str:
    return (
        f"{path}: is {shape[0]} x {shape[1]} pixels (ny x nx), but {source} says {table[0]} x {table[1]}, "
        f"which is no binning of it; another file under the same name?"
    )


def _pixel_sizes(
    particles: Particles,
    micrographs: Micrographs,
    match: NDArray[np.intp],
    usable: Mapping[int, ImageHeader],
    scale: NDArray[np.float64],
    recipe: Recipe,
    warnings: list[str],
) -> NDArray[np.float64]:
    """Å per pixel of each file: micrographs' table, else the picks' location, else the header, else the recipe."""
    rows = np.fromiter(usable, dtype=np.intp, count=len(usable))
    header = np.full(len(micrographs), np.nan)
    header[rows] = [found.pixel_size for found in usable.values()]
    table = micrographs.pixel_size.copy()
    for row, found in usable.items():
        if micrographs.shape[row].all():  # the table may describe another binning of the same field
            table[row] *= micrographs.shape[row, 1] / found.shape[1]
    if particles.grid_pixel_size is not None:
        location = np.full(len(micrographs), np.nan)
        known = match >= 0
        location[match[known]] = (particles.grid_pixel_size / (scale[:, 1] / recipe.coordinate_scale))[known]
        table = np.where(np.isnan(table), location, table)
    with np.errstate(invalid="ignore"):
        ratio = np.maximum(header / table, table / header)
    for row in rows[np.nan_to_num(ratio[rows], nan=1.0) > PIXEL_SIZE_ERROR][:1].tolist():
        raise InputError(
            f"{micrographs.paths[row]}: its header says {header[row]:.4g} Å per pixel, {micrographs.source} says "
            f"{table[row]:.4g}; one of them is wrong (another binning?): correct the table or the header"
        )
    differing = rows[np.nan_to_num(ratio[rows], nan=1.0) > PIXEL_SIZE_WARNING]
    if len(differing):
        row = int(differing[0])
        warnings.append(
            f"{micrographs.paths[row]}: its header says {header[row]:.5g} Å per pixel, the table {table[row]:.5g}; "
            f"the table is used ({len(differing)} micrographs)"
        )
    known_sizes = np.where(np.isnan(table), header, table)
    if recipe.pixel_size is not None:
        given = recipe.pixel_size
        ratio = np.maximum(known_sizes / given, given / known_sizes)
        for row in rows[np.nan_to_num(ratio[rows], nan=1.0) > PIXEL_SIZE_WARNING][:1].tolist():
            raise OptionError(
                f"--pixel-size {given:g} contradicts {micrographs.paths[row]}, which has {known_sizes[row]:.5g} Å per "
                f"pixel by table or header; leave the option out, or correct the table"
            )
        known_sizes = np.where(np.isnan(known_sizes), given, known_sizes)
    for row in rows[~(known_sizes[rows] > 0)][:1].tolist():
        raise InputError(
            f"{micrographs.paths[row]}: neither {micrographs.source} nor its header says how many Å a pixel has; "
            f"give --pixel-size"
        )
    return known_sizes


def _bases(
    particles: Particles,
    recipe: Recipe,
    alive: NDArray[np.bool_],
    micrograph: NDArray[np.intp],
    shape: NDArray[np.int64],
    scale: NDArray[np.float64],
    pixel_size: NDArray[np.float64],
    leading: Alignment | None,
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """Truncated picks in pixels of the file, and their shifts likewise, for the rows in `alive`."""
    position = np.stack([particles.y[alive], particles.x[alive]], axis=1)
    factor = scale[particles.micrograph[alive]]
    extent = shape[micrograph[alive]] / factor
    for axis, flipped in ((0, recipe.flip_y), (1, recipe.flip_x)):
        if flipped:
            position[:, axis] = mirror(position[:, axis], extent[:, axis])
    if not particles.from_fractions:
        # A scale that the user gives says that the numbers themselves are at another binning; only the result is
        # a position to be read as a pixel.
        position, factor = position * recipe.coordinate_scale, factor / recipe.coordinate_scale
    if leading is None and recipe.rounding == "nearest":
        base = round_half_away(position)
    else:
        base = truncate(position, guard=particles.from_fractions)
    base = base * factor
    if leading is None:
        return base, None
    # First times, then over, as RELION does: 1.2 Å at 0.8 Å per pixel is then just below a pixel and a half for both.
    shift = leading.shift[alive] * leading.pixel_size[alive][:, None]
    return base, shift / pixel_size[micrograph[alive]][:, None]


def _moved_alignments(
    particles: Particles, move: NDArray[np.float64], pixel_size: NDArray[np.float64]
) -> tuple[Alignment, ...]:
    """Every alignment after the boxes moved, each in its own unit."""
    found = []
    for alignment in particles.alignments:
        with np.errstate(divide="ignore", invalid="ignore"):  # an alignment without a pixel size stays as it is
            step = move * (pixel_size / alignment.pixel_size)[:, None]
        step = np.where(np.isfinite(step), step, 0.0)
        shift = alignment.shift - (step if alignment.shift.ndim == 2 else step[:, None, :])
        found.append(replace(alignment, shift=shift))
    return tuple(found)


def _moved(
    particles: Particles,
    recipe: Recipe,
    alive: NDArray[np.bool_],
    scale: NDArray[np.float64],
    center: NDArray[np.int64],
    leading: Alignment | None,
) -> NDArray[np.bool_]:
    """Rows whose coordinates must be written anew, since a later reader would not find the box in the old ones."""
    if leading is not None:
        return alive.copy()
    if recipe.flip_x or recipe.flip_y or recipe.coordinate_scale != 1.0:
        return alive.copy()
    old = truncate(np.stack([particles.y, particles.x], axis=1), guard=particles.from_fractions)
    same_grid = (scale == 1.0).all(axis=1)[particles.micrograph] if len(particles) else alive
    with np.errstate(invalid="ignore"):
        stays = (old == center).all(axis=1) & same_grid
    found: NDArray[np.bool_] = alive & ~stays
    return found


def _group(
    reason: NDArray[np.int8],
    micrograph: NDArray[np.intp],
    corner: NDArray[np.int64],
    copy_of: NDArray[np.int64] | None,
) -> tuple[NDArray[np.intp], NDArray[np.int64], NDArray[np.intp], NDArray[np.intp], list[NDArray[np.int64]]]:
    """Accepted rows by micrograph, the window of each, and the windows' corners task by task."""
    accepted = np.flatnonzero(reason == ACCEPTED)
    rows = accepted[np.argsort(micrograph[accepted], kind="stable")]
    task_micrograph, first = np.unique(micrograph[rows], return_index=True)
    first_row = np.append(first, len(rows)).astype(np.intp)
    owner = rows.copy()  # the row whose window this row uses
    if copy_of is not None and (copy_of[rows] >= 0).any():
        key = np.column_stack([micrograph[rows], np.where(copy_of[rows] >= 0, copy_of[rows], -1 - rows), corner[rows]])
        _, leader, inverse = np.unique(key, axis=0, return_index=True, return_inverse=True)
        owner = rows[leader[inverse.ravel()]]
    is_first = owner == rows
    running = np.cumsum(is_first) - 1  # number of each window over all tasks
    number_of_row = np.empty(len(reason), dtype=np.int64)
    number_of_row[rows] = running
    windows_before = np.concatenate([[0], np.cumsum(is_first)])[first_row]
    task_of_row = np.repeat(np.arange(len(task_micrograph)), np.diff(first_row))
    window = number_of_row[owner] - windows_before[task_of_row]
    all_corners = corner[rows[is_first]]
    corners = [all_corners[windows_before[t] : windows_before[t + 1]] for t in range(len(task_micrograph))]
    return rows, window, first_row, task_micrograph, corners


def _task(
    recipe: Recipe,
    fingerprint: str,
    micrographs: Micrographs,
    row: int,
    header: ImageHeader,
    pixel_size: float,
    corners: NDArray[np.int64],
    name: str,
) -> Task:
    suffix = ".mrcs" if recipe.style == "relion" else ".mrc"
    outputs = []
    for folder, size in zip(STACK_FOLDERS, recipe.sizes, strict=False):
        radius = recipe.radius_in_pixels(size, pixel_size)
        if recipe.normalize:
            check_background_radius(radius, size)
        outputs.append(
            Output(
                path=f"{folder}/{name}_particles{suffix}",
                size=size,
                pixel_size=pixel_size * recipe.box / size,
                background_radius=radius,
            )
        )
    path = micrographs.paths[row]
    identity = json.dumps(
        [
            micrographs.names[row], path, header.file_size, header.mtime_ns, list(header.shape), header.dtype.str,
            fingerprint, [[o.path, o.size, o.pixel_size, o.background_radius] for o in outputs], BITS,
        ]
    )  # fmt: skip
    return Task(
        id=_hash(identity.encode() + corners.astype("<i8").tobytes()),
        micrograph=micrographs.names[row],
        path=path,
        header=header,
        corners=corners,
        outputs=tuple(outputs),
        recipe=recipe,
    )
