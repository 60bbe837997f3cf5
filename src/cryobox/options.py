"""What a user can ask for: `Recipe` (what is made), `RunOptions` (how the work is run). All defaults live here."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass
from typing import Any, Literal, Self

from cryobox.boxes import check_even
from cryobox.errors import InputError, OptionError

__all__ = [
    "DEFAULT_BACKGROUND_FRACTION",
    "Edges",
    "Recipe",
    "RecenterFrom",
    "Rounding",
    "RunOptions",
    "Style",
    "default_background_radius",
]

Edges = Literal["reject", "pad"]
Rounding = Literal["truncate", "nearest"]
RecenterFrom = Literal["auto", "3d", "2d"]
Style = Literal["relion", "cryosparc"]
StoredDtype = Literal["float32", "float16"]

DEFAULT_BACKGROUND_FRACTION = 0.375  # of the image's side; RELION's default, CONVENTIONS 2 "Background"


def default_background_radius(size: int) -> int:
    """Radius in pixels beyond which a pixel of an image of side `size` is background: int(0.375 * size)."""
    return int(DEFAULT_BACKGROUND_FRACTION * size)


def _choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise OptionError(f"{name} must be one of {', '.join(allowed)}; got {value!r}")


def _positive(name: str, value: float | None, unit: str) -> None:
    if value is not None and not (math.isfinite(value) and value > 0):
        raise OptionError(f"{name} must be a positive number{unit}; got {value!r}")


def _part_of_a_name(option: str, text: str | None) -> None:
    if text is not None and (not text or "/" in text):
        raise OptionError(f"{option} must be a part of a file's name, without folders; got {text!r}")


LARGEST_BOX = 32768  # pixels; the core refuses more, since a transform would need gigabytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What is made of the picks. Two runs with equal recipes on equal inputs make equal bytes.

    Parameters
    ----------
    box : int
        Side of the window in the micrograph, in pixels. Even.
    sizes : tuple of int
        Sides of the stored images in pixels, largest first, at most two. Even, each at most `box`; made by Fourier
        cropping. Empty means `(box,)`.
    dtype : {"float32", "float16"}
        Type of the stored pixels.
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
    dtype: StoredDtype = "float32"
    normalize: bool = True
    ramp: bool = True
    invert: bool | None = None
    background_radius: float | None = None
    background_diameter_angstrom: float | None = None
    scale_const: float | None = None
    edges: Edges = "reject"
    recenter: bool = True
    recenter_from: RecenterFrom = "auto"
    rounding: Rounding = "truncate"
    style: Style | None = None
    min_score: float | None = None
    min_separation_angstrom: float | None = None
    flip_x: bool = False
    flip_y: bool = False
    limit: int | None = None
    refresh_ctf: bool = False
    ctf_average: bool = False
    drop_alignments: bool = False
    pixel_size: float | None = None
    coordinate_scale: float = 1.0
    coordinate_suffix: str | None = None
    strip_prefix: str | None = None
    strip_suffix: str | None = None
    tiff_flip: bool = True

    def __post_init__(self) -> None:
        check_even("box", self.box)
        if self.box > LARGEST_BOX:
            raise OptionError(f"box must be at most {LARGEST_BOX} pixels; got {self.box}")
        sizes = tuple(self.sizes) or (self.box,)
        object.__setattr__(self, "sizes", sizes)
        if len(sizes) > 2:
            raise OptionError(f"sizes holds at most two stored sizes; got {sizes}")
        for size in sizes:
            check_even("every stored size", size)
            if size > self.box:
                raise OptionError(f"a stored size cannot exceed the box: got size {size} for box {self.box}")
        if len(sizes) == 2 and sizes[1] >= sizes[0]:
            raise OptionError(f"sizes must be given largest first, all different; got {sizes}")
        _choice("dtype", self.dtype, ("float32", "float16"))
        _choice("edges", self.edges, ("reject", "pad"))
        _choice("rounding", self.rounding, ("truncate", "nearest"))
        _choice("recenter_from", self.recenter_from, ("auto", "3d", "2d"))
        if self.style is not None:
            _choice("style", self.style, ("relion", "cryosparc"))
        _positive("background_radius", self.background_radius, " of pixels")
        _positive("background_diameter_angstrom", self.background_diameter_angstrom, " of Å")
        _positive("scale_const", self.scale_const, "")
        _positive("min_separation_angstrom", self.min_separation_angstrom, " of Å")
        _positive("pixel_size", self.pixel_size, " of Å per pixel")
        _positive("coordinate_scale", self.coordinate_scale, "")
        _part_of_a_name("--coord-suffix", self.coordinate_suffix)
        _part_of_a_name("--strip-prefix", self.strip_prefix)
        _part_of_a_name("--strip-suffix", self.strip_suffix)
        if self.ctf_average and not self.refresh_ctf:
            raise OptionError("--ctf-average says how --refresh-ctf may work; give both, or neither")
        if self.min_score is not None and math.isnan(self.min_score):
            raise OptionError("min_score must be a number; got nan")
        if self.limit is not None and self.limit < 1:
            raise OptionError(f"limit must be at least 1 micrograph; got {self.limit}")
        if self.background_radius is not None and self.background_diameter_angstrom is not None:
            raise OptionError("give background_radius (pixels) or background_diameter_angstrom (Å), not both")
        if self.scale_const is not None and not self.normalize:
            raise OptionError("scale_const divides normalized images; it cannot be used without normalize")
        if self.background_diameter_angstrom is None and self.normalize:
            for size in sizes:
                check_background_radius(self.radius_in_pixels(size, math.nan), size)

    def radius_in_pixels(self, size: int, pixel_size: float) -> float:
        """Background radius for an image of side `size`, cut where the micrograph has `pixel_size` Å per pixel."""
        if self.background_diameter_angstrom is not None:
            return self.background_diameter_angstrom / 2 / (pixel_size * self.box / size)
        if self.background_radius is not None:
            return self.background_radius * size / self.sizes[0]
        return float(default_background_radius(size))

    def as_dict(self) -> dict[str, Any]:
        """The recipe as plain JSON-ready values."""
        return dataclasses.asdict(self) | {"sizes": list(self.sizes)}

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
            options: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in values.items()}
            return cls(**options)
        except (TypeError, ValueError) as error:
            raise InputError(f"{source}: holds no recipe that this version can read: {error}") from error

    def fingerprint(self) -> str:
        """A short hash of what an image may depend on: everything in the recipe but how many micrographs are used."""
        text = json.dumps(self.as_dict() | {"limit": None}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


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

    workers: int | None = None
    threads: int = 1
    on_error: Literal["skip", "stop"] = "skip"
    allow_incomplete: bool = False
    overwrite: bool = False
    break_lock: bool = False
    fsync: bool = True
    shard: tuple[int, int] | None = None
    task_timeout: float | None = None
    gpus: tuple[str, ...] = ()
    gpu_memory: int | None = None
    gpu_fallback: bool = False

    def __post_init__(self) -> None:
        if self.gpu_memory is not None and self.gpu_memory < 1:
            raise OptionError(f"gpu_memory must be at least 1 byte; got {self.gpu_memory}")
        if self.shard is not None and not 1 <= self.shard[0] <= self.shard[1]:
            raise OptionError(f"shard must be (I, N) with I from 1 to N; got {self.shard}")
        if self.task_timeout is not None and not self.task_timeout > 0:
            raise OptionError(f"task_timeout must be more than 0 seconds; got {self.task_timeout:g}")
        if self.workers is not None and self.workers < 1:
            raise OptionError(f"workers must be at least 1; got {self.workers}")
        if self.threads < 1:
            raise OptionError(f"threads must be at least 1; got {self.threads}")
        _choice("on_error", self.on_error, ("skip", "stop"))
