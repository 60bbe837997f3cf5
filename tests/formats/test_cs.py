"""CryoSPARC tables: what is read from real and made ones, and what extraction writes."""

from __future__ import annotations

import json
import struct
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cryobox.centering import truncate
from cryobox.errors import InputError, MissingExtraError, OptionError
from cryobox.formats import check_tables, cs
from cryobox.formats.cs_output import fraction_of
from cryobox.formats.cs_table import Table, read_table
from cryobox.matching import match_micrographs
from cryobox.micrograph import ImageHeader, Micrographs, Optics
from cryobox.options import Recipe
from cryobox.particles import Extracted, Particles
from cryobox.paths import Start
from cryobox.plan import build_plan

TABLES = (
    "tables/alignments2D.cs",
    "tables/location_alignments3D.cs",
    "tables/empty_4096_bytes.cs",
    "cryosparc_project/J3/J3_passthrough_exposures.cs",
    "cryosparc_project/J3/exposures_ctf_estimated.cs",
    "cryosparc_project/J3/exposures_ctf_estimated_all.cs",
    "cryosparc_project/J4/picked_micrographs.cs",
    "cryosparc_project/J4/picked_particles.cs",
    "cryosparc_project/J6/J6_020_particles.cs",
    "cryosparc_project/J6/J6_passthrough_particles.cs",
    "cryosparc_project/J8/J8_particles_exported.cs",
    "cryosparc_project/J8/J8_particles_exported_csdat.cs",
)


def picks(n: int = 4, **columns: Any) -> Table:
    """Picks on two micrographs of 300 x 200 pixels; columns are (dtype, values), None takes one out."""
    fields: dict[str, tuple[Any, Any]] = {
        "uid": ("<u8", np.arange(1, n + 1)),
        "location/micrograph_uid": ("<u8", np.arange(n) % 2 + 11),
        "location/micrograph_path": ("S6", [(b"a.mrc", b"bb.mrc")[i % 2] for i in range(n)]),
        "location/micrograph_shape": (("<u4", (2,)), (300, 200)),
        "location/micrograph_psize_A": ("<f4", 1.5),
        "location/center_x_frac": ("<f4", np.linspace(0.2, 0.8, n)),
        "location/center_y_frac": ("<f4", np.linspace(0.7, 0.3, n)),
    } | columns
    fields = {name: value for name, value in fields.items() if value is not None}
    table = np.zeros(n, dtype=[(name, kind) for name, (kind, _) in fields.items()])
    for name, (_, values) in fields.items():
        table[name] = values
    return table


def exposures(**columns: Any) -> Table:
    fields: dict[str, tuple[Any, Any]] = {
        "uid": ("<u8", [11, 12]),
        "micrograph_blob/path": ("S6", [b"a.mrc", b"bb.mrc"]),
        "micrograph_blob/idx": ("<u4", 0),
        "micrograph_blob/shape": (("<u4", (2,)), (300, 200)),
        "micrograph_blob/psize_A": ("<f4", 1.5),
    } | columns
    return picks(2, **dict.fromkeys([f for f in picks().dtype.names or () if f not in fields]), **fields)


def saved(path: Path, table: Table) -> Path:
    cs.write_table(path, table)
    return path


def extracted(particles: Particles, micrographs: Micrographs, **changes: Any) -> Extracted:
    """All picks, box 64 stored as 32, micrographs by uid or in the picks' order, centers truncated."""
    n = len(particles)
    micrograph = particles.micrograph
    if particles.micrograph_uids is not None and micrographs.uids is not None:
        found = [micrographs.uids.tolist().index(uid) for uid in particles.micrograph_uids.tolist()]
        micrograph = np.array(found, dtype=np.intp)[particles.micrograph]
    center = np.nan_to_num(np.stack([particles.y, particles.x], axis=1))
    values: dict[str, Any] = {
        "picks": np.arange(n),
        "rows": np.arange(n),
        "micrograph": micrograph,
        "stack": tuple(f">stacks/m{i}_particles.mrc" for i in range(len(micrographs))),
        "slot": np.arange(n),
        "size": 32,
        "box": 64,
        "center": truncate(center, guard=True).astype(np.int64),
        "shape": micrographs.shape,
        "pixel_size": micrographs.pixel_size,
        "moved": np.zeros(n, dtype=bool),
        "alignments": particles.alignments,
        "steps": Recipe(box=64).steps(),
    }
    if "rows" in changes:
        changes.setdefault("picks", changes["rows"])
    return Extracted(**(values | changes))


def fields(table: Table) -> tuple[str, ...]:
    return table.dtype.names or ()


def same_content(one: Table, two: Table) -> None:
    assert one.dtype.names == two.dtype.names
    for name in one.dtype.names or ():
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)


def star_micrographs() -> Micrographs:
    return Micrographs(
        family="star",
        source="mics.star",
        names=("a.mrc", "bb.mrc"),
        paths=("/m/a.mrc", "/m/bb.mrc"),
        pixel_size=np.array([1.5, 1.5]),
        shape=np.array([[300, 200], [300, 200]]),
        optics=(Optics(name="opticsGroup1", voltage_kv=300, cs_mm=2.7, amplitude_contrast=0.1, group_id=1),),
        optics_index=np.zeros(2, dtype=np.intp),
        ctf={
            "defocus_u_angstrom": np.array([10000.0, 12000.0]),
            "defocus_v_angstrom": np.array([9000.0, 11000.0]),
            "defocus_angle_degrees": np.array([45.0, -90.0]),
        },
    )


