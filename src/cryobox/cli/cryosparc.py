"""`cryobox cryosparc`: extraction as an external job of CryoSPARC."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import typer

from cryobox.cli.command import Asked, Some, takes
from cryobox.cli.extract import Clusters, Devices, Messages, carry_out, options_of, recipe_of
from cryobox.cli.reports import require_report, write_report
from cryobox.declared import TABLES, option
from cryobox.errors import OptionError
from cryobox.options import Recipe, RunOptions
from cryobox.sizing import Sizing, choose_sizes

__all__ = ["cryosparc"]


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Job:
    """Where the job lives, and what it is connected to."""

    project: str = option(help="Project, as P3", panel=TABLES)
    workspace: str = option(help="Workspace, as W1", panel=TABLES)
    particles: Sequence[str] = option(
        "--particles", help="Picks or particles, as J8.particles; may be repeated", metavar="JOB.OUTPUT", panel=TABLES
    )
    exposures: Sequence[str] = option(
        "--exposures", help="Micrographs, as J3.exposures; may be repeated", metavar="JOB.OUTPUT", panel=TABLES
    )
    job: str | None = option(
        "--job", default=None, help="Go on with this external job", shown="a new one", panel=TABLES
    )
    title: str | None = option(
        "--title", default=None, help="Of the new job", shown="Particles extracted by cryobox", panel=TABLES
    )
    project_dir: Path | None = option(
        "--project-dir", default=None, help="The project's folder on this machine", shown="as CryoSPARC says",
        panel=TABLES,
    )  # fmt: skip
    url: str | None = option(
        "--url", default=None, help="Of the instance, as http://host:39000", shown="$CRYOSPARC_BASE_URL", panel=TABLES
    )
    email: str | None = option(
        "--email", default=None, help="Of the account", shown="$CRYOSPARC_EMAIL, or who has logged in", panel=TABLES
    )


@takes(Job, Sizing, Recipe, RunOptions, Devices, Some(Messages, ("report", "quiet", "verbose")))
def cryosparc(
    _: typer.Context,
    of_job: Asked,
    of_sizes: Asked,
    of_recipe: Asked,
    of_run: Asked,
    of_devices: Asked,
    of_messages: Asked,
) -> None:
    """Extract as an external job inside CryoSPARC (needs cryosparc-tools; not tried with a live instance).

    [dim]Picks of J8 on the micrographs of J3, in workspace W1 of project P3:[/dim]
    cryobox cryosparc P3 W1 --particles J8.particles --exposures J3.exposures --box 400 --fcrop 128

    [dim]Whose password is needed: log in once with `python -m cryosparc.tools login`, or set CRYOSPARC_PASSWORD.[/dim]
    """
    from cryobox.peers.cryosparc import TITLE, Place, Source, external_job

    messages, asked = Messages(**of_messages.values), Job(**of_job.values)
    if messages.report:
        require_report()
    options = options_of(of_run, of_devices, Clusters(), of_sizes.values["diameter"])
    _check(of_sizes, of_recipe)
    place = Place(
        project=asked.project, workspace=asked.workspace, job=asked.job, title=asked.title or TITLE,
        particles=tuple(map(Source.of, asked.particles)), exposures=tuple(map(Source.of, asked.exposures)),
        project_dir=asked.project_dir, url=asked.url, email=asked.email,
    )  # fmt: skip
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # else a job would seem to run on
    with external_job(place) as job:
        given = job.given()
        recipe = recipe_of(given, of_sizes, of_recipe, say=messages.say)
        result = carry_out(given, None, recipe, options, job.out, (), Clusters(), messages, job)
        job.ended(result)
        if result.tables and messages.report is not False:
            written = write_report(result.out, asked=bool(messages.report), say=messages.say)
            if written is not None and messages.say:
                print(f"report: {written}")
    raise typer.Exit(result.exit_code)


def _check(of_sizes: Asked, of_recipe: Asked) -> None:
    """Refuse, before there is a job, what can be refused without its inputs."""
    values = of_recipe.values
    if "relion" in {values["tables"], values["tables"] or values["style"]}:
        raise OptionError("--style or --tables relion writes no tables for CryoSPARC; give --tables both, or neither")

    def pixel_size() -> float:
        raise _NotKnownYetError

    try:
        chosen = choose_sizes(Sizing(**of_sizes.values), {}, dtype=values["dtype"], pixel_size=pixel_size)
    except _NotKnownYetError:
        return
    Recipe(box=chosen.box, sizes=chosen.sizes, also=chosen.also, **values)


class _NotKnownYetError(Exception):
    """What micrographs say that are not loaded."""
