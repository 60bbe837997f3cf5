"""A small simulated data set, made in seconds: what `cryobox demo`, tests and benchmarks extract from.

Dark asymmetric particles in noisy ice, with an illumination ramp, the ringing of a contrast transfer function and
plausible gray levels; tables as RELION or CryoSPARC would have written them; and a file with the true centers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cryobox.errors import OptionError
from cryobox.units import wavelength

__all__ = ["PARTICLE_BOX", "Dataset", "make_dataset"]

Floats = NDArray[np.float64]

PARTICLE_BOX = 128  # a box that holds a particle (about 80 pixels across) and its surroundings

# The particle: soft balls (y, x, radius, weight) in pixels. A long body, a head bent to one side and a small foot, so
# that rotations, mirror images and half-turns can all be told apart by eye.
_BALLS = np.array(
    [
        [-20.0, -4.0, 9.0, 1.0],
        [-8.0, -1.0, 10.0, 1.1],
        [5.0, 0.0, 10.0, 1.1],
        [18.0, 2.0, 9.0, 1.0],
        [-26.0, 14.0, 8.0, 1.2],
        [-18.0, 25.0, 7.0, 1.2],
        [26.0, -12.0, 6.0, 1.0],
    ]
)
_BALLS[:, :2] -= np.average(_BALLS[:, :2], axis=0, weights=_BALLS[:, 3] * _BALLS[:, 2] ** 2)

_VOLTAGE_KV, _CS_MM, _AMPLITUDE_CONTRAST = 300.0, 2.7, 0.1
_PICK_ERROR = 1.5  # pixels, standard deviation of each coordinate of a pick
_SPACING = 0.75  # of PARTICLE_BOX: the least distance between particles

# Mean and standard deviation of the gray levels: an electron count per pixel as motion correction leaves it, or the
# sums of a camera that stores integers.
_GRAY = {"float32": (14.0, 1.6), "float16": (14.0, 1.6), "uint16": (2800.0, 210.0)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Where the files of a simulated data set are.

    Parameters
    ----------
    folder : Path
        Paths in the tables are relative to it.
    micrographs : Path
        Table of micrographs: micrographs.star, or exposures.csg (with exposures.cs).
    picks : Path
        Table of picks: picks.star, or picks.csg (with picks.cs).
    truth : Path
        .npz with one row per pick, in the order of the table of picks: `micrograph` (its path in the tables),
        `y` and `x` (the true center, in pixels), `angle` (in radians).
    images : tuple of Path
        The micrographs.
    count : int
        Number of picks.
    """

    folder: Path
    micrographs: Path
    picks: Path
    truth: Path
    images: tuple[Path, ...]
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Field:
    """What is in one micrograph: true centers and angles, and the picks, as columns."""

    name: str
    defocus: tuple[float, float, float]  # U, V in Å; angle in degrees
    center: Floats
    angle: Floats
    pick: Floats
    score: Floats


