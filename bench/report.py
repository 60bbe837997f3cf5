"""The latest results as tables in docs/performance.md, between its markers: `python -m bench.report`."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.cases import CASES
from bench.machine import RESULTS, ROOT, spread
from bench.syscalls import CALLS_PER_MICROGRAPH
from bench.tables import GOALS

__all__ = ["main"]

PAGE = ROOT / "docs" / "performance.md"
START_UP = {"import cryobox": 0.25, "cryobox --help": 0.5}  # seconds at most
Result = dict[str, Any]


def main() -> None:
    """Parse the arguments, read the newest result of each kind, rewrite the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, default=PAGE)
    arguments = parser.parse_args()
    found = {
        kind: _newest(arguments.results, kind)
        for kind in ("endtoend", "endtoend_memory", "endtoend_more", "tables", "syscalls", "stages", "growth")
    }
    page = arguments.page.read_text()
    page = _between(page, "figures", "\n\n".join(filter(None, [_machine(found), _goals(found), *_figures(found)])))
    page = _between(page, "growth", _growth(found["growth"]))
    arguments.page.write_text(page)
    print(f"{arguments.page}: from {', '.join(kind for kind, result in found.items() if result) or 'nothing'}")


def _newest(folder: Path, kind: str) -> Result | None:
    files = sorted(path for path in folder.glob(f"{kind}-*.json") if re.fullmatch(rf"{kind}-\d+T\d+\.json", path.name))
    return json.loads(files[-1].read_text()) if files else None


