"""Options of the finish in whole runs: the same bits however they are run, verified, told."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import cryobox
from cryobox import core
from cryobox.core import STATISTICS
from cryobox.errors import OptionError
from cryobox.job import merge
from cryobox.options import Recipe
from cryobox.simulate import Dataset, make_dataset
from cryobox.verification import verify
from cryobox.windows import Stored, Windows

FAST = cryobox.RunOptions(fsync=False)
ASKED: dict[str, dict[str, Any]] = {
    "dust": {"white_dust": 2.5, "black_dust": 2.0},
    "crowded": {"background": "exclude-neighbors", "min_separation_angstrom": 60.0},
}


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    return make_dataset(tmp_path / "data", micrographs=2, shape=(300, 400), picks=14, style="relion", shifts=True)


def run(data: Dataset, out: Path, recipe: Recipe, options: cryobox.RunOptions = FAST) -> Any:
    return cryobox.run(
        data.picks, micrographs=data.micrographs, out=out, recipe=recipe, options=options, root=data.folder
    )


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.blake2b(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and (path.parent.name.startswith("stacks") or path.suffix == ".star")
    }


@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED)
def test_a_run_is_the_same_however_it_is_run_and_verify_knows_it(
    data: Dataset, tmp_path: Path, asked: dict[str, Any]
) -> None:
    recipe = Recipe(box=96, sizes=(96, 48), **asked)
    result = run(data, tmp_path / "out", recipe)
    assert result.extracted > 5
    found = verify(tmp_path / "out", everything=True)
    assert (found.problems, found.images) == ((), 2 * result.extracted)
    plain = run(data, tmp_path / "plain", replace(recipe, white_dust=None, black_dust=None, background="plain"))
    assert plain.extracted == result.extracted
    stack = next((tmp_path / "out" / "stacks").iterdir())
    assert stack.read_bytes() != (tmp_path / "plain" / "stacks" / stack.name).read_bytes()
    for shard in ((1, 2), (2, 2)):
        run(data, tmp_path / "parts", recipe, cryobox.RunOptions(fsync=False, shard=shard, workers=1, threads=2))
    merged = merge(tmp_path / "parts", options=FAST)
    wanted = digests(tmp_path / "out")
    parts = digests(tmp_path / "parts")
    assert {name: parts[name] for name in wanted if name.startswith("stacks")} == {
        name: digest for name, digest in wanted.items() if name.startswith("stacks")
    }
    assert merged.counts == result.counts
    assert ("dust" in result.counts) == ("white_dust" in asked)
    with pytest.raises(OptionError, match="--(white-dust|background exclude-neighbors).*leave out --gpus"):
        run(data, tmp_path / "gpu", recipe, cryobox.RunOptions(gpus=("cuda:0",)))


def test_rejected_picks_count_as_neighbors_too(data: Dataset, tmp_path: Path) -> None:
    recipe = Recipe(box=96, background="exclude-neighbors")
    few = replace(recipe, sample="50%")
    run(data, tmp_path / "all", recipe)
    run(data, tmp_path / "few", few)
    every, some = (
        {image.tobytes() for stack in (tmp_path / name / "stacks").iterdir()
         for image in np.fromfile(stack, np.float32, offset=1024).reshape(-1, 96 * 96)}
        for name in ("all", "few")
    )  # fmt: skip
    assert some < every


def crowd(rng: np.random.Generator, side: int, radius: float, part: float) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """Noise of mean 0 and sd 1 with dark disks on it that cover so much of the area, and their centers (y, x)."""
    image, centers = rng.normal(0, 1, (side, side)), np.empty((0, 2), np.int64)
    y, x = np.mgrid[:side, :side]
    while len(centers) * np.pi * radius**2 < part * side**2:
        place = rng.integers(0, side, 2)
        if len(centers) == 0 or np.hypot(*(centers - place).T).min() > 2 * radius:
            centers = np.vstack([centers, place])
            image -= 2.0 * (np.hypot(y - place[0], x - place[1]) < radius)
    return image.astype(np.float32), centers[np.lexsort(centers.T[::-1])]


def test_mean_and_sd_of_crowded_backgrounds_are_three_times_as_right_without_the_neighbors() -> None:
    rng, box, radius = np.random.default_rng(3), 96, 20.0
    plain, alone = [], []
    for _ in range(3):
        image, centers = crowd(rng, 800, radius, 0.4)
        inside = ((centers >= box // 2) & (centers <= 800 - box // 2)).all(axis=1)
        windows = Windows(box=box, pad=False, corner=centers[inside] - box // 2)
        for found, neighbors in ((plain, None), (alone, centers.astype(float))):
            stack = np.empty((len(windows), box, box), np.float32)
            stored = [Stored(size=box, dtype="float32", background_radius=radius)]
            steps = replace(Recipe(box=box).steps(), ramp=False)
            _, statistics = core.cut(image, replace(windows, neighbors=neighbors), stored, steps, into=[stack])
            mean, sd = (statistics[0, :, STATISTICS.index(f"background_{name}")] for name in ("mean", "sd"))
            found.append(np.stack([mean, sd - 1]))
    for one, other in zip(np.hstack(plain), np.hstack(alone), strict=True):  # the mean's error, then the sd's
        assert np.sqrt((one**2).mean()) > 3 * np.sqrt((other**2).mean())


def test_hot_pixels_are_repaired_before_windows_are_cut_and_counted(data: Dataset, tmp_path: Path) -> None:
    plain = Recipe(box=64, sizes=(32,))
    run(data, tmp_path / "clean", replace(plain, hot_pixels=8.0))
    clean = {path.name: path.read_bytes() for path in (tmp_path / "clean" / "stacks").iterdir()}
    spoiled = 0
    for path in data.images:
        with path.open("r+b") as file:
            for at in range(7, 300 * 400, 1009):
                file.seek(1024 + 4 * at)
                file.write(np.float32(1e6).tobytes())
                spoiled += 1
    result = run(data, tmp_path / "out", replace(plain, hot_pixels=8.0))
    assert result.counts == {"hot_pixels": spoiled}
    assert verify(tmp_path / "out", everything=True).problems == ()
    images = {path.name: np.fromfile(path, np.float32, offset=1024) for path in (tmp_path / "out" / "stacks").iterdir()}
    for name, found in images.items():
        assert np.abs(found - np.frombuffer(clean[name], np.float32, offset=1024)).max() < 1.5
        assert np.abs(found).max() < 8
    source = cryobox.ParticleSource(
        data.picks, micrographs=data.micrographs, recipe=replace(plain, hot_pixels=8.0), root=data.folder
    )
    assert len(source) == result.extracted
    cut = {np.asarray(image).tobytes() for image in source}
    assert cut == {image.tobytes() for found in images.values() for image in found.reshape(-1, 32 * 32)}
