"""`compact` and `restore`: the same bytes again, nothing lost on the way, and a word about every input that changed."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import cryobox
from cryobox.compaction import compact, restore
from cryobox.errors import AbortedError, InputError, OutputError
from cryobox.folder.run import read_run
from cryobox.job import merge, run
from cryobox.reporting import write_report
from cryobox.verification import verify
from reliability.faults import KILL, Fault, Server, why_not
from reliability.scene import Scene, contents, make_scene

RECIPE = cryobox.Recipe(box=40, sizes=(36, 32))
FAST = cryobox.RunOptions(fsync=False)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return make_scene(tmp_path / "data", 4)


def extract(scene: Scene, out: Path, **more: Any) -> cryobox.RunResult:
    given: dict[str, Any] = {
        "micrographs": "micrographs.star",
        "recipe": RECIPE,
        "options": FAST,
        "directory": scene.folder,
    } | more
    return run("picks.star", out=out, **given)


def stacks(out: Path) -> list[str]:
    return sorted(path.relative_to(out).as_posix() for path in out.glob("stacks*/*"))


def test_restored_stacks_are_those_that_were_removed(scene: Scene, tmp_path: Path) -> None:
    out = tmp_path / "out"
    extract(scene, out)
    before = contents(out)
    removed = compact(out)
    assert (removed.stacks, removed.kept) == (8, 0)
    assert stacks(out) == []
    assert set(contents(out)) == {name for name in before if not name.startswith("stacks")}
    assert restore(out, options=FAST).stacks == 8
    assert contents(out) == before
    assert not verify(out).problems


@pytest.mark.parametrize("merged", [None, 6])
def test_a_larger_limit_that_is_refused_leaves_the_way_back_open(
    scene: Scene, tmp_path: Path, merged: int | None
) -> None:
    out = tmp_path / "out"
    recipe = replace(RECIPE, limit=2, particles_per_stack=merged)
    extract(scene, out, recipe=recipe)
    before = contents(out)
    compact(out)
    with pytest.raises(OutputError, match="were removed by cryobox compact; `cryobox restore` cuts them again"):
        extract(scene, out, recipe=replace(recipe, limit=None))
    restore(out, options=FAST)
    assert contents(out) == before
    extract(scene, out, recipe=replace(recipe, limit=None))
    assert not verify(out).problems


@pytest.mark.parametrize("style", ["relion", "cryosparc"])
def test_stacks_of_a_table_are_kept(style: Any, tmp_path: Path) -> None:
    from cryobox.simulate import make_dataset

    data = make_dataset(tmp_path / "data", micrographs=3, shape=(300, 400), picks=8, style=style)
    out = tmp_path / "out"
    recipe = cryobox.Recipe(box=64, sizes=(32, 16))
    run(data.picks, micrographs=data.micrographs, root=data.folder, out=out, recipe=recipe, options=FAST)
    table = next(out.glob("particles_small.[sc]*"))
    done = compact(out, keep=table)
    assert (done.stacks, done.kept) == (3, 3)
    assert {name.split("/")[0] for name in stacks(out)} == {"stacks_small"}
    assert restore(out, options=FAST).stacks == 3


def test_a_table_of_another_run_keeps_nothing_and_is_refused(scene: Scene, tmp_path: Path) -> None:
    for name in ("out", "other"):
        extract(scene, tmp_path / name)
    with pytest.raises(InputError, match=r"other/particles.star: names no stack in .*out"):
        compact(tmp_path / "out", keep=tmp_path / "other" / "particles.star")
    assert len(stacks(tmp_path / "out")) == 8


def test_extract_on_a_compacted_folder_names_restore(scene: Scene, tmp_path: Path) -> None:
    out = tmp_path / "out"
    extract(scene, out)
    compact(out)
    before = contents(out)
    with pytest.raises(OutputError, match=r"out: 8 of its stacks were removed by cryobox compact; `cryobox restore`"):
        extract(scene, out)
    assert contents(out) == before
    anew = extract(scene, out, options=cryobox.RunOptions(fsync=False, overwrite=True))
    assert anew.extracted > 0
    assert len(stacks(out)) == 8
    assert not read_run(out).removed


def test_verify_and_report_know_what_was_removed(scene: Scene, tmp_path: Path) -> None:
    out = tmp_path / "out"
    extract(scene, out)
    compact(out)
    found = verify(out)
    assert (found.problems, found.removed, found.images) == ((), 8, 0)
    assert "8 stacks were removed by cryobox compact" in write_report(out).read_text()
    (out / "particles.star").write_text((out / "particles.star").read_text().replace("opticsGroup1", "another"))
    assert verify(out).problems


def test_a_merged_run_is_compacted_and_restored(scene: Scene, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for index in (1, 2):
        extract(scene, out, options=cryobox.RunOptions(fsync=False, shard=(index, 2)))
    with pytest.raises(InputError, match=r"job.json: does not say that the run is complete"):
        compact(out)
    merge(out, options=FAST)
    before = contents(out)
    compact(out)
    restore(out, options=FAST)
    assert contents(out) == before


def change_micrograph(scene: Scene) -> None:
    os.utime(scene.folder / scene.names[1], (1, 1))


def change_picks(scene: Scene) -> None:
    scene.picks(seed=9)


def lose_table(scene: Scene) -> None:
    (scene.folder / "micrographs.star").unlink()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (change_micrograph, r"m0001.mrc: has .* expected .*; bring that file back"),
        (change_picks, r"picks.star: has another content than that run read .*; bring that file back"),
        (lose_table, r"micrographs.star: no such file"),
    ],
)
def test_an_input_that_changed_is_named_and_nothing_is_done(
    scene: Scene, tmp_path: Path, change: Any, message: str
) -> None:
    out = tmp_path / "out"
    extract(scene, out)
    whole = contents(out)
    compact(out)
    compacted = contents(out)
    extract(scene, tmp_path / "whole")
    change(scene)
    with pytest.raises(InputError, match=message):
        restore(out, options=FAST)
    assert contents(out) == compacted
    with pytest.raises(InputError, match=message):
        compact(tmp_path / "whole")
    assert len(stacks(tmp_path / "whole")) == len([name for name in whole if name.startswith("stacks")])


def test_compact_refuses_what_is_not_as_it_was_recorded(scene: Scene, tmp_path: Path) -> None:
    out = tmp_path / "out"
    extract(scene, out)
    with open(out / stacks(out)[0], "ab") as file:
        file.write(b"more")
    with pytest.raises(OutputError, match=r"m0000_particles.mrcs: has \d+ bytes, expected \d+ bytes"):
        compact(out)
    assert len(stacks(out)) == 8


def test_a_stack_that_comes_out_otherwise_is_not_taken_for_the_one_that_was_removed(
    scene: Scene, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    extract(scene, out)
    compact(out)
    ledger = out / "ledger.jsonl"
    micrograph = scene.folder / scene.names[2]
    status = micrograph.stat()
    data = bytearray(micrograph.read_bytes())
    data[1024 + 4 * 96 * 40 : 1024 + 4 * 96 * 60] = data[1024 : 1024 + 4 * 96 * 20]
    micrograph.write_bytes(data)
    os.utime(micrograph, ns=(status.st_atime_ns, status.st_mtime_ns))  # as a disk that rots
    with pytest.raises(AbortedError, match=r"m0002_particles.mrcs: came out otherwise than it was removed"):
        restore(out, options=cryobox.RunOptions(fsync=False, workers=1))
    assert not any("m0002" in name and name.startswith("stacks/") for name in stacks(out))
    assert ledger.exists()
    with pytest.raises(OutputError, match="were removed by cryobox compact"):
        extract(scene, out)


def test_a_damaged_stack_is_not_taken_for_the_one_that_was_written(scene: Scene, tmp_path: Path) -> None:
    out = tmp_path / "out"
    extract(scene, out)
    stack = out / stacks(out)[0]
    data = bytearray(stack.read_bytes())
    data[2000:2400] = bytes(400)
    stack.write_bytes(data)
    with pytest.raises(OutputError, match=r"m0000_particles.mrcs: .*nothing was removed"):
        compact(out)
    assert len(stacks(out)) == 8


def test_a_restore_that_was_killed_before_it_compared_is_made_good(scene: Scene, tmp_path: Path) -> None:
    out = tmp_path / "out"
    extract(scene, out)
    before = contents(out)
    kept = {name: (out / name).read_bytes() for name in stacks(out)}
    compact(out)
    first, second = list(kept)[:2]
    (out / first).write_bytes(kept[first][:224] + b"cryobox 9.9.9".ljust(80, b"\0") + kept[first][304:])
    (out / second).write_bytes(kept[second][:-8] + bytes(8))
    assert restore(out, options=FAST).kept == 0
    assert contents(out) == before
    assert not read_run(out).removed


def test_stacks_through_links_are_kept_as_well(scene: Scene, tmp_path: Path) -> None:
    out = tmp_path / "out"
    extract(scene, out)
    (tmp_path / "bulk").mkdir()
    for name in stacks(out):
        if name.startswith("stacks/"):
            (out / name).rename(tmp_path / "bulk" / Path(name).name)
            (out / name).symlink_to(tmp_path / "bulk" / Path(name).name)
    assert compact(out, keep=out / "particles.star").kept == 4
    assert {name.split("/")[0] for name in stacks(out)} == {"stacks"}


def test_merge_of_compacted_shards_names_restore(scene: Scene, tmp_path: Path) -> None:
    extract(scene, tmp_path / "out", options=cryobox.RunOptions(fsync=False, shard=(1, 1)))
    merge(tmp_path / "out", options=FAST)
    compact(tmp_path / "out")
    with pytest.raises(OutputError, match="`cryobox restore` cuts them again"):
        merge(tmp_path / "out", options=FAST)
    with pytest.raises(InputError, match="is no folder"):
        compact(tmp_path / "nothing")


def test_stacks_of_another_version_get_their_label_again(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    monkeypatch.setattr("cryobox.formats.mrc_stack.__version__", "0.0.9")
    monkeypatch.setattr("cryobox.beginning.__version__", "0.0.9")
    extract(scene, out)
    before = contents(out)
    compact(out)
    monkeypatch.undo()
    restore(out, options=FAST)
    assert contents(out) == before
    assert not verify(out).problems


@pytest.mark.skipif(bool(why_not()), reason=why_not() or "-")
def test_kills_after_any_call_lose_nothing_and_the_same_command_goes_on(tmp_path: Path) -> None:
    scene, out = make_scene(tmp_path / "data"), tmp_path / "out"
    with Server(tmp_path) as server:

        def cryobox_run(*words: str, fault: Fault = Fault()) -> Any:  # noqa: B008
            return server.run(list(words), scene.folder, watched=out, fault=fault)

        assert cryobox_run(*scene.command(out, "--no-report")).code == 0
        whole = contents(out)
        for command, every in (("compact", 3), ("restore", 4)):
            words = [command, str(out)] if command == "compact" else [command, str(out), "--workers", "1", "-q"]
            other = ["restore", str(out), "-q"] if command == "compact" else ["compact", str(out)]
            if command == "restore":
                cryobox_run(*other)
            calls = len(cryobox_run(*words).calls)
            for at in range(1, calls + 1, every):
                cryobox_run(*other)
                cryobox_run(*words, fault=Fault(at, KILL))
                found = {name: digest for name, digest in contents(out).items() if ".tmp" not in name}
                assert all(whole[name] == digest for name, digest in found.items()), f"{command}, call {at}"
                assert {name for name in whole if not name.startswith("stacks")} <= set(found)
                assert cryobox_run(*words).code == 0
                assert cryobox_run("restore", str(out), "-q").code == 0
                assert contents(out) == whole, f"{command}, call {at}"
