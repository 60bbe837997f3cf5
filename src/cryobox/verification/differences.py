"""What differs between two files that should be the same, in the words of their user: row, column, found, expected."""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryobox.errors import InputError
from cryobox.formats.cs_table import as_text, read_table
from cryobox.formats.star_table import Table, read_blocks

__all__ = ["Difference", "as_json", "file_differences", "nested_differences"]

LONGEST_VALUE = 120  # characters of a value in a message


@dataclass(frozen=True, slots=True)
class Difference:
    """What differs, and the kind of place in which: those of one kind may be many."""

    text: str
    kind: str = ""


def file_differences(found: Path, wanted: Path) -> Iterator[Difference]:
    """Compare two tables or result groups of one format.

    Where their values are all the same, what else may differ (blanks, comments, padding) is told as one difference.

    Raises
    ------
    InputError
        If a file cannot be read; the message begins with its path.
    """
    if found.read_bytes() == wanted.read_bytes():
        return
    compare = {".star": _star, ".cs": _cs, ".csg": _group}[found.suffix]
    none = True
    for difference in compare(found, wanted):
        none = False
        yield difference
    if none:
        sizes = f"{found.stat().st_size} bytes, expected {wanted.stat().st_size}"
        yield Difference(f"every value is the expected one, yet the bytes differ (blanks, comments, order?): {sizes}")


# Records -------------------------------------------------------------------------------------------------------------


def as_json(value: Any) -> Any:
    """A value as it is read back from JSON."""
    return json.loads(json.dumps(value))


def nested_differences(found: Any, wanted: Any, name: str = "") -> Iterator[str]:
    """Compare what JSON or YAML gave, key by key; types count."""
    if isinstance(found, Mapping) and isinstance(wanted, Mapping):
        for key in dict.fromkeys((*wanted, *found)):
            inner = f"{name}.{key}" if name else str(key)
            if key not in found:
                yield f"{inner} is missing, expected {_shown(wanted[key])}"
            elif key not in wanted:
                yield f"{inner} is {_shown(found[key])}, but there should be no such field"
            else:
                yield from nested_differences(found[key], wanted[key], inner)
    elif isinstance(found, list) and isinstance(wanted, list) and len(found) == len(wanted):
        for number, pair in enumerate(zip(found, wanted, strict=True), start=1):
            yield from nested_differences(*pair, f"{name}[{number}]")
    elif type(found) is not type(wanted) or (found != wanted and not (found != found and wanted != wanted)):
        yield f"{name} is {_shown(found)}, expected {_shown(wanted)}"


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) and value else repr(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]} ..."


def _group(found: Path, wanted: Path) -> Iterator[Difference]:
    import yaml

    try:
        left = yaml.safe_load(found.read_bytes())
    except (yaml.YAMLError, ValueError, TypeError, RecursionError, OverflowError) as error:
        yield Difference(f"is not YAML: {_shown(' '.join(str(error).split()))}")
        return
    for text in nested_differences(left, yaml.safe_load(wanted.read_bytes())):
        yield Difference(text)


# Rows ----------------------------------------------------------------------------------------------------------------


def _column_differences(found: Sequence[str], wanted: Sequence[str], where: str) -> Iterator[Difference]:
    """Columns that are missing, not ours, or in another order."""
    for name in wanted:
        if name not in found:
            yield Difference(f"column {name}{where} is missing")
    for name in found:
        if name not in wanted:
            yield Difference(f"column {name}{where} should not be there")
    if sorted(found) == sorted(wanted) and list(found) != list(wanted):
        first = next(i for i, (a, b) in enumerate(zip(found, wanted, strict=True)) if a != b)
        yield Difference(f"columns{where} stand in another order: number {first + 1} is {found[first]}, "
                         f"expected {wanted[first]}")  # fmt: skip


def _row_differences(
    wrong: Mapping[str, NDArray[np.bool_]], say: Callable[[str, int], str], where: str
) -> Iterator[Difference]:
    """One difference for each row that has any; `wrong` says of each column which rows differ."""
    rows = np.flatnonzero(np.logical_or.reduce(list(wrong.values()))).tolist() if wrong else []
    for row in rows:
        faults = "; ".join(f"{name} is {say(name, row)}" for name, mask in wrong.items() if mask[row])
        yield Difference(f"row {row + 1}{where}: {faults}", f"rows{where}")


