"""Which files the readers of tables have read, with a digest of each: what a run must find again, and never replace."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from cryobox.errors import InputError

__all__ = ["note", "noting"]

_noted: ContextVar[dict[str, tuple[str, os.stat_result]] | None] = ContextVar("_noted", default=None)


@contextmanager
def noting() -> Iterator[dict[str, str]]:
    """While this lasts, every file that is read as a table or as coordinates goes into the dictionary at its end.

    Yields
    ------
    dict of str to str
        Digest of the content by path, in the order of reading; filled when the block ends.

    Raises
    ------
    InputError
        At the end, if one of them changed meanwhile, so that nobody could say what was read.
    """
    found: dict[str, str] = {}
    noted: dict[str, tuple[str, os.stat_result]] = {}
    token = _noted.set(noted)
    try:
        yield found
    finally:
        _noted.reset(token)
    for path, (digest, before) in noted.items():
        try:
            now = os.stat(path)
        except OSError as error:
            raise InputError(f"{path}: is gone since it was read: {error.strerror}") from error
        if (now.st_size, now.st_mtime_ns, now.st_ino) != (before.st_size, before.st_mtime_ns, before.st_ino):
            raise InputError(f"{path}: changed while it was read; run again when it is whole")
        found[path] = digest


def note(path: str | Path) -> None:
    """Say that a file is going to be read; what cannot be opened is left to the reader's own message."""
    noted, name = _noted.get(), os.fspath(path)
    if noted is None or name in noted:
        return
    try:
        if not stat.S_ISREG(os.stat(name).st_mode):  # opening a FIFO would wait for ever
            return
        with open(name, "rb") as file:
            status = os.fstat(file.fileno())
            found = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16))
    except (OSError, ValueError):
        return
    noted[name] = found.hexdigest(), status
