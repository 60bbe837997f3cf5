"""The command as a user meets it: what it prints, what it exits with, what it writes; in processes of their own."""

from __future__ import annotations

import json
import os
import pty
import re
import resource
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cryobox import Recipe, RunOptions
from cryobox.cli import program
from cryobox.options import Recipe as RecipeOptions
from cryobox.simulate import Dataset, make_dataset

ENVIRONMENT = {**os.environ, "COLUMNS": "110", "NO_COLOR": "1", "PYTHONWARNINGS": "error"}


def cryobox(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cryobox", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=ENVIRONMENT, timeout=120, check=False)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make_dataset(tmp_path_factory.mktemp("data"), micrographs=3, picks=20)


EXTRACT = ("extract", "picks.star", "-m", "micrographs.star", "--box", 128, "--fcrop", 64, "--no-fsync", "--no-report")


def test_an_interrupt_before_the_command_has_begun_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(program, "app", interrupted)
    with pytest.raises(SystemExit) as ended:
        program.main(["--version"])
    assert ended.value.code == 130


def test_a_run_ends_with_a_summary_that_says_what_to_do_next(dataset: Dataset, tmp_path: Path) -> None:
    done = cryobox(*EXTRACT, "-o", tmp_path / "out", cwd=dataset.folder)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "out" / "job.json").read_text())
    assert re.search(rf"^picks +{dataset.count} in 3 micrographs$", done.stdout, re.MULTILINE)
    assert re.search(rf"^extracted +{record['extracted']} \(", done.stdout, re.MULTILINE)
    for reason, count in record["rejected"].items():
        assert f"{count} {reason}" in done.stdout
    assert "stored     64 x 64 float32, 2.8 Å per pixel" in done.stdout
    assert f"RELION: Import, tab Others, node type 'Particles STAR file', input file {tmp_path}" in done.stdout


def test_plain_lines_bear_the_time_and_go_to_stderr(dataset: Dataset, tmp_path: Path) -> None:
    done = cryobox(*EXTRACT, "-o", tmp_path / "out", "-v", cwd=dataset.folder)
    lines = [line for line in done.stderr.splitlines() if "micrographs/sim_001.mrc: done" in line]
    assert len(lines) == 1
    assert re.match(r"\d\d:\d\d:\d\d ", lines[0])
    assert "box 128 stored as 64: 2.8 Å per pixel, so 5.6 Å at best" in done.stderr
    assert "contrast inverted (white particles)" in done.stderr


def test_quiet_prints_nothing_when_all_is_well(dataset: Dataset, tmp_path: Path) -> None:
    done = cryobox(*EXTRACT, "-o", tmp_path / "out", "--quiet", cwd=dataset.folder)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_warning_is_printed_even_when_quiet(dataset: Dataset, tmp_path: Path) -> None:
    done = cryobox(*EXTRACT, "-o", tmp_path / "out", "--quiet", "--fcrop", 62, cwd=dataset.folder)
    assert "warning: stored size 62 is not a fast size" in done.stderr


def test_json_events_are_one_object_a_line_and_add_up(dataset: Dataset, tmp_path: Path) -> None:
    done = cryobox(*EXTRACT, "-o", tmp_path / "out", "--json", cwd=dataset.folder)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["event"] for event in events] == ["plan", *["progress"] * 4, "end"]
    assert {event["version"] for event in events} == {1}
    plan, last, end = events[0], events[-2], events[-1]
    assert plan["accepted"] + sum(plan["rejected"].values()) == plan["picks"] == dataset.count
    assert last["micrographs"] == last["micrographs_total"] == 3
    assert last["particles"] == end["extracted"]
    assert end["exit_code"] == 0
    assert end["tables"][0].endswith("particles.star")


