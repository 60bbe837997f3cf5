"""Numbers with units, as people read them."""

from __future__ import annotations

__all__ = ["in_bytes"]


def in_bytes(count: float) -> str:
    """A number of bytes with a unit, decimal: 1.5 GB."""
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.0f} {unit}" if unit == "bytes" or count >= 100 else f"{count:.3g} {unit}"
        count /= 1000
    raise AssertionError
