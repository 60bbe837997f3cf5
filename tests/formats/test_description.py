"""What `cryobox info` says of every kind of file and folder that is read."""

from __future__ import annotations

import bz2
import gzip
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import mrcfile
import numpy as np
import pytest

import synth
from cryobox import Recipe, RunOptions, run
from cryobox.errors import InputError
from cryobox.formats import describe

TOPAZ = "image_name\tx_coord\ty_coord\tscore\nb\t10\t20\t6.5\na\t30\t40\t-1\nb\t5\t6\t0\n"
CBOX = "data_cryolo\nloop_\n_CoordinateX\n_CoordinateY\n_Width\n_Height\n0 0 4 4\n"
XMD = "data_a\nloop_\n_micrograph\n_xcoor\n_ycoor\na 1 2\nb 3 4\n"
STAR = "data_\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n10 20\n"


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def sections(path: Path, shape: tuple[int, int, int], *, ispg: int, mz: int = 1, dtype: str = "float32") -> Path:
    """An MRC file of several sections."""
    with mrcfile.new(path, np.zeros(shape, dtype)) as file:
        file.header.ispg = ispg
        file.header.mz = mz
        file.voxel_size = 1.5
    return path


@pytest.mark.parametrize("packing", ["", ".gz", ".bz2"])
@pytest.mark.parametrize(
    ("name", "shape", "ispg", "mz", "said"),
    [
        ("movie.mrc", (32, 4, 8), 0, 1, "stack of 32 images of 4 x 8 pixels (ny x nx), float32, 1.5 Å per pixel"),
        ("stack.mrcs", (3, 6, 6), 0, 1, "stack of 3 images of 6 x 6 pixels (ny x nx), float32"),
        ("old.mrcs", (3, 6, 4), 1, 3, "stack of 3 images of 6 x 4 pixels (ny x nx), float32"),
        ("one.mrcs", (1, 6, 4), 0, 1, "stack of 1 image of 6 x 4 pixels (ny x nx), float32"),
        ("map.mrc", (5, 43, 73), 1, 5, "volume of 5 x 43 x 73 pixels (nz x ny x nx), float32"),
        ("map.map", (5, 43, 73), 4, 72, "volume of 5 x 43 x 73 pixels (nz x ny x nx), float32"),
        ("maps.mrc", (6, 4, 8), 401, 3, "stack of 2 volumes of 3 x 4 x 8 pixels (nz x ny x nx), float32"),
        ("mic.mrc", (1, 4, 8), 1, 1, "micrograph of 4 x 8 pixels (ny x nx), float32"),
    ],
)
def test_an_mrc_file_is_named_by_its_sections_and_space_group(
    tmp_path: Path, name: str, shape: tuple[int, int, int], ispg: int, mz: int, said: str, packing: str
) -> None:
    path = sections(tmp_path / name, shape, ispg=ispg, mz=mz)
    if packing:
        pack = gzip.compress if packing == ".gz" else bz2.compress
        path = write(Path(f"{path}{packing}"), pack(path.read_bytes()))
    first = describe(path)[0]
    assert first.startswith(f"{path}: {said}")


def test_a_big_endian_stack_says_so(tmp_path: Path) -> None:
    path = sections(tmp_path / "s.mrc", (2, 4, 8), ispg=0, dtype="int16")
    raw = path.read_bytes()
    header = np.frombuffer(raw[:1024], mrcfile.dtypes.HEADER_DTYPE).byteswap()
    header["machst"] = [0x11, 0x11, 0, 0]
    write(path, header.tobytes() + raw[1024:])
    said = "stack of 2 images of 4 x 8 pixels (ny x nx), int16 (big-endian), 1.5 Å per pixel"
    assert describe(path) == [f"{path}: {said}"]


