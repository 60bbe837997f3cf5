"""`cryobox extract`: the main command."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cryobox.bounds import check_seconds
from cryobox.cli.command import Asked, takes
from cryobox.cli.dry_run import dry_run
from cryobox.cli.patterns import refuse_images
from cryobox.cli.reports import require_report, write_report
from cryobox.declared import CLUSTERS, IMAGES, MESSAGES, RUNNING, TABLES, option
from cryobox.display import choose_display, warn
from cryobox.errors import OptionError
from cryobox.gpu import parse_gpus, parse_memory
from cryobox.groups import Helices, Reading
from cryobox.options import Recipe, RunOptions
from cryobox.paths import working_directory
from cryobox.sizing import Sizing, choose_sizes

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from cryobox.engine.progress import Progress
    from cryobox.given import Given
    from cryobox.inputs import Recorded
    from cryobox.job import RunResult
    from cryobox.peers.host import Host

__all__ = [
    "EXIT_INTERRUPTED",
    "Clusters",
    "Devices",
    "Inputs",
    "Messages",
    "RelionWords",
    "carry_out",
    "extract",
    "options_of",
    "recipe_of",
    "stop_on_signal",
]

EXIT_INTERRUPTED = 130


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Inputs:
    """Which files are read, and where the results go."""

    picks: Sequence[str] | None = option(
        default=None,
        help=".star, .cs, .csg, .box, .cbox, .txt, .csv, .json, .pos, .xmd, .coords, or a folder of them; several are "
        "appended",
        panel=TABLES,
    )
    out: Path | None = option(
        "--out", "-o", default=None, help="Output folder", shown="required, but for --dry-run", panel=TABLES
    )
    micrographs: str | None = option(
        "--micrographs",
        "-m",
        default=None,
        help=".star, .cs, .csg, a folder or a glob",
        shown="the files that the picks name",
        panel=TABLES,
    )
    coord_dir: str | None = option(
        "--coord-dir", default=None, help="PICKS by RELION's word: a job folder, with --coord-suffix", panel=TABLES
    )
    replay: Path | None = option(
        "--from", default=None, help="Repeat the run of this job.json; options given here win", panel=TABLES
    )
    root: Path | None = option("--root", default=None, help="Where relative paths in tables start", panel=TABLES)


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class RelionWords:
    """RELION's words for what `--ctf` says."""

    phase_flip: bool = option("--phase-flip", default=False, help="RELION's word for --ctf flip", panel=IMAGES)
    premultiply_ctf: bool = option(
        "--premultiply-ctf", default=False, help="RELION's word for --ctf premultiply", panel=IMAGES
    )


def _as_ctf(words: RelionWords, of_recipe: Asked) -> Asked:
    """What is asked for, by the recipe's own names.

    Raises
    ------
    OptionError
        If flipping and multiplying are asked for together: RELION would flip, and its table say that it multiplied.
    """
    said = {"--phase-flip": words.phase_flip, "--premultiply-ctf": words.premultiply_ctf}
    asked = [("flip" if flag == "--phase-flip" else "premultiply", flag) for flag, on in said.items() if on]
    if "ctf" in of_recipe.given and of_recipe.values["ctf"] is not None:
        asked.append((of_recipe.values["ctf"], f"--ctf {of_recipe.values['ctf']}"))
    if len({use for use, _ in asked}) > 1:
        raise OptionError(f"{' and '.join(flag for _, flag in asked)} contradict each other; give one of them")
    if not asked:
        return of_recipe
    return Asked({**of_recipe.values, "ctf": asked[0][0]}, of_recipe.given | {"ctf"})


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Devices:
    """What windows are cut on, as words."""

    gpus: str | None = option(
        "--gpus", default=None, help="Cut on GPUs: how many (2), or which (0,2 or 3,)", shown="CPU", panel=RUNNING
    )
    gpu_memory: str | None = option(
        "--gpu-memory", default=None, help="Of each GPU, like 4G", shown="half of what is free", panel=RUNNING
    )


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Clusters:
    """Other hosts, and sessions that go on."""

    shard: str | None = option(
        "--shard", default=None, help="Part I/N of the micrographs, or auto in a job array; then merge", panel=CLUSTERS
    )
    dask: str | None = option(
        "--dask", default=None, help="Workers of a dask scheduler, tcp://HOST:PORT or local:N", panel=CLUSTERS
    )
    mpi: bool = option(
        "--mpi", default=False, help="Ranks of mpirun python -m mpi4py.futures -m cryobox", panel=CLUSTERS
    )
    watch: bool = option(
        "--watch", default=False, help="Take files as they appear, until DIR/stop is there", panel=CLUSTERS
    )
    every: float = option("--every", default=30.0, help="--watch: seconds between rounds", panel=CLUSTERS)
    idle_timeout: float | None = option(
        "--idle-timeout", default=None, help="--watch: end after so many seconds without news", panel=CLUSTERS
    )


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Messages:
    """What is said, and written beside the results."""

    report: bool | None = option(
        "--report/--no-report", default=None, help="Write report.html", shown="where cryobox[report] is", panel=MESSAGES
    )
    dry_run: bool = option("--dry-run", default=False, help="Plan, print, write nothing", panel=MESSAGES)
    json_events: bool = option("--json", default=False, help="Events as JSON lines", panel=MESSAGES)
    quiet: bool = option("--quiet", "-q", default=False, help="Only errors and warnings", panel=MESSAGES)
    verbose: bool = option("--verbose", "-v", default=False, help="Explain decisions", panel=MESSAGES)

    @property
    def say(self) -> bool:
        """Whether plain sentences are welcome."""
        return not (self.json_events or self.quiet)


