"""Options of what is done to images while they are in Fourier space, beside the crop."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from cryobox.bounds import LARGEST_BOX, check_positive
from cryobox.boxes import check_even
from cryobox.declared import IMAGES, option
from cryobox.errors import OptionError
from cryobox.groups.words import CtfUse, one_of

__all__ = ["FILTER_WIDTH", "Spectrum"]

FILTER_WIDTH = 2.0  # Fourier pixels; RELION's


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Spectrum:
    """What is done to images while they are in Fourier space, beside the crop."""

    ctf: CtfUse | None = option(
        "--ctf", default=None, help="Flip phases by the CTF, or multiply with it", panel=IMAGES, check=one_of(CtfUse)
    )
    ctf_box: int | None = option(
        "--ctf-box", default=None, help="Side of the window in which the CTF is applied, pixels", shown="the box",
        panel=IMAGES, check=check_even,
    )  # fmt: skip
    ctf_intact_first_peak: bool = option(
        "--ctf-intact-first-peak", default=False, help="Leave the CTF's first peak alone", panel=IMAGES
    )
    ctf_unmarked: bool = option(
        "--ctf-unmarked", default=False, help="--ctf also where tables cannot say it (.cs)", panel=IMAGES
    )
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

    def check_spectrum(self, box: int, *, in_angstrom: bool) -> None:
        """Compare the fields with each other and with the box; `in_angstrom`: each pixel size has one of its own.

        Raises
        ------
        OptionError
        """
        if self.ctf is None and (self.ctf_box is not None or self.ctf_intact_first_peak or self.ctf_unmarked):
            raise OptionError("ctf_box, ctf_intact_first_peak and ctf_unmarked say how ctf is applied; give ctf, too")
        if self.ctf_box is not None and in_angstrom:
            raise OptionError(
                "ctf_box is in pixels, and --box-angstrom gives each pixel size a box of its own: leave one out"
            )
        if self.ctf_box is not None and not box <= self.ctf_box <= LARGEST_BOX:
            raise OptionError(
                f"ctf_box must be at least the box and at most {LARGEST_BOX} pixels; got {self.ctf_box} for box {box}"
            )
        if self.lowpass is not None and self.highpass is not None and self.highpass <= self.lowpass:
            raise OptionError(
                f"highpass must be coarser than lowpass, or nothing is left between them; got highpass "
                f"{self.highpass:g} Å and lowpass {self.lowpass:g} Å"
            )
        if self.filter_width != FILTER_WIDTH and self.lowpass is None and self.highpass is None:
            raise OptionError("filter_width is that of lowpass and highpass; give one of them, too")
