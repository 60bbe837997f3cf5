"""Opening a micrograph's file for reading: regular files only, and every error names the path and the reason."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from cryobox.errors import MicrographError
from cryobox.micrograph import ImageHeader

__all__ = ["check_shape", "check_unchanged", "open_regular", "too_short"]

MAX_PIXELS = 2**31  # ten times the largest camera; a header that says more is wrong, or meant to exhaust the memory


@contextmanager
def open_regular(path: str) -> Iterator[tuple[int, os.stat_result]]:
    """Open `path` for reading; give the descriptor and its status.

    Raises
    ------
    MicrographError
        If the file is missing, not readable or not a regular file, or if reading it fails inside the block.
    """
    try:
        # O_NONBLOCK means nothing to regular files; without it, opening a FIFO waits forever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            kind = "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise MicrographError(f"{path}: cannot be read as a micrograph: it is {kind}")
        yield descriptor, status
    except OSError as error:
        raise _unreadable(path, error) from error
    finally:
        os.close(descriptor)


def _unreadable(path: str, error: Exception) -> MicrographError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return MicrographError(f"{path}: cannot be read: {reason}")


def check_unchanged(path: str, header: ImageHeader, status: os.stat_result) -> None:
    """Raise `MicrographError` if the file is not the one that `header` was read from."""
    if status.st_size != header.file_size:
        raise MicrographError(
            f"{path}: changed while it was in use: "
            f"held {header.file_size} bytes when its header was read, holds {status.st_size} now"
        )
    if status.st_mtime_ns != header.mtime_ns:
        raise MicrographError(
            f"{path}: changed while it was in use: it was written to after its header was read (same size, newer date)"
        )


def check_shape(path: str, ny: int, nx: int) -> None:
    """Raise `MicrographError` unless a header's numbers of rows and columns can be a micrograph's."""
    if ny < 1 or nx < 1:
        raise MicrographError(f"{path}: header says {ny} rows of {nx} pixels; both must be at least 1")
    if ny * nx > MAX_PIXELS:
        raise MicrographError(
            f"{path}: header says {ny} x {nx} = {ny * nx} pixels; more than {MAX_PIXELS} cannot be a micrograph"
        )


def too_short(path: str, shape: tuple[int, ...], dtype: np.dtype[Any], held: int) -> MicrographError:
    """The error for a file of whose pixels only `held` bytes are there."""
    promised = dtype.itemsize
    for side in shape:
        promised *= side
    return MicrographError(
        f"{path}: header promises {' x '.join(map(str, shape))} {dtype.name} ({promised} bytes), "
        f"file holds {max(held, 0)}; copied incompletely?"
    )
