"""What a run has to say reaches every channel: stderr, events, records, log, report, Python; no directory changes."""

from __future__ import annotations

import json
import logging
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cryobox
from cryobox.cli import main
from cryobox.job import merge, run, watch
from cryobox.reporting import write_report
from cryobox.simulate import Dataset, make_dataset
from cryobox.verification import verify
from synth import write_mrc

FAST = cryobox.RunOptions(fsync=False)
RAW = cryobox.Recipe(box=96, dtype="float16", normalize=False)
PLANNED = "float16 without normalization keeps about 3 digits"
CUT = "were clamped, the largest number that float16 holds"
TORN = "holds 1000"


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    """Three micrographs: one that is sound, one with gray levels beyond float16, one that was copied incompletely."""
    made = make_dataset(tmp_path / "data", micrographs=3, shape=(300, 400), picks=12, style="relion")
    loud, torn = made.images[1:]
    write_mrc(loud, np.random.default_rng(0).normal(90_000, 10, (300, 400)).astype(np.float32), pixel_size=1.4)
    torn.write_bytes(torn.read_bytes()[:1000])
    return made


def command(data: Dataset, out: Path, *more: str) -> list[str]:
    words = ["extract", data.picks, "-m", data.micrographs, "-o", out, "--root", data.folder, "--box", "96"]
    return [*map(str, words), "--float16", "--no-normalize", "--no-fsync", *more]


def everything_is_in(text: str) -> bool:
    return all(said in text for said in (PLANNED, CUT, TORN))


