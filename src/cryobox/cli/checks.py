"""What the check of mirrored picks says."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryobox.given import Given
    from cryobox.options import Recipe

__all__ = ["check_picks"]


def check_picks(given: Given, recipe: Recipe, *, say: bool = False) -> tuple[str, ...]:
    """Look whether the picks fit as given; a warning where they would fit better otherwise."""
    from cryobox.inputs import prepare
    from cryobox.mirrored import check_orientation

    found = check_orientation(prepare(given, recipe=recipe))
    if say:
        print(f"contrast of {found.picks} boxes against random positions, in standard errors:")
        for name, score in found.scores.items():
            print(f"  {name}: {score:.1f}")
    return (found.warning,) if found.warning else ()
