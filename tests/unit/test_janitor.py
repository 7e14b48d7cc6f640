"""Whose seats the janitor gives back, as the view judges, and when."""

from __future__ import annotations

from mooring.controller.events import AppTerminated
from mooring.controller.janitor import Janitor
from mooring.controller.store.memory import MemoryStore
from mooring.core.model import AppId, BindingId, Epoch, HostName, PoolName
from mooring.handlers.records import Records
from mooring.ipam.book import LeaseBook, Request
from mooring.ipam.pools import Pool, Pools
from tests.unit.fake_time import SteppedClock
from tests.unit.view_world import WEB, World, app, many

ZERO, NOW = AppId("/zero"), SteppedClock().now()
BOTH = (app(), app(ZERO))


class Office:
    """A janitor over a view that knows one app with instances and one without, whose seat is idle."""

    def __init__(self, records: Records) -> None:
        self.world = World(*many(12))
        self.world.snap(*many(12), apps=BOTH)
        self.records = records
        self.forgotten: list[AppId] = []
        self.claimed = {WEB, ZERO}
        self.janitor = Janitor(
            records, self.world.view, SteppedClock(), lambda: self.claimed, self.forgotten.append
        )

    async def seats(self) -> list[tuple[AppId | None, str]]:
        """The leases after one more beat: app and state."""
        await self.janitor.tidy()
        return [(lease.app, lease.state.value) for lease in self.records.book.leases()]


async def office() -> Office:
    store = MemoryStore()
    contents = await store.open()
    await store.begin(Epoch(1))
    book = LeaseBook(Pools([Pool.parse("blue", "10.0.0.0/28")]))
    records = Records(store, book, contents)
    planned = book.plan_bind(Request(ZERO, PoolName("blue"), BindingId("zero.1"), HostName("h1")), NOW)
    await records.commit(planned.writes)
    lease = planned.lease
    idle = book.plan_release(lease.address, keep=True, now=NOW, reason="scaled", binding=BindingId("zero.1"))
    await records.commit(idle)
    return Office(records)


async def test_half_a_listing_costs_no_seat_however_often_it_comes() -> None:
    it = await office()
    for _ in range(3):
        it.world.snap(*many(6), after=61)
        assert await it.seats() == [(ZERO, "idle")]
    it.world.snap(*many(12), apps=BOTH)
    assert it.world.view.brake is None
    assert (await it.seats(), it.forgotten) == ([(ZERO, "idle")], [])


async def test_an_app_that_one_listing_lacks_keeps_its_seats_and_after_two_they_cool() -> None:
    it = await office()
    it.world.snap(*many(12))
    assert (await it.seats(), it.forgotten) == ([(ZERO, "idle")], [])
    it.world.snap(*many(12), after=60)
    assert (await it.seats(), it.forgotten) == ([(ZERO, "cooling")], [ZERO])


async def test_the_seats_of_an_app_that_ended_cool_at_once_even_if_it_was_the_last() -> None:
    it = await office()
    it.world.tell(AppTerminated(ZERO), AppTerminated(WEB))
    it.world.empty(after=1)
    for each in many(12):
        it.world.view.forget(each.id)
    assert it.world.view.apps() == []
    assert await it.seats() == [(ZERO, "cooling")]
    assert set(it.forgotten) == {ZERO, WEB}


async def test_what_an_operator_releases_cools() -> None:
    it = await office()
    it.world.empty()
    assert await it.seats() == [(ZERO, "idle")]
    it.world.view.release(it.world.now)
    assert await it.seats() == [(ZERO, "cooling")]


async def test_nothing_is_given_back_before_the_first_listing() -> None:
    it = await office()
    it.world.view.complete = False
    it.claimed.add(AppId("/unknown"))
    assert (await it.seats(), it.forgotten) == ([(ZERO, "idle")], [])
