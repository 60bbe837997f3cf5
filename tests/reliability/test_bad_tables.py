"""Tables that are damaged, odd or hostile: the right result, or an error that says what is wrong; never a traceback."""

from __future__ import annotations

import io
import os
import pickle
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import cryobox
import synth
from reliability.scene import Scene, contents, make_scene

NAMES = ("mics/m0000.mrc", "mics/m0001.mrc")
HEAD = "data_particles\n\nloop_\n_rlnMicrographName #1\n_rlnCoordinateX #2\n_rlnCoordinateY #3\n"
ROWS = "mics/m0000.mrc 48 48\nmics/m0001.mrc 50 60\n"


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    """Two micrographs; tests write the picks. Paths are relative: the working directory is the scene's."""
    monkeypatch.chdir(tmp_path)
    return make_scene(tmp_path, 2)


Told = Callable[..., tuple[int, str]]


@pytest.fixture
def tell(capfd: pytest.CaptureFixture[str]) -> Told:
    """Run the command line in this process: exit code, and all that it says. Any other exception fails the test."""

    def run(*arguments: str) -> tuple[int, str]:
        from cryobox.cli import main

        with pytest.raises(SystemExit) as leaving:
            main(["extract", *arguments, "-o", "out", "--box", "40", "--no-report", "--workers", "1"])
        said = capfd.readouterr()
        assert isinstance(leaving.value.code, int)
        return leaving.value.code, said.out + said.err

    return run


RIGHT = {
    "as it should be": HEAD + ROWS,
    "Windows line ends": (HEAD + ROWS).replace("\n", "\r\n"),
    "old Macintosh line ends": (HEAD + ROWS).replace("\n", "\r"),
    "a byte order mark": "\ufeff" + HEAD + ROWS,
    "tabs": (HEAD + ROWS).replace(" ", "\t"),
    "quotes": HEAD + ROWS.replace("mics/m0000.mrc", "'mics/m0000.mrc'").replace("mics/m0001.mrc", '"mics/m0001.mrc"'),
    "comments": "# made by hand\n" + HEAD + "# first\n" + ROWS + "# last\n",
    "no newline at the end": HEAD + ROWS.rstrip("\n"),
    "empty lines between rows": HEAD + ROWS.replace("\n", "\n\n"),
    "exponents": HEAD + ROWS.replace("48 48", "4.8e1 +48.0E+0"),
    "other blocks before and after": "data_general\n\n_rlnThing 3\n\n" + HEAD + ROWS + "\ndata_after\n\nloop_\n_a\n1\n",
    "columns that nobody knows": HEAD + "_some #4\n" + ROWS.replace("48\n", "48 x\n").replace("60\n", "60 'y z'\n"),
}  # fmt: skip


@pytest.mark.parametrize("form", RIGHT)
def test_any_way_to_write_the_same_table_gives_the_same_stacks(scene: Scene, tell: Told, form: str) -> None:
    (scene.folder / "plain.star").write_text(HEAD + ROWS)
    assert tell("plain.star", "-m", "micrographs.star")[0] == 0
    (scene.folder / "out").rename(scene.folder / "plain")
    (scene.folder / "picks.star").write_bytes(RIGHT[form].encode())
    code, said = tell("picks.star", "-m", "micrographs.star")
    assert code == 0, said
    for path in (scene.folder / "plain" / "stacks").iterdir():
        assert (scene.folder / "out" / "stacks" / path.name).read_bytes() == path.read_bytes()


