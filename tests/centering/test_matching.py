"""Names of picks find their micrographs, by the first rule that is unique, never by substrings."""

from __future__ import annotations

import numpy as np
import pytest

from cryobox.errors import InputError
from cryobox.matching import match_names, match_uids, stem


def match(picks: list[str], micrographs: list[str]) -> tuple[list[int], str]:
    found, step = match_names(picks, micrographs, picks_source="picks.star", micrographs_source="mics.star")
    return found.tolist(), step


def test_exact_names_come_first() -> None:
    assert match(["b/m.mrc", "a/m.mrc"], ["a/m.mrc", "b/m.mrc"]) == ([1, 0], "exact name")


@pytest.mark.parametrize(
    ("pick", "micrograph", "step"),
    [
        ("Import/m1.mrc", "MotionCorr/m1.mrc", "file name"),
        ("m1", "MotionCorr/m1.mrc", "file stem"),
        ("m1.tif", "MotionCorr/m1.mrc.gz", "file stem"),
        ("m1", "J2/000369849852442012922_m1.mrc", "file stem without CryoSPARC's uid prefix"),
        ("J9/000369849852442012922_m1.mrc", "m1.mrc", "file stem without CryoSPARC's uid prefix"),
    ],
)
def test_looser_rules_follow(pick: str, micrograph: str, step: str) -> None:
    assert match([pick], ["x/other.mrc", micrograph]) == ([1], step)


def test_a_name_inside_another_name_is_no_match() -> None:
    assert match(["m1.mrc", "m11.mrc"], ["m11.mrc"])[0] == [-1, 0]


def test_names_without_a_micrograph_are_told_apart_from_those_with_one() -> None:
    assert match(["a/m1.mrc", "a/gone.mrc"], ["b/m1.mrc"]) == ([0, -1], "file name")


def test_a_basename_that_two_micrographs_share_is_an_error_that_names_both() -> None:
    with pytest.raises(InputError, match=r"mics.star: pick name 'm.mrc' fits two .* 'a/m.mrc' and 'b/m.mrc'"):
        match(["m.mrc"], ["a/m.mrc", "b/m.mrc"])


def test_two_names_for_one_micrograph_are_an_error_that_names_both() -> None:
    with pytest.raises(InputError, match=r"picks.star: names 'x/m.mrc' and 'y/m.mrc' both fit micrograph 'a/m.mrc'"):
        match(["x/m.mrc", "y/m.mrc"], ["a/m.mrc"])


def test_zero_matches_say_what_was_seen_on_both_sides_and_the_nearest() -> None:
    with pytest.raises(InputError, match=r"none of its 1 micrograph names .* 'mic_0012'.* 'm/mic_0001.mrc'; nearest"):
        match(["mic_0012"], ["m/mic_0001.mrc", "m/mic_0013.mrc"])


def test_uids_match_and_zero_is_none() -> None:
    micrographs = np.array([7, 2**63 + 5, 3], dtype=np.uint64)
    assert match_uids(np.array([3, 0, 2**63 + 5, 9], dtype=np.uint64), micrographs).tolist() == [2, -1, 1, -1]


def test_stems_lose_every_image_suffix_but_no_other() -> None:
    assert [stem(name) for name in ("a/b.mrc.gz", "b_v1.2.TIF", ".mrc", "C:\\x\\y.mrc")] == ["b", "b_v1.2", ".mrc", "y"]
