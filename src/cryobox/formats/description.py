"""What a file or folder is, in a few lines: for `cryobox info`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryobox.errors import InputError
from cryobox.folder.layout import RECORD

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cryobox.formats.mrc import Sections
    from cryobox.particles import Particles

__all__ = ["describe_file"]

SHOWN_COLUMNS = 200
_COUNTS = (("picks", "picks"), ("extracted", "extracted"), ("micrographs", "micrographs"))
_STACK_SUFFIXES = (".mrcs", ".mrcs.gz", ".mrcs.bz2")
_BLANK = 4096  # bytes
_STACKED_VOLUMES = 401  # space group of MRC2014 for several volumes in one file


def describe_file(path: Path) -> list[str]:
    """Return lines that say what `path` is.

    Raises
    ------
    InputError
        If it is none of the kinds that cryobox reads, or damaged.
    """
    name = path.name.lower()
    if os.path.isdir(path):
        return _describe_folder(path)
    if not os.path.exists(path):
        raise InputError(f"{path}: no such file")
    if name.endswith((".cs", ".csg")):
        return _describe_cs(path)
    if name.endswith(".star"):
        return _describe_star(path)
    if name.endswith(".json"):
        return _describe_json(path)
    return _describe_other(path)


def _describe_other(path: Path) -> list[str]:
    from cryobox.formats import COORDINATE_SUFFIXES
    from cryobox.formats.images import IMAGE_SUFFIXES

    if path.name.lower().endswith(IMAGE_SUFFIXES):
        return _describe_image(path)
    try:
        return [_describe_picks(path, _read_picks(path))]
    except InputError as error:
        if lines := _describe_helices(path):
            return lines
        if path.suffix.lower() in COORDINATE_SUFFIXES:
            raise
        movie = "; an EER movie must be motion-corrected first" if path.suffix.lower() == ".eer" else ""
        raise InputError(f"{error}; or an image: {', '.join(IMAGE_SUFFIXES)}{movie}") from None


def _describe_image(path: Path) -> list[str]:
    from cryobox.formats.images import is_tiff, read_header
    from cryobox.formats.mrc import read_sections

    try:
        header = read_header(str(path))
    except InputError:
        if is_tiff(str(path)):
            raise
        sections = read_sections(str(path))  # and where that is no MRC file either, its error says why
        what = _sections(path, sections)
        return _image_lines(path, what, sections.dtype, sections.pixel_size, sections.warnings, "")
    ny, nx = header.shape
    kind = "stack of 1 image" if path.name.lower().endswith(_STACK_SUFFIXES) else "micrograph"
    size = f", {header.file_size} bytes"
    return _image_lines(
        path, f"{kind} of {ny} x {nx} pixels (ny x nx)", header.dtype, header.pixel_size, header.warnings, size
    )


def _image_lines(
    path: Path, what: str, dtype: np.dtype[Any], pixel_size: float, warnings: tuple[str, ...], more: str
) -> list[str]:
    order = " (big-endian)" if dtype.byteorder == ">" else ""
    first = f"{path}: {what}, {dtype.name}{order}, {_angstrom(pixel_size)}{more}"
    return [first, *(f"  warning: {warning}" for warning in warnings)]


def _sections(path: Path, header: Sections) -> str:
    """A stack, a volume or several of these: the space group says which."""
    nz, ny, nx = header.shape
    if header.space_group < 1 or path.name.lower().endswith(_STACK_SUFFIXES):
        return f"stack of {nz} images of {ny} x {nx} pixels (ny x nx)"
    each = header.volume_sections
    if header.space_group >= _STACKED_VOLUMES and 1 <= each < nz and nz % each == 0:
        return f"stack of {nz // each} volumes of {each} x {ny} x {nx} pixels (nz x ny x nx)"
    return f"volume of {nz} x {ny} x {nx} pixels (nz x ny x nx)"


def _angstrom(pixel_size: float) -> str:
    return f"{pixel_size:.5g} Å per pixel" if pixel_size > 0 else "no pixel size"


def _describe_cs(path: Path) -> list[str]:
    from cryobox.formats.cs_table import read_table
    from cryobox.formats.csg import read_group

    table = read_group(path)[0] if path.suffix.lower() == ".csg" else read_table(path)
    fields = table.dtype.names or ()
    kind = "group" if path.suffix.lower() == ".csg" else "table"
    lines = [f"{path}: CryoSPARC {kind} of {len(table)} rows, {len(fields)} fields"]
    for name in fields[:SHOWN_COLUMNS]:
        dtype = table.dtype[name]
        lines.append(f"  {name}: {dtype.base.str}{list(dtype.shape) or ''}")
    return lines


def _describe_star(path: Path) -> list[str]:
    from cryobox.formats.folders import coordinate_suffix_of
    from cryobox.formats.star_table import read_blocks

    if _is_blank(path):
        return [f"{path}: empty file: no picks"]
    if coordinate_suffix_of(path) is not None:
        return [_describe_picks(path, _read_picks(path))]
    blocks = read_blocks(path, may_be_empty=True)
    if not blocks:
        return [f"{path}: comments alone: no picks"]
    lines = [f"{path}: STAR file of {len(blocks)} blocks"]
    for name, block in blocks.items():
        table = block.table()
        lines.append(f"  data_{name}: {len(table)} rows, {len(table.tags)} columns")
        lines += [f"    {tag}" for tag in table.tags[:SHOWN_COLUMNS]]
    return lines


def _is_blank(path: Path) -> bool:
    """Whether a file holds blanks at most; RELION writes 0 bytes where it found no picks."""
    try:
        with path.open("rb") as file:
            return not file.read(_BLANK).strip() and not file.read(1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error


def _read_picks(path: Path) -> Particles:
    """Picks as `extract` reads them, of a file or a folder."""
    from cryobox.formats import read_particles
    from cryobox.options import Recipe

    return read_particles(path, recipe=Recipe(box=256))  # the box has no part in reading


def _describe_picks(path: Path, picks: Particles) -> str:
    where = len(picks.micrograph_names)
    line = f"{path}: {len(picks)} picks"
    if where != 1:
        line += f" on {where} micrographs"
    if len(picks):
        line += f", x {_range(picks.x)}, y {_range(picks.y)}"
    if picks.score is not None and len(picks):
        line += f", scores {_range(picks.score)}"
    return line


def _describe_helices(path: Path) -> list[str]:
    """What a file of helices holds that gives no particles by itself: ends, or segments; nothing where it is none."""
    import numpy as np

    from cryobox.formats.helix_files import TRACED_SUFFIXES, read_traced

    if path.suffix.lower() not in TRACED_SUFFIXES:
        return []
    lines = []
    for helix, what in (("segments", "segments"), ("ends", "ends")):
        try:
            found = read_traced(path, helix)  # type: ignore[arg-type]
        except InputError:
            continue
        if found is not None and len(found[0]):
            count = len(np.unique(found[3].tube))
            lines.append(f"{path}: {len(found[0])} {what} of {count} helices: --helix {helix}")
    return lines


def _range(values: NDArray[np.float64]) -> str:
    import numpy as np

    finite = values[np.isfinite(values)]
    if not len(finite):
        return "without a finite number"
    odd = len(values) - len(finite)
    return f"from {finite.min():g} to {finite.max():g}" + (f" ({odd} not finite)" if odd else "")


def _describe_folder(folder: Path) -> list[str]:
    """A finished run, a folder of picks or one of micrographs."""
    try:
        os.scandir(folder).close()
    except OSError as error:
        raise InputError(f"{folder}: cannot be read: {error.strerror or error}") from error
    try:
        return _describe_run(folder, folder / RECORD)
    except InputError:  # none there, or CryoSPARC's, which has the same name
        return _describe_contents(folder)


def _describe_contents(folder: Path) -> list[str]:
    from cryobox.formats import read_micrographs

    try:
        found = read_micrographs(folder)
        lines = [f"{folder}: {len(found)} micrographs, from {found.names[0]} to {found.names[-1]}"]
    except InputError:
        lines = []
    try:
        return [_describe_picks(folder, _read_picks(folder)), *lines]
    except InputError as error:
        if lines:  # motion correction leaves STAR files beside its micrographs, which are no picks
            return lines
        raise InputError(f"{error}; it holds no micrographs and no {RECORD} of a finished run, either") from error


def _describe_json(path: Path) -> list[str]:
    """The record of a run, whatever it is called, or EMAN2's picks."""
    try:
        return _describe_run(path, path)
    except InputError:
        if path.name.lower() == RECORD:
            raise
        return [_describe_picks(path, _read_picks(path))]


def _describe_run(path: Path, record: Path) -> list[str]:
    """A run by its record, of which nothing is believed: `cryobox verify` checks it."""
    try:
        job = json.loads(record.read_bytes())
        recipe = job["recipe"]
        sizes = " and ".join(str(int(size)) for size in recipe["sizes"])
        counts = ", ".join(f"{int(job[key])} {word}" for key, word in _COUNTS)
        lines = [f"{path}: finished run of cryobox {job['cryobox']}: {counts}"]
        if "noise" in job:
            lines.append(f"  {int(job['noise'])} boxes of noise, in tables of their own")
        lines.append(f"  box {int(recipe['box'])} pixels, stored as {sizes}, {recipe['dtype']}")
        lines += [f"  {int(count)} rejected: {reason}" for reason, count in job["rejected"].items()]
        lines += [f"  table {table}" for table in job["tables"]]
        if job["incomplete"]:
            lines.append(f"  {len(job['incomplete'])} micrographs incomplete")
    except OSError as error:
        raise InputError(f"{record}: cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{record}: not the {RECORD} of a finished run: {reason}") from error
    return lines
