"""RELION runs cryobox as its External job, and a 2D classification on what it made, in one pipeline."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import gemmi
import pytest

from cryobox.simulate import PARTICLE_BOX, make_dataset

pytestmark = [
    pytest.mark.relion,
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("relion_pipeliner") is None, reason="relion_pipeliner is not on the PATH (Debian: relion)"
    ),
]

FINISHED = "2"  # _rlnPipeLineProcessStatus of RELION 3.1
EMPTY_PIPELINE = "\ndata_pipeline_general\n\n_rlnPipeLineJobCounter 1\n\n"


def relion(project: Path, *arguments: str) -> None:
    done = subprocess.run(
        ["relion_pipeliner", *arguments], cwd=project, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def run_job(project: Path, kind: str, name: str, **options: object) -> Path:
    """Add a job to the pipeline and run it as a schedule; its folder."""
    text = ";".join(f"{option} == {value}" for option, value in options.items())
    relion(project, "--addJob", kind, "--addJobOptions", text)
    folder = project / kind / name
    assert folder.is_dir()
    relion(project, "--RunJobs", f"{kind}/{name}/", "--schedule", name, "--sec_wait_after", "1")
    assert (folder / "RELION_JOB_EXIT_SUCCESS").exists(), (folder / "run.err").read_text()
    return folder


def pipeline(project: Path, block: str, *tags: str) -> list[list[str]]:
    found = gemmi.cif.read(str(project / "default_pipeline.star")).find_block(f"pipeline_{block}")
    return [list(row) for row in found.find([f"_rlnPipeLine{tag}" for tag in tags])]


def test_relion_runs_the_job_and_classifies_its_particles(tmp_path: Path) -> None:
    make_dataset(tmp_path, micrographs=3, shape=(900, 900), picks=40)
    (tmp_path / "default_pipeline.star").write_text(EMPTY_PIPELINE)
    program = Path(sys.executable).with_name("cryobox-relion")
    made = run_job(
        tmp_path, "External", "job001", fn_exe=program, in_mic="micrographs.star", in_coords="picks.star",
        param1_label="box", param1_value=PARTICLE_BOX, param2_label="fcrop", param2_value=32,
        param3_label="ramp", param3_value="no", param4_label="bg_diameter", param4_value=PARTICLE_BOX * 3 // 4,
        nr_threads=2, other_args="--no-report",
    )  # fmt: skip
    assert (made / "run.err").read_text() == ""
    assert "--bg_diameter" in (made / "note.txt").read_text()
    particles = "External/job001/particles.star"
    assert [particles, "3"] in pipeline(tmp_path, "nodes", "NodeName", "NodeType")
    assert ["External/job001/", particles] in pipeline(tmp_path, "output_edges", "EdgeProcess", "EdgeToNode")
    classes = run_job(
        tmp_path, "Class2D", "job002", fn_img=particles, nr_classes=1, nr_iter=2, particle_diameter=150,
        psi_sampling=24, nr_threads=2,
    )  # fmt: skip
    assert (classes / "run_it002_classes.mrcs").stat().st_size > 32 * 32 * 4
    assert [particles, "Class2D/job002/"] in pipeline(tmp_path, "input_edges", "EdgeFromNode", "EdgeProcess")
    status = dict(pipeline(tmp_path, "processes", "ProcessName", "ProcessStatus"))
    assert status == {"External/job001/": FINISHED, "Class2D/job002/": FINISHED}


def test_the_coordinates_of_a_picking_job_of_relion_3_1_can_be_the_input(tmp_path: Path) -> None:
    data = make_dataset(tmp_path, micrographs=2, shape=(600, 700), picks=20)
    picking = tmp_path / "AutoPick" / "job007"
    for image in data.images:
        (picking / "micrographs").mkdir(parents=True, exist_ok=True)
        rows = [line.split()[:2] for line in data.picks.read_text().splitlines() if f"{image.name} " in line]
        head = "data_\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n"
        body = "".join(f"{x} {y}\n" for x, y in rows)
        (picking / "micrographs" / f"{image.stem}_autopick.star").write_text(head + body)
    (picking / "coords_suffix_autopick.star").write_text("micrographs.star\n")
    (tmp_path / "default_pipeline.star").write_text(EMPTY_PIPELINE)
    made = run_job(
        tmp_path, "External", "job001", fn_exe=Path(sys.executable).with_name("cryobox-relion"),
        in_mic="micrographs.star", in_coords="AutoPick/job007/coords_suffix_autopick.star", param1_label="box",
        param1_value=128, param2_label="report", param2_value="no",
    )  # fmt: skip
    assert "picks      40 in 2 micrographs" in (made / "run.out").read_text()
