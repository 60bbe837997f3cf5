"""RELION 5's own --keep_ctfs_micrographs beside our --refresh-ctf: the same CTF in every row."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import cryobox
from star_tables import columns


@pytest.mark.real
def test_a_refreshed_ctf_is_that_of_relion_5(real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    golden = real_data / "relion5"
    shutil.copytree(golden / "inputs", tmp_path / "inputs")
    monkeypatch.chdir(tmp_path)
    result = cryobox.run(
        "inputs/ctf_per_particle.star",
        micrographs="inputs/micrographs_2og.star",
        out="out",
        recipe=cryobox.Recipe(box=32, edges="pad", normalize=False, recenter=False, refresh_ctf=True),
        options=cryobox.RunOptions(fsync=False),
    )
    ours, theirs = columns(tmp_path / "out/particles.star"), columns(golden / "premult_keepmicctf" / "particles.star")
    for tag in ("DefocusU", "DefocusV", "DefocusAngle", "PhaseShift", "CtfBfactor", "CtfScalefactor",
                "CtfFigureOfMerit", "CtfMaxResolution"):  # fmt: skip
        assert list(map(float, ours[f"_rln{tag}"])) == list(map(float, theirs[f"_rln{tag}"])), tag
    optics = columns(tmp_path / "out/particles.star", "optics")
    # RELION leaves four rows in og2, at 200 kV, over the micrograph's fit at 300 kV.
    assert optics["_rlnOpticsGroupName"] == ["og1"]
    assert list(map(float, optics["_rlnVoltage"])) == [300]
    (told,) = [text for text in result.warnings if "another voltage" in text]
    assert "another Cs" in told
