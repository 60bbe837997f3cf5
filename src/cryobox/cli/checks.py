"""What the check of mirrored picks says."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryobox.inputs import Picks
    from cryobox.options import Recipe

__all__ = ["check_picks"]


def check_picks(picks: Picks, micrographs: str, recipe: Recipe, root: Path | None, *, say: bool = False) -> None:
    from cryobox.inputs import prepare
    from cryobox.mirrored import check_orientation

    found = check_orientation(prepare(picks, micrographs=micrographs, recipe=recipe, root=root))
    if say:
        print(f"contrast of {found.picks} boxes against random positions, in standard errors:")
        for name, score in found.scores.items():
            print(f"  {name}: {score:.1f}")
    if found.warning:
        print(f"cryobox: warning: {found.warning}", file=sys.stderr)
