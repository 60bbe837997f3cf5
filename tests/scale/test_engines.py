"""Whatever runs the tasks, and whatever interrupts them: the same tables and stacks, byte for byte."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import cryobox
from cryobox.engine.batch import Batch, do_batch, expect, look
from cryobox.engine.progress import Progress
from cryobox.engine.task import Setting
from cryobox.errors import AbortedError, BackendError, OptionError
from cryobox.folder.ledger import read_ledger
from cryobox.folder.parts import ledger_path
from cryobox.folder.publish import remove_temporary, temporary_name
from cryobox.given import Given
from cryobox.inputs import prepare
from cryobox.plan import groups_of
from scale.project import MICROGRAPHS, differences, extract, outputs

SPAWN = multiprocessing.get_context("spawn")
DRIVER = Path(__file__).parent / "driver.py"
TASKS = MICROGRAPHS - 1  # the one that is cut short is known to be so before work starts

processes = partial(ProcessPoolExecutor, 2, mp_context=SPAWN)


def drive(kind: str, project: Path, kill_after: int = 0, *, launcher: tuple[str, ...] = ()) -> dict[str, Any]:
    """Run driver.py; what it says of the run, or, where it was to kill itself, nothing."""
    command = [*(launcher or (sys.executable,)), str(DRIVER), kind, str(project), str(kill_after)]
    said = project / "driver.log"
    with (
        open(said, "w") as log,
        subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True) as driver,
    ):
        code = driver.wait(60)
        with suppress(ProcessLookupError):  # the processes of a pool outlive a driver that is killed
            # Python's tracker of semaphores is one of them: it ignores this signal, and removes what the others had.
            os.killpg(driver.pid, signal.SIGTERM)
            for _ in range(50):
                os.killpg(driver.pid, 0)
                time.sleep(0.1)
            os.killpg(driver.pid, signal.SIGKILL)
    if kill_after:
        assert code != 0
        return {}
    assert code == 0, said.read_text()
    found: dict[str, Any] = json.loads(said.read_text().splitlines()[-1])
    return found


def recorded(project: Path) -> int:
    return len(read_ledger(ledger_path(project / "out", ""))[1])


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A dask cluster of two processes with a scheduler that has an address."""
    distributed = pytest.importorskip("distributed", reason="dask.distributed is not installed")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50) as made:
        yield made


@pytest.mark.parametrize(("workers", "threads"), [(1, 2), (4, 1)])
def test_any_number_of_workers_and_threads_writes_the_same(
    project: Path, expected: dict[str, bytes], workers: int, threads: int
) -> None:
    extract(project, options=cryobox.RunOptions(workers=workers, threads=threads, fsync=False))
    assert differences(outputs(project / "out"), expected) == []


