"""The bounded map: every item once, never more in flight than asked, and an early end that cancels the rest."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from cryobox.engine.futures import map_unordered


def test_every_item_comes_back_once_with_its_result() -> None:
    with ThreadPoolExecutor(3) as pool:
        found = {item: future.result() for item, future in map_unordered(pool, pow, range(50), 2, in_flight=4)}
    assert found == {n: n**2 for n in range(50)}


def test_no_more_than_the_limit_is_taken_from_the_source_ahead_of_results() -> None:
    taken = 0

    def source():  # type: ignore[no-untyped-def]
        nonlocal taken
        for number in range(100):
            taken += 1
            yield number

    with ThreadPoolExecutor(2) as pool:
        for done, _ in enumerate(map_unordered(pool, abs, source(), in_flight=5), start=1):
            assert taken <= done + 5


def test_an_exception_stays_in_its_future() -> None:
    with ThreadPoolExecutor(1) as pool:
        outcomes = [future.exception() for _, future in map_unordered(pool, int, ["1", "x", "3"], in_flight=2)]
    assert sum(isinstance(outcome, ValueError) for outcome in outcomes) == 1


def test_closing_early_cancels_what_has_not_begun() -> None:
    begun = []
    gate = threading.Event()

    def work(number: int) -> int:
        begun.append(number)
        if number:
            gate.wait(5)
        return number

    with ThreadPoolExecutor(1) as pool:
        results = map_unordered(pool, work, range(10), in_flight=6)
        next(results)
        results.close()  # type: ignore[attr-defined]
        gate.set()
    assert len(begun) <= 3


def test_nothing_to_do_ends_at_once() -> None:
    with ThreadPoolExecutor(1) as pool:
        assert list(map_unordered(pool, abs, [], in_flight=3)) == []


@pytest.mark.parametrize("in_flight", [1, 7])
def test_a_stopped_source_lets_the_rest_finish(in_flight: int) -> None:
    stop = threading.Event()
    finished = []

    def work(number: int) -> int:
        time.sleep(0.001)
        return number

    with ThreadPoolExecutor(2) as pool:
        source = iter(lambda: None if stop.is_set() else len(finished), None)
        for _, future in map_unordered(pool, work, source, in_flight=in_flight):
            finished.append(future.result())
            if len(finished) == 20:
                stop.set()
    assert 20 <= len(finished) <= 20 + in_flight
