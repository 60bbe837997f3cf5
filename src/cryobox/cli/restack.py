"""`cryobox restack`: images that exist already, in new stacks."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cryobox.declared import IMAGES, RUNNING, TABLES
from cryobox.display import warn
from cryobox.options import RunOptions
from cryobox.units import in_bytes

if TYPE_CHECKING:
    from cryobox.restacking import Restacked

__all__ = ["restack"]


def restack(
    table: Annotated[Path, typer.Argument(help="Table of particles: .star, .cs or .csg, of any program")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Output folder", rich_help_panel=TABLES)],
    root: Annotated[
        Path | None, typer.Option(help="Where relative paths in the table start", rich_help_panel=TABLES)
    ] = None,
    particles_per_stack: Annotated[
        int, typer.Option(help="At most so many images in a stack", rich_help_panel=TABLES)
    ] = 10_000,
    box: Annotated[
        int | None, typer.Option(help="Only the central part of so many pixels", rich_help_panel=IMAGES)
    ] = None,
    fcrop: Annotated[int | None, typer.Option(help="Fourier crop to this size", rich_help_panel=IMAGES)] = None,
    small: Annotated[int | None, typer.Option(help="A second, smaller crop", rich_help_panel=IMAGES)] = None,
    also: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SIZE[:TYPE]", help="A further size, as 64 or 64:float16; may be repeated", rich_help_panel=IMAGES
        ),
    ] = None,
    float16: Annotated[
        bool, typer.Option("--float16", help="Store 16-bit floats (MRC mode 12)", rich_help_panel=IMAGES)
    ] = False,
    normalize: Annotated[
        bool, typer.Option("--normalize", help="Normalize the background again", rich_help_panel=IMAGES)
    ] = False,
    lowpass: Annotated[
        float | None,
        typer.Option(help="Å: leave out what is finer; such images are not for refinement", rich_help_panel=IMAGES),
    ] = None,
    pad: Annotated[
        int | None,
        typer.Option(help="Surround by the mean, to this size; not for refinement either", rich_help_panel=IMAGES),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Threads that make images", show_default="cores", rich_help_panel=RUNNING)
    ] = None,
    fsync: Annotated[
        bool, typer.Option("--fsync/--no-fsync", help="Force stacks to the disk", rich_help_panel=RUNNING)
    ] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start anew", rich_help_panel=RUNNING)] = False,
    break_lock: Annotated[
        bool, typer.Option("--break-lock", help="Take over from a process that is gone", rich_help_panel=RUNNING)
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead")] = False,
) -> None:
    """Make new stacks of the images of a table, only of its rows and in its order. The same command resumes.

    cryobox restack Select/job020/particles.star --out Restack/selected
    cryobox restack J12/particles.cs --out J13 --fcrop 128 --small 64 --float16
    """
    from cryobox.cli.extract import EXIT_INTERRUPTED, stop_on_signal
    from cryobox.restacking import Asked, restack_particles
    from cryobox.sizing import further_size

    if small is not None and fcrop is None:
        raise typer.BadParameter("--small is made beside --fcrop; give both")
    asked = Asked(
        box=box,
        sizes=tuple(size for size in (fcrop, small) if size is not None),
        also=tuple(further_size(text, "float16" if float16 else "float32") for text in also or ()),
        float16=float16,
        normalize=normalize,
        lowpass=lowpass,
        pad=pad,
        particles_per_stack=particles_per_stack,
    )
    options = RunOptions(workers=workers, fsync=fsync, overwrite=overwrite, break_lock=break_lock)
    with stop_on_signal() as stop, _bar(shown=not as_json and sys.stderr.isatty()) as tell:
        done = restack_particles(table, out, asked=asked, options=options, root=root, on_progress=tell, stop=stop)
    if as_json:
        print(json.dumps(dataclasses.asdict(done) | {"tables": [str(path) for path in done.tables]}))
        raise typer.Exit(done.exit_code)
    warn(done.warnings)
    for note in done.notes:
        print(note)
    if done.interrupted:
        print(f"interrupted: {done.stored:,} of {done.rows:,} images are stored; the same command goes on")
        raise typer.Exit(EXIT_INTERRUPTED)
    _say(done, out)
    raise typer.Exit(done.exit_code)


def _say(done: Restacked, out: Path) -> None:
    """What became of the images, in lines."""
    written = in_bytes(done.bytes_written)
    print(f"{out}: {done.stored:,} of {done.rows:,} images in {done.stacks:,} stacks, {written} written")
    if done.bytes_written:
        print(f"{(done.stored - done.resumed) / done.seconds:,.0f} images/s, {done.seconds:.1f} s")
    for reason, count in done.rejected.items():
        print(f"left out: {count:,} {reason}")
    for path in done.tables:
        print(path)


@contextlib.contextmanager
def _bar(*, shown: bool) -> Iterator[Callable[[int, int], None] | None]:
    """What draws a bar of images, where it is to be shown."""
    if not shown:
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("images", total=None)
        yield lambda done, total: progress.update(bar, completed=done, total=total)
