"""What a user can ask for: `Recipe` (what is made; defaults are in `groups`), `RunOptions` (how the work is run)."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Self

from cryobox.bounds import (
    MOST_THREADS,
    MOST_WORKERS,
    check_choice,
    check_integer,
    check_positive,
    check_seconds,
    check_shard,
)
from cryobox.declared import CLUSTERS, POSITIONS, RUNNING, check_fields, checked, option
from cryobox.errors import InputError, OptionError
from cryobox.groups import (
    FILTER_WIDTH,
    CtfUse,
    Helices,
    Images,
    Positions,
    Reading,
    Selection,
    Spectrum,
    SubParticles,
    Writing,
)

__all__ = ["Recipe", "RunOptions", "Steps"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """What is done to the pixels of every image, all decided: what the core and its twin in `reference` are told.

    Parameters
    ----------
    normalize, ramp, invert, scale_const, white_dust, black_dust
        As in `Recipe`.
    measures : bool
        Whether the statistics that need passes of their own are filled.
    tube : bool
        Whether the background lies outside a tube, whose direction each window has.
    lowpass, highpass, filter_width, ctf, ctf_box, ctf_intact_first_peak
        As in `Recipe`.
    """

    normalize: bool
    ramp: bool
    invert: bool
    scale_const: float | None
    # What came later has a default, and is part of a task's id where it differs from that: older records stay good.
    tube: bool = False
    white_dust: float | None = None
    black_dust: float | None = None
    measures: bool = False
    lowpass: float | None = None
    highpass: float | None = None
    filter_width: float = FILTER_WIDTH
    ctf: CtfUse | None = None
    ctf_box: int | None = None
    ctf_intact_first_peak: bool = False

    @property
    def measured(self) -> bool:
        """Whether anything is done that depends on the pixel size."""
        return self.filtered or self.ctf is not None

    @property
    def filtered(self) -> bool:
        """Whether resolutions in Å are left out."""
        return self.lowpass is not None or self.highpass is not None

    @property
    def divisor(self) -> float:
        """What tables of CryoSPARC say that images were divided by beside their own background's sd."""
        return self.scale_const or 1.0


