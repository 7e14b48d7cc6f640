"""What is done with ports, decided without a switch."""

from __future__ import annotations

from typing import Any

import pytest

from mooring.playbooks.module_utils.mooring_host.errors import Stale
from mooring.playbooks.module_utils.mooring_host.orders import Attach, Detach, parse
from mooring.playbooks.module_utils.mooring_host.planning import (
    adopted_for,
    device_alias,
    marks_for,
    plan_attach,
    plan_detach,
    port_name,
)
from mooring.playbooks.module_utils.mooring_host.switch import Port, Switch

START = "c1@2026-01-01T00:00:00Z"


def attach(**changes: Any) -> Attach:
    order = {"op": "attach", "id": "b", "task_id": "t1", "app": "/a", "slot": 0, "instance": "i1",
             "address": "10.0.0.1", "prefix": 24, "generation": 1, **changes}  # fmt: skip
    parsed = parse(order)
    assert isinstance(parsed, Attach)
    return parsed


def port(name: str, *, tag: int | None = None, ofport: int | None = 3, error: str = "", **marks: str) -> Port:
    order = marks_for(attach(), "mooring", 1, START)
    return Port(f"uuid-{name}", name, tag, {**order, **marks}, ofport, error)


def switch(*ports: Port, epoch: int = 1) -> Switch:
    return Switch("br", "u", epoch, 0, True, {item.name: item for item in ports}, [], {})


def plan(*ports: Port, peer: str | None = None, epoch: int = 1, start: str = START, **changes: Any) -> Any:
    order = attach(**changes)
    marks = marks_for(order, "mooring", epoch, start)
    return plan_attach(order, marks, switch(*ports), peer, {item.name for item in ports})


def names(ports: list[Port]) -> list[str]:
    return [item.name for item in ports]


def test_a_port_that_fits_is_kept_untouched() -> None:
    made = plan(port("p"), peer="p")
    assert (made.idle, made.create) == (True, None)


@pytest.mark.parametrize("changes", [{"vlan": 7}, {"generation": 2}, {"slot": 4}, {"task_id": "t2"}])
def test_marks_and_vlan_are_updated_in_place(changes: dict[str, Any]) -> None:
    made = plan(port("p"), peer="p", **changes)
    assert (made.update, made.idle, made.create, made.supersede) == (True, False, None, [])


def test_a_higher_epoch_is_written_to_the_port() -> None:
    assert plan(port("p"), peer="p", epoch=2).marks["epoch"] == "2"
    assert plan(port("p"), peer="p", epoch=2).update


@pytest.mark.parametrize(
    "present",
    [
        port("p", ofport=None),
        port("p", ofport=-1),
        port("p", error="could not open network device"),
        port("p", container="c1@2025-01-01T00:00:00Z"),
        port("p", container="c0@2026-01-01T00:00:00Z", instance="i0"),
        port("p", instance="i0"),
        port("p", address="10.0.0.9"),
    ],
)
def test_a_port_that_does_not_fit_is_replaced(present: Port) -> None:
    made = plan(present, peer="p")
    assert names(made.supersede) == ["p"]
    assert made.create not in (None, "p")


def test_a_port_whose_device_is_not_the_containers_is_replaced() -> None:
    assert names(plan(port("p"), peer=None).supersede) == ["p"]
    assert names(plan(port("p"), peer="q").supersede) == ["p"]


def test_other_addresses_and_instances_are_left_alone() -> None:
    other = port("o", address="10.0.0.2", instance="i2", container="c2@x")
    second = port("s", address="10.0.1.1", interface="eth1")
    made = plan(port("p"), other, second, peer="p")
    assert made.idle


PAIR = {"address6": "fd00::a00:1", "prefix6": 64}


def test_a_second_address_comes_and_goes_on_the_port_as_it_stands() -> None:
    paired = port("p", address6="fd00::a00:1", prefix6="64")
    assert plan(paired, peer="p", **PAIR).idle
    for before, changes in ((port("p"), PAIR), (paired, {})):
        made = plan(before, peer="p", **changes)
        assert (made.update, made.create, made.supersede) == (True, None, [])
    assert "address6" not in plan(paired, peer="p").marks


