"""`job.json`: every field against the plan, the results and the ledger, and the digest of what nothing else tells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cryobox.errors import InputError
from cryobox.folder.layout import RECORD
from cryobox.folder.records import BEGINNINGS, DIGEST, is_sealed, job_record
from cryobox.folder.run import Run
from cryobox.inputs import Inputs
from cryobox.outcome import Outcome
from cryobox.results import TaskResult
from cryobox.verification.differences import as_json, nested_differences
from cryobox.verification.findings import Problems

__all__ = ["check_beginnings", "check_complete", "check_counts", "check_digest"]


def check_complete(run: Run) -> None:
    """Raise `InputError` unless `job.json` is there and says that the run has come to its end."""
    path = run.folder / RECORD
    if not run.job:
        raise InputError(f"{path}: is not there; is the run finished, and this its output folder?")
    if not run.complete:
        raise InputError(f"{path}: does not say that the run is complete; run the same command again")


def check_digest(path: Path, record: Mapping[str, Any], problems: Problems) -> None:
    """The record is as it was written."""
    fits = is_sealed(record)
    if fits is None:
        problems.add(
            f"{path}: has no digest (written before there was one?): times and what else is only recorded cannot be "
            f"checked"
        )
    elif not fits:
        problems.add(f"{path}: was changed after it was written: its digest does not fit the other fields")


def check_beginnings(run: Run, problems: Problems) -> None:
    """Versions, recipe and inputs are those of the plan, here and in the ledger."""
    basis, last = run.basis, run.last
    for text in nested_differences({key: run.job[key] for key in basis if key in run.job}, basis):
        problems.add(f"{run.folder / RECORD}: {text}")
    if run.parts:
        found = {key: last.head.get(key) for key in BEGINNINGS} | {"run.inputs": last.run.get("inputs")}
        wanted = {key: basis[key] for key in BEGINNINGS} | {"run.inputs": basis["inputs"]}
        for text in nested_differences(found, wanted):
            problems.add(f"{last.path}: {text}")


def check_counts(
    path: Path,
    record: Mapping[str, Any],
    inputs: Inputs,
    outcome: Outcome,
    results: Mapping[str, TaskResult],
    tables: Sequence[str],
    problems: Problems,
) -> None:
    """What the run counted, wrote and warned of is what plan and results give."""
    plan = inputs.plan
    said = record.get("warnings")
    expected = job_record(
        head={key: record.get(key) for key in BEGINNINGS},  # compared before
        inputs=record.get("inputs") or {},
        picks=len(plan.places.reason),
        extracted=len(outcome.rows),
        rejected=outcome.counts(),
        micrographs=len(plan.tasks) + len(plan.grounds.incomplete),
        incomplete={inputs.micrographs.names[row]: why for row, why in sorted(outcome.incomplete.items())},
        tables=tables,
        files=inputs.files,
        warnings=said if isinstance(said, list) else [],
        seconds=record.get("seconds") or {},
        noise=None if outcome.noise is None else len(outcome.noise.rows),
    )
    found = {key: value for key, value in record.items() if key != DIGEST}
    for text in nested_differences(found, as_json(expected)):
        problems.add(f"{path}: {text}", f"{path}: fields")
    # Others may stand there: of devices and workers that failed, which no plan tells.
    lacking = [*plan.warnings, *(text for found in results.values() for text in found.warnings)]
    for text in dict.fromkeys(lacking):
        if isinstance(said, list) and text not in said:
            problems.add(f"{path}: warnings lack {text!r}", f"{path}: warnings")