def test_a_stack_cut_short_is_said_to_be_short(tmp_path: Path) -> None:
    path = sections(tmp_path / "s.mrc", (3, 4, 8), ispg=0)
    write(path, path.read_bytes()[:-10])
    with pytest.raises(
        InputError, match=r"promises 3 x 4 x 8 float32 \(384 bytes\), file holds 374; copied incompletely"
    ):
        describe(path)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("p.txt", TOPAZ, "3 picks on 2 micrographs, x from 5 to 30, y from 6 to 40, scores from -1 to 6.5"),
        ("p.csv", "x,y\n1,2\n3,4\n", "2 picks, x from 1 to 3, y from 2 to 4"),
        ("p.csv", "x,y\nnan,2\n3,4\n", "2 picks, x from 3 to 3 (1 not finite), y from 2 to 4"),
        ("p.csv", "x,y,score\n1,2,\n", "1 picks, x from 1 to 1, y from 2 to 2, scores without a finite number"),
        ("p.tsv", "x\ty\n1\t2\n", "1 picks, x from 1 to 1, y from 2 to 2"),
        ("p.box", "0 0 4 4\n", "1 picks, x from 2 to 2, y from 2 to 2"),
        ("p.cbox", CBOX, "1 picks, x from 2 to 2"),
        ("m_info.json", '{"boxes":[[1,2,"manual"]]}', "1 picks, x from 1 to 1, y from 2 to 2"),
        ("m_info.json", '{"quality":5}', "0 picks"),
        ("m.pos", "data_particles\nloop_\n_enabled\n_xcoor\n_ycoor\n1 1 2\n-1 3 4\n", "1 picks, x from 1 to 1"),
        ("m.xmd", XMD, "2 picks on 2 micrographs, x from 1 to 3"),
        ("m.coords", "x y density\n1 2 3\n", "1 picks, x from 1 to 1, y from 2 to 2"),
        ("m.coord", "", "0 picks"),
        ("m.star", STAR, "STAR file of 1 blocks"),
        ("m.star", "", "empty file: no picks"),
        ("m.star", "\n", "empty file: no picks"),
    ],
)  # fmt: skip
def test_a_file_of_picks_is_described_as_extract_reads_it(tmp_path: Path, name: str, text: str, said: str) -> None:
    path = write(tmp_path / name, text)
    assert describe(path)[0].startswith(f"{path}: {said}")


def test_a_table_of_cryosparc_is_described(tmp_path: Path) -> None:
    path = synth.write_cs(tmp_path / "p.cs", {"uid": np.arange(3, dtype="<u8"), "blob/shape": np.ones((3, 2), "<u4")})
    group = write(tmp_path / "p.csg", "results:\n  blob: {metafile: '>p.cs', num_items: 3, type: particle.blob}\n")
    assert describe(path) == [f"{path}: CryoSPARC table of 3 rows, 2 fields", "  uid: <u8", "  blob/shape: <u4[2]"]
    assert describe(group)[0] == f"{group}: CryoSPARC group of 3 rows, 2 fields"


def test_a_tiff_is_described(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path / "m.tif", np.zeros((4, 8), "uint16"))
    assert describe(tmp_path / "m.tif")[0].startswith(
        f"{tmp_path / 'm.tif'}: micrograph of 4 x 8 pixels (ny x nx), uint16"
    )


def test_folders_of_picks_and_of_micrographs_are_described(tmp_path: Path) -> None:
    write(tmp_path / "picks/a.star", STAR)
    write(tmp_path / "picks/b.star", STAR)
    assert describe(tmp_path / "picks") == [
        f"{tmp_path / 'picks'}: 2 picks on 2 micrographs, x from 10 to 10, y from 20 to 20"
    ]
    folder = tmp_path / "mics"
    folder.mkdir()
    for name in ("b.mrc", "a.mrc"):
        synth.write_mrc(folder / name, synth.micrograph((6, 8)))
    assert describe(folder) == [f"{folder}: 2 micrographs, from {folder / 'a.mrc'} to {folder / 'b.mrc'}"]
    write(folder / "a.box", "0 0 4 4\n")
    write(folder / "job.json", '{"project_uid":"P1"}')
    assert [line.split(": ", 1)[1][:12] for line in describe(folder)] == ["1 picks, x f", "2 micrograph"]
    write(folder / "b.star", "data_general\n_rlnMicrographBinning 1\n")
    assert [line.split(": ", 1)[1][:12] for line in describe(folder)] == ["1 picks, x f", "2 micrograph"]
    (folder / "a.box").unlink()
    assert [line.split(": ", 1)[1][:12] for line in describe(folder)] == ["2 micrograph"], (
        "what is no picks is left out"
    )


