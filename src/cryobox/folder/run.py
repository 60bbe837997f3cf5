"""A run as its folder has it recorded: what the report, `verify` and `merge` read back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryobox.errors import InputError, OutputError
from cryobox.folder.layout import RECORD
from cryobox.folder.ledger import check_same, read_ledger
from cryobox.folder.parts import check_same_inputs, ledger_path, parts_present
from cryobox.folder.records import BEGINNINGS, is_sealed
from cryobox.given import Given
from cryobox.options import Recipe
from cryobox.results import Removed, TaskResult

__all__ = ["Part", "Run", "check_shards_there", "listed_shards", "read_record", "read_run", "read_shards"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What one ledger says.

    Parameters
    ----------
    path : Path
        The ledger.
    shard : (int, int), optional
        Whose it is; None: the folder's own, of a whole run or a merge.
    head : dict
        Versions and recipe.
    run : dict
        What the last run on it said of itself.
    results : dict of str to TaskResult
        By id of the task.
    """

    path: Path
    shard: tuple[int, int] | None
    head: dict[str, Any]
    run: dict[str, Any]
    results: dict[str, TaskResult]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run, read back.

    Parameters
    ----------
    folder : Path
    job : dict
        `job.json`; empty while the run goes on, or when it was interrupted.
    parts : tuple of Part
        What the ledgers say, shards first: the folder's own counts where both tell of a task.
    """

    folder: Path
    job: dict[str, Any]
    parts: tuple[Part, ...]

    @property
    def complete(self) -> bool:
        """Whether the run has come to its end."""
        return self.job.get("complete") is True

    @property
    def last(self) -> Part:
        """The folder's own ledger, else the last shard's, of those in which a run has begun; else an empty one."""
        none = Part(path=ledger_path(self.folder, ""), shard=None, head={}, run={}, results={})
        return next((part for part in reversed(self.parts) if part.run), self.parts[-1] if self.parts else none)

    @property
    def results(self) -> dict[str, TaskResult]:
        """All results by id of the task."""
        return {task: result for part in self.parts for task, result in part.results.items()}

    @property
    def removed(self) -> dict[str, Removed]:
        """Stacks that `cryobox compact` removed, by path."""
        return dict(self.last.head.get("removed") or {}) if self.last.shard is None else {}

    @property
    def basis(self) -> dict[str, Any]:
        """Versions, recipe and inputs from which the plan is made again: `job.json`'s, unless that was changed.

        Where its digest does not fit, the ledger's count, which are the same in a folder that nobody touched.
        """
        said = {key: self.last.head[key] for key in BEGINNINGS if key in self.last.head}
        said |= {"inputs": self.last.run["inputs"]} if "inputs" in self.last.run else {}
        if not self.job:
            return said
        found = {key: self.job.get(key) for key in (*BEGINNINGS, "inputs")}
        return found | said if is_sealed(self.job) is False else found

    @property
    def given(self) -> Given:
        """The inputs.

        Raises
        ------
        InputError
            If they are not recorded.
        """
        inputs = self.basis.get("inputs")
        if not isinstance(inputs, Mapping):
            raise InputError(f"{self.folder}: its records do not name the inputs; was it made by another version?")
        return Given.from_dict(inputs)

    @property
    def recipe(self) -> Recipe:
        """The recipe, with style and contrast decided.

        Raises
        ------
        InputError
            If it is none of this version.
        """
        source = self.folder / RECORD if self.job and is_sealed(self.job) is not False else self.last.path
        return Recipe.from_dict(self.basis.get("recipe"), str(source))


def read_run(folder: Path, *, changed: bool = False) -> Run:
    """Read `job.json` and all ledgers of a folder.

    Parameters
    ----------
    folder : Path
    changed : bool
        Also read lines of ledgers that were changed after they were written: for who tells of them.

    Raises
    ------
    InputError
        If `job.json` cannot be read.
    OutputError
        If a ledger is damaged.
    """
    return Run(folder=folder, job=read_record(folder / RECORD), parts=_read_parts(folder, own=True, changed=changed))


def read_record(path: Path) -> dict[str, Any]:
    """A `job.json`; empty if it is not there.

    Raises
    ------
    InputError
        If it cannot be read, or is no record.
    """
    try:
        record = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path}: not the job.json of a run: {error}") from error
    if not isinstance(record, dict):
        raise InputError(f"{path}: not the job.json of a run: found {type(record).__name__}")
    return record


def _read_parts(folder: Path, *, own: bool, changed: bool = False) -> tuple[Part, ...]:
    paths: list[tuple[tuple[int, int] | None, Path]] = [*parts_present(folder).items()]
    if own and ledger_path(folder, "").exists():
        paths.append((None, ledger_path(folder, "")))
    found = []
    for shard, path in paths:
        head, results = read_ledger(path, changed=changed)
        found.append(Part(path=path, shard=shard, head=head, run=head.get("run") or {}, results=results))
    return tuple(found)


def check_shards_there(folder: Path) -> None:
    """Raise `OutputError` unless a folder holds records of shards."""
    if not parts_present(folder):
        raise OutputError(f"{folder}: holds no shards (ledger.1-of-N.jsonl); is it the --out of the shards?")


def read_shards(folder: Path) -> Run:
    """Read what all shards of a folder recorded; none may be at work. What an earlier merge said does not count.

    Raises
    ------
    OutputError
        If a shard is missing, or they are of different runs.
    """
    check_shards_there(folder)
    present = parts_present(folder)
    counts = sorted({count for _, count in present})
    if len(counts) > 1:
        names = ", ".join(path.name for path in present.values())
        raise OutputError(
            f"{folder}: holds shards of runs in {' and in '.join(map(str, counts))} parts ({names}); "
            f"remove the ledgers of those that do not belong here"
        )
    missing = [index for index in range(1, counts[0] + 1) if (index, counts[0]) not in present]
    if missing:
        raise OutputError(
            f"{folder}: {listed_shards(missing, counts[0])} not there; run what is missing, then merge again"
        )
    parts = _read_parts(folder, own=False)
    first = parts[0]
    for index, part in enumerate(parts, start=1):
        check_same(folder, first.head, part.head, may_grow=False)
        check_same_inputs(folder, (f"shard 1 of {counts[0]}", first.run), (f"shard {index}", part.run))
    return Run(folder=folder, job={}, parts=parts)


def listed_shards(numbers: Sequence[int], count: int, verb: str | None = None) -> str:
    """Shards in a sentence, with the verb that follows."""
    plural = len(numbers) > 1
    listed = ", ".join(map(str, numbers[:10])) + (", ..." if len(numbers) > 10 else "")
    ending = (" are" if plural else " is") if verb is None else verb
    return f"shard{'s' if plural else ''} {listed} of {count}{ending}"
