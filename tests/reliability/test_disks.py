"""Disks that really fill up, limits of the operating system, and what strace, which knows nothing of us, has seen."""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from reliability.faults import Fault, Server, why_not
from reliability.scene import contents, identities, leftovers, make_scene, no_traceback, recorded_stacks

RESERVING = (
    "from cryobox.formats import mrc_stack; mrc_stack._WORTH_RESERVING = 0; from cryobox.cli import main; main()"
)


def _no_mounts() -> bool:
    """Whether a tmpfs cannot be mounted here, in a name space of its own."""
    if not shutil.which("unshare"):
        return True
    try_it = "mount -t tmpfs none ."
    with tempfile.TemporaryDirectory() as folder:
        tried = subprocess.run(["unshare", "-rm", "sh", "-c", try_it], cwd=folder, capture_output=True, check=False)
    return tried.returncode != 0


@pytest.mark.skipif(_no_mounts(), reason="no tmpfs can be mounted here, even in a name space of its own")
@pytest.mark.parametrize("kilobytes", [4, 16, 40, 64, 96])
def test_a_disk_that_fills_up_ends_the_run_with_3_and_the_rerun_on_a_larger_one_completes_it(
    tmp_path: Path, kilobytes: int
) -> None:
    scene = make_scene(tmp_path, 4)
    assert scene.run("out", "--no-report").returncode == 0
    expected = contents(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "out").mkdir()
    # Seen from outside, the folder stays empty; so what it holds is copied out after each step.
    command = " ".join([sys.executable, "-m", "cryobox", *scene.command("out", "--no-report")])
    script = f"""
        mount -t tmpfs -o size={kilobytes}k none out || exit 99
        {command} > first.log 2>&1; echo $? > first.code
        cp -a out first
        mount -o remount,size=10m out || exit 99
        {command} > second.log 2>&1; echo $? > second.code
        cp -a out second
    """
    subprocess.run(["unshare", "-rm", "sh", "-c", script], cwd=tmp_path, check=True, timeout=120)
    first = (tmp_path / "first.log").read_text()
    assert "Traceback" not in first
    assert int((tmp_path / "first.code").read_text()) in (2, 3), first
    assert "No space left on device" in first
    assert not (tmp_path / "first" / "job.json").exists()
    assert leftovers(tmp_path / "first") == [], "what is unfinished must not fill the disk"
    for name, digest in contents(tmp_path / "first").items():
        assert digest == expected[name], f"{name} is published and not whole"
    assert int((tmp_path / "second.code").read_text()) == 0, (tmp_path / "second.log").read_text()
    assert contents(tmp_path / "second") == expected
    before, after = identities(tmp_path / "first"), identities(tmp_path / "second")
    for name in recorded_stacks(tmp_path / "first"):
        assert after[name][1] == before[name][1], "a finished stack was made again"


