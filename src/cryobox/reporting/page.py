"""The report's page: what it shows, in which order, and writing it."""

from __future__ import annotations

import dataclasses
import math
import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryobox import __version__
from cryobox.centering import corner_of
from cryobox.errors import CryoboxError
from cryobox.filtering import MEASURES
from cryobox.folder.layout import REPORT
from cryobox.folder.publish import publish_file
from cryobox.options import Recipe
from cryobox.outcome import PENDING, noise_results
from cryobox.particles import Reason
from cryobox.plan import ACCEPTED, REASONS, Plan
from cryobox.reporting import plots
from cryobox.reporting.facts import (
    AVERAGED,
    EDGE_REASONS,
    SEED,
    SHOWN,
    Facts,
    Sample,
    gather,
    power_spectra,
    sample_images,
)  # fmt: skip
from cryobox.reporting.pictures import gray, montage, read_thumbnail, spread
from cryobox.results import TaskResult
from cryobox.tables import tables_present

__all__ = ["write_page"]

TEMPLATE = Path(__file__).with_name("report.html.j2")
THUMBNAILS = 6
THUMBNAIL_WIDTH = 640
MONTAGE_COLUMNS = 10
BIG_SIDE = 160  # images are shown at most this large, or a montage of 400-pixel boxes alone would fill the file
SHOWN_PROBLEMS = 200

Floats = NDArray[np.float64]


def write_page(folder: Path) -> Path:
    """Gather the facts of the run in `folder`, and write its report."""
    facts = gather(folder)
    html = _render(facts)
    path = folder / REPORT
    publish_file(path, html.encode("utf-8", "replace"), fsync=False)
    return path


def _render(facts: Facts) -> str:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = _number
    environment.filters["comma"] = lambda value: f"{value:,}"
    context = _context(facts)
    page: str = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(context)
    return page


def _context(facts: Facts) -> dict[str, Any]:
    plan = facts.plan
    extracted = int((facts.outcome.fate == ACCEPTED).sum())
    samples = [_sample(facts, index) for index in range(len(plan.recipe.outputs))]
    return {
        "title": facts.run.folder.resolve().name,
        "folder": str(facts.run.folder.resolve()),
        "version": __version__,
        "written": time.strftime("%Y-%m-%d %H:%M"),
        "state": _state(facts),
        "rejected": next((name for name in tables_present(facts.run.folder) if name.startswith("rejected.")), ""),
        "picks": len(facts.outcome.fate),
        "extracted": extracted,
        "counts": list(facts.counts().items()),
        "micrographs": len(facts.rows),
        "done": len(facts.results),
        "tasks": len(plan.tasks),
        "asked": _asked(facts),
        "stored": _stored(facts),
        "warnings": _warnings(facts)[:SHOWN_PROBLEMS],
        "montages": _montages(facts, samples),
        "average": _average(facts, samples),
        "maps": _maps(facts),
        "histograms": _histograms(facts, samples),
        "measures": _measures(facts),
        "throughput": _throughput(facts),
        "thumbnails": _thumbnails(facts),
        "rows": facts.rows,
        "problems": [(row.name, row.problem) for row in facts.rows if row.problem][:SHOWN_PROBLEMS],
        "notes": facts.problems,
    }


def _number(value: float, digits: int = 4) -> str:
    return f"{value:.{digits}g}" if math.isfinite(value) else ""


def _state(facts: Facts) -> dict[str, str]:
    if not facts.run.complete:
        left = len(facts.plan.tasks) - len(facts.results)
        text = f"Not finished: {left:,} of {len(facts.plan.tasks):,} micrographs are left."
        if any(part.shard is not None for part in facts.run.parts):
            merge = f"cryobox merge {shlex.quote(str(facts.run.folder))}"
            wait = f"{text} When all shards are done," if left else "All micrographs are cut. Now"
            text = f"{wait} {merge} writes the tables."
        return {"kind": "open", "text": text}
    incomplete = facts.run.job.get("incomplete") or {}
    if not facts.run.job.get("extracted"):
        return {"kind": "bad", "text": "Finished, but nothing was extracted."}
    if incomplete:
        return {"kind": "bad", "text": f"Finished; {len(incomplete):,} micrographs could not be used."}
    return {"kind": "good", "text": "Complete."}


def _warnings(facts: Facts) -> list[str]:
    """As the run recorded them; while it goes on, as far as plan and results tell."""
    if facts.run.complete:
        return list(map(str, facts.run.job.get("warnings") or ()))
    of_results = (text for result in facts.results.values() for text in result.warnings)
    return list(dict.fromkeys([*facts.plan.warnings, *of_results]))


