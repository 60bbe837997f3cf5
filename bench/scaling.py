"""Past our machines: a discrete simulation of 1 to 256 nodes on one shared file system, fed with measured costs.

    python -m bench.scaling                             # tables, and the plots of docs/scaling.md into docs/img
    python -m bench.scaling --check 16.4 --micrographs 48 --workers 2       # beside a real run on one node

What is simulated: workers that open, read, cut, write, sync and rename; bandwidth and metadata rate of the file system
shared evenly among all that use them; a driver that plans, sends batches and writes a ledger line per micrograph, once
for all nodes (dask, MPI) or once per node (shards, each of which plans the whole for itself, and a merge at the end).
What is not: failures, other users, caches, and networks that are slower than the file system.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "img"


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Measured seconds and bytes, case B of the benchmark: 4096 x 4096 float32, 300 picks, 400 -> 128, one worker.

    The defaults come from `python -m bench.clusters`; docs/scaling.md names host and date.
    """

    read_bytes: float = 67.1e6
    write_bytes: float = 300 * 128 * 128 * 4 + 1024
    cut_seconds: float = 0.16  # processor time of a micrograph: cutting, and copying from and to the page cache
    open_ops: float = 3  # metadata operations before reading: look up, open, close
    write_ops: float = 6  # of one stack: create, open, sync, close, rename, sync of the folder
    ledger_seconds: float = 0.002  # of the driver, for each micrograph: take the result, append and sync a line
    batch_seconds: float = 0.008  # of the driver, for each batch: pack, send, be told, unpack
    plan_seconds: float = 3e-6  # of each pick, without headers: reading the table, deciding
    header_ops: float = 4  # for each micrograph: open, stat, read, close
    header_threads: int = 16
    table_seconds: float = 2.5e-6  # of each pick: writing the tables
    merge_ops: float = 1  # for each stack: its size


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """A cluster and its file system."""

    nodes: int
    workers: int = 32
    bandwidth: float = 20e9  # bytes a second, all nodes together, reading and writing
    node_bandwidth: float = 5e9
    metadata_rate: float = 50e3  # operations a second, all nodes together
    latency: float = 0.5e-3  # of one operation


class Shared:
    """Something that is shared evenly, such as bandwidth, with a most that one user gets.

    Each user's share is the same, so "how much each has had since the start" is one number, and a user is done when
    it reaches what it was when the user came plus the amount asked for: a heap instead of a sum over all users.
    """

    def __init__(self, clock: Clock, capacity: float, most: float) -> None:
        self._clock, self._capacity, self._most = clock, capacity, most
        self._had, self._since = 0.0, 0.0
        self._users: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self._version = 0
        self.used = 0.0

    def use(self, amount: float, then: Callable[[], None]) -> None:
        """Call `then` when `amount` has been served."""
        self._settle()
        self.used += amount
        heapq.heappush(self._users, (self._had + amount, next(self._count), then))
        self._plan()

    def _rate(self) -> float:
        return min(self._most, self._capacity / len(self._users)) if self._users else 0.0

    def _settle(self) -> None:
        self._had += (self._clock.now - self._since) * self._rate()
        self._since = self._clock.now

    def _plan(self) -> None:
        self._version += 1
        if self._users:
            version = self._version
            left = max(0.0, self._users[0][0] - self._had) / self._rate()
            self._clock.at(self._clock.now + left, lambda: self._serve(version))

    def _serve(self, version: int) -> None:
        if version != self._version:
            return
        self._settle()
        done = []
        while self._users and self._users[0][0] <= self._had * (1 + 1e-12) + 1e-9:
            done.append(heapq.heappop(self._users)[2])
        self._plan()
        for then in done:
            then()


class Queue:
    """Someone who does one thing after the other, such as a driver."""

    def __init__(self, clock: Clock) -> None:
        self._clock, self._free = clock, 0.0

    def use(self, seconds: float, then: Callable[[], None]) -> None:
        """Call `then` when it has been done."""
        self._free = max(self._free, self._clock.now) + seconds
        self._clock.at(self._free, then)


