"""The comparison itself: what is judged, what is not, and in which words."""

from __future__ import annotations

import asyncio

import pytest

from mooring.controller.breath import Breath
from mooring.controller.drift import Deviation, deviations, expected_of, standing, told
from mooring.core.clock import SystemClock
from mooring.core.model import AppId, Binding, BindingId, HostName, InstanceId, SinkName, SinkState, TaskId
from mooring.core.sink import Observation
from mooring.core.specs import (
    Endpoint,
    FilesSpec,
    ItemSpec,
    MemberSpec,
    NameSpec,
    PortSpec,
    ProbeSpec,
    Route,
    ServiceSpec,
    SharedNameSpec,
    Spec,
)
from tests.unit.small_house import HAPROXY, LEDGER, NAMES, NETWORK

HTTP = ServiceSpec("/web", 0, "http", 0, ("web.example",))
TCP = ServiceSpec("/web", 1, "tcp", 9000)
NGINX = SinkName("nginx")
APP_NAMES = SinkName("app_names")
ZONES = frozenset({"mooring.test"})


def binding(number: int, sink: SinkName, state: SinkState) -> Binding:
    id = f"web.instance-{number}"
    return Binding(
        BindingId(id), AppId("/web"), InstanceId(id), 1, TaskId(id), HostName("h1"), sinks={sink: state}
    )


def settled(number: int, sink: SinkName, spec: Spec | None) -> Binding:
    return binding(number, sink, SinkState(spec, spec, (), 1))


async def compared(sink: SinkName, seen: Observation, *bindings: Binding) -> list[Deviation]:
    breath = Breath(SystemClock())
    expected = await expected_of(sink, bindings, breath)
    return [found async for found in deviations(sink, expected, seen, breath)]


async def words(sink: SinkName, seen: Observation, *bindings: Binding) -> list[tuple[str, str, str]]:
    found = await compared(sink, seen, *bindings)
    return [(each.finding.kind.value, each.finding.key, each.finding.detail) for each in found]


def item(status: str = "live", app: str = "/web") -> ItemSpec:
    return ItemSpec("/web/0", app, "i", "t", "h1", status, "10.0.0.2")


def test_a_spec_stands_under_as_many_keys_as_it_has_parts() -> None:
    port = PortSpec("h1", "t", "/web", 0, "i", "10.0.0.2", 24, "10.0.0.1", (Route("a", "b"),), 7, 1500, 3)
    assert dict(standing(NETWORK, port)) == {
        "10.0.0.2 on h1": PortSpec("h1", "t", "/web", 0, "i", "10.0.0.2", 24, vlan=7, lease_generation=3)
    }
    name = NameSpec("web-0.mooring.test", "2001:DB8:0::2", 5)
    assert {spec.address for _, spec in standing(NAMES, name) if isinstance(spec, NameSpec)} == {
        "2001:db8::2"
    }
    assert len(dict(standing(NAMES, name))) == 2
    up = MemberSpec((Endpoint(HTTP, "10.0.0.2", 80), Endpoint(TCP, "10.0.0.2", 90)), "up")
    assert list(dict(standing(HAPROXY, up))) == ["web_0/10_0_0_2_80", "web_1/10_0_0_2_90"]
    for nothing in (None, ProbeSpec("h1", "t", "10.0.0.2", (80,)), FilesSpec("h1", "t", ())):
        assert dict(standing(NETWORK, nothing)) == {}


def test_a_pair_stands_as_one_name_two_pointers_and_two_shares() -> None:
    name = NameSpec("web-0.mooring.test", "10.0.0.2", 5, "FD00:0::2")
    assert dict(standing(NAMES, name)) == {
        "web-0.mooring.test": NameSpec("web-0.mooring.test", "10.0.0.2", 5, "fd00::2"),
        "2.0.0.10.in-addr.arpa": NameSpec("web-0.mooring.test", "10.0.0.2", 5),
        "2" + ".0" * 27 + ".0.0.d.f.ip6.arpa": NameSpec("web-0.mooring.test", "fd00::2", 5),
    }
    shared = SharedNameSpec("web.mooring.test", "10.0.0.2", 5, "fd00::2")
    assert {key: spec.address for key, spec in standing(APP_NAMES, shared) if hasattr(spec, "address")} == {
        "web.mooring.test/10.0.0.2": "10.0.0.2",
        "web.mooring.test/fd00::2": "fd00::2",
    }


async def test_a_port_that_lost_its_second_address_differs() -> None:
    paired = PortSpec(
        "h1", "t", "/web", 0, "i", "10.0.0.2", 24, address6="fd00::2", prefix6=64, gateway6="fe80::1"
    )
    seen = Observation(
        {"10.0.0.2 on h1": PortSpec("h1", "t", "/web", 0, "i", "10.0.0.2", 24)}, places=frozenset({"h1"})
    )
    assert await words(NETWORK, seen, settled(1, NETWORK, paired)) == [
        (
            "different",
            "10.0.0.2 on h1",
            "address6 is None in place of fd00::2, prefix6 is None in place of 64",
        )
    ]


