"""Damages files in ways that readers meet: a deterministic mutator for where no coverage-guided fuzzer is installed."""

from __future__ import annotations

import random
import struct

__all__ = ["mutate"]

_NUMBERS = (0, 1, 2, 3, 7, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1)
_WORDS = (
    b"nan", b"inf", b"-1", b"1e999", b"0", b"9" * 40, b"\n", b"\r\n", b"\0", b"'", b'"', b"#", b"data_", b"loop_",
    b"_", b"\xff\xfe", b"\xef\xbb\xbf", b"..", b"/", b">", b"@", b",", b"\t", b" ", b"{", b"[", b"(", b"True",
    b"None", b"<u8", b"|O", b"|S0", b"(3,)", b"!!python/object", b"&a", b"*a", b"_rlnCoordinateX", b"_rlnOriginX",
    b"uid", b"\x95CSDAT",
)  # fmt: skip


def mutate(dice: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """A damaged copy: one to six changes of bytes, numbers, words and lengths, or a piece of another file."""
    found = bytearray(data)
    for _ in range(dice.choice((1, 1, 1, 2, 3, 6))):
        at = dice.randrange(len(found) + 1)
        if dice.random() < 0.5:
            at = min(at, dice.randrange(128))  # most of what matters stands at the beginning
        kind = dice.randrange(9)
        if kind == 0 and at < len(found):
            found[at] ^= 1 << dice.randrange(8)
        elif kind == 1 and at < len(found):
            found[at] = dice.randrange(256)
        elif kind == 2:
            code = dice.choice(("<B", "<H", ">H", "<I", ">I", "<Q", ">Q"))
            number = dice.choice(_NUMBERS) + dice.choice((0, 0, -1, 1))
            size = struct.calcsize(code)
            found[at : at + size] = struct.pack(code, number % 2 ** (8 * size))
        elif kind == 3:
            found[at:at] = dice.choice(_WORDS)
        elif kind == 4:
            word = dice.choice(_WORDS)
            found[at : at + len(word)] = word
        elif kind == 5:
            del found[at : at + dice.choice((1, 1, 2, 4, 16, 100, 1000))]
        elif kind == 6:
            piece = found[at : at + dice.choice((1, 4, 16, 64))]
            found[at:at] = piece * dice.choice((1, 2, 8))
        elif kind == 7:
            del found[at:]
        else:
            other = dice.choice(others)
            begin = dice.randrange(len(other) + 1)
            found[at:at] = other[begin : begin + dice.choice((1, 8, 64, 512))]
    return bytes(found[: 1 << 16])
