"""The lease book, step by step; `test_lease_book_model.py` walks it at random."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from mooring.core.errors import LeaseConflict, Refused, Retryable
from mooring.core.model import AppId, BindingId, HostName, InstanceId, Lease, LeaseState, PoolName
from mooring.core.store import Note, PutLease, Write
from mooring.ipam.book import LeaseBook, Request
from mooring.ipam.errors import (
    AddressRefused,
    AddressTaken,
    LeaseMismatch,
    PoolExhausted,
    PoolForbidden,
    PoolUnknown,
)
from mooring.ipam.pools import Pool, Pools

WEB, DB = AppId("/shop/web"), AppId("/shop/db")
A1, A2 = HostName("agent-1"), HostName("agent-2")
IDLE_S, COOL_S = 1000.0, 100.0


class Desk:
    """A book whose plans are accepted at once."""

    def __init__(self, network: str = "10.20.0.0/29", leases: Sequence[Lease] = (), **pool: object) -> None:
        self.pools = Pools(
            [Pool.parse("shop", network, **pool), Pool.parse("ops", "10.99.0.0/29", groups=["/ops"])]  # type: ignore[arg-type]
        )
        self.book = LeaseBook(self.pools, leases, idle_ttl_s=IDLE_S, cooling_s=COOL_S, dns_ttl_s=60.0)
        self.now = 5000.0

    def bind(
        self, name: str, host: HostName = A1, app: AppId = WEB, pool: str = "shop", pinned: Sequence[str] = ()
    ) -> Lease:
        request = Request(app, PoolName(pool), BindingId(name), host, tuple(pinned))
        lease, writes = self.book.plan_bind(request, self.now)
        self.done(writes)
        assert self.book.by_address(lease.address) == lease
        return lease

    def done(self, writes: list[Write]) -> list[str]:
        """Accept the writes and tell which notes they carry."""
        self.book.accept(writes)
        return [write.event for write in writes if isinstance(write, Note)]

    def release(self, lease: Lease, *, keep: bool = True) -> list[str]:
        return self.done(self.book.plan_release(lease.address, keep=keep, now=self.now, reason="killed"))

    def state(self, lease: Lease) -> LeaseState | None:
        found = self.book.by_address(lease.address)
        return None if found is None else found.state


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_new_seats_take_the_lowest_slots_and_addresses(desk: Desk) -> None:
    leases = [desk.bind(f"web.{n}") for n in range(3)]
    other = desk.bind("db.0", app=DB)
    assert [(lease.slot, lease.address) for lease in leases] == [
        (0, "10.20.0.1"),
        (1, "10.20.0.2"),
        (2, "10.20.0.3"),
    ]
    assert (other.slot, other.address) == (0, "10.20.0.4")
    assert [lease.slot for lease in desk.book.by_app(WEB)] == [0, 1, 2]


def test_a_binding_has_one_lease_however_often_it_asks(desk: Desk) -> None:
    first = desk.bind("web.1")
    planned = desk.book.plan_bind(Request(WEB, PoolName("shop"), BindingId("web.1"), A1), desk.now)
    assert planned == (first, [])
    assert desk.bind("web.1", pool="ops") == first
    moved = desk.bind("web.1", A2)
    assert (moved.address, moved.host, moved.generation) == (first.address, A2, first.generation + 1)


def test_a_released_seat_waits_for_the_next_instance_of_its_app(desk: Desk) -> None:
    leases = [desk.bind(f"web.{n}") for n in range(3)]
    assert desk.release(leases[2]) == ["idle"]
    assert desk.release(leases[1]) == ["idle"]
    stranger = desk.bind("db.0", app=DB)
    back = [desk.bind("web.7", A2), desk.bind("web.8")]
    assert stranger.address == "10.20.0.4"
    assert [(lease.slot, lease.address) for lease in back] == [(1, "10.20.0.2"), (2, "10.20.0.3")]
    assert (back[0].binding, back[0].host, back[0].until) == ("web.7", A2, None)


def test_a_released_address_is_not_reused_before_it_has_cooled() -> None:
    desk = Desk("10.20.0.0/30", exclude=["10.20.0.2"])
    lease = desk.bind("web.1")
    assert desk.release(lease, keep=False) == ["cooling"]
    desk.now += COOL_S - 1
    with pytest.raises(PoolExhausted, match="pool shop has no address left for /shop/db") as caught:
        desk.bind("db.1", app=DB)
    assert isinstance(caught.value, Retryable)
    assert caught.value.after_s == pytest.approx(1.0)
    desk.now += 1
    again = desk.bind("db.1", app=DB)
    assert (again.address, again.app, again.generation) == (lease.address, DB, 3)


def test_unleased_addresses_go_before_cooled_ones_and_these_by_age() -> None:
    desk = Desk("10.20.0.0/29", exclude=["10.20.0.4-10.20.0.6"])
    leases = [desk.bind(f"web.{n}") for n in range(2)]
    for lease in reversed(leases):
        desk.release(lease, keep=False)
        desk.now += 1
    desk.now += COOL_S
    assert [desk.bind(f"db.{n}", app=DB).address for n in range(3)] == ["10.20.0.3", "10.20.0.2", "10.20.0.1"]


def test_time_turns_idle_into_cooling_and_cooling_into_free(desk: Desk) -> None:
    lease = desk.bind("web.1")
    desk.release(lease)
    assert desk.done(desk.book.plan_expire(desk.now + IDLE_S - 1)) == []
    desk.now += IDLE_S
    assert desk.done(desk.book.plan_expire(desk.now)) == ["cooling"]
    assert desk.done(desk.book.plan_expire(desk.now + COOL_S - 1)) == []
    assert desk.done(desk.book.plan_expire(desk.now + COOL_S)) == ["free"]
    assert desk.book.leases() == []
    assert desk.bind("web.2").generation > lease.generation


def test_the_dns_ttl_lengthens_the_quarantine() -> None:
    desk = Desk()
    desk.book = LeaseBook(desk.pools, cooling_s=10.0, dns_ttl_s=900.0)
    lease = desk.bind("web.1")
    desk.release(lease, keep=False)
    cooling = desk.book.by_address(lease.address)
    assert cooling is not None
    assert cooling.until == desk.now + 900.0


def test_a_stranded_address_stays_where_it_was(desk: Desk) -> None:
    lease = desk.bind("web.1")
    assert desk.done(desk.book.plan_strand(lease.address, desk.now, "agent-1 is silent")) == ["stranded"]
    elsewhere = desk.bind("web.1", A2)
    assert (elsewhere.slot, elsewhere.address) == (1, "10.20.0.2")
    assert [found.state for found in desk.book.held_by(WEB, BindingId("web.1"))] == ["stranded", "bound"]
    assert desk.state(lease) is LeaseState.STRANDED
    assert desk.done(desk.book.plan_expire(desk.now + 1e9)) == []
    assert desk.release(lease) == ["idle"]


def test_a_stranded_instance_that_comes_back_has_its_address_again(desk: Desk) -> None:
    lease = desk.bind("web.1")
    desk.done(desk.book.plan_strand(lease.address, desk.now, "silent"))
    assert desk.bind("web.1").address == lease.address
    desk.done(desk.book.plan_strand(lease.address, desk.now, "silent"))
    assert desk.done(desk.book.plan_unstrand(lease.address, desk.now, "it answers")) == ["bound"]
    assert desk.book.plan_unstrand(lease.address, desk.now, "it answers") == []
    assert desk.state(lease) is LeaseState.BOUND


def test_what_is_left_on_a_lost_host_can_get_a_name_of_its_own(desk: Desk) -> None:
    lease = desk.bind("web.1")
    left = BindingId("web.1~1")
    writes = desk.book.plan_strand(lease.address, desk.now, "silent", binding=left)
    assert [write.instance for write in writes if isinstance(write, Note)] == ["web.1"]
    desk.done(writes)
    assert desk.book.plan_strand(lease.address, desk.now, "still silent") == []
    assert desk.bind("web.1").address == "10.20.0.2"
    released = desk.book.plan_release(
        lease.address, keep=True, now=desk.now, reason="x", binding=BindingId("web.1")
    )
    assert released == []
    assert desk.done(
        desk.book.plan_release(lease.address, keep=True, now=desk.now, reason="x", binding=left)
    ) == ["idle"]


def test_releasing_twice_is_harmless(desk: Desk) -> None:
    lease = desk.bind("web.1")
    assert desk.release(lease) == ["idle"]
    assert desk.release(lease) == []
    assert desk.release(lease, keep=False) == ["cooling"]
    assert desk.release(lease) == []
    assert desk.book.plan_release("10.20.0.6", keep=True, now=1.0, reason="never leased") == []


def test_moving_is_for_bound_addresses(desk: Desk) -> None:
    lease = desk.bind("web.1")
    assert desk.book.plan_move(lease.address, A1, desk.now, "x").writes == []
    moved, writes = desk.book.plan_move(lease.address, A2, desk.now, "relaunched")
    assert desk.done(writes) == ["moved"]
    assert (moved.host, moved.generation) == (A2, lease.generation + 1)
    desk.release(lease)
    for step in (
        lambda: desk.book.plan_move(lease.address, A2, desk.now, "x"),
        lambda: desk.book.plan_strand(lease.address, desk.now, "x"),
        lambda: desk.book.plan_unstrand(lease.address, desk.now, "x"),
        lambda: desk.book.plan_strand("10.20.0.6", desk.now, "x"),
    ):
        with pytest.raises(LeaseMismatch, match="would have to be bound"):
            step()


def test_a_deleted_app_gives_its_empty_seats_back(desk: Desk) -> None:
    kept, idle = desk.bind("web.1"), desk.bind("web.2")
    other = desk.bind("db.1", app=DB)
    desk.release(idle)
    desk.release(other)
    assert desk.done(desk.book.plan_retire_app(WEB, desk.now)) == ["cooling"]
    assert [desk.state(lease) for lease in (kept, idle, other)] == ["bound", "cooling", "idle"]
    assert [lease.state for lease in desk.book.by_app(WEB)] == ["bound", "cooling"]
    assert (desk.book.idle_apps(), desk.book.apps()) == ({DB}, {WEB, DB})
    assert (desk.book.has_idle_seat(WEB), desk.book.has_idle_seat(DB)) == (False, True)


def test_a_conflicted_address_is_nobodys_until_released(desk: Desk) -> None:
    lease = desk.bind("web.1")
    assert desk.done(desk.book.plan_conflict(lease.address, desk.now, "a stranger answers")) == ["conflicted"]
    found = desk.book.by_address(lease.address)
    assert found is not None
    assert (found.note, found.binding, found.slot) == ("a stranger answers", None, None)
    assert desk.book.plan_conflict(lease.address, desk.now, "again") == []
    instead = desk.bind("web.1")
    assert (instead.slot, instead.address) == (0, "10.20.0.2")
    assert desk.done(desk.book.plan_expire(desk.now + 1e9)) == []
    assert desk.release(lease) == ["cooling"]


def test_pinned_addresses_are_the_only_ones_and_in_their_order(desk: Desk) -> None:
    pins = ["10.20.0.5", "10.20.0.3"]
    first, second = desk.bind("web.1", pinned=pins), desk.bind("web.2", pinned=pins)
    assert [first.address, second.address] == pins
    with pytest.raises(PoolExhausted, match=r"every pinned address of /shop/web is held: 10\.20\.0\.5"):
        desk.bind("web.3", pinned=pins)
    desk.release(first)
    desk.release(second)
    assert desk.bind("web.4", pinned=["10.20.0.3"]).slot == 1
    desk.release(second, keep=False)
    desk.now += COOL_S
    assert desk.bind("web.5", pinned=["10.20.0.3"]).address == "10.20.0.3"


@pytest.mark.parametrize("pin", ["10.20.0.1", "10.20.0.0", "10.20.9.9", "10.20.0.2", "10.20.0.3", "x;rm -rf"])
def test_a_pinned_address_that_is_never_given_out_is_refused(pin: str) -> None:
    desk = Desk(gateway="10.20.0.1", exclude=["10.20.0.2"], reservations={"10.20.0.3": "printer"})
    with pytest.raises(AddressRefused, match=pin.replace(".", r"\.")) as caught:
        desk.bind("web.1", pinned=[pin])
    assert isinstance(caught.value, Refused)


def test_a_pinned_address_that_cools_is_waited_for_and_the_longest_cooled_is_taken() -> None:
    desk = Desk()
    pins = ["10.20.0.5", "10.20.0.3"]
    first, second = desk.bind("web.1", pinned=pins), desk.bind("web.2", pinned=pins)
    desk.release(second, keep=False)
    desk.now += 10
    desk.release(first, keep=False)
    with pytest.raises(PoolExhausted, match=r"the next has cooled at 1970-01-01T01:25:00Z") as caught:
        desk.bind("web.3", pinned=pins)
    assert caught.value.after_s == pytest.approx(COOL_S - 10)
    desk.now += COOL_S
    assert [desk.bind(f"web.{n}", pinned=pins).address for n in (3, 4)] == ["10.20.0.3", "10.20.0.5"]


def test_who_waits_longer_is_left_as_many_addresses() -> None:
    desk = Desk("10.20.0.0/29", exclude=["10.20.0.4-10.20.0.6"])
    request = Request(WEB, PoolName("shop"), BindingId("web.1"), A1)
    assert desk.book.plan_bind(request, desk.now, ahead=2).lease.address == "10.20.0.1"
    with pytest.raises(PoolExhausted, match=r"no address left for /shop/web \(3 in all\)$") as caught:
        desk.book.plan_bind(request, desk.now, ahead=3)
    assert caught.value.after_s is None
    cooled = desk.bind("db.0", app=DB)
    desk.release(cooled, keep=False)
    assert desk.book.available(PoolName("shop"), desk.now) == 2
    assert desk.book.available(PoolName("shop"), desk.now + COOL_S) == 3
    assert desk.book.plan_bind(request, desk.now + COOL_S, ahead=2).lease.address == "10.20.0.2"
    pinned = Request(WEB, PoolName("shop"), BindingId("web.1"), A1, ("10.20.0.3",))
    assert desk.book.plan_bind(pinned, desk.now, ahead=9).lease.address == "10.20.0.3"
    held = desk.bind("web.1")
    assert desk.book.plan_bind(request, desk.now, ahead=9) == (held, [])
    desk.release(held)
    other = Request(WEB, PoolName("shop"), BindingId("web.2"), A1)
    assert desk.book.plan_bind(other, desk.now, ahead=9).lease.slot == held.slot


def test_what_time_changes_is_told_in_parts() -> None:
    desk = Desk("10.20.0.0/20", exclude=["10.20.8.0-10.20.15.254"])
    for number in range(1001):
        desk.release(desk.bind(f"web.{number}", app=AppId(f"/a/{number}")), keep=False)
    desk.now += COOL_S
    assert [len(desk.done(desk.book.plan_expire(desk.now))) for _ in range(3)] == [1000, 1, 0]


def test_an_address_that_was_withdrawn_while_in_use_cools_instead_of_staying_with_its_seat() -> None:
    before = Desk()
    kept, withdrawn = before.bind("web.1"), before.bind("web.2")
    after = Desk(leases=before.book.leases(), exclude=[withdrawn.address])
    assert after.bind("web.2") == withdrawn
    assert after.release(kept) == ["idle"]
    assert after.release(withdrawn) == ["cooling"]
    assert after.book.available(PoolName("shop"), after.now + COOL_S) == 4
    assert after.done(after.book.plan_expire(after.now + COOL_S)) == ["free"]
    assert after.book.usage(PoolName("shop")).free == 4


def test_a_pool_of_another_name_goes_on_with_the_same_addresses() -> None:
    desk = Desk()
    bound, idle = desk.bind("web.1"), desk.bind("web.2")
    desk.release(idle)
    pools = Pools([Pool.parse("renamed", "10.20.0.0/29")])
    book = LeaseBook(pools, desk.book.leases(), cooling_s=COOL_S)
    assert book.usage(PoolName("renamed")).leases == {"bound": 1, "idle": 1}
    request = Request(WEB, PoolName("renamed"), BindingId("web.1"), A1)
    assert book.plan_bind(request, desk.now) == (bound, [])
    seat = book.plan_bind(Request(WEB, PoolName("renamed"), BindingId("web.3"), A1), desk.now).lease
    assert (seat.address, seat.slot, seat.pool) == (idle.address, idle.slot, "renamed")


def test_a_pool_of_the_other_family() -> None:
    desk = Desk("fd00:20::/64", gateway="fd00:20::1", exclude=["fd00:20::2-fd00:20::9"])
    lease = desk.bind("web.1")
    assert lease.address == "fd00:20::a"
    assert desk.bind("web.2", pinned=["fd00:20::ff"]).address == "fd00:20::ff"
    desk.release(lease, keep=False)
    assert desk.book.usage(PoolName("shop")).leases == {"bound": 1, "cooling": 1}
    assert desk.book.usage(PoolName("shop")).free == 2**20 - 10 - 2
    request = Request(WEB, PoolName("shop"), BindingId("web.9"), A1)
    adopted = desk.book.plan_adopt("FD00:20::0:BB", request, 4, 2, desk.now).lease
    assert (adopted.address, adopted.slot) == ("fd00:20::bb", 4)
    assert desk.book.plan_adopt("fd00:20::ffff:ffff", request, 0, 1, desk.now).lease.slot == 0
    desk.done(desk.book.plan_quarantine("FD00:20::CC", desk.now, "only a name"))
    assert desk.book.by_address("fd00:20::cc") is not None


@pytest.mark.parametrize("slot", [-1, 1 << 20, 0])
def test_a_mark_with_an_impossible_or_taken_slot_gets_another(desk: Desk, slot: int) -> None:
    desk.bind("web.1")
    request = Request(WEB, PoolName("shop"), BindingId("web.2"), A1)
    assert desk.book.plan_adopt("10.20.0.6", request, slot, 1, desk.now).lease.slot == 1


def test_a_mark_on_an_address_of_the_same_seat_keeps_the_slot(desk: Desk) -> None:
    lease = desk.bind("web.1")
    desk.release(lease)
    request = Request(WEB, PoolName("shop"), BindingId("web.2"), A1)
    assert desk.book.plan_adopt(lease.address, request, 0, 1, desk.now).lease.slot == 0


def test_generations_rise_over_the_time_an_address_was_free(desk: Desk) -> None:
    lease = desk.bind("web.1")
    desk.release(lease, keep=False)
    desk.done(desk.book.plan_expire(desk.now + COOL_S))
    assert desk.bind("web.2").generation == 3
    quarantined = desk.book.plan_quarantine("10.20.0.6", desk.now, "not proven free")
    assert [write.lease.generation for write in quarantined if isinstance(write, PutLease)] == [1]


def test_names_that_many_leases_carry_are_held_once() -> None:
    def fresh(text: str) -> str:
        return "".join(list(text))

    leases = [
        Lease(f"10.20.0.{n + 1}", PoolName(fresh("shop")), LeaseState.BOUND, AppId(fresh("/shop")), n,
              BindingId(f"web.{n}"), HostName(fresh("agent-1")), 1, 1.0)
        for n in range(2)
    ]  # fmt: skip
    assert leases[0].app is not leases[1].app
    first, second = Desk(leases=leases).book.leases()
    assert first.app is second.app
    assert first.pool is second.pool
    assert first.host is second.host


def test_pools_are_refused_to_strangers_and_by_unknown_names(desk: Desk) -> None:
    with pytest.raises(PoolForbidden, match="pool ops is not for /shop/web, only for /ops"):
        desk.bind("web.1", pool="ops")
    with pytest.raises(PoolUnknown, match="'nope'"):
        desk.bind("web.1", pool="nope")


def test_an_idle_seat_that_the_configuration_took_away_is_left_alone() -> None:
    before = Desk()
    lease = before.bind("web.1")
    before.release(lease)
    after = Desk(leases=before.book.leases(), reservations={lease.address: "for the printer"})
    seat = after.bind("web.2")
    assert (seat.slot, seat.address) == (1, "10.20.0.2")
    after.release(lease, keep=False)
    after.done(after.book.plan_expire(after.now + COOL_S))
    assert after.bind("web.3", app=DB).address == "10.20.0.3"


def test_slots_stay_unique_while_an_app_changes_its_pool() -> None:
    desk = Desk()
    desk.bind("ops.1", app=AppId("/ops/x"))
    assert desk.bind("ops.2", app=AppId("/ops/x"), pool="ops").slot == 1


def test_leases_of_a_pool_that_was_removed_are_kept_and_left_alone() -> None:
    old = Lease("172.16.0.9", PoolName("old"), LeaseState.BOUND, WEB, 0, BindingId("web.1"), A1, 4, 1.0)
    desk = Desk(leases=[old])
    assert desk.bind("web.1") == old
    assert desk.bind("web.2").slot == 1
    assert desk.release(old, keep=False) == ["cooling"]
    desk.done(desk.book.plan_expire(desk.now + COOL_S))
    assert desk.book.by_address(old.address) is None


def test_marks_on_hosts_are_adopted_as_they_are(desk: Desk) -> None:
    request = Request(WEB, PoolName("shop"), BindingId("web.1"), A1)
    lease, writes = desk.book.plan_adopt("10.20.0.4", request, slot=3, generation=8, now=desk.now)
    assert (lease.slot, lease.generation, lease.pool, lease.binding) == (3, 8, "shop", "web.1")
    assert desk.done(writes) == ["adopted"]
    assert desk.book.plan_adopt("10.20.0.4", request, 3, 8, desk.now) == (lease, [])
    rival = Request(DB, PoolName("shop"), BindingId("db.1"), A2)
    with pytest.raises(AddressTaken, match=r"10\.20\.0\.4 is bound for web\.1, not db\.1") as caught:
        desk.book.plan_adopt("10.20.0.4", rival, 0, 9, desk.now)
    assert isinstance(caught.value, LeaseConflict)
    same_seat = Request(WEB, PoolName("shop"), BindingId("web.2"), A2)
    assert desk.book.plan_adopt("10.20.0.5", same_seat, 3, 1, desk.now).lease.slot == 0


@pytest.mark.parametrize("keep", [True, False])
def test_a_port_that_is_there_beats_a_lease_that_says_nobody(desk: Desk, keep: bool) -> None:
    lease = desk.bind("web.1")
    desk.release(lease, keep=keep)
    request = Request(WEB, PoolName("shop"), BindingId("web.1"), A1)
    adopted, writes = desk.book.plan_adopt(lease.address, request, slot=0, generation=1, now=desk.now)
    assert desk.done(writes) == ["adopted"]
    assert (adopted.state, adopted.slot, adopted.generation, adopted.until) == ("bound", 0, 3, None)


@pytest.mark.parametrize(("address", "error"), [("172.16.0.1", PoolUnknown), ("mark", AddressRefused)])
def test_a_mark_that_names_no_pool_of_ours_is_refused(
    desk: Desk, address: str, error: type[Exception]
) -> None:
    request = Request(WEB, PoolName("shop"), BindingId("web.1"), A1)
    with pytest.raises(error, match=address):
        desk.book.plan_adopt(address, request, 0, 1, desk.now)


def test_an_unproven_address_cools_first(desk: Desk) -> None:
    assert desk.done(desk.book.plan_quarantine("10.20.0.1", desk.now, "known from DNS only")) == ["cooling"]
    assert desk.book.plan_quarantine("10.20.0.1", desk.now, "again") == []
    assert desk.bind("web.1").address == "10.20.0.2"


def test_usage_counts_every_state() -> None:
    desk = Desk(gateway="10.20.0.1", reservations={"10.20.0.6": "printer"})
    leases = [desk.bind(f"web.{n}") for n in range(3)]
    desk.release(leases[0])
    desk.release(leases[1], keep=False)
    usage = desk.book.usage(PoolName("shop"))
    assert (usage.size, usage.free, usage.reserved) == (4, 1, 1)
    assert usage.leases == {"idle": 1, "cooling": 1, "bound": 1}


def test_every_step_says_who_and_why() -> None:
    desk = Desk(vlan=7)
    lease = desk.bind("web.1")
    [put, note] = desk.book.plan_release(lease.address, keep=False, now=7000.0, reason="killed by hand")
    assert put == PutLease(
        lease.moved(LeaseState.COOLING, 7000.0, binding=None, slot=None, until=7000.0 + COOL_S), 1
    )
    assert note == Note(
        7000.0, "cooling", "killed by hand", lease.address, WEB, 0, InstanceId("web.1"), A1,
        pool=PoolName("shop"), vlan=7, generation=2,
    )  # fmt: skip


def test_accepting_what_was_planned_on_an_older_book_is_a_defect(desk: Desk) -> None:
    request = Request(WEB, PoolName("shop"), BindingId("web.1"), A1)
    stale = desk.book.plan_bind(request, desk.now).writes
    desk.bind("web.2")
    with pytest.raises(AssertionError):
        desk.book.accept(stale)