def make_dataset(
    folder: str | Path,
    *,
    micrographs: int = 3,
    shape: tuple[int, int] = (1024, 1440),
    picks: int = 60,
    seed: int = 1,
    dtype: Literal["float32", "uint16", "float16"] = "float32",
    pixel_size: float = 1.4,
    style: Literal["relion", "cryosparc"] = "relion",
    shifts: bool = False,
) -> Dataset:
    """Write a data set into `folder` (made if it is missing). Equal arguments make equal bytes.

    Parameters
    ----------
    micrographs : int
        How many.
    shape : tuple of int
        (ny, nx) of each, in pixels.
    picks : int
        Particles per micrograph; fewer where they do not fit side by side. The first two hang over the edge when cut
        with `PARTICLE_BOX`. Picks have fractions, and are off by a pixel or two, as a picker's are.
    dtype : {"float32", "uint16", "float16"}
        Stored pixels: MRC mode 2, 6 or 12.
    pixel_size : float
        Å per pixel.
    style : {"relion", "cryosparc"}
        STAR tables, or `.cs` with `.csg`.
    shifts : bool
        Add the shifts that an alignment would have found (rlnOriginX/YAngst, or alignments2D/shift): recentering
        leads from the picks to the true centers.

    Returns
    -------
    Dataset

    Raises
    ------
    OptionError
        If a number is not positive, the shape is smaller than `PARTICLE_BOX`, or the type is another.
    """
    if micrographs < 1 or picks < 1:
        raise OptionError(f"a data set needs at least 1 micrograph and 1 pick; got {micrographs} and {picks}")
    if min(shape) < PARTICLE_BOX:
        raise OptionError(f"a simulated micrograph needs at least {PARTICLE_BOX} x {PARTICLE_BOX} pixels; got {shape}")
    if dtype not in _GRAY:
        raise OptionError(f"dtype must be one of {', '.join(_GRAY)}; got {dtype!r}")
    if not (math.isfinite(pixel_size) and pixel_size > 0):
        raise OptionError(f"pixel_size must be a positive number of Å per pixel; got {pixel_size!r}")
    folder = Path(folder)
    subfolder = "micrographs" if style == "relion" else "motioncorrected"
    (folder / subfolder).mkdir(parents=True, exist_ok=True)
    fields, images = [], []
    for index, child in enumerate(np.random.SeedSequence(seed).spawn(micrographs)):
        rng = np.random.default_rng(child)
        field = _make_field(rng, f"{subfolder}/sim_{index + 1:03d}.mrc", shape, picks)
        images.append(folder / field.name)
        _write_mrc(images[-1], _gray_levels(_image(rng, field, shape, pixel_size), dtype), pixel_size)
        fields.append(field)
    truth = folder / "truth.npz"
    np.savez(
        truth,
        micrograph=np.repeat([field.name for field in fields], [len(field.angle) for field in fields]),
        y=np.concatenate([field.center[:, 0] for field in fields]),
        x=np.concatenate([field.center[:, 1] for field in fields]),
        angle=np.concatenate([field.angle for field in fields]),
    )
    write_tables = _write_star if style == "relion" else _write_cs
    micrographs_table, picks_table = write_tables(folder, fields, shape, pixel_size, shifts)
    return Dataset(
        folder=folder,
        micrographs=micrographs_table,
        picks=picks_table,
        truth=truth,
        images=tuple(images),
        count=sum(len(field.angle) for field in fields),
    )


# Pixels --------------------------------------------------------------------------------------------------------------


def _make_field(rng: np.random.Generator, name: str, shape: tuple[int, int], picks: int) -> _Field:
    extent = np.array(shape, np.float64)
    margin = PARTICLE_BOX / 4  # a particle this near to an edge is still wholly in the picture
    # Throw darts, the first two at opposite edges; those too near to an earlier one are lost.
    darts = rng.uniform(margin, extent - margin, (40 * picks + 2, 2))
    darts[0, 0], darts[1, 1] = margin, extent[1] - margin
    kept: list[Floats] = []
    for dart in darts:
        if len(kept) == picks:
            break
        if all(np.hypot(*(dart - other)) >= _SPACING * PARTICLE_BOX for other in kept):
            kept.append(dart)
    center = np.array(kept)
    error = rng.normal(0, _PICK_ERROR, center.shape)
    # STAR files hold six decimals and .cs files float32: what is written is what is true.
    pick: Floats = np.round(np.clip(center + error, 0.0, extent - 1), 3).astype(np.float64)
    score = np.round(np.exp(-(np.hypot(*error.T) ** 2) / 20) * rng.uniform(0.6, 1.0, len(center)), 4)
    defocus_u = float(np.round(rng.uniform(12000, 22000), 1))
    return _Field(
        name=name,
        defocus=(defocus_u, defocus_u - float(np.round(rng.uniform(100, 500), 1)), float(np.round(rng.uniform(0, 90)))),
        center=center,
        angle=rng.uniform(0, 2 * np.pi, len(center)),
        pick=pick,
        score=score,
    )


def _image(rng: np.random.Generator, field: _Field, shape: tuple[int, int], pixel_size: float) -> NDArray[np.float32]:
    """Return the micrograph with the noise's standard deviation as unit: density through the CTF, noise, ramp."""
    density = np.zeros(shape, np.float32)
    for center, angle in zip(field.center, field.angle, strict=True):
        _add_particle(density, center, angle)
    density += rng.standard_normal(shape, np.float32) * np.float32(0.45)  # the ice has structure, too
    spectrum = np.fft.rfft2(density)
    spectrum *= _ctf(shape, pixel_size, field.defocus)
    image = np.fft.irfft2(spectrum, s=shape).astype(np.float32)
    image += rng.standard_normal(shape, np.float32)
    y = np.linspace(-1, 1, shape[0], dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, shape[1], dtype=np.float32)[None, :]
    slope_y, slope_x = rng.uniform(0.3, 0.9, 2) * rng.choice([-1, 1], 2)
    image += np.float32(slope_y) * y + np.float32(slope_x) * x - np.float32(0.3) * (y * y + x * x)
    return image


