"""Interrupted runs, started and stopped as users and batch systems do, and runs whose inputs or options change."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import synth
from reliability.scene import Scene, contents, identities, leftovers, make_scene, no_traceback, recorded_stacks

MANY = 400  # micrographs: work for about a second


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Scene, dict[str, str]]:
    """Many micrographs, and the files of an undisturbed run."""
    folder = tmp_path_factory.mktemp("large")
    scene = make_scene(folder, MANY, picks=8)
    done = scene.run("out", "--no-report")
    assert done.returncode == 0, done.stderr
    return scene, contents(folder / "out")


@pytest.fixture
def small(tmp_path: Path) -> tuple[Scene, Path, dict[str, str]]:
    """A few micrographs, a finished run, and its files."""
    scene = make_scene(tmp_path)
    done = scene.run("out", "--no-report")
    assert done.returncode == 0, done.stderr
    return scene, tmp_path / "out", contents(tmp_path / "out")


@contextmanager
def started(scene: Scene, out: Path, *more: str) -> Iterator[subprocess.Popen[str]]:
    """A run that has finished at least 20 micrographs."""
    command = [sys.executable, "-m", "cryobox", *scene.command(out, "--no-report", *more)]
    with subprocess.Popen(
        command, cwd=scene.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        ledger = out / "ledger.jsonl"
        while not (ledger.exists() and ledger.read_bytes().count(b"\n") > 20):
            assert process.poll() is None, process.communicate()
            time.sleep(0.002)
        yield process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_signal_lets_what_is_in_flight_finish_says_how_to_go_on_and_exits_with_130(
    large: tuple[Scene, dict[str, str]], tmp_path: Path, number: signal.Signals
) -> None:
    scene, expected = large
    out = scene.folder / f"stopped-{number.name}"
    with started(scene, out) as process:
        process.send_signal(number)
        said, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "finishing what is in flight" in errors
    assert "the same command resumes" in said + errors
    assert leftovers(out) == []
    assert identities(out).keys() == recorded_stacks(out), "what was in flight is finished and recorded"
    before = identities(out)
    assert 2 * 10 < len(before) < 2 * MANY
    _check_resumed(scene, out, expected, before)


def test_two_signals_end_the_run_at_once(large: tuple[Scene, dict[str, str]]) -> None:
    scene, expected = large
    out = scene.folder / "stopped-twice"
    with started(scene, out) as process:
        process.send_signal(signal.SIGTERM)
        time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode in (-signal.SIGTERM, 130)
    before = {name: found for name, found in identities(out).items() if name in recorded_stacks(out)}
    _check_resumed(scene, out, expected, before)


def test_kills_at_random_moments_cost_only_what_was_in_flight(large: tuple[Scene, dict[str, str]]) -> None:
    scene, expected = large
    out = scene.folder / "killed"
    dice = random.Random(5)
    command = [sys.executable, "-m", "cryobox", *scene.command(out, "--no-report", "--workers", "2")]
    before: dict[str, tuple[int, int]] = {}
    for _ in range(5):
        with subprocess.Popen(
            command, cwd=scene.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            time.sleep(dice.uniform(0.3, 0.9))
            process.kill()
        found = identities(out)
        assert {name: found[name] for name in before} == before
        before = {name: found[name] for name in recorded_stacks(out)}
    _check_resumed(scene, out, expected, before)


def _check_resumed(scene: Scene, out: Path, expected: dict[str, str], before: dict[str, tuple[int, int]]) -> None:
    done = scene.run(out, "--no-report")
    assert done.returncode == 0, done.stderr
    found = contents(out)
    assert found.keys() == expected.keys()
    for name, digest in expected.items():
        if not name.endswith((".star", ".json")):  # these name the folder
            assert found[name] == digest, name
    for name in ("particles.star", "particles_small.star", "rejected.star"):
        text = (out / name).read_text().replace(f"@{out.name}/", "@out/")
        assert text == (scene.folder / "out" / name).read_text()
    after = identities(out)
    assert {name: after[name] for name in before} == before, "a finished stack was made again"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--no-normalize",), "holds a run with normalize = True, now it is False"),
        (("--float16",), "holds a run with dtype = float32, now it is float16"),
        (("--bg-radius", "10"), "background_radius = None, now it is 10.0"),
        (("--edges", "pad"), "edges = reject, now it is pad"),
    ],
)
def test_another_option_is_refused_by_its_name(
    small: tuple[Scene, Path, dict[str, str]], option: tuple[str, ...], message: str
) -> None:
    scene, out, expected = small
    refused = scene.run("out", "--no-report", *option)
    assert refused.returncode == 2
    assert message in refused.stderr
    assert "--overwrite" in refused.stderr
    assert contents(out) == expected, "a refused run changes nothing"
    anew = scene.run("out", "--no-report", *option, "--overwrite")
    assert anew.returncode == 0, anew.stderr
    assert contents(out) != expected
    back = scene.run("out", "--no-report", "--overwrite")
    assert back.returncode == 0
    assert contents(out) == expected


def test_a_finished_run_done_again_makes_no_stack_again(small: tuple[Scene, Path, dict[str, str]]) -> None:
    scene, out, expected = small
    before = identities(out)
    assert scene.run("out", "--no-report").returncode == 0
    assert identities(out) == before
    assert contents(out) == expected


def _others(before: dict[str, tuple[int, int]], after: dict[str, tuple[int, int]]) -> set[str]:
    return {name for name in before if after.get(name) != before[name]}


def test_a_micrograph_that_was_written_anew_is_done_again_and_no_other(
    small: tuple[Scene, Path, dict[str, str]],
) -> None:
    scene, out, expected = small
    before = identities(out)
    image = synth.micrograph((96, 96), seed=50)
    synth.write_mrc(scene.folder / scene.names[2], image, pixel_size=1.5)
    assert scene.run("out", "--no-report").returncode == 0
    assert _others(before, identities(out)) == {"stacks/m0002_particles.mrcs", "stacks_small/m0002_particles.mrcs"}
    changed = {name for name, digest in contents(out).items() if digest != expected[name]}
    changed.discard("job.json")  # which says when each micrograph was changed
    assert changed == {"stacks/m0002_particles.mrcs", "stacks_small/m0002_particles.mrcs"}


def test_picks_of_one_micrograph_that_change_redo_that_one(small: tuple[Scene, Path, dict[str, str]]) -> None:
    scene, out, _ = small
    before = identities(out)
    text = (scene.folder / "picks.star").read_text().splitlines()
    last = next(i for i in range(len(text) - 1, 0, -1) if text[i].startswith("mics/m0002"))
    text[last] = "mics/m0002.mrc 50.000000 41.000000"
    (scene.folder / "picks.star").write_text("\n".join(text) + "\n")
    assert scene.run("out", "--no-report").returncode == 0
    assert _others(before, identities(out)) == {"stacks/m0002_particles.mrcs", "stacks_small/m0002_particles.mrcs"}
    alone = scene.run("alone", "--no-report")
    assert alone.returncode == 0
    for name in identities(out):
        assert (out / name).read_bytes() == (scene.folder / "alone" / name).read_bytes()


@pytest.mark.parametrize("damage", ["missing", "shorter", "longer", "not recorded"])
def test_a_stack_that_is_not_as_recorded_is_made_again(small: tuple[Scene, Path, dict[str, str]], damage: str) -> None:
    scene, out, expected = small
    before = identities(out)
    stack = out / "stacks" / "m0000_particles.mrcs"
    if damage == "missing":
        stack.unlink()
    elif damage == "not recorded":
        ledger = out / "ledger.jsonl"
        lines = ledger.read_bytes().splitlines(keepends=True)
        ledger.write_bytes(b"".join(line for line in lines if b'"stacks/m0000' not in line))
    else:
        data = stack.read_bytes()
        stack.write_bytes(data[:-4] if damage == "shorter" else data + b"\0\0\0\0")
    assert scene.run("out", "--no-report").returncode == 0
    assert contents(out) == expected
    redone = {"stacks/m0000_particles.mrcs", "stacks_small/m0000_particles.mrcs"}
    assert _others(before, identities(out)) == redone


def test_a_second_run_in_the_same_folder_is_refused_by_host_and_process(
    large: tuple[Scene, dict[str, str]],
) -> None:
    scene, _ = large
    out = scene.folder / "twice"
    with started(scene, out) as process:
        refused = scene.run(out, "--no-report")
        process.kill()
        process.communicate()
    assert refused.returncode == 2
    assert f"process {process.pid} on host {socket.gethostname()} is working here" in refused.stderr
    assert no_traceback(refused)
    after = scene.run(out, "--no-report")
    assert after.returncode == 0, "a dead process's lock is taken over on the same host"


def test_tables_that_nobody_recorded_are_not_replaced(tmp_path: Path) -> None:
    scene = make_scene(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "particles.star").write_text("precious\n")
    refused = scene.run("out", "--no-report")
    assert refused.returncode == 2
    assert "particles.star" in refused.stderr
    assert (tmp_path / "out" / "particles.star").read_text() == "precious\n"


def test_overwriting_leaves_files_alone_that_the_run_did_not_write(small: tuple[Scene, Path, dict[str, str]]) -> None:
    scene, out, _ = small
    for name in ("notes.txt", "stacks/mine.mrcs", "stacks/.hidden"):
        (out / name).write_text("mine")
    assert scene.run("out", "--no-report", "--overwrite").returncode == 0
    for name in ("notes.txt", "stacks/mine.mrcs", "stacks/.hidden"):
        assert (out / name).read_text() == "mine"


def test_another_part_or_host_keeps_its_unfinished_files(small: tuple[Scene, Path, dict[str, str]]) -> None:
    scene, out, _ = small
    own = out / "stacks" / ".m0000_particles.mrcs.all.node7.123.4.tmp"
    others = [
        out / "stacks" / ".m0000_particles.mrcs.2-of-4.node7.123.4.tmp",
        out / "stacks" / ".a.all.b.tmp",
        out / "stacks" / ".m.all.x_particles.mrcs.2-of-4.node7.123.4.tmp",
        out / ".editor.tmp",
    ]
    for path in (own, *others):
        path.write_text("unfinished")
    assert scene.run("out", "--no-report").returncode == 0
    assert not own.exists()
    assert all(path.exists() for path in others)


def test_a_ledger_with_damage_is_refused_until_one_overwrites(small: tuple[Scene, Path, dict[str, str]]) -> None:
    scene, out, expected = small
    ledger = out / "ledger.jsonl"
    good = ledger.read_bytes()
    for damage in (b"\0" * 40 + b"\n", b"[]\n[]\n", b"{}\n5\n", b'{"recipe": 3}\n{"id": []}\n', b"\xff\xfe\n{}\n"):
        ledger.write_bytes(damage if damage.startswith((b"[", b"{")) else good + damage + good)
        refused = scene.run("out", "--no-report")
        assert refused.returncode == 2, refused.stderr
        assert no_traceback(refused), refused.stderr
        assert "--overwrite" in refused.stderr
    assert scene.run("out", "--no-report", "--overwrite").returncode == 0
    assert contents(out) == expected


def test_pixels_that_are_no_numbers_cost_their_particles_and_everything_agrees(tmp_path: Path) -> None:
    """Survivors are packed in order; ledger, tables and stack headers have the same count."""
    scene = make_scene(tmp_path, 2, picks=7)
    image = synth.micrograph((96, 96), seed=1)
    image[20:24, :] = np.nan
    synth.write_mrc(tmp_path / scene.names[0], image, pixel_size=1.5)
    done = scene.run("out", "--no-report")
    assert done.returncode == 0, done.stderr
    out = tmp_path / "out"
    job = json.loads((out / "job.json").read_text())
    assert job["rejected"]["pixels that are not finite"] > 0
    assert job["extracted"] + sum(job["rejected"].values()) == job["picks"] == 14
    rows = [line.split() for line in (out / "particles.star").read_text().splitlines() if "@" in line]
    assert len(rows) == job["extracted"]
    ledger = {
        stack["path"]: line["kept"]
        for line in map(json.loads, (out / "ledger.jsonl").read_text().splitlines())
        for stack in line.get("stacks", ())
    }
    total = 0
    for path in sorted((out / "stacks").iterdir()):
        stem = path.name.removesuffix("_particles.mrcs")
        slots = [word.split("@")[0] for row in rows for word in row if f"/{stem}_" in word]
        assert slots == [f"{n:08d}" for n in range(1, len(slots) + 1)]
        header = np.fromfile(path, "<i4", 3)
        assert header[2] == len(slots) == ledger[f"stacks/{path.name}"]
        assert path.stat().st_size == 1024 + len(slots) * 36 * 36 * 4
        total += len(slots)
    assert total == job["extracted"]
    # The packed images are those of the picks that the table names, in order.
    undamaged = make_scene(tmp_path / "whole", 2, picks=7)
    synth.write_mrc(undamaged.folder / scene.names[0], synth.micrograph((96, 96), seed=1), pixel_size=1.5)
    assert undamaged.run("out", "--no-report").returncode == 0
    whole = {
        (row[0], row[1], row[2]): next(word for word in row if "@" in word)
        for row in (line.split() for line in (undamaged.folder / "out" / "particles.star").read_text().splitlines())
        if any("@" in word for word in row)
    }
    for row in rows:
        here = next(word for word in row if "@" in word)
        assert _image(tmp_path, here) == _image(undamaged.folder, whole[row[0], row[1], row[2]])


def _image(folder: Path, name: str) -> bytes:
    slot, path = name.split("@")
    size = 36 * 36 * 4
    start = 1024 + (int(slot) - 1) * size
    return (folder / path).read_bytes()[start : start + size]


def test_a_micrograph_that_failed_is_tried_again_by_the_same_command(tmp_path: Path) -> None:
    scene = make_scene(tmp_path)
    path = tmp_path / scene.names[0]
    whole = path.read_bytes()
    when = path.stat()
    path.write_bytes(whole[:-100])
    first = scene.run("out", "--no-report")
    assert first.returncode == 1
    assert "copied incompletely?" in first.stderr
    path.write_bytes(whole)
    os.utime(path, ns=(when.st_atime_ns, when.st_mtime_ns))
    assert scene.run("out", "--no-report").returncode == 0
    found = contents(tmp_path / "out")
    assert "micrographs_incomplete.star" not in found
    fresh = scene.run("fresh", "--no-report")
    assert fresh.returncode == 0
    assert found["stacks/m0000_particles.mrcs"] == contents(tmp_path / "fresh")["stacks/m0000_particles.mrcs"]
