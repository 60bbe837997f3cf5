"""What numbers and words of options may be: what lies beyond is a slip of the hand, and refused with a sentence."""

from __future__ import annotations

import dataclasses
import math
import numbers

from cryobox.boxes import as_integer
from cryobox.errors import OptionError

__all__ = [
    "DIVISORS",
    "LARGEST_BOX",
    "LONGEST_WAIT",
    "MOST_MICROGRAPHS",
    "MOST_SHARDS",
    "MOST_THREADS",
    "MOST_WORKERS",
    "PIXEL_SIZES",
    "SCALES",
    "check_choice",
    "check_integer",
    "check_number",
    "check_part_of_a_name",
    "check_positive",
    "check_seconds",
    "check_shard",
    "check_threads",
    "check_types",
]

LARGEST_BOX = 32768  # pixels; the core refuses more, since a transform would need gigabytes

# Beyond these a number is a slip of the hand, and what it would ask of the machine or of a float is not to be had.
MOST_WORKERS = 4096
MOST_THREADS = 1024  # larger teams OpenMP dies of
MOST_SHARDS = 1_000_000
LARGEST_NUMBER = 10**9  # of a class, a group, a seed
MOST_IN_A_STACK = 2**31 - 1  # images: the number in an MRC header
MOST_MICROGRAPHS = 1_000_000_000
LONGEST_WAIT = 1e8  # seconds: three years
PIXEL_SIZES = (1e-3, 1e3)  # Å per pixel
SCALES = (1e-3, 1e3)
DIVISORS = (1e-30, 1e30)  # of gray levels, so that what is divided stays in float32


def check_choice(name: str, value: object, allowed: tuple[str, ...]) -> object:
    if value not in allowed:
        raise OptionError(f"{name} must be one of {', '.join(allowed)}; got {value!r}")
    return value


def check_part_of_a_name(_: str, value: object, *, option: str) -> object:
    if isinstance(value, str) and (not value or "/" in value):
        raise OptionError(f"{option} must be a part of a file's name, without folders; got {value!r}")
    return value


def check_integer(name: str, value: object, lowest: int, highest: int, unit: str = "") -> int:
    """Return a number as an int. Raise `OptionError` unless it is a whole one from `lowest` to `highest`."""
    whole = as_integer(value)
    if whole is None:
        raise OptionError(f"{name} must be a whole number; got {value!r}")
    if whole < lowest:
        raise OptionError(f"{name} must be at least {lowest}{unit}; got {whole}")
    if whole > highest:
        raise OptionError(f"{name} must be at most {highest}; got {whole}")
    return whole


def _real(value: object) -> float:
    """A number as a float, infinite where it is too large for one; nan for what is no number, truth values among it."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf


def check_number(name: str, value: object, unit: str = "") -> float:
    found = _real(value)
    if not math.isfinite(found):
        raise OptionError(f"{name} must be a number{unit}; got {value!r}")
    return found


def check_positive(name: str, value: object, unit: str, lowest: float = 0.0, highest: float = math.inf) -> float:
    found = _real(value)
    if not 0 < found < math.inf:
        raise OptionError(f"{name} must be a positive number{unit}; got {value!r}")
    if not lowest <= found <= highest:
        raise OptionError(f"{name} must be from {lowest:g} to {highest:g}{unit.removeprefix(' of')}; got {found:g}")
    return found


def check_seconds(name: str, value: object, *, zero: bool = False) -> float:
    """Return a time to wait as a float. Raise `OptionError` unless it is a number of seconds that can be waited for."""
    found = _real(value)
    if not (0 < found <= LONGEST_WAIT or (zero and found == 0)):
        least = "at least 0" if zero else "more than 0"
        raise OptionError(f"{name} must be {least} and at most {LONGEST_WAIT:.0f} seconds; got {value!r}")
    return found


def check_threads(threads: object) -> int:
    """Return a number of threads as an int. Raise `OptionError` unless a team of so many can be had."""
    return check_integer("threads", threads, 1, MOST_THREADS)


def check_shard(index: object, count: object, given: str) -> tuple[int, int]:
    """Return which shard of how many. Raise `OptionError`, which begins with `given`, unless there is such a one."""
    part, parts = as_integer(index), as_integer(count)
    if part is None or parts is None or not 1 <= part <= parts:
        raise OptionError(f"{given}: shards are numbered from 1 to N; got {index} of {count}")
    if parts > MOST_SHARDS:
        raise OptionError(f"{given}: there may be at most {MOST_SHARDS} shards; got {parts}")
    return part, parts


def check_types(options: object) -> None:
    """Truth values and texts, by the annotations of a dataclass: what a record holds may have been edited by hand."""
    for field in dataclasses.fields(options):  # type: ignore[arg-type]
        kind, _, rest = str(field.type).partition(" | ")
        value = getattr(options, field.name)
        wanted = {"bool": bool, "str": str}.get(kind)
        if wanted is not None and not isinstance(value, wanted) and not (rest == "None" and value is None):
            what = "true or false" if wanted is bool else "text"
            raise OptionError(f"{field.name} must be {what}; got {value!r}")
