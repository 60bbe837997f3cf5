"""A long fuzz of the readers: `python tests/fuzz/long_run.py SECONDS [TARGET ...]`; each target in its own process.

Guided by coverage where atheris is installed, else by the mutator alone. Prints the number of inputs for each target,
and keeps what is found under tests/fuzz/findings.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if Path("/dev/shm").is_dir():
    os.environ.setdefault("TMPDIR", "/dev/shm")  # millions of small files

_READERS = (
    "formats.star", "formats.cs", "formats.csg", "formats.box", "formats.csv", "formats.mrc", "formats.tiff",
    "formats.images", "folder.ledger", "inputs",
)  # fmt: skip
FINDINGS = Path(__file__).resolve().parent / "findings"


def _keep(name: str, data: bytes) -> Path:
    path = FINDINGS / name / hashlib.sha256(data).hexdigest()[:12]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def _guided(name: str, seconds: int) -> None:
    import atheris  # type: ignore[import-not-found,import-untyped]

    with atheris.instrument_imports(include=["cryobox"]):  # whatever is imported later would run without a guide
        for module in _READERS:
            importlib.import_module(f"cryobox.{module}")

    from fuzz.targets import run_one, seeds

    corpus = Path(tempfile.mkdtemp(prefix=f"corpus-{name}-"))
    for number, data in enumerate(seeds(name)):
        (corpus / str(number)).write_bytes(data)

    def one(data: bytes) -> None:
        try:
            run_one(name, data)
        except Exception:
            print(f"finding: {_keep(name, data)}", flush=True)
            raise

    options = [
        f"-max_total_time={seconds}",
        "-max_len=16384",
        "-timeout=20",
        "-rss_limit_mb=3000",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], str(corpus), *options], one)
    atheris.Fuzz()


def _unguided(name: str, seconds: int) -> None:
    from fuzz.mutation import mutate
    from fuzz.targets import run_one, seeds

    dice = random.Random(time.time_ns())
    start = seeds(name)
    pool, tried, ended = list(start), 0, time.monotonic() + seconds
    while time.monotonic() < ended:
        data = mutate(dice, dice.choice(pool), start)
        tried += 1
        try:
            if run_one(name, data) and len(pool) < 5000:
                pool.append(data)
        except Exception:
            print(f"finding: {_keep(name, data)}", flush=True)
            raise
    print(f"stat::number_of_executed_units: {tried}", flush=True)


def main() -> None:
    if sys.argv[1] == "--one":
        _, _, name, seconds = sys.argv
        try:
            import atheris
        except ImportError:
            _unguided(name, int(seconds))
        else:
            assert atheris
            _guided(name, int(seconds))
        return
    from fuzz.targets import TARGETS

    names = sys.argv[2:] or list(TARGETS)
    each = max(1, int(float(sys.argv[1]) / len(names)))
    total = 0
    bad = []
    for name in names:
        process = subprocess.run(
            [sys.executable, __file__, "--one", name, str(each)],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        said = process.stdout + process.stderr
        counts = (
            re.findall(r"number_of_executed_units: (\d+)", said) or re.findall(r"^#(\d+)", said, re.MULTILINE) or ["0"]
        )
        total += int(counts[-1])
        found = re.findall(r"finding: (.*)", said)
        state = "no finding" if process.returncode == 0 else f"FINDING {found} {said[-1500:]}"
        print(f"{name:<10} {int(counts[-1]):>9} inputs in {each} s: {state}", flush=True)
        bad += [name] if process.returncode else []
    print(f"{total} inputs, findings in {len(bad)} of {len(names)} targets")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
