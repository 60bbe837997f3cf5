"""`--from job.json`: the files of that run, wherever it is repeated, and no others."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import mrcfile
import numpy as np
import pytest

import synth

OPTIONS = ("--quiet", "--no-report")


def project(folder: Path, seed: int) -> Path:
    """Two micrographs, picks as a list of coordinate files, and the table of micrographs, all with relative names."""
    names = ["mics/m0.mrc", "mics/m1.mrc"]
    for number, name in enumerate(names):
        synth.write_mrc(folder / name, synth.micrograph((96, 96), seed=seed + number), pixel_size=1.5)
        (folder / "coords").mkdir(exist_ok=True)
        (folder / f"coords/m{number}.txt").write_text("40 44 0.5\n50 41 0.6\n")
    synth.write_star(folder / "mics.star", {"micrographs": {"rlnMicrographName": names}})
    synth.write_star(
        folder / "list.star",
        {
            "coordinate_files": {
                "rlnMicrographName": names,
                "rlnMicrographCoordinates": ["coords/m0.txt", "coords/m1.txt"],
            }
        },
    )
    return folder


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """Project A with a run in A/out, and B with other files of the same names."""
    one, other = (project(tmp_path / name, seed) for name, seed in (("A", 1), ("B", 11)))
    done = cryobox(one, "list.star", "-m", "mics.star", "-o", "out", "--box", "32")
    assert (done.returncode, done.stderr) == (0, done.stderr)
    return one, other


def cryobox(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cryobox", "extract", *map(str, arguments), *OPTIONS],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip


def stacks(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / "stacks").iterdir()}


def test_a_run_repeated_elsewhere_cuts_the_recorded_micrographs(two: tuple[Path, Path]) -> None:
    one, other = two
    done = cryobox(other, "--from", "../A/out/job.json", "-o", "again")
    assert done.returncode == 0, done.stderr
    assert stacks(other / "again") == stacks(one / "out")
    record = json.loads((other / "again" / "job.json").read_text())
    assert record["inputs"] == json.loads((one / "out" / "job.json").read_text())["inputs"]
    assert record["files"] == json.loads((one / "out" / "job.json").read_text())["files"]
    table = (other / "again" / "particles.star").read_text()
    assert f"@{other / 'again' / 'stacks'}" in table  # outside of A, so names of stacks are absolute


def test_the_record_names_every_file_that_was_read(two: tuple[Path, Path]) -> None:
    files = json.loads((two[0] / "out" / "job.json").read_text())["files"]
    names = {what: sorted(os.path.relpath(two[0] / path, two[0]) for path in found) for what, found in files.items()}
    assert names == {
        "picks": ["coords/m0.txt", "coords/m1.txt", "list.star"],
        "micrographs": ["mics.star"],
        "images": ["mics/m0.mrc", "mics/m1.mrc"],
    }


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("list.star", "edit", "list.star: has another content than that run read"),
        ("mics.star", "edit", "mics.star: has another content than that run read"),
        ("coords/m1.txt", "edit", "m1.txt: has another content than that run read"),
        ("coords/m1.txt", "touch", ""),
        ("mics/m1.mrc", "touch", "m1.mrc: has 37888 bytes of 1000000000 ns since 1970, expected 37888 bytes of"),
        ("mics/m1.mrc", "remove", "m1.mrc: cannot be read any more, expected 37888 bytes of"),
    ],
)
@pytest.mark.parametrize("where", ["A", "B"])
def test_a_file_that_differs_from_the_recorded_one_is_refused(
    two: tuple[Path, Path], name: str, change: str, message: str, where: str
) -> None:
    path = two[0] / name
    if change == "edit":
        path.write_text(path.read_text().replace("0.6", "0.7") + "\n")
    elif change == "touch":
        os.utime(path, (1, 1))
    else:
        path.unlink()
    done = cryobox(two["AB".index(where)], "--from", two[0] / "out", "-o", "again", "--limit", 2)
    if not message:
        assert done.returncode == 0, done.stderr
        return
    assert done.returncode == 2
    assert message in done.stderr
    assert "job.json" in done.stderr or "A/out" in done.stderr
    assert not (two["AB".index(where)] / "again").exists()


def test_a_coordinate_file_that_is_new_is_refused_and_named(tmp_path: Path) -> None:
    one = project(tmp_path / "A", 1)
    (one / "coords" / "m1.txt").rename(one / "m1.txt")
    assert cryobox(one, "coords", "-m", "mics.star", "-o", "out", "--box", "32").returncode == 0
    (one / "m1.txt").rename(one / "coords" / "m1.txt")
    done = cryobox(one, "--from", "out/job.json", "-o", "again")
    assert done.returncode == 2
    assert "coords/m1.txt: was not there for that run" in done.stderr
    assert cryobox(one, "coords", "--from", "out/job.json", "-o", "again").returncode == 0  # meant as they are now


def test_other_options_and_other_picks_are_not_differences(two: tuple[Path, Path]) -> None:
    one, _ = two
    (one / "better.txt").write_text("60 50\n")
    for picks, options in (((), ("--limit", 1, "--float16")), (("coords",), ())):
        done = cryobox(one, *picks, "--from", "out/job.json", "-o", f"again{len(picks)}", *options)
        assert done.returncode == 0, done.stderr
    assert list(stacks(one / "again0")) == ["m0_particles.mrcs"]


def test_a_recorded_root_holds_for_other_picks_and_for_the_check_of_picks(tmp_path: Path) -> None:
    one, other = (project(tmp_path / name, seed) for name, seed in (("A", 1), ("B", 11)))
    done = cryobox(other, one / "list.star", "-m", one / "mics.star", "--root", "../A", "-o", "out", "--box", "32")
    assert done.returncode == 0, done.stderr
    third = tmp_path / "C"
    third.mkdir()
    for options in ((), ("--no-check-picks",), ("--dry-run",)):
        done = cryobox(third, "--from", other / "out" / "job.json", "-o", f"again{len(options)}", *options)
        assert done.returncode == 0, done.stderr
    assert stacks(third / "again0") == stacks(third / "again1") == stacks(other / "out")
    shutil.copy(one / "list.star", third / "mine.star")
    shutil.copytree(other / "coords", third / "coords")
    (third / "coords" / "m0.txt").write_text("60 60\n")
    done = cryobox(third, "mine.star", "--from", other / "out" / "job.json", "-o", "mine")
    assert done.returncode == 0, done.stderr
    assert stacks(third / "mine") == stacks(other / "out")  # coordinates and micrographs both from A


def test_picks_of_here_with_micrographs_of_elsewhere_need_a_root(two: tuple[Path, Path]) -> None:
    one, other = two
    for given, word in ((("list.star",), "PICKS"), (("-m", "mics.star"), "--micrographs")):
        done = cryobox(other, *given, "--from", "../A/out/job.json", "-o", "again")
        assert done.returncode == 2
        assert f"--from repeats a run of {one}, and {word} is given here" in done.stderr
    done = cryobox(other, "list.star", "--from", "../A/out/job.json", "-o", "again", "--root", ".")
    assert done.returncode == 2
    assert f"--root .: names in tables of the run of --from started in {one}" in done.stderr
    done = cryobox(other, "list.star", "--from", "../A/out/job.json", "-o", "again", "--root", "../A")
    assert done.returncode == 0, done.stderr
    assert mrcfile.read(other / "again/stacks/m0_particles.mrcs").tobytes() in stacks(one / "out")["m0_particles.mrcs"]


def test_a_recorded_directory_that_is_gone_is_named(two: tuple[Path, Path]) -> None:
    one, other = two
    one.rename(one.with_name("moved"))
    done = cryobox(other, "--from", "../moved/out", "-o", "again")
    assert done.returncode == 2
    assert f"{one}: the run of --from was started there, and the folder is not there any more" in done.stderr


def test_the_record_that_is_read_is_not_replaced(two: tuple[Path, Path]) -> None:
    one, other = two
    before = (one / "out" / "job.json").read_bytes()
    (other / "link.json").symlink_to(one / "out" / "job.json")
    for folder, source, out in ((one, "out", "out"), (one, "out/job.json", "./out"), (other, "link.json", "../A/out")):
        done = cryobox(folder, "--from", source, "-o", out, "--overwrite")
        assert done.returncode == 2
        assert "would be replaced by the record of this run; choose another --out" in done.stderr
    assert (one / "out" / "job.json").read_bytes() == before


def test_a_record_of_a_version_that_named_no_files_is_warned_of(two: tuple[Path, Path]) -> None:
    path = two[0] / "out" / "job.json"
    record = json.loads(path.read_text())
    del record["files"]
    path.write_text(json.dumps(record))
    done = cryobox(two[1], "--from", path, "-o", "again")
    assert done.returncode == 0
    assert "does not say what that run read" in done.stderr
    assert stacks(two[1] / "again") == stacks(two[0] / "out")


def test_several_tables_of_picks_are_repeated_and_compared_each(tmp_path: Path) -> None:
    one, other = (project(tmp_path / name, seed) for name, seed in (("A", 1), ("B", 11)))
    for number in (0, 1):
        (one / f"p{number}.star").write_text(
            "data_particles\nloop_\n_rlnMicrographName\n_rlnCoordinateX\n_rlnCoordinateY\n"
            f"mics/m{number}.mrc 40 44\nmics/m{number}.mrc 50 41\n"
        )
    done = cryobox(one, "p0.star", "p1.star", "-m", "mics.star", "-o", "out", "--box", "32")
    assert done.returncode == 0, done.stderr
    done = cryobox(other, "--from", "../A/out", "-o", "again")
    assert done.returncode == 0, done.stderr
    assert len(stacks(other / "again")) == 2
    assert stacks(other / "again") == stacks(one / "out")
    (one / "p1.star").write_text((one / "p1.star").read_text() + "mics/m1.mrc 44 44\n")
    done = cryobox(other, "--from", "../A/out", "-o", "third")
    assert done.returncode == 2
    assert "p1.star: has another content than that run read" in done.stderr


def test_masks_of_the_record_are_those_of_its_folder(two: tuple[Path, Path]) -> None:
    one, other = two
    for project_folder, bad in ((one, 1), (other, 0)):
        (project_folder / "masks").mkdir()
        for name in ("m0", "m1"):
            mask = np.full((24, 24), bad, np.float32)
            mask[12:] = 0
            with mrcfile.new(project_folder / "masks" / f"{name}.mrc") as file:
                file.set_data(mask)
    asked = (
        "-m",
        "mics.star",
        "--box",
        "32",
        "--junk-masks",
        "masks",
        "--exclude",
        "0,80,90,90",
        "--exclude",
        "1,1,2,2",
    )
    done = cryobox(one, "list.star", "-o", "clean", *asked)
    assert done.returncode == 1, done.stderr  # nothing extracted: all picks lie on the upper half
    record = json.loads((one / "clean/job.json").read_bytes())
    assert record["rejected"] == {"junk in the mask": 4}
    assert record["recipe"]["exclude"] == [[0, 80, 90, 90], [1, 1, 2, 2]]
    again = cryobox(other, "--from", "../A/clean/job.json", "-o", "again")
    assert json.loads((other / "again/job.json").read_bytes())["rejected"] == {"junk in the mask": 4}, again.stderr
    done = cryobox(other, "--from", "../A/clean/job.json", "-o", "mine", "--junk-masks", "masks")
    assert done.returncode == 0, done.stderr
    (one / "masks/m0.mrc").unlink()
    done = cryobox(other, "--from", "../A/clean/job.json", "-o", "gone")
    assert done.returncode == 2
    assert "masks/m0.mrc: was read by that run, and is not found now" in done.stderr


def test_shifts_are_reset_or_followed(two: tuple[Path, Path]) -> None:
    done = cryobox(two[0], "list.star", "-m", "mics.star", "-o", "x", "--box", "32", "--reset-offsets", "--recenter")
    assert done.returncode == 2
    assert "--reset-offsets makes the shifts 0, --recenter moves boxes by them" in done.stderr
