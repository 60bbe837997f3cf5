"""The watch over what tests leave behind sees each kind of it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from traces import MARK, Machine, look


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """A folder of tests three levels down, and a project; the rest of the machine is not changed by what follows."""
    own, project = tmp_path / "temporary" / "session" / "own", tmp_path / "home" / "project"
    own.mkdir(parents=True)
    (project / "src").mkdir(parents=True)
    (project / "build").mkdir()
    (project / "src" / "a.py").write_text("1")
    return own, project


@pytest.fixture
def changes(places: tuple[Path, Path]) -> Callable[..., list[str]]:
    own, project = places
    before = look(own, project)
    return lambda **options: before.changes(look(own, project, **options))


def test_nothing_is_seen_where_nothing_was_done(places: tuple[Path, Path], changes: Callable[..., list[str]]) -> None:
    own, project = places
    (own / "deep").mkdir()
    (own / "deep" / "file").write_text("anything")
    (own / "deep").chmod(0o777)
    (project / "build" / "made").write_text("again at any time")
    (project / "src" / "__pycache__").mkdir()
    assert changes() == []


@pytest.mark.parametrize("up", [1, 2])
def test_the_mode_of_a_folder_above_is_seen(
    places: tuple[Path, Path], changes: Callable[..., list[str]], up: int
) -> None:
    for start in places:
        folder = start.parents[up - 1]
        mode = folder.stat().st_mode
        folder.chmod(0o711)
        (line,) = changes()
        assert f"folder {folder}: was" in line
        folder.chmod(mode)
    assert changes() == []


def test_new_changed_and_missing_files_of_the_project_are_seen(
    places: tuple[Path, Path], changes: Callable[..., list[str]]
) -> None:
    project = places[1]
    (project / "src" / "b.py").write_text("2")
    assert changes() == [f"file {project}/src/b.py: is new"]
    (project / "src" / "b.py").unlink()
    (project / "src" / "a.py").chmod(0o600)
    assert "src/a.py: was" in "".join(changes())
    (project / "src" / "a.py").unlink()
    assert changes() == [f"file {project}/src/a.py: is gone"]
    (project / "src" / "a.py").write_text("1")
    assert len(changes()) == 1, "the same text, written again"


def test_a_variable_the_working_directory_and_the_umask_are_seen(
    changes: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CRYOBOX_LEFT_BEHIND", "1")
    assert changes() == ["variable CRYOBOX_LEFT_BEHIND: is new"]
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    old = os.umask(0o077)
    try:
        (line,) = changes()
    finally:
        os.umask(old)
    assert line.startswith("working directory and umask: were")
    monkeypatch.undo()
    assert changes() == []


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes are looked for in /proc")
def test_a_process_that_still_runs_is_seen_even_when_its_parent_has_gone(changes: Callable[..., list[str]]) -> None:
    start = f"{sys.executable} -c 'import time; time.sleep(60)' >/dev/null 2>&1 & echo $!"
    done = subprocess.run(
        ["sh", "-c", start], env={**os.environ, MARK: "a mark"}, capture_output=True, text=True, check=True
    )
    orphan = int(done.stdout)
    try:
        (line,) = changes(mark="a mark")
        assert line.startswith(f"process {orphan}: still runs: ")
    finally:
        os.kill(orphan, 9)
    assert changes(mark="another mark") == []


def test_a_mount_is_seen(places: tuple[Path, Path]) -> None:
    nothing = look(*places)
    more = Machine(**{name: getattr(nothing, name) for name in nothing.__slots__} | {"mounts": frozenset({"/x"})})
    assert nothing.changes(more) == ["mount /x: is new"]
    assert more.changes(nothing) == ["mount /x: is gone"]


@pytest.mark.skipif(not Path("/proc/self/mountinfo").exists(), reason="mounts are read from /proc")
def test_mounts_are_those_of_the_kernel(places: tuple[Path, Path]) -> None:
    assert "/proc" in look(*places, alone=True).mounts


BAD = """
import os, pathlib, pytest

def test_good(tmp_path):
    (tmp_path / "a").write_text("")
    assert os.environ["TMPDIR"].startswith(str(tmp_path.parent))
    assert os.environ["HOME"].startswith(str(tmp_path.parent))

@pytest.mark.skipif("CRYOBOX_BAD" not in os.environ, reason="asked to behave")
def test_bad(tmp_path_factory):
    tmp_path_factory.getbasetemp().parent.chmod(0o700)
"""


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Callable[[bool], subprocess.CompletedProcess[str]]]:
    """Runs pytest on two tests, the second of which changes a mode that is not its own where it is asked to."""
    (tmp_path / "conftest.py").write_text("from traces import machine_is_left_as_it_was\n")
    (tmp_path / "test_bad.py").write_text(BAD)
    (tmp_path / "above").mkdir(mode=0o755)

    def run(bad: bool) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)} | ({"CRYOBOX_BAD": "1"} if bad else {})
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            "--basetemp",
            str(tmp_path / "above" / "own"),
        ]
        return subprocess.run(
            [*command, "-c", os.devnull, "--rootdir", tmp_path, tmp_path / "test_bad.py"],
            env=environment, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip

    yield run
    (tmp_path / "above").chmod(0o755)


def test_a_session_fails_that_changes_a_mode_and_passes_without(
    session: Callable[[bool], subprocess.CompletedProcess[str]],
) -> None:
    good = session(False)
    assert good.returncode == 0, good.stdout
    bad = session(True)
    assert bad.returncode == 1, bad.stdout
    assert "the machine is not as the tests found it" in bad.stdout
    assert "above: was (493, " in bad.stdout
    assert "2 passed, 1 error" in bad.stdout
