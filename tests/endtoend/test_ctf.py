"""Runs that apply the CTF: from which table it comes, what tables say of the images, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import cryobox
import synth
from cryobox.cli import main
from cryobox.errors import InputError, OptionError
from cryobox.verification import verify
from star_tables import columns

SHAPE = (260, 300)
FAST = cryobox.RunOptions(fsync=False)
DEFOCUS = {"rlnDefocusU": [12000.0], "rlnDefocusV": [11500.0], "rlnDefocusAngle": [35.0]}


def tables(
    folder: Path, *, fit: dict[str, Any] | None = None, own: dict[str, Any] | None = None, **optics: Any
) -> tuple[Path, Path]:
    """Four picks on one micrograph; `fit` is the micrograph's CTF, `own` columns of the picks."""
    synth.write_mrc(folder / "m.mrc", synth.micrograph(SHAPE, seed=1).astype(np.float32), pixel_size=2.0)
    groups: dict[str, Any] = {
        "rlnOpticsGroupName": ["g"], "rlnOpticsGroup": [1], "rlnVoltage": [300.0], "rlnSphericalAberration": [2.7],
        "rlnAmplitudeContrast": [0.1], "rlnMicrographPixelSize": [2.0], **optics,
    }  # fmt: skip
    rows = {"rlnMicrographName": ["m.mrc"], "rlnOpticsGroup": [1], **(DEFOCUS if fit is None else fit)}
    picked: dict[str, Any] = {
        "rlnMicrographName": ["m.mrc"] * 4, "rlnOpticsGroup": [1] * 4,
        "rlnCoordinateX": [60, 150, 220, 100], "rlnCoordinateY": [70, 90, 180, 200], **(own or {}),
    }  # fmt: skip
    picks = synth.write_star(folder / "picks.star", {"optics": groups, "particles": picked})
    return picks, synth.write_star(folder / "mics.star", {"optics": groups, "micrographs": rows})


def extract(folder: Path, given: tuple[Path, Path], out: str = "out", **asked: Any) -> cryobox.RunResult:
    recipe = cryobox.Recipe(**{"box": 64, "ctf": "premultiply", **asked})
    return cryobox.run(given[0], micrographs=given[1], out=folder / out, recipe=recipe, options=FAST, root=folder)


def exit_code(command: list[str]) -> object:
    with pytest.raises(SystemExit) as ended:
        main(command)
    return ended.value.code


def optics(out: Path) -> dict[str, list[str]]:
    return columns(out / "particles.star", "optics")


def test_tables_say_what_was_done_whatever_they_said_before(tmp_path: Path) -> None:
    before: dict[str, Any] = {"rlnCtfDataAreCtfPremultiplied": [1], "rlnCtfDataArePhaseFlipped": [1]}
    given = tables(tmp_path, **before)
    extract(tmp_path, given, "premultiplied")
    told = extract(tmp_path, given, "flipped", ctf="flip")
    extract(tmp_path, given, "plain", ctf=None)
    said = {name: optics(tmp_path / name) for name in ("premultiplied", "flipped", "plain")}
    flags = {
        name: [of[f"_rlnCtfDataAre{what}"] for what in ("CtfPremultiplied", "PhaseFlipped")]
        for name, of in said.items()
    }
    assert flags == {
        "premultiplied": [["1"], ["0"]], "flipped": [["0"], ["1"]], "plain": [["0"], ["0"]],
    }  # fmt: skip
    assert any("--ctf_phase_flipped" in text for text in told.warnings)


def test_a_table_that_says_nothing_of_flipped_phases_goes_on_saying_nothing(tmp_path: Path) -> None:
    extract(tmp_path, tables(tmp_path), ctf=None)
    assert optics(tmp_path / "out")["_rlnCtfDataAreCtfPremultiplied"] == ["0"]
    assert "_rlnCtfDataArePhaseFlipped" not in optics(tmp_path / "out")


def images(out: Path, box: int = 64) -> NDArray[np.float32]:
    return np.fromfile(next((out / "stacks").iterdir()), np.float32, offset=1024).reshape(-1, box, box)


