"""What a run records of itself: `job.json` and the ledger's lines, each with a digest of its other fields."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["BEGINNINGS", "BITS", "DIGEST", "FORMAT", "digest", "is_sealed", "job_record", "sealed", "unsealed"]

DIGEST = "digest"

# A run may be resumed, and verified, by another version of cryobox that has the same two numbers. CONTRIBUTING.md says
# when they go up.
BITS = 1  # of what the core makes of the same pixels, and of the headers of stacks
FORMAT = 1  # of job.json and of the ledger, ids of tasks included

BEGINNINGS = ("cryobox", "records", "bits", "fftw", "recipe")  # what job.json and the ledger begin with


def job_record(
    *,
    head: Mapping[str, Any],
    inputs: Mapping[str, Any],
    picks: int,
    extracted: int,
    rejected: Mapping[str, int],
    micrographs: int,
    incomplete: Mapping[str, str],
    tables: Sequence[str],
    files: Mapping[str, Mapping[str, str]],
    warnings: Sequence[str],
    seconds: Mapping[str, float],
    noise: int | None = None,
) -> dict[str, Any]:
    """`job.json` of a finished run, not sealed yet; `verify` makes the same of what it finds.

    Parameters
    ----------
    head : mapping
        What the ledger begins with: versions, and the recipe.
    inputs : mapping
        The paths that the user gave, and the working directory.
    picks, extracted, micrographs : int
    rejected : mapping of str to int
        Picks by reason.
    incomplete : mapping of str to str
        Micrographs and why they could not be used.
    tables : sequence of str
        Names of the tables, `particles` first.
    files : mapping
        What was read: see `cryobox.inputs.Inputs.files`.
    warnings : sequence of str
    seconds : mapping of str to float
        By stage.
    noise : int, optional
        Boxes of noise, where some were asked for.
    """
    return {
        "complete": True,
        **{key: head[key] for key in BEGINNINGS},
        "inputs": dict(inputs),
        "files": {what: dict(of_what) for what, of_what in files.items()},
        "picks": picks,
        "extracted": extracted,
        **({} if noise is None else {"noise": noise}),
        "rejected": dict(rejected),
        "micrographs": micrographs,
        "incomplete": dict(incomplete),
        "tables": list(tables),
        "warnings": list(warnings),
        "seconds": dict(seconds),
    }


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with its digest, so that no field can be changed unseen, not even one that nothing else tells."""
    return {**record, DIGEST: digest(record)}


def unsealed(record: object) -> dict[str, Any]:
    """The record without its digest.

    Raises
    ------
    TypeError
        If it is no record.
    """
    if not isinstance(record, dict):
        raise TypeError(f"found {type(record).__name__}, expected names and values")
    return {key: value for key, value in record.items() if key != DIGEST}


def is_sealed(record: Mapping[str, Any]) -> bool | None:
    """Whether the digest of a record fits its other fields; None where it has none."""
    return record[DIGEST] == digest(record) if DIGEST in record else None


def digest(record: Mapping[str, Any]) -> str:
    """A hash of all fields but the digest, whatever their order and the blanks between them."""
    # Sorted, without blanks, ASCII: the same text for a record and for what is read back of it.
    text = json.dumps({key: record[key] for key in record if key != DIGEST}, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode("ascii"), digest_size=16).hexdigest()
