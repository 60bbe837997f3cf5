"""Pictures of what a user names: particles of a run, a table or stacks, or a micrograph with its picks."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryobox.bounds import check_integer, check_number
from cryobox.comparison.sides import SUFFIXES, read_side
from cryobox.errors import InputError, OptionError, OutputError
from cryobox.formats.images import read_header
from cryobox.formats.mrc import read_images, read_stack_header
from cryobox.given import Given
from cryobox.inputs import prepare
from cryobox.options import Recipe
from cryobox.particles import Particles
from cryobox.paths import Start
from cryobox.reporting.drawing import enlarged, levels, with_label, with_rings
from cryobox.reporting.pictures import encode_png, read_thumbnail, sheet_of, spread
from cryobox.reporting.smoothing import flattened, lowpassed

__all__ = ["Look", "draw_in_terminal", "write_picture"]

Floats = NDArray[np.float32]
Gray = NDArray[np.uint8]

MICROGRAPH_SIDE = 1000  # pixels of a micrograph that is shown whole
LEGIBLE = 120  # smaller images are shown with larger pixels
LARGEST_PICTURE = 2**28  # pixels
RING = 0.03  # of the longer side: the diameter of a ring, where none is given
STACKS = (".mrcs", ".mrc")
IN_TERMINAL = 12  # images


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """How images are shown.

    Parameters
    ----------
    count : int
        Images, evenly spread; of a sort the first ones.
    lowpass : float
        Å; 0: none.
    contrast : float
        Percent of the pixels that become black, and white.
    enlarge : int, optional
        Sides of a pixel. Default: so that small images can be seen.
    labels : bool
        The row, or number, of each image below it, and what it was sorted by.
    sort : str, optional
        "score", a tag of STAR or a field of `.cs`: the highest first; with - before it the lowest.
    picks : path, optional
        A table, or a folder, of picks: those of the micrograph are drawn as rings.
    diameter : float, optional
        Of the rings, in Å.
    pixel_size : float, optional
        Å per pixel of a file whose header does not say it.
    """

    count: int = 40
    lowpass: float = 20.0
    contrast: float = 0.5
    enlarge: int | None = None
    labels: bool = False
    sort: str | None = None
    picks: str | None = None
    diameter: float | None = None
    pixel_size: float | None = None

    def __post_init__(self) -> None:
        check_integer("images", self.count, 1, 10_000, " image")
        for name, value, highest in (("lowpass", self.lowpass, 1e4), ("contrast", self.contrast, 49.0)):
            if not 0 <= check_number(name, value) <= highest:
                raise OptionError(f"{name} must be from 0 to {highest:g}; got {value:g}")
        if self.enlarge is not None:
            check_integer("enlarge", self.enlarge, 1, 100, " times")
        if self.diameter is not None and not check_number("diameter", self.diameter) > 0:
            raise OptionError(f"diameter must be above 0 Å; got {self.diameter:g}")
        if self.pixel_size is not None and not check_number("pixel_size", self.pixel_size) > 0:
            raise OptionError(f"pixel_size must be above 0 Å; got {self.pixel_size:g}")
        if self.diameter is not None and self.picks is None:
            raise OptionError("--diameter is that of the rings of --picks; give both, or neither")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shown:
    """Images of one size, ready to be drawn."""

    images: Floats
    labels: tuple[str, ...]
    what: str
    pixel_size: float
    rings: tuple[tuple[float, float], ...] = ()
    radius: float = 0.0


def write_picture(sources: Sequence[Path], out: Path, look: Look, root: Path | None = None) -> str:
    """Write a PNG of images. Returns a sentence that says what it shows.

    Raises
    ------
    InputError, OptionError, OutputError
    """
    shown = _chosen(sources, look, MICROGRAPH_SIDE, Start.here(root))
    factor = look.enlarge or max(1, math.ceil(LEGIBLE / min(shown.images.shape[1:])))
    if shown.images.size * factor**2 > LARGEST_PICTURE:
        raise OptionError(f"{out}: would have more than {LARGEST_PICTURE} pixels; show fewer images, or enlarge less")
    drawn = [enlarged(levels(image, look.contrast), factor) for image in shown.images]
    if look.labels:
        drawn = [with_label(one, text) for one, text in zip(drawn, shown.labels, strict=True)]
    if look.picks is not None:
        at = [(y * factor, x * factor) for y, x in shown.rings]
        sheet = with_rings(drawn[0], at, shown.radius * factor)
    else:
        sheet = sheet_of(np.stack(drawn), _columns(len(drawn))) if len(drawn) > 1 else drawn[0]
    try:
        out.write_bytes(encode_png(sheet))
    except OSError as error:
        raise OutputError(f"{out}: cannot be written: {error.strerror}") from error
    done = f"{out}: {shown.what}, {sheet.shape[1]} x {sheet.shape[0]} pixels"
    return done + _told(shown, look) + (f", each pixel {factor} times as large" if factor > 1 else "")


def draw_in_terminal(sources: Sequence[Path], look: Look, *, color: bool, root: Path | None = None) -> Iterator[str]:
    """Lines that show images: two pixels a character, in 24 grays, or as plain characters.

    Raises
    ------
    InputError, OptionError
    """
    columns, _ = shutil.get_terminal_size((80, 24))
    if look.picks is not None:
        raise OptionError("--picks draws rings that a terminal is too coarse for; write a picture with --out")
    few = replace(look, count=min(look.count, IN_TERMINAL))
    shown = _chosen(sources, few, max(columns, MICROGRAPH_SIDE), Start.here(root))
    across = min(len(shown.images), 4 if columns >= 100 else 3)
    side = columns if across == 1 else max(8, columns // across - 1)
    drawn = np.stack([levels(_shrunk(image, side), look.contrast) for image in shown.images])
    sheet = sheet_of(drawn, across) if len(drawn) > 1 else drawn[0]
    if len(sheet) % 2:
        sheet = np.vstack([sheet, sheet[-1:]])
    if not color:
        ramp = " .:-=+*#%@"
        for row in sheet[::2]:
            yield "".join(ramp[level * len(ramp) // 256] for level in row.tolist())
        return
    shade = 232 + sheet.astype(np.intp) * 24 // 256
    for top, bottom in zip(shade[::2].tolist(), shade[1::2].tolist(), strict=True):
        cells = (f"\x1b[38;5;{a};48;5;{b}m▀" for a, b in zip(top, bottom, strict=True))
        yield "".join(cells) + "\x1b[0m"


def _told(shown: _Shown, look: Look) -> str:
    if not look.lowpass:
        return ""
    if not shown.pixel_size > 0:
        return ", not low-passed, since nothing says how many Å a pixel has"
    return f", low-passed to {look.lowpass:g} Å" if 2 * shown.pixel_size < look.lowpass else ""


def _columns(count: int) -> int:
    return min(count, max(1, math.ceil(math.sqrt(count * 1.6))))


# What is shown -------------------------------------------------------------------------------------------------------


def _chosen(sources: Sequence[Path], look: Look, side: int, start: Start) -> _Shown:
    """The images that were named, low-passed."""
    paths = [Path(start.whole(path)) for path in sources]
    tables = [path for path in paths if path.is_dir() or path.suffix.lower() in SUFFIXES]
    if tables and len(paths) > 1:
        raise InputError(f"{tables[0]}: one folder or table is shown at a time; several sources must be stacks")
    if not paths[0].exists():
        raise InputError(f"{paths[0]}: no such file")
    if not tables and len(paths) == 1 and (look.picks is not None or _is_micrograph(paths[0])):
        return _micrograph(paths[0], look, side, start)
    if look.picks is not None:
        raise OptionError(f"{paths[0]}: --picks are drawn on a micrograph; name one")
    stacks = _stacks_below(paths[0]) if tables else paths
    shown = _of_stacks(stacks, look) if stacks else _of_table(paths[0], look, start)
    if not look.lowpass or not shown.pixel_size > 0:
        return shown
    return replace(shown, images=np.stack([lowpassed(one, shown.pixel_size, look.lowpass) for one in shown.images]))


def _is_micrograph(path: Path) -> bool:
    """Whether a file is one image that is no particle: of TIFF, large, or not square."""
    try:
        count, ny, nx = read_stack_header(str(path))[0]
    except InputError:
        read_header(str(path))  # its error says what is wrong with the file, where it is none
        return True
    return count <= 1 and (ny != nx or ny > MICROGRAPH_SIDE)


def _stacks_below(folder: Path) -> list[Path]:
    """The stacks of a folder that has no table of particles: of a run that goes on, or just of stacks."""
    if not folder.is_dir() or any((folder / f"particles{suffix}").exists() for suffix in SUFFIXES):
        return []
    for place in (folder / "stacks", folder):
        found = sorted(path for path in place.glob("*") if path.suffix.lower() in STACKS and path.is_file())
        if found and not _is_micrograph(found[0]):
            return found
    return []


def _of_stacks(paths: Sequence[Path], look: Look) -> _Shown:
    if look.sort is not None:
        raise OptionError(f"{paths[0]}: a stack has nothing to be sorted by; name a table with --sort {look.sort}")
    headers = [read_stack_header(str(path)) for path in paths]
    until = np.cumsum([shape[0] for shape, *_ in headers])
    sizes = {shape[1:] for shape, *_ in headers}
    if len(sizes) > 1:
        listed = " and ".join(f"{ny} x {nx}" for ny, nx in sorted(sizes)[:3])
        raise InputError(f"{paths[0]} and others: hold images of {listed} pixels; view stacks of one size at a time")
    chosen = spread(int(until[-1]), look.count)
    of = np.searchsorted(until, chosen, side="right")
    numbers = chosen - np.concatenate([[0], until])[of]
    images = [read_images(paths[number], numbers[of == number]) for number in np.unique(of).tolist()]
    name = str(paths[0]) if len(paths) == 1 else f"{len(paths)} stacks"
    return _Shown(
        images=np.concatenate(images),
        labels=tuple(map(str, (numbers + 1).tolist())),
        what=f"{len(chosen)} images of {name}",
        pixel_size=_known(headers[0][3], look),
    )


def _of_table(path: Path, look: Look, start: Start) -> _Shown:
    side = read_side(path, start)
    references = side.references
    if references is None or not len(side):
        raise InputError(f"{side.table}: names no images; to see picks, view their micrograph with --picks")
    if look.sort is None:
        chosen, labels = spread(len(side), look.count), None
    else:
        values = _values(side.particles, look.sort.removeprefix("-"), side.table)
        known = np.flatnonzero(np.isfinite(values))
        signed = values[known] if look.sort.startswith("-") else -values[known]
        chosen = known[np.argsort(signed, kind="stable")][: look.count]
        labels = [f"{row + 1} {values[row]:.4g}" for row in chosen.tolist()]
        if not len(chosen):
            raise InputError(f"{side.table}: no row has a number for --sort {look.sort}")
    if len(sizes := set(references.size[chosen].tolist())) > 1:
        raise InputError(f"{side.table}: has images of {sorted(sizes)} pixels; view stacks of one size at a time")
    images = [
        read_images(side.stacks[side.stack[row]], np.array([side.slot[row]], np.intp))[0] for row in chosen.tolist()
    ]
    pixel_size = references.pixel_size[chosen]
    return _Shown(
        images=np.stack(images),
        labels=tuple(labels or map(str, (chosen + 1).tolist())),
        what=f"{len(chosen)} images of {side.table}",
        pixel_size=float(pixel_size[0]) if len(pixel_size) else math.nan,
    )


def _values(particles: Particles, name: str, table: str) -> NDArray[np.float64]:
    """A number for each row, by "score" or the name of a column."""
    if name == "score" and particles.score is not None:
        return particles.score
    if particles.family == "star":
        columns, tag = particles.table.table, name if name.startswith("_") else f"_{name}"
        if tag in columns:
            values: NDArray[np.float64] = columns.floats(tag)
            return values
    elif name in (particles.table.dtype.names or ()):
        field = particles.table[name]
        if field.ndim == 1 and field.dtype.kind in "iuf":
            return np.asarray(field, np.float64)
    what = "no scores" if name == "score" else f"no column {name} of numbers"
    raise InputError(f"{table}: has {what}, so --sort {name} cannot be used")


def _micrograph(path: Path, look: Look, side: int, start: Start) -> _Shown:
    header = read_header(str(path))
    if look.sort is not None or look.labels:
        raise OptionError(f"{path}: --sort and --labels are for particles; leave them out")
    image, factor = read_thumbnail(str(path), side)
    image, per_pixel = flattened(image), _known(header.pixel_size, look)
    pixel_size = per_pixel * factor
    if look.lowpass and pixel_size > 0:
        image = lowpassed(image, pixel_size, look.lowpass)
    shown = _Shown(images=image[None], labels=("",), what=f"1 image of {path}", pixel_size=pixel_size)
    if look.picks is None:
        return shown
    centers = _picks_on(path, look.picks, header.pixel_size, look.pixel_size or 1.0, start)
    if look.diameter is not None and not pixel_size > 0:
        raise OptionError(f"{path}: its header does not say how many Å a pixel has; give --pixel-size, for --diameter")
    diameter = RING * max(image.shape) if look.diameter is None else look.diameter / pixel_size
    rings = tuple((y / factor, x / factor) for y, x in centers)
    what = f"{path} with {len(rings)} picks of {look.picks}"
    return replace(shown, what=what, rings=rings, radius=diameter / 2)


def _known(pixel_size: float, look: Look) -> float:
    """What a header says, else what was given."""
    return pixel_size if pixel_size > 0 else (look.pixel_size or math.nan)


def _picks_on(path: Path, picks: str, pixel_size: float, otherwise: float, start: Start) -> list[tuple[int, int]]:
    """Where the picks of a micrograph lie, as a run of ours finds them."""
    given = Given.of(picks, path, start.root)
    recipe = Recipe(box=2, normalize=False, edges="pad", pixel_size=None if pixel_size > 0 else otherwise)
    plan = prepare(given, recipe=recipe).plan
    placed = plan.work.rows[plan.micrograph[plan.work.rows] == 0]
    return [(int(y), int(x)) for y, x in plan.places.center[placed].tolist()]


def _shrunk(image: Floats, side: int) -> Floats:
    """Bin an image so that its longer side has at most `side` pixels."""
    factor = max(1, math.ceil(max(image.shape) / side))
    ny, nx = (extent // factor * factor for extent in image.shape)
    blocks = image[:ny, :nx].reshape(ny // factor, factor, nx // factor, factor)
    binned: Floats = blocks.mean(axis=(1, 3), dtype=np.float32)
    return binned
