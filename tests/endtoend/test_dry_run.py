"""A dry run foresees what a run would meet in its folder and on the disk; a full disk is told in bytes."""

from __future__ import annotations

import builtins
import errno
import json
import os
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import cryobox
from cryobox.cli import main
from cryobox.errors import AbortedError
from cryobox.foresight import is_full
from cryobox.job import run
from cryobox.options import Recipe, RunOptions
from cryobox.simulate import Dataset, make_dataset

FAST = RunOptions(fsync=False, check_picks=False)
Usage = namedtuple("Usage", "total used free")  # noqa: PYI024 -- as shutil's


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    return make_dataset(tmp_path / "data", micrographs=3, shape=(300, 400), picks=12)


def cut(data: Dataset, out: Path, *, options: RunOptions = FAST, **words: Any) -> cryobox.RunResult:
    given = {"micrographs": data.micrographs, "root": data.folder} | words
    recipe = given.pop("recipe", Recipe(box=96))
    return run(given.pop("picks", data.picks), out=out, recipe=recipe, options=options, **given)


def said(result: cryobox.RunResult) -> str:
    return "\n".join(result.warnings)


def called(*words: object) -> int:
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    return int(left.value.code or 0)


def test_a_dry_run_foresees_bytes_folder_and_exit_code(
    data: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data.folder)
    common = ("extract", "picks.star", "-m", "micrographs.star", "--box", 96)
    assert called(*common, "--dry-run") == 0
    plain = capsys.readouterr().out
    assert "give --out to compare with the room that is there" in plain
    assert called(*common) == 2
    assert "give --out" in capsys.readouterr().err
    assert called(*common, "-o", "out", "--dry-run", "--json") == 0
    event = json.loads(capsys.readouterr().out)
    stored = event["accepted"]
    assert event["bytes_to_write"] == stored * 96 * 96 * 4 + 3 * 1024
    assert event["bytes_to_read"] == sum(path.stat().st_size for path in data.images)
    assert event["bytes_free"] > 0
    assert not Path("out").exists()
    assert called(*common, "-o", "out", "--no-report", "--no-fsync") == 0
    summary = capsys.readouterr().out
    amount, unit = next(line for line in summary.splitlines() if line.startswith("stored")).split(": ")[1].split()
    assert called(*common, "-o", "out2", "--dry-run") == 0
    planned = capsys.readouterr().out.split(" files, ")[1].splitlines()[0].split()
    assert planned[1] == unit == "kB"
    assert float(planned[0]) - float(amount) == pytest.approx(3.1, abs=1)  # the headers of three stacks
    assert called(*common, "-o", "out", "--dry-run") == 0
    again = capsys.readouterr().out
    assert "resumes: 3 micrographs were done before" in again
    assert "disk: 0 bytes needed in out" in again
    before = {path: path.stat().st_mtime_ns for path in Path("out").rglob("*")}
    assert called(*common[:-1], 64, "-o", "out", "--dry-run") == 2
    assert "holds a run with box = 96, now it is 64" in capsys.readouterr().err
    assert called(*common, "-o", "picks.star", "--dry-run") == 2
    assert "picks.star is no folder" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in Path("out").rglob("*")} == before
    assert called(*common, "-o", "out3", "--min-score", 99, "--dry-run") == 1
    assert "a run would end with exit code 1" in capsys.readouterr().out
    assert called(*common, "-o", "out3", "--min-score", 99, "--dry-run", "--json") == 1


def test_a_dry_run_is_refused_where_a_run_would_be_for_stacks_that_were_removed(
    data: Dataset, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data.folder)
    common = ("extract", "picks.star", "-m", "micrographs.star", "--box", 96, "-o", "out", "--no-report", "--no-fsync")
    assert called(*common) == 0
    assert called("compact", "out") == 0
    for more in ((), ("--dry-run",)):
        assert called(*common, *more) == 2
        assert "of its stacks were removed by cryobox compact" in capsys.readouterr().err
    assert called(*common, "--overwrite", "--dry-run") == 0


def test_a_disk_that_does_not_say_what_is_free_stops_nothing(
    data: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stale(_: object) -> Usage:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.chdir(data.folder)
    for usage in (lambda _: Usage(0, 0, 0), stale):
        monkeypatch.setattr(shutil, "disk_usage", usage)
        assert called("extract", "picks.star", "-m", "micrographs.star", "--box", 96, "-o", "out", "--dry-run") == 0
        assert "it does not say how much is free" in capsys.readouterr().out
    assert "free" not in said(cut(data, tmp_path / "out"))


def test_little_room_is_foreseen_and_warned_of(
    data: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data.folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 10**9 - 5000, 5000))
    assert called("extract", "picks.star", "-m", "micrographs.star", "--box", 96, "-o", "out", "--dry-run") == 0
    shown = capsys.readouterr()
    assert "5 kB free: TOO LITTLE" in shown.out
    assert "and the disk has 5 kB free; make room" in shown.err
    assert "and the disk has 5 kB free; make room" in said(cut(data, tmp_path / "out"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize(
    ("name", "done"),
    [
        ("_particles.mrcs", "are free; make room; 0 micrographs are done, the same command resumes"),
        ("particles.star", "are free; make room; all stacks are written, the same command writes the tables"),
        ("job.json", "are free; make room; all tables are written, the same command writes job.json"),
    ],
)
def test_a_full_disk_names_what_is_needed_and_free(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, done: str
) -> None:
    """The kernel's own device that is always full takes the place of the file."""

    def full_for(opens: Callable[..., Any]) -> Callable[..., Any]:
        return lambda path, *more, **words: opens("/dev/full" if f"{name}." in f"{path}." else path, *more, **words)

    monkeypatch.setattr(os, "open", full_for(os.open))
    monkeypatch.setattr(builtins, "open", full_for(open))
    with pytest.raises(AbortedError) as stopped:
        cut(data, tmp_path / "out")
    text = str(stopped.value)
    assert "out: the disk is full (No space left on device): " in text
    assert ("of stacks are still to be written" in text) == ("_particles" in name)
    assert text.endswith(done)
    assert ".tmp" not in text


def test_errors_of_other_processes_tell_of_a_full_disk_by_their_text() -> None:
    assert is_full(cryobox.OutputError("/x/.a.tmp: cannot be written: No space left on device"))
    assert not is_full(cryobox.OutputError("/x/.a.tmp: cannot be written: Permission denied"))
