"""`Particles.take`: some picks, in another order or several times, and the rows that are written of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from cryobox import Recipe, formats
from cryobox.formats import table_writer
from cryobox.formats.star_table import read_blocks
from cryobox.micrograph import Micrographs
from cryobox.particles import Extracted, Particles
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