WRONG: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "the file is empty"),
    "blanks": (" \n \n", "the file is empty"),
    "no block": ("hello\n", "no line begins with data_"),
    "no rows": (HEAD, "holds no picks"),
    "no columns": ("data_particles\n\nloop_\n", "holds no picks"),
    "a block that is cut off": ("data_particles\n", "holds no picks"),
    "a missing column": (HEAD.replace("_rlnCoordinateY #3\n", "") + "a 1\n", "no column _rlnCoordinateY"),
    "a row that is too short": (HEAD + ROWS + "mics/m0000.mrc 3\n", "line 9: 2 values, expected 3"),
    "a row that is too long": (HEAD + ROWS + "mics/m0000.mrc 3 4 5\n", "line 9: 4 values, expected 3"),
    "a word for a number": (HEAD + ROWS.replace("48 48", "48 left"), "row 1: _rlnCoordinateY is 'left'"),
    "a comma for a point": (HEAD + ROWS.replace("48 48", "48 48,5"), "row 1: _rlnCoordinateY is '48,5'"),
    "a block twice": (HEAD + ROWS + HEAD + ROWS, "two blocks are called data_particles"),
    "a column twice": (HEAD + "_rlnCoordinateX #4\n" + ROWS, "has the column _rlnCoordinateX twice"),
    "two loops in a block": (HEAD + ROWS + "loop_\n_b\n1\n", "holds 2 loops"),
    "zero bytes": (b"\0" * 1000, "zero bytes"),
    "a micrograph in its place": (b"\x60\0\0\0" * 400, "zero bytes"),
    "UTF-16": ((HEAD + ROWS).encode("utf-16"), "zero bytes"),
    "names of other micrographs": (HEAD + "mics/other.mrc 48 48\n", "none of its 1 micrograph names"),
    "a gzip file": (b"\x1f\x8b\x08" + bytes(range(1, 200)), "no line begins with data_"),
    "optics that are not there": (
        "data_optics\n\nloop_\n_rlnOpticsGroup\n1\n2\n\n"
        + HEAD.replace("#3\n", "#3\n_rlnOpticsGroup #4\n")
        + "mics/m0000.mrc 48 48 9\n",
        "_rlnOpticsGroup 9 stands 0 times in data_optics",
    ),
}


@pytest.mark.parametrize("fault", WRONG)
def test_a_wrong_table_is_refused_with_the_reason_and_nothing_is_written(scene: Scene, tell: Told, fault: str) -> None:
    text, message = WRONG[fault]
    (scene.folder / "picks.star").write_bytes(text if isinstance(text, bytes) else text.encode())
    code, said = tell("picks.star", "-m", "micrographs.star")
    assert code == 2, said
    assert "cryobox: error: picks.star: " in said
    assert re.search(message, said, re.IGNORECASE), said
    assert not (scene.folder / "out").exists()


@pytest.mark.parametrize(
    ("x", "y", "why"),
    [
        ("nan", "48", "coordinate is not a finite number"),
        ("48", "inf", "coordinate is not a finite number"),
        ("-inf", "NaN", "coordinate is not a finite number"),
        ("1e300", "48", "box outside the micrograph"),
        ("-1e300", "-1e300", "box outside the micrograph"),
        ("9.3e18", "48", "box outside the micrograph"),
        ("1e9", "48", "box outside the micrograph"),
        ("-1", "48", "box over the edge"),
    ],
)
@pytest.mark.parametrize("edges", ["reject", "pad"])
def test_a_coordinate_that_means_no_pixel_is_rejected_with_a_reason(
    scene: Scene, tell: Told, x: str, y: str, why: str, edges: str
) -> None:
    (scene.folder / "picks.star").write_text(f"{HEAD}{ROWS}mics/m0000.mrc {x} {y}\n")
    code, said = tell("picks.star", "-m", "micrographs.star", "--edges", edges)
    assert code == 0, said
    if edges == "pad" and why == "box over the edge":
        return
    text = (scene.folder / "out" / "rejected.star").read_text()
    assert f'{x} {y} "{why}"' in text
    assert (scene.folder / "out" / "stacks" / "m0000_particles.mrcs").stat().st_size == 1024 + 40 * 40 * 4


def _rename(scene: Scene, *names: str) -> None:
    """Give the micrographs other names, in the tables, too."""
    for old, new in zip(scene.names, names, strict=True):
        (scene.folder / new).parent.mkdir(parents=True, exist_ok=True)
        (scene.folder / old).rename(scene.folder / new)
    quoted = [f'"{name}"' if re.search(r"\s", name) or name[0] in "\"'#" else name for name in names]
    (scene.folder / "micrographs.star").write_bytes(
        os.fsencode("data_optics\n\nloop_\n_rlnOpticsGroup\n_rlnMicrographPixelSize\n1 1.5\n\n"
                    "data_micrographs\n\nloop_\n_rlnMicrographName\n_rlnOpticsGroup\n"
                    + "".join(f"{name} 1\n" for name in quoted))
    )  # fmt: skip
    (scene.folder / "picks.star").write_bytes(os.fsencode(HEAD + "".join(f"{name} 70 70\n" for name in quoted)))


