"""Whether two builds make the same bits: random calls of `cryobox.extract` by both, digests compared.

    python -m bench.same_bits OLD/bin/python NEW/bin/python [--cases 1920]

Only the public function is called, so that any two versions can be compared. Exit code 1 where a case differs.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

CASES = 1920
TYPES = ("int8", "uint8", "int16", "uint16", "float16", "float32")


def case(seed: int) -> tuple[Any, Any, dict[str, Any]]:
    """Image, centers and options of one case: every type and byte order, boxes inside and over the edge, all steps."""
    import numpy as np

    rng = np.random.default_rng(seed)
    box = 2 * int(rng.integers(2, 60))
    shape = tuple(int(side) for side in rng.integers(box // 2, 3 * box, 2))
    values = rng.normal(40, 20, shape) + rng.normal(0, 20) * np.linspace(0, 1, shape[1])
    image = np.clip(values, 0, 127).astype(np.dtype(TYPES[seed % len(TYPES)]).newbyteorder("<>"[int(rng.integers(2))]))
    if image.dtype.kind == "f" and rng.random() < 0.2:
        image[int(rng.integers(shape[0])), int(rng.integers(shape[1]))] = np.nan
    if rng.random() < 0.2:
        image = np.asarray(np.pad(image, ((0, 0), (0, 3))))[:, : shape[1]]
    centers = rng.uniform(-0.2, 1.2, (int(rng.integers(1, 12)), 2)) * shape
    sides = sorted({2 * int(half) for half in rng.integers(2, box // 2 + 1, 2)} | {4}, reverse=True)
    sizes = [(box,), (sides[0],), (box, sides[0]) if sides[0] < box else (box,), tuple(sides[:2])][int(rng.integers(4))]
    normalize = bool(rng.random() < 0.8)
    options: dict[str, Any] = {
        "box": box,
        "sizes": sizes,
        "dtype": str(rng.choice(["float32", "float16"])),
        "normalize": normalize,
        "ramp": bool(rng.random() < 0.7),
        "invert": bool(rng.random() < 0.5),
        "edges": str(rng.choice(["reject", "pad"])),
        "rounding": str(rng.choice(["truncate", "nearest"])),
        "scale_const": float(rng.uniform(0.1, 30)) if normalize and rng.random() < 0.2 else None,
        "threads": int(rng.integers(1, 3)),
    }
    return image, centers, options


def digests(cases: int) -> list[str]:
    """Of what this build makes of each case."""
    import cryobox

    lines = []
    for seed in range(cases):
        image, centers, options = case(seed)
        images, kept = cryobox.extract(image, centers, **options)
        found = hashlib.blake2b(kept.tobytes(), digest_size=16)
        for stack in images if isinstance(images, tuple) else (images,):
            found.update(f"{stack.shape} {stack.dtype}".encode() + stack.tobytes())
        lines.append(f"{int(kept.sum())} {found.hexdigest()}")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pythons", nargs="*", help="the interpreters of two installations")
    parser.add_argument("--cases", type=int, default=CASES)
    asked = parser.parse_args()
    if not asked.pythons:
        print(*digests(asked.cases), sep="\n")
        return 0
    command = [str(Path(__file__).resolve()), "--cases", str(asked.cases)]
    old, new = (
        subprocess.run([python, *command], capture_output=True, text=True, check=True).stdout.split("\n")
        for python in asked.pythons
    )
    differ = [seed for seed, (one, other) in enumerate(zip(old, new, strict=True)) if one != other]
    images = sum(int(line.split()[0]) for line in new if line)
    print(
        f"{asked.cases} cases, {images} particles kept: {len(differ)} differ {differ[:20] if differ else ''}".rstrip()
    )
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
