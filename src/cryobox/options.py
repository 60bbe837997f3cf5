"""What a user can ask for: `Recipe` (what is made), `RunOptions` (how the work is run). All defaults live here."""

from __future__ import annotations

import dataclasses
import itertools
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Self

from cryobox.bounds import (
    DIVISORS,
    LARGEST_BOX,
    MOST_MICROGRAPHS,
    MOST_WORKERS,
    PIXEL_SIZES,
    SCALES,
    check_choice,
    check_integer,
    check_number,
    check_part_of_a_name,
    check_positive,
    check_seconds,
    check_shard,
    check_threads,
    check_types,
)
from cryobox.boxes import check_even
from cryobox.declared import CLUSTERS, IMAGES, POSITIONS, RUNNING, TABLES, option
from cryobox.errors import InputError, OptionError

__all__ = [
    "DEFAULT_BACKGROUND_FRACTION",
    "Edges",
    "Recipe",
    "RecenterFrom",
    "Rounding",
    "RunOptions",
    "Steps",
    "StoredDtype",
    "StoredSize",
    "Style",
    "default_background_radius",
]

Edges = Literal["reject", "pad"]
Rounding = Literal["truncate", "nearest"]
RecenterFrom = Literal["auto", "3d", "2d"]
Style = Literal["relion", "cryosparc"]
StoredDtype = Literal["float32", "float16"]

DEFAULT_BACKGROUND_FRACTION = 0.375  # of the image's side; RELION's default (docs/conventions.md)


