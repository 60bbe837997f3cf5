"""Pictures for the eye: what they show of a run, a table, stacks or a micrograph, and what they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import cryobox
from cryobox.errors import InputError, OptionError
from cryobox.formats import read_particles
from cryobox.formats.mrc import read_images
from cryobox.reporting.drawing import levels, with_label, with_rings
from cryobox.reporting.smoothing import flattened, lowpassed
from cryobox.reporting.viewing import Look, draw_in_terminal, write_picture
from cryobox.simulate import Dataset, make_dataset
from synth import write_mrc

Image = pytest.importorskip("PIL.Image")
BOX, SIZE = 96, 48


@pytest.fixture(scope="module", params=["relion", "cryosparc"])
def data(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Dataset:
    made = make_dataset(
        tmp_path_factory.mktemp("viewed"), micrographs=2, shape=(700, 900), picks=20, style=request.param
    )
    cryobox.run(
        made.picks, micrographs=made.micrographs, out=made.folder / "out", root=made.folder,
        recipe=cryobox.Recipe(box=BOX, sizes=(SIZE, 32)), options=cryobox.RunOptions(fsync=False),
    )  # fmt: skip
    return made


def picture(tmp_path: Path, data: Dataset, *sources: Any, **look: Any) -> tuple[NDArray[np.uint8], str]:
    said = write_picture(list(map(Path, sources)), tmp_path / "p.png", Look(**look), data.folder)
    with Image.open(tmp_path / "p.png") as image:
        return np.asarray(image), said


def table_of(data: Dataset) -> Path:
    return data.folder / "out" / f"particles{data.picks.suffix.replace('csg', 'cs')}"


def tiles(sheet: NDArray[np.uint8], side: int, across: int) -> list[NDArray[np.uint8]]:
    step = side + 2
    rows = (len(sheet) + 2) // step
    every = [sheet[y * step :, x * step :][:side, :side] for y in range(rows) for x in range(across)]
    return [tile for tile in every if not (tile == 255).all()]


@pytest.mark.parametrize("what", ["folder", "table", "stacks"])
def test_a_folder_its_table_and_its_stacks_show_the_same_particles(data: Dataset, tmp_path: Path, what: str) -> None:
    stacks = sorted((data.folder / "out" / "stacks").iterdir())
    sources = {"folder": [data.folder / "out"], "table": [table_of(data)], "stacks": stacks}[what]
    sheet, said = picture(tmp_path, data, *sources, count=1000, lowpass=0, enlarge=1)
    every = np.concatenate([read_images(path, np.arange(len(read_all(path)))) for path in stacks])
    across = min(len(every), int(np.ceil(np.sqrt(len(every) * 1.6))))
    shown = tiles(sheet, SIZE, across)
    assert len(shown) == len(every)
    assert {tile.tobytes() for tile in shown} == {levels(image, 0.5).tobytes() for image in every}
    assert f"{len(every)} images of" in said


def read_all(path: Path) -> NDArray[np.float32]:
    return np.fromfile(path, np.float32, offset=1024).reshape(-1, SIZE, SIZE)


def test_small_images_are_enlarged_and_the_filter_is_told(data: Dataset, tmp_path: Path) -> None:
    sheet, said = picture(tmp_path, data, data.folder / "out", count=4)
    assert sheet.shape == (2 * (3 * SIZE + 2) - 2, 3 * (3 * SIZE + 2) - 2)
    assert said.endswith("low-passed to 20 Å, each pixel 3 times as large")
    plain, _ = picture(tmp_path, data, data.folder / "out", count=4, lowpass=0)
    assert (
        np.abs(np.diff(plain[:144, :144].astype(float))).mean()
        > np.abs(np.diff(sheet[:144, :144].astype(float))).mean()
    )


def test_the_highest_of_a_column_come_first_with_their_numbers(data: Dataset, tmp_path: Path) -> None:
    name = "rlnAutopickFigureOfMerit" if data.picks.suffix == ".star" else "pick_stats/ncc_score"
    particles = read_particles(table_of(data), recipe=cryobox.Recipe(box=64))
    assert particles.score is not None
    best = np.argsort(-particles.score, kind="stable")[:3]
    stacks = sorted((data.folder / "out" / "stacks").iterdir())
    every = np.concatenate([read_all(path) for path in stacks])
    for sort in ("score", name):
        sheet, _ = picture(tmp_path, data, table_of(data), count=3, sort=sort, lowpass=0, enlarge=3, labels=True)
        for number, row in enumerate(best.tolist()):
            x = number * (3 * SIZE + 2)
            wanted = with_label(
                levels(every[row], 0.5).repeat(3, axis=0).repeat(3, axis=1), f"{row + 1} {particles.score[row]:.4g}"
            )
            np.testing.assert_array_equal(sheet[: len(wanted), x : x + 3 * SIZE], wanted)
    lowest, _ = picture(tmp_path, data, table_of(data), count=1, sort=f"-{name}", lowpass=0, enlarge=1)
    np.testing.assert_array_equal(lowest, levels(every[int(np.argmin(particles.score))], 0.5))


def test_rings_are_around_the_picks_of_this_micrograph(data: Dataset, tmp_path: Path) -> None:
    sheet, said = picture(tmp_path, data, data.images[1], picks=str(data.picks), diameter=70.0, lowpass=0)
    particles = read_particles(data.picks, recipe=cryobox.Recipe(box=64))
    mine = [
        number for number, name in enumerate(particles.micrograph_names) if Path(name).stem == data.images[1].stem
    ]  # fmt: skip
    rows = np.flatnonzero(np.isin(particles.micrograph, mine))
    assert f"with {len(rows)} picks of" in said
    assert sheet.shape == (700, 900, 3)
    green = (sheet == (64, 255, 64)).all(axis=2)
    at = np.argwhere(green)
    centers = np.trunc(np.stack([particles.y, particles.x], axis=1)[rows])
    distance = np.hypot(*(at[:, None] - centers[None]).transpose(2, 0, 1))
    assert np.abs(distance - 25.0).min(axis=1).max() <= 0.75  # 70 Å of 1.4 Å, half of it
    assert set(np.abs(distance - 25.0).argmin(axis=1).tolist()) == set(range(len(rows)))


def test_a_filter_keeps_what_is_broad_and_takes_away_what_is_fine() -> None:
    x = np.arange(200)
    for period, kept in ((40, 1.0), (8, 0.0)):  # of 1 Å, about 20 Å
        wave = np.cos(2 * np.pi * (x + 0.5) / period) * np.ones((150, 1))
        found = lowpassed(wave.astype(np.float32), 1.0, 20.0)
        np.testing.assert_allclose(found, kept * wave, atol=2e-3)
    image = np.random.default_rng(1).normal(size=(50, 70)).astype(np.float32)
    assert lowpassed(image, 1.0, 1.9) is image
    assert lowpassed(image, float("nan"), 20.0) is image


def test_a_flattened_micrograph_has_no_slope_and_no_hot_pixel() -> None:
    x = np.indices((300, 400))[1].astype(np.float32)
    noise = np.random.default_rng(2).normal(0, 1, (300, 400)).astype(np.float32)
    image = noise + 0.01 * x
    image[10, 10], image[20, 20] = 1e6, np.nan
    found = flattened(image)
    assert np.isfinite(found).all()
    assert np.abs(found).max() < 15
    assert abs(float(np.polyfit(x.ravel(), found.ravel(), 1)[0])) < 3e-4
    assert abs(float(found[:, 40:-40].std()) - 1) < 0.05


def test_levels_are_those_of_percentiles_and_blank_images_no_error() -> None:
    image = np.arange(1000, dtype=np.float32).reshape(20, 50)
    found = levels(image, 10.0)
    assert ((found == 0).sum(), (found == 255).sum()) == pytest.approx((100, 100), abs=3)
    assert levels(np.zeros((4, 4), np.float32), 1.0).max() == 0
    assert levels(np.full((4, 4), np.nan, np.float32), 1.0).max() == 0
    ringed = with_rings(np.zeros((9, 9), np.uint8), [(-50.0, 4.0), (4.0, 4.0)], 3.0)
    assert ringed[4, 7].tolist() == [64, 255, 64]
    assert ringed[4, 4].tolist() == [0, 0, 0]


def test_a_terminal_shows_the_same_sources(data: Dataset) -> None:
    for source in (data.folder / "out", table_of(data), data.images[0]):
        lines = list(draw_in_terminal([source], Look(count=3), color=False, root=data.folder))
        assert len(lines) > 5
        assert set("".join(lines)) <= set(" .:-=+*#%@")


def test_a_run_that_goes_on_shows_its_stacks(data: Dataset, tmp_path: Path) -> None:
    (tmp_path / "going" / "stacks").mkdir(parents=True)
    for path in (data.folder / "out" / "stacks").iterdir():
        (tmp_path / "going" / "stacks" / path.name).symlink_to(path)
    _, said = picture(tmp_path, data, tmp_path / "going", count=5)
    assert "5 images of 2 stacks" in said


@pytest.mark.parametrize(
    ("sources", "look", "message"),
    [
        (["out", "out"], {}, "one folder or table is shown at a time"),
        (["nothing.mrcs"], {}, "no such file"),
        (["out"], {"picks": "x"}, "--picks are drawn on a micrograph"),
        (["out"], {"sort": "rlnNothing"}, "has no column rlnNothing of numbers"),
        (["out/stacks/STACK"], {"sort": "score"}, "has nothing to be sorted by"),
        (["MICROGRAPH"], {"labels": True}, "are for particles"),
        (["micrographs"], {}, "is a folder without"),
        (["out/stacks/STACK", "out/stacks_small/STACK"], {}, "hold images of 32 x 32 and 48 x 48 pixels"),
        (["PICKS"], {}, "names no images; to see picks"),
        (["out"], {"count": 5000, "enlarge": 100}, "would have more than"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_cannot_be_shown_is_refused(
    data: Dataset, tmp_path: Path, sources: list[str], look: dict[str, Any], message: str
) -> None:
    stack = next((data.folder / "out" / "stacks").iterdir()).name
    words = {"MICROGRAPH": data.images[0], "PICKS": data.picks, "micrographs": data.images[0].parent}
    paths = [words.get(source, data.folder / source.replace("STACK", stack)) for source in sources]
    with pytest.raises((InputError, OptionError), match=message):
        picture(tmp_path, data, *paths, **look)


@pytest.mark.parametrize(
    "look",
    [{"count": 0}, {"lowpass": -1.0}, {"lowpass": float("nan")}, {"contrast": 50.0}, {"enlarge": 0}, {"diameter": 9.0}],
    ids=str,
)
def test_looks_that_nobody_can_mean_are_refused(look: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        Look(**look)


def test_a_micrograph_without_a_pixel_size_is_told_and_given_one(tmp_path: Path, data: Dataset) -> None:
    image = np.random.default_rng(0).normal(size=(300, 400)).astype(np.float32)
    write_mrc(tmp_path / "a.mrc", image, pixel_size=0.0)
    _, said = picture(tmp_path, data, tmp_path / "a.mrc")
    assert said.endswith("not low-passed, since nothing says how many Å a pixel has")
    _, said = picture(tmp_path, data, tmp_path / "a.mrc", pixel_size=1.5)
    assert said.endswith("low-passed to 20 Å")
    (tmp_path / "a.box").write_text("100 100 40 40\n")
    with pytest.raises(OptionError, match="give --pixel-size, for --diameter"):
        picture(tmp_path, data, tmp_path / "a.mrc", picks=str(tmp_path / "a.box"), diameter=30.0)
    _, said = picture(tmp_path, data, tmp_path / "a.mrc", picks=str(tmp_path / "a.box"))
    assert "with 1 picks" in said