def _add_particle(density: NDArray[np.float32], center: Floats, angle: float) -> None:
    """Add one particle, turned counter-clockwise in (y, x) by `angle`, at a center with fractions."""
    half = PARTICLE_BOX // 2
    low = np.maximum(np.floor(center).astype(int) - half, 0)
    high = np.minimum(np.floor(center).astype(int) + half, density.shape)
    y = np.arange(low[0], high[0]) - center[0]
    x = np.arange(low[1], high[1]) - center[1]
    c, s = math.cos(angle), math.sin(angle)
    patch = np.zeros((len(y), len(x)))
    for ball_y, ball_x, radius, weight in _BALLS:
        # A Gaussian is separable in any orientation.
        ball = np.exp(-(((y - (c * ball_y - s * ball_x)) / (0.7 * radius)) ** 2))
        patch += weight * ball[:, None] * np.exp(-(((x - (s * ball_y + c * ball_x)) / (0.7 * radius)) ** 2))
    density[low[0] : high[0], low[1] : high[1]] += patch.astype(np.float32)


def _ctf(shape: tuple[int, int], pixel_size: float, defocus: tuple[float, float, float]) -> Floats:
    """CTF on the half-spectrum: -sin(gamma) with an envelope, so that dense particles are dark (conventions, "CTF")."""
    length = wavelength(_VOLTAGE_KV * 1e3)
    u, v, degrees = defocus
    y = np.fft.fftfreq(shape[0], pixel_size)[:, None]
    x = np.fft.rfftfreq(shape[1], pixel_size)[None, :]
    s2 = y * y + x * x
    along = (x * math.cos(math.radians(degrees)) + y * math.sin(math.radians(degrees))) ** 2
    gamma = -np.pi * length * (u * along + v * (s2 - along))
    gamma += np.pi / 2 * _CS_MM * 1e7 * length**3 * s2 * s2
    gamma -= math.atan(_AMPLITUDE_CONTRAST / math.sqrt(1 - _AMPLITUDE_CONTRAST**2))
    ctf: Floats = np.sin(gamma) * np.exp(-80.0 * s2 / 4) * _CONTRAST
    return ctf


_CONTRAST = 2.2  # of a ball's center against the noise's standard deviation, before the CTF takes its share


def _gray_levels(image: NDArray[np.float32], dtype: str) -> NDArray[Any]:
    mean, sd = _GRAY[dtype]
    gray = image * np.float32(sd) + np.float32(mean)
    if dtype == "uint16":
        gray = np.clip(np.rint(gray), 0, 65535)
    return gray.astype(np.dtype(dtype).newbyteorder("<"))


def _write_mrc(path: Path, pixels: NDArray[Any], pixel_size: float) -> None:
    """Write an MRC file of one image, header and pixels, as motion correction programs do."""
    ny, nx = pixels.shape
    mode = {"f4": 2, "u2": 6, "f2": 12}[pixels.dtype.str[1:]]
    wide = pixels.astype(np.float64)
    header = np.zeros(256, "<i4")
    floats = header.view("<f4")
    header[0:4] = nx, ny, 1, mode
    header[7:10] = nx, ny, 1
    floats[10:13] = nx * pixel_size, ny * pixel_size, pixel_size
    floats[13:16] = 90.0
    header[16:19] = 1, 2, 3
    floats[19:22] = wide.min(), wide.max(), wide.mean()
    header[27] = 20140
    header.view("S4")[52:54] = b"MAP ", b"\x44\x44\x00\x00"
    floats[54] = wide.std()
    header[55] = 1
    header.view(np.uint8)[224:304] = np.frombuffer(b"cryobox: simulated".ljust(80), np.uint8)
    with path.open("wb") as file:
        header.tofile(file)
        pixels.tofile(file)


# Tables --------------------------------------------------------------------------------------------------------------


def _shift(field: _Field) -> Floats:
    """Where the image of each pick must move to be centered, in pixels: cut at the truncated pick, find the truth."""
    shift: Floats = np.trunc(field.pick) - field.center
    return shift


