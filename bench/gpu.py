"""One GPU on a case beside its floors and this host's cores: `python -m bench.gpu --data FOLDER --out /dev/shm/FOLDER`.

Rates with micrographs and images on the device, from and to pinned memory, and of the CPU core on all cores; whole runs
from page cache, beside reads and writes of the same bytes by as many threads; milliseconds by stage from the device's
own events; floors from gpu_floors.cu, which nvcc builds into FOLDER. The images are compared with the CPU's first: a
benchmark of different work would be worthless.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bench.arm_numpy import read_micrograph, read_positions
from bench.cases import Case, case
from bench.dataset import ensure
from bench.machine import ROOT, Spread, cores, execute, fresh, save, spread, warm_files

if TYPE_CHECKING:
    from cryobox.options import Steps
    from cryobox.windows import Stored, Windows

__all__ = ["floors_command", "goals", "main", "measure", "table"]

ROTATED = 6  # micrographs of the rates, in turn, so that no cache holds the input
GOALS = {"device": 200_000.0, "pinned of bus": 0.75, "runs of the slowest floor": 0.75}  # case B, H100-class device
FACTS = (
    "name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,power.draw,temperature.gpu,"
    "pcie.link.gen.current,pcie.link.width.current"
)
LARGEST_DIFFERENCE = {"float32": 4e-6, "float16": 2e-3}  # of the largest value


def main() -> None:
    """Parse the arguments, measure, print the table, save the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder for data sets and the floors; reused")
    parser.add_argument("--out", type=Path, help="folder on tmpfs for whole runs; without it there are none")
    parser.add_argument("--case", default="B")
    parser.add_argument("--micrographs", type=int, help="of whole runs, instead of the case's own number")
    parser.add_argument(
        "--files", type=int, help="so many of them; the others are more names of these: on a small disk"
    )
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--callers", default="1,2,4,8", help="threads that call at the same time")
    parser.add_argument("--rounds", type=int, default=8, help="even")
    parser.add_argument("--calls", type=int, default=12, help="of one round and caller")
    arguments = parser.parse_args()
    found = measure(
        case(arguments.case),
        arguments.data,
        device=arguments.device,
        callers=[int(count) for count in arguments.callers.split(",")],
        rounds=arguments.rounds,
        calls=arguments.calls,
    )
    if arguments.out is not None:
        what = case(arguments.case).with_micrographs(arguments.micrographs)
        if arguments.files is not None:
            _name_again(what.with_micrographs(arguments.files), what.data.micrographs, arguments.data)
        found["runs"] = _runs(what, arguments.data, arguments.out, arguments.device, arguments.rounds)
        found["runs"]["floors"]["bus"] = _bus(found)
    found["goals"] = goals(found)
    print(table(found))
    print(f"written to {save('gpu', found)}")


