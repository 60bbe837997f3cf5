"""Hands tasks to an executor of any kind and takes what comes back: batches, second tries, workers that die or hang."""

from __future__ import annotations

import itertools
import math
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from cryobox.engine.batch import Batch, BatchResult, Expectation, Reply, do_batch, expect, look
from cryobox.engine.futures import map_unordered
from cryobox.engine.local import available_cores, local_executor
from cryobox.engine.task import Setting, do_group
from cryobox.errors import AbortedError, BackendError, CryoboxError, OptionError
from cryobox.folder.publish import remove_temporary, temporary_name
from cryobox.options import RunOptions
from cryobox.plan import Group, Task, groups_of
from cryobox.results import TaskResult

__all__ = ["Engine", "Incidents", "carry_out", "check_engine"]

# Runs tasks: an executor, or a function that makes one, so that a pool whose worker died can be replaced.
Engine = Executor | Callable[[], Executor]

Results = tuple[TaskResult, ...]  # of a group

BATCH_SECONDS = 2.0  # a batch should take about this long: sending one costs some milliseconds
LARGEST_BATCH = 64
TRIES = 3  # of a task whose worker dies or hangs; the last one is done alone, so that it cannot drag others along
WORKERS_SECONDS = 600.0  # how long to wait for the first worker
_LOOK_PAUSE = 0.05
_COUNT_SECONDS = 5.0  # how often a cluster is asked how many workers it has


@dataclass(slots=True, kw_only=True)
class Incidents:
    """What went wrong with workers and was put right, for the summary of the run."""

    died: Counter[str] = field(default_factory=Counter)
    late: Counter[str] = field(default_factory=Counter)
    workers: set[str] = field(default_factory=set)
    cpus: set[str] = field(default_factory=set)

    @property
    def retried(self) -> int:
        """Micrographs that were done more than once."""
        return len({*self.died, *self.late})

    def notes(self) -> list[str]:
        """A sentence for each kind."""
        found = []
        for what, names in (("died", self.died), ("did not answer in time", self.late)):
            if names:
                listed = ", ".join(sorted(names)[:3]) + (", ..." if len(names) > 3 else "")
                found.append(f"{len(names)} micrographs were tried again, since a worker {what} ({listed})")
        if len(self.cpus) > 1:
            kinds = "; ".join(sorted(self.cpus))
            found.append(f"the workers have processors of {len(self.cpus)} kinds ({kinds}): last bits may differ")
        return found


def check_engine(engine: Engine | None, options: RunOptions) -> None:
    """Refuse options that the engine cannot honor.

    Raises
    ------
    OptionError
    """
    if options.task_timeout is not None and (engine is None or isinstance(engine, ThreadPoolExecutor)):
        raise OptionError(
            "--task-timeout needs workers that are other processes (--dask): a thread of this one cannot be stopped"
        )


def carry_out(
    todo: list[Task],
    setting: Setting,
    *,
    engine: Engine | None,
    options: RunOptions,
    stop: threading.Event,
    incidents: Incidents,
) -> Iterator[tuple[Group, Results | CryoboxError]]:
    """Yield tasks that share their stacks with their results, in the order in which they finish.

    An error says that going on is no use. `todo` is in the order of the plan, and has all tasks of a stack or none.
    When `stop` is set, what is in flight is finished and the rest is left.

    Raises
    ------
    BackendError
        Before any work, if a worker does not fit; the message says which.
    AbortedError
        If there is nothing left that could work.
    """
    if engine is None or isinstance(engine, ThreadPoolExecutor):
        yield from _locally(groups_of(todo), setting, engine, options, stop)
    elif todo:
        yield from _elsewhere(todo, setting, engine, options, stop, incidents)


def _locally(
    todo: list[Group], setting: Setting, pool: ThreadPoolExecutor | None, options: RunOptions, stop: threading.Event
) -> Iterator[tuple[Group, Results | CryoboxError]]:
    workers = options.workers or (available_cores() if pool is None else _slots(pool))
    wanted = itertools.takewhile(lambda _: not stop.is_set(), todo)
    own = local_executor(workers) if pool is None else None
    try:
        for group, future in map_unordered(own or pool, do_group, wanted, setting, in_flight=workers + 1):  # type: ignore[arg-type]
            try:
                yield group, future.result()
            except CryoboxError as error:
                yield group, error
    finally:
        if own is not None:
            own.shutdown()


def _elsewhere(
    todo: list[Task], setting: Setting, engine: Engine, options: RunOptions, stop: threading.Event, incidents: Incidents
) -> Iterator[tuple[Group, Results | CryoboxError]]:
    token = Path(setting.folder) / temporary_name("seen", setting.part)
    expected = expect(Path(setting.folder), todo, token=token)
    queue = _Queue(groups_of(todo), stop, incidents, single=options.task_timeout is not None)
    checked = False
    try:
        while queue:
            with _Pool(engine) as pool:
                if not checked:
                    _check_workers(pool.executor, expected, options, incidents)
                    checked = True
                yield from _until_broken(pool, queue, setting, expected, options, incidents)
                if queue and not stop.is_set() and not pool.replaceable:
                    raise AbortedError("the pool of workers is broken: one of them died suddenly")
            if stop.is_set():
                return
        # What workers that died left half-written. One that was only slow finds its file gone, which harms nobody:
        # another has done its task.
        remove_temporary(Path(setting.folder), setting.part)
    finally:
        token.unlink(missing_ok=True)


