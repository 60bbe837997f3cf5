"""Whole runs on devices: which worker cuts where, and what a device that fails leaves behind."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import standin
from cryobox import Recipe, RunOptions, cli, gpu, run
from cryobox.errors import AbortedError, BackendError, OptionError
from cryobox.inputs import prepare
from cryobox.simulate import make_dataset
from standin import StandIn

RECIPE = Recipe(box=64, sizes=(48, 32))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    with standin.load().in_place_of_cuda() as device:
        yield device


def cut(dataset: Any, out: Path, **options: Any) -> Any:
    return run(
        dataset.picks,
        micrographs=dataset.micrographs,
        out=out,
        recipe=RECIPE,
        options=RunOptions(**{"workers": 2, "fsync": False} | options),
        root=Path(dataset.picks).parent,
    )


def stacks(out: Path) -> dict[str, np.ndarray]:
    return {
        path.relative_to(out).as_posix(): np.frombuffer(path.read_bytes()[1024:], np.float32)
        for path in sorted(out.glob("stacks*/*.mrcs"))
    }


def assert_close(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert list(a) == list(b)
    assert len(a) == 6
    for name, values in a.items():
        np.testing.assert_allclose(values, b[name], rtol=0, atol=4e-6 * np.abs(b[name]).max())


def hidden(out: Path) -> list[Path]:
    return [path for path in out.rglob(".*") if path.suffix == ".tmp"]


@pytest.fixture(scope="module")
def expected(dataset: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    out = tmp_path_factory.mktemp("cpu") / "out"
    assert cut(dataset, out).exit_code == 0
    return stacks(out)


def test_a_run_on_a_device_makes_the_images_of_the_processor(
    stand_in: StandIn, dataset: Any, expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    result = cut(dataset, tmp_path, gpus=("cuda:0",))
    assert result.exit_code == 0
    assert result.warnings == ()
    assert_close(stacks(tmp_path), expected)
    assert stand_in.count("uploaded") > sum(image.stat().st_size for image in dataset.images) * 0.5


def test_workers_take_the_devices_in_turn(stand_in: StandIn, dataset: Any, tmp_path: Path) -> None:
    from cryobox.engine import task

    stand_in.set(devices=2)
    used = []
    original = task._do_on

    def noting(device: str, *arguments: Any) -> Any:
        used.append(device)
        return original(device, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task, "_do_on", noting)
        for i in range(4):
            cut(dataset, tmp_path / str(i), gpus=("cuda:0", "cuda:1"))
    assert set(used) == {"cuda:0", "cuda:1"}


def test_a_device_that_fails_hands_its_work_to_the_other(
    stand_in: StandIn, dataset: Any, expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    stand_in.set(devices=2)
    stand_in.fail_after(0, device=1)
    result = cut(dataset, tmp_path, gpus=("cuda:1", "cuda:0"), workers=1)
    assert result.exit_code == 0
    (warning,) = result.warnings
    assert warning.startswith("cuda:1 failed and was not used any more: cuda:1: working on the device: an illegal")
    assert_close(stacks(tmp_path), expected)
    assert hidden(tmp_path) == []


def test_with_the_fallback_the_processor_takes_over(
    stand_in: StandIn, dataset: Any, expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    stand_in.fail_after(1)
    result = cut(dataset, tmp_path, gpus=("cuda:0",), gpu_fallback=True)
    assert result.exit_code == 0
    assert [warning.split(":")[0] for warning in result.warnings] == ["cuda", "all GPUs failed"]
    assert_close(stacks(tmp_path), expected)
    assert hidden(tmp_path) == []


def test_without_the_fallback_a_failure_ends_the_run_and_it_resumes(
    stand_in: StandIn, dataset: Any, expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    stand_in.fail_after(2)  # its start, and the first micrograph
    with pytest.raises(AbortedError, match=r"cuda:0 failed .* illegal memory access .*\(--gpu-fallback lets the CPU"):
        cut(dataset, tmp_path, gpus=("cuda:0",), workers=1)
    assert hidden(tmp_path) == []
    assert len(stacks(tmp_path)) == 2  # the first micrograph's
    stand_in.set()
    result = cut(dataset, tmp_path, gpus=("cuda:0",))
    assert (result.exit_code, result.resumed, result.warnings) == (0, 1, ())
    assert_close(stacks(tmp_path), expected)


def test_too_little_memory_falls_back_too(
    stand_in: StandIn, dataset: Any, expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    stand_in.set(memory=100_000)
    result = cut(dataset, tmp_path, gpus=("cuda:0",), gpu_fallback=True)
    assert "out of memory: the micrograph needs" in result.warnings[0]
    assert_close(stacks(tmp_path), expected)


def test_the_memory_of_a_device_is_shared_by_its_workers(stand_in: StandIn, dataset: Any, tmp_path: Path) -> None:
    limit = 40 << 20
    result = cut(dataset, tmp_path, gpus=("cuda:0",), gpu_memory=limit, workers=2)
    assert result.exit_code == 0
    assert 0 < stand_in.count("most_used") <= limit


def test_a_missing_device_is_refused_before_any_work(stand_in: StandIn, dataset: Any, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"cuda:3 cannot be used: this host has cuda:0 \(cryobox info --devices"):
        cut(dataset, tmp_path / "out", gpus=("cuda:0", "cuda:3"))
    assert not (tmp_path / "out").exists()


def test_a_missing_device_is_left_out_with_the_fallback(stand_in: StandIn, dataset: Any, tmp_path: Path) -> None:
    result = cut(dataset, tmp_path, gpus=("cuda:0", "cuda:3"), gpu_fallback=True)
    assert result.exit_code == 0
    assert result.warnings == ("cuda:3 cannot be used: this host has cuda:0; cuda:0 did its work",)


@pytest.mark.semaphores
def test_executors_of_other_processes_are_refused(stand_in: StandIn, dataset: Any, tmp_path: Path) -> None:
    from concurrent.futures import ProcessPoolExecutor

    with (
        ProcessPoolExecutor(1) as pool,
        pytest.raises(OptionError, match="--gpus is for workers that are threads of this process"),
    ):
        run(
            dataset.picks,
            micrographs=dataset.micrographs,
            out=tmp_path,
            recipe=RECIPE,
            options=RunOptions(gpus=("cuda:0",)),
            root=Path(dataset.picks).parent,
            executor=pool,
        )


def test_a_run_split_between_device_and_processor_passes_verify(
    stand_in: StandIn, dataset: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in.fail_after(1)
    root = Path(dataset.picks).parent
    with pytest.raises(SystemExit) as left:
        cli.main(
            [
                *("extract", str(dataset.picks), "-m", str(dataset.micrographs), "-o", str(tmp_path)),
                *("--root", str(root), "--box", "64", "--fcrop", "48", "--small", "32"),
                *("--gpus", "1", "--gpu-memory", "1G", "--gpu-fallback", "--workers", "1"),
            ]
        )
    assert left.value.code == 0
    assert "all GPUs failed: the CPU did what was left" in "".join(capsys.readouterr())
    with pytest.raises(SystemExit) as left:
        cli.main(["verify", str(tmp_path), "--all"])
    assert left.value.code == 0


def test_a_micrograph_of_many_particles_is_cut_in_blocks_from_one_upload(
    stand_in: StandIn, dataset: Any, expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    from cryobox.engine import task

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task, "GPU_BLOCK_BYTES", 200_000)  # some 17 particles
        result = cut(dataset, tmp_path, gpus=("cuda:0",))
    assert result.exit_code == 0
    assert_close(stacks(tmp_path), expected)
    assert stand_in.count("uploaded") < 1.1 * sum(image.stat().st_size for image in dataset.images)


def test_micrographs_are_read_into_memory_that_the_device_takes_them_from(
    stand_in: StandIn, dataset: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    original = gpu.pinned

    def noting(count: int, device: str) -> np.ndarray:
        asked.append((count, device))
        return original(count, device)

    monkeypatch.setattr("cryobox.engine.task.pinned", noting)
    cut(dataset, tmp_path, gpus=("cuda:0",), workers=1)
    smallest = min(path.stat().st_size - 1024 for path in map(Path, dataset.images))
    assert [device for count, device in asked if count >= smallest] == ["cuda:0"]  # once, for all micrographs


def test_a_device_that_cannot_lock_pages_is_used_all_the_same(
    stand_in: StandIn, dataset: Any, expected: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = gpu.pinned

    def only_small(count: int, device: str) -> np.ndarray:
        if count > 1_000_000:
            raise BackendError("locking pages: operation not permitted")
        return original(count, device)

    monkeypatch.setattr("cryobox.engine.task.pinned", only_small)
    result = cut(dataset, tmp_path, gpus=("cuda:0",), workers=1)
    assert result.warnings == ()
    assert_close(stacks(tmp_path), expected)


def test_a_limit_of_memory_does_not_keep_the_fallback_from_a_build_without_cuda(
    dataset: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cryobox._cuda", None)
    result = cut(dataset, tmp_path, gpus=("cuda:0",), gpu_memory=1 << 30, gpu_fallback=True)
    assert "the CPU did its work" in result.warnings[0]
    with pytest.raises(BackendError, match="cuda:0 cannot be used"):
        cut(dataset, tmp_path / "b", gpus=("cuda:0",), gpu_memory=1 << 30)


def test_runs_beside_each_other_start_their_devices(stand_in: StandIn, dataset: Any, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        codes = pool.map(lambda number: cut(dataset, tmp_path / str(number), gpus=("cuda:0",)).exit_code, range(12))
        assert set(codes) == {0}


def test_a_device_starts_while_the_run_is_planned(
    stand_in: StandIn, dataset: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = prepare

    def late(*arguments: Any, **options: Any) -> Any:
        for _ in range(500):
            if stand_in.count("synchronizations"):
                break
            time.sleep(0.01)
        assert stand_in.count("synchronizations") == 1
        return original(*arguments, **options)

    stand_in.set()
    monkeypatch.setattr("cryobox.job.prepare", late)
    assert cut(dataset, tmp_path, gpus=("cuda:0",)).exit_code == 0
