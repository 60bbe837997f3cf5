"""`cryobox check` as a user meets it: lines, exit codes, JSON, what it refuses; damage is never a traceback."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pytest

from cryobox import Recipe, RunOptions, run
from cryobox.cli.program import main
from cryobox.simulate import make_dataset
from fuzz.mutation import mutate
from soundness.planted import check, images, stack
from soundness.test_tables import cs, star


def command(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["check", *map(str, arguments)])
    return int(ended.value.code), *capsys.readouterr()


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    content = images()
    content[3] = 0
    return stack(tmp_path / "bad.mrcs", content)


def test_a_sound_file_is_exit_code_0_and_a_line_that_says_what_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = stack(tmp_path / "a.mrcs")
    code, out, err = command(capsys, path)
    assert (code, err) == (0, "")
    assert out.startswith(f"{path}: sound: stack of 12 images of 32 x 32 float32, 1.5 Å per pixel, means ")
    assert command(capsys, path, "--quiet") == (0, "", "")


def test_a_problem_is_exit_code_1_and_one_line(bad: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = f"{bad}: 1 of 12 images is constant (all pixels 0): 4\n"
    assert command(capsys, "--quiet", bad) == (1, line, "")
    code, out, _ = command(capsys, bad)
    assert code == 1
    assert out.startswith(f"{line}{bad}: 1 problem: stack of 12 images")


def test_json_is_one_object_for_each_file(tmp_path: Path, bad: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = command(capsys, "--json", bad, stack(tmp_path / "a.mrcs"), star(tmp_path), tmp_path / "none.mrc")
    objects = [json.loads(line) for line in out.splitlines()]
    assert code == 2
    assert [one["kind"] for one in objects] == ["stack", "stack", "particles", ""]
    assert [len(one["problems"]) for one in objects] == [1, 0, 0, 0]
    assert objects[0]["problems"][0]["fault"] == "constant"
    assert objects[0]["problems"][0]["numbers"] == [4]
    assert objects[2]["counts"] == {"rows": 12, "stacks": 2, "images": 12}
    assert "No such file" in objects[3]["error"]


def test_relative_names_are_told_as_they_were_given(
    bad: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(bad.parent)
    _, out, _ = command(capsys, "bad.mrcs")
    assert all(line.startswith("bad.mrcs: ") for line in out.splitlines())
    star(bad.parent)
    (bad.parent / "a.mrcs").unlink()
    assert command(capsys, "p.star", "-q", "--images")[1].startswith(
        "p.star: 1 of 2 stacks that it names are not there"
    )


def test_root_is_where_names_in_tables_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = star(tmp_path / "data").rename(tmp_path / "p.star")
    assert command(capsys, path, "-q")[0] == 1
    assert command(capsys, path, "-q", "--root", tmp_path / "data")[0] == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "cannot be read: No such file or directory"),
        (lambda path: path.mkdir(), "is a folder, expected files; name them:"),
        (lambda path: (path.mkdir(), (path / "job.json").write_text("{}")), "output folder of a run; cryobox verify"),
    ],
)
def test_what_is_no_file_is_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: object, message: str
) -> None:
    path = tmp_path / "x.mrcs"
    make(path)  # type: ignore[operator]
    code, out, err = command(capsys, path)
    assert (code, out) == (2, "")
    assert err.startswith(f"cryobox: error: {path}: ")
    assert message in err


def test_a_kind_that_is_not_known_is_exit_code_2_and_the_others_are_checked(
    tmp_path: Path, bad: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.pdf").write_text("x")
    (tmp_path / "model.star").write_text("data_model_general\n\n_rlnReferenceDimensionality 3\n")
    code, out, err = command(capsys, tmp_path / "x.pdf", tmp_path / "model.star", bad)
    assert code == 2
    assert "bad.mrcs: 1 problem" in out
    assert "x.pdf: not a kind of file that is checked; expected a name in .mrc" in err
    assert "model.star: is no table of particles, micrographs or picks; its blocks are data_model_general" in err


def test_without_a_file_the_use_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(capsys)[0] == 2


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("style", ["relion", "cryosparc"])
@pytest.mark.parametrize("normalize", [True, False])
def test_what_we_extract_is_sound(tmp_path: Path, style: str, dtype: str, *, normalize: bool) -> None:
    data = make_dataset(tmp_path, micrographs=2, shape=(800, 1000), picks=30, style=style)  # type: ignore[arg-type]
    out = tmp_path / "out"
    recipe = Recipe(box=128, sizes=(128, 64), dtype=dtype, normalize=normalize)  # type: ignore[arg-type]
    run(
        data.picks, micrographs=data.micrographs, out=out, recipe=recipe, root=tmp_path, options=RunOptions(fsync=False)
    )
    tables = [path for path in out.iterdir() if path.name.startswith("particles") and path.suffix != ".json"]
    found = check(*tables, data.micrographs, images=True)
    assert [problem.text for one in found for problem in one.problems] == []
    assert {one.kind for one in found} == {"particles", "stack", "micrographs", "micrograph"}


@pytest.mark.filterwarnings("error")
def test_damaged_files_end_in_problems_and_never_in_a_traceback(tmp_path: Path) -> None:
    dice = random.Random("check 1")
    table, group = star(tmp_path), cs(tmp_path)
    seeds = {
        "x.mrcs": stack(tmp_path / "s.mrcs").read_bytes(),
        "h.mrc": stack(tmp_path / "s.mrc", images(dtype="float16")).read_bytes(),
        "x.mrcs.gz": gzip.compress((tmp_path / "s.mrcs").read_bytes()),
        "x.star": table.read_bytes(),
        "x.cs": group.read_bytes(),
    }
    sound = problems = 0
    for turn in range(60 * len(seeds)):
        name, data = list(seeds.items())[turn % len(seeds)]
        damaged = bytearray(data)
        if turn % 3:
            damaged = bytearray(mutate(dice, data, list(seeds.values())))
        else:
            damaged[dice.randrange(min(len(damaged), 1100))] ^= 1 << dice.randrange(8)
        (tmp_path / name).write_bytes(damaged)
        found = check(tmp_path / name, images=bool(turn % 2))
        assert found
        sound += not any(one.problems for one in found)
        problems += any(one.problems for one in found)
    assert sound > 10
    assert problems > 100