@dataclass(frozen=True, kw_only=True)
class Recipe(Writing, Images, Spectrum, Helices, SubParticles, Positions, Selection, Reading):
    """What is made of the picks. Two runs with equal recipes on equal inputs make equal bytes.

    Parameters
    ----------
    box : int
        Side of the window in the micrograph, in pixels. Even.
    box_angstrom : float, optional
        Side of the window in Å, for micrographs of several pixel sizes: each is cut in the even box nearest to it, and
        all are stored at the same sizes. `box` is then that of the coarsest.
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
    background : {"plain", "exclude-neighbors"}
        "exclude-neighbors": pixels within the background radius of another pick of the input, extracted or not, are no
        background. Where less than a fifth of it would be left, it counts whole.
    helical_outer_diameter_angstrom : float, optional
        Diameter in Å of the tubes of helices: the background is what lies outside, however far along the tube.
    white_dust, black_dust : float, optional
        Pixels brighter (darker) than the background's mean by more than so many of its sd become Gaussian noise of that
        mean and sd, after the crop and before the plane is fitted. Needs `normalize`.
    measures : bool
        Write numbers of each particle into the tables (`cryobox.filtering.MEASURES`): mean, sd and extremes of its
        first stored image, mean and sd of its background, contrast, signal-to-noise, local variance, saturated part,
        dust.
    filter : str, optional
        Reject particles whose measures do not fit, as "background_sd_relative < 1.5 and contrast > 0.02".
    hot_pixels : float, optional
        Before windows are cut, pixels of the micrograph more than so many robust sd above its median, and above the
        median of the 5 x 5 pixels around, become the median of the good ones there.
    ctf : {"flip", "premultiply"}, optional
        Multiply the coefficients of each image with the sign of its CTF, or with the CTF, and the tables say so.
    ctf_box : int, optional
        Side in pixels of the window in which that is done, at least the box, which is its middle. Default: the box.
    ctf_intact_first_peak : bool
        Leave coefficients below the CTF's first peak as they are.
    ctf_unmarked : bool
        Let `ctf` make images for CryoSPARC's tables, too, which have no field that says it.
    lowpass, highpass : float, optional
        Leave out what is finer, or coarser, than so many Å, in Fourier space: for looking and training, not for
        refinement.
    filter_width : float
        Of the edges of these filters, each half a cosine, in Fourier pixels of the box.
    edges : {"reject", "pad"}
        What becomes of a box that hangs over the edge of the micrograph: left out, or filled with the nearest pixel.
    recenter : bool
        Move the box by the shifts of an earlier alignment, where the table has them.
    recenter_from : {"auto", "3d", "2d"}
        Which alignment moves the box; "auto" prefers 3D.
    recenter_3d : str, optional
        Center the box on this point of the reference, "X,Y,Z" in Å from its center; "px" behind it: in pixels of the
        reference; "voxel": in voxels from its corner, as CryoSPARC's Volume Alignment Tools say it.
    ref_angpix : float, optional
        Å per pixel of the reference, for "px" and "voxel". Default: that of the particles' images.
    adjust_defocus : bool
        Add the depth of the new center, or of the sub-particle, in the view of each particle to its defocus, U and V,
        times `defocus_sign`.
    defocus_sign : {-1, 1}
        Which way the depth counts: programs disagree, and it depends on the hand of map and micrographs.
    reset_offsets : bool
        Make the shifts of all alignments 0, as RELION does: boxes stay where the coordinates are, whatever `recenter`
        says, and orientations stay as they are.
    subparticles : str, optional
        Make a particle of each of these points of the reference, "X,Y,Z;X,Y,Z", each as `recenter_3d`; or a `.cmm` of
        ChimeraX, of which the first marker is the center and which is replaced by its points.
    symmetry : str, optional
        Of the reference: "C7", "D2", "T", "O", "I1" to "I4" ("I": RELION's, I2). Each point is where the group's
        rotations bring it. Default: "C1", the points alone.
    symmetry_axes : {"relion", "cryosparc"}, optional
        Whose axes the reference has: those of D with an odd number differ by 90 degrees. Default: of the picks' family.
    unique_angle : float, optional
        Of sub-particles of one particle whose directions from its center are less than so many degrees apart, the first
        stays: on an axis of symmetry several are in one place.
    helix : {"ends", "segments", "whole"}, optional
        What the picks are: "ends" of tubes, which are cut into segments; "segments"; or ends of which each tube becomes
        one particle, at its middle. Default: particles of no helix.
    helical_rise : float, optional
        Å from one asymmetric unit to the next; with `helical_nr_asu` (default 1) of them the distance of segments.
    helical_nr_asu : int, optional
    inter_box_distance : float, optional
        The distance of segments in Å, in place of these.
    helical_bimodal : bool, optional
        Whether psi priors may be wrong by half a turn (rlnAnglePsiFlipRatio 0.5, else 0). Default: as the table of
        segments says it, else they may.
    helical_recenter : {"across", "free", "none"}, optional
        How the boxes of segments move by aligned shifts: only across the tube (default), so that they keep their
        distances along it; as those of particles; not at all.
    subpixel : bool
        Move each image by the fraction of a pixel that whole pixels leave, in Fourier space, and write the exact center
        into the tables, with a flag, and no shift.
    rounding : {"truncate", "nearest"}
        How a fractional pick becomes a pixel; "nearest" concerns only picks without alignments.
    style : {"relion", "cryosparc"}, optional
        Contrast, names and tables of the output. Default: `tables`, where it names one program, else the family of
        the picks' table.
    tables : {"relion", "cryosparc", "both"}, optional
        Whose tables are written over the same stacks. Default: as `style`.
    particles_per_stack : int, optional
        Stacks of whole micrographs, one after the other, of at most so many particles (more only where one micrograph
        has more). Default: a stack for each micrograph.
    earlier_limits : tuple of int
        With `particles_per_stack`: the smaller limits of earlier runs in the folder, at each of which a stack ends, so
        that what they wrote stays. `run` finds them in its record.
    min_score : float, optional
        Picks with a lower score are rejected.
    classes : str, optional
        Only picks of these classes, as "1,3-5", in the numbers of the table (RELION counts from 1, CryoSPARC from 0).
    classes_from : {"2d", "3d"}, optional
        Of which alignment of a `.cs`, where it has both.
    optics_groups : str, optional
        Only picks of these optics groups (rlnOpticsGroup, ctf/exp_group_id).
    selection_type : int, optional
        Only picks with this rlnParticleSelectionType.
    sample : str, optional
        So many of what is then left ("5000"), or a part of it ("10%"), chosen by a hash of uid, else of micrograph and
        coordinates: the same picks for any order of the table.
    seed : int
        Of `sample` and `noise_particles`.
    noise_particles : int, optional
        So many boxes of each micrograph that particles are cut from, at least a box away, along y or x, from every pick
        that the input has there, extracted or not, and from each other; wholly in the micrograph, and clear of
        `edge_margin`, `exclude` and junk. Fewer where there is no room. They have stacks and tables of their own.
    edge_margin : int, optional
        Pixels between the box and the edge of its micrograph.
    exclude : tuple of (int, int, int, int)
        Rectangles (x0, y0, x1, y1) of the detector that no box may touch: pixels of the micrograph as it is read, from
        0, both corners included. On the command line "x0,y0,x1,y1".
    junk_masks : str, optional
        A folder of masks, or a pattern of their names, from the run's directory: MRC masks of MicrographCleaner (1 is
        bad), or `.npy` label maps of CryoSPARC's junk detector (0 is clean), of any size, matched by name.
    junk_threshold : float, optional
        With MRC masks a pick is left out where the mean over its box is not below this. Default 0.2. A label map
        leaves out what has a label at the pixel of its center.
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
        Å per pixel of the micrographs, where no table says it; it beats what headers say.
    coordinate_scale : float
        Multiplies the coordinates of the picks (made on a binned copy).
    coordinate_pixel_size : float, optional
        Å per pixel of the coordinates, which are then multiplied by this over the pixel size of their micrograph; not
        together with `coordinate_scale`.
    coordinate_suffix : str, optional
        What per-micrograph coordinate files have between the micrograph's stem and the file type, or up to its end as
        RELION says it (`_autopick.star`). Only files that end so are read.
    strip_prefix, strip_suffix : str, optional
        Text at the beginning or the end of the stem of a name that is not compared when picks look for their
        micrograph: taken off the names of both, where it is there.
    tiff_flip : bool
        Reverse the rows of TIFF micrographs, as RELION does.
    """

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.sizes:
            object.__setattr__(self, "sizes", (self.box,))  # frozen for others
        self.check_with(self.box)
        if self.subpixel and self.rounding != "truncate":
            raise OptionError("subpixel keeps the fraction of a pick, rounding drops it: leave one of them out")
        self.check_together()
        self.check_scales()
        self.check_spectrum(self.box, in_angstrom=self.box_angstrom is not None)
        self.check_depth(subparticles=self.subparticles is not None)
        self.check_offsets(
            subparticles=self.subparticles is not None, helical_recenter=self.helical_recenter in ("across", "free")
        )
        self.check_masks()
        self.check_points(recentered=self.recenter_3d is not None, helical=self.helix is not None)
        self.check_helices(recenter=self.recenter and not self.reset_offsets)

    def steps(self) -> Steps:
        """The steps that this recipe asks for; a contrast that is not decided counts as not inverted."""
        return Steps(
            **{field.name: getattr(self, field.name) for field in dataclasses.fields(Steps)}
            | {"invert": bool(self.invert), "measures": self.measures or self.filter is not None}
        )

    @property
    def not_on_gpus(self) -> tuple[str, ...]:
        """What is asked for that the core for GPUs lacks, as flags."""
        asked = {
            "--subpixel": self.subpixel,
            "--ctf": self.ctf is not None,
            "--lowpass": self.lowpass is not None,
            "--highpass": self.highpass is not None,
        }
        return (*super().not_on_gpus, *(flag for flag, on in asked.items() if on))

    def as_dict(self) -> dict[str, Any]:
        """The recipe as plain JSON-ready values."""
        return dataclasses.asdict(self) | {
            "sizes": list(self.sizes),
            "also": [list(one) for one in self.also],
            "earlier_limits": list(self.earlier_limits),
            "exclude": [list(one) for one in self.exclude],
        }

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


