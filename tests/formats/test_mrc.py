"""MRC micrographs: headers, pixels and every oddity of real files; stacks judged by mrcfile."""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import os
import struct
import subprocess
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cryobox.errors import InputError, MicrographError, OutputError
from cryobox.formats import mrc_stack
from cryobox.formats.images import PixelReader, read_header, room
from cryobox.formats.mrc import read_stack_header
from cryobox.formats.mrc_stack import StackWriter

MODES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
SHAPE = (6, 10)
FIELDS = {"nx": 0, "ny": 4, "nz": 8, "mode": 12, "mx": 28, "cella.x": 40, "mapc": 64, "dmin": 76, "dmax": 80}
FIELDS |= {"nsymbt": 92, "imodStamp": 152, "imodFlags": 156}
IMOD_STAMP = 1146047817


def pixels(dtype: str, shape: tuple[int, int] = SHAPE) -> NDArray[Any]:
    values = np.random.default_rng(7).integers(-100, 100, shape)
    return (np.abs(values) if "u" in dtype else values).astype(dtype)


def mrc_bytes(
    mode: int = 2,
    *,
    order: str = "<",
    extended: bytes = b"",
    exttyp: bytes = b"",
    stamp: bytes | None = None,
    map_word: bytes = b"MAP ",
    change: dict[str, float] | None = None,
) -> bytes:
    """A micrograph as bytes, made without mrcfile and without the code under test."""
    ny, nx = SHAPE
    header = bytearray(1024)
    struct.pack_into(order + "4i", header, 0, nx, ny, 1, mode)
    struct.pack_into(order + "3i3f3f3i", header, 28, nx, ny, 1, nx * 1.5, ny * 1.5, 1.5, 90, 90, 90, 1, 2, 3)
    struct.pack_into(order + "i", header, 92, len(extended))
    header[104:108] = exttyp.ljust(4, b"\0")
    header[208:212] = map_word
    header[212:216] = stamp if stamp is not None else (b"\x44\x44\0\0" if order == "<" else b"\x11\x11\0\0")
    for name, value in (change or {}).items():
        struct.pack_into(order + ("f" if isinstance(value, float) else "i"), header, FIELDS[name], value)
    return bytes(header) + extended + pixels(order + MODES.get(mode, "i1")).tobytes()


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., str]:
    def to_file(content: bytes, name: str = "mic.mrc") -> str:
        path = tmp_path / name
        path.write_bytes(content)
        return str(path)

    return to_file


def read(path: str) -> NDArray[Any]:
    return PixelReader().read(path, read_header(path))


# ---------------------------------------------------------------------------------------------------------- headers


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_is_read_in_both_byte_orders(save: Callable[..., str], mode: int, order: str) -> None:
    path = save(mrc_bytes(mode, order=order))
    header = read_header(path)
    assert header.shape == SHAPE
    assert header.dtype == np.dtype(order + MODES[mode])
    assert header.pixel_size == pytest.approx(1.5)
    assert header.warnings == ()
    image = PixelReader().read(path, header)
    assert image.dtype == header.dtype
    np.testing.assert_array_equal(image, pixels(MODES[mode]))