def test_a_finished_run_is_described_by_folder_and_by_record(tmp_path: Path) -> None:
    synth.write_mrc(tmp_path / "m.mrc", synth.micrograph((60, 80), "float32"), pixel_size=1.5)
    write(tmp_path / "m.csv", "x,y\n40,30\n2,2\n")
    run(tmp_path / "m.csv", micrographs=tmp_path / "m.mrc", out=tmp_path / "out", recipe=Recipe(box=32),
        options=RunOptions(fsync=False))  # fmt: skip
    lines = describe(tmp_path / "out")
    assert lines[0].startswith(f"{tmp_path / 'out'}: finished run of cryobox ")
    assert lines[0].endswith(": 2 picks, 1 extracted, 1 micrographs")
    assert lines[1:] == [
        "  box 32 pixels, stored as 32, float32",
        "  1 rejected: box over the edge",
        "  table particles.star",
        "  table rejected.star",
    ]
    assert describe(tmp_path / "out/job.json")[1:] == lines[1:]
    other = (tmp_path / "out/job.json").rename(tmp_path / "yesterday.json")
    assert describe(other)[1:] == lines[1:]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("job.json", "{", r"not the job\.json of a finished run: "),
        ("job.json", "[]", r"not the job\.json of a finished run: "),
        ("job.json", '{"recipe":{"sizes":"ab"}}', r"not the job\.json of a finished run: "),
        ("job.json", "[" * 100_000, r"not the job\.json of a finished run: "),
        ("picks.star.gz", "", r"not a known type of picks; .*; unpack it first: tables are not read compressed"),
        ("movie.eer", "", r"not a known type .*; an EER movie must be motion-corrected first"),
        ("notes.md", "", r"not a known type of picks; expected \.star, .* or a folder of them; or an image: \.mrc, "),
        ("settings.json", '{"a":1}', r"not EMAN2's file about a micrograph"),
    ],
)
def test_what_is_not_read_is_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(InputError, match=rf"{name}: {message}"):
        describe(write(tmp_path / name, text))


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "x/notes.md", "")
    with pytest.raises(
        InputError, match=r"x: holds no coordinate files; .*; it holds no micrographs and no job\.json of a fin"
    ):
        describe(tmp_path / "x")
    with pytest.raises(InputError, match=r"nowhere: no such file"):
        describe(tmp_path / "nowhere")


@pytest.mark.parametrize("make", [lambda folder: write(folder / "a.star", STAR), lambda folder: folder])
def test_two_descriptions_in_one_process_are_the_same(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    """In a process of its own: the first one imports what the second one must not stumble over."""
    path = make(tmp_path)
    write(tmp_path / "b.star", STAR)
    code = (
        "import sys, cryobox.formats as formats\n"
        "one = formats.describe(sys.argv[1]); two = formats.describe(sys.argv[1])\n"
        "assert one == two and one, (one, two)"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)


def test_star_files_that_are_read_without_a_block_are_described(tmp_path: Path) -> None:
    write(tmp_path / "Movies" / "a_autopick.star", STAR)
    (line,) = describe(write(tmp_path / "coords_suffix_autopick.star", "CtfFind/job003/micrographs_ctf.star\n"))
    assert ": 1 picks, x from 10 to 10" in line
    (line,) = describe(write(tmp_path / "c.star", "# version 50001\n"))
    assert line.endswith("c.star: comments alone: no picks")
