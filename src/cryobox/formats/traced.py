"""What files of filaments say of their picks, as values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Traced", "traces_of"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Traced:
    """What a file says of filaments beside the places of its picks.

    Parameters
    ----------
    tube : ndarray, shape (n,), int64
        Of each pick, from 1; 0: of no filament.
    psi : ndarray, shape (n,), float64, optional
        Direction of the filament there, as rlnAnglePsiPrior; nan where it is to be found from the neighbors.
    """

    tube: NDArray[np.int64]
    psi: Floats | None = None


def traces_of(parts: Sequence[Traced | None], lengths: Sequence[int]) -> tuple[NDArray[np.int64], Floats | None]:
    """Tubes and directions of several files, one behind the other; 0 and nan where a file does not say."""
    both = list(zip(parts, lengths, strict=True))
    tube = np.concatenate([np.zeros(n, np.int64) if one is None else one.tube for one, n in both])
    if all(one is None or one.psi is None for one in parts):
        return tube, None
    psi = [np.full(n, np.nan) if one is None or one.psi is None else one.psi for one, n in both]
    return tube, np.concatenate(psi)
