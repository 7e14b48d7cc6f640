"""Attach, detach and observe on a real switch with real containers."""

from __future__ import annotations

import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from typing import Any

import pytest

from mooring.playbooks.module_utils.mooring_host.links import ContainerLinks, Interface, View
from mooring.playbooks.module_utils.mooring_host.planning import instance_mark

from .rig import BRIDGE, HostRig, run, until

pytestmark = pytest.mark.root
_numbers = itertools.count(10)


def order(task: str, **changes: Any) -> dict[str, Any]:
    """An attach with an address and an instance of its own."""
    number = next(_numbers)
    return {
        "op": "attach", "id": f"b{number}", "task_id": task, "app": "/shop/web", "slot": number,
        "instance": f"shop_web.instance-{number}", "address": f"10.64.0.{number}", "prefix": 22,
        "gateway": "10.64.0.1", "routes": [], "vlan": None, "mtu": None, "generation": 1, **changes,
    }  # fmt: skip


def removal(attach: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The detach that belongs to an attach."""
    return {
        "op": "detach",
        "id": "d",
        "instance": attach["instance"],
        "address": attach["address"],
        **changes,
    }


def ours(rig: HostRig, address: str) -> list[dict[str, Any]]:
    """Our ports that carry the address, as the host reports them."""
    [report] = rig.do({"op": "observe", "id": "o"})
    return [port for port in report["ports"] if port["address"] == address]


def attached(rig: HostRig, **changes: Any) -> tuple[dict[str, Any], str, str]:
    """A container that was attached: (order, container id, port name)."""
    task, container = rig.container()
    asked = order(task, **changes)
    [result] = rig.do(asked)
    assert result["status"] == "done", result
    assert result["changed"]
    return asked, container, result["port"]


def test_an_attached_container_answers_on_its_address(rig: HostRig) -> None:
    asked, container, port = attached(
        rig,
        vlan=None,
        mtu=1400,
        routes=[{"to": "10.0.0.0/8", "via": "10.64.0.1"}, {"to": "192.0.2.0/24", "via": None}],
    )
    until(lambda: rig.fetch(asked["address"]) == asked["task_id"], "an answer")
    routes = rig.inside(container, "ip", "route")
    assert "default via 10.64.0.1" in routes
    assert "10.0.0.0/8 via 10.64.0.1" in routes
    assert "192.0.2.0/24 dev eth0" in routes
    link = rig.inside(container, "ip", "addr")
    assert "mtu 1400" in link
    assert f"02:00:0a:40:00:{int(asked['address'].split('.')[3]):02x}" in link
    marks = rig.vsctl("get", "Port", port, "external_ids")
    for mark in (
        "owner=mooring",
        'app="/shop/web"',
        'generation="1"',
        'epoch="1"',
        f'address="{asked["address"]}"',
    ):
        assert f"mooring-{mark}" in marks
    assert rig.vsctl("get", "Interface", port, "external_ids") == marks


def test_a_second_run_changes_nothing(rig: HostRig) -> None:
    asked, _, port = attached(rig, routes=[{"to": "10.0.0.0/8", "via": "10.64.0.1"}])
    [result] = rig.do(asked)
    assert (result["status"], result["changed"], result["port"]) == ("done", False, port)


def test_vlan_and_marks_change_in_place(rig: HostRig) -> None:
    asked, _, port = attached(rig)
    [result] = rig.do({**asked, "vlan": 100, "generation": 2})
    assert (result["status"], result["changed"], result["port"]) == ("done", True, port)
    [seen] = ours(rig, asked["address"])
    assert (seen["vlan"], seen["generation"]) == (100, 2)
    assert rig.fetch(asked["address"]) == ""
    rig.do({**asked, "generation": 2})
    until(lambda: rig.fetch(asked["address"]) == asked["task_id"], "an answer without VLAN")


def test_a_restarted_container_gets_a_new_port_and_the_old_one_goes(rig: HostRig) -> None:
    asked, container, port = attached(rig)
    rig.docker("restart", "-t", "0", container)
    [result] = rig.do(asked)
    assert result["status"] == "done"
    assert result["port"] != port
    assert port not in rig.ports()
    assert [seen["port"] for seen in ours(rig, asked["address"])] == [result["port"]]
    until(lambda: rig.fetch(asked["address"]) == asked["task_id"], "an answer after the restart")


def test_a_replacement_takes_over_the_address_of_a_dead_container(rig: HostRig) -> None:
    asked, container, port = attached(rig)
    rig.docker("kill", container)
    task, _ = rig.container()
    [result] = rig.do({**asked, "task_id": task, "generation": 2})
    assert result["removed"] == [port]
    until(lambda: rig.fetch(asked["address"]) == task, "the replacement's answer")


def test_an_address_moves_from_a_living_container(rig: HostRig) -> None:
    asked, _, port = attached(rig)
    task, _ = rig.container()
    [result] = rig.do({**asked, "task_id": task, "instance": "other"})
    assert result["removed"] == [port]
    assert port not in rig.ports()
    assert port not in rig.devices()
    until(lambda: rig.fetch(asked["address"]) == task, "the new holder's answer")


def test_another_address_for_the_same_container(rig: HostRig) -> None:
    asked, container, port = attached(rig)
    moved = order(asked["task_id"], instance=asked["instance"])
    [result] = rig.do(moved)
    assert result["removed"] == [port]
    until(lambda: rig.fetch(moved["address"]) == asked["task_id"], "an answer on the new address")
    assert asked["address"] not in rig.inside(container, "ip", "addr")


@pytest.mark.parametrize("damage", ["port", "address", "link", "device", "route"])
def test_damage_is_repaired(rig: HostRig, damage: str) -> None:
    asked, container, port = attached(rig)
    pid = rig.docker("inspect", "-f", "{{.State.Pid}}", container)
    inside = ("nsenter", f"--net=/proc/{pid}/ns/net", "ip")
    if damage == "port":
        rig.vsctl("del-port", BRIDGE, port)
    elif damage == "address":
        run(*inside, "addr", "del", f"{asked['address']}/22", "dev", "eth0")
    elif damage == "link":
        run(*inside, "link", "set", "eth0", "down")
    elif damage == "device":
        run(*inside, "link", "del", "eth0")
    else:
        run(*inside, "route", "del", "default")
    [result] = rig.do(asked)
    assert (result["status"], result["changed"]) == ("done", True)
    until(lambda: rig.fetch(asked["address"]) == asked["task_id"], f"an answer after damage to the {damage}")
    assert len(ours(rig, asked["address"])) == 1
    assert "default via 10.64.0.1" in rig.inside(container, "ip", "route")
    assert not rig.do(asked)[0]["changed"]


def test_a_route_no_longer_wanted_goes_and_a_foreign_one_stays(rig: HostRig) -> None:
    asked, container, _ = attached(rig, routes=[{"to": "10.0.0.0/8", "via": "10.64.0.1"}])
    pid = rig.docker("inspect", "-f", "{{.State.Pid}}", container)
    run("nsenter", f"--net=/proc/{pid}/ns/net", "ip", "route", "add", "198.51.100.0/24", "via", "10.64.0.1")
    assert rig.do({**asked, "routes": []})[0]["changed"]
    routes = rig.inside(container, "ip", "route")
    assert "10.0.0.0/8" not in routes
    assert "198.51.100.0/24" in routes


def test_detach_removes_everything_and_is_idempotent(rig: HostRig) -> None:
    asked, container, port = attached(rig)
    [result] = rig.do(removal(asked))
    assert (result["status"], result["changed"], result["removed"]) == ("done", True, [port])
    assert port not in rig.ports()
    assert port not in rig.devices()
    assert "eth0" not in rig.inside(container, "ip", "addr")
    [again] = rig.do(removal(asked))
    assert (again["status"], again["changed"]) == ("done", False)


def test_detach_of_a_dead_container_and_of_an_address_alone(rig: HostRig) -> None:
    asked, container, port = attached(rig)
    rig.docker("rm", "-f", container)
    assert not ours(rig, asked["address"])[0]["alive"]
    [result] = rig.do({"op": "detach", "id": "d", "instance": None, "address": asked["address"]})
    assert (result["status"], result["removed"]) == ("done", [port])
    assert port not in rig.ports()


def test_detach_finds_a_pair_whose_port_is_gone(rig: HostRig) -> None:
    asked, container, port = attached(rig)
    rig.vsctl("del-port", BRIDGE, port)
    [report] = rig.do({"op": "observe", "id": "o"})
    orphan = {"device": port, "address": asked["address"], "instance": instance_mark(asked["instance"])}
    assert orphan in report["orphans"]
    [result] = rig.do(removal(asked))
    assert (result["status"], result["removed"]) == ("done", [port])
    assert "eth0" not in rig.inside(container, "ip", "addr")


def test_a_device_without_a_port_goes_when_its_container_does(rig: HostRig) -> None:
    task, container = rig.container()
    asked = order(task, instance=task.partition("._app.")[0])
    [result] = rig.do(asked)
    port = result["port"]
    rig.vsctl("del-port", BRIDGE, port)
    by_name = {"op": "detach", "id": "c", "port": port, "container": None}
    assert rig.do(by_name)[0]["removed"] == [], "its container lives"
    assert rig.do(by_name, engine="/nowhere")[0]["removed"] == [], "nobody can say whether it does"
    sandbox = rig.docker("inspect", "--format", "{{.NetworkSettings.SandboxKey}}", container)
    with open(sandbox):  # somebody holds the namespace, so that the pair outlives the container
        rig.docker("rm", "-f", container)
        assert port in rig.devices()
        [result] = rig.do(by_name)
    assert (result["status"], result["removed"]) == ("done", [port])
    assert port not in rig.devices()


def test_a_late_detach_spares_the_living_successor(rig: HostRig) -> None:
    asked, _, port = attached(rig)
    [foreign] = rig.do(removal(asked, instance="the-one-before"))
    [older] = rig.do(removal(asked, task_id="the.task.before"))
    for result in (foreign, older):
        assert (result["status"], result["changed"]) == ("done", False)
        assert [spared["port"] for spared in result["spared"]] == [port]
    assert rig.fetch(asked["address"]) == asked["task_id"]


def test_a_stale_epoch_is_turned_away_on_every_path(rig: HostRig) -> None:
    bridge = ("Bridge", BRIDGE, "external_ids")
    asked, _, port = attached(rig)
    try:
        assert rig.do(asked, epoch=7)[0]["changed"]
        assert rig.vsctl("get", *bridge) == '{mooring-epoch="7", mooring-sequence="0"}'
        assert ours(rig, asked["address"])[0]["epoch"] == 7
        task, _ = rig.container()
        for stale in (order(task), removal(asked), {**asked, "vlan": 5}):
            [result] = rig.do(stale, epoch=6)
            assert result["status"] == "stale"
            assert "epoch 6 is stale" in result["reason"]
        assert port in rig.ports()
        [write] = rig.do(_file(asked["task_id"]), epoch=6)
        assert write["status"] == "stale"
        # A port may carry a higher epoch than its bridge, e.g. after the bridge was made anew.
        rig.vsctl("clear", *bridge)
        [result] = rig.do(removal(asked), epoch=6)
        assert (result["status"], port in rig.ports()) == ("stale", True)
    finally:
        rig.vsctl("clear", *bridge)
        rig.do(removal(asked), epoch=7)
        rig.vsctl("clear", *bridge)


def _file(task: str) -> dict[str, Any]:
    return {
        "op": "write",
        "id": "w",
        "task_id": task,
        "path": "/tmp/x",
        "content": "",
        "digest": sha256(b"").hexdigest(),
    }


def test_observe_can_raise_the_fence(rig: HostRig) -> None:
    try:
        [report] = rig.do({"op": "observe", "id": "o", "fence": True}, epoch=9)
        assert (report["bridge_epoch"], report["changed"]) == (9, True)
        [report] = rig.do({"op": "observe", "id": "o", "fence": True}, epoch=9)
        assert not report["changed"]
        assert rig.do({"op": "observe", "id": "o", "fence": True}, epoch=8)[0]["status"] == "stale"
    finally:
        rig.vsctl("clear", "Bridge", BRIDGE, "external_ids")


def test_foreign_ports_are_never_touched(rig: HostRig) -> None:
    asked, _, _ = attached(rig)
    marks = {
        "mooring-owner": "another",
        "mooring-address": asked["address"],
        "mooring-instance": asked["instance"],
    }
    ids = [f"external_ids:{key}={json.dumps(value)}" for key, value in marks.items()]
    foreign, unmarked = f"fp{asked['slot']}", f"up{asked['slot']}"
    internal = "type=internal"
    rig.vsctl("add-port", BRIDGE, foreign, "--", "set", "Port", foreign, *ids,
              "--", "set", "Interface", foreign, internal, *ids)  # fmt: skip
    rig.vsctl("add-port", BRIDGE, unmarked, "--", "set", "Interface", unmarked, internal)
    try:
        rig.do(asked)
        assert rig.do(removal(asked))[0]["changed"]
        rig.do({"op": "detach", "id": "d", "instance": None, "address": asked["address"]})
        assert {foreign, unmarked} <= set(rig.ports())
        assert {foreign, unmarked} <= rig.devices()
    finally:
        rig.vsctl("del-port", BRIDGE, foreign, "--", "del-port", BRIDGE, unmarked)


def test_a_container_in_the_hosts_network_is_refused(rig: HostRig) -> None:
    task, _ = rig.container(network="host")
    [result] = rig.do(order(task))
    assert result["status"] == "refused"
    assert "host's network" in result["reason"]


def test_an_interface_that_is_not_ours_is_left_alone(rig: HostRig) -> None:
    task, container = rig.container()
    pid = rig.docker("inspect", "-f", "{{.State.Pid}}", container)
    run(
        "nsenter",
        f"--net=/proc/{pid}/ns/net",
        "ip",
        "link",
        "add",
        "eth0",
        "type",
        "veth",
        "peer",
        "name",
        "eth9",
    )
    asked = order(task)
    [result] = rig.do(asked)
    assert (result["status"], "not ours" in result["reason"]) == ("refused", True)
    [result] = rig.do({**asked, "interface": "eth1"})
    assert result["status"] == "done"
    until(lambda: rig.fetch(asked["address"]) == task, "an answer through eth1")


def test_one_bad_operation_harms_no_other(rig: HostRig) -> None:
    good, bad = rig.container()[0], rig.container()[0]
    first, twin = order(good), order(bad)
    results = rig.do(
        {"op": "attach", "id": "x"},
        order("no.such.task"),
        first,
        {**twin, "address": first["address"]},
        {"op": "dance", "id": "y"},
        {**order(bad), "gateway": "not an address"},
    )
    assert [result["status"] for result in results] == [
        "refused",
        "retry",
        "done",
        "refused",
        "refused",
        "refused",
    ]
    assert "no.such.task" in results[1]["reason"]
    until(lambda: rig.fetch(first["address"]) == good, "the good one's answer")


def test_a_refused_transaction_falls_back_to_singles(rig: HostRig) -> None:
    # A bridge without our owner mark already has a port of the very name that the second attach will choose.
    asked = [order(rig.container()[0]) for _ in range(2)]
    [planned] = rig.do(asked[1], check=True)
    rig.vsctl("add-br", "hm-other", "--", "set", "bridge", "hm-other", "datapath_type=netdev")
    rig.vsctl("add-port", "hm-other", planned["port"])
    try:
        results = rig.do(*asked)
        assert [result["status"] for result in results] == ["done", "retry"]
        assert planned["port"] not in rig.devices()
        until(lambda: rig.fetch(asked[0]["address"]) == asked[0]["task_id"], "the other's answer")
    finally:
        rig.vsctl("del-br", "hm-other")
    assert rig.do(asked[1])[0]["status"] == "done"


def test_check_mode_says_what_it_would_do_and_does_nothing(rig: HostRig) -> None:
    asked, container, port = attached(rig)
    task, other = rig.container()
    results = rig.do(order(task), removal(asked), asked, _told(task), check=True)
    assert [(result["status"], result["changed"]) for result in results] == [
        ("done", True), ("done", True), ("done", False), ("done", True),
    ]  # fmt: skip
    assert port in rig.ports()
    assert "eth0" not in rig.inside(other, "ip", "addr")
    assert rig.inside(other, "sh", "-c", "ls /etc/hm 2>/dev/null || echo none") == "none"
    assert "eth0" in rig.inside(container, "ip", "addr")


def _told(task: str) -> dict[str, Any]:
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    return {**_file(task), "path": "/etc/hm/x", "digest": empty}


def test_twenty_containers_in_one_call(rig: HostRig) -> None:
    orders = [order(rig.container()[0]) for _ in range(20)]
    results = rig.do(*orders)
    assert {result["status"] for result in results} == {"done"}
    for asked in orders:
        until(lambda asked=asked: rig.fetch(asked["address"]) == asked["task_id"], "an answer")
    assert not any(result["changed"] for result in rig.do(*orders))
    gone = rig.do(*(removal(asked) for asked in orders))
    assert all(result["status"] == "done" and result["changed"] for result in gone)
    assert not set(rig.ports()) & {result["port"] for result in results}


def test_ipv6_is_configured_too(rig: HostRig) -> None:
    task, container = rig.container()
    asked = order(task, address="fd00:64::10", prefix=64, gateway="fd00:64::1")
    assert rig.do(asked)[0]["status"] == "done"
    assert "fd00:64::10/64" in rig.inside(container, "ip", "addr")
    assert "default via fd00:64::1" in rig.inside(container, "ip", "-f", "inet6", "route")
    assert not rig.do(asked)[0]["changed"]
    probe = {"op": "probe", "id": "p", "task_id": task, "address": asked["address"], "ports": [8080]}
    assert rig.do(probe)[0]["status"] == "done", "it reaches itself, although its engine turned IPv6 off"
    assert rig.do(removal(asked))[0]["changed"]


def test_without_switch_or_engine_the_reason_is_told(rig: HostRig) -> None:
    asked, _, _ = attached(rig)
    nowhere = str(rig.directory / "nowhere.sock")
    for setting, word in (("database", "Open vSwitch"), ("engine", "Docker")):
        [result] = rig.do(asked, **{setting: nowhere})
        assert result["status"] == "retry"
        assert word in result["reason"]
    # Detaching must work without the engine: hosts lose it, too.
    assert rig.do(removal(asked), engine=nowhere)[0]["changed"]


def test_neighbours_are_told_twice(rig: HostRig) -> None:
    task, _ = rig.container()
    asked = order(task)
    told = rig.listen_for_announcements(asked["address"])
    assert rig.do(asked)[0]["status"] == "done"
    until(lambda: told() >= 2, "two announcements", 5.0)


def test_calls_at_the_same_time_do_not_disturb_one_another(rig: HostRig) -> None:
    groups = [[order(rig.container()[0]) for _ in range(3)] for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        results = [result for group in pool.map(lambda group: rig.do(*group), groups) for result in group]
    assert [result["status"] for result in results] == ["done"] * 9, results
    for asked in (asked for group in groups for asked in group):
        until(lambda asked=asked: rig.fetch(asked["address"]) == asked["task_id"], "an answer")
        assert len(ours(rig, asked["address"])) == 1


def test_a_container_that_dies_on_the_way_leaves_nothing(
    rig: HostRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    (task, container), (other, _) = rig.container(), rig.container()
    dying, living = order(task), order(other)
    configure = ContainerLinks.configure

    def die_first(links: ContainerLinks, view: View, wanted: Interface) -> None:
        if str(wanted.addresses[0][0]) == dying["address"]:
            rig.docker("rm", "-f", container)
            until(lambda: container not in rig.docker("ps", "-q", "--no-trunc"), "the container's end")
            links.delete("eth0")
        configure(links, view, wanted)

    monkeypatch.setattr(ContainerLinks, "configure", die_first)
    before = set(rig.ports())
    results = rig.do(dying, living)
    assert [result["status"] for result in results] == ["retry", "done"]
    assert set(rig.ports()) - before == {results[1]["port"]}
