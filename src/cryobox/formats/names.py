"""Names that a STAR file can hold, checked before any work: two names must never become one."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from cryobox.errors import InputError
from cryobox.formats.star_text import unwritable
from cryobox.micrograph import Micrographs
from cryobox.particles import Particles

__all__ = ["check_names", "check_writable"]


def check_names(particles: Particles, micrographs: Micrographs, micrograph: NDArray[np.intp]) -> None:
    """Refuse names of micrographs and optics groups that the output tables could not hold.

    Parameters
    ----------
    micrograph : ndarray, intp
        Rows of `micrographs` that are written.

    Raises
    ------
    InputError
    """
    used = np.unique(micrograph).tolist()
    check_writable((micrographs.names[row] for row in used), f"{micrographs.source}: the name of a micrograph")
    check_writable(particles.micrograph_names, f"{particles.source}: the name of a micrograph")
    check_writable((group.name for group in micrographs.optics), f"{micrographs.source}: the name of an optics group")


def check_writable(texts: Iterable[str], what: str) -> None:
    """Raise `InputError` for the first text that a STAR file cannot hold; `what` says where it comes from."""
    for text in texts:
        if why := unwritable(text) or _spoiled(text):
            raise InputError(f"{what}, {text!a}, {why}, which a STAR file cannot hold; rename it")


def _spoiled(text: str) -> str:
    """Why RELION would pass on another name than this; "" if it would not. Seen with RELION 3.1.3."""
    if "  " in text:
        return "holds two blanks in a row, of which RELION makes one"
    if '" ' in text or ' "' in text:
        return "holds a double quote beside a blank, which RELION writes with a control character"
    return ""
