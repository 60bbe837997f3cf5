"""CryoSPARC's `.cs` files as structured arrays: the NumPy form in and out, the CSDAT stream form in."""

from __future__ import annotations

import json
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from cryobox.errors import InputError, MissingExtraError

__all__ = ["Table", "as_bytes", "as_text", "prefixes", "read_table", "write_table"]

Table = NDArray[np.void]  # one-dimensional, structured

NUMPY_MAGIC = b"\x93NUMPY"
CSDAT_MAGIC = b"\x95CSDAT"
MAX_HEADER = 16 * 2**20  # headers of some 10 kB are real; parsing takes about a hundred times the memory of the text
MAX_LZ4_RATIO = 255  # one byte of a raw LZ4 block stands for at most this many
# What NumPy's parser of headers was seen to raise for damaged ones, and what Python's own may.
_HEADER_ERRORS = (
    ValueError, TypeError, SyntaxError, TokenError, KeyError, IndexError, AttributeError, RecursionError, MemoryError,
    OverflowError,
)  # fmt: skip
MAX_EXPANSION = 1000  # of a whole CSDAT file; uids are never compressed, which keeps honest files below about 100


def as_text(raw: bytes | str) -> str:
    """A string of a table; bytes that are not UTF-8 survive the way back through `as_bytes`."""
    return raw if isinstance(raw, str) else raw.decode("utf-8", "surrogateescape")


def as_bytes(texts: list[str] | tuple[str, ...]) -> NDArray[np.bytes_]:
    """Strings as a column of fixed-length UTF-8, as wide as the longest, at least 1 byte."""
    raw = [text.encode("utf-8", "surrogateescape") for text in texts]
    return np.array(raw, dtype=f"S{max(1, max(map(len, raw), default=1))}")


def prefixes(names: tuple[str, ...]) -> tuple[str, ...]:
    """The groups ("blob", "location", ...) that field names belong to, in order."""
    return tuple(dict.fromkeys(name.split("/", 1)[0] for name in names if "/" in name))


