"""CryoSPARC's own tools take our particles: every slot, joins with the passthrough, and the stacks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from cryosparc import mrc
from cryosparc.dataset import Dataset

import cryobox
from cryobox.groups import Style
from cryobox.simulate import PARTICLE_BOX, make_dataset

SIZE = 48

# docs/conventions.md, "CryoSPARC tables": type, and shape of one value. "O" is a string once it is loaded.
FIELDS: dict[str, tuple[str, tuple[int, ...]]] = {
    "uid": ("<u8", ()),
    "blob/path": ("|O", ()),
    "blob/idx": ("<u4", ()),
    "blob/shape": ("<u4", (2,)),
    "blob/psize_A": ("<f4", ()),
    "blob/sign": ("<f4", ()),
    "blob/import_sig": ("<u8", ()),
    "location/micrograph_uid": ("<u8", ()),
    "location/exp_group_id": ("<u4", ()),
    "location/micrograph_path": ("|O", ()),
    "location/micrograph_shape": ("<u4", (2,)),
    "location/micrograph_psize_A": ("<f4", ()),
    "location/center_x_frac": ("<f4", ()),
    "location/center_y_frac": ("<f4", ()),
    "ctf/type": ("|O", ()),
    "ctf/exp_group_id": ("<u4", ()),
    "ctf/accel_kv": ("<f4", ()),
    "ctf/cs_mm": ("<f4", ()),
    "ctf/amp_contrast": ("<f4", ()),
    "ctf/df1_A": ("<f4", ()),
    "ctf/df2_A": ("<f4", ()),
    "ctf/df_angle_rad": ("<f4", ()),
    "ctf/phase_shift_rad": ("<f4", ()),
    "ctf/scale": ("<f4", ()),
    "ctf/scale_const": ("<f4", ()),
    "ctf/shift_A": ("<f4", (2,)),
    "ctf/tilt_A": ("<f4", (2,)),
    "ctf/trefoil_A": ("<f4", (2,)),
    "ctf/tetra_A": ("<f4", (4,)),
    "ctf/anisomag": ("<f4", (4,)),
    "ctf/bfactor": ("<f4", ()),
    "alignments2D/shift": ("<f4", (2,)),
    "alignments2D/psize_A": ("<f4", ()),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A run whose tables CryoSPARC's tools read."""

    out: Path
    earlier: Path  # a table of the job before, with every pick's uid and location
    result: cryobox.RunResult
    box: int

    def group(self) -> dict[str, Any]:
        """What the .csg says."""
        (path,) = self.out.glob("particles.csg")
        found: dict[str, Any] = yaml.safe_load(path.read_text())
        return found

    def particles(self) -> Any:
        return Dataset.load(self.out / "particles.cs")