def _asked(facts: Facts) -> list[tuple[str, str, bool]]:
    """What was asked: (name, value, whether it differs from the default)."""
    found = [
        ("picks", ", ".join(facts.inputs.given.paths[:-1]), True),
        ("micrographs", facts.inputs.given.micrographs or "those that the picks name", True),
        ("working directory", facts.inputs.given.directory, True),
    ]
    if facts.inputs.given.root is not None:
        found.append(("root", facts.inputs.given.root, True))
    for option in dataclasses.fields(Recipe):
        value = getattr(facts.plan.recipe, option.name)
        default = option.default
        text = ", ".join(map(str, value)) if isinstance(value, tuple) else _plain(value)
        found.append((option.name.replace("_", " "), text, value != default))
    versions = facts.run.basis
    found += [(f"{key} version", str(versions[key]), True) for key in ("cryobox", "fftw") if key in versions]
    run = facts.run.last.run
    return found + [(key, str(run[key]), True) for key in ("host", "cpu", "time") if run.get(key)]


def _plain(value: object) -> str:
    if value is None:
        return "—"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _stored(facts: Facts) -> list[dict[str, str]]:
    found = _stored_of(facts.plan, facts.results, "")
    if facts.plan.noise is not None:
        found += _stored_of(facts.plan.noise.plan, noise_results(facts.plan, facts.results), "noise, ")
    return found


def _stored_of(plan: Plan, results: Mapping[str, TaskResult], what: str) -> list[dict[str, str]]:
    found = []
    for index, output in enumerate(plan.outputs):
        pixels = [task.outputs[index].pixel_size for task in plan.tasks]
        total = sum(result.stacks[index].bytes for result in results.values() if len(result.stacks) > index)
        stacks = sum(len(result.stacks) > index for result in results.values())
        low, high = (min(pixels), max(pixels)) if pixels else (math.nan, math.nan)
        angstrom = f"{low:.4g}" if not high > low * 1.0001 else f"{low:.4g} to {high:.4g}"
        found.append(
            {
                "size": f"{what}{output.size} x {output.size} {output.dtype}",
                "pixel": angstrom,
                "nyquist": f"{2 * high:.3g}",
                "stacks": f"{stacks:,}",
                "bytes": f"{total / 1e6:,.1f} MB",
            }
        )
    return found


def _sample(facts: Facts, size_index: int) -> Sample:
    """Images for averages: evenly chosen micrographs, a few images of each."""
    rows = np.flatnonzero(facts.outcome.fate == ACCEPTED)
    chosen = np.random.default_rng(SEED).permutation(len(rows))[: AVERAGED if size_index == 0 else SHOWN]
    return sample_images(facts, rows[np.sort(chosen)], size_index)


