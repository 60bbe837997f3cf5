"""Whatever is changed in a finished run is found and named: each column, header field, key and field, one at a time.

The columns and fields are those that the files have, so that a new one is covered as soon as it is written.
"""

from __future__ import annotations

import copy
import io
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mrcfile.dtypes
import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

import eventful
from cryobox.errors import CryoboxError
from cryobox.folder.records import sealed
from cryobox.verification import verify
from eventful import Run

STAR_TABLES = ("particles", "particles_small", "rejected", "micrographs_incomplete")
STACKS = ("stacks/m0_particles.mrcs", "stacks_small/m1_particles.mrcs")
# Fields that follow from nothing: only their digest tells that they were changed.
MEASURED = re.compile(r"(run\.(host|process|cpu|time|changed.*)|background_.*|.*_seconds|ended|bytes_read|warnings.*)")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """A run of each style; every test leaves them as they were."""
    return {style: eventful.make_run(tmp_path_factory.mktemp(style), style) for style in ("relion", "cryosparc")}


def problems_with(run: Run, path: Path, data: bytes) -> list[str]:
    """What `verify` says while `path` holds other bytes."""
    original = path.read_bytes()
    assert data != original, "nothing is changed, so nothing would be proved"
    path.write_bytes(data)
    try:
        return list(verify(run.out, sample=1).problems)
    except CryoboxError as error:  # what cannot be used at all is refused, which also names it
        return [str(error)]
    finally:
        path.write_bytes(original)


def missed(cases: Iterator[tuple[bytes, str]], run: Run, path: Path) -> list[str]:
    """The changes that were not named as they should be: the text expected, and what was said instead."""
    found, count = [], 0
    for data, expected in cases:
        count += 1
        said = problems_with(run, path, data)
        if not any(text.startswith(f"{path}: ") and expected in text for text in said):
            found.append(f"{expected!r} is not in {said}")
    assert count, "no case was made"
    return found


# STAR ----------------------------------------------------------------------------------------------------------------


def loops(text: str) -> Iterator[tuple[str, list[str], list[int]]]:
    """Name, tags and numbers of the lines with rows of each loop."""
    lines = text.split("\n")
    block, tags, rows = "", [], []
    for number, line in enumerate([*lines, "data_"]):
        if line.startswith("data_"):
            if tags:
                yield block, tags, rows
            block, tags, rows = line.removeprefix("data_"), [], []
        elif line.startswith("_"):
            tags.append(line.split()[0][1:])
        elif tags and line.strip() and not line.startswith("#"):
            rows.append(number)


def words(line: str) -> list[str]:
    return re.findall(r'"[^"]*"|\S+', line)


def changed_text(value: str) -> str:
    """Another value, as near to the first as may be: its last character is another one."""
    end = value.rstrip('"]')
    last = end[-1]
    other = str((int(last) + 1) % 10) if last.isdigit() else "x" if last != "x" else "y"
    return f"{end[:-1]}{other}{value[len(end) :]}"


def star_values(text: str) -> Iterator[tuple[bytes, str]]:
    """Change one value of every column of every block, each in another row."""
    lines = text.split("\n")
    for block, tags, rows in loops(text):
        for column, tag in enumerate(tags):
            row = column % len(rows)
            values = words(lines[rows[row]])
            old, values[column] = values[column], changed_text(values[column])
            new = [*lines]
            new[rows[row]] = " ".join(values)
            yield "\n".join(new).encode(), f"row {row + 1} of data_{block}: {tag} is {values[column]}, expected {old}"


@pytest.mark.parametrize("name", STAR_TABLES)
def test_a_changed_value_in_any_column_of_a_star_table_is_named_with_its_row(runs: dict[str, Run], name: str) -> None:
    path = runs["relion"].out / f"{name}.star"
    assert missed(star_values(path.read_text()), runs["relion"], path) == []


