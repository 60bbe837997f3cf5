"""`cryobox-relion`: extraction as RELION's External job; RELION gives the arguments."""

from __future__ import annotations

import signal
import sys
import traceback
from typing import NoReturn

from cryobox import __version__
from cryobox.cli import program
from cryobox.cli.extract import EXIT_INTERRUPTED, Clusters, Devices, Inputs, Messages, RelionWords
from cryobox.display import warn
from cryobox.errors import CryoboxError
from cryobox.options import Recipe, RunOptions
from cryobox.peers.relion import ExternalJob, Label, labels_of, output_folder, read_arguments
from cryobox.sizing import Sizing

__all__ = ["job_labels", "main"]

HELP = """cryobox-relion is the executable of RELION's job type External: particle extraction by cryobox.

  Input       External executable: the output of `which cryobox-relion`
              Input micrographs, and Input coordinates or Input particles
  Params      labels are the options of `cryobox extract` without dashes: box 256, fcrop 128,
              float16 yes, ramp no, min_score 0.2; bg_diameter in pixels of the micrograph
  Running     Number of threads: micrographs at a time

RELION calls it as: cryobox-relion --o External/job012/ --in_mics F --in_coords F --box 256 --j 8"""

ELSEWHERE = {"--micrographs", "--out", "--root", "--coord-dir"}  # what the job's own fields say, or its place
NOT_HERE = {"--shard", "--mpi", "--watch", "--every", "--idle-timeout", "--dry-run", "--json", "--quiet"}
EXIT_REFUSED, EXIT_ABORTED = 2, 3


def job_labels() -> dict[str, Label]:
    """The labels of an External job: the options of `cryobox extract` that mean something there."""
    found = labels_of(Inputs, Sizing, Recipe, RelionWords, RunOptions, Devices, Clusters, Messages)
    left_out = ELSEWHERE | NOT_HERE
    return {
        label: meaning
        for label, meaning in found.items()
        if not left_out & {meaning.name, *(word for words in meaning.words.values() for word in words)}
    }


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the job, leave the files that RELION looks for, and exit as `cryobox extract` does."""
    words = sys.argv[1:] if arguments is None else arguments
    if not words or "-h" in words or "--help" in words:
        print(HELP)
        sys.exit(0)
    if words == ["--version"]:
        print(f"cryobox {__version__}")
        sys.exit(0)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # from the first moment on: RELION waits for our answer
    try:
        job = ExternalJob(output_folder(words))
    except CryoboxError as error:
        print(f"cryobox: error: {error}", file=sys.stderr)
        sys.exit(EXIT_REFUSED)
    code = EXIT_ABORTED
    try:
        code = _extract(words, job)
        warn(job.warnings())
    finally:  # RELION waits for this, whatever happened
        sys.stdout.flush()
        job.end(code)
    sys.exit(code)


def _extract(words: list[str], job: ExternalJob) -> int:
    try:
        job.begin()
        program.main(["extract", *read_arguments(words, job_labels())], job)
    except CryoboxError as error:
        print(f"cryobox: error: {error}", file=sys.stderr)
        return EXIT_REFUSED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else EXIT_ABORTED
    except Exception:  # noqa: BLE001 -- the job has failed, and RELION is to know it
        traceback.print_exc()
        return EXIT_ABORTED