def test_sub_particles_in_one_place_at_several_depths_have_images_of_their_own(tmp_path: Path) -> None:
    on_edge = {f"rlnAngle{name}": [0.0] * 4 for name in ("Rot", "Tilt", "Psi")}
    shifts = {"rlnOriginXAngst": [0.0] * 4, "rlnOriginYAngst": [0.0] * 4}
    given = tables(tmp_path, own=on_edge | shifts)
    asked = {"subparticles": "0,0,300; 0,0,-300", "adjust_defocus": True}
    extract(tmp_path, given, "plain", ctf=None, **asked)
    assert len(images(tmp_path / "plain")) == 4
    extract(tmp_path, given, "treated", **asked)
    found = images(tmp_path / "treated")
    assert len(found) == 8
    assert not verify(tmp_path / "treated", everything=True).problems
    for depth in (300.0, -300.0):
        defocus = {"rlnDefocusU": [12000.0 - depth], "rlnDefocusV": [11500.0 - depth], "rlnDefocusAngle": [35.0]}
        extract(tmp_path, tables(tmp_path, fit=defocus), f"by hand {depth:g}")
        wanted = images(tmp_path / f"by hand {depth:g}")
        some = found[0 if depth > 0 else 1 :: 2]
        assert {one.tobytes() for one in some} == {one.tobytes() for one in wanted}


def test_a_point_of_the_reference_takes_its_depth_into_the_ctf(tmp_path: Path) -> None:
    on_edge = {f"rlnAngle{name}": [0.0] * 4 for name in ("Rot", "Tilt", "Psi")}
    shifts = {"rlnOriginXAngst": [0.0] * 4, "rlnOriginYAngst": [0.0] * 4}
    extract(tmp_path, tables(tmp_path, own=on_edge | shifts), recenter_3d="0,0,500", adjust_defocus=True)
    defocus = {"rlnDefocusU": [11500.0], "rlnDefocusV": [11000.0], "rlnDefocusAngle": [35.0]}
    extract(tmp_path, tables(tmp_path, fit=defocus), "by hand")
    np.testing.assert_array_equal(images(tmp_path / "out"), images(tmp_path / "by hand"))


def test_picks_with_a_defocus_are_treated_with_theirs_and_copies_share_only_equal_ones(tmp_path: Path) -> None:
    own = {
        "rlnDefocusU": [9000.0, 9000.0, 15000.0, 15000.0], "rlnDefocusV": [9000.0] * 4, "rlnDefocusAngle": [0.0] * 4,
        "rlnCoordinateX": [60] * 4, "rlnCoordinateY": [70] * 4, "rlnImageName": ["1@a.mrcs"] * 4,
    }  # fmt: skip
    extract(tmp_path, tables(tmp_path, own=own))
    stack = images(tmp_path / "out")
    assert len(stack) == 2
    assert np.abs(stack[0] - stack[1]).max() > 0.1
    assert not verify(tmp_path / "out", everything=True).problems


def test_a_pick_whose_defocus_is_no_number_is_rejected_with_the_reason(tmp_path: Path) -> None:
    own = {"rlnDefocusU": [9e3, "nan", 9e3, 9e3], "rlnDefocusV": [9e3] * 4, "rlnDefocusAngle": [0.0, 0.0, "inf", 0.0]}
    result = extract(tmp_path, tables(tmp_path, own=own))
    assert result.extracted == 2
    rejected = columns(tmp_path / "out" / "rejected.star")
    assert set(rejected["_cryoboxRejectReason"]) == {"no CTF: values that are not finite numbers"}
    assert not verify(tmp_path / "out", everything=True).problems


@pytest.mark.parametrize(
    ("fit", "asked", "error", "message"),
    [
        ({}, {}, InputError, "no CTF values"),
        ({"rlnDefocusU": [12000.0]}, {}, InputError, "no rlnDefocusV"),
        (None, {"tables": "cryosparc"}, OptionError, "--ctf-unmarked"),
        (None, {"tables": "both"}, OptionError, "--ctf-unmarked"),
        (None, {"ctf": None, "ctf_box": 96}, OptionError, "give ctf, too"),
        (None, {"ctf_box": 62}, OptionError, "at least the box"),
        (None, {"ctf_box": 96, "box_angstrom": 128.0}, OptionError, "--box-angstrom gives each pixel size a box"),
    ],
)
def test_what_cannot_be_done_is_refused(tmp_path: Path, fit: Any, asked: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        extract(tmp_path, tables(tmp_path, fit=fit), **asked)


def test_a_voltage_in_volts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="rlnVoltage .* is 300000 where the CTF comes from"):
        extract(tmp_path, tables(tmp_path, rlnVoltage=[300000.0]))


def test_a_microscope_without_a_voltage_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="rlnVoltage .* is 0 where the CTF comes from"):
        extract(tmp_path, tables(tmp_path, rlnVoltage=[0.0]))


