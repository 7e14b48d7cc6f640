"""What only a real HAProxy can show: reloads spared, connections finished, faults kept to themselves."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from mooring.core.clock import SystemClock
from mooring.core.errors import Refused
from mooring.core.model import BindingId, Epoch
from mooring.core.sink import Done, NotPossible, RetryAfter
from mooring.core.specs import Endpoint
from mooring.lb import haproxy_render
from mooring.lb.files import read_mark
from mooring.lb.haproxy import HaproxySink
from mooring.lb.haproxy_runtime import Cli, ReloadFailed, Runtime, SocketAway, parse_servers
from mooring.lb.model import member_key
from tests.contract.balancers import (
    WEB,
    HaproxyBench,
    Members,
    change,
    eventually,
    free_port,
    running,
)

HOST = "web.example.org"
OTHER = msgspec.structs.replace(WEB, app="/other", vhosts=("other.example.org",))


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[HaproxyBench]:
    async with running("haproxy", tmp_path) as started:
        assert isinstance(started, HaproxyBench)
        yield started


@pytest.fixture
async def members() -> AsyncIterator[Members]:
    group = Members(6)
    await group.start()
    yield group
    await group.stop()


@pytest.fixture
async def sink(bench: HaproxyBench, members: Members) -> HaproxySink:
    """A sink that serves member 0 already."""
    fresh = bench.sink()
    await fresh.prime({})
    assert await fresh.apply([change("first", members.spec(0, "up"))]) == [Done()]
    return fresh


def worker(bench: HaproxyBench) -> Cli:
    return Cli(bench.settings.runtime_socket, 5.0)


async def servers(bench: HaproxyBench) -> dict[str, str]:
    rows = parse_servers(await worker(bench).ask("show servers state"))
    return {name: server.state for (_, name), server in rows.items()}


async def test_members_come_and_go_without_a_reload(
    bench: HaproxyBench, sink: HaproxySink, members: Members
) -> None:
    before = await bench.workers()
    assert await sink.apply([change("b", members.spec(1, "up"))]) == [Done()]
    assert {await bench.get(HOST) for _ in range(6)} == set(members.addresses[:2])
    assert await sink.apply([change("b", None, members.spec(1, "up"))]) == [Done()]
    assert len(await servers(bench)) == 1
    assert await bench.workers() == before


async def test_added_members_and_their_states_survive_a_reload(
    bench: HaproxyBench, sink: HaproxySink, members: Members
) -> None:
    await sink.apply([change("b", members.spec(1, "up")), change("c", members.spec(2, "up"))])
    await sink.apply([change("c", members.spec(2, "drain"), members.spec(2, "up"))])
    before = await servers(bench)
    assert await sink.apply([change("o", members.spec(3, "declared", OTHER))]) == [Done()]
    after = await servers(bench)
    assert before.items() <= after.items()
    assert sorted(after.values()) == ["declared", "drain", "up", "up"]


async def test_a_request_in_flight_ends_well(
    bench: HaproxyBench, sink: HaproxySink, members: Members
) -> None:
    held = asyncio.create_task(bench.get(HOST, "/held"))

    async def arrived() -> bool:
        return members.held == 1

    await eventually(arrived, "the held request's arrival")
    up = members.spec(0, "up")
    assert await sink.apply([change("first", None, up), change("b", members.spec(1, "up"))]) == [Done()] * 2
    assert "declared" in (await servers(bench)).values()  # in use: taken out, not deleted
    assert await sink.apply([change("o", members.spec(3, "up", OTHER))]) == [Done()]  # reloads
    assert len(await servers(bench)) == 2
    members.hold.set()
    assert await held == members.addresses[0]


async def test_leftovers_are_collected_without_a_reload(
    bench: HaproxyBench, sink: HaproxySink, members: Members
) -> None:
    held = asyncio.create_task(bench.get(HOST, "/held"))

    async def arrived() -> bool:
        return members.held == 1

    await eventually(arrived, "the held request's arrival")
    before = await bench.workers()
    await sink.apply([change("b", members.spec(1, "up")), change("first", None, members.spec(0, "up"))])
    assert len(await servers(bench)) == 2
    members.hold.set()
    await held

    async def collected() -> bool:
        await sink.apply([change("b", members.spec(1, "up"))])
        return len(await servers(bench)) == 1

    await eventually(collected, "the leftover's deletion")
    assert await bench.workers() == before


async def test_a_service_haproxy_refuses_is_left_out_alone(
    bench: HaproxyBench, sink: HaproxySink, members: Members, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(haproxy_render._BALANCE, "first", ("balance nonsense",))
    bad = msgspec.structs.replace(WEB, app="/bad", vhosts=("bad.example.org",), balance="first")
    worse = msgspec.structs.replace(bad, app="/worse", vhosts=("worse.example.org",))
    outcomes = await sink.apply(
        [
            change("x", members.spec(1, "up", bad)),
            change("o", members.spec(2, "up", OTHER)),
            change("y", members.spec(3, "up", worse)),
            change("b", members.spec(4, "up")),
        ]
    )
    assert [type(outcome) for outcome in outcomes] == [NotPossible, Done, NotPossible, Done]
    assert "/bad" in outcomes[0].reason  # type: ignore[union-attr]
    assert await bench.get("other.example.org") == members.addresses[2]
    assert await bench.get("bad.example.org") is None
    assert "nonsense" not in bench.settings.config.read_text()


async def test_a_stored_service_haproxy_refuses_does_not_stop_the_others(
    bench: HaproxyBench, sink: HaproxySink, members: Members, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(haproxy_render._BALANCE, "first", ("balance nonsense",))
    bad = msgspec.structs.replace(WEB, app="/bad", vhosts=("bad.example.org",), balance="first")
    again = bench.sink()
    await again.prime(
        {BindingId("first"): [members.spec(0, "up")], BindingId("x"): [members.spec(1, "up", bad)]}
    )
    assert await again.apply([change("o", members.spec(2, "up", OTHER))]) == [Done()]
    assert await bench.get(HOST) == members.addresses[0]
    assert await bench.get("other.example.org") == members.addresses[2]


async def test_an_operators_mistake_changes_nothing(
    bench: HaproxyBench, sink: HaproxySink, members: Members
) -> None:
    before = bench.settings.config.read_text()
    broken = HaproxySink(replace(bench.settings, extra_global=("nonsense 5",)), SystemClock())
    await broken.prime({BindingId("first"): [members.spec(0, "up")]})
    with pytest.raises(Refused, match="even without any service"):
        await broken.apply([change("b", members.spec(1, "up"))])
    assert bench.settings.config.read_text() == before
    assert await bench.get(HOST) == members.addresses[0]


async def test_a_port_of_another_process_is_found_before_the_reload(
    bench: HaproxyBench, sink: HaproxySink, members: Members
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        taken = msgspec.structs.replace(
            WEB, app="/tcp", mode="tcp", vhosts=(), port=stranger.getsockname()[1]
        )
        reloads = await bench.reloads()
        waiting, served = await sink.apply(
            [change("t", members.spec(1, "up", taken)), change("b", members.spec(2, "up"))]
        )
        assert isinstance(waiting, RetryAfter)
        assert str(taken.port) in waiting.reason
        assert served == Done()
        assert await bench.reloads() == reloads
    assert await sink.apply([change("t", members.spec(1, "up", taken))]) == [Done()]
    assert await bench.get_port(taken.port) == members.addresses[1]


async def test_a_failed_reload_brings_the_old_file_back(
    bench: HaproxyBench, sink: HaproxySink, members: Members, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mooring.lb.listeners.foreign_ports", lambda *_: frozenset())
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        taken = msgspec.structs.replace(
            WEB, app="/tcp", mode="tcp", vhosts=(), port=stranger.getsockname()[1]
        )
        waiting, served = await sink.apply(
            [change("t", members.spec(1, "up", taken)), change("b", members.spec(2, "up"))]
        )
    assert isinstance(waiting, RetryAfter)
    assert "could not load" in waiting.reason
    assert served == Done()
    assert "/tcp" not in bench.settings.config.read_text()
    assert {await bench.get(HOST) for _ in range(6)} == {members.addresses[0], members.addresses[2]}


async def test_tcp_services_are_balanced(bench: HaproxyBench, sink: HaproxySink, members: Members) -> None:
    service = msgspec.structs.replace(WEB, app="/tcp", mode="tcp", vhosts=(), port=free_port())
    assert await sink.apply([change("t", members.spec((1, 2), "up", service))]) == [Done()]
    assert {await bench.get_port(service.port) for _ in range(6)} == set(members.addresses[1:3])


async def test_somebody_elses_hand_is_corrected(
    bench: HaproxyBench, sink: HaproxySink, members: Members
) -> None:
    path = member_key(Endpoint(WEB, members.addresses[0], members.port))
    await worker(bench).ask(f"set server {path} addr 127.10.0.5 port 1", f"set server {path} state maint")
    with bench.settings.config.open("a") as file:
        file.write("# a remark\n")
    assert await sink.apply([change("b", members.spec(1, "declared"))]) == [Done()]
    assert await bench.get(HOST) == members.addresses[0]
    assert "# a remark" not in bench.settings.config.read_text()


async def test_somebody_elses_hand_is_seen_and_the_same_change_again_mends_it(
    bench: HaproxyBench, sink: HaproxySink, members: Members
) -> None:
    path = member_key(Endpoint(WEB, members.addresses[0], members.port))
    up = (await sink.observe()).shown[path]
    spec = members.spec(0, "up")
    for hand in (
        f"disable server {path}",
        f"set server {path} state drain",
        f"set server {path} addr 127.10.0.5",
    ):
        await worker(bench).ask(hand)
        assert (await sink.observe()).shown[path] != up
        assert await sink.apply([change("a", spec, spec)]) == [Done()]
        assert (await sink.observe()).shown[path] == up


async def test_while_haproxy_is_away_the_file_is_kept_right(
    bench: HaproxyBench, sink: HaproxySink, members: Members
) -> None:
    await bench.lose()
    (outcome,) = await sink.apply([change("b", members.spec(1, "up"), epoch=7)])
    assert isinstance(outcome, RetryAfter)
    assert str(bench.settings.runtime_socket) in outcome.reason
    mark = read_mark(bench.settings.config.read_text())
    assert mark is not None
    assert (mark.owner, mark.epoch) == ("contract", Epoch(7))
    with pytest.raises(SocketAway):
        await sink.check()
    await bench.start()
    assert {await bench.get(HOST) for _ in range(6)} == set(members.addresses[:2])


async def test_a_reload_that_shows_another_structure_is_no_success(bench: HaproxyBench) -> None:
    runtime = Runtime(worker(bench), bench.master, SystemClock(), reload_timeout_s=0.5)
    with pytest.raises(ReloadFailed):
        await runtime.reload("0123456789abcdef")
