"""What runs on a worker in another process: a batch of tasks, after a look at whether this worker fits the run."""

from __future__ import annotations

import os
import platform
import socket
import time
from dataclasses import dataclass, replace
from pathlib import Path

from cryobox import __version__
from cryobox.core import fftw_version
from cryobox.engine.task import Setting, do_group, read_token
from cryobox.errors import BackendError, CryoboxError, OutputError
from cryobox.folder.layout import stack_folder
from cryobox.folder.publish import temporary_name
from cryobox.plan import Group, Task
from cryobox.results import TaskResult

__all__ = ["Batch", "BatchResult", "Expectation", "Reply", "cpu_kind", "do_batch", "expect", "look"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What a worker must agree with before it touches a file.

    Parameters
    ----------
    cryobox, fftw : str
        Versions of the process that started the run.
    token, secret : str
        A file in the output folder and its text: who reads it sees the same folder, not another of that name.
    folders : tuple of str
        In which stacks are written.
    inputs : tuple of (str, int)
        Micrographs with their bytes, one of each folder that holds some.
    """

    cryobox: str
    fftw: str
    token: str
    secret: str
    folders: tuple[str, ...]
    inputs: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """Who a worker is, what kind of processor it has, and what does not fit ("" if all does)."""

    worker: str
    cpu: str
    complaint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Groups that are sent together. `serial` makes each sending another one, also for engines that remember calls."""

    serial: int
    groups: tuple[Group, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchResult:
    """What became of the groups of a batch, in order; shorter if one raised `error`, after which none was tried."""

    worker: str
    results: tuple[tuple[TaskResult, ...], ...]
    error: CryoboxError | None = None


def expect(folder: Path, tasks: list[Task], *, token: Path) -> Expectation:
    """What workers must see to do `tasks` in `folder`. Writes `token`."""
    secret = os.urandom(16).hex()
    try:
        token.write_text(secret)
    except OSError as error:
        raise OutputError(f"{token}: cannot be written: {error.strerror}") from error
    of_folder = {os.path.dirname(task.path): (task.path, task.header.file_size) for task in reversed(tasks)}
    return Expectation(
        cryobox=__version__,
        fftw=fftw_version(),
        token=str(token.resolve()),
        secret=secret,
        folders=tuple(
            str(folder.resolve() / stack_folder(name))
            for name in dict.fromkeys(output.name for task in tasks for output in task.every_output)
        ),
        inputs=tuple(of_folder.values()),
    )


def look(expected: Expectation, pause: float = 0.0) -> Reply:
    """Say whether this worker fits. With a `pause` it is not at once free for the next look, which another takes."""
    time.sleep(pause)
    return Reply(worker=_who(), cpu=cpu_kind(), complaint=_complaint(expected))


def do_batch(batch: Batch, setting: Setting, expected: Expectation) -> BatchResult:
    """Do the groups one after the other. The first batch of a process is refused with `BackendError` if it is unfit."""
    if expected not in _fit:
        reply = look(expected)
        if reply.complaint:
            error = BackendError(f"worker {reply.worker}: {reply.complaint}")
            return BatchResult(worker=reply.worker, results=(), error=error)
        _fit.add(expected)
    permitted = replace(setting, token=expected.token, secret=expected.secret)
    results = []
    for group in batch.groups:
        try:
            results.append(do_group(group, permitted))
        except CryoboxError as error:
            return BatchResult(worker=_who(), results=tuple(results), error=error)
    return BatchResult(worker=_who(), results=tuple(results))


def cpu_kind() -> str:
    """The processor as far as the last bits of a transform may depend on it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    flags = next((set(line.split()) for line in lines if line.startswith("flags")), set())
    return " ".join([platform.machine(), *sorted(flags & {"avx", "avx2", "avx512f", "fma"})])


def _complaint(expected: Expectation) -> str:
    for what, here, there in (
        ("cryobox", __version__, expected.cryobox),
        ("FFTW", fftw_version(), expected.fftw),
    ):
        if here != there:
            return f"has {what} {here}, the run was started with {there}; install the same there"
    if read_token(expected.token) != expected.secret:
        return (
            f"does not see the output folder {os.path.dirname(expected.token)}; "
            f"choose one on a file system that all workers share"
        )
    for folder in expected.folders:
        probe = os.path.join(folder, temporary_name("probe", "look"))
        try:
            os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            os.unlink(probe)
        except OSError as error:
            return f"cannot write to {folder}: {error.strerror}"
    for path, size in expected.inputs:
        try:
            found = os.stat(path).st_size
        except OSError as error:
            return f"does not see the micrograph {path}: {error.strerror}"
        if found != size:
            return f"sees {path} with {found} bytes, the run was planned with {size}"
    return ""


def _who() -> str:
    return f"{socket.gethostname()} (process {os.getpid()})"


_fit: set[Expectation] = set()