@pytest.fixture(scope="module", params=["simulated", pytest.param("project", marks=pytest.mark.real)])
def job(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Job:
    folder = tmp_path_factory.mktemp("cryosparc_client")
    if request.param == "simulated":
        data = make_dataset(folder, micrographs=3, shape=(512, 640), picks=12, style="cryosparc", shifts=True)
        picks, exposures, earlier, box = data.picks, data.micrographs, data.picks.with_suffix(".cs"), PARTICLE_BOX
    else:
        root: Path = request.getfixturevalue("real_data") / "cryosparc_project"
        picks, exposures = root / "J6/J6_particles.csg", root / "J3/J3_exposures.csg"
        earlier, box = root / "J6/J6_passthrough_particles.cs", 64
    out = folder / "J10"
    recipe = cryobox.Recipe(box=box, sizes=(SIZE,))
    result = cryobox.run(picks, micrographs=exposures, out=out, recipe=recipe)
    return Job(out=out, earlier=earlier, result=result, box=box)


def test_every_slot_of_the_group_loads_and_has_as_many_rows_as_it_says(job: Job) -> None:
    group = job.group()
    assert group["group"]["type"] == "particle"
    assert {"blob", "ctf", "location", "alignments2D"} <= set(group["results"])
    for slot, entry in group["results"].items():
        assert entry["type"] == f"particle.{slot}"
        loaded = Dataset.load(job.out / entry["metafile"].removeprefix(">"), prefixes=[slot])
        assert len(loaded) == entry["num_items"] == job.result.extracted
        assert loaded.prefixes() == [slot]


def test_every_field_has_the_type_and_shape_that_cryosparc_gives_it(job: Job) -> None:
    described = {name: (kind, *shape) for name, kind, *shape in job.particles().descr()}
    expected = {name: (kind, shape) if shape else (kind,) for name, (kind, shape) in FIELDS.items()}
    assert {name: described.get(name) for name in expected} == expected


def test_our_rows_join_with_those_of_the_job_before_on_uid(job: Job) -> None:
    ours, earlier = job.particles(), Dataset.load(job.earlier)
    joined = ours.innerjoin(earlier, assert_no_drop=True)  # also fails where a field's type differs
    assert len(np.unique(ours["uid"])) == len(ours) == job.result.extracted
    assert list(joined["blob/path"]) == list(ours["blob/path"])
    assert list(joined["location/micrograph_uid"]) == list(ours["location/micrograph_uid"])


def test_cryosparcs_reader_finds_the_stacks_that_the_table_describes(job: Job) -> None:
    particles = job.particles()
    assert np.unique(particles["blob/shape"]).tolist() == [SIZE]
    assert np.unique(particles["blob/sign"]).tolist() == [-1.0]
    binned = job.box / SIZE
    assert particles["blob/psize_A"] == pytest.approx(particles["location/micrograph_psize_A"] * binned)
    for path in set(particles["blob/path"]):
        header, stack = mrc.read(job.out / path.removeprefix(">"))
        rows = particles["blob/path"] == path
        assert sorted(particles["blob/idx"][rows]) == list(range(len(stack)))
        assert header.xlen == pytest.approx(SIZE * particles["blob/psize_A"][rows][0], rel=1e-5)
        assert stack.shape[1:] == (SIZE, SIZE)
        assert stack.dtype == np.float32


def test_the_coordinates_lead_back_to_the_pixel_at_which_the_box_was_cut(job: Job) -> None:
    particles = job.particles()
    for axis, name in enumerate(("y", "x")):
        place = particles[f"location/center_{name}_frac"].astype(np.float64)
        place *= particles["location/micrograph_shape"][:, axis]
        assert np.abs(place - np.rint(place)).max() < 1e-3
        assert np.array_equal(np.trunc(place + 1e-3), np.rint(place))


def test_no_residual_shift_is_larger_than_half_a_pixel_of_the_micrograph(job: Job) -> None:
    particles = job.particles()
    shift = particles["alignments2D/shift"] * particles["alignments2D/psize_A"][:, None]
    assert np.abs(shift / particles["location/micrograph_psize_A"][:, None]).max() <= 0.5 + 1e-3


def test_the_star_route_gives_the_same_pixels_with_the_other_sign(tmp_path: Path) -> None:
    found = {}
    styles: tuple[Style, ...] = ("relion", "cryosparc")
    for style in styles:
        data = make_dataset(tmp_path / style, micrographs=2, shape=(512, 640), picks=12, style=style, shifts=True)
        out = tmp_path / style / "J10"
        recipe = cryobox.Recipe(box=PARTICLE_BOX, sizes=(SIZE,))
        cryobox.run(data.picks, micrographs=data.micrographs, out=out, recipe=recipe)
        found[style] = np.concatenate([mrc.read(path)[1] for path in sorted((out / "stacks").iterdir())])
    assert len(found["relion"]) > 10
    assert np.array_equal(found["relion"], -found["cryosparc"])


def test_cryosparcs_reader_reads_our_half_precision_stacks(tmp_path: Path) -> None:
    data = make_dataset(tmp_path, micrographs=1, shape=(512, 640), picks=8, style="cryosparc")
    whole = cryobox.Recipe(box=PARTICLE_BOX, sizes=(SIZE,))
    stacks = []
    for recipe in (whole, replace(whole, dtype="float16")):
        out = tmp_path / recipe.dtype
        cryobox.run(data.picks, micrographs=data.micrographs, out=out, recipe=recipe)
        (path,) = (out / "stacks").iterdir()
        stacks.append(mrc.read(path)[1])
    assert np.array_equal(stacks[1], stacks[0].astype(np.float16).astype(np.float32))
