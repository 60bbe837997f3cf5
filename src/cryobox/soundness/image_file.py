"""One image file: its header against its length and its pixels, and every image of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from cryobox.errors import InputError
from cryobox.formats.images import PixelReader, is_tiff, read_header
from cryobox.formats.mrc import Sections, read_sections
from cryobox.formats.pixel_blocks import PixelBlocks
from cryobox.soundness.findings import Fault, Findings, Soundness
from cryobox.soundness.judging import judge_images, judge_normalization, judge_statistics
from cryobox.soundness.measures import Measures, joined, measure, merged, parts_of_image, whole_images

__all__ = ["check_image_file"]

_STACK_NAMES = (".mrcs", ".mrcs.gz", ".mrcs.bz2")
_SHOWN_COPIES = 10


def check_image_file(path: str, *, pixels: bool = True, stack: bool = False) -> Soundness:
    """Check one micrograph, stack or volume.

    Parameters
    ----------
    path : str
    pixels : bool
        Read the pixels, too, and not the header alone.
    stack : bool
        A table names images of it, so that it is a stack whatever its header says.

    Raises
    ------
    MissingExtraError
        If the file is TIFF and tifffile, or the codec, is not there.
    """
    found = Findings(path)
    try:
        if is_tiff(path):
            _check_tiff(found, pixels=pixels)
        else:
            _check_mrc(found, pixels=pixels, stack=stack)
    except InputError as error:
        found.add_error(error)
    return found.found()


def _check_tiff(found: Findings, *, pixels: bool) -> None:
    header = read_header(found.path)
    ny, nx = header.shape
    found.kind, found.about = "micrograph", f"micrograph of {ny} x {nx} {header.dtype.name}"
    found.counts = {"images": 1, "ny": ny, "nx": nx}
    if pixels:
        image = PixelReader().read(found.path, header)
        measures = measure(image.reshape(-1).view(np.uint8), header.dtype, image.nbytes)
        _judge(found, measures, header.dtype, None)


def _check_mrc(found: Findings, *, pixels: bool, stack: bool) -> None:
    sections = read_sections(found.path, any_length=True)
    n, ny, nx = sections.shape
    found.kind = _kind(found.path, sections, stack=stack)
    found.about = _about(found.kind, sections)
    found.counts = {"images": n, "ny": ny, "nx": nx}
    found.notes += [text.removeprefix(f"{found.path}: ") for text in sections.warnings]
    blocks = PixelBlocks(found.path, sections)
    there = _images_there(found, sections, blocks.image_bytes)
    if not pixels or not there:
        return
    measures = _measured(found, blocks, there)
    if blocks.longer:
        found.add(Fault.LENGTH, "inflated file is longer than its header says; written or copied wrongly?")
    if measures is None:
        return
    _judge(found, measures, sections.dtype, sections)
    if found.kind == "stack":
        _find_copies(found, blocks, measures)


def _kind(path: str, sections: Sections, *, stack: bool) -> str:
    if stack or path.lower().endswith(_STACK_NAMES):
        return "stack"
    if sections.shape[0] == 1:
        return "micrograph"
    return "stack" if sections.space_group < 1 else "volume"


def _about(kind: str, sections: Sections) -> str:
    n, ny, nx = sections.shape
    pixel = f", {sections.pixel_size:.5g} Å per pixel" if sections.pixel_size > 0 else ""
    many = {"micrograph": "", "stack": f"{n} image{'s' if n > 1 else ''} of "}.get(kind, f"{n} x ")
    return f"{kind} of {many}{ny} x {nx} {sections.dtype.name}{pixel}"


def _images_there(found: Findings, sections: Sections, image_bytes: int) -> int:
    """How many images a file holds whole; a length that is not its header's is told."""
    n = sections.shape[0]
    if sections.surplus > 0:
        found.add(
            Fault.LENGTH,
            f"file is {sections.surplus} bytes longer than its header says; written or copied wrongly?",
        )
    if sections.surplus >= 0:
        return n
    promised = n * image_bytes
    held = promised + sections.surplus
    there = max(held, 0) // image_bytes
    lost = f"; images {there + 1} to {n} are not there" if found.kind == "stack" else ""
    shape = " x ".join(map(str, sections.shape if n > 1 else sections.shape[1:]))
    found.add(
        Fault.LENGTH,
        f"header promises {shape} {sections.dtype.name} ({promised} bytes), file holds {max(held, 0)}; copied "
        f"incompletely?{lost}",
    )
    return there