def _small_enough(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Bin images for display."""
    factor = max(1, math.ceil(images.shape[-1] / BIG_SIDE))
    side = images.shape[-1] // factor * factor
    cut = images[:, :side, :side].reshape(len(images), side // factor, factor, side // factor, factor)
    binned: NDArray[np.float32] = cut.mean(axis=(2, 4), dtype=np.float32)
    return binned


def _montages(facts: Facts, samples: list[Sample]) -> list[dict[str, str]]:
    found = []

    def add(title: str, images: NDArray[np.float32]) -> None:
        if len(images):
            sheet = montage(_small_enough(images), MONTAGE_COLUMNS)
            found.append({"title": title, "image": plots.jpeg(sheet), "width": str(sheet.shape[1])})

    for sample, output in zip(samples, facts.plan.recipe.outputs, strict=True):
        if len(sample.rows):
            some = np.sort(np.random.default_rng(SEED).permutation(len(sample.rows))[:SHOWN])
            add(f"{len(some)} at random, {output.size} x {output.size}", sample.images[some])
    score = facts.particles.score
    if score is not None:
        rows = np.flatnonzero((facts.outcome.fate == ACCEPTED) & np.isfinite(score))
        order = rows[np.argsort(score[rows], kind="stable")]
        half = SHOWN // 2
        if len(order) > SHOWN:
            for name, some in (("best", order[::-1][:half]), ("lowest", order[:half])):
                sample = sample_images(facts, some, 0)
                place = np.argsort(score[sample.rows], kind="stable")
                ranked = sample.images[place[::-1] if name == "best" else place]
                low, high = float(score[some].min()), float(score[some].max())
                add(f"{name} scores: {low:.3g} to {high:.3g}", ranked)
    return found


def _average(facts: Facts, samples: list[Sample]) -> dict[str, Any] | None:
    sample = samples[0]
    if len(sample.rows) == 0:
        return None
    of_images, of_average = power_spectra(sample.images)
    size = sample.images.shape[-1]
    pixel = sample.pixel_size if math.isfinite(sample.pixel_size) else 1.0
    frequency = np.arange(len(of_images)) / (size * pixel)
    nyquist = []
    for output in facts.plan.tasks[0].outputs:
        own = output.pixel_size
        nyquist.append((f"Nyquist of {output.size}: {2 * own:.3g} Å", 1 / (2 * own)))
    levels = gray(sample.images.mean(axis=0, dtype=np.float64).astype(np.float32))
    factor = max(1, math.ceil(200 / size))
    return {
        "image": plots.jpeg(np.kron(levels, np.ones((factor, factor), np.uint8))),
        "count": len(sample.rows),
        "of": int((facts.outcome.fate == ACCEPTED).sum()),
        "spectrum": plots.spectrum(
            [("images, mean", frequency[1:], of_images[1:]), ("their average", frequency[1:], of_average[1:])], nyquist
        ),
    }


def _maps(facts: Facts) -> list[str]:
    plan = facts.plan
    shape = plan.grounds.shape[plan.micrograph]
    placed = (plan.micrograph >= 0) & (shape > 0).all(axis=1)
    place = np.full((len(facts.outcome.fate), 2), np.nan)
    place[placed] = (plan.places.center[placed] + 0.5) / shape[placed]
    if not placed.any():
        return []
    aspect = float(np.median(shape[placed, 0] / shape[placed, 1]))
    edge = placed & np.isin(facts.outcome.fate, EDGE_REASONS)
    found = []
    for title, chosen, color in (
        ("rejected at the edges", edge, plots.ORANGE),
        ("extracted", placed & (facts.outcome.fate == ACCEPTED), plots.BLUE),
    ):
        if chosen.any():
            y, x = np.clip(place[chosen], 0, 1).T
            found.append(plots.map_of_picks(x, y, f"{title}: {int(chosen.sum()):,}", color=color, aspect=aspect))
    return found


def _histograms(facts: Facts, samples: list[Sample]) -> list[str]:
    found = []
    sd = np.array([row.sd for row in facts.rows])
    if np.isfinite(sd).any():
        found.append(plots.histogram([("sd", sd)], "background sd, gray levels"))
    if len(samples[0].rows) and facts.plan.recipe.normalize and facts.outcome.measures is None:
        label = "contrast: middle minus background, in background sd"
        found.append(plots.histogram([("contrast", _contrast(facts, samples[0].images))], label, counted="particles"))
    defocus = _defocus(facts)
    if np.isfinite(defocus).any():
        found.append(plots.histogram([("defocus", defocus / 1e4)], "mean defocus, µm"))
    before, after = _shifts(facts)
    if len(before):
        found.append(
            plots.histogram([("before", before), ("after", after)], "shift left to be applied, Å", counted="particles")
        )
    if facts.particles.score is not None:
        kept = facts.particles.score[facts.outcome.fate == ACCEPTED]
        found.append(plots.histogram([("all", facts.particles.score), ("extracted", kept)], "score", counted="picks"))
    return found


def _measures(facts: Facts) -> dict[str, Any] | None:
    """Distributions of what was measured, of all particles that could be cut and of those that were kept."""
    measures = facts.outcome.measures
    if measures is None:
        return None
    cut, kept = np.isfinite(measures[:, 0]), facts.outcome.fate == ACCEPTED
    images, same = [], []
    for name, values in zip(MEASURES, measures.T.astype(np.float64), strict=True):
        label = f"{name}{', gray levels' if name in ('background_mean', 'background_sd') else ''}"
        if not cut.any() or np.ptp(values[cut]) == 0:
            same += [f"{name} {values[cut][0]:g}"] if cut.any() else []
        elif (cut & ~kept).any():
            series = [("all", values[cut]), ("kept by the filter", values[kept])]
            images.append(plots.histogram(series, label, counted="particles"))
        else:
            images.append(plots.histogram([("all", values[cut])], label, counted="particles"))
    return {"images": images, "same": ", ".join(same), "filter": facts.plan.recipe.filter or ""}


def _contrast(facts: Facts, images: NDArray[np.float32]) -> Floats:
    size = images.shape[-1]
    radius = facts.plan.tasks[0].outputs[0].background_radius
    along = np.arange(size) - size // 2
    away = along[:, None] ** 2 + along**2
    middle = images[:, away <= (radius / 2) ** 2].mean(axis=1, dtype=np.float64)
    found: Floats = middle - images[:, away > radius**2].mean(axis=1, dtype=np.float64)
    return found


def _defocus(facts: Facts) -> Floats:
    ctf = facts.inputs.micrographs.ctf
    used = facts.plan.work.task_micrograph
    if "defocus_u_angstrom" not in ctf or "defocus_v_angstrom" not in ctf:
        return np.zeros(0)
    found: Floats = (ctf["defocus_u_angstrom"][used] + ctf["defocus_v_angstrom"][used]) / 2
    return found


def _shifts(facts: Facts) -> tuple[Floats, Floats]:
    """Lengths in Å of the leading alignment's shifts of extracted picks, before and after the boxes moved."""
    recipe, rows = facts.plan.recipe, facts.outcome.fate == ACCEPTED
    kinds = ("3d", "2d") if recipe.recenter_from == "auto" else (recipe.recenter_from,)
    for kind in kinds:
        for old, new in zip(facts.particles.alignments, facts.plan.places.alignments, strict=False):
            if old.kind == kind and old.shift.ndim == 2:
                unit = old.pixel_size[rows]
                return np.hypot(*(old.shift[rows].T * unit)), np.hypot(*(new.shift[rows].T * unit))
    return np.zeros(0), np.zeros(0)


def _throughput(facts: Facts) -> dict[str, Any] | None:
    done = sorted((r for r in facts.results.values() if r.ended > 0), key=lambda result: result.ended)
    busy = sum(r.read_seconds + r.extract_seconds + r.write_seconds for r in done)
    if len(done) < 2 or busy <= 0:
        return None
    first = done[0]
    start = first.ended - first.read_seconds - first.extract_seconds - first.write_seconds
    seconds = np.array([0.0] + [result.ended - start for result in done])
    particles = np.concatenate([[0], np.cumsum([result.kept for result in done])]).astype(np.float64)
    moving = sum(r.read_seconds + r.write_seconds for r in done)
    at_once = busy / seconds[-1]
    floor = float(particles[-1] / moving * at_once) if moving > 0 else math.nan
    return {
        "image": plots.throughput(seconds, particles, floor),
        "rate": f"{particles[-1] / seconds[-1]:,.0f}",
        "read": f"{100 * sum(r.read_seconds for r in done) / busy:.0f}",
        "extract": f"{100 * sum(r.extract_seconds for r in done) / busy:.0f}",
        "write": f"{100 * sum(r.write_seconds for r in done) / busy:.0f}",
    }


def _tubes(facts: Facts, picks: NDArray[np.intp]) -> list[NDArray[np.float64]]:
    """Centers of the segments of each helix among some picks, (y, x), in their order along it."""
    tube, track = facts.particles.tube, facts.particles.track
    if tube is None or track is None:
        return []
    placed = facts.plan.places.center[picks].any(axis=1)
    rows = picks[placed & (tube[picks] > 0)]
    rows = rows[np.lexsort((track[rows], tube[rows]))]
    parts = np.split(rows, np.flatnonzero(np.diff(tube[rows])) + 1)
    return [facts.plan.places.center[part].astype(np.float64) for part in parts if len(part)]


def _thumbnails(facts: Facts) -> list[dict[str, str]]:
    """Micrographs with their boxes: the one with most rejected picks, the others evenly chosen."""
    plan = facts.plan
    if not plan.tasks:
        return []
    rejected = np.bincount(
        plan.micrograph[(plan.micrograph >= 0) & (facts.outcome.fate >= 0)], minlength=len(plan.grounds.shape)
    )
    worst = int(np.argmax(rejected[plan.work.task_micrograph]))
    chosen = [worst, *(i for i in spread(len(plan.tasks), THUMBNAILS).tolist() if i != worst)][:THUMBNAILS]
    found = []
    for number in chosen:
        task, row = plan.tasks[number], int(plan.work.task_micrograph[number])
        try:
            image, factor = read_thumbnail(task.path, THUMBNAIL_WIDTH, tiff_flip=task.tiff_flip)
        except CryoboxError as error:
            facts.problems.append(str(error))
            continue
        mine = np.flatnonzero((plan.micrograph == row) & (facts.outcome.fate != REASONS.index(Reason.COORDINATE)))
        corners = corner_of(plan.places.center[mine], task.windows.box) / factor
        kept = facts.outcome.fate[mine] == ACCEPTED
        waiting = int((facts.outcome.fate[mine] == PENDING).sum())
        found.append(
            {
                "name": task.micrograph,
                "text": f"{int(kept.sum())} extracted, {int((~kept).sum()) - waiting} rejected",
                "image": plots.boxes_on_micrograph(
                    gray(image),
                    corners,
                    task.windows.box / factor,
                    kept,
                    THUMBNAIL_WIDTH,
                    lines=_lines(facts, mine, factor),
                    tubes=[line / factor for line in _tubes(facts, mine)],
                ),
            }
        )
    return found


def _lines(facts: Facts, picks: NDArray[np.intp], factor: int) -> Floats | None:
    """From the pick of each particle to its sub-particles, in pixels of a thumbnail; None where there are none."""
    plan, particles = facts.plan, facts.particles
    if plan.recipe.subparticles is None:
        return None
    scale = plan.grounds.scale[particles.micrograph[picks]]
    start = np.stack([particles.y[picks], particles.x[picks]], axis=1) * scale
    found: Floats = np.stack([start, plan.places.center[picks]], axis=1)[plan.places.moved[picks]] / factor
    return found
