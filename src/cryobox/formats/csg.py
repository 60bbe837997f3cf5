"""CryoSPARC's `.csg` result groups: YAML that says in which `.cs` file each slot of a table lies."""

from __future__ import annotations

import os
import posixpath
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from cryobox.errors import InputError
from cryobox.formats.cs_table import Table, prefixes, read_table
from cryobox.formats.files_read import note

__all__ = ["read_group", "write_group"]

GROUP_VERSION = "v4.6.2"  # readers take it for CryoSPARC's version; files of this one look like ours
MAX_GROUP_SIZE = 2**17  # real ones have a few kB; YAML takes about 400 times the memory of the text, and 50 µs a byte
# The tables must be the same bytes after every interruption: a caller that knows when the job began says so.
NO_TIME = datetime(1970, 1, 1)  # noqa: DTZ001 -- the files carry no time zone


def read_group(path: Path) -> tuple[Table, tuple[str, ...]]:
    """Read a result group: the slots of all its tables, joined on uid.

    Each slot is taken from the file that the group names for it; columns of slots that the group does not name come
    along, the later table winning. Rows are those of the first table, in its order.

    Returns
    -------
    tuple
        The joined table and warnings.

    Raises
    ------
    InputError
        If the group is not what CryoSPARC writes, a table is missing, lies outside the group's folder, or has
        another number of rows than the group says, a uid occurs twice, or the tables share no uid.
    """
    slots = _slots(path)
    tables: dict[str, Table] = {}
    for slot, (name, count) in slots.items():
        if name not in tables:
            tables[name] = _member(path, slot, name)
        if count is not None and count != len(tables[name]):
            raise InputError(
                f"{path}: slot {slot!r} promises {count} rows, {name} holds {len(tables[name])}; "
                f"files of different exports mixed?"
            )
    source = _column_sources(slots, tables)
    warnings = tuple(
        f"{path}: slot {slot!r} has no columns in {name}"
        for slot, (name, _) in slots.items()
        if not any(field.startswith(f"{slot}/") for field in tables[name].dtype.names or ())
    )
    if len(tables) == 1:
        return next(iter(tables.values())), warnings
    return _join(path, tables, source, warnings)


def _slots(path: Path) -> dict[str, tuple[str, int | None]]:
    """The file name, relative to the group's folder, and the number of rows of every slot."""
    group = _load(path)
    results = group.get("results") if isinstance(group, dict) else None
    if not isinstance(results, dict) or not results:
        raise InputError(f"{path}: not a CryoSPARC result group: no 'results'; give the .csg of a job's output")
    slots: dict[str, tuple[str, int | None]] = {}
    for slot, result in results.items():
        name = result.get("metafile") if isinstance(result, dict) else None
        if not isinstance(slot, str) or not isinstance(name, str):
            raise InputError(f"{path}: slot {slot!r} names no metafile")
        count = result.get("num_items")
        slots[slot] = (_inside(path, name), count if isinstance(count, int) else None)
    return slots


