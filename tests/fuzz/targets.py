"""What is fuzzed: every reader, fed with any bytes. A reader may refuse them with an error of ours, and nothing else.

Each target takes bytes, and raises only if something is wrong. Seeds are tiny files that it should read.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import synth
from cryobox.errors import CryoboxError
from cryobox.options import Recipe

__all__ = ["TARGETS", "Target", "run_one", "seeds"]

Target = Callable[[Path, bytes], None]

_RECIPE = Recipe(box=16, sizes=(12,))
_MOST_PIXELS = 2**24  # a header may promise more; then only the promise is read


def _mrc(folder: Path, data: bytes, name: str = "m.mrc") -> None:
    from cryobox.formats.images import PixelReader, read_header
    from cryobox.formats.mrc import read_stack_header

    path = folder / name
    path.write_bytes(data)
    if name.endswith(".mrc"):
        _allowed(lambda: read_stack_header(str(path)))
    header = read_header(str(path))
    assert header.shape[0] >= 1
    assert header.shape[1] >= 1
    if header.offset >= 0:
        assert header.offset + header.shape[0] * header.shape[1] * header.dtype.itemsize <= len(data)
    if header.shape[0] * header.shape[1] <= _MOST_PIXELS:
        image = PixelReader().read(str(path), header)
        assert image.shape == header.shape
        assert image.dtype == header.dtype
        half = PixelReader().read(str(path), header, rows=(header.shape[0] // 2, header.shape[0]))
        rows = slice(header.shape[0] // 2, None)
        assert half[rows].tobytes() == image[rows].tobytes()


def _gz(folder: Path, data: bytes) -> None:
    _mrc(folder, data, "m.mrc.gz")


def _bz2(folder: Path, data: bytes) -> None:
    _mrc(folder, data, "m.mrc.bz2")


def _tiff(folder: Path, data: bytes) -> None:
    _mrc(folder, data, "m.tif")


def _star(folder: Path, data: bytes) -> None:
    from cryobox.formats import star

    path = folder / "t.star"
    path.write_bytes(data)
    _allowed(lambda: star.read_micrographs(path))
    _allowed(lambda: star.read_coordinates(path))
    particles = star.read_particles(path)
    n = len(particles)
    assert particles.y.shape == particles.x.shape == particles.micrograph.shape == (n,)
    if n:
        assert 0 <= particles.micrograph.min() <= particles.micrograph.max() < len(particles.micrograph_names)


def _cs(folder: Path, data: bytes) -> None:
    from cryobox.formats import cs
    from cryobox.formats.cs_table import read_table, write_table

    path = folder / "t.cs"
    path.write_bytes(data)
    table = read_table(path)
    # A CSDAT file may expand, within a bound; a NumPy one holds what it says.
    assert table.nbytes <= (1000 * len(data) + 2**21 if data.startswith(b"\x95") else len(data))
    again = folder / "again.cs"
    write_table(again, table)
    assert read_table(again).tobytes() == table.tobytes()
    _allowed(lambda: cs.read_micrographs(path))
    cs.read_particles(path)


def _csg(folder: Path, data: bytes) -> None:
    from cryobox.formats import cs

    (folder / "picks.cs").write_bytes(_SEEDS["plan_cs"][0])
    path = folder / "t.csg"
    path.write_bytes(data)
    _allowed(lambda: cs.read_micrographs(path))
    cs.read_particles(path)


def _text(name: str) -> Target:
    def target(folder: Path, data: bytes) -> None:
        from cryobox.formats import read_coordinate_file

        path = folder / name
        path.write_bytes(data)
        y, x, score, _ = read_coordinate_file(path)
        assert y.shape == x.shape
        assert score is None or score.shape == y.shape

    return target


def _markers(folder: Path, data: bytes) -> None:
    from cryobox.markers import read_markers

    path = folder / "t.cmm"
    path.write_bytes(data)
    points = read_markers(str(path))
    assert points
    assert np.isfinite(points).all()


def _helix(suffix: str) -> Target:
    """A file of filaments, as ends and as segments."""

    def target(folder: Path, data: bytes) -> None:
        from cryobox.formats.helix_files import read_traced

        path = folder / f"t{suffix}"
        path.write_bytes(data)
        _allowed(lambda: read_traced(path, "segments"))
        found = read_traced(path, "ends")
        if found is not None:
            assert found[0].shape == found[1].shape == found[3].tube.shape

    return target


def _info(folder: Path, data: bytes) -> None:
    """What `cryobox info` says of a file of any kind; the first byte is the kind."""
    from cryobox.formats import describe

    kinds = ("mrc", "mrcs.gz", "star", "cs", "csg", "box", "csv", "json", "pos", "coords")
    path = folder / f"t.{kinds[data[0] % len(kinds)] if data else kinds[0]}"
    path.write_bytes(data[1:])
    lines = describe(path)
    assert str(path) in lines[0]


def _ledger(folder: Path, data: bytes) -> None:
    from cryobox.folder.ledger import read_ledger

    path = folder / "ledger.jsonl"
    path.write_bytes(data)
    read_ledger(path)


def _plan(name: str, **asked: Any) -> Target:
    """The whole way from a table of picks to a plan."""

    def target(folder: Path, data: bytes) -> None:
        from cryobox.given import Given
        from cryobox.inputs import prepare

        micrograph = folder / "m.mrc"
        if not micrograph.exists():
            synth.write_mrc(micrograph, synth.micrograph((48, 64)), pixel_size=1.5)
        path = folder / name
        path.write_bytes(data)
        inputs = prepare(Given.of(path, micrograph, folder), recipe=replace(_RECIPE, **asked))
        plan = inputs.plan
        assert len(plan.work.rows) + sum(plan.counts().values()) == len(inputs.particles)
        for task in plan.tasks:
            assert (task.windows.corner >= 0).all()
            assert (task.windows.corner + 16 <= np.array(task.header.shape)).all()

    return target


TARGETS: dict[str, Target] = {
    "mrc": _mrc,
    "mrc_gz": _gz,
    "mrc_bz2": _bz2,
    "tiff": _tiff,
    "star": _star,
    "cs": _cs,
    "csg": _csg,
    "box": _text("t.box"),
    "cbox": _text("t.cbox"),
    "helix_box": _helix(".box"),
    "helix_cbox": _helix(".cbox"),
    "csv": _text("t.csv"),
    "txt": _text("t.txt"),
    "eman2": _text("t_info.json"),
    "xmipp": _text("t.pos"),
    "xmd": _text("t.xmd"),
    "coords": _text("t.coords"),
    "cmm": _markers,
    "info": _info,
    "ledger": _ledger,
    "plan_star": _plan("p.star"),
    "plan_cs": _plan("p.cs"),
    "plan_csv": _plan("p.csv"),
    "plan_ends": _plan("m.star", helix="ends", inter_box_distance=9.0),
    "plan_segments": _plan("m.star", helix="segments"),
}


@cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="fuzz-")


def run_one(name: str, data: bytes) -> bool:
    """Feed a target; whether it took the bytes for what it reads. Raises if something is wrong."""
    folder = Path(_scratch().name) / f"{name}-{os.getpid()}"
    folder.mkdir(exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return _allowed(lambda: TARGETS[name](folder, data))


def _allowed(call: Callable[[], object]) -> bool:
    try:
        call()
    except CryoboxError as error:
        if not str(error):
            raise AssertionError("an error must say what is wrong") from error
        return False
    return True


def seeds(name: str) -> list[bytes]:
    """Tiny files that a target reads."""
    return list(_SEEDS[name])


def _mrc_seeds() -> list[bytes]:
    found = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.mrc"
        for dtype in synth.MRC_MODES:
            synth.write_mrc(path, synth.micrograph((6, 8), dtype), pixel_size=1.5, extended_header=b"FEI1" * 5)
            found.append(path.read_bytes())
        synth.write_mrc(path, synth.micrograph((6, 8), "int16"), byte_order=">")
        found.append(path.read_bytes())
    return found


def _tiff_seeds() -> list[bytes]:
    try:
        import tifffile
    except ImportError:
        return [b"II*\0\x08\0\0\0\0\0"]
    found = []
    for settings in ({}, {"compression": "zlib"}, {"tile": (16, 16)}, {"bigtiff": True}, {"byteorder": ">"}):
        out = io.BytesIO()
        tifffile.imwrite(out, synth.micrograph((20, 24), "uint16"), **settings)  # type: ignore[arg-type]
        found.append(out.getvalue())
    return found


def _star_seeds() -> list[bytes]:
    optics: dict[str, Sequence[object]] = {
        "rlnOpticsGroupName": ["g"],
        "rlnOpticsGroup": [1],
        "rlnMicrographPixelSize": [1.5],
    }
    picks: dict[str, Sequence[object]] = {
        "rlnMicrographName": ["m.mrc", "m.mrc"],
        "rlnCoordinateX": [20.5, 30],
        "rlnCoordinateY": ["22", "1e1"],
        "rlnOriginXAngst": [1.25, 0],
        "rlnOriginYAngst": [-3, 0],
        "rlnOpticsGroup": [1, 1],
        "rlnAutopickFigureOfMerit": [0.5, 0.25],
    }
    old: dict[str, Sequence[object]] = {
        "rlnMicrographName": ["m.mrc"],
        "rlnCoordinateX": [20],
        "rlnCoordinateY": [20],
        "rlnOriginX": [1],
        "rlnOriginY": [2],
        "rlnMagnification": [10000],
        "rlnDetectorPixelSize": [5],
        "rlnImageName": ["1@x.mrcs"],
    }
    quoted = (
        "data_\n_a 'b c'\n\ndata_particles\nloop_\n_rlnMicrographName\n_rlnCoordinateX\n_rlnCoordinateY\n"
        "'m.mrc' 20 20 # x\n"
    )
    return [
        synth.star_text({"optics": optics, "particles": picks}).encode(),
        synth.star_text({"": old}).encode(),
        synth.star_text({"": {"rlnCoordinateX": [1], "rlnCoordinateY": [2]}}).replace("\n", "\r\n").encode(),
        quoted.encode(),
    ]


def _cs_seeds() -> list[bytes]:
    n = 3
    columns = {
        "uid": np.arange(1, n + 1, dtype="<u8"),
        "location/micrograph_uid": np.full(n, 7, "<u8"),
        "location/micrograph_path": np.array([b"m.mrc"] * n),
        "location/micrograph_shape": np.array([(48, 64)] * n, "<u4"),
        "location/micrograph_psize_A": np.full(n, 1.5, "<f4"),
        "location/center_x_frac": np.array([0.4, 0.5, 0.6], "<f4"),
        "location/center_y_frac": np.array([0.6, 0.5, 0.4], "<f4"),
        "alignments2D/shift": np.ones((n, 2), "<f4"),
        "alignments2D/psize_A": np.full(n, 3.0, "<f4"),
        "pick_stats/ncc_score": np.ones(n, "<f4"),
    }
    found = []
    with tempfile.TemporaryDirectory() as folder:
        found.append(synth.write_cs(Path(folder) / "t.cs", columns).read_bytes())
        try:
            from cryosparc.dataset import CSDAT_FORMAT, Dataset
        except ImportError:
            return found
        data = Dataset({name: column for name, column in columns.items() if name != "uid"} | {"uid": columns["uid"]})
        data.save(str(Path(folder) / "s.cs"), format=CSDAT_FORMAT)
        found.append((Path(folder) / "s.cs").read_bytes())
    return found


_LEDGER_LINES = (
    {"cryobox": "1", "fftw": "3", "recipe": {"box": 16}},
    {"run": {"host": "a", "time": 1}},
    {"replaced": ["x"]},
    {
        "id": "y", "kept": 1, "refused": [[0, "no contrast"]], "background_mean": 0.0, "background_sd": 1.0,
        "error": "", "read_seconds": 0.1, "extract_seconds": 0.1, "write_seconds": 0.1, "bytes_read": 5, "warnings": [],
        "stacks": [
            {"path": "stacks/a", "bytes": 5, "minimum": 0, "maximum": 1, "mean": 0, "rms": 1, "clamped": 0}
        ],
    },
)  # fmt: skip

_CMM = (
    b'<?xml version="1.0" encoding="utf-8"?>\n<marker_set name="a &lt; b">\n'
    b'<marker id="1" x="1.5" y="-2" z="3e1" note=""/>\n'
    b'<marker id="2" x="4" y="5" z="6"/><link id1="1" id2="2"/>\n</marker_set>\n'
)
_BOX = b"10 12 16 16\n30 20 16 16\n"
_CSV = b"image_name,x_coord,y_coord,score\nm,20,22,0.5\nm,30.5,1e1,\n"
_HELIX_STAR = b"data_\n\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n_rlnHelicalTubeID\n"
_HELICES = b"""data_cryolo

