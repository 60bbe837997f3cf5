"""Runs whose calls of the operating system fail, are cut short, or are the last: real calls, counted by a shim."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Self

HERE = Path(__file__).resolve().parent
COUNT, KILL, FAIL, SHORT = range(4)


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens at call number `at` that changes something in the watched folder (0: nothing)."""

    at: int = 0
    kind: int = COUNT
    error: int = 0
    from_then_on: bool = False
    reads: bool = False  # the watched folder is one of inputs: reads are counted


NONE = Fault()


@dataclass(frozen=True, slots=True)
class Call:
    """One call that changed the watched folder."""

    number: int
    name: str
    result: int
    offset: int
    path: str
    second: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended: its exit code, or minus the signal; what it said; what it did in the watched folder."""

    code: int
    output: str
    calls: list[Call]


def why_not() -> str | None:
    """Why the shim cannot be used here; None if it can."""
    if sys.platform != "linux":
        return "the shim stands between a process and Linux's libc"
    return None if shutil.which("cc") else "no C compiler to build the shim with"


class Server:
    """A process that runs `cryobox` again and again under faults. Use as a context manager."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        library = scratch / "shim.so"
        subprocess.run(
            ["cc", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", library, HERE / "shim.c"], check=True
        )
        self._process = subprocess.Popen(
            [sys.executable, HERE / "server.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"LD_PRELOAD": str(library), "OPENBLAS_NUM_THREADS": "1"},
        )
        assert self._answer() == "ready"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(20)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def run(self, argv: list[str], folder: Path, *, watched: Path, fault: Fault = NONE, clock: int = 0) -> Ended:
        """Run `cryobox argv` in `folder`."""
        calls, said = self._scratch / "calls", self._scratch / "said"
        calls.unlink(missing_ok=True)
        armed = [str(watched), fault.at, fault.kind, fault.error, int(fault.from_then_on), int(fault.reads), str(calls)]
        assert self._process.stdin is not None
        request = {"argv": argv, "folder": str(folder), "log": str(said), "fault": armed, "clock": clock}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        code = os.waitstatus_to_exitcode(int(self._answer()))
        return Ended(code, said.read_text(errors="replace"), _calls(calls))

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


def _calls(path: Path) -> list[Call]:
    """What the shim wrote down; a last record that the kill cut off is left out."""
    data = path.read_bytes() if path.exists() else b""
    found = []
    at = 0
    while (end := data.find(b"\n", at)) >= 0:
        number, name, result, offset, first, second, size = data[at:end].decode().split("\t")
        at = end + 1 + int(size)
        found.append(Call(int(number), name, int(result), int(offset), first, second, data[end + 1 : at]))
    return found