def _until_broken(
    pool: _Pool, queue: _Queue, setting: Setting, expected: Expectation, options: RunOptions, incidents: Incidents
) -> Iterator[tuple[Group, Results | CryoboxError]]:
    """Work until nothing is left, or the pool as a whole is gone; then what it had is back in the queue."""
    slots = _Slots(pool.executor, options)
    timeout = options.task_timeout
    # One batch waits behind each that runs, except where waiting would count as being late.
    room = slots.doubled if timeout is None else slots
    try:
        for batch, future in map_unordered(
            pool.executor, do_batch, queue, setting, expected, in_flight=room, patience=timeout
        ):
            if not future.done():
                pool.hung = True
                yield from queue.failed(batch, incidents.late, f"did not end within {timeout:g} s")
                continue
            error = None if future.cancelled() else future.exception()
            if future.cancelled():
                raise AbortedError("the scheduler of the workers is gone, or took the work back")
            if isinstance(error, BrokenExecutor):
                break
            if error is not None and not _is_death(error):
                raise AbortedError(f"a worker failed: {type(error).__name__}: {error}") from error
            if error is not None:
                yield from queue.failed(batch, incidents.died, "its worker died")
                continue
            yield from queue.finished(batch, future.result())
        else:
            if queue and not queue.stopped:
                raise AbortedError("all workers hang")
            return
    except BrokenExecutor:
        pass
    for batch in queue.handed():
        yield from queue.failed(batch, incidents.died, "its worker died")


class _Queue:
    """Groups not done yet, read batch by batch; those that must be tried again come first, one by one."""

    def __init__(self, todo: list[Group], stop: threading.Event, incidents: Incidents, *, single: bool) -> None:
        self._fresh = deque(todo)
        self._again: deque[Group] = deque()
        self._stop, self._incidents, self._single = stop, incidents, single
        self._handed: dict[int, Batch] = {}
        self._tries: Counter[str] = Counter()
        self._serial = itertools.count(1)
        self._seconds, self._done = 0.0, 0
        self._slots = 1

    def __bool__(self) -> bool:
        return bool(self._fresh or self._again or self._handed)

    def __iter__(self) -> Self:
        return self

    @property
    def stopped(self) -> bool:
        return self._stop.is_set()

    def __next__(self) -> Batch:
        if self._stop.is_set() or (self._handed and self._last_try()):
            raise StopIteration
        if self._again:
            groups: tuple[Group, ...] = (self._again.popleft(),)
        elif self._fresh:
            groups = tuple(self._fresh.popleft() for _ in range(self._size()))
        else:
            raise StopIteration
        batch = Batch(serial=next(self._serial), groups=groups)
        self._handed[batch.serial] = batch
        self._slots = max(self._slots, len(self._handed))
        return batch

    def handed(self) -> list[Batch]:
        """What was given out and has not come back."""
        return list(self._handed.values())

    def finished(self, batch: Batch, found: BatchResult) -> Iterator[tuple[Group, Results | CryoboxError]]:
        """Take a batch that came back."""
        del self._handed[batch.serial]
        self._incidents.workers.add(found.worker)
        for group, results in zip(batch.groups, found.results, strict=False):
            self._seconds += sum(one.read_seconds + one.extract_seconds + one.write_seconds for one in results)
            self._done += 1
            yield group, results
        if found.error is not None:
            left = batch.groups[len(found.results) :]
            self._fresh.extendleft(left)
            yield left[0], found.error

    def failed(self, batch: Batch, kind: Counter[str], what: str) -> Iterator[tuple[Group, Results | CryoboxError]]:
        """Put a batch back that is lost with its worker; a group that had its tries is given up."""
        del self._handed[batch.serial]
        for group in batch.groups:
            self._tries[group[0].id] += 1
            kind.update(task.micrograph for task in group)
            if self._tries[group[0].id] < TRIES:
                self._again.append(group)
            else:
                why = f"{what}, in each of {TRIES} tries"
                yield group, tuple(TaskResult(id=task.id, error=f"{task.path}: {why}") for task in group)

    def _last_try(self) -> bool:
        """Whether the group that comes next, or one in flight, has its last try and must be in flight alone."""
        groups = [*itertools.islice(self._again, 1), *(batch.groups[0] for batch in self._handed.values())]
        return any(self._tries[group[0].id] == TRIES - 1 for group in groups)

    def _size(self) -> int:
        """Groups in the next batch: some seconds of work, but not so many that workers idle at the end."""
        left = len(self._fresh)
        if self._single or not self._done:
            return min(1, left)
        mean = max(self._seconds / self._done, 1e-4)
        fair = math.ceil(left / (2 * self._slots))
        return max(1, min(math.ceil(BATCH_SECONDS / mean), fair, LARGEST_BATCH, left))


