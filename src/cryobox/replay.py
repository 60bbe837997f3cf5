"""`--from`: what an earlier run was asked for, and the files that it had read, to be read again."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cryobox.errors import InputError, OptionError
from cryobox.folder.layout import RECORD
from cryobox.folder.run import read_record as read
from cryobox.given import Given
from cryobox.inputs import Recorded
from cryobox.options import Recipe
from cryobox.paths import working_directory

__all__ = ["given_of", "holds", "masks_from", "read_record", "recorded_of"]


def read_record(path: Path) -> dict[str, Any]:
    """The `job.json` of an earlier run; a folder stands for the one inside it."""
    if path.is_dir():
        path /= RECORD
    if not path.exists():
        raise InputError(f"{path}: cannot be read: No such file or directory")
    record = read(path)
    if not isinstance(record.get("recipe"), dict):
        raise InputError(f"{path}: not the job.json of a run: it has no recipe")
    return record | {"recipe": Recipe.from_dict(record["recipe"], str(path)).as_dict()}


def holds(out: Path, record: Path) -> bool:
    """Whether `record`, or the folder that stands for its `job.json`, is that of the output folder."""
    try:
        return os.path.samefile(out / RECORD, record / RECORD if record.is_dir() else record)
    except OSError:
        return False


def given_of(
    record: Mapping[str, Any], picks: Sequence[str] | None, micrographs: str | None, root: Path | None
) -> Given:
    """The inputs: as given, else as the record has them; relative ones start in `Given.directory`.

    That is the directory of the recorded run where its files are used, since names in its tables start there.
    """
    old = Given.from_dict(record["inputs"]) if "inputs" in record else None
    missing = [name for name, value in (("PICKS", picks), ("--micrographs", micrographs)) if not value]
    here = working_directory()
    if old is None and not picks:
        raise OptionError("PICKS must be given, or --from with the job.json of an earlier run")
    if old is None or not missing:
        return Given(
            picks=_one_or_all(picks or ()),
            micrographs=micrographs or "",
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
        if not elsewhere:
            return text
        pattern = glob.has_magic(text) and not os.path.exists(text)
        return os.path.join(glob.escape(here) if pattern else here, text)

    return Given(
        picks=_one_or_all(map(given_here, picks)) if picks else old.picks,
        micrographs=given_here(micrographs) if micrographs else old.micrographs,
        root=old.root if root is None else given_here(str(root)),
        directory=old.directory if elsewhere else here,
    )


def masks_from(record: Mapping[str, Any], given: Given, asked: str | None, *, anew: bool) -> str | None:
    """The masks as `given.directory` sees them: named `anew` in the working directory, or in that of the record."""
    if asked is None or "inputs" not in record:
        return asked
    named_in = working_directory() if anew else Given.from_dict(record["inputs"]).directory
    if os.path.realpath(named_in) == os.path.realpath(given.directory) or os.path.isabs(asked):
        return asked
    pattern = glob.has_magic(asked) and not os.path.exists(os.path.join(named_in, asked))
    return os.path.join(glob.escape(named_in) if pattern else named_in, asked)


def _one_or_all(names: Iterable[str]) -> str | tuple[str, ...]:
    found = tuple(names)
    return found[0] if len(found) == 1 else found


def recorded_of(
    record: Mapping[str, Any],
    source: Path | None,
    picks: Sequence[str] | None,
    micrographs: str | None,
    *,
    masks: bool = True,
) -> tuple[Recorded | None, tuple[str, ...]]:
    """What the recorded run had read, as far as its files are used again (`masks`: its masks are); and warnings."""
    if source is None or (picks and micrographs):
        return None, ()
    source = source / RECORD if source.is_dir() else source
    if not isinstance(record.get("files"), dict):
        told = "does not say what that run read, so its files cannot be compared with those that are there now"
        return None, (f"{source}: {told}",)
    return Recorded(
        source=str(source), files=record["files"], picks=not picks, micrographs=not micrographs, masks=masks
    ), ()
