"""Bandwidth limits on a real switch, measured with real traffic between two containers."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from mooring.playbooks.module_utils.mooring_host import bandwidth, meters

from .rig import BRIDGE, HostRig, run, until
from .test_ports import attached, order, ours, removal

pytestmark = pytest.mark.root
RATE = 20_000_000  # bit/s: low enough for any machine
PORT = "5201"
LIMITED = {"rate_out": RATE, "rate_in": RATE // 2}


@dataclass
class Seat:
    """A container on the switch."""

    asked: dict[str, Any]
    container: str
    port: str
    inside: tuple[str, ...]  # runs a command in its network namespace

    @property
    def address(self) -> str:
        return str(self.asked["address"])


def seat(rig: HostRig, **changes: Any) -> Seat:
    asked, container, port = attached(rig, **changes)
    pid = rig.docker("inspect", "-f", "{{.State.Pid}}", container)
    return Seat(asked, container, port, ("nsenter", f"--net=/proc/{pid}/ns/net"))


@pytest.fixture(scope="module")
def peer(rig: HostRig) -> Iterator[Seat]:
    """Somebody without limits who takes and sends whatever is asked."""
    made = seat(rig)
    server = subprocess.Popen([*made.inside, "iperf3", "-s", "-J", "-p", PORT], stdout=subprocess.DEVNULL)
    until(lambda: f":{PORT}" in run(*made.inside, "ss", "-ltn"), "iperf3")
    yield made
    server.kill()
    server.wait()
    rig.do(removal(made.asked))


def measured(limited: Seat, peer: Seat, *options: str) -> float:
    """Bit/s that arrive, counted second by second where they arrive; 0 if iperf3 told of none.

    The first second, in which buckets are still full, does not count, nor does what lies in buffers at
    the end, which is part of iperf3's own sum.
    """
    call = ("iperf3", "-J", "--get-server-output", "-c", peer.address, "-p", PORT, "-t", "2", "-O", "1")
    told = json.loads(run(*limited.inside, *call, *options))
    receiver = told if "-R" in options else told["server_output_json"]
    seconds = [one["sum"] for one in receiver["intervals"] if not one["sum"]["omitted"]]
    time_s = sum(one["seconds"] for one in seconds)
    return 8 * sum(one["bytes"] for one in seconds) / time_s if time_s else 0.0


def assert_gets(rate: float, limited: Seat, peer: Seat, *options: str) -> None:
    """Never more than 10 % above the rate; and not less than 10 % below, on a machine that has the time."""
    for attempt in range(3):
        found = measured(limited, peer, *options)
        assert found <= 1.1 * rate, f"attempt {attempt}"
        if found >= 0.9 * rate:
            return
    raise AssertionError(f"{found:.0f} bit/s in place of {rate:.0f}")


def qdiscs(rig: HostRig, limited: Seat) -> tuple[str, str]:
    """What stands on the host's end and inside."""
    outside = run("ip", "netns", "exec", rig.name, "tc", "qdisc", "show", "dev", limited.port, check=False)
    return outside, run(*limited.inside, "tc", "qdisc", "show", "dev", limited.asked["interface"])


def openflow(rig: HostRig, command: str, *words: str) -> str:
    target = f"unix:{rig.directory}/{BRIDGE}.mgmt"
    return run("ovs-ofctl", "-O", "OpenFlow13", command, target, *words)


def records(rig: HostRig) -> list[str]:
    return rig.vsctl("--bare", "--columns=_uuid", "list", "QoS").split()


@pytest.fixture
def limited(rig: HostRig) -> Iterator[Seat]:
    made = seat(rig, interface="eth0", **LIMITED)
    yield made
    rig.do(removal(made.asked))
    assert records(rig) == []
    assert "meter=" not in openflow(rig, "dump-meters")
    assert "meter:" not in openflow(rig, "dump-flows")


