"""Where the factors of a filter rise and fall: one rule for extraction and for images that are stored already."""

from __future__ import annotations

import math

from cryobox.errors import OptionError
from cryobox.options import Steps

__all__ = ["check_resolutions", "edge", "filter_of"]


def edge(side: int, pixel_size: float, resolution: float, width: float) -> tuple[float, float]:
    """Where the edge at a resolution in Å begins and ends, in Fourier pixels of images of `side` pixels.

    The radius of the resolution is rounded to a Fourier pixel, as RELION's filters have it; the edge goes `width` / 2
    to both sides, at most to 0 and to Nyquist.
    """
    radius = math.floor(side * pixel_size / resolution + 0.5)
    return max(0.0, radius - width / 2), min(side / 2, radius + width / 2)


def check_resolutions(steps: Steps, pixel_size: float, name: str) -> None:
    """Raise `OptionError` where a micrograph has no resolution as fine as is asked for."""
    for flag, resolution in (("--lowpass", steps.lowpass), ("--highpass", steps.highpass)):
        if resolution is not None and resolution < 2 * pixel_size:
            raise OptionError(
                f"{flag} must be at least 2 pixels, {2 * pixel_size:.4g} Å, for {name} with {pixel_size:.4g} Å per "
                f"pixel; got {resolution:g}"
            )


def filter_of(steps: Steps, side: int, pixel_size: float) -> tuple[float, float, float, float] | None:
    """Begin and end of what rises and of what falls, as the core wants them; None: there is no filter."""
    if steps.lowpass is None and steps.highpass is None:
        return None
    rise = (-2.0, -1.0) if steps.highpass is None else edge(side, pixel_size, steps.highpass, steps.filter_width)
    fall = (math.inf, math.inf) if steps.lowpass is None else edge(side, pixel_size, steps.lowpass, steps.filter_width)
    return (*rise, *fall)
