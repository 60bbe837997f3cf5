"""The job that all tests of engines and shards do, and what it must leave in its output folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cryobox

RECIPE = cryobox.Recipe(box=96, sizes=(64, 32), min_score=0.1)
MICROGRAPHS = 14


def outputs(folder: Path) -> dict[str, bytes]:
    """Every table and stack of an output folder by name; names in reasons from the project on."""
    found = [*folder.glob("*.star"), *folder.glob("*.cs"), *folder.glob("*.csg"), *folder.glob("stacks*/*")]
    project = f"{folder.parent}/".encode()  # in reasons, where a run was not started there
    return {str(path.relative_to(folder)): path.read_bytes().replace(project, b"") for path in sorted(found)}


def differences(one: dict[str, bytes], other: dict[str, bytes]) -> list[str]:
    """Names of files that are not the same in both."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def extract(project: Path, **more: Any) -> cryobox.RunResult:
    """Run the project's job into its folder `out`."""
    options = more.pop("options", cryobox.RunOptions(workers=2, fsync=False))
    more = dict[str, Any](recipe=RECIPE, out=project / "out") | more
    return cryobox.run(
        project / "picks.star", micrographs=project / "micrographs.star", root=project, options=options, **more
    )
