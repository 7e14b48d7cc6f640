"""`mooring history` and `mooring who`, through a control socket, over a store that holds a small past."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from ipaddress import IPv6Address
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from mooring.controller import cli
from mooring.controller.control_client import ControlClient
from mooring.controller.doors import history as doors_history
from mooring.controller.store.memory import MemoryStore
from mooring.controller.tenure import Tenure, judge, tenure
from mooring.core.errors import Refused
from mooring.core.model import AppId, Epoch, HostName, InstanceId, PoolName
from mooring.core.store import Note
from mooring.ipam.pools import Pool, Pools
from tests.unit.fake_daemon import FakeDaemon, served
from tests.unit.fake_time import SteppedClock

Run = Callable[..., Result]
ADDRESS = "10.64.0.9"
WEB, API, A1, A2 = AppId("/shop/web"), AppId("/shop/api"), HostName("agent1"), HostName("agent2")
BEGIN = 1_795_140_000.0  # 2026-11-20T02:00:00Z


def note(
    minute: float,
    event: str,
    instance: str | None = "web.1",
    host: HostName = A1,
    app: AppId = WEB,
    **more: object,
) -> Note:
    who = None if instance is None else InstanceId(instance)
    return Note(
        BEGIN + 60 * minute, event, f"because {event}", ADDRESS, app, 3, who, host, PoolName("blue"), 12, 4, 7
    )


PAST = [
    note(0, "bound"),
    note(10, "moved", host=A2),
    note(13, "stranded", host=A2),
    note(20, "cooling"),
    note(25, "free"),
    note(30, "bound", "api.1", app=API),
]


async def stored(notes: Sequence[Note]) -> MemoryStore:
    store = MemoryStore()
    await store.open()
    await store.begin(Epoch(7))
    await store.commit(notes)
    return store


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    store = asyncio.run(stored([*PAST, Note(BEGIN, "bound", "another", "10.64.0.10", WEB, 4)]))
    clock = SteppedClock()
    clock.time = BEGIN + 3600
    pools = Pools([Pool.parse("both", "10.64.0.0/24", ipv6="fd00:64::/64")])
    routes = doors_history.routes(store, clock, Epoch(7), pools.leased)
    with served(tmp_path / "c.sock", FakeDaemon(), routes=routes):
        yield lambda *args: CliRunner().invoke(cli.main, ["--socket", str(tmp_path / "c.sock"), *args])


def at(minute: float) -> float:
    return BEGIN + 60 * minute


@pytest.mark.parametrize(
    ("minute", "found"),
    [
        (0, ("web.1", "bound", 0, 20)),
        (11, ("web.1", "moved", 0, 20)),
        (13, ("web.1", "stranded", 0, 20)),
        (99, ("api.1", "bound", 30, None)),
    ],
)
def test_possession_goes_on_over_moves(minute: float, found: tuple[str, str, float, float | None]) -> None:
    instance, event, since, until = found
    held = judge(ADDRESS, at(minute), PAST[::-1])
    assert held.holder
    assert held.note is not None
    assert (held.note.instance, held.note.event) == (instance, event)
    assert (held.since, held.until) == (at(since), None if until is None else at(until))


def test_between_two_hands_there_is_nobody() -> None:
    cooling = judge(ADDRESS, at(22), PAST[::-1])
    assert (cooling.holder, cooling.since, cooling.until) == (False, at(20), at(25))
    assert cooling.why == "because cooling"


def test_before_the_first_note_it_is_unknown() -> None:
    assert judge(ADDRESS, at(-1), PAST[::-1]) == Tenure(ADDRESS, at(-1), None, begins=at(0))
    assert judge(ADDRESS, at(0), []) == Tenure(ADDRESS, at(0), None)


def test_another_instance_after_another_is_another_hand() -> None:
    notes = [note(0, "bound"), note(5, "bound", "web.2")]
    assert judge(ADDRESS, at(6), notes[::-1]).since == at(5)
    assert judge(ADDRESS, at(1), notes[::-1]).until == at(5)


@given(st.integers(-3, 2100), st.integers(1, 2000))
def test_a_long_past_is_read_in_pages(minute: int, moves: int) -> None:
    notes = [note(0, "bound"), *(note(n, "moved") for n in range(1, moves)), note(moves, "free")]
    found = asyncio.run(asked(notes, at(minute)))
    assert found == judge(ADDRESS, at(minute), notes[::-1])


async def asked(notes: Sequence[Note], time: float) -> Tenure:
    return await tenure(await stored(notes), ADDRESS, time)


def test_who_has_it_and_who_had_it(run: Run) -> None:
    header, line = run("who", ADDRESS).output.splitlines()
    shown = dict(zip(header.split(), line.split(maxsplit=10), strict=True))
    assert (shown["APP"], shown["SLOT"], shown["INSTANCE"], shown["UNTIL"]) == (
        "/shop/api",
        "3",
        "api.1",
        "-",
    )
    _, line = run("who", ADDRESS, "--at", "2026-11-20T02:13Z").output.splitlines()
    assert line.split() == [
        ADDRESS, "/shop/web", "3", "web.1", "agent2", "blue", "12", "stranded",
        "2026-11-20T02:00:00Z", "2026-11-20T02:20:00Z", "because", "bound",
    ]  # fmt: skip
    assert (
        json.loads(run("who", ADDRESS, "--at", "2026-11-20T03:13+01:00", "--json").output)["holder"] is True
    )


@pytest.mark.parametrize("command", ["who", "history"])
def test_the_second_address_of_a_pair_has_the_past_of_the_first(run: Run, command: str) -> None:
    first, second = run(command, ADDRESS), run(command, str(IPv6Address(f"fd00:64::{ADDRESS}")))
    assert (second.exit_code, second.output) == (0, first.output)
    assert ADDRESS in first.output


def test_who_says_why_there_is_nobody(run: Run) -> None:
    assert run("who", ADDRESS, "--at", "2026-11-20T02:22:30Z").output == (
        f"{ADDRESS} at 2026-11-20T02:22:30Z: nobody: cooling since 2026-11-20T02:20:00Z "
        "until 2026-11-20T02:25:00Z, after /shop/web slot 3: because cooling\n"
    )
    assert (
        "unknown: its history begins at 2026-11-20T02:00:00Z"
        in run("who", ADDRESS, "--at", "2026-11-19").output
    )
    assert "unknown: it has no history" in run("who", "10.64.0.77").output


def test_a_time_without_a_zone_is_local(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setenv("TZ", "UTC+3")  # three hours behind
    time.tzset()
    try:
        assert "bound" in run("who", ADDRESS, "--at", "2026-11-19T23:01").output
        assert "unknown" in run("who", ADDRESS, "--at", "2026-11-19T22:59").output
    finally:
        monkeypatch.undo()
        time.tzset()


def test_history_of_an_address_of_an_app_and_until_a_time(run: Run) -> None:
    def events(*args: str) -> list[str]:
        return [row["event"] for row in json.loads(run("history", *args, "--json").output)]

    assert events(ADDRESS) == ["bound", "free", "cooling", "stranded", "moved", "bound"]
    assert events("/shop/api") == ["bound"]
    assert events(ADDRESS, "--until", "2026-11-20T02:13Z", "--limit", "2") == ["stranded", "moved"]
    assert events("--limit", "1") == ["bound"]
    assert events("10.64.0.77") == []
    assert "because moved" in run("history", ADDRESS).output


@pytest.mark.parametrize(
    "wrong",
    [
        ("history", "--limit", "0"),
        ("history", "10.64.0"),
        ("who", "nobody"),
        ("who", ADDRESS, "--at", "yesterday"),
        ("history", "--until", "2026-13-01"),
    ],
)
def test_what_makes_no_sense_is_wrong_usage(run: Run, wrong: tuple[str, ...]) -> None:
    assert run(*wrong).exit_code == 2


@pytest.mark.parametrize("query", ["/history?limit=many", "/history?limit=0", "/history?until=now"])
def test_the_daemon_refuses_it_too(run: Run, tmp_path: Path, query: str) -> None:
    with pytest.raises(Refused, match="is not a "):
        ControlClient(tmp_path / "c.sock").ask("GET", query, list[Note])
