"""A processor in the GPU's place: builds and loads `cryobox._cuda` with tests/gpu/standin_device.cpp behind its seam.

Everything but the device itself is what a GPU runs: bindings, pipeline, passes. How it behaves is set from here.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "standin"
PLENTY = 1 << 40


class StandIn:
    """The module, and what its device is told to do."""

    def __init__(self, path: Path) -> None:
        spec = importlib.util.spec_from_file_location("cryobox._cuda", path)
        self.module: ModuleType = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.module)
        self._library = ctypes.CDLL(str(path))
        for name in ("used", "most_used", "uploaded"):
            getattr(self._library, f"standin_{name}").restype = ctypes.c_size_t
        self.devices = 1

    def set(self, *, devices: int = 1, memory: int = PLENTY, order: int = 0) -> None:
        """As many devices, with so many bytes together; all counters to zero, no failure to come."""
        for number in range(max(devices, self.devices)):
            self.module.release_idle(number)
        self.devices = devices
        self._library.standin_set(devices, ctypes.c_size_t(memory), order)

    def fail_after(self, synchronizations: int, *, device: int = -1) -> None:
        """From then on that device (-1: each) fails."""
        self._library.standin_fail_after(synchronizations, device)

    def count(self, what: str) -> int:
        """used, most_used, uploaded (bytes), synchronizations, allocations, looks, waits; current (device)."""
        return int(getattr(self._library, f"standin_{what}")())

    @contextmanager
    def in_place_of_cuda(self) -> Iterator[StandIn]:
        """For the time of the block `cryobox._cuda` is this module."""
        import cryobox

        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, "cryobox._cuda", self.module)
            patch.setattr(cryobox, "_cuda", self.module, raising=False)
            self.set()
            yield self
            self.set()


@cache
def load() -> StandIn:
    """Build it if sources have changed, and load it; skips the test where there is no compiler, CMake or FFTW."""
    tools = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    cmake = shutil.which("cmake", path=tools)
    if cmake is None or importlib.util.find_spec("pybind11") is None:
        pytest.skip("CMake and pybind11 are needed to build the device's stand-in")
    import pybind11

    configure = [
        *(cmake, "-S", str(ROOT), "-B", str(BUILD), "-DCMAKE_BUILD_TYPE=Release"),
        *("-DCRYOBOX_CUDA=OFF", "-DCRYOBOX_TESTS=ON", f"-Dpybind11_DIR={pybind11.get_cmake_dir()}"),
        *(f"-DPython_EXECUTABLE={sys.executable}", *(["-G", "Ninja"] if shutil.which("ninja", path=tools) else [])),
    ]
    build = [cmake, "--build", str(BUILD), "--target", "cuda_standin", "--parallel", "2"]
    for command in (configure, build):
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"PATH": tools})
        if done.returncode:
            raise AssertionError(f"{' '.join(command)}\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    (path,) = (BUILD / "tests" / "gpu").glob("_cuda*.so")
    return StandIn(path)
