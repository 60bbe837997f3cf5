"""The geometry: truncation, recentering, edges and separation, by cases worked out by hand and by properties."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryobox.centering import box_corners, inside, mirror, overlaps, place, round_half_away, too_close, truncate


def column(*values: float) -> np.ndarray:
    return np.array([[value, 0.0] for value in values])


def test_positions_are_truncated_toward_zero() -> None:
    assert truncate(np.array([3.99, -3.99, 0.5, -0.5])).tolist() == [3, -3, 0, 0]


def test_float32_fractions_of_a_side_give_their_integer_back() -> None:
    side = np.arange(2, 8193, 7)
    for center in (1, 77, 1023):
        fraction = np.float32(center / side)
        assert (truncate(fraction.astype(float) * side, guard=True) == center).all()


def test_the_guard_leaves_real_fractions_alone() -> None:
    assert truncate(np.array([5.9, 5.998, 5.9995, 6.0005]), guard=True).tolist() == [5, 5, 6, 6]


def test_halves_round_away_from_zero() -> None:
    assert round_half_away(np.array([0.5, 1.5, -0.5, -2.5, 2.4])).tolist() == [1, 2, -1, -3, 2]


@pytest.mark.parametrize(
    ("shift", "step"),
    [(0.0, 0), (0.5, 0), (-0.5, 0), (0.50005, 0), (0.51, 1), (1.5, 2), (-1.5, -2), (7.4, 7), (-7.6, -8)],
)
def test_a_box_moves_against_the_shift_by_whole_pixels_and_not_for_half_a_pixel(shift: float, step: int) -> None:
    placed = place(column(100.0), column(shift))
    assert placed.center[0].tolist() == [100 - step, 0]
    assert placed.move[0, 0] == step


def test_without_shifts_boxes_stay() -> None:
    placed = place(np.array([[10.0, 20.0]]), None)
    assert placed.center.tolist() == [[10, 20]]
    assert placed.move.tolist() == [[0.0, 0.0]]


@given(st.floats(-1e4, 1e4), st.floats(-300, 300))
def test_what_is_left_of_a_shift_is_at_most_half_a_pixel_and_moves_nothing_again(base: float, shift: float) -> None:
    first = place(column(float(np.trunc(base))), column(shift))
    left = shift - first.move[0, 0]
    assert abs(left) <= 0.5 + 1e-4
    second = place(first.center.astype(float), column(left))
    assert (second.center == first.center).all()
    assert second.move[0, 0] == 0


@given(st.integers(-50, 4000), st.sampled_from([0.5, 2.0, 1.5, 1 / 3, 0.75]), st.floats(-20, 20))
def test_on_another_binning_box_and_shift_together_still_point_at_the_particle(
    pick: int, scale: float, shift: float
) -> None:
    placed = place(column(pick * scale), column(shift))
    left = shift - placed.move[0, 0]
    assert placed.center[0, 0] - left == pytest.approx(pick * scale - shift, abs=1e-9)
    assert abs(left) <= 0.5 + 1e-4


def test_the_center_is_index_half_the_box() -> None:
    assert box_corners(np.array([[100.9, 50.0]]), 64).tolist() == [[68, 18]]
    assert box_corners(np.array([[100.9, 50.0]]), 64, rounding="nearest").tolist() == [[69, 18]]


def test_an_exact_fit_is_inside_and_one_pixel_more_is_not() -> None:
    corners = np.array([[0, 0], [36, 86], [37, 0], [0, 87], [-1, 0]])
    assert inside(corners, 64, (100, 150)).tolist() == [True, True, False, False, False]


def test_a_box_overlaps_while_one_pixel_is_inside() -> None:
    corners = np.array([[-63, 0], [-64, 0], [99, 0], [100, 0]])
    assert overlaps(corners, 64, (100, 150)).tolist() == [True, False, True, False]


def test_mirroring_twice_is_nothing() -> None:
    x = np.array([0.0, 3.25, 99.0])
    assert mirror(x, 100.0).tolist() == [99.0, 95.75, 0.0]
    assert mirror(mirror(x, 100.0), 100.0).tolist() == x.tolist()


def test_coordinates_beyond_any_integer_do_not_overflow() -> None:
    assert not inside(box_corners(np.array([[1e300, -1e300]]), 64), 64, (10**5, 10**5))[0]


def brute_force(position, micrograph, distance, score, copy_of):  # type: ignore[no-untyped-def]
    dropped = np.zeros(len(position), dtype=bool)
    order = np.argsort(-score, kind="stable")
    for a in range(len(order)):
        i = order[a]
        for b in range(a):
            j = order[b]
            if dropped[j] or micrograph[i] != micrograph[j] or (copy_of[i] >= 0 and copy_of[i] == copy_of[j]):
                continue
            if np.hypot(*(position[i] - position[j])) < distance[i]:
                dropped[i] = True
    return dropped


@given(st.integers(0, 2**31), st.integers(0, 120), st.floats(1.0, 60.0))
def test_separation_keeps_what_a_search_over_all_pairs_keeps(seed: int, n: int, distance: float) -> None:
    rng = np.random.default_rng(seed)
    position = np.round(rng.uniform(-20, 200, (n, 2)), rng.integers(0, 3))
    micrograph = rng.integers(0, 3, n)
    score = np.round(rng.normal(size=n), 1)
    copy_of = rng.integers(-1, 5, n)
    apart = np.full(n, distance)
    found = too_close(position, micrograph, apart, score, copy_of)
    assert found.tolist() == brute_force(position, micrograph, apart, score, copy_of).tolist()


def test_without_scores_the_earlier_pick_stays() -> None:
    position = np.array([[0.0, 0.0], [0.0, 5.0], [0.0, 9.0]])
    assert too_close(position, np.zeros(3, dtype=np.intp), np.full(3, 6.0), None).tolist() == [False, True, False]


@pytest.mark.parametrize("lie", ["in one place", "on a line", "in few places", "as copies of one particle"])
def test_separation_takes_memory_in_proportion_to_the_picks_however_they_lie(lie: str) -> None:
    n, rng = 4000, np.random.default_rng(5)
    position = np.full((n, 2), 33.25)
    copy_of = np.zeros(n, dtype=np.int64) if lie == "as copies of one particle" else None
    if lie == "on a line":
        position[:, 0] = rng.uniform(0, 40, n)
    elif lie == "in few places":
        position += rng.integers(0, 3, (n, 2)) * 100
    tracemalloc.start()
    dropped = too_close(position, np.zeros(n, dtype=np.intp), np.full(n, 10.0), rng.normal(size=n), copy_of)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak / n < 1000, "all pairs would be tens of thousands of bytes for each pick"
    kept = n - dropped.sum()
    assert kept == {"in one place": 1, "in few places": 9, "as copies of one particle": n}.get(lie, kept)
    assert kept <= 5 or lie != "on a line"


@pytest.mark.parametrize("distance", [1e12, np.inf, 1e-9, 5e-324])
def test_a_separation_without_measure_keeps_one_pick_or_drops_only_equal_places(distance: float) -> None:
    position = np.array([[10.0, 20.0], [4000.0, 3000.0], [10.0, 20.0], [11.0, 20.0]])
    found = too_close(position, np.zeros(4, dtype=np.intp), np.full(4, distance), np.array([1.0, 2.0, 3.0, 0.0]))
    assert found.tolist() == ([True, True, False, True] if distance > 1 else [True, False, False, False])


def test_a_distance_that_equals_the_separation_is_not_nearer() -> None:
    position = np.array([[0.0, 0.0], [3.0, 4.0], [6.0, 8.0]])
    assert not too_close(position, np.zeros(3, dtype=np.intp), np.full(3, 5.0), None).any()
    assert too_close(position, np.zeros(3, dtype=np.intp), np.full(3, np.nextafter(5.0, 6.0)), None).tolist() == [
        False, True, False,
    ]  # fmt: skip
