"""The whole check: which kind each file is, and with tables the stacks that they name."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace

from cryobox.errors import MicrographError, MissingExtraError, OptionError
from cryobox.folder.layout import RECORD
from cryobox.formats.images import IMAGE_SUFFIXES
from cryobox.formats.opening import open_regular
from cryobox.paths import Start
from cryobox.soundness.findings import Soundness
from cryobox.soundness.image_file import check_image_file
from cryobox.soundness.table_file import check_table

__all__ = ["check_files"]

_TABLES = (".star", ".cs", ".csg")


def check_files(
    paths: Iterable[str | os.PathLike[str]], *, images: bool | None = None, start: Start | None = None
) -> Iterator[Soundness]:
    """Check files one after another.

    Parameters
    ----------
    paths : iterable of path
        Micrographs, stacks, volumes (MRC, plain or packed; TIFF), tables (`.star`, `.cs`, `.csg`).
    images : bool, optional
        Read pixels. By default those of images that are given by name, and not those of the stacks that a table names,
        of which the headers are read in any case.
    start : Start, optional
        Where relative names start; by default from the working directory.

    Yields
    ------
    Soundness
        One for each path, and with `images` one for each image file that a table names, behind that of the table. A
        file that cannot be looked at at all has `refused`.
    """
    start = start or Start.here()
    done: set[str] = set()
    for given in paths:
        path = os.fspath(given)
        whole = start.whole(path)
        if why := _why_not(whole, path):
            yield Soundness(path=path, refused=why)
            continue
        if not path.lower().endswith(_TABLES):
            done.add(os.path.realpath(whole))
            yield _told(_image_file(whole, pixels=images is not False), start)
            continue
        try:
            found, files = check_table(whole, start=start)
        except (MissingExtraError, OptionError) as error:
            yield _told(Soundness(path=whole, refused=str(error)), start)
            continue
        yield _told(found, start)
        for file in files if images else ():
            if (real := os.path.realpath(file)) not in done:
                done.add(real)
                yield _told(_image_file(file, stack=found.kind == "particles"), start)


def _image_file(path: str, *, pixels: bool = True, stack: bool = False) -> Soundness:
    try:
        return check_image_file(path, pixels=pixels, stack=stack)
    except MissingExtraError as error:
        return Soundness(path=path, refused=str(error))


def _why_not(whole: str, path: str) -> str:
    """Why a file cannot be checked at all; "" if it can."""
    if os.path.isdir(whole):
        if os.path.exists(os.path.join(whole, RECORD)):
            return f"{path}: is the output folder of a run; cryobox verify {path} checks it"
        return f"{path}: is a folder, expected files; name them: {os.path.join(path, '*.mrcs')}"
    if not path.lower().endswith((*IMAGE_SUFFIXES, *_TABLES)):
        return (
            f"{path}: not a kind of file that is checked; expected a name in {', '.join((*IMAGE_SUFFIXES, *_TABLES))}"
        )
    try:
        with open_regular(whole):
            return ""
    except MicrographError as error:
        return str(error).replace(whole, path, 1)


def _told(found: Soundness, start: Start) -> Soundness:
    """The same with paths as they were given."""
    problems = tuple(replace(problem, text=start.told(problem.text)) for problem in found.problems)
    return replace(found, path=start.told(found.path), problems=problems, refused=start.told(found.refused))