def _star_block(name: str, columns: dict[str, list[str]]) -> str:
    lines = ["", "# version 50001", "", f"data_{name}", "", "loop_"]
    lines += [f"_{tag} #{number}" for number, tag in enumerate(columns, 1)]
    lines += [" ".join(row) for row in zip(*columns.values(), strict=True)]
    return "\n".join([*lines, "", ""])


def _write_star(
    folder: Path, fields: list[_Field], shape: tuple[int, int], pixel_size: float, shifts: bool
) -> tuple[Path, Path]:
    optics = {
        "rlnOpticsGroupName": ["opticsGroup1"],
        "rlnOpticsGroup": ["1"],
        "rlnMicrographOriginalPixelSize": [f"{pixel_size:.6f}"],
        "rlnVoltage": [f"{_VOLTAGE_KV:.6f}"],
        "rlnSphericalAberration": [f"{_CS_MM:.6f}"],
        "rlnAmplitudeContrast": [f"{_AMPLITUDE_CONTRAST:.6f}"],
        "rlnMicrographPixelSize": [f"{pixel_size:.6f}"],
    }
    micrographs = {
        "rlnMicrographName": [field.name for field in fields],
        "rlnOpticsGroup": ["1" for _ in fields],
        "rlnCtfFigureOfMerit": ["0.150000" for _ in fields],
        "rlnCtfMaxResolution": ["4.000000" for _ in fields],
        "rlnDefocusU": [f"{field.defocus[0]:.6f}" for field in fields],
        "rlnDefocusV": [f"{field.defocus[1]:.6f}" for field in fields],
        "rlnCtfAstigmatism": [f"{field.defocus[0] - field.defocus[1]:.6f}" for field in fields],
        "rlnDefocusAngle": [f"{field.defocus[2]:.6f}" for field in fields],
    }
    pick = np.concatenate([field.pick for field in fields])
    particles = {
        "rlnCoordinateX": [f"{x:.6f}" for x in pick[:, 1]],
        "rlnCoordinateY": [f"{y:.6f}" for y in pick[:, 0]],
        "rlnAutopickFigureOfMerit": [f"{score:.6f}" for field in fields for score in field.score],
        "rlnMicrographName": [field.name for field in fields for _ in field.score],
        "rlnOpticsGroup": ["1"] * len(pick),
    }
    if shifts:
        origin = np.concatenate([_shift(field) for field in fields]) * pixel_size
        particles["rlnOriginXAngst"] = [f"{x:.6f}" for x in origin[:, 1]]
        particles["rlnOriginYAngst"] = [f"{y:.6f}" for y in origin[:, 0]]
    micrographs_table, picks_table = folder / "micrographs.star", folder / "picks.star"
    micrographs_table.write_text(_star_block("optics", optics) + _star_block("micrographs", micrographs))
    picks_table.write_text(_star_block("optics", optics) + _star_block("particles", particles))
    return micrographs_table, picks_table


def _records(columns: dict[str, NDArray[Any]]) -> NDArray[np.void]:
    """Packed records of equally long columns, the form of a `.cs` table."""
    dtype = np.dtype([(name, column.dtype, column.shape[1:]) for name, column in columns.items()])
    records = np.zeros(len(next(iter(columns.values()))), dtype)
    for name, column in columns.items():
        records[name] = column
    return records


def _group(path: Path, name: str, kind: str, records: NDArray[np.void], metafile: str) -> None:
    """Write a `.csg`: which slots there are, and which file holds each."""
    slots = dict.fromkeys(field.split("/")[0] for field in records.dtype.names or () if "/" in field)
    lines = [
        "created: 2024-05-01 12:00:00.000000",
        "group:",
        f"  description: Simulated {name}",
        f"  name: {name}",
        f"  title: Simulated {name}",
        f"  type: {kind}",
        "results:",
    ]
    for slot in slots:
        lines += [
            f"  {slot}:",
            f"    metafile: '>{metafile}'",
            f"    num_items: {len(records)}",
            f"    type: {kind}.{slot}",
        ]
    path.write_text("\n".join([*lines, "version: v4.6.2", ""]))


