"""Files of coordinates as text, whatever wrote them."""

from __future__ import annotations

from pathlib import Path

from cryobox.errors import InputError

__all__ = ["is_number", "read_text"]


def read_text(path: str | Path, what: str) -> str:
    """Read a whole text file; `what` says in messages what was expected, such as "a table of coordinates".

    Raises
    ------
    InputError
        If the file cannot be read, or holds anything but UTF-8 text (ASCII included).
    """
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path}: not {what}: it holds bytes that are not UTF-8 text") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    if "\0" in text:
        raise InputError(f"{path}: not {what}: it holds zero bytes, expected text")
    return text


def is_number(word: str) -> bool:
    """Whether Python reads a word as a number; nan and inf are."""
    try:
        float(word)
    except ValueError:
        return False
    return True
