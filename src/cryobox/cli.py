"""The command line: arguments become a Recipe, the Recipe a run, the result an exit code. Prints; decides nothing."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from cryobox import __version__
from cryobox.boxes import FAST_BOXES, fast_box, is_fast, neighbors
from cryobox.errors import AbortedError, CryoboxError, OptionError
from cryobox.options import Recipe, RunOptions

if TYPE_CHECKING:
    from cryobox.engine.progress import Progress
    from cryobox.job import RunResult
    from cryobox.plan import Plan

__all__ = ["app", "main"]

EXIT_REFUSED = 2
EXIT_ABORTED = 3

app = typer.Typer(
    name="cryobox",
    help="Cut picked particles out of cryo-EM micrographs, into stacks and tables that RELION and CryoSPARC read.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)

IMAGES, POSITIONS, TABLES, RUNNING, OUTPUT = "Images", "Positions", "Tables", "Running", "Messages"


def _default(name: str) -> Any:
    """The default of a Recipe or RunOptions field, so that none is written a second time here."""
    for options in (Recipe, RunOptions):
        field = options.__dataclass_fields__.get(name)
        if field is not None:
            return field.default
    raise KeyError(name)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"cryobox {__version__}")
        raise typer.Exit


@app.callback()
def _global(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


@app.command(no_args_is_help=True)
def extract(
    picks: Annotated[Path, typer.Argument(help=".star, .cs, .csg, .box, .cbox, .txt, .csv, or a folder of them")],
    micrographs: Annotated[
        str, typer.Option("--micrographs", "-m", help=".star, .cs, .csg, a folder or a glob", rich_help_panel=TABLES)
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Output folder", rich_help_panel=TABLES)],
    box: Annotated[int, typer.Option(help="Side of the window, pixels of the micrograph", rich_help_panel=IMAGES)],
    fcrop: Annotated[int | None, typer.Option(help="Fourier-crop to this side", rich_help_panel=IMAGES)] = None,
    small: Annotated[
        int | None, typer.Option(help="A second, smaller crop in the same pass", rich_help_panel=IMAGES)
    ] = None,
    float16: Annotated[bool, typer.Option("--float16", help="Store 16-bit floats", rich_help_panel=IMAGES)] = False,
    normalize: Annotated[
        bool, typer.Option("--normalize/--no-normalize", help="Background to mean 0, sd 1", rich_help_panel=IMAGES)
    ] = _default("normalize"),
    no_ramp: Annotated[
        bool, typer.Option("--no-ramp", help="Do not subtract the background's plane", rich_help_panel=IMAGES)
    ] = not _default("ramp"),
    invert: Annotated[
        bool | None,
        typer.Option("--invert/--no-invert", help="Multiply by -1 [default: as --style]", rich_help_panel=IMAGES),
    ] = _default("invert"),
    bg_radius: Annotated[
        float | None,
        typer.Option(
            help="Background starts here, pixels of the first stored size [default: 0.375 of it]",
            rich_help_panel=IMAGES,
        ),
    ] = _default("background_radius"),
    bg_diameter: Annotated[
        float | None, typer.Option(help="The same as a diameter in Å", rich_help_panel=IMAGES)
    ] = _default("background_diameter_angstrom"),
    scale_const: Annotated[
        float | None, typer.Option(help="Divide by this, not by each background's sd", rich_help_panel=IMAGES)
    ] = _default("scale_const"),
    edges: Annotated[
        str, typer.Option(help="Boxes over the edge: reject or pad", rich_help_panel=POSITIONS)
    ] = _default("edges"),
    recenter: Annotated[
        bool, typer.Option("--recenter/--no-recenter", help="Move boxes by aligned shifts", rich_help_panel=POSITIONS)
    ] = _default("recenter"),
    recenter_from: Annotated[
        str, typer.Option(help="auto (3D before 2D), 3d or 2d", rich_help_panel=POSITIONS)
    ] = _default("recenter_from"),
    rounding: Annotated[
        str, typer.Option(help="Fractional picks: truncate or nearest", rich_help_panel=POSITIONS)
    ] = _default("rounding"),
    min_score: Annotated[
        float | None, typer.Option(help="Leave out picks that score lower", rich_help_panel=POSITIONS)
    ] = _default("min_score"),
    min_separation: Annotated[
        float | None, typer.Option(help="Å between picks; the better one stays", rich_help_panel=POSITIONS)
    ] = _default("min_separation_angstrom"),
    flip_x: Annotated[
        bool, typer.Option("--flip-x", help="Picks were made on a copy mirrored in x", rich_help_panel=POSITIONS)
    ] = _default("flip_x"),
    flip_y: Annotated[
        bool, typer.Option("--flip-y", help="Picks were made on a copy mirrored in y", rich_help_panel=POSITIONS)
    ] = _default("flip_y"),
    coord_scale: Annotated[
        float, typer.Option(help="Multiply coordinates (picks of a binned copy)", rich_help_panel=POSITIONS)
    ] = _default("coordinate_scale"),
    style: Annotated[
        str | None,
        typer.Option(
            help="relion or cryosparc: tables, contrast, names [default: as the picks]", rich_help_panel=TABLES
        ),
    ] = _default("style"),
    coord_suffix: Annotated[
        str | None, typer.Option(help="Coordinate files: text after the micrograph's stem", rich_help_panel=TABLES)
    ] = _default("coordinate_suffix"),
    pixel_size: Annotated[
        float | None, typer.Option(help="Å per pixel, where nothing else says it", rich_help_panel=TABLES)
    ] = _default("pixel_size"),
    refresh_ctf: Annotated[
        bool, typer.Option("--refresh-ctf", help="Take CTF values from the micrographs", rich_help_panel=TABLES)
    ] = _default("refresh_ctf"),
    root: Annotated[
        Path | None, typer.Option(help="Where relative paths in tables start", rich_help_panel=TABLES)
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Only the first N micrographs with picks", rich_help_panel=RUNNING)
    ] = _default("limit"),
    tiff_no_flip: Annotated[
        bool, typer.Option("--tiff-no-flip", help="Keep the row order of TIFF files", rich_help_panel=TABLES)
    ] = not _default("tiff_flip"),
    workers: Annotated[
        int | None, typer.Option(help="Micrographs at a time [default: cores]", rich_help_panel=RUNNING)
    ] = _default("workers"),
    threads: Annotated[int, typer.Option(help="Threads of each worker", rich_help_panel=RUNNING)] = _default("threads"),
    on_error: Annotated[
        str, typer.Option(help="A bad micrograph: skip it or stop", rich_help_panel=RUNNING)
    ] = _default("on_error"),
    allow_incomplete: Annotated[
        bool, typer.Option("--allow-incomplete", help="Exit 0 despite bad micrographs", rich_help_panel=RUNNING)
    ] = _default("allow_incomplete"),
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Start anew in this folder", rich_help_panel=RUNNING)
    ] = _default("overwrite"),
    break_lock: Annotated[
        bool, typer.Option("--break-lock", help="Take over from a process that is gone", rich_help_panel=RUNNING)
    ] = _default("break_lock"),
    fsync: Annotated[
        bool, typer.Option("--fsync/--no-fsync", help="Force files to the disk", rich_help_panel=RUNNING)
    ] = _default("fsync"),
    check_orientation: Annotated[
        bool,
        typer.Option("--check-orientation", help="Warn if flipped picks would fit better", rich_help_panel=POSITIONS),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Plan, print, write nothing", rich_help_panel=OUTPUT)
    ] = False,
    json_events: Annotated[bool, typer.Option("--json", help="Events as JSON lines", rich_help_panel=OUTPUT)] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Only errors and warnings", rich_help_panel=OUTPUT)
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Explain decisions", rich_help_panel=OUTPUT)] = False,
) -> None:
    """Cut particles out of micrographs. Running the same command again resumes.

    [bold]cryobox extract picks.star -m micrographs.star -o Extract/job010 --box 400 --fcrop 128[/bold]
    """
    recipe = Recipe(
        box=box,
        sizes=_sizes(box, fcrop, small),
        dtype="float16" if float16 else "float32",
        normalize=normalize,
        ramp=not no_ramp,
        invert=invert,
        background_radius=bg_radius,
        background_diameter_angstrom=bg_diameter,
        scale_const=scale_const,
        edges=edges,  # type: ignore[arg-type]  # Recipe checks the choices
        recenter=recenter,
        recenter_from=recenter_from,  # type: ignore[arg-type]
        rounding=rounding,  # type: ignore[arg-type]
        style=style,  # type: ignore[arg-type]
        min_score=min_score,
        min_separation_angstrom=min_separation,
        flip_x=flip_x,
        flip_y=flip_y,
        limit=limit,
        refresh_ctf=refresh_ctf,
        pixel_size=pixel_size,
        coordinate_scale=coord_scale,
        coordinate_suffix=coord_suffix,
        tiff_flip=not tiff_no_flip,
    )
    options = RunOptions(
        workers=workers,
        threads=threads,
        on_error=on_error,  # type: ignore[arg-type]
        allow_incomplete=allow_incomplete,
        overwrite=overwrite,
        break_lock=break_lock,
        fsync=fsync,
    )
    if check_orientation:
        _check_orientation(picks, micrographs, recipe, root)
    if dry_run:
        _dry_run(picks, micrographs, recipe, root, verbose=verbose)
        return
    from cryobox.job import run

    reporter = _reporter(json_events=json_events, quiet=quiet, verbose=verbose)
    with _stop_on_signal() as stop:
        result = run(
            picks,
            micrographs=micrographs,
            out=out,
            recipe=recipe,
            options=options,
            root=root,
            on_plan=reporter.plan,
            on_progress=reporter.progress,
            stop=stop,
        )
    reporter.end(result)
    raise typer.Exit(result.exit_code)


@app.command()
def boxes(size: Annotated[int | None, typer.Argument(help="A box size to look up")] = None) -> None:
    """List box sizes that are fast to transform, or those next to SIZE."""
    if size is None:
        print(" ".join(map(str, FAST_BOXES)))
        return
    if size < 2 or size % 2:
        raise OptionError(
            f"box must be an even number of pixels, at least 2; got {size} "
            f"(nearest fast sizes: {', '.join(map(str, neighbors(size)))})"
        )
    if is_fast(size):
        print(f"{size} is a fast box size; its neighbors are {' and '.join(map(str, neighbors(size)))}")
    else:
        print(f"{size} works, but is not a fast size; next to it: {', '.join(map(str, neighbors(size)))}; "
              f"at least as large: {fast_box(size)}")  # fmt: skip


@app.command()
def info(
    file: Annotated[Path, typer.Argument(help="A micrograph, a stack or a table")],
    micrographs: Annotated[
        str | None, typer.Option("--micrographs", "-m", help="Check how the picks in FILE fit these")
    ] = None,
    box: Annotated[int, typer.Option(help="Box for that check, pixels: about 1.5 x the particle")] = 256,
    root: Annotated[Path | None, typer.Option(help="Where relative paths in tables start")] = None,
) -> None:
    """Say what FILE is: a micrograph's or stack's header, or a table's rows and columns.

    With --micrographs: whether the picks in FILE fit these as given, or better flipped or swapped.
    """
    from cryobox.formats import describe

    for line in describe(file):
        print(line)
    if micrographs is not None:
        _check_orientation(file, micrographs, Recipe(box=box), root, say=True)


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(help="Output folder of a finished run")],
    sample: Annotated[int, typer.Option(help="Images to recompute, for each stored size")] = 100,
    everything: Annotated[bool, typer.Option("--all", help="Recompute every image")] = False,
    seed: Annotated[int, typer.Option(help="Of the random sample")] = 0,
) -> None:
    """Recompute images in float64 from the micrographs; compare tables, stacks, ledger. Exit code 1 if they differ."""
    from cryobox.verification import verify as check

    found = check(folder, sample=sample, everything=everything, seed=seed)
    for problem in found.problems:
        print(f"cryobox: {problem}", file=sys.stderr)
    print(f"checked {found.rows} table rows, recomputed {found.images} images: {len(found.problems) or 'no'} problems")
    print(f"largest difference: {found.worst:.2f} of what is allowed")
    raise typer.Exit(1 if found.problems else 0)


@app.command()
def demo(folder: Annotated[Path, typer.Argument(help="Folder to write to")] = Path("demo")) -> None:
    """Simulate three micrographs, extract their particles at two sizes, and say what was made."""
    from cryobox.job import run
    from cryobox.simulate import make_dataset

    dataset = make_dataset(folder)
    print(f"simulated {len(dataset.images)} micrographs with {dataset.count} picks in {folder}/")
    result = run(
        dataset.picks,
        micrographs=dataset.micrographs,
        out=folder / "extract",
        recipe=Recipe(box=160, sizes=(128, 64)),
        root=folder,
        options=RunOptions(overwrite=True),
    )
    _Lines(verbose=False, quiet=False).end(result)
    raise typer.Exit(result.exit_code)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and leave with its exit code."""
    try:
        app(arguments)
    except AbortedError as error:
        _fail(error, EXIT_ABORTED)
    except CryoboxError as error:
        _fail(error, EXIT_REFUSED)
    sys.exit(0)


