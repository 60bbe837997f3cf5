"""Micrographs that cannot be used: the run goes on, says why, lists them, and gives the others' particles unharmed."""

from __future__ import annotations

import bz2
import gzip
import json
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import cryobox
import synth
from reliability.scene import Scene, contents, make_scene

RECIPE = cryobox.Recipe(box=40, sizes=(36,))


def _header(path: Path, offset: int, *values: int, order: str = "<") -> None:
    """Overwrite 4-byte integers of a header."""
    data = bytearray(path.read_bytes())
    struct.pack_into(f"{order}{len(values)}i", data, offset, *values)
    path.write_bytes(data)


def _volume(path: Path) -> None:
    synth.write_mrc(path, np.stack([synth.micrograph((96, 96))] * 3), pixel_size=1.5)


def _replace(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _link(path: Path, target: str) -> None:
    path.unlink()
    path.symlink_to(target)


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _tiff(path: Path) -> None:
    pytest.importorskip("tifffile").imwrite(path, synth.micrograph((96, 96)))


WHOLE = 1024 + 96 * 96 * 4
# What is done to the file, and what the message must say.
DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing": (lambda p: p.unlink(), "No such file"),
    "empty": (lambda p: _replace(p, b""), "is empty"),
    "only a header": (lambda p: _replace(p, p.read_bytes()[:1024]), "copied incompletely"),
    "half a header": (lambda p: _replace(p, p.read_bytes()[:500]), "holds 500 bytes"),
    "truncated": (lambda p: _replace(p, p.read_bytes()[:-1]), f"{96 * 96 * 4} bytes.*copied incompletely"),
    "a directory": (_directory, "it is a directory"),
    "a broken link": (lambda p: _link(p, "nowhere.mrc"), "No such file"),
    "a link to itself": (lambda p: _link(p, p.name), "symbolic links"),
    "a FIFO": (_fifo, "not a regular file"),
    "a device": (lambda p: _link(p, "/dev/zero"), "not a regular file"),
    "text": (lambda p: _replace(p, b"this is no micrograph\n" * 100), "not an MRC file"),
    "zeros": (lambda p: _replace(p, bytes(WHOLE)), "header says|not an MRC"),
    "ones": (lambda p: _replace(p, b"\xff" * WHOLE), "header says|not an MRC"),
    "random bytes": (lambda p: _replace(p, np.random.default_rng(8).bytes(WHOLE)), "header says|not an MRC"),
    "nx is negative": (lambda p: _header(p, 0, -96), "at least 1"),
    "ny is 0": (lambda p: _header(p, 4, 0), "at least 1"),
    "nx and ny are 2^31 - 1": (lambda p: _header(p, 0, 2**31 - 1, 2**31 - 1), "cannot be a micrograph"),
    "nx is 2^31 - 1": (lambda p: _header(p, 0, 2**31 - 1, 1), "copied incompletely|cannot be"),
    "a size whose bytes overflow 32 bits": (lambda p: _header(p, 0, 2**15, 2**15), "4294967296 bytes"),
    "nz is 0": (lambda p: _header(p, 8, 0), "nz = 0"),
    "nz is negative": (lambda p: _header(p, 8, -1), "nz = -1"),
    "nz lies": (lambda p: _header(p, 8, 7), "holds 7 sections"),
    "a volume": (_volume, "holds 3 sections"),
    "mode 3": (lambda p: _header(p, 12, 3), "mode 3.*complex"),
    "mode 4": (lambda p: _header(p, 12, 4), "mode 4.*complex"),
    "mode 101": (lambda p: _header(p, 12, 101), "mode 101.*4-bit"),
    "mode -1": (lambda p: _header(p, 12, -1), "mode -1"),
    "mode 99": (lambda p: _header(p, 12, 99), "mode 99"),
    "extended header past the end": (lambda p: _header(p, 92, 10**6), "extended header of 1000000 bytes"),
    "extended header of 2^31 - 1": (lambda p: _header(p, 92, 2**31 - 1), "extended header of 2147483647"),
    "extended header of -1": (lambda p: _header(p, 92, -1), "nsymbt = -1"),
    "gzip under the name of an MRC": (lambda p: _replace(p, gzip.compress(p.read_bytes())), "compressed with gzip"),
    "bzip2 under the name of an MRC": (lambda p: _replace(p, bz2.compress(p.read_bytes())), "compressed with bzip2"),
}  # fmt: skip
PACKED: dict[str, tuple[str, Callable[[bytes], bytes], str]] = {
    "gzip cut off": (".gz", lambda data: gzip.compress(data)[:-50], "end in the middle"),
    "gzip with a flipped bit": (".gz", lambda data: _flipped(gzip.compress(data)), "damaged|end in the middle"),
    "gzip with a wrong checksum": (".gz", lambda data: gzip.compress(data)[:-8] + b"\0" * 8, "damaged"),
    "no gzip": (".gz", lambda data: data, "damaged"),
    "empty gzip": (".gz", lambda _: b"", "damaged|is empty|in the middle"),
    "gzip that holds too little": (".gz", lambda data: gzip.compress(data[:-100]), "copied incompletely"),
    "bzip2 cut off": (".bz2", lambda data: bz2.compress(data)[:-50], "end in the middle"),
    "bzip2 with a flipped bit": (".bz2", lambda data: _flipped(bz2.compress(data)), "damaged"),
    "no bzip2": (".bz2", lambda data: data, "damaged"),
    "bzip2 that holds too little": (".bz2", lambda data: bz2.compress(data[:-100]), "copied incompletely"),
    "no TIFF": (".tif", lambda data: data, "TIFF|tiff"),
    "TIFF cut off": (".tif", lambda data: b"II*\0\x08\0\0\0", "cannot|damaged|TIFF|tiff"),
    "of no kind": (".png", lambda data: data, "not a kind of micrograph"),
}


