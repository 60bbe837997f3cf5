"""The same pixels and coordinates as RELION's relion_preprocess, and by name where we differ on purpose.

Every comparison runs against the golden files, and, where RELION is on PATH, against a fresh run of it.
"""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gemmi
import mrcfile
import numpy as np
import pytest
from numpy.typing import NDArray

import cryobox
from cryobox import centering, core, reference
from cryobox.groups import default_background_radius
from cryobox.options import Recipe
from cutting import cut
from golden.make_golden import (
    BOX_SIZES,
    CASES,
    EMAN_SIZE,
    GOLDEN,
    MICROGRAPHS,
    PICKS,
    REEXTRACTED,
    Case,
    digest,
    make_micrograph,
    run_relion,
    write_inputs,
)

Floats = NDArray[np.float64]

# One tolerance for float32 images: of the standard deviation of the image that is compared.
TOLERANCE = 1e-5
WRITTEN = 6e-6  # Å; RELION writes six decimals, of negative numbers five
BY_NAME = {case.name: case for case in CASES}
PIXEL_SIZE = {micrograph.stem: micrograph.pixel_size for micrograph in MICROGRAPHS}


# RELION's side ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """A table of particles and the images that its rows point at, in the table's order."""

    columns: dict[str, list[str]]
    optics: dict[str, list[str]]
    images: list[Floats]

    def numbers(self, tag: str) -> Floats:
        return np.array([float(text) for text in self.columns[tag]])


def read_blocks(path: Path) -> dict[str, dict[str, list[str]]]:
    """All loops of a STAR file, as text."""
    blocks: dict[str, dict[str, list[str]]] = {}
    for block in gemmi.cif.read(str(path)):
        for item in block:
            if item.loop is not None:
                tags = item.loop.tags
                blocks[block.name] = {tag: list(block.find_values(tag)) for tag in tags}
    return blocks


def read_output(table: Path, stack_of: Any) -> Output:
    """Read a table and its images; `stack_of` turns the stack's name in the table into a path."""
    blocks = read_blocks(table)
    columns = blocks["particles"]
    stacks: dict[str, Floats] = {}
    images = []
    for name in columns["_rlnImageName"]:
        number, _, stack = name.partition("@")
        if stack not in stacks:
            pixels = np.asarray(mrcfile.read(stack_of(stack)), np.float64)
            stacks[stack] = pixels.reshape(-1, *pixels.shape[-2:])  # a stack of one image reads as that image
        images.append(stacks[stack][int(number) - 1])
    return Output(columns=columns, optics=blocks["optics"], images=images)


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project folder with the synthetic inputs."""
    root = tmp_path_factory.mktemp("relion") / "project"
    write_inputs(root)
    return root


@pytest.fixture(scope="session")
def outputs() -> dict[tuple[str, str], Output]:
    """What was read or run in this session, by source and case."""
    return {}


@pytest.fixture(scope="session", params=["stored", pytest.param("fresh", marks=pytest.mark.relion)])
def relion(request: pytest.FixtureRequest, project: Path, outputs: dict[tuple[str, str], Output]) -> Any:
    """A function from a case to RELION's output, stored or made now."""

    def stored(case: Case) -> Output:
        folder = GOLDEN / case.name
        return read_output(folder / "particles.star", lambda stack: folder / Path(stack).name)

    def fresh(case: Case) -> Output:
        folder = run_relion(case, project)
        return read_output(folder / "particles.star", lambda stack: project / stack)

    make = stored if request.param == "stored" else fresh

    def output(name: str) -> Output:
        key = (request.param, name)
        if key not in outputs:
            outputs[key] = make(BY_NAME[name])
        return outputs[key]

    return output


# Our side --------------------------------------------------------------------------------------------------------


def centers(case: Case) -> list[tuple[str, tuple[int, int]]]:
    """Micrograph and (y, x) of the box center of every pick of a case, in the order of its table."""
    if case.suffix:
        places = []
        for stem, picks in PICKS[case.suffix].items():
            for number, (x, y) in enumerate(picks):
                half = BOX_SIZES.get((stem, number), EMAN_SIZE) // 2 if case.suffix.endswith(".box") else 0
                place = reference.recenter((float(y) + half, float(x) + half))
                places.append((stem, place.center))
        return places
    return [
        (row.stem, recentered(number).center if case.name == "recentered" else recentered(number).base)
        for number, row in enumerate(REEXTRACTED)
    ]