def test_tcp_gets_what_was_asked_in_both_directions(limited: Seat, peer: Seat) -> None:
    assert_gets(RATE, limited, peer)
    assert_gets(RATE // 2, limited, peer, "-R")


def test_a_flood_is_capped_even_from_a_container_that_removed_its_shaper(limited: Seat, peer: Seat) -> None:
    run(*limited.inside, "tc", "qdisc", "del", "dev", "eth0", "root")
    assert_gets(RATE, limited, peer, "-u", "-b", "60M")
    assert_gets(RATE // 2, limited, peer, "-u", "-b", "60M", "-R")


def test_a_second_run_changes_nothing_and_observe_tells_what_stands(rig: HostRig, limited: Seat) -> None:
    [again] = rig.do(limited.asked)
    assert (again["status"], again["changed"]) == ("done", False)
    [seen] = ours(rig, limited.address)
    assert (seen["rate_out"], seen["rate_in"]) == (RATE, RATE // 2)


def test_a_rate_changes_in_place_and_goes_with_its_label(rig: HostRig, limited: Seat) -> None:
    [changed] = rig.do({**limited.asked, "rate_out": 5 * RATE, "rate_in": 3 * RATE})
    assert (changed["status"], changed["changed"], changed["port"]) == ("done", True, limited.port)
    outside, inside = qdiscs(rig, limited)
    assert "rate 60Mbit" in outside
    assert "rate 100Mbit" in inside
    assert "rate=100000 " in openflow(rig, "dump-meters")
    [planned] = rig.do({**limited.asked, **LIMITED}, check=True)
    assert planned["changed"]
    [lifted] = rig.do({**limited.asked, "rate_out": None, "rate_in": None})
    assert (lifted["status"], lifted["changed"], lifted["port"]) == ("done", True, limited.port)
    assert "tbf" not in "".join(qdiscs(rig, limited))
    assert records(rig) == []
    assert "meter=" not in openflow(rig, "dump-meters")
    assert not rig.do({**limited.asked, "rate_out": None, "rate_in": None})[0]["changed"]
    assert rig.do({**limited.asked, **LIMITED})[0]["changed"], "and comes back"
    assert rig.do({**limited.asked, "rate_in": None, "rate_out": RATE})[0]["changed"], "one direction alone"
    assert not rig.do({**limited.asked, "rate_in": None, "rate_out": RATE})[0]["changed"]
    outside, inside = qdiscs(rig, limited)
    assert ("tbf" in outside, "tbf" in inside) == (False, True)


@pytest.mark.parametrize("damage", ["inside", "outside", "meter", "flow", "record"])
def test_damage_to_a_limit_is_seen_and_repaired(rig: HostRig, limited: Seat, damage: str) -> None:
    if damage == "inside":
        run(*limited.inside, "tc", "qdisc", "del", "dev", "eth0", "root")
    elif damage == "outside":
        run("ip", "netns", "exec", rig.name, "tc", "qdisc", "del", "dev", limited.port, "root")
    elif damage == "meter":
        openflow(rig, "del-meters")
    elif damage == "flow":
        number = rig.vsctl("get", "Interface", limited.port, "ofport")
        openflow(rig, "del-flows", f"in_port={number}")
    else:
        rig.vsctl("clear", "Port", limited.port, "qos")
    [seen] = ours(rig, limited.address)
    stands = (seen["rate_out"], seen["rate_in"]) == (RATE, RATE // 2)
    assert stands == (damage in ("inside", "record")), "what a container does inside is not seen from outside"
    [mended] = rig.do(limited.asked)
    assert (mended["status"], mended["changed"]) == ("done", True)
    assert "tbf" in qdiscs(rig, limited)[0]
    assert "tbf" in qdiscs(rig, limited)[1]
    [seen] = ours(rig, limited.address)
    assert (seen["rate_out"], seen["rate_in"]) == (RATE, RATE // 2)
    assert not rig.do(limited.asked)[0]["changed"]


def test_a_restart_of_the_switch_daemon_costs_the_meter_and_nothing_else(rig: HostRig, limited: Seat) -> None:
    rig.switch_daemon.kill()
    rig.switch_daemon.wait()
    rig.start_switch_daemon()
    rig.vsctl("add-port", BRIDGE, "later", "--", "set", "Interface", "later", "type=internal")
    rig.vsctl("del-port", BRIDGE, "later")  # by now it has read and applied everything
    [seen] = ours(rig, limited.address)
    assert (seen["rate_out"], seen["rate_in"]) == (None, RATE // 2)
    rig.do({**removal(limited.asked), "address": "10.64.3.1", "instance": "nobody"})
    [seen] = ours(rig, limited.address)
    assert (seen["rate_out"], seen["rate_in"]) == (RATE, RATE // 2), "restored by a call about another port"
    assert not rig.do(limited.asked)[0]["changed"]


def test_a_port_that_somebody_removed_leaves_no_limit_behind(rig: HostRig, limited: Seat) -> None:
    rig.vsctl("del-port", BRIDGE, limited.port)
    assert records(rig) != [], "Open vSwitch deletes it with nothing"
    [again] = rig.do(limited.asked)
    assert (again["status"], again["port"] != limited.port) == ("done", True)
    assert len(records(rig)) == 1
    assert openflow(rig, "dump-meters").count("meter=") == 1


def test_what_is_not_ours_stays(rig: HostRig, limited: Seat) -> None:
    foreign = rig.vsctl("create", "QoS", "type=linux-noop", "external_ids:mooring-owner=another")
    openflow(rig, "add-meter", "meter=7,pktps,band=type=drop,rate=10")
    try:
        rig.do({**limited.asked, "rate_out": None, "rate_in": None})
        assert records(rig) == [foreign]
        assert "meter=7 " in openflow(rig, "dump-meters")
    finally:
        rig.vsctl("destroy", "QoS", foreign)
        openflow(rig, "del-meter", "meter=7")


@pytest.mark.parametrize("missing", ["meters", "tbf", "ovs-ofctl"])
def test_where_the_host_cannot_keep_it_the_attach_is_refused(
    rig: HostRig, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    def no_bucket(*_: object) -> None:
        raise FileNotFoundError(2, "No such file or directory")

    if missing == "meters":
        monkeypatch.setattr(meters.Bridge, "highest", lambda _: 0)
    elif missing == "tbf":
        monkeypatch.setattr(bandwidth.Qdiscs, "shape", no_bucket)
    else:
        monkeypatch.setattr(meters, "PROGRAM", "ovs-ofctl-that-nobody-has")
    (task, container), (other, _) = rig.container(), rig.container()
    before = rig.ports()
    unlimited = order(other)
    [refused, done] = rig.do(order(task, **LIMITED), unlimited)
    assert (refused["status"], done["status"]) == ("refused", "done")
    assert "cannot limit bandwidth" in refused["reason"]
    assert "MOORING_BANDWIDTH" in refused["reason"]
    monkeypatch.undo()
    rig.do(removal(unlimited))
    assert rig.ports() == before
    assert records(rig) == []
    assert "eth0" not in rig.inside(container, "ip", "addr")
