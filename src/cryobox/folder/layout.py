"""The names in an output folder: where stacks and tables lie, and what the stack of a micrograph is called."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence

from cryobox.matching import stem

__all__ = [
    "RECORD",
    "REPORT",
    "STOP_FILE",
    "TABLE_FOLDER",
    "is_stack_folder",
    "is_table",
    "log_name",
    "noise_name",
    "output_names",
    "stack_folder",
    "stack_names",
    "table_name",
    "table_names",
]

RECORD = "job.json"  # of a finished run: what was asked for, and what came of it
REPORT = "report.html"
STOP_FILE = "stop"  # whoever makes it ends the watching
TABLE_FOLDER = "shards"  # in the output folder: the tables of each shard
TABLE_SUFFIXES = (".star", ".cs", ".csg")

NOISE = "noise"  # what the outputs of noise boxes are called, before the name of their size

# What `options.StoredSize.name` may be: nothing, "small", or a size; behind "noise", if anything, for noise boxes.
_OF_AN_OUTPUT = r"(?:_noise)?(?:_small|_[0-9]+)?"

MAX_NAME_BYTES = 255
_NAME_OVERHEAD = 96  # bytes left for "_particles", the suffix and what a temporary name adds


def log_name(part: str) -> str:
    """Name of the log of a part ("1-of-4"), or of a whole run ("")."""
    return f"run.{part}.log" if part else "run.log"


def stack_folder(output: str) -> str:
    """Folder, in the output folder, of the stacks of the output with this name."""
    return f"stacks_{output}" if output else "stacks"


def is_stack_folder(name: str) -> bool:
    """Whether stacks of any run would lie in a folder of this name."""
    return re.fullmatch("stacks" + _OF_AN_OUTPUT, name) is not None


def output_names(folders: Iterable[str]) -> set[str]:
    """Names of the outputs whose stack folders are among these."""
    return {name[len("stacks_") :] for name in folders if is_stack_folder(name)}


def table_name(output: str) -> str:
    """Name, without suffix, of the table of the output with this name."""
    if output.partition("_")[0] == NOISE:
        return output
    return f"particles_{output}" if output else "particles"


def noise_name(output: str) -> str:
    """What the noise boxes of an output are called: they have a stack folder and a table of their own."""
    return f"{NOISE}_{output}" if output else NOISE


def is_table(name: str, outputs: Collection[str]) -> bool:
    """Whether a file of this name is a table of a run with these outputs: `particles_2024.star` may be a user's own."""
    stem, dot, suffix = name.partition(".")
    known = {table_name(output) for output in ("", "small", *outputs)} | {"rejected", "micrographs_incomplete"}
    return dot + suffix in TABLE_SUFFIXES and stem in known


def table_names(names: Iterable[str], outputs: Collection[str]) -> list[str]:
    """Those of `names` that are tables of a run with these outputs, `particles` first."""
    found = [name for name in names if is_table(name, outputs)]
    return sorted(found, key=lambda name: (not name.startswith("particles."), name))


def stack_names(names: Sequence[str]) -> list[str]:
    """A file stem for the stack of each micrograph: safe to create, and no two alike even where case does not count.

    A name that several micrographs would share gets a hash of the micrograph's full name, for all of them: the names
    do not depend on which other micrographs are there later.
    """
    repeated: Counter[str] = Counter()
    full = []
    for name in names:  # the rows of a .cs table may differ in their uid only
        full.append(name if not repeated[name] else f"{name}\0{repeated[name]}")
        repeated[name] += 1
    found = [_safe_stem(name) for name in names]
    for digits in (10, 32):  # the second time for names that look as if they had got their hash already
        folded = Counter(text.casefold() for text in found)
        found = [
            f"{_safe_stem(name)}_{_digest(name)[:digits]}" if folded[text.casefold()] > 1 else text
            for text, name in zip(found, full, strict=True)
        ]
    return found


def _safe_stem(name: str) -> str:
    # RELION reads `000001@path`, splits columns at blanks and numbers names in "...#"; none of these may be in a name.
    text = re.sub(r"[\s@#'\"\\/:*?<>|\x00-\x1f\x7f]", "_", stem(name)).lstrip(".") or "micrograph"
    encoded = text.encode("utf-8", "replace").replace(b"?", b"_")
    if len(encoded) > MAX_NAME_BYTES - _NAME_OVERHEAD:
        kept = encoded[: MAX_NAME_BYTES - _NAME_OVERHEAD - 11].decode("utf-8", "ignore")
        return f"{kept}_{_digest(name)[:10]}"
    return encoded.decode("utf-8")


def _digest(name: str) -> str:
    return hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
