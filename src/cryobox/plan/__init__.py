"""Decide everything before a pixel is read: windows, files, slots, and which pick is refused and why."""

from __future__ import annotations

from cryobox.plan.building import build_plan
from cryobox.plan.placing import place
from cryobox.plan.scheduling import schedule
from cryobox.plan.selecting import select
from cryobox.plan.values import (
    ACCEPTED,
    REASONS,
    Group,
    Noise,
    Output,
    Places,
    Plan,
    Task,
    Work,
    bytes_of,
    bytes_of_stacks,
    groups_of,
)

__all__ = [
    "ACCEPTED",
    "Group",
    "Noise",
    "Output",
    "Places",
    "Plan",
    "REASONS",
    "Task",
    "Work",
    "build_plan",
    "bytes_of",
    "bytes_of_stacks",
    "groups_of",
    "place",
    "schedule",
    "select",
]
