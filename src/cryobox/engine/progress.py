"""What a run tells while it goes on: one callback, one kind of event."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cryobox.plan import Group, Task
from cryobox.results import TaskResult

__all__ = ["Progress", "ProgressCallback", "Tally"]


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


class Tally:
    """Counts what is done and tells the callback.

    Parameters
    ----------
    tasks : sequence of Task
        All that this run is to have done in the end.
    finished : dict of str to TaskResult
        What an earlier run had done.
    rejected : int
        Picks that the plan refused.
    callback : callable, optional
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        finished: dict[str, TaskResult],
        rejected: int,
        callback: ProgressCallback | None,
    ) -> None:
        self._callback = callback
        self._began = time.perf_counter()
        self._micrographs_total = len(tasks)
        self._particles_total = sum(len(task.windows) for task in tasks)
        self._rejected = rejected
        self._micrographs = self._particles = self.bytes_read = self.bytes_written = 0
        for task in tasks:
            if task.id in finished:
                self._count(task, finished[task.id])
        self._tell("", "")

    def add(self, group: Group, results: Sequence[TaskResult]) -> None:
        """Count tasks that have just been finished."""
        self.bytes_written += sum({stack.path: stack.bytes for one in results for stack in one.every_stack}.values())
        for task, result in zip(group, results, strict=True):
            self._count(task, result)
            self.bytes_read += result.bytes_read
            self._tell(task.micrograph, result.error)

    def _count(self, task: Task, result: TaskResult) -> None:
        self._micrographs += 1
        self._particles += result.kept
        self._rejected += len(task.windows) if result.error else len(result.refused)

    def _tell(self, micrograph: str, error: str) -> None:
        if self._callback is not None:
            self._callback(
                Progress(
                    micrographs=self._micrographs,
                    micrographs_total=self._micrographs_total,
                    particles=self._particles,
                    particles_total=self._particles_total,
                    rejected=self._rejected,
                    bytes_read=self.bytes_read,
                    bytes_written=self.bytes_written,
                    seconds=time.perf_counter() - self._began,
                    micrograph=micrograph,
                    error=error,
                )
            )
