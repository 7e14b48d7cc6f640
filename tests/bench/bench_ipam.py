"""What addresses cost: `python -m tests.bench.bench_ipam`.

Leases per second, each caller waiting until its own is durable: a commit is what the lease book plans for a
new seat, a lease and a note.  SQLite runs in the daemon's thread with `synchronous=FULL`; Redis is a server
of its own with `appendonly yes` and `appendfsync always`.  Beside it the first transaction of a create (its
binding of eight sinks), the start with 100,000 leases and as many notes until the lease book can plan, and
what the book itself needs.  Files lie beside the report: /tmp may be memory, where flushing costs nothing.

Prints a table and writes `build/bench/ipam.json`; `docs/benchmarks.md` explains the keys.
"""

from __future__ import annotations

import asyncio
import gc
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from mooring.controller.store.runners import ThreadRunner
from mooring.controller.store.sqlite import SqliteStore
from mooring.core.model import (
    Binding,
    Epoch,
    InstanceId,
    Lease,
    PoolName,
    SinkName,
    SinkState,
    TaskId,
)
from mooring.core.specs import NameSpec
from mooring.core.store import Note, PutBinding, PutLease, Store, Write
from mooring.ipam.book import LeaseBook
from mooring.ipam.pools import Pool, Pools
from tests.bench.ipam_memory import NETWORK, last_free_of_slash12_ms, realistic, resident_bytes_per_lease
from tests.contract.redis_server import RedisServer
from tests.contract.store_benches import redis_store

BUILD = Path(__file__).parents[2] / "build" / "bench"
REPORT = BUILD / "ipam.json"
CALLERS = {1: 1000, 16: 8000, 256: 40_000}  # callers: leases in one round
ROUNDS = 5
LOADED = 100_000
CREATES = 1000
Results = dict[str, float]


def seating(lease: Lease) -> list[Write]:
    """What the book plans for a new seat."""
    assert lease.binding is not None
    instance = InstanceId(lease.binding)
    return [
        PutLease(lease, None),
        Note(
            lease.since, "bound", f"new slot {lease.slot}", lease.address, lease.app, lease.slot, instance,
            lease.host, lease.pool, 12, lease.generation,
        ),
    ]  # fmt: skip


def create(lease: Lease) -> list[Write]:
    """The first transaction of a create."""
    assert lease.app is not None
    assert lease.binding is not None
    assert lease.host is not None
    shown = NameSpec(f"seat-{lease.slot}.bench.example", lease.address, 30)
    binding = Binding(
        lease.binding,
        lease.app,
        InstanceId(lease.binding),
        1,
        TaskId(f"{lease.binding}._app.1"),
        lease.host,
        lease.slot,
        lease.address,
        lease.pool,
        sinks={SinkName(f"sink-{n}"): SinkState(shown, None, (), 1) for n in range(8)},
    )
    return [*seating(lease), PutBinding(binding)]


async def rate(store: Store, commits: Sequence[list[Write]], callers: int) -> float:
    """Durable commits per second, each caller waiting for its own."""
    waiting = iter(commits)

    async def caller() -> None:
        for writes in waiting:
            await store.commit(writes)

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(callers)))
    return len(commits) / (time.perf_counter() - began)


async def rates(name: str, make: Callable[[], Store]) -> Results:
    """Medians of several rounds; each round goes on in the same store."""
    store = make()
    await store.open()
    await store.begin(Epoch(1))
    leases = realistic(sum(CALLERS.values()) * ROUNDS)
    found: Results = {}
    for callers, many in CALLERS.items():
        measured = []
        for _ in range(ROUNDS):
            commits = [seating(lease) for lease in islice(leases, many)]
            measured.append(await rate(store, commits, callers))
        found[f"{name}_leases_per_s_{callers}"] = statistics.median(measured)
    await store.close()
    return found


async def creates(store: Store) -> Results:
    """Milliseconds of one create's first transaction after the other."""
    await store.open()
    await store.begin(Epoch(1))
    times = []
    for lease in realistic(CREATES):
        writes = create(lease)
        began = time.perf_counter()
        await store.commit(writes)
        times.append((time.perf_counter() - began) * 1000)
    await store.close()
    return {
        "create_p50_ms": statistics.median(times),
        "create_p99_ms": statistics.quantiles(times, n=100)[98],
    }


async def load_s(make: Callable[[], Store]) -> float:
    """Seconds from opening a store with 100,000 leases and notes to a lease book that can plan."""
    store = make()
    await store.open()
    await store.begin(Epoch(1))
    leases = realistic(LOADED)
    while some := list(islice(leases, 1000)):
        await store.commit([write for lease in some for write in seating(lease)])
    await store.close()
    measured = [await _start(make) for _ in range(ROUNDS)]
    return statistics.median(measured)


async def _start(make: Callable[[], Store]) -> float:
    gc.collect()
    began = time.perf_counter()
    store = make()
    contents = await store.open()
    book = LeaseBook(Pools([Pool.parse("shop", NETWORK, gateway="10.64.0.1")]), contents.leases)
    seconds = time.perf_counter() - began
    assert sum(book.usage(PoolName("shop")).leases.values()) == LOADED
    await store.close()
    return seconds


@contextmanager
def redis_server(directory: Path) -> Iterator[RedisServer]:
    server = RedisServer(directory)
    server.start()
    try:
        yield server
    finally:
        server.kill()


async def measure(directory: Path) -> Results:
    runner = ThreadRunner()
    found = await rates("sqlite", lambda: SqliteStore(directory / "rates.db", runner))
    found["load_100k_s"] = await load_s(lambda: SqliteStore(directory / "load.db", runner))
    found |= await creates(SqliteStore(directory / "creates.db", runner))
    runner.close()
    with redis_server(directory) as server:
        found |= await rates("redis", lambda: redis_store(server, "bench:{rates}", lock_s=5.0))
        found["load_100k_redis_s"] = await load_s(lambda: redis_store(server, "bench:{load}", lock_s=5.0))
    return found


def main() -> None:
    BUILD.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BUILD) as directory:
        numbers = asyncio.run(measure(Path(directory)))
    numbers["last_free_of_slash12_ms"] = last_free_of_slash12_ms()
    numbers["resident_bytes_per_lease"] = resident_bytes_per_lease()
    for key, value in numbers.items():
        print(f"{key:<26} {value:12.3f}")
    REPORT.write_text(json.dumps({key: round(value, 4) for key, value in numbers.items()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
