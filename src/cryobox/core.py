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
from enum import IntEnum
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryobox import gpu
from cryobox.boxes import check_even
from cryobox.centering import box_corners
from cryobox.errors import BackendError, OptionError
from cryobox.options import Edges, Recipe, Rounding, StoredDtype, check_threads

__all__ = [
    "PIXEL_TYPES",
    "STATISTICS",
    "Status",
    "build_facts",
    "extract",
    "extract_windows",
    "fftw_version",
    "fourier_crop",
]

_IMPORTED_BY = os.getpid()
_ORDINARY = 2.0**90  # beyond this, and below its inverse, sums of so many pixels as a box has may leave float32

_DEFAULT: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(Recipe)}

PIXEL_TYPES = ("int8", "uint8", "int16", "uint16", "float16", "float32")
"""The types of pixels that the core reads, in either byte order."""

STATISTICS = ("minimum", "maximum", "mean", "sd", "background_mean", "background_sd", "clamped")
"""Columns of the statistics. The first four are those of the stored image before a cast to float16; the background's
are in gray levels of the micrograph, the mean before and the sd after the ramp is subtracted (0 without `normalize`);
`clamped` counts pixels beyond ±65504 in float16."""


class Status(IntEnum):
    """What became of one particle; the values are the core's."""

    OK = 0
    OUTSIDE = 1
    NOT_FINITE = 2
    NO_CONTRAST = 3


