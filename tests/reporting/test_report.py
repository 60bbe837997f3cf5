"""The report of a run: what it says, that nothing can be injected, that a browser shows it, how large it is."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from conftest import chromium
from cryobox import InputError, MissingExtraError, Recipe, RunOptions, RunResult, run
from cryobox.formats.mrc import read_images
from cryobox.job import merge
from cryobox.simulate import make_dataset

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

from PIL import Image

from cryobox.reporting import page, plots, require_extra, write_report
from cryobox.reporting.facts import MicrographRow, gather, power_spectra

RECIPE = Recipe(box=128, sizes=(64, 32))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunResult, str]:
    folder = tmp_path_factory.mktemp("run")
    data = make_dataset(folder, micrographs=3, picks=25, shifts=True)
    result = run(data.picks, micrographs=data.micrographs, out=folder / "out", recipe=RECIPE, root=folder,
                 options=RunOptions(fsync=False))  # fmt: skip
    return result, write_report(result.out).read_text()


def test_the_counts_are_those_of_the_run(finished: tuple[RunResult, str]) -> None:
    result, html = finished
    assert f"<b>{result.picks}</b>picks" in html
    assert f"<b>{result.extracted}</b>extracted" in html
    for reason, count in result.rejected.items():
        assert re.search(rf'<td>{reason}</td><td class="n">{count}</td>', html)


def test_the_table_has_a_row_for_every_micrograph_and_adds_up(finished: tuple[RunResult, str]) -> None:
    result, html = finished
    rows = re.findall(r"<tr><td>(micrographs/sim_\d+.mrc)<td>(\d+)<td>(\d+)<td>(\d+)<td>", html)
    assert [row[0] for row in rows] == [f"micrographs/sim_00{i}.mrc" for i in (1, 2, 3)]
    assert sum(int(row[2]) for row in rows) == result.extracted
    assert sum(int(row[1]) for row in rows) == result.picks


def test_it_asks_the_network_for_nothing(finished: tuple[RunResult, str]) -> None:
    _, html = finished
    assert re.findall(r"""(?:src|href)=["'](?!data:|#)""", html) == []
    assert "url(" not in html
    assert "@import" not in html


def test_it_is_the_same_again(finished: tuple[RunResult, str]) -> None:
    result, html = finished
    again = write_report(result.out).read_text()

    def without_time(text: str) -> str:
        return re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d", "", text)

    assert without_time(again) == without_time(html)


