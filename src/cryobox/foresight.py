"""What a run will meet in its output folder: whether it may work there, what is left to do, and room on the disk."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryobox.beginning import check_has_record, check_inputs_stay, check_not_compacted, head_of
from cryobox.engine.shards import run_record, share
from cryobox.errors import CryoboxError, OutputError
from cryobox.folder.company import look_around
from cryobox.folder.ledger import check_same, is_whole, read_ledger
from cryobox.folder.parts import ledger_path, part_name
from cryobox.inputs import Inputs
from cryobox.options import RunOptions
from cryobox.plan import Task, bytes_of_stacks, groups_of
from cryobox.units import in_bytes

__all__ = ["Foreseen", "foresee", "free_bytes", "is_full", "why_it_stopped", "with_little_room"]

_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreseen:
    """What a run would do in its folder.

    Parameters
    ----------
    todo : tuple of Task
        Without what an earlier run has done there.
    done : int
        Micrographs that it has done.
    needed : int
        Bytes of the stacks that are left to be written.
    free : int, optional
        Bytes that the disk has room for; None: it does not say.
    """

    todo: tuple[Task, ...]
    done: int
    needed: int
    free: int | None


def foresee(inputs: Inputs, folder: Path, options: RunOptions) -> Foreseen:
    """Look, without writing anything, at what a run would find in its output folder.

    Raises
    ------
    OutputError
        What would refuse the run there, in the same words.
    """
    _check_can_be_made(folder)
    check_inputs_stay(folder, inputs, shard=options.shard)
    tasks, head = share(inputs.plan.tasks, options.shard), head_of(inputs.plan)
    todo = list(tasks)
    if not options.overwrite:
        check_has_record(folder, inputs.plan.output_names)
        look_around(folder, options.shard, head, run_record(inputs, tasks), overwrite=False)
        check_same(folder, read_ledger(ledger_path(folder, part_name(options.shard)))[0], head)
        todo = _left(tasks, folder, options)
        check_not_compacted(folder, todo, read_ledger(ledger_path(folder, ""))[0].get("removed") or {})
    return Foreseen(
        todo=tuple(todo), done=len(tasks) - len(todo), needed=bytes_of_stacks(todo), free=free_bytes(folder)
    )  # fmt: skip


def free_bytes(folder: Path) -> int | None:
    """Bytes that may be written on the disk on which a folder lies, or will; None: it does not say."""
    try:
        usage = shutil.disk_usage(_nearest(folder))
    except OSError:
        return None
    return usage.free if usage.total > 0 else None  # some file systems of networks and clouds say 0 of everything


def with_little_room(inputs: Inputs, folder: Path, options: RunOptions) -> Inputs:
    """What a run starts from, with a warning where the disk has less room than the stacks need that are left to do.

    It refuses nothing: what is wrong with the folder is said when the run takes its place there.
    """
    tasks = share(inputs.plan.tasks, options.shard)
    free = free_bytes(folder)
    if free is None or bytes_of_stacks(tasks) <= free:
        return inputs
    with contextlib.suppress(CryoboxError, OSError):
        tasks = tasks if options.overwrite else _left(tasks, folder, options)
    if (needed := bytes_of_stacks(tasks)) <= free:
        return inputs
    told = f"{folder}: the stacks need {in_bytes(needed)}, and the disk has {in_bytes(free)} free"
    return inputs.with_warnings([f"{told}; make room, or store less (--fcrop, --float16)"])


def _left(tasks: Sequence[Task], folder: Path, options: RunOptions) -> list[Task]:
    """Tasks of groups that an earlier run has not done as a whole."""
    _, finished = read_ledger(ledger_path(folder, part_name(options.shard)))
    whole = {id_ for id_, result in finished.items() if is_whole(folder, result)}
    return [task for group in groups_of(tasks) if not whole.issuperset(one.id for one in group) for task in group]


def is_full(error: BaseException) -> bool:
    """Whether an error says that there is no room; one that came from another process has only its text."""
    return getattr(error, "errno", None) in _FULL or any(os.strerror(number) in str(error) for number in _FULL)


def why_it_stopped(error: BaseException, todo: Iterable[Task], done: Container[str], folder: Path) -> str:
    """What an error says; of a full disk how much room there is, and is needed, in place of which file met it.

    Parameters
    ----------
    todo : iterable of Task
    done : container of str
        Ids of those that are done by now.
    """
    if not is_full(error):
        return str(error)
    needed, free = bytes_of_stacks(task for task in todo if task.id not in done), free_bytes(folder)
    why = next((os.strerror(number) for number in _FULL if os.strerror(number) in str(error)), os.strerror(_FULL[0]))
    stacks = f"{in_bytes(needed)} of stacks are still to be written, " if needed else ""
    room = "make room" if free is None else f"{in_bytes(free)} are free; make room"
    return f"{folder}: the disk is full ({why}): {stacks}{room}"


def _check_can_be_made(folder: Path) -> None:
    nearest = _nearest(folder)
    if not nearest.is_dir():
        raise OutputError(f"{folder}: cannot be made: {nearest} is no folder; choose another --out")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise OutputError(f"{folder}: cannot be written: {os.strerror(errno.EACCES)}; choose another --out")


def _nearest(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    place = folder.absolute()
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    return place
