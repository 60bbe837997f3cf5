"""Two small sets of the same particles, as STAR or `.cs` with stacks, and one kind of difference planted at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synth import write_cs, write_mrc, write_star

SHAPE = (900, 1000)  # (ny, nx) of the micrographs
SIZE = 16
NAMES = tuple(f"MotionCorr/job002/mic_{k}.mrc" for k in range(3))


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Particles as columns; `images[i]` is stored as number `slot[i]` of the stack of its micrograph."""

    uid: NDArray[np.uint64]
    micrograph: NDArray[np.int64]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    slot: NDArray[np.int64]
    images: NDArray[np.float32]
    defocus_u: NDArray[np.float64]
    defocus_v: NDArray[np.float64]
    angle: NDArray[np.float64]
    shift_x: NDArray[np.float64]
    shift_y: NDArray[np.float64]
    group: NDArray[np.int64]
    names: tuple[str, ...] = NAMES
    pixel_size: float = 1.25
    voltage: float = 300.0
    phase_shift: float | None = None
    stack_job: str = field(default="Extract/job1")

    def __len__(self) -> int:
        return len(self.x)

    def take(self, rows: Any) -> Rows:
        """Some rows, in another order or several times."""
        columns = {name: value[rows] for name, value in vars(self).items() if isinstance(value, np.ndarray)}
        return replace(self, **columns)


def rows(n: int = 30, *, seed: int = 0) -> Rows:
    """Particles at least 25 pixels apart, so that positions tell them apart."""
    rng = np.random.default_rng(seed)
    cells = rng.permutation(24 * 24)[:n]
    micrograph = np.sort(rng.integers(0, len(NAMES), n))
    slot = np.concatenate([np.arange(np.sum(micrograph == k)) for k in range(len(NAMES))])
    defocus = rng.uniform(8000, 20000, n).round(2)
    return Rows(
        uid=rng.integers(1, 2**63, n).astype(np.uint64),
        micrograph=micrograph,
        x=100 + cells % 24 * 30 + rng.integers(0, 500, n) / 100,
        y=100 + cells // 24 * 30 + rng.integers(0, 500, n) / 100,
        slot=slot,
        images=rng.normal(0, 1, (n, SIZE, SIZE)).astype(np.float32),
        defocus_u=defocus,
        defocus_v=defocus - 400,
        angle=rng.uniform(0, 180, n).round(2),
        shift_x=rng.uniform(-0.5, 0.5, n).round(3),
        shift_y=rng.uniform(-0.5, 0.5, n).round(3),
        group=micrograph % 2,
    )


def write(folder: Path, some: Rows, kind: str = "star") -> Path:
    """Write table and stacks; the path of the table."""
    suffix = ".mrcs" if kind == "star" else ".mrc"
    stacks = [f"{some.stack_job}/mic_{k}{suffix}" for k in range(len(some.names))]
    for k, stack in enumerate(stacks):
        own = np.flatnonzero(some.micrograph == k)
        images = np.zeros((int(some.slot[own].max(initial=0)) + 1, *some.images.shape[1:]), some.images.dtype)
        images[some.slot[own]] = some.images[own]
        write_mrc(folder / stack, images, pixel_size=some.pixel_size, stack=True)
    if kind == "star":
        return write_star(folder / some.stack_job / "particles.star", _blocks(some, stacks))
    return write_cs(folder / some.stack_job / "particles.cs", _fields(some, [Path(stack).name for stack in stacks]))


def _blocks(some: Rows, stacks: list[str]) -> dict[str, dict[str, Any]]:
    groups = sorted(set(some.group.tolist()))
    number = {group: k + 1 for k, group in enumerate(groups)}
    n = len(groups)
    optics = {
        "rlnOpticsGroup": list(number.values()),
        "rlnOpticsGroupName": [f"optics{group}" for group in groups],
        "rlnVoltage": [some.voltage] * n,
        "rlnSphericalAberration": [2.7] * n,
        "rlnAmplitudeContrast": [0.1] * n,
        "rlnImagePixelSize": [some.pixel_size] * n,
        "rlnImageSize": [some.images.shape[1]] * n,
        "rlnImageDimensionality": [2] * n,
    }
    columns: dict[str, Any] = {
        "rlnMicrographName": [some.names[k] for k in some.micrograph],
        "rlnImageName": [f"{s + 1:06d}@{stacks[k]}" for s, k in zip(some.slot, some.micrograph, strict=True)],
        "rlnCoordinateX": some.x.tolist(),
        "rlnCoordinateY": some.y.tolist(),
        "rlnOriginXAngst": some.shift_x.tolist(),
        "rlnOriginYAngst": some.shift_y.tolist(),
        "rlnDefocusU": some.defocus_u.tolist(),
        "rlnDefocusV": some.defocus_v.tolist(),
        "rlnDefocusAngle": some.angle.tolist(),
        "rlnOpticsGroup": [number[group] for group in some.group.tolist()],
    }
    if some.phase_shift is not None:
        columns["rlnPhaseShift"] = [some.phase_shift] * len(some)
    return {"optics": optics, "particles": columns}


