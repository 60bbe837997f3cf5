"""Shards: each micrograph in one of them, and merged tables that nobody can tell from those of one run."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import cryobox
from cryobox.display import next_steps, summary_rows
from cryobox.engine.shards import cost, parse_shard, share
from cryobox.errors import LockError, OptionError, OutputError
from cryobox.folder.ledger import read_ledger
from cryobox.folder.parts import ledger_path
from cryobox.folder.records import sealed, unsealed
from cryobox.given import Given
from cryobox.inputs import prepare
from cryobox.job import merge
from cryobox.plan import Plan
from scale.project import RECIPE, differences, extract, outputs

DRIVER = Path(__file__).parent / "driver.py"
FAST = cryobox.RunOptions(fsync=False)


def run_shard(project: Path, index: int, count: int, **more: object) -> cryobox.RunResult:
    options = cryobox.RunOptions(workers=1, fsync=False, shard=(index, count), **more)  # type: ignore[arg-type]
    return extract(project, options=options)


def plan_of(project: Path) -> Plan:
    picks, micrographs = project / "picks.star", project / "micrographs.star"
    return prepare(Given.of(picks, micrographs, project), recipe=RECIPE).plan


@pytest.mark.parametrize("count", [1, 3, 20])
def test_shards_in_any_order_merge_to_the_tables_of_one_run(
    project: Path, expected: dict[str, bytes], count: int
) -> None:
    order = list(range(1, count + 1))
    random.Random(count).shuffle(order)
    codes = [run_shard(project, index, count).exit_code for index in order]
    assert not (project / "out" / "particles.star").exists()
    result = merge(project / "out", options=FAST)
    assert differences(outputs(project / "out"), expected) == []
    assert result.exit_code == 1  # one micrograph is cut short, as the shard that had to tell of it said
    assert sorted(codes) == [0] * (count - 1) + [1]


def test_the_tables_of_shards_together_tell_of_every_pick_once(project: Path, expected: dict[str, bytes]) -> None:
    results = [run_shard(project, index, 3) for index in (1, 2, 3)]
    whole = merge(project / "out", options=FAST)
    assert sum(result.picks for result in results) == whole.picks
    assert sum(result.extracted for result in results) == whole.extracted
    assert sum(sum(result.rejected.values()) for result in results) == sum(whole.rejected.values())
    images = {
        line.split()[0]
        for result in results
        for line in result.tables[0].read_text().splitlines()
        if "_particles.mrcs" in line
    }
    assert len(images) == whole.extracted
    assert all(result.tables[0].parent.parent == project / "out" / "shards" for result in results)


def test_the_next_step_of_a_shard_is_the_merge_and_of_the_merge_an_import(project: Path) -> None:
    results = [run_shard(project, index, 20) for index in range(1, 21)]
    merging = f"when all 20 shards are done: cryobox merge {project / 'out'}"
    assert {next_steps(result)[-1] for result in results} == {merging}
    assert not any("Import" in text for result in results for _, text in summary_rows(result, None))
    assert "Import" in " ".join(next_steps(merge(project / "out", options=FAST)))


def test_a_shard_without_particles_points_at_no_file_that_is_not_there(project: Path) -> None:
    results = [run_shard(project, index, 20) for index in range(1, 21)]
    empty = [result for result in results if not result.extracted and not result.incomplete]
    told = [next_steps(result)[0] for result in empty]
    assert f"nothing of shard {empty[-1].shard} was extracted: it has no picks" in told
    named = [text.partition("; ")[2].removesuffix(" says why, pick by pick") for text in told if ";" in text]
    assert named  # the blank micrograph's picks are all refused
    assert all(Path(name).is_file() for name in named)


def test_after_a_merge_the_whole_run_has_nothing_left_to_do(project: Path, expected: dict[str, bytes]) -> None:
    for index in (1, 2):
        run_shard(project, index, 2)
    merge(project / "out", options=FAST)
    again = extract(project)
    assert again.bytes_written == 0
    assert differences(outputs(project / "out"), expected) == []


def test_a_shard_that_is_killed_is_resumed_alone(project: Path, expected: dict[str, bytes]) -> None:
    run_shard(project, 1, 2)
    killed = subprocess.run([sys.executable, DRIVER, "2/2", project, "2"], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    with pytest.raises(
        OutputError, match=r"shard 2 of 2 is not finished; .* Micrographs: 2 lacks \d \(micrographs/sim_"
    ):
        merge(project / "out")
    assert run_shard(project, 2, 2).resumed >= 1
    merge(project / "out", options=FAST)
    assert differences(outputs(project / "out"), expected) == []


def test_merge_names_the_shards_that_are_missing(project: Path) -> None:
    with pytest.raises(OutputError, match="holds no shards"):
        merge(project)
    run_shard(project, 2, 4)
    with pytest.raises(OutputError, match="shards 1, 3, 4 of 4 are not there; run what is missing"):
        merge(project / "out")


def test_a_stack_that_is_lost_after_its_shard_finished_is_noticed(project: Path) -> None:
    for index in (1, 2):
        run_shard(project, index, 2)
    (project / "out" / "stacks" / "sim_002_particles.mrcs").unlink()
    with pytest.raises(OutputError, match=r"is not finished; .* lacks 1 \(micrographs/sim_002.mrc, ...\)"):
        merge(project / "out")


@pytest.mark.parametrize("what", ["picks", "micrograph"])
def test_merge_refuses_inputs_that_changed_until_all_shards_ran_anew(project: Path, dataset: Path, what: str) -> None:
    if what == "micrograph":
        (project / "micrographs").unlink()
        shutil.copytree(dataset / "micrographs", project / "micrographs")
    for index in (1, 2):
        run_shard(project, index, 2)
    if what == "picks":
        lines = (project / "picks.star").read_text().rstrip().splitlines()
        (project / "picks.star").write_text("\n".join(lines[:-3]) + "\n")
    else:
        os.utime(project / "micrographs" / "sim_002.mrc", (1, 1))
    with pytest.raises(OutputError, match="changed after shards 1, 2 of 2 last ran; .* with --overwrite"):
        merge(project / "out", options=FAST)
    with pytest.raises(OutputError, match="shard 1 of 2 worked from other inputs: "):
        run_shard(project, 2, 2)
    for index in (1, 2):
        assert run_shard(project, index, 2, overwrite=True).resumed == 0
    assert run_shard(project, 1, 2).bytes_written == 0  # no dead end
    merge(project / "out", options=FAST)
    (project / "out").rename(project / "shards")
    extract(project)
    assert differences(outputs(project / "out"), outputs(project / "shards")) == []


def test_shards_of_another_recipe_or_number_are_refused_at_once(project: Path) -> None:
    run_shard(project, 1, 2)
    with pytest.raises(OutputError, match="holds shard 1 of 2, this is one of 3; give --shard I/2"):
        run_shard(project, 1, 3)
    with pytest.raises(OutputError, match="holds a run with min_score = 0.1, now it is None"):
        extract(project, recipe=cryobox.Recipe(box=96), options=cryobox.RunOptions(shard=(2, 2)))
    with pytest.raises(OutputError, match="holds a run with min_score = 0.1, now it is None"):
        extract(project, recipe=cryobox.Recipe(box=96))
    assert sorted(path.name for path in (project / "out").glob("ledger*")) == ["ledger.1-of-2.jsonl"]


def test_merge_refuses_shards_of_another_version(project: Path) -> None:
    for index in (1, 2):
        run_shard(project, index, 2)
    path = ledger_path(project / "out", "2-of-2")
    head, *rest = path.read_text().splitlines()
    other = sealed(unsealed(json.loads(head)) | {"fftw": "fftw-9"})
    path.write_text("\n".join([json.dumps(other), *rest]) + "\n")
    with pytest.raises(OutputError, match="was begun with fftw .* this is fftw fftw-9"):
        merge(project / "out")


def test_merge_waits_for_no_shard_that_is_still_at_work(project: Path) -> None:
    for index in (1, 2):
        run_shard(project, index, 2)
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom cryobox.folder.lock import hold\n"
        f"with hold(Path({str(project / 'out')!r}), '2-of-2'):\n    print('in', flush=True)\n    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "in\n"
        with pytest.raises(LockError, match=f"process {other.pid} on host .* is working here"):
            merge(project / "out")
        run_shard(project, 1, 2)  # its own part is free
        other.kill()


def test_picks_that_change_and_change_back_leave_no_image_of_the_others(project: Path) -> None:
    tables = [(project / "picks.star").read_text()]
    lines = tables[0].rstrip().splitlines()
    tables.append("\n".join(lines[:-6] + lines[-3:]) + "\n")  # other picks, and another balance
    found = []
    for text in (tables[0], tables[1], tables[0]):
        (project / "picks.star").write_text(text)
        for index in (1, 2, 3):
            run_shard(project, index, 3, overwrite=True)
        merge(project / "out", options=FAST)
        found.append(outputs(project / "out"))
    assert differences(found[0], found[1]) != []
    assert differences(found[0], found[2]) == []


def test_only_the_own_shards_unfinished_files_are_removed(project: Path) -> None:
    stacks = project / "out" / "stacks"
    stacks.mkdir(parents=True)
    mine, other, whole = (stacks / f".a.mrcs.{part}.host.1.1.tmp" for part in ("1-of-2", "2-of-2", "all"))
    for path in (mine, other, whole):
        path.touch()
    run_shard(project, 1, 2)
    assert not mine.exists()
    assert other.exists()
    assert whole.exists()


def test_final_tables_go_before_a_shard_replaces_a_stack(project: Path) -> None:
    for index in (1, 2):
        run_shard(project, index, 2)
    merge(project / "out", options=FAST)
    (project / "out" / "stacks" / "sim_002_particles.mrcs").unlink()
    for index in (1, 2):
        run_shard(project, index, 2)
    assert not (project / "out" / "particles.star").exists()
    assert not (project / "out" / "job.json").exists()
    merge(project / "out", options=FAST)
    assert (project / "out" / "job.json").exists()


@given(count=st.integers(1, 40))
def test_shares_have_every_task_once_and_even_costs(dataset: Path, count: int) -> None:
    tasks = list(plan_of(dataset).tasks)
    shares = [share(tasks, (index, count)) for index in range(1, count + 1)]
    assert sorted(task.id for part in shares for task in part) == sorted(task.id for task in tasks)
    assert shares == [share(tasks, (index, count)) for index in range(1, count + 1)]
    loads = [sum(map(cost, part)) for part in shares]
    assert max(loads) - min(loads) <= max(map(cost, tasks))


@pytest.mark.parametrize(
    ("variables", "text", "found"),
    [
        ({}, "3/16", (3, 16)),
        ({"SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "0",
          "SLURM_ARRAY_TASK_MAX": "3"}, "auto", (1, 4)),
        ({"SLURM_ARRAY_TASK_ID": "16", "SLURM_ARRAY_TASK_COUNT": "16", "SLURM_ARRAY_TASK_MIN": "1",
          "SLURM_ARRAY_TASK_MAX": "16"}, "auto", (16, 16)),
        ({"SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "1",
          "SLURM_ARRAY_TASK_MAX": "7"}, "auto", (3, 4)),
        ({"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_COUNT": "2"}, "auto", (2, 2)),
        ({"PBS_ARRAY_INDEX": "3"}, "auto/8", (3, 8)),
        ({"PBS_ARRAYID": "8"}, "auto/8", (8, 8)),
        ({"SGE_TASK_ID": "5", "SGE_TASK_FIRST": "1", "SGE_TASK_LAST": "9", "SGE_TASK_STEPSIZE": "2"}, "auto", (3, 5)),
        ({"LSB_JOBINDEX": "2", "LSB_JOBINDEX_END": "6"}, "auto", (2, 6)),
    ],
)  # fmt: skip
def test_the_shard_is_read_from_the_option_or_the_batch_system(
    variables: dict[str, str], text: str, found: tuple[int, int]
) -> None:
    assert parse_shard(text, variables) == found


@pytest.mark.parametrize(
    ("variables", "text", "message"),
    [
        ({}, "5/4", "--shard 5/4: shards are numbered from 1 to N; got 5 of 4"),
        ({}, "0/4", "shards are numbered from 1"),
        ({}, "half", "--shard must be I/N"),
        ({}, "auto", "no batch system has set SLURM_ARRAY_TASK_ID"),
        ({"PBS_ARRAY_INDEX": "3"}, "auto", "nothing says how many there are; give --shard auto/N"),
        ({"PBS_ARRAY_INDEX": "0"}, "auto/4", "numbered from 1 to N; got 0 of 4"),
        ({"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_COUNT": "3", "SLURM_ARRAY_TASK_MIN": "1",
          "SLURM_ARRAY_TASK_MAX": "7"}, "auto", None),
        ({"SLURM_ARRAY_TASK_ID": "4", "SLURM_ARRAY_TASK_COUNT": "3", "SLURM_ARRAY_TASK_MIN": "1",
          "SLURM_ARRAY_TASK_MAX": "8"}, "auto", "the array has gaps"),
    ],
)  # fmt: skip
def test_a_shard_that_cannot_be_told_is_refused(variables: dict[str, str], text: str, message: str | None) -> None:
    if message is None:  # 1, 4, 7 is an even step, so it can be told
        assert parse_shard(text, variables) == (3, 3)
        return
    with pytest.raises(OptionError, match=message):
        parse_shard(text, variables)


def test_what_a_run_started_from_stands_in_its_ledger(project: Path) -> None:
    extract(project)
    run = read_ledger(ledger_path(project / "out", ""))[0]["run"]
    assert run["inputs"]["picks"] == str(project / "picks.star")
    assert run["inputs"]["micrographs"] == str(project / "micrographs.star")


def test_more_shards_than_micrographs_cost_no_more_than_these(dataset: Path) -> None:
    tasks = list(plan_of(dataset).tasks)
    shares = [share(tasks, (index, 10**15)) for index in range(1, len(tasks) + 3)]  # a list of all would end no test
    assert sorted(len(mine) for mine in shares) == [0, 0] + [1] * len(tasks)
    assert {task.id for mine in shares for task in mine} == {task.id for task in tasks}