def plain_picks() -> Particles:
    return Particles(
        family="plain",
        source="picks.box",
        y=np.array([10.5, 20.0, 30.0]),
        x=np.array([11.5, 21.0, 31.0]),
        micrograph=np.array([0, 0, 1]),
        micrograph_names=("a", "bb"),
        score=np.array([0.1, 0.2, 0.3]),
    )


# Files


@pytest.mark.real
@pytest.mark.parametrize("name", TABLES)
def test_every_real_table_is_equal_after_writing_and_reading_it(real_data: Path, tmp_path: Path, name: str) -> None:
    table = read_table(real_data / name)
    same_content(read_table(saved(tmp_path / "again.cs", table)), table)


@pytest.mark.real
@pytest.mark.parametrize("name", [name for name in TABLES if "csdat" not in name])
def test_every_real_numpy_table_is_written_with_the_same_bytes_of_data(
    real_data: Path, tmp_path: Path, name: str
) -> None:
    table = read_table(real_data / name)
    assert read_table(saved(tmp_path / "again.cs", table)).tobytes() == np.load(real_data / name).tobytes()


@pytest.mark.real
@pytest.mark.parametrize("name", TABLES)
def test_cryosparc_tools_reads_what_we_write(real_data: Path, tmp_path: Path, name: str) -> None:
    dataset = pytest.importorskip("cryosparc.dataset").Dataset
    theirs = dataset.load(real_data / name)
    ours = dataset.load(saved(tmp_path / "again.cs", read_table(real_data / name)))
    assert ours.fields() == theirs.fields()
    for field in theirs.fields():
        np.testing.assert_array_equal(ours[field], theirs[field], err_msg=field)


@pytest.mark.real
def test_records_without_the_numpy_header_are_refused_with_what_to_do(real_data: Path) -> None:
    with pytest.raises(
        InputError, match=r"headerless_negative.cs: not a .cs file: it begins with b'.*export the table"
    ):
        cs.read_particles(real_data / "tables/headerless_negative.cs")


def test_an_empty_file_a_folder_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.cs").touch()
    with pytest.raises(InputError, match=r"empty.cs: not a .cs file: it begins with b''"):
        read_table(tmp_path / "empty.cs")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        read_table(tmp_path)
    with pytest.raises(InputError, match=r"none.cs: no such file"):
        read_table(tmp_path / "none.cs")


def test_python_objects_are_never_unpickled(tmp_path: Path) -> None:
    table = np.array([(1, "text")], dtype=[("uid", "<u8"), ("blob/path", "O")])
    np.save(tmp_path / "objects.npy", table, allow_pickle=True)
    with pytest.raises(InputError, match="column 'blob/path' holds Python objects, which are never read"):
        read_table(tmp_path / "objects.npy")
    with pytest.raises(InputError, match="holds Python objects"):
        cs.write_table(tmp_path / "out.cs", table)


def test_a_header_that_promises_more_than_the_file_holds_allocates_nothing(tmp_path: Path) -> None:
    path = saved(tmp_path / "t.cs", picks())
    data = path.read_bytes()
    tracemalloc.start()
    path.write_bytes(data.replace(b"(4,)", b"(4000000000,)").replace(b"         \n", b"\n"))
    with pytest.raises(
        InputError, match=r"promises 4000000000 rows of 42 bytes \(168000000000 bytes\), file holds 168"
    ):
        read_table(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20
    path.write_bytes(data[:-1])
    with pytest.raises(InputError, match="file holds 167; copied incompletely"):
        read_table(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x93NUMPY\x01\x00\xff\xffxx", "header is damaged"),
        (b"\x93NUMPY\x09\x00\x00\x00", "format 9.0 is not known"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff{", "header is damaged"),
        (b"\x93NUMPY\x01\x00\x10\x27" + b"(" * 10_000, "header is damaged"),
        (b"\x93NUMPY", "header is damaged"),
    ],
)
def test_damaged_numpy_headers_are_refused(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "t.cs").write_bytes(data)
    with pytest.raises(InputError, match=message):
        read_table(tmp_path / "t.cs")


def test_headers_written_by_python_2_are_read(tmp_path: Path) -> None:
    path = saved(tmp_path / "t.cs", picks())
    path.write_bytes(path.read_bytes().replace(b"(4,), ", b"(4L,),"))
    same_content(read_table(path), picks())


def test_a_plain_array_is_not_a_table(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((3, 4)))
    with pytest.raises(InputError, match=r"holds a plain array of float64, shape \(3, 4\)"):
        read_table(tmp_path / "a.npy")


@pytest.mark.parametrize("name", ["x/y", "größe/µ", "粒子/名"])
def test_headers_of_any_length_and_names_of_any_script_are_written_and_read(tmp_path: Path, name: str) -> None:
    table = np.zeros(2, dtype=[("uid", "<u8"), *((f"{name}{i}", "<f4") for i in range(5000))])
    table["uid"] = (1, 2)
    same_content(read_table(saved(tmp_path / "wide.cs", table)), table)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 400), st.booleans())
