"""The usual defocus and voltage of some picks: for what depends on about how large they are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cryobox.formats.ctf import DEFOCUS, DEFOCUS_FIELD, NEUTRAL_DEFOCUS, own_ctf
from cryobox.formats.star_optics import StarTable
from cryobox.formats.star_text import number
from cryobox.micrograph import Micrographs
from cryobox.particles import Particles

__all__ = ["usual_defocus", "usual_voltage"]


def usual_defocus(
    particles: Particles,
    micrographs: Micrographs,
    rows: NDArray[np.intp],
    micrograph: NDArray[np.intp],
    *,
    refresh: bool,
) -> float:
    """Median defocus in Å of the rows `rows` of the picks' table, of which each lies on `micrograph`; nan: unknown."""
    own, table = own_ctf(particles, micrographs, refresh=refresh), particles.table
    values = np.full(len(rows), np.nan)
    if NEUTRAL_DEFOCUS in micrographs.ctf:
        values = micrographs.ctf[NEUTRAL_DEFOCUS][micrograph]
    if own[rows].any():
        of_picks = table.table.floats(DEFOCUS) if isinstance(table, StarTable) else table[DEFOCUS_FIELD]
        values = np.where(own[rows], of_picks[rows].astype(np.float64), values)
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else float("nan")


def usual_voltage(particles: Particles, micrographs: Micrographs) -> float:
    """KV, the median of what micrographs, else picks, say; nan: unknown."""
    said = [group.voltage_kv for group in micrographs.optics]
    table = particles.table
    if not any(value > 0 for value in said) and isinstance(table, StarTable):
        said = [number(row.get("_rlnVoltage")) for row in table.optics]
    elif not any(value > 0 for value in said) and particles.family == "cs":
        name = "ctf/accel_kv"
        said = np.unique(table[name]).tolist() if name in (table.dtype.names or ()) else []
    known = [value for value in said if value > 0]
    return float(np.median(known)) if known else float("nan")
