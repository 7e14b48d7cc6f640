"""What the history is told of every step, and what a lease says of itself afterwards."""

from __future__ import annotations

from mooring.core.model import AppId, BindingId, HostName, Lease, LeaseState, PoolName
from mooring.core.store import Note, Write
from mooring.ipam.book import LeaseBook, Request
from mooring.ipam.pools import Pool, Pools

WEB, SHOP = AppId("/shop/web"), PoolName("shop")
A1, A2 = HostName("agent-1"), HostName("agent-2")
IDLE_S, COOL_S = 1000.0, 100.0
FIRST = "10.20.0.1"


def new_book(leases: tuple[Lease, ...] = ()) -> LeaseBook:
    pools = Pools([Pool.parse("shop", "10.20.0.0/29", vlan=7)])
    return LeaseBook(pools, leases, idle_ttl_s=IDLE_S, cooling_s=COOL_S)


def request(binding: str = "web.1", host: HostName = A1) -> Request:
    return Request(WEB, SHOP, BindingId(binding), host)


def told(book: LeaseBook, writes: list[Write]) -> list[tuple[object, ...]]:
    """Accept them; of each note: when, what, why, at which host and of which generation."""
    book.accept(writes)
    notes = [write for write in writes if isinstance(write, Note)]
    return [(note.at, note.event, note.reason, note.host, note.generation) for note in notes]


def times(book: LeaseBook) -> tuple[float, float | None]:
    lease = book.by_address(FIRST)
    assert lease is not None
    return lease.since, lease.until


def test_a_life_step_by_step() -> None:
    book = new_book()
    assert told(book, book.plan_bind(request(), 1.0).writes) == [(1.0, "bound", "new slot 0", A1, 1)]
    assert times(book) == (1.0, None)
    moved = book.plan_move(FIRST, A2, 2.0, "relaunched")
    assert told(book, moved.writes) == [(2.0, "moved", "relaunched", A2, 2)]
    assert book.plan_move(FIRST, A2, 3.0, "again") == (moved.lease, [])
    assert told(book, book.plan_bind(request(), 4.0).writes) == [
        (4.0, "moved", "the same binding again", A1, 3)
    ]
    assert told(book, book.plan_strand(FIRST, 5.0, "silent")) == [(5.0, "stranded", "silent", A1, 4)]
    assert times(book) == (5.0, None)
    assert told(book, book.plan_unstrand(FIRST, 6.0, "back")) == [(6.0, "bound", "back", A1, 5)]
    gone = book.plan_release(FIRST, keep=True, now=7.0, reason="gone")
    assert told(book, gone) == [(7.0, "idle", "gone", A1, 6)]
    assert times(book) == (7.0, 7.0 + IDLE_S)
    assert told(book, book.plan_bind(request("web.2", A2), 8.0).writes) == [
        (8.0, "bound", "idle slot 0", A2, 7)
    ]
    assert times(book) == (8.0, None)
    told(book, book.plan_release(FIRST, keep=True, now=9.0, reason="gone"))
    assert told(book, book.plan_conflict(FIRST, 10.0, "02:00 answers")) == [
        (10.0, "conflicted", "02:00 answers", A2, 9)
    ]
    assert times(book) == (10.0, None)
    assert told(book, book.plan_release_conflict(FIRST, 11.0, "by hand")) == [
        (11.0, "cooling", "by hand", A2, 10)
    ]
    assert told(book, book.plan_reserve(FIRST, "mine", 12.0)) == [(12.0, "reserved", "mine", A2, 11)]
    assert times(book) == (12.0, None)
    told(book, book.plan_unreserve(FIRST, 13.0))
    assert told(book, book.plan_expire(13.0 + COOL_S)) == [
        (13.0 + COOL_S, "free", "cooled long enough", None, 12)
    ]


def test_everything_that_is_due_at_once_is_told() -> None:
    book = new_book()
    for number in range(4):
        book.accept(book.plan_bind(request(f"web.{number}"), 1.0).writes)
    for number in range(4):
        book.accept(book.plan_release(f"10.20.0.{number + 1}", keep=number < 2, now=1.0, reason="x"))
    due = told(book, book.plan_expire(1.0 + IDLE_S))
    assert due == [
        *[(1.0 + IDLE_S, "cooling", "nobody took the seat in time", A1, 3)] * 2,
        *[(1.0 + IDLE_S, "free", "cooled long enough", A1, 2)] * 2,
    ]
    assert book.usage(SHOP).pool == SHOP
    assert book.usage(SHOP).leases == {"cooling": 2}


def test_an_app_that_was_deleted_is_the_reason() -> None:
    book = new_book()
    book.accept(book.plan_bind(request(), 1.0).writes)
    book.accept(book.plan_release(FIRST, keep=True, now=2.0, reason="x"))
    assert told(book, book.plan_retire_app(WEB, 3.0)) == [(3.0, "cooling", "the app was deleted", A1, 3)]


def test_what_was_found_on_a_host_is_the_reason() -> None:
    book = new_book()
    adopted = book.plan_adopt(FIRST, request(), 0, 9, 2.0)
    assert told(book, adopted.writes) == [(2.0, "adopted", "found on its host", A1, 9)]
    assert adopted.lease.since == 2.0
    again = book.plan_adopt(FIRST, request(host=A2), 0, 9, 3.0)
    assert told(book, again.writes) == [(3.0, "moved", "found on its host", A2, 10)]


def test_an_unproven_address_cools_for_its_full_time() -> None:
    book = new_book()
    book.accept(book.plan_bind(request(), 1.0).writes)
    book.accept(book.plan_release(FIRST, keep=False, now=1.0, reason="x"))
    book.accept(book.plan_expire(1.0 + COOL_S))
    assert told(book, book.plan_quarantine(FIRST, 500.0, "not proven free")) == [
        (500.0, "cooling", "not proven free", None, 3)
    ]
    lease = book.by_address(FIRST)
    assert lease == Lease(FIRST, SHOP, LeaseState.COOLING, None, None, None, None, 3, 500.0, 500.0 + COOL_S)
    assert book.plan_quarantine(FIRST, 510.0, "again") == []
    restarted = book.plan_quarantine(FIRST, 510.0, "used meanwhile", again=True)
    assert told(book, restarted) == [(510.0, "cooling", "used meanwhile", None, 4)]
    assert times(book) == (510.0, 510.0 + COOL_S)


def test_a_seat_in_two_pools_stays_taken_until_both_addresses_are_given_back() -> None:
    """A store lets a seat have an address in each pool; the book must not mix them up."""
    twice = tuple(
        Lease(address, pool, LeaseState.BOUND, WEB, 0, BindingId("web.1"), A1, 1, 1.0)
        for address, pool in ((FIRST, SHOP), ("10.20.0.2", SHOP), ("10.99.0.1", PoolName("gone")))
    )
    book = new_book(twice)
    assert len(book.held_by(WEB, BindingId("web.1"))) == 3
    for lease in reversed(twice):
        assert book.plan_bind(request("web.2"), 1.0).lease.slot == 1
        book.accept(book.plan_release(lease.address, keep=False, now=1.0, reason="x"))
    assert book.plan_bind(request("web.2"), 1.0).lease.slot == 0
    assert book.holders(WEB) == ()
