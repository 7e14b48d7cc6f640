"""Containers with an address of either family, on a real switch."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from ipaddress import IPv6Address
from typing import Any

import pytest

from mooring.playbooks.module_utils.mooring_host.wire import ADVERTISEMENT

from .rig import BRIDGE, HostRig, run, until

pytestmark = pytest.mark.root
_numbers = itertools.count(10)
NETWORK, GATEWAY = "fd00:64::", "fd00:64::1"


@pytest.fixture(autouse=True, scope="module")
def _bridge_has_ipv6(rig: HostRig) -> Iterator[None]:
    """The rig asks from the bridge's own device."""
    run("ip", "netns", "exec", rig.name, "sysctl", "-q", "-w", f"net.ipv6.conf.{BRIDGE}.disable_ipv6=0")
    run("ip", "-n", rig.name, "addr", "add", f"{GATEWAY}/64", "dev", BRIDGE, "nodad")
    yield
    run("ip", "-n", rig.name, "addr", "del", f"{GATEWAY}/64", "dev", BRIDGE)


def order(task: str, **changes: Any) -> dict[str, Any]:
    """An attach with a pair of its own."""
    number = next(_numbers)
    four = f"10.64.3.{number}"
    return {
        "op": "attach", "id": f"b{number}", "task_id": task, "app": "/shop/web", "slot": number,
        "instance": f"shop_web.pair-{number}", "address": four, "prefix": 22, "gateway": "10.64.0.1",
        "routes": [{"to": "fd01::/16", "via": "fd00:64::2"}], "vlan": None, "mtu": None, "generation": 1,
        "address6": str(IPv6Address(NETWORK + four)), "prefix6": 64, "gateway6": GATEWAY, **changes,
    }  # fmt: skip


def alone(asked: dict[str, Any]) -> dict[str, Any]:
    """The same attach in a pool that is not paired."""
    return {**asked, "address6": None, "prefix6": None, "gateway6": None, "routes": []}


def attached(rig: HostRig, asked: dict[str, Any] | None = None) -> tuple[dict[str, Any], str, str]:
    """A container that was attached: (order, container id, port name)."""
    task, container = rig.container()
    asked = order(task) if asked is None else {**asked, "task_id": task}
    [result] = rig.do(asked)
    assert (result["status"], result["changed"]) == ("done", True), result
    return asked, container, result["port"]


def answers(rig: HostRig, asked: dict[str, Any]) -> None:
    """Both addresses lead to the task's own server."""
    for address in (asked["address"], asked["address6"]):
        until(lambda address=address: rig.fetch(address) == asked["task_id"], f"an answer on {address}")


@contextmanager
def advertisements(rig: HostRig, address: str) -> Iterator[Callable[[], list[str]]]:
    """Listen on the bridge; yields what tells the MACs of unsolicited advertisements for the address."""
    assert rig.namespace is not None
    with rig.namespace.entered():
        listener = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.htons(3))
    listener.bind((BRIDGE, 3))
    wanted, seen = IPv6Address(address).packed, []

    def heard() -> list[str]:
        with suppress(BlockingIOError):
            while True:
                frame = listener.recv(256)
                if frame[12:14] == b"\x86\xdd" and frame[54:55] == bytes([ADVERTISEMENT]):
                    unsolicited = not frame[58] & 0x40
                    if unsolicited and frame[62:78] == wanted:
                        seen.append(frame[6:12].hex(":"))
        return seen

    with listener:
        yield heard


def test_both_addresses_answer_and_routes_of_both_families_stand(rig: HostRig) -> None:
    asked, container, port = attached(rig)
    answers(rig, asked)
    assert f"default via {GATEWAY}" in rig.inside(container, "ip", "-6", "route")
    assert "fd01::/16 via fd00:64::2" in rig.inside(container, "ip", "-6", "route")
    assert "default via 10.64.0.1" in rig.inside(container, "ip", "route")
    number = int(asked["address"].rpartition(".")[2])
    assert f"02:00:0a:40:03:{number:02x}" in rig.inside(container, "ip", "addr"), "the MAC is the IPv4's"
    settings = {"ndisc_notify": "1", "accept_ra": "0", "autoconf": "0", "disable_ipv6": "0"}
    for name, value in settings.items():
        assert rig.inside(container, "cat", f"/proc/sys/net/ipv6/conf/eth0/{name}") == value, name
    marks = rig.vsctl("get", "Port", port, "external_ids")
    assert f'mooring-address6="{asked["address6"]}"' in marks
    [again] = rig.do(asked)
    assert (again["status"], again["changed"], again["port"]) == ("done", False, port)


