"""The ledger: what is recorded is read back, a torn line is not, and another run is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from cryobox.errors import OutputError
from cryobox.folder.ledger import Ledger, read_ledger
from cryobox.folder.parts import ledger_path
from cryobox.folder.records import BEGINNINGS, FORMAT
from cryobox.results import StackInfo, TaskResult

HEAD: dict[str, Any] = {
    "cryobox": "1", "records": 1, "bits": 1, "fftw": "3", "recipe": {"box": 64, "ramp": True, "limit": 3},
}  # fmt: skip


def result(name: str) -> TaskResult:
    stack = StackInfo(path="stacks/a.mrcs", bytes=10, minimum=-1.5, maximum=2.0, mean=0.1, rms=1 / 3, clamped=0)
    return TaskResult(id=name, kept=3, refused=((1, "no contrast"),), stacks=(stack,), bytes_read=7, warnings=("w",))


def test_what_is_appended_is_read_back_exactly(tmp_path: Path) -> None:
    with Ledger(tmp_path, part="", head=HEAD) as ledger:
        ledger.append(result("a"))
        ledger.append(result("b"))
    with Ledger(tmp_path, part="", head=HEAD) as again:
        assert repr(list(again.finished.values())) == repr([result("a"), result("b")])


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_torn_last_line_is_ignored_and_the_next_record_starts_clean(tmp_path: Path, cut: int) -> None:
    with Ledger(tmp_path, part="", head=HEAD) as ledger:
        ledger.append(result("a"))
        ledger.append(result("b"))
    path = ledger_path(tmp_path, "")
    path.write_bytes(path.read_bytes()[:-cut])
    with Ledger(tmp_path, part="", head=HEAD) as again:
        assert list(again.finished) == ["a"]
        again.append(result("c"))
    assert list(read_ledger(path)[1]) == ["a", "c"]


def test_a_ledger_torn_in_its_head_is_begun_anew(tmp_path: Path) -> None:
    ledger_path(tmp_path, "").write_bytes(b'{"cryobox": ')
    with Ledger(tmp_path, part="", head=HEAD) as ledger:
        ledger.append(result("a"))
    assert list(read_ledger(ledger_path(tmp_path, ""))[1]) == ["a"]


def test_damage_in_the_middle_is_an_error(tmp_path: Path) -> None:
    ledger_path(tmp_path, "").write_bytes(json.dumps(HEAD).encode() + b"\nnot json\n{}\n")
    with pytest.raises(OutputError, match="line 2 is damaged"):
        Ledger(tmp_path, part="", head=HEAD)


@pytest.mark.parametrize(
    ("line", "old", "new"), [(1, '"box": 64', '"box": 80'), (2, "here", "there"), (3, "kept", "KEPT")]
)
def test_a_line_that_was_changed_is_an_error_and_can_still_be_looked_at(
    tmp_path: Path, line: int, old: str, new: str
) -> None:
    with Ledger(tmp_path, part="", head=HEAD) as ledger:
        ledger.begin({"directory": "/here"})
        ledger.append(result("a"))
    path = ledger_path(tmp_path, "")
    text = path.read_text()
    path.write_text(text.replace(old, new))
    with pytest.raises(OutputError, match=f"line {line} was changed after it was written; start anew with --overwrite"):
        Ledger(tmp_path, part="", head=HEAD)
    path.write_text(text.replace("no contrast", "no time"))
    head, finished = read_ledger(path, changed=True)
    assert (head["recipe"], finished["a"].refused) == (HEAD["recipe"], ((1, "no time"),))


def test_another_recipe_is_refused_by_the_option_that_differs(tmp_path: Path) -> None:
    with Ledger(tmp_path, part="", head=HEAD):
        pass
    other = HEAD | {"recipe": HEAD["recipe"] | {"box": 80}}
    with pytest.raises(OutputError, match="holds a run with box = 64, now it is 80"):
        Ledger(tmp_path, part="", head=other)
    with Ledger(tmp_path, part="", head=other, overwrite=True) as anew:
        assert not anew.finished


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fftw": "4"}, "was begun with fftw 3 .cryobox 1., this is fftw 4 .cryobox 1."),
        ({"bits": 2, "cryobox": "2"}, "was begun with images of kind 1 .cryobox 1., this is images of kind 2"),
        ({"records": 2, "cryobox": "2"}, "was begun with records of kind 1 .cryobox 1., this is records of kind 2"),
    ],
)
def test_another_kind_of_images_or_records_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with Ledger(tmp_path, part="", head=HEAD):
        pass
    with pytest.raises(OutputError, match=message):
        Ledger(tmp_path, part="", head=HEAD | change)


def test_another_version_with_the_same_bits_goes_on_and_the_head_says_so(tmp_path: Path) -> None:
    with Ledger(tmp_path, part="", head=HEAD) as ledger:
        ledger.begin({"content": "x"})
        ledger.append(result("a"))
    with Ledger(tmp_path, part="", head=HEAD | {"cryobox": "2"}) as newer:
        assert list(newer.finished) == ["a"]
        assert read_ledger(ledger_path(tmp_path, ""))[0]["cryobox"] == "1"  # until a run begins
        newer.begin({"content": "x"})
    assert read_ledger(ledger_path(tmp_path, ""))[0] == HEAD | {"cryobox": "2", "run": {"content": "x"}}


@pytest.mark.parametrize(("limit", "goes_on"), [(4, True), (None, True), (3, True), (2, False)])
def test_a_limit_may_grow_or_go_but_not_shrink(tmp_path: Path, limit: int | None, goes_on: bool) -> None:
    with Ledger(tmp_path, part="", head=HEAD) as ledger:
        ledger.append(result("a"))
    other = HEAD | {"recipe": HEAD["recipe"] | {"limit": limit}}
    if not goes_on:
        with pytest.raises(OutputError, match="holds a run with limit = 3, now it is 2"):
            Ledger(tmp_path, part="", head=other)
        return
    with Ledger(tmp_path, part="", head=other) as again:
        assert list(again.finished) == ["a"]
        again.begin({"content": "x"})
    assert read_ledger(ledger_path(tmp_path, ""))[0]["recipe"]["limit"] == limit
    if limit is None:
        with pytest.raises(OutputError, match="holds a run with limit = None, now it is 3"):
            Ledger(tmp_path, part="", head=HEAD)


def test_the_format_of_the_records_has_a_number_that_is_raised_with_it() -> None:
    """Where this fails, a field came or went: raise records.FORMAT (CONTRIBUTING.md), then change this."""
    names = {
        "result": [field.name for field in dataclasses.fields(TaskResult)],
        "stack": [field.name for field in dataclasses.fields(StackInfo)],
        "beginnings": list(BEGINNINGS),
    }
    assert FORMAT == 1
    assert names == {
        "result": [
            "id", "kept", "refused", "stacks", "background_mean", "background_sd", "read_seconds", "extract_seconds",
            "write_seconds", "ended", "bytes_read", "warnings", "error", "counts", "measures", "noise",
        ],
        "stack": ["path", "bytes", "minimum", "maximum", "mean", "rms", "clamped"],
        "beginnings": ["cryobox", "records", "bits", "fftw", "recipe"],
    }  # fmt: skip
