"""`cryobox extract --dry-run`: what a run would do, refuse, need and leave, without writing anything."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cryobox.display import choose_display, explain_plan, plan_lines, warn
from cryobox.options import Recipe, RunOptions
from cryobox.units import in_bytes

if TYPE_CHECKING:
    from cryobox.foresight import Foreseen
    from cryobox.given import Given
    from cryobox.inputs import Inputs, Recorded

__all__ = ["dry_run"]


def dry_run(
    given: Given,
    recipe: Recipe,
    options: RunOptions,
    recorded: Recorded | None,
    out: Path | None,
    warnings: Sequence[str],
    *,
    verbose: bool,
    as_json: bool,
) -> int:
    """Say what a run would do; returns 1 where it would extract nothing, else 0.

    Raises
    ------
    OptionError, InputError, OutputError
        As the run would, before any work.
    """
    from cryobox.beginning import as_begun
    from cryobox.engine.local import available_cores
    from cryobox.fit import looked_at
    from cryobox.foresight import foresee, with_little_room
    from cryobox.inputs import prepare

    if out is not None:
        recipe = as_begun(recipe, out, options)
    inputs = prepare(given, recipe=recipe, recorded=recorded, warnings=warnings)
    inputs = looked_at(inputs, options, workers=options.workers or available_cores())
    inputs = inputs if out is None else with_little_room(inputs, out, options)
    foreseen = None if out is None else foresee(inputs, out, options)
    if as_json:
        choose_display(json_events=True, told=warnings).plan(inputs.plan, None if foreseen is None else foreseen.free)
    else:
        warn(text for text in inputs.plan.warnings if text not in warnings)
        for line in _lines(inputs, out, foreseen, verbose=verbose):
            print(line)
    return 0 if len(inputs.plan.work.rows) else 1


def _lines(inputs: Inputs, out: Path | None, foreseen: Foreseen | None, *, verbose: bool) -> list[str]:
    from cryobox.plan import bytes_of, groups_of

    plan = inputs.plan
    lines = [*plan_lines(plan), *(explain_plan(plan) if verbose else ())]
    lines += [f"  {task.micrograph}: {len(task.windows)} particles" for task in plan.tasks] if verbose else []
    lines += [f"check: {inputs.fit}"] if inputs.fit else []
    plans = {"stacks": plan} if plan.noise is None else {"stacks": plan, "stacks of noise": plan.noise.plan}
    for what, some in plans.items():
        groups = groups_of(some.tasks)
        for index, output in enumerate(some.outputs):
            total = in_bytes(sum(bytes_of(group, index) for group in groups))
            lines.append(f"{what} of {output.size} x {output.size} {output.dtype}: {len(groups):,} files, {total}")
    lines.append(f"to read: {in_bytes(sum(task.bytes_to_read for task in plan.tasks))}")
    if foreseen is None:
        lines.append("disk: give --out to compare with the room that is there")
    else:
        lines += [f"resumes: {foreseen.done:,} micrographs were done before"] if foreseen.done else []
        room = "it does not say how much is free"
        if foreseen.free is not None:
            room = f"{in_bytes(foreseen.free)} free{'' if foreseen.needed <= foreseen.free else ': TOO LITTLE'}"
        lines.append(f"disk: {in_bytes(foreseen.needed)} needed in {out}, {room}")
    if not len(plan.work.rows):
        lines.append("nothing would be extracted: a run would end with exit code 1")
    return [*lines, "nothing was written"]
