"""The passes of one call under NVIDIA's profiler: `ncu ... python -m bench.gpu_passes call`, then `... table FILE.csv`.

`call` extracts case B or A from micrographs on the device, three times, in one thread; `table` prints the medians of
what `ncu --csv` noted of each kernel. METRICS are what `bench/on_gpu.sh` asks it for.
"""

from __future__ import annotations

import argparse
import csv
import re
import statistics
from collections import defaultdict
from pathlib import Path

import numpy as np

from bench.cases import case

__all__ = ["METRICS", "main"]

METRICS = {
    "gpu__time_duration.sum": "us",
    "dram__bytes_read.sum": "MB read",
    "dram__bytes_write.sum": "MB written",
    "lts__t_sector_hit_rate.pct": "L2 hits %",
    "sm__warps_active.avg.pct_of_peak_sustained_active": "warps %",
    "launch__registers_per_thread": "registers",
    "launch__grid_size": "blocks",
}
_UNIT = {"us": 1e-3, "MB read": 1e-6, "MB written": 1e-6}
_PASSES = re.compile(r"WindowSums|Gather|ToColumns|Crop|FinishImages|Clear")


def main() -> None:
    """Parse the arguments; call, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["call", "table", "metrics"])
    parser.add_argument("file", type=Path, nargs="?")
    parser.add_argument("--case", default="B")
    parser.add_argument("--device", default="cuda:0")
    arguments = parser.parse_args()
    if arguments.what == "metrics":
        print(",".join(METRICS))
    elif arguments.what == "call":
        call(arguments.case, arguments.device)
    else:
        print(table(arguments.file.read_text()))


def call(name: str, device: str) -> None:
    """Three calls of one case on the device."""
    from cryobox import core, gpu
    from cryobox.options import Recipe
    from cryobox.windows import Stored, Windows

    what = case(name)
    rng = np.random.default_rng(1)
    shape = what.data.shape
    image = gpu.resident(rng.standard_normal(shape, np.float32) + 10, device, (0, shape[0]))
    corners = rng.integers(0, min(shape) - what.box, (what.data.picks, 2))
    outputs = [Stored(size=size, dtype=what.dtype, background_radius=int(0.375 * size)) for size in what.sizes]
    into = [gpu.backend(device).empty((len(corners), size, size), what.dtype) for size in what.sizes]
    steps = Recipe(box=what.box, invert=what.invert).steps()
    for _ in range(3):
        core.cut(image, Windows(box=what.box, pad=False, corner=corners), outputs, steps, into=into, device=device)


def table(text: str) -> str:
    """Medians of each kernel's metrics, kernels in the order of their first launch."""
    rows = [line for line in text.splitlines() if line.startswith('"')]
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in csv.DictReader(rows):
        known = _PASSES.search(row["Kernel Name"])
        name = known.group() if known else row["Kernel Name"][:44]
        try:
            found[name][row["Metric Name"]].append(float(row["Metric Value"].replace(",", "")))
        except ValueError:
            continue  # the row of units
    titles = list(METRICS.values())
    lines = [f"{'kernel':46s}{'launches':>9s}" + "".join(f"{title:>12s}" for title in titles)]
    for name, metrics in found.items():
        values = [statistics.median(metrics[metric]) if metrics[metric] else float("nan") for metric in METRICS]
        shown = [value * _UNIT.get(title, 1) for value, title in zip(values, titles, strict=True)]
        lines.append(f"{name:46s}{len(next(iter(metrics.values()))):9d}" + "".join(f"{one:12.1f}" for one in shown))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
