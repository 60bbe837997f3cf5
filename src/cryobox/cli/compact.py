"""`cryobox compact` and `cryobox restore`: stacks as a cache."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cryobox.display import choose_display
from cryobox.options import RunOptions
from cryobox.units import in_bytes

__all__ = ["compact", "restore"]


def compact(
    folder: Annotated[Path, typer.Argument(help="Output folder of a finished run")],
    keep: Annotated[Path | None, typer.Option("--except", help="Keep stacks that hold an image of this table")] = None,
    break_lock: Annotated[bool, typer.Option("--break-lock", help="Take over from a process that is gone")] = False,
) -> None:
    """Remove the stacks of a finished run; `cryobox restore` cuts them again, byte for byte.

    Refused unless the run is complete, every input is there as it was, and this build makes the same bits.
    """
    from cryobox.compaction import compact as remove

    done = remove(folder, keep=keep, break_lock=break_lock)
    print(f"{folder}: {done.stacks:,} stacks removed, {in_bytes(done.bytes)}; {done.kept:,} kept")
    print(f"cryobox restore {folder}  cuts them again")


def restore(
    folder: Annotated[Path, typer.Argument(help="Output folder whose stacks were removed")],
    workers: Annotated[int | None, typer.Option(help="Micrographs at a time", show_default="cores")] = None,
    threads: Annotated[int, typer.Option(help="Threads of each worker")] = 1,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only errors and warnings")] = False,
) -> None:
    """Cut the stacks again that `cryobox compact` removed, or say which input changed."""
    from cryobox.cli.extract import EXIT_INTERRUPTED, stop_on_signal
    from cryobox.compaction import restore as cut_again

    display = choose_display(quiet=quiet)
    with stop_on_signal() as stop:
        try:
            options = RunOptions(workers=workers, threads=threads)
            done = cut_again(folder, options=options, on_progress=display.progress, stop=stop)
        finally:
            display.close()
    print(f"{folder}: {done.stacks:,} stacks restored, {in_bytes(done.bytes)}")
    if done.kept:
        print(f"interrupted: {done.kept:,} are left; the same command goes on")
        raise typer.Exit(EXIT_INTERRUPTED)
