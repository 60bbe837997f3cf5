"""Small runs in which everything happens: many columns, refused windows, rejected rows, a missing micrograph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

import cryobox
import synth

FAST = cryobox.RunOptions(fsync=False, workers=1)
Style = Literal["relion", "cryosparc"]
SHAPE = (120, 140)
RECIPE: dict[str, Any] = {"box": 40, "sizes": (36, 32), "min_score": 0.2, "min_separation_angstrom": 4.0}

# (micrograph, y, x, score). Micrograph 1 has dead pixels about (40, 40) and a flat part about (80, 95); 2 is missing,
# 3 is not in the table.
PICKS = (
    (0, 31.25, 40.5, 0.9),
    (0, 60.75, 71.125, 0.8),
    (0, 61.0, 71.0, 0.7),  # too close
    (0, 3.0, 50.0, 0.9),  # over the edge
    (0, 80.5, 90.0, 0.1),  # a low score
    (1, 40.0, 40.0, 0.9),  # not finite
    (1, 80.0, 95.0, 0.9),  # no contrast
    (1, 70.25, 40.5, 0.6),
    (1, 30.0, 100.0, 0.5),
    (2, 50.0, 50.0, 0.9),
    (3, 50.0, 50.0, 0.9),
)


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run, and what it was made from."""

    folder: Path
    out: Path
    style: Style

    def tables(self) -> list[Path]:
        """All tables, `.csg` left out."""
        return sorted(path for path in self.out.iterdir() if path.suffix in (".star", ".cs"))


def make_run(folder: Path, style: Style, **recipe: Any) -> Run:
    """Make the inputs, and extract."""
    for number in range(2):
        synth.write_mrc(folder / f"mics/m{number}.mrc", micrograph(number), pixel_size=1.5)
    with open(folder / "mics/m0.mrc", "ab") as file:
        file.write(bytes(4))  # of which the run warns
    picks, micrographs = (_star if style == "relion" else _cs)(folder)
    cryobox.run(
        folder / picks,
        micrographs=folder / micrographs,
        out=folder / "out",
        recipe=cryobox.Recipe(**RECIPE | recipe),
        options=FAST,
        root=folder,
    )
    return Run(folder, folder / "out", style)


def micrograph(number: int) -> NDArray[Any]:
    """The pixels of one."""
    image = synth.micrograph(SHAPE, seed=number)
    if number == 1:
        image[38:42, 38:42] = np.nan
        image[58:102, 73:117] = 5.0
    return image


def _star(folder: Path) -> tuple[str, str]:
    optics: dict[str, Sequence[object]] = {
        "rlnOpticsGroupName": ["first", "second"],
        "rlnOpticsGroup": [1, 2],
        "rlnMicrographPixelSize": ["1.500000"] * 2,
        "rlnMicrographOriginalPixelSize": ["1.500000"] * 2,
        "rlnVoltage": ["300.000000", "200.000000"],
        "rlnSphericalAberration": ["2.700000"] * 2,
        "rlnAmplitudeContrast": ["0.100000"] * 2,
        "rlnBeamTiltX": ["0.150000", "-0.250000"],
        "rlnBeamTiltY": ["0.350000", "0.450000"],
        "rlnOddZernike": ["[0.1,0.2,0.3,0.4,0.5,0.6]"] * 2,
        "rlnEvenZernike": ["[1,2,3,4,5,6,7,8,9]"] * 2,
        "rlnMagMat00": ["1.010000"] * 2,
        "rlnMagMat01": ["0.000000"] * 2,
        "rlnMagMat10": ["0.000000"] * 2,
        "rlnMagMat11": ["0.990000"] * 2,
    }
    n = len(PICKS)
    micrographs: dict[str, Sequence[object]] = {
        "rlnMicrographName": [f"mics/m{number}.mrc" for number in range(3)],
        "rlnOpticsGroup": [1, 2, 1],
        "rlnDefocusU": [f"{12000 + number}.500000" for number in range(3)],
        "rlnDefocusV": [f"{11000 + number}.500000" for number in range(3)],
        "rlnDefocusAngle": ["45.500000"] * 3,
        "rlnCtfMaxResolution": ["4.125000"] * 3,
    }
    particles: dict[str, Sequence[object]] = {
        "rlnCoordinateX": [f"{x:.6f}" for _, _, x, _ in PICKS],
        "rlnCoordinateY": [f"{y:.6f}" for _, y, _, _ in PICKS],
        "rlnAutopickFigureOfMerit": [f"{score:.6f}" for *_, score in PICKS],
        "rlnMicrographName": [f"mics/m{number}.mrc" for number, *_ in PICKS],
        "rlnOpticsGroup": [1 if number != 1 else 2 for number, *_ in PICKS],
        "rlnOriginXAngst": [f"{0.4 * i:.6f}" for i in range(n)],
        "rlnOriginYAngst": [f"{-0.3 * i:.6f}" for i in range(n)],
        "rlnAngleRot": [f"{3 * i}.250000" for i in range(n)],
        "rlnAngleTilt": [f"{4 * i}.250000" for i in range(n)],
        "rlnAnglePsi": [f"{5 * i}.250000" for i in range(n)],
        "rlnClassNumber": [1 + i % 3 for i in range(n)],
        "rlnGroupName": ["group_1"] * n,
        "rlnDefocusU": [f"{13000 + i}.500000" for i in range(n)],
        "rlnDefocusV": [f"{12500 + i}.500000" for i in range(n)],
        "rlnDefocusAngle": [f"{i}.500000" for i in range(n)],
        "rlnPhaseShift": ["90.000000"] * n,
        "rlnCtfBfactor": ["12.000000"] * n,
        "rlnRandomSubset": [1 + i % 2 for i in range(n)],
        "labNote": [f'"pick number {i}"' for i in range(n)],
    }
    synth.write_star(folder / "micrographs.star", {"optics": optics, "micrographs": micrographs})
    synth.write_star(
        folder / "picks.star", {"optics": optics, "particles": particles, "notes": {"labDay": ["monday", "friday"]}}
    )
    return "picks.star", "micrographs.star"