def _measured(found: Findings, blocks: PixelBlocks, count: int) -> Measures | None:
    """The measures of the first `count` images, or of those before the first damage, which is told."""
    size, dtype = blocks.image_bytes, blocks.sections.dtype
    together = whole_images(size)
    some: list[Measures] = []
    damage = None
    try:
        if together:
            wanted = (min(together, count - first) * size for first in range(0, count, together))
            cut = (block[: len(block) // size * size] for block in blocks.read(wanted))
            some.extend(measure(block, dtype, size) for block in cut if len(block))
        else:
            some.extend(_measured_in_parts(blocks, count))
    except InputError as error:
        damage = error
    done = sum(map(len, some))
    if damage is not None:
        found.add_error(damage)
    elif done < count:
        lost = f"images {done + 1} to {count} are not there; " if count > 1 else ""
        found.add(Fault.LENGTH, f"ends before its last pixel; {lost}copied incompletely?")
    return joined(some) if some else None


def _measured_in_parts(blocks: PixelBlocks, count: int) -> Iterator[Measures]:
    """Image after image, where one is larger than what is held in memory."""
    size, dtype = blocks.image_bytes, blocks.sections.dtype
    parts: list[Measures] = []
    done = 0
    for block in blocks.read(part for _ in range(count) for part in parts_of_image(size)):
        if len(block) % dtype.itemsize:
            return
        parts.append(measure(block, dtype, len(block)))
        done += len(block)
        if done == size:
            yield merged(parts)
            parts, done = [], 0


def _judge(found: Findings, measures: Measures, dtype: np.dtype[np.generic], sections: Sections | None) -> None:
    """What the measures of the images say; `sections` is the header, where it has statistics."""
    judge_images(found, measures, dtype)
    good = np.isfinite(measures.mean)
    found.counts["checked"] = len(measures)
    if not good.any():
        return
    ranges = {"mean": measures.mean[good], "sd": measures.sd[good]}
    found.counts |= {
        f"{name}_{end}": float(getattr(np, end)(of)) for name, of in ranges.items() for end in ("min", "max")
    }
    if found.kind == "stack":
        found.about += ", " + ", ".join(f"{name}s {_range(of)}" for name, of in ranges.items())
        judge_normalization(found, measures)
    damaged = any(problem.fault is Fault.DAMAGED for problem in found.problems)
    if sections is not None and len(measures) == sections.shape[0] and good.all() and not damaged:
        judge_statistics(found, measures, sections)


def _range(values: NDArray[np.float64]) -> str:
    return f"{values.min():.4g} to {values.max():.4g}"


def _find_copies(found: Findings, blocks: PixelBlocks, measures: Measures) -> None:
    """Images of equal bytes. Only those whose sums are equal are read again; constant ones are told of already."""
    constant = measures.minimum == measures.maximum
    _, inverse, counts = np.unique(measures.total, return_inverse=True, return_counts=True)
    again = np.flatnonzero((counts[inverse] > 1) & ~constant).tolist()
    if not again:
        return
    first: dict[bytes, int] = {}
    copies: dict[int, int] = {}
    try:
        for number, image in zip(again, blocks.images(again), strict=True):
            before = first.setdefault(hashlib.sha256(image).digest(), number)
            if before != number:
                copies[number + 1] = before + 1
    except InputError as error:
        found.add_error(error)
    if copies:
        found.add(Fault.DUPLICATE, f"{_told_copies(copies, len(measures))}; written twice?", list(copies))


def _told_copies(copies: dict[int, int], count: int) -> str:
    some = ", ".join(f"{copy} = {of}" for copy, of in list(copies.items())[:_SHOWN_COPIES])
    more = f" and {len(copies) - _SHOWN_COPIES} more" if len(copies) > _SHOWN_COPIES else ""
    verb = "is a copy" if len(copies) == 1 else "are copies"
    return f"{len(copies)} of {count} images {verb} of another, byte by byte: {some}{more}"
