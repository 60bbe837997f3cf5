"""Each kind of difference is found where it was planted, nothing else is, and neither order nor sides matter."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from comparison.makers import PLANTS, Plant, Rows, at, rows, write
from cryobox.comparison import Comparison, compare_particles
from cryobox.comparison.telling import as_json, lines
from synth import write_mrc

KINDS = ("star", "cs")


def pair(folder: Path, a: Rows, b: Rows, kinds: tuple[str, str] = ("star", "star")) -> tuple[Path, Path]:
    return write(folder / "a", a, kinds[0]), write(folder / "b", b, kinds[1])


def compared(folder: Path, a: Rows, b: Rows, kinds: tuple[str, str] = ("star", "star"), **options: Any) -> Comparison:
    return compare_particles(*pair(folder, a, b, kinds), **{"sample": None} | options)


@pytest.mark.parametrize("kinds", [(one, other) for one in KINDS for other in KINDS], ids="-".join)
def test_the_same_particles_agree_in_either_family(kinds: tuple[str, str], tmp_path: Path) -> None:
    found = compared(tmp_path, rows(), rows(), kinds)
    assert found.differences == ()
    rule = "uid" if kinds == ("cs", "cs") else "micrograph and position"
    assert found.pairs.rules == {rule: 30}
    assert {result.rows for result in found.values} == {30}
    assert len(found.pixels.pairs) == 30


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.name)
def test_a_planted_difference_is_told_and_nothing_else_is(plant: Plant, tmp_path: Path) -> None:
    found = compared(tmp_path, rows(), plant.change(rows()))
    assert found.differences == plant.told
    assert number_of(found) == plant.count


def number_of(found: Comparison) -> int:
    """Rows or pairs that differ."""
    values = max(result.differing for result in found.values)
    return max(values, found.pixels.differing, len(found.only_a), len(found.only_b))


@pytest.mark.parametrize("kinds", [("star", "star"), ("star", "cs")], ids="-".join)
@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.name)
def test_a_and_b_tell_the_same_as_b_and_a(plant: Plant, kinds: tuple[str, str], tmp_path: Path) -> None:
    a, b = pair(tmp_path, rows(), plant.change(rows()), kinds)
    one, other = compare_particles(a, b, sample=12), compare_particles(b, a, sample=12)
    assert sorted(zip(one.pairs.a.tolist(), one.pairs.b.tolist(), strict=True)) == sorted(
        zip(other.pairs.b.tolist(), other.pairs.a.tolist(), strict=True)
    )
    assert summary(one) == summary(other, turned=True)


def test_rows_in_another_order_change_nothing(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    b = rows()
    for name in ("a moved coordinate", "doubled rows", "missing rows", "other optics", "swapped images"):
        plant = next(plant for plant in PLANTS if plant.name == name)
        b = plant.change(rows())
        first = compared(tmp_path / name, rows(), b, sample=10)
        for k in range(3):
            mixed = rows().take(rng.permutation(30)), b.take(rng.permutation(len(b)))
            assert summary(compared(tmp_path / name / str(k), *mixed, sample=10)) == summary(first)


def summary(found: Comparison, *, turned: bool = False) -> dict[str, Any]:
    """What is told, without numbers of rows and with the sides named in one order."""
    told = as_json(found)
    sides = [told[name]["only"] | {"listed": None} for name in ("b", "a")[:: 1 if turned else -1]]
    swap = {"A": "B", "B": "A"} if turned else {"A": "A", "B": "B"}
    values = {
        name: {key: value for key, value in one.items() if key not in ("worst_rows", "only")}
        | {"only": swap.get(one["only"])}
        for name, one in told["values"].items()
    }
    pixels = {
        key: told["pixels"][key] for key in ("pairs", "other_size", "measure", "allowed", "differing", "inverted")
    }
    numbers = {
        key: [None if value is None else round(value, 9) + 0.0 for value in told["pixels"][key].values()]
        for key in ("correlation", "stored", "fitted", "below_nyquist")
    }
    return {"only": sides, "values": values, "pixels": pixels, "rules": told["matched"]["rules"], "numbers": numbers}


def test_what_is_told_fits_80_columns(tmp_path: Path) -> None:
    b = PLANTS[0].change(PLANTS[12].change(rows()))
    told = list(lines(compared(tmp_path, rows(), b)))
    assert [line for line in told if len(line) > 80 and "/" not in line] == []
    assert any(line.startswith("position") and line.split()[1:4] == ["28", "1", "0.4"] for line in told)


def test_inverted_contrast_is_said_once(tmp_path: Path) -> None:
    told = list(lines(compared(tmp_path, rows(), replace(rows(), images=-rows().images))))
    assert [line.strip() for line in told if "contrast:" in line] == [
        "contrast: inverted in 30 of 30 pairs (scale below 0)"
    ]


def test_inverted_and_scaled_images_agree_after_a_fit(tmp_path: Path) -> None:
    b = replace(rows(), images=np.float32(3) - np.float32(1.5) * rows().images)
    found = compared(tmp_path, rows(), b, pixels="fitted")
    assert found.differences == ()
    np.testing.assert_allclose(found.pixels.scale, -1.5, rtol=1e-6)
    np.testing.assert_allclose(found.pixels.offset, 3, rtol=1e-6)
    np.testing.assert_allclose(found.pixels.correlation, -1, rtol=1e-9)


def test_below_nyquist_neither_the_highest_frequency_nor_a_plane_counts(tmp_path: Path) -> None:
    y, x = np.mgrid[:16, :16]
    images = 1.2 * rows().images + 0.5 * (-1.0) ** y + 0.2 * x - 0.1 * y
    b = replace(rows(), images=images.astype(np.float32))
    assert compared(tmp_path / "one", rows(), b, pixels="fitted").differences == ("pixels",)
    assert compared(tmp_path / "two", rows(), b, pixels="below-nyquist").differences == ()


def test_a_note_says_by_which_measure_images_agree(tmp_path: Path) -> None:
    scaled = replace(rows(), images=rows().images * np.float32(1.5))
    assert "--pixels fitted" in compared(tmp_path / "one", rows(), scaled).notes[0]
    y = np.arange(16)[:, None]
    striped = replace(rows(), images=(rows().images + 0.5 * (-1.0) ** y).astype(np.float32))
    assert "--pixels below-nyquist" in compared(tmp_path / "two", rows(), striped).notes[0]


def test_float16_stacks_may_be_off_by_half_a_step(tmp_path: Path) -> None:
    b = replace(rows(), images=rows().images.astype(np.float16))
    found = compared(tmp_path, rows(), b)
    assert found.differences == ()
    assert found.pixels.stored.max() > 2e-6


def test_the_tolerance_for_pixels_can_be_chosen(tmp_path: Path) -> None:
    b = replace(rows(), images=rows().images * np.float32(1.001))
    assert compared(tmp_path / "one", rows(), b).differences == ("pixels",)
    assert compared(tmp_path / "two", rows(), b, tolerance=1e-2).differences == ()


def test_a_sample_is_drawn_again_with_its_seed_and_is_another_with_another(tmp_path: Path) -> None:
    a, b = pair(tmp_path, rows(), rows())
    chosen = [compare_particles(a, b, sample=8, seed=seed).pixels.pairs.tolist() for seed in (1, 1, 2)]
    assert chosen[0] == chosen[1] != chosen[2]
    assert len(chosen[0]) == 8


def test_the_angle_of_a_round_defocus_means_nothing(tmp_path: Path) -> None:
    a = replace(rows(), defocus_v=rows().defocus_u)
    assert compared(tmp_path, a, replace(a, angle=a.angle / 2)).differences == ()


def test_angles_half_a_turn_apart_are_one(tmp_path: Path) -> None:
    assert compared(tmp_path, rows(), replace(rows(), angle=rows().angle - 180)).differences == ()


def test_renamed_and_renumbered_optics_groups_are_the_same_groups(tmp_path: Path) -> None:
    assert compared(tmp_path, rows(), replace(rows(), group=5 - rows().group)).differences == ()


def test_groups_that_one_table_has_put_together_are_told(tmp_path: Path) -> None:
    found = compared(tmp_path, rows(), replace(rows(), group=np.zeros(30, np.int64)))
    assert found.differences == ("optics groups",)
    assert found.values[-1].differing == min(np.bincount(rows().group))


def test_a_ctf_that_only_one_table_has_is_a_difference(tmp_path: Path) -> None:
    a, b = pair(tmp_path, rows(), rows())
    text = b.read_text()
    for tag in ("DefocusU", "DefocusV", "DefocusAngle"):
        text = text.replace(f"_rln{tag} ", f"_other{tag} ")
    b.write_text(text)
    found = compare_particles(a, b)
    assert found.differences == ("defocus U", "defocus V", "defocus angle")
    assert {result.only for result in found.values if not result.agrees} == {"A"}


def test_coordinates_that_mean_the_same_pixel_are_noted(tmp_path: Path) -> None:
    a = rows()
    found = compared(tmp_path, a, replace(a, x=np.trunc(a.x), y=np.trunc(a.y)), within=2)
    assert found.differences == ("position",)
    assert "positions that differ mean the same whole pixel" in found.notes[0]


def test_the_defaults_of_the_command_are_those_of_the_function() -> None:
    import inspect

    from cryobox.cli.compare import compare

    ours = {name: one.default for name, one in inspect.signature(compare_particles).parameters.items()}
    command = {name: one.default for name, one in inspect.signature(compare).parameters.items()}
    shared = ("within", "sample", "seed", "tolerance", "pixels", "root")
    assert {name: command[name] for name in shared} == {name: ours[name] for name in shared}


def test_a_fit_is_judged_without_the_mean(tmp_path: Path) -> None:
    """Noise at a high mean is no more like other noise than without it."""
    rng = np.random.default_rng(3)
    level, shape = np.float32(1000), rows().images.shape
    a, b = (replace(rows(), images=level + rng.normal(0, 1, shape).astype(np.float32)) for _ in range(2))
    found = compared(tmp_path, a, b, pixels="fitted", tolerance=0.01)
    assert found.differences == ("pixels",)
    assert found.pixels.fitted.min() > 0.5


def test_images_of_another_size_do_not_hide_pixels_that_differ(tmp_path: Path) -> None:
    a, b = pair(tmp_path, rows(), at(rows(), "images", 0, 1.0))
    odd = tmp_path / "b" / rows().stack_job / "mic_1.mrcs"
    write_mrc(odd, np.zeros((30, 8, 8), np.float32), pixel_size=rows().pixel_size, stack=True)
    found = compare_particles(a, b, sample=None)
    assert found.differences == ("image sizes", "pixels")
    assert not any("the same but" in note for note in found.notes)