class Clock:
    """The time of the simulation, and what happens when."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()

    def at(self, time: float, what: Callable[[], None]) -> None:
        """Do `what` at `time`."""
        heapq.heappush(self._events, (time, next(self._count), what))

    def run(self) -> float:
        """Until nothing is left to happen."""
        while self._events:
            self.now, _, what = heapq.heappop(self._events)
            what()
        return self.now


Step = tuple[Shared | Queue | None, float]


def play(clock: Clock, steps: Iterator[Step]) -> None:
    """Let a worker take its steps: an amount of something shared, or seconds of its own."""

    def go() -> None:
        for where, amount in steps:
            if where is None:
                clock.at(clock.now + amount, go)
            else:
                where.use(amount, go)
            return

    go()


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Seconds until all is done, of these for planning and for the tables, and metadata operations."""

    seconds: float
    planning: float
    closing: float
    metadata: float


def simulate(micrographs: int, picks: int, system: System, costs: Costs, *, shards: bool, batch: int = 1) -> Outcome:
    """One run: by one driver for all nodes, or in one shard per node."""
    clock = Clock()
    stream = system.node_bandwidth / system.workers
    disk = Shared(clock, system.bandwidth, max(stream, min(system.node_bandwidth, system.bandwidth) / system.workers))
    metadata = Shared(clock, system.metadata_rate, 1 / system.latency)
    headers = costs.header_ops / costs.header_threads  # threads ask side by side: so much longer is one stream
    planned: list[float] = []

    def worker(driver: Queue, take: Callable[[], int]) -> Iterator[Step]:
        while count := take():
            yield driver, costs.batch_seconds if not shards else 0.0
            for _ in range(count):
                yield metadata, costs.open_ops
                yield disk, costs.read_bytes
                yield None, costs.cut_seconds
                yield disk, costs.write_bytes
                yield metadata, costs.write_ops
            yield driver, costs.ledger_seconds * count

    def node(driver: Queue, share: int, workers: int) -> Iterator[Step]:
        yield None, costs.plan_seconds * micrographs * picks
        for _ in range(costs.header_threads):  # sixteenths: the threads' waiting overlaps, the operations do not vanish
            yield metadata, headers * micrographs / costs.header_threads
        metadata.used += costs.header_ops * micrographs - headers * micrographs
        planned.append(clock.now)
        left = [share]

        def take() -> int:
            count = min(batch, left[0])
            left[0] -= count
            return count

        for _ in range(min(workers, math.ceil(share / batch))):
            play(clock, worker(driver, take))

    groups = system.nodes if shards else 1
    for index in range(groups):
        share = micrographs // groups + (index < micrographs % groups)
        play(clock, node(Queue(clock), share, system.workers * system.nodes // groups))
    cut = clock.run()
    closing = costs.table_seconds * micrographs * picks
    if shards:
        per_stream = min(system.metadata_rate, costs.header_threads / system.latency)
        closing += costs.plan_seconds * micrographs * picks + costs.header_ops * micrographs / per_stream
        closing += costs.merge_ops * micrographs * system.latency
    return Outcome(seconds=cut + closing, planning=max(planned), closing=closing, metadata=metadata.used)


NODES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


def tables(costs: Costs) -> None:
    """What docs/scaling.md shows as text."""
    print("seconds of a run; in brackets planning + tables or merge\n")
    for micrographs in (1_000, 20_000):
        print(f"{micrographs} micrographs, 300 picks each; 20 GB/s, 50 k operations a second")
        print(f"{'nodes':>6} {'one driver':>26} {'shards':>26} {'metadata operations':>22}")
        for nodes in NODES:
            one, parts = (
                simulate(micrographs, 300, System(nodes=nodes), costs, shards=shards, batch=1 if shards else 8)
                for shards in (False, True)
            )
            print(
                f"{nodes:6} {one.seconds:10.0f} ({one.planning:5.0f} + {one.closing:5.0f}) "
                f"{parts.seconds:10.0f} ({parts.planning:5.0f} + {parts.closing:5.0f}) "
                f"{one.metadata / 1e6:9.2f} M {parts.metadata / 1e6:8.2f} M"
            )
        print()
    print("16 nodes of 32 workers, 20,000 micrographs, one driver: batch size, seconds")
    for size in (1, 2, 4, 8, 16, 32, 64):
        print(f"{size:6} {simulate(20_000, 300, System(nodes=16), costs, shards=False, batch=size).seconds:8.1f}")


def plots(costs: Costs) -> None:
    """The figures of docs/scaling.md."""
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    mpl.use("Agg")
    plt.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "cryobox", "font.size": 9, "axes.grid": True}
    IMAGES.mkdir(exist_ok=True)

    def rate(**more: float) -> list[float]:
        found = []
        for nodes in NODES:
            system = replace(System(nodes=nodes), **more)  # type: ignore[arg-type]
            outcome = simulate(20_000, 300, system, costs, shards=False, batch=8)
            found.append(20_000 / (outcome.seconds - outcome.planning - outcome.closing))
        return found

    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    for bandwidth in (2e9, 20e9, 100e9):
        axes[0].loglog(NODES, rate(bandwidth=bandwidth), "o-", ms=3, label=f"{bandwidth / 1e9:g} GB/s")
    axes[0].loglog(NODES, [32 / costs.cut_seconds * n for n in NODES], "k:", lw=1, label="processors alone")
    axes[0].axhline(1 / costs.ledger_seconds, color="gray", ls="--", lw=1, label="one driver's ledger")
    axes[0].set(xlabel="nodes of 32 workers", ylabel="micrographs a second", title="bandwidth, 20,000 micrographs")
    axes[0].legend(fontsize=7)
    for micrographs, color in ((2_000, "C0"), (20_000, "C1")):
        for shards, style in ((False, "-"), (True, "--")):
            seconds = [
                simulate(micrographs, 300, System(nodes=n), costs, shards=shards, batch=1 if shards else 8).seconds
                for n in NODES
            ]
            label = f"{micrographs:,}, {'shards + merge' if shards else 'one driver'}"
            axes[1].loglog(NODES, seconds, "o" + style, color=color, ms=3, label=label)
    axes[1].set(xlabel="nodes of 32 workers", ylabel="seconds, all in all", title="one driver or shards, 20 GB/s")
    axes[1].legend(fontsize=7)
    figure.savefig(IMAGES / "scaling.svg", metadata={"Date": None})
    print(IMAGES / "scaling.svg")


def main() -> None:
    """Read the arguments and simulate."""
    parser = argparse.ArgumentParser(description="A simulation of many nodes.")
    parser.add_argument("--check", type=float, help="seconds that a real run took to cut, for comparison")
    parser.add_argument("--micrographs", type=int, default=48)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--bandwidth", type=float, default=8e9, help="bytes a second of the disk or page cache")
    given = parser.parse_args()
    costs = Costs()
    if given.check is not None:
        system = System(
            nodes=1, workers=given.workers, bandwidth=given.bandwidth, node_bandwidth=given.bandwidth,
            metadata_rate=1e5, latency=2e-5,
        )  # fmt: skip
        local = replace(costs, ledger_seconds=5e-5, batch_seconds=0.0)
        found = simulate(given.micrographs, 300, system, local, shards=True)
        cutting = found.seconds - found.planning - found.closing
        print(f"simulated {cutting:.2f} s, measured {given.check:.2f} s, ratio {cutting / given.check:.2f}")
        return
    tables(costs)
    plots(costs)


if __name__ == "__main__":
    main()