def test_workers_in_another_directory_read_the_micrographs_of_the_run(
    new_project: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Named by a folder, so that their paths are relative; where the workers are, other files have these names."""
    project, other = new_project("one"), new_project("other")
    (other / "micrographs").unlink()
    (other / "micrographs").mkdir()
    for path in (project / "micrographs").iterdir():
        twin = other / "micrographs" / path.name
        twin.write_bytes(path.read_bytes()[:1024] + bytes(path.stat().st_size - 1024))
        os.utime(twin, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    monkeypatch.chdir(project)
    for out, engine in (("here", None), ("there", partial(processes, initializer=os.chdir, initargs=(other,)))):
        cryobox.run(
            "picks.star", micrographs="micrographs", out=out, recipe=cryobox.Recipe(box=96), executor=engine,
            options=cryobox.RunOptions(workers=1, fsync=False),
        )  # fmt: skip
    stacks = [
        {path.name: path.read_bytes() for path in (project / out / "stacks").iterdir()} for out in ("here", "there")
    ]
    assert stacks[0] == stacks[1]


def test_a_pool_of_threads_that_is_given_writes_the_same(project: Path, expected: dict[str, bytes]) -> None:
    with ThreadPoolExecutor(2) as pool:
        extract(project, executor=pool)
    assert differences(outputs(project / "out"), expected) == []


@pytest.mark.semaphores
def test_spawned_processes_write_the_same(project: Path, expected: dict[str, bytes]) -> None:
    with processes() as pool:
        result = extract(project, executor=pool)
    assert differences(outputs(project / "out"), expected) == []
    assert (result.retried, result.resumed) == (0, 0)
    assert not list((project / "out").glob(".*.tmp"))


@pytest.mark.semaphores
def test_dask_workers_write_the_same(project: Path, expected: dict[str, bytes], cluster: Any) -> None:
    with cluster.get_client() as client:
        extract(project, executor=client.get_executor(pure=False))
    assert differences(outputs(project / "out"), expected) == []


@pytest.mark.mpi
def test_mpi_ranks_write_the_same_and_resume_after_the_driver_died(project: Path, expected: dict[str, bytes]) -> None:
    launcher = ("mpirun", "--allow-run-as-root", "--oversubscribe", "-n", "3", sys.executable, "-m", "mpi4py.futures")
    drive("mpi", project, 5, launcher=launcher)
    assert 0 < recorded(project) < TASKS
    drive("mpi", project, launcher=launcher)
    assert differences(outputs(project / "out"), expected) == []


@pytest.mark.parametrize("kind", ["threads", pytest.param("processes", marks=pytest.mark.semaphores)])
def test_a_driver_that_is_killed_is_resumed_by_the_same_command(
    project: Path, expected: dict[str, bytes], kind: str
) -> None:
    drive(kind, project, 4)
    assert 0 < recorded(project) < TASKS
    assert not (project / "out" / "job.json").exists()
    result = extract(project)
    assert result.resumed >= 3
    assert differences(outputs(project / "out"), expected) == []


@pytest.mark.semaphores
def test_a_driver_that_is_killed_with_dask_is_resumed_with_dask(
    project: Path, expected: dict[str, bytes], cluster: Any
) -> None:
    drive(cluster.scheduler_address, project, 4)
    assert 0 < recorded(project) < TASKS
    assert drive(cluster.scheduler_address, project)["resumed"] >= 3
    assert differences(outputs(project / "out"), expected) == []


def poison(micrograph: str, what: str, once: str) -> None:
    """Make a worker die of, or hang at, one micrograph; only the first time if `once` is a file to be made."""
    from cryobox.engine import batch

    real = batch.__dict__["do_group"]

    def do_group(group: Any, setting: Any) -> Any:
        if any(task.micrograph.endswith(micrograph) for task in group) and not (once and os.path.exists(once)):
            if once:
                Path(once).touch()
            if what == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            signal.pause()
        return real(group, setting)

    batch.__dict__["do_group"] = do_group


def poisoned(micrograph: str, what: str, once: str = "") -> Callable[[], ProcessPoolExecutor]:
    return partial(processes, initializer=poison, initargs=(micrograph, what, once))


@pytest.mark.semaphores
def test_a_process_that_dies_is_replaced_and_its_micrographs_are_tried_again(
    project: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    result = extract(project, executor=poisoned("sim_003.mrc", "die", str(tmp_path / "died")))
    assert differences(outputs(project / "out"), expected) == []
    assert result.retried >= 1
    assert any("were tried again, since a worker died" in text for text in result.warnings)


@pytest.mark.semaphores
def test_a_micrograph_that_always_kills_its_worker_is_left_out_and_named(
    project: Path, expected: dict[str, bytes]
) -> None:
    result = extract(project, executor=poisoned("sim_003.mrc", "die"))
    assert result.exit_code == 1
    (name,) = [name for name in result.incomplete if "sim_003" in name]
    assert "its worker died, in each of 3 tries" in result.incomplete[name]
    assert len(result.incomplete) == 2
    extract(project)
    assert differences(outputs(project / "out"), expected) == []


@pytest.mark.semaphores
def test_a_pool_that_is_given_and_breaks_ends_the_run_resumably(project: Path, expected: dict[str, bytes]) -> None:
    with (
        poisoned("sim_009.mrc", "die")() as pool,
        pytest.raises(AbortedError, match="one of them died suddenly; .* micrographs are done, the same command res"),
    ):
        extract(project, executor=pool)
    extract(project)
    assert differences(outputs(project / "out"), expected) == []


@pytest.mark.semaphores
def test_a_task_that_hangs_is_given_to_another_worker(
    project: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    result = extract(
        project,
        executor=poisoned("sim_003.mrc", "hang", str(tmp_path / "hung")),
        options=cryobox.RunOptions(workers=2, fsync=False, task_timeout=1.5),
    )
    assert differences(outputs(project / "out"), expected) == []
    assert result.retried == 1
    assert any("1 micrographs were tried again, since a worker did not answer in time" in w for w in result.warnings)


@pytest.mark.semaphores
def test_workers_that_all_hang_end_the_run(project: Path) -> None:
    with pytest.raises(AbortedError, match="all workers hang; .* the same command resumes"):
        extract(
            project,
            executor=poisoned(".mrc", "hang"),
            options=cryobox.RunOptions(workers=2, fsync=False, task_timeout=0.5),
        )


def test_a_timeout_is_refused_for_threads(project: Path) -> None:
    with pytest.raises(OptionError, match="--task-timeout needs workers that are other processes"):
        extract(project, options=cryobox.RunOptions(task_timeout=5))


def be_old() -> None:
    from cryobox.engine import batch

    batch.__dict__["__version__"] = "0.0.1"


@pytest.mark.semaphores
def test_a_worker_with_another_version_is_named_before_work_starts(project: Path) -> None:
    with (
        ProcessPoolExecutor(1, mp_context=SPAWN, initializer=be_old) as pool,
        pytest.raises(BackendError, match=r"worker .* \(process \d+\): has cryobox 0.0.1, the run was started with"),
    ):
        extract(project, executor=pool)
    assert recorded(project) == 0


def test_a_worker_says_which_folder_or_micrograph_it_does_not_see(project: Path, tmp_path: Path) -> None:
    given = Given.of(project / "picks.star", project / "micrographs.star", project)
    plan = prepare(given, recipe=cryobox.Recipe(box=96)).plan
    out = project / "out"
    (out / "stacks").mkdir(parents=True)
    expected = expect(out, list(plan.tasks), token=out / ".seen")
    assert look(expected).complaint == ""
    (project / "micrographs").unlink()
    assert "does not see the micrograph" in look(expected).complaint
    (out / "stacks").rmdir()
    assert "cannot write to" in look(expected).complaint
    (out / ".seen").write_text("of another run")
    assert f"does not see the output folder {out}" in look(expected).complaint


@pytest.mark.parametrize("gone", ["removed by the next run", "of another run"])
def test_a_worker_that_outlives_its_run_replaces_no_stack(
    project: Path, monkeypatch: pytest.MonkeyPatch, gone: str
) -> None:
    monkeypatch.chdir(project)
    monkeypatch.setattr("cryobox.engine.task.PATIENCE_SECONDS", 0.0)
    plan = prepare(Given.of("picks.star", "micrographs.star"), recipe=cryobox.Recipe(box=96)).plan
    out = project / "late"
    (out / "stacks").mkdir(parents=True)
    token = out / temporary_name("seen", "")
    expected = expect(out, list(plan.tasks), token=token)
    tasks = plan.tasks[:2]
    setting = Setting(folder=str(out), fsync=False)
    done = do_batch(Batch(serial=1, groups=tuple(groups_of(tasks))), setting, expected)
    assert (len(done.results), done.error) == (2, None)
    stacks = [out / output.path for task in tasks for output in task.outputs]
    for stack in stacks:
        stack.write_bytes(b"of the next run")
    if gone == "of another run":
        token.write_text("another")
    else:
        remove_temporary(out, "")
    late = do_batch(Batch(serial=2, groups=tuple(groups_of(tasks))), setting, expected)
    assert late.results == ()
    assert "not written, since the run that asked for it is over" in str(late.error)
    assert [stack.read_bytes() for stack in stacks] == [b"of the next run"] * len(stacks)
    assert sorted(path.name for path in (out / "stacks").iterdir()) == sorted(stack.name for stack in stacks)


@pytest.mark.semaphores
def test_a_dask_worker_that_sees_another_folder_is_named(project: Path, cluster: Any) -> None:
    out = project / "out"
    out.mkdir()
    hide = ["unshare", "-m", "mount", "-t", "tmpfs", "none", str(out)]
    if not shutil.which("unshare") or subprocess.run(hide, capture_output=True, check=False).returncode:
        pytest.skip("no tmpfs can be mounted here in a name space of its own, so no worker can be given another view")
    hidden = f"mount -t tmpfs none {out} && exec {sys.executable} -m distributed.cli.dask_worker"
    command = f"{hidden} {cluster.scheduler_address} --no-nanny --nthreads 1 --no-dashboard --name elsewhere"
    with (
        subprocess.Popen(["unshare", "-m", "sh", "-c", command], stderr=subprocess.DEVNULL) as other,
        cluster.get_client() as client,
    ):
        try:
            client.wait_for_workers(3, timeout=30)
            with pytest.raises(BackendError, match=rf"worker .* \(process \d+\): does not see the output folder {out}"):
                extract(project, executor=client.get_executor(pure=False))
        finally:
            other.terminate()
    assert not list((out / "stacks").iterdir())


@pytest.mark.semaphores
def test_a_dask_worker_that_is_killed_costs_nothing_but_time(
    project: Path, expected: dict[str, bytes], cluster: Any
) -> None:
    killed: list[int] = []
    with cluster.get_client() as client:
        workers = list(client.run(os.getpid).values())

        def kill_one(now: Progress) -> None:
            if now.micrographs >= 2 and not killed:
                killed.append(workers[0])
                os.kill(workers[0], signal.SIGKILL)

        extract(project, executor=client.get_executor(pure=False), on_progress=kill_one)
        client.wait_for_workers(2, timeout=30)
    assert killed
    assert differences(outputs(project / "out"), expected) == []


def test_a_scheduler_that_goes_away_ends_the_run_resumably(project: Path, expected: dict[str, bytes]) -> None:
    distributed = pytest.importorskip("distributed", reason="dask.distributed is not installed")
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--port", "0", "--no-dashboard"]
    command += ["--scheduler-file", str(project / "scheduler.json")]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as scheduler:
        client = distributed.Client(scheduler_file=str(project / "scheduler.json"), timeout=10)
        command = [sys.executable, "-m", "distributed.cli.dask_worker", client.scheduler.address, "--no-nanny"]
        with subprocess.Popen([*command, "--nthreads", "1", "--death-timeout", "1"], stderr=subprocess.DEVNULL):
            pass_on = cryobox.RunOptions(fsync=False)

            def kill(now: Progress) -> None:
                if now.micrographs >= 2:
                    scheduler.kill()

            with pytest.raises(AbortedError, match="the same command resumes"):
                extract(project, executor=client.get_executor(pure=False), on_progress=kill, options=pass_on)
        client.close(timeout=1)
    extract(project)
    assert differences(outputs(project / "out"), expected) == []


def test_a_result_that_dask_takes_for_an_error_is_a_death_of_its_worker() -> None:
    cfexecutor = pytest.importorskip("distributed.cfexecutor")
    import asyncio
    from concurrent.futures import Future

    from cryobox.engine.dispatch import _is_death

    class Lost:
        """A future whose worker died between the result and its message."""

        status = "lost"

        async def _result(self, raiseit: bool) -> object:
            return object()

    async def cascade(found: Future[object]) -> None:
        await cfexecutor._cascade_future(Lost(), found)

    found: Future[object] = Future()
    asyncio.run(cascade(found))
    assert isinstance(found.exception(), TypeError)
    assert _is_death(found.exception())
    assert not _is_death(TypeError("ours"))
