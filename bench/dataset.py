"""Generates the data sets of the benchmark in a folder that the caller names, and reuses them there.

Micrographs are noise on an illumination ramp: a few distinct ones, each written many times as files of their own (no
hard links, no shared extents), since a page cache holds files, not contents. A manifest beside them says what they are.
"""

from __future__ import annotations

import json
import struct
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.cases import DataSpec, MicrographDtype

__all__ = ["DataSet", "ensure", "positions"]

VERSION = 1  # of this generator; another number makes every data set anew
SEED = 20240611
DISTINCT = 3
PIXEL_SIZE = 1.1
MRC_MODE = {"int8": 0, "float32": 2, "uint16": 6, "float16": 12}
# Mean and sd of the pixels: what a camera's counts and a motion-corrected sum look like.
GRAY = {"int8": (0.0, 20.0), "float32": (10.0, 1.0), "uint16": (1000.0, 30.0), "float16": (10.0, 1.0)}


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSet:
    """Where a generated data set lies. Names in its tables are relative to `root`.

    Parameters
    ----------
    root : Path
        The folder that the caller named; programs are run from here.
    micrographs, picks : Path
        STAR tables.
    micrographs_cs, picks_cs : Path
        The same as CryoSPARC tables.
    paths : tuple of Path
        The micrographs' files.
    coordinates : Path
        Folder with one `<micrograph's name>_pick.star` per micrograph, for RELION (not made for tables with shifts).
    """

    root: Path
    micrographs: Path
    picks: Path
    micrographs_cs: Path
    picks_cs: Path
    paths: tuple[Path, ...]
    coordinates: Path


def ensure(root: Path, spec: DataSpec) -> DataSet:
    """Return the data set of `spec` under `root`, made if it is not there."""
    root = root.resolve()
    names = _micrograph_names(spec)
    _ensure_micrographs(root, spec, names)
    folder = root / f"{spec.name}-{spec.micrographs}"
    coordinates = folder / "picks"
    data = DataSet(
        root=root,
        micrographs=folder / "micrographs.star",
        picks=folder / "picks.star",
        micrographs_cs=folder / "micrographs.cs",
        picks_cs=folder / "picks.cs",
        paths=tuple(root / name for name in names),
        coordinates=coordinates,
    )
    description = {"version": VERSION, "seed": SEED} | asdict(spec) | {"shape": list(spec.shape)}
    tables = (data.micrographs, data.picks, data.micrographs_cs, data.picks_cs)
    manifest = folder / "manifest.json"
    if _is_whole(manifest, description, tables):
        return data
    (coordinates / _micrograph_folder(spec)).mkdir(parents=True, exist_ok=True)
    y, x = positions(spec)
    shifts = _shifts(spec) if spec.shifts else None
    _write_micrographs_star(data.micrographs, names)
    _write_picks_star(data.picks, names, y, x, shifts)
    if shifts is None:
        for name, rows_y, rows_x in zip(names, y.reshape(-1, spec.picks), x.reshape(-1, spec.picks), strict=True):
            _write_coordinates(coordinates / f"{name.removesuffix('.mrc')}_pick.star", rows_y, rows_x)
    _write_cs(data, spec, names, y, x, shifts)
    manifest.write_text(json.dumps({"spec": description, "sizes": [table.stat().st_size for table in tables]}))
    return data


def _is_whole(manifest: Path, description: dict[str, object], files: tuple[Path, ...]) -> bool:
    if not manifest.exists():
        return False
    found = json.loads(manifest.read_text())
    sizes = [file.stat().st_size if file.exists() else -1 for file in files]
    return bool(found["spec"] == description and found["sizes"] == sizes)


def _micrograph_folder(spec: DataSpec) -> str:
    return f"micrographs/{spec.shape[0]}x{spec.shape[1]}_{spec.dtype}"


def _micrograph_names(spec: DataSpec) -> list[str]:
    return [f"{_micrograph_folder(spec)}/mic_{number:05d}.mrc" for number in range(spec.micrographs)]


