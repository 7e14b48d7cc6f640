"""What the store and the lease book cost: `python -m tests.bench.bench_store`.

One commit is what a create writes before its first effect: a lease, a note and a binding with eight
sinks.  It is measured alone (p50, p99) and with fifty callers at once, where group commit shares the
flushes; both go through the thread that the daemon uses.  Planning is measured on a full-sized app.
Prints a table and writes `build/bench/store.json`; `docs/benchmarks.md` explains the keys.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from mooring.controller.store.runners import ThreadRunner
from mooring.controller.store.sqlite import SqliteStore
from mooring.core.model import (
    AppId,
    Binding,
    BindingId,
    Epoch,
    HostName,
    InstanceId,
    PoolName,
    SinkName,
    SinkState,
    TaskId,
)
from mooring.core.specs import NameSpec
from mooring.core.store import PutBinding, Write
from mooring.ipam.book import LeaseBook, Request
from mooring.ipam.pools import Pool, Pools

REPORT = Path(__file__).parents[2] / "build" / "bench" / "store.json"
COMMITS = 1500
CALLERS = 50
HOST, POOL = HostName("agent-1"), PoolName("bench")


def new_book() -> LeaseBook:
    return LeaseBook(Pools([Pool.parse(POOL, "10.64.0.0/16", gateway="10.64.0.1")]))


def request(number: int) -> Request:
    # Fifty instances to an app, as services have them; the pool is shared.
    return Request(AppId(f"/bench/{number // 50}"), POOL, BindingId(f"bench.instance-{number}"), HOST)


def create_writes(book: LeaseBook, number: int) -> list[Write]:
    """The first transaction of a create; the book has accepted it."""
    wanted = request(number)
    lease, writes = book.plan_bind(wanted, 1000.0)
    book.accept(writes)
    instance, task = InstanceId(wanted.binding), TaskId(f"{wanted.binding}._app.1")
    shown = NameSpec(f"seat-{lease.slot}.bench.example", lease.address, 30)
    binding = Binding(
        wanted.binding,
        wanted.app,
        instance,
        1,
        task,
        HOST,
        lease.slot,
        lease.address,
        POOL,
        sinks={SinkName(f"sink-{n}"): SinkState(shown, None, (), 1) for n in range(8)},
    )
    return [*writes, PutBinding(binding)]


async def commit_times(store: SqliteStore, commits: Sequence[list[Write]]) -> list[float]:
    """Milliseconds of each commit, one after the other."""
    times = []
    for writes in commits:
        begun = time.perf_counter()
        await store.commit(writes)
        times.append((time.perf_counter() - begun) * 1000)
    return times


async def commit_rate(store: SqliteStore, commits: Sequence[list[Write]]) -> float:
    """Commits per second with `CALLERS` callers that each wait for their own."""
    waiting = iter(commits)

    async def caller() -> None:
        for writes in waiting:
            await store.commit(writes)

    begun = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return len(commits) / (time.perf_counter() - begun)


def plan_times(count: int) -> list[float]:
    """Microseconds of each `plan_bind` while the pool fills."""
    book, times = new_book(), []
    for number in range(count):
        wanted = request(number)
        begun = time.perf_counter()
        _, writes = book.plan_bind(wanted, 1000.0)
        times.append((time.perf_counter() - begun) * 1e6)
        book.accept(writes)
    return times


async def measure(directory: Path) -> dict[str, float]:
    runner = ThreadRunner()
    store = SqliteStore(directory / "store.db", runner)
    await store.open()
    await store.begin(Epoch(1))
    book = new_book()
    commits = [create_writes(book, number) for number in range(2 * COMMITS)]
    single = await commit_times(store, commits[:COMMITS])
    rate = await commit_rate(store, commits[COMMITS:])
    await store.close()
    begun = time.perf_counter()
    contents = await store.open()
    load_s = time.perf_counter() - begun
    assert len(contents.leases) == len(contents.bindings) == 2 * COMMITS
    await store.close()
    runner.close()
    return {
        "commit_p50_ms": statistics.median(single),
        "commit_p99_ms": statistics.quantiles(single, n=100)[98],
        "commit_per_s_50_callers": rate,
        "load_3000_bindings_ms": load_s * 1000,
        "plan_bind_us": statistics.median(plan_times(5000)),
    }


def main() -> None:
    build = REPORT.parent
    build.mkdir(parents=True, exist_ok=True)
    # Beside the report, not in /tmp: that may be memory, where flushing costs nothing.
    with tempfile.TemporaryDirectory(dir=build) as directory:
        numbers = asyncio.run(measure(Path(directory)))
    for key, value in numbers.items():
        print(f"{key:<26} {value:12.3f}")
    REPORT.write_text(json.dumps({key: round(value, 4) for key, value in numbers.items()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
