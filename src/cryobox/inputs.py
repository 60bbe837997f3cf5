"""What a run starts from: the paths a user gave, the tables behind them, and the plan made of these."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryobox import formats
from cryobox.decided import decide
from cryobox.errors import InputError, MicrographError, OptionError, OutputError
from cryobox.folder.layout import RECORD
from cryobox.folder.run import Run
from cryobox.formats.ctf import check_has_defocus
from cryobox.formats.files_read import noting
from cryobox.formats.images import read_header
from cryobox.formats.masks import find_masks
from cryobox.given import Given
from cryobox.grounds import settle
from cryobox.matching import check_strip, match_micrographs, micrographs_with_picks
from cryobox.micrograph import ImageHeader, Micrographs
from cryobox.options import Recipe
from cryobox.particles import Particles
from cryobox.picks.subparticles import subparticles_of, with_origins
from cryobox.plan import Plan, build_plan
from cryobox.slips import check_some_file_is_there, other_root, picks_without_micrograph

__all__ = ["TABLES", "Inputs", "Recorded", "again", "prepare", "read_coarsest_pixel_size", "read_pixel_size"]

TABLES = ("picks", "micrographs", "masks")  # what was read for which, in `Inputs.files`
HEADER_THREADS = 16  # reading headers waits for the file system, not for the processor


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """The tables that were read, and the plan made of them.

    Parameters
    ----------
    given : Given
    particles : Particles
    micrographs : Micrographs
    plan : Plan
    files : dict
        Every file that was read, by its path from the directory on: for "picks", "micrographs" and, where masks are
        asked for, "masks" the digest of the content (tables, members of a `.csg`, coordinate files, masks), for
        "images" the bytes and the time of change (ns) of each micrograph with picks.
    said : tuple of str
        Warnings of the caller and of what was looked at, the first of the plan's.
    fit : str
        Whether the picks fit the micrographs, in words; "" where nobody looked.
    """

    given: Given
    particles: Particles
    micrographs: Micrographs
    plan: Plan
    files: dict[str, dict[str, str]]
    said: tuple[str, ...] = ()
    fit: str = ""

    def with_warnings(self, texts: Sequence[str]) -> Inputs:
        """The same with more warnings of what was looked at, which are told after the caller's."""
        plan, said = self.plan, (*self.said, *map(self.given.start.told, texts))
        return replace(self, plan=replace(plan, warnings=(*said, *plan.warnings[len(self.said) :])), said=said)

    @property
    def content(self) -> str:
        """A hash of the content of all tables, wherever they lie now; the plan tells of the micrographs."""
        found = hashlib.blake2b(digest_size=16)
        for what in TABLES:
            for path, digest in self.files.get(what, {}).items():
                name = os.path.basename(path)
                found.update(f"{what}\0{name}\0{digest}\0".encode("utf-8", "surrogateescape"))
        return found.hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """What `job.json` says that a run had read, to be found again.

    Parameters
    ----------
    source : str
        The `job.json`, for messages.
    files : mapping
        As in `Inputs`.
    picks, micrographs, masks : bool
        Whether these are the recorded ones; the others were given anew.
    remedy : str
        What a user is told to do about a file that differs.
    """

    source: str
    files: Mapping[str, Mapping[str, str]]
    picks: bool
    micrographs: bool
    masks: bool = True
    remedy: str = (
        "--from repeats a run on its own files: bring that file back, or name the picks and micrographs that are meant "
        "now"
    )

    def check(self, files: Mapping[str, Mapping[str, str]], images: Sequence[str]) -> None:
        """Refuse files that are not those of the recorded run. `images` are the micrographs that are used now.

        A run with other options may use fewer or more micrographs; those that both use must be the same.

        Raises
        ------
        InputError
        """
        for what, wanted in (("picks", self.picks), ("micrographs", self.micrographs)):
            if not wanted:
                continue
            old, new = self.files.get(what, {}), files[what]
            for path in sorted(old.keys() | new.keys()):
                if path not in new:
                    raise self._differs(path, "was read by that run, and is not found now")
                if path not in old:
                    raise self._differs(path, "was not there for that run, or was not read by it")
                if old[path] != new[path]:
                    raise self._differs(path, "has another content than that run read")
        for path in images if self.micrographs else ():
            was, now = self.files.get("images", {}).get(path), files["images"].get(path)
            if was is not None and was != now:
                found = "cannot be read any more" if now is None else f"has {_size_and_time(now)}"
                raise self._differs(path, f"{found}, expected {_size_and_time(was)}")

    def check_masks(self, masks: Mapping[str, str], there: Callable[[str], bool]) -> None:
        """The same of masks, which are read once it is known which picks there are. `there`: whether a file exists.

        Raises
        ------
        InputError
        """
        for path, digest in self.files.get("masks", {}).items() if self.masks else ():
            if path not in masks and not there(path):
                raise self._differs(path, "was read by that run, and is not found now")
            if masks.get(path, digest) != digest:
                raise self._differs(path, "has another content than that run read")

    def _differs(self, path: str, why: str) -> InputError:
        return InputError(f"{path}: {why} ({self.source}); {self.remedy}")


