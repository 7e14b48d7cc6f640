"""What each sink shall show: the table in the header of `handlers.wants`, and its exceptions."""

from __future__ import annotations

from dataclasses import replace

import pytest
from msgspec import structs

from mooring.core.labels import Claim, NoticeClaim
from mooring.core.model import (
    App,
    AppId,
    Binding,
    BindingId,
    Health,
    HostName,
    Instance,
    InstanceId,
    PoolName,
    SinkName,
    SinkState,
    State,
    TaskId,
)
from mooring.core.specs import (
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
from mooring.core.template import Member
from mooring.handlers.wants import (
    APP_NAMES,
    FILES,
    HAPROXY,
    LEDGER,
    NAMES,
    NETWORK,
    NGINX,
    PROBE,
    Facts,
    Second,
    Wiring,
    member_of,
    wants_of,
)

SERVICE = ServiceSpec("/web", 0, "tcp", 10000)
DB = Member("/db", 0, "10.0.0.9", 5432, (5432,), None, "h2")
READS_DB = NoticeClaim("", (AppId("/db"),), "/etc/db", "{{ (members|first).address }}")


def facts(
    state: State = State.RUNNING, health: Health = Health.HEALTHY, checked: bool = True, **changes: object
) -> Facts:
    instance = Instance(
        InstanceId("i"), 1, TaskId("i._app.1"), AppId("/web"), HostName("h1"), state, health, (31000,)
    )
    made = Facts(
        instance=instance,
        app=App(AppId("/web"), 1, {}, checked=checked),
        claim=Claim(AppId("/web"), PoolName("shop"), ports=(80,), tcp_ports=(80,), services=(SERVICE,)),
        wiring=Wiring(24, "10.0.0.1", 100),
        zone="test",
        lease_generation=1,
        host_address="192.0.2.1",
        members={},
    )
    return replace(made, **changes)


def binding(**changes: object) -> Binding:
    made = Binding(
        BindingId("i"), AppId("/web"), InstanceId("i"), 1, TaskId("i._app.1"), HostName("h1"), 0, "10.0.0.5",
        PoolName("shop"),
    )  # fmt: skip
    return replace(made, **changes)


def settled(facts: Facts, start: Binding) -> Binding:
    """The binding after everything wanted was shown, over and over until nothing changes."""
    while True:
        wants = wants_of(facts, start).specs
        shown = replace(start, sinks={sink: SinkState(spec, spec) for sink, spec in wants.items()})
        if shown == start:
            return start
        start = shown


def specs(facts: Facts, start: Binding | None = None) -> dict[SinkName, Spec | None]:
    return dict(wants_of(facts, start or settled(facts, binding())).specs)


def member_state(spec: Spec | None) -> str:
    assert isinstance(spec, MemberSpec)
    return spec.state


@pytest.mark.parametrize(
    ("state", "health", "network", "member", "named"),
    [
        (State.RUNNING, Health.HEALTHY, True, "up", True),
        (State.RUNNING, Health.UNKNOWN, True, "declared", False),
        (State.RUNNING, Health.UNHEALTHY, True, "declared", False),
        (State.KILLING, Health.HEALTHY, True, "drain", False),
        (State.UNREACHABLE, Health.HEALTHY, True, "drain", False),
        (State.DEAD, Health.UNKNOWN, False, "declared", False),
    ],
)
def test_the_table(state: State, health: Health, network: bool, member: str, named: bool) -> None:
    wants = specs(facts(state, health))
    assert (wants[NETWORK] is not None) == network
    assert member_state(wants[HAPROXY]) == member_state(wants[NGINX]) == member
    assert (wants[APP_NAMES] is not None) == named
    assert wants[NAMES] is not None
    assert wants[LEDGER] is not None


def test_a_departing_instance_shows_nothing() -> None:
    assert set(specs(facts(), binding(departing=True)).values()) == {None}


def test_no_traffic_before_the_port_is_confirmed() -> None:
    assert member_state(specs(facts(), binding())[HAPROXY]) == "declared"


def test_other_guards_do_not_take_a_serving_instance_out() -> None:
    serving = settled(facts(), binding())
    other = facts(wiring=Wiring(24, "10.0.0.1", 100, barred=("10.9.0.0/24",)))
    wants = specs(other, serving)
    assert wants[NETWORK] != serving.sink(NETWORK).applied
    assert member_state(wants[HAPROXY]) == "up"
    again = facts(wiring=Wiring(24, "10.0.0.1", 100, barred=("10.8.0.0/24",)))
    unanswered = serving.with_sink(NETWORK, serving.sink(NETWORK).want(wants[NETWORK]))
    assert member_state(specs(again, unanswered)[HAPROXY]) == "up"


def test_another_port_does_and_so_does_a_doubt() -> None:
    serving = settled(facts(), binding())
    other = facts(wiring=Wiring(24, "10.0.0.1", 7, barred=("10.9.0.0/24",)))
    assert member_state(specs(other, serving)[HAPROXY]) == "declared"
    doubtful = serving.with_sink(NETWORK, serving.sink(NETWORK).doubted())
    assert member_state(specs(facts(), doubtful)[HAPROXY]) == "declared"
    assert member_state(specs(facts(wiring=Wiring(24, "10.0.0.1", 100, barred=("10.9.0.0/24",))),
                              binding())[HAPROXY]) == "declared"  # fmt: skip


def test_an_unchecked_app_serves_once_its_probe_was_answered() -> None:
    unchecked = facts(health=Health.UNKNOWN, checked=False)
    before = settled(unchecked, binding())
    assert member_state(before.sink(HAPROXY).wanted) == "up"
    unanswered = before.with_sink(PROBE, SinkState(before.sink(PROBE).wanted, None))
    assert member_state(specs(unchecked, unanswered)[HAPROXY]) == "declared"


def test_each_service_gets_the_port_of_its_own_index() -> None:
    second = ServiceSpec("/web", 1, "tcp", 10001)
    shifted = facts(claim=replace(facts().claim, ports=(0, 8080), services=(SERVICE, second)))
    spec = specs(shifted)[HAPROXY]
    assert isinstance(spec, MemberSpec)
    assert [(endpoint.service.index, endpoint.port) for endpoint in spec.endpoints] == [(1, 8080)]
    assert (member_of(shifted, binding()).port, member_of(shifted, binding()).ports) == (8080, (8080,))


def test_only_ports_of_tcp_are_probed() -> None:
    unchecked = facts(checked=False)
    claim = replace(unchecked.claim, ports=(0, 53, 80), tcp_ports=(80,))
    probe = specs(replace(unchecked, claim=claim))[PROBE]
    assert isinstance(probe, ProbeSpec)
    assert probe.ports == (80,)
    assert specs(replace(unchecked, claim=replace(claim, tcp_ports=())))[PROBE] is None


def test_without_a_pool_the_host_and_its_port_are_balanced() -> None:
    poolless = facts(claim=Claim(AppId("/web"), ports=(80,), services=(SERVICE,)), wiring=None)
    wants = specs(poolless, binding(slot=None, address=None, pool=None))
    assert wants[NETWORK] is None
    spec = wants[HAPROXY]
    assert isinstance(spec, MemberSpec)
    assert [(endpoint.address, endpoint.port) for endpoint in spec.endpoints] == [("192.0.2.1", 31000)]


def test_a_container_stays_wired_when_its_pool_leaves_the_configuration() -> None:
    live = settled(facts(), binding())
    assert specs(facts(wiring=None), live)[NETWORK] == live.sink(NETWORK).applied


def test_a_first_file_comes_before_the_first_request_a_later_one_may_follow() -> None:
    claim = replace(facts().claim, notices=(READS_DB,))
    reading = facts(claim=claim, members={"/db": (DB,)})
    live = settled(reading, binding())
    assert member_state(live.sink(HAPROXY).wanted) == "up"
    moved = facts(claim=claim, members={"/db": (replace(DB, address="10.0.0.10"),)})
    wants = specs(moved, live)
    assert wants[FILES] != live.sink(FILES).applied
    assert member_state(wants[HAPROXY]) == "up"
    new_container = replace(live, task=TaskId("i._app.2"), incarnation=2)
    assert member_state(specs(reading, new_container)[HAPROXY]) == "declared"


def test_a_file_that_cannot_be_rendered_harms_nothing_else() -> None:
    claim = replace(facts().claim, notices=(READS_DB,))
    live = settled(facts(claim=claim, members={"/db": (DB,)}), binding())
    gone = wants_of(facts(claim=claim, members={}), live)
    assert "app /web: file /etc/db:" in gone.problem
    assert gone.specs[FILES] == live.sink(FILES).applied
    assert member_state(gone.specs[HAPROXY]) == "up"
    relaunched = wants_of(
        facts(claim=claim, members={}), replace(live, task=TaskId("i._app.2"), host=HostName("h3"))
    )
    port = relaunched.specs[NETWORK]
    assert isinstance(port, PortSpec)
    assert port.host == "h3"
    assert relaunched.specs[FILES] is None
    assert member_state(relaunched.specs[HAPROXY]) == "declared"


def test_a_file_made_from_who_is_not_known_yet_stays_as_it_is() -> None:
    claim = replace(facts().claim, notices=(READS_DB,))
    live = settled(facts(claim=claim, members={"/db": (DB,)}), binding())
    unknown = wants_of(facts(claim=claim, members={"/db": None}), live)
    assert unknown.specs[FILES] == live.sink(FILES).applied
    assert "app /web: file /etc/db: who belongs to /db is not known until" in unknown.problem
    assert member_state(unknown.specs[HAPROXY]) == "up"


def test_the_file_of_a_draining_instance_stays_as_it_was() -> None:
    claim = replace(facts().claim, notices=(READS_DB,))
    live = settled(facts(claim=claim, members={"/db": (DB,)}), binding())
    assert isinstance(live.sink(FILES).wanted, FilesSpec)
    assert specs(facts(State.KILLING, claim=claim, members={}), live)[FILES] == live.sink(FILES).wanted


def test_refused_labels_leave_everything_as_it_was() -> None:
    claim = replace(facts().claim, notices=(READS_DB,))  # type: ignore[type-var]
    live = settled(facts(claim=claim, members={"/db": (DB,)}), binding())
    refused = facts(claim=None)
    assert wants_of(refused, live).specs == {name: state.wanted for name, state in live.sinks.items()}


def test_refused_labels_do_not_keep_traffic_on_a_dead_container() -> None:
    live = settled(facts(), binding())
    wants = specs(facts(State.DEAD, claim=None), live)
    assert wants[NETWORK] is None
    assert member_state(wants[HAPROXY]) == "declared"
    assert wants[APP_NAMES] is None
    relaunched = replace(settled(facts(State.DEAD, claim=None), live), task=TaskId("i._app.2"), incarnation=2)
    assert member_state(settled(facts(claim=None), relaunched).sink(HAPROXY).wanted) == "up"
    assert settled(facts(claim=None), relaunched).sink(APP_NAMES).wanted == live.sink(APP_NAMES).wanted


def test_a_container_of_an_earlier_version_keeps_its_ports() -> None:
    unchecked = facts(health=Health.UNKNOWN, checked=False)
    old = replace(unchecked, instance=structs.replace(unchecked.instance, version="1"))
    live = settled(replace(old, app=replace(old.app, version="1")), binding())
    assert old.claim is not None
    newest = replace(old.claim, ports=(9090,), tcp_ports=(9090,))
    upgrading = replace(old, app=replace(old.app, version="2"), claim=newest)
    assert specs(upgrading, live) == specs(replace(old, app=replace(old.app, version="1")), live)
    replacement = replace(upgrading, instance=structs.replace(old.instance, version="2"))
    spec = specs(replacement, live)[HAPROXY]
    assert isinstance(spec, MemberSpec)
    assert [endpoint.port for endpoint in spec.endpoints] == [9090]


@pytest.mark.parametrize("state", [State.STARTING, State.UNREACHABLE, State.KILLING])
def test_a_newer_incarnation_proves_that_this_container_is_dead(state: State) -> None:
    now = facts(state, Health.UNKNOWN)
    newer = replace(now, instance=structs.replace(now.instance, incarnation=2, task=TaskId("i._app.2")))
    assert wants_of(newer, binding()) == wants_of(facts(State.DEAD, Health.UNKNOWN), binding())


PAIRED = Wiring(24, "10.0.0.1", 100, second=Second("fd00::a00:5", 64, "fe80::1"))


def test_a_paired_pool_shows_both_addresses_wherever_one_is_told() -> None:
    shown = specs(facts(wiring=PAIRED))
    port, name, shared, item = (shown[sink] for sink in (NETWORK, NAMES, APP_NAMES, LEDGER))
    assert isinstance(port, PortSpec)
    assert (port.address, port.address6, port.prefix6, port.gateway6) == (
        "10.0.0.5", "fd00::a00:5", 64, "fe80::1",
    )  # fmt: skip
    for spec in (name, shared, item):
        assert isinstance(spec, NameSpec | SharedNameSpec | ItemSpec)
        assert (spec.address, spec.address6) == ("10.0.0.5", "fd00::a00:5")
    assert member_of(facts(wiring=PAIRED), binding()).address6 == "fd00::a00:5"
    haproxy = shown[HAPROXY]
    assert isinstance(haproxy, MemberSpec)
    assert [end.address for end in haproxy.endpoints] == ["10.0.0.5"], "balancers use IPv4"


def test_who_serves_goes_on_while_the_second_address_comes_and_goes() -> None:
    single, both = facts(), facts(wiring=PAIRED)
    for before, now in ((single, both), (both, single)):
        after = specs(now, settled(before, binding()))
        assert after[NETWORK] != settled(before, binding()).sink(NETWORK).applied
        assert member_state(after[HAPROXY]) == "up"
        assert after[APP_NAMES] is not None
    other_vlan = facts(wiring=replace(PAIRED, vlan=101))
    assert member_state(specs(other_vlan, settled(both, binding()))[HAPROXY]) == "declared"


def test_both_addresses_stay_while_the_pool_is_not_configured() -> None:
    before = settled(facts(wiring=PAIRED), binding())
    assert specs(facts(wiring=None), before) == specs(facts(wiring=PAIRED), before)


def test_both_addresses_stay_while_the_labels_are_refused() -> None:
    before = settled(facts(wiring=PAIRED), binding())
    after = specs(facts(wiring=PAIRED, claim=None), before)
    assert {sink: after[sink] for sink in (NAMES, APP_NAMES)} == {
        sink: before.sink(sink).wanted for sink in (NAMES, APP_NAMES)
    }


def test_an_app_without_an_address_has_no_second_one() -> None:
    on_its_host = specs(facts(wiring=None, zone=None), binding(address=None, slot=None, pool=None))
    item = on_its_host[LEDGER]
    assert isinstance(item, ItemSpec)
    assert item.address6 is None