def _check_shard(_: str, shard: object) -> tuple[int, int]:
    if not isinstance(shard, Sequence) or len(shard) != 2:
        raise OptionError(f"shard must be (I, N) with I from 1 to N; got {shard!r}")
    index, count = shard
    return check_shard(index, count, f"shard {shard!r}")


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
    check_picks : bool
        Look at a few micrographs first, and warn where the picks do not fit them.
    diameter_angstrom : float, optional
        Of the particle, where it is known: a box too small for what the defocus delocalizes is warned of.
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

    workers: int | None = option(
        "--workers", default=None, help="Micrographs at a time", shown="cores", panel=RUNNING,
        check=partial(check_integer, lowest=1, highest=MOST_WORKERS),
    )  # fmt: skip
    threads: int = option(
        "--threads", default=1, help="Threads of each worker", panel=RUNNING,
        check=partial(check_integer, lowest=1, highest=MOST_THREADS),
    )  # fmt: skip
    on_error: Literal["skip", "stop"] = option(
        "--on-error", default="skip", help="A bad micrograph: leave it out or stop", panel=RUNNING,
        check=partial(check_choice, allowed=("skip", "stop")),
    )  # fmt: skip
    allow_incomplete: bool = option(
        "--allow-incomplete", default=False, help="Exit 0 despite bad micrographs", panel=RUNNING
    )
    overwrite: bool = option("--overwrite", default=False, help="Start anew in this folder", panel=RUNNING)
    break_lock: bool = option(
        "--break-lock", default=False, help="Take over from a process that is gone", panel=RUNNING
    )
    check_picks: bool = option(
        "--check-picks/--no-check-picks", default=True, help="Warn if picks do not fit the images", panel=POSITIONS
    )
    fsync: bool = option("--fsync/--no-fsync", default=True, help="Force files to the disk", panel=RUNNING)
    diameter_angstrom: float | None = checked(partial(check_positive, unit=" Å"), default=None)
    shard: tuple[int, int] | None = checked(_check_shard, default=None)
    task_timeout: float | None = option(
        "--task-timeout", default=None, help="Seconds until a micrograph is given to another worker (--dask)",
        panel=CLUSTERS, check=check_seconds,
    )  # fmt: skip
    gpus: tuple[str, ...] = ()
    gpu_memory: int | None = checked(partial(check_integer, lowest=1, highest=sys.maxsize, unit=" byte"), default=None)
    gpu_fallback: bool = option(
        "--gpu-fallback", default=False, help="Go on without GPUs that are missing or fail", panel=RUNNING
    )

    def __post_init__(self) -> None:
        check_fields(self)
