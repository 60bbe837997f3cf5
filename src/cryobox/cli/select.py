"""`cryobox select`: rows of a table that another one has."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["select"]


def select(
    full: Annotated[Path, typer.Argument(help="Table to choose rows from, or the --out of a run")],
    like: Annotated[Path, typer.Option(help="Table that has some of the same particles")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Table to write, of the kind of the first")],
    within: Annotated[float, typer.Option(help="Pixels between two positions of one particle")] = 1.0,
    root: Annotated[Path | None, typer.Option(help="Where relative paths in tables start")] = None,
    strip_suffix: Annotated[
        str | None, typer.Option(help="Text at the end of micrographs' names that is not compared")
    ] = None,
    strip_prefix: Annotated[str | None, typer.Option(help="The same at their beginning")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead")] = False,
) -> None:
    """Write the rows of a table that another one has, too. Exit code 1 if some of these are not there.

    cryobox select Extract/job010/particles.star --like Select/job020/particles.star --out selected.star
    cryobox select J9/particles.cs --like J15/particles_selected.cs --out selected.cs
    """
    from cryobox.matching import Strip
    from cryobox.subset import select_like

    found = select_like(
        full,
        like,
        out,
        within=within,
        root=root,
        strip=Strip(prefix=strip_prefix or "", suffix=strip_suffix or ""),
        overwrite=overwrite,
    )
    if as_json:
        print(json.dumps(dataclasses.asdict(found) | {"tables": [str(path) for path in found.tables]}))
    else:
        for note in found.notes:
            print(note)
        by = ", ".join(f"{count:,} by {rule}" for rule, count in found.rules.items())
        print(f"{out}: {found.rows:,} of {found.full:,} rows ({by})")
        if found.missing:
            print(f"{found.missing:,} rows of {like} are not in {full}")
    raise typer.Exit(1 if found.missing else 0)
