"""The lease book at random, against a plain model, with every step written through a store.

The model keeps two things: what a straightforward reading of the rules says about each address, and a
small *world* with the ports that really stand on hosts.  The machine plays the daemon: it releases a
lease only after the port is gone from the world, it strands what it cannot reach, and it may lose its
memory.  It plays the operator as well: a pool of IPv6 comes, changes its size and goes, addresses are
reserved and given back by hand.  After every step no address is in two hands, seats are unique, generations
have risen, and the book, the store and the model agree.

Here the store is in memory; `tests/contract/test_lease_book_on_sqlite.py` runs the same machine on a file.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mooring.controller.store.memory import MemoryStore
from mooring.core.errors import LeaseConflict
from mooring.core.model import (
    AppId,
    Binding,
    BindingId,
    Epoch,
    HostName,
    InstanceId,
    Lease,
    LeaseState,
    PoolName,
    PoolSpec,
    TaskId,
)
from mooring.core.store import Note, PutBinding, PutFlag, Store, Write
from mooring.ipam.book import LeaseBook, Request
from mooring.ipam.errors import AddressTaken, PoolClash, PoolExhausted, PoolInUse, PoolUnknown
from mooring.ipam.pools import Pool, Pools

T = TypeVar("T")
POOL = PoolName("shop")
FREE = [f"10.20.0.{last}" for last in (2, 3, 5, 6)]  # .1 is the gateway, .4 reserved
SIX = PoolName("six")
SIXES = {"fd00::/126": ["fd00::1", "fd00::2", "fd00::3"], "fd00::/125": [f"fd00::{n}" for n in range(1, 8)]}
IDLE_S, COOL_S = 500.0, 100.0

apps = st.sampled_from([AppId("/shop/web"), AppId("/shop/db")])
hosts = st.sampled_from([HostName("agent-1"), HostName("agent-2")])
numbers = st.integers(0, 5)
picks = st.integers(0, 99)
either = st.sampled_from([POOL, SIX])
sixes = st.sampled_from(sorted(SIXES))


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
        self.pools = Pools(
            [Pool.parse(POOL, "10.20.0.0/29", gateway="10.20.0.1", reservations={"10.20.0.4": "printer"})]
        )
        self.now = 1000.0
        self.held: dict[str, Held] = {}
        self.world: dict[str, tuple[BindingId, HostName]] = {}  # ports that stand on hosts
        self.cooled_from: dict[str, float] = {}
        self.generations: dict[str, int] = {}
        self.epoch = Epoch(0)
        self.six: str | None = None  # the network of the pool that comes and goes
        self.store: Store = self.first_store()
        self.book: LeaseBook
        self.restart()

    def first_store(self) -> Store:
        return MemoryStore()

    def same_store_again(self) -> Store:
        """What the next daemon opens after this one's end."""
        return self.store

    def assignable(self, pool: PoolName) -> list[str]:
        return FREE if pool == POOL else SIXES.get(self.six or "", [])

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

    def own(self, binding: BindingId, host: HostName) -> tuple[str, int] | None:
        mine = {address: held for address, held in self.held.items() if held.binding == binding}
        for state, where in (("bound", None), ("stranded", host)):
            for address, held in mine.items():
                if held.state == state and where in (None, held.host):
                    return address, held.slot or 0
        return None

    def ends(self, pool: PoolName, *, cooled: bool) -> list[tuple[float, str]]:
        """When addresses of the pool that could be given out have cooled, of those that have or have not."""
        cooling = [
            (self.held[address].until or 0.0, address)
            for address in self.assignable(pool)
            if address in self.held and self.held[address].state == "cooling"
        ]
        return sorted(end for end in cooling if (end[0] <= self.now) == cooled)

    def expected(self, app: AppId, pool: PoolName, ahead: int) -> tuple[str, int] | None:
        """Address and slot of a new seat by a plain reading of the rules; None: nothing to give."""
        idle = [
            (held.slot or 0, address)
            for address, held in self.held.items()
            if held.state == "idle" and held.app == app and address in self.assignable(pool)
        ]
        if idle:
            slot, address = min(idle)
            return address, slot
        slots = {held.slot for held in self.held.values() if held.app == app}
        slot = min(set(range(len(slots) + 1)) - slots)
        unleased = [address for address in self.assignable(pool) if address not in self.held]
        cooled = [address for _, address in self.ends(pool, cooled=True)]
        given = (unleased + cooled)[:1]
        return (given[0], slot) if len(unleased + cooled) > ahead else None

    @rule(app=apps, number=numbers, host=hosts, pool=either, ahead=st.integers(0, 2))
    def bind(self, app: AppId, number: int, host: HostName, pool: PoolName, ahead: int) -> None:
        binding = BindingId(f"{app[6:]}.{number}")
        request = Request(app, pool, binding, host)
        own = self.own(binding, host)
        if own is None and pool == SIX and self.six is None:
            with pytest.raises(PoolUnknown):
                self.book.plan_bind(request, self.now)
            return
        expected = own or self.expected(app, pool, ahead)
        if expected is None:
            with pytest.raises(PoolExhausted) as caught:
                self.book.plan_bind(request, self.now, ahead)
            warm = self.ends(pool, cooled=False)
            assert caught.value.after_s == (warm[0][0] - self.now if warm else None)
            return
        lease, writes = self.book.plan_bind(request, self.now, ahead)
        assert (lease.address, lease.slot) == expected
        self.attach(lease, binding, host)
        instance, task = InstanceId(binding), TaskId(binding)
        record = Binding(binding, app, instance, 1, task, host, slot=lease.slot, address=lease.address)
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

    @rule(network=sixes)
    def pool_comes_or_changes(self, network: str) -> None:
        spec = PoolSpec(SIX, network)
        if self.six is None:
            self.done(self.book.plan_pool_add(spec, self.now))
        elif any(address not in SIXES[network] for address in self.placed_in_six()):
            with pytest.raises(PoolInUse):
                self.book.plan_pool_resize(SIX, network, self.now)
            return
        else:
            with pytest.raises(PoolClash):
                self.book.plan_pool_add(spec, self.now)
            self.done(self.book.plan_pool_resize(SIX, network, self.now))
        self.six = network

    @precondition(lambda self: self.six is not None)
    @rule()
    def pool_goes(self) -> None:
        if self.placed_in_six():
            with pytest.raises(PoolInUse):
                self.book.plan_pool_remove(SIX, self.now)
            return
        self.done(self.book.plan_pool_remove(SIX, self.now))
        self.six = None

    def placed_in_six(self) -> list[str]:
        """Addresses of that pool that need their place."""
        return [address for address, held in self.held.items() if ":" in address and held.state != "cooling"]

    @rule(pool=either, pick=picks)
    def reserve(self, pool: PoolName, pick: int) -> None:
        choice = self.assignable(pool)
        if not choice:
            return
        address = choice[pick % len(choice)]
        held = self.held.get(address)
        if held is None or held.state in ("cooling", "reserved"):
            self.done(self.book.plan_reserve(address, "mine", self.now))
            self.held[address] = Held("reserved", None)
            return
        with pytest.raises(AddressTaken):
            self.book.plan_reserve(address, "mine", self.now)

    @precondition(lambda self: self.any_in("reserved"))
    @rule(pick=picks)
    def unreserve(self, pick: int) -> None:
        address = self.one(pick, "reserved")
        self.done(self.book.plan_unreserve(address, self.now))
        self.cool(address)

    @precondition(lambda self: self.any_in("idle", "conflicted"))
    @rule(pick=picks)
    def release_by_hand(self, pick: int) -> None:
        address = self.one(pick, "idle", "conflicted")
        self.done(self.book.plan_release_conflict(address, self.now, "by hand"))
        self.cool(address)

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
            self.store = self.same_store_again()
        contents = self.wait(self.store.open())
        if self.epoch:
            assert {lease.address: lease for lease in contents.leases} == {
                lease.address: lease for lease in self.book.leases()
            }
            assert [pool.network for pool in contents.pools] == ([self.six] if self.six else [])
            assert contents.flags == {}
        self.epoch = Epoch(contents.epoch + 1)
        self.wait(self.store.begin(self.epoch))
        self.book = LeaseBook(
            self.pools, contents.leases, contents.pools, idle_ttl_s=IDLE_S, cooling_s=COOL_S
        )
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

    @invariant()
    def counters_are_what_a_recount_finds(self) -> None:
        for pool in self.book.pools:
            usage, assignable = self.book.usage(pool.name), self.assignable(pool.name)
            inside = [address for address in self.held if (":" in address) == (pool.name == SIX)]
            inside = [address for address in inside if pool.name == POOL or address in SIXES[self.six or ""]]
            assert (usage.size, usage.free) == (len(assignable), len(set(assignable) - set(self.held)))
            assert usage.leases == Counter(self.held[address].state for address in inside)
            available = usage.free + len(self.ends(pool.name, cooled=True))
            assert self.book.available(pool.name, self.now) == available
        idle = {held.app for held in self.held.values() if held.state == "idle"}
        assert self.book.idle_apps() == idle
        seated = {held.app for held in self.held.values() if held.state in ("bound", "stranded", "idle")}
        assert self.book.apps() == seated

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
        assert set(self.held) <= {*FREE, *SIXES["fd00::/125"]}

    def teardown(self) -> None:
        self.restart()
        self.wait(self.store.close())
        self.loop.close()


def _where(lease: Lease) -> HostName | None:
    """The book remembers the last host of an empty seat; the model does not care."""
    return lease.host if lease.state in (LeaseState.BOUND, LeaseState.STRANDED) else None


MACHINE_SETTINGS = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    phases=[phase for phase in Phase if phase is not Phase.explain],  # its tracer takes minutes here
    suppress_health_check=[HealthCheck.too_slow],
)
BookMachine.TestCase.settings = MACHINE_SETTINGS
TestBookAgainstModel = BookMachine.TestCase
