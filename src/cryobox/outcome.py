"""What became of every pick: what the plan refused, combined with what the tasks did."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cryobox.filtering import MEASURES
from cryobox.measuring import of_windows
from cryobox.particles import Reason
from cryobox.plan import ACCEPTED, REASONS, Plan, groups_of
from cryobox.results import TaskResult

__all__ = ["PENDING", "UNTOLD", "Outcome", "noise_results", "outcome_of", "picks_of_shard"]

PENDING = len(REASONS)  # in `Outcome.fate`: the micrograph is not cut yet
UNTOLD = PENDING + 1  # of another shard


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of every pick, in columns.

    Parameters
    ----------
    fate : ndarray, shape (picks,), int8
        -1 (`ACCEPTED`): extracted; else an index into `REASONS`, `PENDING` or `UNTOLD`.
    slot : ndarray, shape (picks,), int64
        0-based index in its stack; -1 where there is none.
    incomplete : dict of int to str
        Micrographs that could not be used, with the reason.
    measures : ndarray, shape (picks, len(MEASURES)), float32, optional
        Of the picks that could be cut, kept or left out by the filter, nan for others; None where nothing is measured.
    noise : Outcome, optional
        The same of the boxes of noise, where the plan has some.
    """

    fate: NDArray[np.int8]
    slot: NDArray[np.int64]
    incomplete: dict[int, str]
    measures: NDArray[np.float32] | None = None
    noise: Outcome | None = None

    @property
    def rows(self) -> NDArray[np.intp]:
        """Picks that were extracted, ascending."""
        return np.flatnonzero(self.fate == ACCEPTED)

    @property
    def rejected(self) -> NDArray[np.intp]:
        """Picks that were refused, ascending."""
        return np.flatnonzero((self.fate >= 0) & (self.fate < PENDING))

    def reasons(self) -> tuple[str, ...]:
        """One for each of `rejected`."""
        texts = [str(why) for why in REASONS]
        return tuple(texts[code] for code in self.fate[self.rejected].tolist())

    def counts(self) -> dict[str, int]:
        """Rejected picks by reason, most first."""
        numbers = np.bincount(self.fate[self.rejected], minlength=len(REASONS))
        found = {str(why): int(n) for why, n in zip(REASONS, numbers, strict=True) if n}
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    def named(self, names: Sequence[str]) -> dict[str, str]:
        """Micrographs that could not be used, as their table calls them, with the reason."""
        return {names[row]: why for row, why in sorted(self.incomplete.items())}

    @property
    def noise_boxes(self) -> int | None:
        """How many boxes of noise there are; None where none were asked for."""
        return None if self.noise is None else len(self.noise.rows)


def outcome_of(
    plan: Plan, results: Mapping[str, TaskResult], *, shard: Collection[str] | None = None, first: bool = True
) -> Outcome:
    """Combine a plan with results.

    Parameters
    ----------
    plan : Plan
    results : mapping of str to TaskResult
        By task id; picks of tasks without a result are pending.
    shard : collection of str, optional
        The ids of the tasks that are told of, where it is not all.
    first : bool
        Whether what belongs to no task is told of, too: a shard leaves it to the first one.
    """
    windows = np.array([len(task.windows) for task in plan.tasks], dtype=np.int64)
    offset = np.concatenate([[0], np.cumsum(windows)])
    of_window = np.full(offset[-1], ACCEPTED, dtype=np.int8)
    incomplete = dict(plan.grounds.incomplete) if first else {}
    groups = groups_of(plan.tasks)
    sizes = [len(group) for group in groups]
    first_of_group = np.repeat(np.cumsum([0, *sizes[:-1]]), sizes) if groups else np.empty(0, np.intp)
    whole = np.repeat([all(task.id in results for task in group) for group in groups], sizes).tolist()
    done = np.ones(len(plan.tasks), np.bool_)
    for t, task in enumerate(plan.tasks):
        some, result = slice(offset[t], offset[t + 1]), results.get(task.id)
        if result is None or not whole[t] or (shard is not None and task.id not in shard):
            of_window[some] = PENDING
            done[t] = False
        elif result.error:
            incomplete[int(plan.work.task_micrograph[t])] = result.error
            of_window[some] = REASONS.index(Reason.MICROGRAPH)
        else:
            for index, why in result.refused:
                of_window[offset[t] + index] = REASONS.index(Reason(why))
    kept = of_window == ACCEPTED
    before = np.concatenate([[0], np.cumsum(kept)])  # windows kept before each one
    task_of_row = np.repeat(np.arange(len(plan.tasks)), np.diff(plan.work.first_row))
    window = plan.work.window + offset[task_of_row]
    fate = plan.places.reason.copy()
    fate[plan.work.rows] = of_window[window]
    slot = np.full(len(fate), -1, dtype=np.int64)
    beginning = offset[first_of_group[task_of_row]]  # of the stack, as a window
    slot[plan.work.rows] = np.where(kept[window], before[window] - before[beginning], -1)
    fate[~picks_of_shard(plan, shard, first=first)] = UNTOLD
    noise = None
    if plan.noise is not None:
        of_shard = None
        if shard is not None:
            of_shard = {task.noise.id for task in plan.tasks if task.noise is not None and task.id in shard}
        noise = outcome_of(plan.noise.plan, noise_results(plan, results), shard=of_shard, first=False)
    measures = _measures(plan, results, done, window, len(fate))
    return Outcome(fate=fate, slot=slot, incomplete=incomplete, measures=measures, noise=noise)


def _measures(
    plan: Plan, results: Mapping[str, TaskResult], done: NDArray[np.bool_], window: NDArray[np.intp], picks: int
) -> NDArray[np.float32] | None:
    """Measures of all picks. `done`: the tasks that are told of; `window`: of each row of the work, of all tasks'."""
    if not plan.decided.steps.measures:
        return None
    measures = np.full((picks, len(MEASURES)), np.nan, np.float32)
    found = [
        of_windows(results[task.id] if of_task else TaskResult(id="", error="not done"), len(task.windows))
        for task, of_task in zip(plan.tasks, done.tolist(), strict=True)
    ]
    if found:
        measures[plan.work.rows] = np.concatenate(found)[window]
    return measures


def noise_results(plan: Plan, results: Mapping[str, TaskResult]) -> dict[str, TaskResult]:
    """What became of the boxes of noise, by the ids of their tasks; of a micrograph that failed, that it did."""
    found = {}
    for task in plan.tasks:
        result = results.get(task.id)
        if task.noise is not None and result is not None:
            found[task.noise.id] = result.noise or TaskResult(id=task.noise.id, error=result.error)
    return found


def picks_of_shard(plan: Plan, shard: Collection[str] | None, *, first: bool) -> NDArray[np.bool_]:
    """Which picks the tables of a shard tell of: those of its micrographs; all, where it is a whole run (None).

    Picks of micrographs where nothing is cut, and of none, belong to the first shard.
    """
    if shard is None:
        return np.ones(len(plan.places.reason), dtype=np.bool_)
    mine = np.full(len(plan.grounds.shape) + 1, first)  # one more, for picks without a micrograph: index -1
    mine[plan.work.task_micrograph] = [task.id in shard for task in plan.tasks]
    found: NDArray[np.bool_] = mine[plan.micrograph]
    return found
