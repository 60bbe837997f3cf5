"""Random tables there and back: without a change bit for bit, after one the new values and nothing that is stale."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from convert.random_tables import Rows, blocks, random_cs, random_star, save, write_star
from convert.small_tables import the_rest
from cryobox.convert import convert_particles
from cryobox.formats.cs_table import read_table

CASES = int(os.environ.get("CRYOBOX_TEST_CASES", "40"))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def convert(source: str, target: str) -> None:
    convert_particles(source, target, overwrite=True, allow_missing=True)


def test_any_cs_comes_back_byte_for_byte(folder: Path) -> None:
    for seed in range(CASES):
        rng = np.random.default_rng(seed)
        before = random_cs(rng, int(rng.integers(0, 9)))
        save(folder / "a.cs", before)
        convert("a.cs", "a.star")
        convert("a.star", "b.cs")
        after = read_table(folder / "b.cs")
        assert after.dtype == before.dtype, seed
        assert after.tobytes() == before.tobytes(), seed


def test_any_star_comes_back_text_for_text_with_unused_groups_and_the_order_of_columns(folder: Path) -> None:
    for seed in range(CASES):
        rng = np.random.default_rng(seed)
        write_star(folder / "a.star", *random_star(rng, int(rng.integers(1, 9))))
        convert("a.star", "a.cs")
        convert("a.cs", "b.star")
        assert blocks(folder / "b.star") == blocks(folder / "a.star"), seed


# A STAR file of a `.cs` is edited: (rows, fields whose old value must be gone there, fields that must still be there).


def relion_digits(text: str) -> str:
    """Six decimals, five for negative numbers; exponents outside 0.001 to 100000."""
    try:
        value = float(text)
    except ValueError:
        return text
    if text.lstrip("-").isdigit():
        return text
    digits = 5 if value < 0 else 6
    return f"{value:.{digits}e}" if value and not 1e-3 <= abs(value) <= 1e5 else f"{value:.{digits}f}"


@pytest.mark.parametrize("digits", [relion_digits, lambda text: relion_digits(text) if "-" not in text else text],
                         ids=["relion", "positive only"])  # fmt: skip
def test_numbers_written_anew_lose_nothing_that_travelled_along(folder: Path, digits: Callable[[str], str]) -> None:
    for seed in range(CASES):
        rng = np.random.default_rng(seed)
        before = random_cs(rng, 5)
        save(folder / "a.cs", before)
        convert("a.cs", "a.star")
        found = blocks(folder / "a.star")
        rows = [
            {t: v if t.startswith("_cryosparc") else digits(v) for t, v in row.items()} for row in found["particles"][1]
        ]
        write_star(folder / "r.star", found["optics"][1], rows, the_rest(folder / "a.star"))
        convert("r.star", "b.cs")
        after = read_table(folder / "b.cs")
        for field in before.dtype.names:
            if before[field].dtype.kind == "f":
                np.testing.assert_allclose(after[field], before[field], rtol=2e-5, atol=2e-5, err_msg=f"{seed} {field}")
            else:
                np.testing.assert_array_equal(after[field], before[field], err_msg=f"{seed} {field}")


STAR_EDITS: dict[str, tuple[dict[str, str], tuple[str, ...], tuple[str, ...]]] = {
    "CTF refined": ({"_rlnDefocusU": "12345.500000"}, ("ctf/tilt_A", "ctf/fit"), ("blob/sign", "pick_stats/ncc_score")),
    "refined": (
        {"_rlnOriginXAngst": "1.500000", "_rlnOriginYAngst": "-2.50000"},
        ("*/error",),
        ("ctf/fit", "blob/import_sig", "my.slot/x y"),
    ),
    "extracted again": (
        {"_rlnImageName": "000007@new.mrcs"}, ("blob/import_sig", "ctf/scale_const"), ("ctf/fit", "*/error"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("edit", STAR_EDITS)
def test_what_an_edited_row_of_a_star_file_no_longer_says_is_gone_and_all_else_stays(folder: Path, edit: str) -> None:
    values, stale, kept = STAR_EDITS[edit]
    seen = 0
    for seed in range(CASES):
        rng = np.random.default_rng(seed)
        before = random_cs(rng, 6)
        lead = next((a for a in ("alignments3D", "alignments2D") if f"{a}/shift" in before.dtype.names), "none")
        save(folder / "a.cs", before)
        convert("a.cs", "a.star")
        found = blocks(folder / "a.star")
        if not set(values) <= set(found["particles"][0]):
            continue
        changed = rng.random(6) < 0.5
        rows = [row | values if edited else row for row, edited in zip(found["particles"][1], changed, strict=True)]
        write_star(folder / "r.star", found["optics"][1], rows, the_rest(folder / "a.star"))
        convert("r.star", "b.cs")
        after = read_table(folder / "b.cs")
        for field in (text.replace("*", lead) for text in (*stale, *kept)):
            if field not in before.dtype.names:
                continue
            still = ~changed if field in [text.replace("*", lead) for text in stale] else np.ones(6, bool)
            if still.any():
                np.testing.assert_array_equal(after[field][still], before[field][still], err_msg=f"{seed} {field}")
            if field in after.dtype.names and (~still).any():
                default = 1 if field == "ctf/scale_const" else 0
                assert (after[field][~still] == default).all(), (seed, field)
                seen += 1
        if edit == "CTF refined":
            assert (after["ctf/df1_A"][changed] == np.float32(12345.5)).all()
        if edit == "refined":
            shift = after[f"{lead}/shift"] * after[f"{lead}/psize_A"][:, None]
            np.testing.assert_allclose(shift[changed], np.full((changed.sum(), 2), (1.5, -2.5)), rtol=1e-6)
    assert seen > 0


# A `.cs` of a STAR file is edited.


def edited(table: np.ndarray, name: str, rows: np.ndarray) -> np.ndarray:
    if name == "CTF refined":
        table["ctf/df1_A"][rows] = 12345.5
    if name == "extracted again":
        table["blob/path"][rows] = b">new"
        table["blob/shape"] = 32
        table["blob/psize_A"] *= 2
    if name == "classified":
        lead = "alignments3D" if "alignments3D/class" in table.dtype.names else "alignments2D"
        table[f"{lead}/class"][rows] = 41
    return table


@pytest.mark.parametrize(
    ("edit", "needs", "stale", "kept"),
    [
        ("CTF refined", "ctf/df1_A", ("_rlnCtfMaxResolution",), ("_rlnMaxValueProbDistribution", "_myNote")),
        ("extracted again", "blob/path", (), ("_rlnCtfMaxResolution", "_rlnMaxValueProbDistribution", "_myNote")),
        ("classified", "class", ("_rlnMaxValueProbDistribution",), ("_rlnCtfMaxResolution", "_myNote")),
    ],
)
def test_what_an_edited_row_of_a_cs_no_longer_says_is_gone_and_all_else_stays(
    folder: Path, edit: str, needs: str, stale: tuple[str, ...], kept: tuple[str, ...]
) -> None:
    seen = 0
    for seed in range(CASES):
        rng = np.random.default_rng(seed)
        optics, before = random_star(rng, 6)
        write_star(folder / "a.star", optics, before)
        convert("a.star", "a.cs")
        table = read_table(folder / "a.cs")
        if not any(name.endswith(needs) for name in table.dtype.names):
            continue
        rows = rng.random(6) < 0.5
        save(folder / "r.cs", edited(table, edit, rows))
        convert("r.cs", "b.star")
        after = blocks(folder / "b.star")["particles"][1]
        for tag in (*stale, *kept):
            if tag not in before[0]:
                continue
            for i in range(6):
                if tag in kept or not rows[i]:
                    assert after[i][tag] == before[i][tag], (seed, tag, i)
                elif tag in after[i]:
                    assert after[i][tag] == "0", (seed, tag, i)
                    seen += 1
        check_new_values(edit, after, rows, blocks(folder / "b.star")["optics"][1])
    assert seen > 0 or not stale


def check_new_values(edit: str, after: Rows, rows: np.ndarray, optics: Rows) -> None:
    for row, changed in zip(after, rows.tolist(), strict=True):
        if edit == "CTF refined" and changed:
            assert float(row["_rlnDefocusU"]) == 12345.5
        if edit == "extracted again":
            assert row["_rlnImageName"].endswith("new:mrcs") == changed
            group = next(g for g in optics if float(g["_rlnOpticsGroup"]) == float(row["_rlnOpticsGroup"]))
            assert group["_rlnImageSize"] == "32"
        if edit == "classified" and changed:
            assert row["_rlnClassNumber"] == "42"


def test_a_new_three_dimensional_alignment_wins_over_the_old_origins(folder: Path) -> None:
    optics = [{"_rlnOpticsGroup": "1", "_rlnOpticsGroupName": "g", "_rlnImagePixelSize": "1.06", "_rlnImageSize": "32"}]
    rows = [{"_rlnImageName": f"{i + 1}@s.mrcs", "_rlnOpticsGroup": "1", "_rlnOriginXAngst": "0.3",
             "_rlnOriginYAngst": "-0.2", "_rlnClassNumber": "7", "_rlnMaxValueProbDistribution": "0.9"}
            for i in range(4)]  # fmt: skip
    write_star(folder / "a.star", optics, rows)
    convert("a.star", "a.cs")
    old = read_table(folder / "a.cs")
    new = [("alignments3D/shift", "<f4", (2,)), ("alignments3D/psize_A", "<f4"), ("alignments3D/pose", "<f4", (3,)),
           ("alignments3D/class", "<u4"), ("alignments3D/split", "<u4")]  # fmt: skip
    table = np.zeros(4, old.dtype.descr + new)
    for name in old.dtype.names:
        table[name] = old[name]
    table["alignments3D/shift"], table["alignments3D/psize_A"], table["alignments3D/pose"] = (2, 3), 1.06, (0.1, 0.2, 1)
    table["alignments3D/split"] = [0, 1, 0, 1]
    save(folder / "b.cs", table)
    convert("b.cs", "b.star")
    after = blocks(folder / "b.star")["particles"][1]
    assert [round(float(row["_rlnOriginXAngst"]), 4) for row in after] == [2.12] * 4
    assert {"_rlnAngleRot", "_rlnAngleTilt", "_rlnAnglePsi"} <= set(after[0])
    assert [row["_rlnClassNumber"] for row in after] == ["1"] * 4
    assert [row["_rlnRandomSubset"] for row in after] == ["1", "2", "1", "2"]
    assert "_rlnMaxValueProbDistribution" not in after[0]


def test_angles_that_relion_adds_become_a_three_dimensional_alignment(folder: Path) -> None:
    table = np.zeros(3, [("uid", "<u8"), ("blob/path", "S9"), ("blob/idx", "<u4"), ("blob/shape", "<u4", (2,)),
                         ("blob/psize_A", "<f4"), ("alignments2D/shift", "<f4", (2,)), ("alignments2D/psize_A", "<f4"),
                         ("alignments2D/pose", "<f4"), ("alignments2D/error", "<f4")])  # fmt: skip
    table["uid"], table["blob/path"], table["blob/shape"], table["blob/psize_A"] = [1, 2, 3], b">s.mrc", 32, 1.0
    table["alignments2D/psize_A"], table["alignments2D/error"] = 1.0, 5.0
    save(folder / "a.cs", table)
    convert("a.cs", "a.star")
    found = blocks(folder / "a.star")
    rows = [row | {"_rlnAngleRot": "10", "_rlnAngleTilt": "20", "_rlnAnglePsi": "30"} for row in found["particles"][1]]
    write_star(folder / "r.star", found["optics"][1], rows, the_rest(folder / "a.star"))
    convert("r.star", "b.cs")
    after = read_table(folder / "b.cs")
    assert after["alignments3D/pose"].any()
    assert "alignments2D/error" not in after.dtype.names


# A table that was edited, in which columns of both families stand, goes there and back once more.


@pytest.mark.parametrize("edit", ["CTF refined", "extracted again", "classified", "rows selected", "field added"])
def test_an_edited_cs_loses_nothing_on_a_second_trip(folder: Path, edit: str) -> None:
    for seed in range(CASES):
        rng = np.random.default_rng(seed)
        write_star(folder / "a.star", *random_star(rng, 6))
        convert("a.star", "a.cs")
        table = read_table(folder / "a.cs")
        if edit == "classified" and not any(name.endswith("/class") for name in table.dtype.names):
            continue
        if edit == "CTF refined" and "ctf/df1_A" not in table.dtype.names:
            continue
        table = table[rng.random(6) < 0.7] if edit == "rows selected" else edited(table, edit, rng.random(6) < 0.5)
        if edit == "field added":
            wider = np.zeros(len(table), [*table.dtype.descr, ("added/x", "<f8"), ("ctf/trefoil_more", "<f4", (2,))])
            for name in table.dtype.names:
                wider[name] = table[name]
            wider["added/x"] = rng.random(len(table))
            table = wider
        save(folder / "b.cs", table)
        convert("b.cs", "b.star")
        convert("b.star", "c.cs")
        convert("c.cs", "c.star")
        check_nothing_lost(columns_of(folder / "b.star"), columns_of(folder / "c.star"), seed)


@pytest.mark.parametrize("edit", STAR_EDITS)
def test_an_edited_star_loses_nothing_on_a_second_trip(folder: Path, edit: str) -> None:
    values, _, _ = STAR_EDITS[edit]
    for seed in range(CASES):
        rng = np.random.default_rng(seed)
        save(folder / "a.cs", random_cs(rng, 6))
        convert("a.cs", "a.star")
        found = blocks(folder / "a.star")
        if not set(values) <= set(found["particles"][0]):
            continue
        changed = (rng.random(6) < 0.5).tolist()
        rows = [row | values if new else row for row, new in zip(found["particles"][1], changed, strict=True)]
        write_star(folder / "b.star", found["optics"][1], rows, the_rest(folder / "a.star"))
        convert("b.star", "b.cs")
        convert("b.cs", "c.star")
        convert("c.star", "c.cs")
        before, after = read_table(folder / "b.cs"), read_table(folder / "c.cs")
        for name in before.dtype.names:
            assert after[name].tobytes() == before[name].tobytes() or name == "cryobox/state", (seed, name)


FILLED = {"0", "1", "90", "0.5"}  # what columns say that a `.cs` has a field for and the STAR file did not have


def check_nothing_lost(
    before: dict[str, dict[str, list[str]]], after: dict[str, dict[str, list[str]]], seed: int
) -> None:
    """Every column is there with its texts; new ones say nothing new."""
    for name, columns in before.items():
        for tag, texts in columns.items():
            assert after[name][tag] == texts, (seed, tag)
        for tag in set(after[name]) - set(columns):
            assert set(after[name][tag]) <= FILLED, (seed, tag)


def columns_of(path: Path) -> dict[str, dict[str, list[str]]]:
    """Every column of every block but the digests, whatever their order."""
    found = blocks(path)
    found.pop("cryosparc", None)
    return {
        name: {tag: [row[tag] for row in rows] for tag in tags if tag != "_cryosparcDigest"}
        for name, (tags, rows) in found.items()
    }


def group_of(*rows: dict[str, str]) -> tuple[Rows, Rows]:
    optics = {"_rlnOpticsGroup": "1", "_rlnOpticsGroupName": "g", "_rlnImagePixelSize": "1.06", "_rlnImageSize": "32"}
    return [optics], [{"_rlnImageName": f"{i}@s.mrcs", "_rlnOpticsGroup": "1"} | row for i, row in enumerate(rows, 1)]


def test_filaments_of_a_micrograph_never_share_a_tube_number(folder: Path) -> None:
    rows = ({"_rlnMicrographName": "m.mrc", "_rlnHelicalTubeID": tube} for tube in "221")
    write_star(folder / "a.star", *group_of(*rows))
    convert("a.star", "a.cs")
    table = read_table(folder / "a.cs")
    table["filament/filament_uid"][0] = 5
    save(folder / "b.cs", table)
    convert("b.cs", "b.star")
    assert len({row["_rlnHelicalTubeID"] for row in blocks(folder / "b.star")["particles"][1]}) == 3


def test_origins_in_pixels_follow_the_pixel_size_of_new_images(folder: Path) -> None:
    write_star(folder / "a.star", *group_of({"_rlnOriginX": "2", "_rlnOriginY": "3"}))
    convert("a.star", "a.cs")
    table = read_table(folder / "a.cs")
    table["blob/psize_A"] = 2.12
    save(folder / "b.cs", table)
    convert("b.cs", "b.star")
    (row,) = blocks(folder / "b.star")["particles"][1]
    assert "_rlnOriginX" not in row
    assert float(row["_rlnOriginXAngst"]) == pytest.approx(2.12)


def test_a_table_without_rows_goes_both_ways_twice(folder: Path) -> None:
    write_star(folder / "a.star", *group_of({"_rlnDefocusU": "1"}))
    convert("a.star", "a.cs")
    save(folder / "b.cs", read_table(folder / "a.cs")[:0])
    convert("b.cs", "b.star")
    convert("b.star", "c.cs")
    assert len(read_table(folder / "c.cs")) == 0


def test_a_three_dimensional_alignment_without_tilt_stays_one_when_a_row_is_edited(folder: Path) -> None:
    table = np.zeros(2, [("uid", "<u8"), ("blob/path", "S9"), ("blob/idx", "<u4"), ("blob/shape", "<u4", (2,)),
                         ("blob/psize_A", "<f4"), ("alignments3D/shift", "<f4", (2,)), ("alignments3D/psize_A", "<f4"),
                         ("alignments3D/pose", "<f4", (3,))])  # fmt: skip
    table["uid"], table["blob/path"], table["blob/shape"], table["blob/psize_A"] = [1, 2], b">s.mrc", 32, 1.06
    table["alignments3D/psize_A"], table["alignments3D/shift"], table["alignments3D/pose"] = 1.06, 1, (0, 0, 0.5)
    save(folder / "a.cs", table)
    convert("a.cs", "a.star")
    found = blocks(folder / "a.star")
    found["particles"][1][0]["_rlnOriginXAngst"] = "9"
    write_star(folder / "b.star", found["optics"][1], found["particles"][1], the_rest(folder / "a.star"))
    convert("b.star", "b.cs")
    after = read_table(folder / "b.cs")
    assert set(after.dtype.names) >= set(table.dtype.names)
    np.testing.assert_allclose(after["alignments3D/shift"], np.array([[9 / 1.06, 1], [1, 1]]), rtol=1e-6)
    np.testing.assert_array_equal(after["alignments3D/pose"][1], table["alignments3D/pose"][1])
