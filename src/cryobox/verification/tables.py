"""Tables of a run: made again from plan and results and compared; and, apart from that, rows against the plan."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryobox import formats
from cryobox.centering import INTEGER_GUARD, nearest, truncate, with_fraction
from cryobox.errors import CryoboxError
from cryobox.folder.layout import table_name
from cryobox.formats.labels import uids_of
from cryobox.formats.references import ImageReferences, image_references
from cryobox.inputs import Inputs
from cryobox.micrograph import Micrographs
from cryobox.options import Recipe
from cryobox.outcome import Outcome
from cryobox.particles import Particles
from cryobox.paths import Start
from cryobox.tables import stack_text, tables_present, write_tables
from cryobox.verification.differences import file_differences
from cryobox.verification.findings import Problems

__all__ = ["Rows", "compare_tables", "read_rows"]


def compare_tables(out: Path, inputs: Inputs, outcome: Outcome, problems: Problems) -> list[str]:
    """Make all tables again in a temporary folder, and compare. Returns the names that they should have.

    Raises
    ------
    OutputError
        If the temporary folder (`TMPDIR` chooses it) has no room for the tables.
    """
    with tempfile.TemporaryDirectory(prefix="cryobox-verify-") as name:
        made, _ = write_tables(
            out, inputs.particles, inputs.micrographs, inputs.plan, outcome,
            start=inputs.given.start, fsync=False, place=Path(name), home=out,
        )  # fmt: skip
        names = [path.name for path in made]
        for path in made:
            _compare(out / path.name, path, problems)
    # Tables of the other style may be there: `cryobox convert` puts them beside ours.
    suffixes = _suffixes(inputs.plan.decided.families)
    for extra in sorted(set(tables_present(out)) - set(names)):
        if extra.endswith(suffixes):
            problems.add(f"{out / extra}: is there, but this run has no such table; left by another one?")
    return names


def _suffixes(families: Collection[str]) -> tuple[str, ...]:
    return tuple(suffix for suffix in (".star", ".cs", ".csg") if suffix[1:3] in {family[:2] for family in families})


def _compare(path: Path, made: Path, problems: Problems) -> None:
    try:
        if not path.exists():
            problems.add(f"{path}: is not there, but this run has such a table")
            return
        for difference in file_differences(path, made):
            problems.add(f"{path}: {difference.text}", f"{path}: {difference.kind}" if difference.kind else None)
    except CryoboxError as error:
        problems.add(str(error))
    except OSError as error:
        problems.add(f"{path}: cannot be read: {error.strerror}")


class Rows:
    """The rows of one table of particles, and which of them say what plan and ledger say.

    Attributes
    ----------
    path : Path
    index : int
        Which of the stored sizes.
    position : ndarray, shape (n, 2), float64
        (y, x) of the particles as the table says them: whole pixels, but for centers that are exact.
    center : ndarray, shape (n, 2), int64
        (y, x) of the pixels about which boxes were cut.
    slot : ndarray, int64
        0-based number of each image in its stack.
    good : ndarray of bool
    """

    def __init__(self, path: Path, index: int, table: Particles, references: ImageReferences) -> None:
        self.path, self.index = path, index
        self.table, self.references = table, references
        self.slot = references.slot
        said = np.stack([table.y, table.x], axis=1)
        self.position = truncate(said, guard=table.from_fractions)
        if table.exact is not None:
            exact = with_fraction(said, guard=table.from_fractions)
            self.position = np.where(table.exact[:, None], exact, self.position)
        self.good = np.ones(len(table), dtype=np.bool_)

    @property
    def center(self) -> NDArray[np.int64]:
        """Of good rows; others may hold what is no position."""
        return nearest(np.where(self.good[:, None], self.position, 0)).astype(np.int64)


def read_rows(out: Path, inputs: Inputs, outcome: Outcome, problems: Problems) -> list[Rows]:
    """Read the tables of particles as a program behind this one would, and compare their rows with the plan.

    Nothing here asks how the tables are written: this is what finds a fault of the writer.
    """
    found = []
    outputs = enumerate(inputs.plan.outputs if len(outcome.rows) else ())
    for (index, output), family in itertools.product(outputs, inputs.plan.decided.families):
        path = out / f"{table_name(output.name)}.{family}"
        try:
            # Of the recipe only how names of coordinate files are read would matter, and this is a table.
            table = formats.read_particles(path, recipe=Recipe(box=inputs.plan.recipe.box), start=inputs.given.start)
            references = image_references(table)
        except CryoboxError as error:
            problems.add(str(error))
            continue
        if len(table) != len(outcome.rows):
            problems.add(f"{path}: has {len(table)} rows, expected {len(outcome.rows)}")
            continue
        rows = Rows(path, index, table, references)
        _check_rows(rows, out, inputs, outcome, problems)
        found.append(rows)
    return found


def _names(name: str, micrographs: Micrographs, row: int, places: Iterable[Path]) -> bool:
    """Whether a table's name of a micrograph is the one of the micrographs' table, or leads to its file."""
    path = micrographs.paths[row]
    return name in (micrographs.names[row], path) or any(
        os.path.normpath(place / name) == os.path.normpath(path) for place in places
    )


def _uids(particles: Particles) -> NDArray[np.uint64] | None:
    """What CryoSPARC's table of the particles calls each; None where nothing says it beforehand."""
    made: NDArray[np.uint64] | None = particles.columns.get("uid")
    return uids_of(particles) if made is None else made