ODD_NAMES = {
    "a blank": "mics/a b.mrc",
    "an at sign": "mics/a@b.mrc",
    "a number sign": "mics/a#b.mrc",
    "a quote inside": "mics/a'b.mrc",
    "a double quote inside": 'mics/a"b.mrc',
    "a quote at the start": "'a.mrc",
    "a number sign at the start": "#a.mrc",
    "letters that are not ASCII": "mics/µ-Ångström-粒子.mrc",
    "bytes that are no text": os.fsdecode(b"mics/\xff\xfe.mrc"),
    "a backslash": "mics/a\\b.mrc",
    "glob characters": "mics/[a]*?.mrc",
    "a dollar and a semicolon": "mics/$(touch x);b.mrc",
    "HTML": "mics/<script>alert(1)<|script>.mrc",
    "a leading dash": "-o.mrc",
    "a leading dot": "mics/.hidden.mrc",
    "nothing but dots": "mics/....mrc",
    "a keyword of STAR": "data_x.mrc",
    "another keyword": "loop_.mrc",
    "an underscore first": "_rlnX.mrc",
    "240 bytes": "mics/" + "n" * 236 + ".mrc",
    "255 bytes": "mics/" + "é" * 125 + "x.mrc",
    "many suffixes": "mics/a.mrc.mrc.mrc",
    "percent signs": "mics/%s%n%08d.mrc",
}


@pytest.mark.parametrize("kind", ODD_NAMES)
def test_an_odd_name_gives_a_safe_stack_that_the_table_names(scene: Scene, tell: Told, kind: str) -> None:
    name = ODD_NAMES[kind]
    try:
        _rename(scene, name, "mics/m0001b.mrc")
    except OSError:
        pytest.skip("this file system has no such names")
    code, said = tell("picks.star", "-m", "micrographs.star")
    assert code == 0, said
    stacks = sorted((scene.folder / "out" / "stacks").iterdir())
    assert len(stacks) == 2
    for path in stacks:
        assert not re.search(r"[\s@#'\"\\<>|*?:;]", path.name.replace(";", "")), path.name
        assert len(os.fsencode(path.name)) <= 255
        assert not path.name.startswith(".")
    gemmi = pytest.importorskip("gemmi")
    if kind == "bytes that are no text":
        assert os.fsencode(name) in (scene.folder / "out" / "particles.star").read_bytes()
        return
    try:
        block = gemmi.cif.read(str(scene.folder / "out" / "particles.star")).find_block("particles")
    except (ValueError, RuntimeError):
        assert kind in (
            "a keyword of STAR",
            "another keyword",
            "an underscore first",
            "letters that are not ASCII",
            "255 bytes",
        )
        return  # RELION reads it; CIF is stricter
    images = [gemmi.cif.as_string(value) for value in block.find_values("_rlnImageName")]
    for image in images:
        assert (scene.folder / image.split("@", 1)[1]).is_file()
    assert name in [gemmi.cif.as_string(value) for value in block.find_values("_rlnMicrographName")]


def test_the_same_stem_in_two_folders_gives_two_stacks(scene: Scene, tell: Told) -> None:
    _rename(scene, "a/mic.mrc", "b/mic.mrc")
    code, said = tell("picks.star", "-m", "micrographs.star")
    assert code == 0, said
    assert len(list((scene.folder / "out" / "stacks").iterdir())) == 2


def test_a_name_that_looks_like_another_ones_stack_gets_a_stack_of_its_own() -> None:
    from cryobox.folder.layout import stack_names

    first, second = stack_names(["a/mic.mrc", "b/mic.mrc"])
    names = ["a/mic.mrc", "b/mic.mrc", f"c/{first}.mrc", f"c/{second.upper()}.mrc", "c/other.mrc", "c/other.mrc"]
    found = stack_names(names)
    assert len({name.casefold() for name in found}) == len(names)
    assert stack_names(["a/mic.mrc", "b/mic.mrc", "c/else.mrc"])[:2] == [first, second]


