"""The pixels of MRC files of any length, block by block, packed or not: memory does not grow with the file."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from cryobox.formats.images import room
from cryobox.formats.mrc import Sections, compression_of, inflating
from cryobox.formats.opening import open_regular

__all__ = ["PixelBlocks"]

Bytes = NDArray[np.uint8]
_Fill = Callable[[Bytes, int], int]  # a block, and how far from the first pixel it begins: how many bytes were there


class PixelBlocks:
    """Reads the pixels of one file from the first to the last.

    Parameters
    ----------
    path : str
        MRC, plain or packed.
    sections : Sections
        What its header says.

    Attributes
    ----------
    longer : bool
        After `read` has come to its end: a packed file holds more than its header says.
    """

    def __init__(self, path: str, sections: Sections) -> None:
        self.path, self.sections = path, sections
        self.longer = False

    @property
    def image_bytes(self) -> int:
        """Bytes of one image."""
        return math.prod(self.sections.shape[1:]) * self.sections.dtype.itemsize

    def read(self, sizes: Iterable[int]) -> Iterator[Bytes]:
        """Give blocks of so many bytes each; one that the file cuts short is the last, and is as long as it is.

        While a block is looked at, the next one is read. A block is valid until the next one is asked for.

        Raises
        ------
        MicrographError
            If the file cannot be read, or its packed bytes are damaged; blocks before are given all the same.
        """
        with self._opened() as fill, ThreadPoolExecutor(1) as reader:
            memory = [np.empty(0, np.uint8), np.empty(0, np.uint8)]
            waiting = None
            begin = 0
            for turn, size in enumerate(sizes):
                if memory[turn % 2].nbytes < size:
                    memory[turn % 2] = room(size)
                block = memory[turn % 2][:size]
                coming = reader.submit(fill, block, begin)
                if waiting is not None:
                    before, held = waiting[0], waiting[1].result()
                    if held:
                        yield before[:held]
                    if held < len(before):
                        return
                waiting = block, coming
                begin += size
            if waiting is not None:
                held = waiting[1].result()
                if held:
                    yield waiting[0][:held]
                rest = np.empty(1, np.uint8)  # reading on also has a packed file's checksum verified
                self.longer = bool(compression_of(self.path)) and fill(rest, begin) > 0

    def images(self, numbers: Iterable[int]) -> Iterator[bytes]:
        """The bytes of some images, by 0-based number, in rising order.

        Raises
        ------
        MicrographError
        """
        block = np.empty(self.image_bytes, np.uint8)
        with self._opened() as fill:
            for number in numbers:
                held = fill(block, number * self.image_bytes)
                yield block[:held].tobytes()

    @contextmanager
    def _opened(self) -> Iterator[_Fill]:
        first = self.sections.offset
        with open_regular(self.path) as (descriptor, _):
            if not compression_of(self.path):
                yield lambda block, begin: _fill(block, lambda view, done: os.preadv(
                    descriptor, [view], first + begin + done))  # fmt: skip
                return
            with inflating(self.path, descriptor) as stream:

                def inflate(block: Bytes, begin: int) -> int:
                    if stream.tell() != first + begin:
                        stream.seek(first + begin)
                    return _fill(block, lambda view, _: stream.readinto(view))

                yield inflate


def _fill(block: Bytes, take: Callable[[memoryview, int], int]) -> int:
    """Fill a block as far as there are bytes; how many there were."""
    view, done = block.data, 0
    while done < len(view) and (more := take(view[done:], done)):
        done += more
    return done
