"""A comparison in words: a table for readers, 80 columns wide, and plain values for programs."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from cryobox.comparison.comparing import Alone, Comparison
from cryobox.comparison.pixels import PixelResult
from cryobox.comparison.quantities import Limit, Result
from cryobox.comparison.sides import Side

__all__ = ["VERSION", "as_json", "lines"]

VERSION = 1  # of the JSON; rises when a field changes its meaning or goes
WIDTH = 80
LABEL = 21
SHOWN_ROWS = 5  # of those that only one table has
LISTED_ROWS = 1000  # in the JSON; a count tells of all

_MEASURES = {
    "stored": "as stored",
    "fitted": "after scale and offset",
    "below-nyquist": "below Nyquist, after scale and plane",
}


def lines(found: Comparison) -> Iterator[str]:
    """What a reader needs, line by line."""
    for name, side in (("A", found.a), ("B", found.b)):
        yield from _wrapped(f"{name}  {side.source}: {len(side):,} rows{_told_of(side)}", "   ")
    yield ""
    rules = ", ".join(f"{count:,} by {rule}" for rule, count in found.pairs.rules.items())
    near = f" (nearest within {found.within:g} px)" if found.pairs.names else ""
    yield from _wrapped(f"matched  {len(found.pairs):,} rows{': ' + rules if rules else ''}{near}", "         ")
    if found.pairs.names:
        yield from _wrapped(f"         micrographs by {found.pairs.names}", "         ")
    for name, side, alone in (("A", found.a, found.only_a), ("B", found.b, found.only_b)):
        yield from _alone(name, side, alone)
    if found.values:
        yield ""
        yield f"{'':{LABEL}}{'rows':>10}{'differ':>10}{'largest':>11}{'allowed':>11}  row A,B"
        for result in found.values:
            yield from _value(result, found)
    yield ""
    yield from _pixels(found.pixels, found.no_pixels)
    if found.notes:
        yield ""
    for note in found.notes:
        yield from _wrapped(f"note: {note}", "  ")
    yield ""
    verdict = "the same within what is allowed" if found.agrees else f"different: {', '.join(found.differences)}"
    yield from _wrapped(verdict, "  ")


def _wrapped(text: str, indent: str) -> Iterable[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False,
                         drop_whitespace=True, replace_whitespace=False)  # fmt: skip


def _told_of(side: Side) -> str:
    ours = ", of a run of cryobox" if side.left_out is not None else ""
    return f" ({'STAR' if side.particles.family == 'star' else '.cs'}{ours})"


def _alone(name: str, side: Side, alone: Alone) -> Iterator[str]:
    yield f"only {name}   {len(alone):,} rows"
    for reason, count in alone.counts.items():
        yield from _wrapped(f"         {count:,}: {reason}", "           ")
    for place, row in enumerate(alone.rows[:SHOWN_ROWS].tolist()):
        yield from _wrapped(f"         row {row + 1}: {_where(side, row)}; {alone.reasons[place]}", "           ")
    if len(alone) > SHOWN_ROWS:
        yield f"         ... and {len(alone) - SHOWN_ROWS:,} more (--json lists {LISTED_ROWS:,})"


def _where(side: Side, row: int) -> str:
    micrograph = side.particles.micrograph_names[side.particles.micrograph[row]]
    y, x = side.position[row]
    return f"{micrograph}, x {x:.2f}, y {y:.2f}"


def _value(result: Result, found: Comparison) -> Iterator[str]:
    label = result.label
    if len(label) >= LABEL:
        yield label
        label = ""
    head = f"{label:{LABEL}}{result.rows:>10,}"
    if result.only:
        yield f"{head}  only {result.only} says it"
        return
    largest = "" if math.isnan(result.largest) else f"{result.largest:.2g} {result.unit}".rstrip()
    worst = ""
    if result.worst >= 0:
        worst = f"  {found.pairs.a[result.worst] + 1},{found.pairs.b[result.worst] + 1}"
    yield f"{head}{result.differing:>10,}{largest:>11}{_allowed(result.limit, result.unit):>11}{worst}"


def _allowed(limit: Limit, unit: str) -> str:
    if limit.relative and limit.absolute < limit.relative:
        return f"{limit.relative:g} rel"
    return f"{limit.absolute:g} {unit}".rstrip() if limit.absolute else "equal"


def _pixels(result: PixelResult | None, why_not: str) -> Iterator[str]:
    if result is None:
        yield f"pixels: not compared ({why_not})"
        return
    count = len(result.pairs)
    sizes = sorted({one for one, other in result.shapes if one == other})
    of = f" of {' and '.join(f'{nx} x {ny}' for ny, nx in sizes)} pixels" if sizes else ""
    yield f"pixels: {count:,} pairs of images{of}, of {result.matched:,} matched rows"
    for (ny, nx), (other_ny, other_nx) in result.shapes:
        if (ny, nx) != (other_ny, other_nx):
            yield f"  A has {nx} x {ny} pixels, B {other_nx} x {other_ny}: these are not compared"
    if not count:
        return
    yield f"  {'':37}{'lowest':>13}{'median':>13}{'highest':>13}"
    for label, values in (("correlation", result.correlation), ("scale", result.scale), ("offset", result.offset)):
        yield f"  {label:37}{_spread(values, '.6f' if label != 'offset' else '.3g')}"
    yield "  largest difference, of the largest value"
    for measure, values in zip(_MEASURES, (result.stored, result.fitted, result.below_nyquist), strict=True):
        yield f"    {_MEASURES[measure]:35}{_spread(values, '.2e')}"
    beyond = f"{result.differing:,} of {count:,} pairs beyond {result.allowed.max():.2g}"
    yield f"  {beyond}, {_MEASURES[result.measure]}"
    if result.inverted:
        yield f"  contrast: inverted in {result.inverted:,} of {count:,} pairs (scale below 0)"


def _spread(values: np.ndarray[Any, np.dtype[np.float64]], form: str) -> str:
    known = values[~np.isnan(values)]
    three = (known.min(), np.median(known), known.max()) if len(known) else (math.nan,) * 3
    return "".join(f"{format(float(value), form):>13}" for value in three)


def as_json(found: Comparison) -> dict[str, Any]:
    """The same as values for `json.dumps`; what is no finite number is None, rows count from 1."""
    return {
        "version": VERSION,
        "agrees": found.agrees,
        "differences": list(found.differences),
        "a": _side_json(found.a, found.only_a),
        "b": _side_json(found.b, found.only_b),
        "matched": {
            "rows": len(found.pairs),
            "rules": found.pairs.rules,
            "within_pixels": found.within,
            "micrographs": found.pairs.names or None,
        },
        "values": {result.name: _value_json(result, found) for result in found.values},
        "pixels": None if found.pixels is None else _pixels_json(found.pixels, found),
        "no_pixels": found.no_pixels or None,
        "notes": list(found.notes),
    }


def _side_json(side: Side, alone: Alone) -> dict[str, Any]:
    listed = [
        {
            "row": row + 1,
            "micrograph": side.particles.micrograph_names[side.particles.micrograph[row]],
            "x": _number(side.particles.x[row]),
            "y": _number(side.particles.y[row]),
            "reason": reason,
        }
        for row, reason in zip(alone.rows[:LISTED_ROWS].tolist(), alone.reasons, strict=False)
    ]
    alone_json = {"rows": len(alone), "reasons": alone.counts, "listed": listed}
    return {"source": side.source, "table": side.table, "rows": len(side), "only": alone_json}


def _value_json(result: Result, found: Comparison) -> dict[str, Any]:
    worst = None
    if result.worst >= 0:
        worst = {"a": int(found.pairs.a[result.worst]) + 1, "b": int(found.pairs.b[result.worst]) + 1}
    return {
        "rows": result.rows,
        "differing": result.differing,
        "largest": _number(result.largest),
        "allowed_absolute": result.limit.absolute,
        "allowed_relative": result.limit.relative,
        "only": result.only or None,
        "worst_rows": worst,
    }


def _pixels_json(result: PixelResult, found: Comparison) -> dict[str, Any]:
    numbers = {
        name: {"lowest": low, "median": middle, "highest": high}
        for name, values in (
            ("correlation", result.correlation),
            ("scale", result.scale),
            ("offset", result.offset),
            ("stored", result.stored),
            ("fitted", result.fitted),
            ("below_nyquist", result.below_nyquist),
        )
        for low, middle, high in [_three(values)]
    }
    worst = None
    if result.differing:
        place = int(result.pairs[int(np.argmax(np.nan_to_num(result.judged, nan=np.inf)))])
        worst = {"a": int(found.pairs.a[place]) + 1, "b": int(found.pairs.b[place]) + 1}
    return {
        "pairs": len(result.pairs),
        "other_size": result.other_size,
        "shapes": [{"a": list(one), "b": list(other)} for one, other in result.shapes],
        "measure": result.measure,
        "allowed": _number(result.allowed.max()) if len(result.allowed) else None,
        "differing": result.differing,
        "inverted": result.inverted,
        "worst_rows": worst,
        **numbers,
    }


def _three(values: np.ndarray[Any, np.dtype[np.float64]]) -> tuple[float | None, float | None, float | None]:
    known = values[np.isfinite(values)]
    if not len(known):
        return None, None, None
    return float(known.min()), float(np.median(known)), float(known.max())


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