class _Pool:
    """An executor while it is used: one that was given stays, one that was made is shut down."""

    def __init__(self, engine: Engine) -> None:
        self.replaceable = not isinstance(engine, Executor)
        self.executor = engine if isinstance(engine, Executor) else engine()
        self.hung = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self.replaceable:
            return
        if self.hung:
            # A process that hangs would keep the shutdown, and Python's exit, waiting for ever.
            for process in (getattr(self.executor, "_processes", None) or {}).values():
                process.kill()
        self.executor.shutdown(wait=not self.hung, cancel_futures=True)


class _Slots:
    """How many tasks an executor can run at a time, asked again now and then where that may change."""

    def __init__(self, executor: Executor, options: RunOptions) -> None:
        self._executor, self._workers = executor, options.workers
        self._asked, self._count = -math.inf, 1

    def __call__(self) -> int:
        if self._workers is not None:
            return self._workers
        if time.monotonic() - self._asked > _COUNT_SECONDS:
            self._count, self._asked = _slots(self._executor), time.monotonic()
        return self._count

    def doubled(self) -> int:
        return 2 * self()


def _slots(executor: Executor) -> int:
    client = _dask_client(executor)
    if client is not None:
        with suppress(OSError, RuntimeError, ValueError):  # a scheduler that is gone shows at the next submission
            return max(1, int(sum(client.nthreads().values())))
        return 1
    # The standard pools, mpi4py's and loky's have the one or the other.
    count = getattr(executor, "num_workers", None) or getattr(executor, "_max_workers", None)
    return count if isinstance(count, int) else available_cores()


def _dask_client(executor: Executor) -> Any:
    return getattr(executor, "_client", None) if type(executor).__module__.startswith("distributed") else None


def _is_death(error: BaseException) -> bool:
    """Whether an exception says that a worker died, or ran out of memory, rather than that cryobox failed."""
    if isinstance(error, TypeError):
        # dask's executor takes a result for an error where the worker dies while its result is on the way.
        frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
        return any(frame.f_globals.get("__name__") == "distributed.cfexecutor" for frame in frames)
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"KilledWorker", "CommClosedError", "MemoryError", "WorkerError", "TerminatedWorkerError"})


def _check_workers(executor: Executor, expected: Expectation, options: RunOptions, incidents: Incidents) -> None:
    """Let every worker that can be reached look at versions and folders.

    Raises
    ------
    BackendError
        Naming the first that does not fit, and how many others.
    """
    replies = _dask_replies(executor, expected) or _replies(executor, expected, options.workers or _slots(executor))
    unfit = list(dict.fromkeys(f"worker {reply.worker}: {reply.complaint}" for reply in replies if reply.complaint))
    if unfit:
        more = f" ({len(unfit) - 1} other workers do not fit either)" if len(unfit) > 1 else ""
        raise BackendError(f"{unfit[0]}{more}")
    incidents.cpus |= {reply.cpu for reply in replies}


def _replies(executor: Executor, expected: Expectation, count: int) -> list[Reply]:
    try:
        futures: list[Future[Reply]] = [executor.submit(look, expected, _LOOK_PAUSE) for _ in range(count)]
    except (BrokenExecutor, RuntimeError) as error:
        raise BackendError(f"the pool of workers takes no work: {error}") from error
    done, late = wait(futures, timeout=WORKERS_SECONDS)
    if not done:
        raise BackendError(f"no worker answered within {WORKERS_SECONDS:g} s")
    for future in late:
        future.cancel()
    replies = []
    for future in done:
        failed = future.exception()
        if failed is not None:
            raise BackendError(f"a worker cannot run cryobox: {type(failed).__name__}: {failed}") from failed
        replies.append(future.result())
    return replies


def _dask_replies(executor: Executor, expected: Expectation) -> list[Reply]:
    """Ask every worker of a dask cluster by its address, also those that could not even load cryobox."""
    client = _dask_client(executor)
    if client is None:
        return []
    try:
        client.wait_for_workers(1, timeout=WORKERS_SECONDS)
    except TimeoutError as error:
        address = client.scheduler.address
        raise BackendError(f"{address}: no worker has come within {WORKERS_SECONDS:g} s") from error
    found = client.run(look, expected, on_error="return")
    replies = []
    for address, reply in found.items():
        if isinstance(reply, Reply):
            replies.append(reply)
        else:
            complaint = f"cannot run cryobox {expected.cryobox}: {type(reply).__name__}: {reply}"
            replies.append(Reply(worker=address, cpu="", complaint=complaint))
    return replies
