"""Wiring is never held up: not by what goes on inside containers, nor by hosts that hang."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from mooring.core.clock import SystemClock
from mooring.core.errors import Fenced
from mooring.core.model import Epoch
from mooring.handlers import ansible
from mooring.handlers.ansible import AnsibleRunner
from mooring.handlers.hosts import Answer, Hosts, NetworkSink, Operation
from mooring.handlers.plays import Flying, PlayFailed

OBSERVE: list[Mapping[str, object]] = [{"op": "observe", "id": "o"}]


class SlowInside:
    """A `Runner` whose plays with writes or probes do not end before they are told to."""

    def __init__(self) -> None:
        self.plays: list[list[str]] = []
        self.may_end = asyncio.Event()

    async def prepare(self, host: str) -> None: ...

    async def run(self, host: str, operations: Sequence[Operation], epoch: int) -> Sequence[Answer]:
        kinds = [str(operation["op"]) for operation in operations]
        self.plays.append(kinds)
        if {"write", "probe"} & set(kinds):
            await self.may_end.wait()
        return [{"op": kind, "status": "done"} for kind in kinds]


async def test_what_goes_on_inside_containers_does_not_delay_wiring() -> None:
    runner = SlowInside()
    hosts = Hosts(runner, SystemClock(), Epoch(1))
    inside = asyncio.create_task(hosts.do("h1", [{"op": "write"}, {"op": "probe"}]))
    async with asyncio.timeout(5):
        answers = await hosts.do("h1", [{"op": "attach"}, {"op": "detach"}])
        assert [answer["op"] for answer in answers] == ["attach", "detach"]
        assert (await hosts.marks("h1"))["op"] == "observe"
        assert not inside.done()
        runner.may_end.set()
        assert [answer["op"] for answer in await inside] == ["write", "probe"]
        await hosts.close()
    assert sorted(runner.plays) == [["attach", "detach"], ["observe"], ["write", "probe"]]


class Overtaken:
    """A `Runner` to a host that has heard a newer daemon."""

    async def prepare(self, host: str) -> None: ...

    async def run(self, host: str, operations: Sequence[Operation], epoch: int) -> Sequence[Answer]:
        return [{"op": one["op"], "status": "stale", "reason": "epoch 1 is stale"} for one in operations]


@pytest.mark.parametrize("kind", ["attach", "detach", "write", "probe", "observe"])
async def test_a_daemon_that_a_host_calls_stale_is_fenced(kind: str) -> None:
    hosts = Hosts(Overtaken(), SystemClock(), Epoch(1))
    with pytest.raises(Fenced, match="host h1: epoch 1 is stale"):
        await hosts.do("h1", [{"op": kind}])


class Tells:
    """A `Runner` to a host with one port."""

    def __init__(self, **port: object) -> None:
        self.port = {"task": "t", "app": "/web", "slot": 0, "instance": "i", "address": "10.0.0.2",
                     "prefix": 24, "generation": 1, **port}  # fmt: skip

    async def prepare(self, host: str) -> None: ...

    async def run(self, host: str, operations: Sequence[Operation], epoch: int) -> Sequence[Answer]:
        return [{"status": "done", "ports": [self.port]} for _ in operations]


@pytest.mark.parametrize(
    ("told", "fault"),
    [
        ({"connected": True, "alive": True}, None),
        ({"connected": False, "alive": False}, "the port leads to no container any more"),
        ({"connected": True, "alive": False}, "its container does not run any more"),
        ({"connected": True, "alive": True, "guarded": True}, None),
        ({"connected": True, "alive": True, "guarded": False}, "its guards are not in force"),
    ],
)
async def test_a_port_of_a_dead_container_is_at_fault_even_if_its_device_outlives_it(
    told: dict[str, bool], fault: str | None
) -> None:
    sink = NetworkSink(Hosts(Tells(**told), SystemClock(), Epoch(1)), ["h1"])
    assert (await sink.observe()).faults.get("10.0.0.2 on h1") == fault


class Ansible:
    """Stands in for ansible-runner: `hung` hosts give no result and hold their thread while `hold` is set."""

    def __init__(self) -> None:
        self.hung = {"hung-1", "hung-2", "hung-3"}
        self.begun: list[str] = []
        self.go_on = threading.Event()
        self.go_on.set()

    def run(self, *, limit: str, event_handler: Callable[[dict[str, Any]], bool], **_: Any) -> None:
        self.begun.append(limit)
        if limit in self.hung:
            assert self.go_on.wait(10)
            raise RuntimeError("no answer")
        event_handler({"event": "runner_on_ok", "event_data": {"res": {"results": [{"id": "o"}]}}})


async def test_hosts_that_hang_never_take_every_thread(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake = Ansible()
    monkeypatch.setattr(ansible.ansible_runner, "run", fake.run)
    runner = AnsibleRunner(Flying(tmp_path / "inventory", "mooring", "br", parallel=1))
    try:
        async with asyncio.timeout(10):
            for host in sorted(fake.hung):
                with pytest.raises(PlayFailed):
                    await runner.run(host, OBSERVE, 1)
            fake.go_on.clear()
            stuck = [asyncio.create_task(runner.run(host, OBSERVE, 1)) for host in sorted(fake.hung)]
            while len(fake.begun) < 4:
                await asyncio.sleep(0.01)
            assert await runner.run("healthy", OBSERVE, 1) == [{"id": "o"}]
            fake.hung.clear()
            fake.go_on.set()
            outcomes = await asyncio.gather(*stuck, return_exceptions=True)
            assert [isinstance(outcome, PlayFailed) for outcome in outcomes] == [True, False, False]
            assert await runner.run("hung-1", OBSERVE, 1) == [{"id": "o"}]
    finally:
        fake.go_on.set()
        await runner.close()
