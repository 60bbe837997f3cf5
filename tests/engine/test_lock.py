"""The lock of an output folder: a whole run alone, shards beside each other, and what a process that is gone leaves."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from cryobox.errors import LockError
from cryobox.folder.lock import hold, hold_idle_part, starting

HERE = socket.gethostname()
HOLD = (
    "import sys\nfrom pathlib import Path\nfrom cryobox.folder.lock import hold\n"
    "with hold(Path(sys.argv[1]), sys.argv[2]):\n    print('in', flush=True)\n    sys.stdin.read()\n"
)


@contextmanager
def held_elsewhere(folder: Path, part: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock, and is killed at the end."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, folder, part], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "in\n"
        yield other
        other.kill()


@pytest.mark.parametrize(("mine", "theirs"), [("", ""), ("", "1-of-2"), ("1-of-2", ""), ("1-of-2", "1-of-2")])
def test_a_second_process_is_refused_by_host_and_process_id(tmp_path: Path, mine: str, theirs: str) -> None:
    with (
        held_elsewhere(tmp_path, theirs) as other,
        pytest.raises(LockError, match=rf"process {other.pid} on host {HERE} is working here"),
        hold(tmp_path, mine),
    ):
        pass


def test_shards_work_beside_each_other(tmp_path: Path) -> None:
    with held_elsewhere(tmp_path, "2-of-3"), hold(tmp_path, "1-of-3"), hold(tmp_path, "3-of-3"):
        with pytest.raises(LockError, match="is working here"), hold_idle_part(tmp_path, "2-of-3"):
            pass
        with hold_idle_part(tmp_path, "4-of-4"):
            pass


@pytest.mark.parametrize("mine", ["", "1-of-2"])
@pytest.mark.parametrize("theirs", ["", "1-of-2"])
def test_the_lock_of_a_process_that_died_is_taken_over(tmp_path: Path, mine: str, theirs: str) -> None:
    with held_elsewhere(tmp_path, theirs):
        pass
    for _ in range(2):
        with hold(tmp_path, mine):
            pass
    assert [path.read_text() for path in tmp_path.iterdir()] == [""] * len(list(tmp_path.iterdir()))


@pytest.mark.parametrize(("mine", "left"), [("", ".lock"), ("", ".lock.1-of-2"), ("1-of-2", ".lock"),
                                            ("1-of-2", ".lock.1-of-2")])  # fmt: skip
def test_a_lock_from_another_host_is_broken_only_on_demand(tmp_path: Path, mine: str, left: str) -> None:
    (tmp_path / left).write_text(json.dumps({"host": "far-away", "pid": os.getpid()}))
    for _ in range(2):  # who is refused leaves nothing that refuses others
        with (
            pytest.raises(LockError, match=r"process .* on host far-away may still be working here.*--break-lock"),
            hold(tmp_path, mine),
        ):
            pass
    with hold(tmp_path, mine, break_lock=True):
        pass
    with hold(tmp_path, mine):
        pass


def test_a_shard_is_not_stopped_by_what_another_shard_left_on_another_host(tmp_path: Path) -> None:
    (tmp_path / ".lock.2-of-2").write_text(json.dumps({"host": "far-away", "pid": 1}))
    with hold(tmp_path, "1-of-2"):
        pass


def _count(folder: Path, together: Barrier) -> None:
    together.wait()
    for _ in range(20):
        with starting(folder):
            found = int((folder / "count").read_text())
            (folder / "count").write_text(str(found + 1))


def test_starts_come_one_after_the_other(tmp_path: Path) -> None:
    (tmp_path / "count").write_text("0")
    spawn = multiprocessing.get_context("spawn")
    together = spawn.Barrier(3)
    processes = [spawn.Process(target=_count, args=(tmp_path, together)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert (tmp_path / "count").read_text() == "60"