def _fail(error: CryoboxError, code: int) -> NoReturn:
    print(f"cryobox: error: {error}", file=sys.stderr)
    sys.exit(code)


def _sizes(box: int, fcrop: int | None, small: int | None) -> tuple[int, ...]:
    first = box if fcrop is None else fcrop
    return (first,) if small is None else (first, small)


def _check_orientation(picks: Path, micrographs: str, recipe: Recipe, root: Path | None, *, say: bool = False) -> None:
    from cryobox.inputs import prepare
    from cryobox.orientation import check_orientation

    found = check_orientation(prepare(picks, micrographs=micrographs, recipe=recipe, root=root))
    if say:
        print(f"contrast of {found.picks} boxes against random positions, in standard errors:")
        for name, score in found.scores.items():
            print(f"  {name}: {score:.1f}")
    if found.warning:
        print(f"cryobox: warning: {found.warning}", file=sys.stderr)


def _dry_run(picks: Path, micrographs: str, recipe: Recipe, root: Path | None, *, verbose: bool) -> None:
    from cryobox.inputs import prepare

    plan = prepare(picks, micrographs=micrographs, recipe=recipe, root=root).plan
    _print_plan(plan, verbose=verbose)
    sizes = [0] * len(plan.recipe.sizes)
    for task in plan.tasks:
        print(f"  {task.micrograph}: {len(task.corners)} particles") if verbose else None
    for index, size in enumerate(plan.recipe.sizes):
        sizes[index] = sum(task.bytes_of(index) for task in plan.tasks)
        print(f"stacks of {size} x {size} {plan.recipe.dtype}: {len(plan.tasks)} files, {sizes[index]} bytes")
    print(f"to read: {sum(task.bytes_to_read for task in plan.tasks)} bytes; nothing was written")