def test_two_exposures_of_one_path_have_a_stack_each(scene: Scene, tell: Told) -> None:
    columns = {
        "uid": np.array([5, 6], "<u8"),
        "micrograph_blob/path": np.array([NAMES[0].encode()] * 2),
        "micrograph_blob/psize_A": np.full(2, 1.5, "<f4"),
    }
    synth.write_cs(scene.folder / "exposures.cs", columns)
    picks = {
        "uid": np.array([1, 2], "<u8"),
        "location/micrograph_uid": np.array([5, 6], "<u8"),
        "location/micrograph_path": np.array([NAMES[0].encode()] * 2),
        "location/micrograph_shape": np.array([(96, 96)] * 2, "<u4"),
        "location/center_x_frac": np.array([0.5, 0.4], "<f4"),
        "location/center_y_frac": np.array([0.5, 0.5], "<f4"),
    }
    synth.write_cs(scene.folder / "picks.cs", picks)
    code, said = tell("picks.cs", "-m", "exposures.cs")
    assert code == 0, said
    first, second = sorted((scene.folder / "out" / "stacks").iterdir())
    assert first.read_bytes() != second.read_bytes()


def test_stems_that_differ_only_in_bytes_that_are_no_text_give_two_stacks(scene: Scene, tell: Told) -> None:
    _rename(scene, os.fsdecode(b"mics/x\xff.mrc"), os.fsdecode(b"mics/x\xfe.mrc"))
    code, said = tell("picks.star", "-m", "micrographs.star")
    assert code == 0, said
    assert len(list((scene.folder / "out" / "stacks").iterdir())) == 2


def test_an_incomplete_micrograph_whose_name_is_no_text_is_told_of(scene: Scene, tell: Told) -> None:
    _rename(scene, os.fsdecode(b"mics/x\xff.mrc"), "mics/y.mrc")
    os.truncate(scene.folder / os.fsdecode(b"mics/x\xff.mrc"), 2000)
    code, said = tell("picks.star", "-m", "micrographs.star")
    assert code == 1
    assert "copied incompletely" in said
    assert (scene.folder / "out" / "job.json").exists()


def _everything(folder: Path) -> dict[str, str]:
    return contents(folder)


@pytest.mark.parametrize(
    "name", ["../outside/m.mrc", "../../{up}/outside/m.mrc", "{whole}/m.mrc", "mics/../../outside/m.mrc"]
)
def test_no_name_in_a_table_makes_a_file_outside_the_output_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                                   tell: Told, name: str) -> None:  # fmt: skip
    scene = make_scene(tmp_path / "work", 2)
    monkeypatch.chdir(scene.folder)
    outside = tmp_path / "outside"
    outside.mkdir()
    (scene.folder / scene.names[0]).rename(outside / "m.mrc")
    name = name.format(up=tmp_path.name, whole=outside)
    _rename(Scene(scene.folder, (scene.names[1],)), scene.names[1])
    for table, row in (("micrographs.star", f"{name} 1\n"), ("picks.star", f"{name} 70 70\n")):
        with (scene.folder / table).open("a") as file:
            file.write(row)
    before = _everything(outside)
    code, said = tell("picks.star", "-m", "micrographs.star")
    assert code == 0, said
    assert _everything(outside) == before
    assert {path.name for path in scene.folder.iterdir()} == {"mics", "out", "picks.star", "micrographs.star"}
    assert sorted(path.name for path in (scene.folder / "out" / "stacks").iterdir()) == [
        "m0001_particles.mrcs", "m_particles.mrcs",
    ]  # fmt: skip


def test_a_link_in_place_of_a_stack_is_replaced_and_not_followed(scene: Scene, tell: Told) -> None:
    victim = scene.folder / "victim"
    victim.write_text("precious")
    (scene.folder / "out" / "stacks").mkdir(parents=True)
    for name in ("m0000_particles.mrcs", "m0001_particles.mrcs"):
        (scene.folder / "out" / "stacks" / name).symlink_to(victim)
    (scene.folder / "picks.star").write_text(HEAD + ROWS)
    assert tell("picks.star", "-m", "micrographs.star")[0] == 0
    assert victim.read_text() == "precious"


