"""A bounded, unordered map over any `concurrent.futures.Executor`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from typing import Any, TypeVar

__all__ = ["map_unordered"]

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_unordered(
    executor: Executor,
    function: Callable[..., Result],
    items: Iterable[Item],
    *arguments: Any,
    in_flight: int | Callable[[], int],
    patience: float | None = None,
) -> Iterator[tuple[Item, Future[Result]]]:
    """Yield each item with its finished future, in the order in which they finish.

    At most `in_flight` calls `function(item, *arguments)` are submitted at a time, so that a million items do not
    make a million futures; a function is asked for the number whenever there is room to look for. When the generator
    is closed, what has not started is cancelled; what runs is left to end.

    Parameters
    ----------
    items : iterable
        Read one by one, as there is room. An iterator that had nothing more is asked again after each result: what a
        caller adds to a queue while it looks at a result is done as well.
    patience : float, optional
        Seconds after which a call is given up: its future comes back although it is not `done()`, and goes on
        counting as one in flight until it ends.
    """
    waiting: dict[Future[Result], tuple[Item, float]] = {}
    given_up: set[Future[Result]] = set()
    rest = iter(items)
    try:
        while True:
            given_up = {future for future in given_up if not future.done()}
            room = (in_flight() if callable(in_flight) else in_flight) - len(given_up)
            while len(waiting) < max(room, 1 if not given_up else 0):
                try:
                    item = next(rest)
                except StopIteration:
                    break
                waiting[executor.submit(function, item, *arguments)] = item, time.monotonic()
            if not waiting:
                return
            done, _ = wait(waiting, timeout=_longest_wait(waiting, patience), return_when=FIRST_COMPLETED)
            if patience is not None:
                late = {f for f, (_, since) in waiting.items() if time.monotonic() - since >= patience} - done
                given_up |= late
                done |= late
            for future in done:
                yield waiting.pop(future)[0], future
    finally:
        for future in waiting:
            future.cancel()


def _longest_wait(waiting: dict[Any, tuple[Any, float]], patience: float | None) -> float | None:
    if patience is None:
        return None
    return max(0.0, min(since for _, since in waiting.values()) + patience - time.monotonic())
