"""CryoSPARC's external job: inputs taken from connected outputs, results saved as outputs, through cryosparc-tools 5.

What CryoSPARC's own extraction job calls its outputs, tables and folder is kept: particles, particles_small,
micrographs, micrographs_incomplete; extracted_particles.cs; extract/. Tried with the real client library against a
stand-in that answers it (tests/peers/cryosparc_server.py), never against an instance of CryoSPARC.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import threading
import time
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cryobox.errors import AbortedError, BackendError, CryoboxError, InputError, MissingExtraError, OptionError
from cryobox.folder.publish import publish_file
from cryobox.formats.cs_table import Table, prefixes, read_table
from cryobox.given import Given

if TYPE_CHECKING:
    from cryobox.engine.progress import Progress
    from cryobox.job import RunResult

__all__ = ["ExternalJob", "Place", "Source", "external_job"]

TITLE = "Particles extracted by cryobox"
FOLDER = "extract"  # in the job's folder: stacks, tables, records
PARTICLES, MICROGRAPHS, INCOMPLETE = "particles", "micrographs", "micrographs_incomplete"
OWN_SLOT = "cryobox"  # columns of ours, for which CryoSPARC has no type
EVENT = "progress"  # of the job's log; written anew each time
SECONDS = 10.0  # between two looks at the server
SHOWN = 20  # warnings in the job's log
MONTAGE, MONTAGE_COLUMNS = 40, 10
ALIVE = ("running", "waiting")  # what the status of a job is while nobody has ended it


@dataclass(frozen=True, slots=True)
class Source:
    """An output of a job: "J8.particles"."""

    job: str
    output: str

    @classmethod
    def of(cls, text: str) -> Source:
        """Read what a user wrote.

        Raises
        ------
        OptionError
        """
        job, dot, output = text.partition(".")
        if not (dot and output and job[:1] == "J" and job[1:].isdecimal()):
            raise OptionError(f"an output is named by its job and its name, as J8.particles; got {text!r}")
        return cls(job, output)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the job lives, and what it is connected to.

    Parameters
    ----------
    project, workspace : str
        "P3", "W1".
    particles, exposures : tuple of Source
        Picks or particles, and the micrographs that they are on.
    job : str, optional
        An external job that is gone on with; default: a new one.
    title : str
        Of a new one.
    project_dir : Path, optional
        Where this machine sees the project's folder; default: where CryoSPARC says that it is.
    url, email : str, optional
        Of the instance and the account; default: what the environment, or a login of cryosparc-tools, says.
    """

    project: str
    workspace: str
    particles: tuple[Source, ...]
    exposures: tuple[Source, ...]
    job: str | None = None
    title: str = TITLE
    project_dir: Path | None = None
    url: str | None = None
    email: str | None = None


class _EndedError(Exception):
    """The job is over without results; CryoSPARC marks it as failed and shows the text."""


@contextlib.contextmanager
def external_job(place: Place) -> Iterator[ExternalJob]:
    """Create (or go on with) the job, connect its inputs, and have it running while the block lasts.

    It is completed when the block ends with particles; failed if it raises, is interrupted, or nothing was extracted.

    Raises
    ------
    MissingExtraError
        Without cryosparc-tools.
    BackendError
        If CryoSPARC cannot be reached or refuses something.
    InputError
        If an output is not there, or this machine does not see the project's folder.
    """
    client = _client(place)
    with _asking(f"project {place.project} of {client.base_url}"):
        project = client.find_project(place.project)
        _check_outputs(project, (*place.particles, *place.exposures))
        root = place.project_dir or Path(str(project.dir))
    if not root.is_dir():
        raise InputError(
            f"{root}: the folder of {place.project} is not seen on this machine; run cryobox where it is, or say with "
            f"--project-dir where it is mounted"
        )
    with _asking(f"an external job in {place.project} {place.workspace}"):
        job = project.find_external_job(place.job) if place.job else project.create_external_job(
            place.workspace, title=place.title
        )  # fmt: skip
        for name, title, slot, sources in (
            (PARTICLES, "Particles", "location", place.particles),
            (MICROGRAPHS, "Micrographs", "micrograph_blob", place.exposures),
        ):
            connected = (
                {(one.job_uid, one.output) for one in job.inputs[name].connections} if name in job.inputs else ()
            )
            for source in sources:
                if (source.job, source.output) not in connected:
                    job.connect(name, source.job, source.output, slots=[slot, "?ctf"], title=title)
        folder = root / Path(str(job.dir)).name
    yield from _running(ExternalJob(place, job, root, folder))