def test_damage_anywhere_is_an_input_error_or_a_table(
    tmp_path_factory: pytest.TempPathFactory, junk: bytes, position: int, magic: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.cs"
    cs.write_table(path, picks())
    data = bytearray(path.read_bytes())
    data[position if not magic else 6 : position + len(junk)] = junk
    if magic:
        data[:6] = b"\x95CSDAT"
    path.write_bytes(data)
    message = ""
    try:
        read_table(path)
    except InputError as error:
        message = str(error)
    assert not message or message.startswith(f"{path}: ")


# The stream form


def stream(fields: list[list[Any]], blocks: list[bytes], heap: bytes, length: int, compressed: list[str]) -> bytes:
    header = json.dumps(
        {"length": length, "dtype": fields, "compression": "lz4", "compressed_fields": compressed}
    ).encode()
    body = b"".join(struct.pack("<I", len(block)) + block for block in blocks)
    return b"\x95CSDAT" + struct.pack("<I", len(header)) + header + body + heap


def test_an_uncompressed_stream_needs_no_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryosparc.dataset.core", None)
    data = stream(
        [["uid", "<u8"], ["a/path", "|O"], ["a/shape", "<u4", [2]]],
        [struct.pack("<2Q", 5, 6), struct.pack("<2Q", 1, 0), struct.pack("<4I", 1, 2, 3, 4)],
        b"\0x.mrc\0",
        2,
        [],
    )
    (tmp_path / "t.cs").write_bytes(data)
    table = read_table(tmp_path / "t.cs")
    assert table["uid"].tolist() == [5, 6]
    assert table["a/path"].tolist() == [b"x.mrc", b""]
    assert table["a/shape"].tolist() == [[1, 2], [3, 4]]


@pytest.mark.real
def test_a_compressed_stream_without_cryosparc_tools_names_the_extra(
    real_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cryosparc.dataset.core", None)
    with pytest.raises(MissingExtraError, match=r"pip install cryobox\[cryosparc\]"):
        cs.read_particles(real_data / "cryosparc_project/J8/J8_particles_exported_csdat.cs")


@pytest.mark.parametrize(
    ("fields", "blocks", "length", "compressed", "message"),
    [
        ([["uid", "<u8"]], [b"x" * 8], 2, [], "'uid' holds 8 bytes, expected 16"),
        ([["uid", "<u8"]], [], 2, [], "ends within column 'uid'"),
        ([["a/p", "|O"]], [struct.pack("<Q", 999)], 1, [], "points outside the file's strings"),
        ([["a/p", "|O"]], [struct.pack("<Q", 3)], 1, [], "points outside the file's strings"),
        ([["uid", "<u8"]], [b"x" * 8], 2**30, ["uid"], "'uid' promises 8589934592 bytes from a block of 8"),
        ([["uid", "<u8"]], [b"\xff" * 8], 4, ["uid"], "damaged LZ4 block"),
        ([["uid", "O"]], [b"x" * 8], 1, [], "holds Python objects"),
        ([["uid", "<u8"]], [b"x" * 8], -1, [], "header is damaged"),
        ([["uid", "nonsense"]], [b"x" * 8], 1, [], "header is damaged"),
    ],
)
def test_a_damaged_stream_is_refused(
    tmp_path: Path, fields: list[list[Any]], blocks: list[bytes], length: int, compressed: list[str], message: str
) -> None:
    pytest.importorskip("cryosparc.dataset")
    (tmp_path / "t.cs").write_bytes(stream(fields, blocks, b"\0ab", length, compressed))
    with pytest.raises(InputError, match=message):
        read_table(tmp_path / "t.cs")


def test_a_stream_whose_strings_expand_without_bound_is_refused(tmp_path: Path) -> None:
    offsets = np.arange(3000, dtype="<u8").tobytes()
    (tmp_path / "t.cs").write_bytes(stream([["a/p", "|O"]], [offsets], b"x" * 5000 + b"\0", 3000, []))
    with pytest.raises(InputError, match="points outside the file's strings"):
        read_table(tmp_path / "t.cs")


# Particles


@pytest.mark.real
def test_the_numpy_and_the_stream_form_give_equal_particles(real_data: Path) -> None:
    one = cs.read_particles(real_data / "cryosparc_project/J8/J8_particles_exported.cs")
    two = cs.read_particles(real_data / "cryosparc_project/J8/J8_particles_exported_csdat.cs")
    for name in ("y", "x", "micrograph", "micrograph_uids", "grid_shape", "grid_pixel_size", "score"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name), err_msg=name)
    assert one.micrograph_names == two.micrograph_names
    for a, b in zip(one.alignments, two.alignments, strict=True):
        assert (a.name, a.kind) == (b.name, b.kind)
        np.testing.assert_array_equal(a.shift, b.shift)
        np.testing.assert_array_equal(a.pixel_size, b.pixel_size)
    same_content(one.table, two.table)


@pytest.mark.real
def test_real_exported_particles_are_read(real_data: Path) -> None:
    particles = cs.read_particles(real_data / "tables/location_alignments3D.cs")
    assert len(particles) == 100
    assert particles.from_fractions
    assert not any(name.startswith(">") for name in particles.micrograph_names)
    assert len(set(particles.micrograph_names)) == len(particles.micrograph_names)
    (alignment,) = particles.alignments
    assert (alignment.name, alignment.kind) == ("alignments3D", "3d")
    np.testing.assert_array_equal(alignment.shift[:, ::-1], particles.table["alignments3D/shift"])
    assert particles.grid_shape is not None
    assert particles.grid_shape.tolist() == [[3710, 3838]] * len(particles.micrograph_names)
    for position in (particles.y, particles.x):  # multiples of 1/40 pixel, if and only if the sides are not swapped
        assert np.abs(position * 40 - np.rint(position * 40)).max() < 0.02


@pytest.mark.real
def test_a_table_without_rows_is_read(real_data: Path) -> None:
    particles = cs.read_particles(real_data / "tables/empty_4096_bytes.cs")
    assert len(particles) == 0
    assert [(a.name, a.kind) for a in particles.alignments] == [
        ("alignments3D", "3d"),
        ("alignments2D", "2d"),
        ("alignments_class_0", "other"),
        ("alignments_class_1", "other"),
        ("alignments_class_2", "other"),
    ]


@pytest.mark.real
def test_missing_locations_are_named_with_what_is_there_and_where_to_look(real_data: Path) -> None:
    with pytest.raises(
        InputError,
        match=r"alignments2D.cs: missing location/center_x_frac, .* the table has blob/\*, ctf/\*, .*uid.*\.csg",
    ):
        cs.read_particles(real_data / "tables/alignments2D.cs")


def test_positions_are_fractions_of_the_shape_and_shifts_become_y_x(tmp_path: Path) -> None:
    table = picks(
        2,
        **{
            "location/center_x_frac": ("<f4", [0.25, np.nan]),
            "location/center_y_frac": ("<f4", [0.5, 0.1]),
            "alignments3D_multi/shift": (("<f4", (3, 2)), np.arange(12).reshape(2, 3, 2)),
            "alignments3D_multi/psize_A": ("<f4", 2.0),
            "pick_stats/ncc_score": ("<f4", [0.5, 0.25]),
            "sym_expand/src_uid": ("<u8", [7, 7]),
        },
    )
    particles = cs.read_particles(saved(tmp_path / "t.cs", table))
    assert (particles.x[0], particles.y[0]) == (50.0, 150.0)
    assert np.isnan(particles.x[1])
    (alignment,) = particles.alignments
    assert alignment.kind == "other"
    assert alignment.shift[0].tolist() == [[1, 0], [3, 2], [5, 4]]
    assert particles.score is not None
    assert particles.score.tolist() == [0.5, 0.25]
    assert particles.copy_of is not None
    assert particles.copy_of.tolist() == [0, 0]


def test_shifts_without_the_size_of_their_pixels_are_told(tmp_path: Path) -> None:
    for shift, told in ((0, 0), (1.5, 1)):
        table = picks(2, **{"alignments2D/shift": (("<f4", (2,)), shift)})
        particles = cs.read_particles(saved(tmp_path / "t.cs", table))
        assert particles.alignments == ()
        assert (
            len([text for text in particles.warnings if "alignments2D/shift has no alignments2D/psize_A" in text])
            == told
        )


@pytest.mark.parametrize("axis", "xy")
def test_half_a_location_is_an_error(tmp_path: Path, axis: str) -> None:
    path = saved(tmp_path / "t.cs", picks(2, **{f"location/center_{axis}_frac": None}))
    with pytest.raises(InputError, match=f"missing location/center_{axis}_frac; the table has"):
        cs.read_particles(path)


def test_rows_of_one_micrograph_are_found_wherever_they_stand(tmp_path: Path) -> None:
    particles = cs.read_particles(saved(tmp_path / "t.cs", picks(5)))
    assert particles.micrograph.tolist() == [0, 1, 0, 1, 0]
    assert particles.micrograph_names == ("a.mrc", "bb.mrc")
    assert particles.micrograph_uids is not None
    assert particles.micrograph_uids.tolist() == [11, 12]


def test_a_location_without_a_path_is_known_by_its_uid(tmp_path: Path) -> None:
    particles = cs.read_particles(saved(tmp_path / "t.cs", picks(2, **{"location/micrograph_path": None})))
    assert particles.micrograph_names == (f"{11:021d}", f"{12:021d}")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"location/micrograph_shape": (("<u4", (2,)), [(300, 200)] * 3 + [(150, 100)])},
            "two shapes .*300 x 200 and 150",
        ),
        ({"location/micrograph_psize_A": ("<f4", [1, 1, 1, 2])}, "two pixel sizes .* 1 and 2 Å"),
        ({"location/micrograph_shape": (("<u4", (2,)), 0)}, "is 0 x 0, so its fractions have no meaning"),
        ({"location/micrograph_shape": ("<u4", 7)}, "holds uint32, expected arrays of 2 integers"),
        ({"location/center_x_frac": ("S4", b"0.5")}, "center_x_frac' holds .*, expected numbers"),
        ({"location/micrograph_path": ("<f4", 0)}, "expected strings"),
        ({"location/micrograph_path": ("S4", b""), "location/micrograph_uid": None}, "'' is not the path of a micr"),
        ({"location/micrograph_path": ("S4", b"a\0b")}, "is not the path of a micrograph"),
        ({"location/micrograph_path": None, "location/micrograph_uid": None}, "micrograph_uid too"),
        ({"a/shift": (("<f4", (3,)), 0), "a/psize_A": ("<f4", 1)}, "'a/shift' holds"),
    ],
)
def test_contradictions_and_wrong_types_are_refused(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        cs.read_particles(saved(tmp_path / "t.cs", picks(4, **columns)))


# Micrographs


@pytest.mark.real
@pytest.mark.parametrize("name", ["exposures_ctf_estimated_all.cs", "J3_exposures.csg"])
def test_exposures_are_read_from_one_table_or_two(real_data: Path, name: str) -> None:
    micrographs = cs.read_micrographs(real_data / "cryosparc_project/J3" / name)
    assert len(micrographs) == 3
    assert all(Path(path).is_file() for path in micrographs.paths)
    assert micrographs.shape.tolist() == [[384, 512]] * 3
    assert micrographs.pixel_size.tolist() == [1.25] * 3
    assert micrographs.ctf_type == ("spline",) * 3
    (optics,) = micrographs.optics
    assert (optics.group_id, optics.voltage_kv, optics.pixel_size) == (7, 300.0, 1.25)
    assert optics.cs_mm == pytest.approx(2.7)
    assert optics.amplitude_contrast == pytest.approx(0.1)
    assert micrographs.ctf["defocus_angle_degrees"][0] == pytest.approx(np.degrees(-0.31215867))


@pytest.mark.real
def test_the_root_is_where_micrographs_are_looked_for(real_data: Path, tmp_path: Path) -> None:
    path = real_data / "cryosparc_project/J4/picked_micrographs.cs"
    assert cs.read_micrographs(path, start=Start.here(tmp_path)).paths[0].startswith(str(tmp_path))


def test_the_dose_weighted_micrograph_is_preferred(tmp_path: Path) -> None:
    other = {"micrograph_blob_non_dw/path": ("S6", [b"no.mrc", b"no2mrc"])}
    assert cs.read_micrographs(saved(tmp_path / "t.cs", exposures(**other))).names == ("a.mrc", "bb.mrc")


def test_paths_of_exported_tables_start_from_the_table(tmp_path: Path) -> None:
    (tmp_path / "a.mrc").touch()
    table = exposures(**{"micrograph_blob/path": ("S6", [b">a.mrc", b">b.mrc"])})
    micrographs = cs.read_micrographs(saved(tmp_path / "t.cs", table))
    assert micrographs.names == ("a.mrc", "b.mrc")
    assert micrographs.paths[0] == str(tmp_path / "a.mrc")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"uid": ("<u8", 5)}, "uid 5 stands for 2 micrographs"),
        (
            {"micrograph_blob/path": None},
            r"no micrographs: missing micrograph_blob/path; the table has micrograph_blob/\*",
        ),
        ({"micrograph_blob/idx": ("<u4", [0, 3])}, "bb.mrc: is image 3 of a stack"),
        ({"micrograph_blob/path": ("S6", b"")}, "is not the path of a micrograph"),
    ],
)
def test_unusable_micrograph_tables_are_refused(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        cs.read_micrographs(saved(tmp_path / "t.cs", exposures(**columns)))


def test_exposure_groups_become_optics(tmp_path: Path) -> None:
    table = exposures(**{"mscope_params/exp_group_id": ("<u4", [3, 4]), "mscope_params/accel_kv": ("<f4", [200, 300])})
    micrographs = cs.read_micrographs(saved(tmp_path / "t.cs", table))
    assert [(o.name, o.group_id, o.voltage_kv) for o in micrographs.optics] == [
        ("exp_group_3", 3, 200.0),
        ("exp_group_4", 4, 300.0),
    ]
    assert micrographs.optics_index.tolist() == [0, 1]
    assert np.isnan(micrographs.optics[0].cs_mm)


# Writing


def load(tmp_path: Path, columns: dict[str, Any], of_exposures: dict[str, Any]) -> tuple[Particles, Micrographs]:
    particles = cs.read_particles(saved(tmp_path / "in.cs", picks(4, **columns)))
    return particles, cs.read_micrographs(saved(tmp_path / "mics.cs", exposures(**of_exposures)))


CTF = {
    "ctf/type": ("S7", b"spline"),
    "ctf/path": ("S5", b"x.npy"),
    "ctf/accel_kv": ("<f4", 300),
    "ctf/cs_mm": ("<f4", 2.7),
    "ctf/amp_contrast": ("<f4", 0.1),
    "ctf/df1_A": ("<f4", [11000, 12000]),
    "ctf/df2_A": ("<f4", [10000, 11000]),
    "ctf/df_angle_rad": ("<f4", [0.7, -0.3]),
    "ctf/phase_shift_rad": ("<f4", [0, 1.5]),
    "ctf/cross_corr_ctffind4": ("<f4", 0.2),
    "mscope_params/exp_group_id": ("<u4", 9),
}


def test_rows_that_did_not_move_keep_every_byte_of_location_and_alignment(tmp_path: Path) -> None:
    columns = {
        "alignments2D/shift": (("<f4", (2,)), 0.3),
        "alignments2D/psize_A": ("<f4", 3),
        "strange/field": (("<i2", (3,)), 5),
        "location/micrograph_path": ("S9", [b">a.mrc", b">bb.mrc"] * 2),
    }
    particles, micrographs = load(tmp_path, columns, {})
    out = cs.build_particles(particles, micrographs, extracted(particles, micrographs))
    names = fields(particles.table)
    assert fields(out)[: len(names)] == names
    same_content(out[list(names)], particles.table)
    assert all(out.dtype[name] == particles.table.dtype[name] for name in names)


def test_images_are_described_by_size_pixel_size_and_place(tmp_path: Path) -> None:
    particles, micrographs = load(tmp_path, {"blob/path": ("S3", b"old"), "blob/import_sig": ("<u8", 7)}, {})
    rows = np.array([1, 2])
    out = cs.build_particles(
        particles,
        micrographs,
        extracted(
            particles,
            micrographs,
            rows=rows,
            micrograph=np.array([1, 0]),
            slot=np.array([5, 0]),
            moved=np.zeros(2, bool),
            center=np.zeros((2, 2), np.int64),
            steps=Recipe(box=64, invert=True).steps(),
        ),
    )
    assert out["uid"].tolist() == [2, 3]
    assert out["blob/path"].tolist() == [b">stacks/m1_particles.mrc", b">stacks/m0_particles.mrc"]
    assert out["blob/idx"].tolist() == [5, 0]
    assert out["blob/shape"].tolist() == [[32, 32]] * 2
    assert out["blob/psize_A"].tolist() == [3.0, 3.0]
    assert out["blob/sign"].tolist() == [1.0, 1.0]
    assert out["blob/import_sig"].tolist() == [0, 0]


def test_rows_that_moved_get_location_and_alignments_anew_and_the_others_do_not(tmp_path: Path) -> None:
    columns = {
        "alignments3D/shift": (("<f4", (2,)), 0.3),
        "alignments3D/psize_A": ("<f4", 3),
        "m/shift": (("<f4", (2, 2)), 0.4),
        "m/psize_A": ("<f4", 3),
    }
    particles, micrographs = load(tmp_path, columns, {"micrograph_blob/path": ("S12", [b"a.mrc", b"longer/b.mrc"])})
    moved = np.array([True, True, False, False])
    center = np.array([[10, 20], [30, 40], [50, 60], [70, 80]])
    alignments = tuple(replace(a, shift=a.shift + np.array([1.0, 2.0])) for a in particles.alignments)
    shape = np.array([[600, 400], [300, 200]])
    out = cs.build_particles(
        particles,
        micrographs,
        extracted(particles, micrographs, moved=moved, center=center, alignments=alignments, shape=shape),
    )
    old = particles.table
    assert (out["location/center_x_frac"] * out["location/micrograph_shape"][:, 1])[:2].tolist() == pytest.approx(
        [20, 40]
    )
    assert (out["location/center_y_frac"] * out["location/micrograph_shape"][:, 0])[:2].tolist() == pytest.approx(
        [10, 30]
    )
    assert out["location/center_x_frac"][2:].tolist() == old["location/center_x_frac"][2:].tolist()
    assert out["location/micrograph_path"].tolist() == [b"a.mrc", b"longer/b.mrc"] * 2
    assert out["location/micrograph_shape"].tolist() == [[600, 400], [300, 200]] * 2
    np.testing.assert_array_equal(out["alignments3D/shift"][:2], np.array([[2.3, 1.3]] * 2, np.float32))
    np.testing.assert_array_equal(out["alignments3D/shift"][2:], old["alignments3D/shift"][2:])
    np.testing.assert_array_equal(out["m/shift"][0], np.array([[2.4, 1.4]] * 2, np.float32))
    assert out["alignments3D/psize_A"].tolist() == [3.0] * 4


def test_rows_of_one_micrograph_agree_after_some_of_them_moved(tmp_path: Path) -> None:
    particles, micrographs = load(tmp_path, {}, {"micrograph_blob/psize_A": ("<f4", 1.49)})
    moved = np.array([True, False, False, False])
    table = cs.build_particles(particles, micrographs, extracted(particles, micrographs, moved=moved))
    again = cs.read_particles(saved(tmp_path / "out.cs", table))
    assert again.grid_pixel_size is not None
    assert again.grid_pixel_size.tolist() == pytest.approx([1.49, 1.5])


def test_moved_picks_of_an_exported_micrograph_table_name_the_whole_path(tmp_path: Path) -> None:
    particles, micrographs = load(tmp_path, {}, {"micrograph_blob/path": ("S7", [b">a.mrc", b">bb.mrc"])})
    micrographs = replace(micrographs, names=("J1/a.mrc", "J1/b.mrc"))
    out = cs.build_particles(particles, micrographs, extracted(particles, micrographs, moved=np.ones(4, bool)))
    assert out["location/micrograph_path"][0].decode() == str(Path(micrographs.paths[0]).absolute())


def test_picks_without_ctf_get_their_micrographs(tmp_path: Path) -> None:
    particles, micrographs = load(tmp_path, {}, CTF)
    out = cs.build_particles(
        particles, micrographs, extracted(particles, micrographs, steps=Recipe(box=64, scale_const=2.0).steps())
    )
    table = micrographs.table[particles.micrograph]
    for name in ("type", "accel_kv", "cs_mm", "amp_contrast", "df1_A", "df2_A", "df_angle_rad", "phase_shift_rad"):
        np.testing.assert_array_equal(out[f"ctf/{name}"], table[f"ctf/{name}"], err_msg=name)
        assert out.dtype[f"ctf/{name}"].kind == table.dtype[f"ctf/{name}"].kind
    assert out["ctf/exp_group_id"].tolist() == [9] * 4
    assert out["ctf/scale"].tolist() == [1.0] * 4
    assert out["ctf/scale_const"].tolist() == [2.0] * 4
    assert not out["ctf/anisomag"].any()
    assert out.dtype["ctf/tetra_A"].shape == (4,)
    assert "ctf/path" not in fields(out)
    assert "ctf/cross_corr_ctffind4" not in fields(out)


def test_picks_keep_their_ctf_unless_it_is_to_be_refreshed(tmp_path: Path) -> None:
    own = {"ctf/df1_A": ("<f4", 5000), "ctf/scale_const": ("<f4", 0), "ctf/tilt_A": (("<f4", (2,)), 3)}
    particles, micrographs = load(tmp_path, own, CTF)
    kept = cs.build_particles(particles, micrographs, extracted(particles, micrographs))
    assert kept["ctf/df1_A"].tolist() == [5000] * 4
    assert kept["ctf/tilt_A"].tolist() == [[3, 3]] * 4
    assert kept["ctf/scale_const"].tolist() == [1.0] * 4
    fresh = cs.build_particles(particles, micrographs, extracted(particles, micrographs, refresh_ctf=True))
    assert fresh["ctf/df1_A"].tolist() == [11000, 12000] * 2
    assert fresh["ctf/tilt_A"].tolist() == [[0, 0]] * 4


FITTED = {
    "ctf/df1_A": ("<f4", 11000),
    "ctf/df2_A": ("<f4", 11000),
    "ctf/df_angle_rad": ("<f4", 0.5),
    "ctf/accel_kv": ("<f4", 300),
    "ctf/cs_mm": ("<f4", 2.7),
    "ctf/amp_contrast": ("<f4", 0.1),
}


def checked(particles: Particles, micrographs: Micrographs, **recipe: Any) -> tuple[str, ...]:
    """What is said of two tables before any work; every pick is on the micrograph of its number."""
    return check_tables(
        particles,
        micrographs,
        Recipe(box=64, style="cryosparc", **recipe),
        native="cs",
        families=("cs",),
        rows=np.arange(len(particles)),
        micrograph=particles.micrograph,
        pixel_size=micrographs.pixel_size,
    )


def test_the_average_defocus_of_patch_ctf_is_warned_of(tmp_path: Path) -> None:
    particles, micrographs = load(tmp_path, {}, CTF)
    (warning,) = checked(particles, micrographs)
    assert "defocus of 2 micrographs comes from Patch CTF; 4 particles get their micrograph's average" in warning
    assert "Patch CTF Extraction gives local values" in warning


def test_local_defocus_is_not_replaced_by_an_average_unless_that_is_asked_for(tmp_path: Path) -> None:
    particles, micrographs = load(tmp_path, FITTED, CTF)
    assert checked(particles, micrographs) == ()
    with pytest.raises(OptionError, match="4 particles the micrograph's average.*--ctf-average"):
        checked(particles, micrographs, refresh_ctf=True)
    (warning,) = checked(particles, micrographs, refresh_ctf=True, ctf_average=True)
    assert "Patch CTF Extraction" in warning


def test_a_table_without_any_ctf_is_told_of(tmp_path: Path) -> None:
    particles, micrographs = load(tmp_path, {}, {})
    assert "no CTF values" in checked(particles, micrographs)[0]
    assert not any(
        name.startswith("ctf/")
        for name in fields(cs.build_particles(particles, micrographs, extracted(particles, micrographs)))
    )


def test_plain_picks_become_a_whole_table(tmp_path: Path) -> None:
    particles, micrographs = plain_picks(), star_micrographs()
    out = cs.build_particles(particles, micrographs, extracted(particles, micrographs))
    assert fields(out)[0] == "uid"
    assert len(set(out["uid"].tolist())) == 3
    assert out["location/micrograph_path"].tolist() == [b"a.mrc", b"a.mrc", b"bb.mrc"]
    assert len(set(out["location/micrograph_uid"].tolist())) == 2
    assert out["location/min_dist_A"].tolist() == [0.0] * 3
    np.testing.assert_allclose(out["ctf/df_angle_rad"], np.radians([45, 45, -90]), rtol=1e-7)
    assert out["ctf/type"].tolist() == [b"imported"] * 3
    assert out["ctf/exp_group_id"].tolist() == [1] * 3
    np.testing.assert_array_equal(out["pick_stats/ncc_score"], np.array([0.1, 0.2, 0.3], np.float32))
    again = cs.read_particles(saved(tmp_path / "out.cs", out))
    assert again.y.tolist() == pytest.approx([10, 20, 30], abs=1e-4)
    assert truncate(again.x, guard=True).tolist() == [11, 21, 31]


def test_uids_of_plain_picks_are_the_same_in_every_run_and_whatever_is_rejected() -> None:
    particles, micrographs = plain_picks(), star_micrographs()
    everything = extracted(particles, micrographs)
    one = cs.build_particles(particles, micrographs, everything)["uid"]
    some = replace(
        everything,
        picks=np.array([2]),
        rows=np.array([2]),
        micrograph=np.array([1]),
        slot=np.array([0]),
        center=everything.center[2:],
        moved=np.zeros(1, bool),
    )
    assert cs.build_particles(particles, micrographs, some)["uid"].tolist() == one[2:].tolist()
    assert one.tolist() == [
        9331596457627817876,
        17942651353707448601,
        8360405591438205874,
    ]  # as in every earlier version


def test_star_picks_are_referred_to_convert() -> None:
    particles, micrographs = replace(plain_picks(), family="star"), star_micrographs()
    with pytest.raises(OptionError, match="`cryobox convert`"):
        cs.build_particles(particles, micrographs, extracted(particles, micrographs))


def test_rejected_picks_keep_their_columns_and_say_why(tmp_path: Path) -> None:
    particles, micrographs = load(tmp_path, {"empty/path": ("S0", b"")}, {})
    rejected = extracted(
        particles,
        micrographs,
        rows=np.array([3, 0]),
        micrograph=np.array([-1, 0]),
        moved=np.zeros(2, bool),
        reasons=("no such micrograph", "box over the edge"),
    )
    cs.write_rejected(tmp_path / "rejected.cs", particles, micrographs, rejected)
    out = read_table(tmp_path / "rejected.cs")
    assert out["cryobox/reject_reason"].tolist() == [b"no such micrograph", b"box over the edge"]
    assert out.dtype["empty/path"] == np.dtype("S1")
    assert "blob/path" not in fields(out)
    names = [name for name in particles.table.dtype.names if name != "empty/path"]
    same_content(out[names], particles.table[[3, 0]][names])


def test_rejected_plain_picks_keep_their_positions(tmp_path: Path) -> None:
    particles, micrographs = plain_picks(), star_micrographs()
    rejected = extracted(
        particles,
        micrographs,
        rows=np.array([0, 2]),
        micrograph=np.array([0, -1]),
        moved=np.zeros(2, bool),
        reasons=("box over the edge", "no such micrograph"),
    )
    cs.write_rejected(tmp_path / "rejected.cs", particles, micrographs, rejected)
    out = read_table(tmp_path / "rejected.cs")
    assert out["cryobox/center_y"].tolist() == [10.5, 30.0]
    assert out["location/micrograph_path"].tolist() == [b"a.mrc", b"bb"]
    assert out["location/center_y_frac"][0] == np.float32(10.5 / 300)
    assert np.isnan(out["location/center_y_frac"][1])


def test_incomplete_micrographs_are_listed_with_the_reason(tmp_path: Path) -> None:
    _, micrographs = load(tmp_path, {}, CTF)
    cs.write_incomplete(tmp_path / "inc.cs", micrographs, np.array([1]), ("file is truncated",))
    out = read_table(tmp_path / "inc.cs")
    assert out["cryobox/incomplete_reason"].tolist() == [b"file is truncated"]
    assert out["ctf/path"].tolist() == [b"x.npy"]
    assert cs.read_micrographs(tmp_path / "inc.cs").names == ("bb.mrc",)
    cs.write_incomplete(tmp_path / "inc.cs", star_micrographs(), np.array([0]), ("gone",))
    assert cs.read_micrographs(tmp_path / "inc.cs").names == ("a.mrc",)


@pytest.mark.parametrize("read", [True, False])
def test_a_table_of_no_particles_is_whole(tmp_path: Path, read: bool) -> None:
    particles, micrographs = load(tmp_path, {}, CTF) if read else (plain_picks(), star_micrographs())
    nothing = {
        name: np.zeros(shape, kind)
        for name, shape, kind in (
            ("rows", 0, np.intp),
            ("micrograph", 0, np.intp),
            ("slot", 0, np.int64),
            ("center", (0, 2), np.int64),
            ("moved", 0, np.bool_),
        )
    }
    out = cs.build_particles(particles, micrographs, extracted(particles, micrographs, **nothing))
    assert len(out) == 0
    assert {"uid", "blob/path", "location/micrograph_path", "ctf/df1_A"} <= set(fields(out))
    assert len(cs.read_particles(saved(tmp_path / "none.cs", out))) == 0


@pytest.mark.real
@pytest.mark.parametrize(
    "name", ["J6/J6_particles.csg", "J8/J8_particles_exported.csg", "J8/J8_particles_exported_csdat.cs"]
)
def test_recentered_particles_point_at_the_true_centers_also_after_writing(
    real_data: Path, tmp_path: Path, name: str
) -> None:
    project = real_data / "cryosparc_project"
    truth = np.load(project / "truth.npz")
    micrographs = cs.read_micrographs(project / "J3/J3_exposures.csg")
    header = ImageHeader(
        shape=(384, 512), dtype=np.dtype("<f4"), offset=1024, pixel_size=1.25, file_size=787456, mtime_ns=0
    )
    particles = cs.read_particles(project / name)
    before = None
    for _ in range(2):  # the second time from our own table
        plan = build_plan(
            particles,
            micrographs,
            Recipe(box=64, sizes=(32,)),
            match=match_micrographs(particles, micrographs)[0],
            headers=dict.fromkeys(range(3), header),
        )
        rows = np.sort(plan.work.rows)
        moved = extracted(
            particles,
            micrographs,
            rows=rows,
            micrograph=plan.micrograph[rows],
            slot=np.arange(len(rows)),
            center=plan.places.center[rows],
            moved=plan.places.moved[rows],
            alignments=tuple(
                replace(a, shift=a.shift[rows], pixel_size=a.pixel_size[rows]) for a in plan.places.alignments
            ),
        )
        table = cs.build_particles(particles, micrographs, moved)
        particles = cs.read_particles(saved(tmp_path / "out.cs", table))
        order = {int(uid): row for row, uid in enumerate(truth["uid"])}
        of = [order[int(uid)] for uid in particles.table["uid"]]
        true = np.stack([truth["y"], truth["x"]], axis=1)[of]
        center = np.stack([particles.y, particles.x], axis=1)
        leading = next(a for kind in ("3d", "2d") for a in particles.alignments if a.kind == kind)
        residual = leading.shift * leading.pixel_size[:, None] / 1.25
        assert len(center) == 23
        assert np.abs(center - true).max() <= 0.5 + 1e-4
        assert np.abs(center - residual - true).max() < 1e-4
        assert before is None or (plan.places.center[rows] == before).all()
        before = plan.places.center[rows]


def test_the_same_particles_are_written_as_the_same_bytes(tmp_path: Path) -> None:
    particles, micrographs = load(tmp_path, {}, CTF)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        cs.write_particles(tmp_path / name / "particles.cs", particles, micrographs, extracted(particles, micrographs))
    for name in ("particles.cs", "particles.csg"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


# Fractions


@settings(max_examples=500, deadline=None)
@given(st.integers(1, 20_000), st.data())
def test_a_center_survives_its_fraction(extent: int, data: st.DataObject) -> None:
    center = data.draw(st.integers(-4096, extent + 4096))
    fraction = fraction_of(np.array([center]), np.array([extent]))
    assert fraction.dtype == np.float32
    position = fraction.astype(np.float64) * extent
    assert np.trunc(position)[0] == center
    assert truncate(position, guard=True)[0] == center
    assert np.trunc(fraction * np.float32(extent))[0] == center  # a reader that multiplies in single precision
    assert center < 0 or np.trunc(position + 1e-3)[0] == center


@pytest.mark.parametrize("extent", [3838, 3710, 4092, 5760, 11520, 4096, 7676, 959])
def test_every_center_of_common_detectors_survives_its_fraction(extent: int) -> None:
    center = np.arange(-600, extent + 600)
    position: NDArray[np.float64] = fraction_of(center, np.full(len(center), extent)).astype(np.float64) * extent
    np.testing.assert_array_equal(truncate(position, guard=True), center)
    np.testing.assert_array_equal(np.trunc(position), center)


def test_a_uid_that_two_picks_have_is_refused(tmp_path: Path) -> None:
    table = picks()
    table["uid"][:2] = 7
    with pytest.raises(InputError, match=r"picks\.cs: uid 7 stands for 2 particles; picks could not be told apart"):
        cs.read_particles(saved(tmp_path / "picks.cs", table))
