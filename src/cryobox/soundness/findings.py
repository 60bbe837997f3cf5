"""What a check found: the problems of one file, and the words that they are told in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

__all__ = ["Fault", "Findings", "Problem", "Soundness", "numbered"]

_SHOWN = 20  # numbers in a line


class Fault(StrEnum):
    """What is wrong. The values stand in the JSON objects."""

    DAMAGED = "damaged"
    LENGTH = "length"
    NOT_FINITE = "not finite"
    CONSTANT = "constant"
    SATURATED = "saturated"
    SUBNORMAL = "subnormal"
    DUPLICATE = "duplicate"
    SCALE = "scale"
    STATISTICS = "header statistics"
    MISSING = "missing file"
    NO_IMAGE = "missing image"
    SHARED = "shared image"
    PIXEL_SIZE = "pixel size"
    IMAGE_SIZE = "image size"
    NUMBER = "not a number"
    UID = "uid"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong.

    Parameters
    ----------
    fault : Fault
    text : str
        One line, the path first.
    numbers : tuple of int
        The images of a stack, or the rows of a table, that it is about, from 1; empty where it is about the file.
        Images that are not there have none: a damaged header may promise billions.
    """

    fault: Fault
    text: str
    numbers: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Soundness:
    """What was found in one file.

    Parameters
    ----------
    path : str
        As it was given, or as a table names it.
    kind : str
        "micrograph", "stack", "volume"; of tables "particles", "micrographs", "picks", "parts of particles" (a `.cs`
        without images and locations); "" where that could not be told.
    about : str
        The kind with sizes, for people.
    counts : dict
        Numbers by name: images and their ranges, rows.
    problems : tuple of Problem
        Empty if the file is sound.
    notes : tuple of str
        What is worth knowing and no fault.
    refused : str
        Why the file was not checked at all; "" if it was.
    """

    path: str
    kind: str = ""
    about: str = ""
    counts: dict[str, float] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()
    refused: str = ""


class Findings:
    """What is found in one file, while it is looked at."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.kind, self.about = "", ""
        self.counts: dict[str, float] = {}
        self.problems: list[Problem] = []
        self.notes: list[str] = []

    def add(self, fault: Fault, text: str, numbers: Sequence[int] = ()) -> None:
        """Note a problem of this file; the path is put before it."""
        self.problems.append(Problem(fault=fault, text=_in_one_line(f"{self.path}: {text}"), numbers=tuple(numbers)))

    def add_error(self, error: Exception) -> None:
        """Note what a reader said of this file: its message has the path in front already."""
        self.problems.append(Problem(fault=Fault.DAMAGED, text=_in_one_line(str(error))))

    def found(self) -> Soundness:
        """All of it."""
        return Soundness(
            path=self.path,
            kind=self.kind,
            about=self.about,
            counts=self.counts,
            problems=tuple(self.problems),
            notes=tuple(self.notes),
        )


def _in_one_line(text: str) -> str:
    """Names in tables may hold line breaks."""
    return " ".join(text.splitlines())


def numbered(numbers: Sequence[int]) -> str:
    """Numbers for a message: runs as 4-7, the first of them, and how many more there are."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    shown = runs[:_SHOWN]
    text = ", ".join(f"{first}" if first == last else f"{first}-{last}" for first, last in shown)
    left = len(numbers) - sum(last - first + 1 for first, last in shown)
    return f"{text} and {left} more" if left else text