def _running(ours: ExternalJob) -> Iterator[ExternalJob]:
    try:
        with ours.job.run():
            try:
                yield ours
            except CryoboxError as error:
                ours.log(str(error), level="error")
                raise
            except BaseException as leaving:
                if isinstance(leaving, Exception):
                    raise
                # The client takes only an `Exception` for a failure, and would call this a completed job.
                raise _EndedError("interrupted") from leaving
            if ours.lost:
                raise _EndedError(ours.lost)
    except _EndedError as over:
        if over.__cause__ is not None:
            raise over.__cause__ from None


def _client(place: Place) -> Any:
    try:
        from cryosparc import __version__
        from cryosparc.tools import CryoSPARC
    except ImportError as error:
        raise MissingExtraError(f"it needs cryosparc-tools: pip install cryobox[cryosparc] ({error})") from None
    if int(__version__.partition(".")[0]) < 5:
        raise MissingExtraError(f"it needs cryosparc-tools 5; found {__version__}: pip install -U cryobox[cryosparc]")
    words: dict[str, Any] = {} if place.url is None else {"base_url": place.url, "host": None, "base_port": None}
    if place.email is not None:
        words["email"] = place.email
    with _asking("CryoSPARC"):
        return CryoSPARC(**words)


@contextlib.contextmanager
def _asking(what: str) -> Iterator[None]:
    """While this lasts, what the client raises is an error of ours that says about what CryoSPARC was asked."""
    import httpx

    try:
        yield
    except CryoboxError:
        raise
    except (ValueError, RuntimeError, TypeError, httpx.HTTPError) as error:  # APIError is a ValueError
        text = str(error).strip() or type(error).__name__
        raise BackendError(f"{what}: {text.splitlines()[0] if len(text) > 2000 else text}") from error


def _check_outputs(project: Any, sources: Sequence[Source]) -> None:
    for source in dict.fromkeys(sources):
        outputs = project.find_job(source.job).outputs
        if source.output not in outputs:
            near = difflib.get_close_matches(source.output, outputs, 1)
            hint = f" (did you mean {source.job}.{near[0]}?)" if near else ""
            raise InputError(
                f"{source.job}: has no output {source.output!r}{hint}; it has {', '.join(outputs) or 'none'}"
            )


