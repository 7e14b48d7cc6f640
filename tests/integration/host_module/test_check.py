"""What a host tells of itself, on a real switch and a real kernel."""

from __future__ import annotations

from typing import Any

import pytest

from mooring.playbooks.module_utils.mooring_host import trials

from .rig import BRIDGE, HostRig, run
from .test_ports import attached, removal

pytestmark = pytest.mark.root


def checked(rig: HostRig, **settings: Any) -> dict[str, Any]:
    [answer] = rig.do({"op": "check", "id": "c"}, **settings)
    assert (answer["status"], answer["changed"]) == ("done", False)
    return answer


def test_the_bridge_is_told_with_its_uplinks_and_without_our_ports(rig: HostRig) -> None:
    asked, _, port = attached(rig)
    run("ip", "-n", rig.name, "link", "add", "up0", "mtu", "1400", "type", "veth", "peer", "name", "far0")
    run("ip", "-n", rig.name, "link", "set", "up0", "up")
    rig.vsctl("add-port", BRIDGE, "up0", "trunks=10,20", "--", "add-port", BRIDGE, "nothere", "tag=7",
              "--", "set-controller", BRIDGE, "tcp:127.0.0.1:1")  # fmt: skip
    try:
        switch = checked(rig)["switch"]
    finally:
        rig.vsctl("del-controller", BRIDGE, "--", "del-port", "up0", "--", "del-port", "nothere")
        run("ip", "-n", rig.name, "link", "del", "up0")
        rig.do(removal(asked))
    assert (switch["exists"], switch["datapath"], switch["checksum_offload_off"]) == (True, "netdev", True)
    assert (switch["fail_mode"], switch["controllers"]) == ("standalone", {"tcp:127.0.0.1:1": False})
    found = {uplink["name"]: uplink for uplink in switch["uplinks"]}
    assert {"nothere", "up0"} <= found.keys()
    assert port not in found
    assert (found["up0"]["trunks"], found["up0"]["mtu"], found["up0"]["tag"]) == ([10, 20], 1400, None)
    assert not found["up0"]["up"], "its other end is down"
    assert (found["nothere"]["tag"], "nothere" in found["nothere"]["error"]) == (7, True)
    assert switch["version"].count(".") == 2
    assert switch["schema"].count(".") == 2


def test_what_cannot_be_reached_is_told_with_its_reason(rig: HostRig) -> None:
    nowhere = str(rig.directory / "nowhere" / "x.sock")
    told = checked(rig, database=nowhere, engine=nowhere, state_dir=nowhere)
    assert "no Open vSwitch database" in told["switch"]["error"]
    assert "Docker" in told["engine"]["error"]
    assert told["limits"]["meters"]
    assert told["free_bytes"] > 0


def test_each_ability_is_tried_and_leaves_nothing(rig: HostRig, monkeypatch: pytest.MonkeyPatch) -> None:
    before = rig.devices()
    found = checked(rig)["limits"]
    assert (found["tbf"], found["htb"], found["meters"]) == ("", "", "")
    assert "userspace" in found["policing"], "whatever the kernel can do"
    monkeypatch.setattr(trials, "_libc", type("Libc", (), {"unshare": staticmethod(lambda _: -1)}))
    assert "not permitted" in trials.try_out()["htb"]
    monkeypatch.undo()
    monkeypatch.setattr(trials.Qdiscs, "put_root", lambda *_: None)
    assert "does not show it" in trials.try_out()["tbf"], "an answer without an effect is no ability"
    assert rig.devices() == before
