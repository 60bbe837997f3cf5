"""A particle's history over runs: by uid, by image, by place; with its shifts, its images, or why it was left out."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cryobox
import star_tables
from cryobox.cli import main
from cryobox.errors import OptionError
from cryobox.formats.cs_table import read_table
from cryobox.simulate import Dataset, make_dataset
from cryobox.trace import history

FAST = cryobox.RunOptions(fsync=False)


@pytest.fixture(params=["relion", "cryosparc"])
def data(tmp_path: Path, request: pytest.FixtureRequest) -> Dataset:
    return make_dataset(tmp_path / "data", micrographs=2, shape=(300, 400), picks=12, style=request.param, shifts=True)


def extract(data: Dataset, out: Path, picks: Path | None = None, **recipe: Any) -> cryobox.RunResult:
    return cryobox.run(
        picks or data.picks, micrographs=data.micrographs, out=out, root=data.folder, options=FAST,
        recipe=cryobox.Recipe(box=96, sizes=(48, 32), **recipe),
    )  # fmt: skip


def images_of(out: Path) -> list[tuple[str, int]]:
    """The stored image of each row, read by somebody else."""
    if (out / "particles.star").exists():
        texts = star_tables.columns(out / "particles.star")["_rlnImageName"]
        return [(text.partition("@")[2], int(text.partition("@")[0])) for text in texts]
    table = read_table(out / "particles.cs")
    pairs = zip(table["blob/path"].tolist(), table["blob/idx"].tolist(), strict=True)
    return [(path.decode().lstrip(">"), slot + 1) for path, slot in pairs]


def test_an_image_leads_to_its_pick_and_the_pick_to_its_images(data: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = extract(data, out)
    images = images_of(out)
    assert len(images) == result.extracted > 5
    for stack, slot in images:
        (step,) = history(f"{slot:06d}@{stack}", [out])
        assert step.fate == "extracted"
        assert [image.partition("@")[0] for image in step.images] == [str(slot)] * 2
        assert step.images[0].endswith(stack)
        assert step.center is not None
        (by_place,) = history(f"{Path(step.micrograph).stem}:{step.center[0]},{step.center[1]}", [out])
        assert by_place == step
        if step.uid is not None:
            assert history(str(step.uid), [out]) == (step,)


def test_a_particle_is_followed_from_run_to_run(data: Dataset, tmp_path: Path) -> None:
    first, second = tmp_path / "data" / "first", tmp_path / "data" / "second"
    extract(data, first)
    table = next(path for path in first.glob("particles.*") if path.suffix in (".star", ".cs"))
    extract(data, second, table)
    for stack, slot in images_of(second):
        steps = history(f"{slot}@second/{Path(stack).parent.name}/{Path(stack).name}", [first, second])
        assert [Path(step.folder).name for step in steps] == ["first", "second"]
        one, other = steps
        assert one.center == other.center  # what was recentered is not moved again
        assert abs(np.array(other.moved)).max() <= 0.5
        backwards = history(one.images[0], [first, second])
        assert backwards == steps


def test_a_rejected_pick_has_its_reason(data: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = extract(data, out, edges="reject")
    whole = extract(data, tmp_path / "pad", edges="pad")
    assert whole.extracted > result.extracted
    fates = []
    for stack, slot in images_of(tmp_path / "pad"):
        (step,) = history(f"{slot}@{stack}", [tmp_path / "pad"])
        assert step.center is not None
        (here,) = history(f"{Path(step.micrograph).stem}:{step.center[0]},{step.center[1]}", [out])
        fates.append(here.fate)
        assert bool(here.images) == (here.fate == "extracted")
    assert fates.count("extracted") == result.extracted
    assert set(fates) == {"extracted", "box over the edge"}


def test_the_command_tells_it(data: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    extract(data, out)
    stack, slot = images_of(out)[0]
    with pytest.raises(SystemExit) as left:
        main(["trace", f"{slot}@{stack}", str(out), "--json"])
    assert left.value.code == 0
    step = json.loads(capsys.readouterr().out)
    assert (step["fate"], step["box"]) == ("extracted", 96)
    with pytest.raises(SystemExit) as left:
        main(["trace", f"{slot}@{stack}", str(out)])
    said = capsys.readouterr().out
    assert f"{out}: extracted" in said
    assert "moved by" in said
    with pytest.raises(SystemExit) as left:
        main(["trace", "1@nothing.mrcs", str(out)])
    assert left.value.code == 1


@pytest.mark.parametrize("key", ["", "abc", "x@y", "m:1", "m:1,e", "1" * 5000, "1" * 5000 + "@a"])
def test_a_key_of_another_kind_is_refused(data: Dataset, tmp_path: Path, key: str) -> None:
    with pytest.raises(OptionError, match="expected a uid, SLOT@STACK"):
        history(key, [])


def test_a_micrograph_that_changed_since_is_said_and_the_history_told(data: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "out"
    extract(data, out)
    os.utime(data.images[0], (1, 1))
    fates = {history(f"{slot}@{stack}", [out])[0].fate for stack, slot in images_of(out)}
    assert fates == {"extracted", "extracted (from a micrograph that changed since)"}


def test_a_uid_of_a_converted_table_is_known(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data", micrographs=2, shape=(300, 400), picks=12, style="relion", shifts=True)
    extract(data, tmp_path / "out", tables="both")
    table = read_table(tmp_path / "out" / "particles.cs")
    for row, uid in enumerate(table["uid"].tolist()):
        (step,) = history(str(uid), [tmp_path / "out"])
        assert step.images[0].startswith(f"{int(table['blob/idx'][row]) + 1}@")


@pytest.mark.parametrize("uid", ["none", "0", "9" * 30])
def test_a_row_without_a_uid_is_nobody_else(tmp_path: Path, uid: str) -> None:
    data = make_dataset(tmp_path / "data", micrographs=1, shape=(300, 400), picks=12, style="relion")
    lines = data.picks.read_text().splitlines()
    last = max(number for number, line in enumerate(lines) if line.startswith("_rln"))
    lines.insert(last + 1, f"_cryosparcUid #{int(lines[last].split('#')[1]) + 1}")
    lines[last + 2 :] = [f"{line} {uid}" if line.strip() else line for line in lines[last + 2 :]]
    data.picks.write_text("\n".join(lines) + "\n")
    extract(data, tmp_path / "out")
    stack, slot = images_of(tmp_path / "out")[0]
    (step,) = history(f"{slot}@{stack}", [tmp_path / "out"])
    assert step.uid is None
    assert history("0", [tmp_path / "out"]) == ()
