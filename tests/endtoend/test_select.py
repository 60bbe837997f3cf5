"""The rows of one table that another one has: written whole, in their order, in the family of the first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gemmi
import numpy as np
import pytest

import cryobox
from cryobox import cli
from cryobox.errors import InputError, OptionError, OutputError
from cryobox.formats.cs_table import read_table, write_table
from cryobox.simulate import make_dataset
from cryobox.subset import select_like

FAST = cryobox.RunOptions(fsync=False)
ROWS = [3, 10, 30, 5, 17]


def run(folder: Path, style: Any) -> Path:
    """A run at two sizes; its output folder."""
    data = make_dataset(folder / style, micrographs=3, shape=(400, 500), picks=25, style=style, shifts=True)
    recipe = cryobox.Recipe(box=64, sizes=(48, 32))
    cryobox.run(data.picks, out=data.folder / "out", recipe=recipe, root=data.folder, options=FAST)
    return data.folder / "out"


def rows_of(table: Path) -> tuple[list[str], list[tuple[str, ...]]]:
    block = gemmi.cif.read(str(table)).find_block("particles")
    loop = block.find_values("_rlnImageName").get_loop()
    width, cells = len(loop.tags), list(loop.values)
    return list(loop.tags), [tuple(cells[i : i + width]) for i in range(0, len(cells), width)]


def some_of(table: Path, rows: list[int]) -> Path:
    """Another table with some rows of one, in another order."""
    target = table.with_name(f"some{table.suffix}")
    if table.suffix == ".cs":
        write_table(target, read_table(table)[rows])
        return target
    document = gemmi.cif.read(str(table))
    loop = document.find_block("particles").find_values("_rlnImageName").get_loop()
    _, found = rows_of(table)
    loop.set_all_values([list(column) for column in zip(*(found[row] for row in rows), strict=True)])
    document.write_file(str(target))
    return target


def test_a_selection_of_small_images_comes_to_the_large_ones(tmp_path: Path) -> None:
    out = run(tmp_path, "relion")
    like = some_of(out / "particles_small.star", ROWS)
    found = select_like(out / "particles.star", like, tmp_path / "chosen.star")
    assert (found.rows, found.missing, found.like) == (len(ROWS), 0, len(ROWS))
    tags, rows = rows_of(out / "particles.star")
    assert rows_of(tmp_path / "chosen.star") == (tags, [rows[row] for row in sorted(ROWS)])
    assert "data_optics" in (tmp_path / "chosen.star").read_text()


def test_a_selection_of_cryosparc_is_found_by_uid(tmp_path: Path) -> None:
    out = run(tmp_path, "cryosparc")
    like = some_of(out / "particles_small.cs", ROWS)
    found = select_like(out / "particles.cs", like, tmp_path / "chosen.cs")
    assert found.rules == {"uid": len(ROWS)}
    np.testing.assert_array_equal(read_table(tmp_path / "chosen.cs"), read_table(out / "particles.cs")[sorted(ROWS)])
    assert (tmp_path / "chosen.csg").exists()


def test_copies_of_a_symmetry_expansion_are_told_apart(tmp_path: Path) -> None:
    out = run(tmp_path, "cryosparc")
    table = read_table(out / "particles.cs")
    fields = [(name, table.dtype[name]) for name in table.dtype.names or ()]
    wide = np.zeros(3 * len(table), np.dtype([*fields, ("sym_expand/src_uid", "<u8"), ("sym_expand/idx", "<u4")]))
    for name, _ in fields:
        wide[name] = np.repeat(table[name], 3, axis=0)
    wide["sym_expand/src_uid"], wide["sym_expand/idx"] = np.repeat(table["uid"], 3), np.tile(np.arange(3), len(table))
    wide["uid"] = np.arange(len(wide)) + 1
    write_table(tmp_path / "full.cs", wide)
    chosen = [4, 5, 30]
    like = wide[chosen].copy()
    like["uid"] += 10_000  # of another job's expansion
    write_table(tmp_path / "like.cs", like)
    found = select_like(tmp_path / "full.cs", tmp_path / "like.cs", tmp_path / "out.cs")
    assert found.rules == {"symmetry expansion": 3}
    np.testing.assert_array_equal(read_table(tmp_path / "out.cs"), wide[chosen])


def test_rows_of_one_image_are_told_apart_by_their_views_or_said_to_be_alike(tmp_path: Path) -> None:
    """A table as relion_particle_symmetry_expand writes it: each row four times, in four views."""
    views = [(f"{rot:.6f}", "30.000000", f"{psi:.6f}") for psi in (5, 170) for rot in (0, 90, 180, -90)]
    rows = [
        [f"{k // 4 + 1:06d}@s.mrcs", "m.mrc", str(20.0 + k // 4), "50.000000", *view] for k, view in enumerate(views)
    ]
    tags = ("ImageName", "MicrographName", "CoordinateX", "CoordinateY", "AngleRot", "AngleTilt", "AnglePsi")

    def write(name: str, chosen: list[int], width: int) -> Path:
        text = "data_particles\n\nloop_\n" + "".join(f"_rln{tag}\n" for tag in tags[:width])
        (tmp_path / name).write_text(text + "\n".join(" ".join(rows[k][:width]) for k in chosen) + "\n")
        return tmp_path / name

    every, some = list(range(8)), [2, 3, 5]
    for width, right in ((7, True), (4, False)):
        found = select_like(write("full.star", every, width), write("like.star", some, width), tmp_path / "out.star",
                            overwrite=True)  # fmt: skip
        assert found.rows == 3
        tags_out, chosen = rows_of(tmp_path / "out.star")
        assert ([list(row) for row in chosen] == [rows[k] for k in some]) is right, tags_out
        assert any("nothing tells which of them is meant" in note for note in found.notes) is not right


def test_the_other_family_may_have_made_the_selection(tmp_path: Path) -> None:
    star, cs = run(tmp_path, "relion"), run(tmp_path, "cryosparc")
    like = some_of(star / "particles_small.star", ROWS)
    found = select_like(cs, like, tmp_path / "chosen.cs")  # a run's folder means its main table
    assert found.rows == len(ROWS)
    np.testing.assert_array_equal(read_table(tmp_path / "chosen.cs"), read_table(cs / "particles.cs")[sorted(ROWS)])


def test_rows_that_are_not_there_are_counted_and_say_so_in_the_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = run(tmp_path, "relion")
    like = some_of(out / "particles_small.star", ROWS)
    full = out / "particles.star"
    tags, rows = rows_of(full)
    text = full.read_text()
    row = rows[ROWS[0]]
    full.write_text("\n".join(line for line in text.split("\n") if row[tags.index("_rlnImageName")] not in line))

    def command(*more: str) -> int:
        with pytest.raises(SystemExit) as ended:
            cli.main(["select", str(full), "--like", str(like), "--out", str(tmp_path / "o.star"), *more])
        return int(ended.value.code or 0)

    assert command("--json") == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["rows"], told["missing"]) == (len(ROWS) - 1, 1)
    assert command() == 2
    assert "is already there; replace it with --overwrite" in capsys.readouterr().err
    assert command("--overwrite") == 1
    assert f"1 rows of {like} are not in {full}" in capsys.readouterr().out


def test_what_cannot_be_chosen_is_refused(tmp_path: Path) -> None:
    out = run(tmp_path, "relion")
    like = some_of(out / "particles_small.star", ROWS)
    with pytest.raises(OptionError, match=r"must end in \.star"):
        select_like(out, like, tmp_path / "x.cs")
    with pytest.raises(OutputError, match="is already there"):
        select_like(out, like, like)
    with pytest.raises(OutputError, match="is one of the two tables"):
        select_like(out, like, like, overwrite=True)
    moved = like.read_text().splitlines()
    like.write_text("\n".join(line.replace("sim_00", "other_00") for line in moved))
    with pytest.raises(InputError, match="micrograph"):
        select_like(out, like, tmp_path / "x.star")
    assert not (tmp_path / "x.star").exists()
