"""Whether picks fit the micrographs: what positions alone say, and what a few micrographs show at them."""

from __future__ import annotations

from cryobox.fit.checking import CANNOT_TELL, FITS, NOTHING, Change, Fit, check_fit, looked_at
from cryobox.fit.field import part_of_the_field

__all__ = ["CANNOT_TELL", "FITS", "NOTHING", "Change", "Fit", "check_fit", "looked_at", "part_of_the_field"]