def recentered(number: int) -> reference.Recentered:
    """One row of REEXTRACTED by our rule."""
    row = REEXTRACTED[number]
    return reference.recenter(
        (float(row.y), float(row.x)),
        shift=(float(row.origin_y_angstrom), float(row.origin_x_angstrom)),
        pixel_size=PIXEL_SIZE[row.stem],
    )


def radius(case: Case) -> float:
    return float(case.background_radius or default_background_radius(case.size))


def by_reference(case: Case, pixels: dict[str, NDArray[np.float32]], places: Any) -> list[Floats]:
    images = []
    for stem, (y, x) in places:
        (made,), (status,) = reference.extract(
            pixels[stem],
            [(y - case.box // 2, x - case.box // 2)],
            box=case.box,
            sizes=(case.size,),
            radii=(radius(case),),
            edges="pad",
            normalize=case.normalize,
            ramp=case.ramp,
            invert=case.invert,
        )
        assert status == reference.OK
        images.append(made[0])
    return images


def by_core(case: Case, pixels: dict[str, NDArray[np.float32]], places: Any) -> list[Floats]:
    images = []
    for stem, (y, x) in places:
        image = np.empty((1, case.size, case.size), np.float32)
        status, _ = cut(
            pixels[stem],
            np.array([[y - case.box // 2, x - case.box // 2]]),
            [image],
            box=case.box,
            radii=[radius(case)],
            pad=True,
            normalize=case.normalize,
            ramp=case.ramp,
            invert=case.invert,
            scale_const=None,
            threads=1,
        )
        assert status.tolist() == [core.Status.OK]
        images.append(image[0].astype(np.float64))
    return images


def run_ours(case: Case, project: Path, out: Path) -> Output:
    """A whole run of cryobox on the files that RELION reads."""
    picks: Path = project / "aligned.star"
    if case.suffix:
        # RELION is told the suffix of the pick files; a folder that holds one set of them says the same.
        picks = out / "picks"
        picks.mkdir(parents=True)
        for stem in PICKS[case.suffix]:
            shutil.copy(project / "Micrographs" / f"{stem}{case.suffix}", picks)
    recipe = Recipe(
        box=case.box,
        sizes=(case.size,),
        normalize=case.normalize,
        ramp=case.ramp,
        invert=case.invert,
        background_radius=case.background_radius,
        edges="pad",
        recenter=case.name == "recentered",
        style="relion",
    )
    table = next(word for word in case.command if word.startswith("micrographs"))
    cryobox.run(picks, micrographs=project / table, out=out / "job", recipe=recipe, root=project)
    return read_output(out / "job" / "particles.star", lambda stack: project / stack)


@pytest.fixture(scope="session")
def job(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A function from a case to the output of a whole run."""
    cache: dict[str, Output] = {}

    def output(name: str) -> Output:
        if name not in cache:
            cache[name] = run_ours(BY_NAME[name], project, tmp_path_factory.mktemp(name))
        return cache[name]

    return output


MAKERS = {"reference": by_reference, "core": by_core}


@pytest.fixture(scope="session")
def pixels() -> dict[str, NDArray[np.float32]]:
    return {micrograph.stem: make_micrograph(micrograph) for micrograph in MICROGRAPHS}


@pytest.fixture(scope="session", params=[*MAKERS, "job"])
def ours(request: pytest.FixtureRequest, pixels: dict[str, NDArray[np.float32]]) -> Any:
    """A function from a case to our images, in the order of RELION's table."""
    cache: dict[str, list[Floats]] = {}

    def images(name: str) -> list[Floats]:
        if name not in cache:
            if request.param == "job":
                cache[name] = request.getfixturevalue("job")(name).images
            else:
                cache[name] = MAKERS[request.param](BY_NAME[name], pixels, centers(BY_NAME[name]))
        return cache[name]

    return images


# Comparisons -----------------------------------------------------------------------------------------------------


def below_nyquist(image: Floats) -> Floats:
    """The image without its frequencies at the Nyquist lines |kx| = M/2 and |ky| = M/2."""
    spectrum = np.fft.fft2(image)
    half = image.shape[0] // 2
    spectrum[half, :] = 0
    spectrum[:, half] = 0
    return np.fft.ifft2(spectrum).real


def misfit(ours: Floats, theirs: Floats) -> float:
    """Largest difference, in standard deviations of `theirs`."""
    return float(np.abs(ours - theirs).max() / theirs.std())


def fit_scale_and_plane(ours: Floats, theirs: Floats) -> tuple[Floats, float]:
    """Ours below Nyquist, after fitting one scale and one plane to theirs; and that scale."""
    y, x = np.mgrid[: ours.shape[0], : ours.shape[0]].astype(np.float64)
    terms = [below_nyquist(term) for term in (ours, np.ones_like(ours), y, x)]
    design = np.stack([term.ravel() for term in terms], axis=1)
    factors, *_ = np.linalg.lstsq(design, below_nyquist(theirs).ravel(), rcond=None)
    return (design @ factors).reshape(ours.shape), float(factors[0])


UNCROPPED = [case.name for case in CASES if case.box == case.size and case.name != "recentered"]
CROPPED_NORMALIZED = [case.name for case in CASES if case.box != case.size and case.normalize]


def test_the_synthetic_micrographs_are_those_that_relion_read(pixels: dict[str, NDArray[np.float32]]) -> None:
    lines = (GOLDEN / "SHA256").read_text().split("\n")[:-1]
    stored = {stem: sha for sha, stem in (line.split() for line in lines)}
    assert {stem: digest(image) for stem, image in pixels.items()} == stored


def test_the_recorded_commands_are_those_of_the_cases() -> None:
    lines = (GOLDEN / "commands.txt").read_text().splitlines()[1:]
    assert [line.split() for line in lines] == [case.command for case in CASES]


@pytest.mark.parametrize("name", UNCROPPED)
def test_an_image_without_a_crop_equals_that_of_relion(name: str, relion: Any, ours: Any) -> None:
    theirs = relion(name).images
    assert len(theirs) == len(ours(name))
    assert max(map(misfit, ours(name), theirs)) <= TOLERANCE


def test_a_cropped_image_in_gray_levels_equals_that_of_relion_below_nyquist(relion: Any, ours: Any) -> None:
    for mine, theirs in zip(ours("cropped_raw"), relion("cropped_raw").images, strict=True):
        assert misfit(below_nyquist(mine), below_nyquist(theirs)) <= TOLERANCE


@pytest.mark.parametrize("name", CROPPED_NORMALIZED)
def test_a_cropped_and_normalized_image_equals_that_of_relion_after_fitting_scale_and_plane(
    name: str, relion: Any, ours: Any
) -> None:
    for mine, theirs in zip(ours(name), relion(name).images, strict=True):
        fitted, scale = fit_scale_and_plane(mine, theirs)
        assert misfit(fitted, below_nyquist(theirs)) <= TOLERANCE
        assert scale == pytest.approx(1, abs=1 / len(mine))  # of the M frequencies of an axis one is Nyquist


def test_below_nyquist_leaves_nothing_but_the_nyquist_lines_out() -> None:
    image = np.random.default_rng(1).normal(size=(8, 8))
    left_out = np.abs(np.fft.fft2(image - below_nyquist(image))) > 1e-12
    expected = np.zeros((8, 8), np.bool_)
    expected[4, :] = expected[:, 4] = True
    assert np.array_equal(left_out, expected)


def copied_row(image: Floats, size: int) -> Floats:
    """The crop with the row at +M/2 copied as it is, where ours takes the average of +M/2 and -M/2."""
    spectrum = np.fft.fft2(image)
    rows = [*range(size // 2 + 1), *range(-size // 2 + 1, 0)]
    cropped = spectrum[rows][:, : size // 2 + 1]
    return np.fft.irfft2(cropped, s=(size, size)) * (size / len(image)) ** 2


def test_at_nyquist_relion_copies_one_of_two_rows_where_we_take_their_average(
    relion: Any, ours: Any, pixels: dict[str, NDArray[np.float32]]
) -> None:
    case = BY_NAME["cropped_raw"]
    for (stem, (y, x)), mine, theirs in zip(centers(case), ours(case.name), relion(case.name).images, strict=True):
        box = reference.window(pixels[stem], (y - case.box // 2, x - case.box // 2), case.box)
        assert misfit(copied_row(box, case.size), theirs) <= TOLERANCE
        assert misfit(mine, theirs) > 100 * TOLERANCE


def test_a_box_over_the_edge_is_rejected_by_default_where_relion_repeats_the_edge_pixel(relion: Any) -> None:
    case = BY_NAME["edges_raw"]
    shape = MICROGRAPHS[0].shape
    status = [
        reference.edge_status(shape, (y - case.box // 2, x - case.box // 2), case.box, Recipe(box=case.box).edges)
        for _, (y, x) in centers(case)
    ]
    assert status == [reference.EDGE] * 7 + [reference.OK] * 2
    assert len(relion(case.name).images) == 9


@pytest.mark.relion
def test_a_box_outside_is_rejected_where_relion_ends_the_whole_job(tmp_path: Path) -> None:
    write_inputs(tmp_path / "project")
    case = BY_NAME["edges_raw"]
    picks = tmp_path / "project" / "Micrographs" / f"first{case.suffix}"
    picks.write_text(picks.read_text().rstrip() + "\n-30.000000 100.000000\n")
    with pytest.raises(RuntimeError, match="exited 1"):
        run_relion(case, tmp_path / "project")
    corner = (100 - case.box // 2, -30 - case.box // 2)
    assert reference.edge_status(MICROGRAPHS[0].shape, corner, case.box, "pad") == reference.OUTSIDE


def test_a_picks_file_of_any_kind_gives_the_pixel_that_relion_cuts_at(relion: Any) -> None:
    for name in ("normalized", "edges_raw", "eman_box", "plain_text", "large"):
        table = relion(name)
        truncated = np.trunc(np.stack([table.numbers("_rlnCoordinateY"), table.numbers("_rlnCoordinateX")], axis=1))
        assert truncated.tolist() == [list(center) for _, center in centers(BY_NAME[name])]


# Recentering -----------------------------------------------------------------------------------------------------

HALF = [
    number for number, row in enumerate(REEXTRACTED) if abs(float(row.origin_x_angstrom)) == PIXEL_SIZE[row.stem] / 2
]
NOT_HALF = [number for number in range(len(REEXTRACTED)) if number not in HALF]


def relion_shift(table: Output, number: int) -> tuple[tuple[int, int], tuple[float, float]]:
    """RELION's truncated coordinate and its residual in Å, both (y, x)."""
    x, y = (math.trunc(table.numbers(f"_rlnCoordinate{axis}")[number]) for axis in "XY")
    residual_x, residual_y = (table.numbers(f"_rlnOrigin{axis}Angst")[number] for axis in "XY")
    return (y, x), (residual_y, residual_x)


@pytest.mark.parametrize("number", NOT_HALF)
def test_recentering_moves_a_box_as_relion_does_and_leaves_the_same_residual(number: int, relion: Any) -> None:
    row = REEXTRACTED[number]
    pixel_size = PIXEL_SIZE[row.stem]
    center, residual = relion_shift(relion("recentered"), number)
    expected = pytest.approx(residual, abs=WRITTEN)

    literal = recentered(number)
    assert literal.center == center
    assert np.array(literal.residual) * pixel_size == expected

    shift = np.array([[float(row.origin_y_angstrom), float(row.origin_x_angstrom)]]) / pixel_size
    placed = centering.place(centering.truncate(np.array([[float(row.y), float(row.x)]])), shift)
    assert tuple(placed.center[0]) == center
    assert (shift - placed.move)[0] * pixel_size == expected


@pytest.mark.parametrize("number", NOT_HALF)
def test_a_recentered_image_equals_that_of_relion(number: int, relion: Any, ours: Any) -> None:
    assert misfit(ours("recentered")[number], relion("recentered").images[number]) <= TOLERANCE


@pytest.mark.parametrize("number", HALF)
def test_an_exact_half_pixel_stays_where_relion_moves_the_box_and_would_move_it_back(number: int, relion: Any) -> None:
    center, residual = relion_shift(relion("recentered"), number)
    mine = recentered(number)
    assert mine.center == mine.base
    assert [abs(a - b) for a, b in zip(center, mine.base, strict=True)] == [1, 1]
    # RELION's own residual is again a half, of the other sign: its next pass would move the box again.
    pixel_size = PIXEL_SIZE[REEXTRACTED[number].stem]
    assert np.array(mine.residual) * pixel_size == pytest.approx(-np.array(residual))


def test_one_half_pixel_is_among_the_rows() -> None:
    assert len(HALF) == 1


# Whole runs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(BY_NAME))
def test_the_table_of_a_run_agrees_with_that_of_relion(name: str, relion: Any, job: Any) -> None:
    ours, theirs = job(name), relion(name)
    rows = NOT_HALF if name == "recentered" else list(range(len(theirs.images)))
    assert len(ours.images) == len(theirs.images)
    for tag in ("_rlnMicrographName", "_rlnOpticsGroup"):
        assert ours.columns[tag] == theirs.columns[tag]
    for tag in ("_rlnDefocusU", "_rlnDefocusV", "_rlnDefocusAngle"):
        assert ours.numbers(tag) == pytest.approx(theirs.numbers(tag))
    for tag in ("_rlnCoordinateX", "_rlnCoordinateY"):
        assert np.trunc(ours.numbers(tag)[rows]).tolist() == np.trunc(theirs.numbers(tag)[rows]).tolist()
    for tag in ("_rlnOriginXAngst", "_rlnOriginYAngst"):
        if tag in theirs.columns:
            assert ours.numbers(tag)[rows] == pytest.approx(theirs.numbers(tag)[rows], abs=WRITTEN)


@pytest.mark.parametrize("name", list(BY_NAME))
def test_the_optics_groups_of_a_run_agree_with_those_of_relion(name: str, relion: Any, job: Any) -> None:
    ours, theirs = job(name).optics, relion(name).optics
    used = set(job(name).columns["_rlnOpticsGroup"])
    tags = ("ImagePixelSize", "ImageSize", "ImageDimensionality", "Voltage", "SphericalAberration", "AmplitudeContrast")
    found = []
    for optics in (ours, theirs):
        columns = zip(*(map(float, optics[f"_rln{tag}"]) for tag in tags), strict=True)
        groups = zip(optics["_rlnOpticsGroup"], optics["_rlnOpticsGroupName"], columns, strict=True)
        found.append({group: (label, values) for group, label, values in groups if group in used})
    assert found[0] == found[1]


def test_after_a_run_the_coordinates_are_whole_pixels(job: Any) -> None:
    for tag in ("_rlnCoordinateX", "_rlnCoordinateY"):
        numbers = job("recentered").numbers(tag)
        assert np.array_equal(numbers, np.trunc(numbers))


def test_a_run_that_does_not_recenter_keeps_the_text_of_coordinates_and_origins(job: Any) -> None:
    columns = job("not_recentered").columns
    assert columns["_rlnCoordinateX"] == [row.x for row in REEXTRACTED]
    assert columns["_rlnCoordinateY"] == [row.y for row in REEXTRACTED]
    assert columns["_rlnOriginXAngst"] == [row.origin_x_angstrom for row in REEXTRACTED]
    assert columns["_rlnOriginYAngst"] == [row.origin_y_angstrom for row in REEXTRACTED]


@pytest.mark.relion
def test_hundreds_of_random_shifts_move_boxes_as_relion_does(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    count = 400
    x, y = rng.uniform(40, 260, (2, count)).round(3)
    # Half of the shifts on a grid of eighths of a pixel, where halves are frequent; half with six decimals.
    shift = rng.uniform(-20, 20, (2, count))
    shift[:, ::2] = np.round(shift[:, ::2] * 8) / 8
    exact_half = (np.abs(shift) == 0.5).any(axis=0)
    root = tmp_path / "project"
    write_inputs(root)
    header, _, rows = (root / "aligned.star").read_text().partition("_rlnDefocusAngle #13\n")
    words = rows.split("\n")[0].split()  # of "first", 1.25 Å per pixel
    lines = []
    for n in range(count):
        words[3:7] = [f"{x[n]:.6f}", f"{y[n]:.6f}", *(f"{value * 1.25:.6f}" for value in shift[:, n])]
        lines.append(" ".join(words))
    (root / "aligned.star").write_text(header + "_rlnDefocusAngle #13\n" + "\n".join(lines) + "\n")

    case = BY_NAME["recentered"]
    theirs = read_output(run_relion(case, root) / "particles.star", lambda stack: root / stack)
    ours = run_ours(case, root, tmp_path / "ours")
    assert len(ours.images) == len(theirs.images) == count
    for axis in "XY":
        moved = np.trunc(theirs.numbers(f"_rlnCoordinate{axis}"))
        assert np.array_equal(ours.numbers(f"_rlnCoordinate{axis}")[~exact_half], moved[~exact_half])
        residual = theirs.numbers(f"_rlnOrigin{axis}Angst")
        assert ours.numbers(f"_rlnOrigin{axis}Angst")[~exact_half] == pytest.approx(residual[~exact_half], abs=WRITTEN)
    assert max(misfit(mine, other) for mine, other in pairs(ours, theirs, ~exact_half)) <= TOLERANCE


def pairs(ours: Output, theirs: Output, chosen: NDArray[np.bool_]) -> list[tuple[Floats, Floats]]:
    """Images of both, row by row, where chosen."""
    return [(a, b) for a, b, wanted in zip(ours.images, theirs.images, chosen, strict=True) if wanted]