def test_an_input_is_never_replaced_by_an_output(scene: Scene, tell: Told) -> None:
    (scene.folder / "particles.star").write_text(HEAD + ROWS)
    from cryobox.cli import main

    with pytest.raises(SystemExit) as leaving:
        main(["extract", "particles.star", "-m", "micrographs.star", "-o", ".", "--box", "40", "--overwrite"])
    assert leaving.value.code == 2
    assert (scene.folder / "particles.star").read_text() == HEAD + ROWS


@pytest.mark.parametrize("what", ["picks", "micrographs"])
@pytest.mark.parametrize(
    "path", ["x" * 300 + ".star", "no/such/folder/t.star", "mics", "a\nb.star", "/dev/null", "t.star/u.star"]
)
def test_a_path_that_is_no_table_is_refused(scene: Scene, tell: Told, what: str, path: str) -> None:
    (scene.folder / "t.star").write_text(HEAD + ROWS)
    picks, micrographs = (path, "micrographs.star") if what == "picks" else ("t.star", path)
    code, said = tell(picks, "-m", micrographs)
    if what == "micrographs" and path == "mics":
        return  # a folder of micrographs is what it should be
    assert code == 2, said
    assert "cryobox: error: " in said


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch unpickled",)


@pytest.mark.parametrize("suffix", [".cs", ".csg"])
def test_pickled_objects_are_never_loaded(scene: Scene, tell: Told, suffix: str) -> None:
    table = np.array([(1, _Evil())], dtype=[("uid", "<u8"), ("location/micrograph_path", object)])
    with (scene.folder / "picks.cs").open("wb") as file:
        np.save(file, table, allow_pickle=True)
    if suffix == ".csg":
        (scene.folder / "picks.csg").write_text("results: {location: {metafile: '>picks.cs', num_items: 1}}\n")
    code, said = tell(f"picks{suffix}", "-m", "micrographs.star")
    assert code == 2
    assert "Python objects, which are never read" in said
    (scene.folder / "picks.cs").write_bytes(pickle.dumps(_Evil()))
    assert tell("picks.cs", "-m", "micrographs.star")[0] == 2
    assert not (scene.folder / "unpickled").exists()


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['touch unpickled']",
        "results: !!python/object/new:os.system ['touch unpickled']",
        "a: &a [x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nresults: *c",
        "results: {particle: {metafile: '/etc/passwd'}}",
        "results: {particle: {metafile: '>../picks.cs'}}",
        "results: {particle: {metafile: ['x']}}",
        "results: {1: {metafile: 'x.cs'}}",
        "results: []",
        "- 1\n- 2",
        "{" * 5000,
        "\0",
        "",
    ],
)
def test_yaml_is_data_and_names_no_file_outside_its_folder(scene: Scene, tell: Told, text: str) -> None:
    (scene.folder / "picks.csg").write_text(text)
    code, said = tell("picks.csg", "-m", "micrographs.star")
    assert code == 2, said
    assert "cryobox: error: picks.csg: " in said
    assert not (scene.folder / "unpickled").exists()


def _numpy_file(header: str, body: bytes = b"") -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + body


def _descr(columns: str, shape: str, body: bytes = b"") -> bytes:
    return _numpy_file(f"{{'descr': {columns}, 'fortran_order': False, 'shape': {shape}}}", body)


def _csdat(header: str, body: bytes = b"") -> bytes:
    return b"\x95CSDAT" + len(header).to_bytes(4, "little") + header.encode() + body


def _csdat_of(length: int, compressed: str, body: bytes = b"") -> bytes:
    return _csdat(
        f'{{"length": {length}, "dtype": [["uid", "<u8"]], "compression": "lz4", "compressed_fields": {compressed}}}',
        body,
    )


