"""Optics groups, exposure groups, and tables that were joined: each row keeps its own microscope and its own group."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convert.random_tables import Rows, blocks, save, write_star
from convert.small_tables import change_cs, change_star, convert, cs, micrograph, star
from cryobox.errors import OutputError
from cryobox.formats.cs_table import read_table

MICROSCOPE = {"rlnVoltage": "300", "rlnSphericalAberration": "2.7", "rlnAmplitudeContrast": "0.1"}
DEFOCUS = {"_rlnDefocusU": "10000", "_rlnDefocusV": "9000", "_rlnDefocusAngle": "1"}
ALIGNED = {
    "_rlnOriginXAngst": "2.12",
    "_rlnOriginYAngst": "0",
    "_rlnAngleRot": "5",
    "_rlnAngleTilt": "5",
    "_rlnAnglePsi": "5",
}
CTF = (("ctf/df1_A", "<f4", 1e4), ("ctf/df2_A", "<f4", 1e4), ("ctf/df_angle_rad", "<f4", 0),
       ("ctf/accel_kv", "<f4", 300), ("ctf/cs_mm", "<f4", 2.7), ("ctf/amp_contrast", "<f4", 0.1))  # fmt: skip


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def by_row(path: Path, tag: str) -> list[str]:
    """What data_optics says of each row."""
    found = blocks(path)
    group = {row["_rlnOpticsGroup"]: row for row in found["optics"][1]}
    assert len(group) == len(found["optics"][1])
    return [group[row["_rlnOpticsGroup"]].get(tag, "") for row in found["particles"][1]]


def set_row(row: int, **texts: str) -> Any:
    def change(groups: Rows, rows: Rows) -> None:
        rows[row] |= {f"_{tag}": text for tag, text in texts.items()}

    return change


def test_joined_tables_of_relion_keep_their_own_microscopes(folder: Path) -> None:
    for name, voltage in (("x", "300"), ("y", "200")):
        star(folder, [DEFOCUS | {"_rlnImageName": f"{i}@{name}.mrcs"} for i in (1, 2)],
             **MICROSCOPE | {"rlnVoltage": voltage, "rlnOpticsGroupName": name})  # fmt: skip
        convert("a.star", f"{name}.cs")
    save(folder / "j.cs", np.concatenate([read_table(folder / f"{name}.cs") for name in "xy"]))
    convert("j.cs", "j.star")
    assert by_row(folder / "j.star", "_rlnOpticsGroupName") == ["x", "x", "y", "y"]
    assert by_row(folder / "j.star", "_rlnVoltage") == ["300", "300", "200", "200"]
    change_star(folder, "j.star", "k.star", set_row(3, rlnDefocusU="777"))
    convert("k.star", "k.cs")
    table = read_table(folder / "k.cs")
    assert table["ctf/accel_kv"].tolist() == [300, 300, 200, 200]
    assert table["ctf/df1_A"].tolist() == [10000, 10000, 10000, 777]


def test_rows_of_a_cs_joined_to_a_table_of_relion_get_what_their_fields_say(folder: Path) -> None:
    star(folder, [ALIGNED | {"_rlnMaxValueProbDistribution": "0.5"}] * 2)
    convert("a.star", "r.cs")
    ours = read_table(folder / "r.cs")
    other = cs(folder, 2, ("alignments3D/shift", ("<f4", (2,)), 1), ("alignments3D/psize_A", "<f4", 1.06),
               ("alignments3D/pose", ("<f4", (3,)), (0.1, 0.2, 0.3)))  # fmt: skip
    joined = np.zeros(4, ours.dtype)
    joined[:2] = ours
    for name in other.dtype.names:
        joined[name][2:] = other[name]
    save(folder / "j.cs", joined)
    convert("j.cs", "j.star")
    rows = blocks(folder / "j.star")["particles"][1]
    assert [float(row["_rlnOriginXAngst"]) for row in rows] == pytest.approx([2.12, 2.12, 1.06, 1.06])
    assert [row["_rlnMaxValueProbDistribution"] for row in rows] == ["0.5", "0.5", "0", "0"]
    convert("j.star", "k.cs")
    after = read_table(folder / "k.cs")
    for name in other.dtype.names:
        np.testing.assert_array_equal(after[name], joined[name], err_msg=name)


def test_rows_added_to_a_star_file_take_nothing_from_the_others(folder: Path) -> None:
    cs(folder, 2, *CTF, ("ctf/type", "S4", b"own"), ("alignments3D/shift", ("<f4", (2,)), 1),
       ("alignments3D/psize_A", "<f4", 2.12), ("alignments3D/pose", ("<f4", (3,)), (0.1, 0.2, 0.3)),
       ("alignments3D/error", "<f4", [5, 6]))  # fmt: skip
    convert("a.cs", "a.star")

    def add(groups: Rows, rows: Rows) -> None:
        new = {tag: "0" if tag.startswith("_cryosparc") else text for tag, text in rows[0].items()}
        rows.append(new | {"_rlnImageName": "1@relion.mrcs", "_cryosparcUid": "99"})

    change_star(folder, "a.star", "b.star", add)
    convert("b.star", "b.cs")
    table = read_table(folder / "b.cs")
    assert table["alignments3D/error"].tolist() == [5, 6, 0]
    assert table["ctf/type"].tolist() == [b"own", b"own", b"imported"]
    np.testing.assert_allclose(table["alignments3D/shift"] * table["alignments3D/psize_A"][:, None], 2.12, rtol=1e-6)


def test_a_microscope_in_the_rows_stays_in_the_rows(folder: Path) -> None:
    star(folder, [DEFOCUS | {f"_{tag}": text for tag, text in MICROSCOPE.items()}] * 2)
    convert("a.star", "a.cs")
    change_cs(folder, "a.cs", "b.cs", ctf__df1_A=[12345, 10000])
    convert("b.cs", "b.star")
    found = blocks(folder / "b.star")
    assert "_rlnVoltage" not in found["optics"][0]
    assert [(float(r["_rlnVoltage"]), float(r["_rlnDefocusU"])) for r in found["particles"][1]] == [
        (300, 12345), (300, 10000)]  # fmt: skip
    change_star(folder, "b.star", "c.star", set_row(1, rlnDefocusU="777"))
    convert("c.star", "c.cs")
    table = read_table(folder / "c.cs")
    np.testing.assert_allclose(table["ctf/accel_kv"], 300)
    np.testing.assert_allclose(table["ctf/cs_mm"], 2.7)


@pytest.mark.parametrize("origins", [("_rlnOriginXAngst", "_rlnOriginYAngst"), ("_rlnOriginX", "_rlnOriginY")])
def test_another_unit_of_the_shifts_means_other_origins(folder: Path, origins: tuple[str, str]) -> None:
    star(folder, [{origins[0]: "2", origins[1]: "0"}])
    convert("a.star", "a.cs")
    before = read_table(folder / "a.cs")["alignments2D/shift"][0, 0]
    change_cs(folder, "a.cs", "b.cs", alignments2D__psize_A=2.12)
    convert("b.cs", "b.star")
    (row,) = blocks(folder / "b.star")["particles"][1]
    assert float(row["_rlnOriginXAngst"]) == pytest.approx(before * 2.12)
    assert "_rlnOriginX" not in row


def test_another_size_of_a_micrograph_means_other_coordinates(folder: Path) -> None:
    micrograph(folder / "m" / "a.mrc", (100, 200), 1.06)
    star(folder, [{"_rlnMicrographName": "m/a.mrc", "_rlnCoordinateX": "50", "_rlnCoordinateY": "25"}] * 2)
    convert("a.star", "a.cs")
    change_cs(folder, "a.cs", "b.cs", location__micrograph_shape=[[200, 400], [100, 200]])
    convert("b.cs", "b.star")
    rows = blocks(folder / "b.star")["particles"][1]
    assert [(float(row["_rlnCoordinateX"]), float(row["_rlnCoordinateY"])) for row in rows] == [(100, 50), (50, 25)]


@pytest.mark.parametrize(("change", "expected"), [
    (set_row(2, rlnDefocusU="12000"), [2, 2, 5, 5]),
    (set_row(0, rlnOpticsGroup="2"), [5, 2, 5, 5]),
])  # fmt: skip
def test_an_exposure_group_follows_the_optics_group_alone(folder: Path, change: Any, expected: list[int]) -> None:
    cs(folder, 4, *CTF, ("ctf/exp_group_id", "<u4", [2, 2, 5, 5]))
    convert("a.cs", "a.star")
    change_star(folder, "a.star", "b.star", change)
    convert("b.star", "b.cs")
    assert read_table(folder / "b.cs")["ctf/exp_group_id"].tolist() == expected


@pytest.mark.parametrize("ids", [[1, 1, 2, 2], [5, 5, 7, 7], [2, 2, 1, 1]])
def test_an_exposure_group_stays_when_optics_groups_are_numbered_anew(folder: Path, ids: list[int]) -> None:
    cs(folder, 4, *CTF, ("ctf/exp_group_id", "<u4", ids), ("location/exp_group_id", "<u4", ids))
    convert("a.cs", "a.star")

    def keep_the_last(groups: Rows, rows: Rows) -> None:
        of_last = rows[-1]["_rlnOpticsGroup"]
        groups[:] = [group | {"_rlnOpticsGroup": "1"} for group in groups if group["_rlnOpticsGroup"] == of_last]
        rows[:] = [row | {"_rlnOpticsGroup": "1"} for row in rows if row["_rlnOpticsGroup"] == of_last]

    change_star(folder, "a.star", "b.star", keep_the_last)
    convert("b.star", "b.cs")
    table = read_table(folder / "b.cs")
    for field in ("ctf/exp_group_id", "location/exp_group_id"):
        assert table[field].tolist() == ids[2:]


def test_a_new_optics_group_gets_an_exposure_group_that_no_other_has(folder: Path) -> None:
    cs(folder, 4, *CTF, ("ctf/exp_group_id", "<u4", [3, 3, 5, 5]))
    convert("a.cs", "a.star")

    def split(groups: Rows, rows: Rows) -> None:
        groups.append(groups[1] | {"_rlnOpticsGroup": "3", "_rlnOpticsGroupName": "new"})
        rows[3]["_rlnOpticsGroup"] = "3"

    change_star(folder, "a.star", "b.star", split)
    convert("b.star", "b.cs")
    found = read_table(folder / "b.cs")["ctf/exp_group_id"].tolist()
    assert found[:3] == [3, 3, 5]
    assert found[3] not in (3, 5)


def test_exposure_groups_that_were_changed_are_optics_groups(folder: Path) -> None:
    star(folder, [DEFOCUS] * 3, **MICROSCOPE, rlnBeamTiltX="0.25")
    convert("a.star", "a.cs")
    change_cs(folder, "a.cs", "b.cs", ctf__exp_group_id=[1, 2, 2])
    convert("b.cs", "b.star")
    first, second, third = by_row(folder / "b.star", "_rlnOpticsGroupName")
    assert first == "g" != second == third
    assert by_row(folder / "b.star", "_rlnBeamTiltX") == ["0.25"] * 3
    convert("b.star", "c.cs")
    change_cs(folder, "c.cs", "d.cs", ctf__exp_group_id=[1, 1, 2])
    convert("d.cs", "d.star")
    assert by_row(folder / "d.star", "_rlnOpticsGroupName") == [first, first, third]


def test_images_of_some_rows_change_nothing_that_is_said_of_the_others(folder: Path) -> None:
    star(folder, [DEFOCUS] * 2, **MICROSCOPE)
    convert("a.star", "a.cs")
    change_cs(folder, "a.cs", "b.cs", blob__psize_A=[2.12, 1.06])
    convert("b.cs", "b.star")
    assert set(blocks(folder / "b.star")["optics"][0]) == set(blocks(folder / "a.star")["optics"][0])
    assert [float(text) for text in by_row(folder / "b.star", "_rlnImagePixelSize")] == pytest.approx([2.12, 1.06])


def test_groups_without_particles_stay_when_others_change(folder: Path) -> None:
    star(folder, [DEFOCUS] * 2, **MICROSCOPE)

    def add(groups: Rows, rows: Rows) -> None:
        groups.append(groups[0] | {"_rlnOpticsGroup": "7", "_rlnOpticsGroupName": "empty"})

    change_star(folder, "a.star", "b.star", add)
    convert("b.star", "b.cs")
    change_cs(folder, "b.cs", "c.cs", ctf__accel_kv=[200, 300])
    convert("c.cs", "c.star")
    groups = {row["_rlnOpticsGroupName"]: row for row in blocks(folder / "c.star")["optics"][1]}
    assert groups["empty"]["_rlnOpticsGroup"] == "7"
    assert [float(text) for text in by_row(folder / "c.star", "_rlnVoltage")] == [200, 300]


def test_a_name_that_no_file_can_have_is_an_error_that_names_it(folder: Path) -> None:
    star(folder, [{}])
    with pytest.raises(OutputError, match=r"xxx\.cs: cannot be written"):
        convert("a.star", "x" * 300 + ".cs")


def test_a_ctf_that_was_removed_leaves_the_name_of_the_group_and_no_microscope_of_0(folder: Path) -> None:
    micrograph(folder / "m" / "a.mrc", (100, 200), 1.06)
    located = {"_rlnMicrographName": "m/a.mrc", "_rlnCoordinateX": "50", "_rlnCoordinateY": "25"}
    star(folder, [DEFOCUS | located | {"_rlnOpticsGroup": "2"}], **MICROSCOPE, rlnOpticsGroup="2")

    def add(groups: Rows, rows: Rows) -> None:
        groups.append(groups[0] | {"_rlnOpticsGroup": "7", "_rlnOpticsGroupName": "empty"})

    change_star(folder, "a.star", "b.star", add)
    convert("b.star", "b.cs")
    table = read_table(folder / "b.cs")
    left = [name for name in table.dtype.names if not name.startswith("ctf/")]
    save(folder / "c.cs", np.array(table[left].tolist(), [(name, table.dtype[name]) for name in left]))
    convert("c.cs", "c.star")
    assert by_row(folder / "c.star", "_rlnOpticsGroupName") == ["g"]
    assert "_rlnVoltage" not in blocks(folder / "c.star")["optics"][0]


def joined_star(folder: Path, one: str, other: str, target: str, filler: str) -> None:
    """Two STAR files put together as dataframes are: groups renumbered, what only one has filled in."""
    groups: Rows = []
    rows: Rows = []
    for name in (one, other):
        found = blocks(folder / name)
        number = {g["_rlnOpticsGroup"]: str(len(groups) + i) for i, g in enumerate(found["optics"][1], 1)}
        groups += [g | {"_rlnOpticsGroup": number[g["_rlnOpticsGroup"]], "_rlnOpticsGroupName": f"{name}{i}"}
                   for i, g in enumerate(found["optics"][1])]  # fmt: skip
        rows += [row | {"_rlnOpticsGroup": number[row["_rlnOpticsGroup"]]} for row in found["particles"][1]]
    tags = dict.fromkeys(tag for row in rows for tag in row)
    write_star(folder / target, groups, [{tag: row.get(tag, filler) for tag in tags} for row in rows])


@pytest.mark.parametrize("filler", ["0", "nan", "None"])
def test_a_field_that_travelled_with_one_of_two_joined_tables_is_not_taken_from_the_other(
    folder: Path, filler: str
) -> None:
    def table(path: bytes, unit: float, *more: tuple[str, Any, Any]) -> np.ndarray:
        found = cs(folder, 2, *CTF, ("alignments3D/shift", ("<f4", (2,)), (3, 4)),
                   ("alignments3D/psize_A", "<f4", unit),
                   ("alignments3D/pose", ("<f4", (3,)), (0.1, 0.2, 0.3)), *more)  # fmt: skip
        found["blob/path"] = path
        save(folder / "a.cs", found)
        return found

    table(b">s.mrc", 1.06)
    convert("a.cs", "x.star")
    before = table(b"s.mrc", 0.53, ("blob/sign", "<f4", -1), ("ctf/exp_group_id", "<u4", [8, 9]))
    before["uid"] += 10
    save(folder / "a.cs", before)
    convert("a.cs", "y.star")
    joined_star(folder, "x.star", "y.star", "j.star", filler)
    convert("j.star", "j.cs")
    after = read_table(folder / "j.cs")
    np.testing.assert_allclose(after["alignments3D/shift"], [[3, 4]] * 4)
    np.testing.assert_allclose(after["alignments3D/psize_A"], [1.06, 1.06, 0.53, 0.53])
    assert after["blob/path"].tolist() == [b">s.mrc"] * 2 + [b"s.mrc"] * 2
    assert after["blob/sign"].tolist() == [1, 1, -1, -1]
    groups = after["ctf/exp_group_id"].tolist()
    assert groups[0] == groups[1] != groups[2] != groups[3]


def without(table: np.ndarray, *gone: str) -> np.ndarray:
    """A table that lacks some fields."""
    names = [name for name in table.dtype.names if name not in gone]
    found = np.zeros(len(table), [(name, table.dtype[name]) for name in names])
    for name in names:
        found[name] = table[name]
    return found


def union(*tables: np.ndarray) -> np.ndarray:
    """Tables one after the other, with the fields of all, filled with zeros."""
    kinds: dict[str, Any] = {}
    for table in tables:
        for name in table.dtype.names:
            kinds[name] = max(kinds.get(name, table.dtype[name]), table.dtype[name], key=lambda kind: kind.itemsize)
    found = np.zeros(sum(map(len, tables)), list(kinds.items()))
    at = 0
    for table in tables:
        for name in table.dtype.names:
            found[name][at : at + len(table)] = table[name]
        at += len(table)
    return found


def common(*tables: np.ndarray) -> np.ndarray:
    """Tables one after the other, with the fields that all have."""
    names = [name for name in tables[0].dtype.names if all(name in table.dtype.names for table in tables)]
    whole = union(*tables)
    found = np.zeros(len(whole), [(name, whole.dtype[name]) for name in names])
    for name in names:
        found[name] = whole[name]
    return found


@pytest.mark.parametrize("joined", [union, common])
def test_a_microscope_in_the_rows_of_one_and_in_the_groups_of_the_other(folder: Path, joined: Any) -> None:
    in_rows = {f"_{tag}": text for tag, text in MICROSCOPE.items()}
    star(folder, [DEFOCUS | in_rows] * 2)
    convert("a.star", "x.cs")
    star(folder, [DEFOCUS | {"_rlnImageName": f"{i}@t.mrcs"} for i in (1, 2)],
         **MICROSCOPE | {"rlnVoltage": "200", "rlnOpticsGroupName": "h"})  # fmt: skip
    convert("a.star", "y.cs")
    save(folder / "j.cs", joined(read_table(folder / "x.cs"), read_table(folder / "y.cs")))
    change_cs(folder, "j.cs", "k.cs", ctf__df1_A=[5, 10000, 10000, 10000])
    for name in "jk":
        convert(f"{name}.cs", f"{name}.star")
        convert(f"{name}.star", "back.cs")
        after, before = read_table(folder / "back.cs"), read_table(folder / f"{name}.cs")
        for field in ("ctf/accel_kv", "ctf/cs_mm", "ctf/amp_contrast", "ctf/df1_A", "blob/path"):
            np.testing.assert_array_equal(after[field], before[field], err_msg=f"{name} {field}")


def test_a_table_of_both_joined_to_one_of_relion_keeps_its_micrographs(folder: Path) -> None:
    for name in "ab":
        micrograph(folder / "m" / f"{name}.mrc", (100, 200), 1.06)
    cs(folder, 2, ("location/micrograph_path", "S9", b">m/a.mrc"),
       ("location/micrograph_shape", ("<u4", (2,)), (100, 200)),
       ("location/center_x_frac", "<f4", 0.5), ("location/center_y_frac", "<f4", 0.5))  # fmt: skip
    convert("a.cs", "a.star")
    change_star(folder, "a.star", "b.star", set_row(0, rlnImageName="1@s.mrcs"))
    convert("b.star", "x.cs")
    star(folder, [{"_rlnMicrographName": "m/b.mrc", "_rlnCoordinateX": "50", "_rlnCoordinateY": "25",
                   "_rlnNote": "n"}] * 2)  # fmt: skip
    convert("a.star", "y.cs")
    save(folder / "j.cs", union(read_table(folder / "x.cs"), read_table(folder / "y.cs")))
    convert("j.cs", "j.star")
    rows = blocks(folder / "j.star")["particles"][1]
    assert [row["_rlnMicrographName"] for row in rows] == ["m/a.mrc"] * 2 + ["m/b.mrc"] * 2
    assert [float(row["_rlnCoordinateX"]) for row in rows] == [100, 100, 50, 50]
    assert [row["_rlnNote"] for row in rows][2:] == ["n", "n"]


@pytest.mark.parametrize("tag", ["rlnBeamTiltX", "rlnPhaseShift"])
def test_a_column_that_says_nothing_new_is_no_change(folder: Path, tag: str) -> None:
    cs(folder, 2, *CTF, ("ctf/tilt_A", ("<f4", (2,)), (0.5, -0.25)))
    convert("a.cs", "a.star")

    def add(groups: Rows, rows: Rows) -> None:
        for row in groups if tag == "rlnBeamTiltX" else rows:
            row[f"_{tag}"] = "0.000000"

    change_star(folder, "a.star", "b.star", add)
    convert("b.star", "b.cs")
    assert read_table(folder / "b.cs")["ctf/tilt_A"].tolist() == [[0.5, -0.25]] * 2


def test_a_field_that_says_nothing_new_is_no_change(folder: Path) -> None:
    cs(folder, 2, ("alignments3D/shift", ("<f4", (2,)), 1), ("alignments3D/psize_A", "<f4", 1.06),
       ("alignments3D/pose", ("<f4", (3,)), (0.1, 0.2, 0.3)))  # fmt: skip
    convert("a.cs", "a.star")

    def score(groups: Rows, rows: Rows) -> None:
        for row in rows:
            row["_rlnMaxValueProbDistribution"] = "1.5"

    change_star(folder, "a.star", "b.star", score)
    convert("b.star", "b.cs")
    table = read_table(folder / "b.cs")
    save(folder / "c.cs", union(table, np.zeros(0, [("alignments3D/class", "<u4")])))
    convert("c.cs", "c.star")
    assert blocks(folder / "c.star")["particles"][1][0]["_rlnMaxValueProbDistribution"] == "1.5"


def test_the_defocus_of_a_row_splits_no_group(folder: Path) -> None:
    star(folder, [DEFOCUS] * 3, rlnVoltage="300.000000", rlnSphericalAberration="2.700000",
         rlnAmplitudeContrast="0.100000")  # fmt: skip
    convert("a.star", "a.cs")
    change_cs(folder, "a.cs", "b.cs", ctf__df1_A=[12345, 10000, 10000])
    convert("b.cs", "b.star")
    assert blocks(folder / "b.star")["optics"][1] == blocks(folder / "a.star")["optics"][1]
    assert by_row(folder / "b.star", "_rlnOpticsGroupName") == ["g"] * 3


def test_an_alignment_that_is_gone_leaves_no_unit_and_no_slot(folder: Path) -> None:
    cs(folder, 2, ("alignments3D/shift", ("<f4", (2,)), 1), ("alignments3D/psize_A", "<f4", 2),
       ("alignments3D/pose", ("<f4", (3,)), (0.1, 0.2, 0.3)))  # fmt: skip
    convert("a.cs", "a.star")

    def classify(groups: Rows, rows: Rows) -> None:
        for row in rows:
            row |= {"_rlnAngleRot": "0", "_rlnAngleTilt": "0", "_rlnAnglePsi": "33"}

    change_star(folder, "a.star", "b.star", classify)
    convert("b.star", "b.cs")
    assert not [name for name in read_table(folder / "b.cs").dtype.names if name.startswith("alignments3D")]
    assert "alignments3D" not in (folder / "b.csg").read_text()


def test_a_row_of_a_joined_table_that_keeps_its_exposure_group_is_not_moved(folder: Path) -> None:
    for name in "xy":
        star(folder, [DEFOCUS | {"_rlnImageName": f"{i}@{name}.mrcs"} for i in (1, 2)],
             **MICROSCOPE | {"rlnOpticsGroupName": name})  # fmt: skip
        convert("a.star", f"{name}.cs")
    joined = np.concatenate([read_table(folder / f"{name}.cs") for name in "xy"])
    for field in ("ctf/exp_group_id", "location/exp_group_id"):
        if field in joined.dtype.names:
            joined[field] = [5, 5, 1, 2]
    save(folder / "j.cs", joined)
    convert("j.cs", "j.star")
    names = by_row(folder / "j.star", "_rlnOpticsGroupName")
    assert names[0] == names[1]
    assert names[2] == "y"
    assert len(set(names)) == 3


def test_groups_without_particles_of_a_table_that_lost_a_column_of_ours(folder: Path) -> None:
    star(folder, [DEFOCUS | {"_rlnNote": "n"}] * 2, **MICROSCOPE)

    def add(groups: Rows, rows: Rows) -> None:
        groups.append(groups[0] | {"_rlnOpticsGroup": "7", "_rlnOpticsGroupName": "empty"})

    change_star(folder, "a.star", "b.star", add)
    convert("b.star", "b.cs")
    table = read_table(folder / "b.cs")
    save(folder / "c.cs", without(table, "cryobox/star/_rlnNote"))
    convert("c.cs", "c.star")
    groups = {row["_rlnOpticsGroupName"]: row for row in blocks(folder / "c.star")["optics"][1]}
    assert set(groups) == {"g", "empty"}
    assert groups["empty"]["_rlnOpticsGroup"] == "7"
    assert groups["empty"]["_rlnVoltage"] == "300"


def test_origins_of_both_kinds_keep_those_in_angstrom_when_the_images_change(folder: Path) -> None:
    origins = {"_rlnOriginXAngst": "3.155893", "_rlnOriginYAngst": "-2.262981", "_rlnOriginX": "1", "_rlnOriginY": "2"}
    star(folder, [origins])
    convert("a.star", "a.cs")
    change_cs(folder, "a.cs", "b.cs", blob__psize_A=1.59)
    convert("b.cs", "b.star")
    (row,) = blocks(folder / "b.star")["particles"][1]
    assert (row["_rlnOriginXAngst"], row["_rlnOriginYAngst"]) == ("3.155893", "-2.262981")
    assert "_rlnOriginX" not in row


@pytest.mark.parametrize(("name", "same"), [("h", False), ("g", True)])
def test_an_id_of_two_joined_tables_is_two_exposure_groups_unless_optics_groups_of_one_name_have_it(
    folder: Path, name: str, same: bool
) -> None:
    groups, rows = [], []
    for number, own in ((1, "g"), (2, name)):
        star(folder, [DEFOCUS | {"_rlnImageName": f"{i}@{number}.mrcs"} for i in (1, 2)],
             **MICROSCOPE | {"rlnOpticsGroupName": own})  # fmt: skip
        convert("a.star", "a.cs")
        change_cs(folder, "a.cs", "b.cs", ctf__exp_group_id=[1, 7])
        convert("b.cs", "b.star")
        found = blocks(folder / "b.star")
        assert found["optics"][1][0]["_rlnOpticsGroupName"] == own
        groups.append(found["optics"][1][0] | {"_rlnOpticsGroup": str(number)})
        rows.append(found["particles"][1][0] | {"_rlnOpticsGroup": str(number)})
    write_star(folder / "j.star", groups, rows)
    convert("j.star", "j.cs")
    one, other = read_table(folder / "j.cs")["ctf/exp_group_id"].tolist()
    assert one == 1
    assert (one == other) == same


def test_a_half_set_that_a_join_left_out_says_nothing_of_the_alignment(folder: Path) -> None:
    rows = [ALIGNED | {"_rlnRandomSubset": str(i), "_rlnMaxValueProbDistribution": "0.5"} for i in (1, 2)]
    star(folder, rows)
    convert("a.star", "x.cs")
    star(folder, [ALIGNED | {"_rlnMaxValueProbDistribution": "0.25", "_rlnImageName": "1@t.mrcs"}])
    convert("a.star", "y.cs")
    save(folder / "j.cs", common(read_table(folder / "x.cs"), read_table(folder / "y.cs")))
    convert("j.cs", "j.star")
    joined = blocks(folder / "j.star")["particles"][1]
    assert [row["_rlnMaxValueProbDistribution"] for row in joined] == ["0.5", "0.5", "0.25"]
    assert "_rlnRandomSubset" not in joined[0]


def test_what_was_said_of_no_alignment_is_not_said_of_a_new_one_where_a_column_of_ours_is_gone(folder: Path) -> None:
    star(folder, [{"_rlnNote": "n", "_rlnNormCorrection": "1.5"}] * 2)
    convert("a.star", "a.cs")
    left = without(read_table(folder / "a.cs"), "cryobox/star/_rlnNote")
    aligned = np.zeros(0, [("alignments3D/shift", "<f4", (2,)), ("alignments3D/psize_A", "<f4"),
                           ("alignments3D/pose", "<f4", (3,))])  # fmt: skip
    save(folder / "b.cs", union(left, aligned))
    convert("b.cs", "b.star")
    rows = blocks(folder / "b.star")["particles"][1]
    assert [float(row.get("_rlnNormCorrection", "0")) for row in rows] == [0, 0]


def test_coordinates_that_a_cs_had_no_place_for_come_with_their_micrographs(folder: Path) -> None:
    star(folder, [{"_rlnMicrographName": "m/a.mrc", "_rlnCoordinateX": "50", "_rlnCoordinateY": "25"}])
    convert("a.star", "a.cs")
    table = read_table(folder / "a.cs")
    assert "location/center_x_frac" not in table.dtype.names
    save(folder / "b.cs", union(table, np.zeros(0, [("x/f", "<f4")])))
    convert("b.cs", "b.star")
    micrograph(folder / "m" / "a.mrc", (100, 200), 1.06)
    change_star(folder, "b.star", "c.star", set_row(0, rlnCoordinateX="100"))
    convert("c.star", "c.cs")
    after = read_table(folder / "c.cs")
    assert after["location/center_x_frac"].tolist() == [0.5]
    assert after["location/micrograph_shape"].tolist() == [[100, 200]]
    assert after["location/micrograph_path"].tolist() == [b">m/a.mrc"]


def test_segments_of_two_micrographs_that_become_one_tube_are_where_the_columns_say(folder: Path) -> None:
    cs(folder, 2, ("location/micrograph_path", "S9", [b">m/a.mrc", b">m/b.mrc"]),
       ("filament/filament_uid", "<u8", [7, 8]), ("filament/position_A", "<f4", [30, 60]))  # fmt: skip
    convert("a.cs", "a.star")
    change_star(folder, "a.star", "b.star", set_row(1, rlnMicrographName="m/a.mrc"))
    convert("b.star", "b.cs")
    table = read_table(folder / "b.cs")
    assert len(set(table["filament/filament_uid"].tolist())) == 1
    assert len(set(table["filament/position_A"].tolist())) == 1


def test_rows_that_a_join_gave_an_alignment_of_zeros_have_none(folder: Path) -> None:
    aligned = cs(folder, 1, ("alignments3D/shift", ("<f4", (2,)), 1), ("alignments3D/psize_A", "<f4", 2),
                 ("alignments3D/pose", ("<f4", (3,)), (0.1, 0.2, 0.3)))  # fmt: skip
    star(folder, [{"_rlnNote": "n"}])
    convert("a.star", "b.cs")
    save(folder / "j.cs", union(aligned, read_table(folder / "b.cs")))
    convert("j.cs", "j.star")
    assert [float(row["_rlnOriginXAngst"]) for row in blocks(folder / "j.star")["particles"][1]] == [2, 0]
    convert("j.star", "k.cs")
    after, before = read_table(folder / "k.cs"), read_table(folder / "j.cs")
    for field in ("alignments3D/shift", "alignments3D/psize_A", "alignments3D/pose"):
        np.testing.assert_array_equal(after[field], before[field])


@pytest.mark.parametrize("tag", ["_rlnOpticsGroup", "_rlnOpticsGroupName", "_rlnImageSize", "_rlnImagePixelSize"])
@pytest.mark.parametrize("more", [(), ("cryobox/state",), ("cryobox/state", "cryobox/optics_row")])
def test_a_column_of_the_groups_that_is_gone_is_what_the_fields_say(
    folder: Path, tag: str, more: tuple[str, ...]
) -> None:
    star(folder, [DEFOCUS] * 2, **MICROSCOPE)
    convert("a.star", "a.cs")
    save(folder / "b.cs", without(read_table(folder / "a.cs"), f"cryobox/optics/{tag}", *more))
    convert("b.cs", "b.star")
    assert [float(text) for text in by_row(folder / "b.star", "_rlnImagePixelSize")] == pytest.approx([1.06] * 2)
    assert by_row(folder / "b.star", "_rlnImageSize") == ["32", "32"]
    assert by_row(folder / "b.star", "_rlnVoltage") == ["300", "300"]


def test_angles_are_those_of_one_table_where_one_of_them_is_gone(folder: Path) -> None:
    angles = {"_rlnAngleRot": "-23", "_rlnAngleTilt": "220", "_rlnAnglePsi": "17"}  # the fields say 157, 140, -163
    star(folder, [angles])
    convert("a.star", "a.cs")
    save(folder / "b.cs", without(read_table(folder / "a.cs"), "cryobox/star/_rlnAnglePsi"))
    convert("b.cs", "b.star")
    (row,) = blocks(folder / "b.star")["particles"][1]
    assert [float(row[tag]) for tag in angles] == pytest.approx([157, 140, -163], abs=1e-4)


def test_a_micrograph_that_is_another_one_is_named_where_the_coordinates_are_gone(folder: Path) -> None:
    cs(folder, 2, ("location/micrograph_path", "S9", b">m/a.mrc"),
       ("location/micrograph_shape", ("<u4", (2,)), (100, 200)),
       ("location/center_x_frac", "<f4", 0.5), ("location/center_y_frac", "<f4", 0.5))  # fmt: skip
    convert("a.cs", "a.star")

    def rename(groups: Rows, rows: Rows) -> None:
        rows[1]["_rlnMicrographName"] = "m/b.mrc"
        for row in rows:
            del row["_rlnCoordinateX"], row["_rlnCoordinateY"]

    change_star(folder, "a.star", "b.star", rename)
    convert("b.star", "b.cs")
    assert read_table(folder / "b.cs")["location/micrograph_path"].tolist() == [b">m/a.mrc", b">m/b.mrc"]


@pytest.mark.parametrize("filler", ["0", "nan", "", "None"])
@pytest.mark.parametrize("zeros", [(), ("ctf/scale_const",), ("ctf/scale_const", "my/more"), ("my/more",)])
def test_zeros_that_a_joined_table_had_itself_stay_zeros(folder: Path, filler: str, zeros: tuple[str, ...]) -> None:
    kinds: dict[str, Any] = {"ctf/scale_const": "<f4", "my/more": ("<f4", (2,))}
    kept = (*CTF, ("ctf/type", "S4", b"own"))
    cs(folder, 3, *kept, *((name, kinds[name], 0) for name in zeros))
    convert("a.cs", "x.star")
    other = cs(folder, 3, *kept, *((name, kind, 0.5) for name, kind in kinds.items()), ("my/extra", "<f4", 5))
    other["uid"] += 10
    save(folder / "a.cs", other)
    convert("a.cs", "y.star")
    joined_star(folder, "x.star", "y.star", "j.star", filler)
    convert("j.star", "j.cs")
    after = read_table(folder / "j.cs")
    assert after["ctf/scale_const"].tolist() == [0.0 if "ctf/scale_const" in zeros else 1.0] * 3 + [0.5] * 3
    assert after["my/more"].tolist() == [[0, 0]] * 3 + [[0.5, 0.5]] * 3
    assert after["my/extra"].tolist() == [0] * 3 + [5] * 3


def relion_table(path: Path, groups: list[tuple[str, str]], rows: list[str]) -> None:
    """Groups by number and name; the group of each row."""
    of_image = {"_rlnImagePixelSize": "1.06", "_rlnImageSize": "32"}
    write_star(
        path,
        [{"_rlnOpticsGroup": number, "_rlnOpticsGroupName": name} | of_image for number, name in groups],
        [{"_rlnImageName": f"{i}@{path.stem}.mrcs", "_rlnOpticsGroup": group} for i, group in enumerate(rows, 1)],
    )


@pytest.mark.parametrize(
    "others",
    [[("2", "y2"), ("3", "y3"), ("1", "y1")], [("1", "y1"), ("2", "x2")], [("1", "x2")], [("1", "x1")], [("2", "y1")]],
)
def test_groups_without_particles_never_take_the_place_of_another(folder: Path, others: list[tuple[str, str]]) -> None:
    relion_table(folder / "x.star", [("1", "x1"), ("2", "x2")], ["1", "1"])
    relion_table(folder / "y.star", others, [others[-1][0]])
    tables = []
    for name in "xy":
        convert(f"{name}.star", f"{name}.cs")
        tables.append(read_table(folder / f"{name}.cs"))
    fields = dict.fromkeys(name for table in tables for name in table.dtype.names or ())
    kinds = [(name, max((t.dtype[name] for t in tables if name in t.dtype.names), key=lambda kind: kind.itemsize))
             for name in fields]  # fmt: skip
    joined = np.zeros(3, kinds)
    for table, rows in zip(tables, (slice(0, 2), slice(2, 3)), strict=True):
        for name in table.dtype.names or ():
            joined[name][rows] = table[name]
    save(folder / "j.cs", joined)
    convert("j.cs", "j.star")
    found = blocks(folder / "j.star")
    groups = {row["_rlnOpticsGroup"]: row["_rlnOpticsGroupName"] for row in found["optics"][1]}
    assert len(groups) == len(found["optics"][1]) == len(set(groups.values()))
    of_rows = [groups[row["_rlnOpticsGroup"]] for row in found["particles"][1]]
    assert of_rows[:2] == ["x1", "x1"]
    assert others[-1][1] in of_rows[2]
    convert("j.star", "k.cs")
    assert len(read_table(folder / "k.cs")) == 3


def test_many_groups_without_particles_travel_without_filling_every_row(folder: Path) -> None:
    relion_table(folder / "a.star", [(str(i), f"group{i}") for i in range(1, 101)], ["50"] * 400)
    convert("a.star", "a.cs")
    table = read_table(folder / "a.cs")
    assert table.dtype["cryobox/optics_unused"].itemsize < 400
    convert("a.cs", "b.star")
    assert blocks(folder / "b.star") == blocks(folder / "a.star")
    save(folder / "c.cs", table[::3])
    convert("c.cs", "c.star")
    assert blocks(folder / "c.star")["optics"] == blocks(folder / "a.star")["optics"]
