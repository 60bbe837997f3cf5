"""bench/gpu.py measures what it says, with the stand-in in the device's place: its logic, never a time."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import standin

ROOT = Path(__file__).resolve().parents[2]
FLOORS = {"model": "none", "upload_gb_s": 20.0, "download_gb_s": 10.0, "both_ways_gb_s": 25.0, "memory_gb_s": 1000.0}


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module, from the source tree."""
    monkeypatch.syspath_prepend(str(ROOT))
    import bench.gpu

    return bench.gpu


@pytest.fixture
def tiny(bench: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A case of small micrographs, floors that are known, results that go nowhere, runs in this process."""
    from bench import arm_cryobox, machine
    from bench.cases import CASES, Case, DataSpec

    data = DataSpec(name="tiny", micrographs=2, shape=(130, 140), dtype="uint16", picks=5, margin=20)
    monkeypatch.setitem(CASES, "tiny", Case(name="tiny", title="", data=data, box=32, sizes=(16, 8), invert=True))
    monkeypatch.setattr(bench, "floors_command", lambda _: [sys.executable, "-c", f"print({json.dumps(FLOORS)!r})"])
    monkeypatch.setattr(bench, "save", lambda _, content: json.dumps(content))

    def fresh(out: Path, _: int) -> Any:
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        return SimpleNamespace(release=lambda: None)

    monkeypatch.setattr(bench, "fresh", fresh)

    def execute(command: list[str], *, cwd: Path) -> machine.Finished:
        assert command[:3] == [sys.executable, "-m", "bench.arm_cryobox"]
        with monkeypatch.context() as patch, redirect_stdout(io.StringIO()) as said:
            patch.setattr(sys, "argv", command[2:])
            patch.chdir(cwd)
            arm_cryobox.main()
        return machine.Finished(seconds=0, cpu_seconds=0, peak_rss_mb=0, stdout=said.getvalue())

    monkeypatch.setattr(bench, "execute", execute)
    with standin.load().in_place_of_cuda() as device:
        yield device


def test_everything_is_measured_and_said(
    bench: Any, tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "of_others").touch()
    command = ["bench.gpu", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "out"), "--case", "tiny"]
    monkeypatch.setattr(sys, "argv", [*command, "--callers", "1,3", "--rounds", "2", "--calls", "7"])
    bench.main()
    said = capsys.readouterr().out
    found = json.loads(said.partition("written to ")[2])
    rates = ["device w1", "pinned w1", "device w3", "pinned w3"]
    assert list(found["rates"]) == [f"cpu w{bench.cores()}", *rates]
    assert all(0 < rate["low"] <= rate["median"] <= rate["high"] for rate in found["rates"].values())
    assert set(found["stages_ms"]) == {"upload", "gather", "rows", "columns", "inverse", "finish", "download"}
    assert 0 <= found["largest_difference"] < 4e-6
    assert found["floors"] == FLOORS
    assert found["bytes_per_particle"]["down"] == (16 * 16 + 8 * 8) * 4
    assert 0 < found["bytes_per_particle"]["up"] <= 130 * 140 * 2 / 5
    assert found["runs"]["micrographs"] == 2
    assert set(found["runs"]) >= {"cpu", "gpu", "cpu_over_gpu", "device_start_seconds"}
    assert found["runs"]["floors"].keys() == {"reads", "writes", "bus"}
    assert all(rate > 0 for rate in found["runs"]["floors"].values())
    assert [row["goal"] for row in found["goals"]] == ["device", "pinned of bus", "runs of the slowest floor"]
    assert all(row["reached"] is None for row in found["goals"])  # the goals are case B's
    for word in ("particles/s", "bus 20.0 GB/s up", "milliseconds of one micrograph", "whole runs, gpu", *rates):
        assert word in said
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["of_others"]


def test_the_gpu_arm_cuts_on_the_gpu(bench: Any, tiny: Any, tmp_path: Path) -> None:
    from bench.cases import CASES

    uploaded = []
    original = bench.execute

    def noting(command: list[str], *, cwd: Path) -> Any:
        tiny.set()
        done = original(command, cwd=cwd)
        uploaded.append(("--gpu" in command, tiny.count("uploaded") > 0))
        return done

    bench.execute = noting  # put back by the fixture's monkeypatch
    (tmp_path / "out").mkdir()
    bench._runs(CASES["tiny"], tmp_path / "data", tmp_path / "out", "cuda:0", 2)
    assert uploaded == [(False, False), (True, True), (True, True), (False, False)]


def test_a_device_that_makes_other_images_is_not_measured(
    bench: Any, tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench.cases import CASES

    from cryobox import core

    original = core.cut

    def wrong(*arguments: Any, into: Any, device: str) -> Any:
        result = original(*arguments, into=into, device=device)
        if device != "cpu":
            into[0][0, 0, 0] += 0.01
        return result

    monkeypatch.setattr(core, "cut", wrong)
    with pytest.raises(SystemExit, match="cuda:0 makes other images than the CPU"):
        bench.measure(CASES["tiny"], tmp_path, device="cuda:0", callers=[1], rounds=2, calls=1)


def test_a_device_that_is_not_there_ends_it(bench: Any, tiny: Any, tmp_path: Path) -> None:
    from bench.cases import CASES

    with pytest.raises(SystemExit, match="cuda:3 cannot be used"):
        bench.measure(CASES["tiny"], tmp_path, device="cuda:3", callers=[1], rounds=2, calls=1)


def found_on_case_b(**floors: Any) -> dict[str, Any]:
    rates = {"device w1": 150e3, "device w4": 250e3, "pinned w1": 60e3, "pinned w4": 120e3}
    return {
        "case": "B",
        "rates": {name: {"median": rate, "low": rate, "high": rate} for name, rate in rates.items()},
        "floors": FLOORS | floors,
        "bytes_per_particle": {"up": 200_000.0, "down": 50_000.0},
        "runs": {"particles_per_second": 42e3, "floors": {"reads": 60e3, "writes": 90e3, "bus": None}},
    }


@pytest.mark.parametrize(
    ("floors", "bus"),
    [
        ({}, 100_000),  # the micrographs' way up is the narrowest
        ({"download_gb_s": 4.0}, 80_000),
        ({"both_ways_gb_s": 22.5}, 90_000),
    ],
)
def test_the_bus_allows_what_its_narrowest_way_does(bench: Any, floors: dict[str, float], bus: float) -> None:
    goals = {row["goal"]: row for row in bench.goals(found_on_case_b(**floors))}
    assert goals["pinned of bus"]["got"] == pytest.approx(120e3 / bus)
    assert goals["device"]["reached"] is True
    assert goals["runs of the slowest floor"]["got"] == pytest.approx(0.7)
    assert goals["runs of the slowest floor"]["reached"] is False


def test_without_floors_no_part_of_them_is_claimed(bench: Any) -> None:
    found = found_on_case_b() | {"floors": {"problem": "no nvcc"}}
    assert [row["goal"] for row in bench.goals(found)] == ["device", "runs of the slowest floor"]


@pytest.mark.slow
def test_the_floors_compile_and_link_and_say_what_they_lack(bench: Any, tmp_path: Path) -> None:
    try:
        command = bench.floors_command(tmp_path)
    except FileNotFoundError as error:
        pytest.skip(str(error))
    if shutil.which("nvidia-smi"):
        pytest.skip("this machine has a driver")
    done = subprocess.run([*command, "--box", "400", "--sizes", "128"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("gpu_floors: choosing the device: ")
    assert bench.floors_command(tmp_path) == [str(tmp_path / "gpu_floors")]  # not built again


def test_without_a_compiler_the_floors_say_so(bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    monkeypatch.delenv("CUDACXX", raising=False)
    with pytest.raises(FileNotFoundError, match="no nvcc; put it on the PATH"):
        bench.floors_command(tmp_path)
    monkeypatch.setenv("CUDACXX", str(tmp_path / "bin" / "nvcc"))
    with pytest.raises(FileNotFoundError, match="no cuFFT in .*; set CuFFT_ROOT"):
        bench.floors_command(tmp_path)
    assert os.listdir(tmp_path) == []


def test_a_machine_without_git_is_described_all_the_same(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.machine import describe

    monkeypatch.setenv("PATH", "/nowhere")
    assert describe()["git"] == "unknown"


def test_more_names_of_the_same_files_make_a_longer_run(bench: Any, tiny: Any, tmp_path: Path) -> None:
    from bench.cases import CASES
    from bench.dataset import ensure

    what = CASES["tiny"]
    bench._name_again(what, 5, tmp_path)
    data = ensure(tmp_path, what.with_micrographs(5).data)
    assert len(data.paths) == 5
    assert len({path.stat().st_ino for path in data.paths}) == 2


def test_the_profilers_table_has_medians_of_each_kernel() -> None:
    from bench.gpu_passes import table

    rows = [
        ("Kernel Name", "Metric Name", "Metric Value"),
        *(("void run_pass<Gather>(T1)", "gpu__time_duration.sum", str(time)) for time in (3000, 1000, 2000)),
        ("regular_fft<400>", "gpu__time_duration.sum", "5,000"),
    ]
    text = "==PROF== noise\n" + "\n".join(",".join(f'"{cell}"' for cell in row) for row in rows)
    lines = table(text).splitlines()
    assert lines[1].split()[:3] == ["Gather", "3", "2.0"]
    assert lines[2].split()[:3] == ["regular_fft<400>", "1", "5.0"]