@pytest.mark.parametrize("name", STAR_TABLES)
def test_a_dropped_or_added_column_of_a_star_table_is_named(runs: dict[str, Run], name: str) -> None:
    path = runs["relion"].out / f"{name}.star"
    text = path.read_text()

    def cases() -> Iterator[tuple[bytes, str]]:
        lines = text.split("\n")
        for block, tags, rows in loops(text):
            for column, tag in enumerate(tags):
                new = [*lines]
                for row in rows:
                    new[row] = " ".join(words(lines[row])[:column] + words(lines[row])[column + 1 :])
                if len(tags) > 1:
                    del new[rows[0] - len(tags) + column]
                    yield "\n".join(new).encode(), f"column {tag} of data_{block} is missing"
            new = [line if number not in rows else f"{line} 1" for number, line in enumerate(lines)]
            new.insert(rows[0], "_labMore #99")
            yield "\n".join(new).encode(), f"column labMore of data_{block} should not be there"

    assert missed(cases(), runs["relion"], path) == []


@pytest.mark.parametrize("name", STAR_TABLES)
def test_swapped_lost_and_repeated_rows_of_a_star_table_are_named(runs: dict[str, Run], name: str) -> None:
    path = runs["relion"].out / f"{name}.star"
    text = path.read_text()

    def cases() -> Iterator[tuple[bytes, str]]:
        lines = text.split("\n")
        for block, _, rows in loops(text):
            new = [*lines]
            del new[rows[0]]
            count = len(rows)
            if count > 1:
                yield "\n".join(new).encode(), f"has {count - 1} rows of data_{block}, expected {count}; row 1 is"
                new = [*lines]
                new[rows[0]], new[rows[1]] = new[rows[1]], new[rows[0]]
                yield "\n".join(new).encode(), f"row 2 of data_{block}: "
            new = [*lines]
            new.insert(rows[-1], new[rows[-1]])
            yield "\n".join(new).encode(), f"has {count + 1} rows of data_{block}, expected {count}; row {count + 1} is"

    assert missed(cases(), runs["relion"], path) == []


@pytest.mark.parametrize("name", STAR_TABLES)
def test_lost_blocks_moved_columns_and_mere_blanks_of_a_star_table_are_told(runs: dict[str, Run], name: str) -> None:
    path = runs["relion"].out / f"{name}.star"
    text = path.read_text()

    def cases() -> Iterator[tuple[bytes, str]]:
        lines = text.split("\n")
        names = [block for block, *_ in loops(text)]
        for block, tags, rows in loops(text):
            if len(names) > 1:
                new = [line for number, line in enumerate(lines) if number not in rows]
                new = [line for line in new if line != f"data_{block}"]
                first = new.index(f"_{tags[0]} #1")
                yield "\n".join(new[: first - 1] + new[first + len(tags) :]).encode(), f"block data_{block} is missing"
            yield text.replace(f"data_{block}\n", f"data_{block}x\n").encode(), f"block data_{block}x should not be"
            if len(tags) > 1:
                new, place = [*lines], rows[0] - len(tags)
                new[place], new[place + 1] = f"_{tags[1]} #1", f"_{tags[0]} #2"
                for row in rows:
                    new[row] = " ".join([*words(lines[row])[1::-1], *words(lines[row])[2:]])
                yield "\n".join(new).encode(), f"columns of data_{block} stand in another order: number 1 is {tags[1]}"
        yield text.replace("\n\n", "\n \n", 1).encode(), "every value is the expected one, yet the bytes differ"

    assert missed(cases(), runs["relion"], path) == []


# .cs and .csg --------------------------------------------------------------------------------------------------------


def cs_bytes(table: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, table, allow_pickle=False)
    return file.getvalue()


def flipped(table: NDArray[Any], name: str, row: int) -> NDArray[Any]:
    """One bit of one value is another: the lowest bit of the last number, or of the last letter."""
    new = table.copy()
    column = np.ascontiguousarray(new[name])
    raw = column.view(np.uint8).reshape(len(new), -1)
    last = column.dtype.itemsize if column.dtype.kind != "S" else max(1, len(column[row]))
    raw[row, -column.dtype.itemsize if column.dtype.kind != "S" else last - 1] ^= 1
    new[name] = column
    return new


@pytest.mark.parametrize("name", STAR_TABLES)
def test_a_flipped_bit_in_any_column_of_a_cs_table_is_named_with_its_row(runs: dict[str, Run], name: str) -> None:
    path = runs["cryosparc"].out / f"{name}.cs"
    table = np.load(path, allow_pickle=False)
    rows = {field: number % len(table) for number, field in enumerate(table.dtype.names)}
    cases = ((cs_bytes(flipped(table, field, row)), f": row {row + 1}: {field} is ") for field, row in rows.items())
    assert missed(cases, runs["cryosparc"], path) == []


