"""The columnar geometry of `cryobox.centering` against the oracle's rule for one particle at a time."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cryobox import centering, reference

SHAPES = st.tuples(st.integers(16, 6000), st.integers(16, 6000))
# Sixteenths of a pixel are exact in binary, so that both sides see the same halves; floats are anything else.
POSITIONS = st.one_of(st.integers(-1600, 96000).map(lambda k: k / 16), st.floats(-100, 6000))
SHIFTS = st.one_of(st.integers(-160, 160).map(lambda k: k / 16), st.floats(-30, 30))


@settings(max_examples=300, deadline=None)
@given(st.tuples(POSITIONS, POSITIONS), st.tuples(SHIFTS, SHIFTS), st.booleans())
def test_a_shift_moves_the_box_as_the_oracle_says(
    position: tuple[float, float], shift: tuple[float, float], guard: bool
) -> None:
    expected = reference.recenter(position, shift=shift, from_fractions=guard)
    base = centering.truncate(np.array([position]), guard=guard)
    placed = centering.place(base, np.array([shift]))
    assert placed.center.tolist() == [list(expected.center)]
    np.testing.assert_allclose(np.array([shift]) - placed.move, [expected.residual], atol=1e-9)
    assert np.abs(expected.residual).max() <= 0.5 + 1e-4


@settings(max_examples=300, deadline=None)
@given(st.tuples(POSITIONS, POSITIONS), st.tuples(SHIFTS, SHIFTS), SHAPES, st.sampled_from([1, 2, 3, 4, 8]))
def test_another_binning_scales_the_truncated_pick_as_the_oracle_says(
    position: tuple[float, float], shift: tuple[float, float], grid: tuple[int, int], binning: int
) -> None:
    for grid_shape, read_shape in (
        (grid, (grid[0] * binning, grid[1] * binning)),
        ((grid[0] * binning, grid[1] * binning), grid),
    ):
        expected = reference.recenter(position, shift=shift, grid_shape=grid_shape, read_shape=read_shape)
        scale = np.array(read_shape) / np.array(grid_shape)
        placed = centering.place(centering.truncate(np.array([position])) * scale, np.array([shift]))
        # A sum that lies within rounding of the tie may fall either way; the residual tells which, and both are right.
        np.testing.assert_allclose(
            placed.center + (np.array([shift]) - placed.move),
            np.array([expected.center]) + np.array([expected.residual]),
            atol=1e-7,
        )
        assert np.abs(np.array([shift]) - placed.move).max() <= 0.5 + 2e-4


@settings(max_examples=200, deadline=None)
@given(st.tuples(POSITIONS, POSITIONS), st.tuples(SHIFTS, SHIFTS))
def test_recentering_twice_changes_nothing(position: tuple[float, float], shift: tuple[float, float]) -> None:
    first = reference.recenter(position, shift=shift)
    y, x = first.center
    second = reference.recenter((float(y), float(x)), shift=first.residual)
    assert second.center == first.center
    assert second.residual == first.residual


@settings(max_examples=200, deadline=None)
@given(
    st.tuples(st.integers(-50, 50), st.integers(-50, 50)),
    st.integers(1, 20).map(lambda k: 2 * k),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
)
def test_the_edge_rule_is_the_oracles(corner: tuple[int, int], box: int, shape: tuple[int, int]) -> None:
    corners = np.array([corner])
    assert centering.inside(corners, box, shape).tolist() == [
        reference.edge_status(shape, corner, box, "reject") == reference.OK
    ]
    assert centering.overlaps(corners, box, shape).tolist() == [
        reference.edge_status(shape, corner, box, "pad") == reference.OK
    ]