def _wanted(inputs: Inputs, outcome: Outcome) -> NDArray[np.float64]:
    """Where the table must say that the particles are."""
    places = inputs.plan.places
    if places.exact is not None:
        return places.exact[outcome.rows]
    center = places.center[outcome.rows].astype(np.float64)
    exact = inputs.particles.exact
    if exact is None:
        return center
    # A row that did not move keeps its fraction.
    said = np.stack([inputs.particles.y, inputs.particles.x], axis=1)[outcome.rows]
    kept = exact[outcome.rows] & ~places.moved[outcome.rows]
    return np.where(kept[:, None], with_fraction(said, guard=inputs.particles.from_fractions), center)


def _elsewhere(rows: Rows, inputs: Inputs, outcome: Outcome) -> NDArray[np.bool_]:
    """Rows that say another position, or do not say that it is exact."""
    wanted = _wanted(inputs, outcome)
    if inputs.plan.places.exact is None:
        return np.asarray((rows.position != wanted).any(axis=1))
    said = np.zeros(len(rows.table), np.bool_) if rows.table.exact is None else rows.table.exact
    near = np.abs(rows.position - wanted).max(axis=1, initial=0) <= 1.5 * INTEGER_GUARD  # as float32 fractions hold it
    return np.asarray(~(near & said), np.bool_)


def _check_rows(rows: Rows, out: Path, inputs: Inputs, outcome: Outcome, problems: Problems) -> None:
    """Find the rows that do not say what they should."""
    plan, micrographs, references = inputs.plan, inputs.micrographs, rows.references
    index, suffix = rows.index, rows.path.suffix
    task_of = {int(row): task for row, task in zip(plan.work.task_micrograph, plan.tasks, strict=True)}
    start = inputs.given.start
    if suffix == ".cs" and plan.decided.native != "cs":  # what is converted names stacks from its own folder
        start = Start(start.directory)
    stack = {row: stack_text(out, task.outputs[index].path, suffix, start) for row, task in task_of.items()}
    owner = plan.micrograph[outcome.rows].tolist()
    places = (inputs.given.start.base, out)
    names = [rows.table.micrograph_names[m] for m in rows.table.micrograph.tolist()]
    pixel_size = np.array([task_of[row].outputs[index].pixel_size for row in owner])
    wrong = {
        "stack": np.array([found != stack[at] for found, at in zip(references.stack, owner, strict=True)]),
        "micrograph": np.array(
            [not _names(name, micrographs, at, places) for name, at in zip(names, owner, strict=True)]
        ),
        "slot": references.slot != outcome.slot[outcome.rows],
        "center": _elsewhere(rows, inputs, outcome),
        "pixel size": ~np.isclose(references.pixel_size, pixel_size, rtol=1e-5),
        "size": references.size != plan.recipe.outputs[index].size,
    }
    if references.uid is not None and (uids := _uids(inputs.particles)) is not None:
        wrong["uid"] = references.uid != uids[outcome.rows]

    def say(what: str, row: int) -> str:
        at = owner[row]
        (y, x), (wanted_y, wanted_x) = rows.position[row], _wanted(inputs, outcome)[row]
        return {
            "stack": f"stack is {references.stack[row]}, expected {stack[at]}",
            "micrograph": f"micrograph is {names[row]}, expected {micrographs.names[at]}",
            "slot": f"image is number {references.slot[row] + 1}, expected {outcome.slot[outcome.rows[row]] + 1}",
            "center": f"box center is x {x:g}, y {y:g}, expected x {wanted_x:g}, y {wanted_y:g}",
            "pixel size": f"pixel size is {references.pixel_size[row]:g}, expected {pixel_size[row]:g}",
            "size": f"image size is {references.size[row]}, expected {plan.recipe.outputs[index].size}",
            "uid": "uid is another than the pick's",
        }[what]

    rows.good = ~np.logical_or.reduce(list(wrong.values()))
    for row in np.flatnonzero(~rows.good).tolist():
        faults = "; ".join(say(what, row) for what, mask in wrong.items() if mask[row])
        problems.add(f"{rows.path}: row {row + 1}: {faults}", f"{rows.path}: images or positions of rows")
