"""A process killed after any call that changes the output folder, and calls that fail: what is there is whole, and
the same command ends with the same bytes.

Every fourth point is tried; all of them with CRYOBOX_TEST_POINTS=all (`make crash-test`).
"""

from __future__ import annotations

import errno
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from reliability.faults import FAIL, KILL, SHORT, Call, Ended, Fault, Server, why_not
from reliability.scene import Scene, contents, identities, leftovers, make_scene, recorded_stacks

if _reason := why_not():
    pytest.skip(_reason, allow_module_level=True)

STEP = 1 if os.environ.get("CRYOBOX_TEST_POINTS") == "all" else 4
ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES, errno.EDQUOT, errno.EROFS)


class Bench:
    """A data set, what an undisturbed run makes of it, and a server for disturbed ones."""

    def __init__(self, server: Server, scene: Scene, scratch: Path) -> None:
        self.server, self.scene, self.scratch = server, scene, scratch
        self.number = 0
        self.expected, self.calls = self.undisturbed()

    def undisturbed(self, *more: str) -> tuple[dict[str, str], list[Call]]:
        """The files of a run from nothing, and its calls."""
        out = self.fresh()
        ended = self.run(out, *more)
        assert ended.code == 0, ended.output
        return contents(out), ended.calls

    def fresh(self) -> Path:
        """A folder that does not exist, always of the same name: tables name the stacks in it."""
        out = self.scratch / "out"
        shutil.rmtree(out, ignore_errors=True)
        return out

    def run(self, out: Path, *more: str, fault: Fault = Fault(), clock: int = 0) -> Ended:  # noqa: B008
        """Run the command into `out`."""
        argv = self.scene.command(out, "--no-report", *more)
        return self.server.run(argv, self.scene.folder, watched=out, fault=fault, clock=clock)

    def check_whole(self, out: Path, *expected: dict[str, str]) -> None:
        """Every file that has its name must be one of an undisturbed run; a complete job has all of them."""
        found = {
            name: digest for name, digest in contents(out).items() if not name.endswith(".tmp") and ".tmp/" not in name
        }
        for name, digest in found.items():
            assert digest in [files.get(name) for files in expected], f"{name} is published and not whole"
        if "job.json" in found:
            assert found in list(expected)

    def check_ends_as(self, out: Path, expected: dict[str, str], *more: str) -> None:
        """The command must end with these files."""
        ended = self.run(out, *more)
        assert ended.code == 0, ended.output
        assert contents(out) == expected
        assert leftovers(out) == []

    def check_finishes(self, out: Path) -> None:
        """The same command must end with the same files, and not make again what the ledger has."""
        recorded = recorded_stacks(out)
        before = {name: identity for name, identity in identities(out).items() if name in recorded}
        self.check_ends_as(out, self.expected)
        after = identities(out)
        assert {name: after[name] for name in before} == before, "a finished stack was made again"


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    scratch = tmp_path_factory.mktemp("crashes")
    with Server(scratch) as server:
        yield Bench(server, make_scene(scratch / "data"), scratch)


def points(calls: list[Call], seed: int = 0) -> range:
    return range(1 + seed % STEP, len(calls) + 1, STEP)


