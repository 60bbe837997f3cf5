"""One GPU on case B beside its floors and this host's cores: `python -m bench.gpu --data FOLDER --out /dev/shm/FOLDER`.

Rates with the micrograph and the images on the device, from and to pinned memory, and of whole runs from page cache;
milliseconds by stage from the device's own events; floors: bus and memory bandwidth, cuFFT alone (through CuPy, where
it is installed). The images are compared with the CPU's first: a benchmark of different work would be worthless.
"""

from __future__ import annotations

import argparse
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.arm_numpy import read_micrograph, read_positions
from bench.cases import Case, case
from bench.dataset import ensure
from bench.machine import Spread, cores, execute, fresh, save, spread, warm_files

__all__ = ["main"]

ROUNDS = 8  # even
CALLS = 12  # of one round and worker, on micrographs in turn, so that no cache holds the input
ROTATED = 6  # micrographs
FACTS = (
    "name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,power.draw,pcie.link.gen.current,pcie.link.width.current"
)


def main() -> None:
    """Parse the arguments, measure, print the table, save the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, help="on tmpfs, for whole runs; without it there are none")
    parser.add_argument("--case", default="B")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--callers", default="1,2,4,8", help="threads that call at the same time")
    arguments = parser.parse_args()
    what = case(arguments.case)
    data = ensure(arguments.data, what.with_micrographs(ROTATED).data)
    images = [read_micrograph(path, what.data) for path in data.paths[:ROTATED]]
    corners = [
        np.ascontiguousarray(each - what.box // 2) for each in read_positions(what.with_micrographs(ROTATED).data)
    ]
    found: dict[str, Any] = {"case": what.name, "device": arguments.device, "facts": _facts()}
    found["difference"] = _difference(what, images[0], corners[0], arguments.device)
    found["floors"] = _floors(what)
    found["stages_ms"] = _stages(what, images[0], corners[0], arguments.device)
    for callers in map(int, arguments.callers.split(",")):
        for place in ("device", "pinned"):
            rate = _rate(what, images, corners, arguments.device, place, callers)
            found[f"{place} w{callers}"] = {"particles_per_second": vars_of(rate)}
            print(f"{place:8s} {callers} callers: {rate.text(0)} particles/s", flush=True)
    _say_floors(what, found)
    if arguments.out is not None:
        found["runs"] = _runs(what, arguments.data, arguments.out)
    print(f"written to {save('gpu', found)}")


def vars_of(values: Spread) -> dict[str, float]:
    """A spread as plain values."""
    return {"median": values.median, "low": values.low, "high": values.high}


def _facts() -> str:
    command = ["nvidia-smi", f"--query-gpu={FACTS}", "--format=csv"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _options(what: Case) -> dict[str, Any]:
    return {
        "box": what.box,
        "radii": [float(int(0.375 * size)) for size in what.sizes],
        "pad": False,
        "normalize": True,
        "ramp": True,
        "invert": what.invert,
        "scale_const": None,
        "threads": 1,
    }


def _difference(what: Case, image: NDArray[Any], corners: NDArray[np.int64], device: str) -> float:
    """Largest difference from the CPU's images, as a part of their largest value; too large is an error."""
    from cryobox.core import extract_windows

    stacks = {}
    for place in ("cpu", device):
        stacks[place] = [np.full((len(corners), size, size), np.nan, what.dtype) for size in what.sizes]
        extract_windows(image, corners, stacks[place], device=place, **_options(what))
    pairs = zip(stacks["cpu"], stacks[device], strict=True)
    worst = max(float(np.abs(a.astype(float) - b).max() / np.abs(a.astype(float)).max()) for a, b in pairs)
    if not worst < (4e-6 if what.dtype == "float32" else 2e-3):
        raise SystemExit(f"{device} makes other images than the CPU: {worst:.1e} of the largest value")
    return worst


def _stages(what: Case, image: NDArray[Any], corners: NDArray[np.int64], device: str) -> dict[str, float]:
    """Median milliseconds of the device for one micrograph, by stage."""
    from cryobox import gpu

    stacks = _pinned_stacks(what, len(corners), device)
    pixels = _pinned_image(image, device)
    options = _options(what) | {"scale_const": 0.0}
    laps: list[dict[str, float]] = []
    for _ in range(10):
        laps.append({})
        gpu.backend(device).extract(pixels, corners, stacks, stages=laps[-1], **options)
    medians = {name: float(np.median([lap[name] for lap in laps[2:]])) for name in laps[0]}
    print("stage ms: " + ", ".join(f"{name} {value:.3f}" for name, value in medians.items()))
    return medians


def _pinned_image(image: NDArray[Any], device: str) -> NDArray[Any]:
    from cryobox import gpu

    pixels = gpu.pinned(image.nbytes, device).view(image.dtype).reshape(image.shape)
    pixels[...] = image
    return pixels


def _pinned_stacks(what: Case, count: int, device: str) -> list[NDArray[Any]]:
    from cryobox import gpu

    item = np.dtype(what.dtype).itemsize
    return [
        gpu.pinned(count * size * size * item, device).view(what.dtype).reshape(count, size, size)
        for size in what.sizes
    ]


