"""`verify` finds nothing in a good run, and names each thing that is wrong in a bad one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

import cryobox
import eventful
from cryobox.cli import main
from cryobox.errors import InputError
from cryobox.folder.records import sealed, unsealed
from cryobox.job import merge, watch
from cryobox.simulate import Dataset, make_dataset
from cryobox.verification import verify

FAST = cryobox.RunOptions(fsync=False)
Style = Literal["relion", "cryosparc"]


def extract(data: Dataset, out: Path, options: cryobox.RunOptions = FAST) -> None:
    recipe = cryobox.Recipe(box=96, sizes=(48, 32))
    cryobox.run(data.picks, micrographs=data.micrographs, out=out, recipe=recipe, options=options, root=data.folder)


def make_run(folder: Path, style: Style = "relion", **recipe: object) -> Path:
    data = make_dataset(folder / "data", micrographs=2, shape=(300, 400), picks=12, style=style, shifts=True)
    values: dict[str, object] = {"box": 96, "sizes": (48, 32)} | recipe
    cryobox.run(
        data.picks,
        micrographs=data.micrographs,
        out=folder / "out",
        recipe=cryobox.Recipe(**values),  # type: ignore[arg-type]
        options=FAST,
        root=data.folder,
    )
    return folder / "out"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("good"))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A run that a test may damage."""
    return make_run(tmp_path)


def first_stack(out: Path) -> Path:
    return min((out / "stacks").iterdir())


def problems(out: Path) -> str:
    return "\n".join(verify(out, everything=True).problems)


@pytest.mark.parametrize("style", ["relion", "cryosparc"])
@pytest.mark.parametrize(
    "recipe",
    [{}, {"dtype": "float16"}, {"edges": "pad", "normalize": False}, {"sizes": (96,), "ramp": False, "invert": False}],
    ids=["cropped", "float16", "padded raw", "uncropped"],
)
def test_a_good_run_has_no_problems(tmp_path: Path, style: Style, recipe: dict[str, object]) -> None:
    found = verify(make_run(tmp_path, style, **recipe), everything=True)
    assert found.problems == ()
    assert found.images == found.rows > 0
    assert found.worst <= 1.0


@pytest.mark.parametrize("style", ["relion", "cryosparc"])
def test_an_eventful_run_has_no_problems_and_its_refused_windows_are_cut_again(tmp_path: Path, style: Style) -> None:
    found = verify(eventful.make_run(tmp_path, style).out, everything=True)
    assert found.problems == ()
    assert found.refused == 2


def test_a_run_with_clamped_pixels_has_no_problems(tmp_path: Path) -> None:
    run = eventful.make_run(tmp_path, "relion", dtype="float16", scale_const=3e-5)
    assert "were clamped" in (run.out / "job.json").read_text()
    assert verify(run.out, everything=True).problems == ()


