"""One folder, one truth: whole runs and shards in one folder, with inputs that change, leave no row of another image.

Of each kind 17 starts at random moments are tried, or as many as CRYOBOX_TEST_STARTS says (`make crash-test`: 50).
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest

import cryobox
import star_tables
from cryobox.errors import InputError, LockError, OptionError, OutputError
from cryobox.job import merge, watch
from cryobox.verification import verify
from reliability.scene import Scene, contents, make_scene

STARTS = int(os.environ.get("CRYOBOX_TEST_STARTS", "17"))
RECIPE = cryobox.Recipe(box=32)
Images = dict[tuple[str, int, int], bytes]


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    """Four micrographs; the working directory is theirs."""
    monkeypatch.chdir(tmp_path)
    return make_scene(tmp_path, micrographs=4, picks=6)


def extract(
    scene: Scene,
    shard: tuple[int, int] | None = None,
    *,
    out: str = "out",
    overwrite: bool = False,
    recipe: cryobox.Recipe = RECIPE,
) -> cryobox.RunResult:
    options = cryobox.RunOptions(workers=1, fsync=False, shard=shard, overwrite=overwrite)
    return cryobox.run(
        "picks.star", micrographs="micrographs.star", out=scene.folder / out, recipe=recipe, options=options
    )


def tables(out: Path) -> list[Path]:
    return sorted([*out.glob("particles.star"), *out.glob("shards/*/particles.star")])


def rows(table: Path, folder: Path) -> Images:
    """The stored image of every row."""
    found: Images = {}
    stacks: dict[str, np.ndarray] = {}
    columns = star_tables.columns(table)
    names = (columns[f"_rln{tag}"] for tag in ("MicrographName", "CoordinateX", "CoordinateY", "ImageName"))
    for name, x, y, image in zip(*names, strict=True):
        number, _, stack = image.partition("@")
        if stack not in stacks:
            stacks[stack] = mrcfile.read(folder / stack)
        found[name, int(float(x)), int(float(y))] = stacks[stack][int(number) - 1].tobytes()
    return found


def truth(scene: Scene, *seeds: int, count: int = 6) -> list[Images]:
    """What undisturbed runs on picks of these seeds make."""
    found = []
    for seed in seeds:
        scene.picks(seed=seed, count=count)
        assert extract(scene, out=f"alone{seed}").exit_code == 0
        found.append(rows(scene.folder / f"alone{seed}" / "particles.star", scene.folder))
    assert len(seeds) == 1 or found[0] != found[1]
    return found


def part(images: Images, table: Images) -> bool:
    """Whether every row of a table is one of these, with its image."""
    return bool(table) and all(images.get(key) == image for key, image in table.items())


# Whole runs and shards, one after the other ---------------------------------------------------------------------------


def test_a_whole_run_is_refused_where_shards_are_and_the_other_way_round(scene: Scene) -> None:
    extract(scene, (1, 2))
    before = contents(scene.folder / "out")
    with pytest.raises(OutputError, match="holds shard 1 of 2, this is a whole run; .*--overwrite"):
        extract(scene)
    assert contents(scene.folder / "out") == before
    extract(scene, out="whole")
    before = contents(scene.folder / "whole")
    with pytest.raises(OutputError, match="holds a whole run, this is shard 2 of 2; .*--overwrite"):
        extract(scene, (2, 2), out="whole")
    assert contents(scene.folder / "whole") == before


@pytest.mark.parametrize("merged", [False, True])
def test_a_whole_run_takes_over_from_shards_and_leaves_nothing_of_them(scene: Scene, merged: bool) -> None:
    first, second = truth(scene, 1, 2)
    out = scene.folder / "out"
    scene.picks(seed=1, count=6)
    for index in (1, 2):
        extract(scene, (index, 2))
    if merged:
        merge(out)
    assert all(part(first, rows(table, scene.folder)) for table in tables(out))
    scene.picks(seed=2, count=6)
    with pytest.raises(OutputError, match="holds shard 1 of 2"):
        extract(scene)
    assert extract(scene, overwrite=True).exit_code == 0
    assert tables(out) == [out / "particles.star"]
    assert rows(out / "particles.star", scene.folder) == second
    assert sorted(path.name for path in out.glob("ledger*")) == ["ledger.jsonl"]
    again = extract(scene)  # no dead end
    assert again.resumed == again.micrographs


def test_shards_take_over_from_a_whole_run_and_each_keeps_what_the_others_made(scene: Scene) -> None:
    first, second = truth(scene, 1, 2)
    out = scene.folder / "out"
    scene.picks(seed=1, count=6)
    extract(scene)
    scene.picks(seed=2, count=6)
    extract(scene, (1, 2), overwrite=True)
    assert not (out / "ledger.jsonl").exists()
    assert tables(out) == [out / "shards" / "1-of-2" / "particles.star"]
    extract(scene, (2, 2), overwrite=True)
    assert merge(out).exit_code == 0
    assert rows(out / "particles.star", scene.folder) == second
    assert not part(first, rows(out / "particles.star", scene.folder))


def test_shards_in_another_number_take_over_with_all_their_tables(scene: Scene) -> None:
    (images,) = truth(scene, 1)
    out = scene.folder / "out"
    for index in (1, 2, 3):
        extract(scene, (index, 3))
    with pytest.raises(OutputError, match="holds shard 1 of 3, this is one of 2; .*--overwrite"):
        extract(scene, (2, 2))
    extract(scene, (2, 2), overwrite=True)
    assert [path.parent.name for path in tables(out)] == ["2-of-2"]
    assert [path.name for path in out.glob("ledger*")] == ["ledger.2-of-2.jsonl"]
    extract(scene, (1, 2))
    merge(out)
    assert rows(out / "particles.star", scene.folder) == images


CHANGES = {
    "picks": lambda scene: scene.picks(seed=9, count=6),
    "a column of the picks that places nothing": lambda scene: _edit(scene.folder / "picks.star", "loop_", "loop_ # x"),
    "a value of the micrographs' table": lambda scene: _edit(scene.folder / "micrographs.star", " 300 ", " 200 "),
    "a micrograph": lambda scene: os.utime(scene.folder / scene.names[1], (1, 1)),
}


def _edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize("what", CHANGES)
def test_a_shard_with_other_inputs_than_those_recorded_is_refused_before_it_starts(scene: Scene, what: str) -> None:
    extract(scene, (1, 2))
    CHANGES[what](scene)
    before = contents(scene.folder / "out")
    for index in (1, 2):
        with pytest.raises(OutputError, match="shard 1 of 2 worked from other inputs: .*--overwrite for every shard"):
            extract(scene, (index, 2))
    assert contents(scene.folder / "out") == before


@pytest.mark.parametrize("limit", [2, 4, None])
def test_a_shard_with_another_limit_is_refused_since_it_would_share_out_others(scene: Scene, limit: int | None) -> None:
    extract(scene, (1, 2), recipe=cryobox.Recipe(box=32, limit=3))
    with pytest.raises(OutputError, match=f"holds a run with limit = 3, now it is {limit}"):
        extract(scene, (2, 2), recipe=cryobox.Recipe(box=32, limit=limit))


def test_merge_refuses_coordinate_files_and_members_that_changed(scene: Scene) -> None:
    folder = scene.folder / "coords"
    folder.mkdir()
    for name in scene.names:
        (folder / f"{Path(name).stem}.txt").write_text("40 40 0.5\n44 50 0.6\n")

    def shard(index: int) -> None:
        options = cryobox.RunOptions(workers=1, fsync=False, shard=(index, 2))
        cryobox.run("coords", micrographs="micrographs.star", out="out", recipe=RECIPE, options=options)

    for index in (1, 2):
        shard(index)
    file = folder / "m0002.txt"
    before = file.read_text()
    file.write_text("40.2 40.3 0.9\n44 50 0.6\n")  # the same windows
    with pytest.raises(OutputError, match="a file that they name or a micrograph changed after shards 1, 2 of 2"):
        merge(scene.folder / "out")
    with pytest.raises(OutputError, match="the tables, coordinate files or masks have another content now"):
        shard(1)
    file.write_text(before)  # back again, with another time of change: the content counts
    assert merge(scene.folder / "out").exit_code == 0


def test_a_stack_that_a_merged_run_makes_again_takes_all_tables_away_first(scene: Scene) -> None:
    out = scene.folder / "out"
    for index in (1, 2):
        extract(scene, (index, 2))
    merge(out)
    (out / "stacks" / "m0002_particles.mrcs").unlink()
    extract(scene)
    assert tables(out) == [out / "particles.star"]
    assert merge(out).exit_code == 0


# At once -------------------------------------------------------------------------------------------------------------


def _start(folder: Path, shard: tuple[int, int] | None, overwrite: bool, delay: float, together: Barrier) -> None:
    os.chdir(folder)
    together.wait()
    time.sleep(delay)
    try:
        code = extract(Scene(folder, ()), shard, overwrite=overwrite).exit_code
    except LockError:
        code = 4
    except (OutputError, InputError):  # the latter where picks change while they are read
        code = 2
    os._exit(code)


def start_together(
    scene: Scene, shards: Sequence[tuple[int, int] | None], overwrite: bool, chance: random.Random
) -> list[int]:
    """Start runs at random moments, and change the picks at one of them; their exit codes."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["cryobox.job", "cryobox.formats.star", "cryobox.formats.star_table"])
    shutil.copy(scene.folder / "picks1.star", scene.folder / "picks.star")
    together = server.Barrier(len(shards) + 1)
    processes = [
        server.Process(target=_start, args=(scene.folder, shard, overwrite, chance.uniform(0, 0.08), together))
        for shard in shards
    ]
    for process in processes:
        process.start()
    together.wait()
    time.sleep(chance.uniform(0, 0.1))
    shutil.copy(scene.folder / "picks2.star", scene.folder / "picks.new")
    os.replace(scene.folder / "picks.new", scene.folder / "picks.star")
    for process in processes:
        process.join()
    return [process.exitcode or 0 for process in processes]


