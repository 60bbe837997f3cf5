"""Random tables of particles, as RELION and CryoSPARC might have them: columns there or not, and foreign ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cryobox.formats.star_table import read_blocks
from cryobox.formats.star_text import encode

Rng = np.random.Generator
Rows = list[dict[str, str]]


def random_cs(rng: Rng, n: int) -> np.ndarray:
    """A `.cs` of n particles on two micrographs."""
    fields: list[tuple[str, Any, Any]] = []

    def put(name: str, kind: Any, values: Any, chance: float = 1.0) -> None:
        if rng.random() < chance:
            fields.append((name, kind, values))

    put("blob/path", "S20", [f">s{i % 3}.mrc".encode() for i in range(n)])
    put("blob/idx", "<u4", rng.integers(0, 99, n))
    put("blob/shape", ("<u4", (2,)), np.full((n, 2), 64))
    put("blob/psize_A", "<f4", 1.06)
    put("blob/sign", "<f4", rng.choice([-1, 1]))
    put("blob/import_sig", "<u8", rng.integers(0, 2**62, n), 0.6)
    if rng.random() < 0.7:
        put("location/micrograph_uid", "<u8", rng.integers(1, 2**62, n))
        put("location/micrograph_path", "S12", [f"mics/{i % 2}.mrc".encode() for i in range(n)])
        put("location/micrograph_shape", ("<u4", (2,)), np.full((n, 2), (411, 577)))
        whole = rng.integers(1, 577, n) / 577
        put("location/center_x_frac", "<f4", np.where(rng.random(n) < 0.5, whole, rng.random(n)))
        put("location/center_y_frac", "<f4", rng.integers(1, 411, n) / 411)
        put("location/micrograph_psize_A", "<f4", 1.06, 0.6)
        put("location/exp_group_id", "<u4", rng.integers(1, 4, n), 0.6)
    if rng.random() < 0.7:
        for name in ("df1_A", "df2_A"):
            put(f"ctf/{name}", "<f4", rng.normal(15000, 4000, n))
        put("ctf/df_angle_rad", "<f4", rng.normal(0, 1, n))
        put("ctf/type", "S8", b"spline", 0.6)
        put("ctf/accel_kv", "<f4", 300, 0.8)
        put("ctf/cs_mm", "<f4", 2.7, 0.8)
        put("ctf/amp_contrast", "<f4", rng.choice([0.1, np.nan]), 0.8)
        put("ctf/phase_shift_rad", "<f4", rng.random(n), 0.6)
        put("ctf/tilt_A", ("<f4", (2,)), rng.normal(0, 1, (n, 2)), 0.5)
        put("ctf/anisomag", ("<f4", (4,)), 0, 0.5)
        put("ctf/scale_const", "<f4", rng.random(n), 0.5)
        put("ctf/exp_group_id", "<u4", rng.integers(0, 3, n), 0.6)
        put("ctf/fit", "<f8", rng.random(n), 0.5)
    for name, width in (("alignments2D", ()), ("alignments3D", (3,))):
        if rng.random() < 0.6:
            put(f"{name}/shift", ("<f4", (2,)), rng.normal(0, 3, (n, 2)))
            put(f"{name}/psize_A", "<f4", rng.choice([1.06, 2.12]))
            put(f"{name}/pose", ("<f4", width) if width else "<f4", rng.normal(0, 1, (n, *width)))
            put(f"{name}/class", "<u4", rng.integers(0, 9, n), 0.6)
            put(f"{name}/split", "<u4", rng.integers(0, 2, n), 0.6)
            put(f"{name}/error", "<f4", rng.random(n) + 1, 0.6)
    put("alignments3D_multi/shift", ("<f4", (2, 2)), rng.normal(0, 1, (n, 2, 2)), 0.4)
    put("pick_stats/ncc_score", "<f4", rng.random(n), 0.6)
    put("my.slot/x y", "<i2", rng.integers(-9, 9, n), 0.4)
    put("u/s", "U5", "é x", 0.4)
    put("b/flag", "?", rng.random(n) < 0.5, 0.4)
    if rng.random() < 0.4:
        put("filament/filament_uid", "<u8", rng.integers(1, 3, n))
        put("filament/position_A", "<f4", np.arange(n) * 30.0)
        put("filament/filament_pose", "<f4", rng.random(n))
    kinds = [(name, *(kind if isinstance(kind, tuple) else (kind,))) for name, kind, _ in fields]
    table = np.zeros(n, [("uid", "<u8"), *kinds])
    table["uid"] = rng.permutation(np.arange(10, 10 + n)) * 7919
    for name, _, values in fields:
        table[name] = values
    return table


def save(path: Path, table: np.ndarray) -> Path:
    with path.open("wb") as file:
        np.save(file, table)
    return path


def random_star(rng: Rng, n: int) -> tuple[Rows, Rows]:
    """The optics and the particles of a STAR file."""
    count = int(rng.integers(1, 4))

    def number(spread: float) -> Callable[[int], str]:
        return lambda _: f"{rng.normal(0, spread):.6f}"

    def some(chance: float, **columns: Callable[[int], str]) -> dict[str, Callable[[int], str]]:
        return {f"_{name}": make for name, make in columns.items()} if rng.random() < chance else {}

    optics = some(1, rlnOpticsGroup=lambda i: f"{i + 1}" if rng.random() < 0.7 else f"0{i + 1}",
                  rlnOpticsGroupName=lambda i: f"g {i}", rlnImagePixelSize=lambda i: f"{1.06 + i:.6f}",
                  rlnImageSize=lambda _: "64")  # fmt: skip
    optics |= some(0.8, rlnVoltage=lambda _: "300.000000", rlnSphericalAberration=lambda _: "2.7",
                   rlnAmplitudeContrast=lambda _: "0.10")  # fmt: skip
    optics |= some(0.4, rlnBeamTiltX=number(1), rlnBeamTiltY=number(1)) | some(0.4, rlnOddZernike=lambda _: "[0.1,2]")
    optics |= some(0.4, rlnMtfFileName=lambda _: "mtf.star")
    groups = [{tag: make(i) for tag, make in optics.items()} for i in range(count)]
    used = [groups[int(rng.integers(0, count))]["_rlnOpticsGroup"] for _ in range(n)]
    rows = some(
        1, rlnImageName=lambda i: f"{rng.integers(1, 99):06d}@stk/s{i % 2}.mrcs", rlnOpticsGroup=used.__getitem__
    )
    rows |= some(0.7, rlnMicrographName=lambda i: f"mics/{i % 2}.mrc", rlnCoordinateX=number(500),
                 rlnCoordinateY=number(500))  # fmt: skip
    rows |= some(0.6, rlnOriginXAngst=number(3), rlnOriginYAngst=number(3)) | some(0.4, rlnAnglePsi=number(90))
    rows |= some(0.5, rlnAngleRot=number(90), rlnAngleTilt=number(90), rlnAnglePsi=number(90))
    rows |= some(0.6, rlnClassNumber=lambda _: str(rng.integers(1, 9))) | some(
        0.5, rlnMaxValueProbDistribution=number(1)
    )
    rows |= some(0.6, rlnRandomSubset=lambda _: str(rng.integers(1, 3)))
    rows |= some(0.6, rlnDefocusU=number(9000), rlnDefocusV=number(9000), rlnDefocusAngle=number(90))
    rows |= (
        some(0.4, rlnPhaseShift=number(9))
        | some(0.4, rlnCtfScalefactor=number(1))
        | some(0.5, rlnCtfMaxResolution=number(9))
    )
    rows |= some(0.5, myNote=lambda _: "a note") | some(0.4, rlnAutopickFigureOfMerit=number(1))
    rows |= some(0.3, rlnHelicalTubeID=lambda _: str(rng.integers(1, 3)), rlnHelicalTrackLengthAngst=number(99),
                 rlnAnglePsiPrior=number(90))  # fmt: skip
    order = list(rows)
    rng.shuffle(order)
    return groups, [{tag: rows[tag](i) for tag in order} for i in range(n)]


def write_star(path: Path, optics: Rows, particles: Rows, more: bytes = b"") -> Path:
    data = b""
    for name, rows in (("optics", optics), ("particles", particles)):
        tags = list(rows[0]) if rows else []
        data += f"\n# version 50001\n\ndata_{name}\n\nloop_\n".encode() + b"".join(tag.encode() + b"\n" for tag in tags)
        data += b"".join(b" ".join(encode(row[tag]) for tag in tags) + b"\n" for row in rows) + b"\n"
    path.write_bytes(data + more)
    return path


def blocks(path: Path) -> dict[str, tuple[list[str], Rows]]:
    """Tags and rows of each block."""
    tables = {name: block.table() for name, block in read_blocks(path).items()}
    return {name: (list(t.tags), [t.row(i) for i in range(len(t))]) for name, t in tables.items()}
