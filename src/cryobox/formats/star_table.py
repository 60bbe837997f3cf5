"""STAR files as bytes and places: blocks, tables whose columns are made when asked for, rows copied as they stand.

RELION's STAR is line based: one row per line. The file is kept as the bytes it is, with the place of every value in
two integer arrays; only the columns that are needed become numbers or strings, and runs of untouched columns are
copied as they stand. A CIF parser would be stricter than RELION (values that begin with `data_` or `_`, names that
are not ASCII) and needs several times the memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from cryobox.errors import InputError
from cryobox.formats.star_text import decode, fixed, listed, number, spans_of_values

__all__ = [
    "Block",
    "Chosen",
    "Codes",
    "Floats",
    "Lookup",
    "Measured",
    "Numbers",
    "Piece",
    "Run",
    "Table",
    "read_blocks",
    "write_loop",
]

Floats = NDArray[np.float64]
Codes = NDArray[np.intp]
Piece = Callable[[slice], list[bytes]]  # the texts of one column, or of a run of them, for a range of output rows

_READ_CHUNK = 16 << 20  # bytes split into values at a time: the masks stay small beside the file
_FEW_ROWS = 16_384  # looked at as arrays that stay in the processor's cache
_ROWS = 50_000  # made or built as Python objects at a time
_POWERS_OF_TEN = 10.0 ** np.arange(16)  # exact


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Table:
    """One loop (or one group of pairs) of a STAR file: where each value lies in the bytes of the file.

    Parameters
    ----------
    path, block : str
        For messages.
    data : bytes
        The file.
    tags : tuple of str
        Column names, with the underscore.
    starts, lengths : ndarray, shape (n, columns)
        Offset and length in bytes of each value, quotes included.
    adjacent : bool
        Neighboring columns are neighbors in the file, so that a run of them can be copied at once.
    """

    path: str
    block: str
    data: bytes
    tags: tuple[str, ...]
    starts: NDArray[Any]
    lengths: NDArray[Any]
    adjacent: bool = True

    def __len__(self) -> int:
        return len(self.starts)

    def __contains__(self, tag: str) -> bool:
        return tag in self.tags

    def require(self, *tags: str) -> None:
        """Raise `InputError` unless all `tags` are there."""
        missing = [tag for tag in tags if tag not in self.tags]
        if missing:
            raise InputError(
                f"{self.path}: data_{self.block} has no column {', '.join(missing)}; "
                f"columns present: {listed(self.tags)}"
            )

    def slices(self, first: int, last: int, rows: Any = slice(None)) -> Iterable[slice]:
        """Where columns `first` to `last` of `rows` lie in `data`."""
        starts = self.starts[rows, first].tolist()
        stops = (self.starts[rows, last].astype(np.int64) + self.lengths[rows, last]).tolist()
        return map(slice, starts, stops)

    def raw(self, tag: str) -> Iterable[bytes]:
        """The bytes of a column, quotes included."""
        self.require(tag)
        column = self.tags.index(tag)
        return map(self.data.__getitem__, self.slices(column, column))

    def texts(self, tag: str) -> list[str]:
        """A column as text."""
        return [decode(value) for value in self.raw(tag)]

    def codes(self, tag: str) -> tuple[Codes, list[str]]:
        """A column of few distinct texts: index per row, and the texts in order of first appearance."""
        index: dict[bytes, int] = {}
        codes = np.empty(len(self), np.intp)
        values = iter(self.raw(tag))
        for begin in range(0, len(self), _ROWS):
            some = list(islice(values, _ROWS))
            for value in dict.fromkeys(some):
                index.setdefault(value, len(index))
            codes[begin : begin + len(some)] = list(map(index.__getitem__, some))
        texts = [decode(value) for value in index]
        distinct = list(dict.fromkeys(texts))
        if len(distinct) < len(texts):  # the same name with and without quotes
            place = {text: i for i, text in enumerate(distinct)}
            codes = np.array([place[text] for text in texts], np.intp)[codes]
        return codes, distinct

    def floats(self, tag: str, *, missing: tuple[bytes, ...] = ()) -> Floats:
        """A column as numbers; the raw values in `missing` become nan."""
        self.require(tag)
        column = self.tags.index(tag)
        values = np.empty(len(self))
        everything = np.frombuffer(self.data, np.uint8)
        for begin in range(0, len(self), _FEW_ROWS):
            part = slice(begin, begin + _FEW_ROWS)
            values[part], plain = _decimals(everything, self.starts[part, column], self.lengths[part, column])
            odd = np.flatnonzero(~plain) + begin
            for row, where in zip(odd.tolist(), self.slices(column, column, odd), strict=True):
                values[row] = self._float(tag, row, self.data[where], missing)
        return values

    def not_numbers(self, tag: str, rows: Codes) -> NDArray[np.bool_]:
        """Which of `rows` hold no finite number; only those that do not look like one are read."""
        self.require(tag)
        column = self.tags.index(tag)
        data = np.frombuffer(self.data, np.uint8)
        bad = np.zeros(len(rows), np.bool_)
        for begin in range(0, len(rows), _FEW_ROWS):
            part = rows[begin : begin + _FEW_ROWS]
            starts = self.starts[part, column].astype(np.int64)
            lengths = self.lengths[part, column]
            odd = _looks_odd(data, starts, lengths)
            for place in np.flatnonzero(odd).tolist():
                where = slice(int(starts[place]), int(starts[place]) + int(lengths[place]))
                bad[begin + place] = not np.isfinite(number(decode(self.data[where])))
        return bad

    def _float(self, tag: str, row: int, value: bytes, missing: tuple[bytes, ...]) -> float:
        if value in missing:
            return float("nan")
        text = decode(value)
        try:
            return float(text)
        except ValueError:
            raise InputError(
                f"{self.path}: data_{self.block}, row {row + 1}: {tag} is {text[:60]!r}, expected a number"
            ) from None

    def row(self, i: int) -> dict[str, str]:
        """One row as text."""
        return {
            tag: decode(self.data[start : start + length])
            for tag, start, length in zip(self.tags, self.starts[i].tolist(), self.lengths[i].tolist(), strict=True)
        }


def _looks_odd(data: NDArray[np.uint8], starts: NDArray[Any], lengths: NDArray[Any]) -> NDArray[np.bool_]:
    """Texts that may be no finite number: not a digit in front, or an exponent of three digits behind."""
    byte = data[starts]
    signed = (byte == ord("-")) | (byte == ord("+"))
    if signed.any():
        byte = np.where(signed, data[np.minimum(starts + 1, len(data) - 1)], byte)
    odd: NDArray[np.bool_] = ((byte < ord("0")) | (byte > ord("9"))) & (byte != ord("."))
    long = np.flatnonzero(lengths > 4)
    ends = starts[long] + lengths[long]
    for back in (4, 5):  # 1e400, 1e+400
        mark = data[ends - back] | 0x20
        odd[long] |= mark == ord("e")
    return odd


def _decimals(data: NDArray[np.uint8], starts: NDArray[Any], lengths: NDArray[Any]) -> tuple[Floats, NDArray[np.bool_]]:
    """The values of texts such as -12.345, and which texts are of that kind.

    They are the numbers that `float` gives: with at most 15 digits, the digits as an integer and the power of ten are
    exact, and the one division rounds correctly (Clinger, 1990). Python objects for each would take four times as long.
    """
    longest = 17  # 15 digits, a sign, a point
    number = np.zeros(len(starts), np.int64)
    digits = np.zeros(len(starts), np.int8)
    behind = np.zeros(len(starts), np.int8)  # digits behind the point
    pointed = np.zeros(len(starts), np.bool_)
    plain = lengths <= longest
    place = starts.astype(np.int64)
    negative = data[np.minimum(place, len(data) - 1)] == ord("-")
    for i in range(min(int(lengths.max(initial=0)), longest)):
        byte = data[np.minimum(place + i, len(data) - 1)]
        inside = lengths > i
        digit = (byte >= ord("0")) & (byte <= ord("9")) & inside
        point = (byte == ord(".")) & inside & ~pointed
        plain &= ~inside | digit | point | (negative if i == 0 else False)
        number = np.where(digit, number * 10 + (byte.astype(np.int64) - ord("0")), number)
        digits += digit
        behind += digit & pointed
        pointed |= point
    plain &= (digits >= 1) & (digits <= 15)
    values = number / _POWERS_OF_TEN[np.where(plain, behind, 0)]
    return np.where(negative, -values, values), plain


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Block:
    """One `data_` block: its place in the file; its table is made when it is asked for."""

    path: str
    name: str
    data: bytes
    begin: int  # of the line "data_..."
    end: int  # without trailing comments, which belong to the next block

    @property
    def raw(self) -> bytes:
        """The block as it stands in the file."""
        return self.data[self.begin : self.end]

    def tags(self) -> tuple[str, ...]:
        """Names of the columns as far as they can be told without the rows, which may be of any form."""
        found: list[str] = []
        loop = False
        for _, words in _lines(self.data, _next_line(self.data, self.begin, self.end), self.end):
            if words == [b"loop_"] and not loop:
                loop = True
            elif not words[0].startswith(b"_") or (loop and len(words) > 1):
                break
            else:
                found.append(decode(words[0]))
        return tuple(found)

    def table(self) -> Table:
        """Find the values of the block's only loop, or of its pairs."""
        return _block_table(self)


