"""The numerical core on arrays in memory: `extract` and `fourier_crop`. No files, no state.

Only this module and `gpu` see compiled code. A backend is a module with the functions of `_core`; which one works is
decided in `_backend`, everything else is the same for all of them.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryobox import gpu
from cryobox.bounds import check_threads
from cryobox.boxes import check_even
from cryobox.centering import box_corners
from cryobox.errors import BackendError, OptionError
from cryobox.extremes import crop_again, cut_again
from cryobox.filters import filter_of
from cryobox.groups import Edges, Rounding, StoredDtype
from cryobox.options import Recipe, Steps
from cryobox.windows import STATISTICS, Status, Stored, Windows

__all__ = [
    "PIXEL_TYPES",
    "STATISTICS",
    "Status",
    "backend_options",
    "build_facts",
    "cut",
    "extract",
    "fftw_version",
    "filled",
    "fourier_crop",
    "repair_hot_pixels",
]

_IMPORTED_BY = os.getpid()

_DEFAULT: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(Recipe)}

_STEPS_OF_A_BACKEND = ("normalize", "ramp", "invert", "scale_const", "white_dust", "black_dust", "measures")

CTF_USES = (None, "flip", "premultiply")
"""What is done with a CTF, in the order of the core's numbers for it."""

PIXEL_TYPES = ("int8", "uint8", "int16", "uint16", "float16", "float32")
"""The types of pixels that the core reads, in either byte order."""