def with_types(table: NDArray[Any], types: list[tuple[str, np.dtype[Any]]]) -> NDArray[Any]:
    new: NDArray[Any] = np.zeros(len(table), np.dtype(types))
    for name, _ in types:
        if name in (table.dtype.names or ()):
            new[name] = table[name] if new[name].ndim == table[name].ndim else new[name]
    return new


@pytest.mark.parametrize("name", STAR_TABLES)
def test_a_dropped_added_retyped_or_moved_column_of_a_cs_table_is_named(runs: dict[str, Run], name: str) -> None:
    path = runs["cryosparc"].out / f"{name}.cs"
    table = np.load(path, allow_pickle=False)
    types = [(field, table.dtype[field]) for field in table.dtype.names]

    def retyped(dtype: np.dtype[Any]) -> np.dtype[Any]:
        wider = f"S{dtype.itemsize + 1}" if dtype.kind == "S" else f"<{'f' if dtype.base.kind == 'f' else 'i'}8"
        return np.dtype((wider, dtype.shape))

    def cases() -> Iterator[tuple[bytes, str]]:
        for number, (field, dtype) in enumerate(types):
            rest = types[:number] + types[number + 1 :]
            yield cs_bytes(with_types(table, rest)), f"column {field} is missing"
            new = (field, retyped(dtype))
            yield (
                cs_bytes(with_types(table, [*types[:number], new, *types[number + 1 :]])),
                f"column {field} is of type",
            )
            new = (field, np.dtype((dtype.base, (3, *dtype.shape))))
            yield (
                cs_bytes(with_types(table, [*types[:number], new, *types[number + 1 :]])),
                f"column {field} is of type",
            )
        more = [*types, ("lab/more", np.dtype("<f4"))]
        yield cs_bytes(with_types(table, more)), "column lab/more should not be there"
        yield cs_bytes(with_types(table, types[::-1])), f"columns stand in another order: number 1 is {types[-1][0]}"

    assert missed(cases(), runs["cryosparc"], path) == []


@pytest.mark.parametrize("name", STAR_TABLES)
def test_swapped_lost_and_repeated_rows_of_a_cs_table_are_named(runs: dict[str, Run], name: str) -> None:
    path = runs["cryosparc"].out / f"{name}.cs"
    table = np.load(path, allow_pickle=False)
    n = len(table)

    def cases() -> Iterator[tuple[bytes, str]]:
        if n > 1:
            yield cs_bytes(table[[1, 0, *range(2, n)]]), ": row 2: uid is "
            yield cs_bytes(table[1:]), f"has {n - 1} rows, expected {n}; row 1 is the first that is another"
        yield cs_bytes(table[[*range(n), 0]]), f"has {n + 1} rows, expected {n}; row {n + 1} is the first"
        yield path.read_bytes() + b"\0", "every value is the expected one, yet the bytes differ"

    assert missed(cases(), runs["cryosparc"], path) == []


# Nested records ------------------------------------------------------------------------------------------------------