def extract_windows(
    image: Any,
    corners: NDArray[np.int64],
    outputs: Sequence[Any],
    *,
    box: int,
    radii: Sequence[float],
    pad: bool,
    normalize: bool,
    ramp: bool,
    invert: bool,
    scale_const: float | None,
    threads: int,
    device: str = "cpu",
    device_memory: int = 0,
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Cut, crop and normalize windows into stacks that the caller owns; nothing is copied or cast on the way in.

    Parameters
    ----------
    image : ndarray, shape (ny, nx)
        One of `PIXEL_TYPES`, either byte order; pixels of a row adjacent, rows may be padded.
    corners : ndarray, shape (n, 2), int64
        (y, x) of the first pixel of each window.
    outputs : sequence of ndarray, shape (n, m, m), float32 or float16
        One per size, largest first, each C-contiguous; `m` even and at most `box`.
    radii : sequence of float
        Background radius of each output in its own pixels, 1 <= radius < m / 2; used only to normalize.
    pad : bool
        Repeat the nearest pixel of the edge where a window hangs over, instead of rejecting it.
    scale_const : float, optional
        Divide by this instead of each particle's own background sd.
    threads : int
        OpenMP threads; any number gives the same bits.
    device : str
        "cpu", or "cuda:N": then `image`, or all of `outputs`, may be arrays in the memory of that GPU.
    device_memory : int
        Bytes of a GPU that this call may use; 0: half of what is free.

    Returns
    -------
    status : ndarray, shape (n,), uint8
        A `Status` per particle. One that is not OK is zeros in every output.
    statistics : ndarray, shape (number of outputs, n, 7), float64
        Columns as `STATISTICS`.

    Raises
    ------
    OptionError
        If an array or a number is not as above; nothing has been written then.
    BackendError
        If the backend is missing or fails.
    """
    cut = partial(
        _backend(device, device_memory).extract,
        box=box,
        radii=list(radii),
        pad=pad,
        normalize=normalize,
        ramp=ramp,
        invert=invert,
    )
    divisor = 0.0 if scale_const is None else scale_const
    try:
        status, statistics = _in_a_team(threads, cut, image, corners, list(outputs), scale_const=divisor)
        if all(isinstance(array, np.ndarray) for array in (image, *outputs)) and image.dtype.itemsize == 4:
            for row in _doubtful(status, statistics, normalize=normalize).tolist():
                window = _window(image, corners[row], box)
                if _leaves_float32(window):
                    particle = [output[row : row + 1] for output in outputs]
                    status[row], statistics[:, row] = _cut_scaled(cut, window, particle, divisor, normalize=normalize)
    except ValueError as error:
        raise OptionError(str(error)) from error
    except RuntimeError as error:
        raise BackendError(f"{device}: {error}") from error
    return status, statistics


def _doubtful(status: NDArray[np.uint8], statistics: NDArray[np.float64], *, normalize: bool) -> NDArray[np.intp]:
    """Particles whose gray levels may be too large or too small for sums of float32 numbers, as their transform is."""
    level = statistics[:, :, 5] if normalize else np.abs(statistics[:, :, :2]).max(axis=2)
    small = (status == Status.OK) & (level < 1 / _ORDINARY).any(axis=0)
    return np.flatnonzero(small | (status == Status.NOT_FINITE) | (status == Status.NO_CONTRAST))


def _window(image: NDArray[np.float32], corner: NDArray[np.int64], box: int) -> NDArray[np.float64]:
    y, x = (np.clip(first + np.arange(box), 0, side - 1) for first, side in zip(corner, image.shape, strict=True))
    window: NDArray[np.float64] = image[y[:, None], x].astype(np.float64)
    return window


def _leaves_float32(window: NDArray[np.float64]) -> bool:
    largest = float(np.abs(window).max())  # nan where a pixel is nan: then there is nothing to be saved
    return 0 < largest < 1 / _ORDINARY or _ORDINARY < largest < math.inf


def _scaled(window: NDArray[np.float64]) -> tuple[NDArray[np.float32], int]:
    """Gray levels of about 1, and the power of two that makes them those of the window: no digit is changed."""
    exponent = math.frexp(float(np.abs(window).max()))[1]
    return np.ldexp(window, -exponent).astype(np.float32), exponent


def _cut_scaled(
    cut: Callable[..., Any],
    window: NDArray[np.float64],
    outputs: list[NDArray[Any]],
    divisor: float,
    *,
    normalize: bool,
) -> tuple[int, NDArray[np.float64]]:
    """Cut one particle again, from its window in a range that float32 holds; its status and statistics."""
    scaled, exponent = _scaled(window)
    made = [np.empty_like(output, dtype=output.dtype if normalize else np.float32) for output in outputs]
    (status,), statistics = cut(
        scaled, np.zeros((1, 2), np.int64), made, scale_const=math.ldexp(divisor, -exponent), threads=1
    )
    found: NDArray[np.float64] = statistics[:, 0]
    own = slice(4, 6) if normalize else slice(0, 6)
    found[:, own] = np.ldexp(found[:, own], exponent)
    if not normalize and np.abs(found[:, :2]).max() > np.finfo(np.float32).max:
        status = Status.NOT_FINITE
    for output, image, numbers in zip(outputs, made, found, strict=True):
        if status != Status.OK:
            output[:] = 0
        elif normalize:
            output[:] = image
        else:
            gray, most = np.ldexp(image.astype(np.float64), exponent), float(np.finfo(output.dtype).max)
            output[:] = np.clip(gray, -most, most)
            if output.dtype == np.float16:
                numbers[6] = np.count_nonzero(np.abs(gray) > most)
            else:  # what is stored, since a subnormal float32 has fewer digits than a scaled one
                stored = output.astype(np.float64)
                numbers[:4] = stored.min(), stored.max(), stored.mean(), stored.std()
    return status, found


def _in_a_team(threads: int, work: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Call the core with so many threads; also in a process that was forked, which has not the threads of the other.

    OpenMP would wait for them forever, but only in the thread that they served: a new one gets a team of its own.
    """
    if threads == 1 or os.getpid() == _IMPORTED_BY:
        return work(*arguments, **options, threads=threads)
    with ThreadPoolExecutor(1) as alone:
        return alone.submit(work, *arguments, **options, threads=threads).result()


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
    empty = gpu.backend(device).empty if on_device else np.empty
    stacks: list[Any] = [empty((len(corners), size, size), recipe.dtype) for size in recipe.sizes]
    status, _ = extract_windows(
        image,
        corners,
        stacks,
        box=recipe.box,
        radii=[recipe.radius_in_pixels(size, math.nan) for size in recipe.sizes],
        pad=recipe.edges == "pad",
        normalize=recipe.normalize,
        ramp=recipe.ramp,
        invert=invert,
        scale_const=recipe.scale_const,
        threads=threads,
        device=device,
    )
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
        _in_a_team(threads, crop, stack, out)
        peak = np.maximum(out.max(axis=(1, 2)), -out.min(axis=(1, 2)))
        for row in np.flatnonzero(~((peak >= 1 / _ORDINARY) & (peak < math.inf))).tolist():
            if _leaves_float32(window := stack[row].astype(np.float64)):
                scaled, exponent = _scaled(window)
                crop(scaled[None], out[row : row + 1], threads=1)
                gray = np.ldexp(out[row].astype(np.float64), exponent)
                out[row] = np.where(np.abs(gray) > np.finfo(np.float32).max, math.nan, gray)
    except ValueError as error:
        raise OptionError(str(error)) from error
    return out.reshape(*images.shape[:-2], size, size)


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
