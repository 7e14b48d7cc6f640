"""A doubt waits for the worker of its instance, and counts only while it is still true."""

from __future__ import annotations

from mooring.controller.doubts import Doubts
from mooring.core.model import AppId, Binding, BindingId, HostName, InstanceId, SinkName, SinkState, TaskId
from mooring.core.specs import NameSpec

NAMES, LEDGER = SinkName("names"), SinkName("ledger")
SPEC = NameSpec("web-0.mooring.test", "10.0.0.2", 5)
KEY = BindingId("web.instance-1")


def binding(**sinks: SinkState) -> Binding:
    return Binding(
        KEY, AppId("/web"), InstanceId(KEY), 1, TaskId(KEY), HostName("h1"),
        sinks={SinkName(name): state for name, state in sinks.items()},
    )  # fmt: skip


def test_a_doubt_is_taken_once_and_only_for_its_sink() -> None:
    repairs: list[tuple[str, str]] = []
    doubts = Doubts(lambda sink, kind: repairs.append((sink, kind)))
    doubts.cast(KEY, NAMES, 4, "missing")
    before = binding(names=SinkState(SPEC, SPEC, (), 4), ledger=SinkState(SPEC, SPEC, (), 4))
    doubted = doubts.take(before)
    assert not doubted.sink(NAMES).settled
    assert doubted.sink(LEDGER) == before.sink(LEDGER)
    assert repairs == [("names", "missing")]
    assert doubts.take(before) is before


def test_a_doubt_about_what_has_changed_since_is_dropped() -> None:
    repairs: list[tuple[str, str]] = []
    doubts = Doubts(lambda sink, kind: repairs.append((sink, kind)))
    for now in (SinkState(SPEC, SPEC, (), 5), SinkState(None, SPEC, (), 4), SinkState()):
        doubts.cast(KEY, NAMES, 4, "missing")
        assert doubts.take(binding(names=now)) == binding(names=now)
    assert repairs == []


def test_who_is_gone_is_doubted_no_more() -> None:
    doubts = Doubts()
    doubts.cast(KEY, NAMES, 4, "missing")
    doubts.forget(KEY)
    before = binding(names=SinkState(SPEC, SPEC, (), 4))
    assert doubts.take(before) is before