@pytest.mark.parametrize("mode", MODES)
def test_what_mrcfile_writes_is_read_as_mrcfile_reads_it(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "mic.mrc"
    with mrcfile.new(path) as file:
        file.set_data(pixels(MODES[mode]))
        file.voxel_size = 0.7
    header = read_header(str(path))
    assert header.pixel_size == pytest.approx(0.7)
    np.testing.assert_array_equal(PixelReader().read(str(path), header), mrcfile.read(path))


@pytest.mark.parametrize(("flags", "dtype"), [(0, "uint8"), (1, "int8"), (2, "uint8"), (3, "int8")])
@pytest.mark.parametrize("order", ["<", ">"])
def test_the_imod_flag_decides_whether_bytes_are_signed(
    save: Callable[..., str], order: str, flags: int, dtype: str
) -> None:
    path = save(mrc_bytes(0, order=order, change={"imodStamp": IMOD_STAMP, "imodFlags": flags}))
    assert read_header(path).dtype == np.dtype(dtype)
    assert read(path).tobytes() == pixels("i1").tobytes()


def test_bytes_without_the_imod_stamp_are_signed_whatever_the_flags_say(save: Callable[..., str]) -> None:
    assert read_header(save(mrc_bytes(0, change={"imodFlags": 0}))).dtype == np.int8


def test_signed_bytes_with_unsigned_statistics_are_a_warning(save: Callable[..., str]) -> None:
    path = save(mrc_bytes(0, change={"dmin": 0.0, "dmax": 255.0}))
    assert read_header(path).warnings == (
        f"{path}: mode 0 is read as signed bytes, but its statistics (0 to 255) suit unsigned ones",
    )


def test_four_bit_values_under_mode_0_are_refused(save: Callable[..., str]) -> None:
    with pytest.raises(MicrographError, match="IMOD's flag for 4-bit integers"):
        read_header(save(mrc_bytes(0, change={"imodStamp": IMOD_STAMP, "imodFlags": 17})))


@pytest.mark.parametrize(("exttyp", "size"), [(b"FEI1", 768 * 1024), (b"SERI", 10), (b"", 80), (b"CCP4", 1)])
def test_extended_headers_of_any_length_are_skipped(save: Callable[..., str], exttyp: bytes, size: int) -> None:
    path = save(mrc_bytes(2, extended=b"\xff" * size, exttyp=exttyp))
    assert read_header(path).offset == 1024 + size
    np.testing.assert_array_equal(read(path), pixels("f4"))


@pytest.mark.parametrize("stamp", [b"\x44\x44\0\0", b"\x44\x41\0\0", b"\x44\x44\x44\x44"])
def test_standard_machine_stamps_are_no_warning(save: Callable[..., str], stamp: bytes) -> None:
    assert read_header(save(mrc_bytes(2, stamp=stamp))).warnings == ()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("stamp", [b"\x44\x20\0\0", b"\x44\x11\0\0", b"\0\0\0\0", b"\0\0\x44\x44", b"\x44 \x20\x20"])
def test_odd_machine_stamps_are_tolerated_with_a_warning(save: Callable[..., str], stamp: bytes, order: str) -> None:
    path = save(mrc_bytes(2, order=order, stamp=stamp))
    name = {"<": "little-endian", ">": "big-endian"}[order]
    assert read_header(path).warnings == (
        f"{path}: odd machine stamp {stamp.hex(' ')}; read as {name}, which fits the other fields",
    )
    np.testing.assert_array_equal(read(path), pixels("f4"))


@pytest.mark.parametrize(("order", "stamp"), [("<", b"\x11\x11\0\0"), (">", b"\x44\x44\0\0")])
def test_a_machine_stamp_that_lies_does_not_decide(save: Callable[..., str], order: str, stamp: bytes) -> None:
    path = save(mrc_bytes(2, order=order, stamp=stamp))
    assert "odd machine stamp" in read_header(path).warnings[0]
    np.testing.assert_array_equal(read(path), pixels("f4"))


def test_a_missing_map_word_is_tolerated_with_a_warning(save: Callable[..., str]) -> None:
    path = save(mrc_bytes(2, map_word=b"\0\0\0\0"))
    assert read_header(path).warnings == (f"{path}: header lacks the word MAP; read as MRC all the same",)


def test_swapped_map_axes_are_a_warning_and_unset_ones_are_not(save: Callable[..., str]) -> None:
    assert "map axes (2, 2, 3)" in read_header(save(mrc_bytes(2, change={"mapc": 2}))).warnings[0]
    unset = bytearray(mrc_bytes(2))
    unset[64:76] = bytes(12)
    assert read_header(save(bytes(unset))).warnings == ()


@pytest.mark.parametrize(
    ("length", "mx"), [(0.0, 10), (10.0, 10), (-3.0, 10), (float("inf"), 10), (float("nan"), 10), (15.0, 0)]
)
def test_a_placeholder_for_the_pixel_size_is_unknown(save: Callable[..., str], length: float, mx: int) -> None:
    assert np.isnan(read_header(save(mrc_bytes(2, change={"cella.x": length, "mx": mx}))).pixel_size)


def test_a_longer_file_is_a_warning(save: Callable[..., str]) -> None:
    path = save(mrc_bytes(2) + b"12345")
    assert read_header(path).warnings == (f"{path}: file is 5 bytes longer than its header says; ignored",)
    np.testing.assert_array_equal(read(path), pixels("f4"))


def test_a_truncated_file_is_refused_with_both_sizes(save: Callable[..., str]) -> None:
    message = r"mic\.mrc: header promises 6 x 10 float32 \(240 bytes\), file holds 239; copied incompletely\?$"
    with pytest.raises(MicrographError, match=message):
        read_header(save(mrc_bytes(2)[:-1]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mode": 3}, r"mode 3 \(complex int16"),
        ({"mode": 4}, r"mode 4 \(complex float32"),
        ({"mode": 101}, r"mode 101 \(4-bit"),
        ({"mode": 16}, r"mode 16 \(RGB"),
        ({"mode": 7}, r"header says mode 7; expected one of 0, 1, 2, 6, 12"),
        ({"nx": 0}, r"6 rows of 0 pixels; both must be at least 1"),
        ({"nx": -10}, r"6 rows of -10 pixels"),
        ({"nx": -(2**31)}, r"6 rows of -2147483648 pixels"),
        ({"nx": 2**31 - 1, "ny": 2**31 - 1}, r"2147483647 x 2147483647 = 4611686014132420609 pixels"),
        ({"nx": 2**16, "ny": 2**16}, r"65536 x 65536 = 4294967296 pixels"),
        ({"nx": 40000, "ny": 50000}, r"promises 50000 x 40000 float32 \(8000000000 bytes\), file holds 240"),
        ({"nz": 0}, r"nz = 0 sections; a micrograph has 1"),
        ({"nz": -1}, r"nz = -1 sections"),
        ({"nz": 24}, r"holds 24 sections \(nz = 24\): a movie, stack or volume"),
        ({"nsymbt": -4}, r"nsymbt = -4 bytes"),
        ({"nsymbt": 2**31 - 1}, r"promises an extended header of 2147483647 bytes, file holds 240 after the header"),
    ],
)
def test_a_header_that_lies_is_refused_with_figures(
    save: Callable[..., str], change: dict[str, float], message: str
) -> None:
    path = save(mrc_bytes(2, change=change))
    with pytest.raises(MicrographError, match=message) as caught:
        read_header(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "file is empty; an MRC header alone has 1024"),
        (b"MAP " * 100, "file holds 400 bytes; an MRC header alone has 1024"),
        (b"data_particles\n" * 100, "not an MRC file: no word MAP in its header"),
        (gzip.compress(os.urandom(4000)), "compressed with gzip, though its name does not end in .gz"),
        (bz2.compress(os.urandom(4000)), "compressed with bzip2, though its name does not end in .bz2"),
    ],
)
def test_what_is_not_mrc_is_refused(save: Callable[..., str], content: bytes, message: str) -> None:
    with pytest.raises(MicrographError, match=message):
        read_header(save(content))


