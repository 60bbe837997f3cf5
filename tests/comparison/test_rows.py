"""Rows find their partners by uid, image or position, one to one; what finds none is listed with the reason."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cryobox
from comparison.makers import Rows, rows, write
from cryobox.comparison import compare_particles
from cryobox.comparison.pairing import image_keys, nearest
from cryobox.comparison.sides import read_side
from cryobox.errors import InputError, OptionError
from cryobox.groups import Style
from cryobox.matching import Strip
from cryobox.paths import Start
from cryobox.simulate import make_dataset
from synth import write_star


def test_uids_match_rows_wherever_they_lie(tmp_path: Path) -> None:
    a, b = rows(), replace(rows(), x=rows().x + 50)
    found = compare_particles(write(tmp_path / "a", a, "cs"), write(tmp_path / "b", b, "cs"))
    assert found.pairs.rules == {"uid": 30}
    assert found.values[0].differing == 30


def test_rows_whose_uids_differ_are_matched_by_position(tmp_path: Path) -> None:
    b = rows()
    b.uid[:5] += np.uint64(1)
    found = compare_particles(write(tmp_path / "a", rows(), "cs"), write(tmp_path / "b", b, "cs"))
    assert found.pairs.rules == {"uid": 25, "micrograph and position": 5}
    assert found.agrees


def test_tables_of_the_same_stacks_are_matched_by_image(tmp_path: Path) -> None:
    first = write(tmp_path, rows())
    shutil.copy(first, first.with_name("subset.star"))
    moved = write(tmp_path, replace(rows(), x=rows().x + 40, y=rows().y - 7))
    found = compare_particles(first.with_name("subset.star"), moved)
    assert found.pairs.rules == {"image name": 30}
    assert found.differences == ("position",)


def test_stacks_of_one_name_in_two_projects_are_not_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a = write(tmp_path / "one", rows())
    b = write(tmp_path / "two", replace(rows(), images=-rows().images))
    monkeypatch.chdir(tmp_path / "one")
    found = compare_particles(a, b)
    assert found.pairs.rules == {"micrograph and position": 30}
    assert found.pixels.inverted == 30


def test_micrographs_are_matched_as_those_of_picks_are(tmp_path: Path) -> None:
    uid = "012345678901234567890"
    b = replace(rows(), names=tuple(f"J3/{uid}_{Path(name).name}" for name in rows().names))
    found = compare_particles(write(tmp_path / "a", rows()), write(tmp_path / "b", b, "cs"))
    assert found.agrees
    assert found.pairs.names == "file stem without CryoSPARC's uid prefix"


def test_text_that_is_not_compared_can_be_stripped(tmp_path: Path) -> None:
    b = replace(rows(), names=tuple(name.replace(".mrc", "_DW.mrc") for name in rows().names))
    paths = write(tmp_path / "a", rows()), write(tmp_path / "b", b)
    with pytest.raises(InputError, match="give --strip-suffix _DW"):
        compare_particles(*paths)
    assert compare_particles(*paths, strip=Strip(suffix="_DW")).agrees


def test_a_micrograph_that_only_one_has_is_the_reason(tmp_path: Path) -> None:
    b = rows().take(rows().micrograph > 0)
    found = compare_particles(write(tmp_path / "a", rows()), write(tmp_path / "b", b))
    assert found.only_a.counts == {"the other table has nothing on its micrograph": int((rows().micrograph == 0).sum())}


def test_a_doubled_row_is_called_so(tmp_path: Path) -> None:
    b = rows().take(np.append(np.arange(30), [6, 6, 8]))
    found = compare_particles(write(tmp_path / "a", rows()), write(tmp_path / "b", b))
    assert found.only_b.counts == {"doubled: its partner is matched to another row": 3}
    assert not len(found.only_a)


@pytest.mark.parametrize("within", [0.5, 1.0, 3.0, 60.0])
def test_positions_are_matched_one_to_one_nearest_first(within: float) -> None:
    rng = np.random.default_rng(3)
    n, m = 150, 170
    a = rng.integers(0, 2, n), rng.uniform(-20, 60, (n, 2)).round(1), np.arange(n)
    b = rng.integers(0, 2, m), rng.uniform(-20, 60, (m, 2)).round(1), np.arange(m)
    i, j = nearest(a, b, within)
    assert sorted(zip(i.tolist(), j.tolist(), strict=True)) == sorted(literal(a, b, within))
    k, h = nearest(b, a, within)
    assert sorted(zip(h.tolist(), k.tolist(), strict=True)) == sorted(literal(a, b, within))


def literal(a: tuple[np.ndarray, ...], b: tuple[np.ndarray, ...], within: float) -> list[tuple[int, int]]:
    """All pairs in the order of their distances; each row is taken once."""
    near = []
    for i, (micrograph, (y, x)) in enumerate(zip(a[0], a[1], strict=True)):
        for j, (other, (v, u)) in enumerate(zip(b[0], b[1], strict=True)):
            square = (y - v) ** 2 + (x - u) ** 2
            if micrograph == other and square <= within**2:
                near.append((square, abs(i - j), i + j, y + v, x + u, i, j))
    found: list[tuple[int, int]] = []
    for *_, i, j in sorted(near):
        if all(i != one and j != other for one, other in found):
            found.append((i, j))
    return found


@pytest.mark.parametrize("style", ["relion", "cryosparc"])
def test_a_run_of_ours_says_why_a_pick_is_missing(
    style: Style, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = make_dataset(tmp_path / "data", micrographs=2, shape=(500, 600), picks=40, style=style)
    made = {}
    for edges in ("pad", "reject"):
        recipe = cryobox.Recipe(box=160, sizes=(160,), edges=edges)
        made[edges] = cryobox.run(
            data.picks, micrographs=data.micrographs, out=f"out_{edges}", recipe=recipe, root=tmp_path / "data"
        )
    assert made["reject"].extracted < made["pad"].extracted
    found = compare_particles("out_pad", "out_reject")
    missing = made["pad"].extracted - made["reject"].extracted
    assert found.only_a.counts == {"box over the edge": missing}
    assert found.differences == ("rows that only A has",)
    table = next(Path("out_reject").glob("particles.*s*"))
    assert compare_particles(table, "out_pad").only_b.counts == {"box over the edge": missing}


def test_a_stack_that_is_not_there_is_named_with_what_to_do(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a", rows()), write(tmp_path / "b", rows())
    shutil.rmtree(tmp_path / "b" / "Extract" / "job1", ignore_errors=False)
    b = write(tmp_path / "b", rows())
    next(b.parent.glob("*.mrcs")).unlink()
    with pytest.raises(InputError, match=r"mic_\d.mrcs: cannot be read.*--sample 0"):
        compare_particles(a, b, sample=None)
    assert compare_particles(a, b, sample=0).agrees


def test_an_image_that_its_stack_does_not_hold_is_refused(tmp_path: Path) -> None:
    def short(some: Rows) -> Rows:
        return some.take(some.slot < 3)

    a, b = write(tmp_path / "a", rows()), write(tmp_path / "b", rows())
    text = b.read_text()
    write(tmp_path / "b", short(rows()))
    b.write_text(text)
    with pytest.raises(InputError, match="holds 3 images, and .* names number"):
        compare_particles(a, b, sample=None)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    a = write(tmp_path, rows())
    (a.parent / "job.json").write_text('{"type": "extract_micrographs_multi"}')  # CryoSPARC's jobs have one, too
    with pytest.raises(InputError, match=r"is a folder without the job.json of a finished run"):
        compare_particles(a.parent, a)
    assert compare_particles(a, a).agrees


@pytest.mark.parametrize(
    "wrong", [{"within": 0}, {"within": float("nan")}, {"sample": -1}, {"seed": -1}, {"tolerance": -1e-6},
              {"tolerance": float("inf")}, {"pixels": "some"}],
    ids=str,
)  # fmt: skip
def test_absurd_options_are_refused(wrong: dict[str, Any], tmp_path: Path) -> None:
    a = write(tmp_path, rows())
    with pytest.raises(OptionError, match=next(iter(wrong))):
        compare_particles(a, a, **wrong)


def test_coordinates_alone_are_no_particles(tmp_path: Path) -> None:
    (tmp_path / "mic_1.box").write_text("10 10 32 32\n")
    names = {"rlnMicrographName": ["mic_1.mrc"], "rlnMicrographCoordinates": [str(tmp_path / "mic_1.box")]}
    listing = write_star(tmp_path / "autopick.star", {"coordinate_files": names})
    for path, why in ((tmp_path / "mic_1.box", "not a table of particles"), (listing, "has coordinates alone")):
        with pytest.raises(InputError, match=why):
            compare_particles(write(tmp_path, rows()), path)


def test_errors_name_files_as_they_were_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a = write(tmp_path, rows())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"^Extract/none.star: no such file"):
        compare_particles(a, "Extract/none.star")


def test_empty_tables_are_matched_with_nothing(tmp_path: Path) -> None:
    full, empty = write(tmp_path / "a", rows()), tmp_path / "empty.star"
    text = full.read_text()
    empty.write_text("\n".join(line for line in text.splitlines() if "@" not in line) + "\n")
    found = compare_particles(full, empty)
    assert found.differences == ("rows that only A has", "no rows were matched")
    assert found.no_pixels == "no rows were matched"


def test_uids_of_either_sign_of_integers_are_the_same(tmp_path: Path) -> None:
    some = rows()
    some.uid[:] = np.uint64(2**62) + np.arange(30, dtype=np.uint64)  # of which float64 keeps one
    a, b = write(tmp_path / "a", some, "cs"), write(tmp_path / "b", some, "cs")
    table = np.load(b)
    kinds = [(name, "<i8" if name == "uid" else table.dtype[name]) for name in table.dtype.names]
    with open(b, "wb") as file:
        np.save(file, table.astype(kinds))
    found = compare_particles(a, b)
    assert found.pairs.rules == {"uid": 30}
    assert (found.pairs.a == found.pairs.b).all()


def test_images_that_are_compared_with_themselves_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a = write(tmp_path / "one", rows())
    b = write(tmp_path / "two", replace(rows(), images=-rows().images))
    for stack in b.parent.glob("*.mrcs"):
        stack.unlink()
    monkeypatch.chdir(tmp_path / "one")  # where names of the second table lead, too
    found = compare_particles(a, b)
    assert any("in 30 of 30 pairs both tables name one image of one file" in note for note in found.notes)
    other = compare_particles(a, write(tmp_path / "three", rows()))
    assert not any("one image of one file" in note for note in other.notes)


def test_numbers_of_images_may_be_large(tmp_path: Path) -> None:
    far, start = 10**18 - 1, Start(str(tmp_path))
    columns: dict[str, Any] = {
        "rlnMicrographName": ["m.mrc"] * 12,
        "rlnCoordinateX": [1] * 12,
        "rlnCoordinateY": [1] * 12,
    }
    names = [f"{far - n // 2}@s{n % 2 * 11}.mrcs" for n in range(12)]
    some = {f"{k}.star": [*names[k:], *names[:k]] for k in (0, 5)}
    sides = [
        read_side(write_star(tmp_path / name, {"": columns | {"rlnImageName": texts}}), start)
        for name, texts in some.items()
    ]
    keys = image_keys(*sides)
    assert keys is not None
    assert len(set(keys[0].tolist())) == 12
    np.testing.assert_array_equal(keys[0], np.roll(keys[1], 5))
