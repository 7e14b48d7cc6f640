"""Hosts to ask what they promise to the daemon: the twin in memory, and the real module on a real switch."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from hashlib import sha256
from typing import Any, Protocol

import pytest

from mooring.handlers.memory_hosts import MemoryHosts
from tests.integration.host_module.rig import BRIDGE, HostRig, hosted, run

HOST, PORT = "h1", 8080
PREFIX6 = 64
_numbers = itertools.count(10)
Answer = Mapping[str, Any]


class Bench(Protocol):
    """A host, and what happens to it from outside."""

    async def do(self, *operations: Mapping[str, Any], epoch: int = 1) -> Sequence[Answer]: ...

    def start(self, task: str, *, shared: bool = False) -> None: ...

    def restart(self, task: str) -> None: ...

    def kill(self, task: str) -> None: ...

    def content(self, task: str, path: str) -> str: ...

    def forget_epoch(self) -> None: ...

    def stranger(self, address: str) -> AbstractContextManager[str]: ...

    def wire(self, task: str, address: str, vlan: int | None = None, beside: str = "") -> str: ...


class InMemory:
    def __init__(self) -> None:
        self.world = MemoryHosts([HOST])

    async def do(self, *operations: Mapping[str, Any], epoch: int = 1) -> Sequence[Answer]:
        return await self.world.run(HOST, operations, epoch)

    def start(self, task: str, *, shared: bool = False) -> None:
        self.world.place(HOST, task, listens=(PORT,), shared=shared)

    restart = start

    def kill(self, task: str) -> None:
        self.world.stop(HOST, task)

    def content(self, task: str, path: str) -> str:
        return self.world.hosts[HOST].containers[task].files[path]

    def forget_epoch(self) -> None:
        self.world.hosts[HOST].epoch = self.world.hosts[HOST].sequence = 0

    @contextmanager
    def stranger(self, address: str) -> Iterator[str]:
        self.world.strangers[address] = "0e:00:00:00:00:01"
        yield self.world.strangers[address]
        del self.world.strangers[address]

    def wire(self, task: str, address: str, vlan: int | None = None, beside: str = "") -> str:
        others = ((beside, PREFIX6),) if beside else ()
        return self.world.wire(HOST, task, address, gateway="10.64.0.1", vlan=vlan, beside=others).port


class OnRealSwitch:
    def __init__(self, rig: HostRig) -> None:
        self._rig = rig
        self._containers: dict[str, str] = {}

    async def do(self, *operations: Mapping[str, Any], epoch: int = 1) -> Sequence[Answer]:
        return self._rig.do(*operations, epoch=epoch)

    def start(self, task: str, *, shared: bool = False) -> None:
        network = "host" if shared else "none"
        self._containers[task] = self._rig.container(task, network=network)[1]

    def restart(self, task: str) -> None:
        self._rig.docker("restart", "-t", "0", self._containers[task])

    def kill(self, task: str) -> None:
        self._rig.docker("kill", self._containers[task])

    def content(self, task: str, path: str) -> str:
        return self._rig.inside(self._containers[task], "cat", path)

    def forget_epoch(self) -> None:
        self._rig.vsctl("clear", "Bridge", BRIDGE, "external_ids")

    def stranger(self, address: str) -> AbstractContextManager[str]:
        return self._rig.stranger(address)

    def wire(self, task: str, address: str, vlan: int | None = None, beside: str = "") -> str:
        """As a script does it."""
        process = self._rig.docker("inspect", "--format={{ .State.Pid }}", self._containers[task])
        port, inside = f"veth1pl{process}", ("nsenter", f"--net=/proc/{process}/ns/net", "ip")
        run("ip", "-n", self._rig.name, "link", "add", port, "type", "veth",
            "peer", "name", "eth1", "netns", process)  # fmt: skip
        run("ip", "-n", self._rig.name, "link", "set", port, "up")
        run(*inside, "address", "add", f"{address}/22", "dev", "eth1")
        if beside:
            run(*inside[:-1], "sysctl", "-qw", "net.ipv6.conf.eth1.disable_ipv6=0")
            run(*inside, "address", "add", f"{beside}/{PREFIX6}", "dev", "eth1", "nodad")
        run(*inside, "link", "set", "eth1", "up")
        run(*inside, "route", "add", "default", "via", "10.64.0.1")
        self._rig.vsctl("add-port", BRIDGE, port, *([f"tag={vlan}"] if vlan else []))
        return port


@pytest.fixture(scope="module")
def rig() -> Iterator[HostRig]:
    with hosted() as made:
        yield made


@pytest.fixture(params=["memory", pytest.param("real", marks=pytest.mark.root)])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    bench = InMemory() if request.param == "memory" else OnRealSwitch(request.getfixturevalue("rig"))
    yield bench
    bench.forget_epoch()


def _address(number: int) -> str:
    return f"10.64.{1 + number // 250}.{1 + number % 250}"


def order(task: str, **changes: Any) -> dict[str, Any]:
    """An attach with an address and an instance of its own."""
    number = next(_numbers)
    return {
        "op": "attach", "id": f"b{number}", "task_id": task, "app": "/shop/web", "slot": number,
        "instance": f"shop_web.instance-{number}", "address": _address(number), "prefix": 22,
        "gateway": "10.64.0.1", "routes": [{"to": "10.0.0.0/8", "via": "10.64.0.1"}], "vlan": None,
        "mtu": None, "generation": 1, **changes,
    }  # fmt: skip


def removal(attach: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """The detach that belongs to an attach."""
    keys = {key: attach[key] for key in ("instance", "address")}
    return {"op": "detach", "id": "d", **keys, **changes}


def file(task: str, content: str, **changes: Any) -> dict[str, Any]:
    digest = sha256(content.encode()).hexdigest()
    return {"op": "write", "id": "w", "task_id": task, "path": "/tmp/peers", "content": content,
            "digest": digest, "mode": "0644", "command": None, "signal": None, **changes}  # fmt: skip


def probe(attach: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    return {"op": "probe", "id": "p", "task_id": attach["task_id"], "address": attach["address"],
            "ports": [PORT], "timeout_s": 1.0, **changes}  # fmt: skip


async def ports(bench: Bench, address: str) -> list[Answer]:
    """Our ports that carry the address."""
    [report] = await bench.do({"op": "observe", "id": "o"})
    return [port for port in report["ports"] if port["address"] == address]


def task_of(number: int) -> str:
    return f"shop_web.instance-{number}._app.1"


async def attached(bench: Bench, **changes: Any) -> tuple[dict[str, Any], str]:
    """A container that was attached: (order, port name)."""
    task = task_of(next(_numbers))
    bench.start(task)
    asked = order(task, **changes)
    [answer] = await bench.do(asked)
    assert (answer["status"], answer["changed"]) == ("done", True), answer
    return asked, str(answer["port"])


def verdict(answer: Answer) -> tuple[str, bool]:
    return answer["status"], answer["changed"]