def _size_and_time(text: str) -> str:
    size, _, time_ns = text.partition(" ")
    return f"{size} bytes of {time_ns} ns since 1970"


def prepare(
    given: Given,
    *,
    recipe: Recipe,
    ready: Callable[[str], bool] | None = None,
    look: Callable[[str], ImageHeader] = read_header,
    recorded: Recorded | None = None,
    warnings: Sequence[str] = (),
    files_there: bool = True,
) -> Inputs:
    """Read the tables and the headers of the micrographs, and decide everything. Writes nothing.

    Parameters
    ----------
    given : Given
    recipe : Recipe
    ready : callable, optional
        Which coordinate files of a folder may be read now; the others are as if they were not there yet.
    look : callable
        Reads the header of a micrograph.
    recorded : Recorded, optional
        What an earlier run read, where its files are meant.
    warnings : sequence of str
        What is told before the plan's own warnings.
    files_there : bool
        Refuse micrographs none of which is there.

    Raises
    ------
    OptionError, InputError
    """
    with given.start.telling():
        return _prepare(given, recipe, ready, look, recorded, warnings, files_there)


def _prepare(
    given: Given,
    recipe: Recipe,
    ready: Callable[[str], bool] | None,
    look: Callable[[str], ImageHeader],
    recorded: Recorded | None,
    warnings: Sequence[str],
    files_there: bool,
) -> Inputs:
    from cryobox.formats.joining import join_particles  # 26 ms of `from cryobox import run`

    paths, start = given.picks_paths, given.start
    table = None
    with noting() as of_micrographs:
        if given.micrographs:
            table = formats.read_micrographs(given.micrographs, start=start)
    with noting() as of_picks:
        read = formats.read_several(paths, micrographs=table, recipe=recipe, start=start, ready=ready)
    if table is None:
        table = formats.micrographs_of(read, start=start)
    parts = [part for part in read if len(part)] or read[:1]  # what an empty table lacks, no row lacks
    particles = join_particles(parts)
    if len(particles) == 0:
        blank = all(os.path.isfile(path) and not Path(path).read_bytes().strip() for path in paths)
        raise InputError(f"{particles.source}: holds no picks" + (": the file is empty" if blank else ""))
    _check_options_apply(particles, table, recipe)
    picked = particles
    particles, made = _subparticles(particles, table, recipe)
    match, step = _match(parts, table, recipe)
    rows = micrographs_with_picks(particles, match, recipe.limit)
    with ThreadPoolExecutor(HEADER_THREADS) as pool:
        found = pool.map(lambda row: _header(table.paths[row], look), rows.tolist())
        headers = dict(zip(rows.tolist(), found, strict=True))
    images = {
        table.paths[row]: f"{header.file_size} {header.mtime_ns}"
        for row, header in headers.items()
        if isinstance(header, ImageHeader)
    }
    read_files = {"picks": of_picks, "micrographs": of_micrographs, "images": images}
    files = {what: {start.name(path): how for path, how in of.items()} for what, of in read_files.items()}
    if recorded is not None:
        recorded.check(files, [start.name(table.paths[row]) for row in headers])
    if files_there:
        check_some_file_is_there(table, headers, start)
    if recipe.helix is not None:
        particles, made = _segments(particles, table, recipe, match, headers)
    with noting() as of_masks:
        masks = None
        if recipe.junk_masks is not None:
            strip = formats.strip_of(recipe)
            masks = find_masks(recipe.junk_masks, table, start=start, strip=strip, ready=ready)
        plan = build_plan(
            particles, table, recipe, match=match, headers=headers, masks=masks,
            picked=None if picked is particles else picked,
        )  # fmt: skip
    if masks is not None:
        files["masks"] = {start.name(path): how for path, how in sorted(of_masks.items())}
        if recorded is not None:
            recorded.check_masks(files["masks"], there=lambda path: os.path.exists(start.whole(path)))
    checks = _check_tables(particles, table, plan)
    if plan.noise is not None:
        of_noise = _check_tables(plan.noise.particles, table, plan.noise.plan)
        checks += _news(of_noise, plan.noise.particles.source, checks, particles.source)
    empty = tuple(f"{part.source}: holds no picks" for part in read if len(parts) < len(read) and not len(part))
    notes = tuple(map(start.told, (f"micrographs are matched to picks by {step}", *made, *plan.notes)))
    missed = picks_without_micrograph(particles, table, plan.micrograph, match) if ready is None else ()
    slips = (*missed, *other_root(table, rows, plan, start))
    told = tuple(map(start.told, (*warnings, *empty, *plan.warnings, *checks, *slips)))
    incomplete = {row: start.told(why) for row, why in plan.grounds.incomplete.items()}
    plan = replace(plan, grounds=replace(plan.grounds, incomplete=incomplete), warnings=told, notes=notes)
    return Inputs(
        given=given, particles=particles, micrographs=table, plan=plan, files=files, said=told[: len(warnings)]
    )


