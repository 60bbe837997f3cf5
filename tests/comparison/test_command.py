"""`cryobox compare` as it is called: exit codes, the table, the JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from comparison.makers import PLANTS, rows, write
from cryobox.cli import main


def called(*arguments: object) -> int:
    with pytest.raises(SystemExit) as left:
        main(["compare", *map(str, arguments)])
    return int(left.value.code or 0)


def test_exit_codes_tell_the_same_different_and_wrong_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = write(tmp_path / "a", rows()), write(tmp_path / "b", PLANTS[0].change(rows()))
    assert called(a, a) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "the same within what is allowed"
    assert called(a, b) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "different: position"
    assert called(a, tmp_path / "none.star") == 2
    assert "none.star: no such file" in capsys.readouterr().err
    assert called(a, b, "--within", "-1") == 2


def test_json_is_one_object_that_says_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = write(tmp_path / "a", rows()), write(tmp_path / "b", PLANTS[12].change(PLANTS[2].change(rows())), "cs")
    assert called(a, b, "--all", "--json") == 1
    told = json.loads(capsys.readouterr().out)
    assert told["differences"] == ["defocus V", "rows that only A has"]
    assert told["a"]["only"]["rows"] == 2
    assert [one["row"] for one in told["a"]["only"]["listed"]] == [5, 10]
    assert told["values"]["defocus_v_angstrom"] | {"largest": 0} == {
        "rows": 28, "differing": 1, "largest": 0, "allowed_absolute": 1.0, "allowed_relative": 1e-5, "only": None,
        "worst_rows": {"a": 8, "b": 7},
    }  # fmt: skip
    assert told["pixels"]["pairs"] == 28
    assert told["pixels"]["scale"]["median"] == pytest.approx(1)
    assert told["matched"] == {
        "rows": 28,
        "rules": {"micrograph and position": 28},
        "within_pixels": 1.0,
        "micrographs": "exact name",
    }


def test_without_a_sample_tables_alone_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = write(tmp_path / "a", rows())
    for stack in a.parent.glob("*.mrcs"):
        stack.unlink()
    assert called(a, a, "--sample", 0) == 0
    assert "pixels: not compared (none asked for)" in capsys.readouterr().out
