"""Where relative paths start, and where a file named in a table is looked for."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryobox.errors import CryoboxError, InputError

__all__ = ["Start", "find_file", "working_directory"]


@dataclass(frozen=True, slots=True)
class Start:
    """Where relative paths start: made once, where a user's words come in, and handed down from there.

    Parameters
    ----------
    directory : str
        Absolute: where what a user names starts, and names in tables, too.
    root : str, optional
        Absolute: where names in tables start, where that is said.
    """

    directory: str
    root: str | None = None

    @classmethod
    def here(cls, root: str | os.PathLike[str] | None = None) -> Start:
        """The working directory of this process."""
        directory = working_directory()
        return cls(directory, None if root is None else os.path.join(directory, root))

    def whole(self, path: str | os.PathLike[str]) -> str:
        """A path that a user gave, so that it can be opened."""
        return os.path.join(self.directory, path)

    def name(self, path: str | os.PathLike[str]) -> str:
        """A path from the directory on, where it lies in it: what `whole` takes."""
        name = os.fspath(path).removeprefix(f"{self.directory}/")
        return name if name and not name.startswith("/") else os.fspath(path)

    def told(self, text: str) -> str:
        """A message with paths from the directory on, as they are given there: the same wherever it is made again."""
        if self.directory == "/":
            return text
        return re.sub(rf"(?<![^\s'\"(=,]){re.escape(self.directory)}/(?=[^\s/])", "", text)

    @contextmanager
    def telling(self) -> Iterator[None]:
        """While this lasts, errors name paths from the directory on; whole ones where the reader is somewhere else."""
        try:
            yield
        except CryoboxError as error:
            text = self.told(str(error))
            if text == str(error) or self.directory != working_directory():
                raise
            raise type(error)(text) from error.__cause__

    @property
    def base(self) -> Path:
        """Where names in tables of RELION start."""
        return Path(self.root or self.directory)

    def places(self, table: Path | None) -> tuple[Path, ...]:
        """Folders against which relative names in `table` are tried, in order.

        The root alone if there is one; else the directory, the table's folder, and that folder's parents up to the
        third (a CryoSPARC project is the parent of the job folder; RELION's root is the working directory).
        """
        if self.root is not None:
            return (Path(self.root),)
        places = [Path(self.directory)]
        if table is not None:
            folder = table.resolve().parent
            places += [folder, *list(folder.parents)[:3]]
        return tuple(dict.fromkeys(places))

    def beside(self, table: Path) -> tuple[Path, ...]:
        """`places`, those next to the table first, for whoever reads tables of several projects.

        Stacks of two projects may have equal names, and one of these may be the working directory: its images would be
        taken for the other's.
        """
        found = self.places(table)
        return found if self.root is not None else (*found[1:], found[0])


def working_directory() -> str:
    """The working directory of this process.

    Raises
    ------
    InputError
        If it was removed.
    """
    try:
        return os.getcwd()
    except OSError as error:
        raise InputError(f"the working directory is not there any more ({error.strerror}); change to another") from None


def find_file(name: str, places: tuple[Path, ...]) -> str:
    """Return the path of `name` in the first of `places` where it exists; else where it was looked for first."""
    if os.path.isabs(name):
        return name
    for place in places:
        candidate = os.path.join(place, name)
        if os.path.exists(candidate):
            return candidate
    return os.path.join(places[0], name)
