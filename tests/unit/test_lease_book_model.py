"""The lease book at random, against a plain model, with every step written through a real SQLite file.

The model keeps two things: what a straightforward reading of the rules says about each address, and a
small *world* with the ports that really stand on hosts.  The machine plays the daemon: it releases a
lease only after the port is gone from the world, it strands what it cannot reach, and it may lose its
memory.  After every step no address is in two hands, seats are unique, generations have risen, and the
book, the store and the model agree.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mooring.controller.store.runners import inline
from mooring.controller.store.sqlite import SqliteStore
from mooring.core.errors import LeaseConflict
from mooring.core.model import AppId, BindingId, Epoch, HostName, Lease, LeaseState, PoolName
from mooring.core.store import Note, PutBinding, PutFlag, Write
from mooring.ipam.book import LeaseBook, Request
from mooring.ipam.errors import PoolExhausted
from mooring.ipam.pools import Pool, Pools
from tests.contract.store_samples import binding as sample_binding

T = TypeVar("T")
POOL = PoolName("shop")
FREE = [f"10.20.0.{last}" for last in (2, 3, 5, 6)]  # .1 is the gateway, .4 reserved
IDLE_S, COOL_S = 500.0, 100.0

apps = st.sampled_from([AppId("/shop/web"), AppId("/shop/db")])
hosts = st.sampled_from([HostName("agent-1"), HostName("agent-2")])
numbers = st.integers(0, 5)
picks = st.integers(0, 99)


@dataclass
class Held:
    """What the model thinks about an address that is not free."""

    state: str
    app: AppId | None
    slot: int | None = None
    binding: BindingId | None = None
    host: HostName | None = None
    until: float | None = None


class BookMachine(RuleBasedStateMachine):
    """The daemon's side of the book, at random."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.directory = tempfile.TemporaryDirectory()
        self.pools = Pools(
            [Pool.parse(POOL, "10.20.0.0/29", gateway="10.20.0.1", reservations={"10.20.0.4": "printer"})]
        )
        self.now = 1000.0
        self.held: dict[str, Held] = {}
        self.world: dict[str, tuple[BindingId, HostName]] = {}  # ports that stand on hosts
        self.cooled_from: dict[str, float] = {}
        self.generations: dict[str, int] = {}
        self.epoch = Epoch(0)
        self.store: SqliteStore
        self.book: LeaseBook
        self.restart()

    def wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(coroutine)

    def done(self, writes: list[Write]) -> None:
        """Commit, accept, and follow the generations."""
        self.wait(self.store.commit(writes))
        self.book.accept(writes)
        for lease in self.book.leases():
            before = self.generations.get(lease.address, 0)
            changed = any(isinstance(write, Note) and write.address == lease.address for write in writes)
            assert lease.generation > before if changed else lease.generation == before
            self.generations[lease.address] = lease.generation

    def one(self, pick: int, *states: str) -> str:
        """One of the addresses in these states."""
        addresses = sorted(address for address, held in self.held.items() if held.state in states)
        return addresses[pick % len(addresses)]

    def any_in(self, *states: str) -> bool:
        return any(held.state in states for held in self.held.values())

    def expected(self, app: AppId, binding: BindingId, host: HostName) -> tuple[str, int] | None:
        """Address and slot by a plain reading of the rules; None if there is nothing to give."""
        mine = {address: held for address, held in self.held.items() if held.binding == binding}
        for state, where in (("bound", None), ("stranded", host)):
            for address, held in mine.items():
                if held.state == state and where in (None, held.host):
                    return address, held.slot or 0
        seats = {held.slot: address for address, held in self.held.items() if held.app == app}
        idle = [
            (held.slot or 0, address)
            for address, held in self.held.items()
            if held.state == "idle" and held.app == app
        ]
        if idle:
            slot, address = min(idle)
            return address, slot
        slot = min(set(range(len(seats) + 1)) - set(seats))
        cooled = [
            (held.until or 0.0, address)
            for address, held in self.held.items()
            if held.state == "cooling" and (held.until or 0.0) <= self.now
        ]
        unleased = [address for address in FREE if address not in self.held]
        if unleased:
            return unleased[0], slot
        return (min(cooled)[1], slot) if cooled else None

    @rule(app=apps, number=numbers, host=hosts)
    def bind(self, app: AppId, number: int, host: HostName) -> None:
        binding = BindingId(f"{app[6:]}.{number}")
        request = Request(app, POOL, binding, host)
        expected = self.expected(app, binding, host)
        if expected is None:
            with pytest.raises(PoolExhausted) as caught:
                self.book.plan_bind(request, self.now)
            cooling = [held.until or 0.0 for held in self.held.values() if held.state == "cooling"]
            assert caught.value.after_s == (min(cooling) - self.now if cooling else None)
            return
        lease, writes = self.book.plan_bind(request, self.now)
        assert (lease.address, lease.slot) == expected
        self.attach(lease, binding, host)
        record = sample_binding(binding, app=app, host=host, slot=lease.slot, address=lease.address)
        self.done([*writes, PutBinding(record)] if writes else [])

    def attach(self, lease: Lease, binding: BindingId, host: HostName) -> None:
        """Put the port into the world, which must have no other hand on the address by now."""
        before = self.held.get(lease.address)
        if before is not None and before.state == "bound" and before.binding == binding:
            self.world.pop(lease.address)  # the daemon has detached it from the earlier host first
        assert self.world.get(lease.address, (binding, host)) == (binding, host), "two hands"
        same_seat = before is not None and before.state in ("bound", "idle", "stranded")
        assert same_seat or self.cooled_from.get(lease.address, -COOL_S) + COOL_S <= self.now, "still warm"
        assert not same_seat or (before is not None and (before.app, before.slot) == (lease.app, lease.slot))
        self.world[lease.address] = (binding, host)
        self.held[lease.address] = Held("bound", lease.app, lease.slot, binding, host)

    def cool(self, address: str) -> None:
        self.held[address] = Held("cooling", self.held[address].app, until=self.now + COOL_S)
        self.cooled_from[address] = self.now

    @precondition(lambda self: self.any_in("bound", "stranded", "idle", "conflicted"))
    @rule(pick=picks, keep=st.booleans())
    def release(self, pick: int, keep: bool) -> None:
        address = self.one(pick, "bound", "stranded", "idle", "conflicted")
        held = self.held[address]
        self.world.pop(address, None)  # the host has confirmed it
        self.done(self.book.plan_release(address, keep=keep, now=self.now, reason="gone"))
        if not keep or held.slot is None:
            self.cool(address)
        elif held.state != "idle":
            self.held[address] = Held("idle", held.app, held.slot, until=self.now + IDLE_S)

    @precondition(lambda self: self.any_in("bound"))
    @rule(pick=picks, renamed=st.booleans())
    def strand(self, pick: int, renamed: bool) -> None:
        address = self.one(pick, "bound")
        held = self.held[address]
        left = BindingId(f"{held.binding}~{len(self.generations)}") if renamed else None
        self.done(self.book.plan_strand(address, self.now, "silent", left))
        held.state, held.binding = "stranded", left or held.binding
        if left is not None and held.host is not None:
            self.world[address] = (left, held.host)

    @precondition(lambda self: self.any_in("stranded"))
    @rule(pick=picks)
    def come_back(self, pick: int) -> None:
        address = self.one(pick, "stranded")
        held = self.held[address]
        assert held.binding is not None
        if any(other.state == "bound" and other.binding == held.binding for other in self.held.values()):
            return  # it was replaced meanwhile: the daemon releases it instead
        self.done(self.book.plan_unstrand(address, self.now, "back"))
        held.state = "bound"

    @precondition(lambda self: self.any_in("bound", "idle"))
    @rule(pick=picks)
    def stranger(self, pick: int) -> None:
        address = self.one(pick, "bound", "idle")
        self.world.pop(address, None)
        self.done(self.book.plan_conflict(address, self.now, "answers"))
        self.held[address] = Held("conflicted", self.held[address].app)

    @rule(app=apps)
    def delete_app(self, app: AppId) -> None:
        self.done(self.book.plan_retire_app(app, self.now))
        for address, held in self.held.items():
            if held.app == app and held.state == "idle":
                self.cool(address)

    @rule(seconds=st.sampled_from([1.0, COOL_S / 2, COOL_S, IDLE_S]), sweep=st.booleans())
    def time_passes(self, seconds: float, sweep: bool) -> None:
        self.now += seconds
        if not sweep:
            return
        self.done(self.book.plan_expire(self.now))
        for address, held in list(self.held.items()):
            if held.until is not None and held.until <= self.now:
                if held.state == "idle":
                    self.cool(address)
                else:
                    del self.held[address]

    @rule(app=apps, host=hosts)
    def two_plans_at_once(self, app: AppId, host: HostName) -> None:
        """What the lock around plan and accept prevents; the store must prevent it too."""
        requests = [Request(app, POOL, BindingId(f"racer.{n}"), host) for n in range(2)]
        try:
            plans = [self.book.plan_bind(request, self.now) for request in requests]
        except PoolExhausted:
            return
        first, second = plans
        assert first.lease.address == second.lease.address
        self.attach(first.lease, requests[0].binding, host)
        self.done(first.writes)
        with pytest.raises(LeaseConflict):
            self.wait(self.store.commit([PutFlag("torn", "1"), *second.writes]))
        self.release_racer(first.lease.address)

    def release_racer(self, address: str) -> None:
        self.world.pop(address)
        self.done(self.book.plan_release(address, keep=False, now=self.now, reason="race over"))
        self.cool(address)

    @rule()
    def restart(self) -> None:
        """Lose the memory, keep the file."""
        if self.epoch:
            self.wait(self.store.close())
        self.store = SqliteStore(Path(self.directory.name) / "store.db", inline)
        contents = self.wait(self.store.open())
        if self.epoch:
            assert sorted(contents.leases, key=lambda lease: lease.address) == self.book.leases()
            assert contents.flags == {}
        self.epoch = Epoch(contents.epoch + 1)
        self.wait(self.store.begin(self.epoch))
        self.book = LeaseBook(self.pools, contents.leases, idle_ttl_s=IDLE_S, cooling_s=COOL_S)
        # From here a free address begins anew; a higher epoch tells its marks apart.
        self.generations = {lease.address: lease.generation for lease in contents.leases}

    @invariant()
    def book_and_model_agree(self) -> None:
        found = {
            lease.address: Held(
                str(lease.state), lease.app, lease.slot, lease.binding, _where(lease), lease.until
            )
            for lease in self.book.leases()
        }
        assert found == self.held
        usage = self.book.usage(POOL)
        assert usage.free == len(set(FREE) - set(found))
        assert sum(usage.leases.values()) == len(found)

    @invariant()
    def no_seat_is_taken_twice(self) -> None:
        seats = [(held.app, held.slot) for held in self.held.values() if held.slot is not None]
        assert len(seats) == len(set(seats))

    @invariant()
    def every_port_has_its_lease(self) -> None:
        held = {
            address: (lease.binding, lease.host)
            for address, lease in self.held.items()
            if lease.state in ("bound", "stranded")
        }
        assert held == self.world
        assert set(self.held) <= set(FREE)

    def teardown(self) -> None:
        self.restart()
        self.wait(self.store.close())
        self.loop.close()
        self.directory.cleanup()


def _where(lease: Lease) -> HostName | None:
    """The book remembers the last host of an empty seat; the model does not care."""
    return lease.host if lease.state in (LeaseState.BOUND, LeaseState.STRANDED) else None


BookMachine.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    phases=[phase for phase in Phase if phase is not Phase.explain],  # its tracer takes minutes here
    suppress_health_check=[HealthCheck.too_slow],
)
TestBookAgainstModel = BookMachine.TestCase
