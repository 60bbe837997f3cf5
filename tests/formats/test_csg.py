"""CryoSPARC result groups: joining tables on uid, and the groups that we write."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from cryobox.errors import InputError
from cryobox.formats import cs
from cryobox.formats.cs_table import Table, read_table
from cryobox.formats.csg import read_group, write_group


def table(uids: list[int], **columns: Any) -> Table:
    made = np.zeros(len(uids), dtype=[("uid", "<u8"), *((name.replace("__", "/"), "<f4") for name in columns)])
    made["uid"] = uids
    for name, values in columns.items():
        made[name.replace("__", "/")] = values
    return made


def group(folder: Path, slots: dict[str, str], count: int | None = None, **tables: Table) -> Path:
    for name, rows in tables.items():
        cs.write_table(folder / f"{name}.cs", rows)
    results = {
        slot: {"metafile": metafile, "type": f"particle.{slot}"} | ({} if count is None else {"num_items": count})
        for slot, metafile in slots.items()
    }
    (folder / "g.csg").write_text(yaml.safe_dump({"results": results}))
    return folder / "g.csg"


@pytest.mark.real
def test_a_shuffled_passthrough_is_joined_to_the_right_particles(real_data: Path) -> None:
    project = real_data / "cryosparc_project"
    particles = cs.read_particles(project / "J6/J6_particles.csg")
    truth = np.load(project / "truth.npz")
    row = {int(uid): number for number, uid in enumerate(truth["uid"])}
    of = [row[int(uid)] for uid in particles.table["uid"]]
    assert sorted(of) == np.flatnonzero(truth["kept"]).tolist()
    np.testing.assert_allclose(np.stack([particles.x, particles.y], 1), truth["int_centre"][of], atol=1e-3)
    (alignment,) = particles.alignments
    assert alignment.kind == "2d"
    shift = alignment.shift * alignment.pixel_size[:, None] / 1.25
    found = np.stack([particles.y, particles.x], 1) - shift
    assert np.abs(found - np.stack([truth["y"], truth["x"]], 1)[of]).max() < 1e-3
    first = read_table(project / "J6/J6_020_particles.cs")
    np.testing.assert_array_equal(particles.table["uid"], first["uid"])


@pytest.mark.real
@pytest.mark.parametrize("name", ["J3/J3_exposures.csg", "J4/J4_particles.csg", "J6/J6_particles.csg"])
def test_a_real_group_has_the_columns_of_all_its_slots(real_data: Path, name: str) -> None:
    path = real_data / "cryosparc_project" / name
    joined, warnings = read_group(path)
    assert warnings == ()
    for slot, result in yaml.safe_load(path.read_text())["results"].items():
        source = read_table(path.parent / result["metafile"].removeprefix(">"))
        fields = [field for field in source.dtype.names or () if field.startswith(f"{slot}/")]
        assert fields
        order = {int(uid): row for row, uid in enumerate(source["uid"])}
        rows = [order[int(uid)] for uid in joined["uid"]]
        for field in fields:
            np.testing.assert_array_equal(joined[field], source[field][rows])


def test_each_slot_comes_from_the_file_that_the_group_names(tmp_path: Path) -> None:
    path = group(
        tmp_path,
        {"a": ">one.cs", "b": ">two.cs"},
        one=table([1, 2], a__v=[1, 2], b__v=[3, 4]),
        two=table([2, 1], a__v=[5, 6], b__v=[7, 8]),
    )
    joined, _ = read_group(path)
    assert joined["uid"].tolist() == [1, 2]
    assert joined["a/v"].tolist() == [1, 2]
    assert joined["b/v"].tolist() == [8, 7]


def test_of_columns_that_belong_to_no_slot_the_later_table_wins(tmp_path: Path) -> None:
    path = group(
        tmp_path,
        {"a": ">one.cs", "b": ">two.cs"},
        one=table([1, 2], a__v=[1, 2], c__v=[3, 4]),
        two=table([2, 1], b__v=[5, 6], c__v=[7, 8]),
    )
    assert read_group(path)[0]["c/v"].tolist() == [8, 7]


def test_rows_that_are_not_in_every_table_are_left_out_with_a_warning(tmp_path: Path) -> None:
    path = group(
        tmp_path,
        {"a": ">one.cs", "b": ">two.cs"},
        one=table([1, 2, 3], a__v=[1, 2, 3]),
        two=table([3, 9, 1], b__v=[5, 6, 7]),
    )
    joined, (warning,) = read_group(path)
    assert joined["uid"].tolist() == [1, 3]
    assert joined["b/v"].tolist() == [7, 5]
    assert "1 of 3 rows of one.cs are not in every table; left out" in warning


def test_a_slot_without_columns_is_a_warning(tmp_path: Path) -> None:
    path = group(tmp_path, {"a": ">one.cs", "z": ">one.cs"}, one=table([1], a__v=[1]))
    assert read_group(path)[1] == (f"{path}: slot 'z' has no columns in one.cs",)


@pytest.mark.parametrize(
    ("slots", "count", "tables", "message"),
    [
        ({"a": ">one.cs", "b": ">two.cs"}, None, {"one": [1, 1], "two": [1, 2]}, r"one.cs: uid 1 occurs 2 times"),
        ({"a": ">one.cs", "b": ">two.cs"}, None, {"one": [1, 2], "two": [3, 4]}, "one.cs and two.cs share no uid"),
        ({"a": ">one.cs", "b": ">two.cs"}, None, {"one": [1, 2], "two": []}, "share no uid"),
        ({"a": ">one.cs"}, 3, {"one": [1, 2]}, "slot 'a' promises 3 rows, one.cs holds 2"),
        ({"a": ">gone.cs"}, None, {}, "gone.cs, which does not exist"),
        ({"a": "/etc/passwd"}, None, {}, "metafile '/etc/passwd' lies outside the group's folder"),
        ({"a": ">../x.cs"}, None, {}, "metafile '>../x.cs' lies outside"),
        ({"a": ">sub/../../x.cs"}, None, {}, "lies outside"),
        ({"a": ">>/etc/x.cs"}, None, {}, "which does not exist"),
    ],
)
def test_groups_that_cannot_be_joined_are_refused(
    tmp_path: Path, slots: dict[str, str], count: int | None, tables: dict[str, list[int]], message: str
) -> None:
    made = {name: table(uids, **{f"{slot}__v": 0 for slot in slots}) for name, uids in tables.items()}
    with pytest.raises(InputError, match=message):
        read_group(group(tmp_path, slots, count, **made))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not YAML"),
        ("", "no 'results'"),
        ("[1, 2]", "no 'results'"),
        ("results: {a: 5}", "slot 'a' names no metafile"),
        ("results: {a: {metafile: 7}}", "slot 'a' names no metafile"),
        ("!!python/object/apply:os.system ['true']", "not YAML"),
        ("[" * 5000, "not YAML"),
        ("created: 2024-99-99 00:00:00", "not YAML"),
        ("x" * (5 * 2**20), "too many for a result group"),
    ],
)
def test_files_that_are_no_group_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "g.csg").write_text(text)
    with pytest.raises(InputError, match=rf"g\.csg: .*{message}"):
        read_group(tmp_path / "g.csg")


def test_a_missing_group_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"g\.csg: no such file"):
        cs.read_particles(tmp_path / "g.csg")


@pytest.mark.real
def test_a_written_group_looks_like_cryosparcs(real_data: Path, tmp_path: Path) -> None:
    source = real_data / "cryosparc_project/J8/J8_particles_exported.csg"
    particles = read_table(source.with_suffix(".cs"))
    created = datetime(2024, 5, 1, 12, 0, 0, 123456)  # noqa: DTZ001 -- as in the file
    write_group(tmp_path / "g.csg", "J8_particles_exported.cs", particles, created, title="All particles")
    ours, theirs = yaml.safe_load((tmp_path / "g.csg").read_text()), yaml.safe_load(source.read_text())
    assert ours == theirs


def test_a_written_group_is_read_again_and_leaves_out_our_own_columns(tmp_path: Path) -> None:
    rows = table([1, 2], a__v=[1, 2], cryobox__note=[0, 0])
    cs.write_table(tmp_path / "p.cs", rows)
    write_group(tmp_path / "p.csg", "p.cs", rows)
    assert list(yaml.safe_load((tmp_path / "p.csg").read_text())["results"]) == ["a"]
    np.testing.assert_array_equal(read_group(tmp_path / "p.csg")[0], rows)
