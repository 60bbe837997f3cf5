"""The append-only record of finished tasks, and the lock of an output folder. Only the driver writes here."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Self

from cryobox.engine.task import StackInfo, TaskResult, sync_folder
from cryobox.errors import LockError, OutputError

__all__ = ["Ledger", "ledger_path", "read_ledger"]


def ledger_path(folder: Path, part: str) -> Path:
    """The ledger of a whole run (`part` is "") or of one shard ("1-of-4")."""
    return folder / (f"ledger.{part}.jsonl" if part else "ledger.jsonl")


def read_ledger(path: Path) -> tuple[dict[str, Any], dict[str, TaskResult]]:
    """Return the head of a ledger and its finished tasks by id; the last record of a task counts.

    A torn last line (the machine stopped while it was written) is ignored.

    Raises
    ------
    OutputError
        If the ledger cannot be read, or another line than the last is damaged.
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
    if not records:
        return {}, {}
    try:
        finished = [_result(record) for record in records[1:]]
    except (KeyError, TypeError) as error:
        raise OutputError(f"{path}: holds records of another kind ({error!r}); start anew with --overwrite") from error
    return records[0], {result.id: result for result in finished}


class Ledger:
    """The open ledger of one part of a run, with the part's lock held. Use as a context manager.

    Parameters
    ----------
    folder : Path
    part : str
    head : mapping
        What every later run in this folder must agree with: versions and recipe.
    overwrite : bool
        Forget what was there.
    break_lock : bool
        Take the lock of a process on another host that is known to be gone.
    fsync : bool

    Raises
    ------
    LockError
        If another process works on this part.
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
        break_lock: bool = False,
        fsync: bool = True,
    ) -> None:
        self._path = ledger_path(folder, part)
        self._fsync = fsync
        self._lock = _Lock(folder / (f".lock.{part}" if part else ".lock"), break_lock=break_lock)
        self.previous: dict[str, TaskResult] = {}
        self.finished: dict[str, TaskResult] = {}
        try:
            old_head, self.previous = read_ledger(self._path) if not overwrite else _forgiving(self._path)
            if old_head and not overwrite:
                _check_head(folder, old_head, head)
                self.finished = dict(self.previous)
            self._file = self._open(head, anew=overwrite or not old_head)
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._lock.release()

    def append(self, result: TaskResult) -> None:
        """Record a finished task. Its stacks must have their names, and be on the disk, before."""
        self._write(json.dumps(dataclasses.asdict(result)))
        self.finished[result.id] = result

    def _open(self, head: Mapping[str, Any], *, anew: bool) -> IO[bytes]:
        try:
            file = open(self._path, "wb" if anew else "r+b")  # noqa: SIM115 - closed in __exit__
        except OSError as error:
            raise OutputError(f"{self._path}: cannot be written: {error.strerror}") from error
        self._file = file
        if anew:
            self._write(json.dumps(dict(head)))
            if self._fsync:
                sync_folder(self._path.parent)
        else:
            # Cut off a torn last line, so that the next record starts on a line of its own.
            whole = self._path.read_bytes().rfind(b"\n") + 1
            file.truncate(whole)
            file.seek(whole)
        return file

    def _write(self, text: str) -> None:
        try:
            self._file.write(text.encode() + b"\n")
            self._file.flush()
            if self._fsync:
                os.fsync(self._file.fileno())
        except OSError as error:
            raise OutputError(f"{self._path}: cannot be written: {error.strerror}") from error


def _forgiving(path: Path) -> tuple[dict[str, Any], dict[str, TaskResult]]:
    try:
        return read_ledger(path)
    except OutputError:
        return {}, {}


def _check_head(folder: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    for key in ("cryobox", "fftw"):
        if old.get(key) != new.get(key):
            raise OutputError(
                f"{folder}: was begun with {key} {old.get(key)}, this is {key} {new.get(key)}; stacks of one run must "
                f"come from one version: finish it with that one, or start anew with --overwrite"
            )
    old_recipe, new_recipe = old.get("recipe") or {}, new["recipe"]
    for key in sorted(set(old_recipe) | set(new_recipe)):
        if old_recipe.get(key) != new_recipe.get(key):
            raise OutputError(
                f"{folder}: holds a run with {key} = {old_recipe.get(key)}, now it is {new_recipe.get(key)}; "
                f"choose another folder, or start anew with --overwrite"
            )


def _result(record: dict[str, Any]) -> TaskResult:
    return TaskResult(
        **record
        | {
            "refused": tuple((int(index), str(reason)) for index, reason in record["refused"]),
            "stacks": tuple(StackInfo(**stack) for stack in record["stacks"]),
            "warnings": tuple(record["warnings"]),
        }
    )


class _Lock:
    """A file that one process holds with `flock`; its text says who. The file stays, empty, when nobody does."""

    def __init__(self, path: Path, *, break_lock: bool) -> None:
        self._path = path
        host = socket.gethostname()
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise OutputError(f"{path}: cannot be written: {error.strerror}") from error
        try:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise LockError(
                    f"{path.parent}: {_holder(self._read())} is working here; wait for it, or choose another folder"
                ) from None
            left = self._read()
            # On this host the kernel would still hold a living process's lock. Another host's may not be visible here.
            if left and left.get("host") != host and not break_lock:
                raise LockError(
                    f"{path.parent}: {_holder(left)} may still be working here; if it is surely gone, "
                    f"run again with --break-lock"
                )
            self._replace(json.dumps({"host": host, "pid": os.getpid()}).encode())
        except BaseException:
            os.close(self._descriptor)
            raise

    def release(self) -> None:
        """Let others in."""
        with contextlib.suppress(OSError):
            self._replace(b"")
        os.close(self._descriptor)

    def _read(self) -> dict[str, Any]:
        try:
            text = os.pread(self._descriptor, 4096, 0)
            found = json.loads(text) if text else {}
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _replace(self, text: bytes) -> None:
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, text, 0)


def _holder(record: Mapping[str, Any]) -> str:
    if not record:
        return "another process"
    return f"process {record.get('pid')} on host {record.get('host')}"
