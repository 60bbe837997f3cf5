"""What every test may use: the real data, and markers that skip a test, with a reason, where its program is missing."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from traces import machine_is_left_as_it_was

__all__ = ["machine_is_left_as_it_was"]  # a fixture of every session

ROOT = Path(__file__).resolve().parents[1]


def _real_data_folder() -> Path:
    return Path(os.environ.get("CRYOBOX_TEST_DATA") or ROOT.parent / "shared" / "data")


def _no_real_data() -> str | None:
    folder = _real_data_folder()
    if (folder / "micrographs").is_dir():
        return None
    return f"no real data in {folder}; set CRYOBOX_TEST_DATA to the folder that has them"


def _no_relion() -> str | None:
    if shutil.which("relion_preprocess"):
        return None
    return "relion_preprocess is not on the PATH (Debian: apt-get install relion)"


def _no_gpu() -> str | None:
    if importlib.util.find_spec("cryobox") is None or importlib.util.find_spec("cryobox._cuda") is None:
        return "this build has no CUDA module"
    if not shutil.which("nvidia-smi"):
        return "nvidia-smi is not on the PATH: no NVIDIA driver"
    if subprocess.run(["nvidia-smi", "-L"], capture_output=True, check=False).returncode:
        return "nvidia-smi finds no GPU"
    return None


def _no_slurm() -> str | None:
    if not shutil.which("sbatch"):
        return "sbatch is not on the PATH"
    if subprocess.run(["sinfo", "-h"], capture_output=True, check=False).returncode:
        return "no Slurm controller answers sinfo"
    return None


def _no_mpi() -> str | None:
    if importlib.util.find_spec("mpi4py") is None:
        return "mpi4py is not installed"
    return None if shutil.which("mpiexec") else "mpiexec is not on the PATH"


def _no_chromium() -> str | None:
    if chromium():
        return None
    return "neither chromium nor google-chrome is on the PATH (Debian: apt-get install chromium)"


def _no_pty() -> str | None:
    try:
        for end in os.openpty():
            os.close(end)
    except OSError as error:
        return f"no pseudo-terminal can be had here: {error}"
    return None


def _no_semaphores() -> str | None:
    try:
        multiprocessing.get_context("fork").Lock()
    except (OSError, ImportError, ValueError) as error:
        return f"processes cannot share semaphores here: {error}"
    return None


def chromium() -> str | None:
    """Path of a Chromium, None where there is none."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


_WHY_NOT: dict[str, Callable[[], str | None]] = {
    "real": cache(_no_real_data),
    "relion": cache(_no_relion),
    "gpu": cache(_no_gpu),
    "slurm": cache(_no_slurm),
    "mpi": cache(_no_mpi),
    "chromium": cache(_no_chromium),
    "pty": cache(_no_pty),
    "semaphores": cache(_no_semaphores),
}


def pytest_runtest_setup(item: pytest.Item) -> None:
    for name, why_not in _WHY_NOT.items():
        if item.get_closest_marker(name) and (reason := why_not()):
            pytest.skip(reason)


def pytest_report_header() -> list[str]:
    tools = ", ".join(f"{name} {'no' if why_not() else 'yes'}" for name, why_not in _WHY_NOT.items())
    return [f"cryobox: {_version()}", f"available: {tools}"]


def _version() -> str:
    try:
        from cryobox import __version__, _core
    except ImportError as error:
        return f"without its compiled core ({error})"
    return f"{__version__}, {_core.fftw_version()}"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real micrographs, picks and tables; skips the test where there is none."""
    if reason := _no_real_data():
        pytest.skip(reason)
    return _real_data_folder()
