"""A call that was frozen on its way cannot undo what a later one confirmed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from mooring.playbooks.module_utils.mooring_host import host, reloads, turns

from .frozen import POINTS
from .rig import BRIDGE, HostRig, until
from .test_files import writing
from .test_ports import attached, order, ours, removal

pytestmark = pytest.mark.root


@contextlib.contextmanager
def frozen(rig: HostRig, point: str, *orders: Mapping[str, Any]) -> Iterator[subprocess.Popen[str]]:
    """A run of the module that stands still at the point; it is gone after the body."""
    settings = {"owner": "mooring", "epoch": 1, "bridge": BRIDGE, "database": rig.database,
                "engine": rig.engine, "state_dir": rig.state_dir}  # fmt: skip
    process = subprocess.Popen(
        ["nsenter", f"--net=/run/netns/{rig.name}", sys.executable, "-m", f"{__package__}.frozen",
         point, json.dumps(settings), json.dumps(orders)],
        stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3],
    )  # fmt: skip
    try:
        until(lambda: _is_stopped(process.pid) or process.poll() is not None, f"the call to stop {point}")
        assert process.poll() is None, "the call came to its end without passing the point"
        yield process
    finally:
        process.kill()
        process.wait(10)


def _is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def go_on(process: subprocess.Popen[str]) -> list[dict[str, Any]]:
    """Let a frozen call run to its end; its results."""
    os.kill(process.pid, signal.SIGCONT)
    output, _ = process.communicate(timeout=30)
    return list(json.loads(output))


@pytest.fixture(autouse=True)
def short_wait(monkeypatch: pytest.MonkeyPatch, rig: HostRig) -> Iterator[None]:
    monkeypatch.setattr(turns, "WAIT_S", 0.3)
    yield
    rig.vsctl("clear", "Bridge", BRIDGE, "external_ids")


@pytest.mark.parametrize("point", POINTS)
def test_a_frozen_attach_wakes_to_find_that_its_port_is_not_wanted(rig: HostRig, point: str) -> None:
    task, container = rig.container()
    asked = order(task, sequence=4)
    devices = rig.devices()
    with frozen(rig, point, asked) as call:
        [gone] = rig.do(removal(asked, sequence=5))
        assert gone["status"] == "done", gone
        assert ours(rig, asked["address"]) == []
        [late] = go_on(call)
    assert (late["status"], late["changed"]) == ("retry", False)
    assert ours(rig, asked["address"]) == []
    assert rig.devices() == devices
    assert asked["address"] not in rig.inside(container, "ip", "address")


@pytest.mark.parametrize("point", ["before its turn", "before the switch is read", "before the transaction"])
def test_a_frozen_detach_does_not_take_what_was_attached_since(rig: HostRig, point: str) -> None:
    asked, _, port = attached(rig)
    with frozen(rig, point, removal(asked, sequence=4)) as call:
        [kept] = rig.do({**asked, "sequence": 5})
        assert (kept["status"], kept["port"]) == ("done", port)
        [late] = go_on(call)
    assert (late["status"], late["changed"]) == ("retry", False)
    assert [found["port"] for found in ours(rig, asked["address"])] == [port]
    assert rig.fetch(asked["address"]) == asked["task_id"]


def test_a_call_waits_for_one_that_is_at_work(rig: HostRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "WAIT_S", 30.0)
    task, _ = rig.container()
    asked = order(task, sequence=4)
    woken: list[Any] = []
    with frozen(rig, "before the link is made", asked) as call:
        wait = turns._wait

        def wake_first(descriptor: int, wait_s: float) -> bool:
            monkeypatch.setattr(turns, "_wait", wait)  # looking at the ports asks for another lock
            os.kill(call.pid, signal.SIGCONT)
            alone = wait(descriptor, wait_s)
            woken.append(ours(rig, asked["address"]))
            return alone

        monkeypatch.setattr(turns, "_wait", wake_first)
        [gone] = rig.do(removal(asked, sequence=5))
        [made] = json.loads(call.communicate(timeout=30)[0])
    assert (made["status"], gone["status"]) == ("done", "done")
    assert [[port["port"] for port in found] for found in woken] == [gone["removed"]] == [[made["port"]]]


def test_who_writes_into_a_container_that_hangs_waits_behind_all_others(
    rig: HostRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reloads, "WRITES_S", 1.0)
    (hung, _), (good, inside) = rig.container(), rig.container()
    with turns.my_turn(rig.state_dir, turns.files_of(hung)) as alone:
        assert alone
        late, written = rig.do(writing(hung, "one"), writing(good, "two"))
        assert (late["status"], written["status"]) == ("retry", "done")
        assert "used up" in late["reason"]
    assert rig.inside(inside, "cat", "/etc/app/db.conf") == "two"
    assert rig.do(writing(hung, "one"))[0]["status"] == "done"


def test_a_fence_is_raised_although_the_bridge_changes_meanwhile(
    rig: HostRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    attached(rig)
    read = host.read_switch
    changes = iter(range(3))

    def change_after(database: Any, bridge: str, owner: str) -> Any:
        switch = read(database, bridge, owner)
        if (count := next(changes, None)) is not None:
            rig.vsctl("set", "Bridge", BRIDGE, f"external_ids:somebody={count}")
        return switch

    monkeypatch.setattr(host, "read_switch", change_after)
    [told] = rig.do({"op": "observe", "id": "o", "fence": True, "sequence": 7}, epoch=8)
    assert (told["status"], told["changed"], told["bridge_epoch"]) == ("done", True, 8)