def _rate(
    what: Case, images: list[NDArray[Any]], corners: list[NDArray[np.int64]], device: str, place: str, callers: int
) -> Spread:
    """Particles per second of threads that call at the same time, each on micrographs in turn."""
    from cryobox import gpu
    from cryobox.core import extract_windows

    backend = gpu.backend(device)
    there: list[Any] = [
        gpu.resident(image, device, (0, len(image))) if place == "device" else _pinned_image(image, device)
        for image in images
    ]
    most = max(map(len, corners))

    def caller(number: int) -> Callable[[], int]:
        stacks: list[Any] = _pinned_stacks(what, most, device)
        if place == "device":
            stacks = [backend.empty((most, size, size), what.dtype) for size in what.sizes]

        def call() -> int:
            done = 0
            for i in range(CALLS):
                which = (number + i) % len(there)
                count = len(corners[which])
                some = stacks if count == most else [stack[:count] for stack in stacks]
                extract_windows(there[which], corners[which], some, device=device, **_options(what))
                done += count
            return done

        return call

    calls = [caller(number) for number in range(callers)]
    rates = []
    with ThreadPoolExecutor(callers) as pool:
        for _ in range(ROUNDS + 2):
            start = time.perf_counter()
            done = sum(pool.map(lambda call: call(), calls))
            rates.append(done / (time.perf_counter() - start))
    return spread(rates[2:])


def _floors(what: Case) -> dict[str, float]:
    """GB/s of the bus and of the device's memory, and particles/s of cuFFT alone; empty without CuPy."""
    try:
        import cupy as cp  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        print("no CuPy: floors are not measured")
        return {}
    count = 1 << 28
    a, b = cp.ones(count, cp.uint8), cp.zeros(count, cp.uint8)
    host = cp.cuda.alloc_pinned_memory(count)
    stream = cp.cuda.get_current_stream()

    def gigabytes(call: Callable[[], object], moved: int) -> float:
        return moved / _seconds(cp, call) / 1e9

    floors = {
        "memory_gb_s": gigabytes(lambda: b.data.copy_from_device_async(a.data, count, stream), 2 * count),
        "upload_gb_s": gigabytes(lambda: a.data.copy_from_host_async(host.ptr, count, stream), count),
        "download_gb_s": gigabytes(lambda: a.data.copy_to_host_async(host.ptr, count, stream), count),
    }
    group, box, size = 64, what.box, what.sizes[0]
    rows = cp.random.standard_normal((group * box, box), dtype=cp.float32)
    columns = cp.ones((group * (size // 2 + 1), box), cp.complex64)
    half = cp.ones((group, size, size // 2 + 1), cp.complex64)

    def transforms() -> None:
        cp.fft.rfft(rows)
        cp.fft.fft(columns)
        cp.fft.irfft2(half, s=(size, size))

    floors["cufft_particles_s"] = group / _seconds(cp, transforms)
    return floors


def _seconds(cp: Any, call: Callable[[], object]) -> float:
    """Median seconds of the device."""
    laps = []
    for _ in range(12):
        begin, end = cp.cuda.Event(), cp.cuda.Event()
        begin.record()
        call()
        end.record()
        end.synchronize()
        laps.append(cp.cuda.get_elapsed_time(begin, end) / 1e3)
    return float(np.median(laps[2:]))


def _say_floors(what: Case, found: dict[str, Any]) -> None:
    floors = found["floors"]
    if not floors:
        return
    item = 2 if what.dtype == "float16" else 4
    up = (what.data.micrograph_bytes - 1024) / what.data.picks
    down = sum(size * size for size in what.sizes) * item
    # Both directions of the bus work at the same time.
    bus = 1 / max(up / (floors["upload_gb_s"] * 1e9), down / (floors["download_gb_s"] * 1e9))
    found["bus_particles_s"] = bus
    print(f"floors: {floors}; the bus allows {bus:.0f} particles/s")


def _runs(what: Case, data: Path, out: Path) -> dict[str, Any]:
    """Whole runs from page cache, on the GPU and on all cores in turn."""
    from bench.endtoend import cli_command

    made = ensure(data, what.data)
    warm_files(made.paths)
    workers = cores()
    arms = {
        "cpu": cli_command(what, made, out, workers),
        "gpu": [*cli_command(what, made, out, workers), "--gpus", "1"],
    }
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for lap in range(ROUNDS):
        for name in arms if lap % 2 == 0 else reversed(arms):
            fresh(out, what.data.micrographs * sum(what.stack_bytes))
            seconds[name].append(execute(arms[name], cwd=made.root).seconds)
    ratios = spread([a / b for a, b in zip(seconds["cpu"], seconds["gpu"], strict=True)])
    result: dict[str, Any] = {name: vars_of(spread(values)) for name, values in seconds.items()}
    print(f"whole runs, {workers} workers: the GPU is {ratios.text(2)} times as fast as all cores")
    return result | {"cpu_over_gpu": vars_of(ratios), "workers": workers}


if __name__ == "__main__":
    main()
