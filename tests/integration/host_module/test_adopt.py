"""Containers that pipework or a script has wired are surveyed and taken over, on a real switch."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import re
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pytest

from mooring.playbooks.module_utils.mooring_host import adopt as adopting
from mooring.playbooks.module_utils.mooring_host.errors import Retry
from mooring.playbooks.module_utils.mooring_host.links import mac_for

from .rig import BRIDGE, HostRig, run, until
from .speaking import (
    IP,
    IPV6,
    NEIGHBOUR6,
    dropped,
    ethernet,
    has_rules,
    heard,
    ipv4,
    ipv6,
    lies_of,
    number_of,
    speaker_of,
    udp,
)
from .test_ports import order, ours, removal
from .wired import Pipework, installed, port_for, process_of

pytestmark = pytest.mark.root


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Pipework]:
    with installed("stand-in", tmp_path) as made:
        yield made


@dataclass(frozen=True)
class Wired:
    """A container that pipework has wired without us, and the attach that would belong to it."""

    attach: dict[str, Any]
    container: str
    port: str
    mac: str

    @property
    def address(self) -> str:
        return str(self.attach["address"])

    @property
    def task(self) -> str:
        return str(self.attach["task_id"])


def wired(rig: HostRig, program: Pipework, *, interface: str = "eth1", vlan: int | None = None) -> Wired:
    """A container of its own, with a MAC that is not derived from its address."""
    task, container = rig.container()
    asked = order(task, vlan=vlan)
    mac = f"0e:00:00:00:88:{int(asked['address'].rpartition('.')[2]):02x}"
    tagged = mac + (f"@{vlan}" if vlan else "")
    program.wire(rig, container, f"{asked['address']}/22@10.64.0.1", tagged, interface=interface)
    # Without this no TCP passes a userspace switch; with pipework's users it is done by hand as well.
    process = process_of(rig, container)
    run("nsenter", f"--net=/proc/{process}/ns/net", "ethtool", "-K", interface, "tx", "off")
    return Wired(asked, container, port_for(rig, container, interface), mac)


def survey(rig: HostRig, task: str) -> list[dict[str, Any]]:
    """What the host tells of the container of a task."""
    [report] = rig.do({"op": "survey", "id": "s"})
    assert report["status"] == "done", report
    return [row for row in report["containers"] if row["task"] == task]


def adoption(rig: HostRig, seen: Wired, **changes: Any) -> dict[str, Any]:
    """The order to take it over as it was surveyed."""
    [row] = [row for row in survey(rig, seen.task) if row["address"] == seen.address]
    keys = ("id", "task_id", "app", "slot", "instance", "address", "prefix", "vlan", "generation")
    found = {"interface": row["interface"], "port": row["port"], "container": row["container"]}
    return {"op": "adopt", **{key: seen.attach[key] for key in keys}, **found, **changes}


@contextlib.contextmanager
def pinging(rig: HostRig, address: str) -> Iterator[list[int]]:
    """A ping every 5 ms before, during and after the body; the numbers of those that were answered."""
    numbers: list[int] = []
    words = ("ip", "netns", "exec", rig.name, "ping", "-i", "0.005", "-W", "1", address)
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        answered(process.stdout, 20, numbers)
        yield numbers
        answered(process.stdout, 100, numbers)
    finally:
        process.terminate()
        process.stdout.close()
        process.wait(20)


def answered(output: IO[str], times: int, numbers: list[int]) -> None:
    """Read so many answers."""
    while times and (line := output.readline()):
        if (found := re.search(r"bytes from .* icmp_seq=(\d+)", line)) is not None:
            numbers.append(int(found[1]))
            times -= 1


def reached(rig: HostRig, address: str) -> None:
    ping = ("ip", "netns", "exec", rig.name, "ping", "-c", "1", "-W", "1", address)
    until(lambda: " 1 received" in run(*ping, check=False), f"{address} to answer")


def test_a_survey_tells_what_has_to_be_compared(rig: HostRig, program: Pipework) -> None:
    seen = wired(rig, program, vlan=51)
    [row] = survey(rig, seen.task)
    assert row["container"].startswith(seen.container + "@")
    told = ("interface", "address", "prefix", "mac", "mtu", "port", "vlan", "problem")
    assert {key: row[key] for key in told} == {
        "interface": "eth1", "address": seen.address, "prefix": 22, "mac": seen.mac, "mtu": 1500,
        "port": seen.port, "vlan": 51, "problem": "",
    }  # fmt: skip
    assert {"to": "0.0.0.0/0", "via": "10.64.0.1"} in row["routes"]


def test_what_cannot_be_taken_over_is_told_with_its_reason(rig: HostRig, program: Pipework) -> None:
    with another_bridge(rig) as bridge:
        task, container = rig.container()
        program.run(rig, bridge, "-i", "eth1", container, "10.64.1.1/22", "0e:00:00:00:88:01")
        [row] = survey(rig, task)
        assert row["problem"] == f"its port {row['port']} is on bridge {bridge}, not on {BRIDGE}"
        assert row["address"] == "10.64.1.1"
    [row] = survey(rig, task)
    assert row["problem"] == f"{row['port']}, where eth1 leads to, is no port of an Open vSwitch bridge"
    other = wired(rig, program)
    rig.vsctl("set", "Port", other.port, "external_ids:mooring-owner=theirs")
    [row] = survey(rig, other.task)
    assert row["problem"] == f"its port {other.port} belongs to another Mooring, theirs"


def test_two_containers_that_are_wired_to_each_other_have_nothing_to_do_with_our_ports(
    rig: HostRig, program: Pipework
) -> None:
    """Their indexes are made those of a living pair, which is none of theirs."""
    seen = wired(rig, program)
    process = process_of(rig, seen.container)
    there = ("nsenter", f"--net=/proc/{process}/ns/net")
    inner = json.loads(run(*there, "ip", "-j", "link", "show", "eth1"))[0]["ifindex"]
    outer = json.loads(run("ip", "-j", "-n", rig.name, "link", "show", seen.port))[0]["ifindex"]
    one, two = (rig.container() for _ in range(2))
    first, second = (process_of(rig, container) for _, container in (one, two))
    run("nsenter", f"--net=/proc/{first}/ns/net", "ip", "link", "add", "eth1", "index", str(inner), "type",
        "veth", "peer", "name", "eth1", "index", str(outer), "netns", second)  # fmt: skip
    run("nsenter", f"--net=/proc/{first}/ns/net", "ip", "address", "add", "10.64.1.9/22", "dev", "eth1")
    [row] = survey(rig, one[0])
    assert (row["port"], row["problem"]) == ("", "eth1 does not lead to a device of this host")
    [result] = rig.do({**adoption(rig, seen), "task_id": one[0], "container": row["container"],
                       "address": "10.64.1.9"})  # fmt: skip
    assert (result["status"], "does not lead to" in result["reason"]) == ("refused", True)


@contextlib.contextmanager
def another_bridge(rig: HostRig) -> Iterator[str]:
    name = f"br{uuid.uuid4().hex[:6]}"
    rig.vsctl("add-br", name, "--", "set", "bridge", name, "datapath_type=netdev")
    yield name
    rig.vsctl("del-br", name)


def test_nothing_is_told_of_our_own_and_of_the_unwired(rig: HostRig) -> None:
    task, _ = rig.container()
    shared, _ = rig.container(network="host")
    assert survey(rig, task) == []
    rig.do(order(task))
    assert survey(rig, task) == []
    assert survey(rig, shared) == []


@pytest.mark.parametrize("interface", ["eth0", "eth1"])
def test_traffic_goes_on_while_a_container_is_taken_over(
    rig: HostRig, program: Pipework, interface: str
) -> None:
    seen = wired(rig, program, interface=interface)
    uuid_before = rig.vsctl("get", "Port", seen.port, "_uuid")
    reached(rig, seen.address)
    with pinging(rig, seen.address) as numbers:
        taking = adoption(rig, seen)
        [result] = rig.do(taking)
        assert (result["status"], result["changed"], result["port"]) == ("done", True, seen.port), result
        [again] = rig.do(taking)
        assert (again["status"], again["changed"]) == ("done", False)
        # What the daemon does next; it may set what touches no traffic, and then nothing more.
        [attached] = rig.do(seen.attach)
        assert (attached["status"], attached["port"], attached["mac"]) == ("done", seen.port, seen.mac)
        [idle] = rig.do(seen.attach)
        assert (idle["status"], idle["changed"]) == ("done", False)
        until(lambda: rig.fetch(seen.address) == seen.task, "an answer, by TCP")
    assert numbers == list(range(1, 121)), "every one of them, in order"
    assert rig.vsctl("get", "Port", seen.port, "_uuid") == uuid_before
    assert survey(rig, seen.task) == []
    [told] = ours(rig, seen.address)
    assert (told["port"], told["interface"], told["adopted"], told["alive"]) == (
        seen.port, interface, True, True
    )  # fmt: skip
    assert f'mooring-mac="{seen.mac}"' in rig.vsctl("get", "Port", seen.port, "external_ids")
    inside = rig.inside(seen.container, "ip", "link")
    assert seen.mac in inside
    assert ("eth0" in inside) == (interface == "eth0")


def test_its_guards_are_in_force_when_an_adoption_answers(rig: HostRig, program: Pipework) -> None:
    seen = wired(rig, program)
    who = speaker_of(rig, seen.attach, seen.container, seen.port, "eth1")
    lies, true = lies_of(who)
    assert heard(rig, who, lies, true) == set(lies), "until then the port says what it likes"
    [result] = rig.do(adoption(rig, seen))
    assert heard(rig, who, lies, true) == set()
    assert dropped(rig, who) == {"address": 1, "mac": 1, "arp": 1}
    assert result["mac"] == who.mac != mac_for(ipaddress.ip_address(seen.address))
    number = number_of(rig, seen.port)
    assert has_rules(rig, number)
    rig.do(removal(seen.attach))
    assert not has_rules(rig, number)


def test_an_adoption_tells_at_once_what_the_port_is_barred_from(rig: HostRig, program: Pipework) -> None:
    seen = wired(rig, program)
    who = speaker_of(rig, seen.attach, seen.container, seen.port, "eth1")
    rig.do(adoption(rig, seen, barred=["10.64.9.0/24"]))
    there = ethernet(who.mac, IP, ipv4(who.address, "10.64.9.7", udp(9, 9)))
    assert heard(rig, who, {"there": there}, lies_of(who)[1]) == set()
    assert dropped(rig, who) == {"barred": 1}
    assert rig.do({**seen.attach, "barred": ["10.64.9.0/24"]})[0]["status"] == "done"


def test_both_addresses_of_a_pair_may_speak(rig: HostRig, program: Pipework) -> None:
    seen = wired(rig, program)
    give(rig, seen, "fd00:64::88:1/64")
    second = {"address6": "fd00:64::88:1", "prefix6": 64}
    [result] = rig.do({**adoption(rig, seen, **second), "prefix6": 80})
    assert result["reason"] == "eth1 does not have fd00:64::88:1/80"
    assert rig.do(adoption(rig, seen, **second))[0]["status"] == "done"
    who = speaker_of(rig, seen.attach, seen.container, seen.port, "eth1")
    spoken = {
        "its own": ethernet(who.mac, IPV6, ipv6("fd00:64::88:1", "ff02::1", udp(9, 9))),
        "another's": ethernet(who.mac, IPV6, ipv6(NEIGHBOUR6, "ff02::1", udp(9, 9))),
    }
    assert heard(rig, who, spoken, lies_of(who)[1]) == {"its own"}
    [attached] = rig.do({**seen.attach, **second})
    assert (attached["status"], attached["port"]) == ("done", seen.port)


def give(rig: HostRig, seen: Wired, address: str) -> None:
    """Somebody adds an address to the interface by hand."""
    there = ("nsenter", f"--net=/proc/{process_of(rig, seen.container)}/ns/net")
    run(*there, "sysctl", "-qw", "net.ipv6.conf.eth1.disable_ipv6=0")
    run(*there, "ip", "address", "add", address, "dev", "eth1", *(["nodad"] if ":" in address else []))


def test_an_address_that_the_guards_would_silence_is_not_cut_off(rig: HostRig, program: Pipework) -> None:
    seen = wired(rig, program)
    give(rig, seen, "192.0.2.7/24")
    [result] = rig.do(adoption(rig, seen))
    assert (result["status"], "eth1 has 192.0.2.7 as well" in result["reason"]) == ("refused", True)
    assert rig.vsctl("get", "Port", seen.port, "external_ids") == "{}"


def test_without_guards_nothing_is_called_adopted(
    rig: HostRig, program: Pipework, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(host: Any, **named: Any) -> Any:
        raise Retry("the rules cannot be read")

    seen = wired(rig, program)
    taking = adoption(rig, seen)
    with monkeypatch.context() as patch:
        patch.setattr(adopting, "isolate", failing)
        [result] = rig.do(taking)
        assert (result["status"], "its guards are not in force" in result["reason"]) == ("retry", True)
        assert survey(rig, seen.task), "it is still told to be taken over"
    [result] = rig.do(taking)
    assert (result["status"], result["changed"]) == ("done", True)


def test_an_adopted_port_is_limited_by_the_name_that_its_interface_has(
    rig: HostRig, program: Pipework
) -> None:
    seen = wired(rig, program)
    rig.do(adoption(rig, seen))
    [result] = rig.do({**seen.attach, "rate_out": 20_000_000, "rate_in": 10_000_000})
    assert result["status"] == "done", result
    [told] = ours(rig, seen.address)
    assert (told["rate_out"], told["rate_in"]) == (20_000_000, 10_000_000)
    assert rig.do(seen.attach)[0]["changed"]  # lifted again


def test_what_others_wrote_on_the_port_stays(rig: HostRig, program: Pipework) -> None:
    seen = wired(rig, program)
    rig.vsctl("set", "Port", seen.port, "external_ids:cable=7")
    rig.do(adoption(rig, seen))
    rig.do({**seen.attach, "generation": 2})
    marks = rig.vsctl("get", "Port", seen.port, "external_ids")
    assert 'cable="7"' in marks
    assert 'mooring-generation="2"' in marks


def test_a_restarted_container_is_wired_by_ours_with_its_address(rig: HostRig, program: Pipework) -> None:
    seen = wired(rig, program)
    rig.do(adoption(rig, seen))
    rig.docker("restart", "-t", "0", seen.container)
    [result] = rig.do(seen.attach)
    assert (result["status"], result["removed"]) == ("done", [seen.port])
    assert result["port"].startswith("mo")
    assert result["mac"] != seen.mac
    until(lambda: rig.fetch(seen.address) == seen.task, "an answer after the restart")
    [told] = ours(rig, seen.address)
    assert (told["interface"], told["adopted"]) == ("eth0", False)
    assert seen.port not in rig.ports()


def test_another_address_takes_an_adopted_port_away(rig: HostRig, program: Pipework) -> None:
    seen = wired(rig, program)
    rig.do(adoption(rig, seen))
    moved = order(seen.task, instance=seen.attach["instance"])
    [result] = rig.do(moved)
    assert (result["status"], result["removed"]) == ("done", [seen.port]), result
    until(lambda: rig.fetch(moved["address"]) == seen.task, "an answer on the new address")
    assert "eth1" not in rig.inside(seen.container, "ip", "link")


def test_an_adopted_container_is_detached_like_any_other(rig: HostRig, program: Pipework) -> None:
    seen = wired(rig, program)
    rig.do(adoption(rig, seen))
    [result] = rig.do(removal(seen.attach))
    assert result["removed"] == [seen.port]
    assert seen.port not in (*rig.ports(), *rig.devices())
    assert "eth1" not in rig.inside(seen.container, "ip", "link")


def test_its_own_answer_on_the_wire_is_no_conflict(rig: HostRig, program: Pipework) -> None:
    seen = wired(rig, program)
    rig.do(adoption(rig, seen))
    [result] = rig.do({**seen.attach, "detect": True})
    assert (result["status"], result["port"]) == ("done", seen.port)


@pytest.mark.parametrize("interface", ["eth0", "eth1"])
def test_attach_does_not_touch_what_was_not_taken_over(
    rig: HostRig, program: Pipework, interface: str
) -> None:
    seen = wired(rig, program, interface=interface)
    before = rig.inside(seen.container, "ip", "address")
    [result] = rig.do(order(seen.task, detect=True))
    assert (result["status"], "`mooring adopt`" in result["reason"]) == ("refused", True)
    assert rig.inside(seen.container, "ip", "address") == before
    assert seen.port in rig.ports()


def test_what_differs_from_the_survey_is_left_alone(rig: HostRig, program: Pipework) -> None:
    seen = wired(rig, program)
    cases: list[tuple[dict[str, Any], str, str]] = [
        ({"address": "10.64.1.250"}, "refused", "eth1 does not have 10.64.1.250/22"),
        ({"prefix": 24}, "refused", "eth1 does not have"),
        ({"interface": "eth0"}, "refused", "interface eth0 of the container does not lead to veth1pl"),
        ({"port": BRIDGE}, "refused", f"interface eth1 of the container does not lead to {BRIDGE}"),
        ({"vlan": 9}, "refused", "is in VLAN None, not in 9"),
        ({"container": "c@1"}, "retry", "was started anew since it was surveyed"),
        ({"task_id": "none"}, "retry", "no running container carries the label"),
    ]
    for changes, status, reason in cases:
        [result] = rig.do(adoption(rig, seen, **changes))
        assert (result["status"], reason in result["reason"]) == (status, True), result
    assert rig.vsctl("get", "Port", seen.port, "external_ids") == "{}"


def test_an_adoption_that_was_cut_off_is_finished_by_the_next(rig: HostRig, program: Pipework) -> None:
    """The marks on the switch come first; without those on the devices an attach keeps its hands off."""
    seen = wired(rig, program)
    taking = adoption(rig, seen)
    rig.do(taking)
    process = process_of(rig, seen.container)
    run("nsenter", f"--net=/proc/{process}/ns/net", "ip", "link", "set", "eth1", "alias", "")
    [refused] = rig.do(seen.attach)
    assert (refused["status"], "mooring adopt" in refused["reason"]) == ("refused", True)
    assert [row["problem"] for row in survey(rig, seen.task)] == [""]
    [result] = rig.do(taking)
    assert result["status"] == "done"
    [attached] = rig.do(seen.attach)
    assert (attached["status"], attached["port"]) == ("done", seen.port)


def test_an_address_has_one_holder(rig: HostRig, program: Pipework) -> None:
    seen = wired(rig, program)
    other, _ = rig.container()
    rig.do(order(other, address=seen.address))
    [result] = rig.do(adoption(rig, seen))
    assert (result["status"], f"has {seen.address} for" in result["reason"]) == ("refused", True)


def test_another_instance_does_not_get_an_adopted_port(rig: HostRig, program: Pipework) -> None:
    seen = wired(rig, program)
    taking = adoption(rig, seen)
    rig.do(taking)
    [result] = rig.do({**taking, "instance": "another"})
    assert (result["status"], "carries a mark already" in result["reason"]) == ("refused", True)


def test_an_overtaken_caller_takes_nothing_over(rig: HostRig, program: Pipework) -> None:
    seen = wired(rig, program)
    taking = adoption(rig, seen)
    rig.do({"op": "observe", "id": "o", "fence": True, "sequence": 9}, epoch=7)
    try:
        [stale] = rig.do(taking, epoch=6)
        [late] = rig.do({**taking, "sequence": 8}, epoch=7)
        assert [stale["status"], late["status"]] == ["stale", "retry"]
        assert rig.vsctl("get", "Port", seen.port, "external_ids") == "{}"
        [result] = rig.do({**taking, "sequence": 10}, epoch=7)
        assert result["status"] == "done"
    finally:
        rig.vsctl("clear", "Bridge", BRIDGE, "external_ids")


def test_check_mode_takes_nothing_over(rig: HostRig, program: Pipework) -> None:
    seen = wired(rig, program)
    [result] = rig.do(adoption(rig, seen), check=True)
    assert (result["status"], result["changed"]) == ("done", True)
    assert rig.vsctl("get", "Port", seen.port, "external_ids") == "{}"
