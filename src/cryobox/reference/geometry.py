"""Where boxes go, literally."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "EDGE",
    "NOT_FINITE",
    "NO_CONTRAST",
    "OK",
    "OUTSIDE",
    "Floats",
    "Recentered",
    "adjusted_defocus",
    "depth_of_point",
    "edge_status",
    "point_in_image",
    "recenter",
    "window",
]

# What becomes of a pick. The words of the `rejected` tables, spelled out since this module imports nothing of ours.
OK = "ok"
EDGE = "box over the edge"
OUTSIDE = "box outside the micrograph"
NOT_FINITE = "pixels that are not finite"
NO_CONTRAST = "no contrast"

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recentered:
    """Where the box of one particle goes; every field is (y, x), in pixels of the micrograph that is read."""

    base: tuple[int, int]
    r: tuple[int, int]
    center: tuple[int, int]
    residual: tuple[float, float]


def _round_half_away(value: float) -> int:
    return int(math.copysign(math.floor(abs(value) + 0.5), value))


def recenter(
    position: tuple[float, float],
    *,
    shift: tuple[float, float] = (0.0, 0.0),
    shift_pixel_size: float = 1.0,
    pixel_size: float = 1.0,
    grid_shape: tuple[int, int] | None = None,
    read_shape: tuple[int, int] | None = None,
    from_fractions: bool = False,
    rounding: Literal["truncate", "nearest"] = "truncate",
) -> Recentered:
    """Move the box of one particle by its shift (conventions, "Geometry" and "Recentering").

    `base` is the position truncated toward zero (after adding 1e-3 in magnitude where it came from float32 fractions).
    Where the micrograph that is read has another shape than the grid the pick was made on, the truncated position is
    scaled to it; the whole part is the base, and the fraction that is left joins the shift. `s` is the shift times
    alignment pixel size over micrograph pixel size; `r` is 0 where |s| <= 0.5 + 1e-4, else s rounded half away from
    zero; the new center is base - r, and the residual s - r.

    Parameters
    ----------
    position : tuple of float
        (y, x) in pixels of `grid_shape`.
    shift : tuple of float
        (y, x) in units of `shift_pixel_size`: where the image must move to be centered.
    shift_pixel_size, pixel_size : float
        Å per unit of the shift, Å per pixel of the micrograph that is read.
    grid_shape, read_shape : tuple of int, optional
        (ny, nx) that the pick was made on, and of the file that is read.
    from_fractions : bool
        Whether the position is a float32 fraction times a shape.
    rounding : {"truncate", "nearest"}
        "nearest" rounds the position half away from zero instead of truncating it.
    """
    base, r, center, residual = [], [], [], []
    for axis in (0, 1):
        value = float(position[axis])
        if rounding == "nearest":
            whole = _round_half_away(value)
        else:
            whole = math.trunc(value + math.copysign(1e-3, value) if from_fractions else value)
        s = float(shift[axis]) * shift_pixel_size / pixel_size
        if grid_shape is not None and read_shape is not None and grid_shape != read_shape:
            scaled_numerator = whole * read_shape[axis]
            scaled = math.trunc(scaled_numerator / grid_shape[axis])
            s -= (scaled_numerator - scaled * grid_shape[axis]) / grid_shape[axis]
            whole = scaled
        move = 0 if abs(s) <= 0.5 + 1e-4 else _round_half_away(s)
        base.append(whole)
        r.append(move)
        center.append(whole - move)
        residual.append(s - move)
    return Recentered(
        base=(base[0], base[1]),
        r=(r[0], r[1]),
        center=(center[0], center[1]),
        residual=(residual[0], residual[1]),
    )


def point_in_image(rot: float, tilt: float, psi: float, point: tuple[float, float, float]) -> tuple[float, float]:
    """(y, x) at which a point of the reference, (x, y, z) from its center, appears in the image of a particle.

    Angles in degrees, as rlnAngleRot, Tilt, Psi; the unit of the result is that of `point`.
    """
    cr, sr = math.cos(math.radians(rot)), math.sin(math.radians(rot))
    ct, st = math.cos(math.radians(tilt)), math.sin(math.radians(tilt))
    cp, sp = math.cos(math.radians(psi)), math.sin(math.radians(psi))
    x, y, z = point
    shown_x = (cp * ct * cr - sp * sr) * x + (cp * ct * sr + sp * cr) * y - cp * st * z
    shown_y = (-sp * ct * cr - cp * sr) * x + (-sp * ct * sr + cp * cr) * y + sp * st * z
    return shown_y, shown_x


def depth_of_point(rot: float, tilt: float, point: tuple[float, float, float]) -> float:
    """Third coordinate of a point in the view of a particle, as in `point_in_image`; psi does not matter."""
    x, y, z = point
    along = math.cos(math.radians(rot)) * x + math.sin(math.radians(rot)) * y
    return math.sin(math.radians(tilt)) * along + math.cos(math.radians(tilt)) * z


def adjusted_defocus(defocus: float, depth: float, sign: int = -1) -> float:
    """The defocus, U or V, of a point at a depth in the view; all in Å. The sign is disputed (docs/faq.md)."""
    return defocus + sign * depth


def edge_status(shape: tuple[int, int], corner: tuple[int, int], box: int, edges: Literal["reject", "pad"]) -> str:
    """Say whether a box may be cut: `OK`, `EDGE` or `OUTSIDE`.

    An exact fit is inside. A box without any pixel of the image is `OUTSIDE` under either rule; one that hangs over
    the edge is `EDGE` under "reject", and fine under "pad".
    """
    inside = all(0 <= int(start) and int(start) + box <= n for start, n in zip(corner, shape, strict=True))
    touching = all(int(start) < n and int(start) + box > 0 for start, n in zip(corner, shape, strict=True))
    if not touching:
        return OUTSIDE
    return OK if inside or edges == "pad" else EDGE


def window(
    image: NDArray[Any], corner: tuple[int, int], box: int, edges: Literal["reject", "pad"] = "reject"
) -> Floats:
    """Cut rows corner[0] ... corner[0] + box - 1 and columns alike, as float64.

    Under "pad" an index beyond an edge means the nearest pixel.

    Raises
    ------
    ValueError
        If `edge_status` is not `OK`; the message is the status.
    """
    height, width = image.shape
    status = edge_status((height, width), corner, box, edges)
    if status != OK:
        raise ValueError(status)
    out = np.empty((box, box), np.float64)
    for i in range(box):
        y = min(max(int(corner[0]) + i, 0), height - 1)
        columns = [min(max(int(corner[1]) + j, 0), width - 1) for j in range(box)]
        out[i] = image[y, columns]
    return out
