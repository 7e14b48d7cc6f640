"""The life of the rules on a real switch: who puts them in, who keeps them, and who restores them."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from mooring.playbooks.module_utils.mooring_host import committing
from mooring.playbooks.module_utils.mooring_host.errors import Retry
from mooring.playbooks.module_utils.mooring_host.guards import FIRST_NUMBER, owner_of
from mooring.playbooks.module_utils.mooring_host.host import Host, Settings
from mooring.playbooks.module_utils.mooring_host.isolation import Isolation
from mooring.playbooks.module_utils.mooring_host.openflow import read_flows
from mooring.playbooks.module_utils.mooring_host.operations import perform

from .rig import BRIDGE, HostRig, run, until
from .speaking import (
    ARP,
    NEIGHBOUR,
    NEIGHBOUR_MAC,
    Speaker,
    Wire,
    arp,
    arrives,
    dropped,
    ethernet,
    flows,
    speaker,
    wires,
)
from .test_ports import attached, order, removal

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("guardian")]
OPERATORS = "cookie=0x77,table=0,priority=7,udp,tp_dst=7777,actions=NORMAL"


def test_a_port_has_a_number_of_ours_and_detach_leaves_no_rule(rig: HostRig) -> None:
    asked, _, port = attached(rig)
    number = int(rig.vsctl("get", "Interface", port, "ofport"))
    assert number >= FIRST_NUMBER
    assert any(f"in_port={number}" in flow.match.split(",") for flow in flows(rig))
    assert rig.do(removal(asked))[0]["status"] == "done"
    assert not any(f"in_port={number}" in flow.match.split(",") for flow in flows(rig))


def test_a_second_run_does_not_touch_a_rule(rig: HostRig) -> None:
    asked, _, _ = attached(rig)
    before = ages(rig)
    assert not rig.do(asked)[0]["changed"]
    [told] = rig.do({"op": "observe", "id": "o", "fence": True})
    assert not told["changed"]
    now = ages(rig)
    assert {cookie: age for cookie, age in now.items() if age < before.get(cookie, 0)} == {}
    assert now.keys() == before.keys()


def ages(rig: HostRig) -> dict[str, float]:
    """Seconds since each rule was put in, by cookie."""
    found = re.findall(r"cookie=(\S+), duration=([\d.]+)s", rig.ofctl("dump-flows"))
    return {cookie: float(seconds) for cookie, seconds in found}


@pytest.mark.parametrize("damage", ["gone", "other actions", "one more"])
def test_rules_that_differ_are_mended_and_told(rig: HostRig, damage: str) -> None:
    asked, _, port = attached(rig)
    number = rig.vsctl("get", "Interface", port, "ofport")
    cookie = next(flow.cookie for flow in flows(rig) if f"in_port={number}" in flow.match.split(","))
    good = sorted(flow.seen for flow in flows(rig))
    if damage == "gone":
        rig.ofctl("del-flows", f"in_port={number}")
    elif damage == "other actions":
        rig.ofctl("mod-flows", f"in_port={number},actions=NORMAL")
    else:
        rig.ofctl("add-flow", f"cookie={cookie:#x},priority=65000,in_port={number},actions=NORMAL")
    # The guardian may have been faster; then there is nothing left to mend.
    harmed = sorted(flow.seen for flow in flows(rig)) != good
    assert rig.do(asked)[0]["changed"] or not harmed
    assert sorted(flow.seen for flow in flows(rig)) == good


def test_a_port_without_guards_is_silent(rig: HostRig) -> None:
    who = speaker(rig)
    number = rig.vsctl("get", "Interface", who.port, "ofport")
    good = ethernet(who.mac, ARP, arp(who.mac, who.address, NEIGHBOUR))
    with wires((who.namespace, "eth0"), (f"/run/netns/{rig.name}", BRIDGE)) as (mouth, ear):
        arrives(mouth.say(good), ear)
        rig.ofctl("del-flows", f"in_port={number}")
        lie = mouth.say(ethernet(NEIGHBOUR_MAC, ARP, arp(NEIGHBOUR_MAC, NEIGHBOUR, NEIGHBOUR)))
        rig.do(who.order)
        arrives(mouth.say(good), ear)
        assert not ear.heard(lie)


def test_guards_stand_before_the_port_comes_up(rig: HostRig, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = order(rig.container()[0])
    seen: list[bool] = []
    isolate = committing.isolate

    def looking(host: Host, **named: Any) -> Isolation:
        told = isolate(host, **named)
        [device] = [each for each in host.devices().values() if f":{asked['address']}:" in each.alias]
        seen.append(device.up or device.name not in told.guarded)
        return told

    monkeypatch.setattr(committing, "isolate", looking)
    assert rig.do(asked)[0]["status"] == "done"
    assert seen == [False]


def test_an_attach_without_guards_leaves_nothing(rig: HostRig, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = order(rig.container()[0])
    ports, devices, rules = rig.ports(), rig.devices(), sorted(flow.seen for flow in flows(rig))

    def failing(host: Host, **named: Any) -> Isolation:
        raise Retry("the rules cannot be read")

    with monkeypatch.context() as broken:
        broken.setattr(committing, "isolate", failing)
        [result] = rig.do(asked)
    assert (result["status"], "the rules cannot be read" in result["reason"]) == ("retry", True)
    assert (rig.ports(), rig.devices()) == (ports, devices)
    until(lambda: sorted(flow.seen for flow in flows(rig)) == rules, "the guardian to remove what was put in")
    assert rig.do(asked)[0]["status"] == "done"


def test_rules_of_a_port_that_vanished_go_with_the_next_call(rig: HostRig) -> None:
    _, _, port = attached(rig)
    number = rig.vsctl("get", "Interface", port, "ofport")
    rig.vsctl("del-port", BRIDGE, port)
    attached(rig)
    assert not any(f"in_port={number}" in flow.match.split(",") for flow in flows(rig))


def test_rules_and_ports_of_others_are_left_alone(rig: HostRig) -> None:
    attached(rig)  # it is secure by now
    rig.ofctl("add-flow", OPERATORS)
    foreign = "fp-guards"
    rig.vsctl("add-port", BRIDGE, foreign, "--", "set", "Interface", foreign, "type=internal",
              f"ofport_request={FIRST_NUMBER + 5}")  # fmt: skip
    try:
        asked, _, _ = attached(rig)
        passing = [flow for flow in flows(rig) if flow.match == f"reg0={FIRST_NUMBER + 5:#x}/0xffff"]
        assert [flow.actions for flow in passing] == ["NORMAL"], "its number is of our range"
        rig.do(removal(asked), {"op": "observe", "id": "o", "fence": True})
        assert [flow.match for flow in flows(rig) if flow.cookie == 0x77] == ["udp,tp_dst=7777"]
    finally:
        rig.ofctl("del-flows", "cookie=0x77/-1")
        rig.vsctl("del-port", BRIDGE, foreign)


def test_a_probe_port_is_there_until_the_new_port_has_its_own_place(
    rig: HostRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the datapath may give the new port the place of the probe, and count the probe's frames there."""
    seen: list[int] = []
    isolate = committing.isolate

    def looking(host: Host, **named: Any) -> Isolation:
        seen.append(len(host.switch().probes))
        return isolate(host, **named)

    monkeypatch.setattr(committing, "isolate", looking)
    who = speaker(rig, detect=True)
    assert seen == [1]
    assert not [name for name in rig.ports() if name.startswith("mp")]
    assert dropped(rig, who) == {}


