"""What is mostly a slip is warned of, or refused with the remedy."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cryobox
from cryobox.cli import main
from cryobox.display import NOT_ON_PURPOSE
from cryobox.job import run
from cryobox.options import Recipe, RunOptions
from cryobox.particles import Reason
from cryobox.simulate import Dataset, make_dataset
from cryobox.slips import box_for_signal
from cryobox.verification import verify
from synth import write_mrc, write_star

FAST = RunOptions(fsync=False, check_picks=False)


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    return make_dataset(tmp_path / "data", micrographs=3, shape=(300, 400), picks=12)


def cut(data: Dataset, out: Path, *, options: RunOptions = FAST, **words: Any) -> cryobox.RunResult:
    given = {"micrographs": data.micrographs, "root": data.folder} | words
    recipe = given.pop("recipe", Recipe(box=96))
    return run(given.pop("picks", data.picks), out=out, recipe=recipe, options=options, **given)


def said(result: cryobox.RunResult) -> str:
    return "\n".join(result.warnings)


def called(*words: object) -> int:
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    return int(left.value.code or 0)


# Tables and places ---------------------------------------------------------------------------------------------------


def test_tables_of_relion_without_ctf_are_warned_of(data: Dataset, tmp_path: Path) -> None:
    assert "CTF" not in said(cut(data, tmp_path / "a"))
    images = f"{data.folder}/micrographs/*.mrc"
    without = said(cut(data, tmp_path / "c", micrographs=images))
    assert "no CTF values (rlnDefocusU)" in without
    assert "are written without CTF" in without
    lines = data.micrographs.read_text().splitlines()
    table = write_star(
        tmp_path / "corrected.star",
        {"micrographs": {"rlnMicrographName": [line.split()[0] for line in lines if line.startswith("micrographs/")]}},
    )
    assert "are written without CTF" in said(cut(data, tmp_path / "d", micrographs=table))


def test_many_picks_without_their_micrograph_are_warned_of(data: Dataset, tmp_path: Path) -> None:
    text = data.micrographs.read_text()
    (tmp_path / "fewer.star").write_text(
        "".join(line for line in text.splitlines(True) if "sim_002" not in line and "sim_003" not in line)
    )
    found = cut(data, tmp_path / "out", micrographs=tmp_path / "fewer.star")
    many = found.rejected["no such micrograph"]
    assert f"{many} of {found.picks} picks are of micrographs that" in said(found)
    assert "(2 of 3, for example 'micrographs/sim_002.mrc')" in said(found)
    assert "picks are of micrographs" not in said(cut(data, tmp_path / "whole"))


def test_micrographs_none_of_which_is_there_are_refused_with_the_root(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")  # folders in the working directory are looked into
    with pytest.raises(cryobox.InputError, match=f"none of its 3 micrographs is there.*--root {data.folder}$"):
        cut(data, tmp_path / "out", root=tmp_path)
    assert not (tmp_path / "out").exists()
    shutil.rmtree(data.folder / "micrographs")
    with pytest.raises(cryobox.InputError, match="give --root, the folder in which that name starts"):
        cut(data, tmp_path / "out")


def test_a_run_whose_micrographs_are_gone_is_still_told_of(data: Dataset, tmp_path: Path) -> None:
    cut(data, tmp_path / "out")
    shutil.rmtree(data.folder / "micrographs")
    assert verify(tmp_path / "out").problems  # each micrograph, not one refusal


def test_a_root_that_was_guessed_is_warned_of_where_outputs_start_elsewhere(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = cut(data, tmp_path / "out", root=None)
    assert found.extracted
    assert "the names of 3 micrographs start in data, those of the stacks" in said(found)
    assert "run in data, or give --root data" in said(found)
    assert "--root" not in said(cut(data, tmp_path / "b"))
    assert "--root" not in said(cut(data, tmp_path / "c", root=None, micrographs=f"{data.folder}/micrographs/*.mrc"))
    monkeypatch.chdir(data.folder)
    assert "--root" not in said(cut(data, data.folder / "out", root=None))


def test_the_pixel_size_of_the_option_beats_headers_and_never_tables(data: Dataset, tmp_path: Path) -> None:
    images = f"{data.folder}/micrographs/*.mrc"
    plain = write_star(
        tmp_path / "picks.star",
        {
            "particles": {
                "rlnMicrographName": ["sim_001.mrc"] * 3,
                "rlnCoordinateX": [100, 150, 200],
                "rlnCoordinateY": [100, 150, 200],
            }
        },
    )
    found = cut(data, tmp_path / "a", picks=plain, micrographs=images, recipe=Recipe(box=96, pixel_size=0.7))
    assert "its header says 1.4 Å per pixel, --pixel-size 0.7; the option is used" in said(found)
    assert " 0.700000 " in (tmp_path / "a" / "particles.star").read_text()
    near = cut(data, tmp_path / "b", picks=plain, micrographs=images, recipe=Recipe(box=96, pixel_size=1.41))
    assert "header" not in said(near)
    with pytest.raises(cryobox.OptionError, match=r"--pixel-size 0.7 contradicts .*by its table"):
        cut(data, tmp_path / "c", recipe=Recipe(box=96, pixel_size=0.7))


@pytest.mark.parametrize("edges", ["reject", "pad"])
def test_a_box_outside_is_told_apart_from_one_over_the_edge(data: Dataset, tmp_path: Path, edges: str) -> None:
    x, y = [200, 20, 500, -60, 200], [150, 150, 150, 150, 900]
    picks = write_star(
        tmp_path / "picks.star",
        {
            "particles": {
                "rlnMicrographName": ["micrographs/sim_001.mrc"] * 5, "rlnCoordinateX": x, "rlnCoordinateY": y,
            }
        },
    )  # fmt: skip
    found = cut(data, tmp_path / "out", picks=picks, recipe=Recipe(box=96, edges=edges))  # type: ignore[arg-type]
    assert found.rejected["box outside the micrograph"] == 3
    assert found.rejected.get("box over the edge", 0) == (1 if edges == "reject" else 0)


def test_the_summary_says_whether_the_share_is_good(
    data: Dataset, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data.folder)
    common = ("-m", "micrographs.star", "--no-report", "--no-fsync")
    assert called("extract", "picks.star", *common, "-o", "a", "--box", 32) == 0
    assert "%; as usual)" in capsys.readouterr().out
    assert called("extract", "picks.star", *common, "-o", "b", "--box", 240) == 0
    assert "% could not be cut, which is much)" in capsys.readouterr().out
    assert set(NOT_ON_PURPOSE) < set(map(str, Reason))


# The box -------------------------------------------------------------------------------------------------------------


def test_a_box_that_does_not_hold_the_delocalized_signal_is_warned_of_with_one_that_does(
    data: Dataset, tmp_path: Path
) -> None:
    defocus = np.median(
        [float(line.split()[4]) for line in data.micrographs.read_text().splitlines() if "sim_" in line]
    )
    assert box_for_signal(100, defocus, 300, 2.8) == pytest.approx(100 + 2 * 0.0196875 * defocus / 2.8, rel=1e-4)
    known = RunOptions(fsync=False, check_picks=False, diameter_angstrom=100)
    told = said(cut(data, tmp_path / "a", options=known))
    assert "box 96 (134 Å) does not hold all signal down to 2.8 Å" in told
    box = int(told.split("--box ")[1].split()[0])
    assert box * 1.4 >= box_for_signal(100, defocus, 300, 2.8)
    assert "does not hold" not in said(cut(data, tmp_path / "b"))  # nobody says how large the particle is
    circle = Recipe(box=96, background_diameter_angstrom=100)
    assert "does not hold" in said(cut(data, tmp_path / "c", recipe=circle))
    coarse = RunOptions(fsync=False, check_picks=False, diameter_angstrom=20)
    assert "does not hold" not in said(cut(data, tmp_path / "d", options=coarse, recipe=Recipe(box=96, sizes=(16,))))


def test_the_command_hands_on_the_diameter(
    data: Dataset, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data.folder)
    assert called("extract", "picks.star", "-m", "micrographs.star", "--diameter", 90, "--dry-run") == 0
    assert "does not hold all signal" in capsys.readouterr().err


def test_what_headers_of_noise_say_is_no_obstacle(tmp_path: Path) -> None:
    """One micrograph that is there is enough: the others are listed."""
    write_mrc(tmp_path / "a.mrc", np.random.default_rng(0).normal(0, 1, (256, 256)).astype(np.float32), pixel_size=2.0)
    names = ["a.mrc", "b.mrc"]
    picks = write_star(
        tmp_path / "picks.star",
        {"particles": {"rlnMicrographName": names, "rlnCoordinateX": [128, 128], "rlnCoordinateY": [128, 128]}},
    )
    table = write_star(tmp_path / "mics.star", {"micrographs": {"rlnMicrographName": names}})
    found = run(picks, micrographs=table, root=tmp_path, out=tmp_path / "out", recipe=Recipe(box=64), options=FAST)
    assert list(found.incomplete) == ["b.mrc"]
