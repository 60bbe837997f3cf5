"""The append-only record of finished tasks. Only the driver writes here, who holds the lock of the folder."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from cryobox.errors import OutputError
from cryobox.folder.layout import is_stack_folder
from cryobox.folder.parts import ledger_path
from cryobox.folder.publish import sync_folder
from cryobox.folder.records import is_sealed, sealed, unsealed
from cryobox.options import Recipe
from cryobox.results import Removed, StackInfo, TaskResult

__all__ = ["Ledger", "check_same", "is_whole", "read_forgiving", "read_ledger", "remove_recorded"]


def read_ledger(path: Path, *, changed: bool = False) -> tuple[dict[str, Any], dict[str, TaskResult]]:
    """Return the head of a ledger and its finished tasks by id; the last record of a task counts.

    The head is the first line, or what replaced it later: another limit, a newer version (`Ledger`). It also has, as
    "run", what the last run on this ledger said of itself (`Ledger.begin`). A torn last line (the machine stopped while
    it was written) is ignored.

    Parameters
    ----------
    path : Path
    changed : bool
        Also read lines that were changed after they were written: for who tells of them, and trusts none.

    Raises
    ------
    OutputError
        If the ledger cannot be read, or another line than the last is damaged or was changed.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return {}, {}
    except OSError as error:
        raise OutputError(f"{path}: cannot be read: {error.strerror}") from error
    lines.pop()  # whole lines end in a newline: this is empty, or torn
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(json.loads(line))
        except ValueError as error:
            raise OutputError(f"{path}: line {number} is damaged; start anew with --overwrite") from error
        if not changed and isinstance(records[-1], dict) and is_sealed(records[-1]) is False:
            raise OutputError(f"{path}: line {number} was changed after it was written; start anew with --overwrite")
    if not records:
        return {}, {}
    head: dict[str, Any] = {}
    finished: dict[str, TaskResult] = {}
    try:
        head |= unsealed(records[0])
        for record in map(unsealed, records[1:]):
            _take(record, head, finished)
    except _OF_ANOTHER_KIND as error:
        raise OutputError(f"{path}: holds records of another kind ({error!r}); start anew with --overwrite") from error
    return head, finished


_OF_ANOTHER_KIND = (AttributeError, KeyError, TypeError, ValueError)


def _take(record: dict[str, Any], head: dict[str, Any], finished: dict[str, TaskResult]) -> None:
    """What one line, after the first, changes."""
    if "head" in record:
        kept = {key: head[key] for key in ("run", "removed") if key in head}
        head.clear()
        head.update(record["head"] | kept)
    elif "run" in record:
        head["run"] = record["run"]
    elif "removed" in record:
        head["removed"] = {path: Removed(**how) for path, how in record["removed"].items()}
    elif "replaced" in record:
        for task in record["replaced"]:
            finished.pop(task, None)
    else:
        result = _result(record)
        finished[result.id] = result