@pytest.mark.parametrize("shards", [[(1, 2), (2, 2)], [None, (1, 1)], [None, (1, 2), (2, 2)]], ids=str)
def test_runs_that_start_at_random_moments_with_changed_picks_make_no_wrong_row_and_lose_none(
    scene: Scene, shards: list[tuple[int, int] | None], capsys: pytest.CaptureFixture[str]
) -> None:
    scene = make_scene(scene.folder, micrographs=12)
    images = truth(scene, 1, count=40) + truth(scene, 2, count=40)
    for number in (1, 2):
        scene.picks(seed=number, count=40)
        shutil.copy(scene.folder / "picks.star", scene.folder / f"picks{number}.star")
    chance, out = random.Random(len(shards)), scene.folder / "out"
    seen: Counter[str] = Counter()
    for turn in range(STARTS):
        shutil.rmtree(out, ignore_errors=True)
        overwrite = turn % 3 == 2
        codes = start_together(scene, shards, overwrite, chance)
        assert set(codes) <= {0, 2, 4}
        found = {table: rows(table, scene.folder) for table in tables(out)}
        for table, of_table in found.items():
            assert any(part(which, of_table) for which in images), f"{table}: rows of other images"
        # Whoever ended well has left its table, unless another took over on demand.
        for shard, code in zip(shards, codes, strict=True):
            place = out / "particles.star" if shard is None else out / f"shards/{shard[0]}-of-{shard[1]}/particles.star"
            assert overwrite or (code == 0) == place.exists()
        assert not overwrite or 0 not in codes or found
        if (out / "particles.star").exists():
            assert found[out / "particles.star"] in images
            assert json.loads((out / "job.json").read_text())["complete"]
        elif len(found) == shards[-1][1]:
            (number,) = (number for number in (1, 2) if all(part(images[number - 1], one) for one in found.values()))
            shutil.copy(scene.folder / f"picks{number}.star", scene.folder / "picks.star")
            merge(out, options=cryobox.RunOptions(fsync=False))
            assert rows(out / "particles.star", scene.folder) in images
        seen[f"{codes}{' --overwrite' if overwrite else ''}"] += 1
    with capsys.disabled():
        print(f"\n  {shards}: {dict(seen)}")