@pytest.mark.parametrize("limit", [500, 3000, 8000])
def test_a_limit_on_the_size_of_files_is_an_error_and_the_rerun_completes(tmp_path: Path, limit: int) -> None:
    scene = make_scene(tmp_path)
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    failed = scene.run(
        "out", "--no-report", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    )
    assert failed.returncode in (2, 3), failed.stderr
    assert "File too large" in failed.stderr
    assert no_traceback(failed)
    assert scene.run("out", "--no-report").returncode == 0
    found = contents(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    assert scene.run("out", "--no-report").returncode == 0
    assert found == contents(tmp_path / "out")


def _without_powers() -> list[str]:
    """What a command begins with to run as a user for whom modes count: for root, whom nothing stops, without that."""
    if os.geteuid() != 0:
        return []
    setpriv = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    if not shutil.which("setpriv"):
        pytest.skip("root may write everywhere, and setpriv is not here to give that up")
    tried = subprocess.run(
        [*setpriv, sys.executable, "-c", "import cryobox.cli"], capture_output=True, text=True, check=False
    )
    if tried.returncode:
        pytest.skip(f"root may write everywhere, and cannot give that up here: {tried.stderr.strip()[-200:]}")
    return setpriv


@pytest.mark.parametrize("place", ["the folder", "stacks", "a file in the way", "the parent"])
def test_a_folder_that_may_not_be_written_is_refused_before_any_work(tmp_path: Path, place: str) -> None:
    without_powers = _without_powers()
    inside = tmp_path / "project"
    inside.mkdir()
    scene = make_scene(inside)
    out = inside / "out"
    if place == "a file in the way":
        out.write_text("a file")
    elif place != "the parent":
        (out / "stacks").mkdir(parents=True)
    locked = {"the folder": out, "stacks": out / "stacks", "the parent": inside}.get(place)
    if locked is not None:
        locked.chmod(0o555)
    try:
        refused = subprocess.run(
            [*without_powers, sys.executable, "-m", "cryobox", *scene.command("out", "--no-report")],
            cwd=inside, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
    finally:
        if locked is not None:
            locked.chmod(0o755)
    assert no_traceback(refused), refused.stderr
    assert refused.returncode in (2, 3), refused.stderr
    assert "out" in refused.stderr
    assert not list(inside.rglob("*.mrcs"))


def _strace_works() -> bool:
    strace = shutil.which("strace")
    return bool(strace) and subprocess.run([strace, "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not _strace_works(), reason="strace is not here, or may not trace (Debian: apt-get install strace)")
def test_a_trace_shows_file_synced_then_renamed_then_folder_synced_then_recorded(tmp_path: Path) -> None:
    scene = make_scene(tmp_path)
    calls = "trace=write,pwrite64,fsync,rename,renameat,renameat2,unlink,unlinkat,mkdir,openat,ftruncate,rmdir"
    trace = tmp_path / "trace"
    done = subprocess.run(
        ["strace", "-f", "-y", "-s", "4000", "-e", calls, "-o", trace, sys.executable, "-m", "cryobox",
         *scene.command(tmp_path / "out", "--no-report")],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    out = str(tmp_path / "out")
    lines = [line for line in _whole_lines(trace.read_text()) if out in line]

    def first(pattern: str, since: int = 0) -> int:
        return next(i for i in range(since, len(lines)) if re.search(pattern, lines[i]))

    published = 0
    for stack in sorted((tmp_path / "out").glob("stacks*/*")):
        final, folder = re.escape(str(stack)), re.escape(str(stack.parent))
        renamed = first(rf'rename\w*\(.*"({folder}/\.[^"]*\.tmp)", .*"{final}"')
        temporary = re.escape(re.findall(rf'"({folder}/\.[^"]*\.tmp)"', lines[renamed])[0])
        written = [i for i in range(renamed) if re.search(rf"write\w*\(\d+<{temporary}>", lines[i])]
        synced = first(rf"fsync\(\d+<{temporary}>")
        folder_synced = first(rf"fsync\(\d+<{folder}>", renamed)
        recorded = first(
            rf"write\(\d+<{re.escape(out)}/ledger\.jsonl>, .*{re.escape(stack.parent.name + '/' + stack.name)}"
        )
        recorded_safely = first(rf"fsync\(\d+<{re.escape(out)}/ledger\.jsonl>", recorded)
        assert max(written) < synced < renamed < folder_synced < recorded < recorded_safely
        published += 1
    assert published == 6
    order = [first(rf'rename\w*\(.*"{re.escape(out)}/{name}"') for name in
             ("rejected.star", "particles_small.star", "particles.star", "job.json")]  # fmt: skip
    assert order == sorted(order), "others, then particles, then job.json"
    assert order[0] > max(i for i in range(len(lines)) if '"stacks/' in lines[i].replace("\\", ""))


@pytest.mark.skipif(not _strace_works(), reason="strace is not here, or may not trace (Debian: apt-get install strace)")
@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
def test_the_shim_counts_every_call_that_strace_sees(tmp_path: Path) -> None:
    """Else the crash points would not be all there are."""
    scene = make_scene(tmp_path)
    out = tmp_path / "out"
    argv = scene.command(out, "--no-report")
    with Server(tmp_path) as server:
        counted = server.run(argv, tmp_path, watched=out, fault=Fault())
    assert counted.code == 0
    shutil.rmtree(out)
    trace = tmp_path / "trace"
    subprocess.run(
        ["strace", "-f", "-y", "-e", "trace=file,desc", "-o", trace, sys.executable, "-c", RESERVING, *argv],
        cwd=tmp_path, capture_output=True, check=True, timeout=120,
    )  # fmt: skip
    changing = re.compile(
        r"(write|pwrite64|pwritev2?|writev|fsync|fdatasync|ftruncate|truncate|fallocate|sendfile|copy_file_range|rename"
        r"|renameat2?|link|linkat|symlink|unlink|unlinkat|rmdir|mkdir|mkdirat|openat|creat)\("
    )
    seen = 0
    for line in _whole_lines(trace.read_text()):
        found = changing.search(line)
        if not found or str(out) not in line or "= -1 ENOENT" in line or "= -1 EEXIST" in line:
            continue
        if found[1] == "openat" and not ("O_TRUNC" in line or ("O_CREAT" in line)):
            continue
        seen += 1
    assert seen == sum(call.result >= 0 for call in counted.calls)


def _whole_lines(trace: str) -> list[str]:
    """A trace with the calls put together again that another thread's came between."""
    begun: dict[str, str] = {}
    found = []
    for line in trace.splitlines():
        process = line.split(maxsplit=1)[0]
        if line.endswith("<unfinished ...>"):
            begun[process] = line.removesuffix("<unfinished ...>")
        elif "resumed>" in line:
            found.append(begun.pop(process, "") + line.split("resumed>", 1)[1])
        else:
            found.append(line)
    return found
