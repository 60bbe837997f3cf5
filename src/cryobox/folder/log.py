"""`run.log`: what a run told its user, with the time, beside its results; Python's `logging` is told the same."""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import time
from pathlib import Path
from typing import IO, Self

from cryobox.folder.layout import log_name

__all__ = ["RunLog"]

_logger = logging.getLogger("cryobox")
_logger.addHandler(logging.NullHandler())  # a program that wants to hear it says so; others hear nothing twice


def _opened(path: Path, *, anew: bool) -> IO[str] | None:
    """A log to be written to, if it is one: no link to another file, and nothing that makes a writer wait."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o644)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        os.close(descriptor)
        return None
    if anew:
        os.ftruncate(descriptor, 0)
    return open(descriptor, "a", encoding="utf-8", errors="backslashreplace")


class RunLog:
    """The log of one part of a run, whose lock is held. Use as a context manager.

    What ends the run before its time is said at the end. A log that cannot be written keeps no run from its work: what
    counts is in the ledger and in `job.json`.

    Parameters
    ----------
    folder : Path
    part : str
        "1-of-4" for a shard, "" for a whole run.
    anew : bool
        Forget what earlier runs said.
    """

    def __init__(self, folder: Path, part: str, *, anew: bool) -> None:
        self._file: IO[str] | None = None
        with contextlib.suppress(OSError):
            self._file = _opened(folder / log_name(part), anew=anew)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if error is not None:
            self._say(logging.ERROR, str(error) or type(error).__name__)
        with contextlib.suppress(OSError):
            if self._file is not None:
                self._file.close()

    def tell(self, text: str) -> None:
        """Say how the run goes on."""
        self._say(logging.INFO, text)

    def caution(self, text: str) -> None:
        """Say what a user should look at."""
        self._say(logging.WARNING, text)

    def _say(self, level: int, text: str) -> None:
        _logger.log(level, "%s", text)
        line = " ".join(text.split("\n"))
        with contextlib.suppress(OSError):
            if self._file is not None:
                print(time.strftime("%Y-%m-%dT%H:%M:%S%z"), logging.getLevelName(level).lower(), line,
                      file=self._file, flush=True)  # fmt: skip
