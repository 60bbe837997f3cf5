"""`cryobox merge`: the tables of a run in shards."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cryobox.cli.reports import write_report
from cryobox.display import choose_display
from cryobox.options import RunOptions

__all__ = ["merge"]


def merge(
    folder: Annotated[Path, typer.Argument(help="Output folder of the shards")],
    allow_incomplete: Annotated[
        bool, typer.Option("--allow-incomplete", help="Exit 0 despite bad micrographs")
    ] = False,
    break_lock: Annotated[
        bool, typer.Option("--break-lock", help="Although shards that are surely gone left their locks")
    ] = False,
    report: Annotated[
        bool | None,
        typer.Option("--report/--no-report", help="Write report.html", show_default="where cryobox[report] is"),
    ] = None,
    json_events: Annotated[bool, typer.Option("--json", help="Events as JSON lines")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only errors and warnings")] = False,
) -> None:
    """Write the tables of a run in shards, when all are done: the same as one run writes. Exit codes as extract."""
    from cryobox import job

    display = choose_display(json_events=json_events, quiet=quiet)
    result = job.merge(folder, options=RunOptions(allow_incomplete=allow_incomplete, break_lock=break_lock))
    written = write_report(result.out, asked=bool(report), say=not quiet) if report is not False else None
    display.end(result)
    if written is not None and not (quiet or json_events):
        print(f"report: {written}")
    raise typer.Exit(result.exit_code)
