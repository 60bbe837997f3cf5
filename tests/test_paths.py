"""Names from the directory on: what is recorded of a file is what leads back to it."""

from __future__ import annotations

import pytest

from cryobox.paths import Start


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/data/run/picks.star", "picks.star"),
        ("/data/run/a b/ c.star", "a b/ c.star"),
        ("/data/run/a /data/run/b.star", "a /data/run/b.star"),  # a path is no sentence
        ("/data/run//picks.star", "/data/run//picks.star"),
        ("/data/runs/picks.star", "/data/runs/picks.star"),
        ("/data/run", "/data/run"),
        ("picks.star", "picks.star"),
    ],
)
def test_a_name_leads_back_to_its_path(path: str, name: str) -> None:
    start = Start("/data/run")
    assert start.name(path) == name
    assert start.whole(name) == start.whole(path)


def test_what_lies_at_the_root_keeps_its_path() -> None:
    assert Start("/").name("/picks.star") == "/picks.star"
