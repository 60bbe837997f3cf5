"""Any number of stored sizes: each is what a run makes that stores it alone, and all that reads a run knows it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cryobox
from cryobox.cli import main
from cryobox.errors import OptionError
from cryobox.formats.mrc import read_stack_header
from cryobox.job import merge
from cryobox.simulate import Dataset, make_dataset
from cryobox.verification import verify

FAST = cryobox.RunOptions(fsync=False)
RECIPE = cryobox.Recipe(box=96, sizes=(48, 32), also=((40, "float16"), (16, "float32")))
FOLDERS = {"stacks": (48, "float32"), "stacks_40": (40, "float16"), "stacks_small": (32, "float32"),
           "stacks_16": (16, "float32")}  # fmt: skip


@pytest.fixture(params=["relion", "cryosparc"])
def data(tmp_path: Path, request: pytest.FixtureRequest) -> Dataset:
    return make_dataset(tmp_path / "data", micrographs=2, shape=(300, 400), picks=12, style=request.param, shifts=True)


def run(data: Dataset, out: Path, recipe: cryobox.Recipe = RECIPE, options: cryobox.RunOptions = FAST) -> Any:
    return cryobox.run(
        data.picks, micrographs=data.micrographs, out=out, recipe=recipe, options=options, root=data.folder
    )


def digests(folder: Path) -> dict[str, str]:
    """Of all stacks and tables."""
    return {
        path.relative_to(folder).as_posix(): hashlib.blake2b(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and (path.parent.name.startswith("stacks") or path.name.startswith("particles"))
    }


def test_each_size_has_the_bits_of_a_run_that_stores_it_alone(data: Dataset, tmp_path: Path) -> None:
    run(data, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").glob("stacks*")) == sorted(FOLDERS)
    for name, (size, dtype) in FOLDERS.items():
        run(data, tmp_path / name, cryobox.Recipe(box=96, sizes=(size,), dtype=dtype))  # type: ignore[arg-type]
        stacks = sorted((tmp_path / "out" / name).iterdir())
        assert len(stacks) == 2
        for stack in stacks:
            assert stack.read_bytes() == (tmp_path / name / "stacks" / stack.name).read_bytes()


def test_every_size_has_a_table_and_verify_sees_each(data: Dataset, tmp_path: Path) -> None:
    result = run(data, tmp_path / "out")
    names = [path.stem for path in result.tables if path.suffix in (".star", ".cs")]
    assert [name for name in names if name.startswith("particles")] == [
        "particles", "particles_40", "particles_small", "particles_16"]  # fmt: skip
    found = verify(tmp_path / "out", everything=True)
    assert (found.problems, found.images) == ((), 4 * result.extracted)
    for name in FOLDERS:
        stack = min((tmp_path / "out" / name).iterdir())
        whole = stack.read_bytes()
        stack.write_bytes(whole[:-3] + bytes([whole[-3] ^ 64]) + whole[-2:])
        assert any(stack.name in text for text in verify(tmp_path / "out", everything=True).problems), name
        stack.write_bytes(whole)


def test_a_missing_stack_of_any_size_is_made_again_and_shards_make_the_same(data: Dataset, tmp_path: Path) -> None:
    run(data, tmp_path / "out")
    expected = digests(tmp_path / "out")
    for name in FOLDERS:
        sorted((tmp_path / "out" / name).iterdir())[1].unlink()
        assert run(data, tmp_path / "out").resumed == 1
        assert digests(tmp_path / "out") == expected
    for shard in ((1, 2), (2, 2)):
        run(data, tmp_path / "parts", options=cryobox.RunOptions(fsync=False, shard=shard))
    merge(tmp_path / "parts", options=FAST)
    parts = {name: text for name, text in digests(tmp_path / "parts").items() if not name.startswith("shards")}
    stacks = {name: text for name, text in expected.items() if name.startswith("stacks")}
    assert {name: text for name, text in parts.items() if name.startswith("stacks")} == stacks
    assert parts.keys() == expected.keys()


def test_overwriting_with_fewer_sizes_leaves_nothing_of_the_others(data: Dataset, tmp_path: Path) -> None:
    run(data, tmp_path / "out")
    once = cryobox.Recipe(box=96, sizes=(48,))
    run(data, tmp_path / "out", once, cryobox.RunOptions(fsync=False, overwrite=True))
    assert {name.split("/")[0].split(".")[0] for name in digests(tmp_path / "out")} == {"stacks", "particles"}
    assert verify(tmp_path / "out").problems == ()


def test_particles_on_demand_come_in_every_size(data: Dataset, tmp_path: Path) -> None:
    run(data, tmp_path / "out")
    source = cryobox.ParticleSource(data.picks, micrographs=data.micrographs, recipe=RECIPE, root=data.folder)
    images = source.batch(range(len(source)))
    assert [(one.shape[1], one.dtype.name) for one in images] == list(FOLDERS.values())
    for name, stack in zip(FOLDERS, images, strict=True):
        (shape, dtype, offset, _) = read_stack_header(str(min((tmp_path / "out" / name).iterdir())))
        stored = np.fromfile(min((tmp_path / "out" / name).iterdir()), dtype, offset=offset).reshape(shape)
        np.testing.assert_array_equal(stored[0], stack[0])


def test_the_command_line_asks_for_them_and_a_record_repeats_them(
    data: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [str(data.picks), "-m", str(data.micrographs), "--root", str(data.folder), "--no-report", "-q"]
    sizes = ["--box", "96", "--fcrop", "48", "--small", "32", "--also", "40:float16", "--also", "16"]
    with pytest.raises(SystemExit, match="0"):
        main(["extract", *paths, "-o", str(tmp_path / "out"), *sizes])
    run(data, tmp_path / "expected")
    stacks = {name: text for name, text in digests(tmp_path / "expected").items() if name.startswith("stacks")}
    assert {name: text for name, text in digests(tmp_path / "out").items() if name.startswith("stacks")} == stacks
    with pytest.raises(SystemExit, match="0"):
        main(["extract", "--from", str(tmp_path / "out/job.json"), "-o", str(tmp_path / "again"), "--no-report", "-q"])
    assert {name: text for name, text in digests(tmp_path / "again").items() if name.startswith("stacks")} == stacks
    capsys.readouterr()
    with pytest.raises(SystemExit, match="2"):
        main(["extract", *paths, "-o", str(tmp_path / "no"), "--box", "96", "--also", "64:half"])
    assert "the type of a further size must be one of float32, float16; got 'half'" in capsys.readouterr().err


def test_a_third_size_of_a_record_does_not_vanish(data: Dataset, tmp_path: Path) -> None:
    run(data, tmp_path / "out", cryobox.Recipe(box=96, sizes=(64, 48, 32)))
    with pytest.raises(SystemExit, match="0"):
        main(["extract", "--from", str(tmp_path / "out"), "-o", str(tmp_path / "again"), "--no-report", "-q"])
    assert sorted(path.name for path in (tmp_path / "again").glob("stacks*")) == ["stacks", "stacks_32", "stacks_small"]
    with pytest.raises(SystemExit, match="0"):  # nor where another second size is asked for
        main(
            [
                "extract",
                "--from",
                str(tmp_path / "out"),
                "-o",
                str(tmp_path / "two"),
                "--small",
                "40",
                "--no-report",
                "-q",
            ]
        )
    assert [read_stack_header(str(min((tmp_path / "two" / name).iterdir())))[0][1] for name in
            ("stacks", "stacks_small", "stacks_32")] == [64, 40, 32]  # fmt: skip


@pytest.mark.parametrize(
    "given",
    [{"also": ((48, "float32"),)}, {"also": ((64, "float32"),)}, {"also": ((32, "float32"), (32, "float16"))},
     {"also": ((31, "float32"),)}, {"also": ((32, "float64"),)}, {"sizes": (48, 32), "also": ((32, "float16"),)}],
)  # fmt: skip
def test_sizes_that_are_not_all_different_and_below_the_first_are_refused(given: dict[str, Any]) -> None:
    options: dict[str, Any] = {"box": 96, "sizes": (48,)} | given
    with pytest.raises(OptionError, match=r"size"):
        cryobox.Recipe(**options)
