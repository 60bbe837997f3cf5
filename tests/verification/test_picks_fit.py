"""Wrong picks are noticed on real and simulated micrographs and named; right ones, noise and few are left alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from bench.right_picks import KINDS, try_sets

import cryobox
import synth
from cryobox.cli import main
from cryobox.fit import CANNOT_TELL, FITS, NOTHING, check_fit, looked_at
from cryobox.given import Given
from cryobox.inputs import Inputs, prepare
from cryobox.job import merge
from cryobox.options import Recipe
from cryobox.simulate import Dataset, make_dataset
from cryobox.verification import verify

SHAPE = (1024, 1440)


def rewritten(
    table: Path, target: Path, shape: tuple[int, int], how: str = "", *, scale: float = 1.0, seed: int | None = None
) -> Path:
    """The picks of `table`, flipped or swapped as `how` says, then times `scale`; with a seed anywhere."""
    from cryobox.formats import read_particles

    picks = read_particles(table, recipe=Recipe(box=64))
    y, x = picks.y, picks.x
    if "x" in how:
        x = shape[1] - 1 - x
    if "y" in how:
        y = shape[0] - 1 - y
    if "swap" in how:
        y, x = x, y
    if seed is not None:
        y, x = np.random.default_rng(seed).uniform(0, 1, (2, len(y))) * np.array(shape)[:, None]
    names = [picks.micrograph_names[m] for m in picks.micrograph]
    columns = {
        "rlnMicrographName": names,
        "rlnCoordinateX": (x * scale).tolist(),
        "rlnCoordinateY": (y * scale).tolist(),
    }
    return synth.write_star(target, {"particles": columns})


HOW = {
    "": FITS,
    "x": "use --flip-x",
    "y": "use --flip-y",
    "xy": "use --flip-x --flip-y",
    "swap": "swap the coordinate columns",
}
SCALES = {4: "0.25", 3: "0.3333", 2: "0.5", 1 / 2: "2", 1 / 3: "3", 1 / 4: "4"}


def real_exposure(real_data: Path, tmp_path: Path, how: str = "", **words: float) -> Inputs:
    moved = rewritten(real_data / "picks" / "fei-extended.star", tmp_path / "picks.star", (3838, 3710), how, **words)  # type: ignore[arg-type]
    table = real_data / "picks" / "fei-extended_micrographs.star"
    return prepare(Given.of(moved, table, real_data), recipe=Recipe(box=256))


@pytest.mark.real
@pytest.mark.parametrize("how", HOW)
def test_picks_flipped_on_purpose_are_noticed_on_a_real_exposure(real_data: Path, tmp_path: Path, how: str) -> None:
    found = check_fit(real_exposure(real_data, tmp_path, how))
    assert found.verdict == HOW[how]
    assert bool(found.warning) == bool(how)


@pytest.mark.real
@pytest.mark.parametrize("scale", SCALES)
def test_picks_of_another_binning_are_noticed_on_a_real_exposure(real_data: Path, tmp_path: Path, scale: float) -> None:
    found = check_fit(real_exposure(real_data, tmp_path, scale=scale))
    assert found.verdict == f"try --coord-scale {SCALES[scale]}"
    assert found.verdict in found.warning


@pytest.mark.real
def test_random_picks_on_a_real_exposure_sit_on_nothing(real_data: Path, tmp_path: Path) -> None:
    found = [check_fit(real_exposure(real_data, tmp_path, seed=seed)) for seed in range(10)]
    assert {one.verdict for one in found} <= {NOTHING, CANNOT_TELL}
    assert sum(one.verdict == NOTHING for one in found) >= 8
    assert all(bool(one.warning) == (one.verdict == NOTHING) for one in found)


@pytest.mark.parametrize("how", HOW)
def test_simulated_picks_flipped_on_purpose_are_noticed(tmp_path: Path, how: str) -> None:
    data = make_dataset(tmp_path, micrographs=2)
    moved = rewritten(data.picks, tmp_path / "moved.star", SHAPE, how)
    found = check_fit(prepare(Given.of(moved, data.micrographs, data.folder), recipe=Recipe(box=160)))
    assert found.verdict == HOW[how]


@pytest.mark.parametrize("scale", SCALES)
def test_simulated_picks_of_another_binning_are_noticed_flipped_or_not(tmp_path: Path, scale: float) -> None:
    data = make_dataset(tmp_path, micrographs=3)
    for how, flips in (("", ""), ("y", ", use --flip-y")):
        moved = rewritten(data.picks, tmp_path / "moved.star", SHAPE, how, scale=scale)
        found = check_fit(prepare(Given.of(moved, data.micrographs, data.folder), recipe=Recipe(box=160)))
        assert found.verdict == f"try --coord-scale {SCALES[scale]}{flips}"


def test_options_that_were_given_are_what_the_remedy_starts_from(tmp_path: Path) -> None:
    data = make_dataset(tmp_path, micrographs=3)
    plain = rewritten(data.picks, tmp_path / "plain.star", SHAPE)
    for recipe, remedy in (
        (Recipe(box=160, flip_x=True), "leave out --flip-x"),
        (Recipe(box=160, coordinate_scale=0.25), "leave out --coord-scale"),
        (Recipe(box=160, coordinate_scale=0.5, flip_y=True), "leave out --flip-y --coord-scale"),
    ):
        found = check_fit(prepare(Given.of(plain, data.micrographs, data.folder), recipe=recipe))
        assert found.verdict == remedy
    halves = rewritten(data.picks, tmp_path / "halves.star", SHAPE, scale=1 / 8)
    found = check_fit(
        prepare(Given.of(halves, data.micrographs, data.folder), recipe=Recipe(box=160, coordinate_scale=2))
    )
    assert found.verdict == "try --coord-scale 8"


def test_positions_alone_tell_of_a_part_of_the_field_and_of_what_lies_beside_it(tmp_path: Path) -> None:
    """On noise, where pixels say nothing."""
    rng = np.random.default_rng(1)
    for index in range(4):
        synth.write_mrc(tmp_path / f"m{index}.mrc", rng.normal(9, 1, (512, 640)).astype(np.float32), pixel_size=2.0)

    def said(size: float, first: float = 0.0, micrographs: int = 4) -> str:
        place = first + rng.uniform(0, size, (40, 2))
        columns = {
            "rlnMicrographName": [f"m{i % micrographs}.mrc" for i in range(40)],
            "rlnCoordinateX": (place[:, 1] * 640).tolist(),
            "rlnCoordinateY": (place[:, 0] * 512).tolist(),
        }
        table = synth.write_star(tmp_path / "picks.star", {"particles": columns})
        return check_fit(prepare(Given.of(table, f"{tmp_path}/m*.mrc", tmp_path), recipe=Recipe(box=64))).warning

    assert said(1.0) == ""
    assert "all 40 picks lie in one part of their micrographs" in (quarter := said(0.25))
    assert "try --coord-scale 4" in quarter
    assert "is that meant?" in said(0.3, 0.5)
    assert said(0.25, micrographs=2) == ""
    assert "picks lie outside their micrographs" in (beside := said(4.0))
    assert "try --coord-scale 0.25" in beside


def test_pure_noise_gives_no_alarm_in_200_seeds(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    noise = rng.normal(100, 8, (768, 1024)).astype(np.float32)
    noise += np.cumsum(rng.normal(0, 0.3, noise.shape), axis=1).astype(np.float32)  # thickness that drifts
    synth.write_mrc(tmp_path / "noise.mrc", noise, pixel_size=1.2)
    for seed in range(200):
        picks = np.random.default_rng(seed).uniform(0, 1, (80, 2)) * (1024, 768)
        columns = {
            "rlnMicrographName": ["noise.mrc"] * 80,
            "rlnCoordinateX": picks[:, 0].tolist(),
            "rlnCoordinateY": picks[:, 1].tolist(),
        }
        table = synth.write_star(tmp_path / "picks.star", {"particles": columns})
        found = check_fit(prepare(Given.of(table, tmp_path / "noise.mrc", tmp_path), recipe=Recipe(box=96)))
        assert found.warning == ""
        assert found.verdict == CANNOT_TELL


def test_right_picks_of_every_kind_give_no_alarm_and_moved_ones_are_found() -> None:
    """A part of what `python -m bench.right_picks` does with 1,000 sets."""
    found = try_sets(2 * len(KINDS), seed=7, moves=len(KINDS))
    assert found["alarms"] == []
    assert sum(kind.get(FITS, 0) for kind in found["right"].values()) >= 1.5 * len(KINDS)
    assert found["moved"]["x flipped"].get("use --flip-x", 0) >= 0.6 * len(KINDS)


def test_few_picks_say_nothing(tmp_path: Path) -> None:
    data = make_dataset(tmp_path, micrographs=1, picks=8)
    found = check_fit(prepare(Given.of(data.picks, data.micrographs, data.folder), recipe=Recipe(box=160)))
    assert found.warning == ""
    assert found.verdict == CANNOT_TELL
    assert "too few" in found.told


def test_a_micrograph_that_cannot_be_read_is_left_to_the_run(tmp_path: Path) -> None:
    data = make_dataset(tmp_path, micrographs=3)
    inputs = prepare(Given.of(data.picks, data.micrographs, data.folder), recipe=Recipe(box=160))
    data.images[0].write_bytes(b"")
    assert check_fit(inputs).micrographs == 2


def test_what_a_mirror_does_to_ctf_and_alignments_is_said_with_the_remedy(tmp_path: Path) -> None:
    data = make_dataset(tmp_path, micrographs=3)
    moved = rewritten(data.picks, tmp_path / "moved.star", SHAPE, "y")
    text = moved.read_text().rstrip("\n").split("\n")
    last = max(i for i, line in enumerate(text) if line.startswith("_rln"))
    text[last] += "\n_rlnDefocusU #4\n_rlnDefocusV #5\n_rlnDefocusAngle #6\n_rlnAnglePsi #7"
    moved.write_text(
        "\n".join(f"{line} 15000 14000 30 12" if line.startswith("micrographs/") else line for line in text)
    )
    given = Given.of(moved, data.micrographs, data.folder)
    said = check_fit(prepare(given, recipe=Recipe(box=160))).warning
    assert "use --flip-y; the picks bring CTF values of their own: these are mirrored with them" in said
    assert "leave them out with --drop-alignments" in said
    without = Recipe(box=160, drop_alignments=True, refresh_ctf=True)
    assert check_fit(prepare(given, recipe=without)).warning.endswith("use --flip-y")


def test_a_run_warns_in_every_channel_and_leaves_the_exit_code_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_dataset(tmp_path, micrographs=3)
    moved = rewritten(data.picks, tmp_path / "moved.star", SHAPE, "x")
    common = ["--micrographs", str(data.micrographs), "--box", "160", "--root", str(tmp_path)]
    out = tmp_path / "out"

    def ran(*more: str) -> str:
        with pytest.raises(SystemExit) as finished:
            main(["extract", str(moved), *common, "--out", str(out), "--no-fsync", *more])
        assert finished.value.code == 0
        shown = capsys.readouterr()
        return shown.err + shown.out

    said = "fit much better with x flipped"
    shown = ran("--no-report")
    assert said in shown
    assert "check      use --flip-x: contrast of" in shown
    assert said in " ".join(json.loads((out / "job.json").read_text())["warnings"])
    assert said in (out / "run.log").read_text()
    assert not verify(out).problems
    assert said in ran("--json", "--no-report")
    assert said in ran("--dry-run")
    assert said not in ran("--no-check-picks", "--no-report")
    with pytest.raises(SystemExit):
        main(["info", str(moved), *common])
    info = capsys.readouterr()
    assert "use --flip-x: contrast of" in info.out
    assert "(clear)" in info.out
    assert "use --flip-x" in info.err


def cut(data: Dataset, picks: Path, out: Path, *, overwrite: bool = False, check: bool = True) -> cryobox.RunResult:
    options = cryobox.RunOptions(fsync=False, check_picks=check, overwrite=overwrite)
    return cryobox.run(
        picks, micrographs=data.micrographs, root=data.folder, out=out, recipe=Recipe(box=160), options=options
    )


def test_the_check_changes_no_byte_of_stacks_and_tables_and_a_run_resumes_with_it_or_without(tmp_path: Path) -> None:
    data = make_dataset(tmp_path, micrographs=3)
    moved = rewritten(data.picks, tmp_path / "moved.star", SHAPE, "x")
    out = tmp_path / "out"

    def made() -> dict[str, bytes]:
        found = [*out.glob("*.star"), *out.glob("stacks/*")]
        return {path.name: path.read_bytes() for path in found}

    checked = cut(data, moved, out)
    assert checked.fit.startswith("use --flip-x")
    with_check = made()
    assert len(with_check) == 5
    plain = cut(data, moved, out, check=False)
    assert (plain.resumed, plain.fit, plain.extracted) == (3, "", checked.extracted)
    assert made() == with_check
    plain = cut(data, moved, out, check=False, overwrite=True)
    assert (plain.resumed, plain.exit_code) == (0, checked.exit_code)
    assert made() == with_check
    assert cut(data, moved, out).resumed == 3


def test_a_check_that_fails_ends_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def singular(*_: object) -> None:
        raise np.linalg.LinAlgError("Singular matrix")

    monkeypatch.setattr(np.linalg, "solve", singular)
    data = make_dataset(tmp_path, micrographs=3)
    found = cut(data, data.picks, tmp_path / "out")
    assert found.fit == "cannot tell: the check itself failed (LinAlgError: Singular matrix)"
    assert (found.exit_code, found.resumed, found.warnings) == (0, 0, ())
    assert found.extracted


@pytest.mark.parametrize("level", [0.0, 7.0, np.nan, 3e38, "noise of 1e38", "half nan", "one hot pixel"])
def test_gray_levels_of_any_kind_neither_fail_nor_fool_the_check(tmp_path: Path, level: float | str) -> None:
    rng = np.random.default_rng(3)
    image = np.full((512, 640), level if isinstance(level, float) else 1.0, np.float32)
    if level == "noise of 1e38":
        image = (rng.choice([-1, 1], image.shape) * 1e38).astype(np.float32)
    elif level == "half nan":
        image = rng.normal(9, 1, image.shape).astype(np.float32)
        image[:, :320] = np.nan
    elif level == "one hot pixel":
        image[200, 300] = 1e30
    synth.write_mrc(tmp_path / "m.mrc", image, pixel_size=2.0)
    place = rng.uniform(40, 470, (60, 2))
    columns = {
        "rlnMicrographName": ["m.mrc"] * 60,
        "rlnCoordinateX": place[:, 1].tolist(),
        "rlnCoordinateY": place[:, 0].tolist(),
    }
    table = synth.write_star(tmp_path / "picks.star", {"particles": columns})
    found = looked_at(
        prepare(Given.of(table, tmp_path / "m.mrc", tmp_path), recipe=Recipe(box=64)),
        cryobox.RunOptions(),
        workers=1,
    )
    assert found.fit.startswith(CANNOT_TELL)
    assert "failed" not in found.fit
    assert not any("fit" in text or "nothing" in text for text in found.plan.warnings)


def test_shards_look_once_and_merge_hands_it_on(tmp_path: Path) -> None:
    data = make_dataset(tmp_path, micrographs=3)
    moved = rewritten(data.picks, tmp_path / "moved.star", SHAPE, "x")
    results = [
        cryobox.run(
            moved, micrographs=data.micrographs, root=tmp_path, out=tmp_path / "out", recipe=Recipe(box=160),
            options=cryobox.RunOptions(fsync=False, shard=(index, 2)),
        )
        for index in (1, 2)
    ]  # fmt: skip
    assert [any("x flipped" in text for text in one.warnings) for one in results] == [True, False]
    merged = merge(tmp_path / "out")
    assert any("x flipped" in text for text in merged.warnings)