@takes(Inputs, Sizing, Recipe, RelionWords, RunOptions, Devices, Clusters, Messages)
def extract(
    context: typer.Context,
    of_inputs: Asked,
    of_sizes: Asked,
    of_recipe: Asked,
    of_words: Asked,
    of_run: Asked,
    of_devices: Asked,
    of_clusters: Asked,
    of_messages: Asked,
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
    inputs, clusters, messages = (
        Inputs(**of_inputs.values),
        Clusters(**of_clusters.values),
        Messages(**of_messages.values),
    )
    if messages.report:
        require_report()
    of_recipe = _as_ctf(RelionWords(**of_words.values), of_recipe)
    given, recorded, recipe, warnings = _what(inputs, of_sizes, of_recipe, say=messages.say)
    options = options_of(of_run, of_devices, clusters, of_sizes.values["diameter"])
    warnings = tuple(map(given.start.told, warnings))  # as the run will tell them
    warn(warnings)  # now: what comes next may be refused, or go on for a night
    if messages.dry_run:
        raise typer.Exit(
            dry_run(
                given, recipe, options, recorded, inputs.out, warnings,
                verbose=messages.verbose, as_json=messages.json_events,
            )
        )  # fmt: skip
    if inputs.out is None:
        raise OptionError("give --out, the folder for stacks and tables; only --dry-run needs none")
    host: Host | None = context.obj
    result = carry_out(given, recorded, recipe, options, inputs.out, warnings, clusters, messages, host)
    if host is not None:
        host.ended(result)
    if result.tables and messages.report is not False and not result.shard:
        written = write_report(result.out, asked=bool(messages.report), say=messages.say)
        if written is not None and messages.say:
            print(f"report: {written}")
    raise typer.Exit(result.exit_code)


def _what(
    inputs: Inputs, of_sizes: Asked, of_recipe: Asked, *, say: bool
) -> tuple[Given, Recorded | None, Recipe, tuple[str, ...]]:
    """What is to be made, and of what: as asked, else as the record of --from has it; and warnings."""
    from cryobox.replay import given_of, holds, read_record, recorded_of

    if inputs.coord_dir is not None:
        if inputs.picks:
            raise OptionError("--coord-dir is another word for PICKS; give one of them")
        inputs = replace(inputs, picks=[inputs.coord_dir])
    refuse_images(inputs.picks or ())
    record = read_record(inputs.replay) if inputs.replay is not None else {}
    given = given_of(record, inputs.picks, inputs.micrographs, inputs.root)
    masks = "junk_masks" not in of_recipe.given
    recorded, warnings = recorded_of(record, inputs.replay, inputs.picks, inputs.micrographs, masks=masks)
    if inputs.replay is not None and inputs.out is not None and holds(inputs.out, inputs.replay):
        raise OptionError(f"{inputs.replay}: would be replaced by the record of this run; choose another --out")
    return given, recorded, recipe_of(given, of_sizes, of_recipe, record, say=say), warnings


def recipe_of(
    given: Given, of_sizes: Asked, of_recipe: Asked, record: Mapping[str, Any] | None = None, *, say: bool
) -> Recipe:
    """What is to be made, as asked, else as the `record` of a run has it; sizes in Å need the micrographs."""
    from cryobox.replay import masks_from

    record = record or {}
    old = record.get("recipe", {})
    values = of_recipe.values | {name: old[name] for name in old.keys() & of_recipe.values.keys() - of_recipe.given}
    if values["reset_offsets"] and values["recenter"] and "recenter" in of_recipe.given:
        raise OptionError("--reset-offsets makes the shifts 0, --recenter moves boxes by them; give one of them")
    anew = "junk_masks" in of_recipe.given
    values["junk_masks"] = masks_from(record, given, values["junk_masks"], anew=anew)

    def pixel_size() -> float:
        from cryobox.inputs import read_pixel_size

        found = float(values["pixel_size"] or read_pixel_size(given))
        if not found > 0:
            raise OptionError(
                f"{given.micrographs or given.paths[0]}: neither table nor header says how many Å a pixel has, so "
                f"sizes in Å mean nothing; give --pixel-size, or --box and --fcrop in pixels"
            )
        return found

    def coarsest() -> float:
        from cryobox.inputs import read_coarsest_pixel_size

        fields = (*dataclasses.fields(Reading), *dataclasses.fields(Helices))
        reading = {field.name: values[field.name] for field in fields if field.name in values}
        return read_coarsest_pixel_size(given, Recipe(box=2, normalize=False, limit=values["limit"], **reading))

    chosen = choose_sizes(
        Sizing(**of_sizes.values), old, dtype=values["dtype"], pixel_size=pixel_size, coarsest=coarsest
    )
    for line in chosen.why if say else ():
        print(line, file=sys.stderr)
    return Recipe(box=chosen.box, box_angstrom=chosen.box_angstrom, sizes=chosen.sizes, also=chosen.also, **values)


def options_of(of_run: Asked, of_devices: Asked, clusters: Clusters, diameter: float | None = None) -> RunOptions:
    """How the work is done."""
    from cryobox.engine.shards import parse_shard

    words: dict[str, Any] = {}
    if clusters.shard is not None:
        words["shard"] = parse_shard(clusters.shard)
    if (gpus := of_devices.values["gpus"]) is not None:
        words["gpus"] = parse_gpus(gpus)
    if (memory := of_devices.values["gpu_memory"]) is not None:
        words["gpu_memory"] = parse_memory(memory)
    if clusters.idle_timeout is not None and not clusters.watch:
        raise OptionError("--idle-timeout ends --watch; give both")
    check_seconds("every", clusters.every)  # now, so that a dry run says it, too
    if clusters.idle_timeout is not None:
        check_seconds("idle_timeout", clusters.idle_timeout, zero=True)
    return RunOptions(**of_run.values, **words, diameter_angstrom=diameter)


def carry_out(
    given: Given,
    recorded: Recorded | None,
    recipe: Recipe,
    options: RunOptions,
    out: Path,
    warnings: Sequence[str],
    clusters: Clusters,
    messages: Messages,
    host: Host | None,
) -> RunResult:
    """Run, show how far it is and what came of it."""
    from cryobox import job

    display = choose_display(
        json_events=messages.json_events, quiet=messages.quiet, verbose=messages.verbose, root=_where(given),
        told=warnings, steps=host.next_steps if host else None, lines=sys.stdout if host else None,
    )  # fmt: skip
    with stop_on_signal() as stop, _executor(clusters, options) as executor:

        def progress(now: Progress) -> None:
            display.progress(now)
            if host is not None:
                host.progress(now, stop)

        task: dict[str, Any] = {
            "micrographs": given.micrographs, "out": out, "recipe": recipe, "options": options, "root": given.root,
            "directory": given.directory, "warnings": warnings, "executor": executor,
            "on_progress": progress, "stop": stop,
        }  # fmt: skip
        try:
            if clusters.watch:
                said = _Rounds(say=messages.say, report=messages.report)
                task |= {"every": clusters.every, "idle_timeout": clusters.idle_timeout}
                result = job.watch(given.picks, on_round=said.round, on_wait=said.wait, **task)
            else:
                result = job.run(given.picks, on_plan=display.plan, recorded=recorded, **task)
        finally:
            display.close()
    display.end(result)
    return result


def _where(given: Given) -> str | None:
    """Where names in tables start, for who reads it here; None: in the working directory."""
    return given.root if given.directory == working_directory() else str(given.start.base)


@contextlib.contextmanager
def _executor(clusters: Clusters, options: RunOptions) -> Iterator[Executor | None]:
    """The executor that was asked for; None: threads of this process."""
    dask, mpi = clusters.dask, clusters.mpi
    if dask is not None and mpi:
        raise OptionError("give --dask or --mpi, not both")
    if mpi and options.task_timeout is not None:
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
            write_report(result.out, asked=bool(self._report), say=False)
        if self._say:
            print(f"{time.strftime('%H:%M:%S')} {result.extracted} particles of {result.micrographs} micrographs; "
                  f"tables are up to date", file=sys.stderr, flush=True)  # fmt: skip

    def wait(self, reason: str) -> None:
        if self._say and reason != self._waiting:
            self._waiting = reason
            print(f"{time.strftime('%H:%M:%S')} waiting: {reason}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def stop_on_signal() -> Iterator[threading.Event]:
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
