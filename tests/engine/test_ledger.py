"""The ledger: what is recorded is read back, a torn line is not, another run is refused, and one process at a time."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from cryobox.engine.ledger import Ledger, ledger_path, read_ledger
from cryobox.engine.task import StackInfo, TaskResult
from cryobox.errors import LockError, OutputError

HEAD = {"cryobox": "1", "fftw": "3", "recipe": {"box": 64, "ramp": True}}


def result(name: str) -> TaskResult:
    stack = StackInfo(path="stacks/a.mrcs", bytes=10, minimum=-1.5, maximum=2.0, mean=0.1, rms=1 / 3, clamped=0)
    return TaskResult(id=name, kept=3, refused=((1, "no contrast"),), stacks=(stack,), bytes_read=7, warnings=("w",))


def test_what_is_appended_is_read_back_exactly(tmp_path: Path) -> None:
    with Ledger(tmp_path, part="", head=HEAD) as ledger:
        ledger.append(result("a"))
        ledger.append(result("b"))
    with Ledger(tmp_path, part="", head=HEAD) as again:
        assert repr(list(again.finished.values())) == repr([result("a"), result("b")])


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_torn_last_line_is_ignored_and_the_next_record_starts_clean(tmp_path: Path, cut: int) -> None:
    with Ledger(tmp_path, part="", head=HEAD) as ledger:
        ledger.append(result("a"))
        ledger.append(result("b"))
    path = ledger_path(tmp_path, "")
    path.write_bytes(path.read_bytes()[:-cut])
    with Ledger(tmp_path, part="", head=HEAD) as again:
        assert list(again.finished) == ["a"]
        again.append(result("c"))
    assert list(read_ledger(path)[1]) == ["a", "c"]


def test_a_ledger_torn_in_its_head_is_begun_anew(tmp_path: Path) -> None:
    ledger_path(tmp_path, "").write_bytes(b'{"cryobox": ')
    with Ledger(tmp_path, part="", head=HEAD) as ledger:
        ledger.append(result("a"))
    assert list(read_ledger(ledger_path(tmp_path, ""))[1]) == ["a"]


def test_damage_in_the_middle_is_an_error(tmp_path: Path) -> None:
    ledger_path(tmp_path, "").write_bytes(json.dumps(HEAD).encode() + b"\nnot json\n{}\n")
    with pytest.raises(OutputError, match="line 2 is damaged"):
        Ledger(tmp_path, part="", head=HEAD)


def test_another_recipe_is_refused_by_the_option_that_differs(tmp_path: Path) -> None:
    with Ledger(tmp_path, part="", head=HEAD):
        pass
    other = HEAD | {"recipe": {"box": 80, "ramp": True}}
    with pytest.raises(OutputError, match="holds a run with box = 64, now it is 80"):
        Ledger(tmp_path, part="", head=other)
    with Ledger(tmp_path, part="", head=other, overwrite=True) as anew:
        assert not anew.finished


def test_another_version_is_refused(tmp_path: Path) -> None:
    with Ledger(tmp_path, part="", head=HEAD):
        pass
    with pytest.raises(OutputError, match="was begun with fftw 3, this is fftw 4"):
        Ledger(tmp_path, part="", head=HEAD | {"fftw": "4"})


def test_a_second_process_is_refused_by_host_and_process_id(tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom cryobox.engine.ledger import Ledger\n"
        f"with Ledger(Path({str(tmp_path)!r}), part='', head={HEAD!r}):\n"
        "    print('in', flush=True)\n    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "in\n"
        with pytest.raises(LockError, match=rf"process {other.pid} on host {socket.gethostname()} is working here"):
            Ledger(tmp_path, part="", head=HEAD)
        with Ledger(tmp_path, part="1-of-2", head=HEAD):
            pass  # another part of the same run is free
        other.kill()
    with Ledger(tmp_path, part="", head=HEAD):
        pass  # the dead process's lock is taken over


def test_a_lock_from_another_host_is_broken_only_on_demand(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text(json.dumps({"host": "far-away", "pid": os.getpid()}))
    with pytest.raises(LockError, match="process .* on host far-away may still be working here.*--break-lock"):
        Ledger(tmp_path, part="", head=HEAD)
    with Ledger(tmp_path, part="", head=HEAD, break_lock=True):
        pass
    with Ledger(tmp_path, part="", head=HEAD):
        pass