def test_nginx_shows_only_what_takes_traffic_over_http() -> None:
    ends = (Endpoint(HTTP, "10.0.0.2", 80), Endpoint(TCP, "10.0.0.2", 90))
    assert list(dict(standing(NGINX, MemberSpec(ends, "up")))) == ["web_0/10_0_0_2_80"]
    for state in ("declared", "drain"):
        assert dict(standing(NGINX, MemberSpec(ends, state))) == {}


async def test_the_four_kinds_and_their_words() -> None:
    bindings = [settled(number, LEDGER, spec) for number, spec in enumerate((item(), None))]
    seen = Observation({"/web/0": item("down")}, ("row 7: no owner",))
    assert await words(LEDGER, seen, *bindings) == [
        ("different", "/web/0", "status is down in place of live"),
        ("foreign", "row 7", "no owner"),
    ]
    assert await words(LEDGER, Observation(), *bindings) == [
        ("missing", "/web/0", "live, 10.0.0.2 on h1"),
    ]
    assert await words(LEDGER, Observation({"/web/9": item()})) == [
        ("surplus", "/web/9", "live, 10.0.0.2 on h1"),
    ]


@pytest.mark.parametrize(
    "state",
    [
        SinkState().want(item()),  # on its way in
        SinkState(item(), item()).want(None),  # on its way out
        SinkState(item("down"), item("down"), (item(),), 2),  # in doubt
        SinkState(item(), item()).doubted(),
    ],
)
async def test_what_is_in_the_air_proves_nothing(state: SinkState) -> None:
    for shown in ({}, {"/web/0": item()}, {"/web/0": item("down")}):
        assert await words(LEDGER, Observation(shown), binding(0, LEDGER, state)) == []


async def test_two_claims_on_one_thing_prove_nothing_unless_they_agree() -> None:
    rivals = [settled(0, LEDGER, item()), settled(1, LEDGER, item("down"))]
    assert await words(LEDGER, Observation(), *rivals) == []
    friends = [settled(0, LEDGER, item()), settled(1, LEDGER, item())]
    assert len(await words(LEDGER, Observation(), *friends)) == 1


async def test_one_in_the_air_outweighs_one_that_is_settled() -> None:
    """A seat changes hands: its old owner is still settled when the new one begins."""
    both = [settled(0, LEDGER, item()), binding(1, LEDGER, SinkState().want(item("down")))]
    for order in (both, both[::-1]):
        assert await words(LEDGER, Observation({"/web/0": item("down")}), *order) == []


async def test_only_places_that_were_read_are_judged() -> None:
    port = PortSpec("h1", "t", "/web", 0, "i", "10.0.0.2", 24)
    silent = Observation(places=frozenset({"h2"}), unseen={"h1": "no answer"})
    assert await words(NETWORK, silent, settled(0, NETWORK, port)) == []
    assert len(await words(NETWORK, Observation(places=frozenset({"h1"})), settled(0, NETWORK, port))) == 1
    name = NameSpec("web-0.mooring.test", "10.0.0.2", 5)
    found = await words(NAMES, Observation(places=ZONES), settled(0, NAMES, name))
    assert [key for _, key, _ in found] == [name.name], "its pointer lies in a zone that is not ours"


async def test_a_fault_makes_an_equal_thing_different() -> None:
    name = SharedNameSpec("web.mooring.test", "10.0.0.2", 5)
    key = "web.mooring.test/10.0.0.2"
    seen = Observation({key: name}, faults={key: "it stands on its head"}, places=ZONES)
    sink = SinkName("app_names")
    assert await words(sink, seen, settled(0, sink, name)) == [("different", key, "it stands on its head")]


async def test_a_member_that_somebody_gave_a_name_in_place_of_an_address() -> None:
    up = MemberSpec((Endpoint(HTTP, "10.0.0.2", 80),), "up")
    odd = MemberSpec((Endpoint(ServiceSpec("web_0", 0, "http", 0), "-", 0),), "up")
    assert await words(HAPROXY, Observation({"web_0/10_0_0_2_80": odd}), settled(0, HAPROXY, up)) == [
        ("different", "web_0/10_0_0_2_80", "endpoint is -:0 in place of 10.0.0.2:80")
    ]


def test_everything_has_words() -> None:
    assert told(None) == "nothing"
    assert told(PortSpec("h1", "t", "/web", 0, "i", "10.0.0.2", 24)) == "port of t with 10.0.0.2/24"
    assert told(FilesSpec("h1", "t", ())) == "FilesSpec"


async def test_fifty_thousand_instances_do_not_hold_the_loop() -> None:
    """Whoever is ready runs many times while a large world is compared."""
    bindings = [
        settled(n, NAMES, NameSpec(f"web-{n}.mooring.test", f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}", 5))
        for n in range(50_000)
    ]
    shown = {spec.name: spec for each in bindings if isinstance(spec := each.sink(NAMES).applied, NameSpec)}
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counter = asyncio.create_task(count())
    assert await compared(NAMES, Observation(shown, places=ZONES), *bindings) == []
    counter.cancel()
    assert turns > 20
