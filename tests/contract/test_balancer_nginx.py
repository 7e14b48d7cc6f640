"""What only a real Nginx can show: generations, proofs of reloads, and ways back."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from mooring.core.clock import SystemClock
from mooring.core.errors import Refused
from mooring.core.sink import Done, NotPossible, RetryAfter
from mooring.lb import nginx_render
from mooring.lb.nginx import NginxSink
from mooring.lb.nginx_process import NginxAway
from tests.contract.balancers import (
    WEB,
    Members,
    NginxBench,
    change,
    eventually,
    running,
)

HOST = "web.example.org"
OTHER = msgspec.structs.replace(WEB, app="/other", vhosts=("other.example.org",))


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[NginxBench]:
    async with running("nginx", tmp_path) as started:
        assert isinstance(started, NginxBench)
        yield started


@pytest.fixture
async def members() -> AsyncIterator[Members]:
    group = Members(5)
    await group.start()
    yield group
    await group.stop()


@pytest.fixture
async def sink(bench: NginxBench, members: Members) -> NginxSink:
    """A sink that serves member 0 already."""
    fresh = bench.sink()
    await fresh.prime({})
    assert await fresh.apply([change("first", members.spec(0, "up"))]) == [Done()]
    return fresh


def live(bench: NginxBench) -> str:
    return os.readlink(bench.settings.root / "current")


async def test_a_change_needs_new_workers_under_the_same_master(
    bench: NginxBench, sink: NginxSink, members: Members
) -> None:
    master, before = bench.settings.pid_file.read_text(), bench.workers()
    assert await sink.apply([change("b", members.spec(1, "up"))]) == [Done()]
    assert bench.settings.pid_file.read_text() == master
    assert not bench.workers() & before


async def test_members_that_take_no_traffic_cost_no_reload(
    bench: NginxBench, sink: NginxSink, members: Members
) -> None:
    before = bench.workers()
    assert await sink.apply([change("b", members.spec(1, "declared"))]) == [Done(changed=False)]
    assert bench.workers() == before


async def test_tcp_services_are_none_of_its_business(
    bench: NginxBench, sink: NginxSink, members: Members
) -> None:
    service = msgspec.structs.replace(WEB, app="/tcp", mode="tcp", vhosts=(), port=9000)
    before = live(bench)
    assert await sink.apply([change("t", members.spec(1, "up", service))]) == [Done(changed=False)]
    assert live(bench) == before


async def test_only_the_live_generation_and_the_one_before_are_kept(
    bench: NginxBench, sink: NginxSink, members: Members
) -> None:
    seen = [live(bench)]
    for number in (1, 2, 3):
        await sink.apply([change("b", members.spec(number, "up"))])
        seen.append(live(bench))
    shelf = bench.settings.root / "generations"
    kept = {f"generations/{path.name}" for path in shelf.iterdir() if path.name != "initial"}
    assert kept == set(seen[-2:])


async def test_a_service_nginx_refuses_is_left_out_alone(
    bench: NginxBench, sink: NginxSink, members: Members, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(nginx_render._BALANCE, "first", "nonsense;")
    bad = msgspec.structs.replace(WEB, app="/bad", vhosts=("bad.example.org",), balance="first")
    refused, served, more = await sink.apply(
        [
            change("x", members.spec(1, "up", bad)),
            change("o", members.spec(2, "up", OTHER)),
            change("b", members.spec(3, "up")),
        ]
    )
    assert isinstance(refused, NotPossible)
    assert "nonsense" in refused.reason
    assert (served, more) == (Done(), Done())
    assert await bench.get("other.example.org") == members.addresses[2]
    assert await bench.get("bad.example.org") is None


async def test_an_operators_mistake_changes_nothing(
    bench: NginxBench, sink: NginxSink, members: Members
) -> None:
    before = live(bench)
    broken = NginxSink(replace(bench.settings, extra_http=("nonsense;",)), SystemClock())
    await broken.prime({})
    with pytest.raises(Refused, match="even without any service"):
        await broken.apply([change("b", members.spec(1, "up"))])
    assert live(bench) == before
    assert await bench.get(HOST) == members.addresses[0]


async def test_a_port_of_another_process_is_found_before_the_reload(
    bench: NginxBench, sink: NginxSink, members: Members
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        taken = msgspec.structs.replace(WEB, app="/port", vhosts=(), port=stranger.getsockname()[1])
        waiting, served = await sink.apply(
            [change("t", members.spec(1, "up", taken)), change("b", members.spec(2, "up"))]
        )
        assert isinstance(waiting, RetryAfter)
        assert str(taken.port) in waiting.reason
        assert served == Done()
    assert await sink.apply([change("t", members.spec(1, "up", taken))]) == [Done()]
    assert await bench.get_port(taken.port) == members.addresses[1]


async def test_a_reload_without_proof_is_taken_back(
    bench: NginxBench, sink: NginxSink, members: Members, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mooring.lb.listeners.foreign_ports", lambda *_: frozenset())
    hasty = NginxSink(replace(bench.settings, reload_timeout_s=1.0), SystemClock())
    await hasty.prime({})
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        taken = msgspec.structs.replace(WEB, app="/port", vhosts=(), port=stranger.getsockname()[1])
        before = live(bench)
        outcomes = await hasty.apply([change("t", members.spec(1, "up", taken))])
        assert isinstance(outcomes[0], RetryAfter)
        assert "/port" not in (bench.settings.root / "current" / "nginx.conf").read_text()
    assert live(bench) == before or (bench.settings.root / before).exists()

    async def works_again() -> bool:
        (outcome,) = await sink.apply([change("b", members.spec(2, "up"))])
        return outcome == Done()

    await eventually(works_again, "a reload after the failed one")
    assert await bench.get(HOST) in {members.addresses[0], members.addresses[2]}


async def test_a_request_in_flight_ends_well(bench: NginxBench, sink: NginxSink, members: Members) -> None:
    held = asyncio.create_task(bench.get(HOST, "/held"))

    async def arrived() -> bool:
        return members.held == 1

    await eventually(arrived, "the held request's arrival")
    up = members.spec(0, "up")
    assert await sink.apply([change("first", members.spec(0, "drain"), up)]) == [Done()]
    assert await bench.get(HOST) is None
    members.hold.set()
    assert await held == members.addresses[0]


async def test_a_killed_nginx_can_start_again(bench: NginxBench, sink: NginxSink, members: Members) -> None:
    await bench.lose()
    assert bench.settings.status_socket.exists()
    (outcome,) = await sink.apply([change("b", members.spec(1, "up"))])
    assert isinstance(outcome, RetryAfter)
    assert str(bench.settings.pid_file) in outcome.reason
    assert not bench.settings.status_socket.exists()  # it would keep Nginx from starting
    with pytest.raises(NginxAway):
        await sink.check()
    await bench.start()
    assert {await bench.get(HOST) for _ in range(12)} == set(members.addresses[:2])


async def test_a_stranger_behind_the_pid_file_gets_no_signal(
    bench: NginxBench, sink: NginxSink, members: Members
) -> None:
    received: list[int] = []
    signal.signal(signal.SIGHUP, lambda number, _: received.append(number))
    try:
        kept = bench.settings.pid_file.read_text()
        bench.settings.pid_file.write_text(f"{os.getpid()}\n")
        (outcome,) = await sink.apply([change("b", members.spec(1, "up"))])
        bench.settings.pid_file.write_text(kept)
    finally:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    assert isinstance(outcome, RetryAfter)
    assert received == []


async def test_current_must_be_a_symlink(bench: NginxBench, sink: NginxSink, members: Members) -> None:
    current = bench.settings.root / "current"
    current.unlink()
    current.mkdir()
    with pytest.raises(Refused, match="must be a symlink"):
        await sink.apply([change("b", members.spec(1, "up"))])
