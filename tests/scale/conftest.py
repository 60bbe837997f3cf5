"""One small project, and what a run on this host with one worker makes of it: all that other engines must repeat."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import cryobox
from cryobox.simulate import make_dataset
from scale.project import MICROGRAPHS, extract, outputs


@pytest.fixture(scope="module", autouse=True)
def without_variables_of_dask() -> Iterator[None]:
    """Take back what dask sets for its workers in the process that starts them: OMP_NUM_THREADS=1 and more."""
    before = dict(os.environ)
    yield
    for name in set(os.environ) - set(before) - {"PYTEST_CURRENT_TEST"}:
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Micrographs of different cost, one of them cut short, so that tables of every kind are written."""
    folder = tmp_path_factory.mktemp("dataset")
    made = make_dataset(folder, micrographs=MICROGRAPHS, shape=(360, 420), picks=9, seed=3)
    short = made.images[4]
    short.write_bytes(short.read_bytes()[:-5000])
    blank = made.images[7]
    data = blank.read_bytes()
    blank.write_bytes(data[:1024] + bytes(len(data) - 1024))
    return folder


@pytest.fixture
def new_project(dataset: Path, tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A function that makes a project folder of its own with the data set's micrographs."""

    def make(name: str) -> Path:
        project = tmp_path / name
        project.mkdir()
        (project / "micrographs").symlink_to(dataset / "micrographs")
        for table in ("picks.star", "micrographs.star"):
            shutil.copy(dataset / table, project / table)
        return project

    yield make
    shutil.rmtree(tmp_path, ignore_errors=True)


@pytest.fixture
def project(new_project: Callable[[str], Path]) -> Path:
    """A project folder."""
    return new_project("project")


@pytest.fixture(scope="session")
def expected(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one worker on this host makes."""
    project = tmp_path_factory.mktemp("expected") / "project"
    project.mkdir()
    (project / "micrographs").symlink_to(dataset / "micrographs")
    for table in ("picks.star", "micrographs.star"):
        shutil.copy(dataset / table, project / table)
    result = extract(project, options=cryobox.RunOptions(workers=1, fsync=False))
    assert result.exit_code == 1
    assert result.extracted > 50
    made = outputs(project / "out")
    assert {"particles.star", "particles_small.star", "rejected.star", "micrographs_incomplete.star"} <= set(made)
    return made