def test_a_link_local_gateway_and_the_container_reaches_itself(rig: HostRig) -> None:
    task, _ = rig.container()
    asked = order(task, gateway6="fe80::1")
    [result] = rig.do(asked)
    assert result["status"] == "done", result
    [own] = rig.do({"op": "probe", "id": "p", "task_id": task, "address": asked["address6"], "ports": [8080]})
    assert own["status"] == "done", own
    assert not rig.do(asked)[0]["changed"]


def test_a_pair_moves_to_another_container_whole(rig: HostRig) -> None:
    asked, _, port = attached(rig)
    answers(rig, asked)  # the bridge has both in its neighbour tables now
    task, _ = rig.container()
    with advertisements(rig, asked["address6"]) as heard:
        moved = {**asked, "task_id": task, "instance": "shop_web.pair-another"}
        [result] = rig.do(moved)
        assert (result["status"], result["removed"]) == ("done", [port])
        answers(rig, moved)
        # The kernel tells it when the link comes up, and we repeat it.
        until(lambda: heard().count(result["mac"]) >= 2, "two advertisements")


def test_the_second_address_comes_and_goes_without_touching_the_first(rig: HostRig) -> None:
    task, container = rig.container()
    asked = order(task)
    [single] = rig.do(alone(asked))
    [both] = rig.do(asked)
    assert (both["status"], both["changed"], both["port"]) == ("done", True, single["port"])
    answers(rig, asked)
    other = str(IPv6Address("fd00:65::" + asked["address"]))
    [renumbered] = rig.do({**asked, "address6": other, "gateway6": "fe80::1", "routes": []})
    assert (renumbered["status"], renumbered["port"]) == ("done", single["port"])
    inside = rig.inside(container, "ip", "-6", "addr")
    assert (other in inside, asked["address6"] in inside) == (True, False)
    assert f"via {GATEWAY}" not in rig.inside(container, "ip", "-6", "route")
    [back] = rig.do(alone(asked))
    assert (back["status"], back["port"]) == ("done", single["port"])
    assert "fd00:6" not in rig.inside(container, "ip", "-6", "addr")
    assert "address6" not in rig.vsctl("get", "Port", single["port"], "external_ids")
    assert not rig.do(alone(asked))[0]["changed"]
    assert rig.fetch(asked["address"]) == task


@pytest.mark.parametrize("damage", ["address", "prefix", "route", "setting", "link"])
def test_damage_to_the_second_address_is_repaired(rig: HostRig, damage: str) -> None:
    asked, container, port = attached(rig)
    pid = rig.docker("inspect", "-f", "{{.State.Pid}}", container)
    inside = ("nsenter", f"--net=/proc/{pid}/ns/net")
    words = {
        "address": ("ip", "addr", "del", f"{asked['address6']}/64", "dev", "eth0"),
        "prefix": ("ip", "addr", "add", f"{asked['address6']}/65", "dev", "eth0"),
        "route": ("ip", "-6", "route", "del", "default"),
        "setting": ("sysctl", "-q", "-w", "net.ipv6.conf.eth0.accept_ra=1"),
        "link": ("ip", "link", "set", "eth0", "down"),  # the kernel takes global IPv6 addresses off it
    }
    if damage == "prefix":
        run(*inside, "ip", "addr", "del", f"{asked['address6']}/64", "dev", "eth0")
    run(*inside, *words[damage])
    [result] = rig.do(asked)
    assert (result["status"], result["changed"], result["port"]) == ("done", True, port)
    answers(rig, asked)
    assert not rig.do(asked)[0]["changed"]


def test_detach_takes_both(rig: HostRig) -> None:
    asked, container, port = attached(rig)
    [result] = rig.do({"op": "detach", "id": "d", "instance": None, "address": asked["address"]})
    assert (result["status"], result["removed"]) == ("done", [port])
    assert "fd00:64" not in rig.inside(container, "ip", "-6", "addr")