def test_it_is_found_again_from_another_working_directory(
    finished: tuple[RunResult, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, _ = finished
    monkeypatch.chdir(tmp_path)
    assert write_report(os.path.relpath(result.out)).is_file()
    assert Path.cwd() == tmp_path


def test_options_that_are_not_the_default_stand_out(finished: tuple[RunResult, str]) -> None:
    _, html = finished
    assert '<td>sizes</td><td class="path changed">64, 32</td>' in html
    assert '<td>edges</td><td class="path">reject</td>' in html


HOSTILE = "<script>document.title='stolen'</script>&\"'.mrc"


def test_names_from_tables_are_escaped(tmp_path: Path) -> None:
    data = make_dataset(tmp_path, micrographs=1, picks=6)
    hostile = tmp_path / "micrographs" / HOSTILE.replace("/", "_")
    data.images[0].rename(hostile)
    for table in (data.micrographs, data.picks):
        text = table.read_text().replace("micrographs/sim_001.mrc", f"micrographs/{hostile.name}")
        table.write_text(text)
    out = tmp_path / "<b>out"
    run(data.picks, micrographs=data.micrographs, out=out, recipe=RECIPE, root=tmp_path,
        options=RunOptions(fsync=False))  # fmt: skip
    html = write_report(out).read_text()
    assert "<script>document" not in html
    assert "&lt;script&gt;document" in html
    assert "<b>out" not in html


def test_a_run_that_was_interrupted_has_a_report_too(tmp_path: Path) -> None:
    import threading

    data = make_dataset(tmp_path, micrographs=4, picks=12)
    stop = threading.Event()
    result = run(data.picks, micrographs=data.micrographs, out=tmp_path / "out", recipe=RECIPE, root=tmp_path,
                 options=RunOptions(fsync=False, workers=1), stop=stop,
                 on_progress=lambda now: stop.set() if now.micrographs == 1 else None)  # fmt: skip
    assert result.interrupted
    html = write_report(tmp_path / "out").read_text()
    assert "Not finished" in html
    assert "not cut yet" in html


def test_micrographs_that_could_not_be_used_are_listed_with_the_reason(tmp_path: Path) -> None:
    data = make_dataset(tmp_path, micrographs=2, picks=8)
    data.images[1].write_bytes(data.images[1].read_bytes()[:-1000])
    run(data.picks, micrographs=data.micrographs, out=tmp_path / "out", recipe=RECIPE, root=tmp_path,
        options=RunOptions(fsync=False))  # fmt: skip
    html = write_report(tmp_path / "out").read_text()
    assert "1 micrographs could not be used" in html
    assert "copied incompletely?" in html


def test_a_micrograph_whose_coordinate_file_is_missing_has_a_row_with_the_reason(tmp_path: Path) -> None:
    data = make_dataset(tmp_path, micrographs=2, picks=8)
    coordinates = "data_\n\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n300 300\n"
    (tmp_path / "one.star").write_text(coordinates)
    rows = "".join(f"{path.name} {name}.star\n" for path, name in zip(data.images, ("one", "two"), strict=True))
    (tmp_path / "list.star").write_text(
        "data_coordinate_files\n\nloop_\n_rlnMicrographName\n_rlnMicrographCoordinates\n" + rows
    )
    run(tmp_path / "list.star", micrographs=data.micrographs, out=tmp_path / "out", recipe=RECIPE, root=tmp_path,
        options=RunOptions(fsync=False))  # fmt: skip
    html = write_report(tmp_path / "out").read_text()
    assert "1 micrographs could not be used" in html
    assert [row.problem for row in gather(tmp_path / "out").rows] == [
        "",
        f"{tmp_path}/two.star: no such file of coordinates",
    ]


def test_inputs_that_changed_are_told_not_papered_over(tmp_path: Path) -> None:
    data = make_dataset(tmp_path, micrographs=2, picks=8)
    run(data.picks, micrographs=data.micrographs, out=tmp_path / "out", recipe=RECIPE, root=tmp_path,
        options=RunOptions(fsync=False))  # fmt: skip
    os.utime(data.images[0], ns=(1, 1))
    assert "The inputs have changed since the run" in write_report(tmp_path / "out").read_text()


def test_a_folder_without_a_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds neither a job.json nor a ledger"):
        write_report(tmp_path)


def test_without_the_extra_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else found(name))
    with pytest.raises(MissingExtraError, match=r"it needs matplotlib: pip install cryobox\[report\]"):
        require_extra()


def test_ten_thousand_micrographs_stay_below_five_megabytes(finished: tuple[RunResult, str]) -> None:
    facts = gather(finished[0].out)
    row = facts.rows[0]
    name = "MotionCorr/job002/Movies/FoilHole_15256398_Data_15250401_20250401_174947_fractions_patch_aligned"
    rows = [
        replace(row, name=f"{name}_{i:05d}.mrc", picks=100 + i % 300, kept=90 + i % 300, rejected=10, mean=13.7 + i)
        for i in range(10_000)
    ]
    assert isinstance(rows[0], MicrographRow)
    html = page._render(replace(facts, rows=rows))
    assert html.count(name) >= 10_000
    assert len(html.encode()) < 5e6


def test_the_power_of_white_noise_is_flat_and_one() -> None:
    noise = np.random.default_rng(0).standard_normal((200, 32, 32)).astype(np.float32)
    of_images, of_average = power_spectra(noise)
    np.testing.assert_allclose(of_images, 1.0, atol=0.2)
    np.testing.assert_allclose(of_average[1:].mean(), 1 / 200, rtol=0.3)


def test_the_sampled_images_are_those_of_the_picks(finished: tuple[RunResult, str]) -> None:
    """Row by row against the table that the run wrote."""
    from cryobox.formats.star_table import read_blocks
    from cryobox.reporting.facts import sample_images

    result, _ = finished
    facts = gather(result.out)
    rows = np.flatnonzero(facts.outcome.fate == -1)
    sample = sample_images(facts, rows[::3], 1)
    names = read_blocks(result.out / "particles_small.star")["particles"].table().texts("_rlnImageName")
    assert len(sample.rows) == len(rows[::3])
    place = {row: names[i] for i, row in enumerate(rows.tolist())}
    for row, image in zip(sample.rows.tolist(), sample.images, strict=True):
        number, stack = place[row].split("@")
        path = result.out / "stacks_small" / Path(stack).name
        np.testing.assert_array_equal(image, read_images(path, np.array([int(number) - 1]))[0])


PROBE = """
<script>
window.addEventListener("load", () => {
  const images = Array.from(document.images);
  const heads = Array.from(document.querySelectorAll("#micrographs th button"));
  const column = n => Array.from(document.querySelectorAll("#micrographs tbody tr"), row => row.cells[n].textContent);
  heads[2].click(); const up = column(2); heads[2].click(); const down = column(2);
  heads[0].click(); const names = column(0);
  const found = {images: images.length, broken: images.filter(i => !(i.complete && i.naturalWidth > 1)).length,
                 up, down, names, errors: window.probe_errors, title: document.title};
  const place = document.createElement("pre"); place.id = "probe"; place.textContent = JSON.stringify(found);
  document.body.append(place);
});
</script>
"""
CATCH = """<script>
window.probe_errors = [];
window.addEventListener("error", event => window.probe_errors.push(event.message), true);
</script>"""


@pytest.mark.chromium
def test_a_browser_shows_it_without_errors_and_sorts(finished: tuple[RunResult, str], tmp_path: Path) -> None:
    probed = tmp_path / "probed.html"
    html = finished[1].replace("<head>", "<head>" + CATCH, 1).replace("</body>", PROBE + "</body>", 1)
    probed.write_text(html)
    command = [
        str(chromium()), "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0",
        f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=10000", "--dump-dom", probed.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    match = re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, re.DOTALL)
    assert match, done.stderr[-2000:]
    found = json.loads(match.group(1).replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    assert found["errors"] == []
    assert "CONSOLE" not in done.stderr
    assert found["images"] >= 10
    assert found["broken"] == 0
    assert list(map(int, found["up"])) == sorted(map(int, found["up"]))
    assert found["down"] == found["up"][::-1] or list(map(int, found["down"])) == sorted(map(int, found["up"]))[::-1]
    assert found["names"] == sorted(found["names"])


def test_shards_have_a_report_though_one_has_only_begun(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data", micrographs=2, shape=(300, 400), picks=8)
    out = tmp_path / "out"
    run(data.picks, micrographs=data.micrographs, root=data.folder, out=out, recipe=Recipe(box=64),
        options=RunOptions(fsync=False, shard=(1, 2)))  # fmt: skip
    head = (out / "ledger.1-of-2.jsonl").read_bytes().splitlines(keepends=True)[0]
    for begun in (head, b""):
        (out / "ledger.2-of-2.jsonl").write_bytes(begun)
        assert "Not finished: 1 of 2 micrographs are left" in write_report(out).read_text()


def test_the_report_of_shards_names_the_merge_and_no_table_before_it(tmp_path: Path) -> None:
    data = make_dataset(tmp_path, micrographs=2, picks=20)
    out = tmp_path / "out"
    for index, wanted in ((1, "Not finished: 1 of 2 micrographs are left. When all shards are done,"),
                          (2, "All micrographs are cut. Now")):  # fmt: skip
        run(data.picks, micrographs=data.micrographs, out=out, recipe=RECIPE, root=tmp_path,
            options=RunOptions(fsync=False, shard=(index, 2)))  # fmt: skip
        html = write_report(out).read_text()
        assert f"{wanted} cryobox merge {out} writes the tables." in html
        assert "beside this file lists each of them" not in html
    merge(out, options=RunOptions(fsync=False))
    assert "<code>rejected.star</code> beside this file lists each of them" in write_report(out).read_text()


def test_helices_are_drawn_through_their_segments(tmp_path: Path) -> None:
    data = make_dataset(tmp_path, micrographs=1, picks=6)
    (tmp_path / "ends").mkdir()
    ends = "data_\n\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n200 300\n600 300\n500 700\n500 500\n"
    (tmp_path / "ends/sim_001.star").write_text(ends)
    recipe = replace(RECIPE, helix="ends", inter_box_distance=100.0)
    result = run(tmp_path / "ends", micrographs=data.micrographs, out=tmp_path / "out", recipe=recipe, root=tmp_path,
                 options=RunOptions(fsync=False))  # fmt: skip
    facts = gather(result.out)
    lines = page._tubes(facts, np.arange(len(facts.particles)))
    assert [len(line) for line in lines] == np.bincount(facts.particles.tube).tolist()[1:]
    assert lines[0][:, 0].tolist() == [300] * len(lines[0])
    assert (np.diff(lines[0][:, 1]) > 0).all()
    assert (np.diff(lines[1][:, 0]) < 0).all()
    blank, kept = np.full((100, 100), 128, np.uint8), np.zeros(0, np.bool_)
    none = np.zeros((0, 2))
    picture = plots.boxes_on_micrograph(blank, none, 10.0, kept, 100, tubes=[np.array([[50.0, 10], [50, 90]])])
    image = Image.open(io.BytesIO(base64.b64decode(picture.split(",")[1]))).convert("RGB")
    red, green, _ = np.asarray(image)[50, 20:80].T.astype(int)
    assert (red - green > 60).all()
    assert write_report(result.out).is_file()
