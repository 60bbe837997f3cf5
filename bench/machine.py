"""The machine under the benchmark: what it is, how it is made quiet before a clock starts, how a program is timed."""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

__all__ = [
    "RESULTS",
    "ROOT",
    "WARM",
    "Finished",
    "Spread",
    "Warm",
    "cores",
    "describe",
    "execute",
    "floors_program",
    "fresh",
    "laps",
    "let_go",
    "own_peak_mb",
    "save",
    "spread",
    "warm_files",
]

ROOT = Path(__file__).resolve().parent.parent
WARM = "CRYOBOX_BENCH_WARM"
RESULTS = ROOT / "bench" / "results"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """What a program did: wall seconds of the process, CPU seconds and peak memory of it and its children, stdout."""

    seconds: float
    cpu_seconds: float
    peak_rss_mb: float
    stdout: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """A median and its band, from lowest to highest."""

    median: float
    low: float
    high: float

    def text(self, digits: int = 3) -> str:
        """Median and band as a table shows them."""
        return f"{self.median:.{digits}f} [{self.low:.{digits}f}-{self.high:.{digits}f}]"


def spread(values: Sequence[float]) -> Spread:
    """Median, lowest and highest of `values`."""
    return Spread(median=statistics.median(values), low=min(values), high=max(values))


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def _line(command: Sequence[str], cwd: Path = ROOT) -> str:
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return done.stdout.strip().splitlines()[0] if done.stdout.strip() else "unknown"


def _fails(command: Sequence[str]) -> bool:
    return subprocess.run(command, cwd=ROOT, check=False, capture_output=True).returncode != 0


def describe() -> dict[str, Any]:
    """Host, compiler, versions, revision and date: what a figure means nothing without."""
    info = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":", 1)[1].strip() for line in info if line.startswith("model name")), "unknown")
    meminfo = Path("/proc/meminfo").read_text().split()
    packages = {}
    code = "import importlib.metadata as m, sys; print(m.version(sys.argv[1]))"
    for package in ("cryobox", "numpy", "scipy"):
        packages[package] = _line([sys.executable, "-c", code, package])
    revision = _line(["git", "rev-parse", "--short", "HEAD"])
    if revision != "unknown" and _fails(["git", "diff", "--quiet", "HEAD"]):
        revision += "+changes"
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": model,
        "cores": cores(),
        "memory_gb": round(int(meminfo[1]) / 2**20, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "compiler": _line(["c++", "--version"]),
        "packages": packages,
        "git": revision,
    }


def save(name: str, content: dict[str, Any]) -> Path:
    """Write one result as JSON, named after what was measured and when."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}-{datetime.now(UTC):%Y%m%dT%H%M%S}.json"
    path.write_text(json.dumps({"machine": describe()} | content, indent=1) + "\n")
    return path


def floors_program(data: Path) -> Path:
    """The compiled floors.cpp, built into `data` when it is missing or older than its source."""
    source = ROOT / "bench" / "floors.cpp"
    program = data / "floors"
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        data.mkdir(parents=True, exist_ok=True)
        where = _fftw_flags()
        command = ["c++", "-std=c++20", "-O3", str(source), "-o", str(program), *where, "-lpthread"]
        subprocess.run(command, check=True)
    return program


def _fftw_flags() -> list[str]:
    try:
        flags = _line(["pkg-config", "--cflags", "--libs", "fftw3f"])
    except OSError:
        flags = "unknown"
    return ["-lfftw3f"] if flags == "unknown" else flags.split()


def execute(command: Sequence[str], *, cwd: Path, log: Path | None = None, warm: Warm | None = None) -> Finished:
    """Run a program to its end and measure it; an exit code other than 0 stops the benchmark with its output.

    `warm` is what `fresh` returned, for a program that calls `let_go`.
    """
    # One thread per worker everywhere: the arms bring their own workers.
    single = {"OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | single | {"PYTHONPATH": os.pathsep.join(paths)}
    if warm is not None:
        environment[WARM] = str(warm.path)
    environment.setdefault("OMPI_MCA_rmaps_base_oversubscribe", "1")
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        start = time.perf_counter()
        process = subprocess.Popen(command, cwd=cwd, stdout=out, stderr=err, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)  # reaped above; Popen must not wait for it again
        out.seek(0)
        stdout = out.read().decode(errors="replace")
        if process.returncode != 0:
            err.seek(0)
            message = err.read().decode(errors="replace")
            raise SystemExit(f"{' '.join(command)}\nexit code {process.returncode}\n{stdout[-2000:]}{message[-4000:]}")
    if log is not None:
        log.write_text(stdout)
    return Finished(
        seconds=seconds,
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        peak_rss_mb=usage.ru_maxrss / 1024,
        stdout=stdout,
    )


def own_peak_mb() -> float:
    """Peak memory of this process in MiB: VmHWM, which starts anew with the program, as getrusage's figure does not."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def warm_files(paths: Sequence[Path]) -> None:
    """Read every file once, so that all arms find the same page cache."""
    buffer = bytearray(8 << 20)
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


@dataclass(frozen=True, slots=True)
class Warm:
    """Memory that a file holds until an arm's clock starts."""

    path: Path

    def release(self) -> None:
        """Free it, if nobody has."""
        self.path.unlink(missing_ok=True)


def fresh(out: Path, expected_bytes: int, inputs: Sequence[Path] = ()) -> Warm:
    """Remove old outputs, let the disk settle, read the inputs and touch memory: all outside the clock.

    A virtual machine may hand free memory back to its host, 300 MB a second from two seconds after it was freed, and
    gets it back page by page where it is touched, at 3 s per GB: identical runs took 0.7 to 4.7 s. So more than the arm
    will use is touched: page cache by a file, held until the arm is ready (`let_go`), anonymous memory by a mapping.
    (Held by a process instead, it came back slower.) Page cache that nobody read for a while may be gone as well.
    """
    if out.exists():
        shutil.rmtree(out)
    out.mkdir(parents=True)
    os.sync()
    warm_files(inputs)
    block = bytes(8 << 20)
    scratch = out / "warm"
    with scratch.open("wb", buffering=0) as file:
        for _ in range((expected_bytes + min(expected_bytes, 1 << 30)) // len(block) + 1):
            file.write(block)
    # In another process: Linux hands a parent's peak memory down to the children that it starts, and we measure those.
    touch = "import mmap\nm = mmap.mmap(-1, 512 << 20)\nfor at in range(0, len(m), 4096): m[at] = 1"
    subprocess.run([sys.executable, "-S", "-c", touch], check=True)
    return Warm(scratch)


def laps(call: Callable[[], object]) -> tuple[float, float]:
    """Seconds of the first call, and of one in a loop of 3 s: the median of the later half.

    The first makes plans and faults pages, which a loop over micrographs pays once. A host may run two virtual
    processors on one core of its own, and needs up to a second of work to see that: calls of two threads took 16 ms at
    first and 10 ms then.
    """
    taken: list[float] = []
    begin = time.perf_counter()
    while len(taken) < 8 or time.perf_counter() - begin < 3:
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return taken[0], statistics.median(taken[len(taken) // 2 :])


def let_go() -> float:
    """In an arm, when it is ready: delete the file that holds its memory, and return how long that took."""
    start = time.perf_counter()
    if WARM in os.environ:
        os.unlink(os.environ[WARM])
    return time.perf_counter() - start
