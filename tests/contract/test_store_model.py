"""Every store against a model in dictionaries, through any sequence of steps that Hypothesis thinks of."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from mooring.controller.store.memory import MemoryStore
from mooring.controller.store.runners import inline
from mooring.core.errors import Fenced, LeaseConflict
from mooring.core.model import AppId, BindingId, Epoch, Lease, PoolName, PoolSpec
from mooring.core.store import (
    DropBinding,
    DropLease,
    DropPool,
    HistoryQuery,
    LedgerRow,
    Note,
    PutBinding,
    PutFlag,
    PutItem,
    PutLease,
    PutPool,
    RetireItem,
    Write,
)
from tests.contract.redis_server import RedisServer
from tests.contract.store_benches import Bench, in_file, in_memory, in_redis
from tests.contract.store_samples import binding, contents, item, lease

ADDRESSES = [f"10.0.0.{n}" for n in range(2, 6)]
APPS = [AppId("/a"), AppId("/b")]
NAMES = ["one", "two"]

addresses, apps, names = st.sampled_from(ADDRESSES), st.sampled_from(APPS), st.sampled_from(NAMES)
times = st.integers(0, 40).map(float)


@dataclass
class Model:
    """What a store should hold."""

    leases: dict[str, Lease] = field(default_factory=dict)
    bindings: dict[str, Any] = field(default_factory=dict)
    flags: dict[str, str] = field(default_factory=dict)
    pools: dict[str, PoolSpec] = field(default_factory=dict)
    items: dict[str, LedgerRow] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)

    def copy(self) -> Model:
        parts = (self.leases, self.bindings, self.flags, self.pools, self.items)
        return Model(*(dict(part) for part in parts), list(self.notes))

    def carry_out(self, write: Write, epoch: int) -> bool:
        """Whether it is allowed."""
        match write:
            case PutLease(new, replaces):
                known = self.leases.get(new.address)
                if (known.generation if known else None) != replaces:
                    return False
                if replaces is not None and new.generation <= replaces:
                    return False
                seat = (new.app, new.slot, new.pool)
                others = [each for each in self.leases.values() if each.address != new.address]
                if new.slot is not None and seat in [(each.app, each.slot, each.pool) for each in others]:
                    return False
                self.leases[new.address] = new
            case DropLease(address, generation):
                known = self.leases.get(address)
                if known is None or known.generation != generation:
                    return False
                del self.leases[address]
            case PutBinding(new):
                self.bindings[new.id] = new
            case DropBinding(key):
                self.bindings.pop(key, None)
            case PutFlag(name, None):
                self.flags.pop(name, None)
            case PutFlag(name, value):
                self.flags[name] = str(value)
            case PutPool(pool):
                self.pools[pool.name] = pool
            case DropPool(name):
                self.pools.pop(name, None)
            case PutItem(new, at):
                row = self.items.get(new.key)
                since = row.since if row and row.retired_at is None else at
                self.items[new.key] = LedgerRow(new, since, None)
            case RetireItem(key, at):
                row = self.items.get(key)
                if row and row.retired_at is None:
                    self.items[key] = LedgerRow(row.item, row.since, at)
            case Note():
                self.notes.append(msgspec.structs.replace(write, epoch=write.epoch or epoch))
        return True

    def prune(self, before: float) -> int:
        size = len(self.notes) + len(self.items)
        kept = []
        for place, note in enumerate(self.notes):
            following = [each for each in self.notes[place + 1 :] if each.address == note.address]
            answers = note.address is not None and (not following or following[0].at >= before)
            if note.at >= before or answers:
                kept.append(note)
        self.notes = kept
        self.items = {
            key: row for key, row in self.items.items() if row.retired_at is None or row.retired_at >= before
        }
        return size - len(self.notes) - len(self.items)

    def history(self, query: HistoryQuery) -> list[Note]:
        asked = [
            note
            for note in reversed(self.notes)
            if query.address in (None, note.address)
            and query.app in (None, note.app)
            and (query.until is None or note.at <= query.until)
        ]
        return asked[: query.limit]


@st.composite
def writes(draw: st.DrawFn, model: Model) -> Write:
    address = draw(addresses)
    known = model.leases.get(address)
    generation = known.generation if known else None
    slot = draw(st.none() | st.integers(0, 2))
    app, at, name = draw(apps), draw(times), draw(names)
    expected = draw(st.sampled_from([generation, generation, generation, None, 1]))
    new = lease(address, slot, (expected or 0) + draw(st.sampled_from([1, 1, 1, 2, 0])), app=app, since=at)
    kinds: list[Write] = [
        PutLease(new, expected),
        PutLease(new, expected),
        DropLease(address, expected or 1),
        PutBinding(binding(name, app=app, slot=slot)),
        DropBinding(BindingId(name)),
        PutFlag(name, draw(st.none() | names)),
        PutPool(PoolSpec(PoolName(name), f"10.{slot or 0}.0.0/24", reservations={address: name})),
        DropPool(PoolName(name)),
        PutItem(item(name, app), at),
        RetireItem(name, at),
        Note(at, "bound", name, draw(st.none() | addresses), draw(st.none() | apps), slot),
        Note(at, "idle", name, address, app, slot),
    ]
    return draw(st.sampled_from(kinds))


class StoreMachine(RuleBasedStateMachine):
    """Steps that a daemon, an operator or an accident may take."""

    server: ClassVar[RedisServer | None] = None

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.directory = Path(tempfile.mkdtemp())
        self.model = Model()
        self.bench = self.make_bench()
        self.ever_noted = False

    def make_bench(self) -> Bench:
        raise NotImplementedError

    def run(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    @initialize()
    def start(self) -> None:
        self.epoch = Epoch(1)
        found = self.run(self.bench.store.open())
        assert found == contents(fresh=True, created=True)
        self.run(self.bench.store.begin(self.epoch))

    @rule(data=st.data(), count=st.integers(1, 4))
    def commit(self, data: st.DataObject, count: int) -> None:
        group = [data.draw(st.lists(writes(self.model), min_size=1, max_size=5)) for _ in range(count)]
        expected = [self.expect(commit) for commit in group]
        assert self.run(self.commit_all(group)) == expected

    async def commit_all(self, group: Sequence[Sequence[Write]]) -> list[type]:
        commits = (self.bench.store.commit(commit) for commit in group)
        return [type(result) for result in await asyncio.gather(*commits, return_exceptions=True)]

    def expect(self, commit: Sequence[Write]) -> type:
        trial = self.model.copy()
        if all(trial.carry_out(write, self.epoch) for write in commit):
            self.model = trial
            return type(None)
        return LeaseConflict

    @rule(before=times)
    def prune(self, before: float) -> None:
        assert self.run(self.bench.store.prune(before)) == self.model.prune(before)

    @rule(
        address=st.none() | addresses, app=st.none() | apps, until=st.none() | times, limit=st.integers(1, 9)
    )
    def ask(self, address: str | None, app: AppId | None, until: float | None, limit: int) -> None:
        query = HistoryQuery(address, app, until, limit)
        assert self.run(self.bench.store.history(query)) == self.model.history(query)

    @rule()
    def look_at_the_ledger(self) -> None:
        rows = [self.model.items[key] for key in sorted(self.model.items)]
        assert self.run(self.bench.store.ledger(live_only=False)) == rows
        live = [row for row in rows if row.retired_at is None]
        assert self.run(self.bench.store.ledger()) == live

    @rule(rises=st.integers(1, 3))
    def restart(self, rises: int) -> None:
        found = self.run(self.bench.reopen())
        self.compare(found)
        self.epoch = Epoch(self.epoch + rises)
        self.run(self.bench.store.begin(self.epoch))

    @rule()
    def be_overtaken(self) -> None:
        self.epoch = Epoch(self.epoch + 1)
        self.bench.overtake(self.epoch)
        with pytest.raises(Fenced):
            self.run(self.bench.store.commit([PutFlag("late", "1")]))
        with pytest.raises(Fenced):
            self.run(self.bench.store.prune(100.0))
        self.restart(1)

    @rule()
    def copy(self) -> None:
        self.run(self.copy_and_compare())

    async def copy_and_compare(self) -> None:
        twin = MemoryStore()
        await twin.open()
        await twin.begin(self.epoch)
        async for some in self.bench.store.dump():
            await twin.commit(some)
        assert await twin.history(HistoryQuery(limit=10_000)) == self.model.notes[::-1]
        assert await twin.ledger(live_only=False) == [
            self.model.items[key] for key in sorted(self.model.items)
        ]
        await twin.close()
        self.compare(await twin.open())

    def compare(self, found: Any) -> None:
        model = self.model
        bindings = [model.bindings[key] for key in sorted(model.bindings)]
        pools = [model.pools[key] for key in sorted(model.pools)]
        fresh = found.fresh  # what a store remembers of what was there before is its own affair
        if model.leases or model.bindings or model.notes:
            assert not fresh
        assert found == contents(
            bindings, list(model.leases.values()), model.flags, self.epoch, pools=pools, fresh=fresh
        )

    def teardown(self) -> None:
        if self.bench.store is not None:
            self.run(self.bench.store.close())
        self.loop.close()
        shutil.rmtree(self.directory)


class MemoryMachine(StoreMachine):
    def make_bench(self) -> Bench:
        return in_memory()


class SqliteMachine(StoreMachine):
    numbers: ClassVar[itertools.count[int]] = itertools.count()

    def make_bench(self) -> Bench:
        return in_file(self.directory / "store.db", inline)


class RedisMachine(StoreMachine):
    def make_bench(self) -> Bench:
        assert self.server is not None
        return in_redis(self.server)


def explore(machine: type[StoreMachine], examples: int) -> None:
    machine.TestCase.settings = settings(
        max_examples=examples,
        stateful_step_count=25,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    machine.TestCase("runTest").runTest()


def test_memory_keeps_to_the_model() -> None:
    explore(MemoryMachine, 60)


def test_sqlite_keeps_to_the_model() -> None:
    explore(SqliteMachine, 40)


def test_redis_keeps_to_the_model(redis: RedisServer) -> None:
    RedisMachine.server = redis
    explore(RedisMachine, 40)
