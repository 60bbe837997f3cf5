"""RELION's External job: what its arguments mean, and the files in its folder that RELION looks at.

RELION calls `EXE --o External/job012/ [--in_mics F] [--in_coords F] [--in_parts F] [--LABEL VALUE ...] --j THREADS
[other arguments as typed]` in the project's directory, and waits for one of three files in the job's folder. How it
does that was tried with RELION 3.1.3; the columns of the output nodes are those of 3.1, 4 and 5 together.
"""

from __future__ import annotations

import contextlib
import difflib
import itertools
import math
import threading
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cryobox.declared import Flag, flags
from cryobox.errors import OptionError, OutputError
from cryobox.folder.publish import publish_file
from cryobox.sizing import Sizing

if TYPE_CHECKING:
    from cryobox.engine.progress import Progress
    from cryobox.job import RunResult

__all__ = ["ABORT_NOW", "ExternalJob", "Label", "labels_of", "output_folder", "read_arguments"]

ABORT_NOW = "RELION_JOB_ABORT_NOW"
SUCCESS, FAILURE, ABORTED = (f"RELION_JOB_EXIT_{how}" for how in ("SUCCESS", "FAILURE", "ABORTED"))
NODES = "RELION_OUTPUT_NODES.star"
PARTICLES_TYPE = 3  # of a node, in RELION 3.1; later ones go by the label
PARTICLES_LABEL = "ParticleGroupMetadata.star.relion"
SEGMENTS_LABEL = f"{PARTICLES_LABEL}.helicalsegments"
SEGMENTS_TAG = "_rlnHelicalTubeID"
HEAD_OF_A_TABLE = 1 << 16  # bytes in which the columns of a table stand
INTERRUPTED = 130

INPUTS = {"in_mics": "Input micrographs", "in_coords": "Input coordinates", "in_parts": "Input particles"}
UNUSED = {"in_movies": "Input movies", "in_3dref": "Input 3D reference", "in_mask": "Input 3D mask"}
IGNORED = ("pipeline_control",)  # RELION adds it where the path of the executable holds "relion_"
YES, NO = ("yes", "true", "on", "1"), ("no", "false", "off", "0")


@dataclass(frozen=True, slots=True)
class Label:
    """What a label of the job says to `cryobox extract`.

    Parameters
    ----------
    name : str
        Of an option that takes a value, "--box"; "" for a switch.
    words : mapping of str to tuple of str
        Of a switch: its words for each value.
    """

    name: str = ""
    words: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def labels_of(*groups: type) -> dict[str, Label]:
    """The labels of all options that the fields of these dataclasses declare: by flag and by field, with "_".

    A switch is a label with yes or no; where its flag says what is not done (--no-ramp), so is what is done (ramp).
    """
    found: dict[str, Label] = {}
    for group in groups:
        hints = typing.get_type_hints(group)
        for name, flag in flags(group).items():
            if flag.names:
                for label, meaning in _labels(name, flag, is_switch=hints[name] in (bool, bool | None)):
                    found.setdefault(label.replace("-", "_"), meaning)
    return found


def _labels(name: str, flag: Flag, *, is_switch: bool) -> Iterator[tuple[str, Label]]:
    if not (is_switch or flag.values is not None):
        option = next(text for text in flag.names if text.startswith("--"))
        yield option[2:], Label(name=option)
        yield name, Label(name=option)
        return
    on, _, off = flag.names[0].partition("/")
    with_on, with_off = (on,), (off,) if off else ()
    yield on[2:], Label(words={"yes": with_on, "no": with_off})
    if off:
        yield off[2:], Label(words={"yes": with_off, "no": with_on})
    if flag.values == (False, True):
        yield name, Label(words={"yes": with_off, "no": with_on})
    elif flag.values is not None:
        yield name, Label(words=dict(zip(map(str, flag.values), (with_on, with_off), strict=True)))


def output_folder(words: Sequence[str]) -> str:
    """The job's folder, behind --o.

    Raises
    ------
    OptionError
    """
    for option, value in itertools.pairwise(words):
        if option == "--o" and value:
            return value
    raise OptionError(
        "--o and the job's folder are missing: cryobox-relion is started by RELION's External job; outside of RELION "
        "use cryobox extract"
    )


