"""What a user named: picks, micrographs, and where relative paths start. Recorded, and read back, as it was given."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cryobox.errors import InputError, OptionError
from cryobox.paths import Start, working_directory

__all__ = ["Given", "Picks", "picks_paths"]

Picks = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


def picks_paths(picks: Picks) -> tuple[str, ...]:
    """The tables of picks that were given: one, or several.

    Raises
    ------
    OptionError
        If there is none.
    """
    paths = (picks,) if isinstance(picks, (str, os.PathLike)) else tuple(picks)
    if not paths:
        raise OptionError("no picks were given; expected a path, or several")
    return tuple(os.fspath(path) for path in paths)


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """The paths that a user gave, so that they can be recorded and found again.

    Parameters
    ----------
    picks : str or tuple of str
        As given; several tables are a tuple.
    micrographs : str
        As given; "": those that the picks name.
    root : str, optional
    directory : str
        Where relative ones start.
    """

    picks: str | tuple[str, ...]
    micrographs: str
    root: str | None
    directory: str

    @classmethod
    def of(
        cls,
        picks: Picks,
        micrographs: str | os.PathLike[str] | None,
        root: str | os.PathLike[str] | None = None,
        directory: str | os.PathLike[str] | None = None,
    ) -> Given:
        """What a caller names; relative paths start in the working directory, where no other is given.

        Raises
        ------
        OptionError
            If there are no picks.
        InputError
            If the working directory is gone.
        """
        paths, here = picks_paths(picks), working_directory()
        return cls(
            picks=paths[0] if len(paths) == 1 else paths,
            micrographs="" if micrographs is None else os.fspath(micrographs),
            root=None if root is None else os.fspath(root),
            directory=here if directory is None else os.path.realpath(os.path.join(here, directory)),
        )

    @property
    def start(self) -> Start:
        """Where relative paths start."""
        return Start(self.directory, None if self.root is None else os.path.join(self.directory, self.root))

    @property
    def paths(self) -> tuple[str, ...]:
        """All that was named: picks, then micrographs."""
        return (*picks_paths(self.picks), *([self.micrographs] if self.micrographs else []))

    @property
    def picks_paths(self) -> tuple[str, ...]:
        """The tables of picks, as they can be opened."""
        return tuple(map(self.start.whole, picks_paths(self.picks)))

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON-ready values."""
        picks = self.picks if isinstance(self.picks, str) else list(self.picks)
        return dataclasses.asdict(self) | {"picks": picks}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Given:
        """The paths from what `as_dict` gave.

        Raises
        ------
        InputError
            If the record is of another kind.
        """
        try:
            found = {field.name: record[field.name] for field in dataclasses.fields(cls)}
        except (KeyError, TypeError) as error:
            raise InputError(f"the record of the inputs has no {error}; was it written by another version?") from error
        if isinstance(found["picks"], list) and found["picks"]:
            found["picks"] = tuple(found["picks"])
        for name, value in found.items():
            for path in value if isinstance(value, tuple) else (value,):
                if not (isinstance(path, str) or (name == "root" and path is None)) or "\0" in (path or ""):
                    raise InputError(f"the record of the inputs holds no path for {name}; got {path!r}; was it edited?")
        return cls(**found)
