"""The module as the daemon runs it: packed by Ansible, started by ansible-runner, on a host of its own."""

from __future__ import annotations

import asyncio
import hashlib
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mooring.handlers.ansible import AnsibleRunner
from mooring.handlers.plays import Flying, HostUnreachable, PlayFailed
from mooring.handlers.warm.runner import WarmRunner

from .rig import BRIDGE, HostRig, until

pytestmark = pytest.mark.root


@pytest.fixture
def inventory(rig: HostRig, tmp_path: Path) -> Path:
    """One good host, reached by running Python in its namespace, and several bad ones."""
    python = tmp_path / "python3"
    python.write_text(f'#!/bin/sh\nexec nsenter --net=/run/netns/{rig.name} /usr/bin/python3 "$@"\n')
    hanging = tmp_path / "hanging"
    hanging.write_text(f"#!/bin/sh\ntouch {tmp_path}/begun\nsleep 60\n")
    for program in (python, hanging):
        program.chmod(0o755)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        closed = unused.getsockname()[1]
    local = "ansible_connection=local"
    path = tmp_path / "inventory.ini"
    path.write_text(
        f"good {local} ansible_python_interpreter={python}\n"
        f"away ansible_host=127.0.0.1 ansible_port={closed}\n"
        f"hangs {local} ansible_python_interpreter={hanging}\n"
        f"broken {local} ansible_python_interpreter=/bin/false\n"
        f"[all:vars]\nmooring_database={rig.database}\nmooring_engine={rig.engine}\nmooring_state_dir={rig.state_dir}\n"
    )
    return path


AnyRunner = AnsibleRunner | WarmRunner


@pytest.fixture(params=[AnsibleRunner, WarmRunner])
def kind(request: pytest.FixtureRequest) -> type[AnyRunner]:
    """Both ways of running plays."""
    chosen: type[AnyRunner] = request.param
    return chosen


@pytest.fixture
async def runner(kind: type[AnyRunner], inventory: Path) -> AsyncIterator[AnyRunner]:
    """A runner that is closed afterwards."""
    made = kind(flying(inventory))
    yield made
    await made.close()


def flying(inventory: Path, timeout_s: float = 60.0) -> Flying:
    return Flying(inventory, "mooring", BRIDGE, timeout_s=timeout_s, grace_s=2.0)


def writing(task: str, content: str, **changes: object) -> dict[str, object]:
    digest = hashlib.sha256(content.encode()).hexdigest()
    return {
        "op": "write",
        "id": "w",
        "task_id": task,
        "path": "/etc/x",
        "content": content,
        "digest": digest,
        **changes,
    }


def marked_processes(runner: AnyRunner) -> list[str]:
    """Command lines of the processes that carry the mark of one of this runner's flights."""
    mark = f"MOORING_FLIGHT={runner._work_dir}/".encode()
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and mark in (entry / "environ").read_bytes():
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


async def test_a_check_names_the_same_program_wherever_it_runs(rig: HostRig, runner: AnyRunner) -> None:
    [packed] = await runner.run("good", [{"op": "check", "id": "c"}], 1)
    [here] = rig.do({"op": "check", "id": "c"})
    assert packed["status"] == "done", packed
    assert packed["program"] == here["program"], "packed by Ansible or not, it is the same program"
    assert packed["limits"] == here["limits"]


async def test_one_play_attaches_writes_and_observes(rig: HostRig, runner: AnyRunner) -> None:
    task, container = rig.container()
    hostile = "{{ 7 * 7 }} {% raw %} ${HOME} `id` ä\n"
    attach = {"op": "attach", "id": "a", "task_id": task, "app": "/r", "slot": 0, "instance": "run",
              "address": "10.64.3.1", "prefix": 22, "gateway": None, "generation": 1}  # fmt: skip
    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    attached, written, seen = await runner.run(
        "good", [attach, writing(task, hostile), {"op": "observe", "id": "o"}], 1
    )
    assert (attached["id"], attached["status"], attached["changed"]) == ("a", "done", True)
    assert written["status"] == "done"
    assert rig.inside(container, "cat", "/etc/x") == hostile.strip()
    assert attached["port"] in [port["port"] for port in seen["ports"]]  # type: ignore[index,union-attr]
    until(lambda: rig.fetch("10.64.3.1") == task, "an answer")
    [again] = await runner.run("good", [attach], 1)
    assert not again["changed"]
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == handlers
    assert not list(runner._work_dir.glob("flight-*"))


async def test_a_host_can_be_a_gateway(rig: HostRig, runner: AnyRunner) -> None:
    """All that the module needs for it travels with the play."""
    web = {"pool": "web", "address": "10.70.0.1", "prefix": 24, "vlan": 100, "mtu": 1446, "nat": True}
    gateway = {"op": "gateway", "id": "g", "gateways": [web]}
    fabric = {"op": "fabric", "id": "f", "local": None, "vni": 1, "port": 4789, "peers": []}
    made, ways, seen = await runner.run("good", [gateway, fabric, {"op": "observe", "id": "o"}], 1)
    assert (made["status"], made["added"], ways["status"]) == ("done", ["web"], "done")
    assert len(seen["fixtures"]) == 1  # type: ignore[arg-type]
    [gone] = rig.do({**gateway, "gateways": []})
    assert gone["removed"] == ["web"]


async def test_a_play_does_not_wait_for_a_command_that_hangs(rig: HostRig, runner: AnyRunner) -> None:
    task, _ = rig.container()
    async with asyncio.timeout(40):
        [late] = await runner.run("good", [writing(task, "x", command=["sleep", "90"], timeout_s=0.5)], 1)
    assert (late["status"], "did not end within 0.5 s" in str(late["reason"])) == ("retry", True)


async def test_hosts_that_cannot_be_reached_or_used(runner: AnyRunner) -> None:
    observe = [{"op": "observe", "id": "o"}]
    with pytest.raises(HostUnreachable, match="away"):
        await runner.run("away", observe, 1)
    with pytest.raises(PlayFailed, match="broken"):
        await runner.run("broken", observe, 1)
    with pytest.raises(PlayFailed, match="stranger"):
        await runner.run("stranger", observe, 1)


@pytest.mark.parametrize("end", ["cancel", "timeout", "close"])
async def test_a_play_that_is_ended_leaves_no_process(
    kind: type[AnyRunner], inventory: Path, tmp_path: Path, end: str
) -> None:
    runner = kind(flying(inventory, 12.0 if end == "timeout" else 60.0))
    play = asyncio.create_task(runner.run("hangs", [{"op": "observe", "id": "o"}], 1))
    try:
        async with asyncio.timeout(30):
            while not (tmp_path / "begun").exists():
                await asyncio.sleep(0.1)
        assert marked_processes(runner)
        if end == "cancel":
            play.cancel()
            with pytest.raises(asyncio.CancelledError):
                await play
        elif end == "close":
            await runner.close()
            with pytest.raises(PlayFailed, match="stopped"):
                await play
        else:
            with pytest.raises(PlayFailed, match="no end after 12 s"):
                await play
        assert marked_processes(runner) == []
    finally:
        await runner.close()
    assert not runner._work_dir.exists()
