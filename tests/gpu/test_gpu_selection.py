"""Names, numbers and sizes that a user gives for GPUs, and what is said where there is none."""

from __future__ import annotations

import numpy as np
import pytest

import standin
from cryobox import cli, core, gpu
from cryobox.errors import BackendError, OptionError


@pytest.mark.parametrize(
    ("text", "devices"),
    [
        ("1", ("cuda:0",)),
        ("3", ("cuda:0", "cuda:1", "cuda:2")),
        ("0,2", ("cuda:0", "cuda:2")),
        ("2, 0", ("cuda:2", "cuda:0")),
        ("3,", ("cuda:3",)),
    ],
)
def test_a_number_is_how_many_and_a_list_is_which(text: str, devices: tuple[str, ...]) -> None:
    assert gpu.parse_gpus(text) == devices


@pytest.mark.parametrize("text", ["", "0", "-1", "all", "0;2", ",", "1,,2", "1.5"])
def test_what_is_neither_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match="--gpus wants how many"):
        gpu.parse_gpus(text)


def test_a_gpu_named_twice_is_refused() -> None:
    with pytest.raises(OptionError, match="names a GPU twice"):
        gpu.parse_gpus("1,1")


@pytest.mark.parametrize(
    ("text", "count"), [("1", 1), ("800M", 800 << 20), ("4G", 4 << 30), ("2.5 GiB", 2684354560), ("1kB", 1024)]
)
def test_sizes_have_units(text: str, count: int) -> None:
    assert gpu.parse_memory(text) == count


@pytest.mark.parametrize("text", ["", "0", "-1G", "much", "4X", "0.1"])
def test_a_size_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match="--gpu-memory wants a size like"):
        gpu.parse_memory(text)


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:-1", "cuda:0,1", "CUDA:0", ""])
def test_a_name_that_is_no_device_is_refused(device: str) -> None:
    with pytest.raises(BackendError, match="device must be cpu, cuda or cuda:N; got"):
        core.extract(np.ones((20, 20), np.float32), [(8.0, 8.0)], box=8, device=device)


def test_an_installation_without_the_module_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "cryobox._cuda", None)  # as if it were not there
    with pytest.raises(BackendError, match=r"has no CUDA core; build it where nvcc and cuFFT are installed"):
        core.extract(np.ones((20, 20), np.float32), [(8.0, 8.0)], box=8, device="cuda")
    assert gpu.describe_devices()[0] == "cpu: always"
    assert "has no CUDA core" in gpu.describe_devices()[1]


def test_a_host_without_driver_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with standin.load().in_place_of_cuda() as device:
        device.set(devices=0)
        with pytest.raises(SystemExit) as left:
            cli.main(["info", "--devices"])
        assert left.value.code == 0
        assert capsys.readouterr().out.splitlines() == ["cpu: always", "no GPU: no NVIDIA driver on this host"]
        with pytest.raises(BackendError, match="cuda:0: no NVIDIA driver on this host"):
            core.extract(np.ones((20, 20), np.float32), [(8.0, 8.0)], box=8, device="cuda:0")


def test_devices_are_listed_with_their_memory(capsys: pytest.CaptureFixture[str]) -> None:
    with standin.load().in_place_of_cuda() as device:
        device.set(devices=2, memory=3 << 30)
        with pytest.raises(SystemExit):
            cli.main(["info", "--devices"])
        lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines[:3]] == ["cpu", "cuda", "cuda"]
    assert "3.0 of 3.0 GiB free" in lines[1]
    assert lines[2].startswith("cuda:1: processor standing in for a GPU")


def test_only_the_devices_that_a_run_uses_are_looked_at_closely() -> None:
    from cryobox import RunOptions
    from cryobox.engine.devices import ready_devices

    with standin.load().in_place_of_cuda() as device:
        device.set(devices=4)
        assert ready_devices(RunOptions(gpus=("cuda:2",)), None) == (("cuda:2",), ())
        assert device.count("looks") == 1  # on the others this process keeps no memory
        found, _ = gpu.survey(["cuda:1"])
        assert [one.free_bytes > 0 for one in found] == [False, True, False, False]


@pytest.mark.parametrize(("workers", "gpus", "shares"), [(2, 1, 2), (4, 2, 2), (64, 1, 8), (64, 4, 8), (8, 3, 3)])
def test_a_limit_of_memory_is_shared_by_the_workers_that_run_at_the_same_time(
    workers: int, gpus: int, shares: int
) -> None:
    from cryobox import RunOptions
    from cryobox.engine.devices import memory_of_a_worker

    with standin.load().in_place_of_cuda():
        assert gpu.most_callers() == 8
        options = RunOptions(gpus=("cuda:0",), gpu_memory=240 << 20, workers=workers)
        assert memory_of_a_worker(options, [f"cuda:{i}" for i in range(gpus)]) == (240 << 20) // shares
        assert memory_of_a_worker(options, ["cpu"]) == 0


def test_a_device_that_is_not_there_is_named() -> None:
    with (
        standin.load().in_place_of_cuda(),
        pytest.raises(BackendError, match="cuda:5: there is no GPU 5; this host has 1, numbered from 0"),
    ):
        core.extract(np.ones((20, 20), np.float32), [(8.0, 8.0)], box=8, device="cuda:5")
