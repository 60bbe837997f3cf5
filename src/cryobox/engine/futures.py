"""A bounded, unordered map over any `concurrent.futures.Executor`."""

from __future__ import annotations

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
    in_flight: int,
) -> Iterator[tuple[Item, Future[Result]]]:
    """Yield each item with its finished future, in the order in which they finish.

    At most `in_flight` calls `function(item, *arguments)` are submitted at a time, so that a million items do not
    make a million futures. When the generator is closed, what has not started is cancelled; what runs is left to end.
    """
    waiting: dict[Future[Result], Item] = {}
    rest = iter(items)
    try:
        while True:
            for item in rest:
                waiting[executor.submit(function, item, *arguments)] = item
                if len(waiting) >= in_flight:
                    break
            if not waiting:
                return
            done, _ = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                yield waiting.pop(future), future
    finally:
        for future in waiting:
            future.cancel()