class ExternalJob:
    """The job while it runs. A `Host`.

    Parameters
    ----------
    place : Place
    job : ExternalJobController
        Of cryosparc-tools.
    root, folder : Path
        The project's and the job's folder, as this machine sees them.
    """

    def __init__(self, place: Place, job: Any, root: Path, folder: Path) -> None:
        self.job, self.uid = job, str(job.uid)
        self.lost = ""  # why there are no results
        self._place, self._root, self._folder = place, root, folder
        self._looked = -SECONDS
        self._status = "running"
        self._particles: Table | None = None
        self._exposures: Table | None = None

    @property
    def out(self) -> Path:
        """Where stacks and tables go."""
        return self._folder / FOLDER

    def given(self) -> Given:
        """Load what is connected, and leave it as tables in the job's folder.

        Raises
        ------
        BackendError, OutputError
        """
        self._folder.mkdir(exist_ok=True)
        paths = []
        for name in (PARTICLES, MICROGRAPHS):
            with _asking(f"{self.uid}: input {name}"):
                dataset = self.job.load_input(name)
            written = io.BytesIO()
            dataset.save(written)
            paths.append(self._folder / f"input_{name}.cs")
            publish_file(paths[-1], written.getvalue(), fsync=True)
        self._particles, self._exposures = map(read_table, paths)
        return Given.of(paths[0], paths[1], self._root)

    def log(self, text: str, *, level: str = "text", name: str | None = None) -> None:
        """Write into the job's log; what cannot be written there is no reason to stop."""
        with contextlib.suppress(BackendError), warnings.catch_warnings(), _asking("log"):
            warnings.simplefilter("ignore")  # the client warns of every attempt
            self.job.log(text, level=level, **({"name": name} if name else {}))

    def progress(self, now: Progress, stop: threading.Event) -> None:
        """Tell the log from time to time, and stop where the job was ended in CryoSPARC."""
        ends = now.micrographs >= now.micrographs_total
        if stop.is_set() or (time.monotonic() - self._looked < SECONDS and not ends):
            return
        self._looked = time.monotonic()
        self.log(
            f"{now.micrographs:,} of {now.micrographs_total:,} micrographs: {now.particles:,} particles, "
            f"{now.rejected:,} picks rejected", name=EVENT,
        )  # fmt: skip
        with contextlib.suppress(BackendError), warnings.catch_warnings(), _asking("status"):
            warnings.simplefilter("ignore")
            self._status = str(self.job.refresh().status)
        if self._status not in ALIVE:
            stop.set()

    def next_steps(self, result: RunResult) -> list[str]:
        """In CryoSPARC's words."""
        if result.interrupted or not result.extracted:
            return []
        repair = ["repair what micrographs_incomplete lists, then extract again"] if result.incomplete else []
        return [*repair, f"connect the outputs of {self._place.project} {self.uid} to the next job"]

    def ended(self, result: RunResult) -> None:
        """Save the outputs of a run; of one without particles say why there are none.

        Raises
        ------
        AbortedError
            If CryoSPARC does not take them. Stacks and tables are whole, and the same job can be gone on with.
        """
        for text in result.warnings[:SHOWN]:
            self.log(text, level="warning")
        if result.interrupted:
            how = "interrupted" if self._status in ALIVE else f"ended in CryoSPARC ({self._status})"
            self.lost = f"{how} after {result.extracted} particles; go on with --job {self.uid}"
            return
        lines = [f"{result.extracted:,} of {result.picks:,} picks extracted, from {result.micrographs:,} micrographs"]
        lines += [f"  {count:,} rejected: {reason}" for reason, count in result.rejected.items()]
        self.log("\n".join(lines))
        if not result.extracted:
            self.lost = "nothing was extracted; extract/rejected.cs says why, pick by pick"
            return
        try:
            self._save(result)
        except CryoboxError as error:
            raise AbortedError(
                f"{error}; stacks and tables are whole in {result.out}, and --job {self.uid} saves them again"
            ) from error

    # Outputs -----------------------------------------------------------------------------------------------------

    def _save(self, result: RunResult) -> None:
        picture = _montage(result)
        if picture is not None:
            with contextlib.suppress(BackendError), _asking("plot"):
                self.job.log_plot(io.BytesIO(picture), "Extracted particles, evenly chosen", formats=["png"])
        dtypes = self._dtypes()
        assert self._particles is not None
        tables = [path for path in result.tables if path.suffix == ".cs" and path.stem.startswith(PARTICLES)]
        for path in reversed(tables):
            name, of_size = path.stem, path.stem.removeprefix(PARTICLES).lstrip("_")
            publish_file(self._folder / f"extracted_{name}.cs", path.read_bytes(), fsync=True)
            slots, joins = slots_to_save(self._particles, read_table(path))
            specs = [{"name": slot, "dtype": dtypes.get(slot, slot)} for slot in slots]
            title = f"Particles, {of_size}" if of_size else "Particles"
            self._output("particle", name, title, path, specs, PARTICLES if joins else None, picture)
        self._save_micrographs(result)

    def _output(
        self, kind: str, name: str, title: str, table: Path | io.BytesIO, slots: Sequence[Mapping[str, str]],
        passthrough: str | None, picture: bytes | None = None,
    ) -> None:  # fmt: skip
        from cryosparc.dataset import Dataset

        with _asking(f"{self.uid}: output {name}"):
            self.job.add_output(kind, name, slots=slots, passthrough=passthrough, title=title)
            image = {} if picture is None else {"image": io.BytesIO(picture)}
            self.job.save_output(name, Dataset.load(table, prefixes=[slot["name"] for slot in slots]), **image)

    def _save_micrographs(self, result: RunResult) -> None:
        """The exposures, whole and incomplete ones apart; all but the image passes through."""
        assert self._exposures is not None
        table = next((path for path in result.tables if path.name == f"{INCOMPLETE}.cs"), None)
        lost: Collection[int] = () if table is None else read_table(table)["uid"].tolist()
        incomplete = np.isin(self._exposures["uid"], np.array(sorted(lost), np.uint64))
        for name, rows, title in (
            (MICROGRAPHS, ~incomplete, "Micrographs"),
            (INCOMPLETE, incomplete, "Micrographs incomplete"),
        ):
            if not rows.any():
                continue
            written = io.BytesIO()
            np.save(written, self._exposures[rows], allow_pickle=False)
            written.seek(0)
            blob = {"name": "micrograph_blob", "dtype": "micrograph_blob"}
            self._output("exposure", name, title, written, [blob], MICROGRAPHS)

    def _dtypes(self) -> dict[str, str]:
        """What the connected outputs call the types of their slots: those of alignments may have any name."""
        found = {}
        for connection in self.job.inputs[PARTICLES].connections:
            found.update({result.name or result.result: result.dtype for result in connection.results})
        return found


