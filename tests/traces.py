"""What tests leave behind outside their own folders: looked at before the first test and after the last one.

Programs that tests start write where they like: to the home folder, to the temporary folder. For the time of the tests
both are folders of the session. What is compared is in `Machine`.
"""

from __future__ import annotations

import os
import stat
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MARK = "CRYOBOX_TEST_SESSION"  # in the environment of every process that tests start
ALONE = "CRYOBOX_TESTS_ALONE"  # set where nobody else uses the machine: then all that changes was changed by tests
PATIENCE = 20.0  # seconds for processes to end that were told to

# What building and testing write on purpose, and what others may: made again at any time, and ignored by git.
_MADE = frozenset(
    {".git", ".venv", "build", "dist", "wheelhouse", "site", "demo", "__pycache__", ".pytest_cache", ".hypothesis",
     ".mypy_cache", ".ruff_cache", ".import_linter_cache"}
)  # fmt: skip
_TEMPORARY = tuple(Path(name) for name in ("/tmp", "/var/tmp", "/dev/shm"))
_LASTING = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")  # Python ends them when it ends itself


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What must be the same after the tests.

    Parameters
    ----------
    folders : dict of str to tuple
        Mode and owner of the folders above those of the tests and of the project.
    contents : dict of str to tuple
        Mode, owner, size and time of change of what is in the project's folder; where nobody else uses the machine,
        also of what is in the temporary folders, and the names in all folders above.
    environment : dict
    mounts : frozenset of str
    processes : dict of int to str
        Those that bear the mark.
    place : tuple
        Working directory and umask.
    """

    folders: Mapping[str, tuple[int, ...]]
    contents: Mapping[str, tuple[int, ...]]
    environment: Mapping[str, str]
    mounts: frozenset[str]
    processes: Mapping[int, str]
    place: tuple[str, int]

    def changes(self, later: Machine) -> list[str]:
        """A line for each thing that is not as it was."""
        found = _different("folder", self.folders, later.folders)
        found += _different("file", self.contents, later.contents)
        found += _different("variable", self.environment, later.environment)
        found += [f"mount {path}: is new" for path in sorted(later.mounts - self.mounts)]
        found += [f"mount {path}: is gone" for path in sorted(self.mounts - later.mounts)]
        found += [f"process {number}: still runs: {what}" for number, what in later.processes.items()]
        if self.place != later.place:
            found.append(f"working directory and umask: were {self.place}, are {later.place}")
        return found


def look(own: Path, project: Path = ROOT, *, mark: str = "", alone: bool = False) -> Machine:
    """The machine as it is; `own` is where tests may do as they like."""
    above = {folder for start in (own, project) for folder in start.parents}
    umask = os.umask(0)
    os.umask(umask)
    contents = dict(_below(project, own))
    mounts = frozenset(path for path in _mounts() if alone or Path(path).is_relative_to(project)
                       or any(Path(path).is_relative_to(folder) for folder in (own, own.parent)))  # fmt: skip
    if alone:
        for folder in _TEMPORARY:
            contents |= dict(_below(folder, own))
        for folder in above:
            contents |= {str(path): () for path in folder.iterdir()}
    return Machine(
        folders={str(folder): _mode(folder.lstat()) for folder in above},
        contents=contents,
        environment={name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"},
        mounts=mounts,
        processes=_marked(mark) if mark else {},
        place=(os.getcwd(), umask),
    )


def _different(what: str, old: Mapping[str, object], new: Mapping[str, object]) -> list[str]:
    found = []
    for name in sorted(old.keys() | new.keys()):
        if name not in new:
            found.append(f"{what} {name}: is gone")
        elif name not in old:
            found.append(f"{what} {name}: is new")
        elif old[name] != new[name]:
            found.append(f"{what} {name}: was {old[name]}, is {new[name]}")
    return found


def _mode(status: os.stat_result) -> tuple[int, ...]:
    return stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid


def _below(folder: Path, own: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Everything in a folder but what is made again at any time; a folder's own time says nothing, then."""
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return
    for entry in entries:
        path = Path(entry.path)
        if entry.name in _MADE or path == own or own.is_relative_to(path) or entry.name.startswith(".coverage"):
            continue
        try:
            status = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue
        if entry.is_dir(follow_symlinks=False):
            yield entry.path, _mode(status)
            yield from _below(path, own)
        else:
            yield entry.path, (*_mode(status), status.st_size, status.st_mtime_ns)


def _mounts() -> list[str]:
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return []
    return [line.split()[4].encode().decode("unicode_escape") for line in lines]


def _marked(mark: str) -> dict[int, str]:
    """Processes of this user that have inherited the mark, but for this one."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment, command = (folder / "environ").read_bytes(), (folder / "cmdline").read_bytes()
        except OSError:
            continue
        said = command.replace(b"\0", b" ").decode(errors="replace").strip()
        if int(folder.name) == os.getpid() or not said or any(name in said for name in _LASTING):
            continue  # a process without a command line has ended, and only its parent has not asked yet
        if f"{MARK}={mark}".encode() in environment.split(b"\0"):
            found[int(folder.name)] = said[:200]
    return found


@pytest.fixture(scope="session", autouse=True)
def machine_is_left_as_it_was(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fails the run if tests have changed anything outside their own folders."""
    own, mark = tmp_path_factory.getbasetemp(), uuid.uuid4().hex
    alone = bool(os.environ.get(ALONE))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(MARK, mark)
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("tmp")))
        for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "MPLCONFIGDIR"):
            patch.delenv(name, raising=False)
        patch.setattr(tempfile, "tempdir", None)
        before = look(own, alone=alone)
        yield
        until = time.monotonic() + PATIENCE
        while (after := look(own, mark=mark, alone=alone)).processes and time.monotonic() < until:
            time.sleep(0.2)
    if changes := before.changes(after):
        print(*changes, sep="\n", file=sys.stderr)
        pytest.fail(
            "the machine is not as the tests found it (were files of the project edited meanwhile?):\n  "
            + "\n  ".join(changes[:40]),
            pytrace=False,
        )
