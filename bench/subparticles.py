"""A million sub-particles planned, without cutting: `python -m bench.subparticles --data FOLDER`.

143,000 particles on 1,430 micrographs, sevenfold: tables read, sub-particles made, headers read, everything placed and
scheduled; each round in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

from bench.cases import TABLE
from bench.dataset import ensure
from bench.machine import execute, own_peak_mb, save

__all__ = ["main"]

GOAL = 5.0  # seconds for a million
MICROGRAPHS, ORDER = 1430, 7


def main() -> None:
    """Parse the arguments; measure in children, print, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(_once(arguments.data)))
        return
    ensure(arguments.data, replace(TABLE, micrographs=MICROGRAPHS))
    command = [sys.executable, "-m", "bench.subparticles", "--data", str(arguments.data.resolve()), "--child"]
    rounds = [json.loads(execute(command, cwd=arguments.data).stdout.splitlines()[-1]) for _ in range(arguments.rounds)]
    seconds = sorted(float(one["plan"]) for one in rounds)
    middle = (seconds[(len(seconds) - 1) // 2] + seconds[len(seconds) // 2]) / 2
    print(
        f"{rounds[0]['made']:.0f} sub-particles planned in {middle:.2f} [{seconds[0]:.2f}-{seconds[-1]:.2f}] s "
        f"({min(one['processor'] for one in rounds):.2f} s of processor), peak "
        f"{max(one['peak_mb'] for one in rounds):.0f} MB; goal {GOAL:g} s: {'reached' if middle <= GOAL else 'MISSED'}"
    )
    print(f"written to {save('subparticles', {'rounds': rounds})}")


def _once(root: Path) -> dict[str, float]:
    from cryobox import Recipe
    from cryobox.given import Given
    from cryobox.inputs import prepare

    data = ensure(root, replace(TABLE, micrographs=MICROGRAPHS))
    recipe = Recipe(box=16, edges="pad", subparticles="40,10,30", symmetry=f"C{ORDER}")
    begun, processor = time.perf_counter(), time.process_time()
    inputs = prepare(Given.of(data.picks, str(data.micrographs), data.root), recipe=recipe)
    return {
        "plan": round(time.perf_counter() - begun, 3),
        "processor": round(time.process_time() - processor, 3),
        "made": len(inputs.particles),
        "peak_mb": own_peak_mb() * 1.048576,
    }


if __name__ == "__main__":
    main()
