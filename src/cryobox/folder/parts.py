"""Parts of a run that are done by processes that know nothing of each other: names of their records, and agreement."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryobox.errors import OutputError

__all__ = ["check_same_inputs", "ledger_path", "part_name", "parts_present"]

_LEDGER = re.compile(r"ledger\.(\d+)-of-(\d+)\.jsonl")


def part_name(shard: tuple[int, int] | None) -> str:
    """How a part is called in file names: "1-of-4", "" for a whole run."""
    return "" if shard is None else f"{shard[0]}-of-{shard[1]}"


def ledger_path(folder: Path, part: str) -> Path:
    """The ledger of a whole run (`part` is "") or of one shard ("1-of-4")."""
    return folder / (f"ledger.{part}.jsonl" if part else "ledger.jsonl")


def parts_present(folder: Path) -> dict[tuple[int, int], Path]:
    """The ledgers of shards in a folder."""
    found = {}
    for path in folder.glob("ledger.*.jsonl"):
        if named := _LEDGER.fullmatch(path.name):
            found[int(named[1]), int(named[2])] = path
    return dict(sorted(found.items()))


def check_same_inputs(folder: Path, one: tuple[str, Mapping[str, Any]], other: tuple[str, Mapping[str, Any]]) -> None:
    """Raise `OutputError` unless two shards, each with its name and its record, were given the same inputs."""
    first, second = one[1].get("inputs") or {}, other[1].get("inputs") or {}
    for key in sorted(set(first) | set(second)):
        if key == "directory" and first.get("root") is not None and os.path.isabs(first["root"]):
            continue  # then nothing depends on it but relative paths of the tables themselves, which are the same
        if first.get(key) != second.get(key):
            raise OutputError(
                f"{folder}: {one[0]} was run with {key} = {first.get(key)}, {other[0]} with {second.get(key)}; give "
                f"the same (shards in different working directories: give --root), or start anew with --overwrite"
            )
