"""`cryobox compare`: our particles beside those of an existing pipeline, or any two sets of particles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

__all__ = ["compare"]


def compare(
    a: Annotated[Path, typer.Argument(help="Particles: .star, .cs, .csg, or the --out of a run")],
    b: Annotated[Path, typer.Argument(help="What they are compared with, likewise")],
    within: Annotated[float, typer.Option(help="Match positions at most so far apart, pixels")] = 1.0,
    sample: Annotated[int, typer.Option(help="Pairs of images to compare; 0: tables alone")] = 200,
    seed: Annotated[int, typer.Option(help="Of the random sample")] = 0,
    everything: Annotated[bool, typer.Option("--all", help="Compare every pair of images")] = False,
    tolerance: Annotated[
        float, typer.Option(help="How far pixels may differ, as a part of the image's largest value")
    ] = 2e-6,
    pixels: Annotated[
        Literal["stored", "fitted", "below-nyquist"],
        typer.Option(help="Which difference that is: as stored, after scale and offset, without the highest frequency"),
    ] = "stored",
    root: Annotated[Path | None, typer.Option(help="Where relative paths in tables start")] = None,
    strip_suffix: Annotated[
        str | None, typer.Option(help="Text at the end of micrographs' names that is not compared")
    ] = None,
    strip_prefix: Annotated[str | None, typer.Option(help="The same at their beginning")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead")] = False,
) -> None:
    """Compare two sets of particles: rows, coordinates, CTF, optics, images. Exit code 1 if they differ.

    cryobox compare Extract/job009/particles.star Extract/job010
    cryobox compare J8/extracted_particles.cs J9 --within 2
    """
    from cryobox.comparison import compare_particles
    from cryobox.comparison.telling import as_json as values_of
    from cryobox.comparison.telling import lines
    from cryobox.matching import Strip

    found = compare_particles(
        a,
        b,
        within=within,
        sample=None if everything else sample,
        seed=seed,
        tolerance=tolerance,
        pixels=pixels,
        root=root,
        strip=Strip(prefix=strip_prefix or "", suffix=strip_suffix or ""),
    )
    if as_json:
        print(json.dumps(values_of(found)))
    else:
        for line in lines(found):
            print(line)
    raise typer.Exit(0 if found.agrees else 1)
