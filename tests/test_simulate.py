"""The simulated data set: the same for the same seed, true to its tables, and with particles that can be seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cryobox import reference
from cryobox.errors import OptionError
from cryobox.simulate import PARTICLE_BOX, Dataset, make_dataset


def small(folder: Path, **changes: object) -> Dataset:
    options: dict[str, object] = {"micrographs": 2, "shape": (384, 512), "picks": 8, "seed": 5}
    return make_dataset(folder, **(options | changes))  # type: ignore[arg-type]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("style", ["relion", "cryosparc"])
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path, style: str) -> None:
    first = small(tmp_path / "first", style=style, shifts=True)
    second = small(tmp_path / "second", style=style, shifts=True)
    third = small(tmp_path / "third", style=style, shifts=True, seed=6)
    assert contents(first.folder) == contents(second.folder)
    assert contents(first.folder).keys() == contents(third.folder).keys()
    assert contents(first.folder) != contents(third.folder)


def test_equal_seeds_mean_equal_particles_in_either_style(tmp_path: Path) -> None:
    star = small(tmp_path / "star")
    cs = small(tmp_path / "cs", style="cryosparc")
    assert [path.read_bytes() for path in star.images] == [path.read_bytes() for path in cs.images]
    np.testing.assert_array_equal(np.load(star.truth)["y"], np.load(cs.truth)["y"])


@pytest.mark.parametrize(("dtype", "low", "high"), [("float32", 5, 25), ("float16", 5, 25), ("uint16", 1000, 5000)])
def test_micrographs_are_valid_mrc_files_with_plausible_gray_levels(
    tmp_path: Path, dtype: str, low: float, high: float
) -> None:
    import mrcfile

    dataset = small(tmp_path, dtype=dtype, pixel_size=1.25)
    assert len(dataset.images) == 2
    for path in dataset.images:
        if dtype != "float16":  # validate computes float16 statistics in float16, and calls true ones wrong
            assert mrcfile.validate(path)
        with mrcfile.open(path) as file:
            assert file.data.dtype == np.dtype(dtype)
            assert file.data.shape == (384, 512)
            assert file.voxel_size.x == pytest.approx(1.25)
            pixels = file.data.astype(np.float64)
        assert low < pixels.mean() < high
        assert np.isfinite(pixels).all()
        assert pixels.std() > 0.05 * pixels.mean()


def test_particles_are_dark_and_their_average_stands_out(tmp_path: Path) -> None:
    import mrcfile

    dataset = small(tmp_path, shape=(768, 1024), picks=30, micrographs=1)
    truth = np.load(dataset.truth)
    corners = np.rint(np.stack([truth["y"], truth["x"]], axis=1)).astype(int) - PARTICLE_BOX // 2
    micrograph = mrcfile.read(dataset.images[0])
    (images,), status = reference.extract(
        micrograph, corners, box=PARTICLE_BOX, sizes=(PARTICLE_BOX,), radii=(48,), edges="reject"
    )
    average = images[np.array(status) == "ok"].mean(axis=0)
    inner = ~reference.background_mask(PARTICLE_BOX, 8)
    outer = reference.background_mask(PARTICLE_BOX, 56)
    assert average[inner].mean() < average[outer].mean() - 5 * average[outer].std() / np.sqrt(inner.sum())
    assert average[inner].mean() < -0.2


def test_some_boxes_hang_over_an_edge_and_every_center_lies_inside(tmp_path: Path) -> None:
    dataset = small(tmp_path, shape=(600, 700))
    truth = np.load(dataset.truth)
    assert dataset.count == len(truth["y"]) == 16
    assert ((truth["y"] >= 0) & (truth["y"] < 600) & (truth["x"] >= 0) & (truth["x"] < 700)).all()
    half = PARTICLE_BOX / 2
    over = (truth["y"] < half) | (truth["x"] < half) | (truth["y"] > 600 - half) | (truth["x"] > 700 - half)
    assert 4 <= over.sum() < 16


def test_star_tables_lead_from_the_picks_by_their_shifts_to_the_truth(tmp_path: Path) -> None:
    import starfile

    dataset = small(tmp_path, shifts=True, pixel_size=2.0)
    picks = starfile.read(dataset.picks)
    micrographs = starfile.read(dataset.micrographs)
    truth = np.load(dataset.truth)
    assert list(picks["particles"]["rlnMicrographName"]) == list(truth["micrograph"])
    assert [dataset.folder / name for name in micrographs["micrographs"]["rlnMicrographName"]] == list(dataset.images)
    for axis in ("X", "Y"):
        position = picks["particles"][f"rlnCoordinate{axis}"].to_numpy()
        origin = picks["particles"][f"rlnOrigin{axis}Angst"].to_numpy()
        np.testing.assert_allclose(np.trunc(position) - origin / 2.0, truth[axis.lower()], atol=1e-5)
        assert (position % 1 != 0).any()
    assert picks["particles"]["rlnAutopickFigureOfMerit"].between(0, 1).all()


def test_cs_tables_lead_from_the_picks_by_their_shifts_to_the_truth(tmp_path: Path) -> None:
    import yaml

    dataset = small(tmp_path, style="cryosparc", shifts=True)
    group = yaml.safe_load(dataset.picks.read_text())
    assert group["results"]["location"]["type"] == "particle.location"
    picks = np.load(dataset.folder / group["results"]["location"]["metafile"].lstrip(">"), allow_pickle=False)
    exposures = np.load(dataset.folder / "exposures.cs", allow_pickle=False)
    truth = np.load(dataset.truth)
    assert len(np.unique(picks["uid"])) == len(picks) == dataset.count
    assert set(picks["location/micrograph_uid"]) == set(exposures["uid"])
    ny, nx = exposures["micrograph_blob/shape"][0]
    shift = picks["alignments2D/shift"]
    x = np.trunc(picks["location/center_x_frac"].astype(float) * nx + 1e-3)
    y = np.trunc(picks["location/center_y_frac"].astype(float) * ny + 1e-3)
    np.testing.assert_allclose(x - shift[:, 0], truth["x"], atol=1e-5)
    np.testing.assert_allclose(y - shift[:, 1], truth["y"], atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"micrographs": 0}, "at least 1 micrograph and 1 pick; got 0 and 8"),
        ({"shape": (100, 512)}, "at least 128 x 128 pixels"),
        ({"dtype": "int8"}, "dtype must be one of float32, float16, uint16"),
        ({"pixel_size": 0.0}, "pixel_size must be a positive number"),
    ],
)
def test_an_impossible_data_set_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        small(tmp_path, **change)
