"""Images treated with their CTF, beside RELION 5's own: the same pixels, the same words about them in the tables."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import cryobox
from cryobox.verification import verify
from star_tables import columns

MICROGRAPHS, OWN = "micrographs_ctf.star", "ctf_per_particle.star"
# Where picks of two voltages share a micrograph no table of micrographs is given: RELION takes the picks' voltage, we
# ask which one is right.
CASES: dict[str, tuple[str, str | None, dict[str, Any]]] = {
    "premult": ("list_picks.star", MICROGRAPHS, {"box": 64, "ctf": "premultiply"}),
    "premult_big": ("list_picks.star", MICROGRAPHS, {"box": 64, "ctf": "premultiply", "ctf_box": 96}),
    "premult_intact": ("list_picks.star", MICROGRAPHS, {"ctf": "premultiply", "ctf_intact_first_peak": True}),
    "flip": ("list_picks.star", MICROGRAPHS, {"ctf": "flip"}),
    "flip_big": ("list_picks.star", MICROGRAPHS, {"ctf": "flip", "ctf_box": 96}),
    "premult_phaseshift": ("list_picks.star", "micrographs_ctf_phase.star", {"ctf": "premultiply"}),
    "flip_perparticle": (OWN, None, {"ctf": "flip"}),
    "premult_magmat": ("ctf_magmat.star", None, {"ctf": "premultiply"}),
    "premult_keepmicctf": (OWN, "micrographs_2og.star", {"ctf": "premultiply", "refresh_ctf": True}),
    "premult_recenter": ("refined_4A.star", MICROGRAPHS, {"ctf": "premultiply", "ctf_box": 48}),
}


def images(path: Path, side: int) -> NDArray[np.float64]:
    return np.fromfile(path, np.float32, offset=1024).reshape(-1, side, side).astype(np.float64)


@pytest.fixture
def project(real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(real_data / "relion5" / "inputs", tmp_path / "inputs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.real
@pytest.mark.parametrize("case", CASES)
def test_images_with_their_ctf_are_those_of_relion_5(real_data: Path, project: Path, case: str) -> None:
    golden = real_data / "relion5" / case
    picks, micrographs, asked = CASES[case]
    recipe = cryobox.Recipe(**{"box": 32, "edges": "pad", "normalize": False, "invert": False, **asked})
    cryobox.run(
        f"inputs/{picks}", micrographs=micrographs and f"inputs/{micrographs}", out="out", recipe=recipe,
        options=cryobox.RunOptions(fsync=False),
    )  # fmt: skip
    found = images(next(Path("out/stacks").iterdir()), recipe.box)
    wanted = images(golden / "inputs" / "gold.mrcs", recipe.box)
    assert len(found) == len(wanted)
    if case == "premult_recenter":  # exact halves of a pixel, where RELION moves the box (docs/conventions.md)
        same = [k for k in range(len(found)) if k not in (3, 5)]
        found, wanted = found[same], wanted[same]
    part = np.abs(found - wanted).max(axis=(1, 2)) / np.abs(wanted).max(axis=(1, 2))
    assert part.max() < 2e-6, part
    optics = columns(Path("out/particles.star"), "optics")
    premultiplied = "1" if recipe.ctf == "premultiply" else "0"
    assert set(optics["_rlnCtfDataAreCtfPremultiplied"]) == {premultiplied}
    assert set(optics.get("_rlnCtfDataArePhaseFlipped", ["0"])) == {"1" if recipe.ctf == "flip" else "0"}
    assert not verify("out", everything=True).problems
