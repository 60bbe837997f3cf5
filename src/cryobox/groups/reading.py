"""Options of how tables and micrographs are read."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from cryobox.bounds import (
    PIXEL_SIZES,
    SCALES,
    check_part_of_a_name,
    check_positive,
)
from cryobox.declared import POSITIONS, TABLES, option
from cryobox.errors import OptionError

__all__ = [
    "Reading",
]


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Reading:
    """How tables and micrographs are read."""

    pixel_size: float | None = option(
        "--pixel-size", default=None, help="Å per pixel, where no table says it; beats headers", panel=TABLES,
        check=partial(check_positive, unit=" of Å per pixel", lowest=PIXEL_SIZES[0], highest=PIXEL_SIZES[1]),
    )  # fmt: skip
    coordinate_scale: float = option(
        "--coord-scale", default=1.0, help="Multiply coordinates (picks of a binned copy)", panel=POSITIONS,
        check=partial(check_positive, unit="", lowest=SCALES[0], highest=SCALES[1]),
    )  # fmt: skip
    coordinate_pixel_size: float | None = option(
        "--angpix-coords", default=None, help="Å per pixel of the coordinates, if another one", panel=POSITIONS,
        check=partial(check_positive, unit=" of Å per pixel", lowest=PIXEL_SIZES[0], highest=PIXEL_SIZES[1]),
    )  # fmt: skip
    coordinate_suffix: str | None = option(
        "--coord-suffix", default=None, help="Coordinate files: text after the micrograph's stem", panel=TABLES,
        check=partial(check_part_of_a_name, option="--coord-suffix"),
    )  # fmt: skip
    strip_suffix: str | None = option(
        "--strip-suffix", default=None, help="Text at the end of names that is not compared, as _DW", panel=TABLES,
        check=partial(check_part_of_a_name, option="--strip-suffix"),
    )  # fmt: skip
    strip_prefix: str | None = option(
        "--strip-prefix", default=None, help="The same at the beginning, as denoised_", panel=TABLES,
        check=partial(check_part_of_a_name, option="--strip-prefix"),
    )  # fmt: skip
    flip_x: bool = option("--flip-x", default=False, help="Picks were made on a copy mirrored in x", panel=POSITIONS)
    flip_y: bool = option("--flip-y", default=False, help="Picks were made on a copy mirrored in y", panel=POSITIONS)
    tiff_flip: bool = option(
        "--tiff-no-flip", default=True, values=(False, True), help="Keep the row order of TIFF files", panel=TABLES
    )

    def check_scales(self) -> None:
        """Refuse two scales of the coordinates.

        Raises
        ------
        OptionError
        """
        if self.coordinate_pixel_size is not None and self.coordinate_scale != 1.0:
            raise OptionError("give --coord-scale or --angpix-coords, not both: each says how large coordinates are")
