"""What an operator may change: pools at run time, reservations, addresses that are given back."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mooring.core.errors import ConfigRefused, Refused
from mooring.core.model import AppId, BindingId, HostName, Lease, LeaseState, PoolName, PoolSpec
from mooring.core.store import DropPool, Note, PutPool, Write
from mooring.ipam.book import LeaseBook, Request
from mooring.ipam.errors import (
    AddressRefused,
    AddressTaken,
    LeaseMismatch,
    PoolClash,
    PoolExhausted,
    PoolInUse,
    PoolUnknown,
)
from mooring.ipam.estate import homeless_lines
from mooring.ipam.pools import Pool, Pools

WEB, HOST = AppId("/shop/web"), HostName("agent-1")
FIXED, MADE = PoolName("fixed"), PoolName("made")
COOL_S, NOW = 100.0, 5000.0
CONFIGURED = Pools(
    [Pool.parse("fixed", "10.20.0.0/28", gateway="10.20.0.1", vlan=5, reservations={"10.20.0.2": "printer"})]
)
SPEC = PoolSpec(MADE, "10.30.0.0/29", vlan=7)


def done(book: LeaseBook, writes: list[Write]) -> list[str]:
    book.accept(writes)
    return [write.event for write in writes if isinstance(write, Note)]


def bind(book: LeaseBook, number: int, pool: PoolName = MADE) -> Lease:
    lease, writes = book.plan_bind(Request(WEB, pool, BindingId(f"web.{number}"), HOST), NOW)
    book.accept(writes)
    return lease


@pytest.fixture
def book() -> LeaseBook:
    """With a pool of the configuration and one that was made."""
    book = LeaseBook(CONFIGURED, cooling_s=COOL_S)
    book.accept(book.plan_pool_add(SPEC, NOW))
    return book


def test_a_pool_that_is_added_gives_out_addresses_and_is_stored_in_canonical_form() -> None:
    book = LeaseBook(CONFIGURED)
    writes = book.plan_pool_add(
        PoolSpec(PoolName("six"), "FD00:0::/64", "FD00::1", groups=("/shop/",)), NOW, "why"
    )
    assert writes == [
        PutPool(PoolSpec(PoolName("six"), "fd00::/64", "fd00::1", groups=("/shop",))),
        Note(NOW, "pool added", "fd00::/64: why", pool=PoolName("six")),
    ]
    assert "six" not in book.pools
    book.accept(writes)
    assert bind(book, 1, PoolName("six")).address == "fd00::2"
    assert (book.is_configured(FIXED), book.is_configured(PoolName("six"))) == (True, False)


@pytest.mark.parametrize(
    ("spec", "error", "text"),
    [
        (PoolSpec(FIXED, "10.40.0.0/24"), PoolClash, "pool fixed exists (10.20.0.0/28)"),
        (PoolSpec(MADE, "10.40.0.0/24"), PoolClash, "pool made exists"),
        (PoolSpec(PoolName("x"), "10.20.0.8/29"), PoolClash, "10.20.0.8/29 shares addresses with pool fixed"),
        (PoolSpec(PoolName("x"), "10.0.0.0/8"), ConfigRefused, "pool x: network 10.0.0.0/8 must be from /12"),
        (PoolSpec(PoolName("x"), "10.40.0.0/24", "10.50.0.1"), ConfigRefused, "gateway 10.50.0.1 is outside"),
    ],
)
def test_a_pool_that_clashes_is_refused(
    book: LeaseBook, spec: PoolSpec, error: type[Refused], text: str
) -> None:
    with pytest.raises(error) as caught:
        book.plan_pool_add(spec, NOW)
    assert text in str(caught.value)


def test_a_pool_grows_with_its_leases(book: LeaseBook) -> None:
    leases = [bind(book, number) for number in range(6)]
    with pytest.raises(PoolExhausted):
        bind(book, 6)
    assert done(book, book.plan_pool_resize(MADE, "10.30.0.0/28", NOW)) == ["pool resized"]
    assert book.leases() == leases
    assert bind(book, 6).address == "10.30.0.7"  # it was the broadcast address
    usage = book.usage(MADE)
    assert (usage.size, usage.free, usage.leases) == (14, 7, {"bound": 7})
    assert book.plan_pool_resize(MADE, "10.30.0.0/28", NOW) == []


def test_what_was_known_of_free_addresses_survives_a_change_of_pools(book: LeaseBook) -> None:
    lease = bind(book, 1)
    done(book, book.plan_release(lease.address, keep=False, now=NOW, reason="x"))
    done(book, book.plan_expire(NOW + COOL_S))
    done(book, book.plan_pool_resize(MADE, "10.30.0.0/28", NOW))
    assert bind(book, 2).generation == lease.generation + 2


def test_a_pool_shrinks_as_long_as_every_lease_keeps_its_place(book: LeaseBook) -> None:
    leases = [bind(book, number) for number in range(4)]
    with pytest.raises(PoolInUse) as caught:
        book.plan_pool_resize(MADE, "10.30.0.0/30", NOW)
    assert str(caught.value) == (
        "pool made cannot become 10.30.0.0/30: 10.30.0.3 (bound for web.2 on agent-1), "
        "10.30.0.4 (bound for web.3 on agent-1) would have no pool; move their apps to another one and wait, "
        "or let go of them with `mooring lease release` or `mooring pool unreserve`"
    )
    for lease in leases[2:]:
        done(book, book.plan_release(lease.address, keep=False, now=NOW, reason="x"))
    done(book, book.plan_pool_resize(MADE, "10.30.0.0/30", NOW))
    assert (book.usage(MADE).free, book.usage(MADE).leases) == (0, {"bound": 2, "cooling": 1})
    with pytest.raises(PoolExhausted):  # what cools is outside, or the broadcast address by now
        bind(book, 9)
    assert done(book, book.plan_expire(NOW + COOL_S)) == ["free", "free"]


def test_a_pool_that_is_resized_must_fit(book: LeaseBook) -> None:
    with pytest.raises(PoolClash, match="shares addresses with pool fixed"):
        book.plan_pool_resize(MADE, "10.16.0.0/12", NOW)
    with pytest.raises(PoolClash, match="pool fixed stands in the configuration: change it there"):
        book.plan_pool_resize(FIXED, "10.20.0.0/27", NOW)
    with pytest.raises(PoolUnknown, match="no pool 'nope'"):
        book.plan_pool_resize(PoolName("nope"), "10.20.0.0/27", NOW)
    done(book, book.plan_pool_add(PoolSpec(PoolName("gate"), "10.50.0.0/29", "10.50.0.6"), NOW))
    with pytest.raises(ConfigRefused, match=r"gateway 10\.50\.0\.6 is outside 10\.50\.0\.0/30"):
        book.plan_pool_resize(PoolName("gate"), "10.50.0.0/30", NOW)


def test_a_pool_is_removed_when_nobody_needs_it(book: LeaseBook) -> None:
    lease = bind(book, 1)
    with pytest.raises(PoolInUse, match=r"pool made cannot be removed: 10\.30\.0\.1 \(bound for web\.1"):
        book.plan_pool_remove(MADE, NOW)
    done(book, book.plan_release(lease.address, keep=True, now=NOW, reason="x"))
    with pytest.raises(PoolInUse, match=r"\(idle for /shop/web slot 0\)"):
        book.plan_pool_remove(MADE, NOW)
    assert done(book, book.plan_release_conflict(lease.address, NOW, "by hand")) == ["cooling"]
    writes = book.plan_pool_remove(MADE, NOW)
    assert writes == [DropPool(MADE), Note(NOW, "pool removed", "10.30.0.0/29", pool=MADE, vlan=7)]
    book.accept(writes)
    with pytest.raises(PoolUnknown):
        book.usage(MADE)
    assert done(book, book.plan_pool_add(SPEC, NOW)) == ["pool added"]
    assert book.usage(MADE).leases == {"cooling": 1}
    with pytest.raises(PoolClash, match="stands in the configuration"):
        book.plan_pool_remove(FIXED, NOW)


def test_only_the_first_few_leases_are_named(book: LeaseBook) -> None:
    for number in range(6):
        bind(book, number)
    with pytest.raises(PoolInUse, match=r"10\.30\.0\.5 \([^)]*\) and 1 more would have no pool"):
        book.plan_pool_remove(MADE, NOW)


def test_a_reserved_address_is_not_given_out_until_it_has_cooled_again(book: LeaseBook) -> None:
    writes = book.plan_reserve("10.30.0.1", "the printer", NOW)
    assert done(book, writes) == ["reserved"]
    lease = book.by_address("10.30.0.1")
    assert lease == Lease(
        "10.30.0.1", MADE, LeaseState.RESERVED, None, None, None, None, 1, NOW, None, "the printer"
    )
    assert book.plan_reserve("10.30.0.1", "the printer", NOW) == []
    assert done(book, book.plan_reserve("10.30.0.1", "the scanner", NOW + 1)) == ["reserved"]
    assert bind(book, 1).address == "10.30.0.2"
    assert book.plan_release("10.30.0.1", keep=False, now=NOW, reason="x") == []
    with pytest.raises(LeaseMismatch):
        book.plan_conflict("10.30.0.1", NOW, "x")
    [_, note] = writes = book.plan_unreserve("10.30.0.1", NOW)
    assert isinstance(note, Note)
    assert (note.event, note.reason) == ("cooling", "no longer reserved: the scanner")
    book.accept(writes)
    cooling = book.by_address("10.30.0.1")
    assert cooling is not None
    assert (cooling.state, cooling.until, cooling.note) == ("cooling", NOW + COOL_S, None)


def test_a_cooling_address_may_be_reserved_and_remembers_nobody(book: LeaseBook) -> None:
    lease = bind(book, 1)
    done(book, book.plan_release(lease.address, keep=False, now=NOW, reason="x"))
    done(book, book.plan_reserve(lease.address, "mine", NOW))
    found = book.by_address(lease.address)
    assert found is not None
    assert (found.state, found.app, found.host, found.until, found.generation) == (
        "reserved",
        None,
        None,
        None,
        3,
    )
    assert book.apps() == set()


@pytest.mark.parametrize(
    ("prepare", "hand"),
    [
        (lambda book, address: [], "bound for web.1 on agent-1"),
        (lambda book, address: book.plan_strand(address, NOW, "x"), "stranded for web.1 on agent-1"),
        (
            lambda book, address: book.plan_conflict(address, NOW, "02:00 answers"),
            "conflicted: 02:00 answers",
        ),
        (
            lambda book, address: book.plan_release(address, keep=True, now=NOW, reason="x"),
            "idle for /shop/web slot 0",
        ),
    ],
)
def test_an_address_in_a_hand_is_not_reserved(
    book: LeaseBook, prepare: Callable[[LeaseBook, str], list[Write]], hand: str
) -> None:
    lease = bind(book, 1)
    done(book, prepare(book, lease.address))
    with pytest.raises(AddressTaken) as caught:
        book.plan_reserve(lease.address, "mine", NOW)
    assert str(caught.value) == f"10.30.0.1 is {hand}; reserve it when it has been released"


@pytest.mark.parametrize(
    ("address", "error", "text"),
    [
        ("10.20.0.1", AddressRefused, "10.20.0.1 is the gateway (pool fixed): it is never given out anyway"),
        ("10.20.0.2", AddressRefused, "is reserved: printer"),
        ("10.99.0.1", PoolUnknown, "no pool contains 10.99.0.1"),
        ("printer", AddressRefused, "'printer' is not an IP address"),
    ],
)
def test_what_cannot_be_reserved(book: LeaseBook, address: str, error: type[Refused], text: str) -> None:
    with pytest.raises(error) as caught:
        book.plan_reserve(address, "mine", NOW)
    assert text in str(caught.value)


def test_only_a_reservation_ends_by_unreserve(book: LeaseBook) -> None:
    lease = bind(book, 1)
    with pytest.raises(LeaseMismatch, match=r"10\.30\.0\.1 is bound, and would have to be reserved"):
        book.plan_unreserve(lease.address, NOW)
    with pytest.raises(
        LeaseMismatch, match=r"10\.20\.0\.2 is reserved by pool fixed itself; take it out there"
    ):
        book.plan_unreserve("10.20.0.2", NOW)
    with pytest.raises(LeaseMismatch, match=r"10\.99\.0\.2 is free"):
        book.plan_unreserve("10.99.0.2", NOW)


def test_an_operator_gives_back_what_no_instance_has(book: LeaseBook) -> None:
    lease = bind(book, 1)
    with pytest.raises(LeaseMismatch, match="would have to be conflicted or idle"):
        book.plan_release_conflict(lease.address, NOW, "by hand")
    done(book, book.plan_conflict(lease.address, NOW, "02:00 answers"))
    assert done(book, book.plan_release_conflict(lease.address, NOW, "by hand")) == ["cooling"]
    found = book.by_address(lease.address)
    assert found is not None
    assert (found.state, found.note, found.app) == ("cooling", None, WEB)


def test_stored_pools_join_those_of_the_configuration() -> None:
    book = LeaseBook(CONFIGURED, (), [SPEC])
    assert [pool.name for pool in book.pools] == ["fixed", "made"]
    moved = LeaseBook(CONFIGURED, (), [PoolSpec(FIXED, "10.20.0.0/28", vlan=99)])
    assert [pool.vlan for pool in moved.pools] == [5]
    with pytest.raises(
        ConfigRefused, match=r"pool fixed: the configuration has it as 10\.20\.0\.0/28, the store"
    ):
        LeaseBook(CONFIGURED, (), [PoolSpec(FIXED, "10.20.0.0/27")])
    with pytest.raises(ConfigRefused, match="overlap"):
        LeaseBook(CONFIGURED, (), [PoolSpec(MADE, "10.20.0.0/27")])


def test_live_addresses_without_a_pool_are_named_once_for_each_pool() -> None:
    def lease(address: str, pool: str, state: LeaseState, number: int) -> Lease:
        holder = BindingId(f"web.{number}") if state in (LeaseState.BOUND, LeaseState.STRANDED) else None
        until = 9.0 if state is LeaseState.COOLING else None
        return Lease(address, PoolName(pool), state, WEB, number, holder, HOST, 1, 1.0, until)

    leases = [
        lease("10.9.0.9", "old", LeaseState.BOUND, 1),
        lease("10.9.0.10", "old", LeaseState.STRANDED, 2),
        lease("10.9.0.11", "old", LeaseState.COOLING, 3),
        lease("10.20.0.5", "renamed", LeaseState.BOUND, 4),
        lease("10.8.0.1", "older", LeaseState.BOUND, 5),
    ]
    book = LeaseBook(CONFIGURED, leases)
    assert homeless_lines(book) == [
        "pool old: no pool contains 10.9.0.9 (bound for web.1 on agent-1), 10.9.0.10 (stranded for web.2 on "
        "agent-1): put a pool with these addresses back, and take it out when their instances are gone",
        "pool older: no pool contains 10.8.0.1 (bound for web.5 on agent-1): put a pool with these addresses "
        "back, and take it out when their instances are gone",
    ]
    assert homeless_lines(LeaseBook(CONFIGURED, leases[3:4])) == []
