"""What is cut out of a micrograph and what is stored of it: the values that go down into the core together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryobox.options import StoredDtype

__all__ = ["Stored", "Windows"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """Squares of a micrograph, in columns: one entry a window.

    Parameters
    ----------
    box : int
        Side in pixels.
    pad : bool
        Repeat the nearest pixel of the edge where a window hangs over, instead of refusing it.
    corner : ndarray, shape (n, 2), int64
        First pixel (y, x) of each; may lie outside the micrograph.
    """

    box: int
    pad: bool
    corner: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.corner)

    def take(self, rows: Any) -> Windows:
        """Some of them: `rows` is a slice, a mask or an array of indices."""
        return replace(self, corner=self.corner[rows])

    def rows_needed(self, ny: int) -> tuple[int, int]:
        """First row that any window touches of a micrograph of `ny` rows, and one past the last."""
        top = int(self.corner[:, 0].min())
        bottom = int(self.corner[:, 0].max()) + self.box
        # A padded window repeats the edge row, so at least that one is needed.
        return min(max(top, 0), ny - 1), max(min(bottom, ny), 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One of the sizes that images are stored at.

    Parameters
    ----------
    size : int
        Side in pixels, even, at most the box.
    dtype : {"float32", "float16"}
        Type of the pixels.
    background_radius : float
        Pixels from the center beyond which a pixel is background, 1 <= radius < size / 2; used only to normalize.
    """

    size: int
    dtype: StoredDtype
    background_radius: float

    @property
    def bytes_per_image(self) -> int:
        """Bytes of one image."""
        return self.size**2 * np.dtype(self.dtype).itemsize