def test_a_missing_file_names_path_and_reason(tmp_path: Path) -> None:
    with pytest.raises(MicrographError, match=r"gone\.mrc: cannot be read: No such file or directory$"):
        read_header(str(tmp_path / "gone.mrc"))


def test_a_name_with_a_null_byte_is_a_micrograph_error() -> None:
    with pytest.raises(MicrographError, match="cannot be read: embedded null byte"):
        read_header("a\0b.mrc")


def test_a_directory_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "folder.mrc"
    folder.mkdir()
    with pytest.raises(MicrographError, match=r"folder\.mrc: cannot be read as a micrograph: it is a directory"):
        read_header(str(folder))


def test_a_fifo_does_not_stop_the_run(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mrc")
    with pytest.raises(MicrographError, match="not a regular file"):
        read_header(str(tmp_path / "pipe.mrc"))


def test_a_link_that_points_to_itself_names_the_reason(tmp_path: Path) -> None:
    (tmp_path / "loop.mrc").symlink_to("loop.mrc")
    with pytest.raises(MicrographError, match="cannot be read: Too many levels of symbolic links"):
        read_header(str(tmp_path / "loop.mrc"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_names_the_reason(save: Callable[..., str]) -> None:
    path = save(mrc_bytes(2))
    os.chmod(path, 0)
    with pytest.raises(MicrographError, match="cannot be read: Permission denied"):
        read_header(path)


@pytest.mark.parametrize("name", ["mic.jpg", "mic", "mic.mrc.zip", "mic.gz", "mic.eer"])
def test_another_suffix_is_refused_with_the_list_of_known_ones(name: str) -> None:
    with pytest.raises(MicrographError, match=rf"^{name}: not a kind of micrograph file; expected a name in \.mrc, "):
        read_header(name)


@pytest.mark.parametrize("name", ["a.MRC", "a.mrcs", "a.map", "a.Map", "with space.mrc", "µ.mrc"])
def test_the_suffix_may_be_in_any_case(save: Callable[..., str], name: str) -> None:
    np.testing.assert_array_equal(read(save(mrc_bytes(2), name)), pixels("f4"))


@settings(deadline=None)
@given(data=st.binary(min_size=0, max_size=1300), start=st.integers(0, 230))
def test_no_header_whatever_raises_anything_but_a_micrograph_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, start: int
) -> None:
    path = tmp_path_factory.mktemp("fuzz", numbered=True) / "mic.mrc"
    content = mrc_bytes(2)
    path.write_bytes(content[:start] + data + content[start + len(data) :])
    try:
        header = read_header(str(path))
    except MicrographError as error:
        message = str(error)
    else:
        assert PixelReader().read(str(path), header).shape == header.shape
        message = f"{path}: "
    assert message.startswith(f"{path}: ")


def test_many_threads_read_headers_at_once(save: Callable[..., str]) -> None:
    paths = [save(mrc_bytes(mode), f"{mode}.mrc") for mode in MODES] * 40
    with ThreadPoolExecutor(8) as pool:
        headers = list(pool.map(read_header, paths))
    assert [header.dtype for header in headers] == [np.dtype("<" + kind) for kind in MODES.values()] * 40


# ----------------------------------------------------------------------------------------------------------- pixels


def test_the_buffer_is_reused_and_grows_to_the_largest(save: Callable[..., str]) -> None:
    small, large = save(mrc_bytes(0), "small.mrc"), save(mrc_bytes(2), "large.mrc")
    reader = PixelReader()
    first = reader.read(large, read_header(large))
    address = first.ctypes.data
    assert reader.read(small, read_header(small)).ctypes.data == address
    again = reader.read(large, read_header(large))
    assert again.ctypes.data == address
    assert reader.bytes_read == 240
    np.testing.assert_array_equal(again, pixels("f4"))


@pytest.mark.parametrize("rows", [(0, 6), (2, 5), (5, 6), (3, 3)])
def test_only_the_rows_asked_for_are_read(save: Callable[..., str], rows: tuple[int, int]) -> None:
    blank, path = save(mrc_bytes(2)[:1024] + bytes(240), "blank.mrc"), save(mrc_bytes(2, extended=b"x" * 100))
    reader = PixelReader()
    reader.read(blank, read_header(blank))
    image = reader.read(path, read_header(path), rows=rows)
    expected = np.zeros(SHAPE, "f4")
    expected[slice(*rows)] = pixels("f4")[slice(*rows)]
    np.testing.assert_array_equal(image, expected)
    assert reader.bytes_read == (rows[1] - rows[0]) * 40


@pytest.mark.parametrize("rows", [(-1, 3), (0, 7), (4, 2)])
def test_rows_outside_the_micrograph_are_refused(save: Callable[..., str], rows: tuple[int, int]) -> None:
    path = save(mrc_bytes(2))
    with pytest.raises(ValueError, match=r"rows must lie in 0 to 6, first <= stop; got"):
        PixelReader().read(path, read_header(path), rows=rows)


def test_a_file_cut_after_its_header_was_read_is_an_error(save: Callable[..., str]) -> None:
    path = save(mrc_bytes(2))
    header = read_header(path)
    os.truncate(path, 1100)
    with pytest.raises(MicrographError, match=r"changed while it was in use: held 1264 bytes when .* holds 1100 now"):
        PixelReader().read(path, header)


def test_a_file_rewritten_after_its_header_was_read_is_an_error(save: Callable[..., str]) -> None:
    path = save(mrc_bytes(2))
    header = read_header(path)
    os.utime(path, ns=(header.mtime_ns, header.mtime_ns + 1))
    with pytest.raises(MicrographError, match="changed while it was in use: it was written to after its header"):
        PixelReader().read(path, header)


def test_a_file_that_vanished_after_its_header_was_read_is_an_error(save: Callable[..., str]) -> None:
    path = save(mrc_bytes(2))
    header = read_header(path)
    os.unlink(path)
    with pytest.raises(MicrographError, match="No such file or directory"):
        PixelReader().read(path, header)


def test_a_file_cut_while_it_is_read_names_both_sizes(
    save: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(mrc_bytes(2))
    header = read_header(path)
    real_preadv = os.preadv

    def cut_then_read(descriptor: int, buffers: Any, offset: int) -> int:
        os.truncate(path, 1024 + 100)
        return real_preadv(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", cut_then_read)
    with pytest.raises(MicrographError, match=r"promises 6 x 10 float32 \(240 bytes\), file holds 100; copied"):
        PixelReader().read(path, header)


def test_a_disk_that_fails_while_reading_names_path_and_reason(
    save: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(mrc_bytes(2))
    header = read_header(path)

    def broken(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "preadv", broken)
    with pytest.raises(MicrographError, match=r"mic\.mrc: cannot be read: Input/output error"):
        PixelReader().read(path, header)


def test_reading_in_small_pieces_gives_the_same_pixels(
    save: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(mrc_bytes(2))
    real_preadv = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, offset: real_preadv(fd, [buffers[0][:7]], offset))
    np.testing.assert_array_equal(read(path), pixels("f4"))


# ------------------------------------------------------------------------------------------------------- compressed

COMPRESS: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.compress, ".bz2": bz2.compress}
packed = pytest.mark.parametrize("suffix", COMPRESS)


@packed
@pytest.mark.parametrize("name", ["mic.mrc", "mic.mrcs", "mic.map"])
def test_compressed_files_are_read(save: Callable[..., str], name: str, suffix: str) -> None:
    path = save(COMPRESS[suffix](mrc_bytes(12, order=">", extended=b"x" * 3000)), name + suffix)
    header = read_header(path)
    assert (header.offset, header.shape, header.dtype) == (-1, SHAPE, np.dtype(">f2"))
    assert header.pixel_size == pytest.approx(1.5)
    reader = PixelReader()
    np.testing.assert_array_equal(reader.read(path, header, rows=(1, 2)), pixels("f2"))
    assert reader.bytes_read == os.path.getsize(path)
    assert reader.warnings == ()


@packed
def test_compressed_files_of_several_members_are_read(save: Callable[..., str], suffix: str) -> None:
    content = mrc_bytes(2)
    parts = (content[:1000], content[1000:1100], content[1100:])
    path = save(b"".join(COMPRESS[suffix](part) for part in parts), "mic.mrc" + suffix)
    np.testing.assert_array_equal(read(path), pixels("f4"))


@packed
def test_a_compressed_file_that_inflates_to_less_is_an_error(save: Callable[..., str], suffix: str) -> None:
    path = save(COMPRESS[suffix](mrc_bytes(2)[:-40]), "mic.mrc" + suffix)
    header = read_header(path)
    with pytest.raises(MicrographError, match=r"promises 6 x 10 float32 \(240 bytes\), file holds 200; copied"):
        PixelReader().read(path, header)


@packed
def test_a_compressed_extended_header_that_ends_early_is_an_error(save: Callable[..., str], suffix: str) -> None:
    path = save(COMPRESS[suffix](mrc_bytes(2, change={"nsymbt": 10**6})), "mic.mrc" + suffix)
    with pytest.raises(MicrographError, match=r"\(240 bytes\), file holds 0; copied incompletely\?"):
        read(path)


@packed
def test_a_compressed_file_that_was_cut_is_an_error(save: Callable[..., str], suffix: str) -> None:
    path = save(COMPRESS[suffix](mrc_bytes(2))[:-12], "mic.mrc" + suffix)
    with pytest.raises(MicrographError, match="compressed data end in the middle; copied incompletely"):
        read(path)


@packed
def test_damaged_compressed_data_are_an_error(save: Callable[..., str], suffix: str) -> None:
    content = bytearray(COMPRESS[suffix](mrc_bytes(2)))
    content[-6 if suffix == ".gz" else 60] ^= 0xFF  # gzip: in its checksum
    path = save(bytes(content), "mic.mrc" + suffix)
    with pytest.raises(MicrographError, match="compressed data are damaged: "):
        read(path)


@packed
def test_an_uncompressed_file_under_a_compressed_name_is_an_error(save: Callable[..., str], suffix: str) -> None:
    with pytest.raises(MicrographError, match="compressed data are damaged"):
        read_header(save(mrc_bytes(2), "mic.mrc" + suffix))


@packed
def test_an_empty_compressed_file_is_an_error(save: Callable[..., str], suffix: str) -> None:
    with pytest.raises(MicrographError, match=r"empty|end in the middle"):
        read_header(save(b"", "mic.mrc" + suffix))


@packed
def test_a_compressed_file_that_inflates_to_more_is_a_warning(save: Callable[..., str], suffix: str) -> None:
    path = save(COMPRESS[suffix](mrc_bytes(2) + b"1"), "mic.mrc" + suffix)
    reader = PixelReader()
    np.testing.assert_array_equal(reader.read(path, read_header(path)), pixels("f4"))
    assert reader.warnings == (f"{path}: inflated file is longer than its header says; ignored",)


def test_a_decompression_bomb_is_inflated_only_as_far_as_its_header_declares(save: Callable[..., str]) -> None:
    bomb = io.BytesIO()
    with gzip.GzipFile(fileobj=bomb, mode="wb", compresslevel=1) as stream:
        stream.write(mrc_bytes(2))
        for _ in range(64):
            stream.write(bytes(1 << 20))
    path = save(bomb.getvalue(), "bomb.mrc.gz")
    reader = PixelReader()
    np.testing.assert_array_equal(reader.read(path, read_header(path)), pixels("f4"))
    assert reader.bytes_read < 64 * 1024 < len(bomb.getvalue())


def test_a_compressed_header_that_declares_too_much_is_refused(save: Callable[..., str]) -> None:
    content = mrc_bytes(2, change={"nx": 10**6, "ny": 10**6})
    with pytest.raises(MicrographError, match=r"1000000 x 1000000 = 1000000000000 pixels"):
        read_header(save(gzip.compress(content), "mic.mrc.gz"))


# ------------------------------------------------------------------------------------------------------- real files


def real_files() -> list[str]:
    return ["micrographs/fei-extended.mrc", "micrographs/Ucsf_stack_1142_DW.mrc", "micrographs/odd_machine_stamp.mrc"]


def same_as_mrcfile(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # mrcfile has its own words for odd files
        with mrcfile.open(path, permissive=True) as file:
            expected = file.data
    header = read_header(str(path))
    assert header.dtype == expected.dtype
    np.testing.assert_array_equal(PixelReader().read(str(path), header), expected)


@pytest.mark.real
@pytest.mark.parametrize("name", real_files())
def test_real_micrographs_are_read_as_mrcfile_reads_them(real_data: Path, name: str) -> None:
    same_as_mrcfile(real_data / name)


@pytest.mark.real
def test_micrographs_of_a_project_are_read_as_mrcfile_reads_them(real_data: Path) -> None:
    paths = sorted((real_data / "cryosparc_project").glob("J2/motioncorrected/*.mrc"))
    assert len(paths) == 6
    for path in paths:
        same_as_mrcfile(path)
    assert {read_header(str(path)).pixel_size for path in paths} == {1.25, 20.0}


@pytest.mark.real
def test_headers_of_real_micrographs_say_what_is_known_of_them(real_data: Path) -> None:
    fei, ucsf, odd = (read_header(str(real_data / name)) for name in real_files())
    assert (fei.shape, fei.dtype, fei.offset) == ((3838, 3710), np.dtype("<u2"), 1024 + 786432)
    assert fei.pixel_size == pytest.approx(0.85378, abs=5e-6)
    assert fei.warnings == ucsf.warnings == ()
    assert ucsf.shape == (927, 959)
    assert np.isnan(ucsf.pixel_size)
    assert "odd machine stamp 00 00 44 44; read as little-endian" in odd.warnings[0]


@pytest.mark.real
def test_a_real_micrograph_is_the_same_compressed(real_data: Path, tmp_path: Path) -> None:
    source = real_data / "micrographs/Ucsf_stack_1142_DW.mrc"
    path = tmp_path / "mic.mrc.gz"
    path.write_bytes(gzip.compress(source.read_bytes(), compresslevel=1))
    np.testing.assert_array_equal(read(str(path)), mrcfile.read(source))


# ----------------------------------------------------------------------------------------------------------- stacks


def stack_images(dtype: str, count: int = 7, size: int = 12) -> NDArray[Any]:
    return np.random.default_rng(3).normal(0.3, 2.0, (count, size, size)).astype(dtype)


def write_stack(path: Path, images: NDArray[Any], *, pixel_size: float = 1.31, blocks: int = 3) -> int:
    with StackWriter(path, size=images.shape[1], dtype=images.dtype, pixel_size=pixel_size) as writer:
        for block in np.array_split(images, blocks):
            writer.write(block)
        wide = images.astype(np.float64)
        return writer.finish(float(wide.min()), float(wide.max()), float(wide.mean()), float(wide.std()), fsync=False)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_written_stack_opens_in_mrcfile_and_is_valid(tmp_path: Path, dtype: str) -> None:
    images, path = stack_images(dtype), tmp_path / "stack.mrcs"
    size = write_stack(path, images)
    assert size == path.stat().st_size == 1024 + images.nbytes
    with mrcfile.open(path) as file:
        np.testing.assert_array_equal(file.data, images)
        assert file.data.dtype == images.dtype
        assert file.is_image_stack()
        assert file.voxel_size.x == file.voxel_size.y == np.float32(1.31 * 12) / 12
        assert file.voxel_size.z == np.float32(1.31)
    report = io.StringIO()
    assert mrcfile.validate(path, report), report.getvalue()


def test_the_header_of_a_stack_is_that_of_the_conventions(tmp_path: Path) -> None:
    path = tmp_path / "stack.mrcs"
    write_stack(path, stack_images("float32"), pixel_size=2.0)
    with mrcfile.open(path, header_only=True) as file:
        header = file.header
    assert [int(header[k]) for k in ("nx", "ny", "nz", "mx", "my", "mz", "mode")] == [12, 12, 7, 12, 12, 1, 2]
    assert header.cella.item() == (24.0, 24.0, 2.0)
    assert [int(header[k]) for k in ("mapc", "mapr", "maps", "ispg", "nsymbt", "nversion")] == [1, 2, 3, 0, 0, 20141]
    assert header.machst.tolist() == [0x44, 0x44, 0, 0]
    assert int(header.nlabl) == 1
    assert header.label[0].startswith(b"cryobox ")
    assert not any(header.label[1:])
    wide = stack_images("float32").astype(np.float64)
    assert (float(header.dmin), float(header.dmax)) == (wide.min(), wide.max())
    assert float(header.dmean) == pytest.approx(wide.mean(), rel=1e-6)
    assert float(header.rms) == pytest.approx(wide.std(), rel=1e-6)


def test_the_rms_of_a_float16_stack_is_undetermined(tmp_path: Path) -> None:
    path = tmp_path / "stack.mrcs"
    write_stack(path, stack_images("float16"))
    with mrcfile.open(path, header_only=True) as file:
        assert (int(file.header.mode), float(file.header.rms)) == (12, -1.0)


def test_equal_stacks_are_equal_bytes_however_they_are_blocked(tmp_path: Path) -> None:
    images = stack_images("float32")
    for blocks in (1, 2, 7, 11):  # 11: some blocks are empty
        write_stack(tmp_path / f"{blocks}.mrcs", images, blocks=blocks)
    contents = {path.read_bytes() for path in tmp_path.iterdir()}
    assert len(contents) == 1


def test_the_stack_header_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "stack.mrcs"
    write_stack(path, stack_images("float16"), pixel_size=1.0)
    assert read_stack_header(str(path)) == ((7, 12, 12), np.dtype("<f2"), 1024, 1.0)


def test_an_unknown_pixel_size_reads_back_as_unknown(tmp_path: Path) -> None:
    path = tmp_path / "stack.mrcs"
    write_stack(path, stack_images("float32"), pixel_size=float("nan"))
    assert np.isnan(read_stack_header(str(path))[3])


def test_a_truncated_stack_is_refused_with_both_sizes(tmp_path: Path) -> None:
    path = tmp_path / "stack.mrcs"
    write_stack(path, stack_images("float32"))
    os.truncate(path, 2000)
    with pytest.raises(InputError, match=r"promises 7 x 12 x 12 float32 \(4032 bytes\), file holds 976; copied"):
        read_stack_header(str(path))


def test_a_stack_without_its_header_is_not_taken_for_one(tmp_path: Path) -> None:
    path = tmp_path / "stack.mrcs"
    writer = StackWriter(path, size=12, dtype="float32", pixel_size=1.0)
    writer.write(stack_images("float32"))
    writer.close()
    with pytest.raises(InputError, match="0 rows of 0 pixels"):
        read_stack_header(str(path))


def test_a_writer_that_is_not_finished_removes_its_file(tmp_path: Path) -> None:
    path = tmp_path / "stack.mrcs"
    writer = StackWriter(path, size=12, dtype="float32", pixel_size=1.0)
    with pytest.raises(ValueError, match="must be C-contiguous"), writer:
        writer.write(stack_images("float32")[::2])
    assert not path.exists()
    writer.abort()  # harmless when repeated


def test_abort_removes_even_a_finished_file(tmp_path: Path) -> None:
    path = tmp_path / "stack.mrcs"
    writer = StackWriter(path, size=12, dtype="float32", pixel_size=1.0)
    writer.write(stack_images("float32"))
    writer.finish(-1, 1, 0, 1)
    assert path.exists()
    writer.abort()
    assert not path.exists()


def test_an_existing_longer_file_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "stack.mrcs"
    path.write_bytes(b"x" * 100_000)
    assert write_stack(path, stack_images("float32")) == path.stat().st_size


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (stack_images("float64"), r"must be \(n, 12, 12\) float32; got \(7, 12, 12\) float64"),
        (stack_images("float32").astype(">f4"), "float32; got"),
        (stack_images("float32", size=14), r"got \(7, 14, 14\) float32"),
        (stack_images("float32")[0], r"got \(12, 12\) float32"),
        (stack_images("float32")[:, ::-1], "must be C-contiguous"),
        (stack_images("float32")[::2], "must be C-contiguous"),
    ],
)
def test_images_that_do_not_fit_the_stack_are_refused(tmp_path: Path, images: NDArray[Any], message: str) -> None:
    writer = StackWriter(tmp_path / "stack.mrcs", size=12, dtype="float32", pixel_size=1.0)
    with pytest.raises(ValueError, match=message):
        writer.write(images)
    writer.abort()


def test_a_stack_of_another_type_or_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a stack holds float32 or float16; got int16"):
        StackWriter(tmp_path / "stack.mrcs", size=12, dtype="int16", pixel_size=1.0)
    writer = StackWriter(tmp_path / "stack.mrcs", size=12, dtype="float32", pixel_size=1.0)
    with pytest.raises(ValueError, match="a stack needs at least one image"):
        writer.finish(0, 0, 0, 0)
    writer.abort()


def test_a_folder_that_is_missing_is_an_output_error_with_path_and_reason(tmp_path: Path) -> None:
    path = tmp_path / "no" / "stack.mrcs"
    with pytest.raises(OutputError, match=r"no/stack\.mrcs: cannot be created: No such file or directory") as caught:
        StackWriter(path, size=12, dtype="float32", pixel_size=1.0)
    assert caught.value.errno == errno.ENOENT


def test_a_full_disk_is_an_output_error_with_path_and_reason() -> None:
    writer = StackWriter("/dev/full", size=12, dtype="float32", pixel_size=1.0)
    with pytest.raises(OutputError, match=r"^/dev/full: cannot be written: No space left on device$") as caught:
        writer.write(stack_images("float32"))
    assert caught.value.errno == errno.ENOSPC
    writer.close()


def test_a_disk_that_fills_up_half_way_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "stack.mrcs"
    # In a process of its own: the limit would also cut off a log that this one may be writing.
    code = f"""
import resource, signal
import numpy as np
from cryobox.errors import OutputError
from cryobox.formats.mrc_stack import StackWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
try:
    with StackWriter({str(path)!r}, size=12, dtype="float32", pixel_size=1.0) as writer:
        writer.write(np.ones((5, 12, 12), np.float32))
except OutputError as error:
    print(error)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "stack.mrcs: cannot be written: File too large" in found.stdout
    assert not path.exists()


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: real_pwrite(fd, data[:777], offset))
    images, path = stack_images("float32"), tmp_path / "stack.mrcs"
    write_stack(path, images)
    monkeypatch.undo()
    np.testing.assert_array_equal(mrcfile.read(path), images)


def test_a_stack_needs_a_handful_of_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offsets: list[tuple[int, int]] = []
    real_pwrite = os.pwrite

    def counted(descriptor: int, data: Any, offset: int) -> int:
        offsets.append((offset, len(data)))
        return real_pwrite(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", counted)
    write_stack(tmp_path / "stack.mrcs", stack_images("float32", 200, 64), blocks=2)
    half = 100 * 64 * 64 * 4
    assert offsets == [(1024, half), (1024 + half, half), (0, 1024)]


@pytest.mark.parametrize("expected", [0, 20, 100, 300], ids="{} expected".format)
@pytest.mark.parametrize("call", ["real", "missing", "failing"])
def test_room_that_is_asked_for_changes_no_byte_and_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: int, call: str
) -> None:
    images = stack_images("float32", 100, 64)
    with StackWriter(tmp_path / "plain.mrcs", size=64, dtype="float32", pixel_size=1.0) as writer:
        writer.write(images)
        writer.finish(-1, 1, 0, 1)
    if call == "missing":
        monkeypatch.setattr(mrc_stack, "_fallocate", lambda: None)
    if call == "failing":  # after it has taken a part of the room
        real = mrc_stack._fallocate()
        monkeypatch.setattr(mrc_stack, "_fallocate", lambda: lambda *asked: real(*asked[:3], asked[3] // 2) or -1)
    path = tmp_path / "stack.mrcs"
    with StackWriter(path, size=64, dtype="float32", pixel_size=1.0, expected=expected) as writer:
        writer.write(images)
        writer.finish(-1, 1, 0, 1)
    assert path.read_bytes() == (tmp_path / "plain.mrcs").read_bytes()
    assert path.stat().st_blocks * 512 <= path.stat().st_size + (64 << 10)


def test_the_disk_is_asked_once_for_the_room_of_a_stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, ...]] = []

    def noted(*arguments: int) -> int:
        asked.append(arguments)
        return 0

    monkeypatch.setattr(mrc_stack, "_fallocate", lambda: noted)
    with StackWriter(tmp_path / "stack.mrcs", size=64, dtype="float16", pixel_size=1.0, expected=300) as writer:
        writer.write(stack_images("float16", 100, 64))
        writer.finish(0, 0, 0, 0)
    assert [arguments[1:] for arguments in asked] == [(1, 0, 1024 + 300 * 64 * 64 * 2)]


def test_room_that_cannot_be_given_back_is_an_output_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_: int, __: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    path = tmp_path / "stack.mrcs"
    writer = StackWriter(path, size=64, dtype="float32", pixel_size=1.0, expected=200)
    writer.write(stack_images("float32", 100, 64))
    monkeypatch.setattr(os, "ftruncate", refused)
    with pytest.raises(OutputError, match=r"stack\.mrcs: cannot be cut to its length: Input/output error"), writer:
        writer.finish(0, 0, 0, 0)
    assert not path.exists()


def test_memory_for_pixels_begins_a_line_beyond_a_page() -> None:
    for count in (1, 1000, 5 << 20):
        memory = room(count)
        assert memory.shape == (count,)
        assert memory.ctypes.data % 4096 == 64


def test_writers_in_several_threads_do_not_disturb_each_other(tmp_path: Path) -> None:
    images = stack_images("float32", 64, 256)
    with ThreadPoolExecutor(4) as pool:
        sizes = list(pool.map(lambda i: write_stack(tmp_path / f"{i}.mrcs", images), range(4)))
    assert sizes == [1024 + images.nbytes] * 4
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1
