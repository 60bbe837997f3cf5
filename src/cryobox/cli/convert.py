"""`cryobox convert`: tables of particles from one program's form to the other's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cryobox.display import warn

__all__ = ["convert"]


def convert(
    source: Annotated[Path, typer.Argument(help="Particles: .star, .cs or .csg")],
    target: Annotated[Path, typer.Argument(help="The table to write: .star or .cs")],
    micrographs: Annotated[
        str | None,
        typer.Option("--micrographs", "-m", help="Their sizes, for locations in a .cs: table, folder or glob"),
    ] = None,
    root: Annotated[Path | None, typer.Option(help="Where relative paths in tables start")] = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Name stacks in TARGET that are not there")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace TARGET, and the .csg beside a .cs")] = False,
) -> None:
    """Turn a table of particles of RELION into one of CryoSPARC, or the other way round; images stay where they are.

    cryobox convert J9/particles.csg particles.star
    cryobox convert run_data.star particles.cs -m micrographs_ctf.star
    """
    from cryobox.convert import convert_particles

    done = convert_particles(
        source, target, micrographs=micrographs, root=root, overwrite=overwrite, allow_missing=allow_missing
    )
    warn(done.warnings)
    print(f"{target}: {done.rows:,} particles")
    for note in done.notes:
        print(f"  {note}")
