"""The stages of one micrograph, each alone beside its floor: `python -m bench.stages --data FOLDER --case B`.

Window, forward, crop and inverse, normalize and cast are differences between calls that differ in one option, all on
arrays in memory; reading and writing go through the engine's own reader and writer on a warm page cache.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.arm_numpy import read_micrograph, read_positions
from bench.cases import Case, case
from bench.dataset import ensure
from bench.machine import execute, floors_program, save

__all__ = ["main"]

LAPS = 8  # even: forward and backward through the stages in turn


def main() -> None:
    """Parse the arguments, measure, print the table, save the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--case", default="B")
    arguments = parser.parse_args()
    what = case(arguments.case).with_micrographs(1)
    data = ensure(arguments.data, what.data)
    image = read_micrograph(data.paths[0], what.data)
    (centers,) = read_positions(what.data)
    corners = np.ascontiguousarray(centers - what.box // 2)
    milliseconds = _laps(_core_calls(what, image, corners) | _file_calls(what, data.paths[0], data.root))
    each = {name: value / len(corners) for name, value in milliseconds.items()}
    floors = _transform_floors(what, floors_program(data.root)) if what.crops else {}
    rows = _rows(what, each, floors)
    print(f"case {what.name}, {len(corners)} particles, one thread, ms per particle (least of {LAPS} laps)")
    print(f"{'stage':34s}{'ours':>9s}{'floor':>9s}{'ratio':>8s}  floor is")
    for name, ours, floor, why in rows:
        ratio = f"{ours / floor:8.2f}" if floor else f"{'':8s}"
        print(f"{name:34s}{ours:9.4f}{floor:9.4f}{ratio}  {why}")
    content = [dict(zip(("stage", "ms", "floor_ms", "floor"), row, strict=True)) for row in rows]
    print(f"written to {save('stages', {'case': what.name, 'stages': content})}")


def _laps(calls: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Least milliseconds of each call."""
    least = dict.fromkeys(calls, float("inf"))
    for call in calls.values():
        call()
    names = list(calls)
    for lap in range(LAPS):
        for name in names if lap % 2 == 0 else reversed(names):
            start = time.perf_counter()
            calls[name]()
            least[name] = min(least[name], (time.perf_counter() - start) * 1e3)
    return least


def _core_calls(what: Case, image: NDArray[Any], corners: NDArray[np.int64]) -> dict[str, Callable[[], object]]:
    from cryobox import core
    from cryobox.groups import StoredDtype
    from cryobox.options import Recipe
    from cryobox.windows import Stored, Windows

    def cut(sizes: tuple[int, ...], dtype: StoredDtype, *, normalize: bool, ramp: bool) -> Callable[[], object]:
        # Blocks as the engine uses them, so that the images meet the same caches.
        outputs = [Stored(size=size, dtype=dtype, background_radius=int(0.375 * size)) for size in sizes]
        step = max(1, min(len(corners), (8 << 20) // sum(output.bytes_per_image for output in outputs)))
        blocks = [np.empty((step, size, size), dtype=dtype) for size in sizes]
        steps = Recipe(box=what.box, normalize=normalize, ramp=ramp, invert=what.invert).steps()

        def call() -> None:
            for start in range(0, len(corners), step):
                windows = Windows(box=what.box, pad=False, corner=corners[start : start + step])
                core.cut(image, windows, outputs, steps, into=[block[: len(windows)] for block in blocks])

        return call

    box, size, half = what.box, what.sizes[0], what.sizes[0] // 2
    window = np.empty((box, box), dtype=image.dtype)

    def copy_windows() -> None:
        for y, x in corners.tolist():
            np.copyto(window, image[y : y + box, x : x + box])

    block = np.ones((min(len(corners), (8 << 20) // (4 * size * size)), size, size), dtype=np.float32)

    def pass_over_images() -> None:
        for _ in range(0, len(corners), len(block)):
            np.multiply(block, np.float32(1), out=block)

    half_block = np.empty(block.shape, dtype=np.float16)

    def cast_images() -> None:
        for _ in range(0, len(corners), len(block)):
            half_block[...] = block

    calls: dict[str, Callable[[], object]] = {
        "window": cut((box,), "float32", normalize=False, ramp=False),
        "copy windows": copy_windows,
        "pass": pass_over_images,
        "numpy cast": cast_images,
        "plain": cut((size,), "float32", normalize=False, ramp=False),
        "mean": cut((size,), "float32", normalize=True, ramp=False),
        "ramp": cut((size,), "float32", normalize=True, ramp=True),
        "half": cut((size,), "float16", normalize=True, ramp=True),
    }
    if half >= 16:
        calls["two"] = cut((size, half), "float32", normalize=False, ramp=False)
    return calls


def _file_calls(what: Case, path: Path, folder: Path) -> dict[str, Callable[[], object]]:
    from cryobox.formats.images import PixelReader, read_header
    from cryobox.formats.mrc_stack import StackWriter

    reader, header = PixelReader(), read_header(str(path))
    buffer = memoryview(bytearray(path.stat().st_size))
    size, dtype, count = what.sizes[0], what.dtype, what.data.picks
    step = min(count, (8 << 20) // (size * size * np.dtype(dtype).itemsize))
    block = np.zeros((step, size, size), dtype=dtype)
    target = folder / "stage.mrcs"

    def bare_read() -> None:
        with path.open("rb", buffering=0) as file:
            file.readinto(buffer)

    def write() -> None:
        with StackWriter(target, size=size, dtype=dtype, pixel_size=1.0) as writer:
            for start in range(0, count, step):
                writer.write(block[: min(step, count - start)])
            writer.finish(minimum=0.0, maximum=0.0, mean=0.0, rms=0.0, fsync=False)
        target.unlink()

    def bare_write() -> None:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for start in range(0, count, step):
            os.write(descriptor, block[: min(step, count - start)].data.cast("B"))
        os.close(descriptor)
        target.unlink()

    return {
        "read": lambda: reader.read(str(path), header),
        "bare read": bare_read,
        "write": write,
        "bare write": bare_write,
    }


def _transform_floors(what: Case, program: Path) -> dict[str, float]:
    command = [str(program), "fft", "--box", str(what.box), "--workers", "1", "--particles", "300", "--sizes"]
    size = what.sizes[0]
    first: dict[str, float] = json.loads(execute([*command, str(size)], cwd=program.parent).stdout)
    second: dict[str, float] = json.loads(execute([*command, f"{size},{size // 2}"], cwd=program.parent).stdout)
    return first | {"second_ms": second["inverses_ms"] - first["inverses_ms"]}


def _rows(what: Case, each: dict[str, float], floors: dict[str, float]) -> list[tuple[str, float, float, str]]:
    size = what.sizes[0]
    rows = [
        ("read", each["read"], each["bare read"], "one read() into a reused buffer"),
        ("window, checked, as float32", each["window"], each["copy windows"], "copying the windows' rows"),
    ]
    if floors:
        bare = floors["rows_ms"] + floors["columns_ms"] + floors["inverses_ms"]
        rows.append(("window, forward, crop, inverse", each["plain"], bare, "bare FFTW in cache"))
        if "two" in each:
            name = f"crop and inverse of a second {size // 2}"
            rows.append((name, each["two"] - each["plain"], floors["second_ms"], "bare FFTW in cache"))
    rows += [
        ("normalize without ramp", each["mean"] - each["plain"], each["pass"], "one pass over the images in a block"),
        ("ramp", each["ramp"] - each["mean"], each["pass"], "one pass over the images in a block"),
        ("cast to float16 (more than float32)", each["half"] - each["ramp"], each["numpy cast"], "NumPy's cast"),
        ("write", each["write"], each["bare write"], "write() of the same blocks"),
        ("all in memory", each["half" if what.dtype == "float16" else "ramp"], 0.0, ""),
    ]
    return [(name, round(ours, 5), round(floor, 5), why) for name, ours, floor, why in rows]


if __name__ == "__main__":
    main()
