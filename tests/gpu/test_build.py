"""The CUDA core compiles and links where nvcc and cuFFT are, and loads, and says what it lacks, where no driver is."""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
BUILD = ROOT / "build" / "cuda"


def cmake(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("cmake", path=TOOLS)
    if program is None:
        pytest.skip("CMake is not on the PATH")
    return subprocess.run(
        [program, *arguments], capture_output=True, text=True, check=False, env=os.environ | {"PATH": TOOLS}
    )


def configure(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    pybind11 = pytest.importorskip("pybind11")
    generator = ["-G", "Ninja"] if shutil.which("ninja", path=TOOLS) else []
    common = [f"-Dpybind11_DIR={pybind11.get_cmake_dir()}", f"-DPython_EXECUTABLE={sys.executable}"]
    return cmake("-S", str(ROOT), "-B", str(folder), *generator, *common, *options)


@pytest.fixture(scope="module")
def module() -> Path:
    """`_cuda`, built for sm_80 and sm_90 without the CPU core; skips with what the configure step says is missing."""
    found = configure(BUILD, "-DCRYOBOX_CPU=OFF", "-DCRYOBOX_CUDA=AUTO", "-DCMAKE_CUDA_ARCHITECTURES=80-real;90")
    assert found.returncode == 0, found.stderr
    (summary,) = [line for line in found.stdout.splitlines() if line.startswith("-- cryobox: ")]
    if "no CUDA core" in summary:
        pytest.skip(summary)
    assert "CUDA core (nvcc " in summary
    assert "for 80-real, 90" in summary
    built = cmake("--build", str(BUILD), "--parallel", "2")
    assert built.returncode == 0, built.stdout[-3000:]
    (path,) = (BUILD / "cpp" / "cuda").glob("_cuda*.so")
    return path


def run_there(module: Path, code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=module.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_module_compiles_links_and_loads(module: Path) -> None:
    assert "extract" in run_there(module, "import _cuda; print(dir(_cuda))")


def device_code(module: Path) -> list[tuple[str, int]]:
    """What CUDA's fat binaries in a module hold: ("ptx" or "machine code", architecture) of each entry."""
    data = module.read_bytes()
    found = []
    for header in re.finditer(re.escape(b"\x50\xed\x55\xba\x01\x00\x10\x00"), data):
        at = header.end() + 8
        end = at + struct.unpack_from("<Q", data, header.end())[0]
        while at < end:
            kind, _, header_bytes, payload_bytes = struct.unpack_from("<HHIQ", data, at)
            found.append(({1: "ptx", 2: "machine code"}[kind], struct.unpack_from("<I", data, at + 28)[0]))
            at += header_bytes + payload_bytes
    return found


@pytest.mark.slow
def test_the_module_holds_code_for_each_architecture_that_was_asked_for(module: Path) -> None:
    assert sorted(device_code(module)) == [("machine code", 80), ("machine code", 90), ("ptx", 90)]


@pytest.mark.slow
def test_without_a_driver_the_module_says_so(module: Path) -> None:
    if shutil.which("nvidia-smi"):
        pytest.skip("this machine has a driver")
    assert run_there(module, "import _cuda; s = _cuda.survey(); print(s['problem'], s['devices'])").strip() == (
        "no NVIDIA driver on this host []"
    )


@pytest.mark.slow
@pytest.mark.parametrize(("asked", "ends_well"), [("ON", False), ("AUTO", True)])
def test_what_is_missing_is_named_and_an_error_only_where_cuda_was_asked_for(
    tmp_path: Path, asked: str, ends_well: bool
) -> None:
    found = configure(
        tmp_path, "-DCRYOBOX_CPU=OFF", f"-DCRYOBOX_CUDA={asked}", "-DCMAKE_DISABLE_FIND_PACKAGE_CuFFT=TRUE"
    )
    assert (found.returncode == 0) is ends_well
    said = " ".join((found.stdout if ends_well else found.stderr).split())
    begins = r"no CUDA core \(" if ends_well else "CRYOBOX_CUDA is ON, but "
    assert re.search(begins + "(cuFFT was not found; install it|no working nvcc was found; put it)", said)


@pytest.mark.slow
def test_cufft_of_the_wheel_goes_before_that_of_the_toolkit_with_its_own_header(tmp_path: Path, module: Path) -> None:
    wheel = tmp_path / "nvidia" / "cu13"
    for name in ("lib/libcufft.so.12", "include/cufft.h"):  # all that NVIDIA's wheel has: no libcufft.so
        (wheel / name).parent.mkdir(parents=True)
        (wheel / name).touch()
    build = tmp_path / "build"
    found = configure(build, "-DCRYOBOX_CPU=OFF", "-DCRYOBOX_CUDA=ON", f"-DCuFFT_ROOT={wheel}")
    assert found.returncode == 0, found.stderr
    cache = (build / "CMakeCache.txt").read_text()
    assert f"CuFFT_LIBRARY:FILEPATH={wheel}/lib/libcufft.so.12\n" in cache
    header = re.search(r"^CuFFT_INCLUDE_DIR:PATH=(.*)$", cache, re.MULTILINE)
    assert header is not None
    assert Path(header[1]).resolve() == (wheel / "include").resolve()
