"""cryobox: picked particles out of cryo-EM micrographs, into stacks and tables. Importing it loads nothing heavy."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cryobox.boxes import fast_box
    from cryobox.comparison import compare_particles
    from cryobox.convert import convert_particles
    from cryobox.core import extract, fourier_crop
    from cryobox.errors import (
        AbortedError,
        BackendError,
        CryoboxError,
        InputError,
        LockError,
        MicrographError,
        MissingExtraError,
        OptionError,
        OutputError,
    )
    from cryobox.job import RunResult, run
    from cryobox.options import Recipe, RunOptions
    from cryobox.reporting import write_report
    from cryobox.restacking import restack_particles
    from cryobox.source import ParticleSource

    __version__: str

__all__ = [
    "AbortedError",
    "BackendError",
    "CryoboxError",
    "InputError",
    "LockError",
    "MicrographError",
    "MissingExtraError",
    "OptionError",
    "OutputError",
    "ParticleSource",
    "Recipe",
    "RunOptions",
    "RunResult",
    "__version__",
    "compare_particles",
    "convert_particles",
    "extract",
    "fast_box",
    "fourier_crop",
    "restack_particles",
    "run",
    "write_report",
]

# Where each public name lives. The module is imported when the name is first asked for (PEP 562), so that a program
# which needs only `fast_box` does not wait for NumPy, and one which needs only `extract` not for the table formats.
_HOME = {
    "AbortedError": "errors",
    "BackendError": "errors",
    "CryoboxError": "errors",
    "InputError": "errors",
    "LockError": "errors",
    "MicrographError": "errors",
    "MissingExtraError": "errors",
    "OptionError": "errors",
    "OutputError": "errors",
    "ParticleSource": "source",
    "Recipe": "options",
    "RunOptions": "options",
    "RunResult": "job",
    "compare_particles": "comparison",
    "restack_particles": "restacking",
    "convert_particles": "convert",
    "extract": "core",
    "fast_box": "boxes",
    "fourier_crop": "core",
    "run": "job",
    "write_report": "reporting",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value: Any = _version()
    elif name in _HOME:
        value = getattr(import_module(f"cryobox.{_HOME[name]}"), name)
    else:
        raise AttributeError(f"module 'cryobox' has no attribute {name!r}")
    globals()[name] = value  # asked for once
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


def _version() -> str:
    try:
        found: str = import_module("cryobox._version").version
    except ModuleNotFoundError:  # a source tree on sys.path that was never installed
        return "0+unknown"
    return found
