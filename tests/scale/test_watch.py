"""Watching a live session: files that come late or slowly, and the tables of a batch run at the end."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import cryobox
from cryobox.errors import InputError
from cryobox.job import watch
from scale.project import differences, outputs

RECIPE = cryobox.Recipe(box=96, sizes=(64,), pixel_size=1.4)
FAST = cryobox.RunOptions(workers=1, fsync=False)


def picks_by_micrograph(dataset: Path) -> dict[str, list[tuple[float, float]]]:
    found: dict[str, list[tuple[float, float]]] = {}
    columns: dict[str, int] = {}
    for line in (dataset / "picks.star").read_text().partition("data_particles")[2].splitlines():
        words = line.split()
        if line.startswith("_rln"):
            columns[words[0]] = len(columns)
        elif len(words) == len(columns) and words:
            name = Path(words[columns["_rlnMicrographName"]]).stem
            x, y = words[columns["_rlnCoordinateX"]], words[columns["_rlnCoordinateY"]]
            found.setdefault(name, []).append((float(x), float(y)))
    return found


def box_file(picks: list[tuple[float, float]]) -> str:
    return "".join(f"{x - 48:.0f} {y - 48:.0f} 96 96\n" for x, y in picks)


class Session(threading.Thread):
    """Micrographs and pick files that appear one after the other, half a file first."""

    def __init__(self, dataset: Path, project: Path, then: Callable[[], None]) -> None:
        super().__init__()
        self.dataset, self.project, self.then = dataset, project, then

    def run(self) -> None:
        picks = picks_by_micrograph(self.dataset)
        for number, source in enumerate(sorted((self.dataset / "micrographs").iterdir())[:6]):
            target = self.project / "mics" / source.name
            data, text = source.read_bytes(), box_file(picks[source.stem])
            if number % 2:
                (self.project / "boxes" / f"{source.stem}.box").write_text(text)
            with open(target, "wb") as file:
                file.write(data[: len(data) // 2])
                file.flush()
                time.sleep(0.15)
                file.write(data[len(data) // 2 :])
            if not number % 2:
                hidden = self.project / "boxes" / ".new"
                hidden.write_text(text)
                hidden.rename(self.project / "boxes" / f"{source.stem}.box")
            time.sleep(0.1)
        self.then()


def watched(project: Path, **more: Any) -> cryobox.RunResult:
    return watch(
        project / "boxes", micrographs=project / "mics", out=project / "out", root=project, recipe=RECIPE,
        options=FAST, every=0.1, settle=0.3, **more,
    )  # fmt: skip


@pytest.fixture
def session(tmp_path: Path) -> Path:
    for name in ("mics", "boxes"):
        (tmp_path / "project" / name).mkdir(parents=True)
    return tmp_path / "project"


@pytest.mark.parametrize("end", ["idle", "file"])
def test_a_session_that_is_watched_ends_with_the_tables_of_a_batch_run(session: Path, dataset: Path, end: str) -> None:
    rounds: list[cryobox.RunResult] = []
    thread = Session(dataset, session, (session / "out" / "stop").touch if end == "file" else lambda: None)
    thread.start()
    result = watched(session, idle_timeout=1.5 if end == "idle" else None, on_round=rounds.append)
    thread.join()
    assert len(rounds) >= 3
    assert result.extracted > rounds[0].extracted
    assert not result.interrupted
    found = outputs(session / "out")
    shutil.rmtree(session / "out")
    cryobox.run(
        session / "boxes", micrographs=session / "mics", out=session / "out", root=session, recipe=RECIPE, options=FAST
    )
    assert differences(found, outputs(session / "out")) == []


def test_tables_are_there_all_the_time_once_they_were_written(session: Path, dataset: Path) -> None:
    missing: list[float] = []
    done = threading.Event()

    def reader() -> None:
        table = session / "out" / "particles.star"
        while not table.exists() and not done.is_set():
            time.sleep(0.002)
        while not done.is_set():
            if not table.exists():
                missing.append(time.monotonic())
            time.sleep(0.002)

    other = threading.Thread(target=reader)
    thread = Session(dataset, session, lambda: None)
    thread.start()
    other.start()
    watched(session, idle_timeout=1.0)
    done.set()
    thread.join()
    other.join()
    assert missing == []


def test_a_signal_ends_the_watching_and_leaves_the_last_tables(session: Path, dataset: Path) -> None:
    stop = threading.Event()
    Session(dataset, session, lambda: None).run()
    result = watched(session, stop=stop, on_round=lambda _: stop.set())
    assert not result.interrupted
    assert (session / "out" / "job.json").exists()


def test_watching_an_empty_folder_waits_and_at_last_says_what_is_missing(session: Path) -> None:
    said: list[str] = []
    with pytest.raises(InputError, match="mics: holds no micrographs"):
        watched(session, idle_timeout=0.5, on_wait=said.append)
    assert "holds no micrographs" in said[0]
