"""Where a file named in a table is looked for."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["find_file", "search_places"]


def search_places(table: Path | None, root: Path | None) -> tuple[Path, ...]:
    """Folders against which relative paths in `table` are tried, in order.

    `root` alone if it is given; else the working directory, the table's folder, and that folder's parents up to the
    third (a CryoSPARC project is the parent of the job folder; RELION's root is the working directory).
    """
    if root is not None:
        return (root,)
    places = [Path.cwd()]
    if table is not None:
        folder = table.resolve().parent
        places += [folder, *list(folder.parents)[:3]]
    return tuple(dict.fromkeys(places))


def find_file(name: str, places: tuple[Path, ...]) -> str:
    """Return the path of `name` in the first of `places` where it exists; else where it was looked for first."""
    if os.path.isabs(name):
        return name
    for place in places:
        candidate = os.path.join(place, name)
        if os.path.exists(candidate):
            return candidate
    return os.path.join(places[0], name)
