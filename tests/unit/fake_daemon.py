"""A daemon's outside: a read model and commands over plain values, and a control server in a thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from aiohttp import web

from mooring.controller.control import ControlServer, Policy
from mooring.core.errors import Refused
from mooring.core.model import AppId, BindingId, HostName, Lease, LeaseState, PoolName
from mooring.core.readmodel import EVERYTHING, InstanceRow, Overview, Phase, PoolRow, SinkRow, Vitals

LEASE = Lease(
    "10.64.0.9", PoolName("blue"), LeaseState.BOUND, AppId("/shop/web"), 0,
    BindingId("shop_web.instance-1"), HostName("agent1"), 3, 1_700_000_000.0,
)  # fmt: skip


def row(app: str = "/shop/web", slot: int | None = 0, **changes: object) -> InstanceRow:
    """An instance that serves and is in step."""
    instance, address = f"{app[1:].replace('/', '_')}.instance-{slot}", f"10.64.0.{9 + (slot or 0)}"
    serving = InstanceRow(
        app, slot, instance, 1, "task", "agent1", address, "blue", "running", "healthy", "bound",
        Phase.SERVING,
        {"network": SinkRow("agent1", "agent1", True), "haproxy": SinkRow("up", "up", True)},
    )  # fmt: skip
    return replace(serving, **changes)  # type: ignore[arg-type]


def unsettled(app: str = "/shop/web", slot: int = 1) -> InstanceRow:
    """An instance that is wired and not yet in the balancer."""
    sinks = {"network": SinkRow("agent1", "agent1", True), "haproxy": SinkRow("up", "declared", False)}
    return row(app, slot, sinks=sinks, phase=Phase.WIRING, problem="haproxy: connection refused")


class FakeDaemon:
    """Implements `ReadModel` and `Commands`; set its attributes to what it shall answer."""

    def __init__(self) -> None:
        self.rows: list[InstanceRow] = [row()]
        self.refused: dict[str, str] = {}
        self.reasons: list[str] = []
        self.paused: set[str] = set()
        self.asked = 0
        self.vanishing = 0  # how many more the brake holds when it is to be released
        self.of_instances = Overview(
            "1.2.3", 7, "mooring", False, (), None, "attached to http://m1:8080", 12.0
        )
        self.numbers = Vitals(
            64, 5, (0.5, 2.0), True, 1_700_000_100.0, {"applied": {"status_update_event": 9}}, {"json": 1},
            {"haproxy": 1, "network": 0}, adds=11, retries=4, reconnects=2, behind=3, max_behind=70, held=6,
            unready={"stream": False, "brake": True},
            hosts={"answering": 2, "silent": 1, "fenced": 0},
        )  # fmt: skip

    def instances(self) -> Sequence[InstanceRow]:
        self.asked += 1
        return self.rows

    def refusals(self) -> Mapping[str, str]:
        return self.refused

    def leases(self) -> Sequence[Lease]:
        return [LEASE]

    def pools(self) -> Sequence[PoolRow]:
        return [PoolRow("blue", "10.64.0.0/22", 12, "10.64.0.1", 1021, 1000, {"bound": 20, "cooling": 1})]

    def readiness(self) -> Sequence[str]:
        return self.reasons

    def overview(self) -> Overview:
        return replace(self.of_instances, paused=tuple(sorted(self.paused)))

    def vitals(self) -> Vitals:
        return self.numbers

    async def pause(self, app: AppId | None) -> None:
        if app == "/unknown":
            raise Refused("app /unknown: Marathon has no such app")
        self.paused.add(app or EVERYTHING)

    async def resume(self, app: AppId | None) -> None:
        self.paused.discard(app or EVERYTHING)

    async def release_brake(self, held: int) -> None:
        if self.of_instances.brake is None:
            raise Refused("the brake is off; there is nothing to release")
        if self.of_instances.held + self.vanishing > held:
            raise Refused(f"{self.of_instances.held + self.vanishing} are held by now, not {held}")
        self.of_instances = replace(self.of_instances, brake=None, held=0)


@contextmanager
def served(
    path: Path,
    daemon: FakeDaemon,
    *,
    group: str | None = None,
    policy: Policy | None = None,
    routes: Iterable[web.RouteDef] = (),
) -> Iterator[ControlServer]:
    """A control server for the daemon, in an event loop and thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="daemon")
    thread.start()
    server = ControlServer(path, daemon, daemon, group=group, policy=policy, routes=routes)
    try:
        asyncio.run_coroutine_threadsafe(server.start(), loop).result(10)
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(server.close(), loop).result(10)
        asyncio.run_coroutine_threadsafe(loop.shutdown_default_executor(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
