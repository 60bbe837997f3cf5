"""`cryobox trace`: a particle's history."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["trace"]


def trace(
    key: Annotated[str, typer.Argument(help="A uid, SLOT@STACK (from 1), or MICROGRAPH:X,Y in pixels")],
    folders: Annotated[list[Path], typer.Argument(help="Output folders of runs, the earliest first")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object for each run")] = False,
) -> None:
    """Tell a particle's history: pick, shift, box, images, or why it was left out. Exit code 1 if no run knows it.

    cryobox trace 000012@Extract/job010/stacks/mic_0001_particles.mrcs Extract/job010 Extract/job025
    cryobox trace 8360405591438205874 J9 J14
    cryobox trace mic_0001:1024,980 Extract/job010
    """
    from cryobox import trace as tracing

    steps = tracing.history(key, folders)
    if as_json:
        for step in steps:
            print(json.dumps(tracing.as_dict(step)))
    else:
        print("\n".join(tracing.told(steps)) or f"{key}: no particle of {', '.join(map(str, folders))}")
    raise typer.Exit(0 if steps else 1)
