"""Faults of tables, planted one at a time: files, numbers, sizes, and images that several rows name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import synth
from soundness.planted import check, faults, images, only_problem, stack

OPTICS: dict[str, Any] = {
    "rlnOpticsGroup": [1], "rlnOpticsGroupName": ["g"], "rlnImagePixelSize": [1.5], "rlnImageSize": [32],
}  # fmt: skip


def star(folder: Path, optics: Any = None, **columns: Any) -> Path:
    """Twelve particles, six in each of two stacks."""
    for name in "ab":
        stack(folder / f"{name}.mrcs", images(6, seed=ord(name)))
    rows: dict[str, list[Any]] = {
        "rlnImageName": [f"{i % 6 + 1:06d}@{'ab'[i // 6]}.mrcs" for i in range(12)],
        "rlnCoordinateX": list(range(12)),
        "rlnCoordinateY": list(range(12)),
        "rlnDefocusU": [12000.5] * 12,
        "rlnAnglePsi": [-3.25] * 12,
        "rlnOpticsGroup": [1] * 12,
    }
    return synth.write_star(folder / "p.star", {"optics": OPTICS | (optics or {}), "particles": rows | columns})


def cs(folder: Path, change: dict[str, Any] | None = None, more: dict[str, Any] | None = None) -> Path:
    """The same; `change` sets (field: (rows, value)), `more` adds fields."""
    for name in "ab":
        stack(folder / f"{name}.mrc", images(6, seed=ord(name)))
    columns: dict[str, Any] = {
        "uid": np.arange(1, 13, dtype=np.uint64),
        "blob/path": np.array([b">a.mrc"] * 6 + [b">b.mrc"] * 6),
        "blob/idx": np.tile(np.arange(6, dtype=np.uint32), 2),
        "blob/shape": np.full((12, 2), 32, np.uint32),
        "blob/psize_A": np.full(12, 1.5, np.float32),
        "alignments3D/shift": np.zeros((12, 2), np.float32),
        "ctf/df1_A": np.full(12, 12000, np.float32),
        **(more or {}),
    }
    for field, (rows, value) in (change or {}).items():
        columns[field][rows] = value
    return synth.write_cs(folder / "p.cs", columns)


def name(numbers: list[int]) -> dict[str, list[str]]:
    return {"rlnImageName": [f"{n}@{'ab'[i // 6]}.mrcs" for i, n in enumerate(numbers)]}


@pytest.mark.parametrize("make", [star, cs])
def test_a_sound_table_has_no_problem_and_neither_have_its_stacks(tmp_path: Path, make: Any) -> None:
    table, *stacks = check(make(tmp_path), images=True)
    assert (table.kind, table.problems, table.notes) == ("particles", (), ())
    assert table.counts == {"rows": 12, "stacks": 2, "images": 12}
    assert [(found.kind, found.problems, found.counts["checked"]) for found in stacks] == [("stack", (), 6)] * 2


def test_stacks_that_a_table_names_are_read_only_when_that_is_asked_for(tmp_path: Path) -> None:
    path = star(tmp_path)
    content = images(6)
    content[2] = 0
    stack(tmp_path / "b.mrcs", content)
    assert faults(path) == []
    assert faults(path, images=True) == ["constant"]


def test_a_stack_that_is_given_and_named_is_read_once(tmp_path: Path) -> None:
    path = star(tmp_path)
    assert len(check(tmp_path / "a.mrcs", path, images=True)) == 3


@pytest.mark.parametrize(("make", "lost"), [(star, "b.mrcs"), (cs, "b.mrc")])
def test_a_stack_that_is_not_there_is_told_with_its_rows(tmp_path: Path, make: Any, lost: str) -> None:
    path = make(tmp_path)
    (tmp_path / lost).unlink()
    fault, text, rows = only_problem(path)
    assert (fault, rows) == ("missing file", (7, 8, 9, 10, 11, 12))
    assert text.startswith(f"{path}: 1 of 2 stacks that it names are not there (")
    assert text.endswith("images of 6 rows; say with --root where the names start")


@pytest.mark.parametrize("make", [star, cs])
def test_a_stack_that_is_cut_short_is_told_with_the_rows_whose_images_it_lacks(tmp_path: Path, make: Any) -> None:
    path = make(tmp_path)
    (short,) = tmp_path.glob("b.mrc*")
    short.write_bytes(short.read_bytes()[:-5000])
    (found,) = check(path)
    assert [problem.fault.value for problem in found.problems] == ["damaged", "missing image"]
    assert found.problems[1].numbers == (11, 12)


def test_an_image_beyond_its_stack_is_told(tmp_path: Path) -> None:
    fault, text, rows = only_problem(star(tmp_path, **name([*range(1, 7), 1, 2, 3, 4, 5, 7])))
    assert (fault, rows) == ("missing image", (12,))
    assert f"(row 12: image 7 of {tmp_path}/b.mrcs, which holds 6)" in text
    assert only_problem(cs(tmp_path, {"blob/idx": (3, 6)}))[::2] == ("missing image", (4,))


def test_an_image_of_two_rows_is_told(tmp_path: Path) -> None:
    fault, text, rows = only_problem(star(tmp_path, **name([1, 2, 3, 4, 5, 5, 1, 2, 3, 1, 5, 6])))
    assert (fault, rows) == ("shared image", (6, 10))
    assert "2 of 12 rows name an image that a row before names (row 6: image 5 of" in text
    assert only_problem(cs(tmp_path, {"blob/idx": (4, 3)}))[::2] == ("shared image", (5,))


def test_symmetry_expansion_shares_images_knowingly(tmp_path: Path) -> None:
    twice = [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]
    path = star(tmp_path, **name(twice), rlnOriginalParticleName=[f"{n}@o.mrcs" for n in twice])
    (found,) = check(path)
    assert found.problems == ()
    assert found.notes == ("6 rows are copies of particles by symmetry expansion",)
    expanded = {"sym_expand/src_uid": np.repeat(np.arange(1, 7, dtype=np.uint64), 2)}
    shared = {"blob/idx": (slice(None), np.repeat(np.arange(6), 2)), "blob/path": (slice(None), b">a.mrc")}
    assert faults(cs(tmp_path, shared, expanded)) == []
    expanded["sym_expand/src_uid"][:] = 0
    assert faults(cs(tmp_path, shared, expanded)) == ["shared image"]


def test_another_pixel_size_than_the_header_s_is_told(tmp_path: Path) -> None:
    assert faults(star(tmp_path, {"rlnImagePixelSize": [1.501]})) == []
    fault, text, rows = only_problem(star(tmp_path, {"rlnImagePixelSize": [3.0]}))
    assert (fault, len(rows)) == ("pixel size", 12)
    assert f"(row 1: 3 Å, the header of {tmp_path}/a.mrcs says 1.5)" in text
    assert only_problem(cs(tmp_path, {"blob/psize_A": (slice(6, 12), 1.51)}))[::2] == (
        "pixel size",
        (7, 8, 9, 10, 11, 12),
    )


@pytest.mark.parametrize("placeholder", [0.0, 1.0])
def test_a_header_without_a_pixel_size_is_no_fault(tmp_path: Path, placeholder: float) -> None:
    path = star(tmp_path)
    stack(tmp_path / "a.mrcs", images(6), pixel_size=placeholder)
    assert faults(path) == []


def test_another_image_size_than_the_header_s_is_told(tmp_path: Path) -> None:
    fault, text, _ = only_problem(star(tmp_path, {"rlnImageSize": [64]}))
    assert fault == "image size"
    assert f"(row 1: 64 pixels, {tmp_path}/a.mrcs holds images of 32 x 32)" in text
    assert only_problem(cs(tmp_path, {"blob/shape": (5, (64, 64))}))[::2] == ("image size", (6,))


@pytest.mark.parametrize("column", ["rlnCoordinateX", "rlnDefocusU", "rlnAnglePsi"])
@pytest.mark.parametrize("value", ["nan", "-nan", "inf", "<NA>"])
def test_a_star_column_with_a_value_that_is_no_number_is_told(tmp_path: Path, column: str, value: str) -> None:
    fault, text, rows = only_problem(star(tmp_path, **{column: [1, 2, 3, value, *range(8)]}))
    assert (fault, rows) == ("not a number", (4,))
    assert text.endswith(f"p.star: {column} is not a finite number in 1 of 12 rows: 4")


@pytest.mark.parametrize(("field", "value"), [("alignments3D/shift", (0, np.nan)), ("ctf/df1_A", np.inf)])
def test_a_cs_field_with_a_value_that_is_no_number_is_told(tmp_path: Path, field: str, value: Any) -> None:
    fault, text, rows = only_problem(cs(tmp_path, {field: ([1, 2], value)}))
    assert (fault, rows) == ("not a number", (2, 3))
    assert f"{field} is not a finite number in 2 of 12 rows: 2-3" in text


def test_a_uid_of_two_rows_is_told(tmp_path: Path) -> None:
    fault, _, rows = only_problem(cs(tmp_path, {"uid": (7, 3)}))
    assert (fault, rows) == ("uid", (8,))


@pytest.mark.parametrize("text", ["a.mrcs", "0@a.mrcs", "x@a.mrcs", "²@a.mrcs", "9" * 30 + "@a.mrcs"])
def test_an_image_name_without_a_number_is_told(tmp_path: Path, text: str) -> None:
    path = star(tmp_path, rlnImageName=[text] * 12)
    assert only_problem(path)[1] == f"{path}: row 1: rlnImageName {text!r}, expected number@stack"


@pytest.mark.parametrize(
    ("field", "values"),
    [("blob/path", np.arange(12)), ("blob/idx", np.zeros(12)), ("blob/shape", np.zeros((12, 3), np.uint32))],
)
def test_a_cs_field_of_another_type_is_told(tmp_path: Path, field: str, values: Any) -> None:
    assert faults(cs(tmp_path, more={field: values})) == ["damaged"]


def test_a_group_is_checked_with_its_tables(tmp_path: Path) -> None:
    cs(tmp_path, {"blob/idx": (3, 6)})
    slots = "".join(f"  {slot}: {{metafile: '>p.cs', num_items: 12}}\n" for slot in ("blob", "ctf", "alignments3D"))
    (tmp_path / "p.csg").write_text(f"results:\n{slots}")
    assert faults(tmp_path / "p.csg") == ["missing image"]
    (tmp_path / "p.csg").write_text(f"results:\n{slots.replace('12', '13')}")
    assert faults(tmp_path / "p.csg") == ["damaged"]


def test_tables_of_relion_30_say_their_pixel_size_by_detector_and_magnification(tmp_path: Path) -> None:
    star(tmp_path)
    rows: dict[str, Any] = {
        "rlnImageName": ["1@a.mrcs"],
        "rlnDetectorPixelSize": [5.0],
        "rlnMagnification": [10000 / 0.3],
    }
    path = synth.write_star(tmp_path / "q.star", {"images": rows})
    assert faults(path) == []
    rows["rlnMagnification"] = [10000]
    assert faults(synth.write_star(path, {"images": rows})) == ["pixel size"]


def test_micrographs_of_a_table_are_looked_for_and_read(tmp_path: Path) -> None:
    for name in "ab":
        synth.write_mrc(tmp_path / f"{name}.mrc", synth.micrograph((40, 50), seed=ord(name)), pixel_size=1.5)
    optics: dict[str, Any] = {"rlnOpticsGroup": [1], "rlnOpticsGroupName": ["g"], "rlnMicrographPixelSize": [1.5]}
    rows: dict[str, Any] = {"rlnMicrographName": ["a.mrc", "b.mrc"], "rlnOpticsGroup": [1, 1], "rlnDefocusU": [1, 2]}
    path = synth.write_star(tmp_path / "m.star", {"optics": optics, "micrographs": rows})
    assert [found.kind for found in check(path, images=True)] == ["micrographs", "micrograph", "micrograph"]
    assert faults(path, images=True) == []
    synth.write_star(path, {"optics": optics | {"rlnMicrographPixelSize": [3.0]}, "micrographs": rows})
    assert faults(path) == ["pixel size", "pixel size"]
    synth.write_star(path, {"optics": optics, "micrographs": rows})
    synth.write_mrc(tmp_path / "b.mrc", np.zeros((40, 50), np.float32), pixel_size=1.5)
    assert faults(path, images=True) == ["constant"]
    (tmp_path / "b.mrc").unlink()
    assert faults(path) == ["missing file"]


def test_picks_are_checked_for_their_numbers_alone(tmp_path: Path) -> None:
    rows: dict[str, Any] = {"rlnMicrographName": ["a.mrc"] * 2, "rlnCoordinateX": [1, "nan"], "rlnCoordinateY": [1, 2]}
    (found,) = check(synth.write_star(tmp_path / "p.star", {"particles": rows}))
    assert (found.kind, found.notes) == ("picks", ("names no images",))
    assert [problem.fault.value for problem in found.problems] == ["not a number"]


def test_stacks_beside_the_table_come_before_those_of_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two projects may have stacks of one name."""
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    star(tmp_path / "here")
    path = star(tmp_path / "there")
    content = images(6)
    content[2] = 0
    stack(tmp_path / "there" / "b.mrcs", content)
    monkeypatch.chdir(tmp_path / "here")
    assert faults(path, images=True) == ["constant"]


