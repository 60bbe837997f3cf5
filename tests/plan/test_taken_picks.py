"""`Particles.take`: some picks, in another order or several times, and the rows that are written of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cryobox import Recipe, formats
from cryobox.formats import table_writer
from cryobox.formats.cs_table import read_table
from cryobox.formats.star_table import read_blocks
from cryobox.micrograph import Micrographs
from cryobox.particles import Extracted, Particles
from cryobox.rotations import pose_from_euler
from cryobox.simulate import make_dataset

CHOSEN = np.array([7, 2, 2, 11, 0])


@pytest.fixture(params=["relion", "cryosparc"])
def tables(tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Particles, Micrographs]:
    data = make_dataset(tmp_path, micrographs=2, shape=(300, 400), picks=12, style=request.param, shifts=True)
    micrographs = formats.read_micrographs(str(data.micrographs))
    return formats.read_particles(data.picks, micrographs=micrographs, recipe=Recipe(box=64)), micrographs


def extracted(particles: Particles, micrographs: Micrographs, picks: NDArray[np.intp], *, moved: bool) -> Extracted:
    n = len(picks)
    return Extracted(
        picks=picks,
        rows=particles.rows_of(picks),
        micrograph=particles.micrograph[picks],
        stack=tuple(f"stacks/{i}.mrcs" for i in range(len(micrographs))),
        slot=np.arange(n),
        size=32,
        box=64,
        center=np.arange(2 * n).reshape(n, 2) + 100,
        shape=np.full((len(micrographs), 2), (300, 400)),
        pixel_size=np.full(len(micrographs), 1.4),
        moved=np.full(n, moved),
        steps=Recipe(box=64).steps(),
        alignments=tuple(alignment.take(picks) for alignment in particles.alignments),
    )


@pytest.mark.parametrize("moved", [False, True], ids=["as they are", "moved"])
def test_taken_picks_are_written_as_their_rows(
    tables: tuple[Particles, Micrographs], tmp_path: Path, moved: bool
) -> None:
    whole, micrographs = tables
    taken = whole.take(CHOSEN)
    writer = table_writer(whole.family)
    for name, particles, picks in (("whole", whole, CHOSEN), ("taken", taken, np.arange(len(CHOSEN)))):
        (tmp_path / name).mkdir()
        of_picks = extracted(particles, micrographs, picks, moved=moved)
        writer.write_particles(tmp_path / name / f"p{writer.suffix}", particles, micrographs, of_picks)
    one, other = ((tmp_path / name / f"p{writer.suffix}").read_bytes() for name in ("whole", "taken"))
    assert one == other
    if whole.family == "star":
        assert len(read_blocks(tmp_path / "taken" / "p.star")["particles"].table()) == len(CHOSEN)


def test_picks_of_picks_know_their_rows_in_the_table(tables: tuple[Particles, Micrographs]) -> None:
    whole, _ = tables
    taken = whole.take(CHOSEN).take(np.array([3, 1]))
    assert taken.rows_of(np.arange(2)).tolist() == [11, 2]
    assert (len(taken), taken.table_length) == (2, len(whole))
    assert taken.x.tolist() == whole.x[[11, 2]].tolist()
    assert taken.alignments[0].shift.tolist() == whole.alignments[0].shift[[11, 2]].tolist()


MADE: dict[str, NDArray[Any]] = {
    "rot_degrees": np.array([10.0, 20, np.nan, 40, 50]),
    "tilt_degrees": np.array([11.0, 21, np.nan, 41, 51]),
    "psi_degrees": np.array([12.0, 22, np.nan, 42, 52]),
    "half_set": np.array([1, 2, 1, 2, 1]),
    "source_uid": np.array([2**63 + 1, 2, 3, 4, 5], np.uint64),
    "original_particle": np.array(["000001@a b.mrcs", "2@b", "2@b", "3@c", "4@d"]),
}


def with_made(whole: Particles, micrographs: Micrographs) -> tuple[Particles, Extracted]:
    taken = replace(whole.take(CHOSEN), columns=MADE)
    picks = np.array([4, 2, 0])  # columns go along with the picks
    of_picks = extracted(taken, micrographs, picks, moved=False)
    return taken, replace(of_picks, columns={name: values[picks] for name, values in taken.columns.items()})


def test_what_the_plan_says_of_picks_stands_in_both_families_tables(
    tables: tuple[Particles, Micrographs], tmp_path: Path
) -> None:
    whole, micrographs = tables
    taken, of_picks = with_made(whole, micrographs)
    writer = table_writer(whole.family)
    for rejected in (False, True):
        path = tmp_path / f"{rejected}{writer.suffix}"
        write = writer.write_rejected if rejected else writer.write_particles
        write(path, taken, micrographs, replace(of_picks, reasons=("a",) * 3) if rejected else of_picks)
        if whole.family == "star":
            table = read_blocks(path)["particles"].table()
            assert list(table.raw("_rlnAngleRot")) == [b"50.000000", b"0.000000", b"10.000000"]
            assert list(table.raw("_rlnRandomSubset")) == [b"1", b"1", b"1"]
            assert [table.texts("_rlnOriginalParticleName")[i] for i in (0, 2)] == ["4@d", "000001@a b.mrcs"]
            continue
        cs = read_table(path)
        assert cs["sym_expand/src_uid"].tolist() == [5, 3, 2**63 + 1]
        assert cs["alignments3D/split"].tolist() == [0, 0, 0]
        angles = np.array([[50.0, 51, 52], [10, 11, 12]])
        np.testing.assert_allclose(cs["alignments3D/pose"][[0, 2]], pose_from_euler(angles), atol=1e-6)
        old = whole.table["alignments3D/pose"][2] if "alignments3D/pose" in whole.table.dtype.names else 0
        np.testing.assert_array_equal(cs["alignments3D/pose"][1], old)


def test_picks_taken_from_picks_keep_what_is_said_of_them(tables: tuple[Particles, Micrographs]) -> None:
    whole, _ = tables
    taken = replace(whole.take(CHOSEN), columns=MADE).take(np.array([3, 1]))
    assert taken.columns["half_set"].tolist() == [2, 2]
    assert taken.columns["original_particle"].tolist() == ["3@c", "2@b"]
