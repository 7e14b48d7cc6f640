"""What every store promises, asked of each of them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from mooring.controller.store.memory import MemoryStore
from mooring.controller.store.runners import inline
from mooring.controller.store.sqlite import SqliteStore
from mooring.core.errors import Fenced, LeaseConflict, Refused
from mooring.core.model import (
    BindingId,
    Epoch,
    HostName,
    InstanceId,
    LeaseState,
    SinkName,
    SinkState,
)
from mooring.core.specs import (
    Endpoint,
    FileSpec,
    FilesSpec,
    MemberSpec,
    NameSpec,
    PortSpec,
    ProbeSpec,
    Route,
    ServiceSpec,
    SharedNameSpec,
    Spec,
)
from mooring.core.store import (
    DropBinding,
    DropLease,
    HistoryQuery,
    Note,
    PutBinding,
    PutFlag,
    PutItem,
    PutLease,
    RetireItem,
    Store,
    Write,
)
from tests.contract.store_benches import Bench
from tests.contract.store_samples import APP, HOST, POOL, binding, contents, item, lease

EVERYTHING = HistoryQuery(limit=1000)


async def test_a_new_store_is_empty_and_fresh(bench: Bench) -> None:
    assert await bench.store.open() == contents(fresh=True, created=True)
    assert await bench.reopen() == contents(fresh=True)


async def test_it_stays_fresh_until_something_is_stored(bench: Bench, store: Store) -> None:
    assert (await bench.reopen()).fresh
    await bench.store.begin(Epoch(2))
    await bench.store.commit([Note(1.0, "bound", "first")])
    assert not (await bench.reopen()).fresh


async def test_everything_comes_back(bench: Bench, store: Store) -> None:
    service = ServiceSpec("/shop/web", 0, "http", 80, ("shop.example",))
    specs: list[Spec] = [
        PortSpec(HOST, "t", APP, 0, "i", "10.0.0.2", 24, "10.0.0.1", (Route("10.1.0.0/16", "10.0.0.9"),), 7),
        ProbeSpec(HOST, "t", "10.0.0.2", (80, 443)),
        NameSpec("web-0.shop.example", "10.0.0.2", 30),
        SharedNameSpec("web.shop.example", "10.0.0.2", 30),
        item(),
        MemberSpec((Endpoint(service, "10.0.0.2", 8080),), "up"),
        FilesSpec(HOST, "t", (FileSpec("/etc/x", 'quote " and \u00e9\n', command=("kill", "-HUP", "1")),)),
    ]
    sinks = {SinkName(type(spec).__name__): SinkState(spec, None, (spec,), 3) for spec in specs}
    full = binding(slot=0, address="10.0.0.2", pool=POOL, departing=True, incarnation=4, sinks=sinks)
    states = [
        lease(f"10.0.0.{10 + number}", None, state=state, until=2000.25)
        for number, state in enumerate(LeaseState)
    ]
    unleased = binding("web.2", sinks={SinkName("name"): SinkState(None, specs[2], tuple(specs[:2]), 9)})
    await store.commit([PutBinding(full), PutBinding(unleased), PutFlag("pause", "all")])
    await store.commit([PutLease(each, None) for each in states])
    assert await bench.reopen() == contents([full, unleased], states, {"pause": "all"}, Epoch(1))


async def test_a_binding_is_replaced_whole(bench: Bench, store: Store) -> None:
    name = NameSpec("web-0.shop.example", "10.0.0.2", 30)
    first = binding().with_sink(SinkName("name"), SinkState(name)).with_sink(SinkName("old"), SinkState(name))
    second = binding(host=HostName("agent-2"), sinks={SinkName("name"): SinkState(None, name, (), 1)})
    await store.commit([PutBinding(first)])
    await store.commit([PutBinding(second)])
    assert (await bench.reopen()).bindings == [second]


@pytest.mark.parametrize(
    "change", [{"wanted": None}, {"applied": None}, {"residue": ()}, {"generation": 6}], ids=str
)
async def test_every_part_of_a_sink_state_is_kept(
    bench: Bench, store: Store, change: dict[str, object]
) -> None:
    one, two = NameSpec("a.example", "10.0.0.2", 30), NameSpec("b.example", "10.0.0.2", 30)
    before = SinkState(one, two, (one, two), 5)
    after = replace(before, **change)  # type: ignore[arg-type]
    for state in (before, after):
        await store.commit([PutBinding(binding(sinks={SinkName("name"): state}))])
    assert (await bench.reopen()).bindings == [binding(sinks={SinkName("name"): after})]


async def test_a_dropped_binding_is_gone_and_an_unknown_one_is_no_error(bench: Bench, store: Store) -> None:
    stays = binding("web.2", sinks={SinkName("name"): SinkState(generation=2)})
    await store.commit([PutBinding(binding(sinks={SinkName("name"): SinkState()})), PutBinding(stays)])
    await store.commit([DropBinding(BindingId("web.1")), DropBinding(BindingId("never.seen"))])
    assert (await bench.reopen()).bindings == [stays]


async def test_flags_are_set_changed_and_removed(bench: Bench, store: Store) -> None:
    await store.commit([PutFlag("pause", "all"), PutFlag("pause /a", "1"), PutFlag("never set", None)])
    await store.commit([PutFlag("pause", None), PutFlag("pause /a", "2")])
    assert (await bench.reopen()).flags == {"pause /a": "2"}


async def test_a_lease_follows_its_generations(bench: Bench, store: Store) -> None:
    await store.commit([PutLease(lease(), None)])
    await store.commit([PutLease(lease(generation=2, host=HostName("agent-2")), 1)])
    await store.commit([PutLease(lease(generation=7), 2)])
    assert (await bench.reopen()).leases == [lease(generation=7)]


@pytest.mark.parametrize(
    "refused",
    [
        pytest.param(PutLease(lease(slot=9), None), id="the address has a lease"),
        pytest.param(PutLease(lease(generation=3), 1), id="an older generation was expected"),
        pytest.param(PutLease(lease(generation=4), 3), id="a newer generation was expected"),
        pytest.param(PutLease(lease(generation=2), 2), id="the generation does not rise"),
        pytest.param(PutLease(lease("10.0.0.3"), None), id="the seat has another address"),
        pytest.param(PutLease(lease("10.0.0.4", 0, 2), 1), id="the other lease would take the seat"),
        pytest.param(PutLease(lease("10.0.0.9", 5), 1), id="there is nothing to replace"),
        pytest.param(DropLease("10.0.0.2", 1), id="drop of an older generation"),
        pytest.param(DropLease("10.0.0.9", 1), id="drop of nothing"),
    ],
)
async def test_a_conflict_leaves_no_trace_of_its_transaction(
    bench: Bench, store: Store, refused: PutLease | DropLease
) -> None:
    kept = [lease(generation=2), lease("10.0.0.4", 1)]
    await store.commit([PutLease(lease(), None), PutBinding(binding()), PutFlag("pause", "all")])
    await store.commit([PutLease(kept[0], 1), PutLease(kept[1], None), PutItem(item(), 5.0)])
    with pytest.raises(LeaseConflict, match=r"10\.0\.0\."):
        await store.commit(
            [
                PutBinding(binding(departing=True)),
                PutBinding(binding("web.2")),
                PutLease(lease("10.0.0.5", 4), None),
                PutLease(lease("10.0.0.4", 6, 2), 1),
                DropLease("10.0.0.4", 2),
                PutLease(kept[1], None),
                PutFlag("pause", None),
                PutFlag("other", "1"),
                PutItem(item("/shop/web/1"), 6.0),
                RetireItem(item().key, 6.0),
                Note(6.0, "bound", "must vanish"),
                refused,
            ]
        )
    assert await store.history(HistoryQuery()) == []
    assert [row.retired_at for row in await store.ledger(live_only=False)] == [None]
    assert await bench.reopen() == contents([binding()], kept, {"pause": "all"}, Epoch(1))


async def test_a_freed_seat_and_address_can_be_given_again_at_once(bench: Bench, store: Store) -> None:
    await store.commit([PutLease(lease(), None)])
    again = lease("10.0.0.3", 0)
    await store.commit([DropLease("10.0.0.2", 1), PutLease(again, None), PutLease(lease(slot=1), None)])
    assert (await bench.reopen()).leases == [lease(slot=1), again]


async def test_cooling_leases_of_an_app_do_not_compete_for_a_seat(bench: Bench, store: Store) -> None:
    cooling = [lease(f"10.0.0.{n}", None, state=LeaseState.COOLING, binding=None) for n in (2, 3, 4)]
    await store.commit([PutLease(each, None) for each in cooling])
    assert (await bench.reopen()).leases == cooling


async def test_concurrent_commits_stand_or_fall_alone(bench: Bench, store: Store) -> None:
    rivals: list[list[Write]] = [
        [PutLease(lease(binding=BindingId(f"web.{n}")), None), Note(float(n), "bound", "x")]
        for n in range(20)
    ]
    others: list[list[Write]] = [[PutLease(lease(f"10.0.1.{n}", n + 1), None)] for n in range(20)]
    given = [store.commit(writes) for pair in zip(rivals, others, strict=True) for writes in pair]
    results = await asyncio.gather(*given, return_exceptions=True)
    assert results[1::2] == [None] * 20
    assert [type(result) for result in results[::2]].count(LeaseConflict) == 19
    assert len(await store.history(HistoryQuery())) == 1
    assert len((await bench.reopen()).leases) == 21


async def test_commits_keep_the_order_they_were_given_in(bench: Bench, store: Store) -> None:
    await asyncio.gather(*(store.commit([PutFlag("last", str(n))]) for n in range(50)))
    assert (await bench.reopen()).flags == {"last": "49"}


async def test_a_cancelled_caller_does_not_tear_its_transaction(bench: Bench, store: Store) -> None:
    task = asyncio.create_task(store.commit([PutLease(lease(), None), PutBinding(binding())]))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await store.commit([PutFlag("alive", "1")])
    found = await bench.reopen()
    assert (len(found.leases), len(found.bindings)) in ((0, 0), (1, 1))
    assert found.flags == {"alive": "1"}


async def test_an_older_epoch_is_fenced_whole(bench: Bench, store: Store) -> None:
    await store.commit([PutFlag("mine", "1")])
    bench.overtake(Epoch(2))
    with pytest.raises(Fenced, match="epoch 2"):
        await store.commit([PutFlag("mine", "2")])
    with pytest.raises(Fenced):
        await store.begin(Epoch(2))
    assert await bench.reopen() == contents(flags={"mine": "1"}, epoch=Epoch(2), fresh=True)
    await bench.store.begin(Epoch(3))
    await bench.store.commit([PutFlag("mine", "3")])
    assert (await bench.reopen()).flags == {"mine": "3"}


async def test_a_daemon_whose_reading_is_outdated_may_not_begin(bench: Bench, store: Store) -> None:
    await bench.reopen()
    bench.overtake(Epoch(2))
    with pytest.raises(Fenced, match="after this daemon had read it"):
        await bench.store.begin(Epoch(3))
    await bench.reopen()
    await bench.store.begin(Epoch(3))


async def test_nothing_is_written_without_an_epoch(bench: Bench) -> None:
    await bench.store.open()
    with pytest.raises(Fenced):
        await bench.store.commit([PutFlag("a", "1")])
    await bench.store.begin(Epoch(4))
    with pytest.raises(Fenced):
        await bench.store.begin(Epoch(4))
    assert (await bench.reopen()).epoch == 4
    with pytest.raises(Fenced):
        await bench.store.commit([PutFlag("a", "1")])


async def test_the_ledger_remembers_when_items_lived(store: Store) -> None:
    await store.commit([PutItem(item("/b"), 1.0), PutItem(item("/a"), 2.0)])
    await store.commit([PutItem(item("/b", "down"), 3.0), RetireItem("/a", 4.0), RetireItem("/none", 4.0)])
    await store.commit([RetireItem("/a", 5.0)])
    live = await store.ledger()
    assert [(row.item.key, row.item.status, row.since) for row in live] == [("/b", "down", 1.0)]
    assert [(row.item.key, row.since, row.retired_at) for row in await store.ledger(live_only=False)] == [
        ("/a", 2.0, 4.0),
        ("/b", 1.0, None),
    ]
    await store.commit([PutItem(item("/a"), 6.0)])
    assert [(row.item.key, row.since, row.retired_at) for row in await store.ledger()] == [
        ("/a", 6.0, None),
        ("/b", 1.0, None),
    ]


async def test_history_is_newest_first_and_can_be_asked_by_address(bench: Bench, store: Store) -> None:
    notes = [
        Note(float(n), "bound", "why", f"10.0.0.{n % 2}", APP, n, InstanceId("i"), HOST, POOL, 12, n, epoch=1)
        for n in range(6)
    ]
    await store.commit([msgspec.structs.replace(note, epoch=None) for note in notes[:3]])
    await store.commit([*notes[3:], Note(9.0, "started", "no address")])
    assert [note.at for note in await store.history(HistoryQuery(limit=3))] == [9.0, 5.0, 4.0]
    assert await store.history(HistoryQuery("10.0.0.1")) == [notes[5], notes[3], notes[1]]
    assert await store.history(HistoryQuery("10.0.0.77")) == []


async def test_a_second_daemon_is_refused_until_the_first_is_gone(bench: Bench, store: Store) -> None:
    with pytest.raises(Refused, match="in use"):
        await bench.make().open()
    await store.commit([PutFlag("still", "writes")])
    assert (await bench.reopen()).flags == {"still": "writes"}


async def test_a_closed_store_says_so(bench: Bench, store: Store) -> None:
    await store.close()
    await store.close()
    with pytest.raises(Refused, match="not open"):
        await store.commit([PutFlag("a", "1")])
    with pytest.raises(Refused, match="not open"):
        await store.history(HistoryQuery())


async def test_the_twin_can_begin_with_what_a_file_holds(tmp_path: Path) -> None:
    file = SqliteStore(tmp_path / "store.db", inline)
    await file.open()
    await file.begin(Epoch(5))
    await file.commit([PutLease(lease(), None), PutBinding(binding())])
    await file.close()
    found = await file.open()
    await file.close()
    twin = MemoryStore(found)
    assert await twin.open() == found
    with pytest.raises(Fenced):
        await twin.begin(Epoch(5))
    await twin.begin(Epoch(6))
    with pytest.raises(LeaseConflict):
        await twin.commit([PutLease(lease("10.0.0.3"), None)])
