"""Stacks of several micrographs: the same images, in fewer files, through failures, limits, shards and resumes."""

from __future__ import annotations

import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest
from numpy.typing import NDArray

import cryobox
from cryobox.compaction import compact, restore
from cryobox.errors import OptionError, OutputError
from cryobox.folder.parts import ledger_path
from cryobox.formats import mrc, read_particles
from cryobox.formats.references import image_references
from cryobox.given import Given
from cryobox.inputs import prepare
from cryobox.job import merge, watch
from cryobox.plan import groups_of
from cryobox.simulate import Dataset, make_dataset
from cryobox.trace import history
from cryobox.verification import verify

FAST = cryobox.RunOptions(fsync=False)
MICROGRAPHS = 7


@pytest.fixture(params=["relion", "cryosparc"])
def data(tmp_path: Path, request: pytest.FixtureRequest) -> Dataset:
    return made(tmp_path, request.param)


@pytest.fixture
def star(tmp_path: Path) -> Dataset:
    return made(tmp_path, "relion")


def made(tmp_path: Path, style: Any) -> Dataset:
    return make_dataset(
        tmp_path / "data", micrographs=MICROGRAPHS, shape=(500, 600), picks=30, style=style, shifts=True
    )


def extract(
    data: Dataset, out: Path, options: cryobox.RunOptions = FAST, *, executor: Any = None, **more: Any
) -> cryobox.RunResult:
    asked: dict[str, Any] = {"box": 96, "sizes": (48, 32), "also": ((24, "float16"),)} | more
    return cryobox.run(
        data.picks,
        micrographs=data.micrographs,
        out=out,
        recipe=cryobox.Recipe(**asked),
        options=options,
        root=data.folder,
        executor=executor,
    )


def stacks(out: Path) -> dict[str, NDArray[Any]]:
    """The images of each stack of the largest size."""
    return {path.name: np.array(mrcfile.read(path), ndmin=3) for path in sorted((out / "stacks").iterdir())}


def images(data: Dataset, out: Path, table: str = "particles") -> NDArray[Any]:
    """The images of all sizes' table, row by row, found as another program finds them."""
    (path,) = [path for path in out.glob(f"{table}.*") if path.suffix in (".star", ".cs")]
    particles = read_particles(path, recipe=cryobox.Recipe(box=96))
    references = image_references(particles)
    found, opened = [], dict[str, NDArray[Any]]()
    for name, slot in zip(references.stack, references.slot.tolist(), strict=True):
        where = out / name[1:] if name.startswith(">") else Path(data.folder) / name
        if name not in opened:
            opened[name] = np.array(mrcfile.read(where), ndmin=3)
        found.append(opened[name][slot])
    return np.array(found)


def everything(out: Path) -> dict[str, bytes]:
    found = [*out.glob("*.star"), *out.glob("*.cs*"), *out.glob("stacks*/*")]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in found}


def without_labels(files: dict[str, bytes]) -> dict[str, bytes]:
    """The label of a stack names the time at which it was made."""
    return {name: data[:224] + data[1024:] if name.startswith("stacks") else data for name, data in files.items()}


def test_merged_stacks_hold_the_same_images_in_the_same_order(data: Dataset, tmp_path: Path) -> None:
    alone = Path(data.folder) / "alone"
    merged = Path(data.folder) / "merged"
    extract(data, alone)
    result = extract(data, merged, particles_per_stack=40)
    assert len(stacks(alone)) == MICROGRAPHS
    assert 1 < len(stacks(merged)) < MICROGRAPHS
    for table in ("particles", "particles_small", "particles_24"):
        np.testing.assert_array_equal(images(data, merged, table), images(data, alone, table))
    before = np.concatenate(list(stacks(alone).values()))
    np.testing.assert_array_equal(np.concatenate(list(stacks(merged).values())), before)
    assert verify(merged, everything=True).problems == ()
    written = sum(path.stat().st_size for folder in merged.glob("stacks*") for path in folder.iterdir())
    assert result.bytes_written == written