def _load(path: Path) -> Any:
    import yaml

    try:
        size = path.stat().st_size
        if size > MAX_GROUP_SIZE:
            raise InputError(f"{path}: {size} bytes are too many for a result group (at most {MAX_GROUP_SIZE})")
        return yaml.safe_load(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    except InputError:
        raise
    except (yaml.YAMLError, ValueError, TypeError, RecursionError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: not YAML: {reason[:200]}") from error


def _inside(path: Path, metafile: str) -> str:
    """The metafile's name relative to the group's folder, which a group cannot leave."""
    name = posixpath.normpath(metafile.removeprefix(">"))
    if posixpath.isabs(name) or name.split("/", 1)[0] == ".." or "\0" in name:
        raise InputError(
            f"{path}: metafile {metafile!r} lies outside the group's folder; put the .cs beside the .csg and name it "
            f"'>file.cs'"
        )
    return name


def _member(path: Path, slot: str, name: str) -> Table:
    member = path.parent / name
    if not os.path.isfile(member):  # not Path's, which raises where a name is too long
        raise InputError(f"{path}: slot {slot!r} lies in {member}, which does not exist; copy it beside the .csg")
    note(member)
    return read_table(member)


def _column_sources(slots: dict[str, tuple[str, int | None]], tables: dict[str, Table]) -> dict[str, str]:
    """For every column of the joined table the file that it comes from."""
    source: dict[str, str] = {}
    for name, table in tables.items():
        for field in table.dtype.names or ():
            slot = field.split("/", 1)[0]
            if field != "uid" and slots.get(slot, (name,))[0] == name:
                source[field] = name
    return source


def _join(
    path: Path, tables: dict[str, Table], source: dict[str, str], warnings: tuple[str, ...]
) -> tuple[Table, tuple[str, ...]]:
    for name, table in tables.items():
        _check_uids(path.parent / name, table)
    first_name, first = next(iter(tables.items()))
    uids = first["uid"]
    rows: dict[str, Any] = {}
    kept = np.ones(len(uids), dtype=bool)
    for name, table in tables.items():
        order = np.argsort(table["uid"], kind="stable")
        place = np.minimum(np.searchsorted(table["uid"], uids, sorter=order), max(len(table) - 1, 0))
        rows[name] = order[place] if len(table) else np.zeros(len(uids), dtype=np.intp)
        kept &= (table["uid"][rows[name]] == uids) if len(table) else False
    if len(uids) and not kept.any():
        raise InputError(f"{path}: {' and '.join(tables)} share no uid; files of different exports mixed?")
    if not kept.all():
        warnings += (
            f"{path}: {int((~kept).sum())} of {len(uids)} rows of {first_name} are not in every table; left out",
        )
    joined = np.empty(
        int(kept.sum()),
        dtype=[("uid", "<u8"), *((field, tables[name].dtype[field]) for field, name in source.items())],
    )
    joined["uid"] = uids[kept]
    for field, name in source.items():
        joined[field] = tables[name][field][rows[name][kept]]
    return joined, warnings


def _check_uids(path: Path, table: Table) -> None:
    names = table.dtype.names or ()
    if "uid" not in names or table.dtype["uid"] not in {np.dtype("<u8"), np.dtype(">u8")}:
        raise InputError(
            f"{path}: no column uid of 64-bit integers, on which tables are joined; it has {', '.join(names)}"
        )
    values, counts = np.unique(table["uid"], return_counts=True)
    if (counts > 1).any():
        uid = int(values[np.argmax(counts > 1)])
        raise InputError(
            f"{path}: uid {uid} occurs {int(counts.max())} times; tables can only be joined on unique uids"
        )


def write_group(
    path: Path, cs_name: str, table: Table, created: datetime | None = None, *, title: str = "Extracted particles"
) -> None:
    """Write the `.csg` that describes a table of particles beside it.

    Parameters
    ----------
    path : Path
        The `.csg`.
    cs_name : str
        File name of the table, in the same folder.
    table : ndarray
        The table: every group of its columns becomes a slot, ours (`cryobox/...`) excepted.
    created : datetime, optional
        When the job began. Without it the file says 1970, so that equal tables have equal bytes.
    title : str
        How CryoSPARC shows the group.
    """
    import yaml

    group = {
        "created": created or NO_TIME,
        "group": {"description": title, "name": "particles", "title": title, "type": "particle"},
        "results": {
            slot: {"metafile": f">{cs_name}", "num_items": len(table), "type": f"particle.{slot}"}
            for slot in prefixes(table.dtype.names or ())
            if slot != "cryobox"
        },
        "version": GROUP_VERSION,
    }
    path.write_text(yaml.safe_dump(group, sort_keys=False, allow_unicode=True, width=2**20), encoding="utf-8")
