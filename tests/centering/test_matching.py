"""Names of picks find their micrographs, by the first rule that is unique, never by substrings."""

from __future__ import annotations

import numpy as np
import pytest

from cryobox.errors import InputError
from cryobox.matching import NO_STRIP, Strip, check_strip, match_names, match_uids, stem


def match(picks: list[str], micrographs: list[str], strip: Strip = NO_STRIP) -> tuple[list[int], str]:
    found, step = match_names(
        picks, micrographs, picks_source="picks.star", micrographs_source="mics.star", strip=strip
    )
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


@pytest.mark.parametrize(
    "pick", ["Dataset2/m", "Dataset2/m.mrc", "other/place/Dataset2/m.mrc", "./Dataset2/m", "job003\\Dataset2\\m.tif"]
)
def test_folders_tell_equal_names_apart(pick: str) -> None:
    micrographs = ["MotionCorr/job002/Dataset1/m.mrc", "MotionCorr/job002/Dataset2/m.mrc"]
    assert match([pick], micrographs) == ([1], "folders and file stem")


def test_a_micrograph_in_another_folder_is_another_one_where_its_namesake_has_picks() -> None:
    assert match(["a/m.mrc", "b/m.mrc"], ["b/m.mrc"]) == ([-1, 0], "exact name")
    assert match(["Data1/m", "Data2/m"], ["x/Data2/m.mrc"]) == ([-1, 0], "folders and file stem")
    assert match(["d1/m", "d2/m", "d3/m"], ["d1/m.mrc", "d2/m.mrc"])[0] == [0, 1, -1]


def test_a_bare_name_beside_its_full_name_is_an_error() -> None:
    with pytest.raises(InputError, match=r"picks.star: names 'a/m.mrc' and 'm' both fit micrograph 'a/m.mrc'"):
        match(["a/m.mrc", "m"], ["a/m.mrc"])


def test_one_name_may_stand_twice() -> None:
    """Rows of a .cs table that differ in a uid that nothing else has."""
    assert match(["x/a.mrc", "x/a.mrc"], ["a.mrc"]) == ([0, 0], "file name")


def test_equal_ends_of_paths_are_not_guessed() -> None:
    with pytest.raises(InputError, match=r"pick name 'c/Movies/m' fits two micrographs by file stem"):
        match(["c/Movies/m"], ["a/Movies/m.mrc", "b/Movies/m.mrc"])


def test_the_steps_that_were_used_are_told() -> None:
    assert match(["M/a.mrc", "b", "gone"], ["M/a.mrc", "M/b.mrc"]) == ([0, 1, -1], "exact name, 1 of 3 by file stem")


DW = Strip(suffix="_DW")


@pytest.mark.parametrize(
    ("pick", "micrograph", "strip", "step"),
    [
        ("M/a.mrc", "M/a_DW.mrc", DW, "exact name"),
        ("M/a_DW.mrc", "M/a.mrc", DW, "exact name"),
        ("M/a_DW.mrc", "M/a_DW.mrc", DW, "exact name"),
        ("a", "M/a_DW.mrc.gz", Strip(suffix="_DW.mrc"), "file stem"),
        ("x/a.mrc", "y/denoised_a.mrc", Strip(prefix="denoised_"), "file name"),
        ("a", "J3/000369849852442012922_denoised_a_DW.mrc", Strip(prefix="denoised_", suffix="_DW"),
         "file stem without CryoSPARC's uid prefix"),
    ],
)  # fmt: skip
def test_a_text_that_is_not_compared_is_taken_off_both_sides(
    pick: str, micrograph: str, strip: Strip, step: str
) -> None:
    assert match([pick], ["M/other.mrc", micrograph], strip) == ([1], step)


def test_stripping_takes_one_text_off_once_and_never_all() -> None:
    assert [DW(name) for name in ("_DW.mrc", "a_DW_DW", "a_DWx", "a_dw")] == ["_DW.mrc", "a_DW", "a_DWx", "a_dw"]
    assert Strip(prefix="d_")("x/d_d_a.mrc") == "x/d_a.mrc"


@pytest.mark.parametrize(
    ("picks", "micrographs", "whose"),
    [(["a"], ["M/a.mrc", "M/a_DW.mrc"], "mics.star"), (["a", "a_DW"], ["M/a.mrc"], "picks.star")],
)
def test_two_names_never_become_one(picks: list[str], micrographs: list[str], whose: str) -> None:
    with pytest.raises(InputError, match=rf"{whose}: '.*a.*' and '.*a_DW.*' are both .* two names never become one"):
        match(picks, micrographs, DW)


def test_a_text_that_no_name_has_is_refused() -> None:
    check_strip(["a"], ["b_DW.mrc"], DW)
    check_strip(["a_DW"], ["b.mrc"], DW)
    with pytest.raises(
        InputError, match=r"--strip-suffix _DW: no name ends so; for example micrographs .* 'b_DWx.mrc'"
    ):
        check_strip(["_DW"], ["b_DWx.mrc"], DW)
    with pytest.raises(InputError, match=r"--strip-prefix d_: no name begins so"):
        check_strip(["a_d_"], ["b_DW.mrc"], Strip(prefix="d_", suffix="_DW"))


@pytest.mark.parametrize(
    ("picks", "micrographs", "option"),
    [
        (["M/a.mrc", "M/b.mrc"], ["DW/a_DW.mrc", "DW/b_DW.mrc"], "--strip-suffix _DW"),
        (["a_DW", "b_DW"], ["a.mrc", "b.mrc"], "--strip-suffix _DW"),
        (["a.mrc"], ["denoised_a.mrc", "denoised_c.mrc"], "--strip-prefix denoised_"),
        (["topaz-a"], ["a.mrc"], "--strip-prefix topaz-"),
        (["a"], ["J3/000369849852442012922_a_patch_aligned_doseweighted.mrc"],
         "--strip-suffix _patch_aligned_doseweighted"),
        (["a"], ["a-new.mrc"], "--strip-suffix=-new"),
        (["a"], ["a new.mrc"], "--strip-suffix ' new'"),
    ],
)  # fmt: skip
def test_names_that_differ_by_a_text_are_answered_with_the_option(
    picks: list[str], micrographs: list[str], option: str
) -> None:
    with pytest.raises(InputError, match=rf"{len(picks)} of {len(picks)} would match: give {option}$"):
        match(picks, micrographs)


@pytest.mark.parametrize(
    ("picks", "micrographs"),
    [(["mic_1"], ["mic_10.mrc"]), (["a"], ["ab.mrc"]), (["a"], ["c.mrc"])],
)
def test_no_option_is_proposed_that_would_not_help(picks: list[str], micrographs: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        match(picks, micrographs)
    assert "--strip" not in str(caught.value)