# Inputs --------------------------------------------------------------------------------------------------------------


def test_a_table_of_the_folder_cannot_be_its_input_however_it_is_named(scene: Scene) -> None:
    out = scene.folder / "out"
    out.mkdir()
    shutil.move(scene.folder / "picks.star", out / "particles.star")
    content = (out / "particles.star").read_bytes()
    (scene.folder / "link.star").symlink_to("out/particles.star")
    os.link(out / "particles.star", scene.folder / "hard.star")
    (scene.folder / "other").symlink_to("out")
    (scene.folder / "list.star").write_text(
        "data_coordinate_files\nloop_\n_rlnMicrographName\n_rlnMicrographCoordinates\n"
        f"{scene.names[0]} other/rejected.star\n"
    )
    (out / "rejected.star").write_text("data_\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n40 40\n")
    for given in ("out/particles.star", "other/particles.star", "link.star", "hard.star", "list.star"):
        for folder in ("out", "other"):
            with pytest.raises(OutputError, match="is an input and would be replaced or removed"):
                cryobox.run(
                    given, micrographs="micrographs.star", out=folder, recipe=RECIPE,
                    options=cryobox.RunOptions(overwrite=True),
                )  # fmt: skip
    assert (out / "particles.star").read_bytes() == content
    assert sorted(path.name for path in out.iterdir()) == ["particles.star", "rejected.star"]


