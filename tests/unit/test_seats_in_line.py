"""Instances that wait for an address: in their order, visibly, and served as soon as there is one."""

from __future__ import annotations

import pytest

from mooring.controller.janitor import Janitor
from mooring.controller.store.memory import MemoryStore
from mooring.core.errors import Retryable
from mooring.core.labels import Claim
from mooring.core.model import (
    App,
    AppId,
    Binding,
    BindingId,
    Epoch,
    HostName,
    Instance,
    InstanceId,
    LeaseState,
    PoolName,
    State,
    TaskId,
)
from mooring.handlers.create import Seats
from mooring.handlers.records import Records
from mooring.ipam.book import LeaseBook
from mooring.ipam.errors import PoolExhausted
from mooring.ipam.lines import AGAIN_S
from mooring.ipam.pools import Pool, Pools
from tests.unit.fake_time import SteppedClock
from tests.unit.view_world import World

POOL, COOL_S = PoolName("blue"), 100.0
WEB, DB = AppId("/web"), AppId("/db")


class Desk:
    """Seats over a pool with two addresses."""

    def __init__(self, records: Records, clock: SteppedClock) -> None:
        self.records, self.clock = records, clock
        self.seats = Seats(records, clock, 10.0)
        self.woken: list[BindingId] = []
        self.janitor = Janitor(records, World().view, clock, set, lambda app: None, self.wake)

    def wake(self) -> None:
        self.woken += self.seats.next_served()

    async def ask(
        self, name: str, app: AppId = WEB, pool: str | None = POOL, pins: tuple[str, ...] = ()
    ) -> str:
        """The address it gets, or why it has to wait."""
        wanted = None if pool is None else PoolName(pool)
        instance = Instance(InstanceId(name), 1, TaskId(name), app, HostName("h1"), State.RUNNING)
        try:
            made = await self.seats.create(instance, App(app, 9, {}), Claim(app, wanted, pinned=pins))
        except Retryable as error:
            self.after_s = error.after_s
            return str(error)
        return made.address or "no pool"

    async def give_back(self, name: str, *, keep: bool = False) -> None:
        binding = self.records.get(BindingId(name))
        assert binding is not None
        assert binding.address is not None
        writes = self.records.book.plan_release(
            binding.address, keep=keep, now=self.clock.now(), reason="gone", binding=binding.id
        )
        await self.records.commit(writes)


@pytest.fixture
async def desk() -> Desk:
    store = MemoryStore()
    contents = await store.open()
    await store.begin(Epoch(1))
    book = LeaseBook(
        Pools([Pool.parse("blue", "10.0.0.0/30"), Pool.parse("red", "10.0.1.0/30")]), cooling_s=COOL_S
    )
    return Desk(Records(store, book, contents), SteppedClock())


async def fill(desk: Desk) -> None:
    assert [await desk.ask(name) for name in ("web.1", "web.2")] == ["10.0.0.1", "10.0.0.2"]


async def test_who_waits_is_told_of_what_and_until_when(desk: Desk) -> None:
    await fill(desk)
    assert await desk.ask("db.1", DB) == "pool blue has no address left for /db (2 in all)"
    assert desk.after_s == AGAIN_S
    assert desk.seats.is_waiting(BindingId("db.1"))
    assert desk.seats.in_line() == {POOL: 1}
    await desk.give_back("web.1")
    desk.clock.step(COOL_S - 5)
    assert "the next has cooled at 2" in await desk.ask("db.1", DB)
    assert desk.after_s == pytest.approx(5.0)
    assert (await desk.ask("db.2", DB)).startswith("pool blue has no address left")
    assert desk.after_s == AGAIN_S  # it is not its turn then