def cut(
    image: Any,
    windows: Windows,
    outputs: Sequence[Stored],
    steps: Steps,
    *,
    into: Sequence[Any],
    threads: int = 1,
    device: str = "cpu",
    device_memory: int = 0,
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Cut windows and make the images of every output: the one door to pixels. Nothing is copied or cast on the way in.

    Parameters
    ----------
    image : ndarray, shape (ny, nx)
        One of `PIXEL_TYPES`, either byte order; pixels of a row adjacent, rows may be padded.
    windows : Windows
    outputs : sequence of Stored
        Largest first.
    steps : Steps
    into : sequence of ndarray, shape (n, size, size), float32 or float16
        Memory of the caller's for the images of each output, each C-contiguous.
    threads : int
        OpenMP threads; any number gives the same bits.
    device : str
        "cpu", or "cuda:N": then `image`, or all of `into`, may be arrays in the memory of that GPU.
    device_memory : int
        Bytes of a GPU that this call may use; 0: half of what is free.

    Returns
    -------
    status : ndarray, shape (n,), uint8
        A `Status` per window. One that is not OK is zeros in every output.
    statistics : ndarray, shape (number of outputs, n, len(STATISTICS)), float64
        Columns as `STATISTICS`.

    Raises
    ------
    OptionError
        If an array or a number is not as above; nothing has been written then.
    BackendError
        If the backend is missing or fails.
    """
    extract = partial(_in_a_team, _backend(device, device_memory).extract)
    windows = filled(image, windows, steps)
    ask = partial(backend_options, outputs=outputs, steps=steps)
    try:
        status, statistics = extract(image, windows.corner, list(into), **ask(windows, threads=threads))
        if all(isinstance(array, np.ndarray) for array in (image, *into)) and image.dtype.itemsize == 4:
            cut_again(extract, image, windows, list(into), ask, status, statistics, normalize=steps.normalize)
    except (ValueError, BufferError) as error:  # the latter from a library that does not hand over its array
        raise OptionError(str(error)) from error
    except RuntimeError as error:
        raise BackendError(f"{device}: {error}") from error
    return status, statistics


def _in_a_team(work: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Call the core with so many threads; also in a process that was forked, which has not the threads of the other.

    OpenMP would wait for them forever, but only in the thread that they served: a new one gets a team of its own.
    """
    if options["threads"] == 1 or os.getpid() == _IMPORTED_BY:
        return work(*arguments, **options)
    with ThreadPoolExecutor(1) as alone:
        return alone.submit(work, *arguments, **options).result()


def filled(image: Any, windows: Windows, steps: Steps) -> Windows:
    """Windows that know what stands outside the micrograph while a CTF is applied, where any of them reaches there."""
    side = steps.ctf_box or windows.box
    if steps.ctf is None or windows.fill is not None or not windows.hang_over(side, image.shape):
        return windows
    fill = float(_backend("cpu").mean(image))
    if not np.isfinite(fill):  # pixels that are no numbers cost the windows that have one, no others
        whole = np.asarray(image, np.float64)
        finite = whole[np.isfinite(whole)]
        fill = float(finite.mean()) if finite.size else 0.0
    return dataclasses.replace(windows, fill=fill)


def backend_options(windows: Windows, outputs: Sequence[Stored], steps: Steps, threads: int = 1) -> dict[str, Any]:
    """The keywords of a backend's `extract`, as cpp/bindings/options.hpp names them."""
    return {
        "box": windows.box,
        "pad": windows.pad,
        "residual": windows.residual,
        "filter": filter_of(steps, windows.box, windows.pixel_size),
        "ctf": windows.ctf,
        "ctf_use": CTF_USES.index(steps.ctf),
        "ctf_window": steps.ctf_box or windows.box,
        "intact_first_peak": steps.ctf_intact_first_peak,
        "pixel_size": windows.pixel_size,
        "fill": windows.fill or 0.0,
        "radii": [output.background_radius for output in outputs],
        "threads": threads,
        # Of each window: where nothing is asked for, nothing is told.
        "axes": windows.axes() if steps.tube else None,
        "neighbors": windows.neighbors,
        "noise": windows.noise_keys() if steps.white_dust or steps.black_dust else None,
        **{name: getattr(steps, name) for name in _STEPS_OF_A_BACKEND},
    }


def extract(
    image: Any,
    centers: NDArray[Any] | Sequence[Sequence[float]],
    *,
    box: int,
    sizes: int | tuple[int, ...] | None = None,
    normalize: bool = _DEFAULT["normalize"],
    ramp: bool = _DEFAULT["ramp"],
    invert: bool = False,
    dtype: StoredDtype = _DEFAULT["dtype"],
    background_radius: float | None = None,
    edges: Edges = _DEFAULT["edges"],
    rounding: Rounding = _DEFAULT["rounding"],
    scale_const: float | None = None,
    threads: int = 1,
    device: str = "cpu",
) -> tuple[Any, NDArray[np.bool_]]:
    """Cut particles out of a micrograph in memory.

    Parameters
    ----------
    image : ndarray, shape (ny, nx)
        The micrograph: int8, uint8, int16, uint16, float16 or float32, in either byte order. Rows may be padded; an
        array whose pixels are not adjacent (a transposed one, or every other column) is copied once. With a GPU as
        `device` also an array in its memory (DLPack or `__cuda_array_interface__`: PyTorch, CuPy, JAX, Numba); then the
        images are returned there.
    centers : array_like, shape (n, 2)
        (y, x) in pixels; pixel (0, 0) is the center of the first one. Rows with nan or infinity are not kept.
    box : int
        Side of the window in the micrograph, in pixels. Even.
    sizes : int or tuple of int, optional
        Sides of the images to make, largest first, by Fourier cropping. Default `box`.
    normalize, ramp : bool
        Subtract the background's plane (`ramp`) and mean, and divide by its standard deviation.
    invert : bool
        Multiply by -1, so that dark particles become white.
    dtype : {"float32", "float16"}
        Type of the images; what lies beyond ±65504 is clamped in float16.
    background_radius : float, optional
        Pixels of the first (largest) image beyond which it is background; scaled for the others. Default
        int(0.375 * size) of each.
    edges : {"reject", "pad"}
        Leave out a box that hangs over the edge, or fill it with the nearest pixel.
    rounding : {"truncate", "nearest"}
        How a center becomes the pixel that the box is cut around: index box / 2 of the window.
    scale_const : float, optional
        Divide by this number instead of each particle's own background standard deviation.
    threads : int
        Threads to share the particles; any number gives the same bits.
    device : str
        "cpu", or an NVIDIA GPU, "cuda" or "cuda:N", where this installation has the CUDA core.

    Returns
    -------
    images : ndarray, shape (n_kept, size, size), or a tuple of them
        A tuple where `sizes` is a tuple of more than one. For an image on a GPU, arrays on that GPU that offer DLPack
        and `__cuda_array_interface__`, and `to_host()`.
    kept : ndarray, shape (n,), bool
        Which centers have an image: those whose box may be cut, has only finite pixels, and contrast to normalize.

    Raises
    ------
    OptionError
        If an argument is not as above.
    BackendError
        If the device is missing or fails.

    Examples
    --------
    >>> images, kept = cryobox.extract(micrograph, [(1024.0, 980.5)], box=256, sizes=128)  # doctest: +SKIP
    """
    recipe = Recipe(
        box=box,
        sizes=() if sizes is None else sizes,  # type: ignore[arg-type]  # one becomes a tuple there
        dtype=dtype,
        normalize=normalize,
        ramp=ramp,
        invert=invert,
        background_radius=background_radius,
        scale_const=scale_const,
        edges=edges,
        rounding=rounding,
    )
    threads = check_threads(threads)
    on_device = device != "cpu" and gpu.is_device_array(image)
    image = image if on_device else _readable(image)
    centers = _as_centers(centers)
    kept: NDArray[np.bool_] = np.asarray(np.isfinite(centers).all(axis=1))
    corners = box_corners(centers[kept], recipe.box, rounding=recipe.rounding)
    windows = Windows(box=recipe.box, pad=recipe.edges == "pad", corner=corners)
    outputs = [
        Stored(
            size=one.size, dtype=one.dtype, background_radius=recipe.radius_in_pixels(one.size, recipe.box, math.nan)
        )
        for one in recipe.outputs
    ]
    empty = gpu.backend(device).empty if on_device else np.empty
    stacks: list[Any] = [empty((len(windows), output.size, output.size), output.dtype) for output in outputs]
    status, _ = cut(image, windows, outputs, recipe.steps(), into=stacks, threads=threads, device=device)
    good = status == Status.OK
    kept[kept] = good
    if not good.all():
        stacks = [stack.compact(good) if on_device else stack[good] for stack in stacks]
    images = tuple(stacks)
    return (images if len(images) > 1 else images[0]), kept


def fourier_crop(images: NDArray[np.float32], size: int, *, threads: int = 1) -> NDArray[np.float32]:
    """Make square images smaller by leaving out their high frequencies; gray levels stay as they are.

    Parameters
    ----------
    images : ndarray, shape (n, side, side) or (side, side), float32
        Even `side`. An image with a pixel that is not finite becomes nan, and so does a result that
        no float32 holds.
    size : int
        Side of the results, in pixels. Even, at most `side`.
    threads : int
        Threads to share the images.

    Returns
    -------
    ndarray, shape (n, size, size) or (size, size), float32

    Raises
    ------
    OptionError
        If an argument is not as above.
    """
    if not isinstance(images, np.ndarray) or images.dtype.kind != "f" or images.dtype.itemsize != 4:
        raise OptionError(f"images must be a float32 array; got {_described(images)}: use images.astype('float32')")
    if images.ndim not in (2, 3) or images.shape[-1] != images.shape[-2]:
        raise OptionError(f"images must have the shape (n, side, side) or (side, side); got {images.shape}")
    side = images.shape[-1]
    check_even("the side of the images", side)
    size = check_even("size", size)
    if size > side:
        raise OptionError(f"a Fourier crop makes images smaller; got size {size} for images of {side} pixels")
    threads = check_threads(threads)
    stack = np.ascontiguousarray(images, dtype=np.float32).reshape(-1, side, side)
    out = np.empty((len(stack), size, size), dtype=np.float32)
    try:
        crop = _backend("cpu").fourier_crop
        _in_a_team(crop, stack, out, threads=threads)
        crop_again(crop, stack, out)
    except ValueError as error:
        raise OptionError(str(error)) from error
    return out.reshape(*images.shape[:-2], size, size)


def repair_hot_pixels(image: NDArray[Any], threshold: float, *, seed: int = 0) -> int:
    """Replace hot pixels of a micrograph, in place, by the median of the good ones around them; how many they were.

    Parameters
    ----------
    image : ndarray, shape (ny, nx)
        As in `extract`; its memory must be writable.
    threshold : float
        Robust sd (1.4826 times the median absolute deviation of a sample of the pixels) above the micrograph's median,
        and above the median of the 5 x 5 pixels around.
    seed : int
        Of the sample.

    Raises
    ------
    OptionError
        If an argument is not as above.
    """
    try:
        count: int = _backend("cpu").repair_hot_pixels(image, threshold=threshold, seed=seed)
    except (TypeError, ValueError) as error:
        raise OptionError(str(error)) from error
    return count


def fftw_version() -> str:
    """The version of FFTW that the core runs; other versions may differ in the last bits."""
    version: str = _backend("cpu").fftw_version()
    return version


def build_facts() -> dict[str, str]:
    """What the compiled core is made of and uses on this machine, for `cryobox --version --verbose`."""
    core = _backend("cpu")
    threads = f"yes, up to {core.max_threads} threads here" if core.openmp else "no: one thread a worker"
    return {"FFTW": core.fftw_version(), "SIMD": core.simd, "OpenMP": threads}


def _backend(device: str, device_memory: int = 0) -> Any:
    """What works on `device`: the compiled module, or a GPU with the same functions."""
    if device != "cpu":
        return gpu.backend(device, device_memory)
    try:
        from cryobox import _core
    except ImportError as error:
        raise BackendError(f"cryobox's compiled core cannot be loaded: {error}") from error
    return _core


def _readable(image: NDArray[Any]) -> NDArray[Any]:
    """The image itself where the core can read it as it lies in memory, else a copy in order."""
    if not isinstance(image, np.ndarray):
        raise OptionError(f"image must be a NumPy array; got {_described(image)}")
    if image.ndim != 2:
        raise OptionError(f"image must have 2 dimensions, (ny, nx); got the shape {image.shape}")
    if image.dtype.newbyteorder("=").name not in PIXEL_TYPES:
        raise OptionError(
            f"image must be one of {', '.join(PIXEL_TYPES)}; got {image.dtype}: use image.astype('float32')"
        )
    ny, nx = image.shape
    row_stride, stride = image.strides
    adjacent = (nx <= 1 or stride == image.itemsize) and (ny <= 1 or row_stride >= nx * image.itemsize)
    return image if adjacent else np.ascontiguousarray(image)


def _as_centers(centers: NDArray[Any] | Sequence[Sequence[float]]) -> NDArray[np.float64]:
    try:
        columns = np.asarray(centers, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise OptionError(f"centers must be numbers with the shape (n, 2), as (y, x): {error}") from error
    if columns.size == 0 and columns.ndim <= 2:
        return columns.reshape(0, 2)
    if columns.ndim != 2 or columns.shape[1] != 2:
        raise OptionError(f"centers must have the shape (n, 2), as (y, x); got {columns.shape}")
    return columns


def _described(value: object) -> str:
    return f"an array of {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