def read_table(path: Path) -> Table:
    """Read a `.cs` file.

    Parameters
    ----------
    path : Path
        NumPy form (`np.save` of a structured array) or CSDAT stream form, told apart by their first bytes.

    Returns
    -------
    ndarray, shape (n,), structured
        Strings of the stream form become fixed-length bytes.

    Raises
    ------
    InputError
        If the file is missing, cut short, neither form, or holds anything but plain columns. Python objects are
        never unpickled, and no more is allocated than the file's own size allows.
    MissingExtraError
        If a compressed stream form is read without cryosparc-tools.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            magic = file.read(len(NUMPY_MAGIC))
            if magic == NUMPY_MAGIC:
                file.seek(0)
                return _read_numpy(path, file, size)
            if magic == CSDAT_MAGIC:
                return _read_csdat(path, file.read())
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    raise InputError(
        f"{path}: not a .cs file: it begins with {magic!r}, expected {NUMPY_MAGIC!r} (NumPy) or {CSDAT_MAGIC!r} "
        f"(CSDAT); records without their header cannot be read, export the table from CryoSPARC again"
    )


def _read_numpy(path: Path, file: IO[bytes], size: int) -> Table:
    shape, dtype = _numpy_header(path, file, size)
    if dtype.names is None or len(shape) != 1:
        raise InputError(f"{path}: holds a plain array of {dtype}, shape {shape}; expected a table with named columns")
    _check_columns(path, dtype)
    offset = file.tell()
    need = shape[0] * dtype.itemsize
    if need > size - offset:
        raise InputError(
            f"{path}: header promises {shape[0]} rows of {dtype.itemsize} bytes ({need} bytes), "
            f"file holds {size - offset}; copied incompletely?"
        )
    table = np.fromfile(file, dtype=dtype, count=shape[0])
    if len(table) != shape[0]:
        raise InputError(f"{path}: only {len(table)} of {shape[0]} rows could be read")
    return table


def _numpy_header(path: Path, file: IO[bytes], size: int) -> tuple[tuple[int, ...], np.dtype[Any]]:
    limit = min(size, MAX_HEADER)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # headers by Python 2, of CryoSPARC 2, say 100L; NumPy reads and warns
            version = np.lib.format.read_magic(file)
            if version == (1, 0):
                shape, _, dtype = np.lib.format.read_array_header_1_0(file, max_header_size=limit)
            elif version in {(2, 0), (3, 0)}:
                shape, _, dtype = np.lib.format.read_array_header_2_0(file, max_header_size=limit)
            else:
                raise InputError(f"{path}: NumPy format {version[0]}.{version[1]} is not known; expected 1.0 to 3.0")
        if version == (3, 0) and dtype.names is not None:  # differs from 2.0 in the encoding of names alone
            dtype.names = tuple(name.encode("latin1").decode("utf-8") for name in dtype.names)
    except InputError:
        raise
    except _HEADER_ERRORS as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: the NumPy header is damaged: {reason[:200]}") from error
    return shape, dtype


def _check_columns(path: Path, dtype: np.dtype[Any]) -> None:
    """Refuse columns that cannot be data: Python objects, and arrays of items without a size."""
    for name in dtype.names or ():
        column = dtype[name]
        if column.hasobject:
            raise InputError(f"{path}: column {name!r} holds Python objects, which are never read; save it as strings")
        if column.shape and column.base.itemsize == 0:
            raise InputError(f"{path}: column {name!r} is an array of empty items")
    if dtype.itemsize == 0:
        raise InputError(f"{path}: a table without columns")


def _read_csdat(path: Path, data: bytes) -> Table:
    """Read what follows the magic of the stream form.

    u32 header length; JSON {length, dtype, compression, compressed_fields}; per column u32 size and the column, as
    it is or as a raw LZ4 block; then the heap of NUL-terminated strings. Columns of strings ("|O") hold u64 offsets
    into the heap. The layout is that of cryosparc-tools, of which only the LZ4 decoder is used: its own reader
    trusts offsets and sizes.
    """
    try:
        header_size = _u32(data, 0)
        header = json.loads(data[4 : 4 + header_size])
        length = int(header["length"])
        fields = [
            (str(name), str(kind), tuple(map(int, shape[0])) if shape else ()) for name, kind, *shape in header["dtype"]
        ]
        compressed = set(header["compressed_fields"])
        dtype = np.dtype([(name, "<u8" if kind == "|O" else kind, shape) for name, kind, shape in fields])
    except (*_HEADER_ERRORS, struct.error) as error:
        raise InputError(f"{path}: the CSDAT header is damaged: {error!r:.200}") from error
    if not 0 <= length < 2**40 or any(side < 0 for _, _, shape in fields for side in shape):
        raise InputError(f"{path}: the CSDAT header is damaged: {length} rows")
    _check_columns(path, dtype)
    decompress = _lz4(path) if compressed else None
    position = 4 + header_size
    columns: dict[str, NDArray[Any]] = {}
    for name, _, _ in fields if length else ():
        size = _u32(data, position) if position + 4 <= len(data) else -1
        block = data[position + 4 : position + 4 + size]
        if size < 0 or len(block) != size:
            raise InputError(f"{path}: ends within column {name!r}; copied incompletely?")
        position += 4 + size
        need = length * dtype[name].itemsize
        if name in compressed:
            if decompress is None or need > min(size * MAX_LZ4_RATIO, 2**31 - 1):
                raise InputError(f"{path}: column {name!r} promises {need} bytes from a block of {size}")
            block = decompress(block, need)
        if len(block) != need:
            raise InputError(f"{path}: column {name!r} holds {len(block)} bytes, expected {need}")
        columns[name] = np.frombuffer(block, dtype=dtype[name].base).reshape(length, *dtype[name].shape)
    heap = data[position:]
    budget = MAX_EXPANSION * len(data) + 2**20
    for name, kind, _ in fields:
        if kind == "|O":
            columns[name] = _strings(path, name, columns.get(name, np.zeros(0, np.uint64)), heap, budget)
    found = np.dtype(
        [(name, columns[name].dtype if name in columns else dtype[name].base, shape) for name, _, shape in fields]
    )
    if length * found.itemsize > budget:
        raise InputError(f"{path}: {len(data)} bytes that expand to {length * found.itemsize}; refused")
    table = np.zeros(length, dtype=found)
    for name, column in columns.items():
        table[name] = column
    return table


def _u32(data: bytes, offset: int) -> int:
    (value,) = struct.unpack_from("<I", data, offset)
    return int(value)


def _lz4(path: Path) -> Callable[[bytes, int], bytes]:
    """The decoder of raw LZ4 blocks that cryosparc-tools brings along."""
    try:
        from cryosparc.dataset.core import Stream
    except ImportError as error:
        raise MissingExtraError(
            f"{path}: is in CryoSPARC's compressed form (CSDAT), which needs cryosparc-tools: "
            f"pip install cryobox[cryosparc]"
        ) from error

    def decompress(block: bytes, size: int) -> bytes:
        stream = Stream()  # owns the memory of the result, and must live until it is copied
        try:
            return bytes(stream.decompress(block, 0, size))
        except ValueError as error:
            raise InputError(f"{path}: a damaged LZ4 block: {error}") from error

    return decompress


def _strings(path: Path, name: str, offsets: NDArray[Any], heap: bytes, budget: int) -> NDArray[np.bytes_]:
    """The strings at `offsets` of the heap, each ended by a NUL, as a fixed-length column."""
    distinct, inverse = np.unique(offsets.ravel(), return_inverse=True)
    texts = []
    total = 0
    for offset in distinct.tolist():
        end = heap.find(b"\0", offset) if offset < len(heap) else -1
        total += max(end - offset, 0)
        if end < 0 or total > len(heap):  # offsets into the middle of one long string would copy it over and over
            raise InputError(f"{path}: column {name!r} points outside the file's strings")
        texts.append(heap[offset:end])
    width = max(1, max(map(len, texts), default=1))
    if len(inverse) * width > budget:
        raise InputError(f"{path}: strings of column {name!r} expand to {len(inverse) * width} bytes; refused")
    column = np.array(texts, dtype=f"S{width}")
    return column[inverse].reshape(offsets.shape)


def write_table(path: Path, table: Table) -> None:
    """Write a structured array as a `.cs` file in the NumPy form; the same table always gives the same bytes.

    Raises
    ------
    InputError
        If a column holds Python objects.
    """
    _check_columns(path, table.dtype)
    with path.open("wb") as file:
        for version in ((1, 0), (2, 0), (3, 0)):  # what does not fit the older form raises before a byte is written
            try:
                np.lib.format.write_array(file, table, version=version, allow_pickle=False)
                return
            except (ValueError, UnicodeEncodeError):
                if version == (3, 0) or file.tell():
                    raise