def read_arguments(words: Sequence[str], labels: Mapping[str, Label]) -> list[str]:
    """Translate the arguments of an External job into those of `cryobox extract`.

    Parameters
    ----------
    words : sequence of str
        As RELION gives them.
    labels : mapping of str to Label
        As `labels_of` makes it.

    Raises
    ------
    OptionError
        If a label is not known or its value no such thing, or if inputs are missing or too many.
    """
    said: dict[str, str] = {}
    translated: list[str] = []
    known = [*labels, *INPUTS, "bg_diameter", "bg_diameter_angstrom"]
    for name, value in _pairs(words):
        if name in ("o", "j", *INPUTS, *UNUSED, *IGNORED, "bg_diameter"):
            if value is None:
                raise OptionError(f"--{name}: its value is missing")
            said[name] = value
        else:
            label = labels.get("background_diameter_angstrom" if name == "bg_diameter_angstrom" else name)
            if label is None:
                near = difflib.get_close_matches(name, known, 1, cutoff=0.5)
                raise OptionError(
                    f"{name!r} is no label of this job{f' (did you mean {near[0]}?)' if near else ''}; labels are the "
                    f"options of cryobox extract without dashes, as box or min_score"
                )
            translated += _translate(name, value, label)
            said[label.name] = value or ""
    if used := next((name for name in UNUSED if name in said), None):
        raise OptionError(
            f"--{used} {said[used]}: an extraction has no use for it; leave the field {UNUSED[used]!r} empty"
        )
    return [*_files(said), *_workers(said), *translated, *_background(said), *_tables(said)]