# STAR ----------------------------------------------------------------------------------------------------------------


def _star(found: Path, wanted: Path) -> Iterator[Difference]:
    left, right = read_blocks(found), read_blocks(wanted)
    for difference in _column_differences([f"data_{name}" for name in left], [f"data_{name}" for name in right], ""):
        yield Difference(difference.text.replace("column", "block", 1))
    for name, block in right.items():
        if name in left and left[name].raw != block.raw:
            try:
                theirs, ours = left[name].table(), block.table()
            except InputError as error:  # a block that only passes through may be anything
                yield Difference(f"data_{name} differs: {str(error).removeprefix(f'{found}: ')}")
                continue
            yield from _loop(theirs, ours, f" of data_{name}")


def _loop(found: Table, wanted: Table, where: str) -> Iterator[Difference]:
    yield from _column_differences([tag[1:] for tag in found.tags], [tag[1:] for tag in wanted.tags], where)
    shared = [tag for tag in wanted.tags if tag in found]
    texts = {tag[1:]: (list(found.raw(tag)), list(wanted.raw(tag))) for tag in shared}
    wrong = {name: np.fromiter(map(operator.ne, *pair), np.bool_, min(map(len, pair))) for name, pair in texts.items()}

    def say(name: str, row: int) -> str:
        theirs, ours = (_shown(column[row].decode("utf-8", "backslashreplace")) for column in texts[name])
        return f"{theirs}, expected {ours}"

    if len(found) == len(wanted):
        yield from _row_differences(wrong, say, where)
    else:
        yield _other_length(len(found), len(wanted), wrong, where)


def _other_length(found: int, wanted: int, wrong: Mapping[str, NDArray[np.bool_]], where: str) -> Difference:
    """Where rows are missing or too many, all below are other rows: only the first one tells."""
    differing = np.flatnonzero(np.logical_or.reduce(list(wrong.values()))).tolist() if wrong else []
    first = differing[0] if differing else min(found, wanted)
    return Difference(f"has {found} rows{where}, expected {wanted}; row {first + 1} is the first that is another")


# .cs -----------------------------------------------------------------------------------------------------------------


def _cs(found: Path, wanted: Path) -> Iterator[Difference]:
    left, right = read_table(found), read_table(wanted)
    names = [name for name in right.dtype.names or () if name in (left.dtype.names or ())]
    yield from _column_differences(left.dtype.names or (), right.dtype.names or (), "")
    for name in names:
        if left.dtype[name] != right.dtype[name]:
            yield Difference(f"column {name} is of type {_kind(left.dtype[name])}, expected {_kind(right.dtype[name])}")
    both = slice(min(len(left), len(right)))
    wrong = {name: _cells_that_differ(left[name][both], right[name][both]) for name in names}

    def say(name: str, row: int) -> str:
        return f"{_shown(_cell(left[name][row]))}, expected {_shown(_cell(right[name][row]))}"

    if len(left) == len(right):
        yield from _row_differences(wrong, say, "")
    else:
        yield _other_length(len(left), len(right), wrong, "")


def _cells_that_differ(found: NDArray[Any], wanted: NDArray[Any]) -> NDArray[np.bool_]:
    """Which rows of a column differ in any bit; in their value where the types are others."""
    if found.shape != wanted.shape or (found.dtype.kind in "SU") != (wanted.dtype.kind in "SU"):
        return np.zeros(len(found), np.bool_)  # told as another type
    if found.dtype == wanted.dtype and len(found):
        left, right = (np.ascontiguousarray(one).view(np.uint8).reshape(len(found), -1) for one in (found, wanted))
        return np.asarray((left != right).any(axis=1))
    if found.dtype.kind != wanted.dtype.kind and found.dtype.kind in "SU":
        return np.zeros(len(found), np.bool_)
    differ = found != wanted
    if found.dtype.kind == wanted.dtype.kind == "f":
        differ &= ~(np.isnan(found) & np.isnan(wanted))
    return np.asarray(differ.reshape(len(found), -1).any(axis=1))


def _kind(dtype: np.dtype[Any]) -> str:
    return f"{dtype.base.str}{list(dtype.shape) if dtype.shape else ''}"


def _cell(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"[{' '.join(_cell(one) for one in value.ravel())}]"
    return as_text(value) if isinstance(value, bytes | str) else str(value)
