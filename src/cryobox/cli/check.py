"""`cryobox check`: whether files of anyone are sound."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from cryobox.soundness import Soundness

__all__ = ["check"]

EXIT_PROBLEMS = 1
EXIT_REFUSED = 2


def check(
    files: Annotated[list[str], typer.Argument(help="Stacks, micrographs, tables of particles or micrographs")],
    images: Annotated[
        bool | None,
        typer.Option(
            "--images/--no-images", help="Read pixels, of a table's stacks too", show_default="of stacks given by name"
        ),
    ] = None,
    root: Annotated[Path | None, typer.Option(help="Where relative paths in tables start")] = None,
    json_objects: Annotated[bool, typer.Option("--json", help="Print one JSON object for each file")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print problems only")] = False,
) -> None:
    """Look for corrupt images in stacks and micrographs, and for tables that do not fit their stacks.

    Exit code 1 if there are problems, 2 if a file could not be checked.

    cryobox check stacks/*.mrcs
    cryobox check particles.star --images
    """
    from cryobox.paths import Start
    from cryobox.soundness import check_files

    code = 0
    for found in check_files(files, images=images, start=Start.here(root)):
        if found.refused:
            code = EXIT_REFUSED
        elif found.problems:
            code = max(code, EXIT_PROBLEMS)
        if json_objects:
            print(json.dumps(_as_object(found)), flush=True)
        else:
            _print(found, quiet=quiet)
    raise typer.Exit(code)


def _print(found: Soundness, *, quiet: bool) -> None:
    if found.refused:
        print(f"cryobox: error: {found.refused}", file=sys.stderr)
        return
    for problem in found.problems:
        print(problem.text)
    if quiet:
        return
    for note in found.notes:
        print(f"{found.path}: note: {note}")
    count = len(found.problems)
    said = f"{count} problem{'' if count == 1 else 's'}" if count else "sound"
    print(f"{found.path}: {said}{f': {found.about}' if found.about else ''}")


def _as_object(found: Soundness) -> dict[str, object]:
    problems = [
        {"fault": problem.fault.value, "message": problem.text, "numbers": problem.numbers}
        for problem in found.problems
    ]
    return {
        "file": found.path,
        "kind": found.kind,
        "counts": found.counts,
        "problems": problems,
        "notes": found.notes,
        "error": found.refused,
    }