def _write_cs(
    folder: Path, fields: list[_Field], shape: tuple[int, int], pixel_size: float, shifts: bool
) -> tuple[Path, Path]:
    n = len(fields)
    f4, u4 = np.float32, np.uint32
    # Ids are spread over 64 bits as CryoSPARC's are, yet the same in every run.
    micrograph_uid = np.random.default_rng(n).integers(1, 2**63, n, dtype=np.uint64)
    names = np.array([field.name.encode() for field in fields])
    defocus = np.array([field.defocus for field in fields])
    exposures = _records(
        {
            "uid": micrograph_uid,
            "micrograph_blob/path": names,
            "micrograph_blob/idx": np.zeros(n, u4),
            "micrograph_blob/shape": np.tile(np.array(shape, u4), (n, 1)),
            "micrograph_blob/psize_A": np.full(n, pixel_size, f4),
            "micrograph_blob/format": np.full(n, b"MRC/2"),
            "micrograph_blob/is_background_subtracted": np.zeros(n, u4),
            "micrograph_blob/vmin": np.zeros(n, f4),
            "micrograph_blob/vmax": np.zeros(n, f4),
            "micrograph_blob/import_sig": np.zeros(n, np.uint64),
            "mscope_params/accel_kv": np.full(n, _VOLTAGE_KV, f4),
            "mscope_params/cs_mm": np.full(n, _CS_MM, f4),
            "mscope_params/total_dose_e_per_A2": np.full(n, 50.0, f4),
            "mscope_params/phase_plate": np.zeros(n, u4),
            "mscope_params/neg_stain": np.zeros(n, u4),
            "mscope_params/exp_group_id": np.ones(n, u4),
            "ctf/type": np.full(n, b"imported"),
            "ctf/exp_group_id": np.ones(n, u4),
            "ctf/accel_kv": np.full(n, _VOLTAGE_KV, f4),
            "ctf/cs_mm": np.full(n, _CS_MM, f4),
            "ctf/amp_contrast": np.full(n, _AMPLITUDE_CONTRAST, f4),
            "ctf/df1_A": defocus[:, 0].astype(f4),
            "ctf/df2_A": defocus[:, 1].astype(f4),
            "ctf/df_angle_rad": np.radians(defocus[:, 2]).astype(f4),
            "ctf/phase_shift_rad": np.zeros(n, f4),
        }
    )
    which = np.repeat(np.arange(n), [len(field.score) for field in fields])
    count = len(which)
    pick = np.concatenate([field.pick for field in fields])
    columns: dict[str, NDArray[Any]] = {
        "uid": np.random.default_rng([n, count]).integers(1, 2**63, count, dtype=np.uint64),
        "location/micrograph_uid": micrograph_uid[which],
        "location/exp_group_id": np.ones(count, u4),
        "location/micrograph_path": names[which],
        "location/micrograph_shape": np.tile(np.array(shape, u4), (count, 1)),
        "location/micrograph_psize_A": np.full(count, pixel_size, f4),
        "location/center_x_frac": (pick[:, 1] / shape[1]).astype(f4),
        "location/center_y_frac": (pick[:, 0] / shape[0]).astype(f4),
        "location/min_dist_A": np.full(count, _SPACING * PARTICLE_BOX * pixel_size, f4),
        "pick_stats/ncc_score": np.concatenate([field.score for field in fields]).astype(f4),
        "pick_stats/power": np.full(count, 700.0, f4),
        "pick_stats/template_idx": np.zeros(count, u4),
        "pick_stats/angle_rad": np.zeros(count, f4),
    }
    if shifts:
        angle = np.concatenate([field.angle for field in fields])
        columns |= {
            "alignments2D/split": (np.arange(count) % 2).astype(u4),
            "alignments2D/shift": np.concatenate([_shift(field) for field in fields])[:, ::-1].astype(f4),
            "alignments2D/pose": (angle % (2 * np.pi)).astype(f4),
            "alignments2D/psize_A": np.full(count, pixel_size, f4),
            "alignments2D/class": np.zeros(count, u4),
        }
    particles = _records(columns)
    for name, records in (("exposures", exposures), ("picks", particles)):
        with (folder / f"{name}.cs").open("wb") as file:
            np.save(file, records, allow_pickle=False)
    micrographs_table, picks_table = folder / "exposures.csg", folder / "picks.csg"
    _group(micrographs_table, "exposures", "exposure", exposures, "exposures.cs")
    _group(picks_table, "particles", "particle", particles, "picks.cs")
    return micrographs_table, picks_table