# -- the bridge


def test_the_bridge_is_secure_and_uplinks_forward(rig: HostRig) -> None:
    asked, _, _ = attached(rig)
    assert rig.vsctl("get-fail-mode", BRIDGE) == "secure"
    [told] = rig.do({"op": "observe", "id": "o"})
    assert told["isolation"] == {"fail_mode": "secure", "reason": ""}
    until(lambda: rig.fetch(asked["address"]) == asked["task_id"], "an answer")


@pytest.mark.parametrize(
    ("setup", "word"),
    [
        ((), "no guardian"),
        (("--", "set-controller", "hm-plain", "punix:/nowhere/at.all"), "controller"),
        (("--", "set-fail-mode", "hm-plain", "standalone"), "del-fail-mode"),
    ],
)
def test_a_bridge_stays_as_it_is_where_secure_would_harm(
    rig: HostRig, setup: tuple[str, ...], word: str
) -> None:
    rig.vsctl("add-br", "hm-plain", "--", "set", "bridge", "hm-plain", "datapath_type=netdev", *setup)
    before = rig.vsctl("get-fail-mode", "hm-plain")
    try:
        told = _observe(rig, "hm-plain")
        assert word in told["isolation"]["reason"]
        assert rig.vsctl("get-fail-mode", "hm-plain") == before
    finally:
        rig.vsctl("del-br", "hm-plain")


