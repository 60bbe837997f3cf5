"""Filters as text: what they choose, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from cryobox.errors import OptionError
from cryobox.filtering import Filter

A = np.array([1.0, 2.0, 3.0, np.nan])
B = np.array([3.0, 1.0, 0.5, 2.0], np.float32)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("a < 2.5", [1, 1, 0, 0]),
        ("a<2.5and b>2", [1, 0, 0, 0]),
        ("a >= 2 or b >= 3", [1, 1, 1, 0]),
        ("not a > 1", [1, 0, 0, 1]),
        ("a > 1 and b > 0.7 or b == 3", [1, 1, 0, 0]),
        ("a > 1 and (b < 0.7 or b == 3)", [0, 0, 1, 0]),
        ("a * 2 - 1 < b + .5e1 / 2", [1, 1, 0, 0]),
        ("-a < -1.5", [0, 1, 1, 0]),
        ("a - 1 - 1 == 0", [0, 1, 0, 0]),
        ("b / (a - 1) != 1", [1, 0, 1, 0]),
        ("not (not a == 1)", [1, 0, 0, 0]),
    ],
)
def test_a_filter_chooses_what_it_says(text: str, kept: list[int]) -> None:
    assert Filter(text, ["a", "b"]).keeps({"a": A, "b": B}).tolist() == [bool(one) for one in kept]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "ends too early"), ("a", "compares nothing"), ("a + 1", "compares nothing"), ("a <", "ends too early"),
        ("c < 1", "'c' is no column"), ("contarst < 1", r"'contarst' is no column \(nearest: contrast\)"),
        ("SD < 1", "nearest: background_sd"), ("a < 1 && b < 1", r"'&' .*write and"),
        ("a < and", "missing before 'and'"), ("a < 1 < 2", "joined with `and`"), ("(a < 1", "not closed"),
        ("1 < 2", "names no column"), ("a < 1 | b < 1", r"'\|' .*write or"),
        ("a < 1)", "not expected"), ("a < 1 and b", "a number stands where"),
        ("(a < 1) + 1 > 0", "a comparison stands"),
        ("a = 1", r"'=' .*equal is =="), ("__import__(1)", "'__import__' is no column"), ("a.b < 1", "no meaning"),
        ("not a", "a number stands where"), ("(" * 60 + "a < 1" + ")" * 60, "more than 50 deep"),
        ("a < 1 b", "not expected"),
        ("a < 1; b < 1", "no meaning"), ("a < \u0661", "no meaning"),
    ],
)  # fmt: skip
def test_what_is_no_filter_is_refused_and_says_why(text: str, why: str) -> None:
    with pytest.raises(OptionError, match=f"--filter .*{why}"):
        Filter(text, ["a", "b", "contrast", "background_sd"])


def test_a_long_filter_is_no_deep_one() -> None:
    text = " and ".join(["a < 2.5"] * 5000) + " or " + " + ".join(["b"] * 5000) + " < 0"
    found = Filter(text, ["a", "b"])
    assert found.keeps({"a": A, "b": B}).tolist() == [True, True, False, False]
    assert found.used == {"a", "b"}
