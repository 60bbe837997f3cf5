"""The command line: arguments become a Recipe, the Recipe a run, the result an exit code. Prints; decides nothing."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from cryobox import __version__
from cryobox.boxes import FAST_BOXES, crop_for, is_fast, nearby, propose
from cryobox.display import choose_display, error_event, explain_plan, plan_lines, warn
from cryobox.errors import AbortedError, BackendError, CryoboxError, InputError, MissingExtraError, OptionError
from cryobox.gpu import describe_devices, parse_gpus, parse_memory
from cryobox.options import LARGEST_BOX, Recipe, RunOptions, check_integer, check_seconds

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from cryobox.inputs import Given, Picks, Recorded
    from cryobox.job import RunResult

__all__ = ["app", "main"]

EXIT_REFUSED = 2
EXIT_ABORTED = 3
EXIT_INTERRUPTED = 130

# To go when the tests in tests/gpu and bench/gpu.py have run on a GPU (docs/gpu.md).
GPU_UNPROVEN = (
    "the CUDA kernels of this version have been tested with a processor in the place of the GPU, not yet on one; "
    "check the result with `cryobox verify`"
)

LONGEST_MESSAGE = 4000  # characters; a hostile table may have names of megabytes

EXIT_CODES = """[bold]Exit codes[/bold]  0 complete · 1 finished, but micrographs are incomplete or nothing was
extracted · 2 refused before any work · 3 aborted · 130 interrupted; after 1, 3 and 130 the same command resumes"""

app = typer.Typer(
    name="cryobox",
    help="Cut picked particles out of cryo-EM micrographs, into stacks and tables that RELION and CryoSPARC read.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)

IMAGES, POSITIONS, TABLES, RUNNING, OUTPUT = "Images", "Positions", "Tables", "Running", "Messages"
CLUSTER = "Clusters and live sessions"


def _default(name: str) -> Any:
    """The default of a Recipe or RunOptions field, so that none is written a second time here."""
    for options in (Recipe, RunOptions):
        field = options.__dataclass_fields__.get(name)
        if field is not None:
            return field.default
    raise KeyError(name)


@app.callback(invoke_without_command=True)
def _global(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="With --version: FFTW, SIMD, OpenMP and CUDA, too.")
    ] = False,
) -> None:
    if version:
        print(f"cryobox {__version__}")
        for line in _build_lines() if verbose else ():
            print(f"  {line}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit


def _build_lines() -> list[str]:
    from cryobox.core import build_facts
    from cryobox.gpu import survey

    lines = [f"Python {sys.version.split()[0]} on {sys.platform}"]
    try:
        lines += [f"{name}: {fact}" for name, fact in build_facts().items()]
    except BackendError as error:
        lines.append(str(error))
    devices, about = survey()
    return [*lines, f"CUDA: {len(devices)} GPUs; {about}"]


@app.command(no_args_is_help=True)
def extract(
    context: typer.Context,
    out: Annotated[Path, typer.Option("--out", "-o", help="Output folder", rich_help_panel=TABLES)],
    picks: Annotated[
        list[str] | None,
        typer.Argument(
            help=".star, .cs, .csg, .box, .cbox, .txt, .csv, .json, .pos, .xmd, .coords, or a folder of them; "
            "several are appended"
        ),
    ] = None,
    micrographs: Annotated[
        str | None,
        typer.Option("--micrographs", "-m", help=".star, .cs, .csg, a folder or a glob", rich_help_panel=TABLES),
    ] = None,
    replay: Annotated[
        Path | None,
        typer.Option("--from", help="Repeat the run of this job.json; options given here win", rich_help_panel=TABLES),
    ] = None,
    box: Annotated[
        int | None, typer.Option(help="Side of the window, pixels of the micrograph", rich_help_panel=IMAGES)
    ] = None,
    diameter: Annotated[
        float | None,
        typer.Option(help="Longest diameter of the particle in Å: chooses the box", rich_help_panel=IMAGES),
    ] = None,
    target_pixel_size: Annotated[
        float | None, typer.Option(help="Å per stored pixel, at most: chooses --fcrop", rich_help_panel=IMAGES)
    ] = None,
    target_resolution: Annotated[
        float | None, typer.Option(help="The same by resolution: Å, twice the pixel", rich_help_panel=IMAGES)
    ] = None,
    fcrop: Annotated[int | None, typer.Option(help="Fourier-crop to this side", rich_help_panel=IMAGES)] = None,
    small: Annotated[
        int | None, typer.Option(help="A second, smaller crop in the same pass", rich_help_panel=IMAGES)
    ] = None,
    float16: Annotated[
        bool, typer.Option("--float16/--float32", help="Type of the stored pixels", rich_help_panel=IMAGES)
    ] = _default("dtype") == "float16",
    normalize: Annotated[
        bool, typer.Option("--normalize/--no-normalize", help="Background to mean 0, sd 1", rich_help_panel=IMAGES)
    ] = _default("normalize"),
    no_ramp: Annotated[
        bool, typer.Option("--no-ramp", help="Do not subtract the background's plane", rich_help_panel=IMAGES)
    ] = not _default("ramp"),
    invert: Annotated[
        bool | None,
        typer.Option("--invert/--no-invert", help="Multiply by -1", show_default="as --style", rich_help_panel=IMAGES),
    ] = _default("invert"),
    bg_radius: Annotated[
        float | None,
        typer.Option(
            help="Background starts here, pixels of the first stored size",
            show_default="0.375 of it",
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
            help="relion or cryosparc: tables, contrast, names", show_default="as the picks", rich_help_panel=TABLES
        ),
    ] = _default("style"),
    coord_suffix: Annotated[
        str | None, typer.Option(help="Coordinate files: text after the micrograph's stem", rich_help_panel=TABLES)
    ] = _default("coordinate_suffix"),
    strip_suffix: Annotated[
        str | None,
        typer.Option(help="Text at the end of names that is not compared, as _DW", rich_help_panel=TABLES),
    ] = _default("strip_suffix"),
    strip_prefix: Annotated[
        str | None,
        typer.Option(help="The same at the beginning, as denoised_", rich_help_panel=TABLES),
    ] = _default("strip_prefix"),
    pixel_size: Annotated[
        float | None, typer.Option(help="Å per pixel, where nothing else says it", rich_help_panel=TABLES)
    ] = _default("pixel_size"),
    refresh_ctf: Annotated[
        bool, typer.Option("--refresh-ctf", help="Take CTF values from the micrographs", rich_help_panel=TABLES)
    ] = _default("refresh_ctf"),
    ctf_average: Annotated[
        bool,
        typer.Option("--ctf-average", help="With --refresh-ctf: accept averages of Patch CTF", rich_help_panel=TABLES),
    ] = _default("ctf_average"),
    drop_alignments: Annotated[
        bool, typer.Option("--drop-alignments", help="Leave out orientations and shifts", rich_help_panel=POSITIONS)
    ] = _default("drop_alignments"),
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
        int | None, typer.Option(help="Micrographs at a time", show_default="cores", rich_help_panel=RUNNING)
    ] = _default("workers"),
    threads: Annotated[int, typer.Option(help="Threads of each worker", rich_help_panel=RUNNING)] = _default("threads"),
    gpus: Annotated[
        str | None,
        typer.Option(
            help="Cut on GPUs: how many (2), or which (0,2 or 3,)", show_default="CPU", rich_help_panel=RUNNING
        ),
    ] = None,
    gpu_memory: Annotated[
        str | None,
        typer.Option(help="Of each GPU, like 4G", show_default="half of what is free", rich_help_panel=RUNNING),
    ] = None,
    gpu_fallback: Annotated[
        bool,
        typer.Option("--gpu-fallback", help="Go on without GPUs that are missing or fail", rich_help_panel=RUNNING),
    ] = _default("gpu_fallback"),
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
    shard: Annotated[
        str | None,
        typer.Option(help="Part I/N of the micrographs, or auto in a job array; then merge", rich_help_panel=CLUSTER),
    ] = None,
    dask: Annotated[
        str | None,
        typer.Option(help="Workers of a dask scheduler, tcp://HOST:PORT or local:N", rich_help_panel=CLUSTER),
    ] = None,
    mpi: Annotated[
        bool, typer.Option("--mpi", help="Ranks of mpirun python -m mpi4py.futures -m cryobox", rich_help_panel=CLUSTER)
    ] = False,
    task_timeout: Annotated[
        float | None,
        typer.Option(help="Seconds until a micrograph is given to another worker (--dask)", rich_help_panel=CLUSTER),
    ] = _default("task_timeout"),
    watch: Annotated[
        bool,
        typer.Option("--watch", help="Take files as they appear, until DIR/stop is there", rich_help_panel=CLUSTER),
    ] = False,
    every: Annotated[float, typer.Option(help="--watch: seconds between rounds", rich_help_panel=CLUSTER)] = 30.0,
    idle_timeout: Annotated[
        float | None, typer.Option(help="--watch: end after so many seconds without news", rich_help_panel=CLUSTER)
    ] = None,
    check_orientation: Annotated[
        bool,
        typer.Option("--check-orientation", help="Warn if flipped picks would fit better", rich_help_panel=POSITIONS),
    ] = False,
    report: Annotated[
        bool | None,
        typer.Option(
            "--report/--no-report",
            help="Write report.html",
            show_default="where cryobox[report] is",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
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

    [dim]RELION tables; boxes of 400 pixels, stored at 128 and at 64:[/dim]
    cryobox extract picks.star -m micrographs_ctf.star -o Extract/job010 --box 400 --fcrop 128 --small 64

    [dim]CryoSPARC tables, moved to where the last alignment says the particles are:[/dim]
    cryobox extract J8/particles.csg -m J3/exposures.csg -o J9 --diameter 180 --target-resolution 4

    [dim]What would happen; and the same as last time, with other picks:[/dim]
    cryobox extract picks.star -m mics.star -o out --box 400 --dry-run
    cryobox extract better_picks.star -o again --from out/job.json
    """
    say = not (json_events or quiet)
    if report:
        _require_report()
    record = _read_record(replay) if replay is not None else {}
    given = _given(record, picks, micrographs, root)
    recorded = _recorded(record, replay, picks, micrographs)
    if replay is not None and _holds(out, replay):
        raise OptionError(f"{replay}: would be replaced by the record of this run; choose another --out")
    if given.directory != os.getcwd():
        out = out.absolute()
        context.with_resource(contextlib.chdir(given.directory))
    display = choose_display(json_events=json_events, quiet=quiet, verbose=verbose, root=given.root)
    asked = {
        "dtype": ("float16", "float16" if float16 else "float32"),
        "normalize": ("normalize", normalize),
        "ramp": ("no_ramp", not no_ramp),
        "invert": ("invert", invert),
        "background_radius": ("bg_radius", bg_radius),
        "background_diameter_angstrom": ("bg_diameter", bg_diameter),
        "scale_const": ("scale_const", scale_const),
        "edges": ("edges", edges),
        "recenter": ("recenter", recenter),
        "recenter_from": ("recenter_from", recenter_from),
        "rounding": ("rounding", rounding),
        "style": ("style", style),
        "min_score": ("min_score", min_score),
        "min_separation_angstrom": ("min_separation", min_separation),
        "flip_x": ("flip_x", flip_x),
        "flip_y": ("flip_y", flip_y),
        "limit": ("limit", limit),
        "refresh_ctf": ("refresh_ctf", refresh_ctf),
        "ctf_average": ("ctf_average", ctf_average),
        "drop_alignments": ("drop_alignments", drop_alignments),
        "pixel_size": ("pixel_size", pixel_size),
        "coordinate_scale": ("coord_scale", coord_scale),
        "coordinate_suffix": ("coord_suffix", coord_suffix),
        "strip_prefix": ("strip_prefix", strip_prefix),
        "strip_suffix": ("strip_suffix", strip_suffix),
        "tiff_flip": ("tiff_no_flip", not tiff_no_flip),
    }
    old_recipe = record.get("recipe", {})
    values: dict[str, Any] = {field: value for field, (_, value) in asked.items()}
    values |= {f: v for f, v in old_recipe.items() if f in values and not _was_given(context, asked[f][0])}
    if target_resolution is not None:
        if target_pixel_size is not None:
            raise OptionError("give --target-pixel-size or --target-resolution, not both")
        target_pixel_size = target_resolution / 2
    box, sizes, why = _choose_sizes(
        given, old_recipe, box=box, diameter=diameter, fcrop=fcrop, small=small, target=target_pixel_size,
        pixel_size=values["pixel_size"],
    )  # fmt: skip
    for line in why if say else ():
        print(line, file=sys.stderr)
    recipe = Recipe(box=box, sizes=sizes, **values)
    options = RunOptions(
        workers=workers,
        threads=threads,
        on_error=on_error,  # type: ignore[arg-type]
        allow_incomplete=allow_incomplete,
        overwrite=overwrite,
        break_lock=break_lock,
        fsync=fsync,
        shard=_shard(shard),
        task_timeout=task_timeout,
        gpus=parse_gpus(gpus) if gpus is not None else _default("gpus"),
        gpu_memory=parse_memory(gpu_memory) if gpu_memory is not None else _default("gpu_memory"),
        gpu_fallback=gpu_fallback,
    )
    if gpus is not None:
        print(f"cryobox: warning: {GPU_UNPROVEN}", file=sys.stderr)
    if idle_timeout is not None and not watch:
        raise OptionError("--idle-timeout ends --watch; give both")
    check_seconds("every", every)  # now, so that a dry run says it, too
    if idle_timeout is not None:
        check_seconds("idle_timeout", idle_timeout, zero=True)
    if check_orientation:
        _check_orientation(given.picks, given.micrographs, recipe, None if given.root is None else Path(given.root))
    if dry_run:
        _dry_run(given, recipe, recorded, verbose=verbose, as_json=json_events)
        return
    from cryobox import job

    with _stop_on_signal() as stop, _executor(dask, mpi, task_timeout) as executor:
        task: dict[str, Any] = {
            "micrographs": given.micrographs, "out": out, "recipe": recipe, "options": options, "root": given.root,
            "executor": executor, "on_progress": display.progress, "stop": stop,
        }  # fmt: skip
        try:
            if watch:
                said = _Rounds(say=say, report=report)
                task |= {"every": every, "idle_timeout": idle_timeout, "on_round": said.round, "on_wait": said.wait}
                result = job.watch(given.picks, **task)
            else:
                result = job.run(given.picks, on_plan=display.plan, recorded=recorded, **task)
        finally:
            display.close()
    display.end(result)
    if result.tables and report is not False and not result.shard:
        written = _write_report(result.out, asked=bool(report), say=say)
        if written is not None and say:
            print(f"report: {written}")
    raise typer.Exit(result.exit_code)


