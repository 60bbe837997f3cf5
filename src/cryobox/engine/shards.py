"""Parts of a run that are done by processes that know nothing of each other: who does what, and whether all is done."""

from __future__ import annotations

import hashlib
import heapq
import json
import os
import re
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cryobox.bounds import check_shard
from cryobox.engine.batch import cpu_kind
from cryobox.errors import OptionError, OutputError
from cryobox.folder.ledger import is_whole
from cryobox.folder.run import Run, listed_shards
from cryobox.inputs import Inputs
from cryobox.plan import Plan, Task, bytes_of, groups_of
from cryobox.results import TaskResult

__all__ = [
    "check_whole",
    "cost",
    "different_processors",
    "fingerprint",
    "parse_shard",
    "run_record",
    "share",
]

# What cutting costs beside reading, as bytes read in the same time, for each pixel of a window: measured on one core,
# a 4096 x 4096 float32 micrograph (67 MB) is read in about 15 ms, and a 400 -> 128 crop takes about 0.4 ms.
_PIXEL_COST = 11


@dataclass(frozen=True, slots=True)
class _Scheduler:
    """The variables in which a batch system tells which task of an array this is; "" where it does not tell."""

    index: str
    first: str = ""
    last: str = ""
    count: str = ""
    step: str = ""


_SCHEDULERS = (
    _Scheduler(
        index="SLURM_ARRAY_TASK_ID",
        first="SLURM_ARRAY_TASK_MIN",
        last="SLURM_ARRAY_TASK_MAX",
        count="SLURM_ARRAY_TASK_COUNT",
    ),
    _Scheduler(index="PBS_ARRAY_INDEX", count="PBS_ARRAY_COUNT"),  # PBS Pro and OpenPBS
    _Scheduler(index="PBS_ARRAYID"),  # Torque
    _Scheduler(index="SGE_TASK_ID", first="SGE_TASK_FIRST", last="SGE_TASK_LAST", step="SGE_TASK_STEPSIZE"),
    _Scheduler(index="LSB_JOBINDEX", last="LSB_JOBINDEX_END", step="LSB_JOBINDEX_STEP"),
)


