"""The portal's endpoints, over real HTTP."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import time
from collections.abc import AsyncIterator

import pytest
from aiohttp import ClientSession, web
from prometheus_client import CollectorRegistry

from mooring.core.clock import SystemClock
from mooring.core.errors import Refused
from mooring.portal.http import make_app, serve
from mooring.portal.metrics import Metrics
from mooring.portal.pulse import EVERY_S, Pulse, start
from mooring.portal.turns import Turns
from tests.unit.fake_daemon import FakeDaemon
from tests.unit.fake_time import SteppedClock


class Portal:
    """A portal on a free port."""

    def __init__(self) -> None:
        self.daemon = FakeDaemon()
        self.clock = SteppedClock()
        self.metrics = Metrics(CollectorRegistry(), "1.2.3", framer="c")
        self.pulse = Pulse(self.clock)
        self.metrics.collect_from(self.daemon, self.pulse, Turns())

    async def listen(self) -> web.AppRunner:
        runner = await serve(make_app(self.daemon, self.metrics.registry, self.pulse), "127.0.0.1", 0)
        self.port: int = runner.addresses[0][1]
        return runner

    async def get(self, path: str) -> tuple[int, str, str]:
        async with ClientSession() as session, session.get(f"http://127.0.0.1:{self.port}{path}") as reply:
            return reply.status, await reply.text(), reply.headers["Content-Type"]


@pytest.fixture
async def portal() -> AsyncIterator[Portal]:
    made = Portal()
    runner = await made.listen()
    yield made
    await runner.cleanup()


async def test_healthz_follows_the_pulse_and_nothing_else(portal: Portal) -> None:
    portal.daemon.reasons = ["Marathon is away"]
    assert (await portal.get("/healthz"))[:2] == (200, "alive\n")
    portal.clock.step(30.0)
    status, text, _ = await portal.get("/healthz")
    assert (status, text) == (503, "the event loop stood still for 30.0 s\n")


async def test_readyz_lists_every_reason(portal: Portal) -> None:
    assert (await portal.get("/readyz"))[:2] == (200, "ready\n")
    portal.daemon.reasons = ["no snapshot yet", "the stream is not attached"]
    assert (await portal.get("/readyz"))[:2] == (503, "no snapshot yet\nthe stream is not attached\n")


async def test_metrics_are_in_prometheus_own_form(portal: Portal) -> None:
    status, text, kind = await portal.get("/metrics")
    assert status == 200
    assert kind.startswith("text/plain; version=")
    assert 'mooring_build_info{framer="c",version="1.2.3"} 1.0' in text


async def test_promtool_finds_nothing_wrong(portal: Portal) -> None:
    portal.metrics.reconciled("success", 0.1)
    portal.metrics.snapshot_taken("merged")
    _, text, _ = await portal.get("/metrics")
    ours = "".join(line for line in text.splitlines(keepends=True) if "mooring" in line)
    lint = await asyncio.to_thread(
        subprocess.run,
        ["promtool", "check", "metrics"],
        input=ours,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (lint.returncode, lint.stdout + lint.stderr) == (0, "")


async def test_a_taken_port_is_refused_with_its_setting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Refused, match=rf"cannot listen on 127\.0\.0\.1:{port}: .*portal\.port"):
            await serve(web.Application(), "127.0.0.1", port)


class TestPulse:
    async def test_a_punctual_loop_has_no_lag(self) -> None:
        clock = SteppedClock()
        pulse = Pulse(clock)
        beating = start(pulse)
        for _ in range(5):
            await asyncio.sleep(0)
        beating.cancel()
        assert pulse.lag_s == 0
        assert pulse.silence_s <= EVERY_S

    async def test_a_blocked_loop_shows(self) -> None:
        pulse = Pulse(SystemClock())
        beating = start(pulse)
        await asyncio.sleep(0)
        time.sleep(EVERY_S + 0.2)  # what no callback may do
        assert pulse.lag_s >= 0.15
        beating.cancel()
