"""Every command and every piece of Python in README and docs runs, in the order in which a reader meets it.

A block that cannot run in a test says why in a comment before it: `<!-- not run: it submits to a cluster -->`. Lists of
options with explanations are `text`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cryobox import Recipe, RunOptions, run
from cryobox.simulate import make_dataset

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^(<!-- not run: [^\n]+ -->\n)?\n*```(sh|bash|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(document: Path) -> list[tuple[str, str, str]]:
    """(reason why not to run it, language, text) of each block of code."""
    return [(reason, language, text) for reason, language, text in BLOCK.findall(document.read_text())]


WITH_CODE = [document for document in DOCUMENTS if any(not reason for reason, _, _ in blocks(document))]


def refined(particles: Path, out: Path) -> None:
    """The table with classes and orientations, as a refinement would leave it."""
    lines = particles.read_text().splitlines()
    last = max(i for i, line in enumerate(lines) if line.startswith("_rln"))
    count = int(lines[last].split("#")[1])
    tags = ("_rlnClassNumber", "_rlnAngleRot", "_rlnAngleTilt", "_rlnAnglePsi")
    head = [*lines[: last + 1], *(f"{tag} #{count + i}" for i, tag in enumerate(tags, 1))]
    rows = [f"{line} {i % 5 + 1} {7 * i % 360} {13 * i % 180} {29 * i % 360}" if line.strip() else line
            for i, line in enumerate(lines[last + 1 :])]  # fmt: skip
    out.write_text("\n".join([*head, *rows]) + "\n")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the documents speak of."""
    folder = tmp_path_factory.mktemp("project")
    stars = make_dataset(folder, micrographs=2, shape=(1200, 1440), picks=40, shifts=True)
    for name in ("micrographs_ctf.star", "mics.star"):
        shutil.copy(stars.micrographs, folder / name)
    shutil.copy(stars.images[0], folder / "micrograph.mrc")
    recipe = Recipe(box=128, sizes=(64,))
    run(stars.picks, micrographs=stars.micrographs, out=folder / "Refine3D", recipe=recipe, root=folder,
        options=RunOptions(fsync=False))  # fmt: skip
    refined(folder / "Refine3D" / "particles.star", folder / "run_data.star")
    groups = make_dataset(folder / "cs", micrographs=2, shape=(800, 1000), picks=40, style="cryosparc", shifts=True)
    shutil.move(folder / "cs" / "motioncorrected", folder / "motioncorrected")
    for job, group, name in (("J8", groups.picks, "particles"), ("J3", groups.micrographs, "exposures")):
        (folder / job).mkdir()
        shutil.copy(group, folder / job / f"{name}.csg")
        shutil.copy(group.with_suffix(".cs"), folder / job / group.with_suffix(".cs").name)
    return folder


@pytest.mark.parametrize("document", WITH_CODE, ids=lambda path: path.name)
def test_what_a_document_shows_can_be_run(
    document: Path, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "project"
    shutil.copytree(project, place, copy_function=os.link)
    monkeypatch.chdir(place)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "COLUMNS": "100"}
    names = {"micrograph": _micrograph(place), "centers": np.array([[400.0, 500.0], [700.25, 600.5], [3.0, 3.0]])}
    for reason, language, text in blocks(document):
        if reason:
            continue
        if language == "python":
            exec(compile(text, f"{document.name}", "exec"), names)
            continue
        done = subprocess.run(
            ["bash", "-eu", "-c", text], env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, f"{document.name}:\n{text}\n{done.stdout}\n{done.stderr}"


def _micrograph(folder: Path) -> np.ndarray:
    import mrcfile

    with mrcfile.open(folder / "micrograph.mrc") as file:
        return np.array(file.data)


def test_no_command_hides_in_a_block_without_a_language() -> None:
    hidden = []
    for document in DOCUMENTS:
        language: str | None = None  # of the block that we are in
        for line in document.read_text().splitlines():
            if line.startswith("```"):
                language = line[3:] if language is None else None
            elif language == "" and re.match(r"(cryobox|python -m cryobox|pip|make|mpirun) ", line):
                hidden.append(f"{document.name}: {line}")
    assert hidden == []


def test_every_option_that_a_document_names_exists() -> None:
    """In tables and running text, too; those of other programs stand in the list below."""
    from typer.main import get_command

    from cryobox.cli import app

    group = get_command(app)
    known = {"--help", "--version", "--verbose", "--install-completion"}
    for command in group.commands.values():  # type: ignore[attr-defined]
        for parameter in command.params:
            known |= {*parameter.opts, *parameter.secondary_opts}
    unknown = []
    for document in DOCUMENTS:
        for line in document.read_text().splitlines():
            if "cryobox" not in line and document.name in ("relion.md", "README.md"):
                line = line.split("|")[2] if line.count("|") > 2 else ""  # the second column is ours
            found = re.findall(r"(?<![\w-])--[a-z][a-z0-9_-]+", line)
            unknown += [f"{document.name}: {o}" for o in found if "_" not in o and o not in known | THEIRS]
    assert unknown == []


def test_the_page_of_options_is_the_program_s() -> None:
    from cryobox.cli.page import options_page

    found = (ROOT / "docs" / "options.md").read_text()
    assert found == options_page(), "python -m cryobox.cli.page > docs/options.md"


# Options of pip, git, RELION, Slurm and the like, and of this repository's own tools.
THEIRS = {"--data", "--extract", "--recenter", "--array", "--wrap", "--multiply", "--mem", "--time", "--cpus-per-task"}
THEIRS |= {"--add", "--schedule"}  # relion_pipeliner's --addJob, --addJobOptions
THEIRS |= {"--coord", "--scale", "--norm", "--golden"}  # of relion_preprocess; bench.relion5_cases
