"""System calls on files per micrograph, counted by strace: `python -m bench.syscalls --data FOLDER`.

Runs of the command line that differ only in the number of micrographs, or only in the picks per micrograph: the
differences are what one micrograph costs, and what one particle costs. Start-up and tables cancel.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import replace
from pathlib import Path

from bench.cases import Case, case
from bench.dataset import ensure
from bench.endtoend import cli_command
from bench.machine import execute, fresh, save

__all__ = ["main"]

CALLS_PER_MICROGRAPH = 20  # the limit; and one more for every BLOCK read or written
BLOCK = 8 << 20


def main() -> None:
    """Parse the arguments, count, print, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--case", default="B")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--micrographs", default="4,12")
    arguments = parser.parse_args()
    if shutil.which("strace") is None:
        raise SystemExit("strace is not on PATH; on Debian: apt-get install strace")
    few, many = (int(count) for count in arguments.micrographs.split(","))
    whole = case(arguments.case)
    fewer_picks = replace(whole, data=replace(whole.data, name=f"{whole.data.name}-third", picks=whole.data.picks // 3))
    counts = {
        "few": _count(whole.with_micrographs(few), arguments.data, arguments.workers),
        "many": _count(whole.with_micrographs(many), arguments.data, arguments.workers),
        "fewer picks": _count(fewer_picks.with_micrographs(many), arguments.data, arguments.workers),
    }
    each = {
        name: (counts["many"].get(name, 0) - counts["few"].get(name, 0)) / (many - few)
        for name in sorted({*counts["few"], *counts["many"]})
    }
    total = sum(each.values())
    blocks = (whole.data.micrograph_bytes + sum(whole.stack_bytes)) / BLOCK
    particles = many * (whole.data.picks - fewer_picks.data.picks)
    per_particle = (sum(counts["many"].values()) - sum(counts["fewer picks"].values())) / particles
    saved = (sum(whole.stack_bytes) - sum(fewer_picks.stack_bytes)) / BLOCK * many / particles
    limit = CALLS_PER_MICROGRAPH + blocks
    for name, count in sorted(each.items(), key=lambda item: -item[1]):
        if abs(count) >= 0.05:
            print(f"{name:20s}{count:8.2f} per micrograph")
    verdict = "reached" if total <= limit else "MISSED"
    print(f"{'all':20s}{total:8.2f} per micrograph; limit {limit:.1f} = 20 + {blocks:.1f} blocks of 8 MB: {verdict}")
    print(f"{'per particle':20s}{per_particle:8.4f}; its share of 8 MB blocks is {saved:.4f}")
    content = {"case": whole.name, "workers": arguments.workers, "per_micrograph": each, "total": total}
    print(f"written to {save('syscalls', content | {'limit': limit, 'per_particle': per_particle})}")


def _count(what: Case, root: Path, workers: int) -> dict[str, int]:
    data = ensure(root, what.data)
    out = data.root / "out" / "syscalls"
    fresh(out, 0).release()
    summary = data.root / "strace.txt"
    command = [part.replace("{out}", str(out)) for part in cli_command(what, data, workers, fsync=False)]
    trace = ["strace", "-f", "-c", "-e", "trace=%file,%desc", "-o", str(summary)]
    execute([*trace, *command], cwd=data.root)
    shutil.rmtree(out)
    counts: dict[str, int] = {}
    for line in summary.read_text().splitlines():
        words = line.split()
        # % time, seconds, usecs/call, calls, [errors,] name
        if len(words) >= 5 and words[3].isdigit() and words[-1] != "total":
            counts[words[-1]] = int(words[3])
    return counts


if __name__ == "__main__":
    main()