def test_whole_micrographs_go_together_up_to_the_number_that_was_asked_for(star: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "out"
    extract(star, out)
    counts = [len(one) for one in stacks(out).values()]
    assert min(counts) > 5
    for most in (1, counts[0], counts[0] + counts[1], 10_000):
        merged = tmp_path / f"merged{most}"
        extract(star, merged, particles_per_stack=most)
        expected: list[int] = []
        for count in counts:
            if expected and expected[-1] + count <= most:
                expected[-1] += count
            else:
                expected.append(count)
        found = stacks(merged)
        assert [len(one) for one in found.values()] == expected
        assert list(found) == [f"particles_{number:06d}.mrcs" for number in range(1, len(expected) + 1)]


def test_a_larger_limit_begins_a_new_stack_and_leaves_the_others_alone(data: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "out"
    steps = [2, 3, 5, None]
    made: dict[str, tuple[int, int]] = {}
    for limit in steps:
        extract(data, out, particles_per_stack=10_000, limit=limit)
        now = {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in (out / "stacks").iterdir()}
        assert len(now) == len(made) + 1
        assert made.items() <= now.items()
        made = now
        assert extract(data, out, particles_per_stack=10_000, limit=limit).bytes_written == 0
        assert verify(out).problems == ()
    assert len(images(data, out) if data.picks.suffix == ".cs" else stacks(out)) > 0
    with pytest.raises(OutputError, match="limit = None, now it is 4"):
        extract(data, out, particles_per_stack=10_000, limit=4)
    with pytest.raises(OutputError, match="particles_per_stack = 10000, now it is 50"):
        extract(data, out, particles_per_stack=50)
    extract(data, out, cryobox.RunOptions(fsync=False, overwrite=True), particles_per_stack=10_000)
    assert len(stacks(out)) == 1


def test_a_micrograph_that_fails_is_missing_until_it_works(data: Dataset, tmp_path: Path) -> None:
    whole = Path(data.folder) / "whole"
    extract(data, whole, particles_per_stack=60)
    out = Path(data.folder) / "out"
    second = Path(sorted(data.images)[1])
    original = mrc.read_pixels_into

    def damaged(image: Any, path: str, *arguments: Any, **options: Any) -> Any:
        if path.endswith(second.name):
            raise cryobox.MicrographError(f"{path}: pixels cannot be read")
        return original(image, path, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mrc, "read_pixels_into", damaged)
        result = extract(data, out, particles_per_stack=60)
        assert (result.exit_code, len(result.incomplete)) == (1, 1)
        assert verify(out).problems == ()
        missing = len(images(data, whole)) - len(images(data, out))
        assert missing > 0
        again = extract(data, out, particles_per_stack=60)
        assert again.resumed == MICROGRAPHS - len(of_stack_with(data, second.name))
    result = extract(data, out, particles_per_stack=60)
    assert (result.exit_code, result.incomplete) == (0, {})
    assert everything(out).keys() == everything(whole).keys()
    np.testing.assert_array_equal(images(data, out), images(data, whole))
    assert verify(out, everything=True).problems == ()


def of_stack_with(data: Dataset, name: str) -> list[str]:
    """Micrographs that share a stack with this one."""
    recipe = cryobox.Recipe(box=96, sizes=(48, 32), also=((24, "float16"),), particles_per_stack=60)
    plan = prepare(Given.of(data.picks, data.micrographs, data.folder), recipe=recipe).plan
    (group,) = [group for group in groups_of(plan.tasks) if any(task.path.endswith(name) for task in group)]
    return [task.micrograph for task in group]


def test_a_run_that_is_stopped_goes_on_to_the_same_bytes(data: Dataset, tmp_path: Path) -> None:
    extract(data, tmp_path / "whole", particles_per_stack=45)
    stop = threading.Event()
    asked = cryobox.Recipe(box=96, sizes=(48, 32), also=((24, "float16"),), particles_per_stack=45)
    common: dict[str, Any] = {"micrographs": data.micrographs, "recipe": asked, "root": data.folder}
    options = cryobox.RunOptions(fsync=False, workers=1)
    result = cryobox.run(
        data.picks,
        out=tmp_path / "out",
        options=options,
        stop=stop,
        on_progress=lambda progress: stop.set() if progress.micrographs else None,
        **common,
    )
    assert result.interrupted
    assert 0 < result.micrographs
    result = cryobox.run(data.picks, out=tmp_path / "out", options=options, **common)
    assert result.exit_code == 0
    assert result.resumed > 0
    before, after = (without_labels(everything(tmp_path / name)) for name in ("whole", "out"))
    assert before.keys() == after.keys()
    assert [name for name in before if name.startswith("stacks") and before[name] != after[name]] == []


def test_a_record_that_is_torn_in_the_middle_of_a_stack_makes_all_of_it_again(star: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "out"
    extract(star, out, particles_per_stack=10_000)
    expected = without_labels(everything(out))
    ledger = ledger_path(out, "")
    lines = ledger.read_bytes().splitlines(keepends=True)
    results = [number for number, line in enumerate(lines) if b'"kept"' in line]
    assert len(results) == MICROGRAPHS
    ledger.write_bytes(b"".join(lines[: results[3]]))
    result = extract(star, out, particles_per_stack=10_000)
    assert (result.exit_code, result.resumed) == (0, 0)
    assert without_labels(everything(out)) == expected


def test_shards_share_stacks_and_merge_to_the_whole(data: Dataset, tmp_path: Path) -> None:
    extract(data, tmp_path / "whole", particles_per_stack=45)
    for index in (1, 2, 3):
        extract(data, tmp_path / "out", cryobox.RunOptions(fsync=False, shard=(index, 3)), particles_per_stack=45)
    assert merge(tmp_path / "out", options=FAST).exit_code == 0
    before, after = (without_labels(everything(tmp_path / name)) for name in ("whole", "out"))
    assert before.keys() == after.keys()
    assert [name for name in before if name.startswith("stacks") and before[name] != after[name]] == []
    assert verify(tmp_path / "out", everything=True).problems == ()


@pytest.mark.semaphores
def test_other_processes_make_the_same_stacks(star: Dataset, tmp_path: Path) -> None:
    extract(star, tmp_path / "whole", particles_per_stack=45)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        extract(star, tmp_path / "out", particles_per_stack=45, executor=pool)
    before, after = (without_labels(everything(tmp_path / name)) for name in ("whole", "out"))
    assert before.keys() == after.keys()
    assert [name for name in before if name.startswith("stacks") and before[name] != after[name]] == []


def test_merged_stacks_are_removed_and_restored_whole(star: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "out"
    extract(star, out, particles_per_stack=45)
    before = everything(out)
    count = sum(name.startswith("stacks") for name in before)
    assert compact(out).stacks == count
    assert restore(out, options=FAST).stacks == count
    assert everything(out) == before
    (out / "stacks" / "particles_000002.mrcs").unlink()
    result = extract(star, out, particles_per_stack=45)
    assert result.exit_code == 0
    assert without_labels(everything(out)) == without_labels(before)


def test_the_history_of_a_particle_names_its_merged_stack(star: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "out"
    extract(star, out, particles_per_stack=10_000)
    count = len(next(iter(stacks(out).values())))
    told = str(history(f"{count}@{out / 'stacks' / 'particles_000001.mrcs'}", [out]))
    assert "particles_000001.mrcs" in told


def test_a_live_session_makes_no_merged_stacks(star: Dataset, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="leave out --particles-per-stack"):
        watch(
            star.picks,
            micrographs=star.micrographs,
            out=tmp_path / "out",
            recipe=cryobox.Recipe(box=96, particles_per_stack=10),
            root=star.folder,
        )


@pytest.mark.parametrize("number", [0, -3, 1.5, True])
def test_a_number_that_is_none_is_refused(number: Any) -> None:
    with pytest.raises(OptionError, match="particles_per_stack"):
        cryobox.Recipe(box=96, particles_per_stack=number)