def _pairs(words: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Each label, in RELION's spelling, and what stands behind it."""
    at = 0
    while at < len(words):
        word = words[at]
        if not word.startswith("--") or len(word) == 2:
            raise OptionError(f"{word!r} stands where a label is expected (--label value); is a value in two words?")
        name, equals, value = word[2:].partition("=")
        at += 1
        if not equals and at < len(words) and not words[at].startswith("--"):
            value, equals = words[at], "="
            at += 1
        yield name.replace("-", "_").lower(), value if equals else None


def _translate(name: str, value: str | None, label: Label) -> list[str]:
    if label.name:
        if not value:
            raise OptionError(f"{name}: its value is missing")
        return [label.name, value]
    word = (value or "yes").lower()
    word = "yes" if word in YES else "no" if word in NO else word
    if word not in label.words:
        raise OptionError(f"{name}: expected {' or '.join(label.words)}; got {value!r}")
    return list(label.words[word])


def _files(said: Mapping[str, str]) -> list[str]:
    """What is read, and where the results go."""
    picks = [name for name in ("in_coords", "in_parts") if name in said]
    if len(picks) != 1:
        fields = f"{INPUTS['in_coords']!r} and {INPUTS['in_parts']!r}"
        raise OptionError(
            f"of the fields {fields} one must be filled in; {'both are' if picks else 'none is'}: coordinates to "
            f"extract picks, particles to extract them again"
        )
    mics = ["--micrographs", said["in_mics"]] if "in_mics" in said else []
    return [said[picks[0]], *mics, "--out", said["o"]]


def _tables(said: Mapping[str, str]) -> list[str]:
    """RELION needs a table of its own, also of picks in CryoSPARC's tables."""
    asked = said.get("--tables") or said.get("--style")
    if asked == "cryosparc":
        raise OptionError("RELION needs tables of its own: give tables both, or leave tables and style out")
    of_cryosparc = any(said.get(name, "").endswith((".cs", ".csg")) for name in ("in_coords", "in_parts"))
    return ["--tables", "relion"] if asked is None and of_cryosparc else []


def _workers(said: Mapping[str, str]) -> list[str]:
    """RELION's threads are micrographs at a time, unless the user said how many."""
    return ["--workers", said["j"]] if "j" in said and "--workers" not in said else []


def _background(said: Mapping[str, str]) -> list[str]:
    """`bg_diameter` as in RELION's own job: pixels of the micrograph; below 0 the default. Truncated as there.

    Tried with RELION 3.1.3's extraction job: 31 for boxes of 64 stored at 36 becomes a radius of 8, 25.5 one of 7, and
    55 for 66 stored at 36 one of 15, which only this order of the operations gives.
    """
    if "bg_diameter" not in said:
        return []
    try:
        diameter = float(said["bg_diameter"])
    except ValueError:
        diameter = math.nan
    if not math.isfinite(diameter):
        raise OptionError(f"bg_diameter must be a number of pixels; got {said['bg_diameter']!r}")
    for label, option in (("bg_radius", "--bg-radius"), ("bg_diameter_angstrom", "--bg-diameter")):
        if option in said:
            raise OptionError(f"give bg_diameter (pixels of the micrograph) or {label}, not both")
    if diameter < 0:
        return []
    box = said.get("--box", "")
    size = said.get("--fcrop", box)
    unknown = any(option in said for option in _sizes_in_angstrom()) or ("--from" in said and "--fcrop" not in said)
    if unknown or not (box.isdecimal() and size.isdecimal() and int(box)):
        raise OptionError(
            "bg_diameter is in pixels of the micrograph, as in RELION's own job, and needs box (and fcrop) in pixels, "
            "too; give bg_diameter_angstrom where these are chosen in Å"
        )
    return ["--bg-radius", str(int(diameter / 2 * int(size) / int(box)))]


def _sizes_in_angstrom() -> set[str]:
    """Options by which box or stored size are chosen where the pixel size is known, which is not yet."""
    return {flag.names[0] for flag in flags(Sizing).values()} - {"--box", "--fcrop", "--small", "--also"}


class ExternalJob:
    """The job's folder, and what RELION reads there. A `Host`.

    Parameters
    ----------
    folder : str
        As RELION says it, from the project's directory on.
    """

    def __init__(self, folder: str) -> None:
        self._name = folder
        self._folder = Path(folder)
        self._result: RunResult | None = None

    def begin(self) -> None:
        """Make the folder, and take away what an earlier run of the job left of its end.

        Raises
        ------
        OutputError
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            for name in (SUCCESS, FAILURE, ABORTED):
                (self._folder / name).unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"{self._folder}: cannot be written: {error.strerror}") from error

    def progress(self, now: Progress, stop: threading.Event) -> None:
        """Stop where the user asked RELION to abort the job."""
        if not stop.is_set() and (self._folder / ABORT_NOW).exists():
            stop.set()

    def next_steps(self, result: RunResult) -> list[str]:
        """In RELION's words."""
        steps = []
        if result.incomplete:
            steps.append("repair what micrographs_incomplete.star lists, then continue this job")
        nodes = [self._node(path) for path in _particles(result)]
        if nodes:
            steps.append(f"{' and '.join(nodes)} can be chosen as input of the next job")
        return steps

    def warnings(self) -> list[str]:
        """What the user is to see in red, although the job succeeds."""
        lost = self._result.incomplete if self._result is not None else {}
        if not lost:
            return []
        count = f"{len(lost)} micrographs were" if len(lost) > 1 else "1 micrograph was"
        return [f"{count} left out ({next(iter(lost.values()))}); micrographs_incomplete.star lists what was"]

    def ended(self, result: RunResult) -> None:
        """Name the tables of particles as outputs of the job."""
        self._result = result
        nodes = _particles(result)
        if not nodes:
            return
        tags = ("Name", "Type", "TypeLabel", "TypeDepth")
        lines = ["", "data_output_nodes", "", "loop_", *(f"_rlnPipeLineNode{t} #{i}" for i, t in enumerate(tags, 1))]
        lines += [f"{self._node(path)} {PARTICLES_TYPE} {_type_label(path)} 1" for path in nodes]
        publish_file(self._folder / NODES, "\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape"), fsync=True)

    def end(self, code: int) -> None:
        """Leave the file that RELION waits for.

        Particles that were written are a success, whatever micrographs were left out: RELION offers no outputs of a job
        that failed.
        """
        done = self._result is not None and not self._result.interrupted and bool(_particles(self._result))
        how = SUCCESS if done and code in (0, 1) else ABORTED if code == INTERRUPTED else FAILURE
        with contextlib.suppress(OSError):  # where nothing can be written, that was said
            (self._folder / how).touch()

    def _node(self, path: Path) -> str:
        return f"{self._name.rstrip('/')}/{path.name}"


def _particles(result: RunResult) -> list[Path]:
    """Tables of particles in RELION's form, the first stored size first."""
    return [path for path in result.tables if path.suffix == ".star" and path.stem.startswith("particles")]


def _type_label(table: Path) -> str:
    with table.open("rb") as file:
        columns = file.read(HEAD_OF_A_TABLE).split()
    return SEGMENTS_LABEL if SEGMENTS_TAG.encode() in columns else PARTICLES_LABEL
