"""A short fuzz of every reader, the same in every run, and what longer runs have found.

The long run, guided by coverage, is `make fuzz`; its counts are in docs/reliability.md.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from fuzz.mutation import mutate
from fuzz.targets import TARGETS, run_one, seeds

INPUTS = int(os.environ.get("CRYOBOX_FUZZ_INPUTS", "1500"))  # a number and not a time: the same inputs everywhere
FINDINGS = Path(__file__).parent / "findings"


@pytest.mark.parametrize("name", TARGETS)
def test_every_seed_is_read(name: str) -> None:
    if name == "tiff":
        pytest.importorskip("tifffile")
    assert seeds(name)
    for data in seeds(name):
        assert _only_coordinates(name, data) or run_one(name, data)


def _only_coordinates(name: str, data: bytes) -> bool:
    """A table without names belongs to a micrograph that is called as the file is: none here."""
    return name == "plan_star" and b"rlnMicrographName" not in data


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_files_end_in_an_error_of_ours_or_a_whole_result(name: str) -> None:
    dice = random.Random(f"{name} 1")
    start = seeds(name)
    pool = list(start)
    taken = 0
    for _ in range(INPUTS):
        data = mutate(dice, dice.choice(pool), start)
        try:
            read = run_one(name, data)
        except Exception as error:  # noqa: BLE001 - whatever it is, the bytes must be told
            pytest.fail(f"{name}: {type(error).__name__}: {error}, for {data!r}")
        if read and len(pool) < 200:  # what is still read can be damaged further
            pool.append(data)
        taken += read
    assert taken, "damage must be small enough to be read now and then"


@pytest.mark.parametrize("path", sorted(FINDINGS.glob("*/*")), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_was_found_once_stays_mended(path: Path) -> None:
    run_one(path.parent.name, path.read_bytes())