def _subparticles(particles: Particles, table: Micrographs, recipe: Recipe) -> tuple[Particles, tuple[str, ...]]:
    """The picks, or the sub-particles that are to be made of them; and what is worth telling."""
    if recipe.subparticles is not None or recipe.recenter_3d is not None:
        particles = with_origins(particles)
    if recipe.subparticles is None:
        return particles, ()
    leading = decide(recipe, particles, table).leading
    if recipe.adjust_defocus:
        check_has_defocus(particles, table)
    sign = recipe.defocus_sign if recipe.adjust_defocus else 0
    return subparticles_of(particles, leading, recipe, recipe.ref_angpix, sign)


def _segments(
    particles: Particles,
    table: Micrographs,
    recipe: Recipe,
    match: NDArray[np.intp],
    headers: Mapping[int, ImageHeader | MicrographError],
) -> tuple[Particles, tuple[str, ...]]:
    """The segments of helices that the picks say, where their micrographs can be used; and what is worth telling."""
    from cryobox.picks.helices import Field, segmented

    grounds = settle(particles, table, recipe, match=match, headers=headers)
    usable = np.isin(match, [row for row in grounds.headers if row not in grounds.incomplete])
    pixel_size = np.where(usable, grounds.pixel_size[match], np.nan)
    found = segmented(particles, recipe, Field(micrograph=match, scale=grounds.scale, pixel_size=pixel_size))
    what = "segments of helices" if recipe.helix == "segments" else "ends of helices"
    return found, (f"{len(particles)} {what} are {len(found)} picks",)


def _check_tables(particles: Particles, table: Micrographs, plan: Plan) -> tuple[str, ...]:
    """Refuse tables that could not be written, and tell what is worth it."""
    return formats.check_tables(
        particles,
        table,
        plan.recipe,
        native=plan.decided.native,
        families=plan.decided.families,
        rows=particles.rows_of(plan.work.rows),
        micrograph=plan.micrograph[plan.work.rows],
        pixel_size=plan.grounds.pixel_size,
    )


def _news(of_noise: Sequence[str], noise: str, told: Sequence[str], picks: str) -> tuple[str, ...]:
    """Warnings of the tables of noise that do not say the same as one of the picks', of however many rows."""
    known = {re.sub(r"[\d,]+", "", text) for text in told}
    news = (text for text in of_noise if re.sub(r"[\d,]+", "", text.replace(noise, picks)) not in known)
    return tuple(f"boxes of noise: {text}" for text in news)


