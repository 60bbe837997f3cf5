"""docs/gpu.md says which code has run on a GPU: a pass that was changed since must be named there."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "gpu.md"
FOLDER = ROOT / "cpp" / "cuda"


def digest(path: Path) -> str:
    """Of a file's code: comments and white space do not count."""
    code = re.sub(r"\s+", "", re.sub(r"//.*", "", path.read_text()))
    return hashlib.sha256(code.encode()).hexdigest()[:16]


def test_code_that_has_not_run_on_a_gpu_is_named() -> None:
    text = PAGE.read_text().partition("## What has run on a GPU")[2]
    ran = dict(re.findall(r"^\| (cpp/cuda/\S+) \| ([0-9a-f]{16}) \|$", text, re.MULTILINE))
    said = re.search(r"^Changed since, and not run on one: (.*)\.$", text, re.MULTILINE)
    assert said is not None
    files = {
        path.relative_to(ROOT).as_posix(): digest(path)
        for path in sorted(FOLDER.iterdir())
        if path.suffix in (".hpp", ".cpp", ".cu", ".cuh")
    }
    assert ran.keys() <= files.keys()
    changed = [name for name, found in files.items() if ran.get(name) != found]
    assert (said[1].split(", ") if said[1] != "none" else []) == changed
