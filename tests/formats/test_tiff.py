"""TIFF micrographs, judged by what tifffile itself writes and reads."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cryobox.errors import MicrographError, MissingExtraError
from cryobox.formats.images import PixelReader, read_header

tifffile = pytest.importorskip("tifffile", reason="tifffile is not installed (extra: tiff)")

SHAPE = (9, 14)


def pixels(dtype: str = "uint8") -> NDArray[Any]:
    return (np.arange(SHAPE[0] * SHAPE[1]).reshape(SHAPE) % 127).astype(dtype)


def write(folder: Path, name: str = "mic.tif", image: NDArray[Any] | None = None, **options: Any) -> str:
    path = folder / name
    tifffile.imwrite(path, pixels() if image is None else image, metadata=None, **options)
    return str(path)


def read(path: str, *, flip: bool = True) -> NDArray[Any]:
    return PixelReader().read(path, read_header(path), tiff_flip=flip)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "float16", "float32"])
def test_every_dtype_is_read_with_its_rows_reversed(tmp_path: Path, dtype: str, order: str) -> None:
    path = write(tmp_path, image=pixels(dtype), byteorder=order)
    header = read_header(path)
    assert (header.shape, header.dtype, header.offset) == (SHAPE, np.dtype(dtype), -1)
    assert header.file_size == os.path.getsize(path)
    assert np.isnan(header.pixel_size)
    reader = PixelReader()
    image = reader.read(path, header)
    assert image.dtype == header.dtype
    np.testing.assert_array_equal(image, pixels(dtype)[::-1])
    assert reader.bytes_read == header.file_size


def test_rows_keep_the_order_of_the_file_where_that_is_asked_for(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read(write(tmp_path), flip=False), pixels())


@pytest.mark.parametrize("name", ["mic.TIF", "mic.tiff", "mic.TIFF"])
def test_every_suffix_of_tiff_is_known(tmp_path: Path, name: str) -> None:
    np.testing.assert_array_equal(read(write(tmp_path, name)), pixels()[::-1])


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "zlib"},
        {"compression": "zlib", "tile": (16, 16)},
        {"rowsperstrip": 2},
        {"tile": (16, 16)},
        {"bigtiff": True},
    ],
)
def test_every_layout_gives_the_same_pixels(tmp_path: Path, options: dict[str, Any]) -> None:
    np.testing.assert_array_equal(read(write(tmp_path, image=pixels("float32"), **options)), pixels("float32")[::-1])


def test_the_buffer_serves_mrc_and_tiff_in_turn(tmp_path: Path) -> None:
    large = write(tmp_path, "large.tif", np.ones((50, 60), "float32"))
    small = write(tmp_path, "small.tif")
    reader = PixelReader()
    address = reader.read(large, read_header(large)).ctypes.data
    image = reader.read(small, read_header(small))
    assert image.ctypes.data == address
    np.testing.assert_array_equal(image, pixels()[::-1])


def test_a_movie_is_refused_with_its_count(tmp_path: Path) -> None:
    path = write(tmp_path, image=np.zeros((5, *SHAPE), "uint8"), photometric="minisblack")
    with pytest.raises(MicrographError, match=r"mic\.tif: holds 5 images; a micrograph has 1 "):
        read_header(path)


def test_color_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, image=np.zeros((*SHAPE, 3), "uint8"), photometric="rgb")
    with pytest.raises(MicrographError, match="has 3 samples per pixel; a micrograph is gray"):
        read_header(path)


@pytest.mark.parametrize("dtype", ["uint32", "float64", "complex64"])
def test_other_pixel_types_are_refused_by_name(tmp_path: Path, dtype: str) -> None:
    with pytest.raises(MicrographError, match=rf"has pixels of type {dtype}; expected one of uint8, int8, uint16"):
        read_header(write(tmp_path, image=pixels(dtype)))


def test_a_truncated_file_is_refused_with_both_sizes(tmp_path: Path) -> None:
    path = write(tmp_path)
    size = os.path.getsize(path)
    os.truncate(path, size - 1)
    with pytest.raises(
        MicrographError, match=rf"tags promise pixels up to byte {size}, file holds {size - 1}; copied incompletely\?"
    ):
        read_header(path)


@pytest.mark.parametrize("content", [b"not a tiff", b"II*\0", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\0\x01"])
def test_what_is_not_tiff_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mic.tif"
    path.write_bytes(content)
    with pytest.raises(MicrographError, match=r"mic\.tif: "):
        read_header(str(path))


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mic.tif").touch()
    with pytest.raises(MicrographError, match=r"mic\.tif: file is empty"):
        read_header(str(tmp_path / "mic.tif"))


def test_a_missing_file_and_a_directory_name_the_reason(tmp_path: Path) -> None:
    with pytest.raises(MicrographError, match=r"gone\.tif: cannot be read: No such file or directory"):
        read_header(str(tmp_path / "gone.tif"))
    (tmp_path / "folder.tif").mkdir()
    with pytest.raises(MicrographError, match="it is a directory"):
        read_header(str(tmp_path / "folder.tif"))


def test_damaged_compressed_pixels_are_a_micrograph_error(tmp_path: Path) -> None:
    path = write(tmp_path, image=pixels("float32"), compression="zlib")
    header = read_header(path)
    with tifffile.TiffFile(path) as file:
        offset = file.pages[0].dataoffsets[0]
    with open(path, "r+b") as raw:
        raw.seek(offset)
        raw.write(b"\0" * 8)
    os.utime(path, ns=(header.mtime_ns, header.mtime_ns))
    with pytest.raises(MicrographError, match=r"mic\.tif: is not a TIFF file that can be read: .*; copied"):
        PixelReader().read(path, header)


def test_a_file_that_changed_after_its_header_was_read_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path)
    header = read_header(path)
    write(tmp_path, image=np.zeros((40, 40), "uint8"))
    with pytest.raises(MicrographError, match="changed while it was in use: held"):
        PixelReader().read(path, header)


@settings(deadline=None)
@given(data=st.binary(max_size=60), start=st.integers(0, 300))
def test_no_tiff_whatever_raises_anything_but_a_micrograph_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, start: int
) -> None:
    folder = tmp_path_factory.mktemp("fuzz", numbered=True)
    path = Path(write(folder))
    content = path.read_bytes()
    path.write_bytes(content[:start] + data + content[start + len(data) :])
    try:
        header = read_header(str(path))
        assert PixelReader().read(str(path), header).shape == header.shape
    except MissingExtraError as error:  # the bytes happened to name a compression that needs a codec
        message = str(error)
    except MicrographError as error:
        message = str(error)
    else:
        message = f"{path}: "
    assert message.startswith(f"{path}: ")


def test_without_tifffile_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path)
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(MissingExtraError, match=r"TIFF micrographs need tifffile: pip install cryobox\[tiff\]"):
        read_header(path)


@pytest.mark.skipif(find_spec("imagecodecs") is not None, reason="imagecodecs is installed: every codec is there")
def test_a_codec_that_is_missing_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, compression="zlib")
    content = bytearray(Path(path).read_bytes())
    tag = content.index(b"\x03\x01\x03\x00\x01\x00\x00\x00")  # Compression, SHORT, one value
    content[tag + 8 : tag + 10] = (5).to_bytes(2, "little")
    Path(path).write_bytes(content)
    with pytest.raises(MissingExtraError, match=r"LZW compression needs imagecodecs: pip install cryobox\[tiff\]"):
        read_header(path)


@pytest.mark.parametrize("tag", ["StripByteCounts", "StripOffsets"])
def test_a_missing_strip_is_an_error_and_not_zeros(tmp_path: Path, tag: str) -> None:
    path = write(tmp_path, image=pixels("float32"), rowsperstrip=2, compression="zlib")
    with tifffile.TiffFile(path) as file:
        place = file.pages[0].tags[tag]
        assert place.count == 5
        offset, width = place.valueoffset, {3: 2, 4: 4}[int(place.dtype)]
    with open(path, "r+b") as raw:
        raw.seek(offset + 3 * width)
        raw.write(bytes(width))
    with pytest.raises(MicrographError, match="holds 4 of 5 strips or tiles; copied incompletely"):
        read_header(path)


def test_a_strip_that_is_too_short_for_its_rows_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path, image=pixels("uint16"))
    with tifffile.TiffFile(path) as file:
        offset = file.pages[0].tags["StripByteCounts"].valueoffset
    with open(path, "r+b") as raw:
        raw.seek(offset)
        raw.write((200).to_bytes(2, "little"))
    with pytest.raises(MicrographError, match=r"promises 9 x 14 uint16 \(252 bytes\), file holds 200; copied"):
        read_header(path)


@pytest.mark.parametrize(("bits", "width"), [(12, 100), (4, 300), (1, 1200), (24, 50)])
def test_samples_of_other_bits_than_whole_numbers_of_bytes_are_named(tmp_path: Path, bits: int, width: int) -> None:
    """The file is whole: 150 bytes a row, packed."""
    path = write(tmp_path, "m.tif", np.zeros((100, 150), "uint8"))
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages[0].tags["ImageWidth"].overwrite(width)
        file.pages[0].tags["BitsPerSample"].overwrite(bits)
    with pytest.raises(MicrographError, match=rf"m\.tif: has samples of {bits} bits; expected 8, 16 or 32: convert it"):
        read_header(path)
