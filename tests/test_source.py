"""ParticleSource gives, on demand, the very images that a run stores."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mrcfile
import numpy as np
import pytest

import cryobox
from cryobox.errors import InputError, MicrographError
from cryobox.simulate import Dataset, make_dataset

RECIPE = cryobox.Recipe(box=96, sizes=(64, 32))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make_dataset(tmp_path_factory.mktemp("data"), micrographs=3, shape=(300, 400), picks=15)


def source_of(data: Dataset, recipe: cryobox.Recipe = RECIPE) -> cryobox.ParticleSource:
    return cryobox.ParticleSource(data.picks, micrographs=data.micrographs, recipe=recipe, root=data.folder)


def test_every_image_is_the_one_that_a_run_stores(data: Dataset, tmp_path: Path) -> None:
    cryobox.run(
        data.picks, micrographs=data.micrographs, out=tmp_path, recipe=RECIPE, root=data.folder,
        options=cryobox.RunOptions(fsync=False),
    )  # fmt: skip
    source = source_of(data)
    for index, folder in enumerate(("stacks", "stacks_small")):
        stored = np.concatenate([mrcfile.read(path) for path in sorted((tmp_path / folder).iterdir())])
        assert len(stored) == len(source)
        assert np.array_equal(stored, np.stack([images[index] for images in source]))


def test_a_batch_keeps_the_order_that_was_asked_for(data: Dataset) -> None:
    source = source_of(data, cryobox.Recipe(box=96, sizes=(48,)))
    indices = np.random.default_rng(1).permutation(len(source))[:20]
    batch = source.batch(indices)
    assert isinstance(batch, np.ndarray)
    assert all(np.array_equal(image, source[int(index)]) for image, index in zip(batch, indices, strict=True))
    assert np.array_equal(source[-1], source[len(source) - 1])


def test_rows_say_which_picks_are_in_the_sequence(data: Dataset) -> None:
    source = source_of(data)
    assert 0 < len(source) < data.count
    assert (np.diff(source.rows) > 0).all()


def test_threads_and_pickled_copies_give_the_same_images(data: Dataset) -> None:
    source = source_of(data, cryobox.Recipe(box=96, sizes=(48,)))
    copy = pickle.loads(pickle.dumps(source))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(source.__getitem__, range(len(source))))
    assert np.array_equal(np.stack(found), copy.batch(range(len(copy))))


def test_an_index_beyond_the_end_is_an_index_error(data: Dataset) -> None:
    source = source_of(data)
    with pytest.raises(IndexError):
        source[len(source)]
    with pytest.raises(IndexError):
        source.batch([0, len(source)])


def test_bad_pixels_and_lost_micrographs_are_named(tmp_path: Path) -> None:
    data = make_dataset(tmp_path, micrographs=1, shape=(300, 400), picks=15)
    with open(data.images[0], "r+b") as file:
        file.seek(1024)
        file.write(np.full((300, 400), np.nan, dtype=np.float32).tobytes())
    source = source_of(data)
    with pytest.raises(InputError, match=r"the particle at x \d+, y \d+ has pixels that are not finite"):
        source.batch(range(len(source)))
    fresh = source_of(data)
    data.images[0].unlink()
    with pytest.raises(MicrographError, match=r"sim_001.mrc"):
        fresh.batch([0])
