"""Picks chosen by class, group, selection type, sample and margin: what is left out says why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest
from numpy.typing import NDArray

import cryobox
from cryobox.errors import InputError, OptionError
from cryobox.formats import read_particles
from cryobox.formats.cs_table import Table, write_table
from cryobox.given import Given
from cryobox.inputs import prepare
from cryobox.plan import ACCEPTED, REASONS
from cryobox.verification import verify
from synth import micrograph, write_mrc, write_star

SIDE, COUNT = 300, 40
RNG = np.random.default_rng(7)
Y, X = RNG.integers(0, SIDE, (2, COUNT))
CLASS = RNG.integers(1, 6, COUNT)
GROUP = RNG.integers(1, 4, COUNT)
TYPE = RNG.integers(0, 3, COUNT)
NAMES = ["m/a.mrc", "m/b.mrc"]
OF = np.arange(COUNT) % 2


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate(NAMES):
        write_mrc(tmp_path / name, micrograph((SIDE, SIDE), seed=number), pixel_size=1.5)
    return tmp_path


def star(folder: Path, order: NDArray[Any] | None = None, *, drop: str = "", **more: list[Any]) -> Path:
    rows = np.arange(COUNT) if order is None else order
    columns: dict[str, list[Any]] = {
        "rlnMicrographName": [NAMES[i] for i in OF],
        "rlnCoordinateX": [f"{x:.2f}" for x in X],
        "rlnCoordinateY": [f"{y:.2f}" for y in Y],
        "rlnClassNumber": CLASS.tolist(),
        "rlnOpticsGroup": GROUP.tolist(),
        "rlnParticleSelectionType": TYPE.tolist(),
    } | more
    columns.pop(drop, None)
    optics: dict[str, list[Any]] = {
        "rlnOpticsGroup": [1, 2, 3], "rlnOpticsGroupName": ["a", "b", "c"], "rlnVoltage": [300] * 3,
        "rlnSphericalAberration": [2.7] * 3, "rlnAmplitudeContrast": [0.1] * 3,
    }  # fmt: skip
    chosen = {tag: [values[row] for row in rows.tolist()] for tag, values in columns.items()}
    return write_star(folder / "picks.star", {"optics": optics, "particles": chosen})


def cs(folder: Path, order: NDArray[Any] | None = None, *, both: bool = False) -> Path:
    rows = np.arange(COUNT) if order is None else order
    fields: list[Any] = [
        ("uid", "<u8"), ("location/micrograph_path", "S16"), ("location/micrograph_uid", "<u8"),
        ("location/center_x_frac", "<f4"), ("location/center_y_frac", "<f4"),
        ("location/micrograph_shape", "<u4", (2,)), ("location/micrograph_psize_A", "<f4"),
        ("alignments2D/class", "<u4"), ("ctf/exp_group_id", "<u4"),
    ]  # fmt: skip
    if both:
        fields.append(("alignments3D/class", "<u4"))
    table: Table = np.zeros(COUNT, np.dtype(fields))
    table["uid"] = 10_000 + np.arange(COUNT)
    table["location/micrograph_path"] = [NAMES[i].encode() for i in OF]
    table["location/micrograph_uid"] = 77 + OF
    table["location/center_x_frac"], table["location/center_y_frac"] = (X + 0.25) / SIDE, (Y + 0.25) / SIDE
    table["location/micrograph_shape"], table["location/micrograph_psize_A"] = SIDE, 1.5
    table["alignments2D/class"], table["ctf/exp_group_id"] = CLASS, GROUP
    if both:
        table["alignments3D/class"] = TYPE
    path = folder / "picks.cs"
    write_table(path, table[rows])
    return path


def chosen(picks: Path, **recipe: Any) -> tuple[NDArray[np.bool_], list[str]]:
    """Which picks are not left out before boxes are placed, and why the others are."""
    given = Given.of(picks, None, picks.parent)
    plan = prepare(given, recipe=cryobox.Recipe(box=2, normalize=False, edges="pad", **recipe)).plan
    return plan.places.reason == ACCEPTED, [str(REASONS[code]) for code in plan.places.reason if code != ACCEPTED]


def test_classes_are_those_of_the_table(folder: Path) -> None:
    wanted = np.isin(CLASS, (1, 3, 4))
    for picks in (star(folder), cs(folder)):
        found, why = chosen(picks, classes="1, 3-4")
        np.testing.assert_array_equal(found, wanted)
        assert set(why) == {"of another class"}
    picks = cs(folder, both=True)
    with pytest.raises(OptionError, match="classes of 2D and of 3D; say which with --classes-from"):
        chosen(picks, classes="1")
    np.testing.assert_array_equal(chosen(picks, classes="1", classes_from="3d")[0], TYPE == 1)
    np.testing.assert_array_equal(chosen(picks, classes="1", classes_from="2d")[0], CLASS == 1)


def test_groups_and_selection_types_are_those_of_the_table(folder: Path) -> None:
    np.testing.assert_array_equal(chosen(star(folder), optics_groups="2-3")[0], GROUP > 1)
    np.testing.assert_array_equal(chosen(cs(folder), optics_groups="1")[0], GROUP == 1)
    np.testing.assert_array_equal(chosen(star(folder), selection_type=2)[0], TYPE == 2)
    found, why = chosen(star(folder), classes="2", optics_groups="1", selection_type=0)
    np.testing.assert_array_equal(found, (CLASS == 2) & (GROUP == 1) & (TYPE == 0))
    assert why.count("of another class") == np.count_nonzero(CLASS != 2)  # what is named first counts


@pytest.mark.parametrize("make", [star, cs])
@pytest.mark.parametrize("sample", ["7", "25%", "100%", "1000"])
def test_a_sample_is_the_same_for_any_order_of_the_table(folder: Path, make: Any, sample: str) -> None:
    first, why = chosen(make(folder), sample=sample, seed=3)
    expected = {"7": 7, "25%": 10, "100%": COUNT, "1000": COUNT}[sample]
    assert first.sum() == expected
    assert set(why) <= {"not in the sample"}
    order = np.random.default_rng(5).permutation(COUNT)
    np.testing.assert_array_equal(chosen(make(folder, order), sample=sample, seed=3)[0], first[order])
    other, _ = chosen(make(folder), sample=sample, seed=4)
    assert (other != first).any() == (expected < COUNT)


def test_equal_picks_are_told_apart_by_their_number(folder: Path) -> None:
    twice = star(folder, np.repeat(np.arange(COUNT), 2))
    found, _ = chosen(twice, sample="40")
    assert found.sum() == 40
    assert not (found[::2] == found[1::2]).all()  # not both or neither of each pair


def test_a_sample_is_of_what_else_is_chosen(folder: Path) -> None:
    found, why = chosen(star(folder), classes="1-3", sample="50%")
    among = np.isin(CLASS, (1, 2, 3))
    assert found.sum() == round(among.sum() / 2)
    assert not found[~among].any()
    assert set(why) == {"of another class", "not in the sample"}


@pytest.mark.parametrize("edges", ["reject", "pad"])
def test_boxes_stay_away_from_the_edge(folder: Path, edges: Any) -> None:
    given = Given.of(star(folder), None, folder)
    recipe = cryobox.Recipe(box=20, normalize=False, edges=edges, edge_margin=15)
    plan = prepare(given, recipe=recipe).plan
    far = (np.minimum(Y, X) - 10 >= 15) & (np.maximum(Y, X) + 10 <= SIDE - 15)
    np.testing.assert_array_equal(plan.places.reason == ACCEPTED, far)
    said = {str(REASONS[code]) for code in plan.places.reason if code != ACCEPTED}
    assert said == (
        {"box over the edge", "box within the edge margin"} if edges == "reject" else {"box within the edge margin"}
    )


def test_what_a_table_does_not_have_cannot_be_chosen_by(folder: Path) -> None:
    for picks, recipe, message in (
        (star(folder, drop="rlnClassNumber"), {"classes": "1"}, "has no classes"),
        (cs(folder), {"classes": "1", "classes_from": "3d"}, "has no classes of 3D"),
        (cs(folder), {"selection_type": 1}, "no column of the selection type, so --selection-type cannot"),
        (cs(folder), {"classes_from": "2d"}, "give both, or neither"),
    ):
        with pytest.raises(OptionError, match=message):
            chosen(picks, **recipe)
    with pytest.raises(InputError, match="row 1: _rlnClassNumber is 1.5, expected a whole number"):
        chosen(star(folder, rlnClassNumber=["1.5"] * COUNT), classes="1")


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"classes": "a"}, "whole numbers and ranges"),
        ({"classes": "3-1"}, "holds nothing"),
        ({"optics_groups": ""}, "whole numbers and ranges"),
        ({"sample": "0"}, "number of picks"),
        ({"sample": "120%"}, "at most 100%"),
        ({"sample": "1.5"}, "number of picks"),
        ({"edge_margin": 0}, "at least 1"),
    ],
)
def test_a_choice_that_means_nothing_is_refused(recipe: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        cryobox.Recipe(box=64, **recipe)


def test_a_run_keeps_to_the_selection_and_its_record_repeats_it(folder: Path) -> None:
    picks = star(folder)
    out = folder / "out"
    recipe = cryobox.Recipe(box=16, classes="1-3", sample="60%", seed=9, edge_margin=4)
    result = cryobox.run(picks, out=out, recipe=recipe, root=folder, options=cryobox.RunOptions(fsync=False))
    kept = read_particles(out / "particles.star", recipe=recipe)
    assert len(kept) == result.extracted > 0
    assert set(kept.table.table.texts("_rlnClassNumber")) <= {"1", "2", "3"}
    assert verify(out, everything=True).problems == ()
    assert sum(len(np.array(mrcfile.read(path), ndmin=3)) for path in (out / "stacks").iterdir()) == result.extracted
    assert result.extracted + sum(result.rejected.values()) == COUNT