@app.command()
def merge(
    folder: Annotated[Path, typer.Argument(help="Output folder of the shards")],
    allow_incomplete: Annotated[
        bool, typer.Option("--allow-incomplete", help="Exit 0 despite bad micrographs")
    ] = _default("allow_incomplete"),
    break_lock: Annotated[
        bool, typer.Option("--break-lock", help="Although shards that are surely gone left their locks")
    ] = _default("break_lock"),
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
    written = _write_report(result.out, asked=bool(report), say=not quiet) if report is not False else None
    display.end(result)
    if written is not None and not (quiet or json_events):
        print(f"report: {written}")
    raise typer.Exit(result.exit_code)


@app.command()
def boxes(
    size: Annotated[int | None, typer.Argument(help="A box size to look up")] = None,
    diameter: Annotated[float | None, typer.Option(help="Longest diameter of a particle in Å")] = None,
    pixel_size: Annotated[float | None, typer.Option(help="Å per pixel of the micrographs")] = None,
) -> None:
    """List box sizes that are fast to transform, or what those next to SIZE cost, or sizes for a particle.

    cryobox boxes
    cryobox boxes 390
    cryobox boxes --diameter 180 --pixel-size 0.85
    """
    if diameter is not None:
        if pixel_size is None:
            raise OptionError("--diameter is in Å; give --pixel-size, the Å per pixel of the micrographs, with it")
        for reason in propose(diameter, pixel_size).reasons:
            print(reason)
        return
    if size is None:
        print(" ".join(map(str, FAST_BOXES)))
        return
    if size < 2 or size % 2:
        near = [other for other in nearby(size, 1) if other != size]
        raise OptionError(
            f"box must be an even number of pixels, at least 2; got {size} "
            f"(nearest fast sizes: {', '.join(map(str, near))})"
        )
    check_integer("box", size, 2, LARGEST_BOX, " pixels")
    costs = _measure_costs(nearby(size))
    print("box   on the list  time of a crop to half, per pixel, beside the best here")
    best = min(cost / side**2 for side, cost in costs.items())
    for side, cost in costs.items():
        note = "  <- asked for" if side == size else ""
        print(f"{side:<5} {'yes' if is_fast(side) else 'no':<12} {cost / side**2 / best:.2f}{note}")


def _measure_costs(sizes: tuple[int, ...]) -> dict[int, float]:
    """Seconds of one Fourier crop to about half, on this machine: the least of several turns, sizes taking turns."""
    import time

    import numpy as np

    import cryobox

    rng = np.random.default_rng(0)
    images = {size: rng.standard_normal((2, size, size), dtype=np.float32) for size in sizes}
    costs = dict.fromkeys(sizes, float("inf"))
    for _ in range(6):
        for size, stack in images.items():
            began = time.perf_counter()
            cryobox.fourier_crop(stack, max(2, size // 4 * 2))
            costs[size] = min(costs[size], time.perf_counter() - began)
    return costs


@app.command()
def report(folder: Annotated[Path, typer.Argument(help="Output folder of a run, also while it goes on")]) -> None:
    """Write FOLDER/report.html: counts, pictures, histograms and one row for each micrograph, in one file."""
    from cryobox.reporting import write_report

    print(write_report(folder))


@app.command()
def view(
    stack: Annotated[Path, typer.Argument(help="A stack of particles (.mrcs, .mrc), or a micrograph")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write a PNG instead")] = None,
    images: Annotated[int, typer.Option("--images", "-n", help="How many, spread over the stack")] = 40,
) -> None:
    """Show images of a stack, in the terminal or as a PNG."""
    from cryobox.reporting import pictures

    if out is not None:
        shown, shape = pictures.write_montage(stack, out, images)
        print(f"{out}: {shown} images of {stack}, {shape[1]} x {shape[0]} pixels")
        return
    color = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    for line in pictures.terminal_montage(stack, images, color=color):
        print(line)


@app.command()
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


@app.command()
def info(
    file: Annotated[Path | None, typer.Argument(help="A micrograph, a stack, a table, picks, or a folder")] = None,
    devices: Annotated[bool, typer.Option("--devices", help="List the GPUs of this host, or say why none")] = False,
    micrographs: Annotated[
        str | None, typer.Option("--micrographs", "-m", help="Check how the picks in FILE fit these")
    ] = None,
    box: Annotated[int, typer.Option(help="Box for that check, pixels: about 1.5 x the particle")] = 256,
    root: Annotated[Path | None, typer.Option(help="Where relative paths in tables start")] = None,
) -> None:
    """Say what FILE is: the header of an image, a table's rows and columns, picks and where they lie, a folder, a run.

    With --micrographs: whether the picks in FILE fit these as given, or better flipped or swapped.
    """
    if file is None and not devices:
        raise OptionError("info wants a FILE, or --devices")
    for line in describe_devices() if devices else []:
        print(line)
    if file is None:
        return
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
    """Simulate three micrographs, extract their particles at two sizes, and show what was made."""
    from cryobox.job import run
    from cryobox.reporting import pictures
    from cryobox.simulate import make_dataset

    dataset = make_dataset(folder)
    print(f"simulated {len(dataset.images)} micrographs with {dataset.count} picks in {folder}/")
    print(
        f"$ cryobox extract {dataset.picks} -m {dataset.micrographs} -o {folder / 'extract'} --root {folder} "
        f"--box 160 --fcrop 128 --small 64"
    )
    display = choose_display(root=str(folder))
    try:
        result = run(
            dataset.picks,
            micrographs=dataset.micrographs,
            out=folder / "extract",
            recipe=Recipe(box=160, sizes=(128, 64)),
            root=folder,
            options=RunOptions(overwrite=True),
            on_plan=display.plan,
            on_progress=display.progress,
        )
    finally:
        display.close()
    display.end(result)
    written = _write_report(result.out, asked=False, say=True)
    montage = folder / "extract" / "montage.png"
    pictures.write_montage(next(iter(sorted((folder / "extract" / "stacks").iterdir()))), montage, 40)
    print(f"look at: {montage}")
    if written is not None:
        print(f"         {written}")
    raise typer.Exit(result.exit_code)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and leave with its exit code."""
    as_json = "--json" in (sys.argv[1:] if arguments is None else arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may hold bytes that are no text
    try:
        _refuse_expanded(sys.argv[1:] if arguments is None else arguments)
        app(arguments)
    except BrokenPipeError:
        # Whoever read the output has gone; nothing more can be said, and Python must not try when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(EXIT_ABORTED)
    except KeyboardInterrupt:  # before or after the command itself, which has its own answer
        sys.exit(EXIT_INTERRUPTED)
    except AbortedError as error:
        _fail(error, EXIT_ABORTED, as_json=as_json)
    except CryoboxError as error:
        _fail(error, EXIT_REFUSED, as_json=as_json)
    sys.exit(0)


def _fail(error: CryoboxError, code: int, *, as_json: bool) -> NoReturn:
    message = str(error)
    if len(message) > LONGEST_MESSAGE:
        message = f"{message[:LONGEST_MESSAGE]} ... ({len(message)} characters)"
    if as_json:
        error_event(message, code)
    print(f"cryobox: error: {message}", file=sys.stderr)
    sys.exit(code)


def _was_given(context: typer.Context, parameter: str) -> bool:
    source = context.get_parameter_source(parameter)
    return source is not None and source.name in ("COMMANDLINE", "ENVIRONMENT")


def _holds(out: Path, record: Path) -> bool:
    """Whether `record`, or the folder that stands for its `job.json`, is that of the output folder."""
    try:
        return os.path.samefile(out / "job.json", record / "job.json" if record.is_dir() else record)
    except OSError:
        return False


def _read_record(path: Path) -> dict[str, Any]:
    """The `job.json` of an earlier run; a folder stands for the one inside it."""
    if path.is_dir():
        path /= "job.json"
    try:
        record = json.loads(path.read_text())
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path}: not the job.json of a run: {error}") from error
    if not isinstance(record, dict) or not isinstance(record.get("recipe"), dict):
        raise InputError(f"{path}: not the job.json of a run: it has no recipe")
    return record | {"recipe": Recipe.from_dict(record["recipe"], str(path)).as_dict()}


def _given(record: Mapping[str, Any], picks: Sequence[str] | None, micrographs: str | None, root: Path | None) -> Given:
    """The inputs: as given, else as the record has them; relative ones start in `Given.directory`.

    That is the directory of the recorded run where its files are used, since names in its tables start there.
    """
    from cryobox.inputs import Given

    _refuse_images(picks or ())
    old = Given.from_dict(record["inputs"]) if "inputs" in record else None
    missing = [name for name, value in (("PICKS", picks), ("--micrographs", micrographs)) if not value]
    here = os.getcwd()
    if old is None and missing:
        raise OptionError(f"{' and '.join(missing)} must be given, or --from with the job.json of an earlier run")
    if old is None or not missing:
        return Given(
            picks=_one_or_all(picks or ()),
            micrographs=str(micrographs),
            root=None if root is None else str(root),
            directory=here,
        )
    if not os.path.isdir(old.directory):
        raise InputError(
            f"{old.directory}: the run of --from was started there, and the folder is not there any more; bring it "
            f"back, or give PICKS and --micrographs too"
        )
    elsewhere = not os.path.samefile(old.directory, here)
    began = os.path.join(old.directory, old.root or ".")
    if root is not None and os.path.realpath(root) != os.path.realpath(began):
        raise OptionError(
            f"--root {root}: names in tables of the run of --from started in {began}; leave --root out, or give PICKS "
            f"and --micrographs too"
        )
    if elsewhere and len(missing) == 1 and root is None and old.root is None:
        raise OptionError(
            f"--from repeats a run of {old.directory}, and {'--micrographs' if micrographs else 'PICKS'} is given "
            f"here: names in tables would start in two folders; run this in {old.directory}, or give --root with it"
        )

    def given_here(text: str) -> str:
        return os.path.abspath(text) if elsewhere else text

    return Given(
        picks=_one_or_all(map(given_here, picks)) if picks else old.picks,
        micrographs=given_here(micrographs) if micrographs else old.micrographs,
        root=old.root if root is None else given_here(str(root)),
        directory=old.directory if elsewhere else here,
    )


def _one_or_all(names: Iterable[str]) -> str | tuple[str, ...]:
    found = tuple(names)
    return found[0] if len(found) == 1 else found


def _recorded(
    record: Mapping[str, Any], source: Path | None, picks: Sequence[str] | None, micrographs: str | None
) -> Recorded | None:
    """What the recorded run had read, as far as its files are used again."""
    from cryobox.inputs import Recorded

    if source is None or (picks and micrographs):
        return None
    if not isinstance(record.get("files"), dict):
        told = "does not say what that run read, so its files cannot be compared with those that are there now"
        print(f"cryobox: warning: {source}: {told}", file=sys.stderr)
        return None
    return Recorded(source=str(source), files=record["files"], picks=not picks, micrographs=not micrographs)


def _refuse_images(picks: Sequence[str]) -> None:
    """Images where picks are expected: the shell made them of a pattern that was meant for --micrographs."""
    if images := [name for name in picks if _is_image(name)]:
        raise OptionError(
            f"{images[0]}{f' and {len(images) - 1} more' if images[1:] else ''}: micrographs where PICKS are expected; "
            f"{_quote_hint(images[0])}"
        )


def _refuse_expanded(words: Sequence[str]) -> None:
    """Several images behind --micrographs, which takes one word."""
    for option, *images in zip(words, words[1:], words[2:], strict=False):
        if option in ("-m", "--micrographs") and all(map(_is_image, images)):
            raise OptionError(f"{option} {' '.join(images)} ...: takes one word; {_quote_hint(images[0])}")


def _is_image(name: str) -> bool:
    from cryobox.formats import IMAGE_SUFFIXES

    return name.lower().endswith((*IMAGE_SUFFIXES, ".mrcs"))


def _quote_hint(image: str) -> str:
    pattern = os.path.join(os.path.dirname(image), f"*{os.path.splitext(image)[1]}")
    return (
        f"if this was a pattern of micrographs, put it in quotes, or the shell makes many words of it: -m '{pattern}'"
    )


def _choose_sizes(
    given: Given,
    recorded: Mapping[str, Any],
    *,
    box: int | None,
    diameter: float | None,
    fcrop: int | None,
    small: int | None,
    target: float | None,
    pixel_size: float | None,
) -> tuple[int, tuple[int, ...], list[str]]:
    """Box and stored sizes from what was asked for, and why they are what they are."""
    why: list[str] = []
    if box is not None and diameter is not None:
        raise OptionError("give --box (pixels) or --diameter (Å), not both")
    if fcrop is not None and target is not None:
        raise OptionError("give --fcrop (pixels), or --target-pixel-size or --target-resolution (Å), not both")
    if diameter is not None or target is not None:
        from cryobox.inputs import read_pixel_size

        found = pixel_size or read_pixel_size(given.micrographs, root=None if given.root is None else Path(given.root))
        if not found > 0:
            raise OptionError(
                f"{given.micrographs}: neither table nor header says how many Å a pixel has, so sizes in Å mean "
                f"nothing; give --pixel-size, or --box and --fcrop in pixels"
            )
        if diameter is not None:
            proposal = propose(diameter, found)
            box = proposal.box
            why.append(proposal.reasons[0])
            if fcrop is None and target is None:
                why.append(f"stored as cut; --fcrop {proposal.reasons[1]}; --small {proposal.reasons[2]}")
    if box is None:
        if "box" not in recorded:
            raise OptionError("give --box (pixels), --diameter (Å), or --from with the job.json of an earlier run")
        box = recorded["box"]
    if "sizes" in recorded:
        first, *second = recorded["sizes"]
        if fcrop is None and target is None and first != recorded["box"]:
            fcrop = first
        if small is None and second:
            small = second[0]
    if target is not None:
        fcrop = crop_for(box, found, target)
        reached = found * box / fcrop
        why.append(f"stored at {fcrop}: {reached:.4g} Å per pixel, {2 * reached:.3g} Å at best")
    return box, _sizes(box, fcrop, small), why


def _require_report() -> None:
    from cryobox.reporting import require_extra

    require_extra()


def _write_report(folder: Path, *, asked: bool, say: bool) -> Path | None:
    """Write the report after everything else; a run has succeeded even if its report cannot be written."""
    from cryobox.reporting import write_report

    try:
        return write_report(folder)
    except MissingExtraError as error:
        if say:
            print(f"no report: {error}", file=sys.stderr)
    except Exception as error:  # noqa: BLE001 -- whatever is wrong with the report, stacks and tables are whole
        print(f"cryobox: warning: no report: {type(error).__name__}: {error}", file=sys.stderr)
    return None


def _sizes(box: int, fcrop: int | None, small: int | None) -> tuple[int, ...]:
    first = box if fcrop is None else fcrop
    return (first,) if small is None else (first, small)


def _check_orientation(picks: Picks, micrographs: str, recipe: Recipe, root: Path | None, *, say: bool = False) -> None:
    from cryobox.inputs import prepare
    from cryobox.orientation import check_orientation

    found = check_orientation(prepare(picks, micrographs=micrographs, recipe=recipe, root=root))
    if say:
        print(f"contrast of {found.picks} boxes against random positions, in standard errors:")
        for name, score in found.scores.items():
            print(f"  {name}: {score:.1f}")
    if found.warning:
        print(f"cryobox: warning: {found.warning}", file=sys.stderr)


def _dry_run(given: Given, recipe: Recipe, recorded: Recorded | None, *, verbose: bool, as_json: bool) -> None:
    from cryobox.inputs import prepare

    root = None if given.root is None else Path(given.root)
    plan = prepare(given.picks, micrographs=given.micrographs, recipe=recipe, root=root, recorded=recorded).plan
    if as_json:
        choose_display(json_events=True).plan(plan)
        return
    warn(plan.warnings)
    for line in (*plan_lines(plan), *(explain_plan(plan) if verbose else ())):
        print(line)
    for task in plan.tasks if verbose else ():
        print(f"  {task.micrograph}: {len(task.corners)} particles")
    for index, size in enumerate(plan.recipe.sizes):
        total = sum(task.bytes_of(index) for task in plan.tasks)
        print(f"stacks of {size} x {size} {plan.recipe.dtype}: {len(plan.tasks)} files, {total} bytes")
    print(f"to read: {sum(task.bytes_to_read for task in plan.tasks)} bytes; nothing was written")


def _shard(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    from cryobox.engine.shards import parse_shard

    return parse_shard(text)


@contextlib.contextmanager
def _executor(dask: str | None, mpi: bool, task_timeout: float | None) -> Iterator[Executor | None]:
    """The executor that was asked for; None: threads of this process."""
    if dask is not None and mpi:
        raise OptionError("give --dask or --mpi, not both")
    if mpi and task_timeout is not None:
        raise OptionError("--task-timeout cannot be used with --mpi: a single rank cannot be stopped; --dask can")
    if dask is None and not mpi:
        yield None
        return
    from cryobox.engine.clusters import dask_executor, mpi_executor

    with dask_executor(dask) if dask is not None else mpi_executor() as executor:
        yield executor


class _Rounds:
    """What --watch says of its rounds, and the report of each."""

    def __init__(self, *, say: bool, report: bool | None) -> None:
        self._say, self._report = say, report
        self._waiting = ""

    def round(self, result: RunResult) -> None:
        if self._report is not False and result.tables:
            _write_report(result.out, asked=bool(self._report), say=False)
        if self._say:
            print(f"{time.strftime('%H:%M:%S')} {result.extracted} particles of {result.micrographs} micrographs; "
                  f"tables are up to date", file=sys.stderr, flush=True)  # fmt: skip

    def wait(self, reason: str) -> None:
        if self._say and reason != self._waiting:
            self._waiting = reason
            print(f"{time.strftime('%H:%M:%S')} waiting: {reason}", file=sys.stderr, flush=True)


@contextlib.contextmanager
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
    except KeyboardInterrupt:  # the second one
        raise typer.Exit(EXIT_INTERRUPTED) from None
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