def leaves(record: Any, where: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The place of every value in a nest of mappings and lists; empty ones count as values."""
    inner = record.items() if isinstance(record, dict) else enumerate(record) if isinstance(record, list) else ()
    if not inner or not record:
        yield where
    for key, value in inner if record else ():
        yield from leaves(value, (*where, key))


def dotted(where: tuple[Any, ...]) -> str:
    """How messages call a place."""
    return "".join(f"[{key + 1}]" if isinstance(key, int) else f".{key}" for key in where)[1:]


def changed(value: Any) -> Any:
    """Another value of the same kind where there is one."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return 1.5 if value != value or not value else value * (1 + 1e-6)
    if isinstance(value, str):
        return f"{value}x"
    if isinstance(value, list):
        return ["x"]
    if isinstance(value, dict):
        return {"x": 1}
    return 1 if value is None else value.replace(year=2020)


def edited(record: Any, where: tuple[Any, ...], edit: Callable[[Any, Any], None]) -> Any:
    new = copy.deepcopy(record)
    inner = new
    for key in where[:-1]:
        inner = inner[key]
    edit(inner, where[-1])
    return new


def change(inner: Any, key: Any) -> None:
    inner[key] = changed(inner[key])


def refuse_the_first(inner: Any, key: Any) -> None:
    inner[key] = [[0, "no contrast"]]


def drop(inner: Any, key: Any) -> None:
    del inner[key]


@pytest.mark.parametrize("name", ["particles", "particles_small"])
def test_any_changed_or_lost_key_of_a_result_group_is_named(runs: dict[str, Run], name: str) -> None:
    path = runs["cryosparc"].out / f"{name}.csg"
    group = yaml.safe_load(path.read_text())

    def cases() -> Iterator[tuple[bytes, str]]:
        for where in leaves(group):
            yield yaml.safe_dump(edited(group, where, change)).encode(), f"{dotted(where)} is "
            yield yaml.safe_dump(edited(group, where, drop)).encode(), f"{dotted(where)} is missing"
        more = edited(group, ("results", "more"), lambda inner, key: inner.update({key: {"num_items": 4}}))
        yield yaml.safe_dump(more).encode(), "results.more is {'num_items': 4}, but there should be no such field"

    assert missed(cases(), runs["cryosparc"], path) == []


@pytest.mark.parametrize("style", ["relion", "cryosparc"])
def test_any_changed_or_lost_field_of_the_record_is_named_and_times_by_their_digest(
    runs: dict[str, Run], style: str
) -> None:
    path = runs[style].out / "job.json"
    record = json.loads(path.read_bytes())
    unsealed = "its digest does not fit the other fields"
    assert record["warnings"]

    def cases() -> Iterator[tuple[bytes, str]]:
        for where in leaves(record):
            if where[0] == "complete":
                continue
            told_by = {"seconds": unsealed, "digest": unsealed, "warnings": "warnings lack "}.get(where[0])
            yield json.dumps(edited(record, where, change)).encode(), told_by or f"{dotted(where)} is "
            if isinstance(where[-1], str) and where[0] != "digest":
                yield json.dumps(edited(record, where, drop)).encode(), told_by or f"{dotted(where)} is missing"
        yield json.dumps(record | {"more": 1}).encode(), "more is 1, but there should be no such field"
        without = {key: value for key, value in record.items() if key != "digest"}
        yield json.dumps(without).encode(), "has no digest"

    assert missed(cases(), runs[style], path) == []


def test_a_record_that_is_not_complete_any_more_is_refused(runs: dict[str, Run]) -> None:
    path = runs["relion"].out / "job.json"
    said = problems_with(runs["relion"], path, json.dumps(json.loads(path.read_bytes()) | {"complete": False}).encode())
    assert said == [f"{path}: does not say that the run is complete; run the same command again"]


@pytest.mark.parametrize("style", ["relion", "cryosparc"])
def test_counts_of_the_record_are_wrong_even_where_their_digest_was_made_anew(runs: dict[str, Run], style: str) -> None:
    path = runs[style].out / "job.json"
    record = json.loads(path.read_bytes())
    derived = ("picks", "extracted", "rejected", "micrographs", "incomplete", "tables", "fftw")
    cases = (
        (json.dumps(sealed(edited(record, where, change))).encode(), f"{dotted(where)} is ")
        for where in leaves(record)
        if where[0] in derived and where[0] != "fftw"
    )
    assert missed(cases, runs[style], path) == []


# Stacks --------------------------------------------------------------------------------------------------------------


def header_bytes(dtype: np.dtype[Any], name: str = "", offset: int = 0) -> Iterator[tuple[str, int]]:
    """The name of every field of a header, as `mrcfile` has them, and the places of its first and last byte."""
    if dtype.names:
        for inner, (kind, place, *_) in (dtype.fields or {}).items():
            yield from header_bytes(kind, f"{name}.{inner}" if name else inner, offset + place)
    elif dtype.shape and dtype.base.kind == "S":
        for number in range(dtype.shape[0]):
            yield from header_bytes(dtype.base, f"{name}[{number + 1}]", offset + number * dtype.base.itemsize)
    else:
        yield from ((name, offset), (name, offset + dtype.itemsize - 1))


@pytest.mark.parametrize("name", STACKS)
def test_any_changed_field_of_a_stack_header_is_named(runs: dict[str, Run], name: str) -> None:
    path = runs["relion"].out / name

    def cases() -> Iterator[tuple[bytes, str]]:
        for field, place in header_bytes(mrcfile.dtypes.HEADER_DTYPE):
            data = bytearray(path.read_bytes())
            data[place] ^= 1
            yield bytes(data), f"header says {field} = "

    assert missed(cases(), runs["relion"], path) == []


def test_the_fields_of_a_header_are_all_its_bytes() -> None:
    places = [place for _, place in header_bytes(mrcfile.dtypes.HEADER_DTYPE)]
    assert places[0] == 0
    assert places[-1] == 1023
    assert all(first - last == 1 for last, first in zip(places[1::2], places[2::2], strict=False))


@pytest.mark.parametrize("name", STACKS)
def test_a_stack_that_is_longer_or_shorter_is_named(runs: dict[str, Run], name: str) -> None:
    path = runs["relion"].out / name
    data = path.read_bytes()
    cases = iter([(data + b"\0", f"bytes is {len(data) + 1}"), (data[:-1], f"file holds {len(data) - 1025}")])
    assert missed(cases, runs["relion"], path) == []


# Ledger --------------------------------------------------------------------------------------------------------------


def ledger_cases(
    lines: list[dict[str, Any]], seal: Callable[[dict[str, Any]], dict[str, Any]], *, measured: bool
) -> Iterator[tuple[bytes, int, str]]:
    for number, line in enumerate(lines):
        for where in leaves(line):
            name = dotted(where)
            if name == "digest" or (not measured and MEASURED.fullmatch(name)):
                continue
            new = [*lines]
            edit = refuse_the_first if name == "refused" else change
            new[number] = seal(edited(line, where, edit))
            yield "".join(json.dumps(record) + "\n" for record in new).encode(), number + 1, name


def ledger_lines(run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.out / "ledger.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("style", ["relion", "cryosparc"])
def test_a_line_of_the_ledger_in_which_any_field_was_changed_is_named(runs: dict[str, Run], style: str) -> None:
    lines, path = ledger_lines(runs[style]), runs[style].out / "ledger.jsonl"
    found = []
    for data, number, name in ledger_cases(lines, lambda record: record, measured=True):
        said = problems_with(runs[style], path, data)
        if not any(text.startswith(f"{path}: line {number}") for text in said):
            found.append(f"{number} {name}: {said}")
    assert found == []


@pytest.mark.parametrize("style", ["relion", "cryosparc"])
def test_what_a_line_of_the_ledger_says_of_plan_and_stacks_is_compared_even_where_its_digest_was_made_anew(
    runs: dict[str, Run], style: str
) -> None:
    lines, path = ledger_lines(runs[style]), runs[style].out / "ledger.jsonl"
    found = []
    for data, number, name in ledger_cases(lines, sealed, measured=False):
        said = problems_with(runs[style], path, data)
        named = name.rpartition(".")[2] if "stacks" in name else name.partition("[")[0]
        words = {"id": "no record", "minimum": "dmin", "maximum": "dmax", "mean": "dmean", "error": "micrographs_inc"}
        if not any(words.get(named, named) in text for text in said):
            found.append(f"{number} {name}: {said}")
    assert found == []


# Windows -------------------------------------------------------------------------------------------------------------


def with_pixels(run: Run, number: int, edit: Callable[[NDArray[Any]], None]) -> list[str]:
    """What `verify` says where a micrograph's pixels were changed behind its back: same size, same time."""
    path = run.folder / f"mics/m{number}.mrc"
    original, status = path.read_bytes(), path.stat()
    count = eventful.SHAPE[0] * eventful.SHAPE[1]
    end = 1024 + 4 * count
    pixels = np.frombuffer(original, "<f4", count, offset=1024).reshape(eventful.SHAPE).copy()
    edit(pixels)
    path.write_bytes(original[:1024] + pixels.tobytes() + original[end:])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    try:
        return list(verify(run.out, everything=True).problems)
    finally:
        path.write_bytes(original)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_windows_that_should_not_have_been_refused_are_found(runs: dict[str, Run]) -> None:
    def mend(pixels: NDArray[Any]) -> None:
        pixels[38:42, 38:42] = 1.0
        pixels[60:100, 75:115] += np.arange(40, dtype=np.float32) ** 2

    said = "\n".join(with_pixels(runs["relion"], 1, mend))
    assert "was refused for: pixels that are not finite; cut again it would have been cut" in said
    assert "was refused for: no contrast; cut again it would have been cut" in said


def test_a_window_that_was_refused_for_another_reason_is_found(runs: dict[str, Run]) -> None:
    def spoil(pixels: NDArray[Any]) -> None:
        pixels[75:80, 90:95] = np.inf

    said = "\n".join(with_pixels(runs["relion"], 1, spoil))
    assert "was refused for: no contrast; cut again it is refused for: pixels that are not finite" in said


def test_images_that_should_have_been_refused_are_found(runs: dict[str, Run]) -> None:
    def spoil(pixels: NDArray[Any]) -> None:
        pixels[25:30, 30:35] = np.nan

    said = "\n".join(with_pixels(runs["relion"], 0, spoil))
    assert "image 1 (particles.star row 1) should have been refused: pixels that are not finite" in said


def test_statistics_that_are_not_those_of_the_pixels_are_found_where_ledger_and_header_agree(
    runs: dict[str, Run],
) -> None:
    run = runs["relion"]
    for place, name in ((0, "minimum"), (1, "maximum"), (2, "mean"), (3, "rms")):
        lines = ledger_lines(run)
        ledger, stack = run.out / "ledger.jsonl", run.out / lines[2]["stacks"][0]["path"]
        lines[2]["stacks"][0][name] += 1e-4
        lines[2] = sealed(lines[2])
        data = bytearray(stack.read_bytes())
        offset = (76, 80, 84, 216)[place]
        data[offset : offset + 4] = np.float32(lines[2]["stacks"][0][name]).tobytes()
        original = stack.read_bytes()
        stack.write_bytes(data)
        try:
            text = "".join(json.dumps(line) + "\n" for line in lines).encode()
            said = verify_all_with(run, ledger, text)
        finally:
            stack.write_bytes(original)
        assert len(said) == 1
        assert said[0].startswith(f"{stack}: the ledger says {name} = ")


def verify_all_with(run: Run, path: Path, data: bytes) -> list[str]:
    original = path.read_bytes()
    path.write_bytes(data)
    try:
        return list(verify(run.out, everything=True).problems)
    finally:
        path.write_bytes(original)


# Tables that are there or not ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", ["relion", "cryosparc"])
def test_every_table_that_is_gone_is_named(runs: dict[str, Run], style: str) -> None:
    run = runs[style]
    names = json.loads((run.out / "job.json").read_bytes())["tables"]
    assert len(names) >= 4
    for name in names:
        path = run.out / name
        data = path.read_bytes()
        path.unlink()
        said = verify(run.out, sample=1).problems
        path.write_bytes(data)
        assert f"{path}: is not there, but this run has such a table" in said


def test_a_table_that_the_run_does_not_have_is_named(tmp_path: Path) -> None:
    run = eventful.make_run(tmp_path, "relion", sizes=(36,))
    shutil.copyfile(run.out / "particles.star", run.out / "particles_small.star")
    shutil.copyfile(run.out / "particles.star", run.out / "particles.cs")  # as if converted: not ours to judge
    said = verify(run.out).problems
    assert [text for text in said if "is there, but this run has no such table" in text] == list(said)
    assert len(said) == 1


def test_problems_of_one_kind_are_told_fifty_times_and_then_counted(tmp_path: Path) -> None:
    run = eventful.make_run(tmp_path, "relion")
    picks = (run.folder / "picks.star").read_text().split("\n")
    row = next(line for line in picks if line.startswith("40.500000"))
    start = picks.index(row)
    picks[start:start] = [row.replace("40.500000 31.250000", f"{30 + i}.500000 {25 + i}.250000") for i in range(60)]
    (run.folder / "picks.star").write_text("\n".join(picks))
    import cryobox

    cryobox.run(
        run.folder / "picks.star", micrographs=run.folder / "micrographs.star", out=run.out, root=run.folder,
        recipe=cryobox.Recipe(box=40, sizes=(36, 32)), options=cryobox.RunOptions(fsync=False, overwrite=True),
    )  # fmt: skip
    table = run.out / "particles.star"
    table.write_text(table.read_text().replace(" group_1 ", " group_2 "))
    said = verify(run.out, sample=1).problems
    assert len(said) == 51
    assert re.fullmatch(r".*particles.star: rows of data_particles are wrong: \d+ in all, 50 are told", said[-1])
