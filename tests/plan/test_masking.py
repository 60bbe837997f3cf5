"""Boxes on junk and on defects of the detector: found as masks and rectangles say, told, recorded, and verified."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import cryobox
from cryobox import reference
from cryobox.errors import InputError, OptionError, OutputError
from cryobox.formats.masks import read_mask
from cryobox.given import Given
from cryobox.inputs import Inputs, prepare
from cryobox.picks.masking import bad_part, on_labels, over_rectangles
from cryobox.plan import ACCEPTED, REASONS
from cryobox.verification import verify
from synth import micrograph, write_mrc, write_star

NY, NX, BOX = 300, 400, 40
RNG = np.random.default_rng(3)
NAMES = ["m/a.mrc", "m/b.mrc"]
N = 60
Y, X = RNG.integers(BOX // 2, NY - BOX // 2, N), RNG.integers(BOX // 2, NX - BOX // 2, N)
OF = np.arange(N) % 2


def write_mask(path: Path, values: NDArray[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, values)
    else:
        with mrcfile.new(path, overwrite=True) as file:
            file.set_data(values)
    return path


def disc(shape: tuple[int, int], value: float = 1.0) -> NDArray[np.float32]:
    """The same junk in a mask of any size: a disc in the middle, over a quarter of the sides."""
    y, x = np.indices(shape) + 0.5
    inside = np.hypot((y / shape[0] - 0.5) * NY, (x / shape[1] - 0.5) * NX) < 80
    return np.where(inside, value, 0).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate(NAMES):
        write_mrc(tmp_path / name, micrograph((NY, NX), seed=number), pixel_size=1.5)
    optics: dict[str, list[Any]] = {
        "rlnOpticsGroup": [1], "rlnOpticsGroupName": ["a"], "rlnVoltage": [300],
        "rlnSphericalAberration": [2.7], "rlnAmplitudeContrast": [0.1],
    }  # fmt: skip
    rows: dict[str, list[Any]] = {
        "rlnMicrographName": [NAMES[i] for i in OF], "rlnCoordinateX": X.tolist(), "rlnCoordinateY": Y.tolist(),
        "rlnOpticsGroup": [1] * N,
    }  # fmt: skip
    write_star(tmp_path / "picks.star", {"optics": optics, "particles": rows})
    return tmp_path


def planned(folder: Path, **recipe: Any) -> Inputs:
    given = Given.of("picks.star", None, directory=folder)
    return prepare(given, recipe=cryobox.Recipe(**({"box": BOX, "normalize": False} | recipe)))


def junk(inputs: Inputs) -> NDArray[np.bool_]:
    """Which picks are left out; all for the same reason."""
    reason = inputs.plan.places.reason
    assert {str(REASONS[code]) for code in reason if code != ACCEPTED} <= {"junk in the mask"}
    found: NDArray[np.bool_] = reason != ACCEPTED
    return found


def corners() -> list[tuple[int, int]]:
    return [(int(y) - BOX // 2, int(x) - BOX // 2) for y, x in zip(Y, X, strict=True)]


@pytest.mark.parametrize("shape", [(NY, NX), (150, 200), (37, 50), (600, 800)], ids=str)
@pytest.mark.parametrize("threshold", [None, 0.5])
def test_boxes_of_which_a_mask_calls_too_much_bad_are_left_out(
    folder: Path, shape: tuple[int, int], threshold: float | None
) -> None:
    mask = disc(shape)
    for name in ("a", "b"):
        write_mask(folder / "masks" / f"{name}.mrc", mask)
    found = junk(planned(folder, junk_masks="masks", junk_threshold=threshold))
    part = np.array([reference.bad_part(mask, corner, BOX, (NY, NX)) for corner in corners()])
    assert np.abs(part - (threshold or 0.2)).min() > 1e-9  # no tie that rounding decides
    np.testing.assert_array_equal(found, part >= (threshold or 0.2))
    assert 0 < found.sum() < N


@given(
    mask=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    corner=st.tuples(st.integers(-9, 39), st.integers(-9, 39)),
    box=st.integers(1, 20).map(lambda half: 2 * half),
    seed=st.integers(0, 999),
)
@settings(deadline=None)
def test_the_mean_over_a_box_is_that_of_the_literal_twin(
    mask: tuple[int, int], shape: tuple[int, int], corner: tuple[int, int], box: int, seed: int
) -> None:
    values = np.random.default_rng(seed).random(mask, np.float32)
    overlap = [max(min(c + box, n) - max(c, 0), 0) for c, n in zip(corner, shape, strict=True)]
    found = bad_part(values, np.array([corner]), box, shape)[0]
    if all(overlap):
        assert found == pytest.approx(reference.bad_part(values, corner, box, shape), abs=1e-9)
    else:
        assert found == 0
    labels = np.random.default_rng(seed).integers(0, 2, mask)
    assert on_labels(labels > 0, np.array([corner]), shape)[0] == (reference.label_at(labels, corner, shape) > 0)
    rectangle = (shape[1] // 3, shape[0] // 3, shape[1] // 2, shape[0] // 2)
    assert over_rectangles(np.array([corner]), box, [rectangle])[0] == reference.touches(corner, box, rectangle)


@pytest.mark.parametrize("kind", [np.uint8, np.int64, np.float32, np.bool_], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("shape", [(NY, NX), (75, 100), (1, 75, 100)], ids=str)
def test_a_label_map_is_asked_at_the_pixel_of_the_center_and_never_averaged(
    folder: Path, kind: Any, shape: tuple[int, ...]
) -> None:
    kinds_of_junk = RNG.integers(1, 5, shape[-2:])  # four, mixed
    labels = disc((shape[-2], shape[-1]), 1).astype(np.int64) * kinds_of_junk
    for name in ("a", "b"):
        write_mask(folder / "labels" / f"{name}.npy", labels.reshape(shape).astype(kind))
    found = junk(planned(folder, junk_masks="labels"))
    at = [reference.label_at(labels, (int(y), int(x)), (NY, NX)) for y, x in zip(Y, X, strict=True)]
    np.testing.assert_array_equal(found, np.array(at) > 0)
    assert 0 < found.sum() < N


def test_masks_are_read_as_they_are_stored(folder: Path) -> None:
    values = disc((30, 40))
    for kind in (np.float32, np.int8, np.uint16, np.float16):
        path = write_mask(folder / f"{kind.__name__}.mrc", values.astype(kind))
        np.testing.assert_array_equal(read_mask(str(path)).bad, values)
    by_columns = np.asfortranarray(RNG.integers(0, 3, (5, 7)))
    np.testing.assert_array_equal(read_mask(str(write_mask(folder / "f.npy", by_columns))).bad, by_columns > 0)
    smooth = np.array([[-0.0005, 1.0005], [0.25, 0.5]], np.float32)
    np.testing.assert_array_equal(read_mask(str(write_mask(folder / "s.mrc", smooth))).bad, smooth.clip(0, 1))


@pytest.mark.parametrize(
    ("files", "named"),
    [
        (["masks/a.mrc", "masks/b.mrc"], "masks"),
        (["masks/a_mask.mrc", "masks/b_mask.mrc"], "masks"),
        (["masks/m/a.mrc", "masks/m/b.mrc"], "masks"),
        (["masks/000123456789012345678_a.mrc", "masks/000123456789012345679_b.mrc"], "masks"),
        (["masks/a_mask.mrc", "masks/b_mask.mrc", "masks/a.txt"], "masks/*_mask.mrc"),
        (["masks/x/a.npy", "masks/y/b.npy"], "masks/**/*.npy"),
    ],
    ids=str,
)
def test_masks_find_their_micrographs_by_name(folder: Path, files: list[str], named: str) -> None:
    lower = np.zeros((30, 40), np.float32)
    lower[15:] = 1
    of_first, of_second, *others = files
    write_mask(folder / of_first, lower)
    write_mask(folder / of_second, np.zeros((30, 40), np.float32))
    for name in others:
        (folder / name).write_text("no mask")
    found = junk(planned(folder, junk_masks=named))
    assert not found[OF == 1].any()
    clear = np.abs(Y - NY / 2) > BOX
    np.testing.assert_array_equal(found[(OF == 0) & clear], Y[(OF == 0) & clear] > NY / 2)


def test_what_has_no_mask_or_a_failed_one_stays_and_is_told(folder: Path) -> None:
    write_mask(folder / "masks/a.mrc", np.full((30, 40), 0.81, np.float32))
    inputs = planned(folder, junk_masks="masks")
    assert not junk(inputs).any()
    told = "\n".join(inputs.plan.warnings)
    assert "masks: 1 masks call more than 80 % of their micrograph bad and are ignored: masks/a.mrc (81 %)" in told
    assert "masks: no mask of 1 of 2 micrographs, whose picks stay: m/b.mrc" in told
    write_mask(folder / "masks/a.mrc", np.full((30, 40), 0.79, np.float32))
    assert junk(planned(folder, junk_masks="masks")).sum() == (OF == 0).sum()
    write_mask(folder / "masks/a.npy", np.ones((30, 40), np.uint8))
    (folder / "masks/a.mrc").unlink()
    assert junk(planned(folder, junk_masks="masks")).sum() == (OF == 0).sum()  # labels are no estimates


def test_a_mask_that_is_none_is_refused_by_name(folder: Path) -> None:
    good = disc((30, 40))
    write_mask(folder / "masks/b.mrc", good)
    for name, values, message in (
        ("a.mrc", good * 255, "a.mrc: not a mask of a micrograph: holds 0 to 255, expected 0"),
        ("a.mrc", good.T, "a.mrc: is 40 x 30 pixels .* no binning of it"),
        ("a.npy", good * 0.5, "a.npy: holds numbers that are not whole; expected labels"),
        ("a.npy", -good.astype(np.int8), "a.npy: holds the label -1"),
        ("a.npy", np.zeros((2, 30, 40), np.uint8), r"its shape is \(2, 30, 40\)"),
        ("a.npy", np.array([["x"]]), "expected labels, whole numbers"),
    ):
        path = write_mask(folder / "masks" / name, values)
        with pytest.raises(InputError, match=message):
            planned(folder, junk_masks="masks")
        path.unlink()
    for name, data in (("a.mrc", b"no mask"), ("a.npy", b"no mask"), ("a.npy", b"\x93NUMPY\x01\x00v\x00{")):
        (folder / "masks" / name).write_bytes(data)
        with pytest.raises(InputError, match=rf"masks/{name}: "):
            planned(folder, junk_masks="masks")
        (folder / "masks" / name).unlink()
    with mrcfile.mmap(write_mask(folder / "masks/a.mrc", good), mode="r+") as file:
        file.data[3, 5] = np.nan
    with pytest.raises(InputError, match=r"a.mrc: .* holds values that are no numbers"):
        planned(folder, junk_masks="masks")
    (folder / "masks/a.mrc").unlink()
    whole = write_mask(folder / "masks/a.npy", np.zeros((30, 40), np.int64)).read_bytes()
    (folder / "masks/a.npy").write_bytes(whole[:-8])
    with pytest.raises(InputError, match=r"\(9600 bytes\), file holds 9592; copied incompletely"):
        planned(folder, junk_masks="masks")


def test_masks_of_nothing_are_refused(folder: Path) -> None:
    (folder / "empty").mkdir()
    write_mask(folder / "others/c.mrc", disc((30, 40)))
    write_mask(folder / "twice/a.mrc", disc((30, 40)))
    write_mask(folder / "twice/a.npy", disc((30, 40)))
    for named, message in (
        ("nowhere", "nowhere: no such file or folder of masks"),
        ("empty", "empty: no masks there .* expected files that end with .npy, .mrc"),
        ("picks.star", "no masks there"),
        ("others", "others: none of its 1 micrograph names matches one of the 2 in .*; masks say for example 'c'"),
        ("twice", "a.mrc and a.npy both belong to a"),
    ):
        with pytest.raises(InputError, match=message):
            planned(folder, junk_masks=named)


def test_no_box_touches_an_excluded_rectangle(folder: Path) -> None:
    rectangles = ((200, 0, 200, NY - 1), (10, 250, 60, 290))
    plan = planned(folder, exclude=rectangles).plan
    expected = [any(reference.touches(corner, BOX, one) for one in rectangles) for corner in corners()]
    np.testing.assert_array_equal(plan.places.reason != ACCEPTED, expected)
    assert plan.counts() == {"box over an excluded rectangle": sum(expected)}
    beside = planned(folder, exclude=[f"{int(X[0]) + BOX // 2},0,{NX},{NY}"]).plan.places.reason[0]
    assert beside == ACCEPTED  # the box ends one pixel before it
    assert planned(folder, exclude=[f"{int(X[0]) + BOX // 2 - 1},0,{NX},{NY}"]).plan.places.reason[0] != ACCEPTED


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"junk_threshold": 0.3}, "give both, or neither"),
        ({"junk_masks": ""}, "junk_masks must be a folder"),
        ({"junk_masks": "m", "junk_threshold": 0}, "junk_threshold must be a positive number"),
        ({"junk_masks": "m", "junk_threshold": 1.1}, "at most 1"),
        ({"exclude": "1,2,3,4"}, "must be a list of rectangles"),
        ({"exclude": ["1,2,3"]}, "x0,y0,x1,y1"),
        ({"exclude": ["5,2,3,4"]}, "holds no pixel"),
        ({"exclude": ["1.5,2,3,4"]}, "must be a whole number"),
        ({"exclude": [(1, 2, 3, -4)]}, "at least 0"),
    ],
)
def test_a_choice_that_means_nothing_is_refused(recipe: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        cryobox.Recipe(box=64, **recipe)


def test_a_recipe_with_rectangles_is_read_back() -> None:
    recipe = cryobox.Recipe(box=64, exclude=["1, 2,3,4", (5, 6, 7, 8)], junk_masks="m")  # type: ignore[arg-type]
    assert recipe.exclude == ((1, 2, 3, 4), (5, 6, 7, 8))
    assert cryobox.Recipe.from_dict(json.loads(json.dumps(recipe.as_dict())), "a record") == recipe


def test_a_run_records_its_masks_and_sees_one_that_changed(folder: Path) -> None:
    for name in ("a", "b"):
        write_mask(folder / "masks" / f"{name}.mrc", disc((NY, NX)))
    recipe = cryobox.Recipe(box=BOX, junk_masks="masks", exclude=((0, 0, 30, 30),))
    options = cryobox.RunOptions(fsync=False)
    result = cryobox.run("picks.star", out=folder / "out", recipe=recipe, directory=folder, options=options)
    assert result.rejected["junk in the mask"] > 0
    assert result.extracted + sum(result.rejected.values()) == N
    record = json.loads((folder / "out/job.json").read_bytes())
    assert list(record["files"]["masks"]) == ["masks/a.mrc", "masks/b.mrc"]
    assert "junk in the mask" in (folder / "out/rejected.star").read_text()
    assert verify(folder / "out", everything=True).problems == ()
    other = disc((NY, NX))
    other[0, 0] = 0.5  # in an excluded corner: nothing else changes
    write_mask(folder / "masks/a.mrc", other)
    told = "\n".join(verify(folder / "out").problems)
    assert "masks/a.mrc is" in told
    assert "run.content" in told
    write_mask(folder / "masks/a.mrc", np.zeros((NY, NX), np.float32))
    assert "the ledger has no record of this micrograph" in "\n".join(verify(folder / "out").problems)
    again = cryobox.run("picks.star", out=folder / "out", recipe=recipe, directory=folder, options=options)
    assert again.extracted > result.extracted
    assert verify(folder / "out", everything=True).problems == ()


def test_shards_agree_on_the_masks(folder: Path) -> None:
    for name in ("a", "b"):
        write_mask(folder / "masks" / f"{name}.npy", disc((30, 40)))
    recipe = cryobox.Recipe(box=BOX, junk_masks="masks")

    def shard(index: int) -> None:
        options = cryobox.RunOptions(fsync=False, shard=(index, 2))
        cryobox.run("picks.star", out=folder / "out", recipe=recipe, directory=folder, options=options)

    shard(1)
    labels = disc((30, 40))
    labels[0, 0] = 1  # where no pick is: the plan stays as it was
    write_mask(folder / "masks/a.npy", labels)
    with pytest.raises(OutputError, match="tables, coordinate files or masks have another content now"):
        shard(2)


def test_a_mask_is_never_written_over(folder: Path) -> None:
    mask = write_mask(folder / "out/stacks/a_particles.mrcs", disc((NY, NX)))
    write_mask(folder / "out/stacks/b_particles.mrcs", disc((NY, NX)))
    before = mask.read_bytes()
    with pytest.raises(OutputError, match=r"a_particles.mrcs: is an input and would be replaced"):
        cryobox.run(
            "picks.star", out=folder / "out", recipe=cryobox.Recipe(box=BOX, junk_masks="out/stacks"),
            directory=folder, options=cryobox.RunOptions(fsync=False),
        )  # fmt: skip
    assert mask.read_bytes() == before
