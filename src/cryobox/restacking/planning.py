"""Which images there are, and which stack each will be in: decided before a pixel is read."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cryobox.errors import InputError
from cryobox.folder.layout import stack_folder
from cryobox.folder.records import BITS
from cryobox.formats.mrc import Sections, compression_of, read_sections
from cryobox.groups import StoredDtype
from cryobox.paths import Start
from cryobox.restacking.asked import Asked, Making
from cryobox.restacking.pixels import Source
from cryobox.restacking.tables import TableOfImages
from cryobox.soundness.findings import Findings
from cryobox.soundness.images_of_table import ImagesOfTable

__all__ = ["Look", "Unit", "plan"]

SAME_PIXEL = 1e-5  # relative: pixel sizes of images that may lie in one stack, whose header has one


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """Rows that go into one stack (of each size): what is finished, or is not.

    Parameters
    ----------
    id : str
        Hash of what decides the pixels.
    first, stop : int
        Rows of the table.
    making : Making
    pixel_size : float
        Å per pixel of the images as they are; nan where nobody says it.
    paths : tuple of str
        Of the stacks, relative to the output folder.
    """

    id: str
    first: int
    stop: int
    making: Making
    pixel_size: float
    paths: tuple[str, ...]


class Look:
    """The rows' images, and the stacks that they are in."""

    def __init__(self, source: str, table: TableOfImages, start: Start) -> None:
        self.references = table.references()
        self.count = len(self.references.slot)
        if not self.count:
            raise InputError(f"{source}: has no rows")
        places = start.beside(Path(source))
        exported = None if table.suffix == ".star" else (Path(source).resolve().parent, *places)
        images = ImagesOfTable.of(self.references, places, exported)
        found = Findings(source)
        images.check_files(found)
        images.check_slots(found)
        for problem in found.found().problems[:1]:
            raise InputError(problem.text)
        self.stack = images.stack
        self.sections: list[Sections] = []
        self.sources: list[Source] = []
        for path in images.stacks:
            if compression_of(path):
                raise InputError(f"{path}: is compressed; unpack it first, its images are read in any order")
            sections, status = read_sections(path), os.stat(path)
            if sections.shape[1] != sections.shape[2]:
                sides = f"{sections.shape[2]} x {sections.shape[1]}"
                raise InputError(f"{path}: images of {sides} pixels; expected square ones")
            self.sections.append(sections)
            self.sources.append(
                Source(path=path, offset=sections.offset, bytes=status.st_size, mtime_ns=status.st_mtime_ns)
            )
        self.side = np.array([one.shape[1] for one in self.sections], np.int64)[self.stack]
        of_header = np.array([one.pixel_size for one in self.sections])[self.stack]
        pixel_size = np.where(self.references.pixel_size > 0, self.references.pixel_size, of_header)
        self.pixel_size = np.where((pixel_size > 0) & np.isfinite(pixel_size), pixel_size, np.nan)

    def all_float16(self) -> bool:
        """Whether all images are stored in half precision."""
        return all(one.dtype.name == "float16" for one in self.sections)


def plan(look: Look, asked: Asked) -> list[Unit]:
    """Cut the rows into stacks: at most so many images of one size and pixel size."""
    dtype: StoredDtype = "float16" if asked.float16 or look.all_float16() else "float32"
    if asked.lowpass is not None and np.isnan(look.pixel_size).any():
        raise InputError("neither the table nor a header says how many Å a pixel has, so a low-pass in Å means nothing")
    if asked.lowpass is not None and asked.lowpass < 2 * look.pixel_size.min():
        raise InputError(
            f"lowpass must be at least 2 pixels, {2 * look.pixel_size.min():.4g} Å, for images of "
            f"{look.pixel_size.min():.4g} Å per pixel; got {asked.lowpass:g}"
        )
    with np.errstate(invalid="ignore"):
        other_pixel = np.abs(np.diff(look.pixel_size)) > SAME_PIXEL * look.pixel_size[1:]
    other_pixel |= np.isnan(look.pixel_size[1:]) != np.isnan(look.pixel_size[:-1])
    breaks = np.flatnonzero((np.diff(look.side) != 0) | other_pixel) + 1
    makings = {side: asked.making(side, dtype) for side in np.unique(look.side).tolist()}
    units: list[Unit] = []
    for first, stop in zip([0, *breaks.tolist()], [*breaks.tolist(), look.count], strict=True):
        for begin in range(first, stop, asked.particles_per_stack):
            end = min(begin + asked.particles_per_stack, stop)
            making = makings[int(look.side[begin])]
            paths = tuple(f"{stack_folder(name)}/particles_{len(units) + 1:06d}.mrcs" for name in asked.names())
            units.append(
                Unit(
                    id=_identity(look, asked, dtype, begin, end, paths),
                    first=begin,
                    stop=end,
                    making=making,
                    pixel_size=float(look.pixel_size[begin]),
                    paths=paths,
                )
            )
    return units


def _identity(look: Look, asked: Asked, dtype: str, first: int, stop: int, paths: tuple[str, ...]) -> str:
    used = np.unique(look.stack[first:stop])
    files = [dataclasses.astuple(look.sources[number]) for number in used.tolist()]
    said = json.dumps([files, asked.as_dict(), dtype, paths, float(look.pixel_size[first]), BITS])
    places = np.stack([np.searchsorted(used, look.stack[first:stop]), look.references.slot[first:stop]])
    return hashlib.blake2b(said.encode() + places.astype("<i8").tobytes(), digest_size=16).hexdigest()
