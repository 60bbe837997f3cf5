"""Tables of RELION and of CryoSPARC over the same stacks: what one command writes is what `convert` would make."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cryobox
from cryobox.convert import convert_particles
from cryobox.convert.texts import DIGEST, read_star
from cryobox.errors import InputError
from cryobox.formats.cs_table import read_table
from cryobox.job import merge
from cryobox.simulate import Dataset, make_dataset
from cryobox.verification import verify

FAST = cryobox.RunOptions(fsync=False)
STYLES = ("relion", "cryosparc")


@pytest.fixture(params=STYLES)
def data(tmp_path: Path, request: pytest.FixtureRequest) -> Dataset:
    return make_dataset(tmp_path / "data", micrographs=2, shape=(300, 400), picks=12, style=request.param, shifts=True)


def extract(data: Dataset, out: Path, options: cryobox.RunOptions = FAST, **recipe: Any) -> cryobox.RunResult:
    asked = cryobox.Recipe(box=96, sizes=(48, 32), **recipe)
    return cryobox.run(
        data.picks, micrographs=data.micrographs, out=out, recipe=asked, options=options, root=data.folder
    )


def names(out: Path, pattern: str = "particles*") -> list[str]:
    return sorted(path.name for path in out.glob(pattern))


def contents(out: Path) -> dict[str, bytes]:
    """Tables and stacks."""
    found = [*out.glob("*.star"), *out.glob("*.cs*"), *out.glob("stacks*/*")]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in found}


def test_both_are_written_over_the_same_stacks(data: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "data" / "out"
    result = extract(data, out, tables="both")
    assert names(out) == sorted(
        f"particles{size}{suffix}" for size in ("", "_small") for suffix in (".cs", ".csg", ".star")
    )
    assert {path.stem for path in result.tables[:3]} == {"particles"}
    assert {path.suffix for path in (out / "stacks").iterdir()} == {".mrcs"}
    assert not verify(out).problems
    native, other = (".cs", ".star") if data.picks.suffix == ".cs" else (".star", ".cs")
    for size in ("", "_small"):
        target = out / f"made{other}"
        convert_particles(
            out / f"particles{size}{native}",
            target,
            micrographs=str(data.micrographs),
            root=data.folder,
            overwrite=True,
        )
        assert target.read_bytes() == (out / f"particles{size}{other}").read_bytes()


@pytest.mark.parametrize("tables", STYLES)
def test_the_picks_do_not_decide_whose_tables_are_written(data: Dataset, tmp_path: Path, tables: str) -> None:
    extract(data, tmp_path / "out", tables=tables)
    suffixes = {".star"} if tables == "relion" else {".cs", ".csg"}
    assert {path.suffix for path in (tmp_path / "out").glob("particles*")} == suffixes
    assert {path.suffix for path in (tmp_path / "out" / "stacks").iterdir()} == {
        ".mrcs" if tables == "relion" else ".mrc"
    }
    found = verify(tmp_path / "out")
    assert found.problems == ()
    assert found.rows > 0
    before = contents(tmp_path / "out")
    extract(data, tmp_path / "out", cryobox.RunOptions(fsync=False, overwrite=True), style=tables)
    assert contents(tmp_path / "out") == before


def test_particles_are_white_where_relion_reads_them_unless_a_style_says_otherwise(
    data: Dataset, tmp_path: Path
) -> None:
    extract(data, tmp_path / "both", tables="both")
    extract(data, tmp_path / "dark", tables="both", style="cryosparc")
    signs = {name: read_table(tmp_path / name / "particles.cs")["blob/sign"] for name in ("both", "dark")}
    assert np.unique(signs["both"]).tolist() == [1]
    assert np.unique(signs["dark"]).tolist() == [-1]


def test_shards_write_what_one_run_writes(data: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "out"
    extract(data, out, tables="both")
    before = contents(out)
    shutil.rmtree(out)
    for index in (1, 2):
        extract(data, out, cryobox.RunOptions(fsync=False, shard=(index, 2)), tables="both")
    merge(out, options=FAST)
    assert contents(out) == before
    assert not verify(out).problems


def test_tables_that_are_no_longer_asked_for_go(data: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "out"
    extract(data, out, tables="both")
    extract(data, out, cryobox.RunOptions(fsync=False, overwrite=True))
    assert {path.suffix for path in out.glob("particles*")} in ({".star"}, {".cs", ".csg"})
    assert not verify(out).problems


def test_a_change_in_the_other_table_is_found(data: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "out"
    extract(data, out, tables="both")
    text = (out / "particles.star").read_text()
    line = next(line for line in text.splitlines() if "stacks/" in line)
    (out / "particles.star").write_text(text.replace(line, line.replace(line.split()[0], "77.000000", 1)))
    assert any("particles.star" in problem for problem in verify(out).problems)


def test_what_the_other_family_cannot_say_is_refused_before_any_pixel_is_read(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data", micrographs=1, shape=(300, 400), picks=8, style="relion", shifts=True)
    lines = data.picks.read_text().splitlines()
    last = max(number for number, line in enumerate(lines) if line.startswith("_rln"))
    lines.insert(last + 1, f"_rlnAnglePsi #{int(lines[last].split('#')[1]) + 1}")
    rows = [number for number in range(last + 2, len(lines)) if lines[number].strip()]
    for number in rows:
        lines[number] += " x"
    data.picks.write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match=r"rlnAnglePsi is 'x', expected a"):
        extract(data, tmp_path / "out", tables="both")
    assert not list((tmp_path / "out").glob("stacks/*"))


@pytest.mark.real
@pytest.mark.parametrize("picks", ["J4/J4_particles.csg", "J6/J6_particles.csg"])
def test_a_real_cryosparc_project_is_written_for_relion(real_data: Path, tmp_path: Path, picks: str) -> None:
    project = real_data / "cryosparc_project"
    recipe = cryobox.Recipe(box=128, sizes=(64,), tables="relion")
    result = cryobox.job.run(
        picks, micrographs="J3/J3_exposures.csg", out=tmp_path / "out", recipe=recipe, options=FAST, directory=project
    )
    assert result.extracted > 0
    assert [path.name for path in result.tables if path.name.startswith("particles")] == ["particles.star"]
    found = verify(tmp_path / "out")
    assert (found.problems, found.rows) == ((), result.extracted)


@pytest.mark.relion
def test_both_programs_read_the_same_particles_from_it(data: Dataset, tmp_path: Path) -> None:
    """RELION joins the images that its table names; CryoSPARC's tools load the other table, which names the same."""
    import mrcfile
    from cryosparc.dataset import Dataset as CryosparcDataset

    out = data.folder / "out"
    extract(data, out, tables="both")
    command = ["relion_stack_create", "--i", "out/particles.star", "--o", "all"]
    subprocess.run(command, check=True, capture_output=True, cwd=data.folder)
    loaded = CryosparcDataset.load(out / "particles.cs")
    joined = mrcfile.read(data.folder / "all.mrcs")
    assert len(joined) == len(loaded) > 5
    for row, image in enumerate(joined):
        path = str(loaded["blob/path"][row]).lstrip(">")
        stack = mrcfile.read(out / path if (out / path).exists() else data.folder / path)
        np.testing.assert_array_equal(image, stack[int(loaded["blob/idx"][row])])
    assert np.unique(loaded["blob/sign"]).tolist() == [1]


