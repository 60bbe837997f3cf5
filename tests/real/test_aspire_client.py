"""ASPIRE's loader, another reader of RELION tables, takes our particles, poses and CTF.

Skipped where it is not installed: a large package (`pip install aspire`), and no requirement of the tests.
"""

from __future__ import annotations

from pathlib import Path

import mrcfile
import numpy as np
import pytest

import cryobox
from cryobox.simulate import make_dataset

pytest.importorskip("aspire", reason="ASPIRE is not installed (pip install aspire)")
pytestmark = pytest.mark.filterwarnings("default")  # the peer's own warnings are not ours


def test_aspire_reads_pixels_pixel_size_poses_and_ctf(tmp_path: Path) -> None:
    from aspire.source import RelionSource

    data = make_dataset(tmp_path, micrographs=2, shape=(400, 500), picks=20)
    angles = np.random.default_rng(3).uniform(-180, 180, (data.count, 3)).round(3)
    angles[:, 1] = np.abs(angles[:, 1])  # ASPIRE writes a negative tilt as the equal rotation with a positive one
    lines = data.picks.read_text().splitlines()
    first = next(i for i, line in enumerate(lines) if ".mrc" in line)
    columns = sum(line.startswith("_rln") for line in lines[lines.index("data_particles") : first])
    names = [f"_rlnAngle{name} #{columns + i + 1}" for i, name in enumerate(("Rot", "Tilt", "Psi"))]
    rows = [line for line in lines[first:] if ".mrc" in line]
    body = [f"{line} {' '.join(map(str, angle))}" for line, angle in zip(rows, angles, strict=True)]
    data.picks.write_text("\n".join([*lines[:first], *names, *body, ""]))

    out = tmp_path / "job"
    cryobox.run(
        data.picks,
        micrographs=data.micrographs,
        out=out,
        recipe=cryobox.Recipe(box=96, sizes=(64,)),
        options=cryobox.RunOptions(fsync=False),
        root=tmp_path,
    )
    source = RelionSource(str(out / "particles.star"), data_folder=str(tmp_path))
    stored = np.concatenate([mrcfile.read(path) for path in sorted((out / "stacks").iterdir())])
    assert source.n == len(stored)
    assert source.pixel_size == pytest.approx(1.4 * 96 / 64)
    assert np.array_equal(source.images[:].asnumpy(), stored)

    picks = cryobox.ParticleSource(
        data.picks, micrographs=data.micrographs, recipe=cryobox.Recipe(box=96, sizes=(64,)), root=tmp_path
    )
    kept = angles[picks.rows]
    assert np.allclose(np.rad2deg(source.angles), kept, atol=1e-3)
    defocus = {(f.defocus_u, f.defocus_v, f.voltage) for f in source.unique_filters}
    assert len(defocus) == 2
    assert {voltage for _, _, voltage in defocus} == {300.0}