def test_a_table_named_by_a_number_is_the_user_s_own_unless_stacks_of_this_size_are_there(scene: Scene) -> None:
    recipe = cryobox.Recipe(box=32, also=((16, "float32"),))
    out = scene.folder / "out"
    extract(scene, recipe=recipe)
    for name in ("particles_2024.star", "particles_24.cs"):
        (out / name).write_text("mine")
    min((out / "stacks").iterdir()).unlink()
    extract(scene, recipe=recipe)
    assert not verify(out, everything=True).problems
    extract(scene, overwrite=True)  # one size only: the table of the other goes, with its stacks
    assert sorted(path.name for path in out.glob("particles_*")) == ["particles_2024.star", "particles_24.cs"]
    for shard in ((1, 2), (2, 2)):
        extract(scene, shard, out="parts", recipe=recipe)
    extract(scene, (1, 2), out="parts", recipe=recipe, overwrite=True)
    (scene.folder / "parts" / "particles_2024.star").write_text("mine")
    merge(scene.folder / "parts")
    assert sorted(path.name for path in (scene.folder / "parts").glob("particles_*")) == [
        "particles_16.star", "particles_2024.star"]  # fmt: skip


@pytest.mark.parametrize("recorded", [False, True])
def test_a_table_in_the_place_of_one_of_another_size_is_kept(scene: Scene, recorded: bool) -> None:
    recipe = cryobox.Recipe(box=32, also=((16, "float32"),))
    if recorded:
        extract(scene)
    (scene.folder / "out").mkdir(exist_ok=True)
    own = scene.folder / "out" / "particles_16.star"
    own.write_bytes((scene.folder / "picks.star").read_bytes())
    if not recorded:
        with pytest.raises(OutputError, match=r"holds particles_16\.star, but no record"):
            extract(scene, recipe=recipe)
    with pytest.raises(OutputError, match="is an input and would be replaced or removed"):
        cryobox.run(
            own, micrographs="micrographs.star", out=scene.folder / "out", recipe=recipe,
            options=cryobox.RunOptions(overwrite=True, fsync=False),
        )  # fmt: skip
    assert own.read_bytes() == (scene.folder / "picks.star").read_bytes()


@pytest.mark.parametrize("link", ["", "symlink", "hard link"])
@pytest.mark.parametrize("shard", [None, (1, 1)])
def test_a_micrograph_in_the_place_of_a_stack_is_never_replaced(
    scene: Scene, link: str, shard: tuple[int, int] | None
) -> None:
    stacks = scene.folder / "out" / "stacks"
    stacks.mkdir(parents=True)
    place, micrograph = stacks / "m0001_particles.mrcs", scene.folder / scene.names[1]
    if link == "symlink":
        place.symlink_to(micrograph)
    elif link:
        os.link(micrograph, place)
    else:
        shutil.move(micrograph, place)
        micrograph.symlink_to(place)
    content = place.read_bytes()
    for overwrite in (False, True):
        with pytest.raises(OutputError, match=r"m0001.* is an input and would be replaced or removed"):
            extract(scene, shard, overwrite=overwrite)
    assert place.read_bytes() == content
    assert place.is_symlink() == (link == "symlink")


