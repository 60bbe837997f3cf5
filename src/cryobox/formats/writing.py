"""What writes the tables of each family, and what is refused before a pixel is read because no table could say it."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from cryobox.errors import OptionError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cryobox.micrograph import Micrographs
    from cryobox.options import Recipe
    from cryobox.particles import Extracted, Particles

__all__ = ["TableWriter", "check_tables", "table_writer"]


class TableWriter(Protocol):
    """What writes the tables of one family."""

    suffix: str

    def write_particles(
        self, path: Path, particles: Particles, micrographs: Micrographs, extracted: Extracted, /
    ) -> None: ...
    def write_rejected(
        self, path: Path, particles: Particles, micrographs: Micrographs, extracted: Extracted, /
    ) -> None: ...
    def write_incomplete(
        self, path: Path, micrographs: Micrographs, rows: NDArray[np.intp], reasons: tuple[str, ...], /
    ) -> None: ...


def table_writer(family: str) -> TableWriter:
    """What writes tables of "star" or "cs"."""
    if family == "star":
        from cryobox.formats import star_output

        return star_output
    if family == "cs":
        from cryobox.formats import cs

        return cs
    raise OptionError(f"tables are written as star or cs; got {family!r}")


def check_tables(
    particles: Particles,
    micrographs: Micrographs,
    recipe: Recipe,
    *,
    native: str,
    families: Collection[str],
    rows: NDArray[np.intp],
    micrograph: NDArray[np.intp],
    pixel_size: NDArray[np.float64],
) -> tuple[str, ...]:
    """Refuse tables that could not be written together, before any pixel is read; returns warnings.

    Parameters
    ----------
    particles, micrographs
    recipe : Recipe
    native : {"star", "cs"}
        The family in which the picks' columns are written.
    families : collection of {"star", "cs"}
        Of all tables that are written.
    rows, micrograph : ndarray, shape (n,)
        The picks that will be extracted, and the micrograph of each.
    pixel_size : ndarray, shape (micrographs,)
        Å per pixel, as used.

    Raises
    ------
    OptionError
        If local CTF values would be lost.
    InputError
        If picks and micrographs contradict each other, a name cannot be written, or what comes with picks of a
        mirrored copy has no mirror image.
    """
    import numpy as np

    from cryobox.formats import ctf, mirroring, names, star_optics

    coordinate_scale = np.full(len(micrographs), recipe.coordinate_scale)
    if recipe.coordinate_pixel_size is not None:
        coordinate_scale = recipe.coordinate_pixel_size / pixel_size
    question = ctf.CtfQuestion(
        rows=rows,
        micrograph=micrograph,
        pixel_size=pixel_size,
        refresh=recipe.refresh_ctf,
        average=recipe.ctf_average,
        coordinate_scale=coordinate_scale,
        style="relion" if native == "star" else "cryosparc",
    )
    own = ctf.own_ctf(particles, micrographs, refresh=recipe.refresh_ctf)
    if not recipe.drop_alignments:
        mirroring.check_orientations(particles, (recipe.flip_y, recipe.flip_x))
    mirroring.check_ctf_terms(particles, (recipe.flip_y, recipe.flip_x), own=bool(own[rows].any()))
    warnings = ctf.check_ctf(particles, micrographs, question)
    if "star" in families:
        names.check_names(particles, micrographs, micrograph)
    if native == "cs":
        return warnings
    groups = star_optics.arrange_optics(
        particles, micrographs, rows=rows, micrograph=micrograph, pixel_size=pixel_size, own=own[rows]
    )
    return (*warnings, *ctf.check_groups(particles, micrographs, groups, len(rows)))
