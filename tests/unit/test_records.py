"""What memory counts beside the bindings it holds."""

from __future__ import annotations

from dataclasses import replace

from mooring.controller.store.memory import MemoryStore
from mooring.core.model import (
    AppId,
    Binding,
    BindingId,
    Epoch,
    HostName,
    InstanceId,
    SinkName,
    SinkState,
    TaskId,
)
from mooring.core.specs import NameSpec
from mooring.core.store import DropBinding, PutBinding
from mooring.handlers.records import Records
from mooring.ipam.book import LeaseBook
from mooring.ipam.pools import Pool, Pools

DNS, LEDGER = SinkName("names"), SinkName("ledger")
SPEC = NameSpec("web.example", "10.0.0.2", 10)


def binding(number: int, **sinks: SinkState) -> Binding:
    id = f"web.instance-{number}"
    return Binding(
        BindingId(id), AppId("/web"), InstanceId(id), 1, TaskId(f"{id}._app.1"), HostName("h1"),
        sinks={SinkName(name): state for name, state in sinks.items()},
    )  # fmt: skip


async def opened(*held: Binding) -> Records:
    store = MemoryStore()
    contents = await store.open()
    await store.begin(Epoch(1))
    book = LeaseBook(Pools([Pool.parse("blue", "10.0.0.0/28")]))
    records = Records(store, book, replace(contents, bindings=held))
    await store.commit([PutBinding(each) for each in held])
    return records


async def test_the_unsettled_are_counted_by_sink_through_every_change() -> None:
    waiting, done = SinkState(SPEC, None), SinkState(SPEC, SPEC)
    first, second = binding(1, names=waiting, ledger=done), binding(2, names=waiting, ledger=waiting)
    records = await opened(first)
    assert {sink: count for sink, count in records.unsettled().items() if count} == {DNS: 1}
    await records.save(second)
    assert records.unsettled() == {DNS: 2, LEDGER: 1}
    await records.save(replace(first, sinks={DNS: done, LEDGER: done}))
    assert records.unsettled() == {DNS: 1, LEDGER: 1}
    await records.commit([DropBinding(second.id)])
    assert set(records.unsettled().values()) == {0}