async def test_later_ones_and_newcomers_are_not_served_before_the_first(desk: Desk) -> None:
    await fill(desk)
    for name in ("a", "b"):
        await desk.ask(name, AppId(f"/{name}"))
    await desk.give_back("web.1")
    for turn in range(int(COOL_S / AGAIN_S)):
        desk.clock.step(AGAIN_S)
        for name in ("b", "new"):
            assert "no address left" in await desk.ask(name, AppId(f"/{name}"))
        if turn < 4:
            await desk.ask("a", AppId("/a"))
    assert await desk.ask("a", AppId("/a")) == "10.0.0.1"
    assert desk.seats.in_line() == {POOL: 2}
    await desk.give_back("web.2")
    desk.clock.step(COOL_S - AGAIN_S)
    for name in ("b", "new"):
        await desk.ask(name, AppId(f"/{name}"))
    desk.clock.step(AGAIN_S)
    assert "no address left" in await desk.ask("new", AppId("/new"))
    assert await desk.ask("b", AppId("/b")) == "10.0.0.2"


async def test_the_janitor_wakes_as_many_as_can_be_served_in_their_order(desk: Desk) -> None:
    await fill(desk)
    for name in ("a", "b", "c"):
        await desk.ask(name, AppId(f"/{name}"))
    for name in ("web.1", "web.2"):
        await desk.give_back(name)
    await desk.janitor.tidy()
    assert desk.woken == []
    for turn in range(5):
        desk.clock.step(AGAIN_S)
        for name in ("a", "b", "c"):
            if turn < 4:
                await desk.ask(name, AppId(f"/{name}"))
    await desk.janitor.tidy()
    assert desk.woken == ["a", "b"]
    assert [await desk.ask(key, AppId(f"/{key}")) for key in ("b", "a")] == ["10.0.0.1", "10.0.0.2"]
    desk.woken.clear()
    await desk.janitor.tidy()
    assert desk.woken == []


async def test_a_seat_of_its_own_app_is_taken_out_of_turn(desk: Desk) -> None:
    await fill(desk)
    await desk.ask("db.1", DB)
    await desk.ask("web.3")
    await desk.give_back("web.1", keep=True)
    assert desk.seats.waiting(WEB) == ["web.3"]
    assert await desk.ask("web.3") == "10.0.0.1"
    assert desk.seats.in_line() == {POOL: 1}


async def test_pinned_addresses_are_waited_for_outside_the_line(desk: Desk) -> None:
    await fill(desk)
    assert "every pinned address" in await desk.ask("pin", pins=("10.0.0.2",))
    assert desk.seats.is_waiting(BindingId("pin"))
    await desk.ask("db.1", DB)
    await desk.give_back("web.1")
    for turn in range(5):
        desk.clock.step(AGAIN_S)
        assert "no address left" in await desk.ask("db.1", DB) or turn == 4
        await desk.ask("pin", pins=("10.0.0.2",))
    assert desk.records.get(BindingId("db.1")) is not None
    await desk.give_back("web.2")
    desk.clock.step(COOL_S)
    assert await desk.ask("pin", pins=("10.0.0.2",)) == "10.0.0.2"


async def test_who_no_longer_needs_an_address_leaves_the_line(desk: Desk) -> None:
    await fill(desk)
    for name in ("gone", "other pool", "no pool", "last"):
        await desk.ask(name, AppId("/x"))
    desk.seats.forget(BindingId("gone"))
    assert await desk.ask("other pool", AppId("/x"), "red") == "10.0.1.1"
    assert await desk.ask("no pool", AppId("/x"), None) == "no pool"
    assert desk.seats.in_line() == {POOL: 1}
    await desk.give_back("web.1")
    desk.clock.step(COOL_S)
    assert await desk.ask("last", AppId("/x")) == "10.0.0.1"


async def test_a_binding_that_lost_its_seat_stands_in_line_as_well(desk: Desk) -> None:
    await fill(desk)
    binding = Binding(BindingId("left"), WEB, InstanceId("left"), 1, TaskId("left"), HostName("h2"))
    with pytest.raises(PoolExhausted):
        await desk.seats.seat(binding, App(WEB, 9, {}), Claim(WEB, POOL))
    assert desk.seats.waiting(WEB) == ["left"]
    lease = desk.records.book.by_address("10.0.0.1")
    assert lease is not None
    assert lease.state is LeaseState.BOUND
