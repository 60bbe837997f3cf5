"""ParticleSource gives, on demand, the very images that a run stores."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

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


def test_masks_slices_and_lists_choose_particles_as_they_do_in_an_array(data: Dataset) -> None:
    source = source_of(data, cryobox.Recipe(box=96, sizes=(48,)))
    every = np.stack(list(source))
    mask = np.random.default_rng(2).random(len(source)) < 0.4
    empty = np.zeros(len(source), bool)
    for index in (mask, ~mask, empty, slice(None), slice(2, 9, 3), slice(None, None, -4), slice(5, 5), slice(-3, 999)):
        np.testing.assert_array_equal(source[index], every[index])
        np.testing.assert_array_equal(source.batch(index), every[index])
    np.testing.assert_array_equal(source.batch(mask.tolist()), every[mask])
    lists: list[Any] = [[3, -1, 3], np.array([4, 0], np.uint8), [np.int64(2)], range(3), np.array([], int), []]
    for chosen in lists:
        np.testing.assert_array_equal(source.batch(chosen), every[np.asarray(chosen, int)])
    np.testing.assert_array_equal(source[np.int16(3)], every[3])
    large, small = source_of(data)[:4]
    assert (large.shape, small.shape) == ((4, 64, 64), (4, 32, 32))


@pytest.mark.parametrize(
    "index",
    [1.7, 2.0, np.float64(2), True, np.True_, None, "1", [0.9, 2.7], [1.0], np.array([1.0]), [True, 2], [1, None],
     np.array([[0, 1]]), [[0], [0, 1]], np.ones(3, bool), [True], np.array([0.5, np.nan]), {0, 1}, 10**30, [10**30],
     [2**63], -(10**30), np.array([2**64 - 1], np.uint64)],
    ids=str,
)  # fmt: skip
def test_what_is_neither_a_whole_number_nor_a_slice_nor_a_whole_mask_is_refused(data: Dataset, index: Any) -> None:
    source = source_of(data)
    with pytest.raises(IndexError):
        source[index]
    several: Any = index if not isinstance(index, int) or isinstance(index, bool) else [index]
    with pytest.raises(IndexError):
        source.batch(several)
