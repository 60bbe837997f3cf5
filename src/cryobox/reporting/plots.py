"""The report's plots, each an image that a page can hold: SVG for lines, JPEG for pixels."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Histogram", "boxes_on_micrograph", "histogram", "jpeg", "map_of_picks", "spectrum", "throughput"]

Floats = NDArray[np.float64]
Histogram = tuple[str, Floats]

BLUE, ORANGE, GRAY, RED = "#2563a8", "#c2571a", "#6b7280", "#b91c1c"
MAP_BINS = 48
JPEG_QUALITY = 72


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(width, height), layout="constrained")
        return figure, figure.subplots()


def _svg(figure: Figure) -> str:
    """The figure as the address of an image that holds itself; the same figure gives the same text."""
    import matplotlib as mpl

    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "cryobox", "svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def jpeg(levels: NDArray[np.uint8]) -> str:
    """A gray picture as the address of an image that holds itself."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(levels).save(buffer, format="JPEG", quality=JPEG_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def histogram(series: Sequence[Histogram], label: str, *, bins: int = 40, counted: str = "micrographs") -> str:
    """One or two histograms on the same bins; the outermost 0.5 % on either side are gathered in the last bins."""
    figure, axes = _figure(4.2, 2.4)
    every = np.concatenate([values[np.isfinite(values)] for _, values in series])
    low, high = np.percentile(every, (0.5, 99.5)) if len(every) else (0.0, 1.0)
    if high <= low:
        low, high = low - 0.5, low + 0.5
    edges = np.linspace(low, high, bins + 1)
    for (name, values), color in zip(series, (GRAY, BLUE) if len(series) > 1 else (BLUE,), strict=True):
        inside = np.clip(values[np.isfinite(values)], low, high)
        axes.hist(inside, bins=edges, color=color, alpha=0.7, label=name)  # type: ignore[arg-type]
    axes.set_xlabel(label)
    axes.set_ylabel(counted)
    if len(series) > 1:
        axes.legend(frameon=False)
    return _svg(figure)


def spectrum(series: Sequence[tuple[str, Floats, Floats]], nyquist: Sequence[tuple[str, float]]) -> str:
    """Power against spatial frequency in 1/Å, with the Nyquist frequencies of the stored sizes."""
    figure, axes = _figure(6.4, 3.0)
    for (name, frequency, power), color in zip(series, (GRAY, BLUE, ORANGE), strict=False):
        axes.semilogy(frequency, power, color=color, label=name, linewidth=1.4)
    top = max((float(frequency[-1]) for _, frequency, _ in series), default=0.1)
    for name, at in nyquist:
        axes.axvline(at, color=RED, linewidth=0.9, linestyle=":")
        axes.annotate(
            name,
            (at, 0.97),
            xycoords=("data", "axes fraction"),
            rotation=90,
            ha="right",
            va="top",
            fontsize=7,
            color=RED,
        )
    axes.set_xlim(0, top * 1.04)
    axes.set_xlabel("spatial frequency, 1/Å")
    axes.set_ylabel("power")
    axes.legend(frameon=False, loc="center", bbox_to_anchor=(0.5, 0.4))
    return _svg(figure)


def map_of_picks(x: Floats, y: Floats, title: str, *, color: str, aspect: float) -> str:
    """How many picks fall where, in parts of the micrograph's sides; row 0 is on top, as images are shown."""
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.ticker import MaxNLocator

    figure, axes = _figure(3.6, 3.2)
    counts, _, _ = np.histogram2d(y, x, bins=MAP_BINS, range=((0, 1), (0, 1)))
    shades = LinearSegmentedColormap.from_list("shades", ["#ffffff", color])
    image = axes.imshow(
        counts,
        extent=(0, 1, 1, 0),
        cmap=shades,
        aspect=aspect,
        interpolation="nearest",
        vmin=0,
        vmax=max(1, counts.max()),
    )
    figure.colorbar(image, ax=axes, shrink=0.6, ticks=MaxNLocator(nbins=4, integer=True))
    axes.set_title(title, fontsize=9)
    axes.set_xlabel("x, part of the width")
    axes.set_ylabel("y, part of the height")
    return _svg(figure)


def throughput(seconds: Floats, particles: Floats, floor_per_second: float) -> str:
    """Particles done against time, with the line that reading and writing alone would have followed."""
    figure, axes = _figure(6.4, 2.8)
    unit, name = (60.0, "minutes") if seconds[-1] > 180 else (1.0, "seconds")
    axes.plot(seconds / unit, particles, color=BLUE, linewidth=1.4, label="this run")
    if np.isfinite(floor_per_second) and floor_per_second > 0:
        end = min(float(seconds[-1]), float(particles[-1]) / floor_per_second)
        axes.plot([0, end / unit], [0, end * floor_per_second], color=GRAY, linestyle="--", linewidth=1.2,
                  label="if only reading and writing took time")  # fmt: skip
    axes.set_xlabel(name)
    axes.set_ylabel("particles")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, loc="lower right")
    return _svg(figure)


def boxes_on_micrograph(
    levels: NDArray[np.uint8],
    corners: Floats,
    side: float,
    kept: NDArray[np.bool_],
    width: int,
    *,
    lines: Floats | None = None,
    tubes: Sequence[Floats] = (),
) -> str:
    """A micrograph's thumbnail with the boxes of its picks: kept ones blue, others orange.

    `corners`: (y, x). `lines`: red ones, from where to where, shape (n, 2, 2), (y, x) likewise. `tubes`: the helices,
    red lines through the centers of their segments.
    """
    from PIL import Image, ImageDraw

    picture = Image.fromarray(levels).convert("RGB")
    scale = width / picture.width
    picture = picture.resize((width, max(1, round(picture.height * scale))))
    draw = ImageDraw.Draw(picture)
    for (y, x), (to_y, to_x) in (lines * scale).tolist() if lines is not None else ():
        draw.line((x, y, to_x, to_y), fill=RED, width=2)
    for color, chosen in ((ORANGE, ~kept), (BLUE, kept)):
        for y, x in (corners[chosen] * scale).tolist():
            draw.rectangle((x, y, x + side * scale, y + side * scale), outline=color, width=2)
    for tube in tubes:
        line = [(x, y) for y, x in (tube * scale).tolist()]
        draw.line(line, fill=RED, width=3)
        for x, y in line:
            draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=RED)
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=JPEG_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