@pytest.mark.parametrize("name", [".lock", ".lock.start", ".lock.1-of-2", ".lock.2-of-2", "stop"])
@pytest.mark.parametrize("link", ["symlink", "hard link"])
@pytest.mark.parametrize("shard", [None, (1, 2)])
def test_a_micrograph_in_the_place_of_a_lock_or_of_the_stop_file_is_never_written(
    scene: Scene, name: str, link: str, shard: tuple[int, int] | None
) -> None:
    place, micrograph = scene.folder / "out" / name, scene.folder / scene.names[1]
    place.parent.mkdir()
    if link == "symlink":
        place.symlink_to(micrograph)
    else:
        os.link(micrograph, place)
    content = micrograph.read_bytes()
    for overwrite in (False, True):
        with pytest.raises(OutputError, match=r"m0001.* is an input and would be replaced or removed"):
            extract(scene, shard, overwrite=overwrite)
    assert micrograph.read_bytes() == content
    assert [path.name for path in place.parent.iterdir()] == [name]


@pytest.mark.parametrize("shard", [None, (1, 1), (1, 2)])
def test_overwriting_does_not_remove_a_recorded_stack_that_is_read_now(
    scene: Scene, shard: tuple[int, int] | None
) -> None:
    """The plan would write other stacks; only the old records name this one."""
    extract(scene, (1, 1))
    stack = scene.folder / "out" / "stacks" / "m0001_particles.mrcs"
    shutil.copy(scene.folder / scene.names[1], stack)
    content = stack.read_bytes()
    _edit(scene.folder / "picks.star", scene.names[1], "out/stacks/m0001_particles.mrcs")
    _edit(scene.folder / "micrographs.star", scene.names[1], "out/stacks/m0001_particles.mrcs")
    with pytest.raises(OutputError, match=r"m0001_particles.mrcs: is an input and would be replaced or removed"):
        extract(scene, shard, overwrite=True)
    assert stack.read_bytes() == content
    assert (scene.folder / "out" / "shards" / "1-of-1" / "particles.star").exists()


def test_shards_of_a_project_that_moved_are_not_merged_and_their_directory_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = make_scene(tmp_path / "here", micrographs=2, picks=3)
    monkeypatch.chdir(scene.folder)
    extract(scene, (1, 1))
    monkeypatch.chdir(tmp_path)
    scene.folder.rename(tmp_path / "there")
    before = contents(tmp_path / "there" / "out")
    with pytest.raises(OutputError, match="its shards were run in .*here, which is not there any more; bring it back"):
        merge(tmp_path / "there" / "out")
    assert contents(tmp_path / "there" / "out") == before


@pytest.mark.parametrize("shard", [None, (1, 1)])
def test_a_record_that_was_changed_is_not_believed(scene: Scene, shard: tuple[int, int] | None) -> None:
    """Else a window that it calls refused would shift the images of those after it by one row."""
    images = truth(scene, 1)[0]
    extract(scene, shard)
    out = scene.folder / "out"
    (ledger,) = out.glob("ledger*.jsonl")
    ledger.write_text(ledger.read_text().replace('"refused": []', '"refused": [[0, "no contrast"]]'))
    before = contents(out)
    for again in (
        lambda: extract(scene, shard),
        lambda: extract(scene, (1, 2)),
        *([lambda: merge(out)] if shard else []),
    ):
        with pytest.raises(OutputError, match=r"ledger.*jsonl: line \d was changed after it was written"):
            again()
        assert contents(out) == before
    assert extract(scene, shard, overwrite=True).exit_code == 0
    assert all(rows(table, scene.folder) == images for table in tables(out))


# Limits --------------------------------------------------------------------------------------------------------------


def test_a_larger_limit_or_none_goes_on_and_ends_as_if_there_had_been_no_other(scene: Scene) -> None:
    done = 0
    for limit in (1, 3, 3, None):
        result = extract(scene, recipe=cryobox.Recipe(box=32, limit=limit))
        assert (result.resumed, result.exit_code) == (done, 0)
        done = limit or done
    expected = extract(scene, out="alone")
    assert expected.resumed == 0
    found, wanted = (
        {k: v for k, v in contents(scene.folder / name).items() if "stacks/" in k} for name in ("out", "alone")
    )
    assert found == wanted
    assert rows(scene.folder / "out" / "particles.star", scene.folder) == rows(
        scene.folder / "alone" / "particles.star", scene.folder
    )
    assert verify(scene.folder / "out").problems == ()
    with pytest.raises(OutputError, match="holds a run with limit = None, now it is 3"):
        extract(scene, recipe=cryobox.Recipe(box=32, limit=3))