def test_a_run_whose_events_nobody_reads_any_more_goes_on(dataset: Dataset, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cryobox", *map(str, EXTRACT), "-o", str(tmp_path / "out"), "--json"]
    events = subprocess.Popen(
        command, cwd=dataset.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    )
    assert events.stdout is not None
    assert events.stderr is not None
    events.stdout.close()
    said = events.stderr.read()
    events.stderr.close()
    assert (events.wait(timeout=120), said) == (0, "")
    record = json.loads((tmp_path / "out" / "job.json").read_text())
    assert record["extracted"] > 0


def test_an_error_is_an_event_too(dataset: Dataset, tmp_path: Path) -> None:
    done = cryobox("extract", "none.star", "-m", "micrographs.star", "-o", tmp_path, "--box", 64, "--json",
                   cwd=dataset.folder)  # fmt: skip
    assert done.returncode == 2
    event = json.loads(done.stdout)
    assert (event["event"], event["version"], event["exit_code"]) == ("error", 1, 2)
    assert "none.star: no such file of picks" in event["message"]


def test_a_misspelt_file_is_answered_with_the_nearest_name(dataset: Dataset, tmp_path: Path) -> None:
    done = cryobox("extract", "piks.star", "-m", "micrographs.star", "-o", tmp_path, "--box", 64, cwd=dataset.folder)
    assert done.returncode == 2
    assert "did you mean picks.star?" in done.stderr


def test_a_misspelt_option_is_answered_with_the_nearest_one(dataset: Dataset) -> None:
    done = cryobox("extract", "picks.star", "--fcorp", 64, cwd=dataset.folder)
    assert done.returncode == 2
    assert "--fcrop" in done.stderr


def test_a_misspelt_command_is_answered_with_the_nearest_one() -> None:
    done = cryobox("extrct")
    assert done.returncode == 2
    assert "Did you mean 'extract'?" in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--box", 65], "box must be an even number of pixels, at least 2; got 65 (nearest fast sizes: 64, 70)"),
        ([], "give --box (pixels), --diameter (Å), or --from"),
        (["--box", 64, "--diameter", 100], "give --box (pixels) or --diameter (Å), not both"),
        (["--box", 64, "--fcrop", 32, "--target-resolution", 8], "give --fcrop (pixels), or --target-pixel-size"),
        (["--box", 64, "--target-pixel-size", 4, "--target-resolution", 8], "not both"),
        (["--box", 64, "--style", "eman"], "'--style': Value error, 'eman' is not one of"),
    ],
)
def test_options_that_cannot_be_honored_are_refused_before_any_work(
    dataset: Dataset, tmp_path: Path, options: list[object], message: str
) -> None:
    done = cryobox(
        "extract", "picks.star", "-m", "micrographs.star", "-o", tmp_path / "o", *options, cwd=dataset.folder
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "o").exists()


def test_without_picks_it_is_said_what_is_missing(dataset: Dataset, tmp_path: Path) -> None:
    done = cryobox("extract", "-m", "micrographs.star", "-o", tmp_path, "--box", 64, cwd=dataset.folder)
    assert done.returncode == 2
    assert "PICKS must be given, or --from with the job.json of an earlier run" in done.stderr


def test_a_diameter_chooses_the_box_and_a_resolution_the_crop(dataset: Dataset, tmp_path: Path) -> None:
    done = cryobox("extract", "picks.star", "-m", "micrographs.star", "-o", tmp_path / "o", "--no-report",
                   "--diameter", 100, "--target-resolution", 6, cwd=dataset.folder)  # fmt: skip
    assert done.returncode == 0, done.stderr
    recipe = json.loads((tmp_path / "o" / "job.json").read_text())["recipe"]
    assert (recipe["box"], recipe["sizes"]) == (108, [56])  # 150 Å at 1.4 Å; then at most 3 Å per pixel
    assert "box 108: 1.5 x 100 Å need 108 pixels" in done.stderr
    assert "stored at 56: 2.7 Å per pixel, 5.4 Å at best" in done.stderr


def test_a_run_is_repeated_from_its_record_and_options_given_win(dataset: Dataset, tmp_path: Path) -> None:
    first = cryobox(*EXTRACT, "-o", tmp_path / "one", "--no-ramp", "--bg-radius", 20, cwd=dataset.folder)
    assert first.returncode == 0
    again = cryobox("extract", "-o", tmp_path / "two", "--from", tmp_path / "one" / "job.json", "--no-report",
                    "--float16", "--small", 32, cwd=tmp_path)  # fmt: skip
    assert again.returncode == 0, again.stderr
    one, two = (json.loads((tmp_path / name / "job.json").read_text())["recipe"] for name in ("one", "two"))
    assert {key for key in one if one[key] != two[key]} == {"dtype", "sizes"}
    assert (two["dtype"], two["sizes"]) == ("float16", [64, 32])


