"""The output tables: rows and slots from plan and results, files by the formats, published whole and in order."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryobox.engine.task import TaskResult
from cryobox.errors import OutputError
from cryobox.folder.layout import TABLE_FOLDER, output_names, table_name, table_names
from cryobox.folder.publish import publish_files, sync_folder
from cryobox.formats import table_writer
from cryobox.micrograph import Micrographs
from cryobox.particles import Alignment, Extracted, Particles, Reason
from cryobox.plan import REASONS, Plan

__all__ = ["Outcome", "stack_text", "tables_present", "withdraw_tables", "write_tables"]


class Outcome:
    """What became of every pick: what the plan refused, combined with what the tasks did.

    Parameters
    ----------
    plan : Plan
    results : mapping of str to TaskResult
        By task id; all tasks that `only` concerns.
    only : ndarray of bool, optional
        The picks to be told of (one shard's); the others are neither extracted nor rejected.
    without_picks : bool
        Whether micrographs of which no pick is known, since their coordinate file is missing, are told of, too.

    Attributes
    ----------
    rows : ndarray, intp
        Picks that were extracted, ascending.
    slot : ndarray, int64
        Index of each in its stack.
    rejected : ndarray, intp
        All other picks, ascending.
    reasons : tuple of str
        One for each of `rejected`.
    incomplete : dict of int to str
        Micrographs that could not be used.
    """

    def __init__(
        self,
        plan: Plan,
        results: Mapping[str, TaskResult],
        only: NDArray[np.bool_] | None = None,
        *,
        without_picks: bool = True,
    ) -> None:
        windows = np.array([len(task.windows) for task in plan.tasks], dtype=np.int64)
        offset = np.concatenate([[0], np.cumsum(windows)])
        code = np.full(offset[-1], -1, dtype=np.int8)
        self.incomplete = dict(plan.grounds.incomplete)
        for t, task in enumerate(plan.tasks):
            if only is not None and task.id not in results:
                continue  # of another shard
            result = results[task.id]
            if result.error:
                self.incomplete[int(plan.work.task_micrograph[t])] = result.error
                code[offset[t] : offset[t + 1]] = REASONS.index(Reason.MICROGRAPH)
            for index, why in result.refused:
                code[offset[t] + index] = REASONS.index(Reason(why))
        kept = code < 0
        before = np.concatenate([[0], np.cumsum(kept)])  # windows kept before each one
        task_of_row = np.repeat(np.arange(len(plan.tasks)), np.diff(plan.work.first_row))
        window = plan.work.window + offset[task_of_row]
        slot = before[window] - before[offset[task_of_row]]
        reason = plan.places.reason.copy()
        reason[plan.work.rows] = code[window]
        all_slots = np.full(len(reason), -1, dtype=np.int64)
        all_slots[plan.work.rows] = slot
        told = np.ones(len(reason), dtype=np.bool_) if only is None else only
        if only is not None:
            rows = set(np.unique(plan.micrograph[only]).tolist())
            if without_picks:
                rows |= set(self.incomplete) - set(np.unique(plan.micrograph).tolist())
            self.incomplete = {row: why for row, why in self.incomplete.items() if row in rows}
        self.rows = np.flatnonzero((reason < 0) & told)
        self.slot = all_slots[self.rows]
        self.rejected = np.flatnonzero((reason >= 0) & told)
        texts = [str(why) for why in REASONS]
        self.reasons = tuple(texts[c] for c in reason[self.rejected].tolist())

    def counts(self) -> dict[str, int]:
        """Rejected picks by reason, most first."""
        found: dict[str, int] = {}
        for reason in self.reasons:
            found[reason] = found.get(reason, 0) + 1
        return dict(sorted(found.items(), key=lambda item: -item[1]))


def withdraw_tables(folder: Path, *, keep: Collection[str] = (), fsync: bool = True) -> None:
    """Remove the tables of an earlier run: `job.json`, which says that all is whole, first, `particles` next.

    Tables named in `keep` stay.

    Raises
    ------
    OutputError
    """
    removed = False
    for name in ("job.json", *tables_present(folder)):
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
    root: Path | None,
    fsync: bool,
    place: Path | None = None,
    home: Path | None = None,
) -> list[Path]:
    """Write and publish the tables, `particles` last. Returns their paths, `particles` first.

    They go to `place`, by default to the output folder, in which the stacks are. Their texts are those of tables in
    `home`, by default `place`: `verify` writes elsewhere what it compares with the tables of a run.
    """
    place = folder if place is None else place
    home = place if home is None else home
    writer = table_writer("star" if plan.decided.style == "relion" else "cs")
    jobs: list[tuple[str, Callable[[Path], None]]] = []
    if found.incomplete:
        rows = np.array(sorted(found.incomplete), dtype=np.intp)
        reasons = tuple(found.incomplete[int(row)] for row in rows)
        jobs.append(("micrographs_incomplete", lambda path: writer.write_incomplete(path, micrographs, rows, reasons)))
    if len(found.rejected):
        rejected = _extracted(particles, plan, found.rejected, np.full(len(found.rejected), -1, dtype=np.int64))
        rejected = replace(rejected, reasons=found.reasons, stack=("",) * len(micrographs))
        jobs.append(("rejected", lambda path: writer.write_rejected(path, particles, micrographs, rejected)))
    if len(found.rows):
        table = _extracted(particles, plan, found.rows, found.slot)
        for index, output in reversed(list(enumerate(plan.recipe.outputs))):
            stacks = [""] * len(micrographs)
            folders: dict[str, str] = {}  # resolving one for each of ten thousand stacks takes a second
            for task, row in zip(plan.tasks, plan.work.task_micrograph.tolist(), strict=True):
                inner, _, stack = task.outputs[index].path.rpartition("/")
                if inner not in folders:
                    folders[inner] = stack_text(folder, inner, writer.suffix, root, home)
                stacks[row] = f"{folders[inner]}/{stack}"
            of_size = replace(table, size=output.size, stack=tuple(stacks))
            jobs.append(
                (table_name(output.name), _particles_job(writer.write_particles, particles, micrographs, of_size))
            )
    published = []
    for name, write in jobs:
        published += publish_files(place, name + writer.suffix, write, fsync=fsync)
    return published[::-1]


def stack_text(folder: Path, stack: str, suffix: str, root: Path | None, place: Path | None = None) -> str:
    """How a table names a stack: from the root (RELION: the working directory), `>` from the table's folder in `.cs`.

    Absolute where the output folder lies outside the root. `place` is the table's folder, if it is not the stacks'.
    """
    if suffix == ".cs" and root is None:
        return f">{stack if place in (None, folder) else Path(os.path.relpath(folder / stack, place)).as_posix()}"
    base = (root or Path.cwd()).resolve()
    try:
        relative = folder.resolve().relative_to(base)
    except ValueError:
        return (folder.resolve() / stack).as_posix()
    return (relative / stack).as_posix()


def _particles_job(
    write: Callable[[Path, Particles, Micrographs, Extracted], None],
    particles: Particles,
    micrographs: Micrographs,
    table: Extracted,
) -> Callable[[Path], None]:
    return lambda path: write(path, particles, micrographs, table)


def _extracted(particles: Particles, plan: Plan, rows: NDArray[np.intp], slot: NDArray[np.int64]) -> Extracted:
    recipe = plan.recipe
    return Extracted(
        rows=rows,
        micrograph=plan.micrograph[rows],
        stack=(),
        slot=slot,
        size=recipe.sizes[0],
        box=recipe.box,
        center=plan.places.center[rows],
        shape=plan.grounds.shape,
        pixel_size=plan.grounds.pixel_size,
        moved=plan.places.moved[rows],
        alignments=tuple(_rows_of(alignment, rows) for alignment in plan.places.alignments),
        sign=1 if recipe.invert else -1,
        scale_const=recipe.scale_const or 1.0,
        refresh_ctf=recipe.refresh_ctf,
        mirrored=(recipe.flip_y, recipe.flip_x),
        drop_alignments=recipe.drop_alignments,
    )


def _rows_of(alignment: Alignment, rows: NDArray[np.intp]) -> Alignment:
    return replace(alignment, shift=alignment.shift[rows], pixel_size=alignment.pixel_size[rows])
