"""GPUs as devices of the core: which there are, or why none, and their memory. The only module that loads `_cuda`."""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

from cryobox.errors import BackendError, OptionError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "CudaBackend",
    "Device",
    "backend",
    "describe_devices",
    "device_number",
    "is_device_array",
    "most_callers",
    "parse_gpus",
    "parse_memory",
    "pinned",
    "resident",
    "survey",
]

_DLPACK_CPU = 1
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One GPU of this host.

    Parameters
    ----------
    name : str
        As `extract` takes it: "cuda:0".
    model : str
    capability : str
        Compute capability, "9.0".
    bus : str
        PCI address.
    total_bytes, free_bytes : int
    problem : str
        Why it cannot be used; "" if it can.
    """

    name: str
    model: str
    capability: str
    bus: str
    total_bytes: int
    free_bytes: int
    problem: str = ""


def survey(closely: Sequence[str] = ()) -> tuple[list[Device], str]:
    """The GPUs of this host, and in a sentence what they are used through, or why there is none.

    Parameters
    ----------
    closely : sequence of str
        Devices to be asked whether they can be used; by default all. Each then bears a context of this process, some
        hundred megabytes. Of the others `problem` is "" and `free_bytes` 0.
    """
    try:
        found = _module().survey([device_number(name) for name in closely])
    except BackendError as error:
        return [], str(error)
    devices = [
        Device(
            name=f"cuda:{one['index']}",
            model=one["name"],
            capability=one["capability"],
            bus=one["bus"],
            total_bytes=one["total_bytes"],
            free_bytes=one["free_bytes"],
            problem=one["problem"],
        )
        for one in found["devices"]
    ]
    if found["problem"]:
        return devices, found["problem"]
    return devices, f"CUDA {found['runtime']}, driver for CUDA {found['driver']}, cuFFT {found['cufft']}"


def describe_devices() -> list[str]:
    """What `cryobox info --devices` prints: a line for each device, and what they are used through, or why not."""
    devices, about = survey()
    lines = ["cpu: always"]
    for one in devices:
        memory = f"{one.free_bytes / 2**30:.1f} of {one.total_bytes / 2**30:.1f} GiB free"
        facts = f"{one.model}, compute capability {one.capability}, {memory}, at {one.bus}"
        lines.append(f"{one.name}: cannot be used: {one.problem}" if one.problem else f"{one.name}: {facts}")
    lines.append(f"through {about}" if devices else f"no GPU: {about}")
    return lines


def device_number(device: str) -> int:
    """The number of a GPU from its name, "cuda" or "cuda:N".

    Raises
    ------
    BackendError
    """
    match = re.fullmatch(r"cuda(?::(\d{1,4}))?", device)
    if match is None:
        raise BackendError(f"device must be cpu, cuda or cuda:N; got {device!r}")
    return int(match.group(1) or 0)


def parse_gpus(text: str) -> tuple[str, ...]:
    """Devices from what a user wrote: "2" means the first two, "0,2" the first and the third, "3," the fourth.

    Raises
    ------
    OptionError
    """
    words = text.replace(" ", "").split(",")
    if not re.fullmatch(r"\d{1,4}(,\d{1,4})*,?", text.replace(" ", "")) or (len(words) == 1 and int(words[0]) == 0):
        raise OptionError(f"--gpus wants how many (2), or which, separated by commas (0,2 or 3,); got {text!r}")
    numbers = range(int(words[0])) if len(words) == 1 else [int(word) for word in words if word]
    if len(set(numbers)) != len(numbers):
        raise OptionError(f"--gpus names a GPU twice; got {text!r}")
    return tuple(f"cuda:{number}" for number in numbers)


def parse_memory(text: str) -> int:
    """Bytes from what a user wrote: "800M", "4G", "2.5 GB".

    Raises
    ------
    OptionError
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kKmMgGtT]?)i?[bB]?\s*", text)
    count = 0 if match is None else math.floor(float(match.group(1)) * _UNITS[match.group(2).lower()])
    if count < 1:
        raise OptionError(f"--gpu-memory wants a size like 800M or 4G; got {text!r}")
    return count


def is_device_array(array: object) -> bool:
    """Whether an array lies in the memory of a GPU, and not of the host, by its own word."""
    if hasattr(array, "__dlpack_device__"):  # first: PyTorch's other interface raises where a gradient is wanted
        kind, _ = array.__dlpack_device__()
        if kind != _DLPACK_CPU:
            return True
    return hasattr(array, "__cuda_array_interface__")


@dataclass(frozen=True, slots=True)
class CudaBackend:
    """The functions of `_core`, on one GPU.

    Parameters
    ----------
    number : int
    memory : int
        Bytes of the device that one call may use; 0: half of what is free.
    """

    number: int
    memory: int = 0

    def extract(
        self, image: Any, corners: NDArray[np.int64], outputs: list[Any], **options: Any
    ) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
        """As `_core.extract`; `image` and `outputs` may lie on the device."""
        result: tuple[NDArray[np.uint8], NDArray[np.float64]] = _module().extract(
            image, corners, outputs, device=self.number, memory=self.memory, **options
        )
        return result

    def empty(self, shape: Sequence[int], dtype: object) -> Any:
        """An array on the device whose values are undefined."""
        return _called(_module().empty, list(shape), dtype, self.number)


def backend(device: str, memory: int = 0) -> CudaBackend:
    """The core on a GPU.

    Raises
    ------
    BackendError
        If the name is none, or this installation has no CUDA core.
    """
    number = device_number(device)
    _module()
    return CudaBackend(number, memory)


def resident(image: NDArray[Any], device: str, rows: tuple[int, int]) -> Any:
    """A copy of a micrograph on a device, for several calls; rows outside [first, last) are undefined.

    Raises
    ------
    BackendError
    """
    return _called(_module().upload, image, device_number(device), *rows)


def most_callers() -> int:
    """How many calls run on one device at the same time; others wait for their turn.

    Raises
    ------
    BackendError
    """
    count: int = _module().most_callers
    return count


def pinned(count: int, device: str) -> NDArray[np.uint8]:
    """Bytes of the host that copies to and from a device may use directly.

    Raises
    ------
    BackendError
    """
    result: NDArray[np.uint8] = _called(_module().pinned, count, device_number(device))
    return result


def _called(function: Any, *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except ValueError as error:
        raise OptionError(str(error)) from error
    except RuntimeError as error:
        raise BackendError(str(error)) from error


def _module() -> ModuleType:
    try:
        return importlib.import_module("cryobox._cuda")
    except ModuleNotFoundError as error:
        raise BackendError(
            "this installation of cryobox has no CUDA core; build it where nvcc and cuFFT are installed (docs/gpu.md)"
        ) from error
    except ImportError as error:
        raise BackendError(
            f"cryobox's CUDA core cannot be loaded: {error}; is cuFFT of the CUDA that it was built with installed?"
        ) from error
