"""Whose is each port? The cases of the table, one by one, and what the plan says of them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring.controller.adopt import enter
from mooring.controller.rebuild_plan import RebuildPlan, draw
from mooring.controller.store.memory import MemoryStore
from mooring.controller.weigh import Weighed, weigh
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
    SinkState,
    TaskId,
)
from mooring.core.specs import NameSpec, PortSpec
from mooring.core.store import Contents
from mooring.handlers.marks import Mark
from mooring.handlers.records import Records
from mooring.handlers.wants import NAMES, NETWORK
from mooring.ipam.book import LeaseBook
from mooring.ipam.pools import Pool, Pools
from tests.unit.fake_time import SteppedClock

HOSTS = ("h1", "h2", "h3")
STORED = 5  # the store's epoch


def mark(
    address: str, instance: str, host: str = "h1", *, epoch: int = 3, generation: int = 1, slot: int = 0,
    incarnation: int = 1, alive: bool = True,
) -> Mark:  # fmt: skip
    task = f"{instance}._app.{incarnation}"
    port = PortSpec(host=host, task=task, app="/web", slot=slot, instance=instance,
                    address=address, prefix=24, lease_generation=generation)  # fmt: skip
    return Mark(port, Epoch(epoch), alive)


def held(
    address: str, instance: str, host: str = "h1", *, slot: int = 0, generation: int = 1
) -> tuple[Binding, Lease]:
    """A binding that the store has, with its lease and port."""
    port = mark(address, instance, host, slot=slot, generation=generation).port
    binding = Binding(
        BindingId(instance), AppId("/web"), InstanceId(instance), 1, TaskId(port.task), HostName(host), slot,
        address, PoolName("blue"), sinks={NETWORK: SinkState(port, port)},
    )  # fmt: skip
    lease = Lease(address, PoolName("blue"), LeaseState.BOUND, AppId("/web"), slot, BindingId(instance),
                  HostName(host), generation, 0.0)  # fmt: skip
    return binding, lease


def records_of(*known: tuple[Binding, Lease], idle: tuple[Lease, ...] = ()) -> Records:
    pools = Pools([Pool.parse("blue", "10.0.0.0/24", reservations={"10.0.0.9": "a printer"})])
    contents = Contents(
        bindings=[binding for binding, _ in known], leases=[*(lease for _, lease in known), *idle]
    )
    return Records(MemoryStore(contents), LeaseBook(pools, contents.leases), contents)


def judged(
    records: Records, *marks: Mark, answered: tuple[str, ...] = HOSTS, lives: dict[str, str] | None = None
) -> Weighed:
    """`lives`: the host of each instance that Marathon lists; its task is the first."""
    places = {instance: (host, f"{instance}._app.1") for instance, host in (lives or {}).items()}
    return weigh(
        marks, answered, records, lambda lease: (STORED, lease.generation), lambda one: places.get(str(one))
    )


def entered(records: Records, weighed: Weighed, names: Any = None) -> Records:
    async def main() -> None:
        await records.store.open()
        await records.store.begin(Epoch(9))
        await enter(records, weighed, names or {}, SteppedClock())

    asyncio.run(main())
    return records


def seats(weighed: Weighed) -> set[tuple[str, str, bool]]:
    return {(seat.mark.port.address, seat.mark.port.instance, seat.left) for seat in weighed.seats}


def leftovers(weighed: Weighed) -> set[tuple[str, str]]:
    return {(one.mark.port.address, one.mark.port.host) for one in weighed.leftovers}


def holder(records: Records, address: str) -> str | None:
    lease = records.book.by_address(address)
    return lease.binding if lease is not None and lease.state is LeaseState.BOUND else None


def plan_of(weighed: Weighed, records: Records, listed: set[str] | None = None, **silent: str) -> RebuildPlan:
    return draw(weighed, {}, {}, records.book, {InstanceId(one) for one in listed or ()}, silent, ())


class TestAnEmptyStore:
    def test_every_port_keeps_its_address(self) -> None:
        records = records_of()
        weighed = judged(records, mark("10.0.0.2", "a"), mark("10.0.0.3", "b", "h2", slot=1))
        assert seats(weighed) == {("10.0.0.2", "a", False), ("10.0.0.3", "b", False)}
        assert (weighed.leftovers, weighed.missing, weighed.known) == ([], [], 0)
        entered(records, weighed)
        assert (holder(records, "10.0.0.2"), holder(records, "10.0.0.3")) == ("a", "b")
        assert [lease.slot for lease in records.book.leases()] == [0, 1]

    def test_what_lives_outside_all_pools_is_named_for_the_operator(self) -> None:
        records = records_of()
        marks = (mark("10.9.0.2", "a"), mark("10.9.0.3", "b"), mark("10.0.0.2", "c"))
        weighed = judged(records, *marks, lives={"a": "h1", "c": "h1"})
        assert plan_of(weighed, records, {"a", "c"}).homeless == ("10.9.0.2",)

    @pytest.mark.parametrize(("epoch", "generation"), [(4, 1), (3, 2), (4, 2)])
    def test_of_two_claims_the_higher_epoch_wins_then_the_generation(
        self, epoch: int, generation: int
    ) -> None:
        stronger = mark("10.0.0.2", "b", "h2", epoch=epoch, generation=generation)
        for marks in ([mark("10.0.0.2", "a"), stronger], [stronger, mark("10.0.0.2", "a")]):
            weighed = judged(records_of(), *marks)
            assert seats(weighed) == {("10.0.0.2", "b", False)}
            assert leftovers(weighed) == {("10.0.0.2", "h1")}

    def test_a_higher_epoch_beats_a_higher_generation(self) -> None:
        weighed = judged(
            records_of(), mark("10.0.0.2", "a", epoch=3, generation=9), mark("10.0.0.2", "b", "h2", epoch=4)
        )
        assert seats(weighed) == {("10.0.0.2", "b", False)}

    def test_the_older_port_of_an_instance_is_left_with_its_address_in_hand(self) -> None:
        records = records_of()
        old, new = mark("10.0.0.2", "a"), mark("10.0.0.3", "a", "h2", slot=1, incarnation=2)
        weighed = judged(records, old, new)
        assert seats(weighed) == {("10.0.0.2", "a", True), ("10.0.0.3", "a", False)}
        entered(records, weighed)
        assert (holder(records, "10.0.0.2"), holder(records, "10.0.0.3")) == ("a~1", "a")

    def test_where_marathon_has_the_instance_counts_for_more_than_numbers(self) -> None:
        weighed = judged(
            records_of(),
            mark("10.0.0.2", "a"),
            mark("10.0.0.3", "a", "h2", slot=1, incarnation=2),
            lives={"a": "h1"},
        )
        assert seats(weighed) == {("10.0.0.2", "a", False), ("10.0.0.3", "a", True)}

    def test_a_port_outside_all_pools_has_to_go(self) -> None:
        weighed = judged(records_of(), mark("10.9.9.9", "a"))
        assert leftovers(weighed) == {("10.9.9.9", "h1")}
        assert "no pool" in weighed.leftovers[0].reason

    def test_a_leftover_leaves_under_its_instances_name_only_if_that_lives_there(self) -> None:
        for lives, key in (({"a": "h1"}, "a"), ({}, "a~1"), ({"a": "h3"}, "a~1")):
            records = records_of()
            weighed = judged(
                records, mark("10.0.0.2", "a"), mark("10.0.0.2", "b", "h2", epoch=4), lives=lives
            )
            entered(records, weighed)
            (left,) = (binding for binding in records.all() if binding.departing)
            assert (left.id, left.address) == (key, None)
            assert left.sink(NETWORK).shown == (mark("10.0.0.2", "a").port,)

    def test_names_come_along(self) -> None:
        records, name = records_of(), NameSpec("web-0.web.test", "10.0.0.2", 10)
        entered(records, judged(records, mark("10.0.0.2", "a")), {"10.0.0.2": {NAMES: [name]}})
        (binding,) = records.all()
        assert binding.sink(NAMES).shown == (name,)


class TestAnOldCopy:
    def test_what_it_knows_is_left_alone(self) -> None:
        records = records_of(held("10.0.0.2", "a"))
        weighed = judged(records, mark("10.0.0.2", "a"))
        assert (weighed.known, weighed.seats, weighed.leftovers, weighed.missing) == (1, [], [], [])
        assert weighed.found == {"a": "10.0.0.2"}
        before = records.all()
        assert entered(records, weighed).all() == before

    def test_an_address_that_went_to_another_since_goes_to_the_other(self) -> None:
        records = records_of(held("10.0.0.2", "a"))
        weighed = judged(records, mark("10.0.0.2", "b", "h2", epoch=6, generation=4))
        assert seats(weighed) == {("10.0.0.2", "b", False)}
        entered(records, weighed)
        assert holder(records, "10.0.0.2") == "b"
        loser = records.get(BindingId("a"))
        assert loser is not None
        assert (loser.address, loser.slot, loser.sink(NETWORK).shown) == (None, None, ())
        lease = records.book.by_address("10.0.0.2")
        assert lease is not None
        assert lease.generation >= 4

    def test_within_the_stores_own_epoch_the_generation_decides(self) -> None:
        newer = mark("10.0.0.2", "b", "h2", epoch=STORED, generation=4)
        assert seats(judged(records_of(held("10.0.0.2", "a", generation=3)), newer)) == {
            ("10.0.0.2", "b", False)
        }
        for generation in (4, 5):
            weighed = judged(records_of(held("10.0.0.2", "a", generation=generation)), newer)
            assert seats(weighed) == set()
            assert leftovers(weighed) == {("10.0.0.2", "h2")}
            assert "store gives the address to a" in weighed.leftovers[0].reason

    def test_an_instance_that_moved_since_keeps_its_seat_at_its_new_place(self) -> None:
        records = records_of(held("10.0.0.2", "a"))
        entered(records, judged(records, mark("10.0.0.2", "a", "h2", epoch=6, generation=2, incarnation=2)))
        binding = records.get(BindingId("a"))
        assert binding is not None
        assert (binding.host, binding.incarnation, binding.address) == ("h2", 2, "10.0.0.2")
        lease = records.book.by_address("10.0.0.2")
        assert lease is not None
        assert (lease.host, lease.state) == ("h2", LeaseState.BOUND)

    def test_an_instance_that_has_another_address_since_gives_its_former_one_back(self) -> None:
        records = records_of(held("10.0.0.2", "a"))
        entered(records, judged(records, mark("10.0.0.3", "a", "h2", epoch=6, slot=1, incarnation=2)))
        assert holder(records, "10.0.0.3") == "a"
        former = records.book.by_address("10.0.0.2")
        assert former is not None
        assert former.state is LeaseState.COOLING

    @pytest.mark.parametrize(("found_slot", "kept_slot"), [(1, 0), (0, None)])
    def test_its_former_address_stays_in_hand_while_the_host_it_was_on_is_silent(
        self, found_slot: int, kept_slot: int | None
    ) -> None:
        binding, lease = held("10.0.0.2", "a", "h3")
        name = NameSpec("web-0.web.test", "10.0.0.2", 10)
        records = records_of((binding.with_sink(NAMES, SinkState(name, name)), lease))
        found = mark("10.0.0.3", "a", "h2", epoch=6, slot=found_slot, incarnation=2)
        entered(records, judged(records, found, answered=("h1", "h2")))
        former = records.book.by_address("10.0.0.2")
        assert former is not None
        assert (former.state, former.binding, former.host) == (LeaseState.STRANDED, "a~1", "h3")
        assert former.slot == kept_slot
        left, own = records.get(BindingId("a~1")), records.get(BindingId("a"))
        assert left is not None
        assert own is not None
        assert left.departing
        assert left.sink(NETWORK).shown == (mark("10.0.0.2", "a", "h3").port,)
        assert (own.address, own.slot, own.host) == ("10.0.0.3", found_slot, "h2")
        assert (own.sink(NAMES).wanted, own.sink(NAMES).shown) == (None, (name,))

    def test_two_that_have_swapped_addresses_are_both_left_where_they_are(self) -> None:
        records = records_of(held("10.0.0.2", "a"), held("10.0.0.3", "b", slot=1))
        weighed = judged(
            records,
            mark("10.0.0.3", "a", epoch=6, generation=5, slot=1),
            mark("10.0.0.2", "b", epoch=6, generation=5),
        )
        entered(records, weighed)
        assert (holder(records, "10.0.0.2"), holder(records, "10.0.0.3")) == ("b", "a")
        assert [records.get(BindingId(one)).address for one in "ab"] == ["10.0.0.3", "10.0.0.2"]  # type: ignore[union-attr]

    def test_an_idle_seat_of_the_same_slot_is_out_of_date(self) -> None:
        idle = Lease("10.0.0.7", PoolName("blue"), LeaseState.IDLE, AppId("/web"), 0, None, None, 3, 0.0, 9e9)
        records = records_of(idle=(idle,))
        entered(records, judged(records, mark("10.0.0.2", "a", epoch=6)))
        assert records.book.by_address("10.0.0.7").state is LeaseState.COOLING  # type: ignore[union-attr]
        assert records.book.by_address("10.0.0.2").slot == 0  # type: ignore[union-attr]

    def test_a_port_that_is_missing_on_a_host_that_answered_is_doubted(self) -> None:
        records = records_of(held("10.0.0.2", "a"))
        weighed = judged(records)
        assert [binding.id for binding in weighed.missing] == ["a"]
        entered(records, weighed)
        assert not records.get(BindingId("a")).settled  # type: ignore[union-attr]
        assert judged(records_of(held("10.0.0.2", "a")), answered=("h2",)).missing == []

    def test_what_leaves_already_needs_no_second_record(self) -> None:
        binding, lease = held("10.0.0.2", "b", "h2", generation=7)
        other = held("10.0.0.3", "a", slot=1)[0]
        port = mark("10.0.0.2", "a").port
        left = replace(other, id=BindingId("a~1"), departing=True, address=None, slot=None,
                       sinks={NETWORK: SinkState(None, port)})  # fmt: skip
        records = records_of((binding, lease), (left, held("10.0.0.4", "x", slot=2)[1]))
        weighed = judged(records, mark("10.0.0.2", "a"), mark("10.0.0.2", "b", "h2", generation=7))
        assert (weighed.known, weighed.leftovers, weighed.seats) == (1, [], [])


class TestThePlan:
    def test_it_says_what_was_just_killed_and_what_is_reserved(self) -> None:
        records = records_of()
        plan = plan_of(
            judged(records, mark("10.0.0.2", "a"), mark("10.0.0.3", "b", "h2", slot=1)), records, {"a"}
        )
        told = {row.address: (row.action, row.reason) for row in plan.rows}
        assert told["10.0.0.2"] == ("keep", "")
        assert told["10.0.0.3"] == ("keep", "Marathon does not list it: it leaves in the ordinary way")
        assert told["10.0.0.9"] == ("reserved", "pool blue: a printer")

    def test_its_digest_names_the_lines_and_the_silent_but_not_the_reasons(self) -> None:
        records = records_of()
        weighed = judged(records, mark("10.0.0.2", "a"))
        plan = plan_of(weighed, records, {"a"})
        assert plan.digest == plan_of(weighed, records).digest
        assert plan.digest != plan_of(weighed, records, {"a"}, h3="away").digest
        assert plan.digest != plan_of(judged(records, mark("10.0.0.3", "a")), records, {"a"}).digest

    def test_an_address_known_from_names_rests_and_says_who_may_still_have_it(self) -> None:
        records, name = records_of(), NameSpec("web-0.web.test", "10.0.0.2", 10)
        args: Any = ({"10.0.0.2": {NAMES: [name]}}, {"10.0.0.3": "haproxy"}, records.book, set())
        plan = draw(Weighed(), *args, {"h3": "away"}, ())
        told = {row.address: row for row in plan.rows}
        assert told["10.0.0.2"].action == told["10.0.0.3"].action == "quarantine"
        assert "web-0.web.test" in told["10.0.0.2"].reason
        assert "haproxy" in told["10.0.0.3"].reason
        assert all("kept if h3 still has it" in told[address].reason for address in ("10.0.0.2", "10.0.0.3"))

    def test_what_the_store_lets_rest_rests_anew_and_what_is_set_aside_stays_so(self) -> None:
        records, name = records_of(), NameSpec("web-0.web.test", "10.0.0.2", 10)
        book = records.book
        for address in ("10.0.0.2", "10.0.0.3", "10.0.0.4"):
            book.accept(book.plan_quarantine(address, 1.0, "gone"))
        book.accept(book.plan_conflict("10.0.0.3", 2.0, "a stranger"))
        shown = {address: {NAMES: [name]} for address in ("10.0.0.2", "10.0.0.3")}
        plan = draw(Weighed(), shown, {}, book, set(), {}, ())
        told = {row.address: row for row in plan.rows if "printer" not in row.reason}
        assert {address: row.action for address, row in told.items()} == {
            "10.0.0.2": "quarantine",
            "10.0.0.3": "reserved",
        }
        assert told["10.0.0.3"].reason.endswith("which goes: names web-0.web.test; stays conflicted")


marks = st.builds(
    mark,
    st.sampled_from([f"10.0.0.{last}" for last in range(2, 6)]),
    st.sampled_from("abcd"),
    st.sampled_from(HOSTS),
    epoch=st.integers(1, 8),
    generation=st.integers(1, 6),
    slot=st.integers(0, 3),
    incarnation=st.integers(1, 3),
    alive=st.booleans(),
)


@given(
    st.lists(marks, max_size=6, unique_by=lambda one: (one.port.host, one.port.instance)),
    st.sets(st.integers(0, 3)),
)
def test_whatever_is_found_no_address_is_in_two_hands_and_no_port_is_forgotten(
    found: list[Mark], known: set[int]
) -> None:
    """Each port ends as a seat, or as what a record has detached; and looking again finds nothing new."""
    stored = [
        held(f"10.0.0.{2 + number}", "abcd"[number], HOSTS[number % 3], slot=number)
        for number in sorted(known)
    ]
    records = records_of(*stored)
    entered(records, judged(records, *found))
    for one in found:
        owners = [
            binding for binding in records.all()
            if binding.instance == one.port.instance and one.port.host in {
                spec.host for spec in binding.sink(NETWORK).shown if isinstance(spec, PortSpec)
            }
        ]  # fmt: skip
        assert owners, one
        assert any(binding.address == one.port.address or binding.departing for binding in owners)
    bound = [lease for lease in records.book.leases() if lease.state is LeaseState.BOUND]
    assert len({lease.binding for lease in bound}) == len(bound)
    for lease in bound:
        assert records.get(lease.binding).address == lease.address  # type: ignore[union-attr, arg-type]
    again = judged(records, *found)
    assert again.leftovers == []
    assert all(seat.before is None for seat in again.seats), "a second look takes nothing from anybody"


class TestAHostThatAnswersLate:
    """It tells of its own ports only; where an instance lives may have been heard from another before."""

    def test_it_does_not_unseat_an_instance_that_lives_elsewhere_by_now(self) -> None:
        records = records_of(held("10.0.0.4", "a", "h2", generation=5))
        weighed = judged(records, mark("10.0.0.3", "a", "h1"), answered=("h1",))
        assert seats(weighed) == {("10.0.0.3", "a", True)}
        [row] = [row for row in plan_of(weighed, records).rows if row.address == "10.0.0.3"]
        assert row.action == "detach"
        assert row.reason == "its instance lives elsewhere, as the store has it; given back then"
        entered(records, weighed)
        assert (holder(records, "10.0.0.4"), holder(records, "10.0.0.3")) == ("a", "a~1")

    def test_a_newer_port_is_the_instances_own_all_the_same(self) -> None:
        records = records_of(held("10.0.0.4", "a", "h2", generation=5))
        late = mark("10.0.0.3", "a", "h1", epoch=STORED + 1, incarnation=2)
        assert seats(judged(records, late, answered=("h1",))) == {("10.0.0.3", "a", False)}

    def test_a_port_that_was_looked_for_in_vain_counts_for_nothing(self) -> None:
        records = records_of(held("10.0.0.4", "a", "h2", generation=5))
        weighed = judged(records, mark("10.0.0.3", "a", "h1"), answered=("h1", "h2"))
        assert seats(weighed) == {("10.0.0.3", "a", False)}