def read_blocks(path: str | Path, *, may_be_empty: bool = False) -> dict[str, Block]:
    """Find the blocks of a STAR file, by name ("" for a bare `data_`), in the order of the file.

    Parameters
    ----------
    path : path
    may_be_empty : bool
        A file without anything but blanks and comments has no blocks, instead of being an error.

    Raises
    ------
    InputError
        If the file cannot be read, is empty, is not text, has no block, or has two of one name.
    """
    name = str(path)
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{name}: cannot be read: {error.strerror or error}") from error
    if data.startswith(b"\xef\xbb\xbf"):
        data = data[3:]
    if b"\0" in data:
        raise InputError(f"{name}: not a STAR file: it holds zero bytes, expected text")
    if not data or data.isspace():
        if may_be_empty:
            return {}
        raise InputError(f"{name}: the file is empty, expected a STAR table")
    if b"\n" not in data:
        data = data.replace(b"\r", b"\n")  # line ends of the old Macintosh
    if may_be_empty and next(iter(_lines(data, 0, len(data))), None) is None:
        return {}
    places = list(_keyword_lines(data, b"data_", 0, len(data)))
    if not places:
        raise InputError(f"{name}: not a STAR file: no line begins with data_")
    blocks: dict[str, Block] = {}
    for (begin, word, _), following in zip(places, [*(p[0] for p in places[1:]), len(data)], strict=True):
        title = decode(word[5:])
        if title in blocks:
            raise InputError(f"{name}: two blocks are called data_{title}; expected each name once")
        end = _trim(data, begin, following)
        blocks[title] = Block(path=name, name=title, data=data, begin=begin, end=end)
    return blocks


