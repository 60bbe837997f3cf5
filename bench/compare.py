"""Two builds of cryobox on the same cases: `python -m bench.compare --data FOLDER --a PYTHON --b PYTHON`.

Each build is the Python of a virtual environment that has it. Runs are interleaved, an even number of rounds, order
alternating; the ratio is taken round by round. Where its band includes 1.00 the difference is not resolved. With
`--check` the stacks of both builds are compared byte for byte: tuning must not change a bit.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.cases import case
from bench.dataset import ensure
from bench.endtoend import Arm, measure, prepare
from bench.machine import cores, save, spread

__all__ = ["main"]

# Of equal builds, all ratios fall on one side of 1.00 by chance once in 2^(rounds - 1): 1 in 32 here, 1 in 128 for 8.
LEAST_ROUNDS = 6


def main() -> None:
    """Parse the arguments, measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--a", required=True, help="Python of the first build")
    parser.add_argument("--b", required=True, help="Python of the second build")
    parser.add_argument("--cases", default="A,B")
    parser.add_argument("--micrographs", type=int, default=12)
    parser.add_argument("--workers", default=str(cores()))
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--key", default="work_seconds", help="work_seconds, seconds, process_seconds or cpu_seconds")
    parser.add_argument("--check", action="store_true", help="compare the stacks as well")
    arguments = parser.parse_args()
    if arguments.rounds < LEAST_ROUNDS:
        raise SystemExit(f"--rounds must be at least {LEAST_ROUNDS} to tell two builds apart; got {arguments.rounds}")
    workers = [int(count) for count in arguments.workers.split(",")]
    pairs: list[tuple[Arm, Arm]] = []
    for name in arguments.cases.split(","):
        what = case(name)
        if what.kind == "run":
            what = what.with_micrographs(arguments.micrographs)
        data = ensure(arguments.data, what.data)
        both = [
            [_apart(arm, letter) for arm in prepare(what, data, workers=workers, want={"cryobox"}, python=python)]
            for letter, python in (("a", arguments.a), ("b", arguments.b))
        ]
        pairs += list(zip(*both, strict=True))
    measure([arm for pair in pairs for arm in pair], arguments.rounds)
    rows: list[dict[str, Any]] = []
    print(f"{'case':8s}{'arm':14s}{'a':>9s}{'b':>9s}  b / a [band], {arguments.rounds} rounds, {arguments.key}")
    for a, b in pairs:
        ratio = spread([two[arguments.key] / one[arguments.key] for one, two in zip(a.rounds, b.rounds, strict=True)])
        verdict = "not resolved" if ratio.low <= 1 <= ratio.high else f"b is {'slower' if ratio.low > 1 else 'faster'}"
        first, second = a.seconds(arguments.key).median, b.seconds(arguments.key).median
        line = f"{a.case.name:8s}{'cryobox':8s}w{a.workers:<5d}{first:9.3f}{second:9.3f}  {ratio.text()}  {verdict}"
        same = _digests(a) == _digests(b) if arguments.check and a.case.kind == "run" else None
        print(line if same is None else f"{line}; stacks {'are the same' if same else 'DIFFER'}")
        row = {"case": a.case.name, "workers": a.workers, "a": first, "b": second, "same": same}
        rows.append(row | {"ratio": [ratio.median, ratio.low, ratio.high], "verdict": verdict})
    for pair in pairs:
        for arm in pair:
            shutil.rmtree(arm.out, ignore_errors=True)
    print(f"written to {save('compare', {'rounds': arguments.rounds, 'key': arguments.key, 'pairs': rows})}")


def _apart(arm: Arm, letter: str) -> Arm:
    out = arm.out.with_name(f"{arm.out.name}_{letter}")
    return replace(arm, out=out, command=[part.replace(str(arm.out), str(out)) for part in arm.command])


def _digests(arm: Arm) -> dict[str, str]:
    # Pixels only: a header's label names the version that wrote it.
    return {
        str(path.relative_to(arm.out)): hashlib.sha256(path.read_bytes()[1024:]).hexdigest()
        for path in sorted(arm.out.rglob("*.mrc*"))
    }


if __name__ == "__main__":
    main()
