"""How a run takes its place in an output folder: what it refuses, removes and records before the first pixel."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from cryobox import __version__
from cryobox.core import fftw_version
from cryobox.engine.shards import run_record
from cryobox.errors import OutputError
from cryobox.folder.company import look_around, make_room_elsewhere
from cryobox.folder.layout import (
    RECORD,
    REPORT,
    STOP_FILE,
    TABLE_FOLDER,
    log_name,
    output_names,
    stack_folder,
    table_names,
)
from cryobox.folder.ledger import Ledger, read_ledger
from cryobox.folder.lock import lock_files
from cryobox.folder.parts import ledger_path, part_name, parts_present
from cryobox.folder.publish import remove_temporary
from cryobox.folder.records import BITS, FORMAT
from cryobox.inputs import TABLES, Inputs
from cryobox.options import Recipe, RunOptions
from cryobox.plan import Plan, Task, groups_of
from cryobox.tables import tables_present, withdraw_tables

__all__ = [
    "as_begun",
    "begin",
    "check_has_record",
    "check_inputs_stay",
    "check_not_compacted",
    "head_of",
    "head_with",
    "make_folders",
]


def as_begun(recipe: Recipe, folder: Path, options: RunOptions) -> Recipe:
    """The recipe, with the smaller limits under which runs in the folder wrote merged stacks: these stay as they are.

    Raises
    ------
    OutputError
        If there is a ledger that cannot be read.
    """
    if recipe.particles_per_stack is None or options.overwrite:
        return recipe
    ledgers = (ledger_path(folder, part) for part in (part_name(options.shard), ""))
    old: dict[str, Any] = next((found for path in ledgers if (found := read_ledger(path)[0].get("recipe"))), {})
    limits, last = list(old.get("earlier_limits") or ()), old.get("limit")
    if isinstance(last, int) and (recipe.limit is None or last < recipe.limit):
        limits.append(last)
    return dataclasses.replace(recipe, earlier_limits=tuple(limits))


def head_of(plan: Plan) -> dict[str, object]:
    """What all runs in one folder must agree on."""
    return head_with(plan.recipe.as_dict())


def head_with(recipe: dict[str, object]) -> dict[str, object]:
    """The same, of what was asked for as names and values."""
    return {"cryobox": __version__, "records": FORMAT, "bits": BITS, "fftw": fftw_version(), "recipe": recipe}


def begin(
    inputs: Inputs, folder: Path, tasks: list[Task], options: RunOptions, held: contextlib.ExitStack
) -> tuple[Ledger, list[Task]]:
    """Take one's place in a folder: refuse what does not fit, remove what is overwritten, record what will be done.

    Returns the open ledger, which is closed with `held`, and the tasks that are left.
    """
    part, head, run = part_name(options.shard), head_of(inputs.plan), run_record(inputs, tasks)
    company = look_around(folder, options.shard, head, run, overwrite=options.overwrite)
    if company.kept and not part:
        run["merged"] = True
    if options.overwrite:
        check_inputs_stay(folder, inputs, company.stacks_removed(), shard=options.shard)
        company.take_over(
            lambda removed: _withdraw(_places(folder, part, removed), options),
            break_lock=options.break_lock,
            fsync=options.fsync,
        )
    ledger = held.enter_context(Ledger(folder, part=part, head=head, overwrite=options.overwrite, fsync=options.fsync))
    remove_temporary(folder, part)
    waiting = [group for group in groups_of(tasks) if not ledger.drop_unless_done(*(task.id for task in group))]
    todo = [task for group in waiting for task in group]
    if options.overwrite:
        ledger.remove_stacks(keep=company.stacks_kept())
    elif todo:
        removed = read_ledger(ledger_path(folder, ""))[0].get("removed") or {} if part else ledger.removed
        check_not_compacted(folder, todo, removed)
        recorded = {stack.path for result in ledger.previous.values() for stack in result.every_stack}
        replaced = any(
            out.path in recorded or (folder / out.path).exists() for task in todo for out in task.every_output
        )
        _withdraw(_places(folder, part), options, keep_tables=not replaced)
    ids, stacks = {task.id for task in todo}, {output.path for task in todo for output in task.every_output}
    ledger.make_room(ids, stacks)
    make_room_elsewhere(company, ids, stacks)
    ledger.begin(run)
    return ledger, todo


def check_not_compacted(folder: Path, todo: Iterable[Task], removed: Collection[str]) -> None:
    """Refuse to make stacks again, one by one and unsaid, that somebody removed on purpose."""
    gone = [output.path for task in todo for output in task.every_output if output.path in removed]
    gone = [path for path in gone if not (folder / path).exists()]
    if gone:
        raise OutputError(
            f"{folder}: {len(gone)} of its stacks were removed by cryobox compact; `cryobox restore` cuts them again, "
            f"--overwrite starts anew"
        )


def _withdraw(places: Iterable[Path], options: RunOptions, *, keep_tables: bool = False) -> None:
    """Before work starts: nothing says that the run is complete; no table describes a stack that will be replaced."""
    for place in places:
        withdraw_tables(place, keep=tables_present(place) if keep_tables else (), fsync=options.fsync)


def _places(folder: Path, part: str, parts: Iterable[str] = ()) -> list[Path]:
    """Where tables may lie that describe the stacks of a part, or of `parts`; a whole run has those of all."""
    if part:
        found = [folder / TABLE_FOLDER / name for name in dict.fromkeys((part, *parts)) if name]
    else:
        found = sorted((folder / TABLE_FOLDER).glob("*-of-*"))
    return [folder, *found]


def check_inputs_stay(
    folder: Path, inputs: Inputs, stacks: Iterable[str] = (), *, shard: tuple[int, int] | None = None
) -> None:
    """Refuse an output folder in which the run would replace or remove a file that it reads, whatever it is called.

    Parameters
    ----------
    folder : Path
    inputs : Inputs
    stacks : iterable of str
        Stacks that will be removed, beside those that the plan will write.
    shard : tuple of int, optional
        Whose records will be written, too.

    Raises
    ------
    OutputError
    """
    parts = dict.fromkeys(("", part_name(shard), *map(part_name, parts_present(folder))))
    records = (RECORD, REPORT, STOP_FILE, *map(log_name, parts), *lock_files(folder))
    shards = [path.relative_to(folder).as_posix() for path in _places(folder, "")[1:]]
    ours = [*records, *(ledger_path(folder, part).name for part in parts)]
    ours += [f"{shard}/{RECORD}" for shard in shards]
    ours += [output.path for task in inputs.plan.tasks for output in task.every_output]
    ours += stacks
    there = {place: _listing(folder / place) for place in {"", *shards, *map(os.path.dirname, ours)}}
    # Names are compared without case, as some file systems do; whether it is the same file is seen below.
    ours = [name for name in ours if os.path.basename(name).casefold() in there[os.path.dirname(name)]]
    outputs = output_names(there[""]).union(inputs.plan.output_names)
    ours += [os.path.join(place, name) for place in ("", *shards) for name in table_names(there[place], outputs)]
    if not ours:
        return
    read = {}
    named = map(inputs.given.start.whole, (path for what in TABLES for path in inputs.files.get(what, ())))
    for path in (*named, *inputs.micrographs.paths):
        if (file := _identity(path)) is not None:
            read[file] = path
    for name in ours:
        if (file := _identity(folder / name)) in read:
            raise OutputError(
                f"{read[file]}: is an input and would be replaced or removed, since it is the same file as "
                f"{folder / name}; choose another --out"
            )


def _listing(folder: Path) -> set[str]:
    try:
        return {name.casefold() for name in os.listdir(folder)}
    except OSError:
        return set()


def _identity(path: str | Path) -> tuple[int, int] | None:
    """Which file a path leads to, through links."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def check_has_record(folder: Path, outputs: Collection[str]) -> None:
    """Refuse a folder with tables of outputs, by name, that nobody recorded.

    Raises
    ------
    OutputError
    """
    recorded = ledger_path(folder, "").exists() or parts_present(folder)
    if not recorded and (found := tables_present(folder, outputs)):
        raise OutputError(
            f"{folder}: holds {', '.join(found)}, but no record of the run that wrote it; "
            f"choose another folder, or start anew with --overwrite"
        )


def make_folders(folder: Path, outputs: Collection[str], *, overwrite: bool) -> None:
    """Make the folders of the stacks of outputs, by name; refuse tables that nobody recorded."""
    if not overwrite:
        check_has_record(folder, outputs)
    try:
        for output in outputs:
            (folder / stack_folder(output)).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made: {error.strerror}") from error
