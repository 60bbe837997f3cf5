"""The output tables: rows and slots from plan and results, files by the formats, published whole and in order."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryobox.errors import OutputError
from cryobox.filtering import MEASURES
from cryobox.folder.layout import RECORD, TABLE_FOLDER, output_names, table_name, table_names
from cryobox.folder.publish import publish_files, sync_folder
from cryobox.formats import table_writer
from cryobox.micrograph import Micrographs
from cryobox.other_family import OtherFamily
from cryobox.outcome import Outcome, outcome_of
from cryobox.particles import Extracted, Particles
from cryobox.paths import Start
from cryobox.plan import Plan
from cryobox.results import TaskResult

__all__ = ["check_other_family", "stack_text", "tables_present", "withdraw_tables", "write_tables"]

CHECKED = 1000  # rows that are converted before the work, and as many micrographs


def withdraw_tables(folder: Path, *, keep: Collection[str] = (), fsync: bool = True) -> None:
    """Remove the tables of an earlier run: `job.json`, which says that all is whole, first, `particles` next.

    Tables named in `keep` stay.

    Raises
    ------
    OutputError
    """
    removed = False
    for name in (RECORD, *tables_present(folder)):
        if name in keep:
            continue
        try:
            (folder / name).unlink()
            removed = True
        except FileNotFoundError:
            pass
        except OSError as error:
            raise OutputError(f"{folder / name}: cannot be removed: {error.strerror}") from error
    # Else a power cut could bring tables back beside stacks that were replaced after them.
    if removed and fsync:
        sync_folder(folder)


def tables_present(folder: Path, outputs: Collection[str] = ()) -> list[str]:
    """Names of output tables that the folder, or the folder of a shard, holds.

    A table named by a size counts if the stacks of this size have a folder, or if it is among `outputs`.
    """
    if not folder.is_dir():
        return []
    names = os.listdir(folder)
    beside = os.listdir(folder.parent.parent) if folder.parent.name == TABLE_FOLDER else ()
    return table_names(names, output_names((*names, *beside)).union(outputs))


def write_tables(
    folder: Path,
    particles: Particles,
    micrographs: Micrographs,
    plan: Plan,
    found: Outcome,
    *,
    start: Start,
    fsync: bool,
    place: Path | None = None,
    home: Path | None = None,
) -> tuple[list[Path], tuple[str, ...]]:
    """Write and publish the tables, `particles` last. Returns their paths, `particles` first, and warnings.

    They go to `place`, by default to the output folder, in which the stacks are. Their texts are those of tables in
    `home`, by default `place`: `verify` writes elsewhere what it compares with the tables of a run.
    """
    place = folder if place is None else place
    home = place if home is None else home
    writer = table_writer(plan.decided.native)
    warnings: list[str] = []
    jobs: list[tuple[str, Callable[[Path], None]]] = []
    if found.incomplete:
        rows = np.array(sorted(found.incomplete), dtype=np.intp)
        reasons = tuple(found.incomplete[int(row)] for row in rows)
        name = f"micrographs_incomplete{writer.suffix}"
        jobs.append((name, lambda path: writer.write_incomplete(path, micrographs, rows, reasons)))
    if len(found.rejected):
        none = ("",) * len(micrographs)
        rejected = replace(_extracted(particles, plan, found, found.rejected, none), reasons=found.reasons())
        jobs.append(
            (f"rejected{writer.suffix}", lambda path: writer.write_rejected(path, particles, micrographs, rejected))
        )
    if plan.noise is not None and found.noise is not None:
        jobs += _particle_jobs(
            folder, plan.noise.particles, micrographs, plan.noise.plan, found.noise, start, home, warnings
        )
    jobs += _particle_jobs(folder, particles, micrographs, plan, found, start, home, warnings)
    published = []
    for name, job in jobs:
        published += publish_files(place, name, job, fsync=fsync)
    return published[::-1], tuple(dict.fromkeys(warnings))


def _particle_jobs(
    folder: Path,
    particles: Particles,
    micrographs: Micrographs,
    plan: Plan,
    found: Outcome,
    start: Start,
    home: Path,
    warnings: list[str],
) -> list[tuple[str, Callable[[Path], None]]]:
    """The tables of what was extracted, by name, and how each is written: the smallest size first."""
    jobs: list[tuple[str, Callable[[Path], None]]] = []
    if not len(found.rows):
        return jobs
    writer = table_writer(plan.decided.native)
    other = OtherFamily(
        particles=particles, micrographs=micrographs, native=plan.decided.native, home=home, start=start
    )
    table = _extracted(particles, plan, found, found.rows, ("",) * len(micrographs))
    if plan.places.exact is not None:
        table = replace(table, columns={**table.columns, "exact_center": np.ones(len(table), np.int64)})
    for index, output in reversed(list(enumerate(plan.outputs))):
        stacks = _stack_texts(plan, index, len(micrographs), folder, writer.suffix, start, home)
        of_size = replace(table, size=output.size, stack=stacks)
        for family in reversed(plan.decided.families):
            if family == plan.decided.native:
                write = _native_job(writer.write_particles, particles, micrographs, of_size)
            else:
                write = _other_job(other, of_size, warnings)
            jobs.append((f"{table_name(output.name)}.{family}", write))
    return jobs


def check_other_family(particles: Particles, micrographs: Micrographs, plan: Plan, folder: Path, start: Start) -> None:
    """Convert some rows before any pixel is read: what the other family cannot say is refused now, not at the end.

    Raises
    ------
    InputError, OptionError
    """
    if plan.noise is not None:
        check_other_family(plan.noise.particles, micrographs, plan.noise.plan, folder, start)
    if set(plan.decided.families) <= {plan.decided.native} or not len(plan.work.rows):
        return
    kept = {task.id: TaskResult(id=task.id) for task in plan.tasks}
    found = outcome_of(plan, kept)
    _, first = np.unique(plan.micrograph[found.rows], return_index=True)
    rows = np.unique(np.concatenate([found.rows[:CHECKED], found.rows[first[:CHECKED]]]))
    suffix = table_writer(plan.decided.native).suffix
    stacks = _stack_texts(plan, 0, len(micrographs), folder, suffix, start, folder)
    other = OtherFamily(
        particles=particles, micrographs=micrographs, native=plan.decided.native, home=folder, start=start
    )
    with tempfile.TemporaryDirectory(prefix="cryobox-") as scratch:
        other.write(Path(scratch) / f"particles{other.suffix}", _extracted(particles, plan, found, rows, stacks))


def _stack_texts(
    plan: Plan, index: int, micrographs: int, folder: Path, suffix: str, start: Start, home: Path
) -> tuple[str, ...]:
    """The stacks of one size as a table names them, by micrograph; "" where there is none."""
    stacks = [""] * micrographs
    folders: dict[str, str] = {}  # resolving one for each of ten thousand stacks takes a second
    for task, row in zip(plan.tasks, plan.work.task_micrograph.tolist(), strict=True):
        inner, _, stack = task.outputs[index].path.rpartition("/")
        if inner not in folders:
            folders[inner] = stack_text(folder, inner, suffix, start, home)
        stacks[row] = f"{folders[inner]}/{stack}"
    return tuple(stacks)


def stack_text(folder: Path, stack: str, suffix: str, start: Start, place: Path | None = None) -> str:
    """How a table names a stack: from the root (RELION: the working directory), `>` from the table's folder in `.cs`.

    Absolute where the output folder lies outside the root. `place` is the table's folder, if it is not the stacks'.
    """
    if suffix == ".cs" and start.root is None:
        return f">{stack if place in (None, folder) else Path(os.path.relpath(folder / stack, place)).as_posix()}"
    try:
        relative = folder.resolve().relative_to(start.base.resolve())
    except ValueError:
        return (folder.resolve() / stack).as_posix()
    return (relative / stack).as_posix()


def _measures(plan: Plan, found: Outcome, picks: NDArray[np.intp]) -> dict[str, NDArray[Any]]:
    """Measures of picks as columns of a table, where they are asked for."""
    if not plan.recipe.measures or found.measures is None:
        return {}
    return dict(zip(MEASURES, found.measures[picks].T, strict=True))


def _native_job(
    write: Callable[[Path, Particles, Micrographs, Extracted], None],
    particles: Particles,
    micrographs: Micrographs,
    table: Extracted,
) -> Callable[[Path], None]:
    return lambda path: write(path, particles, micrographs, table)


def _other_job(other: OtherFamily, table: Extracted, warnings: list[str]) -> Callable[[Path], None]:
    return lambda path: warnings.extend(other.write(path, table))


def _extracted(
    particles: Particles, plan: Plan, found: Outcome, picks: NDArray[np.intp], stack: tuple[str, ...]
) -> Extracted:
    """The columns of a table of these picks, of the first stored size."""
    recipe = plan.recipe
    return Extracted(
        picks=picks,
        rows=particles.rows_of(picks),
        micrograph=plan.micrograph[picks],
        stack=stack,
        slot=found.slot[picks],
        size=recipe.sizes[0],
        box=recipe.box,
        boxes=None if recipe.box_angstrom is None else plan.grounds.box,
        center=(plan.places.center if plan.places.exact is None else plan.places.exact)[picks],
        shape=plan.grounds.shape,
        pixel_size=plan.grounds.pixel_size,
        moved=plan.places.moved[picks],
        columns={name: values[picks] for name, values in plan.columns.items()} | _measures(plan, found, picks),
        alignments=tuple(alignment.take(picks) for alignment in plan.places.alignments),
        steps=plan.decided.steps,
        refresh_ctf=recipe.refresh_ctf,
        mirrored=(recipe.flip_y, recipe.flip_x),
        drop_alignments=recipe.drop_alignments,
        reset_offsets=recipe.reset_offsets,
    )