def _ensure_micrographs(root: Path, spec: DataSpec, names: list[str]) -> None:
    folder = root / _micrograph_folder(spec)
    manifest = folder / "manifest.json"
    description = {"version": VERSION, "seed": SEED, "shape": list(spec.shape), "dtype": spec.dtype}
    known = manifest.exists() and json.loads(manifest.read_text()) == description
    missing = [
        number
        for number, name in enumerate(names)
        if not (known and (root / name).exists() and (root / name).stat().st_size == spec.micrograph_bytes)
    ]
    if not missing:
        return
    folder.mkdir(parents=True, exist_ok=True)
    manifest.unlink(missing_ok=True)
    files = [_mrc_bytes(spec.shape, spec.dtype, SEED + which) for which in range(DISTINCT)]
    for number in missing:
        (root / names[number]).write_bytes(files[number % DISTINCT])
    manifest.write_text(json.dumps(description))


def _mrc_bytes(shape: tuple[int, int], dtype: MicrographDtype, seed: int) -> bytes:
    ny, nx = shape
    mean, deviation = GRAY[dtype]
    rng = np.random.default_rng(seed)
    image = rng.standard_normal(shape, dtype=np.float32)
    image += np.linspace(-0.5, 0.5, ny, dtype=np.float32)[:, None]
    image *= np.float32(deviation)
    image += np.float32(mean)
    if dtype in ("int8", "uint16"):
        limits = np.iinfo(dtype)
        image = np.clip(np.rint(image), limits.min, limits.max)
    header = bytearray(1024)
    struct.pack_into("<10i", header, 0, nx, ny, 1, MRC_MODE[dtype], 0, 0, 0, nx, ny, 1)
    struct.pack_into("<6f", header, 40, nx * PIXEL_SIZE, ny * PIXEL_SIZE, PIXEL_SIZE, 90.0, 90.0, 90.0)
    struct.pack_into("<3i", header, 64, 1, 2, 3)
    struct.pack_into("<3f", header, 76, float(image.min()), float(image.max()), float(image.mean()))
    struct.pack_into("<i", header, 108, 20140)
    header[208:216] = b"MAP DD\x00\x00"
    struct.pack_into("<f", header, 216, float(image.std()))
    return bytes(header) + image.astype(np.dtype(dtype).newbyteorder("<")).tobytes()


