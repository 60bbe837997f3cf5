"""Flipped picks are noticed on real and simulated micrographs, right ones and noise are left alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import synth
from cryobox.given import Given
from cryobox.inputs import Inputs, prepare
from cryobox.mirrored import ORIENTATIONS, check_orientation
from cryobox.options import Recipe
from cryobox.simulate import make_dataset


def rewritten(table: Path, target: Path, shape: tuple[int, int], how: str) -> Path:
    """The picks of `table`, moved by `how`."""
    from cryobox.formats import read_particles

    picks = read_particles(table, recipe=Recipe(box=64))
    y, x = picks.y, picks.x
    if "x" in how:
        x = shape[1] - 1 - x
    if "y" in how:
        y = shape[0] - 1 - y
    if "swap" in how:
        y, x = x, y
    names = [picks.micrograph_names[m] for m in picks.micrograph]
    columns = {"rlnMicrographName": names, "rlnCoordinateX": x.tolist(), "rlnCoordinateY": y.tolist()}
    return synth.write_star(target, {"particles": columns})


HOW = {"": "", "x": "x flipped", "y": "y flipped", "xy": "x and y flipped", "swap": "x and y swapped"}


def check_real(real_data: Path, tmp_path: Path, how: str) -> Inputs:
    moved = rewritten(real_data / "picks" / "fei-extended.star", tmp_path / "picks.star", (3838, 3710), how)
    table = real_data / "picks" / "fei-extended_micrographs.star"
    return prepare(Given.of(moved, table, real_data), recipe=Recipe(box=256))


@pytest.mark.real
@pytest.mark.parametrize("how", HOW)
def test_picks_flipped_on_purpose_are_noticed_on_a_real_exposure(real_data: Path, tmp_path: Path, how: str) -> None:
    found = check_orientation(check_real(real_data, tmp_path, how))
    if how:
        assert f"fit much better with {HOW[how]}" in found.warning
    else:
        assert found.warning == ""
        assert abs(found.scores["as given"]) > 6


@pytest.mark.parametrize("how", HOW)
def test_simulated_picks_flipped_on_purpose_are_noticed(tmp_path: Path, how: str) -> None:
    data = make_dataset(tmp_path, micrographs=2)
    moved = rewritten(data.picks, tmp_path / "moved.star", (1024, 1440), how)
    found = check_orientation(prepare(Given.of(moved, data.micrographs, data.folder), recipe=Recipe(box=160)))
    assert (f"with {HOW[how]}" in found.warning) if how else (found.warning == "")


def test_pure_noise_gives_no_alarm_in_200_seeds(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    noise = rng.normal(100, 8, (768, 1024)).astype(np.float32)
    noise += np.cumsum(rng.normal(0, 0.3, noise.shape), axis=1).astype(np.float32)  # thickness that drifts
    synth.write_mrc(tmp_path / "noise.mrc", noise, pixel_size=1.2)
    worst = 0.0
    for seed in range(200):
        picks = np.random.default_rng(seed).uniform(0, 1, (80, 2)) * (1024, 768)
        table = synth.write_star(
            tmp_path / "picks.star",
            {
                "particles": {
                    "rlnMicrographName": ["noise.mrc"] * 80,
                    "rlnCoordinateX": picks[:, 0].tolist(),
                    "rlnCoordinateY": picks[:, 1].tolist(),
                }
            },
        )
        inputs = prepare(Given.of(table, tmp_path / "noise.mrc", tmp_path), recipe=Recipe(box=96))
        found = check_orientation(inputs, seed=seed)
        assert found.warning == ""
        worst = max(worst, *(abs(score) for score in found.scores.values()))
    print(f"largest score of 200 sets of picks on noise: {worst:.1f} standard errors")


def test_few_picks_say_nothing(tmp_path: Path) -> None:
    data = make_dataset(tmp_path, micrographs=1, picks=8)
    inputs = prepare(Given.of(data.picks, data.micrographs, data.folder), recipe=Recipe(box=160))
    found = check_orientation(inputs)
    assert found.warning == ""
    assert set(found.scores) == set(ORIENTATIONS)


def test_extract_warns_and_info_shows_the_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from cryobox.cli import main

    data = make_dataset(tmp_path, micrographs=2)
    moved = rewritten(data.picks, tmp_path / "moved.star", (1024, 1440), "x")
    common = ["--micrographs", str(data.micrographs), "--box", "160", "--root", str(tmp_path)]
    with pytest.raises(SystemExit) as finished:
        main(["extract", str(moved), *common, "--out", str(tmp_path / "out"), "--check-orientation", "--no-fsync"])
    assert finished.value.code == 0
    assert "fit much better with x flipped" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["info", str(moved), *common])
    shown = capsys.readouterr()
    assert "x flipped: " in shown.out
    assert "use --flip-x" in shown.err
