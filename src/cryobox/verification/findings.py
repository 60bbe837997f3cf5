"""What `verify` found: problems in the order they were met, those of one kind not without end."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["MOST_PROBLEMS", "Problems", "Verification"]

MOST_PROBLEMS = 50  # of one kind; a stale folder would have one for every row


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What was checked and what is wrong.

    Parameters
    ----------
    rows : int
        Table rows checked, over all sizes.
    images : int
        Stored images recomputed and compared, over all sizes.
    refused : int
        Windows that were refused for their pixels, cut again.
    worst : float
        The largest difference found, as a part of what is allowed (1.0 is the limit).
    removed : int
        Stacks that `cryobox compact` removed, whose images were not compared.
    problems : tuple of str
        Each names the file and what differs; empty if all is well.
    """

    rows: int
    images: int
    refused: int
    worst: float
    problems: tuple[str, ...]
    removed: int = 0


class Problems:
    """Problems as they are found; of one kind the first ones, and how many there are in all."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._counts: dict[str, int] = {}

    def add(self, text: str, kind: str | None = None) -> None:
        """Note a problem; those with an equal `kind`, which says where they are, are counted together."""
        if kind is not None:
            self._counts[kind] = self._counts.get(kind, 0) + 1
            if self._counts[kind] > MOST_PROBLEMS:
                return
        self._texts.append(text)

    def texts(self) -> tuple[str, ...]:
        """All that is to be told."""
        many = {kind: count for kind, count in self._counts.items() if count > MOST_PROBLEMS}
        sums = (f"{kind} are wrong: {count} in all, {MOST_PROBLEMS} are told" for kind, count in many.items())
        return (*self._texts, *sums)