def positions(spec: DataSpec) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Centers (y, x) of all picks, micrograph after micrograph."""
    rng = np.random.default_rng(SEED + 100)
    total = spec.micrographs * spec.picks
    ny, nx = spec.shape
    y = rng.integers(spec.margin, ny - spec.margin, total)
    x = rng.integers(spec.margin, nx - spec.margin, total)
    return y, x


def _shifts(spec: DataSpec) -> NDArray[np.float64]:
    """(y, x) in Å, about 3 pixels wide and never beyond the margin."""
    rng = np.random.default_rng(SEED + 200)
    return np.clip(rng.normal(0, 3, (spec.micrographs * spec.picks, 2)), -12, 12) * PIXEL_SIZE


def _loop(name: str, columns: list[str]) -> str:
    tags = "".join(f"_{column} #{number}\n" for number, column in enumerate(columns, 1))
    return f"\n# version 30001\n\ndata_{name}\n\nloop_\n{tags}"


def _optics(pixel_column: str, *more: tuple[str, str]) -> str:
    fields = [
        ("rlnOpticsGroupName", "opticsGroup1"),
        ("rlnOpticsGroup", "1"),
        ("rlnMicrographOriginalPixelSize", f"{PIXEL_SIZE:.6f}"),
        ("rlnVoltage", "300.000000"),
        ("rlnSphericalAberration", "2.700000"),
        ("rlnAmplitudeContrast", "0.100000"),
        (pixel_column, f"{PIXEL_SIZE:.6f}"),
        *more,
    ]
    return _loop("optics", [name for name, _ in fields]) + " ".join(value for _, value in fields) + "\n"


CTF_COLUMNS = ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle", "rlnCtfFigureOfMerit", "rlnCtfMaxResolution")
CTF_VALUES = "12000.000000 11800.000000 35.000000 0.120000 4.500000"


def _write_micrographs_star(path: Path, names: list[str]) -> None:
    text = _optics("rlnMicrographPixelSize")
    text += _loop("micrographs", ["rlnMicrographName", "rlnOpticsGroup", *CTF_COLUMNS])
    path.write_text(text + "".join(f"{name} 1 {CTF_VALUES}\n" for name in names))


def _write_coordinates(path: Path, y: NDArray[np.int64], x: NDArray[np.int64]) -> None:
    rows = "".join(f"{column:.6f} {row:.6f}\n" for row, column in zip(y.tolist(), x.tolist(), strict=True))
    path.write_text(_loop("", ["rlnCoordinateX", "rlnCoordinateY"]) + rows)


def _write_picks_star(
    path: Path,
    names: list[str],
    y: NDArray[np.int64],
    x: NDArray[np.int64],
    shifts: NDArray[np.float64] | None,
) -> None:
    each = len(y) // len(names)
    if shifts is None:
        with path.open("w") as file:
            file.write(_optics("rlnMicrographPixelSize"))
            file.write(_loop("particles", ["rlnCoordinateX", "rlnCoordinateY", "rlnMicrographName", "rlnOpticsGroup"]))
            for row, (at_y, at_x) in enumerate(zip(y.tolist(), x.tolist(), strict=True)):
                file.write(f"{at_x:.6f} {at_y:.6f} {names[row // each]} 1\n")
        return
    columns = [
        "rlnCoordinateX",
        "rlnCoordinateY",
        "rlnMicrographName",
        "rlnOpticsGroup",
        "rlnImageName",
        *CTF_COLUMNS,
        "rlnPhaseShift",
        "rlnCtfBfactor",
        "rlnCtfScalefactor",
        "rlnAngleRot",
        "rlnAngleTilt",
        "rlnAnglePsi",
        "rlnOriginXAngst",
        "rlnOriginYAngst",
        "rlnClassNumber",
        "rlnNormCorrection",
        "rlnRandomSubset",
        "rlnLogLikeliContribution",
        "rlnMaxValueProbDistribution",
        "rlnNrOfSignificantSamples",
        "rlnGroupNumber",
    ]
    rng = np.random.default_rng(SEED + 300)
    with path.open("w") as file:
        file.write(
            _optics("rlnImagePixelSize", ("rlnImageSize", "16"), ("rlnImageDimensionality", "2")),
        )
        file.write(_loop("particles", columns))
        for number, name in enumerate(names):
            rows = slice(number * each, (number + 1) * each)
            angles = rng.uniform(-180, 180, (each, 3)).tolist()
            picks = zip(y[rows].tolist(), x[rows].tolist(), shifts[rows].tolist(), angles, strict=True)
            stem = Path(name).stem
            file.write(
                "".join(
                    f"{at_x:.6f} {at_y:.6f} {name} 1 {slot:06d}@Extract/{stem}.mrcs {CTF_VALUES} 0.000000 0.000000 "
                    f"1.000000 {rot:.6f} {tilt:.6f} {psi:.6f} {shift_x:.6f} {shift_y:.6f} 1 0.891387 {1 + slot % 2} "
                    f"258678.900000 0.051189 450 {number + 1}\n"
                    for slot, (at_y, at_x, (shift_y, shift_x), (rot, tilt, psi)) in enumerate(picks, 1)
                )
            )


def _write_cs(
    data: DataSet,
    spec: DataSpec,
    names: list[str],
    y: NDArray[np.int64],
    x: NDArray[np.int64],
    shifts: NDArray[np.float64] | None,
) -> None:
    path_type = f"S{max(map(len, names))}"
    ctf = [
        ("ctf/type", "S8"),
        ("ctf/exp_group_id", "<u4"),
        ("ctf/accel_kv", "<f4"),
        ("ctf/cs_mm", "<f4"),
        ("ctf/amp_contrast", "<f4"),
        ("ctf/df1_A", "<f4"),
        ("ctf/df2_A", "<f4"),
        ("ctf/df_angle_rad", "<f4"),
        ("ctf/phase_shift_rad", "<f4"),
        ("ctf/scale", "<f4"),
        ("ctf/scale_const", "<f4"),
        ("ctf/shift_A", "<f4", (2,)),
        ("ctf/tilt_A", "<f4", (2,)),
        ("ctf/trefoil_A", "<f4", (2,)),
        ("ctf/tetra_A", "<f4", (4,)),
        ("ctf/anisomag", "<f4", (4,)),
        ("ctf/bfactor", "<f4"),
    ]
    known_ctf = {
        "ctf/type": b"imported",
        "ctf/accel_kv": 300,
        "ctf/cs_mm": 2.7,
        "ctf/amp_contrast": 0.1,
        "ctf/df1_A": 12000,
        "ctf/df2_A": 11800,
        "ctf/df_angle_rad": 0.6,
        "ctf/scale": 1,
        "ctf/scale_const": 1,
    }
    uids = np.arange(1, len(names) + 1, dtype=np.uint64) * np.uint64(1_000_003)
    encoded = np.array([name.encode() for name in names], dtype=path_type)

    exposures = np.zeros(
        len(names),
        dtype=[
            ("uid", "<u8"),
            ("micrograph_blob/path", path_type),
            ("micrograph_blob/idx", "<u4"),
            ("micrograph_blob/shape", "<u4", (2,)),
            ("micrograph_blob/psize_A", "<f4"),
            ("micrograph_blob/format", "S8"),
            ("mscope_params/accel_kv", "<f4"),
            ("mscope_params/cs_mm", "<f4"),
            ("mscope_params/exp_group_id", "<u4"),
            *ctf,
        ],
    )
    exposures["uid"] = uids
    exposures["micrograph_blob/path"] = encoded
    exposures["micrograph_blob/shape"] = spec.shape
    exposures["micrograph_blob/psize_A"] = PIXEL_SIZE
    exposures["micrograph_blob/format"] = b"MRC"
    exposures["mscope_params/accel_kv"] = 300
    exposures["mscope_params/cs_mm"] = 2.7

    alignments = [
        ("alignments3D/split", "<u4"),
        ("alignments3D/shift", "<f4", (2,)),
        ("alignments3D/pose", "<f4", (3,)),
        ("alignments3D/psize_A", "<f4"),
        ("alignments3D/error", "<f4"),
        ("alignments3D/class", "<u4"),
    ]
    particles = np.zeros(
        len(y),
        dtype=[
            ("uid", "<u8"),
            ("location/micrograph_uid", "<u8"),
            ("location/exp_group_id", "<u4"),
            ("location/micrograph_path", path_type),
            ("location/micrograph_shape", "<u4", (2,)),
            ("location/micrograph_psize_A", "<f4"),
            ("location/center_x_frac", "<f4"),
            ("location/center_y_frac", "<f4"),
            ("location/min_dist_A", "<f4"),
            *ctf,
            *(alignments if shifts is not None else []),
        ],
    )
    of = np.repeat(np.arange(len(names)), spec.picks)
    particles["uid"] = np.arange(1, len(y) + 1, dtype=np.uint64) * np.uint64(7_919)
    particles["location/micrograph_uid"] = uids[of]
    particles["location/micrograph_path"] = encoded[of]
    particles["location/micrograph_shape"] = spec.shape
    particles["location/micrograph_psize_A"] = PIXEL_SIZE
    particles["location/center_x_frac"] = (x + 1e-3) / spec.shape[1]
    particles["location/center_y_frac"] = (y + 1e-3) / spec.shape[0]
    if shifts is not None:
        particles["alignments3D/shift"] = shifts[:, ::-1] / PIXEL_SIZE
        particles["alignments3D/psize_A"] = PIXEL_SIZE
    for table, path in ((exposures, data.micrographs_cs), (particles, data.picks_cs)):
        for name, value in known_ctf.items():
            table[name] = value
        with path.open("wb") as file:
            np.save(file, table, allow_pickle=False)
