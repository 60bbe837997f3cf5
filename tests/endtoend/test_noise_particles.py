"""Boxes of noise in whole runs: own stacks and tables, the same for any way to run; the particles as without them."""

from __future__ import annotations

import hashlib
import json
import threading
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest

import cryobox
from cryobox.compaction import compact, restore
from cryobox.formats import read_particles
from cryobox.formats.cs_table import read_table
from cryobox.formats.star_table import read_blocks
from cryobox.job import merge
from cryobox.options import Recipe
from cryobox.simulate import Dataset, make_dataset
from cryobox.verification import verify

FAST = cryobox.RunOptions(fsync=False)
MICROGRAPHS, SHAPE, BOX = 5, (500, 600), 64
PLAIN = Recipe(box=BOX, sizes=(48, 32), also=((24, "float16"),))
NOISE = replace(PLAIN, noise_particles=4)
OUTPUTS = ("", "_small", "_24")


@pytest.fixture(params=["relion", "cryosparc"])
def data(tmp_path: Path, request: pytest.FixtureRequest) -> Dataset:
    return made(tmp_path, request.param)


@pytest.fixture
def star(tmp_path: Path) -> Dataset:
    return made(tmp_path, "relion")


def made(tmp_path: Path, style: Any) -> Dataset:
    return make_dataset(tmp_path / "data", micrographs=MICROGRAPHS, shape=SHAPE, picks=14, style=style, shifts=True)


def run(
    data: Dataset, out: Path, recipe: Recipe = NOISE, options: cryobox.RunOptions = FAST, **more: Any
) -> cryobox.RunResult:
    return cryobox.run(
        data.picks, micrographs=data.micrographs, out=out, recipe=recipe, options=options, root=data.folder, **more
    )


def digests(folder: Path) -> dict[str, str]:
    """Of every stack and table; tables name the folder."""
    name = str(folder).encode()
    return {
        path.relative_to(folder).as_posix(): hashlib.blake2b(path.read_bytes().replace(name, b"")).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix in (".mrcs", ".mrc", ".star", ".cs", ".csg") and "shards" not in path.parts
    }


def is_noise(name: str) -> bool:
    return name.startswith(("noise", "stacks_noise"))


def test_noise_has_stacks_and_tables_of_its_own_and_the_particles_are_as_without_it(
    data: Dataset, tmp_path: Path
) -> None:
    plain = run(data, tmp_path / "out", PLAIN)
    before = digests(tmp_path / "out")
    result = run(data, tmp_path / "out", NOISE, replace(FAST, overwrite=True))
    assert (result.extracted, result.noise, plain.noise) == (plain.extracted, 4 * MICROGRAPHS, None)
    after = digests(tmp_path / "out")
    assert {name: digest for name, digest in after.items() if not is_noise(name)} == before
    of_noise = [name for name in after if is_noise(name)]
    assert len([name for name in of_noise if name.startswith("stacks_noise")]) == 3 * MICROGRAPHS
    suffixes = [".star"] if data.picks.suffix == ".star" else [".cs", ".csg"]
    assert {f"noise{output}{suffix}" for output in OUTPUTS for suffix in suffixes} < set(of_noise)
    assert {path.name for path in result.tables} == {name for name in after if "/" not in name}
    assert result.tables[0].stem == "particles"
    found = verify(tmp_path / "out", everything=True)
    assert (found.problems, found.images) == ((), 3 * (result.extracted + 4 * MICROGRAPHS))
    run(data, tmp_path / "out", PLAIN, replace(FAST, overwrite=True))
    assert digests(tmp_path / "out") == before
    assert verify(tmp_path / "out").problems == ()


