"""`job.json`: every field against the plan, the results and the ledger, and the digest of what nothing else tells."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cryobox.engine.task import TaskResult
from cryobox.errors import InputError
from cryobox.inputs import Inputs
from cryobox.records import BEGINNINGS, DIGEST, is_sealed, job_record
from cryobox.tables import Outcome
from cryobox.verification.differences import as_json, nested_differences
from cryobox.verification.findings import Problems
from cryobox.verification.ledgers import Ledgers

__all__ = ["check_beginnings", "check_counts", "check_digest", "read_job", "trusted"]


def read_job(out: Path) -> dict[str, Any]:
    """Read `job.json`.

    Raises
    ------
    InputError
        If it is not there, cannot be read, or does not say that the run is complete.
    """
    path = out / "job.json"
    try:
        record = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path}: is not there; is the run finished, and this its output folder?") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    if not isinstance(record, dict) or record.get("complete") is not True:
        raise InputError(f"{path}: does not say that the run is complete; run the same command again")
    return record


def trusted(record: Mapping[str, Any], ledgers: Ledgers) -> dict[str, Any]:
    """Versions, recipe and inputs from which the plan is made again: `job.json`'s, unless that was changed.

    Where its digest does not fit, the ledger's count, which are the same in a folder that nobody touched.
    """
    found = {key: record.get(key) for key in (*BEGINNINGS, "inputs")}
    if is_sealed(record) is False:
        found |= {key: ledgers.head[key] for key in BEGINNINGS if key in ledgers.head}
        found |= {"inputs": ledgers.run["inputs"]} if "inputs" in ledgers.run else {}
    return found


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


def check_beginnings(
    path: Path, record: Mapping[str, Any], basis: Mapping[str, Any], ledgers: Ledgers, problems: Problems
) -> None:
    """Versions, recipe and inputs are those of the plan, here and in the ledger."""
    for text in nested_differences({key: record[key] for key in basis if key in record}, basis):
        problems.add(f"{path}: {text}")
    if ledgers.paths:
        found = {key: ledgers.head.get(key) for key in BEGINNINGS} | {"run.inputs": ledgers.run.get("inputs")}
        wanted = {key: basis[key] for key in BEGINNINGS} | {"run.inputs": basis["inputs"]}
        for text in nested_differences(found, wanted):
            problems.add(f"{ledgers.path}: {text}")


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
    )
    found = {key: value for key, value in record.items() if key != DIGEST}
    for text in nested_differences(found, as_json(expected)):
        problems.add(f"{path}: {text}", f"{path}: fields")
    # Others may stand there: of devices and workers that failed, which no plan tells.
    lacking = [*plan.warnings, *(text for found in results.values() for text in found.warnings)]
    for text in dict.fromkeys(lacking):
        if isinstance(said, list) and text not in said:
            problems.add(f"{path}: warnings lack {text!r}", f"{path}: warnings")