def slots_to_save(before: Table, after: Table) -> tuple[list[str], bool]:
    """The slots that extraction changed, and whether the others can be passed through.

    They can where every row is one of the input, and no slot was left out on purpose.
    """
    names = after.dtype.names or ()
    slots = [slot for slot in prefixes(names) if slot != OWN_SLOT]
    order = np.argsort(before["uid"], kind="stable")
    place = np.searchsorted(before["uid"], after["uid"], sorter=order)
    rows = order[np.minimum(place, len(order) - 1)] if len(order) else np.zeros(len(after), np.intp)
    known = len(before) > 0 and bool((before["uid"][rows] == after["uid"]).all())
    once = len(np.unique(after["uid"])) == len(after)
    gone = set(prefixes(before.dtype.names or ())) - set(slots) - {OWN_SLOT}
    if not (known and once) or gone:
        return slots, False
    changed = {
        name.split("/", 1)[0]
        for name in names
        if "/" in name and (name not in (before.dtype.names or ()) or not _equal(before[name][rows], after[name]))
    }
    return [slot for slot in slots if slot in changed | {"blob", "location"}], True


def _equal(one: Any, other: Any) -> bool:
    return bool(np.array_equal(one, other, equal_nan=one.dtype.kind == "f" and other.dtype.kind == "f"))


def _montage(result: RunResult) -> bytes | None:
    """A PNG of particles; None where the images cannot be shown."""
    from cryobox.formats.mrc import read_images, read_stack_header
    from cryobox.reporting.pictures import encode_png, montage, spread

    stacks = sorted((result.out / "stacks").iterdir())
    each = -(-MONTAGE // max(len(stacks), 1))
    images: list[Any] = []
    try:
        for stack in (stacks[i] for i in spread(len(stacks), MONTAGE).tolist()):
            images += list(read_images(stack, spread(read_stack_header(str(stack))[0][0], each)))
    except (CryoboxError, OSError):
        return None
    return encode_png(montage(np.stack(images[:MONTAGE]), MONTAGE_COLUMNS)) if images else None
