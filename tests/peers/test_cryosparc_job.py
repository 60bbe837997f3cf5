"""CryoSPARC's external job, by the real client against a stand-in: what is asked, saved, logged, and how it ends."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest

pytest.importorskip("cryosparc")

from cryosparc.dataset import Dataset

from cryobox.peers.cryosparc import Source, slots_to_save
from cryobox.simulate import make_dataset
from peers.cryosparc_server import EMAIL, PASSWORD, Instance, serve

PROGRAM = Path(sys.executable).with_name("cryobox")
INPUTS = ("P3", "W1", "--particles", "J8.particles", "--exposures", "J3.exposures")
SIZES = ("--box", "128", "--fcrop", "64", "--no-fsync", "--no-report")
PICKS, MICROGRAPHS = 12, 3


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[Instance]:
    """A project P3 with exposures (J3) and particles of a 2D classification (J8)."""
    folder = tmp_path / "CS-project"
    folder.mkdir()
    data = make_dataset(folder, micrographs=MICROGRAPHS, shape=(512, 640), picks=PICKS, style="cryosparc", shifts=True)
    found = Instance(folder)
    found.add_job("J3", {"exposures": ("exposure", Dataset.load(data.micrographs.with_suffix(".cs")))}, "patch_ctf")
    found.add_job("J8", {"particles": ("particle", Dataset.load(data.picks.with_suffix(".cs")))})
    with serve(found):
        yield found


def environment(instance: Instance) -> dict[str, str]:
    ours = {"CRYOSPARC_BASE_URL": instance.url, "CRYOSPARC_EMAIL": EMAIL, "CRYOSPARC_PASSWORD": PASSWORD}
    return {name: value for name, value in os.environ.items() if not name.startswith("CRYOSPARC_")} | ours


def extract(instance: Instance, *more: str, code: int = 0, cwd: Path | None = None) -> str:
    """Run the command; what it printed on either stream."""
    done = subprocess.run(
        [PROGRAM, "cryosparc", *INPUTS, *SIZES, *more],
        env=environment(instance), cwd=cwd or instance.folder.parent, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def logged(instance: Instance, kind: str) -> str:
    return "\n".join(event["text"] for event in instance.events if event["type"] == kind)


def test_the_job_is_connected_run_and_completed_with_outputs_of_cryosparc_s_names(instance: Instance) -> None:
    told = extract(instance, "--small", "32")
    job = instance.jobs["J9"]
    assert (job.status, job.spec.type, job.title) == ("completed", "snowflake", "Particles extracted by cryobox")
    connected = {name: [(c.job_uid, c.output) for c in one.connections] for name, one in job.spec.inputs.root.items()}
    assert connected == {"particles": [("J8", "particles")], "micrographs": [("J3", "exposures")]}
    outputs = {name: (one.type, one.passthrough) for name, one in job.spec.outputs.root.items()}
    assert outputs == {
        "particles": ("particle", "particles"),
        "particles_small": ("particle", "particles"),
        "micrographs": ("exposure", "micrographs"),
    }
    done = [call.name for call in instance.calls]
    assert done.index("jobs.mark_running") < done.index("jobs.load_input") < done.index("jobs.save_output")
    assert done[-1] == "jobs.mark_completed"
    assert "connect the outputs of P3 J9 to the next job" in told


def test_what_is_saved_are_the_rows_and_paths_of_the_images(instance: Instance) -> None:
    extract(instance, "--small", "32")
    for name, size in (("particles", 64), ("particles_small", 32)):
        saved = instance.data["J9", name]
        assert set(saved.prefixes()) == {"blob", "location", "alignments2D", "ctf"}  # pick_stats passes through
        assert np.isin(saved["uid"], instance.data["J8", "particles"]["uid"]).all()
        assert len(saved) == instance.jobs["J9"].spec.outputs.root[name].num_items > 10
        stacks = "stacks_small" if name.endswith("small") else "stacks"
        for path, count in zip(*np.unique(saved["blob/path"].astype(str), return_counts=True), strict=True):
            assert path.startswith(f"J9/extract/{stacks}/")  # from the project's folder on
            assert mrcfile.read(instance.folder / path).shape == (count, size, size)
        written = Dataset.load(instance.folder / "J9" / f"extracted_{name}.cs")
        assert written.filter_prefixes(saved.prefixes()) == saved
    assert len(instance.data["J9", "micrographs"]) == MICROGRAPHS


def test_the_bytes_are_those_of_extract(instance: Instance) -> None:
    extract(instance, "--no-ramp", "--min-score", "0.2")
    tables = [instance.folder / "J9" / f"input_{name}.cs" for name in ("particles", "micrographs")]
    command: list[str | Path]
    command = [PROGRAM, "extract", tables[0], "-m", tables[1], "-o", "again", "--root", instance.folder, *SIZES, "-q",
               "--no-ramp", "--min-score", "0.2"]  # fmt: skip
    subprocess.run(command, cwd=instance.folder, check=True)
    stacks = sorted((instance.folder / "again" / "stacks").iterdir())
    assert len(stacks) == MICROGRAPHS
    for stack in stacks:
        assert (instance.folder / "J9" / "extract" / "stacks" / stack.name).read_bytes() == stack.read_bytes()


def test_the_log_tells_how_far_it_is_what_was_rejected_and_shows_particles(instance: Instance) -> None:
    extract(instance)
    assert f"{MICROGRAPHS} of {MICROGRAPHS} micrographs: " in logged(instance, "text")
    assert len(instance.named("jobs.add_event_log")) < len(instance.named("jobs.update_event_log")) + 3
    assert f" of {PICKS * MICROGRAPHS} picks extracted" in logged(instance, "text")
    assert "rejected: box over the edge" in logged(instance, "text")
    assert logged(instance, "image") == "Extracted particles, evenly chosen"
    assert instance.assets["0"].startswith(b"\x89PNG\r\n")
    assert instance.jobs["J9"].spec.outputs.root["particles"].image in instance.assets


def test_micrographs_that_cannot_be_read_are_an_output_of_their_own(instance: Instance) -> None:
    path = next(iter(instance.data["J3", "exposures"]["micrograph_blob/path"]))
    image = instance.folder / str(path)
    image.write_bytes(image.read_bytes()[:-5000])
    told = extract(instance, code=1)
    assert "repair what micrographs_incomplete lists" in told
    assert instance.jobs["J9"].status == "completed"
    exposures = instance.data["J3", "exposures"]["uid"]
    assert list(instance.data["J9", "micrographs_incomplete"]["uid"]) == list(exposures[:1])
    assert list(instance.data["J9", "micrographs"]["uid"]) == list(exposures[1:])


def test_picks_without_a_local_ctf_on_patch_ctf_exposures_are_told(instance: Instance) -> None:
    instance.data["J3", "exposures"]["ctf/type"] = "spline"
    assert "run it (job type patch_ctf_extract) on the result" in extract(instance)
    assert "patch_ctf_extract" in logged(instance, "warning")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ("--particles", "J8.particle"),
            r"J8: has no output 'particle' (did you mean J8.particles?); it has particles",
        ),
        (("--particles", "J80.particles"), "Job J80 not found"),
        (("--particles", "J8"), "an output is named by its job and its name, as J8.particles; got 'J8'"),
        (("--box", "127"), "box must be an even number"),
        (("--style", "relion"), "give --tables both, or neither"),
        (("--tables", "relion"), "give --tables both, or neither"),
        (("--project-dir", "/not/here"), "/not/here: the folder of P3 is not seen on this machine"),
        (("--email", "nobody@example.org"), "Incorrect username or password"),
    ],
)
def test_what_is_wrong_is_said_before_there_is_a_job(instance: Instance, more: tuple[str, ...], message: str) -> None:
    assert message in extract(instance, *more, code=2)
    assert instance.named("jobs.create") == []


def test_sizes_in_angstrom_are_chosen_by_the_connected_micrographs(instance: Instance) -> None:
    told = extract(instance, "--fcrop", "128", "--small", "64", "--min-separation", "10")
    assert "stored     128 x 128" in told
    pixel = float(instance.data["J3", "exposures"]["micrograph_blob/psize_A"][0])
    command: list[str | Path] = [PROGRAM, "cryosparc", *INPUTS, "--box", "128", "--no-report"]
    command += ["--target-pixel-size", str(2.1 * pixel)]
    done = subprocess.run(command, env=environment(instance), capture_output=True, text=True, check=True)
    assert "stored     64 x 64" in done.stdout
    assert instance.jobs["J10"].status == "completed"


def test_outputs_that_are_refused_fail_the_job_which_can_be_gone_on_with(instance: Instance) -> None:
    instance.refuse = {"jobs.save_output": "the disk of the database is full"}
    told = extract(instance, code=3)
    assert "the disk of the database is full" in told
    assert "--job J9 saves them again" in told
    assert instance.jobs["J9"].status == "failed"
    instance.refuse = {}
    told = extract(instance, "--job", "J9")
    assert f"{MICROGRAPHS} micrographs were done before" in told
    assert len(instance.named("jobs.create")) == 1
    assert len(instance.named("jobs.connect")) == 2
    assert instance.jobs["J9"].status == "completed"
    assert len(instance.data["J9", "particles"]) > 10


def test_a_job_that_is_killed_in_cryosparc_stops_between_micrographs(instance: Instance) -> None:
    instance.kill = "J9"
    extract(instance, "--workers", "1", code=130)
    assert instance.jobs["J9"].status == "failed"
    assert "ended in CryoSPARC (killed)" in logged(instance, "error")
    assert "go on with --job J9" in logged(instance, "error")
    assert instance.named("jobs.save_output") == []


def test_nothing_extracted_is_a_failed_job(instance: Instance) -> None:
    extract(instance, "--edge-margin", "100000", code=1)
    assert instance.jobs["J9"].status == "failed"
    assert "nothing was extracted; extract/rejected.cs says why" in logged(instance, "error")
    assert (instance.folder / "J9" / "extract" / "rejected.cs").is_file()


def test_an_interrupt_is_no_completed_job(instance: Instance) -> None:
    """The client would call it one: it takes only an `Exception` for a failure."""
    script = """