def _keyword_lines(data: bytes, keyword: bytes, begin: int, end: int) -> Iterable[tuple[int, bytes, int]]:
    """Lines of one word that begins with `keyword`: (offset of the line, the word, offset after the line)."""
    place = data.find(keyword, begin, end)
    while place >= 0:
        line = data.rfind(b"\n", begin, place) + 1 or begin
        stop = data.find(b"\n", place, end)
        stop = end if stop < 0 else stop
        words = data[place:stop].split(b"#", 1)[0].split()
        if not data[line:place].strip() and len(words) == 1:
            yield line, words[0], min(stop + 1, end)
        place = data.find(keyword, stop, end)


def _trim(data: bytes, begin: int, end: int) -> int:
    """The end of a block without the empty lines and comments that lead to the next one."""
    while end > begin:
        line = data.rfind(b"\n", begin, end - 1) + 1 or begin
        text = data[line:end].strip()
        if text and not text.startswith(b"#"):
            break
        end = line
    return end


def _lines(data: bytes, begin: int, end: int) -> Iterable[tuple[int, list[bytes]]]:
    """(offset, values) of each line that has any; comments left out."""
    while begin < end:
        stop = data.find(b"\n", begin, end)
        stop = end if stop < 0 else stop
        line = data[begin:stop]
        words = [line[first:last] for first, last in spans_of_values(line) if line[first] != ord("#")]
        if words:
            yield begin, words
        begin = stop + 1


