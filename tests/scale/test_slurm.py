"""The documented Slurm examples on a real Slurm: an array with its merge, one task killed and sent again, and dask."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cryobox.folder.ledger import read_ledger
from cryobox.folder.parts import ledger_path
from scale.project import differences, outputs
from scale.slurm import NoSlurmError, slurm

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
DRIVER = Path(__file__).parent / "driver.py"

SECONDS = 90

# Task 2 is held after two micrographs the first time, so that it is surely at work when Slurm kills it.
CRYOBOX = """#!/bin/bash
# cryobox as the jobs find it.
if [ "${{SLURM_ARRAY_TASK_ID:-}}" = 2 ] && [ -z "${{SLURM_RESTART_COUNT:-}}" ]; then
    exec {python} {driver} 2/3 {project} -2
fi
exec {python} -m cryobox "$@"
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a Slurm that was started for these tests."""
    folder = tmp_path_factory.mktemp("slurm") / "slurm"
    folder.mkdir()
    running = slurm(folder)
    try:
        environment = running.__enter__()
    except NoSlurmError as error:
        pytest.skip(f"no Slurm can be started here: {error}")
    yield environment
    running.__exit__(None, None, None)


@pytest.fixture
def environment(cluster: dict[str, str], project: Path) -> dict[str, str]:
    """What the examples need to know of the project, and `cryobox` on the PATH."""
    programs = project / "bin"
    programs.mkdir()
    wrapper = programs / "cryobox"
    wrapper.write_text(CRYOBOX.format(python=sys.executable, driver=DRIVER, project=project))
    wrapper.chmod(0o755)
    python = programs / "python"
    python.write_text(f'#!/bin/bash\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return cluster | {
        "PATH": f"{programs}:{cluster['PATH']}",
        "PICKS": str(project / "picks.star"),
        "MICROGRAPHS": str(project / "micrographs.star"),
        "OUT": str(project / "out"),
        "BOX": "96",
        "CRYOBOX_ARGS": f"--fcrop 64 --small 32 --min-score 0.1 --root {project} --no-report",
    }


def logs(project: Path) -> str:
    return "\n".join(path.read_text() for path in sorted(project.glob("*.log")))


def until(ready: Callable[[], bool], what: str, project: Path) -> None:
    end = time.monotonic() + SECONDS
    while not ready():
        if time.monotonic() > end:
            pytest.fail(f"{what} did not happen within {SECONDS} s\n{logs(project)}")
        time.sleep(0.2)


def told(command: list[str], environment: dict[str, str], project: Path) -> str:
    done = subprocess.run(command, env=environment, cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def is_over(job: str, environment: dict[str, str], project: Path) -> bool:
    return not told(["squeue", "-h", "-j", job, "-t", "PD,R,CG,CF"], environment, project).strip()


def test_an_array_whose_task_is_killed_and_requeued_merges_to_the_tables_of_one_run(
    project: Path, environment: dict[str, str], expected: dict[str, bytes]
) -> None:
    sizes = ["--array=1-3", "--cpus-per-task=1", "--mem=100M"]
    array, merge = told([str(EXAMPLES / "slurm_submit.sh"), *sizes], environment, project).split()
    part = ledger_path(project / "out", "2-of-3")
    until(lambda: part.exists() and len(read_ledger(part)[1]) >= 2, "two micrographs of task 2", project)
    told(["scontrol", "requeue", f"{array}_2"], environment, project)
    until(
        lambda: "PENDING" in told(["squeue", "-h", "-j", f"{array}_2", "-o", "%T"], environment, project),
        "task 2 back in the queue",
        project,
    )
    assert len(read_ledger(part)[1]) == 2
    # Slurm waits two minutes before it starts a task again. A test need not, but a node refuses a task that comes back
    # in the second in which it was killed ("credential revoked"), and the merge would then come before it.
    told(["scontrol", "update", f"JobId={array}_2", "StartTime=now+3"], environment, project)
    until(lambda: is_over(merge, environment, project), "the merge", project)
    assert differences(outputs(project / "out"), expected) == [], logs(project)
    assert "resumed" in (project / f"cryobox-merge-{merge}.log").read_text()


def test_the_dask_example_runs_in_a_job_of_several_tasks(
    project: Path, environment: dict[str, str], expected: dict[str, bytes]
) -> None:
    pytest.importorskip("distributed", reason="dask.distributed is not installed")
    job = told(["sbatch", "--parsable", "--ntasks=3", str(EXAMPLES / "slurm_dask.sh")], environment, project).strip()
    until(lambda: is_over(job, environment, project), "the end of the job", project)
    assert differences(outputs(project / "out"), expected) == [], logs(project)
