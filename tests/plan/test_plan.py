"""The plan: every pick is accepted or refused with a reason, windows and names are decided, nothing is read."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryobox.errors import InputError, MicrographError, OptionError
from cryobox.folder.layout import stack_names
from cryobox.matching import match_micrographs, micrographs_with_picks
from cryobox.micrograph import ImageHeader, Micrographs
from cryobox.options import Recipe
from cryobox.particles import Alignment, Particles, Reason
from cryobox.plan import REASONS, Plan, build_plan, schedule


def header(shape: tuple[int, int] = (400, 500), pixel_size: float = float("nan")) -> ImageHeader:
    return ImageHeader(
        shape=shape, dtype=np.dtype("<f4"), offset=1024, pixel_size=pixel_size, file_size=1024, mtime_ns=1
    )


def micrographs(names: tuple[str, ...] = ("m/a.mrc", "m/b.mrc"), **changes: Any) -> Micrographs:
    n = len(names)
    columns: dict[str, Any] = {
        "pixel_size": np.full(n, 1.0),
        "shape": np.zeros((n, 2), dtype=np.int64),
        "optics_index": np.full(n, -1, dtype=np.intp),
    }
    return Micrographs(family="star", source="mics.star", names=names, paths=names, ctf={}, **columns | changes)


def particles(positions: Sequence[tuple[float, float]], on: list[int] | None = None, **changes: Any) -> Particles:
    y, x = np.array(positions, dtype=float).reshape(-1, 2).T
    values: dict[str, Any] = {
        "family": "star",
        "source": "picks.star",
        "micrograph": np.array(on if on is not None else [0] * len(y), dtype=np.intp),
        "micrograph_names": ("m/a.mrc", "m/b.mrc"),
    }
    return Particles(y=y, x=x, **values | changes)


def aligned(shifts: list[tuple[float, float]], pixel_size: float = 1.0, kind: Any = "3d", name: str = "") -> Alignment:
    return Alignment(name=name or kind, kind=kind, shift=np.array(shifts), pixel_size=np.full(len(shifts), pixel_size))


def plan(
    picks: Particles,
    recipe: Recipe | None = None,
    table: Micrographs | None = None,
    headers: dict[int, ImageHeader | MicrographError] | None = None,
) -> Plan:
    recipe = recipe or Recipe(box=64)
    table = table or micrographs()
    match, _ = match_micrographs(picks, table)
    rows = micrographs_with_picks(picks, match, recipe.limit)
    return build_plan(
        picks, table, recipe, match=match, headers={int(row): (headers or {}).get(int(row), header()) for row in rows}
    )


def reasons(made: Plan) -> list[str]:
    return ["" if code < 0 else str(REASONS[code]) for code in made.places.reason.tolist()]


def test_boxes_over_the_edge_are_refused_and_an_exact_fit_is_not() -> None:
    made = plan(particles([(32, 32), (31.9, 32), (368, 468), (369, 468), (200, 250)]))
    assert reasons(made) == ["", Reason.EDGE, "", Reason.EDGE, ""]
    assert made.tasks[0].windows.corner.tolist() == [[0, 0], [336, 436], [168, 218]]


def test_padding_keeps_every_box_that_touches_the_micrograph() -> None:
    made = plan(particles([(-31, 0), (-32, 0), (431, 531), (432, 0)]), Recipe(box=64, edges="pad"))
    assert reasons(made) == ["", Reason.OUTSIDE, "", Reason.OUTSIDE]


def test_every_reason_that_a_plan_can_give() -> None:
    picks = particles(
        [(100, 100), (np.nan, 5), (100, 200), (10, 100), (100, 300)],
        [0, 0, 0, 0, 2],
        micrograph_names=("m/a.mrc", "m/b.mrc", "m/none.mrc"),
        score=np.array([3.0, 3.0, 0.5, 3.0, 3.0]),
    )
    made = plan(picks, Recipe(box=64, min_score=1.0))
    assert reasons(made) == ["", Reason.COORDINATE, Reason.SCORE, Reason.EDGE, Reason.NO_MICROGRAPH]
    assert sum(made.counts().values()) + len(made.work.rows) == len(picks)


def test_a_micrograph_whose_header_is_bad_takes_its_picks_along() -> None:
    made = plan(particles([(100, 100), (100, 100)], [0, 1]), headers={1: MicrographError("m/b.mrc: is empty")})
    assert reasons(made) == ["", Reason.MICROGRAPH]
    assert made.grounds.incomplete == {1: "m/b.mrc: is empty"}


def test_the_limit_counts_micrographs_with_picks() -> None:
    made = plan(particles([(100, 100), (100, 100)], [1, 0]), Recipe(box=64, limit=1))
    assert reasons(made) == [Reason.LIMIT, ""]


def test_scores_are_needed_for_a_minimum_score() -> None:
    with pytest.raises(OptionError, match="picks.star: has no scores"):
        plan(particles([(100, 100)]), Recipe(box=64, min_score=1.0))


def test_a_pick_without_a_score_is_rejected_by_a_minimum_and_the_minimum_itself_is_kept() -> None:
    picks = particles([(100, 100), (100, 200), (200, 100)], score=np.array([0.5, np.nan, 0.4]))
    assert reasons(plan(picks, Recipe(box=64, min_score=0.5))) == ["", Reason.NO_SCORE, Reason.SCORE]
    assert reasons(plan(picks, Recipe(box=64, min_score=-1000))) == ["", Reason.NO_SCORE, ""]
    assert reasons(plan(picks)) == ["", "", ""]


def test_a_micrograph_whose_picks_are_not_to_be_had_is_incomplete() -> None:
    picks = particles([(100, 100)], [0], unread={1: "b.star: no such file"})
    assert plan(picks).grounds.incomplete == {1: "b.star: no such file"}
    assert plan(picks, Recipe(box=64, limit=2)).grounds.incomplete == {1: "b.star: no such file"}
    assert plan(picks, Recipe(box=64, limit=1)).grounds.incomplete == {}
    elsewhere = particles(
        [(100, 100)], [0], micrograph_names=("m/a.mrc", "m/c.mrc"), unread={1: "c.star: no such file"}
    )
    assert plan(elsewhere).grounds.incomplete == {}


def test_separation_is_in_angstrom_and_after_recentering() -> None:
    picks = particles([(100, 100), (100, 130)], alignments=(aligned([(0, -12), (0, 12)], 2.0),), score=np.array([1, 2]))
    table = micrographs(pixel_size=np.full(2, 2.0))
    made = plan(picks, Recipe(box=64, min_separation_angstrom=20.0), table)
    assert made.places.center.tolist() == [[100, 112], [100, 118]]
    assert reasons(made) == [Reason.SEPARATION, ""]


def test_copies_of_one_particle_are_not_too_close_and_share_a_window() -> None:
    picks = particles([(100, 100), (100, 100), (200, 200), (100, 100)], copy_of=np.array([4, 4, -1, -1]))
    made = plan(picks)
    assert made.work.window.tolist() == [0, 0, 1, 2]
    assert made.tasks[0].windows.corner.tolist() == [[68, 68], [168, 168], [68, 68]]
    apart = plan(picks, Recipe(box=64, min_separation_angstrom=5.0))
    assert reasons(apart) == ["", "", "", Reason.SEPARATION]


def test_copies_share_a_window_only_where_its_columns_are_equal() -> None:
    picks, table = particles([(100, 100)] * 4, copy_of=np.array([4, 4, 4, 4])), micrographs()
    made = plan(picks, table=table)
    ids = [made.tasks[0].id]
    for name, values in (("residual", [[0.25, 0], [0.25, 0], [0, 0.25], [0, 0.25]]), ("angle", [1.0, 2.0, 1.0, 2.0])):
        places = replace(made.places, columns={name: np.array(values)})
        work = schedule(table, made.micrograph, places, made.decided, made.grounds, np.array([0]), picks.copy_of)
        assert work.window.tolist() == ([0, 0, 1, 1] if name == "residual" else [0, 1, 0, 1])
        assert work.tasks[0].windows.columns()[name].tolist() == values[::2] if name == "residual" else [1.0, 2.0]
        ids.append(work.tasks[0].id)
    assert len(set(ids)) == 3


def test_3d_shifts_win_and_every_alignment_moves_along_in_its_own_unit() -> None:
    picks = particles(
        [(100, 100)],
        alignments=(
            aligned([(4.0, 4.0)], 2.5, "2d"),
            aligned([(3.2, -7.6)], 1.25, "3d"),
            replace(aligned([(0.0, 0.0)], 5.0, "other"), shift=np.zeros((1, 3, 2))),
        ),
    )
    made = plan(picks, table=micrographs(pixel_size=np.full(2, 1.25)))
    assert made.places.center.tolist() == [[97, 108]]
    assert np.allclose(made.places.alignments[0].shift, [[4 - 1.5, 4 + 4]])
    assert np.allclose(made.places.alignments[1].shift, [[0.2, 0.4]])
    assert np.allclose(made.places.alignments[2].shift, [[[-0.75, 2.0]] * 3])
    assert made.places.moved.tolist() == [True]


def test_the_user_may_recenter_from_2d_or_not_at_all() -> None:
    picks = particles([(100, 100)], alignments=(aligned([(9, 0)], kind="3d"), aligned([(5, 0)], kind="2d")))
    assert plan(picks, Recipe(box=64, recenter_from="2d")).places.center.tolist() == [[95, 100]]
    kept = plan(picks, Recipe(box=64, recenter=False))
    assert kept.places.center.tolist() == [[100, 100]]
    assert not kept.places.moved.any()
    with pytest.raises(OptionError, match="has no 2d alignment to recenter from"):
        plan(replace(picks, alignments=picks.alignments[:1]), Recipe(box=64, recenter_from="2d"))


def test_mirrored_picks_change_coordinates_and_cannot_be_recentered() -> None:
    picks = particles([(100, 120)])
    made = plan(picks, Recipe(box=64, flip_x=True, flip_y=True))
    assert made.places.center.tolist() == [[400 - 1 - 100, 500 - 1 - 120]]
    assert made.places.moved.all()
    with pytest.raises(OptionError, match="mirrored copy cannot be recentered"):
        plan(replace(picks, alignments=(aligned([(1, 1)]),)), Recipe(box=64, flip_x=True))


def test_picks_of_another_binning_are_scaled_and_the_fraction_joins_the_shift() -> None:
    picks = particles(
        [(60, 75.4), (61, 75)],
        family="cs",
        from_fractions=True,
        grid_shape=np.array([[160, 200], [160, 200]]),
        grid_pixel_size=np.array([2.5, 2.5]),
        alignments=(aligned([(0.0, 0.0), (-2.0, 0.0)], 1.0),),
    )
    table = replace(micrographs(pixel_size=np.full(2, np.nan)), family="cs")
    made = plan(picks, table=table)
    assert made.grounds.pixel_size[0] == pytest.approx(1.0)
    # 61 * 2.5 = 152.5, and the shift says 2 pixels down: 154.5; the half rounds away from the old place
    assert made.places.center.tolist() == [[150, 187], [155, 187]]
    assert np.allclose(made.places.alignments[0].shift, [[0.0, -0.5], [0.5, -0.5]])
    for row in range(2):
        wanted = np.array([[150.0, 187.5], [154.5, 187.5]])[row]
        assert np.allclose(made.places.center[row] - made.places.alignments[0].shift[row], wanted)


def test_an_aspect_that_the_table_contradicts_makes_the_micrograph_incomplete() -> None:
    picks = particles([(60, 75)], family="cs", from_fractions=True, grid_shape=np.array([[160, 160], [160, 160]]))
    made = plan(picks, table=replace(micrographs(), family="cs"))
    assert reasons(made) == [Reason.MICROGRAPH]
    assert "is 400 x 500 pixels (ny x nx), but picks.star says 160 x 160" in made.grounds.incomplete[0]


def test_a_coordinate_scale_multiplies_picks() -> None:
    assert plan(particles([(50.3, 60)]), Recipe(box=64, coordinate_scale=2.0)).places.center.tolist() == [[100, 120]]


def test_rounding_to_nearest_is_written_back_and_leaves_aligned_picks_alone() -> None:
    picks = particles([(99.6, 100.4)])
    made = plan(picks, Recipe(box=64, rounding="nearest"))
    assert made.places.center.tolist() == [[100, 100]]
    assert made.places.moved.tolist() == [True]
    with_shift = replace(picks, alignments=(aligned([(0.0, 0.0)]),))
    assert plan(with_shift, Recipe(box=64, rounding="nearest")).places.center.tolist() == [[99, 100]]


def test_the_table_beats_the_header_with_a_warning_and_a_gross_difference_is_an_error() -> None:
    near = plan(particles([(100, 100)]), headers={0: header(pixel_size=1.05)})
    assert near.grounds.pixel_size[0] == 1.0
    assert any("header says 1.05 Å per pixel, the table 1" in warning for warning in near.warnings)
    with pytest.raises(InputError, match=r"m/a.mrc: its header says 1.5 Å per pixel, mics.star says 1"):
        plan(particles([(100, 100)]), headers={0: header(pixel_size=1.5)})


def test_a_pixel_size_that_nothing_says_must_be_given_and_a_known_one_cannot_be_contradicted() -> None:
    unknown = micrographs(pixel_size=np.full(2, np.nan))
    with pytest.raises(InputError, match="give --pixel-size"):
        plan(particles([(100, 100)]), table=unknown)
    assert plan(particles([(100, 100)]), Recipe(box=64, pixel_size=1.3), unknown).grounds.pixel_size[0] == 1.3
    with pytest.raises(OptionError, match="--pixel-size 1.3 contradicts m/a.mrc"):
        plan(particles([(100, 100)]), Recipe(box=64, pixel_size=1.3))


def test_a_background_diameter_is_checked_for_every_output() -> None:
    with pytest.raises(OptionError, match=r"got 32 pixels for images of 64 pixels"):
        plan(particles([(100, 100)]), Recipe(box=64, background_diameter_angstrom=64.0))
    made = plan(particles([(100, 100)]), Recipe(box=64, sizes=(32, 16), background_diameter_angstrom=48.0))
    assert [output.background_radius for output in made.tasks[0].outputs] == [12.0, 6.0]


def test_box_sizes_off_the_list_get_a_warning_that_names_their_neighbors() -> None:
    assert plan(particles([(100, 100)]), Recipe(box=74)).warnings == (
        "box 74 is not a fast size for Fourier transforms; 72 or 80 would be",
    )


def test_raw_float16_gets_a_warning() -> None:
    made = plan(particles([(100, 100)]), Recipe(box=64, dtype="float16", normalize=False))
    assert any("float16 without normalization" in warning for warning in made.warnings)


def test_tables_and_style_decide_what_is_written() -> None:
    def decided(**recipe: Any) -> tuple[Any, ...]:
        found = plan(particles([(100, 100)]), Recipe(box=64, **recipe)).decided
        return found.style, found.families, found.native, found.steps.invert, found.stack_suffix

    assert decided() == ("relion", ("star",), "star", True, ".mrcs")
    assert decided(style="cryosparc") == ("cryosparc", ("cs",), "star", False, ".mrc")
    assert decided(tables="cryosparc") == ("cryosparc", ("cs",), "star", False, ".mrc")
    assert decided(tables="both") == ("relion", ("star", "cs"), "star", True, ".mrcs")
    assert decided(tables="both", style="cryosparc") == ("cryosparc", ("cs", "star"), "star", False, ".mrcs")
    assert decided(tables="both", invert=False)[3] is False


def test_styles_decide_contrast_and_suffix() -> None:
    relion = plan(particles([(100, 100)]))
    assert relion.recipe.invert is True
    assert relion.tasks[0].outputs[0].path == "stacks/a_particles.mrcs"
    cryosparc = plan(particles([(100, 100)], family="cs"), table=replace(micrographs(), family="cs"))
    assert cryosparc.recipe.invert is False
    assert cryosparc.tasks[0].outputs[0].path == "stacks/a_particles.mrc"
    assert plan(particles([(100, 100)]), Recipe(box=64, invert=False)).recipe.invert is False


@given(st.lists(st.text(min_size=1, max_size=300), min_size=1, max_size=8, unique=True))
def test_stack_names_never_collide_nor_leave_the_folder(names: list[str]) -> None:
    made = stack_names([f"{'ab'[i % 2]}/{name}.mrc" for i, name in enumerate(names)])
    assert len({name.casefold() for name in made}) == len(made)
    for name in made:
        assert "/" not in name
        assert name not in {"", ".", ".."}
        assert not name.startswith(".")
        assert "@" not in name
        assert not any(character.isspace() for character in name)
        assert len(f".{name}_particles.mrcs.64-of-64.abcdefghijklmnopqrst.4194304.123456.tmp".encode()) <= 255


def test_names_that_look_like_the_names_made_for_others_do_not_collide_with_them() -> None:
    first = stack_names(["a/m.mrc", "b/m.mrc"])
    made = stack_names(["a/m.mrc", "b/m.mrc", f"c/{first[0]}.mrc", f"d/{first[1].upper()}.mrc", "a/m.mrc"])
    assert len({name.casefold() for name in made}) == 5


@pytest.mark.parametrize("name", ["../../etc/passwd", "..", "/abs/x.mrc", "a\\..\\b.mrc", ".hidden.mrc", "a b@1#2.mrc"])
def test_hostile_names_stay_in_the_folder(name: str) -> None:
    (made,) = stack_names([name])
    assert "/" not in made
    assert "\\" not in made
    assert not made.startswith(".")


def test_the_same_stem_in_two_folders_gives_two_stacks() -> None:
    made = plan(particles([(100, 100), (100, 100)], [0, 1], micrograph_names=("x/m.mrc", "y/m.mrc")),
                table=micrographs(("x/m.mrc", "y/m.mrc")))  # fmt: skip
    assert len({task.outputs[0].path for task in made.tasks}) == 2


def test_task_ids_follow_the_windows_the_recipe_and_the_file() -> None:
    base = plan(particles([(100, 100)])).tasks[0].id
    assert plan(particles([(100, 100)])).tasks[0].id == base
    assert plan(particles([(100, 101)])).tasks[0].id != base
    assert plan(particles([(100, 100)]), Recipe(box=64, ramp=False)).tasks[0].id != base
    assert plan(particles([(100, 100)]), headers={0: replace(header(), mtime_ns=2)}).tasks[0].id != base


def test_a_hundred_thousand_picks_are_all_accounted_for() -> None:
    n, files = 100_000, 1_000
    rng = np.random.default_rng(1)
    names = tuple(f"m/mic_{i:05d}.mrc" for i in range(files))
    picks = Particles(
        family="star", source="picks.star", y=rng.uniform(0, 400, n), x=rng.uniform(0, 500, n),
        micrograph=rng.integers(0, files, n).astype(np.intp), micrograph_names=names,
    )  # fmt: skip
    began = time.process_time()
    made = plan(picks, table=micrographs(names))
    assert len(made.work.rows) + sum(made.counts().values()) == n
    assert sum(len(task.windows) for task in made.tasks) == len(made.work.rows)
    print(f"planned {n} picks on {files} micrographs in {time.process_time() - began:.2f} s")


@given(st.lists(st.tuples(st.integers(0, 399), st.integers(0, 499)), min_size=1, max_size=20))
def test_picks_on_a_mirrored_copy_give_the_same_boxes_as_the_true_picks(true: list[tuple[int, int]]) -> None:
    mirrored = particles([(y, 500 - 1 - x) for y, x in true])
    flipped, straight = plan(mirrored, Recipe(box=64, flip_x=True)), plan(particles(true))
    assert reasons(flipped) == reasons(straight)
    assert np.array_equal(flipped.places.center, straight.places.center)
    assert [task.windows.corner.tolist() for task in flipped.tasks] == [
        task.windows.corner.tolist() for task in straight.tasks
    ]