def parse_shard(text: str, environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """Which shard of how many, counted from 1.

    Parameters
    ----------
    text : str
        "3/16"; "auto": as the variables of Slurm, PBS, SGE or LSF say; "auto/16": the index from there, for batch
        systems that do not tell how many tasks an array has (arrays numbered from 1).

    Raises
    ------
    OptionError
    """
    if found := re.fullmatch(r"(\d{1,20})/(\d{1,20})", text):
        return check_shard(int(found[1]), int(found[2]), f"--shard {text}")
    if found := re.fullmatch(r"auto(?:/(\d{1,20}))?", text):
        return _from_environment(None if found[1] is None else int(found[1]), environment)
    raise OptionError(f"--shard must be I/N (as 3/16), auto or auto/N; got {text!r}")


def _from_environment(count: int | None, environment: Mapping[str, str]) -> tuple[int, int]:
    for scheduler in _SCHEDULERS:
        index = environment.get(scheduler.index, "")
        if not index.isdecimal() or (scheduler.index == "LSB_JOBINDEX" and index == "0"):
            continue

        def number(name: str, environment: Mapping[str, str] = environment) -> int | None:
            text = environment.get(name, "") if name else ""
            return int(text) if text.isdecimal() else None

        if count is not None:
            return check_shard(int(index), count, f"--shard auto/{count} with {scheduler.index}={index}")
        given_first = number(scheduler.first)
        first = 1 if given_first is None else given_first
        last, tasks, step = number(scheduler.last), number(scheduler.count), number(scheduler.step)
        if tasks is None and last is not None:
            tasks = (last - first) // (step or 1) + 1
        if tasks is None:
            raise OptionError(
                f"--shard auto: {scheduler.index}={index} says which task this is, but nothing says how many there "
                f"are; give --shard auto/N, and number the array from 1 to N"
            )
        if step is None:
            step = 1 if last is None or tasks < 2 else (last - first) // (tasks - 1)
        place, off = divmod(int(index) - first, max(step, 1))
        if off or (last is not None and first + (tasks - 1) * step != last):
            raise OptionError(
                f"--shard auto: the array has gaps ({scheduler.index}={index}, {tasks} tasks from {first} to {last}), "
                f"so it cannot be told which shard this is; give --shard I/N"
            )
        return check_shard(place + 1, tasks, f"--shard auto with {scheduler.index}={index}")
    raise OptionError(
        "--shard auto: no batch system has set "
        + ", ".join(scheduler.index for scheduler in _SCHEDULERS)
        + "; give --shard I/N"
    )


def cost(task: Task) -> int:
    """About how long a task takes, as the bytes that could be read in that time."""
    written = sum(bytes_of((part,), index) for part in task.parts for index in range(len(part.outputs)))
    windows = sum(len(part.windows) for part in task.parts)
    return task.bytes_to_read + written + _PIXEL_COST * windows * task.windows.box**2


def share(tasks: Sequence[Task], shard: tuple[int, int] | None) -> list[Task]:
    """The tasks of one shard, in the order of the plan. All shards together have each task once."""
    if shard is None:
        return list(tasks)
    index, count = shard
    return [task for task, number in zip(tasks, shared_out(tasks, count), strict=True) if number == index]


def shared_out(tasks: Sequence[Task], count: int) -> list[int]:
    """Which of `count` shards, from 1, has each task; those that share a stack are together.

    The dearest goes first, always to the shard that has the least: equal plans give equal shares.
    """
    groups = groups_of(tasks)
    loads = [(0, number) for number in range(1, min(count, len(groups)) + 1)]  # there is nothing for more
    prices = [sum(map(cost, group)) for group in groups]
    owner = [0] * len(groups)
    for place in sorted(range(len(groups)), key=lambda place: (-prices[place], place)):
        load, number = loads[0]
        heapq.heapreplace(loads, (load + prices[place], number))
        owner[place] = number
    return [number for number, group in zip(owner, groups, strict=True) for _ in group]


def run_record(inputs: Inputs, tasks: Sequence[Task]) -> dict[str, Any]:
    """What a run writes into its ledger about itself, so that `merge` can make the plan again and compare."""
    return {
        "inputs": inputs.given.as_dict(),
        "content": inputs.content,
        "plan": fingerprint(inputs.plan),
        "tasks": len(tasks),
        "warnings": list(inputs.said),
        "host": socket.gethostname(),
        "process": os.getpid(),
        "cpu": cpu_kind(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def check_whole(shards: Run, inputs: Inputs) -> dict[str, TaskResult]:
    """The results of all tasks of the plan, from whichever shard has them.

    Raises
    ------
    OutputError
        If one is missing, or the plan is not the one that the shards had.
    """
    folder, count = shards.folder, len(shards.parts)
    now = {"plan": fingerprint(inputs.plan), "content": inputs.content}
    old = [i for i, part in enumerate(shards.parts, start=1) if any(part.run.get(key) != now[key] for key in now)]
    if old:
        raise OutputError(
            f"{folder}: {', '.join(inputs.given.paths)}, a file that they name or a micrograph "
            f"changed after {listed_shards(old, count, verb='')} last ran; bring it back, or run all shards again with "
            f"--overwrite, then merge"
        )
    results: dict[str, TaskResult] = {}
    unfinished: dict[int, list[str]] = {}
    for task, index in zip(inputs.plan.tasks, shared_out(inputs.plan.tasks, count), strict=True):
        found = shards.parts[index - 1].results.get(task.id)
        if found is None or not (found.error or is_whole(folder, found)):
            unfinished.setdefault(index, []).append(task.micrograph)
        else:
            results[task.id] = found
    if unfinished:
        of_each = sorted(unfinished.items())
        listed = "; ".join(f"{index} lacks {len(names)} ({names[0]}, ...)" for index, names in of_each)
        raise OutputError(
            f"{folder}: {listed_shards(sorted(unfinished), count)} not finished; run again, then merge. "
            f"Micrographs: {listed}"
        )
    return results


def different_processors(shards: Run) -> tuple[str, ...]:
    """A warning where the shards ran on processors of several kinds."""
    cpus = sorted({str(part.run.get("cpu")) for part in shards.parts})
    if len(cpus) < 2:
        return ()
    return (f"the shards ran on processors of {len(cpus)} kinds ({'; '.join(cpus)}): last bits may differ",)


def fingerprint(plan: Plan) -> str:
    """A hash of everything that was decided."""
    found = hashlib.blake2b(digest_size=16)
    for task in plan.tasks:
        found.update(task.id.encode())
    for column in (plan.micrograph, plan.places.reason, plan.work.rows, plan.work.window, plan.places.center):
        found.update(np.ascontiguousarray(column).astype("<i8", copy=False).tobytes())
    found.update(json.dumps(sorted(plan.grounds.incomplete)).encode())
    return found.hexdigest()