def _fields(some: Rows, stacks: list[str]) -> dict[str, NDArray[Any]]:
    n, shift = len(some), np.stack([some.shift_x, some.shift_y], axis=1) / some.pixel_size
    return {
        "uid": some.uid,
        "blob/path": np.array([f">{stacks[k]}".encode() for k in some.micrograph]),
        "blob/idx": some.slot.astype("<u4"),
        "blob/shape": np.full((n, 2), some.images.shape[1], "<u4"),
        "blob/psize_A": np.full(n, some.pixel_size, "<f4"),
        "location/micrograph_path": np.array([some.names[k].encode() for k in some.micrograph]),
        "location/micrograph_shape": np.tile(np.array(SHAPE, "<u4"), (n, 1)),
        "location/center_x_frac": (some.x / SHAPE[1]).astype("<f4"),
        "location/center_y_frac": (some.y / SHAPE[0]).astype("<f4"),
        "ctf/exp_group_id": some.group.astype("<u4") + 7,
        "ctf/accel_kv": np.full(n, some.voltage, "<f4"),
        "ctf/cs_mm": np.full(n, 2.7, "<f4"),
        "ctf/amp_contrast": np.full(n, 0.1, "<f4"),
        "ctf/df1_A": some.defocus_u.astype("<f4"),
        "ctf/df2_A": some.defocus_v.astype("<f4"),
        "ctf/df_angle_rad": np.radians(some.angle).astype("<f4"),
        "ctf/phase_shift_rad": np.full(n, np.radians(some.phase_shift or 0.0), "<f4"),
        "alignments3D/shift": shift.astype("<f4"),
        "alignments3D/psize_A": np.full(n, some.pixel_size, "<f4"),
    }


@dataclass(frozen=True, kw_only=True)
class Plant:
    """A difference: what makes B of A's rows, what is then told to differ, and in how many rows or pairs."""

    name: str
    change: Callable[[Rows], Rows]
    told: tuple[str, ...]
    count: int


def at(some: Rows, name: str, row: int, by: float) -> Rows:
    """One value changed."""
    values = getattr(some, name).copy()
    values[row] += by
    return replace(some, **{name: values})


def swapped_images(some: Rows) -> Rows:
    """Two rows of one micrograph with each other's image."""
    first, second = np.flatnonzero(some.micrograph == some.micrograph[0])[:2]
    images = some.images.copy()
    images[[first, second]] = images[[second, first]]
    return replace(some, images=images)


def doubled(some: Rows) -> Rows:
    """One row twice; the second with a uid of its own, since a `.cs` with a uid twice is refused."""
    found = some.take(np.append(np.arange(len(some)), [6]))
    found.uid[-1] += np.uint64(1)
    return found


def regrouped(some: Rows) -> Rows:
    group = some.group.copy()
    group[4] = 1 - group[4]
    return replace(some, group=group)


def only(name: str) -> str:
    return f"rows that only {name} has"


PLANTS = (
    Plant(name="a moved coordinate", change=lambda r: at(r, "x", 3, 0.4), told=("position",), count=1),
    Plant(name="a moved shift", change=lambda r: at(r, "shift_y", 5, 0.2), told=("shift",), count=1),
    Plant(name="a shifted defocus", change=lambda r: at(r, "defocus_v", 7, 30), told=("defocus V",), count=1),
    Plant(name="a turned angle", change=lambda r: at(r, "angle", 2, 1.5), told=("defocus angle",), count=1),
    Plant(name="a phase shift", change=lambda r: replace(r, phase_shift=90.0), told=("phase shift",), count=30),
    Plant(name="another voltage", change=lambda r: replace(r, voltage=200.0), told=("voltage",), count=30),
    Plant(name="another pixel size", change=lambda r: replace(r, pixel_size=1.3), told=("image pixel size",), count=30),
    Plant(name="other optics", change=regrouped, told=("optics groups",), count=1),
    Plant(name="swapped images", change=swapped_images, told=("pixels",), count=2),
    Plant(name="inverted contrast", change=lambda r: replace(r, images=-r.images), told=("pixels",), count=30),
    Plant(
        name="scaled pixels", change=lambda r: replace(r, images=r.images * np.float32(1.5)), told=("pixels",), count=30
    ),
    Plant(
        name="another size",
        change=lambda r: replace(r, images=r.images[:, 2:-2, 2:-2]),
        told=("image size", "image sizes"),
        count=30,
    ),
    Plant(name="missing rows", change=lambda r: r.take(np.delete(np.arange(30), [4, 9])), told=(only("A"),), count=2),
    Plant(name="doubled rows", change=doubled, told=(only("B"),), count=1),
)
