"""What became of one micrograph, and the stacks that were written of it: numbers only, never images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

__all__ = ["Removed", "StackInfo", "TaskResult", "counts_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StackInfo:
    """A stack that was written: path relative to the output folder, bytes, and the statistics in its header."""

    path: str
    bytes: int
    minimum: float
    maximum: float
    mean: float
    rms: float
    clamped: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskResult:
    """What became of a task: numbers only, never images.

    Parameters
    ----------
    id : str
        Of the task.
    kept : int
        Images in each stack.
    refused : tuple of (int, str)
        Windows refused for their pixels, with the reason.
    stacks : tuple of StackInfo
        Largest size first; empty if nothing was kept.
    background_mean, background_sd : float
        Means over the kept particles, in gray levels of the micrograph; nan without normalization.
    read_seconds, extract_seconds, write_seconds : float
    ended : float
        When, in seconds since 1970; 0 where it is not known.
    bytes_read : int
    warnings : tuple of str
    error : str
        Why the micrograph could not be used; "" if it was.
    counts : dict of str to int
        What steps found in it, where it is not 0: pixels replaced as "dust" (in images of the first size), particles
        too "crowded" for a background without their neighbors, "hot_pixels" of the micrograph.
    measures : str
        Of the windows that could be cut, kept or left out by the filter, as `measuring.as_text` has them; "" where they
        are not asked for.
    noise : TaskResult, optional
        The same of the boxes of noise that were cut with it.
    """

    id: str
    kept: int = 0
    refused: tuple[tuple[int, str], ...] = ()
    stacks: tuple[StackInfo, ...] = ()
    background_mean: float = float("nan")
    background_sd: float = float("nan")
    read_seconds: float = 0.0
    extract_seconds: float = 0.0
    write_seconds: float = 0.0
    ended: float = 0.0
    bytes_read: int = 0
    warnings: tuple[str, ...] = ()
    error: str = ""
    counts: dict[str, int] = field(default_factory=dict)
    measures: str = ""
    noise: TaskResult | None = None

    @property
    def every_stack(self) -> tuple[StackInfo, ...]:
        """Those of its noise, too."""
        return self.stacks if self.noise is None else (*self.stacks, *self.noise.every_stack)


@dataclass(frozen=True, slots=True)
class Removed:
    """A stack that `cryobox compact` removed: a hash of its bytes without the label, and the label."""

    digest: str
    label: str


def counts_of(results: Iterable[TaskResult]) -> dict[str, int]:
    """What steps found in all micrographs together."""
    found: Counter[str] = Counter()
    for result in results:
        found.update(result.counts)
    return dict(found)
