"""The whole check of an output folder, from top to bottom."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cryobox import __version__
from cryobox.bounds import check_integer
from cryobox.folder.layout import RECORD, is_stack_folder
from cryobox.folder.records import BITS, FORMAT
from cryobox.folder.run import Run, read_run
from cryobox.inputs import Inputs, again
from cryobox.outcome import Outcome, noise_results, outcome_of
from cryobox.plan import Plan, groups_of
from cryobox.results import TaskResult
from cryobox.verification.findings import Problems, Verification
from cryobox.verification.images import Images, Sample
from cryobox.verification.job_file import check_beginnings, check_complete, check_counts, check_digest
from cryobox.verification.ledgers import check_lines, check_run, recorded_results, versions_of
from cryobox.verification.measures import check_measures
from cryobox.verification.noise import check_noise
from cryobox.verification.stacks import check_header, check_pixels
from cryobox.verification.subparticles import check_subparticles
from cryobox.verification.tables import compare_tables, read_rows

__all__ = ["verify"]

DEFAULT_SAMPLE = 100


def verify(
    folder: str | os.PathLike[str], *, sample: int = DEFAULT_SAMPLE, everything: bool = False, seed: int = 0
) -> Verification:
    """Check the output folder of a finished run.

    The plan is made again from the recorded inputs. What follows from it and from the results in the ledger is made
    again and compared: every column of every table, every field of the stacks' headers, of `job.json` and of the
    ledger; what follows from nothing (times, the host) is covered by digests. A random sample of the images is
    recomputed in float64 by `cryobox.reference` from the original micrographs, and one of the windows that were refused
    for their pixels is cut again.

    Parameters
    ----------
    folder : path
    sample : int
        Images to recompute, for each stored size; and refused windows to cut again.
    everything : bool
        Recompute and cut again all.
    seed : int
        Of the sample.

    Returns
    -------
    Verification

    Raises
    ------
    OptionError
        If `sample` or `seed` is less than 0 or no whole number.
    InputError
        If the folder holds no finished run, or its inputs cannot be read any more.
    OutputError
        If the ledger is damaged, or the temporary folder has no room for the tables, which are written there again.

    Notes
    -----
    Relative paths are read as they were when the run was made, from the recorded working directory.

    The header of every stack is read; the statistics in it are compared with the pixels of those stacks that an image
    is recomputed of, which are read whole for that: with a sample of 100 images and stacks of 100 MB at most 10 GB, a
    fraction of the time that recomputing takes. With `everything` all stacks are read.
    """
    sample = check_integer("sample", sample, 0, sys.maxsize, " images")
    seed = check_integer("seed", seed, 0, sys.maxsize)
    run, problems = read_run(Path(folder).resolve(), changed=True), Problems()
    check_complete(run)
    check_digest(run.folder / RECORD, run.job, problems)
    basis = run.basis
    check_beginnings(run, problems)
    if (basis["records"], basis["bits"]) != (FORMAT, BITS):
        problems.add(
            f"{run.folder / RECORD}: was written by cryobox {basis['cryobox']}, this is {__version__}; verify it with "
            f"that version, since this one names or rounds differently (records of kind {basis['records']}, images of "
            f"kind {basis['bits']}; here {FORMAT} and {BITS})"
        )
        return Verification(rows=0, images=0, refused=0, worst=0.0, problems=problems.texts())
    return _check(run, again(run), Sample(sample, seed, everything=everything), problems)


def _check(run: Run, inputs: Inputs, sample: Sample, problems: Problems) -> Verification:
    plan, out = inputs.plan, run.folder
    check_lines(run, plan, problems)
    results = recorded_results(run, plan, problems)
    whole = len(results) == len(plan.tasks)
    removed = {path for path in run.removed if not (out / path).exists()}
    for some, found in _plans(plan, results):
        _check_headers(out, some, found, removed, versions=versions_of(run), problems=problems)
    _find_strangers(out, plan, problems)
    if not whole:
        problems.add(
            f"{out}: the tables and job.json's counts are not compared, since records are missing in the ledger"
        )
        return Verification(rows=0, images=0, refused=0, worst=0.0, problems=problems.texts())
    check_run(run, inputs, problems)
    for some, found in _plans(plan, results):
        check_measures(some.tasks, found, str(run.last.path), problems)
    outcome = outcome_of(plan, results)
    names = compare_tables(out, inputs, outcome, problems)
    check_counts(out / RECORD, run.job, inputs, outcome, results, names, problems)
    looks = [_check_images(out, inputs, outcome, results, sample, removed, problems)]
    if plan.noise is not None and outcome.noise is not None:
        check_noise(inputs, sample, problems)
        of_noise = replace(inputs, particles=plan.noise.particles, plan=plan.noise.plan)
        found = noise_results(plan, results)
        looks.append(_check_images(out, of_noise, outcome.noise, found, sample, removed, problems))
    return Verification(
        rows=sum(look.rows for look in looks),
        images=sum(look.images for look in looks),
        refused=sum(look.refused for look in looks),
        worst=max(look.worst for look in looks),
        removed=len(removed),
        problems=problems.texts(),
    )


def _plans(plan: Plan, results: Mapping[str, TaskResult]) -> Iterator[tuple[Plan, Mapping[str, TaskResult]]]:
    """The plan of the picks and that of the boxes of noise, with what became of each."""
    yield plan, results
    if plan.noise is not None:
        yield plan.noise.plan, noise_results(plan, results)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Looked:
    """How much was looked at; as in `Verification`."""

    rows: int
    images: int
    refused: int
    worst: float


def _check_images(
    out: Path,
    inputs: Inputs,
    outcome: Outcome,
    results: Mapping[str, TaskResult],
    sample: Sample,
    removed: Collection[str],
    problems: Problems,
) -> _Looked:
    """Rows of tables against the plan, images against float64, statistics of stacks against their pixels."""
    plan = inputs.plan
    tables = read_rows(out, inputs, outcome, problems)
    images = Images(out, plan, outcome, sample, removed, problems)
    for rows in tables:
        images.compare(rows)
        if not plan.of_noise:
            check_subparticles(rows, inputs, outcome, sample, problems)
    images.check_refused(results)
    for group in groups_of(plan.tasks):
        stacks = next((results[task.id].stacks for task in group if results[task.id].stacks), ())
        for index, (output, stack) in enumerate(zip(group[0].outputs, stacks, strict=False)):
            if sample.everything or any((task.id, index) in images.stacks for task in group):
                check_pixels(out / output.path, stack, problems=problems)
    rows_checked = sum(len(rows.good) for rows in tables)
    return _Looked(rows=rows_checked, images=images.compared, refused=images.refused, worst=images.worst)


def _check_headers(
    out: Path,
    plan: Plan,
    results: Mapping[str, TaskResult],
    removed: Collection[str],
    *,
    versions: Sequence[str],
    problems: Problems,
) -> None:
    for group in groups_of(plan.tasks):
        made = [(task, results[task.id]) for task in group if task.id in results and not results[task.id].error]
        count = sum(len(task.windows) - len(found.refused) for task, found in made)
        stacks = next((found.stacks for _, found in made if found.stacks), ())
        for output, stack in zip(group[0].outputs, stacks, strict=False):
            if output.path not in removed:
                check_header(
                    out / output.path, output, count, stack, dtype=output.dtype, versions=versions, problems=problems
                )


def _find_strangers(out: Path, plan: Plan, problems: Problems) -> None:
    """Stacks that no table points at."""
    known = {output.path for task in plan.tasks for output in task.every_output}
    for folder in sorted(filter(is_stack_folder, os.listdir(out))):
        for path in sorted((out / folder).glob("*")):
            if f"{folder}/{path.name}" not in known:
                problems.add(f"{path}: belongs to no micrograph of this run; left by another one?")