def _between(page: str, name: str, text: str) -> str:
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    if page.count(begin) != 1 or page.count(end) != 1:
        raise SystemExit(f"the page must hold {begin} and {end} once each")
    head, rest = page.split(begin)
    return f"{head}{begin}\n\n{text}\n\n{end}{rest.split(end)[1]}" if text else page


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown; the first column left, the others right."""
    line = "|" + "|".join(["---", *["---:"] * (len(head) - 1)]) + "|"
    return "\n".join(["| " + " | ".join(row) + " |" if row else line for row in (head, (), *rows)])


def _band(values: Sequence[float], digits: int = 2) -> str:
    return f"{values[0]:.{digits}f} [{values[1]:.{digits}f}–{values[2]:.{digits}f}]"


def _machine(found: dict[str, Result | None]) -> str:
    machines = [result["machine"] for result in found.values() if result]
    if not machines:
        return ""
    one = machines[0]
    packages = ", ".join(f"{name} {version}" for name, version in one["packages"].items())
    revisions = " and ".join(dict.fromkeys(machine["git"] for machine in machines))
    return (
        f"{one['cpu']}, {one['cores']} cores, {one['memory_gb']} GB, {one['system']}, Python {one['python']}, "
        f"{one['compiler']}; {packages}; revision {revisions}; {one['date'][:10]}. "
        "Warm page cache, no fsync in any arm."
    )


def _goals(found: dict[str, Result | None]) -> str:
    rows: list[list[str]] = []

    def add(what: str, got: str, limit: str, reached: bool) -> None:
        rows.append([what, got, limit, "reached" if reached else "**missed**"])

    for result in (found["endtoend"], found["endtoend_memory"], found["endtoend_more"]):
        for row in (result or {}).get("ratios", []):
            if row["goal"] is not None:
                got = _band([row["ratio"], row["low"], row["high"]], 3)
                what = f"{row['case']}, {row['ours']}: time over {row['against']}"
                # Where the band holds the goal, the median decides, but the reader should know.
                unsure = " (band holds it)" if row["low"] <= row["goal"] <= row["high"] else ""
                add(what, got + unsure, f"{row['goal']:.3f}", bool(row["reached"]))
        for row in (result or {}).get("memory", []):
            what = f"{row['case']}, {row['ours']}: peak memory, MB"
            add(what, f"{row['peak_mb']:.0f}", f"{row['limit_mb']:.0f}", row["peak_mb"] <= row["limit_mb"])
        for command, limit in START_UP.items():
            if command in (result or {}).get("startup", {}) and result is found["endtoend"]:
                seconds = result["startup"][command]
                add(f"start-up of `{command}`, s", _band(seconds), f"{limit}", seconds[0] <= limit)
    if calls := found["syscalls"]:
        what = f"{calls['case']}: system calls on files per micrograph ({CALLS_PER_MICROGRAPH} and one per 8 MB)"
        add(what, f"{calls['total']:.1f}", f"{calls['limit']:.1f}", calls["total"] <= calls["limit"])
    for table in (found["tables"] or {}).get("tables", []):
        if table["rows"] == 1_000_000:
            seconds, megabytes = GOALS[table["table"]]
            every = spread([one["all"] for one in table["rounds"]])
            peak = max(one["peak_mb"] for one in table["rounds"])
            got = f"{_band([every.median, every.low, every.high], 1)} s, {peak:.0f} MB"
            limit = f"{seconds:g} s" + (f", {megabytes:g} MB" if megabytes else "")
            met = every.median <= seconds and (megabytes is None or peak <= megabytes)
            add(f"1,000,000 rows, {table['table']}: read, recentered, planned, both tables written", got, limit, met)
    return "### Goals\n\n" + _table(["what", "measured, median [band]", "limit", ""], rows) if rows else ""


def _figures(found: dict[str, Result | None]) -> list[str]:
    parts = []
    titles = {"endtoend": "Whole runs", "endtoend_memory": "In memory", "endtoend_more": "Whole runs, other cases"}
    for kind, title in titles.items():
        if result := found[kind]:
            parts.append(f"### {title}\n\n{_runs(result)}")
    if result := found["endtoend"]:
        rows = [[f"`{name}`", _band(seconds)] for name, seconds in result["startup"].items()]
        parts.append("### Start-up, seconds of the process\n\n" + _table(["command", "median [band]"], rows))
        same = [f"{row['case']} {row['largest_difference']:.1e}" for row in result["agreement"]]
        if same:
            parts.append(f"Largest difference from NumPy's images, in background sd: {', '.join(same)}.")
    if result := found["tables"]:
        rows = []
        for table in result["tables"]:
            best = min(table["rounds"], key=lambda one: float(one["all"]))
            times = [f"{best[step]:.2f}" for step in ("read", "headers", "plan", "write", "all")]
            rows.append([table["table"], f"{table['rows']:,}", *times, f"{best['peak_mb']:.0f}"])
        head = ["table", "rows", "read", "headers", "plan", "write both", "all, s", "peak MB"]
        parts.append(
            "### Tables at scale (25 columns, 100 picks a micrograph; the better of the rounds)\n\n"
            + _table(head, rows)
        )
    if result := found["stages"]:
        rows = [
            [row["stage"], f"{row['ms']:.4f}", f"{row['floor_ms']:.4f}" if row["floor_ms"] else "", row["floor"]]
            for row in result["stages"]
        ]
        head = ["stage", "ms per particle", "floor", "floor is"]
        parts.append(f"### Stages of case {result['case']}, one thread\n\n" + _table(head, rows))
    if result := found["syscalls"]:
        each = sorted(result["per_micrograph"].items(), key=lambda item: -item[1])
        listed = ", ".join(f"{name} {count:.1f}" for name, count in each if count >= 0.05)
        parts.append(f"### System calls on files per micrograph, case {result['case']}\n\n{listed}.")
    return parts


def _runs(result: Result) -> str:
    rows = []
    for arm in result["arms"]:
        case = CASES[arm["case"]]
        if not arm["rounds"]:
            continue
        seconds = spread([one["seconds"] for one in arm["rounds"]])
        process = spread([one["process_seconds"] for one in arm["rounds"]])
        particles = case.data.picks * (arm["micrographs"] if case.kind == "run" else 1)
        rows.append(
            [
                arm["case"],
                f"{arm['arm']} × {arm['workers']}",
                _band([seconds.median, seconds.low, seconds.high], 3),
                f"{process.median:.2f}",
                f"{particles / seconds.median:,.0f}",
                f"{max(one['peak_rss_mb'] for one in arm['rounds']):.0f}",
            ]
        )
    named: set[str] = set()
    for row in rows:  # the title once, at the first arm of each case
        name = row[0]
        row[0] = name if name in named else f"{name}: {CASES[name].title}"
        named.add(name)
    count = max(arm["micrographs"] for arm in result["arms"])
    head = ["case", "arm × workers", "seconds [band]", "process, s", "particles/s", "peak MB"]
    ratio_rows = [
        [f"{row['case']}, {row['ours']}", row["against"], _band([row["ratio"], row["low"], row["high"]], 3)]
        for row in result["ratios"]
    ]
    ratios = _table(["ours", "against", "time ratio, median [band]"], ratio_rows)
    return f"{count} micrograph{'s' * (count > 1)}, {result['rounds']} rounds.\n\n{_table(head, rows)}\n\n{ratios}"


def _growth(result: Result | None) -> str:
    if not result:
        return ""
    base = result["base"]
    rows = [
        [row["series"], f"{row['at']}", _band(row["seconds"]), f"{row['ms_per_particle_and_worker']:.3f}"]
        for row in result["points"]
    ]
    text = (
        f"One number changed at a time; else {base['micrographs']} micrographs (12 for workers), {base['picks']} picks "
        f"each, box {base['box']} to {base['size']}, one worker. Seconds of cutting, without start-up and planning.\n\n"
    )
    return text + _table(["series", "at", "seconds [band]", "ms per particle and worker"], rows)


if __name__ == "__main__":
    main()