def default_background_radius(size: int) -> int:
    """Radius in pixels beyond which a pixel of an image of side `size` is background: int(0.375 * size)."""
    return int(DEFAULT_BACKGROUND_FRACTION * size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """What is done to the pixels of every image, all decided: what the core and its twin in `reference` are told.

    Parameters
    ----------
    normalize, ramp, invert, scale_const
        As in `Recipe`.
    """

    normalize: bool
    ramp: bool
    invert: bool
    scale_const: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSize:
    """One of the sizes that a recipe stores.

    Parameters
    ----------
    name : str
        What tells its stacks and table apart: "" for the first, "small" for the second, else its side.
    size : int
        Side in pixels.
    dtype : {"float32", "float16"}
    """

    name: str
    size: int
    dtype: StoredDtype


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What is made of the picks. Two runs with equal recipes on equal inputs make equal bytes.

    Parameters
    ----------
    box : int
        Side of the window in the micrograph, in pixels. Even.
    sizes : int or tuple of int
        Sides of the stored images in pixels, largest first; afterwards always a tuple. Even, each at most `box`; made
        by Fourier cropping. Empty means `(box,)`. Stacks and tables of the second are called "small", those of others
        by their size.
    dtype : {"float32", "float16"}
        Type of the stored pixels.
    also : tuple of (int, {"float32", "float16"})
        Further sizes, below the first, each with a type of its own; called by their size.
    normalize, ramp : bool
        Subtract the least-squares plane of the background (`ramp`), then its mean, and divide by its standard
        deviation. Without `normalize` gray levels stay as they are and `ramp` is ignored.
    invert : bool, optional
        Multiply by -1, so that particles are white. Default: as `style` wants (relion True, cryosparc False).
    background_radius : float, optional
        Pixels of the first (largest) stored image; scaled for the others. Default int(0.375 * size) of each.
    background_diameter_angstrom : float, optional
        The same as a diameter in Å; not together with `background_radius`.
    scale_const : float, optional
        Divide by this number instead of each particle's own background standard deviation.
    edges : {"reject", "pad"}
        What becomes of a box that hangs over the edge of the micrograph: left out, or filled with the nearest pixel.
    recenter : bool
        Move the box by the shifts of an earlier alignment, where the table has them.
    recenter_from : {"auto", "3d", "2d"}
        Which alignment moves the box; "auto" prefers 3D.
    rounding : {"truncate", "nearest"}
        How a fractional pick becomes a pixel; "nearest" concerns only picks without alignments.
    style : {"relion", "cryosparc"}, optional
        Contrast, names and tables of the output. Default: the family of the picks' table.
    min_score : float, optional
        Picks with a lower score are rejected.
    min_separation_angstrom : float, optional
        Of picks closer than this, the best scored stays.
    flip_x, flip_y : bool
        The picks were made on a mirrored copy: x -> nx - 1 - x, y -> ny - 1 - y. Pixels are never mirrored.
    limit : int, optional
        Use only the first so many micrographs that have picks.
    refresh_ctf : bool
        Take all CTF values, optics included, from the micrographs' table even where the picks have their own.
    ctf_average : bool
        Let `refresh_ctf` replace local defocus values by the average of a micrograph whose CTF is a spline (CryoSPARC's
        Patch CTF).
    drop_alignments : bool
        Leave out orientations, shifts and priors of the picks; nothing is recentered.
    pixel_size : float, optional
        Å per pixel of the micrographs, where neither table nor header says it.
    coordinate_scale : float
        Multiplies the coordinates of the picks (made on a binned copy).
    coordinate_suffix : str, optional
        What per-micrograph coordinate files have between the micrograph's stem and the file type, or up to its end as
        RELION says it (`_autopick.star`). Only files that end so are read.
    strip_prefix, strip_suffix : str, optional
        Text at the beginning or the end of the stem of a name that is not compared when picks look for their
        micrograph: taken off the names of both, where it is there.
    tiff_flip : bool
        Reverse the rows of TIFF micrographs, as RELION does.
    """

    box: int
    sizes: tuple[int, ...] = ()
    dtype: StoredDtype = option(
        "--float16/--float32", default="float32", values=("float16", "float32"), help="Type of the stored pixels",
        panel=IMAGES,
    )  # fmt: skip
    also: tuple[tuple[int, StoredDtype], ...] = ()
    normalize: bool = option(
        "--normalize/--no-normalize", default=True, help="Background to mean 0, sd 1", panel=IMAGES
    )
    ramp: bool = option(
        "--no-ramp", default=True, values=(False, True), help="Do not subtract the background's plane", panel=IMAGES
    )
    invert: bool | None = option(
        "--invert/--no-invert", default=None, help="Multiply by -1", shown="as --style", panel=IMAGES
    )
    background_radius: float | None = option(
        "--bg-radius", default=None, help="Background starts here, pixels of the first stored size",
        shown="0.375 of it", panel=IMAGES,
    )  # fmt: skip
    background_diameter_angstrom: float | None = option(
        "--bg-diameter", default=None, help="The same as a diameter in Å", panel=IMAGES
    )
    scale_const: float | None = option(
        "--scale-const", default=None, help="Divide by this, not by each background's sd", panel=IMAGES
    )
    edges: Edges = option("--edges", default="reject", help="Boxes over the edge", panel=POSITIONS)
    recenter: bool = option(
        "--recenter/--no-recenter", default=True, help="Move boxes by aligned shifts", panel=POSITIONS
    )
    recenter_from: RecenterFrom = option(
        "--recenter-from", default="auto", help="By which alignment; auto: 3D before 2D", panel=POSITIONS
    )
    rounding: Rounding = option("--rounding", default="truncate", help="Fractional picks", panel=POSITIONS)
    style: Style | None = option(
        "--style", default=None, help="Tables, contrast, names", shown="as the picks", panel=TABLES
    )
    min_score: float | None = option(
        "--min-score", default=None, help="Leave out picks that score lower", panel=POSITIONS
    )
    min_separation_angstrom: float | None = option(
        "--min-separation", default=None, help="Å between picks; the better one stays", panel=POSITIONS
    )
    flip_x: bool = option("--flip-x", default=False, help="Picks were made on a copy mirrored in x", panel=POSITIONS)
    flip_y: bool = option("--flip-y", default=False, help="Picks were made on a copy mirrored in y", panel=POSITIONS)
    limit: int | None = option("--limit", default=None, help="Only the first N micrographs with picks", panel=RUNNING)
    refresh_ctf: bool = option(
        "--refresh-ctf", default=False, help="Take CTF values from the micrographs", panel=TABLES
    )
    ctf_average: bool = option(
        "--ctf-average", default=False, help="With --refresh-ctf: accept averages of Patch CTF", panel=TABLES
    )
    drop_alignments: bool = option(
        "--drop-alignments", default=False, help="Leave out orientations and shifts", panel=POSITIONS
    )
    pixel_size: float | None = option(
        "--pixel-size", default=None, help="Å per pixel, where nothing else says it", panel=TABLES
    )
    coordinate_scale: float = option(
        "--coord-scale", default=1.0, help="Multiply coordinates (picks of a binned copy)", panel=POSITIONS
    )
    coordinate_suffix: str | None = option(
        "--coord-suffix", default=None, help="Coordinate files: text after the micrograph's stem", panel=TABLES
    )
    strip_prefix: str | None = option(
        "--strip-prefix", default=None, help="The same at the beginning, as denoised_", panel=TABLES
    )
    strip_suffix: str | None = option(
        "--strip-suffix", default=None, help="Text at the end of names that is not compared, as _DW", panel=TABLES
    )
    tiff_flip: bool = option(
        "--tiff-no-flip", default=True, values=(False, True), help="Keep the row order of TIFF files", panel=TABLES
    )

    def __post_init__(self) -> None:
        set_field = partial(object.__setattr__, self)  # frozen for others: here values become plain Python's
        check_types(self)
        set_field("box", check_even("box", self.box))
        if self.box > LARGEST_BOX:
            raise OptionError(f"box must be at most {LARGEST_BOX} pixels; got {self.box}")
        sizes = tuple(check_even("every stored size", size) for size in _several(self.sizes)) or (self.box,)
        set_field("sizes", sizes)
        set_field("also", tuple((check_even("every stored size", size), dtype) for size, dtype in self.also))
        every = [*sizes, *(size for size, _ in self.also)]
        for size in every:
            if size > self.box:
                raise OptionError(f"a stored size cannot exceed the box: got size {size} for box {self.box}")
        if any(later >= earlier for earlier, later in itertools.pairwise(sizes)):
            raise OptionError(f"sizes must be given largest first, all different; got {sizes}")
        if len(set(every)) < len(every) or max(every) > sizes[0]:
            raise OptionError(
                f"further sizes must be smaller than the first one, {sizes[0]}, and all different; got {every[1:]}"
            )
        for _, dtype in self.also:
            check_choice("the type of a further size", dtype, ("float32", "float16"))
        check_choice("dtype", self.dtype, ("float32", "float16"))
        check_choice("edges", self.edges, ("reject", "pad"))
        check_choice("rounding", self.rounding, ("truncate", "nearest"))
        check_choice("recenter_from", self.recenter_from, ("auto", "3d", "2d"))
        if self.style is not None:
            check_choice("style", self.style, ("relion", "cryosparc"))
        for name, check in _NUMBERS.items():
            if (value := getattr(self, name)) is not None or name == "coordinate_scale":
                set_field(name, check(name, value))
        check_part_of_a_name("--coord-suffix", self.coordinate_suffix)
        check_part_of_a_name("--strip-prefix", self.strip_prefix)
        check_part_of_a_name("--strip-suffix", self.strip_suffix)
        if self.ctf_average and not self.refresh_ctf:
            raise OptionError("--ctf-average says how --refresh-ctf may work; give both, or neither")
        if self.background_radius is not None and self.background_diameter_angstrom is not None:
            raise OptionError("give background_radius (pixels) or background_diameter_angstrom (Å), not both")
        if self.scale_const is not None and not self.normalize:
            raise OptionError("scale_const divides normalized images; it cannot be used without normalize")
        if self.background_diameter_angstrom is None and self.normalize:
            for size in every:
                check_background_radius(self.radius_in_pixels(size, math.nan), size)

    @property
    def outputs(self) -> tuple[StoredSize, ...]:
        """Everything that is stored of each particle, largest first."""
        names = ["", "small", *map(str, self.sizes[2:])][: len(self.sizes)]
        listed = [
            StoredSize(name=name, size=size, dtype=self.dtype) for name, size in zip(names, self.sizes, strict=True)
        ]
        listed += [StoredSize(name=str(size), size=size, dtype=dtype) for size, dtype in self.also]
        return tuple(sorted(listed, key=lambda output: -output.size))

    def radius_in_pixels(self, size: int, pixel_size: float) -> float:
        """Background radius for an image of side `size`, cut where the micrograph has `pixel_size` Å per pixel."""
        if self.background_diameter_angstrom is not None:
            return self.background_diameter_angstrom / 2 / (pixel_size * self.box / size)
        if self.background_radius is not None:
            return self.background_radius * size / self.sizes[0]
        return float(default_background_radius(size))

    def steps(self) -> Steps:
        """The steps that this recipe asks for; a contrast that is not decided counts as not inverted."""
        return Steps(
            **{field.name: getattr(self, field.name) for field in dataclasses.fields(Steps)}
            | {"invert": bool(self.invert)}
        )

    def as_dict(self) -> dict[str, Any]:
        """The recipe as plain JSON-ready values."""
        return dataclasses.asdict(self) | {"sizes": list(self.sizes), "also": [list(one) for one in self.also]}

    @classmethod
    def from_dict(cls, values: object, source: str) -> Self:
        """The recipe from what `as_dict` gave, as a record of a run (`source`, for messages) holds it.

        Raises
        ------
        InputError
            If it is no recipe that this version knows.
        """
        try:
            if not isinstance(values, dict):
                raise TypeError(f"found {type(values).__name__}, expected names and values")
            options: dict[str, Any] = {name: _tuples(value) for name, value in values.items()}
            return cls(**options)
        except (TypeError, ValueError) as error:
            raise InputError(f"{source}: holds no recipe that this version can read: {error}") from error


def _tuples(value: Any) -> Any:
    """What JSON holds as lists, as the tuples that it was."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


# What each number of a recipe may be; None, where it is allowed, means that nothing is asked for.
_NUMBERS: dict[str, Callable[[str, object], int | float]] = {
    "background_radius": partial(check_positive, unit=" of pixels"),
    "background_diameter_angstrom": partial(check_positive, unit=" of Å"),
    "scale_const": partial(check_positive, unit="", lowest=DIVISORS[0], highest=DIVISORS[1]),
    "min_score": check_number,
    "min_separation_angstrom": partial(check_positive, unit=" of Å"),
    "limit": partial(check_integer, lowest=1, highest=MOST_MICROGRAPHS, unit=" micrograph"),
    "pixel_size": partial(check_positive, unit=" of Å per pixel", lowest=PIXEL_SIZES[0], highest=PIXEL_SIZES[1]),
    "coordinate_scale": partial(check_positive, unit="", lowest=SCALES[0], highest=SCALES[1]),
}


def _several(sizes: object) -> Iterable[object]:
    """One size, or a list, tuple or array of them, as something to go through."""
    if isinstance(sizes, (str, bytes)):
        return (sizes,)
    try:
        return iter(sizes)  # type: ignore[call-overload, no-any-return]
    except TypeError:
        return (sizes,)


def check_background_radius(radius: float, size: int) -> None:
    """Raise `OptionError` unless 1 <= `radius` < `size` / 2, so that an image has particle and background."""
    if not 1 <= radius < size / 2:
        raise OptionError(
            f"the background radius must be at least 1 and less than half the image; "
            f"got {radius:g} pixels for images of {size} pixels"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How a run is carried out; none of it changes a byte of the stacks or tables, but for the last bits of GPUs.

    Parameters
    ----------
    workers : int, optional
        Micrographs worked on at the same time. Default: the cores this process may use.
    threads : int
        OpenMP threads of each worker.
    on_error : {"skip", "stop"}
        What a micrograph that fails does to the run.
    allow_incomplete : bool
        Count a run with incomplete micrographs as a success.
    overwrite : bool
        Start anew where the output folder holds another run.
    break_lock : bool
        Take over the folder from a process on another host that is known to be gone.
    fsync : bool
        Force stacks, tables and folder entries to the disk before they are counted as done.
    shard : (int, int), optional
        Do only part I of N (counted from 1) of the micrographs; when all parts are done, `merge` writes the tables.
    task_timeout : float, optional
        Seconds after which a micrograph is given to another worker; only where workers are other processes.
    gpus : tuple of str
        Devices that the workers cut on, in turn: "cuda:0" and so on. Default: the CPU.
    gpu_memory : int, optional
        Bytes of a GPU that all workers on it may use together. Default: half of what is free for each call.
    gpu_fallback : bool
        Go on without a GPU that is missing or fails, at last on the CPU.
    """

    workers: int | None = option("--workers", default=None, help="Micrographs at a time", shown="cores", panel=RUNNING)
    threads: int = option("--threads", default=1, help="Threads of each worker", panel=RUNNING)
    on_error: Literal["skip", "stop"] = option(
        "--on-error", default="skip", help="A bad micrograph: leave it out or stop", panel=RUNNING
    )
    allow_incomplete: bool = option(
        "--allow-incomplete", default=False, help="Exit 0 despite bad micrographs", panel=RUNNING
    )
    overwrite: bool = option("--overwrite", default=False, help="Start anew in this folder", panel=RUNNING)
    break_lock: bool = option(
        "--break-lock", default=False, help="Take over from a process that is gone", panel=RUNNING
    )
    fsync: bool = option("--fsync/--no-fsync", default=True, help="Force files to the disk", panel=RUNNING)
    shard: tuple[int, int] | None = None
    task_timeout: float | None = option(
        "--task-timeout", default=None, help="Seconds until a micrograph is given to another worker (--dask)",
        panel=CLUSTERS,
    )  # fmt: skip
    gpus: tuple[str, ...] = ()
    gpu_memory: int | None = None
    gpu_fallback: bool = option(
        "--gpu-fallback", default=False, help="Go on without GPUs that are missing or fail", panel=RUNNING
    )

    def __post_init__(self) -> None:
        set_field = partial(object.__setattr__, self)
        check_types(self)
        if self.gpu_memory is not None:
            set_field("gpu_memory", check_integer("gpu_memory", self.gpu_memory, 1, sys.maxsize, " byte"))
        if self.shard is not None:
            if not isinstance(self.shard, Sequence) or len(self.shard) != 2:
                raise OptionError(f"shard must be (I, N) with I from 1 to N; got {self.shard!r}")
            set_field("shard", check_shard(*self.shard, f"shard {self.shard!r}"))
        if self.task_timeout is not None:
            set_field("task_timeout", check_seconds("task_timeout", self.task_timeout))
        if self.workers is not None:
            set_field("workers", check_integer("workers", self.workers, 1, MOST_WORKERS))
        set_field("threads", check_threads(self.threads))
        check_choice("on_error", self.on_error, ("skip", "stop"))