HOSTILE_CS = {
    "more rows than bytes": _descr("[('uid', '<u8')]", "(1000000000000000,)", b"x" * 80),
    "a negative number of rows": _descr("[('uid', '<u8')]", "(-1,)"),
    "rows that overflow": _descr("[('uid', '<u8')]", "(4611686018427387904,)"),
    "a column of 2^31 bytes": _descr("[('uid', '|S2147483647')]", "(1,)"),
    "an array of 2^40 items": _descr("[('uid', '<u8', (1099511627776,))]", "(1,)"),
    "two dimensions": _descr("[('uid', '<u8')]", "(1, 1)", b"x" * 8),
    "no names": _descr("'<u8'", "(1,)", b"x" * 8),
    "a header that is code": _numpy_file("__import__('os').system('touch unpickled')"),
    "a header that is deep": _numpy_file("(" * 9000),
    "a header that is cut off": b"\x93NUMPY\x01\x00\xff\xff{'descr'",
    "a version that is not known": b"\x93NUMPY\x09\x00\x02\x00{}",
    "only the magic": b"\x93NUMPY",
    "CSDAT without anything": b"\x95CSDAT",
    "CSDAT that promises 2^32 bytes": b"\x95CSDAT\xff\xff\xff\xff{}",
    "CSDAT of 2^39 rows": _csdat_of(2**39, '["uid"]', b"\x10\0\0\0" + b"\xff" * 16),
    "CSDAT of negative length": _csdat_of(-5, "[]"),
    "CSDAT whose header is a list": _csdat("[]"),
}


@pytest.mark.parametrize("kind", HOSTILE_CS)
def test_a_hostile_cs_file_is_refused_within_the_memory_of_its_size(scene: Scene, kind: str) -> None:
    (scene.folder / "picks.cs").write_bytes(HOSTILE_CS[kind])
    process = _limited(scene.folder, "picks.cs", "-m", "micrographs.star")
    assert process.returncode == 2, process.stderr
    assert "cryobox: error: picks.cs: " in process.stderr
    assert "Traceback" not in process.stderr
    assert not (scene.folder / "unpickled").exists()