def _print_plan(plan: Plan, *, verbose: bool) -> None:
    for warning in plan.warnings:
        print(f"cryobox: warning: {warning}", file=sys.stderr)
    for note in plan.notes if verbose else ():
        print(note)
    rejected = plan.counts()
    print(f"{len(plan.reason)} picks: {len(plan.rows)} to extract, {sum(rejected.values())} rejected")
    for reason, count in rejected.items():
        print(f"  {count} {reason}")


@contextmanager
def _stop_on_signal() -> Iterator[threading.Event]:
    """An event that the first SIGINT or SIGTERM sets; a second one ends the process the usual way."""
    stop = threading.Event()
    old = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, _frame: object) -> None:
        stop.set()
        for which, handler in old.items():
            signal.signal(which, handler)
        print("\ncryobox: finishing what is in flight; once more to stop at once", file=sys.stderr)

    for number in old:
        signal.signal(number, handle)
    try:
        yield stop
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


class _Lines:
    """Plain lines, or a bar on a terminal."""

    INTERVAL_SECONDS = 5.0

    def __init__(self, *, verbose: bool, quiet: bool) -> None:
        self._verbose, self._quiet = verbose, quiet
        self._last = time.monotonic()
        self._terminal = sys.stderr.isatty() and not quiet
        self._width = 0

    def plan(self, plan: Plan) -> None:
        if self._quiet:
            for warning in plan.warnings:
                print(f"cryobox: warning: {warning}", file=sys.stderr)
        else:
            _print_plan(plan, verbose=self._verbose)

    def progress(self, now: Progress) -> None:
        if now.error:
            self._clear()
            print(f"cryobox: micrograph left out: {now.error}", file=sys.stderr)
        if self._quiet:
            return
        rate = now.particles / now.seconds if now.seconds > 0 else 0.0
        line = (
            f"{now.micrographs}/{now.micrographs_total} micrographs, {now.particles} particles, {rate:.0f}/s, "
            f"{now.rejected} rejected"
        )
        if self._terminal:
            self._clear()
            print(f"\r{line}", end="", file=sys.stderr, flush=True)
            self._width = len(line)
        elif time.monotonic() - self._last > self.INTERVAL_SECONDS:
            print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)
            self._last = time.monotonic()

    def end(self, result: RunResult) -> None:
        self._clear()
        for warning in result.warnings[-20:] if result.resumed < 0 else ():
            print(f"cryobox: warning: {warning}", file=sys.stderr)
        if self._quiet:
            return
        if result.interrupted:
            print(f"interrupted with {result.extracted} particles in {result.out}; the same command resumes")
            return
        print(f"extracted {result.extracted} of {result.picks} picks into {result.out} in {result.seconds:.1f} s")
        for reason, count in result.rejected.items():
            print(f"  {count} rejected: {reason}")
        for name, why in result.incomplete.items():
            print(f"  incomplete: {name}: {why}")
        for path in result.tables:
            print(f"  {path}")

    def _clear(self) -> None:
        if self._width:
            print("\r" + " " * self._width + "\r", end="", file=sys.stderr)
            self._width = 0


class _JsonLines:
    """One JSON object a line on standard output."""

    def plan(self, plan: Plan) -> None:
        self._print("plan", picks=len(plan.reason), accepted=len(plan.rows), rejected=plan.counts(),
                    micrographs=len(plan.tasks), warnings=list(plan.warnings))  # fmt: skip

    def progress(self, now: Progress) -> None:
        import dataclasses

        self._print("progress", **dataclasses.asdict(now))

    def end(self, result: RunResult) -> None:
        import dataclasses

        values = dataclasses.asdict(result) | {
            "out": str(result.out), "tables": [str(path) for path in result.tables]
        }  # fmt: skip
        self._print("end", **values)

    def _print(self, event: str, **values: Any) -> None:
        print(json.dumps({"event": event, "version": 1} | values), flush=True)


def _reporter(*, json_events: bool, quiet: bool, verbose: bool) -> _Lines | _JsonLines:
    return _JsonLines() if json_events else _Lines(verbose=verbose, quiet=quiet)