def _flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0x10]) + data[middle + 1 :]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The stacks of the other two micrographs."""
    scene = make_scene(tmp_path_factory.mktemp("reference"))
    cryobox.run(scene.folder / "picks.star", micrographs=scene.folder / "micrographs.star",
                out=scene.folder / "out", recipe=RECIPE, root=scene.folder)  # fmt: skip
    return {path.name: path.read_bytes() for path in (scene.folder / "out" / "stacks").iterdir()}


def _check(scene: Scene, reference: dict[str, bytes], bad: str, message: str, **settings: object) -> None:
    """Run, and look at every place that must tell of the bad micrograph."""
    errors: list[str] = []
    result = cryobox.run(
        scene.folder / "picks.star",
        micrographs=scene.folder / "micrographs.star",
        out=scene.folder / "out",
        recipe=RECIPE,
        root=scene.folder,
        on_progress=lambda now: errors.append(now.error) if now.error else None,
        **settings,  # type: ignore[arg-type]
    )
    assert result.exit_code == 1
    assert list(result.incomplete) == [bad]
    reason = result.incomplete[bad]
    assert reason.startswith(str(scene.folder / bad)), "the path comes first"
    assert re.search(message, reason), reason
    out = scene.folder / "out"
    found = {path.name: path.read_bytes() for path in (out / "stacks").iterdir()}
    expected = {name: data for name, data in reference.items() if not name.startswith("m0001")}
    assert found == expected
    incomplete = (out / "micrographs_incomplete.star").read_text()
    assert bad in incomplete
    assert reason[-20:].replace('"', "") in incomplete.replace('"', "")
    assert result.rejected["micrograph could not be read"] >= 3, "boxes over the edge may be known before"
    rejected = (out / "rejected.star").read_text()
    assert rejected.count(f"{bad} ") == 5
    assert result.extracted + sum(result.rejected.values()) == result.picks == 15
    job = json.loads((out / "job.json").read_text())
    assert job["incomplete"] == {bad: reason}
    assert not list(out.rglob("*.tmp"))


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_bad_micrograph_is_listed_with_its_reason_and_the_others_are_done(
    tmp_path: Path, reference: dict[str, bytes], damage: str
) -> None:
    scene = make_scene(tmp_path)
    harm, message = DAMAGE[damage]
    harm(tmp_path / scene.names[1])
    _check(scene, reference, scene.names[1], message)


@pytest.mark.parametrize("damage", PACKED)
def test_a_damaged_file_of_another_kind_is_listed_with_its_reason(
    tmp_path: Path, reference: dict[str, bytes], damage: str
) -> None:
    suffix, pack, message = PACKED[damage]
    scene = make_scene(tmp_path)
    plain = tmp_path / scene.names[1]
    bad = f"{scene.names[1]}{suffix}" if suffix in (".gz", ".bz2") else scene.names[1].replace(".mrc", suffix)
    (tmp_path / bad).write_bytes(pack(plain.read_bytes()))
    plain.unlink()
    for table in ("picks.star", "micrographs.star"):
        text = (tmp_path / table).read_text()
        (tmp_path / table).write_text(text.replace(f"{scene.names[1]} ", f"{bad} "))
    _check(scene, reference, bad, message)


# Between the plan and the reading of pixels.
LATE: dict[str, tuple[Callable[[Path], object], str]] = {
    "vanished": (lambda p: p.unlink(), "No such file"),
    "shortened": (lambda p: os.truncate(p, 5000), "changed while it was in use.*holds 5000 now"),
    "grown": (lambda p: _replace(p, p.read_bytes() + b"more"), "changed while it was in use"),
    "written to": (os.utime, "changed while it was in use.*newer date"),
    "replaced by a folder": (_directory, "it is a directory"),
    "replaced by a FIFO": (_fifo, "not a regular file"),
}


@pytest.mark.parametrize("change", LATE)
def test_a_micrograph_that_changes_between_plan_and_reading_is_listed(
    tmp_path: Path, reference: dict[str, bytes], change: str
) -> None:
    scene = make_scene(tmp_path)
    harm, message = LATE[change]
    _check(scene, reference, scene.names[1], message, on_plan=lambda _: harm(tmp_path / scene.names[1]))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_micrograph_that_may_not_be_read_is_listed(tmp_path: Path, reference: dict[str, bytes]) -> None:
    scene = make_scene(tmp_path)
    (tmp_path / scene.names[1]).chmod(0)
    _check(scene, reference, scene.names[1], "Permission denied")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3.0], ids=str)
def test_a_micrograph_without_a_usable_pixel_has_all_its_particles_rejected(tmp_path: Path, value: float) -> None:
    scene = make_scene(tmp_path)
    path = tmp_path / scene.names[1]
    path.write_bytes(path.read_bytes()[:1024] + np.full((96, 96), value, "<f4").tobytes())
    result = cryobox.run(tmp_path / "picks.star", micrographs=tmp_path / "micrographs.star", out=tmp_path / "out",
                         recipe=RECIPE, root=tmp_path)  # fmt: skip
    why = "no contrast" if value == 3.0 else "pixels that are not finite"
    inside = result.rejected[why]
    assert inside > 0
    assert inside + sum(1 for _ in (tmp_path / "out" / "stacks").iterdir()) > 2
    assert not (tmp_path / "out" / "stacks" / "m0001_particles.mrcs").exists()
    assert f"{scene.names[1]}" not in (tmp_path / "out" / "particles.star").read_text()
    assert (tmp_path / "out" / "rejected.star").read_text().count(f'"{why}"') == inside
    assert result.extracted + sum(result.rejected.values()) == result.picks
    assert result.exit_code == 0, "the micrograph was read; its picks are accounted for"


def test_nothing_extracted_is_never_a_success(tmp_path: Path) -> None:
    scene = make_scene(tmp_path)
    for name in scene.names:
        (tmp_path / name).write_bytes(b"")
    settings = {
        "micrographs": tmp_path / "micrographs.star",
        "out": tmp_path / "out",
        "recipe": RECIPE,
        "root": tmp_path,
    }
    result = cryobox.run(tmp_path / "picks.star", **settings)  # type: ignore[arg-type]
    assert result.extracted == 0
    assert result.exit_code == 1
    again = cryobox.run(
        tmp_path / "picks.star",
        options=cryobox.RunOptions(allow_incomplete=True),
        **settings,  # type: ignore[arg-type]
    )
    assert again.exit_code == 1, "--allow-incomplete is not --allow-nothing"


def test_with_on_error_stop_the_first_bad_micrograph_ends_the_run_resumably(tmp_path: Path) -> None:
    scene = make_scene(tmp_path)

    def spoil(_: object) -> None:
        (tmp_path / scene.names[1]).unlink()

    with pytest.raises(cryobox.CryoboxError, match="m0001.mrc: cannot be read.*the same command resumes"):
        cryobox.run(
            tmp_path / "picks.star",
            micrographs=tmp_path / "micrographs.star",
            out=tmp_path / "out",
            recipe=RECIPE,
            root=tmp_path,
            options=cryobox.RunOptions(on_error="stop", workers=1),
            on_plan=spoil,
        )


@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("dtype", synth.MRC_MODES)
def test_every_mode_in_both_byte_orders_gives_the_same_particles(
    tmp_path: Path, dtype: str, byte_order: synth.ByteOrder
) -> None:
    scene = make_scene(tmp_path)
    stacks = []
    for order in ("<", byte_order):
        for number, name in enumerate(scene.names):
            image = synth.micrograph((96, 96), dtype, seed=number)
            synth.write_mrc(tmp_path / name, image, pixel_size=1.5, byte_order=order, extended_header=b"x" * 777)  # type: ignore[arg-type]
        out = tmp_path / f"out{len(stacks)}"
        result = cryobox.run(tmp_path / "picks.star", micrographs=tmp_path / "micrographs.star", out=out,
                             recipe=RECIPE, root=tmp_path)  # fmt: skip
        assert result.exit_code == 0
        stacks.append({name: digest for name, digest in contents(out).items() if name.startswith("stacks/")})
    assert stacks[0] == stacks[1]


def _cs_scene(folder: Path, table_shape: tuple[int, int], file_shape: tuple[int, int]) -> None:
    n = 4
    fractions = np.linspace(0.4, 0.6, n, dtype=np.float32)
    synth.write_mrc(folder / "m.mrc", synth.micrograph(file_shape), pixel_size=1.0)
    synth.write_cs(
        folder / "exposures.cs",
        {
            "uid": np.array([7], "<u8"),
            "micrograph_blob/path": np.array([b"m.mrc"]),
            "micrograph_blob/idx": np.zeros(1, "<u4"),
            "micrograph_blob/shape": np.array([table_shape], "<u4"),
            "micrograph_blob/psize_A": np.ones(1, "<f4"),
        },
    )
    synth.write_cs(
        folder / "picks.cs",
        {
            "uid": np.arange(1, n + 1, dtype="<u8"),
            "location/micrograph_uid": np.full(n, 7, "<u8"),
            "location/micrograph_path": np.array([b"m.mrc"] * n),
            "location/micrograph_shape": np.array([table_shape] * n, "<u4"),
            "location/micrograph_psize_A": np.ones(n, "<f4"),
            "location/center_x_frac": fractions,
            "location/center_y_frac": fractions[::-1].copy(),
        },
    )


def test_a_shape_that_contradicts_the_table_is_listed_and_another_binning_is_scaled(tmp_path: Path) -> None:
    _cs_scene(tmp_path, (128, 160), (160, 128))
    settings = {"micrographs": tmp_path / "exposures.cs", "recipe": RECIPE}
    result = cryobox.run(tmp_path / "picks.cs", out=tmp_path / "out", **settings)  # type: ignore[arg-type]
    assert result.exit_code == 1
    assert "is 160 x 128 pixels (ny x nx), but" in result.incomplete["m.mrc"]
    assert "no binning of it" in result.incomplete["m.mrc"]
    _cs_scene(tmp_path, (256, 320), (128, 160))
    result = cryobox.run(tmp_path / "picks.cs", out=tmp_path / "binned", **settings)  # type: ignore[arg-type]
    assert result.extracted == 4
    assert result.exit_code == 0