def _next_line(data: bytes, begin: int, end: int) -> int:
    stop = data.find(b"\n", begin, end)
    return end if stop < 0 else stop + 1


def _block_table(block: Block) -> Table:
    data = block.data
    first = _next_line(data, block.begin, block.end)
    loops = list(_keyword_lines(data, b"loop_", first, block.end))
    loops = [loop for loop in loops if loop[1] == b"loop_"]
    if len(loops) > 1:
        raise InputError(f"{block.path}: data_{block.name} holds {len(loops)} loops, expected one")
    if not loops:
        return _pairs(block, first)
    begin = block.end
    tags: list[str] = []
    for place, words in _lines(data, loops[0][2], block.end):
        if len(words) > 1 or not words[0].startswith(b"_"):
            begin = place
            break
        tags.append(decode(words[0]))
    _check_tags(block, tags)
    starts, lengths = _find_values(block, begin, len(tags))
    return Table(path=block.path, block=block.name, data=data, tags=tuple(tags), starts=starts, lengths=lengths)


def _pairs(block: Block, begin: int) -> Table:
    """A block of `_tag value` lines is a table of one row."""
    tags, starts, lengths = [], [], []
    for place, words in _lines(block.data, begin, block.end):
        if len(words) != 2 or not words[0].startswith(b"_"):
            line = block.data.count(b"\n", 0, place) + 1
            text = b" ".join(words)[:60].decode("utf-8", "replace")
            raise InputError(f"{block.path}: line {line}: expected loop_ or a name and its value, got {text!r}")
        tags.append(decode(words[0]))
        at = block.data.index(words[0], place) + len(words[0])
        starts.append(block.data.index(words[1], at))
        lengths.append(len(words[1]))
    _check_tags(block, tags)
    shape = (1 if tags else 0, len(tags))
    return Table(
        path=block.path,
        block=block.name,
        data=block.data,
        tags=tuple(tags),
        starts=np.array(starts, np.int64).reshape(shape),
        lengths=np.array(lengths, np.int64).reshape(shape),
        adjacent=False,
    )


def _check_tags(block: Block, tags: Sequence[str]) -> None:
    seen: set[str] = set()
    for tag in tags:
        if tag in seen:
            raise InputError(f"{block.path}: data_{block.name} has the column {tag} twice")
        seen.add(tag)


