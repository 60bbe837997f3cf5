"""Whether two builds write the same stacks and tables, byte for byte but for versions: whole runs by both, compared.

    python -m bench.same_runs OLD/bin/python NEW/bin/python --data FOLDER [--cryosparc PROJECT]

The demo, the benchmark's micrographs with tables of RELION and of CryoSPARC, shifts included, and, where it is named, a
CryoSPARC project (J3/J3_exposures.csg; J4 and J6 with picks). Exit code 1 where a file differs.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from bench.cases import case
from bench.dataset import ensure

VERSION = re.compile(rb"cryobox \d[^\s\0]*")
KINDS = (".star", ".cs", ".csg", ".mrcs", ".mrc")


def jobs(data: Path, cryosparc: Path | None) -> Iterator[tuple[str, list[str], Path]]:
    """Name, command line without `--out`, and working directory of each run."""
    yield "demo", ["demo"], data
    what = case("B").with_micrographs(4)
    made = ensure(data, replace(what.data, shifts=True))
    whole = ["--box", "400", "--fcrop", "128", "--small", "64"]
    half = ["--box", "256", "--fcrop", "128", "--float16", "--edges", "pad", "--no-recenter"]
    for name, picks, micrographs in (
        ("relion", made.picks, made.micrographs),
        ("cryosparc", made.picks_cs, made.micrographs_cs),
    ):
        words = ["extract", str(picks), "-m", str(micrographs), "--root", str(made.root)]
        yield name, [*words, *whole], made.root
        yield f"{name}, float16", [*words, *half], made.root
    if cryosparc is not None:
        for job in ("J4/J4_particles.csg", "J6/J6_particles.csg"):
            yield job, ["extract", job, "-m", "J3/J3_exposures.csg", "--box", "256", "--fcrop", "96"], cryosparc


def outputs(folder: Path) -> dict[str, bytes]:
    """Every table and stack below a folder, without the version in labels and without the folder's own name."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix in KINDS:
            text = VERSION.sub(b"cryobox", path.read_bytes()).replace(str(folder).encode(), b"OUT")
            found[path.relative_to(folder).as_posix()] = re.sub(rb"cryobox[ \0]+", b"cryobox", text)
    return found


def main() -> int:
    """Run every job by both builds and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pythons", nargs=2, help="the interpreters of two installations")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cryosparc", type=Path)
    asked = parser.parse_args()
    failed = False
    for name, words, directory in jobs(asked.data.resolve(), asked.cryosparc and asked.cryosparc.resolve()):
        both = []
        for python in asked.pythons:
            with tempfile.TemporaryDirectory() as scratch:
                out = Path(scratch) / "out"
                more = [str(out)] if words[0] == "demo" else ["-o", str(out), "--no-report", "--quiet"]
                command = [str(Path(python).absolute()), "-m", "cryobox", *words, *more]
                done = subprocess.run(command, check=False, cwd=directory, capture_output=True, text=True)
                if done.returncode not in (0, 1):
                    raise SystemExit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr}")
                both.append(outputs(out))
        one, other = both
        differ = sorted(path for path in one.keys() | other.keys() if one.get(path) != other.get(path))
        failed |= bool(differ)
        size = sum(map(len, other.values())) / 1e6
        print(
            f"{name:20s} {len(other)} files, {size:.1f} MB: {len(differ)} differ {' '.join(differ[:10])}".rstrip(),
            flush=True,
        )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