def test_merged_shards_have_no_problems(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data", micrographs=3, shape=(300, 400), picks=12)
    for index in (1, 2):
        extract(data, tmp_path / "out", options=cryobox.RunOptions(fsync=False, shard=(index, 2)))
    merge(tmp_path / "out", options=FAST)
    assert verify(tmp_path / "out").problems == ()
    ledger = tmp_path / "out" / "ledger.2-of-2.jsonl"
    ledger.write_text(ledger.read_text().replace('"kept": ', '"kept": 1'))
    assert all(f"{ledger}: line " in text for text in verify(tmp_path / "out").problems)


def test_resumed_and_repeated_runs_have_no_problems(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data", micrographs=3, shape=(300, 400), picks=12, style="cryosparc")
    out = tmp_path / "out"
    extract(data, out)
    first_stack(out).unlink()
    extract(data, out)
    assert verify(out).problems == ()
    extract(data, out, options=cryobox.RunOptions(fsync=False, overwrite=True))
    assert verify(out).problems == ()
    extract(data, out)
    assert verify(out).problems == ()


def test_a_run_whose_picks_were_changed_in_between_has_no_problems(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data", micrographs=2, shape=(300, 400), picks=12)
    lines = data.picks.read_text().splitlines(keepends=True)
    extract(data, tmp_path / "out")
    data.picks.write_text("".join(lines[:-3]))
    extract(data, tmp_path / "out")
    assert verify(tmp_path / "out").problems == ()
    data.picks.write_text("".join(lines))
    assert "the ledger has no record" in problems(tmp_path / "out")
    extract(data, tmp_path / "out")
    assert verify(tmp_path / "out").problems == ()


def test_a_watched_run_has_no_problems(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data", micrographs=2, shape=(300, 400), picks=12)
    watch(
        data.picks, micrographs=data.micrographs, out=tmp_path / "out", recipe=cryobox.Recipe(box=96),
        every=0.01, idle_timeout=0.02, settle=0.0, options=FAST, root=data.folder,
    )  # fmt: skip
    assert verify(tmp_path / "out").problems == ()


@pytest.mark.parametrize("style", ["relion", "cryosparc"])
@pytest.mark.parametrize("out", ["out", "../elsewhere/out"])
def test_a_run_on_relative_paths_has_no_problems_wherever_it_is_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, style: Style, out: str
) -> None:
    data = make_dataset(tmp_path / "data", micrographs=2, shape=(300, 400), picks=12, style=style)
    monkeypatch.chdir(data.folder)
    recipe = cryobox.Recipe(box=96, sizes=(48, 32))
    cryobox.run(data.picks.name, micrographs=data.micrographs.name, out=out, recipe=recipe, options=FAST)
    folder = Path(out).resolve()
    monkeypatch.chdir(tmp_path)
    assert verify(folder).problems == ()


def test_records_without_digests_are_told_of_once_for_each_file(tmp_path: Path) -> None:
    out = make_run(tmp_path)
    ledger = out / "ledger.jsonl"
    lines = [unsealed(json.loads(line)) for line in ledger.read_text().splitlines()]
    ledger.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (out / "job.json").write_text(json.dumps(unsealed(json.loads((out / "job.json").read_text()))))
    found = verify(out).problems
    assert len(found) == 2
    assert found[0].startswith(f"{out / 'job.json'}: has no digest (written before there was one?)")
    assert found[1].startswith(f"{ledger}: {len(lines)} lines have no digest (written before there were any?)")


@pytest.mark.parametrize("number", ["bits", "records"])
def test_a_run_of_another_kind_is_told_as_that_and_nothing_else(out: Path, number: str) -> None:
    other = {"cryobox": "0.0.9", number: 0}
    record = json.loads((out / "job.json").read_text()) | other
    (out / "job.json").write_text(json.dumps(sealed(record)))
    lines = (out / "ledger.jsonl").read_text().splitlines()
    lines[0] = json.dumps(sealed(json.loads(lines[0]) | other))
    (out / "ledger.jsonl").write_text("\n".join([*lines, ""]))
    (problem,) = verify(out).problems
    assert problem.startswith(f"{out / 'job.json'}: was written by cryobox 0.0.9, this is {cryobox.__version__}")


def test_a_run_that_an_older_version_began_is_gone_on_with_and_has_no_problems(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data", micrographs=3, shape=(300, 400), picks=12)
    out = tmp_path / "out"
    extract(data, out)
    ledger = out / "ledger.jsonl"
    lines = ledger.read_text().splitlines()
    lines[0] = json.dumps(sealed(json.loads(lines[0]) | {"cryobox": "0.0.9"}))
    ledger.write_text("\n".join([*lines, ""]))
    stack = first_stack(out)
    for path in out.glob("stacks*/*"):  # the label in a stack's header says who wrote it
        raw = bytearray(path.read_bytes())
        raw[224:304] = b"cryobox 0.0.9".ljust(80, b"\0")
        path.write_bytes(raw)
    stack.unlink()
    before = {path: path.stat().st_mtime_ns for path in out.glob("stacks*/*") if path.name != stack.name}
    extract(data, out)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert verify(out).problems == ()
    assert json.loads((out / "job.json").read_text())["cryobox"] == cryobox.__version__


def test_the_sample_is_seeded_and_as_large_as_asked(good: Path) -> None:
    found = verify(good, sample=3)
    assert found.images == 6
    assert found.problems == ()


def test_a_flipped_byte_in_a_stack_names_stack_and_image(out: Path) -> None:
    stack = sorted((out / "stacks").iterdir())[1]
    data = bytearray(stack.read_bytes())
    data[1024 + 2 * 48 * 48 * 4 + 4 * 1000 + 3] ^= 0x40
    stack.write_bytes(data)
    assert f"{stack.name}: image 3 (particles.star row" in problems(out)


def test_swapped_rows_name_table_and_rows(out: Path) -> None:
    table = out / "particles.star"
    lines = table.read_text().splitlines(keepends=True)
    rows = [number for number, line in enumerate(lines) if "@" in line]
    lines[rows[1]], lines[rows[4]] = lines[rows[4]], lines[rows[1]]
    table.write_text("".join(lines))
    found = problems(out)
    assert "particles.star: row 2: image is number 5, expected 2" in found
    assert "particles.star: row 5: image is number 2, expected 5" in found


def test_swapped_images_are_not_the_particles_that_the_rows_say(out: Path) -> None:
    stack = min((out / "stacks_small").iterdir())
    data = bytearray(stack.read_bytes())
    images = np.frombuffer(data, dtype="<f4", offset=1024).reshape(-1, 32, 32)
    images[[0, 1]] = images[[1, 0]]
    stack.write_bytes(data)
    found = problems(out)
    assert f"{stack.name}: image 1 (particles_small.star row" in found
    assert f"{stack.name}: image 2 (particles_small.star row" in found


def test_a_stale_stack_from_other_options_is_found(out: Path, tmp_path: Path) -> None:
    other = make_run(tmp_path / "other", ramp=False)
    name = first_stack(out).name
    shutil.copyfile(other / "stacks" / name, out / "stacks" / name)
    assert f"{name}: image 1 (particles.star row 1) is not the particle" in problems(out)


def test_a_truncated_stack_is_named_with_both_sizes(out: Path) -> None:
    stack = first_stack(out)
    size = stack.stat().st_size
    with open(stack, "r+b") as file:
        file.truncate(size - 100)
    found = problems(out)
    assert stack.name in found
    assert f"({size - 1024} bytes), file holds {size - 1124}" in found


def test_a_missing_stack_and_a_stranger_are_named(out: Path) -> None:
    stack = first_stack(out)
    stack.rename(stack.with_name("other.mrcs"))
    found = problems(out)
    assert f"{stack}: " in found
    assert "other.mrcs: belongs to no micrograph of this run" in found


def test_a_wrong_pixel_size_in_a_header_is_named(out: Path) -> None:
    stack = first_stack(out)
    data = bytearray(stack.read_bytes())
    data[40:44] = np.float32(999.0).tobytes()
    stack.write_bytes(data)
    assert f"{stack.name}: header says" in problems(out)


def test_a_lost_row_is_counted(out: Path) -> None:
    table = out / "particles.star"
    lines = table.read_text().splitlines(keepends=True)
    del lines[next(number for number, line in enumerate(lines) if "@" in line)]
    table.write_text("".join(lines))
    assert "particles.star: has" in problems(out)


def test_a_lost_rejected_table_is_named(out: Path) -> None:
    (out / "rejected.star").unlink()
    assert "rejected.star: is not there" in problems(out)


def test_a_ledger_that_lacks_a_micrograph_is_named(out: Path) -> None:
    ledger = out / "ledger.jsonl"
    ledger.write_text("".join(ledger.read_text().splitlines(keepends=True)[:-1]))
    assert "the ledger has no record of this micrograph" in problems(out)


def test_other_counts_in_the_record_are_named(out: Path) -> None:
    record = json.loads((out / "job.json").read_text())
    (out / "job.json").write_text(json.dumps(record | {"extracted": record["extracted"] + 1}))
    assert f"job.json: extracted is {record['extracted'] + 1}, expected {record['extracted']}" in problems(out)


def test_a_changed_micrograph_is_named(tmp_path: Path) -> None:
    out = make_run(tmp_path)
    micrograph = min((tmp_path / "data" / "micrographs").iterdir())
    data = bytearray(micrograph.read_bytes())
    data[-4:] = b"\0\0\0\0"
    micrograph.write_bytes(data)
    assert f"{micrograph}: the ledger has no record" in problems(out)


def test_an_unfinished_run_is_refused(out: Path) -> None:
    (out / "job.json").unlink()
    with pytest.raises(InputError, match=r"job.json: is not there; is the run finished"):
        verify(out)


def test_the_command_exits_with_1_on_any_difference_and_0_on_none(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as fine:
        main(["verify", str(out), "--sample", "5"])
    assert fine.value.code == 0
    (out / "rejected.star").unlink()
    with pytest.raises(SystemExit) as wrong:
        main(["verify", str(out), "--sample", "5"])
    assert wrong.value.code == 1
    assert "rejected.star" in capsys.readouterr().err


@pytest.mark.parametrize("normalize", [True, False])
def test_a_run_over_gray_levels_at_the_ends_of_float32_is_right(tmp_path: Path, normalize: bool) -> None:
    data = make_dataset(tmp_path / "data", micrographs=2, shape=(300, 400), picks=12)
    for path, scale in zip(data.images, (1e36, 1e-41), strict=True):
        content = path.read_bytes()
        pixels = np.frombuffer(content, "<f4", offset=1024).astype(np.float64)
        path.write_bytes(content[:1024] + (pixels / np.abs(pixels).max() * scale).astype("<f4").tobytes())
    recipe = cryobox.Recipe(box=96, sizes=(96, 32), normalize=normalize)
    out = tmp_path / "out"
    done = cryobox.run(data.picks, micrographs=data.micrographs, out=out, recipe=recipe, options=FAST, root=data.folder)
    assert set(done.rejected) <= {"box over the edge"}
    found = verify(out, everything=True)
    assert found.problems == ()
    assert found.images == 2 * done.extracted > 0
