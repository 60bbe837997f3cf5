"""What the check of picks says on its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryobox.given import Given
    from cryobox.options import Recipe

__all__ = ["check_picks"]


def check_picks(given: Given, recipe: Recipe) -> tuple[str, ...]:
    """Say whether the picks fit as given, and how well after other changes; a warning where they do not."""
    from cryobox.fit import check_fit
    from cryobox.inputs import prepare

    found = check_fit(prepare(given, recipe=recipe))
    print(found.told)
    print("contrast beside that of the same pattern elsewhere, in standard errors (chance: below 4, clear: from 7 on):")
    for change, score in found.scores.items():
        name = "as given" if change == found.given else str(change)
        print(f"  {name}: {score:.1f}" if score == score else f"  {name}: too few boxes inside")
    return (found.warning,) if found.warning else ()
