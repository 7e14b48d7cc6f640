"""The order of things: `next_steps` as a table, and whole walks over twins that fail on command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from msgspec import structs

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
from mooring.core.specs import (
    Endpoint,
    FilesSpec,
    ItemSpec,
    MemberSpec,
    NameSpec,
    PortSpec,
    ProbeSpec,
    ServiceSpec,
    SharedNameSpec,
    Spec,
)
from mooring.handlers.converge import Step, next_steps
from mooring.handlers.wants import (
    APP_NAMES,
    FILES,
    HAPROXY,
    LEDGER,
    NAMES,
    NETWORK,
    NGINX,
    PROBE,
    WEBHOOK,
)

KEY = "web.instance-1"
SINKS = (NETWORK, PROBE, NAMES, LEDGER, WEBHOOK, FILES, HAPROXY, NGINX, APP_NAMES)


def port(host: str = "h1", task: str = "web.instance-1._app.1") -> PortSpec:
    return PortSpec(host, task, "/web", 0, KEY, "10.0.0.5", 24)


def member(state: str) -> MemberSpec:
    return MemberSpec((Endpoint(ServiceSpec("/web", 0, "tcp", 10000), "10.0.0.5", 80),), state)


ITEM = ItemSpec("/web/0", "/web", KEY, "t", "h1", "live")
UP: dict[SinkName, Spec] = {
    NETWORK: port(),
    PROBE: ProbeSpec("h1", "t", "10.0.0.5", (80,)),
    NAMES: NameSpec("web-0.web.test", "10.0.0.5", 5),
    LEDGER: ITEM,
    WEBHOOK: ITEM,
    FILES: FilesSpec("h1", "t", ()),
    HAPROXY: member("up"),
    NGINX: member("up"),
    APP_NAMES: SharedNameSpec("web.test", "10.0.0.5", 5),
}


def binding(sinks: Mapping[SinkName, SinkState], departing: bool = False) -> Binding:
    return Binding(
        BindingId(KEY), AppId("/web"), InstanceId(KEY), 1, TaskId("t"), HostName("h1"), 0, "10.0.0.5",
        departing=departing, sinks=sinks,
    )  # fmt: skip


def walk(start: Binding, broken: Sequence[SinkName] = ()) -> list[list[SinkName]]:
    """Rounds of a walk in which every step succeeds, except on broken sinks."""
    rounds, failed, silent, now = [], set[SinkName](), set[str](), start
    while steps := next_steps(now, SINKS, failed, Epoch(1), silent):
        rounds.append([step.sink for step in steps])
        for step in steps:
            if step.sink in broken:
                failed.add(step.sink)
                silent |= {spec.host for spec in step.change.was if isinstance(spec, PortSpec)}
            else:
                now = after(now, step)
    return rounds


def after(now: Binding, step: Step) -> Binding:
    state = now.sink(step.sink)
    if step.final:
        return now.with_sink(step.sink, state.confirmed(step.change.generation, step.change.wanted))
    return now.with_sink(step.sink, state.without(step.change.was))


def incoming() -> Binding:
    return binding({sink: SinkState().want(spec) for sink, spec in UP.items()})


def outgoing() -> Binding:
    return binding({sink: SinkState(None, spec) for sink, spec in UP.items()}, departing=True)


def test_in_a_container_is_wired_then_named_then_serves() -> None:
    assert walk(incoming()) == [
        [NETWORK],
        [PROBE, NAMES, LEDGER, WEBHOOK, FILES, HAPROXY, NGINX],
        [APP_NAMES],
    ]


def test_no_name_leads_to_a_second_address_before_the_port_has_it() -> None:
    shown = {sink: SinkState(spec, spec) for sink, spec in UP.items()}
    paired = {
        NETWORK: structs.replace(port(), address6="fd00::5", prefix6=64),
        NAMES: NameSpec("web-0.web.test", "10.0.0.5", 5, "fd00::5"),
        APP_NAMES: SharedNameSpec("web.test", "10.0.0.5", 5, "fd00::5"),
    }
    asked = binding({**shown, **{sink: shown[sink].want(spec) for sink, spec in paired.items()}})
    assert walk(asked) == [[NETWORK], [NAMES, APP_NAMES]]
    assert walk(asked, broken=[NETWORK]) == [[NETWORK]]


def test_out_is_the_reverse() -> None:
    rounds = walk(outgoing())
    order = [sink for steps in rounds for sink in steps]
    assert order.index(APP_NAMES) < order.index(HAPROXY) < order.index(NAMES) < order.index(NETWORK)
    assert order.index(NGINX) < order.index(NAMES)
    assert order.index(NETWORK) < order.index(LEDGER)


def test_nothing_is_named_before_it_is_wired() -> None:
    assert walk(incoming(), broken=[NETWORK]) == [[NETWORK]]


def test_a_cmdb_that_is_down_keeps_nobody_from_serving() -> None:
    assert [APP_NAMES] in walk(incoming(), broken=[WEBHOOK, NAMES])


def test_an_app_name_waits_for_all_balancers() -> None:
    assert all(APP_NAMES not in steps for steps in walk(incoming(), broken=[NGINX]))


def test_a_name_server_that_is_down_does_not_keep_a_dead_port_on_the_switch() -> None:
    rounds = walk(outgoing(), broken=[APP_NAMES, NAMES])
    assert [NETWORK] in rounds


def test_traffic_stops_before_the_port_goes() -> None:
    dead = binding(
        {
            NETWORK: SinkState(None, port()),
            HAPROXY: SinkState(member("declared"), member("up")),
            APP_NAMES: SinkState(None, UP[APP_NAMES]),
        }
    )
    assert walk(dead) == [[APP_NAMES], [HAPROXY], [NETWORK]]


def test_a_port_on_another_host_goes_before_the_new_one_comes() -> None:
    moving = binding({NETWORK: SinkState(port("h2", "t2"), port("h1"), (), 3)})
    (first,) = next_steps(moving, SINKS, (), Epoch(1))
    assert (first.change.wanted, first.change.was, first.final) == (None, (port("h1"),), False)
    (second,) = next_steps(after(moving, first), SINKS, (), Epoch(1))
    assert (second.change.wanted, second.final) == (port("h2", "t2"), True)


def test_the_new_port_does_not_come_while_the_old_host_is_silent() -> None:
    moving = binding({NETWORK: SinkState(port("h2", "t2"), port("h1"), (), 3)})
    assert walk(moving, broken=[NETWORK]) == [[NETWORK]]


def test_leftovers_on_several_hosts_go_host_by_host() -> None:
    scattered = binding({NETWORK: SinkState(None, port("h1"), (port("h2"), port("h3")), 3)}, departing=True)
    now, hosts = scattered, []
    while steps := next_steps(now, SINKS, (), Epoch(1)):
        (step,) = steps
        hosts.append([spec.host for spec in step.change.was if isinstance(spec, PortSpec)])
        now = after(now, step)
    assert sorted(host for group in hosts for host in group) == ["h1", "h2", "h3"]
    assert all(len(set(group)) == 1 for group in hosts)
    assert now.settled


def test_one_silent_host_does_not_keep_the_ports_on_the_others() -> None:
    scattered = binding({NETWORK: SinkState(None, port("h1"), (port("h2"),), 3)}, departing=True)
    (step,) = next_steps(scattered, SINKS, [NETWORK], Epoch(1), silent={"h1"})
    assert (step.change.was, step.final) == ((port("h2"),), False)
    assert next_steps(scattered, SINKS, [NETWORK], Epoch(1), silent={"h1", "h2"}) == []


def test_what_leads_to_a_seat_that_was_left_goes_without_waiting_for_the_new_port() -> None:
    old = NameSpec("web-1.web.test", "10.0.0.9", 5)
    moved = binding({NETWORK: SinkState(port()), NAMES: SinkState(UP[NAMES], old, (), 2)})
    undo = next(step for step in next_steps(moved, SINKS, (), Epoch(1)) if step.sink == NAMES)
    assert (undo.change.wanted, undo.change.was, undo.final) == (None, (old,), False)
    assert [step.sink for step in next_steps(after(moved, undo), SINKS, (), Epoch(1))] == [NETWORK]


def test_a_repair_does_not_wait_for_a_silent_host() -> None:
    """A dead container's port cannot be removed now, and somebody has changed its name by hand."""
    name = SinkState(UP[NAMES], UP[NAMES], (), 1).doubted()
    dead = binding({NETWORK: SinkState(None, port()), NAMES: name})
    assert {step.sink for step in next_steps(dead, SINKS, (NETWORK,), Epoch(1))} == {NAMES}
    comes = binding({NETWORK: SinkState(port()), NAMES: SinkState(UP[NAMES])})
    assert {step.sink for step in next_steps(comes, SINKS, (), Epoch(1))} == {NETWORK}


@pytest.mark.parametrize(
    ("wanted", "before", "may_move"), [("down", ITEM, True), ("down", None, False), ("live", None, False)]
)
def test_only_what_was_live_is_told_to_be_down_without_a_port(
    wanted: str, before: Spec | None, may_move: bool
) -> None:
    item = ItemSpec("/web/0", "/web", KEY, "t", "h1", wanted)
    lost = binding({NETWORK: SinkState(port()), LEDGER: SinkState(item, before)})
    assert (LEDGER in {step.sink for step in next_steps(lost, SINKS, (), Epoch(1))}) is may_move