def test_a_plain_repetition_gives_the_same_bytes(dataset: Dataset, tmp_path: Path) -> None:
    cryobox(*EXTRACT, "-o", tmp_path / "one", cwd=dataset.folder)
    cryobox("extract", "-o", tmp_path / "two", "--from", tmp_path / "one", "--no-report", cwd=dataset.folder)
    for stack in (tmp_path / "one" / "stacks").iterdir():
        assert stack.read_bytes() == (tmp_path / "two" / "stacks" / stack.name).read_bytes()


def test_every_default_in_the_help_is_the_one_used() -> None:
    shown = re.sub(r"\s+", " ", cryobox("extract", "--help").stdout.replace("│", " "))
    assert "[default: reject]" in shown
    assert f"[default: {Recipe(box=64).coordinate_scale}]" in shown
    assert f"[default: {RunOptions().threads}]" in shown
    for name in ("edges", "rounding", "recenter_from"):
        default = RecipeOptions.__dataclass_fields__[name].default
        assert f"[default: {default}]" in shown, name
    for on in ("normalize", "recenter", "fsync"):
        assert f"[default: {on}]" in shown, on


def test_the_help_shows_examples_and_exit_codes() -> None:
    assert "cryobox extract picks.star" in cryobox("extract", "--help").stdout
    assert "130 interrupted" in cryobox("--help").stdout


def test_help_takes_little_time() -> None:
    """Processor time, which is nearly the same however busy the machine is: 0.3 s on an idle one."""
    least = float("inf")
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert cryobox("--help").returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        least = min(least, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert least < 0.8


def test_the_command_line_loads_nothing_heavy_before_it_is_needed() -> None:
    code = "import sys, cryobox.cli; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"numpy", "rich", "yaml", "mrcfile", "matplotlib", "jinja2", "PIL"} & set(loaded)


def test_completion_can_be_had_for_the_shell() -> None:
    environment = {**ENVIRONMENT, "_CRYOBOX_COMPLETE": "source_bash"}
    done = subprocess.run(
        [str(Path(sys.executable).with_name("cryobox"))], env=environment, capture_output=True, text=True, check=False
    )
    assert "complete" in done.stdout


def test_the_version_says_what_the_build_is_made_of() -> None:
    lines = cryobox("--version", "--verbose").stdout.splitlines()
    assert lines[0].startswith("cryobox ")
    assert [line.split(":")[0].strip() for line in lines[2:]] == ["FFTW", "SIMD", "OpenMP", "CUDA"]


def test_boxes_lists_costs_of_neighbors() -> None:
    lines = cryobox("boxes", 390).stdout.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["336", "384", "390", "400", "432"]
    costs = {line.split()[0]: float(line.split()[2]) for line in lines[1:]}
    assert min(costs.values()) == 1.0
    assert costs["390"] > costs["384"]  # 390 = 2 * 3 * 5 * 13


def test_boxes_proposes_sizes_for_a_particle() -> None:
    done = cryobox("boxes", "--diameter", 180, "--pixel-size", 0.85)
    assert done.stdout.startswith("box 320: 1.5 x 180 Å need 318 pixels")


def test_a_dry_run_writes_nothing(dataset: Dataset, tmp_path: Path) -> None:
    done = cryobox(*EXTRACT, "-o", tmp_path / "out", "--dry-run", cwd=dataset.folder)
    assert done.returncode == 0
    assert "nothing was written" in done.stdout
    assert not (tmp_path / "out").exists()


def test_a_missing_micrograph_gives_exit_code_1_and_what_to_do(tmp_path: Path) -> None:
    data = make_dataset(tmp_path, micrographs=2, picks=5)
    data.images[0].unlink()
    done = cryobox(*EXTRACT, "-o", "out", cwd=tmp_path)
    assert done.returncode == 1
    assert "repair what micrographs_incomplete.star lists, then the same command again" in done.stdout
    assert cryobox(*EXTRACT, "-o", "out", "--allow-incomplete", cwd=tmp_path).returncode == 0


def on_a_terminal(*arguments: object, cwd: Path, stop: bool = False) -> tuple[int, str]:
    """Run the command on a pseudo-terminal; returns its exit code and everything it drew."""
    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "40"}
    command = [sys.executable, "-m", "cryobox", *map(str, arguments)]
    process = subprocess.Popen(command, cwd=cwd, stdin=follower, stdout=follower, stderr=follower, env=environment)
    os.close(follower)
    drawn = b""
    while True:
        ready, _, _ = select.select([leader], [], [], 60)
        try:
            piece = os.read(leader, 65536) if ready else b""
        except OSError:  # the other side has closed
            break
        if not piece:
            break
        drawn += piece
        if stop and b"rejected" in drawn:
            process.send_signal(signal.SIGINT)
            stop = False
    os.close(leader)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn.decode("utf-8", "replace"))
    return process.wait(timeout=60), text