def test_cryosparcs_tables_are_written_for_those_who_know(tmp_path: Path) -> None:
    extract(tmp_path, tables(tmp_path), tables="both", ctf_unmarked=True)
    assert (tmp_path / "out" / "particles.cs").exists()
    assert not verify(tmp_path / "out", everything=True).problems


def as_cs(folder: Path, **fields: Any) -> tuple[Path, Path]:
    """The picks of `tables` as CryoSPARC has them; `fields` of the particles."""
    of_ctf = {
        "ctf/accel_kv": 300.0, "ctf/cs_mm": 2.7, "ctf/amp_contrast": 0.1, "ctf/df1_A": 12000.0, "ctf/df2_A": 11500.0,
        "ctf/df_angle_rad": np.radians(35.0), "ctf/phase_shift_rad": 0.0, "ctf/scale": 1.0, "ctf/bfactor": 0.0,
    }  # fmt: skip
    rows = {
        "uid": np.arange(1, 5, dtype="<u8"), "location/micrograph_uid": np.full(4, 7, "<u8"),
        "location/micrograph_path": np.full(4, b"m.mrc"),
        "location/micrograph_shape": np.tile(np.array(SHAPE, "<u4"), (4, 1)),
        "location/center_x_frac": (np.array([60, 150, 220, 100]) / SHAPE[1]).astype("<f4"),
        "location/center_y_frac": (np.array([70, 90, 180, 200]) / SHAPE[0]).astype("<f4"),
        **{name: np.full(4, value, "<f4") for name, value in of_ctf.items()},
        **fields,
    }  # fmt: skip
    exposures = {
        "uid": np.array([7], "<u8"), "micrograph_blob/path": np.array([b"m.mrc"]),
        "micrograph_blob/idx": np.zeros(1, "<u4"), "micrograph_blob/shape": np.array([SHAPE], "<u4"),
        "micrograph_blob/psize_A": np.full(1, 2.0, "<f4"),
    }  # fmt: skip
    return synth.write_cs(folder / "picks.cs", rows), synth.write_cs(folder / "exposures.cs", exposures)


@pytest.mark.parametrize("where", ["particles", "exposures"])
def test_cryosparcs_fields_give_the_images_that_relions_columns_give(tmp_path: Path, where: str) -> None:
    same: dict[str, Any] = {"box": 64, "ctf": "premultiply", "style": "cryosparc", "ctf_unmarked": True}
    extract(tmp_path, tables(tmp_path, fit=DEFOCUS | {"rlnPhaseShift": [20.0]}), "star", invert=False)
    phase = {"ctf/phase_shift_rad": np.full(4, np.radians(20.0), "<f4")}
    picks, exposures = as_cs(tmp_path, **phase)
    if where == "exposures":  # the whole fit stands there, and the picks have none
        table = np.load(picks)
        fit = [name for name in table.dtype.names if name.startswith("ctf/")]
        of_files = {name: np.load(exposures)[name] for name in np.load(exposures).dtype.names}
        picks = synth.write_cs(picks, {name: table[name] for name in table.dtype.names if name not in fit})
        exposures = synth.write_cs(exposures, of_files | {name: table[name][:1] for name in fit})
    extract(tmp_path, (picks, exposures), "cs", **same)
    np.testing.assert_allclose(images(tmp_path / "cs"), images(tmp_path / "star"), atol=2e-5)
    assert not verify(tmp_path / "cs", everything=True).problems


def test_aberrations_of_which_no_rule_is_public_are_refused(tmp_path: Path) -> None:
    tables(tmp_path)
    given = as_cs(tmp_path, **{"ctf/tetra_A": np.ones((4, 4), "<f4")})
    with pytest.raises(OptionError, match="ctf/tetra_A are not zero, and no public rule"):
        extract(tmp_path, given, ctf_unmarked=True)


def test_cryosparcs_tables_are_refused(tmp_path: Path) -> None:
    tables(tmp_path)
    with pytest.raises(OptionError, match="no field that says that a CTF was applied.*--ctf-unmarked"):
        extract(tmp_path, as_cs(tmp_path))


