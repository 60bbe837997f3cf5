"""The program: its commands, its exit codes, and what becomes of an error."""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
import typer.core

from cryobox import __version__
from cryobox.cli import check, compact, compare, convert, cryosparc, extract, merge, restack, select, tools, trace
from cryobox.cli.patterns import refuse_expanded
from cryobox.display import error_event
from cryobox.errors import AbortedError, BackendError, CryoboxError

if TYPE_CHECKING:
    from cryobox.peers.host import Host

__all__ = ["app", "main"]

EXIT_REFUSED = 2
EXIT_ABORTED = 3

LONGEST_MESSAGE = 4000  # characters; a hostile table may have names of megabytes

EXIT_CODES = """[bold]Exit codes[/bold]  0 complete · 1 finished, but micrographs are incomplete or nothing was
extracted · 2 refused before any work · 3 aborted · 130 interrupted; after 1, 3 and 130 the same command resumes"""


class _Command(typer.core.TyperCommand):
    """A command whose `--help` is a switch in its own help, as the others are."""

    def get_help_option(self, ctx: Any) -> Any:
        option = super().get_help_option(ctx)
        if option is not None:
            option.metavar = ""
        return option


app = typer.Typer(
    name="cryobox",
    help="Cut picked particles out of cryo-EM micrographs, into stacks and tables that RELION and CryoSPARC read.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


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


app.command(cls=_Command, no_args_is_help=True)(extract.extract)
for command in (
    cryosparc.cryosparc,
    merge.merge,
    tools.boxes,
    tools.report,
    tools.view,
    convert.convert,
    compare.compare,
    check.check,
    tools.info,
    tools.verify,
    restack.restack,
    select.select,
    compact.compact,
    compact.restore,
    trace.trace,
    tools.demo,
):
    app.command(cls=_Command)(command)


def main(arguments: list[str] | None = None, host: Host | None = None) -> NoReturn:
    """Run the command line, as the job of another program where there is a `host`; leave with its exit code."""
    as_json = "--json" in (sys.argv[1:] if arguments is None else arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may hold bytes that are no text
    try:
        refuse_expanded(sys.argv[1:] if arguments is None else arguments)
        app(arguments, obj=host)
    except BrokenPipeError:
        # Whoever read the output has gone; nothing more can be said, and Python must not try when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(EXIT_ABORTED)
    except KeyboardInterrupt:  # before or after the command itself, which has its own answer
        sys.exit(extract.EXIT_INTERRUPTED)
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