loop_
_CoordinateX
_CoordinateY
_Width
_Height
_filamentid
10 12 16 16 0.0
20 12 16 16 0.0
30 12 16 16 <NA>

data_filament_vertices

loop_
_CoordinateX
_CoordinateY
_filamentid
10 12 0.0
60 12 0.0
"""
_CBOX = (
    b"data_cryolo\n\nloop_\n_CoordinateX #1\n_CoordinateY #2\n_Width #3\n_Height #4\n_Confidence #5\n"
    b"10 12 16 16 0.5\n30 12 16 16 <NA>\n"
)
_EMAN2 = b'{\n"boxes":[[20.0,22.5,"manual"],[30,12,"auto_local",0.5]],\n"quality":5\n}\n'
_XMIPP = (
    b"# XMIPP_STAR_1 *\n#\ndata_header\nloop_\n _pickingMicrographState\nManual\ndata_particles\nloop_\n _enabled\n"
    b" _xcoor\n _ycoor\n _cost\n 1 20 22 0.5\n -1 30 12 1\n"
)
_CSG = (
    b"created: 2024-01-01 00:00:00\ngroup: {name: particles, type: particle}\nresults:\n"
    b"  location: {metafile: '>picks.cs', num_items: 3, type: particle.location}\nversion: v4.6.2\n"
)
_SEEDS: dict[str, list[bytes]] = {
    "mrc": _mrc_seeds(),
    "mrc_gz": [gzip.compress(data, mtime=0) for data in _mrc_seeds()[:2]],
    "mrc_bz2": [bz2.compress(data) for data in _mrc_seeds()[:2]],
    "tiff": _tiff_seeds(),
    "star": _star_seeds(),
    "cs": _cs_seeds(),
    "csg": [_CSG],
    "box": [_BOX, b"10 12 16 16 0.5\n", b"10,12,16,16,-3\n"],
    "cbox": [_CBOX],
    "helix_box": [
        b"#helix: (10, 12),(60.5, 42),16\n10\t12\n30 22\n#helix: [1, 2],[3, 4],5\n2 3\n",
        b"10 12 16 16 -1\n60 12 16 16 -2\n",
    ],
    "helix_cbox": [_HELICES],
    "csv": [_CSV, b"x;y\n1;2\n", b'"x","y"\n"1","2"\n'],
    "txt": [b"image_name\tx_coord\ty_coord\tscore\nm\t20\t22\t0.5\n", b"1 2\n3 4\n", b"1 2 0.5\n"],
    "eman2": [_EMAN2, b'{"quality":5}', b'{"boxes":[[1,2],[3.5e0,-4,""]]}'],
    "xmipp": [_XMIPP, b"# <X position> <Y position>\n1 2\n"],
    "xmd": [_XMIPP, b"data_noname\nloop_\n _micrograph\n _xcoor\n _ycoor\nm.mrc 1 2\n"],
    "coords": [b"x y density\n1 2 3\n", b"1 2\n3 4\n"],
    "cmm": [_CMM, b'<m><marker x="1" y="2" z="3"/></m>'],
    "info": [b"\0" + _mrc_seeds()[0], b"\2" + _star_seeds()[0], b"\6" + _CSV, b"\7" + _EMAN2, b"\x08" + _XMIPP],
    "ledger": [b"".join(json.dumps(line).encode() + b"\n" for line in _LEDGER_LINES)],
    "plan_star": _star_seeds(),
    "plan_cs": _cs_seeds(),
    "plan_csv": [_CSV],
    "plan_ends": [
        _HELIX_STAR + b"20 20 1\n40.5 30 1\n12 30 2\n50 20 2\n",
        _HELIX_STAR + b"20 20 0\n40 30 0\n9 9 0\n30 9 0\n",
    ],
    "plan_segments": [
        _HELIX_STAR + b"20 20 1\n30 24 1\n40 28 1\n12 30 2\n",
        _HELIX_STAR.replace(
            b"ID\n", b"ID\n_rlnAnglePsiPrior\n_rlnHelicalTrackLengthAngst\n_rlnOriginXAngst\n_rlnOriginYAngst\n"
        )
        + b"20 20 1 -20 0 1.5 3\n30 24 1 -20 9 -2 0.7\n",
    ],
}