class Ledger:
    """The open ledger of one part of a run, whose lock is held (`folder.lock`). Use as a context manager.

    Parameters
    ----------
    folder : Path
    part : str
    head : mapping
        What every later run in this folder must agree with: versions and recipe.
    overwrite : bool
        Forget what was there.
    fsync : bool

    Raises
    ------
    OutputError
        If the folder holds a run with another head; the message names what differs.
    """

    def __init__(
        self,
        folder: Path,
        *,
        part: str,
        head: Mapping[str, Any],
        overwrite: bool = False,
        fsync: bool = True,
    ) -> None:
        self.part = part
        self.folder = folder
        self._head = dict(head)
        self._path = ledger_path(folder, part)
        self._fsync = fsync
        self.previous: dict[str, TaskResult] = {}
        self.finished: dict[str, TaskResult] = {}
        self.removed: dict[str, Removed] = {}
        old_head, self.previous = read_ledger(self._path) if not overwrite else read_forgiving(self._path)
        if old_head and not overwrite:
            check_same(folder, old_head, head)
            self.finished = dict(self.previous)
            self.removed = old_head.get("removed") or {}
        # What is overwritten stays readable until its tables and stacks are gone: see `remove_stacks`.
        self._open(anew=not old_head and not (overwrite and self._path.exists()))
        # Written when the run begins: one that is refused before changes nothing.
        self._head_changed = (
            bool(old_head) and not overwrite and any(old_head.get(key) != self._head[key] for key in self._head)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # every line was forced to the disk, or is not needed
            self._file.close()

    def begin(self, run: Mapping[str, Any]) -> None:
        """Record what a run that now works on this ledger says of itself: inputs, host, time."""
        if self._head_changed:
            self._write({"head": self._head})
            self._head_changed = False
        self._write({"run": dict(run)})

    def remove(self, stacks: Mapping[str, Removed]) -> None:
        """Record which stacks are removed, by path: all of them, and none that was recorded before."""
        self._write({"removed": {path: dataclasses.asdict(how) for path, how in stacks.items()}})

    def append(self, *results: TaskResult) -> None:
        """Record finished tasks. Their stacks must have their names, and be on the disk, before."""
        if not results:
            return
        self._write(*map(_record, results))
        self.finished |= {result.id: result for result in results}

    def make_room(self, todo: Collection[str], stacks: Collection[str]) -> None:
        """Forget, on the disk, the results whose `stacks` the tasks `todo`, named by their ids, will replace.

        Else a run whose picks are changed and changed back would find the old record, the file that it names with the
        size that it says, and in it the images of the other picks.
        """
        replaced = [
            result.id
            for result in self.previous.values()
            if result.id not in todo and any(stack.path in stacks for stack in result.every_stack)
        ]
        if replaced:
            self._write({"replaced": replaced})
            for task in replaced:
                self.finished.pop(task, None)

    def drop_unless_done(self, *tasks: str) -> bool:
        """Whether tasks, by id, are recorded without error and their stacks are as large as recorded; else forget."""
        results = [self.finished.get(task) for task in tasks]
        whole = all(result is not None and is_whole(self.folder, result) for result in results)
        if not whole:
            for task in tasks:
                self.finished.pop(task, None)
        return whole

    def remove_stacks(self, *, keep: Collection[str] = ()) -> None:
        """Remove the stacks that the ledger which is overwritten recorded, no other file, and then forget them.

        Those in `keep` are another part's by now.
        """
        remove_recorded(self.folder, self.previous.values(), keep=keep)
        try:
            self._file.truncate(0)
            self._file.seek(0)
        except OSError as error:
            raise OutputError(f"{self.folder}: cannot be cleared: {error.strerror}") from error
        self.previous = {}
        self._write_head()

    def _open(self, *, anew: bool) -> None:
        try:
            # Not buffered: what could not be written must not be tried again when the file is closed.
            self._file = open(self._path, "wb" if anew else "r+b", buffering=0)  # noqa: SIM115 - closed in __exit__
            if not anew:
                # Cut off a torn last line, so that the next record starts on a line of its own.
                whole = self._path.read_bytes().rfind(b"\n") + 1
                self._file.truncate(whole)
                self._file.seek(whole)
        except OSError as error:
            raise OutputError(f"{self._path}: cannot be written: {error.strerror}") from error
        if anew:
            self._write_head()

    def _write_head(self) -> None:
        self._write(self._head)
        if self._fsync:
            sync_folder(self.folder)

    def _write(self, *records: Mapping[str, Any]) -> None:
        """Append lines; what cannot be written whole, or not be forced to the disk, is taken back."""
        left = memoryview("".join(json.dumps(sealed(record)) + "\n" for record in records).encode())
        begin = self._file.tell()
        try:
            while left:
                left = left[self._file.write(left) :]
            if self._fsync:
                os.fsync(self._file.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(begin)
                self._file.seek(begin)
            raise OutputError(f"{self._path}: cannot be written: {error.strerror}") from error


def is_whole(folder: Path, result: TaskResult) -> bool:
    """Whether a result has no error, and each of its stacks is there with the size that it says."""
    return not result.error and all(_size(folder / stack.path) == stack.bytes for stack in result.every_stack)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def remove_recorded(folder: Path, results: Iterable[TaskResult], *, keep: Collection[str] = ()) -> None:
    """Remove the stacks that `results` name, without those in `keep`.

    Raises
    ------
    OutputError
    """
    try:
        for stack in (stack for result in results for stack in result.every_stack):
            steps = stack.path.split("/")
            if is_stack_folder(steps[0]) and ".." not in steps and stack.path not in keep:
                (folder / stack.path).unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be cleared: {error.strerror}") from error


def read_forgiving(path: Path) -> tuple[dict[str, Any], dict[str, TaskResult]]:
    """Head and results as far as they can be read, for what is to be removed.

    Lines that are damaged, or were changed after they were written, say nothing; a result that was to be replaced
    counts, since its stack may have stayed.
    """
    head: dict[str, Any] = {}
    finished: dict[str, TaskResult] = {}
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError:
        return {}, {}
    for line in lines:
        try:
            record = json.loads(line)
            if is_sealed(record) is False:
                continue
            if not head and "recipe" in record:
                head.update(unsealed(record))
            elif "replaced" not in record:
                _take(unsealed(record), head, finished)
        except _OF_ANOTHER_KIND:
            continue
    return head, finished


def check_same(folder: Path, old: Mapping[str, Any], new: Mapping[str, Any], *, may_grow: bool = True) -> None:
    """Raise `OutputError`, which names the difference, unless a run with the head `new` may go on where `old` was.

    The versions of cryobox may differ, as long as their records and their bits are the same. With `may_grow` the limit
    may be larger, or be gone: what was cut stays as it is. An empty `old` is one that was never written.
    """
    if not old:
        return
    for key, what in (("records", "records of kind"), ("bits", "images of kind"), ("fftw", "fftw")):
        if old.get(key) != new.get(key):
            raise OutputError(
                f"{folder}: was begun with {what} {old.get(key)} (cryobox {old.get('cryobox')}), this is {what} "
                f"{new.get(key)} (cryobox {new.get('cryobox')}); stacks of one run must be of one kind: finish it with "
                f"that version, or start anew with --overwrite"
            )
    old_recipe, new_recipe = old.get("recipe") or {}, new["recipe"]
    unsaid = {field.name: field.default for field in dataclasses.fields(Recipe)}  # older records lack what was added
    for key in sorted(set(old_recipe) | set(new_recipe)):
        before, now = _listed(old_recipe.get(key, unsaid.get(key))), _listed(new_recipe.get(key))
        grown = key == "limit" and isinstance(before, int) and (now is None or now > before)
        grown |= key == "earlier_limits" and now is not None and now[: len(before or [])] == (before or [])
        if before == now or (grown and may_grow):
            continue
        raise OutputError(
            f"{folder}: holds a run with {key} = {before}, now it is {now}; choose another folder, or start anew with "
            f"--overwrite"
        )


def _listed(value: Any) -> Any:
    """A value as JSON has it."""
    return list(value) if isinstance(value, tuple) else value


def _record(result: TaskResult) -> dict[str, Any]:
    """A result as a line has it: what no noise or measures were asked of says nothing of them."""
    found = dataclasses.asdict(result) | {"noise": None if result.noise is None else _record(result.noise)}
    return {key: value for key, value in found.items() if value or key not in ("noise", "measures")}


def _result(record: dict[str, Any]) -> TaskResult:
    return TaskResult(
        **record
        | {
            "refused": tuple((int(index), str(reason)) for index, reason in record["refused"]),
            "stacks": tuple(StackInfo(**stack) for stack in record["stacks"]),
            "warnings": tuple(record["warnings"]),
            "noise": None if record.get("noise") is None else _result(record["noise"]),
        }
    )