@pytest.mark.parametrize("recipe", [{"invert": False}, {"scale_const": 2.5}], ids=["dark", "scaled"])
def test_what_was_done_to_the_images_is_as_true_after_two_conversions(tmp_path: Path, recipe: dict[str, Any]) -> None:
    data = make_dataset(tmp_path / "data", micrographs=2, shape=(300, 400), picks=12, style="relion", shifts=True)
    out = tmp_path / "data" / "out"
    extract(data, out, tables="both", **recipe)
    first = out / "particles.cs"
    assert (read_table(first)["blob/sign"] == (-1 if "invert" in recipe else 1)).all()
    convert_particles(first, out / "back.star", root=data.folder)
    convert_particles(out / "back.star", out / "again.cs", micrographs=str(data.micrographs), root=data.folder)
    convert_particles(out / "again.cs", out / "back_again.star", root=data.folder)
    before, after = (read_star(out / f"{name}.star") for name in ("back", "back_again"))
    for tag in before.columns.keys() - {DIGEST}:  # which covers all columns, and there may be more by now
        assert before.columns[tag] == after.columns[tag]
    assert before.optics == {tag: after.optics[tag] for tag in before.optics}
    there, again = read_table(first), read_table(out / "again.cs")
    # What travels along for the way back may be less: the fields say the rest by then.
    own = [name for name in there.dtype.names or () if not name.startswith("cryobox/")]
    assert own == [name for name in again.dtype.names or () if not name.startswith("cryobox/")]
    for name in own:
        np.testing.assert_array_equal(there[name], again[name], err_msg=name)
