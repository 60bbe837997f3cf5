"""Tables that both programs have changed: nothing stale stays, nothing new is lost, nothing is made up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convert.random_tables import Rows, blocks, save
from convert.small_tables import change_cs, change_star, convert, cs, micrograph, star
from cryobox.formats.cs_table import read_table

Field = tuple[str, Any, Any]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def alignment(lead: str, shift: float, pose: Any, kind: str = "<f4") -> tuple[Field, ...]:
    three = lead == "alignments3D"
    return ((f"{lead}/shift", (kind, (2,)), shift), (f"{lead}/psize_A", "<f4", 1.06),
            (f"{lead}/pose", (kind, (3,)) if three else kind, pose))  # fmt: skip


def located(path: Any = b"m/a.mrc", shape: Any = (100, 200), fraction: float = 0.5) -> tuple[Field, ...]:
    return (("location/micrograph_path", "S9", path), ("location/micrograph_shape", ("<u4", (2,)), shape),
            ("location/center_x_frac", "<f4", fraction), ("location/center_y_frac", "<f4", fraction))  # fmt: skip


def column(path: Path, tag: str) -> list[str]:
    return [row[tag] for row in blocks(path)["particles"][1]]


def fill(tag: str, *texts: str) -> Any:
    def change(groups: Rows, rows: Rows) -> None:
        for row, text in zip(rows, texts, strict=True):
            row[tag] = text

    return change


@pytest.mark.parametrize(("fields", "tag", "change", "again"), [
    (alignment("alignments3D", 1, (0.1, 0.2, 0.3)), "_rlnMaxValueProbDistribution",
     {"alignments3D__shift": [[5, 5], [1, 1]]}, "alignments3D/shift"),
    ((("ctf/df1_A", "<f4", 9000), ("ctf/df2_A", "<f4", 9000), ("ctf/df_angle_rad", "<f4", 0)), "_rlnCtfMaxResolution",
     {"ctf__df1_A": [7000, 9000]}, "ctf/df1_A"),
])  # fmt: skip
def test_what_relion_said_of_a_row_goes_when_cryosparc_changes_the_row(
    folder: Path, fields: tuple[Field, ...], tag: str, change: dict[str, Any], again: str
) -> None:
    cs(folder, 2, *fields)
    convert("a.cs", "a.star")
    change_star(folder, "a.star", "b.star", fill(tag, "4", "3"))
    convert("b.star", "b.cs")
    convert("b.cs", "same.star")
    assert column(folder / "same.star", tag) == ["4", "3"]
    change_cs(folder, "b.cs", "c.cs", **change)
    convert("c.cs", "c.star")
    assert column(folder / "c.star", tag) == ["0", "3"]
    convert("c.star", "d.cs")
    np.testing.assert_array_equal(read_table(folder / "d.cs")[again], read_table(folder / "c.cs")[again])


def test_the_mark_of_treated_images_and_the_beam_tilt_go_with_what_they_were_said_of(folder: Path) -> None:
    cs(folder, 1, ("ctf/df1_A", "<f4", 9000), ("ctf/df2_A", "<f4", 9000), ("ctf/df_angle_rad", "<f4", 0))
    convert("a.cs", "a.star")

    def treat(groups: Rows, rows: Rows) -> None:
        groups[0] |= {"_rlnCtfDataAreCtfPremultiplied": "1", "_rlnBeamTiltX": "0.4"}

    change_star(folder, "a.star", "b.star", treat)
    convert("b.star", "b.cs")
    for change, mark, tilt in (({}, 1, 0.4), ({"blob__path": b">t.mrc"}, 0, 0.4), ({"ctf__df1_A": 5}, 1, 0)):
        change_cs(folder, "b.cs", "c.cs", **change)
        convert("c.cs", "c.star")
        (group,) = blocks(folder / "c.star")["optics"][1]
        assert float(group.get("_rlnCtfDataAreCtfPremultiplied", "0")) == mark
        assert float(group.get("_rlnBeamTiltX", "0")) == tilt


def test_a_new_alignment_of_all_rows_wins_over_the_one_beside_it(folder: Path) -> None:
    cs(folder, 2, *alignment("alignments3D", 1, (0, 0, 0.5)), *alignment("alignments2D", 8, 0.5))
    convert("a.cs", "a.star")
    change_star(folder, "a.star", "b.star", fill("_rlnOriginXAngst", "4.24", "5.3"))
    convert("b.star", "b.cs")
    table = read_table(folder / "b.cs")
    (lead,) = {name.split("/")[0] for name in table.dtype.names if name.startswith("alignments")}
    np.testing.assert_allclose(table[f"{lead}/shift"][:, 0], [4, 5], rtol=1e-6)


@pytest.mark.parametrize(("kind", "second"), [("<f8", 3.0), ("<f4", np.inf)])
def test_shifts_that_travel_along_keep_their_unit(folder: Path, kind: str, second: float) -> None:
    cs(folder, 2, *alignment("alignments3D", 3, (0.1, 0.2, 0.3), kind))
    change_cs(folder, "a.cs", "a.cs", alignments3D__shift=[[3, 3], [second, -np.nan]])
    convert("a.cs", "a.star")

    def bin_images(groups: Rows, rows: Rows) -> None:
        groups[0]["_rlnImagePixelSize"] = "2.12"

    change_star(folder, "a.star", "b.star", bin_images)
    convert("b.star", "b.cs")
    table = read_table(folder / "b.cs")
    assert table["blob/psize_A"][0] == np.float32(2.12)
    np.testing.assert_allclose(table["alignments3D/shift"][0] * table["alignments3D/psize_A"][0], 3.18, rtol=1e-6)


def test_a_row_without_its_second_alignment_has_a_unit_still(folder: Path) -> None:
    cs(folder, 2, *located(), *alignment("alignments3D", 1, (0.1, 0.2, 0.3)), *alignment("alignments2D", 8, 0.3))
    convert("a.cs", "a.star")
    change_star(folder, "a.star", "b.star", fill("_rlnCoordinateX", "50", "100"))
    convert("b.star", "b.cs")
    table = read_table(folder / "b.cs")
    assert table["alignments2D/shift"].tolist() == [[0, 0], [8, 8]]
    assert (table["alignments2D/psize_A"] > 0).all()
    left = [name for name in table.dtype.names if not name.startswith("alignments3D")]
    save(folder / "c.cs", np.array(table[left].tolist(), [(n, table.dtype[n]) for n in left]))
    convert("c.cs", "c.star")
    assert [float(text) for text in column(folder / "c.star", "_rlnOriginXAngst")] == pytest.approx([0, 8 * 1.06])


def test_no_rows_go_there_and_back_as_often_as_one_likes(folder: Path) -> None:
    star(folder, [{"_rlnClassNumber": "2", "_rlnAnglePsi": "5", "_myNote": "a"}])
    convert("a.star", "a.cs")
    save(folder / "b.cs", read_table(folder / "a.cs")[:0])
    for source, target in (("b.cs", "b.star"), ("b.star", "c.cs"), ("c.cs", "c.star"), ("c.star", "d.cs")):
        convert(source, target)
    assert blocks(folder / "c.star")["particles"][0] == blocks(folder / "a.star")["particles"][0]
    cs(folder, 0, *alignment("alignments3D", 0, (0, 0, 0)), *alignment("alignments2D", 0, 0))
    convert("a.cs", "a.star")
    data = (folder / "a.star").read_bytes()
    (folder / "b.star").write_bytes(data[: data.index(b"data_cryosparc")])
    convert("b.star", "b.cs")
    assert len(read_table(folder / "b.cs")) == 0


def test_locations_that_no_row_has_come_back_bit_for_bit(folder: Path) -> None:
    before = cs(folder, 2, *located(shape=(0, 0), fraction=np.nan))
    convert("a.cs", "a.star")
    convert("a.star", "b.cs")
    after = read_table(folder / "b.cs")
    assert (after.dtype, after.tobytes()) == (before.dtype, before.tobytes())


def test_tubes_of_two_micrographs_that_become_one_stay_two_filaments(folder: Path) -> None:
    for name in "ab":
        micrograph(folder / "m" / f"{name}.mrc", (100, 200), 1.06)
    star(folder, [{"_rlnMicrographName": f"m/{name}.mrc", "_rlnCoordinateX": "5", "_rlnCoordinateY": "5",
                   "_rlnHelicalTubeID": "2"} for name in "ab"])  # fmt: skip
    convert("a.star", "a.cs", micrographs="m")
    change_cs(folder, "a.cs", "c.cs", location__micrograph_path=b"m/n.mrc")
    convert("c.cs", "c.star")
    assert len(set(column(folder / "c.star", "_rlnHelicalTubeID"))) == 2


def test_one_tube_of_a_star_file_is_one_filament_also_when_micrographs_became_one(folder: Path) -> None:
    cs(folder, 3, *located(np.array([b"m/a.mrc", b"m/b.mrc", b"m/c.mrc"])),
       ("filament/filament_uid", "<u8", [2, 3, 4]))  # fmt: skip
    convert("a.cs", "a.star")
    assert column(folder / "a.star", "_rlnHelicalTubeID") == ["1", "1", "1"]
    change_star(folder, "a.star", "b.star", fill("_rlnMicrographName", "m/n.mrc", "m/n.mrc", "m/c.mrc"))
    convert("b.star", "b.cs")
    first, second, third = read_table(folder / "b.cs")["filament/filament_uid"].tolist()
    assert first == second != third == 4


def test_half_sets_that_became_one_are_no_half_sets(folder: Path) -> None:
    star(folder, [{"_rlnAngleRot": "5", "_rlnAngleTilt": "5", "_rlnAnglePsi": "5", "_rlnOriginXAngst": "1",
                   "_rlnOriginYAngst": "1", "_rlnRandomSubset": half} for half in "1212"])  # fmt: skip
    convert("a.star", "a.cs")
    for split, expected in (([0, 0, 0, 0], None), ([0, 1, 1, 1], ["1", "2", "2", "2"])):
        change_cs(folder, "a.cs", "b.cs", alignments3D__split=split)
        convert("b.cs", "b.star")
        rows = blocks(folder / "b.star")["particles"][1]
        assert [row.get("_rlnRandomSubset") for row in rows] == (expected or [None] * 4)


def test_origins_in_pixels_are_the_only_ones_on_every_trip(folder: Path) -> None:
    star(folder, [{"_rlnOriginX": "1", "_rlnOriginY": "2"}])
    convert("a.star", "a.cs")
    cs_fields = read_table(folder / "a.cs")
    wider = np.zeros(1, [*((n, cs_fields.dtype[n]) for n in cs_fields.dtype.names), ("added/x", "<f4")])
    for name in cs_fields.dtype.names:
        wider[name] = cs_fields[name]
    save(folder / "b.cs", wider)
    for source, target in (("b.cs", "b.star"), ("b.star", "c.cs"), ("c.cs", "c.star")):
        convert(source, target)
    assert not [tag for tag in blocks(folder / "c.star")["particles"][0] if tag.startswith("_rlnOriginXA")]
    change_star(folder, "c.star", "d.star", fill("_rlnOriginX", "7"))
    convert("d.star", "d.cs")
    table = read_table(folder / "d.cs")
    np.testing.assert_allclose(table["alignments2D/shift"] * table["alignments2D/psize_A"], [[7 * 1.06, 2 * 1.06]])


def test_fields_of_unusual_names_and_shapes_come_back_or_are_named(folder: Path) -> None:
    before = cs(
        folder, 2, ("one", ("<f4", (2,)), [[1, 2], [3, 4]]), ("two/0", "<u4", 5), ("nothing/x", ("<f4", (0,)), 0)
    )
    told = convert("a.cs", "a.star").warnings
    assert any("nothing/x" in text and "left out" in text for text in told)
    convert("a.star", "b.cs")
    after = read_table(folder / "b.cs")
    assert after["one"].tolist() == before["one"].tolist()
    assert after["two/0"].tolist() == [5, 5]
    assert "nothing/x" not in after.dtype.names


def test_a_second_set_of_alignments_stays_when_relion_aligns_anew(folder: Path) -> None:
    cs(folder, 2, ("alignments3D_multi/shift", ("<f4", (2, 2)), 1))
    convert("a.cs", "a.star")
    change_star(folder, "a.star", "b.star", fill("_rlnOriginXAngst", "1", "2"))
    convert("b.star", "b.cs")
    assert read_table(folder / "b.cs")["alignments3D_multi/shift"].tolist() == [[[1, 1], [1, 1]]] * 2