def test_a_port_with_either_address_is_superseded() -> None:
    four, six = (
        port("o", instance="i2", container="c2@x"),
        port("s", address="10.9.9.9", address6="fd00::a00:1", instance="i3", container="c3@x"),
    )
    alone = port("a", address="fd00::a00:1", instance="i4", container="c4@x")
    assert names(plan(port("p"), four, six, alone, peer="p", **PAIR).supersede) == ["o", "s", "a"]
    assert names(plan(port("p"), six, alone, peer="p").supersede) == []


def test_a_replaced_port_of_the_same_start_gets_another_name() -> None:
    first = port_name("mooring", START, "eth0", set())
    second = port_name("mooring", START, "eth0", {first})
    assert first != second
    assert len(first) == len(second) == 15
    assert port_name("mooring", START, "eth0", {first}) == second
    assert port_name("mooring", START + "1", "eth0", set()) not in (first, second)
    assert port_name("other", START, "eth0", set()) != first


def test_ports_of_a_higher_epoch_turn_us_away() -> None:
    with pytest.raises(Stale, match="epoch 1 is stale: port p was changed by epoch 2"):
        plan(port("p", epoch="2"), peer="p")
    with pytest.raises(Stale):
        plan_detach(Detach("d", "i1", None, None, 0), switch(port("p", epoch="2")), 1, set())


def detach(*ports: Port, alive: set[str], **changes: Any) -> tuple[list[str], list[str]]:
    order = parse({"op": "detach", "id": "d", **changes})
    assert isinstance(order, Detach)
    removal = plan_detach(order, switch(*ports), 1, alive)
    return names(removal.remove), names(removal.spared)


def test_detach_by_instance_takes_all_its_ports() -> None:
    ports = port("p"), port("q", address="10.0.0.2"), port("r", instance="i2", address="10.0.0.3")
    assert detach(*ports, alive={"p", "q", "r"}, instance="i1", address="10.0.0.1") == (["p", "q"], [])


def test_detach_by_address_takes_whoever_has_it() -> None:
    assert detach(port("p"), port("q", address="10.0.0.2"), alive={"p"}, address="10.0.0.1") == (["p"], [])


def test_detach_spares_another_living_instance_but_not_a_dead_one() -> None:
    ports = port("p", instance="i2"), port("q", instance="i3")
    assert detach(*ports, alive={"p"}, instance="i1", address="10.0.0.1") == (["q"], ["p"])


def test_detach_of_an_old_task_spares_the_living_new_one() -> None:
    newer = port("p", task="t2")
    assert detach(newer, alive={"p"}, instance="i1", task_id="t1") == ([], ["p"])
    assert detach(newer, alive=set(), instance="i1", task_id="t1") == (["p"], [])
    assert detach(newer, alive={"p"}, instance="i1", task_id="t2") == (["p"], [])


def test_the_alias_fits_the_kernels_limit() -> None:
    assert len(device_alias("o" * 64, "i" * 1000, "fd00::" + "1" * 30)) < 256


def adopted(name: str = "veth1pl7", **marks: str) -> Port:
    """A port that was there before it was ours."""
    return port(name, interface="eth1", mac="0e:00:00:00:00:01", adopted="1", **marks)


def test_the_marks_of_an_adopted_port_keep_its_interface_and_mac() -> None:
    order, taken = attach(), adopted()
    assert adopted_for(order, START, switch(port("p", container="c0@x"), taken)) == taken
    marks = marks_for(order, "mooring", 1, START, taken)
    assert (marks["interface"], marks["mac"], marks["adopted"]) == ("eth1", "0e:00:00:00:00:01", "1")
    assert plan_attach(order, marks, switch(taken), taken.name, set()).idle


@pytest.mark.parametrize(
    "other",
    [{"container": "c1@later"}, {"address": "10.0.0.9"}, {"instance": "i2"}],
)
def test_a_port_adopted_for_something_else_is_not_kept(other: dict[str, str]) -> None:
    assert adopted_for(attach(), START, switch(adopted(**other))) is None


def test_an_instance_with_another_address_loses_its_adopted_port() -> None:
    made = plan(adopted(address="10.0.0.9"))
    assert names(made.supersede) == ["veth1pl7"]