def _match(parts: Sequence[Particles], table: Micrographs, recipe: Recipe) -> tuple[NDArray[np.intp], str]:
    """The row in the micrographs' table of each micrograph of each table of picks, and how it was found."""
    strip = formats.strip_of(recipe)
    check_strip([name for part in parts for name in part.micrograph_names], table.names, strip)
    found = [match_micrographs(part, table, strip) for part in parts if part.micrograph_names]
    steps = dict.fromkeys(step for _, step in found)
    return np.concatenate([np.empty(0, np.intp), *(match for match, _ in found)]), "; ".join(steps)


def _check_options_apply(particles: Particles, table: Micrographs, recipe: Recipe) -> None:
    """Refuse options about reading that this input gives nothing to do.

    Raises
    ------
    InputError, OptionError
    """
    if not recipe.tiff_flip and not any(path.lower().endswith((".tif", ".tiff")) for path in table.paths):
        raise InputError(f"{table.source}: holds no TIFF files, so --tiff-no-flip cannot apply; leave it out")
    asked = f"--coord-scale {recipe.coordinate_scale:g}" if recipe.coordinate_scale != 1.0 else ""
    if recipe.coordinate_pixel_size is not None:
        asked = f"--angpix-coords {recipe.coordinate_pixel_size:g}"
    if asked and particles.from_fractions:
        raise OptionError(
            f"{particles.source}: positions are parts of the micrograph's sides and fit any binning, so {asked} cannot "
            f"apply; leave it out"
        )


def again(run: Run, *, same: bool = False, warnings: Sequence[str] = ()) -> Inputs:
    """Make the plan of a recorded run again, from what it was given; with `same` only if every file is as it was.

    Raises
    ------
    InputError
        If its inputs, or the directory in which it was run, are not there any more.
    OutputError
        The same of shards that are to be merged.
    """
    given = run.given
    if not os.path.isdir(given.directory) and run.parts and run.parts[-1].shard is not None:
        raise OutputError(
            f"{run.folder}: its shards were run in {given.directory}, which is not there any more; bring it back, or "
            f"run all shards again with --overwrite, then merge"
        )
    if not os.path.isdir(given.directory):
        raise InputError(
            f"{run.folder}: was run in {given.directory}, which is not there any more; bring it back, or run it again "
            f"with --overwrite"
        )
    recorded = None
    if same:
        files, source = run.job.get("files") or {}, str(run.folder / RECORD)
        recorded = Recorded(source=source, files=files, picks=True, micrographs=True, remedy="bring that file back")
    return prepare(given, recipe=run.recipe, recorded=recorded, warnings=warnings, files_there=False)


def read_pixel_size(given: Given) -> float:
    """Å per pixel of the first micrograph that says it, by its table or else its header; nan where none does."""
    with given.start.telling():
        table = _micrographs(given)
    for size, path in zip(table.pixel_size.tolist(), table.paths, strict=True):
        if size > 0:
            return float(size)
        header = _header(path)
        if isinstance(header, ImageHeader):
            return header.pixel_size
    return float("nan")


def read_coarsest_pixel_size(given: Given, recipe: Recipe) -> float:
    """Å per pixel of the coarsest of the micrographs that have picks; `recipe` says how they are read."""
    grounds = prepare(given, recipe=recipe).plan.grounds
    if not grounds.headers:
        raise InputError(
            f"{given.micrographs or given.paths[0]}: no micrograph with picks can be read, so a box in Å has no pixels"
        )
    return float(grounds.pixel_size[list(grounds.headers)].max())


def _micrographs(given: Given) -> Micrographs:
    if given.micrographs:
        return formats.read_micrographs(given.micrographs, start=given.start)
    read = formats.read_several(given.picks_paths, recipe=Recipe(box=2, normalize=False), start=given.start)
    return formats.micrographs_of(read, start=given.start)


def _header(path: str, look: Callable[[str], ImageHeader] = read_header) -> ImageHeader | MicrographError:
    try:
        return look(path)
    except MicrographError as error:
        return error
