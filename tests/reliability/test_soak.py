"""Many micrographs in one run: memory stays flat, nothing leaks, and kills at random moments change nothing.

200 micrographs and 5 kills; `make soak` takes 2,000 and 50 (CRYOBOX_SOAK_MICROGRAPHS, CRYOBOX_SOAK_KILLS).
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time

import pytest

from reliability.scene import Scene, contents, identities, leftovers, make_scene, recorded_stacks

MICROGRAPHS = int(os.environ.get("CRYOBOX_SOAK_MICROGRAPHS", "200"))
KILLS = int(os.environ.get("CRYOBOX_SOAK_KILLS", "5"))
SLACK = 1.05  # of the memory at a tenth of the run

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into Linux's /proc")

_WATCHED = """
import gc, json, os, sys, threading
from pathlib import Path
import cryobox

def pages():
    return int(Path("/proc/self/statm").read_text().split()[1])

def descriptors():
    return len(os.listdir("/proc/self/fd"))

seen = []
def watch(now):
    if now.micrographs in marks:
        seen.append({"done": now.micrographs, "pages": pages(), "descriptors": descriptors(),
                     "threads": threading.active_count()})

total = int(sys.argv[1])
marks = {total // 10, total // 2, total}
recipe = cryobox.Recipe(box=40, sizes=(36, 32))
before = descriptors(), threading.active_count()
result = cryobox.run("picks.star", micrographs="micrographs.star", out="watched", recipe=recipe,
                     options=cryobox.RunOptions(workers=2), on_progress=watch)
gc.collect()
after = descriptors(), threading.active_count()
print(json.dumps({"seen": seen, "before": before, "after": after, "extracted": result.extracted}))
"""


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return make_scene(tmp_path_factory.mktemp("soak"), MICROGRAPHS, picks=8)


def test_memory_stays_flat_and_nothing_leaks(many: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _WATCHED, str(MICROGRAPHS)], cwd=many.folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    tenth, _, last = found["seen"]
    with capsys.disabled():
        size = os.sysconf("SC_PAGE_SIZE") / 1e6
        memory = f"{tenth['pages'] * size:.1f} MB at a tenth, {last['pages'] * size:.1f} MB at the end"
        print(f"\n  {MICROGRAPHS} micrographs: {memory}")
    assert last["pages"] <= tenth["pages"] * SLACK
    assert last["descriptors"] <= tenth["descriptors"] + 2, "those of the micrographs in flight come and go"
    assert found["after"] == found["before"], "descriptors and threads"


def test_kills_at_random_moments_and_resuming_end_with_the_same_files(
    many: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    reference = many.run("out", "--no-report", "--workers", "2")
    assert reference.returncode == 0, reference.stderr
    expected = contents(many.folder / "out")
    out = many.folder / "out"
    out.rename(many.folder / "reference")  # tables name the folder: the other run has the same name
    command = [sys.executable, "-m", "cryobox", *many.command("out", "--no-report", "--workers", "2")]
    dice = random.Random(time.time_ns())
    before: dict[str, tuple[int, int]] = {}
    kills = finished = 0
    while kills < KILLS:
        with subprocess.Popen(
            command, cwd=many.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            try:
                # Short lives at first, so that there is work left for all kills; then whole ones, ended in the tables.
                process.wait(dice.uniform(0.25, 0.6 + MICROGRAPHS / 2000))
                finished += 1
            except subprocess.TimeoutExpired:
                process.kill()
                kills += 1
        found = identities(out)
        assert {name: found.get(name) for name in before} == before, "a finished stack was made again"
        before = {name: found[name] for name in recorded_stacks(out)}
        if finished and len(before) == 2 * MICROGRAPHS:  # begin again, so that kills meet work and not only tables
            shutil.rmtree(out)
            before, finished = {}, 0
    done = subprocess.run(command, cwd=many.folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert contents(out) == expected
    assert leftovers(out) == []
    after = identities(out)
    assert {name: after[name] for name in before} == before, "a finished stack was made again"
    with capsys.disabled():
        print(f"\n  {kills} kills over {MICROGRAPHS} micrographs, every file as in a run without")