def test_names_of_stacks_stay_when_a_limit_grows(scene: Scene) -> None:
    """Two micrographs of one file name: with the first alone it must be called as with both."""
    twin = "other/m0000.mrc"
    (scene.folder / "other").mkdir()
    shutil.copy(scene.folder / scene.names[0], scene.folder / twin)
    for table in ("picks.star", "micrographs.star"):
        _edit(scene.folder / table, scene.names[3], twin)
    extract(scene, recipe=cryobox.Recipe(box=32, limit=1))
    first = [path.name for path in (scene.folder / "out" / "stacks").iterdir()]
    assert extract(scene).resumed == 1
    assert set(first) < {path.name for path in (scene.folder / "out" / "stacks").iterdir()}
    assert verify(scene.folder / "out").problems == ()


# Members of a group --------------------------------------------------------------------------------------------------


def group(scene: Scene, folder: Path) -> Path:
    """Picks as CryoSPARC exports them: a `.csg` that names two `.cs` files."""
    n = 3 * len(scene.names)
    uid = np.arange(1, n + 1, dtype="<u8")
    location = np.zeros(
        n,
        [
            ("uid", "<u8"),
            ("location/micrograph_path", "S20"),
            ("location/micrograph_shape", "<u4", (2,)),
            ("location/center_x_frac", "<f4"),
            ("location/center_y_frac", "<f4"),
        ],
    )
    location["uid"], location["location/micrograph_shape"] = uid, (96, 96)
    location["location/micrograph_path"] = [scene.names[i % len(scene.names)].encode() for i in range(n)]
    location["location/center_x_frac"], location["location/center_y_frac"] = 0.4 + 0.01 * np.arange(n), 0.5
    stats = np.zeros(n, [("uid", "<u8"), ("pick_stats/ncc_score", "<f4")])
    stats["uid"], stats["pick_stats/ncc_score"] = uid[::-1], 0.5
    folder.mkdir(exist_ok=True)
    for name, table in (("particles.cs", location), ("stats.cs", stats)):
        with open(folder / name, "wb") as file:
            np.save(file, table)
    slots = {"location": "particles.cs", "pick_stats": "stats.cs"}
    (folder / "J8.csg").write_text(
        "results:\n"
        + "".join(
            f"  {slot}:\n    metafile: '>{name}'\n    num_items: {n}\n    type: particle.{slot}\n"
            for slot, name in slots.items()
        )
    )
    return folder / "J8.csg"


def extract_group(picks: Path, shard: tuple[int, int] | None = None, *, overwrite: bool = False) -> cryobox.RunResult:
    options = cryobox.RunOptions(workers=1, fsync=False, shard=shard, overwrite=overwrite)
    return cryobox.run(picks, micrographs="mics", out="out", recipe=RECIPE, options=options)


def test_a_member_of_a_group_that_changed_is_noticed_by_shards_and_merge(scene: Scene) -> None:
    picks = group(scene, scene.folder / "J8")
    for index in (1, 2):
        extract_group(picks, (index, 2))
    table = np.load(picks.parent / "stats.cs")
    table["pick_stats/ncc_score"] = 0.75
    with open(picks.parent / "stats.cs", "wb") as file:
        np.save(file, table)
    with pytest.raises(OutputError, match="a file that they name or a micrograph changed after shards 1, 2 of 2"):
        merge(scene.folder / "out")
    with pytest.raises(OutputError, match="the tables, coordinate files or masks have another content now"):
        extract_group(picks, (1, 2))


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("shard", [None, (1, 2)])
def test_a_member_of_a_group_in_the_place_of_a_table_is_never_replaced(
    scene: Scene, shard: tuple[int, int] | None, overwrite: bool
) -> None:
    picks = group(scene, scene.folder / "out")
    before = (picks.parent / "particles.cs").read_bytes()
    with pytest.raises(OutputError, match="particles.cs: is an input and would be replaced or removed"):
        extract_group(picks, shard, overwrite=overwrite)
    assert (picks.parent / "particles.cs").read_bytes() == before
    assert sorted(path.name for path in picks.parent.iterdir()) == ["J8.csg", "particles.cs", "stats.cs"]