def _limited(folder: Path, *arguments: str, megabytes: int = 600) -> subprocess.CompletedProcess[str]:
    """Run with little memory to spare: a file of some bytes must not need more than a small one."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "cryobox", "extract", *arguments, "-o", "out", "--box", "40",
         "--no-report", "--workers", "1"],
        cwd=folder, capture_output=True, text=True, check=False, timeout=60,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (megabytes << 20, megabytes << 20)),
    )  # fmt: skip


def test_a_bomb_in_a_compressed_micrograph_is_inflated_only_as_far_as_its_header_says(scene: Scene) -> None:
    import gzip

    whole = (scene.folder / scene.names[0]).read_bytes()
    (scene.folder / scene.names[0]).unlink()
    bomb = io.BytesIO()
    with gzip.GzipFile(fileobj=bomb, mode="wb") as file:
        file.write(whole)
        for _ in range(60):
            file.write(bytes(8 << 20))
    (scene.folder / "mics" / "m0000.mrc.gz").write_bytes(bomb.getvalue())
    for table in ("micrographs.star", "picks.star"):
        path = scene.folder / table
        path.write_text(path.read_text().replace("m0000.mrc ", "m0000.mrc.gz "))
    process = _limited(scene.folder, "picks.star", "-m", "micrographs.star", megabytes=400)
    assert process.returncode == 0, process.stderr
    assert "longer than its header says" in process.stderr


def test_a_header_that_promises_gigabytes_does_not_get_them(scene: Scene) -> None:
    import gzip
    import struct

    path = scene.folder / scene.names[0]
    data = bytearray(path.read_bytes())
    struct.pack_into("<2i", data, 0, 40000, 40000)
    path.unlink()
    (scene.folder / "mics" / "m0000.mrc.gz").write_bytes(gzip.compress(bytes(data)))
    for table in ("micrographs.star", "picks.star"):
        text = scene.folder / table
        text.write_text(text.read_text().replace("m0000.mrc ", "m0000.mrc.gz "))
    process = _limited(scene.folder, "picks.star", "-m", "micrographs.star")
    assert process.returncode == 1, process.stderr
    assert re.search("needs 6400000000 bytes of memory|copied incompletely", process.stderr)
    assert "Traceback" not in process.stderr


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("a row of a million columns", lambda: HEAD + "1 " * 1_000_000),
        ("a header of many columns", lambda: "data_a\n\nloop_\n" + "".join(f"_c{i}\n" for i in range(300_000))),
        ("a line of unmatched quotes", lambda: HEAD + '"a ' * 60_000 + "\n"),
        ("a line of both quotes", lambda: HEAD + "\"a' " * 60_000 + "\n"),
        ("ten thousand blocks", lambda: "".join(f"data_{i}\n\nloop_\n_a\n1\n" for i in range(20_000))),
        ("one value of ten megabytes", lambda: HEAD + "x" * 10_000_000 + " 1 2\n"),
        ("a number of a million digits", lambda: HEAD + "mics/m0000.mrc " + "9" * 1_000_000 + " 2\n"),
        ("a million comments", lambda: "# comment\n" * 1_000_000 + HEAD + ROWS),
        ("a million empty lines", lambda: HEAD + "\n" * 1_000_000 + ROWS),
    ],
)  # fmt: skip
def test_a_hostile_star_file_takes_seconds_and_memory_of_its_size(
    scene: Scene, kind: str, make: Callable[[], str]
) -> None:
    (scene.folder / "picks.star").write_text(make())
    process = _limited(scene.folder, "picks.star", "-m", "micrographs.star")
    assert process.returncode in (0, 1, 2), process.stderr[-2000:]
    assert "Traceback" not in process.stderr
    assert len(process.stderr) < 5000, "a message is read by people"


@pytest.mark.parametrize(
    "suffix",
    [".box", ".cbox", ".txt", ".csv", ".tsv", ".star", ".cs", ".csg", ".json", ".pos", ".xmd", ".coord", ".coords"],
)
@pytest.mark.parametrize(
    "data",
    [
        b"", b"\0", b"\n\n\n", b"1\n", b"1 2 3 4 5 6 7\n", b"a,b,c\n", b"x,y\n1\n", b"x,y\n1,2,3\n", b"\xff\xfe\x00",
        b'"', b"x\ty\n\t\n", b"nan nan nan nan\n", b"1e999 1 1 1\n", b"\xef\xbb\xbf", b"x,y\r\n", b"data_cryolo\n",
        b"{}",
    ],
)  # fmt: skip
def test_any_small_file_of_any_type_ends_in_a_message(scene: Scene, tell: Told, suffix: str, data: bytes) -> None:
    (scene.folder / f"m0000{suffix}").write_bytes(data)
    code, said = tell(f"m0000{suffix}", "-m", "micrographs.star")
    assert code in (1, 2), said
    assert f"m0000{suffix}" in said or "nothing" in said


def test_duplicate_uids_are_refused_where_they_decide(scene: Scene, tell: Told) -> None:
    n = 2
    columns = {
        "uid": np.array([5, 5], "<u8"),
        "micrograph_blob/path": np.array([name.encode() for name in NAMES]),
        "micrograph_blob/psize_A": np.full(n, 1.5, "<f4"),
    }
    synth.write_cs(scene.folder / "exposures.cs", columns)
    (scene.folder / "picks.star").write_text(HEAD + ROWS)
    code, said = tell("picks.star", "-m", "exposures.cs")
    assert code == 2
    assert "uid 5 stands for 2 micrographs" in said


def test_the_report_escapes_what_tables_say(scene: Scene, tell: Told) -> None:
    reporting = pytest.importorskip("cryobox.reporting")
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    name = "mics/<img src=x onerror=alert(1)>.mrc"
    _rename(scene, name, "mics/m0001b.mrc")
    os.truncate(scene.folder / name, 3000)
    assert tell("picks.star", "-m", "micrographs.star")[0] == 1
    text = Path(reporting.write_report(scene.folder / "out")).read_text()
    assert "<img src=x" not in text
    assert "onerror=alert(1)" in text, "it is told of, as text"


def test_sizes_that_no_memory_holds_are_refused(scene: Scene) -> None:
    (scene.folder / "picks.star").write_text(HEAD + ROWS)
    for settings in ({"box": 2**31}, {"box": 40, "sizes": (2**31,)}, {"box": 32770}, {"box": 2**70}):
        with pytest.raises(cryobox.CryoboxError):
            cryobox.run(
                "picks.star",
                micrographs="micrographs.star",
                out="out",
                recipe=cryobox.Recipe(**settings),  # type: ignore[arg-type]
            )
