"""On which device the tests of the core run: the processor, a GPU, and a processor that stands in for the GPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import standin
from cryobox import core


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda:0", marks=pytest.mark.gpu), "stand-in"])
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    """A device that `core.extract` and `core.cut` take as their default meanwhile."""
    name = "cpu" if request.param == "cpu" else "cuda:0"
    with pytest.MonkeyPatch.context() as patch:
        for function in (core.extract, core.cut):
            patch.setitem(function.__kwdefaults__, "device", name)
        if request.param == "stand-in":
            with standin.load().in_place_of_cuda():
                yield name
        else:
            yield name