def test_rules_of_others_would_be_lost_and_keep_a_bridge_from_becoming_secure(rig: HostRig) -> None:
    rig.vsctl("add-br", "hm-plain", "--", "set", "bridge", "hm-plain", "datapath_type=netdev")
    target = f"unix:{rig.directory}/hm-plain.mgmt"
    try:
        until(lambda: "NORMAL" in run("ovs-ofctl", "dump-flows", target, check=False), "the bridge")
        run("ovs-ofctl", "add-flow", target, "cookie=0x77,priority=0,actions=drop")
        told = _observe(rig, "hm-plain")
        assert "rules of others" in told["isolation"]["reason"]
        assert "cookie=0x77" in run("ovs-ofctl", "dump-flows", target)
    finally:
        rig.vsctl("del-br", "hm-plain")


def _observe(rig: HostRig, bridge: str) -> dict[str, Any]:
    settings = Settings(owner="mooring", epoch=1, bridge=bridge, database=rig.database,
                        engine=rig.engine, state_dir=rig.state_dir)  # fmt: skip
    assert rig.namespace is not None
    with rig.namespace.entered():
        [told] = perform(settings, [{"op": "observe", "id": "o", "fence": True}])
    return told


# -- the guardian


def _lying(wire: Wire, who: Speaker, stop: threading.Event) -> Iterator[bytes]:
    while not stop.wait(0.01):
        try:
            yield wire.say(ethernet(NEIGHBOUR_MAC, ARP, arp(NEIGHBOUR_MAC, NEIGHBOUR, NEIGHBOUR)))
        except OSError:  # the queue is full while nobody takes anything off the wire
            continue


def test_the_guardian_restores_what_a_killed_switch_daemon_lost(rig: HostRig) -> None:
    who = speaker(rig)
    until(lambda: rig.fetch(who.address) == who.order["task_id"], "an answer before")
    good = sorted(flow.seen for flow in flows(rig))
    stop = threading.Event()
    with wires((who.namespace, "eth0"), (f"/run/netns/{rig.name}", BRIDGE)) as (mouth, ear):
        lies: list[bytes] = []
        liar = threading.Thread(target=lambda: lies.extend(_lying(mouth, who, stop)))
        liar.start()
        try:
            rig.switch_daemon.kill()
            rig.switch_daemon.wait(10)
            rig.start_switch_daemon()
            until(lambda: rig.fetch(who.address) == who.order["task_id"], "an answer after the start")
        finally:
            stop.set()
            liar.join()
        assert len(lies) > 3
        assert not any(ear.heard(lie) for lie in lies), "something false has passed meanwhile"
    assert sorted(flow.seen for flow in flows(rig)) == good
    assert not rig.do(who.order)[0]["changed"]


def test_the_guardian_outlives_database_and_bridge(rig: HostRig) -> None:
    def ruled() -> bool:
        told = run("ovs-ofctl", "-O", "OpenFlow14", "dump-flows", target, check=False)
        return any(owner_of(flow.cookie) is not None for flow in read_flows(told))

    target = f"unix:{rig.directory}/hm-kept.mgmt"
    with rig.guardian("hm-kept") as process:
        for _ in range(2):
            rig.vsctl("add-br", "hm-kept", "--", "set", "bridge", "hm-kept", "datapath_type=netdev")
            until(ruled, "the base rules")
            rig.vsctl("del-br", "hm-kept")
        assert process.poll() is None