def test_names_that_lead_to_one_stack_are_one(tmp_path: Path) -> None:
    (tmp_path / "link.mrcs").symlink_to(tmp_path / "a.mrcs")
    names = ["1@a.mrcs", "1@link.mrcs", "1@./a.mrcs", *(f"{n}@b.mrcs" for n in range(1, 7)), *("2@a.mrcs",) * 3]
    path = star(tmp_path, rlnImageName=names)
    assert only_problem(path)[::2] == ("shared image", (2, 3, 11, 12))
    assert check(path)[0].counts["stacks"] == 2


def test_a_name_may_say_that_it_is_a_stack(tmp_path: Path) -> None:
    """As RELION's `.mrc:mrcs`."""
    stack(tmp_path / "s.mrc", images(12))
    assert faults(star(tmp_path, rlnImageName=[f"{n}@s.mrc:mrcs" for n in range(1, 13)])) == []


def test_rows_without_a_uid_are_no_copies(tmp_path: Path) -> None:
    assert faults(cs(tmp_path, {"uid": (slice(0, 3), 0)})) == []
    assert only_problem(cs(tmp_path, {"uid": (slice(0, 3), 7)}))[::2] == ("uid", (2, 3, 7))


@pytest.mark.parametrize("tag", ["rlnImagePixelSize", "rlnPixelSize"])
def test_the_pixel_size_of_rows_counts_where_data_optics_has_none(tmp_path: Path, tag: str) -> None:
    path = star(tmp_path)
    rows: dict[str, Any] = {"rlnImageName": [f"{n}@a.mrcs" for n in range(1, 7)], tag: [1.5] * 5 + [3.0]}
    synth.write_star(path, {"": rows})
    assert only_problem(path)[::2] == ("pixel size", (6,))
    rows[tag][5] = 1.5
    synth.write_star(path, {"": rows})
    assert faults(path) == []


def test_both_sides_of_an_image_count(tmp_path: Path) -> None:
    assert only_problem(cs(tmp_path, {"blob/shape": (4, (32, 64))}))[::2] == ("image size", (5,))
    assert only_problem(cs(tmp_path, {"blob/shape": (4, (64, 32))}))[::2] == ("image size", (5,))
