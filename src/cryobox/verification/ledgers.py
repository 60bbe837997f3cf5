"""Ledgers of a run: every line unchanged since it was written, every task recorded, counts and paths as planned."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cryobox import __version__
from cryobox.engine.shards import fingerprint
from cryobox.folder.layout import RECORD
from cryobox.folder.parts import ledger_path
from cryobox.folder.records import is_sealed
from cryobox.folder.run import Run
from cryobox.inputs import Inputs
from cryobox.outcome import noise_results
from cryobox.particles import Reason
from cryobox.plan import Plan, Task, groups_of
from cryobox.results import StackInfo, TaskResult
from cryobox.verification.findings import Problems
from cryobox.verification.stacks import HEADER_BYTES

__all__ = ["check_lines", "check_run", "recorded_results", "versions_of"]

# What may be found out about a window only when its pixels are seen.
REFUSALS = (str(Reason.NOT_FINITE), str(Reason.NO_CONTRAST), str(Reason.FILTER))


def versions_of(run: Run) -> tuple[str, ...]:
    """Versions of cryobox that have worked in a folder; this one where none is told."""
    heads = (record.get("head", record) for part in run.parts for _, record in _lines(part.path))
    return tuple(dict.fromkeys(str(head["cryobox"]) for head in heads if "cryobox" in head)) or (__version__,)


def check_lines(run: Run, plan: Plan, problems: Problems) -> None:
    """Every line has the digest that it was written with."""
    names = {task.id: task.micrograph for task in plan.tasks}
    for path in (part.path for part in run.parts):
        bare = 0
        for number, record in _lines(path):
            fits = is_sealed(record)
            bare += fits is None
            if fits is False:
                what = names.get(str(record.get("id")), "the run" if "run" in record else "")
                problems.add(
                    f"{path}: line {number}{f' ({what})' if what else ''} was changed after it was written: "
                    f"its digest does not fit",
                    f"{path}: lines",
                )
        if bare:
            problems.add(
                f"{path}: {bare} lines have no digest (written before there were any?): times and what else is only "
                f"recorded cannot be checked"
            )


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The whole lines; `read_ledger` has found them readable."""
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        yield number, json.loads(line)


def check_run(run: Run, inputs: Inputs, problems: Problems) -> None:
    """The last run on the ledger had these inputs and this plan."""
    path = ledger_path(run.folder, "")
    if run.last.path != path or not run.parts:
        problems.add(f"{path}: is not there")
        return
    plan = inputs.plan
    for key, expected in (
        ("content", inputs.content),
        ("plan", fingerprint(plan)),
        ("tasks", len(plan.tasks)),
    ):
        if run.last.run.get(key) != expected:
            problems.add(
                f"{path}: run.{key} is {run.last.run.get(key)}, expected {expected}; did the picks or the table "
                f"of micrographs change since?"
            )
    said, listed = run.last.run.get("warnings"), run.job.get("warnings")
    if not isinstance(said, list) or any(text not in (listed or ()) for text in said):
        problems.add(f"{path}: run.warnings is {said}, expected some of the warnings of {RECORD}: {listed}")


def recorded_results(run: Run, plan: Plan, problems: Problems) -> dict[str, TaskResult]:
    """The result of every task, as far as it is recorded, without what cannot be true."""
    results, recorded = {}, run.results
    images = _images_of_stacks(plan, recorded)
    of_noise = _images_of_stacks(plan.noise.plan, noise_results(plan, recorded)) if plan.noise is not None else {}
    for task in plan.tasks:
        found = recorded.get(task.id)
        if found is None:
            problems.add(
                f"{task.path}: the ledger has no record of this micrograph with these picks and this recipe; "
                f"the micrograph or the picks changed since, or it was never extracted",
                f"{run.last.path}: missing records",
            )
        else:
            faults = list(_faults(task, found, images[task.id]))
            faults += _faults_of_noise(task, found, of_noise)
            for fault in faults:
                problems.add(f"{run.last.path}: {task.micrograph}: {fault}", f"{run.last.path}: fields of records")
            results[task.id] = _possible(task, found)
    return results


