"""The names in an output folder: where stacks and tables lie, and what the stack of a micrograph is called."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence

from cryobox.matching import stem

__all__ = ["STACK_FOLDERS", "stack_names"]

STACK_FOLDERS = ("stacks", "stacks_small")

MAX_NAME_BYTES = 255
_NAME_OVERHEAD = 96  # bytes left for "_particles", the suffix and what a temporary name adds


def stack_names(names: Sequence[str]) -> list[str]:
    """A file stem for the stack of each micrograph: safe to create, and no two alike even where case does not count.

    A name that several micrographs would share gets a hash of the micrograph's full name, for all of them: the names
    do not depend on which other micrographs are there later.
    """
    repeated: Counter[str] = Counter()
    full = []
    for name in names:  # the rows of a .cs table may differ in their uid only
        full.append(name if not repeated[name] else f"{name}\0{repeated[name]}")
        repeated[name] += 1
    found = [_safe_stem(name) for name in names]
    for digits in (10, 32):  # the second time for names that look as if they had got their hash already
        folded = Counter(text.casefold() for text in found)
        found = [
            f"{_safe_stem(name)}_{_digest(name)[:digits]}" if folded[text.casefold()] > 1 else text
            for text, name in zip(found, full, strict=True)
        ]
    return found


def _safe_stem(name: str) -> str:
    # RELION reads `000001@path`, splits columns at blanks and numbers names in "...#"; none of these may be in a name.
    text = re.sub(r"[\s@#'\"\\/:*?<>|\x00-\x1f\x7f]", "_", stem(name)).lstrip(".") or "micrograph"
    encoded = text.encode("utf-8", "replace").replace(b"?", b"_")
    if len(encoded) > MAX_NAME_BYTES - _NAME_OVERHEAD:
        kept = encoded[: MAX_NAME_BYTES - _NAME_OVERHEAD - 11].decode("utf-8", "ignore")
        return f"{kept}_{_digest(name)[:10]}"
    return encoded.decode("utf-8")


def _digest(name: str) -> str:
    return hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