def test_images_of_noise_are_what_the_micrograph_has_at_their_rows(star: Dataset, tmp_path: Path) -> None:
    run(star, tmp_path / "out", Recipe(box=BOX, noise_particles=4, normalize=False, invert=False))
    table = read_particles(tmp_path / "out" / "noise.star", recipe=Recipe(box=BOX))
    assert len(table) == 4 * MICROGRAPHS
    names = [table.micrograph_names[m] for m in table.micrograph.tolist()]
    slots = dict.fromkeys(names, 0)
    for name, y, x in zip(names, table.y.tolist(), table.x.tolist(), strict=True):
        image = mrcfile.read(star.folder / name)
        box = image[int(y) - BOX // 2 :, int(x) - BOX // 2 :][:BOX, :BOX]
        stored = mrcfile.read(tmp_path / "out" / "stacks_noise" / f"{Path(name).stem}_noise.mrcs")[slots[name]]
        np.testing.assert_allclose(stored, box, rtol=1e-6)
        slots[name] += 1


def test_a_table_of_noise_says_nothing_of_poses_and_has_the_micrographs_ctf(data: Dataset, tmp_path: Path) -> None:
    run(data, tmp_path / "out", replace(NOISE, tables="both"))
    columns = read_blocks(tmp_path / "out" / "noise.star")["particles"].table()
    tags = {tag.removeprefix("_rln") for tag in columns.tags}
    assert {"CoordinateX", "CoordinateY", "ImageName", "MicrographName", "DefocusU", "OpticsGroup"} <= tags
    assert not [tag for tag in tags if tag.startswith(("Angle", "Origin", "Class", "Random", "Autopick", "Norm"))]
    fields = set(read_table(tmp_path / "out" / "noise.cs").dtype.names or ())
    assert {"uid", "blob/path", "location/center_x_frac", "ctf/df1_A"} <= fields
    assert not [field for field in fields if field.startswith(("alignments", "pick_stats", "sym_expand"))]
    particles, noise = (read_table(tmp_path / "out" / f"{name}.cs") for name in ("particles", "noise"))
    if data.picks.suffix == ".star":  # else the defocus of each particle is its own
        path, defocus = "location/micrograph_path", "ctf/df1_A"
        of = dict(zip(particles[path].tolist(), particles[defocus].tolist(), strict=True))
        assert [of[name] for name in noise[path].tolist()] == noise[defocus].tolist()
    assert not set(particles["uid"].tolist()) & set(noise["uid"].tolist())
    assert verify(tmp_path / "out").problems == ()


def test_noise_is_the_same_for_workers_processes_shards_limits_and_interruptions(star: Dataset, tmp_path: Path) -> None:
    run(star, tmp_path / "out")
    wanted = digests(tmp_path / "out")
    run(star, tmp_path / "many", options=cryobox.RunOptions(fsync=False, workers=3, threads=2))
    assert digests(tmp_path / "many") == wanted
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        run(star, tmp_path / "processes", executor=pool)
    assert digests(tmp_path / "processes") == wanted
    run(star, tmp_path / "grown", replace(NOISE, limit=2))
    grown = run(star, tmp_path / "grown")
    assert (grown.resumed, digests(tmp_path / "grown")) == (2, wanted)
    parts = [run(star, tmp_path / "parts", options=replace(FAST, shard=(i, 3))) for i in (1, 2, 3)]
    assert sum(part.noise or 0 for part in parts) == 4 * MICROGRAPHS
    merged = merge(tmp_path / "parts", options=FAST)
    assert (merged.noise, digests(tmp_path / "parts")) == (4 * MICROGRAPHS, wanted)
    assert verify(tmp_path / "parts", everything=True).problems == ()
    stop = threading.Event()
    first = run(
        star, tmp_path / "stopped", options=replace(FAST, workers=1), stop=stop,
        on_progress=lambda now: stop.set() if now.micrographs else None,
    )  # fmt: skip
    assert first.interrupted
    rest = run(star, tmp_path / "stopped")
    assert (0 < rest.resumed < MICROGRAPHS, digests(tmp_path / "stopped")) == (True, wanted)


def test_a_lost_stack_of_noise_is_made_again_with_its_micrograph(star: Dataset, tmp_path: Path) -> None:
    run(star, tmp_path / "out")
    wanted = digests(tmp_path / "out")
    (tmp_path / "out" / "stacks_noise_small" / "sim_002_noise.mrcs").unlink()
    assert run(star, tmp_path / "out").resumed == MICROGRAPHS - 1
    assert digests(tmp_path / "out") == wanted


def test_merged_stacks_have_merged_noise_beside_them(star: Dataset, tmp_path: Path) -> None:
    recipe = replace(NOISE, particles_per_stack=30)
    result = run(star, tmp_path / "out", recipe)
    stacks = sorted(path.name for path in (tmp_path / "out" / "stacks_noise").iterdir())
    assert stacks == [f"noise_{n:06d}.mrcs" for n in range(1, len(stacks) + 1)]
    assert 1 < len(stacks) == len(list((tmp_path / "out" / "stacks").iterdir())) < MICROGRAPHS
    assert result.noise == 4 * MICROGRAPHS
    assert verify(tmp_path / "out", everything=True).problems == ()
    run(star, tmp_path / "single")
    one, other = (
        {image.tobytes() for path in (tmp_path / name / "stacks_noise").iterdir() for image in mrcfile.read(path)}
        for name in ("out", "single")
    )
    assert one == other
    for shard in ((1, 2), (2, 2)):
        run(star, tmp_path / "parts", recipe, replace(FAST, shard=shard))
    merge(tmp_path / "parts", options=FAST)
    assert digests(tmp_path / "parts") == digests(tmp_path / "out")


def test_stacks_of_noise_are_compacted_and_restored_with_the_others(star: Dataset, tmp_path: Path) -> None:
    run(star, tmp_path / "out")
    wanted = digests(tmp_path / "out")
    done = compact(tmp_path / "out")
    assert done.stacks == 6 * MICROGRAPHS
    assert not [name for name in digests(tmp_path / "out") if "/" in name]
    assert verify(tmp_path / "out").problems == ()
    assert restore(tmp_path / "out", options=FAST).stacks == done.stacks
    assert digests(tmp_path / "out") == wanted


@pytest.mark.parametrize("name", ["sim_003_noise.mrcs", "noise.star", "ledger.jsonl", "sim_001_noise.mrcs"])
def test_verify_names_what_was_changed_of_the_noise(star: Dataset, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    run(star, out)
    if name == "sim_001_noise.mrcs":
        (out / "stacks_noise" / name).unlink()
    elif name.endswith(".mrcs"):
        with mrcfile.open(out / "stacks_noise" / name, "r+", permissive=True) as file:
            file.data[2] = file.data[1]
    elif name == "noise.star":
        text = (out / name).read_text()
        (out / name).write_text(text.replace("00000002@", "00000003@", 1))
    else:
        lines = (out / name).read_text().splitlines()
        record = json.loads(lines[3])
        record["noise"]["kept"] = 3
        del record["digest"]
        (out / name).write_text("\n".join([*lines[:3], json.dumps(record), *lines[4:], ""]))
    problems = verify(out, everything=True).problems
    assert any(name in text for text in problems)


def test_a_micrograph_that_cannot_be_read_has_no_noise_and_does_not_end_the_run(star: Dataset, tmp_path: Path) -> None:
    path = star.images[1]
    good = path.read_bytes()
    stop = threading.Event()

    def spoil(_: object) -> None:
        path.write_bytes(b"\0" * len(good))  # after the plan was made

    result = run(star, tmp_path / "out", on_plan=spoil, stop=stop)
    assert len(result.incomplete) == 1
    assert result.noise == 4 * (MICROGRAPHS - 1)
    table = read_particles(tmp_path / "out" / "noise.star", recipe=Recipe(box=BOX))
    assert "sim_002" not in " ".join(table.micrograph_names)


def test_noise_without_contrast_is_left_out(star: Dataset, tmp_path: Path) -> None:
    """Here a part of each micrograph is blank, such that boxes in it cannot be normalized."""
    for path in star.images:
        with mrcfile.mmap(path, "r+", permissive=True) as file:
            file.data[:, :250] = 3.0
    result = run(star, tmp_path / "out", replace(NOISE, noise_particles=8))
    stacks = [mrcfile.read(path) for path in sorted((tmp_path / "out" / "stacks_noise").iterdir())]
    assert result.noise == sum(map(len, stacks)) < 8 * MICROGRAPHS
    found = verify(tmp_path / "out", everything=True)
    assert (found.problems, found.refused > 0) == ((), True)


def test_where_no_box_has_room_there_is_no_table_of_noise_and_a_warning(star: Dataset, tmp_path: Path) -> None:
    result = run(star, tmp_path / "out", Recipe(box=240, sizes=(48,), edges="pad", noise_particles=3))
    assert (result.noise, result.exit_code) == (0, 0)
    assert [path.name for path in result.tables] == ["particles.star"]
    assert any("5 have none at all" in text for text in result.warnings)
    assert verify(tmp_path / "out").problems == ()


def test_boxes_of_padded_runs_have_no_noise_over_the_edge_and_tubes_have_a_background(
    star: Dataset, tmp_path: Path
) -> None:
    ends = tmp_path / "ends"
    ends.mkdir()
    for path in star.images:
        (ends / f"{path.stem}.box").write_text("60 80 64 64 -1\n420 200 64 64 -2\n")
    result = cryobox.run(
        ends, micrographs=star.micrographs, out=tmp_path / "out", root=star.folder, options=FAST,
        recipe=Recipe(
            box=BOX, helix="ends", inter_box_distance=30.0, helical_outer_diameter_angstrom=50.0, edges="pad",
            noise_particles=5, dtype="float16",
        ),
    )  # fmt: skip
    assert result.noise == 5 * MICROGRAPHS
    assert result.extracted > 0
    assert verify(tmp_path / "out", everything=True).problems == ()


STEPS: dict[str, dict[str, Any]] = {
    "filters": {"lowpass": 20.0, "highpass": 300.0},
    "fractions of a pixel": {"subpixel": True},
    "ctf": {"ctf": "flip", "ctf_box": 96},
    "hot pixels and neighbors": {"hot_pixels": 8.0, "background": "exclude-neighbors"},
    "dust": {"white_dust": 2.5},
}


@pytest.mark.parametrize("asked", STEPS.values(), ids=STEPS)
def test_noise_goes_through_the_steps_of_the_particles(star: Dataset, tmp_path: Path, asked: dict[str, Any]) -> None:
    result = run(star, tmp_path / "out", Recipe(box=BOX, noise_particles=4, **asked))
    assert result.noise == 4 * MICROGRAPHS
    found = verify(tmp_path / "out", everything=True)
    assert (found.problems, found.images) == ((), result.extracted + 4 * MICROGRAPHS)
    run(star, tmp_path / "plain", Recipe(box=BOX, noise_particles=4))
    stack = next((tmp_path / "out" / "stacks_noise").iterdir()).name
    one, other = (mrcfile.read(tmp_path / name / "stacks_noise" / stack) for name in ("out", "plain"))
    assert (one == other).all() == ("subpixel" in asked or "hot_pixels" in asked)  # which noise has none of


def test_a_micrograph_whose_ctf_is_no_number_has_no_noise_with_a_ctf(star: Dataset, tmp_path: Path) -> None:
    run(star, tmp_path / "first", Recipe(box=BOX))  # its particles have a CTF of their own
    table = star.micrographs.read_text()
    row = next(line for line in table.splitlines() if "sim_002" in line)
    defocus = next(word for word in row.split() if float_of(word) > 5000)
    star.micrographs.write_text(table.replace(row, row.replace(defocus, "nan", 1)))
    again = replace(star, picks=tmp_path / "first" / "particles.star")
    result = run(again, tmp_path / "out", Recipe(box=BOX, ctf="flip", noise_particles=4))
    assert result.noise == 4 * (MICROGRAPHS - 1)
    assert (
        "--noise-particles: 1 micrographs have a CTF that is no number, and --ctf no noise of them" in result.warnings
    )
    assert verify(tmp_path / "out", everything=True).problems == ()


def float_of(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        return 0.0
