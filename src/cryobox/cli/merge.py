"""`cryobox merge`: the tables of a run in shards."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import typer

from cryobox.cli.command import Asked, Some, takes
from cryobox.cli.extract import Messages
from cryobox.cli.reports import write_report
from cryobox.declared import TABLES, option
from cryobox.display import choose_display
from cryobox.options import RunOptions

__all__ = ["merge"]


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Shards:
    """Where they wrote."""

    folder: Path = option(help="Output folder of the shards", panel=TABLES)


@takes(
    Shards,
    Some(RunOptions, ("allow_incomplete", "break_lock")),
    Some(Messages, ("report", "json_events", "quiet")),
)
def merge(_: typer.Context, of_shards: Asked, of_running: Asked, of_messages: Asked) -> None:
    """Write the tables of a run in shards, when all are done: the same as one run writes. Exit codes as extract."""
    from cryobox import job

    messages = Messages(**of_messages.values)
    display = choose_display(json_events=messages.json_events, quiet=messages.quiet)
    result = job.merge(of_shards.values["folder"], options=RunOptions(**of_running.values))
    written = None
    if messages.report is not False:
        written = write_report(result.out, asked=bool(messages.report), say=not messages.quiet)
    display.end(result)
    if written is not None and messages.say:
        print(f"report: {written}")
    raise typer.Exit(result.exit_code)