def _images_of_stacks(plan: Plan, recorded: Mapping[str, TaskResult]) -> dict[str, int]:
    """How many images the stacks of each task have, those of others that share them included."""
    return {
        task.id: sum(_images(other, recorded[other.id]) for other in group if other.id in recorded)
        for group in groups_of(plan.tasks)
        for task in group
    }


def _faults_of_noise(task: Task, found: TaskResult, images: Mapping[str, int]) -> Iterator[str]:
    """The same of the boxes of noise that were cut with a task."""
    wanted = task.noise is not None and not found.error
    if (found.noise is not None) != wanted:
        yield f"noise is {'missing' if wanted else 'recorded'}, expected {'some' if wanted else 'none'}"
    elif task.noise is not None and found.noise is not None:
        if found.noise.id != task.noise.id:
            yield f"noise.id is {found.noise.id}, expected {task.noise.id}"
        for fault in _faults(task.noise, found.noise, images[task.noise.id]):
            yield f"noise: {fault}"


def _images(task: Task, found: TaskResult) -> int:
    """How many images the stacks should have of a task."""
    return 0 if found.error else len(task.windows) - len(found.refused)


def _faults(task: Task, found: TaskResult, images: int) -> Iterator[str]:
    """What a record says that the plan, or the files, do not. `images`: of its stacks, those of others included."""
    places = Counter(index for index, _ in found.refused)
    for index, why in found.refused:
        if not 0 <= index < len(task.windows) or places[index] > 1:
            yield f"refused names window {index}; expected each of 0 to {len(task.windows) - 1} at most once"
        if why not in REFUSALS:
            yield f"refused says {why!r} of window {index}, expected {' or '.join(map(repr, REFUSALS))}"
    if not all(isinstance(count, int) and count > 0 for count in found.counts.values()):
        yield f"counts are {found.counts}, expected numbers above 0"
    if more := found.counts.keys() - _counted(task):
        yield f"counts are {found.counts}, but this run counts no {' and '.join(sorted(more))}"
    expected = _images(task, found)
    outputs = task.outputs if expected else task.outputs[:0]
    if found.kept != expected:
        yield f"kept is {found.kept}, expected {expected} ({len(task.windows)} windows, {len(found.refused)} refused)"
    if len(found.stacks) != len(outputs):
        yield f"{len(found.stacks)} stacks are recorded, expected {len(outputs)}"
    for number, (output, stack) in enumerate(zip(outputs, found.stacks, strict=False), start=1):
        size = HEADER_BYTES + images * output.bytes_per_image
        facts = {"path": (stack.path, output.path), "bytes": (stack.bytes, size)}
        if output.dtype == "float32":
            facts["clamped"] = (stack.clamped, 0)
        for name, (said, wanted) in facts.items():
            if said != wanted:
                yield f"stacks[{number}].{name} is {said}, expected {wanted}"
        if not _is_sound(stack):
            yield f"stacks[{number}] has statistics that are no numbers: {stack}"


def _counted(task: Task) -> set[str]:
    """What the steps of a task may have counted."""
    asked = {
        "dust": task.steps.white_dust is not None or task.steps.black_dust is not None,
        "crowded": task.windows.neighbors is not None,
        "hot_pixels": task.hot_pixels is not None,
    }
    return {name for name, counts in asked.items() if counts}


def _possible(task: Task, found: TaskResult) -> TaskResult:
    """The result without refusals of windows that are not there, and without stacks of which nothing can be told."""
    refused = {i: why for i, why in found.refused if 0 <= i < len(task.windows) and why in tuple(Reason)}
    stacks = found.stacks if all(map(_is_sound, found.stacks)) else ()
    noise = None if task.noise is None or found.noise is None else _possible(task.noise, found.noise)
    return replace(found, refused=tuple(sorted(refused.items())), stacks=stacks, noise=noise)


def _is_sound(stack: StackInfo) -> bool:
    numbers = (stack.minimum, stack.maximum, stack.mean, stack.rms)
    return all(isinstance(number, int | float) for number in numbers) and isinstance(stack.clamped, int)
