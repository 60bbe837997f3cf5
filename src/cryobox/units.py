"""Numbers with units, as people read them, and the wavelength of electrons."""

from __future__ import annotations

import math

__all__ = ["in_bytes", "wavelength"]


def in_bytes(count: float) -> str:
    """A number of bytes with a unit, decimal: 1.5 GB."""
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.0f} {unit}" if unit == "bytes" or count >= 100 else f"{count:.3g} {unit}"
        count /= 1000
    raise AssertionError


def wavelength(volts: float) -> float:
    """Of electrons, in Å, as RELION has it (docs/conventions.md, "CTF")."""
    return 12.2643247 / math.sqrt(volts * (1 + 0.978466e-6 * volts))
