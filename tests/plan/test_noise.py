"""Where boxes of noise lie: the literal twin's places, away from everything, the same for any order of the picks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import cryobox
from cryobox import reference
from cryobox.errors import InputError, OptionError
from cryobox.given import Given
from cryobox.inputs import Inputs, prepare
from cryobox.picks.masking import judge_of_noise
from cryobox.picks.noise import noise_corners
from cryobox.plan import ACCEPTED, Noise
from synth import micrograph, write_mrc, write_star

NY, NX, BOX = 300, 400, 40
RNG = np.random.default_rng(5)
N = 24
X, Y = RNG.uniform(0, NX, N), RNG.uniform(0, NY, N)
NAMES = ("m/a.mrc", "m/b.mrc")

places = st.lists(st.tuples(st.integers(-9, 45), st.integers(-9, 45)), max_size=12)


@given(
    count=st.integers(1, 30),
    stream=st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**53)),
    shape=st.tuples(st.integers(3, 40), st.integers(3, 40)),
    half=st.integers(1, 5),
    margin=st.integers(0, 4),
    centers=places,
    excluded=st.lists(st.tuples(*[st.integers(0, 40)] * 4), max_size=2),
    junk=st.integers(0, 3),
)
@settings(deadline=None, max_examples=300)
def test_boxes_of_noise_are_those_of_the_literal_twin_and_only_where_no_place_is_left_fewer(
    count: int, stream: tuple[int, int], shape: tuple[int, int], half: int, margin: int,
    centers: list[tuple[int, int]], excluded: list[tuple[int, int, int, int]], junk: int,
) -> None:  # fmt: skip
    box = 2 * half
    rectangles = [(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in excluded]
    asked: dict[str, Any] = {"stream": stream, "shape": shape, "box": box, "margin": margin, "excluded": rectangles}
    on_junk = None if junk == 0 else (lambda corner: (corner[0] * 7 + corner[1] * 3) % 4 < junk)
    wanted = reference.noise_boxes(count, centers=centers, on_junk=on_junk, **asked)
    found = noise_corners(
        count,
        centers=np.array(centers, np.int64).reshape(-1, 2),
        on_junk=None if on_junk is None else lambda many: np.array([on_junk(one) for one in many.tolist()]),
        **asked,
    )
    assert found.tolist() == [list(corner) for corner in wanted]
    middles = [(y + half, x + half) for y, x in wanted]
    for number, (corner, (y, x)) in enumerate(zip(wanted, middles, strict=True)):
        others = [*centers, *middles[:number]]
        assert all(max(abs(y - a), abs(x - b)) >= box for a, b in others)
        assert not any(reference.touches(corner, box, rectangle) for rectangle in rectangles)
        assert min(corner) >= margin
        assert all(first + box + margin <= side for first, side in zip(corner, shape, strict=True))
    if len(found) < count and on_junk is None:
        assert not reference.free_places(shape, box, margin, [*centers, *middles], rectangles).any()


def test_every_place_is_drawn_equally_often() -> None:
    """Of a field of 5 x 6 places with one pick in its middle: 30 less the 9 that would be too near."""
    drawn = [
        tuple(
            noise_corners(
                1, stream=(7, seed), shape=(6, 7), box=2, margin=0, centers=np.array([[3, 4]])
            )[0].tolist()
        )
        for seed in range(4200)
    ]  # fmt: skip
    free = np.argwhere(reference.free_places((6, 7), 2, 0, [(3, 4)], [])).tolist()
    numbers = {tuple(place): drawn.count(tuple(place)) for place in free}
    assert len(free) == 21
    assert sum(numbers.values()) == len(drawn)
    spread = sum((n - 200) ** 2 / 200 for n in numbers.values())
    assert spread < 45.3  # chi squared of 20 degrees of freedom: above it once in a thousand


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate(NAMES):
        write_mrc(tmp_path / name, micrograph((NY, NX), seed=number), pixel_size=1.5)
    return tmp_path


def table(folder: Path, rows: dict[str, list[Any]]) -> None:
    optics: dict[str, list[Any]] = {
        "rlnOpticsGroup": [1], "rlnOpticsGroupName": ["a"], "rlnVoltage": [300],
        "rlnSphericalAberration": [2.7], "rlnAmplitudeContrast": [0.1],
    }  # fmt: skip
    write_star(folder / "picks.star", {"optics": optics, "particles": rows})


def rows_of(order: NDArray[np.intp] | None = None, **more: list[Any]) -> dict[str, list[Any]]:
    order = np.arange(N) if order is None else order
    rows: dict[str, list[Any]] = {
        "rlnMicrographName": [NAMES[i % 2] for i in range(N)], "rlnCoordinateX": X.tolist(),
        "rlnCoordinateY": Y.tolist(), "rlnOpticsGroup": [1] * N, **more,
    }  # fmt: skip
    return {name: [values[i] for i in order] for name, values in rows.items()}


def planned(folder: Path, **recipe: Any) -> Inputs:
    given = Given.of("picks.star", None, directory=folder)
    asked: dict[str, Any] = {"box": BOX, "normalize": False, "noise_particles": 6} | recipe
    return prepare(given, recipe=cryobox.Recipe(**asked))


def noise_of(inputs: Inputs) -> Noise:
    noise = inputs.plan.noise
    assert noise is not None
    return noise


def boxes(inputs: Inputs) -> dict[str, list[tuple[int, int]]]:
    """The centers (y, x) by micrograph."""
    plan = noise_of(inputs).plan
    return {
        name: [(int(y), int(x)) for y, x in plan.places.center[plan.micrograph == row]]
        for row, name in enumerate(inputs.micrographs.names)
    }


def test_the_order_of_the_table_does_not_move_boxes_of_noise_and_another_seed_does(folder: Path) -> None:
    table(folder, rows_of())
    first = boxes(planned(folder))
    assert all(first.values())
    table(folder, rows_of(RNG.permutation(N)))
    assert boxes(planned(folder)) == first
    assert boxes(planned(folder, limit=1)).items() <= (first | {NAMES[1]: []}).items()
    other = boxes(planned(folder, seed=1))
    assert all(other[name] != first[name] for name in NAMES)


@pytest.mark.parametrize(
    "asked",
    [{"sample": "4"}, {"classes": "2"}, {"min_score": 0.8}, {"min_separation_angstrom": 90.0}, {"edges": "pad"}, {}],
    ids=str,
)
def test_noise_keeps_away_from_every_pick_whatever_became_of_it(folder: Path, asked: dict[str, Any]) -> None:
    classes, scores = [1 + i // 2 % 3 for i in range(N)], [i / N for i in range(N)]
    table(folder, rows_of(rlnClassNumber=classes, rlnAutopickFigureOfMerit=scores))
    inputs = planned(folder, **asked)
    accepted = inputs.plan.places.reason == ACCEPTED
    assert (accepted.sum() < N) == (asked != {"edges": "pad"})  # else some hang over the edge
    cut = set(inputs.plan.micrograph[accepted].tolist())
    found = boxes(inputs)
    assert {row for row, name in enumerate(NAMES) if found[name]} == cut
    for number, name in enumerate(NAMES):
        picks = [(int(y), int(x)) for y, x in zip(Y[number::2], X[number::2], strict=True)]
        for y, x in found[name]:
            assert all(max(abs(y - a), abs(x - b)) >= BOX for a, b in picks)
            assert BOX // 2 <= y <= NY - BOX // 2
            assert BOX // 2 <= x <= NX - BOX // 2


def test_a_pick_whose_shift_is_no_number_counts_where_its_coordinates_are_and_one_without_these_not(
    folder: Path,
) -> None:
    y, x = (150.0, 200.0)
    rows = rows_of(rlnOriginXAngst=[0.0] * N, rlnOriginYAngst=[0.0] * N, rlnAngleRot=[0.0] * N)
    rows["rlnCoordinateX"][0], rows["rlnCoordinateY"][0], rows["rlnOriginXAngst"][0] = x, y, "nan"
    rows["rlnCoordinateX"][2] = "nan"
    table(folder, rows)
    inputs = planned(folder, noise_particles=500)
    near = noise_of(inputs).centers[0].tolist()
    assert [150, 200] in near
    assert len(near) == N // 2 - 1


def test_shifted_boxes_count_where_they_are_cut(folder: Path) -> None:
    shift = [75.0] * N  # 50 pixels
    table(folder, rows_of(rlnOriginXAngst=shift, rlnOriginYAngst=shift, rlnAngleRot=[0.0] * N))
    inputs = planned(folder)
    wanted = sorted(map(tuple, np.trunc(np.stack([Y, X], axis=1)[::2]).astype(int) - 50))
    assert sorted(map(tuple, noise_of(inputs).centers[0].tolist())) == wanted
    table(folder, rows_of())
    assert boxes(planned(folder))[NAMES[0]] != boxes(inputs)[NAMES[0]]


def test_noise_is_not_taken_from_the_particle_that_sub_particles_are_parts_of(folder: Path) -> None:
    angles = {f"rlnAngle{name}": RNG.uniform(0, 90, N).tolist() for name in ("Rot", "Tilt", "Psi")}
    table(folder, rows_of(rlnOriginXAngst=[0.0] * N, rlnOriginYAngst=[0.0] * N, **angles))
    found = noise_of(planned(folder, subparticles="60,0,0", symmetry="C4")).centers[0].tolist()
    assert {(int(y), int(x)) for y, x in zip(Y[::2], X[::2], strict=True)} < {tuple(place) for place in found}
    assert len(found) == 5 * N // 2


def test_margin_rectangles_and_masks_keep_noise_away_too(folder: Path) -> None:
    table(folder, rows_of())
    mask = np.zeros((NY, NX), np.float32)
    mask[:, : NX // 2] = 1
    labels = np.zeros((NY // 2, NX // 2), np.int64)
    labels[: NY // 4] = 3
    (folder / "masks").mkdir()
    write_mrc(folder / "masks" / "a.mrc", mask)
    np.save(folder / "masks" / "b.npy", labels)
    rectangle = (320, 0, 330, 299)
    inputs = planned(folder, noise_particles=40, junk_masks="masks", edge_margin=10, exclude=(rectangle,))
    found = boxes(inputs)
    assert min(map(len, found.values())) > 0
    for number, name in enumerate(NAMES):
        for y, x in found[name]:
            corner = (y - BOX // 2, x - BOX // 2)
            assert 10 <= corner[0] <= NY - BOX - 10
            assert 10 <= corner[1] <= NX - BOX - 10
            assert not reference.touches(corner, BOX, rectangle)
            if number == 0:
                assert reference.bad_part(mask, corner, BOX, (NY, NX)) < 0.2
            else:
                assert not reference.has_label(labels, corner, BOX, (NY, NX))
    (folder / "masks" / "a.mrc").unlink()
    write_mrc(folder / "masks" / "a.mrc", np.ones((NY, NX), np.float32))  # such a map has failed, and is ignored
    assert len(boxes(planned(folder, noise_particles=40, junk_masks="masks"))[NAMES[0]]) > 0


@given(
    shape=st.tuples(st.integers(6, 40), st.integers(6, 40)),
    corner=st.tuples(st.integers(0, 36), st.integers(0, 36)),
    map_of=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    seed=st.integers(0, 99),
)
@settings(deadline=None)
def test_a_box_of_noise_has_no_part_of_a_labeled_pixel(
    tmp_path_factory: pytest.TempPathFactory, shape: tuple[int, int], corner: tuple[int, int],
    map_of: tuple[int, int], seed: int,
) -> None:  # fmt: skip
    place = (min(corner[0], shape[0] - 4), min(corner[1], shape[1] - 4))
    labels = (np.random.default_rng(seed).random(map_of) < 0.02).astype(np.int64)
    path = tmp_path_factory.mktemp("labels") / "a.npy"
    np.save(path, labels)
    try:
        judge = judge_of_noise(str(path), shape=shape, box=4, micrograph="a", threshold=None)
    except InputError:  # no binning of the micrograph
        return
    assert judge is not None
    assert judge(np.array([place]))[0] == reference.has_label(labels, place, 4, shape)


def test_what_cannot_be_is_refused(folder: Path) -> None:
    for number in (0, -1, 10_001):
        with pytest.raises(OptionError, match="noise_particles"):
            cryobox.Recipe(box=BOX, noise_particles=number)
    table(folder, rows_of())
    with pytest.raises(OptionError, match="noise_particles makes stacks and tables of its own"):
        cryobox.ParticleSource(
            folder / "picks.star", micrographs=folder / "m", recipe=cryobox.Recipe(box=BOX, noise_particles=3)
        )


def test_a_micrograph_without_room_has_none_and_a_warning_says_how_many_lack(folder: Path) -> None:
    full = [(y, x) for y in range(20, NY, 40) for x in range(20, NX, 40)]
    rows: dict[str, list[Any]] = {
        "rlnMicrographName": [NAMES[0]] * len(full) + [NAMES[1]], "rlnCoordinateX": [x for _, x in full] + [200],
        "rlnCoordinateY": [y for y, _ in full] + [150], "rlnOpticsGroup": [1] * (len(full) + 1),
    }  # fmt: skip
    table(folder, rows)
    inputs = planned(folder, noise_particles=4)
    assert {name: len(found) for name, found in boxes(inputs).items()} == {NAMES[0]: 0, NAMES[1]: 4}
    expected = (
        "--noise-particles 4: 1 of 2 micrographs have no room for so many boxes away from their picks (1 have none at "
        "all); 4 of 8 are cut"
    )
    assert [text for text in inputs.plan.warnings if "noise" in text] == [expected]
    assert inputs.plan.tasks[0].noise is None
    plain = planned(folder, noise_particles=None).plan
    assert [task.id == other.id for task, other in zip(inputs.plan.tasks, plain.tasks, strict=True)] == [True, False]
