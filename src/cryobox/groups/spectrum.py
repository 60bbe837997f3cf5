"""Options of what is done to images while they are in Fourier space, beside the crop."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from cryobox.bounds import check_positive
from cryobox.declared import IMAGES, option
from cryobox.errors import OptionError

__all__ = ["FILTER_WIDTH", "Spectrum"]

FILTER_WIDTH = 2.0  # Fourier pixels; RELION's


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Spectrum:
    """What is done to images while they are in Fourier space, beside the crop."""

    lowpass: float | None = option(
        "--lowpass", default=None, help="Leave out what is finer than this, in Å", panel=IMAGES,
        check=partial(check_positive, unit=" of Å"),
    )  # fmt: skip
    highpass: float | None = option(
        "--highpass", default=None, help="Leave out what is coarser than this, in Å", panel=IMAGES,
        check=partial(check_positive, unit=" of Å"),
    )  # fmt: skip
    filter_width: float = option(
        "--filter-width", default=FILTER_WIDTH, help="Of the filters' edges, in Fourier pixels", panel=IMAGES,
        check=partial(check_positive, unit=" of Fourier pixels"),
    )  # fmt: skip

    def check_spectrum(self) -> None:
        """Compare the fields with each other.

        Raises
        ------
        OptionError
        """
        if self.lowpass is not None and self.highpass is not None and self.highpass <= self.lowpass:
            raise OptionError(
                f"highpass must be coarser than lowpass, or nothing is left between them; got highpass "
                f"{self.highpass:g} Å and lowpass {self.lowpass:g} Å"
            )
        if self.filter_width != FILTER_WIDTH and self.lowpass is None and self.highpass is None:
            raise OptionError("filter_width is that of lowpass and highpass; give one of them, too")