def measure(
    what: Case, folder: Path, *, device: str, callers: Sequence[int], rounds: int, calls: int
) -> dict[str, Any]:
    """Everything but whole runs."""
    from cryobox import gpu

    start = time.perf_counter()
    devices, about = gpu.survey([device])
    started = time.perf_counter() - start
    one = next((one for one in devices if one.name == device), None)
    if one is None or one.problem:
        raise SystemExit(f"{device} cannot be used: {one.problem if one else about}")
    few = what.with_micrographs(ROTATED).data
    data = ensure(folder, few)
    images = [read_micrograph(path, few) for path in data.paths]
    corners = [np.ascontiguousarray(each - what.box // 2) for each in read_positions(few)]
    rate = _Rates(what, images, corners, rounds=rounds, calls=calls)
    found: dict[str, Any] = {
        "case": what.name,
        "device": device,
        "model": one.model,
        "through": about,
        "start_seconds": started,
        "idle": _facts(one.bus),
        "largest_difference": _difference(what, images[0], corners[0], device),
        "floors": _floors(what, folder, device),
        "bytes_per_particle": _bytes_per_particle(what, images[0], corners),
        "stages_ms": _stages(what, images[0], corners[0], device, rounds),
        "rates": {f"cpu w{cores()}": _values(rate("cpu", "cpu", cores()))},
    }
    for count in callers:
        for place in ("device", "pinned"):
            found["rates"][f"{place} w{count}"] = _values(rate(device, place, count))
    found["busy"] = rate.facts_while_busy(device, max(callers), one.bus)
    return found


def goals(found: dict[str, Any]) -> list[dict[str, Any]]:
    """What was reached of `GOALS`, as far as it was measured."""
    got: dict[str, float] = {"device": _best(found, "device")}
    bus = _bus(found)
    if bus is not None:
        got["pinned of bus"] = _best(found, "pinned") / bus
    if "runs" in found:
        slowest = min(rate for rate in found["runs"]["floors"].values() if rate is not None)
        got["runs of the slowest floor"] = found["runs"]["particles_per_second"] / slowest
    rows = [
        {"goal": name, "wanted": GOALS[name], "got": value, "reached": value >= GOALS[name]}
        for name, value in got.items()
    ]
    return rows if found["case"] == "B" else [row | {"wanted": None, "reached": None} for row in rows]


def table(found: dict[str, Any]) -> str:
    """All of it as text."""
    lines = [f"case {found['case']} on {found['model']} ({found['device']}; {found['through']})"]
    lines.append(f"start-up of the device {found['start_seconds']:.2f} s; clocks and link, busy: {found['busy']}")
    lines.append(f"largest difference from the CPU's images: {found['largest_difference']:.1e} of the largest value")
    lines += ["", f"{'where, and callers':22s}{'particles/s [band]':34s}"]
    lines += [f"{name:22s}{_spread(rate).text(0):34s}" for name, rate in found["rates"].items()]
    floors = found["floors"]
    if "problem" in floors:
        lines += ["", f"no floors: {floors['problem']}"]
    else:
        bus = _bus(found)
        lines += ["", f"bus {floors['upload_gb_s']:.1f} GB/s up, {floors['download_gb_s']:.1f} down, "]
        lines[-1] += f"{floors['both_ways_gb_s']:.1f} both ways: at most {bus:.0f} particles/s"
        lines.append(f"device memory {floors['memory_gb_s']:.0f} GB/s, read and written")
        if "cufft_particles_per_second" in floors:
            lines.append(f"cuFFT alone {floors['cufft_particles_per_second']:.0f} particles/s")
    stages = ", ".join(f"{name} {value:.3f}" for name, value in found["stages_ms"].items())
    lines += ["", f"milliseconds of one micrograph, by stage: {stages}"]
    for name, seconds in found.get("runs", {}).items():
        if name in ("cpu", "gpu"):
            lines.append(f"whole runs, {name}: {_spread(seconds).text(2)} s, {found['runs']['workers']} workers")
    if "runs" in found:
        runs = found["runs"]
        ratio = _spread(runs["cpu_over_gpu"]).text(2)
        lines.append(f"that is {runs['particles_per_second']:.0f} particles/s on the GPU, {ratio} times the CPU's")
        floors = ", ".join(f"{name} {rate:.0f}" for name, rate in runs["floors"].items() if rate is not None)
        lines.append(f"floors of whole runs, particles/s: {floors}")
    for row in found["goals"]:
        verdict = (
            "" if row["wanted"] is None else f", goal {row['wanted']:g} {'reached' if row['reached'] else 'MISSED'}"
        )
        lines.append(f"{row['goal']}: {row['got']:.3g}{verdict}")
    return "\n".join(lines)


def _values(values: Spread) -> dict[str, float]:
    return {"median": values.median, "low": values.low, "high": values.high}


def _spread(values: dict[str, float]) -> Spread:
    return Spread(**values)


def _best(found: dict[str, Any], place: str) -> float:
    return max(float(rate["median"]) for name, rate in found["rates"].items() if name.startswith(f"{place} "))


def _facts(bus: str) -> dict[str, str]:
    """What nvidia-smi says of the device at this PCI address; nothing where it is not there."""
    command = ["nvidia-smi", f"--id={bus}", f"--query-gpu={FACTS}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return {}
    rows = list(csv.reader(done.stdout.splitlines(), skipinitialspace=True))
    names = FACTS.split(",")
    return dict(zip(names, rows[0], strict=True)) if rows and len(rows[0]) == len(names) else {}


def _work(what: Case, corners: NDArray[np.int64]) -> tuple[Windows, list[Stored], Steps]:
    """What `core.cut` is asked for, but for the memory."""
    from cryobox.options import Recipe
    from cryobox.windows import Stored, Windows

    outputs = [Stored(size=size, dtype=what.dtype, background_radius=int(0.375 * size)) for size in what.sizes]
    steps = Recipe(box=what.box, invert=what.invert).steps()
    return Windows(box=what.box, pad=False, corner=corners), outputs, steps


def _difference(what: Case, image: NDArray[Any], corners: NDArray[np.int64], device: str) -> float:
    """Largest difference from the CPU's images, as a part of their largest value; too large is an error."""
    from cryobox import core

    stacks = {}
    for place in ("cpu", device):
        stacks[place] = [np.full((len(corners), size, size), np.nan, what.dtype) for size in what.sizes]
        status, _ = core.cut(image, *_work(what, corners), into=stacks[place], device=place)
        if (status != core.Status.OK).any():
            raise SystemExit(f"{place} refuses {np.count_nonzero(status)} of {len(corners)} particles")
    pairs = zip(stacks["cpu"], stacks[device], strict=True)
    worst = max(float(np.abs(a.astype(float) - b).max() / np.abs(a.astype(float)).max()) for a, b in pairs)
    if not worst < LARGEST_DIFFERENCE[what.dtype]:
        raise SystemExit(f"{device} makes other images than the CPU: {worst:.1e} of the largest value")
    return worst


def _stages(what: Case, image: NDArray[Any], corners: NDArray[np.int64], device: str, rounds: int) -> dict[str, float]:
    """Median milliseconds of the device for one micrograph, by stage. The marks between stages make it slower."""
    from cryobox import core, gpu

    stacks = _stacks(what, len(corners), device, "pinned")
    pixels = _there(image, device, "pinned")
    backend = gpu.backend(device)
    options = core.backend_options(*_work(what, corners))
    laps: list[dict[str, float]] = []
    for _ in range(rounds + 2):
        laps.append({})
        backend.extract(pixels, corners, stacks, stages=laps[-1], **options)
    return {name: float(np.median([lap[name] for lap in laps[2:]])) for name in laps[0]}


def _there(image: NDArray[Any], device: str, place: str) -> Any:
    """A micrograph on the device, in pinned memory, or as it is."""
    from cryobox import gpu

    if place == "device":
        return gpu.resident(image, device, (0, len(image)))
    if place == "cpu":
        return image
    pixels = gpu.pinned(image.nbytes, device).view(image.dtype).reshape(image.shape)
    pixels[...] = image
    return pixels


def _stacks(what: Case, count: int, device: str, place: str) -> list[Any]:
    from cryobox import gpu

    shapes = [(count, size, size) for size in what.sizes]
    dtype = np.dtype(what.dtype)
    if place == "device":
        return [gpu.backend(device).empty(shape, dtype) for shape in shapes]
    if place == "cpu":
        return [np.zeros(shape, dtype) for shape in shapes]
    return [gpu.pinned(int(np.prod(shape)) * dtype.itemsize, device).view(dtype).reshape(shape) for shape in shapes]


class _Rates:
    """Particles per second of threads that call at the same time, each on micrographs in turn."""

    def __init__(
        self, what: Case, images: list[NDArray[Any]], corners: list[NDArray[np.int64]], *, rounds: int, calls: int
    ) -> None:
        if rounds < 2 or rounds % 2:
            raise SystemExit(f"--rounds must be even and at least 2; got {rounds}")
        self._what, self._images, self._corners = what, images, corners
        self._rounds, self._calls = rounds, calls

    def __call__(self, device: str, place: str, callers: int) -> Spread:
        calls = self._callers(device, place, callers)
        rates = []
        with ThreadPoolExecutor(callers) as pool:
            for _ in range(self._rounds + 2):
                start = time.perf_counter()
                done = sum(pool.map(lambda call: call(), calls))
                rates.append(done / (time.perf_counter() - start))
        return spread(rates[2:])  # plans, buffers and clocks have settled then

    def facts_while_busy(self, device: str, callers: int, bus: str) -> dict[str, str]:
        """What nvidia-smi says while the device works: its clocks at rest mean nothing."""
        calls = self._callers(device, "device", callers)
        enough = threading.Event()

        def work(call: Callable[[], int]) -> None:
            while not enough.is_set():
                call()

        with ThreadPoolExecutor(callers) as pool:
            working = [pool.submit(work, call) for call in calls]
            time.sleep(0.5)  # clocks rise slowly
            facts = _facts(bus)
            enough.set()
        for one in working:
            one.result()
        return facts

    def _callers(self, device: str, place: str, count: int) -> list[Callable[[], int]]:
        there = [_there(image, device, place) for image in self._images]
        return [self._caller(device, place, there, number) for number in range(count)]

    def _caller(self, device: str, place: str, there: list[Any], number: int) -> Callable[[], int]:
        from cryobox import core

        stacks = _stacks(self._what, len(self._corners[0]), device, place)  # every micrograph has as many picks

        def call() -> int:
            done = 0
            for i in range(self._calls):
                which = (number + i) % len(there)
                corners = self._corners[which]
                core.cut(there[which], *_work(self._what, corners), into=stacks, device=device)
                done += len(corners)
            return done

        return call


def _bytes_per_particle(what: Case, image: NDArray[Any], corners: list[NDArray[np.int64]]) -> dict[str, float]:
    """What must cross the bus: the rows that a window touches, in their stored type, and the finished images."""
    rows = sum(int(each[:, 0].max()) + what.box - int(each[:, 0].min()) for each in corners)
    item = np.dtype(what.dtype).itemsize
    return {
        "up": rows * image.strides[0] / sum(map(len, corners)),
        "down": float(sum(size * size for size in what.sizes) * item),
    }


def _bus(found: dict[str, Any]) -> float | None:
    """Particles per second that the bus allows, both directions at work at the same time."""
    floors, moved = found["floors"], found["bytes_per_particle"]
    if "problem" in floors:
        return None
    seconds = (
        moved["up"] / floors["upload_gb_s"],
        moved["down"] / floors["download_gb_s"],
        (moved["up"] + moved["down"]) / floors["both_ways_gb_s"],
    )
    return 1e9 / float(max(seconds))


def floors_command(folder: Path) -> list[str]:
    """The compiled gpu_floors.cu, built into `folder` when it is missing or older than its source.

    Raises
    ------
    FileNotFoundError
        Where there is no nvcc or no cuFFT.
    """
    source, program = ROOT / "bench" / "gpu_floors.cu", folder / "gpu_floors"
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        nvcc = os.environ.get("CUDACXX") or shutil.which(
            "nvcc", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/cuda/bin", "/opt/cuda/bin"])
        )
        if nvcc is None:
            raise FileNotFoundError("no nvcc; put it on the PATH or set CUDACXX")
        asked = os.environ.get("CuFFT_ROOT")  # noqa: SIM112, as CMake spells it
        roots = [*([Path(asked)] if asked else []), Path(nvcc).resolve().parents[1]]
        found = [
            (root, path)
            for root in roots
            for place in ("lib", "lib64", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib")
            for path in sorted((root / place).glob("libcufft.so*"))
        ]
        if not found:
            raise FileNotFoundError(f"no cuFFT in {' or '.join(map(str, roots))}; set CuFFT_ROOT")
        folder.mkdir(parents=True, exist_ok=True)
        root, library = found[0]
        # By -l: nvcc does not know what to do with a name like libcufft.so.12, all that NVIDIA's wheel has.
        link = [f"-L{library.parent}", "-l", f":{library.name}", "-Xlinker", "-rpath", "-Xlinker", str(library.parent)]
        command = [nvcc, "-std=c++20", "-O2", f"-I{root}/include", str(source), "-o", str(program), *link]
        subprocess.run(command, check=True)
    return [str(program)]


def _floors(what: Case, folder: Path, device: str) -> dict[str, Any]:
    """GB/s of bus and memory, and particles/s of cuFFT alone; where they cannot be had, the problem."""
    number = device.partition(":")[2] or "0"
    sizes = ",".join(map(str, what.sizes))
    try:
        command = [*floors_command(folder), "--device", number, "--box", str(what.box), "--sizes", sizes]
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        return {"problem": str(error)}
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"problem": done.stderr.strip()}
    floors: dict[str, Any] = json.loads(done.stdout)
    return floors


def _name_again(files: Case, count: int, folder: Path) -> None:
    """Make the files of a case, and names for `count` of them: hard links, in turn. Caches hold far less than they."""
    paths = ensure(folder, files.data).paths
    width = len(paths[0].stem.rpartition("_")[2])
    for number in range(len(paths), count):
        name = paths[0].with_name(f"{paths[0].stem[:-width]}{number:0{width}d}{paths[0].suffix}")
        if not name.exists():
            os.link(paths[number % len(paths)], name)


def _reading(paths: Sequence[Path], workers: int) -> float:
    """Seconds in which so many threads read all files, each into memory of its own that it has touched before."""
    largest = max(path.stat().st_size for path in paths)
    buffers = [np.ones(largest, np.uint8) for _ in range(workers)]

    def read(worker: int) -> None:
        for path in paths[worker::workers]:
            with path.open("rb", buffering=0) as file:
                file.readinto(buffers[worker])  # type: ignore[arg-type]  # of typeshed

    with ThreadPoolExecutor(workers) as pool:
        start = time.perf_counter()
        list(pool.map(read, range(workers)))
        return time.perf_counter() - start


def _writing(folder: Path, count: int, sizes: Sequence[int], workers: int) -> float:
    """Seconds in which so many threads write `count` files of each size."""
    block = memoryview(bytes(max(sizes)))

    def write(worker: int) -> None:
        for number in range(worker, count, workers):
            for size in sizes:
                with (folder / f"{number}_{size}").open("wb", buffering=0) as file:
                    file.write(block[:size])

    with ThreadPoolExecutor(workers) as pool:
        start = time.perf_counter()
        list(pool.map(write, range(workers)))
        return time.perf_counter() - start


def _runs(what: Case, folder: Path, out: Path, device: str, rounds: int) -> dict[str, Any]:
    """Whole runs from page cache, on the GPU and on all cores in turn; start-up and planning are apart."""
    data = ensure(folder, what.data)
    warm_files(data.paths)
    workers = cores()
    ours = out / "bench-gpu"
    arm = [sys.executable, "-m", "bench.arm_cryobox", "--case", what.name, "--workers", str(workers)]
    arm += ["--picks", str(data.picks), "--micrographs", str(data.micrographs), "--out", str(ours / "job")]
    arms = {"cpu": arm, "gpu": [*arm, "--gpu", device]}
    said: dict[str, list[dict[str, float]]] = {name: [] for name in arms}
    floors: dict[str, list[float]] = {"reads": [], "writes": []}
    count = what.data.micrographs
    try:
        for lap in range(rounds):
            for name in arms if lap % 2 == 0 else reversed(arms):
                fresh(ours, count * sum(what.stack_bytes)).release()
                said[name].append(json.loads(execute(arms[name], cwd=data.root).stdout.splitlines()[-1]))
            fresh(ours, count * sum(what.stack_bytes)).release()
            floors["reads"].append(count * what.data.picks / _reading(data.paths, workers))
            floors["writes"].append(count * what.data.picks / _writing(ours, count, what.stack_bytes, workers))
    finally:
        shutil.rmtree(ours, ignore_errors=True)
    seconds = {name: [one["work_seconds"] for one in each] for name, each in said.items()}
    ratios = spread([a / b for a, b in zip(seconds["cpu"], seconds["gpu"], strict=True)])
    return {
        "cpu": _values(spread(seconds["cpu"])),
        "gpu": _values(spread(seconds["gpu"])),
        "cpu_over_gpu": _values(ratios),
        "particles_per_second": count * what.data.picks / spread(seconds["gpu"]).median,
        "floors": {name: spread(rates).median for name, rates in floors.items()},
        "device_start_seconds": _values(spread([one["device_seconds"] for one in said["gpu"]])),
        "micrographs": what.data.micrographs,
        "workers": workers,
    }


if __name__ == "__main__":
    main()
