"""Two sets of particles beside each other, ours, RELION's or CryoSPARC's: rows, values, pixels. Nothing is written."""

from __future__ import annotations

from cryobox.comparison.comparing import Comparison, compare_particles

__all__ = ["Comparison", "compare_particles"]
