"""Values of STAR files as text: quoting, what cannot be written at all, numbers as they are printed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from cryobox.errors import InputError

__all__ = ["decode", "encode", "encode_message", "fixed", "listed", "number", "spans_of_values", "unwritable"]

_SPACE = rb"\x00-\x20"  # whatever is not printable separates, so that \r needs no case of its own
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_LINE = re.compile(rb"[^\n]+")
_SOLID = re.compile(rb"[^%b]+" % _SPACE)
_CLOSING = re.compile(rb"[\"'](?=[%b]|\Z)" % _SPACE)
_TOKEN = re.compile(
    rb"""#[^\n]*|"[^\n]*?"(?=[%b]|\Z)|'[^\n]*?'(?=[%b]|\Z)|[^%b]+""" % (_SPACE, _SPACE, _SPACE)  #
)
_FEW_QUOTES = 100


def decode(value: bytes) -> str:
    """The text of one raw value; bytes that are not UTF-8 survive as they do in file names."""
    if len(value) > 1 and value[0] in b"\"'" and value[-1] == value[0]:
        value = value[1:-1]
    return value.decode("utf-8", "surrogateescape")


def encode(text: str) -> bytes:
    """One value as it must stand in a row: quoted only where it would otherwise fall apart.

    Raises
    ------
    InputError
        If there is no such form; `unwritable` says so before.
    """
    if why := unwritable(text):
        raise InputError(f"{text!a} {why}, which a STAR file cannot hold; rename it")
    raw = text.encode("utf-8", "surrogateescape")
    if not _needs_quotes(raw):
        return raw
    quote = b"'" if b'"' in raw else b'"'
    return quote + raw + quote


def encode_message(text: str) -> bytes:
    """The same for a text whose exact form does not matter: what cannot stand in a row is replaced."""
    text = re.sub(r"[\x00-\x1f\x7f]", " ", text)
    return encode(text.replace('"', "'") if unwritable(text) else text)


def unwritable(text: str) -> str:
    """Why a STAR file cannot hold this value; "" if it can.

    A quote inside a quoted value ends it for some readers, so that a value needs a kind of quote that it does not have.
    """
    if _CONTROL.search(text):
        return "holds a line break or another control character"
    raw = text.encode("utf-8", "surrogateescape")
    if _needs_quotes(raw) and b'"' in raw and b"'" in raw:
        return "holds both kinds of quotes and must be quoted"
    return ""


def _needs_quotes(raw: bytes) -> bool:
    return not raw or b" " in raw or raw[0] in b"\"'#"


def spans_of_values(part: bytes) -> list[tuple[int, int]]:
    """Where the values and comments of some lines are, quotes included."""
    if part.count(b'"') + part.count(b"'") < _FEW_QUOTES:
        return [match.span() for match in _TOKEN.finditer(part)]
    # A quote that nothing closes makes the expression look at the whole line. Where many would, lines are walked.
    found = []
    for line in _LINE.finditer(part):
        text = line[0]
        if text.count(b'"') + text.count(b"'") < _FEW_QUOTES:
            spans_of_values: Iterable[tuple[int, int]] = (match.span() for match in _TOKEN.finditer(text))
        else:
            spans_of_values = _walk(text)
        found += [(begin + line.start(), end + line.start()) for begin, end in spans_of_values]
    return found


def _walk(line: bytes) -> Iterable[tuple[int, int]]:
    """The same for one line, in time that grows with its length only."""
    closing = {b'"': -1, b"'": -1}  # where the last one stands that ends a value
    for match in _CLOSING.finditer(line):
        closing[match[0]] = match.start()
    begin = 0
    while found := _SOLID.search(line, begin):
        begin, end = found.start(), found.end()
        mark = line[begin : begin + 1]
        if mark == b"#":
            end = len(line)
        elif mark in closing and begin < closing[mark]:
            close = _CLOSING.search(line, begin + 1)
            while close is not None and close[0] != mark:
                close = _CLOSING.search(line, close.end())
            assert close is not None
            end = close.end()
        yield begin, end
        begin = end


def listed(names: Sequence[str], most: int = 20) -> str:
    """Names for a message: the first of them, and how many more there are."""
    shown = ", ".join(name if len(name) < 100 else name[:96] + " ..." for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "") or "none"


def number(text: str | None) -> float:
    """The number in a value of data_optics; nan where there is none."""
    try:
        return float(text) if text is not None else float("nan")
    except ValueError:
        return float("nan")


def fixed(values: Iterable[float]) -> list[bytes]:
    return [b"%.6f" % value for value in values]
