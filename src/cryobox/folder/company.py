"""Whose records an output folder holds, who may go on with them, and what goes before a run starts anew.

A folder is that of one whole run, or of shards of one run on the same inputs. All of this happens while `folder.lock`
is held and, by shards, one after the other (`starting`), before a run records itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryobox.errors import OutputError
from cryobox.folder.layout import TABLE_FOLDER, log_name
from cryobox.folder.ledger import Ledger, check_same, read_forgiving, read_ledger, remove_recorded
from cryobox.folder.lock import hold_idle_part
from cryobox.folder.parts import check_same_inputs, ledger_path, part_name, parts_present
from cryobox.folder.publish import remove_temporary, sync_folder
from cryobox.results import TaskResult

__all__ = ["Company", "look_around", "make_room_elsewhere"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Company:
    """What other parts than one's own have recorded in a folder.

    Parameters
    ----------
    folder : Path
    shard : tuple of int, optional
        One's own part.
    own : dict
        Results that one's own part has recorded.
    kept, removed : dict
        Results by part: of parts that go on, and of those that go before the run starts anew.
    """

    folder: Path
    shard: tuple[int, int] | None
    own: dict[str, TaskResult]
    kept: dict[str, dict[str, TaskResult]]
    removed: dict[str, dict[str, TaskResult]]

    def stacks_kept(self) -> set[str]:
        """Stacks that belong to the shards that go on; those that a merge recorded are theirs."""
        return _stacks(result for part, results in self.kept.items() if part for result in results.values())

    def stacks_removed(self) -> set[str]:
        """Stacks that go when the run starts anew."""
        all_results = (self.own, *self.removed.values())
        return _stacks(result for results in all_results for result in results.values()) - self.stacks_kept()

    def take_over(self, withdraw: Callable[[Sequence[str]], None], *, break_lock: bool, fsync: bool) -> None:
        """Remove what the other parts made, and their ledgers last, so that nothing is left that nobody knows of.

        Parameters
        ----------
        withdraw : callable
            Removes the tables that tell of these parts.
        break_lock, fsync : bool

        Raises
        ------
        LockError
            If one of them is at work.
        OutputError
        """
        with contextlib.ExitStack() as held:
            for part in self.removed if self.shard is not None else ():  # a whole run is alone already
                if part:
                    held.enter_context(hold_idle_part(self.folder, part, break_lock=break_lock))
            withdraw(list(self.removed))
            for results in self.removed.values():
                remove_recorded(self.folder, results.values(), keep=self.stacks_kept())
            for part in self.removed:
                remove_temporary(self.folder, part)
                path = ledger_path(self.folder, part)
                try:
                    path.unlink(missing_ok=True)
                except OSError as error:
                    raise OutputError(f"{path}: cannot be removed: {error.strerror}") from error
                with contextlib.suppress(OSError):
                    (self.folder / log_name(part)).unlink(missing_ok=True)
                with contextlib.suppress(OSError):  # what a user put there stays
                    (self.folder / TABLE_FOLDER / part).rmdir()
            if self.removed and fsync:
                sync_folder(self.folder)


def look_around(
    folder: Path,
    shard: tuple[int, int] | None,
    head: Mapping[str, Any],
    run: Mapping[str, Any],
    *,
    overwrite: bool,
) -> Company:
    """Read what other parts have recorded; refuse to work beside what is of another kind, recipe or input.

    Parameters
    ----------
    folder : Path
    shard : tuple of int, optional
    head, run : mapping
        What one's own ledger will begin with, and what `Ledger.begin` gets.
    overwrite : bool
        Start anew: then such parts are to be removed.

    Raises
    ------
    OutputError
        The message names what differs.
    """
    company = Company(folder=folder, shard=shard, own={}, kept={}, removed={})
    whole: Mapping[str, Any] = {}
    shards = parts_present(folder)
    if shard is None and not shards and not overwrite:
        return company  # `Ledger` looks at what is there
    for other in (None, *shards):
        path = ledger_path(folder, part_name(other))
        if not path.exists():
            continue
        old, results = read_forgiving(path) if overwrite else read_ledger(path)
        if other is None:
            whole = old.get("run") or {}
        if other == shard:
            company.own.update(results)
        try:
            if shard is not None:
                _check_beside_shard(folder, shard, other, old, head, run)
            elif other is not None:
                check_same(folder, old, head)
                _check_beside_whole(folder, other, whole, run)
        except OutputError:
            if not overwrite:
                raise
            goes = True
        else:
            goes = overwrite and shard is None
        if other != shard:
            (company.removed if goes else company.kept)[part_name(other)] = results
    return company


def _check_beside_whole(
    folder: Path, other: tuple[int, int], before: Mapping[str, Any], run: Mapping[str, Any]
) -> None:
    """Only where the shards were merged, and inputs are the same, is what they made that of a whole run."""
    if before.get("merged") and all(before.get(key) == run[key] for key in ("content", "plan")):
        return
    raise OutputError(
        f"{folder}: holds shard {other[0]} of {other[1]}, this is a whole run; where the shards are done, cryobox "
        f"merge writes their tables; else choose another folder, or start anew with --overwrite, which removes what "
        f"they made"
    )


def _check_beside_shard(
    folder: Path,
    shard: tuple[int, int],
    other: tuple[int, int] | None,
    old: Mapping[str, Any],
    head: Mapping[str, Any],
    run: Mapping[str, Any],
) -> None:
    before = old.get("run") or {}
    if other is None and not before.get("merged"):
        raise OutputError(
            f"{folder}: holds a whole run, this is shard {shard[0]} of {shard[1]}; choose another folder, or start "
            f"anew with --overwrite, which removes what it made"
        )
    if other is not None and other[1] != shard[1]:
        raise OutputError(
            f"{folder}: holds shard {other[0]} of {other[1]}, this is one of {shard[1]}; give --shard I/{other[1]} "
            f"(one task of an array that is sent again may see another number), or start anew in another folder, or "
            f"here with --overwrite, which removes what they made"
        )
    check_same(folder, old, head, may_grow=False)
    if not before:
        return  # it has begun, and done nothing yet
    name = "the merge" if other is None else f"shard {other[0]} of {other[1]}"
    check_same_inputs(folder, (name, before), ("this one", run))
    for key, what in (
        ("content", "the tables, coordinate files or masks have another content now"),
        ("plan", "a micrograph changed since (its size or time), or cannot be read as it could"),
    ):
        if before.get(key) != run[key]:
            raise OutputError(
                f"{folder}: {name} worked from other inputs: {what}; bring them back, or start anew in another "
                f"folder, or here with --overwrite for every shard"
            )


def make_room_elsewhere(company: Company, todo: Collection[str], stacks: Collection[str]) -> None:
    """Let the parts that go on forget `stacks` that `todo` will replace, as `Ledger.make_room` does in one's own.

    Raises
    ------
    LockError
        If such a part is at work.
    """
    folder = company.folder
    for part, results in company.kept.items():
        if not _stacks(result for result in results.values() if result.id not in todo).intersection(stacks):
            continue
        alone = company.shard is None or not part
        head, _ = read_ledger(ledger_path(folder, part))
        with (
            contextlib.nullcontext() if alone else hold_idle_part(folder, part),
            Ledger(folder, part=part, head=head) as other,
        ):
            other.make_room(todo, stacks)


def _stacks(results: Iterable[TaskResult]) -> set[str]:
    return {stack.path for result in results for stack in result.every_stack}
