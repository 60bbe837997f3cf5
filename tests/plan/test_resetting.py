"""--reset-offsets: shifts become 0 and move nothing, whoever wrote them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cryobox
from cryobox.errors import OptionError
from cryobox.formats import read_particles
from cryobox.formats.cs_table import read_table, write_table
from cryobox.verification import verify
from star_tables import columns
from synth import micrograph, write_mrc, write_star

N = 6
RNG = np.random.default_rng(5)
CENTER = RNG.uniform(40, 160, (N, 2)).round(2)  # (x, y)
SHIFT = RNG.uniform(-9, 9, (N, 2))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_mrc(tmp_path / "m.mrc", micrograph((200, 200)), pixel_size=1.5)
    return tmp_path


def star(folder: Path, *, old: bool = False, shifts: bool = True) -> Path:
    rows: dict[str, list[Any]] = {
        "rlnMicrographName": ["m.mrc"] * N,
        "rlnCoordinateX": CENTER[:, 0].tolist(), "rlnCoordinateY": CENTER[:, 1].tolist(),
        "rlnAngleRot": [10.5] * N, "rlnAngleTilt": [20.5] * N, "rlnAnglePsi": [30.5] * N,
    }  # fmt: skip
    ends = ("", "") if old else ("XAngst", "YAngst")
    if shifts and old:
        rows |= {"rlnOriginX": SHIFT[:, 0].tolist(), "rlnOriginY": SHIFT[:, 1].tolist()}
    elif shifts:
        rows |= {f"rlnOrigin{end}": SHIFT[:, i].tolist() for i, end in enumerate(ends)}
    if old:
        rows |= {"rlnDetectorPixelSize": [3.0] * N, "rlnMagnification": [10000.0] * N, "rlnVoltage": [300] * N}
        return write_star(folder / "p.star", {"": rows})
    optics: dict[str, list[Any]] = {
        "rlnOpticsGroup": [1], "rlnOpticsGroupName": ["a"], "rlnImagePixelSize": [3.0], "rlnVoltage": [300],
        "rlnSphericalAberration": [2.7], "rlnAmplitudeContrast": [0.1],
    }  # fmt: skip
    return write_star(folder / "p.star", {"optics": optics, "particles": rows | {"rlnOpticsGroup": [1] * N}})


def cs(folder: Path) -> Path:
    fields: list[Any] = [
        ("uid", "<u8"), ("location/micrograph_path", "S8"), ("location/micrograph_uid", "<u8"),
        ("location/center_x_frac", "<f4"), ("location/center_y_frac", "<f4"),
        ("location/micrograph_shape", "<u4", (2,)), ("location/micrograph_psize_A", "<f4"),
        ("alignments3D/shift", "<f4", (2,)), ("alignments3D/pose", "<f4", (3,)), ("alignments3D/psize_A", "<f4"),
        ("alignments2D/shift", "<f4", (2,)), ("alignments2D/psize_A", "<f4"),
        ("alignments3D_multi/shift", "<f4", (3, 2)), ("alignments3D_multi/psize_A", "<f4"),
    ]  # fmt: skip
    table = np.zeros(N, np.dtype(fields))
    table["uid"], table["location/micrograph_path"], table["location/micrograph_uid"] = np.arange(N) + 1, b"m.mrc", 5
    table["location/center_x_frac"], table["location/center_y_frac"] = (CENTER / 200).T
    table["location/micrograph_shape"], table["location/micrograph_psize_A"] = 200, 1.5
    table["alignments3D/shift"] = table["alignments2D/shift"] = SHIFT
    table["alignments3D_multi/shift"], table["alignments3D/pose"] = SHIFT[:, None], 0.3
    for name in ("alignments3D", "alignments2D", "alignments3D_multi"):
        table[f"{name}/psize_A"] = 3.0
    write_table(folder / "p.cs", table)
    return folder / "p.cs"


def extracted(picks: Path, **recipe: Any) -> Path:
    cryobox.run(
        picks.name, out=picks.parent / "out", directory=picks.parent,
        recipe=cryobox.Recipe(**({"box": 32, "reset_offsets": True} | recipe)),
        options=cryobox.RunOptions(fsync=False, overwrite=True),
    )  # fmt: skip
    assert verify(picks.parent / "out", everything=True).problems == ()
    return picks.parent / "out"


def test_shifts_that_are_reset_move_nothing(folder: Path) -> None:
    for old in (False, True):
        found = columns(extracted(star(folder, old=old)) / "particles.star")
        for axis, name in enumerate("XY"):
            assert [float(x) for x in found[f"_rlnCoordinate{name}"]] == CENTER[:, axis].tolist()
            assert {float(x) for x in found[f"_rlnOrigin{name}Angst"]} == {0.0}
        assert [set(map(float, found[f"_rlnAngle{name}"])) for name in ("Rot", "Tilt", "Psi")] == [
            {10.5},
            {20.5},
            {30.5},
        ]
    before, table = read_table(cs(folder)), read_table(extracted(cs(folder)) / "particles.cs")
    for name in ("alignments3D", "alignments2D", "alignments3D_multi"):
        assert not table[f"{name}/shift"].any()
    for name in ("alignments3D/pose", "location/center_x_frac", "location/center_y_frac", "uid"):
        np.testing.assert_array_equal(table[name], before[name])


def test_the_other_familys_table_has_no_shifts_either(folder: Path) -> None:
    out = extracted(star(folder), tables="both")
    (alignment,) = read_particles(out / "particles.cs", recipe=cryobox.Recipe(box=32)).alignments
    assert not alignment.shift.any()


@pytest.mark.parametrize(
    "asked",
    [
        {"helix": "segments", "helical_recenter": "free"},
        {"subparticles": "1,2,3"},
        {"recenter_3d": "1,2,3"},
        {"recenter_from": "3d"},
        {"drop_alignments": True},
    ],
    ids=lambda one: next(iter(one)),
)
def test_shifts_are_not_forgotten_and_used(asked: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="--reset-offsets makes the shifts 0"):
        cryobox.Recipe(box=32, reset_offsets=True, **asked)


def test_shifts_that_are_not_there_cannot_be_reset(folder: Path) -> None:
    with pytest.raises(OptionError, match=r"p.star: has no shifts, so there is nothing for --reset-offsets"):
        extracted(star(folder, shifts=False))