def test_a_kill_after_any_call_leaves_whole_files_and_the_same_command_ends_with_the_same_bytes(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    survived: Counter[str] = Counter()
    for at in points(bench.calls):
        out = bench.fresh()
        ended = bench.run(out, fault=Fault(at, KILL))
        assert ended.code == -9, f"point {at} was not reached"
        bench.check_whole(out, bench.expected)
        bench.check_finishes(out)
        survived[bench.calls[at - 1].name] += 1
    with capsys.disabled():
        print(f"\n  {survived.total()} of {len(bench.calls)} crash points survived: {dict(survived)}")


def test_merged_stacks_survive_kills_too(bench: Bench) -> None:
    more = ("--particles-per-stack", "5")
    expected, calls = bench.undisturbed(*more)
    assert len([name for name in expected if name.startswith("stacks/")]) == 2  # of three micrographs
    for at in points(calls, seed=1):
        out = bench.fresh()
        assert bench.run(out, *more, fault=Fault(at, KILL)).code == -9, f"point {at} was not reached"
        bench.check_whole(out, expected)
        bench.check_ends_as(out, expected, *more)


def test_a_restacking_survives_kills_too(bench: Bench) -> None:
    source = bench.scene.folder / "source"
    ended = bench.run(source)
    assert ended.code == 0, ended.output
    out = bench.fresh()
    command = ["restack", "source/particles.star", "--out", str(out), "--fcrop", "18", "--small", "10"]
    command += ["--particles-per-stack", "3", "--workers", "1"]

    def restack(fault: Fault = Fault()) -> Ended:  # noqa: B008
        return bench.server.run(command, bench.scene.folder, watched=out, fault=fault)

    ended = restack()
    assert ended.code == 0, ended.output
    expected, calls = contents(out), ended.calls
    assert len([name for name in expected if name.startswith("stacks/")]) > 1
    for at in points(calls):
        bench.fresh()
        assert restack(Fault(at, KILL)).code == -9, f"point {at} was not reached"
        bench.check_whole(out, expected)
        before = {name: identity for name, identity in identities(out).items() if name in recorded_stacks(out)}
        assert restack().code == 0
        assert contents(out) == expected
        assert leftovers(out) == []
        assert {name: identities(out)[name] for name in before} == before
    shutil.rmtree(source)


def test_a_run_killed_again_and_again_gets_done(bench: Bench) -> None:
    out = bench.fresh()
    kills = 0
    while (ended := bench.run(out, fault=Fault(45, KILL))).code == -9:
        bench.check_whole(out, bench.expected)
        kills += 1
        assert kills < 40
    assert kills >= 2
    assert ended.code == 0, ended.output
    assert contents(out) == bench.expected


def test_picks_that_change_between_crashes_never_leave_images_of_the_other_picks(bench: Bench) -> None:
    """Same number of picks, so sizes and names of all stacks stay the same: only the pixels tell."""
    first = bench.expected
    bench.scene.picks(seed=1)
    second, _ = bench.undisturbed()
    assert first.keys() == second.keys()
    assert first["stacks/m0000_particles.mrcs"] != second["stacks/m0000_particles.mrcs"]
    done = bench.scratch / "done"
    bench.scene.picks(seed=0)
    out = bench.fresh()
    assert bench.run(out).code == 0
    shutil.rmtree(done, ignore_errors=True)
    shutil.copytree(out, done)
    bench.scene.picks(seed=1)
    calls = bench.run(out).calls
    assert contents(out) == second
    for at in points(calls, 1):
        shutil.copytree(done, bench.fresh())
        bench.scene.picks(seed=1)
        assert bench.run(out, fault=Fault(at, KILL)).code == -9
        bench.check_whole(out, first, second)
        assert ("job.json" not in contents(out)) or contents(out) in (first, second)
        bench.scene.picks(seed=0)
        bench.check_ends_as(out, first)
        bench.scene.picks(seed=1)
        bench.check_ends_as(out, second)
    bench.scene.picks(seed=0)


def test_tables_are_gone_before_a_stack_that_they_describe_is_replaced(bench: Bench) -> None:
    out = bench.fresh()
    assert bench.run(out).code == 0
    os.utime(bench.scene.folder / bench.scene.names[0])
    calls = bench.run(out).calls
    replaced = [call.number for call in calls if call.name == "rename" and "/stacks" in call.second]
    removed = {
        Path(call.path).name: call.number for call in calls if call.name == "remove" and Path(call.path).parent == out
    }
    synced = [call.number for call in calls if call.name == "fsync" and call.path == str(out)]
    assert {"job.json", "particles.star", "particles_small.star"} <= removed.keys()
    assert any(max(removed[name] for name in ("job.json", "particles.star")) < at < min(replaced) for at in synced)
    assert removed["job.json"] < removed["particles.star"]
    assert len(replaced) == 2, "only the micrograph that was touched is done again"
    bench.expected, bench.calls = bench.undisturbed()


def test_overwriting_survives_a_kill_after_any_call(bench: Bench) -> None:
    other, _ = bench.undisturbed("--float16")
    done = bench.scratch / "done"
    shutil.rmtree(done, ignore_errors=True)
    assert bench.run(bench.fresh()).code == 0
    shutil.copytree(bench.scratch / "out", done)
    out = bench.fresh()
    shutil.copytree(done, out)
    calls = bench.run(out, "--float16", "--overwrite").calls
    assert contents(out) == other
    for at in points(calls, 2):
        shutil.copytree(done, bench.fresh())
        assert bench.run(out, "--float16", "--overwrite", fault=Fault(at, KILL)).code == -9
        bench.check_whole(out, bench.expected, other)
        bench.check_ends_as(out, other, "--float16", "--overwrite")


def test_a_whole_run_that_takes_over_from_shards_survives_a_kill_after_any_call(bench: Bench) -> None:
    anew = ("--float16", "--overwrite")
    other, _ = bench.undisturbed("--float16")
    out, done = bench.fresh(), bench.scratch / "done"
    for shard in ("1/2", "2/2"):
        assert bench.run(out, "--shard", shard).code == 0
    shards = contents(out)
    assert "shards/2-of-2/particles.star" in shards
    shutil.rmtree(done, ignore_errors=True)
    shutil.copytree(out, done)
    calls = bench.run(out, *anew).calls
    assert contents(out) == other
    for at in points(calls, 3):
        shutil.copytree(done, bench.fresh())
        assert bench.run(out, *anew, fault=Fault(at, KILL)).code == -9
        bench.check_whole(out, shards, other)
        bench.check_ends_as(out, other, *anew)


def test_a_shard_that_takes_over_survives_a_kill_after_any_call(bench: Bench) -> None:
    """From a whole run on other picks: no table of either is there that tells of images of the other."""
    anew = ("--shard", "1/2", "--overwrite")
    out, done = bench.fresh(), bench.scratch / "done"
    bench.scene.picks(seed=1)
    assert bench.run(out).code == 0
    first = contents(out)
    shutil.rmtree(done, ignore_errors=True)
    shutil.copytree(out, done)
    bench.scene.picks(seed=0)
    calls = bench.run(out, *anew).calls
    shard = contents(out)
    assert not shard.keys() & {"particles.star", "job.json"}
    for at in points(calls, 1):
        shutil.copytree(done, bench.fresh())
        assert bench.run(out, *anew, fault=Fault(at, KILL)).code == -9
        bench.check_whole(out, first, shard)
        bench.check_ends_as(out, shard, *anew)
    assert bench.run(out, "--shard", "2/2").code == 0
    ended = bench.server.run(
        ["merge", str(out), "--quiet", "--no-report"], bench.scene.folder, watched=out, fault=Fault()
    )
    assert ended.code == 0, ended.output
    assert {name: digest for name, digest in contents(out).items() if not name.startswith("shards/")} == bench.expected


@pytest.mark.parametrize("from_then_on", [False, True], ids=["once", "from then on"])
def test_a_call_that_fails_ends_the_run_with_a_message_and_the_rerun_completes_it(
    bench: Bench, from_then_on: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    codes: Counter[int] = Counter()
    for turn, at in enumerate(points(bench.calls, int(from_then_on))):
        out = bench.fresh()
        error = ERRORS[turn % len(ERRORS)]
        ended = bench.run(out, fault=Fault(at, FAIL, error, from_then_on=from_then_on))
        (struck,) = [call for call in ended.calls if call.number == at]  # the ledger is written by another thread
        what = f"{errno.errorcode[error]} at {struck.name} {struck.path}"
        assert "Traceback" not in ended.output, f"{what}:\n{ended.output}"
        # What cannot be removed or emptied at the end does no harm, nor room not reserved, nor a gap in the log.
        harmless = at > len(bench.calls) - 2 or struck.name in ("remove", "reserve") or "run.log" in struck.path
        assert ended.code in ((0, 2, 3) if harmless else (2, 3)), what
        if ended.code:
            assert os.strerror(error) in ended.output, f"{what}: the message must say it: {ended.output}"
        bench.check_whole(out, bench.expected)
        bench.check_finishes(out)
        codes[ended.code] += 1
    with capsys.disabled():
        print(f"\n  {codes.total()} failing calls survived; exit codes {dict(codes)}")


def test_every_stack_asks_for_its_room_and_room_that_is_refused_costs_nothing(bench: Bench) -> None:
    reserved = [call.number for call in bench.calls if call.name == "reserve"]
    assert len(reserved) == sum(name.endswith(".mrcs") for name in bench.expected) > 0
    struck = 0
    for at in reserved * 3:  # the ledger is written by another thread: a number is now this call, now that one
        out = bench.fresh()
        ended = bench.run(out, fault=Fault(at, FAIL, errno.EOPNOTSUPP))
        if [call.name for call in ended.calls if call.number == at] == ["reserve"]:
            struck += 1
            assert ended.code == 0, ended.output
            assert contents(out) == bench.expected
    assert struck > 0


def test_a_failure_after_the_ledger_was_begun_says_that_the_run_can_go_on(bench: Bench) -> None:
    renamed = next(call.number for call in bench.calls if call.name == "rename")
    ended = bench.run(bench.fresh(), fault=Fault(renamed, FAIL, errno.EIO))
    assert ended.code == 3
    assert "Input/output error" in ended.output
    assert "the same command resumes" in ended.output


def test_writes_that_are_cut_short_are_continued(bench: Bench) -> None:
    out = bench.fresh()
    ended = bench.run(out, fault=Fault(1, SHORT, from_then_on=True))
    assert ended.code == 0, ended.output
    assert len(ended.calls) > len(bench.calls)
    assert contents(out) == bench.expected


def test_reads_that_are_cut_short_are_continued(bench: Bench) -> None:
    out = bench.fresh()
    mics = bench.scene.folder / "mics"
    fault = Fault(1, SHORT, from_then_on=True, reads=True)
    argv = bench.scene.command(out, "--no-report")
    ended = bench.server.run(argv, bench.scene.folder, watched=mics, fault=fault)
    assert sum(call.name == "read" for call in ended.calls) > 3 * len(bench.scene.names)
    assert ended.code == 0, ended.output
    assert contents(out) == bench.expected


def test_a_read_that_fails_costs_that_micrograph_and_the_rerun_gets_it(bench: Bench) -> None:
    mics = bench.scene.folder / "mics"
    whole = ("--no-report", "--no-check-picks")  # what that reads is read in vain at worst
    calm = bench.server.run(
        bench.scene.command(bench.fresh(), *whole), bench.scene.folder, watched=mics, fault=Fault(reads=True)
    )
    reads = [call for call in calm.calls if call.name == "read"]
    assert len(reads) == 2 * len(bench.scene.names)  # header and pixels
    for at in [call.number for call in reads]:
        out = bench.fresh()
        fault = Fault(at, FAIL, errno.EIO, reads=True)
        ended = bench.server.run(bench.scene.command(out, *whole), bench.scene.folder, watched=mics, fault=fault)
        (call,) = [call for call in ended.calls if call.result < 0]  # headers are read by several threads
        assert ended.code == 1, ended.output
        assert "Traceback" not in ended.output
        name = f"mics/{Path(call.path).name}"
        assert "Input/output error" in (out / "micrographs_incomplete.star").read_text()
        assert f"{name} " in (out / "micrographs_incomplete.star").read_text()
        assert f"{name} " in (out / "rejected.star").read_text()
        assert name not in (out / "particles.star").read_text()
        bench.check_finishes(out)


@pytest.mark.parametrize("step", [-3600, 86400])
def test_a_clock_that_steps_changes_nothing(bench: Bench, step: int) -> None:
    out = bench.fresh()
    assert bench.run(out, fault=Fault(40, KILL), clock=step).code == -9
    ended = bench.run(out, clock=-step)
    assert ended.code == 0, ended.output
    assert contents(out) == bench.expected
    for name in identities(out):
        os.utime(out / name, (0, 0))
    before = identities(out)
    bench.check_finishes(out)
    assert identities(out) == before


class Disk:
    """What a disk holds after a power cut at the worst moment, from the calls before it.

    A file's data are safe up to its last fsync; a folder's entries up to the folder's. With `names_survive` entries
    are on the disk at once, and only data are lost, as a file system without delayed names would do.
    """

    def __init__(self, *, names_survive: bool) -> None:
        self._names_survive = names_survive
        self._files: list[bytearray] = []
        self._safe: dict[int, bytes] = {}
        self._names: dict[str, int | None] = {}  # path -> file, None: a folder
        self._safe_names: dict[str, int | None] = {}

    def apply(self, call: Call) -> None:
        if call.result < 0:
            return
        if call.name == "mkdir":
            self._names[call.path] = None
        elif call.name == "create":
            if call.path not in self._names:
                self._files.append(bytearray())
                self._names[call.path] = len(self._files) - 1
            elif call.path:
                self._of(call.path).clear()
        elif call.name == "write":
            data = self._of(call.path)
            data.extend(b"\0" * (call.offset + len(call.data) - len(data)))
            data[call.offset : call.offset + len(call.data)] = call.data
        elif call.name == "truncate":
            del self._of(call.path)[call.offset :]
        elif call.name == "rename":
            self._names[call.second] = self._names.pop(call.path)
        elif call.name == "remove":
            del self._names[call.path]
        elif call.name == "fsync":
            number = self._names.get(call.path)
            if number is not None:
                self._safe[number] = bytes(self._files[number])
            else:
                self._sync_folder(call.path)

    def _of(self, path: str) -> bytearray:
        number = self._names[path]
        assert number is not None
        return self._files[number]

    def _sync_folder(self, folder: str) -> None:
        for names in (self._safe_names, self._names):
            for path in [path for path in names if str(Path(path).parent) == folder]:
                if path in self._names:
                    self._safe_names[path] = self._names[path]
                else:
                    del self._safe_names[path]

    def restore(self, out: Path) -> None:
        """Write what would be found after the power is back."""
        out.mkdir(parents=True)
        names = self._names if self._names_survive else self._safe_names
        for path in sorted(names):
            number = names[path]
            if path == str(out):
                continue
            if not Path(path).parent.is_dir():
                continue  # its folder was lost
            if number is None:
                Path(path).mkdir()
            else:
                Path(path).write_bytes(self._safe.get(number, b""))


@pytest.mark.parametrize("names_survive", [False, True], ids=["names are lost", "names survive"])
def test_a_power_cut_after_any_call_loses_nothing_that_the_ledger_has(
    bench: Bench, names_survive: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """A kill leaves the page cache as it is. Here only what was forced to the disk is left."""
    survived = 0
    calls = [replace(call, data=call.data) for call in bench.run(bench.fresh()).calls]
    for at in range(1 + int(names_survive) % STEP, len(calls) + 1, STEP):
        disk = Disk(names_survive=names_survive)
        for call in calls[:at]:
            disk.apply(call)
        out = bench.fresh()
        disk.restore(out)
        for name in recorded_stacks(out):
            assert contents(out)[name] == bench.expected[name], f"the ledger has {name}, the disk does not"
        assert len(recorded_stacks(out)) == 2 * sum(
            call.name == "write" and "ledger" in call.path and b'"stacks": [{' in call.data
            for call in calls[: _last_ledger_sync(calls, at)]
        )
        if (out / "job.json").exists() and (out / "job.json").stat().st_size:
            assert contents(out) == bench.expected
        bench.check_finishes(out)
        survived += 1
    with capsys.disabled():
        print(f"\n  {survived} of {len(calls)} power cuts survived")


def _last_ledger_sync(calls: list[Call], at: int) -> int:
    synced = [call.number for call in calls[:at] if call.name == "fsync" and call.path.endswith("ledger.jsonl")]
    return synced[-1] if synced else 0
