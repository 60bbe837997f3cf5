"""Tubes cut into segments, segments numbered and directed, boxes moved across tubes: beside the oracle, and in runs."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import cryobox
from cryobox import centering, reference, tubes
from cryobox.errors import InputError, OptionError
from cryobox.formats.cs_table import write_table
from cryobox.given import Given
from cryobox.inputs import Inputs, prepare
from cryobox.job import merge
from cryobox.particles import Reason
from cryobox.verification import verify
from star_tables import columns
from synth import micrograph, write_mrc, write_star

SHAPE, PIXEL, BOX = (400, 500), 2.0, 32
PLACE = st.one_of(st.integers(0, 900).map(float), st.floats(0, 900))
VERTICES = st.lists(st.tuples(PLACE, PLACE), min_size=2, max_size=5)


@settings(max_examples=100, deadline=None)
@given(st.lists(VERTICES, min_size=1, max_size=4), st.floats(9, 400))
def test_tubes_are_cut_as_the_oracle_walks_along_them(drawn: list[list[tuple[float, float]]], step: float) -> None:
    points = np.array([point for one in drawn for point in one])
    of = np.repeat(np.arange(len(drawn)), [len(one) for one in drawn])
    found = tubes.cut_along(points, of, np.full(len(drawn), step))
    middle = tubes.middles(points, of, len(drawn))
    for number, one in enumerate(drawn):
        expected = reference.segments_of(one, step)
        mine = found.tube == number
        assert found.number[mine].tolist() == [segment.number for segment in expected]
        wanted = np.array([(s.y, s.x) for s in expected]).reshape(-1, 2)
        np.testing.assert_allclose(found.center[mine], wanted, atol=1e-6)
        half = reference.middle_of(one)
        assert (middle.tube == number).sum() == (half is not None)
        if half is not None:
            np.testing.assert_allclose(middle.center[middle.tube == number], [(half.y, half.x)], atol=1e-6)
        if len(one) == 2:  # at a vertex either piece is right
            np.testing.assert_allclose(found.psi[mine], [s.psi for s in expected], atol=6e-7)


def test_the_direction_of_a_bent_tube_is_that_of_its_piece() -> None:
    found = tubes.cut_along(np.array([[0.0, 0], [0, 50], [50, 50]]), np.zeros(3, np.intp), np.array([20.0]))
    assert found.psi.tolist() == [0, 0, 0, -90, -90]
    np.testing.assert_allclose(found.center[:, 0], [0, 0, 0, 10.2, 30.2])
    assert [s.psi for s in reference.segments_of([(0, 0), (0, 50), (50, 50)], 20.0)] == [0, 0, 0, -90, -90]


@settings(max_examples=300, deadline=None)
@given(st.tuples(st.floats(-40, 40), st.floats(-40, 40)), st.floats(-180, 180))
def test_a_box_moves_across_its_tube_as_the_oracle_says_and_only_once(shift: tuple[float, float], psi: float) -> None:
    axis = tubes.axis_of(np.array([psi]))
    placed = centering.place(np.array([[500.0, 600.0]]), np.array([shift]), axis)
    moved = 500 - placed.center[0, 0], 600 - placed.center[0, 1]
    assert tuple(map(int, moved)) == reference.across_steps(shift, psi)
    left = np.array(shift) - placed.move[0]
    along = float(left @ axis[0])
    assert np.abs(left - along * axis[0]).max() <= 0.5 + 2e-4
    again = centering.place(placed.center.astype(np.float64), left[None], axis)
    assert again.center.tolist() == placed.center.tolist()
    # What moved is within a pixel of nothing along the tube, as whole pixels allow.
    assert abs(float(placed.move[0] @ axis[0])) <= math.sqrt(0.5) * 2 + 1e-9


def test_directions_are_those_of_the_neighbors_in_the_order_of_positions() -> None:
    position = np.array([[0.0, 0], [20, 20], [10, 10], [5, 5], [7, 7]])
    found = tubes.directions(position, np.array([0, 0, 0, 1, 2]), np.array([0.0, 2, 1, 0, 0]))
    np.testing.assert_array_equal(found, [-45, -45, -45, np.nan, np.nan])
    assert reference.prior_of((0, 0), (20, 20)) == -45


# Runs ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for number, name in enumerate("abc"):
        write_mrc(tmp_path / f"M/{name}.mrc", micrograph(SHAPE, seed=number), pixel_size=PIXEL)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def table(folder: Path, rows: Mapping[str, Any], name: str = "p.star") -> str:
    n = len(rows["rlnCoordinateX"])
    write_star(folder / name, {"particles": {"rlnMicrographName": ["M/a.mrc"] * n} | dict(rows)})
    return name


def planned(picks: str | list[str], **asked: Any) -> Inputs:
    recipe = cryobox.Recipe(box=BOX, **{"normalize": False} | asked)
    return prepare(Given.of(picks, "M/*.mrc"), recipe=recipe)


def extract(picks: str | list[str], out: str = "out", **asked: Any) -> cryobox.RunResult:
    recipe = cryobox.Recipe(box=BOX, normalize=False, **asked)
    return cryobox.run(
        picks,
        micrographs="M/*.mrc",
        out=out,
        recipe=recipe,
        options=cryobox.RunOptions(fsync=False, allow_incomplete=True),
    )


def numbers(path: str, tag: str) -> NDArray[np.float64]:
    return np.array(list(map(float, columns(Path(path))[tag])))


ENDS: dict[str, list[Any]] = {"rlnCoordinateX": [50, 250, 300, 300], "rlnCoordinateY": [60, 60, 300, 100]}


def test_pairs_of_ends_become_segments_whose_other_columns_are_the_starts(folder: Path) -> None:
    picks = table(folder, ENDS | {"rlnFunny": list("abcd"), "rlnHelicalTubePitch": [1, 1, 2, 2]})
    result = extract(picks, helix="ends", helical_rise=10.0, helical_nr_asu=4)
    found = columns(Path("out/particles.star"))
    assert result.extracted == 20
    assert found["_rlnHelicalTubeID"] == ["1"] * 10 + ["2"] * 10
    assert found["_rlnFunny"] == ["a"] * 10 + ["c"] * 10
    assert [float(x) for x in found["_rlnHelicalTubePitch"]] == [1.0] * 10 + [2.0] * 10
    assert numbers("out/particles.star", "_rlnCoordinateX")[:3].tolist() == [50.2, 70.2, 90.2]
    assert numbers("out/particles.star", "_rlnCoordinateY")[10:13].tolist() == [299.8, 279.8, 259.8]
    assert numbers("out/particles.star", "_rlnHelicalTrackLengthAngst")[:3].tolist() == [0, 40, 80]
    assert set(found["_rlnAnglePsiPrior"]) == {"0.000000", "90.000000"}
    assert set(found["_rlnAngleTiltPrior"]) == {"90.000000"}
    assert set(found["_rlnAnglePsiFlipRatio"]) == {"0.500000"}
    assert not verify("out").problems
    same = extract(picks, "same", helix="ends", inter_box_distance=40.0, helical_bimodal=False)
    assert same.extracted == 20
    assert set(columns(Path("same/particles.star"))["_rlnAnglePsiFlipRatio"]) == {"0.000000"}


def test_segments_over_the_edge_are_rejected_where_they_are_and_still_count(folder: Path) -> None:
    extract(
        table(folder, {"rlnCoordinateX": [2, 100], "rlnCoordinateY": [50, 50]}), helix="ends", inter_box_distance=20.0
    )
    rejected = columns(Path("out/rejected.star"))
    assert set(rejected["_cryoboxRejectReason"]) == {str(Reason.EDGE)}
    assert rejected["_rlnCoordinateX"] == ["2.100000", "12.100000"]
    assert rejected["_rlnHelicalTrackLengthAngst"] == ["0.000000", "20.000000"]
    assert numbers("out/particles.star", "_rlnHelicalTrackLengthAngst")[0] == 40


def test_a_segment_is_kept_if_its_whole_pixels_fit(folder: Path) -> None:
    """RELION leaves out the one at x = 500 - 16 + 0.3, by its fraction."""
    last = SHAPE[1] - BOX // 2 + 0.3
    said = {"rlnHelicalTubeID": [1, 1], "rlnCoordinateX": [400.0, last], "rlnCoordinateY": [50, 50]}
    assert extract(table(folder, said), helix="segments").extracted == 2


def test_tubes_taken_whole_are_one_particle_in_the_middle(folder: Path) -> None:
    extract(table(folder, ENDS), helix="whole")
    assert numbers("out/particles.star", "_rlnCoordinateX").tolist() == [150, 300]
    assert numbers("out/particles.star", "_rlnHelicalTrackLengthAngst").tolist() == [0, 0]


@pytest.mark.parametrize("x", [float("nan"), 3e7])
@pytest.mark.parametrize("helix", ["ends", "whole"])
def test_an_end_whose_other_one_is_nowhere_is_no_segment(folder: Path, x: float, helix: Any) -> None:
    rows = {"rlnCoordinateX": [50, x, 90, 190], "rlnCoordinateY": [50, 50, 120, 120]}
    step: dict[str, Any] = {"inter_box_distance": 40.0} if helix == "ends" else {}
    extract(table(folder, rows), helix=helix, **step)
    assert set(columns(Path("out/particles.star"))["_rlnCoordinateY"]) == {"120.000000"}
    reasons = columns(Path("out/rejected.star"))["_cryoboxRejectReason"]
    assert max(reasons) == str(Reason.NO_FILAMENT)
    assert len(reasons) == 2


def test_an_odd_number_of_ends_costs_its_micrograph_by_name(folder: Path) -> None:
    rows: dict[str, list[Any]]
    rows = {"rlnMicrographName": ["M/a.mrc"] * 3 + ["M/b.mrc"] * 2, "rlnCoordinateX": [50, 90, 80, 50, 90],
            "rlnCoordinateY": [60, 60, 60, 60, 60]}  # fmt: skip
    result = extract(table(folder, rows), helix="ends", inter_box_distance=40.0)
    assert columns(Path("out/micrographs_incomplete.star"), "micrographs")["_rlnMicrographName"] == ["M/a.mrc"]
    assert any("p.star: M/a.mrc has 3 ends of helices, an odd number" in text for text in result.warnings)
    assert set(columns(Path("out/particles.star"))["_rlnMicrographName"]) == {"M/b.mrc"}
    alone = table(folder, {tag: values[:3] for tag, values in rows.items()}, "alone.star")
    with pytest.raises(InputError, match=r"alone\.star: M/a\.mrc has 3 ends .*; no micrograph is left"):
        planned(alone, helix="ends", inter_box_distance=40.0)


def test_ends_that_say_two_helices_are_no_pair(folder: Path) -> None:
    picks = table(folder, ENDS | {"rlnHelicalTubeID": [4, 4, 4, 5]})
    with pytest.raises(InputError, match=r"M/a\.mrc has 4 ends of helices that are not in pairs of one helix"):
        planned(picks, helix="ends", inter_box_distance=40.0)


@pytest.mark.parametrize(("said", "wanted"), [([7, 7, 3, 3], [7, 3]), ([0, 0, 1, 1], [1, 2]), ([5, 5, 5, 5], [1, 2])])
def test_numbers_of_tubes_stay_if_they_can(folder: Path, said: list[int], wanted: list[int]) -> None:
    made = planned(table(folder, ENDS | {"rlnHelicalTubeID": said}), helix="ends", inter_box_distance=40.0)
    assert made.particles.tube is not None
    assert made.particles.tube[[0, -1]].tolist() == wanted
    assert any("numbered anew" in text for text in made.plan.warnings) == (said != [7, 7, 3, 3])


def test_tubes_of_several_files_on_one_micrograph_are_numbered_through(folder: Path) -> None:
    segments = {"rlnCoordinateX": [50, 90], "rlnCoordinateY": [60, 60], "rlnHelicalTubeID": [1, 1]}
    two = segments | {"rlnCoordinateY": [90, 90], "rlnHelicalTubeID": [2, 1]}
    extract([table(folder, segments), table(folder, two, "q.star")], helix="segments")
    assert columns(Path("out/particles.star"))["_rlnHelicalTubeID"] == ["1", "1", "2", "3"]


def test_segments_get_what_their_table_does_not_say(folder: Path) -> None:
    said = {
        "rlnCoordinateX": [50, 80, 110, 200],
        "rlnCoordinateY": [60, 90, 120, 200],
        "rlnHelicalTubeID": [1, 1, 1, 2],
    }
    result = extract(table(folder, said), helix="segments")
    assert numbers("out/particles.star", "_rlnAnglePsiPrior").tolist() == [-45, -45, -45, 0]
    np.testing.assert_allclose(
        numbers("out/particles.star", "_rlnHelicalTrackLengthAngst"),
        np.array([0, 30, 60, 0]) * 2**0.5 * PIXEL,
        atol=1e-6,
    )
    assert any("1 segments have no neighbor in their helix" in text for text in result.warnings)


def test_what_a_table_of_segments_says_stays_as_it_is_written(folder: Path) -> None:
    said = {
        "rlnCoordinateX": [50, 80], "rlnCoordinateY": [60, 90], "rlnHelicalTubeID": [3, 3],
        "rlnAngleTiltPrior": ["89.5", "88"], "rlnAnglePsiPrior": ["12.50", "13"],
        "rlnHelicalTrackLengthAngst": ["1e1", "20"],
        "rlnAnglePsiFlipRatio": ["0.1", "0.2"],
    }  # fmt: skip
    extract(table(folder, said), helix="segments")
    found = columns(Path("out/particles.star"))
    for tag in ("rlnAngleTiltPrior", "rlnAnglePsiPrior", "rlnHelicalTrackLengthAngst", "rlnAnglePsiFlipRatio"):
        assert found[f"_{tag}"] == said[tag]
    extract(table(folder, said), "other", helix="segments", helical_bimodal=False)
    assert set(columns(Path("other/particles.star"))["_rlnAnglePsiFlipRatio"]) == {"0.000000"}
    extract(table(folder, said), "dropped", helix="segments", drop_alignments=True)
    assert columns(Path("dropped/particles.star"))["_rlnAnglePsiPrior"] == ["12.500000", "13.000000"]


REFINED: dict[str, list[Any]] = {
    "rlnCoordinateX": [100, 120, 140], "rlnCoordinateY": [100, 100, 100], "rlnHelicalTubeID": [1, 1, 1],
    "rlnAngleTiltPrior": [90] * 3, "rlnAnglePsiPrior": [0] * 3, "rlnHelicalTrackLengthAngst": [0, 40, 80],
    "rlnOriginXAngst": [-28.0, 9.0, 0.0], "rlnOriginYAngst": [7.0, -7.0, 0.5],
}  # fmt: skip


def test_boxes_of_segments_move_across_their_tube_alone(folder: Path) -> None:
    result = extract(table(folder, REFINED), helix="segments")
    assert numbers("out/particles.star", "_rlnCoordinateX").tolist() == [100, 120, 140]
    assert numbers("out/particles.star", "_rlnCoordinateY").tolist() == [96, 104, 100]
    assert numbers("out/particles.star", "_rlnOriginXAngst").tolist() == [-28, 9, 0]
    assert numbers("out/particles.star", "_rlnOriginYAngst").tolist() == [-1, 1, 0.5]
    assert not any("closer than half" in text for text in result.warnings)
    assert not verify("out").problems
    again = extract("out/particles.star", "again", helix="segments")
    assert again.extracted == 3
    for tag in ("_rlnCoordinateX", "_rlnCoordinateY", "_rlnOriginXAngst", "_rlnOriginYAngst"):
        assert columns(Path("again/particles.star"))[tag] == columns(Path("out/particles.star"))[tag]


def test_boxes_that_move_freely_onto_their_neighbors_are_told_of(folder: Path) -> None:
    result = extract(table(folder, REFINED), helix="segments", helical_recenter="free")
    assert numbers("out/particles.star", "_rlnCoordinateX").tolist() == [114, 115, 140]
    told = [text for text in result.warnings if "closer than half a step" in text]
    assert told
    assert re.search(r"p\.star: after recentering 1 segments lie closer .* \(M/a\.mrc\)", told[0])


def test_boxes_of_segments_can_stay(folder: Path) -> None:
    extract(table(folder, REFINED), helix="segments", helical_recenter="none")
    assert columns(Path("out/particles.star"))["_rlnOriginXAngst"][0] == "-28.0"


def test_every_window_knows_the_direction_of_its_tube(folder: Path) -> None:
    asked: dict[str, Any] = {"helix": "ends", "inter_box_distance": 40.0}
    assert planned(table(folder, ENDS), **asked).plan.tasks[0].windows.angle is None
    made = planned("p.star", **asked, normalize=True, helical_outer_diameter_angstrom=20.0)
    angle = made.plan.tasks[0].windows.angle
    assert angle is not None
    assert angle.tolist() == [0.0] * 10 + [90.0] * 10


def test_picks_of_a_binned_copy_are_cut_at_distances_in_angstrom(folder: Path) -> None:
    half = {tag: [value / 2 for value in values] for tag, values in ENDS.items()}
    whole = planned(table(folder, ENDS), helix="ends", inter_box_distance=37.0)
    binned = planned(table(folder, half, "half.star"), helix="ends", inter_box_distance=37.0, coordinate_scale=2.0)
    np.testing.assert_array_equal(binned.plan.places.center, whole.plan.places.center)
    np.testing.assert_array_equal(binned.particles.track, whole.particles.track)


@pytest.mark.parametrize("flips", [{"flip_x": True}, {"flip_y": True}, {"flip_x": True, "flip_y": True}])
def test_ends_on_a_mirrored_copy_give_the_directions_on_the_stored_file(folder: Path, flips: dict[str, bool]) -> None:
    x, y = np.array([50.0, 250, 300, 310]), np.array([60.0, 130, 300, 100])
    straight = planned(table(folder, {"rlnCoordinateX": x, "rlnCoordinateY": y}), helix="ends", inter_box_distance=40.0)
    mirrored = {
        "rlnCoordinateX": SHAPE[1] - 1 - x if "flip_x" in flips else x,
        "rlnCoordinateY": SHAPE[0] - 1 - y if "flip_y" in flips else y,
    }
    found = planned(table(folder, mirrored, "f.star"), helix="ends", inter_box_distance=40.0, **flips)
    np.testing.assert_allclose(found.particles.psi, straight.particles.psi, atol=1e-9)
    assert np.abs(found.plan.places.center - straight.plan.places.center).max() <= 1


def test_ends_on_micrographs_that_are_not_there_are_rejected_as_they_are(folder: Path) -> None:
    rows = {"rlnMicrographName": ["M/a.mrc"] * 2 + ["M/z.mrc"] * 2, **{k: v[:2] * 2 for k, v in ENDS.items()}}
    extract(table(folder, rows), helix="ends", inter_box_distance=40.0)
    found = columns(Path("out/rejected.star"))
    assert found["_rlnCoordinateX"] == ["50.000000", "250.000000"]
    assert set(found["_cryoboxRejectReason"]) == {str(Reason.NO_MICROGRAPH)}


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"helix": "ends"}, "needs the distance of segments"),
        ({"helical_rise": 4.0}, "--helical-rise is about helices"),
        ({"helix": "segments", "helical_rise": 4.0}, "goes with --helix ends, not segments"),
        (
            {"helix": "ends", "helical_rise": 4.0, "inter_box_distance": 3.0},
            "give --inter-box-distance or --helical-rise",
        ),
        ({"helix": "ends", "helical_nr_asu": 4}, "needs the distance of segments"),
        ({"helix": "whole", "helical_recenter": "none"}, "it goes with --helix segments"),
        ({"helix": "segments", "helical_recenter": "free", "recenter": False}, "contradicts --no-recenter"),
    ],
)
def test_options_of_helices_that_do_not_fit_are_refused(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=re.escape(message)):
        cryobox.Recipe(box=32, **asked)


def test_helices_that_are_all_too_short_are_an_error(folder: Path) -> None:
    with pytest.raises(InputError, match=r"p\.star: none of its 2 helices is long enough for a segment"):
        planned(table(folder, ENDS), helix="ends", inter_box_distance=1e6)


def test_a_circle_as_the_background_of_helices_is_told(folder: Path) -> None:
    asked: dict[str, Any] = {"helix": "ends", "inter_box_distance": 40.0, "normalize": True}
    told = [
        planned(table(folder, ENDS), **asked, **more).plan.warnings
        for more in ({}, {"helical_outer_diameter_angstrom": 20.0})
    ]
    assert ["outside a circle" in " ".join(warnings) for warnings in told] == [True, False]


def test_particles_are_no_ends_and_no_segments(folder: Path) -> None:
    with pytest.raises(InputError, match=r"has _rlnOriginYAngst, so its rows are particles"):
        planned(table(folder, REFINED), helix="ends", inter_box_distance=40.0)
    with pytest.raises(InputError, match=r"does not say which helix a segment belongs to"):
        planned(table(folder, ENDS), helix="segments")
    with pytest.raises(OptionError, match=r"would be more than 268435456; is the distance in Å"):
        planned(table(folder, ENDS), helix="ends", inter_box_distance=1e-6)


def several(folder: Path) -> str:
    """Tubes on three micrographs, in turn."""
    rows: dict[str, list[Any]] = {
        "rlnMicrographName": [f"M/{name}.mrc" for name in "abc" for _ in range(4)],
        "rlnCoordinateX": ENDS["rlnCoordinateX"] * 3,
        "rlnCoordinateY": ENDS["rlnCoordinateY"] * 3,
    }
    return table(folder, rows)


def test_shards_and_resumed_runs_of_segments_give_the_bytes_of_a_whole_run(folder: Path) -> None:
    picks = several(folder)
    asked: dict[str, Any] = {"helix": "ends", "inter_box_distance": 31.0}
    extract(picks, "whole", **asked)
    for shard in (1, 2):
        cryobox.run(
            picks, micrographs="M/*.mrc", out="parts", recipe=cryobox.Recipe(box=BOX, normalize=False, **asked),
            options=cryobox.RunOptions(fsync=False, shard=(shard, 2)),
        )  # fmt: skip
    merge("parts")
    extract(picks, "resumed", limit=1, **asked)
    extract(picks, "resumed", **asked)
    for out in ("parts", "resumed"):
        for name in "abc":
            stack = f"stacks/{name}_particles.mrcs"
            assert Path(out, stack).read_bytes() == Path("whole", stack).read_bytes()
        text = Path(out, "particles.star").read_text().replace(f"@{out}/", "@whole/")
        assert text == Path("whole/particles.star").read_text()
        assert verify(out, everything=True).problems == ()


# CryoSPARC -----------------------------------------------------------------------------------------------------------


def filaments(folder: Path, pose: float = 0.0) -> str:
    fields: list[Any] = [
        ("uid", "<u8"), ("location/micrograph_path", "S8"), ("location/micrograph_uid", "<u8"),
        ("location/center_x_frac", "<f4"), ("location/center_y_frac", "<f4"),
        ("location/micrograph_shape", "<u4", (2,)), ("location/micrograph_psize_A", "<f4"),
        ("filament/filament_uid", "<u8"), ("filament/position_A", "<f4"),
        ("filament/filament_pose", "<f4"),
    ]  # fmt: skip
    found = np.zeros(7, fields)
    found["uid"] = np.arange(1, 8)
    found["location/micrograph_path"] = b"M/a.mrc"
    found["location/micrograph_uid"] = 7
    found["location/micrograph_shape"] = SHAPE
    found["location/micrograph_psize_A"] = PIXEL
    x, y = np.array([100, 140, 120, 200, 200, 200, 300]), np.array([100, 140, 120, 300, 260, 280, 200])
    found["location/center_x_frac"], found["location/center_y_frac"] = x / SHAPE[1], y / SHAPE[0]
    found["filament/filament_uid"] = [9000, 9000, 9000, 8000, 8000, 8000, 0]
    found["filament/position_A"] = [50, 150, 100, 0, 80, 40, 0]
    found["filament/filament_pose"] = np.radians([45, 45, 45, -90, -90, -90, 0]) + pose
    write_table(folder / "p.cs", found)
    return "p.cs"


def test_filaments_of_a_cs_have_the_direction_of_their_neighbors_by_position(folder: Path) -> None:
    made = planned(filaments(folder), helix="segments")
    assert made.particles.tube is not None
    assert made.particles.psi is not None
    assert made.particles.tube.tolist() == [2, 2, 2, 1, 1, 1, 0]
    np.testing.assert_allclose(made.particles.psi, [-45, -45, -45, 90, 90, 90, 0], atol=1e-3)
    assert made.plan.counts() == {str(Reason.NO_FILAMENT): 1}
    assert not any("filament_pose" in text for text in made.plan.warnings)
    turned = planned(filaments(folder, pose=1.0), helix="segments")
    assert any("filament/filament_pose differs by more than 10 degrees" in text for text in turned.plan.warnings)
    with pytest.raises(InputError, match=r"p\.cs: a table of CryoSPARC holds no ends of tubes"):
        planned(filaments(folder), helix="ends", inter_box_distance=40.0)


def test_filaments_of_a_cs_go_out_as_they_came(folder: Path) -> None:
    extract(filaments(folder), helix="segments")
    before, after = np.load("p.cs"), np.load("out/particles.cs")
    for field in before.dtype.names:
        np.testing.assert_array_equal(after[field], before[field][:6])
    assert not verify("out").problems


def test_tables_of_both_families_say_the_same_helices(folder: Path) -> None:
    extract(table(folder, ENDS), helix="ends", inter_box_distance=40.0, tables="both")
    cs = np.load("out/particles.cs")
    assert len(set(cs["filament/filament_uid"].tolist())) == 2
    np.testing.assert_allclose(cs["filament/position_A"], numbers("out/particles.star", "_rlnHelicalTrackLengthAngst"))
    assert not verify("out").problems


def test_ends_without_a_table_give_the_filaments_of_a_cs(folder: Path) -> None:
    (folder / "E").mkdir()
    (folder / "E/a.box").write_text(
        "34\t44\t32\t32\t-1\n266\t44\t32\t32\t-2\n84\t284\t32\t32\t-1\n84\t84\t32\t32\t-2\n"
    )
    extract("E", helix="ends", inter_box_distance=40.0, style="cryosparc")
    found = np.load("out/particles.cs")
    uid, first = np.unique(found["filament/filament_uid"], return_inverse=True)
    assert (uid > 0).all()
    assert np.bincount(first).tolist() in ([10, 9], [9, 10])
    long = first == first[0]
    np.testing.assert_allclose(found["filament/position_A"][long], 40.0 * np.arange(10))
    assert set(found["filament/arc_length_A"][long].tolist()) == {400.0}
    assert set(found["filament/arc_length_A"][~long].tolist()) == {336.0}
    assert set(found["filament/inter_box_dist_A"].tolist()) == {40.0}
    assert verify("out", everything=True).problems == ()


def test_a_run_tells_how_many_segments_its_ends_gave(folder: Path) -> None:
    assert (
        "4 ends of helices are 20 picks"
        in planned(table(folder, ENDS), helix="ends", inter_box_distance=40.0).plan.notes
    )
