"""Numbers that nobody can mean, on the command line and in an edited job.json, are refused in a sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cryobox.cli import main
from cryobox.simulate import Dataset, make_dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make_dataset(tmp_path_factory.mktemp("data"), micrographs=1, shape=(200, 220), picks=5)


@pytest.fixture
def refuse(dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def run(*arguments: str) -> str:
        with pytest.raises(SystemExit) as ended:
            main(["extract", "-o", str(tmp_path / "out"), "--quiet", *arguments])
        said = capsys.readouterr().err
        assert ended.value.code == 2, said
        assert not (tmp_path / "out").exists()
        return said

    return run


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--threads 99999999999999", "threads must be at most 1024; got 99999999999999"),
        ("--threads 0", "threads must be at least 1; got 0"),
        ("--workers 99999999999999", "workers must be at most 4096"),
        ("--shard 1/99999999999", "--shard 1/99999999999: there may be at most 1000000 shards; got 99999999999"),
        (f"--shard 1/{'9' * 5000}", "--shard must be I/N"),
        ("--shard 0/3", "shards are numbered from 1 to N; got 0 of 3"),
        ("--watch --idle-timeout nan", "idle_timeout must be at least 0 and at most 100000000 seconds; got nan"),
        ("--watch --idle-timeout inf", "idle_timeout must be at least 0"),
        ("--watch --idle-timeout -1", "idle_timeout must be at least 0"),
        ("--watch --every 0", "every must be more than 0"),
        ("--watch --every inf --dry-run", "every must be more than 0"),
        ("--watch --idle-timeout nan --dry-run", "idle_timeout must be at least 0"),
        ("--watch --every nan", "every must be more than 0"),
        ("--task-timeout inf", "task_timeout must be more than 0"),
        ("--limit -3", "limit must be at least 1 micrograph; got -3"),
        ("--limit 99999999999999999999", "limit must be at most 1000000000"),
        ("--coord-scale nan", "coordinate_scale must be a positive number; got nan"),
        ("--coord-scale 1e300", "coordinate_scale must be from 0.001 to 1000; got 1e+300"),
        ("--pixel-size 1e-300", "pixel_size must be from 0.001 to 1000 Å per pixel; got 1e-300"),
        ("--pixel-size inf", "pixel_size must be a positive number of Å per pixel; got inf"),
        ("--min-separation nan", "min_separation_angstrom must be a positive number of Å; got nan"),
        ("--min-score inf", "min_score must be a number; got inf"),
        ("--scale-const 1e-300", "scale_const must be from 1e-30 to 1e+30; got 1e-300"),
        ("--bg-radius 1e300", "the background radius must be at least 1 and less than half"),
        ("--bg-diameter nan", "background_diameter_angstrom must be a positive number of Å; got nan"),
        ("--fcrop 99999999999999999998", "a stored size cannot exceed the box"),
        ("--small 0", "every stored size must be an even number of pixels, at least 2; got 0"),
        ("--box 99999999999999999998", "box must be at most 32768 pixels"),
        ("--dask local:99999999999", "at least 1 and at most 4096; got 'local:99999999999'"),
        (f"--dask local:{'9' * 5000}", "at least 1 and at most 4096"),
        ("--gpu-memory 99999999999999999999T", "gpu_memory must be at most"),
        ("--target-pixel-size 5e-324", "the target pixel size must be from 0.001"),
    ],
)  # fmt: skip
def test_an_option_that_nobody_can_mean_is_refused(
    dataset: Dataset, refuse: Callable[..., str], options: str, message: str
) -> None:
    given = [str(dataset.picks), "-m", str(dataset.micrographs), "--root", str(dataset.folder)]
    if "--box" not in options:
        given += ["--box", "64"]
    said = refuse(*given, *options.split())
    assert said.startswith("cryobox: error: ")
    assert message in said
    assert len(said.splitlines()) == 1


def test_a_whole_number_is_written_with_its_digits_alone(dataset: Dataset, refuse: Callable[..., str]) -> None:
    said = refuse(str(dataset.picks), "-m", str(dataset.micrographs), "--box", "1e3")
    assert "Invalid value for '--box'" in said


@pytest.mark.parametrize(
    ("path", "value"),
    [
        *[(("recipe", name), value) for name, value in [
            ("box", 64.0), ("box", "64"), ("box", None), ("box", True), ("box", 1e999), ("box", 10**30),
            ("sizes", 5), ("sizes", "ab"), ("sizes", [64.0]), ("sizes", {"a": 1}), ("sizes", [64, 32, 32]),
            ("sizes", None), ("normalize", "no"), ("flip_x", 0), ("ramp", None), ("min_score", "a"),
            ("min_score", float("nan")), ("limit", 1.5), ("limit", 0), ("coordinate_scale", None),
            ("coordinate_scale", -1), ("pixel_size", True), ("pixel_size", 1e300), ("coordinate_suffix", 3),
            ("style", ["relion"]), ("edges", {}), ("dtype", None), ("background_radius", 10**400),
            ("recipe of a later version", 1),
        ]],
        (("inputs",), 5), (("inputs",), None), (("inputs",), []), (("inputs", "root"), 3), (("inputs", "picks"), 1),
        (("inputs", "picks"), None), (("inputs", "micrographs"), 2), (("inputs", "micrographs"), ["a"]),
        (("inputs", "directory"), 3), (("inputs", "picks"), "a\0b"),
        (("recipe",), []), (("recipe",), None),
    ],
    ids=str,
)  # fmt: skip
def test_a_record_that_was_edited_by_hand_is_refused(
    dataset: Dataset, tmp_path: Path, refuse: Callable[..., str], path: tuple[str, ...], value: object
) -> None:
    record: dict[str, Any] = {
        "recipe": {"box": 64},
        "inputs": {
            "picks": str(dataset.picks), "micrographs": str(dataset.micrographs), "root": str(dataset.folder),
            "directory": str(tmp_path),
        },
    }  # fmt: skip
    place = record
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    (tmp_path / "job.json").write_text(json.dumps(record))
    said = refuse("--from", str(tmp_path / "job.json"))
    assert said.startswith("cryobox: error: ")
    assert "recipe" in said or "the record of the inputs" in said


def test_a_record_without_a_size_means_that_of_the_box(
    dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs = {"picks": str(dataset.picks), "micrographs": str(dataset.micrographs), "root": str(dataset.folder)}
    record = {"recipe": {"box": 64, "sizes": []}, "inputs": inputs | {"directory": str(tmp_path)}}
    (tmp_path / "job.json").write_text(json.dumps(record))
    with pytest.raises(SystemExit) as ended:
        main(["extract", "-o", str(tmp_path / "out"), "--dry-run", "--from", str(tmp_path / "job.json")])
    assert ended.value.code == 0
    assert "stacks of 64 x 64 float32" in capsys.readouterr().out


@pytest.mark.parametrize("size", [32770, 10**30])
def test_boxes_measures_no_box_that_could_not_be_cut(size: int, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["boxes", str(size)])
    assert ended.value.code == 2
    assert "box must be at most 32768" in capsys.readouterr().err
