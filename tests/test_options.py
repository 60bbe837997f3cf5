"""What a Recipe and RunOptions take for a number: NumPy's as well as Python's, and nothing absurd."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cryobox
from cryobox import OptionError, Recipe, RunOptions
from cryobox.boxes import crop_for, propose
from cryobox.job import watch
from cryobox.verification import verify


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        ({"box": np.int64(64)}, {"box": 64}),
        ({"box": np.uint16(64), "sizes": np.array([48, 32])}, {"box": 64, "sizes": (48, 32)}),
        ({"box": 64, "sizes": 32}, {"box": 64, "sizes": (32,)}),
        ({"box": 64, "sizes": np.int32(32)}, {"box": 64, "sizes": (32,)}),
        ({"box": 64, "sizes": [48, np.int8(32)]}, {"box": 64, "sizes": (48, 32)}),
        ({"box": 64, "sizes": np.array([], dtype=int)}, {"box": 64}),
        ({"box": 64, "limit": np.int64(3), "min_score": np.float32(0.5)}, {"box": 64, "limit": 3, "min_score": 0.5}),
        ({"box": 64, "background_radius": 20}, {"box": 64, "background_radius": 20.0}),
        ({"box": 64, "pixel_size": np.int64(1)}, {"box": 64, "pixel_size": 1.0}),
    ],
)  # fmt: skip
def test_a_number_of_numpy_makes_the_same_recipe_as_one_of_python(given: dict[str, Any], plain: dict[str, Any]) -> None:
    recipe = Recipe(**given)
    assert recipe == Recipe(**plain)
    assert json.dumps(recipe.as_dict()) == json.dumps(Recipe(**plain).as_dict())
    assert Recipe.from_dict(json.loads(json.dumps(recipe.as_dict())), "a record") == recipe


def test_numbers_of_numpy_run_as_those_of_python() -> None:
    options = RunOptions(workers=np.int64(2), threads=np.uint8(1), shard=(np.int64(1), 4), task_timeout=np.float32(2))  # type: ignore[arg-type]
    assert options == RunOptions(workers=2, threads=1, shard=(1, 4), task_timeout=2.0)
    assert all(type(value) in (int, float) for value in (options.workers, options.threads, options.task_timeout))
    image = np.random.default_rng(0).normal(size=(80, 80)).astype(np.float32)
    found, _ = cryobox.extract(image, [(40, 40)], box=np.int64(64), sizes=np.array([32]), threads=np.int64(2))  # type: ignore[arg-type]
    expected, _ = cryobox.extract(image, [(40, 40)], box=64, sizes=32)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(
        cryobox.fourier_crop(image, np.int64(40), threads=np.int8(1)), cryobox.fourier_crop(image, 40)  # type: ignore[arg-type]
    )  # fmt: skip


NUMBERS: list[tuple[str, list[Any]]] = [
    ("box", [0, -2, 31, 32770, 10**30, 64.0, 1e3, True, np.True_, "64", None, math.nan, np.float64(64)]),
    ("sizes", [0, 64.0, (64.0,), [True], "ab", (64, 32, 48), (32, 64), 66, np.array([32.0]), np.array([[32]])]),
    ("sizes", [np.array(32), {"a": 1}, None, b"ab", [None]]),
    ("background_radius", [0, -1, math.nan, math.inf, 1e300, True, "5", 10**400]),
    ("background_diameter_angstrom", [0, -1, math.nan, math.inf, False, "5", 10**400]),
    ("scale_const", [0, math.nan, math.inf, 1e-300, 1e300, True]),
    ("min_score", [math.nan, math.inf, -math.inf, True, "1"]),
    ("min_separation_angstrom", [0, -3, math.nan, math.inf, True, 10**400]),
    ("limit", [0, -1, 1.0, math.nan, True, 10**30]),
    ("pixel_size", [0, -1, math.nan, math.inf, 1e-300, 1e300, True]),
    ("coordinate_scale", [0, -1, math.nan, math.inf, 1e-300, 1e300, True, None]),
    ("normalize", [1, 0, "no", None, 0.0]),
    ("invert", [1, "yes"]),
    ("flip_x", [1, "no"]),
    ("coordinate_suffix", [3, True, ["_a"]]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in NUMBERS for value in values], ids=str)
def test_a_recipe_refuses_what_makes_no_sense_and_names_it(name: str, value: Any) -> None:
    with pytest.raises(OptionError, match="sizes|stored size" if name == "sizes" else name.split("_", maxsplit=1)[0]):
        Recipe(**({"box": 64} | {name: value}))


RUNNING: list[tuple[str, list[Any]]] = [
    ("workers", [0, -1, 2.0, True, math.nan, 99999999999999, "2"]),
    ("threads", [0, -1, 2.0, True, None, 1025, 99999999999999, "2"]),
    ("shard", [(0, 4), (5, 4), (1, 99999999999), (1.0, 4), (True, 4), (1,), (1, 2, 3), 3, "12"]),
    ("task_timeout", [0, -1, math.nan, math.inf, 1e300, True, "1", 10**400]),
    ("gpu_memory", [0, 1.5, True, 10**30]),
    ("overwrite", [1, "no", None]),
    ("fsync", [0, "no"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in RUNNING for value in values], ids=str)
def test_options_of_a_run_refuse_what_makes_no_sense_and_name_it(name: str, value: Any) -> None:
    with pytest.raises(OptionError, match=name):
        RunOptions(**{name: value})


@pytest.mark.parametrize(
    "times",
    [{"every": math.nan}, {"every": 0.0}, {"every": -1.0}, {"every": math.inf}, {"idle_timeout": math.nan},
     {"idle_timeout": -1.0}, {"idle_timeout": 1e300}, {"settle": math.nan}, {"settle": "1"}, {"every": True}],
    ids=str,
)  # fmt: skip
def test_a_session_that_would_never_wait_or_never_end_is_refused(tmp_path: Path, times: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=rf"{next(iter(times))} must be .* seconds; got"):
        watch("picks.star", micrographs="m.star", out=tmp_path / "out", recipe=Recipe(box=64), **times)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("threads", [0, 1025, 99999999999999, 2.0, True, np.True_])
def test_the_core_refuses_teams_that_cannot_be_had(threads: Any) -> None:
    image = np.zeros((80, 80), np.float32)
    with pytest.raises(OptionError, match="threads must be"):
        cryobox.extract(image, [(40, 40)], box=64, threads=threads)
    with pytest.raises(OptionError, match="threads must be"):
        cryobox.fourier_crop(image, 32, threads=threads)


@pytest.mark.parametrize("size", [0, 31, 32.0, True, 10**30, "32"])
def test_a_crop_refuses_sizes_that_are_none(size: Any) -> None:
    with pytest.raises(OptionError, match="size"):
        cryobox.fourier_crop(np.zeros((64, 64), np.float32), size)


@pytest.mark.parametrize(
    "ask",
    [lambda: propose(1e308, 1.0), lambda: propose(100.0, 1e-308), lambda: propose(5e-324, 1.0),
     lambda: propose(math.nan, 1.0), lambda: crop_for(64, 1e308, 1e-308), lambda: crop_for(64, 1.0, 5e-324),
     lambda: crop_for(64, math.inf, 1.0)],
)  # fmt: skip
def test_sizes_in_angstrom_that_nothing_has_are_refused(ask: Callable[[], object]) -> None:
    with pytest.raises(OptionError, match="must be"):
        ask()


@pytest.mark.parametrize("asked", [{"sample": -1}, {"seed": -1}, {"seed": 1.5}, {"sample": True}, {"seed": 10**30}])
def test_a_sample_that_cannot_be_drawn_is_refused_before_anything_is_read(
    tmp_path: Path, asked: dict[str, Any]
) -> None:
    with pytest.raises(OptionError, match=next(iter(asked))):
        verify(tmp_path, **asked)


def test_the_next_fast_box_is_that_of_a_number() -> None:
    assert cryobox.fast_box(np.int64(390)) == 400  # type: ignore[arg-type]
    for size in (math.nan, 0, -4, 10**30):
        with pytest.raises(OptionError, match="fast_box knows sizes from 1 to 4096"):
            cryobox.fast_box(size)  # type: ignore[arg-type]