def _find_values(block: Block, begin: int, width: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Offsets and lengths of the values of the rows from `begin` on, each of shape (rows, width)."""
    data, end = block.data, block.end
    # A value takes two bytes at least, which bounds the memory whatever the header promises.
    most = min((data.count(b"\n", begin, end) + 1) * width, (end - begin) // 2 + 1)
    starts = np.empty(most, np.int32 if len(data) < 2**31 else np.int64)
    lengths: NDArray[Any] = np.empty(most, np.uint16)
    everything = np.frombuffer(data, np.uint8)
    done = 0
    while begin < end:
        stop = end
        if begin + _READ_CHUNK < end:
            stop = data.find(b"\n", begin + _READ_CHUNK, end) + 1 or end
        part = everything[begin:stop]
        first, last = _tokens(part)
        if any(data.find(mark, begin, stop) >= 0 for mark in (b'"', b"'", b"#")) and bool(
            np.isin(part[first], np.frombuffer(b"\"'#", np.uint8)).any()
        ):
            first, last = _quoted_tokens(data[begin:stop])
        breaks = np.append(np.flatnonzero(part == ord("\n")), len(part))
        counts = np.diff(np.searchsorted(first, breaks), prepend=0)
        ragged = np.flatnonzero((counts != 0) & (counts != width))
        if len(ragged):
            line = data.count(b"\n", 0, begin) + 1 + int(ragged[0])
            raise InputError(
                f"{block.path}: line {line}: {counts[ragged[0]]} values, expected {width}, "
                f"one for each column of data_{block.name}"
            )
        span = last - first
        if lengths.dtype == np.uint16 and len(span) and span.max() > 65535:
            lengths = lengths.astype(np.uint32)
        starts[done : done + len(first)] = first + begin
        lengths[done : done + len(first)] = span
        done += len(first)
        begin = stop
    shape = (done // width if width else 0, width)
    return starts[:done].reshape(shape), lengths[:done].reshape(shape)


def _tokens(part: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First byte and end of each run of printable bytes."""
    solid = np.zeros(len(part) + 2, np.bool_)
    np.greater(part, 32, out=solid[1:-1])
    edges = np.flatnonzero(solid[1:] != solid[:-1])
    return edges[0::2], edges[1::2]


def _quoted_tokens(part: bytes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The same where quotes or comments occur, which takes a look at every value."""
    spans = [span for span in spans_of_values(part) if part[span[0]] != ord("#")]
    both = np.array(spans, np.int64).reshape(-1, 2)
    return both[:, 0], both[:, 1]


@dataclass(frozen=True, slots=True)
class Run:
    """Columns `first` to `last` of a table, copied as they stand in the file."""

    table: Table
    rows: Codes
    first: int
    last: int

    def __call__(self, part: slice) -> list[bytes]:
        places = self.table.slices(self.first, self.last, self.rows[part])
        return list(map(self.table.data.__getitem__, places))


@dataclass(frozen=True, slots=True)
class Lookup:
    """One text for each code."""

    codes: Codes
    texts: list[bytes]

    def __call__(self, part: slice) -> list[bytes]:
        return [self.texts[code] for code in self.codes[part].tolist()]


@dataclass(frozen=True, slots=True)
class Chosen:
    """Of two texts for each row the first where `first_where` says so."""

    first_where: NDArray[np.bool_]
    first: Piece
    second: Piece

    def __call__(self, part: slice) -> list[bytes]:
        choice = zip(self.first_where[part].tolist(), self.first(part), self.second(part), strict=True)
        return [one if chosen else other for chosen, one, other in choice]


@dataclass(frozen=True, slots=True)
class Numbers:
    """Numbers with six decimals, as RELION writes them; where `kept` is given, only the rows that `changed`."""

    values: NDArray[Any]
    changed: NDArray[np.bool_] | None = None
    kept: Piece | None = None

    def __call__(self, part: slice) -> list[bytes]:
        values = self.values[part].tolist()
        # Whole pixels, which most coordinates are after recentering: the same text in two thirds of the time.
        new = [b"%d.000000" % value for value in values] if self.values.dtype.kind == "i" else fixed(values)
        if self.kept is None or self.changed is None or self.changed[part].all():
            return new
        choice = zip(self.changed[part].tolist(), new, self.kept(part), strict=True)
        return [made if changed else old for changed, made, old in choice]


@dataclass(frozen=True, slots=True)
class Measured:
    """Numbers of any magnitude, with the digits of a float32."""

    values: NDArray[Any]

    def __call__(self, part: slice) -> list[bytes]:
        return [b"%.7g" % value for value in self.values[part].tolist()]


def write_loop(file: BinaryIO, block: str, tags: Sequence[str], pieces: Sequence[Piece], n: int) -> None:
    file.write(b"\ndata_%b\n\nloop_\n" % block.encode("utf-8", "surrogateescape"))
    file.writelines(b"%b #%d\n" % (tag.encode("utf-8", "surrogateescape"), i) for i, tag in enumerate(tags, 1))
    for begin in range(0, n, _ROWS):
        part = slice(begin, min(begin + _ROWS, n))
        file.write(b"\n".join(map(b" ".join, zip(*(piece(part) for piece in pieces), strict=True))) + b"\n")
    file.write(b"\n")