def test_a_warning_is_in_every_channel(
    data: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as left:
        main(command(data, out))
    assert left.value.code == 1
    assert everything_is_in(capsys.readouterr().err)
    assert everything_is_in((out / "run.log").read_text())
    assert everything_is_in(" ".join(record.getMessage() for record in caplog.records if record.name == "cryobox"))
    record = json.loads((out / "job.json").read_text())
    assert everything_is_in(json.dumps([record["warnings"], record["incomplete"]], ensure_ascii=False))
    assert everything_is_in((out / "report.html").read_text())


def test_events_have_what_was_planned_and_at_the_end_all(
    data: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(command(data, tmp_path / "out", "--json", "--no-report"))
    events = {event["event"]: event for event in map(json.loads, capsys.readouterr().out.splitlines())}
    assert any(PLANNED in text for text in events["plan"]["warnings"])
    assert everything_is_in(json.dumps([events["end"]["warnings"], events["end"]["incomplete"]], ensure_ascii=False))


def test_what_a_caller_says_is_recorded_with_the_rest_and_verify_knows_it(data: Dataset, tmp_path: Path) -> None:
    result = run(
        data.picks, micrographs=data.micrographs, out=tmp_path / "out", recipe=RAW, root=data.folder, options=FAST,
        warnings=["the moon is full"],
    )  # fmt: skip
    assert result.warnings[0] == "the moon is full"
    assert "warning the moon is full" in (tmp_path / "out" / "run.log").read_text()
    assert "the moon is full" in json.loads((tmp_path / "out" / "job.json").read_text())["warnings"]
    assert not verify(tmp_path / "out").problems


def test_the_log_tells_of_each_run_and_begins_anew_with_the_folder(data: Dataset, tmp_path: Path) -> None:
    given: dict[str, Any] = {"micrographs": data.micrographs, "root": data.folder, "out": tmp_path / "out"}
    for _ in range(2):
        cryobox.run(data.picks, recipe=RAW, options=FAST, **given)
    lines = (tmp_path / "out" / "run.log").read_text().splitlines()
    assert [line for line in lines if " begins: " in line][1].endswith("begins: 0 of 2 micrographs to cut")
    assert sum("ends with exit code 1" in line for line in lines) == 2
    cryobox.run(data.picks, options=cryobox.RunOptions(fsync=False, overwrite=True), recipe=RAW, **given)
    assert sum(" begins: " in line for line in (tmp_path / "out" / "run.log").read_text().splitlines()) == 1


def test_a_log_that_cannot_be_written_keeps_no_run_from_its_work(data: Dataset, tmp_path: Path) -> None:
    (tmp_path / "out" / "run.log").mkdir(parents=True)
    result = cryobox.run(
        data.picks, micrographs=data.micrographs, out=tmp_path / "out", recipe=RAW, root=data.folder, options=FAST
    )
    assert result.extracted > 0


def test_python_hears_of_it_where_it_listens(data: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "cryobox"):
        cryobox.run(
            data.picks, micrographs=data.micrographs, out=tmp_path / "out", recipe=RAW, root=data.folder, options=FAST
        )
    levels = {(record.levelname, record.getMessage().split(":")[0]) for record in caplog.records}
    assert ("WARNING", "micrograph left out") in levels
    assert any(level == "INFO" and "begins" in text for level, text in levels)


def test_a_run_is_read_back_from_any_directory_which_stays_what_it_was(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data.folder)
    shards = [cryobox.RunOptions(fsync=False, shard=(index, 2)) for index in (1, 2)]
    for options in shards:
        cryobox.run("picks.star", micrographs="micrographs/*.mrc", out=tmp_path / "out", recipe=RAW, options=options)
    monkeypatch.chdir(tmp_path)

    def refuse(_: object) -> None:
        raise AssertionError("the working directory of the process was changed")

    monkeypatch.setattr(os, "chdir", refuse)
    merged = merge(tmp_path / "out", options=FAST)
    assert list(merged.incomplete) == ["micrographs/sim_003.mrc"]
    assert merged.incomplete["micrographs/sim_003.mrc"].startswith("micrographs/sim_003.mrc: ")
    assert not verify(tmp_path / "out").problems
    write_report(tmp_path / "out")
    again = run(
        "picks.star", micrographs="micrographs/*.mrc", directory=data.folder, out=tmp_path / "again", recipe=RAW,
        options=FAST,
    )  # fmt: skip
    assert again.incomplete == merged.incomplete
    for name in ("particles.star", "rejected.star", "micrographs_incomplete.star"):
        here, there = ((tmp_path / out / name).read_text() for out in ("out", "again"))
        assert here == there.replace(str(tmp_path / "again"), str(tmp_path / "out"))


def test_events_leave_warnings_on_stderr_as_well(
    data: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(command(data, tmp_path / "out", "--json", "--no-report"))
    said = capsys.readouterr().err
    assert said.count(PLANNED) == 1
    assert said.count(CUT) == 1


def test_a_refused_run_still_says_what_it_had_to_say(
    data: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(command(data, tmp_path / "out", "--no-report", "--quiet"))
    record = json.loads((tmp_path / "out" / "job.json").read_text())
    del record["files"]
    (tmp_path / "old.json").write_text(json.dumps(record))
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        main(
            [
                "extract",
                "--from",
                str(tmp_path / "old.json"),
                "-m",
                str(tmp_path / "nothing"),
                "-o",
                str(tmp_path / "b"),
            ]
        )
    assert left.value.code == 2
    assert "does not say what that run read" in capsys.readouterr().err


def test_shards_hand_on_what_their_callers_said(data: Dataset, tmp_path: Path) -> None:
    for index in (1, 2):
        run(
            data.picks, micrographs=data.micrographs, out=tmp_path / "out", recipe=RAW, root=data.folder,
            options=cryobox.RunOptions(fsync=False, shard=(index, 2)), warnings=[f"moon {index}"],
        )  # fmt: skip
    merged = merge(tmp_path / "out", options=FAST)
    assert merged.warnings[:2] == ("moon 1", "moon 2")
    assert not verify(tmp_path / "out").problems


def test_the_log_says_why_a_run_came_to_its_end(data: Dataset, tmp_path: Path) -> None:
    (tmp_path / "out" / "particles.star").mkdir(parents=True)
    with pytest.raises(cryobox.OutputError):
        cryobox.run(data.picks, micrographs=data.micrographs, out=tmp_path / "out", recipe=RAW, root=data.folder)

    def stumble(_: object) -> None:
        raise RuntimeError("the screen is gone")

    with pytest.raises(RuntimeError):
        cryobox.run(
            data.picks, micrographs=data.micrographs, out=tmp_path / "b", recipe=RAW, root=data.folder, options=FAST,
            on_progress=stumble,
        )  # fmt: skip
    assert "error the screen is gone" in (tmp_path / "b" / "run.log").read_text()


def test_a_watched_folder_is_warned_of_once(data: Dataset, tmp_path: Path) -> None:
    rounds = []

    def begin_again(result: cryobox.RunResult) -> None:
        rounds.append(result)
        if len(rounds) == 1:
            picks = data.picks.read_text().splitlines()
            data.picks.write_text("\n".join(picks[:-1]) + "\n")
        else:
            (tmp_path / "out" / "stop").touch()

    watch(
        data.picks, micrographs=data.micrographs, out=tmp_path / "out", recipe=RAW, root=data.folder, options=FAST,
        every=0.05, settle=0.0, on_round=begin_again,
    )  # fmt: skip
    log = (tmp_path / "out" / "run.log").read_text()
    assert log.count(" begins: ") >= 2
    assert log.count(PLANNED) == 1


@pytest.mark.parametrize("micrographs", ["../data/micrographs", "../data/micrographs/*.mrc"])
def test_the_same_files_from_two_directories_are_the_same_run(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, micrographs: str
) -> None:
    given: dict[str, Any] = {"micrographs": micrographs, "recipe": RAW, "root": data.folder}
    for index in (1, 2):
        (tmp_path / f"work{index}").mkdir()
        monkeypatch.chdir(tmp_path / f"work{index}")
        shard = cryobox.RunOptions(fsync=False, shard=(index, 2))
        cryobox.run("../data/picks.star", out=tmp_path / "shards", options=shard, **given)
        whole = cryobox.run("../data/picks.star", out=tmp_path / "whole", options=FAST, **given)
    assert whole.resumed == 2
    merge(tmp_path / "shards", options=FAST)
    for out in ("shards", "whole"):
        assert not verify(tmp_path / out).problems


def test_the_next_step_names_the_tables_where_their_names_start(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["extract", "data/picks.star", "-m", "data/micrographs.star", "-o", "old", "--root", "data", "--box", "96",
              "--no-report"])  # fmt: skip
    assert "input file ../old/particles.star" in capsys.readouterr().out
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(SystemExit):
        main(["extract", "--from", str(tmp_path / "old"), "-o", "new", "--no-report"])
    said = capsys.readouterr().out
    assert f"input file {os.path.relpath(tmp_path / 'elsewhere/new/particles.star', data.folder)}" in said
    assert f"run RELION in {data.folder}" in said


def test_a_directory_through_a_link_is_where_it_leads(data: Dataset, tmp_path: Path) -> None:
    (data.folder / "sub").mkdir()
    (tmp_path / "link").symlink_to(data.folder / "sub")
    result = run(
        "picks.star", micrographs="micrographs.star", directory=tmp_path / "link" / "..", out=tmp_path / "out",
        recipe=RAW, options=FAST,
    )  # fmt: skip
    assert result.extracted > 0


def test_a_working_directory_that_is_gone_is_one_line(data: Dataset, tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    words = " ".join(shlex.quote(word) for word in command(data, tmp_path / "out"))
    done = subprocess.run(
        ["sh", "-c", f"cd {tmp_path}/gone && rmdir ../gone && {sys.executable} -m cryobox {words}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "cryobox: error: the working directory is not there any more" in done.stderr
    assert "Traceback" not in done.stderr


def test_patterns_and_links_are_those_of_the_reader_with_from(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data.folder)
    cryobox.run("picks.star", micrographs="micrographs/*.mrc", root=".", out=tmp_path / "old", recipe=RAW, options=FAST)
    odd = tmp_path / "od[d]*"
    shutil.copytree(data.folder, odd)
    monkeypatch.chdir(odd)
    with pytest.raises(SystemExit) as left:
        main([*f"extract --from {tmp_path}/old -m micrographs/*.mrc -o new --no-report -q".split()])
    assert left.value.code == 1
    (data.folder / "sub").mkdir()
    (odd / "link").symlink_to(data.folder / "sub")
    with pytest.raises(SystemExit) as left:
        main([*f"extract link/../picks.star --from {tmp_path}/old -o newer --no-report -q".split()])
    assert left.value.code == 1