def _cs(folder: Path) -> tuple[str, str]:
    n, f4, u4 = len(PICKS), np.float32, np.uint32
    names = np.array([f"mics/m{number}.mrc".encode() for number in range(4)])
    uids = np.array([101, 102, 103, 104], np.uint64)
    which = np.array([number for number, *_ in PICKS])
    centers = np.array([(y, x) for _, y, x, _ in PICKS])
    ctf = {
        "ctf/type": np.full(4, b"imported"),
        "ctf/exp_group_id": np.array([7, 8, 7, 7], u4),
        "ctf/accel_kv": np.full(4, 300, f4),
        "ctf/cs_mm": np.full(4, 2.7, f4),
        "ctf/amp_contrast": np.full(4, 0.1, f4),
        "ctf/df1_A": np.linspace(12000, 15000, 4).astype(f4),
        "ctf/df2_A": np.linspace(11000, 14000, 4).astype(f4),
        "ctf/df_angle_rad": np.linspace(0.1, 0.4, 4).astype(f4),
        "ctf/phase_shift_rad": np.full(4, 0.25, f4),
        "ctf/tilt_A": np.full((4, 2), 0.5, f4),
        "ctf/trefoil_A": np.full((4, 2), 0.125, f4),
        "ctf/tetra_A": np.full((4, 4), 0.375, f4),
        "ctf/anisomag": np.full((4, 4), 0.01, f4),
    }
    exposures = {
        "uid": uids[:3],
        "micrograph_blob/path": names[:3],
        "micrograph_blob/idx": np.zeros(3, u4),
        "micrograph_blob/shape": np.tile(np.array(SHAPE, u4), (3, 1)),
        "micrograph_blob/psize_A": np.full(3, 1.5, f4),
        "micrograph_blob/format": np.full(3, b"MRC/2"),
        "mscope_params/accel_kv": np.full(3, 300, f4),
        "mscope_params/cs_mm": np.full(3, 2.7, f4),
        "mscope_params/exp_group_id": np.array([7, 8, 7], u4),
    } | {name: column[:3] for name, column in ctf.items()}
    alignments: dict[str, NDArray[Any]] = {}
    for name, pose in (("alignments2D", np.linspace(0, 1, n)), ("alignments3D", np.ones((n, 3)))):
        alignments |= {
            f"{name}/split": (np.arange(n) % 2).astype(u4),
            f"{name}/shift": (np.arange(2 * n).reshape(n, 2) / 5 - 2).astype(f4),
            f"{name}/pose": pose.astype(f4),
            f"{name}/psize_A": np.full(n, 1.5, f4),
            f"{name}/error": np.linspace(1, 2, n).astype(f4),
            f"{name}/class": (np.arange(n) % 3).astype(u4),
            f"{name}/class_posterior": np.full(n, 0.75, f4),
        }
    picks = {
        "uid": np.arange(1001, 1001 + n, dtype=np.uint64),
        "location/micrograph_uid": uids[which],
        "location/exp_group_id": np.array([7, 8, 7, 7], u4)[which],
        "location/micrograph_path": names[which],
        "location/micrograph_shape": np.tile(np.array(SHAPE, u4), (n, 1)),
        "location/micrograph_psize_A": np.full(n, 1.5, f4),
        "location/center_x_frac": (centers[:, 1] / SHAPE[1]).astype(f4),
        "location/center_y_frac": (centers[:, 0] / SHAPE[0]).astype(f4),
        "location/min_dist_A": np.full(n, 60, f4),
        "pick_stats/ncc_score": np.array([score for *_, score in PICKS], f4),
        "pick_stats/power": np.linspace(500, 700, n).astype(f4),
        "lab/note": np.array([b"pick %d" % i for i in range(n)]),
    }
    synth.write_cs(folder / "exposures.cs", exposures)
    synth.write_cs(folder / "picks.cs", picks | alignments | {name: column[which] for name, column in ctf.items()})
    return "picks.cs", "exposures.cs"
