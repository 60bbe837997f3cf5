"""The real files: only problems that they truly have."""

from __future__ import annotations

from pathlib import Path

import pytest

from soundness.planted import check

pytestmark = pytest.mark.real


def test_real_micrographs_are_sound(real_data: Path) -> None:
    for path in sorted((real_data / "micrographs").glob("*.mrc")):
        (found,) = check(path)
        assert found.problems == (), path
        assert found.kind == "micrograph"


def test_an_odd_machine_stamp_is_a_note(real_data: Path) -> None:
    (found,) = check(real_data / "micrographs" / "odd_machine_stamp.mrc")
    assert found.notes == ("odd machine stamp 00 00 44 44; read as little-endian, which fits the other fields",)


def test_stacks_and_tables_of_relion_are_sound(real_data: Path) -> None:
    tables = sorted((real_data / "relion5").glob("*/particles.star"))
    assert tables
    for found in check(*tables, images=True):
        assert found.problems == (), found.path


def test_real_tables_without_their_stacks_lack_just_these(real_data: Path) -> None:
    for name in ("relion30_after_refinement.star", "relion31_after_refinement.star", "relion4_extract_output.star",
                 "alignments2D.cs", "location_alignments3D.cs"):  # fmt: skip
        (found,) = check(real_data / "tables" / name)
        assert [problem.fault.value for problem in found.problems] == ["missing file"], name


def test_a_table_that_names_an_image_twice_is_told(real_data: Path) -> None:
    (found,) = check(real_data / "tables" / "relion5.star")  # rows 12 and 15 name the images of rows 1 and 4
    assert [problem.fault.value for problem in found.problems] == ["missing file", "shared image"]


def test_a_cs_without_its_header_is_damaged(real_data: Path) -> None:
    (found,) = check(real_data / "tables" / "headerless_negative.cs")
    assert [problem.fault.value for problem in found.problems] == ["damaged"]


def test_exposures_and_their_micrographs_are_sound(real_data: Path) -> None:
    project = real_data / "cryosparc_project"
    found = check(project / "J3" / "J3_exposures.csg", project / "J4" / "J4_particles.csg", images=True)
    assert [one.problems for one in found] == [()] * 5