@pytest.mark.pty
def test_on_a_terminal_there_is_a_bar_and_a_framed_summary(dataset: Dataset, tmp_path: Path) -> None:
    code, drawn = on_a_terminal(*EXTRACT, "-o", tmp_path / "out", cwd=dataset.folder)
    assert code == 0
    assert "3 of 3 micrographs" in drawn
    assert "━" in drawn
    assert "╭─ complete" in drawn
    assert "particles, " in drawn


@pytest.mark.pty
def test_an_interrupted_run_exits_with_130_and_the_same_command_finishes_it(tmp_path: Path) -> None:
    make_dataset(tmp_path, micrographs=12, shape=(1024, 1024), picks=30)
    code, drawn = on_a_terminal(*EXTRACT, "-o", "out", "--workers", 1, cwd=tmp_path, stop=True)
    assert code in (130, 0)  # 0: it was done before the signal came
    again = cryobox(*EXTRACT, "-o", "out", cwd=tmp_path)
    assert again.returncode == 0
    if code == 130:
        assert "the same command resumes" in drawn


def test_view_writes_a_picture(dataset: Dataset, tmp_path: Path) -> None:
    cryobox(*EXTRACT, "-o", tmp_path / "out", cwd=dataset.folder)
    stack = next((tmp_path / "out" / "stacks").iterdir())
    done = cryobox("view", stack, "--out", tmp_path / "m.png", "-n", 6)
    assert done.returncode == 0
    assert "6 images of" in done.stdout
    with pytest.importorskip("PIL.Image").open(tmp_path / "m.png") as image:
        assert image.size == (4 * 130 - 2, 2 * 130 - 2)  # images of 64 pixels, twice as large


def test_view_draws_in_plain_characters_where_there_is_no_terminal(dataset: Dataset) -> None:
    done = cryobox("view", dataset.images[0])
    assert done.returncode == 0
    assert set(done.stdout) <= set(" .:-=+*#%@\n")


def test_view_of_something_else_is_an_error(dataset: Dataset) -> None:
    done = cryobox("view", dataset.folder)
    assert done.returncode == 2
    assert "is a folder without the job.json of a finished run of cryobox" in done.stderr


def test_coord_dir_is_another_word_for_picks(dataset: Dataset, tmp_path: Path) -> None:
    job = tmp_path / "AutoPick" / "job004"
    job.mkdir(parents=True)
    for image in dataset.images:
        (job / f"{image.stem}_autopick.star").write_text("data_\n\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n300 300\n")
    given = ("-m", "micrographs.star", "--box", 128, "--dry-run", "-o", tmp_path / "out")
    named = cryobox("extract", job, "--coord-suffix", "_autopick.star", *given, cwd=dataset.folder)
    done = cryobox("extract", "--coord-dir", job, "--coord-suffix", "_autopick.star", *given, cwd=dataset.folder)
    assert (done.returncode, done.stdout) == (0, named.stdout)
    assert "3 picks: 3 to extract" in done.stdout
    both = cryobox("extract", job, "--coord-dir", job, *given, cwd=dataset.folder)
    assert both.returncode == 2
    assert "--coord-dir is another word for PICKS; give one of them" in both.stderr