def test_a_session_that_is_watched_cannot_be_a_shard(scene: Scene) -> None:
    options = cryobox.RunOptions(shard=(1, 2))
    with pytest.raises(OptionError, match="--watch cannot be a --shard"):
        watch("picks.star", micrographs="micrographs.star", out="out", recipe=RECIPE, options=options)
    assert not (scene.folder / "out").exists()


@pytest.mark.parametrize("link", [os.symlink, os.link], ids=["symbolic", "hard"])
@pytest.mark.parametrize("name", ["picks.star", "mics/m0001.mrc"])
def test_a_log_of_a_shard_that_is_an_input_is_refused(scene: Scene, link: Any, name: str) -> None:
    out = scene.folder / "out"
    out.mkdir()
    link(scene.folder / name, out / "run.1-of-2.log")
    before = (scene.folder / name).read_bytes()
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="is an input and would be replaced"):
            extract(scene, (1, 2), overwrite=overwrite)
        assert (scene.folder / name).read_bytes() == before


def test_a_log_is_written_through_no_link_and_into_no_pipe(scene: Scene, tmp_path: Path) -> None:
    out, precious = scene.folder / "out", tmp_path / "precious.txt"
    precious.write_text("mine")
    out.mkdir()
    for make in (
        lambda path: path.symlink_to(precious),
        lambda path: os.link(precious, path),
        lambda path: path.symlink_to(tmp_path / "nothing"),
        os.mkfifo,
        Path.mkdir,
    ):
        make(out / "run.log")
        extract(scene, overwrite=True)
        assert precious.read_text() == "mine"
        assert not (tmp_path / "nothing").exists()
        (out / "run.log").rmdir() if (out / "run.log").is_dir() else (out / "run.log").unlink()


def test_a_folder_in_the_place_of_a_shards_log_keeps_nobody_from_taking_over(scene: Scene) -> None:
    (scene.folder / "out" / "run.1-of-1.log").mkdir(parents=True)
    extract(scene, (1, 1))
    assert extract(scene, overwrite=True).exit_code == 0


def test_shards_in_two_directories_agree_about_a_micrograph_that_cannot_be_read(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torn = scene.folder / scene.names[1]
    torn.write_bytes(torn.read_bytes()[:500])
    for index, place in ((1, scene.folder), (2, tmp_path)):
        monkeypatch.chdir(place)
        cryobox.run(
            scene.folder / "picks.star", micrographs=scene.folder / "micrographs.star", root=scene.folder,
            out=tmp_path / "shards", recipe=RECIPE, options=cryobox.RunOptions(fsync=False, shard=(index, 2)),
        )  # fmt: skip
    assert merge(tmp_path / "shards", options=cryobox.RunOptions(fsync=False)).exit_code == 1
    assert not verify(tmp_path / "shards").problems


@pytest.mark.parametrize("damage", [b"not a line\n", b'{"id": 3}\n', b"[1]\n", b"\xff\xfe\n"])
def test_starting_anew_removes_what_a_damaged_ledger_still_tells_of(scene: Scene, damage: bytes) -> None:
    extract(scene)
    out = scene.folder / "out"
    lines = (out / "ledger.jsonl").read_bytes().splitlines(keepends=True)
    (out / "ledger.jsonl").write_bytes(b"".join([*lines[:3], damage, *lines[3:]]))
    with pytest.raises(OutputError, match="start anew with --overwrite"):
        extract(scene)
    picks = (scene.folder / "picks.star").read_text()
    (scene.folder / "picks.star").write_text(
        "".join(line for line in picks.splitlines(keepends=True) if scene.names[0] not in line)
    )
    extract(scene, overwrite=True)
    assert not list(out.glob("stacks*/m0000*"))
    assert not verify(out).problems


def test_starting_anew_removes_a_stack_whose_task_failed_when_it_was_to_be_made_again(scene: Scene) -> None:
    extract(scene)
    out, torn = scene.folder / "out", scene.folder / scene.names[0]
    whole = torn.read_bytes()
    torn.write_bytes(whole[:-300] + whole[-300:-200])  # its header is read, its pixels end early
    extract(scene)
    torn.unlink()
    extract(scene, overwrite=True)
    assert not list(out.glob("stacks*/m0000*"))
    assert not verify(out).problems
