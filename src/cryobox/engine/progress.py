"""What a run tells while it goes on: one callback, one kind of event."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Progress", "ProgressCallback"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where a run stands. Counts include what an earlier, interrupted run of the same folder had done.

    Parameters
    ----------
    micrographs, micrographs_total : int
    particles, particles_total : int
        Images stored so far, and as many as there are if none is refused for its pixels.
    rejected : int
        Picks refused so far, those that the plan refused included.
    bytes_read, bytes_written : int
        In this run.
    seconds : float
        Since this run began to cut.
    micrograph : str
        The one that has just been finished; "" for the first event.
    error : str
        Why it could not be used; "" if it was.
    """

    micrographs: int
    micrographs_total: int
    particles: int
    particles_total: int
    rejected: int
    bytes_read: int
    bytes_written: int
    seconds: float
    micrograph: str = ""
    error: str = ""


ProgressCallback = Callable[[Progress], None]
