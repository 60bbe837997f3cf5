"""The program as whose job an extraction runs: it may stop it, hears how far it is, and knows what comes next."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from cryobox.engine.progress import Progress
    from cryobox.job import RunResult

__all__ = ["Host"]


class Host(Protocol):
    """What an extraction asks and tells the program whose job it is."""

    def progress(self, now: Progress, stop: threading.Event) -> None:
        """Hear of each micrograph; whoever sets `stop` ends the run early and resumable."""

    def next_steps(self, result: RunResult) -> list[str]:
        """What the user does now, in words for the summary."""

    def ended(self, result: RunResult) -> None:
        """Take the result: tables are written, or the run was interrupted."""
