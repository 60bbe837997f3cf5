"""Patterns that the shell has taken apart: several images where one word was meant."""

from __future__ import annotations

import os
from collections.abc import Sequence

from cryobox.errors import OptionError

__all__ = ["refuse_expanded", "refuse_images"]


def refuse_images(picks: Sequence[str]) -> None:
    """Images where picks are expected: the shell made them of a pattern that was meant for --micrographs."""
    if images := [name for name in picks if _is_image(name)]:
        raise OptionError(
            f"{images[0]}{f' and {len(images) - 1} more' if images[1:] else ''}: micrographs where PICKS are expected; "
            f"{_quote_hint(images[0])}"
        )


def refuse_expanded(words: Sequence[str]) -> None:
    """Several images behind --micrographs, which takes one word."""
    for option, *images in zip(words, words[1:], words[2:], strict=False):
        if option in ("-m", "--micrographs") and all(map(_is_image, images)):
            raise OptionError(f"{option} {' '.join(images)} ...: takes one word; {_quote_hint(images[0])}")


def _is_image(name: str) -> bool:
    from cryobox.formats import IMAGE_SUFFIXES

    return name.lower().endswith((*IMAGE_SUFFIXES, ".mrcs"))


def _quote_hint(image: str) -> str:
    pattern = os.path.join(os.path.dirname(image), f"*{os.path.splitext(image)[1]}")
    return (
        f"if this was a pattern of micrographs, put it in quotes, or the shell makes many words of it: -m '{pattern}'"
    )
