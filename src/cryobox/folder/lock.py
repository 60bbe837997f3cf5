"""Who may work in an output folder: a whole run alone, or shards beside each other. One protocol for both."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from cryobox.errors import LockError, OutputError

__all__ = ["hold", "hold_idle_part", "lock_files", "starting"]

_FOLDER, _START = ".lock", ".lock.start"
_PART = re.compile(r"\.lock\.(\d+-of-\d+)")


@contextlib.contextmanager
def hold(folder: Path, part: str, *, break_lock: bool = False) -> Iterator[None]:
    """Hold the lock of a folder: alone for a whole run (`part` is ""), with other shards for one shard ("1-of-4").

    Parameters
    ----------
    folder : Path
    part : str
    break_lock : bool
        Take over from processes on other hosts that are known to be gone.

    Raises
    ------
    LockError
        If another process works here: any beside a whole run, a whole run or the same shard beside a shard.
    OutputError
        If a lock cannot be written.

    Notes
    -----
    `.lock` is locked exclusively by a whole run and shared by shards, `.lock.1-of-4` exclusively by that shard. The
    kernel decides, so nothing lies between looking and taking, and the locks of a process that died are free. Where
    another host's locks may not be seen, the text says who works: each writes its own first and reads the others' then,
    so that of two that come at once at least one sees the other.
    """
    with contextlib.ExitStack() as held:
        everybody = held.enter_context(_LockFile(folder / _FOLDER))
        if part:
            own = held.enter_context(_LockFile(folder / f"{_FOLDER}.{part}"))
            own.take(folder, own.holder)
            own.claim(folder, break_lock=break_lock)
            everybody.take(folder, everybody.holder, shared=True)
            # No whole run of this host can be at work; one of another host may be.
            everybody.check_abandoned(folder, break_lock=break_lock)
        else:
            everybody.take(folder, lambda: everybody.holder() or _working_part(folder))
            everybody.claim(folder, break_lock=break_lock)
            for path in _part_locks(folder):
                with _LockFile(path) as shard:
                    shard.check_abandoned(folder, break_lock=break_lock)
        yield


@contextlib.contextmanager
def hold_idle_part(folder: Path, part: str, *, break_lock: bool = False) -> Iterator[None]:
    """Keep another shard from working, inside `hold`.

    Raises
    ------
    LockError
        If it is at work.
    """
    with _LockFile(folder / f"{_FOLDER}.{part}") as lock:
        lock.take(folder, lock.holder)
        lock.check_abandoned(folder, break_lock=break_lock)
        yield


@contextlib.contextmanager
def starting(folder: Path) -> Iterator[None]:
    """One after the other: while a shard looks at what others have recorded, and records itself, none else does.

    Raises
    ------
    OutputError
    """
    with _LockFile(folder / _START) as lock:
        lock.wait()
        yield


def lock_files(folder: Path) -> list[str]:
    """Names of files in a folder that are, or would be taken for, locks."""
    try:
        return [name for name in os.listdir(folder) if name in (_FOLDER, _START) or _PART.fullmatch(name)]
    except OSError:
        return []


def _part_locks(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob(f"{_FOLDER}.*") if _PART.fullmatch(path.name))


def _working_part(folder: Path) -> dict[str, Any]:
    """Which shard works, for a message. Its lock is not tried: that could keep the shard itself from taking it."""
    for path in _part_locks(folder):
        with _LockFile(path) as lock:
            found = lock.holder()
        if found and (found.get("host") != socket.gethostname() or _is_alive(found.get("pid"))):
            return found
    return {}


def _is_alive(process: object) -> bool:
    try:
        os.kill(process, 0) if isinstance(process, int) else None
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


class _LockFile:
    """A file to be locked with `flock`; its text says who works. The file stays, empty, when nobody does."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._claimed = False

    def __enter__(self) -> Self:
        try:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise OutputError(f"{self._path}: cannot be written: {error.strerror}") from error
        return self

    def __exit__(self, *_: object) -> None:
        if self._claimed:
            with contextlib.suppress(OSError):
                self._replace(b"")
        os.close(self._descriptor)

    def take(self, folder: Path, holder: Callable[[], Mapping[str, Any]], *, shared: bool = False) -> None:
        """Lock it at once, or raise `LockError`, which names `holder()`."""
        try:
            fcntl.flock(self._descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LockError(
                f"{folder}: {_name(holder())} is working here; wait for it, or choose another folder"
            ) from None
        except OSError as error:
            raise OutputError(f"{self._path}: cannot be locked: {error.strerror}") from error

    def wait(self) -> None:
        """Lock it, when others have let it go."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        except OSError as error:
            raise OutputError(f"{self._path}: cannot be locked: {error.strerror}") from error

    def claim(self, folder: Path, *, break_lock: bool) -> None:
        """Write that this process works; refused where another host's text may mean that it still does."""
        self._check_left(folder, break_lock=break_lock)
        try:
            self._replace(json.dumps({"host": socket.gethostname(), "pid": os.getpid()}).encode())
        except OSError as error:
            raise OutputError(f"{self._path}: cannot be written: {error.strerror}") from error
        self._claimed = True

    def check_abandoned(self, folder: Path, *, break_lock: bool) -> None:
        """Take away what a process left that is gone."""
        if self._check_left(folder, break_lock=break_lock):
            with contextlib.suppress(OSError):
                self._replace(b"")

    def holder(self) -> dict[str, Any]:
        """What the text says; empty where it says nothing."""
        try:
            text = os.pread(self._descriptor, 4096, 0)
            found = json.loads(text) if text else {}
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _check_left(self, folder: Path, *, break_lock: bool) -> bool:
        """Whether there is a text of a process that is gone, or is said to be; `LockError` where it may not be."""
        left = self.holder()
        # On this host the kernel would still hold a living process's lock. Another host's may not be visible here.
        if left and left.get("host") != socket.gethostname() and not break_lock:
            raise LockError(
                f"{folder}: {_name(left)} may still be working here; if it is surely gone, run again with --break-lock"
            )
        return bool(left)

    def _replace(self, text: bytes) -> None:
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, text, 0)


def _name(record: Mapping[str, Any]) -> str:
    if not record:
        return "another process"
    return f"process {record.get('pid')} on host {record.get('host')}"
