"""`cryobox convert`: tables of particles from one program's form to the other's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cryobox.display import warn
from cryobox.errors import OptionError

if TYPE_CHECKING:
    from cryobox.convert.coordinates import CoordinateFormat

__all__ = ["convert"]


def convert(
    source: Annotated[Path, typer.Argument(help="Particles: .star, .cs or .csg; with --to, picks of any kind")],
    target: Annotated[Path, typer.Argument(help="The table to write: .star or .cs; with --to, a folder, or the .csv")],
    micrographs: Annotated[
        str | None,
        typer.Option("--micrographs", "-m", help="Their sizes, for locations in a .cs: table, folder or glob"),
    ] = None,
    root: Annotated[Path | None, typer.Option(help="Where relative paths in tables start")] = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Name stacks in TARGET that are not there")
    ] = False,
    to: Annotated[
        Literal["box", "cbox", "star", "csv"] | None,
        typer.Option("--to", help="Write the coordinates alone, for other programs"),
    ] = None,
    box: Annotated[int | None, typer.Option("--box", help="--to box, cbox: side of the boxes in pixels")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace TARGET, and the .csg beside a .cs")] = False,
) -> None:
    """Turn a table of particles of RELION into one of CryoSPARC, or the other way round; images stay where they are.

    cryobox convert J9/particles.csg particles.star
    cryobox convert run_data.star particles.cs -m micrographs_ctf.star
    cryobox convert J8/particles.csg boxes --to box --box 256
    """
    if to is not None:
        _picks(source, target, to, micrographs=micrographs, box=box, root=root, overwrite=overwrite)
        return
    if box is not None:
        raise OptionError("--box is for --to box and --to cbox")
    from cryobox.convert import convert_particles

    done = convert_particles(
        source, target, micrographs=micrographs, root=root, overwrite=overwrite, allow_missing=allow_missing
    )
    warn(done.warnings)
    print(f"{target}: {done.rows:,} particles")
    for note in done.notes:
        print(f"  {note}")


def _picks(source: Path, target: Path, to: CoordinateFormat, **how: Any) -> None:
    from cryobox.convert import convert_picks

    done = convert_picks([source], target, to, **how)
    warn(done.warnings)
    files = f"{len(done.files):,} files in {target}" if to != "csv" else str(target)
    print(f"{files}: {done.picks:,} picks on {done.micrographs:,} micrographs")
