"""What each option costs: the time of one micrograph of case B with it, as a ratio to the plain one, in turn with it.

`python -m bench.options [NAME ...]`. Noise in memory instead of a file, one thread; seconds of the processor, since
other work on the machine costs less of those. A new option is a line in `OPTIONS`.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bench.cases import Case, case
from bench.machine import save
from cryobox import core
from cryobox.options import Recipe, Steps
from cryobox.windows import Stored, Windows

__all__ = ["OPTIONS", "main"]

ROUNDS = 10  # even: the order alternates


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One option: what differs from the plain case, and the ratio that it may cost."""

    limit: float
    steps: dict[str, Any] | None = None
    neighbors: bool = False
    hot_pixels: float | None = None
    subpixel: bool = False
    ctfs: Literal["none", "one", "each"] = "none"  # one for all, or one a particle


OPTIONS = {
    "dust": Asked(limit=1.1, steps={"white_dust": 4.0, "black_dust": 4.0}),
    "measures": Asked(limit=1.1, steps={"measures": True}),
    "crowded background": Asked(limit=1.3, neighbors=True),
    "hot pixels": Asked(limit=1.3, hot_pixels=8.0),
    "subpixel": Asked(limit=1.05, subpixel=True),
    "lowpass": Asked(limit=1.05, steps={"lowpass": 20.0}),
    "flip": Asked(limit=1.35, steps={"ctf": "flip"}, ctfs="one"),
    "flip, each": Asked(limit=1.7, steps={"ctf": "flip"}, ctfs="each"),
    "premultiply": Asked(limit=1.35, steps={"ctf": "premultiply"}, ctfs="one"),
    "premultiply, each": Asked(limit=1.7, steps={"ctf": "premultiply"}, ctfs="each"),
}


def main() -> None:
    """Measure, print a table, save the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(OPTIONS), metavar="NAME", help=", ".join(OPTIONS))
    names = parser.parse_args().names
    what = case("B")
    rng = np.random.default_rng(0)
    image = rng.normal(1000, 50, what.data.shape).astype(np.float32)
    image.ravel()[rng.integers(0, image.size, image.size // 100_000)] = 3000  # as much as a detector has
    margin = what.data.margin
    places = [rng.integers(margin, side - margin, what.data.picks) for side in what.data.shape]
    corner = np.stack(places, axis=1) - what.box // 2
    calls = {name: _Call(what, image, corner, OPTIONS[name]) for name in names}
    plain = _Call(what, image, corner, Asked(limit=1.0))
    print(f"case {what.name}: {what.box} -> {what.sizes}, {len(corner)} particles, one thread, {ROUNDS} rounds")
    rows = []
    for name, call in calls.items():
        ratios = _ratios(plain, call)
        low, middle, high = np.percentile(ratios, [25, 50, 75]).tolist()
        limit = OPTIONS[name].limit
        verdict = "ok" if high <= limit else "over" if low > limit else "not resolved"
        print(f"{name:22s}{middle:7.3f}  ({low:.3f} to {high:.3f}), allowed {limit:g}: {verdict}")
        rows.append({"option": name, "ratio": middle, "low": low, "high": high, "allowed": limit})
    print(f"written to {save('options', {'case': what.name, 'options': rows})}")


class _Call:
    def __init__(self, what: Case, image: NDArray[Any], corner: NDArray[np.int64], asked: Asked) -> None:
        recipe = Recipe(box=what.box, sizes=what.sizes, invert=what.invert)
        self._steps: Steps = replace(recipe.steps(), **(asked.steps or {}))
        self._outputs = [
            Stored(size=size, dtype="float32", background_radius=recipe.radius_in_pixels(size, what.box, np.nan))
            for size in what.sizes
        ]
        centers = (corner + what.box // 2).astype(np.float64)
        near = centers[np.argsort(centers[:, 0], kind="stable")] if asked.neighbors else None
        self._windows = Windows(
            box=what.box, pad=False, corner=corner, neighbors=near, seed=1, pixel_size=1.0,
            residual=np.random.default_rng(2).uniform(-0.5, 0.5, corner.shape) if asked.subpixel else None,
            ctf=None if asked.ctfs == "none" else _fits(len(corner), apart=asked.ctfs == "each"),
        )  # fmt: skip
        self._into = [np.empty((len(corner), size, size), np.float32) for size in what.sizes]
        self._original, self._image, self._hot = image, image.copy(), asked.hot_pixels

    def seconds(self) -> float:
        self._image[:] = self._original  # as if it were read anew
        begin = time.process_time()
        if self._hot is not None:
            core.repair_hot_pixels(self._image, self._hot, seed=1)
        core.cut(self._image, self._windows, self._outputs, self._steps, into=self._into)
        return time.process_time() - begin


def _fits(count: int, *, apart: bool) -> NDArray[np.float64]:
    """The CTF of each particle, as `windows.CTF` has it."""
    fits = np.tile((300.0, 2.7, 0.1, 15000.0, 14500.0, 30.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0), (count, 1))
    if apart:
        fits[:, 3:5] += np.random.default_rng(3).uniform(-3000, 3000, (count, 1))
    return fits


def _ratios(plain: _Call, other: _Call) -> list[float]:
    plain.seconds(), other.seconds()
    found = []
    for lap in range(ROUNDS):
        if lap % 2:
            one, two = plain.seconds(), other.seconds()
        else:
            two, one = other.seconds(), plain.seconds()
        found.append(two / one)
    return found


if __name__ == "__main__":
    main()