from cryobox.peers.cryosparc import Place, Source, external_job
picks, exposures = Source("J8", "particles"), Source("J3", "exposures")
place = Place(project="P3", workspace="W1", particles=(picks,), exposures=(exposures,))
try:
    with external_job(place):
        raise KeyboardInterrupt
except KeyboardInterrupt:
    print("interrupted")
"""
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment(instance), capture_output=True, text=True, check=True
    )
    assert done.stdout == "interrupted\n"
    assert instance.jobs["J9"].status == "failed"


def test_the_project_s_folder_may_be_mounted_elsewhere(instance: Instance, tmp_path: Path) -> None:
    mounted = tmp_path / "mounted"
    mounted.symlink_to(instance.folder)
    extract(instance, "--project-dir", str(mounted))
    paths = np.unique(instance.data["J9", "particles"]["blob/path"].astype(str))
    assert all(path.startswith("J9/extract/stacks/") for path in paths)


# Which slots are saved ------------------------------------------------------------------------------------------------


def table(**columns: Any) -> Any:
    found = np.zeros(len(columns["uid"]), [(name.replace("__", "/"), np.array(v).dtype) for name, v in columns.items()])
    for name, values in columns.items():
        found[name.replace("__", "/")] = values
    return found


BEFORE = table(uid=[5, 3, 9], location__x=[0.1, 0.2, 0.3], ctf__df1_A=[1.0, np.nan, 3.0], pick_stats__power=[1, 2, 3])


def test_slots_that_did_not_change_pass_through_whatever_the_order_of_rows() -> None:
    after = table(uid=[9, 3], location__x=[0.3, 0.2], ctf__df1_A=[3.0, np.nan], pick_stats__power=[3, 2],
                  blob__idx=[0, 1], cryobox__flag=[1, 1])  # fmt: skip
    assert slots_to_save(BEFORE, after) == (["location", "blob"], True)
    after["ctf/df1_A"][0] = 4.0
    assert slots_to_save(BEFORE, after) == (["location", "ctf", "blob"], True)


@pytest.mark.parametrize("uid", [[9, 4], [9, 9]], ids=["new", "repeated"])
def test_rows_that_are_not_those_of_the_input_bring_all_of_their_slots(uid: list[int]) -> None:
    after = table(uid=uid, location__x=[0.3, 0.2], ctf__df1_A=[3.0, np.nan], pick_stats__power=[3, 2], blob__idx=[0, 1])
    assert slots_to_save(BEFORE, after) == (["location", "ctf", "pick_stats", "blob"], False)


def test_a_slot_that_was_left_out_does_not_come_back() -> None:
    after = table(uid=[9], location__x=[0.3], ctf__df1_A=[3.0], blob__idx=[0])
    assert slots_to_save(BEFORE, after) == (["location", "ctf", "blob"], False)


def test_an_output_is_a_job_and_a_name() -> None:
    assert Source.of("J8.particles_selected") == Source("J8", "particles_selected")