def test_relions_table_of_cryosparcs_picks_says_what_was_done(tmp_path: Path) -> None:
    tables(tmp_path)
    for ctf, flags in (("premultiply", ["1", "0"]), ("flip", ["0", "1"])):
        extract(tmp_path, as_cs(tmp_path), ctf, ctf=ctf, tables="relion")
        told = optics(tmp_path / ctf)
        assert [told["_rlnCtfDataAreCtfPremultiplied"], told["_rlnCtfDataArePhaseFlipped"]] == [[one] for one in flags]
        assert not verify(tmp_path / ctf, everything=True).problems


def test_windows_over_the_edge_are_treated_with_the_mean_of_the_repaired_micrograph(tmp_path: Path) -> None:
    own = {"rlnCoordinateX": [3, 150, 299, 100], "rlnCoordinateY": [70, 2, 180, 259]}
    given = tables(tmp_path, own=own)
    asked: dict[str, Any] = {"edges": "pad", "hot_pixels": 4.0, "white_dust": 3.0, "ctf_box": 96, "sizes": (64, 32)}
    extract(tmp_path, given, **asked)
    assert not verify(tmp_path / "out", everything=True).problems


def test_shards_and_workers_give_the_same_bits(tmp_path: Path) -> None:
    given = tables(tmp_path, own={"rlnCoordinateX": [3, 150, 299, 100]})
    for micrograph in ("a.mrc", "b.mrc"):
        synth.write_mrc(tmp_path / micrograph, synth.micrograph(SHAPE, seed=3).astype(np.float32), pixel_size=2.0)
    names = ["m.mrc", "a.mrc", "b.mrc"]
    text = given[0].read_text().replace("m.mrc", "a.mrc", 2)
    given[0].write_text(text)
    groups: dict[str, Any] = {
        "rlnOpticsGroupName": ["g"], "rlnOpticsGroup": [1], "rlnVoltage": [300.0], "rlnSphericalAberration": [2.7],
        "rlnAmplitudeContrast": [0.1], "rlnMicrographPixelSize": [2.0],
    }  # fmt: skip
    fit = {tag: value * 3 for tag, value in DEFOCUS.items()}
    rows: dict[str, Any] = {"rlnMicrographName": names, "rlnOpticsGroup": [1] * 3, **fit}
    synth.write_star(given[1], {"optics": groups, "micrographs": rows})
    asked = cryobox.Recipe(box=64, ctf="flip", edges="pad", ctf_box=80)
    whole = cryobox.RunOptions(fsync=False, workers=2, threads=2)
    cryobox.run(given[0], micrographs=given[1], out=tmp_path / "one", recipe=asked, options=whole, root=tmp_path)
    for shard in ((1, 2), (2, 2)):
        options = cryobox.RunOptions(fsync=False, workers=1, shard=shard)
        cryobox.run(given[0], micrographs=given[1], out=tmp_path / "two", recipe=asked, options=options, root=tmp_path)
    stacks = sorted(path.name for path in (tmp_path / "one" / "stacks").iterdir())
    assert len(stacks) == 2
    for name in stacks:
        assert (tmp_path / "one/stacks" / name).read_bytes() == (tmp_path / "two/stacks" / name).read_bytes()


def test_gpus_are_refused_by_name(tmp_path: Path) -> None:
    picks, micrographs = tables(tmp_path)
    with pytest.raises(OptionError, match="--ctf: the core for GPUs has no such step"):
        cryobox.run(
            picks, micrographs=micrographs, out=tmp_path / "out", root=tmp_path,
            recipe=cryobox.Recipe(box=64, ctf="flip"), options=cryobox.RunOptions(gpus=("cuda:0",)),
        )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "ctf"),
    [
        (["--phase-flip"], "flip"),
        (["--premultiply-ctf"], "premultiply"),
        (["--premultiply-ctf", "--ctf", "premultiply"], "premultiply"),
    ],
)
def test_relions_words_mean_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], ctf: str
) -> None:
    picks, micrographs = tables(tmp_path)
    monkeypatch.chdir(tmp_path)
    command = ["extract", str(picks), "-m", str(micrographs), "-o", "out", "--box", "64", "--no-fsync", *words]
    assert exit_code(command) == 0
    assert f'"ctf": "{ctf}"' in (tmp_path / "out" / "job.json").read_text()


def test_flipping_and_multiplying_together_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    picks, micrographs = tables(tmp_path)
    monkeypatch.chdir(tmp_path)
    command = ["extract", str(picks), "-m", str(micrographs), "-o", "out", "--box", "64", "--phase-flip"]
    assert exit_code([*command, "--premultiply-ctf"]) == 2
    assert "contradict each other" in capsys.readouterr().err
