"""Files come into sight whole or not at all: written under a hidden name, forced to the disk, then renamed."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from cryobox.errors import OutputError
from cryobox.folder.layout import TABLE_FOLDER, is_stack_folder

__all__ = ["not_written", "publish_file", "publish_files", "remove_temporary", "sync_folder", "temporary_name"]

_attempt = itertools.count(1)


def temporary_name(name: str, part: str) -> str:
    """A name for a file that is not whole yet: hidden, and bearing part, host, process and attempt."""
    host = socket.gethostname().split(".")[0][:20]
    return f".{name}.{part or 'all'}.{host}.{os.getpid()}.{next(_attempt)}.tmp"


def publish_file(path: Path, data: bytes, *, fsync: bool) -> None:
    """Write a small file under a temporary name, then give it its own."""
    temporary = path.with_name(temporary_name(path.name, ""))
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            if fsync:
                os.fsync(file.fileno())
        os.replace(temporary, path)
        if fsync:
            sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise not_written(path, error) from error


def publish_files(folder: Path, name: str, write: Callable[[Path], None], *, fsync: bool) -> list[Path]:
    """Let a format write `name` (and what belongs to it) into a hidden folder, then move the files out.

    The format writes under the final name, since a `.csg` names its `.cs`.

    Returns
    -------
    list of Path
        The files, as they are called now.

    Raises
    ------
    OutputError
        If they cannot be written; none of them is then in sight.
    """
    hidden = folder / temporary_name(name, "")
    try:
        hidden.mkdir()
        write(hidden / name)
        made = sorted(hidden.iterdir())
        for file in made:
            if (folder / file.name).is_dir():
                raise OutputError(f"{folder / file.name}: cannot be written: it is a folder")
        for file in made:
            if fsync:
                _sync_file(file)
            os.replace(file, folder / file.name)
        hidden.rmdir()
        if fsync:
            sync_folder(folder)
    except OSError as error:
        raise not_written(folder / name, error) from error
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
    return [folder / file.name for file in made]


def not_written(path: Path, error: OSError) -> OutputError:
    """The error for a file that the system does not let be written; NumPy's has no reason of the system in it."""
    return error if isinstance(error, OutputError) else OutputError(f"{path}: cannot be written: {_reason(error)}")


def _reason(error: OSError) -> str:
    return error.strerror or f"the disk is full, or a limit of the system was reached ({error})"


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Force the entries of a folder to the disk.

    Raises
    ------
    OutputError
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be forced to the disk: {error.strerror}") from error


def remove_temporary(folder: Path, part: str) -> None:
    """Remove what an earlier attempt at this part left unfinished in the output folder; other parts' files stay.

    Raises
    ------
    OutputError
    """
    stacks = [folder / name for name in os.listdir(folder) if is_stack_folder(name)] if folder.is_dir() else []
    places = dict.fromkeys((folder, *stacks), part or "all")
    if part:
        places[folder / TABLE_FOLDER / part] = "all"  # tables bear no part: nobody else writes there
    try:
        for place, whose in places.items():
            ours = re.compile(rf"\..*\.{re.escape(whose)}\.[^.]*\.\d+\.\d+\.tmp", re.DOTALL)
            for path in place.iterdir() if place.is_dir() else ():
                if not ours.fullmatch(path.name):
                    continue
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: what an earlier run left cannot be removed: {error}") from error
