"""One contract for names, over the server in memory and over a real BIND."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from mooring.core.errors import Fenced, Refused, Retryable
from mooring.core.model import BindingId, Epoch
from mooring.core.sink import Done, NotPossible, RetryAfter
from mooring.core.specs import ItemSpec, NameSpec, SharedNameSpec, Spec
from mooring.dns.memory import MemoryServer
from mooring.dns.naming import reverse_name
from mooring.dns.ownership import marker_of
from mooring.dns.records import NameServer, Update
from mooring.dns.sinks import SeatNames, SharedNames
from tests.contract.bind import LARGEST_SET, REVERSE_ZONE, ZONE, ZONES, Named, running_named
from tests.contract.dns_samples import (
    APP,
    MARK,
    OWNER,
    Lossy,
    change,
    emptied,
    entries,
    everything,
    one,
    paired,
    put,
    seat,
    seats_of,
    share,
    take,
    values,
)


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Named]:
    with running_named(tmp_path_factory.mktemp("bind")) as running:
        yield running


@pytest.fixture
async def bind(named: Named) -> NameServer:
    return await emptied(named)


@pytest.fixture(params=["memory", "bind"])
def server(request: pytest.FixtureRequest) -> NameServer:
    if request.param == "memory":
        return MemoryServer(ZONES, largest_set=LARGEST_SET)
    found: NameServer = request.getfixturevalue("bind")
    return found


@pytest.fixture
def seats(server: NameServer) -> SeatNames:
    return seats_of(server)


@pytest.fixture
def shared(server: NameServer) -> SharedNames:
    return SharedNames(server, zones=[ZONE], owner=OWNER)


# --- seats ------------------------------------------------------------------------------------------------


async def test_a_seat_gets_its_address_pointer_and_marks(server: NameServer, seats: SeatNames) -> None:
    spec = seat(0)
    assert await one(seats, change("b", spec)) == Done(changed=True)
    pointer = reverse_name(spec.address)
    assert await values(server, spec.name) == {spec.address}
    assert await values(server, pointer, "PTR") == {spec.name}
    assert await values(server, marker_of(spec.name), "TXT") == {MARK}
    assert await values(server, marker_of(pointer), "TXT") == {MARK}
    assert (await seats.observe()).shown == entries(spec)


async def test_the_same_change_again_changes_nothing(server: NameServer, seats: SeatNames) -> None:
    await one(seats, change("b", seat(0)))
    assert await one(seats, change("b", seat(0))) == Done(changed=False)
    assert await one(seats, change("b", seat(0), seat(0))) == Done(changed=False)
    assert await one(seats_of(server), change("b", seat(0), seat(0))) == Done(changed=False)


async def test_a_move_takes_the_old_pointer_along(server: NameServer, seats: SeatNames) -> None:
    old, new = seat(0), seat(0, "10.64.9.9")
    await one(seats, change("b", old))
    assert await one(seats, change("b", new, old)) == Done()
    assert await values(server, new.name) == {new.address}
    assert await values(server, reverse_name(old.address), "PTR") == set()
    assert await values(server, marker_of(reverse_name(old.address)), "TXT") == set()
    assert await values(server, reverse_name(new.address), "PTR") == {new.name}


async def test_a_seat_may_move_to_another_family(server: NameServer, seats: SeatNames) -> None:
    old, new = seat(0), seat(0, "2001:db8:0:0::7")
    await one(seats, change("b", old))
    assert await one(seats, change("b", new, old)) == Done()
    assert await values(server, new.name) == set()
    assert await values(server, new.name, "AAAA") == {"2001:db8::7"}
    assert await values(server, reverse_name(new.address), "PTR") == {new.name}
    assert await one(seats, change("b", None, new)) == Done()
    assert (await seats.observe()).shown == {}


async def test_a_seat_of_a_paired_pool_has_two_addresses_and_two_pointers(
    server: NameServer, seats: SeatNames
) -> None:
    spec = paired(0)
    assert spec.address6 is not None
    assert await one(seats, change("b", spec)) == Done(changed=True)
    assert await values(server, spec.name) == {spec.address}
    assert await values(server, spec.name, "AAAA") == {spec.address6}
    for pointer in map(reverse_name, (spec.address, spec.address6)):
        assert await values(server, pointer, "PTR") == {spec.name}
        assert await values(server, marker_of(pointer), "TXT") == {MARK}
    seen = await seats.observe()
    assert (seen.shown, seen.faults, seen.foreign) == (entries(spec), {}, ())
    assert await one(seats_of(server), change("b", spec, spec)) == Done(changed=False)
    assert await one(seats, change("b", None, spec)) == Done(changed=True)
    assert await everything(server) == {}


async def test_a_seat_gets_and_loses_its_second_address(server: NameServer, seats: SeatNames) -> None:
    single, both = seat(0), paired(0)
    for wanted, was in ((both, single), (single, both)):
        await one(seats, change("b", was, wanted))
        assert await one(seats, change("b", wanted, was)) == Done(changed=True)
        assert (await seats.observe()).shown == entries(wanted)


async def test_a_pair_whose_half_was_changed_is_seen_and_mended(server: NameServer, seats: SeatNames) -> None:
    spec = paired(0)
    await one(seats, change("b", spec))
    assert spec.address6 is not None
    await take(server, spec.name, "AAAA", spec.address6)
    shown = (await seats.observe()).shown
    assert shown[spec.name] == seat(0)
    await put(server, spec.name, "AAAA", "2001:db8::bad")
    shown = (await seats.observe()).shown
    assert shown[spec.name] != spec
    assert await one(seats, change("b", spec, spec)) == Done(changed=True)
    assert (await seats.observe()).shown == entries(spec)


async def test_a_new_ttl_is_shown(server: NameServer, seats: SeatNames) -> None:
    await one(seats, change("b", seat(0, ttl=10)))
    assert await one(seats, change("b", seat(0, ttl=30), seat(0, ttl=10))) == Done()
    assert (await seats.observe()).shown[seat(0).name] == seat(0, ttl=30)


async def test_a_removed_seat_leaves_nothing(server: NameServer, seats: SeatNames) -> None:
    spec = seat(0)
    await one(seats, change("b", spec))
    assert await one(seats, change("b", None, spec)) == Done()
    assert await one(seats, change("b", None, spec)) == Done(changed=False)
    for name in (spec.name, marker_of(spec.name)):
        assert await values(server, name, "A") | await values(server, name, "TXT") == set()
    pointer = reverse_name(spec.address)
    assert await values(server, pointer, "PTR") | await values(server, marker_of(pointer), "TXT") == set()
    assert (await seats.observe()).shown == {}


async def test_residue_of_a_crash_is_cleared(server: NameServer, seats: SeatNames) -> None:
    applied, tried = seat(0), NameSpec(f"old-0.{APP}", "10.64.8.8", 10)
    await one(seats, change("b", applied))
    await one(seats, change("c", tried))
    restarted = seats_of(server)
    await restarted.prime({BindingId("b"): [applied, tried]})
    assert await one(restarted, change("b", seat(0, "10.64.7.7"), applied, tried)) == Done()
    assert (await restarted.observe()).shown == entries(seat(0, "10.64.7.7"))
    assert await values(server, reverse_name(tried.address), "PTR") == set()
    assert await values(server, reverse_name(applied.address), "PTR") == set()


@pytest.mark.parametrize(
    ("type_", "value"), [("A", "192.0.2.1"), ("TXT", "hands off"), ("CNAME", f"ns.{ZONE}")]
)
async def test_a_foreign_name_stays_as_it_is(
    server: NameServer, seats: SeatNames, type_: str, value: str
) -> None:
    name = seat(0).name
    await put(server, name, type_, value)
    outcome = await one(seats, change("b", seat(0)))
    assert isinstance(outcome, NotPossible)
    assert name in outcome.reason
    assert await one(seats, change("b", None, seat(0))) == Done(changed=False)
    assert await values(server, name, type_) == {value}
    assert await values(server, reverse_name(seat(0).address), "PTR") == set()


async def test_a_foreign_pointer_is_named(server: NameServer, seats: SeatNames) -> None:
    pointer = reverse_name(seat(0).address)
    await put(server, pointer, "PTR", f"printer.{ZONE}", REVERSE_ZONE)
    outcome = await one(seats, change("b", seat(0)))
    assert isinstance(outcome, NotPossible)
    assert pointer in outcome.reason
    assert await values(server, pointer, "PTR") == {f"printer.{ZONE}"}


async def test_another_moorings_name_is_named_with_its_owner(server: NameServer, seats: SeatNames) -> None:
    await one(seats_of(server, "site-b"), change("b", seat(0)))
    outcome = await one(seats, change("b", seat(0)))
    assert isinstance(outcome, NotPossible)
    assert "site-b" in outcome.reason
    assert await one(seats, change("b", None)) == Done(changed=False)
    assert (await seats.observe()).shown == {}


async def test_our_name_became_an_alias(server: NameServer, seats: SeatNames) -> None:
    await one(seats, change("b", seat(0)))
    await take(server, seat(0).name, "A", seat(0).address)
    await put(server, seat(0).name, "CNAME", f"ns.{ZONE}")
    outcome = await one(seats, change("b", seat(0), seat(0)))
    assert isinstance(outcome, NotPossible)
    assert "alias" in outcome.reason


async def test_an_alias_that_slips_in_between_is_noticed(server: NameServer, seats: SeatNames) -> None:
    """Such an update is answered with success and does nothing, so only a prerequisite can tell."""

    class Meddled(Lossy):
        async def update(self, update: Update) -> str:
            if any(edit.type == "A" for edit in update.edits):
                await put(server, seat(0).name, "CNAME", f"ns.{ZONE}")
            return await super().update(update)

    await one(seats, change("b", seat(0)))
    await take(server, seat(0).name, "A", seat(0).address)
    meddled = seats_of(Meddled(server, lost=0, delivered=True))
    outcome = await one(meddled, change("b", seat(0), seat(0)))
    assert isinstance(outcome, NotPossible)
    assert "alias" in outcome.reason


async def test_without_its_mark_a_name_is_not_ours(server: NameServer, seats: SeatNames) -> None:
    await one(seats, change("b", seat(0)))
    await take(server, marker_of(seat(0).name), "TXT", MARK)
    for wanted in (seat(0), seat(0, "10.64.5.5"), None):
        outcome = await one(seats, change("b", wanted, seat(0)))
        assert isinstance(outcome, NotPossible), wanted
        assert seat(0).name in outcome.reason
    assert await values(server, seat(0).name) == {seat(0).address}


async def test_what_vanished_is_shown_again(server: NameServer, seats: SeatNames) -> None:
    await one(seats, change("b", seat(0)))
    await take(server, seat(0).name, "A", seat(0).address)
    await take(server, reverse_name(seat(0).address), "PTR", seat(0).name, REVERSE_ZONE)
    assert await one(seats, change("b", seat(0), seat(0))) == Done()
    assert await values(server, seat(0).name) == {seat(0).address}
    assert await values(server, reverse_name(seat(0).address), "PTR") == {seat(0).name}


async def test_a_late_departure_spares_the_seats_next_owner(server: NameServer, seats: SeatNames) -> None:
    await one(seats, change("old", seat(0)))
    await one(seats, change("new", seat(0)))
    assert await one(seats, change("old", None, seat(0))) == Done(changed=False)
    assert (await seats.observe()).shown == entries(seat(0))


async def test_an_address_that_changed_hands_keeps_its_new_pointer(
    server: NameServer, seats: SeatNames
) -> None:
    old, new = seat(0), NameSpec(f"db-0.db.{ZONE}", seat(0).address, 10)
    await one(seats, change("old", old))
    await one(seats, change("new", new))
    assert await one(seats, change("old", None, old)) == Done()
    assert await values(server, reverse_name(old.address), "PTR") == {new.name}
    assert await values(server, old.name) == set()


async def test_a_seat_and_an_app_cannot_share_a_name(
    server: NameServer, seats: SeatNames, shared: SharedNames
) -> None:
    await one(seats, change("b", NameSpec(APP, "10.64.0.1", 10)))
    outcome = await one(shared, change("b", share("10.64.0.2")))
    assert isinstance(outcome, NotPossible)
    assert "seat" in outcome.reason
    assert await values(server, APP) == {"10.64.0.1"}


@pytest.mark.parametrize(
    "spec",
    [
        NameSpec("web-0.elsewhere.test", "10.64.0.1", 10),
        NameSpec(f"a b.{ZONE}", "10.64.0.1", 10),
        NameSpec(f"web.{ZONE}", "10.64.0.999", 10),
        NameSpec(ZONE, "10.64.0.1", 10),
        ItemSpec("k", "/a", "i", "t", "h", "live"),
    ],
)
async def test_what_cannot_be_a_name_spares_the_rest(seats: SeatNames, spec: Spec) -> None:
    wrong, right = await seats.apply([change("wrong", spec), change("right", seat(0))])
    assert isinstance(wrong, NotPossible)
    assert right == Done()
    seats.lane(change("wrong", spec))
    assert await one(seats, change("wrong", None, spec)) == Done(changed=False)


async def test_an_address_outside_our_reverse_zones_has_no_pointer(
    server: NameServer, seats: SeatNames
) -> None:
    assert await one(seats, change("b", seat(0, "192.0.2.9"))) == Done()
    assert await one(seats, change("b", None, seat(0, "192.0.2.9"))) == Done()


async def test_two_hundred_with_one_bad_one(server: NameServer, seats: SeatNames) -> None:
    await put(server, seat(77).name, "TXT", "a type that is not read")
    changes = [change(f"b{slot}", seat(slot)) for slot in range(200)]
    outcomes = await seats.apply(changes)
    assert [slot for slot, outcome in enumerate(outcomes) if outcome != Done()] == [77]
    assert isinstance(outcomes[77], NotPossible)
    assert len((await seats.observe()).shown) == 2 * 199
    gone = await seats.apply([change(f"b{slot}", None, seat(slot)) for slot in range(200)])
    assert all(isinstance(outcome, Done) for outcome in gone)
    assert (await seats.observe()).shown == {}


async def test_lanes_are_zones(seats: SeatNames) -> None:
    assert seats.lane(change("b", seat(0))) == ZONE
    assert seats.lane(change("b", None, seat(0))) == ZONE
    assert seats.lane(change("b", None)) == ""


async def test_check_tells_what_answered(server: NameServer, seats: SeatNames) -> None:
    line = await seats.check()
    assert server.where in line
    assert f"{ZONE} serial" in line
    assert "\n" not in line
    with pytest.raises(Refused, match=r"nobody\.test"):
        await SeatNames(server, zones=["nobody.test"], owner=OWNER).check()


async def test_a_zone_that_the_server_does_not_have(server: NameServer) -> None:
    sink = SeatNames(server, zones=[ZONE, "nobody.test"], owner=OWNER)
    with pytest.raises(Refused, match=r"nobody\.test"):
        await sink.apply([change("b", NameSpec("a.nobody.test", "10.64.0.1", 10))])


# --- names that are shared --------------------------------------------------------------------------------


async def test_two_share_a_name_and_one_leaves(server: NameServer, shared: SharedNames) -> None:
    first, second = share("10.64.0.1"), share("10.64.0.2")
    assert list(await shared.apply([change("a", first), change("b", second)])) == [Done(), Done()]
    assert await values(server, APP) == {"10.64.0.1", "10.64.0.2"}
    assert set((await shared.observe()).shown) == {f"{APP}/10.64.0.1", f"{APP}/10.64.0.2"}
    assert await one(shared, change("a", None, first)) == Done()
    assert await values(server, APP) == {"10.64.0.2"}
    assert await values(server, marker_of(APP), "TXT") != set()
    assert await one(shared, change("b", None, second)) == Done()
    assert await values(server, APP) | await values(server, marker_of(APP), "TXT") == set()


async def test_an_instance_of_a_paired_pool_shares_by_both_addresses(
    server: NameServer, shared: SharedNames
) -> None:
    first, second = share("10.64.0.1", address6="2001:db8::a40:1"), share("10.64.0.2")
    assert list(await shared.apply([change("a", first), change("b", second)])) == [Done(), Done()]
    assert await values(server, APP) == {"10.64.0.1", "10.64.0.2"}
    assert await values(server, APP, "AAAA") == {"2001:db8::a40:1"}
    assert set((await shared.observe()).shown) == {
        f"{APP}/{address}" for address in ("10.64.0.1", "10.64.0.2", "2001:db8::a40:1")
    }
    assert await one(shared, change("a", None, first)) == Done()
    assert (await values(server, APP), await values(server, APP, "AAAA")) == ({"10.64.0.2"}, set())


async def test_in_one_batch_one_comes_and_one_goes(server: NameServer, shared: SharedNames) -> None:
    await one(shared, change("a", share("10.64.0.1")))
    await shared.apply([change("a", None, share("10.64.0.1")), change("b", share("10.64.0.2"))])
    assert await values(server, APP) == {"10.64.0.2"}


async def test_a_common_address_stays_until_the_last_leaves(server: NameServer, shared: SharedNames) -> None:
    same = share("10.64.0.1")
    await shared.apply([change("a", same), change("b", same)])
    assert await one(shared, change("a", None, same)) == Done(changed=False)
    assert await values(server, APP) == {"10.64.0.1"}
    restarted = SharedNames(server, zones=[ZONE], owner=OWNER)
    await restarted.prime({BindingId("b"): [same], BindingId("c"): [same]})
    await one(restarted, change("c", None, same))
    assert await values(server, APP) == {"10.64.0.1"}
    await restarted.prime({BindingId("c"): []})
    await one(restarted, change("b", None, same))
    assert await values(server, APP) == set()


async def test_values_of_other_hands_in_our_name_stay(server: NameServer, shared: SharedNames) -> None:
    await one(shared, change("a", share("10.64.0.1")))
    await put(server, APP, "A", "192.0.2.1")
    assert await one(shared, change("a", share("10.64.0.2"), share("10.64.0.1"))) == Done()
    assert await values(server, APP) == {"10.64.0.2", "192.0.2.1"}


async def test_a_full_set_keeps_those_who_fit(server: NameServer, shared: SharedNames) -> None:
    changes = [change(f"b{n}", share(f"10.64.1.{n}")) for n in range(1, LARGEST_SET + 6)]
    outcomes = await shared.apply(changes)
    late = [outcome for outcome in outcomes if not isinstance(outcome, Done)]
    assert len(late) == 5
    assert all(isinstance(outcome, RetryAfter) and "limit" in outcome.reason for outcome in late)
    assert len(await values(server, APP)) == LARGEST_SET


async def test_a_foreign_app_name_stays(server: NameServer, shared: SharedNames) -> None:
    await put(server, APP, "A", "192.0.2.1")
    outcome = await one(shared, change("a", share("10.64.0.1")))
    assert isinstance(outcome, NotPossible)
    assert APP in outcome.reason
    assert await values(server, APP) == {"192.0.2.1"}


# --- what really stands there -----------------------------------------------------------------------------


async def test_strangers_are_seen_and_the_zones_own_records_are_not(
    server: NameServer, seats: SeatNames, shared: SharedNames
) -> None:
    await one(seats, change("a", seat(0)))
    await one(shared, change("a", share("10.64.0.1")))
    assert (await seats.observe()).foreign == ()
    await put(server, f"printer.{ZONE}", "A", "192.0.2.1")
    await put(server, seat(0).name, "TXT", "hands off")
    await put(server, "9.9.64.10.in-addr.arpa", "PTR", "elsewhere.example", zone=REVERSE_ZONE)
    await one(seats_of(server, "site-b"), change("b", seat(7)))
    pointer = reverse_name(seat(7).address)
    assert set((await seats.observe()).foreign) == {
        f"printer.{ZONE} A 192.0.2.1: not ours",
        f"{seat(0).name} TXT hands off: not ours",
        "9.9.64.10.in-addr.arpa PTR elsewhere.example: not ours",
        f"{seat(7).name} A {seat(7).address}: belongs to another Mooring, owner site-b",
        f"{pointer} PTR {seat(7).name}: belongs to another Mooring, owner site-b",
    }
    assert (await shared.observe()).foreign == (), "one of the two sinks tells it"
    assert (await seats.observe()).shown == entries(seat(0))


async def test_a_changed_record_is_seen_and_mended(server: NameServer, seats: SeatNames) -> None:
    spec = seat(0)
    await one(seats, change("a", spec))
    await take(server, spec.name, "A", spec.address)
    await put(server, spec.name, "A", "192.0.2.9")
    pointer = reverse_name(spec.address)
    await take(server, pointer, "PTR", spec.name, zone=REVERSE_ZONE)
    shown = (await seats.observe()).shown
    assert shown == {spec.name: NameSpec(spec.name, "192.0.2.9", 60)}
    assert await one(seats, change("a", spec, spec)) == Done()
    assert (await seats.observe()).shown == entries(spec)


async def test_a_second_value_at_a_seats_name_is_a_fault(server: NameServer, seats: SeatNames) -> None:
    spec = seat(0)
    await one(seats, change("a", spec))
    await put(server, spec.name, "A", "192.0.2.9")
    seen = await seats.observe()
    assert seen.faults == {spec.name: f"it shows {spec.address} and 192.0.2.9"}
    assert await one(seats, change("a", spec, spec)) == Done()
    assert await values(server, spec.name) == {spec.address}


async def test_a_second_value_in_a_shared_name_is_seen_by_itself(
    server: NameServer, shared: SharedNames
) -> None:
    await one(shared, change("a", share("10.64.0.1")))
    await put(server, APP, "A", "192.0.2.9")
    extra = SharedNameSpec(APP, "192.0.2.9", 60)
    assert (await shared.observe()).shown[f"{APP}/192.0.2.9"] == extra
    assert await one(shared, change("stale", None, extra)) == Done()
    assert await values(server, APP) == {"10.64.0.1"}


# --- epochs -----------------------------------------------------------------------------------------------


async def test_an_overtaken_daemon_cannot_write(server: NameServer) -> None:
    old, new = seats_of(server), seats_of(server)
    assert await old.newest_epoch() == 0
    assert await one(old, change("a", seat(0), epoch=4)) == Done()
    assert await one(new, change("b", seat(1), epoch=5)) == Done()
    with pytest.raises(Fenced, match="epoch 5"):
        await old.apply([change("c", seat(2), epoch=4)])
    with pytest.raises(Fenced):
        await old.apply([change("a", None, seat(0), epoch=4)])
    assert (await new.observe()).shown == entries(seat(0), seat(1))
    assert await new.newest_epoch() == 5
    assert await seats_of(server, "site-b").newest_epoch() == 0


async def test_a_fence_stops_an_older_daemon_before_the_newer_one_writes(server: NameServer) -> None:
    old, new = seats_of(server), seats_of(server)
    assert await one(old, change("a", seat(0), epoch=4)) == Done()
    await new.fence(Epoch(5))
    await new.fence(Epoch(5))
    with pytest.raises(Fenced, match="epoch 5"):
        await old.apply([change("b", seat(1), epoch=4)])
    with pytest.raises(Fenced, match="epoch 5"):
        await seats_of(server).fence(Epoch(4))
    assert (await new.observe()).shown == entries(seat(0))


# --- failures ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delivered", [True, False])
@pytest.mark.parametrize("lost", [1, 2])
async def test_a_lost_answer_is_read_back(server: NameServer, lost: int, delivered: bool) -> None:
    sink = seats_of(Lossy(server, lost=lost, delivered=delivered))
    assert isinstance(await one(sink, change("b", seat(0))), Done)
    assert (await sink.observe()).shown == entries(seat(0))


async def test_a_server_that_keeps_silent_is_tried_again_later(server: NameServer) -> None:
    sink = seats_of(Lossy(server, lost=99, delivered=False))
    with pytest.raises(Retryable, match="lost"):
        await sink.apply([change("b", seat(0))])


async def test_concurrent_writers_of_one_name_both_get_in(server: NameServer) -> None:
    sinks = [SharedNames(server, zones=[ZONE], owner=OWNER) for _ in range(2)]
    outcomes = await asyncio.gather(
        *(one(sink, change(f"b{n}", share(f"10.64.0.{n}"))) for n, sink in enumerate(sinks, 1))
    )
    assert outcomes == [Done(), Done()]
    assert await values(server, APP) == {"10.64.0.1", "10.64.0.2"}
