"""What a run shows while it works and when it ends: a bar, plain lines, JSON events or nothing, and the summary."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from cryobox.units import in_bytes

if TYPE_CHECKING:
    from rich.console import Console, Group

    from cryobox.engine.progress import Progress
    from cryobox.job import RunResult
    from cryobox.plan import Plan

    Steps = Callable[[RunResult], list[str]]  # what a user does now

__all__ = [
    "EVENT_VERSION",
    "Display",
    "choose_display",
    "error_event",
    "explain_plan",
    "plan_lines",
    "summary_rows",
    "warn",
]

EVENT_VERSION = 1  # of the JSON events; rises when a field changes its meaning or goes (docs/pipelines.md)
SHOWN_WARNINGS = 10
LINE_SECONDS = 5.0  # between two lines of progress where there is no terminal
REDRAWS_PER_SECOND = 5
USUALLY_LOST = 0.1  # of the picks: at edges, mostly; a box of a tenth of the field loses about so many at random places
NOT_ON_PURPOSE = (
    "box over the edge", "box outside the micrograph", "coordinate is not a finite number", "no such micrograph",
    "pixels that are not finite", "no contrast", "micrograph could not be read",
)  # fmt: skip


class Display(Protocol):
    """What a run tells. `close` may be called at any time, and ends whatever is drawn."""

    def plan(self, plan: Plan, free: int | None = None) -> None: ...
    def progress(self, now: Progress) -> None: ...
    def end(self, result: RunResult) -> None: ...
    def close(self) -> None: ...


def choose_display(
    *,
    json_events: bool = False,
    quiet: bool = False,
    verbose: bool = False,
    root: str | None = None,
    told: Iterable[str] = (),
    steps: Steps | None = None,
    lines: TextIO | None = None,
) -> Display:
    """JSON lines if asked for, nothing if asked for; else a bar on a terminal, and lines where there is none.

    `root` is where paths in the tables start, if not in the working directory; `told` are warnings that were shown;
    `steps` says what comes next, where a user would not import the tables; `lines` is where lines go, else stderr.
    """
    if json_events:
        return _JsonLines(told)
    if quiet:
        return _Quiet(told)
    # A terminal that cannot move its cursor, or says that it is none.
    if sys.stderr.isatty() and os.environ.get("TERM", "") not in ("dumb", ""):
        return _Bar(told, verbose=verbose, steps=steps or partial(next_steps, root=root))
    return _Lines(told, verbose=verbose, steps=steps or partial(next_steps, root=root), lines=lines or sys.stderr)


# Texts ---------------------------------------------------------------------------------------------------------------


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d} min"


def warn(warnings: Iterable[str], stream: TextIO | None = None) -> None:
    """Print warnings to stderr; beyond `SHOWN_WARNINGS` only how many more there are."""
    texts = list(dict.fromkeys(warnings))
    for text in texts[:SHOWN_WARNINGS]:
        print(f"cryobox: warning: {text}", file=stream or sys.stderr)
    if len(texts) > SHOWN_WARNINGS:
        print(f"cryobox: warning: and {len(texts) - SHOWN_WARNINGS} more", file=stream or sys.stderr)


def plan_lines(plan: Plan) -> list[str]:
    """What will be done with the picks, in counts."""
    rejected = plan.counts()
    total = sum(rejected.values())
    place = f"from {len(plan.tasks):,} micrographs"
    lines = [f"{len(plan.places.reason):,} picks: {len(plan.work.rows):,} to extract {place}, {total:,} rejected"]
    lines += [f"  {count:,} {reason}" for reason, count in rejected.items()]
    if plan.noise is not None:
        of_noise = plan.noise.plan
        lines.append(f"{len(of_noise.work.rows):,} boxes of noise from {len(of_noise.tasks):,} micrographs")
    lines += [f"  left out: {why}" for why in list(plan.grounds.incomplete.values())[:SHOWN_WARNINGS]]
    return lines


def explain_plan(plan: Plan) -> list[str]:
    """Why things are done as they are: for `-v`."""
    recipe = plan.recipe
    lines = list(plan.notes)
    families = " and ".join(f".{family}" for family in plan.decided.families)
    kinds = f"{families} tables, {plan.decided.stack_suffix} stacks"
    contrast = "contrast inverted (white particles)" if recipe.invert else "contrast as in the micrographs"
    lines.append(f"style {recipe.style}: {kinds}, {contrast}")
    if plan.tasks:
        first = plan.tasks[0]
        own = first.outputs[0].pixel_size * first.outputs[0].size / first.windows.box
        lines.append(f"{first.micrograph}: read from {first.path}; {own:.5g} Å per pixel, {first.header.dtype.name}")
        for output in first.outputs:
            background = (
                f"background beyond {output.background_radius:g} pixels of the center"
                if recipe.normalize
                else "gray levels kept"
            )
            lines.append(
                f"box {first.windows.box} stored as {output.size}: {output.pixel_size:.4g} Å per pixel, "
                f"so {2 * output.pixel_size:.3g} Å at best; {background}"
            )
    how = "left out" if recipe.edges == "reject" else "filled with the nearest pixel"
    lines.append(f"boxes over the edge are {how}; fractional picks are {_ROUNDED[recipe.rounding]}")
    return lines


_COUNTED = (
    ("hot_pixels", "hot pixels", "pixels of micrographs repaired"),
    ("dust", "dust", "pixels replaced by noise, in images of the first size"),
    ("crowded", "crowded", "particles with too little background without their neighbors: normalized by all of it"),
)
_ROUNDED = {"truncate": "truncated", "nearest": "rounded to the nearest pixel"}


def summary_rows(result: RunResult, plan: Plan | None, steps: Steps | None = None) -> list[tuple[str, str]]:
    """The summary of a run: (label, text); an empty label continues the one above."""
    rows = [("picks", f"{result.picks:,} in {result.micrographs:,} micrographs")]
    rows.append(("extracted", f"{result.extracted:,}{_share(result)}"))
    rejected = sum(result.rejected.values())
    rows.append(("rejected", f"{rejected:,}"))
    rows += [("", f"{count:,} {reason}") for reason, count in result.rejected.items()]
    if result.fit:
        rows.append(("check", result.fit))
    if result.incomplete:
        rows.append(("incomplete", f"{len(result.incomplete):,} micrographs, for example"))
        rows += [("", why) for why in list(result.incomplete.values())[:3]]
    if result.noise is not None:
        rows.append(("noise", f"{result.noise:,} boxes away from all picks, in tables of their own"))
    rows += [(label, f"{result.counts[name]:,} {text}") for name, label, text in _COUNTED if name in result.counts]
    if result.resumed:
        rows.append(("resumed", f"{result.resumed:,} micrographs were done before"))
    if plan is not None and result.extracted:
        rows += _stored_rows(plan, result)
    rows += _speed_rows(result)
    rows += [("tables" if i == 0 else "", str(path)) for i, path in enumerate(result.tables)]
    return rows + [("next" if i == 0 else "", text) for i, text in enumerate((steps or next_steps)(result))]


def _share(result: RunResult) -> str:
    """Which part was extracted, and whether that is as usual: what was left out on purpose does not count."""
    if not result.picks:
        return ""
    lost = sum(count for reason, count in result.rejected.items() if reason in NOT_ON_PURPOSE) / result.picks
    usual = "as usual" if lost <= USUALLY_LOST else f"{100 * lost:.0f} % could not be cut, which is much"
    return f" ({100 * result.extracted / result.picks:.1f} %; {usual})"


def _stored_rows(plan: Plan, result: RunResult) -> list[tuple[str, str]]:
    rows = []
    for index, output in enumerate(plan.recipe.outputs):
        angstrom = f", {plan.tasks[0].outputs[index].pixel_size:.4g} Å per pixel" if plan.tasks else ""
        total = in_bytes(result.extracted * output.size**2 * (2 if output.dtype == "float16" else 4))
        rows.append(
            ("stored" if index == 0 else "", f"{output.size} x {output.size} {output.dtype}{angstrom}: {total}")
        )
    return rows


def _speed_rows(result: RunResult) -> list[tuple[str, str]]:
    rows = [("time", f"{_duration(result.seconds)}, of which planning {_duration(result.planning_seconds)}")]
    if result.bytes_written and result.cutting_seconds > 0:
        cutting = result.cutting_seconds
        read = f"read {in_bytes(result.bytes_read)} at {in_bytes(result.bytes_read / cutting)}/s"
        wrote = f"wrote {in_bytes(result.bytes_written)} at {in_bytes(result.bytes_written / cutting)}/s"
        rows.append(("speed", f"{result.extracted / cutting:,.0f} particles/s; {read}, {wrote}" if not result.resumed
                     else f"{read}, {wrote}"))  # fmt: skip
    return rows


def next_steps(result: RunResult, root: str | None = None) -> list[str]:
    """What a user does now, in the words of the program that goes on."""
    steps = []
    if result.incomplete:
        table = next((path.name for path in result.tables if path.stem == "micrographs_incomplete"), "")
        steps.append(f"repair what {table or 'micrographs_incomplete'} lists, then the same command again")
    mains = [path for path in result.tables if path.stem == "particles" and path.suffix != ".csg"]
    if not mains and not result.incomplete:
        steps.append(_nothing(result))
    if result.shard:  # its tables are a part of the whole: nobody goes on with them
        count = result.shard.rpartition("-")[2]
        steps.append(f"when all {count} shards are done: cryobox merge {shlex.quote(str(result.out))}")
        return steps
    for main in mains:
        if main.suffix == ".star":
            place = "the folder in which you are now" if root is None else root
            shown = main if root is None else os.path.relpath(main, root)
            steps.append(f"RELION: Import, tab Others, node type 'Particles STAR file', input file {shown};")
            steps.append(f"or name that file as input of Class2D; run RELION in {place}")
        else:
            steps.append(f"CryoSPARC: job 'Import Result Group', path {main.with_suffix('.csg').resolve()}")
    return steps


def _nothing(result: RunResult) -> str:
    """That there are no particles, and where it is said why, if anywhere."""
    of_shard = f"nothing of shard {result.shard}" if result.shard else "nothing"
    if not result.picks:
        return f"{of_shard} was extracted: it has no picks"
    rejected = next((path for path in result.tables if path.stem == "rejected"), None)
    return f"{of_shard} was extracted" + (f"; {rejected} says why, pick by pick" if rejected else "")


# Displays ------------------------------------------------------------------------------------------------------------


class _Told:
    """Warnings that were shown, so that none is shown twice."""

    def __init__(self, told: Iterable[str]) -> None:
        self._told = set(told)

    def _news(self, warnings: Iterable[str]) -> list[str]:
        """Those that are new; from now on they are told."""
        found = [text for text in dict.fromkeys(warnings) if text not in self._told]
        self._told.update(found)
        return found


class _Quiet(_Told):
    """Errors and warnings only."""

    def plan(self, plan: Plan, free: int | None = None) -> None:
        warn(self._news(plan.warnings))
        for why in plan.grounds.incomplete.values():
            print(f"cryobox: micrograph left out: {why}", file=sys.stderr)

    def progress(self, now: Progress) -> None:
        if now.error:
            print(f"cryobox: micrograph left out: {now.error}", file=sys.stderr)

    def end(self, result: RunResult) -> None:
        warn(self._news(result.warnings))
        if result.interrupted:
            print(f"cryobox: {_interrupted(result)}", file=sys.stderr)
        elif not result.extracted:
            print(f"cryobox: {_nothing(result)}", file=sys.stderr)

    def close(self) -> None:
        pass


class _Lines(_Told):
    """Lines with the time of day, for logs."""

    def __init__(self, told: Iterable[str], *, verbose: bool, steps: Steps, lines: TextIO) -> None:
        super().__init__(told)
        self._verbose, self._steps, self._lines = verbose, steps, lines
        self._last = time.monotonic()
        self._plan: Plan | None = None
        self._first: Progress | None = None

    def plan(self, plan: Plan, free: int | None = None) -> None:
        self._plan = plan
        warn(self._news(plan.warnings))
        for line in (*plan_lines(plan), *(explain_plan(plan) if self._verbose else ())):
            self._say(line)

    def progress(self, now: Progress) -> None:
        first = self._first = self._first or now
        if now.error:
            print(f"cryobox: micrograph left out: {now.error}", file=sys.stderr)
        if self._verbose and now.micrograph and not now.error:
            self._say(f"{now.micrograph}: done")
        if time.monotonic() - self._last >= LINE_SECONDS:
            self._last = time.monotonic()
            done = f"{now.micrographs:,} of {now.micrographs_total:,} micrographs"
            self._say(f"{done}; {_numbers(now, first)}; {_left(now, first)}")

    def end(self, result: RunResult) -> None:
        warn(self._news(result.warnings))
        if result.interrupted:
            print(_interrupted(result))
            return
        _print_rows(summary_rows(result, self._plan, self._steps))

    def close(self) -> None:
        pass

    def _say(self, text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {text}", file=self._lines, flush=True)


class _Bar(_Told):
    """A bar and the numbers under it, redrawn in place; the summary as a table."""

    def __init__(self, told: Iterable[str], *, verbose: bool, steps: Steps) -> None:
        from rich.console import Console
        from rich.live import Live

        super().__init__(told)
        self._verbose, self._steps = verbose, steps
        self._console: Console = Console(stderr=True, highlight=False)
        self._live: Live | None = None
        self._plan: Plan | None = None
        self._now: Progress | None = None
        self._first: Progress | None = None

    def plan(self, plan: Plan, free: int | None = None) -> None:
        from rich.live import Live

        self._plan = plan
        self._warn_of(plan.warnings)
        for line in plan_lines(plan):
            self._console.print(line, markup=False)
        for line in explain_plan(plan) if self._verbose else ():
            self._console.print(line, style="dim", markup=False)
        self._live = Live(get_renderable=self._draw, console=self._console, refresh_per_second=REDRAWS_PER_SECOND)
        self._live.start()

    def progress(self, now: Progress) -> None:
        self._now = now
        self._first = self._first or now
        if now.error:
            self._console.print(f"left out: {now.error}", style="yellow", markup=False)
        elif self._verbose and now.micrograph:
            self._console.print(f"{now.micrograph}: done", style="dim", markup=False)

    def end(self, result: RunResult) -> None:
        self.close()
        self._warn_of(result.warnings)
        if result.interrupted:
            self._console.print(_interrupted(result), style="yellow", markup=False)
            return
        rows = summary_rows(result, self._plan, self._steps)
        if not sys.stdout.isatty():
            _print_rows(rows)
            return
        from rich.console import Console

        Console(highlight=False).print(_summary_panel(result, rows))

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _warn_of(self, warnings: Iterable[str]) -> None:
        news = self._news(warnings)
        more = [f"and {len(news) - SHOWN_WARNINGS} more"] if len(news) > SHOWN_WARNINGS else []
        for text in (*news[:SHOWN_WARNINGS], *more):
            self._console.print(f"warning: {text}", style="yellow", markup=False)

    def _draw(self) -> Group | str:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        now, first = self._now, self._first
        if now is None or first is None:
            return ""
        line = Table.grid(padding=(0, 1))
        share = 100 * now.micrographs / now.micrographs_total if now.micrographs_total else 100
        line.add_row(
            Text(f"{now.micrographs:,} of {now.micrographs_total:,} micrographs"),
            ProgressBar(total=max(now.micrographs_total, 1), completed=now.micrographs, width=24),
            Text(f"{share:.0f} %"),
            Text(_left(now, first), style="cyan"),
        )
        return Group(line, Text(_numbers(now, first), style="dim"))


class _JsonLines(_Told):
    """One JSON object a line on standard output; warnings on standard error as well."""

    def plan(self, plan: Plan, free: int | None = None) -> None:
        from cryobox.plan import bytes_of_stacks

        warn(self._news(plan.warnings))
        _emit(
            "plan",
            picks=len(plan.places.reason),
            accepted=len(plan.work.rows),
            rejected=plan.counts(),
            micrographs=len(plan.tasks),
            incomplete=list(plan.grounds.incomplete.values()),
            warnings=list(plan.warnings),
            notes=list(plan.notes),
            bytes_to_read=sum(task.bytes_to_read for task in plan.tasks),
            bytes_to_write=bytes_of_stacks(plan.tasks),
            bytes_free=free,
        )

    def progress(self, now: Progress) -> None:
        _emit("progress", **dataclasses.asdict(now))

    def end(self, result: RunResult) -> None:
        warn(self._news(result.warnings))
        _emit("end", **dataclasses.asdict(result))

    def close(self) -> None:
        pass


def error_event(message: str, exit_code: int) -> None:
    """The event that stands where `end` would, when a run was refused or aborted."""
    _emit("error", message=message, exit_code=exit_code)


def _emit(event: str, **values: Any) -> None:
    try:
        print(json.dumps({"event": event, "version": EVENT_VERSION} | values, default=str), flush=True)
    except BrokenPipeError:
        # Whoever read the events has gone (`--json | head`): the work goes on, and its exit code is its own.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_rows(rows: list[tuple[str, str]]) -> None:
    width = max(len(label) for label, _ in rows)
    for label, text in rows:
        print(f"{label:<{width}}  {text}")


def _interrupted(result: RunResult) -> str:
    return f"interrupted with {result.extracted:,} particles in {result.out}; the same command resumes"


def _numbers(now: Progress, first: Progress) -> str:
    """`first` is the first event: what an earlier run had done is no part of this one's speed."""
    seconds = max(now.seconds, 1e-9)
    rate = (now.particles - first.particles) / seconds
    read, wrote = in_bytes(now.bytes_read / seconds), in_bytes(now.bytes_written / seconds)
    return f"{now.particles:,} particles, {rate:,.0f}/s; read {read}/s, write {wrote}/s; {now.rejected:,} rejected"


def _left(now: Progress, first: Progress) -> str:
    if now.micrographs >= now.micrographs_total:
        return "writing tables"
    done = now.micrographs - first.micrographs
    if done <= 0:
        return "starting"
    return f"{_duration(now.seconds / done * (now.micrographs_total - now.micrographs))} left"


def _summary_panel(result: RunResult, rows: list[tuple[str, str]]) -> Any:
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for label, text in rows:
        table.add_row(label, Text(text))
    good = result.exit_code == 0
    title = (
        "complete" if good else "finished, but look at what is incomplete" if result.extracted else "nothing extracted"
    )
    return Panel(table, title=title, title_align="left", border_style="green" if good else "yellow", expand=False)
