"""Files that appear while a session goes on: which of them are whole, and when the watching ends."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

from cryobox.errors import MicrographError
from cryobox.folder.layout import STOP_FILE
from cryobox.formats.images import read_header
from cryobox.micrograph import ImageHeader

__all__ = ["Arrivals", "Patience"]

_LOOK_SECONDS = 0.5


class Arrivals:
    """Tells files that are whole from those that are still being written: they stay as they are for some seconds.

    Parameters
    ----------
    settle : float
        Seconds for which size and time of change must stay the same.
    """

    def __init__(self, settle: float) -> None:
        self._settle = settle
        self._seen: dict[str, tuple[tuple[int, int], float]] = {}
        self._headers: dict[str, ImageHeader] = {}
        self.pending: set[str] = set()

    def ready(self, path: str) -> bool:
        """Whether a file is whole, as far as one can see from outside."""
        try:
            status = os.stat(path)
        except OSError:
            return False
        state, now = (status.st_size, status.st_mtime_ns), time.monotonic()
        # A file that was finished long before the first look need not be looked at twice.
        rested = max(0.0, min(time.time() - status.st_mtime, self._settle))
        before, since = self._seen.get(path, (state, now - rested))
        if before != state:
            since = now
        self._seen[path] = state, since
        whole = now - since >= self._settle
        (self.pending.discard if whole else self.pending.add)(path)
        return whole

    def look(self, path: str) -> ImageHeader:
        """The header of a micrograph that is whole; read once, as long as the file stays as it is.

        Raises
        ------
        MicrographError
        """
        if not self.ready(path):
            if not os.path.exists(path):
                raise MicrographError(f"{path}: is not there yet")
            raise MicrographError(f"{path}: is still being written")
        header = self._headers.get(path)
        if header is None or (header.file_size, header.mtime_ns) != self._seen[path][0]:
            header = self._headers[path] = read_header(path)
        return header


class Patience:
    """Waits between rounds, and says when there is nothing more to wait for.

    Parameters
    ----------
    folder : Path
        Output folder, for the stop file.
    every : float
        Seconds between rounds.
    idle_timeout : float, optional
        Seconds without news after which the watching ends.
    stop : threading.Event
    """

    def __init__(self, folder: Path, *, every: float, idle_timeout: float | None, stop: threading.Event) -> None:
        self._file, self._every, self._idle_timeout, self._stop = folder / STOP_FILE, every, idle_timeout, stop
        self._news = time.monotonic()

    def news(self) -> None:
        """Something new was seen."""
        self._news = time.monotonic()

    def over(self) -> bool:
        """Whether the stop file is there, or nothing new has come for long enough."""
        idle = time.monotonic() - self._news
        return self._file.exists() or (self._idle_timeout is not None and idle >= self._idle_timeout)

    def obeyed(self) -> None:
        """Take the stop file away, so that it does not end the next session."""
        self._file.unlink(missing_ok=True)

    def wait(self) -> None:
        """Wait until the next round is due, or it is over, or someone stops it."""
        until = time.monotonic() + self._every
        while not self.over() and (left := until - time.monotonic()) > 0:
            if self._stop.wait(min(left, _LOOK_SECONDS)):
                return
